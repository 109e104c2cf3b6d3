"""Shared by the solvers with general constraints: the program, the state, the end of a run, and the derivative."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxsolve._closure import Staged
from jaxsolve._status import Status
from jaxsolve._types import Array, KKTSolution, OptStep, PyTree
from jaxsolve._vectors import flat
from jaxsolve.base import Solver, check_callable, option
from jaxsolve.solvers._bounds import check_bounds
from jaxsolve.solvers.constrained._active_rows import ActiveSystem, Point, is_minimum, polished
from jaxsolve.solvers.constrained._program import NonlinearProgram, make_program
from jaxsolve.solvers.quadratic._active_set import WEAK
from jaxsolve.solvers.quadratic._residuals import norm
from jaxsolve.solvers.quadratic._scaling import Scaling

__all__ = ["ConstrainedSolver", "SharedFields", "parts_of", "size_of", "solution_of"]

# In scaled units, how near a bound holds a variable.
_AT_BOUND = 1e-4


class SharedFields:
    """Texts of the fields that the states of all these solvers have.

    Attributes:
        iter_num: number of iterations done, int32.
        error: the largest residual of the optimality conditions, in scaled units.
        value: the objective.
        status: a :class:`jaxsolve.Status`, int32.
        constr_violation: the largest violation of a constraint, in the units of the user.
        dual_bounds: multipliers of the bounds, a pytree like the parameters.
        is_minimum: whether the solution has no direction of negative curvature along the constraints; known at the end
            of a run.
    """


class ConstrainedSolver(Solver):
    """Base of the solvers of ``min f(x)`` subject to ``h(x) = 0``, ``g(x) <= 0`` and ``lower <= x <= upper``.

    ``run(init_x, *args, bounds=None, **kwargs)`` returns ``KKTSolution(primal, dual_eq, dual_ineq)`` and a state. All
    functions are called as ``f(x, *args, **kwargs)``. x, the values of ``eq_fun`` and ``ineq_fun``, and the bounds are
    pytrees. ``bounds`` is the pair ``(lower, upper)`` of numbers, arrays that broadcast to every leaf, or pytrees like
    x; entries may be infinite, or equal for variables that are fixed. The signs of the multipliers are such that
    ``grad f + J_h^T dual_eq + J_g^T dual_ineq + state.dual_bounds`` vanishes: ``dual_ineq`` is non-negative, and
    ``state.dual_bounds`` is positive at upper and negative at lower bounds.

    The solution, the multipliers and ``state.value`` are differentiable with respect to ``args``, ``kwargs``, bounds
    and everything that the functions capture. The derivative is computed from the equations of the active constraints,
    with exact second derivatives. It is zero if the run found no feasible point, or a point from which the objective
    falls along the constraints (``state.is_minimum`` is ``False``).

    Attributes:
        fun: the objective, twice differentiable.
        eq_fun: equality constraints h, or ``None``.
        ineq_fun: inequality constraints g, or ``None``.
        weak: the derivative where a constraint holds with equality and has multiplier 0, so that the solution is not
            differentiable: with this constraint ``"active"``, ``"inactive"``, or ``"half"`` (for one such constraint,
            the mean of the two one-sided derivatives).
    """

    fun: Callable
    eq_fun: Callable | None = None
    ineq_fun: Callable | None = None
    weak: str = option("half", among=WEAK)  # type: ignore[misc]  # an option here

    _structure = "general"
    #: The tolerance in float64 and in float32.
    _default_tol: ClassVar[tuple[float, float]] = (1e-8, 1e-4)

    def _validate(self) -> None:
        super()._validate()
        for name in ("eq_fun", "ineq_fun"):
            if getattr(self, name) is not None:
                check_callable(name, getattr(self, name), "a function of the parameters")
        if not self.implicit_diff:
            raise ValueError(f"{type(self).__name__} has implicit_diff=True only: its iterations are not unrolled.")

    def _check_arguments(self, init_params: PyTree, *args: Any, bounds: Any = None, **kwargs: Any) -> None:
        """Raise for an initial point or bounds that cannot be right."""
        init_params = init_params.params if isinstance(init_params, OptStep) else init_params
        for leaf in jax.tree.leaves(init_params):
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                raise TypeError(
                    "init_params must have real floating-point leaves only, got one of dtype "
                    f"{jnp.result_type(leaf)}: pass other data as further arguments of run."
                )
        if bounds is not None:
            check_bounds(bounds)

    def _stage(self, name: str, function: Callable) -> Callable:
        if name == "fun":
            return super()._stage(name, function)
        return Staged(function, name, functools.partial(_check_constraint, name))

    # ---- The program ----------------------------------------------------------------------------------------------

    def _program_of(self, params: PyTree, *args: Any, bounds: Any = None, **kwargs: Any) -> NonlinearProgram:
        """The program of the data of a run, in the units of the user; ``params`` tell of structure and dtypes."""
        return make_program(self._objective, self.eq_fun, self.ineq_fun, params, bounds, args, kwargs)

    def _first_point(self, init_params: PyTree, *args: Any, bounds: Any = None, **kwargs: Any) -> KKTSolution:
        """The initial point with multipliers, which are 0 if none are given."""
        params, y = parts_of(init_params)
        program = self._program_of(params, *args, bounds=bounds, **kwargs)
        x = flat(params, program.lower.dtype)
        zeros = jnp.zeros(size_of(program), x.dtype)
        return solution_of(program, x, zeros if y is None else flat(y, x.dtype))

    # ---- The end of a run -----------------------------------------------------------------------------------------

    def _finished(
        self, program: NonlinearProgram, scaling: Scaling, point: Point, state: Any, moves: Array
    ) -> tuple[OptStep, ActiveSystem]:
        """The end of a run at a point: polished if it ``moves``, judged, and with the system of its derivatives.

        Args:
            program: in the units of the user.
            scaling: units in which errors are measured.
            point: where the iterations ended.
            state: the state there, with ``error`` and ``status``.
            moves: whether the point is near a solution.
        """
        point, error, factors, qp = polished(program, scaling, point, self.weak, moves)
        # An infinite error is one that is not known.
        error = jnp.where((moves & (error < state.error)) | (state.error == jnp.inf), error, state.error)
        tol = self._tolerance_at(error.dtype)
        missed = Status.CONVERGED.holds(state.status) & ~(error <= tol)
        status = Status.CONVERGED.where(moves & (error <= tol), Status.STALLED.where(missed, state.status))
        minimum = is_minimum(qp, factors)
        of_bounds = program.unravel_x(program.split(point.y)[2])
        state = state._replace(
            error=error,
            status=status,
            value=point.at.values[0],
            constr_violation=norm(program.violation(point.at.values[1:])),
            dual_bounds=of_bounds,
            is_minimum=minimum,
        )
        lost = (Status.LOCALLY_INFEASIBLE, Status.NONFINITE, Status.DIVERGED)
        valid = functools.reduce(jnp.logical_and, [~reason.holds(status) for reason in lost], minimum)
        system = ActiveSystem(
            factors,
            qp.P.dense(),
            qp.A.dense(),
            of_bounds if program.bounded else None,
            self._program_of,
            self.implicit_diff_solve,
            valid,
        )
        return OptStep(solution_of(program, point.x, point.y[: point.at.values.size - 1]), state), system

    def _tolerance_at(self, dtype: Any) -> Array:
        """The tolerance of a run; what is beyond the precision of the dtype is not asked for."""
        tol: Any = self.tol  # type: ignore[attr-defined]  # every one has it
        tol = self._default_tol[jnp.finfo(dtype).bits < 64] if tol is None else tol
        tol = jnp.asarray(tol).astype(dtype)
        return jnp.where(tol > 0, jnp.maximum(tol, 20 * float(jnp.finfo(dtype).eps)), tol)

    def _loop_tolerance(self, dtype: Any) -> Array:
        """The error at which iterations end: below the default one polishing does better."""
        tol = self._tolerance_at(dtype)
        return jnp.where(tol > 0, jnp.maximum(tol, self._default_tol[jnp.finfo(dtype).bits < 64]), tol)

    def _is_infeasible(self, program: NonlinearProgram, x: Array, constraints: Array, slope: Array) -> Array:
        """Whether the violation of the constraints is stationary, and more than the stop test forgives.

        Args:
            program: in scaled units.
            x: a point.
            constraints: h and g there.
            slope: the gradient of half the sum of the squares of the violations.
        """
        size = norm(program.violation(constraints))
        blocked = ((x - program.lower < _AT_BOUND) & (slope > 0)) | ((program.upper - x < _AT_BOUND) & (slope < 0))
        # What a movement of x by its own size would change. A double root of a constraint has a slope that vanishes
        # with the root of the violation: where there is little violation, less slope is asked for.
        change = norm(jnp.where(blocked, 0, slope * jnp.maximum(jnp.abs(x), 1)))
        forgiven = jnp.maximum(self._loop_tolerance(x.dtype), self._default_tol[jnp.finfo(x.dtype).bits < 64])
        return (size > 100 * forgiven) & (change <= size * jnp.minimum(1e-3, 10 * size))

    def _system_of(self, parts: dict[str, Any]) -> ActiveSystem:
        return ActiveSystem(**parts, program_of=self._program_of, method=self.implicit_diff_solve)

    # ---- Optimality -----------------------------------------------------------------------------------------------

    def _state_of_solution(self, unknowns: PyTree, *args: Any, bounds: Any = None, **kwargs: Any) -> dict[str, PyTree]:
        """The value, as the Lagrangian: where all that the multipliers weigh vanishes, its derivative is exact."""
        if isinstance(unknowns, KKTSolution):
            return {"value": self._objective.value(unknowns.primal, *args, **kwargs)[0]}
        params, (*duals, of_bounds) = unknowns
        program = self._program_of(params, *args, bounds=bounds, **kwargs)
        x = flat(params, program.lower.dtype)
        values = program.values(x)
        value = values[0] + flat(duals, x.dtype) @ values[1:]
        if not program.bounded:
            return {"value": value}
        z = flat(of_bounds, x.dtype)
        bound = jnp.where(z > 0, program.upper, program.lower)
        held = (z != 0) & jnp.isfinite(bound)
        value = value + jnp.sum(jnp.where(held, z * (x - jnp.where(held, bound, 0)), 0))
        return {"value": value, "dual_bounds": of_bounds}

    def optimality_fun(self, params: KKTSolution, *args: Any, bounds: Any = None, **kwargs: Any) -> KKTSolution:
        """The natural residual: the slope of the Lagrangian for free variables, h, and ``max(g, -dual_ineq)``."""
        program = self._program_of(params.primal, *args, bounds=bounds, **kwargs)
        x = flat(params.primal, program.lower.dtype)
        y = flat(tuple(params[1:]), x.dtype)
        values, pullback = jax.vjp(program.values, x)
        slope = pullback(jnp.concatenate([jnp.ones(1, x.dtype), y]))[0]
        held = (x <= program.lower) & (slope > 0) | (x >= program.upper) & (slope < 0)
        is_eq = jnp.arange(y.size) < program.num_eq
        rows = jnp.where(is_eq, values[1:], jnp.maximum(values[1:], -y))
        return solution_of(program, jnp.where(held, 0, slope), rows)


def size_of(program: NonlinearProgram) -> int:
    """The number of rows of h and g."""
    return jax.eval_shape(program.values, program.lower).size - 1


def solution_of(program: NonlinearProgram, x: Array, y: Array) -> KKTSolution:
    """Vectors as pytrees of the user."""
    return KKTSolution(
        program.unravel_x(x), program.unravel_eq(y[: program.num_eq]), program.unravel_ineq(y[program.num_eq :])
    )


def parts_of(init_params: PyTree) -> tuple[PyTree, PyTree | None]:
    """The point of an initial point, and its multipliers if it has any."""
    if not isinstance(init_params, KKTSolution):
        return init_params, None
    duals = tuple(init_params[1:])
    return init_params.primal, duals if jax.tree.leaves(duals) else None


def _check_constraint(name: str, out: PyTree) -> None:
    for leaf in jax.tree.leaves(out):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(f"{name} must return real floating-point numbers, got dtype {jnp.result_type(leaf)}.")
