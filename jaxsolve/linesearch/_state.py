"""The records of a line search: its state and result, and what its parts tell each other."""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxsolve._results import show_as_line
from jaxsolve._types import Array

__all__ = ["LineSearchState", "LineSearchStep", "Trial", "Verdict"]


class LineSearchState(NamedTuple):
    r"""State of a line search; ``params``, ``value``, ``grad`` and ``aux`` belong to the best point found so far.

    After the search that is the point it returns, and a solver need not evaluate anything there again.

    Attributes:
        iter_num: number of trial points evaluated, int32.
        params: the point ``params + best_stepsize * descent_direction``.
        value: ``fun`` at that point, in the dtype ``fun`` has.
        grad: its gradient there, a pytree like the parameters.
        error: the largest violation of the conditions at the last trial point, in units in which the slope at 0 is -1;
            infinite where the value or the gradient is not finite. At most ``tol`` means accepted.
        done: whether a step was accepted. A step of length ``max_stepsize`` is accepted even if it is too short for the
            curvature condition; ``error`` then says by how much this condition is violated.
        failed: whether the search failed. The step is then the one with the lowest value among those that satisfy the
            decrease condition, or 0 if there is none.
        num_fun_eval: evaluations of ``fun``, int32.
        num_grad_eval: evaluations of its gradient, int32.
        aux: auxiliary output of ``fun`` at that point. If the search returns to the initial point without having been
            given the ``aux`` there, it is filled with zeros.
        best_stepsize: the step that leads to that point.
        init_value: value at the initial point.
        init_slope: derivative along the direction at the initial point, negative for a descent direction.
        bracket: the interval of the search and its data, a tuple of scalars; it depends on the method.
    """

    iter_num: Array
    params: Any
    value: Array
    grad: Any
    error: Array
    done: Array
    failed: Array
    num_fun_eval: Array
    num_grad_eval: Array
    aux: Any
    best_stepsize: Array
    init_value: Array
    init_slope: Array
    bracket: Any


class LineSearchStep(NamedTuple):
    """What ``update`` and ``run`` return.

    Attributes:
        stepsize: the step to try next while the search goes on, the step found when it has ended; a scalar.
        state: a :class:`LineSearchState`.
    """

    stepsize: Any
    state: Any


show_as_line(LineSearchState, "line search")
show_as_line(LineSearchStep, state_of=lambda step: step.state)


class Trial(NamedTuple):
    """A trial step, in units in which the slope at 0 is -1 and the value there 0.

    Attributes:
        t: the step.
        value: how much the value rose, divided by the slope at 0, if it is ``finite``. Where that is no more
            than ``noise``, the rise that the slopes at 0 and at the trial tell, if the function is a parabola.
        slope: the slope at the trial, likewise.
        finite: whether value and gradient are finite.
        noise: how much two values may differ by rounding alone.
    """

    t: Array
    value: Array
    slope: Array
    finite: Array
    noise: Array


class Verdict(NamedTuple):
    """What a method says about a trial.

    Attributes:
        error: largest violation of the conditions of the method; negative if they hold with room to spare.
        stop: whether there is no use in going on.
        stepsize: the next trial step.
        bracket: the bracket that results.
        too_short: whether the trial is good but for its being too short.
    """

    error: Array
    stop: Array
    stepsize: Array
    bracket: Any
    too_short: Array
