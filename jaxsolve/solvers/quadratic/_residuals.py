r"""How far a point is from solving a quadratic program, and proofs that nothing does.

For a primal point :math:`x` and multipliers :math:`y` of the rows (positive at upper bounds, negative at lower ones):

==============  ==============================================  =================================================
residual        is                                              compared with
==============  ==============================================  =================================================
primal          :math:`|Ax - \Pi_{[l,u]}(Ax)|_\infty`           :math:`|Ax|_\infty`
dual            :math:`|Px + q + A^T y|_\infty`                 the largest of its three terms
duality gap     :math:`|x^T P x + q^T x + S(y)|`                the values of :math:`x` and of :math:`y`
==============  ==============================================  =================================================

where :math:`S(y) = u^T y_+ - l^T y_-` is the support function of the box, the value of :math:`x` is
:math:`\tfrac12 x^T P x + q^T x`, and that of :math:`y` is :math:`-\tfrac12 x^T P x - S(y)`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from jaxsolve._types import Array
from jaxsolve.solvers.quadratic._problem import QuadraticProgram

__all__ = [
    "Products",
    "Residuals",
    "feasible_signs",
    "is_dual_certificate",
    "is_primal_certificate",
    "optimality_error",
    "products",
    "residuals",
    "support",
]


class Products(NamedTuple):
    """The matrix products at a point: ``P x``, ``A x`` and ``A^T y``."""

    Px: Array
    Ax: Array
    Aty: Array


class Residuals(NamedTuple):
    """Residuals in the units of the problem, and the sizes they are compared with; scalars."""

    primal: Array
    dual: Array
    gap: Array
    primal_size: Array
    dual_size: Array
    gap_size: Array


def products(qp: QuadraticProgram, x: Array, y: Array) -> Products:
    """The matrix products at a point."""
    return Products(qp.P.matvec(x), qp.A.matvec(x), qp.A.rmatvec(y))


def feasible_signs(qp: QuadraticProgram, y: Array) -> Array:
    """Multipliers without those entries that belong to an infinite bound."""
    y = jnp.where(qp.upper == jnp.inf, jnp.minimum(y, 0), y)
    return jnp.where(qp.lower == -jnp.inf, jnp.maximum(y, 0), y)


def support(qp: QuadraticProgram, y: Array) -> tuple[Array, Array]:
    """The support function ``S(y)``, and the sum of the absolute values of its terms."""
    above = jnp.where(y > 0, y * jnp.where(jnp.isfinite(qp.upper), qp.upper, 0), 0)
    below = jnp.where(y < 0, y * jnp.where(jnp.isfinite(qp.lower), qp.lower, 0), 0)
    return jnp.sum(above + below), jnp.sum(jnp.abs(above) + jnp.abs(below))


def norm(vector: Array) -> Array:
    """The largest absolute value; 0 for no entries."""
    return jnp.max(jnp.abs(vector), initial=0)


def residuals(qp: QuadraticProgram, x: Array, y: Array, at: Products) -> Residuals:
    """Residuals at a point whose multipliers have feasible signs."""
    violation = jnp.maximum(jnp.maximum(qp.lower - at.Ax, at.Ax - qp.upper), 0)
    quadratic, linear = x @ at.Px, qp.q @ x
    bounds, _ = support(qp, y)
    value, bound = jnp.abs(0.5 * quadratic + linear), jnp.abs(0.5 * quadratic + bounds)
    terms = jnp.maximum(jnp.maximum(jnp.abs(quadratic), jnp.abs(linear)), jnp.abs(bounds))
    return Residuals(
        jnp.max(violation, initial=0),
        norm(at.Px + qp.q + at.Aty),
        jnp.abs(quadratic + linear + bounds),
        norm(at.Ax),
        jnp.maximum(jnp.maximum(norm(at.Px), norm(qp.q)), norm(at.Aty)),
        # Relative to the value, for that is what one wants digits of; but where large terms cancel there are fewer.
        jnp.maximum(jnp.minimum(value, bound), 1e-3 * terms),
    )


def optimality_error(res: Residuals, tol: Array, rtol: Array) -> Array:
    """One number that is at most ``tol`` just if every residual is at most ``tol + rtol * size``."""
    ratio = rtol / jnp.maximum(tol, jnp.finfo(tol.dtype).tiny)

    def relative(residual, size):
        return residual / (1 + ratio * size)

    return jnp.maximum(
        jnp.maximum(relative(res.primal, res.primal_size), relative(res.dual, res.dual_size)),
        relative(res.gap, res.gap_size),
    )


# ---- Certificates -------------------------------------------------------------------------------------------------

# A certificate is believed if it excludes every point within this radius, for each ten variables, where the solutions
# that the sizes of the data suggest are of size 1.
_RADIUS = {8: 1e9, 4: 1e3}


def _radius(qp: QuadraticProgram) -> float:
    return _RADIUS.get(qp.q.dtype.itemsize, 1e3) * max(1.0, qp.num_variables / 10)


def is_primal_certificate(qp: QuadraticProgram, y: Array, Aty: Array) -> Array:
    r"""Whether ``y`` proves that the constraints contradict each other.

    Every feasible :math:`x` has :math:`y^T A x \le S(y)`. So if :math:`S(y) < 0`, then
    :math:`|x|_1 \ge -S(y) / |A^T y|_\infty`: there is none within that radius.

    Args:
        qp: the problem, in units in which solutions are not huge.
        y: multipliers with feasible signs.
        Aty: ``A^T y``.
    """
    value, size = support(qp, y)
    # A sum that is negative by rounding alone proves nothing.
    rounding = 1e3 * jnp.finfo(y.dtype).eps * size
    # Rows of length 1 with large bounds have large solutions.
    bound = jnp.maximum(size / jnp.maximum(jnp.sum(jnp.abs(y)), jnp.finfo(y.dtype).tiny), 1)
    return (value < -rounding) & (norm(Aty) * bound * _radius(qp) <= -value) & jnp.isfinite(value)


def is_dual_certificate(qp: QuadraticProgram, d: Array, Pd: Array, Ad: Array) -> Array:
    r"""Whether the objective decreases forever along ``d``, without leaving the constraints.

    Scaled to :math:`q^T d = -1` the direction must have :math:`P d` and the growth of violations so small that they
    are not felt within the radius of :func:`is_primal_certificate`; a large q beside a small P, or large bounds, make
    solutions large.

    Args:
        qp: the problem, likewise.
        d: direction.
        Pd: ``P d``.
        Ad: ``A d``.
    """
    slope, size = qp.q @ d, jnp.sum(jnp.abs(qp.q * d))
    growth = jnp.maximum(
        jnp.where(jnp.isfinite(qp.upper), Ad, 0),
        jnp.where(jnp.isfinite(qp.lower), -Ad, 0),
    )
    length = jnp.sum(jnp.abs(d))
    small = -slope / jnp.maximum(norm(qp.q), jnp.finfo(d.dtype).tiny) / length / _radius(qp)
    curvature = jnp.max(jnp.abs(qp.P.dense())) if qp.is_dense else jnp.maximum(norm(qp.q), 1)
    flat = norm(Pd) <= small * jnp.minimum(curvature, jnp.maximum(norm(qp.q), 1)) * length
    inside = jnp.max(growth, initial=0) <= small * length
    rounding = 1e3 * jnp.finfo(d.dtype).eps * size
    return (slope < -rounding) & flat & inside & jnp.isfinite(length) & (length > 0)
