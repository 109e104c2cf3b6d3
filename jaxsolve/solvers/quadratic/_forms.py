"""The two forms in which quadratic programs are given, and their solutions returned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._types import KKTSolution, PyTree
from jaxsolve.solvers.quadratic._base import Problem, QuadraticSolver, Solution
from jaxsolve.solvers.quadratic._problem import (
    QuadraticProgram,
    as_quadratic,
    as_rows,
    as_vector,
    check_bounds,
    identity_rows,
    pair,
    stack,
)

__all__ = ["BoxConstrained", "GeneralForm", "StandardForm", "by_name"]


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

    def _check_arguments(self, init_params: PyTree = None, *args: Any, **kwargs: Any) -> None:
        params_ineq = by_name(self, self._data_names, args, kwargs).get("params_ineq")
        if params_ineq is not None:
            check_bounds(*pair("params_ineq", params_ineq, "(l, u)"))

    def _quadratic_program(self, like, params_obj=None, params_eq=None, params_ineq=None):
        objective = as_quadratic(params_obj, self.matvec_Q, self.fun, like)
        if params_ineq is None:
            if params_eq is not None:
                raise ValueError("params_eq gives a matrix A, but params_ineq, the bounds (l, u) of A x, is missing.")
            rows, params_ineq = as_rows("A", jnp.zeros((0, objective.q.size)), objective), (0.0, 0.0)
        elif params_eq is None and self.matvec_A is None:
            rows = identity_rows(objective, [])
        else:
            rows = as_rows("A", params_eq, objective, self.matvec_A)
        bounds = zip("lu", pair("params_ineq", params_ineq, "(l, u)"), strict=True)
        lower, upper = (as_vector(name, bound, *rows.size) for name, bound in bounds)
        return QuadraticProgram(objective.P, objective.q, rows.matrix, lower, upper), objective.unravel, rows.unravel

    def _to_params(self, problem: Problem, solution: Solution) -> KKTSolution:
        """``KKTSolution((x, z), y, (mu, phi))``."""
        (x, y, Ax), rows = solution, problem.unravel_rows
        z = jnp.clip(Ax, problem.qp.lower, problem.qp.upper)
        multipliers = (rows(jnp.maximum(y, 0)), rows(jnp.maximum(-y, 0)))
        return KKTSolution((problem.unravel_x(x), rows(z)), rows(y), multipliers)

    def _unknowns(self, params: KKTSolution) -> tuple[PyTree, PyTree]:
        return params.primal[0], params.dual_eq


class StandardForm(QuadraticSolver):
    r"""Base of the solvers of :math:`\min \tfrac12 x^T Q x + c^T x` subject to :math:`A x = b,\ G x \le h`."""

    def _check_arguments(self, init_params: PyTree = None, *args: Any, **kwargs: Any) -> None:
        given = by_name(self, self._data_names, args, kwargs)
        if given.get("params_eq") is not None:
            _, b = pair("params_eq", given["params_eq"], "(A, b)")
            check_bounds(b, b, ("b", "b"))
        if given.get("params_ineq") is not None:
            _, h = pair("params_ineq", given["params_ineq"], "(G, h)")
            check_bounds(jax.tree.map(lambda leaf: -jnp.inf, h), h, ("-inf", "h"))
        if given.get("params_bounds") is not None:
            check_bounds(*given["params_bounds"])

    def _quadratic_program(self, like, params_obj=None, params_eq=None, params_ineq=None, params_bounds=None):
        objective = as_quadratic(params_obj, self.matvec_Q, self.fun, like)
        blocks, lower, upper = {}, {}, {}
        if params_eq is not None:
            params_A, b = pair("params_eq", params_eq, "(A, b)")
            blocks["A"] = as_rows("A", params_A, objective, self.matvec_A)
            lower["A"] = upper["A"] = as_vector("b", b, *blocks["A"].size)
        if params_ineq is not None:
            params_G, h = pair("params_ineq", params_ineq, "(G, h)")
            blocks["G"] = as_rows("G", params_G, objective, self.matvec_G)
            upper["G"] = as_vector("h", h, *blocks["G"].size)
            lower["G"] = jnp.full_like(upper["G"], -jnp.inf)
        if params_bounds is not None:
            blocks["x"] = identity_rows(objective, [block.matrix for block in blocks.values()])
            lower["x"], upper["x"] = (
                as_vector(name, bound, *blocks["x"].size) for name, bound in zip("lu", params_bounds, strict=True)
            )
        empty = [jnp.zeros(0, objective.q.dtype)]
        A = stack([block.matrix for block in blocks.values()], objective)
        bounds = (jnp.concatenate(list(side.values()) or empty) for side in (lower, upper))

        def unravel_rows(y):
            parts = jnp.split(y, np.cumsum([block.matrix.shape[0] for block in blocks.values()])[:-1])
            return {name: block.unravel(part) for (name, block), part in zip(blocks.items(), parts, strict=False)}

        return QuadraticProgram(objective.P, objective.q, A, *bounds), objective.unravel, unravel_rows

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

    _data_names = ("params_obj", "params_eq", "params_ineq", "params_bounds")

    def _to_params(self, problem: Problem, solution: Solution) -> KKTSolution:
        """``KKTSolution(x, dual_eq, (dual_ineq, dual_bounds))``."""
        duals = problem.unravel_rows(solution.y)
        return KKTSolution(problem.unravel_x(solution.x), duals.get("A"), (duals.get("G"), duals.get("x")))


def by_name(solver: Any, names: tuple[str, ...], args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The data given to ``run`` by their names; ``TypeError`` for data that the solver has no use for."""
    given = dict(zip(names, args, strict=False))
    wrong = [name for name in kwargs if name not in names or name in given]
    if len(args) > len(names) or wrong:
        too_many = f"{len(args)} arguments behind init_params" if len(args) > len(names) else " and ".join(wrong)
        raise TypeError(
            f"{type(solver).__name__}.run takes init_params and, once each, {', '.join(names)}; got {too_many}."
        )
    return {**given, **kwargs}
