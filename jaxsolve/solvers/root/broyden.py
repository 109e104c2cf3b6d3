r"""Broyden's method for systems of equations, with a dense model or one of limited memory.

Problem: find :math:`x` with :math:`F(x, \theta) = 0`. Method: :math:`x_{k+1} = x_k - t_k H_k F(x_k)`. With
:math:`s = x_{k+1} - x_k` and :math:`y = F(x_{k+1}) - F(x_k)` the inverse Jacobian :math:`H` of the model becomes

.. math::

    H_+ = H + \frac{(s - H y)\, s^T H}{s^T H y},

the "good" update. Optimality: :math:`F(x, \theta) = 0`.

Reference:
    Broyden (1965), "A class of methods for solving nonlinear simultaneous equations"; Kelley (2003), "Solving nonlinear
    equations with Newton's method", chapter 4 (limited memory).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxsolve._docstrings import with_fields_of
from jaxsolve._types import Array, PyTree
from jaxsolve._vectors import flat
from jaxsolve.base import option
from jaxsolve.solvers.root._method import RootMethod, RootState, guarded_solve

__all__ = ["Broyden", "BroydenState"]

# Up to so many unknowns the first model is the inverse Jacobian, unless gamma says something else.
_MOST_EXACT = 100
# An update with a denominator below this fraction of its scale is skipped: the model would be nearly singular.
_LEAST = 0.1
_HISTORY = 30


@with_fields_of(RootState)
class BroydenState(NamedTuple):
    """State of Broyden's method: the fields of :class:`RootState`, and those of the model.

    Attributes:
        d_history: vectors :math:`H^T s` of the model of limited memory, one per row, shape (history_size, n); ``None``
            with a dense model.
        c_history: vectors :math:`(s - H y) / s^T H y`, in the same form.
        gamma: multiple of the identity in the model of limited memory; ``None`` with a dense model.
        num_pairs: number of updates of the model, int32.
        inverse: the dense model, shape (n, n); ``None`` with a model of limited memory.
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
    d_history: Any = None
    c_history: Any = None
    gamma: Any = None
    num_pairs: Any = 0
    inverse: Any = None


class Broyden(RootMethod):
    """Broyden's method: a quasi-Newton method for systems of equations.

    ``run(init_params, *args, **kwargs)`` finds ``params`` with ``fun(params, *args, **kwargs) = 0``. An iteration
    evaluates ``fun`` only. After a failed search the model is made anew; if a search with a new model fails, the run
    ends with ``Status.LINESEARCH_FAILED``.

    For up to 100 unknowns the model is a dense matrix; at first it is the inverse Jacobian at the initial point. For
    more unknowns, or with a ``history_size``, it is a multiple of the identity plus one rank-one matrix per update.

    Attributes:
        history_size: number of updates that a model of limited memory can store; when it is full, the model is made
            anew. ``None`` takes a dense model for up to 100 unknowns, and 30 for more.
        gamma: the initial model is this multiple of the identity. Its unit is that of a parameter divided by that of a
            residual. ``None`` takes the inverse Jacobian for a dense model. For a model of limited memory it takes the
            multiple that fits the Jacobian along the residual, with its sign, which costs one product with the
            Jacobian.
        condition: accepted for programs written for JAXopt, and not used.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> def circle_and_line(x, radius):
        ...     return jnp.stack([x[0] ** 2 + x[1] ** 2 - radius**2, x[0] - x[1]])
        >>> solver = jaxsolve.Broyden(circle_and_line, tol=1e-5)
        >>> params, state = solver.run(jnp.array([1.0, 0.5]), 2.0)
        >>> [round(x, 3) for x in params.tolist()], int(state.num_jac_eval)
        ([1.414, 1.414], 1)
    """

    history_size: int | None = option(None, at_least=1)
    gamma: float | None = option(None)
    condition: str | None = option(None, among=(None, "armijo", "goldstein", "strong-wolfe", "wolfe"))
    maxiter: int = option(500)

    _State = BroydenState

    # ---- The model ------------------------------------------------------------------------------------------------

    def _memory(self, params: PyTree, residual: Array, args: tuple, kwargs: dict) -> dict[str, Any]:
        size, dtype = residual.size, flat(params).dtype
        one, zero = jnp.ones((), jnp.int32), jnp.zeros((), jnp.int32)
        if self.history_size is None and size <= _MOST_EXACT:
            if self.gamma is not None:
                gamma = jnp.asarray(self.gamma).astype(dtype)
                return {"inverse": gamma * jnp.eye(size, dtype=dtype), "num_pairs": zero, "num_jac_eval": zero}
            jacobian = self._jacobian(params, args, kwargs)
            inverse = guarded_solve(jacobian, jnp.eye(size, dtype=dtype), self._loop_kind)
            return {"inverse": inverse, "num_pairs": zero, "num_jac_eval": one}
        rows = _HISTORY if self.history_size is None else self.history_size
        gamma, products = self._multiple(params, residual, args, kwargs)
        zeros = jnp.zeros((rows, size), dtype)
        histories = {"d_history": zeros, "c_history": jnp.zeros_like(zeros)}
        return {**histories, "gamma": gamma, "num_pairs": zero, "num_jac_eval": products}

    def _multiple(self, params, residual, args, kwargs):
        r"""The multiple of the identity closest to the inverse Jacobian along the residual, and what it cost."""
        dtype = flat(params).dtype
        if self.gamma is not None:
            return jnp.asarray(self.gamma).astype(dtype), jnp.zeros((), jnp.int32)
        image = self._linearized(params, args, kwargs)(residual.astype(dtype))
        length = jnp.vdot(image, image)
        usable = (length > 0) & jnp.isfinite(length)
        length = jnp.where(usable, length, 1)
        along, least = jnp.vdot(image, residual) / length, _LEAST * jnp.sqrt(jnp.vdot(residual, residual) / length)
        gamma = jnp.where(along < 0, -1, 1) * jnp.maximum(jnp.abs(along), least)
        return jnp.where(usable, gamma, 1), jnp.ones((), jnp.int32)

    def _direction(self, params: PyTree, state: Any, args: tuple, kwargs: dict) -> tuple[Array, dict[str, Any]]:
        return -_times(state, flat(state.value, flat(params).dtype)), {}

    def _remember(self, step: Array, change: Array, state: Any) -> Any:
        image, row = _times(state, change), _transposed_times(state, step)
        curvature, length = jnp.vdot(step, image), jnp.vdot(step, step)
        kept = jnp.abs(curvature) >= _LEAST * length
        column = jnp.where(kept, (step - image) / jnp.where(kept, curvature, 1), 0)
        number = state.num_pairs + 1
        if state.inverse is not None:
            return state._replace(inverse=state.inverse + jnp.outer(column, row), num_pairs=number)
        here = (jnp.arange(len(state.c_history), dtype=jnp.int32) == state.num_pairs)[:, None]
        return state._replace(
            c_history=jnp.where(here, column[None, :], state.c_history),
            d_history=jnp.where(here, row[None, :], state.d_history),
            num_pairs=number,
        )

    def _is_fresh(self, state: Any) -> Array:
        return state.num_pairs == 0

    def _is_outdated(self, before: Any, state: Any) -> Array | bool:
        if state.c_history is not None:
            return state.num_pairs >= len(state.c_history)
        # A shortened step that gains little, and a full one that loses, say that the model has become a poor one.
        shortened = state.num_fun_eval > before.num_fun_eval + 1
        poor = (shortened & (state.error > 0.5 * before.error)) | (state.error > before.error)
        return self._has_jacobian(state) & poor

    def _has_jacobian(self, state: Any) -> bool:
        return state.inverse is not None and self.gamma is None

    def _slack(self, state: Any) -> Array:
        if self._has_jacobian(state):
            return super()._slack(state)
        number = (state.iter_num + 1).astype(state.error.dtype)
        return 1 / (number * number)


def _times(state: Any, vector: Array) -> Array:
    """The model times a vector."""
    if state.inverse is not None:
        return state.inverse @ vector
    return state.gamma * vector + (state.d_history @ vector) @ state.c_history


def _transposed_times(state: Any, vector: Array) -> Array:
    """The transpose of the model times a vector."""
    if state.inverse is not None:
        return vector @ state.inverse
    return state.gamma * vector + (state.c_history @ vector) @ state.d_history
