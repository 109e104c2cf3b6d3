"""What a run tells while it runs: a line an iteration, and a callback for histories. Off, both leave no trace."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["History", "call_back", "print_line"]

_SHOWN = ("error", "value", "stepsize")


def print_line(name: str, state: Any) -> None:
    """Print one line for the iteration that gave ``state``; works inside compiled code.

    Args:
        name: of the solver.
        state: a named tuple; ``iter_num`` and those of ``error``, ``value`` and ``stepsize`` it has are shown.
    """
    shown = {key: getattr(state, key) for key in _SHOWN if _is_scalar(getattr(state, key, None))}
    line = "".join(f"  {key} {{{key}:.6e}}" for key in shown)
    jax.debug.print(name + ": iter {iter_num:4d}" + line, iter_num=state.iter_num, **shown)


def _is_scalar(x) -> bool:
    return x is not None and jnp.ndim(x) == 0


def call_back(callback: Callable, params: Any, state: Any) -> None:
    """Call ``callback(params, state)`` on the host; works inside compiled code, which holds the callback weakly."""
    try:
        reference = weakref.ref(callback)
    except TypeError:
        reference = lambda: callback  # noqa: E731  # same shape as a weak reference

    def deliver(params, state):
        target = reference()
        if target is not None:
            target(params, state)

    jax.debug.callback(deliver, params, state)


class History:
    """Records fields of the state at every iteration, also of a run under ``jit``.

    Hand one to a solver as its ``callback``. Records are kept in the order of the iterations. A new run is recognised
    by its iteration number starting again, and starts the record again.

    Args:
        *names: fields of the state to record; ``"params"`` records the iterate.

    Example:
        >>> import jax.numpy as jnp, jaxsolve
        >>> history = jaxsolve.History("value", "error")
        >>> solver = jaxsolve.GradientDescent(lambda x: jnp.sum((x - 1.0) ** 2), callback=history)
        >>> _ = solver.run(jnp.zeros(2))
        >>> len(history["value"]) == len(history["iter_num"])
        True
    """

    def __init__(self, *names: str):
        if not all(isinstance(name, str) for name in names):
            raise TypeError(f"History takes names of state fields, got {names!r}.")
        self._names = tuple(dict.fromkeys(("iter_num", *(names or ("value", "error")))))
        self._records: dict[int, dict[str, Any]] = {}

    def __call__(self, params: Any, state: Any) -> None:
        """Record one iteration; the solver calls it."""
        iter_num = int(state.iter_num)
        if iter_num in self._records:
            self._records.clear()
        record = {name: _field(name, params, state) for name in self._names}
        self._records[iter_num] = jax.tree.map(np.asarray, record)

    def __getitem__(self, name: str) -> Any:
        """The record of one field: an array with one entry an iteration (a list for pytrees)."""
        jax.effects_barrier()
        if name not in self._names:
            raise KeyError(f"{name!r} is not recorded; recorded are {', '.join(self._names)}.")
        values = [self._records[i][name] for i in sorted(self._records)]
        return np.stack(values) if values and isinstance(values[0], np.ndarray) else values

    def __len__(self) -> int:
        jax.effects_barrier()
        return len(self._records)


def _field(name, params, state):
    if name == "params":
        return params
    if not hasattr(state, name):
        raise ValueError(f"{type(state).__name__} has no field {name!r}; it has {', '.join(state._fields)}.")
    return getattr(state, name)
