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
* Attributes of modules, of classes of the user, and of their objects are read by name: by a name that occurs in the
  code that was visited, a special one (``__call__``), one that a base class of a constant package has, or one of
  ``_PROTOCOL``. All attributes are visited where code can compute names (``getattr``, ``vars``, ``__dict__``, ...), and
  those of objects that a package knows: dataclasses, pytrees, objects of its own classes.
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
import itertools
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

__all__ = ["Snapshot", "are_same", "reached", "snapshot"]


class Snapshot(NamedTuple):
    """What functions would read if they were called now.

    Attributes:
        tokens: comparable with ``==``. They keep no array, class or other object of the user alive that can be
            referred to weakly.
        doubt: why the walk cannot see everything that is read, or None.
        arrays: every ``jax.Array`` that was met, tracers included, by its ``id``. Where there is doubt, the walk has
            ended there.
    """

    tokens: list
    doubt: str | None
    arrays: dict[int, jax.Array]

    def same_as(self, other: Snapshot) -> bool:
        """Whether the functions certainly read the same as those of ``other``."""
        return self.doubt is None and other.doubt is None and self.tokens == other.tokens


def snapshot(values: Iterable[Any]) -> Snapshot:
    """Write down all that ``values`` would read if they were called now.

    Args:
        values: functions, methods, callable objects, solvers, or any other object.
    """
    walk = _Walk(values)
    walk.run()
    return Snapshot(walk.tokens, walk.doubt, walk.arrays)


# Objects that are made anew wherever they are read, and that cannot change.
_FIXED = (types.FunctionType, types.MethodType, types.BuiltinMethodType, types.CellType, types.CodeType, tuple, type)


def reached(values: Iterable[Any]) -> list:
    """The objects that can change among all that ``values`` would read, in the order of the walk."""
    walk = _Walk(values)
    walk.run()
    return [value for value in walk.kept if not isinstance(value, _FIXED)]


# ---- The walk -----------------------------------------------------------------------------------------------------

# A walk over so many objects takes about as long as a trace.
_MOST = 100_000


class _Missing:
    """Stands for a variable or an attribute without a value."""


def are_same(objects: list, others: list) -> bool:
    """Whether two lists hold the very same objects."""
    return len(objects) == len(others) and all(map(operator.is_, objects, others))


class _Namespace(NamedTuple):
    """Attributes of a class, a module or an object that are visited once their names occur."""

    held: Any
    unread: dict[str, None]
    # Whether all of it is visited if names can be computed.
    may_be_whole: bool = True


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
        self.names = set(_PROTOCOL)
        self.computes_names = False
        self.namespaces: list[_Namespace] = []

    def run(self):
        while self.doubt is None and (self.todo or self.visit_namespaces()):
            self.visit(self.todo.pop())

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
            layout = self.layouts[id(kind)] = _layout(kind, value)
        self.tokens.append(layout.known)
        if layout.known is None:
            _read_kind(self, kind)
        for read in layout.readers:
            read(self, value)
        self.todo += [_get(part, value) for part in layout.parts]
        if layout.attributes is not None:
            held = layout.attributes.__get__(value)
            self.namespaces.append(_Namespace(held, dict.fromkeys(held)))
        if layout.hidden:
            self.doubt = f"the contents of a {_qualname(kind)} cannot be seen"

    def visit_namespaces(self) -> bool:
        """Visit attributes whose names have occurred; return whether there are any."""
        for held, unread, may_be_whole in self.namespaces:
            whole = self.computes_names and may_be_whole
            for name in list(unread) if whole else sorted(self.names & unread.keys()):
                del unread[name]
                self.tokens.append(name)
                self.todo.append(held.get(name))
        return bool(self.todo)

    def visit_items(self, items: list):
        """Visit the items of a sequence; a long one of strings or numbers in little time."""
        self.tokens.append(len(items))
        kind = type(items[0]) if items else None
        alike = (kind is float or id(kind) in _LITERAL) and all(
            map(operator.is_, map(type, items), itertools.repeat(kind))
        )
        if alike:
            self.tokens += (kind, array.array("d", items).tobytes() if kind is float else items)
        else:
            self.todo.extend(items)


# ---- Tokens -------------------------------------------------------------------------------------------------------


class _Same:
    """Equal to a token of the same living object. An ``id`` would not do: a later object can have it too."""

    __slots__ = ("get",)

    def __init__(self, value):
        try:
            self.get = weakref.ref(value)
        except TypeError:  # built-in objects, and objects with slots
            self.get = lambda: value

    def __eq__(self, other):
        return type(other) is _Same and self.get() is other.get() is not None

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # tokens are only compared


def _itself(value):
    return value


# Values of these types are the same if they are equal. Tables have the ids of types as their keys, because a metaclass
# can define how its classes are hashed.
_LITERAL = set(map(id, (str, bytes, int, bool, type(None))))
# Equal ones are not told apart by identity. As bytes, 0.0 and -0.0 differ, and a NaN equals itself.
_PLAIN: dict[int, Callable] = dict.fromkeys((*_LITERAL, *map(id, (type(...), types.CodeType))), _itself)
_PLAIN |= {id(float): struct.Struct("d").pack, id(complex): lambda z: struct.pack("dd", z.real, z.imag)}


# ---- Code ---------------------------------------------------------------------------------------------------------

_CONSTANT = frozenset(
    "jax jaxlib numpy scipy optax chex jaxsolve flax equinox jaxtyping lineax optimistix ml_dtypes absl etils einops "
    "sklearn typing_extensions".split()
)
# Packages, modules and functions that read what the walk cannot see: files, clocks, random states, Haiku's frames.
_STATEFUL = frozenset(
    "haiku time random numpy.random os posix nt io _io genericpath glob gc importlib builtins.globals builtins.locals "
    "builtins.eval builtins.exec builtins.input builtins.__import__ sys._getframe inspect.currentframe "
    "inspect.stack tempfile subprocess socket urllib http sqlite3 secrets uuid jax.numpy.load "
    "numpy.load numpy.loadtxt numpy.genfromtxt numpy.fromfile numpy.memmap".split()
)
# Attributes that do so.
_STATEFUL_NAMES = frozenset(
    "now today utcnow open read_text read_bytes iterdir __globals__ __subclasses__ f_back".split()
)
# With these, code can read attributes that it does not name.
_COMPUTING = {getattr, hasattr, vars, dir, inspect.getmembers, operator.attrgetter, operator.methodcaller}
_COMPUTING_NAMES = frozenset("__dict__ __getattribute__ format format_map".split())
# With these, code can make an object of a class that it does not name. Special names that are read only then:
_MAKING = {type, classmethod, copy.copy, copy.deepcopy, dataclasses.replace}
_MAKING_NAMES = frozenset("__class__ replace".split())
_CONSTRUCTION = frozenset(
    "__init__ __new__ __post_init__ __init_subclass__ __set_name__ __del__ __copy__ __deepcopy__ __reduce__ "
    "__reduce_ex__ __getstate__ __setstate__ __getnewargs__".split()
)


class _Mentioned(NamedTuple):
    """What a code object, and those inside it, mention."""

    names: frozenset[str] = frozenset()
    # A global and the attributes that are read of it at once: ("jax", "numpy", "sum").
    paths: frozenset[tuple[str, ...]] = frozenset()
    imports: frozenset[str] = frozenset()


@functools.lru_cache(maxsize=8192)
def _mentioned(code: types.CodeType) -> _Mentioned:
    names, paths, imports = set(code.co_names), set(), set()
    instructions = list(dis.get_instructions(code))
    for i, instruction in enumerate(instructions):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
            further = itertools.takewhile(lambda x: x.opname in ("LOAD_ATTR", "LOAD_METHOD"), instructions[i + 1 :])
            paths.add((instruction.argval, *(attribute.argval for attribute in further)))
        elif instruction.opname == "IMPORT_NAME":
            imports.add("." * instructions[i - 2].argval + instruction.argval)
        elif instruction.opname == "MATCH_CLASS":
            names |= _COMPUTING_NAMES
    inner = [_mentioned(const) for const in code.co_consts if isinstance(const, types.CodeType)]
    own = _Mentioned(frozenset(names), frozenset(paths), frozenset(imports))
    return _Mentioned(*(part.union(*parts) for part, *parts in zip(own, *inner, strict=True)))


@functools.lru_cache(maxsize=8192)
def _is_constant(module: Any) -> bool:
    """Whether the code of a module, given by its name, is taken not to change."""
    root = module.partition(".")[0] if isinstance(module, str) else ""
    if root not in sys.stdlib_module_names:
        return root in _CONSTANT
    # A script of the user may be called `code` or `profile`, too.
    origin = getattr(getattr(sys.modules.get(root), "__spec__", None), "origin", None)
    return origin in (None, "built-in", "frozen") or origin.startswith(sysconfig.get_path("stdlib"))


def _is_at_home(function) -> bool:
    """Whether a function is a part of a constant package, rather than made by a call of it."""
    module = function.__module__
    return _is_constant(module) and vars(sys.modules.get(module, abc)).get(function.__name__) is function


# Classes of objects that stand for functions.
_LIKE_FUNCTIONS = {id(kind) for kind in (jax.custom_jvp, jax.custom_vjp, jnp.ufunc, type(jax.jit(_itself)))}


@functools.lru_cache(maxsize=8192)
def _is_stateful(module: str, name: str) -> bool:
    parents = itertools.accumulate(f"{module}.{name}".split("."), "{}.{}".format)
    return not _STATEFUL.isdisjoint(parents)


def _check_state(walk, module, name):
    if isinstance(module, str) and _is_stateful(module, name):
        walk.doubt = f"{module}.{name} is reached"


# Modules of jax whose functions keep what they have computed in a dictionary.
_MEMOIZING = {"jax._src.interpreters.partial_eval"}


def _read_function(walk, function):
    code, known = function.__code__, function.__globals__
    module = known.get("__name__")
    _check_state(walk, function.__module__, function.__name__)
    # What a function says of its module may be copied from another one; its globals are its own.
    constant = _is_constant(module) and vars(sys.modules.get(module, abc)) is known
    if constant and _is_at_home(function):
        _read_identity(walk, function)
        return
    closure = function.__closure__
    if closure and module in _MEMOIZING:
        closure = tuple(cell for cell in closure if type(cell.cell_contents) is not dict)
    walk.todo += (code, function.__defaults__, function.__kwdefaults__, closure, function.__dict__)
    if not constant:
        _read_mentioned(walk, function, *_mentioned(code))


def _read_mentioned(walk, function, names, paths, imports):
    walk.names |= names
    if not _STATEFUL_NAMES.isdisjoint(names):
        walk.doubt = f"{function.__qualname__} mentions {min(_STATEFUL_NAMES & names)}"
    walk.computes_names |= not _COMPUTING_NAMES.isdisjoint(names)
    if not _MAKING_NAMES.isdisjoint(names):
        walk.names |= _CONSTRUCTION
    walk.todo += [_follow(path, function) for path in paths]
    for name in imports:
        name = importlib.util.resolve_name(name, function.__globals__.get("__package__"))
        walk.todo += (sys.modules.get(name), sys.modules.get(name.partition(".")[0]))


def _follow(path, function):
    """The object at a path that starts from a global: the first one that is no module."""
    value = function.__globals__.get(path[0], function.__builtins__.get(path[0], _Missing))
    for attribute in path[1:]:
        if type(value) is not types.ModuleType:
            break
        held = vars(value)
        value = held.get(attribute, held.get("__getattr__", _Missing))
    return value


def _read_builtin(walk, function):
    owner, module = function.__self__, function.__module__
    walk.tokens.append(function.__name__)
    if owner is None or isinstance(owner, types.ModuleType):
        _read_identity(walk, function)
        _check_state(walk, module, function.__name__)
        if not _is_constant(module):
            walk.doubt = f"{module}.{function.__name__} is reached"
    else:
        walk.todo.append(owner)


def _read_jitted(walk, function):
    _read_identity(walk, function)
    walk.todo.append(function.__wrapped__)


def _read_identity(walk, value):
    walk.tokens.append(_Same(value))
    walk.computes_names |= id(value) in _COMPUTING_IDS
    if id(value) in _MAKING_IDS:
        walk.names |= _CONSTRUCTION


_COMPUTING_IDS, _MAKING_IDS = set(map(id, _COMPUTING)), set(map(id, _MAKING))


# ---- Classes and modules ------------------------------------------------------------------------------------------

# Read past what a metaclass makes of these attributes.
_base, _dictoffset, _flags, _held_by, _itemsize, _module, _mro, _qualname, _size = (
    type.__dict__[f"__{name}__"].__get__
    for name in "base dictoffset flags dict itemsize module mro qualname basicsize".split()
)
_METADATA = frozenset(
    "__doc__ __module__ __qualname__ __annotations__ __dict__ __weakref__ __slots__ __parameters__ __orig_bases__ "
    "__dataclass_fields__ __dataclass_params__ __abstractmethods__ _abc_impl __static_attributes__ __firstlineno__ "
    "__annotate__ __annotate_func__".split()
)
# Attributes that packages read of objects of any class.
_PROTOCOL = frozenset(
    "tree_flatten tree_unflatten shape dtype ndim size aval init update run init_state optimality_fun sample log_prob "
    "solve matvec rmatvec subfun make_linop b column columnwise_lipschitz_const check_hyperparams batch".split()
)
# Flags of `PyTypeObject`: Py_TPFLAGS_HEAPTYPE and Py_TPFLAGS_IMMUTABLETYPE.
_MADE_BY_PYTHON, _IMMUTABLE = 1 << 9, 1 << 8


def _is_constant_class(cls) -> bool:
    if not _flags(cls) & _MADE_BY_PYTHON or _flags(cls) & _IMMUTABLE:
        return True
    # A class that `types.new_class` made says that it is of the module `types`.
    module, name = _module(cls), _qualname(cls).partition(".")[0]
    return _is_constant(module) and name in vars(sys.modules.get(module, abc))


def _read_class(walk, cls):
    """Read a class that code can reach, and make objects of."""
    _read_identity(walk, cls)
    _check_state(walk, _module(cls), _qualname(cls))
    if not _is_constant_class(cls):
        walk.names |= _CONSTRUCTION
        _read_kind(walk, cls)


def _read_kind(walk, cls):
    """Read what a class does to its objects."""
    for base in (cls,) if id(cls) in walk.kinds else (*_mro(cls), type(cls)):
        known = id(base) in walk.kinds
        walk.tokens.append(walk.kinds.setdefault(id(base), len(walk.kinds)))
        if not known:
            walk.kept.append(base)
            walk.tokens.append(_Same(base))
            if not _is_constant_class(base):
                _read_attributes(walk, base)


def _read_attributes(walk, cls):
    # The token of `abc` changes when a class is registered with an abstract one.
    walk.tokens.append(abc.get_cache_token())
    held, unread = _held_by(cls), {}
    hooks = set().union(*(_held_by(base) for base in _mro(cls)[:-1] if _is_constant_class(base)))
    for name, part in list(held.items()):
        if name in _CONSTRUCTION or not (name in hooks or name.startswith("__")):
            unread[name] = None
        elif name not in _METADATA:
            walk.tokens.append(name)
            walk.todo.append(part)
    walk.namespaces.append(_Namespace(held, unread))


def _read_module(walk, module):
    held = object.__getattribute__(module, "__dict__")
    name = held.get("__name__")
    walk.tokens.append(_Same(module))
    _check_state(walk, name, "")
    _read_kind(walk, type(module))
    constant = _is_constant(name)
    walk.todo.append(None if constant else held.get("__getattr__"))
    walk.namespaces.append(_Namespace(held, dict.fromkeys(held), may_be_whole=not constant))


# ---- Objects ------------------------------------------------------------------------------------------------------


class _Layout(NamedTuple):
    """How the objects of a class store what they hold."""

    # The built-in type that tells all about the class, or None where the class must be read.
    known: type | None
    readers: tuple[Callable, ...]
    # Descriptors of the slots and of `__dict__`, and of a `__dict__` that is read by name.
    parts: tuple[Any, ...] = ()
    attributes: Any = None
    # Whether there is storage that no reader and no descriptor accounts for.
    hidden: bool = False


def _layout(kind: type, value: Any) -> _Layout:
    classes = _mro(kind)
    for base in classes:
        if id(base) in _ALONE:
            return _Layout(base, (_ALONE[id(base)],))
    if _held_by(kind).get("__module__") == "jaxlib._jax" and type.__dict__["__name__"].__get__(kind) == "Traceback":
        return _Layout(kind, ())  # where a rule was traced
    slots = [part for base in classes for part in _held_by(base).values() if type(part) is types.MemberDescriptorType]
    dicts = [_held_by(base).get("__dict__") for base in classes]
    attributes = next((part for part in dicts if type(part) in _STORAGE), None)
    readers = tuple(_READERS[id(base)] for base in classes if id(base) in _READERS)
    hidden = any(_has_hidden_storage(base) for base in classes if id(base) not in _READERS)
    # A property of the user can have taken the place of `__dict__`.
    hidden |= attributes is None and _dictoffset(kind) != 0
    if attributes is not None and not _is_read_by_name(classes, value):
        slots, attributes = [*slots, attributes], None
    return _Layout(None, readers, tuple(slots), attributes, hidden)


def _is_read_by_name(classes, value) -> bool:
    """Whether no code of a package, but only the user's, knows what attributes an object has."""
    own = not any(_is_constant_class(cls) or "__dataclass_fields__" in _held_by(cls) for cls in classes[:-1])
    return own and jax.tree_util.all_leaves([value])


_STORAGE = (types.GetSetDescriptorType, types.MemberDescriptorType)


def _has_hidden_storage(cls) -> bool:
    base, held = _base(cls), _held_by(cls)
    accounted = sum(type(part) is types.MemberDescriptorType for part in held.values())
    accounted += ("__dict__" in held) + ("__weakref__" in held)
    return _size(cls) - _size(base) > struct.calcsize("P") * accounted or _itemsize(cls) != _itemsize(base)


def _get(descriptor, value):
    try:
        return descriptor.__get__(value)
    except (AttributeError, ValueError):
        return _Missing


def _read_array(walk, value):
    walk.arrays[id(value)] = value
    walk.tokens.append(_Same(value))


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
_DESCRIPTORS += (types.GetSetDescriptorType, types.MemberDescriptorType, property, staticmethod, classmethod)
# All that matters of these is in members, which are read as slots are.
_OPEN = (*_DESCRIPTORS, types.MethodType, types.GenericAlias, types.UnionType, types.SimpleNamespace, functools.partial)
_OPEN += (
    object,
    super,
    slice,
    range,
    re.Pattern,
    collections.defaultdict,
    type(threading.Lock()),
    type(threading.RLock()),
)

# Readers of what an object stores as an instance of a built-in type, apart from slots and attributes.
_BUILT_IN: dict[Any, Callable] = {
    **dict.fromkeys(_OPEN, _nothing),
    **dict.fromkeys(_SCALARS, _token(lambda value: (value.dtype, value.tobytes()))),
    **dict.fromkeys((bytes, bytearray, array.array), _buffer),
    **dict.fromkeys((operator.attrgetter, operator.methodcaller), _read_getter),
    **dict.fromkeys((np.ufunc, type(np.sum)), _read_identity),
    str: _token(str.__str__),
    int: _token(int.__int__),
    float: _token(lambda value: struct.pack("d", float.__float__(value))),
    list: lambda walk, value: walk.visit_items(list.copy(value)),
    tuple: _items(tuple.__iter__),
    dict: _read_dict,
    # In the order of iteration, which can be read too.
    set: _items(set.__iter__),
    frozenset: _items(frozenset.__iter__),
    collections.OrderedDict: _items(collections.OrderedDict.__iter__),
    collections.deque: _items(
        lambda value: [collections.deque.maxlen.__get__(value), *collections.deque.__iter__(value)]
    ),
    types.MappingProxyType: _items(gc.get_referents),
    types.CellType: _items(lambda value: [_get(types.CellType.cell_contents, value)]),
    types.MethodWrapperType: _token(lambda value: value.__name__),
    types.BuiltinFunctionType: _read_builtin,
    weakref.ref: _items(lambda value: [weakref.ref.__call__(value)]),
    contextvars.ContextVar: _items(lambda value: [value.get(_Missing)]),
    threading.local: _items(lambda value: [threading.local.__getattribute__(value, "__dict__")]),
    # A cached function: what it wraps is among its attributes. Misses and size tell when the cache was cleared.
    type(functools.cache(_itself)): _token(lambda value: value.cache_info()[1::2]),
    datetime.date: _items(datetime.date.__reduce__),
    datetime.time: _items(lambda value: datetime.time.__reduce_ex__(value, 4)[1:]),
    datetime.datetime: _items(lambda value: datetime.datetime.__reduce_ex__(value, 4)[1:]),
    datetime.timedelta: _items(datetime.timedelta.__reduce__),
    decimal.Decimal: _items(decimal.Decimal.__reduce__),
    operator.itemgetter: _items(operator.itemgetter.__reduce__),
    type(Snapshot.tokens): _items(type(Snapshot.tokens).__reduce__),  # a field of a named tuple
    np.ndarray: _read_ndarray,
}
_READERS = {id(kind): read for kind, read in _BUILT_IN.items()}

# Readers that tell all about an object, even one of a subclass. Functions of the user do not read traces or loggers.
_ALONE: dict[int, Callable] = {
    **{id(kind): _nothing for kind in (*TRACE_NOTES, logging.Filterer)},
    # Immutable, and compared by code of jax and numpy.
    **{
        id(kind): _token(_itself) for kind in (np.dtype, jax.P, jax.core.ShapedArray, _base(jax.sharding.NamedSharding))
    },
    id(jax.Array): _read_array,
    id(jax.core.Tracer): _read_array,
    id(jax.Ref): _read_mutable,
    id(jax.tree_util.PyTreeDef): _items(lambda value: [value.node_data(), value.children()]),
    id(type(jax.jit(_itself))): _read_jitted,
    id(types.FunctionType): _read_function,
    id(types.ModuleType): _read_module,
    id(type): _read_class,
}
_LAYOUTS = {id(kind): _layout(kind, None)._replace(known=kind) for kind in _BUILT_IN}
