"""The linear system of the implicit derivative of a solver, and its size."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxsolve._types import Array, PyTree
from jaxsolve.base import Solver
from jaxsolve.implicit_diff import TangentSystem

__all__ = ["linear_map_at", "norm_of"]

_POWER_STEPS = 50


def linear_map_at(solver: Solver, params: PyTree, args: tuple, kwargs: dict) -> tuple[Callable, Array]:
    """The Jacobian of the optimality function in the parameters, as a map on vectors, and a vector to apply it to."""
    system = TangentSystem(solver._residual, solver.implicit_diff_solve, solver._structure)
    point, unravel = ravel_pytree(params)

    def residual(x):
        return ravel_pytree(system.residual(unravel(x), *args, **kwargs))[0]

    return jax.linearize(residual, point)[1], point


def norm_of(matvec: Callable, like: Array) -> float:
    """The spectral norm of a linear map on vectors, estimated by the power method."""

    @jax.jit
    def estimate(vector):
        def step(_, vector):
            image = jax.linear_transpose(matvec, like)(matvec(vector))[0]
            return image / jnp.linalg.norm(image)

        vector = jax.lax.fori_loop(0, _POWER_STEPS, step, vector / jnp.linalg.norm(vector))
        return jnp.linalg.norm(matvec(vector))

    return float(estimate(jax.random.normal(jax.random.key(0), like.shape, like.dtype)))
