"""Minimisation over a set."""

from jaxsolve.solvers.constrained.projected_gradient import ProjectedGradient

__all__ = ["ProjectedGradient"]
