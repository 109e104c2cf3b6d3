"""Smooth minimisation without constraints."""

from jaxsolve.solvers.unconstrained.gradient_descent import GradientDescent

__all__ = ["GradientDescent"]
