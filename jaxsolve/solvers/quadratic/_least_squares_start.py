"""Where the active-set method starts: the active set that an interior-point method predicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from jaxsolve._loop import loop
from jaxsolve._types import Array
from jaxsolve.solvers.quadratic._least_squares_problem import Reduced, movable_variables
from jaxsolve.tree_util import tree_all_finite, tree_where

__all__ = ["predict"]


class Interior(NamedTuple):
    """A point strictly between the bounds.

    Attributes:
        z: the variables, shape ``(n,)``.
        room: distances to lower and upper bounds, 1 where there is none; shape ``(2, n)``.
        force: multipliers of lower and upper bounds, 0 where there is none; shape ``(2, n)``.
        gap: by how much the optimality conditions do not hold.
        count: iterations.
    """

    z: Array
    room: Array
    force: Array
    gap: Array
    count: Array


def predict(problem: Reduced, start: Array, maxiter: Any, wanted: Array) -> tuple[Array, Array, Array]:
    """Which variables the bounds will hold, by an interior-point method with normal equations.

    A wrong prediction costs iterations, and nothing else: the solution comes from the factorizations that follow.

    Args:
        problem: in its own units.
        start: a point within the bounds; variables without room stay there.
        maxiter: largest number of iterations.
        wanted: whether there is anything to predict.

    Returns:
        The point, the free variables, and the number of iterations.

    Reference:
        Portugal, Judice and Vicente (1994), "A comparison of block pivoting and interior-point algorithms for linear
        least squares problems with nonnegative variables", sections 3 and 4; Mehrotra (1992), "On the implementation
        of a primal-dual interior point method".
    """
    movable, bounds = movable_variables(problem), jnp.stack([problem.lower, problem.upper])
    dtype, eps = start.dtype, float(jnp.finfo(start.dtype).eps)
    has, sign = movable[None, :] & jnp.isfinite(bounds), jnp.array([[1.0], [-1.0]], dtype)
    C, d = jnp.where(movable[None, :], problem.C, 0), problem.d - problem.C @ jnp.where(movable, 0, start)
    solver = _normal_equations(C)
    size = 1 + jnp.linalg.norm(d - C @ start)  # in the units of the problem the right-hand side is of size 1

    def error(z, room, force):
        """The gradient of the Lagrangian, the mean product of distance and multiplier, and both as one number."""
        gradient = C.T @ (C @ z - d) - jnp.sum(sign * force, axis=0)
        mean = jnp.sum(room * force) / jnp.maximum(jnp.sum(has), 1).astype(dtype)
        return gradient, mean, jnp.maximum(mean, 1e-2 * jnp.max(jnp.abs(gradient)))

    def body(point):
        z, room, force, _, count = point
        gradient, mean, _ = error(z, room, force)
        solve = solver(jnp.where(movable, jnp.sum(force / room, axis=0) + eps**0.75, 1))

        def newton(products):
            """The step to given products of distances and multipliers, and the longest part of it that is allowed."""
            lift = products / room - force
            dz = solve(jnp.sum(jnp.where(has, sign * lift, 0), axis=0) - gradient)
            d_room = jnp.where(has, sign * dz[None, :], 0)
            d_force = jnp.where(has, lift - force / room * d_room, 0)
            longest = jnp.max(jnp.where(has, jnp.maximum(-d_room / room, -d_force / force), 0))
            return dz, d_room, d_force, 1 / jnp.maximum(longest, 1)

        _, d_room, d_force, part = newton(jnp.zeros_like(room))
        affine = error(z, room + part * d_room, force + part * d_force)[1]
        dz, d_room, d_force, part = newton((affine / mean) ** 2 * affine - d_room * d_force)
        step = 0.995 * part
        new = z + step * dz, room + step * d_room, force + step * d_force
        new = Interior(*new, error(*new)[2], count + 1)
        # Where the normal equations give out the last point has to do.
        return tree_where(tree_all_finite(new), new, point._replace(gap=jnp.zeros_like(size), count=count + 1))

    margin = jnp.where(has, jnp.minimum(size, 0.5 * (bounds[1] - bounds[0]))[None, :], -jnp.inf)
    z = jnp.where(movable, jnp.clip(start, bounds[0] + margin[0], bounds[1] - margin[1]), 0)
    room = jnp.where(has, sign * (z[None, :] - bounds), 1)
    force = jnp.where(has, size * jnp.minimum(1, size / room), 0)
    wanted &= jnp.any(has)
    first = Interior(z, room, force, jnp.where(wanted, error(z, room, force)[2], 0), jnp.zeros((), jnp.int32))
    maxiter = jnp.minimum(30, maxiter)
    point = loop(lambda p: (p.gap > size * eps ** (2 / 3)) & (p.count < maxiter), body, first, maxiter=30)
    # Of a weakly active variable distance and multiplier are equally small: it is held.
    held = has & wanted & (point.room <= 100 * point.force)
    held &= (point.room <= point.room[::-1]) | ~held[::-1]
    z = jnp.where(held[0], bounds[0], jnp.where(held[1], bounds[1], jnp.clip(point.z, *bounds)))
    return jnp.where(movable & wanted, z, start), movable & ~jnp.any(held, axis=0), point.count


def _normal_equations(C: Array) -> Callable[[Array], Callable[[Array], Array]]:
    """Solvers of ``C^T C + diag(stiffness)``, by a factorization in the smaller dimension of ``C``."""
    k, n = C.shape

    def factorized(matrix):
        factor = jnp.linalg.cholesky(matrix, symmetrize_input=False)
        return lambda rhs: cho_solve((factor, True), rhs)

    if k == n:
        gram = C.T @ C
        return lambda stiffness: factorized(gram + jnp.diag(stiffness))

    def solver(stiffness):
        solve = factorized(jnp.eye(k, dtype=C.dtype) + (C / stiffness[None, :]) @ C.T)
        return lambda rhs: (rhs - C.T @ solve(C @ (rhs / stiffness))) / stiffness

    return solver
