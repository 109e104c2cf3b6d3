"""Options, line search and endings that quasi-Newton and conjugate gradient methods share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxsolve._types import Array, PyTree
from jaxsolve.base import IterativeSolver, check_choice, check_flags, check_number, option
from jaxsolve.linesearch import LINESEARCHES, make_linesearch
from jaxsolve.linesearch._base import LineSearch
from jaxsolve.solvers._stepsize import as_stepsize, is_searched
from jaxsolve.tree_util import tree_real_dtype

__all__ = ["DescentMethod"]


class DescentMethod(IterativeSolver):
    """Base of the solvers that search along a descent direction.

    Attributes:
        fun: smooth function ``fun(params, *args, **kwargs)`` with a real scalar value.
        value_and_grad: whether ``fun`` returns ``(value, grad)``.
        has_aux: whether ``fun`` returns ``(value, aux)`` in place of ``value``.
        stepsize: a positive number, which may be traced, or a function of the iteration number, from 0, that returns
            positive step sizes, in place of a line search. Zero, the default, and negative numbers mean a line search.
        linesearch: ``"zoom"``, ``"backtracking"``, ``"hager-zhang"``, or a line search from
            :mod:`jaxsolve.linesearch`. The latter is used with its own options, which are constants, in place of
            ``condition``, ``maxls`` and ``decrease_factor``; the function that it searches along is ``fun``, whatever
            it was made with.
        linesearch_init: first trial step of a search: ``"increase"`` multiplies the last step by ``increase_factor``,
            ``"current"`` repeats it, ``"max"`` takes ``max_stepsize``.
        condition: condition of the backtracking search, see ``BacktrackingLineSearch``.
        maxls: largest number of trial steps in a search.
        decrease_factor: factor by which the backtracking search shortens a step.
        increase_factor: see ``linesearch_init``.
        max_stepsize: largest step size.
        min_stepsize: the first trial step is at least this long.
    """

    fun: Callable
    value_and_grad: bool = option(False)
    has_aux: bool = option(False)
    stepsize: float | Callable = option(0.0)
    linesearch: str | LineSearch = option("zoom")
    linesearch_init: str = option("increase")
    condition: str | None = option(None)
    maxls: int = option(30)
    decrease_factor: float | None = option(None)
    increase_factor: float = option(1.5)
    max_stepsize: float | Callable = option(1.0)
    min_stepsize: float | Callable = option(1e-6)

    _structure = "psd"
    _handles_nonfinite = True

    def _validate(self) -> None:
        super()._validate()
        check_flags(self, "value_and_grad", "has_aux")
        self.stepsize = as_stepsize(self.stepsize)
        if not isinstance(self.linesearch, LineSearch):
            check_choice("linesearch", self.linesearch, LINESEARCHES)
        check_choice("linesearch_init", self.linesearch_init, ("increase", "current", "max"))
        check_number("maxls", self.maxls, at_least=1)
        check_number("increase_factor", self.increase_factor, at_least=1)
        check_number("max_stepsize", self.max_stepsize, above=0)
        check_number("min_stepsize", self.min_stepsize, at_least=0)
        # The line search checks the options that are its own.
        self._line_search()

    def optimality_fun(self, params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The gradient of ``fun`` in ``params``, a pytree like them."""
        return self._objective.grad(params, *args, **kwargs)

    def _state_of_solution(self, params: PyTree, *args: Any, **kwargs: Any) -> dict:
        """``value`` and ``aux`` as functions of the solution."""
        value, aux = self._objective.value(params, *args, **kwargs)
        return {"value": value, "aux": aux}

    @property
    def _fixed_stepsize(self) -> bool:
        return not is_searched(self.stepsize)

    def _first_trial(self, params: PyTree, last: Array) -> Array:
        """The first trial step of a search, given the last step taken."""
        dtype = tree_real_dtype(params)
        longest = jnp.asarray(self.max_stepsize).astype(dtype)
        if self.linesearch_init == "max":
            return longest
        factor = self.increase_factor if self.linesearch_init == "increase" else 1.0
        return jnp.clip(last * factor, jnp.asarray(self.min_stepsize).astype(dtype), longest)

    def _line_search(self):
        unroll = {"while": False, "python": False, "scan": True, "checkpoint": "checkpoint"}[self._loop_kind]
        common: dict[str, Any] = {"value_and_grad": True, "has_aux": True, "jit": self.jit, "unroll": unroll}
        if isinstance(self.linesearch, LineSearch):
            search: Any = self.linesearch
            return dataclasses.replace(search, fun=self._objective.value_and_grad, **common)
        return make_linesearch(
            self.linesearch,
            self._objective.value_and_grad,
            maxls=self.maxls,
            condition=self.condition,
            decrease_factor=self.decrease_factor,
            max_stepsize=self.max_stepsize,
            **common,
        )
