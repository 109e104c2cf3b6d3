"""Projections on three-dimensional cones with a curved boundary: the exponential cone, the power cone, their duals.

The computation, and its derivatives, are in :mod:`jaxsolve._cones`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxsolve import _cones
from jaxsolve._inputs import as_inexact, as_scalar, check_entries, widen
from jaxsolve._types import Array, PyTree
from jaxsolve.tree_util import tree_cast_like, tree_map

__all__ = [
    "projection_dual_exponential_cone",
    "projection_dual_power_cone",
    "projection_exponential_cone",
    "projection_power_cone",
]


def projection_exponential_cone(x: PyTree, hyperparams: Any = None) -> PyTree:
    r"""Project on the exponential cone, the closure of :math:`\{(a, b, c) : b e^{a / b} \le c, \; b > 0\}`.

    A point on the curved part of the boundary has the derivative of points outside; at the apex the derivative is 0.

    Args:
        x: vector of shape ``(3,)``, or a pytree of them, each in a cone of its own. For the rows of an array use
            ``jax.vmap``.
        hyperparams: ignored; solvers pass it.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``; NaN if an entry is not finite.

    Raises:
        ValueError: ``x`` is not a vector of three entries, or a pytree of them.
        TypeError: ``x`` is not real.

    References:
        H. A. Friberg, *Projection onto the exponential cone: a univariate root-finding problem*, Optimization Methods
        and Software 38, 2023.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_exponential_cone
        >>> projection_exponential_cone(jnp.array([-1.0, -2.0, 3.0])).tolist()
        [-1.0, 0.0, 3.0]
    """
    del hyperparams
    return _map_triples(_cones.exponential, x, "projection_exponential_cone")


def projection_dual_exponential_cone(x: PyTree, hyperparams: Any = None) -> PyTree:
    r"""Project on the dual of the exponential cone.

    .. math::

        \operatorname{cl} \{(a, b, c) : -a e^{b / a} \le e c, \; a < 0\} .

    By Moreau's identity it is :math:`x + P(-x)`, with :math:`P` the projection on the exponential cone.

    Args:
        x: vector of shape ``(3,)``, or a pytree of them, each in a cone of its own. For the rows of an array use
            ``jax.vmap``.
        hyperparams: ignored; solvers pass it.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``; NaN if an entry is not finite.

    Raises:
        ValueError: ``x`` is not a vector of three entries, or a pytree of them.
        TypeError: ``x`` is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_dual_exponential_cone
        >>> projection_dual_exponential_cone(jnp.array([1.0, 2.0, -3.0])).tolist()
        [0.0, 2.0, 0.0]
    """
    del hyperparams
    return _map_triples(_cones.dual_exponential, x, "projection_dual_exponential_cone")


def projection_power_cone(x: PyTree, alpha: Any = 0.5) -> PyTree:
    r"""Project on the power cone :math:`\{(a, b, c) : a^\alpha b^{1 - \alpha} \ge |c|, \; a, b \ge 0\}`.

    A point on the curved part of the boundary has the derivative of points outside; at the apex the derivative is 0.
    Where :math:`c = 0` and only one of :math:`a, b` is positive, the derivative in :math:`c` is its limit: 1 if the
    positive one has the larger exponent, 0 if it has the smaller one.

    Args:
        x: vector of shape ``(3,)``, or a pytree of them, each in a cone of its own. For the rows of an array use
            ``jax.vmap``.
        alpha: the exponent, a scalar strictly between 0 and 1; None means 0.5. If it is traced and outside of this
            range, the result is NaN.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``; NaN if an entry is not finite.

    Raises:
        ValueError: ``x`` is not a vector of three entries, or a pytree of them; ``alpha`` is not a scalar or not in
            (0, 1).
        TypeError: ``x`` or ``alpha`` is not real.

    References:
        L. T. K. Hien, *Differential properties of Euclidean projection onto power cone*, Mathematical Methods of
        Operations Research 82, 2015.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_power_cone
        >>> projection_power_cone(jnp.array([0.0, 0.0, 3.0]), 0.5).round(4).tolist()
        [1.0, 1.0, 1.0]
    """
    alpha = _exponent(alpha, "projection_power_cone: alpha")
    return _map_triples(lambda v: _cones.power(v, alpha.astype(v.dtype)), x, "projection_power_cone")


def projection_dual_power_cone(x: PyTree, alpha: Any = 0.5) -> PyTree:
    r"""Project on the dual of the power cone.

    .. math::

        \Bigl\{(a, b, c) : \Bigl(\frac{a}{\alpha}\Bigr)^\alpha \Bigl(\frac{b}{1 - \alpha}\Bigr)^{1 - \alpha} \ge |c|,
        \; a, b \ge 0\Bigr\} .

    By Moreau's identity it is :math:`x + P(-x)`, with :math:`P` the projection on the power cone.

    Args:
        x: vector of shape ``(3,)``, or a pytree of them, each in a cone of its own. For the rows of an array use
            ``jax.vmap``.
        alpha: as in :func:`projection_power_cone`.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``; NaN if an entry is not finite.

    Raises:
        ValueError: ``x`` is not a vector of three entries, or a pytree of them; ``alpha`` is not a scalar or not in
            (0, 1).
        TypeError: ``x`` or ``alpha`` is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_dual_power_cone
        >>> projection_dual_power_cone(jnp.array([0.0, 0.0, 3.0]), 0.5).round(4).tolist()
        [1.0, 1.0, 2.0]
    """
    alpha = _exponent(alpha, "projection_dual_power_cone: alpha")
    return _map_triples(lambda v: _cones.dual_power(v, alpha.astype(v.dtype)), x, "projection_dual_power_cone")


def _map_triples(project: Callable[[Array], Array], x: PyTree, name: str) -> PyTree:
    """``project`` for each leaf of ``x``, real vectors of three entries, in working precision."""
    x = as_inexact(x, "x")
    for leaf in jax.tree.leaves(x):
        if leaf.shape != (3,):
            raise ValueError(
                f"{name}: x must be a vector of shape (3,) or a pytree of them, got shape {leaf.shape}; use "
                f"jax.vmap({name}) for the rows of an array."
            )
    return tree_cast_like(tree_map(project, widen(x)), x)


def _exponent(alpha, name):
    alpha = as_scalar(0.5 if alpha is None else alpha, name, jnp.result_type(float))
    check_entries(lambda v: (v > 0) & (v < 1), alpha, name, "strictly between 0 and 1")
    return alpha
