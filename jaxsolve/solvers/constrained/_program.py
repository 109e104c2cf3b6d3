r"""Nonlinear programs over vectors, and their local quadratic programs.

A program is :math:`\min_x f(x)` subject to :math:`h(x) = 0,\ g(x) \le 0,\ l \le x \le u`. Its *rows* are h, g and x
itself, in this order, each with a lower and an upper bound: 0 and 0 for h, :math:`-\infty` and 0 for g. The multipliers
y of the rows have the signs with which :math:`\nabla f + A^T y = 0`, where A is the Jacobian of the rows: non-negative
for g, positive at an upper and negative at a lower bound.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._closure import output_shape
from jaxsolve._inputs import power_of_two
from jaxsolve._loop import run_if_any
from jaxsolve._types import Array, PyTree
from jaxsolve._vectors import flat, ravel, unraveled
from jaxsolve.solvers._bounds import bounds_like
from jaxsolve.solvers.quadratic._problem import DenseMatrix, QuadraticProgram
from jaxsolve.solvers.quadratic._scaling import Scaling

__all__ = ["Local", "NonlinearProgram", "Sizes", "make_program", "margins", "scaling_at", "sizes_at"]


class Local(NamedTuple):
    """A program at a point, to second order.

    Attributes:
        values: f, h and g, shape ``(1 + m,)``.
        jacobian: their derivatives, shape ``(1 + m, n)``.
        hessian: second derivatives of the Lagrangian, shape ``(n, n)``.
    """

    values: Array
    jacobian: Array
    hessian: Array


class NonlinearProgram(NamedTuple):
    """A nonlinear program over vectors, in the units of the user or in others.

    Attributes:
        values: ``values(x)`` is f, h and g in one vector, shape ``(1 + m,)``.
        local: ``local(x, y)``, the program at a point; y are the multipliers of h and g, shape ``(m,)``.
        lower: bounds of x, shape ``(n,)``.
        upper: likewise.
        num_eq: number of rows of h.
        bounded: whether there are bounds; if not, x is no row.
        unravel_x: vectors to pytrees like the parameters.
        unravel_eq: vectors to pytrees like the output of ``eq_fun``; ``None`` without one.
        unravel_ineq: likewise.
    """

    values: Callable[[Array], Array]
    local: Callable[[Array, Array], Local]
    lower: Array
    upper: Array
    num_eq: int
    bounded: bool
    unravel_x: Callable[[Array], PyTree]
    unravel_eq: Callable[[Array], PyTree]
    unravel_ineq: Callable[[Array], PyTree]

    def scaled(self, scaling: Scaling) -> NonlinearProgram:
        r"""The program in units D of x, 1/E of the rows and 1/c of the objective; all are powers of two."""
        variables, rows, cost, *_ = scaling
        unit = jnp.concatenate([cost[None], rows])

        def local(x, y):
            at = self.local(variables * x, rows * y / cost)
            jacobian = unit[:, None] * at.jacobian * variables[None]
            return Local(unit * at.values, jacobian, cost * (variables[:, None] * at.hessian * variables[None]))

        return self._replace(
            values=lambda x: unit * self.values(variables * x),
            local=local,
            lower=self.lower / variables,
            upper=self.upper / variables,
        )

    def curvature(self, x: Array) -> Array:
        """The diagonal of the Hessian of the objective, one product with it for each variable; shape ``(n,)``."""
        product = jax.linearize(jax.grad(lambda x: self.values(x)[0]), x)[1]
        index = jnp.arange(x.size)
        return lax.map(lambda i: product((index == i).astype(x.dtype))[i], index)

    def rows_at(self, x: Array, constraints: Array) -> Array:
        """The rows, given h and g."""
        return jnp.concatenate([constraints, x]) if self.bounded else constraints

    def limits(self, constraints: Array) -> tuple[Array, Array]:
        """The bounds of the rows."""
        zeros = jnp.zeros_like(constraints)
        below = jnp.where(jnp.arange(zeros.size) < self.num_eq, zeros, -jnp.inf)
        return self.rows_at(self.lower, below), self.rows_at(self.upper, zeros)

    def split(self, y: Array) -> tuple[Array, Array, Array]:
        """A vector of the rows as its parts of h, g and x; that of x is 0 where x is no row."""
        m = y.size - self.lower.size if self.bounded else y.size
        of_x = y[m:] if self.bounded else jnp.zeros_like(self.lower)
        return y[: self.num_eq], y[self.num_eq : m], of_x

    def quadratic(self, at: Local, q: Array) -> QuadraticProgram:
        """The quadratic program with the derivatives at a point and the bounds of the rows."""
        jacobian = at.jacobian[1:]
        A = jnp.concatenate([jacobian, jnp.eye(q.size, dtype=q.dtype)]) if self.bounded else jacobian
        return QuadraticProgram(DenseMatrix(at.hessian), q, DenseMatrix(A), *self.limits(at.values[1:]))

    def violation(self, constraints: Array) -> Array:
        """By how much h and g are violated, shape ``(m,)``."""
        is_eq = jnp.arange(constraints.size) < self.num_eq
        return jnp.where(is_eq, constraints, jnp.maximum(constraints, 0))


def make_program(
    objective: Any,
    eq_fun: Callable | None,
    ineq_fun: Callable | None,
    params: PyTree,
    bounds: Any,
    args: tuple,
    kwargs: dict,
) -> NonlinearProgram:
    """The program of functions of the user.

    Args:
        objective: a :class:`jaxsolve.base._objective.Objective`.
        eq_fun: ``eq_fun(params, *args, **kwargs)``, any pytree, or ``None``.
        ineq_fun: likewise.
        params: a point, for shapes and dtypes.
        bounds: pair of lower and upper bounds, or ``None``.
        args: data of the functions.
        kwargs: likewise.
    """
    x, unravel = ravel(params)
    dtype = x.dtype if jnp.finfo(x.dtype).bits >= 32 else jnp.dtype(jnp.float32)
    functions = [f for f in (eq_fun, ineq_fun) if f is not None]
    eq, ineq = (None if f is None else output_shape(f, params, *args, **kwargs) for f in (eq_fun, ineq_fun))
    sides = (-jnp.inf, jnp.inf) if bounds is None else bounds
    lower, upper = (flat(side, dtype) for side in bounds_like(sides, params))

    def values(x):
        params = unravel(x)
        value, _ = objective.value(params, *args, **kwargs)
        return flat([value, *(f(params, *args, **kwargs) for f in functions)], dtype)

    def local(x, y):
        weights = jnp.concatenate([jnp.ones(1, dtype), y])
        jacobian = jax.jacrev if weights.size <= x.size else jax.jacfwd
        hessian = jax.jacfwd(jax.grad(lambda x: weights @ values(x)))(x)
        return Local(values(x), jacobian(values)(x), hessian)

    num_eq = sum(leaf.size for leaf in jax.tree.leaves(eq))
    return NonlinearProgram(
        values, local, lower, upper, num_eq, bounds is not None, unravel, unraveled(eq), unraveled(ineq)
    )


# In scaled units the gradient of the objective at the first point has a largest entry of this size.
_SLOPE = 1.0
# How much a second derivative, or the value of a constraint, counts beside a first derivative.
_SHARE = 0.1


class Sizes(NamedTuple):
    """What tells the sizes of variables that are 0 at a point, in their own units; 0 or infinite where it does not.

    Attributes:
        bounds: the smaller of the two that is not 0, shape ``(n,)``.
        turns: where the slope of the objective vanishes along each variable, shape ``(n,)``.
        reaches: where the first constraint vanishes, shape ``(n,)``.
    """

    bounds: Array
    turns: Array
    reaches: Array


def sizes_at(program: NonlinearProgram, values: Array, jacobian: Array, curvature: Array) -> Sizes:
    """The sizes that the program tells at a point; ``curvature`` is the diagonal of the Hessian of the objective."""
    values, jacobian, curvature = (jnp.abs(part) for part in (values, jacobian, curvature))
    bounds = jnp.abs(jnp.stack([program.lower, program.upper]))
    bounds = jnp.where(jnp.isfinite(bounds) & (bounds > 0), bounds, jnp.inf)
    turns = jnp.where(curvature > 0, jacobian[0] / jnp.where(curvature > 0, curvature, 1), 0)
    reaches = values[1:, None] / jnp.where(jacobian[1:] > 0, jacobian[1:], 1)
    reaches = jnp.min(jnp.where((jacobian[1:] > 0) & (reaches > 0), reaches, jnp.inf), axis=0, initial=jnp.inf)
    return Sizes(jnp.min(bounds, axis=0), turns, reaches)


def _is_known(size: Array) -> Array:
    return (size > 0) & jnp.isfinite(size)


def margins(program: NonlinearProgram, x: Array, sizes: Sizes | None, share: float) -> tuple[Array, Array]:
    """How far inside of the lower and of the upper bound a point is to be, and which entries have no size of their own.

    That is a share of the size of the bound or of the variable, whichever is larger, and no more than of the distance
    of the bounds. Where both are 0 the program tells, by ``sizes``, how far away something happens; it is 1 if it does
    not.
    """
    width = program.upper - program.lower
    width = jnp.where(jnp.isfinite(width), width, jnp.inf)
    bounds = jnp.stack([program.lower, program.upper])
    own = jnp.maximum(jnp.where(jnp.isfinite(bounds), jnp.abs(bounds), 0), jnp.abs(x)[None])
    lacking = jnp.any((own == 0) & jnp.isfinite(bounds), axis=0) & (width > 0)
    told = jnp.ones_like(x)
    if sizes is not None:
        told = functools.reduce(jnp.maximum, [jnp.where(_is_known(size), size, 0) for size in sizes[1:]])
        told = jnp.where(told > 0, told, jnp.where(_is_known(sizes.bounds), sizes.bounds, 1))
    inside = share * jnp.minimum(jnp.where(own > 0, own, told[None]), width[None])
    return inside, lacking


def scaling_at(
    program: NonlinearProgram,
    x: Array,
    values: Array,
    jacobian: Array,
    hessian: Array | None = None,
    *,
    curvature_at: Callable[[Array], Array] | None = None,
) -> Scaling:
    """Units in which the functions have derivatives around 1 at a point, powers of two and constants to derivatives.

    The unit of a variable is its value; where that is 0, the size of its bounds, or else the distance at which the
    objective or a constraint vanishes or turns along it. Another unit of a variable, a constraint or the objective
    changes its factor by the inverse of that unit, and nothing else.

    Args:
        program: the program.
        x: the point.
        values: those of the functions there.
        jacobian: their derivatives.
        hessian: that of the Lagrangian.
        curvature_at: without one, the diagonal of the Hessian of the objective at a point, which is wanted where
            nothing else tells the unit of a variable.
    """
    x, values, jacobian = lax.stop_gradient((x, jnp.abs(values), jnp.abs(jacobian)))
    hessian = None if hessian is None else lax.stop_gradient(jnp.abs(hessian))
    curvature = jnp.zeros_like(x) if hessian is None else jnp.diagonal(hessian)
    sizes = sizes_at(program, values, jacobian, curvature)

    def first_known(sizes):
        variables = jnp.abs(x)
        for candidate in sizes:
            variables = jnp.where(_is_known(variables), variables, candidate)
        return variables

    variables = first_known(sizes)
    if curvature_at is not None:
        lacking = jnp.any(~_is_known(variables))
        curvature = run_if_any(lacking, lambda _: lax.stop_gradient(curvature_at(x)), curvature)
        turns = sizes_at(program, values, jacobian, curvature).turns
        variables = jnp.where(_is_known(variables), variables, turns)
    variables = power_of_two(variables)

    slopes = jnp.max(jacobian * variables[None], axis=1)
    second = 0 if hessian is None else jnp.max(variables[:, None] * hessian * variables[None])
    cost = power_of_two(_SLOPE / _known(jnp.maximum(slopes[0], _SHARE * second)))
    rows = power_of_two(1 / _known(jnp.maximum(slopes[1:], _SHARE * values[1:])))
    one = jnp.ones((), x.dtype)
    return Scaling(variables, rows, cost, one, (variables, rows, cost))


def _known(size: Array) -> Array:
    """A size, or 1 where there is none."""
    return jnp.where((size > 0) & jnp.isfinite(size), size, 1)
