r"""Robust losses: the cost of residuals is :math:`\tfrac12 c^2 \sum_i \rho((r_i / c)^2)`.

Functions and conventions are those of ``scipy.optimize.least_squares``; see Triggs, McLauchlan, Hartley and Fitzgibbon
(2000), "Bundle adjustment: a modern synthesis", section 4.3, for the scaling that brings them into Gauss-Newton models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsolve._types import Array
from jaxsolve.tree_util import tree_vdot

__all__ = ["LOSSES", "RobustTerms", "cost_decrease", "cost_of", "robust_terms"]


def _soft_l1(z):
    return 2 * z / (1 + jnp.sqrt(1 + z))


def _huber(z):
    outside = z > 1
    return jnp.where(outside, 2 * jnp.sqrt(jnp.where(outside, z, 1)) - 1, z)


#: By name; ``None`` stands for the identity.
LOSSES: dict[str, Callable[[Array], Array] | None] = {
    "linear": None,
    "soft_l1": _soft_l1,
    "huber": _huber,
    "cauchy": jnp.log1p,
    "arctan": jnp.arctan,
}


def _rho(loss: str | Callable) -> Callable | None:
    return LOSSES[loss] if isinstance(loss, str) else loss


def cost_of(loss: str | Callable, f_scale: Array, r: Array) -> Array:
    """The cost of a vector of residuals, a scalar."""
    rho = _rho(loss)
    if rho is None:
        return 0.5 * tree_vdot(r, r)  # one kernel, where a sum is three
    return 0.5 * f_scale**2 * jnp.sum(rho((r / f_scale) ** 2))


def cost_decrease(loss: str | Callable, f_scale: Array, old: Array, new: Array) -> Array:
    """The cost of old residuals minus that of new ones, without the rounding errors of the two sums."""
    rho = _rho(loss)
    if rho is None:
        return 0.5 * tree_vdot(old - new, old + new)
    return 0.5 * f_scale**2 * jnp.sum(rho((old / f_scale) ** 2) - rho((new / f_scale) ** 2))


class RobustTerms(NamedTuple):
    """What a loss makes of the residuals ``r`` in a Gauss-Newton model.

    Attributes:
        slope: derivative of the cost in the residuals, ``rho' r``.
        root: factors of the rows of the Jacobian, the square roots of ``rho' + 2 rho'' z``, or a little where that is
            negative; ``None`` without a loss.
        residual: ``slope / root``, the residuals that go with these rows.
    """

    slope: Array
    root: Array | None
    residual: Array


def robust_terms(loss: str | Callable, f_scale: Array, r: Array) -> RobustTerms:
    """The terms at a vector of residuals."""
    rho = _rho(loss)
    if rho is None:
        return RobustTerms(r, None, r)
    z, ones = (r / f_scale) ** 2, jnp.ones_like(r)

    def derivative(z):
        return jax.jvp(rho, (z,), (ones,))[1]

    first, second = jax.jvp(derivative, (z,), (ones,))
    root = jnp.sqrt(jnp.maximum(first + 2 * second * z, float(jnp.finfo(r.dtype).eps)))
    return RobustTerms(first * r, root, first * r / root)
