"""Texts of options and fields, read from Google docstrings.

A class describes its own fields in a section "Attributes" or "Args". What a subclass inherits is described once, in the
base class; :func:`field_texts` collects the texts along the class hierarchy.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import NamedTuple, TypeVar

__all__ = ["Option", "field_texts", "options_of", "split_fields", "with_fields_of", "with_options"]

_HEADING = re.compile(r"\w[\w ]*:")
_ENTRY = re.compile(r" {4}(\w[\w, ]*):\s*(.*)")
_SECTIONS = ("Attributes:", "Args:")
_Tuple = TypeVar("_Tuple", bound=type)


def split_fields(doc: str | None) -> tuple[list[str], dict[str, str], list[str]]:
    """The lines before the section on fields, the texts in it by name, and the lines after it.

    Args:
        doc: a docstring in Google style, as it stands in the source.
    """
    before, after, texts = [], [], {}
    lines, names = before, []
    for line in inspect.cleandoc(doc or "").splitlines():
        entry = _ENTRY.fullmatch(line)
        if lines is None and line and not line.startswith(" "):
            lines = after
        if lines is not None and line in _SECTIONS and not texts:
            lines = None
        elif lines is not None:
            lines.append(line)
        elif entry:
            names = [name.strip() for name in entry[1].split(",")]
            texts.update(dict.fromkeys(names, entry[2]))
        else:
            texts.update({name: f"{texts[name]}\n{line[8:]}" for name in names})
    return before, {name: text.strip() for name, text in texts.items()}, after


class Option(NamedTuple):
    """What a reader is told of an option.

    Attributes:
        name: its name.
        type: its type, as a reader writes it.
        default: its default value as source text; ``None`` if it is required.
        text: what it does; ``None`` where no class says so.
    """

    name: str
    type: str
    default: str | None
    text: str | None


def field_texts(cls: type) -> dict[str, str]:
    """The texts of the fields of a class by name, own and inherited; the class that is nearest has the last word."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        found.update(split_fields(base.__dict__.get("__doc__"))[1])
    return found


def options_of(cls: type) -> list[Option]:
    """The options of a dataclass: what is given by position, then its own options, then those of its bases."""
    texts = field_texts(cls)
    declared = [inspect.get_annotations(base) for base in cls.__mro__]

    def depth(field):
        return next(i for i, names in enumerate(declared) if field.name in names)

    fields = [field for field in dataclasses.fields(cls) if field.init]
    fields.sort(key=lambda field: (field.kw_only, depth(field) if field.kw_only else 0))
    return [Option(f.name, _type(f), _default(f), texts.get(f.name)) for f in fields]


def with_options(cls: type, doc: str) -> str:
    """A docstring of a dataclass with all of its options, own and inherited, in place of the own ones."""
    before, _, after = split_fields(doc)
    lines = ["Options:"]
    for option in options_of(cls):
        default = "" if option.default is None else f" = {option.default}"
        lines.append(f"    {option.name}: {option.type}{default}")
        lines += [f"        {line}".rstrip() for line in (option.text or "").splitlines()]
    while before and not before[-1]:
        before.pop()
    return "\n".join([*before, "", *lines, *([""] if after else []), *after])


def with_fields_of(base: type) -> Callable[[_Tuple], _Tuple]:
    """A decorator that takes texts of fields from another named tuple, as named tuples do not inherit.

    Args:
        base: a class with a section "Attributes". A named tuple, or one that has nothing but these texts.
    """

    def decorate(cls: _Tuple) -> _Tuple:
        before, texts, after = split_fields(cls.__doc__)
        texts = split_fields(base.__doc__)[1] | texts
        lines = [f"    {name}: {texts[name]}".replace("\n", "\n        ") for name in cls._fields if name in texts]  # type: ignore[attr-defined]  # a tuple
        cls.__doc__ = "\n".join([*before, "Attributes:", *lines, *([""] if after else []), *after])
        return cls

    return decorate


def _type(field) -> str:
    return field.type if isinstance(field.type, str) else inspect.formatannotation(field.type)


def _default(field) -> str | None:
    if field.default is dataclasses.MISSING:
        return None
    return getattr(field.default, "__name__", repr(field.default))
