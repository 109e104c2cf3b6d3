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
from jax import lax

from jaxsolve._loop import loop
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


def predictor_corrector(program: Program, cones: Cones, point: Point, *, unrolls: bool = False) -> tuple[Point, Array]:
    """The next point, and how much of the step to it was possible; ``unrolls``: derivatives of it are wanted."""
    res = residual(program, cones, point)
    system = factorize(program, scaling_at(cones, point.s, point.z), unrolls=unrolls)
    rights = jnp.stack([-program.c, res.x]), jnp.stack([program.b, res.z])

    def step(carry):
        """One direction: the affine one, which takes all residuals away, then that which it suggests."""
        turn, sigma, before, _ = carry
        share, target = 1 - sigma, sigma * res.mu
        slack = system.scaling.correction(point.s, point.z, before.s, before.z, target)
        products = point.tau * point.kappa + before.tau * before.kappa - target
        # The solution along tau is the same in both turns. It costs little beside the other.
        first, second = rights
        both = jnp.stack([first[0], -share * first[1]]), jnp.stack([second[0], slack - share * second[1]])
        along, found = zip(*jax.vmap(system.solve)(*both), strict=True)
        direction = _direction(system, point, along, found, res, share, slack, products)
        affine = turn == 0
        longest = _longest(system, cones, point, direction, centered=~affine)
        length = jnp.minimum(jnp.where(affine, 1, _CAUTION) * longest, 1)
        return turn + 1, (1 - length) ** 3, direction, length

    nothing = jnp.zeros_like(res.mu)
    start = jnp.zeros((), jnp.int32), nothing, jax.tree.map(jnp.zeros_like, point), nothing
    _, _, step, length = loop(lambda _: jnp.asarray(True), step, start, maxiter=2, kind="scan" if unrolls else "while")
    return jax.tree.map(lambda u, du: u + length * du, point, step), length


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


def _longest(system: NewtonSystem, cones: Cones, point: Point, step: Point, *, centered: Array) -> Array:
    """The longest step that stays inside of the cones and, if wanted, near the central path."""
    paths = system.scaling.paths(point.s, point.z, step.s, step.z)

    def until_zero(value, change):
        return jnp.where(change < 0, -value / jnp.where(change < 0, change, -1), jnp.inf)

    t = jnp.minimum(until_zero(point.tau, step.tau), until_zero(point.kappa, step.kappa))
    for path in paths:
        t = t if path.longest is None else jnp.minimum(t, path.longest)
    if all(path.longest is not None for path in paths):
        return t
    t = jnp.minimum(t, 1)
    # Which trial is good is no function to be differentiated.
    point, step, paths, longest = lax.stop_gradient((point, step, paths, t))
    trials = jnp.asarray(_TRIALS, t.dtype)

    def is_good(t):
        inner = jnp.where(centered, _CAUTION, 1) * t
        tau, kappa, s, z = (getattr(point, name) + inner * getattr(step, name) for name in ("tau", "kappa", "s", "z"))
        mu = (s @ z + tau * kappa) / (cones.degree + 1)
        barriers = [path.barrier(inner) for path in paths]
        inside = [barrier < jnp.inf for path, barrier in zip(paths, barriers, strict=True) if path.longest is None]
        centrality = (cones.degree + 1) * jnp.log(mu) - jnp.log(tau) - jnp.log(kappa) + sum(barriers)
        return jnp.where(centered, centrality < _FAR, jnp.all(jnp.stack(inside)))

    def shorter(carry):
        count, _ = carry
        return count + 1, is_good(trials[count] * longest)

    start = jnp.zeros((), jnp.int32), jnp.zeros_like(centered)
    count, good = lax.while_loop(lambda carry: ~carry[1] & (carry[0] < trials.size), shorter, start)
    return jnp.where(good, trials[count - 1] * t, 0)
