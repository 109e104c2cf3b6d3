r"""Stationary iterations: the truncated Neumann series of a fixed-point map, and iterative refinement.

For a fixed-point map ``T`` with contraction factor below 1 and ``J = dT``, the implicit function theorem applied to
``F(x) = T(x) - x`` asks for a solve with :math:`A = J - I`. The series
:math:`-(I - J)^{-1} b = -\sum_k J^k b` is cut after ``num_terms`` terms.

References: Bolte, Pauwels and Vaiter 2023 (one-step differentiation, ``num_terms=1``); Fung et al. 2022 (Jacobian-free
backpropagation); Geng et al. 2021 (phantom gradients, with damping). Wilkinson 1963, *Rounding Errors in Algebraic
Processes*, chapter 3 (refinement).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxsolve._compat import is_concrete
from jaxsolve._loop import loop
from jaxsolve.linear_solve._differentiable import Outcome, RightHandSide, differentiable_solve
from jaxsolve.linear_solve._krylov import Best, System, correct, krylov_solve
from jaxsolve.linear_solve._krylov_general import solve_gmres
from jaxsolve.linear_solve._operators import LinearMap, Operator, check_counts

__all__ = ["call_on_trees", "solve_iterative_refinement", "solve_neumann"]

PyTree = Any
_SIGNS = {"T(x) - x": 1.0, "x - T(x)": -1.0}


def solve_neumann(
    matvec: LinearMap,
    b: PyTree,
    num_terms: int | jax.Array = 10,
    *,
    residual: Literal["T(x) - x", "x - T(x)"] = "T(x) - x",
    damping: float | jax.Array = 1.0,
    ridge: Any = None,
    info: bool = False,
) -> Any:
    r"""Approximate solution of ``A x = b`` by a truncated Neumann series.

    With ``J`` the Jacobian of a fixed-point map, the terms are

    .. math:: x = \mp\lambda \sum_{k < K} ((1 - \lambda) I + \lambda J)^k b,

    with the sign of :math:`A = \pm(J - I)`. The error is of the order of the K-th power of the contraction factor.

    Args:
        matvec: the map ``A`` on pytrees like ``b``, or a dense matrix.
        b: pytree of floating point arrays.
        num_terms: number K of terms, at least 1. One term is one-step differentiation: ``x = -b`` or ``x = b``.
        residual: which optimality mapping ``A`` is the Jacobian of: ``"T(x) - x"``, so ``A = J - I`` (what the
            derivative rule of this package solves for fixed points), or ``"x - T(x)"``, so ``A = I - J``.
        damping: the factor λ in (0, 1]; 1 is the plain series.
        ridge: non-negative multiple of the identity to add to ``A``.
        info: return ``(x, SolveInfo)``; the residual shows how good the approximation is.

    Returns:
        The approximation, like ``b``. It is linear in ``b``, and differentiable like the other solves.

    Raises:
        ValueError: ``num_terms < 1``, ``damping`` not positive, or an unknown ``residual``.
        TypeError: ``b`` is not floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.linear_solve import solve_neumann
        >>> A = lambda x: 0.5 * x - x                       # T(x) = x / 2
        >>> [float(solve_neumann(A, jnp.asarray(1.0), num_terms=k)) for k in (1, 2)]
        [-1.0, -1.5]
    """
    check_counts(num_terms=num_terms)
    if is_concrete(damping) and not damping > 0:
        raise ValueError(f"damping must be positive, got {damping}.")
    if residual not in _SIGNS:
        raise ValueError(f"residual must be one of {list(_SIGNS)}, got {residual!r}.")
    return differentiable_solve(_neumann, (num_terms, _SIGNS[residual], damping), matvec, b, ridge=ridge, info=info)


def _neumann(operator: Operator, rhs: RightHandSide, options: tuple) -> Outcome:
    num_terms, sign, damping = options
    step = sign * jnp.asarray(damping).astype(rhs.vector.dtype)
    x = -step * rhs.vector

    # Richardson's iteration from 0 runs through the partial sums; the first of them costs no product.
    def add_term(x):
        return x + step * (operator.matvec(x) - rhs.vector)

    if not (is_concrete(num_terms) and num_terms == 1):
        x = loop(lambda x: jnp.asarray(True), add_term, x, maxiter=num_terms - 1)
    return Outcome(x, num_terms)


def solve_iterative_refinement(
    matvec: LinearMap,
    b: PyTree,
    init: PyTree = None,
    maxiter: Any = 10,
    tol: Any = 1e-7,
    solve: Callable = solve_gmres,
    *,
    on_failure: Literal[None, "nan", "warn", "ignore"] = None,
    info: bool = False,
    **kwargs: Any,
) -> Any:
    """Solve ``A x = b`` by repeated rough solves, ``x <- x + solve(A, b - A x)``.

    The rough solve may be regularized: ``ridge=...`` among the further arguments is passed to it only, and the
    repetition removes the error that the ridge causes.

    Args:
        matvec: linear map from pytrees like ``b`` to pytrees with the same leaf shapes, or a dense matrix.
        b: pytree of floating point arrays.
        init: starting point like ``b``; 0 by default.
        maxiter: bound on the repetitions.
        tol: relative tolerance on the residual; ``None`` means 10 spacings of the working dtype.
        solve: the rough solver, ``solve(matvec, b, **kwargs) -> x``.
        on_failure: see :class:`KrylovOptions`.
        info: return ``(x, SolveInfo)``.
        **kwargs: passed on to ``solve``.

    Returns:
        The iterate with the smallest residual, like ``b``.

    Raises:
        ValueError: the map is not square, or an option is out of range.
        TypeError: ``b`` is not floating point, or ``solve`` is not callable.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.linear_solve import solve_cg, solve_iterative_refinement
        >>> A = jnp.array([[2.0, 0.0], [0.0, 1e-3]])
        >>> x = solve_iterative_refinement(A, jnp.array([2.0, 1e-3]), solve=solve_cg, ridge=1e-5)
        >>> [round(entry, 3) for entry in x.tolist()]
        [1.0, 1.0]
    """
    if not callable(solve):
        raise TypeError(f"solve must be callable, got {type(solve).__name__}.")
    options = {"tol": tol, "maxiter": maxiter, "on_failure": on_failure}
    method = partial(_refine, solve=solve, kwargs=kwargs)
    return krylov_solve("solve_iterative_refinement", method, options, matvec, b, scaled=False, init=init, info=info)


def _refine(system: System, solve: Callable, kwargs: dict) -> Best:
    # The rough solve sees a residual of the order of 1 each time, so an absolute tolerance of its own holds.
    return correct(system, lambda unit, error: (call_on_trees(solve, system.operator, unit, **kwargs), 1))


def call_on_trees(solve: Callable, operator: Operator, vector: jax.Array, **kwargs: Any) -> jax.Array:
    """Call ``solve(matvec, b, **kwargs)`` on pytrees; of a pair such as ``(x, info)`` the first entry counts.

    Raises:
        ValueError: the value is not a pytree like ``b``.
    """
    codec = operator.codec
    found = solve(operator.tree_matvec, codec.unravel(vector), **kwargs)
    if jax.tree.structure(found) != codec.treedef and isinstance(found, tuple) and found:
        found = found[0]
    if jax.tree.structure(found) != codec.treedef:
        raise ValueError(
            f"the linear solver {solve!r} must return a pytree like its second argument b, of structure "
            f"{codec.treedef}, or a tuple that begins with one, but it returned {jax.tree.structure(found)}."
        )
    return codec.ravel(found, "the value of the linear solver")
