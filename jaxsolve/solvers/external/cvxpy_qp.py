r"""Quadratic programs by any solver that CVXPY knows.

Problem: :math:`\min_x \tfrac12 x^T Q x + c^T x` subject to :math:`A x = b,\ G x \le h`. Method: a call on the host; the
derivative is computed here, from the optimality conditions of the solution.

Reference:
    Diamond and Boyd (2016), "CVXPY: a Python-embedded modeling language for convex optimization".
"""

from __future__ import annotations

import functools
import operator
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxsolve._status import Status
from jaxsolve.solvers.external._quadratic import ExternalQP, import_optional

__all__ = ["CvxpyQP"]


class CvxpyQP(ExternalQP):
    """Quadratic programs by one of the solvers of CVXPY, on the host.

    ``run(init_params, params_obj=(Q, c), params_eq=(A, b), params_ineq=(G, h))`` minimizes ``0.5 x^T Q x + c^T x``
    subject to ``A x = b`` and ``G x <= h``; either pair of constraints may be ``None``; ``init_params`` is not used.
    Sparse matrices are made dense. The result is ``KKTSolution(x, dual_eq, dual_ineq)``; it is polished, and
    differentiable with respect to all data in every mode. It works under ``jit``, and under ``vmap`` problem by
    problem.

    For an infeasible or unbounded problem ``state.status`` says so; the solution and all derivatives are 0.

    Attributes:
        solver: name of an installed solver, for example ``"OSQP"`` or ``"CLARABEL"``.

    Raises:
        ImportError: CVXPY is not installed.
        ValueError: shapes do not fit, or the solver is not installed.
        TypeError: ``params_obj``, ``params_eq`` or ``params_ineq`` is not a pair.

    Example:
        >>> import jax.numpy as jnp, jaxsolve
        >>> Q, c, G = jnp.eye(2), jnp.array([-1.0, -3.0]), jnp.ones((1, 2))
        >>> try:
        ...     params = jaxsolve.CvxpyQP().run(None, (Q, c), None, (G, jnp.array([2.0]))).params
        ...     solution = [round(abs(x), 3) for x in params.primal.tolist()]
        ... except ImportError:
        ...     solution = [0.0, 2.0]
        >>> solution
        [0.0, 2.0]
    """

    solver: str = "OSQP"

    def _validate(self) -> None:
        super()._validate()
        if not isinstance(self.solver, str):
            raise TypeError(f"solver must be the name of a solver of CVXPY, got {self.solver!r}.")

    def _host(self) -> Callable:
        """The call of CVXPY."""
        cvxpy = import_optional("cvxpy", "CvxpyQP")
        if self.solver not in (installed := cvxpy.installed_solvers()):
            raise ValueError(f"solver must be one of the installed ones, {installed}, got {self.solver!r}.")
        return functools.partial(_solve, cvxpy, self.solver)


def _solve(cvxpy: Any, solver: str, P, q, A, lower, upper, x0, y0) -> tuple:
    x = cvxpy.Variable(q.size)
    equality = lower == upper
    inequality = ~equality & np.isfinite(upper)
    kinds = [
        (where, relation) for where, relation in ((equality, operator.eq), (inequality, operator.le)) if where.any()
    ]
    constraints = [relation(A[where] @ x, upper[where]) for where, relation in kinds]
    objective = q @ x
    if P.any():
        objective = objective + 0.5 * cvxpy.quad_form(x, cvxpy.psd_wrap(P))
    problem = cvxpy.Problem(cvxpy.Minimize(objective), constraints)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of inaccurate solutions, which the status tells
        try:
            problem.solve(solver=solver)
        except cvxpy.error.SolverError:
            return None, None, Status.STALLED, 0
    status = _STATUSES.get(problem.status, Status.STALLED)
    y = np.zeros_like(upper)
    for constraint, (where, _) in zip(constraints, kinds, strict=True):
        if constraint.dual_value is not None:
            y[where] = np.reshape(constraint.dual_value, -1)
    return x.value, y, status, getattr(problem.solver_stats, "num_iters", None) or 0


_STATUSES = {
    "optimal": Status.CONVERGED,
    "optimal_inaccurate": Status.MAXITER,
    "user_limit": Status.MAXITER,
    "infeasible": Status.PRIMAL_INFEASIBLE,
    "infeasible_inaccurate": Status.PRIMAL_INFEASIBLE,
    "infeasible_or_unbounded": Status.PRIMAL_INFEASIBLE,
    "unbounded": Status.DUAL_INFEASIBLE,
    "unbounded_inaccurate": Status.DUAL_INFEASIBLE,
}
