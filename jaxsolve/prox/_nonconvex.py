r"""Proximity operators of the folded penalties: counting, MCP and SCAD.

Each solves :math:`\operatorname{argmin}_y \tfrac12 \|y - x\|_2^2 + \text{scaling} \cdot g(y)` globally and in closed
form, for every scaling. The penalties are not convex: where the scaling exceeds what the curvature of the square makes
up for, the operator jumps. On a jump the smaller solution is returned.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxsolve._inputs import check_entries, unpack
from jaxsolve._types import PyTree
from jaxsolve.prox._penalties import entrywise, soft_threshold

__all__ = ["prox_l0", "prox_mcp", "prox_scad"]


def prox_l0(x: PyTree, reg: PyTree = 1.0, scaling: Any = 1.0) -> PyTree:
    r"""Hard thresholding, the proximity operator of :math:`g(y) = \sum_i \text{reg}_i \, [y_i \ne 0]`.

    An entry with :math:`|x_i| > \sqrt{2 \, \text{scaling} \cdot \text{reg}_i}` is kept, with derivative 1; other
    entries become 0, with derivative 0. With weight 0 this is the identity, also at 0.

    Args:
        x: pytree of arrays, real or complex.
        reg: non-negative weights, in the unit of :math:`x^2` divided by that of the scaling: a scalar, an array that
            broadcasts to every leaf, or a pytree with the structure of ``x``; None means 1.
        scaling: non-negative factor of the penalty, a scalar; solvers pass the step size.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``reg`` does not fit ``x``, ``scaling`` is not a scalar, or one of them is negative.
        TypeError: ``x`` is not numeric, or a parameter is not real.

    References:
        T. Blumensath and M. Davies, *Iterative thresholding for sparse approximations*, J. Fourier Anal. Appl. 14,
        2008, equation (2.2).

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import prox_l0
        >>> prox_l0(jnp.array([3.0, -1.0]), 2.0).tolist()
        [3.0, 0.0]
    """

    def threshold(leaf, t, weight):
        limit = jnp.sqrt(2 * t) * jnp.sqrt(weight)
        return jnp.where((jnp.abs(leaf) <= limit) & (limit > 0), jnp.zeros_like(leaf), leaf)

    return entrywise(threshold, x, scaling, reg=reg)


def prox_mcp(x: PyTree, hyperparams: Any = None, scaling: Any = 1.0) -> PyTree:
    r"""Proximity operator of the minimax concave penalty (MCP), firm thresholding.

    .. math::

        g(y) = \sum_i \begin{cases}
            \lambda |y_i| - y_i^2 / (2 \gamma) & |y_i| \le \gamma \lambda \\
            \gamma \lambda^2 / 2 & \text{otherwise.}
        \end{cases}

    For :math:`t = \text{scaling} < \gamma` an entry up to :math:`\gamma \lambda` becomes the result of
    :func:`prox_lasso` divided by :math:`1 - t / \gamma`, and a larger entry does not change. For :math:`t \ge \gamma`
    entries larger than :math:`\sqrt{t \gamma} \lambda` do not change, and other entries become 0. Derivatives at kinks
    are those of :func:`prox_lasso`.

    Args:
        x: pytree of real arrays.
        hyperparams: the pair ``(reg, gamma)``: :math:`\lambda \ge 0`, the slope at 0, and :math:`\gamma > 0`, the
            inverse of the curvature, each a scalar, an array that broadcasts to every leaf, or a pytree with the
            structure of ``x``; None means ``(1.0, 3.0)``.
        scaling: as in :func:`prox_l0`.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``hyperparams`` is not a pair or does not fit ``x``; ``reg`` or ``scaling`` is negative, or
            ``gamma`` not positive.
        TypeError: an argument is not real.

    References:
        C.-H. Zhang, *Nearly unbiased variable selection under minimax concave penalty*, Annals of Statistics 38, 2010.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import prox_mcp
        >>> prox_mcp(jnp.array([0.5, -2.0, 4.0]), (1.0, 2.0), 1.0).tolist()
        [0.0, -2.0, 4.0]
    """
    reg, gamma = unpack((1.0, 3.0) if hyperparams is None else hyperparams, ("reg", "gamma"))
    check_entries(lambda g: g > 0, gamma, "gamma", "positive")
    return entrywise(_mcp, x, scaling, allow_complex=False, reg=reg, gamma=gamma)


@jax.jit
def _mcp(x, t, reg, gamma):
    size = jnp.abs(x)
    convex = t < gamma
    # 1 where it is not used, so that its derivative is finite.
    slack = jnp.where(convex, 1 - t / gamma, jnp.ones_like(t / gamma))
    firm = jnp.where(size <= gamma * reg, soft_threshold(x, t, reg) / slack, x)
    hard = jnp.where(size <= jnp.sqrt(t) * jnp.sqrt(gamma) * reg, jnp.zeros_like(x), x)
    shrunk = jnp.where(convex, firm, hard)
    return jnp.where(t * reg == 0, x, shrunk)


def prox_scad(x: PyTree, hyperparams: Any = None, scaling: Any = 1.0) -> PyTree:
    r"""Proximity operator of the smoothly clipped absolute deviation (SCAD).

    .. math::

        g(y) = \sum_i \begin{cases}
            \lambda |y_i| & |y_i| \le \lambda \\
            (2 a \lambda |y_i| - y_i^2 - \lambda^2) / (2 (a - 1)) & \lambda < |y_i| \le a \lambda \\
            (a + 1) \lambda^2 / 2 & \text{otherwise.}
        \end{cases}

    For :math:`t = \text{scaling} < a - 1` an entry up to :math:`(1 + t) \lambda` becomes the result of
    :func:`prox_lasso`, an entry beyond :math:`a \lambda` does not change, and between them the result is
    :math:`((a - 1) x_i - t a \lambda \operatorname{sign}(x_i)) / (a - 1 - t)`. For larger :math:`t` it jumps from the
    first to the second where both have the same objective. Derivatives at kinks are those of :func:`prox_lasso`.

    Args:
        x: pytree of real arrays.
        hyperparams: the pair ``(reg, a)``. :math:`\lambda \ge 0` is the slope at 0 and also, in the unit of ``x``, the
            size at which the penalty starts to bend. :math:`a > 1`, without unit, makes it flat beyond
            :math:`a \lambda`. Each is a scalar, an array that broadcasts to every leaf, or a pytree with the structure
            of ``x``; None means ``(1.0, 3.7)``.
        scaling: as in :func:`prox_l0`.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``hyperparams`` is not a pair or does not fit ``x``; ``reg`` or ``scaling`` is negative, or ``a`` is
            not above 1.
        TypeError: an argument is not real.

    References:
        J. Fan and R. Li, *Variable selection via nonconcave penalized likelihood and its oracle properties*, JASA 96,
        2001, equation (2.8).

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import prox_scad
        >>> prox_scad(jnp.array([0.5, -1.5, 2.5, 4.0]), (1.0, 3.0), 1.0).tolist()
        [0.0, -0.5, 2.0, 4.0]
    """
    reg, a = unpack((1.0, 3.7) if hyperparams is None else hyperparams, ("reg", "a"))
    check_entries(lambda v: v > 1, a, "a", "above 1")
    return entrywise(_scad, x, scaling, allow_complex=False, reg=reg, a=a)


@jax.jit
def _scad(x, t, reg, a):
    size, soft = jnp.abs(x), soft_threshold(x, t, reg)
    convex = t < a - 1
    slack = jnp.where(convex, a - 1 - t, jnp.ones_like(a - t))
    bent = ((a - 1) * x - t * a * reg * jnp.sign(x)) / slack
    smooth = jnp.where(size <= (1 + t) * reg, soft, jnp.where(size <= a * reg, bent, x))
    # The objectives of `soft` and of `x` are equal here; beyond t = a + 1 that of 0 and of x.
    jump = jnp.where(t <= a + 1, (a + 1 + t) / 2, jnp.sqrt(t) * jnp.sqrt(a + 1)) * reg
    shrunk = jnp.where(convex, smooth, jnp.where(size <= jump, soft, x))
    return jnp.where(t * reg == 0, x, shrunk)
