"""What every projection and prox does with its arguments: checks, dtypes, shapes, and norms that do not overflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._compat import is_concrete, power_of_two
from jaxsolve._types import PyTree
from jaxsolve.tree_util import broadcast_pytrees, tree_inf_norm, tree_l2_norm, tree_real_dtype, tree_scalar_mul

__all__ = [
    "as_array",
    "as_inexact",
    "as_scalar",
    "broadcast_like",
    "check_entries",
    "check_nonnegative",
    "check_size_of",
    "checked_by",
    "nan_unless",
    "nonnegative_scalar",
    "power_of_two",
    "scale_to_unit",
    "unpack",
    "widen",
]


def as_inexact(tree: PyTree, name: str, *, allow_complex: bool = False) -> PyTree:
    """Leaves as floating-point arrays; integers become the default float.

    Args:
        tree: pytree of arrays or numbers.
        name: how messages call the argument.
        allow_complex: accept complex leaves.

    Raises:
        TypeError: a leaf is not numeric, or is complex where that has no meaning.
    """

    def convert(leaf):
        try:
            array = jnp.asarray(leaf)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} must be a pytree of arrays, got a leaf of type {type(leaf).__name__}.") from error
        if jnp.issubdtype(array.dtype, jnp.complexfloating):
            if not allow_complex:
                raise TypeError(f"{name} must be real, got dtype {array.dtype}.")
            return array
        return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(jnp.result_type(float))

    return jax.tree.map(convert, tree)


def as_array(value: Any, name: str) -> jax.Array:
    """One floating-point array, for which a list of numbers is taken too."""
    return as_inexact(jnp.asarray(value) if isinstance(value, (list, tuple)) else value, name)


def widen(tree: PyTree) -> PyTree:
    """Leaves of fewer than 32 bits (bfloat16, float16) in float32; the others as they are."""

    def up(leaf):
        return leaf.astype(jnp.float32) if jnp.finfo(leaf.dtype).bits < 32 else leaf

    return jax.tree.map(up, tree)


def broadcast_like(param: PyTree, tree: PyTree, name: str) -> PyTree:
    """Bring a parameter to the structure, shapes and real dtypes of ``tree``.

    Args:
        param: a scalar, an array that broadcasts to each leaf, or a pytree with the structure of ``tree``.
        tree: pytree of floating-point arrays.
        name: how messages call the parameter.

    Returns:
        A pytree with the structure of ``tree``; its leaves have the shape of the leaf or are 0-d.

    Raises:
        ValueError: the structures or shapes do not fit.
    """
    if jax.tree.structure(param) not in (jax.tree.structure(0), jax.tree.structure(tree)):
        raise ValueError(
            f"{name} must be a scalar or have the structure of x, {jax.tree.structure(tree)}; "
            f"got {jax.tree.structure(param)}."
        )
    param, _ = broadcast_pytrees(param, tree)
    param = as_inexact(param, name)

    def fit(value, leaf):
        value = value.astype(jnp.finfo(leaf.dtype).dtype)
        if value.ndim == 0 or value.shape == leaf.shape:
            return value
        try:
            return jnp.broadcast_to(value, leaf.shape)
        except ValueError as error:
            raise ValueError(f"{name} of shape {value.shape} does not broadcast to x of shape {leaf.shape}.") from error

    return jax.tree.map(fit, param, tree)


def as_scalar(value: Any, name: str, dtype: Any) -> jax.Array:
    """A real 0-d array of the given dtype.

    Raises:
        ValueError: ``value`` is not a scalar.
        TypeError: ``value`` is complex or not a number.
    """
    if jax.tree.structure(value) != jax.tree.structure(0):
        raise ValueError(f"{name} must be a scalar, got {jax.tree.structure(value)}.")
    array = as_inexact(value, name)
    if array.ndim != 0:
        raise ValueError(f"{name} must be a scalar, got shape {array.shape}.")
    return array.astype(dtype)


def nonnegative_scalar(value: Any, name: str, dtype: Any) -> jax.Array:
    """A real 0-d array of the given dtype, checked: 1 for None, NaN if it is traced and negative."""
    value = 1.0 if value is None else value
    check_nonnegative(value, name)
    value = as_scalar(value, name, dtype)
    return value if is_concrete(value) else jnp.where(value < 0, jnp.nan, value)


def nan_unless(valid: jax.Array, value: jax.Array) -> jax.Array:
    """``value`` with its derivatives, or NaN with derivatives that are NaN; ``valid`` broadcasts to it."""
    return value * jnp.where(valid, 1, jnp.nan).astype(value.dtype)


def check_entries(holds: Callable[[np.ndarray], Any], value: PyTree, name: str, expected: str) -> None:
    """Raise ``ValueError`` unless ``holds`` is true of every entry of every concrete leaf; traced leaves pass."""
    for leaf in jax.tree.leaves(value):
        if is_concrete(leaf) and not np.all(holds(np.asarray(leaf))):
            raise ValueError(f"{name} must be {expected}, got {leaf}.")


def check_nonnegative(value: PyTree, name: str) -> None:
    """Raise ``ValueError`` if a concrete leaf has a negative or NaN entry; traced leaves pass."""
    check_entries(lambda v: v >= 0, value, name, "non-negative")


def checked_by(check: Callable[[Any], None]) -> Callable:
    """Decorator: solvers look at the hyperparameters of this projection with ``check`` before they compile anything.

    Args:
        check: ``check(hyperparams)`` raises ``ValueError`` for concrete values that are impossible. It is called on
            every run, so it is cheap and does not use jax.
    """

    def attach(projection):
        projection.check_hyperparams = check
        return projection

    return attach


def check_size_of(name: str) -> Callable[[Any], None]:
    """A check that hyperparameters, called ``name`` in the message, are not negative."""
    return lambda hyperparams: check_nonnegative(hyperparams, name)


def unpack(hyperparams: Any, names: tuple[str, ...]) -> tuple:
    """The entries of a tuple of hyperparameters.

    Raises:
        ValueError: it is not a tuple or list with one entry for each name.
    """
    if not isinstance(hyperparams, (tuple, list)) or len(hyperparams) != len(names):
        got = f"{len(hyperparams)} entries" if isinstance(hyperparams, (tuple, list)) else type(hyperparams).__name__
        raise ValueError(f"hyperparams must be the tuple ({', '.join(names)}), got {got}.")
    return tuple(hyperparams)


def scale_to_unit(tree: PyTree) -> tuple[jax.Array, PyTree, jax.Array]:
    r"""``tree`` divided by about its largest absolute entry, so that squares neither overflow nor vanish.

    The scale :math:`s` is a power of two, so the division is exact. It is a constant for derivatives, which is right
    for the callers: their formulas do not depend on it in exact arithmetic.

    Args:
        tree: pytree of arrays of 32 bits or more.

    Returns:
        The scale :math:`s` (1 if the tree is 0), the scaled tree :math:`x / s`, and its norm
        :math:`\|x / s\|_2`, which has derivative 0 at 0.
    """
    dtype = tree_real_dtype(tree)
    scale = power_of_two(tree_inf_norm(tree).astype(dtype))
    unit = tree_scalar_mul(1 / scale, tree)
    return scale, unit, tree_l2_norm(unit).astype(dtype)
