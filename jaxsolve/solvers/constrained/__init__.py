"""Minimization over a set."""

from jaxsolve.solvers.constrained.lbfgsb import LBFGSB
from jaxsolve.solvers.constrained.mirror_descent import MirrorDescent
from jaxsolve.solvers.constrained.projected_gradient import ProjectedGradient

__all__ = ["LBFGSB", "MirrorDescent", "ProjectedGradient"]
