r"""Proximity operators of penalties that are sums over the entries: losses, barriers, divergences.

Each solves :math:`\operatorname{argmin}_y \tfrac12 \|y - x\|_2^2 + \text{scaling} \cdot g(y)`, entry by entry: in
closed form, or as the root of one equation with the derivative of the implicit function theorem. The formulas are those
of P. L. Combettes and J.-C. Pesquet, *Proximal splitting methods in signal processing*, 2011, table 10.2, where not
said otherwise.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._inputs import check_entries, power_of_two
from jaxsolve._rules import derive_by
from jaxsolve._types import PyTree
from jaxsolve.projection._box import clip
from jaxsolve.prox._penalties import entrywise

__all__ = [
    "prox_hinge",
    "prox_huber",
    "prox_kl",
    "prox_log_barrier",
    "prox_quantile",
    "prox_reverse_kl",
    "prox_squared_hinge",
]


def prox_huber(x: PyTree, delta: PyTree = 1.0, scaling: Any = 1.0) -> PyTree:
    r"""Proximity operator of the Huber penalty.

    The penalty of an entry is :math:`\tfrac12 y_i^2` up to :math:`|y_i| = \delta_i` and
    :math:`\delta_i |y_i| - \tfrac12 \delta_i^2` beyond. With :math:`t = \text{scaling}` the result is

    .. math::

        x_i / (1 + t) \;\text{ if } |x_i| \le (1 + t) \delta_i, \quad
        x_i - t \delta_i \operatorname{sign}(x_i) \;\text{ otherwise.}

    Args:
        x: pytree of real arrays.
        delta: where the penalty turns linear, non-negative: a scalar, an array that broadcasts to every leaf, or a
            pytree with the structure of ``x``; None means 1.
        scaling: non-negative factor of the penalty, a scalar; solvers pass the step size.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``delta`` does not fit ``x``, ``scaling`` is not a scalar, or one of them is negative.
        TypeError: an argument is not real.

    References:
        A. Beck, *First-Order Methods in Optimization*, 2017, example 6.66, for one entry.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import prox_huber
        >>> prox_huber(jnp.array([1.0, -4.0]), 1.0).tolist()
        [0.5, -3.0]
    """

    def shrink(leaf, t, delta):
        return jnp.where(jnp.abs(leaf) <= delta * (1 + t), leaf / (1 + t), leaf - t * delta * jnp.sign(leaf))

    return entrywise(shrink, x, scaling, allow_complex=False, delta=delta)


def prox_quantile(x: PyTree, quantile: PyTree = 0.5, scaling: Any = 1.0) -> PyTree:
    r"""Proximity operator of the quantile (pinball) loss of a residual.

    .. math::

        g(y) = \sum_i q_i \max(y_i, 0) + (1 - q_i) \max(-y_i, 0) .

    An entry in :math:`[-(1 - q_i) t, q_i t]`, with :math:`t = \text{scaling}`, becomes 0, with derivative 0; the others
    are shifted towards 0 by that much. With ``scaling = 0`` this is the identity. For the loss at predictions rather
    than residuals see :func:`make_prox_translated`.

    Args:
        x: pytree of real arrays.
        quantile: in [0, 1]: a scalar, an array that broadcasts to every leaf, or a pytree with the structure of ``x``;
            None means 0.5.
        scaling: as in :func:`prox_huber`.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``quantile`` does not fit ``x`` or is not in [0, 1]; ``scaling`` is not a scalar or is negative.
        TypeError: an argument is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import prox_quantile
        >>> prox_quantile(jnp.array([3.0, 0.5, -3.0]), 0.75, 2.0).tolist()
        [1.5, 0.0, -2.5]
    """
    quantile = 0.5 if quantile is None else quantile
    check_entries(lambda q: (q >= 0) & (q <= 1), quantile, "quantile", "in [0, 1]")
    return entrywise(_quantile, x, scaling, allow_complex=False, quantile=quantile)


@jax.jit
def _quantile(x, t, q):
    above, below = q * t, (1 - q) * t
    zero = (x <= above) & (x >= -below) & (above + below > 0)
    shifted = jnp.where(x > above, x - above, jnp.where(x < -below, x + below, x))
    return jnp.where(zero, jnp.zeros_like(x), shifted)


def prox_hinge(x: PyTree, label: PyTree = 1.0, scaling: Any = 1.0) -> PyTree:
    r"""Proximity operator of the hinge loss :math:`g(y) = \sum_i \max(1 - a_i y_i, 0)` with labels :math:`a_i = \pm 1`.

    .. math::

        x_i + a_i \operatorname{clip}(1 - a_i x_i, 0, \text{scaling}) .

    At the kinks, also at margin 1, the derivative is the identity, as for an entry below margin 1.

    Args:
        x: pytree of real arrays of scores.
        label: -1 or 1: a scalar, an array that broadcasts to every leaf, or a pytree with the structure of ``x``; None
            means 1.
        scaling: as in :func:`prox_huber`.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``label`` does not fit ``x`` or is neither -1 nor 1; ``scaling`` is not a scalar or is negative.
        TypeError: an argument is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import prox_hinge
        >>> prox_hinge(jnp.array([2.0, 0.5, -3.0]), 1.0, 1.0).tolist()
        [2.0, 1.0, -2.0]
    """

    def move(leaf, t, a):
        return leaf + a * clip(1 - a * leaf, jnp.zeros_like(leaf), t)

    return _of_margin(move, x, label, scaling)


def prox_squared_hinge(x: PyTree, label: PyTree = 1.0, scaling: Any = 1.0) -> PyTree:
    r"""Proximity operator of :math:`g(y) = \tfrac12 \sum_i \max(1 - a_i y_i, 0)^2` with labels :math:`a_i = \pm 1`.

    .. math::

        x_i + a_i \frac{\text{scaling}}{1 + \text{scaling}} \max(1 - a_i x_i, 0) .

    Args:
        x: pytree of real arrays of scores.
        label: as in :func:`prox_hinge`.
        scaling: as in :func:`prox_huber`.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``. At margin 1 its derivative is the identity.

    Raises:
        ValueError: ``label`` does not fit ``x`` or is neither -1 nor 1; ``scaling`` is not a scalar or is negative.
        TypeError: an argument is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import prox_squared_hinge
        >>> prox_squared_hinge(jnp.array([2.0, -1.0]), 1.0, 1.0).tolist()
        [2.0, 0.0]
    """

    def move(leaf, t, a):
        gap = 1 - a * leaf
        return leaf + a * (t / (1 + t)) * jnp.where(gap <= 0, jnp.zeros_like(gap), gap)

    return _of_margin(move, x, label, scaling)


def _of_margin(move, x, label, scaling):
    check_entries(lambda a: abs(a) == 1, label, "label", "-1 or 1")
    return entrywise(move, x, scaling, allow_complex=False, signed=True, label=label)


def prox_log_barrier(x: PyTree, weight: PyTree = 1.0, scaling: Any = 1.0) -> PyTree:
    r"""Proximity operator of the logarithmic barrier :math:`g(y) = -\sum_i \text{weight}_i \log y_i`.

    .. math::

        \tfrac12 \bigl(x + \sqrt{x^2 + 4 \, \text{scaling} \cdot \text{weight}}\bigr) .

    Where ``scaling * weight`` is 0 this is the projection on the non-negative numbers, its limit.

    Args:
        x: pytree of real arrays.
        weight: non-negative: a scalar, an array that broadcasts to every leaf, or a pytree with the structure of
            ``x``; None means 1.
        scaling: as in :func:`prox_huber`.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``; positive.

    Raises:
        ValueError: ``weight`` does not fit ``x``, ``scaling`` is not a scalar, or one of them is negative.
        TypeError: an argument is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import prox_log_barrier
        >>> prox_log_barrier(jnp.array([0.0, 1.5]), 1.0).round(4).tolist()
        [1.0, 2.0]
    """
    return entrywise(_positive_root, x, scaling, allow_complex=False, weight=weight)


@jax.jit
def _positive_root(x, t, weight):
    """The positive solution of ``y^2 - x y - t weight = 0``; ``max(x, 0)`` where the product is 0."""
    # In units of a power of two near the result, so that squares neither overflow nor vanish.
    size = power_of_two(jnp.maximum(jnp.abs(x), jnp.sqrt(t) * jnp.sqrt(weight)))
    x, product = x / size, (t / size) * (weight / size)
    flat = (product == 0) & (x <= 0)
    root = jnp.sqrt(jnp.where(flat, jnp.ones_like(x), x**2 + 4 * product))
    # For negative x the sum would cancel.
    shrunk = 2 * product / jnp.where(x < 0, root - x, jnp.ones_like(x))
    y = jnp.where(x < 0, shrunk, (x + root) / 2)
    return jnp.where(flat, jnp.zeros_like(x), size * y)


def prox_reverse_kl(x: PyTree, target: PyTree = 1.0, scaling: Any = 1.0) -> PyTree:
    r"""Proximity operator of the divergence from the target, which fits counts of a Poisson distribution.

    .. math::

        g(y) = \operatorname{KL}(q, y) = \sum_i q_i \log(q_i / y_i) - q_i + y_i , \qquad
        \tfrac12 \bigl(x - t + \sqrt{(x - t)^2 + 4 t q}\bigr), \quad t = \text{scaling} .

    Args:
        x: pytree of real arrays.
        target: :math:`q \ge 0`: a scalar, an array that broadcasts to every leaf, or a pytree with the structure of
            ``x``; None means 1.
        scaling: as in :func:`prox_huber`.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``; non-negative, and positive where ``target`` is.

    Raises:
        ValueError: ``target`` does not fit ``x``, ``scaling`` is not a scalar, or one of them is negative.
        TypeError: an argument is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import prox_reverse_kl
        >>> prox_reverse_kl(jnp.array([1.0, 2.5]), jnp.array([1.0, 1.0])).round(4).tolist()
        [1.0, 2.0]
    """
    return entrywise(lambda leaf, t, q: _positive_root(leaf - t, t, q), x, scaling, allow_complex=False, target=target)


def prox_kl(x: PyTree, target: PyTree = 1.0, scaling: Any = 1.0) -> PyTree:
    r"""Proximity operator of the Kullback-Leibler divergence to a target.

    .. math::

        g(y) = \operatorname{KL}(y, q) = \sum_i y_i \log(y_i / q_i) - y_i + q_i , \qquad
        y = t \, W\!\bigl(\tfrac{q}{t} e^{x / t}\bigr), \quad t = \text{scaling},

    with Lambert's function :math:`W`, computed from the logarithm of its argument, so that nothing overflows. With
    target 1 the penalty is the negative entropy, up to a linear term. Where ``target`` is 0, the result is 0; with
    ``scaling = 0`` it is the projection on the non-negative numbers.

    Args:
        x: pytree of real arrays.
        target: :math:`q \ge 0`: a scalar, an array that broadcasts to every leaf, or a pytree with the structure of
            ``x``; None means 1.
        scaling: as in :func:`prox_huber`.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``; non-negative.

    Raises:
        ValueError: ``target`` does not fit ``x``, ``scaling`` is not a scalar, or one of them is negative.
        TypeError: an argument is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import prox_kl
        >>> prox_kl(jnp.array([1.0, 2.0]), jnp.array([1.0, 2.0])).round(4).tolist()
        [1.0, 2.0]
    """
    return entrywise(_entropic, x, scaling, allow_complex=False, target=target)


@jax.jit
def _entropic(x, t, q):
    """The solution of ``t log(y / q) + y = x``."""
    x, t, q = jnp.broadcast_arrays(x, t, q)
    positive = ~(q <= 0)  # or NaN
    regular = (t > 0) & positive
    t, q = jnp.where(regular, t, jnp.ones_like(t)), jnp.where(regular, q, jnp.ones_like(q))
    y = derive_by(_entropic_tangent, _solve_entropic(*lax.stop_gradient((x, t, q))), x, t, q)
    flat = jnp.where(positive & (x > 0), x, jnp.zeros_like(x))
    return jnp.where(regular, y, flat)


def _solve_entropic(x, t, q):
    # With u = log(y / t) the equation is u + exp(u) = z: increasing and convex, so Newton's method from the right never
    # turns. Far left u = z, far right u = log(z).
    log_ratio = _log_ratio(q, t)
    z = x / t + log_ratio
    z = jnp.clip(z, -jnp.finfo(z.dtype).max, jnp.finfo(z.dtype).max)
    right = z > 1
    u = jnp.where(right, jnp.log(jnp.where(right, z, jnp.ones_like(z))), z)
    for _ in range(7):
        e = jnp.exp(jnp.minimum(u, jnp.log(jnp.finfo(z.dtype).max)))
        u = u - (e + u - z) / (1 + e)
    return jnp.where(right, x + t * (log_ratio - u), t * jnp.exp(u))


def _log_ratio(q, t):
    """``log(q / t)``, exactly the same in every unit, and where the quotient overflows."""
    (q, up), (t, down) = jnp.frexp(q), jnp.frexp(t)
    return jnp.log(q / t) + (up - down).astype(q.dtype) * np.log(2).astype(q.dtype)


def _entropic_tangent(y, data, tangents):
    x, t, q = data
    x_dot, t_dot, q_dot = tangents
    # log(y / q) = (x - y) / t, also where y is too small for a logarithm.
    return y * (x_dot - t_dot * ((x - y) / t) + q_dot * (t / q)) / (t + y)
