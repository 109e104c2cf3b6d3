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
    Mehrotra (1992), "On the implementation of a primal-dual interior point method"; Gondzio (1996), "Multiple
    centrality corrections in a primal-dual method for linear programming"; Pougkakiotis and Gondzio (2021),
    "An interior point-proximal method of multipliers for convex quadratic programming"; Schwan, Jiang, Kuhn and Jones
    (2023), "PIQP: a proximal interior-point quadratic programming solver".
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._loop import run_if_any
from jaxsolve._status import Status
from jaxsolve._types import Array, PyTree
from jaxsolve.base import option
from jaxsolve.solvers.quadratic._base import BoxConstrained, Problem, Solution
from jaxsolve.solvers.quadratic._certificates import find_certificates
from jaxsolve.solvers.quadratic._cholesky import cholesky_solve
from jaxsolve.solvers.quadratic._iterative import IterativeQP
from jaxsolve.solvers.quadratic._kkt import Factors, KKTSystem
from jaxsolve.solvers.quadratic._newton_step import (
    Point,
    condense,
    factorize,
    newton_residual,
    predictor_corrector,
    rows_of,
)
from jaxsolve.solvers.quadratic._problem import QuadraticProgram
from jaxsolve.solvers.quadratic._residuals import Products, feasible_signs, norm, optimality_error, products, residuals
from jaxsolve.tree_util import tree_where

__all__ = ["InteriorPoint", "InteriorPointQP", "InteriorPointState"]

# In scaled units, what the coefficients of q are at most if they are not there to forbid something.
_USUAL_PRICE = 1e2
# The smallest slack of a cold start is this part of the largest violation, or of 1.
_INSIDE = 0.25
# Certificates are looked for when so many iterations were done, and at the end.
_CERTIFICATE_FREQUENCY = 4
# A warm start is one if its error is less than that of a cold start by this factor. Otherwise it would cost more.
_WARM = 0.1


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
            solution is a smooth function of the data, while that of a linear program jumps from vertex to vertex. The
            derivatives are those of the relaxed solution.
    """

    maxiter: int = option(100)
    tol: float | None = option(None)  # type: ignore[assignment]  # by dtype
    smoothing: float = option(0.0, at_least=0)

    _State = InteriorPointState
    _patience = (8, 1.5)
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

    def _prepared(self, problem: Problem, inputs: Any = None) -> Problem:
        A, (for_kkt, own) = problem.scaled.A.with_transpose(), problem.for_kkt
        qp, scaled = problem.qp._replace(A=problem.qp.A.with_transpose()), problem.scaled._replace(A=A)
        for_kkt = (for_kkt._replace(A=A), own)
        return problem._replace(qp=qp, scaled=scaled, for_kkt=for_kkt, linear_system=rows_of(scaled))

    def _begin(self, problem: Problem, init_params: PyTree) -> InteriorPointState:
        given = self._given(problem, init_params)
        cold = self._start_at(problem, _cold_start(problem))
        if given is None:
            return cold
        warm = self._start_at(problem, _warm_start(problem, given))
        return tree_where(warm.error < _WARM * cold.error, warm, cold)

    def _start_at(self, problem: Problem, point: Point) -> InteriorPointState:
        return self._state_at(problem, point, jnp.zeros((), jnp.int32), jnp.ones((), point.x.dtype))

    def _advance(self, problem: Problem, state: InteriorPointState) -> InteriorPointState:
        """One predictor-corrector step."""
        qp, rows, point = problem.scaled, problem.linear_system, state.point
        residual = newton_residual(qp, rows, point, state.at)
        system = condense(qp, rows, point, state.at, residual, state.regularization)
        trial = predictor_corrector(qp, rows, point, residual, system, self._target(problem), self._loop_kind)
        # A factorization that broke down is repeated with more regularization, from where it was.
        finite = jnp.isfinite(trial.mu)
        point = tree_where(finite, trial.point, point)
        relaxed = jnp.maximum(0.7 * state.regularization, 1)
        regularization = jnp.where(finite & trial.accurate, relaxed, state.regularization * 10)
        new = self._state_at(problem, point, state.iter_num + 1, regularization)
        return self._with_certificates(problem, state, new)

    def _target(self, problem: Problem) -> Array:
        """The complementary products at the solution, in scaled units."""
        return jnp.asarray(self.smoothing).astype(problem.scaled.q.dtype) * problem.scaling.cost

    def _solution(self, problem: Problem, state: InteriorPointState) -> Solution:
        x, y, at = problem.scaling.to_user(state.point.x, state.point.y, state.at)
        return Solution(x, y, at.Ax)

    def _state_at(self, problem: Problem, point: Point, iter_num: Array, regularization: Array) -> InteriorPointState:
        """The state at a point: its error, and whether the run is over."""
        qp, (x, *_), y = problem.scaled, point, point.y
        at = products(qp, x, y)
        res = residuals(qp, x, y, at)
        if not self._has_active_set:
            res = res._replace(gap=(_distance_from_path(qp, y, at.Ax, self._target(problem)), res.gap[1]))
        error = optimality_error(res, *self._tolerances(x.dtype))
        status = self._status_of(error, failed=regularization > 1e8)
        value = (0.5 * (x @ at.Px) + qp.q @ x) / problem.scaling.cost
        return self._State(iter_num, error, value, point, at, regularization, status)

    def _with_certificates(
        self, problem: Problem, before: InteriorPointState, state: InteriorPointState
    ) -> InteriorPointState:
        """The state with the status of a certificate, if there is one.

        Most runs are over before it is worth while to look for a proof that they cannot succeed.
        """
        qp = problem.scaled
        last = (state.iter_num >= self.maxiter) | ~Status.RUNNING.holds(state.status)
        slow = ~(state.error < 0.5 * before.error) & (state.iter_num % _CERTIFICATE_FREQUENCY == 0)
        # Batch elements whose run is over go on with the others, and what becomes of them is not kept.
        running = Status.RUNNING.holds(before.status) & ~Status.CONVERGED.holds(state.status)
        due = running & (slow | last)

        def look(status):
            # What iterates of an impossible problem gain shows the direction in which they go.
            earlier = (before.point.x, before.point.y, before.at)
            d, dy, along = jax.tree.map(jnp.subtract, (state.point.x, state.point.y, state.at), earlier)
            dy = feasible_signs(qp, dy)
            parts = (d, dy, along._replace(Aty=qp.A.rmatvec(dy)), self._forgiven(problem))
            proved = find_certificates(qp, *lax.stop_gradient(parts), (0.5, 0.5), wanted=due)
            return jnp.where(Status.RUNNING.holds(proved), status, proved)

        return state._replace(status=run_if_any(due, look, state.status))


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


def _cold_start(problem: Problem) -> Point:
    """The minimizer of the objective plus a penalty of the rows, with slacks in proportion to its violations.

    The multipliers of inequalities are all as large as the largest slope there: they have to make up for it.
    """
    qp, rows = problem.scaled, problem.linear_system
    weight = jnp.max(jnp.where(rows.fixed, 1e4, jnp.where(rows.bounded, 1, 0)), axis=0).astype(qp.q.dtype)
    target = jnp.clip(jnp.zeros_like(qp.lower), qp.lower, qp.upper)
    # A huge price keeps a variable at its bound. It would throw the minimizer far beyond.
    price = jnp.clip(qp.q, -_USUAL_PRICE, _USUAL_PRICE)
    x = cholesky_solve(factorize(qp, weight, 1e-2), qp.A.rmatvec(weight * target) - price)
    x = jnp.where(jnp.all(jnp.isfinite(x)), x, jnp.zeros_like(x))
    slack = rows.slack(qp.A.matvec(x))
    usual = _INSIDE * jnp.max(jnp.where(rows.bounded, -slack, 1), initial=1)
    s, slope = jnp.maximum(slack, usual), norm(price, qp.P.matvec(x))
    # The multiplier of a bound far away is small from the start, or the method would first have to make it so.
    return rows.point(x, jnp.where(rows.fixed, 0, jnp.where(slope > 0, slope, 1) * usual / s), s)


def _warm_start(problem: Problem, given: Solution) -> Point:
    """A point near a given one, the farther inside the less complementary it is."""
    qp, rows = problem.scaled, problem.linear_system
    x, y = problem.scaling.to_scaled(given.x, given.y)
    at = products(qp, x, y)
    slack, z = rows.slack(at.Ax), rows.signed(y)
    # How far the given point is from being optimal: violations, slopes, and pairs of which neither vanishes.
    pairs = jnp.where(rows.bounded, jnp.minimum(jnp.abs(slack), jnp.abs(z)), 0)
    off = norm(at.Px + qp.q + at.Aty, pairs, jnp.maximum(jnp.where(rows.bounded, -slack, 0), 0))
    inside = jnp.clip(off, 1e-3, 1)
    return rows.point(x, jnp.where(rows.fixed, z, jnp.maximum(z, inside)), jnp.maximum(slack, inside))


def _relaxed_multipliers(qp: QuadraticProgram, Ax: Array, smoothing: Any) -> tuple[Array, Array]:
    """The multipliers of the relaxed problem as a function of the rows, and their derivative."""
    rows, smoothing = rows_of(qp), jnp.asarray(smoothing).astype(Ax.dtype)
    slack = jnp.where(rows.bounded, rows.slack(Ax), 1)
    wanted = rows.force(jnp.where(rows.bounded, smoothing / slack, 0))
    slope = jnp.sum(jnp.where(rows.bounded, smoothing / slack**2, 0), axis=0)
    return wanted, slope


def _distance_from_path(qp: QuadraticProgram, y: Array, Ax: Array, smoothing: Any) -> Array:
    """The largest error of a complementary product, for the relaxed problem."""
    rows = rows_of(qp)
    nearest = jnp.min(jnp.where(rows.bounded, rows.slack(Ax), jnp.inf), axis=0)
    wanted, _ = _relaxed_multipliers(qp, Ax, smoothing)
    return norm(jnp.where(jnp.any(rows.bounded, axis=0), nearest, 0) * (wanted - y))
