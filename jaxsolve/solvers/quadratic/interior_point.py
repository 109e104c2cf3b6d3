r"""A proximal primal-dual interior-point method for quadratic programs.

Problem: :math:`\min_x \tfrac12 x^T Q x + c^T x` subject to :math:`l \le A x \le u`. Method: Newton's method on the
relaxed optimality conditions of the proximal augmented Lagrangian, with a predictor and a corrector
step that share one Cholesky factorisation. With slacks :math:`s_l = A x - l,\ s_u = u - A x` and multipliers
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

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from jaxsolve._loop import LoopKind, loop
from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.base import check_number, option
from jaxsolve.solvers.quadratic._base import Problem
from jaxsolve.solvers.quadratic._certificates import find_certificates
from jaxsolve.solvers.quadratic._forms import BoxConstrained
from jaxsolve.solvers.quadratic._kkt import ActiveSet, Factors
from jaxsolve.solvers.quadratic._problem import QuadraticProgram, weighted_gram
from jaxsolve.solvers.quadratic._residuals import (
    Products,
    norm,
    optimality_error,
    residuals,
)
from jaxsolve.solvers.quadratic._scaling import Scaling
from jaxsolve.tree_util import tree_all_finite, tree_where

__all__ = ["InteriorPointQP", "InteriorPointState"]


class Point(NamedTuple):
    """An interior point of the scaled problem; entries of absent bounds are 1 and take no part.

    Attributes:
        x: shape ``(n,)``.
        equality: multipliers of the equalities, shape ``(m,)``, 0 elsewhere.
        z_lower: multipliers of the lower bounds, positive.
        z_upper: multipliers of the upper bounds, positive.
        s_lower: slacks of the lower bounds, positive.
        s_upper: slacks of the upper bounds, positive.
    """

    x: Array
    equality: Array
    z_lower: Array
    z_upper: Array
    s_lower: Array
    s_upper: Array


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
        factors: internal; ``None`` in the result of a run.
    """

    iter_num: Array
    error: Array
    value: Array
    point: Point
    at: Products
    regularization: Array
    status: Array
    factors: Any = None


class InteriorPointQP(BoxConstrained):
    """Interior-point solver for quadratic programs, accurate to 1e-9 in float64.

    ``run(init_params=None, params_obj=(Q, c), params_eq=A, params_ineq=(l, u))`` minimises
    ``0.5 x^T Q x + c^T x`` subject to ``l <= A x <= u``. ``Q`` (shape ``(n, n)``, may be singular or ``None``) and
    ``A`` (shape ``(m, n)``, of any rank) are dense, or made so. Bounds may be infinite, equal, or numbers. The result
    is ``KKTSolution((x, z), y, (mu, phi))`` with ``z = A x``, the multipliers ``y`` of the rows, and their positive and
    negative parts ``mu`` and ``phi``. All are differentiable with respect to ``Q, c, A, l, u``, and so is
    ``state.value``.

    A run ends with ``Status.PRIMAL_INFEASIBLE`` or ``Status.DUAL_INFEASIBLE`` only with a checked certificate.

    Attributes:
        smoothing: solve the relaxed problem whose complementary products ``s z`` are this number instead of 0. Its
            solution is smooth in the data, where a linear program, say, jumps from vertex to vertex, and it is *its*
            derivative that is returned.

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

    maxiter: int = option(100)
    tol: float = option(1e-8)
    smoothing: float = option(0.0)

    order: ClassVar[str] = "matvec_Q matvec_A fun"
    # Iterations are few, so the active set is not looked at before the last; and then it is known.
    stages: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def validate(self) -> None:
        """Raise for an impossible option."""
        super().validate()
        check_number("smoothing", self.smoothing, at_least=0)

    @property
    def smooths(self) -> bool:
        """Whether the relaxed problem is solved."""
        return not (isinstance(self.smoothing, (int, float)) and self.smoothing == 0)

    @property
    def polishes(self) -> bool:
        """Whether the solution is one that an active set determines."""
        return self.polish and not self.smooths

    def active_set(self, qp: QuadraticProgram, x: Array, y: Array, scaling: Scaling, Ax: Array) -> ActiveSet:
        """The rows as they count in derivatives: between active and inactive, in the relaxed problem."""
        if not self.smooths:
            return super().active_set(qp, x, y, scaling, Ax)
        _, slope = _relaxed_multipliers(qp, Ax, self.smoothing)
        stiffness = scaling.cost * slope / scaling.rows**2
        weight = jnp.where(qp.lower == qp.upper, 1, stiffness / (1 + stiffness))
        return ActiveSet(weight, jnp.ones(weight.shape, bool))

    def residual(self, params: PyTree, *args: Any, factors: Factors | None = None, **kwargs: Any) -> PyTree:
        """The mapping that is differentiated."""
        if not self.smooths or factors is None:
            return super().residual(params, *args, factors=factors, **kwargs)
        problem, x, y = self._at(params, args, kwargs)
        qp, scaling, weight = problem.qp, factors.scaling, factors.active.weight
        Ax = qp.A.matvec(x)
        equality = qp.lower == qp.upper
        wanted, _ = _relaxed_multipliers(qp, Ax, self.smoothing)
        bound = jnp.where(equality, qp.upper, 0)
        rows = jnp.where(
            equality, scaling.rows * (Ax - bound), (1 - weight) * (scaling.cost / scaling.rows) * (wanted - y)
        )
        return self._like(problem, params, (qp.P.matvec(x) + qp.q + qp.A.rmatvec(y), rows))

    def wanted_form(self, qp: QuadraticProgram) -> QuadraticProgram:
        """The problem with dense matrices."""
        return qp.dense()

    def init_state(
        self, init_params: PyTree, params_obj: Any = None, params_eq: Any = None, params_ineq: Any = None
    ) -> InteriorPointState:
        """The state before the first iteration; the arguments are those of ``run``."""
        problem = self.problem(self.primal_of(init_params), params_obj, params_eq, params_ineq)
        warm = self.initial_values(init_params, problem)
        point = _cold_start(problem.scaled) if warm is None else _warm_start(problem, *warm)
        return self._judge(problem, point, jnp.zeros((), jnp.int32), jnp.ones((), point.x.dtype), first=True)

    def first_step(self, init_params: PyTree, args: tuple, kwargs: dict) -> OptStep:
        """The starting point and its state."""
        state = self.init_state(init_params, *args, **kwargs)
        return OptStep(self._to_params(self.problem(None), state.point), state)

    def update(
        self, params: PyTree, state: InteriorPointState, params_obj: Any = None, params_eq: Any = None,
        params_ineq: Any = None,
    ) -> OptStep:  # fmt: skip
        """One predictor-corrector step; returns ``OptStep(params, state)``."""
        problem = self.problem(params.primal[0], params_obj, params_eq, params_ineq)
        target = jnp.asarray(self.smoothing).astype(state.error.dtype) * problem.scaling.cost
        point, accurate = _predictor_corrector(
            problem.scaled, state.point, state.at, state.regularization, target, self.loop_kind
        )
        # A factorisation that broke down is repeated with more regularisation, from where it was.
        sound = tree_all_finite(point)
        point = tree_where(sound, point, state.point)
        relaxed = jnp.maximum(0.7 * state.regularization, 1)
        regularization = jnp.where(sound & accurate, relaxed, state.regularization * 10)
        state = self._judge(problem, point, state.iter_num + 1, regularization)
        return OptStep(self._to_params(problem, point), state)

    def _judge(
        self, problem: Problem, point: Point, iter_num: Array, regularization: Array, *, first: bool = False
    ) -> InteriorPointState:
        """The state at a point: its error, and whether the run is over."""
        qp, (variables, rows, cost) = problem.qp, problem.scaling
        scaled, y = problem.scaled, _multipliers(point)
        own = Products(scaled.P.matvec(point.x), scaled.A.matvec(point.x), scaled.A.rmatvec(y))
        x, y = variables * point.x, rows * y / cost
        at = Products(own.Px / (cost * variables), own.Ax / rows, own.Aty / (cost * variables))
        res = residuals(qp, x, y, at)
        if self.smooths:
            res = res._replace(gap=_distance_from_path(qp, y, at.Ax, self.smoothing))
        error = optimality_error(res, *self.tolerances(x.dtype))
        status = self.status_of(error, failed=regularization > 1e8)
        if not first:
            infeasible, unbounded = find_certificates(problem.scaled, problem.scaling, x, y, at, (1e-3, 1e-3))
            undecided = status != int(Status.CONVERGED)
            status = jnp.where(undecided & unbounded, int(Status.DUAL_INFEASIBLE), status)
            status = jnp.where(undecided & infeasible, int(Status.PRIMAL_INFEASIBLE), status).astype(jnp.int32)
        value = 0.5 * (x @ at.Px) + qp.q @ x
        return InteriorPointState(iter_num, error, value, point, own, regularization, status)

    def _to_params(self, problem: Problem, point: Point) -> PyTree:
        variables, rows, cost = problem.scaling
        x, y = variables * point.x, rows * _multipliers(point) / cost
        return self.to_params(problem, x, y, problem.qp.A.matvec(x))


# ---- The method, on the scaled problem ----------------------------------------------------------------------------


def _kinds(qp: QuadraticProgram) -> tuple[Array, Array, Array]:
    """Which rows are equalities, and which have a lower or an upper bound as inequalities."""
    equality = qp.lower == qp.upper
    return equality, ~equality & (qp.lower > -jnp.inf), ~equality & (qp.upper < jnp.inf)


def _multipliers(point: Point) -> Array:
    return point.equality + point.z_upper - point.z_lower


def _proximal(dtype) -> tuple[float, float]:
    """The smallest proximal parameters ``(rho, delta)`` with which a factorisation can be trusted."""
    return (1e-9, 1e-9) if jnp.finfo(dtype).bits == 64 else (1e-5, 1e-5)


def _cold_start(qp: QuadraticProgram) -> Point:
    """The minimiser of the objective plus a penalty of the rows, with slacks as large as its violations."""
    equality, lower, upper = _kinds(qp)
    dtype = qp.q.dtype
    weight = jnp.where(equality, 1e4, jnp.where(lower | upper, 1, 0)).astype(dtype)
    target = jnp.clip(jnp.zeros_like(qp.lower), qp.lower, qp.upper)
    A, identity = qp.A.dense(), jnp.eye(qp.num_variables, dtype=dtype)
    H = qp.P.dense() + 1e-2 * identity + weighted_gram(A, weight)
    x = cho_solve((jnp.linalg.cholesky(H), True), A.T @ (weight * target) - qp.q)
    x = jnp.where(jnp.all(jnp.isfinite(x)), x, jnp.zeros_like(x))
    Ax = A @ x
    s_lower, s_upper = Ax - jnp.where(lower, qp.lower, 0), jnp.where(upper, qp.upper, 0) - Ax
    violation = jnp.maximum(_largest(-s_lower, lower), _largest(-s_upper, upper))
    slack, one = jnp.maximum(1.0, violation), jnp.ones((), dtype)
    return Point(
        x,
        jnp.zeros_like(qp.lower),
        jnp.where(lower, one, 0),
        jnp.where(upper, one, 0),
        jnp.where(lower, jnp.maximum(s_lower, slack), one),
        jnp.where(upper, jnp.maximum(s_upper, slack), one),
    )


def _largest(values, where):
    return jnp.max(jnp.where(where, values, -jnp.inf), initial=0)


def _warm_start(problem: Problem, x: Array, y: Array) -> Point:
    """A point near a given one, as far inside as a useful centrality needs."""
    qp, (variables, rows, cost) = problem.scaled, problem.scaling
    equality, lower, upper = _kinds(qp)
    x, y = x / variables, cost * y / rows
    Ax = qp.A.matvec(x)
    inside = 1e-2
    one = jnp.ones((), x.dtype)
    return Point(
        x,
        jnp.where(equality, y, 0),
        jnp.where(lower, jnp.maximum(-y, inside), 0),
        jnp.where(upper, jnp.maximum(y, inside), 0),
        jnp.where(lower, jnp.maximum(Ax - qp.lower, inside), one),
        jnp.where(upper, jnp.maximum(qp.upper - Ax, inside), one),
    )


def _predictor_corrector(
    qp: QuadraticProgram, point: Point, at: Products, regularization: Array, target: Array, kind: LoopKind
) -> tuple[Point, Array]:
    """The next point, and whether its linear systems were solved to some accuracy."""
    equality, lower, upper = _kinds(qp)
    x, _, z_lower, z_upper, s_lower, s_upper = point
    dtype = x.dtype
    P, A = qp.P.dense(), qp.A.dense()
    Ax, y = at.Ax, _multipliers(point)
    count = jnp.maximum(jnp.sum(lower) + jnp.sum(upper), 1).astype(dtype)
    mu = (jnp.sum(jnp.where(lower, s_lower * z_lower, 0)) + jnp.sum(jnp.where(upper, s_upper * z_upper, 0))) / count

    r_dual = -(at.Px + qp.q + at.Aty)
    rho, delta = _proximal(dtype)
    # Multipliers of equalities are residuals over delta: the rounding of the residual must stay below what is left to
    # correct of the multipliers.
    rounding = 10 * jnp.finfo(dtype).eps * norm(Ax) / jnp.maximum(norm(r_dual), delta)
    rho, delta = regularization * rho, regularization * jnp.clip(rounding, delta, 1e3 * delta)
    d_lower = jnp.where(lower, z_lower / (s_lower + delta * z_lower), 0)
    d_upper = jnp.where(upper, z_upper / (s_upper + delta * z_upper), 0)
    weight = jnp.where(equality, 1 / delta, d_lower + d_upper)
    H = P + weighted_gram(A, weight) + rho * jnp.eye(qp.num_variables, dtype=dtype)
    L = jnp.linalg.cholesky(H, symmetrize_input=False)

    r_equality = jnp.where(equality, qp.upper - Ax, 0)
    r_lower = jnp.where(lower, s_lower - (Ax - qp.lower), 0)
    r_upper = jnp.where(upper, s_upper - (qp.upper - Ax), 0)
    fixed_rows = jnp.where(equality, r_equality / delta, d_lower * r_lower - d_upper * r_upper)

    def solve(rhs, passes):
        """``H^{-1} rhs`` and its product with A, refined: penalties of 1e8 leave few digits to a factorisation."""
        if passes == 1:
            dx = cho_solve((L, True), rhs)
            return dx, A @ dx, jnp.asarray(True)
        wanted = 1e-10 if dtype == jnp.float64 else 1e-5

        def refine(carry):
            dx, _, left, _ = carry
            dx = dx + cho_solve((L, True), left)
            Adx = A @ dx
            return dx, Adx, rhs - (P @ dx + rho * dx + (weight * Adx) @ A), norm(left)

        def proceed(carry):
            *_, left, before = carry
            size = norm(left)
            return (size > wanted * norm(rhs)) & (size < 0.5 * before)

        start = (jnp.zeros_like(rhs), jnp.zeros_like(qp.lower), rhs, jnp.asarray(jnp.inf, dtype))
        dx, Adx, left, _ = loop(proceed, refine, start, maxiter=passes, kind=kind)
        return dx, Adx, norm(left) <= 1e-3 * norm(rhs)

    def direction(c_lower, c_upper, passes):
        """The step for complementary products that are to change by ``c_lower`` and ``c_upper``."""
        t_lower = jnp.where(lower, c_lower / (s_lower + delta * z_lower), 0)
        t_upper = jnp.where(upper, c_upper / (s_upper + delta * z_upper), 0)
        pull = fixed_rows + t_lower - t_upper
        dx, Adx, accurate = solve(r_dual + pull @ A, passes)
        dz_lower = d_lower * (r_lower - Adx) + t_lower
        dz_upper = d_upper * (r_upper + Adx) + t_upper
        step = Point(
            dx,
            jnp.where(equality, (Adx - r_equality) / delta, 0),
            dz_lower,
            dz_upper,
            jnp.where(lower, (c_lower - s_lower * dz_lower) / jnp.where(lower, z_lower, 1), 0),
            jnp.where(upper, (c_upper - s_upper * dz_upper) / jnp.where(upper, z_upper, 1), 0),
        )
        return step, accurate

    def longest(values, steps, where):
        return jnp.min(
            jnp.where(where & (steps < 0), -values / jnp.where(steps < 0, steps, -1), jnp.inf), initial=jnp.inf
        )

    def lengths(step):
        primal = jnp.minimum(longest(s_lower, step.s_lower, lower), longest(s_upper, step.s_upper, upper))
        dual = jnp.minimum(longest(z_lower, step.z_lower, lower), longest(z_upper, step.z_upper, upper))
        return primal, dual

    affine, _ = direction(target - s_lower * z_lower, target - s_upper * z_upper, passes=1)
    primal, dual = (jnp.minimum(length, 1) for length in lengths(affine))
    after = jnp.sum(
        jnp.where(lower, (s_lower + primal * affine.s_lower) * (z_lower + dual * affine.z_lower), 0)
    ) + jnp.sum(jnp.where(upper, (s_upper + primal * affine.s_upper) * (z_upper + dual * affine.z_upper), 0))
    centering = jnp.clip(after / count / jnp.maximum(mu, jnp.finfo(dtype).tiny), 0, 1) ** 3
    # Complementarity must not run ahead of feasibility, or the iterates are stuck at the boundary: what the infeasible
    # parts may still contribute to the duality gap is a measure for it.
    r_primal = jnp.maximum(jnp.maximum(norm(r_equality), norm(r_lower)), norm(r_upper))
    behind = 1e-2 * (norm(r_dual) * norm(x) + r_primal * norm(y)) / count
    goal = jnp.maximum(jnp.maximum(centering * mu, jnp.minimum(behind, 10 * mu)), target)
    step, accurate = direction(
        goal - s_lower * z_lower - affine.s_lower * affine.z_lower,
        goal - s_upper * z_upper - affine.s_upper * affine.z_upper,
        passes=5,
    )
    primal, dual = (jnp.minimum(0.995 * length, 1) for length in lengths(step))
    new = Point(
        x + primal * step.x,
        point.equality + dual * step.equality,
        z_lower + dual * step.z_lower,
        z_upper + dual * step.z_upper,
        s_lower + primal * step.s_lower,
        s_upper + primal * step.s_upper,
    )
    return new, accurate


def _relaxed_multipliers(qp: QuadraticProgram, Ax: Array, smoothing: Any) -> tuple[Array, Array]:
    """The multipliers of the relaxed problem as a function of the rows, and their derivative."""
    _, lower, upper = _kinds(qp)
    smoothing = jnp.asarray(smoothing).astype(Ax.dtype)
    above = jnp.where(upper, jnp.where(upper, qp.upper, 0) - Ax, 1)
    below = jnp.where(lower, Ax - jnp.where(lower, qp.lower, 0), 1)
    wanted = jnp.where(upper, smoothing / above, 0) - jnp.where(lower, smoothing / below, 0)
    slope = jnp.where(upper, smoothing / above**2, 0) + jnp.where(lower, smoothing / below**2, 0)
    return wanted, slope


def _distance_from_path(qp: QuadraticProgram, y: Array, Ax: Array, smoothing: Any) -> Array:
    """The largest error of a complementary product, for the relaxed problem."""
    _, lower, upper = _kinds(qp)
    above, below = jnp.where(upper, qp.upper - Ax, 1), jnp.where(lower, Ax - qp.lower, 1)
    wanted, _ = _relaxed_multipliers(qp, Ax, smoothing)
    return jnp.max(jnp.abs(jnp.where(lower | upper, jnp.minimum(above, below) * (wanted - y), 0)), initial=0)
