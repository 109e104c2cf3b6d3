r"""Projections on boxes, each entry cut at its bounds, and on the section of a box by a hyperplane.

For the section, with a multiplier :math:`\mu` of the equation the solution is
:math:`z(\mu) = \operatorname{clip}(x - \mu w)`, and :math:`g(\mu) = \langle w, z(\mu) \rangle` is piecewise linear and
does not increase. Its breakpoints are sorted, the piece on which :math:`g` passes :math:`c` is found by bisection over
their *indices*, and on that piece, where it is known which entries are at a bound, the equation is linear and solved
exactly. That last solve is also what is differentiated, so derivatives carry no error of an iteration.

Reference: K. C. Kiwiel, *Breakpoint searching algorithms for the continuous quadratic knapsack problem*, Math. Program.
112, 2008, section 2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._compat import is_concrete
from jaxsolve._inputs import as_inexact, as_scalar, broadcast_like, check_size_of, checked_by, nan_unless, unpack
from jaxsolve._loop import loop
from jaxsolve._types import Array, PyTree
from jaxsolve._vectors import ravel
from jaxsolve.tree_util import broadcast_pytrees, tree_map, tree_negative

__all__ = [
    "projection_box",
    "projection_box_section",
    "projection_hypercube",
    "projection_linf_ball",
    "projection_non_negative",
]


def projection_non_negative(x: PyTree, hyperparams: Any = None) -> PyTree:
    r"""Project on the non-negative orthant: :math:`\max(x, 0)`, entry by entry.

    The derivative is 1 where ``x`` is positive and 0 elsewhere, at 0 included.

    Args:
        x: pytree of arrays.
        hyperparams: ignored; solvers pass it.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``.

    Raises:
        TypeError: a leaf is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_non_negative
        >>> projection_non_negative(jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """
    del hyperparams

    def cut(leaf):
        return nan_unless(~jnp.isnan(leaf), jnp.where(leaf <= 0, jnp.zeros_like(leaf), leaf))

    return jax.tree.map(cut, as_inexact(x, "x"))


def _check_box(hyperparams: Any) -> None:
    lower, upper = unpack(hyperparams, ("lower", "upper"))
    lower, upper = broadcast_pytrees(lower, upper)
    _check_bounds(lower, upper, "lower", "upper")


@checked_by(_check_box)
def projection_box(x: PyTree, hyperparams: tuple) -> PyTree:
    r"""Project on a box.

    .. math::

        \operatorname*{argmin}_{p} \tfrac12 \|p - x\|_2^2
        \quad \text{subject to} \quad \text{lower} \le p \le \text{upper}.

    For an entry that lies on a bound, the derivative is 0 in ``x`` and 1 in that bound. So a variable that is fixed by
    ``lower == upper`` follows its bound. Traced bounds are not checked: where ``lower > upper`` the result is one of
    the two.

    Args:
        x: pytree of arrays.
        hyperparams: the pair ``(lower, upper)``; each is a scalar, an array that broadcasts to every leaf, or a
            pytree with the structure of ``x``. Bounds may be infinite.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``hyperparams`` is not a pair, a bound does not fit ``x``, or ``lower > upper`` somewhere.
        TypeError: ``x`` or a bound is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_box
        >>> projection_box({"a": jnp.array([-1.0, 0.5]), "b": 7.0}, (0.0, 2.0))["a"].tolist()
        [0.0, 0.5]
    """
    lower, upper = unpack(hyperparams, ("lower", "upper"))
    x = as_inexact(x, "x")
    lower, upper = broadcast_like(lower, x, "lower"), broadcast_like(upper, x, "upper")
    _check_bounds(lower, upper, "lower", "upper")
    return jax.tree.map(clip, x, lower, upper)


_check_unit = check_size_of("projection_hypercube: unit")


@checked_by(_check_unit)
def projection_hypercube(x: PyTree, unit: Any = 1.0) -> PyTree:
    r"""Project on the hypercube :math:`[0, \text{unit}]^n`.

    Derivatives at the bounds are those of :func:`projection_box`.

    Args:
        x: pytree of arrays.
        unit: length of the sides, non-negative: a scalar or a pytree as in :func:`projection_box`. None means 1.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``unit`` does not fit ``x`` or is negative.
        TypeError: ``x`` or ``unit`` is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_hypercube
        >>> projection_hypercube(jnp.array([-1.0, 0.5, 3.0]), 2.0).tolist()
        [0.0, 0.5, 2.0]
    """
    x = as_inexact(x, "x")
    unit = 1.0 if unit is None else unit
    _check_unit(unit)
    return jax.tree.map(lambda leaf, u: clip(leaf, jnp.zeros_like(u), u), x, broadcast_like(unit, x, "unit"))


_check_max_value = check_size_of("projection_linf_ball: max_value")


@checked_by(_check_max_value)
def projection_linf_ball(x: PyTree, max_value: Any = 1.0) -> PyTree:
    r"""Project on the ball of the maximum norm, :math:`\{y : |y_i| \le \text{max\_value}\}`.

    Derivatives at the bounds are those of :func:`projection_box`.

    Args:
        x: pytree of arrays.
        max_value: radius, non-negative: a scalar or a pytree as in :func:`projection_box`. None means 1.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``max_value`` does not fit ``x`` or is negative.
        TypeError: ``x`` or ``max_value`` is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_linf_ball
        >>> projection_linf_ball(jnp.array([-3.0, 0.5]), 1.0).tolist()
        [-1.0, 0.5]
    """
    x = as_inexact(x, "x")
    max_value = 1.0 if max_value is None else max_value
    _check_max_value(max_value)
    radius = broadcast_like(max_value, x, "max_value")
    return jax.tree.map(clip, x, tree_negative(radius), radius)


def projection_box_section(x: PyTree, hyperparams: tuple, check_feasible: bool = False) -> PyTree:
    r"""Project on the section of a box by a hyperplane.

    .. math::

        \operatorname*{argmin}_{z} \tfrac12 \|z - x\|_2^2 \quad \text{subject to} \quad
        \alpha \le z \le \beta, \; \langle w, z \rangle = c .

    An entry that just reaches its bound has the derivative of an entry at the bound. If all entries are at a bound, the
    solution is a vertex: there the derivative in ``x`` is 0, and in the other arguments it is the derivative of a
    movement along one of the edges.

    Args:
        x: pytree of arrays.
        hyperparams: the tuple ``(alpha, beta, w, c)``: lower bounds, upper bounds and weights, each a scalar, an array
            that broadcasts to every leaf, or a pytree with the structure of ``x``; ``c`` is a scalar. Bounds may be
            infinite, weights of any sign or 0.
        check_feasible: raise an error if the set is empty and all of ``hyperparams`` is concrete. Without the error,
            the result for an empty set is NaN.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``hyperparams`` does not have four entries, one does not fit ``x``, ``alpha > beta`` somewhere, or
            the set is empty and ``check_feasible`` is set.
        TypeError: an argument is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_box_section
        >>> projection_box_section(jnp.array([2.0, 0.5, -1.0]), (0.0, 1.0, jnp.array([1.0, 1.0, 1.0]), 1.0)).tolist()
        [1.0, 0.0, 0.0]
    """
    alpha, beta, w, c = unpack(hyperparams, ("alpha", "beta", "w", "c"))
    x = as_inexact(x, "x")
    lower, upper, weights = (
        tree_map(lambda v, leaf: jnp.broadcast_to(v, leaf.shape), broadcast_like(p, x, name), x)
        for p, name in ((alpha, "alpha"), (beta, "beta"), (w, "w"))
    )
    _check_bounds(lower, upper, "alpha", "beta")
    point, unravel = ravel(x)
    lower, upper, weights = ravel(lower)[0], ravel(upper)[0], ravel(weights)[0]
    data = (lower, upper, weights, as_scalar(c, "projection_box_section: c", point.dtype))
    if check_feasible and all(is_concrete(leaf) for leaf in data):
        low, high, slack = _range(*data)
        if not low - slack <= data[-1] <= high + slack:
            raise ValueError(
                f"projection_box_section: the set is empty; over the box <w, z> goes from {low} to {high}, but c is "
                f"{data[-1]}."
            )
    return unravel(_section(point, *data))


@jax.jit
def clip(x: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """``x`` cut at its bounds; an entry on a bound moves with the bound.

    NaN in any argument shows, in the derivative too.
    """
    cut = jnp.where(x <= lower, lower, jnp.where(x >= upper, upper, x))
    return nan_unless(~(jnp.isnan(x) | jnp.isnan(lower) | jnp.isnan(upper)), cut)


def _check_bounds(lower: PyTree, upper: PyTree, lower_name: str, upper_name: str) -> None:
    """Raise ``ValueError`` unless ``lower <= upper`` in every pair of concrete leaves; traced leaves pass."""
    for low, high in zip(jax.tree.leaves(lower), jax.tree.leaves(upper), strict=True):
        if is_concrete(low) and is_concrete(high) and not np.all(np.asarray(low) <= np.asarray(high)):
            raise ValueError(f"{lower_name} must not exceed {upper_name} anywhere, got {low} and {high}.")


# ---- The section of a box ------------------------------------------------------------------------------------------


def _range(lower, upper, w, c):
    """Smallest and largest ``<w, z>`` over the box, and what rounding may make of them."""
    at_lower = jnp.where(w == 0, jnp.zeros_like(w), w * lower)
    at_upper = jnp.where(w == 0, jnp.zeros_like(w), w * upper)
    size = jnp.maximum(jnp.abs(at_lower), jnp.abs(at_upper))
    total = jnp.sum(jnp.where(jnp.isfinite(size), size, jnp.zeros_like(size))) + jnp.abs(c)
    slack = (16 + w.size**0.5) * jnp.finfo(w.dtype).eps * total
    return jnp.sum(jnp.minimum(at_lower, at_upper)), jnp.sum(jnp.maximum(at_lower, at_upper)), slack


class _Piece(NamedTuple):
    """One linear piece of ``z``.

    Attributes:
        free: which entries are strictly inside their bounds on it.
        at_first: which of the others are at the bound they have for ``mu = -inf``.
        direction: the entries that correct the equation: the free ones or, without any, those freed next to the piece.
        start, end: the interval of ``mu``.
    """

    free: Array
    at_first: Array
    direction: Array
    start: Array
    end: Array


# Compiled once for each shape, so that eager calls do not stage the loops anew.
@jax.jit
def _section(x, lower, upper, w, c):
    fixed = lax.stop_gradient((x, lower, upper, w, c))
    low, high, slack = _range(*fixed[1:])
    nan = jnp.isnan(fixed[4]) | jnp.any(jnp.stack([jnp.any(jnp.isnan(v)) for v in fixed[:4]]))
    empty = (fixed[4] > high + slack) | (fixed[4] < low - slack) | jnp.any(fixed[1] > fixed[2]) | nan
    # Here and at the end: the derivative is NaN where no entry is free, too.
    x = nan_unless(~empty, x)
    # Only the ratio of w and c matters.
    largest = jnp.max(jnp.abs(fixed[3]), initial=0)
    largest = jnp.where(largest > 0, largest, jnp.ones_like(largest))
    w, c = w / largest, c / largest
    # Neither does a multiple of w added to x. With the multiplier brought near 0 the second search does not suffer
    # from cancellation, even where entries of x are huge beside the box.
    fixed = lax.stop_gradient((x, lower, upper, w, c))
    _, mu = _on_piece(_find_piece(*fixed), *fixed)
    x = x - mu * w
    piece = _find_piece(*lax.stop_gradient((x, lower, upper, w, c)))
    z, _ = _on_piece(piece, x, lower, upper, w, c)
    # Rounding must not leave the box; the derivative stays that of the linear formula.
    z = z + lax.stop_gradient(jnp.clip(z, lower, upper) - z)
    return nan_unless(~empty, z)


def _ends(x, lower, upper, w):
    """For each entry the bounds it has for ``mu = -inf`` and ``mu = inf``, and whether it moves between them."""
    movable = (w != 0) & (lower < upper)
    still = clip(x, lower, upper)
    first = jnp.where(movable, jnp.where(w > 0, upper, lower), still)
    last = jnp.where(movable, jnp.where(w > 0, lower, upper), still)
    return movable, first, last


def _find_piece(x, lower, upper, w, c):
    """The piece on which ``g`` passes ``c``."""
    movable, first, last = _ends(x, lower, upper, w)
    safe_w = jnp.where(movable, w, jnp.ones_like(w))
    inf = jnp.full_like(x, jnp.inf)
    leaves_first = jnp.where(movable, (x - first) / safe_w, inf)
    reaches_last = jnp.where(movable, (x - last) / safe_w, inf)
    breakpoints = jnp.sort(jnp.concatenate([leaves_first, reaches_last]))
    total = breakpoints.shape[0]

    def is_before(mu):
        inner = jnp.where(mu >= reaches_last, last, x - jnp.where(movable, mu * w, jnp.zeros_like(w)))
        z = jnp.where(mu <= leaves_first, first, inner)
        value = jnp.sum(jnp.where(w == 0, jnp.zeros_like(w), w * z))
        return jnp.where(jnp.isfinite(mu), value >= c, mu < 0)

    def halve(bounds):
        known, unknown = bounds
        middle = (known + unknown) // 2
        before = is_before(breakpoints[middle])
        return jnp.where(before, middle + 1, known), jnp.where(before, unknown, middle)

    # The number of breakpoints with g >= c lies between the two; they meet after log2 steps.
    init = (jnp.int32(0), jnp.int32(total))
    count = loop(lambda b: b[0] < b[1], halve, init, maxiter=total.bit_length() + 1)[0]
    start = jnp.where(count > 0, breakpoints[jnp.maximum(count - 1, 0)], -jnp.inf)
    end = jnp.where(count < total, breakpoints[jnp.minimum(count, total - 1)], jnp.inf)

    free = movable & (leaves_first <= start) & (reaches_last >= end)
    freed_next = movable & jnp.where(jnp.isfinite(end), leaves_first == end, reaches_last == start)
    # Without a weight an entry inside its bounds is free too: it is x - mu w, whose derivative in w is not 0.
    unweighted = (w == 0) & (x > lower) & (x < upper)
    direction = unweighted | jnp.where(jnp.any(free), free, freed_next)
    return _Piece(free | unweighted, ~free & (leaves_first >= end), direction, start, end)


def _on_piece(piece, x, lower, upper, w, c):
    """The solution of the equation on a piece, and the multiplier."""
    _, first, last = _ends(x, lower, upper, w)
    z = jnp.where(piece.free, x, jnp.where(piece.at_first, first, last))
    step = jnp.where(piece.direction, w, jnp.zeros_like(w))
    square = jnp.sum(step * step)
    excess = jnp.sum(w * z) - c
    mu = excess / jnp.where(square > 0, square, jnp.ones_like(square))
    within = jnp.clip(jnp.where(jnp.any(piece.free & (w != 0)), mu, jnp.zeros_like(mu)), piece.start, piece.end)
    return z - mu * step, jnp.where(jnp.isfinite(within), within, jnp.zeros_like(within))
