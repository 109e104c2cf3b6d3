"""Small types that programs written for JAXopt use."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxsolve._compat import is_sparse
from jaxsolve._operators import from_entries
from jaxsolve.tree_util import tree_l2_norm

__all__ = ["AutoOrBoolean", "LinearOperator"]

#: The type of an option that is ``True``, ``False`` or chosen by the solver.
AutoOrBoolean = str | bool


class LinearOperator:
    """A matrix, dense, BCOO or BCSR, with the products that coordinate methods need.

    Args:
        A: matrix of shape ``(m, d)``.

    Raises:
        ValueError: ``A`` is not a matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.base import LinearOperator
        >>> LinearOperator(jnp.ones((2, 3))).rmatvec(jnp.ones(2)).tolist()
        [2.0, 2.0, 2.0]
    """

    def __init__(self, A: Any):
        if getattr(A, "ndim", None) != 2:
            raise ValueError(f"A must be a matrix, got shape {getattr(A, 'shape', type(A).__name__)}.")
        self.A = A.to_bcoo() if is_sparse(A, "BCSR") else A

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the matrix."""
        return self.A.shape

    def matvec(self, x: jax.Array) -> jax.Array:
        """``A x``, of shape ``(m,)`` or ``(m, k)``."""
        return from_entries(self.A).matvec(jnp.asarray(x))

    def rmatvec(self, y: jax.Array) -> jax.Array:
        """``A^T y``, of shape ``(d,)`` or ``(d, k)``."""
        return from_entries(self.A).rmatvec(jnp.asarray(y))

    def column(self, idx: Any) -> jax.Array:
        """Column ``idx``, of shape ``(m,)``; the index may be traced."""
        if is_sparse(self.A, "BCOO"):
            return from_entries(self.A).columns(jnp.asarray(idx)[None])[0]
        return jnp.take(self.A, idx, axis=1)

    def matvec_element(self, x: jax.Array, idx: Any) -> jax.Array:
        """Entry (or row) ``idx`` of ``A x``."""
        return LinearOperator(self.A.T).rmatvec_element(x, idx)

    def rmatvec_element(self, y: jax.Array, idx: Any) -> jax.Array:
        """Entry (or row) ``idx`` of ``A^T y``."""
        return self.column(idx) @ y

    def update_matvec(self, Ax: jax.Array, delta: jax.Array, idx: Any) -> jax.Array:
        """``A x`` after ``delta`` is added to entry (or row) ``idx`` of ``x``."""
        column = self.column(idx)
        return Ax + (column * delta if Ax.ndim == 1 else jnp.outer(column, delta))

    def update_rmatvec(self, ATy: jax.Array, delta: jax.Array, idx: Any) -> jax.Array:
        """``A^T y`` after ``delta`` is added to entry (or row) ``idx`` of ``y``."""
        return LinearOperator(self.A.T).update_matvec(ATy, delta, idx)

    def column_l2_norms(self, squared: bool = False) -> jax.Array:
        """Euclidean norm of each column, or its square; of shape ``(d,)``."""
        if is_sparse(self.A, "BCOO"):
            from jax.experimental import sparse

            entries = sparse.bcoo_sum_duplicates(self.A, nse=self.A.nse)
            squares = from_entries(entries).squared_column_sums(jnp.ones(self.shape[0], self.A.dtype))
            return squares if squared else jnp.sqrt(squares)
        return jax.vmap(lambda column: tree_l2_norm(column, squared=squared), in_axes=1)(self.A)
