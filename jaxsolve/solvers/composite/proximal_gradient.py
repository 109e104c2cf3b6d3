r"""Proximal gradient, plain and accelerated (ISTA and FISTA).

Problem: minimize :math:`f(x, \theta) + g(x, \eta)`, with :math:`f` smooth and :math:`g` given by its proximity
operator.
Method: see :mod:`jaxsolve.solvers._proximal`. Optimality: the fixed point
:math:`x = \operatorname{prox}_g(x - \nabla_1 f(x, \theta), \eta)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxsolve._types import PyTree, Structure
from jaxsolve.base import as_like
from jaxsolve.implicit_diff.optimality import call_with_hyperparams
from jaxsolve.solvers._proximal import ProximalMethod, prox_none

__all__ = ["ProximalGradient"]


class ProximalGradient(ProximalMethod):
    """Proximal gradient with backtracking, acceleration and restarts.

    ``run(init_params, hyperparams_prox, *args, **kwargs)`` minimizes ``fun(params, *args, **kwargs)`` plus the function
    whose proximity operator is ``prox``.

    Attributes:
        prox: ``prox(x, hyperparams_prox, scaling)``, see :mod:`jaxsolve.prox`; it may take one or two arguments only.

    Reference:
        Beck and Teboulle (2009), "A fast iterative shrinkage-thresholding algorithm"; O'Donoghue and Candes (2015),
        "Adaptive restart for accelerated gradient schemes".

    Example:
        >>> import jax.numpy as jnp, jaxsolve
        >>> from jaxsolve.prox import prox_lasso
        >>> solver = jaxsolve.ProximalGradient(lambda x, y: 0.5 * jnp.sum((x - y) ** 2), prox_lasso, tol=1e-6)
        >>> params, state = solver.run(jnp.zeros(2), 0.5, jnp.array([2.0, 0.1]))
        >>> params.round(4).tolist()
        [1.5, 0.0]
    """

    prox: Callable = prox_none

    _hyperparams = "hyperparams_prox"
    _treats_leaves_alike = True

    @property
    def _smooth(self) -> bool:  # type: ignore[override]  # a constant of the other solvers
        """Whether the proximity operator is the identity."""
        return self.prox is prox_none

    @property
    def _structure(self) -> Structure:  # type: ignore[override]  # a constant of the other solvers
        """The optimality function is a gradient if there is no proximity operator."""
        return "psd" if self._smooth else "general"

    def _check_arguments(self, init_params: PyTree, hyperparams_prox: Any = None, *args: Any, **kwargs: Any) -> None:
        """Raise ``ValueError`` for hyperparameters that nothing would read."""
        if self._smooth and hyperparams_prox is not None:
            raise ValueError(
                f"ProximalGradient has no prox, but hyperparams_prox, its first argument after init_params, is "
                f"{hyperparams_prox!r}: give it a prox=..., or pass None, or use GradientDescent."
            )

    def _apply_prox(self, x: PyTree, hyperparams: Any, scaling: Any) -> PyTree:
        """The proximity operator that was given."""
        return as_like("prox", call_with_hyperparams("prox", self.prox, x, hyperparams, scaling), x)
