r"""How far a point is from solving a quadratic program, in the units of :mod:`._scaling`.

For a primal point :math:`x` and multipliers :math:`y` of the rows (positive at upper bounds, negative at lower ones):

==============  ==============================================  =================================================
residual        is                                              compared with
==============  ==============================================  =================================================
primal          :math:`|Ax - \Pi_{[l,u]}(Ax)|_\infty`           :math:`|Ax|_\infty`
dual            :math:`(Px + q + A^T y)_j` of each variable     the largest of its three terms, and the mean term
duality gap     :math:`|x^T P x + q^T x + S(y)|`                the values of :math:`x` and of :math:`y`
==============  ==============================================  =================================================

where :math:`S(y) = u^T y_+ - l^T y_-` is the support function of the box, the value of :math:`x` is
:math:`\tfrac12 x^T P x + q^T x`, and that of :math:`y` is :math:`-\tfrac12 x^T P x - S(y)`. The mean term is the sum of
:math:`|x_j (Px)_j|,\ |x_j q_j|` and :math:`|x_j (A^T y)_j|` over :math:`|x|_1`: what a variable costs that is in use.
The largest term of all would be that of a variable that is out of use because of its price.

A point that an active set determines is judged by what exceeds the rounding of the terms, :func:`less_rounding`.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp

from jaxsolve._compat import max_abs
from jaxsolve._types import Array
from jaxsolve.solvers.quadratic._problem import QuadraticProgram

__all__ = [
    "Products",
    "Residuals",
    "feasible_signs",
    "less_rounding",
    "norm",
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
    """Residuals, each with the size it is compared with; pairs of scalars, or of vectors.

    ``unit`` is that in which the absolute tolerance of dual residual and gap is meant: 1, or less where the terms of
    the variables in use are less.
    """

    primal: tuple[Array, Array]
    dual: tuple[Array, Array]
    gap: tuple[Array, Array]
    unit: Array


def products(qp: QuadraticProgram, x: Array, y: Array) -> Products:
    """The matrix products at a point."""
    return Products(qp.P.matvec(x), qp.A.matvec(x), qp.A.rmatvec(y))


def feasible_signs(qp: QuadraticProgram, y: Array) -> Array:
    """Multipliers without those entries that belong to an infinite bound."""
    y = jnp.where(qp.upper == jnp.inf, jnp.minimum(y, 0), y)
    return jnp.where(qp.lower == -jnp.inf, jnp.maximum(y, 0), y)


def support(qp: QuadraticProgram, y: Array) -> tuple[Array, Array]:
    """The support function ``S(y)``, and the sum of the absolute values of its terms."""
    bound = jnp.where(y > 0, qp.upper, qp.lower)
    terms = y * jnp.where(jnp.isfinite(bound), bound, 0)
    return jnp.sum(terms), jnp.sum(jnp.abs(terms))


def norm(*vectors: Array) -> Array:
    """The largest absolute value of all entries: NaN if one of them is, and 0 for none."""
    return functools.reduce(jnp.maximum, map(max_abs, vectors))


def residuals(qp: QuadraticProgram, x: Array, y: Array, at: Products) -> Residuals:
    """Residuals at a point whose multipliers have feasible signs."""
    violation = jnp.maximum(jnp.maximum(qp.lower - at.Ax, at.Ax - qp.upper), 0)
    quadratic, linear = x @ at.Px, qp.q @ x
    bounds, _ = support(qp, y)
    # Relative to the value, for that is what one wants digits of; but where large terms cancel there are fewer.
    value = jnp.minimum(jnp.abs(0.5 * quadratic + linear), jnp.abs(0.5 * quadratic + bounds))
    gap_size = jnp.maximum(value, 1e-3 * norm(quadratic, linear, bounds))
    terms = jnp.maximum(jnp.maximum(jnp.abs(at.Px), jnp.abs(qp.q)), jnp.abs(at.Aty))
    total = jnp.sum(jnp.abs(x))
    mean = jnp.sum(jnp.abs(x) * terms) / jnp.where(total > 0, total, 1)
    # Without a linear term, over a cone, the solution is 0, and nothing has a unit.
    sides = jnp.stack([qp.lower, qp.upper])
    has_unit = jnp.any(qp.q != 0) | jnp.any(jnp.isfinite(sides) & (sides != 0))
    return Residuals(
        primal=(violation, norm(at.Ax)),
        dual=(jnp.abs(at.Px + qp.q + at.Aty), jnp.maximum(terms, mean)),
        gap=(jnp.abs(quadratic + linear + bounds), gap_size),
        unit=jnp.where((mean > 0) & has_unit, jnp.minimum(mean, 1), 1),
    )


def less_rounding(res: Residuals, qp: QuadraticProgram, x: Array, y: Array, wanted: Array) -> Residuals:
    """Residuals without what their terms may be off by because of rounding, which no other point has less of.

    A point so far away that its rounding hides the problem has gained nothing: what is taken off is small beside the
    sizes with which residuals are compared.

    Args:
        res: the residuals.
        qp: the problem, whose matrices are given by their entries.
        x: the point, shape ``(n,)``.
        y: its multipliers, shape ``(m,)``.
        wanted: a boolean scalar: whether anything is taken off; a tolerance of 0 is never met.
    """
    eps, lengths, multipliers = jnp.finfo(x.dtype).eps, jnp.abs(x), jnp.abs(y)
    P, A = qp.P.each(jnp.abs), qp.A.each(jnp.abs)  # type: ignore[union-attr]
    slopes, rows = P.matvec(lengths) + jnp.abs(qp.q), A.matvec(lengths)
    value = lengths @ slopes + multipliers @ rows

    def less(residual, terms):
        found, size = residual
        return jnp.maximum(found - jnp.where(wanted, jnp.minimum(eps * terms, 3 * eps**0.5 * size), 0), 0), size

    dual = less(res.dual, slopes + A.rmatvec(multipliers))
    return res._replace(primal=less(res.primal, rows), dual=dual, gap=less(res.gap, value))


def optimality_error(res: Residuals, tol: Array, rtol: Array) -> Array:
    """One number that is at most ``tol`` just if every residual is at most ``tol * unit + rtol * size``."""
    ratio = rtol / jnp.maximum(tol, jnp.finfo(tol.dtype).tiny)
    parts = ((res.primal, 1), (res.dual, res.unit), (res.gap, res.unit))
    return norm(*[residual / (unit + ratio * size) for (residual, size), unit in parts])
