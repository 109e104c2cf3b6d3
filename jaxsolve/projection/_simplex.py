r"""Projections on the simplex and, through it, on its sparse vectors and on the sphere and the ball of the l1 norm.

The projection on the simplex subtracts a threshold and cuts at 0. The threshold is the root of a convex, piecewise
linear function; Newton's method started on its left reaches it exactly, in a handful of passes over the data and
without a sort [1]_. It is then computed once more as a differentiable function of the support, so that derivatives of
every order, in both modes, are those of the linear formula that holds on that support.

.. [1] C. Michelot, *A finite algorithm for finding the projection of a point onto the canonical simplex of*
   :math:`R^n`, JOTA 50, 1986. L. Condat, *Fast projection onto the simplex and the l1 ball*, Math. Program. 158, 2016.
"""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._inputs import as_inexact, check_size_of, checked_by, nan_unless, nonnegative_scalar
from jaxsolve._loop import loop
from jaxsolve._types import PyTree
from jaxsolve._vectors import ravel
from jaxsolve.tree_util import tree_size

__all__ = [
    "kl_projection_simplex",
    "projection_l1_ball",
    "projection_l1_sphere",
    "projection_simplex",
    "projection_sparse_simplex",
]


@checked_by(check_size_of("projection_simplex: value"))
def projection_simplex(x: PyTree, value: Any = 1.0) -> PyTree:
    r"""Project on the simplex of the given size.

    .. math::

        \operatorname*{argmin}_{p} \tfrac12 \|p - x\|_2^2
        \quad \text{subject to} \quad p \ge 0, \; \textstyle\sum_i p_i = \text{value}.

    The solution is :math:`p = \max(x - \tau, 0)`. On its support :math:`S = \{i : x_i > \tau\}` the derivative is
    :math:`I - 11^\top / |S|` in ``x`` and :math:`1 / |S|` in ``value``, elsewhere 0; an entry with
    :math:`x_i = \tau` is not in the support. At ``value = 0`` the result and its derivative in ``x`` are 0, and the
    derivative in ``value`` is the one-sided derivative, divided evenly among the largest entries.

    Args:
        x: vector of shape ``(n,)``, or a pytree of arrays, whose entries form one vector together. For the rows of a
            matrix use ``jax.vmap(projection_simplex)``. Entries of ``-inf`` are allowed and get 0.
        value: what the entries sum to, a scalar; None means 1. If it is traced and negative the result is NaN.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``x`` is empty, or a single array that is not a vector; ``value`` is not a scalar or is negative.
        TypeError: ``x`` or ``value`` is not real.

    References:
        J. Duchi, S. Shalev-Shwartz, Y. Singer, T. Chandra, *Efficient projections onto the l1-ball for learning in
        high dimensions*, ICML 2008, equation (3).

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_simplex
        >>> projection_simplex(jnp.array([2.0, 1.5, -1.0])).tolist()
        [0.75, 0.25, 0.0]
    """
    x = _as_one_vector(x, "projection_simplex")
    vector, unravel, value = _vector_and_size(x, value, "projection_simplex: value")
    return unravel(_simplex(vector, value))


@checked_by(check_size_of("projection_l1_sphere: value"))
def projection_l1_sphere(x: PyTree, value: Any = 1.0) -> PyTree:
    r"""Project on the sphere of the l1 norm.

    .. math::

        \operatorname*{argmin}_{y} \tfrac12 \|y - x\|_2^2 \quad \text{subject to} \quad \|y\|_1 = \text{value}.

    The set is not convex. The point returned is :math:`\operatorname{sign}(x) \odot P(|x|)` with :math:`P` the
    projection on the simplex and the sign of 0 taken as 1, so the result has the right norm even at ``x = 0``.

    Args:
        x: pytree of arrays; the norm is over all entries.
        value: radius, a non-negative scalar; None means 1. If it is traced and negative the result is NaN.

    Returns:
        A nearest point, with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``x`` has no entries; ``value`` is not a scalar or is negative.
        TypeError: ``x`` or ``value`` is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_l1_sphere
        >>> projection_l1_sphere(jnp.array([0.25, -0.25])).tolist()
        [0.5, -0.5]
    """
    vector, unravel, value = _vector_and_size(as_inexact(x, "x"), value, "projection_l1_sphere: value")
    return unravel(_l1_sphere(vector, value))


@checked_by(check_size_of("projection_l1_ball: max_value"))
def projection_l1_ball(x: PyTree, max_value: Any = 1.0) -> PyTree:
    r"""Project on the ball of the l1 norm.

    .. math::

        \operatorname*{argmin}_{y} \tfrac12 \|y - x\|_2^2 \quad \text{subject to} \quad \|y\|_1 \le \text{max\_value}.

    On the boundary the derivative is the identity, as inside.

    Args:
        x: pytree of arrays; the norm is over all entries.
        max_value: radius, a non-negative scalar; None means 1. If it is traced and negative the result is NaN.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``x`` has no entries; ``max_value`` is not a scalar or is negative.
        TypeError: ``x`` or ``max_value`` is not real.

    References:
        J. Duchi et al., ICML 2008, section 4 (see :func:`projection_simplex`).

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_l1_ball
        >>> projection_l1_ball({"a": jnp.array([2.0, -1.5]), "b": 0.5})["a"].tolist()
        [0.75, -0.25]
    """
    vector, unravel, max_value = _vector_and_size(as_inexact(x, "x"), max_value, "projection_l1_ball: max_value")
    return unravel(_l1_ball(vector, max_value))


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
        use_approx_max_nz: find the largest entries by ``jax.lax.approx_max_k``, which is faster on accelerators but may
            miss some.
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
    x = _as_one_vector(x, "projection_sparse_simplex")
    if count >= tree_size(x):
        return projection_simplex(x, value)
    vector, unravel = ravel(x)
    fixed = lax.stop_gradient(vector)
    places = (lax.approx_max_k if use_approx_max_nz else lax.top_k)(fixed, count)[1]
    kept = projection_simplex(vector[places], value)
    # NaN is never among the largest by a comparison that means anything.
    kept = nan_unless(~jnp.any(jnp.isnan(fixed)), kept)
    return unravel(jnp.zeros_like(vector).at[places].set(kept, unique_indices=True))


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
    x = _as_one_vector(x, "kl_projection_simplex")
    vector, unravel, value = _vector_and_size(x, value, "kl_projection_simplex: value")
    return unravel(value * jax.nn.softmax(vector))


def _as_one_vector(x, name):
    """The pytree ``x``, which is refused if it is one array that is not a vector: its rows may be meant."""
    x = as_inexact(x, "x")
    if jax.tree.structure(x) == jax.tree.structure(0) and x.ndim != 1:
        raise ValueError(
            f"{name}: x must be a vector or a pytree of arrays, got one array of shape {x.shape}; use jax.vmap({name}) "
            "to project each row."
        )
    return x


def _vector_and_size(x, value, name):
    if tree_size(x) == 0:
        raise ValueError(f"{name.split(':')[0]}: x must have at least one entry, got none.")
    vector, unravel = ravel(x)
    return vector, unravel, nonnegative_scalar(value, name, vector.dtype)


# Compiled once for each shape, so that eager calls do not stage the loop anew.
@jax.jit
def _simplex(x, value):
    # The projection does not change when a constant is added to x; with the largest entry at 0 nothing cancels.
    shifted = x - lax.stop_gradient(jnp.max(x))
    valid = ~jnp.any(jnp.isnan(lax.stop_gradient(shifted))) & ~jnp.isnan(value)
    # At both ends: what does not reach the support is NaN, too.
    shifted = nan_unless(valid, shifted)
    shifted = jnp.where(value == 0, lax.stop_gradient(shifted), shifted)
    threshold = _threshold(lax.stop_gradient(shifted), lax.stop_gradient(value))
    # At size 0 no entry is above the threshold 0, and the largest ones are the support.
    support = ~(lax.stop_gradient(shifted) <= threshold) | ((value == 0) & (shifted == 0))
    size = jnp.maximum(jnp.sum(support, dtype=jnp.int32), 1).astype(x.dtype)
    tau = (jnp.sum(jnp.where(support, shifted, jnp.zeros_like(shifted))) - value) / size
    gap = shifted - tau
    return nan_unless(valid, jnp.where(support & ~(gap < 0), gap, jnp.zeros_like(gap)))


def _threshold(shifted, value):
    """The threshold for ``shifted``, whose largest entry is 0."""
    # The threshold is at least -value: entries below that do not matter, and raising them to it improves the start.
    clipped = jnp.maximum(shifted, -value)

    def newton(carry):
        tau, size, _ = carry
        above = clipped > tau
        new_size = jnp.sum(above, dtype=jnp.int32)
        total = jnp.sum(jnp.where(above, clipped, jnp.zeros_like(clipped)))
        tau = (total - value) / jnp.maximum(new_size, 1).astype(total.dtype)
        return jnp.maximum(tau, -value), new_size, size

    n = clipped.shape[0]
    start = jnp.maximum((jnp.sum(clipped) - value) / n, -value)
    # The set above the threshold only shrinks; when it stays, the threshold is the one of that set.
    init = (start, jnp.int32(n), jnp.int32(n + 1))
    return loop(lambda carry: carry[1] < carry[2], newton, init, maxiter=n + 1)[0]


@jax.jit
def _l1_sphere(x, value):
    sign = jnp.where(x < 0, -jnp.ones_like(x), jnp.ones_like(x))
    return sign * _simplex(sign * x, value)


@jax.jit
def _l1_ball(x, value):
    inside = (jnp.sum(jnp.abs(lax.stop_gradient(x))) <= value) & (value > 0)
    return jnp.where(inside, x, _l1_sphere(x, value))
