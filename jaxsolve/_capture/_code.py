"""Functions: what their code mentions, and whose code neither changes nor has a state."""

from __future__ import annotations

import abc
import copy
import dataclasses
import dis
import functools
import importlib.util
import inspect
import itertools
import operator
import sys
import sysconfig
import types
from typing import Any, NamedTuple

__all__ = [
    "CONSTRUCTION",
    "PROTOCOL",
    "Missing",
    "constant_namespace",
    "is_constant",
    "read_builtin",
    "read_function",
    "read_known",
    "read_wrapper",
]


class Missing:
    """Stands for a variable or an attribute without a value."""


# ---- Packages -----------------------------------------------------------------------------------------------------

CONSTANT = frozenset(
    "jax jaxlib numpy scipy optax chex jaxsolve flax equinox jaxtyping lineax optimistix ml_dtypes absl etils einops "
    "sklearn typing_extensions".split()
)
# Packages, modules and functions that read what the walk cannot see: files, clocks, random states, Haiku's frames.
STATEFUL = frozenset(
    "haiku time random numpy.random os posix nt io _io genericpath glob gc importlib builtins.globals builtins.locals "
    "builtins.eval builtins.exec builtins.input builtins.__import__ sys._getframe inspect.currentframe "
    "inspect.stack tempfile subprocess socket urllib http sqlite3 secrets uuid jax.numpy.load "
    "numpy.load numpy.loadtxt numpy.genfromtxt numpy.fromfile numpy.memmap".split()
)


@functools.lru_cache(maxsize=8192)
def is_constant(module: Any) -> bool:
    """Whether the code of a module, given by its name, is taken not to change."""
    root = module.partition(".")[0] if isinstance(module, str) else ""
    if root not in sys.stdlib_module_names:
        return root in CONSTANT
    # A script of the user may be called `code` or `profile`, too.
    origin = getattr(getattr(sys.modules.get(root), "__spec__", None), "origin", None)
    return origin in (None, "built-in", "frozen") or origin.startswith(sysconfig.get_path("stdlib"))


def constant_namespace(module: Any) -> dict:
    """What a module, given by its name, holds if its code is taken not to change; nothing of any other."""
    return vars(sys.modules.get(module, abc)) if is_constant(module) else {}


def _check_state(walk, module, name):
    """Put the walk in doubt if a function or class reads what cannot be seen."""
    if isinstance(module, str) and _is_stateful(module, name):
        walk.doubt = f"{module}.{name} is reached"


@functools.lru_cache(maxsize=8192)
def _is_stateful(module: str, name: str) -> bool:
    parents = itertools.accumulate(f"{module}.{name}".split("."), "{}.{}".format)
    return not STATEFUL.isdisjoint(parents)


# ---- Names --------------------------------------------------------------------------------------------------------

# Attributes that packages read of objects of any class.
PROTOCOL = frozenset(
    "tree_flatten tree_unflatten shape dtype ndim size aval init update run init_state optimality_fun sample log_prob "
    "solve matvec rmatvec subfun make_linop b column columnwise_lipschitz_const check_hyperparams batch".split()
)
# Attributes with which code reads files, clocks, and what else cannot be seen.
_STATEFUL_NAMES = frozenset(
    "now today utcnow open read_text read_bytes iterdir __globals__ __subclasses__ f_back".split()
)
# With these functions and attributes, code can read attributes that it does not name.
_COMPUTING = set(map(id, (getattr, hasattr, vars, dir, inspect.getmembers, operator.attrgetter, operator.methodcaller)))
_COMPUTING_NAMES = frozenset("__dict__ __getattribute__ format format_map".split())
# With these, code can make an object of a class that it does not name. Special names that are read only then:
_MAKING = set(map(id, (type, copy.copy, copy.deepcopy, dataclasses.replace)))
_MAKING_NAMES = frozenset("__class__ replace".split())
CONSTRUCTION = frozenset(
    "__init__ __new__ __post_init__ __init_subclass__ __set_name__ __del__ __copy__ __deepcopy__ __reduce__ "
    "__reduce_ex__ __getstate__ __setstate__ __getnewargs__".split()
)


class _Mentioned(NamedTuple):
    """What a code object, and those inside it, mention."""

    names: frozenset[str]
    # A global and the attributes that are read of it at once: ("jax", "numpy", "sum").
    paths: frozenset[tuple[str, ...]]
    imports: frozenset[str]


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


# ---- Functions ----------------------------------------------------------------------------------------------------


def _is_at_home(function) -> bool:
    """Whether a function is a part of a constant package, rather than made by a call of it."""
    return constant_namespace(function.__module__).get(function.__name__) is function


def read_known(walk, value, module, name):
    """Read what matters only by which one it is, and by what code can do that has it."""
    walk.identify(value)
    _check_state(walk, module, name)
    walk.computes_names |= id(value) in _COMPUTING
    if id(value) in _MAKING:
        walk.names |= CONSTRUCTION


# Modules of jax whose functions keep what they have computed in a dictionary.
_MEMOIZING = {"jax._src.interpreters.partial_eval"}


def read_function(walk, function):
    if _is_at_home(function):
        read_known(walk, function, function.__module__, function.__name__)
        return
    _check_state(walk, function.__module__, function.__name__)
    # What a function says of its module may be copied from another one; its globals are its own.
    known = function.__globals__
    module = known.get("__name__")
    code, closure = function.__code__, function.__closure__
    if closure and module in _MEMOIZING:
        closure = tuple(cell for cell in closure if type(cell.cell_contents) is not dict)
    walk.todo += (code, function.__defaults__, function.__kwdefaults__, closure, function.__dict__)
    if constant_namespace(module) is not known:
        _read_mentioned(walk, function, *_mentioned(code))


def _read_mentioned(walk, function, names, paths, imports):
    walk.names |= names
    if not _STATEFUL_NAMES.isdisjoint(names):
        walk.doubt = f"{function.__qualname__} mentions {min(_STATEFUL_NAMES & names)}"
    walk.computes_names |= not _COMPUTING_NAMES.isdisjoint(names)
    if not _MAKING_NAMES.isdisjoint(names):
        walk.names |= CONSTRUCTION
    walk.todo += [_follow(path, function) for path in paths]
    for name in imports:
        name = importlib.util.resolve_name(name, function.__globals__.get("__package__"))
        walk.todo += (sys.modules.get(name), sys.modules.get(name.partition(".")[0]))


def _follow(path, function):
    """The object at a path that starts from a global: the first one that is no module."""
    value = function.__globals__.get(path[0], function.__builtins__.get(path[0], Missing))
    for attribute in path[1:]:
        if type(value) is not types.ModuleType:
            break
        held = vars(value)
        value = held.get(attribute, held.get("__getattr__", Missing))
    return value


def read_builtin(walk, function):
    owner, module = function.__self__, function.__module__
    walk.tokens.append(function.__name__)
    if owner is None or isinstance(owner, types.ModuleType):
        read_known(walk, function, module, function.__name__)
        if not is_constant(module):
            walk.doubt = f"{module}.{function.__name__} is reached"
    else:
        walk.todo.append(owner)


def read_wrapper(walk, function):
    """Read a function that jax compiles, or that has a derivative rule."""
    if _is_at_home(function):
        read_known(walk, function, function.__module__, function.__name__)
    else:
        walk.todo.append(vars(function))
