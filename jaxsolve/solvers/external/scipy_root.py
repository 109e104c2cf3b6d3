r"""Roots by SciPy.

Problem: find :math:`x` with :math:`F(x, \theta) = 0`. Method: one of ``scipy.optimize.root``, on the host. Optimality:
:math:`F(x, \theta) = 0`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxsolve._status import Status
from jaxsolve._types import Array, PyTree
from jaxsolve._vectors import flat
from jaxsolve.base import as_like, option
from jaxsolve.solvers.external._scipy import Oracle, ScipySolver, is_traceable, message_of, status_of
from jaxsolve.tree_util import tree_l2_norm

__all__ = ["ScipyRootFinding", "ScipyRootState"]

_WITH_JACOBIAN = ("hybr", "lm")


class ScipyRootState(NamedTuple):
    """State of a search for a root by SciPy.

    Attributes:
        fun_val: the function at the solution, a pytree like the parameters.
        success: whether SciPy reports success.
        status: a :class:`jaxsolve.Status`, int32: ``CONVERGED`` if SciPy reports success and the residual is smaller by
            a factor of 1e-4 than at first, or than the Jacobian times the parameters.
        iter_num: number of iterations, int32; 0 for methods that do not count them.
        num_fun_eval: evaluations of the function, int32.
        num_jac_eval: evaluations of its Jacobian, int32.
        error: Euclidean norm of ``fun_val``.
        aux: auxiliary output of the function.
        scipy_status: the status code of SciPy, int32.
        message_codes: its message, in bytes; ``message`` is the text.
    """

    fun_val: Any
    success: Array
    status: Array
    iter_num: Array
    num_fun_eval: Any = 0
    num_jac_eval: Any = 0
    error: Any = None
    aux: Any = None
    scipy_status: Any = 0
    message_codes: Any = None

    @property
    def message(self) -> str:
        """The message of SciPy; not available under ``jit``."""
        return message_of(self.message_codes)


class ScipyRootFinding(ScipySolver):
    """Roots by ``scipy.optimize.root``.

    ``run(init_params, *args, **kwargs)`` finds ``params`` with ``optimality_fun(params, *args, **kwargs) = 0``. If
    SciPy reports success at a point that is not a root, the status is ``STALLED``.

    Attributes:
        optimality_fun: a function with as many values as parameters, in leaves of the same shapes.
        tol: tolerance of the method; ``None`` takes its default.
        use_jacrev: compute the Jacobian in reverse mode, for example for functions without forward mode.

    Raises:
        ValueError: an unknown method, or ``implicit_diff=False``.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> solver = jaxsolve.ScipyRootFinding(lambda x, a: x**3 + x - a, method="hybr")
        >>> round(float(solver.run(jnp.ones(1), 10.0).params[0]), 4)
        2.0
        >>> round(float(jax.jacobian(lambda a: solver.run(jnp.ones(1), a).params)(10.0)[0]), 4)
        0.0769
    """

    optimality_fun: Callable = dataclasses.field()  # in place of the method of the other solvers
    tol: float | None = option(None, at_least=0)
    use_jacrev: bool = option(True)

    _State = ScipyRootState
    _methods = (
        "hybr", "lm", "broyden1", "broyden2", "anderson", "linearmixing", "diagbroyden", "excitingmixing", "krylov",
        "df-sane",
    )  # fmt: skip

    def _oracles(self, x: Array, unravel: Callable, args: tuple, kwargs: dict) -> dict[str, tuple[Oracle, int]]:
        def value(x):
            return flat(self._residual(unravel(x), *args, **kwargs), x.dtype)

        differentiate = jax.jacrev if self.use_jacrev else jax.jacfwd
        oracles: dict[str, tuple[Oracle, int]] = {"value": (lambda x: (value(x),), 1)}
        if (self._method or "hybr") in _WITH_JACOBIAN and (self.jit or is_traceable(value, x)):
            oracles["jacobian"] = (lambda x: (differentiate(value)(x),), 1)
        return oracles

    def _result_like(self, x: Array, oracles: dict[str, tuple[Oracle, int]]) -> dict[str, Any]:
        return {}

    def _on_host(
        self, oracles: dict[str, Oracle], x: np.ndarray, bounds: tuple, unravel: Callable
    ) -> tuple[Any, Status, dict[str, Any]]:
        from scipy import optimize

        jacobian = (lambda x: oracles["jacobian"](x)[0]) if "jacobian" in oracles else None
        value = lambda x: oracles["value"](x)[0]  # noqa: E731
        result = optimize.root(
            value, x, method=self._method or "hybr", jac=jacobian, tol=self.tol, options=dict(self.options or {})
        )
        status = status_of(result)
        if result.success and not self._is_root(np.asarray(result.x), x, value, jacobian):
            status = Status.STALLED
        return result, status, {}

    def _is_root(self, x, start, value, jacobian) -> bool:
        error = np.linalg.norm(value(x))
        size = np.linalg.norm(value(start))
        if jacobian is not None:
            size = max(size, np.linalg.norm(jacobian(x)) * max(np.linalg.norm(x), np.linalg.norm(x - start)))
        return bool(error <= 1e-4 * size)

    def _state(self, params: PyTree, fields: dict[str, Any], args: tuple, kwargs: dict) -> ScipyRootState:
        value, aux = self._evaluate(params, *args, **kwargs)
        error = tree_l2_norm(value).astype(flat(params).dtype)
        fields.pop("num_hess_eval")
        return self._State(**fields, fun_val=value, error=error, aux=aux)

    def _residual(self, params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The function at ``params``."""
        return self._evaluate(params, *args, **kwargs)[0]

    def _state_of_solution(self, params: PyTree, *args: Any, **kwargs: Any) -> dict[str, PyTree]:
        """``fun_val`` and ``aux`` as functions of the root."""
        value, aux = self._evaluate(params, *args, **kwargs)
        return {"fun_val": value, "aux": aux}

    def _evaluate(self, params, *args, **kwargs):
        out = self.optimality_fun(params, *args, **kwargs)
        value, aux = out if self.has_aux else (out, None)
        return as_like("optimality_fun", value, params), aux
