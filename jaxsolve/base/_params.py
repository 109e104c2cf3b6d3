"""Leaves of parameters that solvers change, and leaves that they do not.

A pytree of parameters may contain leaves that a solver cannot change: a step counter, a random key, an activation
function. They are taken out before a solver gets the parameters, and put back for the functions of the user and in the
result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._closure import is_dynamic
from jaxsolve._types import OptStep, PyTree
from jaxsolve.tree_util import tree_cast_like

__all__ = ["as_like", "merge_params", "split_params", "with_held", "with_held_of"]


def split_params(tree: PyTree, *, strong: bool = True) -> tuple[PyTree, PyTree]:
    """The leaves that move, and the leaves that are held, each with ``None`` in place of the others.

    Args:
        tree: pytree. Floating-point and complex leaves move, Python floats among them.
        strong: make arrays of the moving leaves, strongly typed: a loop must find its carry unchanged in type.

    Returns:
        ``(moving, held)``; ``held`` is ``None`` if everything moves.
    """
    moving = jax.tree.map(lambda leaf: None if not _moves(leaf) else _strong(leaf) if strong else leaf, tree)
    held = jax.tree.map(lambda leaf: None if _moves(leaf) else leaf, tree)
    return moving, held if jax.tree.leaves(held) else None


def _moves(leaf) -> bool:
    if isinstance(leaf, jax.Array) and getattr(leaf.dtype, "kind", "") in ("f", "c"):
        return True  # as most do, and known without the rest, which takes much longer
    return is_dynamic(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def _strong(leaf):
    leaf = jnp.asarray(leaf)
    return lax.convert_element_type(leaf, leaf.dtype)


def merge_params(moving: PyTree, held: PyTree) -> PyTree:
    """Inverse of :func:`split_params`."""
    if held is None:
        return moving
    return jax.tree.map(lambda h, m: m if h is None else h, held, moving, is_leaf=lambda x: x is None)


def with_held_of(given: PyTree, params: PyTree) -> PyTree:
    """Parameters with the held leaves of those that were given: the very objects, not what compilation made of them."""
    given = given.params if isinstance(given, OptStep) else given
    held = split_params(given, strong=False)[1]
    return params if held is None else merge_params(split_params(params, strong=False)[0], held)


def with_held(function: Callable, held: PyTree) -> Callable:
    """A function of the parameters as a function of those that move. Functions of this package take these directly."""
    origin = function
    while isinstance(origin, functools.partial):
        origin = origin.func
    if getattr(origin, "__module__", "").partition(".")[0] == "jaxsolve":
        return function

    @functools.wraps(function)
    def of_moving(params, *args, **kwargs):
        return function(merge_params(params, held), *args, **kwargs)

    return of_moving


def as_like(name: str, image: Any, like: Any) -> Any:
    """The output of a function that maps parameters to something like them, in the dtypes of ``like``.

    Args:
        name: name of the function in the solver, for the message.
        image: the output of the function.
        like: the parameters that move.

    Raises:
        ValueError: structure or shapes are different.
        TypeError: the image is complex where the parameters are real.
    """

    def described(tree):
        return jax.tree.structure(tree), [np.shape(leaf) for leaf in jax.tree.leaves(tree)]

    expected = described(like)
    if described(image)[0] != expected[0]:
        image = split_params(image, strong=False)[0]
    got = described(image)
    if got != expected:
        raise ValueError(
            f"{name} must return the structure and shapes of the parameters: expected {expected[0]} with shapes "
            f"{expected[1]}, got {got[0]} with shapes {got[1]}."
        )
    for after, before in zip(jax.tree.leaves(image), jax.tree.leaves(like), strict=True):
        if jnp.iscomplexobj(after) and not jnp.iscomplexobj(before):
            raise TypeError(
                f"{name} must return real numbers for real parameters, got dtype {jnp.result_type(after)}: start from "
                "complex init_params."
            )
    return tree_cast_like(image, like)
