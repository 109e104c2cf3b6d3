r"""Newton's method and the chord method for systems of equations.

Problem: find :math:`x` with :math:`F(x, \theta) = 0`. Method: :math:`x_{k+1} = x_k - t_k J^{-1} F(x_k)`, with the
Jacobian :math:`J` at :math:`x_k` (Newton), or at an earlier point (chord). Optimality: :math:`F(x, \theta) = 0`.

Reference:
    Dennis and Schnabel (1996), "Numerical methods for unconstrained optimization and nonlinear equations", chapter 6;
    Kelley (2003), "Solving nonlinear equations with Newton's method".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxsolve._docstrings import with_fields_of
from jaxsolve._types import Array, PyTree
from jaxsolve._vectors import flat
from jaxsolve.base import option
from jaxsolve.linear_solve import check_method, solve
from jaxsolve.solvers.root._method import MOST_DENSE, RootMethod, RootState, guarded_solve

__all__ = ["Chord", "ChordState", "Newton"]


class Newton(RootMethod):
    """Newton's method for systems of equations, with a search for the step and bounds.

    ``run(init_params, *args, **kwargs)`` finds ``params`` with ``fun(params, *args, **kwargs) = 0``. Up to 512 unknowns
    the Jacobian is formed, and the step is computed by an LU factorization or, if the Jacobian is nearly singular, from
    a regularized least-squares problem. With more unknowns the step is computed from products with the Jacobian.

    Attributes:
        solve: linear solver ``solve(matvec, b)`` of the Newton system, see :mod:`jaxsolve.linear_solve`; ``None``
            chooses by the number of unknowns.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> def circle_and_line(x, radius):
        ...     return jnp.stack([x[0] ** 2 + x[1] ** 2 - radius**2, x[0] - x[1]])
        >>> solver = jaxsolve.Newton(circle_and_line, tol=1e-5)
        >>> [round(x, 4) for x in solver.run(jnp.array([1.0, 0.5]), 2.0).params.tolist()]
        [1.4142, 1.4142]
        >>> slopes = jax.jacobian(lambda r: solver.run(jnp.array([1.0, 0.5]), r).params)(2.0)
        >>> [round(x, 4) for x in slopes.tolist()]
        [0.7071, 0.7071]
    """

    solve: Callable | None = option(None)
    maxiter: int = option(100)
    tol: float = option(1e-5)

    def _validate(self) -> None:
        super()._validate()
        check_method("solve", self.solve)

    def _direction(self, params: PyTree, state: RootState, args: tuple, kwargs: dict) -> tuple[Array, dict[str, Any]]:
        residual = flat(state.value, flat(params).dtype)
        counted = {"num_jac_eval": state.num_jac_eval + 1}
        if self.solve is not None or residual.size > MOST_DENSE:
            return -solve(self._linearized(params, args, kwargs), residual, self.solve, on_failure="ignore"), counted
        return -guarded_solve(self._jacobian(params, args, kwargs), residual, self._loop_kind), counted


@with_fields_of(RootState)
class ChordState(NamedTuple):
    """State of the chord method: the fields of :class:`RootState`, and two more.

    Attributes:
        inverse: inverse of the Jacobian where it was last computed, shape (n, n).
        age: number of steps since then, int32.
    """

    iter_num: Array
    value: Any
    error: Array
    stepsize: Array
    aux: Any = None
    failed_linesearch: Any = False
    num_fun_eval: Any = 0
    num_jac_eval: Any = 0
    num_linesearch_iter: Any = 0
    status: Any = 0
    first_error: Any = None
    scout: Any = None
    inverse: Any = None
    age: Any = 0


class Chord(RootMethod):
    """Newton's method in which several steps use the same Jacobian and its factorization.

    ``run(init_params, *args, **kwargs)`` finds ``params`` with ``fun(params, *args, **kwargs) = 0``. The Jacobian is
    computed again where a step reduces the norm of the residual by less than the factor ``refresh``.

    Attributes:
        refresh: the factor; with 1 a Jacobian is used until a search fails.

    Example:
        >>> import jax.numpy as jnp, jaxsolve
        >>> solver = jaxsolve.Chord(lambda x, a: x**3 + x - a)
        >>> params, state = solver.run(jnp.ones(2), jnp.array([1.5, 2.5]))
        >>> [round(x, 3) for x in params.tolist()], int(state.num_jac_eval)
        ([0.861, 1.115], 1)
    """

    refresh: float = option(0.5, above=0)
    maxiter: int = option(200)
    tol: float = option(1e-5)

    _State = ChordState

    def _memory(self, params: PyTree, residual: Array, args: tuple, kwargs: dict) -> dict[str, Any]:
        jacobian = self._jacobian(params, args, kwargs)
        inverse = guarded_solve(jacobian, jnp.eye(len(jacobian), dtype=jacobian.dtype), self._loop_kind)
        return {"inverse": inverse, "age": jnp.zeros((), jnp.int32), "num_jac_eval": jnp.ones((), jnp.int32)}

    def _direction(self, params: PyTree, state: Any, args: tuple, kwargs: dict) -> tuple[Array, dict[str, Any]]:
        return -state.inverse @ flat(state.value, state.inverse.dtype), {}

    def _is_fresh(self, state: Any) -> Array:
        return state.age == 0

    def _remember(self, step: Array, change: Array, state: Any) -> Any:
        return state._replace(age=state.age + 1)

    def _is_outdated(self, before: Any, state: Any) -> Array:
        return state.error > jnp.asarray(self.refresh).astype(state.error.dtype) * before.error
