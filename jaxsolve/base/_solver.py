"""``Solver`` and ``IterativeSolver``: ``run`` is written here, once, for every solver.

A solver file holds ``init_state``, ``update`` and ``optimality_fun``. This module adds the rest: one compiled function,
closure conversion, the loop, the statuses, and the derivative.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar, Self

import chex
import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._closure import Staged, hoist, merge_static, split_static
from jaxsolve._compat import outside_transformations
from jaxsolve._loop import LoopKind, loop, run_if_any
from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep, PyTree, Structure
from jaxsolve.base._compile import compiled_call, merge_fields, split_fields
from jaxsolve.base._objective import Objective
from jaxsolve.base._options import Options, check_callable, check_choice, check_number, option
from jaxsolve.base._report import call_back, line_printer
from jaxsolve.implicit_diff import attach_derivative, run_without_derivative, stop_gradient
from jaxsolve.tree_util import tree_all_finite, tree_l2_norm, tree_where

__all__ = ["IterativeSolver", "Solver", "as_params"]


class Solver(Options):
    """A mapping from problem data to a solution that behaves like any other jax function.

    A subclass defines ``optimality_fun(params, *args, **kwargs)``, zero at a solution, and ``solve``; iterative ones
    derive from :class:`IterativeSolver` instead.

    Attributes:
        implicit_diff: differentiate the solution implicitly, through the optimality conditions (the default), or else
            by unrolling the iterations.
        implicit_diff_solve: linear solver ``solve(matvec, b) -> x`` of the implicit derivative: one of
            :mod:`jaxsolve.linear_solve`, a ``functools.partial`` of one, a callable of your own, or a lineax solver.
            ``None`` chooses by structure and size.
        jit: compile ``run``. ``False`` runs a Python loop over concrete values, which host functions need.
    """

    implicit_diff: bool = option(True)
    implicit_diff_solve: Callable | None = option(None)
    jit: bool = option(True)

    #: Names of the fields that hold functions of the user: each is traced once.
    oracles: ClassVar[tuple[str, ...]] = ()
    #: What is known of the Jacobian of the optimality function: ``"psd"``, ``"symmetric"`` or ``"general"``.
    structure: ClassVar[Structure] = "general"

    def validate(self) -> None:
        super().validate()
        check_choice("implicit_diff", self.implicit_diff, (True, False))
        check_choice("jit", self.jit, (True, False))
        for name in self.oracles:
            check_callable(name, getattr(self, name), "a function of the parameters")

    # ---- What a solver defines ------------------------------------------------------------------------------------

    def solve(self, init_params: PyTree, *args: Any, **kwargs: Any) -> OptStep:
        """Compute the solution; traced inside ``run``, with every function of the user staged."""
        raise TypeError(f"{type(self).__name__} must define solve.")

    def compute(self, init_params: PyTree, *args: Any, **kwargs: Any) -> OptStep:
        """What ``run`` calls: ``solve``, unless a solver has an option of that name and defines this instead."""
        return self.solve(init_params, *args, **kwargs)

    def residual(self, params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """``optimality_fun`` without auxiliary output: the mapping that is differentiated."""
        return self.optimality_fun(params, *args, **kwargs)  # type: ignore[attr-defined]  # defined by every solver

    #: Names of the state fields that ``derived_state`` gives.
    derived_fields: ClassVar[tuple[str, ...]] = ()

    def derived_state(self, params: PyTree, *args: Any, **kwargs: Any) -> dict[str, PyTree]:
        """Fields of the state that are functions of the solution and the data, and differentiated as such."""
        del params, args, kwargs
        return {}

    def check_arguments(self, init_params: PyTree, *args: Any, **kwargs: Any) -> None:
        """Raise for arguments of ``run`` that cannot be right; called before anything is compiled.

        Shapes and dtypes may as well be checked where they are used; this is the place to look at concrete values.
        """

    def check_result(self, state: Any) -> None:
        """Raise for a concrete final state, if the user asked for it."""

    # A solver that knows the structure of its tangent system solves it itself. Its `solve` leaves in `state.factors`
    # what it has at hand at the end: arrays, constants to the derivative, which are not returned to the user. Their
    # field `valid` says whether there is a solution to differentiate; without one every derivative is zero.

    #: Whether ``residual`` and ``solve_tangent_system`` are called with ``factors=``, from the final state.
    has_factors: ClassVar[bool] = False

    def solve_tangent_system(
        self, unknowns: PyTree, rhs: PyTree, transposed: bool, *args: Any, factors: Any, **kwargs: Any
    ) -> PyTree:
        """Solve a linear system with the Jacobian of ``residual`` in the unknowns, or its transpose."""
        raise TypeError(f"{type(self).__name__} has factors and must define solve_tangent_system.")

    def unknowns(self, params: PyTree) -> PyTree:
        """The part of the parameters that ``residual`` determines; all of them, usually."""
        return params

    def complete(self, unknowns: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The parameters as a differentiable function of the unknowns and the data: the inverse of ``unknowns``."""
        del args, kwargs
        return unknowns

    # ---- What every solver has ------------------------------------------------------------------------------------

    def run(self, init_params: PyTree = None, *args: Any, **kwargs: Any) -> OptStep:
        """Solve the problem.

        Args:
            init_params: initial point, a pytree of floating-point arrays; the result of an earlier run is a warm start.
            *args: data of the problem, passed on to the functions of the solver. Arrays and numbers are traced; flags,
                strings and callables are static.
            **kwargs: likewise.

        Returns:
            ``OptStep(params, state)``. ``params`` is differentiable with respect to ``args``, ``kwargs``, array-valued
            fields and everything that the functions capture. With ``implicit_diff=True`` its derivative with respect to
            ``init_params`` is zero, for a solution does not know where the search for it began.

        Raises:
            TypeError: ``init_params`` is not floating point, or a function has the wrong signature.
            ValueError: a shape is wrong. Both are raised before anything is compiled.
        """
        self.check_arguments(init_params, *args, **kwargs)
        if not self.jit:
            step = _run(self, init_params, args, kwargs)
        else:
            step = compiled_call(_run, self, init_params, args, kwargs)
        self.check_result(step.state)
        return step

    def l2_optimality_error(self, params: PyTree, *args: Any, **kwargs: Any) -> Array:
        """Euclidean norm of the optimality residual at ``params``; a scalar."""
        return tree_l2_norm(self.residual(params, *args, **kwargs))

    # ---- The objective --------------------------------------------------------------------------------------------

    @property
    def objective(self) -> Objective:
        """Value and gradient of ``fun`` in one form; staged during a run."""
        staged = self.__dict__.get("_objective")
        return self._make_objective(staged=False) if staged is None else staged

    def _make_objective(self, *, staged: bool) -> Objective:
        fields: Any = self
        return Objective(
            fields.fun,
            value_and_grad=getattr(fields, "value_and_grad", False),
            has_aux=getattr(fields, "has_aux", False),
            staged=staged,
        )

    def staged(self) -> Self:
        """A copy whose functions are traced once, however often the algorithm mentions them."""
        if not self.jit:
            return self
        staged = copy.copy(self)
        for name in self.oracles:
            if name == "fun":
                staged.__dict__["_objective"] = self._make_objective(staged=True)
            else:
                staged.__dict__[name] = Staged(getattr(self, name), name)
        return staged


def _run(solver: Solver, init_params: PyTree, args: tuple, kwargs: dict) -> OptStep:
    """The body of ``run``: inside the compiled function, or called as it is with ``jit=False``."""
    init_params = as_params(init_params)
    solver = solver.staged()
    # Without jit and outside of every transformation nobody differentiates, and a host function could not be traced.
    if not solver.implicit_diff or (not solver.jit and outside_transformations()):
        params, state = solver.compute(init_params, *args, **kwargs)
        return OptStep(params, state._replace(factors=None) if solver.has_factors else state)

    # Everything that the solution may depend on becomes an explicit argument: array-valued fields, data, and, by
    # hoisting, what the functions captured.
    field_arrays, field_static = split_fields(solver)
    leaves, static = split_static((args, kwargs))
    data = (field_arrays, leaves)

    def on_data(method, **extra):
        def call(params, data, *rest):
            field_arrays, leaves = data
            args, kwargs = merge_static(leaves, static)
            return getattr(merge_fields(solver, field_arrays, field_static), method)(
                params, *rest, *args, **kwargs, **extra
            )

        return call

    def with_factors(method):
        def call(unknowns, data, *rest):
            *data, factors = data
            return on_data(method, factors=factors)(unknowns, data, *rest)

        return call

    if solver.jit:
        solved = hoist(on_data("compute"), init_params, data)
        params, state = solved.pure(*stop_gradient((init_params, data)), consts=stop_gradient(solved.consts))
    else:
        params, state = run_without_derivative(on_data("compute"), init_params, data)

    names = solver.derived_fields
    unknowns, tangent_solver = solver.unknowns(params), None
    residual, derived_state = on_data("residual"), on_data("derived_state")
    if solver.has_factors:
        factors, state = state.factors, state._replace(factors=None)
        residual, tangent_solver = with_factors("residual"), with_factors("solve_tangent_system")
        derived_state = _ignoring_last(derived_state)
        data = (*data, stop_gradient(factors))
    unknowns, derived = attach_derivative(
        residual,
        unknowns,
        data,
        derived_fun=derived_state if names else None,
        derived={name: getattr(state, name) for name in names},
        solve=solver.implicit_diff_solve,
        structure=solver.structure,
        tangent_solver=tangent_solver,
    )
    params = on_data("complete")(unknowns, data[:2])
    if solver.has_factors:
        params, derived = tree_where(factors.valid, (params, derived), stop_gradient((params, derived)))
    return OptStep(params, state._replace(**derived))


def _ignoring_last(fun):
    return lambda unknowns, data: fun(unknowns, data[:-1])


def as_params(tree: PyTree) -> PyTree:
    """Strongly typed floating-point arrays: a loop must find its carry unchanged in type."""

    def convert(path, leaf):
        where = f"init_params{jax.tree_util.keystr(path)}"
        try:
            leaf = jnp.asarray(leaf)
        except TypeError:
            raise TypeError(f"{where} must be an array, got {leaf!r} of type {type(leaf).__name__}.") from None
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"{where} must be real floating point, but has dtype {leaf.dtype}; convert it with "
                "x.astype(float), or split a complex one into its real and imaginary parts."
            )
        return lax.convert_element_type(leaf, leaf.dtype)

    return jax.tree_util.tree_map_with_path(convert, tree)


class IterativeSolver(Solver):
    """A solver that repeats ``update`` until its optimality error is at most ``tol``.

    A subclass defines ``init_state(init_params, *args, **kwargs) -> state``,
    ``update(params, state, *args, **kwargs) -> OptStep`` and ``optimality_fun``. The state is a named tuple of arrays
    with at least ``iter_num``, ``error`` and ``status``; ``update`` keeps its structure, shapes and dtypes.

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
    surrogate_error: ClassVar[bool] = False
    #: Whether ``update`` itself never accepts a non-finite point.
    guards_nonfinite: ClassVar[bool] = False

    def validate(self) -> None:
        super().validate()
        check_number("maxiter", self.maxiter, at_least=0)
        check_number("tol", self.tol, at_least=0)
        check_choice("unroll", self.unroll, ("auto", True, False, "checkpoint"))
        if not isinstance(self.verbose, (bool, int)):
            raise TypeError(f"verbose must be a bool or an int, got {self.verbose!r}.")
        if self.callback is not None:
            check_callable("callback", self.callback, "a function callback(params, state)")

    @property
    def loop_kind(self) -> LoopKind:
        """The loop that runs the iterations, here and in line searches; see :mod:`jaxsolve._loop`."""
        if not self.jit:
            return "python"
        if self.unroll == "checkpoint":
            return "checkpoint"
        unrolled = not self.implicit_diff if self.unroll == "auto" else self.unroll
        return "scan" if unrolled else "while"

    def status_of(self, error: Array, *, failed: Array | bool = False, failure: Status = Status.STALLED) -> Array:
        """The status that an optimality error stands for; an int32 scalar.

        Args:
            error: optimality error of the current iterate.
            failed: whether the algorithm cannot go on; convergence takes precedence.
            failure: the status if it cannot.
        """
        status = jnp.where(failed, int(failure), int(Status.RUNNING))
        status = jnp.where(error <= _as(self.tol, error), int(Status.CONVERGED), status)
        return jnp.where(jnp.isfinite(error), status, int(Status.NONFINITE)).astype(jnp.int32)

    def solve(self, init_params: PyTree, *args: Any, **kwargs: Any) -> OptStep:
        """Iterate from ``init_params``; see ``Solver.run``."""
        params, state = loop(
            lambda step: step.state.status == int(Status.RUNNING),
            lambda step: self.next_step(step, args, kwargs),
            self.first_step(init_params, args, kwargs),
            maxiter=self.maxiter,
            kind=self.loop_kind,
        )
        running = state.status == int(Status.RUNNING)
        status = jnp.where(running, int(Status.MAXITER), state.status).astype(jnp.int32)
        # Fields that `update` reports of another point than the one it returns are brought in line at the end.
        derived = self.derived_state(params, *args, **kwargs) if self.surrogate_error else {}
        return OptStep(params, state._replace(status=status, **derived))

    def first_step(self, init_params: PyTree, args: tuple, kwargs: dict) -> OptStep:
        """The initial point and state, strongly typed: or else the body of a loop over them would be traced twice."""
        state = self.init_state(init_params, *args, **kwargs)  # type: ignore[attr-defined]  # defined by every solver
        state = jax.tree.map(lambda x: lax.convert_element_type(x, jnp.result_type(x)), state)
        return OptStep(self.init_point(init_params, *args, **kwargs), state)

    def init_point(self, init_params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The parameters with which the iterations start."""
        del args, kwargs
        return init_params

    def next_step(self, step: OptStep, args: tuple, kwargs: dict, *, active: Any = None) -> OptStep:
        """``update``, and what every solver's update is followed by: checks, and reports of an ``active`` run.

        A loop over lanes goes on for those that have finished, and these are not active.
        """
        new = self.update(step.params, step.state, *args, **kwargs)  # type: ignore[attr-defined]  # defined by solvers
        if self.jit:
            chex.assert_trees_all_equal_shapes_and_dtypes(step, new)
        if self.surrogate_error:
            new = self._certify(new, args, kwargs)
        new = self._last_finite(step, new)
        if self.verbose:
            self._report(line_printer(type(self).__name__), step, new, active)
        if self.callback is not None:
            self._report(self.callback, step, new, active)
        return new

    def _report(self, callback: Callable, old: OptStep, new: OptStep, active: Any) -> None:
        active = old.state.status == int(Status.RUNNING) if active is None else active
        params, state = tree_where(active, new, old)
        call_back(callback, params, state, active)

    def _certify(self, step: OptStep, args: tuple, kwargs: dict) -> OptStep:
        """Replace the error of a step that claims convergence by the true one, and judge again."""
        params, args, kwargs = stop_gradient((step.params, args, kwargs))
        error, claimed = lax.stop_gradient(step.state.error), step.state.status == int(Status.CONVERGED)

        def true_error(error):
            return self.l2_optimality_error(params, *args, **kwargs).astype(error.dtype)

        if self.jit:
            error = run_if_any(claimed, true_error, error)
        else:
            error = true_error(error) if claimed else error
        status = jnp.where(claimed, self.status_of(error), step.state.status)
        # Where nothing is claimed the error keeps its derivative.
        error = jnp.where(claimed, error, step.state.error)
        return step._replace(state=step.state._replace(error=error, status=status))

    def _last_finite(self, old: OptStep, new: OptStep) -> OptStep:
        """Keep the last finite iterate, with its state, when a step leads out of the finite numbers."""
        if self.guards_nonfinite:
            return new
        finite = tree_all_finite(new.params) & (new.state.status != int(Status.NONFINITE))
        value = getattr(new.state, "value", None)
        if value is not None:
            # An infinite objective may be left again, but it is no minimum.
            finite = finite & (jnp.isfinite(value) | (new.state.status != int(Status.CONVERGED)))
        kept = tree_where(finite, new, old)
        status = jnp.where(finite, kept.state.status, int(Status.NONFINITE)).astype(jnp.int32)
        return OptStep(kept.params, kept.state._replace(status=status, iter_num=new.state.iter_num))


def _as(value, like: Array) -> Array:
    """A number or array in the dtype of ``like``."""
    return (
        jnp.asarray(value).astype(like.dtype) if not isinstance(value, (int, float)) else jnp.asarray(value, like.dtype)
    )
