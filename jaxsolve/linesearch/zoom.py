r"""Zoom: a step that satisfies the strong Wolfe conditions.

Problem: for :math:`\varphi(t) = f(x + t d)` with :math:`\varphi'(0) < 0` find :math:`t` with

.. math::

    \varphi(t) \le \varphi(0) + c_1 t \varphi'(0), \qquad |\varphi'(t)| \le c_2 |\varphi'(0)|.

Method: the trial steps grow until an interval is known that contains such a step (Nocedal and Wright 2006, algorithm
3.5); then the interval shrinks around one (algorithm 3.6), by cubic interpolation (equation 3.59) with quadratic
interpolation, no nearer to the lower end than a tenth of the interval, and bisection as safeguards. The two phases
differ only in whether the upper end is finite, so both are one loop.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxsolve._options import option
from jaxsolve._types import Array
from jaxsolve.linesearch._base import LineSearch, shortened
from jaxsolve.linesearch._state import Trial, Verdict

__all__ = ["ZoomLineSearch"]


class ZoomBracket(NamedTuple):
    """An interval with a strong Wolfe step in it; the lower end has the lowest value so far, and may be the right one.

    Attributes:
        low: step, value and slope at the lower end, shape (3,).
        high: likewise at the upper end; the step is infinite as long as there is none.
        smooth: whether value and slope are finite at the upper end.
    """

    low: Array
    high: Array
    smooth: Array


class ZoomLineSearch(LineSearch):
    """Line search for the strong Wolfe conditions, by bracketing and zooming in.

    A trial point where the value or the gradient is not finite is treated like one where the value is too high. Where
    values differ by rounding errors only, the slopes decide (see ``c3``). The search fails early if the interval has
    become so short that values in it differ by rounding errors only.

    Attributes:
        c1: constant of Armijo's condition, in (0, 1).
        c3: if values differ relatively by less than this number, the slopes are compared instead; a number for float32,
            which is scaled to the precision of other dtypes.
        rel_tol_cubic: minimizers of the cubic nearer than this fraction of the interval to its ends are not used.
        rel_tol_quad: the same for minimizers of the quadratic.
        interval_threshold: the search fails if the interval is shorter than this fraction of its upper end.
        increase_factor: while steps grow, each increase is between this multiple of the last increase and its square.

    Raises:
        TypeError: ``fun`` is not callable, or an option is not a number.
        ValueError: an option is out of its range.

    Reference:
        Nocedal and Wright (2006), "Numerical optimization", second edition, section 3.5.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.linesearch import ZoomLineSearch
        >>> search = ZoomLineSearch(lambda x: jnp.sum((x - 3.0) ** 4))
        >>> stepsize, state = search.run(1.0, jnp.zeros(2))
        >>> bool(state.done), bool(state.value < state.init_value)
        (True, True)
    """

    c3: float = option(1e-6, at_least=0)
    rel_tol_cubic: float = option(0.2, at_least=0, below=0.5)
    rel_tol_quad: float = option(0.1, at_least=0, below=0.5)
    interval_threshold: float = option(1e-6, at_least=0, below=1)
    increase_factor: float = option(2.0, above=1)
    max_stepsize: float | None = option(None)

    @property
    def _relative_noise(self):
        return self.c3 / float(jnp.finfo(jnp.float32).eps)

    def _init_bracket(self, dtype) -> ZoomBracket:
        return ZoomBracket(jnp.asarray([0, 0, -1], dtype), jnp.asarray([jnp.inf, 0, 0], dtype), jnp.asarray(True))

    def _judge(self, trial: Trial, decrease_error: Array, bracket: ZoomBracket) -> Verdict:
        low, high = bracket.low, bracket.high
        point = lax.concatenate([x.reshape(1) for x in (trial.t, trial.value, trial.slope)], 0)

        # Algorithm 3.6: the lowest point becomes the lower end, and the slope there points into the interval.
        lower = (decrease_error <= self.tol) & (trial.value <= low[1] + trial.noise)
        turned = lower & (trial.slope * (high[0] - low[0]) >= 0)
        growing = lower & ~turned & (high[0] == jnp.inf)
        new_low = lax.select(lower, point, low)
        new_high = lax.select(turned, low, lax.select(lower, high, point))
        smooth = turned | lax.select(lower, bracket.smooth, trial.finite)

        # While growing the model is extrapolated from the last two lower ends. An interval that loses less than a
        # third of its length is cut in half next.
        other = lax.select(growing, low, new_high)
        width, old_width = lax.abs(new_high[0] - new_low[0]), lax.abs(high[0] - low[0])
        slow = (width > 0.66 * old_width) & (old_width < jnp.inf)
        # The more is known of the inside, the shorter is the way back from outside of the domain.
        known = smooth | (new_low[0] == 0)
        stepsize = self._model_step(new_low, other, smooth, slow | ~known, growing)
        scale = lax.max(new_high[0], new_low[0])
        eps = float(jnp.finfo(width.dtype).eps)
        shortest = jnp.maximum(self.interval_threshold, 4 * eps).astype(width.dtype) * scale
        return Verdict(
            error=lax.max(decrease_error, lax.abs(trial.slope) - self.c2),
            stop=(width <= shortest) & ~growing,
            stepsize=stepsize,
            bracket=ZoomBracket(new_low, new_high, smooth),
            too_short=growing,
        )

    def _model_step(self, low, other, smooth, halve, growing):
        """The next step: a minimizer of the model through two points, or a safeguard."""
        (a, fa, sa), (b, fb, sb) = low, other
        w, one = b - a, jnp.ones_like(a)
        w = lax.select(w != 0, w, one)
        # In u = (t - a) / (b - a), with slopes per unit of u: the cubic has u = (-q + sqrt(q^2 - 3 p s)) / (3 p),
        # written so that it does not divide by a small p.
        s, e, h = sa * w, sb * w, fb - fa
        p, q = s + e - 2 * h, 3 * h - 2 * s - e
        root = q * q - 3 * p * s
        real = root > 0
        denominator = q + lax.sqrt(lax.select(real, root, one))
        usable = real & (denominator != 0)
        cubic = -s / lax.select(usable, denominator, one)
        curve = h - s
        quad = -s / lax.select(curve > 0, 2 * curve, one)
        half = one / 2
        rc, rq = self.rel_tol_cubic, self.rel_tol_quad
        fallback = lax.select(halve, half, shortened(s, h, smooth))
        inner = lax.select(
            usable & smooth & ~halve & (cubic > rc) & (cubic < 1 - rc),
            cubic,
            lax.select(smooth & ~halve & (curve > 0) & (quad > rq) & (quad < 1 - rq), quad, fallback),
        )
        # While growing b lies behind a, and u < 0 ahead of it.
        rho = self.increase_factor
        ahead = lax.select(usable & (cubic < 0), -cubic, jnp.full_like(a, rho**2))
        return a + w * lax.select(growing, -jnp.clip(ahead, rho - 1, rho**2), inner)
