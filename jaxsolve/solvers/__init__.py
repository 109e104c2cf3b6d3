"""Solvers, one family a package; and the bases from which they and new ones derive."""

from jaxsolve.solvers._descent_method import DescentMethod, DescentState

__all__ = ["DescentMethod", "DescentState"]
