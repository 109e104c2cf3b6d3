r"""Projected gradient, plain and accelerated.

Problem: minimize a smooth :math:`f(x, \theta)` over a convex set :math:`C(\eta)` given by its Euclidean projection.
Method: proximal gradient iterations in which the projection is the proximity operator, see
:mod:`jaxsolve.solvers._proximal`.
Optimality: the fixed point :math:`x = \operatorname{proj}_C(x - \nabla_1 f(x, \theta), \eta)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxsolve._types import PyTree
from jaxsolve.base import as_like
from jaxsolve.implicit_diff.optimality import call_with_hyperparams
from jaxsolve.solvers._proximal import ProximalMethod

__all__ = ["ProjectedGradient"]


class ProjectedGradient(ProximalMethod):
    """Projected gradient with backtracking, acceleration and restarts.

    ``run(init_params, hyperparams_proj, *args, **kwargs)`` minimizes ``fun(params, *args, **kwargs)`` over the set onto
    which ``projection`` projects.

    Attributes:
        projection: ``projection(x, hyperparams_proj)``, see :mod:`jaxsolve.projection`; it may take ``x`` only. If
            ``hyperparams_proj`` is ``None``, its own default is used, if it has one.

    Reference:
        Bertsekas (1976), "On the Goldstein-Levitin-Polyak gradient projection method"; Beck and Teboulle (2009).

    Example:
        >>> import jax.numpy as jnp, jaxsolve
        >>> from jaxsolve.projection import projection_simplex
        >>> solver = jaxsolve.ProjectedGradient(lambda x, y: 0.5 * jnp.sum((x - y) ** 2), projection_simplex, tol=1e-6)
        >>> params, state = solver.run(jnp.ones(3) / 3, 1.0, jnp.array([0.9, 0.3, -1.0]))
        >>> [round(x, 4) for x in params.tolist()]
        [0.8, 0.2, 0.0]
    """

    projection: Callable

    _hyperparams = "hyperparams_proj"
    _treats_leaves_alike = True

    def _check_arguments(self, init_params: PyTree, hyperparams_proj: Any = None, *args: Any, **kwargs: Any) -> None:
        """Raise ``ValueError`` if the set is known to be empty."""
        check = getattr(self.projection, "check_hyperparams", None)
        if check is not None and hyperparams_proj is not None:
            check(hyperparams_proj)

    def _apply_prox(self, x: PyTree, hyperparams: Any, scaling: Any) -> PyTree:
        """The projection, whatever the step size."""
        return as_like("projection", call_with_hyperparams("projection", self.projection, x, hyperparams), x)
