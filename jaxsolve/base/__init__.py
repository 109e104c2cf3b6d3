"""The base of all solvers: ``run``, options, reports, and the types of results."""

from jaxsolve._options import check_callable, check_choice, check_number, option
from jaxsolve._results import SolverError, check
from jaxsolve._status import Status
from jaxsolve._types import KKTSolution, OptStep
from jaxsolve.base._iterative import IterativeSolver, loses_finite
from jaxsolve.base._objective import Objective, blank_output, lacks_data
from jaxsolve.base._operators import AutoOrBoolean, LinearOperator
from jaxsolve.base._params import as_like
from jaxsolve.base._report import History
from jaxsolve.base._solver import Solver
from jaxsolve.base._stochastic import StochasticSolver

__all__ = [
    "AutoOrBoolean",
    "History",
    "IterativeSolver",
    "KKTSolution",
    "LinearOperator",
    "Objective",
    "OptStep",
    "Solver",
    "SolverError",
    "Status",
    "StochasticSolver",
    "as_like",
    "blank_output",
    "check",
    "check_callable",
    "check_choice",
    "check_number",
    "lacks_data",
    "loses_finite",
    "option",
]
