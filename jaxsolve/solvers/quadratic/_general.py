"""The solvers of equalities, inequalities and bounds together, which ``solve_qp`` and ``linprog`` choose from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxsolve._types import PyTree
from jaxsolve.solvers.quadratic._admm import OperatorSplitting
from jaxsolve.solvers.quadratic._base import QuadraticSolver
from jaxsolve.solvers.quadratic._elastic import ElasticForm
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


class ElasticInteriorPoint(GeneralInteriorPoint):
    """The interior-point method for the elastic form."""

    _Form = ElasticForm


class ElasticOSQP(GeneralOSQP):
    """Operator splitting for the elastic form."""

    _Form = ElasticForm


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
