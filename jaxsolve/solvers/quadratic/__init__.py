"""Solvers for quadratic programs."""

from jaxsolve.solvers.quadratic._admm import SplittingState
from jaxsolve.solvers.quadratic._base import DirectState
from jaxsolve.solvers.quadratic.box_cd import BoxCDQP, BoxCDState
from jaxsolve.solvers.quadratic.box_osqp import BoxOSQP
from jaxsolve.solvers.quadratic.equality import EqualityConstrainedQP
from jaxsolve.solvers.quadratic.interior_point import InteriorPointQP, InteriorPointState
from jaxsolve.solvers.quadratic.least_squares import BoundedLeastSquares, LeastSquaresState
from jaxsolve.solvers.quadratic.linear_program import LinprogMarginals, LinprogResult, linprog
from jaxsolve.solvers.quadratic.lsq_linear import LsqLinearResult, NNLSResult, lsq_linear, nnls
from jaxsolve.solvers.quadratic.osqp import OSQP
from jaxsolve.solvers.quadratic.solve_qp import QPResult, solve_qp

__all__ = [
    "OSQP",
    "BoundedLeastSquares",
    "BoxCDQP",
    "BoxCDState",
    "BoxOSQP",
    "DirectState",
    "EqualityConstrainedQP",
    "InteriorPointQP",
    "InteriorPointState",
    "LeastSquaresState",
    "LinprogMarginals",
    "LinprogResult",
    "LsqLinearResult",
    "NNLSResult",
    "QPResult",
    "SplittingState",
    "linprog",
    "lsq_linear",
    "nnls",
    "solve_qp",
]
