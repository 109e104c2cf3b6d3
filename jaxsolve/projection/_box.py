"""Projections on boxes: each entry is cut at its bounds."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._compat import is_concrete
from jaxsolve._inputs import as_inexact, broadcast_like, check_nonnegative, check_size_of, checked_by, unpack
from jaxsolve._types import PyTree
from jaxsolve.tree_util import broadcast_pytrees, tree_negative

__all__ = ["check_bounds", "clip", "projection_box", "projection_hypercube", "projection_linf_ball"]
__all__ += ["projection_non_negative"]


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
    return jax.tree.map(lambda leaf: jnp.where(leaf <= 0, jnp.zeros_like(leaf), leaf), as_inexact(x, "x"))


def _check_box(hyperparams: Any) -> None:
    lower, upper = unpack(hyperparams, ("lower", "upper"))
    lower, upper = broadcast_pytrees(lower, upper)
    check_bounds(lower, upper, "lower", "upper")


@checked_by(_check_box)
def projection_box(x: PyTree, hyperparams: tuple) -> PyTree:
    r"""Project on a box.

    .. math::

        \operatorname*{argmin}_{p} \tfrac12 \|p - x\|_2^2
        \quad \text{subject to} \quad \text{lower} \le p \le \text{upper}.

    An entry that lies on a bound counts as cut: its derivative is 0 in ``x`` and 1 in that bound. So a variable that
    is fixed by ``lower == upper`` follows its bound. Traced bounds are not checked: where
    ``lower > upper`` the result is one of the two.

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
    check_bounds(lower, upper, "lower", "upper")
    return jax.tree.map(clip, x, lower, upper)


@checked_by(check_size_of("projection_hypercube: unit"))
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
    check_nonnegative(unit, "projection_hypercube: unit")
    return jax.tree.map(lambda leaf, u: clip(leaf, jnp.zeros_like(u), u), x, broadcast_like(unit, x, "unit"))


@checked_by(check_size_of("projection_linf_ball: max_value"))
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
    check_nonnegative(max_value, "projection_linf_ball: max_value")
    radius = broadcast_like(max_value, x, "max_value")
    return jax.tree.map(clip, x, tree_negative(radius), radius)


@jax.jit
def clip(x: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """``x`` cut at its bounds; an entry on a bound moves with the bound, and NaN in any argument shows."""
    cut = jnp.where(~(x > lower), lower, jnp.where(~(x < upper), upper, x))
    return jnp.where(jnp.isnan(x), x, cut)


def check_bounds(lower: PyTree, upper: PyTree, lower_name: str, upper_name: str) -> None:
    """Raise ``ValueError`` unless ``lower <= upper`` in every pair of concrete leaves; traced leaves pass."""
    for low, high in zip(jax.tree.leaves(lower), jax.tree.leaves(upper), strict=True):
        if is_concrete(low) and is_concrete(high) and not np.all(np.asarray(low) <= np.asarray(high)):
            raise ValueError(f"{lower_name} must not exceed {upper_name} anywhere, got {low} and {high}.")
