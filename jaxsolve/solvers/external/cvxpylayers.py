"""The conic solver for those who use cvxpylayers: an object for its argument ``solver``."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._types import Array
from jaxsolve.solvers.conic import solve_conic
from jaxsolve.solvers.external._quadratic import import_optional

__all__ = ["cvxpylayers_solver"]


def cvxpylayers_solver(**options: Any) -> Any:
    """A solver for ``CvxpyLayer(..., solver=jaxsolve.solvers.external.cvxpylayers_solver())`` of cvxpylayers 1.2.

    A whole batch is solved, and differentiated, in one call under ``jit`` and ``vmap``. If you do not need cvxpylayers,
    use :func:`jaxsolve.cvxpy_layer`: its function can itself be compiled, and has derivatives in every mode.

    Args:
        **options: those of :func:`jaxsolve.solve_conic`. Arguments that cvxpylayers passes on to the solver take
            precedence.

    Returns:
        An instance of a subclass of ``cvxpylayers.interfaces.base.SolverInterface``.

    Raises:
        ImportError: cvxpylayers is not installed.

    Example:
        >>> import jaxsolve.solvers.external
        >>> try:
        ...     solver = jaxsolve.solvers.external.cvxpylayers_solver(tol=1e-9)
        ...     name = solver.canon_solver
        ... except ImportError:
        ...     name = "SCS"
        >>> name  # in whose form it takes problems
        'SCS'
    """
    base = import_optional("cvxpylayers.interfaces.base", "cvxpylayers_solver")
    solver = type("JaxsolveInterface", (BatchSolver, base.SolverInterface), {})()
    solver.options = options
    return solver


class BatchSolver:
    """What cvxpylayers asks of a solver: solutions of a batch, and vector-Jacobian products."""

    canon_solver = "SCS"
    supports_quad_obj = True
    options: dict[str, Any] = {}

    def setup(self, ctx: Any) -> None:
        """Keep the places of the entries that later calls give the values of."""
        self._program = _Program(ctx)

    def solve_jax_batch(
        self, P: Array | None, q: Array, A: Array, dims: Any, solver_args: dict[str, Any], needs_grad: bool
    ) -> tuple[Array, Array, Any]:
        """Solutions and multipliers of a batch, and what the derivative needs.

        Args:
            P: the entries of the matrix of the objective, shape ``(batch, entries)``; or ``None``.
            q: the linear term with the constant term last, shape ``(batch, n + 1)``.
            A: the entries of minus the matrix of the rows, with their right-hand side as the last column, shape
                ``(batch, entries)``.
            dims: the cones, which ``setup`` has told already.
            solver_args: options of :func:`jaxsolve.solve_conic`.
            needs_grad: whether a derivative is wanted.
        """
        del dims
        solve = self._program.solver(**(self.options | solver_args))
        if not needs_grad:
            return *solve(P, q, A), None
        (x, y), back = jax.vjp(solve, P, q, A)
        return x, y, back

    def derivative_jax_batch(self, dprimal: Array, ddual: Array, state: Any) -> tuple[Array | None, Array, Array]:
        """The derivatives in ``P``, ``q`` and ``A``, from those in the solutions and multipliers."""
        return state((dprimal, ddual))


class _Program:
    """The places of entries, and the compiled solver."""

    def __init__(self, ctx: Any):
        rows, starts, (m, width) = ctx.reduced_A.problem_data_index
        self._rows, self._columns = np.asarray(rows), np.repeat(np.arange(width), np.diff(starts))
        self._shape = int(m), int(width) - 1
        self._places_of_P = None
        if getattr(ctx.reduced_P, "problem_data_index", None) is not None:
            rows, starts, _ = ctx.reduced_P.problem_data_index
            self._places_of_P = np.asarray(rows), np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        from jaxsolve.solvers.external._canonical import cones_of

        self._cones = cones_of(ctx.cone_dims)

    @functools.cache  # noqa: B019  # one program for each set of options, as long as the layer lives
    def solver(self, **options: Any) -> Any:
        """``solve(P, q, A) -> (x, y)`` for a batch."""
        return jax.jit(jax.vmap(functools.partial(self._one, options)))

    def _one(self, options, P, q, A):
        (m, n), (rows, columns) = self._shape, (self._rows, self._columns)
        whole = jnp.zeros((m, n + 1), A.dtype).at[rows, columns].set(A)
        if P is not None:
            i, j = self._places_of_P  # type: ignore[misc]  # there are some if there are values
            P = jnp.zeros((n, n), P.dtype).at[i, j].set(P)
            if not (np.any(i < j) and np.any(i > j)):  # one triangle: the other one is the same
                P = P + P.T - jnp.diag(jnp.diagonal(P))
        result = solve_conic(P, q[:-1], -whole[:, :-1], whole[:, -1], self._cones, **options)
        return result.x, result.y
