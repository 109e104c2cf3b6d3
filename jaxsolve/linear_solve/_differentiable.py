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
from jax.flatten_util import ravel_pytree

from jaxsolve._closure import hoist
from jaxsolve.linear_solve._operators import Codec, Operator, is_multicolumn, make_operator

__all__ = ["Kernel", "Outcome", "RightHandSide", "SolveInfo", "differentiable_solve", "solve_by"]

PyTree = Any


class SolveInfo(NamedTuple):
    """What a solve can say about its result; nothing in it is differentiable.

    Attributes:
        residual_norm: Euclidean norm of ``b - A x``, a real scalar.
        relative_residual: the same divided by the norm of ``b``; 0 for ``b = 0``.
        num_iter: iterations of an iterative method, 0 for a direct one, -1 if it is not known.
        rank_deficient: whether a direct method found ``A`` singular to working precision and returned the
            least-squares solution of minimal norm.
    """

    residual_norm: jax.Array
    relative_residual: jax.Array
    num_iter: jax.Array
    rank_deficient: jax.Array


class RightHandSide(NamedTuple):
    """A right-hand side as the algorithms see it: scaled so that the largest entry of ``b`` is 1.

    Attributes:
        vector: shape ``(n,)``; ``b``, less what a starting point explains of it, over ``scale``.
        norm: the norm of ``b / scale``, to which relative tolerances refer.
        scale: the largest absolute value in ``b``.
    """

    vector: jax.Array
    norm: jax.Array
    scale: jax.Array


class Outcome(NamedTuple):
    """What an algorithm returns: the solution (shape ``(n,)``), two fields of :class:`SolveInfo`, its residual norm."""

    x: jax.Array
    num_iter: Any = 0
    rank_deficient: Any = False
    error: Any = None


Kernel = Callable[[Operator, RightHandSide], Outcome]


def differentiable_solve(
    kernel: Kernel,
    matvec: Callable | jax.Array,
    b: PyTree,
    *,
    ridge: Any = None,
    init: PyTree = None,
    symmetric: bool = False,
    info: bool = False,
) -> Any:
    """Solve ``(A + ridge I) x = b`` by ``kernel``, differentiably.

    Args:
        kernel: the algorithm, on vectors and started at 0.
        matvec: the map ``A`` on pytrees like ``b``, or a dense matrix. A matrix of shape ``(n, n)`` with ``b`` of shape
            ``(n, k)`` solves for k columns.
        b: pytree of floating point arrays.
        ridge: non-negative scalar, differentiable.
        init: starting point like ``b``. It is used if its residual is smaller than ``b``.
        symmetric: whether ``A`` is its own (conjugate) transpose, so that one program serves both directions.
        info: return ``(x, SolveInfo)``.

    Returns:
        The solution in the structure, shapes and dtypes of ``b``, or the pair.

    Raises:
        ValueError: shapes do not fit, or ``ridge`` is negative.
        TypeError: ``b`` is not floating point.
    """
    if is_multicolumn(matvec, b):

        def solve_column(column, start):
            return differentiable_solve(kernel, matvec, column, ridge=ridge, init=start, symmetric=symmetric, info=info)

        axes, out_axes = (1, None if init is None else 1), ((1, 0) if info else 1)
        return jax.vmap(solve_column, in_axes=axes, out_axes=out_axes)(jnp.asarray(b), init)

    codec = Codec(b)
    operator = make_operator(matvec, codec, ridge)
    rhs = codec.ravel(b)
    start = None if init is None else lax.stop_gradient(codec.ravel(init, "init"))
    if codec.size == 0:
        return (b, _info(Outcome(rhs), rhs, operator, jnp.ones((), rhs.real.dtype))) if info else b

    def run(operator, vector, start):
        scale, multiple = _scales(vector)
        unit = vector / scale.astype(vector.dtype)
        guess, remainder = _starting_point(operator, unit, start, scale)
        outcome = kernel(operator, RightHandSide(remainder, _norm(unit), scale))
        x = outcome.x if guess is None else guess + outcome.x
        solution = x * multiple.astype(x.dtype)
        return (solution, _info(outcome._replace(x=x), unit, operator, multiple)) if info else solution

    # A complex Hermitian map is not its own transpose.
    same = symmetric and not jnp.issubdtype(codec.dtype, jnp.complexfloating)
    out = _custom_linear_solve(
        operator.matvec,
        rhs,
        lambda vector: run(operator, vector, start),
        None if same else lambda vector: run(operator.transpose(), vector, None),
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


def _scales(vector):
    """The largest entry, 1 if there is none; and by what the solution is multiplied, NaN if ``b`` is not finite."""
    largest = jnp.max(jnp.abs(vector))
    finite = jnp.isfinite(largest)
    scale = jnp.where((largest > 0) & finite, largest, jnp.ones_like(largest))
    return scale, jnp.where(finite, scale, jnp.full_like(scale, jnp.nan))


def _starting_point(operator, unit, start, scale):
    if start is None:
        return None, unit
    # A solve for a tangent has another right-hand side, for which the starting point may be far off; then 0 is better.
    guess = start / scale.astype(start.dtype)
    remainder = unit - operator.matvec(guess)
    helps = _norm(remainder) < _norm(unit)
    return jnp.where(helps, guess, jnp.zeros_like(guess)), jnp.where(helps, remainder, unit)


def _info(outcome, unit, operator, multiple):
    left = _norm(unit - operator.matvec(outcome.x)) if unit.size else jnp.zeros_like(multiple)
    norm = _norm(unit)
    relative = left / jnp.where(norm > 0, norm, jnp.ones_like(norm))
    return SolveInfo(
        left * multiple,
        relative,
        jnp.asarray(outcome.num_iter, jnp.int32),
        jnp.asarray(outcome.rank_deficient, jnp.bool_),
    )


def _norm(vector):
    return jnp.linalg.norm(vector)


def solve_by(matvec: Callable, b: PyTree, forward: Callable, transposed: Callable) -> PyTree:
    """Solve ``A x = b`` by means of the caller's, differentiably.

    For systems whose structure the caller knows: a factorization made elsewhere, say. Derivatives are solves with
    ``matvec`` differentiated and ``forward`` or ``transposed`` as they are, so arrays that these two capture are
    constants.

    Args:
        matvec: the linear map ``A`` on pytrees like ``b``.
        b: pytree of floating point arrays.
        forward: maps ``b`` to the solution.
        transposed: maps a right-hand side to the solution for the transpose of ``A``.

    Returns:
        The solution, a pytree like ``b``.
    """
    # One vector: a right-hand side of which a part is constant could not be transposed.
    flat, unravel = ravel_pytree(b)

    def on_vectors(function):
        return lambda vector: ravel_pytree(function(unravel(vector)))[0]

    return unravel(_custom_linear_solve(on_vectors(matvec), flat, on_vectors(forward), on_vectors(transposed)))
