r"""One step of the interior-point method for nonlinear programs, in units in which numbers are around 1.

With slacks :math:`s > 0` of the inequalities, :math:`r = (h, g + s)`, estimates :math:`\hat y` of the multipliers,
barrier parameter :math:`\mu` and penalty :math:`1/\delta` the method minimizes

.. math::

    \varphi(x, s) = f(x) - \mu \sum \log(x - l) - \mu \sum \log(u - x) - \mu \sum \log s
    + \hat y^T r + \tfrac{1}{2 \delta} \lVert r \rVert^2

by Newton's method in its primal-dual form. For every x the slacks are those with which it is least, so that the search
along a direction is one of x alone, and follows constraints however curved they are. The steps of slacks and
multipliers :math:`y^+ = \hat y + (r + J\,dw) / \delta` are eliminated, and the step of x is that of one matrix of the
size of x,

.. math::

    K = \nabla^2 L + \rho I + \operatorname{diag}\bigl(\tfrac{z_l}{x - l} + \tfrac{z_u}{u - x}\bigr)
    + \tfrac1\delta J_h^T J_h + J_g^T \operatorname{diag}\bigl(\tfrac{1}{\delta + s/z_s}\bigr) J_g .

Where K is positive definite the step is one of descent for :math:`\varphi`, whatever the ranks of the Jacobians.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from jaxsolve._loop import loop
from jaxsolve._types import Array
from jaxsolve.solvers.constrained._program import Local, NonlinearProgram
from jaxsolve.solvers.quadratic._residuals import norm
from jaxsolve.tree_util import tree_where

__all__ = [
    "Iterate",
    "Limits",
    "first_iterate",
    "limits_of",
    "newton_step",
    "residuals",
    "update_parameters",
    "with_slacks",
]

_MAX_SHIFTS, _MAX_HALVINGS = 14, 25
_ARMIJO = 1e-4
# A step is short of which the search left less than this part.
_SHORT = 0.1
# The penalty grows at once where the violation has grown by this factor, in scaled units.
_GROWS = 10.0
#: How far a multiplier may be from mu over its distance, as a factor.
_FAR = 1e10


class Limits(NamedTuple):
    """The least parameters and the tolerance, by dtype.

    Attributes:
        tol: the error at which the iterations end.
        mu: least barrier parameter.
        delta: least inverse penalty.
    """

    tol: Array
    mu: Array
    delta: Array


def limits_of(tol: Array) -> Limits:
    double = jnp.finfo(tol.dtype).bits == 64
    mu, delta = (1e-12, 1e-9) if double else (1e-6, 1e-4)
    return Limits(tol, jnp.maximum(tol / 20, mu), jnp.asarray(delta, tol.dtype))


class Iterate(NamedTuple):
    """An iterate in scaled units, row 0 of what has two rows is of the lower bounds, row 1 of the upper.

    Attributes:
        x: shape ``(n,)``.
        y: multipliers of h and g, shape ``(m,)``.
        z: multipliers of the bounds, positive, shape ``(2, n)``; 0 where there is no bound.
        s: slacks of g, positive.
        z_s: multipliers of the slacks, positive.
        estimate: the multipliers in the augmented Lagrangian, shape ``(m,)``.
        mu: barrier parameter.
        delta: inverse of the penalty.
        rho: what was added to the diagonal.
        violation: the residual of the constraints when the parameters were last changed; with the largest penalty,
            when it last fell.
        num_rejected: steps in a row that were rejected, int32.
        num_held: subproblems in a row, solved with the largest penalty, after which it had not fallen, int32.
    """

    x: Array
    y: Array
    z: Array
    s: Array
    z_s: Array
    estimate: Array
    mu: Array
    delta: Array
    rho: Array
    violation: Array
    num_rejected: Array
    num_held: Array


def _distances(program: NonlinearProgram, x: Array) -> tuple[Array, Array]:
    """Which bounds count, and how far they are (1 where there is none), shape ``(2, n)``."""
    sides = jnp.stack([program.lower, program.upper])
    counts = jnp.isfinite(sides) & (program.lower < program.upper)[None]
    bound = jnp.where(counts, sides, 0)
    distance = jnp.stack([x - bound[0], bound[1] - x])
    least = jnp.finfo(x.dtype).eps * jnp.abs(bound) + jnp.sqrt(jnp.finfo(x.dtype).tiny)
    return counts, jnp.where(counts, jnp.maximum(distance, least), 1)


def first_iterate(program: NonlinearProgram, x: Array, at: Local, y: Array | None, limits: Limits) -> Iterate:
    """The iterate to begin with.

    Args:
        program: in scaled units.
        x: strictly inside of the bounds.
        at: the program there.
        y: multipliers of h and g that were given, for a warm start.
        limits: tolerance and least parameters.
    """
    p, dtype = program.num_eq, x.dtype
    grad, jacobian, constraints = at.jacobian[0], at.jacobian[1:], at.values[1:]
    counts, distance = _distances(program, x)
    is_eq = jnp.arange(constraints.size) < p
    mu, delta = (1e-1, 1e-2) if y is None else (1e-4, 1e-4)
    mu, delta = jnp.maximum(jnp.asarray(mu, dtype), limits.mu), jnp.maximum(jnp.asarray(delta, dtype), limits.delta)
    if y is None:
        s = jnp.maximum(-constraints[p:], 1)
        z, z_s = jnp.where(counts, mu / distance, 0), mu / s
        # Least squares: the multipliers that come nearest to stationarity.
        gram = jacobian @ jacobian.T + jnp.diag(jnp.where(is_eq, 1e-8, 1).astype(dtype))
        slope = jacobian @ (grad + z[1] - z[0]) - jnp.concatenate([jnp.zeros(p, dtype), z_s])
        y = -cho_solve((jnp.linalg.cholesky(gram), True), slope)
        y = jnp.where(jnp.all(jnp.isfinite(y)) & (norm(y) <= 1e3), y, 0)
    else:
        slope = -(grad + y @ jacobian)
        z = jnp.maximum(jnp.stack([-slope, slope]), mu / distance)
        z, z_s = jnp.where(counts, z, 0), y[p:]
    y = jnp.where(is_eq, y, jnp.maximum(y, 0))
    s = best_slack(constraints[p:], y[p:], mu, delta)
    zero, none = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
    violation = norm(constraints + jnp.concatenate([jnp.zeros(p, dtype), s]), zero)
    return Iterate(x, y, z, s, jnp.maximum(y[p:], mu / s), y, mu, delta, zero, violation, none, none)


def best_slack(g: Array, estimate: Array, mu: Array, delta: Array) -> Array:
    """The slacks with which the merit function is least at a point."""
    q = g + delta * estimate
    root = jnp.sqrt(q**2 + 4 * mu * delta)
    return jnp.where(q > 0, 2 * mu * delta / (q + root), (root - q) / 2)


class Residuals(NamedTuple):
    """What is missing to a solution, each the largest entry.

    Attributes:
        dual: stationarity, over the size of the multipliers.
        rows: of the constraints with slacks.
        penalized: the same in the subproblem, where rows give way to the penalty.
        complementarity: the largest product, over the size of the multipliers.
        centrality: the largest difference of a product from mu, likewise.
    """

    dual: Array
    rows: Array
    penalized: Array
    complementarity: Array
    centrality: Array

    @property
    def error(self) -> Array:
        return norm(self.dual, self.rows, self.complementarity)


def residuals(program: NonlinearProgram, it: Iterate, at: Local) -> Residuals:
    p, free = program.num_eq, program.lower < program.upper
    counts, distance = _distances(program, it.x)
    stationarity = jnp.where(free, at.jacobian[0] + it.y @ at.jacobian[1:] + it.z[1] - it.z[0], 0)
    rows = at.values[1:] + jnp.concatenate([jnp.zeros(p, it.x.dtype), it.s])
    products = jnp.concatenate([jnp.ravel(jnp.where(counts, distance * it.z, it.mu)), it.s * it.z_s])
    complementary = jnp.concatenate([jnp.ravel(distance * it.z), it.s * it.z_s])
    multipliers = jnp.concatenate([jnp.abs(it.y), jnp.ravel(it.z), it.z_s])
    many = multipliers.size - jnp.sum(~counts)
    size = jnp.maximum(jnp.sum(multipliers) / jnp.maximum(many, 1).astype(it.x.dtype), 100) / 100
    return Residuals(
        norm(stationarity, it.y[p:] - it.z_s) / size,
        norm(rows),
        norm(rows - it.delta * (it.y - it.estimate)),
        norm(complementary) / size,
        norm(products - it.mu) / size,
    )


def newton_step(program: NonlinearProgram, it: Iterate, at: Local) -> Iterate:
    """The next iterate, with the same parameters; where no step is accepted, the same one with a larger shift."""
    p, dtype = program.num_eq, it.x.dtype
    grad, jacobian, constraints = at.jacobian[0], at.jacobian[1:], at.values[1:]
    free = program.lower < program.upper
    counts, distance = _distances(program, it.x)
    no_slack = jnp.zeros(p, dtype)
    rows = constraints + jnp.concatenate([no_slack, it.s])
    weights = jnp.concatenate([jnp.full(p, 1 / it.delta), 1 / (it.delta + it.s / it.z_s)])
    target = weights * (it.delta * it.estimate + rows + jnp.concatenate([no_slack, it.mu / it.z_s]))
    sigma = jnp.sum(it.z / distance, axis=0)
    barrier = jnp.where(counts, it.mu / distance, 0)
    K = at.hessian + jnp.diag(sigma) + jacobian.T @ (weights[:, None] * jacobian)
    K = jnp.where(free[:, None] & free[None], K, 0) + jnp.diag(jnp.where(free, 0, 1).astype(dtype))
    rhs = jnp.where(free, -(grad - barrier[0] + barrier[1] + target @ jacobian), 0)
    L, rho = _factorized(K, jnp.abs(jnp.diagonal(at.hessian)) + sigma, it.rho)

    dx = cho_solve((L, True), rhs)
    Jdx = jacobian @ dx
    dy = target + weights * Jdx - it.y
    y_s = it.y[p:] + dy[p:]
    signed = jnp.stack([dx, -dx])
    dz = jnp.where(counts, (it.mu - it.z * signed) / distance - it.z, 0)
    dz_s = y_s - it.z_s

    share = jnp.maximum(0.99, 1 - it.mu)
    longest = _length(share, (distance, jnp.where(counts, signed, 0)))
    dual = _length(share, (jnp.where(counts, it.z, 1), dz), (it.z_s, dz_s))

    def merit(x, values):
        _, distance = _distances(program, x)
        s = best_slack(values[1 + p :], it.estimate[p:], it.mu, it.delta)
        rows = values[1:] + jnp.concatenate([no_slack, s])
        logs = jnp.sum(jnp.where(counts, jnp.log(distance), 0)) + jnp.sum(jnp.log(s))
        return values[0] - it.mu * logs + it.estimate @ rows + rows @ rows / (2 * it.delta)

    start = merit(it.x, at.values)
    slope = (grad - barrier[0] + barrier[1]) @ dx + (it.estimate + rows / it.delta) @ Jdx
    rounding = 10 * jnp.finfo(dtype).eps * (jnp.abs(start) + jnp.abs(at.values[0]))

    # Constraints that curve away from the step would make it short. What they miss at a rejected point says how to bend
    # the path, x + t dx + t^2 bend; the first bend is tried at the length at which it was found.
    room = jnp.where(counts, share * distance, jnp.inf)
    box = jnp.maximum(program.lower, it.x - room[0]), jnp.minimum(program.upper, it.x + room[1])

    def along(length, bend):
        return jnp.clip(it.x + length * dx + length**2 * bend, *box)

    def trial(carry):
        length, bend, _, count = carry
        x = along(length, bend)
        values = program.values(x)
        good = merit(x, values) <= start + _ARMIJO * length * slope + rounding
        missed = values[1:] - constraints - length * Jdx
        new = -cho_solve((L, True), jnp.where(free, (weights * missed) @ jacobian, 0)) / length**2
        bent = ~good & jnp.all(jnp.isfinite(new))
        again = good | (bent & (count == 0))
        return jnp.where(again, length, length / 2), jnp.where(bent, bend + new, bend), good, count + 1

    carry = (longest, jnp.zeros_like(dx), jnp.asarray(False), jnp.zeros((), jnp.int32))
    length, bend, good, _ = loop(lambda carry: ~carry[2], trial, carry, maxiter=_MAX_HALVINGS)
    x = along(length, bend)
    z, z_s = it.z + dual * dz, it.z_s + dual * dz_s
    _, distance = _distances(program, x)
    z = jnp.where(counts, jnp.clip(z, it.mu / (_FAR * distance), _FAR * it.mu / distance), 0)
    # A step of which only a small part was taken is too long: along it the next matrix has three times its curvature,
    # or more.
    curvature = -slope / jnp.maximum(dx @ dx, jnp.finfo(dtype).tiny)
    rho = jnp.where(length < _SHORT * longest, jnp.maximum(10 * rho, 3 * curvature), rho)
    taken = it._replace(x=x, y=it.y + length * dy, z=z, z_s=z_s, rho=rho, num_rejected=0 * it.num_rejected)
    kept = it._replace(rho=jnp.maximum(10 * rho, 1e-4), num_rejected=it.num_rejected + 1)
    return tree_where(good, taken, kept)


def _length(share: Array, *parts: tuple[Array, Array]) -> Array:
    """The step, 1 at most, that goes this share of the way to where something positive vanishes."""
    ratios = jnp.concatenate([jnp.ravel(-change / value) for value, change in parts])
    return jnp.minimum(share / jnp.max(ratios, initial=share), 1)


def _factorized(K: Array, curvature: Array, rho: Array) -> tuple[Array, Array]:
    """The Cholesky factor of K plus the least of some multiples of the identity for which it is positive definite."""
    dtype, identity = K.dtype, jnp.eye(K.shape[0], dtype=K.dtype)
    small = (1e-8, 1e2) if jnp.finfo(dtype).bits == 64 else (1e-4, 1e1)

    def attempt(carry):
        _, rho, _, count = carry
        new = jnp.where(count == 0, rho, jnp.maximum(jnp.where(rho < 1e-4, 100, 8) * rho, least_shift))
        L = jnp.linalg.cholesky(K + new * identity, symmetrize_input=False)
        least = small[0] * (curvature + new) + small[1] * jnp.finfo(dtype).eps * jnp.diagonal(K)
        return L, new, jnp.all(jnp.diagonal(L) ** 2 > least), count + 1

    # Where there is no curvature the shift goes on falling, and the steps grow to infinity.
    lower = rho / 3
    least_shift = jnp.where((lower > 0) & (lower < 1e-8), lower, 1e-4)
    carry = (identity, jnp.where(lower < 1e-8, 0, lower), jnp.asarray(False), jnp.zeros((), jnp.int32))
    L, rho, _, _ = loop(lambda carry: ~carry[2], attempt, carry, maxiter=_MAX_SHIFTS)
    return jnp.where(jnp.all(jnp.isfinite(L)), L, identity), rho


def with_slacks(it: Iterate, constraints: Array) -> Iterate:
    """The iterate with the best slacks for its parameters."""
    p = constraints.size - it.s.size
    s = best_slack(constraints[p:], it.estimate[p:], it.mu, it.delta)
    return it._replace(s=s, z_s=jnp.clip(it.z_s, it.mu / (_FAR * s), _FAR * it.mu / s))


def update_parameters(it: Iterate, res: Residuals, limits: Limits) -> Iterate:
    """The iterate with other parameters where the subproblem is solved to their accuracy, or has no solution near."""
    solved = norm(res.dual, res.penalized, res.centrality) <= 10 * it.mu
    fell = (res.rows <= 0.3 * it.violation) | (res.rows <= 0.1 * limits.tol)
    held = ~fell & (it.delta <= limits.delta)
    delta = jnp.where(fell, it.delta, it.delta / 10)
    # Complementarity ahead of feasibility leaves the iterates at the boundary, infeasible.
    mu = jnp.maximum(jnp.minimum(0.2 * it.mu, it.mu**1.5), limits.mu)
    mu = jnp.where(res.rows <= 100 * it.mu, mu, it.mu)
    delta = jnp.maximum(jnp.minimum(delta, mu), limits.delta)
    new = it._replace(estimate=it.y, delta=delta, mu=mu, violation=jnp.where(held, it.violation, res.rows))
    new = new._replace(num_held=jnp.where(held, it.num_held + 1, 0))
    # The objective may fall faster than the penalty grows.
    far = ~solved & (res.rows > _GROWS * jnp.maximum(it.violation, 1)) & (it.delta > limits.delta)
    other = it._replace(delta=jnp.maximum(it.delta / 10, limits.delta), violation=res.rows)
    return tree_where(solved, new, tree_where(far, other, it))
