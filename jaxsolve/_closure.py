"""Closure conversion: every array a function captures becomes an explicit argument.

A custom derivative rule must not close over traced values, and ``jax.closure_convert`` lifts only floating-point
tracers. Tracing the function to a jaxpr finds all captures, whatever their dtype: they are the jaxpr's constants.
"""

from __future__ import annotations

import copy
import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._compat import ClosedJaxpr, jaxpr_as_fun, without_consts
from jaxsolve._precision import precision_of_user

__all__ = [
    "DYNAMIC",
    "Hoisted",
    "Staged",
    "check_signature",
    "hoist",
    "is_dynamic",
    "merge_static",
    "output_shape",
    "split_static",
]


def is_dynamic(x: Any) -> bool:
    """Whether a leaf can enter a compiled function as an argument.

    Python bools stay outside: they are flags that functions branch on, and there are only two of them. So do strings,
    those of NumPy included.
    """
    if type(x) in _STATIC:
        return False
    return isinstance(x, (jax.Array, np.ndarray, np.generic, float, int, complex)) and not isinstance(x, (bool, str))


# Most of what is static, known at once: to ask whether something is an array takes longer.
_STATIC = frozenset({bool, str, type(None), types.FunctionType})


def split_static(tree: Any, is_array: Callable = is_dynamic, is_leaf: Callable | None = None) -> tuple[list, tuple]:
    """Split a pytree into its array-like leaves and a static remainder.

    Args:
        tree: any pytree; leaves that are not array-like (strings, flags, callables) are static.
        is_array: tells which leaves are array-like.
        is_leaf: tells which nodes are not taken apart, as for ``jax.tree.flatten``.

    Returns:
        ``(leaves, static)`` with ``static = (treedef, slots)`` such that ``merge_static(leaves, static)`` gives
        ``tree`` back. ``slots`` holds each static leaf in its place and ``DYNAMIC`` elsewhere.
    """
    leaves, treedef = jax.tree.flatten(tree, is_leaf=is_leaf)
    slots = tuple([DYNAMIC if is_array(leaf) else leaf for leaf in leaves])
    return [leaf for leaf, slot in zip(leaves, slots, strict=True) if slot is DYNAMIC], (treedef, slots)


def merge_static(leaves: list, static: tuple) -> Any:
    """Inverse of :func:`split_static`; builds fresh containers on every call."""
    treedef, slots = static
    dynamic = iter(leaves)
    return jax.tree.unflatten(treedef, [next(dynamic) if slot is DYNAMIC else slot for slot in slots])


class _Dynamic:
    """Marks the place of an array leaf in a static remainder."""

    def __repr__(self):
        return "<array>"


DYNAMIC = _Dynamic()


# A call of a function of fewer operations costs as much as these.
_LONG = 200


class Hoisted:
    """A function traced once: ``hoisted.pure(*args, consts=hoisted.consts)`` equals ``fun(*args)``.

    Attributes:
        jaxpr: the jaxpr, without the captured arrays.
        consts: list of every array (or tracer) that ``fun`` captured, integers included.
        out_shape: the output as a pytree of ``jax.ShapeDtypeStruct``.
    """

    def __init__(self, fun: Callable, *args: Any, **kwargs: Any):
        leaves, self._static_in = split_static((args, kwargs))
        static_out = []

        def flat_fun(*leaves):
            args, kwargs = merge_static(list(leaves), self._static_in)
            out_leaves, out_static = split_static(fun(*args, **kwargs))
            static_out.append(out_static)
            return out_leaves

        flat_fun.__wrapped__ = fun  # so that errors of jax name the function of the user
        closed, out_shape = jax.make_jaxpr(flat_fun, return_shape=True)(*leaves)
        self._static_out = static_out[0]
        self.jaxpr = without_consts(closed)
        self.consts = list(closed.consts)
        self.out_shape = merge_static(out_shape, self._static_out)

    def pure(self, *args: Any, consts: list, **kwargs: Any) -> Any:
        """Evaluate the function with its captured arrays given by ``consts``."""
        leaves, static = split_static((args, kwargs))
        if static != self._static_in:
            raise TypeError(f"hoisted function called with {static}, but it was traced with {self._static_in}.")
        found = self._evaluate(consts, leaves)
        # A constant comes out as a number of Python.
        return self.unflatten(
            [
                x if hasattr(x, "dtype") else jnp.asarray(x, variable.aval.dtype)
                for x, variable in zip(found, self.jaxpr.outvars, strict=True)
            ]
        )

    def _evaluate(self, consts: list, leaves: list) -> list:
        return jaxpr_as_fun(ClosedJaxpr(self.jaxpr, consts))(*leaves)

    def as_call(self) -> Hoisted:
        """The same function, a long one as one operation in whatever mentions it: that is looked through faster."""
        jaxpr = self.jaxpr
        if len(jaxpr.eqns) > _LONG:
            self._evaluate = jax.jit(lambda consts, leaves: jaxpr_as_fun(ClosedJaxpr(jaxpr, consts))(*leaves))
        return self

    def unflatten(self, leaves: list) -> Any:
        """The output, given the values of its array leaves."""
        return merge_static(leaves, self._static_out)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.pure(*args, consts=self.consts, **kwargs)

    def without_consts(self) -> Hoisted:
        """The same function to be kept for later: only ``pure`` works, and no tracer is kept alive."""
        bare = copy.copy(self)
        bare.consts = []
        return bare


def hoist(fun: Callable, *args: Any, **kwargs: Any) -> Hoisted:
    """Trace ``fun`` at ``args`` and return it with everything it captured made explicit.

    Args:
        fun: function of pytrees; leaves that are no arrays (strings, flags) are kept as they are.
        *args: example arguments, arrays or tracers; only their shapes and dtypes matter.
        **kwargs: example keyword arguments.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve._closure import hoist
        >>> index = jnp.array([0, 1])
        >>> hoisted = hoist(lambda x: x[index], jnp.zeros(3))
        >>> hoisted.pure(jnp.arange(3.0), consts=[jnp.array([2, 0])]).tolist()
        [2.0, 0.0]
    """
    return Hoisted(fun, *args, **kwargs)


class Staged:
    """A callable that Python runs once per signature; afterwards its jaxpr is evaluated.

    So a solver may mention its objective in many places and the user's function is still traced once, and it receives a
    fresh pytree, which it may mutate.

    Args:
        fun: the function.
        name: what the solver calls it, for messages.
        check: called once a signature with the output, a pytree of ``jax.ShapeDtypeStruct``; may raise.
        as_call: whether a long jaxpr becomes one operation in the programs that mention it. Derivatives of a function
            are traced faster without.
    """

    def __init__(
        self,
        fun: Callable,
        name: str = "fun",
        check: Callable[[Any], None] | None = None,
        as_call: bool = False,
    ):
        self._fun, self._name, self._check, self._as_call = fun, name, check, as_call
        self.__wrapped__ = fun  # for `inspect.signature`
        self._traced: list[tuple[Any, Hoisted]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.trace(*args, **kwargs)(*args, **kwargs)

    def trace(self, *args: Any, **kwargs: Any) -> Hoisted:
        """The function traced for these arguments, now or before."""
        leaves, static = split_static((args, kwargs))
        key = (static, list(map(jax.typeof, leaves)))
        for known, hoisted in self._traced:
            if known == key:
                return hoisted
        check_signature(self._name, self._fun, args, kwargs)
        with precision_of_user():
            hoisted = hoist(self._fun, *args, **kwargs)
        hoisted = hoisted.as_call() if self._as_call else hoisted
        _check_no_reference(self._name, hoisted)
        if self._check is not None:
            self._check(hoisted.out_shape)
        self._traced.append((key, hoisted))
        return hoisted


def _check_no_reference(name: str, hoisted: Hoisted) -> None:
    """Raise ``ValueError`` if a function captured a mutable array, which cannot enter the loops of a solver."""
    for const in hoisted.consts:
        if isinstance(const, jax.Ref):
            raise ValueError(
                f"{name} uses a mutable array (jax.new_ref, shape {const.shape}, dtype {const.dtype}). Pass its value, "
                "ref[...], as an argument instead."
            )


def output_shape(fun: Callable, *args: Any, **kwargs: Any) -> Any:
    """The output as a pytree of ``jax.ShapeDtypeStruct``, of a function that may take static arguments."""
    traced = fun.trace if isinstance(fun, Staged) else functools.partial(hoist, fun)
    return traced(*args, **kwargs).out_shape


def check_signature(name: str, fun: Callable, args: tuple, kwargs: dict) -> None:
    """Raise ``TypeError`` if ``fun`` cannot be called with these arguments, and say how it was to be called."""
    try:
        signature = inspect.signature(fun)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        called = ", ".join(["params", *["..."] * (len(args) - 1), *(f"{k}=..." for k in kwargs)])
        raise TypeError(
            f"{name} has the signature {signature}, but the arguments given to the solver make it "
            f"{name}({called}): {error}."
        ) from None
