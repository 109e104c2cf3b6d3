r"""Convex problems that are written in CVXPY, as functions of their parameters in JAX.

CVXPY is called once, when the layer is made, and says how the data of a conic program depend on the parameters. The
program is solved, and differentiated, here.

Reference:
    Agrawal, Amos, Barratt, Boyd, Diamond and Kolter (2019), "Differentiable convex optimization layers"; Agrawal and
    Boyd (2020), "Differentiating through log-log convex programs".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._inputs import as_array
from jaxsolve._types import Array
from jaxsolve.solvers.conic import solve_conic
from jaxsolve.solvers.external._quadratic import import_optional

if TYPE_CHECKING:
    from jaxsolve.solvers.external._canonical import Canonical

__all__ = ["CvxpyLayer", "CvxpySolution", "cvxpy_layer"]


class CvxpySolution(NamedTuple):
    """A solution of a problem of CVXPY.

    Attributes:
        variables: the values of the variables that were asked for, a tuple.
        duals: the multipliers of the constraints that were asked for, a tuple; with the signs that CVXPY gives them.
            For a constraint that has several, of a second-order or exponential cone, a tuple of arrays.
        value: the objective of the problem.
        result: the result of :func:`jaxsolve.solve_conic` for the conic program, with its ``status``.
    """

    variables: tuple[Array, ...]
    duals: tuple[Any, ...]
    value: Array
    result: Any


class CvxpyLayer:
    """A parametrized problem of CVXPY as a function; made by :func:`cvxpy_layer`."""

    def __init__(self, program: Canonical, shapes: tuple, names: tuple, options: dict[str, Any]):
        self._program, self._shapes, self._names, self._options = program, shapes, names, options
        self._compiled = jax.jit(self._solve, static_argnames="dtype")

    def __call__(self, *values: Any) -> tuple[Array, ...]:
        """The values of the variables that were asked for, and then the multipliers, as a tuple.

        Args:
            *values: arrays of the shapes of the parameters, in the order in which these were given.

        Raises:
            TypeError: there are not as many values as parameters, or one is not real.
            ValueError: a value has another shape than its parameter.
        """
        solution = self.solve(*values)
        return (*solution.variables, *solution.duals)

    def solve(self, *values: Any) -> CvxpySolution:
        """The same with the value of the problem and the status; the arguments are those of a call."""
        if len(values) != len(self._shapes):
            raise TypeError(f"this layer takes the values of {', '.join(self._names)}, got {len(values)} values.")
        arrays = [as_array(value, name) for value, name in zip(values, self._names, strict=True)]
        for array, shape, name in zip(arrays, self._shapes, self._names, strict=True):
            if array.shape != shape:
                raise ValueError(
                    f"{name} must have the shape of its parameter, {shape}, got shape {array.shape}; use jax.vmap for "
                    "a batch."
                )
        # Python's numbers have no dtype of their own.
        dtypes = [array.dtype for array in arrays if not array.weak_type] or [jnp.result_type(float)]
        dtype = np.result_type(*dtypes, np.float32)
        return self._compiled([array.astype(dtype) for array in arrays], dtype=dtype)

    def _solve(self, values: list[Array], dtype: Any) -> CvxpySolution:
        program = self._program
        parts = [leaf.put(values[k]) for k, leaf in zip(program.order, program.parameters, strict=True)]
        theta = jnp.concatenate([*parts, jnp.zeros(0, dtype)])
        P = None if program.P is None else program.P(theta)
        data = P, program.c(theta), program.A(theta), program.b(theta)
        result = solve_conic(*data, program.cones, **self._options)
        variables = tuple(leaf.take(result.x) for leaf in program.variables)
        duals = tuple(_shaped(result.y @ jnp.asarray(map_.astype(dtype)), shapes) for shapes, map_ in program.duals)
        value = result.value + program.offset(theta)[0]
        value = -value if program.maximizes else value
        return CvxpySolution(variables, duals, jnp.exp(value) if program.logarithmic else value, result)


def cvxpy_layer(
    problem: Any,
    parameters: Sequence[Any],
    variables: Sequence[Any],
    *,
    duals: Sequence[Any] = (),
    gp: bool = False,
    **options: Any,
) -> CvxpyLayer:
    """A parametrized problem of CVXPY as a function from values of its parameters to values of its variables.

    The function works under ``jit`` and ``vmap``, and has derivatives of any order in both modes. CVXPY is called once,
    here; the function itself is pure JAX. The problem must follow the rules of disciplined parametrized programming
    (DPP): each expression is affine in the parameters for fixed variables, and convex in the variables.

    If a problem has no solution, ``layer.solve(*values).result.status`` says so, and its derivatives are 0. In a batch
    the other elements are not affected.

    Args:
        problem: a ``cvxpy.Problem`` without integer variables.
        parameters: all of its parameters, in the order of the arguments of the function.
        variables: the variables whose values are returned. Symmetric, semidefinite and diagonal variables are returned
            as whole matrices.
        duals: constraints whose multipliers are returned after the variables, with the signs of CVXPY.
        gp: whether the problem is log-log convex (a geometric program).
        **options: options of :func:`jaxsolve.solve_conic`, for example ``tol`` or ``method``.

    Returns:
        A function ``layer(*values)`` that returns a tuple of arrays. ``layer.solve(*values)`` returns a
        :class:`~jaxsolve.solvers.external.CvxpySolution`, which also has the value and the status.

    Raises:
        ImportError: CVXPY is not installed.
        TypeError: ``problem`` is not a ``cvxpy.Problem``, or ``parameters`` or ``variables`` contains an object of
            another type.
        ValueError: ``parameters`` are not those of the problem, the problem does not depend on one of the variables, a
            variable is complex or integer, or the problem breaks a rule of DPP; the message contains the expression.

    References:
        A. Agrawal, B. Amos, S. Barratt, S. Boyd, S. Diamond, J. Z. Kolter, *Differentiable convex optimization layers*,
        Advances in Neural Information Processing Systems 32, 2019.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> try:  # the projection on the non-negative vectors
        ...     import cvxpy
        ...     x, v = cvxpy.Variable(2), cvxpy.Parameter(2)
        ...     problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(x - v)), [x >= 0])
        ...     layer = jaxsolve.cvxpy_layer(problem, parameters=[v], variables=[x])
        ...     jacobian = jax.jacobian(lambda v: layer(v)[0])(jnp.array([3.0, -1.0])).round(3)
        ... except ImportError:
        ...     jacobian = jnp.diag(jnp.array([1.0, 0.0]))
        >>> (abs(jacobian) + 0.0).tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """
    cvxpy = import_optional("cvxpy", "cvxpy_layer")
    if not isinstance(problem, cvxpy.Problem):
        raise TypeError(f"problem must be a cvxpy.Problem, got {type(problem).__name__}.")
    parameters = _listed("parameters", parameters, cvxpy.Parameter)
    variables = _listed("variables", variables, cvxpy.Variable)
    duals = _listed("duals", duals, cvxpy.constraints.constraint.Constraint)
    missing, unknown = set(problem.parameters()) - set(parameters), set(parameters) - set(problem.parameters())
    if missing or unknown or len(set(parameters)) < len(parameters):
        raise ValueError(
            f"parameters must be those of the problem, {_names(problem.parameters())}, once each, got "
            f"{_names(parameters)}."
        )
    if any(leaf.is_complex() for leaf in [*problem.parameters(), *problem.variables()]):
        raise ValueError("problem must be real; write complex parameters and variables as pairs of real ones.")
    if duals and gp:
        raise ValueError("duals of log-log convex problems are those of another problem, of logarithms: omit duals.")
    if wrong := [constraint for constraint in duals if all(constraint is not own for own in problem.constraints)]:
        raise ValueError(f"duals must be constraints of the problem, got {wrong[0]}.")
    from jaxsolve.solvers.external._canonical import canonicalize  # scipy.sparse is not for those without a layer

    program = canonicalize(cvxpy, problem, parameters, variables, duals, gp)
    shapes, names = tuple(p.shape for p in parameters), tuple(p.name() for p in parameters)
    return CvxpyLayer(program, shapes, names, options)


def _listed(name: str, value: Any, kind: type) -> list:
    if not isinstance(value, (list, tuple)) or not all(isinstance(part, kind) for part in value):
        raise TypeError(f"{name} must be a list of {kind.__module__.split('.')[0]}.{kind.__name__}, got {value!r}.")
    return list(value)


def _names(leaves: Sequence[Any]) -> str:
    return f"[{', '.join(leaf.name() for leaf in leaves)}]"


def _shaped(vector: Array, shapes: tuple) -> Any:
    """The multipliers of a constraint: an array, or a tuple of them."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    parts = tuple(part.reshape(shape) for part, shape in zip(jnp.split(vector, ends), shapes, strict=True))
    return parts[0] if len(parts) == 1 else parts
