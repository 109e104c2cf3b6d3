r"""Quadratic programs with equality constraints only: one linear system.

Problem: :math:`\min_x \tfrac12 x^T Q x + c^T x` subject to :math:`A x = b`, with :math:`Q` positive semidefinite on the
null space of :math:`A`. Method: its optimality conditions are the symmetric indefinite system

.. math::

    \begin{pmatrix} Q & A^T \\ A & 0 \end{pmatrix} \begin{pmatrix} x \\ y \end{pmatrix}
    = \begin{pmatrix} -c \\ b \end{pmatrix},

solved by one regularized factorization that is refined (:mod:`._kkt`), or by a Krylov method. A singular system, with
dependent rows or a singular Q, gets one of its solutions, if it has any.

Reference:
    Nocedal and Wright (2006), "Numerical optimization", section 16.1 and 16.2; Benzi, Golub and Liesen (2005),
    "Numerical solution of saddle point problems".
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.base import check_callable, option
from jaxsolve.linear_solve import solve as linear_solve
from jaxsolve.linear_solve import solve_iterative_refinement
from jaxsolve.solvers.quadratic._base import DirectQP, Problem, Solution, has_derivative
from jaxsolve.solvers.quadratic._certificates import find_certificates
from jaxsolve.solvers.quadratic._form import EqualityForm
from jaxsolve.solvers.quadratic._kkt import KKTSystem, kkt_residual, polish, solve_kkt
from jaxsolve.solvers.quadratic._problem import flat
from jaxsolve.solvers.quadratic._residuals import products
from jaxsolve.tree_util import tree_where

__all__ = ["EqualityConstrainedQP"]


class EqualityConstrainedQP(DirectQP):
    """Solver for quadratic programs whose constraints are equalities.

    ``run(init_params=None, params_obj=(Q, c), params_eq=(A, b))`` minimizes ``0.5 x^T Q x + c^T x`` subject to
    ``A x = b``; ``Q`` has the shape ``(n, n)``, ``c`` ``(n,)``, ``A`` ``(m, n)`` and ``b`` ``(m,)``. Without
    ``params_eq`` there are no constraints. The result is ``KKTSolution(x, y, None)`` with the multipliers ``y`` of the
    rows. Both, and ``state.value``, are differentiable with respect to ``Q, c, A, b``.

    Matrices given by their entries are factorized up to a size, see :func:`.solve_qp`. For larger sparse matrices, and
    for functions, MINRES or ``solve`` is used. If the solution is not unique, one near ``init_params`` is found. A run
    ends with ``Status.PRIMAL_INFEASIBLE`` if the equations contradict each other, and with ``Status.DUAL_INFEASIBLE``
    if the objective is unbounded below.

    Attributes:
        matvec_Q: ``matvec_Q(params_Q, x)``, the product with the symmetric matrix of the objective; needed only if the
            matrix is not given by its entries. ``params_obj`` is then ``(params_Q, c)``.
        matvec_A: ``matvec_A(params_A, x)``, the product with the matrix of the rows, likewise. ``params_eq`` is then
            ``(params_A, b)``.
        fun: ``fun(x, params_obj)``, the objective as a function, which must be quadratic; it needs ``init_params``.
        solve: solver of the linear system, ``solve(matvec, b) -> x``, on pairs ``(x, y)`` of pytrees: one of
            :mod:`jaxsolve.linear_solve`, or a ``functools.partial`` of one, for example with a preconditioner.
            ``None`` chooses by the data.
        refine_regularization: with ``solve``, a non-negative number that is added to the diagonal of the first block
            and subtracted from that of the second, for systems that are nearly singular. Iterative refinement removes
            its effect on the solution. (A factorization is always regularized and refined.)
        refine_maxiter: largest number of steps of that refinement.
        maxiter: largest number of iterations of ``solve``, if it has this option.
        tol: the run has converged if the residuals are at most ``tol``, absolutely and relatively; also passed to
            ``solve``, if it has this option.

    Raises:
        ValueError: shapes do not fit, or an option is out of range.
        TypeError: ``params_obj`` or ``params_eq`` is not a pair.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> Q, c, A = jnp.diag(jnp.array([1.0, 2.0])), jnp.zeros(2), jnp.ones((1, 2))
        >>> solver = jaxsolve.EqualityConstrainedQP()
        >>> params, state = solver.run(None, (Q, c), (A, jnp.array([3.0])))
        >>> [round(x, 3) for x in params.primal.tolist()], round(float(params.dual_eq[0]), 3)
        ([2.0, 1.0], -2.0)
        >>> slope = jax.grad(lambda b: solver.run(None, (Q, c), (A, b)).params.primal[0])(3.0)
        >>> round(float(slope), 3)
        0.667
    """

    solve: Callable | None = option(None)
    refine_regularization: float = option(0.0, at_least=0)
    refine_maxiter: int = option(10, at_least=1)
    maxiter: int = option(1000, at_least=1)
    matvec_Q: Callable | None = None  # type: ignore[misc]  # an option here
    matvec_A: Callable | None = None  # type: ignore[misc]
    fun: Callable | None = None  # type: ignore[misc]

    _Form = EqualityForm

    def _validate(self) -> None:
        super()._validate()
        if self.solve is not None:
            check_callable("solve", self.solve, "a linear solver solve(matvec, b)")

    def _solve(self, init_params: PyTree, *data: Any) -> tuple[OptStep, KKTSystem]:
        problem = self._problem(init_params, *data)
        qp = problem.qp
        start = x, y = self._form.start(problem, init_params)
        direct = self.solve is None and qp.has_factor
        factors = problem.factors(jnp.ones_like(qp.lower), jnp.ones(qp.lower.shape, bool), direct=direct)
        if direct:
            x, y = polish(qp, x, y, factors)
        elif self.solve is None:
            for _ in range(2):
                dx, dy = solve_kkt(qp, *kkt_residual(qp, x, y, factors), factors)
                x, y = x - dx, y - dy
        else:
            x, y = self._by_option(problem, x, y)
        error, at = self._error(problem, x, y)
        status = self._status(problem, x, at, error)
        state = self._State(jnp.ones((), jnp.int32), error, qp.value(x), status)
        valid = has_derivative(state)
        if direct:
            # The solves of the derivative must wait for the search for certificates: batched calls of LAPACK that run
            # at the same time can block each other in the thread pool of jaxlib's CPU backend.
            identity = jnp.eye(qp.num_variables, dtype=x.dtype)
            factors = factors._replace(cholesky=jnp.where(valid, factors.cholesky, identity))
        x, y = tree_where(jnp.isfinite(error), (x, y), start)
        return OptStep(self._form.solution(problem, Solution(x, y, at.Ax)), state), self._system(factors, valid)

    def _by_option(self, problem: Problem, x: Array, y: Array) -> tuple[Array, Array]:
        """The system for a step from ``(x, y)``, in the units and containers of the user."""
        qp, method = problem.qp, self.solve
        assert method is not None
        options = _accepted(method, tol=0.1 * jnp.asarray(self.tol), maxiter=self.maxiter)

        def tree(x, y):
            return problem.unravel_x(x), problem.unravel_rows(y).get("A")

        def flat_pair(pair):
            return tuple(flat(part, x.dtype) for part in pair)

        def matvec(pair):
            u, v = flat_pair(pair)
            return tree(qp.P.matvec(u) + qp.A.rmatvec(v), qp.A.matvec(u))

        def solve(matvec, rhs):
            def regularized(pair):
                ridge = jnp.asarray(self.refine_regularization).astype(x.dtype)
                (u, v), (Pu, Av) = flat_pair(pair), flat_pair(matvec(pair))
                return tree(Pu + ridge * u, Av - ridge * v)

            return linear_solve(regularized, rhs, method, structure="symmetric", on_failure="ignore", **options)

        rhs = tree(-(qp.P.matvec(x) + qp.q + qp.A.rmatvec(y)), qp.upper - qp.A.matvec(x))
        if isinstance(self.refine_regularization, (int, float)) and self.refine_regularization == 0:
            step = solve(matvec, rhs)
        else:
            tol = 0.1 * jnp.asarray(self.tol)
            step = solve_iterative_refinement(matvec, rhs, maxiter=self.refine_maxiter, tol=tol, solve=solve)
        dx, dy = flat_pair(step)
        return x + dx, y + dy

    def _status(self, problem: Problem, x: Array, at: Any, error: Array) -> Array:
        qp = problem.qp
        solved = error <= self._tolerances(error.dtype)[0]
        # What a least-squares solution leaves over is a certificate.
        d = jnp.where(solved, 0, -(at.Px + qp.q + at.Aty))
        y = jnp.where(solved, 0, at.Ax - qp.upper)
        # They are residuals, not points, and are scaled as such.
        scaling = problem.scaling
        d, y = scaling.cost * scaling.variables * d, scaling.rows * y
        proved = find_certificates(problem.scaled, d, y, products(problem.scaled, d, y), self._forgiven(problem))
        status = jnp.where(Status.RUNNING.holds(proved), int(Status.STALLED), proved)
        status = Status.CONVERGED.where(solved, status)
        status = Status.NONCONVEX.where(~problem.convex, status)
        return Status.NONFINITE.where(~jnp.isfinite(error), status)


def _accepted(method: Callable, **options: Any) -> dict[str, Any]:
    """Those options that a callable has by name, and that were not given to it before."""
    given = method.keywords if isinstance(method, functools.partial) else {}
    try:
        parameters = inspect.signature(method).parameters
    except (TypeError, ValueError):
        return {}
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return {k: v for k, v in options.items() if k not in given and (takes_all or k in parameters)}
