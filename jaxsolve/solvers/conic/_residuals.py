r"""How far a point is from solving a conic program, and what a direction proves, in scaled units.

For :math:`x`, multipliers :math:`y \in K^*` and slacks :math:`s \in K`, both exactly:

==============  ================================================  =====================================================
residual        is                                                compared with
==============  ================================================  =====================================================
primal          :math:`|A x + s - b|_\infty`                      :math:`|A x|_\infty` and :math:`|s|_\infty`
dual            :math:`(P x + A^T y + c)_j` of each variable      the largest of its three terms, and the mean term
duality gap     :math:`|x^T P x + c^T x + b^T y|`                 the values of :math:`x` and of :math:`y`
==============  ================================================  =====================================================

The mean term, and the unit of dual residual and gap, are those of :mod:`jaxsolve.solvers.quadratic._residuals`; but
the unit has a least value. Without an objective, or at its unconstrained minimum, all terms tend to 0 together, and
beside each other they never become small.

**Certificates.** Multipliers :math:`y \in K^*` with :math:`b^T y = -1` prove that there is no feasible :math:`x` with
:math:`|A^T y|_\infty |x|_1 < 1`, since feasible points have :math:`x^T A^T y = b^T y - s^T y \le -1`. A direction
:math:`d` with :math:`P d = 0`, :math:`-A d \in K` and :math:`c^T d = -1` proves that the objective has no bound, if
there are feasible points. Both are believed when what should be 0 is at most the tolerance of the test of convergence,
and when the sign remains if the data change by as much as that test forgives.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxsolve._status import Status
from jaxsolve._types import Array
from jaxsolve.solvers.conic._solution import ConicSolution
from jaxsolve.solvers.quadratic._certificates import Forgiven
from jaxsolve.solvers.quadratic._problem import QuadraticProgram
from jaxsolve.solvers.quadratic._residuals import Products, Residuals, norm
from jaxsolve.solvers.quadratic._scaling import Scaling

__all__ = ["is_dual_certificate", "is_primal_certificate", "proof", "residuals"]


# The least unit in which the tolerance of dual residual and gap is meant; the unit of scaled programs is 1.
_LEAST_UNIT = 1e-3


def residuals(c: Array, b: Array, x: Array, y: Array, s: Array, at: Products) -> Residuals:
    """The residuals at a point.

    Args:
        c: shape ``(n,)``.
        b: shape ``(m,)``.
        x: shape ``(n,)``.
        y: multipliers in the dual cones, shape ``(m,)``.
        s: slacks in the cones, shape ``(m,)``.
        at: the products ``(P x, A x, A^T y)``.
    """
    quadratic, linear, dual = x @ at.Px, c @ x, b @ y
    value = jnp.minimum(jnp.abs(0.5 * quadratic + linear), jnp.abs(0.5 * quadratic + dual))
    gap_size = jnp.maximum(value, 1e-3 * norm(quadratic, linear, dual))
    terms = jnp.maximum(jnp.maximum(jnp.abs(at.Px), jnp.abs(c)), jnp.abs(at.Aty))
    total = jnp.sum(jnp.abs(x))
    mean = jnp.sum(jnp.abs(x) * terms) / jnp.where(total > 0, total, 1)
    return Residuals(
        primal=(jnp.abs(at.Ax + s - b), norm(at.Ax, s)),
        dual=(jnp.abs(at.Px + c + at.Aty), jnp.maximum(terms, mean)),
        gap=(jnp.abs(quadratic + linear + dual), gap_size),
        unit=jnp.where(mean > 0, jnp.clip(mean, _LEAST_UNIT, 1), 1),
    )


def is_primal_certificate(b: Array, y: Array, Aty: Array, forgiven: Forgiven, tol: Array) -> Array:
    """Whether multipliers in the dual cones prove that the constraints contradict each other.

    Args:
        b: shape ``(m,)``.
        y: shape ``(m,)``.
        Aty: ``A^T y``.
        forgiven: by how much each row may be off at a solution.
        tol: how large an entry of ``A^T y`` may be where ``b^T y`` is -1.
    """
    margin = -(b @ y) - forgiven.rows @ jnp.abs(y)
    return (margin > 0) & (norm(Aty) <= tol * margin) & jnp.isfinite(margin)


def is_dual_certificate(c: Array, d: Array, s: Array, along: Products, forgiven: Forgiven, tol: Array) -> Array:
    """Whether the objective decreases forever along ``d``, without leaving the constraints.

    Args:
        c: shape ``(n,)``.
        d: direction, shape ``(n,)``.
        s: the point of the cones next to ``-A d``, shape ``(m,)``.
        along: the products ``(P d, A d)`` and one that is not looked at.
        forgiven: by how much the slope of each variable may be off at a solution.
        tol: how large an entry of ``P d`` and ``A d + s`` may be where ``c^T d`` is -1.
    """
    margin = -(c @ d) - forgiven.slopes @ jnp.abs(d)
    return (margin > 0) & (norm(along.Px, along.Ax + s) <= tol * margin) & jnp.isfinite(margin)


def proof(
    scaling: Scaling, qp: QuadraticProgram, directions: tuple[Array, Array, Array], infeasible: Array, unbounded: Array
) -> tuple[Array, ConicSolution]:
    """The status, that of a run without a proof, and what proves that there is no solution.

    The certificate is in the units of the user, with ``b^T y = -1`` or ``c^T x = -1``; it is 0 without a proof.

    Args:
        scaling: the scaling of the problem.
        qp: the scaled problem.
        directions: ``(x, y, s)``, of which ``y``, or ``x`` and ``s``, are a certificate.
        infeasible: whether ``y`` is one.
        unbounded: whether ``x`` and ``s`` are one.
    """
    (x, y, s), (variables, rows, cost, *_) = directions, scaling
    unbounded &= ~infeasible

    def unit(slope, holds):
        return jnp.where(holds, cost / jnp.where(holds, -slope, 1), 0)

    of_y, of_x = unit(qp.upper @ y, infeasible), unit(qp.q @ x, unbounded)
    status = Status.DUAL_INFEASIBLE.where(unbounded, int(Status.RUNNING))
    status = Status.PRIMAL_INFEASIBLE.where(infeasible, status)
    return status, ConicSolution(of_x * variables * x, of_y * rows / cost * y, of_x * s / rows)
