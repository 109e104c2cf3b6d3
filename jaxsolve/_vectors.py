"""Pytrees as vectors, and back."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._compat import is_concrete
from jaxsolve._types import Array, PyTree
from jaxsolve.tree_util import widest_dtype

__all__ = [
    "Layout",
    "Packed",
    "flat",
    "flat_in_order",
    "is_spread",
    "layout_of",
    "packed_like",
    "ravel",
    "unflat_in_order",
    "unpacked",
    "unraveled",
]


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


# A leaf of at most so many entries is small: copying it costs less than starting one more kernel does.
_SMALL = 4096


class Layout(NamedTuple):
    """Which leaves of a pytree lie in which vector.

    Attributes:
        treedef: structure of the pytree.
        shapes: shape of each leaf.
        places: for each leaf the number of its vector, or ``None`` if it stays what it is.
        reversible: whether reverse mode may run through :meth:`unpack`.
    """

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    places: tuple[int | None, ...]
    reversible: bool = False

    def pack(self, tree: PyTree) -> Packed:
        """A pytree with this structure, whose leaves may have further axes in front of those of the layout."""
        leaves = jax.tree.leaves(tree)
        flat = [[] for _ in range(self._num_vectors)]
        for leaf, shape, place in zip(leaves, self.shapes, self.places, strict=True):
            if place is not None:
                further = leaf.shape[: leaf.ndim - len(shape)]
                flat[place].append(leaf.reshape(*further, math.prod(shape)))
        kept = [leaf for leaf, place in zip(leaves, self.places, strict=True) if place is None]
        return Packed(self, [jnp.concatenate(parts, axis=-1) for parts in flat], kept)

    def unpack(self, packed: Packed) -> PyTree:
        """Inverse of :meth:`pack`."""
        kept, parts = iter(packed.kept), []
        for place, vector in enumerate(packed.vectors):
            sizes = [math.prod(s) for s, where in zip(self.shapes, self.places, strict=True) if where == place]
            split = _split if self.reversible else _gather_parts
            parts.append(iter(split(vector, sizes)))

        def leaf(shape, place):
            if place is None:
                return next(kept)
            part = next(parts[place])
            return part.reshape(*part.shape[:-1], *shape)

        return jax.tree.unflatten(self.treedef, list(map(leaf, self.shapes, self.places)))

    @property
    def _num_vectors(self) -> int:
        return 1 + max(place for place in self.places if place is not None)


@jax.tree_util.register_pytree_node_class
class Packed:
    """A pytree whose small leaves lie in one vector a dtype, itself a pytree of few leaves.

    Whatever acts on all entries alike (sums, scalar products, a choice between two trees) acts on it as on the pytree,
    in few kernels instead of one a leaf. The vectors may have further axes in front, like the histories of L-BFGS.
    """

    def __init__(self, layout: Layout, vectors: list, kept: list):
        self.layout, self.vectors, self.kept = layout, vectors, kept

    def tree_flatten(self):
        return (self.vectors, self.kept), self.layout

    @classmethod
    def tree_unflatten(cls, layout, children):
        return cls(layout, *children)


def _split(vector: Array, sizes: list[int]) -> list[Array]:
    """Consecutive parts of the last axis."""
    return list(lax.split(vector, sizes, axis=vector.ndim - 1))


def _gather_parts(vector: Array, sizes: list[int]) -> list[Array]:
    """Consecutive parts of the last axis, by equal operations for parts of equal size.

    XLA compiles equal kernels once. Two slices differ in their offsets, which are a part of their code: 50 of them take
    a second to compile. Here the offsets are data, and a network of a hundred equal layers compiles like one of a few.
    XLA turns a gather with one index back into a slice, hence two at least. The transpose is a scatter, slow on CPU.
    """
    axis = vector.ndim - 1
    starts = np.cumsum([0, *sizes[:-1]])
    return [_gather_part(vector, axis, int(start), size) for start, size in zip(starts, sizes, strict=True)]


def _gather_part(vector: Array, axis: int, start: int, size: int) -> Array:
    if size == 0:
        return lax.slice_in_dim(vector, start, start, axis=axis)
    rows = next((n for n in range(2, size + 1) if size % n == 0), 2)  # the least divisor; 2 equal ones of a scalar
    width = max(size // rows, 1)
    indices = np.asarray([[start + row * width if size > 1 else start] for row in range(rows)], np.int32)
    front = tuple(range(axis))
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(*front, axis + 1), collapsed_slice_dims=(), start_index_map=(axis,)
    )
    found = lax.gather(
        vector, indices, numbers, (*vector.shape[:-1], width), mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS
    )
    found = found.reshape(*vector.shape[:-1], rows * width)
    return found if size > 1 else found[..., :1]


def layout_of(tree: PyTree, *, reversible: bool = False) -> Layout | None:
    """The layout in which the small leaves of a dtype share a vector; ``None`` if no two leaves would.

    On a mesh whose axes the program sees, leaves may be parted among devices, and stay what they are.
    """
    if not jax.sharding.get_abstract_mesh().empty:
        return None
    leaves, treedef = jax.tree.flatten(tree)
    groups = [str(leaf.dtype) if _is_small(leaf) else "large" for leaf in leaves]
    shared = [group for group, count in Counter(groups).items() if group != "large" and count > 1]
    if not shared:
        return None
    places = tuple(shared.index(group) if group in shared else None for group in groups)
    return Layout(treedef, tuple(leaf.shape for leaf in leaves), places, reversible)


def _is_small(leaf: Array) -> bool:
    # A dimension of a program that is exported may be a symbol, which cannot be compared.
    return all(isinstance(length, int) for length in leaf.shape) and leaf.size <= _SMALL


def is_spread(tree: PyTree) -> bool:
    """Whether a leaf is known to lie on several devices."""
    arrays = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array) and is_concrete(x)]
    return any(len(x.sharding.device_set) > 1 for x in arrays)


def _is_packed(x: Any) -> bool:
    return isinstance(x, Packed)


def unpacked(tree: PyTree) -> PyTree:
    """A pytree with every :class:`Packed` in it as the pytree that it stands for."""
    return jax.tree.map(lambda x: x.layout.unpack(x) if _is_packed(x) else x, tree, is_leaf=_is_packed)


def packed_like(tree: PyTree, like: PyTree) -> PyTree:
    """A pytree, packed where ``like`` is; where the two do not fit it stays what it is."""

    def pack(template, part):
        fits = _is_packed(template) and jax.tree.structure(part) == template.layout.treedef
        return template.layout.pack(part) if fits else part

    return jax.tree.map(pack, like, tree, is_leaf=_is_packed)


def flat_in_order(tree: PyTree, dtype: Any = None) -> Array:
    """All entries in one vector, leaf by leaf, whether the pytree is packed or not."""
    return flat(tree if len(jax.tree.leaves(tree)) == 1 else unpacked(tree), dtype)


def unflat_in_order(vector: Array, like: PyTree) -> PyTree:
    """Inverse of :func:`flat_in_order`: a pytree like another one, packed where that is."""
    if len(jax.tree.leaves(like)) == 1:
        return unraveled(like)(vector)
    return packed_like(unraveled(unpacked(like))(vector), like)
