"""Fixed points."""

from jaxsolve.solvers.fixed_point.anderson import AndersonAcceleration
from jaxsolve.solvers.fixed_point.anderson_wrapper import AndersonWrapper
from jaxsolve.solvers.fixed_point.iteration import FixedPointIteration

__all__ = ["AndersonAcceleration", "AndersonWrapper", "FixedPointIteration"]
