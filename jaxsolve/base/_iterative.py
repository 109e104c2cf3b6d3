"""``IterativeSolver``: the loop around ``update``, the checks and reports that follow each, and the statuses."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._loop import LoopKind, loop, run_if_any
from jaxsolve._options import check_callable, option
from jaxsolve._primitives import forward_only
from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve._vectors import layout_of, packed_like, unpacked
from jaxsolve.base._complex import join_parts, join_state
from jaxsolve.base._objective import Objective
from jaxsolve.base._params import as_like
from jaxsolve.base._report import Lines, ProgressBar, call_back, call_back_first, import_tqdm
from jaxsolve.base._solver import Solver
from jaxsolve.implicit_diff import TangentSystem, stop_gradient
from jaxsolve.tree_util import tree_cast_like, tree_where

__all__ = ["IterativeSolver", "loses_finite"]


class IterativeSolver(Solver):
    """A solver that repeats ``update`` until its optimality error is at most ``tol``.

    A subclass defines ``init_state(init_params, *args, **kwargs) -> state``,
    ``update(params, state, *args, **kwargs) -> OptStep`` and ``optimality_fun``. The state is a named tuple of arrays
    with at least ``iter_num`` and ``error``, and ``status`` if the result should say how the run ended; ``update``
    keeps its structure and shapes.

    Attributes:
        maxiter: largest number of iterations; may be traced, unless the iterations are unrolled.
        tol: the run has converged when ``state.error`` is at most ``tol``; may be traced.
        unroll: whether the loop can be differentiated in reverse mode. ``"auto"`` unrolls the iterations if
            ``implicit_diff`` is ``False``, ``True`` always, and ``False`` never (forward mode still works).
            ``"checkpoint"`` unrolls with memory that grows like the square root of ``maxiter``.
        verbose: print one line per iteration and one at the end, also under ``jit``; ``"bar"`` shows a progress bar
            instead, for which the package tqdm must be installed (the extra ``progress``).
        callback: called as ``callback(params, state)`` on the host after every iteration, also under ``jit``. If it
            has a true attribute ``from_start``, it is also called before the first iteration. See :class:`History`.
    """

    maxiter: int = option(500, at_least=0)
    tol: float = option(1e-3, at_least=0)
    unroll: bool | str = option("auto", among=("auto", True, False, "checkpoint"))
    verbose: bool | int | str = option(False)
    callback: Callable | None = option(None)

    #: Whether ``update`` reports an error that is cheaper than, and not quite, that of ``optimality_fun``. A run then
    #: evaluates the true one before it claims to have converged, unless ``_certifies`` says otherwise.
    _error_is_estimate: ClassVar[bool] = False
    #: Whether ``update`` itself never accepts a non-finite point.
    _handles_nonfinite: ClassVar[bool] = False
    #: Whether ``init_state`` and ``update`` treat the leaves of the parameters alike, however these are divided into
    #: leaves. Every solver says so for itself.
    _treats_leaves_alike: ClassVar[bool] = False
    #: Whether the state has so many scalars that the loop should carry them as vectors.
    _has_many_scalars: ClassVar[bool] = False
    #: Fields of the state of an earlier run with which a run from its result begins.
    _resumed_fields: ClassVar[tuple[str, ...]] = ("iter_num",)

    def _validate(self) -> None:
        super()._validate()
        if self.verbose == "bar":
            import_tqdm()
        elif not isinstance(self.verbose, int):
            raise TypeError(f"verbose must be a bool, an int or 'bar', got {self.verbose!r}.")
        if self.callback is not None:
            check_callable("callback", self.callback, "a function callback(params, state)")

    @abc.abstractmethod
    def init_state(self, init_params: PyTree, *args: Any, **kwargs: Any) -> Any:
        """The state before the first iteration; the arguments are those of ``run``."""

    @abc.abstractmethod
    def update(self, params: PyTree, state: Any, *args: Any, **kwargs: Any) -> OptStep:
        """One iteration; returns ``OptStep(params, state)``."""

    @property
    def _loop_kind(self) -> LoopKind:
        """The loop that runs the iterations, here and in line searches; see :mod:`jaxsolve._loop`."""
        if not self.jit:
            return "python"
        if self.unroll == "checkpoint":
            return "checkpoint"
        unrolled = not self.implicit_diff if self.unroll == "auto" else self.unroll
        return "scan" if unrolled else "while"

    @property
    def _is_relative(self) -> bool:
        """Whether there is a relative tolerance; without one, nothing is computed or stored for it.

        A solver with a relative tolerance declares it as the option ``rtol``, and passes the size to which it is
        relative, in the unit of the error, to ``_status_of``. If this is the first error, it is stored in the field
        ``first_error`` of the state.
        """
        rtol = getattr(self, "rtol", 0)
        return not (isinstance(rtol, (int, float)) and rtol == 0)

    def _tolerance(self, dtype: Any, size: Array | None = None) -> Array:
        """The largest allowed error: ``tol + rtol * size``, a scalar; ``tol`` if there is no size."""
        tol = jnp.asarray(self.tol).astype(dtype)
        if size is None or not self._is_relative:
            return tol
        # An infinite size, of an error that is not known yet, would call every error small.
        rtol: Any = getattr(self, "rtol", 0)
        return tol + jnp.asarray(rtol).astype(dtype) * jnp.where(jnp.isfinite(size), size, 0).astype(dtype)

    def _where(self, condition: Array, new: Any, old: Any) -> Any:
        """Select one of two results of a step; with ``jit=False`` they may have parts that are not arrays."""
        if self.jit:
            return tree_where(condition, new, old)
        return new if condition else old

    def _unknown_first_error(self, dtype: Any) -> Array | None:
        """The field ``first_error`` of a state before the first iteration."""
        return jnp.asarray(jnp.inf, dtype) if self._is_relative else None

    def _first_error(self, state: Any, error: Array) -> Array | None:
        """The field ``first_error`` after an iteration with ``error``: it is set once and then kept."""
        old = state.first_error
        return None if old is None else jnp.where(jnp.isfinite(old), old, lax.stop_gradient(error).astype(old.dtype))

    def _status_of(
        self,
        error: Array,
        *,
        size: Array | None = None,
        failed: Array | bool = False,
        failure: Status = Status.STALLED,
    ) -> Array:
        """The status for an optimality error; an int32 scalar.

        Args:
            error: optimality error of the current iterate.
            size: the size to which ``rtol`` is relative, in the unit of ``error``.
            failed: whether the algorithm cannot continue; convergence takes precedence.
            failure: the status in this case.
        """
        status = failure.where(failed, int(Status.RUNNING))
        status = Status.CONVERGED.where(error <= self._tolerance(error.dtype, size), status)
        return Status.NONFINITE.where(~jnp.isfinite(error), status)

    def _status_in(self, state: Any) -> Array:
        """The status of a state; for a state without this field, the status for its error."""
        if hasattr(state, "status"):
            return state.status
        error = jnp.asarray(state.error)
        # Before the first iteration an error may be infinite.
        status = self._status_of(error, size=getattr(state, "first_error", None))
        return jnp.where(error == jnp.inf, int(Status.RUNNING), status)

    # ---- The iterations -------------------------------------------------------------------------------------------

    def _solve(self, init_params: PyTree, *args: Any, **kwargs: Any) -> tuple[OptStep, TangentSystem | None]:
        start = init_params if isinstance(init_params, OptStep) else OptStep(init_params, None)
        layout = layout_of(start.params, reversible=self._loop_kind != "while") if self._packs else None
        if layout is None:
            return self._iterate(init_params, args, kwargs), None
        solver = self._with_functions(self._on_packed)
        start = start._replace(params=layout.pack(start.params))
        step = solver._iterate(start.params if start.state is None else start, args, kwargs)
        return OptStep(*unpacked(tuple(step))), None

    @property
    def _packs(self) -> bool:
        """Whether the iterations run on packed parameters."""
        # Not inherited: what a subclass overrides may look at single leaves.
        alike = vars(type(self)).get("_treats_leaves_alike", False)
        return alike and self._loop_kind != "python" and not self._spread

    def _on_packed(self, name: str, function: Callable) -> Callable:
        """A function of the user as a function of packed parameters."""
        if isinstance(function, Objective):
            return function.on_packed()

        def of_packed(params, *args, **kwargs):
            like = unpacked(params)
            return params.layout.pack(as_like(name, function(like, *unpacked(args), **kwargs), like))

        of_packed.__wrapped__ = function  # for `inspect.signature`
        return of_packed

    def _iterate(self, init_params: PyTree, args: tuple, kwargs: dict) -> OptStep:
        # A claim ends the loop, is checked there, and if it was wrong the loop goes on; unless steps are told of.
        at_end = self._certifies and self._loop_kind == "while" and not self._reports
        params, state = loop(
            lambda step: Status.RUNNING.holds(self._status_in(step.state)),
            lambda step: self._next_step(step, args, kwargs, certify=not at_end),
            self._first_step(init_params, args, kwargs),
            maxiter=self.maxiter,
            kind=self._loop_kind,
            packed=self._has_many_scalars,
            settle=(lambda step: self._certify(step, args, kwargs, at_end=True)) if at_end else None,
        )
        if hasattr(state, "status"):
            state = state._replace(status=Status.MAXITER.where(Status.RUNNING.holds(state.status), state.status))
        # Fields that `update` reports of another point than the one it returns are brought in line at the end.
        if self._error_is_estimate:
            state = state._replace(**self._state_of_solution(params, *args, **kwargs))
        if not self.implicit_diff and self._loop_kind == "while":
            params, state = self._without_reverse_mode((params, state))
        return OptStep(params, state)

    def _without_reverse_mode(self, tree: PyTree) -> PyTree:
        why = (
            f"{type(self).__name__} with implicit_diff=False and unroll=False has no reverse mode: its loop ends when "
            "it has converged, and jax cannot run such a loop backwards. Use implicit_diff=True, or unroll='auto', or "
            "forward mode (jax.jvp, jax.jacfwd)."
        )
        return jax.tree.map(lambda x: forward_only(x, why) if jnp.issubdtype(x.dtype, jnp.inexact) else x, tree)

    def _solve_and_tell(self, init_params: PyTree, *args: Any, **kwargs: Any) -> tuple[OptStep, TangentSystem | None]:
        step, system = super()._solve_and_tell(init_params, *args, **kwargs)
        self._tell(step.state, over=True)
        return step, system

    @property
    def _finds_system(self) -> bool:
        return type(self)._solve is not IterativeSolver._solve

    def _first_step(self, init_params: PyTree, args: tuple, kwargs: dict) -> OptStep:
        """The initial point and state, strongly typed: or else the body of a loop over them would be traced twice."""
        state = self.init_state(init_params, *args, **kwargs)
        state = jax.tree.map(lambda x: lax.convert_element_type(x, jnp.result_type(x)), state)
        params = init_params.params if isinstance(init_params, OptStep) else init_params
        step = OptStep(self._first_point(params, *args, **kwargs), state)
        if self._reports_start:
            step = step._replace(state=self._report_start(self._judged(step, args, kwargs), state))
        return step

    def _first_point(self, init_params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The parameters with which the iterations start."""
        del args, kwargs
        return init_params

    def _resumed(self, state: Any, old: Any) -> Any:
        """A new state that continues from an old one, if that has the same type."""
        if _kind_of(old) is not _kind_of(state):
            return state
        for name in self._resumed_fields:
            new, resumed = getattr(state, name), getattr(old, name)
            shapes = jax.tree.map(jnp.shape, unpacked(new))
            if shapes != jax.tree.map(jnp.shape, resumed):
                raise ValueError(
                    f"an OptStep as init_params must fit the solver, but its {name} has shapes "
                    f"{jax.tree.map(jnp.shape, resumed)} in place of {shapes}: it belongs to a {type(self).__name__} "
                    "with other options, or to other parameters. Pass only its params."
                )
            state = state._replace(**{name: tree_cast_like(packed_like(resumed, new), new)})
        return state

    def _next_step(self, step: OptStep, args: tuple, kwargs: dict, *, certify: bool = True) -> OptStep:
        """``update``, and then the checks and reports that follow it in every solver."""
        new = self.update(step.params, step.state, *args, **kwargs)
        new = _keep_types(type(self).__name__, new, step) if self.jit else OptStep(*new)
        if certify and self._certifies:
            new = self._certify(new, args, kwargs)
        new = self._last_finite(step, new)
        active = Status.RUNNING.holds(self._status_in(step.state))
        # A record is of the point that it is recorded with.
        exact = self._reports_start and self._error_is_estimate
        self._report(step, self._judged(new, args, kwargs) if exact else new, active)
        return new

    def _report(self, old: OptStep, new: OptStep, active: Any) -> None:
        """Report a step. A loop over a batch also runs for elements that have finished; these are not active."""
        if self._reports:
            params, state = tree_where(active, new, old)
            self._tell(state, active)
            if self.callback is not None:
                call_back(self.callback, *self._shown(params, state), active)

    def _tell(self, state: Any, active: Any = True, *, over: bool = False) -> None:
        """Print a line about an iteration, or about the end of a run, if ``verbose`` asks for it."""
        if self.verbose:
            reporter = (ProgressBar if self.verbose == "bar" else Lines)(type(self).__name__)
            size = getattr(state, "first_error", None)
            tol = self.tol if size is None else self._tolerance(jnp.result_type(state.error), size)
            call_back(reporter, (tol, self.maxiter, over), state, active)

    @property
    def _reports(self) -> bool:
        """Whether somebody wants to hear of every step."""
        return bool(self.verbose) or self.callback is not None

    @property
    def _reports_start(self) -> bool:
        """Whether the callback is also called with the initial point."""
        return getattr(self.callback, "from_start", False)

    def _judged(self, step: OptStep, args: tuple, kwargs: dict) -> OptStep:
        """A step with the exact value and error of its point, if the state has only estimates or nothing yet."""
        params, args, kwargs = stop_gradient((step.params, args, kwargs))
        state = step.state
        error = self.l2_optimality_error(params, *args, **kwargs).astype(jnp.result_type(state.error))
        wanted = self._error_is_estimate | ~jnp.isfinite(state.error)
        judged = {**self._state_of_solution(params, *args, **kwargs), "error": jnp.where(wanted, error, state.error)}
        judged = tree_cast_like(judged, {name: getattr(state, name) for name in judged})
        return OptStep(params, state._replace(**judged))

    def _report_start(self, step: OptStep, state: Any) -> Any:
        """Report the initial point. Returns the state, which then depends on the report, so iterations come later."""
        if self.callback is None:
            return state
        told = call_back_first(self.callback, *self._shown(*step))
        return state._replace(iter_num=state.iter_num + told.astype(state.iter_num.dtype))

    def _shown(self, params: PyTree, state: Any) -> tuple[PyTree, Any]:
        """Parameters and state in the form of the user."""
        params, state = unpacked((params, state))
        return (join_parts(params), join_state(state)) if self._is_split else (params, state)

    @property
    def _certifies(self) -> bool:
        """Whether a claim to have converged is checked; not where a point whose error is small enough is not left."""
        return self._error_is_estimate

    def _certify(self, step: OptStep, args: tuple, kwargs: dict, *, at_end: bool = False) -> OptStep:
        """Replace the error of a step that claims convergence by the true error, and compute the status again.

        Args:
            step: the step; one that claims nothing is returned as it is.
            args: data.
            kwargs: data.
            at_end: whether this is done once, after the last step.
        """
        params, state, args, kwargs = stop_gradient((step.params, step.state, args, kwargs))
        error, claimed = lax.stop_gradient(step.state.error), Status.CONVERGED.holds(step.state.status)

        def true_error(error):
            return self._error_at(params, state, args, kwargs).astype(error.dtype)

        if at_end:
            error = true_error(error)
        elif self.jit:
            error = run_if_any(claimed, true_error, error)
        else:
            error = true_error(error) if claimed else error
        status = self._status_of(error, size=getattr(step.state, "first_error", None))
        status = jnp.where(claimed, status, step.state.status)
        # Where nothing is claimed the error keeps its derivative, and where none was found its value.
        error = jnp.where(claimed & jnp.isfinite(error), error, step.state.error)
        return step._replace(state=step.state._replace(error=error, status=status))

    def _error_at(self, params: PyTree, state: Any, args: tuple, kwargs: dict) -> Array:
        """The error by which a claim to have converged is checked, in the unit of that of ``update``."""
        del state
        return self.l2_optimality_error(params, *args, **kwargs)

    def _last_finite(self, old: OptStep, new: OptStep) -> OptStep:
        """Keep the last finite iterate, with its state, if a step leads to values that are not finite."""
        if self._handles_nonfinite or not hasattr(new.state, "status"):
            return new
        finite = ~loses_finite(old.params, new.params) & ~Status.NONFINITE.holds(new.state.status)
        value = getattr(new.state, "value", None)
        if value is not None:
            # An infinite objective may be left again, but it is no minimum.
            finite = finite & (jnp.isfinite(value) | ~Status.CONVERGED.holds(new.state.status))
        kept = tree_where(finite, new, old)
        status = Status.NONFINITE.where(~finite, kept.state.status)
        return OptStep(kept.params, kept.state._replace(status=status, iter_num=new.state.iter_num))


def _kind_of(state: Any) -> type:
    """The class that defines the fields of a named tuple: what the states of related solvers have in common."""
    return next((cls for cls in type(state).__mro__ if "_fields" in vars(cls)), type(state))


def loses_finite(old: PyTree, new: PyTree) -> Array:
    """Whether an entry that was finite is infinite or NaN now."""
    lost = jax.tree.map(lambda x, y: jnp.any(jnp.isfinite(x) & ~jnp.isfinite(y)), old, new)
    return functools.reduce(jnp.logical_or, jax.tree.leaves(lost), jnp.asarray(False))


def _keep_types(name: str, new: OptStep, old: OptStep) -> OptStep:
    """What ``update`` returned, in the dtypes of what it was given; a loop must find its carry unchanged in type."""
    given, got = jax.tree.structure(tuple(old)), jax.tree.structure(tuple(new))
    if given != got:
        raise TypeError(f"{name}.update must keep the structure of (params, state): given {given}, it returned {got}.")
    paths = jax.tree_util.tree_leaves_with_path(tuple(old))
    for (path, before), after in zip(paths, jax.tree.leaves(tuple(new)), strict=True):
        if jnp.shape(before) != jnp.shape(after):
            raise ValueError(
                f"{name}.update must keep shapes: given {jnp.shape(before)}, it returned {jnp.shape(after)} for "
                f"{('params', 'state')[path[0].idx]}{jax.tree_util.keystr(path[1:])}."
            )
    return OptStep(*tree_cast_like(tuple(new), tuple(old)))
