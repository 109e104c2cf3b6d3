"""The Karush-Kuhn-Tucker system of :mod:`._kkt` where there is nothing to factorize."""

from __future__ import annotations

import jax.numpy as jnp

from jaxsolve._types import Array
from jaxsolve.linear_solve import solve
from jaxsolve.solvers.quadratic._kkt import Factors
from jaxsolve.solvers.quadratic._problem import QuadraticProgram
from jaxsolve.solvers.quadratic._scaling import Scaling

__all__ = ["solve_kkt_by_minres"]


def solve_kkt_by_minres(
    qp: QuadraticProgram, r1: Array, r2: Array, factors: Factors, scaling: Scaling, *, transposed: bool = False
) -> tuple[Array, Array]:
    r"""Like ``solve_kkt``, with products only.

    With :math:`t = \sqrt a` the system and its transpose have one symmetric form,

    .. math::

        \begin{pmatrix} \bar P & \bar A^T t \\ t \bar A & a - 1 \end{pmatrix}
        \begin{pmatrix} w \\ \mu \end{pmatrix} = \begin{pmatrix} s_1 \\ s_2 \end{pmatrix},

    which has a least-squares solution of minimal norm whatever is singular in it.
    """
    (variables, rows, cost), a = scaling, factors.active.weight
    t, held = jnp.sqrt(a), a > 0
    safe = jnp.where(held, t, 1)

    def matvec(vectors):
        w, mu = vectors
        stationarity = variables * (cost * qp.P.matvec(variables * w) + qp.A.rmatvec(rows * (t * mu)))
        return stationarity, t * (rows * qp.A.matvec(variables * w)) - (1 - a) * mu

    s1 = cost * variables * r1
    if transposed:
        s2 = t * (rows * r2)
    else:
        # The multipliers of inactive rows are known.
        known = jnp.where(held, 0, -r2)
        s1 = s1 - variables * qp.A.rmatvec(rows * known)
        s2 = jnp.where(held, r2 / safe, 0)
    w, mu = solve(matvec, (s1, s2), structure="symmetric")
    if transposed:
        free = rows * qp.A.matvec(variables * w) - rows * r2
        y = jnp.where(held, mu / safe, free)
        return variables * w, y / cost
    return variables * w, rows * jnp.where(held, t * mu, known) / cost
