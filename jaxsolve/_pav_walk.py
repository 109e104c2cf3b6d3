"""Pool adjacent violators, one entry after the other: the classical method, for one sequence on one core.

The walk keeps a stack of blocks with increasing means. A step joins the last block with the one before where their
means are not in order, or else with the next entry; where both are in order it pushes the block. That takes fewer steps
than twice the number of entries. On the CPU they are compiled to a native loop.

The carry of the loop is arranged for XLA: whatever is read of an array is read after what is written to it, else XLA
copies the array in every step.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._types import Array

__all__ = ["walk"]


class _Block(NamedTuple):
    """A block, or arrays of blocks.

    Attributes:
        first: the first entry.
        mean: the mean of the entries, between the means of the blocks that were joined whatever the rounding.
        total, rest: the sum of the entries, and what was lost in rounding it.
        mass: the sum of the masses.
    """

    first: Array
    mean: Array
    total: Array
    rest: Array
    mass: Array


def walk(values: Array, *mass: Array) -> list[Array]:
    """The block means of a sequence, and the first entry of the block of each entry; see :func:`jaxsolve._pav.pool`.

    Args:
        values: finite, of shape ``(n,)`` with ``n > 0``.
        mass: the mass of each entry, of shape ``(n,)``, if they are not all one.
    """
    n = values.shape[0]
    # Made of the data, so that they vary as these do inside of a shard_map.
    zeros = lax.pad(values - values, jnp.zeros((), values.dtype), [(0, 1, 0)])
    index = zeros.astype(jnp.int32)
    zero, start = _at(zeros, 0), _at(index, 0)

    def entry(i):
        value = lax.select(i < n, _at(values, i), zero + jnp.inf)
        weight = _at(mass[0], i) if mass else zero + 1
        return _Block(i, value, value * weight, zero, weight)

    # The lowest block of the stack is below all, and is joined with none.
    stack = _Block(index, zeros - jnp.inf, zeros, zeros, zeros)

    def step(carry):
        i, height, block, before, stack = carry
        following = entry(i + 1)
        merges = before.mean >= block.mean
        grows = merges | (following.mean <= block.mean)
        stack = jax.tree.map(lambda array, x: _put(array, height, x), stack, block)
        below = jax.tree.map(lambda array: _at(array, height - 2), stack)
        new = _where(grows, _join(block, _where(merges, before, following), not mass), following)
        before = _where(merges, below, _where(grows, before, block))
        height = lax.select(merges, height - 1, lax.select(grows, height, height + 1))
        return lax.select(merges, i, i + 1), height, new, before, stack

    # At the end the last block has been pushed.
    init = start, start + 1, entry(start), jax.tree.map(lambda array: _at(array, 0), stack), stack
    _, height, *_, stack = lax.while_loop(lambda carry: carry[0] < n, step, init)

    def spread(carry):
        i, height, means, firsts = carry
        first = _at(stack.first, height)
        means, firsts = _put(means, i, _at(stack.mean, height)), _put(firsts, i, first)
        return i - 1, lax.select(i == first, height - 1, height), means, firsts

    init = start + n - 1, height - 1, zeros[:n], index[:n]
    return list(lax.while_loop(lambda carry: carry[0] >= 0, spread, init)[2:])


def _join(block, other, counts):
    """Two neighbors as one block; ``counts`` if no mass is 0."""
    total = block.total + other.total
    # What rounding took, exactly (Knuth's sum of two).
    part = total - block.total
    rest = (block.rest + other.rest) + ((block.total - (total - part)) + (other.total - part))
    mass = block.mass + other.mass
    low, high = lax.min(block.mean, other.mean), lax.max(block.mean, other.mean)
    mean = (total + rest) / mass if counts else lax.select(mass > 0, (total + rest) / mass, low)
    return _Block(lax.min(block.first, other.first), lax.clamp(low, mean, high), total, rest, mass)


def _where(condition, a, b):
    return jax.tree.map(lambda x, y: lax.select(condition, x, y), a, b)


def _at(array, i):
    return lax.reshape(lax.dynamic_slice(array, (i,), (1,)), ())


def _put(array, i, x):
    return lax.dynamic_update_slice(array, lax.reshape(x, (1,)), (i,))
