"""Preconditioners: linear maps that approximate the inverse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxsolve.linear_solve._operators import Codec, Operator, make_operator

__all__ = ["diagonal", "jacobi_preconditioner", "preconditioner_on_vectors"]

PyTree = Any


def diagonal(matvec: Callable | jax.Array, like: PyTree, ridge: Any = None) -> PyTree:
    """The diagonal of a linear map, exactly: the map is materialized, which suits up to some thousand unknowns.

    Args:
        matvec: linear map on pytrees like ``like``, or a dense matrix.
        like: pytree of arrays; only its structure, shapes and dtypes matter.
        ridge: multiple of the identity to add.

    Returns:
        Pytree like ``like``.

    Raises:
        ValueError: the map is not square.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.linear_solve import diagonal
        >>> diagonal(lambda x: jnp.array([1.0, 2.0]) * x + x.sum(), jnp.zeros(2)).tolist()
        [2.0, 3.0]
    """
    codec = Codec(like, "like")
    return codec.unravel(jnp.diagonal(make_operator(matvec, codec, ridge).dense()))


def jacobi_preconditioner(
    matvec: Callable | jax.Array | None, like: PyTree, ridge: Any = None, *, diag: PyTree = None
) -> Callable[[PyTree], PyTree]:
    """Division by the diagonal.

    Args:
        matvec: linear map whose diagonal is taken; may be ``None`` if ``diag`` is given.
        like: pytree of arrays; only its structure, shapes and dtypes matter.
        ridge: multiple of the identity to add.
        diag: the diagonal, a pytree like ``like``, if it is known or estimated.

    Returns:
        Callable on pytrees like ``like``, for the argument ``preconditioner`` of the iterative solvers. Entries of the
        diagonal that are 0 are taken for 1.

    Raises:
        ValueError: neither ``matvec`` nor ``diag`` is given, or shapes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.linear_solve import jacobi_preconditioner, solve_cg
        >>> A = lambda x: jnp.array([1.0, 100.0]) * x
        >>> M = jacobi_preconditioner(A, jnp.zeros(2))
        >>> M(jnp.array([1.0, 100.0])).tolist()
        [1.0, 1.0]
    """
    if diag is None:
        if matvec is None:
            raise ValueError("jacobi_preconditioner needs matvec or diag, got None for both.")
        diag = diagonal(matvec, like)
    codec = Codec(like, "like")
    entries = codec.ravel(diag, "diag")
    if ridge is not None:
        entries = entries + jnp.asarray(ridge).astype(entries.dtype)
    zero = entries == 0
    entries = jnp.where(zero, jnp.ones_like(entries), entries)
    return lambda tree: codec.unravel(codec.ravel(tree, "the argument of the preconditioner") / entries)


def preconditioner_on_vectors(preconditioner: Any, operator: Operator) -> Callable[[jax.Array], jax.Array]:
    """A caller's preconditioner (callable on pytrees, or a dense matrix) as a map on vectors; ``None`` is the identity.

    For a transposed operator it is transposed too.
    """
    if preconditioner is None:
        return lambda vector: vector
    mapped = make_operator(preconditioner, operator.codec)
    return mapped.transpose().matvec if operator.is_transpose else mapped.matvec
