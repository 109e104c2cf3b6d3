"""The proximity operator of the sorted l1 norm."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._compat import is_concrete
from jaxsolve._inputs import as_inexact, as_scalar, check_nonnegative, ravel, widen
from jaxsolve._types import PyTree
from jaxsolve.isotonic import isotonic_l2_pav, sort_descending
from jaxsolve.tree_util import tree_cast_like

__all__ = ["prox_slope"]


def prox_slope(x: PyTree, weights: Any = None, scaling: Any = 1.0) -> PyTree:
    r"""Proximity operator of the sorted l1 norm (SLOPE, OWL, and OSCAR for weights that fall evenly).

    .. math::

        g(y) = \sum_i \lambda_i |y|_{(i)}, \qquad |y|_{(1)} \ge |y|_{(2)} \ge \dots, \qquad
        \lambda_1 \ge \lambda_2 \ge \dots \ge 0 .

    The sorted :math:`|x|`, less :math:`\text{scaling} \cdot \lambda`, gives way to the nearest sequence that falls, cut
    at 0. So entries of nearly the same size get the same size, and the derivative is the average over such a group.

    Args:
        x: pytree of real arrays with n entries in all.
        weights: :math:`\lambda`, a vector of shape ``(n,)`` that does not increase, or a scalar for all of them; None
            means 1. Equal weights make it :func:`prox_lasso`.
        scaling: non-negative factor of the penalty, a scalar; solvers pass the step size.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``weights`` has the wrong shape, is negative or increases somewhere; ``scaling`` is not a scalar or
            is negative.
        TypeError: an argument is not real.

    References:
        M. Bogdan, E. van den Berg, C. Sabatti, W. Su, E. Candes, *SLOPE: adaptive variable selection via convex
        optimization*, Annals of Applied Statistics 9, 2015, section 2.2.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import prox_slope
        >>> prox_slope(jnp.array([-4.0, 5.0, 0.5]), jnp.array([3.0, 1.0, 1.0])).round(4).tolist()
        [-2.5, 2.5, 0.0]
    """
    x = as_inexact(x, "x")
    vector, unravel = ravel(widen(x))
    weights = as_inexact(1.0 if weights is None else weights, "weights")
    if jax.tree.structure(weights) != jax.tree.structure(0) or weights.shape not in ((), vector.shape):
        raise ValueError(
            f"weights must be a scalar or a vector of shape {vector.shape}, an entry for each of x; got "
            f"{jax.tree.map(jnp.shape, weights)}."
        )
    check_nonnegative(weights, "weights")
    check_nonnegative(scaling, "scaling")
    if is_concrete(weights) and np.any(np.diff(np.atleast_1d(np.asarray(weights, np.float64))) > 0):
        raise ValueError(f"weights must not increase, got {weights}.")
    thresholds = as_scalar(scaling, "scaling", vector.dtype) * jnp.broadcast_to(
        weights.astype(vector.dtype), vector.shape
    )
    return tree_cast_like(unravel(_slope(vector, thresholds)), x)


@jax.jit
def _slope(x, thresholds):
    sign = jnp.where(x < 0, -jnp.ones_like(x), jnp.ones_like(x))
    size = sign * x
    largest_first, place = sort_descending(size)
    falling = isotonic_l2_pav(largest_first - thresholds, increasing=False)
    cut = jnp.where(falling <= 0, jnp.zeros_like(falling), falling)
    shrunk = sign * jnp.take(cut, place, mode="clip")
    return jnp.where(jnp.any(thresholds > 0) | jnp.any(jnp.isnan(thresholds)), shrunk, x)
