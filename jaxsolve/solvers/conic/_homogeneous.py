r"""One step of the interior-point method on the homogeneous embedding.

Unknowns are :math:`x`, the slacks :math:`s \in K`, the multipliers :math:`z \in K^*` and two numbers
:math:`\tau, \kappa \ge 0`, with the residuals

.. math::

    P x + A^T z + c \tau, \qquad A x + s - b \tau, \qquad c^T x + b^T z + \kappa + x^T P x / \tau

and complementarity :math:`s \circ z = 0,\ \tau \kappa = 0`. A point with :math:`\tau > 0` gives the solution
:math:`(x, z, s) / \tau`; one with :math:`\tau = 0 < \kappa` proves that there is none.

Reference:
    Xu, Hung and Ye (1996), "A simplified homogeneous and self-dual linear programming algorithm and its
    implementation"; Goulart and Chen (2024), "Clarabel: An interior-point solver for conic programs with quadratic
    objectives".
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._types import Array
from jaxsolve.solvers.conic._newton_step import NewtonSystem, cone_center, factorize, scaling_at
from jaxsolve.solvers.conic._program import Program
from jaxsolve.solvers.conic.cones import Cones

__all__ = ["Point", "cold_start", "predictor_corrector"]

# How much of the way to the boundary a step goes.
_CAUTION = 0.99
# Points are tried at these parts of the longest step, ever farther apart.
_TRIALS = 0.97 ** (0.5 * np.arange(27) * np.arange(1, 28))
# How far from the central path a point may be.
_FAR = 1.0


class Point(NamedTuple):
    """A point of the embedding."""

    x: Array
    z: Array
    s: Array
    tau: Array
    kappa: Array


class Residual(NamedTuple):
    """The residuals, and the mean complementary product."""

    x: Array
    z: Array
    tau: Array
    mu: Array


def cold_start(program: Program, cones: Cones) -> Point:
    """The center of the cones."""
    center, one = cone_center(cones, program.c.dtype), jnp.ones((), program.c.dtype)
    return Point(jnp.zeros_like(program.c), center, center, one, one)


def residual(program: Program, cones: Cones, point: Point) -> Residual:
    """The residuals of a point."""
    (P, c, A, b), (x, z, s, tau, kappa) = program, point
    Px = P @ x
    mu = (s @ z + tau * kappa) / (cones.degree + 1)
    return Residual(Px + z @ A + c * tau, A @ x + s - b * tau, c @ x + b @ z + kappa + x @ Px / tau, mu)


def predictor_corrector(program: Program, cones: Cones, point: Point) -> tuple[Point, Array]:
    """The next point, and how much of the step to it was possible."""
    res = residual(program, cones, point)
    system = factorize(program, scaling_at(cones, point.s, point.z))
    # Both solutions that are known from the start: along tau, and of the affine direction.
    rights = jnp.stack([-program.c, -res.x]), jnp.stack([program.b, point.s - res.z])
    (along_x, affine_x), (along_z, affine_z) = jax.vmap(system.solve)(*rights)
    along = along_x, along_z

    affine = _direction(system, point, along, (affine_x, affine_z), res, 1.0, point.s, point.tau * point.kappa)
    t = jnp.minimum(_longest(system, cones, point, affine, res.mu, centered=False), 1)
    sigma = (1 - t) ** 3

    target = sigma * res.mu
    slack = system.scaling.correction(point.s, point.z, affine.s, affine.z, target)
    products = point.tau * point.kappa + affine.tau * affine.kappa - target
    found = system.solve((sigma - 1) * res.x, slack - (1 - sigma) * res.z)
    combined = _direction(system, point, along, found, res, 1 - sigma, slack, products)
    t = jnp.minimum(_CAUTION * _longest(system, cones, point, combined, res.mu, centered=True), 1)
    return jax.tree.map(lambda u, du: u + t * du, point, combined), t


def _direction(
    system: NewtonSystem,
    point: Point,
    along: tuple[Array, Array],
    found: tuple[Array, Array],
    res: Residual,
    share: Array | float,
    slack: Array,
    products: Array,
) -> Point:
    """The Newton step that takes away a share of the residuals.

    Args:
        system: the factorized system.
        point: where it starts.
        along: the solution of the system for ``(-c, b)``.
        found: that for the residuals.
        res: the residuals.
        share: what part of them is to vanish.
        slack: ``d`` of the linearized complementarity ``H dz + ds = -d``.
        products: the same of ``kappa dtau + tau dkappa``.
    """
    (P, c, _, b), (x, _, _, tau, kappa) = system.program, point
    (x1, z1), (x2, z2) = found, along
    Px = P @ x
    slope = c + 2 * Px / tau
    # The quadratic terms as squares: x^T P x / tau^2 and those of x2 cancel.
    off = x / tau - x2
    bottom = off @ (P @ off) - x2 @ (P @ x2) - c @ x2 - b @ z2 + kappa / tau
    dtau = (share * res.tau - products / tau + slope @ x1 + b @ z1) / bottom
    dx, dz = x1 + dtau * x2, z1 + dtau * z2
    ds = -slack - system.scaling.map("squared", dz)
    return Point(dx, dz, ds, dtau, -(products + kappa * dtau) / tau)


def _longest(system: NewtonSystem, cones: Cones, point: Point, step: Point, mu: Array, *, centered: bool) -> Array:
    """The longest step that stays inside of the cones and, if wanted, near the central path."""
    paths = system.scaling.paths(point.s, point.z, step.s, step.z)

    def until_zero(value, change):
        return jnp.where(change < 0, -value / jnp.where(change < 0, change, -1), jnp.inf)

    t = jnp.minimum(until_zero(point.tau, step.tau), until_zero(point.kappa, step.kappa))
    for path in paths:
        t = t if path.longest is None else jnp.minimum(t, path.longest)
    if all(path.longest is not None for path in paths):
        return t
    trials = jnp.minimum(t, 1) * jnp.asarray(_TRIALS, t.dtype)

    def is_good(t):
        inner = _CAUTION * t
        if not centered:
            return jnp.all(jnp.stack([path.barrier(t) < jnp.inf for path in paths if path.longest is None]))
        tau, kappa = point.tau + inner * step.tau, point.kappa + inner * step.kappa
        s, z = point.s + inner * step.s, point.z + inner * step.z
        mu = (s @ z + tau * kappa) / (cones.degree + 1)
        barrier = sum(path.barrier(inner) for path in paths)
        return (cones.degree + 1) * jnp.log(mu) - jnp.log(tau) - jnp.log(kappa) + barrier < _FAR

    good = jax.vmap(is_good)(trials)
    return jnp.where(jnp.any(good), trials[jnp.argmax(good)], 0)
