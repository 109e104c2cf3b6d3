r"""A conic program as arrays, and the units in which it is solved.

.. math:: \min_x \tfrac12 x^T P x + c^T x \quad\text{subject to}\quad A x + s = b,\; s \in K.

A scaled program has :math:`\bar P = \sigma D P D,\ \bar c = \sigma D c,\ \bar A = E A D,\ \bar b = E b` and solutions
:math:`x = D \bar x,\ s = E^{-1} \bar s,\ y = E \bar y / \sigma`. The factors of the rows of one cone that is no
half-line are the same, so that the cones stay what they are. All factors are powers of two, and exact. They are found
in three steps, each of which makes nothing of the units in which the problem was given:

1. *Geometric means.* The logarithms of the entries of :math:`\bar P` and :math:`\bar A` have the least sum of squares.
2. *Largest entries.* Ruiz's method goes on from there.
3. *Sizes.* One unit of all variables makes the largest entry of :math:`\bar b` about 1, and the cost that of
   :math:`\bar c` or :math:`\bar P`.

Reference:
    Curtis and Reid (1972), "On the automatic scaling of matrices for Gaussian elimination"; Ruiz (2001), "A scaling
    algorithm to equilibrate both rows and columns norms in matrices".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._compat import is_sparse, max_abs
from jaxsolve._inputs import power_of_two
from jaxsolve._loop import loop
from jaxsolve._types import Array
from jaxsolve.solvers.conic.cones import Cones

__all__ = ["Program", "Scaling", "equilibrate", "program_of"]

# Geometric means: the steps of conjugate gradients, and the logarithm to base 2 that is left over in the mean.
_MAX_STEPS, _CLOSE = 60, 1e-3
_RUIZ_PASSES = 6
# Largest entries within this factor of each other are balanced.
_BALANCED = 4.0


class Program(NamedTuple):
    """The data of a conic program, dense: shapes ``(n, n)``, ``(n,)``, ``(m, n)`` and ``(m,)``; P is symmetric."""

    P: Array
    c: Array
    A: Array
    b: Array

    def value(self, x: Array) -> Array:
        """The objective."""
        return 0.5 * (x @ (self.P @ x)) + self.c @ x


def program_of(cones: Cones, P: Any, c: Any, A: Any, b: Any) -> Program:
    """The program of the data, in the dtype of the linear term, which is at least float32.

    Raises:
        ValueError: shapes do not fit.
    """
    c = jnp.asarray(c)
    if c.ndim != 1:
        raise ValueError(f"c must be a vector, got shape {c.shape}.")
    n, m = c.size, cones.num_rows
    c = c.astype(np.promote_types(c.dtype, np.float32))

    def dense(name, matrix, shape):
        matrix = (matrix.todense() if is_sparse(matrix) else jnp.asarray(matrix)).astype(c.dtype)
        matrix = matrix.reshape(shape) if matrix.size == 0 == shape[0] * shape[1] else matrix
        if matrix.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, for {m} rows of the cones and {n} variables, got {matrix.shape}.")
        return matrix

    A = dense("A", A, (m, n))
    P = jnp.zeros((n, n), c.dtype) if P is None else dense("P", P, (n, n))
    b = jnp.asarray(b).astype(c.dtype)
    if b.shape not in ((m,), ()):
        raise ValueError(f"b must have shape ({m},), a row for each of the cones, got {b.shape}.")
    return Program((P + P.T) / 2, c, A, jnp.broadcast_to(b, (m,)))


class Scaling(NamedTuple):
    """Diagonal scaling: D of shape ``(n,)``, E of shape ``(m,)``, and the factor of the objective, a scalar."""

    variables: Array
    rows: Array
    cost: Array

    def scaled(self, program: Program) -> Program:
        """The scaled program."""
        (P, c, A, b), (variables, rows, cost) = program, self
        slope = cost * variables
        return Program(
            slope[:, None] * P * variables[None, :], slope * c, rows[:, None] * A * variables[None, :], rows * b
        )

    def to_user(self, x: Array, y: Array, s: Array) -> tuple[Array, Array, Array]:
        """A point of the scaled program in the units of the user."""
        return self.variables * x, self.rows / self.cost * y, s / self.rows

    def to_scaled(self, x: Array, y: Array, s: Array) -> tuple[Array, Array, Array]:
        """A point of the user in the units of the scaled program."""
        return x / self.variables, self.cost / self.rows * y, s * self.rows


def equilibrate(program: Program, cones: Cones) -> Scaling:
    """The scaling of a program; a constant to derivatives."""
    P, c, A, b = lax.stop_gradient(program)
    groups, count = _groups(cones)
    d, e, cost = _geometric(P, A, groups, count)
    d, e = _balanced(P, A, groups, count, _power(jnp.exp2(d)), _power(jnp.exp2(e)), _power(jnp.exp2(cost)))
    rows = e[groups]
    level, slopes = max_abs(rows * b), max_abs(d * c)
    curvature = max_abs(d[:, None] * P * d[None, :])
    # Without a right-hand side the two parts of the objective tell the unit of the variables.
    level = jnp.where(level > 0, level, slopes / jnp.where(curvature > 0, curvature, 1))
    unit = _power(jnp.where(level > 0, level, 1))
    steepness = jnp.maximum(unit * slopes, unit**2 * curvature)
    return Scaling(unit * d, rows / unit, _power(1 / jnp.where(steepness > 0, steepness, 1)))


def _power(x):
    # Odd powers of the root of two are common, and must not be rounded now down and now up.
    return power_of_two(x, 2**0.6)


def _groups(cones: Cones) -> tuple[np.ndarray, int]:
    """The number of the cone of each row, and how many cones there are."""
    sizes = [size for sizes in cones.sizes.values() for size in sizes]
    return np.repeat(np.arange(len(sizes)), sizes), len(sizes)


def _geometric(P, A, groups, count):
    """Logarithms of the factors with which those of the entries have the least sum of squares."""
    n, dtype = A.shape[1], A.dtype

    def logs(M):
        present = (M != 0) & jnp.isfinite(M)
        return present.astype(dtype), jnp.log2(jnp.where(present, jnp.abs(M), 1))

    def by_cone(M):
        return jnp.zeros((count, n), dtype).at[groups].add(M)

    (in_P, of_P), (in_A, of_A) = logs(P), tuple(map(by_cone, logs(A)))
    p_rows, p_total = jnp.sum(in_P, axis=1), jnp.sum(in_P)[None] / 2
    sums = jnp.concatenate([jnp.sum(of_P, 1) + jnp.sum(of_A, 0), jnp.sum(of_A, 1), jnp.sum(of_P)[None] / 2])
    counts = jnp.concatenate([p_rows + jnp.sum(in_A, 0), jnp.sum(in_A, 1), p_total])
    weights = 1 / jnp.maximum(counts + jnp.pad(jnp.diagonal(in_P), (0, count + 1)), 1)

    def hessian(v):
        d, e, cost = v[:n], v[n:-1], v[-1:]
        of_d = in_P @ d + e @ in_A + p_rows * cost
        return counts * v + jnp.concatenate([of_d, in_A @ d, (p_rows @ d)[None]])

    def step(carry):
        v, left, direction, before, _ = carry
        size = left @ (weights * left)
        direction = weights * left + size / jnp.maximum(before, jnp.finfo(dtype).tiny) * direction
        image = hessian(direction)
        length = size / jnp.maximum(direction @ image, jnp.finfo(dtype).tiny)
        left = left - length * image
        return v + length * direction, left, direction, size, max_abs(weights * left)

    zeros, inf = jnp.zeros_like(sums), jnp.asarray(jnp.inf, dtype)
    v, *_ = loop(lambda carry: carry[-1] > _CLOSE, step, (zeros, -sums, zeros, inf, inf), maxiter=_MAX_STEPS)
    # The unit of all variables is open: that of the first one here.
    shift = v[0] - jnp.round(v[0]) if n else 0
    return v[:n] - shift, v[n:-1] + shift, v[-1] + 2 * shift


def _balanced(P, A, groups, count, d, e, cost):
    """Ruiz's method: the largest entry of every row of cones and every column is about 1."""

    def one_pass(carry):
        d, e, _ = carry
        scaled = jnp.abs(e[groups][:, None] * A * d[None, :])
        rows = jnp.zeros(count, A.dtype).at[groups].max(jnp.max(scaled, axis=1, initial=0))
        of_P = jnp.max(jnp.abs(cost * d[:, None] * P * d[None, :]), axis=1, initial=0)
        columns = jnp.maximum(jnp.max(scaled, axis=0, initial=0), of_P)
        sizes = jnp.concatenate([columns, rows])
        sizes = jnp.where((sizes > 0) & jnp.isfinite(sizes), sizes, 1)
        unbalanced = jnp.maximum(jnp.max(sizes), 1 / jnp.min(sizes)) > _BALANCED
        factors = jnp.where(unbalanced, _power(1 / jnp.sqrt(sizes)), 1)
        return d * factors[: d.size], e * factors[d.size :], unbalanced

    return loop(lambda carry: carry[2], one_pass, (d, e, jnp.asarray(True)), maxiter=_RUIZ_PASSES)[:2]
