"""Krylov methods for maps without symmetry: GMRES, BiCGSTAB, and LSQR for least squares.

References:
    Saad and Schultz 1986 (GMRES); Giraud, Langou, Rozloznik and van den Eshof 2005 (Gram-Schmidt twice is enough);
    Ayachour 2003 (the residual norm without rotations). Van der Vorst 1992 (BiCGSTAB). Paige and Saunders 1982 (LSQR).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsolve._loop import loop, run_if_any
from jaxsolve.linear_solve._differentiable import Outcome, RightHandSide, differentiable_solve
from jaxsolve.linear_solve._krylov_common import Best, KrylovOptions, krylov_options, length, safe_divide
from jaxsolve.linear_solve._operators import Operator, check_options
from jaxsolve.linear_solve._preconditioners import preconditioner_on_vectors

__all__ = ["gmres_kernel", "least_squares_if", "solve_bicgstab", "solve_gmres", "solve_lsqr"]

PyTree = Any


def solve_gmres(
    matvec: Callable | jax.Array,
    b: PyTree,
    ridge: Any = None,
    init: PyTree = None,
    tol: Any = 1e-5,
    *,
    atol: Any = 0.0,
    maxiter: Any = None,
    restart: int = 40,
    preconditioner: Any = None,
    M: Any = None,
    solve_method: str = "batched",
    info: bool = False,
) -> Any:
    """Solve any square system by restarted GMRES.

    Args:
        matvec: linear map from pytrees like ``b`` to pytrees with the same leaf shapes, or a dense matrix.
        b: pytree of floating point arrays.
        ridge: non-negative multiple of the identity to add, a scalar.
        init: starting point like ``b``; 0 by default.
        tol: relative tolerance on the residual; ``None`` means 10 spacings of the working dtype, which ``solve`` asks
            for when it is given this function.
        atol: absolute tolerance on the residual.
        maxiter: bound on the number of cycles of ``restart`` iterations; ``10 n`` iterations by default.
        restart: iterations after which the space is built anew; it takes ``restart`` vectors of memory.
        preconditioner: map that approximates the inverse, applied from the right; callable on pytrees or matrix.
        M: another name for ``preconditioner``.
        solve_method: ``"batched"`` or ``"incremental"``, which elsewhere are two ways to the same result. There is one
            way here, which ends a cycle as soon as it is accurate enough.
        info: return ``(x, SolveInfo)``.

    Returns:
        The iterate with the smallest residual, like ``b``. It ends when a cycle no longer reduces the residual.

    Raises:
        ValueError: the map is not square, or an option is out of range.
        TypeError: ``b`` is not floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.linear_solve import solve_gmres
        >>> x = solve_gmres(jnp.array([[0.0, -1.0], [1.0, 0.0]]), jnp.array([2.0, 3.0]))
        >>> [round(entry, 4) for entry in x.tolist()]
        [3.0, -2.0]
    """
    options = krylov_options(tol, atol, maxiter, preconditioner, M)
    check_options(restart=restart)
    if solve_method not in ("batched", "incremental"):
        raise ValueError(f"solve_method must be 'batched' or 'incremental', got {solve_method!r}.")
    kernel = partial(gmres_kernel, options=options, restart=restart)
    return differentiable_solve(kernel, matvec, b, ridge=ridge, init=init, info=info)


class _Arnoldi(NamedTuple):
    count: jax.Array
    basis: jax.Array  # (m + 1, n), orthonormal rows
    hessenberg: jax.Array  # (m, m + 1): row j has the coefficients of A basis[j]
    left_null: jax.Array  # (m + 1,): annihilates the Hessenberg matrix from the left
    error: jax.Array
    exhausted: jax.Array


def gmres_kernel(operator: Operator, rhs: RightHandSide, *, options: KrylovOptions, restart: int = 40) -> Outcome:
    """Restarted GMRES from 0, preconditioned from the right."""
    precondition = preconditioner_on_vectors(options.preconditioner, operator)
    target = options.target(operator, rhs)
    size, dtype = operator.size, rhs.vector.dtype
    width = min(restart, size)
    cycles = max(1, -(-10 * size // width)) if options.maxiter is None else options.maxiter

    def expand(s: _Arnoldi) -> _Arnoldi:
        w = operator.matvec(precondition(s.basis[s.count]))
        size_of_image = length(w)
        # Rows of the basis that are not filled yet are 0 and take no part.
        first = jnp.conj(s.basis) @ w
        w = w - first @ s.basis
        second = jnp.conj(s.basis) @ w
        w = w - second @ s.basis
        coefficients = first + second
        rest = length(w)
        exhausted = rest <= 10 * operator.eps * size_of_image
        rest = jnp.where(exhausted, jnp.zeros_like(rest), rest)
        w = safe_divide(w, rest.astype(dtype))
        # The row vector u with u H = 0 gives the residual norm |u_0| beta / |u| of the least-squares problem in H.
        link = -safe_divide(s.left_null @ coefficients, rest.astype(dtype))
        left_null = s.left_null.at[s.count + 1].set(link)
        return _Arnoldi(
            s.count + 1,
            s.basis.at[s.count + 1].set(w),
            s.hessenberg.at[s.count].set(coefficients.at[s.count + 1].set(rest.astype(dtype))),
            left_null,
            s.error * jnp.linalg.norm(s.left_null) / jnp.linalg.norm(left_null),
            exhausted | ~jnp.isfinite(size_of_image),
        )

    def cycle(state):
        r, best = state
        empty = _Arnoldi(
            jnp.zeros((), jnp.int32),
            jnp.zeros((width + 1, size), dtype).at[0].set(r / best.error.astype(dtype)),
            jnp.zeros((width, width + 1), dtype),
            jnp.zeros((width + 1,), dtype).at[0].set(1),
            best.error,
            jnp.asarray(False),
        )
        space = loop(lambda s: (s.error > target) & ~s.exhausted, expand, empty, maxiter=width, kind="while")
        # Singular values, so that a singular map (or the empty columns after an early end) does no harm.
        left, values, right = jnp.linalg.svd(space.hessenberg.T, full_matrices=False)
        keep = values > 10 * operator.eps * jnp.max(values)
        weights = safe_divide(jnp.where(keep, best.error, 0), values).astype(dtype) * jnp.conj(left[0])
        y = right.conj().T @ weights
        x = best.x + precondition(y @ space.basis[:-1])
        r_new = rhs.vector - operator.matvec(x)
        error = jnp.linalg.norm(r_new)
        updated = best.update(x, error, error > 0.99 * best.error)
        r = jnp.where(error < best.error, r_new, r)
        return r, updated._replace(num_iter=best.num_iter + space.count)

    init = (rhs.vector, Best.start(rhs))
    final = loop(lambda s: (s[1].error > target) & ~s[1].stop, cycle, init, maxiter=cycles, kind="while")
    return final[1].outcome()


def solve_bicgstab(
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
    """Solve any square system by the stabilized bi-conjugate gradient method, in memory for a few vectors.

    Args:
        matvec: linear map from pytrees like ``b`` to pytrees with the same leaf shapes, or a dense matrix.
        b: pytree of floating point arrays.
        ridge: non-negative multiple of the identity to add, a scalar.
        init: starting point like ``b``; 0 by default.
        tol: relative tolerance on the residual; by default 10 spacings of the working dtype.
        atol: absolute tolerance on the residual.
        maxiter: bound on the iterations, of two products each; ``10 n`` by default.
        preconditioner: map that approximates the inverse, applied from the right; callable on pytrees or matrix.
        M: another name for ``preconditioner``.
        info: return ``(x, SolveInfo)``.

    Returns:
        The iterate with the smallest residual, like ``b``. The method may break down (it does for skew-symmetric maps):
        the residual tells.

    Raises:
        ValueError: the map is not square, or an option is out of range.
        TypeError: ``b`` is not floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.linear_solve import solve_bicgstab
        >>> x = solve_bicgstab(jnp.array([[2.0, 1.0], [0.0, 1.0]]), jnp.array([3.0, 1.0]))
        >>> [round(entry, 4) for entry in x.tolist()]
        [1.0, 1.0]
    """
    options = krylov_options(tol, atol, maxiter, preconditioner, M)
    return differentiable_solve(
        partial(_bicgstab_kernel, options=options), matvec, b, ridge=ridge, init=init, info=info
    )


class _Bicgstab(NamedTuple):
    x: jax.Array
    r: jax.Array
    shadow: jax.Array
    direction: jax.Array
    rho: jax.Array
    fresh: jax.Array  # whether this iteration starts from the residual alone
    scale: jax.Array  # largest |A p| / |p| seen
    best: Best


def _bicgstab_kernel(operator: Operator, rhs: RightHandSide, *, options: KrylovOptions) -> Outcome:
    precondition = preconditioner_on_vectors(options.preconditioner, operator)
    target = options.target(operator, rhs)

    def body(s: _Bicgstab) -> _Bicgstab:
        shadow = jnp.where(s.fresh, s.r, s.shadow)
        direction = jnp.where(s.fresh, s.r, s.direction)
        rho = jnp.where(s.fresh, jnp.vdot(s.r, s.r), s.rho)
        bent = precondition(direction)
        v = operator.matvec(bent)
        alpha = safe_divide(rho, jnp.vdot(shadow, v))
        half = s.r - alpha * v
        bent_half = precondition(half)
        t = operator.matvec(bent_half)
        unit = length(t).astype(t.dtype)
        omega = safe_divide(jnp.vdot(safe_divide(t, unit), half), unit)
        x = s.x + alpha * bent + omega * bent_half
        r = half - omega * t
        error = jnp.linalg.norm(r)
        # An iterate that is very long, since the map is singular, say, has another residual than the recursion says.
        scale = jnp.maximum(s.scale, safe_divide(length(v), length(bent)))
        rounding = operator.eps * scale * length(x)
        rounding = jnp.where(error > operator.eps**0.5 * rhs.norm, 100 * rounding, rounding)
        rho_new = jnp.vdot(shadow, r)
        beta = safe_divide(rho_new * alpha, rho * omega)
        # The shadow residual has become orthogonal to the residual, or a step has no length: start over from here.
        tiny = operator.eps * jnp.linalg.norm(shadow) * error
        stuck = (jnp.abs(rho_new) <= tiny) | (alpha == 0) | (omega == 0)
        stop = (stuck & s.fresh & (error >= s.best.error)) | (error <= rounding)
        best = s.best.update(x, jnp.maximum(error, rounding), stop)
        return _Bicgstab(x, r, shadow, r + beta * (direction - omega * v), rho_new, stuck, scale, best)

    r = rhs.vector
    best = Best.start(rhs)
    none = jnp.zeros_like(best.error)
    init = _Bicgstab(jnp.zeros_like(r), r, r, r, jnp.vdot(r, r), jnp.asarray(True), none, best)
    final = loop(
        lambda s: (s.best.error > target) & ~s.best.stop, body, init, maxiter=options.bound(operator), kind="while"
    )
    return final.best.outcome()


def solve_lsqr(
    matvec: Callable | jax.Array,
    b: PyTree,
    ridge: Any = None,
    init: PyTree = None,
    *,
    tol: Any = None,
    atol: Any = 0.0,
    maxiter: Any = None,
    info: bool = False,
) -> Any:
    """Least squares for any square map, singular or not, by LSQR; it uses the transpose of the map.

    Args:
        matvec: linear map from pytrees like ``b`` to pytrees with the same leaf shapes, or a dense matrix.
        b: pytree of floating point arrays.
        ridge: non-negative multiple of the identity to add to the map itself (``solve_normal_cg`` has Tikhonov's).
        init: starting point like ``b``; 0 by default.
        tol: relative tolerance on the residual; by default 10 spacings of the working dtype. The iterations end at a
            least-squares solution as well.
        atol: absolute tolerance on the residual.
        maxiter: bound on the iterations; ``20 n`` by default.
        info: return ``(x, SolveInfo)``.

    Returns:
        The solution, like ``b``; if the map is singular, the least-squares solution of minimal norm.

    Raises:
        ValueError: the map is not square, or an option is out of range.
        TypeError: ``b`` is not floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.linear_solve import solve_lsqr
        >>> x = solve_lsqr(jnp.ones((2, 2)), jnp.array([1.0, 3.0]))
        >>> [round(entry, 4) for entry in x.tolist()]
        [1.0, 1.0]
    """
    options = krylov_options(tol, atol, maxiter, None, None)
    return differentiable_solve(partial(_lsqr_kernel, options=options), matvec, b, ridge=ridge, init=init, info=info)


class _Lsqr(NamedTuple):
    u: jax.Array  # bidiagonalization: unit vectors u, v and the entry alpha
    v: jax.Array
    alpha: jax.Array
    direction: jax.Array
    phi_bar: jax.Array  # norm of the residual
    rho_bar: jax.Array
    frobenius: jax.Array  # norm of the bidiagonal matrix
    best: Best


def least_squares_if(
    condition: Any, operator: Operator, rhs: RightHandSide, outcome: Outcome, *, adjoint: Callable | None = None
) -> Outcome:
    """The result of LSQR where ``condition`` holds and a method failed by far (residual above the root of rounding).

    Args:
        condition: boolean scalar.
        operator: the map.
        rhs: the right-hand side.
        outcome: what the method returned, with its residual norm.
        adjoint: the product with the conjugate transpose if it is known.
    """
    failed = condition & (outcome.error > jnp.sqrt(jnp.asarray(operator.eps).astype(rhs.norm.dtype)) * rhs.norm)

    def again(state):
        found = _lsqr_kernel(operator, rhs, options=KrylovOptions(), adjoint=adjoint)
        return found.x, state[1] + found.num_iter

    x, num_iter = run_if_any(failed, again, (outcome.x, outcome.num_iter))
    return Outcome(x, num_iter)


def _lsqr_kernel(
    operator: Operator, rhs: RightHandSide, *, options: KrylovOptions, adjoint: Callable | None = None
) -> Outcome:
    adjoint, dtype = adjoint or operator.adjoint(), rhs.vector.dtype
    target = options.target(operator, rhs)

    def normalize(vector):
        size = length(vector)
        return safe_divide(vector, size.astype(dtype)), size

    def body(s: _Lsqr) -> _Lsqr:
        u, beta = normalize(operator.matvec(s.v) - s.alpha.astype(dtype) * s.u)
        v, alpha = normalize(adjoint(u) - beta.astype(dtype) * s.v)
        rho = jnp.hypot(s.rho_bar, beta)
        cos, sin = safe_divide(s.rho_bar, rho), safe_divide(beta, rho)
        x = s.best.x + safe_divide(cos * s.phi_bar, rho).astype(dtype) * s.direction
        direction = v - safe_divide(sin * alpha, rho).astype(dtype) * s.direction
        phi_bar = sin * s.phi_bar
        frobenius = jnp.hypot(s.frobenius, jnp.hypot(beta, alpha))
        # |A* r| = phi_bar alpha |cos| (Paige and Saunders, section 5.1).
        least_squares = alpha * jnp.abs(cos) <= 10 * operator.eps * frobenius
        best = s.best.update(x, phi_bar, least_squares, always=True)
        return _Lsqr(u, v, alpha, direction, phi_bar, -cos * alpha, frobenius, best)

    u, beta = normalize(rhs.vector)
    v, alpha = normalize(adjoint(u))
    start = Best.start(rhs)._replace(stop=alpha == 0)
    init = _Lsqr(u, v, alpha, v, beta, alpha, alpha, start)
    final = loop(
        lambda s: (s.best.error > target) & ~s.best.stop, body, init, maxiter=options.bound(operator, 20), kind="while"
    )
    return final.best.outcome()
