r"""Minimization by SciPy, with and without bounds.

Problem: minimize :math:`f(x, \theta)`, perhaps over a box. Method: one of ``scipy.optimize.minimize``, on the host.
Optimality: :math:`\nabla_1 f(x, \theta) = 0`, or its form over a box, see :mod:`jaxsolve.solvers._bounds`.

Reference:
    Virtanen et al. (2020), "SciPy 1.0: fundamental algorithms for scientific computing in Python".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._status import Status
from jaxsolve._types import Array, PyTree
from jaxsolve._vectors import flat, unraveled
from jaxsolve.base import option
from jaxsolve.implicit_diff.optimality import stationary
from jaxsolve.solvers._bounds import bounded_stationarity, bounds_like
from jaxsolve.solvers.external._scipy import Bounded, Oracle, ScipySolver, is_traceable, message_of, status_of
from jaxsolve.tree_util import tree_l2_norm

__all__ = ["ScipyBoundedMinimize", "ScipyMinimize", "ScipyMinimizeState"]

_WITHOUT_GRADIENT = ("nelder-mead", "powell", "cobyla", "cobyqa")
_WITH_PRODUCTS = ("newton-cg", "trust-ncg", "trust-krylov", "trust-constr")
_WITH_HESSIAN = ("dogleg", "trust-exact")
_WITH_INVERSE = ("bfgs", "l-bfgs-b")
# The inverse Hessian of L-BFGS-B is made a matrix up to so many variables.
_MOST_DENSE = 512


class ScipyMinimizeState(NamedTuple):
    """State of a minimization by SciPy.

    Attributes:
        fun_val: objective at the solution.
        success: whether SciPy reports success.
        status: a :class:`jaxsolve.Status`, int32: ``CONVERGED`` where SciPy reports success, by its own criteria.
        iter_num: number of iterations, int32.
        hess_inv: approximation of the inverse Hessian, shape (n, n), where the method has one; else ``None``.
        num_fun_eval: evaluations of ``fun``, int32.
        num_jac_eval: evaluations of its gradient, int32.
        num_hess_eval: evaluations of its Hessian, int32.
        error: Euclidean norm of the optimality residual; infinite for a function that runs on the host without a
            gradient.
        aux: auxiliary output of ``fun``.
        scipy_status: the status code of SciPy, int32.
        message_codes: its message, in bytes; ``message`` is the text.
    """

    fun_val: Array
    success: Array
    status: Array
    iter_num: Array
    hess_inv: Any
    num_fun_eval: Any = 0
    num_jac_eval: Any = 0
    num_hess_eval: Any = 0
    error: Any = None
    aux: Any = None
    scipy_status: Any = 0
    message_codes: Any = None

    @property
    def value(self) -> Array:
        """The objective, under the name that other solvers use."""
        return self.fun_val

    @property
    def message(self) -> str:
        """The message of SciPy; not available under ``jit``."""
        return message_of(self.message_codes)


class ScipyMinimize(ScipySolver):
    """Minimization by ``scipy.optimize.minimize``.

    ``run(init_params, *args, **kwargs)`` minimizes ``fun(params, *args, **kwargs)``. With ``jit=False`` ``fun`` may be
    a function that runs on the host; SciPy then approximates its gradient by differences, unless ``value_and_grad`` is
    true.

    Attributes:
        fun: smooth function with a real scalar value.
        value_and_grad: whether ``fun`` returns ``(value, grad)``.
        callback: called as ``callback(params)`` after every iteration, on the host.
        tol: tolerance of the method; ``None`` takes its default.
        maxiter: largest number of iterations; ``options`` take precedence.

    Raises:
        ValueError: an unknown method, or ``implicit_diff=False``.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> def rosenbrock(x, a):
        ...     return jnp.sum((a - x[:-1]) ** 2 + 100.0 * (x[1:] - x[:-1] ** 2) ** 2)
        >>> solver = jaxsolve.ScipyMinimize(rosenbrock, method="BFGS", tol=1e-4)
        >>> params, state = solver.run(jnp.zeros(2), 1.0)
        >>> params.round(2).tolist(), bool(state.success), state.message
        ([1.0, 1.0], True, 'Optimization terminated successfully.')
        >>> jax.jacobian(lambda a: solver.run(jnp.zeros(2), a).params)(1.0).round(2).tolist()
        [1.0, 2.0]
    """

    fun: Callable
    value_and_grad: bool = option(False)
    callback: Callable | None = option(None)
    tol: float | None = option(None, at_least=0)
    maxiter: int = option(500, at_least=0)

    _State = ScipyMinimizeState
    _structure = "psd"
    _methods = (
        "nelder-mead", "powell", "cg", "bfgs", "newton-cg", "l-bfgs-b", "tnc", "cobyla", "cobyqa", "slsqp",
        "trust-constr", "dogleg", "trust-ncg", "trust-exact", "trust-krylov",
    )  # fmt: skip
    _default = "bfgs"

    def _oracles(self, x: Array, unravel: Callable, args: tuple, kwargs: dict) -> dict[str, tuple[Oracle, int]]:
        objective, method = self._objective, self._method or self._default

        def value(x):
            return (objective.value(unravel(x), *args, **kwargs)[0],)

        def value_and_grad(x):
            (value, _), grad = objective.value_and_grad(unravel(x), *args, **kwargs)
            return value, flat(grad, x.dtype)

        def gradient(x):
            return value_and_grad(x)[1]

        def product(x, p):
            return (jax.jvp(gradient, (x,), (p,))[1],)

        if method in _WITHOUT_GRADIENT or not self._has_gradient(x, unravel, args, kwargs):
            return {"value": (value, 1)}
        oracles: dict[str, tuple[Oracle, int]] = {"value_and_grad": (value_and_grad, 1)}
        if method in _WITH_PRODUCTS:
            oracles["product"] = (product, 2)
        if method in _WITH_HESSIAN:
            oracles["hessian"] = (lambda x: (jax.hessian(lambda x: value(x)[0])(x),), 1)
        return oracles

    def _has_gradient(self, x, unravel, args, kwargs) -> bool:
        """Whether there is one: of a function of the host only if it returns it."""
        if self.jit or self.value_and_grad:
            return True
        return is_traceable(lambda x: self._objective.value(unravel(x), *args, **kwargs)[0], x)

    def _result_like(self, x: Array, oracles: dict[str, tuple[Oracle, int]]) -> dict[str, Any]:
        return {"hess_inv": jax.ShapeDtypeStruct((x.size, x.size), x.dtype)} if self._has_inverse(x) else {}

    def _has_inverse(self, x: Any) -> bool:
        return (self._method or self._default) in _WITH_INVERSE and x.size <= _MOST_DENSE

    def _on_host(
        self, oracles: dict[str, Oracle], x: np.ndarray, bounds: tuple, unravel: Callable
    ) -> tuple[Any, Status, dict[str, Any]]:
        from scipy import optimize

        method = self._method or self._default
        call: dict[str, Any] = {"method": method, "tol": self.tol}
        call["options"] = {"maxfun" if method == "tnc" else "maxiter": self.maxiter, **(self.options or {})}
        if bounds:
            call["bounds"] = optimize.Bounds(*bounds, keep_feasible=True)  # type: ignore[arg-type]  # per variable
        if self.callback is not None:
            told = self.callback
            call["callback"] = lambda xk, *_: told(unravel(jnp.asarray(xk)))
        if "product" in oracles:
            call["hessp"] = lambda x, p: oracles["product"](x, p)[0]
        if "hessian" in oracles:
            call["hess"] = lambda x: oracles["hessian"](x)[0]
        gives_grad = "value_and_grad" in oracles
        function = oracles["value_and_grad" if gives_grad else "value"]

        def objective(x):
            value, *grad = function(x)
            return (float(value), *grad) if grad else float(value)

        result = optimize.minimize(objective, x, jac=gives_grad or None, **call)
        if not self._has_inverse(x):
            return result, status_of(result), {}
        inverse: Any = result.hess_inv
        return result, status_of(result), {"hess_inv": inverse.todense() if hasattr(inverse, "todense") else inverse}

    def _slope(self, oracles: dict[str, Oracle], x: np.ndarray) -> np.ndarray | None:
        return oracles["value_and_grad"](x)[1] if "value_and_grad" in oracles else None

    def _state(self, params: PyTree, fields: dict[str, Any], args: tuple, kwargs: dict) -> ScipyMinimizeState:
        _, data, named = self._split(args, kwargs)
        value, aux = self._objective.value(params, *data, **named)
        x = flat(params)
        error = jnp.full((), jnp.inf, x.dtype)  # not known without a gradient
        if self._has_gradient(x, unraveled(params), data, named):
            error = tree_l2_norm(self.optimality_fun(params, *args, **kwargs)).astype(x.dtype)
        return self._State(**{"hess_inv": None, **fields}, fun_val=value, error=error, aux=aux)

    def optimality_fun(self, params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The gradient of ``fun`` in ``params``, a pytree like them."""
        return self._gradient(params, *args, **kwargs)

    def _gradient(self, params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        return stationary(self._objective.value_and_grad, value_and_grad=True)(params, *args, **kwargs)

    def _state_of_solution(self, params: PyTree, *args: Any, **kwargs: Any) -> dict[str, PyTree]:
        """``fun_val`` and ``aux`` as functions of the solution."""
        _, data, named = self._split(args, kwargs)
        value, aux = self._objective.value(params, *data, **named)
        return {"fun_val": value, "aux": aux}


class ScipyBoundedMinimize(Bounded, ScipyMinimize):
    """Minimization over a box by ``scipy.optimize.minimize``.

    ``run(init_params, bounds, *args, **kwargs)`` minimizes ``fun(params, *args, **kwargs)`` subject to ``lower <=
    params <= upper``, where ``bounds`` is the pair ``(lower, upper)`` of scalars, arrays that broadcast to each leaf,
    or pytrees like the parameters; infinite where there is none. The solution is also differentiable with respect to
    the bounds. Methods: Nelder-Mead, Powell, L-BFGS-B (the default), TNC, SLSQP, COBYLA, COBYQA and trust-constr.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> solver = jaxsolve.ScipyBoundedMinimize(lambda x, y: jnp.sum((x - y) ** 2), method="L-BFGS-B")
        >>> solver.run(jnp.zeros(2), (0.0, jnp.array([1.0, 5.0])), jnp.array([2.0, 3.0])).params.tolist()
        [1.0, 3.0]
    """

    _methods = ("nelder-mead", "powell", "l-bfgs-b", "tnc", "slsqp", "cobyla", "cobyqa", "trust-constr")
    _default = "l-bfgs-b"

    def optimality_fun(self, sol: PyTree, bounds: Any, *args: Any, **kwargs: Any) -> PyTree:
        """The optimality conditions over the box, a pytree like ``sol``."""
        bounds = bounds_like(bounds, sol)
        return bounded_stationarity(lambda x: self._gradient(x, *args, **kwargs), sol, bounds)
