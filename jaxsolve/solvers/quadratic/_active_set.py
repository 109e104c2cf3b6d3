"""The active set of a solution: read off from a point, improved by exchanging rows, and factorized once.

Each row is active, with a multiplier, or inactive. Once that is known the solution is that of a linear system
(:mod:`._kkt`), exact to rounding, and the factor of its matrix serves every derivative too. So the search for the
active set is also the *polishing* of a point that an algorithm found.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxsolve._loop import loop, run_if_any
from jaxsolve._types import Array
from jaxsolve.solvers.quadratic._form import Solution
from jaxsolve.solvers.quadratic._kkt import Factors, balanced_weight, factorize, polish
from jaxsolve.solvers.quadratic._problem import QuadraticProgram
from jaxsolve.solvers.quadratic._residuals import feasible_signs, norm
from jaxsolve.solvers.quadratic._scaling import Scaling
from jaxsolve.tree_util import tree_where

__all__ = ["WEAK", "Rows", "classify", "search"]

#: How rows count in derivatives that hold with equality and multiplier 0.
WEAK = ("half", "active", "inactive")

# How many active sets are tried in a row.
_ATTEMPTS = 4
# What a turn of the search does: exchange rows, weigh those that are weakly active, or nothing any more.
_SEARCHING, _WEIGHING, _OVER = 0, 1, 2


class Rows(NamedTuple):
    """What the rows are at a point; arrays of shape ``(m,)``.

    Attributes:
        weight: 1 for active rows, 0 for others: as it is right for the solution itself, which decides for each.
        in_derivatives: the same with weakly active rows as derivatives want them: 1/2, 1 or 0.
        at_upper: whether a row is (or would be) active at its upper bound.
    """

    weight: Array
    in_derivatives: Array
    at_upper: Array


def classify(qp: QuadraticProgram, y: Array, Ax: Array, scaling: Scaling, weak: str) -> Rows:
    """Which rows are active at a point, by whether the multiplier or the slack is larger, in scaled units.

    Args:
        qp: the problem, unscaled.
        y: multipliers.
        Ax: the rows at the primal point.
        scaling: the scaling of the problem.
        weak: how derivatives take rows with neither a multiplier nor a slack: one of ``WEAK``.
    """
    rows, rounding = scaling.rows, jnp.finfo(y.dtype).eps
    multiplier = scaling.cost * y / rows
    above, below = rows * (qp.upper - Ax), rows * (Ax - qp.lower)
    at_upper = jnp.where(jnp.minimum(above, below) < -jnp.abs(multiplier), above < below, multiplier > 0)
    at_upper = jnp.where(multiplier == 0, above < below, at_upper)
    slack = jnp.where(at_upper, above, below)
    # A row at its bound is not beyond it because of rounding: if nothing pushes, it is let go.
    slack = jnp.where(jnp.abs(slack) <= 10 * rounding * norm(rows * Ax), 0, slack)
    equality = qp.lower == qp.upper
    weight = (equality | (jnp.abs(multiplier) > slack)).astype(y.dtype)
    bound = jnp.where(at_upper, qp.upper, qp.lower)
    size, largest = 1 + jnp.where(jnp.isfinite(bound), jnp.abs(rows * bound), 0), 1 + norm(multiplier)
    tiny = jnp.sqrt(rounding)
    undecided = ~equality & (jnp.abs(multiplier) <= tiny * largest) & (slack <= tiny * size)
    value = (0.5, 1.0, 0.0)[WEAK.index(weak)]
    return Rows(weight, jnp.where(undecided, value, weight), at_upper)


def search(
    problem: Any,
    start: Solution,
    error: Array,
    judge: Callable[[Array, Array], tuple[Array, Any]],
    tol: Array | float,
    weak: str,
    *,
    attempts: int = _ATTEMPTS,
    skip: Array | bool = False,
) -> tuple[Solution, Array, Factors]:
    """The best point that active sets near a point determine, and the factors there as derivatives want them.

    A point that breaks a bound, or has a multiplier of the wrong sign, says which rows to exchange.

    Args:
        problem: a :class:`._base.Problem`, equilibrated, with a factor.
        start: the point to begin at.
        error: its error.
        judge: ``judge(x, y) -> (error, products)`` at a point.
        tol: the error of a solution.
        weak: how derivatives take weakly active rows, one of ``WEAK``.
        attempts: how many active sets are tried; 0 for the factors at the start alone.
        skip: a boolean scalar: whether there is nothing to look for.

    Returns:
        The best point, its error, and the factors of its active set.
    """
    qp, (scaled, own) = problem.qp, problem.for_kkt

    def turn(carry):
        count, latest, best, best_error, best_rows, factors, phase = carry
        first, searching, weighing = count == 0, phase == _SEARCHING, phase == _WEIGHING
        # In the first turn there are no factors yet, and the point stays where it is.
        x, y = polish(qp, latest.x, latest.y, factors, moves=searching & ~first)
        y = feasible_signs(qp, y)
        error, at = judge(x, y)
        latest = Solution(x, y, at.Ax)
        rows = classify(qp, y, at.Ax, problem.scaling, weak)
        better = searching & ((error < best_error) | first)
        best, best_error, best_rows = tree_where(better, (latest, error, rows), (best, best_error, best_rows))
        known = ~first & jnp.all(rows.weight == factors.weight) & (error <= tol)
        found = searching & (known | (count >= attempts))
        # Once it is found the factor is that of the best point.
        wanted = jnp.where(found, best_rows.in_derivatives, rows.weight)
        at_upper = jnp.where(found, best_rows.at_upper, rows.at_upper)

        def renew(carry):
            weight, cholesky = carry
            if weak == "half":
                weight = run_if_any(weighing, lambda old: balanced_weight(scaled, old, cholesky), weight)
            weight = jnp.where(searching, wanted, weight)
            return weight, factorize(scaled, weight)

        # A batch element whose search is over goes on with the others, and needs nothing.
        due = weighing | (searching & (first | jnp.any(wanted != factors.weight)))
        weight, cholesky = run_if_any(due, renew, (factors.weight, factors.cholesky))
        phase = jnp.where(searching & ~found, _SEARCHING, _OVER)
        if weak == "half":
            phase = jnp.where(found & jnp.any((weight > 0) & (weight < 1)), _WEIGHING, phase)
        factors = Factors(weight, jnp.where(searching, at_upper, factors.at_upper), own, cholesky)
        return count + 1, latest, best, best_error, best_rows, factors, phase

    size, dtype = qp.lower.shape, qp.q.dtype
    weight, at_upper = jnp.zeros(size, dtype), jnp.zeros(size, bool)
    factors = Factors(weight, at_upper, own, jnp.eye(qp.num_variables, dtype=dtype))
    phase = jnp.where(skip, _OVER, _SEARCHING)
    carry = (jnp.zeros((), jnp.int32), start, start, error, Rows(weight, weight, at_upper), factors, phase)
    carry = loop(lambda carry: carry[-1] != _OVER, turn, carry, maxiter=attempts + 2)
    _, _, best, error, _, factors, _ = carry
    return best, error, factors
