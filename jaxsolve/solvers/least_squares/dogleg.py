r"""Powell's dogleg method for nonlinear least squares.

Problem: minimize :math:`\tfrac12 \|r(x, \theta)\|^2`. Method: within :math:`\|D s\| \le \Delta` the step goes along the
path from 0 over the minimizer of the model :math:`\|r + J s\|^2` in the direction of steepest descent to its minimizer
over all steps, as far as the region allows (Powell 1970; Nocedal and Wright 2006, section 4.1). The diagonal matrix
:math:`D` has the largest norms so far of the columns of :math:`J`. Optimality: :math:`J^T r = 0`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.base import option
from jaxsolve.solvers.least_squares._base import LeastSquaresMethod
from jaxsolve.solvers.least_squares._damped import column_norms, damped_solver, least_damping
from jaxsolve.solvers.least_squares._trial import status_after, try_step
from jaxsolve.tree_util import tree_l2_norm

__all__ = ["Dogleg", "DoglegState"]


class DoglegState(NamedTuple):
    """State of the dogleg method.

    Attributes:
        iter_num: number of iterations done, int32; each evaluates the residuals at one trial point.
        residual: residuals at the current parameters.
        value: the cost: half the sum of their squares, or that of the loss.
        delta: the last step, a pytree like the parameters; zero if it was rejected.
        error: Euclidean norm of ``gradient``.
        gradient: gradient of the cost, a pytree like the parameters.
        jac: the Jacobian, shape (number of residuals, number of parameters); ``None`` if it is not materialized.
        scale: one over the units of the variables; a vector, or one number for all.
        radius: of the trust region, in the unit of the residuals; 0 before the first iteration.
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
    scale: Array
    radius: Array
    aux: Any = None
    num_fun_eval: Any = 0
    num_jac_eval: Any = 0
    status: Any = 0
    first_error: Any = None


class Dogleg(LeastSquaresMethod):
    """Nonlinear least squares by Powell's dogleg method.

    ``run(init_params, *args, **kwargs)`` minimizes half the sum of squares of ``residual_fun(params, *args,
    **kwargs)``.

    Reference:
        Powell (1970), "A hybrid method for nonlinear equations"; Nocedal and Wright (2006), "Numerical optimization",
        section 4.1.

    Example:
        >>> import jax.numpy as jnp, jaxsolve
        >>> solver = jaxsolve.Dogleg(lambda x: jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]]), tol=1e-6)
        >>> [round(x, 3) for x in solver.run(jnp.array([-1.2, 1.0])).params.tolist()]
        [1.0, 1.0]
    """

    maxiter: int = option(50)
    tol: float = option(1e-5)

    _State = DoglegState
    _resumed_fields = ("iter_num", "scale", "radius", "first_error")

    def init_state(self, init_params: PyTree, *args: Any, **kwargs: Any) -> DoglegState:
        """The state before the first iteration; the arguments are those of ``run``."""
        fields = self._first_fields(init_params, args, kwargs)
        dtype = fields["value"].dtype
        shape = () if fields["jac"] is None else fields["jac"].shape[1:]
        delta = jax.tree.map(jnp.zeros_like, init_params)
        return self._State(**fields, delta=delta, scale=jnp.zeros(shape, dtype), radius=jnp.zeros((), dtype))

    def update(self, params: PyTree, state: DoglegState, *args: Any, **kwargs: Any) -> OptStep:
        """One trial step; returns ``OptStep(params, state)``."""
        model = self._model(params, state, args, kwargs)
        scale = jnp.maximum(state.scale, column_norms(model))
        units = jnp.where(scale > 0, scale, 1)
        newton = damped_solver(model, jnp.asarray(least_damping(model), units.dtype), units, None)(-model.residual)
        descent = -model.gradient / units**2
        slope, curvature = -jnp.vdot(model.gradient, descent), jnp.sum(model.matvec(descent) ** 2)
        cauchy = (slope / jnp.where(curvature > 0, curvature, 1)) * descent

        def length(step):
            return tree_l2_norm(units * step)

        first = jnp.maximum(length(model.x), length(cauchy))
        radius = jnp.where(state.radius > 0, state.radius, first)
        step = _on_path(cauchy, newton, units, radius)
        trial = try_step(self, params, state, model, step, units, args, kwargs)
        at_boundary = length(newton) > radius
        grown = jnp.where((trial.ratio > 0.75) & at_boundary, 2 * radius, radius)
        new_radius = jnp.where(trial.ratio < 0.25, 0.25 * jnp.minimum(trial.length, radius), grown)
        # A step that could not be computed has no length.
        new_radius = jnp.where(new_radius > 0, new_radius, 0.25 * radius)
        eps = float(jnp.finfo(units.dtype).eps)
        status = status_after(self, trial, model, units, radius <= eps * length(cauchy), state)
        delta = jax.tree.map(lambda new, old: new - old, trial.params, params)
        fields = trial.fields | {"delta": delta, "scale": scale, "radius": new_radius, "status": status}
        return OptStep(trial.params, state._replace(**fields))


def _on_path(cauchy: Array, newton: Array, units: Array, radius: Array) -> Array:
    """The point of the path from 0 over ``cauchy`` to ``newton`` at which it leaves the region, or its end."""
    c, d = units * cauchy, units * (newton - cauchy)
    cc, cd, dd = jnp.vdot(c, c), jnp.vdot(c, d), jnp.vdot(d, d)
    left = radius**2 - cc
    # The positive root of |c + t d| = radius, in the form without cancellation for cd > 0.
    discriminant = cd * cd + dd * left
    real = discriminant > 0
    root = jnp.where(real, jnp.sqrt(jnp.where(real, discriminant, 1)), 0) + jnp.abs(cd)
    denominator = jnp.where(cd > 0, root, dd)
    t = jnp.where(cd > 0, left, root) / jnp.where(denominator > 0, denominator, 1)
    shortened = (radius / jnp.sqrt(jnp.where(cc > 0, cc, 1))) * cauchy
    return jnp.where(left <= 0, shortened, cauchy + jnp.clip(t, 0, 1) * (newton - cauchy))
