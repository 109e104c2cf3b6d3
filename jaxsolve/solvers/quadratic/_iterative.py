"""How the run of an iterative solver for quadratic programs goes: in stages.

The iterations are interrupted at a coarse tolerance, the active set is read off, and the system that it determines is
solved. If that point passes the test, the run is over, and the factorization made for it serves the derivative too. If
not, the iterations go on to the next, finer tolerance.
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import jax.numpy as jnp

from jaxsolve._loop import loop
from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.base import IterativeSolver, option
from jaxsolve.solvers.quadratic._base import WEAK, Problem, QuadraticSolver, has_derivative
from jaxsolve.solvers.quadratic._form import Solution
from jaxsolve.solvers.quadratic._kkt import Factors, KKTSystem
from jaxsolve.tree_util import tree_where

__all__ = ["IterativeQP", "judged_convex"]


class IterativeQP(QuadraticSolver, IterativeSolver):
    """Base of the iterative solvers for quadratic programs.

    A subclass defines ``_begin``, ``_advance`` and ``_solution``. All take the equilibrated problem, which a run makes
    once.

    Attributes:
        tol: absolute tolerance for the residuals, see :mod:`jaxsolve.solvers.quadratic._residuals`. ``None`` is 1e-8
            for data in float64 and 1e-5 for data in float32.
        rtol: relative tolerance: a residual may be at most ``tol`` plus ``rtol`` times the largest of its terms;
            ``None`` is ``tol``.
        polish: solve the equations of the active set as soon as this set seems to be known.
        weak: the derivative where a row holds with equality and has multiplier 0, so that the solution is not
            differentiable: with this row ``"active"``, ``"inactive"``, or ``"half"`` (for one such row, the mean of the
            two one-sided derivatives).
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
        return judged_convex(problem, self._begin(problem, init_params))

    def update(
        self, params: PyTree, state: Any, params_obj: Any = None, params_eq: Any = None, params_ineq: Any = None
    ) -> OptStep:
        """The iterations up to the next test of convergence; returns ``OptStep(params, state)``."""
        problem = self._prepared(self._problem(params, params_obj, params_eq, params_ineq))
        return self._step(problem, judged_convex(problem, self._advance(problem, state)))

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
        state = judged_convex(problem, state)
        if self._reports_start:
            state = self._report_start(self._step(problem, state), state)
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
        carry = (state, *self._nothing_yet(problem), over, until, limit)
        return loop(lambda carry: ~carry[3], stage, carry, maxiter=100, kind=self._loop_kind)[:3]

    def _nothing_yet(self, problem: Problem) -> tuple[Solution, Factors]:
        """What a loop over stages carries before the first one."""
        (n, m), dtype = (problem.qp.num_variables, problem.qp.lower.size), problem.qp.q.dtype
        x, row = jnp.zeros(n, dtype), jnp.zeros(m, dtype)
        return Solution(x, row, row), Factors(row, row > 0, problem.for_kkt[1], jnp.eye(n, dtype=dtype))


def judged_convex(problem: Problem, state: Any) -> Any:
    """A state that says so if the problem is not convex."""
    return state._replace(status=Status.NONCONVEX.where(~problem.convex, state.status))
