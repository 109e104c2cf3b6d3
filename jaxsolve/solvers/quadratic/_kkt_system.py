"""The tangent system of the solution of a quadratic program."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax

from jaxsolve._types import Array, PyTree, Structure
from jaxsolve.implicit_diff import TangentSystem
from jaxsolve.solvers.quadratic._kkt import Factors, solve_kkt
from jaxsolve.solvers.quadratic._problem import flat, unraveled
from jaxsolve.tree_util import tree_where, tree_zeros_like

__all__ = ["KKTSystem"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class KKTSystem(TangentSystem):
    """The Karush-Kuhn-Tucker system of an active set. Its unknowns are the primal variables and the multipliers.

    Attributes:
        factors: the active set, and the factor of its system or ``None``.
        solver: what says how data become a quadratic program, and vectors a solution.
        valid: whether there is a solution to differentiate, a boolean scalar.
    """

    factors: Factors
    solver: Any = dataclasses.field(metadata={"static": True})
    valid: Any

    @property
    def method(self) -> Any:
        """The linear solver of the user, who may want another one."""
        return self.solver.implicit_diff_solve

    @property
    def structure(self) -> Structure:
        """The rows are scaled, so that the matrix is not symmetric."""
        return "general"

    def unknowns(self, params: PyTree) -> tuple[PyTree, PyTree]:
        return self.solver._unknowns(params)

    def complete(self, unknowns: tuple[PyTree, PyTree], *args: Any, **kwargs: Any) -> PyTree:
        return self.solver._complete(unknowns, *args, **kwargs)

    def residual(self, unknowns: tuple[PyTree, PyTree], *args: Any, **kwargs: Any) -> tuple[PyTree, PyTree]:
        problem, x, y = self.solver._at(unknowns, args, kwargs)
        return _like(unknowns, self.solver._kkt_residual(problem.qp, x, y, self.factors))

    def solve(
        self, rhs: PyTree, unknowns: tuple[PyTree, PyTree], *args: Any, transposed: bool = False, **kwargs: Any
    ) -> PyTree:
        qp = self.solver._at(unknowns, args, kwargs)[0].qp
        r1, r2 = (flat(part, qp.q.dtype) for part in rhs)
        solution = solve_kkt(qp, r1, r2, self.factors, transposed=transposed)
        return _like(unknowns, tree_where(self.valid, solution, tree_zeros_like(solution)))

    transposed = functools.partialmethod(solve, transposed=True)


def _like(unknowns: tuple[PyTree, PyTree], vectors: tuple[Array, Array]) -> tuple[PyTree, PyTree]:
    """Vectors in the structure and dtypes of the unknowns."""
    x, y = (unraveled(tree)(vector) for tree, vector in zip(unknowns, vectors, strict=True))
    return x, y
