r"""Pool adjacent violators, by divide and conquer: the monotone block means of a sequence, for accelerators too.

The classical method walks along the sequence with a stack, which takes a step of a compiled loop for each entry. Here
neighboring segments that are already solved are merged instead, all pairs of a level at once: :math:`\log_2 n` levels.
If ``l`` and ``r`` are the solutions of two neighbors, what is pooled is a tail of ``l`` and a head of ``r``. In the
diagram of cumulative sums, whose lower convex hull has the solution as its slopes, finding them means finding the
common tangent of two hulls. From the middle outward that takes a step a block; if it is not found in a few such steps,
a binary search on both hulls at once finds it in a logarithmic number [1]_. The searches of a level run side by
side in one loop; over all levels there are fewer searches than entries, so the work is :math:`O(n \log n)` on any
input, most of it a comparison an entry and level.

Only sums, products and quotients of totals and masses are needed. In logarithms (``logaddexp``, sum, difference) the
same program pools the entropic problem, where a block has the value ``log(sum(exp(y)) / sum(exp(w)))``.

Sums are formed pairwise over segments, never as differences of cumulative sums, so they are accurate in float32.
Neighbors with equal values are pooled: *a constraint that holds with equality is active*.

.. [1] M. Overmars and J. van Leeuwen, *Maintenance of configurations in the plane*, J. Comput. Syst. Sci. 23, 1981,
   section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._compat import vary_over, varying_axes
from jaxsolve._loop import loop, run_if_any
from jaxsolve._types import Array

__all__ = [
    "LINEAR",
    "LOGARITHMIC",
    "Arithmetic",
    "block_log_softmax",
    "block_max",
    "block_min",
    "block_softmax",
    "block_sum",
    "pool",
]


class Arithmetic(NamedTuple):
    """How totals and masses are combined.

    Attributes:
        add, times, over: sum, product and quotient.
        of_count: the mass of a number of entries of mass one.
        zero: the mass of nothing.
    """

    add: Callable[[Any, Any], Array]
    times: Callable[[Any, Any], Array]
    over: Callable[[Any, Any], Array]
    of_count: Callable[[Array], Array]
    zero: float


def _defined(quotient):
    """The mean of entries without mass is below every other, so that they join whatever comes before them."""
    return jnp.where(jnp.isnan(quotient), -jnp.inf, quotient)


LINEAR = Arithmetic(jnp.add, jnp.multiply, lambda t, m: _defined(t / m), lambda count: count, 0.0)
LOGARITHMIC = Arithmetic(jnp.logaddexp, jnp.add, lambda t, m: _defined(t - m), jnp.log, -float("inf"))

# Entries of a segment at the lowest level, at least; at most twice as many. Measured on CPU.
_CHUNK = 16
# So few entries are one segment: merging would be four fifths of the compilation. One run is faster without it, a large
# batch slower (1000 sequences of 100 entries: 16 ms in place of 5).
_ALONE = 128
# Levels after which the loop continues with fewer searches side by side. Each stage compiles the search anew.
_LEVELS_A_STAGE = (2, 3, 100)


def pool(values: Array, mass: Array | None, largest: Array, arithmetic: Arithmetic = LINEAR) -> tuple[Array, Array]:
    """The nondecreasing sequence of block means nearest to ``values``.

    Args:
        values: of shape ``(n,)`` with ``n > 0``, small enough for sums not to overflow; finite, but in logarithms they
            may be ``-inf``. That of an entry without mass is the value of the entry before or, at the start, that of
            the first with mass.
        mass: the mass of each entry in the given arithmetic, of shape ``(n,)``; None if all are one.
        largest: a finite scalar no value is above.
        arithmetic: what mass and sums are in.

    Returns:
        The solution, which is monotone whatever the rounding, and for each entry the ``int32`` index of the first entry
        of its block, both of shape ``(n,)``.
    """
    n = values.shape[0]
    levels = 0 if n <= _ALONE else (n // _CHUNK).bit_length() - 1
    chunks = 2**levels
    size = -(-n // chunks)

    # One column a chunk, so that what is done to all chunks at once runs along contiguous memory.
    def columns(v, fill):
        return jnp.concatenate([v, fill]).reshape(chunks, size).T

    # The entries that fill up the last chunks increase, and come after everything, so they pool with nothing.
    rest = jnp.arange(1, chunks * size - n + 1, dtype=values.dtype)
    values = columns(values, largest + rest)
    sums = [values]
    if mass is not None:
        mass = columns(mass, jnp.full_like(rest, arithmetic.of_count(jnp.ones((), values.dtype))))
        sums = [arithmetic.times(values, mass), mass]
    x, links, sums = _solve_chunks(values, sums, arithmetic)
    first = 0
    for length in _LEVELS_A_STAGE:
        last = min(first + length, levels)
        if last > first:
            x, links, sums = _merge_levels(first, last, chunks >> (first + 1), x, links, sums, arithmetic)
        first = last
    x, links = x.T.reshape(-1)[:n], links.T.reshape(-1)[:n]
    return x, jnp.where(links < 0, jnp.arange(n, dtype=jnp.int32), links)


def block_sum(values: Array, start: Array) -> Array:
    """The sum of ``values`` over the block of each entry, given the first entry of its block."""
    return _take(jax.ops.segment_sum(values, start, values.shape[0], indices_are_sorted=True), start)


def block_log_softmax(values: Array, start: Array) -> Array:
    """``values`` less the ``log(sum(exp(values)))`` of their block, without cancellation where they are large.

    Args:
        values: of shape ``(n,)``, in each block at most its first value.
        start: the first entry of the block of each entry.
    """
    offset = values - lax.stop_gradient(_take(values, start))
    return offset - jnp.log(block_sum(jnp.exp(offset), start))


def block_softmax(values: Array, start: Array) -> Array:
    """``exp(values)`` as parts of their sum over the block of each entry, 0 where that sum is 0."""
    largest = block_max(lax.stop_gradient(values), start)
    terms = jnp.exp(values - jnp.where(largest > -jnp.inf, largest, 0))
    return terms / jnp.where(largest > -jnp.inf, block_sum(terms, start), 1)


def block_max(values: Array, start: Array) -> Array:
    """The largest of ``values`` in the block of each entry, given the first entry of its block."""
    return _take(jax.ops.segment_max(values, start, values.shape[0], indices_are_sorted=True), start)


def block_min(values: Array, start: Array) -> Array:
    """The smallest of ``values`` in the block of each entry, given the first entry of its block."""
    return -block_max(-values, start)


def _take(values, index):
    return jnp.take(values, index, mode="clip")


# ---- The lowest level ---------------------------------------------------------------------------------------------
#
# The blocks are kept as one array of links. At the first entry of a block it holds ``-1 - end``, with ``end`` the entry
# after the last one; at the other entries, where the block starts.


class _Sums(NamedTuple):
    """Sums from any entry to either end of its segment.

    Attributes:
        tail, head: within the chunk, from an entry to the end and up to an entry, both with the entry.
        after, before: of the chunks of the segment that come after and before a chunk.
        total: of the segment of a chunk.
    """

    tail: Array
    head: Array
    after: Array
    before: Array
    total: Array

    def of_pairs(self, level, arithmetic):
        """The sums after each segment has been joined with its neighbor."""
        chunk = jnp.arange(self.total.shape[0], dtype=jnp.int32)
        neighbor = _take(self.total, chunk ^ (jnp.int32(1) << level))
        is_right = ((chunk >> level) & 1) == 1
        after = jnp.where(is_right, self.after, arithmetic.add(self.after, neighbor))
        before = jnp.where(is_right, arithmetic.add(self.before, neighbor), self.before)
        return self._replace(after=after, before=before, total=arithmetic.add(self.total, neighbor))


def _solve_chunks(values, terms, arithmetic):
    """Solve each column: appending one entry at a time, the last block is the tail with the largest mean."""
    size, chunks = values.shape
    rows = jnp.arange(size, dtype=jnp.int32).reshape(size, 1)

    def append(carry, row):
        tails, heads, before = carry
        k, value, terms = row
        tails = jax.tree.map(lambda t, term: jnp.where(rows <= k, arithmetic.add(t, term[None, :]), t), tails, terms)
        heads = jax.tree.map(arithmetic.add, heads, terms)
        if len(tails) == 1:
            # Far fewer divisions than entries.
            counts = jnp.maximum(k + 1 - rows, 1).astype(value.dtype)
            means = arithmetic.times(tails[0], arithmetic.of_count(1 / counts))
        else:
            means = arithmetic.over(*tails)
        largest = jnp.max(jnp.where(rows <= k, means, -jnp.inf), axis=0)
        # Means of several lie between the new entry and the block before; rounding shall not change this.
        largest = jnp.clip(largest, value, jnp.maximum(value, before))
        return (tails, heads, largest), (largest, heads)

    nothing = [jnp.full_like(term, arithmetic.zero) for term in terms]
    zeros = [v[0] for v in nothing]
    init = (nothing, zeros, jnp.full_like(values[0], -jnp.inf))
    (tails, totals, _), (last, heads) = lax.scan(append, init, (rows[:, 0], values, terms))

    # An entry ends up in the lowest of the last blocks that there were from its own appending on. The blocks are read
    # off the values: beside a heavy entry the mean does not tell whether a light one belongs to it.
    offset = vary_over(size * jnp.arange(chunks, dtype=jnp.int32), varying_axes(last))

    def lower(carry, row):
        above, end = carry
        k, last = row
        x = jnp.minimum(above, last)
        end = jnp.where(x < above, offset + k + 1, end)
        return (x, end), (x, end)

    def link(carry, row):
        below, start = carry
        k, x, end = row
        begins = (x > below) | (k == 0)
        start = jnp.where(begins, offset + k, start)
        return (x, start), jnp.where(begins, -1 - end, start)

    _, (x, ends) = lax.scan(lower, (jnp.full_like(last[0], jnp.inf), offset), (rows[:, 0], last), reverse=True)
    _, links = lax.scan(link, (x[0], offset), (rows[:, 0], x, ends))
    return x, links, jax.tree.map(_Sums, tails, heads, zeros, zeros, totals)


# ---- Merging ------------------------------------------------------------------------------------------------------


def _merge_levels(first, last, pairs, x, links, sums, arithmetic):
    """Join segments of ``2**level`` chunks in pairs, for the levels from ``first`` to ``last - 1``."""
    size, chunks = x.shape
    pair = jnp.arange(pairs, dtype=jnp.int32)
    index = jnp.arange(chunks * size, dtype=jnp.int32).reshape(chunks, size).T
    chunk = jnp.arange(chunks, dtype=jnp.int32)

    def merge(level, carry):
        x, links, sums = carry
        # The first chunk of the right half of each pair.
        right = (2 * pair + 1) << level
        low, high = _take(x[-1], right - 1), _take(x[0], right)
        violated = (low >= high) & (right < chunks)

        def join(operand):
            x, links = operand
            half = jnp.int32(size) << level
            begins, ends, slope = _search(x, links, sums, size * right, half, violated, arithmetic)
            # The mean of the pooled blocks is between those of the two in the middle, rounded or not.
            value = jnp.where(violated, jnp.clip(slope, jnp.minimum(low, high), low), low)
            begins, ends, value, middle = (
                _take(v, chunk >> (level + 1))[None, :] for v in (begins, ends, value, size * right)
            )
            inside = (index >= begins) & (index < ends)
            cut = jnp.where(index < middle, jnp.minimum(x, value), jnp.maximum(x, value))
            inner = jnp.where(inside, begins, links)
            return jnp.where(inside, value, cut), jnp.where(inside & (index == begins), -1 - ends, inner)

        x, links = run_if_any(jnp.any(violated), join, (x, links))
        return x, links, [s.of_pairs(level, arithmetic) for s in sums]

    return lax.fori_loop(first, last, merge, (x, links, sums))


class _Interval(NamedTuple):
    """Where the first and the last pooled entry may be.

    Attributes:
        left_low, left_high: the first one. ``left_high`` is negative when the search is over, with the first entry in
            ``left_low`` and the one after the last in ``right_low``.
        right_low, right_high: the last one.
    """

    left_low: Array
    left_high: Array
    right_low: Array
    right_high: Array


# Steps in which the search goes from block to block, from the middle outward: often there is little to pool.
_HOPS = 16


def _search(x, links, sums, middle, half, violated, arithmetic):
    """First entry, end and mean of what is pooled where two segments meet, for each pair."""
    size, chunks = x.shape
    begin, end = middle - half, middle + half
    x, links = x.reshape(-1), links.reshape(-1)
    sums = [s._replace(tail=s.tail.reshape(-1), head=s.head.reshape(-1)) for s in sums]

    def place(i):
        """The chunk of an entry, and where the entry is stored."""
        chunk = lax.div(i, jnp.int32(size))
        return chunk, (i - chunk * size) * chunks + chunk

    def at(v, i):
        return _take(v, place(i)[1])

    def first_of_block(i):
        link = at(links, i)
        return jnp.where(link < 0, i, link)

    def chord(s, t):
        """The masses of the entries from ``s`` to ``t``, left and right of the middle, their total, and their mean."""
        (chunk_s, s_at), (chunk_t, t_at) = place(s), place(t - 1)
        left = [arithmetic.add(_take(v.tail, s_at), _take(v.after, chunk_s)) for v in sums]
        right = [arithmetic.add(_take(v.head, t_at), _take(v.before, chunk_t)) for v in sums]
        if len(sums) == 1:
            left.append(arithmetic.of_count((middle - s).astype(x.dtype)))
            right.append(arithmetic.of_count((t - middle).astype(x.dtype)))
        total = arithmetic.add(left[0], right[0])
        return left[1], right[1], total, arithmetic.over(total, arithmetic.add(left[1], right[1]))

    def step(carry):
        count, c = carry
        hop = count < _HOPS
        i = jnp.where(hop, c.left_high, lax.div(c.left_low + c.left_high, jnp.int32(2)))
        j = jnp.where(hop, c.right_low, lax.div(c.right_low + c.right_high, jnp.int32(2)))
        # Inside a block the hull has no vertex: go to its ends.
        s, first_right = first_of_block(i), first_of_block(j)
        t = -1 - at(links, first_right)
        mass_left, mass_right, total, slope = chord(s, t)

        # The slopes of the hulls on both sides of both ends of the chord.
        before_s = jnp.where(s > begin, at(x, s - 1), -jnp.inf)
        at_s, before_t = at(x, i), at(x, j)
        at_t = jnp.where(t < end, at(x, t), jnp.inf)
        # The common tangent is below the chord, so its ends are where the hulls go below the chord ...
        left_down = slope <= before_s
        left_up = (slope > at_s) & ~left_down
        right_up = slope >= at_t
        right_down = (slope < before_t) & ~right_up
        # ... and if they do so inside of it, the lines along the two hulls meet the middle at different heights.
        inward = left_up & right_down
        along = arithmetic.add(arithmetic.times(at_s, mass_left), arithmetic.times(before_t, mass_right))
        move_left_up = (left_up & ~right_up & ~right_down) | (inward & (along <= total))
        move_right_down = (right_down & ~left_up & ~left_down) | (inward & (along >= total))
        new = _Interval(
            left_low=jnp.where(move_left_up, i + 1, c.left_low),
            left_high=jnp.where(left_down, s - 1, c.left_high),
            right_low=jnp.where(right_up, t, c.right_low),
            right_high=jnp.where(move_right_down, first_right - 1, c.right_high),
        )
        moved = left_down | right_up | move_left_up | move_right_down
        # Rounding may let the search miss a tangent that the chord already is; then nothing is left to look at.
        more = moved & (new.left_low <= new.left_high) & (new.right_low <= new.right_high)
        new = jax.tree.map(lambda a, b: jnp.where(more, a, b), new, over(s, t))
        return count + 1, jax.tree.map(lambda a, b: jnp.where(c.left_high < 0, b, a), new, c)

    def over(s, t):
        return _Interval(s, jnp.full_like(s, -1), t, t)

    first = _Interval(begin, middle - 1, middle, end - 1)
    init = jax.tree.map(lambda a, b: jnp.where(violated, a, b), first, over(middle, middle))
    # Each step after the hops halves one of the two intervals.
    maxiter = _HOPS + 2 * x.size.bit_length() + 4
    _, found = loop(lambda c: jnp.any(c[1].left_high >= 0), step, (jnp.int32(0), init), maxiter=maxiter)
    *_, slope = chord(found.left_low, found.right_low)
    return found.left_low, found.right_low, slope
