"""Projection on the solutions of a linear system."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._inputs import as_inexact, ravel, unpack, widen
from jaxsolve._types import PyTree
from jaxsolve.projection._rules import derive_by

__all__ = ["matrix_and_vector", "projection_affine_set"]


def projection_affine_set(x: PyTree, hyperparams: tuple) -> PyTree:
    r"""Project on the affine set :math:`\{z : A z = b\}`.

    .. math::

        x - A^+ (A x - b) ,

    with the pseudo-inverse :math:`A^+`. Rows of :math:`A` may be dependent, and there may be more of them than
    unknowns. If the system has no solution, the set is that of its least-squares solutions. The derivative in :math:`A`
    of a matrix without full rank is that along changes which keep its rank; the others have none.

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
    return unravel(_project(vector, *matrix_and_vector(A, b, vector, "projection_affine_set", ("A", "b"))))


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
def _project(x, A, b):
    if A.size == 0:
        return x
    inverse = derive_by(_tangent, jnp.linalg.pinv(lax.stop_gradient(A)), A)
    x = x - inverse @ (A @ x - b)
    # Again, for the digits that were lost if x was far away; it changes nothing else, derivatives included.
    return x - inverse @ (A @ x - b)


def _tangent(inverse, data, tangents):
    (A,), (A_dot,) = data, tangents
    m, n = A.shape
    to_left = inverse @ inverse.T @ A_dot.T @ (jnp.eye(m, dtype=A.dtype) - A @ inverse)
    to_right = (jnp.eye(n, dtype=A.dtype) - inverse @ A) @ A_dot.T @ inverse.T @ inverse
    return to_left + to_right - inverse @ A_dot @ inverse
