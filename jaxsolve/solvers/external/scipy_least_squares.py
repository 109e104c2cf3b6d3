r"""Least squares by SciPy, with and without bounds.

Problem: minimize :math:`\tfrac12 \|r(x, \theta)\|^2`, or the cost of a robust loss, perhaps over a box. Method: one of
``scipy.optimize.least_squares``, on the host. Optimality: the gradient of the cost is 0, or its form over a box, see
:mod:`jaxsolve.solvers._bounds`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._closure import Staged
from jaxsolve._status import Status
from jaxsolve._types import Array, PyTree
from jaxsolve._vectors import flat
from jaxsolve.base import option
from jaxsolve.solvers._bounds import bounded_stationarity, bounds_like
from jaxsolve.solvers.external._scipy import Bounded, Oracle, ScipySolver, is_traceable, message_of
from jaxsolve.solvers.least_squares._losses import LOSSES, cost_of
from jaxsolve.tree_util import tree_l2_norm

__all__ = ["ScipyBoundedLeastSquares", "ScipyLeastSquares", "ScipyLeastSquaresState"]


class ScipyLeastSquaresState(NamedTuple):
    """State of a least-squares problem solved by SciPy.

    Attributes:
        cost_val: cost at the solution.
        fun_val: residuals at the solution.
        success: whether SciPy reports success.
        status: a :class:`jaxsolve.Status`, int32: ``CONVERGED`` where SciPy reports success, by its own criteria.
        num_fun_eval: evaluations of the residuals, int32.
        num_jac_eval: evaluations of their Jacobian, int32.
        error: Euclidean norm of the optimality residual.
        aux: auxiliary output of ``fun``.
        scipy_status: the status code of SciPy, int32.
        message_codes: its message, in bytes; ``message`` is the text.
        iter_num: evaluations of the Jacobian, because SciPy does not count iterations.
    """

    cost_val: Array
    fun_val: Any
    success: Array
    status: Array
    num_fun_eval: Any = 0
    num_jac_eval: Any = 0
    error: Any = None
    aux: Any = None
    scipy_status: Any = 0
    message_codes: Any = None
    iter_num: Any = 0

    @property
    def value(self) -> Array:
        """The cost, under the name that other solvers use."""
        return self.cost_val

    @property
    def message(self) -> str:
        """The message of SciPy; not available under ``jit``."""
        return message_of(self.message_codes)


class ScipyLeastSquares(ScipySolver):
    """Nonlinear least squares by ``scipy.optimize.least_squares``.

    ``run(init_params, *args, **kwargs)`` minimizes half the sum of squares of ``fun(params, *args, **kwargs)``, or the
    cost of a robust loss.

    Attributes:
        fun: residuals, a pytree of real arrays.
        loss: a loss of SciPy, by name.
        options: further arguments of ``least_squares`` by name, for example ``ftol``, ``max_nfev``, ``x_scale`` or
            ``f_scale``.
        use_jacrev: compute the Jacobian in reverse mode, rather than in forward mode.

    Raises:
        ValueError: an unknown method or loss, or ``implicit_diff=False``.

    Example:
        >>> import jax.numpy as jnp, jaxsolve
        >>> t = jnp.linspace(0.0, 1.0, 5)
        >>> solver = jaxsolve.ScipyLeastSquares(lambda p, y: p[0] * jnp.exp(-p[1] * t) - y, method="trf")
        >>> [round(p, 3) for p in solver.run(jnp.ones(2), 2.0 * jnp.exp(-3.0 * t)).params.tolist()]
        [2.0, 3.0]
    """

    fun: Callable
    loss: str = option("linear", among=tuple(LOSSES))
    use_jacrev: bool = option(True)

    _State = ScipyLeastSquaresState
    _structure = "psd"
    _methods = ("trf", "dogbox", "lm")

    def _stage(self, name: str, function: Callable) -> Callable:
        return Staged(function, name)

    @property
    def _f_scale(self) -> Any:
        return (self.options or {}).get("f_scale", 1.0)

    def _oracles(self, x: Array, unravel: Callable, args: tuple, kwargs: dict) -> dict[str, tuple[Oracle, int]]:
        def residuals(x):
            return flat(self._evaluate(unravel(x), *args, **kwargs)[0], x.dtype)

        differentiate = jax.jacrev if self.use_jacrev else jax.jacfwd
        oracles: dict[str, tuple[Oracle, int]] = {"residuals": (lambda x: (residuals(x),), 1)}
        if self.jit or is_traceable(residuals, x):
            oracles["jacobian"] = (lambda x: (differentiate(residuals)(x),), 1)
        return oracles

    def _result_like(self, x: Array, oracles: dict[str, tuple[Oracle, int]]) -> dict[str, Any]:
        return {}

    def _on_host(
        self, oracles: dict[str, Oracle], x: np.ndarray, bounds: tuple, unravel: Callable
    ) -> tuple[Any, Status, dict[str, Any]]:
        from scipy import optimize

        call: dict[str, Any] = {"method": self._method or "trf", "loss": self.loss, **(self.options or {})}
        if "jacobian" in oracles:
            call["jac"] = lambda x: oracles["jacobian"](x)[0]
        if bounds:
            call["bounds"] = bounds
            x = np.clip(x, *bounds)
        result = optimize.least_squares(lambda x: oracles["residuals"](x)[0], x, **call)
        ended = Status.CONVERGED if result.success else Status.MAXITER if result.status == 0 else Status.STALLED
        return result, ended, {"iter_num": result.njev or 0}

    def _slope(self, oracles: dict[str, Oracle], x: np.ndarray) -> np.ndarray | None:
        return oracles["residuals"](x)[0] @ oracles["jacobian"](x)[0] if "jacobian" in oracles else None

    def _state(self, params: PyTree, fields: dict[str, Any], args: tuple, kwargs: dict) -> ScipyLeastSquaresState:
        _, data, named = self._split(args, kwargs)
        residuals, aux = self._evaluate(params, *data, **named)
        dtype = flat(params).dtype
        fields.pop("num_hess_eval")
        error = jnp.full((), jnp.inf, dtype)  # not known without a derivative
        if self.jit or is_traceable(lambda x: self._cost(x, data, named), params):
            error = tree_l2_norm(self.optimality_fun(params, *args, **kwargs)).astype(dtype)
        cost = self._cost(params, data, named)
        return self._State(**fields, fun_val=residuals, cost_val=cost, error=error, aux=aux)

    def _cost(self, params: PyTree, args: tuple, kwargs: dict) -> Array:
        residuals = flat(self._evaluate(params, *args, **kwargs)[0])
        return cost_of(self.loss, jnp.asarray(self._f_scale).astype(residuals.dtype), residuals)

    def optimality_fun(self, params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The gradient of the cost in ``params``, a pytree like them."""
        return self._gradient(params, *args, **kwargs)

    def _gradient(self, params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        return jax.grad(lambda x: self._cost(x, args, kwargs))(params)

    def _state_of_solution(self, params: PyTree, *args: Any, **kwargs: Any) -> dict[str, PyTree]:
        """``cost_val``, ``fun_val`` and ``aux`` as functions of the solution."""
        _, data, named = self._split(args, kwargs)
        residuals, aux = self._evaluate(params, *data, **named)
        return {"cost_val": self._cost(params, data, named), "fun_val": residuals, "aux": aux}

    def _evaluate(self, params, *args, **kwargs):
        out = self.fun(params, *args, **kwargs)
        return out if self.has_aux else (out, None)


class ScipyBoundedLeastSquares(Bounded, ScipyLeastSquares):
    """Nonlinear least squares over a box by ``scipy.optimize.least_squares``.

    ``run(init_params, bounds, *args, **kwargs)``, where ``bounds`` is the pair ``(lower, upper)`` of scalars, arrays
    that broadcast to each leaf, or pytrees like the parameters; infinite where there is none. SciPy requires every
    lower bound to be less than the upper bound.

    Example:
        >>> import jax.numpy as jnp, jaxsolve
        >>> solver = jaxsolve.ScipyBoundedLeastSquares(lambda x, y: x - y)
        >>> solver.run(jnp.ones(2), (0.0, 2.0), jnp.array([1.5, 3.0])).params.round(4).tolist()
        [1.5, 2.0]
    """

    _methods = ("trf", "dogbox")

    def optimality_fun(self, sol: PyTree, bounds: Any, *args: Any, **kwargs: Any) -> PyTree:
        """The optimality conditions over the box, a pytree like ``sol``."""
        bounds = bounds_like(bounds, sol)
        return bounded_stationarity(lambda x: self._gradient(x, *args, **kwargs), sol, bounds)
