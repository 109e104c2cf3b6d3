r"""The proximity operator of total variation in one dimension.

The direct algorithm [1]_ passes over the signal once, and goes back only to where a piece ends, to find at which
entries the solution jumps, and in which direction. That is all that is taken from it. On each piece between two jumps
the solution is then its closed form, the mean of the signal shifted by the jumps at its ends, and this form is what is
differentiated.

.. [1] L. Condat, *A direct algorithm for 1D total variation denoising*, IEEE Signal Processing Letters 20, 2013.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._inputs import as_inexact, nan_unless, scale_to_unit, widen
from jaxsolve._loop import loop
from jaxsolve._types import Array, PyTree
from jaxsolve.prox._groups import weight_of
from jaxsolve.tree_util import tree_cast_like, tree_real_dtype

__all__ = ["prox_total_variation"]


def prox_total_variation(x: PyTree, reg: Any = 1.0, scaling: Any = 1.0) -> PyTree:
    r"""Denoise a signal: the proximity operator of its total variation.

    .. math::

        g(y) = \text{reg} \sum_i |y_{i+1} - y_i| .

    The solution is exact and piecewise constant. On a piece :math:`S` it is the mean of ``x``, minus
    :math:`\text{scaling} \cdot \text{reg} / |S|` for each end where the neighboring piece is lower, plus the same
    amount for each end where it is higher. So the derivative in ``x`` is the average over the piece. If the method
    joined two pieces of equal value, they are one piece for the derivative. With weight 0 this is the identity.

    Args:
        x: vector of shape ``(n,)``, or a pytree of vectors, each a separate signal. For the rows of a matrix use
            ``jax.vmap``.
        reg: non-negative weight, a scalar; None means 1.
        scaling: non-negative factor of the penalty, a scalar; solvers pass the step size.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``. It takes time proportional to n in practice, and to
        :math:`n^2` in the worst case.

    Raises:
        ValueError: a leaf of ``x`` is not a vector; ``reg`` or ``scaling`` is not a scalar, or is negative.
        TypeError: an argument is not real.

    References:
        L. Condat, *A direct algorithm for 1D total variation denoising*, IEEE Signal Processing Letters 20, 2013.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import prox_total_variation
        >>> prox_total_variation(jnp.array([0.0, 1.0, 8.0, 9.0]), 1.0).tolist()
        [1.0, 1.0, 8.0, 8.0]
    """
    x = as_inexact(x, "x")
    for leaf in jax.tree.leaves(x):
        if leaf.ndim != 1:
            raise ValueError(
                f"prox_total_variation: x must be a vector or a pytree of vectors, got shape {leaf.shape}; use "
                "jax.vmap(prox_total_variation) for the rows of a matrix."
            )
    wide = widen(x)
    weight = weight_of(reg, "reg", scaling, tree_real_dtype(wide))
    out = jax.tree.map(lambda leaf: _denoise(leaf, weight.astype(leaf.dtype)) if leaf.size > 1 else leaf, wide)
    return tree_cast_like(out, x)


# Compiled once for each shape, so that eager calls do not stage the loop anew.
@jax.jit
def _denoise(y, weight):
    jumps = _find_jumps(*lax.stop_gradient((y, weight)))
    piece = jnp.cumsum(jumps != 0, dtype=jnp.int32)
    rises = jumps.astype(y.dtype)
    pushed = y + weight * (jnp.append(rises[1:], jnp.zeros(1, y.dtype)) - rises)
    # The entries of a piece agree about its value more precisely than about its sum.
    offset = lax.stop_gradient(y[0])
    total = jax.ops.segment_sum(pushed - offset, piece, y.size, indices_are_sorted=True)
    count = jax.ops.segment_sum(jnp.ones_like(y), piece, y.size, indices_are_sorted=True)
    mean = (total / jnp.maximum(count, 1))[piece] + offset
    return nan_unless(jnp.all(jnp.isfinite(y)) & ~jnp.isnan(weight), jnp.where(weight == 0, y, mean))


class _Scan(NamedTuple):
    """Where the algorithm is. Positions are int32, the rest has the dtype of the signal.

    The upper bound of a value is the negative of the lower bound of its negative. So the steps of the paper for the two
    bounds are one step for two lower bounds: entry 0 is that of the signal, entry 1 that of its negative.

    Attributes:
        k: the current entry.
        start: where the current piece starts.
        low: the bounds of its value, shape ``(2,)``.
        dual: the dual variable at ``k`` if the piece has the one or the other value, shape ``(2,)``.
        reached: the last entries at which the bounds were reached, shape ``(2,)``.
        jumps: sign of the jump in front of each entry.
        done: whether the end is reached.
    """

    k: Array
    start: Array
    low: Array
    dual: Array
    reached: Array
    jumps: Array
    done: Array


def _find_jumps(y, weight):
    """Sign of the jump in front of each entry, int32, shape ``(n,)``."""
    n = y.size
    centered = y - jnp.mean(y)
    scale, y, _ = scale_to_unit(centered)
    # The dual solution of a constant: where it fits the bounds, there is nothing to find, and nothing to be lost to a
    # weight beside which the signal vanishes.
    constant = jnp.max(jnp.abs(jnp.cumsum(y))) <= weight / scale
    weight = jnp.where(constant, jnp.ones_like(weight), weight / scale)
    signals = jnp.stack([y, -y])
    zeros = jnp.zeros(n, jnp.int32)
    init = _Scan(zeros[0], zeros[0], signals[:, 0] - weight, jnp.full(2, weight), zeros[:2], zeros, constant)

    def step(s):
        at_end = s.k == n - 1
        following = signals[:, jnp.minimum(s.k + 1, n - 1)]
        violated = jnp.where(at_end, s.dual < 0, following + s.dual < s.low - weight)
        # The first of them: a fall goes before a rise.
        side = jnp.argmax(violated).astype(jnp.int32)
        moved = _jump(s, signals, weight, at_end, side)
        jumped = jnp.any(violated)

        def pick(jump, advance, stay):
            return jnp.where(jumped, jump, jnp.where(at_end, stay, advance))

        new = jax.tree.map(pick, moved, _advance(s, following, weight), s._replace(done=jnp.asarray(True)))
        first = jnp.minimum(moved.start, n - 1)
        return new._replace(jumps=s.jumps.at[first].set(jnp.where(jumped, 2 * side - 1, s.jumps[first])))

    slow = min(n * (n + 1), 2**31 - 1)
    return loop(lambda s: ~s.done, step, init, maxiter=slow).jumps


def _jump(s, signals, weight, at_end, side):
    """End the piece where the bound of ``side`` was last reached, and start the next one behind it."""
    last = signals.shape[1] - 1
    start = s.reached[side] + 1
    first = signals[:, jnp.minimum(start, last)]
    # At the end only the bound that was violated is set anew.
    violated = jnp.arange(2, dtype=jnp.int32) == side
    anew = violated | ~at_end
    return s._replace(
        k=start,
        start=start,
        low=jnp.where(violated, first, jnp.where(at_end, s.low, first - 2 * weight)),
        dual=jnp.where(anew, weight, first - weight - s.low),
        reached=jnp.where(anew, start, s.reached),
        done=start == last,
    )


def _advance(s, following, weight):
    """Take one more entry into the piece, and move the bounds of its value as far as that asks."""
    length = (s.k + 2 - s.start).astype(s.low.dtype)
    dual = s.dual + following - s.low
    beyond = dual >= weight
    return s._replace(
        k=s.k + 1,
        low=jnp.where(beyond, s.low + (dual - weight) / length, s.low),
        dual=jnp.where(beyond, weight, dual),
        reached=jnp.where(beyond, s.k + 1, s.reached),
    )
