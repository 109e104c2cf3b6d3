"""Solvers for quadratic programs."""

from jaxsolve.solvers.quadratic.equality import EqualityConstrainedQP
from jaxsolve.solvers.quadratic.interior_point import InteriorPointQP, InteriorPointState

__all__ = ["EqualityConstrainedQP", "InteriorPointQP", "InteriorPointState"]
