r"""Projections on three-dimensional cones with a curved boundary: the exponential cone, the power cone, their duals.

Outside of the simple cases a projection is a point of the boundary that is known up to one number: :math:`y (\rho, 1,
e^\rho)` for the exponential cone [1]_, an entry of absolute value :math:`r` for the power cone [2]_. That number is the
root of one monotone function, and is found by bisection.

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
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._inputs import as_inexact, as_scalar, check_entries, nan_unless, scale_to_unit, widen
from jaxsolve._loop import loop
from jaxsolve._types import Array, PyTree
from jaxsolve.projection._rules import derive_by
from jaxsolve.tree_util import tree_cast_like, tree_map

__all__ = [
    "projection_dual_exponential_cone",
    "projection_dual_power_cone",
    "projection_exponential_cone",
    "projection_power_cone",
]


def projection_exponential_cone(x: PyTree, hyperparams: Any = None) -> PyTree:
    r"""Project on the exponential cone, the closure of :math:`\{(a, b, c) : b e^{a / b} \le c, \; b > 0\}`.

    A point on the curved part of the boundary counts as one outside; at the apex the derivative is 0.

    Args:
        x: vector of shape ``(3,)``, or a pytree of them, each in a cone of its own. For the rows of an array use
            ``jax.vmap``.
        hyperparams: ignored; solvers pass it.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``; NaN if an entry is not finite.

    Raises:
        ValueError: ``x`` is not a vector of three entries, or a pytree of them.
        TypeError: ``x`` is not real.

    References:
        H. A. Friberg, *Projection onto the exponential cone: a univariate root-finding problem*, Optimization Methods
        and Software 38, 2023.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_exponential_cone
        >>> projection_exponential_cone(jnp.array([-1.0, -2.0, 3.0])).tolist()
        [-1.0, 0.0, 3.0]
    """
    del hyperparams
    return _map_triples(_exponential, x, "projection_exponential_cone")


def projection_dual_exponential_cone(x: PyTree, hyperparams: Any = None) -> PyTree:
    r"""Project on the dual of the exponential cone.

    .. math::

        \operatorname{cl} \{(a, b, c) : -a e^{b / a} \le e c, \; a < 0\} .

    By Moreau's identity it is :math:`x + P(-x)`, with :math:`P` the projection on the exponential cone.

    Args:
        x: vector of shape ``(3,)``, or a pytree of them, each in a cone of its own. For the rows of an array use
            ``jax.vmap``.
        hyperparams: ignored; solvers pass it.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``; NaN if an entry is not finite.

    Raises:
        ValueError: ``x`` is not a vector of three entries, or a pytree of them.
        TypeError: ``x`` is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_dual_exponential_cone
        >>> projection_dual_exponential_cone(jnp.array([1.0, 2.0, -3.0])).tolist()
        [0.0, 2.0, 0.0]
    """
    del hyperparams
    return _map_triples(lambda v: v + _exponential(-v), x, "projection_dual_exponential_cone")


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
    return _map_triples(lambda v: _power(v, alpha.astype(v.dtype)), x, "projection_power_cone")


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
    return _map_triples(lambda v: v + _power(-v, alpha.astype(v.dtype)), x, "projection_dual_power_cone")


# ---- What both share -------------------------------------------------------------------------------------------------


def _map_triples(project: Callable[[Array], Array], x: PyTree, name: str) -> PyTree:
    """``project`` for each leaf of ``x``, real vectors of three entries, in working precision."""
    x = as_inexact(x, "x")
    for leaf in jax.tree.leaves(x):
        if leaf.shape != (3,):
            raise ValueError(
                f"{name}: x must be a vector of shape (3,) or a pytree of them, got shape {leaf.shape}; use "
                f"jax.vmap({name}) for the rows of an array."
            )
    return tree_cast_like(tree_map(project, widen(x)), x)


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
def _exponential(v):
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


def _exponent(alpha, name):
    alpha = as_scalar(0.5 if alpha is None else alpha, name, jnp.result_type(float))
    check_entries(lambda v: (v > 0) & (v < 1), alpha, name, "strictly between 0 and 1")
    return alpha


@jax.jit
def _power(v, alpha):
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
