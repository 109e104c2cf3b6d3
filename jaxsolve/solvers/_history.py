"""Histories: a pytree whose leaves have a row for each of several pytrees, such as the last steps of a solver."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._compat import on_every_device
from jaxsolve._types import Array, PyTree

__all__ = ["difference", "empty_history", "rows_dot", "weighted_sum", "write_row"]


def _wide(x: Any) -> Any:
    return np.promote_types(jnp.result_type(x), np.float32)


def empty_history(like: PyTree, size: int) -> PyTree:
    """A history of ``size`` zeros, sharded like ``like``; of low-precision leaves in float32: differences cancel."""
    return jax.tree.map(lambda x: jnp.broadcast_to(jnp.zeros_like(x, _wide(x)), (size, *jnp.shape(x))), like)


def difference(new: PyTree, old: PyTree) -> PyTree:
    """``new - old`` in the dtypes of a history."""
    return jax.tree.map(lambda a, b: a.astype(_wide(a)) - b.astype(_wide(b)), new, old)


def write_row(history: PyTree, tree: PyTree, row: Array) -> PyTree:
    """The history with another pytree in one of its rows."""
    return jax.tree.map(lambda rows, new: lax.dynamic_update_index_in_dim(rows, new, row, 0), history, tree)


def rows_dot(history: PyTree, tree: PyTree, dtype: Any) -> Array:
    """Real inner product of every row of a history with a pytree; shape (size,)."""

    def leaf_dot(rows, leaf):
        axes = (tuple(range(1, rows.ndim)), tuple(range(leaf.ndim)))
        rows, leaf = (jnp.conj(rows) if jnp.iscomplexobj(rows) else rows), leaf.astype(rows.dtype)
        product = lax.dot_general(
            rows, leaf, (axes, ((), ())), precision=lax.Precision.HIGHEST, out_sharding=on_every_device()
        )
        return (product.real if jnp.iscomplexobj(product) else product).astype(dtype)

    return sum(jax.tree.leaves(jax.tree.map(leaf_dot, history, tree)))  # type: ignore[return-value]  # never empty


def weighted_sum(weights: Array, history: PyTree) -> PyTree:
    """The sum of the rows of a history with weights of shape (size,); a pytree in the dtypes of the history."""

    def leaf_sum(rows):
        precision = lax.Precision.HIGHEST
        return lax.dot_general(weights.astype(rows.dtype), rows, (((0,), (0,)), ((), ())), precision=precision)

    return jax.tree.map(leaf_sum, history)
