"""Proximity operators made from projections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxsolve._types import PyTree

__all__ = ["make_prox_from_projection"]


def make_prox_from_projection(projection: Callable[..., PyTree]) -> Callable[..., PyTree]:
    r"""The proximity operator of the indicator function of a set, which is the projection on the set.

    Args:
        projection: ``projection(x, hyperparams)``.

    Returns:
        ``prox(x, hyperparams=None, scaling=1.0)``; the scaling has no effect, as the penalty is 0 or infinite.

    Raises:
        TypeError: ``projection`` is not callable.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_non_negative
        >>> from jaxsolve.prox import make_prox_from_projection
        >>> make_prox_from_projection(projection_non_negative)(jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """
    if not callable(projection):
        raise TypeError(f"projection must be a function projection(x, hyperparams), got {type(projection).__name__}.")

    def prox(x: PyTree, hyperparams: Any = None, scaling: Any = 1.0) -> PyTree:
        del scaling
        return projection(x, hyperparams)

    return prox
