r"""Anderson acceleration of another solver.

Method: the update of a solver is a mapping of its parameters with a fixed point at the solution. Every few iterations
the parameters are replaced by the combination of the last ones that Anderson mixing proposes, if that is closer to
optimal.

Reference:
    Scieur, d'Aspremont and Bach (2016), "Regularized nonlinear acceleration"; Mai and Johansson (2020), "Anderson
    acceleration of proximal gradient methods"; Bertrand and Massias (2021), "Anderson acceleration of coordinate
    descent".
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from jaxsolve._loop import run_where
from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep, PyTree, Structure
from jaxsolve.base import IterativeSolver, option
from jaxsolve.solvers.fixed_point._mixing import Mixing, fields_of, memory_of, relative_ridge
from jaxsolve.tree_util import tree_add, tree_cast_like, tree_real_dtype, tree_sub, tree_where

__all__ = ["AndersonWrapper", "AndersonWrapperState"]


class AndersonWrapperState(NamedTuple):
    """State of an accelerated solver.

    Attributes:
        iter_num: number of iterations done, int32.
        solver_state: state of the solver.
        error: that of ``solver_state``.
        params_history: differences of successive iterates, a row each, in no particular order.
        residuals_history: differences of their residuals, the steps that the solver makes from them.
        residual_gram: inner products of the latter, shape (history_size, history_size); 0 where there is none.
        status: that of ``solver_state``.
        last: the last iterate and the step from it.
        num_mixed: extrapolations that were kept, int32.
        value: that of ``solver_state``, if it has one.
        aux: likewise.
        first_error: likewise.
    """

    iter_num: Array
    solver_state: Any
    error: Array
    params_history: Any
    residuals_history: Any
    residual_gram: Array
    status: Any = 0
    last: Any = None
    num_mixed: Any = 0
    value: Any = None
    aux: Any = None
    first_error: Any = None


class AndersonWrapper(IterativeSolver):
    """Extrapolates the iterates of a solver.

    ``run`` takes the arguments of the solver's ``run``. Every few iterations the solver makes one step from its iterate
    and one from an extrapolation of its last iterates (with the step size and the other state that a warm start takes
    over). The step with the smaller error is kept. This helps methods that converge slowly and regularly: plain
    proximal and projected gradient, mirror descent. It does not help quasi-Newton methods.

    Attributes:
        solver: an iterative solver. The options ``maxiter``, ``tol``, ``rtol``, ``implicit_diff_solve`` and ``jit`` are
            taken from it if they are not given here; it decides when a run has converged.
        rtol: relative tolerance, for a solver that has this option; most solvers multiply it by ``state.first_error``.
        history_size: number of differences of iterates that are kept.
        mixing_frequency: number of iterations from one extrapolation to the next; ``None`` takes ``history_size``.
            Each one takes one call of ``init_state`` of the solver and one additional iteration.
        beta: multiple of the last step in an extrapolation.
        ridge: see :class:`jaxsolve.AndersonAcceleration`.

    Example:
        >>> import jax.numpy as jnp, jaxsolve
        >>> scales = jnp.array([1.0, 30.0, 200.0])
        >>> descent = jaxsolve.GradientDescent(
        ...     lambda x, y: jnp.sum(scales * (x - y) ** 2), stepsize=2e-3, acceleration=False, maxiter=5000
        ... )
        >>> params, state = jaxsolve.AndersonWrapper(descent).run(jnp.zeros(3), jnp.arange(3.0))
        >>> plain = descent.run(jnp.zeros(3), jnp.arange(3.0)).state
        >>> params.round(3).tolist(), int(state.iter_num) < int(plain.iter_num) // 10
        ([0.0, 1.0, 2.0], True)
    """

    solver: IterativeSolver
    history_size: int = option(5, at_least=1)
    mixing_frequency: int | None = option(None, at_least=1)
    beta: float = option(1.0, above=0)
    ridge: float | None = option(None, at_least=0)
    maxiter: int | None = option(None, at_least=0)  # type: ignore[assignment]  # of the solver
    tol: float | None = option(None, at_least=0)  # type: ignore[assignment]  # of the solver
    rtol: float | None = option(None, at_least=0)
    jit: bool | None = option(None, among=(None, True, False))  # type: ignore[assignment]  # of the solver

    _State = AndersonWrapperState
    _handles_nonfinite = True

    def __post_init__(self) -> None:
        """Take over what was not given."""
        if not isinstance(self.solver, IterativeSolver):
            raise TypeError(f"solver must be an iterative solver of jaxsolve, got {self.solver!r}.")
        given = {name: getattr(self, name) for name in ("tol", "rtol") if getattr(self, name) is not None}
        # The loops inside its steps are differentiated as those around them.
        loops = {name: getattr(self, name) for name in ("implicit_diff", "unroll")}
        given |= {name: value for name, value in loops.items() if getattr(self.solver, name) != value}
        if given:
            self.solver = dataclasses.replace(self.solver, **given)
        for name in ("maxiter", "tol", "rtol", "jit", "implicit_diff_solve"):
            if getattr(self, name) is None:
                setattr(self, name, getattr(self.solver, name, None))

    @property
    def _structure(self) -> Structure:  # type: ignore[override]  # a constant of the other solvers
        return self.solver._structure

    @property
    def _is_fixed_point(self) -> bool:  # type: ignore[override]  # a constant of the other solvers
        return self.solver._is_fixed_point

    def _with_functions(self, change: Callable[[str, Callable], Callable]) -> Self:
        return self._around(self.solver._with_functions(change))

    def _staged(self) -> Self:
        return self._around(self.solver._staged()) if self.jit else self

    def _around(self, solver: IterativeSolver) -> Self:
        changed = copy.copy(self)
        changed.solver = solver
        return changed

    def _check_arguments(self, init_params: PyTree, *args: Any, **kwargs: Any) -> None:
        self.solver._check_arguments(init_params, *args, **kwargs)

    def _first_point(self, init_params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        return self.solver._first_point(init_params, *args, **kwargs)

    def init_state(self, init_params: PyTree, *args: Any, **kwargs: Any) -> AndersonWrapperState:
        """The state before the first iteration; the arguments are those of ``run``."""
        inner = self.solver._first_step(init_params, args, kwargs).state
        dtype = tree_real_dtype(init_params)
        memory = Mixing.empty(init_params, self.history_size, dtype, first_type=False)
        return self._State(
            iter_num=jnp.zeros((), jnp.int32),
            solver_state=inner,
            last=(jax.tree.map(jnp.copy, init_params), jax.tree.map(jnp.zeros_like, init_params)),
            num_mixed=jnp.zeros((), jnp.int32),
            **fields_of(memory, cross=False),
            **self._fields_of(inner),
        )

    def update(self, params: PyTree, state: AndersonWrapperState, *args: Any, **kwargs: Any) -> OptStep:
        """One iteration of the solver, or with an extrapolation two; returns ``OptStep(params, state)``."""
        frequency = self.history_size if self.mixing_frequency is None else self.mixing_frequency
        # Every pair has a row: of the extrapolations too.
        row = state.iter_num + state.iter_num // frequency
        step = self.solver._next_step(OptStep(params, state.solver_state), args, kwargs)
        here = (params, tree_sub(step.params, params))
        memory = memory_of(state)
        remembered = memory.remember(here, state.last, row % self.history_size)
        memory = Mixing(*tree_where(state.iter_num > 0, remembered, memory))  # the first has no predecessor
        due = ((state.iter_num + 1) % frequency == 0) & jnp.any(memory.used)
        due = due & Status.RUNNING.holds(self.solver._status_in(step.state))

        def extrapolate(carry):
            step, here, memory, num_mixed = carry
            dtype = memory.gram.dtype
            weights = memory.weights(here[1], relative_ridge(self.ridge, dtype))
            there = tree_add(here[0], memory.step(here[1], weights, jnp.asarray(self.beta).astype(dtype)))
            moved = OptStep(there, tree_cast_like(self._state_at(there, step.state, args, kwargs), step.state))
            # The solver's own step tells how good a point is, in the solver's own unit.
            plain, mixed = (self.solver._next_step(start, args, kwargs) for start in (step, moved))
            closer = mixed.state.error < plain.state.error  # not so for NaN
            start, new = tree_where(closer, (there, mixed), (step.params, plain))
            new = new._replace(state=_counting(new.state, plain.state, mixed.state))
            now = (start, tree_sub(new.params, start))
            memory = memory.remember(now, here, (row + 1) % self.history_size)
            return new, now, memory, num_mixed + closer.astype(num_mixed.dtype)

        carry = (step, here, memory, state.num_mixed)
        step, here, memory, num_mixed = run_where(due, extrapolate, carry, self._loop_kind)
        new_state = state._replace(
            iter_num=state.iter_num + 1,
            solver_state=step.state,
            last=here,
            num_mixed=num_mixed,
            **fields_of(memory, cross=False),
            **self._fields_of(step.state),
        )
        return OptStep(step.params, new_state)

    def _state_at(self, params: PyTree, old: Any, args: tuple, kwargs: dict) -> Any:
        """The state of the solver at a point that it did not come to by itself, after the state ``old``."""
        new = self.solver._first_step(params, args, kwargs).state
        shapes = jax.tree.map(jnp.shape, params)
        for name in self.solver._resumed_fields:
            value = getattr(old, name)
            # What has the shape of the parameters belongs to a point, as a base point of momentum does.
            if jax.tree.map(jnp.shape, value) != shapes:
                new = new._replace(**{name: value})
        return new._replace(iter_num=old.iter_num)

    def _fields_of(self, inner: Any) -> dict[str, Any]:
        """The fields that are those of the solver's state."""
        fields = {name: getattr(inner, name, None) for name in ("value", "aux", "first_error")}
        return {"error": inner.error, "status": self.solver._status_in(inner), **fields}

    def _status_in(self, state: AndersonWrapperState) -> Any:
        return state.status

    def optimality_fun(self, params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """That of the solver."""
        return self.solver.optimality_fun(params, *args, **kwargs)

    def _residual(self, params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        return self.solver._residual(params, *args, **kwargs)

    def _state_of_solution(self, params: PyTree, *args: Any, **kwargs: Any) -> dict[str, PyTree]:
        derived = self.solver._state_of_solution(params, *args, **kwargs)
        return {name: value for name, value in derived.items() if name in ("value", "aux")}


def _counting(state: Any, plain: Any, mixed: Any) -> Any:
    """A state with the evaluations of both steps: the plain one counts on from before, the other from its start."""
    names = [name for name in state._fields if name.startswith("num_") and name.endswith(("_eval", "_iter"))]
    return state._replace(**{name: getattr(plain, name) + getattr(mixed, name) for name in names})
