"""Krylov methods for symmetric maps: conjugate gradient, MINRES, and conjugate gradient on the normal equations.

References:
    Hestenes and Stiefel 1952 (CG; section 10 for the normal equations, "CGLS"). Paige and Saunders 1975 (MINRES).
    Elman, Silvester and Wathen 2014, *Finite Elements and Fast Iterative Solvers*, algorithm 4.1 (MINRES with a
    preconditioner).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve.linear_solve._differentiable import Outcome, describe, enter
from jaxsolve.linear_solve._krylov import Best, KrylovOptions, System, iterate, krylov_solve, order_of, safe_divide
from jaxsolve.linear_solve._krylov_general import or_least_squares
from jaxsolve.linear_solve._operators import Codec, LinearMap, check_sizes, is_matrix, make_operator, on_vectors

__all__ = ["cg", "minres", "solve_cg", "solve_minres", "solve_normal_cg"]

PyTree = Any


def solve_cg(
    matvec: LinearMap, b: PyTree, ridge: Any = None, init: PyTree = None, *, info: bool = False, **options: Any
) -> Any:
    """Solve a symmetric positive semi-definite system by the conjugate gradient method.

    Args:
        matvec: symmetric linear map from pytrees like ``b`` to pytrees with the same leaf shapes, or a dense matrix.
        b: pytree of floating point arrays.
        ridge: non-negative multiple of the identity to add, a scalar.
        init: starting point like ``b``; 0 by default. It changes the cost, not the solution, unless ``A`` is singular.
        info: return ``(x, SolveInfo)``.
        **options: ``tol``, ``atol``, ``maxiter``, ``preconditioner`` (or ``M``), ``on_failure``: see
            :class:`KrylovOptions`.

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
        >>> [round(entry, 5) for entry in x.tolist()], int(info.num_iter)
        ([1.0, 3.0], 1)
    """
    return krylov_solve("solve_cg", cg, options, matvec, b, symmetric=True, ridge=ridge, init=init, info=info)


class _CG(NamedTuple):
    x: jax.Array
    r: jax.Array
    direction: jax.Array
    r_dot_z: jax.Array
    best: Best


def cg(system: System) -> Best:
    """Preconditioned conjugate gradient."""

    def body(s: _CG) -> _CG:
        product = system.matvec(s.direction)
        curvature = s.direction @ product
        # Below rounding of the product with a map of the order of 1: a null direction, which ends the iterations.
        null = jnp.abs(curvature) <= system.eps * (s.direction @ s.direction)
        step = s.r_dot_z / jnp.where(null, jnp.inf, curvature)
        x, r = s.x + step * s.direction, s.r - step * product
        z = system.precondition(r)
        r_dot_z = r @ z
        direction = z + safe_divide(r_dot_z, s.r_dot_z) * s.direction
        return _CG(x, r, direction, r_dot_z, s.best.update(x, jnp.linalg.norm(r), null))

    z = system.precondition(system.b)
    return iterate(system, body, _CG(jnp.zeros_like(z), system.b, z, system.b @ z, Best.start(system.b)))


def solve_minres(
    matvec: LinearMap, b: PyTree, ridge: Any = None, init: PyTree = None, *, info: bool = False, **options: Any
) -> Any:
    """Solve a symmetric, possibly indefinite or singular, system by MINRES.

    Args:
        matvec: symmetric linear map from pytrees like ``b`` to pytrees with the same leaf shapes, or a dense matrix.
        b: pytree of floating point arrays.
        ridge: non-negative multiple of the identity to add, a scalar.
        init: starting point like ``b``; 0 by default.
        info: return ``(x, SolveInfo)``.
        **options: ``tol``, ``atol``, ``maxiter``, ``preconditioner`` (or ``M``), ``on_failure``: see
            :class:`KrylovOptions`.

    Returns:
        The solution, like ``b``. For a singular system it is the least-squares solution of minimal norm. MINRES finds
        it if the system is consistent and there is no preconditioner. Otherwise its iterates would grow without bound
        in the null space, and LSQR is used.

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
    return krylov_solve("solve_minres", minres, options, matvec, b, symmetric=True, ridge=ridge, init=init, info=info)


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


def minres(system: System) -> Best:
    """MINRES; LSQR takes over if there is no solution."""
    return or_least_squares(_minres, system)


def _minres(system: System) -> Best:
    eps, b, plain = system.eps, system.b, system.options.preconditioner is None
    least = 10 * eps * jnp.sqrt(jnp.asarray(b.shape[0]).astype(b.dtype))

    def body(s: _Minres) -> _Minres:
        z = s.z / s.gamma
        product = system.matvec(z)
        delta = z @ product
        v = product - (delta / s.gamma) * s.v - safe_divide(s.gamma, s.gamma_old) * s.v_old
        z_new = system.precondition(v)
        gamma = jnp.sqrt(jnp.maximum(z_new @ v, 0))
        size = jnp.maximum(s.size, jnp.maximum(jnp.abs(delta), gamma))
        # Below rounding of the terms that canceled in v, the space is exhausted.
        gamma = jnp.where(gamma <= 4 * eps * size, 0, gamma)

        bar = s.cos * delta - s.cos_old * s.sin * s.gamma
        diagonal = jnp.hypot(bar, gamma)
        above = s.sin * delta + s.cos_old * s.cos * s.gamma
        above_two = s.sin_old * s.gamma
        # |A r| = |r| hypot(bar, cos * gamma) (Paige and Saunders): small means least-squares solution reached, and the
        # next step would divide by this.
        exhausted = jnp.hypot(bar, s.cos * gamma) <= least * size
        cos, sin = safe_divide(bar, diagonal), safe_divide(gamma, diagonal)
        over = safe_divide(jnp.ones_like(diagonal), diagonal)
        w = over * (z - above_two * s.w_old - above * s.w)
        image = over * (product - above_two * s.image_old - above * s.image)
        x, r = s.best.x + cos * s.eta * w, s.r - cos * s.eta * image
        error = jnp.linalg.norm(r)
        if plain:
            # The images of the directions have length 1 in theory, and the residual falls. If a direction is so long
            # that its image can only be rounding errors, it is one of the null space.
            exhausted = exhausted | (jnp.linalg.norm(w) * size * least > 1) | (error > 1.01 * s.best.error)
        # A residual at the level of rounding in A x stays there: no backward stable method does better.
        settled = error <= 2 * eps * size * jnp.linalg.norm(x)
        x, r, error = (jnp.where(exhausted, old, new) for old, new in ((s.best.x, x), (s.r, r), (s.best.error, error)))
        best = s.best.update(x, error, exhausted | settled | (gamma == 0), always=True)
        return _Minres(
            v, s.v, z_new, gamma, s.gamma, -sin * s.eta, cos, s.cos, sin, s.sin, w, s.w, r, image, s.image, size, best
        )

    z = system.precondition(b)
    gamma = jnp.sqrt(jnp.maximum(z @ b, 0))
    zero, none, one = jnp.zeros_like(b), jnp.zeros_like(gamma), jnp.ones_like(gamma)
    # In the norm of a preconditioner the map has another scale, which only the iterations know.
    size = one if plain else none
    init = _Minres(b, zero, z, gamma, none, gamma, one, one, none, none, zero, zero, b, zero, zero, size, Best.start(b))
    return iterate(system, body, init)


def solve_normal_cg(
    matvec: LinearMap, b: PyTree, ridge: Any = None, init: PyTree = None, *, info: bool = False, **options: Any
) -> Any:
    r"""Least squares for any map, square or not, by conjugate gradient on the normal equations.

    It solves :math:`(A^* A + \rho I) x = A^* b`: the ridge :math:`\rho` is added to the *normal* matrix, which is
    Tikhonov regularization. The number of iterations depends on the square of the condition number; ``solve_gmres`` or
    a direct method is the better choice for most square maps that are not singular.

    Args:
        matvec: linear map from pytrees like ``init`` to pytrees with the leaf shapes of ``b``, or a dense matrix of
            shape ``(m, n)``.
        b: pytree of floating point arrays.
        ridge: non-negative multiple of the identity to add to the normal matrix, a scalar.
        init: starting point. It gives the structure of the solution, which is that of ``b`` by default (for a dense
            matrix, shape ``(n,)``).
        info: return ``(x, SolveInfo)``. With ``ridge`` the residual is that of the normal equations.
        **options: ``tol``, ``atol``, ``maxiter``, ``preconditioner`` (or ``M``), ``on_failure``: see
            :class:`KrylovOptions`. They refer to the normal equations, so the preconditioner must approximate the
            inverse of the *normal* matrix.

    Returns:
        The least-squares solution, like ``init``; of minimal norm if the columns of ``A`` are linearly dependent.

    Raises:
        ValueError: shapes do not fit, or an option is out of range.
        TypeError: ``b`` is not floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.linear_solve import solve_normal_cg
        >>> X = jnp.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
        >>> x = solve_normal_cg(lambda w: X @ w, jnp.array([1.0, 2.0, 2.0]), init=jnp.zeros(2))
        >>> [round(entry, 4) for entry in x.tolist()]
        [1.0, 1.0]
    """
    checked = KrylovOptions.of("solve_normal_cg", **options)
    check_sizes(ridge=ridge)
    return enter(_solve_normal, matvec, b, init, info, ridge, checked)


def _solve_normal(matvec, b, init, info, ridge, options):
    if init is None and is_matrix(matvec) and matvec.shape[0] != matvec.shape[1]:
        init = jnp.zeros(matvec.shape[1], jnp.result_type(b))
    image = Codec(b, matvec=matvec)
    domain = image if init is None else Codec(init, "init", matvec)
    matrix, rhs = on_vectors(matvec, domain, image), image.ravel(b)
    # Squares of the map's scale occur below: it is divided out.
    size = lax.stop_gradient(order_of(matrix.matvec, domain.example))
    if ridge is not None:
        ridge = jnp.asarray(ridge).astype(domain.dtype)
        size = jnp.maximum(size, jnp.sqrt(lax.stop_gradient(ridge)))
        ridge = ridge / size / size
    if options.preconditioner is not None:
        options = options._replace(preconditioner=make_operator(options.preconditioner, domain).matvec)
    init = None if init is None else size * domain.ravel(init)

    def normal(vector):
        return matrix.rmatvec(matrix.matvec(vector) / size) / size

    rest = {"symmetric": True, "ridge": ridge, "init": init, "info": True}
    x, about = krylov_solve("solve_normal_cg", cg, options._asdict(), normal, matrix.rmatvec(rhs) / size, **rest)
    x = x / size
    if not info:
        return domain.unravel(x)
    if ridge is not None:
        return domain.unravel(x), about._replace(residual_norm=size * about.residual_norm)
    return domain.unravel(x), describe(Outcome(lax.stop_gradient(x), about.num_iter), rhs, matrix.matvec)
