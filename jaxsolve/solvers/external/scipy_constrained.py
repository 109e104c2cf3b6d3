r"""Minimization with general constraints by SciPy, or by IPOPT.

Problem: minimize :math:`f(x, \theta)` subject to :math:`h(x, \theta) = 0,\ g(x, \theta) \le 0,\ l \le x \le u`. Method:
one of ``scipy.optimize.minimize``, or of cyipopt, which has the same interface, on the host. Multipliers are estimated
at the result, which is then polished on its active set. Optimality: the Karush-Kuhn-Tucker conditions.

Reference:
    Kraft (1988), "A software package for sequential quadratic programming"; Virtanen et al. (2020), "SciPy 1.0:
    fundamental algorithms for scientific computing in Python"; Wächter and Biegler (2006), "On the implementation of an
    interior-point filter line-search algorithm for large-scale nonlinear programming".
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._docstrings import with_fields_of
from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve._vectors import flat
from jaxsolve.base import option
from jaxsolve.solvers.constrained._active_rows import ActiveSystem, Point
from jaxsolve.solvers.constrained._constrained import ConstrainedSolver, SharedFields, parts_of, size_of
from jaxsolve.solvers.constrained._program import scaling_at
from jaxsolve.solvers.external._scipy import Oracle, ScipySolver, message_of, status_of
from jaxsolve.solvers.quadratic._kkt import estimate_multipliers
from jaxsolve.solvers.quadratic._scaling import scale

__all__ = ["ScipyConstrainedMinimize", "ScipyConstrainedState"]

# Methods that take second derivatives.
_OF_SECOND_ORDER = ("trust-constr", "ipopt")


@with_fields_of(SharedFields)
class ScipyConstrainedState(NamedTuple):
    """State of a minimization with constraints by SciPy.

    Attributes:
        status: a :class:`jaxsolve.Status`, int32: ``CONVERGED`` if SciPy reports success, by its own criteria, or if
            the polished result satisfies the optimality conditions.
        success: whether SciPy reports success.
        num_fun_eval: evaluations of ``fun``, int32.
        num_jac_eval: evaluations of its gradient, int32.
        num_hess_eval: evaluations of its Hessian, int32.
        scipy_status: the status code of SciPy, int32.
        message_codes: its message, in bytes; ``message`` is the text.
    """

    iter_num: Array
    error: Array
    value: Array
    status: Array
    constr_violation: Array
    dual_bounds: Any
    is_minimum: Array
    success: Array
    num_fun_eval: Any = 0
    num_jac_eval: Any = 0
    num_hess_eval: Any = 0
    scipy_status: Any = 0
    message_codes: Any = None

    @property
    def fun_val(self) -> Array:
        """JAXopt's name of ``value``, as in the states of the other solvers of SciPy."""
        return self.value

    @property
    def message(self) -> str:
        """The message of SciPy; not available under ``jit``."""
        return message_of(self.message_codes)


class ScipyConstrainedMinimize(ConstrainedSolver, ScipySolver):
    """Minimization with general constraints by ``scipy.optimize.minimize``.

    The arguments and the result of ``run`` are those of :class:`InteriorPointNLP`, and so is the derivative. Methods:
    SLSQP (the default), trust-constr, COBYLA, COBYQA, and, if the package cyipopt is installed, IPOPT; trust-constr and
    IPOPT get exact second derivatives. The result is polished on its active set.

    Raises:
        ImportError: the method is ``"ipopt"``, and cyipopt is not installed.

    Attributes:
        tol: tolerance of the method; ``None`` takes its default.
        maxiter: largest number of iterations; ``options`` take precedence.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> solver = jaxsolve.ScipyConstrainedMinimize(
        ...     lambda x, r: jnp.sum((x - jnp.array([2.0, 1.0])) ** 2), ineq_fun=lambda x, r: jnp.sum(x**2) - r**2)
        >>> solution = lambda r: solver.run(jnp.ones(2), r).params.primal
        >>> [round(float(v), 3) for v in solution(1.0)]
        [0.894, 0.447]
        >>> [round(float(v), 3) for v in jax.jacobian(solution)(1.0)]
        [0.894, 0.447]
    """

    tol: float | None = option(None, at_least=0)  # type: ignore[assignment,misc]  # by dtype
    maxiter: int = option(500, at_least=0)  # type: ignore[misc]

    _State = ScipyConstrainedState
    _methods = ("slsqp", "trust-constr", "cobyla", "cobyqa", "ipopt")
    _default_tol = (1e-6, 1e-3)

    def _validate(self) -> None:
        super()._validate()
        if self._method == "ipopt" and "cyipopt" not in sys.modules and importlib.util.find_spec("cyipopt") is None:
            raise ImportError('method="ipopt" needs the package cyipopt, which is not installed: conda or pip have it.')

    def _split(self, args: tuple, kwargs: dict) -> tuple[Any, tuple, dict]:
        return kwargs.get("bounds"), args, {name: value for name, value in kwargs.items() if name != "bounds"}

    def _gradient(self, params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        # Nothing that would say on which bounds a result lies: with constraints the objective alone does not.
        return jax.tree.map(jnp.zeros_like, params)

    def _oracles(self, x: Array, unravel: Callable, args: tuple, kwargs: dict) -> dict[str, tuple[Oracle, int]]:
        program = self._program_of(unravel(x), *args, **kwargs)

        def value_and_grad(x):
            return jax.value_and_grad(lambda x: program.values(x)[0])(x)

        def constraints(x):
            rows, jacobian = (part[1:] for part in (program.values(x), jax.jacrev(program.values)(x)))
            p = program.num_eq
            return rows[:p], jacobian[:p], -rows[p:], -jacobian[p:]

        def second(x):
            hessians, p = jax.jacfwd(jax.jacrev(program.values))(x), program.num_eq + 1
            return hessians[0], hessians[1:p], -hessians[p:]

        oracles = {"value_and_grad": (value_and_grad, 1), "constraints": (constraints, 1)}
        return oracles | ({"second": (second, 1)} if self._method in _OF_SECOND_ORDER else {})

    def _result_like(self, x: Array, oracles: dict[str, tuple[Oracle, int]]) -> dict[str, Any]:
        return {}

    def _on_host(
        self, oracles: dict[str, Oracle], x: np.ndarray, bounds: tuple, unravel: Callable
    ) -> tuple[Any, Status, dict[str, Any]]:
        from scipy import optimize

        method, values = self._method or "slsqp", oracles["constraints"](x)
        call: dict[str, Any] = {"tol": self.tol, "options": {"maxiter": self.maxiter, **(self.options or {})}}
        if "second" in oracles:
            call["hess"] = lambda x: oracles["second"](x)[0]

        def constraint(kind, place):
            part: dict[str, Any] = {
                "fun": lambda x: oracles["constraints"](x)[place],
                "jac": lambda x: oracles["constraints"](x)[place + 1],
            }
            if "second" in oracles:
                part["hess"] = lambda x, v: np.tensordot(v, oracles["second"](x)[1 + place // 2], 1)
            if method == "trust-constr":
                return optimize.NonlinearConstraint(lb=0, ub=0 if kind == "eq" else np.inf, **part)
            return {"type": kind, **part}

        call["constraints"] = [constraint(*part) for part in (("eq", 0), ("ineq", 2)) if values[part[1]].size]

        def objective(x):
            value, grad = oracles["value_and_grad"](x)
            return float(value), grad

        if method == "ipopt":
            from cyipopt import minimize_ipopt  # type: ignore[import-not-found]  # if it is there

            if bounds:
                call["bounds"] = list(zip(*bounds, strict=True))
                # By default it goes beyond the bounds a little.
                call["options"] = {"bound_relax_factor": 0.0, **call["options"]}
            result = minimize_ipopt(objective, x, jac=True, **call)
        else:
            if bounds:
                call["bounds"] = optimize.Bounds(*bounds, keep_feasible=True)  # type: ignore[arg-type]  # per variable
            result = optimize.minimize(objective, x, jac=True, method=method, **call)
        return result, status_of(result), {}

    def _state(self, params: PyTree, fields: dict[str, Any], args: tuple, kwargs: dict) -> ScipyConstrainedState:
        x = flat(params)
        unknown = {name: jnp.zeros((), x.dtype) for name in ("error", "value", "constr_violation")}
        return self._State(
            **unknown, dual_bounds=jax.tree.map(jnp.zeros_like, params), is_minimum=jnp.asarray(False), **fields
        )

    def _solve(self, init_params: PyTree, *args: Any, **kwargs: Any) -> tuple[OptStep, ActiveSystem]:
        (params, state), _ = super()._solve(parts_of(init_params)[0], *args, **kwargs)
        program = self._program_of(params, *args, **kwargs)
        x = jnp.clip(flat(params, program.lower.dtype), program.lower, program.upper)
        zeros = jnp.zeros(size_of(program), x.dtype)
        at = program.local(x, zeros)
        # Units are those of the initial point: in a solution a variable may be of the size of rounding.
        given = flat(parts_of(init_params)[0], x.dtype)
        scaling = scaling_at(program, given, *program.local(given, zeros))
        # The multipliers that come nearest to stationarity, of the local program in scaled units.
        rows = program.rows_at(1 / scaling.variables, scaling.rows)
        qp = program.quadratic(at._replace(hessian=jnp.zeros_like(at.hessian)), at.jacobian[0])
        shift = qp.A.matvec(x) - program.rows_at(x, at.values[1:])
        qp = scale(qp._replace(lower=qp.lower + shift, upper=qp.upper + shift), scaling._replace(rows=rows))
        y = rows / scaling.cost * estimate_multipliers(qp, x / scaling.variables)
        at = program.local(x, y[: zeros.size])
        finite = jnp.all(jnp.isfinite(at.values))
        state = state._replace(error=jnp.where(finite, jnp.inf, jnp.nan).astype(x.dtype))
        near = finite & (Status.CONVERGED.holds(state.status) | Status.STALLED.holds(state.status))
        step, system = self._finished(program, scaling, Point(x, y, at), state, near)
        status = jnp.where(Status.CONVERGED.holds(state.status), state.status, step.state.status)
        status = Status.NONFINITE.where(~finite, status)
        system = dataclasses.replace(system, valid=system.valid & finite)
        return step._replace(state=step.state._replace(status=status)), system

    def _tolerance_at(self, dtype: Any) -> Array:
        # That of SciPy has other units.
        return jnp.asarray(self._default_tol[jnp.finfo(dtype).bits < 64], dtype)
