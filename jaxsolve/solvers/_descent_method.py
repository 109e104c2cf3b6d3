r"""Methods that search along a descent direction: everything but the direction.

From :math:`x_k` with gradient :math:`g_k` such a method goes to :math:`x_{k+1} = x_k + t_k d_k`. The direction
:math:`d_k` may depend on a memory of earlier steps; the step size :math:`t_k` is fixed, scheduled, or found by a line
search.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp

from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.base import check_choice, option
from jaxsolve.implicit_diff.optimality import stationary
from jaxsolve.linesearch import LINESEARCHES, LineSearchState, make_linesearch
from jaxsolve.linesearch._base import LineSearch
from jaxsolve.solvers._gradient_method import is_still
from jaxsolve.solvers._stepsize import StepsizeMethod, falls_without_end, rounding, times
from jaxsolve.tree_util import tree_add_scalar_mul, tree_all_finite, tree_l2_norm, tree_real_dtype, tree_sub, tree_where

__all__ = ["DescentMethod", "DescentState", "status_of_search"]

# So many steps may be lost in rounding errors, in a row, before a run ends.
_MOST_STALLED = 10


class DescentState(NamedTuple):
    """State of a descent method; one with a memory has a named tuple of its own, with these fields and more.

    Attributes:
        iter_num: number of iterations done, int32.
        value: ``fun`` at the current parameters.
        grad: its gradient there, a pytree like the parameters.
        stepsize: last step size.
        error: Euclidean norm of ``grad``.
        aux: auxiliary output of ``fun``.
        failed_linesearch: whether the last line search failed.
        num_fun_eval: evaluations of ``fun``, int32.
        num_grad_eval: evaluations of its gradient, int32.
        num_linesearch_iter: trial steps of all line searches, int32.
        status: a :class:`jaxsolve.Status`, int32.
        first_error: ``error`` at the initial point.
        num_stalled: number of successive steps that changed the value by rounding errors only and did not lower
            ``error``, int32; a step after a failed search counts twice.
    """

    iter_num: Array
    value: Array
    grad: Any
    stepsize: Array
    error: Array
    aux: Any = None
    failed_linesearch: Any = False
    num_fun_eval: Any = 0
    num_grad_eval: Any = 0
    num_linesearch_iter: Any = 0
    status: Any = 0
    first_error: Any = None
    num_stalled: Any = 0


def status_of_search(first_trial: Array, search: LineSearchState) -> Array:
    """``STALLED`` for a search that failed where its first trial promised a decrease of rounding size, else RUNNING.

    There no step could have been told from none: the precision is exhausted. It is what a run ends with that ends with
    such a search.
    """
    promised = -first_trial * search.init_slope
    lost = search.failed & (promised <= rounding(search.init_value, promised.dtype))
    return Status.STALLED.where(lost, int(Status.RUNNING))


class SmoothMinimizer(StepsizeMethod):
    """Base of the methods that keep an iterate with its value and gradient, and take steps that lower the value.

    A subclass defines ``_step(params, state, args, kwargs)``. With a memory it also names its type of state in
    ``_State``, and defines ``_empty_memory``, ``_remember`` and ``_has_memory``.
    """

    _structure = "psd"
    _handles_nonfinite = True
    _optimality_is_gradient = True
    _has_many_scalars = True
    #: The type of the state.
    _State: ClassVar[Any] = DescentState
    #: The status of a run in which no step is found.
    _failure: ClassVar[Status] = Status.LINESEARCH_FAILED

    stop_if_linesearch_fails = False

    # ---- What the methods differ in -------------------------------------------------------------------------------

    @abc.abstractmethod
    def _step(self, params: PyTree, state: Any, args: tuple, kwargs: dict) -> tuple[PyTree, Any, Any, Any]:
        """The next point, its state, whether it is another point, and whether no good one was found.

        The state has value, gradient, auxiliary output and counts of the new point.
        """

    def _step_fields(self, dtype: Any) -> dict[str, Any]:
        """The fields of the state that tell of the step, before the first one."""
        del dtype
        return {}

    def _empty_memory(
        self, init_params: PyTree, value: Array, grad: PyTree, args: tuple, kwargs: dict
    ) -> dict[str, Any]:
        """The fields of the state that are the memory, before the first step; value and gradient are given."""
        del init_params, value, grad, args, kwargs
        return {}

    def _remember(self, old: OptStep, new: OptStep, moved: Array) -> Any:
        """The state of ``new`` with its memory brought up to date.

        Args:
            old: parameters and state before the step.
            new: those after it; the fields of the memory are still those of ``old``.
            moved: whether the step led anywhere; after a line search that found nothing the memory should be dropped.
        """
        del old, moved
        return new.state

    def _has_memory(self, state: Any) -> Array:
        """Whether the direction depends on earlier steps; if not, a line search that fails need not be tried again."""
        del state
        return jnp.asarray(False)

    # ---- The iteration --------------------------------------------------------------------------------------------

    def init_state(self, init_params: PyTree, *args: Any, **kwargs: Any) -> Any:
        """The state before the first iteration; the arguments are those of ``run``. Evaluates ``fun`` once."""
        (value, aux), grad = self._objective.value_and_grad(init_params, *args, **kwargs)
        dtype = tree_real_dtype(init_params)
        memory = self._empty_memory(init_params, value, grad, args, kwargs)
        error = tree_l2_norm(times(grad, memory.get("scale"))).astype(dtype)
        one = jnp.ones((), jnp.int32)
        return self._State(
            iter_num=jnp.zeros((), jnp.int32),
            value=value,
            grad=grad,
            error=error,
            aux=aux,
            num_fun_eval=one,
            num_grad_eval=one,
            status=self._status_of(jnp.where(jnp.isfinite(value), error, jnp.asarray(jnp.nan, dtype))),
            first_error=error,
            num_stalled=jnp.zeros((), jnp.int32),
            **self._step_fields(dtype),
            **memory,
        )

    def update(self, params: PyTree, state: Any, *args: Any, **kwargs: Any) -> OptStep:
        """One step; returns ``OptStep(params, state)``."""
        new_params, new_state, moved, failed = self._step(params, state, args, kwargs)
        error = tree_l2_norm(times(new_state.grad, getattr(state, "scale", None))).astype(state.error.dtype)
        new_state = self._judged_step(state, new_state, error, moved, failed)
        new_state = self._remember(OptStep(params, state), OptStep(new_params, new_state), moved)
        if self._searches:
            # Where values differ by rounding the least gradient counts. What the step taught is remembered.
            kept = (new_state.num_stalled > state.num_stalled) & (error >= state.error) & moved
            old = (params, state.value, state.grad, state.aux, state.error)
            new = (new_params, new_state.value, new_state.grad, new_state.aux, new_state.error)
            new_params, value, grad, aux, error = self._where(kept, old, new)
            new_state = self._turned_back(new_state._replace(value=value, grad=grad, aux=aux, error=error), kept)
        return OptStep(new_params, new_state)

    def _turned_back(self, state: Any, kept: Array) -> Any:
        """The state where the iterate before a step was ``kept``; what a step taught about the function holds."""
        del kept
        return state

    def _judged_step(self, state, new_state, error, moved, failed=None):
        """The state after a step with its error, status, and count of steps that led nowhere."""
        failed = new_state.failed_linesearch if failed is None else failed
        hopeless, stalled = False, new_state.num_stalled
        if self._searches:
            change = jnp.abs(new_state.value - state.value).astype(error.dtype)
            rounded = change <= rounding(state.value, error.dtype)
            # A search that failed has cost many evaluations.
            lost = jnp.where(failed, 2, jnp.where(error >= state.error, 1, 0))
            stalled = jnp.where(rounded, stalled + lost, stalled)
            stalled = jnp.where(rounded & (error > 0.5 * state.error), stalled, 0)
            # A search that went nowhere is tried again without the memory, unless there was none.
            hopeless = failed & (self.stop_if_linesearch_fails | (~moved & ~self._has_memory(state)))
        status = self._status_of(error, size=state.first_error, failed=hopeless, failure=self._failure)
        if self._searches:
            running = Status.RUNNING.holds(status) & (stalled >= _MOST_STALLED)
            lost = Status.LINESEARCH_FAILED.holds(status) & Status.STALLED.holds(new_state.status)
            status = Status.STALLED.where(running | lost, status)
        status = Status.NONFINITE.where(Status.NONFINITE.holds(new_state.status), status)
        fallen = falls_without_end(new_state.value) | Status.DIVERGED.holds(new_state.status)
        return new_state._replace(
            iter_num=state.iter_num + 1,
            error=error,
            status=Status.DIVERGED.where(fallen, status),
            num_stalled=stalled,
        )

    # ---- Optimality -----------------------------------------------------------------------------------------------

    def optimality_fun(self, params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The gradient of ``fun`` in ``params``, a pytree like them."""
        return stationary(self._objective.value_and_grad, value_and_grad=True)(params, *args, **kwargs)


class DescentMethod(SmoothMinimizer):
    """Base of the solvers that search along a descent direction.

    A subclass defines ``_direction(params, state)``. With a memory it also names its type of state in ``_State``, and
    defines ``_empty_memory``, ``_remember`` and ``_has_memory``.

    If a step changes the value by rounding errors only, the iterate with the smaller gradient is kept. After several
    such steps without a smaller gradient the run ends with ``Status.STALLED``, and so it does if a search fails whose
    first trial promised no more than such a change. If the value falls so far that it is about to overflow, the run
    ends with ``Status.DIVERGED``.

    Attributes:
        fun: smooth function ``fun(params, *args, **kwargs)`` with a real scalar value.
        value_and_grad: whether ``fun`` returns ``(value, grad)``.
        has_aux: whether ``fun`` returns ``(value, aux)`` in place of ``value``.
        stepsize: a positive number, which may be traced, or a function of the iteration number, from 0, that returns
            positive step sizes. Zero, the default, and negative numbers mean a line search.
        linesearch: ``"zoom"``, ``"backtracking"``, ``"hager-zhang"``, or a line search from
            :mod:`jaxsolve.linesearch`. The latter is used with its own options, which are constants, in place of
            ``condition``, ``maxls`` and ``decrease_factor``; the function that it was made with is replaced by ``fun``.
        linesearch_init: first trial step of a search: ``"increase"`` multiplies the last step by ``increase_factor``,
            ``"current"`` repeats it, ``"max"`` takes ``max_stepsize``.
        condition: condition of the backtracking search, see ``BacktrackingLineSearch``.
        maxls: largest number of trial steps in a search.
        decrease_factor: largest factor by which the backtracking search shortens a step.
        increase_factor: see ``linesearch_init``.
        max_stepsize: largest first trial step along a direction with a natural length, such as a Newton step. A search
            may take a longer step where the function still falls steeply.
        min_stepsize: smallest first trial step.
        stop_if_linesearch_fails: end the run at the first failed line search. Otherwise a method with a memory clears
            it and searches once more.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve.solvers import DescentMethod
        >>> class SignDescent(DescentMethod):
        ...     def _direction(self, params, state):
        ...         return jax.tree.map(lambda g: -jnp.sign(g), state.grad)
        >>> params, state = SignDescent(lambda x: jnp.sum(jnp.cosh(x - 1.0))).run(jnp.zeros(2))
        >>> params.round(2).tolist()
        [1.0, 1.0]
    """

    stepsize: float | Callable = option(0.0)
    linesearch: str | LineSearch = option("zoom")
    linesearch_init: str = option("increase", among=("increase", "current", "max"))
    condition: str | None = option(None)
    maxls: int = option(30, at_least=1)
    decrease_factor: float | None = option(None)
    increase_factor: float = option(1.5, at_least=1)
    max_stepsize: float | Callable = option(1.0, above=0)
    min_stepsize: float | Callable = option(1e-6, at_least=0)
    stop_if_linesearch_fails: bool = option(False)

    _resumed_fields = ("iter_num", "stepsize", "first_error")
    #: Options of the searches that are made by name.
    _search_options: ClassVar[dict[str, Any]] = {}

    def _validate(self) -> None:
        super()._validate()
        if not isinstance(self.linesearch, LineSearch):
            check_choice("linesearch", self.linesearch, LINESEARCHES)
        # The line search checks the options that are its own.
        self._line_search()

    # ---- What the methods differ in -------------------------------------------------------------------------------

    @abc.abstractmethod
    def _direction(self, params: PyTree, state: Any) -> PyTree:
        """The direction from ``params``, where ``state`` has value and gradient; a pytree like the parameters."""

    def _first_trial(self, state: Any) -> Array:
        """The first trial step of a search."""
        dtype = state.stepsize.dtype
        if self.linesearch_init == "max":
            return self._longest_trial(dtype)
        factor = self.increase_factor if self.linesearch_init == "increase" else 1.0
        trial = jnp.maximum(state.stepsize * factor, jnp.asarray(self.min_stepsize).astype(dtype))
        return jnp.minimum(trial, self._longest_trial(dtype))

    def _longest_trial(self, dtype: Any) -> Array:
        """The longest first trial step along a direction with a length of its own."""
        return jnp.asarray(self.max_stepsize).astype(dtype)

    def _trial_after_failure(self, state: Any) -> Array:
        """The first trial step after a search that found none."""
        return self._longest_trial(state.stepsize.dtype)

    # ---- The steps ------------------------------------------------------------------------------------------------

    def _step_fields(self, dtype: Any) -> dict[str, Any]:
        return {
            "stepsize": self._longest_trial(dtype),
            "failed_linesearch": jnp.asarray(False),
            "num_linesearch_iter": jnp.zeros((), jnp.int32),
        }

    def _step(self, params, state, args, kwargs):
        step = self._searched_step if self._searches else self._fixed_step
        new_params, new_state, moved = step(params, state, self._direction(params, state), args, kwargs)
        return new_params, new_state, moved, new_state.failed_linesearch

    def _fixed_step(self, params, state, direction, args, kwargs):
        stepsize = self._stepsize_at(state.iter_num, state.stepsize.dtype)
        new_params = tree_add_scalar_mul(params, stepsize, direction)
        (value, aux), grad = self._objective.value_and_grad(new_params, *args, **kwargs)
        finite, value_found = jnp.isfinite(value) & tree_all_finite(grad), value
        new_params, value, grad, aux = tree_where(
            finite, (new_params, value, grad, aux), (params, state.value, state.grad, state.aux)
        )
        new = state._replace(
            value=value,
            grad=grad,
            aux=aux,
            stepsize=stepsize,
            num_fun_eval=state.num_fun_eval + 1,
            num_grad_eval=state.num_grad_eval + 1,
            status=Status.DIVERGED.where(value_found == -jnp.inf, Status.NONFINITE.where(~finite, state.status)),
        )
        return new_params, new, finite

    def _searched_step(self, params, state, direction, args, kwargs):
        first = self._first_trial(state)
        stepsize, search = self._line_search().run(
            first, params, state.value, state.grad, direction, args, kwargs, aux=state.aux
        )
        new = state._replace(
            status=status_of_search(first, search),
            value=search.value,
            grad=search.grad,
            aux=search.aux,
            # The next search starts from the last step that was one.
            stepsize=jnp.where(stepsize > 0, stepsize, self._trial_after_failure(state)),
            failed_linesearch=search.failed,
            num_fun_eval=state.num_fun_eval + search.num_fun_eval,
            num_grad_eval=state.num_grad_eval + search.num_grad_eval,
            num_linesearch_iter=state.num_linesearch_iter + search.iter_num,
        )
        # Where a step is below the rounding errors of the parameters there is none.
        return search.params, new, ~is_still(tree_sub(search.params, params))

    def _line_search(self):
        unroll = {"while": False, "python": False, "scan": True, "checkpoint": "checkpoint"}[self._loop_kind]
        common: dict[str, Any] = {"value_and_grad": True, "has_aux": True, "jit": self.jit, "unroll": unroll}
        common["fun"] = self._objective.value_and_grad
        if isinstance(self.linesearch, LineSearch):
            search: Any = self.linesearch
            return dataclasses.replace(search, **common)
        return make_linesearch(
            self.linesearch,
            maxls=self.maxls,
            condition=self.condition,
            decrease_factor=self.decrease_factor,
            **self._search_options,
            **common,
        )
