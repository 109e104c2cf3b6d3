r"""Truncated Neumann series for fixed-point maps: one-step differentiation, Jacobian-free and phantom gradients.

For a fixed-point map ``T`` with contraction factor below 1 and ``J = dT``, the implicit function theorem applied to
``F(x) = T(x) - x`` asks for a solve with :math:`A = J - I`. The series
:math:`-(I - J)^{-1} b = -\sum_k J^k b` is cut after ``num_terms`` terms.

References: Bolte, Pauwels and Vaiter 2023 (one-step differentiation, ``num_terms=1``); Fung et al. 2022 (Jacobian-free
backpropagation); Geng et al. 2021 (phantom gradients, with damping).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxsolve._compat import is_concrete
from jaxsolve._loop import loop
from jaxsolve.linear_solve._differentiable import Outcome, differentiable_solve
from jaxsolve.linear_solve._operators import check_options

__all__ = ["solve_neumann"]

PyTree = Any
_SIGNS = {"T(x) - x": 1.0, "x - T(x)": -1.0}


def solve_neumann(
    matvec: Callable | jax.Array,
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
        info: return ``(x, SolveInfo)``, whose residual says how good the truncation is.

    Returns:
        The approximation, like ``b``. It is linear in ``b``, so it differentiates as a solve does.

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
    if is_concrete(num_terms) and (num_terms < 1 or int(num_terms) != num_terms):
        raise ValueError(f"num_terms must be a whole number of at least 1, got {num_terms}.")
    if is_concrete(damping) and not damping > 0:
        raise ValueError(f"damping must be positive, got {damping}.")
    if residual not in _SIGNS:
        raise ValueError(f"residual must be one of {list(_SIGNS)}, got {residual!r}.")
    check_options(ridge=ridge)

    def kernel(operator, rhs):
        step = _SIGNS[residual] * jnp.asarray(damping).astype(operator.dtype)

        # Richardson's iteration from 0 runs through the partial sums; the first of them costs no product.
        def add_term(x):
            return x + step * (operator.matvec(x) - rhs.vector)

        x = -step * rhs.vector
        if not (is_concrete(num_terms) and num_terms == 1):
            x = loop(lambda x: jnp.asarray(True), add_term, x, maxiter=num_terms - 1)
        return Outcome(x, num_terms)

    return differentiable_solve(kernel, matvec, b, ridge=ridge, info=info)
