"""The message for a name that the package does not have."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["explain"]


def explain(name: str, known: Iterable[str]) -> str:
    """The message for a name that the package does not have.

    Args:
        name: what was asked for.
        known: the names that there are.
    """
    message = f"module 'jaxsolve' has no attribute {name!r}"
    near = difflib.get_close_matches(name, known, n=1)
    return f"{message}; did you mean {near[0]!r}?" if near else message
