"""Compile once: one compiled function a solver configuration, shared by equal solvers and freed with its callables.

The compiled functions of all solvers live in one table. The key of an entry describes the solver: its class, the values
of its Python-valued fields, and the *identity* of its callables. Array-valued fields are no part of the key: they are
arguments of the compiled function. An entry refers to the callables weakly, and disappears with the first of them, so a
loop that makes a fresh lambda a turn leaves nothing behind. It serves only as long as the callables capture the same
arrays as when it was made.

A few callables the compiled program itself must hold, for it calls them later: a callback, a linear solver of the
derivative. Those of solvers that are long gone go with the oldest entries: the table is bounded.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import types
import weakref
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxsolve._closure import DYNAMIC, is_dynamic, merge_static, split_static
from jaxsolve.base._captured import captured_arrays

__all__ = ["compiled_call", "merge_fields", "split_fields"]


def compiled_call(method: Callable, solver: Any, *args: Any, **kwargs: Any) -> Any:
    """``method(solver, *args, **kwargs)`` as one compiled function, traced once for equal solvers and equal shapes.

    Args:
        method: a module-level function of a solver and the arguments; it is traced.
        solver: a dataclass instance. Array-valued fields are traced, all others are static.
        *args: pytrees; array-like leaves are traced, all others (strings, flags, callables) are static.
        **kwargs: likewise.
    """
    fields, field_static = split_fields(solver)
    leaves, static = split_static((args, kwargs))
    cells = [*field_static[1], *static[1]]
    key = (method, type(solver), field_static[0], static[0], *map(_key_of, cells))
    captured = captured_arrays(cell for cell in cells if _has_identity(cell))
    entry = _ENTRIES.get(key)
    if entry is None or not entry.captured_are(captured):
        entry = _ENTRIES[key] = _Entry(_compiled(method, solver, field_static, static, key), captured)
        while len(_ENTRIES) > _MOST_ENTRIES:
            _ENTRIES.pop(next(iter(_ENTRIES)), None)
    return entry.call(fields, leaves)


_ENTRIES: dict[Any, _Entry] = {}
_MOST_ENTRIES = 512


class _Entry:
    """A compiled function, and weakly the arrays that its callables captured when it was made."""

    def __init__(self, call: Callable, captured: list):
        self.call = call
        self._captured = [weakref.ref(array) for array in captured]

    def captured_are(self, captured: list) -> bool:
        return len(captured) == len(self._captured) and all(
            reference() is array for reference, array in zip(self._captured, captured, strict=True)
        )


def _compiled(method, solver, field_static, static, key):
    forget = functools.partial(_forget, key)
    field_cells = [_Cell(cell, forget) for cell in field_static[1]]
    cells = [_Cell(cell, forget) for cell in static[1]]
    cls, field_tree, tree = type(solver), field_static[0], static[0]

    # The closure must hold no callable of the user: `_Cell` holds them weakly, the caller keeps them alive.
    def call(fields, leaves):
        slots = tuple(cell.get() for cell in field_cells)
        rebuilt = merge_fields(object.__new__(cls), fields, (field_tree, slots))
        args, kwargs = merge_static(leaves, (tree, tuple(cell.get() for cell in cells)))
        return method(rebuilt, *args, **kwargs)

    call.__name__ = f"{cls.__name__}_{method.__name__.strip('_')}"
    return jax.jit(call)


def _forget(key, _reference):
    _ENTRIES.pop(key, None)


class _Cell:
    """A static value, held weakly if it is an object with an identity of its own."""

    def __init__(self, value: Any, forget: Callable):
        self.get = _weakly(value, forget) if _has_identity(value) else lambda: value


def _weakly(value, forget):
    if isinstance(value, types.MethodType):
        # Python makes a method anew at every access to it.
        function, owner = _weakly(value.__func__, forget), _weakly(value.__self__, forget)
        return lambda: types.MethodType(function(), owner())
    try:
        return weakref.ref(value, forget)
    except TypeError:
        # No weak references (a NumPy ufunc, a class with slots): kept for good, as module-level objects are anyway.
        return lambda: value


_VALUES = (str, bytes, bool, int, float, complex, type(None), np.dtype, type)


def _has_identity(value) -> bool:
    return not isinstance(value, _VALUES) and not _is_plain_partial(value) and value is not DYNAMIC


def _is_plain_partial(value) -> bool:
    """A ``functools.partial`` of a module-level function with plain arguments is known by its parts."""
    return (
        type(value) is functools.partial
        and isinstance(getattr(value.func, "__qualname__", None), str)
        and "<" not in value.func.__qualname__
        and not hasattr(value.func, "__self__")
        and all(isinstance(v, _VALUES) for v in (*value.args, *value.keywords.values()))
    )


def _key_of(value) -> Any:
    if _is_plain_partial(value):
        keywords = tuple(sorted((k, _key_of(v)) for k, v in value.keywords.items()))
        return ("partial", id(value.func), tuple(map(_key_of, value.args)), keywords)
    if isinstance(value, types.MethodType):
        return ("method", id(value.__func__), id(value.__self__))
    if _has_identity(value):
        return id(value)
    # 1, 1.0 and True are equal to Python and are not to us.
    return (type(value), value)


# ---- Fields -------------------------------------------------------------------------------------------------------


def split_fields(solver: Any) -> tuple[list, tuple]:
    """Array leaves of the fields of a solver, and the static rest.

    Python numbers in fields are static, unlike those among the arguments of a call.
    """
    fields = {f.name: getattr(solver, f.name) for f in dataclasses.fields(solver)}
    leaves, treedef = jax.tree.flatten(fields, is_leaf=callable)
    arrays = [leaf for leaf in leaves if _is_array(leaf)]
    return arrays, (treedef, tuple(DYNAMIC if _is_array(leaf) else leaf for leaf in leaves))


def merge_fields(solver: Any, arrays: list, static: tuple) -> Any:
    """A copy of ``solver`` with the fields that :func:`split_fields` took apart, not checked again."""
    merged = copy.copy(solver)
    merged.__dict__.update(merge_static(arrays, static))
    return merged


def _is_array(leaf) -> bool:
    return is_dynamic(leaf) and not isinstance(leaf, (int, float, complex))
