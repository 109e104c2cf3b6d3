"""Infeasibility: directions in which an algorithm diverges, refined until they prove something or do not.

Iterates of an infeasible problem grow in the direction of a certificate, which they approach slowly. So a direction
that looks like one is first projected onto the linear conditions a certificate meets exactly; then the tests of
:mod:`._residuals` decide, in the units of the user.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from jaxsolve._loop import run_if_any
from jaxsolve._types import Array
from jaxsolve.solvers.quadratic._problem import QuadraticProgram
from jaxsolve.solvers.quadratic._residuals import (
    feasible_signs,
    is_dual_certificate,
    is_primal_certificate,
    norm,
    support,
)
from jaxsolve.solvers.quadratic._scaling import Scaling

__all__ = ["proves_primal_infeasible", "proves_unbounded"]

_REPEATS = 3


def proves_primal_infeasible(
    qp: QuadraticProgram, scaled: QuadraticProgram, scaling: Scaling, y: Array, Aty: Array, x: Array, tol: Array | float
) -> Array:
    """Whether multipliers, or certificates near them, prove that the constraints contradict each other.

    Args:
        qp: the problem of the user.
        scaled: the equilibrated problem.
        scaling: its scaling.
        y: multipliers with feasible signs, or a direction in which they move.
        Aty: ``A^T y``.
        x: a point that says how large solutions might be.
        tol: how closely, relative to its size, ``y`` must meet ``A^T y = 0`` to be worth refining.
    """
    proved = is_primal_certificate(qp, y, Aty, x)
    if not scaled.is_dense:
        return proved
    variables, rows, _ = scaling
    value, _ = support(qp, y)
    y_scaled = y / rows
    size = norm(y_scaled)
    likely = (value < 0) & (norm(variables * Aty) <= tol * size) & jnp.isfinite(size) & (size > 0)

    def refine(y_scaled):
        A = scaled.A.dense()
        # Entries move in proportion to their squares: none changes its sign, and those that are 0 stay so.
        unit = y_scaled / jnp.maximum(size, jnp.finfo(y.dtype).tiny)
        weight = unit**2
        gram = A.T @ (weight[:, None] * A) + _epsilon(y) * jnp.eye(A.shape[1], dtype=y.dtype)
        L = jnp.linalg.cholesky(gram)
        for _ in range(_REPEATS):
            unit = unit - weight * (A @ cho_solve((L, True), A.T @ unit))
        return unit

    candidate = feasible_signs(qp, rows * run_if_any(likely & ~proved, refine, y_scaled))
    return proved | (likely & is_primal_certificate(qp, candidate, qp.A.rmatvec(candidate), x))


def proves_unbounded(
    qp: QuadraticProgram,
    scaled: QuadraticProgram,
    scaling: Scaling,
    d: Array,
    Pd: Array,
    Ad: Array,
    x: Array,
    tol: Array | float,
) -> Array:
    """Whether a direction, or certificates near it, prove that the objective decreases forever.

    Args:
        qp: the problem of the user.
        scaled: the equilibrated problem.
        scaling: its scaling.
        d: direction.
        Pd: ``P d``.
        Ad: ``A d``.
        x: a point that says how large solutions might be.
        tol: how closely ``d`` must meet the conditions of a certificate to be worth refining.
    """
    proved = is_dual_certificate(qp, d, Pd, Ad, x)
    if not scaled.is_dense:
        return proved
    variables, rows, cost = scaling
    d_scaled = d / variables
    size = norm(d_scaled)
    upper, lower = jnp.isfinite(qp.upper), jnp.isfinite(qp.lower)
    along = rows * Ad
    growth = jnp.maximum(jnp.where(upper, along, 0), jnp.where(lower, -along, 0))
    near = norm(cost * variables * Pd) + jnp.max(growth, initial=0) <= tol * size
    likely = (qp.q @ d < 0) & near & jnp.isfinite(size) & (size > 0)

    def refine(d_scaled):
        P, A = scaled.P.dense(), scaled.A.dense()
        # Rows that grow, or would with a little less precision, are held.
        tight = (jnp.where(upper, along, -jnp.inf) > -tol * size) | (jnp.where(lower, -along, -jnp.inf) > -tol * size)
        held = jnp.where(tight[:, None], A, 0)
        epsilon = _epsilon(d)
        L = jnp.linalg.cholesky(P @ P + held.T @ held + epsilon * jnp.eye(P.shape[0], dtype=d.dtype))
        unit = d_scaled / jnp.maximum(size, jnp.finfo(d.dtype).tiny)
        for _ in range(_REPEATS):
            unit = epsilon * cho_solve((L, True), unit)
        return unit

    candidate = variables * run_if_any(likely & ~proved, refine, d_scaled)
    refined = is_dual_certificate(qp, candidate, qp.P.matvec(candidate), qp.A.matvec(candidate), x)
    return proved | (likely & refined)


def _epsilon(array: Array) -> float:
    return 1e-10 if jnp.finfo(array.dtype).bits == 64 else 1e-5
