r"""The Gauss-Newton method.

Problem: minimize :math:`\tfrac12 \|r(x, \theta)\|^2`. Method: the step goes along the minimizer :math:`s` of
:math:`\|r + J s\|^2`, as far as the cost decreases enough (Armijo 1966). Optimality: :math:`J^T r = 0`.

The direction is found from a QR factorization, or by conjugate gradients where the Jacobian is not materialized. Both
carry a damping of the size of rounding errors, so that dependent columns of :math:`J` do no harm.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.base import option
from jaxsolve.linesearch._base import shortened
from jaxsolve.solvers.least_squares._base import LeastSquaresMethod
from jaxsolve.solvers.least_squares._damped import column_norms, damped_solver, least_damping
from jaxsolve.solvers.least_squares._trial import status_after, try_step

__all__ = ["GaussNewton", "GaussNewtonState"]

# A direction along which no longer step than this part of it helps is no direction of descent.
_SHORTEST = 1e-12


class GaussNewtonState(NamedTuple):
    """State of the Gauss-Newton method.

    Attributes:
        iter_num: number of iterations done, int32; each evaluates the residuals at one trial point.
        residual: residuals at the current parameters.
        value: the cost: half the sum of their squares, or that of the loss.
        delta: the last step, a pytree like the parameters; zero if it was rejected.
        error: Euclidean norm of ``gradient``.
        gradient: gradient of the cost, a pytree like the parameters.
        jac: the Jacobian, shape (number of residuals, number of parameters); ``None`` if it is not materialized.
        stepsize: fraction of the direction that is tried next: 1, or less after steps that were rejected.
        aux: auxiliary output of ``residual_fun``.
        num_fun_eval: evaluations of ``residual_fun``, int32.
        num_jac_eval: evaluations of its Jacobian, int32.
        status: a :class:`jaxsolve.Status`, int32.
        first_error: ``error`` at the initial point.
    """

    iter_num: Array
    residual: Any
    value: Array
    delta: Any
    error: Array
    gradient: Any
    jac: Any
    stepsize: Array
    aux: Any = None
    num_fun_eval: Any = 0
    num_jac_eval: Any = 0
    status: Any = 0
    first_error: Any = None


class GaussNewton(LeastSquaresMethod):
    """Nonlinear least squares by the Gauss-Newton method with backtracking.

    ``run(init_params, *args, **kwargs)`` minimizes half the sum of squares of ``residual_fun(params, *args,
    **kwargs)``. The method is fast if the residuals at the solution are small. It needs an initial point where the
    linear model is good; :class:`~jaxsolve.LevenbergMarquardt` is more robust.

    Reference:
        Nocedal and Wright (2006), "Numerical optimization", section 10.3.

    Example:
        >>> import jax.numpy as jnp, jaxsolve
        >>> t = jnp.linspace(0.0, 1.0, 20)
        >>> solver = jaxsolve.GaussNewton(lambda x, y: x[0] * jnp.exp(-x[1] * t) - y)
        >>> [round(x, 3) for x in solver.run(jnp.ones(2), 2.0 * jnp.exp(-3.0 * t)).params.tolist()]
        [2.0, 3.0]
    """

    tol: float = option(1e-5)

    _State = GaussNewtonState

    def init_state(self, init_params: PyTree, *args: Any, **kwargs: Any) -> GaussNewtonState:
        """The state before the first iteration; the arguments are those of ``run``."""
        fields = self._first_fields(init_params, args, kwargs)
        delta = jax.tree.map(jnp.zeros_like, init_params)
        return self._State(**fields, delta=delta, stepsize=jnp.ones_like(fields["value"]))

    def update(self, params: PyTree, state: GaussNewtonState, *args: Any, **kwargs: Any) -> OptStep:
        """One trial step along the direction; returns ``OptStep(params, state)``."""
        model = self._model(params, state, args, kwargs)
        norms = column_norms(model)
        units = jnp.where(norms > 0, norms, 1)
        damping = jnp.asarray(least_damping(model), units.dtype)
        direction = damped_solver(model, damping, units, None)(-model.residual)
        t = state.stepsize
        slope = t * jnp.vdot(model.gradient, direction)
        trial = try_step(self, params, state, model, t * direction, units, args, kwargs, predicted=-slope)
        shorter = t * shortened(slope, -trial.decrease, trial.finite)
        status = status_after(self, trial, model, units, t < _SHORTEST, state)
        delta = jax.tree.map(lambda new, old: new - old, trial.params, params)
        stepsize = jnp.where(trial.accepted, 1, shorter)
        return OptStep(trial.params, state._replace(**trial.fields, delta=delta, stepsize=stepsize, status=status))
