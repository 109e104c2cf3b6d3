r"""Stochastic gradient methods: everything but the step.

Problem: minimize the mean of :math:`f(x, \theta, \xi)` over data :math:`\xi`. At each iteration such a method sees the
value and the gradient for one batch of data.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsolve._options import check_callable
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.base import StochasticSolver, blank_output, option
from jaxsolve.implicit_diff.optimality import stationary
from jaxsolve.tree_util import tree_add, tree_add_scalar_mul, tree_l2_norm, tree_real_dtype, tree_scalar_mul, tree_where

__all__ = ["SGDMethod", "SGDState", "StochasticGradientMethod"]


class StochasticGradientMethod(StochasticSolver):
    """Base of the stochastic gradient methods.

    ``run(init_params, *args, **kwargs)`` minimizes ``fun(params, *args, **kwargs)`` for fixed data.
    ``run_iterator(init_params, iterator, *args, **kwargs)`` draws batches, which are passed to ``fun`` as the keyword
    argument ``data``. If the norm of the gradient for a batch is at most ``tol``, the run ends without another step;
    with ``tol=0`` it ends only at a gradient of 0.

    Attributes:
        fun: smooth function with a real scalar value.
        value_and_grad: whether ``fun`` returns ``(value, grad)``.
        has_aux: whether ``fun`` returns ``(value, aux)`` in place of ``value``.
        pre_update: called before every step, as ``pre_update(params, state, *args, **kwargs) -> (params, state)``.
        maxiter: largest number of iterations, and of batches that are drawn.
        rtol: relative tolerance: the run has also converged when ``state.error`` is at most ``tol`` plus ``rtol`` times
            ``state.first_error``. May be traced.
    """

    fun: Callable
    value_and_grad: bool = option(False)
    has_aux: bool = option(False)
    pre_update: Callable | None = option(None)
    maxiter: int = option(500)
    tol: float = option(1e-3)
    rtol: float = option(0.0, at_least=0)
    implicit_diff: bool = option(False)

    _structure = "psd"
    _error_is_estimate = True

    def _validate(self) -> None:
        super()._validate()
        if self.pre_update is not None:
            check_callable("pre_update", self.pre_update, "a function pre_update(params, state, *args, **kwargs)")

    @abc.abstractmethod
    def _first_fields(self, init_params: PyTree, dtype: Any) -> dict[str, Any]:
        """The fields of the state that belong to the method, before the first step."""

    @abc.abstractmethod
    def _step(
        self, params: PyTree, state: Any, at: tuple[Array, Any, PyTree, Array], args: tuple, kwargs: dict
    ) -> tuple[PyTree, dict[str, Any]]:
        """The new parameters, and the fields that change; ``at`` holds value, aux, gradient and its norm."""

    def init_state(self, init_params: PyTree, *args: Any, **kwargs: Any) -> Any:
        """The state before the first iteration; evaluates nothing."""
        value_dtype, aux, calls = blank_output(self, init_params, args, kwargs)
        dtype = tree_real_dtype(init_params)
        zero = jnp.zeros((), jnp.int32)
        return self._State(
            iter_num=zero,
            value=jnp.full((), jnp.inf, value_dtype),
            error=jnp.full((), jnp.inf, dtype),
            aux=aux,
            num_fun_eval=zero + calls,
            num_grad_eval=zero,
            status=zero,
            first_error=self._unknown_first_error(dtype),
            **self._first_fields(init_params, dtype),
        )

    def update(self, params: PyTree, state: Any, *args: Any, **kwargs: Any) -> OptStep:
        """One step; returns ``OptStep(params, state)``. Value and error are those before the step."""
        if self.pre_update is not None:
            params, state = self.pre_update(params, state, *args, **kwargs)
        (value, aux), grad = self._objective.value_and_grad(params, *args, **kwargs)
        error = tree_l2_norm(grad).astype(state.error.dtype)
        first_error = self._first_error(state, error)
        new_params, changed = self._step(params, state, (value, aux, grad, error), args, kwargs)
        # A point with a small gradient is not left, so that the error is that of the result.
        settled = error <= self._tolerance(error.dtype, first_error)
        kept = {name: getattr(state, name) for name in changed}
        counts = {name: changed.pop(name) for name in ("num_fun_eval", "num_grad_eval") if name in changed}
        new_params, changed = tree_where(settled, (params, {n: kept[n] for n in changed}), (new_params, changed))
        new_state = state._replace(
            **{
                "iter_num": state.iter_num + 1,
                "value": value.astype(state.value.dtype),
                "error": error,
                "aux": aux,
                "num_fun_eval": state.num_fun_eval + 1,
                "num_grad_eval": state.num_grad_eval + 1,
                "status": self._status_of(jnp.where(jnp.isfinite(value), error, jnp.nan), size=first_error),
                "first_error": first_error,
                **changed,
                **counts,
            }
        )
        return OptStep(new_params, new_state)

    @property
    def _certifies(self) -> bool:
        return False  # a point that is optimal is not left

    def optimality_fun(self, params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The gradient of ``fun`` in ``params``, a pytree like them."""
        return stationary(self._objective.value_and_grad, value_and_grad=True)(params, *args, **kwargs)

    def _state_of_solution(self, params: PyTree, *args: Any, **kwargs: Any) -> dict[str, PyTree]:
        """``value`` and ``aux`` as functions of the parameters."""
        value, aux = self._objective.value(params, *args, **kwargs)
        return {"value": value, "aux": aux}


class SGDState(NamedTuple):
    """State of a stochastic gradient method with a step size of its own.

    Attributes:
        iter_num: number of iterations done, int32.
        error: Euclidean norm of the gradient before the last step.
        value: ``fun`` before the last step; at the end of ``run``, at the solution.
        aux: auxiliary output of ``fun`` at the same point.
        stepsize: last step size.
        velocity: last change of the parameters, a pytree like them; ``None`` without momentum.
        num_fun_eval: evaluations of ``fun``, int32.
        num_grad_eval: evaluations of its gradient, int32.
        status: a :class:`jaxsolve.Status`, int32.
        first_error: the error of the first iteration, used with ``rtol``; ``None`` if ``rtol`` is 0.
        failed_linesearch: whether the last search found no step, so that there was no step; used by :class:`ArmijoSGD`.
    """

    iter_num: Array
    error: Array
    value: Array
    aux: Any
    stepsize: Array
    velocity: Any
    num_fun_eval: Any = 0
    num_grad_eval: Any = 0
    status: Any = 0
    first_error: Any = None
    failed_linesearch: Any = False


class SGDMethod(StochasticGradientMethod):
    r"""Base of the methods that choose a step size along the negative gradient :math:`g`, with momentum.

    With momentum :math:`m` the change of the parameters is :math:`v_+ = m v - \eta g`.

    Attributes:
        momentum: multiple of the last change that is added to a step, in [0, 1).
        max_stepsize: largest step size :math:`\eta`.
    """

    momentum: float = option(0.0, at_least=0, below=1)
    max_stepsize: float = option(1.0, above=0)

    _State = SGDState
    _treats_leaves_alike = True
    _resumed_fields = ("iter_num", "stepsize", "velocity", "first_error")

    @property
    def _has_momentum(self) -> bool:
        return not (isinstance(self.momentum, (int, float)) and self.momentum == 0)

    def _first_fields(self, init_params: PyTree, dtype: Any) -> dict[str, Any]:
        velocity = jax.tree.map(jnp.zeros_like, init_params) if self._has_momentum else None
        longest = jnp.asarray(self.max_stepsize).astype(dtype)
        return {"stepsize": longest, "velocity": velocity, "failed_linesearch": jnp.asarray(False)}

    def _moved(self, params: PyTree, stepsize: Array, grad: PyTree, velocity: PyTree) -> tuple[PyTree, PyTree]:
        """The parameters after a step, and the velocity."""
        if velocity is None:
            return tree_add_scalar_mul(params, -stepsize, grad), None
        momentum = jnp.asarray(self.momentum).astype(stepsize.dtype)
        velocity = tree_add_scalar_mul(tree_scalar_mul(momentum, velocity), -stepsize, grad)
        return tree_add(params, velocity), velocity
