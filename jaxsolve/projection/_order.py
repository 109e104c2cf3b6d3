"""Projections on sets of ordered vectors, and on the hull of the orderings of one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxsolve._inputs import as_inexact, check_nonnegative, widen
from jaxsolve._types import PyTree
from jaxsolve._vectors import ravel
from jaxsolve.isotonic import isotonic_l2_pav, project_sorted, sort_descending
from jaxsolve.projection._box import projection_box_section
from jaxsolve.projection._simplex import projection_simplex

__all__ = [
    "projection_capped_simplex",
    "projection_monotone_cone",
    "projection_ordered_simplex",
    "projection_permutahedron",
]


def projection_monotone_cone(x: PyTree, hyperparams: Any = None, increasing: bool = True) -> PyTree:
    r"""Project on the cone of monotone vectors, :math:`y_1 \le \dots \le y_n`.

    The projection is the isotonic regression of ``x``. Its derivative takes means over the blocks of equal entries.

    Args:
        x: vector, or a pytree of arrays whose entries, in the order of ``jax.tree.leaves``, form one vector.
        hyperparams: ignored; solvers pass it.
        increasing: nondecreasing if true, nonincreasing if false.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``.

    Raises:
        TypeError: ``x`` is not real, or ``increasing`` is not a bool.

    References:
        See :func:`jaxsolve.isotonic.isotonic_l2_pav`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_monotone_cone
        >>> projection_monotone_cone(jnp.array([1.0, 4.0, 2.0, 5.0])).tolist()
        [1.0, 3.0, 3.0, 5.0]
    """
    del hyperparams
    vector, unravel = ravel(as_inexact(x, "x"))
    return unravel(isotonic_l2_pav(vector, increasing=increasing))


def projection_ordered_simplex(x: PyTree, value: Any = 1.0) -> PyTree:
    r"""Project on the vectors of the simplex whose entries do not increase.

    .. math::

        \operatorname*{argmin}_{p} \tfrac12 \|p - x\|_2^2
        \quad \text{subject to} \quad p_1 \ge \dots \ge p_n \ge 0, \; \textstyle\sum_i p_i = \text{value}.

    A constant added to ``x`` is added to its isotonic regression, and cutting that at 0 keeps it optimal for the cut
    problem; so the projection on the simplex of the regression is the solution.

    Args:
        x: vector, or a pytree of arrays whose entries, in the order of ``jax.tree.leaves``, form one vector.
        value: what the entries sum to, a scalar; None means 1. If it is traced and negative the result is NaN.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``x`` is empty; ``value`` is not a scalar or is negative.
        TypeError: ``x`` or ``value`` is not real.

    References:
        M. Best and N. Chakravarti, 1990 (see :func:`jaxsolve.isotonic.isotonic_l2_pav`), and
        :func:`projection_simplex`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_ordered_simplex
        >>> projection_ordered_simplex(jnp.array([0.5, 1.0, -1.0])).tolist()
        [0.5, 0.5, 0.0]
    """
    vector, unravel = ravel(as_inexact(x, "x"))
    return unravel(projection_simplex(isotonic_l2_pav(vector, increasing=False), value))


def projection_capped_simplex(x: PyTree, value: Any = 1.0, upper: Any = 1.0) -> PyTree:
    r"""Project on the simplex with its entries capped.

    .. math::

        \operatorname*{argmin}_{p} \tfrac12 \|p - x\|_2^2
        \quad \text{subject to} \quad 0 \le p \le \text{upper}, \; \textstyle\sum_i p_i = \text{value}.

    With an integer ``value`` and ``upper=1`` this is the convex hull of the indicators of ``value`` out of ``n`` items.
    For an empty set, ``value`` larger than the sum of the caps, the result is NaN. Derivatives are those of
    :func:`projection_box_section`.

    Args:
        x: pytree of arrays, whose entries form one vector together.
        value: what the entries sum to, a non-negative scalar; None means 1.
        upper: the cap, a non-negative scalar, array or pytree that broadcasts to ``x``; None means 1.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``value`` is not a scalar, does not fit, or is negative; a cap is negative.
        TypeError: an argument is not real.

    References:
        W. Wang and C. Lu, *Projection onto the capped simplex*, arXiv:1503.01002, 2015, for the problem; the method is
        that of :func:`projection_box_section`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_capped_simplex
        >>> projection_capped_simplex(jnp.array([3.0, 1.0, 0.5]), 2.0).tolist()
        [1.0, 0.75, 0.25]
    """
    value = 1.0 if value is None else value
    upper = 1.0 if upper is None else upper
    check_nonnegative(value, "projection_capped_simplex: value")
    check_nonnegative(upper, "projection_capped_simplex: upper")
    return projection_box_section(x, (0.0, upper, 1.0, value))


def projection_permutahedron(x: PyTree, w: Any) -> PyTree:
    r"""Project on the permutahedron of ``w``, the convex hull of all vectors with the entries of ``w`` in some order.

    .. math::

        P(w) = \Big\{ p : \textstyle\sum_i p_i = \sum_i w_i, \;
        \sum_{i \in S} p_i \le \text{sum of the } |S| \text{ largest } w \text{ for all } S \Big\} .

    The order of the entries of ``w`` does not matter. The projection has the order of ``x``; sorted, it is
    :math:`x - v` with :math:`v` the isotonic regression of :math:`x - w`. On the blocks of that regression it is
    linear, which gives the derivatives in both arguments; among equal entries of ``x`` the derivative is divided
    evenly.

    Args:
        x: pytree of arrays, whose entries form one vector together.
        w: a pytree with the structure of ``x``, or one array with as many entries as ``x`` has.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``w`` has another number of entries than ``x``.
        TypeError: an argument is not real.

    References:
        C. Lim and S. Wright, *Efficient Bregman projections onto the permutahedron and related polytopes*, AISTATS
        2016; M. Blondel et al., *Fast differentiable sorting and ranking*, ICML 2020, proposition 3.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_permutahedron
        >>> projection_permutahedron(jnp.array([9.0, 1.0, 1.5]), jnp.array([1.0, 2.0, 3.0])).tolist()
        [3.0, 1.25, 1.75]
    """
    x = as_inexact(x, "x")
    vector, unravel = ravel(x)
    if jax.tree.structure(w) not in (jax.tree.structure(0), jax.tree.structure(x)):
        raise ValueError(
            f"w must be an array or have the structure of x, {jax.tree.structure(x)}; got {jax.tree.structure(w)}."
        )
    weights = ravel(as_inexact(w, "w"))[0]
    if weights.shape != vector.shape:
        raise ValueError(f"w must have as many entries as x, {vector.size}, got {weights.size}.")
    if vector.size == 0:
        return x
    return unravel(_permutahedron(widen(vector), widen(weights.astype(vector.dtype))))


# Compiled once for each shape, so that eager calls do not stage the loops anew.
@jax.jit
def _permutahedron(x, w):
    s, place = sort_descending(x)
    return jnp.take(project_sorted(s, sort_descending(w)[0]), place, mode="clip")
