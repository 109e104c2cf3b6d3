r"""The primal-dual method of Chambolle and Pock, with a smooth term as of Condat and Vu, and with a line search.

Problem: minimize :math:`f(x, \theta) + g(x, \eta_g) + h(K x, \eta_h)`, with :math:`f` smooth, :math:`g` and :math:`h`
given by their proximity operators and :math:`K` linear. With the convex conjugate :math:`h^*` it is the saddle point
problem :math:`\min_x \max_y f(x) + g(x) + \langle K x, y \rangle - h^*(y)`. Iteration, with step sizes :math:`\sigma`
and :math:`\tau = \sigma / \omega^2`:

.. math::

    y^+ &= \operatorname{prox}_{\sigma h^*}(y + \sigma K x), \\
    x^+ &= \operatorname{prox}_{\tau^+ g}(x - \tau^+ (\nabla f(x) + K^\top \bar y)), \qquad
    \bar y = y^+ + \tfrac{\sigma^+}{\sigma} (y^+ - y) .

The next step size :math:`\sigma^+ \le \sqrt{1 + \sigma / \sigma^-} \, \sigma` is shortened until

.. math::

    \tau^+ \sigma^+ \|K (x^+ - x)\|^2 + 2 \tau^+ \bigl( f(x^+) - f(x) - \langle \nabla f(x), x^+ - x \rangle \bigr)
    \le \delta \|x^+ - x\|^2

(Malitsky and Pock 2018, algorithm 4 with the roles of the variables exchanged), so neither the norm of :math:`K` nor
the curvature of :math:`f` need be known. The weight :math:`\omega`, in the unit of :math:`y` over that of :math:`x`,
moves half of the way, in logarithms, to the ratio of the distances that the two variables have gone (Applegate et al.
2021, section 3.3), in iterations 8, 16, 32 and so on.

Optimality: the fixed point :math:`x = \operatorname{prox}_g(x - \nabla f(x) - K^\top y)`,
:math:`y = \operatorname{prox}_{h^*}(y + K x)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._compat import power_of_two
from jaxsolve._loop import loop
from jaxsolve._operators import from_entries
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.base import IterativeSolver, as_like, blank_output, option
from jaxsolve.implicit_diff.optimality import call_with_hyperparams
from jaxsolve.solvers._gradient_method import is_still
from jaxsolve.solvers._proximal import prox_none
from jaxsolve.solvers._stepsize import wave
from jaxsolve.solvers.composite._step_sizes import estimates, norm, primal_step, rebalanced
from jaxsolve.tree_util import (
    tree_add,
    tree_add_scalar_mul,
    tree_l2_norm,
    tree_real_dtype,
    tree_scalar_mul,
    tree_sub,
    tree_vdot,
    tree_zeros_like,
)

__all__ = ["PrimalDual", "PrimalDualSolution", "PrimalDualState"]

# How much of the bound on the step sizes is used.
_DELTA = 0.99
# A rejected step is shortened at least and at most by these factors.
_SHORTER, _SHORTEST = 0.7, 0.1


class PrimalDualSolution(NamedTuple):
    """The parameters of :class:`PrimalDual`.

    Attributes:
        primal: :math:`x`, a pytree.
        dual: :math:`y`, a pytree like ``linear_map(primal)``: a subgradient of ``h`` there.
    """

    primal: Any
    dual: Any


class PrimalDualState(NamedTuple):
    r"""State of the primal-dual method.

    Attributes:
        iter_num: number of iterations done, int32.
        error: the Euclidean norm of the last steps of both variables, each divided by its step size; at the end of
            ``run``, the same at the solution, for steps of size 1 (the Euclidean norm of ``optimality_fun``). With
            ``rtol`` the step sizes are those of the state, and the part of the dual variables is multiplied by
            ``weight``, so that both parts have the unit of the gradient.
        stepsize: :math:`\tau`, the last step size of the primal variables.
        dual_stepsize: :math:`\sigma`, the next step size of the dual variables.
        aux: auxiliary output of ``fun``.
        value: ``fun`` at the point that the last step was taken from; at the end of ``run``, at the solution.
        status: a :class:`jaxsolve.Status`, int32.
        num_fun_eval: evaluations of ``fun`` without its gradient, int32.
        num_grad_eval: evaluations of ``fun`` with its gradient, int32.
        ratio: the last step size over the one before it.
        growth: factor with which the next search for a step size begins.
        weight: :math:`\omega`.
        anchor: the parameters when the weight was last changed.
        first_error: the error of the first iteration, used with ``rtol``; ``None`` if ``rtol`` is 0.
    """

    iter_num: Array
    error: Array
    stepsize: Array
    dual_stepsize: Array
    aux: Any = None
    value: Any = None
    status: Any = 0
    num_fun_eval: Any = 0
    num_grad_eval: Any = 0
    ratio: Any = 1.0
    growth: Any = 1.0
    weight: Any = 1.0
    anchor: Any = None
    first_error: Any = None


class PrimalDual(IterativeSolver):
    r"""Minimizes a smooth function plus two functions with proximity operators, one of them after a linear map.

    ``run(init_params, hyperparams_g, hyperparams_h, *args, **kwargs)`` minimizes

    .. math::  f(x) + g(x) + h(K x),

    all of them convex. The parameters are a :class:`PrimalDualSolution`, the pair of the primal variables :math:`x` and
    the dual variables :math:`y`. A run may start from such a pair, or from primal variables alone; then the dual
    variables start at 0. Both are differentiable.

    The step sizes are adapted automatically. The first ones are computed from the curvature of ``fun`` at the initial
    point and the norm of :math:`K`. Without curvature, the length of the first step is the norm of the initial point,
    or value divided by gradient norm, whichever is shorter. Without a gradient (``fun=None``) the first step size is 1,
    divided by the norm of :math:`K`.

    Attributes:
        fun: :math:`f`, a smooth function ``fun(params, *args, **kwargs)`` with a real scalar value; ``None`` for 0.
        prox_g: ``prox_g(x, hyperparams_g, scaling)``, the proximity operator of :math:`g`, see :mod:`jaxsolve.prox`;
            :func:`jaxsolve.prox.prox_none` for 0.
        prox_h: ``prox_h(z, hyperparams_h, scaling)``, the proximity operator of :math:`h`, not of its conjugate.
        linear_map: :math:`K`, a matrix (dense, BCOO or BCSR) of shape ``(m, n)``, for parameters of shape ``(n,)`` or
            ``(n, k)``; or a linear function of the parameters, which may return any pytree.
        value_and_grad: whether ``fun`` returns ``(value, grad)``.
        has_aux: whether ``fun`` returns ``(value, aux)`` in place of ``value``.
        maxls: largest number of trial steps in one search for a step size.
        rtol: relative tolerance: the run has converged when ``state.error`` is at most
            ``tol + rtol * state.first_error``. May be traced.

    Reference:
        Chambolle and Pock (2011), "A first-order primal-dual algorithm for convex problems with applications to
        imaging"; Condat (2013), "A primal-dual splitting method for convex optimization involving Lipschitzian,
        proximable and linear composite terms"; Vu (2013), "A splitting algorithm for dual monotone inclusions involving
        cocoercive operators"; Malitsky and Pock (2018), "A first-order primal-dual algorithm with linesearch";
        Applegate et al. (2021), "Practical large-scale linear programming using primal-dual hybrid gradient".

    Example:
        >>> import jax.numpy as jnp, jaxsolve
        >>> from jaxsolve.prox import prox_lasso, prox_none
        >>> signal = jnp.array([0.0, 1.0, 8.0, 9.0])
        >>> fun = lambda x, b: 0.5 * jnp.sum((x - b) ** 2)
        >>> solver = jaxsolve.PrimalDual(fun, prox_none, prox_lasso, jnp.diff, tol=1e-5)
        >>> params, state = solver.run(jnp.zeros(4), None, 1.0, signal)
        >>> params.primal.round(3).tolist()
        [1.0, 1.0, 8.0, 8.0]
    """

    fun: Callable | None
    prox_g: Callable
    prox_h: Callable
    linear_map: Any
    value_and_grad: bool = option(False)
    has_aux: bool = option(False)
    maxiter: int = option(2000, at_least=0)
    maxls: int = option(30, at_least=1)
    rtol: float = option(0.0, at_least=0)

    _error_is_estimate = True
    _is_fixed_point = True
    _State = PrimalDualState
    _resumed_fields = ("iter_num", "stepsize", "dual_stepsize", "ratio", "growth", "weight", "anchor", "first_error")

    def _validate(self) -> None:
        """Raise for an impossible option."""
        if self.fun is None:
            self.fun = _nothing
        super()._validate()
        if not callable(self.fun):
            raise TypeError(f"fun must be a function of the parameters, or None, got {type(self.fun).__name__}.")
        if not callable(self.linear_map) and getattr(self.linear_map, "ndim", None) != 2:
            raise TypeError(
                "linear_map must be a matrix or a linear function of the parameters, got "
                f"{getattr(self.linear_map, 'shape', type(self.linear_map).__name__)}."
            )

    def _check_arguments(
        self, init_params: PyTree, hyperparams_g: Any = None, hyperparams_h: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        """Raise for parameters that cannot move, and for hyperparameters that nothing would read."""
        params = init_params.params if isinstance(init_params, OptStep) else init_params
        for leaf in jax.tree.leaves(params):
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                raise TypeError(f"init_params of PrimalDual must be real floating point, got {jnp.result_type(leaf)}.")
        for name, prox, given in (("g", self.prox_g, hyperparams_g), ("h", self.prox_h, hyperparams_h)):
            if prox is prox_none and given is not None:
                raise ValueError(f"prox_{name} is prox_none, but hyperparams_{name} is {given!r}: pass None.")

    # ---- The iteration --------------------------------------------------------------------------------------------

    def init_state(self, init_params: PyTree, *args: Any, **kwargs: Any) -> PrimalDualState:
        """The state before the first iteration; the arguments are those of ``run``. Evaluates the gradient twice."""
        params = self._first_point(init_params)
        _, args, kwargs = _split(*args, **kwargs)
        dtype = tree_real_dtype(params.primal)
        value_dtype, aux, calls = blank_output(self, params.primal, args, kwargs)

        def value_and_grad(x):
            (value, _), grad = self._objective.value_and_grad(x, *args, **kwargs)
            return value, grad

        guess = estimates(value_and_grad, self._map, params.primal, dtype, self._loop_kind)
        curvature, stretch, step = lax.stop_gradient(guess)
        curved, some = curvature > 0, stretch > 0
        one = jnp.ones((), dtype)
        flat = jnp.where(step > 0, step, 0.9 / jnp.where(some, stretch, one))
        stepsize = jnp.where(curved, 0.5 / jnp.where(curved, curvature, one), flat)
        dual = jnp.where(some, 0.45 / jnp.where(some, stepsize * stretch * stretch, one), 1 / stepsize)
        zero = jnp.zeros((), jnp.int32)
        return PrimalDualState(
            iter_num=zero,
            error=jnp.asarray(jnp.inf, dtype),
            stepsize=stepsize,
            dual_stepsize=dual,
            aux=aux,
            value=jnp.asarray(jnp.inf, value_dtype),
            status=zero,
            num_fun_eval=zero + calls,
            num_grad_eval=zero + 2,
            ratio=one,
            growth=one,
            weight=jnp.where(some, 0.45**0.5 / jnp.where(some, stepsize * stretch, one), 1 / stepsize),
            anchor=jax.tree.map(jnp.copy, params),
            first_error=self._unknown_first_error(dtype),
        )

    def update(self, params: PyTree, state: PrimalDualState, *args: Any, **kwargs: Any) -> OptStep:
        """One step of either variable; the arguments are those of ``run``. Returns ``OptStep(params, state)``."""
        (hyperparams_g, hyperparams_h), args, kwargs = _split(*args, **kwargs)
        x, y = params
        dtype = state.error.dtype
        (value, aux), grad = self._objective.value_and_grad(x, *args, **kwargs)
        image, adjoint = jax.vjp(self._map, x)
        new_y = self._dual_prox(tree_add_scalar_mul(y, state.dual_stepsize, image), hyperparams_h, state.dual_stepsize)
        move_y = tree_sub(new_y, y)
        slope, slope_of_move = tree_add(grad, adjoint(new_y)[0]), adjoint(move_y)[0]
        eps = max(float(jnp.finfo(d).eps) for d in (dtype, value.dtype))
        old_value, noise = value.astype(dtype), 10 * eps * jnp.abs(value.astype(dtype))

        def attempt(carry):
            _, factor, _, trials, _ = carry
            tau = primal_step(state.dual_stepsize * factor, state.weight)
            direction = tree_add_scalar_mul(slope, factor, slope_of_move)
            point = self._apply_g(tree_add_scalar_mul(x, -tau, direction), hyperparams_g, tau)
            move = tree_sub(point, x)
            stretch = tree_l2_norm(tree_sub(self._map(point), image), squared=True).astype(dtype)
            new_value = self._objective.value(point, *args, **kwargs)[0].astype(dtype)
            rise = new_value - old_value - tree_vdot(grad, move).astype(dtype)
            length = _DELTA * tree_l2_norm(move, squared=True).astype(dtype)
            # The part of the bound that is used; below the noise of the values no step is too long.
            used = tau * (state.dual_stepsize * factor * stretch + 2 * (rise - noise))
            found = used <= length
            exact = 2 * tau * noise <= 0.1 * length
            part = used / jnp.where(length > 0, length, jnp.ones_like(length))
            # No part of an unrolled derivative: the solution does not depend on how long the steps to it were.
            part = lax.stop_gradient(part)
            root = 0.95 / jnp.sqrt(jnp.where(part > 0, part, jnp.zeros_like(part)))
            shorter = jnp.clip(jnp.where(jnp.isnan(root), _SHORTEST, root), _SHORTEST, _SHORTER)
            growth = jnp.where(exact & (length > 0), jnp.clip(root, 1, jnp.sqrt(1 + factor)), jnp.ones_like(root))
            return point, jnp.where(found, factor, factor * shorter), growth, trials + 1, found

        first = jnp.minimum(state.growth, jnp.sqrt(1 + state.ratio))
        start = (x, first, jnp.ones((), dtype), jnp.zeros((), jnp.int32), jnp.asarray(False))
        new_x, factor, growth, trials, found = loop(
            lambda carry: ~carry[-1], attempt, start, maxiter=self.maxls, kind=self._loop_kind
        )
        sigma = state.dual_stepsize * factor
        tau = primal_step(sigma, state.weight)
        move = PrimalDualSolution(tree_sub(new_x, x), move_y)
        lengths = jnp.stack([tree_l2_norm(part).astype(dtype) for part in move])
        error = self._joined(lengths / jnp.stack([tau, state.dual_stepsize]), state.weight)
        first_error = self._first_error(state, error)
        new = PrimalDualSolution(new_x, new_y)
        iter_num = state.iter_num + 1
        weight, anchor = rebalanced(iter_num, new, state)
        return OptStep(
            new,
            state._replace(
                iter_num=iter_num,
                error=error,
                stepsize=tau,
                dual_stepsize=sigma * (weight / state.weight),
                aux=aux,
                value=value.astype(state.value.dtype),
                status=self._status_of(error, size=first_error, failed=found & is_still(move)),
                num_fun_eval=state.num_fun_eval + trials,
                num_grad_eval=state.num_grad_eval + 1,
                ratio=factor,
                growth=growth,
                weight=weight,
                anchor=anchor,
                first_error=first_error,
            ),
        )

    def _joined(self, lengths: Array, weight: Array) -> Array:
        """One number for the lengths of the two residuals, which have different units."""
        if self._is_relative:
            lengths = lengths * jnp.stack([jnp.ones_like(weight), weight])
        return norm(lengths)

    def _error_at(self, params: PyTree, state: PrimalDualState, args: tuple, kwargs: dict) -> Array:
        """With a relative tolerance, of the residuals after steps that have units, and not of size 1."""
        if not self._is_relative:
            return super()._error_at(params, state, args, kwargs)
        sigma, dtype = state.dual_stepsize, state.error.dtype
        steps = jnp.stack([primal_step(sigma, state.weight), sigma])
        residuals = self._residuals(params, *steps, *args, **kwargs)
        lengths = jnp.stack([tree_l2_norm(part).astype(dtype) for part in residuals])
        return self._joined(lengths / steps, state.weight)

    def _first_point(self, init_params: PyTree, *args: Any, **kwargs: Any) -> PrimalDualSolution:
        """The pair of variables with which the iterations start."""
        del args, kwargs
        if isinstance(init_params, PrimalDualSolution):
            like = jax.eval_shape(self._map, init_params.primal)
            return init_params._replace(dual=as_like("init_params.dual", init_params.dual, like))
        return PrimalDualSolution(init_params, tree_zeros_like(self._map(init_params)))

    # ---- The parts of the problem ---------------------------------------------------------------------------------

    def _map(self, x: PyTree) -> PyTree:
        if callable(self.linear_map):
            return self.linear_map(x)
        shape: Any = jnp.shape(x) if jax.tree.structure(x) == jax.tree.structure(0) else None
        if not shape or len(shape) > 2 or shape[0] != self.linear_map.shape[1]:
            raise ValueError(
                f"linear_map is a matrix of shape {self.linear_map.shape}, for parameters of shape "
                f"({self.linear_map.shape[1]},) or ({self.linear_map.shape[1]}, k), but they are "
                f"{jax.tree.map(jnp.shape, x)}."
            )
        return from_entries(self.linear_map, dtype=x.dtype).matvec(x)

    def _apply_g(self, x, hyperparams, scaling):
        return as_like("prox_g", call_with_hyperparams("prox_g", self.prox_g, x, hyperparams, scaling), x)

    def _dual_prox(self, y, hyperparams, scaling):
        """The proximity operator of the conjugate of ``scaling * h``, by Moreau's identity."""
        inner = call_with_hyperparams("prox_h", self.prox_h, tree_scalar_mul(1 / scaling, y), hyperparams, 1 / scaling)
        return tree_add_scalar_mul(y, -scaling, as_like("prox_h", inner, y))

    def optimality_fun(self, sol: PyTree, *args: Any, **kwargs: Any) -> PrimalDualSolution:
        """The residuals of both variables after steps of size 1, a pair like ``sol``."""
        one = jnp.ones((), tree_real_dtype(sol.primal))
        return self._residuals(sol, one, one, *args, **kwargs)

    def _residual(self, sol: PyTree, *args: Any, **kwargs: Any) -> PrimalDualSolution:
        """The residuals after steps that have units: with those of size 1 a part may be rounding."""
        _, data, named = _split(*args, **kwargs)
        x, y = lax.stop_gradient(sol)
        dtype = tree_real_dtype(x)
        probe = jax.tree.map(wave, x)
        image = jax.jvp(self._map, (x,), (probe,))[1]
        stretch = power_of_two((tree_l2_norm(image) / tree_l2_norm(probe)).astype(dtype))
        # Without curvature the dual variable over the primal one stands for it, in units of the map.
        ratio = power_of_two(tree_l2_norm(y)).astype(dtype) / power_of_two(tree_l2_norm(x)).astype(dtype)
        grad = self._objective.grad
        curved = jax.vjp(lambda x: grad(x, *data, **named), x)[1](probe)[0]
        curvature = (tree_l2_norm(curved) / tree_l2_norm(probe)).astype(dtype)
        known = (curvature > 0) & jnp.isfinite(curvature)
        curvature = jnp.where(known, power_of_two(curvature), stretch * ratio)
        steps = lax.stop_gradient((1 / curvature, curvature / stretch / stretch))
        return self._residuals(sol, *steps, *args, **kwargs)

    def l2_optimality_error(self, params: PyTree, *args: Any, **kwargs: Any) -> Array:
        """Euclidean norm of ``optimality_fun`` at ``params``; a scalar."""
        return tree_l2_norm(self.optimality_fun(params, *args, **kwargs))

    def _residuals(self, sol: PrimalDualSolution, tau: Array, sigma: Array, *args: Any, **kwargs: Any):
        """How far steps of the given sizes lead."""
        (hyperparams_g, hyperparams_h), args, kwargs = _split(*args, **kwargs)
        x, y = sol
        image, adjoint = jax.vjp(self._map, x)
        slope = tree_add(self._objective.grad(x, *args, **kwargs), adjoint(y)[0])
        return PrimalDualSolution(
            tree_sub(self._apply_g(tree_add_scalar_mul(x, -tau, slope), hyperparams_g, tau), x),
            tree_sub(self._dual_prox(tree_add_scalar_mul(y, sigma, image), hyperparams_h, sigma), y),
        )

    def _state_of_solution(self, params: PyTree, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """``value`` and ``aux`` as functions of the solution."""
        _, args, kwargs = _split(*args, **kwargs)
        value, aux = self._objective.value(params.primal, *args, **kwargs)
        return {"value": value, "aux": aux}


def _split(hyperparams_g=None, hyperparams_h=None, *args, **kwargs):
    """The hyperparameters of the two operators, and the data of ``fun``."""
    return (hyperparams_g, hyperparams_h), args, kwargs


def _nothing(params, *args, **kwargs):
    """The smooth term of a problem without one."""
    del args, kwargs
    return jnp.zeros((), tree_real_dtype(params))
