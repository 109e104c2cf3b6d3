r"""Optimizers of optax as solvers.

Problem: minimize the mean of :math:`f(x, \theta, \xi)` over data :math:`\xi`. Method: the transformation of gradients
that the user chose.

Reference:
    DeepMind et al. (2020), "The DeepMind JAX ecosystem".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxsolve._types import Array, PyTree
from jaxsolve.solvers.stochastic._method import StochasticGradientMethod
from jaxsolve.tree_util import tree_cast_like

__all__ = ["OptaxSolver", "OptaxState"]


class OptaxState(NamedTuple):
    """State of an optimizer of optax.

    Attributes:
        iter_num: number of iterations done, int32.
        value: ``fun`` before the last step; at the end of ``run``, at the solution.
        error: Euclidean norm of the gradient before the last step.
        internal_state: state of the optimizer.
        aux: auxiliary output of ``fun``.
        num_fun_eval: evaluations of ``fun``, int32; not those of an optimizer that calls it by itself.
        num_grad_eval: evaluations of its gradient, int32.
        status: a :class:`jaxsolve.Status`, int32.
        first_error: the error of the first iteration, used with ``rtol``; ``None`` if ``rtol`` is 0.
    """

    iter_num: Array
    value: Array
    error: Array
    internal_state: Any
    aux: Any
    num_fun_eval: Any = 0
    num_grad_eval: Any = 0
    status: Any = 0
    first_error: Any = None


class OptaxSolver(StochasticGradientMethod):
    """An optimizer of optax, with ``run``, ``run_iterator``, statuses and derivatives.

    Optimizers that need the value, the gradient or the function itself, such as line searches, get them.

    Attributes:
        opt: an ``optax.GradientTransformation``.

    Example:
        >>> import jax.numpy as jnp, optax, jaxsolve
        >>> solver = jaxsolve.OptaxSolver(lambda x, data: jnp.mean((x - data) ** 2), optax.sgd(0.2), maxiter=100)
        >>> batches = (jnp.array([1.0, 3.0]) + 0.01 * (-1) ** i for i in range(100))
        >>> params, state = solver.run_iterator(jnp.asarray(0.0), batches)
        >>> round(float(params), 1), int(state.iter_num)
        (2.0, 100)
    """

    opt: Any

    _State = OptaxState
    _resumed_fields = ("iter_num", "internal_state", "first_error")

    def _validate(self) -> None:
        super()._validate()
        if not all(callable(getattr(self.opt, name, None)) for name in ("init", "update")):
            raise TypeError(f"opt must be an optax.GradientTransformation, got {self.opt!r}.")

    def _first_fields(self, init_params: PyTree, dtype: Any) -> dict[str, Any]:
        # Optimizers keep the parameters themselves in their states: every leaf has a buffer of its own.
        return {"internal_state": jax.tree.map(jnp.copy, self.opt.init(init_params))}

    def _step(
        self, params: PyTree, state: Any, at: tuple[Array, Any, PyTree, Array], args: tuple, kwargs: dict
    ) -> tuple[PyTree, dict[str, Any]]:
        value, _, grad, _ = at
        objective = self._objective
        # Code of optax relies on promotion.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            updates, internal = optax.with_extra_args_support(self.opt).update(
                grad,
                state.internal_state,
                params,
                value=value,
                grad=grad,
                value_fn=lambda params: objective.value(params, *args, **kwargs)[0],
            )
            new_params = optax.apply_updates(params, updates)
        return tree_cast_like(new_params, params), {"internal_state": tree_cast_like(internal, state.internal_state)}
