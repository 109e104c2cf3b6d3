r"""The smooth part of a problem as coordinate methods see it: :math:`f(x) = h(A x) + \langle x, b\rangle`.

An objective with ``subfun`` and ``make_linop`` (see :class:`jaxsolve.objective.CompositeLinearFunction`) gives the
parts. Any other function is :math:`h` itself, with :math:`A = I`. Arrays of parameters have shape ``(d, *block)``, of
predictions ``(n, *block)``; a column of :math:`A` belongs to a block. Of several columns each is a row of an array of
shape ``(k, n)``: products with it, and of two such arrays, run along contiguous memory.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._compat import is_sparse
from jaxsolve._types import Array
from jaxsolve.base import LinearOperator
from jaxsolve.base._objective import Objective

__all__ = ["LinearModel", "is_composite", "spread"]

# A Hessian is computed in at most so many panels of at least so many rows.
_PANELS, _PANEL = 8, 32


def is_composite(fun: Any) -> bool:
    """Whether an objective can be taken apart."""
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
        self.block = params.shape[1:]
        self.linear, self.operator = None, _Identity(params.shape[0], params.dtype)
        if is_composite(fun):
            self.operator = _adapt(fun.make_linop(*args, **kwargs), params)
            linear = fun.b(*args, **kwargs) if hasattr(fun, "b") else None
            if linear is not None:
                self.linear = jnp.asarray(linear).astype(params.dtype)
                if self.linear.shape != params.shape:
                    raise ValueError(
                        f"the linear term b must have the shape {params.shape} of the parameters, got "
                        f"{self.linear.shape}."
                    )

    def predictions(self, params: Array) -> Array:
        """``A x``, of shape ``(n, *block)``."""
        return self.operator.matvec(params)

    def value_and_grad(self, predictions: Array) -> tuple[Array, Array]:
        """``h`` and its gradient at the predictions."""
        (value, _), grad = self._subfun.value_and_grad(predictions, *self._args, **self._kwargs)
        return value, grad

    def subfun_value(self, predictions: Array) -> Array:
        """``h`` at the predictions, a scalar."""
        return self._subfun.value(predictions, *self._args, **self._kwargs)[0]

    def subfun_shape(self, predictions: Any) -> Any:
        """Shape and dtype of ``h``, which raises if it is no function of these predictions."""
        return self._subfun.value_shape(predictions, *self._args, **self._kwargs)[0]

    def linear_value(self, params: Array) -> Array:
        """``<x, b>``, a scalar."""
        return jnp.zeros((), params.dtype) if self.linear is None else jnp.vdot(params, self.linear)

    def gradient(self, subfun_grad: Array) -> Array:
        """Gradient in the parameters, ``A^T grad h + b``, of shape ``(d, *block)``."""
        grad = self.operator.rmatvec(subfun_grad)
        return grad if self.linear is None else grad + self.linear

    def linear_of(self, index: Array) -> Array:
        """The linear term of some blocks."""
        shape = (*jnp.shape(index), *self.block)
        return jnp.zeros(shape, self.operator.dtype) if self.linear is None else self.linear[index]

    def curve(self, predictions: Array, direction: Array) -> Array:
        """The Hessian of ``h`` times a direction in the space of predictions."""
        return jax.jvp(lambda p: self.value_and_grad(p)[1], (predictions,), (direction,))[1]

    def lipschitz(self) -> Array | None:
        """Lipschitz constants of the gradient in each block, of shape ``(d,)``; ``None`` if the objective has none."""
        constants = getattr(self._fun, "columnwise_lipschitz_const", None)
        if not is_composite(self._fun) or constants is None:
            return None
        try:
            return jnp.asarray(constants(*self._args, **self._kwargs)).astype(self.operator.dtype)
        except NotImplementedError:  # what the method of `CompositeLinearFunction` raises that is not overridden
            return None

    def hessian(self, columns: Array, predictions: Array, count: Array) -> Array:
        """Hessian in the first ``count`` of some blocks, of shape ``(k, m, k, m)`` with m the size of a block.

        Args:
            columns: their columns of ``A``, of shape ``(k, n)``.
            predictions: where ``h`` is differentiated.
            count: number of blocks that matter, which may be traced; rows and columns of others are arbitrary.
        """
        k, m = columns.shape[0], _size(self.block)

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


def _size(shape):
    size = 1
    for extent in shape:
        size *= extent
    return size


def _adapt(linop, params):
    matrix = linop.A if type(linop) is LinearOperator else None
    shape = getattr(linop, "shape", None)
    if shape is not None and shape[1] != params.shape[0]:
        raise ValueError(
            f"init_params must have one block for each of the {shape[1]} columns of the linear operator, but has shape "
            f"{params.shape}."
        )
    if params.ndim > 2:
        raise ValueError(f"init_params of a linear model must have shape (d,) or (d, k), got {params.shape}.")
    if matrix is None:
        return _Given(linop, params)
    if is_sparse(matrix, "BCOO"):
        return _Sparse(matrix, params.dtype)
    return _Dense(jnp.asarray(matrix).astype(params.dtype))


class _Identity:
    """The operator of a function that is not taken apart."""

    def __init__(self, size, dtype):
        self._size, self.dtype = size, dtype

    def matvec(self, x):
        return x

    def rmatvec(self, u):
        return u

    def columns(self, index):
        return (jnp.arange(self._size, dtype=index.dtype)[None] == index[:, None]).astype(self.dtype)


class _Dense:
    def __init__(self, matrix):
        self._matrix, self.dtype = matrix, matrix.dtype

    def matvec(self, x):
        return self._matrix @ x

    def rmatvec(self, u):
        # A row vector from the left runs along the rows of the matrix; its transpose would jump across them.
        return (u.T @ self._matrix).T

    def columns(self, index):
        return jnp.take(self._matrix, index, axis=1, mode="clip").T


class _Sparse:
    def __init__(self, matrix, dtype):
        from jax.experimental import sparse

        self._matrix, self.dtype = matrix, jnp.dtype(dtype)
        if matrix.dtype != dtype:
            self._matrix = sparse.BCOO((matrix.data.astype(dtype), matrix.indices), shape=matrix.shape)

    def matvec(self, x):
        return self._matrix @ x

    def rmatvec(self, u):
        return self._matrix.T @ u

    def columns(self, index):
        n, d = self._matrix.shape
        # The place of each column among those asked for; entries of all others are dropped, and so is padding.
        place = jnp.full(d, index.shape[0], jnp.int32).at[index].set(jnp.arange(index.shape[0], dtype=jnp.int32))
        rows, columns = self._matrix.indices[:, 0], self._matrix.indices[:, 1]
        dense = jnp.zeros((index.shape[0], n), self.dtype)
        return dense.at[place[columns], rows].add(self._matrix.data, mode="drop")


class _Given:
    """An operator of the user: ``matvec`` and ``rmatvec``, and ``column`` if it has one."""

    def __init__(self, linop, params):
        self._linop, self.dtype, self._size = linop, params.dtype, params.shape[0]

    def matvec(self, x):
        return self._linop.matvec(x)

    def rmatvec(self, u):
        return self._linop.rmatvec(u)

    def columns(self, index):
        if hasattr(self._linop, "column"):
            return jax.vmap(self._linop.column)(index)
        units = (jnp.arange(self._size, dtype=index.dtype)[None] == index[:, None]).astype(self.dtype)
        return jax.vmap(self._linop.matvec)(units)
