"""A bounded while loop that can be unrolled, and so differentiated in reverse mode."""

from __future__ import annotations

from collections.abc import Callable

import jax

from jaxsolve._loop import loop
from jaxsolve._types import PyTree

__all__ = ["while_loop"]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)


def while_loop(
    cond_fun: Callable[[PyTree], jax.Array],
    body_fun: Callable[[PyTree], PyTree],
    init_val: PyTree,
    maxiter: int | jax.Array,
    unroll: bool = False,
    jit: bool = False,
) -> PyTree:
    """Apply ``body_fun`` while ``cond_fun`` holds, at most ``maxiter`` times.

    Args:
        cond_fun: maps the value to a boolean scalar.
        body_fun: maps the value to a value of the same structure, shapes and dtypes.
        init_val: initial value, a pytree of arrays.
        maxiter: bound on the number of steps. It must not be traced if ``unroll`` and ``jit`` are set.
        unroll: with ``jit``, whether the loop can be differentiated in reverse mode, at the price of memory for
            ``maxiter`` values.
        jit: compile the loop. Otherwise it is a loop of Python: the functions may contain any Python code, are called
            at every step, and reverse mode works.

    Returns:
        The last value.

    Raises:
        ValueError: ``maxiter`` is traced, and ``unroll`` and ``jit`` are set.

    Example:
        >>> import jax
        >>> from jaxsolve.loop import while_loop
        >>> eighth_power = lambda x: while_loop(lambda y: y < 1e9, lambda y: y * y, x, maxiter=3, unroll=True, jit=True)
        >>> float(jax.grad(eighth_power)(2.0))
        1024.0
    """
    compiled = "scan" if unroll else "while"
    return loop(cond_fun, body_fun, init_val, maxiter=maxiter, kind=compiled if jit else "python")
