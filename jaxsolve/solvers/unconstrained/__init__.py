"""Smooth minimization without constraints."""

from jaxsolve.solvers.unconstrained.bfgs import BFGS
from jaxsolve.solvers.unconstrained.gradient_descent import GradientDescent
from jaxsolve.solvers.unconstrained.lbfgs import LBFGS
from jaxsolve.solvers.unconstrained.nelder_mead import NelderMead
from jaxsolve.solvers.unconstrained.nonlinear_cg import NonlinearCG
from jaxsolve.solvers.unconstrained.trust_region import NewtonCG, TrustNewton

__all__ = ["BFGS", "LBFGS", "GradientDescent", "NelderMead", "NewtonCG", "NonlinearCG", "TrustNewton"]
