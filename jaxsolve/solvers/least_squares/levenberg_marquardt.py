r"""The method of Levenberg and Marquardt.

Problem: minimize :math:`\tfrac12 \|r(x, \theta)\|^2`, possibly over a box. Method: the step is the minimizer of

.. math::  \tfrac12 \|r + J s\|^2 + \tfrac{\mu}{2} \|D s\|^2,

whose damping :math:`\mu` follows the ratio of the actual decrease to that of the model (Nielsen 1999). The diagonal
matrix :math:`D` has the largest norms so far of the columns of :math:`J` (Moré 1978, section 6), with which neither
the step nor :math:`\mu` depends on the units of variables and residuals. Optimality: :math:`J^T r = 0`.

The step is found from a QR factorization of :math:`J` on top of :math:`\sqrt\mu D`, which does not square the condition
number, or, where the Jacobian is not materialized, by conjugate gradients. With bounds, variables that are held at one
are left out of the model, and the end of the step is cut at the bounds; where that leads up the damping grows, with
which the step turns to the projected gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve._vectors import flat
from jaxsolve.base import check_choice, option
from jaxsolve.linear_solve import check_method
from jaxsolve.solvers._bounds import check_bounds
from jaxsolve.solvers.least_squares._base import LeastSquaresMethod
from jaxsolve.solvers.least_squares._damped import DIRECT, column_norms, damped_solver, least_damping
from jaxsolve.solvers.least_squares._model import Model
from jaxsolve.solvers.least_squares._trial import status_after, try_step
from jaxsolve.tree_util import tree_l2_norm

__all__ = ["LevenbergMarquardt", "LevenbergMarquardtState"]

# Damping, beside the squared lengths of the columns, beyond which steps are lost in rounding errors.
_MOST_DAMPING = 1e16


class LevenbergMarquardtState(NamedTuple):
    """State of the Levenberg-Marquardt method.

    Attributes:
        iter_num: number of iterations done, int32; each evaluates the residuals at one trial point.
        damping_factor: damping of the next step, a number without unit.
        increase_factor: by which the damping grows if that step is rejected.
        residual: residuals at the current parameters.
        value: the cost: half the sum of their squares, or that of the loss.
        delta: the last step, a pytree like the parameters; zero if it was rejected.
        error: norm of ``gradient`` without the entries held at bounds: the Euclidean norm, or the largest entry if
            ``stop_criterion`` is ``"madsen-nielsen"``.
        gradient: gradient of the cost, a pytree like the parameters.
        jac: the Jacobian, shape (number of residuals, number of parameters); ``None`` if it is not materialized.
        scale: the diagonal of the damping, one over units of the variables; a vector, or one number for all.
        aux: auxiliary output of ``residual_fun``.
        num_fun_eval: evaluations of ``residual_fun``, int32.
        num_jac_eval: evaluations of its Jacobian, int32.
        status: a :class:`jaxsolve.Status`, int32.
        first_error: ``error`` at the initial point.
    """

    iter_num: Array
    damping_factor: Array
    increase_factor: Array
    residual: Any
    value: Array
    delta: Any
    error: Array
    gradient: Any
    jac: Any
    scale: Array
    aux: Any = None
    num_fun_eval: Any = 0
    num_jac_eval: Any = 0
    status: Any = 0
    first_error: Any = None


class LevenbergMarquardt(LeastSquaresMethod):
    """Nonlinear least squares by the method of Levenberg and Marquardt.

    ``run(init_params, *args, **kwargs)`` minimizes half the sum of squares of ``residual_fun(params, *args,
    **kwargs)``.

    Attributes:
        damping_parameter: damping of the first step, a positive number without unit: the model's curvature in every
            variable grows by this fraction. May be traced.
        stop_criterion: ``"grad-l2-norm"``: the run has converged when the Euclidean norm of the gradient is at most
            ``tol``. ``"madsen-nielsen"``: when no entry of the gradient exceeds ``gtol``, or an accepted step is no
            longer than ``xtol`` times the parameters, both measured in the units of ``state.scale``.
        xtol: see ``stop_criterion``.
        gtol: see ``stop_criterion``.
        solver: how the step is computed. ``"qr"``: from the Jacobian, by a QR factorization. ``"cholesky"``, ``"lu"``
            or ``"inv"``: from the normal equations. A function ``solver(matvec, b)``, for example from
            :mod:`jaxsolve.linear_solve`: from products with the matrix of the normal equations, without the Jacobian
            unless ``materialize_jac=True``. ``None``: ``"qr"`` with a materialized Jacobian, otherwise conjugate
            gradients.
        geodesic: correct every step by the second derivative of the residuals along it (Transtrum and Sethna 2012).
        bounds: a pair ``(lower, upper)`` of numbers, arrays or pytrees like the parameters, with infinite entries where
            there is no bound, or equal ones for variables that are fixed. ``residual_fun`` is never evaluated outside
            of them; an initial point outside is moved to the nearest point inside. The solution is also differentiable
            with respect to the bounds.

    Reference:
        Moré (1978), "The Levenberg-Marquardt algorithm: implementation and theory"; Nielsen (1999), "Damping parameter
        in Marquardt's method"; Madsen, Nielsen and Tingleff (2004), "Methods for non-linear least squares problems".

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> t = jnp.linspace(0.0, 1.0, 20)
        >>> def residuals(params, y):
        ...     return params["size"] * jnp.exp(-params["rate"] * t) - y
        >>> solver = jaxsolve.LevenbergMarquardt(residuals, tol=1e-6)
        >>> init = {"size": 1.0, "rate": 1.0}
        >>> fit = lambda y: solver.run(init, y).params
        >>> {name: round(float(x), 3) for name, x in fit(2.0 * jnp.exp(-3.0 * t)).items()}
        {'rate': 3.0, 'size': 2.0}
        >>> jax.jacobian(fit)(2.0 * jnp.exp(-3.0 * t))["rate"].shape
        (20,)
    """

    tol: float = option(1e-3)
    damping_parameter: float = option(1e-6, above=0)
    stop_criterion: str = option("grad-l2-norm", among=("grad-l2-norm", "madsen-nielsen"))
    xtol: float = option(1e-3, at_least=0)
    gtol: float = option(1e-3, at_least=0)
    solver: str | Callable | None = option(None)
    geodesic: bool = option(False)
    bounds: Any = option(None)

    _State = LevenbergMarquardtState
    _resumed_fields = ("iter_num", "damping_factor", "increase_factor", "scale", "first_error")

    def _validate(self) -> None:
        super()._validate()
        if isinstance(self.solver, str):
            check_choice("solver", self.solver, DIRECT)
        else:
            check_method("solver", self.solver)
        if isinstance(self.solver, str) and self.materialize_jac is False:
            raise ValueError(
                f"solver={self.solver!r} needs the Jacobian: with materialize_jac=False give a function, such as "
                "jaxsolve.linear_solve.solve_cg."
            )
        if self.bounds is not None:
            check_bounds(self.bounds)

    def _materializes(self, m: int, n: int) -> bool:
        if self.materialize_jac is None and self.solver is not None:
            return isinstance(self.solver, str)
        return super()._materializes(m, n)

    # ---- The iteration --------------------------------------------------------------------------------------------

    def init_state(self, init_params: PyTree, *args: Any, **kwargs: Any) -> LevenbergMarquardtState:
        """The state before the first iteration; the arguments are those of ``run``."""
        fields = self._first_fields(init_params, args, kwargs)
        dtype = fields["value"].dtype
        shape = () if fields["jac"] is None else fields["jac"].shape[1:]
        return self._State(
            **fields,
            damping_factor=jnp.asarray(self.damping_parameter).astype(dtype),
            increase_factor=jnp.full((), 2, dtype),
            delta=jax.tree.map(jnp.zeros_like, init_params),
            scale=jnp.zeros(shape, dtype),
        )

    def update(self, params: PyTree, state: LevenbergMarquardtState, *args: Any, **kwargs: Any) -> OptStep:
        """One trial step; returns ``OptStep(params, state)``."""
        params = self._inside(params)
        model = self._model(params, state, args, kwargs)
        scale = jnp.maximum(state.scale, column_norms(model))
        # A variable without effect so far has no unit, and does not move.
        units = jnp.where(scale > 0, scale, 1)
        mu = state.damping_factor
        solve = damped_solver(model, mu, units, self.solver, several=self.geodesic)
        step, allowed, predicted = solve(-model.residual), True, None
        if self.geodesic:
            predicted = model.decrease(step)
            step, allowed = self._bent(model, step, solve, units, args, kwargs)
        trial = try_step(self, params, state, model, step, units, args, kwargs, allowed, predicted)
        shrinkage = jnp.maximum(1 / 3, 1 - (2 * trial.ratio - 1) ** 3)
        least = least_damping(model)
        delta = jax.tree.map(lambda new, old: new - old, trial.params, params)
        new_state = state._replace(
            **trial.fields,
            delta=delta,
            scale=scale,
            damping_factor=jnp.where(trial.accepted, jnp.maximum(mu * shrinkage, least), mu * state.increase_factor),
            increase_factor=jnp.where(trial.accepted, 2, 2 * state.increase_factor),
        )
        status = status_after(self, trial, model, units, mu > _MOST_DAMPING, state)
        if self.stop_criterion == "madsen-nielsen":
            short = trial.length <= jnp.asarray(self.xtol).astype(units.dtype) * tree_l2_norm(units * model.x)
            status = Status.CONVERGED.where(trial.accepted & short & Status.RUNNING.holds(status), status)
        return OptStep(trial.params, new_state._replace(status=status))

    def _bent(self, model: Model, step: Array, solve: Callable, units: Array, args: tuple, kwargs: dict):
        """The step with its geodesic correction, and whether that is small enough to be trusted."""

        def residuals(x):
            return flat(self._residuals(model.unravel(x), args, kwargs)[0], x.dtype)

        def along(x):
            return jax.jvp(residuals, (x,), (step,))[1]

        bend = jax.jvp(along, (model.x,), (step,))[1]
        correction = solve(-(bend if model.root is None else model.root * bend))
        small = 2 * tree_l2_norm(units * correction) <= 0.75 * tree_l2_norm(units * step)
        return step + 0.5 * correction, small

    # ---- When it ends ---------------------------------------------------------------------------------------------

    def _error_of(self, x: Array, gradient: Array, box: Any) -> Array:
        if self.stop_criterion == "grad-l2-norm":
            return super()._error_of(x, gradient, box)
        return jnp.max(jnp.abs(jnp.where(self._held(x, gradient, box), 0, gradient)))

    def _tolerance(self, dtype: Any, size: Array | None = None) -> Array:
        if self.stop_criterion == "grad-l2-norm":
            return super()._tolerance(dtype, size)
        return jnp.asarray(self.gtol).astype(dtype)
