"""What the solvers for quadratic programs share: their arguments, their results, polishing, and derivatives.

A run goes in stages. The iterations of the algorithm are interrupted at a coarse tolerance, the active set is read off,
and the system it determines is solved (:mod:`._kkt`). If that point passes the test, the run is over: the factorization
made for it is that of the derivative too. If not, the iterations go on to the next, finer tolerance.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxsolve._loop import loop
from jaxsolve._status import Status
from jaxsolve._types import Array, KKTSolution, OptStep, PyTree
from jaxsolve.base import IterativeSolver, check_callable, check_choice, check_flags, check_number, option
from jaxsolve.solvers.quadratic._kkt import (
    ActiveSet,
    Factors,
    balance,
    classify,
    factorize,
    kkt_residual,
    polish,
    solve_kkt,
)
from jaxsolve.solvers.quadratic._matrix_free import solve_kkt_by_minres
from jaxsolve.solvers.quadratic._problem import (
    DenseMatrix,
    QuadraticProgram,
    as_vector,
)
from jaxsolve.solvers.quadratic._residuals import Products, feasible_signs, optimality_error, products, residuals
from jaxsolve.solvers.quadratic._scaling import Scaling, equilibrate, no_scaling, scale
from jaxsolve.tree_util import tree_l2_norm, tree_where

__all__ = ["Problem", "QuadraticSolver", "flat", "is_valid"]


class Problem(NamedTuple):
    """A quadratic program of the user, ready to be solved.

    Attributes:
        qp: in the units of the user.
        scaling: its equilibration.
        scaled: the equilibrated problem.
        unravel_x: from vectors to the user's primal variables.
        unravel_rows: from vectors of multipliers to the user's pytrees.
    """

    qp: QuadraticProgram
    scaling: Scaling
    scaled: QuadraticProgram
    unravel_x: Callable[[Array], PyTree]
    unravel_rows: Callable[[Array], PyTree]

    def for_kkt(self) -> tuple[QuadraticProgram, Scaling]:
        """The scaled problem and its scaling for the system of an active set, which knows no linear term.

        Beside a large one the curvature is small, and would look as if there were none: its unit is its own size.
        """
        if not self.qp.is_dense:
            return self.scaled, self.scaling
        largest = lax.stop_gradient(jnp.max(jnp.abs(self.scaled.P.dense())))
        unit = jnp.where(largest > _NO_CURVATURE, 1 / jnp.maximum(largest, _NO_CURVATURE), 1)
        scaled = self.scaled._replace(P=DenseMatrix(unit * self.scaled.P.dense()), q=unit * self.scaled.q)
        return scaled, self.scaling._replace(cost=unit * self.scaling.cost)


_NO_CURVATURE = 1e-8


class QuadraticSolver(IterativeSolver):
    """Base of the iterative solvers for quadratic programs.

    Attributes:
        matvec_Q: ``matvec_Q(params_Q, x)``, the product with the symmetric positive semidefinite matrix of the
            objective, if it is not given by its entries.
        fun: ``fun(x, params_obj)``, the objective as a function, which must be quadratic; in place of ``(Q, c)``.
        tol: absolute tolerance for the residuals, see :mod:`jaxsolve.solvers.quadratic._residuals`.
        rtol: relative tolerance; ``None`` is ``tol``.
        polish: solve for the point that the active set determines as soon as it seems to be known.
        weak: how rows count in derivatives that hold with equality and multiplier 0, where the solution is not
            differentiable: ``"half"`` (the mean of the derivatives on both sides, for one such row), ``"active"`` or
            ``"inactive"``.
    """

    matvec_Q: Callable | None = option(None)
    fun: Callable | None = option(None)
    rtol: float | None = option(None)
    polish: bool = option(True)
    weak: str = option("half")

    _handles_nonfinite = True
    _needs_init_params = False
    has_factors = True
    #: The tolerance at which the active set is looked at for the first time, and the factor from stage to stage.
    stages: ClassVar[tuple[float, float]] = (1e-3, 1e-2)
    #: How many active sets are tried in a stage.
    attempts: ClassVar[int] = 4

    def _validate(self) -> None:
        """Raise for an impossible option."""
        super()._validate()
        for name in ("matvec_Q", "matvec_A", "matvec_G", "fun"):
            if getattr(self, name, None) is not None:
                check_callable(name, getattr(self, name), "a function")
        if self.fun is not None and self.matvec_Q is not None:
            raise ValueError("fun and matvec_Q both give the objective: pass one of them.")
        if self.rtol is not None:
            check_number("rtol", self.rtol, at_least=0)
        check_flags(self, "polish")
        check_choice("weak", self.weak, ("half", "active", "inactive"))

    # ---- The problem ----------------------------------------------------------------------------------------------

    def quadratic_program(self, like: PyTree, *args: Any, **kwargs: Any) -> tuple[QuadraticProgram, Callable, Callable]:
        """The problem in one form, and the maps from vectors to the user's variables and multipliers."""
        raise TypeError(f"{type(self).__name__} must define quadratic_program.")

    def to_params(self, problem: Problem, x: Array, y: Array, Ax: Array) -> KKTSolution:
        """The user's form of a solution."""
        raise TypeError(f"{type(self).__name__} must define to_params.")

    def problem(self, like: PyTree, *args: Any, **kwargs: Any) -> Problem:
        """The problem of the arguments of ``run``, or the one prepared for this run."""
        prepared = self.__dict__.get("_prepared")
        if prepared is not None:
            return prepared
        qp, unravel_x, unravel_rows = self.quadratic_program(like, *args, **kwargs)
        qp = self.wanted_form(qp)
        scaling = equilibrate(qp)
        return Problem(qp, scaling, scale(qp, scaling), unravel_x, unravel_rows)

    def wanted_form(self, qp: QuadraticProgram) -> QuadraticProgram:
        """The problem with the kind of matrices that the algorithm needs."""
        return qp

    def _prepare(self, init_params: PyTree, *args: Any, **kwargs: Any) -> Self:
        """A copy that has made the problem ready, for all iterations of a run."""
        prepared = copy.copy(self)
        prepared.__dict__["_prepared"] = self.problem(self.primal_of(init_params), *args, **kwargs)
        return prepared

    def initial_values(self, init_params: PyTree, problem: Problem) -> tuple[Array, Array] | None:
        """The vectors ``(x, y)`` of an initial point, ``None`` without one."""
        if init_params is None or not jax.tree.leaves(init_params):
            return None
        x_tree, y_tree = self.unknowns(init_params) if isinstance(init_params, KKTSolution) else (init_params, None)
        x = as_vector("init_params.primal", x_tree, problem.qp.num_variables, problem.qp.q.dtype)
        if y_tree is None or not jax.tree.leaves(y_tree):
            return x, jnp.zeros_like(problem.qp.lower)
        return x, as_vector("the multipliers of init_params", y_tree, problem.qp.num_rows, problem.qp.q.dtype)

    def primal_of(self, init_params: PyTree) -> PyTree:
        """The primal variables of an initial point, which may be a ``KKTSolution`` or they themselves."""
        return self.unknowns(init_params)[0] if isinstance(init_params, KKTSolution) else init_params

    def tolerances(self, dtype) -> tuple[Array, Array]:
        """Absolute and relative tolerance as scalars of a dtype."""
        tol = jnp.asarray(self.tol).astype(dtype)
        return tol, tol if self.rtol is None else jnp.asarray(self.rtol).astype(dtype)

    def error_at(self, qp: QuadraticProgram, x: Array, y: Array, at: Products) -> Array:
        """The optimality error, see :mod:`._residuals`."""
        return optimality_error(residuals(qp, x, y, at), *self.tolerances(x.dtype))

    # ---- The run --------------------------------------------------------------------------------------------------

    def solve(self, init_params: PyTree, *args: Any, **kwargs: Any) -> OptStep:
        """Iterate in stages from ``init_params``; see ``Solver.run``."""
        solver = self._prepare(init_params, *args, **kwargs)
        problem = solver.problem(None)
        step = solver._first_step(init_params, args, kwargs)
        unrolls = self._loop_kind in ("scan", "checkpoint")
        direct = problem.qp.is_dense and self.polishes and not unrolls

        def iterate(step: OptStep, until: Any) -> OptStep:
            def proceed(step):
                state = step.state
                return Status.RUNNING.holds(state.status) & (state.error > until) & (state.iter_num < self.maxiter)

            return loop(
                proceed,
                lambda s: solver._next_step(s, args, kwargs, active=proceed(s)),
                step,
                maxiter=self.max_updates,
                kind=self._loop_kind,
            )

        if direct:
            step, factors = self._in_stages(solver, problem, step, iterate)
        else:
            step = iterate(step, 0)
            factors = None
        state = step.state
        running = Status.RUNNING.holds(state.status)
        status = Status.MAXITER.where(running, state.status)
        if factors is None and self.implicit_diff:
            factors = self._factors_at(problem, step, status)
        return OptStep(step.params, state._replace(status=status, factors=factors))

    @property
    def has_active_set(self) -> bool:
        """Whether the solution is one that an active set determines."""
        return True

    @property
    def polishes(self) -> bool:
        """Whether the system of the active set is solved."""
        return self.polish and self.has_active_set

    def active_set(self, problem: Problem, x: Array, y: Array, Ax: Array) -> ActiveSet:
        """The rows as they count in derivatives."""
        return classify(problem.qp, x, y, Ax, problem.scaling, weak=self.weak)

    @property
    def max_updates(self) -> Any:
        """Bound on the number of calls of ``update``."""
        return self.maxiter

    def _in_stages(self, solver, problem, step, iterate):
        dtype = problem.qp.q.dtype
        tol = self.tolerances(dtype)[0]
        first, ratio = self.stages
        active = ActiveSet(jnp.zeros_like(problem.qp.lower), jnp.zeros(problem.qp.lower.shape, bool))
        cholesky = jnp.eye(problem.qp.num_variables, dtype=dtype)

        def stage(carry):
            step, until, *_ = carry
            step = iterate(step, jnp.maximum(until, tol))
            # Where the iterations went astray there is no active set to look at.
            lost = Status.PRIMAL_INFEASIBLE.holds(step.state.status) | (Status.DUAL_INFEASIBLE.holds(step.state.status))
            polished, active, cholesky = solver._polished(problem, step, lost)
            over = ~Status.RUNNING.holds(polished.state.status) | (polished.state.iter_num >= self.maxiter)
            return polished, until * ratio, active, cholesky, over

        over = ~Status.RUNNING.holds(step.state.status) | (step.state.iter_num >= self.maxiter)
        carry = (step, jnp.asarray(first, dtype), active, cholesky, over & False)
        step, _, active, cholesky, _ = loop(lambda carry: ~carry[-1], stage, carry, maxiter=100, kind=self._loop_kind)
        valid = is_valid(step)
        return step, Factors(active, problem.for_kkt()[1], cholesky, valid)

    def _polished(self, problem, step, lost):
        """The step with its point polished, if that is better; the active set and its factor."""
        qp, scaling, (scaled, of_kkt) = problem.qp, problem.scaling, problem.for_kkt()
        x, y = self._vectors(problem, step)
        tol, _ = self.tolerances(x.dtype)
        last = self.attempts - 1

        def attempt(carry):
            # A point that breaks a bound, or has a multiplier of the wrong sign, says which rows to exchange. The last
            # factor is that of the best point, for derivatives are taken there.
            count, latest, best, best_error, active, _, _ = carry
            x, y, Ax = tree_where(count == last, best, latest)
            active = classify(qp, x, y, Ax, scaling, weak=self.weak)
            cholesky = factorize(scaled, active)
            x, y = polish(qp, x, y, Factors(active, of_kkt, cholesky, jnp.asarray(True)))
            y = feasible_signs(qp, y)
            at = products(qp, x, y)
            error = self.error_at(qp, x, y, at)
            better = error < best_error
            best = tree_where(better, (x, y, at.Ax), best)
            best_error = jnp.where(better, error, best_error)
            known = jnp.all(classify(qp, x, y, at.Ax, scaling, weak=self.weak).weight == active.weight)
            return count + 1, (x, y, at.Ax), best, best_error, active, cholesky, lost | (known & (error <= tol))

        start = (x, y, qp.A.matvec(x))
        active = ActiveSet(jnp.zeros_like(y), jnp.zeros(y.shape, bool))
        cholesky = jnp.eye(qp.num_variables, dtype=x.dtype)
        error = step.state.error
        carry = (jnp.zeros((), jnp.int32), start, start, error, active, cholesky, error != error)
        _, _, (x, y, Ax), best_error, active, cholesky, _ = loop(
            lambda carry: ~carry[-1], attempt, carry, maxiter=self.attempts, kind=self._loop_kind
        )
        if self.weak == "half":
            active, cholesky = balance(scaled, active, cholesky)
        better = (best_error < error) & ~lost
        solved = best_error <= tol
        status = Status.CONVERGED.where(solved & ~lost, step.state.status)
        # Unless the run is over the iterations go on where they were.
        accepted = better & (solved | (step.state.iter_num >= self.maxiter))
        params = tree_where(accepted, self.to_params(problem, x, y, Ax), step.params)
        state = step.state._replace(status=status, error=jnp.where(accepted, best_error, error))
        if hasattr(state, "value"):
            state = state._replace(value=jnp.where(accepted, qp.value(x), step.state.value))
        return OptStep(params, state), active, cholesky

    def _vectors(self, problem: Problem, step: OptStep) -> tuple[Array, Array]:
        x, y = self.unknowns(step.params)
        return flat(x, problem.qp.q.dtype), flat(y, problem.qp.q.dtype)

    def _factors_at(self, problem, step, status) -> Factors:
        qp, (scaled, scaling) = problem.qp, problem.for_kkt()
        x, y = self._vectors(problem, step)
        active = self.active_set(problem, x, y, qp.A.matvec(x))
        cholesky = factorize(scaled, active) if qp.is_dense else None
        if cholesky is not None and self.has_active_set and self.weak == "half":
            active, cholesky = balance(scaled, active, cholesky)
        return Factors(active, scaling, cholesky, is_valid(step._replace(state=step.state._replace(status=status))))

    # ---- Optimality and derivatives -------------------------------------------------------------------------------

    def unknowns(self, params: KKTSolution) -> tuple[PyTree, PyTree]:
        """The primal variables and the multipliers of the rows."""
        return params.primal, (params.dual_eq, params.dual_ineq)

    def complete(self, unknowns: PyTree, *args: Any, **kwargs: Any) -> KKTSolution:
        """The parameters as a function of the primal variables and the multipliers."""
        problem, x, y = self._at(unknowns, args, kwargs)
        return self.to_params(problem, x, y, problem.qp.A.matvec(x))

    def _at(self, unknowns, args, kwargs):
        qp, unravel_x, unravel_rows = self.quadratic_program(unknowns[0], *args, **kwargs)
        x, y = (flat(part, qp.q.dtype) for part in unknowns)
        plain = Problem(qp, no_scaling(qp), qp, unravel_x, unravel_rows)
        return plain, x, y

    def residual(self, params: PyTree, *args: Any, factors: Factors | None = None, **kwargs: Any) -> PyTree:
        """The mapping that is differentiated: linear in the unknowns, once the active set is known."""
        assert factors is not None  # `run` calls it with factors
        problem, x, y = self._at(params, args, kwargs)
        return self._like(problem, params, kkt_residual(problem.qp, x, y, factors.active, factors.scaling))

    def solve_tangent_system(
        self, unknowns: PyTree, rhs: PyTree, transposed: bool, *args: Any, factors: Factors, **kwargs: Any
    ) -> PyTree:
        """Solve with the Jacobian of ``residual``, by the factor that polishing left."""
        problem, _, _ = self._at(unknowns, args, kwargs)
        qp = problem.qp
        r1, r2 = (flat(part, qp.q.dtype) for part in rhs)
        if factors.cholesky is None:
            solution = solve_kkt_by_minres(qp, r1, r2, factors, transposed=transposed)
        else:
            solution = solve_kkt(qp, r1, r2, factors, transposed=transposed)
        solution = tree_where(factors.valid, solution, jax.tree.map(jnp.zeros_like, solution))
        return self._like(problem, unknowns, solution)

    @staticmethod
    def _like(problem, unknowns, vectors):
        return tuple(
            ravel_pytree(tree)[1](vector.astype(ravel_pytree(tree)[0].dtype)) if jax.tree.leaves(tree) else tree
            for tree, vector in zip(unknowns, vectors, strict=True)
        )

    def _state_of_solution(self, params: PyTree, *args: Any, **kwargs: Any) -> dict[str, PyTree]:
        """The value of the objective."""
        problem, x, _ = self._at(params, args, kwargs)
        return {"value": problem.qp.value(x)}

    def optimality_fun(self, params: KKTSolution, *args: Any, **kwargs: Any) -> tuple[Array, Array]:
        r"""The natural residual :math:`(Px + q + A^T y,\; Ax - \Pi_{[l,u]}(Ax + y))`, of shapes (n,) and (m,)."""
        problem, x, y = self._at(self.unknowns(params), args, kwargs)
        qp, at = problem.qp, products(problem.qp, x, y)
        return at.Px + qp.q + at.Aty, at.Ax - jnp.clip(at.Ax + y, qp.lower, qp.upper)

    def l2_optimality_error(self, params: PyTree, *args: Any, **kwargs: Any) -> Array:
        """Euclidean norm of ``optimality_fun``; a scalar."""
        return tree_l2_norm(self.optimality_fun(params, *args, **kwargs))


def flat(tree: PyTree, dtype) -> Array:
    """The vector of a pytree, in a dtype."""
    return ravel_pytree(tree)[0].astype(dtype)


def is_valid(step: OptStep) -> Array:
    """Whether the end of a run is worth differentiating: a solution, or an approximation of one."""
    status = step.state.status
    meaningful = (
        Status.CONVERGED.holds(status)
        | Status.MAXITER.holds(status)
        | Status.STALLED.holds(status)
        | Status.RUNNING.holds(status)
    )
    return meaningful & jnp.isfinite(step.state.error)
