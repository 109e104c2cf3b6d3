"""The step of the interior-point method: the condensed Newton system, its solution, and how far a step goes.

The system of :mod:`.interior_point` is made and factorized once a step and solved for several right-hand sides: the
affine direction, the combined one of centering and second-order correction, and corrections of that where a
factorization costs much more than a solution.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsolve._loop import LoopKind, loop
from jaxsolve._types import Array
from jaxsolve.solvers.quadratic._cholesky import cholesky, cholesky_solve
from jaxsolve.solvers.quadratic._problem import QuadraticProgram
from jaxsolve.solvers.quadratic._residuals import Products, norm
from jaxsolve.tree_util import tree_where

__all__ = ["Point", "Rows", "condense", "factorize", "newton_residual", "predictor_corrector", "rows_of"]


class Point(NamedTuple):
    """An iterate of the scaled problem.

    What has k rows has the upper bounds in the last one and, where there may be some, the lower bounds in the first.
    An equality is an upper bound whose slack is 0 and whose multiplier has any sign.

    Attributes:
        x: shape ``(n,)``.
        z: multipliers, shape ``(k, m)``: positive for inequalities, 0 for absent bounds.
        s: slacks, shape ``(k, m)``: positive for inequalities, 0 for equalities, 1 for absent bounds.
    """

    x: Array
    z: Array
    s: Array

    @property
    def y(self) -> Array:
        """The multipliers of the rows, shape ``(m,)``."""
        return self.z[0] if len(self.z) == 1 else self.z[1] - self.z[0]


class Rows(NamedTuple):
    """The rows of a problem as pairs of a lower and an upper bound, an equality as an upper bound.

    If no inequality has a lower bound, there are upper bounds alone: k is 1 then, and 2 otherwise.

    Attributes:
        fixed: which bounds are equalities, shape ``(k, m)``.
        bounded: which are inequalities, shape ``(k, m)``.
        bound: the bounds, 0 where there is none, shape ``(k, m)``.
        sign: -1 for lower and 1 for upper bounds, shape ``(k, 1)``.
        count: the number of inequalities, 1 if there are none.
    """

    fixed: Array
    bounded: Array
    bound: Array
    sign: Array
    count: Array

    def slack(self, Ax: Array) -> Array:
        """The distance from the bounds, negative beyond them, shape ``(k, m)``."""
        return self.sign * (self.bound - Ax[None])

    def signed(self, y: Array) -> Array:
        """What a vector of the rows is to the lower and to the upper bounds, shape ``(k, m)``."""
        return self.sign * y[None]

    def force(self, z: Array) -> Array:
        """The sum of what pushes down and what pulls up, shape ``(m,)``."""
        return jnp.sum(self.sign * z, axis=0)

    def point(self, x: Array, z: Array, s: Array) -> Point:
        """The point with these slacks of inequalities and multipliers."""
        slack_of_others = jnp.where(self.fixed, 0, 1).astype(s.dtype)
        return Point(x, jnp.where(self.bounded | self.fixed, z, 0), jnp.where(self.bounded, s, slack_of_others))


def rows_of(qp: QuadraticProgram) -> Rows:
    equality = qp.lower == qp.upper
    fixed, bound, sign = equality[None], qp.upper[None], jnp.ones((1, 1), qp.upper.dtype)
    if qp.sides.lower:
        fixed, bound = jnp.stack([jnp.zeros_like(equality), equality]), jnp.stack([qp.lower, qp.upper])
        sign = jnp.asarray([[-1.0], [1.0]], bound.dtype)
    bounded = ~equality[None] & jnp.isfinite(bound)
    count = jnp.maximum(jnp.sum(bounded), 1).astype(bound.dtype)
    return Rows(fixed, bounded, jnp.where(bounded | fixed, bound, 0), sign, count)


class Residual(NamedTuple):
    """The right-hand side of Newton's method.

    Attributes:
        dual: what is missing to stationarity, shape ``(n,)``.
        rows: by how much slacks are too large, shape ``(k, m)``.
    """

    dual: Array
    rows: Array


def newton_residual(qp: QuadraticProgram, rows: Rows, point: Point, at: Products) -> Residual:
    of_rows = jnp.where(rows.bounded | rows.fixed, point.s - rows.slack(at.Ax), 0)
    return Residual(-(at.Px + qp.q + at.Aty), of_rows)


class Condensed(NamedTuple):
    """The condensed system of a point, factorized.

    Attributes:
        stiffness: how fast multipliers grow as rows move towards their bounds, shape ``(k, m)``.
        inverse: ``1 / (s + delta z)`` for inequalities, 0 elsewhere, shape ``(k, m)``.
        weight: the sum of the stiffnesses of a row, shape ``(m,)``.
        rho: proximal parameter of x.
        cholesky: the factor of ``P + rho I + A^T diag(weight) A``.
    """

    stiffness: Array
    inverse: Array
    weight: Array
    rho: Array
    cholesky: Array


def condense(
    qp: QuadraticProgram, rows: Rows, point: Point, at: Products, residual: Residual, regularization: Array
) -> Condensed:
    (_, z, s), dtype = point, point.x.dtype
    # The smallest proximal parameters with which a factorization can be trusted. Beside large multipliers that of the
    # rows is less: a step changes them by the residual over delta, which must be enough for them to become others.
    rho, least = (1e-9, 1e-12) if jnp.finfo(dtype).bits == 64 else (1e-5, 1e-6)
    delta = jnp.clip(norm(residual.rows) / jnp.maximum(norm(z), jnp.finfo(dtype).tiny), least, rho)
    # Multipliers of equalities are residuals over delta: the rounding of the residual must stay below what is left to
    # correct of the multipliers.
    left = jnp.maximum(norm(residual.dual), (1e-7 if dtype == jnp.float64 else 1e-3) * norm(qp.q, at.Aty))
    rounding = 10 * jnp.finfo(dtype).eps * norm(at.Ax) / jnp.maximum(left, jnp.finfo(dtype).tiny)
    rho, delta = regularization * rho, regularization * jnp.clip(rounding, delta, 1e3 * rho)
    inverse = _reciprocal(s + delta * z, rows.bounded)
    stiffness = jnp.where(rows.fixed, 1 / delta, z * inverse)
    weight = jnp.sum(stiffness, axis=0)
    return Condensed(stiffness, inverse, weight, rho, factorize(qp, weight, rho))


def _reciprocal(x: Array, where: Array) -> Array:
    """``1 / x`` there and 0 elsewhere, differentiable where that is a division by 0."""
    return jnp.where(where, 1 / jnp.where(where, x, 1), 0)


def factorize(qp: QuadraticProgram, weight: Array, rho: Array | float) -> Array:
    """The factor of ``P + rho I + A^T diag(weight) A``."""
    identity = jnp.eye(qp.num_variables, dtype=qp.q.dtype)
    H = qp.P.dense() + qp.A.gram(weight) + rho * identity
    return cholesky(H)


_MAX_REFINEMENTS = 5


def _solve(
    qp: QuadraticProgram, system: Condensed, rhs: Array, refined: Array, kind: LoopKind
) -> tuple[Array, Array, Array]:
    """The solution of the condensed system, its product with A, and whether it is one to some accuracy.

    It is refined if that is wanted: penalties of 1e8 leave few digits to a factorization.
    """
    size, dtype = norm(rhs), rhs.dtype
    wanted = (1e-10 if dtype == jnp.float64 else 1e-5) * size

    def refine(carry):
        dx, _, left, after, _ = carry
        dx = dx + cholesky_solve(system.cholesky, left)
        Adx = qp.A.matvec(dx)
        left = rhs - (qp.P.matvec(dx) + system.rho * dx + qp.A.rmatvec(system.weight * Adx))
        return dx, Adx, left, norm(left), after

    def proceed(carry):
        *_, after, before = carry
        return refined & (after > wanted) & (after < 0.5 * before)

    start = (jnp.zeros_like(rhs), jnp.zeros_like(qp.lower), rhs, size, jnp.asarray(jnp.inf, dtype))
    dx, Adx, _, left, _ = loop(proceed, refine, refine(start), maxiter=_MAX_REFINEMENTS - 1, kind=kind)
    return dx, Adx, left <= 1e-3 * size


# A correction costs a solution with the factor at hand. So many are worth it if making the factor costs ten, thirty, or
# fifty times as much: Gondzio (1996), section 5.
_WORTH_CORRECTING = (10, 30, 50)
# Corrections aim at steps longer by this factor and this much, and at complementary products within this range.
_LONGER, _RANGE = (1.08, 0.08), (0.1, 10.0)


def _corrections(qp: QuadraticProgram) -> int:
    """How many corrections a direction gets."""
    n, entries = qp.num_variables, qp.A.size
    ratio = (n**3 / 3 + n * entries) / (2 * n**2 + 4 * entries)
    return sum(ratio > least for least in _WORTH_CORRECTING)


class Trial(NamedTuple):
    """What a direction leads to.

    Attributes:
        turn: how many directions there were: none, the affine one, the combined one, and its corrections.
        goal: the complementary products to aim at.
        change: by how much the products are to change next, shape ``(k, m)``.
        point: the point at the end of the step.
        length: the sum of the step lengths.
        mu: the mean complementary product there.
        accurate: whether the linear system was solved to some accuracy.
        improves: whether the last direction was better than the one before.
    """

    turn: Array
    goal: Array
    change: Array
    point: Point
    length: Array
    mu: Array
    accurate: Array
    improves: Array


def predictor_corrector(
    qp: QuadraticProgram,
    rows: Rows,
    point: Point,
    residual: Residual,
    system: Condensed,
    target: Array,
    kind: LoopKind,
) -> Trial:
    """The affine step, the combined step of centering and second-order correction that it suggests, and corrections.

    A correction aims at a longer step: at what products far from their goal would then be, it brings them nearer.
    """
    (x, z, s), products = point, point.s * point.z
    mu = jnp.sum(products) / rows.count
    # Complementarity must not run ahead of feasibility, or the iterates are stuck at the boundary: what the infeasible
    # parts may still contribute to the duality gap is a measure for it.
    of_rows = jnp.sum(jnp.abs(residual.rows * z))
    infeasible = jnp.sum(jnp.abs(residual.dual * x)) + of_rows
    behind = jnp.minimum(1e-2 * infeasible / rows.count, 10 * mu)
    per_s, per_z = (_reciprocal(part, rows.bounded) for part in (s, z))
    corrections, (lowest, highest) = _corrections(qp), _RANGE

    def step(trial):
        pushed = system.stiffness * residual.rows + system.inverse * trial.change
        rhs = residual.dual - qp.A.rmatvec(rows.force(pushed))
        dx, Adx, accurate = _solve(qp, system, rhs, trial.turn > 0, kind)
        dz = pushed + system.stiffness * rows.signed(Adx)
        ds = per_z * (trial.change - s * dz)
        primal, dual = _length(ds * per_s), _length(dz * per_z)
        Pdx = qp.P.matvec(dx)

        def left(primal, dual):
            slopes = (1 - dual) * residual.dual + (dual - primal) * Pdx
            gap = jnp.sum((s + primal * ds) * (z + dual * dz))
            return gap + jnp.sum(jnp.abs(slopes * x)) + (1 - primal) * of_rows

        # Steps of two lengths are longer, but as slopes depend on x, they are not all that was aimed at.
        shorter = jnp.minimum(primal, dual)
        apart, together = jax.vmap(left)(jnp.stack([primal, shorter]), jnp.stack([dual, shorter]))
        primal, dual = (jnp.where(together < 0.5 * apart, shorter, length) for length in (primal, dual))
        new = Point(x + primal * dx, z + dual * dz, s + primal * ds)
        after = jnp.sum(new.s * new.z) / rows.count
        centering = jnp.clip(after / jnp.maximum(mu, jnp.finfo(mu.dtype).tiny), 0, 1) ** 3
        affine = trial.turn == 0
        goal = jnp.where(affine, jnp.maximum(jnp.maximum(centering * mu, behind), target), trial.goal)
        change = goal - products - ds * dz
        if corrections:
            factor, more = _LONGER
            longer = [jnp.minimum(factor * length + more, 1) for length in (primal, dual)]
            reached = (s + longer[0] * ds) * (z + longer[1] * dz)
            missing = jnp.clip(reached, lowest * goal, highest * goal) - reached
            change = jnp.where(affine, change, trial.change + jnp.maximum(missing, -highest * goal))
        change = jnp.where(rows.bounded, change, 0)
        improves = (trial.turn < 2) | (primal + dual > trial.length + 0.01)
        latest = Trial(trial.turn + 1, goal, change, new, primal + dual, after, accurate, improves)
        return tree_where(improves, latest, trial._replace(improves=improves)) if corrections else latest

    change = jnp.where(rows.bounded, target - products, 0)
    start = Trial(jnp.zeros((), jnp.int32), target, change, point, 0 * mu, mu, jnp.asarray(True), jnp.asarray(True))
    proceed = (lambda trial: trial.improves) if corrections else (lambda _: jnp.asarray(True))
    return loop(proceed, step, start, maxiter=2 + corrections, kind=kind)


def _length(relative: Array) -> Array:
    """The step that goes nearly all the way to where something vanishes that changes at these rates; 1 at most."""
    share = 0.995
    return share / jnp.max(-relative, initial=share)
