"""The forms in which quadratic programs are given, and their solutions returned."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from jaxsolve._types import KKTSolution, PyTree
from jaxsolve.solvers.quadratic._base import Problem, QuadraticSolver, Solution
from jaxsolve.solvers.quadratic._problem import Constraints

__all__ = ["BoxConstrained", "GeneralForm", "StandardForm"]


class BoxConstrained(QuadraticSolver):
    r"""Base of the solvers of :math:`\min \tfrac12 x^T Q x + c^T x` subject to :math:`l \le A x \le u`.

    Attributes:
        matvec_Q: ``matvec_Q(params_Q, x)``, the product with the symmetric positive semidefinite matrix of the
            objective, if it is not given by its entries.
        matvec_A: ``matvec_A(params_A, x)``, a linear function, if the matrix is not given by its entries.
        fun: ``fun(x, params_obj)``, the objective as a function, which must be quadratic; in place of ``(Q, c)``.
    """

    matvec_Q: Callable | None = None  # type: ignore[misc]  # an option here
    matvec_A: Callable | None = None  # type: ignore[misc]
    fun: Callable | None = None  # type: ignore[misc]

    _arguments = {"params_obj": ("Q", "c"), "params_eq": "A", "params_ineq": ("l", "u")}

    def _constraints(self, size, params_eq=None, params_ineq=None):
        if params_ineq is not None:
            name = "x" if params_eq is None and self.matvec_A is None else "A"
            return {name: Constraints(self.matvec_A, params_eq, *params_ineq)}
        if params_eq is not None:
            raise ValueError("params_eq gives a matrix A, but params_ineq, the bounds (l, u) of A x, is missing.")
        return {"A": Constraints(None, jnp.zeros((0, size)), 0.0, 0.0)}

    def _to_params(self, problem: Problem, solution: Solution) -> KKTSolution:
        """``KKTSolution((x, z), y, (mu, phi))``."""
        x, y, Ax = solution
        z = jnp.clip(Ax, problem.qp.lower, problem.qp.upper)
        parts = (z, y, jnp.maximum(y, 0), jnp.maximum(-y, 0))
        z, y, mu, phi = (problem.unravel_rows(part).popitem()[1] for part in parts)
        return KKTSolution((problem.unravel_x(x), z), y, (mu, phi))

    def _unknowns(self, params: KKTSolution) -> tuple[PyTree, PyTree]:
        return params.primal[0], params.dual_eq


class StandardForm(QuadraticSolver):
    r"""Base of the solvers of :math:`\min \tfrac12 x^T Q x + c^T x` subject to :math:`A x = b,\ G x \le h`."""

    _arguments = {"params_obj": ("Q", "c"), "params_eq": ("A", "b"), "params_ineq": ("G", "h")}

    def _constraints(self, size, params_eq=None, params_ineq=None, params_bounds=None):
        constraints = {}
        if params_eq is not None:
            params_A, b = params_eq
            constraints["A"] = Constraints(self.matvec_A, params_A, b, b, ("b", "b"))
        if params_ineq is not None:
            params_G, h = params_ineq
            constraints["G"] = Constraints(self.matvec_G, params_G, -jnp.inf, h, ("-inf", "h"))
        if params_bounds is not None:
            constraints["x"] = Constraints(None, None, *params_bounds)
        return constraints

    def _to_params(self, problem: Problem, solution: Solution) -> KKTSolution:
        """``KKTSolution(x, dual_eq, dual_ineq)``."""
        duals = problem.unravel_rows(solution.y)
        return KKTSolution(problem.unravel_x(solution.x), duals.get("A"), duals.get("G"))


class GeneralForm(StandardForm):
    r"""Solvers of :math:`\min \tfrac12 x^T Q x + c^T x` subject to :math:`A x = b,\ G x \le h,\ l \le x \le u`.

    Attributes:
        matvec_Q: ``matvec_Q(params_Q, x)``; see :class:`.OSQP`.
        matvec_A: ``matvec_A(params_A, x)``.
        matvec_G: ``matvec_G(params_G, x)``.
    """

    matvec_Q: Callable | None = None  # type: ignore[misc]  # an option here
    matvec_A: Callable | None = None  # type: ignore[misc]
    matvec_G: Callable | None = None  # type: ignore[misc]

    _arguments = {**StandardForm._arguments, "params_bounds": ("l", "u")}

    def _to_params(self, problem: Problem, solution: Solution) -> KKTSolution:
        """``KKTSolution(x, dual_eq, (dual_ineq, dual_bounds))``."""
        duals = problem.unravel_rows(solution.y)
        return KKTSolution(problem.unravel_x(solution.x), duals.get("A"), (duals.get("G"), duals.get("x")))
