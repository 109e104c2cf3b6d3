"""``solve``: one entry point that chooses the method by structure and size, or takes the caller's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxsolve._types import Structure
from jaxsolve.linear_solve import _direct, _krylov_general, _krylov_symmetric, _neumann, _refinement
from jaxsolve.linear_solve._differentiable import Kernel, Outcome, differentiable_solve
from jaxsolve.linear_solve._krylov_common import krylov_options
from jaxsolve.linear_solve._operators import Codec, is_matrix, make_operator

__all__ = ["DIRECT_MAX_SIZE", "check_method", "solve"]

PyTree = Any
_STRUCTURES = ("general", "symmetric", "psd")

# Where materializing and factorizing stop to be worth it. Milliseconds a solve (float32, two busy CPU cores, Hessian
# of a logistic loss plus a non-symmetric term for "general", its features spread over two decades), direct | iterative:
#
#     unknowns        128           256            512             1024
#     psd          0.5 | 0.3     2.6 | 1.3       28 | 7        614 | 66
#     symmetric    0.6 | 0.4     2.4 | 0.9       24 | 5        366 | 113
#     general      0.8 | 1.7     2.6 | 3.3       66 | 75      2100 | 273
#
# Up to 512 the direct method takes at most some tens of milliseconds, whatever the condition number, and sees
# singularity; an iterative one is ahead by little there and only for benign spectra. Beyond, n^3 leaves it no chance.
DIRECT_MAX_SIZE = 512

_DIRECT = (_direct.solve_cholesky, _direct.solve_lu, _direct.solve_qr, _direct.solve_inv, _direct.solve_lstsq)
_ITERATIVE = (
    _krylov_symmetric.solve_cg,
    _krylov_symmetric.solve_minres,
    _krylov_symmetric.solve_normal_cg,
    _krylov_general.solve_gmres,
    _krylov_general.solve_bicgstab,
    _krylov_general.solve_lsqr,
)


def solve(
    matvec: Callable | jax.Array,
    b: PyTree,
    method: Any = None,
    *,
    structure: Structure = "general",
    ridge: Any = None,
    init: PyTree = None,
    tol: Any = None,
    maxiter: Any = None,
    info: bool = False,
    **options: Any,
) -> Any:
    """Solve the linear system ``(A + ridge I) x = b``, differentiably.

    Derivatives of any order and in both modes, with respect to ``b``, ``ridge`` and every array that ``matvec``
    captures, are solves by the same method. With ``method=None`` the method is

    ===============  ======================================  ==========================
    ``structure``    up to ``DIRECT_MAX_SIZE`` unknowns      more
    ===============  ======================================  ==========================
    ``"psd"``        Cholesky                                conjugate gradient
    ``"symmetric"``  LU                                      MINRES
    ``"general"``    LU                                      GMRES
    ===============  ======================================  ==========================

    A singular or nearly singular system gets its least-squares solution of minimal norm: a direct method falls back on
    singular values, an iterative one that fails (``maxiter`` not being given) on LSQR.

    Args:
        matvec: linear map from pytrees like ``b`` to pytrees with the same leaf shapes, perhaps in other containers; or
            a dense matrix of shape ``(n, n)``, with ``b`` of shape ``(n,)`` or, for k right-hand sides, ``(n, k)``.
        b: pytree of floating point arrays.
        method: ``None``; one of this package's ``solve_*`` or a ``functools.partial`` of it; any other callable
            ``method(matvec, b) -> x`` on pytrees, which may return a tuple that begins with ``x``; or a lineax solver.
        structure: what is known of ``A``: ``"psd"`` (symmetric positive semi-definite), ``"symmetric"``, or
            ``"general"``. A claimed symmetry is used, not checked; a symmetric matrix that is not semi-definite as
            claimed is still solved right by the direct method.
        ridge: non-negative multiple of the identity to add, a scalar.
        init: starting point like ``b`` for iterative methods.
        tol: relative tolerance for iterative methods; by default as tight as the dtype allows (see ``solve_cg``).
        maxiter: bound on the iterations of iterative methods.
        info: return ``(x, SolveInfo)``.
        **options: further options of ``method``.

    Returns:
        The solution in the structure, shapes and dtypes of ``b``, or the pair.

    Raises:
        ValueError: an unknown ``structure``, shapes that do not fit, or a negative ``ridge``.
        TypeError: ``b`` is not floating point, or ``method`` is of no known kind.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve.linear_solve import solve
        >>> def root(a):
        ...     return solve(lambda x: {"u": a * x["u"]}, {"u": jnp.array([6.0, 2.0])}, structure="psd")["u"].sum()
        >>> float(root(2.0)), float(jax.grad(root)(2.0))
        (4.0, -2.0)
    """
    if structure not in _STRUCTURES:
        raise ValueError(f"structure must be one of {list(_STRUCTURES)}, got {structure!r}.")
    if isinstance(method, str):
        raise TypeError(f"method must be None, a callable or a lineax solver, got the string {method!r}.")
    base = _underlying(method)
    limits = {name: value for name, value in (("tol", tol), ("maxiter", maxiter)) if value is not None}
    if _is_one_of(base, _DIRECT):
        return method(matvec, b, ridge=ridge, info=info, **options)
    if _is_one_of(base, _ITERATIVE):
        if tol is None and not _binds(method, "tol"):
            limits["tol"] = None
        return method(matvec, b, ridge=ridge, init=init, info=info, **limits, **options)
    if base is _neumann.solve_neumann:
        return method(matvec, b, ridge=ridge, info=info, **options)
    if base is _refinement.solve_iterative_refinement:
        return method(_with_ridge(matvec, b, ridge), b, init=init, info=info, **limits, **options)
    if method is None:
        kernel = _automatic(matvec, b, structure, krylov_options(tol, maxiter=maxiter, **_known(options)))
    else:
        kernel = _foreign(method, structure, {**limits, **options})
    return differentiable_solve(kernel, matvec, b, ridge=ridge, init=init, symmetric=structure != "general", info=info)


def _automatic(matvec, b, structure, options) -> Kernel:
    size = matvec.shape[0] if is_matrix(matvec) else Codec(b).size
    if size <= DIRECT_MAX_SIZE:
        return _direct.direct_kernel("cholesky" if structure == "psd" else "lu", symmetric=structure != "general")
    method = {
        "psd": _krylov_symmetric.cg_kernel,
        "symmetric": _krylov_symmetric.minres_kernel,
        "general": _krylov_general.gmres_kernel,
    }[structure]

    def kernel(operator, rhs):
        outcome = method(operator, rhs, options=options)
        if structure == "symmetric" or options.maxiter is not None:
            return outcome  # MINRES sees to this itself; a bound on the iterations is a bound on the work
        adjoint = operator.matvec if structure == "psd" else None
        return _krylov_general.least_squares_if(jnp.asarray(True), operator, rhs, outcome, adjoint=adjoint)

    return kernel


def _known(options):
    """The options of the automatic choice, with their defaults."""
    defaults = {"atol": 0.0, "preconditioner": None, "M": None}
    unknown = set(options) - set(defaults)
    if unknown:
        raise TypeError(f"solve without a method has no option {sorted(unknown)}; it takes {sorted(defaults)}.")
    return {**defaults, **options}


def _foreign(method, structure, options) -> Kernel:
    """Somebody else's solver: a lineax object, or a callable on pytrees."""
    if type(method).__module__.partition(".")[0] == "lineax":
        return functools.partial(_lineax_kernel, solver=method, structure=structure, options=options)
    if not callable(method):
        raise TypeError(f"method must be None, a callable or a lineax solver, got {type(method).__name__}.")
    return lambda operator, rhs: Outcome(
        _refinement.solve_with_callable(method, operator, rhs.vector, **options), num_iter=-1
    )


def _lineax_kernel(operator, rhs, *, solver, structure, options):
    import lineax

    tags = {
        "psd": (lineax.symmetric_tag, lineax.positive_semidefinite_tag),
        "symmetric": (lineax.symmetric_tag,),
        "general": (),
    }[structure]
    example = jax.ShapeDtypeStruct((operator.size,), operator.dtype)
    linear_map = lineax.FunctionLinearOperator(operator.matvec, example, tags)
    found = lineax.linear_solve(linear_map, rhs.vector, solver, throw=False, **options)
    num_iter = found.stats.get("num_steps", -1) if isinstance(found.stats, dict) else -1
    return Outcome(found.value, -1 if num_iter is None else num_iter)


def _with_ridge(matvec, b, ridge):
    return matvec if ridge is None else make_operator(matvec, Codec(b), ridge).tree_matvec


def _underlying(method):
    while isinstance(method, functools.partial):
        method = method.func
    return method


def _binds(method, name):
    """Whether a chain of partials gives the keyword ``name``."""
    while isinstance(method, functools.partial):
        if name in method.keywords:
            return True
        method = method.func
    return False


def _is_one_of(function, functions):
    return any(function is candidate for candidate in functions)


def check_method(name: str, value: Any) -> None:
    """Raise ``TypeError`` unless ``value`` is a linear solver or ``None``."""
    if value is not None and not callable(value) and type(value).__module__.partition(".")[0] != "lineax":
        raise TypeError(f"{name} must be a linear solver solve(matvec, b) or None, got {value!r}.")
