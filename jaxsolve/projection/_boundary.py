r"""What the projections on three-dimensional cones with a curved boundary share.

The projection :math:`p` of :math:`v` on the set :math:`G(p) \le 0`, outside of it, has
:math:`p - v + \lambda \nabla G(p) = 0` and :math:`G(p) = 0`. With :math:`M = (I + \lambda \nabla^2 G(p))^{-1}` and
:math:`g` the gradient, its tangent is :math:`M (\dot v - \dot\lambda g)`, where :math:`\dot\lambda` keeps it on the
boundary. Both cones have a Hessian of rank one, :math:`w w^\top` times a factor, and the third entry of :math:`w` is 0.
In the orthonormal frame of :math:`w`, the vector across it, and the third axis, :math:`M` is diagonal, and no terms
cancel.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxsolve._inputs import as_inexact, widen
from jaxsolve._types import Array, PyTree
from jaxsolve.tree_util import tree_cast_like, tree_map

__all__ = ["along_boundary", "map_triples"]


def along_boundary(v_dot: Array, w: Array, gradient: Array, shrink: Array, slope: Array | float = 0.0) -> Array:
    """The tangent ``M (v_dot - c g)`` with ``c`` such that its product with ``g`` is ``slope``.

    Args:
        v_dot: shape ``(3,)``.
        w: unit vector of shape ``(2,)``.
        gradient: any multiple of ``g``, in the frame, shape ``(3,)``.
        shrink: the entry of ``M`` that belongs to ``w``, in (0, 1]; the other two are 1.
        slope: in the units of ``gradient``.
    """
    diagonal = jnp.stack([shrink, jnp.ones_like(shrink), jnp.ones_like(shrink)])
    # Of size 1, so that squares do not vanish.
    size = jnp.max(jnp.abs(gradient) * jnp.sqrt(diagonal))
    size = jnp.where(size > 0, size, jnp.ones_like(size))
    gradient, slope = gradient / size, slope / size
    moved = diagonal * jnp.stack([w[0] * v_dot[0] + w[1] * v_dot[1], w[0] * v_dot[1] - w[1] * v_dot[0], v_dot[2]])
    bent = diagonal * gradient
    out = moved - bent * ((jnp.sum(gradient * moved) - slope) / jnp.sum(gradient * bent))
    return jnp.stack([w[0] * out[0] - w[1] * out[1], w[1] * out[0] + w[0] * out[1], out[2]])


def map_triples(project: Callable[[Array], Array], x: PyTree, name: str) -> PyTree:
    """``project`` for each leaf of ``x``, real vectors of three entries, in working precision."""
    x = as_inexact(x, "x")
    for leaf in jax.tree.leaves(x):
        if leaf.shape != (3,):
            raise ValueError(
                f"{name}: x must be a vector of shape (3,) or a pytree of them, got shape {leaf.shape}; use "
                f"jax.vmap({name}) for the rows of an array."
            )
    return tree_cast_like(tree_map(project, widen(x)), x)
