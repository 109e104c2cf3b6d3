"""Projections in the Kullback-Leibler divergence, the geometry of the negative entropy."""

from __future__ import annotations

from typing import Any

import jax

from jaxsolve._types import PyTree
from jaxsolve.projection._simplex import as_one_vector, vector_and_size

__all__ = ["kl_projection_simplex"]


def kl_projection_simplex(x: PyTree, value: Any = 1.0) -> PyTree:
    r"""Project a dual point on the simplex in the Kullback-Leibler divergence: a softmax.

    .. math::

        \operatorname*{argmin}_{p} \textstyle\sum_i p_i (\log p_i - x_i)
        \quad \text{subject to} \quad p \ge 0, \; \textstyle\sum_i p_i = \text{value},

    which is :math:`p_i = \text{value} \cdot e^{x_i} / \sum_j e^{x_j}`. The argument is a point of the dual space, the
    image under the mirror map: to project a positive vector ``q``, pass ``log(q)``. It is the projection that mirror
    descent on the simplex needs, see :class:`jaxsolve.MirrorDescent`.

    Args:
        x: vector of shape ``(n,)``, or a pytree of arrays, whose entries form one vector together. For the rows of a
            matrix use ``jax.vmap(kl_projection_simplex)``. Entries of ``-inf`` are allowed and get 0.
        value: what the entries sum to, a scalar; None means 1.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``x`` is empty, or a single array that is not a vector; ``value`` is not a scalar or is negative.
        TypeError: ``x`` or ``value`` is not real.

    References:
        A. Beck and M. Teboulle, *Mirror descent and nonlinear projected subgradient methods for convex optimization*,
        Operations Research Letters 31, 2003, section 5.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import kl_projection_simplex
        >>> kl_projection_simplex(jnp.log(jnp.array([3.0, 1.0]))).round(4).tolist()
        [0.75, 0.25]
    """
    x = as_one_vector(x, "kl_projection_simplex")
    vector, unravel, value = vector_and_size(x, value, "kl_projection_simplex: value")
    return unravel(value * jax.nn.softmax(vector))
