r"""The smooth part of a problem in the form for coordinate methods: :math:`f(x) = h(A x) + \langle x, b\rangle`.

An objective with ``subfun`` and ``make_linop`` (see :class:`jaxsolve.objective.CompositeLinearFunction`) gives the
parts. Any other function is :math:`h` itself, with :math:`A = I`. Arrays of parameters have shape ``(d, *block)``, of
predictions ``(n, *block)``; a column of :math:`A` belongs to a block. Of several columns each is a row of an array of
shape ``(k, n)``: products with it, and of two such arrays, run along contiguous memory.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._operators import DiagonalMatrix, FunctionMatrix, Matrix, from_entries
from jaxsolve._types import Array
from jaxsolve.base import LinearOperator
from jaxsolve.base._objective import Objective

__all__ = ["LinearModel", "is_composite", "spread"]

# A Hessian is computed in at most so many panels of at least so many rows.
_PANELS, _PANEL = 8, 32


def is_composite(fun: Any) -> bool:
    """Whether an objective has the parts of a composite function."""
    return callable(getattr(fun, "subfun", None)) and callable(getattr(fun, "make_linop", None))


class StagedComposite:
    """A composite objective of which the function of the predictions is traced once."""

    def __init__(self, fun: Any):
        self._fun, self.subfun = fun, Objective(fun.subfun, staged=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fun, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The value of the objective."""
        return self._fun(*args, **kwargs)


class LinearModel:
    """The parts of an objective at given data.

    Args:
        fun: the objective.
        subfun: its function of the predictions, staged.
        params: example parameters, of shape ``(d, *block)``.
        args: data of the problem.
        kwargs: likewise.

    Raises:
        ValueError: the parameters do not fit the operator.
    """

    def __init__(self, fun: Any, subfun: Objective, params: Array, args: tuple, kwargs: dict):
        self._fun, self._subfun, self._args, self._kwargs = fun, subfun, args, kwargs
        self._dtype = params.dtype
        self.block = params.shape[1:]
        self.linear: Any = None
        self.operator: Matrix = DiagonalMatrix(jnp.ones(params.shape[0], params.dtype))
        if not is_composite(fun):
            return
        self.operator = _adapt(fun.make_linop(*args, **kwargs), params)
        linear = fun.b(*args, **kwargs) if hasattr(fun, "b") else None
        if linear is not None:
            self.linear = jnp.asarray(linear).astype(params.dtype)
            if self.linear.shape != params.shape:
                raise ValueError(
                    f"the linear term b must have the shape {params.shape} of the parameters, got {self.linear.shape}."
                )

    def predictions(self, params: Array) -> Array:
        """``A x``, of shape ``(n, *block)``."""
        return self.operator.matvec(params)

    def value_and_grad(self, predictions: Array) -> tuple[Array, Array]:
        """``h`` and its gradient at the predictions."""
        (value, _), grad = self._subfun.value_and_grad(predictions, *self._args, **self._kwargs)
        return value, grad

    def linear_value(self, params: Array) -> Array:
        """``<x, b>``, a scalar."""
        return jnp.zeros((), self._dtype) if self.linear is None else jnp.vdot(params, self.linear)

    def gradient(self, subfun_grad: Array) -> Array:
        """Gradient in the parameters, ``A^T grad h + b``, of shape ``(d, *block)``."""
        grad = self.operator.rmatvec(subfun_grad)
        return grad if self.linear is None else grad + self.linear

    def gradient_at(self, params: Array) -> Array:
        """The same at parameters whose predictions are not known."""
        return self.gradient(self.value_and_grad(self.predictions(params))[1])

    def linear_of(self, index: Array) -> Array:
        """The linear term of some blocks."""
        if self.linear is None:
            return jnp.zeros((*jnp.shape(index), *self.block), self._dtype)
        return self.linear[index]

    def curve(self, predictions: Array, direction: Array) -> Array:
        """The Hessian of ``h`` times a direction in the space of predictions."""
        return jax.jvp(lambda p: self.value_and_grad(p)[1], (predictions,), (direction,))[1]

    def curvature(self, predictions: Array, column: Array, block: Array) -> Array:
        """The second derivative along one block; a scalar."""
        along = spread(column, block)
        return jnp.vdot(along, self.curve(predictions, along))

    def lipschitz(self) -> Array | None:
        """Lipschitz constants of the gradient in each block, of shape ``(d,)``; ``None`` if the objective has none."""
        constants = getattr(self._fun, "columnwise_lipschitz_const", None)
        if not is_composite(self._fun) or constants is None:
            return None
        return jnp.asarray(constants(*self._args, **self._kwargs)).astype(self._dtype)

    def hessian(self, columns: Array, predictions: Array, count: Array) -> Array:
        """Hessian in the first ``count`` of some blocks, of shape ``(k, m, k, m)`` with m the size of a block.

        Args:
            columns: their columns of ``A``, of shape ``(k, n)``.
            predictions: where ``h`` is differentiated.
            count: number of blocks that matter, which may be traced; rows and columns of others are arbitrary.
        """
        k, m = columns.shape[0], math.prod(self.block)

        def curved(columns, unit):
            curve = lambda column: self.curve(predictions, spread(column, unit))  # noqa: E731
            return jax.vmap(curve)(columns)

        if m == 1 and k > _PANEL:
            return self._tiled(columns, lambda part: curved(part, jnp.ones(self.block, part.dtype)), count)

        def component(unit):
            # Derivatives along one component of every block at a time: the memory of a whole Hessian of h is n k m^2.
            return jnp.tensordot(columns, curved(columns, unit), (1, 1)).reshape(k, k, m).swapaxes(1, 2)

        units = jnp.eye(m, dtype=columns.dtype).reshape(m, *self.block)
        slices = component(units[0])[None] if m == 1 else lax.map(component, units)
        return jnp.moveaxis(slices, 0, -1)

    def _tiled(self, columns, curved, count):
        """The same for blocks of one entry: half of the tiles that matter, the other half by symmetry."""
        k, n = columns.shape
        side = max(_PANEL, -(-k // _PANELS))
        columns = jnp.pad(columns, ((0, -k % side), (0, 0)))

        def panel(i, hessian):
            left = curved(lax.dynamic_slice_in_dim(columns, i * side, side)).reshape(side, n)

            def tile(j, hessian):
                right = lax.dynamic_slice_in_dim(columns, j * side, side)
                product = left @ right.T
                hessian = lax.dynamic_update_slice(hessian, product, (i * side, j * side))
                return lax.dynamic_update_slice(hessian, product.T, (j * side, i * side))

            return lax.fori_loop(jnp.zeros_like(i), i + 1, tile, hessian)

        size = columns.shape[0]
        panels = (count + side - 1) // side
        hessian = lax.fori_loop(jnp.zeros_like(panels), panels, panel, jnp.zeros((size, size), columns.dtype))
        return hessian[:k, :k].reshape(k, 1, k, 1)


def spread(column: Array, block: Array) -> Array:
    """What a step along one block changes in the predictions: the outer product, of shape ``(n, *block)``."""
    return column.reshape(-1, *[1] * block.ndim) * block[None]


def _adapt(linop: Any, params: Array) -> Matrix:
    """The operator of an objective: a matrix, or ``matvec`` and ``rmatvec`` of the user, and ``column`` if there is."""
    shape = getattr(linop, "shape", None) or (None, params.shape[0])
    if shape[1] != params.shape[0]:
        raise ValueError(
            f"init_params must have one block for each of the {shape[1]} columns of the linear operator, but has shape "
            f"{params.shape}."
        )
    if params.ndim > 2:
        raise ValueError(f"init_params of a linear model must have shape (d,) or (d, k), got {params.shape}.")
    if type(linop) is LinearOperator:
        return from_entries(linop.A, params.dtype)
    return FunctionMatrix(linop.matvec, shape, params.dtype, linop.rmatvec, getattr(linop, "column", None))
