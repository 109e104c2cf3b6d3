"""Fixed points."""

from jaxsolve.solvers.fixed_point.iteration import FixedPointIteration

__all__ = ["FixedPointIteration"]
