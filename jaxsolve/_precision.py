"""Products at full precision, on accelerators too.

GPUs and TPUs multiply float32 matrices with the precision of half a number (TF32, bfloat16), unless they are told
otherwise: three digits. A residual that is computed so says nothing about the digits after them, and a linear solve
loses them all where the condition is 1000. So every product of this package is computed at full precision. On CPUs it
always is.

It is enough to say so while a function is traced: derivatives, batches and transposes of a product keep its precision.
What the user has set by ``jax.default_matmul_precision`` is for the functions of the user. Where nothing is set they
are computed at full precision too, for a solver makes no more digits than its function has.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax

__all__ = ["at_full_precision", "full_precision", "precision_of", "precision_of_user"]

_HIGHEST = "highest"

# Inside of the package, what holds for functions of the user; None outside.
_of_user: ContextVar[str | None] = ContextVar("_of_user", default=None)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Products that are traced inside are computed at full precision."""
    setting = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]  # defined when jax is imported
    token = _of_user.set(_of_user.get() or setting or _HIGHEST)
    try:
        with jax.default_matmul_precision(_HIGHEST):
            yield
    finally:
        _of_user.reset(token)


@contextlib.contextmanager
def precision_of_user() -> Iterator[None]:
    """Inside of :func:`full_precision`: products have the precision that the user has set, full without any."""
    setting = _of_user.get()
    if setting is None:
        yield
        return
    token = _of_user.set(None)
    try:
        with jax.default_matmul_precision(setting):
            yield
    finally:
        _of_user.reset(token)


def precision_of(solver: Any) -> contextlib.AbstractContextManager[None]:
    """Full precision, but for stochastic solvers: where gradients are noise, speed is worth more than digits."""
    if not getattr(solver, "_is_precise", True):
        return contextlib.nullcontext()
    return full_precision()


def at_full_precision(fun: Callable) -> Callable:
    """Decorate a function whose products are all its own."""

    @functools.wraps(fun)
    def wrapped(*args, **kwargs):
        with full_precision():
            return fun(*args, **kwargs)

    return wrapped
