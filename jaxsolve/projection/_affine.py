"""Projections on a hyperplane and a halfspace."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._compat import is_concrete
from jaxsolve._inputs import as_inexact, as_scalar, broadcast_like, scale_to_unit, unpack, widen
from jaxsolve._types import PyTree
from jaxsolve.tree_util import tree_cast_like, tree_l2_norm, tree_map, tree_real_dtype, tree_vdot, tree_where

__all__ = ["projection_halfspace", "projection_hyperplane"]


def projection_hyperplane(x: PyTree, hyperparams: tuple) -> PyTree:
    r"""Project on the hyperplane :math:`\{z : \langle a, z \rangle = b\}`.

    .. math::

        x - \frac{\langle a, x \rangle - b}{\|a\|_2^2} \, a .

    Args:
        x: pytree of arrays.
        hyperparams: the pair ``(a, b)``: ``a`` a pytree with the structure of ``x``, or a scalar or array that
            broadcasts to every leaf; ``b`` a scalar. If ``a`` is 0 and traced, the result is ``x`` where the set is
            the whole space, and NaN where it is empty.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``hyperparams`` is not a pair, ``a`` does not fit ``x`` or is 0, ``b`` is not a scalar.
        TypeError: ``x``, ``a`` or ``b`` is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_hyperplane
        >>> projection_hyperplane(jnp.array([1.0, 3.0]), (jnp.array([1.0, 1.0]), 2.0)).tolist()
        [0.0, 2.0]
    """
    return _project(*_prepare(x, hyperparams, "projection_hyperplane"), halfspace=False)


def projection_halfspace(x: PyTree, hyperparams: tuple) -> PyTree:
    r"""Project on the halfspace :math:`\{z : \langle a, z \rangle \le b\}`.

    .. math::

        x - \frac{\max(\langle a, x \rangle - b, 0)}{\|a\|_2^2} \, a .

    On the boundary the derivative is the identity, as inside.

    Args:
        x: pytree of arrays.
        hyperparams: the pair ``(a, b)`` as in :func:`projection_hyperplane`.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``hyperparams`` is not a pair, ``a`` does not fit ``x`` or is 0, ``b`` is not a scalar.
        TypeError: ``x``, ``a`` or ``b`` is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_halfspace
        >>> projection_halfspace(jnp.array([1.0, 3.0]), (jnp.array([1.0, 1.0]), 2.0)).tolist()
        [0.0, 2.0]
        >>> projection_halfspace(jnp.array([1.0, 3.0]), (jnp.array([1.0, 1.0]), 9.0)).tolist()
        [1.0, 3.0]
    """
    return _project(*_prepare(x, hyperparams, "projection_halfspace"), halfspace=True)


def _prepare(x, hyperparams, name):
    a, b = unpack(hyperparams, ("a", "b"))
    if all(is_concrete(leaf) and not np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(a)):
        raise ValueError(f"{name}: a must not be 0, got {a}.")
    x = as_inexact(x, "x")
    return x, broadcast_like(a, widen(x), "a"), as_scalar(b, f"{name}: b", tree_real_dtype(x))


# Compiled once for each shape: run eagerly, each of the many small steps would be compiled by itself.
@functools.partial(jax.jit, static_argnames="halfspace")
def _project(x, a, b, *, halfspace):
    wide = widen(x)
    scale, unit, _ = scale_to_unit(tree_map(lambda v, leaf: jnp.broadcast_to(v, leaf.shape), a, wide))
    # In units of about the largest |a_i|.
    square = tree_l2_norm(unit, squared=True).astype(b.dtype)
    residual = tree_vdot(unit, wide).astype(b.dtype) - b / scale
    outside = residual > 0 if halfspace else residual != 0
    length = jnp.where(outside | (not halfspace), residual, 0) / jnp.where(square == 0, 1, square)
    length = jnp.where((square == 0) & outside, jnp.nan, length)
    moved = tree_cast_like(tree_map(lambda v, u: v - length.astype(v.dtype) * u, wide, unit), x)
    return tree_where(outside, moved, x) if halfspace else moved
