"""Solvers for conic programs."""

from jaxsolve.solvers.conic._solution import ConicSolution
from jaxsolve.solvers.conic.admm import ConicADMM
from jaxsolve.solvers.conic.cones import Cones, smat, svec
from jaxsolve.solvers.conic.interior_point import ConicInteriorPoint

__all__ = ["ConicADMM", "ConicInteriorPoint", "ConicSolution", "Cones", "smat", "svec"]
