"""The two forms in which quadratic programs are given, and their solutions returned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxsolve._types import Array, KKTSolution, PyTree
from jaxsolve.base import option
from jaxsolve.solvers.quadratic._base import Problem, QuadraticSolver, flat
from jaxsolve.solvers.quadratic._problem import QuadraticProgram, as_quadratic, as_rows, as_vector, check_bounds, stack

__all__ = ["BoxConstrained", "StandardForm", "by_name", "pair"]


class BoxConstrained(QuadraticSolver):
    r"""Base of the solvers of :math:`\min \tfrac12 x^T Q x + c^T x` subject to :math:`l \le A x \le u`.

    Attributes:
        matvec_A: ``matvec_A(params_A, x)``, a linear function, if the matrix is not given by its entries.
    """

    matvec_A: Callable | None = option(None)

    def _check_arguments(self, init_params: Any = None, *args: Any, **kwargs: Any) -> None:
        """Raise ``ValueError`` for bounds that no number satisfies."""
        params_ineq = by_name(self, ("params_obj", "params_eq", "params_ineq"), args, kwargs).get("params_ineq")
        if params_ineq is not None:
            check_bounds(*pair("params_ineq", params_ineq, "(l, u)"))

    def quadratic_program(self, like, params_obj=None, params_eq=None, params_ineq=None):
        """The problem in one form."""
        objective = as_quadratic(params_obj, self.matvec_Q, self.fun, like)
        size, dtype = objective.q.size, objective.q.dtype
        if params_ineq is None:
            if params_eq is not None:
                raise ValueError("params_eq gives a matrix A, but params_ineq, the bounds (l, u) of A x, is missing.")
            empty = jnp.zeros(0, dtype)
            return (
                QuadraticProgram(objective.P, objective.q, stack([], size, dtype), empty, empty),
                objective.unravel,
                lambda y: y,
            )
        if params_eq is None and self.matvec_A is None:
            A, unravel_rows = as_rows("A", jnp.eye(size, dtype=dtype), objective)[0], objective.unravel
        else:
            A, unravel_rows = as_rows("A", params_eq, objective, self.matvec_A)
        lower, upper = pair("params_ineq", params_ineq, "(l, u)")
        rows = A.shape[0]
        qp = QuadraticProgram(
            objective.P,
            objective.q,
            A,
            as_vector("l", lower, rows, dtype),
            as_vector("u", upper, rows, dtype),
        )
        return qp, objective.unravel, unravel_rows

    def to_params(self, problem: Problem, x: Array, y: Array, Ax: Array) -> KKTSolution:
        """``KKTSolution((x, z), y, (mu, phi))``."""
        qp, rows = problem.qp, problem.unravel_rows
        z = jnp.clip(Ax, qp.lower, qp.upper)
        multipliers = (rows(jnp.maximum(y, 0)), rows(jnp.maximum(-y, 0)))
        return KKTSolution((problem.unravel_x(x), rows(z)), rows(y), multipliers)

    def unknowns(self, params: KKTSolution) -> tuple[PyTree, PyTree]:
        """The primal variables and the multipliers of the rows."""
        return params.primal[0], params.dual_eq

    def init_params(self, init_x: PyTree, params_obj: Any, params_eq: Any, params_ineq: Any) -> KKTSolution:
        """A starting point for ``run`` with the primal variables ``init_x`` (``None``: 0) and multipliers 0."""
        problem = self.problem(init_x, params_obj, params_eq, params_ineq)
        x = _start(init_x, problem)
        return self.to_params(problem, x, jnp.zeros_like(problem.qp.lower), problem.qp.A.matvec(x))


class StandardForm(QuadraticSolver):
    r"""Base of the solvers of :math:`\min \tfrac12 x^T Q x + c^T x` subject to :math:`A x = b,\ G x \le h`.

    Attributes:
        matvec_A: ``matvec_A(params_A, x)``, a linear function, if the matrix is not given by its entries.
        matvec_G: ``matvec_G(params_G, x)``, likewise.
    """

    matvec_A: Callable | None = option(None)
    matvec_G: Callable | None = option(None)

    def _check_arguments(self, init_params: Any = None, *args: Any, **kwargs: Any) -> None:
        """Raise ``ValueError`` for right-hand sides that are NaN, and for infeasible ones."""
        given = by_name(self, ("params_obj", "params_eq", "params_ineq"), args, kwargs)
        if given.get("params_eq") is not None:
            _, b = pair("params_eq", given["params_eq"], "(A, b)")
            check_bounds(b, b, ("b", "b"))
        if given.get("params_ineq") is not None:
            _, h = pair("params_ineq", given["params_ineq"], "(G, h)")
            check_bounds(jax.tree.map(lambda leaf: -jnp.inf, h), h, ("-inf", "h"))

    def quadratic_program(self, like, params_obj=None, params_eq=None, params_ineq=None):
        """The problem in one form."""
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
        qp = QuadraticProgram(
            objective.P,
            objective.q,
            stack(blocks, size, dtype),
            jnp.concatenate(lower or empty),
            jnp.concatenate(upper or empty),
        )
        return qp, objective.unravel, unravel_rows

    def to_params(self, problem: Problem, x: Array, y: Array, Ax: Array) -> KKTSolution:
        """``KKTSolution(x, dual_eq, dual_ineq)``."""
        del Ax
        return KKTSolution(problem.unravel_x(x), *problem.unravel_rows(y))

    def init_params(self, init_x: PyTree, params_obj: Any, params_eq: Any = None, params_ineq: Any = None):
        """A starting point for ``run`` with the primal variables ``init_x`` (``None``: 0) and multipliers 0."""
        problem = self.problem(init_x, params_obj, params_eq, params_ineq)
        x = _start(init_x, problem)
        return self.to_params(problem, x, jnp.zeros_like(problem.qp.lower), x)


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


def _start(init_x, problem: Problem) -> Array:
    return jnp.zeros_like(problem.qp.q) if init_x is None else flat(init_x, problem.qp.q.dtype)


def pair(name: str, value: Any, meaning: str) -> tuple[Any, Any]:
    """The two parts of an argument; ``TypeError`` if it has not two."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} must be a pair {meaning}, got {type(value).__name__}.")
    return value[0], value[1]
