r"""The active set at a solution of a nonlinear program: polishing, the test for a minimum, and every derivative.

Near a solution a nonlinear program has the same active set as its local quadratic program, whose P is the Hessian of
the Lagrangian and whose A is the Jacobian of the rows. The linear system of this set is that of
:mod:`jaxsolve.solvers.quadratic._kkt`. Polishing is Newton's method with this system; with other right-hand sides the
system gives the derivatives. The mapping that is differentiated is

.. math::

    F(x, y) = \bigl(\nabla f + J^T y,\; a E (c(x) - b) - (1 - a) \gamma E^{-1} y\bigr),

for rows c with bounds b, of which those with :math:`a = 1` are active; E and :math:`\gamma` scale rows and multipliers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsolve._loop import loop
from jaxsolve._types import Array, KKTSolution, PyTree
from jaxsolve._vectors import flat
from jaxsolve.implicit_diff import TangentSystem
from jaxsolve.solvers.constrained._program import Local, NonlinearProgram
from jaxsolve.solvers.quadratic._active_set import classify
from jaxsolve.solvers.quadratic._kkt import Factors, balanced_weight, factorize, solve_kkt
from jaxsolve.solvers.quadratic._problem import DenseMatrix, QuadraticProgram
from jaxsolve.solvers.quadratic._residuals import norm
from jaxsolve.solvers.quadratic._scaling import Scaling, equilibrate, scale
from jaxsolve.tree_util import tree_where, tree_zeros_like

__all__ = ["ActiveSystem", "Point", "is_minimum", "optimality_error", "polished", "row_residual"]

_MOST_STEPS = 6
# What the turns of polishing do: improve the point, factorize for derivatives, weigh the weakly active rows.
_IMPROVING, _FACTORIZING, _WEIGHING, _OVER = 0, 1, 2, 3
# Curvature that is negative by less than this part of the largest is rounding.
_NO_CURVATURE = 1e-6


class Point(NamedTuple):
    """A point in the units of the user, with the multipliers of all rows and the program there."""

    x: Array
    y: Array
    at: Local


def optimality_error(program: NonlinearProgram, scaling: Scaling, point: Point) -> Array:
    """The largest residual of the optimality conditions in scaled units, over the size of the multipliers."""
    x, y, at = point
    unit = program.rows_at(1 / scaling.variables, scaling.rows)
    c, (lower, upper) = unit * program.rows_at(x, at.values[1:]), program.limits(at.values[1:])
    multiplier, slope = scaling.cost * y / unit, _slope(program, x, y, at)
    size = jnp.maximum(jnp.sum(jnp.abs(multiplier)) / max(y.size, 1), 100) / 100
    beyond = jnp.maximum(jnp.maximum(unit * lower - c, c - unit * upper), 0)
    # What a multiplier pushes against must be there, and near.
    bound = jnp.where(multiplier > 0, upper, lower)
    pushes = (multiplier != 0) & (lower < upper)
    distance = jnp.where(jnp.isfinite(bound), jnp.abs(unit * bound - c), 1)
    product = jnp.where(pushes, multiplier * jnp.where(pushes, distance, 0), 0)
    return norm(scaling.cost * scaling.variables * slope / size, beyond, product / size)


def _slope(program: NonlinearProgram, x: Array, y: Array, at: Local) -> Array:
    """The gradient of the Lagrangian."""
    slope = at.jacobian[0] + y[: at.values.size - 1] @ at.jacobian[1:]
    return slope + program.split(y)[2]


def row_residual(rows: Array, y: Array, limits: tuple[Array, Array], factors: Factors) -> Array:
    """The second part of the mapping F of this module."""
    weight, at_upper, (_, unit, cost, *_), _ = factors
    bound = jnp.where(weight > 0, jnp.where(at_upper, limits[1], limits[0]), 0)
    return weight * unit * (rows - bound) - (1 - weight) * (cost / unit) * y


def polished(
    program: NonlinearProgram, scaling: Scaling, start: Point, weak: str, moves: Array
) -> tuple[Point, Array, Factors, QuadraticProgram]:
    """The point that the active set determines, found by Newton's method, if it ``moves`` and is better.

    Args:
        program: in the units of the user.
        scaling: units in which errors are measured.
        start: the point to begin at.
        weak: how weakly active rows count in derivatives, see :class:`jaxsolve.OSQP`.
        moves: whether there is anything to improve, a boolean scalar.

    Returns:
        The point, its error, and the factors for derivatives with the quadratic program to which they belong.
    """
    m, dtype = start.y.size, start.x.dtype

    def turn(carry):
        count, point, error, factors, _, phase = carry
        qp, own, scaled = _scaled_system(program, scaling, point)
        rows = program.rows_at(point.x, point.at.values[1:])
        active = classify(qp, point.y, rows, own, weak)
        weight = jnp.where(phase == _IMPROVING, active.weight, active.in_derivatives)
        balanced = balanced_weight(scaled, weight, factors.cholesky) if weak == "half" else weight
        weight = jnp.where(phase == _WEIGHING, balanced, weight)
        factors = Factors(weight, active.at_upper, own, factorize(scaled, weight))
        residual = (_slope(program, *point), row_residual(rows, point.y, (qp.lower, qp.upper), factors))
        dx, dy = solve_kkt(qp, *residual, factors)
        x, y = _on_bounds(program, point.x - dx, factors), point.y - dy
        new = Point(x, y, program.local(x, y[: point.at.values.size - 1]))
        new_error = optimality_error(program, scaling, new)
        better = (phase == _IMPROVING) & (new_error < error)
        goes_on = better & (new_error > 10 * jnp.finfo(dtype).eps) & (count < _MOST_STEPS)
        point, error = tree_where(better, (new, new_error), (point, error))
        undecided = (phase == _FACTORIZING) & jnp.any((weight > 0) & (weight < 1))
        later = jnp.where(undecided, _WEIGHING, _OVER) if weak == "half" else _OVER
        phase = jnp.where(phase == _IMPROVING, jnp.where(goes_on, _IMPROVING, _FACTORIZING), later)
        return count + 1, point, error, factors, qp, phase

    error = optimality_error(program, scaling, start)
    zeros, ones, one = jnp.zeros(m, dtype), jnp.ones_like(start.x), jnp.ones((), dtype)
    nothing = Scaling(ones, zeros, one, one, (ones, zeros, one))  # of which the first turn makes something
    factors = Factors(zeros, zeros > 0, nothing, jnp.eye(ones.size, dtype=dtype))
    qp = program.quadratic(start.at, start.at.jacobian[0])
    phase = jnp.where(moves, _IMPROVING, _FACTORIZING)
    carry = (jnp.zeros((), jnp.int32), start, error, factors, qp, phase)
    _, point, error, factors, qp, _ = loop(lambda carry: carry[-1] != _OVER, turn, carry, maxiter=_MOST_STEPS + 4)
    return point, error, factors, qp


def _on_bounds(program: NonlinearProgram, x: Array, factors: Factors) -> Array:
    """The point within the bounds, and where they are active on them, not merely near."""
    if program.bounded:
        weight, at_upper = factors.weight[-x.size :], factors.at_upper[-x.size :]
        bound = jnp.where(at_upper, program.upper, program.lower)
        x = jnp.where((weight == 1) & jnp.isfinite(bound), bound, x)
    return jnp.clip(x, program.lower, program.upper)


def _scaled_system(
    program: NonlinearProgram, scaling: Scaling, point: Point
) -> tuple[QuadraticProgram, Scaling, QuadraticProgram]:
    """The quadratic program at a point, its units, and the program in these.

    Args:
        program: in the units of the user.
        scaling: units in which numbers are around 1, for what is small.
        point: where the derivatives are.
    """
    qp = program.quadratic(point.at, point.at.jacobian[0])
    rough = scale(qp, scaling._replace(rows=program.rows_at(1 / scaling.variables, scaling.rows)))
    clean = _without_rounding(qp, jnp.abs(rough.P.dense()), jnp.abs(rough.A.dense()))
    own = equilibrate(clean)
    largest = norm(scale(qp, own).P.dense())
    own = own._replace(cost=own.cost / jnp.where(largest > 0, largest, 1))
    return qp, own, scale(qp, own)


def _without_rounding(qp: QuadraticProgram, P: Array, A: Array) -> QuadraticProgram:
    """The program without the entries that are small beside others of their row and of their column.

    A derivative that vanishes at the solution is a number of the size of rounding there, which says nothing of units.

    Args:
        qp: the program.
        P: sizes of the entries, in units in which they are around 1.
        A: likewise.
    """
    of_rows = jnp.max(A, axis=1, initial=0)
    of_columns = jnp.maximum(jnp.max(A, axis=0, initial=0), jnp.max(P, axis=0))
    tiny = jnp.finfo(P.dtype).eps ** (1 / 3)

    def cleaned(matrix, sizes, of_rows):
        counts = sizes > tiny * jnp.minimum(of_rows[:, None], of_columns[None])
        return DenseMatrix(jnp.where(counts, matrix.dense(), 0))

    return qp._replace(P=cleaned(qp.P, P, of_columns), A=cleaned(qp.A, A, of_rows))


def is_minimum(qp: QuadraticProgram, factors: Factors) -> Array:
    """Whether the Hessian of the Lagrangian has no negative curvature in directions that the active rows allow."""
    scaled = scale(qp, factors.scaling)
    held = jnp.where(factors.weight > 0, 1e7 if jnp.finfo(qp.q.dtype).bits == 64 else 1e3, 0).astype(qp.q.dtype)
    H = scaled.P.dense() + scaled.A.gram(held)
    identity = jnp.eye(H.shape[0], dtype=H.dtype)
    least = max(_NO_CURVATURE, 10 * float(jnp.finfo(H.dtype).eps))
    return jnp.all(jnp.isfinite(jnp.linalg.cholesky(H + (least + jnp.finfo(H.dtype).eps * norm(H)) * identity)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ActiveSystem(TangentSystem):
    """The system of an active set. Its unknowns are the primal variables and the multipliers of all rows.

    Attributes:
        factors: the active set, and the factor of its system.
        P: Hessian of the Lagrangian.
        A: Jacobian of the rows.
        dual_bounds: multipliers of the bounds, a pytree like the parameters; ``None`` without bounds.
        program_of: ``program_of(params, *args, bounds=None, **kwargs)``, the program of some data.
        method: a linear solver of the user, who may want another one.
        valid: whether there is a minimum to differentiate, a boolean scalar.
    """

    factors: Factors
    P: Array
    A: Array
    dual_bounds: PyTree
    program_of: Callable = dataclasses.field(metadata={"static": True})
    method: Any = dataclasses.field(metadata={"static": True})
    valid: Any

    structure = "general"  # the rows are scaled, so that the matrix is not symmetric

    def unknowns(self, params: KKTSolution) -> tuple[PyTree, PyTree]:
        return params.primal, (params.dual_eq, params.dual_ineq, self.dual_bounds)

    def complete(self, unknowns: tuple[PyTree, PyTree], *args: Any, **kwargs: Any) -> KKTSolution:
        return KKTSolution(unknowns[0], *unknowns[1][:2])

    def residual(self, unknowns: tuple[PyTree, PyTree], *args: Any, **kwargs: Any) -> tuple[PyTree, PyTree]:
        params, duals = unknowns
        program = self.program_of(params, *args, **kwargs)
        x, y = flat(params, program.lower.dtype), self._rows(program, duals)
        m = y.size - x.size if program.bounded else y.size
        weights = jnp.concatenate([jnp.ones(1, y.dtype), y[:m]])
        values, pullback = jax.vjp(program.values, x)
        slope = pullback(weights)[0] + program.split(y)[2]
        rows = program.rows_at(x, values[1:])
        return self._like(program, slope, row_residual(rows, y, program.limits(values[1:]), self.factors))

    def solve(
        self, rhs: PyTree, unknowns: tuple[PyTree, PyTree], *args: Any, transposed: bool = False, **kwargs: Any
    ) -> tuple[PyTree, PyTree]:
        program = self.program_of(unknowns[0], *args, **kwargs)
        r1, r2 = flat(rhs[0], self.P.dtype), self._rows(program, rhs[1])
        bound = jnp.zeros_like(r2)
        qp = QuadraticProgram(DenseMatrix(self.P), jnp.zeros_like(r1), DenseMatrix(self.A), bound, bound)
        solution = solve_kkt(qp, r1, r2, self.factors, transposed=transposed)
        solution = tree_where(self.valid, solution, tree_zeros_like(solution))
        return self._like(program, *solution)

    transposed = functools.partialmethod(solve, transposed=True)

    def _rows(self, program: NonlinearProgram, duals: PyTree) -> Array:
        """A vector of the rows."""
        return flat(duals, program.lower.dtype)

    def _like(self, program: NonlinearProgram, of_x: Array, of_rows: Array) -> tuple[PyTree, PyTree]:
        """Vectors in the structure of the unknowns."""
        eq, ineq, bounds = program.split(of_rows)
        bounds = program.unravel_x(bounds) if program.bounded else None
        return program.unravel_x(of_x), (program.unravel_eq(eq), program.unravel_ineq(ineq), bounds)
