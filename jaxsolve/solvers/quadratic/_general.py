"""The solvers of equalities, inequalities and bounds together, which ``solve_qp`` and ``linprog`` choose from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxsolve._loop import loop
from jaxsolve._status import Status
from jaxsolve._types import OptStep, PyTree
from jaxsolve.solvers.quadratic._admm import OperatorSplitting
from jaxsolve.solvers.quadratic._base import Problem, QuadraticSolver, Solution
from jaxsolve.solvers.quadratic._elastic import ElasticForm, as_weights, at_full_price, counts, first_share
from jaxsolve.solvers.quadratic._form import GeneralForm, Program
from jaxsolve.solvers.quadratic._presolve import masked
from jaxsolve.solvers.quadratic.interior_point import InteriorPoint

__all__ = [
    "ElasticInteriorPoint",
    "ElasticOSQP",
    "GeneralInteriorPoint",
    "GeneralOSQP",
    "PresolvedInteriorPoint",
    "PresolvedOSQP",
]


class General(QuadraticSolver):
    r"""Base of the solvers of :math:`\min \tfrac12 x^T Q x + c^T x` with :math:`A x = b,\ G x \le h,\ l \le x \le u`.

    Attributes:
        matvec_Q: ``matvec_Q(params_Q, x)``; see :class:`.OSQP`.
        matvec_A: ``matvec_A(params_A, x)``.
        matvec_G: ``matvec_G(params_G, x)``.
    """

    matvec_Q: Callable | None = None  # type: ignore[misc]  # an option here
    matvec_A: Callable | None = None  # type: ignore[misc]
    matvec_G: Callable | None = None  # type: ignore[misc]

    _Form = GeneralForm


class GeneralInteriorPoint(InteriorPoint, General):
    """The interior-point method for equalities, inequalities and bounds."""


class GeneralOSQP(OperatorSplitting, General):
    """Operator splitting for equalities, inequalities and bounds."""


_MOST_ATTEMPTS = 100


def _dearer(dtype: Any) -> int:
    """By how much the weights of one attempt are larger than those of the one before: fewer digits, less."""
    return 128 if jnp.finfo(dtype).bits == 64 else 8


def _solve_elastic(solver: Any, once: Callable, init_params: PyTree, data: tuple) -> tuple[OptStep, Any]:
    """A run of the elastic form in which large weights do not hide the rest, see :mod:`._elastic`.

    Args:
        solver: of the elastic form.
        once: its run with the weights as they are.
        init_params: those of the run.
        data: likewise, the weights last.
    """
    (*others, elastic), form = data, solver._form
    program = form.program(form.parts(init_params)[0], *data)
    if not solver._has_active_set or not solver._wanted_form(program.qp).has_factor:
        return once(init_params, *data)
    num_eq, num_soft = counts(program)
    weights = as_weights(elastic, {"A": num_eq, "G": num_soft - num_eq}, program.qp.q.dtype)

    def run(share):
        parts = [share * part for part in weights if part.size]
        return once(init_params, *others, parts if len(parts) > 1 else parts[0])

    def attempt(carry):
        share, _, (before, _) = carry
        (params, state), system = run(share)
        _, x, y = form.at(form.unknowns(params), data)
        dear, same = at_full_price(program.qp, y, system.factors, num_soft + num_eq, share)
        same &= Status.CONVERGED.holds(state.status)
        x, y = form.settled(program, x, jnp.where(same & (share < 1), dear, y))
        params = form.solution(program, Solution(x, y, program.qp.A.matvec(x)))
        known = Status.PRIMAL_INFEASIBLE.holds(state.status) | Status.NONCONVEX.holds(state.status)
        over = same | known | (share == 1)
        iter_num = before.state.iter_num + state.iter_num
        step = OptStep(params, state._replace(iter_num=iter_num, value=program.qp.value(x)))
        return jnp.minimum(_dearer(share.dtype) * share, 1), over, (step, system)

    share = first_share(program.qp, num_soft + num_eq)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(run, share))
    carry = (share, jnp.asarray(False), nothing)
    return loop(lambda carry: ~carry[1], attempt, carry, maxiter=_MOST_ATTEMPTS, kind=solver._loop_kind)[-1]


def _settled(solver: Any, problem: Problem, solution: Solution) -> Solution:
    """The solution with the slacks that its rows need: what costs little has few digits."""
    if not solver._has_active_set:
        return solution
    x, y = solver._form.settled(problem, solution.x, solution.y)
    return Solution(x, y, problem.qp.A.matvec(x))


class ElasticInteriorPoint(GeneralInteriorPoint):
    """The interior-point method for the elastic form."""

    _Form = ElasticForm

    def _solve(self, init_params: PyTree, *data: Any) -> tuple[OptStep, Any]:
        return _solve_elastic(self, super()._solve, init_params, data)

    def _solution(self, problem: Problem, state: Any) -> Solution:
        return _settled(self, problem, super()._solution(problem, state))


class ElasticOSQP(GeneralOSQP):
    """Operator splitting for the elastic form."""

    _Form = ElasticForm

    def _solve(self, init_params: PyTree, *data: Any) -> tuple[OptStep, Any]:
        return _solve_elastic(self, super()._solve, init_params, data)

    def _solution(self, problem: Problem, state: Any) -> Solution:
        return _settled(self, problem, super()._solution(problem, state))


class PresolvedForm(GeneralForm):
    """The general form without bounds that say no more than others."""

    def program(self, like: PyTree, params_obj: Any, *data: Any) -> Program:
        program = super().program(like, params_obj, *data)
        return program._replace(qp=masked(program.qp)) if program.qp.has_entries else program


class PresolvedInteriorPoint(GeneralInteriorPoint):
    """The interior-point method for what is left of the general form."""

    _Form = PresolvedForm


class PresolvedOSQP(GeneralOSQP):
    """Operator splitting for what is left of the general form."""

    _Form = PresolvedForm
