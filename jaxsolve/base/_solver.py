"""``Solver`` and ``IterativeSolver``: ``run`` is written here, once, for every solver.

A solver file holds ``init_state``, ``update`` and ``optimality_fun``. This module adds the rest: one compiled function,
the loop, the statuses, and the derivative.
"""

from __future__ import annotations

import abc
import copy
import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._closure import Staged, hoist
from jaxsolve._compat import outside_transformations, without_our_frames
from jaxsolve._compile import compiled_call, traced_call
from jaxsolve._loop import LoopKind, loop, run_if_any
from jaxsolve._options import Configured, check_callable, check_choice, check_flags, check_number, option
from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep, PyTree, Structure
from jaxsolve.base._objective import Objective
from jaxsolve.base._params import merge_params, split_params, with_held, with_held_of
from jaxsolve.base._report import call_back, line_printer
from jaxsolve.implicit_diff import TangentSystem, attach_derivative, run_without_derivative, stop_gradient
from jaxsolve.linear_solve import check_method
from jaxsolve.tree_util import tree_cast_like, tree_l2_norm, tree_where

__all__ = ["IterativeSolver", "Solver", "call_directly", "loses_finite", "prepared"]


class Solver(Configured):
    """A mapping from problem data to a solution that behaves like any other jax function.

    A subclass defines ``optimality_fun(params, *args, **kwargs)``, zero at a solution, and ``_solve``; iterative ones
    derive from :class:`IterativeSolver` instead. What else a subclass may define starts with an underscore and is
    described where it is declared.

    Attributes:
        implicit_diff: differentiate the solution implicitly, through the optimality conditions (the default), or else
            by unrolling the iterations.
        implicit_diff_solve: linear solver ``solve(matvec, b) -> x`` of the implicit derivative, where ``b`` and ``x``
            are pytrees like the parameters: one of :mod:`jaxsolve.linear_solve`, a ``functools.partial`` of one, a
            function of your own, or a lineax solver. ``None`` chooses by structure and size.
        jit: compile ``run``. ``False`` runs a Python loop over concrete values, which host functions need.
    """

    implicit_diff: bool = option(True)
    implicit_diff_solve: Callable | None = option(None)
    jit: bool = option(True)

    #: What is known of the Jacobian of the optimality function: ``"psd"``, ``"symmetric"`` or ``"general"``.
    _structure: ClassVar[Structure] = "general"
    #: Whether a run needs a point to start from.
    _needs_init_params: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for name in ("init_state", "update"):
            if name in cls.__dict__:
                setattr(cls, name, _compiled_when_eager(cls.__dict__[name]))

    def _validate(self) -> None:
        super()._validate()
        check_flags(self, "implicit_diff", "jit")
        check_method("implicit_diff_solve", self.implicit_diff_solve)
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            if field.type == "Callable":
                check_callable(field.name, getattr(self, field.name), "a function of the parameters")

    # ---- What a solver defines ------------------------------------------------------------------------------------

    @abc.abstractmethod
    def optimality_fun(self, params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The optimality conditions: a pytree like ``params``, zero at a solution."""

    @abc.abstractmethod
    def _solve(self, init_params: PyTree, *args: Any, **kwargs: Any) -> tuple[OptStep, TangentSystem | None]:
        """Compute the solution, without regard to derivatives.

        Returns:
            The solution with its state, and the tangent system there if the solver knows more of it than the residual.
        """

    def _residual(self, params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """``optimality_fun`` without auxiliary output: the mapping that is differentiated."""
        return self.optimality_fun(params, *args, **kwargs)

    def _state_of_solution(self, params: PyTree, *args: Any, **kwargs: Any) -> dict[str, PyTree]:
        """Fields of the state that are functions of the solution and the data, and differentiated as such."""
        del params, args, kwargs
        return {}

    def _check_arguments(self, init_params: PyTree, *args: Any, **kwargs: Any) -> None:
        """Raise for arguments of ``run`` that cannot be right; called before anything is compiled.

        Shapes and dtypes may as well be checked where they are used; this is the place to look at concrete values.
        """

    def _check_result(self, state: Any) -> None:
        """Raise for a concrete final state, if the user asked for it."""

    # ---- What every solver has ------------------------------------------------------------------------------------

    @without_our_frames
    def run(self, init_params: PyTree = None, *args: Any, **kwargs: Any) -> OptStep:
        """Solve the problem.

        Args:
            init_params: initial point, a pytree with floating-point or complex leaves; other leaves (counters, random
                keys, functions) are held as they are. An ``OptStep`` of an earlier run goes on from its state.
            *args: data of the problem, passed on to the functions of the solver. Arrays and numbers are traced; flags,
                strings and callables are static.
            **kwargs: likewise.

        Returns:
            ``OptStep(params, state)``. ``params`` is differentiable with respect to ``args``, ``kwargs``, array-valued
            fields and everything that the functions capture. With ``implicit_diff=True`` its derivative with respect to
            ``init_params`` is zero, for a solution does not know where the search for it began.

        Raises:
            TypeError: a function has the wrong signature.
            ValueError: there is nothing to start from, or a shape is wrong. Both are raised before anything is
                compiled.
        """
        if self._needs_init_params:
            _check_init_params(init_params, kwargs)
        self._check_arguments(init_params, *args, **kwargs)
        _warn_if_kept_by_module(self)
        step = self._run(init_params, args, kwargs)
        self._check_result(step.state)
        return self._with_held_of(init_params, step)

    def _run(self, init_params: PyTree, args: tuple, kwargs: dict) -> OptStep:
        if not self.jit:
            return _run(self, init_params, *args, **kwargs)
        call = traced_call(_run, self, init_params, *args, **kwargs)
        # In an eager jax.grad the solution comes from the program of a plain run, and its derivative from another one,
        # unless `_solve` finds a tangent system, too.
        apart = self.implicit_diff and type(self)._solve is IterativeSolver._solve
        solution = call.at_values() if apart else None
        return call() if solution is None else compiled_call(_differentiated, self, solution(), *args, **kwargs)

    def _with_held_of(self, given: PyTree, step: OptStep) -> OptStep:
        """A result with the held leaves that were given; a point that is not needed has none."""
        return OptStep(with_held_of(given, step.params), step.state) if self._needs_init_params else step

    def l2_optimality_error(self, params: PyTree, *args: Any, **kwargs: Any) -> Array:
        """Euclidean norm of the optimality residual at ``params``; a scalar."""
        return tree_l2_norm(self._residual(params, *args, **kwargs))

    # ---- The functions of the user --------------------------------------------------------------------------------

    def _functions(self) -> list[str]:
        """Names of the fields that hold functions of the parameters: those that are positional and callable."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # subclasses are dataclasses
        return [f.name for f in fields if not f.kw_only and callable(getattr(self, f.name))]

    def _with_functions(self, change: Callable[[str, Callable], Callable]) -> Self:
        """A copy in which every function of the user is replaced by ``change(name, function)``."""
        changed = copy.copy(self)
        for name in self._functions():
            setattr(changed, name, change(name, getattr(self, name)))
        return changed

    def _staged(self) -> Self:
        """A copy whose functions are traced once, however often the algorithm mentions them."""
        return self._with_functions(self._stage) if self.jit else self

    def _stage(self, name: str, function: Callable) -> Callable:
        return self._objective_of(function, staged=True) if name == "fun" else Staged(function, name)

    @property
    def _objective(self) -> Objective:
        """Value and gradient of ``fun`` in one form."""
        fun = self.fun  # type: ignore[attr-defined]  # asked for by solvers that have one
        return fun if isinstance(fun, Objective) else self._objective_of(fun, staged=False)

    def _objective_of(self, fun: Callable, *, staged: bool) -> Objective:
        flags = {name: getattr(self, name, False) for name in ("value_and_grad", "has_aux")}
        return Objective(fun, staged=staged, **flags)


def _warn_if_kept_by_module(solver: Solver) -> None:
    """Warn of a solver that is an attribute of a module of Flax NNX or Equinox and has a method of that module.

    Transformations copy the module. The solver of the copy still has the method of the original, which knows nothing of
    the arrays of the copy.
    """
    functions = [] if outside_transformations() else [getattr(solver, name) for name in solver._functions()]
    owners = [f.__self__ for f in functions if hasattr(f, "__self__")]
    modules = [o for o in owners if any(c.__module__.startswith(("flax.nnx", "equinox")) for c in type(o).__mro__)]
    if any(kept is solver for module in modules for kept in vars(module).values()):
        warnings.warn(
            f"this {type(solver).__name__} is an attribute of a module and solves with a method of it. Transformations "
            "(nnx.grad, nnx.jit, eqx.filter_grad) copy the module, but not what the solver calls: gradients are zero, "
            "updates go unseen. Make the solver in the method that runs it; that costs nothing, it is compiled once.",
            stacklevel=4,
        )


def call_directly(function: Callable, *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def _check_init_params(init_params: PyTree, kwargs: dict) -> None:
    params = init_params.params if isinstance(init_params, OptStep) else init_params
    if params is None and kwargs:
        raise TypeError(
            f"run needs init_params, its first argument. The keyword arguments that it was given, {', '.join(kwargs)}, "
            "are data: they are passed on to the functions of the solver."
        )
    if not jax.tree.leaves(params):
        raise ValueError(f"init_params, the first argument of run, must have at least one array, got {params!r}.")
    if not jax.tree.leaves(split_params(params, strong=False)[0]):
        raise TypeError(
            "init_params, the first argument of run, must be floating point, or have a leaf that is: got "
            f"{params!r}. Convert whole numbers with x.astype(float)."
        )


def _compiled_when_eager(method: Callable) -> Callable:
    """``init_state`` or ``update`` of a class, as it is called: parameters may have leaves that are held."""

    def body(solver: Solver, params: PyTree = None, *args: Any, **kwargs: Any) -> Any:
        params, old = params if isinstance(params, OptStep) else (params, None)
        params, held = split_params(params) if solver._needs_init_params else (params, None)
        if held is not None:
            solver = solver._with_functions(lambda name, function: with_held(function, held))
        try:
            out = method(solver, params, *args, **kwargs)
        except AttributeError as error:
            if not args or error.obj is not args[0]:
                raise
            raise TypeError(
                f"{type(solver).__name__}.{method.__name__} takes the state that its init_state returns, got "
                f"{type(args[0]).__name__}, which has no {error.name!r}."
            ) from None
        if isinstance(out, OptStep):
            return OptStep(merge_params(out.params, held), out.state)
        return solver._resumed(out, old) if old is not None else out  # type: ignore[attr-defined]  # an iterative one

    body.__name__ = method.__name__

    first, *others = list(inspect.signature(method).parameters)[1:]

    @functools.wraps(method)
    @without_our_frames
    def call(self, *args, **kwargs):
        if not args:
            args = (kwargs.pop(first, None),)
        if len(args) == 1 and method.__name__ == "update" and others and others[0] in kwargs:
            args = (*args, kwargs.pop(others[0]))
        compiled = self.jit and outside_transformations()
        out = (compiled_call if compiled else call_directly)(body, self, *args, **kwargs)
        return self._with_held_of(args[0], out) if isinstance(out, OptStep) else out

    return call


def prepared(solver: Any, params: PyTree) -> tuple[Any, PyTree, PyTree]:
    """The solver with its functions staged, the parameters that move, and those that are held."""
    params, held = split_params(params) if solver._needs_init_params else (params, None)
    if held is not None:
        solver = solver._with_functions(lambda name, function: with_held(function, held))
    return solver._staged(), params, held


def _run(solver: Solver, init_params: PyTree, *args: Any, **kwargs: Any) -> OptStep:
    """The body of ``run``: inside the compiled function, or called as it is with ``jit=False``."""
    init_params, old = init_params if isinstance(init_params, OptStep) else (init_params, None)
    solver, init_params, held = prepared(solver, init_params)
    start = init_params if old is None else OptStep(init_params, old)
    # Without jit and outside of every transformation nobody differentiates, and a host function could not be traced.
    if not solver.implicit_diff or (not solver.jit and outside_transformations()):
        params, state = solver._solve(start, *args, **kwargs)[0]
    else:
        params, state = _differentiable_solution(solver, start, args, kwargs)
    return OptStep(merge_params(params, held), state)


def _differentiated(solver: Solver, step: OptStep, *args: Any, **kwargs: Any) -> OptStep:
    """A solution with its implicit derivative, after a run without one."""
    solver, params, held = prepared(solver, step.params)
    params, state = _with_derivative(solver, OptStep(params, step.state), None, args, kwargs)
    return OptStep(merge_params(params, held), state)


def _differentiable_solution(solver: Solver, start: PyTree, args: tuple, kwargs: dict) -> OptStep:
    """The solution with its implicit derivative."""
    if solver.jit:
        solved = hoist(solver._solve, start, *args, **kwargs)
        start, constant_args, constant_kwargs = stop_gradient((start, args, kwargs))
        step, system = solved.pure(start, *constant_args, consts=stop_gradient(solved.consts), **constant_kwargs)
    else:
        step, system = run_without_derivative(solver._solve, start, *args, **kwargs)
    return _with_derivative(solver, step, system, args, kwargs)


def _with_derivative(solver: Solver, step: OptStep, system: TangentSystem | None, args: tuple, kwargs: dict) -> OptStep:
    """A solution with the derivative of its tangent system; without one, of the optimality conditions."""
    params, state = step
    if system is None:
        system = TangentSystem(solver._residual, solver.implicit_diff_solve, solver._structure)
    sol, derived = attach_derivative(
        system,
        system.unknowns(params),
        args,
        kwargs,
        derived_fun=solver._state_of_solution,
        derived=lambda name: getattr(state, name),
    )
    params = system.complete(sol, *args, **kwargs)
    if system.valid is not True:
        params, derived = tree_where(system.valid, (params, derived), stop_gradient((params, derived)))
    return OptStep(params, state._replace(**derived))


class IterativeSolver(Solver):
    """A solver that repeats ``update`` until its optimality error is at most ``tol``.

    A subclass defines ``init_state(init_params, *args, **kwargs) -> state``,
    ``update(params, state, *args, **kwargs) -> OptStep`` and ``optimality_fun``. The state is a named tuple of arrays
    with at least ``iter_num`` and ``error``, and ``status`` if the result is to have one; ``update`` keeps its
    structure and shapes.

    Attributes:
        maxiter: largest number of iterations; may be traced, unless the iterations are unrolled.
        tol: the run has converged when ``state.error`` is at most ``tol``; may be traced.
        unroll: how iterations are run when they are to be differentiated. ``"auto"`` unrolls them if ``implicit_diff``
            is ``False``; ``True`` always does; ``"checkpoint"`` does with memory that grows like the square root of
            ``maxiter``; ``False`` never does (then only forward mode differentiates them).
        verbose: print a line an iteration, under ``jit`` too.
        callback: called as ``callback(params, state)`` on the host after every iteration, under ``jit`` too;
            see :class:`History`.
    """

    maxiter: int = option(500)
    tol: float = option(1e-3)
    unroll: bool | str = option("auto")
    verbose: bool | int = option(False)
    callback: Callable | None = option(None)

    #: Whether ``update`` reports an error that is cheaper than, and not quite, that of ``optimality_fun``. A run then
    #: evaluates the true one before it claims to have converged.
    _error_is_estimate: ClassVar[bool] = False
    #: Whether ``update`` itself never accepts a non-finite point.
    _handles_nonfinite: ClassVar[bool] = False
    #: Fields of the state of an earlier run with which a run from its result begins.
    _resumed_fields: ClassVar[tuple[str, ...]] = ("iter_num",)

    def _validate(self) -> None:
        super()._validate()
        check_number("maxiter", self.maxiter, at_least=0)
        check_number("tol", self.tol, at_least=0)
        check_choice("unroll", self.unroll, ("auto", True, False, "checkpoint"))
        if not isinstance(self.verbose, (bool, int)):
            raise TypeError(f"verbose must be a bool or an int, got {self.verbose!r}.")
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

    def _status_of(self, error: Array, *, failed: Array | bool = False, failure: Status = Status.STALLED) -> Array:
        """The status that an optimality error stands for; an int32 scalar.

        Args:
            error: optimality error of the current iterate.
            failed: whether the algorithm cannot go on; convergence takes precedence.
            failure: the status if it cannot.
        """
        status = failure.where(failed, int(Status.RUNNING))
        status = Status.CONVERGED.where(error <= jnp.asarray(self.tol).astype(error.dtype), status)
        return Status.NONFINITE.where(~jnp.isfinite(error), status)

    def _status_in(self, state: Any) -> Array:
        """The status of a state; of one without that field, what its error says."""
        if hasattr(state, "status"):
            return state.status
        error = jnp.asarray(state.error)
        # Before the first iteration an error may be infinite.
        return jnp.where(error == jnp.inf, int(Status.RUNNING), self._status_of(error))

    # ---- The iterations -------------------------------------------------------------------------------------------

    def _solve(self, init_params: PyTree, *args: Any, **kwargs: Any) -> tuple[OptStep, TangentSystem | None]:
        params, state = loop(
            lambda step: Status.RUNNING.holds(self._status_in(step.state)),
            lambda step: self._next_step(step, args, kwargs),
            self._first_step(init_params, args, kwargs),
            maxiter=self.maxiter,
            kind=self._loop_kind,
        )
        if hasattr(state, "status"):
            state = state._replace(status=Status.MAXITER.where(Status.RUNNING.holds(state.status), state.status))
        # Fields that `update` reports of another point than the one it returns are brought in line at the end.
        if self._error_is_estimate:
            state = state._replace(**self._state_of_solution(params, *args, **kwargs))
        return OptStep(params, state), None

    def _first_step(self, init_params: PyTree, args: tuple, kwargs: dict) -> OptStep:
        """The initial point and state, strongly typed: or else the body of a loop over them would be traced twice."""
        state = self.init_state(init_params, *args, **kwargs)
        state = jax.tree.map(lambda x: lax.convert_element_type(x, jnp.result_type(x)), state)
        params = init_params.params if isinstance(init_params, OptStep) else init_params
        return OptStep(self._first_point(params, *args, **kwargs), state)

    def _first_point(self, init_params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The parameters with which the iterations start."""
        del args, kwargs
        return init_params

    def _resumed(self, state: Any, old: Any) -> Any:
        """A new state that goes on from an old one, if that is of the same kind."""
        if type(old) is not type(state):
            return state
        for name in self._resumed_fields:
            new, resumed = getattr(state, name), getattr(old, name)
            if jax.tree.map(jnp.shape, new) != jax.tree.map(jnp.shape, resumed):
                raise ValueError(
                    f"an OptStep as init_params must fit the solver, but its {name} has shapes "
                    f"{jax.tree.map(jnp.shape, resumed)} in place of {jax.tree.map(jnp.shape, new)}: another option of "
                    f"{type(self).__name__}, or other parameters. Pass its params alone."
                )
            state = state._replace(**{name: tree_cast_like(resumed, new)})
        return state

    def _next_step(self, step: OptStep, args: tuple, kwargs: dict) -> OptStep:
        """``update``, and what every solver's update is followed by: checks and reports."""
        new = self.update(step.params, step.state, *args, **kwargs)
        new = _keep_types(type(self).__name__, new, step) if self.jit else OptStep(*new)
        if self._error_is_estimate:
            new = self._certify(new, args, kwargs)
        new = self._last_finite(step, new)
        self._report(step, new, Status.RUNNING.holds(self._status_in(step.state)))
        return new

    def _report(self, old: OptStep, new: OptStep, active: Any) -> None:
        """Tell of a step. A loop over a batch goes on for elements that have finished; these are not active."""
        printer = line_printer(type(self).__name__) if self.verbose else None
        for callback in (printer, self.callback):
            if callback is not None:
                params, state = tree_where(active, new, old)
                call_back(callback, params, state, active)

    def _certify(self, step: OptStep, args: tuple, kwargs: dict) -> OptStep:
        """Replace the error of a step that claims convergence by the true one, and judge again."""
        params, args, kwargs = stop_gradient((step.params, args, kwargs))
        error, claimed = lax.stop_gradient(step.state.error), Status.CONVERGED.holds(step.state.status)

        def true_error(error):
            return self.l2_optimality_error(params, *args, **kwargs).astype(error.dtype)

        if self.jit:
            error = run_if_any(claimed, true_error, error)
        else:
            error = true_error(error) if claimed else error
        status = jnp.where(claimed, self._status_of(error), step.state.status)
        # Where nothing is claimed the error keeps its derivative.
        error = jnp.where(claimed, error, step.state.error)
        return step._replace(state=step.state._replace(error=error, status=status))

    def _last_finite(self, old: OptStep, new: OptStep) -> OptStep:
        """Keep the last finite iterate, with its state, when a step leads out of the finite numbers."""
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
