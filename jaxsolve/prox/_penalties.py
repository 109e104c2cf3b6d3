r"""Proximity operators of the lasso, ridge and elastic-net penalties.

Each solves :math:`\operatorname{argmin}_y \tfrac12 \|y - x\|_2^2 + \text{scaling} \cdot g(y)` in closed form; see
N. Parikh and S. Boyd, *Proximal algorithms*, Foundations and Trends in Optimization 1(3), 2014, chapter 6.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxsolve._inputs import (
    as_inexact,
    broadcast_like,
    check_nonnegative,
    nan_unless,
    nonnegative_scalar,
    unpack,
    widen,
)
from jaxsolve._types import PyTree
from jaxsolve.projection._box import projection_non_negative
from jaxsolve.tree_util import tree_cast_like

__all__ = ["prox_elastic_net", "prox_lasso", "prox_non_negative_lasso", "prox_non_negative_ridge", "prox_ridge"]


def prox_lasso(x: PyTree, l1reg: PyTree = None, scaling: Any = 1.0) -> PyTree:
    r"""Soft thresholding, the proximity operator of :math:`g(y) = \sum_i \text{l1reg}_i |y_i|`.

    .. math::

        \operatorname{sign}(x) \max(|x| - \text{scaling} \cdot \text{l1reg}, 0).

    An entry at the threshold has derivative 0, like an entry below it. If the threshold is 0, this is the identity,
    also at 0.

    Args:
        x: pytree of arrays, real or complex.
        l1reg: non-negative weights: a scalar, an array that broadcasts to every leaf, or a pytree with the structure
            of ``x``; None means 1.
        scaling: non-negative factor of the penalty, a scalar; solvers pass the step size.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``l1reg`` does not fit ``x``, ``scaling`` is not a scalar, or one of them is negative.
        TypeError: ``x`` is not numeric, or a parameter is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import prox_lasso
        >>> prox_lasso({"w": jnp.array([3.0, -0.5]), "b": jnp.array(1.0)}, {"w": 1.0, "b": 0.0})["w"].tolist()
        [2.0, 0.0]
    """
    return entrywise(soft_threshold, x, scaling, l1reg=l1reg)


def prox_non_negative_lasso(x: PyTree, l1reg: PyTree = None, scaling: Any = 1.0) -> PyTree:
    r"""Proximity operator of :math:`g(y) = \sum_i \text{l1reg}_i \, y_i` over :math:`y \ge 0`.

    .. math::

        \max(x - \text{scaling} \cdot \text{l1reg}, 0), \quad \text{with derivative 0 at the kink.}

    Args:
        x: pytree of real arrays.
        l1reg: as in :func:`prox_lasso`.
        scaling: as in :func:`prox_lasso`.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``l1reg`` does not fit ``x``, ``scaling`` is not a scalar, or one of them is negative.
        TypeError: an argument is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import prox_non_negative_lasso
        >>> prox_non_negative_lasso(jnp.array([3.0, -3.0]), 1.0, 2.0).tolist()
        [1.0, 0.0]
    """
    shift_and_cut = lambda leaf, t, weight: projection_non_negative(leaf - t * weight)  # noqa: E731
    return entrywise(shift_and_cut, x, scaling, allow_complex=False, l1reg=l1reg)


def prox_elastic_net(x: PyTree, hyperparams: Any = None, scaling: Any = 1.0) -> PyTree:
    r"""Proximity operator of :math:`g(y) = \sum_i \lambda_i |y_i| + \tfrac12 \lambda_i \gamma_i y_i^2`.

    .. math::

        \frac{\operatorname{sign}(x) \max(|x| - \text{scaling} \cdot \lambda, 0)}
        {1 + \text{scaling} \cdot \lambda \gamma}.

    Derivatives at the kinks are those of :func:`prox_lasso`.

    Args:
        x: pytree of arrays, real or complex.
        hyperparams: the pair :math:`(\lambda, \gamma)` of non-negative weights, each a scalar, an array that
            broadcasts to every leaf, or a pytree with the structure of ``x``; None means ``(1.0, 1.0)``.
        scaling: as in :func:`prox_lasso`.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``hyperparams`` is not a pair or does not fit ``x``, ``scaling`` is not a scalar, or one of them is
            negative.
        TypeError: ``x`` is not numeric, or a parameter is not real.

    References:
        H. Zou and T. Hastie, *Regularization and variable selection via the elastic net*, JRSS B 67, 2005.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import prox_elastic_net
        >>> prox_elastic_net(jnp.array([3.0, -0.5]), (1.0, 3.0)).tolist()
        [0.5, 0.0]
    """
    l1reg, gamma = unpack((1.0, 1.0) if hyperparams is None else hyperparams, ("l1reg", "gamma"))

    def shrink(leaf, t, weight, ratio):
        return soft_threshold(leaf, t, weight) / (1 + t * weight * ratio).astype(leaf.dtype)

    return entrywise(shrink, x, scaling, l1reg=l1reg, gamma=gamma)


def prox_ridge(x: PyTree, l2reg: PyTree = 1.0, scaling: Any = 1.0) -> PyTree:
    r"""Proximity operator of :math:`g(y) = \tfrac12 \sum_i \text{l2reg}_i \, y_i^2`.

    .. math::

        x / (1 + \text{scaling} \cdot \text{l2reg}).

    Args:
        x: pytree of arrays, real or complex.
        l2reg: non-negative weights: a scalar, an array that broadcasts to every leaf, or a pytree with the structure
            of ``x``; None means 1.
        scaling: as in :func:`prox_lasso`.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``l2reg`` does not fit ``x``, ``scaling`` is not a scalar, or one of them is negative.
        TypeError: ``x`` is not numeric, or a parameter is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import prox_ridge
        >>> prox_ridge(jnp.array([4.0, -2.0]), 0.5, 2.0).tolist()
        [2.0, -1.0]
    """
    return entrywise(lambda leaf, t, weight: leaf / (1 + t * weight).astype(leaf.dtype), x, scaling, l2reg=l2reg)


def prox_non_negative_ridge(x: PyTree, l2reg: PyTree = 1.0, scaling: Any = 1.0) -> PyTree:
    r"""Proximity operator of :math:`g(y) = \tfrac12 \sum_i \text{l2reg}_i \, y_i^2` over :math:`y \ge 0`.

    .. math::

        \max(x, 0) / (1 + \text{scaling} \cdot \text{l2reg}), \quad \text{with derivative 0 at the kink.}

    Args:
        x: pytree of real arrays.
        l2reg: as in :func:`prox_ridge`.
        scaling: as in :func:`prox_lasso`.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``l2reg`` does not fit ``x``, ``scaling`` is not a scalar, or one of them is negative.
        TypeError: an argument is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import prox_non_negative_ridge
        >>> prox_non_negative_ridge(jnp.array([4.0, -2.0]), 0.5, 2.0).tolist()
        [2.0, 0.0]
    """
    return prox_ridge(projection_non_negative(x), l2reg, scaling)


def entrywise(function, x, scaling, *, allow_complex=True, signed=False, **weights):
    """``function(leaf, scaling, *weights)`` for each leaf, in working precision; the result has the dtypes of ``x``.

    The scaling and the weights have the real dtype of the leaf; a weight is 0-d or has its shape, and None stands for
    1. Weights must be non-negative unless they are ``signed``.
    """
    x = as_inexact(x, "x", allow_complex=allow_complex)
    wide = widen(x)
    for name, value in weights.items():
        if not signed:
            check_nonnegative(value, name)
    fitted = [broadcast_like(1.0 if value is None else value, wide, name) for name, value in weights.items()]
    scaling = nonnegative_scalar(scaling, "scaling", jnp.result_type(float))

    def apply(leaf, *weights):
        t = scaling.astype(jnp.finfo(leaf.dtype).dtype)
        known = ~functools.reduce(jnp.logical_or, map(jnp.isnan, (leaf, t, *weights)))
        return nan_unless(known, function(leaf, t, *weights))

    return tree_cast_like(jax.tree.map(apply, wide, *fitted), x)


@jax.jit
def soft_threshold(x, t, weight):
    threshold = t * weight
    # `abs` has derivative 0 at 0, where it is not used unless the threshold is 0, and then as a factor of 0.
    modulus = jnp.abs(x)
    zero = (modulus <= threshold) & (threshold > 0)
    if jnp.iscomplexobj(x):
        shrink = jnp.where(zero, 0, threshold) / jnp.where(zero | (modulus == 0), 1, modulus)
        return jnp.where(zero, jnp.zeros_like(x), x * (1 - shrink).astype(x.dtype))
    return jnp.where(zero, jnp.zeros_like(x), x - jnp.sign(x) * threshold)
