"""The tangent system of the solution of a quadratic program."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxsolve._types import Array, PyTree, Structure
from jaxsolve.implicit_diff import TangentSystem
from jaxsolve.solvers.quadratic._kkt import Factors, solve_kkt
from jaxsolve.solvers.quadratic._matrix_free import solve_kkt_by_minres
from jaxsolve.solvers.quadratic._problem import flat, unraveled
from jaxsolve.solvers.quadratic._scaling import Scaling
from jaxsolve.tree_util import tree_where

__all__ = ["KKTSystem"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class KKTSystem(TangentSystem):
    """The Karush-Kuhn-Tucker system of an active set. Its unknowns are the primal variables and the multipliers.

    Attributes:
        factors: the active set, and the factor of its system or ``None``.
        scaling: the scaling in which the system was factorized.
        solver: what says how data become a quadratic program, and vectors a solution.
        valid: whether there is a solution to differentiate, a boolean scalar.
    """

    factors: Factors
    scaling: Scaling
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
        return _like(unknowns, self.solver._kkt_residual(problem.qp, x, y, self.factors.active, self.scaling))

    def solve(self, rhs: PyTree, unknowns: tuple[PyTree, PyTree], *args: Any, **kwargs: Any) -> PyTree:
        return self._solved(rhs, unknowns, args, kwargs, transposed=False)

    def transposed(self, rhs: PyTree, unknowns: tuple[PyTree, PyTree], *args: Any, **kwargs: Any) -> PyTree:
        return self._solved(rhs, unknowns, args, kwargs, transposed=True)

    def _solved(self, rhs, unknowns, args, kwargs, *, transposed):
        qp = self.solver._at(unknowns, args, kwargs)[0].qp
        method = solve_kkt_by_minres if self.factors.cholesky is None else solve_kkt
        r1, r2 = (flat(part, qp.q.dtype) for part in rhs)
        solution = method(qp, r1, r2, self.factors, self.scaling, transposed=transposed)
        return _like(unknowns, tree_where(self.valid, solution, jax.tree.map(jnp.zeros_like, solution)))


def _like(unknowns: tuple[PyTree, PyTree], vectors: tuple[Array, Array]) -> tuple[PyTree, PyTree]:
    """Vectors in the structure and dtypes of the unknowns."""
    x, y = (unraveled(tree)(vector) for tree, vector in zip(unknowns, vectors, strict=True))
    return x, y
