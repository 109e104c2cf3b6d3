r"""Stochastic gradient descent with Polyak's step size.

Problem: minimize the mean of :math:`f(x, \xi)` over data :math:`\xi`, where the least value :math:`f^*` of each batch
is known, as for models that can fit all data. Method: :math:`x_{k+1} = x_k - \eta_k g_k` with

.. math::  \eta_k = \frac{f(x_k, \xi_k) - f^*}{\|g_k\|^2 + \delta}.

Reference:
    Loizou, Vaswani, Laradji and Lacoste-Julien (2021), "Stochastic Polyak step-size for SGD" (SPS_max, equation 3);
    Garrigos, Gower and Schaipp (2023), "Function value learning" (SPS+).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxsolve._types import Array, PyTree
from jaxsolve.base import option
from jaxsolve.solvers.stochastic._method import SGDMethod

__all__ = ["PolyakSGD"]


class PolyakSGD(SGDMethod):
    """Stochastic gradient descent with Polyak's step size.

    If the value for a batch is below ``fun_min``, or its gradient is 0, no step is taken.

    Attributes:
        fun_min: least value of ``fun`` for every batch.
        variant: ``"SPS_max"`` takes steps of at most ``max_stepsize``, ``"SPS+"`` has no bound.
        delta: number that is added to the squared norm of the gradient, in its unit.

    Example:
        >>> import jax.numpy as jnp, jaxsolve
        >>> solver = jaxsolve.PolyakSGD(lambda x, data: jnp.mean((data @ x) ** 2), maxiter=200, tol=1e-4)
        >>> batches = (jnp.array([[1.0, 0.1 * i], [0.0, 1.0]]) for i in range(200))
        >>> params, state = solver.run_iterator(jnp.ones(2), batches)
        >>> bool(jnp.all(jnp.abs(params) < 1e-3))
        True
    """

    fun_min: float = option(0.0)
    variant: str = option("SPS_max", among=("SPS_max", "SPS+"))
    delta: float = option(0.0, at_least=0)

    def _step(
        self, params: PyTree, state: Any, at: tuple[Array, Any, PyTree, Array], args: tuple, kwargs: dict
    ) -> tuple[PyTree, dict[str, Any]]:
        value, _, grad, norm = at
        dtype = norm.dtype
        gap = jnp.maximum(value.astype(dtype) - jnp.asarray(self.fun_min).astype(dtype), 0)
        flat = norm <= 0
        # Divided twice: the square of a norm may vanish or overflow where the quotient does neither.
        safe = jnp.where(flat, 1, norm)
        stepsize = jnp.where(flat, 0, gap / safe / (safe + jnp.asarray(self.delta).astype(dtype) / safe))
        if self.variant == "SPS_max":
            stepsize = jnp.minimum(stepsize, jnp.asarray(self.max_stepsize).astype(dtype))
        new_params, velocity = self._moved(params, stepsize, grad, state.velocity)
        return new_params, {"stepsize": stepsize, "velocity": velocity}
