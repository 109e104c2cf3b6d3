"""Least squares with bounds in units of its own, and the step that the bounds cut off.

Columns and right-hand side have a size of about 1. The units are powers of two, so that the solution in other units has
the same digits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._inputs import power_of_two
from jaxsolve._types import Array

__all__ = [
    "Data",
    "Reduced",
    "gradient_noise",
    "measured",
    "movable_variables",
    "projected_search",
    "reduce",
    "rounding",
    "to_scaled",
    "to_user",
]


class Data(NamedTuple):
    """A problem of the user: arrays of one dtype, of shapes (m, n), (m,), (n,), (n,), and the dtype of the solution."""

    A: Array
    b: Array
    lower: Array
    upper: Array
    dtype: Any


class Reduced(NamedTuple):
    """A problem in units in which its columns, and its right-hand side, have a size of about 1.

    Attributes:
        data: in the units of the user.
        columns: units of the columns of ``A``, powers of two: ``A * columns`` is the scaled matrix, and
            ``x = unit * columns * z`` for the scaled variables ``z``. Shape ``(n,)``.
        unit: unit of ``b``, a power of two.
        lower: of ``z``.
        upper: of ``z``.
        A: the scaled matrix, rows of large entries first.
        b: the scaled right-hand side, likewise.
        order: of the rows.
        reflectors: with more rows than columns, the Householder reflectors of the orthonormal factor of the scaled
            matrix, and their coefficients; else ``None``.
        C: the other factor, or the scaled matrix; shape ``(k, n)`` with ``k = min(m, n)``.
        d: the right-hand side that belongs to it, shape ``(k,)``.
        lengths: norms of the scaled columns.
    """

    data: Data
    columns: Array
    unit: Array
    lower: Array
    upper: Array
    A: Array
    b: Array
    order: Array
    reflectors: tuple[Array, Array] | None
    C: Array
    d: Array
    lengths: Array


def reduce(data: Data) -> Reduced:
    """The problem in its own units, and with no more rows than columns."""
    A, b, lower, upper, _ = data
    first = power_of_two(jnp.max(jnp.abs(A), axis=0, initial=0))
    A = A / first[None, :]
    second = power_of_two(jnp.linalg.norm(A, axis=0))
    columns = 1 / first / second
    unit = power_of_two(jnp.max(jnp.abs(b), initial=0))
    A, b = A / second[None, :], b / unit
    # Householder reflections keep the digits of small rows below large ones (Bjorck 1996, section 4.4).
    order = jnp.argsort(-jnp.max(jnp.abs(A), axis=1, initial=0))
    A, b = A[order], b[order]
    reflectors, C, d, n = None, A, b, A.shape[1]
    if A.shape[0] > n:
        # The reflections of the columns act on b too; only derivatives need the factor itself.
        packed, coefficients = jnp.linalg.qr(jnp.column_stack([A, b]), mode="raw")
        R = jnp.triu(packed.T[: n + 1])
        reflectors, C, d = (packed.T[:, :n], coefficients[:n]), R[:n, :n], R[:n, n]
    lengths = jnp.linalg.norm(A, axis=0)
    bounds = lower / columns / unit, upper / columns / unit
    return Reduced(data, columns, unit, *bounds, A, b, order, reflectors, C, d, lengths)


def to_scaled(problem: Reduced, x: Array) -> Array:
    return x / problem.columns / problem.unit


def to_user(problem: Reduced, z: Array) -> Array:
    lower, upper = problem.data.lower, problem.data.upper
    # A bound is met exactly, whatever scaling did to it.
    x = jnp.clip(z * problem.columns * problem.unit, lower, upper)
    return jnp.where(jnp.isfinite(x), x, 0)


def movable_variables(problem: Reduced) -> Array:
    """The variables that have room, and an effect."""
    return (problem.lower < problem.upper) & (problem.lengths > 0)


def rounding(problem: Reduced) -> float:
    """A bound for the rounding of a product with a column, relative to what it is made of."""
    return 10 * max(problem.A.shape) ** 0.5 * float(jnp.finfo(problem.A.dtype).eps)


def gradient_noise(problem: Reduced, z: Array) -> Array:
    """The size of a gradient at ``z`` that is rounding."""
    return rounding(problem) * (jnp.linalg.norm(problem.b) + jnp.sum(problem.lengths * jnp.abs(z)))


def measured(problem: Reduced, z: Array, state: Any) -> tuple[Any, Array, Array]:
    """The state with error, value and residual of a point; who is held by the wrong sign; and the noise."""
    residual = problem.A @ z - problem.b
    gradient = problem.C.T @ (problem.C @ z - problem.d)
    noise = gradient_noise(problem, z)
    pull = jnp.abs(gradient) / jnp.where(problem.lengths > 0, problem.lengths, 1)
    can_move = movable_variables(problem) & jnp.where(gradient > 0, z > problem.lower, z < problem.upper)
    size = jnp.linalg.norm(residual)
    cosines = pull / jnp.where(size > 0, size, 1)
    error = jnp.max(jnp.where(can_move & (pull > noise), cosines, 0))
    error = jnp.where(jnp.isfinite(size), error, jnp.nan)
    # Of an ill-conditioned matrix a residual far above rounding may have a gradient that is hardly more than rounding:
    # a variable is set free for less than is called an error, and what that gains decides.
    wrong = can_move & ~state.free & (pull > 1e-2 * noise / max(problem.A.shape) ** 0.5)
    fun = problem.unit * jnp.zeros_like(residual).at[problem.order].set(residual)
    return state._replace(error=error, value=0.5 * jnp.sum(fun**2), fun=fun), wrong, noise


# ---- Steps -----------------------------------------------------------------------------------------------------------

# The fractions of a step that are tried where it leads out of the box, besides the one to the first bound.
_FRACTIONS = 0.5 ** np.arange(11)


def projected_search(
    problem: Reduced, z: Array, residual: Array, direction: Array, free: Array
) -> tuple[Array, Array, Array, Array]:
    """The step along a direction, cut off by the bounds.

    Returns:
        The new point, the variables that are free there, whether the whole step was made, and by how much the
        objective fell.
    """
    target = jnp.where(direction < 0, problem.lower, problem.upper)
    moving = free & (direction != 0)
    room = jnp.where(moving, (target - z) / jnp.where(moving, direction, 1), jnp.inf)
    first = jnp.minimum(jnp.min(room), 1)
    whole = ~jnp.any(room < 1)

    def at(fraction):
        return jnp.where(room <= fraction, target, z + jnp.where(moving, fraction * direction, 0))

    fractions = jnp.concatenate([jnp.asarray(_FRACTIONS, z.dtype), first[None]])
    points = jax.vmap(at)(fractions)
    images = (points - z[None, :]) @ problem.C.T
    falls = images @ residual - 0.5 * jnp.sum(images**2, axis=1)
    best = jnp.where(whole, 0, jnp.argmax(falls))
    # Without any fall the step to the first bound is left: the set of free variables is then smaller.
    best = jnp.where(whole | (falls[best] > 0), best, len(_FRACTIONS))
    return points[best], free & (whole | (room > fractions[best])), whole, jnp.maximum(falls[best], 0)
