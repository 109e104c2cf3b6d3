r"""Backtracking: shorten the step until a condition holds, and lengthen it again where it became too short.

Problem: for :math:`\varphi(t) = f(x + t d)` with :math:`\varphi'(0) < 0` find :math:`t` with
:math:`\varphi(t) \le \varphi(0) + c_1 t \varphi'(0)` (Armijo) and, if asked for, a condition that keeps :math:`t` from
being too short. Method: while the step is too long go to the minimizer of the parabola through both values and the
slope at 0, but to a tenth of the step at least and to half of it at most. Conditions other than Armijo's can also find
it too short; then the interval between the two is searched, as in Lewis and Overton (2013, algorithm 2.6), and
the search ends.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxsolve._options import check_number, option
from jaxsolve._types import Array
from jaxsolve.linesearch._base import LineSearch, shortened
from jaxsolve.linesearch._state import Trial, Verdict

__all__ = ["BacktrackingLineSearch"]

CONDITIONS = ("armijo", "goldstein", "strong-wolfe", "wolfe")


class BacktrackingBracket(NamedTuple):
    """The longest step known to be too short and the shortest one known to be too long."""

    low: Array
    high: Array


class BacktrackingLineSearch(LineSearch):
    r"""Line search that shortens the step until a condition holds.

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
        condition: one of the above.
        c1: constant of the decrease, in (0, 1); less than 1/2 for Goldstein's condition.
        decrease_factor: largest factor by which steps shrink, in (0, 1); interpolation may choose a smaller factor,
            down to a tenth. Steps grow by its inverse, but at least by 2. With the conditions of Armijo and Goldstein
            no gradient is computed at a step that is too long.

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
        >>> round(float(stepsize), 2), int(state.iter_num)
        (0.1, 2)
    """

    condition: str = option("strong-wolfe", among=CONDITIONS)
    decrease_factor: float = option(0.8, above=0, below=1)

    def _validate(self) -> None:
        super()._validate()
        if self.condition == "goldstein":
            check_number("c1 (for condition='goldstein')", self.c1, below=0.5)

    @property
    def _has_curvature_condition(self):
        return self.condition in ("wolfe", "strong-wolfe")

    @property
    def _is_judged_by_values(self) -> bool:  # type: ignore[override]  # a constant of the other searches
        return self.condition in ("armijo", "goldstein")

    def _init_bracket(self, dtype) -> BacktrackingBracket:
        zero = jnp.zeros((), dtype)
        return BacktrackingBracket(zero, zero + jnp.inf)

    def _judge(self, trial: Trial, decrease_error: Array, bracket: BacktrackingBracket) -> Verdict:
        low, high = bracket
        short_error, long_error = self._errors(trial, decrease_error)
        short = (decrease_error <= self.tol) & (short_error > self.tol)
        low, high = lax.select(short, trial.t, low), lax.select(short, high, trial.t)
        bracketed = high < jnp.inf
        half = jnp.minimum(self.decrease_factor, 0.5).astype(low.dtype)
        # The parabola is one through 0.
        interpolated = jnp.minimum(shortened(-trial.t, trial.value, trial.finite), self.decrease_factor)
        shrink = lax.select(short | (low > 0), half, interpolated.astype(low.dtype))
        stepsize = lax.select(bracketed, low + shrink * (lax.select(bracketed, high, trial.t) - low), trial.t / half)
        return Verdict(
            error=lax.max(short_error, long_error),
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
            return -(1 - self.c1) * trial.t - trial.value, decrease_error
        too_steep = -self.c2 - trial.slope
        if self.condition == "wolfe":
            return too_steep, decrease_error
        return too_steep, lax.max(decrease_error, trial.slope - self.c2)
