r"""A primal-dual interior-point method for conic programs.

Problem: :math:`\min_x \tfrac12 x^T P x + c^T x` subject to :math:`A x + s = b,\ s \in K`. Method: Newton's method on
the homogeneous embedding, with a predictor and a corrector step that share one Cholesky factorization of size n
(:mod:`._homogeneous`); Nesterov-Todd scaling of second-order and semidefinite cones (:mod:`._scalings`), primal-dual
scaling of exponential and power cones (:mod:`._barriers`). At the end Newton's method for the residual map
(:mod:`._tangent`) finds the solution to rounding, and gives the derivative.

Reference:
    Andersen, Roos and Terlaky (2003), "On implementing a primal-dual interior-point method for conic quadratic
    optimization"; Dahl and Andersen (2022), "A primal-dual interior-point algorithm for nonsymmetric exponential-cone
    optimization"; Goulart and Chen (2024), "Clarabel: An interior-point solver for conic programs with quadratic
    objectives".
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._loop import run_if_any
from jaxsolve._status import Status
from jaxsolve._types import Array, PyTree
from jaxsolve.base import option
from jaxsolve.solvers.conic import _residuals
from jaxsolve.solvers.conic._base import ConicSolver
from jaxsolve.solvers.conic._homogeneous import Point, cold_start, predictor_corrector
from jaxsolve.solvers.conic._program import as_arrays
from jaxsolve.solvers.conic._solution import ConicSolution
from jaxsolve.solvers.conic._start import warm_start
from jaxsolve.solvers.quadratic._base import Problem, Solution
from jaxsolve.solvers.quadratic._problem import QuadraticProgram
from jaxsolve.solvers.quadratic._residuals import Products, norm, optimality_error, products
from jaxsolve.tree_util import tree_all_finite, tree_where

__all__ = ["ConicInteriorPoint", "ConicInteriorPointState"]

# A warm start is one if its error is less than that of a cold start by this factor. Otherwise it would cost more.
_WARM = 0.5
# A step that is shorter than this does nothing any more; nor do so many steps without a better point.
_SHORTEST, _MOST_IDLE = 1e-4, 10


class ConicInteriorPointState(NamedTuple):
    """State of the interior-point method.

    Attributes:
        iter_num: iterations done, int32.
        error: the least optimality error so far; converged at ``tol``.
        value: the objective there.
        best: ``(x, y, s)`` there, in scaled units.
        point: the iterate of the homogeneous embedding, in scaled units.
        idle: iterations since the best point, int32.
        certificate: of a problem without solution, in the units of the user: ``y`` with ``b^T y = -1`` if no point
            satisfies the constraints, ``x`` and ``s`` with ``c^T x = -1`` if the objective is unbounded; else 0.
        status: a :class:`jaxsolve.Status`, int32.
    """

    iter_num: Array
    error: Array
    value: Array
    best: tuple[Array, Array, Array]
    point: Point
    idle: Array
    certificate: ConicSolution
    status: Array


class ConicInteriorPoint(ConicSolver):
    r"""Interior-point solver for conic programs ``min 0.5 x^T P x + c^T x`` subject to ``A x + s = b, s in K``.

    ``run(init_params=None, params_obj=(P, c), params_cone=(A, b))``. ``P`` (shape ``(n, n)``, positive semidefinite,
    may be ``None``) and ``A`` (shape ``(m, n)``, of any rank) are dense, or sparse and made dense. The rows come in the
    order of ``cones``. The result is ``ConicSolution(x, y, s)`` with slacks ``s`` in the cones and multipliers ``y`` in
    the dual cones, ``P x + A^T y + c = 0`` and ``s^T y = 0``. All are differentiable with respect to ``P, c, A, b``,
    and so is ``state.value``.

    A run ends with ``Status.PRIMAL_INFEASIBLE`` or ``Status.DUAL_INFEASIBLE`` only with a checked certificate.

    An initial point is ``x`` alone or a whole :class:`jaxsolve.ConicSolution`. First Newton's method for the optimality
    conditions is tried from there, then iterations from a nearby point of the central path. If the point is not good
    enough, the iterations start as without one.

    Attributes:
        smoothing: find the point of the central path whose complementary products are this number instead of 0:
            :math:`s = -\mu \nabla f_*(y)` with the barrier of the dual cones, so :math:`s_i y_i = \mu` for non-negative
            rows. It is a smooth function of the data, while the solution of a linear program jumps from vertex to
            vertex. The derivatives are those of this point. The unit is that of the objective.

    Raises:
        ValueError: shapes do not fit each other or the cones, or ``smoothing`` without ``polish``.
        TypeError: ``cones`` is not a :class:`jaxsolve.Cones`, or ``params_obj`` or ``params_cone`` is not a pair.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> cones = jaxsolve.Cones(soc=(3,))  # the point of a disk that is furthest to the right
        >>> c, A = jnp.array([-1.0, 0.0]), jnp.array([[0.0, 0.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> solver = jaxsolve.ConicInteriorPoint(cones)
        >>> params, state = solver.run(None, (None, c), (A, jnp.array([2.0, 0.0, 0.0])))
        >>> [round(abs(x), 3) for x in params.x.tolist()], jaxsolve.Status(int(state.status)).name
        ([2.0, 0.0], 'CONVERGED')
        >>> value = lambda radius: solver.run(None, (None, c), (A, jnp.array([radius, 0.0, 0.0]))).state.value
        >>> round(float(jax.grad(value)(2.0)), 3)
        -1.0
    """

    maxiter: int = option(100)
    tol: float | None = option(None)  # type: ignore[assignment]  # by dtype

    smoothing: float = option(0.0, at_least=0)  # type: ignore[misc]  # an option here

    _State = ConicInteriorPointState
    _stages = (0.0, 1.0)
    _patience = (10_000, 1.0)

    def _validate(self) -> None:
        super()._validate()
        if self._on_path and not (self.polish and self.implicit_diff):
            raise ValueError("smoothing needs polish=True and implicit_diff=True: polishing finds its point.")

    def _wanted_form(self, qp: QuadraticProgram) -> QuadraticProgram:
        return qp.dense()

    def _begin(self, problem: Problem, init_params: PyTree) -> ConicInteriorPointState:
        cold = self._start_at(problem, cold_start(as_arrays(problem.scaled), self.cones))
        given = self._given(problem, init_params)
        if given is None:
            return cold
        x, y = problem.scaling.to_scaled(given.x, given.y)
        warm = self._start_at(problem, warm_start(as_arrays(problem.scaled), self.cones, x, y))
        return tree_where(warm.error < _WARM * cold.error, warm, cold)

    def _start_at(self, problem: Problem, point: Point) -> ConicInteriorPointState:
        infinite, zero = jnp.asarray(jnp.inf, point.x.dtype), jnp.zeros((), jnp.int32)
        best = (point.x, point.z, point.s)
        nothing = jax.tree.map(jnp.zeros_like, ConicSolution(*best))
        before = self._State(zero, infinite, infinite, best, point, zero, nothing, zero)
        return self._judged_state(problem, before, point, None, zero)

    def _advance(self, problem: Problem, state: ConicInteriorPointState) -> ConicInteriorPointState:
        """One predictor-corrector step."""
        point, length = predictor_corrector(as_arrays(problem.scaled), self.cones, state.point, unrolls=self._unrolls)
        finite = tree_all_finite(point)
        point, length = tree_where(finite, (point, length), (state.point, jnp.zeros_like(length)))
        return self._judged_state(problem, state, point, length, state.iter_num + 1)

    def _solution(self, problem: Problem, state: ConicInteriorPointState) -> Solution:
        x, y, _ = state.best
        x, y, at = problem.scaling.to_user(x, y, products(problem.scaled, x, y))
        return Solution(x, y, at.Ax)

    def _judged_state(
        self, problem: Problem, before: ConicInteriorPointState, point: Point, length: Array | None, iter_num: Array
    ) -> ConicInteriorPointState:
        """The state at a point of the embedding: its error, certificates, and whether the run is over.

        ``length`` is that of the step to it; a point to start from has ``None``, and proves nothing.
        """
        qp, tau = problem.scaled, point.tau
        at = products(qp, point.x, point.z)
        x, y, s, of_solution = jax.tree.map(lambda part: part / tau, (point.x, point.z, point.s, at))
        error = optimality_error(_residuals.residuals(qp.q, qp.upper, x, y, s, of_solution), *self._tolerances(x.dtype))
        if self._on_path:  # it is polishing that decides
            error = jnp.maximum(error, 2 * self._tolerances(error.dtype)[0])
        value = (0.5 * (x @ of_solution.Px) + qp.q @ x) / problem.scaling.cost
        # On the way to a point of the central path the last iterate is the nearest.
        better = (error < before.error) | self._on_path
        new = (error, value, (x, y, s), jnp.zeros_like(before.idle))
        error, value, best, idle = tree_where(better, new, (before.error, before.value, before.best, before.idle + 1))
        if length is None:
            return self._State(iter_num, error, value, best, point, idle, before.certificate, self._status_of(error))
        # On the way to a certificate no point is better than the one before.
        failed = (length < _SHORTEST) | ((idle > _MOST_IDLE) & (point.kappa < tau))
        if self._on_path:  # there, polishing takes over
            failed |= s @ y <= self._products(problem) * max(self.cones.degree, 1)
        status = self._status_of(error, failed=failed)
        proved, certificate = self._proof(problem, point, at)
        proved = jnp.where(Status.CONVERGED.holds(status), int(Status.RUNNING), proved)
        status = jnp.where(Status.RUNNING.holds(proved), status, proved)
        certificate = tree_where(Status.RUNNING.holds(proved), before.certificate, certificate)
        return self._State(iter_num, error, value, best, point, idle, certificate, status)

    def _proof(self, problem: Problem, point: Point, at: Products) -> tuple[Array, ConicSolution]:
        """What a point near ``tau = 0`` proves: the status, or that of a run, and the certificate."""
        qp, forgiven, (tol, _) = problem.scaled, self._forgiven(problem), self._tolerances(point.x.dtype)
        ends = point.kappa > point.tau
        infeasible = ends & _residuals.is_primal_certificate(qp.upper, point.z, at.Aty, forgiven, tol)
        # Slacks of the iterates are wrong by rounding where H is large. Those next to -A x prove more.
        level = ends & (norm(at.Px) <= tol * -(qp.q @ point.x))
        Ax = lax.stop_gradient(at.Ax)
        s = run_if_any(level, lambda s: self.cones.project(-Ax), lax.stop_gradient(point.s))
        unbounded = level & _residuals.is_dual_certificate(qp.q, point.x, s, at, forgiven, tol)
        return _residuals.proof(problem.scaling, qp, (point.x, point.z, s), infeasible, unbounded)
