r"""Bisection.

Problem: find a root of a continuous scalar function :math:`F(x, \theta)` between two points where it has opposite
signs, or of many such functions at once, one an entry. Method: halve the interval. Optimality: :math:`F(x, \theta) =
0`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._compat import is_concrete, max_abs
from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep
from jaxsolve.base import IterativeSolver, option

__all__ = ["Bisection", "BisectionState"]


class BisectionState(NamedTuple):
    """State of the bisection.

    Attributes:
        iter_num: number of halvings done, int32.
        value: the function at the current point.
        error: largest absolute value of the function.
        low: lower end of the interval.
        high: upper end of the interval.
        sign: 1 where the function increases from ``low`` to ``high``, -1 where it decreases.
        aux: auxiliary output of the function.
        num_fun_eval: evaluations of the function, int32.
        status: a :class:`jaxsolve.Status`, int32.
        first_error: largest absolute value of the function at the ends, used with ``rtol``; ``None`` if ``rtol``
            is 0.
    """

    iter_num: Array
    value: Array
    error: Array
    low: Array
    high: Array
    sign: Array
    aux: Any = None
    num_fun_eval: Any = 0
    status: Any = 0
    first_error: Any = None


class Bisection(IterativeSolver):
    """Bisection on an interval, or on many at once.

    ``run(None, *args, **kwargs)`` finds ``x`` with ``optimality_fun(x, *args, **kwargs) = 0``. An initial point is
    accepted, as by other solvers, but only its dtype is used, and only if ``lower`` and ``upper`` are Python numbers.

    Attributes:
        optimality_fun: continuous function of an array, applied entry by entry: its result has the shape of its
            argument.
        lower: lower end of the interval, a number or an array.
        upper: upper end; its shape must broadcast with that of ``lower``.
        check_bracket: raise ``ValueError`` after an eager run if the function has the same sign at both ends. Under a
            transformation, and with ``False``, such a run ends with ``Status.INVALID_BRACKET``.
        has_aux: whether ``optimality_fun`` returns ``(value, aux)``.
        rtol: relative tolerance: the run has converged when ``state.error`` is at most
            ``tol + rtol * state.first_error``. May be traced.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> solver = jaxsolve.Bisection(lambda x, theta: x ** 3 - theta, lower=0.0, upper=3.0)
        >>> round(float(solver.run(None, 8.0).params), 4)
        2.0
        >>> round(float(jax.grad(lambda theta: solver.run(None, theta).params)(8.0)), 4)
        0.0833
    """

    optimality_fun: Callable = dataclasses.field()  # in place of the method of the other solvers
    lower: Any
    upper: Any
    check_bracket: bool = option(True)
    has_aux: bool = option(False)
    maxiter: int = option(30)
    tol: float = option(1e-5)
    rtol: float = option(0.0, at_least=0)

    _State = BisectionState
    _handles_nonfinite = True
    _needs_init_params = False

    def _validate(self) -> None:
        """Raise for an impossible option."""
        super()._validate()
        if not self.implicit_diff:
            raise ValueError(
                "Bisection has implicit_diff=True only: its iterates are midpoints, which do not move with the data, "
                "so unrolling them gives a zero derivative."
            )
        for name in ("lower", "upper"):
            end = getattr(self, name)
            if not isinstance(end, (int, float, jax.Array, np.ndarray, np.generic)):
                raise TypeError(f"{name} must be a number or an array, got {end!r} of type {type(end).__name__}.")
            if is_concrete(end) and not np.all(np.isfinite(end)):
                raise ValueError(f"{name} must be finite, got {end!r}.")
        known = is_concrete(self.lower) and is_concrete(self.upper)
        if known and np.any(np.greater(self.lower, self.upper)):
            raise ValueError(f"lower must not exceed upper, got lower={self.lower!r} and upper={self.upper!r}.")

    def _first_point(self, init_params: Any, *args: Any, **kwargs: Any) -> Array:
        """The middle of the interval."""
        low, high = self._interval(init_params, args, kwargs)
        return low + 0.5 * (high - low)

    def init_state(self, init_params: Any = None, *args: Any, **kwargs: Any) -> BisectionState:
        """The state before the first halving; evaluates the function at both ends."""
        low, high = self._interval(init_params, args, kwargs)
        at_low, _ = self._evaluate(low, *args, **kwargs)
        at_high, aux = self._evaluate(high, *args, **kwargs)
        crossing = jnp.all(jnp.sign(at_low) * jnp.sign(at_high) <= 0)
        status = Status.INVALID_BRACKET.where(~crossing, int(Status.RUNNING))
        finite = jnp.all(jnp.isfinite(at_low) & jnp.isfinite(at_high))
        largest = jnp.maximum(max_abs(at_low), max_abs(at_high))
        return BisectionState(
            iter_num=jnp.zeros((), jnp.int32),
            value=at_high,
            error=jnp.asarray(jnp.inf, low.dtype),
            low=low,
            high=high,
            # A root at an end gives no sign of its own: the other end decides.
            sign=jnp.where((at_low < 0) | ((at_low == 0) & (at_high > 0)), 1, -1).astype(low.dtype),
            aux=aux,
            num_fun_eval=jnp.asarray(2, jnp.int32),
            status=Status.NONFINITE.where(~finite, status),
            first_error=largest if self._is_relative else None,
        )

    def update(self, params: Array, state: BisectionState, *args: Any, **kwargs: Any) -> OptStep:
        """Evaluate at the middle and keep the half with the sign change; returns ``OptStep(params, state)``."""
        middle = state.low + 0.5 * (state.high - state.low)
        value, aux = self._evaluate(middle, *args, **kwargs)
        above = state.sign * value >= 0
        low, high = jnp.where(above, state.low, middle), jnp.where(above, middle, state.high)
        error = max_abs(value)
        # Between two neighboring floating-point numbers there is no third.
        exhausted = jnp.all((low == state.low) & (high == state.high))
        new_state = state._replace(
            iter_num=state.iter_num + 1,
            value=value,
            error=error,
            low=low,
            high=high,
            aux=aux,
            num_fun_eval=state.num_fun_eval + 1,
            status=self._status_of(error, size=state.first_error, failed=exhausted),
        )
        return OptStep(middle, new_state)

    def _residual(self, params: Array, *args: Any, **kwargs: Any) -> Array:
        """The function at ``params``."""
        return self._evaluate(params, *args, **kwargs)[0]

    def _state_of_solution(self, params: Array, *args: Any, **kwargs: Any) -> dict:
        """``aux`` as a function of the root."""
        return {"aux": self._evaluate(params, *args, **kwargs)[1]}

    def _check_result(self, state: BisectionState) -> None:
        """Raise ``ValueError`` for a concrete state without a sign change, if asked to."""
        if not self.check_bracket or not is_concrete(state.status):
            return
        if np.any(np.asarray(state.status) == Status.INVALID_BRACKET):
            raise ValueError(
                "optimality_fun has the same sign at lower and upper, so it need not have a root between them: "
                f"lower={self.lower!r}, upper={self.upper!r}."
            )

    def _evaluate(self, x, *args, **kwargs):
        out = self.optimality_fun(x, *args, **kwargs)
        value, aux = out if self.has_aux else (out, None)
        if jnp.shape(value) != jnp.shape(x):
            raise ValueError(
                f"optimality_fun must return one value per entry: given shape {jnp.shape(x)}, it returned "
                f"{jnp.shape(value)}."
            )
        return jnp.asarray(value).astype(x.dtype), aux

    def _interval(self, init_params, args, kwargs):
        dtype = _dtype_of((self.lower, self.upper)) or _dtype_of(init_params) or _dtype_of((args, kwargs))
        dtype = jnp.result_type(float) if dtype is None else dtype
        low, high = (jnp.asarray(end).astype(dtype) for end in (self.lower, self.upper))
        shape = jnp.broadcast_shapes(low.shape, high.shape)
        return jnp.broadcast_to(low, shape), jnp.broadcast_to(high, shape)


def _dtype_of(tree):
    """The widest floating dtype among the strongly typed leaves, or ``None``."""
    leaves = [x for x in jax.tree.leaves(tree) if hasattr(x, "dtype") and not getattr(x, "weak_type", False)]
    dtypes = [x.dtype for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
    return max(dtypes, key=lambda d: jnp.finfo(d).bits, default=None)
