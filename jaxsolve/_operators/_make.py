"""Matrices from what a user gives, and from other matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxsolve._compat import is_sparse
from jaxsolve._operators._entries import DiagonalMatrix, SparseMatrix
from jaxsolve._operators._functions import FunctionMatrix
from jaxsolve._operators._matrix import DenseMatrix, Matrix

__all__ = ["as_bcoo", "as_sparse", "from_entries", "stack"]


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


def _stacked(blocks, x):
    return jnp.concatenate([block.matvec(x) for block in blocks])
