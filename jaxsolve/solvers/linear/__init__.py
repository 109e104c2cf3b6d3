"""Linear systems."""

from jaxsolve.solvers.linear.iterative_refinement import IterativeRefinement

__all__ = ["IterativeRefinement"]
