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
from jaxsolve.linear_solve._krylov import Best, System, correct, iterate, krylov_solve, safe_divide
from jaxsolve.linear_solve._operators import LinearMap, check_counts

__all__ = ["bicgstab", "gmres", "lsqr", "or_least_squares", "solve_bicgstab", "solve_gmres", "solve_lsqr"]

PyTree = Any


def solve_gmres(
    matvec: LinearMap,
    b: PyTree,
    ridge: Any = None,
    init: PyTree = None,
    tol: Any = 1e-5,
    *,
    restart: int = 40,
    solve_method: str = "batched",
    info: bool = False,
    **options: Any,
) -> Any:
    """Solve any square system by restarted GMRES.

    Args:
        matvec: linear map from pytrees like ``b`` to pytrees with the same leaf shapes, or a dense matrix.
        b: pytree of floating point arrays.
        ridge: non-negative multiple of the identity to add, a scalar.
        init: starting point like ``b``; 0 by default.
        tol: relative tolerance on the residual; ``None`` means 10 spacings of the working dtype, as ``solve`` does when
            it calls this function.
        restart: number of iterations after which the Krylov space is built anew; memory for ``restart`` vectors is
            needed.
        solve_method: ``"batched"`` or ``"incremental"``, accepted for compatibility. Both do the same here: a cycle
            ends as soon as it is accurate enough.
        info: return ``(x, SolveInfo)``.
        **options: ``tol``, ``atol``, ``maxiter``, ``preconditioner`` (or ``M``), ``on_failure``: see
            :class:`KrylovOptions`. ``maxiter`` bounds the number of cycles of ``restart`` iterations.

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
    check_counts(restart=restart)
    if solve_method not in ("batched", "incremental"):
        raise ValueError(f"solve_method must be 'batched' or 'incremental', got {solve_method!r}.")
    method, options = partial(gmres, restart=restart), {"tol": tol, **options}
    return krylov_solve("solve_gmres", method, options, matvec, b, ridge=ridge, init=init, info=info)


class _Arnoldi(NamedTuple):
    count: jax.Array
    basis: jax.Array  # (m + 1, n), orthonormal rows
    hessenberg: jax.Array  # (m, m + 1): row j has the coefficients of A basis[j]
    left_null: jax.Array  # (m + 1,): annihilates the Hessenberg matrix from the left
    error: jax.Array
    exhausted: jax.Array


def gmres(system: System, restart: int = 40) -> Best:
    """GMRES, preconditioned from the right; what it finds in a space of ``restart`` dimensions is a correction."""
    eps, dtype, size = system.eps, system.b.dtype, system.b.shape[0]
    width = min(restart, size) if isinstance(size, int) else restart

    def expand(s: _Arnoldi) -> _Arnoldi:
        w = system.matvec(system.precondition(s.basis[s.count]))
        size_of_image = jnp.linalg.norm(w)
        # Rows of the basis that are not filled yet are 0 and take no part.
        first = s.basis @ w
        w = w - first @ s.basis
        second = s.basis @ w
        w = w - second @ s.basis
        coefficients, rest = first + second, jnp.linalg.norm(w)
        exhausted = rest <= 10 * eps * size_of_image
        rest = jnp.where(exhausted, 0, rest)
        # The row vector u with u H = 0 gives the residual norm |u_0| beta / |u| of the least-squares problem in H.
        left_null = s.left_null.at[s.count + 1].set(-safe_divide(s.left_null @ coefficients, rest))
        return _Arnoldi(
            s.count + 1,
            s.basis.at[s.count + 1].set(safe_divide(w, rest)),
            s.hessenberg.at[s.count].set(coefficients.at[s.count + 1].set(rest)),
            left_null,
            s.error * jnp.linalg.norm(s.left_null) / jnp.linalg.norm(left_null),
            exhausted | ~jnp.isfinite(size_of_image),
        )

    def least_squares(unit: jax.Array, error: jax.Array) -> tuple[jax.Array, jax.Array]:
        zero = jnp.zeros_like(error)
        empty = _Arnoldi(
            jnp.zeros((), jnp.int32),
            jnp.zeros((width + 1, size), dtype).at[0].set(unit),
            jnp.broadcast_to(zero, (width, width + 1)),
            jnp.broadcast_to(zero, (width + 1,)).at[0].set(1),
            error,
            jnp.zeros_like(zero, jnp.bool_),
        )
        space = loop(lambda s: (s.error > system.target) & ~s.exhausted, expand, empty, maxiter=width, kind="while")
        # Singular values, so that a singular map (or the empty columns after an early end) does no harm.
        left, values, right = jnp.linalg.svd(space.hessenberg.T, full_matrices=False)
        keep = values > 10 * eps * jnp.max(values)
        y = safe_divide(keep.astype(dtype), values) * left[0] @ right
        return system.precondition(y @ space.basis[:-1]), space.count

    return correct(system, least_squares, shrinkage=0.99, maxiter=-(-10 * size // width))


def solve_bicgstab(
    matvec: LinearMap, b: PyTree, ridge: Any = None, init: PyTree = None, *, info: bool = False, **options: Any
) -> Any:
    """Solve any square system by the stabilized bi-conjugate gradient method, in memory for a few vectors.

    Args:
        matvec: linear map from pytrees like ``b`` to pytrees with the same leaf shapes, or a dense matrix.
        b: pytree of floating point arrays.
        ridge: non-negative multiple of the identity to add, a scalar.
        init: starting point like ``b``; 0 by default.
        info: return ``(x, SolveInfo)``.
        **options: ``tol``, ``atol``, ``maxiter``, ``preconditioner`` (or ``M``), ``on_failure``: see
            :class:`KrylovOptions`.

    Returns:
        The iterate with the smallest residual, like ``b``. The method may break down (it does for skew-symmetric maps);
        the residual shows whether it did.

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
    return krylov_solve("solve_bicgstab", bicgstab, options, matvec, b, ridge=ridge, init=init, info=info)


class _Bicgstab(NamedTuple):
    x: jax.Array
    r: jax.Array
    shadow: jax.Array
    direction: jax.Array
    rho: jax.Array
    fresh: jax.Array  # whether this iteration starts from the residual alone
    scale: jax.Array  # largest |A p| / |p| seen
    best: Best


def bicgstab(system: System) -> Best:
    """Stabilized bi-conjugate gradient, preconditioned from the right."""
    eps, norm = system.eps, jnp.linalg.norm

    def body(s: _Bicgstab) -> _Bicgstab:
        shadow = jnp.where(s.fresh, s.r, s.shadow)
        direction = jnp.where(s.fresh, s.r, s.direction)
        rho = jnp.where(s.fresh, s.r @ s.r, s.rho)
        bent = system.precondition(direction)
        v = system.matvec(bent)
        alpha = safe_divide(rho, shadow @ v)
        half = s.r - alpha * v
        bent_half = system.precondition(half)
        t = system.matvec(bent_half)
        omega = safe_divide(t @ half, t @ t)
        x = s.x + alpha * bent + omega * bent_half
        r = half - omega * t
        error = norm(r)
        # An iterate that is very long, since the map is singular, say, has another residual than the recursion says.
        scale = jnp.maximum(s.scale, safe_divide(norm(v), norm(bent)))
        rounding = eps * scale * norm(x)
        rounding = jnp.where(error > system.failure, 100 * rounding, rounding)
        rho_new = shadow @ r
        beta = safe_divide(rho_new * alpha, rho * omega)
        # The shadow residual has become orthogonal to the residual, or a step has no length: start over from here.
        stuck = (jnp.abs(rho_new) <= eps * norm(shadow) * error) | (alpha == 0) | (omega == 0)
        stop = (stuck & s.fresh & (error >= s.best.error)) | (error <= rounding)
        best = s.best.update(x, jnp.maximum(error, rounding), stop)
        return _Bicgstab(x, r, shadow, r + beta * (direction - omega * v), rho_new, stuck, scale, best)

    r, best = system.b, Best.start(system.b)
    init = _Bicgstab(jnp.zeros_like(r), r, r, r, r @ r, ~best.stop, jnp.zeros_like(best.error), best)
    return iterate(system, body, init)


def solve_lsqr(
    matvec: LinearMap, b: PyTree, ridge: Any = None, init: PyTree = None, *, info: bool = False, **options: Any
) -> Any:
    """Least squares for any square map, singular or not, by LSQR; it uses the transpose of the map.

    Args:
        matvec: linear map from pytrees like ``b`` to pytrees with the same leaf shapes, or a dense matrix.
        b: pytree of floating point arrays.
        ridge: non-negative multiple of the identity to add to the map itself (``solve_normal_cg`` adds it to the normal
            matrix).
        init: starting point like ``b``; 0 by default.
        info: return ``(x, SolveInfo)``.
        **options: ``tol``, ``atol``, ``maxiter``, ``preconditioner`` (or ``M``), ``on_failure``: see
            :class:`KrylovOptions`.

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
    return krylov_solve("solve_lsqr", lsqr, options, matvec, b, ridge=ridge, init=init, info=info)


class _Lsqr(NamedTuple):
    u: jax.Array  # bidiagonalization: unit vectors u, v and the entry alpha
    v: jax.Array
    alpha: jax.Array
    direction: jax.Array
    phi_bar: jax.Array  # norm of the residual
    rho_bar: jax.Array
    frobenius: jax.Array  # norm of the bidiagonal matrix
    best: Best


def or_least_squares(method: Callable[[System], Best], system: System) -> Best:
    """What ``method`` finds, or LSQR where that failed: it broke down, or nobody bounded its iterations."""
    best = method(system)
    failed = best.error > system.failure
    if system.options.maxiter is not None:
        failed = failed & best.stop

    def again(best):
        found = lsqr(system)
        return found._replace(num_iter=found.num_iter + best.num_iter)

    return run_if_any(failed, again, best)


def lsqr(system: System) -> Best:
    """LSQR; the preconditioner has no part in it."""

    def normalize(vector):
        length = jnp.linalg.norm(vector)
        return safe_divide(vector, length), length

    def body(s: _Lsqr) -> _Lsqr:
        u, beta = normalize(system.matvec(s.v) - s.alpha * s.u)
        v, alpha = normalize(system.rmatvec(u) - beta * s.v)
        rho = jnp.hypot(s.rho_bar, beta)
        cos, sin = safe_divide(s.rho_bar, rho), safe_divide(beta, rho)
        x = s.best.x + safe_divide(cos * s.phi_bar, rho) * s.direction
        direction = v - safe_divide(sin * alpha, rho) * s.direction
        phi_bar = sin * s.phi_bar
        frobenius = jnp.hypot(s.frobenius, jnp.hypot(beta, alpha))
        # |A* r| = phi_bar alpha |cos| (Paige and Saunders, section 5.1).
        settled = alpha * jnp.abs(cos) <= 10 * system.eps * frobenius
        best = s.best.update(x, phi_bar, settled, always=True)._replace(least_squares=settled)
        return _Lsqr(u, v, alpha, direction, phi_bar, -cos * alpha, frobenius, best)

    u, beta = normalize(system.b)
    v, alpha = normalize(system.rmatvec(u))
    none = alpha == 0
    start = Best.start(system.b)._replace(stop=none, least_squares=none)
    return iterate(system, body, _Lsqr(u, v, alpha, v, beta, alpha, alpha, start), maxiter=20 * v.shape[0])
