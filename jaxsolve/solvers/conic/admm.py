r"""Operator splitting for conic programs.

Problem: :math:`\min_x \tfrac12 x^T P x + c^T x` subject to :math:`A x + s = b,\ s \in K`. Method: the alternating
direction method of multipliers of :mod:`jaxsolve.solvers.quadratic._admm`. Rows :math:`z = A x` belong into
:math:`b - K` rather than between bounds, and the nearest such point is :math:`b - \Pi_K(b - z)`. So multipliers are in
:math:`K^*` in every iteration. Where a problem has no solution the differences of iterates tend to a certificate.

Reference:
    Garstka, Cannon and Goulart (2021), "COSMO: a conic operator splitting method for convex conic problems", Journal of
    Optimization Theory and Applications 190; Banjac, Goulart, Stellato and Boyd (2019), "Infeasibility detection in the
    alternating direction method of multipliers for convex optimization", the same journal 183.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxsolve._types import Array
from jaxsolve.base import option
from jaxsolve.solvers.conic import _residuals
from jaxsolve.solvers.conic._base import ConicSolver
from jaxsolve.solvers.conic._form import ConicForm
from jaxsolve.solvers.conic._solution import ConicSolution
from jaxsolve.solvers.quadratic._admm import OperatorSplitting
from jaxsolve.solvers.quadratic._base import Problem
from jaxsolve.solvers.quadratic._problem import QuadraticProgram
from jaxsolve.solvers.quadratic._residuals import Products, Residuals

__all__ = ["ConicADMM", "ConicADMMState"]


class ConicADMMState(NamedTuple):
    """State of operator splitting for conic programs.

    Attributes:
        iter_num: iterations done, int32.
        error: optimality error; converged at ``tol``.
        value: the objective.
        status: a :class:`jaxsolve.Status`, int32.
        primal_residuals: ``A x + s - b``, shape ``(m,)``.
        dual_residuals: ``P x + c + A^T y``, shape ``(n,)``.
        rho_bar: the penalty of inequalities and cones.
        solver_state: the iterate in scaled units; ``None`` in the result of a run.
        certificate: a :class:`jaxsolve.ConicSolution`. ``y`` with ``b^T y = -1`` if no point satisfies the constraints,
            ``x`` and ``s`` with ``c^T x = -1`` if the objective is unbounded; else 0.
    """

    iter_num: Array
    error: Array
    value: Array
    status: Array
    primal_residuals: Array
    dual_residuals: Array
    rho_bar: Array
    solver_state: Any
    certificate: ConicSolution


class ConicADMM(ConicSolver, OperatorSplitting):
    """Operator-splitting solver for conic programs ``min 0.5 x^T P x + c^T x`` subject to ``A x + s = b, s in K``.

    ``run(init_params=None, params_obj=(P, c), params_cone=(A, b))``. ``P`` (shape ``(n, n)``, positive semidefinite,
    may be ``None``) and ``A`` (shape ``(m, n)``) are dense, sparse (``BCOO``, ``BCSR``, ``scipy.sparse``), or the
    parameters of ``matvec_P`` and ``matvec_A``. The rows come in the order of ``cones``. The result is
    ``ConicSolution(x, y, s)`` with multipliers ``y`` in the dual cones, and ``P x + A^T y + c = 0``. All are
    differentiable with respect to ``P, c, A, b``, and so is ``state.value``.

    It takes many cheap iterations. Use it for problems with large semidefinite blocks, for batches with the same ``P``
    and ``A`` (they share one eigendecomposition under ``vmap``), with good initial points, and for matrices given by
    products. For other problems ``ConicInteriorPoint`` is the better choice; it needs few iterations.

    A run ends with ``Status.PRIMAL_INFEASIBLE`` or ``Status.DUAL_INFEASIBLE`` only with a checked certificate.

    Attributes:
        matvec_P: ``matvec_P(params_P, x)``, the product with the symmetric positive semidefinite matrix of the
            objective; needed only if the matrix is not given by its entries.
        matvec_A: ``matvec_A(params_A, x)``, the product with the matrix of the rows, likewise.
        primal_infeasible_tol: largest absolute entry of ``A^T y`` for a certificate ``y`` of infeasibility with
            ``b^T y = -1``, in scaled units.
        dual_infeasible_tol: largest absolute entry of ``P d``, and largest distance of ``-A d`` from the cones, for a
            certificate ``d`` of unboundedness with ``c^T d = -1``, in scaled units.

    Raises:
        ValueError: shapes do not fit each other or the cones.
        TypeError: ``cones`` is not a :class:`jaxsolve.Cones`, or ``params_obj`` or ``params_cone`` is not a pair.

    Example:
        >>> import jax.numpy as jnp, jaxsolve
        >>> cones = jaxsolve.Cones(soc=(3,))  # the point of a disk that is furthest to the right
        >>> A, b = jnp.array([[0.0, 0.0], [-1.0, 0.0], [0.0, -1.0]]), jnp.array([2.0, 0.0, 0.0])
        >>> params, state = jaxsolve.ConicADMM(cones).run(None, (None, jnp.array([-1.0, 0.0])), (A, b))
        >>> [round(abs(x), 3) for x in params.x.tolist()], jaxsolve.Status(int(state.status)).name
        ([2.0, 0.0], 'CONVERGED')
    """

    matvec_P: Callable | None = option(None)
    matvec_A: Callable | None = option(None)  # type: ignore[misc]  # an option here
    stepsize_updates_frequency: int = option(100, at_least=1)
    primal_infeasible_tol: float = option(1e-6, at_least=0)
    dual_infeasible_tol: float = option(1e-6, at_least=0)
    maxiter: int = option(10_000)
    tol: float = option(1e-6)
    termination_check_frequency: int = option(25, at_least=1)

    _State = ConicADMMState

    # ---- The problem ----------------------------------------------------------------------------------------------

    @property
    def _form(self) -> ConicForm:
        return ConicForm(cones=self.cones, matvec_P=self.matvec_P, matvec_A=self.matvec_A)

    # ---- The set of the rows --------------------------------------------------------------------------------------

    def _nearest_rows(self, qp: QuadraticProgram, z: Array) -> Array:
        return qp.upper - self.cones.project(qp.upper - z)

    def _feasible_multipliers(self, qp: QuadraticProgram, y: Array) -> Array:
        return self.cones.project_dual(y)

    def _residuals(self, qp: QuadraticProgram, x: Array, y: Array, at: Products) -> Residuals:
        return _residuals.residuals(qp.q, qp.upper, x, y, self.cones.project(qp.upper - at.Ax), at)

    def _proof(
        self, problem: Problem, d: Array, dy: Array, along: Products, iter_num: Array, wanted: Array
    ) -> tuple[Array, ConicSolution]:
        qp, forgiven = problem.scaled, self._forgiven(problem)
        y_tol, d_tol = (jnp.asarray(t).astype(d.dtype) for t in (self.primal_infeasible_tol, self.dual_infeasible_tol))
        s = self.cones.project(-along.Ax)
        infeasible = _residuals.is_primal_certificate(qp.upper, dy, along.Aty, forgiven, y_tol) & wanted
        unbounded = _residuals.is_dual_certificate(qp.q, d, s, along, forgiven, d_tol) & wanted
        return _residuals.proof(problem.scaling, qp, (d, dy, s), infeasible, unbounded)

    def _no_proof(self, problem: Problem) -> tuple[ConicSolution]:
        x, row = jnp.zeros_like(problem.qp.q), jnp.zeros_like(problem.qp.upper)
        return (ConicSolution(x, row, row),)
