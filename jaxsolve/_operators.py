"""Linear maps between vectors: matrices given by all their entries, the non-zero ones, a diagonal, or products.

The solvers of quadratic programs, linear systems and linear models work with :class:`Matrix` and do not ask what it was
given as. What stays sparse and what is computed by products alone is decided here. All matrices are pytrees.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial, register_dataclass, register_pytree_node

from jaxsolve._compat import is_sparse, max_abs, vary_over
from jaxsolve._types import Array

__all__ = [
    "DenseMatrix",
    "DiagonalMatrix",
    "FunctionMatrix",
    "Matrix",
    "SparseMatrix",
    "as_bcoo",
    "as_sparse",
    "from_entries",
    "stack",
    "weighted_gram",
]


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
        return _units(index, self.entries.size, self.entries.dtype) * self.entries[None]


@dataclasses.dataclass(frozen=True, eq=False)
class FunctionMatrix(Matrix):
    """A matrix given by its products: a linear function of vectors.

    The arrays that the function works with are leaves if it is a ``jax.tree_util.Partial``, else they are captured.

    Attributes:
        function: the product with a vector of shape ``(n,)``.
        shape: the pair ``(m, n)``; m may be ``None`` if ``transposed`` is given and nobody asks.
        dtype: of the vectors.
        transposed: the product with the transpose if it is known; else it is derived from ``function``.
        column: the column of an index if that is known; else it is a product.
        axes: under ``shard_map`` the mesh axes over which the vectors vary.
    """

    function: Callable[[Array], Array]
    shape: Any
    dtype: Any
    transposed: Callable[[Array], Array] | None = None
    column: Callable[[Array], Array] | None = None
    axes: frozenset = frozenset()

    has_entries = False

    def matvec(self, x: Array) -> Array:
        return self.function(x)

    def rmatvec(self, y: Array) -> Array:
        if self.transposed is not None:
            return self.transposed(y)
        like = vary_over(jnp.zeros(self.shape[1], self.dtype), self.axes)  # only its type matters
        return jax.linear_transpose(self.function, like)(y)[0]

    def transpose(self) -> FunctionMatrix:
        shape, products = (self.shape[1], self.shape[0]), (Partial(_rmatvec, self), Partial(_matvec, self))
        return FunctionMatrix(products[0], shape, self.dtype, products[1], axes=self.axes)

    def dense(self) -> Array:
        identity = vary_over(jnp.eye(self.shape[1], dtype=self.dtype), self.axes)
        return jax.vmap(self.function, in_axes=1, out_axes=1)(identity)

    def scaled(self, rows: Array, columns: Array) -> FunctionMatrix:
        product, transposed = Partial(_matvec, self), Partial(_rmatvec, self)
        return self._with(Partial(_scaled, product, rows, columns), Partial(_scaled, transposed, columns, rows))

    def shifted(self, ridge: Array) -> FunctionMatrix:
        """``A + ridge I``, for a scalar and a square matrix."""
        product, transposed = Partial(_matvec, self), Partial(_rmatvec, self)
        return self._with(Partial(_shifted, product, ridge), Partial(_shifted, transposed, ridge))

    def columns(self, index: Array) -> Array:
        if self.column is not None:
            return jax.vmap(self.column)(index)
        return jax.vmap(self.function)(_units(index, self.shape[1], self.dtype))

    def _with(self, function, transposed):
        return dataclasses.replace(self, function=function, transposed=transposed, column=None)


def _parts(matrix: FunctionMatrix) -> tuple:
    functions = (matrix.function, matrix.transposed, matrix.column)
    functions = [f if f is None or isinstance(f, Partial) else Partial(f) for f in functions]
    return functions, (matrix.shape, matrix.dtype, matrix.axes)


def _from_parts(static: tuple, functions: Sequence) -> FunctionMatrix:
    (function, *others), (shape, dtype, axes) = functions, static
    return FunctionMatrix(function, shape, dtype, *others, axes=axes)


register_pytree_node(FunctionMatrix, _parts, _from_parts)


# Functions of a module, so that matrices made of equal parts have the same structure as pytrees.


def _matvec(matrix, x):
    return matrix.matvec(x)


def _rmatvec(matrix, y):
    return matrix.rmatvec(y)


def _scaled(product, rows, columns, x):
    return rows * product(columns * x)


def _shifted(product, ridge, x):
    return product(x) + ridge * x


def _stacked(blocks, x):
    return jnp.concatenate([block.matvec(x) for block in blocks])


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


def _units(index, size, dtype):
    """The unit vectors of some indices, as rows."""
    return (jnp.arange(size, dtype=index.dtype)[None] == index[:, None]).astype(dtype)


# A sparse matrix is made dense for a product with itself if that takes at most so many times as many numbers: dense
# products are faster by a factor like this. How many columns at a time are made dense otherwise.
_NEARLY_DENSE, _FEWEST_COLUMNS, _MOST_COLUMNS = 8, 8, 64


def weighted_gram(A: Array, weights: Array) -> Array:
    """``A^T diag(weights) A`` for an array of shape ``(m, n)``."""
    # A transposed copy costs less than a product that walks through its operand across the rows: half the time of a
    # batch of 64 on CPU.
    return lax.optimization_barrier((weights[:, None] * A).T) @ A


def from_entries(value: Any, dtype: Any = None, name: str = "A") -> DenseMatrix | SparseMatrix:
    """A matrix given by its entries in a dtype.

    Args:
        value: array of shape ``(m, n)``, or one of jax's sparse arrays.
        dtype: of the entries; by default that of ``value``.
        name: how messages call it.

    Raises:
        ValueError: ``value`` has axes of a batch or dense axes.
    """
    if not is_sparse(value):
        array = jnp.asarray(value)
        return DenseMatrix(array.astype(array.dtype if dtype is None else dtype))
    coordinates = value if is_sparse(value, "BCOO") else value.to_bcoo()
    if coordinates.n_batch or coordinates.n_dense:
        raise ValueError(f"{name} must be sparse in both axes, got {value}.")
    data = coordinates.data.astype(coordinates.dtype if dtype is None else dtype)
    rows, cols = coordinates.indices.astype(jnp.int32).T
    if 0 in value.shape:
        data, rows, cols = data[:0], rows[:0], cols[:0]
    inside = (rows < value.shape[0]) & (cols < value.shape[1])  # the others are padding
    data, rows, cols = (jnp.where(inside, part, 0) for part in (data, rows, cols))
    matrix = SparseMatrix(data, rows, cols, tuple(value.shape))
    return matrix if coordinates.unique_indices or matrix.size < 2 else matrix.merged()


def as_bcoo(matrix: SparseMatrix) -> Any:
    """A sparse matrix in the layout of jax."""
    from jax.experimental import sparse

    return sparse.BCOO((matrix.data, jnp.stack([matrix.rows, matrix.cols], axis=1)), shape=matrix.shape)


def stack(blocks: Sequence[Matrix], columns: int, dtype: Any) -> Matrix:
    """The matrices on top of each other; without any, one with no rows.

    The result has the kind of all; of different kinds it is sparse, and a function if one of them is.

    Args:
        blocks: matrices with ``columns`` columns.
        columns: their number.
        dtype: of the entries.
    """
    if len(blocks) == 1:
        return blocks[0]
    if all(isinstance(block, DenseMatrix) for block in blocks):
        return DenseMatrix(jnp.concatenate([block.dense() for block in blocks] or [jnp.zeros((0, columns), dtype)]))
    *starts, end = np.cumsum([0, *(block.shape[0] for block in blocks)]).tolist()
    if not all(block.has_entries for block in blocks):
        return FunctionMatrix(Partial(_stacked, tuple(blocks)), (end, columns), dtype)
    entries = [(b.data, b.rows + start, b.cols) for b, start in zip(map(as_sparse, blocks), starts, strict=True)]
    return SparseMatrix(*map(jnp.concatenate, zip(*entries, strict=True)), shape=(end, columns))


def as_sparse(matrix: Matrix) -> SparseMatrix:
    """A matrix that is given by entries, with the places of these."""
    if isinstance(matrix, SparseMatrix):
        return matrix
    if isinstance(matrix, DiagonalMatrix):
        index = jnp.arange(matrix.entries.size, dtype=jnp.int32)
        return SparseMatrix(matrix.entries, index, index, matrix.shape)
    rows, columns = jnp.indices(matrix.shape, dtype=jnp.int32).reshape(2, -1)
    return SparseMatrix(matrix.dense().reshape(-1), rows, columns, matrix.shape)
