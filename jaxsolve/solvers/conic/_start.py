"""Starts of the interior-point method next to a given point."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from jaxsolve._types import Array
from jaxsolve.linear_solve import solve_cg
from jaxsolve.solvers.conic._homogeneous import Point
from jaxsolve.solvers.conic._newton_step import cone_center, scaling_at
from jaxsolve.solvers.conic._program import Program
from jaxsolve.solvers.conic._relaxed import relaxed_multipliers
from jaxsolve.solvers.conic.cones import Cones
from jaxsolve.solvers.quadratic._residuals import norm

__all__ = ["estimated_multipliers", "warm_start"]

# The complementary products of a warm start are as large as the given point is far from a solution, between these.
_LEAST, _MOST = 1e-4, 1.0
# How far inside of the cones slacks are taken where they say what multipliers cost.
_INSIDE = 1e-3
# Conjugate gradients for estimated multipliers.
_ESTIMATE_TOL, _ESTIMATE_MAXITER = 1e-6, 200


def warm_start(program: Program, cones: Cones, x: Array, y: Array) -> Point:
    """A point of the embedding with ``x``, and on the central path as far as the cones are concerned.

    Slacks and multipliers are those of the central path with the same difference. So they are inside of the cones,
    however exactly the given ones are complementary.

    Args:
        program: the scaled program.
        cones: the cones.
        x: the variables, shape ``(n,)``.
        y: the multipliers, shape ``(m,)``.
    """
    # A constant, like a cold start, where derivatives of the iterations are wanted.
    (P, c, A, b), x, y = lax.stop_gradient((program, x, y))
    y, s = cones.project_dual(y), b - A @ x
    nearest = cones.project(s)
    # How far the point is from being optimal: violations, slopes, and what is not complementary.
    off = norm(s - nearest, P @ x + c + y @ A, y - cones.project_dual(y - nearest))
    mu = jnp.clip(off, _LEAST, _MOST)
    mu = jnp.where(jnp.isfinite(mu), mu, 1)
    v = jnp.where(jnp.isfinite(y - nearest), y - nearest, 0)
    z = relaxed_multipliers(cones, v, mu)
    one = jnp.ones_like(mu)
    return Point(x, z, jnp.where(jnp.arange(v.size) < cones.zero, 0, z - v), one, mu)


def estimated_multipliers(program: Program, cones: Cones, x: Array) -> Array:
    """Multipliers in the dual cones that come next to stationarity at a point, by least squares.

    Multipliers cost the more the deeper inside of the cones slacks are in their direction: what is minimized is
    :math:`|P x + c + A^T y|^2 + y^T H y`, where H is the inverse of the Hessian of the barrier at the slacks.

    Args:
        program: the scaled program.
        cones: the cones.
        x: the variables, shape ``(n,)``.
    """
    program, x = lax.stop_gradient((program, x))
    P, c, A, b = program
    nearest, center = cones.project(b - A @ x), cone_center(cones, x.dtype)
    # The point of the central path with these slacks, a little inside: there s and its shadow have the scaling H.
    inside = nearest + _INSIDE * center
    mu = _INSIDE**2
    shadow = relaxed_multipliers(cones, -inside, mu)
    scaling, is_zero = scaling_at(cones, shadow + inside, shadow / mu), jnp.arange(b.size) < cones.zero
    half = jnp.where(is_zero[:, None], A / _INSIDE, scaling.half_of(A))  # F A with H^{-1} = F^T F
    diagonal = 1 + jnp.sum(half**2, axis=0)

    def matvec(u):
        return u + (half @ u) @ half

    # By products, like the multipliers of quadratic programs: no factorization that others could have to wait for.
    limits = {"tol": _ESTIMATE_TOL, "maxiter": _ESTIMATE_MAXITER}
    weighted = half @ solve_cg(matvec, P @ x + c, preconditioner=lambda v: v / diagonal, **limits)
    y = -jnp.where(is_zero, weighted / _INSIDE, scaling.map("half_transposed", weighted))
    y = cones.project_dual(y)
    return jnp.where(jnp.isfinite(y), y, 0)
