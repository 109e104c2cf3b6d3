"""Classes and modules: which of their attributes are read at once, and which once their names occur."""

from __future__ import annotations

import abc
import types

from jaxsolve._capture._code import CONSTRUCTION, constant_namespace, is_constant, read_known

__all__ = ["is_constant_class", "raw", "read_class", "read_class_method", "read_kind", "read_module"]

# Attributes of a class, as in ``raw.mro(cls)``, whatever a metaclass makes of them.
raw = types.SimpleNamespace(
    **{
        name: type.__dict__[f"__{name}__"].__get__
        for name in "base basicsize dict dictoffset flags itemsize module mro qualname".split()
    }
)
_METADATA = frozenset(
    "__doc__ __module__ __qualname__ __annotations__ __dict__ __weakref__ __slots__ __parameters__ __orig_bases__ "
    "__dataclass_fields__ __dataclass_params__ __abstractmethods__ _abc_impl __static_attributes__ __firstlineno__ "
    "__annotate__ __annotate_func__".split()
)
# Flags of `PyTypeObject`: Py_TPFLAGS_HEAPTYPE and Py_TPFLAGS_IMMUTABLETYPE.
_MADE_BY_PYTHON, _IMMUTABLE = 1 << 9, 1 << 8


def is_constant_class(cls) -> bool:
    """Whether a class is built in, or a part of a constant package."""
    if not raw.flags(cls) & _MADE_BY_PYTHON or raw.flags(cls) & _IMMUTABLE:
        return True
    # A class that `types.new_class` made says that it is of the module `types`.
    return raw.qualname(cls).partition(".")[0] in constant_namespace(raw.module(cls))


def read_class(walk, cls):
    """Read a class that code can reach, and make objects of."""
    read_known(walk, cls, raw.module(cls), raw.qualname(cls))
    if not is_constant_class(cls):
        walk.names |= CONSTRUCTION
        read_kind(walk, cls)


def read_kind(walk, cls):
    """Read what a class does to its objects."""
    for base in (cls,) if id(cls) in walk.kinds else (*raw.mro(cls), type(cls)):
        known = id(base) in walk.kinds
        walk.tokens.append(walk.kinds.setdefault(id(base), len(walk.kinds)))
        if not known:
            walk.kept.append(base)
            walk.identify(base)
            if not is_constant_class(base):
                _read_attributes(walk, base)


def _read_attributes(walk, cls):
    # The token of `abc` changes when a class is registered with an abstract one.
    walk.registrations = abc.get_cache_token()
    held, later = raw.dict(cls), []
    hooks = set().union(*(raw.dict(base) for base in raw.mro(cls)[:-1] if is_constant_class(base)))
    for name, part in list(held.items()):
        if name in CONSTRUCTION or not (name in hooks or name.startswith("__")):
            later.append(name)
        elif name not in _METADATA:
            walk.tokens.append(name)
            walk.todo.append(part)
    walk.read_by_name(held, later)


def read_class_method(walk, method):
    """A class method can make objects of its class; what it wraps is in its members."""
    del method
    walk.names |= CONSTRUCTION


def read_module(walk, module):
    held = object.__getattribute__(module, "__dict__")
    name = held.get("__name__")
    read_known(walk, module, name, "")
    read_kind(walk, type(module))
    constant = is_constant(name)
    walk.todo.append(None if constant else held.get("__getattr__"))
    walk.read_by_name(held, held, may_be_whole=not constant)
