r"""The residual map of a conic program: one factorization for polishing and for every derivative.

With :math:`v = y - s` the multipliers are :math:`y = \Pi(v)`, the projection on the dual cones, and the slacks
:math:`s = \Pi(v) - v`. The solution is the root of

.. math::  F(x, v) = \bigl(P x + c + A^T \Pi(v),\; A x + \Pi(v) - v - b\bigr)

in scaled units. Where :math:`D` is the derivative of the projection, its Jacobian is eliminated to

.. math::

    H = P + \varepsilon I + A^T E A, \qquad E = D\,(I - (1 - \delta) D)^{-1},

symmetric positive definite whatever the rank of P; and so is its transpose. D and E have eigenvectors in common, which
are known cone by cone. Refinement with the Jacobian itself removes the effect of :math:`\delta` and
:math:`\varepsilon`. Newton's method for F is polishing; the same system with another right-hand side is a derivative.

============================  =====================================================================================
case                          what is computed
============================  =====================================================================================
strict complementarity,       the derivative
nondegenerate
a non-negative row with       as asked for: the mean of the derivatives on both sides, or that on one of them
neither slack nor multiplier
other cones at a kink         that of one of the pieces of the projection (an element of its B-subdifferential)
x is not unique               no movement along directions in which nothing holds x
============================  =====================================================================================

With ``smoothing`` the solution is a point of the central path. There :math:`\Pi` is the smooth map of :mod:`._relaxed`,
and all else is the same.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_solve, solve_triangular

from jaxsolve._compat import max_abs
from jaxsolve._loop import run_if_any
from jaxsolve._types import Array, PyTree
from jaxsolve._vectors import flat, unraveled
from jaxsolve.implicit_diff import TangentSystem
from jaxsolve.solvers.conic._program import Program, as_arrays
from jaxsolve.solvers.conic._relaxed import relaxed_multipliers, relaxed_slopes
from jaxsolve.solvers.conic._slopes import multipliers, slopes_at, weights_of
from jaxsolve.solvers.conic._solution import ConicSolution
from jaxsolve.solvers.conic.cones import Cones
from jaxsolve.solvers.quadratic._scaling import Scaling
from jaxsolve.tree_util import tree_all_finite, tree_where, tree_zeros_like

__all__ = [
    "ConicTangent",
    "ConicTangentByProducts",
    "Factors",
    "balanced",
    "factors_at",
    "polish",
    "polish_on_path",
    "solve_tangent",
]

_MAX_REFINEMENTS = 6
_MAX_NEWTON_STEPS, _OVER = 8, 100
# On the central path steps are shortened where the residual does not fall, to this part at least.
_MAX_TRIALS, _SHORTER, _SHORTEST = 60, 0.5, 1e-4


def _softness(dtype) -> tuple[float, float]:
    """The parameters ``delta`` and ``epsilon`` of the system, beside the entries of a scaled program around 1."""
    return (1e-8, 1e-12) if jnp.finfo(dtype).bits == 64 else (1e-3, 1e-6)


# ---- The system ------------------------------------------------------------------------------------------------------


class Factors(NamedTuple):
    """The system of the residual map at a point, factorized.

    Attributes:
        weights: the slopes of non-negative rows, shape ``(m,)``.
        scaling: the scaling of the problem.
        slopes: the derivative of the projection; ``None`` without a factorization.
        cholesky: lower triangular factor of H, shape ``(n, n)``; likewise.
        smoothing: the complementary products, in scaled units; ``None`` for a solution, where they are 0.
    """

    weights: Array
    scaling: Scaling
    slopes: Any = None
    cholesky: Any = None
    smoothing: Any = None

    def multipliers(self, cones: Cones, v: Array) -> Array:
        """The multipliers as a function of ``v``."""
        return _multipliers(cones, v, self.weights, self.smoothing)


def _multipliers(cones: Cones, v: Array, weights: Array, smoothing: Any) -> Array:
    return multipliers(cones, v, weights) if smoothing is None else relaxed_multipliers(cones, v, smoothing)


def factors_at(
    scaled: Program, scaling: Scaling, cones: Cones, v: Array, weights: Array, smoothing: Any = None
) -> Factors:
    """The system at a point of the scaled program."""
    delta, epsilon = _softness(v.dtype)
    slopes = slopes_at(cones, v, weights) if smoothing is None else relaxed_slopes(cones, v, smoothing)
    half = slopes.apply(lambda d: jnp.sqrt(d / (1 - (1 - delta) * d)), scaled.A)
    H = scaled.P + half.T @ half
    return Factors(weights, scaling, slopes, _cholesky(H, delta, epsilon), smoothing)


def balanced(scaled: Program, cones: Cones, v: Array, factors: Factors) -> Factors:
    """The system in which weakly active rows count with the mean of the derivatives on both sides.

    Between a row that is inactive and one that is active lies a spring at the row, whose stiffness has to be the
    inverse of the compliance there, see :func:`jaxsolve.solvers.quadratic._kkt.balanced_weight`. Exact for one row.
    """

    def balance(factors):
        return factors_at(scaled, factors.scaling, cones, v, _balanced_weights(scaled, factors))

    return run_if_any(jnp.any(_is_weak(factors.weights)), balance, factors)


def _is_weak(weights: Array) -> Array:
    return (weights > 0) & (weights < 1)


def _balanced_weights(scaled: Program, factors: Factors) -> Array:
    weights, delta = factors.weights, _softness(scaled.c.dtype)[0]
    compliance = jnp.sum(solve_triangular(factors.cholesky, scaled.A.T, lower=True) ** 2, axis=0)
    return jnp.where(_is_weak(weights), jnp.clip(1 - compliance, delta, 1 - delta), weights)


def _cholesky(H: Array, delta: float, least: float) -> Array:
    """The factor of H; directions in which nothing holds x are held by a stiff spring."""
    eye = jnp.eye(H.shape[0], dtype=H.dtype)
    rounding = 10 * float(jnp.finfo(H.dtype).eps) * max_abs(H)
    epsilon = jnp.clip(rounding, least, 1e3 * least)
    L = jnp.linalg.cholesky(H + epsilon * eye, symmetrize_input=False)
    loose = 10 * jnp.maximum(epsilon, rounding)
    singular = ~jnp.all((L**2 > loose) | (eye == 0)) & tree_all_finite(H)

    def hold(_):
        values, vectors = jnp.linalg.eigh(H)
        spring = jnp.where(values > loose, jnp.maximum(values, epsilon), 1 / delta)
        basis = vectors * jnp.sqrt(spring)[None, :]
        return jnp.linalg.cholesky(basis @ basis.T, symmetrize_input=False)

    return run_if_any(singular, hold, L)


def solve_tangent(
    scaled: Program, factors: Factors, r1: Array, r2: Array, *, transposed: bool = False
) -> tuple[Array, Array]:
    """Solve with the Jacobian of F at a point of the scaled program, or with its transpose.

    Returns:
        The parts of the solution, of shapes ``(n,)`` and ``(m,)``.
    """
    (P, _, A, _), slopes, L = scaled, factors.slopes, factors.cholesky
    delta, _ = _softness(r1.dtype)

    def D(v):
        return slopes.apply(lambda d: d, v)

    def soft(v):  # (I - (1 - delta) D)^{-1}
        return slopes.apply(lambda d: 1 / (1 - (1 - delta) * d), v)

    def nothing(v):
        return v

    pull, push = (nothing, D) if transposed else (D, nothing)  # before A^T, and after A

    def once(r1, r2):
        right = soft(r2) if transposed else soft(D(r2))
        x = cho_solve((L, True), r1 + right @ A)
        return x, soft(push(A @ x) - r2)

    def left_over(x, v):
        return r1 - P @ x - pull(v) @ A, r2 - push(A @ x) - slopes.apply(lambda d: d - 1, v)

    def refine(carry):
        point, left, error, _, count = carry
        new = jax.tree.map(jnp.add, point, once(*left))
        new_left = left_over(*new)
        new_error = jnp.maximum(*map(max_abs, new_left))
        better = new_error < error
        point, left, least = tree_where(better, (new, new_left, new_error), (point, left, error))
        return point, left, least, better & (new_error > wanted), count + 1

    wanted = 4 * float(jnp.finfo(r1.dtype).eps) * jnp.maximum(max_abs(r1), max_abs(r2))
    # The first turn finds the solution to be refined: what is in the loop is compiled once.
    point, far = (jnp.zeros_like(r1), jnp.zeros_like(r2)), jnp.full_like(wanted, jnp.inf)
    carry = (point, (r1, r2), far, jnp.asarray(True), jnp.zeros((), jnp.int32))
    return lax.while_loop(lambda carry: carry[3] & (carry[4] <= _MAX_REFINEMENTS), refine, carry)[0]


def residual_map(
    scaled: Program, cones: Cones, x: Array, v: Array, weights: Array, smoothing: Any = None
) -> tuple[Array, Array]:
    """The map F."""
    (P, c, A, b), y = scaled, _multipliers(cones, v, weights, smoothing)
    return P @ x + c + y @ A, A @ x + y - v - b


# ---- Newton's method -------------------------------------------------------------------------------------------------


def polish(
    scaled: Program, scaling: Scaling, cones: Cones, x: Array, v: Array, weak: str, wanted: Array | bool
) -> tuple[Array, Array, Factors]:
    """Newton's method for F, as long as the residual falls.

    Args:
        scaled: the scaled program.
        scaling: its scaling.
        cones: the cones.
        x: where to begin, shape ``(n,)``.
        v: multipliers minus slacks there, shape ``(m,)``.
        weak: how derivatives take rows with neither.
        wanted: a boolean scalar: whether any step is made.

    Returns:
        The better point, and the factors there as derivatives want them.
    """
    # The other terms of the residual are those of solutions and multipliers, which are around 1 in scaled units.
    enough = 2 * float(jnp.finfo(x.dtype).eps) * (1 + max_abs(scaled.b) + max_abs(scaled.c))

    def turn(carry):
        """Judge a candidate, factorize there, and make the next one; at the end, the factors that derivatives want."""
        (x, v, error), candidate, count, factors = carry
        new_x, new_v = candidate
        strict = weights_of(new_v, max_abs(new_v), None)
        left = residual_map(scaled, cones, new_x, new_v, strict)
        new_error = jnp.maximum(*map(max_abs, left))
        better = (count < _OVER) & (new_error < error)
        (x, v), least = tree_where(better, (candidate, new_error), ((x, v), error))
        going = better & wanted & (least > enough) & (count < _MAX_NEWTON_STEPS)

        def balance(_):
            return _balanced_weights(scaled, factors)

        weights = jnp.where(going, strict, weights_of(v, max_abs(v), weak))
        weights = run_if_any(count == _OVER, balance, weights)
        factors = factors_at(scaled, scaling, cones, v, weights)

        def step(candidate):
            change = solve_tangent(scaled, factors, *jax.tree.map(jnp.negative, left))
            return jax.tree.map(jnp.add, candidate, change)

        last = jnp.where((count < _OVER) & jnp.any(_is_weak(weights)), _OVER, _OVER + 1)
        return (x, v, least), run_if_any(going, step, candidate), jnp.where(going, count + 1, last), factors

    none = jax.tree.map(jnp.zeros_like, jax.eval_shape(lambda: factors_at(scaled, scaling, cones, v, v)))
    carry = ((x, v, jnp.full_like(enough, jnp.inf)), (x, v), jnp.zeros((), jnp.int32), none)
    (x, v, _), _, _, factors = lax.while_loop(lambda carry: carry[2] <= _OVER, turn, carry)
    return x, v, factors


def polish_on_path(
    scaled: Program, scaling: Scaling, cones: Cones, x: Array, v: Array, smoothing: Array, wanted: Array | bool
) -> tuple[Array, Array, Factors]:
    """Newton's method for the point of the central path, with steps as long as the residual falls.

    The arguments are those of :func:`polish`, and ``smoothing``, the complementary products in scaled units.

    Returns:
        The point, and the factors there.
    """
    enough = 2 * float(jnp.finfo(x.dtype).eps) * (1 + max_abs(scaled.b) + max_abs(scaled.c))
    nothing = jnp.zeros_like(v)

    def residual(x, v):
        r1, r2 = residual_map(scaled, cones, x, v, nothing, smoothing)
        return (r1, r2), jnp.sqrt(r1 @ r1 + r2 @ r2)

    def at(v):
        return factors_at(scaled, scaling, cones, v, nothing, smoothing)

    def step(carry):
        x, v, left, error, _, count = carry
        dx, dv = solve_tangent(scaled, at(v), -left[0], -left[1])

        def shorter(trial):
            length, *_ = trial
            new = x + _SHORTER * length * dx, v + _SHORTER * length * dv
            return _SHORTER * length, new, *residual(*new)

        one = jnp.ones_like(error)
        trial = one / _SHORTER, (x, v), left, jnp.full_like(error, jnp.inf)
        tried = lambda trial: ~(trial[3] < error) & (trial[0] > _SHORTEST)  # noqa: E731
        _, new, new_left, new_error = lax.while_loop(tried, shorter, trial)
        better = new_error < error
        (x, v), left, least = tree_where(better, (new, new_left, new_error), ((x, v), left, error))
        going = better & (least > enough) & (count + 1 < _MAX_TRIALS)
        return x, v, left, least, going, count + 1

    left, error = residual(x, v)
    carry = (x, v, left, error, wanted & (error > enough), jnp.zeros((), jnp.int32))
    x, v, *_ = lax.while_loop(lambda carry: carry[4], step, carry)
    return x, v, at(v)


# ---- Derivatives -----------------------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ConicTangent(TangentSystem):
    """The system of the residual map. Its unknowns are the variables and ``v`` in scaled units.

    Attributes:
        factors: the system at the solution.
        form: a :class:`._form.ConicForm`: how data become a program.
        method: a linear solver of the user, who may want another one.
        valid: whether there is a solution to differentiate, a boolean scalar.
    """

    factors: Factors
    form: Any = dataclasses.field(metadata={"static": True})
    method: Any = dataclasses.field(metadata={"static": True})
    valid: Any

    structure = "general"

    def unknowns(self, params: ConicSolution) -> tuple[PyTree, Array]:
        rows, cost = self.factors.scaling.rows, self.factors.scaling.cost
        y, s = (flat(part, rows.dtype) for part in (params.y, params.s))
        return params.x, cost / rows * y - rows * s

    def complete(self, unknowns: tuple[PyTree, Array], *data: Any) -> ConicSolution:
        (x, v), (_, rows, cost, *_) = unknowns, self.factors.scaling
        program = self.form.program(x, *data)
        y = self.factors.multipliers(self.form.cones, v)
        of_rows = [next(iter(program.unravel_rows(part).values())) for part in (rows / cost * y, (y - v) / rows)]
        return ConicSolution(x, *of_rows)

    def residual(self, unknowns: tuple[PyTree, Array], *data: Any) -> tuple[PyTree, Array]:
        (variables, rows, cost, *_), v = self.factors.scaling, unknowns[1]
        qp = self.form.program(unknowns[0], *data).qp
        x, y = flat(unknowns[0], qp.q.dtype), self.factors.multipliers(self.form.cones, v)
        slope = qp.P.matvec(x) + qp.q + qp.A.rmatvec(rows / cost * y)
        gap = qp.A.matvec(x) + (y - v) / rows - qp.upper
        return unraveled(unknowns[0])(cost * variables * slope), rows * gap

    def solve(
        self, rhs: PyTree, unknowns: tuple[PyTree, Array], *data: Any, transposed: bool = False
    ) -> tuple[PyTree, Array]:
        variables, rows, cost, *_ = self.factors.scaling
        P, c, A, b = as_arrays(self.form.program(unknowns[0], *data).qp)
        slope = cost * variables
        scaled = Program(
            slope[:, None] * P * variables[None, :], slope * c, rows[:, None] * A * variables[None, :], rows * b
        )
        r1, r2 = flat(rhs[0], c.dtype), rhs[1]
        r1 = variables * r1 if transposed else r1
        first, second = solve_tangent(scaled, self.factors, r1, r2, transposed=transposed)
        first = first if transposed else variables * first
        solution = tree_where(self.valid, (first, second), tree_zeros_like((first, second)))
        return unraveled(unknowns[0])(solution[0]), solution[1]

    transposed = functools.partialmethod(solve, transposed=True)


class ConicTangentByProducts(ConicTangent):
    """The same for matrices that are not factorized: the linear solver is chosen by size."""

    solve = transposed = None  # type: ignore[assignment]
