"""A prototype: what a function would read if it were called now, as a sequence that can be compared with an earlier one.

``snapshot(functions)`` gives ``(tokens, doubt)``. Equal tokens and no doubt: the function reads the same as before. Unequal, or in doubt:
trace again. A superset of what is read is collected, so a change of something unread costs a trace, never a wrong answer.
Code of the packages in ``CONSTANT`` is taken not to change, and to keep no state of its own (Haiku's frames are state: Haiku is walked); objects of their
classes are walked as others are. Not covered: what a function that the user jitted himself has read, which is JAX's own contract.

Tried on 53 kinds of change: all seen. Too cautious, or too slow, still: an Equinox MLP and Haiku functions end in doubt (names such as ``locals`` are matched
where they are attributes: tell globals from attributes with ``dis``), a bound linen module walks its scope and all parents (0.3 s). A doubt costs a trace in every
run, so make it rare.
"""
import builtins
import collections
import contextvars
import dis
import enum
import functools
import gc
import sys
import types
import weakref

import jax
import numpy as np

PLAIN = (str, bytes, bool, int, float, complex, type(None), type(Ellipsis), type(NotImplemented), np.generic, np.dtype, range, slice, enum.Enum)
LITERAL = {str, bytes, int, bool, type(None)}                           # equal means the same, within one of these types
CONSTANT = {"jax", "jaxlib", "numpy", "scipy", "optax", "chex", "jaxsolve", "flax", "equinox", "jaxtyping", "absl",      # code that does not change
            *sys.stdlib_module_names, *sys.builtin_module_names}
REACH_ALL = {"getattr", "vars", "dir", "__dict__", "attrgetter", "methodcaller", "__getattribute__"}     # names: every attribute of a module may be meant
REACH_ANY = {"globals", "eval", "exec", "locals", "__import__", "import_module", "modules", "_getframe", "open", "input", "environ", "get_objects", "get_referrers"}
MOST = 100_000


class Same:
    """Equal to a token of the same living object: an id alone may be that of a later object."""

    __slots__ = ("get", "strong")

    def __init__(self, value):
        try: self.get, self.strong = weakref.ref(value), None
        except TypeError: self.get, self.strong = (lambda: value), value

    def __eq__(self, other): return isinstance(other, Same) and self.get() is other.get() is not None


def root(thing):
    return (getattr(thing, "__module__", None) or getattr(thing, "__name__", None) or "").partition(".")[0]


@functools.lru_cache(maxsize=8192)
def mentioned(code):
    """Names that a code object and those inside it mention, and the modules that it imports."""
    names, imports = set(code.co_names), {i.argval for i in dis.get_instructions(code) if i.opname == "IMPORT_NAME"}
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            inner, inner_imports = mentioned(const)
            names |= inner; imports |= inner_imports
    return frozenset(names), frozenset(imports)


def snapshot(functions):
    tokens, seen, doubt, names, modules, own_rules = [], {}, [], set(), [], []
    arrays = {}
    todo = list(functions)[::-1]
    keep = []                                                       # temporaries whose ids must not be reused during the walk

    def out(*parts): tokens.append(parts)

    while True:
        if not todo:                                                # modules last: by all names that were mentioned anywhere
            fresh = False
            whole = bool(names & REACH_ALL)
            for module, done in modules:
                for name in sorted(vars(module) if whole else names & vars(module).keys()):
                    if name not in done:
                        done.add(name); out("module", module.__name__, name); todo.append(vars(module)[name]); fresh = True
            if not fresh: break
            continue
        value = todo.pop()
        if isinstance(value, PLAIN):
            out(type(value), repr(value) if isinstance(value, (float, complex, np.inexact)) else value); continue     # nan, -0.0
        known = seen.get(id(value))
        if known is not None:
            out("seen", known); continue
        seen[id(value)] = len(seen); keep.append(value)
        if len(seen) > MOST:
            doubt.append("too many objects"); break
        if isinstance(value, jax.Array):                            # immutable, tracers too
            out("array", Same(value)); arrays[id(value)] = value
        elif isinstance(value, np.ndarray):
            base = value
            while isinstance(base, np.ndarray) and not base.flags.writeable: base = base.base
            out("ndarray", Same(value)) if base is None else out("ndarray", value.shape, value.dtype.str, value.tobytes() if value.dtype != object else None)
            if value.dtype == object: todo.extend(value.ravel().tolist()[::-1])
        elif isinstance(value, types.ModuleType):
            out("module", Same(value))
            if root(value) not in CONSTANT: modules.append((value, set()))
        elif isinstance(value, types.FunctionType):
            out("function", value.__code__)
            if root(value) in CONSTANT and not value.__closure__ and not value.__dict__: continue
            mine, imports = mentioned(value.__code__)
            names |= mine
            if mine & REACH_ANY: doubt.append(f"{value.__qualname__} mentions {sorted(mine & REACH_ANY)[0]}")
            for name in sorted(imports): todo.append(sys.modules.get(name))
            if root(value) not in CONSTANT:
                for name in sorted(mine):
                    if name in value.__globals__: out("global", name); todo.append(value.__globals__[name])
                    elif hasattr(builtins, name): todo.append(getattr(builtins, name))
            for part in (value.__defaults__, value.__kwdefaults__, value.__dict__ or None): todo.append(part)
            for cell in value.__closure__ or ():
                try: todo.append(cell.cell_contents)
                except ValueError: out("empty cell")
        elif isinstance(value, types.BuiltinFunctionType):
            out("builtin", value.__name__); todo.append(value.__self__)
        elif isinstance(value, type):
            out("class", Same(value))
            if root(value) not in CONSTANT:
                todo.extend(value.__bases__)
                for name, part in list(vars(value).items()):
                    if name not in ("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__"): out(name); todo.append(part)
        elif isinstance(value, contextvars.ContextVar):
            out("context"); todo.append(value.get(None))
        elif isinstance(value, (types.GeneratorType, collections.abc.Iterator, memoryview)):
            doubt.append(f"a {type(value).__name__}")
        elif isinstance(value, (bytearray,)) or type(value).__module__ == "array":
            out(bytes(value))
        elif isinstance(value, weakref.ref):
            out("weak"); todo.append(value())
        else:                                                       # any object: its class, its contents, its attributes
            kind = type(value)
            out("object"); todo.append(kind)
            held = getattr(value, "__dict__", None)
            if isinstance(value, (jax.custom_jvp, jax.custom_vjp)) and root(value) not in CONSTANT: own_rules.append(value)
            if isinstance(held, dict):
                out(len(held))
                for name, part in list(held.items()): out(name); todo.append(part)
            if isinstance(value, dict) or isinstance(value, types.MappingProxyType):
                out(len(value))
                for key, part in list(value.items()): todo.append(part); todo.append(key)
            elif isinstance(value, (list, tuple, collections.deque)):
                kinds = set(map(type, value))
                if kinds <= LITERAL: out(tuple(value), tuple(map(type, value)) if len(kinds) > 1 else kinds)          # a long list of strings
                else: out(len(value)); todo.extend(value)
            elif isinstance(value, (set, frozenset)):
                out(len(value)); todo.extend(sorted(value, key=lambda v: (str(type(v)), repr(v) if isinstance(v, PLAIN) else id(v))))
            else:
                parts = [p for p in gc.get_referents(value) if p is not kind and p is not held]
                out(len(parts)); todo.extend(parts)
                if not parts and not isinstance(held, dict) and not gc.is_tracked(value) and root(kind) not in CONSTANT: doubt.append(f"an opaque {kind.__name__}")
    if own_rules: out("rules", len(own_rules))          # custom derivative rules of the user: see design.md, section 3
    return Snapshot(tokens, doubt or None, arrays)


class Snapshot:
    def __init__(self, tokens, doubt, arrays): self.tokens, self.doubt, self.arrays = tokens, doubt, arrays
    def same_as(self, other): return not self.doubt and not other.doubt and self.tokens == other.tokens
