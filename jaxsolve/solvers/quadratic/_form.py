r"""Forms of quadratic programs: what the arguments of ``run`` mean, and what of a solution goes back to the user.

A *form* turns data into one program over vectors, :math:`\min \tfrac12 x^T P x + q^T x` subject to
:math:`l \le A x \le u`, and vectors into a solution in the containers of the user. Methods, active sets and derivatives
know only the program.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxsolve._types import Array, KKTSolution, OptStep, PyTree
from jaxsolve.solvers.quadratic._problem import (
    Constraints,
    QuadraticProgram,
    as_quadratic,
    as_vector,
    assemble,
    check_bounds,
    flat,
)

__all__ = ["BoxForm", "EqualityForm", "Form", "GeneralForm", "Program", "Solution", "StandardForm"]


class Solution(NamedTuple):
    """Vectors in the units of the user: the primal point, the multipliers of the rows, and the rows at the point."""

    x: Array
    y: Array
    Ax: Array


class Program(NamedTuple):
    """A quadratic program, and its way back.

    Attributes:
        qp: over vectors, in the units of the user.
        unravel_x: from vectors to the user's primal variables.
        unravel_rows: from vectors of multipliers to the user's pytrees, by the names of the matrices.
    """

    qp: QuadraticProgram
    unravel_x: Callable[[Array], PyTree]
    unravel_rows: Callable[[Array], dict[str, PyTree]]


@dataclasses.dataclass(frozen=True)
class Form(abc.ABC):
    """Base of the forms. The data are those of the arguments behind ``init_params``, in their order.

    Attributes:
        matvec_Q: ``matvec_Q(params_Q, x)``, if the matrix of the objective is not given by its entries.
        matvec_A: ``matvec_A(params_A, x)``, likewise.
        matvec_G: ``matvec_G(params_G, x)``, likewise.
        fun: ``fun(x, params_obj)``, the objective as a function.
    """

    matvec_Q: Callable | None = None
    matvec_A: Callable | None = None
    matvec_G: Callable | None = None
    fun: Callable | None = None

    #: The arguments of ``run`` behind the initial point, and what each holds: a name, or the names of a pair.
    arguments: ClassVar[dict[str, str | tuple[str, str]]]

    @abc.abstractmethod
    def constraints(self, size: int, *data: Any) -> dict[str, Constraints]:
        """The constraints on so many variables, by the names of their matrices, from the data behind the objective."""

    @abc.abstractmethod
    def solution(self, program: Any, solution: Solution) -> KKTSolution:
        """The user's form of a solution; ``program`` is a :class:`Program`, or has its fields."""

    def unknowns(self, params: KKTSolution) -> tuple[PyTree, PyTree]:
        """The primal variables and the multipliers of the rows."""
        return params.primal, (params.dual_eq, params.dual_ineq)

    def check(self, data: tuple) -> None:
        """Raise ``ValueError`` for bounds that no number satisfies."""
        for _, _, lower, upper, names in self.constraints(0, *data[1:]).values():
            check_bounds(lower, upper, names)

    def program(self, like: PyTree, params_obj: Any, *data: Any) -> Program:
        """The program of the data, for variables like ``like``, which only an objective ``fun`` needs."""
        objective = as_quadratic(params_obj, self.matvec_Q, self.fun, like)
        return Program(*assemble(objective, self.constraints(objective.q.size, *data)))

    def usual_costs(self, program: Any) -> Array:
        """The linear terms from which the units of objective and variables are chosen, shape ``(n,)``."""
        return program.qp.q

    def at(self, unknowns: tuple[PyTree, PyTree], data: tuple) -> tuple[Program, Array, Array]:
        """The program of the data, and the vectors of its unknowns."""
        program = self.program(unknowns[0], *data)
        x, y = (flat(part, program.qp.q.dtype) for part in unknowns)
        return program, x, y

    def complete(self, unknowns: tuple[PyTree, PyTree], data: tuple) -> KKTSolution:
        """The user's form of a solution as a function of its unknowns and the data."""
        program, x, y = self.at(unknowns, data)
        return self.solution(program, Solution(x, y, program.qp.A.matvec(x)))

    def parts(self, init_params: PyTree) -> tuple[PyTree, PyTree]:
        """The primal variables and the multipliers of an initial point, each ``None`` if it was not given."""
        params = init_params.params if isinstance(init_params, OptStep) else init_params
        return self.unknowns(params) if isinstance(params, KKTSolution) else (params, None)

    def start(self, program: Any, init_params: PyTree) -> tuple[Array, Array]:
        """The vectors ``(x, y)`` of an initial point; what was not given is 0."""
        x, y = (part if jax.tree.leaves(part) else 0.0 for part in self.parts(init_params))
        q, lower, dtype = program.qp.q, program.qp.lower, program.qp.q.dtype
        return as_vector("init_params.primal", x, q.size, dtype), as_vector("the multipliers", y, lower.size, dtype)


class BoxForm(Form):
    r"""The form :math:`\min \tfrac12 x^T Q x + c^T x` subject to :math:`l \le A x \le u`."""

    arguments = {"params_obj": ("Q", "c"), "params_eq": "A", "params_ineq": ("l", "u")}

    def constraints(self, size, params_eq=None, params_ineq=None):
        if params_ineq is not None:
            name = "x" if params_eq is None and self.matvec_A is None else "A"
            return {name: Constraints(self.matvec_A, params_eq, *params_ineq)}
        if params_eq is not None:
            raise ValueError("params_eq gives a matrix A, but params_ineq, the bounds (l, u) of A x, is missing.")
        return {"A": Constraints(None, jnp.zeros((0, size)), 0.0, 0.0)}

    def solution(self, program, solution):
        """``KKTSolution((x, z), y, (mu, phi))``."""
        x, y, Ax = solution
        z = jnp.clip(Ax, program.qp.lower, program.qp.upper)
        parts = (z, y, jnp.maximum(y, 0), jnp.maximum(-y, 0))
        z, y, mu, phi = (program.unravel_rows(part).popitem()[1] for part in parts)
        return KKTSolution((program.unravel_x(x), z), y, (mu, phi))

    def unknowns(self, params):
        return params.primal[0], params.dual_eq


class StandardForm(Form):
    r"""The form :math:`\min \tfrac12 x^T Q x + c^T x` subject to :math:`A x = b,\ G x \le h`."""

    arguments = {"params_obj": ("Q", "c"), "params_eq": ("A", "b"), "params_ineq": ("G", "h")}

    def constraints(self, size, params_eq=None, params_ineq=None, params_bounds=None):
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

    def solution(self, program, solution):
        """``KKTSolution(x, dual_eq, dual_ineq)``."""
        duals = program.unravel_rows(solution.y)
        return KKTSolution(program.unravel_x(solution.x), duals.get("A"), duals.get("G"))


class EqualityForm(StandardForm):
    r"""The form :math:`\min \tfrac12 x^T Q x + c^T x` subject to :math:`A x = b`."""

    arguments = {"params_obj": ("Q", "c"), "params_eq": ("A", "b")}


class GeneralForm(StandardForm):
    r"""The form :math:`\min \tfrac12 x^T Q x + c^T x` subject to :math:`A x = b,\ G x \le h,\ l \le x \le u`."""

    arguments = {**StandardForm.arguments, "params_bounds": ("l", "u")}

    def solution(self, program, solution):
        """``KKTSolution(x, dual_eq, (dual_ineq, dual_bounds))``."""
        duals = program.unravel_rows(solution.y)
        return KKTSolution(program.unravel_x(solution.x), duals.get("A"), (duals.get("G"), duals.get("x")))
