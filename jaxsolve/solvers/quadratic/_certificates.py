"""Infeasibility: directions in which an algorithm diverges, refined until they prove something or do not.

Iterates of an infeasible problem grow in the direction of a certificate, which they approach slowly. So a direction
that looks like one is first projected onto the linear conditions a certificate meets exactly; then it is tested.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._loop import run_if_any
from jaxsolve._status import Status
from jaxsolve._types import Array
from jaxsolve.solvers.quadratic._cholesky import cholesky, cholesky_solve
from jaxsolve.solvers.quadratic._problem import DenseMatrix, QuadraticProgram
from jaxsolve.solvers.quadratic._residuals import Products, feasible_signs, norm, support

__all__ = ["Forgiven", "find_certificates"]

_REPEATS = 5
# What is tiny belongs to rows that take no part, and is in the way; how tiny that is depends on how far the algorithm
# has come, so two thresholds are tried.
_NEGLIGIBLE = (1e-3, 1e-6)
# A sum is taken for zero that is smaller than this multiple of the rounding of its terms, for each ten of them.
_ROUNDING = 1e2


class Forgiven(NamedTuple):
    """What may be missing at a solution.

    Attributes:
        rows: how far beyond its bounds each row may be, shape ``(m,)``.
        slopes: how large the slope of the Lagrangian in each variable may be, shape ``(n,)``.
    """

    rows: Array
    slopes: Array


def find_certificates(
    qp: QuadraticProgram,
    d: Array,
    y: Array,
    at: Products,
    forgiven: Forgiven,
    tol: tuple[Array | float, Array | float] = (1e-3, 1e-3),
    wanted: Array | bool = True,
) -> Array:
    """Whether the constraints are proved to contradict each other, or the objective to be unbounded below.

    Args:
        qp: the equilibrated problem, in whose units a proof has to hold: those of the user may be such that every
            solution is huge.
        d: a direction in which the primal iterates move, shape ``(n,)``.
        y: one in which the multipliers move, with feasible signs, shape ``(m,)``.
        at: the products at ``(d, y)``.
        forgiven: what the test of convergence forgives. A contradiction, or a slope, that is no larger is none.
        tol: how closely, relative to its size, ``y`` and ``d`` must meet the conditions of a certificate to be worth
            refining.
        wanted: a boolean scalar: whether a proof is looked for. A batch refines the directions of all its elements as
            soon as those of one are likely, which those of an element that has arrived must not be.

    Returns:
        ``Status.PRIMAL_INFEASIBLE`` or ``Status.DUAL_INFEASIBLE`` with a proof, else ``Status.RUNNING``.
    """
    qp = qp._replace(lower=qp.lower - forgiven.rows, upper=qp.upper + forgiven.rows)
    if qp.has_factor:
        infeasible, unbounded = _refined(qp, d, y, at, tol, forgiven.slopes, wanted)
    else:
        infeasible = _is_primal_certificate(qp, y, at.Aty)
        unbounded = _is_dual_certificate(qp, d, at.Px, at.Ax, forgiven.slopes)
    # A row whose bounds exclude each other has no multiplier that could say so.
    infeasible |= jnp.any(qp.lower > qp.upper)
    return Status.PRIMAL_INFEASIBLE.where(infeasible, Status.DUAL_INFEASIBLE.where(unbounded, int(Status.RUNNING)))


def _refined(qp, d, y, at, tol, slopes, wanted):
    """What directions that look like certificates prove, as they are or projected."""
    tiny = jnp.finfo(y.dtype).tiny
    y_size, d_size = norm(y), norm(d)
    y_near = norm(at.Aty) <= tol[0] * y_size
    y_likely = (support(qp, y)[0] < 0) & y_near & jnp.isfinite(y_size) & (y_size > 0)
    d_near = norm(at.Px) + norm(_growth(qp, at.Ax)) <= tol[1] * d_size
    d_likely = (qp.q @ d < 0) & d_near & jnp.isfinite(d_size) & (d_size > 0)

    def proofs(_):
        P, epsilon = qp.P.dense(), 1e-10 if jnp.finfo(d.dtype).bits == 64 else 1e-5

        # Entries of y move in proportion to their squares: none changes its sign, and those that are 0 stay so.
        y_unit = y / jnp.maximum(y_size, tiny)
        y_unit = jnp.stack([jnp.where(jnp.abs(y_unit) > small, y_unit, 0) for small in _NEGLIGIBLE])
        weight = y_unit**2
        # Rows that grow along d, or would with a little less precision, are held.
        d_unit = jnp.stack([d / jnp.maximum(d_size, tiny)] * len(_NEGLIGIBLE))
        growth = _growth(qp, at.Ax, absent=-jnp.inf)
        held = jnp.stack([(growth > -small * d_size).astype(d.dtype) for small in _NEGLIGIBLE])
        # Beside a large q the curvature is small, but what has any is no direction to go on along.
        P = P / jnp.maximum(norm(P), tiny)
        curvature = jnp.stack([jnp.zeros_like(P), jnp.zeros_like(P), P @ P, P @ P])

        # All four systems in one batched call: two such calls at the same time can block each other in the thread pool
        # of jaxlib's CPU backend.
        weights = jnp.concatenate([weight, held])
        # Sparse matrices one after the other, which takes a fourth of the memory.
        gram = jax.vmap(qp.A.gram)(weights) if isinstance(qp.A, DenseMatrix) else lax.map(qp.A.gram, weights)
        factors = cholesky(curvature + gram + (epsilon * jnp.eye(P.shape[0], dtype=d.dtype))[None])

        def project(_, units):
            y_unit, d_unit = units
            right = jnp.concatenate([qp.A.rmatvec(y_unit.T).T, epsilon * d_unit])
            solved = jax.vmap(cholesky_solve)(factors, right)
            return y_unit - weight * qp.A.matvec(solved[:2].T).T, solved[2:]

        y_units, d_units = lax.fori_loop(0, _REPEATS, project, (y_unit, d_unit))

        def test_y(unit):
            unit = feasible_signs(qp, unit)
            return _is_primal_certificate(qp, unit, qp.A.rmatvec(unit))

        def test_d(unit):
            # What is left by rounding of a component that is 0 would be all there is in the row of its bound.
            unit = jnp.where(jnp.abs(unit) > _rounding(unit.size, unit.dtype) * norm(unit), unit, 0)
            return _is_dual_certificate(qp, unit, qp.P.matvec(unit), qp.A.matvec(unit), slopes)

        y_units, d_units = jnp.concatenate([y[None], y_units]), jnp.concatenate([d[None], d_units])
        return y_likely & jnp.any(jax.vmap(test_y)(y_units)), d_likely & jnp.any(jax.vmap(test_d)(d_units))

    nothing = (jnp.zeros_like(y_likely), jnp.zeros_like(d_likely))
    return run_if_any(wanted & (y_likely | d_likely), proofs, nothing)


# ---- Tests --------------------------------------------------------------------------------------------------------


def _rounding(count: int, dtype: Any) -> float:
    """How large a sum of so many terms may be, relative to these, if it is zero but for rounding."""
    return _ROUNDING * float(jnp.finfo(dtype).eps) * max(1.0, count / 10)


def _is_primal_certificate(qp: QuadraticProgram, y: Array, Aty: Array) -> Array:
    r"""Whether ``y`` proves that the constraints contradict each other.

    Every feasible :math:`x` has :math:`y^T A x \le S(y)`. So there is none if :math:`A^T y = 0` and :math:`S(y) < 0`.
    What is larger than rounding is no zero: nearly parallel rows meet far away.

    Args:
        qp: the problem.
        y: multipliers with feasible signs.
        Aty: ``A^T y``.
    """
    value, size = support(qp, y)
    rounding = _rounding(y.size, y.dtype)
    if qp.has_entries:
        terms = qp.A.each(jnp.abs).rmatvec(jnp.abs(y))  # type: ignore[union-attr]
    else:
        terms = _OF_PRODUCTS * jnp.sum(jnp.abs(y))
    balanced = jnp.all(jnp.abs(Aty) <= rounding * terms)
    return (value < -rounding * size) & balanced & jnp.isfinite(value)


def _is_dual_certificate(qp: QuadraticProgram, d: Array, Pd: Array, Ad: Array, forgiven: Array) -> Array:
    r"""Whether the objective decreases forever along ``d``, without leaving the constraints.

    It does if :math:`P d = 0`, no row moves beyond an end of its bounds, and :math:`q^T d < 0`, where all that is not
    larger than rounding is zero: a curvature that is small, but there, makes solutions that are large.

    Args:
        qp: the problem.
        d: direction.
        Pd: ``P d``.
        Ad: ``A d``.
        forgiven: by how much the slope of each variable may be off at a solution, shape ``(n,)``.
    """
    slope, size, length = qp.q @ d, jnp.sum(jnp.abs(qp.q * d)), jnp.abs(d)
    rounding = _rounding(d.size, d.dtype)
    if qp.has_entries:
        of_P, of_A = (matrix.each(jnp.abs).matvec(length) for matrix in (qp.P, qp.A))  # type: ignore[union-attr]
    else:
        of_P, of_A = _OF_PRODUCTS * jnp.sum(length), _OF_PRODUCTS * jnp.sum(length)
    flat = jnp.all(jnp.abs(Pd) <= rounding * of_P)
    inside = jnp.all(_growth(qp, Ad) <= rounding * of_A)
    falls = slope + forgiven @ length < -rounding * size
    return falls & flat & inside & jnp.isfinite(slope) & jnp.any(length > 0)


#: Directions are less accurate where they cannot be projected, by so much.
_OF_PRODUCTS = 1e4


def _growth(qp, Ad, absent=0.0):
    """How fast each row moves beyond its bounds along a direction, and what counts as the speed at absent ones."""
    return jnp.maximum(jnp.where(jnp.isfinite(qp.upper), Ad, absent), jnp.where(jnp.isfinite(qp.lower), -Ad, absent))
