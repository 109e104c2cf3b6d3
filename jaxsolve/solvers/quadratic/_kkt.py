r"""The Karush-Kuhn-Tucker system at a solution: one factorization for polishing and for every derivative.

At a solution each row is active (``a = 1``: an equality, or at a bound with a multiplier) or inactive (``a = 0``: no
multiplier). Given ``a`` and the bound ``b`` at which a row is active, the solution is the root of

.. math::

    F(x, y) = \bigl(P x + q + A^T y,\; a E (A x - b) - (1 - a) c E^{-1} y\bigr),

which is linear in :math:`(x, y)`; E and c scale rows and multipliers. Its Jacobian is eliminated to the n x n matrix

.. math::

    H = \bar P + \varepsilon I + \bar A^T \operatorname{diag}(a w) \bar A, \qquad w = 1 / (1 - (1 - \delta) a),

of the scaled problem, symmetric positive definite whatever the rank of P and of the active rows. Refinement steps with
the Jacobian itself remove the effect of :math:`\delta` and :math:`\varepsilon`. Newton's method for F is polishing; the
same system, or its transpose, with another right-hand side is a derivative of the solution, forward or reverse.

============================  =====================================================================================
case                          what is computed
============================  =====================================================================================
strict complementarity,       the derivative
independent active rows
weakly active rows            ``a = 1``, 0, or between, as asked for: the mean of the derivatives on both sides
dependent active rows         x: the derivative; y: the change of least norm; where their bounds move apart, so that
                              no point is at all of them, the change that is nearest to it
x is not unique               the change of least norm: no movement along directions in which nothing holds x
============================  =====================================================================================
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._compat import max_abs
from jaxsolve._loop import run_if_any
from jaxsolve._types import Array, PyTree
from jaxsolve.implicit_diff import TangentSystem
from jaxsolve.linear_solve import solve, solve_cg
from jaxsolve.solvers.quadratic._cholesky import cholesky, cholesky_solve, half_solve
from jaxsolve.solvers.quadratic._problem import DenseMatrix, QuadraticProgram, flat, unraveled
from jaxsolve.solvers.quadratic._residuals import norm
from jaxsolve.solvers.quadratic._scaling import Scaling
from jaxsolve.tree_util import tree_all_finite, tree_where, tree_zeros_like

__all__ = [
    "Factors",
    "KKTSystem",
    "balanced_weight",
    "estimate_multipliers",
    "factorize",
    "is_convex",
    "kkt_residual",
    "polish",
    "solve_kkt",
]


class Factors(NamedTuple):
    """The system of an active set, factorized.

    Attributes:
        weight: 1 for active rows, 0 for inactive ones, between for weakly active ones; shape ``(m,)``.
        at_upper: whether a row is (or would be) active at its upper bound.
        scaling: the scaling of the problem for which H is made.
        cholesky: lower triangular factor of H, shape ``(n, n)``; ``None`` for products only.
    """

    weight: Array
    at_upper: Array
    scaling: Scaling
    cholesky: Any


def _softness(dtype) -> float:
    """The parameter ``delta`` of the system."""
    return 1e-7 if jnp.finfo(dtype).bits == 64 else 1e-3


def _negligible(dtype) -> float:
    """The part of a right-hand side that may be left of it: rounding, and as little as that if digits are few."""
    return (1e2 if jnp.finfo(dtype).bits == 64 else 5) * float(jnp.finfo(dtype).eps)


def _regularized(H: Array) -> tuple[Array, Array, Array]:
    r"""The factor of :math:`H + \varepsilon I`, the parameter, and the curvature below which there is none.

    Both are as small as rounding allows, which is that of the largest entries: of P, or of active rows over delta.
    """
    smallest, largest = (1e-12, 1e-9) if jnp.finfo(H.dtype).bits == 64 else (1e-6, 1e-5)
    rounding = jnp.finfo(H.dtype).eps * norm(H)  # its largest entry is on the diagonal
    epsilon = jnp.clip(10 * rounding, smallest, largest)
    L = cholesky(H + epsilon * jnp.eye(H.shape[0], dtype=H.dtype))
    return L, epsilon, 10 * jnp.maximum(epsilon, rounding)


def kkt_residual(qp: QuadraticProgram, x: Array, y: Array, factors: Factors) -> tuple[Array, Array]:
    """The mapping ``F`` of this module; linear in the point, differentiable in the data."""
    weight, at_upper, (_, rows, cost, *_), _ = factors
    bound = jnp.where(weight > 0, jnp.where(at_upper, qp.upper, qp.lower), 0)
    stationarity = qp.P.matvec(x) + qp.q + qp.A.rmatvec(y)
    return stationarity, weight * rows * (qp.A.matvec(x) - bound) - (1 - weight) * (cost / rows) * y


_ESTIMATE_TOL, _ESTIMATE_MAXITER = 1e-6, 200


def estimate_multipliers(scaled: QuadraticProgram, x: Array) -> Array:
    """Multipliers that come nearest to stationarity at a point, by least squares.

    The multiplier of a row costs the more the farther the row is from its bounds, and one of the wrong sign is 0.

    Args:
        scaled: the scaled problem, with dense matrices.
        x: the point, shape ``(n,)``.
    """
    scaled, x = lax.stop_gradient((scaled, x))
    near, Ax = 1e-3, scaled.A.matvec(x)
    below, above = Ax - scaled.lower, scaled.upper - Ax
    # The unknowns are the multipliers: found from A'WA, those of near rows would be lost to rounding in float32.
    cost = jnp.maximum(jnp.minimum(below, above), 0) ** 2 + near**2
    cost = jnp.minimum(cost, 1 / near**2)  # rows without bounds must not make it infinite

    def matvec(y):
        return scaled.A.matvec(scaled.A.rmatvec(y)) + cost * y

    # By products alone: in a batch, factorizations that run beside those of a cold start could block each other.
    slope = scaled.P.matvec(x) + scaled.q
    limits = {"tol": _ESTIMATE_TOL, "maxiter": _ESTIMATE_MAXITER}
    y = -solve_cg(matvec, scaled.A.matvec(slope), preconditioner=lambda y: y / (1 + cost), **limits)
    right = (scaled.lower == scaled.upper) | (((y > 0) == (above < below)) & (jnp.minimum(above, below) < jnp.inf))
    return jnp.where(right & jnp.isfinite(y), y, 0)


def factorize(scaled: QuadraticProgram, weight: Array) -> Array:
    """The Cholesky factor of H; shape ``(n, n)``.

    Args:
        scaled: the scaled problem, with matrices given by their entries.
        weight: of the rows.
    """
    delta = _softness(scaled.q.dtype)
    H = _system(scaled, weight)
    L, epsilon, loose = _regularized(H)
    # Where nothing holds x, a pivot is of the size of epsilon or, for lack of precision, not a number.
    singular = ~jnp.all((L**2 > loose) | ~jnp.eye(L.shape[0], dtype=bool))

    def hold(_):
        # Along the directions that are not held a stiff spring takes the place of the missing curvature.
        values, vectors = jnp.linalg.eigh(H.mT)
        spring = jnp.where(values > loose, jnp.maximum(values, epsilon), 1 / delta)
        basis = vectors * jnp.sqrt(spring)[None, :]
        return cholesky(basis @ basis.T)

    return run_if_any(singular, hold, L)


def is_convex(scaled: QuadraticProgram) -> Array:
    """Whether P has no negative curvature along directions in which all equalities hold.

    Data of few digits may be indefinite by as much: a curvature that is negative by 1e-4 of the entries of its
    variables (1e-3 in float32) is none.

    Args:
        scaled: the scaled problem, with matrices given by their entries.
    """
    held, slack = (1e4, 1e-4) if jnp.finfo(scaled.q.dtype).bits == 64 else (1e2, 1e-3)
    P, A = lax.stop_gradient((scaled.P.dense(), scaled.A))
    equality = jnp.where(scaled.lower == scaled.upper, 1, 0).astype(P.dtype)
    P = P / jnp.maximum(norm(P), jnp.finfo(P.dtype).tiny)
    sizes = max_abs(P, axis=0)
    H = P + A.gram(held * equality) + slack * jnp.diag(jnp.where(sizes > 0, sizes, 1))
    return tree_all_finite(cholesky(H)) | ~jnp.isfinite(norm(H))


def balanced_weight(scaled: QuadraticProgram, weight: Array, factor: Array) -> Array:
    r"""Weights of weakly active rows with which the derivative is the mean of those on both sides.

    Between the derivative :math:`D_0` with a row inactive and :math:`D_\infty` with it active lies what a spring of
    stiffness :math:`k = a / (1 - a)` at the row gives, :math:`D_0 + \tfrac{k s}{1 + k s} (D_\infty - D_0)`, where s is
    the compliance of the rest of the system there. It is the mean if :math:`k s = 1`; and the compliance of the system
    with a spring of 1 is :math:`r = s / (1 + s)`, so that :math:`a = 1 - r`. Exact for one such row.

    Args:
        scaled: the scaled problem, with matrices given by their entries.
        weight: of the rows, 1/2 for weakly active ones.
        factor: the Cholesky factor for these weights.

    Returns:
        The same weights, with others between 0 and 1 for weakly active rows.
    """
    delta = _softness(scaled.q.dtype)
    balanced = jnp.clip(1 - _compliances(scaled.A, factor), delta, 1 - delta)
    return jnp.where((weight > 0) & (weight < 1), balanced, weight)


def _compliances(A, L):
    """``a^T (L L^T)^{-1} a`` for every row ``a`` of A."""

    def of(rows):
        return jnp.sum(half_solve(L, rows.T) ** 2, axis=0)

    if isinstance(A, DenseMatrix):
        return of(A.dense())
    (m, n), columns = A.shape, A.transpose()
    some = jnp.arange(n, dtype=jnp.int32)  # as many rows at a time as an array of the shape of L holds
    found = lax.map(lambda start: of(columns.columns(start + some)), n * jnp.arange(-(-m // n), dtype=jnp.int32))
    return found.reshape(-1)[:m]


def _system(scaled, weight):
    """The matrix H."""
    stiffness = weight / (1 - (1 - _softness(scaled.q.dtype)) * weight)
    return scaled.P.dense() + scaled.A.gram(stiffness)


def solve_kkt(
    qp: QuadraticProgram, r1: Array, r2: Array, factors: Factors, *, transposed: bool = False, refine: bool = True
) -> tuple[Array, Array]:
    """Solve with the Jacobian of :func:`kkt_residual` in ``(x, y)``, or its transpose.

    Args:
        qp: the problem, unscaled.
        r1: right-hand side of the first block, shape ``(n,)``.
        r2: of the second block, shape ``(m,)``.
        factors: the factorization; without one the system is solved by MINRES.
        transposed: solve with the transpose.
        refine: refine the solution until its residual no longer shrinks.

    Returns:
        The two blocks of the solution.
    """
    if factors.cholesky is None:
        return _solve_by_minres(qp, r1, r2, factors, transposed)
    a, _, (variables, rows, cost, *_), factor = factors
    delta = _softness(qp.q.dtype)
    w = 1 / (1 - (1 - delta) * a)
    # In scaled units both systems are symmetric but for the place of `a`.
    of_y, of_Ax = (a, 1) if transposed else (1, a)

    def pulled(y):
        return variables * qp.A.rmatvec(rows * (of_y * y))

    def rows_at(x):
        return of_Ax * (rows * qp.A.matvec(variables * x))

    def once(r1, r2):
        x = cholesky_solve(factor, r1 + pulled(w * r2))
        return x, w * (rows_at(x) - r2)

    def step(x, y):
        stationarity = cost * variables * qp.P.matvec(variables * x) + pulled(y)
        left = (r1 - stationarity, r2 - (rows_at(x) - (1 - a) * y))
        dx, dy = once(*left)
        return (x + dx, y + dy), left

    r1 = cost * variables * r1
    r2 = rows * r2 if transposed else r2
    if not refine:
        x, y = once(r1, r2)
    else:
        eps, size = jnp.finfo(r1.dtype).eps, norm(r1, r2)
        start = (jnp.zeros_like(r1), jnp.zeros_like(r2))
        (x, y), left, residual, before, count = _improve(step, start, _negligible(r1.dtype) * size, slowest=0.9)
        # What no step changes cannot be met: movements of dependent rows against each other, and forces along which
        # nothing holds x. Each step answered with its part over (or times) delta; without them least squares remain.
        stuck = (residual > 0.9 * before) & (residual > jnp.sqrt(eps) * size)
        x = jnp.where(stuck, x - count * delta * left[0], x)
        y = jnp.where(stuck & (a == 1), y + count * w * left[1], y)
    return variables * x, (y / cost if transposed else rows * y / cost)


def _solve_by_minres(
    qp: QuadraticProgram, r1: Array, r2: Array, factors: Factors, transposed: bool
) -> tuple[Array, Array]:
    r"""Like ``solve_kkt``, with products only.

    With :math:`t = \sqrt a` the system and its transpose have one symmetric form,

    .. math::

        \begin{pmatrix} \bar P & \bar A^T t \\ t \bar A & a - 1 \end{pmatrix}
        \begin{pmatrix} w \\ \mu \end{pmatrix} = \begin{pmatrix} s_1 \\ s_2 \end{pmatrix},

    which has a least-squares solution of minimal norm whatever is singular in it.
    """
    a, _, (variables, rows, cost, *_), _ = factors
    t, held = jnp.sqrt(a), a > 0
    safe = jnp.where(held, t, 1)

    def matvec(vectors):
        w, mu = vectors
        stationarity = variables * (cost * qp.P.matvec(variables * w) + qp.A.rmatvec(rows * (t * mu)))
        return stationarity, t * (rows * qp.A.matvec(variables * w)) - (1 - a) * mu

    s1 = cost * variables * r1
    if transposed:
        w, mu = solve(matvec, (s1, t * (rows * r2)), structure="symmetric")
        free = rows * qp.A.matvec(variables * w) - rows * r2
        return variables * w, jnp.where(held, mu / safe, free) / cost
    # The multipliers of inactive rows are known.
    known = jnp.where(held, 0, -r2)
    s1 = s1 - variables * qp.A.rmatvec(rows * known)
    w, mu = solve(matvec, (s1, jnp.where(held, r2 / safe, 0)), structure="symmetric")
    return variables * w, rows * jnp.where(held, t * mu, known) / cost


def polish(
    qp: QuadraticProgram, x: Array, y: Array, factors: Factors, moves: Array | bool = True
) -> tuple[Array, Array]:
    """Solve for the point that the active set determines, by Newton's method from ``(x, y)``, if it ``moves``."""
    variables, _, cost, *_ = factors.scaling

    def step(x, y):
        F1, F2 = kkt_residual(qp, x, y, factors)
        dx, dy = solve_kkt(qp, F1, F2, factors, refine=False)
        return (x - dx, y - dy), (cost * variables * F1, F2)

    size = 1 + norm(x / variables) + norm(cost * variables * qp.q)
    wanted = _negligible(x.dtype) * size
    return _improve(step, (x, y), wanted, slowest=0.2, moves=moves, foresees=True)[0]


_MAX_STEPS = 12


def _improve(step, start, wanted, *, slowest: float, moves: Array | bool = True, foresees: bool = False):
    """Repeat ``step(*point) -> (next_point, residual_at_point)`` while it helps.

    The regularization makes every step a contraction, a weak one where the system is nearly singular. A step costs two
    triangular solves, so there are as many as it takes, and two at least. Where the end is judged anyway, a run
    ``foresees`` that the last step made the residual less by as much as the step before.

    Returns:
        The last point; the residual before the last step; its norm, and that before the step before; and how many
        steps were made, in the dtype of the point.
    """

    def proceed(carry):
        count, _, _, residual, before = carry
        left = residual * (residual / before) if foresees else residual
        helps = (left > wanted) & (residual <= slowest * before)
        return moves & ((count < 2) | ((count < _MAX_STEPS) & helps))

    def body(carry):
        count, point, _, residual, _ = carry
        new, left = step(*point)
        return count + 1, new, left, norm(*left), residual

    infinite = jnp.asarray(jnp.inf, wanted.dtype)
    first = (jnp.zeros((), jnp.int32), start, start, infinite, infinite)
    count, point, left, residual, before = lax.while_loop(proceed, body, first)
    return point, left, residual, before, count.astype(wanted.dtype)


# ---- Derivatives ---------------------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class KKTSystem(TangentSystem):
    """The Karush-Kuhn-Tucker system of an active set. Its unknowns are the primal variables and the multipliers.

    Attributes:
        factors: the active set, and the factor of its system or ``None``.
        form: a :class:`._form.Form`: how data become a program, and vectors a solution.
        method: a linear solver of the user, who may want another one.
        valid: whether there is a solution to differentiate, a boolean scalar.
    """

    factors: Factors
    form: Any = dataclasses.field(metadata={"static": True})
    method: Any = dataclasses.field(metadata={"static": True})
    valid: Any

    structure = "general"  # the rows are scaled, so that the matrix is not symmetric

    def unknowns(self, params: PyTree) -> tuple[PyTree, PyTree]:
        return self.form.unknowns(params)

    def complete(self, unknowns: tuple[PyTree, PyTree], *data: Any) -> PyTree:
        return self.form.complete(unknowns, data)

    def mapping(self, qp: QuadraticProgram, x: Array, y: Array) -> tuple[Array, Array]:
        """What is differentiated, zero at the solution; linear, once the active set is known."""
        return kkt_residual(qp, x, y, self.factors)

    def residual(self, unknowns: tuple[PyTree, PyTree], *data: Any) -> tuple[PyTree, PyTree]:
        program, x, y = self.form.at(unknowns, data)
        return _like(unknowns, self.mapping(program.qp, x, y))

    def solve(
        self, rhs: PyTree, unknowns: tuple[PyTree, PyTree], *data: Any, transposed: bool = False
    ) -> tuple[PyTree, PyTree]:
        qp = self.form.program(unknowns[0], *data).qp
        r1, r2 = (flat(part, qp.q.dtype) for part in rhs)
        solution = solve_kkt(qp, r1, r2, self.factors, transposed=transposed)
        return _like(unknowns, tree_where(self.valid, solution, tree_zeros_like(solution)))

    transposed = functools.partialmethod(solve, transposed=True)


def _like(unknowns: tuple[PyTree, PyTree], vectors: tuple[Array, Array]) -> tuple[PyTree, PyTree]:
    """Vectors in the structure and dtypes of the unknowns."""
    x, y = (unraveled(tree)(vector) for tree, vector in zip(unknowns, vectors, strict=True))
    return x, y
