"""Step sizes as solvers take them: a positive number, a schedule, or neither, for a search."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxsolve._compat import is_concrete
from jaxsolve._types import Array
from jaxsolve.base import check_number

__all__ = ["as_stepsize", "is_searched", "stepsize_at"]


def as_stepsize(value: Any) -> Any:
    """Check the option ``stepsize``: a number, or a function of the iteration number.

    Returns:
        The value; 0 for an array that is known to be zero or negative, which means a search like the number does.

    Raises:
        TypeError: it is neither.
    """
    if callable(value):
        return value
    check_number("stepsize", value)
    return 0.0 if is_concrete(value) and np.ndim(value) == 0 and float(value) <= 0 else value


def is_searched(stepsize: Any) -> bool:
    """Whether the step size is to be searched for."""
    return isinstance(stepsize, (int, float)) and stepsize <= 0


def stepsize_at(stepsize: Any, iter_num: Array, dtype: Any) -> Array:
    """The fixed or scheduled step size of an iteration, a scalar.

    Raises:
        ValueError: it is no scalar.
    """
    given: Any = stepsize(iter_num) if callable(stepsize) else stepsize
    if jnp.shape(given) != ():
        raise ValueError(f"stepsize must be a scalar, or a function that returns one, got shape {jnp.shape(given)}.")
    return jnp.asarray(given).astype(dtype)
