"""Arithmetic on pytrees: ``optax.tree`` under the names of the field, plus the few functions it lacks."""

from __future__ import annotations

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import optax

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

PyTree = Any
_unspecified = object()

tree_map = jax.tree.map
tree_conj = optax.tree.conj
tree_real = optax.tree.real
tree_size = optax.tree.size


def tree_reduce(function, tree: PyTree, initializer=_unspecified, is_leaf=None):
    """Fold ``function`` over the leaves, from the left."""
    if initializer is _unspecified:
        return jax.tree.reduce(function, tree, is_leaf=is_leaf)
    return jax.tree.reduce(function, tree, initializer, is_leaf=is_leaf)


def _reduce_add(first: PyTree, rest: tuple, is_leaf=None) -> PyTree:
    return jax.tree.map(lambda x, *ys: sum(ys, start=x), first, *rest, is_leaf=is_leaf)


def tree_add(tree: PyTree, *rest: PyTree, is_leaf=None) -> PyTree:
    """Leafwise sum of one or more pytrees of the same structure."""
    return _reduce_add(tree, rest, is_leaf)


def tree_sub(tree: PyTree, *rest: PyTree, is_leaf=None) -> PyTree:
    """Leafwise ``tree - rest[0] - rest[1] - ...``."""

    def subtract(x, *ys):
        for y in ys:
            x = x - y
        return x

    return jax.tree.map(subtract, tree, *rest, is_leaf=is_leaf)


def tree_mul(tree: PyTree, *rest: PyTree, is_leaf=None) -> PyTree:
    """Leafwise product of one or more pytrees of the same structure."""
    return jax.tree.map(lambda *xs: functools.reduce(operator.mul, xs), tree, *rest, is_leaf=is_leaf)


def tree_div(tree: PyTree, *rest: PyTree, is_leaf=None) -> PyTree:
    """Leafwise ``tree / rest[0] / rest[1] / ...``."""
    return jax.tree.map(lambda *xs: functools.reduce(operator.truediv, xs), tree, *rest, is_leaf=is_leaf)


def tree_sum(tree_x: PyTree) -> jax.Array:
    """Sum of all entries of all leaves."""
    return jnp.asarray(optax.tree.sum(tree_x))


def tree_negative(tree: PyTree) -> PyTree:
    """Leafwise negation."""
    return jax.tree.map(jnp.negative, tree)


def tree_imag(tree: PyTree) -> PyTree:
    """Leafwise imaginary part."""
    return jax.tree.map(jnp.imag, tree)


def _as_dtype_of(scalar, leaf):
    # A scalar in the working precision must neither promote a bfloat16 leaf nor trip strict promotion.
    if isinstance(scalar, (bool, int, float, complex)):
        return scalar
    if jnp.iscomplexobj(scalar) and not jnp.iscomplexobj(leaf):
        return scalar
    return jnp.asarray(scalar).astype(jnp.result_type(leaf))


def tree_scalar_mul(scalar, tree_x: PyTree) -> PyTree:
    """``scalar * tree_x``, each leaf in its own dtype."""
    return jax.tree.map(lambda x: _as_dtype_of(scalar, x) * x, tree_x)


def tree_add_scalar_mul(tree_x: PyTree, scalar, tree_y: PyTree) -> PyTree:
    """``tree_x + scalar * tree_y``, each leaf in the dtype of ``tree_x``.

    Args:
        tree_x: pytree of arrays.
        scalar: a number or a 0-d array of any real dtype; it never promotes a leaf.
        tree_y: pytree with the structure and shapes of ``tree_x``.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.tree_util import tree_add_scalar_mul
        >>> x = {"w": jnp.ones(2, jnp.bfloat16)}
        >>> tree_add_scalar_mul(x, jnp.asarray(0.5, jnp.float32), x)["w"].dtype
        dtype(bfloat16)
    """
    return jax.tree.map(lambda x, y: x + _as_dtype_of(scalar, x) * y.astype(jnp.result_type(x)), tree_x, tree_y)


def tree_cast_like(tree: PyTree, like: PyTree) -> PyTree:
    """Cast each leaf to the dtype of the corresponding leaf of ``like``, as a strongly typed array."""
    return jax.tree.map(lambda x, y: jnp.asarray(x).astype(jnp.result_type(y)), tree, like)


def tree_real_dtype(tree: PyTree) -> jnp.dtype:
    """The real dtype in which scalars over ``tree`` (norms, step sizes) are kept.

    It is the widest real dtype among the inexact leaves, and float32 at least: a step size in bfloat16 has too few
    bits.
    """
    dtypes = [jnp.finfo(jnp.result_type(x)).dtype for x in jax.tree.leaves(tree) if _is_inexact(x)]
    widest = max(dtypes, key=lambda d: jnp.finfo(d).bits, default=jnp.dtype(jnp.float32))
    return jnp.dtype(jnp.float32) if jnp.finfo(widest).bits < 32 else jnp.dtype(widest)


def _is_inexact(x) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def _accumulation_dtype(*leaves):
    """Products are accumulated in the widest dtype of their factors, and at least in float32; those of integers too."""
    dtypes = [jnp.result_type(x) for x in leaves if _is_inexact(x)]
    dtype = functools.reduce(_widest, dtypes) if dtypes else jnp.dtype(jnp.result_type(float))
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else dtype


def _scalar_sum(terms: list) -> jax.Array:
    # Mixed leaf dtypes: every term is brought to the widest one, which strict promotion wants said.
    if not terms:
        return jnp.zeros(())
    terms = [jnp.asarray(t) for t in terms]
    widest = terms[0].dtype
    for term in terms[1:]:
        widest = _widest(widest, term.dtype)
    return sum(term.astype(widest) for term in terms)  # type: ignore[return-value]  # sum starts from the int 0


def _widest(a, b):
    if jnp.issubdtype(a, jnp.complexfloating) != jnp.issubdtype(b, jnp.complexfloating):
        real, cplx = (b, a) if jnp.issubdtype(a, jnp.complexfloating) else (a, b)
        return jnp.complex128 if jnp.finfo(real).bits == 64 else cplx
    return a if jnp.finfo(a).bits >= jnp.finfo(b).bits else b


def tree_vdot(tree_x: PyTree, tree_y: PyTree) -> jax.Array:
    """Inner product of two pytrees of the same structure, the first conjugated; a scalar in the widest leaf dtype."""

    def leaf_vdot(x, y):
        dtype = _accumulation_dtype(x, y)
        return jnp.vdot(jnp.asarray(x).astype(dtype), jnp.asarray(y).astype(dtype))

    return _scalar_sum(jax.tree.leaves(jax.tree.map(leaf_vdot, tree_x, tree_y)))


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
    square = _scalar_sum([_leaf_square(x) for x in jax.tree.leaves(tree_x)])
    if squared:
        return square
    # The root has slope 0 where its argument is 0: the inner `where` keeps 1/0 out of the derivative.
    positive = square > 0
    root = jnp.sqrt(jnp.where(positive, square, jnp.ones_like(square)))
    return jnp.where(positive, root, square)


def _leaf_square(x):
    x = jnp.asarray(x)
    if not _is_inexact(x):
        x = x.astype(jnp.result_type(float))
    x = x.astype(_accumulation_dtype(x))
    return jnp.sum(jnp.real(x) ** 2) + (jnp.sum(jnp.imag(x) ** 2) if jnp.iscomplexobj(x) else 0)


def tree_inf_norm(tree_x: PyTree) -> jax.Array:
    """Largest absolute value over all leaves (0 for an empty tree)."""
    maxima = [jnp.max(jnp.abs(x), initial=0) for x in jax.tree.leaves(tree_x)]
    if not maxima:
        return jnp.zeros(())
    dtype = tree_real_dtype(maxima)
    return jnp.max(jnp.stack([m.astype(dtype) for m in maxima]))


def tree_zeros_like(tree_x: PyTree) -> PyTree:
    """Zeros with the shapes and dtypes of ``tree_x``."""
    return jax.tree.map(jnp.zeros_like, tree_x)


def tree_ones_like(tree_x: PyTree) -> PyTree:
    """Ones with the shapes and dtypes of ``tree_x``."""
    return jax.tree.map(jnp.ones_like, tree_x)


def tree_where(cond, a: PyTree, b: PyTree) -> PyTree:
    """Leafwise ``jnp.where(cond, a, b)``: the one way in which whole states are selected.

    Args:
        cond: boolean scalar, or a pytree of booleans with the structure of ``a``.
        a: pytree taken where ``cond`` holds.
        b: pytree of the same structure taken elsewhere.
    """
    if jax.tree.structure(cond) == jax.tree.structure(0):
        return jax.tree.map(lambda x, y: jnp.where(cond, x, y), a, b)
    return jax.tree.map(jnp.where, cond, a, b)


def tree_all_finite(tree: PyTree) -> jax.Array:
    """Whether every inexact leaf is finite everywhere; a boolean scalar."""
    finite = jnp.asarray(True)
    for leaf in jax.tree.leaves(tree):
        if _is_inexact(leaf):
            finite = finite & jnp.all(jnp.isfinite(leaf))
    return finite


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
    structure = jax.tree.structure(0)
    for tree in trees:
        if not _is_single_leaf(tree):
            structure = jax.tree.structure(tree)
            break
    out = []
    for tree in trees:
        if jax.tree.structure(tree) == structure:
            out.append(tree)
        elif _is_single_leaf(tree):
            out.append(jax.tree.unflatten(structure, [tree] * structure.num_leaves))
        else:
            raise ValueError(
                f"broadcast_pytrees expects one structure or single leaves, got {structure} and "
                f"{jax.tree.structure(tree)}."
            )
    return tuple(out)


def _is_single_leaf(tree) -> bool:
    return jax.tree.structure(tree) == jax.tree.structure(0)
