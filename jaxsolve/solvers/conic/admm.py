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

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.base import option
from jaxsolve.implicit_diff import TangentSystem
from jaxsolve.solvers.conic import _residuals
from jaxsolve.solvers.conic._form import ConicForm, alike_on_cones
from jaxsolve.solvers.conic._solution import ConicSolution
from jaxsolve.solvers.conic.cones import Cones
from jaxsolve.solvers.quadratic._admm import OperatorSplitting
from jaxsolve.solvers.quadratic._base import Problem, Solution
from jaxsolve.solvers.quadratic._iterative import judged_convex
from jaxsolve.solvers.quadratic._problem import QuadraticProgram
from jaxsolve.solvers.quadratic._residuals import Products, Residuals, optimality_error, products

__all__ = ["ConicADMM"]


class ConicADMM(OperatorSplitting):
    """Operator-splitting solver for conic programs ``min 0.5 x^T P x + c^T x`` subject to ``A x + s = b, s in K``.

    ``run(init_params=None, params_obj=(P, c), params_cone=(A, b))``. ``P`` (shape ``(n, n)``, positive semidefinite,
    may be ``None``) and ``A`` (shape ``(m, n)``) are dense, sparse (``BCOO``, ``BCSR``, ``scipy.sparse``), or the
    parameters of ``matvec_P`` and ``matvec_A``. The rows come in the order of ``cones``. The result is
    ``ConicSolution(x, y, s)`` with multipliers ``y`` in the dual cones, and ``P x + A^T y + c = 0``. All are
    differentiable with respect to ``P, c, A, b``, and so is ``state.value``.

    Its iterations are cheap and many. It is for problems with large semidefinite blocks, for batches that have ``P``
    and ``A`` in common (they share one eigendecomposition under ``vmap``), for good initial points, and for matrices
    given by products. ``ConicInteriorPoint`` needs few iterations, and is the better choice elsewhere.

    A run ends with ``Status.PRIMAL_INFEASIBLE`` or ``Status.DUAL_INFEASIBLE`` only with a checked certificate.

    Attributes:
        cones: the cones of the rows.
        matvec_P: ``matvec_P(params_P, x)``, the product with the symmetric positive semidefinite matrix of the
            objective, if it is not given by its entries.
        matvec_A: ``matvec_A(params_A, x)``, a linear function, if the matrix is not given by its entries.
        primal_infeasible_tol: how large an entry of ``A^T y`` may be for a certificate ``y`` of infeasibility with
            ``b^T y = -1``, in scaled units.
        dual_infeasible_tol: likewise the entries of ``P d`` and the distance of ``-A d`` from the cones, for a
            certificate ``d`` of unboundedness with ``c^T d = -1``.

    Raises:
        ValueError: shapes do not fit each other or the cones.
        TypeError: ``cones`` is not a :class:`jaxsolve.Cones`, or ``params_obj`` or ``params_cone`` is no pair.

    Example:
        >>> import jax.numpy as jnp, jaxsolve
        >>> cones = jaxsolve.Cones(soc=(3,))  # the point of a disk that is furthest to the right
        >>> A, b = jnp.array([[0.0, 0.0], [-1.0, 0.0], [0.0, -1.0]]), jnp.array([2.0, 0.0, 0.0])
        >>> params, state = jaxsolve.ConicADMM(cones).run(None, (None, jnp.array([-1.0, 0.0])), (A, b))
        >>> [round(abs(x), 3) for x in params.x.tolist()], jaxsolve.Status(int(state.status)).name
        ([2.0, 0.0], 'CONVERGED')
    """

    cones: Cones
    matvec_P: Callable | None = option(None)
    matvec_A: Callable | None = option(None)  # type: ignore[misc]  # an option here
    stepsize_updates_frequency: int = option(100, at_least=1)
    primal_infeasible_tol: float = option(1e-6, at_least=0)
    dual_infeasible_tol: float = option(1e-6, at_least=0)
    maxiter: int = option(10_000)
    tol: float = option(1e-6)
    termination_check_frequency: int = option(25, at_least=1)

    _Form: ClassVar[type[ConicForm]] = ConicForm

    def _validate(self) -> None:
        super()._validate()
        if not isinstance(self.cones, Cones):
            raise TypeError(f"cones must be a jaxsolve.Cones, got {self.cones!r}.")

    # ---- The problem ----------------------------------------------------------------------------------------------

    @property
    def _form(self) -> ConicForm:
        return ConicForm(cones=self.cones, matvec_P=self.matvec_P, matvec_A=self.matvec_A)

    def _problem(self, init_params: PyTree, *data: Any) -> Problem:
        problem = Problem(*self._form.program(None, *data))
        qp = self._wanted_form(problem.qp)
        adjust = lambda scaling: alike_on_cones(self.cones, scaling, qp)  # noqa: E731
        return problem.equilibrated(qp, shared=True, adjust=adjust)

    def init_params(self, init_x: PyTree, params_obj: Any, params_cone: Any = None) -> ConicSolution:
        """A starting point for ``run`` with the variables ``init_x`` (``None``: 0) and multipliers 0."""
        form, data = self._form, self._read((params_obj, params_cone), {})[0]
        program = form.program(None, *data)
        x, y = form.start(program, init_x)
        return form.solution(program, Solution(x, y, program.qp.A.matvec(x)))

    def _given(self, problem: Problem, init_params: PyTree) -> Solution | None:
        primal, dual = self._form.parts(init_params)
        if not jax.tree.leaves(primal) or not jax.tree.leaves(dual):
            return None
        x, y = self._form.start(problem, init_params)
        return Solution(x, y, problem.qp.A.matvec(x))

    # ---- The set of the rows --------------------------------------------------------------------------------------

    def _nearest_rows(self, qp: QuadraticProgram, z: Array) -> Array:
        return qp.upper - self.cones.project(qp.upper - z)

    def _feasible_multipliers(self, qp: QuadraticProgram, y: Array) -> Array:
        return self.cones.project_dual(y)

    def _residuals(self, qp: QuadraticProgram, x: Array, y: Array, at: Products) -> Residuals:
        return _residuals.residuals(qp.q, qp.upper, x, y, self.cones.project(qp.upper - at.Ax), at)

    def _error(self, problem: Problem, x: Array, y: Array) -> tuple[Array, Any]:
        at = products(problem.qp, x, y)
        x, y = problem.scaling.to_scaled(x, y)
        res = self._residuals(problem.scaled, x, y, problem.scaling.products_to_scaled(at))
        return optimality_error(res, *self._tolerances(x.dtype)), at

    def _proof(self, problem: Problem, d: Array, dy: Array, along: Products, iter_num: Array, wanted: Array) -> Array:
        qp, forgiven = problem.scaled, self._forgiven(problem)
        y_tol, d_tol = (jnp.asarray(t).astype(d.dtype) for t in (self.primal_infeasible_tol, self.dual_infeasible_tol))
        infeasible = _residuals.is_primal_certificate(qp.upper, dy, along.Aty, forgiven, y_tol)
        s = self.cones.project(-along.Ax)
        unbounded = _residuals.is_dual_certificate(qp.q, d, s, along, forgiven, d_tol)
        return Status.PRIMAL_INFEASIBLE.where(infeasible, Status.DUAL_INFEASIBLE.where(unbounded, int(Status.RUNNING)))

    # ---- The run --------------------------------------------------------------------------------------------------

    def init_state(self, init_params: PyTree = None, params_obj: Any = None, params_cone: Any = None) -> Any:
        """The state before the first iteration; the arguments are those of ``run``."""
        problem = self._prepared(self._problem(init_params, params_obj, params_cone))
        return judged_convex(problem, self._begin(problem, init_params))

    def update(self, params: PyTree, state: Any, params_obj: Any = None, params_cone: Any = None) -> OptStep:
        """The iterations up to the next test of convergence; returns ``OptStep(params, state)``."""
        problem = self._prepared(self._problem(params, params_obj, params_cone))
        return self._step(problem, judged_convex(problem, self._advance(problem, state)))

    @property
    def _has_active_set(self) -> bool:
        return False

    # ---- Derivatives ----------------------------------------------------------------------------------------------

    def _factors_at(self, problem: Problem, solution: Solution) -> None:
        """Nothing: a solution of a conic program has no active set."""

    def _system(self, factors: None, valid: Array) -> _Tangent:
        return _Tangent(self._form, self.implicit_diff_solve, valid)

    def _system_of(self, parts: dict[str, Any]) -> _Tangent:
        return self._system(None, parts["valid"])

    def optimality_fun(self, params: ConicSolution, *args: Any, **kwargs: Any) -> tuple[Array, Array]:
        r"""The residual :math:`(P x + A^T y + c,\; A x + s - b)` with :math:`y, s` the parts of :math:`v = y - s`."""
        form, (data, _) = self._form, self._read(args, kwargs)
        return form.residual(form.unknowns(params), data)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Tangent(TangentSystem):
    """The derivative of the residual in ``x`` and ``v = y - s``."""

    form: ConicForm = dataclasses.field(metadata={"static": True})
    method: Any = dataclasses.field(metadata={"static": True})
    valid: Any

    structure = "general"

    def unknowns(self, params: ConicSolution) -> tuple[PyTree, PyTree]:
        return self.form.unknowns(params)

    def complete(self, unknowns: tuple[PyTree, PyTree], *data: Any) -> ConicSolution:
        return self.form.complete(unknowns, data)

    def residual(self, unknowns: tuple[PyTree, PyTree], *data: Any) -> tuple[PyTree, PyTree]:
        return self.form.residual(unknowns, data)
