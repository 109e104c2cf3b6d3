"""Operator splitting for quadratic programs whose rows have two bounds."""

from __future__ import annotations

from typing import ClassVar

from jaxsolve._status import Status
from jaxsolve.solvers.quadratic._admm import OperatorSplitting
from jaxsolve.solvers.quadratic._base import BoxConstrained

__all__ = ["BoxOSQP"]


class BoxOSQP(OperatorSplitting, BoxConstrained):
    """Operator-splitting solver for quadratic programs ``min 0.5 x^T Q x + c^T x`` subject to ``l <= A x <= u``.

    ``run(init_params=None, params_obj=(Q, c), params_eq=A, params_ineq=(l, u))``. ``Q`` (shape ``(n, n)``, positive
    semidefinite, may be ``None``) and ``A`` (shape ``(m, n)``, of any rank) are dense, sparse (``BCOO``, ``BCSR``,
    ``scipy.sparse``), or the parameters of ``matvec_Q`` and ``matvec_A``. Pytrees of matrices like ``c`` are blocks on
    the diagonal. Bounds may be infinite, equal, or numbers. The result is
    ``KKTSolution((x, z), y, (mu, phi))`` with ``z = A x``, the multipliers ``y`` of the rows, and their positive and
    negative parts ``mu`` and ``phi``. All are differentiable with respect to ``Q, c, A, l, u``, and so is
    ``state.value``.

    A run ends with ``Status.PRIMAL_INFEASIBLE`` or ``Status.DUAL_INFEASIBLE`` only with a checked certificate. Under
    ``vmap``, problems with the same ``Q`` and ``A`` share one eigendecomposition, even if their penalties differ. If a
    matrix is factorized, the solution is polished at the end: when the error is at most ``tol``, the active set is
    taken from the iterate, and the equations of this active set are solved, often exactly to rounding.

    Raises:
        ValueError: shapes do not fit, or a lower bound exceeds an upper one.
        TypeError: ``params_obj`` or ``params_ineq`` is not a pair.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> Q, c, A = jnp.eye(2), jnp.array([-1.0, -3.0]), jnp.ones((1, 2))
        >>> solver = jaxsolve.BoxOSQP(tol=1e-5)
        >>> params, state = solver.run(None, (Q, c), A, (-jnp.inf, 3.0))
        >>> [round(x, 3) for x in params.primal[0].tolist()]
        [0.5, 2.5]
        >>> slope = jax.grad(lambda u: solver.run(None, (Q, c), A, (-jnp.inf, u)).state.value)(3.0)
        >>> round(float(slope), 3)  # minus the multiplier of the row
        -0.5
    """

    #: The statuses under their older names; a run that ends unsolved has a status that says why.
    UNSOLVED: ClassVar[Status] = Status.RUNNING
    SOLVED: ClassVar[Status] = Status.CONVERGED
    DUAL_INFEASIBLE: ClassVar[Status] = Status.DUAL_INFEASIBLE
    PRIMAL_INFEASIBLE: ClassVar[Status] = Status.PRIMAL_INFEASIBLE
