"""What the solvers for quadratic programs share: their problem, their tolerances, and their derivatives.

Three ideas come together here. The *form* (:mod:`._form`) says what data mean. The *active set* (:mod:`._active_set`)
polishes a point and gives the derivative. The *iteration* is what a subclass defines; how a run of
an iterative solver goes stands in :mod:`._iterative`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._status import Status
from jaxsolve._types import Array, KKTSolution, PyTree
from jaxsolve.base import check_callable, option
from jaxsolve.solvers._data import ReadsData, default_tol
from jaxsolve.solvers.quadratic._active_set import WEAK, classify, search
from jaxsolve.solvers.quadratic._certificates import Forgiven
from jaxsolve.solvers.quadratic._form import BoxForm, Form, Solution
from jaxsolve.solvers.quadratic._kkt import Factors, KKTSystem, estimate_multipliers, factorize, is_convex
from jaxsolve.solvers.quadratic._problem import QuadraticProgram
from jaxsolve.solvers.quadratic._residuals import less_rounding, norm, optimality_error, products, residuals
from jaxsolve.solvers.quadratic._scaling import equilibrate, scale

__all__ = [
    "WEAK",
    "BoxConstrained",
    "DirectQP",
    "DirectState",
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

    def equilibrated(
        self, qp: QuadraticProgram, *, usual_costs: Array | None = None, shared: bool = False, blocks: Any = None
    ) -> Problem:
        """This problem with its scaling; ``qp`` are the same data with matrices of another kind.

        ``usual_costs`` takes the place of ``q`` where the units are chosen. The other arguments are those of
        :func:`._scaling.equilibrate`.
        """
        measured = qp if usual_costs is None else qp._replace(q=usual_costs)
        scaling, convex = equilibrate(measured, shared=shared, blocks=blocks), jnp.asarray(True)
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


# In scaled units, the largest entry of P that counts as none.
_NO_CURVATURE = 1e-8


class QuadraticSolver(ReadsData):
    """Base of the solvers for quadratic programs, whatever their method.

    Computations with data in half precision are done in float32; the solution has the dtype of the linear term. A
    positive ``tol`` or ``rtol`` below ten units of rounding (1e-6 in float32) is raised to that value.
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
        wanted, costs = self._wanted_form(problem.qp), form.usual_costs(problem)
        return problem.equilibrated(wanted, usual_costs=costs, shared=self._shares_scaling)

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
            objective; needed only if the matrix is not given by its entries.
        matvec_A: ``matvec_A(params_A, x)``, the product with the matrix of the rows, likewise.
        fun: ``fun(x, params_obj)``, the objective as a function, which must be quadratic; in place of ``(Q, c)``.
    """

    matvec_Q: Callable | None = None  # type: ignore[misc]  # an option here
    matvec_A: Callable | None = None  # type: ignore[misc]
    fun: Callable | None = None  # type: ignore[misc]

    _Form = BoxForm


class DirectState(NamedTuple):
    """State at the end of a run.

    Attributes:
        iter_num: iterations done, if the number is known; int32.
        error: optimality error of the solution, the largest residual in absolute and relative terms.
        value: the objective.
        status: a :class:`jaxsolve.Status`, int32.
    """

    iter_num: Array
    error: Array
    value: Array
    status: Array


class DirectQP(QuadraticSolver):
    """Base of the solvers of quadratic programs without visible iterations.

    Attributes:
        tol: the run has converged when ``state.error`` is at most ``tol``.
    """

    tol: float = option(1e-5, at_least=0)

    _State = DirectState

    def _validate(self) -> None:
        super()._validate()
        if not self.implicit_diff:
            raise ValueError(f"implicit_diff=False means unrolled iterations, and {type(self).__name__} has none.")


def _is_lost(status: Array) -> Array:
    """Whether the problem was proved to have no solution, or none that could be computed."""
    lost = (Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE, Status.NONCONVEX)
    return functools.reduce(jnp.logical_or, [reason.holds(status) for reason in lost])


def has_derivative(state: Any) -> Array:
    """Whether the end of a run is worth differentiating: a solution, or an approximation of one."""
    return ~_is_lost(state.status) & ~Status.NONFINITE.holds(state.status) & jnp.isfinite(state.error)
