r"""The elastic form of a conic program: rows may be violated, at a price.

.. math::

    \min_{x,\, t \ge 0}\; \tfrac12 x^T P x + c^T x + w^T t \quad\text{subject to}\quad A x + s = b + E t,\; s \in K.

An inequality and a cone have one violation each, and the column of E is a point inside of the cone: 1 for a row, the
unit :math:`(1, 0, \dots)` of a second-order cone, the unit matrix, the center of an exponential or power cone. So the
violation is how far along it the slacks would have to be moved. An equation has two, one for each direction.

The penalty is exact: where the constraints can be satisfied and every weight is larger than the product of its column
and the multipliers, the solution is that of the program without violations. The amounts are variables of an ordinary
program, so that methods, polishing and derivatives are those of every other one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._compat import is_sparse
from jaxsolve._operators import SparseMatrix, as_bcoo, from_entries
from jaxsolve._types import Array
from jaxsolve.solvers.conic._newton_step import cone_center
from jaxsolve.solvers.conic._solution import ConicSolution
from jaxsolve.solvers.conic.cones import Cones
from jaxsolve.solvers.quadratic._elastic import check_weights

__all__ = ["ElasticProgram"]


class ElasticProgram:
    """A program with a variable for each violation, and the way back.

    Args:
        P: dense or sparse, shape ``(n, n)``, or ``None``.
        c: shape ``(n,)``.
        A: dense or sparse, shape ``(m, n)``.
        b: shape ``(m,)``.
        cones: those of the rows.
        elastic: a weight, or one for each equation, inequality and cone, in their order.

    Attributes:
        data: ``(P, c, A, b)`` of the larger program.
        cones: its cones.
    """

    def __init__(self, P: Any, c: Any, A: Any, b: Any, cones: Cones, elastic: Any) -> None:
        check_weights(elastic)
        if not cones.num_rows:
            raise ValueError("elastic is the price of violating rows, but the cones have none.")
        if callable(P) or callable(A) or jax.tree.structure(c) != jax.tree.structure(0) or jnp.ndim(A) != 2:
            raise ValueError("elastic must come with matrices that are given by their entries, and with c a vector.")
        c = jnp.ravel(c)
        self._user, self._size, dtype = cones, c.size, c.dtype
        places = self._columns()
        num_blocks, (rows, columns, entries) = self.num_violations, places[1:]
        weights = jnp.asarray(elastic).astype(dtype)
        if weights.ndim and weights.shape != (num_blocks,):
            raise ValueError(
                f"elastic must be a number, or have an entry for each of the {num_blocks} equations, inequalities and "
                f"cones, got shape {weights.shape}."
            )
        weights = jnp.broadcast_to(weights, (num_blocks,))[places[0]]
        # Violations of rows that must hold change nothing, and cost something.
        hard = weights == jnp.inf
        self._weights = jnp.where(hard, 1, weights)
        entries = jnp.where(hard[columns], 0, -jnp.asarray(entries, dtype))
        self.cones = self._larger()
        of_rows = np.delete(np.arange(self.cones.num_rows), self._signs())
        size, total = self.num_slacks, c.size + self.num_slacks
        rows = np.concatenate([of_rows[rows], self._signs()])
        columns = c.size + np.concatenate([columns, np.arange(size)])
        entries = jnp.concatenate([entries, -jnp.ones(size, dtype)])
        shape = (self.cones.num_rows, total)
        larger_A = _embedded(A, of_rows, shape, rows, columns, entries)
        none = np.zeros(0, int)
        larger_P = None if P is None else _embedded(P, np.arange(c.size), (total, total), none, none, entries[:0])
        larger_b = jnp.zeros(shape[0], dtype).at[of_rows].set(jnp.asarray(b).astype(dtype))
        self.data = larger_P, jnp.concatenate([c, self._weights]), larger_A, larger_b
        self._rows = of_rows

    @property
    def num_violations(self) -> int:
        """How many equations, inequalities and cones there are."""
        return sum(map(len, self._user.sizes.values()))

    @property
    def num_slacks(self) -> int:
        """How many variables are added: a second one for each equation."""
        return self.num_violations + self._user.zero

    def _columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The violation of each slack, and E by its entries: rows, columns, entries."""
        cones, zero = self._user, self._user.zero
        center = np.where(np.arange(cones.num_rows) < zero, 1.0, _center(cones))
        sizes = [size for of_kind in cones.sizes.values() for size in of_kind]
        columns = np.repeat(np.arange(len(sizes)), sizes)
        # Behind those of all rows come the violations of equations in the other direction.
        rows = np.concatenate([np.arange(cones.num_rows), np.arange(zero)])
        columns = np.concatenate([columns, len(sizes) + np.arange(zero)])
        entries = np.concatenate([center, -np.ones(zero)])
        present = entries != 0
        of_slacks = np.concatenate([np.arange(len(sizes)), np.arange(zero)])
        return of_slacks, rows[present], columns[present], entries[present]

    def _larger(self) -> Cones:
        return dataclasses.replace(self._user, nonneg=self._user.nonneg + self.num_slacks)

    def _signs(self) -> np.ndarray:
        """The rows that keep the amounts from being negative."""
        return self._user.offsets["soc"] + np.arange(self.num_slacks)

    def start(self, init: Any) -> Any:
        """An initial point of the program of the user as one of the larger program."""
        if init is None:
            return None
        x, y = (init.x, init.y) if isinstance(init, ConicSolution) else (init, None)
        x = jnp.concatenate([jnp.ravel(x), jnp.zeros_like(self._weights)])
        if y is None:
            return x
        return ConicSolution(x, jnp.zeros_like(self.data[3]).at[self._rows].set(jnp.ravel(y)))

    def solution(self, found: ConicSolution) -> tuple[ConicSolution, Array]:
        """The solution for the user, and the violations."""
        x, y, s = (jnp.asarray(part) for part in found)
        amounts, zero = jnp.maximum(x[self._size :], 0), self._user.zero
        violation = amounts[: self.num_violations].at[:zero].add(amounts[self.num_violations :])
        return ConicSolution(x[: self._size], y[self._rows], s[self._rows]), violation


def _center(cones: Cones) -> np.ndarray:
    """A point inside of each cone."""
    with jax.ensure_compile_time_eval():
        return np.asarray(cone_center(cones, jnp.result_type(float)))


def _embedded(
    matrix: Any, places: np.ndarray, shape: tuple, rows: np.ndarray, columns: np.ndarray, entries: Any
) -> Any:
    """A matrix with its rows at some places of a larger one, which has further entries."""
    if not is_sparse(matrix):
        matrix = jnp.asarray(matrix).astype(entries.dtype)
        larger = jnp.zeros(shape, entries.dtype).at[places, : matrix.shape[1]].set(matrix)
        return larger.at[rows, columns].set(entries)
    part: Any = from_entries(matrix, entries.dtype)
    pairs = (part.data, entries), (jnp.asarray(places)[part.rows], rows), (part.cols, columns)
    joined = [jnp.concatenate([old, jnp.asarray(new, old.dtype)]) for old, new in pairs]
    return as_bcoo(SparseMatrix(*joined, shape=shape))
