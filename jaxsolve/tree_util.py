"""Arithmetic on pytrees: ``optax.tree`` under the names of the field, plus the few functions it lacks.

Leaves may be real, complex or integer. A leaf that is not a number (a key, a string, a function) is not changed, and is
left out of sums and norms.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxsolve._compat import max_abs, on_every_device, power_of_two

__all__ = [
    "broadcast_pytrees",
    "tree_add",
    "tree_add_scalar_mul",
    "tree_all_finite",
    "tree_cast_like",
    "tree_conj",
    "tree_div",
    "tree_dot",
    "tree_imag",
    "tree_inf_norm",
    "tree_l2_norm",
    "tree_map",
    "tree_mul",
    "tree_negative",
    "tree_ones_like",
    "tree_real",
    "tree_real_dtype",
    "tree_reduce",
    "tree_scalar_mul",
    "tree_size",
    "tree_sub",
    "tree_sum",
    "tree_vdot",
    "tree_vdot_real",
    "tree_where",
    "tree_zeros_like",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)


PyTree = Any

tree_map = jax.tree.map
tree_reduce = jax.tree.reduce
tree_conj = optax.tree.conj
tree_real = optax.tree.real
tree_size = optax.tree.size


def _leafwise(operation: Callable, name: str, doc: str) -> Callable:
    """The function of two or more trees that folds ``operation`` over their corresponding leaves."""

    def fold(tree: PyTree, *rest: PyTree, is_leaf=None) -> PyTree:
        return jax.tree.map(lambda *leaves: functools.reduce(operation, leaves), tree, *rest, is_leaf=is_leaf)

    fold.__name__ = fold.__qualname__ = name
    fold.__doc__ = doc
    return fold


tree_add = _leafwise(operator.add, "tree_add", "Leafwise sum of one or more pytrees of the same structure.")
tree_sub = _leafwise(operator.sub, "tree_sub", "Leafwise ``tree - rest[0] - rest[1] - ...``.")
tree_mul = _leafwise(operator.mul, "tree_mul", "Leafwise product of one or more pytrees of the same structure.")
tree_div = _leafwise(operator.truediv, "tree_div", "Leafwise ``tree / rest[0] / rest[1] / ...``.")


def _is_number(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        return isinstance(leaf, (bool, int, float, complex))
    return jnp.issubdtype(dtype, np.number) or jnp.issubdtype(dtype, np.bool_)


def _is_inexact(leaf: Any) -> bool:
    return _is_number(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def _numbers(tree: PyTree) -> list:
    return [leaf for leaf in jax.tree.leaves(tree) if _is_number(leaf)]


def _map_numbers(fun: Callable, tree: PyTree, *rest: PyTree) -> PyTree:
    return jax.tree.map(lambda x, *ys: fun(x, *ys) if _is_number(x) else x, tree, *rest)


def tree_negative(tree: PyTree) -> PyTree:
    """Leafwise negation."""
    return _map_numbers(jnp.negative, tree)


def tree_imag(tree: PyTree) -> PyTree:
    """Leafwise imaginary part."""
    return jax.tree.map(jnp.imag, tree)


def tree_zeros_like(tree_x: PyTree) -> PyTree:
    """Zeros with the shapes and dtypes of ``tree_x``."""
    return _map_numbers(jnp.zeros_like, tree_x)


def tree_ones_like(tree_x: PyTree) -> PyTree:
    """Ones with the shapes and dtypes of ``tree_x``."""
    return _map_numbers(jnp.ones_like, tree_x)


def _as_dtype_of(value, leaf):
    # A scalar in the working precision must neither promote a bfloat16 leaf nor trip strict promotion.
    if isinstance(value, (bool, int, float, complex)) or not _is_inexact(leaf):
        return value
    if jnp.iscomplexobj(value) and not jnp.iscomplexobj(leaf):
        return value
    return jnp.asarray(value).astype(jnp.result_type(leaf))


def tree_scalar_mul(scalar, tree_x: PyTree) -> PyTree:
    """``scalar * tree_x``, each leaf in its own dtype."""
    return _map_numbers(lambda x: _as_dtype_of(scalar, x) * x, tree_x)


def tree_add_scalar_mul(tree_x: PyTree, scalar, tree_y: PyTree) -> PyTree:
    """``tree_x + scalar * tree_y``, each leaf in the dtype of ``tree_x``.

    Args:
        tree_x: pytree of arrays.
        scalar: a number or a 0-d array of any dtype. A real scalar does not change the dtype of any leaf.
        tree_y: pytree with the structure and shapes of ``tree_x``.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.tree_util import tree_add_scalar_mul
        >>> x = {"w": jnp.ones(2, jnp.bfloat16)}
        >>> tree_add_scalar_mul(x, jnp.asarray(0.5, jnp.float32), x)["w"].dtype
        dtype(bfloat16)
    """
    return _map_numbers(lambda x, y: x + _as_dtype_of(scalar, x) * _as_dtype_of(y, x), tree_x, tree_y)


def tree_cast_like(tree: PyTree, like: PyTree) -> PyTree:
    """Cast each leaf to the dtype of the corresponding leaf of ``like``, as a strongly typed array."""
    return _map_numbers(lambda x, y: jnp.asarray(x).astype(jnp.result_type(y)), tree, like)


def widest_dtype(leaves: list) -> Any:
    """The dtype in which ``leaves`` of several dtypes meet: the widest of the inexact ones, and float32 at least."""
    dtypes = [jnp.result_type(x) for x in leaves if _is_inexact(x)] or [jnp.result_type(float)]
    return functools.reduce(np.promote_types, dtypes, np.dtype(np.float32))


def tree_real_dtype(tree: PyTree) -> jnp.dtype:
    """The real dtype in which scalars over ``tree`` (norms, step sizes) are kept.

    It is the widest real dtype among the inexact leaves, and float32 at least: a step size in bfloat16 has too few
    bits. Without an inexact leaf it is the default one.
    """
    return jnp.dtype(jnp.finfo(widest_dtype(jax.tree.leaves(tree))).dtype)


def _total(terms: list) -> jax.Array:
    """The sum of scalars in the widest of their dtypes, which strict promotion wants said."""
    dtype = widest_dtype(terms)
    return sum((term.astype(dtype) for term in terms), start=jnp.zeros((), dtype))


def tree_sum(tree_x: PyTree) -> jax.Array:
    """Sum of all entries of all leaves."""
    return jnp.asarray(optax.tree.sum(_numbers(tree_x)))


def tree_vdot(tree_x: PyTree, tree_y: PyTree) -> jax.Array:
    """Inner product of two pytrees of the same structure, the first conjugated; a scalar in the widest leaf dtype."""

    def leaf_vdot(x, y):
        if not _is_number(x):
            return None
        dtype = widest_dtype([x, y])
        # One kernel, where a sum of products is three on CPU. Not `jnp.vdot`, which is ambiguous where the axes of a
        # mesh are explicit and the operands are sharded.
        axes = tuple(range(jnp.ndim(x)))
        return lax.dot_general(
            jnp.conj(jnp.asarray(x, dtype)),
            jnp.asarray(y, dtype),
            ((axes, axes), ((), ())),
            precision=lax.Precision.HIGHEST,
            out_sharding=on_every_device(),
        )

    return _total(jax.tree.leaves(jax.tree.map(leaf_vdot, tree_x, tree_y)))


def tree_dot(tree_x: PyTree, tree_y: PyTree) -> PyTree:
    """Leafwise ``jnp.dot``."""
    return jax.tree.map(jnp.dot, tree_x, tree_y)


def tree_vdot_real(tree_x: PyTree, tree_y: PyTree) -> jax.Array:
    """Real part of :func:`tree_vdot`."""
    return jnp.real(tree_vdot(tree_x, tree_y))


def tree_l2_norm(tree_x: PyTree, squared: bool = False) -> jax.Array:
    """Euclidean norm over all leaves, or its square; the gradient at 0 is 0.

    Args:
        tree_x: pytree of arrays.
        squared: return the squared norm.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve.tree_util import tree_l2_norm
        >>> jax.grad(tree_l2_norm)(jnp.zeros(2)).tolist()
        [0.0, 0.0]
    """
    if squared:
        return tree_vdot_real(tree_x, tree_x)
    wide = [jnp.asarray(leaf, widest_dtype([leaf])) for leaf in _numbers(tree_x)]
    # In float32 squares vanish from 1e-23 on and overflow from 1e19 on: a gradient of that size is no rare one.
    narrow = any(jnp.finfo(leaf.dtype).bits <= 32 for leaf in wide)
    unit = power_of_two(tree_inf_norm(lax.stop_gradient(wide))) if narrow else None
    wide = wide if unit is None else tree_scalar_mul(1 / unit, wide)
    square = tree_vdot_real(wide, wide)
    # The root has slope 0 where its argument is 0: the inner `where` keeps 1/0 out of the derivative.
    positive = square > 0
    root = jnp.sqrt(jnp.where(positive, square, jnp.ones_like(square)))
    norm = jnp.where(positive, root, square)
    return norm if unit is None else norm * unit


def tree_inf_norm(tree_x: PyTree) -> jax.Array:
    """Largest absolute value over all leaves: NaN if an entry is NaN, and 0 for an empty tree."""
    leaves = _numbers(tree_x)
    dtype = tree_real_dtype(leaves)
    maxima = [max_abs(x).astype(dtype) for x in leaves]
    return functools.reduce(jnp.maximum, maxima, jnp.zeros((), dtype))


def tree_where(cond, a: PyTree, b: PyTree) -> PyTree:
    """Leafwise ``jnp.where(cond, a, b)``.

    Each of the three is a pytree of a common structure, or a scalar or array that broadcasts against every leaf of the
    others.

    Args:
        cond: booleans.
        a: result where ``cond`` holds. Leaves that are neither numbers nor keys always come from ``a``.
        b: result elsewhere.

    Raises:
        ValueError: two of them have different structures.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.tree_util import tree_where
        >>> tree_where(jnp.array([True, False]), {"w": jnp.ones(2)}, 0.0)["w"].tolist()
        [1.0, 0.0]
    """

    def select(condition, x, y):
        return jnp.where(condition, x, y) if _is_number(x) or isinstance(x, jax.Array) else x

    return jax.tree.map(select, *broadcast_pytrees(cond, a, b))


def tree_all_finite(tree: PyTree) -> jax.Array:
    """Whether every inexact leaf is finite everywhere; a boolean scalar."""
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree) if _is_inexact(leaf)]
    return functools.reduce(jnp.logical_and, finite, jnp.asarray(True))


def broadcast_pytrees(*trees: PyTree) -> tuple[PyTree, ...]:
    """Broadcast scalars (trees of a single leaf) to the structure of the largest tree.

    Args:
        *trees: pytrees; each is either a single leaf or has the structure of the others.

    Returns:
        The trees, all with the same structure. A single leaf becomes the value at every leaf.

    Raises:
        ValueError: two trees of more than one leaf have different structures.

    Example:
        >>> from jaxsolve.tree_util import broadcast_pytrees
        >>> broadcast_pytrees(1.0, {"a": 2.0, "b": 3.0})
        ({'a': 1.0, 'b': 1.0}, {'a': 2.0, 'b': 3.0})
    """
    single = jax.tree.structure(0)
    structures = [jax.tree.structure(tree) for tree in trees]
    structure = next((own for own in structures if own != single), single)
    for own in structures:
        if own not in (single, structure):
            raise ValueError(f"broadcast_pytrees expects one structure or single leaves, got {structure} and {own}.")
    return tuple(
        tree if own == structure else jax.tree.unflatten(structure, [tree] * structure.num_leaves)
        for tree, own in zip(trees, structures, strict=True)
    )
