"""The judgment of a trial point: what a step brings, against what the model said that it would."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxsolve._loop import run_where
from jaxsolve._status import Status
from jaxsolve._types import Array, PyTree
from jaxsolve._vectors import flat
from jaxsolve.solvers._bounds import clip_to
from jaxsolve.solvers.least_squares._losses import cost_decrease
from jaxsolve.solvers.least_squares._model import Model, all_finite, column_lengths
from jaxsolve.tree_util import tree_l2_norm

__all__ = ["Trial", "status_after", "try_step"]

# A step is accepted if the cost decreases by this fraction of what the model predicts.
_LEAST_RATIO = 1e-4


class Trial(NamedTuple):
    """What came of a trial point.

    Attributes:
        params: the point, or the old one if it was rejected.
        fields: the fields of the state that belong to it.
        accepted: whether it was accepted.
        ratio: decrease of the cost over that of the model; where both are rounding, 1 or 0.
        decrease: decrease of the cost; 0 where it is not finite.
        finite: whether everything was finite there.
        length: norm of the step in the units of the variables.
    """

    params: PyTree
    fields: dict[str, Any]
    accepted: Array
    ratio: Array
    decrease: Array
    finite: Array
    length: Array


def try_step(
    method: Any,
    params: PyTree,
    state: Any,
    model: Model,
    step: Array,
    scale: Array,
    args: tuple,
    kwargs: dict,
    allowed: Array | bool = True,
    predicted: Array | None = None,
) -> Trial:
    """Evaluate at the end of a step and decide.

    Args:
        method: the least-squares method.
        params: the current point.
        state: the state there.
        model: the model there.
        step: a vector; one that is not finite is rejected.
        scale: one over the units of the variables.
        args: data.
        kwargs: data.
        allowed: whether the point may be accepted.
        predicted: decrease of the model, if that is not the one at the end of the step.
    """
    dtype, box = model.x.dtype, method._box(params)
    usable = all_finite(step)
    point = model.x + jnp.where(usable, step, 0)
    point = point if box is None else clip_to(point, *box)
    new_params = model.unravel(point)
    point = flat(new_params, dtype)
    step = point - model.x
    residual, aux = method._residuals(new_params, args, kwargs)
    old, new = flat(state.residual, dtype), flat(residual, dtype)
    finite = all_finite(new)
    # What is not used must be finite if it is to be differentiated.
    new = jnp.where(finite, new, old)
    actual = cost_decrease(method.loss, method._scale_of_loss(dtype), old, new)
    expected = model.decrease(step) if predicted is None else predicted
    # Residuals are differences, as precise as what is subtracted: that is of the size of J x.
    plain = method.loss == "linear"
    length = jnp.sqrt(2 * lax.stop_gradient(state.value)).astype(dtype) if plain else tree_l2_norm(old)
    size = length * (length + tree_l2_norm(scale * model.x))
    noise = 2 * float(jnp.finfo(dtype).eps) * size
    rounded = (jnp.abs(actual) <= noise) & (jnp.abs(expected) <= noise)
    decreases = (expected > 0) & (actual >= _LEAST_RATIO * expected)
    candidate = finite & usable & allowed & (decreases | rounded)
    # Where costs differ by rounding the least gradient counts, in the units of the variables here: those of the
    # damping may come from a point far away.
    lengths = scale if state.jac is None else column_lengths(state.jac)
    lengths = jnp.where(lengths > 0, lengths, 1)

    def size_of(at, slope):
        scaled = jnp.where(method._held(at, slope, box), 0, slope) / lengths
        return jnp.vdot(scaled, scaled)

    # The judgment as a number: 1 if the point is accepted, -1 if something is not finite there. What depends on it is
    # chosen where it is made: a kernel that chooses out here would work out the judgment once more.
    def evaluate(carry):
        jac, new_gradient = method._derivatives(new_params, residual, args, kwargs)
        accepted = ~rounded | (size_of(point, new_gradient) < size_of(model.x, model.gradient))
        judgment = jnp.where(all_finite(new_gradient), accepted.astype(jnp.int32), -1)
        found = method._where(judgment > 0, (jac, new_gradient), carry[0])
        return found, judgment

    judgment = jnp.where(finite, 0, -1).astype(jnp.int32)
    (jac, gradient), judgment = run_where(
        candidate, evaluate, ((state.jac, model.gradient), judgment), method._loop_kind
    )
    gradient = model.unravel(gradient)
    accepted, finite = judgment > 0, judgment >= 0
    ratio = actual / jnp.where(expected > 0, expected, 1)
    ratio = jnp.where(rounded | ~accepted, jnp.where(accepted, 1, 0).astype(dtype), ratio)
    kept = (params, state.residual, state.aux)
    new_params, residual, aux = method._where(accepted, (new_params, residual, aux), kept)
    error = method._error_of(flat(new_params, dtype), flat(gradient, dtype), box)
    fields = {
        "residual": residual,
        "gradient": gradient,
        "jac": jac,
        "aux": aux,
        "iter_num": state.iter_num + 1,
        "value": jnp.where(accepted, method._cost(new).astype(state.value.dtype), state.value),
        "error": error,
        "num_fun_eval": state.num_fun_eval + 1,
        "num_jac_eval": state.num_jac_eval + candidate.astype(jnp.int32),
    }
    return Trial(new_params, fields, accepted, ratio, actual, finite & usable, tree_l2_norm(scale * step))


def status_after(method: Any, trial: Trial, model: Model, scale: Array, hopeless: Array, state: Any) -> Array:
    """The status after a trial, where ``hopeless`` says that no later one can do better."""
    eps = float(jnp.finfo(model.x.dtype).eps)
    still = trial.length <= eps * tree_l2_norm(scale * model.x)
    stalled = ~trial.accepted & (still | hopeless)
    status = method._status_of(trial.fields["error"], size=state.first_error, failed=stalled)
    return Status.NONFINITE.where(Status.STALLED.holds(status) & ~trial.finite, status)
