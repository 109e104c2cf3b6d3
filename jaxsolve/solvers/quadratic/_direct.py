"""Solvers of quadratic programs that are no iterations of ours: linear systems, and programs outside of jax.

What the problem is, what its solution looks like, its optimality conditions and its derivative are those of
:class:`jaxsolve.solvers.quadratic._forms.StandardForm`, to which everything but ``compute`` is passed on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._status import Status
from jaxsolve._types import Array, KKTSolution, OptStep, PyTree
from jaxsolve.base import Solver, check_choice, check_number, option
from jaxsolve.solvers.quadratic._base import Problem, is_valid
from jaxsolve.solvers.quadratic._forms import StandardForm
from jaxsolve.solvers.quadratic._kkt import Factors
from jaxsolve.solvers.quadratic._residuals import feasible_signs, products

__all__ = ["DirectQP", "DirectState", "ExternalQP"]


class DirectState(NamedTuple):
    """State at the end of a run.

    Attributes:
        iter_num: iterations done, as far as they are known; int32.
        error: optimality error of the solution, the largest residual in absolute and relative terms.
        value: the objective.
        status: a :class:`jaxsolve.Status`, int32.
        factors: internal; ``None`` in the result of a run.
    """

    iter_num: Array
    error: Array
    value: Array
    status: Array
    factors: Any = None


class DirectQP(Solver):
    """Base of the solvers of quadratic programs that are no iterations of ours.

    Attributes:
        tol: the run has converged when ``state.error`` is at most ``tol``.
    """

    tol: float = option(1e-5)

    has_factors = True
    derived_fields = ("value",)

    def validate(self) -> None:
        """Raise for an impossible option."""
        super().validate()
        check_number("tol", self.tol, at_least=0)
        if not self.implicit_diff:
            raise ValueError(f"implicit_diff=False means unrolled iterations, and {type(self).__name__} has none.")

    @property
    def form(self) -> StandardForm:
        """The form of the problem."""
        # It never iterates, so every polished point that is better is taken.
        return StandardForm(tol=self.tol, maxiter=0, **self.form_options())

    def form_options(self) -> dict[str, Any]:
        """The options of the form."""
        return {}

    def starting_point(self, problem: Problem, init_params: PyTree) -> tuple[Array, Array]:
        """The vectors ``(x, y)`` of the initial point; zeros without one."""
        start = self.form.initial_values(init_params, problem)
        return (jnp.zeros_like(problem.qp.q), jnp.zeros_like(problem.qp.lower)) if start is None else start

    def check_arguments(self, init_params: PyTree = None, *args: Any, **kwargs: Any) -> None:
        """Raise ``TypeError`` or ``ValueError`` for data that cannot be right."""
        self.form.check_arguments(init_params, *args, **kwargs)

    def unknowns(self, params: KKTSolution) -> tuple[PyTree, PyTree]:
        """The primal variables and the multipliers of the rows."""
        return self.form.unknowns(params)

    def complete(self, unknowns: PyTree, *args: Any, **kwargs: Any) -> KKTSolution:
        """The parameters as a function of the primal variables and the multipliers."""
        return self.form.complete(unknowns, *args, **kwargs)

    def residual(self, params: PyTree, *args: Any, factors: Factors | None = None, **kwargs: Any) -> PyTree:
        """The mapping that is differentiated: linear in the unknowns, once the active set is known."""
        return self.form.residual(params, *args, factors=factors, **kwargs)

    def solve_tangent_system(
        self, unknowns: PyTree, rhs: PyTree, transposed: bool, *args: Any, factors: Factors, **kwargs: Any
    ) -> PyTree:
        """Solve with the Jacobian of ``residual``, or its transpose."""
        return self.form.solve_tangent_system(unknowns, rhs, transposed, *args, factors=factors, **kwargs)

    def derived_state(self, params: PyTree, *args: Any, **kwargs: Any) -> dict[str, PyTree]:
        """The value of the objective."""
        return self.form.derived_state(params, *args, **kwargs)

    def optimality_fun(self, params: KKTSolution, *args: Any, **kwargs: Any) -> tuple[Array, Array]:
        r"""The natural residual :math:`(Qx + c + A^T y,\; Ax - \Pi_{[l,u]}(Ax + y))` of all rows; two vectors."""
        return self.form.optimality_fun(params, *args, **kwargs)

    def l2_optimality_error(self, params: KKTSolution, *args: Any, **kwargs: Any) -> Array:
        """Euclidean norm of ``optimality_fun``; a scalar."""
        return self.form.l2_optimality_error(params, *args, **kwargs)


class ExternalQP(DirectQP):
    """Base of the solvers that call a program outside of jax.

    A subclass defines ``host``. What it returns is polished with the factorisation that the derivative needs anyhow.

    Attributes:
        weak: how rows count in derivatives that hold with equality and multiplier 0: ``"half"``, ``"active"`` or
            ``"inactive"``; see :class:`jaxsolve.solvers.quadratic.interior_point.InteriorPointQP`.
    """

    weak: str = option("half")

    def validate(self) -> None:
        """Raise for an impossible option."""
        super().validate()
        check_choice("weak", self.weak, ("half", "active", "inactive"))

    def form_options(self) -> dict[str, Any]:
        """How rows count that are weakly active."""
        return {"weak": self.weak}

    def host(self) -> Callable:
        """The function ``solve(P, q, A, lower, upper, x, y) -> (x, y, status, iter_num)`` of NumPy arrays.

        Called when ``run`` is traced, so that what is missing is reported then; it must capture no arrays.
        """
        raise TypeError(f"{type(self).__name__} must define host.")

    def compute(
        self, init_params: PyTree, params_obj: Any = None, params_eq: Any = None, params_ineq: Any = None
    ) -> OptStep:
        """Solve the problem outside of jax; see ``run``."""
        form = self.form
        problem = form.problem(form.primal_of(init_params), params_obj, params_eq, params_ineq)
        problem = problem._replace(qp=problem.qp.dense(), scaled=problem.scaled.dense())
        qp = problem.qp
        start = self.starting_point(problem, init_params)
        scalar = jax.ShapeDtypeStruct((), jnp.int32)
        shapes = (*(jax.ShapeDtypeStruct(part.shape, part.dtype) for part in start), scalar, scalar)
        arrays = (qp.P.dense(), qp.q, qp.A.dense(), qp.lower, qp.upper, *start)
        x, y, status, iter_num = jax.pure_callback(
            _AsCallback(self.host(), [(s.shape, s.dtype) for s in shapes]), shapes, *arrays, vmap_method="sequential"
        )
        y = feasible_signs(qp, y)
        at = products(qp, x, y)
        error = form.error_at(qp, x, y, at)
        lost = (status == int(Status.PRIMAL_INFEASIBLE)) | (status == int(Status.DUAL_INFEASIBLE))
        state = DirectState(iter_num, error, qp.value(x), status)
        step = OptStep(form.to_params(problem, x, y, at.Ax), state)
        step, active, cholesky = form._polished(problem, step, lost)
        # What was said to be optimal, and is not, is not reported as such.
        solved = step.state.error <= jnp.asarray(self.tol).astype(error.dtype)
        claimed = step.state.status == int(Status.CONVERGED)
        status = jnp.where(claimed & ~solved, int(Status.STALLED), step.state.status).astype(jnp.int32)
        step = step._replace(state=step.state._replace(status=status))
        factors = Factors(active, problem.scaling, cholesky, is_valid(step))
        return step._replace(state=step.state._replace(factors=factors))


class _AsCallback:
    """A function of float64 NumPy arrays as a host callback with outputs of given shapes and dtypes."""

    def __init__(self, function: Callable, outputs: list):
        self._function, self._outputs = function, outputs

    def __call__(self, *arrays: Any) -> tuple:
        arrays = tuple(np.asarray(a).astype(np.float64) for a in arrays)
        if all(np.all(np.isfinite(a)) for a in arrays[:3]) and not any(np.any(np.isnan(a)) for a in arrays[3:5]):
            x, y, status, iter_num = self._function(*arrays)
        else:
            x, y, status, iter_num = None, None, Status.NONFINITE, 0
        found = status in (Status.CONVERGED, Status.MAXITER, Status.STALLED)
        point = [part if found and part is not None else np.zeros(1) for part in (x, y)]
        finite = all(np.all(np.isfinite(part)) for part in point)
        if not finite:
            status, point = (Status.NONFINITE if found else status), [np.zeros(1), np.zeros(1)]
        return tuple(
            np.broadcast_to(np.asarray(value, dtype=dtype), shape)
            for value, (shape, dtype) in zip((*point, int(status), int(iter_num)), self._outputs, strict=True)
        )
