r"""Complex parameters as pairs of real and imaginary parts, the form in which solvers work.

A real function of complex parameters is a function of their real and imaginary parts. A complex leaf
:math:`z = x + i y` becomes a pair of real leaves before the solver gets it; the functions of the user, the result and
the state have complex leaves. Gradients that are passed to or come from the user follow the convention of jax,
:math:`\partial_x f - i \partial_y f`, so that the direction of steepest descent is the negative conjugate.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._types import PyTree

__all__ = ["conjugate", "has_complex", "join_parts", "join_state", "of_parts", "split_parts", "split_state"]

# Fields of a state with gradients, in the convention of jax; and with what only the user knows.
_GRADIENTS, _FOREIGN = ("grad",), ("aux",)


class Parts(NamedTuple):
    """Real and imaginary part of a complex leaf."""

    real: Any
    imag: Any


def _is_parts(x: Any) -> bool:
    return isinstance(x, Parts)


def has_complex(tree: PyTree) -> bool:
    """Whether a pytree has complex leaves."""
    return any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(tree))


def conjugate(tree: PyTree) -> PyTree:
    """The conjugate of every leaf; real leaves do not change."""
    return jax.tree.map(lambda x: jnp.conj(x) if jnp.iscomplexobj(x) else x, tree)


def split_parts(tree: PyTree) -> PyTree:
    """A pytree in which every complex leaf is a pair of real ones."""
    return jax.tree.map(lambda x: Parts(jnp.real(x), jnp.imag(x)) if jnp.iscomplexobj(x) else x, tree)


def join_parts(tree: PyTree) -> PyTree:
    """Inverse of :func:`split_parts`."""
    return jax.tree.map(lambda x: lax.complex(x.real, x.imag) if _is_parts(x) else x, tree, is_leaf=_is_parts)


def split_state(state: Any) -> Any:
    """The state of the solver for a state of the user."""
    return _by_field(state, split_parts, lambda gradient: split_parts(conjugate(gradient)))


def join_state(state: Any) -> Any:
    """Inverse of :func:`split_state`."""
    return _by_field(state, join_parts, lambda gradient: conjugate(join_parts(gradient)))


def _by_field(state, change, change_gradient):
    if not hasattr(state, "_fields"):
        return change(state)
    own = [name for name in state._fields if name not in _FOREIGN]
    changed = {name: (change_gradient if name in _GRADIENTS else change)(getattr(state, name)) for name in own}
    return state._replace(**changed)


def of_parts(name: str, function: Callable, *, gives_grad: bool = False) -> Callable:
    """A function of the user as a function of parameters whose complex leaves are pairs.

    Args:
        name: the name of its field: ``"fun"`` returns a value, other functions return something like the parameters.
        function: the function.
        gives_grad: whether the value comes with a gradient.
    """

    @functools.wraps(function)
    def call(params, *args, **kwargs):
        out = function(join_parts(params), *join_parts(args), **join_parts(kwargs))
        if name != "fun":
            return _split_like(out, params)
        if gives_grad and isinstance(out, (tuple, list)) and len(out) == 2:
            return out[0], _split_like(conjugate(out[1]), params)
        return out

    return call


def _split_like(tree: PyTree, like: PyTree) -> PyTree:
    """Pairs where another pytree has them, of real leaves too."""
    wanted = join_parts(like)
    if jax.tree.structure(tree) != jax.tree.structure(wanted):
        return tree  # the message is that of those who want something like the parameters
    return split_parts(
        jax.tree.map(lambda x, z: jnp.asarray(x).astype(jnp.result_type(z)) if jnp.iscomplexobj(z) else x, tree, wanted)
    )
