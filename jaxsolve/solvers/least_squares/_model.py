"""The model of the cost that every least-squares method goes by, and what is computed of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._inputs import scale_to_unit
from jaxsolve._types import Array, PyTree
from jaxsolve.tree_util import tree_l2_norm

__all__ = ["Model", "all_finite", "column_lengths", "product", "safe_norm"]


class Model(NamedTuple):
    """The model of the cost at a point, on vectors.

    Attributes:
        x: the parameters.
        residual: residuals of the model, with the factors of a robust loss.
        gradient: gradient of the cost.
        matvec: product with the Jacobian, with the factors of a robust loss.
        rmatvec: product with its transpose.
        jac: that Jacobian, shape ``(m, n)``; ``None`` if there are only products.
        held: entries that are held at a bound.
        root: factors of the rows, or ``None``.
        unravel: makes parameters of a vector.
    """

    x: Array
    residual: Array
    gradient: Array
    matvec: Callable[[Array], Array]
    rmatvec: Callable[[Array], Array]
    jac: Array | None
    held: Array
    root: Array | None
    unravel: Callable[[Array], PyTree]

    def decrease(self, step: Array) -> Array:
        """The decrease of the cost that the model predicts."""
        image = self.matvec(step)
        return -(jnp.vdot(self.gradient, step) + 0.5 * jnp.vdot(image, image))


def column_lengths(matrix: Array) -> Array:
    """Norms of the columns, whose derivative at 0 is 0."""
    squares = product(jnp.ones(len(matrix), matrix.dtype), matrix**2)  # one kernel, where a sum of columns is two
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


def safe_norm(vector: Array) -> Array:
    """Euclidean norm without overflow: gradients have the square of the unit of residuals."""
    scale, _, length = scale_to_unit(vector)
    return scale * length


def all_finite(tree: Any) -> Array:
    """Whether all entries are finite, as ``tree_all_finite``: by a product, which on CPU is one kernel for a matrix."""
    return jnp.isfinite(tree_l2_norm(jax.tree.map(lambda leaf: 0 * leaf, lax.stop_gradient(tree)), squared=True))


def product(left: Array, right: Array) -> Array:
    """A matrix product in full precision."""
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)
