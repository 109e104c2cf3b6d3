"""Projections on sets that the Euclidean norm describes: of all entries, of the groups among them, of a cone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxsolve._cones import second_order
from jaxsolve._inputs import as_inexact, check_size_of, checked_by, nonnegative_scalar, scale_to_unit, widen
from jaxsolve._types import PyTree
from jaxsolve.projection._simplex import projection_l1_ball
from jaxsolve.tree_util import tree_cast_like, tree_l2_norm, tree_real_dtype, tree_scalar_mul, tree_size, tree_where

__all__ = ["projection_l12_ball", "projection_l2_ball", "projection_l2_sphere", "projection_second_order_cone"]


@checked_by(check_size_of("projection_l2_sphere: value"))
def projection_l2_sphere(x: PyTree, value: Any = 1.0) -> PyTree:
    r"""Project on the sphere of the Euclidean norm: :math:`\text{value} \cdot x / \|x\|_2`.

    At ``x = 0`` every point of the sphere is nearest; the one with all entries equal and positive is returned. Its
    derivative in ``x`` is taken as 0.

    Args:
        x: pytree of arrays, real or complex; the norm is over all entries.
        value: radius, a non-negative scalar; None means 1. If it is traced and negative the result is NaN.

    Returns:
        A nearest point, with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``value`` is not a scalar or is negative.
        TypeError: a leaf of ``x`` is not numeric, or ``value`` is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_l2_sphere
        >>> projection_l2_sphere(jnp.array([0.0, 4.0]), 2.0).tolist()
        [0.0, 2.0]
        >>> projection_l2_sphere(jnp.zeros(4)).tolist()
        [0.5, 0.5, 0.5, 0.5]
    """
    x = as_inexact(x, "x", allow_complex=True)
    return _sphere(x, nonnegative_scalar(value, "projection_l2_sphere: value", tree_real_dtype(x)))


@checked_by(check_size_of("projection_l2_ball: max_value"))
def projection_l2_ball(x: PyTree, max_value: Any = 1.0) -> PyTree:
    r"""Project on the ball of the Euclidean norm: :math:`x \cdot \min(1, \text{max\_value} / \|x\|_2)`.

    On the boundary the derivative is the identity, as inside. With ``max_value = 0`` the result and its derivative in
    ``x`` are 0.

    Args:
        x: pytree of arrays, real or complex; the norm is over all entries.
        max_value: radius, a non-negative scalar; None means 1. If it is traced and negative the result is NaN.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``max_value`` is not a scalar or is negative.
        TypeError: a leaf of ``x`` is not numeric, or ``max_value`` is not real.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve.projection import projection_l2_ball
        >>> projection_l2_ball(jnp.array([0.0, 4.0]), 2.0).tolist()
        [0.0, 2.0]
        >>> jax.jacobian(projection_l2_ball)(jnp.zeros(2)).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    x = as_inexact(x, "x", allow_complex=True)
    return _ball(x, nonnegative_scalar(max_value, "projection_l2_ball: max_value", tree_real_dtype(x)))


def projection_l12_ball(x: PyTree, max_value: Any = 1.0) -> PyTree:
    r"""Project on the ball of the group-lasso norm, a sum of Euclidean norms.

    .. math::

        \Bigl\{ y : \sum_g \|y_g\|_2 \le \text{max\_value} \Bigr\} .

    The norms of the groups are projected on the ball of the l1 norm, and each group is scaled to its new norm. On the
    boundary the derivative is the identity, as inside; a group that becomes 0 has derivative 0.

    Args:
        x: array whose first axis counts the groups, such as a matrix whose rows are the groups; or a pytree of such
            arrays, with all their groups together.
        max_value: radius, a non-negative scalar; None means 1. If it is traced and negative the result is NaN.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``x`` has a leaf without axes or no entries; ``max_value`` is not a scalar or is negative.
        TypeError: ``x`` or ``max_value`` is not real.

    References:
        E. van den Berg, M. Schmidt, M. Friedlander, K. Murphy, *Group sparsity via linear-time projection*, technical
        report, University of British Columbia, 2008.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_l12_ball
        >>> projection_l12_ball(jnp.array([[0.0, 2.0], [1.5, 0.0]])).tolist()
        [[0.0, 0.75], [0.25, 0.0]]
    """
    x = as_inexact(x, "x")
    for leaf in jax.tree.leaves(x):
        if leaf.ndim == 0:
            raise ValueError("projection_l12_ball: the first axis of x counts the groups, got a scalar.")
    radius = nonnegative_scalar(max_value, "projection_l12_ball: max_value", jnp.result_type(float))
    return tree_cast_like(_group_ball(widen(x), radius), x)


def projection_second_order_cone(x: PyTree, hyperparams: Any = None) -> PyTree:
    r"""Project on the second-order cone :math:`\{(t, z) : \|z\|_2 \le t\}`.

    .. math::

        (t, z) \;\text{ if } \|z\|_2 < t, \quad 0 \;\text{ if } \|z\|_2 \le -t, \quad
        \tfrac12 \Bigl(1 + \frac{t}{\|z\|_2}\Bigr) (\|z\|_2, z) \;\text{ otherwise.}

    A point on the boundary of the cone has the derivative of points outside; at the apex the derivative is 0.

    Args:
        x: vector whose first entry is ``t`` and whose others are ``z``; or the pair ``(t, z)`` of a scalar and a pytree
            of arrays. For many cones of one size use ``jax.vmap``.
        hyperparams: ignored; solvers pass it.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``x`` is neither a vector with at least one entry nor such a pair.
        TypeError: ``x`` is not real.

    References:
        H. Bauschke, *Projection algorithms and monotone operators*, thesis, 1996, theorem 3.3.6.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_second_order_cone
        >>> projection_second_order_cone(jnp.array([0.0, 2.0, 0.0])).tolist()
        [1.0, 1.0, 0.0]
    """
    del hyperparams
    x = as_inexact(x, "x")
    if jax.tree.structure(x) == jax.tree.structure(0):
        if x.ndim != 1 or x.size == 0:
            raise ValueError(
                "projection_second_order_cone: x must be a vector with at least one entry or a pair (t, z), got one "
                f"array of shape {x.shape}."
            )
        t, z = second_order((x[0], x[1:]))
        return jnp.concatenate([t[None], z])
    if not isinstance(x, (tuple, list)) or len(x) != 2 or jnp.shape(x[0]) != ():
        raise ValueError(
            "projection_second_order_cone: x must be a vector or the pair (t, z) with t a scalar, got "
            f"{jax.tree.map(jnp.shape, x)}."
        )
    return jax.tree.unflatten(jax.tree.structure(x), jax.tree.leaves(second_order((x[0], x[1]))))


# Compiled once for each shape: run eagerly, each of the many small steps would be compiled by itself.
@jax.jit
def _sphere(x, radius):
    _, unit, norm = scale_to_unit(widen(x))
    even = 1.0 / max(tree_size(x), 1) ** 0.5
    direction = tree_where(norm == 0, even, tree_scalar_mul(1 / jnp.where(norm == 0, 1, norm), unit))
    return tree_cast_like(tree_scalar_mul(radius, direction), x)


@jax.jit
def _ball(x, radius):
    wide = widen(x)
    scale, unit, norm = scale_to_unit(wide)
    inside = (norm <= radius / scale) & (radius > 0)
    # An infinite radius would leave NaN in the derivative of the branch that is not taken.
    radius = jnp.where(inside, jnp.zeros_like(radius), radius)
    outside = tree_scalar_mul(radius / jnp.where(norm == 0, 1, norm), unit)
    return tree_cast_like(tree_where(inside, wide, outside), x)


@jax.jit
def _group_ball(x, radius):
    scale, unit, _ = scale_to_unit(x)
    norms = jax.tree.map(jax.vmap(tree_l2_norm), unit)
    radius = radius.astype(scale.dtype) / scale
    total = sum(jnp.sum(norm).astype(scale.dtype) for norm in jax.tree.leaves(norms))
    inside = (total <= radius) & (radius > 0)
    new = projection_l1_ball(norms, jnp.where(inside, jnp.ones_like(radius), radius))

    def resize(leaf, norm, new_norm):
        factor = jnp.where(norm > 0, new_norm / jnp.where(norm > 0, norm, 1), 0)
        return factor.reshape(norm.shape + (1,) * (leaf.ndim - 1)) * leaf

    return tree_where(inside, x, jax.tree.map(resize, x, norms, new))
