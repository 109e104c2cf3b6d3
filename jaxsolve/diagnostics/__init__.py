"""Is the gradient right? Records of runs, comparisons of derivatives, and checks of linear solves."""

from jaxsolve.diagnostics._compare import compare_gradients
from jaxsolve.diagnostics._comparison import GradientComparison, GradientRow
from jaxsolve.diagnostics._trace import trace
from jaxsolve.implicit_diff._check import TangentError, check_tangents

__all__ = ["GradientComparison", "GradientRow", "TangentError", "check_tangents", "compare_gradients", "trace"]
