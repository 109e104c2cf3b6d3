r"""Bounds of variables: which are active, and the optimality conditions of a smooth function over a box.

At a minimum of :math:`f` over :math:`l \le x \le u` every variable either has a zero derivative (it is free), or lies
on a bound, and the negative derivative points out of the box (it is held at its bound :math:`b_i`). The conditions are

.. math::  F_i(x) = x_i - b_i \ \text{(held)}, \qquad F_i(x) = \nabla_i f(y) \ \text{(free)},

where :math:`y_i = b_i` for held variables and :math:`y_i = x_i` for the others. The Jacobian of :math:`F` is symmetric:
the Hessian of the free variables, and the identity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._compat import is_concrete
from jaxsolve._inputs import broadcast_like
from jaxsolve._types import Array, PyTree
from jaxsolve._vectors import flat, ravel
from jaxsolve.tree_util import broadcast_pytrees

__all__ = ["bounded_stationarity", "bounds_like", "check_bounds", "clip_to", "held_at"]


def check_bounds(bounds: Any) -> None:
    """Raise ``ValueError`` unless ``bounds`` is a pair ``(lower, upper)``, ordered where its entries are known."""
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise ValueError(f"bounds must be the pair (lower, upper), got {bounds!r}.")
    lower, upper = broadcast_pytrees(*bounds)
    for low, high in zip(jax.tree.leaves(lower), jax.tree.leaves(upper), strict=True):
        if is_concrete(low) and is_concrete(high) and not np.all(np.asarray(low) <= np.asarray(high)):
            raise ValueError(f"bounds: lower must not exceed upper anywhere, got {low} and {high}.")


def bounds_like(bounds: Any, params: PyTree) -> tuple[PyTree, PyTree]:
    """Lower and upper bounds, each with the structure, shapes and dtypes of the parameters.

    Args:
        bounds: a pair of scalars, arrays that broadcast to every leaf, or pytrees like the parameters.
        params: the parameters.

    Raises:
        ValueError: a bound does not fit the parameters.
    """

    def full(side, name):
        side = broadcast_like(side, params, f"bounds: {name}")
        return jax.tree.map(lambda b, x: jnp.broadcast_to(b.astype(x.dtype), jnp.shape(x)), side, params)

    return full(bounds[0], "lower"), full(bounds[1], "upper")


def clip_to(x: Array, lower: Array, upper: Array) -> Array:
    """The nearest point of the box; an entry on a bound moves with the bound, and NaN stays NaN."""
    cut = jnp.where(x <= lower, lower, jnp.where(x >= upper, upper, x))
    return jnp.where(jnp.isnan(x), x, cut)


def held_at(x: Array, grad: Array, lower: Array, upper: Array) -> tuple[Array, Array]:
    """Which entries are held at their lower, and which at their upper bound.

    An entry on a bound is held if the negative gradient does not point into the box, also if the gradient is zero.
    """
    at_lower = (x <= lower) & (grad >= 0)
    return at_lower, (x >= upper) & (grad <= 0) & ~at_lower


def bounded_stationarity(grad: Callable[[PyTree], PyTree], params: PyTree, bounds: tuple[PyTree, PyTree]) -> PyTree:
    """The optimality conditions of this module's docstring, a pytree like the parameters.

    Args:
        grad: gradient of the objective, a function of the parameters.
        params: where they are evaluated; the active set is that of this point.
        bounds: as :func:`bounds_like` returns them.
    """
    x, unravel = ravel(params)
    lower, upper = flat(bounds[0], x.dtype), flat(bounds[1], x.dtype)
    at_lower, at_upper = held_at(x, flat(grad(params), x.dtype), lower, upper)
    bound = jnp.where(at_lower, lower, upper)
    held = at_lower | at_upper
    # An infinite bound is never active, and must not enter a derivative.
    y = jnp.where(held, jnp.where(held, bound, 0), x)
    return unravel(jnp.where(held, x - jnp.where(held, bound, 0), flat(grad(unravel(y)), x.dtype)))
