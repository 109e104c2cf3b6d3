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
4. *Sizes of solutions.* The matrices leave one unit open, that of all variables together, and the cost. They are set
   by the bounds and by q, so that solutions and multipliers are numbers around 1.

The factors are powers of two, and exact.

Reference:
    Curtis and Reid (1972), "On the automatic scaling of matrices for Gaussian elimination"; Ruiz (2001), "A scaling
    algorithm to equilibrate both rows and columns norms in matrices".
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from jaxsolve._loop import loop
from jaxsolve._types import Array
from jaxsolve.solvers.quadratic._problem import QuadraticProgram
from jaxsolve.solvers.quadratic._residuals import Products, norm

__all__ = ["Scaling", "equilibrate", "scale"]

_MAX_PASSES = 10
# Scaling stops as soon as the norms lie within this factor of each other: factors of two do no harm.
_BALANCED = 4.0
# Geometric means: the steps of conjugate gradients, and the logarithm to base 2 that is left over in the mean.
_MAX_STEPS, _CLOSE = 40, 0.01


class Scaling(NamedTuple):
    """Diagonal scaling.

    Attributes:
        variables: D, shape ``(n,)``.
        rows: E, shape ``(m,)``.
        cost: c, a scalar.
        unit: that of all variables, a scalar: D and E are those of ``common`` times and over it.
        common: D, E and c before the last step, which problems with P and A in common share.
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


def equilibrate(qp: QuadraticProgram, *, shared: bool = False) -> Scaling:
    """The scaling of a problem. Derivatives of iterations do not depend on it: it is a constant to them.

    Args:
        qp: the problem.
        shared: whether ``common`` is to be the same for a batch of problems with P and A in common. They do without
            the third step, which depends on q.
    """
    qp = jax.tree.map(lax.stop_gradient, qp)
    variables, rows, cost, curvature = _of_matrices(qp) if qp.has_entries else _of_products(qp)
    if qp.has_entries:
        size = _usual_size(qp, variables, rows, cost, curvature)
        # Far away there is nothing to be kept at.
        below, above = (jnp.abs(rows * bound) <= _HUGE_PRICE * size for bound in (qp.lower, qp.upper))
        of_prices = _of_prices_unless_common if shared else _of_prices
        factors = of_prices(qp.A, cost * variables * qp.q, below, above, size * curvature)
        variables, curvature = variables * factors, curvature * factors
        present, single = _indicator(qp.A, jnp.not_equal), _counts(qp.A, qp.q) == 1
        rows = jnp.where(single, rows / (present.matvec(factors) + jnp.where(single, 0, 1)), rows)
    unit = _power_of_two(_usual_size(qp, variables, rows, cost, curvature))
    linear = unit * jnp.abs(cost * variables * qp.q)
    slope = _power_of_two(1 / _typical(jnp.maximum(unit**2 * curvature, linear)))
    # A row of zeros has no unit that its entries could tell.
    own = jnp.where(_is_zero(qp), rows, rows / unit) if qp.has_entries else rows / unit
    parts = (unit * variables, own, slope * cost, unit, (variables, rows, cost))
    return Scaling(*jax.tree.map(lax.stop_gradient, parts))


def scale(qp: QuadraticProgram, scaling: Scaling) -> QuadraticProgram:
    """The scaled problem."""
    variables, rows, cost, *_ = scaling
    return QuadraticProgram(
        qp.P.scaled(cost * variables, variables),
        cost * variables * qp.q,
        qp.A.scaled(rows, variables),
        rows * qp.lower,
        rows * qp.upper,
    )


def _power_of_two(x):
    """The power of two next to a positive number, exactly; 1 for what is no such number."""
    # Odd powers of the root of two are common, and must not be rounded now down and now up.
    exponent = jnp.round(jnp.log2(jnp.where(x > 0, x, 1)) + 0.1)
    limit = -float(jnp.finfo(x.dtype).minexp)
    exponent = jnp.where(jnp.isfinite(exponent), jnp.clip(exponent, -limit, limit), 0)
    return jnp.ldexp(jnp.ones_like(x), exponent.astype(jnp.int32))


def _typical(sizes):
    """The geometric mean of sizes, of which those of rounding size do not count; 1 if there are none."""
    counts = sizes > jnp.finfo(sizes.dtype).eps * jnp.max(sizes, initial=0)
    counts &= jnp.isfinite(sizes)
    total = jnp.sum(jnp.where(counts, jnp.log2(jnp.where(counts, sizes, 1)), 0))
    return jnp.exp2(total / jnp.maximum(jnp.sum(counts), 1).astype(sizes.dtype))


# ---- The matrices -------------------------------------------------------------------------------------------------


def _of_matrices(qp):
    """D, E, c of the matrices, and the size of the columns of P then."""
    variables, rows, cost = map(_power_of_two, _geometric(qp))

    def norms(variables, rows):
        _, of_P = qp.P.largest(cost * variables, variables)
        of_rows, of_A = qp.A.largest(rows, variables)
        return of_P, jnp.maximum(of_P, of_A), of_rows

    def one_pass(carry):
        variables, rows, _ = carry
        _, of_columns, of_rows = norms(variables, rows)
        both = jnp.concatenate([of_columns, of_rows])
        matters = (both > 0) & jnp.isfinite(both)  # a row of zeros stays as it is
        both = jnp.where(matters, both, 1)
        unbalanced = jnp.maximum(jnp.max(both), 1 / jnp.min(both)) > _BALANCED
        factors = jnp.where(unbalanced, _power_of_two(1 / jnp.sqrt(both)), 1)
        return variables * factors[: variables.size], rows * factors[variables.size :], unbalanced

    carry = (variables, rows, jnp.asarray(True))
    variables, rows, _ = loop(lambda carry: carry[2], one_pass, carry, maxiter=_MAX_PASSES)
    return variables, rows, cost, norms(variables, rows)[0]


def _geometric(qp):
    """The factors with which the logarithms of the entries have the least sum of squares, by conjugate gradients."""
    dtype = qp.q.dtype

    def split(matrix):
        present = matrix.each(lambda a: ((a != 0) & jnp.isfinite(a)).astype(a.dtype))
        logs = matrix.each(lambda a: jnp.log2(jnp.where((a != 0) & jnp.isfinite(a), jnp.abs(a), 1)))
        return present, logs

    (in_P, of_P), (in_A, of_A) = split(qp.P), split(qp.A)
    ones, rows_of_ones = jnp.ones_like(qp.q), jnp.ones_like(qp.lower)
    count_P, count_A, count_rows = in_P.matvec(ones), in_A.rmatvec(rows_of_ones), in_A.matvec(ones)

    def gradient(point, log_P, log_A):
        """Of half the sum of squares, for means of entries that are added to the logarithms of the factors."""
        variables, rows, cost = point
        of_variables = count_P * (variables + cost) + in_P.matvec(variables) + log_P
        of_variables += count_A * variables + in_A.rmatvec(rows) + log_A[0]
        of_rows = count_rows * rows + in_A.matvec(variables) + log_A[1]
        of_cost = jnp.sum(count_P * (0.5 * cost + variables) + 0.5 * log_P)
        return of_variables, of_rows, of_cost

    def hessian(point):
        return gradient(point, 0, (0, 0))

    # Counts of entries are the diagonal but for that of P, which counts twice.
    weights = (count_P + count_A + in_P.diagonal(), count_rows, 0.5 * jnp.sum(count_P))
    weights = jax.tree.map(lambda count: 1 / jnp.maximum(count, 1), weights)
    sums_A = of_A.rmatvec(rows_of_ones), of_A.matvec(ones)
    start = (jnp.zeros_like(qp.q), jnp.zeros_like(qp.lower), jnp.zeros((), dtype))

    def dot(u, v):
        return sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), u, v)))

    def step(carry):
        point, left, direction, size, _ = carry
        image = hessian(direction)
        length = size / jnp.maximum(dot(direction, image), jnp.finfo(dtype).tiny)
        move = lambda a, b: a + length * b  # noqa: E731
        point, left = jax.tree.map(move, point, direction), jax.tree.map(lambda a, b: a - length * b, left, image)
        preconditioned = jax.tree.map(jnp.multiply, weights, left)
        new_size = dot(left, preconditioned)
        ratio = new_size / jnp.maximum(size, jnp.finfo(dtype).tiny)
        direction = jax.tree.map(lambda a, b: a + ratio * b, preconditioned, direction)
        return point, left, direction, new_size, norm(*preconditioned)

    left = jax.tree.map(jnp.negative, gradient(start, of_P.matvec(ones), sums_A))
    direction = jax.tree.map(jnp.multiply, weights, left)
    carry = (start, left, direction, dot(left, direction), norm(*direction))
    (variables, rows, cost), *_ = loop(lambda carry: carry[-1] > _CLOSE, step, carry, maxiter=_MAX_STEPS)
    # The unit of all variables is open. It is a power of two times that of the first one.
    open_part = variables[0] - jnp.round(variables[0])
    parts = (variables - open_part, rows + open_part, cost + 2 * open_part)
    return jax.tree.map(jnp.exp2, parts)


def _of_products(qp):
    """The same for matrices of which only products are known: one size for each of them."""
    probe = jnp.cos(1 + jnp.arange(qp.q.size, dtype=qp.q.dtype) ** 2)

    def size(vector):
        largest = norm(vector)
        return jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)

    rows = jnp.broadcast_to(_power_of_two(1 / size(qp.A.matvec(probe))), qp.lower.shape)
    curvature = norm(qp.P.matvec(probe))
    cost = _power_of_two(1 / size(curvature))
    return jnp.ones_like(qp.q), rows, cost, jnp.broadcast_to(cost * curvature, qp.q.shape)


def _indicator(A, compare):
    """The matrix with 1 where the entries of A compare with 0."""
    return A.each(lambda a: compare(a, 0).astype(a.dtype))


def _counts(A, like):
    """How many entries each row has."""
    return _indicator(A, jnp.not_equal).matvec(jnp.ones_like(like))


def _is_zero(qp):
    """Which rows of A are zero."""
    return _counts(qp.A, qp.q) == 0


# ---- The vectors --------------------------------------------------------------------------------------------------


def _usual_size(qp, variables, rows, cost, curvature):
    """How large the variables of the solution will be, as far as the sizes of the data say so.

    As large as the bounds demand. Beyond that a solution lies where the slope of q is made up for by the curvature, or
    at bounds, whichever is nearer.
    """
    lower, upper = rows * qp.lower, rows * qp.upper
    demanded = norm(jnp.where(lower > 0, lower, jnp.where(upper < 0, upper, 0)))
    slope = jnp.abs(cost * variables * qp.q)
    rounding = jnp.finfo(slope.dtype).eps
    curved = (curvature > rounding * norm(curvature)) & (slope > rounding * norm(slope))
    level = _typical(jnp.where(curved, slope / jnp.where(curved, curvature, 1), 0))
    level = jnp.where(jnp.any(curved), level, jnp.where(norm(slope) > 0, jnp.inf, 0))
    bounds = jnp.abs(jnp.concatenate([lower, upper]))
    bounds = jnp.where(jnp.isfinite(bounds), bounds, 0)
    # Bounds that are 0 but for rounding say nothing.
    largest = jnp.maximum(norm(bounds), jnp.where(jnp.isfinite(level), level, 0))
    bounds = jnp.where(bounds > rounding ** (2 / 3) * largest, bounds, 0)
    size = jnp.minimum(level, jnp.where(jnp.any(bounds > 0), _typical(bounds), jnp.inf))
    size = jnp.maximum(demanded, size)
    return jnp.where(jnp.isfinite(size) & (size > 0), size, 1)


# In the unit of what linear terms usually are, those that are there to forbid something.
_HUGE_PRICE = 1e2


def _of_prices(A, price, lower, upper, usual):
    """Factors for the units of variables that a huge price keeps at a bound of their own; 1 for all others.

    With them the price, the multiplier and the slack are numbers around 1, and the variable takes next to no part in
    other rows.

    Args:
        A: matrix of shape ``(m, n)``.
        price: the linear terms, in the units so far, shape ``(n,)``.
        lower: whether rows have a lower bound, shape ``(m,)``.
        upper: whether they have an upper one, shape ``(m,)``.
        usual: the slope of the curvature in each variable where solutions are likely to be, shape ``(n,)``.
    """
    sizes = jnp.sort(jnp.where(price == 0, jnp.inf, jnp.abs(price)))
    quarter = sizes[jnp.maximum(jnp.sum(jnp.isfinite(sizes)) - 1, 0) // 4]  # usual even if most prices are huge
    usual = jnp.maximum(usual, jnp.where(jnp.isfinite(quarter), quarter, 1))
    # Each row with one entry bounds its variable below, above, or both.
    sides = (jnp.stack([lower, upper], axis=1) & (_counts(A, price) == 1)[:, None]).astype(price.dtype)
    positive, negative = (_indicator(A, sign).rmatvec(sides).T for sign in (jnp.greater, jnp.less))
    held = jnp.where(price > 0, positive[0] + negative[1], positive[1] + negative[0]) > 0
    ratio = jnp.abs(price) / usual
    return jnp.where(held & (ratio > _HUGE_PRICE), _power_of_two(1 / jnp.maximum(ratio, 1)), 1)


@custom_vmap
def _of_prices_unless_common(A, price, lower, upper, usual):
    return _of_prices(A, price, lower, upper, usual)


@_of_prices_unless_common.def_vmap
def _(axis_size, in_batched, A, price, lower, upper, usual):
    if not any(jax.tree.leaves(in_batched[0])):  # problems with a matrix in common keep their scaling in common
        return jnp.ones(price.shape[-1:], price.dtype), False
    axes = [jax.tree.map(lambda batched: 0 if batched else None, part) for part in in_batched]
    return jax.vmap(_of_prices, in_axes=axes, axis_size=axis_size)(A, price, lower, upper, usual), True
