"""Solvers of other packages, made differentiable."""

from jaxsolve.solvers.external.cvxpy_qp import CvxpyQP
from jaxsolve.solvers.external.osqp import ExternalOSQP

__all__ = ["CvxpyQP", "ExternalOSQP"]
