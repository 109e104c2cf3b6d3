r"""Nonlinear conjugate gradients.

Problem: minimize a smooth function :math:`f(x, \theta)`. Method: descent along
:math:`d_{k+1} = -\gamma \nabla f(x_{k+1}) + \beta_k d_k`, with a restart along the negative gradient where the
directions are no longer conjugate. The constant :math:`\gamma` gives the directions the unit of the parameters.
Optimality: :math:`\nabla_1 f(x, \theta) = 0`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsolve._docstrings import with_fields_of
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.base import option
from jaxsolve.solvers._descent_method import DescentMethod, DescentState
from jaxsolve.solvers._stepsize import rounding
from jaxsolve.solvers.unconstrained._quasi_newton import difference, first_scaling
from jaxsolve.tree_util import (
    tree_add_scalar_mul,
    tree_l2_norm,
    tree_real_dtype,
    tree_scalar_mul,
    tree_vdot_real,
    tree_where,
)

__all__ = ["NonlinearCG", "NonlinearCGState"]


@with_fields_of(DescentState)
class NonlinearCGState(NamedTuple):
    """State of nonlinear conjugate gradients: the fields of :class:`~jaxsolve.solvers.DescentState`, and more.

    Attributes:
        descent_direction: the direction of the next step, a pytree like the parameters.
        gamma: the factor of the negative gradient in it.
        decrease: by how much the last step has lowered the value; 0 before the first one.
        num_conjugate: number of steps since the last one along the negative gradient, int32.
    """

    iter_num: Array
    value: Array
    grad: Any
    stepsize: Array
    error: Array
    descent_direction: Any
    gamma: Array
    decrease: Array
    num_conjugate: Array
    aux: Any = None
    failed_linesearch: Any = False
    num_fun_eval: Any = 0
    num_grad_eval: Any = 0
    num_linesearch_iter: Any = 0
    status: Any = 0
    first_error: Any = None
    num_stalled: Any = 0


class NonlinearCG(DescentMethod):
    """Nonlinear conjugate gradients with a line search, or a fixed step size.

    ``run(init_params, *args, **kwargs)`` minimizes ``fun(params, *args, **kwargs)``. The method keeps only one
    direction besides the gradient. Use it if memory is short: :class:`jaxsolve.LBFGS` needs fewer evaluations, and
    twenty times as much memory.

    The line searches accept a step only if the slope has fallen to a tenth of its initial size, which conjugate
    directions need. ``max_stepsize`` bounds a first trial step only with ``linesearch_init="max"``. The first trial
    step of a run has size 1; its length is the norm of the initial point, or value divided by gradient norm, whichever
    is shorter.

    If ``run`` or ``init_state`` gets the result ``OptStep(params, state)`` of an earlier run as initial point, the new
    run continues with its direction, its step size and its number of iterations.

    Attributes:
        method: the formula of the factor of the last direction: ``"polak-ribiere"``, with 0 in place of negative
            values; ``"fletcher-reeves"``; ``"hestenes-stiefel"``, with 0 in place of negative values; ``"dai-yuan"``;
            or ``"hager-zhang"``, bounded below.
        linesearch_init: first trial step of a search. ``"increase"`` takes the step that would lower the value as much
            as the last step did, if the function were a parabola along the direction, but at most ten times
            ``increase_factor`` times the last step; ``"current"`` repeats the last step; ``"max"`` takes
            ``max_stepsize``.

    Reference:
        Nocedal and Wright (2006), "Numerical optimization", second edition, section 5.2; Dai and Yuan (1999), "A
        nonlinear conjugate gradient method with a strong global convergence property"; Hager and Zhang (2006),
        "Algorithm 851: CG_DESCENT", and for the bound Hager and Zhang (2013), "The limited memory conjugate gradient
        method".

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> def rosenbrock(x, a):
        ...     return jnp.sum((a - x[:-1]) ** 2 + 100.0 * (x[1:] - x[:-1] ** 2) ** 2)
        >>> solver = jaxsolve.NonlinearCG(rosenbrock, tol=1e-4)
        >>> solver.run(jnp.zeros(2), 1.0).params.round(2).tolist()
        [1.0, 1.0]
        >>> jax.jacobian(lambda a: solver.run(jnp.zeros(2), a).params)(1.0).round(2).tolist()
        [1.0, 2.0]
    """

    method: str = option(
        "polak-ribiere",
        among=("polak-ribiere", "fletcher-reeves", "hestenes-stiefel", "dai-yuan", "hager-zhang"),
    )
    maxiter: int = option(100, at_least=0)
    increase_factor: float = option(1.2, at_least=1)

    _State = NonlinearCGState
    _treats_leaves_alike = True
    _resumed_fields = (
        "iter_num", "stepsize", "descent_direction", "gamma", "decrease", "num_conjugate", "first_error",
    )  # fmt: skip

    @property
    def _search_options(self) -> dict[str, Any]:  # type: ignore[override]  # constants of the other methods
        # Near the minimum of the line; the conditions of Hager and Zhang, meant for these methods, leave them room.
        return {} if self.linesearch == "hager-zhang" else {"c2": 0.1}

    def _has_memory(self, state: NonlinearCGState) -> Array:
        return state.num_conjugate > 0

    def _first_trial(self, state: NonlinearCGState) -> Array:
        stepsize = state.stepsize
        if self.linesearch_init == "max":
            return self._longest_trial(stepsize.dtype)
        if self.linesearch_init == "current":
            return stepsize
        slope = -tree_vdot_real(state.grad, state.descent_direction).astype(stepsize.dtype)
        known = (slope > 0) & (state.decrease > 0)
        # Nocedal and Wright (2006), equation 3.60.
        trial = 2 * state.decrease / jnp.where(known, slope, 1)
        longest = 10 * jnp.asarray(self.increase_factor).astype(stepsize.dtype) * stepsize
        return jnp.where(known, jnp.minimum(trial, longest), stepsize)

    def _trial_after_failure(self, state: NonlinearCGState) -> Array:
        return state.stepsize

    # ---- The memory -----------------------------------------------------------------------------------------------

    def _empty_memory(
        self, init_params: PyTree, value: Array, grad: PyTree, args: tuple, kwargs: dict
    ) -> dict[str, Any]:
        del args, kwargs
        one = jnp.ones((), tree_real_dtype(init_params))
        gamma = first_scaling(init_params, value, grad) if self._searches else one
        return {
            "descent_direction": tree_scalar_mul(-gamma, grad),
            "gamma": gamma,
            "decrease": jnp.zeros_like(one),
            "num_conjugate": jnp.zeros((), jnp.int32),
        }

    def _direction(self, params: PyTree, state: NonlinearCGState) -> PyTree:
        del params
        return state.descent_direction

    def _remember(self, old: OptStep, new: OptStep, moved: Array) -> NonlinearCGState:
        """The next direction: conjugate to the last one, or the negative gradient."""
        state, new_state = old.state, new.state
        dtype = state.gamma.dtype
        steepest = tree_scalar_mul(-state.gamma, new_state.grad)
        beta, restart = self._beta(state, new_state.grad, dtype)
        conjugate = tree_add_scalar_mul(steepest, beta, state.descent_direction)
        # A restart too where the direction does not lead down, by its cosine, or where beta is not finite.
        slope = tree_vdot_real(new_state.grad, conjugate).astype(dtype)
        length = tree_l2_norm(new_state.grad).astype(dtype) * tree_l2_norm(conjugate).astype(dtype)
        size = sum(leaf.size for leaf in jax.tree.leaves(new_state.grad))
        decrease = (state.value - new_state.value).astype(dtype)
        kept = moved & ~restart & (slope <= -1e-10 * length) & (state.num_conjugate + 1 < max(size, 50))
        return new_state._replace(
            descent_direction=tree_where(kept, conjugate, steepest),
            decrease=jnp.where(moved & (decrease > rounding(state.value, dtype)), decrease, 0),
            num_conjugate=jnp.where(kept, state.num_conjugate + 1, 0),
        )

    def _turned_back(self, state: NonlinearCGState, kept: Array) -> NonlinearCGState:
        # A direction conjugate to the last one holds for the point where it was made alone; and the step was too long.
        steepest = tree_scalar_mul(-state.gamma, state.grad)
        return state._replace(
            descent_direction=tree_where(kept, steepest, state.descent_direction),
            num_conjugate=jnp.where(kept, 0, state.num_conjugate),
            stepsize=jnp.where(kept, state.stepsize / 2, state.stepsize),
        )

    def _beta(self, state: NonlinearCGState, grad: PyTree, dtype: Any) -> tuple[Array, Array]:
        """The factor of the last direction, and whether the gradients are too far from orthogonal to go on with it."""

        def dot(a, b):
            return tree_vdot_real(a, b).astype(dtype)

        def ratio(a, b):
            return jnp.where(b != 0, a / jnp.where(b != 0, b, 1), jnp.zeros_like(a))

        direction, change = state.descent_direction, difference(grad, state.grad)
        squared, before = dot(grad, grad), dot(state.grad, state.grad)
        # Powell (1977), "Restart procedures for the conjugate gradient method".
        restart = jnp.abs(dot(grad, state.grad)) >= 0.2 * squared
        never = jnp.asarray(False)
        if self.method == "polak-ribiere":
            return jnp.maximum(ratio(dot(grad, change), before), 0), restart
        if self.method == "fletcher-reeves":
            return ratio(squared, before), restart
        # The directions are those of the method for the function measured in units of gamma.
        curvature = dot(direction, change)
        if self.method == "hestenes-stiefel":
            return jnp.maximum(state.gamma * ratio(dot(grad, change), curvature), 0), restart
        if self.method == "dai-yuan":
            return state.gamma * ratio(squared, curvature), never
        correction = 2 * dot(change, change) * ratio(dot(direction, grad), curvature)
        beta = state.gamma * ratio(dot(grad, change) - correction, curvature)
        least = 0.4 * state.gamma * ratio(dot(direction, state.grad), dot(direction, direction))
        return jnp.maximum(beta, least), never
