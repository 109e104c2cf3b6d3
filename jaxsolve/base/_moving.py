"""The parameters as a solver gets them: only the leaves that move, as real numbers; and the way back to the user's."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxsolve._types import OptStep, PyTree
from jaxsolve.base._complex import (
    conjugate,
    has_complex,
    join_parts,
    join_state,
    of_parts,
    split_parts,
    split_state,
)
from jaxsolve.base._params import merge_params, split_params, with_held

__all__ = ["for_moving", "prepared", "with_complex"]


class Restore(NamedTuple):
    """The way from the parameters and states of a solver back to those of the user.

    Attributes:
        held: the leaves that solvers do not change.
        splits: whether complex leaves are pairs of real ones.
    """

    held: PyTree
    splits: bool

    def __call__(self, step: OptStep) -> OptStep:
        """A step of the user."""
        params = join_parts(step.params) if self.splits else step.params
        return OptStep(merge_params(params, self.held), self.state(step.state))

    def state(self, state: Any) -> Any:
        """A state of the user."""
        return join_state(state) if self.splits else state


def for_moving(solver: Any, params: PyTree) -> tuple[Any, PyTree, Restore]:
    """The solver for real parameters that move, these parameters, and the way back."""
    params, held = split_params(params) if solver._needs_init_params else (params, None)
    if held is not None:
        solver = solver._with_functions(lambda name, function: with_held(function, held))
    splits = solver._splits_complex and has_complex(params)
    if splits:
        solver, params = _of_parts(solver), split_parts(params)
    return solver, params, Restore(held, splits)


def _of_parts(solver: Any) -> Any:
    """The solver as one of parameters whose complex leaves are pairs of real ones."""
    gives_grad = getattr(solver, "value_and_grad", False)
    solver = solver._with_functions(lambda name, function: of_parts(name, function, gives_grad=gives_grad))
    solver._is_split = True
    return solver


def with_complex(optimality_fun: Callable) -> Callable:
    """``optimality_fun`` of a class, of complex parameters too."""
    first = list(inspect.signature(optimality_fun).parameters)[1]

    @functools.wraps(optimality_fun)
    def call(self, *args, **kwargs):
        params = args[0] if args else kwargs.get(first)
        if not (self._splits_complex and has_complex(params)):
            return optimality_fun(self, *args, **kwargs)
        kwargs = {name: value for name, value in kwargs.items() if name != first}
        residual = join_parts(optimality_fun(_of_parts(self), split_parts(params), *args[1:], **kwargs))
        return conjugate(residual) if self._optimality_is_gradient else residual

    return call


def prepared(solver: Any, start: PyTree) -> tuple[Any, PyTree, Restore]:
    """The solver with its functions staged, the point or step to start from as the solver sees it, and the way back."""
    params, state = start if isinstance(start, OptStep) else (start, None)
    solver, params, restore = for_moving(solver, params)
    if state is None:
        return solver._staged(), params, restore
    return solver._staged(), OptStep(params, split_state(state) if restore.splits else state), restore
