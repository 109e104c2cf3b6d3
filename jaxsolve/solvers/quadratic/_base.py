"""What the solvers for quadratic programs share: their problem, their tolerances, and how a run goes.

Three ideas come together here. The *form* (:mod:`._form`) says what data mean. The *active set* (:mod:`._active_set`)
polishes a point and gives the derivative. The *iteration* is what a subclass defines.

A run of an iterative solver goes in stages. The iterations are interrupted at a coarse tolerance, the active set is
read off, and the system that it determines is solved. If that point passes the test, the run is over, and the
factorization made for it serves the derivative too. If not, the iterations go on to the next, finer tolerance.
"""

from __future__ import annotations

import abc
import dataclasses
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
from jaxsolve.solvers.quadratic._active_set import WEAK, classify, search
from jaxsolve.solvers.quadratic._certificates import Forgiven
from jaxsolve.solvers.quadratic._data import ReadsData, default_tol
from jaxsolve.solvers.quadratic._form import BoxForm, Form, Solution
from jaxsolve.solvers.quadratic._kkt import Factors, KKTSystem, estimate_multipliers, factorize, is_convex
from jaxsolve.solvers.quadratic._problem import QuadraticProgram
from jaxsolve.solvers.quadratic._residuals import less_rounding, norm, optimality_error, products, residuals
from jaxsolve.solvers.quadratic._scaling import equilibrate, scale
from jaxsolve.tree_util import tree_where

__all__ = [
    "WEAK",
    "BoxConstrained",
    "DirectQP",
    "DirectState",
    "IterativeQP",
    "Problem",
    "QuadraticSolver",
    "Solution",
    "has_derivative",
]


class Problem(NamedTuple):
    """A program of the user, ready to be solved.

    Attributes:
        qp: in the units of the user.
        unravel_x: see :class:`._form.Program`.
        unravel_rows: likewise.
        scaling: its equilibration.
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
        scaling, convex = equilibrate(qp, shared=shared), jnp.asarray(True)
        if qp.has_factor:
            # What follows must wait for the answer: batched calls of LAPACK that run at the same time can block each
            # other in the thread pool of jaxlib's CPU backend. XLA keeps an order only where there is something to
            # compute; the unit of the objective may be any.
            convex = is_convex(scale(qp, scaling.of_common_parts()))
            scaling = scaling._replace(cost=jnp.where(convex, 1, 2) * scaling.cost)
        scaled = scale(qp, scaling)
        for_kkt = scaled, scaling
        if qp.has_factor:
            # The system of an active set has no linear term. Beside a large one the curvature is small, and would be
            # taken for none: its unit is its own size.
            largest = lax.stop_gradient(norm(scaled.P.dense()))
            unit = jnp.where(largest > _NO_CURVATURE, 1 / jnp.maximum(largest, _NO_CURVATURE), 1)
            own = scaling._replace(cost=unit * scaling.cost)
            for_kkt = scale(qp, own), own
        return self._replace(qp=qp, scaling=scaling, scaled=scaled, for_kkt=for_kkt, convex=convex)

    def factors(self, weight: Array, at_upper: Array, *, direct: bool = True) -> Factors:
        """The system of an active set, factorized where that is wanted."""
        scaled, scaling = self.for_kkt
        return Factors(weight, at_upper, scaling, factorize(scaled, weight) if direct and self.qp.has_factor else None)


_NO_CURVATURE = 1e-8


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
    #: What the data mean.
    _Form: ClassVar[type[Form]]
    #: Whether a batch of problems with P and A in common is to share its scaling, see :mod:`._scaling`.
    _shares_scaling = False

    def __init_subclass__(cls, **kwargs):
        if "_Form" in cls.__dict__:
            cls._arguments = cls._Form.arguments
        super().__init_subclass__(**kwargs)

    def _validate(self) -> None:
        super()._validate()
        for name in ("matvec_Q", "matvec_A", "matvec_G", "fun"):
            if getattr(self, name) is not None:
                check_callable(name, getattr(self, name), "a function")
        if self.fun is not None and self.matvec_Q is not None:
            raise ValueError("fun and matvec_Q both give the objective: pass one of them.")

    # ---- The problem ----------------------------------------------------------------------------------------------

    @property
    def _form(self) -> Form:
        """The form with the functions of the user."""
        return self._Form(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Form)})

    def _check_arguments(self, init_params: PyTree = None, *data: Any) -> None:
        self._form.check(data)

    def _wanted_form(self, qp: QuadraticProgram) -> QuadraticProgram:
        """The problem with the kind of matrices that the algorithm needs."""
        return qp

    def _problem(self, init_params: PyTree, *data: Any) -> Problem:
        """The problem of the data that :meth:`run` has read, equilibrated."""
        form = self._form
        problem = Problem(*form.program(form.parts(init_params)[0], *data))
        return problem.equilibrated(self._wanted_form(problem.qp), shared=self._shares_scaling)

    def init_params(self, init_x: PyTree, params_obj: Any, params_eq: Any = None, params_ineq: Any = None) -> Any:
        """A starting point for ``run`` with the primal variables ``init_x`` (``None``: 0) and multipliers 0."""
        form, data = self._form, self._read((params_obj, params_eq, params_ineq)[: len(self._arguments)], {})[0]
        program = form.program(init_x, *data)
        x, y = form.start(program, init_x)
        return form.solution(program, Solution(x, y, program.qp.A.matvec(x)))

    def _given(self, problem: Problem, init_params: PyTree) -> Solution | None:
        """The initial point of a warm start; multipliers that were not given are estimated. ``None`` without one."""
        primal, dual = self._form.parts(init_params)
        if not jax.tree.leaves(primal):
            return None
        x, y = self._form.start(problem, init_params)
        if problem.qp.has_factor and not jax.tree.leaves(dual):
            x_scaled, _ = problem.scaling.to_scaled(x, y)
            y = problem.scaling.rows / problem.scaling.cost * estimate_multipliers(problem.scaled, x_scaled)
        return Solution(x, y, problem.qp.A.matvec(x))

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
        tol, rtol = self._tolerances(x.dtype)
        if problem.qp.has_factor:
            res = less_rounding(res, problem.scaled, x, y, wanted=tol > 0)
        return optimality_error(res, tol, rtol), at

    def _forgiven(self, problem: Problem) -> Forgiven:
        """What the test of convergence forgives, in scaled units."""
        tol, rtol = self._tolerances(problem.qp.q.dtype)
        bounds = (problem.scaled.lower, problem.scaled.upper)
        sizes = [jnp.where(jnp.isfinite(bound), jnp.abs(bound), 0) for bound in bounds]
        return Forgiven(tol + rtol * jnp.maximum(*sizes), tol + rtol * jnp.abs(problem.scaled.q))

    # ---- Active sets and derivatives ------------------------------------------------------------------------------

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
        tol, _ = self._tolerances(error.dtype)
        judge = functools.partial(self._error, problem)
        lost = _is_lost(status)
        skip = lost | jnp.isnan(error)
        best, error, factors = search(problem, solution, error, judge, tol, self.weak, skip=skip)
        return best, error, Status.CONVERGED.where((error <= tol) & ~lost, status), factors

    def _factors_at(self, problem: Problem, solution: Solution) -> Factors:
        """The active set at a solution as derivatives want it."""
        if problem.qp.has_factor:
            judge = functools.partial(self._error, problem)
            error = jnp.asarray(jnp.inf, solution.x.dtype)
            return search(problem, solution, error, judge, 0.0, self.weak, attempts=0)[-1]
        rows = classify(problem.qp, solution.y, solution.Ax, problem.scaling, self.weak)
        return problem.factors(rows.in_derivatives, rows.at_upper)

    def _system(self, factors: Factors, valid: Array) -> KKTSystem:
        """What derivatives solve with."""
        return KKTSystem(factors, self._form, self.implicit_diff_solve, valid)

    def _system_of(self, parts: dict[str, Any]) -> KKTSystem:
        return self._system(parts["factors"], parts["valid"])

    def _state_of_solution(self, unknowns: PyTree, *data: Any) -> dict[str, PyTree]:
        """The value of the objective."""
        program, x, _ = self._form.at(unknowns, data)
        return {"value": program.qp.value(x)}

    def optimality_fun(self, params: KKTSolution, *args: Any, **kwargs: Any) -> tuple[Array, Array]:
        r"""The natural residual :math:`(Px + q + A^T y,\; Ax - \Pi_{[l,u]}(Ax + y))`, of shapes (n,) and (m,)."""
        form, (data, _) = self._form, self._read(args, kwargs)
        (qp, *_), x, y = form.at(form.unknowns(params), data)
        at = products(qp, x, y)
        return at.Px + qp.q + at.Aty, at.Ax - jnp.clip(at.Ax + y, qp.lower, qp.upper)


class BoxConstrained(QuadraticSolver):
    r"""Base of the solvers of :math:`\min \tfrac12 x^T Q x + c^T x` subject to :math:`l \le A x \le u`.

    Attributes:
        matvec_Q: ``matvec_Q(params_Q, x)``, the product with the symmetric positive semidefinite matrix of the
            objective, if it is not given by its entries.
        matvec_A: ``matvec_A(params_A, x)``, a linear function, if the matrix is not given by its entries.
        fun: ``fun(x, params_obj)``, the objective as a function, which must be quadratic; in place of ``(Q, c)``.
    """

    matvec_Q: Callable | None = None  # type: ignore[misc]  # an option here
    matvec_A: Callable | None = None  # type: ignore[misc]
    fun: Callable | None = None  # type: ignore[misc]

    _Form = BoxForm


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
        rtol: relative tolerance: a residual may be ``tol`` plus ``rtol`` times the largest of the terms that it is the
            sum of; ``None`` is ``tol``.
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
    #: After how many iterations the active set is looked at all the same, and by what factor their number grows from
    #: look to look. Often it is known long before the iterates are accurate.
    _patience: ClassVar[tuple[int, float]] = (50, 3.0)

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
        return OptStep(self._form.solution(problem, self._solution(problem, state)), state)

    def _status_of(self, error: Array, *, failed: Array | bool = False, failure: Status = Status.STALLED) -> Array:
        status = Status.CONVERGED.where(error <= self._tolerances(error.dtype)[0], failure.where(failed, 0))
        return Status.NONFINITE.where(~jnp.isfinite(error), status)

    # ---- The run --------------------------------------------------------------------------------------------------

    def _solve(self, init_params: PyTree, *data: Any) -> tuple[OptStep, KKTSystem | None]:
        problem = self._prepared(self._problem(init_params, *data), (init_params, data))
        state = self._begin(problem, init_params)
        if isinstance(init_params, OptStep):
            state = self._resumed(state, init_params.state)
        state = _judged_convex(problem, state)
        if self._reports_start:
            self._report_start(self._step(problem, state))
        if problem.qp.has_factor and self.polish and self._has_active_set and not self._unrolls:
            state, solution, factors = self._in_stages(problem, state, self._given(problem, init_params))
        else:
            state, factors = self._iterated(problem, state, 0), None
            solution = self._solution(problem, state)
        state = state._replace(status=Status.MAXITER.where(Status.RUNNING.holds(state.status), state.status))
        step = OptStep(self._form.solution(problem, solution), state)
        if not self.implicit_diff:
            return step, None
        factors = self._factors_at(problem, solution) if factors is None else factors
        return step, self._system(factors, has_derivative(state))

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

    def _in_stages(self, problem: Problem, state: Any, given: Solution | None) -> tuple[Any, Solution, Factors]:
        """The end of a run, its solution, and the factors there. A given point is looked at before all iterations."""
        tol, _ = self._tolerances(state.error.dtype)
        (first, ratio), (soon, growth) = self._stages, self._patience

        def stage(carry):
            state, _, _, _, until, limit = carry
            state = self._iterated(problem, state, jnp.maximum(until, tol), limit)
            solution = self._solution(problem, state)
            if given is not None:
                untouched = (state.iter_num == start) & Status.RUNNING.holds(state.status)
                solution = tree_where(untouched, given, solution)
            polished, error, status, factors = self._polished(problem, solution, state.error, state.status)
            over = ~Status.RUNNING.holds(status) | (state.iter_num >= self.maxiter)
            # Unless the run is over the iterations go on where they were.
            solution, error = tree_where(over, (polished, error), (solution, state.error))
            state = state._replace(status=status, error=error, value=problem.qp.value(solution.x))
            until = jnp.where(state.error <= until, until * ratio, until)
            later = (growth * state.iter_num.astype(tol.dtype)).astype(jnp.int32)
            return state, solution, factors, over, until, jnp.maximum(start + soon, later)

        over, until = jnp.asarray(False), jnp.asarray(first, tol.dtype)
        start = state.iter_num
        limit = start + (soon if given is None else 0)
        carry = (state, *_nothing_yet(problem), over, until, limit)
        return loop(lambda carry: ~carry[3], stage, carry, maxiter=100, kind=self._loop_kind)[:3]


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


def _nothing_yet(problem: Problem) -> tuple[Solution, Factors]:
    """What a loop over stages carries before the first one."""
    (n, m), dtype = (problem.qp.num_variables, problem.qp.lower.size), problem.qp.q.dtype
    x, row = jnp.zeros(n, dtype), jnp.zeros(m, dtype)
    return Solution(x, row, row), Factors(row, row > 0, problem.for_kkt[1], jnp.eye(n, dtype=dtype))
