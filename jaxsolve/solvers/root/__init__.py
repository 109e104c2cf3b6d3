"""Roots."""

from jaxsolve.solvers.root._method import RootMethod, RootState
from jaxsolve.solvers.root.bisection import Bisection
from jaxsolve.solvers.root.broyden import Broyden
from jaxsolve.solvers.root.newton import Chord, Newton

__all__ = ["Bisection", "Broyden", "Chord", "Newton", "RootMethod", "RootState"]
