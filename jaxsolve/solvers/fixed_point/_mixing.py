r"""Anderson mixing: a step from the differences of earlier iterates and of their residuals.

With the steps :math:`\Delta x_i` as the columns of :math:`S`, the differences of the residuals :math:`f = T(x) - x` as
those of :math:`Y`, the next iterate is

.. math::

    x + \beta f - (S + \beta Y) w, \qquad
    w = \arg\min \|f - Y w\| \ \text{(type II)}, \qquad w = (S^T Y)^{-1} S^T f \ \text{(type I)}.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsolve._types import Array, PyTree
from jaxsolve.solvers._history import difference, empty_history, rows_dot, weighted_sum, write_row
from jaxsolve.tree_util import tree_where

__all__ = ["Mixing", "fields_of", "memory_of", "relative_ridge"]


class Mixing(NamedTuple):
    """What Anderson mixing remembers.

    Attributes:
        steps: differences of successive iterates, a history.
        changes: differences of their residuals, a history.
        gram: inner products of ``changes``, shape (size, size); rows and columns of 0 where there is none.
        cross: inner products of ``steps`` (rows) and ``changes`` (columns), for type I; else ``None``.
    """

    steps: PyTree
    changes: PyTree
    gram: Array
    cross: Array | None

    @classmethod
    def empty(cls, params: PyTree, size: int, dtype: Any, *, first_type: bool) -> Mixing:
        """The memory before the first step."""
        zeros = jnp.zeros((size, size), dtype)
        history = empty_history(params, size)
        return cls(history, jax.tree.map(jnp.copy, history), zeros, jnp.zeros_like(zeros) if first_type else None)

    @property
    def size(self) -> int:
        """Number of differences that it can hold."""
        return self.gram.shape[0]

    @property
    def used(self) -> Array:
        """Which rows hold a difference; booleans of shape (size,)."""
        return jnp.diagonal(self.gram) > 0

    def forgotten(self, where: Array) -> Mixing:
        """The memory without its differences, where that is wanted."""
        gram, cross = tree_where(where, jax.tree.map(jnp.zeros_like, self[2:]), self[2:])
        return self._replace(gram=gram, cross=cross)

    def remember(self, new: tuple[PyTree, PyTree], old: tuple[PyTree, PyTree], row: Array) -> Mixing:
        """The memory with the step between two points; a point is a pair of the parameters and their residual."""
        step, change = difference(new[0], old[0]), difference(new[1], old[1])
        steps, changes = write_row(self.steps, step, row), write_row(self.changes, change, row)
        here = jnp.arange(self.size, dtype=jnp.int32) == row
        used = self.used | here

        def written(matrix, as_row, as_column):
            matrix = jnp.where(here[:, None], as_row[None, :], jnp.where(here[None, :], as_column[:, None], matrix))
            return jnp.where(used[:, None] & used[None, :], matrix, 0)

        products, cross = rows_dot(changes, change, self.gram.dtype), self.cross
        if cross is not None:
            cross = written(cross, rows_dot(changes, step, cross.dtype), rows_dot(steps, change, cross.dtype))
        return Mixing(steps, changes, written(self.gram, products, products), cross)

    def weights(self, residual: PyTree, ridge: Array) -> Array:
        """The weights :math:`w` of the differences, with a ridge relative to each of them; shape (size,)."""
        used, dtype = self.used, self.gram.dtype
        # In units of the changes no difference is small beside another one.
        scale = jnp.where(used, 1 / jnp.sqrt(jnp.where(used, jnp.diagonal(self.gram), 1)), 0)
        if self.cross is None:
            matrix, rhs = self.gram, rows_dot(self.changes, residual, dtype)
        else:
            # Of a contraction S^T Y is negative.
            matrix, rhs = -self.cross, -rows_dot(self.steps, residual, dtype)
        matrix = scale[:, None] * matrix * scale[None, :] + jnp.diag(jnp.where(used, ridge.astype(dtype), 1))
        return scale * jnp.linalg.solve(matrix, scale * rhs)

    def step(self, residual: PyTree, weights: Array, beta: Array) -> PyTree:
        r"""The step :math:`\beta f - (S + \beta Y) w`, in the dtypes of the residual."""
        along = weighted_sum(weights, self.steps)
        back = weighted_sum(weights, self.changes)

        def combine(f, s, y):
            factor = beta.astype(s.dtype)
            return (factor * (f.astype(s.dtype) - y) - s).astype(f.dtype)

        return jax.tree.map(combine, residual, along, back)


_FIELDS = ("params_history", "residuals_history", "residual_gram", "cross_gram")


def fields_of(memory: Mixing, *, cross: bool = True) -> dict[str, Any]:
    """The memory as fields of a state, with or without that of type I."""
    return dict(zip(_FIELDS[: 4 if cross else 3], memory, strict=False))


def memory_of(state: Any) -> Mixing:
    """The memory that a state holds."""
    cross = getattr(state, "cross_gram", None)
    return Mixing(state.params_history, state.residuals_history, state.residual_gram, cross)


def relative_ridge(ridge: Any, dtype: Any) -> Array:
    """The option ``ridge``, in a dtype."""
    default = 1e-12 if dtype == jnp.float64 else 1e-7
    return jnp.asarray(default if ridge is None else ridge).astype(dtype)
