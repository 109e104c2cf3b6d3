"""The arrays that a function reads from elsewhere: its closure, its globals, the object whose method it is.

A compiled function holds what its callables captured while it was traced. They are compared by identity, so a program
may be used again only while they also capture the same arrays: a module whose parameters are replaced in every training
step has one ``loss`` method and another solution each time. Python numbers are constants, as they are to ``jax.jit``.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

__all__ = ["captured_arrays"]

_ARRAYS = (jax.Array, np.ndarray)
_PLAIN = (str, bytes, bool, int, float, complex, type(None), np.generic, type, types.ModuleType)
# Enough for the parameters of a large model; the search is linear in what it finds.
_MOST = 10_000


def captured_arrays(functions: Iterable[Any]) -> list:
    """Arrays and tracers that ``functions`` would read from elsewhere if they were called now, in a fixed order.

    Found by name: the closure, the defaults and the globals that the code of a function mentions, likewise for the
    functions found there; of the object of a method, the attributes that the method mentions, and all that is in them.
    What is only reached through ``getattr`` with a computed name is not found.
    """
    arrays: list = []
    seen: set[int] = set()
    # Names, for an object whose attributes are to be selected by those its functions mention; None to take all.
    todo: list[tuple[Any, frozenset[str] | None]] = [(function, frozenset()) for function in reversed(list(functions))]
    while todo and len(seen) < _MOST:
        value, names = todo.pop()
        if isinstance(value, _PLAIN) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, _ARRAYS):
            arrays.append(value)
        else:
            todo.extend(reversed(list(_parts(value, names))))
    return arrays


def _parts(value, names):
    if isinstance(value, types.FunctionType):
        return _parts_of_function(value)
    if isinstance(value, types.MethodType):
        function = value.__func__
        return [(value.__self__, _names_of(function)), (function, names)]
    if isinstance(value, functools.partial):
        return [(part, names) for part in (value.func, *value.args, *value.keywords.values())]
    if isinstance(value, dict):
        return [(part, None) for part in list(value.values())]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [(part, None) for part in value]
    return _parts_of_object(value, names)


def _parts_of_function(function):
    code, mentioned = function.__code__, _names(function.__code__)
    parts = [(cell, mentioned) for cell in map(_contents, function.__closure__ or ())]
    parts += [(default, mentioned) for default in function.__defaults__ or ()]
    parts += [(default, mentioned) for default in (function.__kwdefaults__ or {}).values()]
    known = function.__globals__
    for name in _global_names(code):
        found = known.get(name)
        # Functions of other modules are not searched for the globals of those.
        if not isinstance(found, types.FunctionType) or found.__globals__ is known:
            parts.append((found, mentioned))
    return parts


def _parts_of_object(value, names):
    held = getattr(value, "__dict__", None)
    if not isinstance(held, dict):
        return []
    if names is None:
        return [(part, None) for part in list(held.values())]
    cls, parts, todo, mentioned = type(value), [], ["__call__", *names], set(names)
    while todo:
        name = todo.pop()
        if name in held:
            continue
        # A method or property that is mentioned mentions further attributes.
        further = _names_of(getattr(cls, name, None)) - mentioned
        mentioned |= further
        todo.extend(further)
    for name, part in list(held.items()):
        if name in mentioned:
            parts.append((part, None))
    return parts


def _names_of(function) -> frozenset[str]:
    if isinstance(function, property):
        function = function.fget
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    return frozenset() if code is None else _names(code)


@functools.lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> frozenset[str]:
    """Names of globals and attributes that a function and those defined in it mention."""
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return frozenset(code.co_names).union(*map(_names, inner))


@functools.lru_cache(maxsize=4096)
def _global_names(code: types.CodeType) -> tuple[str, ...]:
    return tuple(sorted(_names(code)))


def _contents(cell):
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has no value yet
        return None
