"""Solvers of other packages, made differentiable."""

from jaxsolve.solvers.external.cvxpy_qp import CvxpyQP
from jaxsolve.solvers.external.cvxpylayers import cvxpylayers_solver
from jaxsolve.solvers.external.layers import CvxpyLayer, CvxpySolution, cvxpy_layer
from jaxsolve.solvers.external.osqp import ExternalOSQP
from jaxsolve.solvers.external.scipy_least_squares import ScipyBoundedLeastSquares, ScipyLeastSquares
from jaxsolve.solvers.external.scipy_minimize import ScipyBoundedMinimize, ScipyMinimize
from jaxsolve.solvers.external.scipy_root import ScipyRootFinding

__all__ = [
    "CvxpyLayer",
    "CvxpyQP",
    "CvxpySolution",
    "ExternalOSQP",
    "ScipyBoundedLeastSquares",
    "ScipyBoundedMinimize",
    "ScipyLeastSquares",
    "ScipyMinimize",
    "ScipyRootFinding",
    "cvxpy_layer",
    "cvxpylayers_solver",
]
