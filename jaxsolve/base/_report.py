"""Reports during a run: lines or a progress bar, and a callback for histories. Off, they add nothing to the program."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

from jaxsolve._compat import io_callback
from jaxsolve._results import summary

__all__ = ["History", "Lines", "ProgressBar", "call_back", "call_back_first", "import_tqdm", "pyplot"]

_SHOWN = ("error", "value", "stepsize")


class Lines:
    """Prints one line per iteration, and one at the end.

    Like all reporters it is called as ``reporter((tol, maxiter, over), state)``, and at the end once for a whole batch.

    Args:
        name: of the solver. A line shows ``iter_num``, and ``error``, ``value`` and ``stepsize`` if the state has them.
    """

    def __init__(self, name: str):
        self._name = name

    def __call__(self, run: tuple, state: Any) -> None:
        """Print the line of an iteration, or the last one."""
        if run[2]:
            self._end(run, state)
        else:
            shown = {key: getattr(state, key, None) for key in _SHOWN}
            line = "".join(f"  {key} {x:.6e}" for key, x in shown.items() if x is not None and np.ndim(x) == 0)
            print(f"{self._name}: iter {int(state.iter_num):4d}{line}", flush=True)

    def batch(self, run: tuple, state: Any, active: np.ndarray) -> None:
        """Print the lines of all running elements, or the last line for all."""
        if np.any(run[2]):
            self._end(run, state)
        else:
            for element in _elements((run, state), active):
                self(*element)

    def _end(self, run, state):
        print(summary(state, tol=run[0], name=self._name) or f"{self._name}: ended", flush=True)


class ProgressBar(Lines):
    """Shows a bar of tqdm that moves with the iterations, and a line at the end.

    For a batch it shows the largest number of iterations of an element, how many elements are still running, and the
    largest of their errors.
    """

    def __call__(self, run: tuple, state: Any) -> None:
        """Move the bar of a single run, or close it."""
        self.batch(run, state, np.asarray(True))

    def batch(self, run: tuple, state: Any, active: np.ndarray) -> None:
        """Move the bar of a batch of runs, or close it."""
        if np.any(run[2]):
            if self._name in _BARS:
                _BARS.pop(self._name).close()
            self._end(run, state)
        elif active.any():
            iter_num, error = (np.max(np.asarray(x)[active]) for x in (state.iter_num, state.error))
            running = f"{active.sum()} of {active.size} running, " if active.ndim else ""
            self._move(int(np.max(run[1])), int(iter_num), f"{running}error {float(error):.1e}")

    def _move(self, maxiter, iter_num, text):
        bar = _BARS.get(self._name)
        if bar is not None and iter_num < bar.n:  # left by a run that was broken off
            bar.close()
        if bar is None or iter_num < bar.n:
            bar = _BARS[self._name] = import_tqdm()(total=maxiter, desc=self._name, unit="it")
        bar.set_postfix_str(text, refresh=False)
        bar.update(iter_num - bar.n)


#: The bars on the screen, one for a name. They are no part of a callback: a program keeps its callbacks.
_BARS: dict[str, Any] = {}


def import_tqdm() -> Any:
    """The class of progress bars."""
    try:
        from tqdm import tqdm
    except ImportError:
        raise ImportError("verbose='bar' needs the package tqdm: pip install 'jaxsolve[progress]'.") from None
    return tqdm


def call_back(callback: Callable, params: Any, state: Any, active: jax.Array) -> None:
    """Call ``callback(params, state)`` on the host if ``active``; works inside compiled code, which holds the callback.

    Under ``vmap`` the callback is called once for each active batch element, in order; or once for all of them, as
    ``callback.batch(params, state, active)``, if it has such a method. It is not called for steps that are computed
    again for the derivative of a checkpointed loop.
    """
    _teller(callback, 0)(*lax.stop_gradient((active, params, state)))


def call_back_first(callback: Callable, params: Any, state: Any) -> jax.Array:
    """The same before an iteration that depends on the result, an int32 of 0: the calls then come in this order."""
    return _teller(callback, 0, first=True)(*lax.stop_gradient((jnp.asarray(True), params, state)))


def _teller(callback, depth, first=False):
    # `custom_vmap` for two reasons: it tells of the batch, and its effects are not repeated by `jax.checkpoint`.
    @custom_vmap
    def tell(active, params, state):
        if first:
            return io_callback(answer, jax.ShapeDtypeStruct((), jnp.int32), active, params, state)
        jax.debug.callback(deliver, active, params, state)
        return ()

    def answer(active, params, state):
        deliver(active, params, state)
        return np.zeros((), np.int32)

    def deliver(active, params, state):
        if depth == 0:
            if active:
                callback(params, state)
        elif hasattr(callback, "batch"):
            callback.batch(params, state, np.asarray(active))
        else:
            for element in _elements((params, state), np.asarray(active)):
                callback(*element)

    @tell.def_vmap
    def _(axis_size, in_batched, *arguments):
        def in_batch(x, batched):
            return x if batched else jnp.broadcast_to(x, (axis_size, *jnp.shape(x)))

        out = _teller(callback, depth + 1, first)(*jax.tree.map(in_batch, arguments, tuple(in_batched)))
        return out, False if first else ()

    return tell


def _elements(tree, active):
    """The elements of a batch that are active, one after the other."""
    for index in map(tuple, np.argwhere(active)):
        yield jax.tree.map(lambda x: x[index], tree)  # noqa: B023  # used at once


@jax.tree_util.register_static
class History:
    """Records fields of the state at every iteration, also under ``jit``.

    Pass it to a solver as its ``callback``; :func:`jaxsolve.diagnostics.trace` makes one and runs the solver. The
    first record, number 0, is that of the initial point. Records are kept in the order of the iterations. A new run
    deletes the earlier records; a run that continues from an earlier result adds to them. Value and error are those
    of the recorded point; solvers that compute them only in the next iteration evaluate them for the record. Under
    ``vmap`` each record has a leading axis of batch elements; an element that has finished keeps its last record.

    Args:
        *names: fields of the state to record. ``"params"`` records the iterate, ``"time"`` the seconds since the first
            record, by the clock of the host.
        optional: leave out the fields that the state does not have, instead of raising.

    Example:
        >>> import jax.numpy as jnp, jaxsolve
        >>> history = jaxsolve.History("value", "error")
        >>> solver = jaxsolve.GradientDescent(lambda x: jnp.sum((x - 1.0) ** 2), callback=history)
        >>> _ = solver.run(jnp.zeros(2))
        >>> history.keys()
        ('iter_num', 'value', 'error')
        >>> float(history["value"][0]), len(history["value"]) == len(history)
        (2.0, True)
    """

    #: Solvers call back with the initial point, too, and with states that are exact at each point.
    from_start = True

    def __init__(self, *names: str, optional: bool = False):
        if not all(isinstance(name, str) for name in names):
            raise TypeError(f"History takes names of state fields, got {names!r}.")
        self._names = tuple(dict.fromkeys(("iter_num", *(names or ("value", "error")))))
        self._records: dict[int, dict[str, Any]] = {}
        self._optional, self._begun = optional, 0.0

    def __call__(self, params: Any, state: Any) -> None:
        """Record one iteration; the solver calls it."""
        self._record(int(state.iter_num), params, state)

    def batch(self, params: Any, state: Any, active: np.ndarray) -> None:
        """Record one iteration of a batch of runs; the solver calls it under ``vmap``."""
        if np.any(active):
            self._record(int(np.max(np.asarray(state.iter_num)[active])), params, state)

    def _record(self, iter_num, params, state):
        # The initial point of a run that goes on has the number of the last record.
        if iter_num in self._records and (iter_num == 0 or iter_num != max(self._records)):
            self._records.clear()
        if self._optional:
            self._names = tuple(n for n in self._names if n in ("params", "time") or hasattr(state, n))
        now = time.perf_counter()
        if not self._records:
            self._begun = now
        record = {name: _field(name, params, state) for name in self._names if name != "time"}
        record = jax.tree.map(np.asarray, record)
        self._records[iter_num] = {**record, "time": np.asarray(now - self._begun)}

    def keys(self) -> tuple[str, ...]:
        """The names of what is recorded."""
        jax.effects_barrier()
        return self._names

    def __getitem__(self, name: str) -> Any:
        """The records of one field: an array with one entry per record (a list for pytrees)."""
        jax.effects_barrier()
        if name not in self._names:
            raise KeyError(f"{name!r} is not recorded; recorded are {', '.join(self._names)}.")
        values = [self._records[i][name] for i in sorted(self._records)]
        # The initial point of a batch may be the same for all.
        return np.stack(np.broadcast_arrays(*values)) if values and isinstance(values[0], np.ndarray) else values

    def __len__(self) -> int:
        jax.effects_barrier()
        return len(self._records)

    def __repr__(self) -> str:
        jax.effects_barrier()
        last = f"; the last is iteration {max(self._records)}" if self._records else ""
        return f"History({', '.join(self._names)}: {len(self)} records{last})"

    def plot(self, *names: str, axes: Any = None) -> Any:
        """Plot fields against the iterations, one panel for each; needs matplotlib.

        Args:
            *names: what to plot; by default every scalar field but ``time``. For a batch there is one line per
                element. ``error`` has a logarithmic axis.
            axes: matplotlib axes to draw on, one per name, or ``None`` for a new figure.

        Returns:
            The axes, an array with one entry per name.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: nothing is recorded yet.
        """
        if not len(self):
            raise ValueError("nothing is recorded: run a solver with this History as its callback first.")
        batch = self["iter_num"].shape
        names = names or tuple(n for n in self.keys() if n not in ("iter_num", "time") and np.shape(self[n]) == batch)
        if axes is None:
            _, axes = pyplot().subplots(1, len(names), squeeze=False, figsize=(4 * len(names), 3), layout="tight")
        axes = np.ravel(axes)
        for name, panel in zip(names, axes, strict=True):
            panel.plot(self["iter_num"].reshape(len(self), -1), self[name].reshape(len(self), -1))
            panel.set(xlabel="iteration", ylabel=name, yscale="log" if name == "error" else "linear")
        return axes


def pyplot() -> Any:
    """The module ``matplotlib.pyplot``.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'jaxsolve[plots]'.") from error


def _field(name, params, state):
    if name == "params":
        return params
    if not hasattr(state, name):
        raise ValueError(f"{type(state).__name__} has no field {name!r}; it has {', '.join(state._fields)}.")
    return getattr(state, name)
