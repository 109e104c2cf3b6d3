r"""A regularized primal-dual interior-point method for nonlinear programs.

Problem: minimize :math:`f(x, \theta)` subject to :math:`h(x, \theta) = 0,\ g(x, \theta) \le 0,\ l \le x \le u`. Method:
Newton's method on the barrier of the augmented Lagrangian, see :mod:`._barrier`; a Cholesky factorization that succeeds
says that the step is one of descent, so that no constraint qualification and no restoration phase are needed. The
program is scaled once, by powers of two. At the end the active set is read off, and Newton's method on it makes the
point exact (:mod:`._active_rows`). Optimality: the Karush-Kuhn-Tucker conditions.

Reference:
    Armand and Omheni (2017), "A mixed logarithmic barrier-augmented Lagrangian method for nonlinear optimization";
    Wächter and Biegler (2006), "On the implementation of an interior-point filter line-search algorithm for
    large-scale nonlinear programming".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsolve._docstrings import with_fields_of
from jaxsolve._loop import loop
from jaxsolve._status import Status
from jaxsolve._types import Array, KKTSolution, OptStep, PyTree
from jaxsolve._vectors import flat
from jaxsolve.base import IterativeSolver, option
from jaxsolve.solvers.constrained._active_rows import ActiveSystem, Point
from jaxsolve.solvers.constrained._barrier import (
    Iterate,
    first_iterate,
    limits_of,
    newton_step,
    residuals,
    update_parameters,
    with_slacks,
)
from jaxsolve.solvers.constrained._constrained import (
    ConstrainedSolver,
    SharedFields,
    parts_of,
    size_of,
    solution_of,
)
from jaxsolve.solvers.constrained._program import Local, NonlinearProgram, margins, scaling_at, sizes_at
from jaxsolve.solvers.quadratic._residuals import norm
from jaxsolve.solvers.quadratic._scaling import Scaling
from jaxsolve.tree_util import tree_all_finite

__all__ = ["InteriorPointNLP", "InteriorPointNLPState"]

# How far inside of the bounds a run begins, in parts of their distance or size.
_INSIDE = 1e-2
# Beyond this, in scaled units, the iterates go to infinity.
_FAR_AWAY = 1e10
# So many steps may be rejected in a row.
_MOST_REJECTED = 6
# So many times in a row the largest penalty may leave the violation as it is: multipliers grow without end where the
# constraints have no qualification.
_MOST_HELD = 10


@with_fields_of(SharedFields)
class InteriorPointNLPState(NamedTuple):
    """State of the interior-point method for nonlinear programs.

    Attributes:
        iterate: the iterate in scaled units.
        at: functions and derivatives there.
        scaling: the units.
    """

    iter_num: Array
    error: Array
    value: Array
    status: Array
    constr_violation: Array
    dual_bounds: Any
    is_minimum: Array
    iterate: Iterate
    at: Local
    scaling: Scaling


class InteriorPointNLP(ConstrainedSolver, IterativeSolver):
    """Interior-point method for smooth problems with equality and inequality constraints and bounds.

    ``run(init_x, *args, bounds=None, **kwargs)`` minimizes ``fun(x, *args, **kwargs)`` subject to
    ``eq_fun(x, *args, **kwargs) == 0``, ``ineq_fun(x, *args, **kwargs) <= 0`` and ``lower <= x <= upper``. It returns a
    local minimum as ``KKTSolution(primal, dual_eq, dual_ineq)``. ``init_x`` may violate all constraints; no function is
    evaluated outside of the bounds. For a warm start, pass a ``KKTSolution`` in its place. Dense matrices of shape
    ``(n, n)`` are factorized, so n should be at most a few thousand.

    A run ends with ``Status.LOCALLY_INFEASIBLE`` at an infeasible point from which no small movement reduces the
    violation of the constraints.

    Attributes:
        tol: the run has converged when ``state.error`` is at most ``tol``. The error has no unit, because functions and
            variables are scaled to be about 1. ``None`` is 1e-8 in float64 and 1e-4 in float32.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> def cost(x, radius):
        ...     return jnp.sum((x - jnp.array([2.0, 1.0])) ** 2)
        >>> def outside(x, radius):
        ...     return jnp.sum(x**2) - radius**2
        >>> solver = jaxsolve.InteriorPointNLP(cost, ineq_fun=outside)
        >>> params, state = solver.run(jnp.zeros(2), 1.0)
        >>> [round(float(v), 3) for v in (*params.primal, params.dual_ineq)]
        [0.894, 0.447, 1.236]
        >>> slope = jax.jacobian(lambda r: solver.run(jnp.zeros(2), r).params.primal)(1.0)
        >>> [round(float(v), 3) for v in slope]
        [0.894, 0.447]
    """

    maxiter: int = option(300, at_least=0)
    tol: float | None = option(None, at_least=0)  # type: ignore[assignment]  # by dtype

    _State = InteriorPointNLPState
    _has_many_scalars = True

    # ---- The iteration --------------------------------------------------------------------------------------------

    def init_state(self, init_params: PyTree, *args: Any, bounds: Any = None, **kwargs: Any) -> InteriorPointNLPState:
        """The state before the first iteration; the arguments are those of ``run``."""
        params, y = parts_of(init_params)
        program = self._program_of(params, *args, bounds=bounds, **kwargs)
        x = flat(params, program.lower.dtype)
        y = None if y is None else flat(y, x.dtype)
        m = size_of(program)
        x, at = _first_look(program, x, jnp.zeros(m, x.dtype) if y is None else y)
        scaling = scaling_at(program, x, *at)
        scaled = program.scaled(scaling)
        limits = limits_of(self._loop_tolerance(x.dtype))
        x = x / scaling.variables
        y = None if y is None else scaling.cost * y / scaling.rows
        unit = jnp.concatenate([scaling.cost[None], scaling.rows])
        first = Local(unit * at.values, unit[:, None] * at.jacobian * scaling.variables[None], at.hessian)
        it = first_iterate(scaled, x, first, y, limits)
        at = scaled.local(it.x, it.y)
        zero = jnp.zeros((), jnp.int32)
        return self._state_at(program, scaling, it, at, zero)

    def update(
        self, params: KKTSolution, state: InteriorPointNLPState, *args: Any, bounds: Any = None, **kwargs: Any
    ) -> OptStep:
        """One step; the arguments are those of ``run``. Returns ``OptStep(params, state)``."""
        program = self._program_of(params.primal, *args, bounds=bounds, **kwargs)
        scaled, limits = program.scaled(state.scaling), limits_of(self._loop_tolerance(state.error.dtype))
        it = newton_step(scaled, state.iterate, state.at)
        at = scaled.local(it.x, it.y)
        it = with_slacks(it, at.values[1:])
        it = with_slacks(update_parameters(it, residuals(scaled, it, at), limits), at.values[1:])
        new = self._state_at(program, state.scaling, it, at, state.iter_num + 1)
        return OptStep(_point(program, state.scaling, it), new)

    def _state_at(
        self, program: NonlinearProgram, scaling: Scaling, it: Iterate, at: Local, iter_num: Array
    ) -> InteriorPointNLPState:
        scaled, tol = program.scaled(scaling), self._loop_tolerance(it.x.dtype)
        res = residuals(scaled, it, at)
        constraints = at.values[1:] / scaling.rows
        finite = tree_all_finite(at)
        stuck = (it.num_rejected >= _MOST_REJECTED) | (it.num_held >= _MOST_HELD)
        status = Status.STALLED.where(stuck, int(Status.RUNNING))
        last = (it.delta <= (1e-8 if it.x.dtype == jnp.float64 else 1e-3)) | stuck
        slope = scaled.violation(at.values[1:]) @ at.jacobian[1:]
        infeasible = last & self._is_infeasible(scaled, it.x, at.values[1:], slope)
        status = Status.LOCALLY_INFEASIBLE.where(infeasible, status)
        status = Status.DIVERGED.where(norm(it.x) > _FAR_AWAY, status)
        status = Status.CONVERGED.where(res.error <= tol, status)
        return self._State(
            iter_num=iter_num,
            error=res.error,
            value=at.values[0] / scaling.cost,
            status=Status.NONFINITE.where(~finite, status),
            constr_violation=norm(program.violation(constraints)),
            dual_bounds=program.unravel_x((it.z[1] - it.z[0]) / (scaling.cost * scaling.variables)),
            is_minimum=jnp.asarray(False),
            iterate=it,
            at=at,
            scaling=scaling,
        )

    def _solve(self, init_params: PyTree, *args: Any, **kwargs: Any) -> tuple[OptStep, ActiveSystem]:
        step = self._iterate(init_params, args, kwargs)
        state: InteriorPointNLPState = step.state
        program = self._program_of(step.params.primal, *args, **kwargs)
        it, scaling = state.iterate, state.scaling
        x, y = (flat(part, it.x.dtype) for part in (step.params.primal, tuple(step.params[1:])))
        y = jnp.where(jnp.arange(y.size) < program.num_eq, y, jnp.maximum(y, 0))
        # Those of fixed variables are whatever makes the slope vanish.
        unit = jnp.concatenate([scaling.cost[None], scaling.rows])
        jacobian = state.at.jacobian / unit[:, None] / scaling.variables[None]
        hessian = state.at.hessian / (scaling.cost * scaling.variables[:, None] * scaling.variables[None])
        z = (it.z[1] - it.z[0]) / (scaling.cost * scaling.variables)
        z = jnp.where(program.lower < program.upper, z, -(jacobian[0] + y @ jacobian[1:]))
        point = Point(x, program.rows_at(z, y), Local(state.at.values / unit, jacobian, hessian))
        near = Status.CONVERGED.holds(state.status) | Status.STALLED.holds(state.status)
        return self._finished(program, scaling, point, state, near)


def _first_look(program: NonlinearProgram, x: Array, y: Array) -> tuple[Array, Local]:
    """The nearest point that is inside of the bounds by some part of their distance, and the program there.

    Where a variable and its bound are 0, how much that part is turns out where the functions are seen at the bound.
    """

    def inside(sizes):
        (lower, upper), lacking = margins(program, x, sizes, _INSIDE)
        return jnp.clip(x, program.lower + lower, program.upper - upper), jnp.any(lacking)

    def look(carry):
        point, _, unknown, _ = carry
        at = program.local(point, y)
        sizes = sizes_at(program, at.values, at.jacobian, jnp.diagonal(at.hessian))
        return jnp.where(unknown, inside(sizes)[0], point), at, jnp.zeros_like(unknown), unknown

    point, unknown = inside(None)
    point = jnp.where(unknown, jnp.clip(x, program.lower, program.upper), point)
    nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(program.local, point, y))
    carry = (point, nothing, unknown, jnp.ones_like(unknown))
    return loop(lambda carry: carry[3], look, carry, maxiter=2)[:2]


def _point(program: NonlinearProgram, scaling: Scaling, it: Iterate) -> KKTSolution:
    """An iterate in the units of the user."""
    y = scaling.rows * it.y / scaling.cost
    return solution_of(program, scaling.variables * it.x, y)
