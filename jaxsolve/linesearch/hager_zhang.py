r"""The line search of Hager and Zhang: approximate Wolfe conditions by a double secant step.

Problem: for :math:`\varphi(t) = f(x + t d)` with :math:`\varphi'(0) < 0` find :math:`t` that satisfies the Wolfe
conditions

.. math::

    \varphi(t) \le \varphi(0) + c_1 t \varphi'(0), \qquad \varphi'(t) \ge c_2 \varphi'(0),

or the approximate ones, which hold near a minimum where the values differ by their rounding errors only,

.. math::

    (2 c_1 - 1) \varphi'(0) \ge \varphi'(t) \ge c_2 \varphi'(0), \qquad \varphi(t) \le \varphi(0) + \epsilon.

Method: an interval :math:`[a, b]` with :math:`\varphi(a) \le \varphi(0) + \epsilon`, :math:`\varphi'(a) < 0 \le
\varphi'(b)` is found and shrunk (Hager and Zhang 2005, section 4: L0 to L3, U0 to U3, S1 to S4; Hager and Zhang 2006,
B0 to B3). The paper nests three loops; here the same steps are the states of a small machine, so that there is one
loop, which evaluates one trial step a turn.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxsolve._options import option
from jaxsolve._types import Array
from jaxsolve.linesearch._base import LineSearch, shortened
from jaxsolve.linesearch._state import Trial, Verdict

__all__ = ["HagerZhangLineSearch"]


class HagerZhangBracket(NamedTuple):
    """Where the search stands.

    Attributes:
        a: lower end of the interval.
        slope_a: slope there, negative.
        value_a: value there.
        b: upper end; infinite before one is known.
        slope_b: slope there.
        rising: whether the slope at ``b`` is known to be non-negative; otherwise the value there is too high (U3, B2).
        width: length of the interval when the current round of L1 to L3 began.
        first: whether the trial is the first secant step of the round (S1), after which the second one may follow.
    """

    a: Array
    slope_a: Array
    value_a: Array
    b: Array
    slope_b: Array
    rising: Array
    width: Array
    first: Array


class HagerZhangLineSearch(LineSearch):
    """Line search for the Wolfe or the approximate Wolfe conditions of Hager and Zhang.

    A trial point where the value or the gradient is not finite is treated like one where the value is too high.

    Attributes:
        c1: constant of the decrease, in (0, 1/2); ``delta`` of the paper.
        expansion_factor: factor by which steps grow until an interval is found, above 1; ``rho`` of the paper.
        shrinkage_factor: if a round leaves more than this fraction of the interval it is cut in half; ``gamma`` of the
            paper.

    Raises:
        TypeError: ``fun`` is not callable, or an option is not a number.
        ValueError: an option is out of its range.

    Reference:
        Hager and Zhang (2005), "A new conjugate gradient method with guaranteed descent and an efficient line search";
        Hager and Zhang (2006), "Algorithm 851: CG_DESCENT".

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.linesearch import HagerZhangLineSearch
        >>> search = HagerZhangLineSearch(lambda x: jnp.sum((x - 3.0) ** 4))
        >>> stepsize, state = search.run(1.0, jnp.zeros(2))
        >>> bool(state.done), bool(state.value < state.init_value)
        (True, True)
    """

    expansion_factor: float = option(5.0, above=1)
    shrinkage_factor: float = option(0.66, above=0, below=1)
    c1: float = option(0.1, below=0.5)

    def _init_bracket(self, dtype) -> HagerZhangBracket:
        zero, infinite, no = jnp.zeros((), dtype), jnp.full((), jnp.inf, dtype), jnp.asarray(False)
        return HagerZhangBracket(zero, zero - 1, zero, infinite, zero, no, infinite, no)

    def _decrease_error(self, trial: Trial) -> Array:
        """Violation of Armijo's condition or of its approximate form, whichever is less (T1 and T2)."""
        approximate = lax.max(trial.value - trial.noise, trial.slope - (1 - 2 * self.c1))
        return lax.min(trial.value + self.c1 * trial.t, approximate)

    def _judge(self, trial: Trial, decrease_error: Array, bracket: HagerZhangBracket) -> Verdict:
        old = bracket
        # U1, B1: the trial is an upper end with the right slope. U2, B3: a better lower end. U3, B2: the value is too
        # high.
        rises = trial.finite & (trial.slope >= 0)
        low = trial.finite & (trial.slope < 0) & (trial.value <= trial.noise)
        growing = low & (old.b == jnp.inf)
        a, slope_a = lax.select(low, trial.t, old.a), lax.select(low, trial.slope, old.slope_a)
        value_a = lax.select(low, trial.value, old.value_a)
        b, slope_b = lax.select(low, old.b, trial.t), lax.select(low, old.slope_b, trial.slope)
        rising = rises | (low & old.rising)
        width = b - a

        # S2, S3: the second secant goes through the old and the new position of the end that moved.
        kept_t, kept_slope = lax.select(low, old.a, old.b), lax.select(low, old.slope_a, old.slope_b)
        two = old.first & rising & old.rising
        second = _secant(trial.t, trial.slope, kept_t, kept_slope, two)
        use_second = two & (second > a) & (second < b)
        # L2: otherwise the round is over, and the interval is halved if it has not shrunk enough. U3 shortens it, too.
        halve = ~rising | (~use_second & (width > self.shrinkage_factor * old.width))
        first = ~use_second & ~halve
        secant = _secant(a, slope_a, b, slope_b, first)
        known = lax.select(growing, trial.t, b)
        half = jnp.full_like(a, 0.5)
        # Where only the value says that the step is too long, it says by how much. After a trial outside of the domain
        # the way back is the shorter the more is known of the inside.
        length = known - a
        too_high = ~low & ~rises & (trial.finite | (a == 0))
        shrink = lax.select(too_high, shortened(slope_a * length, trial.value - value_a, trial.finite), half)
        middle = a + shrink * length
        inside = (secant > a) & (secant < b)
        stepsize = lax.select(use_second, second, lax.select(first & inside, secant, middle))
        # A secant through a slope that is far too steep leads next to nowhere.
        tenth = 0.1 * length
        stepsize = lax.max(a + tenth, lax.min(stepsize, known - tenth))
        return Verdict(
            error=lax.max(decrease_error, -self.c2 - trial.slope),
            stop=(width <= 4 * float(jnp.finfo(b.dtype).eps) * b) & (b < jnp.inf),
            stepsize=lax.select(growing, trial.t * self.expansion_factor, stepsize),
            # After halving, and while there is no proper interval, the next trial begins a new round.
            bracket=HagerZhangBracket(
                a, slope_a, value_a, b, slope_b, rising, lax.select(use_second, old.width, width), first
            ),
            too_short=growing,
        )


def _secant(s: Array, slope_s: Array, t: Array, slope_t: Array, valid: Array) -> Array:
    """The zero of the line through two slopes; anything where ``valid`` does not hold or the slopes agree."""
    difference = slope_t - slope_s
    valid = valid & (difference != 0)
    step = lax.select(valid, t, s) - s
    return s - slope_s * step / lax.select(valid, difference, jnp.ones_like(difference))
