r"""Backtracking: shorten the step until a condition holds, and lengthen it again where it became too short.

Problem: for :math:`\varphi(t) = f(x + t d)` with :math:`\varphi'(0) < 0` find :math:`t` with
:math:`\varphi(t) \le \varphi(0) + c_1 t \varphi'(0)` (Armijo) and, if asked for, a condition that keeps :math:`t` from
being too short. Method: multiply the step by a constant while it is too long. Conditions other than Armijo's can also
find it too short; then the interval between the two is searched, as in Lewis and Overton (2013, algorithm 2.6), and
the search ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve.linesearch._base import LineSearch, check_choice, check_range
from jaxsolve.linesearch._state import Trial, Verdict

__all__ = ["BacktrackingLineSearch"]

Array = jax.Array

CONDITIONS = ("armijo", "goldstein", "strong-wolfe", "wolfe")


class BacktrackingBracket(NamedTuple):
    """The longest step known to be too short and the shortest one known to be too long."""

    low: Array
    high: Array


@dataclasses.dataclass(eq=False, frozen=True)
class BacktrackingLineSearch(LineSearch):
    r"""Line search that multiplies the step by a constant until a condition holds.

    In the notation of the module, with :math:`\varphi'(0) < 0`, the conditions are

    ================  ==================================================================================================
    ``armijo``        :math:`\varphi(t) \le \varphi(0) + c_1 t \varphi'(0)`
    ``wolfe``         Armijo's and :math:`\varphi'(t) \ge c_2 \varphi'(0)`
    ``strong-wolfe``  Armijo's and :math:`|\varphi'(t)| \le c_2 |\varphi'(0)|`
    ``goldstein``     Armijo's and :math:`\varphi(t) \ge \varphi(0) + (1 - c_1) t \varphi'(0)`
    ================  ==================================================================================================

    A trial point where the value or the gradient is not finite is too long. Where values differ by their rounding
    errors only, :math:`\varphi'(t) \le (2 c_1 - 1) \varphi'(0)` stands for Armijo's condition.

    Attributes:
        fun: smooth function ``fun(params, *fun_args, **fun_kwargs)`` with a real scalar value.
        value_and_grad: whether ``fun`` returns ``(value, grad)``.
        has_aux: whether ``fun`` returns ``(value, aux)`` in place of ``value``.
        maxiter: largest number of trial points, at least 1.
        tol: violation of the condition that is tolerated, in units in which the slope at 0 is -1.
        condition: one of the above.
        c1: constant of the decrease, in (0, 1); less than 1/2 for Goldstein's condition.
        c2: constant of the curvature condition, in (c1, 1).
        decrease_factor: factor by which steps shrink, in (0, 1); they grow by its inverse.
        max_stepsize: largest step, ``None`` for no bound.
        verbose: print a line an iteration, under ``jit`` too.
        jit: ``False`` runs a Python loop over concrete values, which host functions need.
        unroll: ``True`` for a search that can be differentiated in reverse mode, ``"checkpoint"`` for one that does so
            in less memory; ``"auto"`` and ``False`` for a loop that cannot.

    Raises:
        TypeError: ``fun`` is not callable, or an option is not a number.
        ValueError: an option is out of its range.

    Reference:
        Nocedal and Wright (2006), "Numerical optimization", second edition, section 3.1; Lewis and Overton (2013),
        "Nonsmooth optimization via quasi-Newton methods".

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.linesearch import BacktrackingLineSearch
        >>> search = BacktrackingLineSearch(lambda x: 8.0 * jnp.sum(x**2), condition="armijo", decrease_factor=0.5)
        >>> stepsize, state = search.run(1.0, jnp.ones(2))
        >>> float(stepsize), int(state.iter_num)
        (0.0625, 5)
    """

    fun: Callable
    value_and_grad: bool = False
    has_aux: bool = False
    maxiter: int = 30
    tol: float = 0.0
    condition: str = "strong-wolfe"
    c1: float = 1e-4
    c2: float = 0.9
    decrease_factor: float = 0.8
    max_stepsize: float | None = 1.0
    verbose: bool = False
    jit: bool | str = "auto"
    unroll: bool | str = "auto"

    def _validate(self) -> None:
        super()._validate()
        check_choice("condition", self.condition, CONDITIONS)
        check_range("decrease_factor", self.decrease_factor, above=0, below=1)
        if self.condition == "goldstein":
            check_range("c1 (for condition='goldstein')", self.c1, below=0.5)

    def _init_bracket(self, dtype) -> BacktrackingBracket:
        zero = jnp.zeros((), dtype)
        return BacktrackingBracket(zero, zero + jnp.inf)

    def _judge(self, trial: Trial, bracket: Any) -> Verdict:
        low, high = bracket
        decrease_error = self._decrease_error(trial)
        decreases = trial.finite & (decrease_error <= self.tol)
        short_error, long_error = self._errors(trial, decrease_error)
        short = decreases & (short_error > self.tol)
        low, high = lax.select(short, trial.t, low), lax.select(short, high, trial.t)
        stepsize = lax.select(
            high < jnp.inf,
            low + self.decrease_factor * (lax.select(high < jnp.inf, high, trial.t) - low),
            trial.t / self.decrease_factor,
        )
        zero = jnp.zeros_like(low)
        return Verdict(
            error=lax.max(lax.max(short_error, long_error), zero),
            decreases=decreases,
            stop=(high - low <= 4 * float(jnp.finfo(low.dtype).eps) * high) & (high < jnp.inf),
            stepsize=stepsize,
            bracket=BacktrackingBracket(low, high),
            too_short=short & (high == jnp.inf),
        )

    def _errors(self, trial: Trial, decrease_error: Array) -> tuple[Array, Array]:
        """By how much the step is too short, and by how much it is too long."""
        if self.condition == "armijo":
            return jnp.full_like(trial.t, -jnp.inf), decrease_error
        if self.condition == "goldstein":
            # The sides of a drop that cannot be told from rounding are not told apart.
            drop = -(1 - self.c1) * trial.t - trial.value
            return lax.select(lax.abs(trial.value) <= trial.noise, -lax.abs(drop), drop), decrease_error
        too_steep = -self.c2 - trial.slope
        if self.condition == "wolfe":
            return too_steep, decrease_error
        return too_steep, lax.max(decrease_error, trial.slope - self.c2)
