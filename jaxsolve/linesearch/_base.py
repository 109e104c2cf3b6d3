r"""What the line searches share: one loop that evaluates one trial point a turn, and the bookkeeping around it.

All of them look at :math:`\varphi(t) = f(x + t d)` for a descent direction :math:`d`, in units in which the slope at 0
is -1:

.. math::

    \hat\varphi(t) = \frac{\varphi(t) - \varphi(0)}{|\varphi'(0)|}, \qquad
    \hat\varphi'(t) = \frac{\varphi'(t)}{|\varphi'(0)|}, \qquad \hat\varphi(0) = 0, \quad \hat\varphi'(0) = -1.

In these units Armijo's condition is :math:`\hat\varphi(t) \le -c_1 t`, curvature is :math:`\hat\varphi'(t) \ge -c_2`,
and nothing depends on the scale of the objective or of the direction. A search is a rule ``_judge`` that looks at one
trial and says whether it is accepted, and which step to try next if it is not.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._closure import Staged
from jaxsolve._compat import is_concrete, outside_transformations, without_our_frames
from jaxsolve._compile import compiled_call
from jaxsolve._loop import LoopKind, loop, run_where
from jaxsolve._options import Configured, check_callable, option
from jaxsolve._precision import at_full_precision
from jaxsolve._types import Array, PyTree
from jaxsolve.linesearch._state import LineSearchState, LineSearchStep, Trial, Verdict
from jaxsolve.tree_util import (
    tree_add_scalar_mul,
    tree_cast_like,
    tree_negative,
    tree_real_dtype,
    tree_vdot_real,
    tree_zeros_like,
)

__all__ = ["LineSearch", "shortened"]


# The default of an argument for which None means something.
NOT_GIVEN = ...

# After so many trials a search that sees nothing but rounding errors ends.
_MOST_ROUNDED_TRIALS = 10

# A step that is too long is shortened to no less than this fraction, and to no more than half.
_SHORTEST = 0.1


class LineSearch(Configured):
    """Base of the line searches. A subclass gives ``_init_bracket`` and ``_judge``.

    Attributes:
        fun: smooth function ``fun(params, *fun_args, **fun_kwargs)`` with a real scalar value. ``params`` may have
            complex leaves; gradients are those of ``jax.grad``, and the direction of steepest descent is
            ``-conj(grad)``.
        value_and_grad: whether ``fun`` returns ``(value, grad)``.
        has_aux: whether ``fun`` returns ``(value, aux)`` in place of ``value``.
        maxiter: largest number of trial points, at least 1.
        tol: allowed violation of the conditions, in units in which the slope at 0 is -1.
        c1: constant of the decrease, in (0, 1).
        c2: constant of the curvature condition, in (c1, 1).
        max_stepsize: largest step, ``None`` for no bound.
        verbose: print one line per iteration, also under ``jit``.
        jit: ``False`` runs a Python loop over concrete values; use it for functions that run on the host.
        unroll: with ``True`` the search can be differentiated in reverse mode; with ``"checkpoint"`` too, in less
            memory; with ``"auto"`` and ``False`` it cannot.

    Raises:
        TypeError: ``fun`` is not callable, or an option is not a number.
        ValueError: an option is out of its range.
    """

    fun: Callable
    value_and_grad: bool = option(False)
    has_aux: bool = option(False)
    maxiter: int = option(30, at_least=1)
    tol: float = option(0.0, at_least=0)
    c1: float = option(1e-4, above=0, below=1)
    c2: float = option(0.9, above=0, below=1)
    max_stepsize: float | None = option(1.0, above=0)
    verbose: bool = option(False)
    jit: bool | str = option("auto", among=("auto", True, False))
    unroll: bool | str = option("auto", among=("auto", True, False, "scan", "checkpoint"))

    # ---- The public methods ------------------------------------------------------------------------------------------

    def init_state(
        self,
        init_stepsize: Any,
        params: PyTree,
        value: Any = None,
        grad: PyTree = None,
        descent_direction: PyTree = None,
        fun_args: Sequence = (),
        fun_kwargs: Mapping[str, Any] | None = None,
        aux: Any = NOT_GIVEN,
    ) -> LineSearchState:
        """The state before the first trial; the arguments are those of :meth:`run`."""
        del init_stepsize
        params = tree_cast_like(params, params)
        missing = value is None or grad is None
        if missing:
            (value, aux), grad = self._evaluate(params, *fun_args, **(fun_kwargs or {}))
        elif not self.has_aux or (aux is NOT_GIVEN and self._kind == "python"):
            aux = None
        elif aux is NOT_GIVEN:
            # Only the shapes of the auxiliary output are wanted; they cost nothing at run time.
            aux = tree_zeros_like(self._evaluate(params, *fun_args, **(fun_kwargs or {}))[0][1])
        grad = tree_cast_like(grad, params)
        direction = _direction(params, grad, descent_direction)
        dtype = tree_real_dtype(params)
        value = jnp.asarray(value, jnp.result_type(value))
        slope = _slope(grad, direction).astype(dtype)
        zero, count = jnp.zeros((), dtype), jnp.asarray(int(missing), jnp.int32)
        # A NaN compares as not less: everything that is no descent from a finite point fails here.
        hopeless = ~((slope < 0) & (slope > -jnp.inf) & jnp.isfinite(value))
        return LineSearchState(
            iter_num=jnp.zeros((), jnp.int32),
            params=params,
            value=value,
            grad=grad,
            error=jnp.full((), jnp.inf, dtype),
            done=jnp.asarray(False),
            failed=hopeless,
            num_fun_eval=count,
            num_grad_eval=count,
            aux=aux,
            best_stepsize=zero,
            init_value=value,
            init_slope=slope,
            bracket=self._init_bracket(dtype),
        )

    def update(
        self,
        stepsize: Any,
        state: LineSearchState,
        params: PyTree,
        value: Any = None,
        grad: PyTree = None,
        descent_direction: PyTree = None,
        fun_args: Sequence = (),
        fun_kwargs: Mapping[str, Any] | None = None,
    ) -> LineSearchStep:
        """Evaluate one trial step and decide.

        Args:
            stepsize: the step to try, a scalar.
            state: the state before it.
            params: the initial point of the search, not that of the state.
            value: value at ``params``; not used, because the state has it.
            grad: gradient at ``params``; used only as the direction, if there is none.
            descent_direction: the direction, a pytree like ``params``; ``None`` means ``-conj(grad)``.
            fun_args: further positional arguments of ``fun``.
            fun_kwargs: keyword arguments of ``fun``.

        Returns:
            ``LineSearchStep(stepsize, state)``: the step to try next, or the final one once the state is
            ``done`` or ``failed``.
        """
        del value
        fun_kwargs = fun_kwargs or {}
        params = tree_cast_like(params, params)
        if descent_direction is None and grad is None:
            grad = self._evaluate(params, *fun_args, **fun_kwargs)[1]
        direction = _direction(params, grad, descent_direction)
        dtype = state.best_stepsize.dtype
        stepsize = self._clip(jnp.asarray(stepsize).astype(dtype))
        return self._in_dtype(dtype)._try(stepsize, state, params, direction, fun_args, fun_kwargs)

    @without_our_frames
    def run(
        self,
        init_stepsize: Any,
        params: PyTree,
        value: Any = None,
        grad: PyTree = None,
        descent_direction: PyTree = None,
        fun_args: Sequence = (),
        fun_kwargs: Mapping[str, Any] | None = None,
        aux: Any = NOT_GIVEN,
    ) -> LineSearchStep:
        """Search for a step.

        Args:
            init_stepsize: first trial step, a positive scalar; no longer than ``max_stepsize``.
            params: initial point, a pytree.
            value: ``fun`` there; evaluated if missing.
            grad: its gradient there, a pytree like ``params``; evaluated if missing.
            descent_direction: the direction, a pytree like ``params``; ``None`` means ``-conj(grad)``.
            fun_args: further positional arguments of ``fun``.
            fun_kwargs: keyword arguments of ``fun``.
            aux: auxiliary output at ``params``, in case the search returns to this point. If it is given together with
                ``value`` and ``grad``, one trace of ``fun`` is saved.

        Returns:
            ``LineSearchStep(stepsize, state)``; the new point, its value and its gradient are in the state.
        """
        arguments = (params, value, grad, descent_direction, tuple(fun_args), dict(fun_kwargs or {}), aux)
        if self.jit is not False and outside_transformations():
            return compiled_call(LineSearch._run, self, init_stepsize, *arguments)
        return self._run(init_stepsize, *arguments)

    # ---- The loop ----------------------------------------------------------------------------------------------------

    @at_full_precision
    def _run(self, init_stepsize, params, value, grad, direction, fun_args, fun_kwargs, aux):
        aux = aux if self.has_aux else None
        search = self
        # What is needed in more than one place is traced beforehand.
        again = value is None or grad is None or aux is NOT_GIVEN or self._kind == "checkpoint"
        again = again or self._is_judged_by_values
        if again and self._kind != "python":
            search = dataclasses.replace(self, fun=Staged(self._evaluate), value_and_grad=True, has_aux=True)
        state = search.init_state(init_stepsize, params, value, grad, direction, fun_args, fun_kwargs, aux)
        params = state.params
        direction = _direction(params, state.grad, direction)
        stepsize = jnp.asarray(init_stepsize).astype(state.best_stepsize.dtype)
        stepsize = lax.select(state.failed, jnp.zeros_like(stepsize), stepsize)
        return loop(
            lambda step: ~(step.state.done | step.state.failed),
            lambda step: search.update(step.stepsize, step.state, params, None, None, direction, fun_args, fun_kwargs),
            LineSearchStep(stepsize, state),
            maxiter=self.maxiter,
            kind=self._kind,
            packed=True,
        )

    def _try(self, t, state, params, direction, fun_args, fun_kwargs) -> LineSearchStep:
        """Evaluate the trial step ``t`` and decide."""
        dtype = t.dtype
        point = tree_add_scalar_mul(params, t, direction)
        noise = self._noise(state, dtype)
        if self._is_judged_by_values:
            (value, aux), grad, evaluated = self._value_first(point, t, state, noise, fun_args, fun_kwargs)
        else:
            (value, aux), grad = self._evaluate(point, *fun_args, **fun_kwargs)
            evaluated = True
        value = value.astype(state.value.dtype)
        slope = _slope(grad, direction).astype(dtype)
        # One entry of the gradient that is not finite suffices to make the slope so, even where the direction is 0.
        finite = lax.is_finite(value) & lax.is_finite(slope)
        zero = jnp.zeros_like(t)
        if self._kind != "while":
            # A derivative that is 0 times NaN is NaN: what is not used must be finite if it is to be differentiated.
            safe_grad = jax.tree.map(lambda g: lax.select(finite, g, jnp.zeros_like(g)), grad)
            slope = _slope(safe_grad, direction).astype(dtype)
        rise = lax.select(finite, (value - state.init_value).astype(dtype), zero)
        slope = lax.select(finite, slope, zero)
        unit = 1 / lax.select(state.init_slope < 0, -state.init_slope, jnp.ones_like(t))
        # Where values differ by rounding alone the slopes tell them apart: the rise of the parabola that has both.
        blurred = lax.abs(rise) <= noise
        rise = lax.select(blurred, (state.init_slope + slope) * (t / 2), rise)
        trial = Trial(t=t, value=rise * unit, slope=slope * unit, finite=finite, noise=noise * unit)
        infinite = jnp.full_like(t, jnp.inf)
        decrease_error = lax.select(finite, self._decrease_error(trial), infinite)
        verdict = self._judge(trial, decrease_error, state.bracket)
        iter_num = state.iter_num + 1
        error = lax.select(finite, lax.max(verdict.error, zero), infinite)
        done = (error <= self.tol) | (verdict.too_short & (t >= self._longest(dtype)))
        # Where the decrease that the slope at 0 promises is below rounding, and neither value nor slope has changed,
        # rounding has eaten the step, and so it will any shorter one.
        eps = float(jnp.finfo(dtype).eps)
        rounded = finite & blurred & ~verdict.too_short
        stuck = rounded & (lax.abs(trial.slope + 1) <= 8 * eps) & (trial.t <= trial.noise)
        # Slopes that have not settled the matter by then are rounding errors too.
        exhausted = rounded & (iter_num >= _MOST_ROUNDED_TRIALS)
        failed = ~done & (verdict.stop | stuck | exhausted | (iter_num >= self.maxiter))
        decreases = decrease_error <= self.tol
        better = done | (decreases & ~stuck & ((value < state.value) | (state.best_stepsize == 0)))
        new = (point, value, grad, aux, t)
        old = (state.params, state.value, state.grad, state.aux, state.best_stepsize)
        point, value, grad, aux, best = self._pick(better, new, old)
        state = state._replace(
            iter_num=iter_num,
            params=point,
            value=value,
            grad=grad,
            error=error,
            done=done,
            failed=failed,
            num_fun_eval=state.num_fun_eval + 1,
            num_grad_eval=state.num_grad_eval + jnp.asarray(evaluated, jnp.int32),
            aux=aux,
            best_stepsize=best,
            bracket=verdict.bracket,
        )
        if self.verbose:
            jax.debug.print(
                type(self).__name__ + ": iter {i:3d}  stepsize {t:.6e}  value {v:.6e}  error {e:.6e}",
                i=iter_num, t=t, v=state.value, e=error,
            )  # fmt: skip
        return LineSearchStep(lax.select(done | failed, best, self._clip(verdict.stepsize)), state)

    def _value_first(self, point, t, state, noise, fun_args, fun_kwargs):
        """Value, gradient, and whether there is one: only where the value is low enough, or says nothing."""
        if self.value_and_grad:
            value, aux = self._evaluate(point, *fun_args, **fun_kwargs)[0]  # XLA drops what is not used
        else:
            out = self.fun(point, *fun_args, **fun_kwargs)
            value, aux = out if self.has_aux else (out, None)
            value = jnp.asarray(value)
        rise = (value.astype(state.value.dtype) - state.init_value).astype(t.dtype)
        tol = -self.tol * state.init_slope
        # A NaN is not at most anything.
        wanted = (rise <= self.c1 * t * state.init_slope + tol) | (lax.abs(rise) <= noise + tol)
        wanted = wanted & lax.is_finite(value)

        def gradient(_):
            return self._evaluate(point, *fun_args, **fun_kwargs)[1]

        return (value, aux), run_where(wanted, gradient, state.grad, self._kind), wanted

    #: Whether a trial with a value that is too high is rejected whatever its slope.
    _is_judged_by_values = False

    # ---- Parts of a method -------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def _init_bracket(self, dtype) -> Any:
        """What is known before the first trial."""

    @abc.abstractmethod
    def _judge(self, trial: Trial, decrease_error: Array, bracket: Any) -> Verdict:
        """Accept a trial or say what to try next; ``decrease_error`` is that of :meth:`_decrease_error` or infinite."""

    def _decrease_error(self, trial: Trial) -> Array:
        r"""Violation of Armijo's condition.

        Where values differ by rounding only, it is :math:`\hat\varphi'(t) \le 1 - 2 c_1`, by what is taken for the
        value there (Hager and Zhang 2005, equation 4.1).
        """
        return trial.value + self.c1 * trial.t

    def _noise(self, state: LineSearchState, dtype) -> Array:
        """How much two values may differ by rounding alone."""
        eps = float(max(jnp.finfo(dtype).eps, jnp.finfo(state.value.dtype).eps))
        return self._relative_noise * eps * jnp.abs(state.init_value.astype(dtype))

    #: Whether ``c2`` is used, which must exceed ``c1`` then.
    _has_curvature_condition = True

    # In units of the rounding error of the value; a sum of many terms loses a few of them.
    _relative_noise: ClassVar[Any] = 1e-6 / float(np.finfo(np.float32).eps)

    def _longest(self, dtype) -> Array:
        return jnp.full((), jnp.inf, dtype) if self.max_stepsize is None else jnp.asarray(self.max_stepsize, dtype)

    def _clip(self, t: Array) -> Array:
        return t if self.max_stepsize is None else lax.min(t, self._longest(t.dtype))

    # ---- The objective -----------------------------------------------------------------------------------------------

    def _evaluate(self, params, *args, **kwargs):
        """``((value, aux), grad)`` with an array as value and the gradient in the dtypes of ``params``."""
        if self.value_and_grad:
            out, grad = self.fun(params, *args, **kwargs)
        else:
            out, grad = jax.value_and_grad(self.fun, has_aux=self.has_aux)(params, *args, **kwargs)
        value, aux = out if self.has_aux else (out, None)
        return (jnp.asarray(value), aux), tree_cast_like(grad, params)

    @property
    def _kind(self) -> LoopKind:
        if self.jit is False:
            return "python"
        if self.unroll == "checkpoint":
            return "checkpoint"
        return "scan" if self.unroll in (True, "scan") else "while"

    def _pick(self, condition, new, old):
        if self._kind == "python":
            # Auxiliary output of host functions may be anything.
            return new if condition else old
        return jax.tree.map(lambda x, y: lax.select(condition, x, y), new, tree_cast_like(old, new))

    def _in_dtype(self, dtype) -> LineSearch:
        """The same search with array-valued options in the working precision, which strict promotion asks for."""
        arrays = {k: v for k, v in vars(self).items() if isinstance(v, (jax.Array, np.ndarray, np.generic))}
        arrays = {k: jnp.asarray(v, jnp.int32 if k == "maxiter" else dtype) for k, v in arrays.items()}
        return dataclasses.replace(self, **arrays) if arrays else self

    # ---- Checks ------------------------------------------------------------------------------------------------------

    def _validate(self) -> None:
        super()._validate()
        check_callable("fun", self.fun, "a function fun(params, *args, **kwargs)")
        known = is_concrete(self.c1) and is_concrete(self.c2)
        if self._has_curvature_condition and known and not self.c1 < self.c2:
            raise ValueError(f"c1 must be less than c2, got c1={self.c1!r} and c2={self.c2!r}.")


def _direction(params: PyTree, grad: PyTree, given: PyTree) -> PyTree:
    """The direction of a search, in the dtypes of the parameters."""
    return tree_cast_like(tree_negative(jax.tree.map(jnp.conj, grad)) if given is None else given, params)


def _slope(grad: PyTree, direction: PyTree) -> Array:
    """The derivative along a direction. By the convention of jax the gradient of a complex parameter is a conjugate."""
    return tree_vdot_real(jax.tree.map(jnp.conj, grad), direction)


def shortened(slope: Array, rise: Array, finite: Array) -> Array:
    """By which factor to shorten a step that is too long: the minimizer of a parabola, between a tenth and a half.

    Args:
        slope: slope at its beginning times the step.
        rise: how much higher the value is at its end.
        finite: whether that value is finite.
    """
    curvature = rise - slope
    usable = finite & (curvature > 0)
    factor = -slope / (2 * lax.select(usable, curvature, jnp.ones_like(curvature)))
    factor = lax.select(usable, factor, lax.select(finite, jnp.ones_like(factor), jnp.zeros_like(factor)))
    return jnp.clip(factor, _SHORTEST, 0.5)
