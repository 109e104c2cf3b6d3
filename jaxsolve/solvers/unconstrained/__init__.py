"""Smooth minimization without constraints."""

from jaxsolve.solvers.unconstrained.gradient_descent import GradientDescent
from jaxsolve.solvers.unconstrained.lbfgs import LBFGS

__all__ = ["LBFGS", "GradientDescent"]
