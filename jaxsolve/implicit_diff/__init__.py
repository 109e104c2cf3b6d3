"""Implicit differentiation: the derivative rule, decorators for your own solvers, and optimality mappings."""

from jaxsolve.implicit_diff import optimality
from jaxsolve.implicit_diff._custom import custom_fixed_point, custom_root, root_jvp, root_vjp, run_without_derivative
from jaxsolve.implicit_diff._rule import attach_derivative, stop_gradient
from jaxsolve.implicit_diff._system import TangentSystem

__all__ = [
    "TangentSystem",
    "attach_derivative",
    "custom_fixed_point",
    "custom_root",
    "optimality",
    "root_jvp",
    "root_vjp",
    "run_without_derivative",
    "stop_gradient",
]
