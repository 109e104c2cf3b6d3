"""A branch, compiled or in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax import lax

from jaxsolve._types import PyTree, Scalar

__all__ = ["cond"]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)


def cond(
    cond: Scalar, if_fun: Callable[..., PyTree], else_fun: Callable[..., PyTree], *operands: Any, jit: bool = True
) -> PyTree:
    """``if_fun(*operands)`` where ``cond`` holds, else ``else_fun(*operands)``.

    Args:
        cond: boolean scalar; it must not be traced if ``jit`` is not set.
        if_fun: called with the operands.
        else_fun: called with the operands; its result has the structure, shapes and dtypes of that of ``if_fun``.
        *operands: pytrees.
        jit: compile both branches, by ``jax.lax.cond``. Otherwise it is an ``if`` of Python, and the branches may
            contain any Python code.

    Returns:
        The result of the branch.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.cond import cond
        >>> float(cond(True, jnp.sin, jnp.cos, 0.0))
        0.0
    """
    if jit:
        return lax.cond(cond, if_fun, else_fun, *operands)
    return (if_fun if cond else else_fun)(*operands)
