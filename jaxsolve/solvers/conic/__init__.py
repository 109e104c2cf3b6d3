"""Solvers for conic programs."""

from jaxsolve.solvers.conic._solution import ConicSolution
from jaxsolve.solvers.conic.admm import ConicADMM
from jaxsolve.solvers.conic.cones import Cones, smat, svec

__all__ = ["ConicADMM", "ConicSolution", "Cones", "smat", "svec"]
