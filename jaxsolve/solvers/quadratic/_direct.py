"""What the solvers of quadratic programs share that do not iterate: linear systems, and those of ``external``."""

from __future__ import annotations

from typing import NamedTuple

from jaxsolve._types import Array
from jaxsolve.base import option
from jaxsolve.solvers.quadratic._forms import StandardForm

__all__ = ["DirectQP", "DirectState"]


class DirectState(NamedTuple):
    """State at the end of a run.

    Attributes:
        iter_num: iterations done, as far as they are known; int32.
        error: optimality error of the solution, the largest residual in absolute and relative terms.
        value: the objective.
        status: a :class:`jaxsolve.Status`, int32.
    """

    iter_num: Array
    error: Array
    value: Array
    status: Array


class DirectQP(StandardForm):
    """Base of the solvers of quadratic programs that have no iterations to show.

    Attributes:
        tol: the run has converged when ``state.error`` is at most ``tol``.
    """

    tol: float = option(1e-5)

    def _validate(self) -> None:
        super()._validate()
        if not self.implicit_diff:
            raise ValueError(f"implicit_diff=False means unrolled iterations, and {type(self).__name__} has none.")
