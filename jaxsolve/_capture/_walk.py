"""The walk over all that functions can reach, and the snapshot that it leaves."""

from __future__ import annotations

import abc
import array
import itertools
import operator
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

from jaxsolve._capture._classes import raw, read_kind
from jaxsolve._capture._code import PROTOCOL
from jaxsolve._capture._objects import FIXED, LAYOUTS, LITERAL, PLAIN, Layout, layout_of, member

__all__ = ["Same", "Snapshot", "are_same", "reached", "snapshot"]

# A walk over so many objects takes about as long as a trace.
_MOST = 100_000


class Same:
    """Equal to a token of the same living object. An ``id`` would not do: a later object can have it too."""

    __slots__ = ("get",)

    def __init__(self, value):
        try:
            self.get = weakref.ref(value)
        except TypeError:  # built-in objects, and objects with slots
            self.get = lambda: value

    def __eq__(self, other):
        return type(other) is Same and self.get() is other.get() is not None

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # tokens are only compared


class Snapshot(NamedTuple):
    """What functions would read if they were called now.

    Attributes:
        tokens: comparable with ``==``. They keep no array, class or other object of the user alive that can be
            referred to weakly.
        doubt: why the walk cannot see everything that is read, or None.
        arrays: every ``jax.Array`` that was met, tracers included, by its ``id``. Where there is doubt, the walk has
            ended there.
        registrations: the token of :mod:`abc`, which changes when any class is registered with an abstract one; None
            where no class of the user was met.
    """

    tokens: list
    doubt: str | None
    arrays: dict[int, jax.Array]
    registrations: Any = None

    def same_as(self, other: Snapshot) -> bool:
        """Whether the functions certainly read the same as those of ``other``."""
        same = self.tokens == other.tokens and self.registrations == other.registrations
        return same and self.doubt is None and other.doubt is None

    def despite(self, call: Callable) -> tuple[Any, Snapshot]:
        """The result of a call that runs none of the functions, and this snapshot, whatever the call registered.

        To compile a program may import modules that register classes: jax imports ``scipy.linalg`` for the first
        Cholesky factorization.
        """
        before = abc.get_cache_token()
        out = call()
        current = self.registrations == before
        return out, self._replace(registrations=abc.get_cache_token()) if current else self


def snapshot(values: Iterable[Any]) -> Snapshot:
    """Write down all that ``values`` would read if they were called now.

    Args:
        values: functions, methods, callable objects, solvers, or any other object.
    """
    walk = _Walk(values)
    return Snapshot(walk.tokens, walk.doubt, walk.arrays, walk.registrations)


def reached(values: Iterable[Any]) -> list:
    """The objects that can change among all that ``values`` would read, in the order of the walk."""
    return [value for value in _Walk(values).kept if not isinstance(value, FIXED)]


def are_same(objects: list, others: list) -> bool:
    """Whether two lists hold the very same objects."""
    return len(objects) == len(others) and all(map(operator.is_, objects, others))


class _Namespace(NamedTuple):
    """Attributes of a class, a module or an object that are visited once their names occur."""

    held: Any
    unread: dict[str, None]
    # Whether all of it is visited if names can be computed.
    may_be_whole: bool


class _Walk:
    def __init__(self, values: Iterable[Any]):
        self.tokens: list = []
        self.doubt: str | None = None
        self.registrations: Any = None
        self.arrays: dict[int, Any] = {}
        self.todo = list(values)
        # The number of each object that was met, by id. An id stays valid because `kept` keeps the object alive.
        self.met: dict[int, int] = {}
        self.kept: list = []
        self.layouts: dict[int, Layout] = dict(LAYOUTS)
        self.kinds: dict[int, int] = {}
        # Names in the code visited so far, and whether that code can compute others.
        self.names = set(PROTOCOL)
        self.computes_names = False
        self.namespaces: list[_Namespace] = []
        while self.doubt is None and (self.todo or self.visit_namespaces()):
            self.visit(self.todo.pop())

    def visit(self, value):
        kind = type(value)
        plain = PLAIN.get(id(kind))
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
        layout = self.layouts.get(id(kind))
        if layout is None:
            layout = self.layouts[id(kind)] = layout_of(kind, value)
        self.tokens.append(layout.known)
        if layout.known is None:
            read_kind(self, kind)
        for read in layout.readers:
            read(self, value)
        self.todo += [member(part, value) for part in layout.parts]
        if layout.attributes is not None:
            held = layout.attributes.__get__(value)
            self.read_by_name(held, held)
        if layout.hidden:
            self.doubt = f"the contents of a {raw.qualname(kind)} cannot be seen"

    def identify(self, value):
        """Write down which object it is."""
        self.tokens.append(Same(value))

    def read_by_name(self, held, names: Iterable[str], may_be_whole: bool = True):
        """Visit the attributes called ``names`` once these occur."""
        self.namespaces.append(_Namespace(held, dict.fromkeys(names), may_be_whole))

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
        alike = (kind is float or id(kind) in LITERAL) and all(
            map(operator.is_, map(type, items), itertools.repeat(kind))
        )
        if alike:
            self.tokens += (kind, array.array("d", items).tobytes() if kind is float else items)
        else:
            self.todo.extend(items)
