r"""Quadratic programs by OSQP, the C library.

Problem: :math:`\min_x \tfrac12 x^T Q x + c^T x` subject to :math:`A x = b,\ G x \le h`. Method: a call of the package
``osqp`` on the host; the derivative is computed here, from the optimality conditions of the solution.

Reference:
    Stellato, Banjac, Goulart, Bemporad and Boyd (2020), "OSQP: an operator splitting solver for quadratic programs".
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxsolve._status import Status
from jaxsolve.base import option
from jaxsolve.solvers.external._quadratic import ExternalQP, import_optional

__all__ = ["ExternalOSQP"]


class ExternalOSQP(ExternalQP):
    """Quadratic programs by the C library OSQP, version 1, on the host.

    ``run(init_params, params_obj=(Q, c), params_eq=(A, b), params_ineq=(G, h))`` minimizes ``0.5 x^T Q x + c^T x``
    subject to ``A x = b`` and ``G x <= h``; either pair of constraints may be ``None``. Sparse matrices are made dense.
    ``init_params``, primal variables or a ``KKTSolution``, is a warm start. The result is
    ``KKTSolution(x, dual_eq, dual_ineq)``; it is polished, and differentiable with respect to all data in every mode.
    It works under ``jit``, and under ``vmap`` problem by problem.

    For an infeasible or unbounded problem ``state.status`` says so; the solution and all derivatives are 0.

    Attributes:
        settings: further settings of OSQP, a dict of Python values.
        maxiter: largest number of iterations of OSQP.

    Raises:
        ImportError: the package ``osqp`` is not installed.
        ValueError: shapes do not fit.
        TypeError: ``params_obj``, ``params_eq`` or ``params_ineq`` is not a pair.

    Example:
        >>> import jax.numpy as jnp, jaxsolve
        >>> Q, c, G = jnp.eye(2), jnp.array([-1.0, -3.0]), jnp.ones((1, 2))
        >>> try:
        ...     params = jaxsolve.ExternalOSQP().run(None, (Q, c), None, (G, jnp.array([2.0]))).params
        ...     solution = [round(abs(x), 3) for x in params.primal.tolist()]
        ... except ImportError:
        ...     solution = [0.0, 2.0]
        >>> solution
        [0.0, 2.0]
    """

    settings: Mapping[str, Any] | None = option(None)
    maxiter: int = option(4000, at_least=1)

    def _validate(self) -> None:
        super()._validate()
        if self.settings is not None and not isinstance(self.settings, Mapping):
            raise TypeError(f"settings must be a dict of settings of OSQP, got {self.settings!r}.")

    def _host(self) -> Callable:
        """The call of the C library."""
        settings = {"eps_abs": 0.1 * self.tol, "eps_rel": 0.1 * self.tol, "max_iter": self.maxiter, "verbose": False}
        return functools.partial(_solve, import_optional("osqp", "ExternalOSQP"), {**settings, **(self.settings or {})})


def _solve(osqp: Any, settings: dict, P, q, A, lower, upper, x0, y0) -> tuple:
    from scipy import sparse

    problem = osqp.OSQP()
    try:
        P, A = sparse.csc_matrix(np.triu(P)), sparse.csc_matrix(A)
        problem.setup(P=P, q=q, A=A, l=lower, u=upper, **settings)
    except osqp.OSQPException:
        # The objective is not convex, as far as its factorization can tell.
        return None, None, Status.STALLED, 0
    if np.any(x0) or np.any(y0):
        problem.warm_start(x=x0, y=y0)
    result = problem.solve(raise_error=False)
    status = _STATUSES.get(result.info.status_val, Status.STALLED)
    return result.x, result.y, status, result.info.iter


# The numbers are those of version 1 of the library.
_STATUSES = {
    1: Status.CONVERGED,
    2: Status.MAXITER,
    3: Status.PRIMAL_INFEASIBLE,
    4: Status.PRIMAL_INFEASIBLE,
    5: Status.DUAL_INFEASIBLE,
    6: Status.DUAL_INFEASIBLE,
    7: Status.MAXITER,
    8: Status.MAXITER,
}
