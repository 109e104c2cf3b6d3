"""Sums of a smooth function and one with a proximity operator."""

from jaxsolve.solvers.composite.block_coordinate_descent import BlockCoordinateDescent
from jaxsolve.solvers.composite.primal_dual import PrimalDual, PrimalDualSolution
from jaxsolve.solvers.composite.proximal_gradient import ProximalGradient

__all__ = ["BlockCoordinateDescent", "PrimalDual", "PrimalDualSolution", "ProximalGradient"]
