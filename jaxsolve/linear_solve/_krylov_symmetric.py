"""Krylov methods for symmetric maps: conjugate gradient, MINRES, and conjugate gradient on the normal equations.

References:
    Hestenes and Stiefel 1952 (CG; section 10 for the normal equations, "CGLS"). Paige and Saunders 1975 (MINRES).
    Elman, Silvester and Wathen 2014, *Finite Elements and Fast Iterative Solvers*, algorithm 4.1 (MINRES with a
    preconditioner).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsolve._loop import loop
from jaxsolve.linear_solve._differentiable import Outcome, RightHandSide, differentiable_solve
from jaxsolve.linear_solve._krylov_common import (
    Best,
    KrylovOptions,
    krylov_options,
    length,
    map_scale,
    real_vdot,
    safe_divide,
)
from jaxsolve.linear_solve._krylov_general import least_squares_if
from jaxsolve.linear_solve._operators import Codec, Operator, check_options, make_operator
from jaxsolve.linear_solve._preconditioners import preconditioner_on_vectors

__all__ = ["cg_kernel", "minres_kernel", "solve_cg", "solve_minres", "solve_normal_cg"]

PyTree = Any


def solve_cg(
    matvec: Callable | jax.Array,
    b: PyTree,
    ridge: Any = None,
    init: PyTree = None,
    *,
    tol: Any = None,
    atol: Any = 0.0,
    maxiter: Any = None,
    preconditioner: Any = None,
    M: Any = None,
    info: bool = False,
) -> Any:
    """Solve a symmetric positive semi-definite system by the conjugate gradient method.

    Args:
        matvec: symmetric linear map from pytrees like ``b`` to pytrees with the same leaf shapes, or a dense matrix.
        b: pytree of floating point arrays.
        ridge: non-negative multiple of the identity to add, a scalar.
        init: starting point like ``b``; 0 by default. It changes the cost, not the solution, unless ``A`` is singular.
        tol: relative tolerance on the residual; by default 10 spacings of the working dtype, because gradients are
            to be as accurate as the dtype allows.
        atol: absolute tolerance on the residual.
        maxiter: bound on the iterations; ``10 n`` by default.
        preconditioner: symmetric positive definite map that approximates the inverse, callable on pytrees or matrix.
        M: another name for ``preconditioner``.
        info: return ``(x, SolveInfo)``.

    Returns:
        The iterate with the smallest residual, like ``b``. For a singular consistent system it is the solution of
        minimal norm.

    Raises:
        ValueError: the map is not square, or an option is out of range.
        TypeError: ``b`` is not floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.linear_solve import solve_cg
        >>> x, info = solve_cg(lambda x: 2 * x, jnp.array([2.0, 6.0]), info=True)
        >>> x.tolist(), int(info.num_iter)
        ([1.0, 3.0], 1)
    """
    options = krylov_options(tol, atol, maxiter, preconditioner, M)
    return differentiable_solve(
        partial(cg_kernel, options=options), matvec, b, ridge=ridge, init=init, symmetric=True, info=info
    )


class _CG(NamedTuple):
    x: jax.Array
    r: jax.Array
    direction: jax.Array
    r_dot_z: jax.Array
    best: Best


def cg_kernel(operator: Operator, rhs: RightHandSide, *, options: KrylovOptions) -> Outcome:
    """Preconditioned conjugate gradient from 0."""
    precondition = preconditioner_on_vectors(options.preconditioner, operator)
    target = options.target(operator, rhs)
    least = operator.eps * map_scale(operator)

    def body(s: _CG) -> _CG:
        product = operator.matvec(s.direction)
        curvature = real_vdot(s.direction, product)
        # Below rounding of the product: a null direction.
        curvature = jnp.where(jnp.abs(curvature) <= least * real_vdot(s.direction, s.direction), 0, curvature)
        step = s.r_dot_z / curvature  # a direction without curvature makes this infinite, which ends the iterations
        x = s.x + step.astype(s.x.dtype) * s.direction
        r = s.r - step.astype(s.x.dtype) * product
        z = precondition(r)
        r_dot_z = real_vdot(r, z)
        direction = z + safe_divide(r_dot_z, s.r_dot_z).astype(z.dtype) * s.direction
        best = s.best.update(x, jnp.where(curvature == 0, s.best.error, jnp.linalg.norm(r)), curvature == 0)
        return _CG(x, r, direction, r_dot_z, best)

    z = precondition(rhs.vector)
    init = _CG(jnp.zeros_like(rhs.vector), rhs.vector, z, real_vdot(rhs.vector, z), Best.start(rhs))
    final = loop(
        lambda s: (s.best.error > target) & ~s.best.stop, body, init, maxiter=options.bound(operator), kind="while"
    )
    return final.best.outcome()


def solve_minres(
    matvec: Callable | jax.Array,
    b: PyTree,
    ridge: Any = None,
    init: PyTree = None,
    *,
    tol: Any = None,
    atol: Any = 0.0,
    maxiter: Any = None,
    preconditioner: Any = None,
    M: Any = None,
    info: bool = False,
) -> Any:
    """Solve a symmetric, possibly indefinite or singular, system by MINRES.

    Args:
        matvec: symmetric linear map from pytrees like ``b`` to pytrees with the same leaf shapes, or a dense matrix.
        b: pytree of floating point arrays.
        ridge: non-negative multiple of the identity to add, a scalar.
        init: starting point like ``b``; 0 by default.
        tol: relative tolerance on the residual; by default 10 spacings of the working dtype.
        atol: absolute tolerance on the residual.
        maxiter: bound on the iterations; ``10 n`` by default.
        preconditioner: symmetric positive definite map that approximates the inverse of ``|A|``.
        M: another name for ``preconditioner``.
        info: return ``(x, SolveInfo)``.

    Returns:
        The solution, like ``b``. For a singular system it is the least-squares solution of minimal norm: MINRES finds
        it if the system is consistent (without a preconditioner), and else hands over to LSQR, because its iterates
        grow without bound in the null space.

    Raises:
        ValueError: the map is not square, or an option is out of range.
        TypeError: ``b`` is not floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.linear_solve import solve_minres
        >>> x = solve_minres(jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.array([2.0, 3.0]))
        >>> [round(entry, 4) for entry in x.tolist()]
        [3.0, 2.0]
    """
    options = krylov_options(tol, atol, maxiter, preconditioner, M)
    return differentiable_solve(
        partial(minres_kernel, options=options), matvec, b, ridge=ridge, init=init, symmetric=True, info=info
    )


class _Minres(NamedTuple):
    v: jax.Array  # Lanczos vectors, not normalized; z = M v
    v_old: jax.Array
    z: jax.Array
    gamma: jax.Array  # sqrt(<z, v>)
    gamma_old: jax.Array
    eta: jax.Array  # signed norm of the residual
    cos: jax.Array
    cos_old: jax.Array
    sin: jax.Array
    sin_old: jax.Array
    w: jax.Array  # search directions
    w_old: jax.Array
    r: jax.Array  # residual and its images of w, to know it without another product
    image: jax.Array
    image_old: jax.Array
    size: jax.Array  # the largest entry of the tridiagonal matrix: the scale of the map
    best: Best


def minres_kernel(operator: Operator, rhs: RightHandSide, *, options: KrylovOptions) -> Outcome:
    """Preconditioned MINRES from 0; LSQR takes over if there is no solution."""
    precondition = preconditioner_on_vectors(options.preconditioner, operator)
    target = options.target(operator, rhs)
    dtype = rhs.vector.dtype
    least = 10 * operator.eps * operator.size**0.5
    # Squares of the map's scale occur below: it is divided out. In the norm of a preconditioner the map has another
    # scale, which only the iterations know.
    found = jnp.zeros_like(rhs.norm) if options.preconditioner is not None else map_scale(operator)
    unit = jnp.where((found > 0) & jnp.isfinite(found), found, jnp.ones_like(found))

    def times(scalar, vector):
        return scalar.astype(dtype) * vector

    def body(s: _Minres) -> _Minres:
        z = times(1 / s.gamma, s.z)
        product = times(1 / unit, operator.matvec(z))
        delta = real_vdot(z, product)
        v = product - times(delta / s.gamma, s.v) - times(safe_divide(s.gamma, s.gamma_old), s.v_old)
        z_new = precondition(v)
        gamma = jnp.sqrt(jnp.maximum(real_vdot(z_new, v), 0))
        size = jnp.maximum(s.size, jnp.maximum(jnp.abs(delta), gamma))
        # Below rounding of the terms that cancelled in v, the space is exhausted.
        gamma = jnp.where(gamma <= 4 * operator.eps * size, jnp.zeros_like(gamma), gamma)

        bar = s.cos * delta - s.cos_old * s.sin * s.gamma
        diagonal = jnp.hypot(bar, gamma)
        above = s.sin * delta + s.cos_old * s.cos * s.gamma
        above_two = s.sin_old * s.gamma
        # |A r| = |r| hypot(bar, cos * gamma) (Paige and Saunders): small means least-squares solution reached, and the
        # next step would divide by this.
        exhausted = jnp.hypot(bar, s.cos * gamma) <= least * size
        cos, sin = safe_divide(bar, diagonal), safe_divide(gamma, diagonal)
        over = safe_divide(jnp.ones_like(diagonal), diagonal)
        w = times(over, z - times(above_two, s.w_old) - times(above, s.w))
        image = times(over, product - times(above_two, s.image_old) - times(above, s.image))
        x = s.best.x + times(cos * s.eta, w)
        r = s.r - times(cos * s.eta, image)
        error = jnp.linalg.norm(r)
        if options.preconditioner is None:
            # The images of the directions have length 1 in theory, and the residual falls. If a direction is so long
            # that its image can only be rounding errors, it is one of the null space.
            exhausted = exhausted | (jnp.linalg.norm(w) * size * least > 1) | (error > 1.01 * s.best.error)
        error = jnp.where(exhausted, s.best.error, error)
        # A residual at the level of rounding in A x stays there: no backward stable method does better.
        settled = error <= 2 * operator.eps * size * jnp.linalg.norm(x)
        stop = exhausted | settled | (gamma == 0)
        best = s.best.update(jnp.where(exhausted, s.best.x, x), error, stop, always=True)
        r = jnp.where(exhausted, s.r, r)
        return _Minres(
            v, s.v, z_new, gamma, s.gamma, -sin * s.eta, cos, s.cos, sin, s.sin, w, s.w, r, image, s.image, size, best
        )

    z = precondition(rhs.vector)
    gamma = jnp.sqrt(jnp.maximum(real_vdot(z, rhs.vector), 0))
    zero, none = jnp.zeros_like(rhs.vector), jnp.zeros_like(gamma)
    one = jnp.ones_like(gamma)
    start = Best.start(rhs)
    scale = found / unit
    init = _Minres(
        rhs.vector, zero, z, gamma, none, gamma, one, one, none, none, zero, zero, rhs.vector, zero, zero, scale, start
    )
    final = loop(
        lambda s: (s.best.error > target) & ~s.best.stop, body, init, maxiter=options.bound(operator), kind="while"
    )
    # Broken down far from a solution: the system is inconsistent, or the preconditioner not positive definite.
    outcome = final.best.outcome()
    outcome = outcome._replace(x=times(1 / unit, outcome.x))
    return least_squares_if(final.best.stop, operator, rhs, outcome, adjoint=operator.matvec)


def solve_normal_cg(
    matvec: Callable | jax.Array,
    b: PyTree,
    ridge: Any = None,
    init: PyTree = None,
    *,
    tol: Any = None,
    atol: Any = 0.0,
    maxiter: Any = None,
    preconditioner: Any = None,
    M: Any = None,
    info: bool = False,
) -> Any:
    r"""Least squares for any square map, by conjugate gradient on the normal equations.

    It solves :math:`(A^* A + \rho I) x = A^* b`: the ridge :math:`\rho` is added to the *normal* matrix, which is
    Tikhonov regularization. The convergence goes with the square of the condition number; ``solve_gmres`` or a direct
    method is the better choice for most maps that are not singular.

    Args:
        matvec: linear map from pytrees like ``b`` to pytrees with the same leaf shapes, or a dense matrix.
        b: pytree of floating point arrays.
        ridge: non-negative multiple of the identity to add to the normal matrix, a scalar.
        init: starting point like ``b``; 0 by default.
        tol: relative tolerance on the residual (with ``ridge``, of the normal equations); by default 10 spacings of the
            working dtype. Without ``ridge`` the iterations end at a least-squares solution as well.
        atol: absolute tolerance on the same residual.
        maxiter: bound on the iterations; ``10 n`` by default.
        preconditioner: symmetric positive definite map that approximates the inverse of the *normal* matrix, callable
            on pytrees or matrix. With one the residual that the tolerances bound is that of the normal equations.
        M: another name for ``preconditioner``.
        info: return ``(x, SolveInfo)``.

    Returns:
        The solution, like ``b``, of minimal norm if ``A`` is singular.

    Raises:
        ValueError: the map is not square, or an option is out of range.
        TypeError: ``b`` is not floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.linear_solve import solve_normal_cg
        >>> x = solve_normal_cg(jnp.ones((2, 2)), jnp.array([1.0, 3.0]))
        >>> [round(entry, 4) for entry in x.tolist()]
        [1.0, 1.0]
    """
    options = krylov_options(tol, atol, maxiter, preconditioner, M)
    if ridge is None and options.preconditioner is None:
        return differentiable_solve(partial(_cgls_kernel, options=options), matvec, b, init=init, info=info)
    if ridge is not None:
        check_options(ridge=ridge)
    codec = Codec(b)
    operator = make_operator(matvec, codec)
    adjoint = operator.adjoint()

    def normal(tree):
        return codec.unravel(adjoint(operator.matvec(codec.ravel(tree))))

    right = codec.unravel(adjoint(codec.ravel(b)))
    return differentiable_solve(
        partial(cg_kernel, options=options), normal, right, ridge=ridge, init=init, symmetric=True, info=info
    )


class _Cgls(NamedTuple):
    x: jax.Array
    r: jax.Array
    direction: jax.Array
    gradient_square: jax.Array
    scale: jax.Array  # largest |A p| / |p| seen
    best: Best


def _cgls_kernel(operator: Operator, rhs: RightHandSide, *, options: KrylovOptions) -> Outcome:
    adjoint, dtype = operator.adjoint(), rhs.vector.dtype
    target = options.target(operator, rhs)
    # Squares of the map's scale occur below: it is divided out first, lest they underflow.
    gradient = adjoint(rhs.vector)
    unit = length(gradient)
    unit = jnp.where(unit > 0, unit, jnp.ones_like(unit))
    gradient = gradient / unit.astype(dtype)

    def body(s: _Cgls) -> _Cgls:
        product = operator.matvec(s.direction) / unit.astype(dtype)
        square = real_vdot(product, product)
        step = safe_divide(s.gradient_square, square).astype(dtype)
        x, r = s.x + step * s.direction, s.r - step * product
        error = jnp.linalg.norm(r)
        gradient = adjoint(r) / unit.astype(dtype)
        gradient_square = real_vdot(gradient, gradient)
        ratio = safe_divide(jnp.sqrt(square), jnp.linalg.norm(s.direction))
        scale = jnp.maximum(s.scale, ratio)
        least_squares = jnp.sqrt(gradient_square) <= 10 * operator.eps * scale * error
        direction = gradient + safe_divide(gradient_square, s.gradient_square).astype(dtype) * s.direction
        return _Cgls(x, r, direction, gradient_square, scale, s.best.update(x, error, least_squares | (square == 0)))

    init = _Cgls(
        jnp.zeros_like(rhs.vector), rhs.vector, gradient, real_vdot(gradient, gradient), jnp.zeros_like(unit),
        Best.start(rhs),
    )  # fmt: skip
    final = loop(
        lambda s: (s.best.error > target) & ~s.best.stop, body, init, maxiter=options.bound(operator), kind="while"
    )
    return Outcome(final.best.x / unit.astype(dtype), final.best.num_iter)
