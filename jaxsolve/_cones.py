r"""Projections of one vector or matrix on one cone, with derivatives of every order.

They stand below everything that needs them: the public functions of :mod:`jaxsolve.projection` and the conic solvers.

**Second-order cone.** A closed form.

**Positive semidefinite matrices.** The projection :math:`P` of a symmetric matrix :math:`X` is its positive part, and
:math:`|X| = 2 P - X`. From :math:`|X|^2 = X^2` follows for the derivative :math:`D` of :math:`P` along :math:`H`

.. math::  |X| D + D |X| = P H + H P .

This Lyapunov equation is linear in :math:`D`, and only the sums :math:`|\lambda_i| + |\lambda_j|` are divided by. So
derivatives of every order are further equations with the same left-hand side: no eigenvector is differentiated, and
equal eigenvalues do no harm. Where both eigenvalues are 0, to working precision, the derivative is taken as 0 [3]_.

**Exponential and power cone.** Outside of the simple cases a projection is a point of the boundary that is known up to
one number: :math:`y (\rho, 1, e^\rho)` for the exponential cone [1]_, an entry of absolute value :math:`r` for the
power cone [2]_. That number is the root of one monotone function, and is found by bisection.

The derivative comes from the optimality conditions there. The projection :math:`p` of :math:`v` on the set
:math:`G(p) \le 0`, outside of it, has :math:`p - v + \lambda \nabla G(p) = 0` and :math:`G(p) = 0`. With
:math:`M = (I + \lambda \nabla^2 G(p))^{-1}` and :math:`g` the gradient, its tangent is
:math:`M (\dot v - \dot\lambda g)`, where :math:`\dot\lambda` keeps it on the boundary. Both cones have a Hessian of
rank one, :math:`w w^\top` times a factor, and the third entry of :math:`w` is 0. In the orthonormal frame of
:math:`w`, the vector across it, and the third axis, :math:`M` is diagonal, and no terms cancel.

.. [1] H. A. Friberg, *Projection onto the exponential cone: a univariate root-finding problem*, Optimization Methods
   and Software 38, 2023, sections 3 and 4.
.. [2] L. T. K. Hien, *Differential properties of Euclidean projection onto power cone*, Mathematical Methods of
   Operations Research 82, 2015, proposition 2.2.
.. [3] N. J. Higham, *Functions of Matrices*, 2008, sections 5.1 and 6.1 (for the sign and the square root); J. Malick
   and H. Sendov, *Clarke generalized Jacobian of the projection onto the cone of positive semidefinite matrices*,
   Set-Valued Analysis 14, 2006.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._inputs import nan_unless, power_of_two, scale_to_unit, widen
from jaxsolve._loop import loop
from jaxsolve._precision import at_full_precision
from jaxsolve._rules import derive_by
from jaxsolve._types import Array, PyTree
from jaxsolve.tree_util import tree_cast_like, tree_l2_norm, tree_scalar_mul, tree_where

__all__ = [
    "dual_exponential",
    "dual_power",
    "exponential",
    "matrix_unit",
    "positive_part",
    "positive_semidefinite",
    "power",
    "second_order",
]


# ---- The second-order cone -------------------------------------------------------------------------------------------


# Compiled once for each shape: run eagerly, each of the many small steps would be compiled by itself.
@jax.jit
def second_order(x: PyTree) -> PyTree:
    """The projection of ``(t, z)``, a scalar and a pytree of real arrays, on the cone ``|z| <= t``."""
    wide = widen(x)
    scale, (t, z), _ = scale_to_unit(wide)
    norm = tree_l2_norm(z).astype(scale.dtype)
    bound = t.astype(scale.dtype)
    inside, polar = norm < bound, norm <= -bound
    safe_norm = jnp.where(inside | polar, 1, norm)
    half = (safe_norm + bound) / 2
    outside = tree_scalar_mul(scale, (half.astype(t.dtype), tree_scalar_mul(half / safe_norm, z)))
    return tree_cast_like(tree_where(inside, wide, tree_where(polar, 0, outside)), x)


# ---- Positive semidefinite matrices ----------------------------------------------------------------------------------


def matrix_unit(x: Array, *sizes: Array) -> Array:
    """A power of two near the largest entry: in its unit no square overflows, and no decomposition has to rescale."""
    return power_of_two(functools.reduce(jnp.maximum, sizes, jnp.max(jnp.abs(x))))


@jax.jit
@at_full_precision
def positive_semidefinite(x: Array) -> Array:
    """The projection of the symmetric part of a matrix on the positive semidefinite ones, in the Frobenius norm."""
    unit = matrix_unit(x)
    x = (x + x.T) / 2 / unit
    return unit * positive_part(x, jnp.zeros((), x.dtype), *jnp.linalg.eigh(lax.stop_gradient(x)))


def positive_part(x: Array, shift: Array, values: Array, vectors: Array) -> Array:
    """The positive part of ``x - shift I``, given the eigenvalues and eigenvectors of ``x``."""
    values, vectors, fixed_shift = lax.stop_gradient((values, vectors, shift))
    noise = 4 * values.size * jnp.finfo(x.dtype).eps * jnp.max(jnp.abs(values))
    values = values - fixed_shift
    part = (vectors * jnp.maximum(values, 0)[None, :]) @ vectors.T
    sums = jnp.abs(values)[:, None] + jnp.abs(values)[None, :]
    negligible = sums <= noise
    inverse = jnp.where(negligible, 0, 1 / jnp.where(negligible, jnp.ones_like(sums), sums))
    shifted = x - shift * jnp.eye(values.size, dtype=x.dtype)
    return derive_by(_tangent_of_part, (part + part.T) / 2, shifted, inverse, vectors)


def _tangent_of_part(part, data, tangents):
    x, inverse, vectors = data
    x_dot = tangents[0]
    modulus = 2 * part - x

    def lyapunov(d):
        return modulus @ d + d @ modulus

    def solve(_, rhs):
        return vectors @ (inverse * (vectors.T @ rhs @ vectors)) @ vectors.T

    return lax.custom_linear_solve(lyapunov, part @ x_dot + x_dot @ part, solve, symmetric=True)


# ---- What the exponential and the power cone share -------------------------------------------------------------------


def _bisect(above_root: Callable[[Array], Array], lower: Array, upper: Array, steps: int) -> Array:
    """The point between the bounds from which on ``above_root`` is true, after so many halvings."""

    def halve(bounds):
        lower, upper = bounds
        middle = (lower + upper) / 2
        above = above_root(middle)
        return jnp.where(above, lower, middle), jnp.where(above, middle, upper)

    lower, upper = loop(lambda _: jnp.asarray(True), halve, (lower, upper), maxiter=steps)
    return (lower + upper) / 2


def _along_boundary(v_dot: Array, w: Array, gradient: Array, shrink: Array, slope: Array | float = 0.0) -> Array:
    """The tangent ``M (v_dot - c g)`` with ``c`` such that its product with ``g`` is ``slope``.

    Args:
        v_dot: shape ``(3,)``.
        w: unit vector of shape ``(2,)``.
        gradient: any multiple of ``g``, in the frame, shape ``(3,)``.
        shrink: the entry of ``M`` that belongs to ``w``, in (0, 1]; the other two are 1.
        slope: in the units of ``gradient``.
    """
    diagonal = jnp.stack([shrink, jnp.ones_like(shrink), jnp.ones_like(shrink)])
    # Of size 1, so that squares do not vanish.
    size = jnp.max(jnp.abs(gradient) * jnp.sqrt(diagonal))
    size = jnp.where(size > 0, size, jnp.ones_like(size))
    gradient, slope = gradient / size, slope / size
    moved = diagonal * jnp.stack([w[0] * v_dot[0] + w[1] * v_dot[1], w[0] * v_dot[1] - w[1] * v_dot[0], v_dot[2]])
    bent = diagonal * gradient
    out = moved - bent * ((jnp.sum(gradient * moved) - slope) / jnp.sum(gradient * bent))
    return jnp.stack([w[0] * out[0] - w[1] * out[1], w[1] * out[0] + w[0] * out[1], out[2]])


# ---- The exponential cone --------------------------------------------------------------------------------------------


# Beyond this ratio exp(-ratio) is nothing beside 1, in every dtype.
_STEEP = 50.0


@jax.jit
def exponential(v: Array) -> Array:
    """The projection of a vector of three entries on the exponential cone; NaN if an entry is not finite."""
    scale, unit, _ = scale_to_unit(v)
    a, b, c = lax.stop_gradient(unit)
    polar = ((a > 0) & (a * jnp.exp(b / a) <= -np.e * c)) | ((a == 0) & (b <= 0) & (c <= 0))
    inside = (b > 0) & (b * jnp.exp(a / b) < c)
    steep = (b > 0) & (a < -_STEEP * b)
    flat = (a > 0) & (b < -_STEEP * a)
    on_face = ((a <= 0) & (b <= 0)) | steep | flat
    smooth = ~(polar | inside | on_face)

    point = jnp.where(smooth, unit, jnp.array([1.0, 1.0, 0.0], v.dtype))
    curved = derive_by(_exponential_tangent, _on_exponential(lax.stop_gradient(point)), point)
    x, y, z = unit
    face = jnp.stack([jnp.where(x > 0, 0, x), jnp.where(y > 0, y, 0), jnp.where(z > 0, z, 0)])
    out = jnp.where(on_face, face, curved)
    out = jnp.where(inside, unit, jnp.where(polar, jnp.zeros_like(unit), out))
    return nan_unless(jnp.all(jnp.isfinite(v)), scale * out)


def dual_exponential(v: Array) -> Array:
    """The projection on the dual of the exponential cone, by Moreau's identity."""
    return v + exponential(-v)


def _on_exponential(v):
    """The projection of a point for which it is on the curved part of the boundary."""
    a, b, c = v
    eps, largest = float(jnp.finfo(v.dtype).eps), float(jnp.finfo(v.dtype).max)
    # No solution is further out, for there one of the exponentials is beyond the largest number.
    reach = float(np.log(largest)) + 2 * _STEEP
    far = jnp.full_like(a, jnp.inf)
    # Where (rho - 1) a + b and a - rho b are both positive.
    to_a, to_b = 1 - b / a, a / b
    lower = jnp.maximum(jnp.where(a > 0, to_a, -far), jnp.where(b < 0, to_b, -far))
    upper = jnp.minimum(jnp.where(a < 0, to_a, far), jnp.where(b > 0, to_b, far))
    least, most = jnp.minimum(upper, 0) - reach, jnp.maximum(lower, 0) + reach
    lower, upper = jnp.maximum(lower, least), jnp.minimum(upper, most)

    def above_root(rho):
        primal = ((rho - 1) * a + b) * jnp.exp(rho)
        dual = (a - rho * b) * jnp.exp(-rho)
        return primal - dual > (rho * rho - rho + 1) * c

    rho = _bisect(above_root, lower, upper, int(np.ceil(np.log2(4 * reach / eps))))
    y = jnp.maximum(((rho - 1) * a + b) / (rho * rho - rho + 1), 0)
    # Of the two forms of the last entry the exponential one is inexact where the exponential is large.
    last = jnp.where(rho > 1, c + (a - rho * b) * jnp.exp(-rho) / (rho * rho - rho + 1), y * jnp.exp(rho))
    return jnp.stack([rho * y, y, last])


def _exponential_tangent(p, data, tangents):
    r"""The boundary is :math:`G(p) = y e^{x / y} - z = 0`; its Hessian is a multiple of :math:`w w^\top`."""
    x, y, _ = p
    (v_dot,) = tangents
    degenerate = ~(y > 0)
    y = jnp.where(degenerate, jnp.ones_like(y), y)
    rho = x / y
    # The exponential over the larger of itself and 1, and 1 over the same.
    over, under = jnp.exp(jnp.minimum(rho, 0)), jnp.exp(-jnp.maximum(rho, 0))
    length = jnp.sqrt(1 + rho * rho)
    w = jnp.stack([1 / length, -rho / length])
    gradient = jnp.stack([over * (1 - rho + rho * rho) / length, over / length, -under])
    # The multiplier is z - c, but for what cancels in that.
    a, b, _ = data[0]
    rest = (a - rho * b) / (rho * rho - rho + 1)
    shrink = y / (y + jnp.where(rest > 0, rest, jnp.zeros_like(rest)) * length**2)
    out = _along_boundary(v_dot, w, gradient, shrink)
    return jnp.where(degenerate, jnp.zeros_like(out), out)


# ---- The power cone --------------------------------------------------------------------------------------------------


@jax.jit
def power(v: Array, alpha: Array) -> Array:
    """The projection of a vector of three entries on the power cone; NaN if an entry is not finite."""
    scale, unit, _ = scale_to_unit(v)
    a, b, c = lax.stop_gradient(unit)
    weight = lax.stop_gradient(alpha)
    height = jnp.abs(c)

    def mean(a, b):
        return jnp.maximum(a, 0) ** weight * jnp.maximum(b, 0) ** (1 - weight)

    polar = (a <= 0) & (b <= 0) & (mean(-a, -b) >= height * weight**weight * (1 - weight) ** (1 - weight))
    inside = (a > 0) & (b > 0) & (mean(a, b) > height)
    level = (c == 0) & ~polar & ~inside
    smooth = ~(polar | inside | level)
    valid = jnp.all(jnp.isfinite(v)) & (weight > 0) & (weight < 1)

    point = jnp.where(smooth & valid, unit, jnp.array([0.0, 0.0, 1.0], v.dtype))
    exponent = jnp.where(valid, alpha, jnp.full_like(alpha, 0.5))
    curved = derive_by(_power_tangent, _on_power(*lax.stop_gradient((point, exponent))), point, exponent)
    cut = jnp.where(unit[:2] <= 0, jnp.zeros_like(unit[:2]), unit[:2])
    on_level = jnp.append(cut, _slope_of_level(a, b, weight) * unit[2])
    out = jnp.where(inside, unit, jnp.where(level, on_level, curved))
    out = jnp.where(polar, jnp.zeros_like(unit), out)
    return nan_unless(valid, scale * out)


def dual_power(v: Array, alpha: Array) -> Array:
    """The projection on the dual of the power cone, by Moreau's identity."""
    return v + power(-v, alpha)


def _slope_of_level(a, b, alpha):
    """Limit of the derivative of the third entry where it is 0 and only one of the others is positive."""
    exponent = jnp.where(a > 0, alpha, 1 - alpha)
    positive, other = jnp.maximum(a, b), jnp.abs(jnp.minimum(a, b))
    even = positive / jnp.where(positive > 0, positive + 2 * other, jnp.ones_like(positive))
    return jnp.where(exponent == 0.5, even, (exponent > 0.5).astype(a.dtype))


def _on_power(v, alpha):
    """The projection of a point for which it is on the curved part of the boundary, with a third entry."""
    a, b, c = v
    height = jnp.abs(c)

    def entry(a, alpha, u):
        # The positive root of x^2 - a x = alpha (height - r) r.
        product = alpha * height * height * jax.nn.sigmoid(u) * jax.nn.sigmoid(-u)
        root = jnp.sqrt(a * a + 4 * product)
        return jnp.where(a >= 0, (a + root) / 2, 2 * product / jnp.where(a >= 0, jnp.ones_like(root), root - a))

    def above_root(u):
        logarithm = alpha * jnp.log(entry(a, alpha, u)) + (1 - alpha) * jnp.log(entry(b, 1 - alpha, u))
        return logarithm < jnp.log(height) + jax.nn.log_sigmoid(u)

    # With r = height sigmoid(u) both r and height - r come out to full relative precision.
    info = jnp.finfo(v.dtype)
    reach = np.log(float(info.max))
    steps = int(np.ceil(np.log2(2 * reach / float(info.eps))))
    u = _bisect(above_root, jnp.full_like(height, -reach), jnp.full_like(height, reach), steps)
    return jnp.stack([entry(a, alpha, u), entry(b, 1 - alpha, u), c * jax.nn.sigmoid(u)])


def _power_tangent(p, data, tangents):
    r"""The boundary is :math:`G(p) = |z| - x^\alpha y^{1 - \alpha} = 0`; its Hessian is a multiple of :math:`w w^\top`.

    With :math:`\alpha` moving, the gradient turns, and :math:`\lambda \partial_\alpha \nabla G \, \dot\alpha` is taken
    from :math:`\dot v`.
    """
    v, alpha = data
    v_dot, alpha_dot = tangents
    x, y, z = p
    r = jnp.abs(z)
    # So close to an edge that powers of the entries are 0: the derivative is the limit at the edge.
    least = float(jnp.finfo(p.dtype).tiny) ** (1 / 3)
    degenerate = ~(jnp.minimum(jnp.minimum(x, y), r) > least)
    x, y, r = (jnp.where(degenerate, jnp.ones_like(u), u) for u in (x, y, r))
    # Everything is in units of the smaller of x and y.
    smaller = jnp.minimum(x, y)
    to_x, to_y = smaller / x, smaller / y
    length = jnp.sqrt(to_x**2 + to_y**2)
    w = jnp.stack([to_x, -to_y]) / length
    along_w = ((1 - alpha) * to_y**2 - alpha * to_x**2) / length
    gradient = jnp.stack([along_w, -to_x * to_y / length, jnp.sign(z) * smaller / r])
    flat = smaller * smaller
    curved = flat + alpha * (1 - alpha) * _product(jnp.stack([x, y, r]), v, alpha) * length**2
    shrink = jnp.where(curved > 0, flat / jnp.where(curved > 0, curved, jnp.ones_like(curved)), jnp.ones_like(flat))
    # multiplier * r / x = (x - a) / alpha, and likewise for y.
    ratio = jnp.log(x) - jnp.log(y)
    turned_x = -(1 + alpha * ratio) * (x - v[0]) / alpha
    turned_y = (1 - (1 - alpha) * ratio) * (y - v[1]) / (1 - alpha)
    turned = jnp.stack([turned_x, turned_y, jnp.zeros_like(turned_x)])
    out = _along_boundary(v_dot - turned * alpha_dot, w, gradient, shrink, smaller * ratio * alpha_dot)
    edge = jnp.stack([(v[0] > 0).astype(x.dtype), (v[1] > 0).astype(x.dtype), _slope_of_level(v[0], v[1], alpha)])
    return jnp.where(degenerate, lax.stop_gradient(edge) * v_dot, out)


def _product(p, v, alpha):
    """The multiplier times ``r``, by that one of three equal expressions in which least cancels."""
    x, y, r = p
    a, b, height = v[0], v[1], jnp.abs(v[2])
    gap_x, gap_y, gap_r = x - a, y - b, height - r
    by_x, by_y = x * gap_x / alpha, y * gap_y / (1 - alpha)
    in_x, in_y, in_r = gap_x / x, gap_y / y, gap_r / height
    return jnp.where((in_x >= in_y) & (in_x >= in_r), by_x, jnp.where(in_y >= in_r, by_y, gap_r * r))
