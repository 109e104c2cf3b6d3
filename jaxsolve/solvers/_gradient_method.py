r"""What proximal gradient methods and mirror descent share: their options, and how they find a step size.

Both go from a base point :math:`y` to a point :math:`x^+(s)` that depends on a step size :math:`s`. Backtracking
shortens the step until

.. math::  f(x^+) - f(y) - \langle \nabla f(y), x^+ - y\rangle \le B(x^+),

where the bound :math:`B` belongs to the method: the quadratic of Beck and Teboulle (2009, equation 2.6), or a Bregman
divergence.
"""

from __future__ import annotations

import abc
from typing import Any

import jax
import jax.numpy as jnp

from jaxsolve._loop import loop
from jaxsolve._types import Array, PyTree
from jaxsolve.base import blank_output, option
from jaxsolve.solvers._stepsize import StepsizeMethod, first_length, times
from jaxsolve.tree_util import tree_l2_norm, tree_real_dtype, tree_sub, tree_vdot, tree_where

__all__ = ["GradientMethod", "is_still"]


class GradientMethod(StepsizeMethod):
    """Base of the solvers whose step is a function of a point, its gradient and a step size.

    Attributes:
        maxls: largest number of trial steps in one backtracking search. After a failed search the iterate stays where
            it is, and the next search starts with the shorter step.
        decrease_factor: largest factor by which backtracking shortens the step, in (0, 1); interpolation may choose a
            smaller factor, down to a tenth. Steps that are too short are lengthened by the inverse of this factor. The
            length of the first trial step is the norm of the initial point, or value divided by gradient norm,
            whichever is shorter.
    """

    maxls: int = option(15, at_least=1)
    decrease_factor: float = option(0.5, above=0, below=1)

    _error_is_estimate = True
    _has_many_scalars = True

    @abc.abstractmethod
    def _candidate(self, base: PyTree, grad: PyTree, stepsize: Any, hyperparams: Any) -> PyTree:
        """The point that a step of the given size leads to."""

    @abc.abstractmethod
    def _bound(self, move: PyTree, slope: Array, stepsize: Array) -> Array:
        """How far ``fun`` may rise above its tangent; ``slope`` is the inner product of the gradient and the move."""

    def _first_fields(self, init_params: PyTree, args: tuple, kwargs: dict) -> dict[str, Any]:
        """The fields of a state that all have, before the first step."""
        dtype = tree_real_dtype(init_params)
        value_dtype, aux, calls = blank_output(self, init_params, args, kwargs)
        zero = jnp.zeros((), jnp.int32)
        return {
            "iter_num": zero,
            # The size of the first step is not known before the first gradient; 0 stands for that.
            "stepsize": jnp.zeros((), dtype) if self._searches else self._stepsize_at(zero, dtype),
            "error": jnp.asarray(jnp.inf, dtype),
            "aux": aux,
            "value": jnp.asarray(jnp.inf, value_dtype),
            "status": zero,
            "num_fun_eval": zero + calls,
            "num_grad_eval": zero,
            "first_error": jnp.asarray(jnp.inf, dtype),
        }

    def _error_at(self, params: PyTree, state: Any, args: tuple, kwargs: dict) -> Array:
        """With a relative tolerance, the gradient mapping for the last step size, which has a unit, and not for 1."""
        if not self._is_relative:
            return super()._error_at(params, state, args, kwargs)
        hyperparams, args, kwargs = self._split(args, kwargs)
        grad = self._objective.grad(params, *args, **kwargs)
        move = tree_sub(self._candidate(params, grad, state.stepsize, hyperparams), params)
        return tree_l2_norm(move).astype(state.stepsize.dtype) / state.stepsize

    def _take_step(self, base, state, value, grad, hyperparams, args, kwargs, scale=None):
        """A step of fixed, scheduled or searched size from a base point.

        Returns:
            The new point, the step size used, the one to begin the next search with, the number of trials, and whether
            a step was found.
        """
        if not self._searches:
            used = self._stepsize_at(state.iter_num, state.stepsize.dtype)
            return (
                self._candidate(base, times(grad, scale, 2), used, hyperparams),
                used,
                used,
                jnp.zeros((), jnp.int32),
                True,
            )
        dtype = state.stepsize.dtype
        # The value may be less precise than the widest parameters.
        eps = max(float(jnp.finfo(d).eps) for d in (dtype, value.dtype))
        value = value.astype(dtype)
        slack = 10 * eps * jnp.abs(value)
        slope_at_base = tree_l2_norm(times(grad, scale)).astype(dtype)
        unknown = state.stepsize <= 0
        # At a base point outside of the domain nothing can be learned about the step.
        usable_base = jnp.isfinite(value)
        first = first_length(times(base, scale, -1), value, slope_at_base) / jnp.where(
            slope_at_base > 0, slope_at_base, 1
        )
        start = jnp.where(unknown, first, state.stepsize)

        def attempt(carry):
            _, stepsize, _, _, trials, _ = carry
            point = self._candidate(base, times(grad, scale, 2), stepsize, hyperparams)
            move = tree_sub(point, base)
            slope = tree_vdot(grad, move).astype(dtype)
            # NaN is never at most anything.
            rise = self._objective.value(point, *args, **kwargs)[0].astype(dtype) - value - slope
            bound = self._bound(times(move, scale, -1), slope, stepsize).astype(dtype)
            # Where the objective is minus infinity there is no point to go on from.
            found = (rise <= bound + slack) & (rise > -jnp.inf)
            # The rise grows with the square of the step, the bound with the step itself.
            usable = jnp.isfinite(rise) & (rise > bound)
            factor = jnp.where(usable, bound / jnp.where(usable, rise, 1), 0)
            factor = jnp.minimum(jnp.maximum(factor, 0.1), self.decrease_factor)
            shorter = jnp.where(found, stepsize, stepsize * factor)
            return point, shorter, rise, bound, trials + 1, found

        zero = jnp.zeros((), dtype)
        init = (base, start, zero, zero, jnp.zeros((), jnp.int32), jnp.asarray(False))
        point, stepsize, rise, bound, trials, found = loop(
            lambda carry: ~carry[-1] & usable_base,
            attempt,
            init,
            maxiter=self.maxls,
            kind=self._loop_kind,
            packed=True,
        )
        # A step that was far from the bound may be longer next time, if the difference was more than rounding.
        loose = found & (rise < 0.25 * bound) & (bound > 100 * slack)
        growth = 1 / jnp.asarray(self.decrease_factor).astype(dtype)
        # After the first search the step is of a size that the function has not seen yet: one jump to the right one.
        curved = unknown & (rise > slack)
        growth = jnp.where(curved, jnp.maximum(growth, 0.5 * bound / jnp.where(curved, rise, 1)), growth)
        following = jnp.where(loose, stepsize * growth, stepsize)
        return tree_where(found, point, base), stepsize, following, trials, found


def is_still(move: PyTree) -> Array:
    """Whether a move is exactly zero, as it is when rounding has eaten it."""
    return ~jnp.any(jnp.stack([jnp.any(m != 0) for m in jax.tree.leaves(move)]))
