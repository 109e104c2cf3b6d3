r"""Equilibration of quadratic programs.

Ruiz's method scales variables and rows until the largest entry of every row and column of

.. math::  \begin{pmatrix} P & A^T \\ A & 0 \end{pmatrix}

is about 1, and the objective until the largest entries of :math:`P` and :math:`q` are. The scaled problem has
:math:`\bar P = c D P D,\ \bar q = c D q,\ \bar A = E A D`, and solutions :math:`x = D \bar x,\ y = E \bar y / c`.

Reference:
    Ruiz (2001), "A scaling algorithm to equilibrate both rows and columns norms in matrices"; Stellato et al. (2020),
    "OSQP: an operator splitting solver for quadratic programs", section 5.1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxsolve._loop import loop
from jaxsolve._types import Array
from jaxsolve.solvers.quadratic._problem import QuadraticProgram
from jaxsolve.solvers.quadratic._residuals import Products, norm

__all__ = ["Scaling", "equilibrate", "scale"]

_MAX_PASSES = 10
# Scaling stops as soon as the norms lie within this factor of each other: factors of two do no harm, and on problems
# that come scaled, as those of a network layer do, a pass costs as much as a step of the solver.
_BALANCED = 4.0
_SMALLEST, _LARGEST = 1e-4, 1e4


class Scaling(NamedTuple):
    """Diagonal scaling.

    Attributes:
        variables: D, shape ``(n,)``.
        rows: E, shape ``(m,)``.
        cost: c, a scalar.
    """

    variables: Array
    rows: Array
    cost: Array

    def without_cost(self) -> Scaling:
        """The scaling of variables and rows alone."""
        return self._replace(cost=jnp.ones_like(self.cost))

    def to_scaled(self, x: Array, y: Array) -> tuple[Array, Array]:
        """A point of the scaled problem."""
        return x / self.variables, self.cost * y / self.rows

    def to_user(self, x: Array, y: Array, at: Products) -> tuple[Array, Array, Products]:
        """A point of the scaled problem and its products, in the units of the user."""
        variables, rows, cost = self
        slope = cost * variables
        return variables * x, rows * y / cost, Products(at.Px / slope, at.Ax / rows, at.Aty / slope)


def equilibrate(qp: QuadraticProgram) -> Scaling:
    """The scaling of a problem; the identity if its matrices have no entries to look at."""
    identity = Scaling(jnp.ones_like(qp.q), jnp.ones_like(qp.lower), jnp.ones((), qp.q.dtype))
    if not qp.has_entries:
        return identity

    def norms(variables, rows):
        _, of_P = qp.P.largest(variables, variables)
        of_rows, of_A = qp.A.largest(rows, variables)
        # A solution does not depend on the scaling, nor do derivatives of iterations that lead to it.
        return lax.stop_gradient((jnp.maximum(of_P, of_A), of_rows))

    def clipped(norm, largest: Any = 1.0):
        # A row of zeros, or of next to nothing, stays as it is, and so does one of numbers that are none.
        matters = (norm > 0) & (norm >= _SMALLEST * jnp.minimum(largest, 1))
        return jnp.where(matters, jnp.minimum(norm, _LARGEST), 1)

    def one_pass(carry):
        variables, rows, _ = carry
        of_columns, of_rows = norms(variables, rows)
        largest = norm(of_columns, of_rows)
        of_columns, of_rows = clipped(of_columns, largest), clipped(of_rows, largest)
        both = jnp.concatenate([of_columns, of_rows])
        # Where all norms are huge, or tiny, their squares are what the solvers could not bear.
        unbalanced = jnp.max(both) > _BALANCED * jnp.min(both)
        unbalanced |= (jnp.max(both) >= _LARGEST) | (jnp.max(both) <= _SMALLEST)
        variables = jnp.where(unbalanced, variables / jnp.sqrt(of_columns), variables)
        rows = jnp.where(unbalanced, rows / jnp.sqrt(of_rows), rows)
        return variables, rows, unbalanced

    first = (identity.variables, identity.rows, jnp.asarray(True))
    variables, rows, _ = loop(lambda carry: carry[2], one_pass, first, maxiter=_MAX_PASSES)
    _, of_P = qp.P.largest(variables, variables)
    size = jnp.maximum(jnp.mean(of_P), norm(variables * qp.q))
    return Scaling(variables, rows, lax.stop_gradient(1 / clipped(size)))


def scale(qp: QuadraticProgram, scaling: Scaling) -> QuadraticProgram:
    """The scaled problem."""
    variables, rows, cost = scaling
    return QuadraticProgram(
        qp.P.scaled(cost * variables, variables),
        cost * variables * qp.q,
        qp.A.scaled(rows, variables),
        rows * qp.lower,
        rows * qp.upper,
    )
