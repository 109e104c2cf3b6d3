"""Compile once, and never be stale: the mechanism behind every call that is compiled.

A call is compiled in two steps. First the function is *traced*: Python runs it, and its array operations are recorded
as a jaxpr, in which every captured array is an argument. Then the jaxpr becomes a *program*. Both are kept:

* A trace is used again if nothing that the functions of the call read has changed (:mod:`jaxsolve._capture`). If this
  cannot be known, the function is traced again.
* A program is used again for every trace that differs only in the values of arrays (:mod:`jaxsolve._fingerprint`).

A program that calls back to Python calls the objects with which it was traced. It is used again for these objects only.

Nothing here keeps arrays, solvers or functions of the user alive for long: a trace holds what it captured weakly, and
the tables are bounded.
"""

from __future__ import annotations

import copy
import types
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._capture import Snapshot, are_same, reached, snapshot
from jaxsolve._closure import DYNAMIC, Hoisted, hoist, is_dynamic, merge_static, split_static
from jaxsolve._compat import (
    ClosedJaxpr,
    is_concrete,
    jaxpr_as_fun,
    outside_transformations,
    quick_compiler_options,
    trace_context,
)
from jaxsolve._fingerprint import calls_back, fingerprint
from jaxsolve._precision import precision_of
from jaxsolve._types import PyTree

__all__ = ["Call", "compiled_call", "have_values", "traced_call"]

_PLAIN = (str, bytes, bool, int, float, complex, type(None), type(Ellipsis), np.dtype)
_MOST_FAMILIES = 512
_MOST_TRACES = 8


def compiled_call(function: Callable, owner: Any, *args: Any, **kwargs: Any) -> Any:
    """``function(owner, *args, **kwargs)`` as one compiled program; ``function(*args, **kwargs)`` without an owner.

    The arguments are those of :func:`traced_call`.
    """
    return traced_call(function, owner, *args, **kwargs)()


class Call(NamedTuple):
    """A call that has been traced, but not made yet."""

    trace: _Trace
    consts: list
    leaves: list

    def __call__(self) -> Any:
        return self.trace(self.consts, self.leaves)

    @property
    def is_concrete(self) -> bool:
        """Whether all inputs are values."""
        return all(map(is_concrete, jax.tree.leaves((self.consts, self.leaves))))

    def at_values(self) -> Callable | None:
        """The call without tangents, if only these keep it from values: in an eager ``jax.grad``, say."""
        inputs, structure = jax.tree.flatten((self.consts, self.leaves))
        if self.is_concrete or not have_values(inputs):
            return None
        return lambda: self.trace(*jax.tree.unflatten(structure, map(_value, inputs)), on_values=True)


def have_values(tree: PyTree) -> bool:
    """Whether at most tangents keep the arrays of a pytree from being values."""
    return all(is_concrete(_value(x)) for x in jax.tree.leaves(tree) if not is_concrete(x))


def _value(x):
    return x if is_concrete(x) else lax.stop_gradient(x)


def traced_call(function: Callable, owner: Any, *args: Any, **kwargs: Any) -> Call:
    """A call of ``function(owner, *args, **kwargs)``, or without an owner of ``function(*args, **kwargs)``.

    Args:
        function: a module-level function, or a method of the class of ``owner``; it is traced.
        owner: the solver or line search with the options, or ``None``. Its array-valued attributes are arguments of
            the program.
        *args: pytrees; array-like leaves are arguments of the program, all others (strings, flags, functions) belong
            to the trace.
        **kwargs: likewise.
    """
    fields, field_static = split_static(vars(owner) if owner is not None else {}, is_array=_is_array, is_leaf=callable)
    arguments, static = split_static((args, kwargs))
    leaves, slots = [*fields, *arguments], [*field_static[1], *static[1]]
    key = (
        function,
        type(owner),
        field_static[0],
        static[0],
        tuple(map(_label, slots)),
        tuple(map(jax.typeof, leaves)),
        trace_context(),
    )
    opaque = [slot for slot in slots if slot is not DYNAMIC and not isinstance(slot, _PLAIN)]
    readers = [function, type(owner), *opaque]
    name = "linear" if owner is None else type(owner).__name__
    reads = snapshot(readers)
    family = _family(key)
    trace = next((trace for trace in family.traces if trace.serves(reads, readers)), None)
    if trace is None:

        def call(*leaves):
            args, kwargs = merge_static(list(leaves[len(fields) :]), static)
            if owner is not None:
                mine = copy.copy(owner)
                vars(mine).update(merge_static(list(leaves[: len(fields)]), field_static))
                args = (mine, *args)
            return _distinct(function(*args, **kwargs), leaves)

        call.__name__ = f"{name}_{function.__name__.strip('_')}"
        try:
            with precision_of(owner):
                hoisted = hoist(call, *leaves)
        except Exception as error:
            if type(error).__module__.partition(".")[0] == "flax":
                error.add_note(f"This happened while {name} traced a function that it was given. {_REMEDY}")
            raise
        _check_leaks(name, reads, snapshot(readers))
        trace = _Trace(reads, readers, hoisted, family.program(hoisted, call.__name__))
        if reads.doubt is None and all(map(is_concrete, reads.arrays.values())):
            family.remember(family.traces, trace)
    return Call(trace, trace.consts(), leaves)


def _is_array(leaf) -> bool:
    # Python numbers in fields are static, unlike those among the arguments of a call.
    return is_dynamic(leaf) and not isinstance(leaf, (int, float, complex))


def _label(slot) -> Any:
    """What the key of a family says of a static value: itself if it is plain, else its kind."""
    if isinstance(slot, (float, complex)):
        return type(slot), repr(slot)  # -0.0 and NaN
    if isinstance(slot, _PLAIN):
        return type(slot), slot  # 1 and True are equal to Python and not to us
    function = slot.__func__ if isinstance(slot, types.MethodType) else slot
    return function.__code__ if isinstance(function, types.FunctionType) else type(slot)


def _distinct(out: Any, inputs: tuple) -> Any:
    """The output with a buffer of its own for every leaf, so that a caller may donate it."""
    taken = {id(leaf) for leaf in inputs}

    def own(leaf):
        if not isinstance(leaf, jax.Array):
            return leaf
        if id(leaf) in taken:
            return jnp.copy(leaf)
        taken.add(id(leaf))
        return leaf

    return jax.tree.map(own, out)


_REMEDY = (
    "Call the module once before the solver runs so that it has its parameters, put it into evaluation mode, and "
    "return what changes as auxiliary output instead of storing it."
)


def _check_leaks(name: str, before: Snapshot, after: Snapshot) -> None:
    """Raise if a function kept a traced value: it would be used when the trace is over."""
    leaked = [x for key, x in after.arrays.items() if key not in before.arrays and not is_concrete(x)]
    if leaked:
        raise ValueError(
            f"a function given to {name} keeps a value that it made inside the solver (shape "
            f"{jnp.shape(leaked[0])}, dtype {leaked[0].dtype}): a parameter that a module creates at its first call, a "
            f"statistic that it updates, or a cache. {_REMEDY}"
        )


class _Trace:
    """One trace of a call: what its functions read, the arrays that it captured, and its program."""

    def __init__(self, reads: Snapshot, readers: list, hoisted: Hoisted, program: _Program):
        self._unflatten, self._program = hoisted.without_consts().unflatten, program
        self._consts = [_held(const, reads) for const in hoisted.consts]
        self._objects = reached(readers) if calls_back(hoisted.jaxpr) else None
        self._reads = reads._replace(arrays={})  # tokens alone keep nothing alive

    def serves(self, reads: Snapshot, readers: list) -> bool:
        """Whether what ``readers`` read, written down in ``reads``, is what it was when this trace was made."""
        same = self._reads.same_as(reads)
        return same and (self._objects is None or are_same(self._objects, reached(readers)))

    def consts(self) -> list:
        """The captured arrays."""
        return [const() for const in self._consts]

    def __call__(self, consts: list, leaves: list, *, on_values: bool = False) -> Any:
        outside = on_values or outside_transformations()
        out, self._reads = self._reads.despite(lambda: self._program(consts, leaves, outside))
        return self._unflatten(out)


def _held(const, reads: Snapshot) -> Callable:
    """A captured array: held weakly if the functions hold it themselves."""
    if id(const) in reads.arrays:
        return weakref.ref(const)
    if isinstance(const, np.ndarray):
        with jax.ensure_compile_time_eval():
            const = jnp.array(const, copy=True)  # the buffer may change
    return lambda: const


class _Program:
    """A compiled function of captured arrays and arguments, and what it does."""

    def __init__(self, fingerprint: list, call: Callable, jaxpr: Any):
        self.fingerprint = fingerprint
        self._inside = jax.jit(call)
        self._outside = jax.jit(call, compiler_options=quick_compiler_options(jaxpr))

    def __call__(self, consts: list, leaves: list, outside: bool) -> list:
        return (self._outside if outside else self._inside)(consts, leaves)


class _Family:
    """All traces and programs of calls that differ at most in what functions capture."""

    def __init__(self):
        self.traces: list[_Trace] = []
        self._programs: list[_Program] = []

    def program(self, hoisted: Hoisted, name: str) -> _Program:
        """The program of a trace, compiled before or to be compiled at its first call."""
        wanted = fingerprint(hoisted.jaxpr)
        for program in self._programs:
            if program.fingerprint == wanted:
                return program
        jaxpr = hoisted.jaxpr

        def call(consts, leaves):
            return jaxpr_as_fun(ClosedJaxpr(jaxpr, consts))(*leaves)

        call.__name__ = name
        program = _Program(wanted, call, jaxpr)
        self.remember(self._programs, program)
        return program

    @staticmethod
    def remember(kept: list, new: Any) -> None:
        kept.insert(0, new)
        del kept[_MOST_TRACES:]


_FAMILIES: dict[Any, _Family] = {}


def _family(key) -> _Family:
    family = _FAMILIES.pop(key, None) or _Family()
    _FAMILIES[key] = family  # the last one used stands last
    while len(_FAMILIES) > _MOST_FAMILIES:
        _FAMILIES.pop(next(iter(_FAMILIES)), None)
    return family
