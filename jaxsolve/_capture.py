"""What functions would read if they were called now: a walk over everything that they can reach.

A compiled function holds what its callables read while they were traced. It may be used again only if they would read
the same now. :func:`snapshot` writes down all that a call could read, as a list of tokens that compares with an earlier
one. It never calls code of the user: no ``__eq__``, ``__hash__``, ``__repr__``, property or overridden method.

**Why equal tokens mean equal reads.** A function reads its code, its defaults, its closure, the globals that its code
names, and from there the parts of each object that it comes across. The walk visits all of these. Of each object it
writes down what identifies it or all that is stored in it, and it visits what that refers to. Every step of the walk
depends only on what was written down before, so two walks with equal tokens have visited the same structure, with the
same sharing, and have found the same values, the same living arrays and classes, and equal code in it. It rests on
these assumptions:

* Code of the packages in ``_CONSTANT`` does not change and has no state of its own, apart from ``_STATEFUL``. Their
  functions' closures, and objects of their classes, are visited as all others are.
* Attributes of a class or a module are read by name: by a name that occurs in the code that was visited, a special name
  (``__call__``), or one that a base class of a constant package defines. Where a name can be computed (``getattr``,
  ``vars``, ``__dict__``, ...), all attributes are visited. Attributes of other objects are always all visited.
* An object stores what its class declares: slots, ``__dict__``, and the contents of the built-in types in ``_READERS``.
  Storage of any other origin cannot be seen, and puts the walk in doubt.
* Documentation, annotations and names of functions and classes are not read as data.
"""

from __future__ import annotations

import abc
import array
import collections
import contextvars
import copy
import dataclasses
import datetime
import decimal
import dis
import functools
import gc
import hashlib
import importlib.util
import inspect
import logging
import operator
import re
import struct
import sys
import sysconfig
import threading
import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from jaxsolve._compat import TRACE_NOTES

__all__ = ["Snapshot", "snapshot"]


class Snapshot(NamedTuple):
    """What functions would read if they were called now.

    Attributes:
        tokens: comparable with ``==``. They keep no array, class or other object of the user alive that can be
            referred to weakly.
        doubt: why the walk cannot see everything that is read, or None.
        arrays: every ``jax.Array`` that was met, tracers included, by its ``id``.
        visited: every object that was met, in order, but for plain values.
    """

    tokens: list
    doubt: str | None
    arrays: dict[int, jax.Array]
    visited: list

    def same_as(self, other: Snapshot) -> bool:
        """Whether the functions certainly read the same as those of ``other``."""
        return self.doubt is None and other.doubt is None and self.tokens == other.tokens

    def tokens_of_objects(self) -> list:
        """Tokens of the objects that can change, which equal those of the very same objects only."""
        return [_Held(value) for value in self.visited if not isinstance(value, _FIXED)]


# Objects that a function makes anew wherever it is read, and that cannot change.
_FIXED = (types.FunctionType, types.MethodType, types.BuiltinMethodType, types.CellType, types.CodeType, tuple, type)


def snapshot(values: Iterable[Any]) -> Snapshot:
    """Write down all that ``values`` would read if they were called now.

    Args:
        values: functions, methods, callable objects, solvers, or any other object.
    """
    walk = _Walk(values)
    while walk.doubt is None and (walk.todo or walk.visit_namespaces()):
        walk.visit(walk.todo.pop())
    return Snapshot(walk.tokens, walk.doubt, walk.arrays, walk.kept)


# ---- The walk -----------------------------------------------------------------------------------------------------

# A walk over so many objects takes about as long as a trace.
_MOST = 100_000


class _Missing:
    """Stands for a variable or an attribute without a value."""


class _Namespace(NamedTuple):
    """Attributes of a class or a module that are visited once their names occur."""

    held: Any
    unread: dict[str, None]


class _Walk:
    def __init__(self, values: Iterable[Any]):
        self.tokens: list = []
        self.doubt: str | None = None
        self.arrays: dict[int, Any] = {}
        self.todo = list(values)
        # The number of each object that was met, by id. An id stays valid because `kept` keeps the object alive.
        self.met: dict[int, int] = {}
        self.kept: list = []
        self.layouts: dict[int, _Layout] = {}
        self.kinds: dict[int, int] = {}
        # Names in the code visited so far, and whether that code can compute others.
        self.names: set[str] = set()
        self.computes_names = False
        self.namespaces: list[_Namespace] = []

    def visit(self, value):
        kind = type(value)
        plain = _PLAIN.get(id(kind))
        if plain is not None:
            self.tokens += (kind, plain(value))
            return
        next_number = len(self.met)
        number = self.met.setdefault(id(value), next_number)
        if number < next_number:
            self.tokens += ("met", number)
            return
        self.kept.append(value)
        if len(self.kept) + len(self.todo) > _MOST:
            self.doubt = f"more than {_MOST:,} objects are reached"
            return
        if id(kind) in _LIKE_FUNCTIONS and _is_at_home(value):
            _read_identity(self, value)
            return
        layout = _LAYOUTS.get(id(kind)) or self.layouts.get(id(kind))
        if layout is None:
            layout = self.layouts[id(kind)] = _layout(kind)
        self.tokens.append(layout.known)
        if layout.known is None:
            _read_kind(self, kind)
        for read in layout.readers:
            read(self, value)
        for part in layout.parts:
            self.todo.append(_get(part, value))
        if layout.hidden:
            self.doubt = f"the contents of a {kind.__module__}.{kind.__qualname__} cannot be seen"

    def visit_namespaces(self) -> bool:
        """Visit attributes whose names have occurred; return whether there are any."""
        for held, unread in self.namespaces:
            for name in list(unread) if self.computes_names else sorted(self.names & unread.keys()):
                del unread[name]
                self.tokens.append(name)
                self.todo.append(held.get(name))
        return bool(self.todo)

    def visit_items(self, items: list):
        """Visit the items of a sequence; a long one of strings or numbers in little time."""
        self.tokens.append(len(items))
        kinds = set(map(type, items)) if items and type(items[0]) in _SIMPLE else {None}
        if kinds == {float}:
            self.tokens += (float, array.array("d", items).tobytes())
        elif kinds <= _LITERAL:
            self.tokens += (list(map(type, items)) if len(kinds) > 1 else kinds.pop(), items)
        else:
            self.todo.extend(items)


# ---- Tokens -------------------------------------------------------------------------------------------------------


class _Same(weakref.ref):
    """Equal to a token of the same living object. An ``id`` would not do: a later object can have it too."""

    __slots__ = ()
    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __eq__(self, other):
        return type(other) is _Same and self() is other() is not None


class _Held:
    """The same for an object without weak references."""

    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return type(other) is _Held and self.value is other.value


def _identity(value) -> _Same | _Held:
    try:
        return _Same(value)
    except TypeError:
        return _Held(value)


# Values of these types are the same if they are equal.
_LITERAL = {str, bytes, int, bool, type(None)}
_SIMPLE = {*_LITERAL, float}


def _itself(value):
    return value


def _float_bytes(value: float) -> bytes:
    # Tells 0.0 from -0.0; a NaN equals itself.
    return struct.pack("d", value)


def _complex_bytes(value: complex) -> bytes:
    return struct.pack("dd", value.real, value.imag)


# By the ids of types: a metaclass of the user may define how its classes are hashed.
_PLAIN = {id(kind): _itself for kind in (*_LITERAL, type(...), type(NotImplemented), types.CodeType)}
_PLAIN |= {id(float): _float_bytes, id(complex): _complex_bytes}


# ---- Code ---------------------------------------------------------------------------------------------------------

_CONSTANT = set("jax jaxlib numpy scipy optax chex jaxsolve flax equinox jaxtyping lineax optimistix ml_dtypes".split())
_CONSTANT |= set("absl etils einops sklearn typing_extensions".split())
# Modules, functions and packages that read what the walk cannot see: files, clocks, random states, Haiku's frames.
_STATEFUL = set("time random os posix nt io _io genericpath glob gc importlib numpy.random haiku".split())
_STATEFUL |= {f"builtins.{name}" for name in ("globals", "locals", "eval", "exec", "input", "__import__")}
_STATEFUL |= {f"numpy.{name}" for name in ("load", "loadtxt", "genfromtxt", "fromfile")}
_STATEFUL |= {"sys._getframe", "inspect.currentframe"}
# Attributes that do so.
_STATEFUL_NAMES = frozenset("now today utcnow open read_text read_bytes iterdir".split())
_STATEFUL_NAMES |= {"__globals__", "__subclasses__", "f_back"}
# With these, the names of attributes can be computed.
_COMPUTING = {id(f) for f in (getattr, hasattr, vars, dir, inspect.getmembers, operator.attrgetter)}
_COMPUTING.add(id(operator.methodcaller))
_COMPUTING_NAMES = frozenset({"__dict__", "__getattribute__", "format", "format_map"})
# With these, objects of a class are made if only another one is at hand; special names that are read only then.
_MAKING = {id(f) for f in (type, classmethod, copy.copy, copy.deepcopy, dataclasses.replace)}
_MAKING_NAMES = frozenset({"__class__", "replace"})
_CONSTRUCTION = set("__init__ __new__ __post_init__ __init_subclass__ __set_name__ __del__ __copy__".split())
_CONSTRUCTION |= set("__deepcopy__ __reduce__ __reduce_ex__ __getstate__ __setstate__ __getnewargs__".split())


class _Mentioned(NamedTuple):
    """What a code object and those inside it name."""

    names: frozenset[str]
    # A global and the attributes that are read of it at once: ("jax", "numpy", "sum").
    paths: tuple[tuple[str, ...], ...]
    imports: tuple[str, ...]
    computes_names: bool


@functools.lru_cache(maxsize=8192)
def _mentioned(code: types.CodeType) -> _Mentioned:
    names, paths, imports, computes = set(code.co_names), set(), set(), False
    instructions = list(dis.get_instructions(code))
    for i, instruction in enumerate(instructions):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
            paths.add((instruction.argval, *_attributes(instructions[i + 1 :])))
        elif instruction.opname == "IMPORT_NAME":
            imports.add("." * instructions[i - 2].argval + instruction.argval)
        computes |= instruction.opname == "MATCH_CLASS"
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            found = _mentioned(inner)
            names |= found.names
            paths.update(found.paths)
            imports.update(found.imports)
            computes |= found.computes_names
    computes |= bool(names & _COMPUTING_NAMES)
    return _Mentioned(frozenset(names), tuple(sorted(paths)), tuple(sorted(imports)), computes)


def _attributes(instructions):
    for instruction in instructions:
        if instruction.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
            return
        yield instruction.argval


@functools.lru_cache(maxsize=8192)
def _is_constant(module: Any) -> bool:
    """Whether the code of a module, given by its name, is taken not to change."""
    root = module.partition(".")[0] if isinstance(module, str) else ""
    if root not in sys.stdlib_module_names:
        return root in _CONSTANT
    # A script may be called `code` or `profile`, too.
    origin = getattr(getattr(sys.modules.get(root), "__spec__", None), "origin", None)
    return origin in (None, "built-in", "frozen") or origin.startswith(sysconfig.get_path("stdlib"))


def _is_stateful(module: Any, name: str) -> bool:
    return isinstance(module, str) and not _STATEFUL.isdisjoint((module, module.partition(".")[0], f"{module}.{name}"))


# Classes of objects that stand for functions.
_LIKE_FUNCTIONS = {id(kind) for kind in (jax.custom_jvp, jax.custom_vjp, jnp.ufunc, type(jax.jit(_itself)))}


def _is_at_home(value) -> bool:
    """Whether a function of a constant package is a part of its module, rather than made by a call."""
    module = sys.modules.get(value.__module__)
    return _is_constant(value.__module__) and module is not None and vars(module).get(value.__name__) is value


def _read_function(walk, function):
    known, code = function.__globals__, function.__code__
    module = known.get("__name__")
    walk.tokens.append(code)
    if _is_stateful(module, function.__name__):
        walk.doubt = f"{module}.{function.__name__} is reached"
    constant = _is_constant(module) and vars(sys.modules.get(module, types)) is known
    if constant and _is_at_home(function):
        _read_identity(walk, function)
        return
    walk.todo += (function.__defaults__, function.__kwdefaults__, function.__closure__, function.__dict__)
    if not constant:
        _read_names(walk, function, _mentioned(code))


def _read_names(walk, function, mentioned):
    walk.names |= mentioned.names
    if not _MAKING_NAMES.isdisjoint(mentioned.names):
        walk.names |= _CONSTRUCTION
    walk.computes_names |= mentioned.computes_names
    if not _STATEFUL_NAMES.isdisjoint(mentioned.names):
        walk.doubt = f"{function.__qualname__} mentions {min(_STATEFUL_NAMES & mentioned.names)}"
    for path in mentioned.paths:
        walk.todo.append(_follow(path, function))
    for name in mentioned.imports:
        name = importlib.util.resolve_name(name, function.__globals__.get("__package__"))
        walk.todo += (sys.modules.get(name), sys.modules.get(name.partition(".")[0]))


def _follow(path, function):
    name, *attributes = path
    value = function.__globals__.get(name, function.__builtins__.get(name, _Missing))
    for attribute in attributes:
        if not issubclass(type(value), types.ModuleType):
            break
        held = object.__getattribute__(value, "__dict__")
        value = held.get(attribute, held.get("__getattr__", _Missing))
    return value


def _read_builtin(walk, function):
    owner = function.__self__
    walk.tokens.append(function.__name__)
    if owner is not None and not isinstance(owner, types.ModuleType):
        walk.todo.append(owner)
    elif _is_stateful(function.__module__, function.__name__) or not _is_constant(function.__module__):
        walk.doubt = f"{function.__module__}.{function.__name__} is reached"
    else:
        _read_identity(walk, function)


def _read_jitted(walk, function):
    _read_identity(walk, function)
    walk.todo.append(function.__wrapped__)


def _read_identity(walk, value):
    walk.tokens.append(_identity(value))
    walk.computes_names |= id(value) in _COMPUTING
    if id(value) in _MAKING:
        walk.names |= _CONSTRUCTION


# ---- Classes and modules ------------------------------------------------------------------------------------------

# Read past every `__getattribute__` and property of a metaclass.
_bases, _mro, _held_by, _basicsize, _itemsize = (
    type.__dict__[name].__get__ for name in ("__bases__", "__mro__", "__dict__", "__basicsize__", "__itemsize__")
)
_METADATA = set("__doc__ __module__ __qualname__ __annotations__ __dict__ __weakref__ __parameters__".split())
_METADATA |= set("__orig_bases__ __dataclass_fields__ __dataclass_params__ __abstractmethods__ _abc_impl".split())
_METADATA |= set("__slots__ __static_attributes__ __firstlineno__ __annotate__ __annotate_func__".split())
# Methods that jax calls without a base class that names them.
_PROTOCOL = {"tree_flatten", "tree_unflatten"}


def _is_constant_class(cls) -> bool:
    if not cls.__flags__ & _MADE_BY_PYTHON or cls.__flags__ & _IMMUTABLE:
        return True
    module, name = _held_by(cls).get("__module__"), cls.__qualname__.partition(".")[0]
    # A class that `types.new_class` made says that it is of the module `types`.
    return _is_constant(module) and name in vars(sys.modules.get(module, abc))


# Flags of `PyTypeObject`: Py_TPFLAGS_HEAPTYPE and Py_TPFLAGS_IMMUTABLETYPE.
_MADE_BY_PYTHON, _IMMUTABLE = 1 << 9, 1 << 8


def _read_class(walk, cls):
    """Read a class that code can reach, and make objects of."""
    _read_identity(walk, cls)
    if _is_stateful(cls.__module__, cls.__name__):
        walk.doubt = f"{cls.__module__}.{cls.__qualname__} is reached"
    if not _is_constant_class(cls):
        walk.names |= _CONSTRUCTION
        _read_kind(walk, cls)


def _read_kind(walk, cls):
    """Read what a class does to its objects."""
    if id(cls) in walk.kinds:
        walk.tokens.append(walk.kinds[id(cls)])
        return
    for base in (*_mro(cls), type(cls)):
        next_number = len(walk.kinds)
        number = walk.kinds.setdefault(id(base), next_number)
        walk.tokens.append(number)
        if number == next_number:
            walk.kept.append(base)
            walk.tokens.append(_identity(base))
            if not _is_constant_class(base):
                _read_attributes(walk, base)


def _read_attributes(walk, cls):
    # The token of `abc` changes when a class is registered with an abstract one.
    walk.tokens.append(abc.get_cache_token())
    held = _held_by(cls)
    hooks = {name for base in _mro(cls)[:-1] if _is_constant_class(base) for name in _held_by(base)}
    unread = {}
    for name in held:
        if name in _CONSTRUCTION or not (name in hooks or name in _PROTOCOL or name.startswith("__")):
            unread[name] = None
        elif name not in _METADATA:
            walk.tokens.append(name)
            walk.todo.append(held[name])
    walk.namespaces.append(_Namespace(held, unread))


def _read_module(walk, module):
    held = object.__getattribute__(module, "__dict__")
    name = held.get("__name__")
    walk.tokens.append(_identity(module))
    if _is_stateful(name, ""):
        walk.doubt = f"the module {name} is reached"
    walk.namespaces.append(_Namespace(held, {} if _is_constant(name) else dict.fromkeys(held)))


# ---- Objects ------------------------------------------------------------------------------------------------------


class _Layout(NamedTuple):
    """How the objects of a class store what they hold."""

    # The built-in type that tells all about the class, or None where the class must be visited.
    known: type | None
    readers: tuple[Callable, ...]
    # Descriptors of the slots and of `__dict__`.
    parts: tuple[Any, ...]
    # Whether there is storage that no reader and no descriptor accounts for.
    hidden: bool


def _layout(kind: type) -> _Layout:
    classes = _mro(kind)
    for base in classes:
        if id(base) in _ALONE:
            return _Layout(base, (_ALONE[id(base)],), (), False)
    others = [base for base in classes if id(base) not in _READERS]
    slots = [part for base in others for part in _held_by(base).values() if type(part) is types.MemberDescriptorType]
    attributes = [_held_by(base)["__dict__"] for base in classes if "__dict__" in _held_by(base)]
    readers = tuple(_READERS[id(base)] for base in classes if id(base) in _READERS)
    hidden = any(map(_has_hidden_storage, others))
    if hidden and kind.__module__.startswith("jaxlib"):
        readers, hidden = (*readers, _read_identity), False
    return _Layout(None, readers, (*slots, *attributes[:1]), hidden)


def _has_hidden_storage(cls) -> bool:
    base, held = cls.__base__, _held_by(cls)
    if base is None:
        return False
    accounted = sum(type(part) is types.MemberDescriptorType for part in held.values())
    accounted += ("__dict__" in held) + ("__weakref__" in held)
    pointer = struct.calcsize("P")
    return _basicsize(cls) - _basicsize(base) > pointer * accounted or _itemsize(cls) != _itemsize(base)


def _get(descriptor, value):
    try:
        return descriptor.__get__(value)
    except (AttributeError, ValueError):
        return _Missing


def _read_array(walk, value):
    walk.arrays[id(value)] = value
    walk.tokens.append(_identity(value))


def _read_ndarray(walk, value):
    # Content, even if it is read-only now: its owner can make it writeable, and read-only again.
    plain = np.ndarray.view(value, np.ndarray)
    walk.tokens += (plain.shape, plain.strides, plain.dtype)
    if plain.dtype.hasobject:
        walk.todo.append(plain.ravel().tolist())
    elif plain.nbytes <= 1024:
        walk.tokens.append(plain.tobytes())
    else:
        walk.tokens.append(hashlib.sha256(plain.ravel(order="K").view(np.uint8)).digest())


def _read_scalar(walk, value):
    walk.tokens += (value.dtype, value.tobytes())


def _read_buffer(walk, value):
    view = memoryview(value)
    walk.tokens += (view.format, bytes(view))


def _read_equal(walk, value):
    walk.tokens.append(value)


def _read_weakly(walk, reference):
    walk.todo.append(weakref.ref.__call__(reference))


def _read_context(walk, variable):
    walk.todo.append(variable.get(_Missing))
    walk.tokens.append(_identity(variable))


def _read_cache(walk, function):
    # The function that is wrapped is among the attributes. What is cached was computed from what it reads.
    info = function.cache_info()
    walk.tokens += (info.misses, info.currsize)


def _read_treedef(walk, treedef):
    walk.todo += (treedef.node_data(), treedef.children())


def _items(copied: Callable[[Any], list]) -> Callable:
    return lambda walk, value: walk.visit_items(copied(value))


def _iterated(kind: type) -> Callable:
    return lambda walk, value: walk.visit_items(list(kind.__iter__(value)))


def _read_dict(walk, value):
    walk.visit_items(list(dict.keys(value)))
    walk.visit_items(list(dict.values(value)))


def _members(kind: type, *names: str) -> Callable:
    """Read the named members of an object, past what a subclass makes of them."""
    members = [vars(kind)[name] for name in names]
    return lambda walk, value: walk.todo.extend([_get(member, value) for member in members])


def _reduced(kind: type) -> Callable:
    """Read what makes an equal object: the arguments that ``pickle`` would keep."""
    name = "__reduce_ex__" if "__reduce_ex__" in vars(kind) else "__reduce__"
    reduce, arguments = vars(kind)[name], (2,) * (name == "__reduce_ex__")

    def read(walk, value):
        parts = reduce(value, *arguments)
        walk.todo.extend(parts[1:])
        if kind in (operator.attrgetter, operator.methodcaller):
            walk.names.update(name for part in parts[1] if type(part) is str for name in part.split("."))

    return read


def _referents(walk, value):
    walk.todo.extend(gc.get_referents(value))


def _nothing(walk, value):
    del walk, value


_DESCRIPTORS = [types.WrapperDescriptorType, types.MethodDescriptorType, types.ClassMethodDescriptorType]
_DESCRIPTORS += [types.GetSetDescriptorType, types.MemberDescriptorType]

# What an object stores as an instance of a built-in type, in addition to the slots and attributes of other bases.
_BUILT_IN: dict[type, Callable] = {
    object: _nothing,
    str: lambda walk, value: walk.tokens.append(str.__str__(value)),
    int: lambda walk, value: walk.tokens.append(int.__int__(value)),
    float: lambda walk, value: walk.tokens.append(_float_bytes(float.__float__(value))),
    bytes: _read_buffer,
    bytearray: _read_buffer,
    array.array: _read_buffer,
    list: _items(list.copy),
    tuple: _iterated(tuple),
    # In the order in which they are iterated over: this too can be read.
    set: _iterated(set),
    frozenset: _iterated(frozenset),
    dict: _read_dict,
    collections.OrderedDict: _iterated(collections.OrderedDict),
    collections.defaultdict: _members(collections.defaultdict, "default_factory"),
    collections.deque: _iterated(collections.deque),
    types.MappingProxyType: _referents,
    types.SimpleNamespace: _nothing,
    types.CellType: _members(types.CellType, "cell_contents"),
    types.MethodType: _members(types.MethodType, "__func__", "__self__"),
    types.MethodWrapperType: _members(types.MethodWrapperType, "__self__", "__name__"),
    types.BuiltinFunctionType: _read_builtin,
    types.GenericAlias: _members(types.GenericAlias, "__origin__", "__args__"),
    types.UnionType: _members(types.UnionType, "__args__"),
    property: _members(property, "fget", "fset", "fdel"),
    staticmethod: _members(staticmethod, "__func__"),
    classmethod: _members(classmethod, "__func__"),
    super: _members(super, "__self__", "__thisclass__", "__self_class__"),
    slice: _members(slice, "start", "stop", "step"),
    range: _members(range, "start", "stop", "step"),
    re.Pattern: _members(re.Pattern, "pattern", "flags"),
    functools.partial: _members(functools.partial, "func", "args", "keywords"),
    type(functools.cache(_nothing)): _read_cache,
    weakref.ref: _read_weakly,
    contextvars.ContextVar: _read_context,
    threading.local: _nothing,
    type(threading.Lock()): _nothing,
    type(threading.RLock()): _nothing,
    np.ndarray: _read_ndarray,
    np.ufunc: _read_identity,
    type(np.sum): _read_identity,
    **{kind: _read_scalar for kind in {*np.sctypeDict.values(), jnp.dtype(jnp.bfloat16).type} - {np.object_}},
    **{kind: _members(kind, "__objclass__", "__name__") for kind in _DESCRIPTORS},
    **{kind: _reduced(kind) for kind in (operator.attrgetter, operator.itemgetter, operator.methodcaller)},
    **{kind: _reduced(kind) for kind in (datetime.date, datetime.time, datetime.datetime, datetime.timedelta)},
    decimal.Decimal: _reduced(decimal.Decimal),
}
_READERS = {id(kind): read for kind, read in _BUILT_IN.items()}

# Readers that tell all about an object, whatever its class. Functions of the user do not read traces or loggers.
_ALONE: dict[int, Callable] = {
    id(jax.Array): _read_array,
    id(jax.core.Tracer): _read_array,
    id(jax.core.ShapedArray): _read_equal,
    id(jax.sharding.NamedSharding.__base__): _read_equal,
    id(jax.P): _read_equal,
    id(jax.tree_util.PyTreeDef): _read_treedef,
    id(type(jax.jit(_itself))): _read_jitted,
    id(logging.Filterer): _read_identity,
    id(np.dtype): _read_equal,
    # What jax notes down about traces.
    **{id(kind): _nothing for kind in TRACE_NOTES},
    id(types.FunctionType): _read_function,
    id(types.ModuleType): _read_module,
    id(type): _read_class,
}
_LAYOUTS = {id(kind): _layout(kind)._replace(known=kind) for kind in _BUILT_IN}
