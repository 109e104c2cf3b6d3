"""Infeasibility: directions in which an algorithm diverges, refined until they prove something or do not.

Iterates of an infeasible problem grow in the direction of a certificate, which they approach slowly. So a direction
that looks like one is first projected onto the linear conditions a certificate meets exactly; then the tests of
:mod:`._residuals` decide.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_solve

from jaxsolve._loop import run_if_any
from jaxsolve._types import Array
from jaxsolve.solvers.quadratic._problem import QuadraticProgram, weighted_gram
from jaxsolve.solvers.quadratic._residuals import (
    Products,
    feasible_signs,
    is_dual_certificate,
    is_primal_certificate,
    norm,
    support,
)
from jaxsolve.solvers.quadratic._scaling import Scaling

__all__ = ["find_certificates"]

_REPEATS = 3
# What is tiny belongs to rows that take no part, and is in the way; how tiny that is depends on how far the algorithm
# has come, so two thresholds are tried.
_NEGLIGIBLE = (1e-3, 1e-6)


def find_certificates(
    qp: QuadraticProgram,
    scaling: Scaling,
    d: Array,
    y: Array,
    at: Products,
    tol: tuple[Array | float, Array | float],
) -> tuple[Array, Array]:
    """Whether the constraints are proved to contradict each other, and the objective to be unbounded below.

    Args:
        qp: the equilibrated problem, in whose units a proof has to hold: those of the user may be such that every
            solution is huge.
        scaling: its scaling. All that follows is in the units of the user.
        d: a direction in which the primal iterates move, shape ``(n,)``.
        y: one in which the multipliers move, with feasible signs, shape ``(m,)``.
        at: the products at ``(d, y)``.
        tol: how closely, relative to its size, ``y`` and ``d`` must meet the conditions of a certificate to be worth
            refining.

    Returns:
        Two booleans: primal infeasible, unbounded.
    """
    variables, rows, cost = scaling
    d, y = d / variables, y / rows
    at = Products(cost * variables * at.Px, rows * at.Ax, variables * at.Aty)
    # A row whose bounds exclude each other has no multiplier that could say so.
    infeasible = is_primal_certificate(qp, y, at.Aty) | jnp.any(qp.lower > qp.upper)
    unbounded = is_dual_certificate(qp, d, at.Px, at.Ax)
    if not qp.is_dense:
        return infeasible, unbounded
    tiny = jnp.finfo(y.dtype).tiny

    y_size, (value, _) = norm(y), support(qp, y)
    y_likely = (value < 0) & (norm(at.Aty) <= tol[0] * y_size) & jnp.isfinite(y_size) & (y_size > 0)

    d_size = norm(d)
    upper, lower = jnp.isfinite(qp.upper), jnp.isfinite(qp.lower)
    growth = jnp.maximum(jnp.where(upper, at.Ax, 0), jnp.where(lower, -at.Ax, 0))
    d_near = norm(at.Px) + jnp.max(growth, initial=0) <= tol[1] * d_size
    d_likely = (qp.q @ d < 0) & d_near & jnp.isfinite(d_size) & (d_size > 0)

    def refine():
        P, A, epsilon = qp.P.dense(), qp.A.dense(), _epsilon(d)

        # Entries of y move in proportion to their squares: none changes its sign, and those that are 0 stay so.
        y_unit = y / jnp.maximum(y_size, tiny)
        y_unit = jnp.stack([jnp.where(jnp.abs(y_unit) > small, y_unit, 0) for small in _NEGLIGIBLE])
        weight = y_unit**2
        # Rows that grow along d, or would with a little less precision, are held.
        d_unit = jnp.stack([d / jnp.maximum(d_size, tiny)] * len(_NEGLIGIBLE))
        up, down = jnp.where(upper, at.Ax, -jnp.inf), jnp.where(lower, -at.Ax, -jnp.inf)
        held = jnp.stack([(jnp.maximum(up, down) > -small * d_size).astype(d.dtype) for small in _NEGLIGIBLE])
        # Beside a large q the curvature is small, but what has any is no direction to go on along.
        P = P / jnp.maximum(jnp.max(jnp.abs(P)), tiny)
        curvature = jnp.stack([jnp.zeros_like(P), jnp.zeros_like(P), P @ P, P @ P])

        # All four systems in one batched call: two such calls at the same time can block each other in the thread pool
        # of jaxlib's CPU backend.
        gram = jax.vmap(weighted_gram, in_axes=(None, 0))(A, jnp.concatenate([weight, held]))
        cholesky = jnp.linalg.cholesky(curvature + gram + (epsilon * jnp.eye(P.shape[0], dtype=d.dtype))[None])

        def project(_, units):
            y_unit, d_unit = units
            right = jnp.concatenate([y_unit @ A, epsilon * d_unit])
            solved = jax.vmap(lambda L, b: cho_solve((L, True), b))(cholesky, right)
            return y_unit - weight * (solved[:2] @ A.T), solved[2:]

        return lax.fori_loop(0, _REPEATS, project, (y_unit, d_unit))

    def proofs(found):
        y_units, d_units = refine()

        def test_y(unit):
            unit = feasible_signs(qp, unit)
            return is_primal_certificate(qp, unit, qp.A.rmatvec(unit))

        def test_d(unit):
            return is_dual_certificate(qp, unit, qp.P.matvec(unit), qp.A.matvec(unit))

        infeasible, unbounded = found
        infeasible |= y_likely & jnp.any(jax.vmap(test_y)(y_units))
        unbounded |= d_likely & jnp.any(jax.vmap(test_d)(d_units))
        return infeasible, unbounded

    worth_it = (y_likely & ~infeasible) | (d_likely & ~unbounded)
    return run_if_any(worth_it, proofs, (infeasible, unbounded))


def _epsilon(array: Array) -> float:
    return 1e-10 if jnp.finfo(array.dtype).bits == 64 else 1e-5
