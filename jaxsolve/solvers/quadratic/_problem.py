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

from jaxsolve._compat import is_concrete
from jaxsolve._inputs import widen
from jaxsolve._operators import (
    DenseMatrix,
    DiagonalMatrix,
    FunctionMatrix,
    Matrix,
    SparseMatrix,
    from_entries,
    stack,
)
from jaxsolve._types import Array, PyTree
from jaxsolve._vectors import flat, unraveled
from jaxsolve.solvers._data import joined, pair
from jaxsolve.tree_util import tree_real_dtype

__all__ = [
    "Constraints",
    "INFINITE",
    "DenseMatrix",
    "QuadraticProgram",
    "as_matrix",
    "as_quadratic",
    "as_vector",
    "assemble",
    "check_bounds",
    "flat",
    "is_factorized",
    "unraveled",
]


def as_matrix(name: str, value: Any, size: int, dtype: Any) -> DenseMatrix | SparseMatrix:
    """A matrix given by its entries, with a column for each of so many variables."""
    shape = getattr(value, "shape", None)
    if shape is None or len(shape) != 2:
        found = f"shape {shape}" if shape is not None else type(value).__name__
        raise ValueError(
            f"{name} must be a matrix, got {found}; for a matrix given by its products pass the function that computes "
            "them to the solver (matvec_Q, matvec_A, matvec_G)."
        )
    if shape[1] != size:
        raise ValueError(f"{name} must have one column for each of the {size} variables, got shape {shape}.")
    return from_entries(value, dtype, name)


#: A dense matrix of so many entries is made to be factorized; or one that has so many times the entries of the data.
_MOST_FACTORIZED, _NO_LARGER = 8_000_000, 4


def is_factorized(size: int, entries: int) -> bool:
    """Whether a dense matrix for so many variables is made and factorized: if it is not too large.

    Args:
        size: the number of variables.
        entries: how many numbers the matrices of the problem are given by.
    """
    return size**2 <= max(_MOST_FACTORIZED, _NO_LARGER * entries)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Sides:
    """Which bounds inequalities may have, as far as it is known without any data.

    Attributes:
        lower: whether one may have a lower bound.
    """

    lower: bool = True


class QuadraticProgram(NamedTuple):
    """A quadratic program over vectors.

    Attributes:
        P: matrix of shape ``(n, n)``, symmetric positive semidefinite.
        q: shape ``(n,)``.
        A: matrix of shape ``(m, n)``.
        lower: shape ``(m,)``.
        upper: shape ``(m,)``.
        sides: which of them may be finite.
    """

    P: Matrix
    q: Array
    A: Matrix
    lower: Array
    upper: Array
    sides: Sides = Sides()

    @property
    def num_variables(self) -> int:
        return self.q.shape[0]

    @property
    def has_entries(self) -> bool:
        """Whether single entries of the matrices can be looked at."""
        return self.P.has_entries and self.A.has_entries

    @property
    def has_factor(self) -> bool:
        """Whether a dense matrix of shape ``(n, n)`` is to be made and factorized: else there are products only.

        A dense P always is, others as :func:`is_factorized` says.
        """
        if not self.has_entries or isinstance(self.P, DenseMatrix):
            return self.has_entries
        return is_factorized(self.num_variables, self.P.size + self.A.size)

    def with_factor(self) -> QuadraticProgram:
        """The same problem for a factorization whatever its size: P is dense, and A is given by its entries."""
        A = self.A if self.A.has_entries else DenseMatrix(self.A.dense())
        return self._replace(P=DenseMatrix(self.P.dense()), A=A)

    def dense(self) -> QuadraticProgram:
        """The same problem with dense matrices."""
        return self._replace(P=DenseMatrix(self.P.dense()), A=DenseMatrix(self.A.dense()))

    def value(self, x: Array) -> Array:
        """The objective."""
        return 0.5 * (x @ self.P.matvec(x)) + self.q @ x


class Quadratic(NamedTuple):
    """An objective.

    Attributes:
        P: matrix of shape ``(n, n)``; diagonal if none was given.
        q: shape ``(n,)``.
        unravel: the map from vectors to the pytrees of the user.
        dtype: that of these.
        variables: the same map for the functions of the user, which compute in float32 at least.
    """

    P: Matrix
    q: Array
    unravel: Callable[[Array], PyTree]
    dtype: Any
    variables: Callable[[Array], PyTree]


def as_quadratic(
    params_obj: Any,
    matvec_Q: Callable | None = None,
    fun: Callable | None = None,
    like: PyTree = None,
    name: str = "Q",
) -> Quadratic:
    """The objective as the user gave it.

    Args:
        params_obj: ``(Q, c)``, with ``Q`` a dense or sparse matrix, the parameters of ``matvec_Q``, or ``None`` for a
            linear objective; or the parameters of ``fun``.
        matvec_Q: ``matvec_Q(params_Q, x)``, the product with a symmetric matrix.
        fun: ``fun(x, params_obj)``, a quadratic function.
        like: pytree like ``x``; needed with ``fun``.
        name: of the matrix, for messages.

    Raises:
        TypeError: ``params_obj`` is not a pair.
        ValueError: shapes do not fit.
    """
    if fun is not None:
        if like is None:
            raise ValueError("an objective given by fun needs init_params, which says what its variables look like.")
        like, params = jax.tree.map(_as_float, like), _wide(params_obj)
        c, hessian = jax.linearize(jax.grad(lambda x: fun(x, params)), widen(jax.tree.map(jnp.zeros_like, like)))
        params_obj, matvec_Q = (None, c), lambda _, x: hessian(x)
    params_Q, c = pair("params_obj", params_obj, f"({name}, c)")
    c = jax.tree.map(_as_float, c)
    like = c if fun is None else like
    q, unravel, variables = flat(c, tree_real_dtype(c)), unraveled(like), unraveled(widen(c))
    if not q.size:
        raise ValueError("c must have at least one entry, one for each variable.")
    size, dtype = q.size, jax.tree.leaves(like)[0].dtype
    if matvec_Q is not None:
        params_Q = _wide(params_Q)

        def product(x):
            return flat(matvec_Q(params_Q, variables(x)), q.dtype)

        if (got := jax.eval_shape(product, q).size) != size:
            raise ValueError(f"matvec_{name} must return as many entries as x has, {size}, but returned {got}.")
        return Quadratic(FunctionMatrix(product, (size, size), q.dtype), q, unravel, dtype, variables)
    if params_Q is None:
        return Quadratic(DiagonalMatrix(jnp.zeros_like(q)), q, unravel, dtype, variables)
    matrix, rows = joined(name, params_Q, c, q.dtype)
    if rows is not None and _sizes(rows) != _sizes(c):
        raise ValueError(f"{name} must be square, with as many rows as c has entries, {_sizes(c)}, got {_sizes(rows)}.")
    P = as_matrix(name, matrix, size, q.dtype)
    if P.shape[0] != size:
        raise ValueError(
            f"{name} must be square of size {size}, the number of entries of c, got shape {jnp.shape(params_Q)}."
        )
    # Only the symmetric part enters the objective, and its derivative says so.
    P = P.symmetric_part() if isinstance(P, SparseMatrix) else DenseMatrix(0.5 * (P.array + P.array.T))
    return Quadratic(P, q, unravel, dtype, variables)


def _sizes(tree: PyTree) -> list[int]:
    return [leaf.size for leaf in jax.tree.leaves(tree)]


def _wide(tree: PyTree) -> PyTree:
    """Parameters of a function with float32 in place of half precision."""

    def up(leaf):
        dtype = getattr(leaf, "dtype", None)
        half = dtype is not None and jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
        return leaf.astype(jnp.float32) if half else leaf

    return jax.tree.map(up, tree)


class Constraints(NamedTuple):
    """Rows with bounds, as the user gave them.

    Attributes:
        matvec: ``matvec(params, x)``, a linear function of ``x``; ``None`` for a matrix given by its entries.
        params: its parameters, or a dense or sparse matrix.
        lower: a pytree like the rows, or a number.
        upper: likewise; the same object for equalities.
        names: of the bounds, for messages.
    """

    matvec: Callable | None
    params: Any
    lower: Any
    upper: Any
    names: tuple[str, str] = ("l", "u")

    @property
    def has_lower(self) -> bool:
        """Whether a row may be an inequality with a lower bound."""
        absent = isinstance(self.lower, float) and self.lower == -np.inf
        return not (absent or self.lower is self.upper)


def assemble(
    objective: Quadratic, constraints: dict[str, Constraints]
) -> tuple[QuadraticProgram, Callable[[Array], PyTree], Callable[[Array], dict[str, PyTree]]]:
    """The problem in one form.

    Args:
        objective: what is minimized.
        constraints: by the names of their matrices; those named ``"x"`` are bounds of the variables.

    Returns:
        The problem, and the maps from vectors to the user's variables and, by name, to pytrees like the rows.
    """
    P, q, unravel_x, *_ = objective
    matrices, unravels, sides = [], {}, ([], [])
    parts = {name: _rows(name, given, objective) for name, given in constraints.items() if name != "x"}
    rows = [matrix for matrix, _ in parts.values()]
    if isinstance(P, DiagonalMatrix) and all(isinstance(matrix, DenseMatrix) for matrix in rows):
        P = DenseMatrix(P.dense())  # what was not given is like all the rest
    parts["x"] = _identity(q, [P, *rows]), unravel_x
    for name, given in constraints.items():
        matrix, unravels[name] = parts[name]
        matrices.append(matrix)
        like = jax.eval_shape(unravels[name], jax.ShapeDtypeStruct(matrix.shape[:1], q.dtype))
        for side, label, bound in zip(sides, given.names, (given.lower, given.upper), strict=True):
            side.append(_unbounded(as_vector(label, bound, matrix.shape[0], q.dtype, like)))
    ends = np.cumsum([matrix.shape[0] for matrix in matrices])[:-1]

    def unravel_rows(y):
        parts = zip(unravels.items(), jnp.split(y, ends), strict=False)  # no rows, and one part that is empty
        return {name: unravel(part) for (name, unravel), part in parts}

    lower, upper = (jnp.concatenate(side or [jnp.zeros(0, q.dtype)]) for side in sides)
    sides = Sides(lower=any(given.has_lower for given in constraints.values()))
    return QuadraticProgram(P, q, stack(matrices, q.size, q.dtype), lower, upper, sides), unravel_x, unravel_rows


#: From here on a bound means that there is none: HiGHS and qpOASES write 1e20 for infinity, OSQP writes 1e30.
INFINITE = 1e20


def _unbounded(bound: Array) -> Array:
    """A bound with what other libraries write for infinity as infinity."""
    return jnp.where(jnp.abs(bound) >= INFINITE, jnp.sign(bound) * jnp.inf, bound)


def _identity(q: Array, others: list[Matrix]) -> Matrix:
    """The variables themselves as rows: dense if all other matrices are."""
    if all(isinstance(matrix, DenseMatrix) for matrix in others):
        return DenseMatrix(jnp.eye(q.size, dtype=q.dtype))
    return DiagonalMatrix(jnp.ones_like(q))


def _rows(name: str, given: Constraints, objective: Quadratic) -> tuple[Matrix, Callable]:
    """The matrix of constraints, and the map from vectors to pytrees like the rows."""
    q, (matvec, params, *_) = objective.q, given
    if matvec is None:
        like = jax.eval_shape(objective.unravel, q)
        params, rows = joined(name, params, like, q.dtype)
        matrix = as_matrix(name, params, q.size, q.dtype)
        rows = jax.ShapeDtypeStruct(matrix.shape[:1], q.dtype) if rows is None else rows
    else:
        params = _wide(params)

        def product(x):
            return flat(matvec(params, objective.variables(x)), q.dtype)

        rows = jax.eval_shape(lambda x: matvec(params, objective.variables(x)), q)
        matrix = FunctionMatrix(product, (sum(_sizes(rows)), q.size), q.dtype)
    return matrix, unraveled(jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, objective.dtype), rows))


def as_vector(name: str, value: Any, size: int, dtype: Any, rows: PyTree = None) -> Array:
    """A right-hand side as a vector; a number stands for as many entries as there are rows.

    Args:
        name: for messages.
        value: a number, a vector, or a pytree like the rows, whose leaves may be numbers.
        size: how many rows there are.
        dtype: of the vector.
        rows: pytree of structs like the rows, if the shapes of its leaves count.

    Raises:
        ValueError: the sizes do not fit.
    """
    leaves = jax.tree.leaves(value)
    if len(leaves) == 1 and jnp.ndim(leaves[0]) == 0:
        return jnp.broadcast_to(jnp.asarray(leaves[0]).astype(dtype), (size,))
    wanted = jax.tree.leaves(rows)
    if len(wanted) == len(leaves):
        parts = zip(leaves, wanted, strict=True)
        leaves = [jnp.broadcast_to(leaf, like.shape) if jnp.ndim(leaf) == 0 else leaf for leaf, like in parts]
        wrong = [jnp.shape(leaf) for leaf, like in zip(leaves, wanted, strict=True) if not _fits(leaf, like)]
        if wrong:
            where = f", in leaves of the shapes {[like.shape for like in wanted]}" if len(wanted) > 1 else ""
            raise ValueError(
                f"{name} must have {size} entries, one for each row or variable{where}, got shape {wrong[0]}."
            )
    vector = flat(leaves, dtype)
    if vector.size != size:
        raise ValueError(f"{name} must have {size} entries, one for each row or variable, got {vector.size}.")
    return vector


def _fits(leaf: Any, like: Any) -> bool:
    """Whether an array has a shape, or is a row or column with as many entries."""
    shape = jnp.shape(leaf)
    return shape == like.shape or (jnp.size(leaf) == like.size and (like.size == 0 or max(shape) == like.size))


def check_bounds(lower: Any, upper: Any, names: tuple[str, str] = ("l", "u")) -> None:
    """Raise ``ValueError`` for concrete bounds that no number satisfies."""
    for name, bound in zip(names, (lower, upper), strict=True):
        for leaf in jax.tree.leaves(bound):
            if is_concrete(leaf) and np.any(np.isnan(np.asarray(leaf, dtype=float))):
                raise ValueError(f"{name} must not be NaN; an absent bound is infinite.")
    lows, highs = jax.tree.leaves(lower), jax.tree.leaves(upper)
    for low, high in zip(lows * len(highs) if len(lows) == 1 else lows, highs, strict=False):
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
