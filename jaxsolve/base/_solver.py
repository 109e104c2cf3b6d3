"""``Solver``: ``run`` is written here, once, for every solver.

A solver file holds ``init_state``, ``update`` and ``optimality_fun``. This module adds the compiled function and the
derivative; the loop and the statuses are those of ``IterativeSolver``.
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

from jaxsolve._closure import Staged, hoist
from jaxsolve._compat import outside_transformations, without_our_frames
from jaxsolve._compile import compiled_call, have_values, traced_call
from jaxsolve._options import Configured, check_callable, option
from jaxsolve._precision import precision_of
from jaxsolve._results import is_named, report_failure, show_as_line
from jaxsolve._types import Array, OptStep, PyTree, Structure
from jaxsolve._vectors import is_spread
from jaxsolve.base._complex import split_state
from jaxsolve.base._moving import for_moving, prepared, with_complex
from jaxsolve.base._objective import Objective
from jaxsolve.base._params import split_params, with_held_of
from jaxsolve.implicit_diff import TangentSystem, attach_derivative, run_without_derivative, stop_gradient
from jaxsolve.linear_solve import check_method
from jaxsolve.tree_util import tree_l2_norm, tree_where

__all__ = ["Solver", "call_directly", "differentiated"]


class Solver(Configured):
    """A mapping from problem data to a solution that behaves like any other jax function.

    A subclass defines ``optimality_fun(params, *args, **kwargs)``, which is zero at a solution, and ``_solve``;
    iterative solvers derive from :class:`IterativeSolver` instead. The names of the other methods that a subclass may
    define start with an underscore; they are described where they are declared.

    Attributes:
        on_failure: what to do at the end of a ``run`` that did not converge: ``"ignore"``, ``"warn"`` (a
            ``RuntimeWarning``) or ``"raise"`` (:class:`jaxsolve.SolverError`). Inside ``jit`` and ``vmap`` this option
            has no effect, because values are not known there: look at ``state.status``. The compiled program is the
            same.
        implicit_diff: differentiate the solution implicitly, through the optimality conditions (the default), or by
            unrolling the iterations (``False``).
        implicit_diff_solve: linear solver ``solve(matvec, b) -> x`` of the implicit derivative, where ``b`` and ``x``
            are pytrees like the parameters: one of :mod:`jaxsolve.linear_solve`, a ``functools.partial`` of one, a
            function of your own, or a lineax solver. ``None`` chooses by structure and size.
        jit: compile ``run``. ``False`` runs a Python loop over concrete values; use it if the functions run on the
            host.
        check_tangents: what to do when a linear solve of the implicit derivative is inaccurate: ``"warn"``, or
            ``"raise"`` from the compiled program, as a ``jax.errors.JaxRuntimeError``. With ``None`` solves are
            checked only inside a block of :func:`jaxsolve.diagnostics.check_tangents`.
    """

    implicit_diff: bool = option(True)
    implicit_diff_solve: Callable | None = option(None)
    jit: bool = option(True)
    on_failure: str = option("ignore", among=("ignore", "warn", "raise"))
    check_tangents: str | None = option(None, among=(None, "warn", "raise"))

    #: The type of the states, a named tuple, which is to print as one line. A solver that inherits it has a subclass.
    _State: ClassVar[Any] = None
    #: What is known of the Jacobian of the optimality function: ``"psd"``, ``"symmetric"`` or ``"general"``.
    _structure: ClassVar[Structure] = "general"
    #: Whether the optimality function is the residual ``T(x) - x`` of a fixed-point map.
    _is_fixed_point: ClassVar[bool] = False
    #: Whether parameters that a run starts from are known to lie on several devices.
    _spread = False
    #: ``_system_of(parts)``: the tangent system that ``_solve`` finds, from its arrays by name, of a solver whose eager
    #: gradients are compiled apart from its runs although it finds one.
    _system_of: ClassVar[Any] = None
    #: Whether complex parameters are minimized over as pairs of real ones, see :mod:`jaxsolve.base._complex`.
    _splits_complex: ClassVar[bool] = False
    _is_split = False
    #: Whether the optimality function is the gradient of a function, rather than a residual.
    _optimality_is_gradient: ClassVar[bool] = False
    #: Whether a run needs a point to start from.
    _needs_init_params: ClassVar[bool] = True
    #: Whether products are computed at full precision, see :mod:`jaxsolve._precision`.
    _is_precise: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for name in ("init_state", "update"):
            if name in cls.__dict__:
                setattr(cls, name, _compiled_when_eager(cls.__dict__[name]))
        if "optimality_fun" in cls.__dict__:
            cls.optimality_fun = _at_precision(cls.__dict__["optimality_fun"])
            if cls._splits_complex:
                cls.optimality_fun = with_complex(cls.optimality_fun)
        if cls._State is not None:
            # Named for its solver. One that has a name keeps it; what is local could not be pickled.
            if is_named(cls._State) and "<locals>" not in cls.__qualname__:
                cls._State = _subclass(cls._State, cls)
            if not is_named(cls._State):
                show_as_line(cls._State, cls.__name__)

    def _validate(self) -> None:
        super()._validate()
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

    def _solve_and_tell(self, init_params: PyTree, *args: Any, **kwargs: Any) -> tuple[OptStep, TangentSystem | None]:
        """``_solve``, and a report of its end if it is asked for."""
        return self._solve(init_params, *args, **kwargs)

    @property
    def _finds_system(self) -> bool:
        """Whether ``_solve`` may find a tangent system."""
        return True

    def _residual(self, params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """``optimality_fun`` without auxiliary output: the mapping that is differentiated."""
        return self.optimality_fun(params, *args, **kwargs)

    def _state_of_solution(self, params: PyTree, *args: Any, **kwargs: Any) -> dict[str, PyTree]:
        """Fields of the state that are functions of the solution and the data, and differentiated as such."""
        del params, args, kwargs
        return {}

    def _read(self, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """The data of a call as they are traced, for a solver that takes what jax cannot trace."""
        return args, kwargs

    def _check_arguments(self, init_params: PyTree, *args: Any, **kwargs: Any) -> None:
        """Raise an error for invalid arguments of ``run``; called before anything is compiled.

        Shapes and dtypes may also be checked where they are used; concrete values are checked here.
        """

    def _check_result(self, state: Any) -> None:
        """Raise an error for a failed final state with known values, if an option asks for it."""

    # ---- What every solver has ------------------------------------------------------------------------------------

    @without_our_frames
    def run(self, init_params: PyTree = None, *args: Any, **kwargs: Any) -> OptStep:
        """Solve the problem.

        Args:
            init_params: initial point, a pytree with floating-point or complex leaves; other leaves (counters, random
                keys, functions) are not changed. With the ``OptStep`` of an earlier run, the new run continues from
                its state.
            *args: data of the problem, passed on to the functions of the solver. Arrays and numbers are traced; flags,
                strings and callables are static.
            **kwargs: more data, passed on by name.

        Returns:
            ``OptStep(params, state)``. ``params`` is differentiable with respect to ``args``, ``kwargs``, array-valued
            fields and everything that the functions capture. With ``implicit_diff=True`` its derivative with respect to
            ``init_params`` is zero, because the solution does not depend on where the search began.

        Raises:
            TypeError: a function has the wrong signature.
            ValueError: there is no initial point, or a shape is wrong. Both errors are raised before anything is
                compiled.
            SolverError: the run did not converge, and ``on_failure`` is ``"raise"``.
        """
        if self._needs_init_params:
            _check_init_params(init_params, kwargs)
        args, kwargs = self._read(args, kwargs)
        self._check_arguments(init_params, *args, **kwargs)
        _warn_if_kept_by_module(self)
        step = self._run(init_params, args, kwargs)
        self._check_result(step.state)
        report_failure(self, step.state)
        return self._with_held_of(init_params, step)

    def _run(self, init_params: PyTree, args: tuple, kwargs: dict) -> OptStep:
        if not self.jit:
            return call_directly(_run, self, init_params, *args, **kwargs)
        solver = copy.copy(self)
        solver.on_failure = "ignore"  # the program is the same
        solver._spread = is_spread(init_params)
        # In an eager jax.grad the solution comes from the program of a plain run, and its derivative from another one.
        arguments = (solver, init_params, *args)
        if (
            self.implicit_diff
            and self._system_of is not None
            and have_values((vars(solver), init_params, args, kwargs))
        ):
            call = traced_call(_run_with_parts, *arguments, **kwargs)
            if call.is_concrete:
                return call()[0]
            solution = call.at_values()
            if solution is not None:
                return compiled_call(differentiated, solver, *solution(), *args, **kwargs)
        call = traced_call(_run, *arguments, **kwargs)
        apart = self.implicit_diff and not self._finds_system and not outside_transformations()
        solution = call.at_values() if apart else None
        return call() if solution is None else compiled_call(differentiated, solver, solution(), None, *args, **kwargs)

    def _with_held_of(self, given: PyTree, step: OptStep) -> OptStep:
        """A result with the held leaves that were given; a point that is not needed has none."""
        return OptStep(with_held_of(given, step.params), step.state) if self._needs_init_params else step

    def l2_optimality_error(self, params: PyTree, *args: Any, **kwargs: Any) -> Array:
        """Euclidean norm of the optimality residual at ``params``; a scalar."""
        with precision_of(self):
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


def _at_precision(method: Callable) -> Callable:
    """A method of a solver, whose products have the precision of the solver."""

    @functools.wraps(method)
    def call(self, *args, **kwargs):
        with precision_of(self):
            return method(self, *args, **kwargs)

    return call


def _subclass(state: type, solver: type) -> type:
    """A type of states that is found as ``solver._State``."""
    places = {"__module__": solver.__module__, "__qualname__": f"{solver.__qualname__}._State"}
    return type(f"{solver.__name__}State", (state,), {"__slots__": (), "__doc__": state.__doc__, **places})


def _warn_if_kept_by_module(solver: Solver) -> None:
    """Warn of a solver that is an attribute of a module of Flax NNX or Equinox and has a method of that module.

    Transformations copy the module. The solver of the copy still has the method of the original, which does not use the
    arrays of the copy.
    """
    functions = [] if outside_transformations() else [getattr(solver, name) for name in solver._functions()]
    owners = [f.__self__ for f in functions if hasattr(f, "__self__")]
    modules = [o for o in owners if any(c.__module__.startswith(("flax.nnx", "equinox")) for c in type(o).__mro__)]
    if any(kept is solver for module in modules for kept in vars(module).values()):
        warnings.warn(
            f"this {type(solver).__name__} is an attribute of a module and calls a method of that module. "
            "Transformations (nnx.grad, nnx.jit, eqx.filter_grad) copy the module, but the solver still calls the "
            "original: gradients are zero, and updates are not seen. Make the solver in the method that runs it; this "
            "costs nothing, because it is compiled once.",
            stacklevel=4,
        )


def call_directly(function: Callable, solver: Solver, *args: Any, **kwargs: Any) -> Any:
    with precision_of(solver):
        return function(solver, *args, **kwargs)


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
        solver, params, restore = for_moving(solver, params)
        if restore.splits:
            old, args = split_state(old), tuple(map(split_state, args[:1])) + args[1:] if own == 2 else args
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
            return restore(out)
        out = solver._resumed(out, old) if old is not None else out  # type: ignore[attr-defined]  # an iterative one
        return restore.state(out)

    body.__name__ = method.__name__
    own = 2 if method.__name__ == "update" else 1
    first, *others = list(inspect.signature(method).parameters)[1:]

    @functools.wraps(method)
    @without_our_frames
    def call(self, *args, **kwargs):
        if not args:
            args = (kwargs.pop(first, None),)
        if len(args) == 1 and method.__name__ == "update" and others and others[0] in kwargs:
            args = (*args, kwargs.pop(others[0]))
        if len(args) >= own:
            data, kwargs = self._read(args[own:], kwargs)
            args = (*args[:own], *data)
        compiled = self.jit and outside_transformations()
        out = (compiled_call if compiled else call_directly)(body, self, *args, **kwargs)
        return self._with_held_of(args[0], out) if isinstance(out, OptStep) else out

    return call


def _run(solver: Solver, init_params: PyTree, *args: Any, **kwargs: Any) -> OptStep:
    """The body of ``run``: inside the compiled function, or called as it is with ``jit=False``."""
    solver, start, restore = prepared(solver, init_params)
    # Without jit and outside of every transformation nobody differentiates, and a host function could not be traced.
    if not solver.implicit_diff or (not solver.jit and outside_transformations()):
        return restore(solver._solve_and_tell(start, *args, **kwargs)[0])
    return restore(_differentiable_solution(solver, start, args, kwargs))


def _run_with_parts(solver: Solver, init_params: PyTree, *args: Any, **kwargs: Any) -> tuple[OptStep, Any]:
    """A run without derivative, and the arrays of the tangent system that it found."""
    solver, start, restore = prepared(solver, init_params)
    step, system = solver._solve_and_tell(start, *args, **kwargs)
    return restore(step), None if system is None else system.parts


def differentiated(solver: Solver, step: OptStep, parts: Any, *args: Any, **kwargs: Any) -> OptStep:
    """A solution with its implicit derivative, after a run without one that found a system of these parts, or none."""
    solver, step, restore = prepared(solver, step)
    system = None if parts is None else solver._system_of(parts)
    return restore(_with_derivative(solver, step, system, args, kwargs))


def _differentiable_solution(solver: Solver, start: PyTree, args: tuple, kwargs: dict) -> OptStep:
    """The solution with its implicit derivative."""
    if solver.jit:
        solved = hoist(solver._solve_and_tell, start, *args, **kwargs)
        start, constant_args, constant_kwargs = stop_gradient((start, args, kwargs))
        step, system = solved.pure(start, *constant_args, consts=stop_gradient(solved.consts), **constant_kwargs)
    else:
        step, system = run_without_derivative(solver._solve_and_tell, start, *args, **kwargs)
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
        name=type(solver).__name__,
        check=solver.check_tangents,
    )
    params = system.complete(sol, *args, **kwargs)
    if system.valid is not True:
        params, derived = tree_where(system.valid, (params, derived), stop_gradient((params, derived)))
    return OptStep(params, state._replace(**derived))
