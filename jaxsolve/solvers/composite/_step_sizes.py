"""The step sizes of the primal-dual method: the first ones, and how they share between the two variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._loop import loop
from jaxsolve._types import Array, PyTree
from jaxsolve.solvers._stepsize import first_length, wave
from jaxsolve.tree_util import (
    tree_add_scalar_mul,
    tree_cast_like,
    tree_l2_norm,
    tree_scalar_mul,
    tree_sub,
    tree_where,
)

__all__ = ["estimates", "norm", "primal_step", "rebalanced"]

_POWER_STEPS = 8


def estimates(
    value_and_grad: Callable, linear_map: Callable, x: PyTree, dtype: Any, kind: Any
) -> tuple[Array, Array, Array]:
    """The curvature of the smooth term along its gradient, the norm of the map, and a step size; 0 for what has none.

    Args:
        value_and_grad: value and gradient of the smooth term at a point.
        linear_map: the map.
        x: the primal variables.
        dtype: of the estimates.
        kind: of the loop, see :mod:`jaxsolve._loop`.
    """
    value, grad = value_and_grad(x)
    size = tree_l2_norm(grad).astype(dtype)
    zero, one = jnp.zeros((), dtype), jnp.ones((), dtype)
    ahead = first_length(x, value, size) / jnp.where(size > 0, size, one)
    changed = value_and_grad(tree_add_scalar_mul(x, -ahead, grad))[1]
    curvature = tree_l2_norm(tree_sub(changed, grad)).astype(dtype) / jnp.where(size > 0, ahead * size, one)

    def forward(v):
        return jax.jvp(linear_map, (x,), (v,))[1]

    def stretch(carry):
        v, _ = carry
        image = forward(v)
        back = jax.vjp(linear_map, x)[1](image)[0]
        size = tree_l2_norm(back).astype(dtype)
        return tree_scalar_mul(1 / jnp.where(size > 0, size, one), back), tree_l2_norm(image).astype(dtype)

    start = jax.tree.map(wave, x)
    start = tree_cast_like(tree_scalar_mul(1 / tree_l2_norm(start).astype(dtype), start), x)
    length = loop(lambda _: jnp.asarray(True), stretch, (start, zero), maxiter=_POWER_STEPS, kind=kind)[1]
    curvature, length, step = (jnp.where(jnp.isfinite(v), v, zero) for v in (curvature, length, ahead))
    return curvature, length, jnp.where(size > 0, step, zero)


def rebalanced(iter_num: Array, params: PyTree, state: Any) -> tuple[Array, PyTree]:
    """The weight for the next iteration, and the point from which distances are measured then.

    Args:
        iter_num: number of iterations done.
        params: the pair of variables.
        state: the state before the iteration.
    """
    # Powers of two from 8 on: as the changes get rare, the method converges as with a constant weight.
    due = (iter_num >= 8) & ((iter_num & (iter_num - 1)) == 0)
    gone = lax.stop_gradient(tree_sub(params, state.anchor))
    primal, dual = (tree_l2_norm(part).astype(state.weight.dtype) for part in gone)
    known = (primal > 0) & (dual > 0)
    ratio = jnp.where(known, dual, state.weight) / jnp.where(known, primal, jnp.ones_like(primal))
    due = due & jnp.isfinite(ratio)
    # The root of a number without a unit: that of 2 would be rounded.
    weight = jnp.where(due, state.weight * jnp.sqrt(ratio / state.weight), state.weight)
    return weight, tree_where(due, params, state.anchor)


def primal_step(sigma: Array, weight: Array) -> Array:
    """The step size of the primal variables that goes with one of the dual variables."""
    # Two products: XLA would divide by the square of the weight, which need not be representable.
    over = 1 / weight
    return sigma * over * over


def norm(pair: Array) -> Array:
    """Euclidean norm of two numbers, whatever their size."""
    size = jnp.max(pair)
    scaled = pair / jnp.where(size > 0, size, jnp.ones_like(size))
    return size * jnp.sqrt(jnp.sum(scaled * scaled))
