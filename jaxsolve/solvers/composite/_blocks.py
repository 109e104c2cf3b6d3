r"""Steps on blocks: proximity operators of blocks, and sweeps that visit them one by one.

A visit to block :math:`j` is a proximal gradient step with the block's own step size :math:`1 / L_j`,

.. math::  x_j \leftarrow \operatorname{prox}_{g_j / L_j}\bigl(x_j - [\nabla f(x)]_j / L_j\bigr).

It decreases :math:`f + g` if the quadratic with curvature :math:`L_j` bounds :math:`f` from above along the step (Tseng
and Yun 2009, section 3). Lipschitz constants of the gradient do; without them :math:`L_j` is the curvature of :math:`f`
along the gradient, at least doubled for the next visit if the bound turns out not to hold; then the block stays.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._compat import max_abs
from jaxsolve._inputs import power_of_two
from jaxsolve._types import Array
from jaxsolve.implicit_diff.optimality import call_with_hyperparams
from jaxsolve.solvers.composite._linear_model import LinearModel, spread

__all__ = ["BlockProx", "Point", "block_norms", "positive", "sweep"]

# Columns are taken out of the operator this many at a time.
_CHUNK = 128


class Point(NamedTuple):
    """An iterate with its predictions, value and gradient.

    Attributes:
        params: of shape ``(d, *block)``.
        predictions: ``A x``, of shape ``(n, *block)``.
        value: ``h`` at the predictions.
        subfun_grad: the gradient of ``h`` there.
    """

    params: Array
    predictions: Array
    value: Array
    subfun_grad: Array


class BlockProx:
    """The proximity operator of the blocks, at given hyperparameters."""

    def __init__(self, prox: Any, hyperparams: Any, step: Any = 1.0):
        self._prox, self._hyperparams, self._step = prox, hyperparams, step

    def measuring(self, blocks: Array, grad: Array) -> BlockProx:
        """The same, with a step for residuals beside which a gradient does not vanish in rounding.

        That is 1 unless the gradient is so small beside the variables that ``x - grad`` keeps less than half of its
        digits; then a power of two that makes them alike, for a residual of 0 would claim an optimum.
        """
        size, slope = (jnp.max(jnp.abs(lax.stop_gradient(v))) for v in (blocks, grad))
        vanishing = (slope > 0) & (slope < float(jnp.finfo(slope.dtype).eps) ** 0.5 * size)
        step = jnp.where(vanishing, power_of_two(size) / power_of_two(slope), jnp.ones_like(slope))
        return BlockProx(self._prox, self._hyperparams, step)

    def one(self, block: Array, step: Array) -> Array:
        """Of one block, scaled by ``step``."""
        result = call_with_hyperparams("block_prox", self._prox, block, self._hyperparams, step)
        if jnp.shape(result) != jnp.shape(block):
            raise ValueError(
                f"block_prox must return a block of shape {jnp.shape(block)}, but it returned {jnp.shape(result)}."
            )
        return jnp.asarray(result).astype(block.dtype)

    def all(self, blocks: Array, steps: Array) -> Array:
        """Of an array of blocks, each scaled by its own step, or all by one."""
        return jax.vmap(self.one)(blocks, jnp.broadcast_to(steps, blocks.shape[:1]))

    def residual(self, blocks: Array, grad: Array, steps: Any = None) -> Array:
        """``(prox(x - step * grad) - x) / step`` block by block, with steps of their own or one for all."""
        steps = jnp.asarray(self._step if steps is None else steps, blocks.dtype)
        over = over_blocks(steps, blocks)
        return (self.all(blocks - over * grad, steps) - blocks) / over

    def jacobians(self, blocks: Array, steps: Array) -> Array:
        """Jacobians of the blocks, of shape ``(k, m, m)``."""
        k = blocks.shape[0]
        m = blocks.size // k
        return jax.vmap(jax.jacfwd(self.one))(blocks, steps).reshape(k, m, m)

    def is_free_after(self, blocks: Array, grad: Array) -> Array:
        """:meth:`is_free` after the step of the residual."""
        steps = jnp.full(blocks.shape[:1], self._step, blocks.dtype)
        return self.is_free(blocks - over_blocks(steps, blocks) * grad, steps)

    def is_free(self, blocks: Array, steps: Array) -> Array:
        """Which blocks the proximity operator lets move, rather than fix at a kink, bound or vertex; booleans (k,)."""
        m = blocks.size // blocks.shape[0]
        # An irregular direction: a constant one is in the null space on a simplex.
        direction = jnp.cos(jnp.arange(1, m + 1, dtype=blocks.dtype)).reshape(blocks.shape[1:])
        direction = jnp.broadcast_to(direction, blocks.shape)
        _, moved = jax.jvp(lambda x: self.all(x, steps), (blocks,), (direction,))
        return jnp.any(moved.reshape(-1, m) != 0, axis=1)


def over_blocks(scalars: Array, blocks: Array) -> Array:
    """Scalars, one a block, in a shape that multiplies an array of blocks."""
    return scalars.reshape(-1, *[1] * (blocks.ndim - 1))


def positive(curvature: Array, largest: Array | None = None) -> Array:
    """Curvatures to divide by: a block on which f does not depend has none; its step is long, but finite.

    Args:
        curvature: of some blocks.
        largest: that of all blocks, beside which a step is long; by default the largest of these.
    """
    limits = jnp.finfo(curvature.dtype)
    largest = jnp.max(curvature, initial=0) if largest is None else largest
    # Where no block has any curvature, nothing tells a unit.
    none = jnp.where(largest > 0, float(limits.eps) ** 2 * largest, float(limits.tiny) ** 0.5)
    return jnp.maximum(jnp.where(curvature <= 0, none, curvature), float(limits.tiny)).astype(curvature.dtype)


def block_norms(blocks: Array) -> Array:
    """Largest modulus in each block, of shape ``(d,)``."""
    return max_abs(blocks.reshape(blocks.shape[0], -1), axis=1)


def sweep(
    model: LinearModel, prox: BlockProx, point: Point, curvature: Array, order: Array, *, known: bool
) -> tuple[Point, Array]:
    """Visit the blocks in the given order.

    Args:
        model: the smooth part.
        prox: of the blocks.
        point: where the sweep starts.
        curvature: ``L_j`` of each block, of shape ``(d,)``.
        order: indices of blocks.
        known: whether ``L_j`` are Lipschitz constants, or else to be found.

    Returns:
        The point after the sweep, and the curvatures.
    """
    chunk = min(_CHUNK, order.shape[0])
    # The last chunk is filled up by visiting the first blocks once more.
    order = jnp.concatenate([order, order[: -order.shape[0] % chunk]]).reshape(-1, chunk)

    def visit_chunk(carry, index):
        columns = model.operator.columns(index)
        return lax.scan(visit, carry, (index, columns, model.linear_of(index)))[0], None

    def visit(carry, block):
        point, curvature = carry
        index, column, linear = block
        x = point.params[index]
        grad = linear + jnp.tensordot(column, point.subfun_grad, (0, 0))
        bound = curvature[index]
        if not known:
            # Half of what held last time; twice of what did not, which is remembered as four times.
            bound = jnp.maximum(_curvature_along(model, column, grad, point.predictions), 0.5 * bound)
            # A slope without curvature is not followed for ever: it counts as little beside the largest curvature.
            largest = jnp.max(curvature)
            flat = jnp.finfo(bound.dtype).eps * largest
            bound = positive(jnp.where((bound == 0) & jnp.any(grad != 0), flat, bound), largest)
        bound = lax.stop_gradient(bound)
        moved = prox.one(x - grad / bound, 1 / bound)
        predictions = point.predictions + spread(column, moved - x)
        value, subfun_grad = model.value_and_grad(predictions)
        new = Point(point.params.at[index].set(moved), predictions, value, subfun_grad)
        if known:
            return (new, curvature), None
        step = moved - x
        rise = (value - point.value).astype(x.dtype) - jnp.vdot(grad - linear, step)
        slack = 10 * float(jnp.finfo(value.dtype).eps) * jnp.abs(point.value).astype(x.dtype)
        found = rise <= 0.5 * bound * jnp.vdot(step, step) + slack
        kept = jax.tree.map(lambda a, b: jnp.where(found, a, b), new, point)
        # The curvature that f turned out to have on average, if it is finite.
        seen = jnp.where(jnp.isfinite(rise), 2 * rise / jnp.vdot(step, step), 2**10 * bound)
        seen = jnp.where(jnp.isfinite(seen), jnp.maximum(seen, 2 * bound), 2 * bound)
        return (kept, curvature.at[index].set(lax.stop_gradient(jnp.where(found, bound, 2 * seen)))), None

    return lax.scan(visit_chunk, (point, curvature), order)[0]


def _curvature_along(model, column, grad, predictions):
    """Modulus of the curvature of f along the gradient in one block."""
    column, grad, predictions = lax.stop_gradient((column, grad, predictions))
    size = jnp.sqrt(jnp.vdot(grad, grad))
    direction = jnp.where(size > 0, grad / jnp.where(size > 0, size, 1), jnp.ones_like(grad) / max(1, grad.size) ** 0.5)
    return jnp.abs(model.curvature(predictions, column, direction))
