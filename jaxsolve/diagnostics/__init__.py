"""Is the result right? Records of runs, why they ended, comparisons of derivatives, and checks of linear solves."""

from jaxsolve.diagnostics._bound import ImplicitErrorBound, implicit_error_bound
from jaxsolve.diagnostics._compare import compare_gradients
from jaxsolve.diagnostics._comparison import GradientComparison, GradientRow
from jaxsolve.diagnostics._explain import explain
from jaxsolve.diagnostics._explanation import (
    ConeRow,
    ConicExplanation,
    ConstraintRow,
    Explanation,
    ResidualRow,
)
from jaxsolve.diagnostics._promises import Promise, SolverReport, check_solver
from jaxsolve.diagnostics._trace import trace
from jaxsolve.implicit_diff._check import TangentError, check_tangents

__all__ = [
    "ConeRow",
    "ConicExplanation",
    "ConstraintRow",
    "Explanation",
    "GradientComparison",
    "GradientRow",
    "ImplicitErrorBound",
    "Promise",
    "ResidualRow",
    "SolverReport",
    "TangentError",
    "check_solver",
    "check_tangents",
    "compare_gradients",
    "explain",
    "implicit_error_bound",
    "trace",
]
