"""Fails the build when a public name has no entry in the API pages.

Public are the names in ``__all__`` of every module without a leading underscore in its path. A name counts as
documented if an entry of the API pages resolves to the same object, for a class may be public in more than one place.
"""

import importlib
import inspect
import pkgutil

from sphinx.errors import ExtensionError

import jaxsolve


def _public_modules():
    yield jaxsolve
    for info in pkgutil.walk_packages(jaxsolve.__path__, "jaxsolve."):
        if not any(part.startswith("_") for part in info.name.split(".")):
            yield importlib.import_module(info.name)


def _resolve(fullname):
    """The object with a dotted name, or ``None``."""
    parts = fullname.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
        except ImportError:
            continue
        for attribute in parts[split:]:
            found = getattr(found, attribute, None)
        return found
    return None


def _check(app, env):
    entries = list(env.get_domain("py").objects)
    documented = {id(_resolve(name)) for name in entries}
    missing = []
    for module in _public_modules():
        for name in getattr(module, "__all__", []):
            fullname = f"{module.__name__}.{name}"
            value = getattr(module, name)
            if inspect.ismodule(value) or name.startswith("__") or fullname in entries:
                continue
            # Equal numbers and strings may be one object, so plain values are found by name alone.
            if not callable(value) or id(value) not in documented:
                missing.append(fullname)
    if missing:
        raise ExtensionError(f"public names without an entry in docs/api: {', '.join(missing)}")


def setup(app):
    app.connect("env-check-consistency", _check)
    return {"parallel_read_safe": True}
