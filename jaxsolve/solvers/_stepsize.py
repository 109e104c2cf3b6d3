"""What minimizers with a step size share: the function, and the forms that a step size may have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from jaxsolve._compat import is_concrete
from jaxsolve._types import Array, PyTree
from jaxsolve.base import IterativeSolver, check_number, option

__all__ = ["StepsizeMethod"]


class StepsizeMethod(IterativeSolver):
    """Base of the solvers that take steps of a given, scheduled or searched size to minimize a smooth function.

    Attributes:
        fun: smooth function ``fun(params, *args, **kwargs)`` with a real scalar value.
        value_and_grad: whether ``fun`` returns ``(value, grad)``.
        has_aux: whether ``fun`` returns ``(value, aux)`` in place of ``value``.
    """

    fun: Callable
    value_and_grad: bool = option(False)
    has_aux: bool = option(False)

    # Every solver declares this option itself, for its place among the arguments differs; here it is no field.
    stepsize = 0.0
    #: What the hyperparameters of a step are called, which come before the data of ``fun``; ``None`` without any.
    _hyperparams: ClassVar[str | None] = None

    def _validate(self) -> None:
        super()._validate()
        if callable(self.stepsize):
            return
        check_number("stepsize", self.stepsize)
        # An array that is known to be zero or negative means a search, like the number does.
        if is_concrete(self.stepsize) and np.ndim(self.stepsize) == 0 and float(self.stepsize) <= 0:
            self.stepsize = 0.0

    @property
    def _searches(self) -> bool:
        """Whether the step size is to be searched for."""
        return isinstance(self.stepsize, (int, float)) and self.stepsize <= 0

    def _stepsize_at(self, iter_num: Array, dtype: Any) -> Array:
        """The fixed or scheduled step size of an iteration, a scalar."""
        given: Any = self.stepsize(iter_num) if callable(self.stepsize) else self.stepsize
        if jnp.shape(given) != ():
            raise ValueError(
                f"stepsize must be a scalar, or a function that returns one, got shape {jnp.shape(given)}."
            )
        return jnp.asarray(given).astype(dtype)

    def _split(self, args: tuple, kwargs: dict) -> tuple[Any, tuple, dict]:
        """The hyperparameters of a step, if it has any, and the data of ``fun``."""
        if self._hyperparams is None:
            return None, args, kwargs
        if args:
            if self._hyperparams in kwargs:
                raise TypeError(f"{self._hyperparams}, which comes before the data of fun, is given twice.")
            return args[0], args[1:], kwargs
        kwargs = dict(kwargs)
        return kwargs.pop(self._hyperparams, None), args, kwargs

    def _state_of_solution(self, params: PyTree, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """``value`` and ``aux`` as functions of the solution."""
        _, args, kwargs = self._split(args, kwargs)
        value, aux = self._objective.value(params, *args, **kwargs)
        return {"value": value, "aux": aux}
