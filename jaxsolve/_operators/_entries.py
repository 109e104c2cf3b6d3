"""Matrices given by a part of their entries, the others being 0."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import register_dataclass

from jaxsolve._operators._matrix import Matrix, unit_vectors, weighted_gram
from jaxsolve._types import Array

__all__ = ["DiagonalMatrix", "SparseMatrix"]

# A sparse matrix is made dense for a product with itself if that takes at most so many times as many numbers: dense
# products are faster by a factor like this. How many columns at a time are made dense otherwise.
_NEARLY_DENSE, _FEWEST_COLUMNS, _MOST_COLUMNS = 8, 8, 64


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SparseMatrix(Matrix):
    """A matrix given by its non-zero entries: ``data``, at the places ``rows`` and ``cols``.

    Of several entries at the same place all but one must be 0; see :meth:`merged`.
    """

    data: Array
    rows: Array
    cols: Array
    shape: tuple[int, int] = dataclasses.field(metadata={"static": True})

    @property
    def size(self) -> int:
        return self.data.size

    def merged(self) -> SparseMatrix:
        """The same matrix where there may be several entries at a place: their sum is in one of them, 0 in the rest."""
        index = jnp.arange(self.size, dtype=jnp.int32)
        rows, cols, order = lax.sort((self.rows, self.cols, index), num_keys=2)
        new = (rows[1:] != rows[:-1]) | (cols[1:] != cols[:-1])
        first = lax.cummax(jnp.where(jnp.concatenate([jnp.ones_like(new, shape=1), new]), index, 0))
        return SparseMatrix(_sums(_pick(self.data, order), self.size, first), rows, cols, self.shape)

    def symmetric_part(self) -> SparseMatrix:
        """``(A + A^T) / 2``."""
        data = jnp.tile(0.5 * self.data, 2)
        rows, cols = jnp.concatenate([self.rows, self.cols]), jnp.concatenate([self.cols, self.rows])
        return SparseMatrix(data, rows, cols, self.shape).merged()

    def matvec(self, x: Array) -> Array:
        terms = _along(self.data, x) * _pick(x, self.cols)
        return _sums(terms, self.shape[0], self.rows)

    def transpose(self) -> SparseMatrix:
        return SparseMatrix(self.data, self.cols, self.rows, (self.shape[1], self.shape[0]))

    def dense(self) -> Array:
        return _sums(self.data, self.shape, (self.rows, self.cols))

    def scaled(self, rows: Array, columns: Array) -> SparseMatrix:
        return dataclasses.replace(self, data=self.data * _pick(rows, self.rows) * _pick(columns, self.cols))

    def largest(self, rows: Array, columns: Array) -> tuple[Array, Array]:
        entries = jnp.abs(self.scaled(rows, columns).data)
        of_rows, of_columns = (jnp.zeros(size, entries.dtype) for size in self.shape)
        of_rows = of_rows.at[self.rows].max(entries, **_PLAIN)
        return of_rows, of_columns.at[self.cols].max(entries, **_PLAIN)

    def each(self, function: Callable[[Array], Array]) -> SparseMatrix:
        return dataclasses.replace(self, data=function(self.data))

    def gram(self, weights: Array) -> Array:
        (m, n), count = self.shape, self.data.size
        if m * n <= _NEARLY_DENSE * count:
            return weighted_gram(self.dense(), weights)
        # Some columns at a time are made dense: a product with k of them takes arrays of k numbers for each entry.
        k = min(n, max(_FEWEST_COLUMNS, min(n * n // (m + count), _MOST_COLUMNS)))
        weighted = self.scaled(weights, jnp.ones(n, self.data.dtype))

        @jax.checkpoint  # else a reverse derivative would keep these arrays for all columns
        def some(start):
            column = self.cols - start
            inside = (column >= 0) & (column < k)
            block = _sums(self.data, (m, k), (self.rows, jnp.where(inside, column, k)))
            return weighted.rmatvec(block)

        starts = k * jnp.arange(-(-n // k), dtype=self.cols.dtype)
        return jnp.moveaxis(lax.map(some, starts), 0, 1).reshape(n, -1)[:, :n]

    def squared_column_sums(self, weights: Array) -> Array:
        return self.each(jnp.square).rmatvec(weights)

    def diagonal(self) -> Array:
        on_diagonal = jnp.where(self.rows == self.cols, self.data, 0)
        return _sums(on_diagonal, min(self.shape), self.rows)

    def columns(self, index: Array) -> Array:
        (m, n), k = self.shape, index.shape[0]
        # The place of each column among those asked for; entries of all others are dropped.
        place = jnp.full(n, k, jnp.int32).at[index].set(jnp.arange(k, dtype=jnp.int32))
        return _sums(self.data, (k, m), (_pick(place, self.cols), self.rows))


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DiagonalMatrix(Matrix):
    """A square matrix given by its diagonal; of ones, the identity."""

    entries: Array

    @property
    def shape(self) -> tuple[int, int]:
        return self.entries.size, self.entries.size

    @property
    def size(self) -> int:
        return self.entries.size

    def matvec(self, x: Array) -> Array:
        return _along(self.entries, x) * x

    def transpose(self) -> DiagonalMatrix:
        return self

    def dense(self) -> Array:
        return jnp.diag(self.entries)

    def scaled(self, rows: Array, columns: Array) -> DiagonalMatrix:
        return DiagonalMatrix(self.entries * rows * columns)

    def largest(self, rows: Array, columns: Array) -> tuple[Array, Array]:
        entries = jnp.abs(self.scaled(rows, columns).entries)
        return entries, entries

    def each(self, function: Callable[[Array], Array]) -> DiagonalMatrix:
        return DiagonalMatrix(function(self.entries))

    def gram(self, weights: Array) -> Array:
        return jnp.diag(self.squared_column_sums(weights))

    def squared_column_sums(self, weights: Array) -> Array:
        return weights * self.entries**2

    def diagonal(self) -> Array:
        return self.entries

    def columns(self, index: Array) -> Array:
        return unit_vectors(index, self.entries.size, self.entries.dtype) * self.entries[None]


# Places are never negative; for those that may be, jax compiles a test.
_PLAIN: Any = {"wrap_negative_indices": False}


def _pick(vector, index):
    return vector.at[index].get(**_PLAIN)


def _sums(terms, size, index):
    """An array of so many rows, or of a shape, with ``terms`` added at their places; those outside are dropped."""
    rows = size if isinstance(size, tuple) else (size, *terms.shape[1:])
    return jnp.zeros(rows, terms.dtype).at[index].add(terms, mode="drop", **_PLAIN)


def _along(entries, x):
    """Entries of a vector as factors of the rows of ``x``."""
    return entries.reshape(-1, *[1] * (x.ndim - 1))
