"""Is the gradient right? Records of runs, comparisons of derivatives, and checks of linear solves."""

from jaxsolve.diagnostics._trace import trace

__all__ = ["trace"]
