r"""Projections on the exponential cone and its dual.

Outside of the simple cases the projection is a point :math:`y (\rho, 1, e^\rho)` of the boundary, and :math:`\rho` the
root of one increasing function [1]_. The derivative comes from the optimality conditions there.

.. [1] H. A. Friberg, *Projection onto the exponential cone: a univariate root-finding problem*, Optimization Methods
   and Software 38, 2023, sections 3 and 4.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._inputs import scale_to_unit
from jaxsolve._loop import loop
from jaxsolve._types import PyTree
from jaxsolve.projection._boundary import along_boundary, map_triples
from jaxsolve.projection._rules import derive_by

__all__ = ["projection_dual_exponential_cone", "projection_exponential_cone"]


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
    return map_triples(_project, x, "projection_exponential_cone")


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
    return map_triples(lambda v: v + _project(-v), x, "projection_dual_exponential_cone")


# Beyond this ratio exp(-ratio) is nothing beside 1, in every dtype.
_STEEP = 50.0


@jax.jit
def _project(v):
    scale, unit, _ = scale_to_unit(v)
    a, b, c = unit
    positive_b, positive_a = b > 0, a > 0
    safe_a, safe_b = jnp.where(positive_a, a, jnp.ones_like(a)), jnp.where(positive_b, b, jnp.ones_like(b))
    a_, b_, c_, safe_a, safe_b = lax.stop_gradient((a, b, c, safe_a, safe_b))
    polar = (positive_a & (a_ * jnp.exp(b_ / safe_a) <= -np.e * c_)) | ((a_ == 0) & (b_ <= 0) & (c_ <= 0))
    face = ~positive_a & ~positive_b
    inside = positive_b & (b_ * jnp.exp(a_ / safe_b) < c_)
    steep = positive_b & (a_ < -_STEEP * b_)
    flat = positive_a & (b_ < -_STEEP * a_)
    smooth = ~(polar | face | inside | steep | flat)

    zero = jnp.zeros_like(c)
    positive_c = jnp.where(c <= 0, zero, c)
    nice = jnp.array([1.0, 1.0, 0.0], v.dtype)
    point = jnp.where(smooth, unit, nice)
    curved = derive_by(_tangent, _on_boundary(lax.stop_gradient(point)), point)
    out = jnp.where(flat, jnp.stack([zero, zero, positive_c]), curved)
    out = jnp.where(steep, jnp.stack([a, b, positive_c]), out)
    out = jnp.where(face, jnp.stack([a, zero, positive_c]), out)
    out = jnp.where(inside, unit, jnp.where(polar, jnp.zeros_like(unit), out))
    return jnp.where(jnp.all(jnp.isfinite(v)), scale * out, jnp.full_like(v, jnp.nan))


def _on_boundary(v):
    """The projection of a point for which it is on the curved part of the boundary."""
    a, b, c = v
    eps, largest = float(jnp.finfo(v.dtype).eps), float(jnp.finfo(v.dtype).max)
    # No solution is further out, for there one of the exponentials is beyond the largest number.
    reach = float(np.log(largest)) + 2 * _STEEP
    far = jnp.full_like(a, jnp.inf)
    to_a = jnp.where(a == 0, -far, 1 - b / jnp.where(a == 0, jnp.ones_like(a), a))
    to_b = jnp.where(b == 0, far, a / jnp.where(b == 0, jnp.ones_like(b), b))
    # Where (rho - 1) a + b and a - rho b are both positive.
    lower = jnp.maximum(jnp.where(a > 0, to_a, -far), jnp.where(b < 0, to_b, -far))
    upper = jnp.minimum(jnp.where(a < 0, to_a, far), jnp.where(b > 0, to_b, far))
    lower, upper = (
        jnp.maximum(lower, jnp.minimum(upper, 0) - reach),
        jnp.minimum(upper, jnp.maximum(lower, 0) + reach),
    )

    def halve(bounds):
        lower, upper = bounds
        rho = (lower + upper) / 2
        primal = ((rho - 1) * a + b) * jnp.exp(rho)
        dual = (a - rho * b) * jnp.exp(-rho)
        high = primal - dual > (rho * rho - rho + 1) * c
        return jnp.where(high, lower, rho), jnp.where(high, rho, upper)

    steps = int(np.ceil(np.log2(4 * reach / eps)))
    lower, upper = loop(lambda _: jnp.asarray(True), halve, (lower, upper), maxiter=steps)
    rho = (lower + upper) / 2
    y = jnp.maximum(((rho - 1) * a + b) / (rho * rho - rho + 1), 0)
    # Of the two forms of the last entry the exponential one is inexact where the exponential is large.
    last = jnp.where(rho > 1, c + (a - rho * b) * jnp.exp(-rho) / (rho * rho - rho + 1), y * jnp.exp(rho))
    return jnp.stack([rho * y, y, last])


def _tangent(p, data, tangents):
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
    out = along_boundary(v_dot, w, gradient, shrink)
    return jnp.where(degenerate, jnp.zeros_like(out), out)
