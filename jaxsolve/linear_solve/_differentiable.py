r"""The one place with ``lax.custom_linear_solve``: any algorithm becomes a differentiable solve here.

With :math:`x = A^{-1} b` the tangent is :math:`\dot x = A^{-1} (\dot b - \dot A x)` and the cotangent of ``b`` is
:math:`A^{-T} \bar x`: two more solves with the same algorithm, whatever it does inside. Derivatives of every order and
in both modes follow. For a singular ``A`` the algorithms return least-squares solutions, and the same formulas hold
with the pseudo-inverse, which is exact for perturbations that keep the range of ``A``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._closure import hoist
from jaxsolve._compat import max_abs, outside_transformations
from jaxsolve._compile import compiled_call
from jaxsolve._precision import at_full_precision
from jaxsolve._vectors import flat, ravel
from jaxsolve.linear_solve._operators import Codec, LinearMap, Operator, check_sizes, is_multicolumn, make_operator

__all__ = ["Outcome", "RightHandSide", "SolveInfo", "describe", "differentiable_solve", "enter", "scale_of", "solve_by"]

PyTree = Any


class SolveInfo(NamedTuple):
    """Information about the result of a solve; its fields are not differentiable.

    Attributes:
        residual_norm: Euclidean norm of ``b - A x``, a real scalar.
        relative_residual: ``residual_norm`` divided by the norm of ``b``; 0 for ``b = 0``.
        num_iter: iterations of an iterative method, 0 for a direct one, -1 if the number is not known.
        rank_deficient: whether a direct method found ``A`` singular to working precision and returned the
            least-squares solution of minimal norm.
    """

    residual_norm: jax.Array
    relative_residual: jax.Array
    num_iter: jax.Array
    rank_deficient: jax.Array


class RightHandSide(NamedTuple):
    """A right-hand side as the algorithms see it.

    Attributes:
        vector: shape ``(n,)``.
        start: starting point, shape ``(n,)``, or ``None``.
        original: the right-hand side that the caller gave. If it is not ``vector``, this is the solve of a derivative.
            ``None`` for a solve with the transpose.
    """

    vector: jax.Array
    start: jax.Array | None = None
    original: jax.Array | None = None


class Outcome(NamedTuple):
    """What an algorithm returns: the solution (shape ``(n,)``) and two fields of :class:`SolveInfo`."""

    x: jax.Array
    num_iter: Any = 0
    rank_deficient: Any = False


def differentiable_solve(
    kernel: Callable[[Operator, RightHandSide, Any], Outcome],
    options: Any,
    matvec: LinearMap,
    b: PyTree,
    *,
    ridge: Any = None,
    init: PyTree = None,
    symmetric: bool = False,
    info: bool = False,
) -> Any:
    """Solve ``(A + ridge I) x = b`` by ``kernel``, differentiably. Every ``solve_*`` of the package ends here.

    Args:
        kernel: the algorithm, on vectors; a function of a module, called with ``options``.
        options: whatever the kernel takes, a pytree.
        matvec: the map ``A`` on pytrees like ``b``, or a dense matrix. A matrix of shape ``(n, n)`` with ``b`` of shape
            ``(n, k)`` solves for k columns.
        b: pytree of floating point arrays.
        ridge: non-negative scalar, differentiable.
        init: starting point like ``b``.
        symmetric: whether ``A`` is its own conjugate transpose, so that one program serves both directions.
        info: return ``(x, SolveInfo)``.

    Returns:
        The solution in the structure, shapes and dtypes of ``b``, or the pair.

    Raises:
        ValueError: shapes do not fit, or ``ridge`` is negative.
        TypeError: ``b`` is not floating point.
    """
    check_sizes(ridge=ridge)
    return enter(_solve_vector, matvec, b, init, info, kernel, options, ridge, symmetric)


def enter(function: Callable, *args: Any) -> Any:
    """Call ``function(matvec, b, init, info, ...)``: where every solve of the package enters.

    Outside of jax it is compiled, once. Of a matrix ``b`` of right-hand sides it solves for one column at a time, and
    the entries of the information get one entry a column.
    """
    return compiled_call(_solve, None, function, *args) if outside_transformations() else _solve(function, *args)


@at_full_precision
def _solve(function, matvec, b, init, info, *rest):
    if not is_multicolumn(matvec, b):
        return function(matvec, b, init, info, *rest)
    axes = (1, None if init is None else 1), (1, 0) if info else 1
    return jax.vmap(lambda b, init: function(matvec, b, init, info, *rest), *axes)(jnp.asarray(b), init)


def _solve_vector(matvec, b, init, info, kernel, options, ridge, symmetric):
    codec = Codec(b, matvec=matvec)
    operator = make_operator(matvec, codec, ridge, symmetric)
    rhs = codec.ravel(b)
    start = None if init is None else lax.stop_gradient(codec.ravel(init, "init"))
    if rhs.shape == (0,):
        zero = jnp.zeros((), rhs.dtype)
        return (b, SolveInfo(zero, zero, jnp.zeros((), jnp.int32), jnp.asarray(False))) if info else b

    def run(operator, rhs):
        outcome = kernel(operator, rhs, options)
        return (outcome.x, describe(outcome, rhs.vector, operator.matvec)) if info else outcome.x

    out = _custom_linear_solve(
        operator.matvec,
        rhs,
        lambda vector: run(operator, RightHandSide(vector, start, rhs)),
        None if symmetric else lambda vector: run(operator.transpose(), RightHandSide(vector)),
        has_aux=info,
    )
    return (codec.unravel(out[0]), out[1]) if info else codec.unravel(out)


def _custom_linear_solve(matvec, b, forward, transposed, *, has_aux=False):
    """``lax.custom_linear_solve`` of a vector; ``transposed`` is ``None`` for a map that is its own transpose.

    Of a solve only ``matvec`` and ``b`` are ever differentiated. But where all that moves is an array which the
    solvers alone capture (a preconditioner, a tolerance, a factorization), jax 0.10 and before asks for a solve with
    its symbol of a zero right-hand side, and raises. So these arrays are made constants.
    """

    def constant(solve):
        hoisted = hoist(solve, b)
        consts = [lax.stop_gradient(const) for const in hoisted.consts]
        return lambda _, vector: hoisted.pure(vector, consts=consts)

    symmetric = transposed is None
    backward = None if transposed is None else constant(transposed)
    return lax.custom_linear_solve(matvec, b, constant(forward), backward, symmetric=symmetric, has_aux=has_aux)


def scale_of(vector: jax.Array) -> jax.Array:
    """The largest absolute value, or 1 if that is 0 or not finite."""
    largest = max_abs(vector)
    return jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)


def describe(outcome: Outcome, vector: jax.Array, matvec: Callable) -> SolveInfo:
    """The information about a result, by one more product."""
    scale = scale_of(vector)
    norm = jnp.linalg.norm(vector / scale)
    left = jnp.linalg.norm((vector - matvec(outcome.x)) / scale)
    none = jnp.zeros_like(left, jnp.int32)  # made from the data, for shard_map
    num_iter, rank_deficient = none + jnp.asarray(outcome.num_iter, jnp.int32), (none > 0) | outcome.rank_deficient
    return SolveInfo(left * scale, left / jnp.where(norm > 0, norm, 1), num_iter, rank_deficient)


def solve_by(matvec: Callable, b: PyTree, forward: Callable, transposed: Callable) -> PyTree:
    """Solve ``A x = b`` by functions of the caller; the solution is differentiable.

    Use it for systems whose structure the caller knows, for example with a factorization that was made elsewhere. In
    derivatives ``matvec`` is differentiated, while ``forward`` and ``transposed`` are used as they are, so arrays that
    these two capture are constants.

    Args:
        matvec: the linear map ``A`` on pytrees like ``b``.
        b: pytree of floating point arrays.
        forward: maps ``b`` to the solution.
        transposed: maps a right-hand side to the solution for the transpose of ``A``.

    Returns:
        The solution, a pytree like ``b``.
    """
    # One vector: a right-hand side of which a part is constant could not be transposed.
    vector, unravel = ravel(b)

    def on_vectors(function):
        return lambda v: flat(function(unravel(v)), v.dtype)

    return unravel(_custom_linear_solve(on_vectors(matvec), vector, on_vectors(forward), on_vectors(transposed)))
