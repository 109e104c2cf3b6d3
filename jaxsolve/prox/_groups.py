"""Proximity operators of norms of whole vectors and matrices, most of them made of simpler ones."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._compat import is_concrete
from jaxsolve._inputs import (
    as_inexact,
    broadcast_like,
    check_nonnegative,
    nonnegative_scalar,
    scale_to_unit,
    unpack,
    widen,
)
from jaxsolve._precision import at_full_precision
from jaxsolve._types import PyTree
from jaxsolve._vectors import ravel
from jaxsolve.isotonic import isotonic_l2_pav, sort_descending
from jaxsolve.projection._box import projection_non_negative
from jaxsolve.projection._simplex import projection_l1_ball
from jaxsolve.projection._spectral import as_matrices, projection_nuclear_norm_ball, shrink
from jaxsolve.prox._penalties import prox_lasso
from jaxsolve.tree_util import tree_cast_like, tree_map, tree_real_dtype, tree_scalar_mul, tree_sub, tree_where

__all__ = [
    "prox_group_lasso",
    "prox_l12",
    "prox_l1inf",
    "prox_linf",
    "prox_non_negative_group_lasso",
    "prox_nuclear_norm",
    "prox_slope",
    "prox_sparse_group_lasso",
    "prox_spectral_norm",
]


def prox_group_lasso(x: PyTree, l2reg: Any = 1.0, scaling: Any = 1.0) -> PyTree:
    r"""Block soft thresholding, the proximity operator of :math:`g(y) = \text{l2reg} \, \|y\|_2`.

    .. math::

        \max\!\left(1 - \frac{\text{scaling} \cdot \text{l2reg}}{\|x\|_2}, 0\right) x .

    The norm is over all entries of the pytree: one group. For many groups of one size use ``jax.vmap``. A point whose
    norm is equal to the threshold has derivative 0, like a point below it. If the threshold is 0, this is the identity,
    also at 0.

    Args:
        x: pytree of arrays, real or complex.
        l2reg: non-negative weight, a scalar; None means 1.
        scaling: as in :func:`prox_lasso`.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``l2reg`` or ``scaling`` is not a scalar, or is negative.
        TypeError: ``x`` is not numeric, or a parameter is not real.

    References:
        M. Yuan and Y. Lin, *Model selection and estimation in regression with grouped variables*, JRSS B 68, 2006.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve.prox import prox_group_lasso
        >>> prox_group_lasso(jnp.array([0.0, 4.0]), 1.0).tolist()
        [0.0, 3.0]
        >>> jax.jacobian(prox_group_lasso)(jnp.zeros(2)).tolist()
        [[0.0, 0.0], [0.0, 0.0]]
    """
    x = as_inexact(x, "x", allow_complex=True)
    return _block_soft_threshold(x, weight_of(l2reg, "l2reg", scaling, tree_real_dtype(x)))


def prox_non_negative_group_lasso(x: PyTree, l2reg: Any = 1.0, scaling: Any = 1.0) -> PyTree:
    r"""Proximity operator of :math:`g(y) = \text{l2reg} \, \|y\|_2` over :math:`y \ge 0`.

    It is :func:`prox_group_lasso` of :math:`\max(x, 0)`, with derivative 0 at the kinks of either.

    Args:
        x: pytree of real arrays: one group. For many groups of one size use ``jax.vmap``.
        l2reg: non-negative weight, a scalar; None means 1.
        scaling: non-negative factor of the penalty, a scalar; solvers pass the step size.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``l2reg`` or ``scaling`` is not a scalar, or is negative.
        TypeError: an argument is not real.

    References:
        The penalty is a norm on the cone :math:`y \ge 0` that grows in every entry; therefore the two maps may be
        composed: Y. Yu, *On decomposing the proximal map*, NeurIPS 2013, section 3.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import prox_non_negative_group_lasso
        >>> prox_non_negative_group_lasso(jnp.array([-3.0, 4.0]), 1.0).tolist()
        [0.0, 3.0]
    """
    return prox_group_lasso(projection_non_negative(x), l2reg, scaling)


def prox_sparse_group_lasso(x: PyTree, hyperparams: Any = None, scaling: Any = 1.0) -> PyTree:
    r"""Proximity operator of :math:`g(y) = \sum_i \text{l1reg}_i |y_i| + \text{l2reg} \, \|y\|_2`.

    It is :func:`prox_lasso` followed by :func:`prox_group_lasso`.

    Args:
        x: pytree of arrays, real or complex: one group. For many groups of one size use ``jax.vmap``.
        hyperparams: the pair ``(l1reg, l2reg)`` of non-negative weights, ``l1reg`` as in :func:`prox_lasso`, ``l2reg``
            a scalar; None means ``(1.0, 1.0)``.
        scaling: non-negative factor of the penalty, a scalar; solvers pass the step size.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``hyperparams`` is not a pair or does not fit ``x``, ``scaling`` is not a scalar, or one of them is
            negative.
        TypeError: ``x`` is not numeric, or a parameter is not real.

    References:
        N. Simon, J. Friedman, T. Hastie, R. Tibshirani, *A sparse-group lasso*, JCGS 22, 2013, section 3.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import prox_sparse_group_lasso
        >>> prox_sparse_group_lasso(jnp.array([0.5, 5.0]), (1.0, 1.0)).tolist()
        [0.0, 3.0]
    """
    l1reg, l2reg = unpack((1.0, 1.0) if hyperparams is None else hyperparams, ("l1reg", "l2reg"))
    return prox_group_lasso(prox_lasso(x, l1reg, scaling), l2reg, scaling)


def prox_linf(x: PyTree, reg: Any = 1.0, scaling: Any = 1.0) -> PyTree:
    r"""Proximity operator of the maximum norm :math:`g(y) = \text{reg} \, \max_i |y_i|`.

    By Moreau's identity it is ``x`` minus its :func:`~jaxsolve.projection.projection_l1_ball` with radius
    :math:`\text{scaling} \cdot \text{reg}`. It reduces the largest entries to one common size.

    Args:
        x: pytree of real arrays; the norm is over all entries.
        reg: non-negative weight, a scalar; None means 1.
        scaling: non-negative factor of the penalty, a scalar; solvers pass the step size.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``reg`` or ``scaling`` is not a scalar, or is negative; ``x`` has no entries.
        TypeError: an argument is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import prox_linf
        >>> prox_linf(jnp.array([3.0, -0.5, -4.0]), 2.0).tolist()
        [2.5, -0.5, -2.5]
    """
    x = as_inexact(x, "x")
    wide = widen(x)
    radius = weight_of(reg, "reg", scaling, tree_real_dtype(wide))
    return tree_cast_like(tree_sub(wide, projection_l1_ball(wide, radius)), x)


@at_full_precision
def prox_nuclear_norm(x: PyTree, reg: Any = 1.0, scaling: Any = 1.0) -> PyTree:
    r"""Singular value thresholding, the proximity operator of :math:`g(y) = \text{reg} \sum_i \sigma_i(y)`.

    The singular values lose :math:`\text{scaling} \cdot \text{reg}` and are cut at 0. Derivatives of every order are
    finite at equal singular values and at singular values of 0. A singular value at the threshold has derivative 0,
    like one below it. If the threshold is 0, this is the identity.

    Args:
        x: matrix of shape ``(m, n)``, or a pytree of matrices, whose penalties are added up. For a stack of matrices
            use ``jax.vmap``.
        reg: non-negative weight, a scalar; None means 1.
        scaling: non-negative factor of the penalty, a scalar; solvers pass the step size.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``. The derivative of a matrix costs an eigendecomposition of
        size m + n.

    Raises:
        ValueError: ``x`` is not a matrix, or a pytree of them; ``reg`` or ``scaling`` is not a scalar, or is negative.
        TypeError: an argument is not real.

    References:
        J.-F. Cai, E. Candes, Z. Shen, *A singular value thresholding algorithm for matrix completion*, SIAM J. Optim.
        20, 2010, theorem 2.1.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import prox_nuclear_norm
        >>> (prox_nuclear_norm(jnp.array([[3.0, 0.0], [0.0, -0.5]]), 1.0).round(4) + 0.0).tolist()
        [[2.0, 0.0], [0.0, 0.0]]
    """
    x = as_matrices(x, "prox_nuclear_norm")
    shrunk = tree_map(lambda leaf: shrink(leaf, weight_of(reg, "reg", scaling, leaf.dtype)), widen(x))
    return tree_cast_like(shrunk, x)


def prox_slope(x: PyTree, weights: Any = None, scaling: Any = 1.0) -> PyTree:
    r"""Proximity operator of the sorted l1 norm (SLOPE, OWL, and OSCAR for weights that fall evenly).

    .. math::

        g(y) = \sum_i \lambda_i |y|_{(i)}, \qquad |y|_{(1)} \ge |y|_{(2)} \ge \dots, \qquad
        \lambda_1 \ge \lambda_2 \ge \dots \ge 0 .

    The sorted :math:`|x|`, minus :math:`\text{scaling} \cdot \lambda`, is replaced by the nearest non-increasing
    sequence, clipped at 0. So entries of nearly the same size get the same size, and the derivative is the average over
    such a group.

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
    if is_concrete(weights) and np.any(np.diff(np.atleast_1d(np.asarray(weights, np.float64))) > 0):
        raise ValueError(f"weights must not increase, got {weights}.")
    scaling = nonnegative_scalar(scaling, "scaling", vector.dtype)
    thresholds = scaling * jnp.broadcast_to(weights.astype(vector.dtype), vector.shape)
    return tree_cast_like(unravel(_slope(vector, thresholds)), x)


def prox_l12(x: PyTree, weights: PyTree = 1.0, scaling: Any = 1.0) -> PyTree:
    r"""Proximity operator of the group lasso on rows, :math:`g(y) = \sum_i \text{weights}_i \, \|y_i\|_2`.

    It is :func:`prox_group_lasso` of each row. For groups of other shapes see :func:`make_prox_groups`.

    Args:
        x: array, real or complex, whose first axis counts the groups, such as a matrix whose rows are the groups; or a
            pytree of such arrays.
        weights: non-negative: a scalar, a vector with a weight for each group, or a pytree of these with the structure
            of ``x``; None means 1.
        scaling: non-negative factor of the penalty, a scalar; solvers pass the step size.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``x`` has a leaf without axes, ``weights`` does not fit it, ``scaling`` is not a scalar, or one of
            them is negative.
        TypeError: ``x`` is not numeric, or a parameter is not real.

    References:
        G. Obozinski, B. Taskar, M. Jordan, *Joint covariate selection and joint subspace selection for multiple
        classification problems*, Statistics and Computing 20, 2010.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import prox_l12
        >>> prox_l12(jnp.array([[0.0, 4.0], [4.0, 0.0]]), jnp.array([1.0, 2.0])).tolist()
        [[0.0, 3.0], [2.0, 0.0]]
    """
    return _of_rows(_block_soft_threshold, as_inexact(x, "x", allow_complex=True), weights, scaling, "prox_l12")


def prox_l1inf(x: PyTree, weights: PyTree = 1.0, scaling: Any = 1.0) -> PyTree:
    r"""Proximity operator of a sum of maximum norms, :math:`g(y) = \sum_i \text{weights}_i \max_j |y_{ij}|`.

    It is :func:`prox_linf` of each row. For groups of other shapes see :func:`make_prox_groups`.

    Args:
        x: array whose first axis counts the groups, such as a matrix whose rows are the groups; or a pytree of such
            arrays.
        weights: as in :func:`prox_l12`.
        scaling: non-negative factor of the penalty, a scalar; solvers pass the step size.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``x`` has a leaf without axes or without entries, ``weights`` does not fit it, ``scaling`` is not a
            scalar, or one of them is negative.
        TypeError: an argument is not real.

    References:
        A. Quattoni, X. Carreras, M. Collins, T. Darrell, *An efficient projection for l1,infinity regularization*, ICML
        2009.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import prox_l1inf
        >>> prox_l1inf(jnp.array([[3.0, 4.0], [-1.0, 0.5]]), 2.0).tolist()
        [[2.5, 2.5], [0.0, 0.0]]
    """
    return _of_rows(_cut_largest, as_inexact(x, "x"), weights, scaling, "prox_l1inf")


@at_full_precision
def prox_spectral_norm(x: PyTree, reg: Any = 1.0, scaling: Any = 1.0) -> PyTree:
    r"""Proximity operator of the spectral norm :math:`g(y) = \text{reg} \, \sigma_{\max}(y)`.

    By Moreau's identity it is ``x`` minus its :func:`~jaxsolve.projection.projection_nuclear_norm_ball` with radius
    :math:`\text{scaling} \cdot \text{reg}`. It reduces the largest singular values to one common size.

    Args:
        x: matrix of shape ``(m, n)``; or a pytree of matrices, for which the norm is the largest singular value of all
            matrices. For a stack of matrices use ``jax.vmap``.
        reg: non-negative weight, a scalar; None means 1.
        scaling: non-negative factor of the penalty, a scalar; solvers pass the step size.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``x`` is not a matrix, or a pytree of them; ``reg`` or ``scaling`` is not a scalar, or is negative.
        TypeError: an argument is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import prox_spectral_norm
        >>> (prox_spectral_norm(jnp.array([[3.0, 0.0], [0.0, -0.5]]), 1.0).round(4) + 0.0).tolist()
        [[2.0, 0.0], [0.0, -0.5]]
    """
    wide = widen(as_matrices(x, "prox_spectral_norm"))
    radius = weight_of(reg, "reg", scaling, tree_real_dtype(wide))
    return tree_cast_like(tree_sub(wide, projection_nuclear_norm_ball(wide, radius)), as_inexact(x, "x"))


def weight_of(reg, name, scaling, dtype):
    """``scaling * reg``, both checked; None stands for 1."""
    return nonnegative_scalar(reg, name, dtype) * nonnegative_scalar(scaling, "scaling", dtype)


def _of_rows(function, x, weights, scaling, name):
    """``function(row, scaling * weight)`` for the entries along the first axis of each leaf."""
    wide = widen(x)
    weights = 1.0 if weights is None else weights
    check_nonnegative(weights, "weights")
    scaling = nonnegative_scalar(scaling, "scaling", jnp.result_type(float))
    for leaf in jax.tree.leaves(wide):
        if leaf.ndim == 0 or leaf.size == 0:
            raise ValueError(f"{name}: the first axis of x counts the groups, got an array of shape {leaf.shape}.")
    fitted = broadcast_like(weights, tree_map(_first_of_rows, wide), "weights")

    def of_leaf(leaf, weight):
        thresholds = jnp.broadcast_to(scaling.astype(weight.dtype) * weight, leaf.shape[:1])
        return jax.vmap(function)(leaf, thresholds)

    return tree_cast_like(tree_map(of_leaf, wide, fitted), x)


def _first_of_rows(leaf):
    return leaf.reshape(leaf.shape[0], -1)[:, 0]


def _cut_largest(x, radius):
    return x - projection_l1_ball(x, radius)


# Compiled once for each shape: run eagerly, each of the many small steps would be compiled by itself.
@jax.jit
def _block_soft_threshold(x, threshold):
    wide = widen(x)
    scale, _, norm = scale_to_unit(wide)
    threshold = threshold / scale
    zero = (norm <= threshold) & (threshold > 0)
    # Both sides of the quotient are made harmless where it is not used, so that its derivative is finite too.
    shrink = jnp.where(zero, 0, threshold) / jnp.where(norm == 0, jnp.ones_like(norm), norm)
    shrunk = tree_scalar_mul(1 - shrink, wide)
    return tree_cast_like(tree_where(zero, 0, shrunk), x)


@jax.jit
def _slope(x, thresholds):
    sign = jnp.where(x < 0, -jnp.ones_like(x), jnp.ones_like(x))
    size = sign * x
    largest_first, place = sort_descending(size)
    falling = isotonic_l2_pav(largest_first - thresholds, increasing=False)
    cut = jnp.where(falling <= 0, jnp.zeros_like(falling), falling)
    shrunk = sign * jnp.take(cut, place, mode="clip")
    return jnp.where(jnp.all(thresholds == 0), x, shrunk)
