r"""Conic programs in the form of quadratic ones, so that these two share data, scaling and splitting.

A program :math:`\min \tfrac12 x^T P x + c^T x` subject to :math:`A x + s = b,\ s \in K` is a quadratic program whose
rows :math:`z = A x` lie in :math:`b - K`. Its upper bounds are :math:`b`, and its lower bounds are :math:`b` where rows
are zero and :math:`-\infty` elsewhere: for rows that are zero or non-negative that says all, and for the others it says
what scaling needs to know.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.solvers.conic._solution import ConicSolution
from jaxsolve.solvers.conic.cones import Cones
from jaxsolve.solvers.quadratic._form import Form, Program
from jaxsolve.solvers.quadratic._problem import (
    Constraints,
    QuadraticProgram,
    as_quadratic,
    as_vector,
    assemble,
)
from jaxsolve.solvers.quadratic._scaling import Scaling

__all__ = ["ConeRows", "ConicForm"]


@dataclasses.dataclass(frozen=True)
class ConicForm(Form):
    """The data of a conic program.

    Attributes:
        cones: those of the rows.
        matvec_P: ``matvec_P(params_P, x)``, if the matrix of the objective is not given by its entries.
    """

    cones: Cones = Cones()
    matvec_P: Callable | None = None

    arguments = {"params_obj": ("P", "c"), "params_cone": ("A", "b")}

    def check(self, data: tuple) -> None:
        """Raise ``ValueError`` for a right-hand side that does not fit the cones."""
        if len(data) < 2 or data[1] is None:
            if self.cones.num_rows:
                raise ValueError(
                    f"params_cone, the pair (A, b), is missing: the cones have {self.cones.num_rows} rows."
                )
            return
        leaves, shape = jax.tree.leaves(data[1][1]), getattr(data[1][0], "shape", ())
        is_number = len(leaves) == 1 and np.ndim(leaves[0]) == 0  # for all rows
        size = sum(np.size(leaf) for leaf in leaves)
        if size != self.cones.num_rows and not is_number:
            raise ValueError(f"b must have an entry for each of the {self.cones.num_rows} rows of cones, got {size}.")
        if len(shape) == 2 and shape[0] != self.cones.num_rows:
            raise ValueError(
                f"A must have a row for each of the {self.cones.num_rows} rows of cones, got shape {tuple(shape)}."
            )

    def constraints(self, size, params_cone=None):
        if params_cone is None:
            return {"A": Constraints(None, jnp.zeros((0, size)), 0.0, 0.0)}
        params_A, b = params_cone
        return {"A": Constraints(self.matvec_A, params_A, b, b, ("b", "b"))}

    def program(self, like: PyTree, params_obj: Any, *data: Any) -> Program:
        objective = as_quadratic(params_obj, self.matvec_P, name="P")
        qp, *ways_back = assemble(objective, self.constraints(objective.q.size, *data))
        if (m := qp.upper.size) != self.cones.num_rows:
            raise ValueError(f"A must have a row for each of the {self.cones.num_rows} rows of cones, got {m}.")
        is_zero = jnp.arange(m) < self.cones.zero
        return Program(qp._replace(lower=jnp.where(is_zero, qp.upper, -jnp.inf)), *ways_back)

    def solution(self, program, solution):
        """``ConicSolution(x, y, s)`` with the slacks that are nearest to ``b - A x``."""
        x, y, Ax = solution
        slacks = program.qp.upper - Ax
        s = self.cones.project(jnp.where(jnp.isfinite(slacks), slacks, 0))
        rows = [next(iter(program.unravel_rows(part).values())) for part in (self.cones.project_dual(y), s)]
        return ConicSolution(program.unravel_x(x), *rows)

    def parts(self, init_params: PyTree) -> tuple[PyTree, PyTree]:
        params = init_params.params if isinstance(init_params, OptStep) else init_params
        return (params.x, params.y) if isinstance(params, ConicSolution) else (params, None)

    def start(self, program: Any, init_params: PyTree) -> tuple[Array, Array]:
        x, y = (part if jax.tree.leaves(part) else 0.0 for part in self.parts(init_params))
        qp, dtype = program.qp, program.qp.q.dtype
        return as_vector("x of init_params", x, qp.q.size, dtype), as_vector("y", y, qp.upper.size, dtype)

    # The unknowns are x and v = y - s, of which y and s are projections.

    def unknowns(self, params: ConicSolution) -> tuple[PyTree, PyTree]:
        return params.x, jax.tree.map(jnp.subtract, params.y, params.s)

    def complete(self, unknowns: tuple[PyTree, PyTree], data: tuple) -> ConicSolution:
        program, x, v = self.at(unknowns, data)
        y = self.cones.project_dual(v)
        rows = [next(iter(program.unravel_rows(part).values())) for part in (y, y - v)]
        return ConicSolution(program.unravel_x(x), *rows)

    def residual(self, unknowns: tuple[PyTree, PyTree], data: tuple) -> tuple[Array, Array]:
        """``(P x + A^T y + c, A x + s - b)`` with ``y`` the projection of ``v`` on the dual cones, ``s = y - v``."""
        (qp, *_), x, v = self.at(unknowns, data)
        y = self.cones.project_dual(v)
        return qp.P.matvec(x) + qp.A.rmatvec(y) + qp.q, qp.A.matvec(x) + y - v - qp.upper


@dataclasses.dataclass(frozen=True)
class ConeRows:
    """Which rows have their unit in common: those of a cone, other than equations and inequalities.

    Attributes:
        cones: those of the rows.
    """

    cones: Cones

    def _curved(self) -> Array:
        return jnp.arange(self.cones.num_rows) >= self.cones.offsets["soc"]

    def together(self, numbers: Array) -> Array:
        """The largest number of each cone, for all its rows."""

        def largest(block, rows):
            return jnp.broadcast_to(jnp.max(rows, axis=1, keepdims=True), rows.shape)

        return jnp.where(self._curved(), self.cones.map_blocks(largest, numbers), numbers)

    def alike(self, qp: QuadraticProgram, factors: Array) -> Array:
        """The geometric mean of the factors of each cone, for all its rows.

        Rows of zeros have no unit of their own, and do not count.
        """
        if qp.has_entries:
            sizes, _ = qp.A.largest(jnp.ones_like(qp.upper), jnp.ones_like(qp.q))
            counts = (sizes > 0) & jnp.isfinite(sizes)
        else:
            counts = jnp.ones(qp.upper.shape, bool)

        def mean(block, logs, counts):
            number = jnp.sum(counts, axis=1, keepdims=True, dtype=jnp.int32)
            total = jnp.sum(jnp.where(counts, logs, 0), axis=1, keepdims=True, dtype=jnp.int32)
            # The power of two next to the mean, in whole numbers: where two are as near, always the same.
            return jnp.broadcast_to((2 * total + number) // jnp.maximum(2 * number, 1), logs.shape)

        curved, logs = self._curved(), jnp.round(jnp.log2(factors)).astype(jnp.int32)
        logs = jnp.where(curved, self.cones.map_blocks(mean, logs, counts), logs)
        return jnp.where(curved, jnp.ldexp(jnp.ones_like(factors), logs), factors)

    def adjusted(self, qp: QuadraticProgram, scaling: Scaling) -> Scaling:
        """The scaling with one factor for all rows of a cone."""
        variables, rows, cost = scaling.common
        rows = self.alike(qp, rows)
        own = jnp.where(self._curved(), rows / scaling.unit, scaling.rows)
        return scaling._replace(rows=own, common=(variables, rows, cost))
