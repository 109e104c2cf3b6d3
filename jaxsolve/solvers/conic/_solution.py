"""What solvers for conic programs return."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["ConicSolution"]


class ConicSolution(NamedTuple):
    r"""A primal and dual solution of a conic program.

    Attributes:
        x: the variables, shape ``(n,)``.
        y: the multipliers of the rows, in the dual cones, shape ``(m,)``.
        s: the slacks :math:`b - A x` of the rows, in the cones, shape ``(m,)``.
    """

    x: Any
    y: Any = None
    s: Any = None
