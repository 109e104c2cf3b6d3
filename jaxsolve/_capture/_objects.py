"""Objects: what identifies one of a built-in type, and where an object of any other class stores what it holds."""

from __future__ import annotations

import array
import collections
import contextvars
import datetime
import decimal
import functools
import gc
import hashlib
import logging
import operator
import re
import struct
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from jaxsolve._capture._classes import is_constant_class, raw, read_class, read_class_method, read_module
from jaxsolve._capture._code import Missing, read_builtin, read_function, read_wrapper
from jaxsolve._compat import TRACE_NOTES

__all__ = ["FIXED", "LAYOUTS", "LITERAL", "PLAIN", "Layout", "layout_of", "member"]


# ---- Values -------------------------------------------------------------------------------------------------------


def _itself(value):
    return value


# Values of these types are the same if they are equal. Tables have the ids of types as their keys, because a metaclass
# can define how its classes are hashed.
LITERAL = set(map(id, (str, bytes, int, bool, type(None))))
# Equal ones are not told apart by identity. As bytes, 0.0 and -0.0 differ, and a NaN equals itself.
PLAIN: dict[int, Callable] = dict.fromkeys((*LITERAL, *map(id, (type(...), types.CodeType))), _itself)
PLAIN |= {id(float): struct.Struct("d").pack, id(complex): lambda z: struct.pack("dd", z.real, z.imag)}


# Objects that are made anew wherever they are read, and that cannot change.
FIXED = (types.FunctionType, types.MethodType, types.BuiltinMethodType, types.CellType, types.CodeType, tuple, type)

# ---- Layouts ------------------------------------------------------------------------------------------------------


class Layout(NamedTuple):
    """How the objects of a class store what they hold."""

    # The built-in type that tells all about the class, or None where the class must be read.
    known: type | None
    readers: tuple[Callable, ...]
    # Descriptors of the slots and of `__dict__`, and of a `__dict__` that is read by name.
    parts: tuple[Any, ...] = ()
    attributes: Any = None
    # Whether there is storage that no reader and no descriptor accounts for.
    hidden: bool = False


def layout_of(kind: type, value: Any) -> Layout:
    """The layout of a class and of one object of it."""
    classes = raw.mro(kind)
    for base in classes:
        if id(base) in _ALONE:
            return Layout(base, (_ALONE[id(base)],))
    slots = [part for base in classes for part in raw.dict(base).values() if type(part) is types.MemberDescriptorType]
    dicts = [raw.dict(base).get("__dict__") for base in classes]
    attributes = next((part for part in dicts if type(part) in _STORAGE), None)
    readers = tuple(_READERS[id(base)] for base in classes if id(base) in _READERS)
    hidden = any(_has_hidden_storage(base) for base in classes if id(base) not in _READERS)
    # A property of the user can have taken the place of `__dict__`.
    hidden |= attributes is None and raw.dictoffset(kind) != 0
    if attributes is not None and not _is_read_by_name(classes, value):
        slots, attributes = [*slots, attributes], None
    return Layout(None, readers, tuple(slots), attributes, hidden)


def _is_read_by_name(classes, value) -> bool:
    """Whether no code of a package, but only the user's, knows what attributes an object has."""
    own = not any(is_constant_class(cls) or "__dataclass_fields__" in raw.dict(cls) for cls in classes[:-1])
    return own and jax.tree_util.all_leaves([value])


_STORAGE = (types.GetSetDescriptorType, types.MemberDescriptorType)


def _has_hidden_storage(cls) -> bool:
    base, held = raw.base(cls), raw.dict(cls)
    accounted = sum(type(part) is types.MemberDescriptorType for part in held.values())
    accounted += ("__dict__" in held) + ("__weakref__" in held)
    return raw.basicsize(cls) - raw.basicsize(base) > struct.calcsize("P") * accounted or raw.itemsize(
        cls
    ) != raw.itemsize(base)


def member(descriptor, value):
    try:
        return descriptor.__get__(value)
    except (AttributeError, ValueError):
        return Missing


# ---- Readers ------------------------------------------------------------------------------------------------------


def _read_array(walk, value):
    walk.arrays[id(value)] = value
    walk.identify(value)


def _read_ndarray(walk, value):
    # Content, even if it is read-only now: its owner can make it writeable for a while.
    plain = np.ndarray.view(value, np.ndarray)
    walk.tokens += (plain.shape, plain.strides, plain.dtype)
    if plain.dtype.hasobject:
        walk.todo.append(plain.ravel().tolist())
    elif plain.nbytes <= 1024:
        walk.tokens.append(plain.tobytes())
    else:
        walk.tokens.append(hashlib.sha256(plain.ravel(order="K").view(np.uint8).data).digest())


def _read_dict(walk, value):
    if value is sys.modules:
        walk.doubt = "sys.modules is reached"
    walk.visit_items(list(dict.keys(value)))
    walk.visit_items(list(dict.values(value)))


def _read_getter(walk, value):
    walk.computes_names = True
    walk.todo += value.__reduce__()[1:]


def _read_mutable(walk, value):
    walk.doubt = f"a {type(value).__name__} can change"


def _nothing(walk, value):
    del walk, value


def _token(token: Callable[[Any], Any]) -> Callable:
    return lambda walk, value: walk.tokens.append(token(value))


def _items(items: Callable[[Any], Iterable]) -> Callable:
    return lambda walk, value: walk.visit_items(list(items(value)))


_buffer = _token(lambda value: (memoryview(value).format, bytes(memoryview(value))))
_SCALARS = {*np.sctypeDict.values(), jnp.dtype(jnp.bfloat16).type} - {np.object_}
_DESCRIPTORS = (types.WrapperDescriptorType, types.MethodDescriptorType, types.ClassMethodDescriptorType)
_DESCRIPTORS += (types.GetSetDescriptorType, types.MemberDescriptorType, property, staticmethod)
_LOCKS = (type(threading.Lock()), type(threading.RLock()))
# All that matters of these is in members, which are read as slots are.
_OPEN = (*_DESCRIPTORS, types.MethodType, types.GenericAlias, types.UnionType, types.SimpleNamespace, functools.partial)
_OPEN += (object, super, slice, range, re.Pattern, collections.defaultdict, *_LOCKS)
# Built-in types whose content is what iteration, or what pickling, gives.
_ITERATED = (list, tuple, set, frozenset, collections.OrderedDict)
_PICKLED = (datetime.date, datetime.timedelta, decimal.Decimal, operator.itemgetter, type(Layout.known))

# Readers of what an object stores as an instance of a built-in type, apart from slots and attributes.
_BUILT_IN: dict[Any, Callable] = {
    **dict.fromkeys(_OPEN, _nothing),
    **dict.fromkeys(_SCALARS, _token(lambda value: (value.dtype, value.tobytes()))),
    **dict.fromkeys((bytes, bytearray, array.array), _buffer),
    **dict.fromkeys((operator.attrgetter, operator.methodcaller), _read_getter),
    **dict.fromkeys((np.ufunc, type(np.sum)), lambda walk, value: walk.identify(value)),
    **{kind: _items(kind.__iter__) for kind in _ITERATED},
    **{kind: _items(kind.__reduce__) for kind in _PICKLED},
    str: _token(str.__str__),
    int: _token(int.__int__),
    float: _token(lambda value: struct.pack("d", float.__float__(value))),
    dict: _read_dict,
    collections.deque: _items(lambda q: [collections.deque.maxlen.__get__(q), *collections.deque.__iter__(q)]),
    types.MappingProxyType: _items(gc.get_referents),
    types.CellType: _items(lambda value: [member(types.CellType.cell_contents, value)]),
    types.MethodWrapperType: _token(lambda value: value.__name__),
    types.BuiltinFunctionType: read_builtin,
    weakref.ref: _items(lambda value: [weakref.ref.__call__(value)]),
    contextvars.ContextVar: _items(lambda value: [value.get(Missing)]),
    threading.local: _items(lambda value: [threading.local.__getattribute__(value, "__dict__")]),
    # A cached function: what it wraps is among its attributes. Misses and size tell when the cache was cleared.
    type(functools.cache(_itself)): _token(lambda value: value.cache_info()[1::2]),
    datetime.datetime: _items(lambda value: datetime.datetime.__reduce_ex__(value, 4)[1:]),
    np.ndarray: _read_ndarray,
    classmethod: read_class_method,
}
_READERS = {id(kind): read for kind, read in _BUILT_IN.items()}

# Readers that tell all about an object, even one of a subclass.
_ALL_BY_ONE: dict[Any, Callable] = {
    # Functions of the user do not read traces or loggers.
    **dict.fromkeys((*TRACE_NOTES, logging.Filterer), _nothing),
    # Immutable, and compared by code of jax and numpy.
    **dict.fromkeys((np.dtype, jax.P, jax.core.ShapedArray, raw.base(jax.sharding.NamedSharding)), _token(_itself)),
    **dict.fromkeys((jax.Array, jax.core.Tracer), _read_array),
    **dict.fromkeys((type(jax.jit(_itself)), jax.custom_jvp, jax.custom_vjp, jnp.ufunc), read_wrapper),
    jax.Ref: _read_mutable,
    jax.tree_util.PyTreeDef: _items(lambda value: [value.node_data(), value.children()]),
    types.FunctionType: read_function,
    types.ModuleType: read_module,
    type: read_class,
}
_ALONE = {id(kind): read for kind, read in _ALL_BY_ONE.items()}
LAYOUTS = {id(kind): layout_of(kind, None)._replace(known=kind) for kind in (*_BUILT_IN, *_ALL_BY_ONE)}
