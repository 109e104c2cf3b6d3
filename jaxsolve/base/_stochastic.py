"""``StochasticSolver``: iterative solvers that can take one batch of data per iteration."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, ClassVar

from jaxsolve._compat import is_concrete
from jaxsolve._compile import compiled_call
from jaxsolve._status import Status
from jaxsolve._types import OptStep, PyTree
from jaxsolve.base._iterative import IterativeSolver
from jaxsolve.base._moving import prepared
from jaxsolve.base._solver import call_directly

__all__ = ["StochasticSolver"]


class StochasticSolver(IterativeSolver):
    """An iterative solver whose ``update`` may get different data at every iteration.

    ``run`` treats the data as fixed; :meth:`run_iterator` draws them from an iterator.
    """

    _is_precise: ClassVar[bool] = False

    def run_iterator(self, init_params: PyTree, iterator: Iterable, *args: Any, **kwargs: Any) -> OptStep:
        """Iterate over batches of data, in a Python loop around one compiled step.

        Args:
            init_params: initial point, a pytree of floating-point arrays.
            iterator: yields pytrees of arrays, all of the same shapes, each of which is passed on as the keyword
                argument ``data``. At most ``maxiter`` of them are drawn.
            *args: further data, the same at every iteration.
            **kwargs: more such data, passed on by name.

        Returns:
            ``OptStep(params, state)``. After ``maxiter`` batches without convergence the status is ``MAXITER``; if the
            iterator ends before that, it is still ``RUNNING``. In both cases a call with the result as ``init_params``
            and further batches continues from there. The loop can only be differentiated by unrolling it, because the
            parameters are not the exact solution for any one data set.

        Raises:
            TypeError: ``init_params`` is not floating point, or ``data`` is given twice.
            ValueError: the iterator yields nothing although ``maxiter`` is positive.
        """
        if "data" in kwargs:
            raise TypeError(
                "run_iterator passes each batch as the keyword argument `data`; it cannot be given as well."
            )
        step, drawn = None, 0
        for batch in itertools.islice(iterator, self.maxiter):
            data = {**kwargs, "data": batch}
            if step is None:
                step = self._advance(init_params, args, data, first=True)
            step, drawn = self._advance(step, args, data, first=False), drawn + 1
            if _is_final(step.state.status):
                break
        if step is None:
            raise ValueError("run_iterator drew no batch: the iterator is empty, or maxiter is 0.")
        if drawn == self.maxiter and hasattr(step.state, "status"):
            status = Status.MAXITER.where(Status.RUNNING.holds(step.state.status), step.state.status)
            step = step._replace(state=step.state._replace(status=status))
        self._tell(step.state, over=True)
        return step

    def _advance(self, *args, **kwargs):
        return (compiled_call if self.jit else call_directly)(_advance, self, *args, **kwargs)


def _advance(solver: StochasticSolver, start: PyTree, args: tuple, data: dict, *, first: bool) -> OptStep:
    """The first step, which is where to start from, or the next one."""
    solver, start, restore = prepared(solver, start)
    return restore((solver._first_step if first else solver._next_step)(start, args, data))


def _is_final(status) -> bool:
    # A traced status (a host loop inside a traced function) never ends the loop early.
    return is_concrete(status) and not Status.RUNNING.holds(int(status))
