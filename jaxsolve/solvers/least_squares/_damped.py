r"""Damped linear least squares: minimize :math:`\|J s - u\|^2 + \mu \|D s\|^2`.

By a QR factorization of :math:`J` on top of :math:`\sqrt\mu D`, or by a solver of the normal equations
:math:`(J^T J + \mu D^2) s = J^T u`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

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


def damped_solver(model: Model, mu: Array, units: Array, solver: str | Callable | None) -> Callable[[Array], Array]:
    """The map from ``u`` to the step.

    Args:
        model: has the Jacobian, and says which variables are held; these do not move.
        mu: the damping.
        units: the diagonal of ``D``, or one number for all.
        solver: see :class:`~jaxsolve.LevenbergMarquardt`.
    """
    n = model.x.size
    free = ~model.held
    damping = jnp.where(free, jnp.broadcast_to(units, (n,)), 1)
    if solver in (None, "qr") and model.jac is not None:
        jac = jnp.where(model.held[None, :], 0, model.jac)
        root = jnp.where(free, jnp.sqrt(mu), 1) * damping
        q, r = jnp.linalg.qr(jnp.concatenate([jac, jnp.diag(root)]))
        return lambda u: solve_triangular(r, product(u, q[: u.size]))
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
