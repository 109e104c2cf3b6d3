r"""Quadratic programs in one form, whatever their data were given as.

.. math::  \min_x \tfrac12 x^T P x + q^T x \quad\text{subject to}\quad l \le A x \le u.

A row with :math:`l_i = u_i` is an equality; a bound may be infinite. The matrices are dense, sparse, or functions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._compat import is_concrete, is_sparse
from jaxsolve._types import Array, PyTree

__all__ = [
    "DenseMatrix",
    "FunctionMatrix",
    "Matrix",
    "QuadraticProgram",
    "SparseMatrix",
    "as_quadratic",
    "as_rows",
    "check_bounds",
    "compute_dtype",
    "flat",
    "identity_rows",
    "pair",
    "stack",
    "unraveled",
    "weighted_gram",
]


# ---- Matrices -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class DenseMatrix:
    """A matrix given by its entries."""

    array: Array

    @property
    def shape(self) -> tuple[int, int]:
        return self.array.shape[0], self.array.shape[1]

    def matvec(self, x: Array) -> Array:
        return self.array @ x

    def rmatvec(self, y: Array) -> Array:
        return y @ self.array

    def dense(self) -> Array:
        return self.array

    def largest(self, rows: Array, columns: Array) -> tuple[Array, Array]:
        """Largest absolute entry of each row and column of ``diag(rows) |A| diag(columns)``."""
        scaled = jnp.abs(self.array) * rows[:, None] * columns[None, :]
        return jnp.max(scaled, axis=1, initial=0), jnp.max(scaled, axis=0, initial=0)

    def scaled(self, rows: Array, columns: Array) -> DenseMatrix:
        return DenseMatrix(self.array * rows[:, None] * columns[None, :])

    def squared_column_sums(self, weights: Array) -> Array:
        """Diagonal of ``A^T diag(weights) A``."""
        return weights @ self.array**2

    def diagonal(self) -> Array:
        return jnp.diagonal(self.array)


@dataclasses.dataclass(frozen=True)
class SparseMatrix:
    """A matrix given by its non-zero entries; indices beyond the shape are padding."""

    data: Array
    rows: Array
    columns: Array
    shape: tuple[int, int]

    def matvec(self, x: Array) -> Array:
        taken = x.at[self.columns].get(mode="fill", fill_value=0)
        return jnp.zeros(self.shape[0], x.dtype).at[self.rows].add(self.data * taken, mode="drop")

    def rmatvec(self, y: Array) -> Array:
        return SparseMatrix(self.data, self.columns, self.rows, (self.shape[1], self.shape[0])).matvec(y)

    def dense(self) -> Array:
        return jnp.zeros(self.shape, self.data.dtype).at[self.rows, self.columns].add(self.data, mode="drop")

    def largest(self, rows: Array, columns: Array) -> tuple[Array, Array]:
        scaled = jnp.abs(self.scaled(rows, columns).data)
        return tuple(
            jnp.zeros(size, scaled.dtype).at[index].max(scaled, mode="drop")
            for size, index in zip(self.shape, (self.rows, self.columns), strict=True)
        )  # type: ignore[return-value]  # a pair

    def scaled(self, rows: Array, columns: Array) -> SparseMatrix:
        left = rows.at[self.rows].get(mode="fill", fill_value=0)
        right = columns.at[self.columns].get(mode="fill", fill_value=0)
        return dataclasses.replace(self, data=self.data * left * right)

    def squared_column_sums(self, weights: Array) -> Array:
        return dataclasses.replace(self, data=self.data**2).rmatvec(weights)

    def diagonal(self) -> Array:
        on_diagonal = jnp.where(self.rows == self.columns, self.data, 0)
        return jnp.zeros(self.shape[0], self.data.dtype).at[self.rows].add(on_diagonal, mode="drop")


@dataclasses.dataclass(frozen=True)
class FunctionMatrix:
    """A matrix given by its products: a linear function of vectors."""

    function: Callable[[Array], Array]
    shape: tuple[int, int]
    dtype: Any
    symmetric: bool = False

    def matvec(self, x: Array) -> Array:
        return self.function(x)

    def rmatvec(self, y: Array) -> Array:
        if self.symmetric:
            return self.function(y)
        return jax.linear_transpose(self.function, jax.ShapeDtypeStruct(self.shape[1:], self.dtype))(y)[0]

    def dense(self) -> Array:
        return jax.vmap(self.function, in_axes=1, out_axes=1)(jnp.eye(self.shape[1], dtype=self.dtype))

    def scaled(self, rows: Array, columns: Array) -> FunctionMatrix:
        return dataclasses.replace(self, function=lambda x: rows * self.function(columns * x))


Matrix = DenseMatrix | SparseMatrix | FunctionMatrix


def weighted_gram(A: Array, weights: Array) -> Array:
    """``A^T diag(weights) A`` for an array of shape ``(m, n)``."""
    # A transposed copy costs less than a product that walks through its operand across the rows: half the time of a
    # batch of 64 on CPU.
    return lax.optimization_barrier((weights[:, None] * A).T) @ A


def _as_matrix(name: str, value: Any, columns: int | None, dtype) -> DenseMatrix | SparseMatrix:
    shape = getattr(value, "shape", None)
    if shape is None or len(shape) != 2:
        found = f"shape {shape}" if shape is not None else type(value).__name__
        raise ValueError(
            f"{name} must be a matrix, got {found}; for a matrix given by its products pass the function that computes "
            "them to the solver (matvec_Q, matvec_A, matvec_G)."
        )
    if columns is not None and shape[1] != columns:
        raise ValueError(f"{name} must have one column for each of the {columns} variables, got shape {shape}.")
    if is_sparse(value):
        coordinates = value if hasattr(value, "indices") and not hasattr(value, "indptr") else value.to_bcoo()
        if coordinates.n_batch or coordinates.n_dense:
            raise ValueError(f"{name} must be sparse in both axes, got {value}.")
        indices = coordinates.indices
        return SparseMatrix(coordinates.data.astype(dtype), indices[:, 0], indices[:, 1], tuple(shape))
    return DenseMatrix(jnp.asarray(value).astype(dtype))


def stack(blocks: list[Matrix], objective: Quadratic) -> Matrix:
    """The matrices on top of each other; without any, one with no rows."""
    size, dtype = objective.q.size, objective.q.dtype
    if not blocks:
        return DenseMatrix(jnp.zeros((0, size), dtype))
    if len(blocks) == 1:
        return blocks[0]
    if all(isinstance(block, DenseMatrix) for block in blocks):
        return DenseMatrix(jnp.concatenate([block.dense() for block in blocks]))
    starts = np.cumsum([0, *(block.shape[0] for block in blocks)])
    shape = (int(starts[-1]), size)
    if any(isinstance(block, FunctionMatrix) for block in blocks):
        return FunctionMatrix(lambda x: jnp.concatenate([block.matvec(x) for block in blocks]), shape, dtype)
    entries = [_as_sparse(block) for block in blocks]
    # The padding of an upper block must not point into a lower one.
    rows = [
        jnp.where(block.rows < block.shape[0], block.rows + int(start), shape[0])
        for block, start in zip(entries, starts[:-1], strict=True)
    ]
    columns = [block.columns for block in entries]
    data = [block.data for block in entries]
    return SparseMatrix(jnp.concatenate(data), jnp.concatenate(rows), jnp.concatenate(columns), shape)


def _as_sparse(matrix):
    if isinstance(matrix, SparseMatrix):
        return matrix
    rows, columns = jnp.indices(matrix.shape, dtype=jnp.int32).reshape(2, -1)
    return SparseMatrix(matrix.dense().reshape(-1), rows, columns, matrix.shape)


# ---- Problems -----------------------------------------------------------------------------------------------------


class QuadraticProgram(NamedTuple):
    """A quadratic program over vectors.

    Attributes:
        P: matrix of shape ``(n, n)``, symmetric positive semidefinite.
        q: shape ``(n,)``.
        A: matrix of shape ``(m, n)``.
        lower: shape ``(m,)``.
        upper: shape ``(m,)``.
    """

    P: Matrix
    q: Array
    A: Matrix
    lower: Array
    upper: Array

    @property
    def num_variables(self) -> int:
        return self.q.shape[0]

    @property
    def num_rows(self) -> int:
        return self.lower.shape[0]

    @property
    def has_entries(self) -> bool:
        """Whether single entries of the matrices can be looked at."""
        return not any(isinstance(matrix, FunctionMatrix) for matrix in (self.P, self.A))

    @property
    def is_dense(self) -> bool:
        return isinstance(self.P, DenseMatrix) and isinstance(self.A, DenseMatrix)

    def dense(self) -> QuadraticProgram:
        """The same problem with dense matrices."""
        return self._replace(P=DenseMatrix(self.P.dense()), A=DenseMatrix(self.A.dense()))

    def value(self, x: Array) -> Array:
        """The objective."""
        return 0.5 * (x @ self.P.matvec(x)) + self.q @ x


class Quadratic(NamedTuple):
    """An objective: ``P``, ``q``, the map from vectors to the pytrees of the user, and the dtype of these."""

    P: Matrix
    q: Array
    unravel: Callable[[Array], PyTree]
    dtype: Any


def compute_dtype(tree: PyTree) -> Any:
    """The dtype in which a problem with this linear term is solved: the widest of its leaves, float32 at least."""
    dtypes = [jnp.result_type(leaf, float) for leaf in jax.tree.leaves(tree)]
    return max([*dtypes, jnp.dtype(jnp.float32)], key=lambda dtype: jnp.finfo(dtype).bits)


def flat(tree: PyTree, dtype: Any) -> Array:
    """The vector of a pytree, in a dtype."""
    leaves = [jnp.ravel(leaf).astype(dtype) for leaf in jax.tree.leaves(tree)]
    return jnp.concatenate(leaves) if leaves else jnp.zeros(0, dtype)


def unraveled(like: PyTree) -> Callable[[Array], PyTree]:
    """The map from vectors of any dtype to pytrees like ``like``."""
    leaves, treedef = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def unravel(vector):
        parts = zip(leaves, jnp.split(vector, ends), strict=False)  # no leaves, and one part that is empty
        return jax.tree.unflatten(treedef, [part.reshape(leaf.shape).astype(leaf.dtype) for leaf, part in parts])

    return unravel


def as_quadratic(
    params_obj: Any, matvec_Q: Callable | None = None, fun: Callable | None = None, like: PyTree = None
) -> Quadratic:
    """The objective as the user gave it.

    Args:
        params_obj: ``(Q, c)``, with ``Q`` a dense or sparse matrix, the parameters of ``matvec_Q``, or ``None`` for a
            linear objective; or the parameters of ``fun``.
        matvec_Q: ``matvec_Q(params_Q, x)``, the product with a symmetric matrix.
        fun: ``fun(x, params_obj)``, a quadratic function.
        like: pytree like ``x``; needed with ``fun``.

    Raises:
        TypeError: ``params_obj`` is no pair.
        ValueError: shapes do not fit.
    """
    if fun is not None:
        if like is None:
            raise ValueError("an objective given by fun needs init_params, which says what its variables look like.")
        zeros = jax.tree.map(lambda leaf: jnp.zeros_like(_as_float(leaf)), like)
        zero, unravel = flat(zeros, compute_dtype(zeros)), unraveled(zeros)
        q, hessian = jax.linearize(jax.grad(lambda x: fun(unravel(x), params_obj)), zero)
        P = FunctionMatrix(hessian, (zero.size, zero.size), zero.dtype, symmetric=True)
        return Quadratic(P, q, unravel, jax.tree.leaves(zeros)[0].dtype)
    params_Q, c = pair("params_obj", params_obj, "(Q, c)")
    c = jax.tree.map(_as_float, c)
    q, unravel = flat(c, compute_dtype(c)), unraveled(c)
    if not q.size:
        raise ValueError("c must have at least one entry, one for each variable.")
    size, dtype = q.size, jax.tree.leaves(c)[0].dtype
    if matvec_Q is not None:

        def product(x):
            return flat(matvec_Q(params_Q, unravel(x)), q.dtype)

        if (got := jax.eval_shape(product, q).size) != size:
            raise ValueError(f"matvec_Q must return as many entries as x has, {size}, but returned {got}.")
        return Quadratic(FunctionMatrix(product, (size, size), q.dtype, symmetric=True), q, unravel, dtype)
    if params_Q is None:
        return Quadratic(DenseMatrix(jnp.zeros((size, size), q.dtype)), q, unravel, dtype)
    P = _as_matrix("Q", params_Q, size, q.dtype)
    if P.shape[0] != size:
        raise ValueError(f"Q must be square of size {size}, the number of entries of c, got shape {P.shape}.")
    if isinstance(P, DenseMatrix):
        # Only the symmetric part enters the objective, and its derivative says so.
        P = DenseMatrix(0.5 * (P.array + P.array.T))
    return Quadratic(P, q, unravel, dtype)


class Rows(NamedTuple):
    """A matrix of constraints, and the map from vectors of multipliers to the user's pytrees."""

    matrix: Matrix
    unravel: Callable[[Array], PyTree]
    dtype: Any

    @property
    def size(self) -> tuple[int, Any]:
        """The number of rows, and the dtype of their bounds."""
        return self.matrix.shape[0], self.dtype


def identity_rows(objective: Quadratic, others: list[Matrix]) -> Rows:
    """The variables themselves as rows, by their entries if all other matrices are sparse or functions."""
    q = objective.q
    index = jnp.arange(q.size)
    identity = SparseMatrix(jnp.ones_like(q), index, index, (q.size, q.size))
    dense = all(isinstance(matrix, DenseMatrix) for matrix in (objective.P, *others))
    return Rows(DenseMatrix(jnp.eye(q.size, dtype=q.dtype)) if dense else identity, objective.unravel, q.dtype)


def as_rows(name: str, params_A: Any, objective: Quadratic, matvec: Callable | None = None) -> Rows:
    """Constraints as the user gave them.

    Args:
        name: of the matrix, for messages.
        params_A: a dense or sparse matrix, or the parameters of ``matvec``.
        objective: what is minimized.
        matvec: ``matvec(params_A, x)``, a linear function of ``x``.
    """
    q = objective.q
    if matvec is None:
        matrix = _as_matrix(name, params_A, q.size, q.dtype)
        return Rows(matrix, lambda y: y.astype(objective.dtype), q.dtype)
    rows = jax.eval_shape(lambda x: matvec(params_A, objective.unravel(x)), q)
    size = sum(leaf.size for leaf in jax.tree.leaves(rows))

    def product(x):
        return flat(matvec(params_A, objective.unravel(x)), q.dtype)

    return Rows(FunctionMatrix(product, (size, q.size), q.dtype), unraveled(rows), q.dtype)


def as_vector(name: str, value: Any, size: int, dtype) -> Array:
    """A right-hand side as a vector; a number stands for as many entries as there are rows."""
    leaves = jax.tree.leaves(value)
    if len(leaves) == 1 and jnp.ndim(leaves[0]) == 0:
        return jnp.broadcast_to(jnp.asarray(leaves[0]).astype(dtype), (size,))
    vector = flat(value, dtype)
    if vector.size != size:
        raise ValueError(f"{name} must have {size} entries, one for each row of the matrix, got {vector.size}.")
    return vector


def check_bounds(lower: Any, upper: Any, names: tuple[str, str] = ("l", "u")) -> None:
    """Raise ``ValueError`` for concrete bounds that no number satisfies."""
    for name, bound in zip(names, (lower, upper), strict=True):
        for leaf in jax.tree.leaves(bound):
            if is_concrete(leaf) and np.any(np.isnan(np.asarray(leaf, dtype=float))):
                raise ValueError(f"{name} must not be NaN; an absent bound is infinite.")
    pairs = zip(jax.tree.leaves(lower), jax.tree.leaves(upper), strict=False)
    for low, high in pairs:
        if not (is_concrete(low) and is_concrete(high)):
            continue
        low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
        try:
            wrong = np.any((low > high) | (low == np.inf) | (high == -np.inf))
        except ValueError:
            continue  # shapes that do not fit are found, and named, where they are used
        if wrong:
            raise ValueError(f"{names[0]} must not exceed {names[1]}, got {names[0]}={low} and {names[1]}={high}.")


def _as_float(leaf):
    leaf = jnp.asarray(leaf)
    return leaf if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.astype(jnp.result_type(float))


def pair(name: str, value: Any, meaning: str) -> tuple[Any, Any]:
    """The two parts of an argument; ``TypeError`` if it has not two."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} must be a pair {meaning}, got {type(value).__name__}.")
    return value[0], value[1]
