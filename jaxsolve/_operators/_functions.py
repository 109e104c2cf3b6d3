"""A matrix given by its products."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial, register_pytree_node

from jaxsolve._compat import vary_over
from jaxsolve._operators._matrix import Matrix, unit_vectors
from jaxsolve._types import Array

__all__ = ["FunctionMatrix"]


@dataclasses.dataclass(frozen=True, eq=False)
class FunctionMatrix(Matrix):
    """A matrix given by its products: a linear function of vectors.

    The arrays that the function works with are leaves if it is a ``jax.tree_util.Partial``, else they are captured.

    Attributes:
        function: the product with a vector of shape ``(n,)``.
        shape: the pair ``(m, n)``; m may be ``None`` if ``transposed`` is given and nobody asks.
        dtype: of the vectors.
        transposed: the product with the transpose if it is known; else it is derived from ``function``.
        column: the column of an index if that is known; else it is a product.
        axes: under ``shard_map`` the mesh axes over which the vectors vary.
    """

    function: Callable[[Array], Array]
    shape: Any
    dtype: Any
    transposed: Callable[[Array], Array] | None = None
    column: Callable[[Array], Array] | None = None
    axes: frozenset = frozenset()

    has_entries = False

    def matvec(self, x: Array) -> Array:
        return self.function(x)

    def rmatvec(self, y: Array) -> Array:
        if self.transposed is not None:
            return self.transposed(y)
        like = vary_over(jnp.zeros(self.shape[1], self.dtype), self.axes)  # only its type matters
        return jax.linear_transpose(self.function, like)(y)[0]

    def transpose(self) -> FunctionMatrix:
        shape, products = (self.shape[1], self.shape[0]), (Partial(_rmatvec, self), Partial(_matvec, self))
        return FunctionMatrix(products[0], shape, self.dtype, products[1], axes=self.axes)

    def dense(self) -> Array:
        identity = vary_over(jnp.eye(self.shape[1], dtype=self.dtype), self.axes)
        return jax.vmap(self.function, in_axes=1, out_axes=1)(identity)

    def scaled(self, rows: Array, columns: Array) -> FunctionMatrix:
        product, transposed = Partial(_matvec, self), Partial(_rmatvec, self)
        return self._with(Partial(_scaled, product, rows, columns), Partial(_scaled, transposed, columns, rows))

    def shifted(self, ridge: Array) -> FunctionMatrix:
        """``A + ridge I``, for a scalar and a square matrix."""
        product, transposed = Partial(_matvec, self), Partial(_rmatvec, self)
        return self._with(Partial(_shifted, product, ridge), Partial(_shifted, transposed, ridge))

    def columns(self, index: Array) -> Array:
        if self.column is not None:
            return jax.vmap(self.column)(index)
        return jax.vmap(self.function)(unit_vectors(index, self.shape[1], self.dtype))

    def _with(self, function, transposed):
        return dataclasses.replace(self, function=function, transposed=transposed, column=None)


def _parts(matrix: FunctionMatrix) -> tuple:
    functions = (matrix.function, matrix.transposed, matrix.column)
    functions = [f if f is None or isinstance(f, Partial) else Partial(f) for f in functions]
    return functions, (matrix.shape, matrix.dtype, matrix.axes)


def _from_parts(static: tuple, functions: Sequence) -> FunctionMatrix:
    (function, *others), (shape, dtype, axes) = functions, static
    return FunctionMatrix(function, shape, dtype, *others, axes=axes)


register_pytree_node(FunctionMatrix, _parts, _from_parts)


# Functions of a module, so that matrices made of equal parts have the same structure as pytrees.


def _matvec(matrix, x):
    return matrix.matvec(x)


def _rmatvec(matrix, y):
    return matrix.rmatvec(y)


def _scaled(product, rows, columns, x):
    return rows * product(columns * x)


def _shifted(product, ridge, x):
    return product(x) + ridge * x
