"""Small types of the field's older libraries that code in the wild mentions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["AutoOrBoolean", "LinearOperator"]

#: The type of an option that is ``True``, ``False`` or chosen by the solver.
AutoOrBoolean = str | bool


class LinearOperator:
    """A dense matrix seen through its products.

    Args:
        A: array of shape (m, n).

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.base import LinearOperator
        >>> LinearOperator(jnp.ones((2, 3))).rmatvec(jnp.ones(2)).tolist()
        [2.0, 2.0, 2.0]
    """

    def __init__(self, A: Any):
        if jnp.ndim(A) != 2:
            raise ValueError(f"LinearOperator expects a matrix, got an array of shape {jnp.shape(A)}.")
        self.A = A

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (m, n) of the matrix."""
        return self.A.shape

    def matvec(self, x: jax.Array) -> jax.Array:
        """``A x`` for ``x`` of shape (n,) or (n, k)."""
        return self.A @ x

    def rmatvec(self, x: jax.Array) -> jax.Array:
        """``A^T x`` for ``x`` of shape (m,) or (m, k)."""
        return self.A.T @ x

    def normal_matvec(self, x: jax.Array) -> jax.Array:
        """``A^T A x`` for ``x`` of shape (n,) or (n, k)."""
        return self.rmatvec(self.matvec(x))

    def diag(self) -> jax.Array:
        """The diagonal, of shape (min(m, n),)."""
        return jnp.diag(self.A)

    def columns_l2_norms(self, squared: bool = False) -> jax.Array:
        """Euclidean norms of the columns, of shape (n,)."""
        squares = jnp.sum(self.A**2, axis=0)
        return squares if squared else jnp.sqrt(squares)
