"""Every option of every public class has a text, which ``help`` shows, own or inherited."""

import importlib
import inspect
import pkgutil

import jax.numpy as jnp
import pytest

import jaxsolve
from jaxsolve._docstrings import field_texts, options_of, split_fields
from jaxsolve._options import Configured, option


def _public_classes(base=object):
    names = [info.name for info in pkgutil.walk_packages(jaxsolve.__path__, "jaxsolve.")]
    modules = [jaxsolve, *(importlib.import_module(n) for n in names if not any(p[0] == "_" for p in n.split(".")))]
    found = {getattr(m, name) for m in modules for name in getattr(m, "__all__", [])}
    return sorted((c for c in found if inspect.isclass(c) and issubclass(c, base)), key=lambda c: c.__name__)


@pytest.mark.parametrize("cls", _public_classes(Configured), ids=lambda cls: cls.__name__)
def test_every_option_has_a_text_and_is_shown_by_help(cls):
    options = options_of(cls)
    assert [o.name for o in options if not o.text] == []
    assert {o.name for o in options} == set(inspect.signature(cls).parameters)
    lines = cls.__doc__.splitlines()
    for o in options:
        head = f"    {o.name}: {o.type}" + ("" if o.default is None else f" = {o.default}")
        assert lines[lines.index(head) + 1] == f"        {o.text.splitlines()[0]}"


@pytest.mark.parametrize("cls", [c for c in _public_classes(tuple) if hasattr(c, "_fields")], ids=lambda c: c.__name__)
def test_every_field_of_a_public_named_tuple_has_a_text(cls):
    assert [name for name in cls._fields if name not in field_texts(cls)] == []


class Small(Configured):
    """A first line.

    Attributes:
        fun: a function
            of two lines.
        depth, width: sizes.

    Example:
        >>> 1
        1
    """

    fun: jnp.ndarray
    depth: int = option(3, at_least=0)
    width: "int | None" = option(None)


class Smaller(Small):
    """Another.

    Attributes:
        width: own text.
    """

    width: "int | None" = option(4)
    key: str = option("a")


def test_own_texts_come_first_and_sections_stay():
    assert [(o.name, o.default, o.text) for o in options_of(Smaller)] == [
        ("fun", None, "a function\nof two lines."),
        ("width", "4", "own text."),
        ("key", "'a'", None),
        ("depth", "3", "sizes."),
    ]
    assert split_fields(Small.__dict__["__doc__"])[2][:1] == ["Example:"]
    assert Small.__doc__.splitlines()[:2] == ["A first line.", ""]
    assert Small.__doc__.splitlines()[-3:] == ["Example:", "    >>> 1", "    1"]
    assert Small(jnp.sin).__doc__ == vars(Small)["__doc__"]


def test_a_docstring_can_be_set():
    class Other(Small):
        pass

    Other.__doc__ = "New."
    assert Other.__doc__.startswith("New.\n\nOptions:\n    fun: ")
