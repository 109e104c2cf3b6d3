"""Solvers for conic programs."""

from jaxsolve.solvers.conic._solution import ConicSolution
from jaxsolve.solvers.conic.cones import Cones, smat, svec

__all__ = ["ConicSolution", "Cones", "smat", "svec"]
