r"""The derivative of least squares with bounds.

It is that of the solution :math:`x` and the residual :math:`f = A x - b` together: with the active set
known they are the root of

.. math::

    F(x, f) = \bigl((1 - a) \sigma A^T f + a \sigma^{-1} (x - x_{\text{bound}}),\; f - (A x - b)\bigr),

where :math:`a` is 1 for variables at a bound and 0 for free ones, and :math:`\sigma` the units of the variables. The
same kind of factorization solves this system, and its transpose, without a square of the condition number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._loop import loop
from jaxsolve._types import Array, OptStep
from jaxsolve.implicit_diff import TangentSystem
from jaxsolve.solvers.quadratic._base import has_derivative
from jaxsolve.solvers.quadratic._column_factor import Factor, after, factorize
from jaxsolve.solvers.quadratic._least_squares_problem import Reduced, gradient_noise, movable_variables, to_user
from jaxsolve.tree_util import tree_where, tree_zeros_like

__all__ = ["LeastSquaresSystem", "system_at"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LeastSquaresSystem(TangentSystem):
    """The system of solution and residual once the active set is known, see the docstring of this module.

    Attributes:
        factor: of the free columns, in scaled units; its ``U`` has the rows of the user.
        weight: 1 for variables at a bound, 0 for free ones, between for weakly active ones; shape ``(n,)``.
        at_lower: whether a variable is, or would be, at its lower bound.
        at_upper: likewise.
        columns: units of the variables.
        x: the solution.
        fun: the residual.
        solver: what says how arguments become data.
        valid: whether there is a solution to differentiate, a boolean scalar.
    """

    factor: Factor
    weight: Array
    at_lower: Array
    at_upper: Array
    columns: Array
    x: Array
    fun: Array
    solver: Any = dataclasses.field(metadata={"static": True})
    valid: Any

    structure = "general"

    @property
    def method(self) -> Any:
        """The linear solver of the user, who may want another one."""
        return self.solver.implicit_diff_solve

    def unknowns(self, params: Array) -> tuple[Array, Array]:
        return self.x, self.fun

    def complete(self, unknowns: tuple[Array, Array], *args: Any, **kwargs: Any) -> Array:
        return unknowns[0].astype(self.solver._data(*args, **kwargs).dtype)

    def residual(self, unknowns: tuple[Array, Array], *args: Any, **kwargs: Any) -> tuple[Array, Array]:
        A, b, lower, upper, _ = self.solver._data(*args, **kwargs)
        x, fun = unknowns
        # A variable without effect is held where it is.
        bound = jnp.where(self.at_lower, lower, jnp.where(self.at_upper, upper, self.x))
        offset = jnp.where(self.weight > 0, x - bound, 0)
        stationarity = (1 - self.weight) * self.columns * (fun @ A)
        return stationarity + self.weight * offset / self.columns, fun - (A @ x - b)

    def _scaled(self, args: tuple, kwargs: dict) -> tuple[Array, Array, Array]:
        """The scaled matrix, and its columns that count as free; the others."""
        A = self.solver._data(*args, **kwargs).A * self.columns[None, :]
        held = self.weight == 1
        return A, jnp.where(held[None, :], 0, A), held

    def _in_steps(self, once: Callable, image: Callable, *rhs: Array) -> tuple[Array, Array]:
        """``once`` solves; a second time for what the first left over."""
        first = once(*rhs)
        more = once(*(r - i for r, i in zip(rhs, image(*first), strict=True)))
        found = tuple(x + dx for x, dx in zip(first, more, strict=True))
        return tree_where(self.valid, found, tree_zeros_like(found))

    def solve(
        self, rhs: tuple[Array, Array], unknowns: tuple[Array, Array], *args: Any, **kwargs: Any
    ) -> tuple[Array, Array]:
        A, loose, held = self._scaled(args, kwargs)
        U, a = self.factor.U, self.weight

        def once(rhs_x, rhs_fun):
            fixed = jnp.where(held, rhs_x, 0)
            rhs_fun = rhs_fun + A @ fixed
            eta = jnp.where(held, 0, rhs_x / jnp.where(held, 1, 1 - a))
            w = self.factor.pull(eta) - U.T @ rhs_fun
            z = jnp.where(held, rhs_x, self.factor.push(w))
            return z, rhs_fun + loose @ jnp.where(held, 0, z)

        def image(z, fun):
            return (1 - a) * (fun @ A) + a * z, fun - A @ z

        z, fun = self._in_steps(once, image, *rhs)
        return z * self.columns, fun

    def transposed(
        self, rhs: tuple[Array, Array], unknowns: tuple[Array, Array], *args: Any, **kwargs: Any
    ) -> tuple[Array, Array]:
        A, loose, held = self._scaled(args, kwargs)
        U, a = self.factor.U, self.weight

        def once(rhs_z, rhs_fun):
            w = self.factor.pull(jnp.where(held, 0, rhs_z)) + U.T @ rhs_fun
            y = jnp.where(held, 0, self.factor.push(w))
            fun = rhs_fun - loose @ y
            return jnp.where(held, rhs_z + fun @ A, y / jnp.where(held, 1, 1 - a)), fun

        def image(v, fun):
            return a * v - fun @ A, fun + A @ ((1 - a) * v)

        return self._in_steps(once, image, rhs[0] * self.columns, rhs[1])


def system_at(solver: Any, problem: Reduced, step: OptStep) -> LeastSquaresSystem:
    """The tangent system at a solution, with weakly active variables as they are wanted."""
    z, state = step
    movable, noise = movable_variables(problem), gradient_noise(problem, z)
    gradient = problem.C.T @ (problem.C @ z - problem.d)
    below, above = z - problem.lower, problem.upper - z
    small = float(jnp.finfo(z.dtype).eps) ** 0.5
    stages = {"half": 3, "active": 2, "inactive": 2}[solver.weak]
    eye = jnp.eye(z.size, dtype=z.dtype)

    def stage(carry):
        # First the active set as it was found; its factor says how exact the free variables are, and so which are
        # weakly active. If there are any, these held or free, or on springs: of stiffness 1, then of one that gives
        # the mean. It is the reciprocal of the compliance s without a spring, and with a spring of 1 that is s/(1 + s).
        count, held, stiffness, weak, _ = carry
        factor = factorize(problem.C, held, stiffness)
        give = jnp.sum(factor.push(eye) ** 2, axis=1)
        exact = 100 * noise * jnp.sqrt(jnp.where(held, 0, give))
        found = movable & (jnp.abs(gradient) <= 100 * noise * problem.lengths) & (jnp.minimum(below, above) <= exact)
        weak = jnp.where(count == 0, found, weak)
        over = ~jnp.any(weak) | (count == stages - 1)
        mean = jnp.clip((1 - give) / jnp.clip(give, small, 1), small, 1 / small)
        spring = jnp.where(weak & (solver.weak == "half"), jnp.where(count == 0, 1, mean), 0)
        stiffness = jnp.where(over, stiffness, spring)
        held = jnp.where(over, held, held & ~weak | weak & (solver.weak == "active"))
        return jnp.where(over, stages, count + 1), held, stiffness, weak, factor

    nothing = Factor(jnp.zeros_like(problem.C), eye, eye)
    carry = (jnp.zeros((), jnp.int32), ~state.free, jnp.zeros_like(z), jnp.zeros_like(state.free), nothing)
    carry = loop(lambda carry: carry[0] < stages, stage, carry, maxiter=stages)
    _, held, stiffness, weak, factor = carry
    if problem.reflectors is not None:
        packed, coefficients = problem.reflectors
        U = lax.linalg.householder_product(after(factor.U, packed), coefficients) @ factor.U
        factor = factor._replace(U=U, T=after(U, factor.T))
    factor = factor._replace(U=jnp.zeros_like(factor.U).at[problem.order].set(factor.U))
    at_upper = jnp.where(problem.lower == problem.upper, gradient < 0, above < below)
    at_bound = weak | (jnp.minimum(below, above) == 0)
    valid = has_derivative(state)
    return LeastSquaresSystem(
        factor,
        jnp.where(held, 1, stiffness / (1 + stiffness)),
        at_bound & ~at_upper,
        at_bound & at_upper,
        problem.columns,
        to_user(problem, z),
        jnp.where(valid, state.fun, 0),
        solver,
        valid,
    )
