"""Projection on the sparse vectors of the simplex."""

from __future__ import annotations

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._inputs import ravel
from jaxsolve._types import PyTree
from jaxsolve.projection._simplex import as_one_vector, projection_simplex
from jaxsolve.tree_util import tree_size

__all__ = ["projection_sparse_simplex"]


def projection_sparse_simplex(x: PyTree, max_nz: int, use_approx_max_nz: bool = False, value: Any = 1.0) -> PyTree:
    r"""Project on the vectors of the simplex with few entries that are not 0.

    .. math::

        \operatorname*{argmin}_{p} \tfrac12 \|p - x\|_2^2 \quad \text{subject to} \quad p \ge 0, \;
        \textstyle\sum_i p_i = \text{value}, \; \|p\|_0 \le \text{max\_nz} .

    The set is not convex. A nearest point is the projection of the ``max_nz`` largest entries on the simplex, with 0
    elsewhere; among equal entries those that come first are taken. The derivative is that of
    :func:`~jaxsolve.projection.projection_simplex` on these entries.

    Args:
        x: vector of shape ``(n,)``, or a pytree of arrays, whose entries form one vector together. For the rows of a
            matrix use ``jax.vmap``.
        max_nz: largest number of entries that are not 0, a Python integer of at least 1.
        use_approx_max_nz: find the largest entries by ``jax.lax.approx_max_k``, which is faster on accelerators, and
            may miss some.
        value: what the entries sum to, a non-negative scalar; None means 1. If it is traced and negative the result is
            NaN.

    Returns:
        A nearest point, with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``x`` is empty, or a single array that is not a vector; ``max_nz < 1``; ``value`` is not a scalar or
            is negative.
        TypeError: ``x`` or ``value`` is not real, or ``max_nz`` is not an integer.

    References:
        A. Kyrillidis, S. Becker, V. Cevher, C. Koch, *Sparse projections onto the simplex*, ICML 2013, algorithm 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_sparse_simplex
        >>> projection_sparse_simplex(jnp.array([0.5, 0.25, 0.5, 0.0]), 2).tolist()
        [0.5, 0.0, 0.5, 0.0]
    """
    try:
        count = operator.index(max_nz)
    except TypeError as error:
        raise TypeError(f"max_nz must be a Python integer, got {type(max_nz).__name__}.") from error
    if count < 1:
        raise ValueError(f"max_nz must be at least 1, got {max_nz}.")
    x = as_one_vector(x, "projection_sparse_simplex")
    if count >= tree_size(x):
        return projection_simplex(x, value)
    vector, unravel = ravel(x)
    places = _places_of_largest(vector, count, bool(use_approx_max_nz))
    kept = projection_simplex(vector[places], value)
    # NaN is never among the largest by a comparison that means anything.
    kept = jnp.where(jnp.any(jnp.isnan(lax.stop_gradient(vector))), jnp.full_like(kept, jnp.nan), kept)
    return unravel(jnp.zeros_like(vector).at[places].set(kept, unique_indices=True))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _places_of_largest(vector, count, approximate):
    vector = lax.stop_gradient(vector)
    return (lax.approx_max_k(vector, count) if approximate else lax.top_k(vector, count))[1]
