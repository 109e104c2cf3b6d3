"""A conic program as dense arrays: what the interior-point method, the polish and the derivative compute with."""

from __future__ import annotations

from typing import NamedTuple

from jaxsolve._types import Array
from jaxsolve.solvers.quadratic._problem import QuadraticProgram

__all__ = ["Program", "as_arrays"]


class Program(NamedTuple):
    r""":math:`\min \tfrac12 x^T P x + c^T x` subject to :math:`A x + s = b`: P is symmetric, shape ``(n, n)``.

    Attributes:
        P: shape ``(n, n)``.
        c: shape ``(n,)``.
        A: shape ``(m, n)``.
        b: shape ``(m,)``.
    """

    P: Array
    c: Array
    A: Array
    b: Array


def as_arrays(qp: QuadraticProgram) -> Program:
    """The arrays of a conic program in the form of a quadratic one, see :mod:`._form`."""
    return Program(qp.P.dense(), qp.q, qp.A.dense(), qp.upper)
