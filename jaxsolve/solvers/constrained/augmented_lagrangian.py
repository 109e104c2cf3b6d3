r"""The augmented Lagrangian method for nonlinear programs, around any smooth solver.

Problem: minimize :math:`f(x, \theta)` subject to :math:`h(x, \theta) = 0,\ g(x, \theta) \le 0,\ l \le x \le u`. Method:
with estimates :math:`\nu, \lambda` of the multipliers and a penalty :math:`\rho` the function

.. math::

    f + \nu^T h + \tfrac{\rho}{2} \lVert h \rVert^2
    + \tfrac{1}{2 \rho} \bigl(\lVert \max(0, \lambda + \rho g) \rVert^2 - \lVert \lambda \rVert^2\bigr)

is minimized over the bounds, to an accuracy that grows with that of the constraints; then
:math:`\nu \leftarrow \nu + \rho h,\ \lambda \leftarrow \max(0, \lambda + \rho g)`, and the penalty grows unless the
violation fell. Optimality: the Karush-Kuhn-Tucker conditions.

Reference:
    Birgin and Martínez (2014), "Practical augmented Lagrangian methods for constrained optimization"; Rockafellar
    (1974), "Augmented Lagrange multiplier functions and duality in nonconvex programming".
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsolve._docstrings import with_fields_of
from jaxsolve._status import Status
from jaxsolve._types import Array, KKTSolution, OptStep, PyTree
from jaxsolve._vectors import flat
from jaxsolve.base import IterativeSolver, option
from jaxsolve.solvers.constrained._active_rows import ActiveSystem, Point
from jaxsolve.solvers.constrained._constrained import ConstrainedSolver, SharedFields, parts_of, solution_of
from jaxsolve.solvers.constrained._program import scaling_at
from jaxsolve.solvers.constrained.lbfgsb import LBFGSB
from jaxsolve.solvers.quadratic._residuals import norm
from jaxsolve.solvers.quadratic._scaling import Scaling
from jaxsolve.tree_util import tree_where

__all__ = ["AugmentedLagrangian", "AugmentedLagrangianState"]

# The first penalty, the factor by which it grows, and the largest, in scaled units.
_FIRST, _FACTOR, _LARGEST = 10.0, 10.0, 1e10
# A penalty beyond which a violation that no small movement makes less counts as one that cannot be undone.
_FORBIDS = 1e6
# The violation must fall to this part of the last one, or the penalty grows.
_FALLS = 0.5
# In scaled units, how far the inner solver may go, in parts of the size of the point.
_NEAR = 10.0
# The matrices of polishing and of the derivative are dense up to so many variables.
_MOST_DENSE = 2000


@with_fields_of(SharedFields)
class AugmentedLagrangianState(NamedTuple):
    """State of the augmented Lagrangian method.

    Attributes:
        iter_num: number of outer iterations done, int32.
        is_minimum: whether the solution has no direction of negative curvature along the constraints; known at the
            end, for up to 2,000 variables.
        num_inner_iter: total number of iterations of the inner solver, int32.
        penalty: the penalty, in scaled units.
        inner_tol: the tolerance of the next inner run, in scaled units.
        violation: the last residual of the constraints, in scaled units.
        scaling: the units.
    """

    iter_num: Array
    error: Array
    value: Array
    status: Array
    constr_violation: Array
    dual_bounds: Any
    is_minimum: Array
    num_inner_iter: Array
    penalty: Array
    inner_tol: Array
    violation: Array
    scaling: Scaling


class AugmentedLagrangian(ConstrainedSolver, IterativeSolver):
    """Augmented Lagrangian method for smooth problems with equality and inequality constraints and bounds.

    The arguments and the result of ``run`` are those of :class:`InteriorPointNLP`. The iterations use only what the
    inner solver uses, by default gradients. So they suit problems with many variables, and functions without useful
    second derivatives. For accurate solutions of small problems :class:`InteriorPointNLP` takes less time. With up to
    2,000 variables the solution is polished at the end, and differentiated through its active set.

    Attributes:
        solver: the inner solver, for example ``LBFGS(fun, history_size=30)``; its ``fun`` and ``tol`` are replaced.
            The default is :class:`LBFGSB`, which is required if there are bounds.
        tol: the run has converged when ``state.error`` is at most ``tol``. The error has no unit, because functions and
            variables are scaled to be about 1. ``None`` is 1e-6 in float64 and 1e-3 in float32.
        maxiter: largest number of outer iterations.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> solver = jaxsolve.AugmentedLagrangian(
        ...     lambda x, total: jnp.sum(x**4), lambda x, total: jnp.sum(x) - total)
        >>> params, state = solver.run(jnp.zeros(4), 2.0)
        >>> params.primal.round(3).tolist(), round(float(params.dual_eq), 3)
        ([0.5, 0.5, 0.5, 0.5], -0.5)
    """

    maxiter: int = option(60, at_least=0)
    tol: float | None = option(None, at_least=0)  # type: ignore[assignment]  # by dtype
    solver: Any = option(None)  # type: ignore[misc]

    _State = AugmentedLagrangianState
    _handles_nonfinite = True
    _has_many_scalars = True
    _default_tol = (1e-6, 1e-3)

    def _validate(self) -> None:
        super()._validate()
        if self.solver is not None and not (isinstance(self.solver, IterativeSolver) and hasattr(self.solver, "fun")):
            raise TypeError(f"solver must be an iterative solver of an objective, such as LBFGS, got {self.solver!r}.")

    def _check_arguments(self, init_params: PyTree, *args: Any, bounds: Any = None, **kwargs: Any) -> None:
        """Raise for arguments that cannot be right."""
        super()._check_arguments(init_params, *args, bounds=bounds, **kwargs)
        if bounds is not None and not self._takes_bounds:
            raise ValueError(f"bounds need an inner solver with bounds, LBFGSB, got {type(self.solver).__name__}.")

    @property
    def _takes_bounds(self) -> bool:
        return self.solver is None or isinstance(self.solver, LBFGSB)

    # ---- The iteration --------------------------------------------------------------------------------------------

    def init_state(
        self, init_params: PyTree, *args: Any, bounds: Any = None, **kwargs: Any
    ) -> AugmentedLagrangianState:
        """The state before the first iteration; the arguments are those of ``run``."""
        params, _ = parts_of(init_params)
        program = self._program_of(params, *args, bounds=bounds, **kwargs)
        x = jnp.clip(flat(params, program.lower.dtype), program.lower, program.upper)
        values = program.values(x)
        m = values.size - 1
        jacobian = (jax.jacrev if m < x.size else jax.jacfwd)(program.values)(x)
        few = x.size <= _MOST_DENSE
        scaling = scaling_at(program, x, values, jacobian, curvature_at=program.curvature if few else None)
        zero, one = jnp.zeros((), jnp.int32), jnp.ones((), x.dtype)
        violation = norm(scaling.rows * program.violation(values[1:]))
        finite = jnp.all(jnp.isfinite(values))
        return self._State(
            iter_num=zero,
            error=jnp.where(finite, jnp.inf, jnp.nan).astype(x.dtype),
            value=values[0],
            status=Status.NONFINITE.where(~finite, int(Status.RUNNING)),
            constr_violation=norm(program.violation(values[1:])),
            dual_bounds=program.unravel_x(jnp.zeros_like(x)),
            is_minimum=jnp.asarray(False),
            num_inner_iter=zero + 0,
            penalty=_FIRST * one,
            inner_tol=1e-2 * one,
            violation=violation,
            scaling=scaling,
        )

    def update(
        self, params: KKTSolution, state: AugmentedLagrangianState, *args: Any, bounds: Any = None, **kwargs: Any
    ) -> OptStep:
        """One minimization by the inner solver; the arguments are those of ``run``."""
        program = self._program_of(params.primal, *args, bounds=bounds, **kwargs)
        scaling, rho, dtype = state.scaling, state.penalty, state.error.dtype
        scaled, tol = program.scaled(scaling), self._tolerance_at(dtype)
        if scaled.lower.size <= _MOST_DENSE:  # then there is polishing
            tol = self._loop_tolerance(dtype)
        x = jnp.clip(flat(params.primal, dtype) / scaling.variables, scaled.lower, scaled.upper)
        y = scaling.cost * flat(tuple(params[1:]), dtype)
        m = y.size
        y = y / scaling.rows
        is_eq = jnp.arange(m) < program.num_eq

        def lagrangian(x, y, rho):
            values = scaled.values(x)
            pushed = jnp.where(is_eq, y + rho * values[1:], jnp.maximum(y + rho * values[1:], 0))
            return values[0] + (pushed @ pushed - y @ y) / (2 * rho)

        # Where a constraint grows more slowly than the objective falls, the penalty holds only near by.
        near = _NEAR * jnp.maximum(norm(x), 1)
        box = jnp.maximum(scaled.lower, x - near), jnp.minimum(scaled.upper, x + near)
        sides = (box,) if self._takes_bounds else ()
        inner = self._inner(lagrangian, state.inner_tol)
        found = inner._iterate(x, (*sides, y, rho), {})
        lost = Status.NONFINITE.holds(found.state.status) | Status.DIVERGED.holds(found.state.status)
        new_x = jnp.where(lost, x, found.params)
        values = scaled.values(new_x)
        pushed = jnp.where(is_eq, y + rho * values[1:], jnp.maximum(y + rho * values[1:], 0))
        residual = jnp.where(is_eq, values[1:], jnp.maximum(values[1:], -pushed / rho))
        violation = norm(residual)
        slope = found.state.grad
        held = (new_x <= scaled.lower) & (slope > 0) | (new_x >= scaled.upper) & (slope < 0)
        size = jnp.maximum(jnp.sum(jnp.abs(pushed)) / max(m, 1), 100) / 100
        error = jnp.where(lost, state.error, norm(jnp.where(held, 0, slope) / size, violation))
        grows = lost | ((violation > _FALLS * state.violation) & (violation > 0.1 * tol))
        penalty = jnp.where(grows, _FACTOR * rho, rho)
        inner_tol = jnp.clip(0.1 * violation, 0.1 * state.inner_tol, state.inner_tol)
        status = Status.STALLED.where(penalty > _LARGEST, int(Status.RUNNING))
        weights = jnp.concatenate([jnp.zeros(1, dtype), scaled.violation(values[1:])])
        of_violation = jax.vjp(scaled.values, new_x)[1](weights)[0]
        infeasible = (penalty > _FORBIDS) & self._is_infeasible(scaled, new_x, values[1:], of_violation)
        status = Status.LOCALLY_INFEASIBLE.where(infeasible, status)
        status = Status.DIVERGED.where(lost & (penalty > _LARGEST), status)
        status = Status.CONVERGED.where(error <= tol, status)
        status = jnp.where(Status.NONFINITE.holds(state.status), state.status, status)
        constraints = values[1:] / scaling.rows
        z = jnp.where(held, -slope, 0) / (scaling.cost * scaling.variables)
        new = state._replace(
            error=error,
            value=values[0] / scaling.cost,
            status=status,
            constr_violation=norm(program.violation(constraints)),
            dual_bounds=program.unravel_x(z),
            num_inner_iter=state.num_inner_iter + found.state.iter_num,
            penalty=penalty,
            inner_tol=jnp.maximum(inner_tol, 0.3 * tol),
            violation=jnp.where(lost, state.violation, violation),
        )
        y = jnp.where(lost, y, pushed)
        solution = solution_of(program, scaling.variables * new_x, scaling.rows * y / scaling.cost)
        old = OptStep(params, state)
        step = tree_where(Status.NONFINITE.holds(state.status), tuple(old), (solution, new))
        return OptStep(step[0], step[1]._replace(iter_num=state.iter_num + 1))

    def _inner(self, fun: Any, tol: Array) -> Any:
        """The inner solver for a function of vectors."""
        solver: Any = self.solver
        if solver is None:
            solver = LBFGSB(fun, maxiter=500, history_size=20, tol=1e-3)  # type: ignore[call-arg]
        else:
            flags = {name: False for name in ("value_and_grad", "has_aux") if hasattr(solver, name)}
            solver = dataclasses.replace(solver, fun=fun, **flags)
        solver.tol = tol
        return solver._staged()

    def _solve(self, init_params: PyTree, *args: Any, **kwargs: Any) -> tuple[OptStep, ActiveSystem | None]:
        step = self._iterate(init_params, args, kwargs)
        program = self._program_of(step.params.primal, *args, **kwargs)
        dtype = step.state.error.dtype
        x = flat(step.params.primal, dtype)
        if x.size > _MOST_DENSE:
            return step, None
        y, z = flat(tuple(step.params[1:]), dtype), flat(step.state.dual_bounds, dtype)
        point = Point(x, program.rows_at(z, y), program.local(x, y))
        near = Status.CONVERGED.holds(step.state.status) | Status.STALLED.holds(step.state.status)
        return self._finished(program, step.state.scaling, point, step.state, near)
