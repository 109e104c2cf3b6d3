"""Operator splitting for quadratic programs with equalities and inequalities."""

from __future__ import annotations

from collections.abc import Callable

from jaxsolve.solvers.quadratic._admm import OperatorSplitting
from jaxsolve.solvers.quadratic._form import StandardForm

__all__ = ["OSQP"]


class OSQP(OperatorSplitting):
    """Operator-splitting solver for ``min 0.5 x^T Q x + c^T x`` subject to ``A x = b, G x <= h``.

    ``run(init_params=None, params_obj=(Q, c), params_eq=(A, b), params_ineq=(G, h))``; either kind of constraints
    may be ``None``. ``Q`` (shape ``(n, n)``, positive semidefinite, may be ``None``), ``A`` (shape ``(p, n)``) and
    ``G`` (shape ``(m, n)``) are dense, sparse (``BCOO``, ``BCSR``, ``scipy.sparse``), or the parameters of
    ``matvec_Q``, ``matvec_A`` and ``matvec_G``. Pytrees of matrices like ``c`` are blocks on the diagonal. The
    result is ``KKTSolution(x, dual_eq, dual_ineq)``; it and ``state.value`` are differentiable with respect to all six
    inputs. For everything else see :class:`.BoxOSQP`.

    Attributes:
        matvec_Q: ``matvec_Q(params_Q, x)``, the product with the symmetric positive semidefinite matrix of the
            objective; needed only if the matrix is not given by its entries.
        matvec_A: ``matvec_A(params_A, x)``, the product with the matrix of the equalities, likewise.
        matvec_G: ``matvec_G(params_G, x)``, the product with the matrix of the inequalities, likewise.
        fun: ``fun(x, params_obj)``, the objective as a function, which must be quadratic; in place of ``(Q, c)``.

    Raises:
        ValueError: shapes do not fit, or a right-hand side is NaN.
        TypeError: an argument is not a pair.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> Q, c = jnp.eye(2), jnp.array([-1.0, -3.0])
        >>> A, b, G, h = jnp.ones((1, 2)), jnp.array([1.0]), -jnp.eye(2), jnp.zeros(2)
        >>> solver = jaxsolve.OSQP(tol=1e-5)
        >>> params, state = solver.run(None, (Q, c), (A, b), (G, h))
        >>> [abs(round(x, 3)) for x in params.primal.tolist()]
        [0.0, 1.0]
        >>> slope = jax.grad(lambda b: solver.run(None, (Q, c), (A, b), (G, h)).state.value)(b)
        >>> [round(s, 3) for s in slope.tolist()]  # minus the multiplier
        [-2.0]
    """

    matvec_Q: Callable | None = None  # type: ignore[misc]  # an option here
    matvec_A: Callable | None = None  # type: ignore[misc]
    matvec_G: Callable | None = None  # type: ignore[misc]
    fun: Callable | None = None  # type: ignore[misc]

    _Form = StandardForm
