r"""Gradient descent, plain and accelerated.

Problem: minimize a smooth function :math:`f(x, \theta)`. Method: proximal gradient iterations without a proximity
operator, see :mod:`jaxsolve.solvers._proximal`. Optimality: :math:`\nabla_1 f(x, \theta) = 0`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxsolve._types import PyTree
from jaxsolve.base import option
from jaxsolve.solvers._proximal import ProximalMethod, prox_none
from jaxsolve.solvers._stepsize import curvature_scale

__all__ = ["GradientDescent"]


class GradientDescent(ProximalMethod):
    """Gradient descent with backtracking and Nesterov acceleration.

    ``run(init_params, *args, **kwargs)`` minimizes ``fun(params, *args, **kwargs)``.

    Attributes:
        scale: ``"jacobi"`` measures every variable in a unit in which the second derivative at the initial point is
            about 1. This costs one product with the Hessian for each variable, once. The method then does not depend
            on the units in which single variables are given; ``state.error`` and the tolerances refer to the gradient
            in these units.
        prox: accepted for compatibility; ``prox_none`` is the only useful value, use ``ProximalGradient`` for others.

    Reference:
        Nesterov (1983); Beck and Teboulle (2009), "A fast iterative shrinkage-thresholding algorithm".

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> solver = jaxsolve.GradientDescent(lambda x, theta: jnp.sum((x - theta) ** 2), tol=1e-6)
        >>> params, state = solver.run(jnp.zeros(2), jnp.array([1.0, 2.0]))
        >>> [round(x, 4) for x in params.tolist()]
        [1.0, 2.0]
        >>> jax.jacobian(lambda theta: solver.run(jnp.zeros(2), theta).params)(jnp.array([1.0, 2.0])).round(4).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """

    scale: str | None = option(None, among=(None, "jacobi"))
    prox: Callable = prox_none

    _smooth = True
    _optimality_is_gradient = True
    _treats_leaves_alike = True
    _structure = "psd"

    def _validate(self) -> None:
        """Raise for an impossible option."""
        super()._validate()
        if self.prox is not prox_none:
            raise ValueError("GradientDescent takes no proximity operator: use ProximalGradient(fun, prox=...).")

    def optimality_fun(self, params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The gradient of ``fun`` in ``params``, a pytree like them."""
        return super().optimality_fun(params, *args, **kwargs)

    def _scale_at(self, params: PyTree, args: tuple, kwargs: dict) -> PyTree | None:
        """Units of the variables by the curvature there."""
        if self.scale is None:
            return None
        return curvature_scale(lambda x: self._objective.grad(x, *args, **kwargs), params)

    def _apply_prox(self, x: PyTree, hyperparams: Any, scaling: Any) -> PyTree:
        """The identity."""
        return x
