"""API pages: options from the class hierarchy, short signatures, and tables of the public names of a module.

* Every class of options shows all of them, own and inherited, in one list under "Options"; one without a text is an
  error. Named tuples show their fields in the same way, under "Fields".
* ``public-names`` is an autosummary table of what a module exports.
"""

import importlib
import inspect
import typing

from docutils.statemachine import StringList
from sphinx.errors import ExtensionError
from sphinx.ext.autosummary import Autosummary

from jaxsolve._docstrings import field_texts, options_of, split_fields
from jaxsolve._options import Configured


class PublicNames(Autosummary):
    """``.. public-names:: jaxsolve.prox``: a table of the functions and classes in ``__all__``."""

    required_arguments = 1

    def run(self):
        module = importlib.import_module(self.arguments[0])
        names = [f"~{module.__name__}.{name}" for name in module.__all__ if _is_entry(getattr(module, name))]
        self.content = StringList(sorted(names, key=str.lower), source=self.arguments[0])
        return super().run()


def _is_entry(value):
    return inspect.isclass(value) or inspect.isfunction(value)


def _is_configured(obj):
    return inspect.isclass(obj) and issubclass(obj, Configured)


def _is_named_tuple(obj):
    return inspect.isclass(obj) and issubclass(obj, tuple) and hasattr(obj, "_fields")


def _entry(name, kind, default, text):
    head = f"``{name}``" + (f" : {kind.replace('|', 'or')}" if kind else "")
    head += "" if default is None else f" = ``{default}``"
    return [head, *(f"    {line}" for line in text.splitlines()), ""]


def _docstring(app, what, name, obj, options, lines):
    if what != "class" or not (_is_configured(obj) or _is_named_tuple(obj)):
        return
    before, own, after = split_fields(vars(obj).get("__doc__"))
    if _is_configured(obj):
        entries = [tuple(option) for option in options_of(obj)]
        title = "Options"
    else:
        texts = field_texts(obj)
        entries = [(field, "", None, texts.get(field)) for field in obj._fields]
        title = "Fields"
    missing = [entry[0] for entry in entries if not entry[3]]
    if missing:
        raise ExtensionError(f"{title.lower()} of {name} without a text: {', '.join(missing)}")
    fields = [f".. rubric:: {title}", "", ".. container:: options", ""] if entries else []
    for entry in entries:
        fields += [f"    {line}" for line in _entry(*entry)]
    lines[:] = [*before, "", *fields, *after, "", *_inherited_methods(obj), ""]


def _inherited_methods(cls):
    """A line for each public base that has methods which the class does not define itself."""
    seen, lines = set(vars(cls)), []
    for base in cls.__mro__[1:]:
        names = [n for n, v in vars(base).items() if n[0] != "_" and inspect.isroutine(v) and n not in seen]
        seen |= set(names)
        if names and base not in (object, tuple, Configured):
            home = _public_class(base)
            of = f" of :class:`~{home}`" if home else ""
            lines += [f"Methods{of}: {', '.join(f'``{n}``' for n in sorted(names))}.", ""]
    return lines


def _public_class(cls):
    for name in ("jaxsolve", "jaxsolve.base", "jaxsolve.solvers", "jaxsolve.solvers.root"):
        if getattr(importlib.import_module(name), cls.__name__, None) is cls:
            return f"{name}.{cls.__name__}"
    return None


def _signature(app, what, name, obj, options, signature, returned):
    if what != "class" or not _is_configured(obj):
        return None
    parameters = inspect.signature(obj).parameters.values()
    shown = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    return f"({', '.join([*shown, '**options'])})", None


def _bases(app, name, obj, options, bases):
    """The nearest public bases: a private one tells a reader nothing."""
    if _is_named_tuple(obj):
        bases[:] = [tuple]
        return
    found = []
    for base in bases:
        base = typing.get_origin(base) or base
        mro = getattr(base, "__mro__", ())
        public = [c for c in mro if c.__module__.split(".")[0] != "jaxsolve" or _public_class(c)]
        found += public[:1]
    bases[:] = list(dict.fromkeys(found)) or [object]


def _skip(app, what, name, obj, skip, options):
    # The fields of named tuples, whose generated texts say "Alias for field number".
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app):
    app.add_directive("public-names", PublicNames)
    app.connect("autodoc-process-docstring", _docstring, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-process-bases", _bases)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True}
