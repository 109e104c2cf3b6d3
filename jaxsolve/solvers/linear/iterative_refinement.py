r"""Iterative refinement of the solution of a linear system.

Problem: solve :math:`A x = b`. Method: with a solver that is cheap and inexact, for an approximation :math:`\bar A` of
:math:`A` that is easier to solve with, repeat

.. math:: r_k = b - A x_k, \qquad \bar A d_k \approx r_k, \qquad x_{k+1} = x_k + d_k.

The residual is multiplied by :math:`I - A \bar A^{-1}` in each iteration, up to the error of the cheap solve. It tends
to 0 if the spectral radius of that matrix is below 1. Optimality: :math:`A x - b = 0`.

Reference:
    Wilkinson (1963), "Rounding errors in algebraic processes", chapter 3; Higham (2002), "Accuracy and stability of
    numerical algorithms", chapter 12.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.base import IterativeSolver, as_like, check_callable, option
from jaxsolve.linear_solve import check_method, solve_gmres
from jaxsolve.linear_solve import solve as linear_solve
from jaxsolve.tree_util import tree_add, tree_cast_like, tree_l2_norm, tree_negative, tree_sub, tree_zeros_like

__all__ = ["IterativeRefinement", "IterativeRefinementState"]


class IterativeRefinementState(NamedTuple):
    """State of the iterative refinement.

    Attributes:
        iter_num: number of refinements done, int32.
        error: Euclidean norm of the residual.
        target_residuals: the residual ``b - A x``, a pytree like ``x``: the right-hand side of the next rough solve.
        init: the initial point of every rough solve, 0, a pytree like ``x``.
        num_matvec_eval: number of products with ``A``, int32.
        num_matvec_bar_eval: number of times that ``A_bar`` was passed to the rough solver, int32; products are not
            counted.
        num_solve_eval: number of rough solves, int32.
        status: a :class:`jaxsolve.Status`, int32.
    """

    iter_num: Array
    error: Array
    target_residuals: PyTree
    init: PyTree
    num_matvec_eval: Any = 0
    num_matvec_bar_eval: Any = 0
    num_solve_eval: Any = 0
    status: Any = 0


class IterativeRefinement(IterativeSolver):
    """Solves a linear system accurately with an inexact solver.

    ``run(init_params, A, b, A_bar=None)`` solves ``A x = b``. ``b`` is a pytree, and ``x`` has the same structure and
    shapes. ``x`` is differentiable with respect to ``A`` and ``b``; its derivative with respect to ``A_bar`` is 0. The
    initial point may be ``None``, which stands for 0; otherwise the solution has its dtypes.

    ``A`` is a matrix, dense or sparse, of shape ``(n, n)``; a pytree like ``b`` of matrices, one for each leaf; or a
    linear function ``A(x)``. With ``matvec_A`` it is the first argument of this function. ``A_bar`` is given in the
    same way; ``None`` stands for ``A``.

    Attributes:
        matvec_A: ``matvec_A(A, x)``, the product with the matrix; ``None`` if ``A`` is one of the above.
        matvec_A_bar: ``matvec_A_bar(A_bar, x)``, the product with the approximation; ``None`` stands for ``matvec_A``.
        solve: the rough solver, ``solve(matvec, b) -> x``: one of :mod:`jaxsolve.linear_solve`, a ``functools.partial``
            of one, a function of your own, or a lineax solver. It may ignore ``matvec`` and apply an approximate
            inverse. ``None`` chooses an exact one by the size. The default, GMRES with a ridge of 1e-6, is meant for
            matrices with entries around 1.
        tol: bound on the Euclidean norm of the residual.
        rtol: relative tolerance: the bound is ``tol`` plus ``rtol`` times the Euclidean norm of ``b``. May be traced.

    Raises:
        TypeError: ``b`` or ``init_params`` is not floating-point, or one of them is complex and the other real.
        ValueError: ``init_params`` and ``b``, or ``b`` and the product with ``A``, have different shapes.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> A, b = jnp.array([[4.0, 1.0], [0.0, 2.0]]), jnp.array([6.0, 4.0])
        >>> jacobi = lambda matvec, r: r / jnp.diag(A)          # solves with the diagonal of A
        >>> solver = jaxsolve.IterativeRefinement(solve=jacobi, tol=1e-5)
        >>> x, state = solver.run(None, A, b)
        >>> [round(entry, 4) for entry in x.tolist()], int(state.iter_num)
        ([1.0, 2.0], 2)
        >>> jax.jacobian(lambda b: solver.run(None, A, b).params)(b).tolist()
        [[0.25, -0.125], [0.0, 0.5]]
    """

    matvec_A: Callable | None = None
    matvec_A_bar: Callable | None = None
    solve: Callable | None = option(default=functools.partial(solve_gmres, ridge=1e-6))
    maxiter: int = option(10)
    tol: float = option(1e-7)
    rtol: float = option(0.0, at_least=0)  # type: ignore[misc]  # an option here

    _State = IterativeRefinementState
    _needs_init_params = False

    def _validate(self) -> None:
        super()._validate()
        check_method("solve", self.solve)
        for name in ("matvec_A", "matvec_A_bar"):
            if getattr(self, name) is not None:
                check_callable(name, getattr(self, name), f"a function {name}(A, x)")

    def _check_arguments(self, init_params: PyTree, A: Any, b: PyTree, A_bar: Any = None) -> None:
        """Raise for an initial point or a right-hand side of the wrong kind."""
        params = self._first_point(init_params, A, b, A_bar)
        shapes, expected = jax.tree.map(jnp.shape, params), jax.tree.map(jnp.shape, b)
        if shapes != expected:
            raise ValueError(f"init_params must have the structure and shapes of b, {expected}, got {shapes}.")
        for start, rhs in zip(jax.tree.leaves(params), jax.tree.leaves(b), strict=True):
            dtypes = start.dtype, jnp.result_type(rhs)
            inexact = all(jnp.issubdtype(dtype, jnp.inexact) for dtype in dtypes)
            if not inexact or jnp.iscomplexobj(start) != jnp.iscomplexobj(rhs):
                raise TypeError(
                    "init_params and b must be floating-point numbers, both real or both complex, got dtypes "
                    f"{dtypes[0]} and {dtypes[1]}. Convert whole numbers with x.astype(float)."
                )

    def _first_point(self, init_params: PyTree, A: Any, b: PyTree, A_bar: Any = None) -> PyTree:
        """The initial point, or 0."""
        params = init_params.params if isinstance(init_params, OptStep) else init_params
        params = tree_zeros_like(b) if params is None else params
        return tree_cast_like(params, params)

    def init_state(self, init_params: PyTree, A: Any, b: PyTree, A_bar: Any = None) -> IterativeRefinementState:
        """The state before the first refinement; the arguments are those of ``run``."""
        params, zero = self._first_point(init_params, A, b, A_bar), jnp.zeros((), jnp.int32)
        state = IterativeRefinementState(zero, zero, params, tree_zeros_like(params), zero, zero, zero)
        return self._at(params, state, A, b)

    def update(self, params: PyTree, state: IterativeRefinementState, A: Any, b: PyTree, A_bar: Any = None) -> OptStep:
        """One refinement; returns ``OptStep(params, state)``."""
        matvec = functools.partial(_product, self.matvec_A_bar or self.matvec_A, A if A_bar is None else A_bar)
        params = tree_add(params, linear_solve(matvec, state.target_residuals, self.solve, on_failure="ignore"))
        count = {name: getattr(state, name) + 1 for name in ("iter_num", "num_matvec_bar_eval", "num_solve_eval")}
        return OptStep(params, self._at(params, state._replace(**count), A, b))

    def _at(self, params, state, A, b):
        """The state with the residual at ``params``."""
        residual = tree_negative(self.optimality_fun(params, A, b))
        error = tree_l2_norm(residual)
        return state._replace(
            error=error,
            target_residuals=residual,
            num_matvec_eval=state.num_matvec_eval + 1,
            status=self._status_of(error, size=tree_l2_norm(b) if self._is_relative else None),
        )

    def optimality_fun(self, params: PyTree, A: Any, b: PyTree, A_bar: Any = None) -> PyTree:
        """The residual ``A x - b``, a pytree like ``params``; it does not depend on ``A_bar``."""
        return tree_sub(as_like("matvec_A", _product(self.matvec_A, A, params), params), tree_cast_like(b, params))


def _product(matvec, A, x):
    if matvec is not None:
        return matvec(A, x)
    # The structure is that of x: each of its leaves meets a matrix, which may be a pytree itself, as sparse ones are.
    return A(x) if callable(A) else jax.tree.map(lambda leaf, matrix: matrix @ leaf, x, A)
