r"""The derivative of a least-squares solution, without a square of the condition number.

It is that of the solution :math:`x` and the residuals :math:`s` together, which are the root of

.. math::  F(x, s) = \bigl(J(x, \theta)^T s,\; s - r(x, \theta)\bigr),

where variables that are held at a bound have the distance from it in place of their entry of :math:`J^T s`. With
:math:`J = Q R` and :math:`C` the Hessian of :math:`s^T r(x)` the Hessian of the cost is

.. math::  J^T J + C = R^T (I + R^{-T} C R^{-1}) R,

and what multiplies :math:`R^{-1}` comes from :math:`Q^T` wherever it is an image in the space of residuals.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular

from jaxsolve._types import Array, PyTree
from jaxsolve._vectors import flat, unraveled
from jaxsolve.implicit_diff import TangentSystem
from jaxsolve.linear_solve import solve as linear_solve

__all__ = ["ResidualSystem", "Unknowns"]


class Unknowns(NamedTuple):
    """What the system determines.

    Attributes:
        params: the solution.
        residual: the residuals there, a vector.
    """

    params: PyTree
    residual: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ResidualSystem(TangentSystem):
    """The system of solution and residuals, see the docstring of this module.

    Attributes:
        found: the residuals at the solution, a vector.
        at_lower: entries that are held at their lower bound.
        at_upper: entries that are held at their upper bound.
        solver: the solver, which knows residuals and bounds.
    """

    found: Array
    at_lower: Array
    at_upper: Array
    solver: Any = dataclasses.field(metadata={"static": True})

    structure = "general"

    @property
    def method(self) -> Any:
        """The linear solver of the user, who may want another one."""
        return self.solver.implicit_diff_solve

    def unknowns(self, params: PyTree) -> Unknowns:
        return Unknowns(params, self.found)

    def complete(self, unknowns: Unknowns, *args: Any, **kwargs: Any) -> PyTree:
        del args, kwargs
        return unknowns.params

    def residual(self, unknowns: Unknowns, *args: Any, **kwargs: Any) -> Unknowns:
        dtype, held = self.found.dtype, self.at_lower | self.at_upper
        x, box = flat(unknowns.params, dtype), self.solver._box(unknowns.params)
        bound = jnp.zeros_like(x)
        if box is not None:
            bound = jnp.where(self.at_lower, box[0], jnp.where(self.at_upper, box[1], 0))
        r, pull = jax.vjp(self._function(unknowns, args, kwargs), jnp.where(held, bound, x))
        stationarity = jnp.where(held, x - bound, pull(unknowns.residual)[0])
        return Unknowns(unraveled(unknowns.params)(stationarity), unknowns.residual - r)

    def solve(self, rhs: Unknowns, unknowns: Unknowns, *args: Any, **kwargs: Any) -> Unknowns:
        jac, hessian_solve = self._factored(unknowns, args, kwargs)
        x = hessian_solve(flat(rhs.params, jac.dtype), -rhs.residual)
        free = jnp.where(self.at_lower | self.at_upper, 0, x)
        return Unknowns(unraveled(rhs.params)(x), rhs.residual + _product(jac, free))

    def transposed(self, rhs: Unknowns, unknowns: Unknowns, *args: Any, **kwargs: Any) -> Unknowns:
        jac, hessian_solve = self._factored(unknowns, args, kwargs)
        x = hessian_solve(flat(rhs.params, jac.dtype), rhs.residual)
        free = jnp.where(self.at_lower | self.at_upper, 0, x)
        return Unknowns(unraveled(rhs.params)(x), rhs.residual - _product(jac, free))

    def _function(self, unknowns: Unknowns, args: tuple, kwargs: dict) -> Callable[[Array], Array]:
        unravel, dtype = unraveled(unknowns.params), self.found.dtype
        return lambda x: flat(self.solver._residuals(unravel(x), args, kwargs)[0], dtype)

    def _factored(self, unknowns: Unknowns, args: tuple, kwargs: dict) -> tuple[Array, Callable]:
        """The Jacobian, and the map ``(p, u)`` to the solution of ``H x = p + J^T u``; held entries are those of p."""
        function, x = self._function(unknowns, args, kwargs), flat(unknowns.params, self.found.dtype)
        held = self.at_lower | self.at_upper
        identity = jnp.eye(x.size, dtype=x.dtype)
        jac = jax.vmap(jax.linearize(function, x)[1], out_axes=1)(identity)
        weighted = jax.grad(lambda x: jnp.vdot(unknowns.residual, function(x)))
        curvature = jax.vmap(jax.linearize(weighted, x)[1])(identity)
        unit = jnp.where(held, identity, 0)
        both = held[:, None] | held[None, :]
        free_jac, curvature = jnp.where(held[None, :], 0, jac), jnp.where(both, 0, curvature)
        q, r = jnp.linalg.qr(jnp.concatenate([free_jac, unit]))
        q = q[: jac.shape[0]]
        lengths = jnp.where(held, 1, jnp.linalg.norm(free_jac, axis=0))
        dependent = jnp.any(jnp.abs(jnp.diagonal(r)) <= x.size * float(jnp.finfo(x.dtype).eps) * lengths)

        def back(right):
            return solve_triangular(r, right, trans="T")

        def by_factor(p, u):
            inner = identity + back(back(curvature).T).T
            return solve_triangular(r, jnp.linalg.solve(inner, back(p) + _product(u, q)))

        def by_hessian(p, u):
            hessian = curvature + _product(free_jac.T, free_jac) + unit
            return linear_solve(hessian, p + _product(u, free_jac), structure="psd")

        def hessian_solve(p, u):
            x = lax.cond(dependent, by_hessian, by_factor, jnp.where(held, 0, p), u)
            return jnp.where(held, p, x)

        return jac, hessian_solve


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)
