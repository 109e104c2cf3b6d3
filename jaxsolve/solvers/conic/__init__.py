"""Solvers for conic programs."""

from jaxsolve.solvers.conic._solution import ConicSolution
from jaxsolve.solvers.conic.admm import ConicADMM
from jaxsolve.solvers.conic.cones import Cones, smat, svec
from jaxsolve.solvers.conic.interior_point import ConicInteriorPoint
from jaxsolve.solvers.conic.solve_conic import ConicResult, solve_conic

__all__ = ["ConicADMM", "ConicInteriorPoint", "ConicResult", "ConicSolution", "Cones", "smat", "solve_conic", "svec"]
