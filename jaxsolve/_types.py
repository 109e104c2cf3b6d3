"""Types shared by every module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax

from jaxsolve._results import show_as_line

__all__ = ["Array", "Callable", "KKTSolution", "OptStep", "PyTree", "Scalar", "Structure"]

Array = jax.Array
PyTree = Any
Scalar = float | int | jax.Array
#: What is known of a square matrix: nothing, that it is symmetric, or symmetric and positive semidefinite.
Structure = Literal["general", "symmetric", "psd"]


class OptStep(NamedTuple):
    """The result of ``update`` and ``run``. It is printed as one line; print its fields to see all values.

    Attributes:
        params: the iterate or solution, a pytree.
        state: the state of the solver, a named tuple with at least ``iter_num``, ``error`` and ``status``.
    """

    params: Any
    state: Any


show_as_line(OptStep, state_of=lambda step: step.state)


class KKTSolution(NamedTuple):
    """A primal and dual solution of a constrained problem.

    Attributes:
        primal: pytree of primal variables.
        dual_eq: multipliers of the equality constraints, with the structure of their residual; ``None`` without any.
        dual_ineq: multipliers of the inequality constraints ``G(z) <= 0``, non-negative; ``None`` without any.
    """

    primal: Any
    dual_eq: Any = None
    dual_ineq: Any = None
