"""What the solvers for conic programs share: their problem, their polish and their derivatives."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.solvers.conic import _residuals
from jaxsolve.solvers.conic._form import ConeRows, ConicForm
from jaxsolve.solvers.conic._program import as_arrays
from jaxsolve.solvers.conic._relaxed import relaxed_multipliers
from jaxsolve.solvers.conic._slopes import weights_of
from jaxsolve.solvers.conic._solution import ConicSolution
from jaxsolve.solvers.conic._start import estimated_multipliers
from jaxsolve.solvers.conic._tangent import (
    ConicTangent,
    ConicTangentByProducts,
    Factors,
    balanced,
    factors_at,
    polish,
    polish_on_path,
)
from jaxsolve.solvers.conic.cones import Cones
from jaxsolve.solvers.quadratic._base import Problem, Solution
from jaxsolve.solvers.quadratic._iterative import IterativeQP, judged_convex
from jaxsolve.solvers.quadratic._residuals import norm, optimality_error, products
from jaxsolve.tree_util import tree_where

__all__ = ["ConicSolver"]


class ConicSolver(IterativeQP):
    """Base of the solvers for conic programs.

    Attributes:
        cones: the cones of the rows.
    """

    cones: Cones

    # An option of the interior-point method alone.
    smoothing = 0.0

    _Form: ClassVar[type[ConicForm]] = ConicForm

    def _validate(self) -> None:
        super()._validate()
        if not isinstance(self.cones, Cones):
            raise TypeError(f"cones must be a jaxsolve.Cones, got {self.cones!r}.")

    # ---- The problem ----------------------------------------------------------------------------------------------

    @property
    def _form(self) -> ConicForm:
        return ConicForm(cones=self.cones)

    def _problem(self, init_params: PyTree, *data: Any) -> Problem:
        problem = Problem(*self._form.program(None, *data))
        qp = self._wanted_form(problem.qp)
        return problem.equilibrated(qp, shared=self._shares_scaling, blocks=ConeRows(self.cones))

    def init_params(self, init_x: PyTree, params_obj: Any, params_cone: Any = None) -> ConicSolution:
        """A starting point for ``run`` with the variables ``init_x`` (``None``: 0) and multipliers 0."""
        form, data = self._form, self._read((params_obj, params_cone), {})[0]
        program = form.program(None, *data)
        x, y = form.start(program, init_x)
        return form.solution(program, Solution(x, y, program.qp.A.matvec(x)))

    def _given(self, problem: Problem, init_params: PyTree) -> Solution | None:
        x, y = self._form.start(problem, init_params)  # names what does not fit
        primal, dual = self._form.parts(init_params)
        if not jax.tree.leaves(primal):
            return None
        if problem.qp.has_factor and not jax.tree.leaves(dual):
            scaled_x, _ = problem.scaling.to_scaled(x, y)
            scaled_y = estimated_multipliers(as_arrays(problem.scaled), self.cones, scaled_x)
            y = problem.scaling.rows / problem.scaling.cost * scaled_y
        return Solution(x, y, problem.qp.A.matvec(x))

    @property
    def _on_path(self) -> bool:
        """Whether the solution is a point of the central path."""
        return not (isinstance(self.smoothing, (int, float)) and self.smoothing == 0)

    def _products(self, problem: Problem) -> Array:
        """The complementary products at the solution, in scaled units."""
        return jnp.asarray(self.smoothing).astype(problem.scaled.q.dtype) * problem.scaling.cost

    def _error(self, problem: Problem, x: Array, y: Array) -> tuple[Array, Any]:
        at = products(problem.qp, x, y)
        x, y = problem.scaling.to_scaled(x, y)
        qp, at_scaled = problem.scaled, problem.scaling.products_to_scaled(at)
        s = self.cones.project(qp.upper - at_scaled.Ax)
        res = _residuals.residuals(qp.q, qp.upper, x, y, s, at_scaled)
        if self._on_path:
            off = y - relaxed_multipliers(self.cones, y - s, self._products(problem))
            res = res._replace(gap=(norm(off), norm(y, s)))
        return optimality_error(res, *self._tolerances(x.dtype)), at

    def init_state(self, init_params: PyTree = None, params_obj: Any = None, params_cone: Any = None) -> Any:
        """The state before the first iteration; the arguments are those of ``run``."""
        problem = self._prepared(self._problem(init_params, params_obj, params_cone))
        return judged_convex(problem, self._begin(problem, init_params))

    def update(self, params: PyTree, state: Any, params_obj: Any = None, params_cone: Any = None) -> OptStep:
        """The iterations up to the next test of convergence; returns ``OptStep(params, state)``."""
        problem = self._prepared(self._problem(params, params_obj, params_cone))
        return self._step(problem, judged_convex(problem, self._advance(problem, state)))

    # ---- The residual map -----------------------------------------------------------------------------------------

    def _mapped(self, problem: Problem, solution: Solution) -> tuple[Array, Array]:
        """The unknowns of the residual map at a solution, in scaled units."""
        qp, (variables, rows, cost, *_) = problem.qp, problem.scaling
        s = self.cones.project(rows * (qp.upper - solution.Ax))
        return solution.x / variables, self.cones.project_dual(cost / rows * solution.y) - s

    def _polished(
        self, problem: Problem, solution: Solution, error: Array, status: Array
    ) -> tuple[Solution, Array, Array, Factors]:
        scaled, scaling = as_arrays(problem.scaled), problem.scaling
        x, v = self._mapped(problem, solution)
        tol, _ = self._tolerances(error.dtype)
        lost = Status.PRIMAL_INFEASIBLE.holds(status) | Status.DUAL_INFEASIBLE.holds(status)
        lost |= Status.NONCONVEX.holds(status) | jnp.isnan(error)
        if self._on_path:
            smoothing = self._products(problem)
            x, v, factors = polish_on_path(scaled, scaling, self.cones, x, v, smoothing, ~lost)
            error, _ = self._error(problem, solution.x, solution.y)
        else:
            x, v, factors = polish(scaled, scaling, self.cones, x, v, self.weak, ~lost)
        y = factors.multipliers(self.cones, v) if self._on_path else self.cones.project_dual(v)
        x, y = scaling.variables * x, scaling.rows / scaling.cost * y
        new_error, at = self._error(problem, x, y)
        better = ~lost & (new_error <= jnp.maximum(error, tol))
        solution, error = tree_where(better, (Solution(x, y, at.Ax), new_error), (solution, error))
        return solution, error, Status.CONVERGED.where((error <= tol) & ~lost, status), factors

    def _nothing_yet(self, problem: Problem) -> tuple[Solution, Any]:
        start = Solution(problem.qp.q, problem.qp.upper, problem.qp.upper)
        return jax.tree.map(jnp.zeros_like, (start, jax.eval_shape(lambda: self._factors_at(problem, start))))

    def _factors_at(self, problem: Problem, solution: Solution) -> Factors:
        _, v = self._mapped(problem, solution)
        if self._on_path:
            scaled, nothing = as_arrays(problem.scaled), jnp.zeros_like(v)
            return factors_at(scaled, problem.scaling, self.cones, v, nothing, self._products(problem))
        weights = weights_of(v, norm(v), self.weak)
        if not problem.qp.has_factor:
            return Factors(weights, problem.scaling)
        scaled = as_arrays(problem.scaled)
        return balanced(scaled, self.cones, v, factors_at(scaled, problem.scaling, self.cones, v, weights))

    def _system(self, factors: Factors, valid: Array) -> ConicTangent:
        by_factor = factors.cholesky is not None
        return (ConicTangent if by_factor else ConicTangentByProducts)(
            factors, self._form, self.implicit_diff_solve, valid
        )

    def optimality_fun(self, params: ConicSolution, *args: Any, **kwargs: Any) -> tuple[Array, Array]:
        r"""The residual :math:`(P x + A^T y + c,\; A x + s - b)` with :math:`y, s` the parts of :math:`v = y - s`."""
        form, (data, _) = self._form, self._read(args, kwargs)
        return form.residual(form.unknowns(params), data)
