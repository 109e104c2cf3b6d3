r"""Damped linear least squares: minimize :math:`\|J s - u\|^2 + \mu \|D s\|^2`.

By a QR factorization of :math:`J` on top of :math:`\sqrt\mu D`, or by a solver of the normal equations
:math:`(J^T J + \mu D^2) s = J^T u`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from jaxsolve._types import Array
from jaxsolve.linear_solve import solve_cg, solve_cholesky, solve_inv, solve_lu
from jaxsolve.solvers.least_squares._model import Model, column_lengths, product
from jaxsolve.tree_util import tree_l2_norm

__all__ = ["DIRECT", "column_norms", "damped_solver", "least_damping"]

_NORMAL = {"cholesky": solve_cholesky, "lu": solve_lu, "inv": solve_inv}
#: Names of the solvers that need the matrix.
DIRECT = ("qr", *_NORMAL)

# The model is solved to this relative accuracy by products: the next model is another one.
_INEXACT = 1e-4


def column_norms(model: Model) -> Array:
    """Norms of the columns of the Jacobian; where it is not known, one number of that kind for all.

    Of the residuals themselves: where a robust loss ignores all of them its factors would leave nothing.
    """
    if model.jac is not None:
        return column_lengths(model.jac if model.root is None else model.jac / model.root[:, None])
    size = tree_l2_norm(model.gradient)
    return tree_l2_norm(model.matvec(model.gradient / jnp.where(size > 0, size, 1)))


def least_damping(model: Model) -> float:
    """Damping that is lost in rounding errors where the columns of the Jacobian are independent.

    Where they are not, it keeps rounding errors from becoming steps along which nothing changes.
    """
    eps = float(jnp.finfo(model.x.dtype).eps)
    return eps if model.residual.size < model.x.size else eps**1.5


def damped_solver(
    model: Model, mu: Array, units: Array, solver: str | Callable | None, *, several: bool = False
) -> Callable[[Array], Array]:
    """The map from ``u`` to the step.

    Args:
        model: has the Jacobian, and says which variables are held; these do not move.
        mu: the damping.
        units: the diagonal of ``D``, or one number for all.
        solver: see :class:`~jaxsolve.LevenbergMarquardt`.
        several: whether it is called more than once.
    """
    n = model.x.size
    free = ~model.held
    damping = jnp.where(free, jnp.broadcast_to(units, (n,)), 1)
    if solver in (None, "qr") and model.jac is not None:
        jac = jnp.where(model.held[None, :], 0, model.jac)
        root = jnp.where(free, jnp.sqrt(mu), 1) * damping
        matrix, zeros = jnp.concatenate([jac, jnp.diag(root)]), jnp.zeros_like(root)
        if model.root is not None:
            return _of_unequal_rows(matrix, jac)
        if several:
            q, r = jnp.linalg.qr(matrix)
            return lambda u: solve_triangular(r, product(u, q[: u.size]))
        return lambda u: _least_squares(matrix, jnp.concatenate([u, zeros]))
    shift = jnp.where(free, mu * damping**2, 1)

    def normal(s):
        return jnp.where(free, model.rmatvec(model.matvec(jnp.where(free, s, 0))), 0) + shift * s

    def right(u):
        return jnp.where(free, model.rmatvec(u), 0)

    if isinstance(solver, str) and model.jac is not None:
        jac = jnp.where(model.held[None, :], 0, model.jac)
        matrix, method = product(jac.T, jac) + jnp.diag(shift), _NORMAL[solver]
        return lambda u: method(matrix, right(u))
    if not callable(solver):
        solver = functools.partial(solve_cg, tol=_INEXACT, on_failure="ignore")
    return lambda u: solver(normal, right(u))


def _of_unequal_rows(matrix: Array, jac: Array) -> Callable[[Array], Array]:
    """The solver for a Jacobian, the upper part of ``matrix``, whose rows have factors of very different sizes.

    Where a robust loss has no curvature, entries of ``u`` are as large as those of their rows are small, and the
    products of an orthonormal factor with ``u`` lose what the others say. Those of the Jacobian do not: so the step
    comes from the triangular factor alone, and is corrected once (Björck 1996, section 6.6.5).
    """
    r = jnp.linalg.qr(matrix, mode="r")

    def times_inverse(right):
        return solve_triangular(r, solve_triangular(r, right, trans="T"))

    def solve(u):
        right = product(u, jac)
        s = times_inverse(right)
        return s + times_inverse(right - product(product(matrix, s), matrix))

    return solve


@jax.custom_jvp
def _least_squares(matrix: Array, rhs: Array) -> Array:
    """The minimizer of ``|matrix x - rhs|``, for columns that are independent.

    The right-hand side is one more column of what is factored: so the orthonormal factor is never formed.
    """
    n = matrix.shape[1]
    factor = jnp.linalg.qr(jnp.column_stack([matrix, rhs]), mode="raw")[0].T
    return solve_triangular(factor[:n, :n], factor[:n, n])


@_least_squares.defjvp
def _(primals, tangents):
    matrix, rhs = primals
    slope, change = tangents
    x = _least_squares(matrix, rhs)
    q, r = jnp.linalg.qr(matrix)
    lost = rhs - product(matrix, x)
    along = product(change - product(slope, x), q) + solve_triangular(r, product(lost, slope), trans="T")
    return x, solve_triangular(r, along)
