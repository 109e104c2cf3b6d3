"""What a matrix is to the solvers, and one given by all its entries."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax
from jax.tree_util import register_dataclass

from jaxsolve._compat import max_abs
from jaxsolve._types import Array

__all__ = ["DenseMatrix", "Matrix", "unit_vectors", "weighted_gram"]


class Matrix(abc.ABC):
    """A linear map from vectors of shape ``(n,)`` to vectors of shape ``(m,)``."""

    shape: Any
    """The pair ``(m, n)``."""

    has_entries: ClassVar[bool] = True
    """Whether its entries are known, so that looking at them costs no products."""

    size: Any
    """How many numbers it is given by."""

    @abc.abstractmethod
    def matvec(self, x: Array) -> Array:
        """``A x``; known entries also multiply several columns at once, an array of shape ``(n, k)``."""

    @abc.abstractmethod
    def transpose(self) -> Matrix:
        """``A^T``."""

    @abc.abstractmethod
    def dense(self) -> Array:
        """All entries, of shape ``(m, n)``."""

    def with_transpose(self) -> Matrix:
        """The same matrix, for many products with the transpose; a dense one then keeps a copy of it."""
        return self

    @abc.abstractmethod
    def scaled(self, rows: Array, columns: Array) -> Matrix:
        """``diag(rows) A diag(columns)``."""

    def rmatvec(self, y: Array) -> Array:
        """``A^T y``."""
        return self.transpose().matvec(y)

    def largest(self, rows: Array, columns: Array) -> tuple[Array, Array]:
        """Largest absolute entry of each row and column of ``diag(rows) A diag(columns)``."""
        entries = self.scaled(rows, columns).dense()
        return max_abs(entries, axis=1), max_abs(entries, axis=0)

    def each(self, function: Callable[[Array], Array]) -> Matrix:
        """The matrix of a function of the entries, which is 0 at 0."""
        return DenseMatrix(function(self.dense()))

    def gram(self, weights: Array) -> Array:
        """``A^T diag(weights) A``, of shape ``(n, n)``; an array of the shape of A is made only if A is dense."""
        return weighted_gram(self.dense(), weights)

    def squared_column_sums(self, weights: Array) -> Array:
        """Diagonal of ``A^T diag(weights) A``."""
        return weights @ self.dense() ** 2

    def diagonal(self) -> Array:
        """The entries in row i and column i."""
        return jnp.diagonal(self.dense())

    def columns(self, index: Array) -> Array:
        """Some columns, each a row of an array of shape ``(k, m)``, so that they are contiguous in memory."""
        return jnp.take(self.dense(), index, axis=1, mode="clip").T


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DenseMatrix(Matrix):
    """A matrix given by its entries.

    Attributes:
        array: the entries.
        transposed: a copy of the transpose, or ``None``.
    """

    array: Array
    transposed: Array | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.array.shape[0], self.array.shape[1]

    @property
    def size(self) -> int:
        return self.array.size

    def matvec(self, x: Array) -> Array:
        return self.array @ x

    def with_transpose(self) -> DenseMatrix:
        # Without the barrier the compiler makes products with a transpose products with the matrix again.
        return DenseMatrix(self.array, lax.optimization_barrier(self.array.T))

    def rmatvec(self, y: Array) -> Array:
        if self.transposed is not None:
            return self.transposed @ y
        # A row vector from the left runs along the rows of the matrix; its transpose would jump across them.
        return (y.T @ self.array).T

    def gram(self, weights: Array) -> Array:
        if self.transposed is not None:
            return lax.optimization_barrier(weights[None, :] * self.transposed) @ self.array
        return super().gram(weights)

    def transpose(self) -> DenseMatrix:
        return DenseMatrix(self.array.T)

    def dense(self) -> Array:
        return self.array

    def scaled(self, rows: Array, columns: Array) -> DenseMatrix:
        return DenseMatrix(self.array * rows[:, None] * columns[None, :])

    def shifted(self, ridge: Array) -> DenseMatrix:
        """``A + ridge I``, for a scalar and a square matrix."""
        return DenseMatrix(self.array + ridge * jnp.eye(self.shape[0], dtype=self.array.dtype))


def weighted_gram(A: Array, weights: Array) -> Array:
    """``A^T diag(weights) A`` for an array of shape ``(m, n)``."""
    # A transposed copy costs less than a product that walks through its operand across the rows: half the time of a
    # batch of 64 on CPU.
    return lax.optimization_barrier((weights[:, None] * A).T) @ A


def unit_vectors(index, size, dtype):
    """The unit vectors of some indices, as rows."""
    return (jnp.arange(size, dtype=index.dtype)[None] == index[:, None]).astype(dtype)
