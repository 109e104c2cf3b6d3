r"""Projections on the three-dimensional power cone and its dual.

Outside of the simple cases the third entry of the projection has an absolute value :math:`r` that is the root of one
decreasing function, and the others follow from it [1]_. The derivative comes from the optimality conditions there.

.. [1] L. T. K. Hien, *Differential properties of Euclidean projection onto power cone*, Mathematical Methods of
   Operations Research 82, 2015, proposition 2.2.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._inputs import as_scalar, check_entries, scale_to_unit
from jaxsolve._loop import loop
from jaxsolve._types import PyTree
from jaxsolve.projection._boundary import along_boundary, map_triples
from jaxsolve.projection._rules import derive_by

__all__ = ["projection_dual_power_cone", "projection_power_cone"]


def projection_power_cone(x: PyTree, alpha: Any = 0.5) -> PyTree:
    r"""Project on the power cone :math:`\{(a, b, c) : a^\alpha b^{1 - \alpha} \ge |c|, \; a, b \ge 0\}`.

    A point on the curved part of the boundary counts as one outside; at the apex the derivative is 0. Where
    :math:`c = 0` and only one of :math:`a, b` is positive, the derivative in :math:`c` is its limit: 1 if the positive
    one has the larger exponent, 0 if it has the smaller.

    Args:
        x: vector of shape ``(3,)``, or a pytree of them, each in a cone of its own. For the rows of an array use
            ``jax.vmap``.
        alpha: the exponent, a scalar strictly between 0 and 1; None means 0.5. If it is traced and is not, the result
            is NaN.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``; NaN if an entry is not finite.

    Raises:
        ValueError: ``x`` is not a vector of three entries, or a pytree of them; ``alpha`` is not a scalar or not in
            (0, 1).
        TypeError: ``x`` or ``alpha`` is not real.

    References:
        L. T. K. Hien, *Differential properties of Euclidean projection onto power cone*, Mathematical Methods of
        Operations Research 82, 2015.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_power_cone
        >>> projection_power_cone(jnp.array([0.0, 0.0, 3.0]), 0.5).round(4).tolist()
        [1.0, 1.0, 1.0]
    """
    alpha = _exponent(alpha, "projection_power_cone: alpha")
    return map_triples(lambda v: _project(v, alpha.astype(v.dtype)), x, "projection_power_cone")


def projection_dual_power_cone(x: PyTree, alpha: Any = 0.5) -> PyTree:
    r"""Project on the dual of the power cone.

    .. math::

        \Bigl\{(a, b, c) : \Bigl(\frac{a}{\alpha}\Bigr)^\alpha \Bigl(\frac{b}{1 - \alpha}\Bigr)^{1 - \alpha} \ge |c|,
        \; a, b \ge 0\Bigr\} .

    By Moreau's identity it is :math:`x + P(-x)`, with :math:`P` the projection on the power cone.

    Args:
        x: vector of shape ``(3,)``, or a pytree of them, each in a cone of its own. For the rows of an array use
            ``jax.vmap``.
        alpha: as in :func:`projection_power_cone`.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``; NaN if an entry is not finite.

    Raises:
        ValueError: ``x`` is not a vector of three entries, or a pytree of them; ``alpha`` is not a scalar or not in
            (0, 1).
        TypeError: ``x`` or ``alpha`` is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_dual_power_cone
        >>> projection_dual_power_cone(jnp.array([0.0, 0.0, 3.0]), 0.5).round(4).tolist()
        [1.0, 1.0, 2.0]
    """
    alpha = _exponent(alpha, "projection_dual_power_cone: alpha")
    return map_triples(lambda v: v + _project(-v, alpha.astype(v.dtype)), x, "projection_dual_power_cone")


def _exponent(alpha, name):
    alpha = as_scalar(0.5 if alpha is None else alpha, name, jnp.result_type(float))
    check_entries(lambda v: (v > 0) & (v < 1), alpha, name, "strictly between 0 and 1")
    return alpha


@jax.jit
def _project(v, alpha):
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

    nice = jnp.array([0.0, 0.0, 1.0], v.dtype)
    point = jnp.where(smooth & valid, unit, nice)
    exponent = jnp.where(valid, alpha, jnp.full_like(alpha, 0.5))
    curved = derive_by(_tangent, _on_boundary(*lax.stop_gradient((point, exponent))), point, exponent)
    cut = jnp.where(unit[:2] <= 0, jnp.zeros_like(unit[:2]), unit[:2])
    on_level = jnp.append(cut, _slope_of_level(a, b, weight) * unit[2])
    out = jnp.where(inside, unit, jnp.where(level, on_level, curved))
    out = jnp.where(polar, jnp.zeros_like(unit), out)
    return jnp.where(valid, scale * out, jnp.full_like(v, jnp.nan))


def _slope_of_level(a, b, alpha):
    """Limit of the derivative of the third entry where it is 0 and only one of the others is positive."""
    exponent = jnp.where(a > 0, alpha, 1 - alpha)
    positive, other = jnp.maximum(a, b), jnp.abs(jnp.minimum(a, b))
    even = positive / jnp.where(positive > 0, positive + 2 * other, jnp.ones_like(positive))
    return jnp.where(exponent == 0.5, even, (exponent > 0.5).astype(a.dtype))


def _on_boundary(v, alpha):
    """The projection of a point for which it is on the curved part of the boundary, with a third entry."""
    a, b, c = v
    height = jnp.abs(c)

    def entry(a, alpha, u):
        # The positive root of x^2 - a x = alpha (height - r) r.
        product = alpha * height * height * jax.nn.sigmoid(u) * jax.nn.sigmoid(-u)
        root = jnp.sqrt(a * a + 4 * product)
        return jnp.where(a >= 0, (a + root) / 2, 2 * product / jnp.where(a >= 0, jnp.ones_like(root), root - a))

    def halve(bounds):
        lower, upper = bounds
        u = (lower + upper) / 2
        logarithm = alpha * jnp.log(entry(a, alpha, u)) + (1 - alpha) * jnp.log(entry(b, 1 - alpha, u))
        high = logarithm < jnp.log(height) + jax.nn.log_sigmoid(u)
        return jnp.where(high, lower, u), jnp.where(high, u, upper)

    # With r = height sigmoid(u) both r and height - r come out to full relative precision.
    info = jnp.finfo(v.dtype)
    reach = jnp.full_like(height, np.log(float(info.max)))
    steps = int(np.ceil(np.log2(2 * np.log(float(info.max)) / float(info.eps))))
    lower, upper = loop(lambda _: jnp.asarray(True), halve, (-reach, reach), maxiter=steps)
    u = (lower + upper) / 2
    return jnp.stack([entry(a, alpha, u), entry(b, 1 - alpha, u), c * jax.nn.sigmoid(u)])


def _tangent(p, data, tangents):
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
    out = along_boundary(v_dot - turned * alpha_dot, w, gradient, shrink, smaller * ratio * alpha_dot)
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
