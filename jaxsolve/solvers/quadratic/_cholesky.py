"""Cholesky factors of symmetric matrices, without copies.

LAPACK has matrices column by column, and jax row by row. A transpose is the way from one to the other that takes no
time; a copy of a batch of small matrices takes as long as solving with them.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular

from jaxsolve._types import Array

__all__ = ["cholesky", "cholesky_solve", "half_solve"]


def cholesky(H: Array) -> Array:
    """The lower triangular L with ``H = L L^T``, for symmetric matrices of shape ``(..., n, n)``."""
    return jnp.linalg.cholesky(H.mT, symmetrize_input=False)


def cholesky_solve(L: Array, b: Array) -> Array:
    """The solution of ``L L^T x = b`` for one matrix, and a vector or several columns."""
    return cho_solve((L.mT, False), b)


def half_solve(L: Array, b: Array) -> Array:
    """The solution of ``L x = b``, likewise."""
    return solve_triangular(L.mT, b, trans="T")
