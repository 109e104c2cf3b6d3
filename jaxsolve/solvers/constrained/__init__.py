"""Minimization over a set."""

from jaxsolve.solvers.constrained.augmented_lagrangian import AugmentedLagrangian
from jaxsolve.solvers.constrained.interior_point_nlp import InteriorPointNLP
from jaxsolve.solvers.constrained.lbfgsb import LBFGSB
from jaxsolve.solvers.constrained.mirror_descent import MirrorDescent
from jaxsolve.solvers.constrained.projected_gradient import ProjectedGradient

__all__ = ["LBFGSB", "AugmentedLagrangian", "InteriorPointNLP", "MirrorDescent", "ProjectedGradient"]
