"""What a run tells while it runs: a line an iteration, and a callback for histories. Off, both leave no trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

__all__ = ["History", "call_back", "line_printer"]

_SHOWN = ("error", "value", "stepsize")


def line_printer(name: str) -> Callable:
    """A callback that prints one line for an iteration.

    Args:
        name: of the solver. Of the state ``iter_num`` is shown, and those of ``error``, ``value`` and ``stepsize`` that
            it has.
    """

    def show(params, state):
        del params
        shown = {key: getattr(state, key, None) for key in _SHOWN}
        line = "".join(f"  {key} {x:.6e}" for key, x in shown.items() if x is not None and np.ndim(x) == 0)
        print(f"{name}: iter {int(state.iter_num):4d}{line}", flush=True)

    return show


def call_back(callback: Callable, params: Any, state: Any, active: jax.Array) -> None:
    """Call ``callback(params, state)`` on the host if ``active``; works inside compiled code, which holds the callback.

    Under ``vmap`` the callback is called once for each active batch element, in order; or once for all of them, as
    ``callback.batch(params, state, active)``, if it has such a method. Steps that run again for the derivative of a
    checkpointed loop do not call.
    """
    _teller(callback, 0)(*lax.stop_gradient((active, params, state)))


def _teller(callback, depth):
    # `custom_vmap` for two reasons: it tells of the batch, and its effects are not repeated by `jax.checkpoint`.
    @custom_vmap
    def tell(active, params, state):
        jax.debug.callback(deliver, active, params, state)
        return ()

    def deliver(active, params, state):
        if depth == 0:
            if active:
                callback(params, state)
        elif hasattr(callback, "batch"):
            callback.batch(params, state, np.asarray(active))
        else:
            for index in map(tuple, np.argwhere(np.asarray(active))):
                callback(*jax.tree.map(lambda x: x[index], (params, state)))  # noqa: B023  # used at once

    @tell.def_vmap
    def _(axis_size, in_batched, *arguments):
        def in_batch(x, batched):
            return x if batched else jnp.broadcast_to(x, (axis_size, *jnp.shape(x)))

        _teller(callback, depth + 1)(*jax.tree.map(in_batch, arguments, tuple(in_batched)))
        return (), ()

    return tell


class History:
    """Records fields of the state at every iteration, also of a run under ``jit``.

    Hand one to a solver as its ``callback``. Records are kept in the order of the iterations. A new run is recognized
    by its iteration number starting again, and starts the record again. Under ``vmap`` each record has a leading axis
    of batch elements; one that has finished keeps its last record.

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
        self._record(int(state.iter_num), params, state)

    def batch(self, params: Any, state: Any, active: np.ndarray) -> None:
        """Record one iteration of a batch of runs; the solver calls it under ``vmap``."""
        iter_num = int(np.max(np.asarray(state.iter_num)[active], initial=0))
        if iter_num:
            self._record(iter_num, params, state)

    def _record(self, iter_num, params, state):
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
