"""What the solvers for quadratic programs share: their arguments, their results, polishing, and derivatives.

A run of an iterative solver goes in stages. The iterations are interrupted at a coarse tolerance, the active set is
read off, and the system that it determines is solved (:mod:`._kkt`). If that point passes the test, the run is over,
and the factorization made for it serves the derivative too. If not, the iterations go on to the next, finer tolerance.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._loop import loop
from jaxsolve._status import Status
from jaxsolve._types import Array, KKTSolution, OptStep, PyTree
from jaxsolve.base import IterativeSolver, check_callable, option
from jaxsolve.solvers.quadratic._certificates import Forgiven
from jaxsolve.solvers.quadratic._data import ReadsData, default_tol
from jaxsolve.solvers.quadratic._kkt import (
    Factors,
    KKTSystem,
    balance,
    classify,
    factorize,
    is_convex,
    kkt_residual,
    polish,
)
from jaxsolve.solvers.quadratic._problem import (
    Constraints,
    QuadraticProgram,
    as_quadratic,
    as_vector,
    assemble,
    check_bounds,
    flat,
)
from jaxsolve.solvers.quadratic._residuals import feasible_signs, norm, optimality_error, products, residuals
from jaxsolve.solvers.quadratic._scaling import equilibrate, scale
from jaxsolve.tree_util import tree_where

__all__ = ["WEAK", "DirectQP", "DirectState", "IterativeQP", "Problem", "QuadraticSolver", "Solution", "has_derivative"]

#: How rows count in derivatives that hold with equality and multiplier 0.
WEAK = ("half", "active", "inactive")


class Solution(NamedTuple):
    """Vectors in the units of the user: the primal point, the multipliers of the rows, and the rows at the point."""

    x: Array
    y: Array
    Ax: Array


class Problem(NamedTuple):
    """A quadratic program of the user, ready to be solved.

    Attributes:
        qp: in the units of the user.
        unravel_x: from vectors to the user's primal variables.
        unravel_rows: from vectors of multipliers to the user's pytrees, by the names of the matrices.
        scaling: its equilibration. This and what follows is ``None`` where nothing is to be solved.
        scaled: the equilibrated problem.
        for_kkt: the equilibrated problem for the system of an active set, and its scaling.
        convex: whether the objective is, where the equalities leave room; a boolean scalar.
        linear_system: what an algorithm prepares once for all its iterations.
    """

    qp: QuadraticProgram
    unravel_x: Callable[[Array], PyTree]
    unravel_rows: Callable[[Array], dict[str, PyTree]]
    scaling: Any = None
    scaled: Any = None
    for_kkt: Any = None
    convex: Any = True
    linear_system: Any = None

    def equilibrated(self, qp: QuadraticProgram, *, shared: bool = False) -> Problem:
        """This problem with its scaling; ``qp`` are the same data with matrices of another kind."""
        scaling = equilibrate(qp, shared=shared)
        scaled = scale(qp, scaling)
        for_kkt = scaled, scaling
        if qp.has_factor:
            # The system of an active set has no linear term. Beside a large one the curvature is small, and would be
            # taken for none: its unit is its own size.
            largest = lax.stop_gradient(norm(scaled.P.dense()))
            unit = jnp.where(largest > _NO_CURVATURE, 1 / jnp.maximum(largest, _NO_CURVATURE), 1)
            own = scaling._replace(cost=unit * scaling.cost)
            for_kkt = scale(qp, own), own
        convex = is_convex(scale(qp, scaling.of_common_parts())) if qp.has_factor else jnp.asarray(True)
        return self._replace(qp=qp, scaling=scaling, scaled=scaled, for_kkt=for_kkt, convex=convex)

    def factors(self, weight: Array, at_upper: Array, *, direct: bool = True) -> Factors:
        """The system of an active set, factorized where that is wanted."""
        scaled, scaling = self.for_kkt
        return Factors(weight, at_upper, scaling, factorize(scaled, weight) if direct and self.qp.has_factor else None)


_NO_CURVATURE = 1e-8
# How many active sets are tried in a row.
_ATTEMPTS = 4
# What an attempt does: exchange rows, or factorize what derivatives want at the point that was found.
_SEARCHING, _DIFFERENTIATED, _OVER = 0, 1, 2


class QuadraticSolver(ReadsData):
    """Base of the solvers for quadratic programs, whatever their method.

    Data in half precision are computed with in float32; the solution has the dtype of the linear term. A positive
    ``tol`` or ``rtol`` counts as ten units of rounding at least, 1e-6 in float32.
    """

    tol: Any

    # Options of some solvers. For the others these are no options.
    rtol = None
    weak = "half"

    _needs_init_params = False
    #: Whether a batch of problems with P and A in common is to share its scaling, see :mod:`._scaling`.
    _shares_scaling = False

    def _validate(self) -> None:
        super()._validate()
        for name in ("matvec_Q", "matvec_A", "matvec_G", "fun"):
            if getattr(self, name) is not None:
                check_callable(name, getattr(self, name), "a function")
        if self.fun is not None and self.matvec_Q is not None:
            raise ValueError("fun and matvec_Q both give the objective: pass one of them.")

    # ---- The problem ----------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def _constraints(self, size: int, *args: Any, **kwargs: Any) -> dict[str, Constraints]:
        """The constraints on so many variables, by the names of their matrices, from the data behind the objective."""

    @abc.abstractmethod
    def _to_params(self, problem: Problem, solution: Solution) -> KKTSolution:
        """The user's form of a solution."""

    def _unknowns(self, params: KKTSolution) -> tuple[PyTree, PyTree]:
        """The primal variables and the multipliers of the rows."""
        return params.primal, (params.dual_eq, params.dual_ineq)

    def _check_arguments(self, init_params: PyTree = None, params_obj: Any = None, *data: Any) -> None:
        for _, _, lower, upper, names in self._constraints(0, *data).values():
            check_bounds(lower, upper, names)

    def _as_given(self, like: PyTree, *args: Any, **kwargs: Any) -> Problem:
        """The problem of the data, for variables like ``like``, with what maps vectors to the pytrees of the user."""
        (params_obj, *others), _ = self._read(args, kwargs)
        objective = as_quadratic(params_obj, self.matvec_Q, self.fun, like)
        return Problem(*assemble(objective, self._constraints(objective.q.size, *others)))

    def _wanted_form(self, qp: QuadraticProgram) -> QuadraticProgram:
        """The problem with the kind of matrices that the algorithm needs."""
        return qp

    def _problem(self, init_params: PyTree, *args: Any, **kwargs: Any) -> Problem:
        """The problem of the arguments of ``run``, equilibrated."""
        problem = self._as_given(self._parts(init_params)[0], *args, **kwargs)
        return problem.equilibrated(self._wanted_form(problem.qp), shared=self._shares_scaling)

    def init_params(self, init_x: PyTree, params_obj: Any, params_eq: Any = None, params_ineq: Any = None) -> Any:
        """A starting point for ``run`` with the primal variables ``init_x`` (``None``: 0) and multipliers 0."""
        problem = self._problem(init_x, params_obj, params_eq, params_ineq)
        x, y = self._start(problem, init_x)
        return self._to_params(problem, Solution(x, y, problem.qp.A.matvec(x)))

    def _parts(self, init_params: PyTree) -> tuple[PyTree, PyTree]:
        """The primal variables and the multipliers of an initial point, each ``None`` if it was not given."""
        params = init_params.params if isinstance(init_params, OptStep) else init_params
        return self._unknowns(params) if isinstance(params, KKTSolution) else (params, None)

    def _start(self, problem: Problem, init_params: PyTree) -> tuple[Array, Array]:
        """The vectors ``(x, y)`` of an initial point; what was not given is 0."""
        x, y = (part if jax.tree.leaves(part) else 0.0 for part in self._parts(init_params))
        q, lower, dtype = problem.qp.q, problem.qp.lower, problem.qp.q.dtype
        return as_vector("init_params.primal", x, q.size, dtype), as_vector("the multipliers", y, lower.size, dtype)

    def _tolerances(self, dtype) -> tuple[Array, Array]:
        """Absolute and relative tolerance as scalars of a dtype; what is beyond its precision is not asked for."""
        given = default_tol(dtype) if self.tol is None else self.tol
        tol, rtol = (jnp.asarray(t).astype(dtype) for t in (given, given if self.rtol is None else self.rtol))
        smallest = 10 * float(jnp.finfo(dtype).eps)
        return tuple(jnp.where(t > 0, jnp.maximum(t, smallest), t) for t in (tol, rtol))  # type: ignore[return-value]

    def _error(self, problem: Problem, x: Array, y: Array) -> tuple[Array, Any]:
        """The optimality error, see :mod:`._residuals`, and the matrix products that it takes."""
        at = products(problem.qp, x, y)
        x, y = problem.scaling.to_scaled(x, y)
        res = residuals(problem.scaled, x, y, problem.scaling.products_to_scaled(at))
        return optimality_error(res, *self._tolerances(x.dtype)), at

    def _forgiven(self, problem: Problem) -> Forgiven:
        """What the test of convergence forgives, in scaled units."""
        tol, rtol = self._tolerances(problem.qp.q.dtype)
        bounds = (problem.scaled.lower, problem.scaled.upper)
        sizes = [jnp.where(jnp.isfinite(bound), jnp.abs(bound), 0) for bound in bounds]
        return Forgiven(tol + rtol * jnp.maximum(*sizes), tol + rtol * jnp.abs(problem.scaled.q))

    # ---- Polishing ------------------------------------------------------------------------------------------------

    def _polished(
        self, problem: Problem, solution: Solution, error: Array, status: Array
    ) -> tuple[Solution, Array, Array, Factors]:
        """The point that the active set of a solution determines, if it is better.

        Args:
            problem: the problem, with a factor.
            solution: where to begin.
            error: its optimality error.
            status: its status; where the problem has no solution there is no active set to look at.

        Returns:
            The better point, its error and status, and the factors of the active set.
        """
        qp, scaling = problem.qp, problem.scaling
        tol, _ = self._tolerances(error.dtype)
        lost = _is_lost(status)

        def attempt(carry):
            # A point that breaks a bound, or has a multiplier of the wrong sign, says which rows to exchange. Once they
            # are known, or after the last attempt, the factor is that of the best point as derivatives want it.
            count, latest, best, best_error, _, phase = carry
            last = (phase == _DIFFERENTIATED) | (count == _ATTEMPTS)
            at_point = tree_where(last, best, latest)
            weight, at_upper = classify(qp, at_point.y, at_point.Ax, scaling)
            weight = jnp.where(last, classify(qp, best.y, best.Ax, scaling, self.weak)[0], weight)
            factors = problem.factors(weight, at_upper)
            x, y = polish(qp, at_point.x, at_point.y, factors)
            y = feasible_signs(qp, y)
            error, at = self._error(problem, x, y)
            latest, better = Solution(x, y, at.Ax), (error < best_error) & ~last
            best, best_error = tree_where(better, (latest, error), (best, best_error))
            known = jnp.all(classify(qp, y, at.Ax, scaling)[0] == weight) & (error <= tol)
            same = jnp.all(classify(qp, y, at.Ax, scaling, self.weak)[0] == weight)
            phase = jnp.where(last | (known & same), _OVER, jnp.where(known, _DIFFERENTIATED, _SEARCHING))
            return count + 1, latest, best, best_error, factors, phase

        phase = jnp.where(lost | jnp.isnan(error), _OVER, _SEARCHING)
        carry = (jnp.zeros((), jnp.int32), solution, solution, error, _no_factors(problem), phase)
        carry = loop(lambda carry: carry[-1] != _OVER, attempt, carry, maxiter=_ATTEMPTS + 1)
        _, _, best, best_error, factors, _ = carry
        status = Status.CONVERGED.where((best_error <= tol) & ~lost, status)
        return best, best_error, status, self._balanced(problem, factors)

    def _balanced(self, problem: Problem, factors: Factors) -> Factors:
        """The factors with what the derivative is to be where a row is weakly active."""
        has_weak = self.weak == "half" and factors.cholesky is not None
        return balance(problem.for_kkt[0], factors) if has_weak else factors

    # ---- Optimality and derivatives -------------------------------------------------------------------------------

    def _at(self, unknowns: tuple[PyTree, PyTree], args: tuple, kwargs: dict) -> tuple[Problem, Array, Array]:
        """The problem as it was given, and the vectors of its unknowns."""
        problem = self._as_given(unknowns[0], *args, **kwargs)
        x, y = (flat(part, problem.qp.q.dtype) for part in unknowns)
        return problem, x, y

    def _complete(self, unknowns: tuple[PyTree, PyTree], *args: Any, **kwargs: Any) -> KKTSolution:
        """The user's form of a solution as a function of its unknowns and the data."""
        problem, x, y = self._at(unknowns, args, kwargs)
        return self._to_params(problem, Solution(x, y, problem.qp.A.matvec(x)))

    def _kkt_residual(self, qp: QuadraticProgram, x: Array, y: Array, factors: Factors) -> tuple[Array, Array]:
        """The mapping that is differentiated: linear in the unknowns, once the active set is known."""
        return kkt_residual(qp, x, y, factors)

    def _state_of_solution(self, unknowns: PyTree, *args: Any, **kwargs: Any) -> dict[str, PyTree]:
        """The value of the objective."""
        problem, x, _ = self._at(unknowns, args, kwargs)
        return {"value": problem.qp.value(x)}

    def optimality_fun(self, params: KKTSolution, *args: Any, **kwargs: Any) -> tuple[Array, Array]:
        r"""The natural residual :math:`(Px + q + A^T y,\; Ax - \Pi_{[l,u]}(Ax + y))`, of shapes (n,) and (m,)."""
        problem, x, y = self._at(self._unknowns(params), args, kwargs)
        qp, at = problem.qp, products(problem.qp, x, y)
        return at.Px + qp.q + at.Aty, at.Ax - jnp.clip(at.Ax + y, qp.lower, qp.upper)


class DirectState(NamedTuple):
    """State at the end of a run.

    Attributes:
        iter_num: iterations done, as far as they are known; int32.
        error: optimality error of the solution, the largest residual in absolute and relative terms.
        value: the objective.
        status: a :class:`jaxsolve.Status`, int32.
    """

    iter_num: Array
    error: Array
    value: Array
    status: Array


class DirectQP(QuadraticSolver):
    """Base of the solvers of quadratic programs that have no iterations to show.

    Attributes:
        tol: the run has converged when ``state.error`` is at most ``tol``.
    """

    tol: float = option(1e-5, at_least=0)

    _State = DirectState

    def _validate(self) -> None:
        super()._validate()
        if not self.implicit_diff:
            raise ValueError(f"implicit_diff=False means unrolled iterations, and {type(self).__name__} has none.")


class IterativeQP(QuadraticSolver, IterativeSolver):
    """Base of the iterative solvers for quadratic programs.

    A subclass defines ``_begin``, ``_advance`` and ``_solution``. All take the equilibrated problem, which a run makes
    once.

    Attributes:
        tol: absolute tolerance for the residuals, see :mod:`jaxsolve.solvers.quadratic._residuals`. ``None`` is 1e-8
            for data in float64 and 1e-5 for data in float32.
        rtol: relative tolerance; ``None`` is ``tol``.
        polish: solve for the point that the active set determines as soon as it seems to be known.
        weak: how rows count in derivatives that hold with equality and multiplier 0, where the solution is not
            differentiable: ``"half"`` (the mean of the derivatives on both sides, for one such row), ``"active"`` or
            ``"inactive"``.
    """

    rtol: float | None = option(None, at_least=0)  # type: ignore[misc]  # an option here
    polish: bool = option(True)
    weak: str = option("half", among=WEAK)  # type: ignore[misc]

    _handles_nonfinite = True
    _resumed_fields = ()
    #: The tolerance at which the active set is looked at for the first time, and the factor from stage to stage.
    _stages: ClassVar[tuple[float, float]] = (1e-3, 1e-2)
    #: How many iterations may pass until the active set is looked at all the same, the first time; then twice as many.
    #: Often it is known long before the iterates are accurate. ``None`` for no such limit.
    _patience: ClassVar[int | None] = 50

    def _prepared(self, problem: Problem, inputs: Any = None) -> Problem:
        """The problem with what all iterations of a run have in common; ``None`` in place of its inputs for one."""
        return problem

    @abc.abstractmethod
    def _begin(self, problem: Problem, init_params: PyTree) -> Any:
        """The state before the first iteration."""

    @abc.abstractmethod
    def _advance(self, problem: Problem, state: Any) -> Any:
        """The state after the next iteration, or the next few."""

    @abc.abstractmethod
    def _solution(self, problem: Problem, state: Any) -> Solution:
        """The point of a state."""

    def init_state(
        self, init_params: PyTree = None, params_obj: Any = None, params_eq: Any = None, params_ineq: Any = None
    ) -> Any:
        """The state before the first iteration; the arguments are those of ``run``."""
        problem = self._prepared(self._problem(init_params, params_obj, params_eq, params_ineq))
        return _judged_convex(problem, self._begin(problem, init_params))

    def update(
        self, params: PyTree, state: Any, params_obj: Any = None, params_eq: Any = None, params_ineq: Any = None
    ) -> OptStep:
        """The iterations up to the next test of convergence; returns ``OptStep(params, state)``."""
        problem = self._prepared(self._problem(params, params_obj, params_eq, params_ineq))
        return self._step(problem, _judged_convex(problem, self._advance(problem, state)))

    def _step(self, problem: Problem, state: Any) -> OptStep:
        return OptStep(self._to_params(problem, self._solution(problem, state)), state)

    def _status_of(self, error: Array, *, failed: Array | bool = False, failure: Status = Status.STALLED) -> Array:
        status = Status.CONVERGED.where(error <= self._tolerances(error.dtype)[0], failure.where(failed, 0))
        return Status.NONFINITE.where(~jnp.isfinite(error), status)

    # ---- The run --------------------------------------------------------------------------------------------------

    def _solve(self, init_params: PyTree, *args: Any, **kwargs: Any) -> tuple[OptStep, KKTSystem | None]:
        problem = self._prepared(self._problem(init_params, *args, **kwargs), (init_params, args, kwargs))
        state = self._begin(problem, init_params)
        if isinstance(init_params, OptStep):
            state = self._resumed(state, init_params.state)
        state = _judged_convex(problem, state)
        if self._reports_start:
            self._report_start(self._step(problem, state))
        if problem.qp.has_factor and self.polish and self._has_active_set and not self._unrolls:
            state, solution, factors = self._in_stages(problem, state)
        else:
            state, factors = self._iterated(problem, state, 0), None
            solution = self._solution(problem, state)
        state = state._replace(status=Status.MAXITER.where(Status.RUNNING.holds(state.status), state.status))
        step = OptStep(self._to_params(problem, solution), state)
        if not self.implicit_diff:
            return step, None
        factors = self._factors_at(problem, solution) if factors is None else factors
        return step, KKTSystem(factors, self, has_derivative(state))

    @property
    def _unrolls(self) -> bool:
        """Whether derivatives of the iterations are wanted."""
        return self._loop_kind in ("scan", "checkpoint")

    @property
    def _has_active_set(self) -> bool:
        """Whether the solution is one that an active set determines."""
        return True

    def _iterated(self, problem: Problem, state: Any, until: Any, limit: Array | None = None) -> Any:
        """The state when its error is at most ``until``, or ``limit`` or all iterations are done."""
        end = self.maxiter if limit is None else jnp.minimum(limit, self.maxiter)

        def proceed(state):
            return Status.RUNNING.holds(state.status) & (state.error > until) & (state.iter_num < end)

        def body(state):
            new = self._advance(problem, state)
            if self.verbose or self.callback is not None:
                self._report(self._step(problem, state), self._step(problem, new), proceed(state))
            return new

        return loop(proceed, body, state, maxiter=self.maxiter, kind=self._loop_kind)

    def _in_stages(self, problem: Problem, state: Any) -> tuple[Any, Solution, Factors]:
        tol, _ = self._tolerances(state.error.dtype)
        first, ratio = self._stages

        def stage(carry):
            state, _, _, _, until, limit = carry
            state = self._iterated(problem, state, jnp.maximum(until, tol), limit)
            solution = self._solution(problem, state)
            polished, error, status, factors = self._polished(problem, solution, state.error, state.status)
            over = ~Status.RUNNING.holds(status) | (state.iter_num >= self.maxiter)
            # Unless the run is over the iterations go on where they were.
            solution, error = tree_where(over, (polished, error), (solution, state.error))
            state = state._replace(status=status, error=error, value=problem.qp.value(solution.x))
            until = jnp.where(state.error <= until, until * ratio, until)
            return state, solution, factors, over, until, None if limit is None else 2 * state.iter_num + self._patience

        over, until = jnp.asarray(False), jnp.asarray(first, tol.dtype)
        limit = None if self._patience is None else state.iter_num + self._patience
        carry = (state, self._solution(problem, state), _no_factors(problem), over, until, limit)
        return loop(lambda carry: ~carry[3], stage, carry, maxiter=100, kind=self._loop_kind)[:3]

    def _factors_at(self, problem: Problem, solution: Solution) -> Factors:
        """The system of the derivative."""
        active = classify(problem.qp, solution.y, solution.Ax, problem.scaling, self.weak)
        return self._balanced(problem, problem.factors(*active))


def _judged_convex(problem: Problem, state: Any) -> Any:
    """A state that says so if the problem is not convex."""
    return state._replace(status=Status.NONCONVEX.where(~problem.convex, state.status))


def _is_lost(status: Array) -> Array:
    """Whether the problem was proved to have no solution, or none that could be computed."""
    lost = (Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE, Status.NONCONVEX)
    return functools.reduce(jnp.logical_or, [reason.holds(status) for reason in lost])


def has_derivative(state: Any) -> Array:
    """Whether the end of a run is worth differentiating: a solution, or an approximation of one."""
    return ~_is_lost(state.status) & ~Status.NONFINITE.holds(state.status) & jnp.isfinite(state.error)


def _no_factors(problem: Problem) -> Factors:
    qp, (_, scaling) = problem.qp, problem.for_kkt
    identity = jnp.eye(qp.num_variables, dtype=qp.q.dtype)
    return Factors(jnp.zeros_like(qp.lower), jnp.zeros(qp.lower.shape, bool), scaling, identity)
