r"""The elastic form of a quadratic program: rows may be violated, at a price.

.. math::

    \min_{l \le x \le u,\; s}\; \tfrac12 x^T Q x + c^T x + w^T s \quad\text{subject to}\quad
    -s \le A x - b \le s,\quad G x - h \le s,\quad s \ge 0.

The penalty is exact: where the constraints can be satisfied and every weight is larger than the multiplier of its row,
the solution is that of the program without slacks. Where they contradict each other, it is the point of the least
weighted sum of violations in the limit of large weights. The slacks become variables of an ordinary program, so that
methods, polishing and derivatives are those of every other one. With two slacks for an equality, one for each
direction, a slack is 0 or its row is at its bound, and no row has two multipliers.

A weight far above the other multipliers hides them: where rows are violated, theirs are as large as the weights. But
nothing changes there any more. With weights :math:`\tau w`, solutions go along a line as long as the active set stays
the same, :math:`x + \delta x,\ y + \delta y`, and an exact penalty is one with :math:`\delta x = 0`. So a program with
large weights is solved with small ones, and the multipliers follow the line (:func:`at_full_price`). Where that is
not what happens, larger weights are tried, up to those that were given.

Reference:
    Nocedal and Wright (2006), "Numerical optimization", section 17.2; Gill, Murray and Saunders (2005), "SNOPT: an SQP
    algorithm for large-scale constrained optimization", section 1.3.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._compat import is_concrete
from jaxsolve._inputs import power_of_two
from jaxsolve._operators import DenseMatrix, DiagonalMatrix, FunctionMatrix, Matrix, SparseMatrix, as_sparse
from jaxsolve._types import Array, KKTSolution, PyTree
from jaxsolve._vectors import unraveled
from jaxsolve.solvers.quadratic._form import GeneralForm, Program, Solution
from jaxsolve.solvers.quadratic._kkt import Factors, solve_kkt
from jaxsolve.solvers.quadratic._problem import QuadraticProgram, as_vector
from jaxsolve.solvers.quadratic._residuals import norm
from jaxsolve.solvers.quadratic._scaling import equilibrate

__all__ = ["ElasticForm", "as_weights", "at_full_price", "check_weights", "counts", "first_share", "violations"]


class ElasticForm(GeneralForm):
    r"""The general form with violations at a price.

    ``run(init_params, params_obj, params_eq, params_ineq, params_bounds, weights)`` returns
    ``KKTSolution((x, slacks), dual_eq, (dual_ineq, dual_bounds, dual_slacks))``. The slacks are a vector: the amounts
    by which the rows of A and of G exceed their right-hand sides, and those by which the rows of A fall short. A row of
    infinite weight keeps its slacks at 0.
    """

    arguments = {**GeneralForm.arguments, "weights": "elastic"}

    def without_slacks(self) -> GeneralForm:
        """The form in which no row may be violated; its data are the same but for the weights."""
        return GeneralForm(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    def constraints(self, size, params_eq=None, params_ineq=None, params_bounds=None, weights=None):
        return super().constraints(size, params_eq, params_ineq, params_bounds)

    def program(self, like: PyTree, params_obj: Any, *data: Any) -> Program:
        program = super().program(like, params_obj, *data)
        *_, elastic = data
        qp, size = program.qp, program.qp.num_variables
        num_eq, num_soft = counts(program)
        num_rows = qp.lower.size
        sizes = {"A": num_eq, "G": num_soft - num_eq}
        weights = jnp.concatenate(as_weights(elastic, sizes, qp.q.dtype))
        qp = _with_slacks(qp, num_eq, weights)

        def unravel_x(x):
            user_x = program.unravel_x(x[:size])
            return user_x, x[size:].astype(jax.tree.leaves(user_x)[0].dtype)

        def unravel_rows(y):
            like = program.unravel_rows(y[:num_rows])
            return like | {"slacks": y[num_rows:].astype(jax.tree.leaves(like)[0].dtype)}

        return Program(qp, unravel_x, unravel_rows)

    def usual_costs(self, program: Any) -> Array:
        """Without the weights, which are what they are whatever is usual: 0 for the slacks."""
        num_eq, num_soft = counts(program)
        return program.qp.q.at[-(num_eq + num_soft) :].set(0)

    def solution(self, program: Any, solution: Solution) -> KKTSolution:
        """``KKTSolution((x, slacks), dual_eq, (dual_ineq, dual_bounds, dual_slacks))``."""
        duals = program.unravel_rows(solution.y)
        return KKTSolution(
            program.unravel_x(solution.x), duals.get("A"), (duals.get("G"), duals.get("x"), duals["slacks"])
        )

    def start(self, program: Any, init_params: PyTree) -> tuple[Array, Array]:
        """A start of the program without slacks, ``x`` and multipliers, with the slacks that belong to it."""
        x, y = (part if jax.tree.leaves(part) else 0.0 for part in self.parts(init_params))
        qp, dtype = program.qp, program.qp.q.dtype
        num_eq, num_soft = counts(program)
        num_slacks = num_soft + num_eq
        x = as_vector("init_params.primal", x, qp.num_variables - num_slacks, dtype)
        y = as_vector("the multipliers", y, qp.lower.size - num_slacks, dtype)
        return self.settled(program, *(jnp.pad(part, (0, num_slacks)) for part in (x, y)))

    def settled(self, program: Any, x: Array, y: Array) -> tuple[Array, Array]:
        """The same point with the slacks that its rows need, and multipliers of rows that weights allow."""
        qp, (num_eq, num_soft) = program.qp, counts(program)
        num_slacks = num_soft + num_eq
        weights, most = qp.q[-num_slacks:], qp.upper[-num_slacks:]
        x, y = x.at[-num_slacks:].set(0), y[:-num_slacks]
        Ax = qp.A.matvec(x)
        slacks = jnp.concatenate([(Ax - qp.upper)[:num_soft], (qp.lower - Ax)[:num_eq]])
        x = x.at[-num_slacks:].set(jnp.clip(slacks, 0, most))
        # Stationarity in a slack: the multiplier of its bound makes up for what that of the row leaves of the weight.
        dearest = jnp.where(most > 0, weights, jnp.inf)
        y = y.at[:num_soft].min(dearest[:num_soft]).at[:num_eq].max(-dearest[num_soft:])
        return x, jnp.concatenate([y, jnp.concatenate([y[:num_soft], -y[:num_eq]]) - weights])


def check_weights(elastic: Any) -> None:
    """Raise for concrete weights of violations that are no positive numbers.

    Raises:
        TypeError: an entry is no number.
        ValueError: an entry is NaN, 0 or negative.
    """
    for leaf in jax.tree.leaves(elastic):
        if isinstance(leaf, (str, bool)):
            raise TypeError(f"elastic must be a number or an array of weights, got {elastic!r}.")
        if is_concrete(leaf) and not np.all(np.asarray(leaf, dtype=float) > 0):
            raise ValueError(f"elastic must be positive, infinite for a row that must hold, got {leaf}.")


def as_weights(elastic: Any, sizes: dict[str, int], dtype: Any) -> list[Array]:
    """The weights as a vector for each kind of rows.

    Args:
        elastic: a number; if there are rows of one kind, a pytree like these; if of both, a pair of such parts.
        sizes: how many rows there are of each of the two kinds, by the names of their matrices.
        dtype: of the vectors.

    Raises:
        ValueError: shapes do not fit.
    """
    names, counts = zip(*sizes.items(), strict=True)
    parts = [elastic if count else 0.0 for count in counts]
    if all(counts) and not _is_number(elastic):
        # A pair of numbers may come as an array.
        if not (isinstance(elastic, (tuple, list)) or jnp.ndim(elastic) == 1) or len(elastic) != 2:
            raise ValueError(
                f"elastic must be a number, or a pair with the weights of the rows of {names[0]} and of {names[1]}, "
                f"got {type(elastic).__name__}."
            )
        parts = elastic
    rows = zip(names, parts, counts, strict=True)
    return [as_vector(f"elastic for {name}", part, count, dtype) for name, part, count in rows]


def violations(slacks: Array, dual_eq: PyTree, dual_ineq: PyTree) -> tuple[PyTree, PyTree]:
    """The amounts of violation, like the rows, ``None`` for no rows.

    Args:
        slacks: of :class:`ElasticForm`.
        dual_eq: multipliers of the equalities, or ``None``.
        dual_ineq: multipliers of the inequalities, or ``None``.
    """
    num_eq, num_ineq = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (dual_eq, dual_ineq))
    over, under = jnp.maximum(slacks[: num_eq + num_ineq], 0), jnp.maximum(slacks[num_eq + num_ineq :], 0)
    of_eq = None if dual_eq is None else unraveled(dual_eq)(over[:num_eq] + under)
    return of_eq, None if dual_ineq is None else unraveled(dual_ineq)(over[num_eq:])


def counts(program: Any) -> tuple[int, int]:
    """How many equalities there are, and how many rows that may be violated."""
    rows = program.unravel_rows(program.qp.lower)
    num_eq, num_ineq = (sum(leaf.size for leaf in jax.tree.leaves(rows.get(name))) for name in ("A", "G"))
    return num_eq, num_eq + num_ineq


def _usual_weight(dtype: Any) -> float:
    """In the units of the program, what the smallest weight is in the first attempt at most."""
    return 1e2 if jnp.finfo(dtype).bits == 64 else 10.0


def first_share(qp: QuadraticProgram, num_slacks: int) -> Array:
    """The part of the weights to begin with, a power of two, at most 1.

    Args:
        qp: the program with slacks, the last variables.
        num_slacks: how many they are.
    """
    qp = lax.stop_gradient(qp)
    free = qp._replace(q=qp.q.at[-num_slacks:].set(0))
    scaling, dtype = equilibrate(free), qp.q.dtype
    weights = (scaling.cost * scaling.variables * qp.q)[-num_slacks:]
    smallest = jnp.min(jnp.where(qp.upper[-num_slacks:] > 0, weights, jnp.inf))
    return jnp.minimum(power_of_two(_usual_weight(dtype) / jnp.where(jnp.isfinite(smallest), smallest, 1), 1.0), 1)


def at_full_price(
    qp: QuadraticProgram, y: Array, factors: Factors, num_slacks: int, share: Array
) -> tuple[Array, Array]:
    """The multipliers of a program, given the solution of the same program with a part of its weights.

    Args:
        qp: the program with slacks, the last variables.
        y: the multipliers of the solution.
        factors: its active set.
        num_slacks: how many slacks there are.
        share: the part.

    Returns:
        The multipliers, and whether the solution is that of the program: its active set is, and no variable moves.
    """
    weights, scaling = qp.q.at[:-num_slacks].set(0), factors.scaling
    dx, dy = solve_kkt(qp, -share * weights, jnp.zeros_like(y), factors)
    x_moves = norm(dx / scaling.variables)
    slopes = scaling.variables * share * weights
    left = norm(slopes + scaling.variables * (qp.P.matvec(dx) + qp.A.rmatvec(dy)))
    y = y + (1 / share - 1) * dy
    equality = qp.lower == qp.upper
    held = jnp.where(equality, y, jnp.where(factors.at_upper, jnp.maximum(y, 0), jnp.minimum(y, 0)))
    scaled, off = (scaling.cost / scaling.rows * part for part in (y, y - held))
    tiny = jnp.sqrt(jnp.finfo(y.dtype).eps)
    solved = (left <= tiny * norm(slopes)) & (norm(off) <= tiny * norm(scaled))
    return held, (x_moves <= tiny) & solved


def _is_number(value: Any) -> bool:
    return not isinstance(value, (tuple, list, dict)) and jnp.ndim(value) == 0


def _with_slacks(qp: QuadraticProgram, num_eq: int, weights: Array) -> QuadraticProgram:
    """The program with a variable and a row for each slack behind its own."""
    num_rows, size = qp.A.shape
    num_soft, dtype = weights.size, qp.q.dtype
    num_slacks = num_soft + num_eq
    soft, equalities, slacks = np.arange(num_soft), np.arange(num_eq), np.arange(num_slacks)
    rows = np.concatenate([soft, equalities, num_rows + slacks])
    columns = size + np.concatenate([slacks, slacks])
    entries = np.repeat([-1.0, 1.0, 1.0], [num_soft, num_eq, num_slacks])
    weights = jnp.concatenate([weights, weights[:num_eq]])
    hard = weights == jnp.inf
    total, none = size + num_slacks, np.zeros(0, int)
    return QuadraticProgram(
        P=_embedded(qp.P, (total, total), none, none, none, dtype),
        q=jnp.concatenate([qp.q, jnp.where(hard, 0, weights)]),
        A=_embedded(qp.A, (num_rows + num_slacks, total), rows, columns, entries, dtype),
        lower=jnp.concatenate([qp.lower, jnp.zeros(num_slacks, dtype)]),
        upper=jnp.concatenate([qp.upper, jnp.where(hard, 0, jnp.asarray(jnp.inf, dtype))]),
    )


def _embedded(
    matrix: Matrix, shape: tuple[int, int], rows: np.ndarray, columns: np.ndarray, entries: np.ndarray, dtype: Any
) -> Matrix:
    """The matrix in the upper left corner of a larger one that has further entries."""
    missing = (shape[0] - matrix.shape[0], shape[1] - matrix.shape[1])
    if isinstance(matrix, DenseMatrix):
        padded = jnp.pad(matrix.array, [(0, extra) for extra in missing])
        return DenseMatrix(padded.at[rows, columns].set(jnp.asarray(entries, padded.dtype)))
    if isinstance(matrix, SparseMatrix | DiagonalMatrix):
        matrix = as_sparse(matrix)
        ours, more = (matrix.data, matrix.rows, matrix.cols), (entries, rows, columns)
        parts = [jnp.concatenate([a, jnp.asarray(b, a.dtype)]) for a, b in zip(ours, more, strict=True)]
        return SparseMatrix(*parts, shape=shape)
    size = matrix.shape[1]

    def product(x):
        return (
            jnp.pad(matrix.matvec(x[:size]), (0, missing[0])).at[rows].add(jnp.asarray(entries, x.dtype) * x[columns])
        )

    return FunctionMatrix(product, shape, dtype)
