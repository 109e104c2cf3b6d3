"""``solve``: one entry point that chooses the method by structure and size, or takes the caller's."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxsolve._types import PyTree, Structure
from jaxsolve.linear_solve._differentiable import differentiable_solve
from jaxsolve.linear_solve._direct import direct_kernel, solve_cholesky, solve_inv, solve_lstsq, solve_lu, solve_qr
from jaxsolve.linear_solve._krylov import Best, KrylovOptions, System, krylov_solve
from jaxsolve.linear_solve._krylov_general import gmres, or_least_squares, solve_bicgstab, solve_gmres, solve_lsqr
from jaxsolve.linear_solve._krylov_symmetric import cg, minres, solve_cg, solve_minres, solve_normal_cg
from jaxsolve.linear_solve._operators import Codec, LinearMap, is_matrix, make_operator
from jaxsolve.linear_solve._stationary import call_on_trees, solve_iterative_refinement, solve_neumann

__all__ = ["DIRECT_MAX_SIZE", "check_method", "solve"]

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

_KRYLOV = (solve_cg, solve_minres, solve_normal_cg, solve_gmres, solve_bicgstab, solve_lsqr)
_ITERATIVE = (*_KRYLOV, solve_iterative_refinement)
_OWN = (*_ITERATIVE, solve_cholesky, solve_lu, solve_qr, solve_inv, solve_lstsq, solve_neumann)


def solve(
    matvec: LinearMap,
    b: PyTree,
    method: Any = None,
    *,
    structure: Structure = "general",
    ridge: Any = None,
    init: PyTree = None,
    tol: Any = None,
    maxiter: Any = None,
    on_failure: Literal["nan", "warn", "ignore"] = "nan",
    info: bool = False,
    **options: Any,
) -> Any:
    """Solve the linear system ``(A + ridge I) x = b``; the solution is differentiable.

    It has derivatives of any order, in both modes, with respect to ``b``, ``ridge`` and every array that ``matvec``
    captures; they are computed by the same method. With ``method=None`` the method is

    ===============  ======================================  ==========================
    ``structure``    up to ``DIRECT_MAX_SIZE`` unknowns      more
    ===============  ======================================  ==========================
    ``"psd"``        Cholesky                                conjugate gradient
    ``"symmetric"``  LU                                      MINRES
    ``"general"``    LU                                      GMRES
    ===============  ======================================  ==========================

    For a singular or nearly singular system the least-squares solution of minimal norm is returned: a direct method
    then uses singular values, and an iterative method that fails uses LSQR (unless ``maxiter`` is given).

    Args:
        matvec: linear map from pytrees like ``b`` to pytrees with the same leaf shapes, perhaps in other containers; or
            a dense matrix of shape ``(n, n)``, with ``b`` of shape ``(n,)`` or, for k right-hand sides, ``(n, k)``.
        b: pytree of floating point arrays.
        method: ``None``; one of this package's ``solve_*`` or a ``functools.partial`` of it; any other callable
            ``method(matvec, b) -> x``, which gets ``matvec`` on pytrees and ``b`` as it is, and returns a pytree like
            ``b`` or a tuple that begins with one; or a lineax solver.
        structure: the structure of ``A``: ``"psd"`` (symmetric positive semi-definite), ``"symmetric"``, or
            ``"general"``. Symmetry is not checked. If a symmetric matrix is not semi-definite although ``"psd"`` is
            given, the direct method still solves the system correctly.
        ridge: non-negative multiple of the identity to add, a scalar.
        init: starting point like ``b`` for iterative methods.
        tol: relative tolerance for iterative methods; by default as tight as the dtype allows (see ``solve_cg``).
        maxiter: bound on the iterations of iterative methods.
        on_failure: the result of an iterative method of this package or of lineax if its residual stays far above
            ``tol``: ``"nan"``, or the best iterate with a warning (``"warn"``) or without (``"ignore"``); see
            :class:`KrylovOptions`. The derivatives of solvers use the default: a gradient whose linear solve has not
            converged is NaN.
        info: return ``(x, SolveInfo)``.
        **options: further options of ``method``.

    Returns:
        The solution in the structure, shapes and dtypes of ``b``, or the pair.

    Raises:
        ValueError: an unknown ``structure``, shapes that do not fit, or a negative ``ridge``.
        TypeError: ``b`` is not floating point, or ``method`` is none of the above.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve.linear_solve import solve
        >>> def root(a):
        ...     return solve(lambda x: {"u": a * x["u"]}, {"u": jnp.array([6.0, 2.0])}, structure="psd")["u"].sum()
        >>> round(float(root(2.0)), 5), round(float(jax.grad(root)(2.0)), 5)
        (4.0, -2.0)
    """
    if structure not in _STRUCTURES:
        raise ValueError(f"structure must be one of {list(_STRUCTURES)}, got {structure!r}.")
    check_method("method", method)
    base, bound = (method.func, method.keywords) if isinstance(method, partial) else (method, {})
    limits = {name: value for name, value in (("tol", tol), ("maxiter", maxiter)) if value is not None}
    if base in _OWN:
        given: dict[str, Any] = {"info": info, **options}
        if base in _ITERATIVE:
            given |= {"init": init, **limits}
            bound = {"on_failure": on_failure, **bound}
        if base in _KRYLOV:
            bound = {"tol": None, **bound}
        if ridge is not None and base is solve_iterative_refinement:
            matvec = make_operator(matvec, Codec(b, matvec=matvec), ridge).tree_matvec
        elif ridge is not None:
            given["ridge"] = ridge
        return base(matvec, b, **{**bound, **given})
    rest = {"ridge": ridge, "info": info, "symmetric": structure != "general"}
    if method is not None:
        kernel = partial(_lineax, structure=structure) if _is_lineax(method) else _of_caller
        kernel = partial(kernel, method=method, options={**limits, **options})
        return krylov_solve("solve", kernel, {"on_failure": on_failure}, matvec, b, scaled=False, init=init, **rest)
    options = {"on_failure": on_failure, **limits, **options}
    if not _is_small(matvec, b):
        return krylov_solve("solve without a method", _AUTOMATIC[structure], options, matvec, b, init=init, **rest)
    KrylovOptions.of("solve without a method", **options)  # a direct method has no use for them
    return differentiable_solve(direct_kernel, "cholesky" if structure == "psd" else "lu", matvec, b, **rest)


def check_method(name: str, value: Any) -> None:
    """Raise unless ``value`` can be the linear solver of an argument called ``name``.

    Args:
        name: the argument's name, for the message.
        value: ``None``, a callable ``solve(matvec, b)``, or a lineax solver.

    Raises:
        TypeError: it is none of these.
    """
    if value is None or _is_lineax(value):
        return
    expected = "one of jaxsolve.linear_solve, as solve_cg, a callable solve(matvec, b), a lineax solver, or None"
    if isinstance(value, str):
        names = {f.__name__.removeprefix("solve_"): f.__name__ for f in _OWN}
        near = difflib.get_close_matches(value.lower().removeprefix("solve_"), names, 1, 0.5)
        hint = f" Did you mean the function jaxsolve.linear_solve.{names[near[0]]}?" if near else ""
        raise TypeError(f"{name} must be {expected}, got the string {value!r}.{hint}")
    if not callable(value):
        raise TypeError(f"{name} must be {expected}, got {value!r} of type {type(value).__name__}.")
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(None, None)
    except TypeError:
        raise TypeError(
            f"{name} is called as solve(matvec, b), but {value!r} has the signature {signature}: give {expected}."
        ) from None


def _is_small(matvec, b):
    size = matvec.shape[0] if is_matrix(matvec) else Codec(b).size
    # A size that is symbolic, under jax.export, compares with no constant: it may be large.
    return isinstance(size, int) and size <= DIRECT_MAX_SIZE


# Each with LSQR behind it.
_AUTOMATIC = {
    "psd": partial(or_least_squares, cg),
    "symmetric": minres,
    "general": partial(or_least_squares, gmres),
}


def _of_caller(system: System, *, method: Callable, options: dict) -> Best:
    x = call_on_trees(method, system.operator, system.b, **options)
    # Nobody but the caller judges it.
    return Best.start(system.b)._replace(x=x, num_iter=-1, least_squares=jnp.asarray(True))


def _lineax(system: System, *, method: Any, structure: Structure, options: dict) -> Best:
    import lineax

    tags = {
        "psd": (lineax.symmetric_tag, lineax.positive_semidefinite_tag),
        "symmetric": (lineax.symmetric_tag,),
        "general": (),
    }[structure]
    linear_map = lineax.FunctionLinearOperator(system.operator.matvec, jax.typeof(system.b), tags)
    found = lineax.linear_solve(linear_map, system.b, method, throw=False, **options)
    num_iter = found.stats.get("num_steps") if isinstance(found.stats, dict) else None
    success = found.result == lineax.RESULTS.successful
    num_iter = -1 if num_iter is None else num_iter
    return Best.start(system.b)._replace(x=found.value, num_iter=num_iter, least_squares=success)


def _is_lineax(method):
    return any(kind.__module__.partition(".")[0] == "lineax" for kind in type(method).__mro__)
