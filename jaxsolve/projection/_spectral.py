r"""Projections of matrices by their eigenvalues and singular values.

All of them come from the positive part of a symmetric matrix, whose derivatives are described in
:mod:`jaxsolve._cones`.

Singular values of :math:`M` are the positive eigenvalues of :math:`\begin{pmatrix} 0 & M \\ M^\top & 0 \end{pmatrix}`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._cones import matrix_unit, positive_part, positive_semidefinite
from jaxsolve._inputs import as_inexact, nonnegative_scalar, widen
from jaxsolve._precision import at_full_precision
from jaxsolve._rules import derive_by, scalar_root
from jaxsolve._types import Array, PyTree
from jaxsolve.projection._simplex import projection_l1_ball, projection_simplex
from jaxsolve.tree_util import tree_cast_like, tree_map, tree_real_dtype

__all__ = ["projection_nuclear_norm_ball", "projection_psd_cone", "projection_spectrahedron"]


def projection_psd_cone(x: PyTree, hyperparams: Any = None) -> PyTree:
    r"""Project on the cone of symmetric positive semidefinite matrices, in the Frobenius norm.

    The negative eigenvalues of the symmetric part of ``x`` are replaced by 0. An eigenvalue that is 0 to working
    precision counts as negative.

    Args:
        x: matrix of shape ``(n, n)``, or a pytree of square matrices, each in its own cone; only the symmetric part is
            used. For a stack of matrices use ``jax.vmap``.
        hyperparams: ignored; solvers pass it.

    Returns:
        The projection, symmetric, with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``x`` is not a square matrix, or a pytree of them.
        TypeError: ``x`` is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_psd_cone
        >>> (projection_psd_cone(jnp.array([[0.0, 2.0], [2.0, 0.0]])).round(4) + 0.0).tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """
    del hyperparams
    x = as_matrices(x, "projection_psd_cone", square=True)
    return tree_cast_like(tree_map(positive_semidefinite, widen(x)), x)


@at_full_precision
def projection_spectrahedron(x: PyTree, value: Any = 1.0) -> PyTree:
    r"""Project on the spectrahedron: the positive semidefinite matrices of the given trace.

    The eigenvalues of the symmetric part of ``x`` are projected on the simplex; see
    :func:`~jaxsolve.projection.projection_simplex`.

    Args:
        x: matrix of shape ``(n, n)``, or a pytree of square matrices, the diagonal blocks of one matrix; only the
            symmetric part is used. For a stack of matrices use ``jax.vmap``.
        value: the trace, a non-negative scalar; None means 1. If it is traced and negative the result is NaN. At 0 the
            result and its derivatives are 0.

    Returns:
        The projection, symmetric, with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``x`` is not a square matrix, or a pytree of them; ``value`` is not a scalar or is negative.
        TypeError: ``x`` or ``value`` is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_spectrahedron
        >>> (projection_spectrahedron(jnp.diag(jnp.array([2.0, 1.5, -1.0]))).round(4) + 0.0).tolist()
        [[0.75, 0.0, 0.0], [0.0, 0.25, 0.0], [0.0, 0.0, 0.0]]
    """
    x = as_matrices(x, "projection_spectrahedron", square=True)
    whole, blocks = _along_diagonal(widen(x))
    value = nonnegative_scalar(value, "projection_spectrahedron: value", whole.dtype)
    return tree_cast_like(blocks(_spectrahedron(whole, value)), x)


@at_full_precision
def projection_nuclear_norm_ball(x: PyTree, max_value: Any = 1.0) -> PyTree:
    r"""Project on the ball of the nuclear norm, the sum of singular values.

    The singular values are projected on the ball of the l1 norm. On the boundary the derivative is the identity.

    Args:
        x: matrix of shape ``(m, n)``, or a pytree of matrices, whose norms are added up. For a stack of matrices use
            ``jax.vmap``.
        max_value: radius, a non-negative scalar; None means 1. If it is traced and negative the result is NaN. At 0 the
            result and its derivatives are 0.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``x`` is not a matrix, or a pytree of them; ``max_value`` is not a scalar or is negative.
        TypeError: ``x`` or ``max_value`` is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_nuclear_norm_ball
        >>> (projection_nuclear_norm_ball(jnp.array([[2.0, 0.0], [0.0, -1.5]])).round(4) + 0.0).tolist()
        [[0.75, 0.0], [0.0, -0.25]]
    """
    x = as_matrices(x, "projection_nuclear_norm_ball")
    whole, blocks = _along_diagonal(widen(x))
    radius = nonnegative_scalar(max_value, "projection_nuclear_norm_ball: max_value", whole.dtype)
    return tree_cast_like(blocks(_nuclear_ball(whole, radius)), x)


def as_matrices(x: PyTree, name: str, *, square: bool = False) -> PyTree:
    """A pytree of real matrices with at least one entry, checked."""
    x = as_inexact(x, "x")
    for leaf in jax.tree.leaves(x):
        if leaf.ndim != 2 or leaf.size == 0 or (square and leaf.shape[0] != leaf.shape[1]):
            raise ValueError(
                f"{name}: x must be a {'square ' if square else ''}matrix with at least one entry or a pytree of them, "
                f"got shape {leaf.shape}; use jax.vmap({name}) for a stack of them."
            )
    return x


def _along_diagonal(x: PyTree) -> tuple[Array, Callable[[Array], PyTree]]:
    """One matrix with the leaves as blocks along its diagonal, and the way back; it has all their singular values."""
    leaves, structure = jax.tree.flatten(x)
    if len(leaves) == 1:
        return leaves[0], lambda whole: jax.tree.unflatten(structure, [whole])
    dtype = tree_real_dtype(x)
    whole = jax.scipy.linalg.block_diag(*(leaf.astype(dtype) for leaf in leaves))
    ends = np.cumsum([leaf.shape for leaf in leaves], axis=0)

    def blocks(whole):
        parts = [whole[i - leaf.shape[0] : i, j - leaf.shape[1] : j] for leaf, (i, j) in zip(leaves, ends, strict=True)]
        return jax.tree.unflatten(structure, parts)

    return whole, blocks


@jax.jit
def _spectrahedron(x, value):
    unit = matrix_unit(x, value)
    x, value = (x + x.T) / 2 / unit, value / unit
    values, vectors = jnp.linalg.eigh(lax.stop_gradient(x))
    empty = value == 0
    value = jnp.where(empty, jnp.ones_like(value), value)
    # The largest eigenvalue stays positive, and comes last.
    largest = projection_simplex(values, lax.stop_gradient(value))[-1]
    threshold = scalar_root(_excess_trace, values[-1] - largest, x, value, values, vectors)
    return jnp.where(empty, jnp.zeros_like(x), unit * positive_part(x, threshold, values, vectors))


def _excess_trace(threshold, x, value, values, vectors):
    return jnp.trace(positive_part(x, threshold, values, vectors)) - value


@jax.jit
def _nuclear_ball(x, radius):
    unit = matrix_unit(x)
    x, radius = x / unit, radius / unit
    left, values, right = jnp.linalg.svd(lax.stop_gradient(x), full_matrices=False)
    inside = (jnp.sum(values) <= radius) & (radius > 0)
    size = jnp.where(inside, jnp.ones_like(radius), radius)
    projected = (left * projection_l1_ball(values, lax.stop_gradient(size))[None, :]) @ right
    projected = derive_by(_tangent_of_ball, projected, x, size)
    return unit * jnp.where(inside, x, projected)


@jax.jit
def shrink(x: jax.Array, threshold: jax.Array) -> jax.Array:
    """Subtract the threshold from the singular values and cut them at 0; the identity where the threshold is 0."""
    unit = matrix_unit(x, threshold)
    x, threshold = x / unit, threshold / unit
    left, values, right = jnp.linalg.svd(lax.stop_gradient(x), full_matrices=False)
    flat = threshold == 0
    safe = jnp.where(flat, jnp.ones_like(threshold), threshold)
    shrunk = (left * jnp.maximum(values - lax.stop_gradient(safe), 0)[None, :]) @ right
    return unit * jnp.where(flat, x, derive_by(_tangent_of_shrink, shrunk, x, safe))


# The values come from the singular value decomposition; the symmetric matrix of twice the size is for derivatives only.


def _tangent_of_ball(_, data, tangents):
    return jax.jvp(lambda x, radius: _off_diagonal(_spectrahedron(_dilation(x), radius), x), data, tangents)[1]


def _tangent_of_shrink(_, data, tangents):
    def shrunk(x, threshold):
        whole = _dilation(x)
        return _off_diagonal(positive_part(whole, threshold, *jnp.linalg.eigh(lax.stop_gradient(whole))), x)

    return jax.jvp(shrunk, data, tangents)[1]


def _dilation(x):
    m, n = x.shape
    return jnp.block([[jnp.zeros((m, m), x.dtype), x], [x.T, jnp.zeros((n, n), x.dtype)]])


def _off_diagonal(whole, x):
    """The block in the place of ``x``; doubled, for the negative part has the other half."""
    return 2 * whole[: x.shape[0], x.shape[0] :]
