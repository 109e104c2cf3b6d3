"""Roots."""

from jaxsolve.solvers.root.bisection import Bisection

__all__ = ["Bisection"]
