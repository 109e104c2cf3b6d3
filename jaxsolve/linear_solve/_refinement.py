"""Iterative refinement: a solver of low accuracy, repeated on what it leaves over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsolve._loop import loop
from jaxsolve.linear_solve._differentiable import Outcome, RightHandSide, differentiable_solve
from jaxsolve.linear_solve._krylov_common import Best, krylov_options
from jaxsolve.linear_solve._krylov_general import solve_gmres
from jaxsolve.linear_solve._operators import Operator

__all__ = ["solve_iterative_refinement", "solve_with_callable"]

PyTree = Any


def solve_iterative_refinement(
    matvec: Callable | jax.Array,
    b: PyTree,
    init: PyTree = None,
    maxiter: Any = 10,
    tol: Any = 1e-7,
    solve: Callable = solve_gmres,
    *,
    info: bool = False,
    **kwargs: Any,
) -> Any:
    """Solve ``A x = b`` by repeated rough solves, ``x <- x + solve(A, b - A x)``.

    The rough solve may be regularized (``ridge=...`` among the further arguments goes to it alone): the repetition
    takes the bias of the ridge away.

    Args:
        matvec: linear map from pytrees like ``b`` to pytrees with the same leaf shapes, or a dense matrix.
        b: pytree of floating point arrays.
        init: starting point like ``b``; 0 by default.
        maxiter: bound on the repetitions.
        tol: relative tolerance on the residual; ``None`` means 10 spacings of the working dtype.
        solve: the rough solver, ``solve(matvec, b, **kwargs) -> x``.
        info: return ``(x, SolveInfo)``.
        **kwargs: handed to ``solve``.

    Returns:
        The iterate with the smallest residual, like ``b``.

    Raises:
        ValueError: the map is not square, or an option is out of range.
        TypeError: ``b`` is not floating point, or ``solve`` is not callable.

    References:
        Wilkinson 1963, *Rounding Errors in Algebraic Processes*, chapter 3.

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
    options = krylov_options(tol, 0.0, maxiter, None, None)

    def kernel(operator: Operator, rhs: RightHandSide) -> Outcome:
        target = options.target(operator, rhs)

        def body(s: _Refined) -> _Refined:
            # The rough solve sees a residual of the order of 1 each time, so an absolute tolerance of its own holds.
            correction = solve_with_callable(solve, operator, s.r / s.best.error.astype(s.r.dtype), **kwargs)
            x = s.best.x + s.best.error.astype(s.r.dtype) * correction
            r = rhs.vector - operator.matvec(x)
            error = jnp.linalg.norm(r)
            worse = ~(error < s.best.error)
            return _Refined(jnp.where(worse, s.r, r), s.best.update(x, error, worse))

        init = _Refined(rhs.vector, Best.start(rhs))
        final = loop(
            lambda s: (s.best.error > target) & ~s.best.stop, body, init, maxiter=options.bound(operator), kind="while"
        )
        return final.best.outcome()

    return differentiable_solve(kernel, matvec, b, init=init, info=info)


class _Refined(NamedTuple):
    r: jax.Array
    best: Best


def solve_with_callable(solve: Callable, operator: Operator, vector: jax.Array, **kwargs: Any) -> jax.Array:
    """Call ``solve(matvec, b, **kwargs)`` on pytrees; of a pair such as ``(x, info)`` the first entry counts."""
    codec = operator.codec
    found = solve(operator.tree_matvec, codec.unravel(vector), **kwargs)
    if jax.tree.structure(found) != codec.treedef and isinstance(found, tuple) and found:
        found = found[0]
    return codec.ravel(found, "the value of the linear solver")
