r"""Proximal gradient iterations, shared by gradient descent, proximal gradient and projected gradient.

Problem: minimize :math:`f(x, \theta) + g(x, \eta)` with :math:`f` smooth and the proximity operator of :math:`g` at
hand. From a base point :math:`y` and a step size :math:`s` the method goes to

.. math::  x^+ = \operatorname{prox}_{s g}(y - s \nabla f(y)),

where :math:`y` is the current iterate or, accelerated, an extrapolation of the last two (FISTA, Beck and Teboulle 2009,
equations 4.1 to 4.3). The step size is found by backtracking, see :mod:`jaxsolve.solvers._gradient_method`, and the
momentum is dropped, with the step that it led to, where the objective might have risen: so it never rises.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.base import option
from jaxsolve.implicit_diff.optimality import proximal_gradient_fixed_point, stationary
from jaxsolve.solvers._gradient_method import GradientMethod, is_still
from jaxsolve.solvers._stepsize import falls_without_end, natural_stepsize, times
from jaxsolve.tree_util import (
    tree_add_scalar_mul,
    tree_all_finite,
    tree_l2_norm,
    tree_sub,
    tree_where,
)

__all__ = ["ProximalMethod", "ProximalState", "prox_none"]


def prox_none(x: PyTree, hyperparams: Any = None, scaling: float = 1.0) -> PyTree:
    r"""Proximity operator of :math:`g(x) = 0`: the identity.

    Args:
        x: pytree of arrays.
        hyperparams: ignored.
        scaling: ignored.

    Returns:
        ``x``.
    """
    del hyperparams, scaling
    return x


# A fixed step diverges when the objective is above its first value although it is to be minimized, and the gradient has
# grown by orders of magnitude: neither alone says so (momentum overshoots, a start near a saddle has a tiny gradient).
_MUCH_LOWER = 1e-3


class ProximalState(NamedTuple):
    """State of the proximal gradient iterations.

    Attributes:
        iter_num: number of iterations done, int32.
        stepsize: step size with which the next search starts, 0 before the first search; without a search, the size of
            the last step.
        error: Euclidean norm of the gradient mapping at the last base point: the length of the step divided by its
            size. At the end of ``run`` it is evaluated at the solution, for a step of size 1 (the norm of
            ``optimality_fun``), or with ``rtol`` for a step of size ``stepsize``.
        aux: auxiliary output of ``fun``.
        velocity: the next base point (``None`` without acceleration), a pytree like the parameters.
        t: momentum parameter :math:`t_k`.
        value: ``fun`` at the last base point; at the end of ``run``, at the solution.
        status: a :class:`jaxsolve.Status`, int32.
        num_fun_eval: evaluations of ``fun`` without its gradient.
        num_grad_eval: evaluations of ``fun`` with its gradient.
        first_value: ``fun`` at the initial point (``None`` where the step size is searched for).
        first_error: ``error`` of the first iteration.
        scale: units of the variables, a pytree like the parameters; or ``None``.
    """

    iter_num: Array
    stepsize: Array
    error: Array
    aux: Any = None
    velocity: Any = None
    t: Any = 1.0
    value: Any = None
    status: Any = 0
    num_fun_eval: Any = 0
    num_grad_eval: Any = 0
    first_value: Any = None
    first_error: Any = None
    scale: Any = None


class ProximalMethod(GradientMethod):
    """Base of the solvers that iterate proximal gradient steps.

    Attributes:
        stepsize: a positive number, which may be traced; a function of the iteration number, from 0, that returns
            positive step sizes; or zero, the default, or a negative number, for backtracking. The implicit derivative
            with respect to anything in a schedule is zero, because the solution does not depend on it.
        acceleration: whether to use momentum.
    """

    stepsize: float | Callable = option(0.0)
    acceleration: bool = option(True)

    _is_fixed_point = True
    _resumed_fields = ("iter_num", "stepsize", "velocity", "t", "first_value", "first_error", "scale")
    #: Whether the proximity operator is the identity, so that the optimality condition is a zero gradient.
    _smooth: ClassVar[bool] = False
    _State = ProximalState

    @abc.abstractmethod
    def _apply_prox(self, x: PyTree, hyperparams: Any, scaling: Any) -> PyTree:
        """The proximity operator of ``scaling * g``."""

    def _with_functions(self, change: Callable[[str, Callable], Callable]) -> Self:
        # The identity stays the object that it is known by.
        return super()._with_functions(lambda name, f: f if f is prox_none else change(name, f))

    @property
    def _certifies(self) -> bool:
        # A point at which the gradient is small enough is not left.
        return not self._smooth

    # ---- The iteration --------------------------------------------------------------------------------------------

    def init_state(self, init_params: PyTree, *args: Any, **kwargs: Any) -> ProximalState:
        """The state before the first iteration; the arguments are those of ``run``."""
        _, args, kwargs = self._split(args, kwargs)
        fields = self._first_fields(init_params, args, kwargs)
        return self._State(
            **fields,
            velocity=jax.tree.map(jnp.copy, init_params) if self.acceleration else None,
            t=jnp.ones_like(fields["error"]),
            first_value=None if self._searches else jnp.zeros_like(fields["value"]),
            scale=self._scale_at(init_params, args, kwargs),
        )

    def update(self, params: PyTree, state: ProximalState, *args: Any, **kwargs: Any) -> OptStep:
        """One proximal gradient step; the arguments are those of ``run``. Returns ``OptStep(params, state)``."""
        hyperparams, args, kwargs = self._split(args, kwargs)
        base = state.velocity if self.acceleration else params
        (value, aux), grad = self._objective.value_and_grad(base, *args, **kwargs)

        new_params, used, following, trials, found = self._take_step(
            base, state, value, grad, hyperparams, args, kwargs, state.scale
        )
        # A gradient tells optimality to full precision; a difference of points divided by the step only as well as the
        # points are represented, which is why the claim to have converged is checked by the base class.
        move = tree_sub(new_params, base)
        error = tree_l2_norm(times(grad, state.scale)) if self._smooth else tree_l2_norm(move) / used
        error = error.astype(state.error.dtype)
        # A point that is optimal is not left: near the precision of the objective no comparison of values tells whether
        # the step from it would be too long. An extrapolated point need not be feasible, and is left.
        first_error = self._first_error(state, error)
        settled = error <= self._tolerance(error.dtype, first_error)
        if self.acceleration and not self._smooth:
            settled = settled & (state.t <= 1)
        new_params = tree_where(settled, base, new_params)
        # Nor is one left from which the objective is about to overflow.
        fallen = falls_without_end(value)
        # In floating point a step may be too short to move the base point, and no later step will be longer, except
        # for one of a schedule.
        stuck = found & is_still(move) & (not callable(self.stepsize))

        velocity, t = state.velocity, state.t
        if self.acceleration:
            new_params, velocity, t = self._extrapolate(params, new_params, base, state.t, state.scale)
            # No step is taken from a base point at which the search failed or the function is not finite, unless the
            # momentum is to blame: then the iteration goes on from the iterate itself.
            usable = found & jnp.isfinite(error) & tree_all_finite(new_params)
            blame = ~usable & (state.t > 1)
            new_params = tree_where(blame, params, new_params)
            velocity = tree_where(usable, velocity, params)
            t = jnp.where(usable, t, jnp.ones_like(t))
            error = jnp.where(blame, state.error, error)
            stuck = stuck & ~blame & (state.t <= 1)
        new_params = tree_where(fallen, params, new_params)

        new_state = state._replace(
            iter_num=state.iter_num + 1,
            stepsize=following,
            error=error,
            aux=aux,
            velocity=velocity,
            t=t,
            value=value.astype(state.value.dtype),
            status=self._status_of(error, size=first_error, failed=stuck),
            first_error=first_error,
            num_fun_eval=state.num_fun_eval + trials,
            num_grad_eval=state.num_grad_eval + 1,
        )
        diverged = fallen
        if not self._searches:
            first_value = jnp.where(state.iter_num == 0, value, state.first_value)
            risen = value > first_value + _MUCH_LOWER * jnp.abs(first_value)
            diverged = diverged | (risen & (error > first_error / _MUCH_LOWER))  # type: ignore[operator]  # it has one
            new_state = new_state._replace(first_value=first_value)
        new_state = new_state._replace(status=Status.DIVERGED.where(diverged, new_state.status))
        return OptStep(new_params, new_state)

    def _candidate(self, base, grad, stepsize, hyperparams):
        return self._apply_prox(tree_add_scalar_mul(base, -stepsize, grad), hyperparams, stepsize)

    def _bound(self, move, slope, stepsize):
        return tree_l2_norm(move, squared=True).astype(stepsize.dtype) / (2 * stepsize)

    def _scale_at(self, params: PyTree, args: tuple, kwargs: dict) -> PyTree | None:
        """Units of the variables, if the method has any."""
        del params, args, kwargs
        return None

    def _extrapolate(self, params, new_params, base, t, scale):
        travel = tree_sub(new_params, params)
        # With y the base point, x the last and x+ the new iterate, F(x+) <= F(x) - (|x+ - x|^2 - |y - x|^2) / 2s (Beck
        # and Teboulle 2009, lemma 2.3): a step that does not get further than the momentum may lead up, and is undone.
        moves = (times(move, scale, -1) for move in (travel, tree_sub(base, params)))
        gone, thrown = (tree_l2_norm(move, squared=True) for move in moves)
        undone = gone < thrown
        next_t = jnp.where(undone, jnp.ones_like(t), 0.5 * (1 + jnp.sqrt(1 + 4 * t * t)))
        velocity = tree_add_scalar_mul(new_params, (t - 1) / next_t, travel)
        return *tree_where(undone, (params, params), (new_params, velocity)), next_t

    def _residual(self, params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The optimality function for a step with a unit: after one of size 1 params or gradient may be rounding."""
        if self._smooth:
            return self.optimality_fun(params, *args, **kwargs)
        hyperparams, args, kwargs = self._split(args, kwargs)
        grad = self._objective.grad(params, *args, **kwargs)
        constants = lax.stop_gradient((params, grad))
        stepsize = lax.stop_gradient(natural_stepsize(lambda x: self._objective.grad(x, *args, **kwargs), *constants))
        return tree_sub(self._candidate(params, grad, stepsize, hyperparams), params)

    def l2_optimality_error(self, params: PyTree, *args: Any, **kwargs: Any) -> Array:
        """Euclidean norm of ``optimality_fun`` at ``params``; a scalar."""
        return tree_l2_norm(self.optimality_fun(params, *args, **kwargs))

    def optimality_fun(self, sol: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The gradient if the problem is smooth, else the residual ``prox(x - grad(x)) - x``; a pytree like ``sol``."""
        hyperparams, args, kwargs = self._split(args, kwargs)
        fun = self._objective.value_and_grad
        if self._smooth:
            return stationary(fun, value_and_grad=True)(sol, *args, **kwargs)
        fixed_point = proximal_gradient_fixed_point(fun, self._apply_prox, value_and_grad=True)
        return tree_sub(fixed_point(sol, hyperparams, *args, **kwargs), sol)
