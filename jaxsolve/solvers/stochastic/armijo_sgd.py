r"""Stochastic gradient descent with a line search on each batch.

Problem: minimize the mean of :math:`f(x, \xi)` over data :math:`\xi`. Method: :math:`x_{k+1} = x_k - \eta_k g_k`, where
:math:`\eta_k` satisfies Armijo's condition for the batch,

.. math::  f(x_k - \eta_k g_k, \xi_k) \le f(x_k, \xi_k) - (1 - a)\, \eta_k \|g_k\|^2 .

Reference:
    Vaswani, Mishkin, Laradji, Schmidt, Gidel and Lacoste-Julien (2019), "Painless stochastic gradient: interpolation,
    line-search, and convergence rates", algorithms 1 and 2.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._types import Array, PyTree
from jaxsolve.base import option
from jaxsolve.linesearch import BacktrackingLineSearch
from jaxsolve.solvers.stochastic._method import SGDMethod

__all__ = ["ArmijoSGD"]


class ArmijoSGD(SGDMethod):
    """Stochastic gradient descent with a line search on each batch.

    If a search finds no step, the parameters do not change, and the next search starts with a shorter step. If
    iterations are unrolled, step sizes are constants for the derivative.

    Attributes:
        aggressiveness: :math:`a` in (0, 1); larger values accept longer steps.
        decrease_factor: largest factor by which a search shortens a step; interpolation may choose a smaller factor.
        increase_factor: factor by which the first trial step exceeds the last step, with ``reset_option="increase"``.
        reset_option: first trial step of a search: ``"increase"`` multiplies the last step by ``increase_factor``,
            ``"conservative"`` repeats it, ``"goldstein"`` repeats it and lengthens it if the value falls by more than
            ``aggressiveness`` times the decrease that the slope predicts.
        maxls: largest number of trial steps in a search.

    Example:
        >>> import jax.numpy as jnp, jaxsolve
        >>> solver = jaxsolve.ArmijoSGD(lambda x, data: jnp.mean((data @ x) ** 2), maxiter=100, tol=1e-4)
        >>> batches = (jnp.array([[1.0, 0.1 * i], [0.0, 1.0]]) for i in range(100))
        >>> params, state = solver.run_iterator(jnp.ones(2), batches)
        >>> bool(jnp.all(jnp.abs(params) < 1e-3))
        True
    """

    aggressiveness: float = option(0.9, above=0, below=1)
    decrease_factor: float = option(0.8, above=0, below=1)
    increase_factor: float = option(1.5, at_least=1)
    reset_option: str = option("increase", among=("increase", "conservative", "goldstein"))
    maxls: int = option(15, at_least=1)

    def _step(
        self, params: PyTree, state: Any, at: tuple[Array, Any, PyTree, Array], args: tuple, kwargs: dict
    ) -> tuple[PyTree, dict[str, Any]]:
        value, aux, grad, _ = at
        dtype = state.stepsize.dtype
        longest = jnp.asarray(self.max_stepsize).astype(dtype)
        trial = state.stepsize
        if self.reset_option == "increase":
            trial = trial * jnp.asarray(self.increase_factor).astype(dtype)
        step, search = self._search().run(jnp.minimum(trial, longest), params, value, grad, None, args, kwargs, aux=aux)
        # Interpolation takes differences of values, whose derivatives are rounding errors near a solution.
        step = lax.stop_gradient(step)
        found = step > 0
        # The step that led nowhere was shortened maxls times.
        shorter = trial * jnp.asarray(self.decrease_factor).astype(dtype) ** self.maxls
        velocity = state.velocity
        new_params, velocity = self._moved(params, step.astype(dtype), grad, velocity)
        return new_params, {
            "stepsize": jnp.where(found, step, shorter),
            "velocity": velocity,
            "failed_linesearch": ~found,
            "num_fun_eval": state.num_fun_eval + 1 + search.num_fun_eval,
        }

    def _search(self) -> BacktrackingLineSearch:
        """The search, which sees values only."""
        objective = self._objective

        def value_alone(params, *args, **kwargs):
            return objective.value(params, *args, **kwargs), jax.tree.map(jnp.zeros_like, params)

        unroll = {"while": False, "python": False, "scan": True, "checkpoint": "checkpoint"}[self._loop_kind]
        options: dict[str, Any] = {
            "condition": "goldstein" if self.reset_option == "goldstein" else "armijo",
            "c1": 1 - self.aggressiveness,
            "decrease_factor": self.decrease_factor,
            "max_stepsize": self.max_stepsize,
            "maxiter": self.maxls,
            "unroll": unroll,
        }
        return BacktrackingLineSearch(value_alone, value_and_grad=True, has_aux=True, jit=self.jit, **options)
