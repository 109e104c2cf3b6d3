"""Solvers of quadratic programs that are no iterations of ours: linear systems; others are in ``external``.

What the problem is, what its solution looks like, its optimality conditions and its derivative are those of
:class:`jaxsolve.solvers.quadratic._forms.StandardForm`, to which everything but ``compute`` is passed on.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp

from jaxsolve._types import Array, KKTSolution, PyTree
from jaxsolve.base import Solver, check_number, option
from jaxsolve.solvers.quadratic._base import Problem
from jaxsolve.solvers.quadratic._forms import StandardForm, by_name
from jaxsolve.solvers.quadratic._kkt import Factors

__all__ = ["DirectQP", "DirectState"]


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

    #: The arguments of ``run`` behind the initial point.
    data_names: ClassVar[tuple[str, ...]] = ("params_obj", "params_eq", "params_ineq")

    has_factors = True

    def _validate(self) -> None:
        """Raise for an impossible option."""
        super()._validate()
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

    def _check_arguments(self, init_params: PyTree = None, *args: Any, **kwargs: Any) -> None:
        """Raise ``TypeError`` or ``ValueError`` for data that cannot be right."""
        by_name(self, self.data_names, args, kwargs)
        self.form._check_arguments(init_params, *args, **kwargs)

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

    def _state_of_solution(self, params: PyTree, *args: Any, **kwargs: Any) -> dict[str, PyTree]:
        """The value of the objective."""
        return self.form._state_of_solution(params, *args, **kwargs)

    def optimality_fun(self, params: KKTSolution, *args: Any, **kwargs: Any) -> tuple[Array, Array]:
        r"""The natural residual :math:`(Qx + c + A^T y,\; Ax - \Pi_{[l,u]}(Ax + y))` of all rows; two vectors."""
        return self.form.optimality_fun(params, *args, **kwargs)

    def l2_optimality_error(self, params: KKTSolution, *args: Any, **kwargs: Any) -> Array:
        """Euclidean norm of ``optimality_fun``; a scalar."""
        return self.form.l2_optimality_error(params, *args, **kwargs)
