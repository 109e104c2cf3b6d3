"""Pytrees as vectors, and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._types import Array, PyTree
from jaxsolve.tree_util import widest_dtype

__all__ = ["flat", "ravel", "unraveled"]


def flat(tree: PyTree, dtype: Any = None) -> Array:
    """All entries of a pytree, leaf by leaf in row-major order, in one vector of a dtype; by default the widest one."""
    leaves = jax.tree.leaves(tree)
    dtype = widest_dtype(leaves) if dtype is None else dtype
    parts = [jnp.ravel(leaf).astype(dtype) for leaf in leaves]
    if len(parts) <= 1:
        return parts[0] if parts else jnp.zeros(0, dtype)
    return jnp.concatenate(parts)


def unraveled(like: PyTree) -> Callable[[Array], PyTree]:
    """The map from vectors of any dtype to pytrees with the structure, shapes and dtypes of ``like``."""
    leaves, treedef = jax.tree.flatten(like)
    types = [(np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]
    sizes = [math.prod(shape) for shape, _ in types]

    def unravel(vector):
        parts = lax.split(vector, sizes) if len(sizes) > 1 else [vector] * len(sizes)
        leaves = [_cast(part.reshape(shape), dtype) for part, (shape, dtype) in zip(parts, types, strict=True)]
        return jax.tree.unflatten(treedef, leaves)

    return unravel


def ravel(tree: PyTree) -> tuple[Array, Callable[[Array], PyTree]]:
    """All leaves in one vector of the widest dtype, and the way back."""
    return flat(tree), unraveled(tree)


def _cast(part, dtype):
    return (part if jnp.issubdtype(dtype, jnp.complexfloating) else jnp.real(part)).astype(dtype)
