r"""Newton-like methods for systems of equations: everything but the model of the Jacobian.

Problem: find :math:`x` with :math:`F(x, \theta) = 0`, as many equations as unknowns. From :math:`x_k` such a method
goes along :math:`d_k = -B_k^{-1} F(x_k)`, where :math:`B_k` is the Jacobian or a model of it. The step is shortened
until the norm of the residual falls: with :math:`t` the step size and :math:`\eta_k \ge 0` summable,

.. math::

    \|F(x_k + t d_k)\|^2 \le (1 + \eta_k - 2 c_1 t) \|F(x_k)\|^2, \qquad c_1 = 10^{-4},

which with :math:`\eta_k = 0` is Armijo's condition for half the squared norm (Li and Fukushima 2000 for the general
form). Neither needs a gradient or has a unit.

A norm that must fall at every step leads many systems to a local minimum of the norm where full steps find the root. So
a method that has the Jacobian tries full steps first. If several of them in a row do not satisfy the condition with
respect to the best point so far, it goes back to that point and searches there: the watchdog technique. The parameters
are the best point at any time.

Reference:
    Nocedal and Wright (2006), "Numerical optimization", second edition, chapter 11; Li and Fukushima (2000), "A
    derivative-free line search and global convergence of Broyden-like method for nonlinear equations"; Chamberlain,
    Powell, Lemaréchal and Pedersen (1982), "The watchdog technique for forcing convergence in algorithms for
    constrained optimization".
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxsolve._closure import Staged
from jaxsolve._compat import max_abs
from jaxsolve._loop import LoopKind, loop, run_where
from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve._vectors import flat, unraveled
from jaxsolve.base import IterativeSolver, as_like, option
from jaxsolve.linesearch._base import shortened
from jaxsolve.solvers._bounds import bounds_like, check_bounds, clip_to
from jaxsolve.solvers._gradient_method import is_still
from jaxsolve.tree_util import tree_l2_norm, tree_real_dtype, tree_sub, tree_where

__all__ = ["MOST_DENSE", "RootMethod", "RootState", "guarded_solve"]

# The least decrease of the squared norm, relative to that which the model promises.
_C1 = 1e-4
# So often a method may go back from full steps that did not lower the norm.
_MOST_RETURNS = 5
# More unknowns than this have no dense Jacobian unless it is asked for.
MOST_DENSE = 512


class Scout(NamedTuple):
    """The point from which steps go: the parameters themselves, or one that full steps have led to from there.

    Attributes:
        params: a pytree like the parameters.
        value: the residual there.
        error: its Euclidean norm.
        astray: steps since the best point, int32; -1 where the next step is searched for.
        returns: how often a method may still go back, int32; with 0 every step is searched for.
    """

    params: PyTree
    value: PyTree
    error: Array
    astray: Array
    returns: Array


class RootState(NamedTuple):
    """State of a Newton-like method; one with a memory has a named tuple of its own, with these fields and more.

    Attributes:
        iter_num: number of iterations done, int32.
        value: the residual ``fun`` at the current parameters, a pytree like them.
        error: its Euclidean norm.
        stepsize: last step size.
        aux: auxiliary output of ``fun``.
        failed_linesearch: whether the last search failed.
        num_fun_eval: evaluations of ``fun``, int32.
        num_jac_eval: evaluations of its Jacobian, int32.
        num_linesearch_iter: trial steps of all searches, int32.
        status: a :class:`jaxsolve.Status`, int32.
        first_error: ``error`` at the initial point.
        scout: the point from which the next step starts.
    """

    iter_num: Array
    value: Any
    error: Array
    stepsize: Array
    aux: Any = None
    failed_linesearch: Any = False
    num_fun_eval: Any = 0
    num_jac_eval: Any = 0
    num_linesearch_iter: Any = 0
    status: Any = 0
    first_error: Any = None
    scout: Any = None


class Trial(NamedTuple):
    """A point that a search has looked at."""

    stepsize: Array
    accepted: Array
    improves: Array
    params: PyTree
    value: PyTree
    aux: Any
    error: Array
    number: Array


class RootMethod(IterativeSolver):
    """Base of the Newton-like methods for systems of equations.

    Attributes:
        fun: ``fun(params, *args, **kwargs)``, the residual: a pytree with the leaf shapes of ``params``.
        has_aux: whether ``fun`` returns ``(residual, aux)``.
        stepsize: a positive number, which may be traced, in place of a search; zero, the default, and negative numbers
            mean a search.
        linesearch: ``"backtracking"`` shortens steps until the norm of the residual decreases; ``None`` takes full
            steps.
        stop_if_linesearch_fails: end the run at the first failed search. Otherwise the Jacobian, or its model, is
            computed anew, and the search is tried once more.
        maxls: largest number of trial steps in a search.
        decrease_factor: largest factor by which a search shortens a step; interpolation may choose a smaller factor,
            down to a tenth.
        increase_factor: a search starts with the last step size times this factor, but at least with the full step, 1.
        max_stepsize: largest trial step.
        min_stepsize: smallest trial step, as a part of the full one, like ``max_stepsize``.
        bounds: the pair ``(lower, upper)`` of bounds of the parameters, each a scalar, an array that broadcasts to each
            leaf, or a pytree like the parameters; infinite where there is none. ``fun`` is never called at a point
            outside of the bounds; trial points outside are moved to the bounds.
        rtol: relative tolerance: the run has converged when ``state.error`` is at most
            ``tol + rtol * state.first_error``. May be traced.
        patience: number of full steps in a row that need not lower the norm of the residual. After so many steps the
            method goes back to the best point and searches for a step there. It goes back at most five times; from then
            on every step must lower the norm. With 0 this holds from the beginning. ``params`` is always the best
            point. This option is used only with a search, and by methods that have the Jacobian.
    """

    fun: Callable
    has_aux: bool = option(False)
    stepsize: float = option(0.0)
    linesearch: str | None = option("backtracking", among=("backtracking", None))
    stop_if_linesearch_fails: bool = option(False)
    maxls: int = option(15, at_least=1)
    decrease_factor: float = option(0.8, above=0, below=1)
    increase_factor: float = option(1.5, at_least=1)
    max_stepsize: float = option(1.0, above=0)
    min_stepsize: float = option(1e-6, at_least=0)
    bounds: tuple | None = option(None)
    rtol: float = option(0.0, at_least=0)
    patience: int = option(10, at_least=0)

    _State: ClassVar[Any] = RootState
    _handles_nonfinite = True
    _has_many_scalars = True
    _resumed_fields = ("iter_num", "first_error")

    def _stage(self, name: str, function: Callable) -> Callable:
        return Staged(function, name)  # `fun` is no objective here

    def _validate(self) -> None:
        super()._validate()
        if self.bounds is not None:
            check_bounds(self.bounds)

    # ---- What a method defines ------------------------------------------------------------------------------------

    @abc.abstractmethod
    def _direction(self, params: PyTree, state: Any, args: tuple, kwargs: dict) -> tuple[Array, dict[str, Any]]:
        """The step to a root of the model, as a vector, and the fields of the state that change on the way."""

    def _memory(self, params: PyTree, residual: Array, args: tuple, kwargs: dict) -> dict[str, Any]:
        """The fields of the memory at an initial point."""
        del params, residual, args, kwargs
        return {}

    def _remember(self, step: Array, change: Array, state: Any) -> Any:
        """The state after a step that changed the residual."""
        del step, change
        return state

    def _forgotten(self, params: PyTree, state: Any, args: tuple, kwargs: dict) -> dict[str, Any]:
        """The fields of the memory, and ``num_jac_eval``, with a fresh model."""
        memory = self._memory(params, flat(state.value), args, kwargs)
        count = state.num_jac_eval + memory["num_jac_eval"]
        return {**memory, "num_jac_eval": count.astype(jnp.int32)}

    def _is_fresh(self, state: Any) -> Array:
        """Whether the model is that of the current point, so that a search that fails is the last one."""
        del state
        return jnp.asarray(True)

    def _has_jacobian(self, state: Any) -> bool:
        """Whether the direction is that of the Jacobian, or of a model that begins as the inverse Jacobian."""
        del state
        return True

    def _is_outdated(self, before: Any, state: Any) -> Array | bool:
        """Whether a step says that the model should be made anew."""
        del before, state
        return False

    def _slack(self, state: Any) -> Array:
        r"""The number :math:`\eta_k` of a search."""
        return jnp.zeros_like(state.error)

    # ---- The iteration --------------------------------------------------------------------------------------------

    def _first_point(self, init_params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The initial point, within the bounds."""
        del args, kwargs
        return self._inside(init_params)

    def init_state(self, init_params: PyTree, *args: Any, **kwargs: Any) -> Any:
        """The state before the first iteration; evaluates ``fun``; the arguments are those of ``run``."""
        params = self._inside(init_params)
        value, aux = self._evaluate(params, *args, **kwargs)
        dtype = tree_real_dtype(params)
        error = tree_l2_norm(value).astype(dtype)
        memory = self._memory(params, flat(value), args, kwargs)
        zero = jnp.zeros((), jnp.int32)
        state = self._State(
            iter_num=zero,
            value=value,
            error=error,
            stepsize=jnp.ones((), dtype),
            aux=aux,
            failed_linesearch=jnp.asarray(False),
            num_fun_eval=jnp.ones((), jnp.int32),
            num_linesearch_iter=jnp.zeros((), jnp.int32),
            status=self._status_of(error, size=error),
            first_error=error,
            **{"num_jac_eval": jnp.zeros((), jnp.int32), **memory},
        )
        returns = _MOST_RETURNS if self.linesearch is not None and self._has_jacobian(state) else 0
        returns = jnp.where(jnp.asarray(self.patience) > 0, jnp.asarray(returns, jnp.int32), 0)
        scout = Scout(*jax.tree.map(jnp.copy, (params, value, error)), astray=jnp.copy(zero), returns=returns)
        return state._replace(scout=scout)

    def update(self, params: PyTree, state: Any, *args: Any, **kwargs: Any) -> OptStep:
        """One step towards a root of the model; returns ``OptStep(params, state)``."""
        scout, best, best_error = state.scout, (params, state.value, state.aux, state.error), state.error
        # What the model sees is the point from which the step goes.
        state = state._replace(value=scout.value, error=scout.error)
        direction, changed = self._direction(scout.params, state, args, kwargs)
        state = state._replace(**changed)
        relaxed = (scout.astray >= 0) & (scout.returns > 0)
        trial = self._search(scout.params, direction, state, best_error, relaxed, args, kwargs)
        found, better = trial.accepted, trial.improves
        old = (scout.params, state.value, state.error)
        point, value, error = tree_where(found, (trial.params, trial.value, trial.error), old)
        moved = found & ~is_still(tree_sub(point, scout.params))
        astray = jnp.where(better, 0, jnp.where(relaxed, scout.astray + 1, scout.astray))
        back = relaxed & ~better & (~moved | (astray >= jnp.asarray(self.patience).astype(jnp.int32)))
        best = tree_where(better, (trial.params, trial.value, trial.aux, trial.error), best)
        fresh = self._is_fresh(state)
        ended = ~found & (fresh | self.stop_if_linesearch_fails) | (found & ~moved & fresh)
        # From the best point a search would not find what full steps, shortened to where they are finite, have not.
        ended = ended & (~relaxed | (scout.astray == 0) & ~found)
        status = self._status_of(best[3], size=state.first_error, failed=ended, failure=Status.LINESEARCH_FAILED)
        # No progress at a small residual, or from where rounding eats every step, is a matter of precision.
        small = best[3] <= float(jnp.finfo(error.dtype).eps) ** 0.5 * state.first_error
        failed = Status.LINESEARCH_FAILED.holds(status)
        status = Status.STALLED.where(failed & (found | small), status)
        status = Status.NONFINITE.where(~found & ~jnp.isfinite(trial.error) & ended & (trial.number <= 1), status)
        step, change = flat(tree_sub(point, scout.params)), flat(tree_sub(value, state.value))
        before = state
        state = state._replace(
            iter_num=state.iter_num + 1,
            value=value,
            error=error,
            stepsize=jnp.where(found, trial.stepsize, state.stepsize),
            failed_linesearch=~found,
            num_fun_eval=state.num_fun_eval + trial.number,
            num_linesearch_iter=state.num_linesearch_iter + trial.number,
            status=status,
        )
        state = tree_where(moved, self._remember(step, change, state), state)
        outdated = back | (~moved & ~fresh) | self._is_outdated(before, state)
        point, value, error = tree_where(back, (best[0], best[1], best[3]), (point, value, error))
        state = state._replace(value=value, error=error)
        state = self._anew(Status.RUNNING.holds(status) & outdated, point, state, args, kwargs)
        scout = Scout(
            point, value, error, astray=jnp.where(back, -1, astray), returns=scout.returns - back.astype(jnp.int32)
        )
        params, value, aux, error = best
        return OptStep(params, state._replace(value=value, aux=aux, error=error, scout=scout))

    def _anew(self, wanted: Array, params: PyTree, state: Any, args: tuple, kwargs: dict) -> Any:
        """The state with a fresh model where that is wanted."""
        names = [name for name in type(state)._fields if name not in RootState._fields]
        if not names:
            return state
        old = {name: getattr(state, name) for name in (*names, "num_jac_eval")}

        def forget(old):
            return old | self._forgotten(params, state, args, kwargs)

        return state._replace(**run_where(wanted, forget, old, self._loop_kind))

    def _search(
        self, params: PyTree, direction: Array, state: Any, size: Array, relaxed: Array, args: tuple, kwargs: dict
    ) -> Trial:
        """The first trial step that lowers the norm enough below ``size``; if ``relaxed``, the first finite one."""
        dtype = state.error.dtype
        along = unraveled(params)(direction)
        fixed = self.linesearch is None or not _is_zero(self.stepsize)
        given = jnp.asarray(self.stepsize).astype(dtype)
        as_scalar = lambda value: jnp.asarray(value).astype(dtype)  # noqa: E731
        longest = jnp.maximum(as_scalar(self.increase_factor) * state.stepsize, 1)
        longest = jnp.minimum(longest, as_scalar(self.max_stepsize))
        shortest = as_scalar(self.min_stepsize)
        first = jnp.where(given > 0, given, longest) if fixed else longest
        searches = jnp.asarray(self.linesearch is not None) & (given <= 0)
        slack = self._slack(state)

        def try_next(trial):
            t = trial.stepsize
            point = self._inside(jax.tree.map(lambda x, d: x + t.astype(jnp.finfo(x.dtype).dtype) * d, params, along))
            value, aux = self._evaluate(point, *args, **kwargs)
            error = tree_l2_norm(value).astype(dtype)
            # In units of the old norm, whose square may overflow.
            ratio = error / jnp.where(size > 0, size, 1)
            finite = jnp.isfinite(ratio)
            improves = finite & (~searches | (ratio * ratio <= 1 + slack - 2 * _C1 * t))
            accepted = improves | (finite & relaxed)
            rise = 0.5 * (jnp.where(finite, ratio * ratio, 1) - 1)
            factor = jnp.minimum(shortened(-t, rise, finite), jnp.asarray(self.decrease_factor).astype(dtype))
            following = jnp.where(accepted, t, factor * t)
            return Trial(following, accepted, improves, point, value, aux, error, trial.number + 1)

        no = jnp.asarray(False)
        start = Trial(first, no, no, params, state.value, state.aux, state.error, jnp.zeros((), jnp.int32))
        most = self.maxls if self.linesearch is not None else 1
        return loop(
            lambda trial: ~trial.accepted & ((trial.number == 0) | (searches & (trial.stepsize >= shortest))),
            try_next,
            start,
            maxiter=most,
            kind=self._loop_kind,
            packed=True,
        )

    def _inside(self, params: PyTree) -> PyTree:
        """The point cut at the bounds."""
        if self.bounds is None:
            return params
        return jax.tree.map(clip_to, params, *bounds_like(self.bounds, params))

    def _evaluate(self, params, *args, **kwargs):
        out = self.fun(params, *args, **kwargs)
        value, aux = out if self.has_aux else (out, None)
        return as_like("fun", value, params), aux

    # ---- The Jacobian ---------------------------------------------------------------------------------------------

    def _linearized(self, params: PyTree, args: tuple, kwargs: dict) -> Callable[[Array], Array]:
        """The product of the Jacobian with a vector."""
        unravel = unraveled(params)
        _, product = jax.linearize(lambda x: flat(self._evaluate(unravel(x), *args, **kwargs)[0]), flat(params))
        return product

    def _jacobian(self, params: PyTree, args: tuple, kwargs: dict) -> Array:
        """The Jacobian, shape (n, n)."""
        product, x = self._linearized(params, args, kwargs), flat(params)
        return jax.vmap(product, out_axes=1)(jnp.eye(x.size, dtype=x.dtype))

    # ---- Optimality -----------------------------------------------------------------------------------------------

    def optimality_fun(self, params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The residual, a pytree like ``params``."""
        return self._evaluate(params, *args, **kwargs)[0]

    def _state_of_solution(self, params: PyTree, *args: Any, **kwargs: Any) -> dict:
        """``value`` and ``aux`` as functions of the root."""
        value, aux = self._evaluate(params, *args, **kwargs)
        return {"value": value, "aux": aux}


def _is_zero(stepsize: Any) -> bool:
    return isinstance(stepsize, (int, float)) and stepsize <= 0


def guarded_solve(matrix: Array, rhs: Array, kind: LoopKind) -> Array:
    r"""``matrix^-1 rhs``; of a matrix that is singular, or nearly so, a regularized least-squares solution.

    That is the step of Levenberg and Marquardt with a small :math:`\mu`, :math:`(J^T J + \mu I)^{-1} J^T F`.

    Args:
        matrix: shape (n, n).
        rhs: shape (n,) or (n, m).
        kind: the kind of loop that this stands in.
    """
    direct = jnp.linalg.solve(matrix, rhs)
    size = max_abs(rhs)
    solved = max_abs(matrix @ direct - rhs) <= 0.1 * size  # not so for NaN
    finite = jnp.where(jnp.isfinite(direct), direct, 0)

    def regularized(direct):
        # Two factorizations of a batch must not be independent of each other.
        scale = max_abs(matrix)
        scaled = matrix / jnp.where(scale > 0, scale, 1) + 0 * direct.reshape(-1)[0]
        damping = jnp.diag(jnp.full(matrix.shape[:1], float(jnp.finfo(matrix.dtype).eps) ** 0.5, matrix.dtype))
        return jnp.linalg.solve(scaled.T @ scaled + damping, scaled.T @ rhs) / jnp.where(scale > 0, scale, 1)

    return run_where(~solved, regularized, finite, kind)
