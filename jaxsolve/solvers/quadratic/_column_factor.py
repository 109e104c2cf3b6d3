"""Orthogonal factorizations of the columns of free variables, of any rank.

``A^T A``, whose condition number is the square, is never formed, and no singular values are needed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular

from jaxsolve._loop import run_if_any
from jaxsolve._types import Array
from jaxsolve.tree_util import tree_where

__all__ = ["Factor", "after", "factorize", "factorize_free"]


class Factor(NamedTuple):
    """A factorization of ``M``, the columns of the free variables, with a unit row for each of the others.

    ``M = [U; *] T V^T``, with orthonormal columns on the left, but for those that rank-deficiency leaves out, which
    are 0 in U and V.

    Attributes:
        U: the rows that belong to the matrix, shape ``(k, p)``; ``p`` is ``n``, or ``k`` of the free columns alone.
        T: upper triangular, shape ``(p, p)``.
        V: the identity, or a basis of the rows; shape ``(n, p)``.
    """

    U: Array
    T: Array
    V: Array

    def pull(self, eta: Array) -> Array:
        """``T^-T V^T eta``."""
        return solve_triangular(self.T, self.V.T @ eta, trans="T")

    def push(self, w: Array) -> Array:
        """``V T^-1 w``."""
        return self.V @ solve_triangular(self.T, w)

    def least_squares(self, residual: Array) -> Array:
        """The step of the free variables that makes a residual as small as possible."""
        return self.push(self.U.T @ residual)


def factorize(C: Array, held: Array, stiffness: Any = 0.0) -> Factor:
    """Factorize the columns of free variables.

    Args:
        C: shape ``(k, n)``.
        held: the variables that are not free, shape ``(n,)``.
        stiffness: of springs that hold the other variables, shape ``(n,)``.
    """
    k, n = C.shape
    rows = jnp.where(held, 1, jnp.sqrt(jnp.asarray(stiffness, C.dtype)))
    Q, R = jnp.linalg.qr(jnp.concatenate([jnp.where(held[None, :], 0, C), jnp.diag(rows)]))
    U, eye = Q[:k], jnp.eye(n, dtype=C.dtype)
    eps = float(jnp.finfo(C.dtype).eps)
    # The smallest pivot bounds the smallest singular value from above; what is regular for sure needs no more.
    suspect = ~jnp.all(jnp.abs(jnp.diagonal(R)) > 10 * eps ** (2 / 3))

    def examine(factor):
        W, T, V, null = _complete(factor.T, _mixing(n, C.dtype))
        return tree_where(jnp.any(null), Factor(factor.U @ W, T, V), factor)

    return run_if_any(suspect, examine, Factor(U, R, eye))


def factorize_free(C: Array, held: Array) -> Factor:
    """Factorize the columns of free variables alone, which takes less where there are more columns than rows.

    Args:
        C: shape ``(k, n)`` with ``k <= n``.
        held: the variables that are not free, shape ``(n,)``.

    """
    k, n = C.shape
    if k == n:
        return factorize(C, held)
    return Factor(*_complete(jnp.where(held[None, :], 0, C), _mixing(k, C.dtype))[:3])


def _mixing(size: int, dtype: Any) -> Array:
    """An orthogonal matrix from pseudo-random numbers, with little code to compile."""
    row, column = (lax.broadcasted_iota(dtype, (size, size), axis) for axis in (0, 1))
    numbers = 43758.5453 * jnp.sin(12.9898 * row + 78.233 * column)
    return jnp.linalg.qr(numbers - jnp.floor(numbers) - 0.5)[0]


def after(known: Array, matrix: Array) -> Array:
    """``matrix``, which is not used before ``known`` is there.

    Batched calls of LAPACK that run at the same time can block each other in the thread pool of jaxlib's CPU backend,
    and XLA keeps an order only where there is something to compute.
    """
    return jnp.where(jnp.isnan(known[:1, :1]), jnp.nan, matrix)


def _complete(S: Array, mixing: Array) -> tuple[Array, Array, Array, Array]:
    """Complete orthogonal decomposition ``S = W T V^T`` of a matrix of any rank.

    Two QR factorizations, the second one of the transposed triangular factor: its diagonal shows the rank, as in
    Stewart's method, where rows that were mixed at random take the place of pivoting.

    Args:
        S: shape ``(k, n)`` with ``k <= n``.
        mixing: an orthogonal matrix without structure, shape ``(k, k)``.

    Returns:
        W, T and V, of shapes ``(k, k)``, ``(k, k)`` and ``(n, k)``, and which columns of V the rank leaves out, shape
        ``(k,)``; these are 0 in W and V, and have a unit row and column in T.

    Reference:
        Stewart (1999), "The QLP approximation to the singular value decomposition"; Demmel, Dumitriu and Holtz (2007),
        "Fast linear algebra is stable", section 5.
    """
    n, eps = S.shape[1], float(jnp.finfo(S.dtype).eps)
    V, R = jnp.linalg.qr(S.T @ mixing)
    W, T = jnp.linalg.qr(after(V, R).T)
    sizes = jnp.abs(jnp.diagonal(T))
    null = sizes <= 10 * n**0.5 * eps * jnp.max(sizes, initial=0)
    kept = 1 - null.astype(S.dtype)
    T = kept[:, None] * T * kept[None, :] + jnp.diag(1 - kept)
    return mixing @ W * kept[None, :], T, V * kept[None, :], null
