"""Projections on sets that linear equations describe, and on halfspaces."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._compat import is_concrete
from jaxsolve._inputs import as_inexact, as_scalar, broadcast_like, power_of_two, scale_to_unit, unpack, widen
from jaxsolve._precision import at_full_precision
from jaxsolve._rules import derive_by
from jaxsolve._types import PyTree
from jaxsolve._vectors import ravel
from jaxsolve.tree_util import tree_cast_like, tree_l2_norm, tree_map, tree_real_dtype, tree_vdot, tree_where

__all__ = ["projection_affine_set", "projection_halfspace", "projection_hyperplane"]


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
    return _on_plane(*_prepare(x, hyperparams, "projection_hyperplane"), halfspace=False)


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
    return _on_plane(*_prepare(x, hyperparams, "projection_halfspace"), halfspace=True)


@at_full_precision
def projection_affine_set(x: PyTree, hyperparams: tuple) -> PyTree:
    r"""Project on the affine set :math:`\{z : A z = b\}`.

    .. math::

        x - A^+ (A x - b) ,

    with the pseudo-inverse :math:`A^+`. Rows of :math:`A` may be dependent, and there may be more rows than unknowns.
    If the system has no solution, the projection is on the set of its least-squares solutions. If :math:`A` does not
    have full rank, the derivative in :math:`A` holds for changes that keep its rank; for other changes there is no
    derivative.

    Args:
        x: pytree of arrays with n entries in all.
        hyperparams: the pair ``(A, b)``: a matrix of shape ``(m, n)``, whose columns are in the order of the leaves of
            ``x``, and a vector of shape ``(m,)``.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``hyperparams`` is not a pair, or shapes do not fit.
        TypeError: an argument is not real.

    References:
        G. H. Golub and V. Pereyra, *The differentiation of pseudo-inverses and nonlinear least squares problems whose
        variables separate*, SIAM J. Numer. Anal. 10, 1973, equation (4.12).

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_affine_set
        >>> A, b = jnp.array([[1.0, 0.0], [2.0, 0.0]]), jnp.array([1.0, 2.0])
        >>> projection_affine_set(jnp.array([3.0, 4.0]), (A, b)).round(4).tolist()
        [1.0, 4.0]
    """
    A, b = unpack(hyperparams, ("A", "b"))
    x = as_inexact(x, "x")
    vector, unravel = ravel(x)
    return unravel(on_solutions(vector, *matrix_and_vector(A, b, vector, "projection_affine_set", ("A", "b"))))


def _prepare(x, hyperparams, name):
    a, b = unpack(hyperparams, ("a", "b"))
    if all(is_concrete(leaf) and not np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(a)):
        raise ValueError(f"{name}: a must not be 0, got {a}.")
    x = as_inexact(x, "x")
    return x, broadcast_like(a, widen(x), "a"), as_scalar(b, f"{name}: b", tree_real_dtype(x))


# Compiled once for each shape: run eagerly, each of the many small steps would be compiled by itself.
@functools.partial(jax.jit, static_argnames="halfspace")
def _on_plane(x, a, b, *, halfspace):
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


def matrix_and_vector(A: Any, b: Any, vector: jax.Array, function: str, names: tuple[str, str]) -> tuple:
    """A matrix with a column for each entry of ``vector`` and a vector with an entry for each row, in its dtype."""
    out = []
    for value, name, ndim in ((A, names[0], 2), (b, names[1], 1)):
        if jax.tree.structure(value) != jax.tree.structure(0):
            raise ValueError(f"{function}: {name} must be one array, got {jax.tree.structure(value)}.")
        value = as_inexact(value, name)
        if value.ndim != ndim:
            raise ValueError(f"{function}: {name} must have {ndim} axes, got shape {value.shape}.")
        out.append(widen(value).astype(vector.dtype))
    A, b = out
    if A.shape != (b.size, vector.size):
        raise ValueError(
            f"{function}: {names[0]} must have a row for each entry of {names[1]} and a column for each entry of x, "
            f"({b.size}, {vector.size}); got shape {A.shape}."
        )
    return A, b


@jax.jit
def on_solutions(x, A, b):
    if A.size == 0:
        return x
    # In units of the largest entry of A, so that squares of its inverse neither overflow nor vanish.
    unit = power_of_two(jnp.max(jnp.abs(A)))
    A, b = A / unit, b / unit
    return nearest_solution(x, A, b, jnp.linalg.pinv(lax.stop_gradient(A)))


def nearest_solution(x: jax.Array, A: jax.Array, b: jax.Array, inverse: jax.Array) -> jax.Array:
    """The nearest point with ``A z = b``, given the pseudo-inverse of ``A``, differentiable in the other arguments."""
    inverse = derive_by(_tangent_of_inverse, inverse, A)
    x = x - inverse @ (A @ x - b)
    # Again, for the digits that were lost if x was far away; it changes nothing else, derivatives included.
    return x - inverse @ (A @ x - b)


def _tangent_of_inverse(inverse, data, tangents):
    (A,), (A_dot,) = data, tangents
    m, n = A.shape
    to_left = inverse @ inverse.T @ A_dot.T @ (jnp.eye(m, dtype=A.dtype) - A @ inverse)
    to_right = (jnp.eye(n, dtype=A.dtype) - inverse @ A) @ A_dot.T @ inverse.T @ inverse
    return to_left + to_right - inverse @ A_dot @ inverse
