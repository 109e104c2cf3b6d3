"""What the comparison and the bound ask of a solver: its data that move, and the system of its derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxsolve._closure import is_dynamic, split_static
from jaxsolve._types import Array, PyTree
from jaxsolve._vectors import flat
from jaxsolve.base import Solver

__all__ = ["floating_data", "norm_of", "residual_of"]

_POWER_STEPS = 50


def floating_data(args: tuple, kwargs: dict) -> tuple[list, tuple]:
    """The floating-point leaves of the data as arrays, and the rest; ``merge_static`` puts them together.

    Raises:
        ValueError: there is no such leaf.
    """
    leaves, static = split_static((args, kwargs), is_array=_moves)
    if not leaves:
        raise ValueError("the data of the problem have no floating-point leaf: there is nothing to differentiate.")
    return [jnp.asarray(x, jnp.result_type(float) if isinstance(x, float) else None) for x in leaves], static


def _moves(leaf: Any) -> bool:
    return is_dynamic(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def residual_of(solver: Solver, unravel: Callable[[Array], PyTree], args: tuple, kwargs: dict) -> Callable:
    """The mapping that is differentiated, from vectors to vectors."""
    return lambda x: flat(solver._residual(unravel(x), *args, **kwargs))


def norm_of(residual: Callable[[Array], Array], point: Array) -> float:
    """The spectral norm of the Jacobian of a function of vectors, estimated by the power method."""

    @jax.jit
    def estimate(vector):
        matvec = jax.linearize(residual, point)[1]
        transposed = jax.linear_transpose(matvec, point)

        def step(_, vector):
            image = transposed(matvec(vector))[0]
            return image / jnp.linalg.norm(image)

        return jnp.linalg.norm(matvec(jax.lax.fori_loop(0, _POWER_STEPS, step, vector / jnp.linalg.norm(vector))))

    return float(estimate(jax.random.normal(jax.random.key(0), point.shape, point.dtype)))
