r"""Anderson acceleration.

Problem: find :math:`x = T(x, \theta)`. Method: the next iterate combines the last ones so that the combination of their
residuals :math:`f = T(x) - x` is small; of an affine mapping this is GMRES in disguise. Optimality: :math:`T(x, \theta)
- x = 0`.

Reference:
    Anderson (1965), "Iterative procedures for nonlinear integral equations"; Fang and Saad (2009), "Two classes of
    multisecant methods for nonlinear acceleration" (types I and II); Walker and Ni (2011), "Anderson acceleration for
    fixed-point iterations".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.base import IterativeSolver, as_like, option
from jaxsolve.solvers._gradient_method import is_still
from jaxsolve.solvers.fixed_point._mixing import Mixing, fields_of, memory_of, relative_ridge
from jaxsolve.tree_util import tree_add, tree_l2_norm, tree_real_dtype, tree_sub, tree_where

__all__ = ["AndersonAcceleration", "AndersonState"]


class AndersonState(NamedTuple):
    """State of Anderson acceleration.

    Attributes:
        iter_num: number of iterations done, int32.
        error: Euclidean norm of ``residual``.
        params_history: differences of successive iterates, a row each, in no particular order.
        residuals_history: differences of their residuals.
        residual_gram: inner products of the latter, shape (history_size, history_size); 0 where there is none.
        aux: auxiliary output of ``fixed_point_fun``.
        num_fun_eval: evaluations of ``fixed_point_fun``, int32.
        status: a :class:`jaxsolve.Status`, int32.
        residual: ``T(x) - x`` at the current parameters.
        cross_gram: inner products of ``params_history`` and ``residuals_history``, for type I; else ``None``.
        best_error: least error since the history was dropped.
        first_error: ``error`` at the initial point.
    """

    iter_num: Array
    error: Array
    params_history: Any
    residuals_history: Any
    residual_gram: Array
    aux: Any = None
    num_fun_eval: Any = 0
    status: Any = 0
    residual: Any = None
    cross_gram: Any = None
    best_error: Any = 0
    first_error: Any = None


class AndersonAcceleration(IterativeSolver):
    """Fixed-point iteration that extrapolates from its last iterates.

    ``run(init_params, *args, **kwargs)`` finds a fixed point of ``fixed_point_fun(params, *args, **kwargs)``. If the
    residual after an extrapolation is more than twice the least one so far, or not finite, the extrapolation is undone:
    the history is cleared, and a plain step follows from the last iterate. Each iteration evaluates ``fixed_point_fun``
    once.

    Attributes:
        fixed_point_fun: ``T(params, *args, **kwargs)``, a pytree like ``params``.
        history_size: number of differences of iterates that are kept.
        mixing_frequency: extrapolate in iterations whose number is a multiple of it; the others are plain steps.
        beta: multiple of the residual in a step; numbers below 1 damp the steps.
        ridge: regularization of the weights, relative to the squared length of each difference of residuals; ``None``
            takes 1e-12 in float64 and 1e-7 in float32.
        method: ``"II"`` minimizes the combined residual; ``"I"`` makes the combination the root of a secant model, as
            Broyden's good method does.
        has_aux: whether ``fixed_point_fun`` returns ``(T(params), aux)``.
        rtol: relative tolerance: the run has converged when ``state.error`` is at most
            ``tol + rtol * state.first_error``. May be traced.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> mapping = lambda x, theta: 0.99 * jnp.roll(x, 1) + theta
        >>> solver = jaxsolve.AndersonAcceleration(mapping, history_size=8, tol=1e-4)
        >>> params, state = solver.run(jnp.arange(8.0), 1.0)
        >>> params.round(1).tolist(), int(state.num_fun_eval) < 40
        ([100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0], True)
    """

    fixed_point_fun: Callable
    history_size: int = option(5, at_least=1)
    mixing_frequency: int = option(1, at_least=1)
    beta: float = option(1.0, above=0)
    ridge: float | None = option(None, at_least=0)
    method: str = option("II", among=("I", "II"))
    has_aux: bool = option(False)
    maxiter: int = option(100)
    tol: float = option(1e-5)
    rtol: float = option(0.0, at_least=0)

    _State = AndersonState
    _is_fixed_point = True
    _handles_nonfinite = True
    _treats_leaves_alike = True
    _resumed_fields = ("iter_num", "first_error")

    def _validate(self) -> None:
        super()._validate()
        if not isinstance(self.history_size, int):
            raise TypeError(f"history_size must be a number known at compile time, got {self.history_size!r}.")

    def init_state(self, init_params: PyTree, *args: Any, **kwargs: Any) -> AndersonState:
        """The state before the first iteration; evaluates ``fixed_point_fun``; the arguments are those of ``run``."""
        residual, aux = self._residual_and_aux(init_params, *args, **kwargs)
        dtype = tree_real_dtype(init_params)
        error = tree_l2_norm(residual).astype(dtype)
        memory = Mixing.empty(init_params, self.history_size, dtype, first_type=self.method == "I")
        return self._State(
            iter_num=jnp.zeros((), jnp.int32),
            error=error,
            aux=aux,
            num_fun_eval=jnp.ones((), jnp.int32),
            status=self._status_of(error, size=error),
            residual=residual,
            best_error=error,
            first_error=error,
            **fields_of(memory),
        )

    def update(self, params: PyTree, state: AndersonState, *args: Any, **kwargs: Any) -> OptStep:
        """One extrapolation, or a plain step; returns ``OptStep(params, state)``."""
        dtype = state.error.dtype
        memory = memory_of(state)
        mixes = ((state.iter_num + 1) % self.mixing_frequency == 0) & jnp.any(memory.used)
        weights = jnp.where(mixes, memory.weights(state.residual, relative_ridge(self.ridge, dtype)), 0)
        new_params = tree_add(params, memory.step(state.residual, weights, jnp.asarray(self.beta).astype(dtype)))
        residual, aux = self._residual_and_aux(new_params, *args, **kwargs)
        error = tree_l2_norm(residual).astype(dtype)

        finite = jnp.isfinite(error)
        kept = finite & (~mixes | (error <= 2 * state.best_error))
        here, there = (params, state.residual), (new_params, residual)
        memory = memory.remember(there, here, state.iter_num % self.history_size)
        memory = Mixing(*tree_where(kept, memory, memory.forgotten(jnp.asarray(True))))
        params, residual, aux, error = tree_where(
            kept, (new_params, residual, aux, error), (params, state.residual, state.aux, state.error)
        )
        still = kept & is_still(tree_sub(params, here[0]))
        status = self._status_of(error, size=state.first_error, failed=still)
        # After a plain step there is nothing to fall back on.
        status = Status.NONFINITE.where(~finite & ~mixes, status)
        new_state = state._replace(
            iter_num=state.iter_num + 1,
            error=error,
            aux=aux,
            num_fun_eval=state.num_fun_eval + 1,
            status=status,
            residual=residual,
            best_error=jnp.where(kept & mixes, jnp.minimum(error, state.best_error), error),
            **fields_of(memory),
        )
        return OptStep(params, new_state)

    def optimality_fun(self, params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The residual ``T(params) - params``, a pytree like ``params``."""
        return self._residual_and_aux(params, *args, **kwargs)[0]

    def _state_of_solution(self, params: PyTree, *args: Any, **kwargs: Any) -> dict:
        """``aux`` as a function of the solution."""
        return {"aux": self._residual_and_aux(params, *args, **kwargs)[1]}

    def _residual_and_aux(self, params, *args, **kwargs):
        out = self.fixed_point_fun(params, *args, **kwargs)
        image, aux = out if self.has_aux else (out, None)
        return tree_sub(as_like("fixed_point_fun", image, params), params), aux
