r"""The units in which a quadratic program is solved.

A scaled problem has :math:`\bar P = c D P D,\ \bar q = c D q,\ \bar A = E A D,\ \bar l = E l` and solutions
:math:`x = D \bar x,\ y = E \bar y / c`. The factors are found in four steps, each of which makes nothing of the units
in which the problem was given:

1. *Geometric means.* D, E and c are chosen so that the logarithms of the entries of :math:`\bar P` and :math:`\bar A`
   have the least sum of squares. Another unit of a variable, a row or the objective changes the factor by the inverse
   of that unit, and nothing else.
2. *Largest entries.* Ruiz's method goes on from there until the largest entry of every row and column of
   :math:`\bigl(\begin{smallmatrix} P & A^T \\ A & 0 \end{smallmatrix}\bigr)` is about 1.
3. *Prices.* A variable that a huge linear cost keeps at a bound of its own gets a smaller unit.
4. *Sizes of solutions.* The matrices leave the cost open, and the units of variables: one for all that are connected
   with an entry of P, and one for each linear part that nothing connects with the others. They are set by the bounds
   and by q, so that solutions and multipliers are numbers around 1.

The factors are powers of two, and exact.

Reference:
    Curtis and Reid (1972), "On the automatic scaling of matrices for Gaussian elimination"; Ruiz (2001), "A scaling
    algorithm to equilibrate both rows and columns norms in matrices".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from jaxsolve._inputs import power_of_two
from jaxsolve._loop import loop
from jaxsolve._types import Array
from jaxsolve.solvers.quadratic._problem import QuadraticProgram
from jaxsolve.solvers.quadratic._residuals import Products, norm

__all__ = ["Scaling", "equilibrate", "scale"]

_MAX_PASSES = 10
# Scaling stops as soon as the norms lie within this factor of each other: factors of two do no harm.
_BALANCED = 4.0
# Geometric means: the steps of conjugate gradients, and the logarithm to base 2 that is left over in the mean. What is
# left over depends on the units of the data, and decides where a factor is between two powers of two.
_MAX_STEPS, _CLOSE = 40, 1e-3


class Scaling(NamedTuple):
    """Diagonal scaling.

    Attributes:
        variables: D, shape ``(n,)``.
        rows: E, shape ``(m,)``.
        cost: c, a scalar.
        unit: that of all variables, a scalar: D and E are those of ``common`` times and over it. It is 1, but for a
            batch of problems with P and A in common.
        common: D, E and c as far as such problems share them.
    """

    variables: Array
    rows: Array
    cost: Array
    unit: Array
    common: tuple[Array, Array, Array]

    def of_common_parts(self) -> Scaling:
        """The scaling that problems with P and A in common share, and nothing else."""
        return Scaling(*self.common, jnp.ones_like(self.unit), self.common)

    @property
    def steepness(self) -> Array:
        """How much larger P is than with the scaling of the common parts; A is the same."""
        return self.cost / self.common[2] * self.unit**2

    def to_scaled(self, x: Array, y: Array) -> tuple[Array, Array]:
        """A point of the scaled problem."""
        return x / self.variables, self.cost * y / self.rows

    def products_to_scaled(self, at: Products) -> Products:
        """The products at a point, in the units of the scaled problem."""
        slope = self.cost * self.variables
        return Products(at.Px * slope, at.Ax * self.rows, at.Aty * slope)

    def to_user(self, x: Array, y: Array, at: Products) -> tuple[Array, Array, Products]:
        """A point of the scaled problem and its products, in the units of the user."""
        slope = self.cost * self.variables
        products = Products(at.Px / slope, at.Ax / self.rows, at.Aty / slope)
        return self.variables * x, self.rows * y / self.cost, products

    def from_common_parts(self, x: Array, y: Array, at: Products) -> tuple[Array, Array, Products]:
        """A point of the problem scaled by :meth:`of_common_parts`, and its products, in the units of this scaling."""
        slope = self.cost / self.common[2] * self.unit
        return x / self.unit, slope * y, Products(slope * at.Px, at.Ax / self.unit, slope * at.Aty)


def equilibrate(qp: QuadraticProgram, *, shared: bool = False, blocks: Any = None) -> Scaling:
    """The scaling of a problem. Derivatives of iterations do not depend on it: it is a constant to them.

    Args:
        qp: the problem.
        shared: whether ``common`` is to be the same for a batch of problems with P and A in common. The sizes of their
            solutions are taken together, but for one unit of all variables; and they do without the third step, which
            depends on q.
        blocks: which rows have one unit in common, a :class:`jaxsolve.solvers.conic._form.ConeRows`; ``None`` if each
            has its own.
    """
    qp = jax.tree.map(lax.stop_gradient, qp)
    n, parts = qp.q.size, _of_matrices(qp, blocks) if qp.has_entries else _of_products(qp)
    of_vectors = _of_vectors_unless_common if shared and qp.has_entries else _of_vectors
    factors, curvature, unit = of_vectors(qp, parts)
    variables, rows = factors[:n], factors[n:]
    linear = unit * jnp.abs(parts.cost * variables * qp.q)
    slope = _power_of_two(1 / _typical(jnp.maximum(unit**2 * curvature, linear)))
    # A row of zeros has no unit that its entries could tell.
    own = jnp.where(parts.groups[n:] == 0, rows, rows / unit)
    scaling = Scaling(unit * variables, own, slope * parts.cost, unit, (variables, rows, parts.cost))
    scaling = scaling if blocks is None else blocks.adjusted(qp, scaling)
    return jax.tree.map(lax.stop_gradient, scaling)


def scale(qp: QuadraticProgram, scaling: Scaling) -> QuadraticProgram:
    """The scaled problem."""
    variables, rows, cost, *_ = scaling
    return QuadraticProgram(
        qp.P.scaled(cost * variables, variables),
        cost * variables * qp.q,
        qp.A.scaled(rows, variables),
        rows * qp.lower,
        rows * qp.upper,
        qp.sides,
    )


def _power_of_two(x):
    """The power of two next to a positive number, exactly; 1 for what is no such number."""
    # Odd powers of the root of two are common, and must not be rounded now down and now up.
    return power_of_two(x, 2**0.6)


def _rough_log2(x):
    """The logarithm of positive numbers, linear between powers of two: 0.09 too small at most, and 10 binary places.

    It costs a fraction of a real one, and sums of it are exact.
    """
    info, places = jnp.finfo(x.dtype), 10
    bits = lax.bitcast_convert_type(x, f"int{info.bits}")  # the exponent, then the digits behind the leading one
    return (bits >> (info.nmant - places)).astype(jnp.int32).astype(x.dtype) / 2**places + (info.minexp - 1)


def _typical(sizes):
    """The geometric mean of sizes, of which those of rounding size do not count; 1 if there are none."""
    counts = sizes > jnp.finfo(sizes.dtype).eps * jnp.max(sizes, initial=0)
    counts &= jnp.isfinite(sizes)
    total = jnp.sum(jnp.where(counts, jnp.log2(jnp.where(counts, sizes, 1)), 0))
    return jnp.exp2(total / jnp.maximum(jnp.sum(counts), 1).astype(sizes.dtype))


# ---- The matrices -------------------------------------------------------------------------------------------------


class _OfMatrices(NamedTuple):
    """What the matrices say of the scaling.

    Attributes:
        factors: D and E, shape ``(n + m,)``.
        cost: c.
        curvature: the largest entry of each column of P then, shape ``(n,)``.
        groups: which variables and rows have a unit in common, shape ``(n + m,)``. Those of a linear part that nothing
            connects with the others have the number of one of its variables, from 1 to n. All that are connected with
            an entry of P have the number n + 1: the cost ties their units to each other. A row of zeros has 0.
    """

    factors: Array
    cost: Array
    curvature: Array
    groups: Array


def _of_matrices(qp, blocks):
    n = qp.q.size
    logs, log_cost, groups = _geometric(qp, blocks)
    factors, cost = _power_of_two(jnp.exp2(logs)), _power_of_two(jnp.exp2(log_cost))

    def norms(factors):
        variables, rows = factors[:n], factors[n:]
        _, of_P = qp.P.largest(cost * variables, variables)
        of_rows, of_A = qp.A.largest(rows, variables)
        return of_P, jnp.concatenate([jnp.maximum(of_P, of_A), of_rows])

    def one_pass(carry):
        factors, _ = carry
        _, sizes = norms(factors)
        matters = (sizes > 0) & jnp.isfinite(sizes)  # a row of zeros stays as it is
        sizes = jnp.where(matters, sizes, 1)
        unbalanced = jnp.maximum(jnp.max(sizes), 1 / jnp.min(sizes)) > _BALANCED
        return factors * jnp.where(unbalanced, _power_of_two(1 / jnp.sqrt(sizes)), 1), unbalanced

    factors, _ = loop(lambda carry: carry[1], one_pass, (factors, jnp.asarray(True)), maxiter=_MAX_PASSES)
    if blocks is not None:
        factors = factors.at[n:].set(blocks.alike(qp, factors[n:]))
    return _OfMatrices(factors, cost, norms(factors)[0], groups)


def _geometric(qp, blocks):
    """The logarithms of the factors with which those of the entries have the least sum of squares, and the groups.

    The normal equations are solved by conjugate gradients.
    """
    n, m, dtype = qp.q.size, qp.lower.size, qp.q.dtype

    def split(matrix):
        present = matrix.each(lambda a: ((a != 0) & jnp.isfinite(a)).astype(a.dtype))
        logs = matrix.each(lambda a: _rough_log2(jnp.where((a != 0) & jnp.isfinite(a), jnp.abs(a), 1)))
        return present, logs

    (in_P, of_P), (in_A, of_A) = split(qp.P), split(qp.A)
    ones, rows_of_ones = jnp.ones_like(qp.q), jnp.ones_like(qp.lower)
    count_P, log_P = in_P.matvec(ones), of_P.matvec(ones)
    # Counts of entries are the diagonal but for that of P, which counts twice.
    of_cost = 0.5 * jnp.sum(jnp.stack([count_P, log_P]), axis=1, keepdims=True)
    counts = jnp.concatenate([count_P + in_A.rmatvec(rows_of_ones), in_A.matvec(ones), of_cost[0]])
    sums = jnp.concatenate([log_P + of_A.rmatvec(rows_of_ones), of_A.matvec(ones), of_cost[1]])
    weights = 1 / jnp.maximum(counts + jnp.pad(in_P.diagonal(), (0, m + 1)), 1)

    def hessian(point):
        variables, rows, cost = point[:n], point[n : n + m], point[-1:]
        of_variables = in_P.matvec(variables) + in_A.rmatvec(rows) + count_P * cost
        return counts * point + jnp.concatenate([of_variables, in_A.matvec(variables), (count_P @ variables)[None]])

    def step(carry):
        point, left, direction, before, _ = carry
        size = left @ (weights * left)
        direction = weights * left + size / jnp.maximum(before, jnp.finfo(dtype).tiny) * direction
        image = hessian(direction)
        length = size / jnp.maximum(direction @ image, jnp.finfo(dtype).tiny)
        left = left - length * image
        return point + length * direction, left, direction, size, norm(weights * left)

    zeros, inf = jnp.zeros_like(sums), jnp.asarray(jnp.inf, dtype)
    point, *_ = loop(lambda carry: carry[-1] > _CLOSE, step, (zeros, -sums, zeros, inf, inf), maxiter=_MAX_STEPS)

    groups = _groups(count_P > 0, in_A, dtype, blocks)
    # The unit of each group is open. It is a power of two times that of one of its variables.
    curved = point[jnp.argmax(count_P > 0)][None]
    ends = jnp.concatenate([jnp.zeros_like(curved), point[:n], curved])
    ends -= jnp.round(ends)
    each = ends[groups]
    return point[:-1] + jnp.where(jnp.arange(n + m) < n, -each, each), point[-1] + 2 * ends[-1], groups


def _groups(curved, in_A, dtype, blocks):
    """The groups of :class:`_OfMatrices`: the largest number that reaches each variable through the rows."""
    n, m = curved.size, in_A.shape[0]
    number = jnp.where(curved, n + 1, jnp.arange(1, n + 1)).astype(dtype)
    ones, rows_of_ones = jnp.ones(n, dtype), jnp.ones(m, dtype)

    def spread(carry):
        number, _, _ = carry
        of_rows, _ = in_A.largest(rows_of_ones, number)
        of_rows = of_rows if blocks is None else blocks.together(of_rows)
        _, reached = in_A.largest(of_rows, ones)
        new = jnp.maximum(number, reached)
        # What has reached the variable of that number has reached this one too.
        new = jnp.append(new, jnp.asarray(n + 1, dtype))[new.astype(jnp.int32) - 1]
        return new, of_rows, jnp.any(new > number)

    number, of_rows, _ = loop(lambda carry: carry[-1], spread, (number, rows_of_ones, jnp.asarray(True)), maxiter=n + 1)
    return jnp.concatenate([number, of_rows]).astype(jnp.int32)


def _of_products(qp):
    """The same for matrices of which only products are known: one size for each of them."""
    probe = jnp.cos(1 + jnp.arange(qp.q.size, dtype=qp.q.dtype) ** 2)

    def size(vector):
        largest = norm(vector)
        return jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)

    n, m = qp.q.size, qp.lower.size
    of_rows = jnp.broadcast_to(_power_of_two(1 / size(qp.A.matvec(probe))), (m,))
    curvature = norm(qp.P.matvec(probe))
    cost = _power_of_two(1 / size(curvature))
    factors, groups = jnp.concatenate([jnp.ones_like(qp.q), of_rows]), jnp.full(n + m, n + 1, jnp.int32)
    return _OfMatrices(factors, cost, jnp.broadcast_to(cost * curvature, (n,)), groups)


# ---- The vectors --------------------------------------------------------------------------------------------------


def _of_vectors(qp, parts):
    """The third and the fourth step: D and E, the curvature then, and what is left of the unit of all variables."""
    n, m = qp.q.size, qp.lower.size
    unit = jnp.ones_like(parts.cost)
    if not qp.has_entries:
        return *_resized(parts, _power_of_two(_usual_sizes(qp, parts)), m), unit
    signs = qp.A.each(jnp.sign)
    present = signs.each(jnp.abs)
    single = present.matvec(jnp.ones_like(qp.q)) == 1

    def one_pass(carry):
        # Prices are huge or not beside what is usual, and that turns out without huge prices.
        before, _, telling, first, _ = carry
        sizes = _usual_sizes(qp, before, telling)
        new = jnp.where(first, _prices(qp, before, single, sizes), 1)
        of_single = jnp.where(single, present.matvec(new), 1)
        factors = before.factors * jnp.concatenate([new, 1 / of_single])
        after = before._replace(factors=factors, curvature=before.curvature * new)
        # Where a price keeps a variable, its bounds say nothing of the others.
        return after, sizes, telling & (of_single == 1), jnp.zeros_like(first), jnp.any(new != 1)

    carry = (parts, jnp.ones(n + 2, qp.q.dtype), jnp.ones(m, bool), jnp.asarray(True), jnp.asarray(True))
    parts, sizes, *_ = loop(lambda carry: carry[-1], one_pass, carry, maxiter=2)
    return *_resized(parts, _power_of_two(sizes), m), unit


def _resized(parts, sizes, m):
    """D, E, and the curvature in other units of the groups."""
    n, each = parts.curvature.size, sizes[parts.groups]
    return parts.factors * jnp.where(jnp.arange(n + m) < n, each, 1 / each), each[:n] ** 2 * parts.curvature


@custom_vmap
def _of_vectors_unless_common(qp, parts):
    return _of_vectors(qp, parts)


@_of_vectors_unless_common.def_vmap
def _(axis_size, in_batched, qp, parts):
    axes = jax.tree.map(lambda batched: 0 if batched else None, tuple(in_batched))
    if any(jax.tree.leaves((in_batched[0].P, in_batched[0].A, in_batched[1]))):
        return jax.vmap(_of_vectors, in_axes=axes, axis_size=axis_size)(qp, parts), (True, True, True)
    # What the batch has in common are the means.
    sizes = jnp.log2(jax.vmap(_usual_sizes, in_axes=axes, axis_size=axis_size)(qp, parts))
    common = jnp.mean(sizes, axis=0)
    each = (sizes - jnp.log2(_power_of_two(jnp.exp2(common)))[None])[:, parts.groups[: parts.curvature.size]]
    unit = _power_of_two(jnp.exp2(jnp.mean(each, axis=1)))
    rows = parts.groups.size - parts.curvature.size
    return (*_resized(parts, _power_of_two(jnp.exp2(common)), rows), unit), (False, False, True)


def _usual_sizes(qp, parts, telling=None):
    """How large the variables of the solution will be in each group, as far as the sizes of the data say so.

    As large as the bounds demand. Beyond that a solution lies where the slope of q is made up for by the curvature, or
    at bounds, whichever is nearer.

    Args:
        qp: the problem.
        parts: its scaling so far.
        telling: which rows count, shape ``(m,)``; all without.
    """
    factors, cost, curvature, groups = parts
    n, rounding = qp.q.size, jnp.finfo(qp.q.dtype).eps
    of_rows = groups[n:]
    sides = factors[None, n:] * jnp.stack([qp.lower, qp.upper])
    bounds = sides if telling is None else jnp.where(telling[None], sides, 0)
    demanded = jnp.maximum(jnp.maximum(bounds[0], -bounds[1]), 0)
    bounds = jnp.where(jnp.isfinite(bounds), jnp.abs(bounds), 0)
    slope = jnp.abs(cost * factors[:n] * qp.q)
    largest = jnp.concatenate([demanded, jnp.max(bounds, axis=0), slope])
    index = jnp.concatenate([of_rows, of_rows + (n + 2), groups[:n] + 2 * (n + 2)])
    largest = jnp.maximum(jax.ops.segment_max(largest, index, 3 * (n + 2)), 0)
    demanded, largest, steepest = largest.reshape(3, n + 2)

    curved = (curvature > rounding * norm(curvature)) & (slope > rounding * steepest[-1])
    level = _typical(jnp.where(curved, slope / jnp.where(curved, curvature, 1), 0))
    is_curved = (jnp.arange(n + 2) == n + 1) & jnp.any(curved)
    level = jnp.where(is_curved, level, jnp.where(steepest > 0, jnp.inf, 0))
    # Bounds that are 0 but for rounding say nothing, nor does a slope.
    level = jnp.where(level > rounding ** (2 / 3) * largest, level, 0)
    smallest = rounding ** (2 / 3) * jnp.maximum(largest, jnp.where(jnp.isfinite(level), level, 0))
    counts = bounds > smallest[of_rows][None]
    logs = jnp.where(counts, _rough_log2(jnp.where(counts, bounds, 1)), 0)
    sums = jnp.concatenate([jnp.sum(logs, axis=0), jnp.sum(counts, axis=0).astype(logs.dtype)])
    sums = jax.ops.segment_sum(sums, jnp.concatenate([of_rows, of_rows + (n + 2)]), 2 * (n + 2))
    logs, number = sums.reshape(2, n + 2)
    size = jnp.minimum(level, jnp.where(number > 0, jnp.exp2(logs / jnp.maximum(number, 1)), jnp.inf))
    size = jnp.maximum(demanded, size)
    known = jnp.isfinite(size) & (size > 0) & (jnp.arange(n + 2) > 0)  # nothing tells the unit of a row of zeros
    return jnp.where(known, size, 1)


def _huge_price(dtype):
    """In the unit of what linear terms usually are, those that are there to forbid something; fewer digits, less."""
    return 1e4 if jnp.finfo(dtype).bits == 64 else 1e2


def _prices(qp, parts, single, sizes):
    """Factors for the units of variables that a huge price keeps at a bound of their own; 1 for all others.

    With them the price, the multiplier and the slack are numbers around 1, and the variable takes next to no part in
    other rows.

    Args:
        qp: the problem.
        parts: its scaling so far.
        single: which rows have one entry, shape ``(m,)``.
        sizes: those of the solution in each group.
    """
    n, huge = qp.q.size, _huge_price(qp.q.dtype)
    factors, cost, curvature, groups = parts
    each = sizes[groups]
    price = cost * factors[:n] * qp.q * each[:n]
    ordered = jnp.sort(jnp.where(price == 0, jnp.inf, jnp.abs(price)))
    quarter = ordered[jnp.maximum(jnp.sum(jnp.isfinite(ordered)) - 1, 0) // 4]  # usual even if most prices are huge
    usual = jnp.maximum(each[:n] ** 2 * curvature, jnp.where(jnp.isfinite(quarter), quarter, 1))
    # Each row with one entry bounds its variable below, above, or both. Far away there is nothing to be kept at.
    bounds = jnp.abs(factors[None, n:] * jnp.stack([qp.lower, qp.upper]))
    lower, upper = (single[None] & (bounds <= huge * each[None, n:])).astype(price.dtype)
    signs = qp.A.each(jnp.sign)
    sides = signs.each(jnp.abs).rmatvec(lower + upper), signs.rmatvec(lower - upper)
    held = sides[0] + jnp.sign(price) * sides[1] > 0
    ratio = jnp.abs(price) / usual
    return jnp.where(held & (ratio > huge), _power_of_two(1 / jnp.maximum(ratio, 1)), 1)
