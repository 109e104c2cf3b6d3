"""The two forms in which quadratic programs are given, and their solutions returned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxsolve._types import KKTSolution, PyTree
from jaxsolve.solvers.quadratic._base import Problem, QuadraticSolver, Solution
from jaxsolve.solvers.quadratic._problem import QuadraticProgram, as_quadratic, as_rows, as_vector, check_bounds, stack

__all__ = ["BoxConstrained", "StandardForm", "by_name", "pair"]


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
        size, dtype = objective.q.size, objective.q.dtype
        if params_ineq is None:
            if params_eq is not None:
                raise ValueError("params_eq gives a matrix A, but params_ineq, the bounds (l, u) of A x, is missing.")
            A, unravel_rows, lower, upper = (
                stack([], size, dtype),
                lambda y: y,
                jnp.zeros(0, dtype),
                jnp.zeros(0, dtype),
            )
        else:
            if params_eq is None and self.matvec_A is None:
                A, unravel_rows = as_rows("A", jnp.eye(size, dtype=dtype), objective)[0], objective.unravel
            else:
                A, unravel_rows = as_rows("A", params_eq, objective, self.matvec_A)
            bounds = pair("params_ineq", params_ineq, "(l, u)")
            lower, upper = (as_vector(name, bound, A.shape[0], dtype) for name, bound in zip("lu", bounds, strict=True))
        return QuadraticProgram(objective.P, objective.q, A, lower, upper), objective.unravel, unravel_rows

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

    def _quadratic_program(self, like, params_obj=None, params_eq=None, params_ineq=None):
        objective = as_quadratic(params_obj, self.matvec_Q, self.fun, like)
        size, dtype = objective.q.size, objective.q.dtype
        blocks, lower, upper, unravels = [], [], [], []
        for name, params, matvec in (("A", params_eq, self.matvec_A), ("G", params_ineq, self.matvec_G)):
            if params is None:
                unravels.append((0, lambda y: None))
                continue
            argument, side = ("params_eq", "b") if name == "A" else ("params_ineq", "h")
            params_M, bound = pair(argument, params, f"({name}, {side})")
            matrix, unravel = as_rows(name, params_M, objective, matvec)
            bound = as_vector(side, bound, matrix.shape[0], dtype)
            blocks.append(matrix)
            upper.append(bound)
            lower.append(bound if name == "A" else jnp.full_like(bound, -jnp.inf))
            unravels.append((matrix.shape[0], unravel))

        def unravel_rows(y):
            (num_eq, unravel_eq), (_, unravel_ineq) = unravels
            return unravel_eq(y[:num_eq]), unravel_ineq(y[num_eq:])

        empty = [jnp.zeros(0, dtype)]
        bounds = (jnp.concatenate(side or empty) for side in (lower, upper))
        qp = QuadraticProgram(objective.P, objective.q, stack(blocks, size, dtype), *bounds)
        return qp, objective.unravel, unravel_rows

    def _to_params(self, problem: Problem, solution: Solution) -> KKTSolution:
        """``KKTSolution(x, dual_eq, dual_ineq)``."""
        return KKTSolution(problem.unravel_x(solution.x), *problem.unravel_rows(solution.y))


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


def pair(name: str, value: Any, meaning: str) -> tuple[Any, Any]:
    """The two parts of an argument; ``TypeError`` if it has not two."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} must be a pair {meaning}, got {type(value).__name__}.")
    return value[0], value[1]
