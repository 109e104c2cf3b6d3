r"""Projection on the section of a box by a hyperplane.

With a multiplier :math:`\mu` of the equation the solution is :math:`z(\mu) = \operatorname{clip}(x - \mu w)`, and
:math:`g(\mu) = \langle w, z(\mu) \rangle` is piecewise linear and does not increase. Its breakpoints are sorted, the
piece on which :math:`g` passes :math:`c` is found by bisection over their *indices*, and on that piece, where it is
known which entries are at a bound, the equation is linear and solved exactly. That last solve is also what is
differentiated, so derivatives carry no error of an iteration.

Reference: K. C. Kiwiel, *Breakpoint searching algorithms for the continuous quadratic knapsack problem*, Math. Program.
112, 2008, section 2.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._compat import is_concrete
from jaxsolve._inputs import as_inexact, as_scalar, broadcast_like, ravel, unpack
from jaxsolve._loop import loop
from jaxsolve._types import Array, PyTree
from jaxsolve.projection._box import check_bounds, clip
from jaxsolve.tree_util import tree_map

__all__ = ["projection_box_section"]


def projection_box_section(x: PyTree, hyperparams: tuple, check_feasible: bool = False) -> PyTree:
    r"""Project on the section of a box by a hyperplane.

    .. math::

        \operatorname*{argmin}_{z} \tfrac12 \|z - x\|_2^2 \quad \text{subject to} \quad
        \alpha \le z \le \beta, \; \langle w, z \rangle = c .

    An entry that just reaches its bound counts as cut. If all entries are at a bound the solution is a vertex: there
    the derivative in ``x`` is 0, and in the other arguments it is that of moving along one of the edges.

    Args:
        x: pytree of arrays.
        hyperparams: the tuple ``(alpha, beta, w, c)``: lower bounds, upper bounds and weights, each a scalar, an array
            that broadcasts to every leaf, or a pytree with the structure of ``x``; ``c`` is a scalar. Bounds may be
            infinite, weights of any sign or 0.
        check_feasible: raise if the set is empty and all of ``hyperparams`` is concrete. In any case the result for an
            empty set is NaN.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``hyperparams`` has not four entries, one does not fit ``x``, ``alpha > beta`` somewhere, or the
            set is empty and ``check_feasible`` is set.
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
        ravel(tree_map(lambda v, leaf: jnp.broadcast_to(v, leaf.shape), broadcast_like(p, x, name), x))[0]
        for p, name in ((alpha, "alpha"), (beta, "beta"), (w, "w"))
    )
    check_bounds(lower, upper, "alpha", "beta")
    point, unravel = ravel(x)
    data = (lower, upper, weights, as_scalar(c, "projection_box_section: c", point.dtype))
    if check_feasible and all(is_concrete(leaf) for leaf in data):
        low, high, slack = _range(*data)
        if not low - slack <= data[-1] <= high + slack:
            raise ValueError(
                f"projection_box_section: the set is empty; over the box <w, z> goes from {low} to {high}, but c is "
                f"{data[-1]}."
            )
    return unravel(_project(point, *data))


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
def _project(x, lower, upper, w, c):
    fixed = lax.stop_gradient((x, lower, upper, w, c))
    low, high, slack = _range(*fixed[1:])
    nan = jnp.isnan(fixed[4]) | jnp.any(jnp.stack([jnp.any(jnp.isnan(v)) for v in fixed[:4]]))
    empty = (fixed[4] > high + slack) | (fixed[4] < low - slack) | jnp.any(fixed[1] > fixed[2]) | nan
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
    return jnp.where(empty, jnp.full_like(z, jnp.nan), z)


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
