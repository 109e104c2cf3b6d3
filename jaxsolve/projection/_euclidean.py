"""Projections on the sphere and the ball of the Euclidean norm."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxsolve._inputs import as_inexact, check_size_of, checked_by, nonnegative_scalar, scale_to_unit, widen
from jaxsolve._types import PyTree
from jaxsolve.tree_util import tree_cast_like, tree_real_dtype, tree_scalar_mul, tree_size, tree_where

__all__ = ["projection_l2_ball", "projection_l2_sphere"]


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
