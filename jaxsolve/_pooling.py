r"""Pool adjacent violators, by divide and conquer: the monotone block means of a sequence, for accelerators too.

The classical method walks along the sequence with a stack, which takes a step of a compiled loop for each entry. Here
neighboring segments that are already solved are merged instead, all pairs of a level at once: :math:`\log_2 n` levels.
If ``l`` and ``r`` are the solutions of two neighbors, what is pooled is a tail of ``l`` and a head of ``r``. In the
diagram of cumulative sums, whose lower convex hull has the solution as its slopes, finding them means finding the
common tangent of two hulls, which a binary search on both at once does in a logarithmic number of steps [1]_. The
searches of a level are lanes of one loop; over all levels there are fewer lanes than entries, so the work is
:math:`O(n \log n)` on any input, most of it a comparison an entry and level.

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

from jaxsolve._loop import loop, run_if_any
from jaxsolve._types import Array

__all__ = ["LINEAR", "LOGARITHMIC", "Arithmetic", "block_log_softmax", "block_logsumexp", "block_sum", "pool"]


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


LINEAR = Arithmetic(jnp.add, jnp.multiply, jnp.divide, lambda count: count, 0.0)
LOGARITHMIC = Arithmetic(jnp.logaddexp, jnp.add, jnp.subtract, jnp.log, -float("inf"))

# Entries of a segment at the lowest level, at least; at most twice as many. Measured on CPU.
_CHUNK = 8
# Levels after which the search continues with fewer lanes.
_LEVELS_A_STAGE = (2, 3, 4, 100)


def pool(values: Array, mass: Array | None, largest: Array, arithmetic: Arithmetic = LINEAR) -> tuple[Array, Array]:
    """The nondecreasing sequence of block means nearest to ``values``.

    Args:
        values: finite, of shape ``(n,)`` with ``n > 0``, small enough for sums not to overflow.
        mass: the mass of each entry in the given arithmetic, of shape ``(n,)``; None if all are one.
        largest: a scalar no value is above.
        arithmetic: what mass and sums are in.

    Returns:
        The solution, which is monotone whatever the rounding, and for each entry the ``int32`` index of the first entry
        of its block, both of shape ``(n,)``.
    """
    n = values.shape[0]
    levels = max(0, (n // _CHUNK).bit_length() - 1)
    chunks = 2**levels
    size = -(-n // chunks)
    # Entries that fill up the last chunks come after everything, so they pool with nothing.
    pad = jnp.zeros(chunks * size - n, values.dtype)
    values = jnp.concatenate([values, pad + largest]).reshape(chunks, size)
    sums = [values]
    if mass is not None:
        mass = jnp.concatenate([mass, pad + arithmetic.over(1.0, 1.0)]).reshape(chunks, size)
        sums = [arithmetic.times(values, mass), mass]
    x, start, tails = _solve_chunks(values, sums, arithmetic)
    sums = [_Sums.of_chunks(rows, tail, arithmetic) for rows, tail in zip(sums, tails, strict=True)]
    first = 0
    for length in _LEVELS_A_STAGE:
        last = min(first + length, levels)
        if last > first:
            lanes = chunks >> (first + 1)
            x, start, sums = _merge_levels(first, last, lanes, x, start, sums, arithmetic)
        first = last
    return x.reshape(-1)[:n], start.reshape(-1)[:n]


def block_sum(values: Array, start: Array) -> Array:
    """The sum of ``values`` over the block of each entry, given the first entry of its block."""
    sums = jax.ops.segment_sum(values, start, num_segments=values.shape[0], indices_are_sorted=True)
    return _take(sums, start)


def block_logsumexp(values: Array, start: Array) -> Array:
    """``log(sum(exp(values)))`` over the block of each entry, given the first entry of its block."""
    largest = _block_max(values, start)
    return largest + jnp.log(block_sum(jnp.exp(values - largest), start))


def block_log_softmax(values: Array, start: Array) -> Array:
    """``values`` less their :func:`block_logsumexp`, without cancellation where they are large."""
    offset = values - _block_max(values, start)
    return offset - jnp.log(block_sum(jnp.exp(offset), start))


def _block_max(values, start):
    values = lax.stop_gradient(values)
    largest = jax.ops.segment_max(values, start, num_segments=values.shape[0], indices_are_sorted=True)
    return _take(largest, start)


def _take(values, index):
    return jnp.take(values, index, mode="clip")


# ---- The lowest level ---------------------------------------------------------------------------------------------


def _solve_chunks(values, sums, arithmetic):
    """Solve each row: appending one entry at a time, the last block is the tail with the largest mean."""
    size = values.shape[1]
    rows = jnp.arange(size, dtype=jnp.int32).reshape(size, 1)
    columns = [s.T for s in sums]

    def append(carry, column):
        tails, before = carry
        k, value, terms = column
        tails = [jnp.where(rows <= k, arithmetic.add(t, s[None, :]), t) for t, s in zip(tails, terms, strict=True)]
        counts = arithmetic.of_count(jnp.maximum(k + 1 - rows, 1).astype(value.dtype))
        means = arithmetic.over(tails[0], counts if len(tails) == 1 else tails[1])
        means = jnp.where(rows <= k, means, -jnp.inf)
        largest = jnp.max(means, axis=0)
        first = jnp.min(jnp.where(means == largest[None, :], rows, k), axis=0)
        # Means of several lie between the new entry and the block before; this rounding shall not change.
        largest = jnp.clip(largest, value, jnp.maximum(value, before))
        return (tails, largest), (largest, first)

    nothing = [jnp.full_like(c, arithmetic.zero) for c in columns]
    init = (nothing, jnp.full_like(values[:, 0], -jnp.inf))
    (tails, _), (last, first) = lax.scan(append, init, (rows[:, 0], values.T, columns))

    # An entry ends up in the lowest of the last blocks that there were from its own appending on.
    def lower(carry, row):
        carry = tuple(map(jnp.minimum, carry, row))
        return carry, carry

    _, (x, start) = lax.scan(lower, (last[-1], first[-1]), (last, first), reverse=True)
    offset = size * jnp.arange(values.shape[0], dtype=jnp.int32)
    return x.T, (start + offset[None, :]).T, [t.T for t in tails]


# ---- Merging ------------------------------------------------------------------------------------------------------


class _Sums(NamedTuple):
    """Sums from any entry to either end of its segment.

    Attributes:
        tail, head: within the chunk, from an entry to the end and up to an entry, both with the entry; flat.
        after, before: of the chunks of the segment that come after and before a chunk.
        total: of the segment of a chunk.
    """

    tail: Array
    head: Array
    after: Array
    before: Array
    total: Array

    @classmethod
    def of_chunks(cls, rows, tail, arithmetic):
        def add(total, column):
            total = arithmetic.add(total, column)
            return total, total

        nothing = jnp.full_like(rows[:, 0], arithmetic.zero)
        total, head = lax.scan(add, nothing, rows.T)
        return cls(tail.reshape(-1), head.T.reshape(-1), nothing, nothing, total)

    def from_entry(self, index, chunk, arithmetic):
        return arithmetic.add(_take(self.tail, index), _take(self.after, chunk))

    def up_to_entry(self, index, chunk, arithmetic):
        return arithmetic.add(_take(self.head, index), _take(self.before, chunk))

    def of_pairs(self, level, arithmetic):
        """The sums after each segment has been joined with its neighbor."""
        chunk = jnp.arange(self.total.shape[0], dtype=jnp.int32)
        neighbor = _take(self.total, chunk ^ (jnp.int32(1) << level))
        is_right = ((chunk >> level) & 1) == 1
        after = jnp.where(is_right, self.after, arithmetic.add(self.after, neighbor))
        before = jnp.where(is_right, arithmetic.add(self.before, neighbor), self.before)
        return self._replace(after=after, before=before, total=arithmetic.add(self.total, neighbor))


def _merge_levels(first, last, lanes, x, start, sums, arithmetic):
    """Join segments of ``2**level`` chunks in pairs, for the levels from ``first`` to ``last - 1``."""
    chunks, size = x.shape
    lane = jnp.arange(lanes, dtype=jnp.int32)
    index = jnp.arange(chunks * size, dtype=jnp.int32).reshape(chunks, size)
    chunk = jnp.arange(chunks, dtype=jnp.int32)

    def merge(level, carry):
        x, start, moving = carry
        sums = [_Sums(s.tail, s.head, *m) for s, m in zip(fixed, moving, strict=True)]
        half = jnp.int32(size) << level
        begin = 2 * half * lane
        flat = x.reshape(-1)
        low, high = _take(flat, begin + half - 1), _take(flat, begin + half)
        violated = (low >= high) & (begin < chunks * size)

        def join(operand):
            x, start = operand
            pooled = _search(x.reshape(-1), start.reshape(-1), sums, begin, half, violated, low, size, arithmetic)
            # The mean of the pooled blocks is between those of the two in the middle; rounded or not.
            value = jnp.clip(pooled[2], jnp.minimum(low, high), low)
            begins, ends, value, middle = (
                _take(v, chunk >> (level + 1))[:, None] for v in (*pooled[:2], value, begin + half)
            )
            inside = (index >= begins) & (index < ends)
            cut = jnp.where(index < middle, jnp.minimum(x, value), jnp.maximum(x, value))
            return jnp.where(inside, value, cut), jnp.where(inside, begins, start)

        x, start = run_if_any(jnp.any(violated), join, (x, start))
        return x, start, [tuple(s.of_pairs(level, arithmetic)[2:]) for s in sums]

    fixed = sums
    x, start, moving = lax.fori_loop(first, last, merge, (x, start, [tuple(s[2:]) for s in sums]))
    return x, start, [_Sums(s.tail, s.head, *m) for s, m in zip(fixed, moving, strict=True)]


class _Search(NamedTuple):
    """Where the two ends of a common tangent may be, and the chord looked at last.

    Attributes:
        left_low, left_high: the first pooled entry is one of these.
        right_low, right_high: the entry after the last pooled one is one of these.
        begin, end: the ends of the chord, the second exclusive.
        slope: its slope, the mean from ``begin`` to ``end``.
        active: whether the search goes on.
    """

    left_low: Array
    left_high: Array
    right_low: Array
    right_high: Array
    begin: Array
    end: Array
    slope: Array
    active: Array


def _search(x, start, sums, begin, half, violated, low, size, arithmetic):
    """First entry, end and mean of what is pooled where two segments meet, for each lane."""
    middle = begin + half
    end = middle + half
    total_size = x.shape[0]

    def step(c):
        # Inside a block the hull has no vertex: go to the one where the block starts.
        i, j = lax.div(c.left_low + c.left_high, jnp.int32(2)), lax.div(c.right_low + c.right_high, jnp.int32(2))
        s, t = _take(start, i), jnp.where(j == end, j, _take(start, j))
        empty = t == middle
        chunk_s, chunk_t = lax.div(s, jnp.int32(size)), lax.div(t - 1, jnp.int32(size))
        left = [v.from_entry(s, chunk_s, arithmetic) for v in sums]
        right = [v.up_to_entry(t - 1, chunk_t, arithmetic) for v in sums]
        right = [jnp.where(empty, jnp.full_like(v, arithmetic.zero), v) for v in right]
        if len(sums) == 1:
            left.append(arithmetic.of_count((middle - s).astype(x.dtype)))
            right.append(arithmetic.of_count((t - middle).astype(x.dtype)))
        total = arithmetic.add(left[0], right[0])
        slope = arithmetic.over(total, arithmetic.add(left[1], right[1]))

        # The slopes of the hulls on both sides of both ends of the chord.
        before_s = jnp.where(s > begin, _take(x, s - 1), -jnp.inf)
        at_s = _take(x, s)
        before_t = jnp.where(empty, -jnp.inf, _take(x, t - 1))
        at_t = jnp.where(t < end, _take(x, t), jnp.inf)
        # The common tangent is below the chord, so its ends are where the hulls go below the chord ...
        left_down = slope <= before_s
        left_up = (slope > at_s) & ~left_down
        right_up = slope >= at_t
        right_down = (slope < before_t) & ~right_up
        # ... and if they do so inside of it, the lines along the two hulls meet the middle at different heights.
        inward = left_up & right_down
        along = arithmetic.add(
            arithmetic.times(at_s, left[1]),
            jnp.where(empty, jnp.full_like(total, arithmetic.zero), arithmetic.times(before_t, right[1])),
        )
        move_left_up = (left_up & ~right_up & ~right_down) | (inward & (along <= total))
        move_right_down = (right_down & ~left_up & ~left_down) | (inward & (along >= total))
        new = _Search(
            left_low=jnp.where(move_left_up, i + 1, c.left_low),
            left_high=jnp.where(left_down, s - 1, c.left_high),
            right_low=jnp.where(right_up, j + 1, c.right_low),
            right_high=jnp.where(move_right_down, t - 1, c.right_high),
            begin=s,
            end=t,
            slope=slope,
            active=left_down | right_up | move_left_up | move_right_down,
        )
        # Rounding may let the search miss a tangent that the chord already is; then nothing is left to look at.
        left_over = (new.left_low <= new.left_high) & (new.right_low <= new.right_high)
        new = new._replace(active=new.active & left_over)
        return jax.tree.map(lambda a, b: jnp.where(c.active, a, b), new, c)

    init = _Search(begin, middle - 1, middle + 1, end, middle, middle, low, violated)
    # Each step halves one of the two intervals.
    maxiter = 2 * total_size.bit_length() + 4
    found = loop(lambda c: jnp.any(c.active), step, init, maxiter=maxiter)
    return found.begin, found.end, found.slope
