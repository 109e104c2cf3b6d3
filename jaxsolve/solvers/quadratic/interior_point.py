r"""A proximal primal-dual interior-point method for quadratic programs.

Problem: :math:`\min_x \tfrac12 x^T Q x + c^T x` subject to :math:`l \le A x \le u`. Method: Newton's method on the
relaxed optimality conditions of the proximal augmented Lagrangian, with a predictor and a corrector
step that share one Cholesky factorization. With slacks :math:`s_l = A x - l,\ s_u = u - A x` and multipliers
:math:`z_l, z_u \ge 0` the condensed system of one step is

.. math::

    \Bigl(P + \rho I
    + A^T \operatorname{diag}\bigl(\tfrac{1}{s_l / z_l + \delta} + \tfrac{1}{s_u / z_u + \delta}\bigr) A
    + \tfrac1\delta A_=^T A_=\Bigr)\, \Delta x = r,

symmetric positive definite whatever the ranks of P and A. The proximal terms :math:`\rho, \delta` shrink with the
complementarity :math:`\mu`. Optimality: the Karush-Kuhn-Tucker conditions.

Reference:
    Mehrotra (1992), "On the implementation of a primal-dual interior point method"; Pougkakiotis and Gondzio (2021),
    "An interior point-proximal method of multipliers for convex quadratic programming"; Schwan, Jiang, Kuhn and Jones
    (2023), "PIQP: a proximal interior-point quadratic programming solver".
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_solve

from jaxsolve._loop import LoopKind, loop, run_if_any
from jaxsolve._status import Status
from jaxsolve._types import Array, PyTree
from jaxsolve.base import option
from jaxsolve.solvers.quadratic._base import BoxConstrained, IterativeQP, Problem, Solution
from jaxsolve.solvers.quadratic._certificates import find_certificates
from jaxsolve.solvers.quadratic._kkt import Factors, KKTSystem
from jaxsolve.solvers.quadratic._problem import QuadraticProgram
from jaxsolve.solvers.quadratic._residuals import Products, feasible_signs, norm, optimality_error, products, residuals
from jaxsolve.tree_util import tree_all_finite, tree_where

__all__ = ["InteriorPoint", "InteriorPointQP", "InteriorPointState"]

# In scaled units, what the coefficients of q are at most if they are not there to forbid something.
_USUAL_PRICE = 1e2
# Certificates are looked for when so many iterations were done, and at the end.
_CERTIFICATE_FREQUENCY = 4


class Point(NamedTuple):
    """An interior point of the scaled problem; row 0 of what has two rows is of the lower bounds, row 1 of the upper.

    Attributes:
        x: shape ``(n,)``.
        equality: multipliers of the equalities, shape ``(m,)``, 0 elsewhere.
        z: multipliers of the bounds of the other rows, positive, shape ``(2, m)``; 0 for absent bounds.
        s: their slacks, positive, shape ``(2, m)``; 1 for absent bounds.
    """

    x: Array
    equality: Array
    z: Array
    s: Array


class InteriorPointState(NamedTuple):
    """State of the interior-point method.

    Attributes:
        iter_num: iterations done, int32.
        error: optimality error; converged at ``tol``.
        value: the objective.
        point: the iterate in scaled units.
        at: the matrix products there.
        regularization: multiple of the proximal terms, raised after a breakdown.
        status: a :class:`jaxsolve.Status`, int32.
    """

    iter_num: Array
    error: Array
    value: Array
    point: Point
    at: Products
    regularization: Array
    status: Array


class InteriorPoint(IterativeQP):
    """The interior-point method for quadratic programs of any form.

    Attributes:
        smoothing: solve the relaxed problem whose complementary products ``s z`` are this number instead of 0. Its
            solution is smooth in the data, where a linear program, say, jumps from vertex to vertex, and it is *its*
            derivative that is returned.
    """

    maxiter: int = option(100)
    tol: float | None = option(None)  # type: ignore[assignment]  # by dtype
    smoothing: float = option(0.0, at_least=0)

    _State = InteriorPointState
    _patience = 8
    # Iterations are few, so the active set is not looked at before the last; and then it is known.
    _stages = (0.0, 1.0)

    @property
    def _has_active_set(self) -> bool:
        return isinstance(self.smoothing, (int, float)) and self.smoothing == 0

    def _factors_at(self, problem: Problem, solution: Solution) -> Factors:
        """In the relaxed problem all rows are between active and inactive."""
        if self._has_active_set:
            return super()._factors_at(problem, solution)
        qp, (_, scaling) = problem.qp, problem.for_kkt
        _, slope = _relaxed_multipliers(qp, solution.Ax, self.smoothing)
        stiffness = scaling.cost * slope / scaling.rows**2
        weight = jnp.where(qp.lower == qp.upper, 1, stiffness / (1 + stiffness))
        return problem.factors(weight, jnp.ones(weight.shape, bool))

    def _system(self, factors: Factors, valid: Array) -> KKTSystem:
        system = super()._system(factors, valid)
        if self._has_active_set:
            return system
        return RelaxedSystem(system.factors, system.form, system.method, valid, jnp.asarray(self.smoothing))

    def _wanted_form(self, qp: QuadraticProgram) -> QuadraticProgram:
        if not qp.has_entries:
            return qp.with_factor()
        if not qp.has_factor:
            size = qp.num_variables
            raise ValueError(
                f"{type(self).__name__} factorizes a matrix of shape ({size}, {size}) in every iteration, which is too "
                "large for sparse data. Take BoxOSQP, or solve_qp with method='matrix_free'; or pass a dense Q."
            )
        return qp

    def _begin(self, problem: Problem, init_params: PyTree) -> InteriorPointState:
        warm = jax.tree.leaves(self._form.parts(init_params)[0])
        start = self._form.start(problem, init_params)
        point = _warm_start(problem, *start) if warm else _cold_start(problem.scaled)
        return self._judge(problem, point, jnp.zeros((), jnp.int32), jnp.ones((), point.x.dtype))

    def _advance(self, problem: Problem, state: InteriorPointState) -> InteriorPointState:
        """One predictor-corrector step."""
        target = jnp.asarray(self.smoothing).astype(state.error.dtype) * problem.scaling.cost
        point, accurate = _predictor_corrector(
            problem.scaled, state.point, state.at, state.regularization, target, self._loop_kind
        )
        # A factorization that broke down is repeated with more regularization, from where it was.
        finite = tree_all_finite(point)
        point = tree_where(finite, point, state.point)
        relaxed = jnp.maximum(0.7 * state.regularization, 1)
        regularization = jnp.where(finite & accurate, relaxed, state.regularization * 10)
        return self._judge(problem, point, state.iter_num + 1, regularization, before=state)

    def _solution(self, problem: Problem, state: InteriorPointState) -> Solution:
        x, y, at = problem.scaling.to_user(state.point.x, _multipliers(state.point), state.at)
        return Solution(x, y, at.Ax)

    def _judge(
        self,
        problem: Problem,
        point: Point,
        iter_num: Array,
        regularization: Array,
        *,
        before: InteriorPointState | None = None,
    ) -> InteriorPointState:
        """The state at a point: its error, and whether the run is over."""
        qp, x, y = problem.scaled, point.x, _multipliers(point)
        at = products(qp, x, y)
        res = residuals(qp, x, y, at)
        if not self._has_active_set:
            smoothing = jnp.asarray(self.smoothing).astype(x.dtype) * problem.scaling.cost
            res = res._replace(gap=(_distance_from_path(qp, y, at.Ax, smoothing), res.gap[1]))
        error = optimality_error(res, *self._tolerances(x.dtype))
        status = self._status_of(error, failed=regularization > 1e8)
        if before is not None:
            # Most runs are over before it is worth while to look for a proof that they cannot succeed.
            last = (iter_num >= self.maxiter) | ~Status.RUNNING.holds(status)
            due = ~Status.CONVERGED.holds(status) & ((iter_num % _CERTIFICATE_FREQUENCY == 0) | last)

            def look(status):
                # What iterates of an impossible problem gain shows the direction in which they go.
                earlier = (before.point.x, _multipliers(before.point), before.at)
                d, dy, along = jax.tree.map(jnp.subtract, (x, y, at), earlier)
                dy = feasible_signs(qp, dy)
                parts = (d, dy, along._replace(Aty=qp.A.rmatvec(dy)), self._forgiven(problem))
                proved = find_certificates(qp, *lax.stop_gradient(parts), (0.5, 0.5))
                return jnp.where(Status.RUNNING.holds(proved), status, proved)

            status = run_if_any(due, look, status)
        value = (0.5 * (x @ at.Px) + qp.q @ x) / problem.scaling.cost
        return self._State(iter_num, error, value, point, at, regularization, status)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class RelaxedSystem(KKTSystem):
    """The system of the relaxed problem, in which the multipliers of inequalities are functions of the rows.

    Attributes:
        smoothing: the complementary products.
    """

    smoothing: Any = 0.0

    def mapping(self, qp: QuadraticProgram, x: Array, y: Array) -> tuple[Array, Array]:
        stationarity, of_rows = super().mapping(qp, x, y)
        weight, _, (_, rows, cost, *_), _ = self.factors
        wanted, _ = _relaxed_multipliers(qp, qp.A.matvec(x), self.smoothing)
        relaxed = (1 - weight) * (cost / rows) * (wanted - y)
        return stationarity, jnp.where(qp.lower == qp.upper, of_rows, relaxed)


class InteriorPointQP(InteriorPoint, BoxConstrained):
    """Interior-point solver for quadratic programs, accurate to 1e-9 in float64.

    ``run(init_params=None, params_obj=(Q, c), params_eq=A, params_ineq=(l, u))`` minimizes
    ``0.5 x^T Q x + c^T x`` subject to ``l <= A x <= u``. ``Q`` (shape ``(n, n)``, may be singular or ``None``) and
    ``A`` (shape ``(m, n)``, of any rank) are dense or sparse. Bounds may be infinite, equal, or numbers. The result
    is ``KKTSolution((x, z), y, (mu, phi))`` with ``z = A x``, the multipliers ``y`` of the rows, and their positive and
    negative parts ``mu`` and ``phi``. All are differentiable with respect to ``Q, c, A, l, u``, and so is
    ``state.value``.

    A run ends with ``Status.PRIMAL_INFEASIBLE`` or ``Status.DUAL_INFEASIBLE`` only with a checked certificate.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> Q, c, A = jnp.eye(2), jnp.array([-1.0, -3.0]), jnp.ones((1, 2))
        >>> solver = jaxsolve.InteriorPointQP(tol=1e-5)
        >>> params, state = solver.run(None, (Q, c), A, (-jnp.inf, 3.0))
        >>> [round(x, 3) for x in params.primal[0].tolist()]
        [0.5, 2.5]
        >>> gradient = jax.grad(lambda u: solver.run(None, (Q, c), A, (-jnp.inf, u)).params.primal[0][0])(3.0)
        >>> round(float(gradient), 3)
        0.5
    """


# ---- The method, on the scaled problem ----------------------------------------------------------------------------


class Rows(NamedTuple):
    """The rows of a problem by their kind.

    Attributes:
        equality: which are equalities, shape ``(m,)``.
        bounded: which of the others have a lower and which an upper bound, shape ``(2, m)``.
        bound: those bounds, 0 where there is none, shape ``(2, m)``.
        sign: -1 for lower and 1 for upper bounds, shape ``(2, 1)``.
    """

    equality: Array
    bounded: Array
    bound: Array
    sign: Array

    def slack(self, Ax: Array) -> Array:
        """The distance from the bounds, negative beyond them, shape ``(2, m)``."""
        return self.sign * (self.bound - Ax[None])

    def force(self, z: Array) -> Array:
        """The sum of what pushes down and what pulls up, shape ``(m,)``."""
        return jnp.sum(self.sign * z, axis=0)


def _rows(qp: QuadraticProgram) -> Rows:
    equality = qp.lower == qp.upper
    bound = jnp.stack([qp.lower, qp.upper])
    bounded = ~equality[None] & jnp.isfinite(bound)
    return Rows(equality, bounded, jnp.where(bounded, bound, 0), jnp.asarray([[-1.0], [1.0]], bound.dtype))


def _multipliers(point: Point) -> Array:
    return point.equality + point.z[1] - point.z[0]


def _cold_start(qp: QuadraticProgram) -> Point:
    """The minimizer of the objective plus a penalty of the rows, with slacks as large as its violations."""
    rows, dtype = _rows(qp), qp.q.dtype
    weight = jnp.where(rows.equality, 1e4, jnp.where(jnp.any(rows.bounded, axis=0), 1, 0)).astype(dtype)
    target = jnp.clip(jnp.zeros_like(qp.lower), qp.lower, qp.upper)
    H = qp.P.dense() + 1e-2 * jnp.eye(qp.num_variables, dtype=dtype) + qp.A.gram(weight)
    # A huge price keeps a variable at its bound. It would throw the minimizer far beyond.
    price = jnp.clip(qp.q, -_USUAL_PRICE, _USUAL_PRICE)
    x = cho_solve((jnp.linalg.cholesky(H), True), qp.A.rmatvec(weight * target) - price)
    x = jnp.where(jnp.all(jnp.isfinite(x)), x, jnp.zeros_like(x))
    slack = rows.slack(qp.A.matvec(x))
    violation = jnp.max(jnp.where(rows.bounded, -slack, 0), initial=0)
    usual = jnp.maximum(1.0, violation)
    s = jnp.where(rows.bounded, jnp.maximum(slack, usual), 1)
    # The multiplier of a bound far away is small from the start, or the method would first have to make it so.
    z = jnp.where(rows.bounded, usual / s, 0)
    return Point(x, jnp.zeros_like(qp.lower), z, s)


def _warm_start(problem: Problem, x: Array, y: Array) -> Point:
    """A point near a given one, as far inside as a useful centrality needs."""
    qp, inside = problem.scaled, 1e-2
    rows = _rows(qp)
    x, y = problem.scaling.to_scaled(x, y)
    z = jnp.where(rows.bounded, jnp.maximum(rows.sign * y[None], inside), 0)
    s = jnp.where(rows.bounded, jnp.maximum(rows.slack(qp.A.matvec(x)), inside), 1)
    return Point(x, jnp.where(rows.equality, y, 0), z, s)


def _predictor_corrector(
    qp: QuadraticProgram, point: Point, at: Products, regularization: Array, target: Array, kind: LoopKind
) -> tuple[Point, Array]:
    """The next point, and whether its linear systems were solved to some accuracy."""
    rows, (x, _, z, s) = _rows(qp), point
    dtype = x.dtype
    Ax, y = at.Ax, _multipliers(point)
    count = jnp.maximum(jnp.sum(rows.bounded), 1).astype(dtype)
    mu = jnp.sum(s * z) / count

    r_dual = -(at.Px + qp.q + at.Aty)
    # The smallest proximal parameters with which a factorization can be trusted.
    rho = delta = 1e-9 if jnp.finfo(dtype).bits == 64 else 1e-5
    # Multipliers of equalities are residuals over delta: the rounding of the residual must stay below what is left to
    # correct of the multipliers.
    left = jnp.maximum(norm(r_dual), (1e-7 if dtype == jnp.float64 else 1e-3) * norm(qp.q, at.Aty))
    rounding = 10 * jnp.finfo(dtype).eps * norm(Ax) / jnp.maximum(left, jnp.finfo(dtype).tiny)
    rho, delta = regularization * rho, regularization * jnp.clip(rounding, delta, 1e3 * delta)
    inverse = jnp.where(rows.bounded, 1 / (s + delta * z), 0)
    stiffness, per_s, per_z = z * inverse, 1 / s, 1 / jnp.where(rows.bounded, z, 1)
    weight = jnp.where(rows.equality, 1 / delta, jnp.sum(stiffness, axis=0))
    H = qp.P.dense() + qp.A.gram(weight) + rho * jnp.eye(qp.num_variables, dtype=dtype)
    L = jnp.linalg.cholesky(H, symmetrize_input=False)

    r_equality = jnp.where(rows.equality, qp.upper - Ax, 0)
    r_bounds = jnp.where(rows.bounded, s - rows.slack(Ax), 0)
    fixed_rows = jnp.where(rows.equality, r_equality / delta, 0)

    def solve(rhs, passes):
        """``H^{-1} rhs`` and its product with A, refined: penalties of 1e8 leave few digits to a factorization."""
        if passes == 1:
            dx = cho_solve((L, True), rhs)
            return dx, qp.A.matvec(dx), jnp.asarray(True)
        size = norm(rhs)
        wanted = (1e-10 if dtype == jnp.float64 else 1e-5) * size

        def refine(carry):
            dx, _, left, after, _ = carry
            dx = dx + cho_solve((L, True), left)
            Adx = qp.A.matvec(dx)
            left = rhs - (qp.P.matvec(dx) + rho * dx + qp.A.rmatvec(weight * Adx))
            return dx, Adx, left, norm(left), after

        def proceed(carry):
            *_, after, before = carry
            return (after > wanted) & (after < 0.5 * before)

        start = (jnp.zeros_like(rhs), jnp.zeros_like(qp.lower), rhs, size, jnp.asarray(jnp.inf, dtype))
        dx, Adx, _, left, _ = loop(proceed, refine, start, maxiter=passes, kind=kind)
        return dx, Adx, left <= 1e-3 * size

    def direction(change, passes):
        """The step for complementary products that are to change by ``change``."""
        pushed = stiffness * r_bounds + change * inverse
        dx, Adx, accurate = solve(r_dual + qp.A.rmatvec(fixed_rows - rows.force(pushed)), passes)
        dz = pushed + stiffness * rows.sign * Adx[None]
        of_equalities = jnp.where(rows.equality, (Adx - r_equality) / delta, 0)
        ds = jnp.where(rows.bounded, (change - s * dz) * per_z, 0)
        return Point(dx, of_equalities, dz, ds), accurate

    def lengths(step, share):
        """The steps that go that share of the way to where a slack or a multiplier vanishes, and 1 at most."""
        primal, dual = jnp.max(-step.s * per_s, initial=share), jnp.max(-step.z * per_z, initial=share)
        return share / primal, share / dual

    affine, _ = direction(target - s * z, passes=1)
    primal, dual = lengths(affine, 1.0)
    after = jnp.sum((s + primal * affine.s) * (z + dual * affine.z))
    centering = jnp.clip(after / count / jnp.maximum(mu, jnp.finfo(dtype).tiny), 0, 1) ** 3
    # Complementarity must not run ahead of feasibility, or the iterates are stuck at the boundary: what the infeasible
    # parts may still contribute to the duality gap is a measure for it.
    of_rows = jnp.sum(jnp.abs(r_equality * y)) + jnp.sum(jnp.abs(r_bounds) * z)
    behind = 1e-2 * (jnp.sum(jnp.abs(r_dual * x)) + of_rows) / count
    goal = jnp.maximum(jnp.maximum(centering * mu, jnp.minimum(behind, 10 * mu)), target)
    step, accurate = direction(jnp.where(rows.bounded, goal - s * z - affine.s * affine.z, 0), passes=5)
    primal, dual = lengths(step, 0.995)
    new = Point(x + primal * step.x, point.equality + dual * step.equality, z + dual * step.z, s + primal * step.s)
    return new, accurate


def _relaxed_multipliers(qp: QuadraticProgram, Ax: Array, smoothing: Any) -> tuple[Array, Array]:
    """The multipliers of the relaxed problem as a function of the rows, and their derivative."""
    rows, smoothing = _rows(qp), jnp.asarray(smoothing).astype(Ax.dtype)
    slack = jnp.where(rows.bounded, rows.slack(Ax), 1)
    wanted = rows.force(jnp.where(rows.bounded, smoothing / slack, 0))
    slope = jnp.sum(jnp.where(rows.bounded, smoothing / slack**2, 0), axis=0)
    return wanted, slope


def _distance_from_path(qp: QuadraticProgram, y: Array, Ax: Array, smoothing: Any) -> Array:
    """The largest error of a complementary product, for the relaxed problem."""
    rows = _rows(qp)
    nearest = jnp.min(jnp.where(rows.bounded, rows.slack(Ax), jnp.inf), axis=0)
    wanted, _ = _relaxed_multipliers(qp, Ax, smoothing)
    return norm(jnp.where(jnp.any(rows.bounded, axis=0), nearest, 0) * (wanted - y))
