"""What BFGS and L-BFGS share: which pairs are kept, how the first step is scaled, where a search begins."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxsolve._types import Array, PyTree
from jaxsolve.solvers._descent_method import DescentMethod
from jaxsolve.solvers._stepsize import first_length
from jaxsolve.tree_util import tree_l2_norm, tree_real_dtype

__all__ = ["QuasiNewtonMethod", "difference", "first_scaling"]


class QuasiNewtonMethod(DescentMethod):
    """Base of the methods whose direction has the length of a Newton step once it has learned from a step."""

    def _first_trial(self, state: Any) -> Array:
        trial = super()._first_trial(state)
        longest = self._longest_trial(trial.dtype)
        if self.linesearch_init == "increase":
            # A quasi-Newton direction has a length of its own: nothing is won by starting below it.
            trial = jnp.maximum(trial, 1)
        # Without pairs a long step is one that may be repeated.
        alone = jnp.maximum(state.stepsize, longest)
        return jnp.where(self._has_memory(state), jnp.minimum(trial, longest), alone)

    def _carried_stepsize(self, state: Any, stepsize: Array, curved: Array) -> Array:
        """The step size after a step from ``state``, which may have brought the first pair."""
        if not self._searches:
            return stepsize
        # Without pairs the direction has another length, and the step size does not carry over.
        return jnp.where(self._has_memory(state) | ~curved, stepsize, self._longest_trial(stepsize.dtype))


def first_scaling(params: PyTree, value: Array, grad: PyTree) -> Array:
    """The factor of the gradient in a first step that is as long as the initial point, or as value over gradient."""
    slope = tree_l2_norm(grad).astype(tree_real_dtype(params))
    return first_length(params, value, slope) / jnp.where(slope > 0, slope, 1)


def difference(new: PyTree, old: PyTree) -> PyTree:
    """``new - old``; of low-precision leaves in float32, for differences cancel."""
    return jax.tree.map(lambda a, b: a.astype(tree_real_dtype(a)) - b.astype(tree_real_dtype(b)), new, old)
