r"""Points of the central path as functions of ``v = y - s``: what takes the place of the projection off the boundary.

For :math:`\mu > 0` there is one :math:`y` in the interior of the dual cones with

.. math::  y - v = s, \qquad s = -\mu \nabla f_*(y),

where :math:`f_*` is the barrier of the dual cones: the minimizer of :math:`\tfrac12 |y - v|^2 + \mu f_*(y)`. As
:math:`\mu` tends to 0 it tends to the projection. Its derivative :math:`(I + \mu \nabla^2 f_*(y))^{-1}` has all
eigenvalues strictly between 0 and 1, and the eigenvectors of the derivative of the projection.

Non-negative rows, second-order cones and semidefinite matrices take the positive root of
:math:`y^2 - v y = \mu` of each eigenvalue; the products :math:`y \circ s` are :math:`\mu` times the unit. For
exponential and power cones it is found by Newton's method. Derivatives of every order come from the equation itself.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._loop import loop
from jaxsolve._rules import derive_by
from jaxsolve._types import Array
from jaxsolve.solvers.conic._barriers import Exponential, Power
from jaxsolve.solvers.conic._barriers import _solve as solve_positive
from jaxsolve.solvers.conic._scalings import smat, spin, svec
from jaxsolve.solvers.conic._slopes import Rows, SecondOrder, Semidefinite, Slopes, Three
from jaxsolve.solvers.conic.cones import Block, Cones, project_block

__all__ = ["relaxed_multipliers", "relaxed_slopes"]

_MAX_NEWTON_STEPS = 60
# Newton's method for a self-concordant function takes full steps where its decrement is less than this.
_NEAR = 0.25


def relaxed_multipliers(cones: Cones, v: Array, mu: Any) -> Array:
    """The multipliers ``y`` of the point of the central path with ``y - s = v``; derivatives in ``v`` alone.

    Args:
        cones: the cones.
        v: shape ``(m,)``.
        mu: the complementary products, a positive scalar.
    """
    mu = lax.stop_gradient(jnp.asarray(mu).astype(v.dtype))

    def of(block: Block, rows: Array) -> Array:
        if block.kind == "zero":
            return rows
        if block.kind.startswith("dual_"):  # slacks and multipliers are exchanged
            return rows + of(block._replace(kind=block.kind.removeprefix("dual_")), -rows)
        y, _ = _point(block, lax.stop_gradient(rows), mu)
        return derive_by(functools.partial(_tangent, block), y, rows, mu)

    return cones.map_blocks(of, v)


def relaxed_slopes(cones: Cones, v: Array, mu: Any) -> Slopes:
    """The derivative of :func:`relaxed_multipliers` with respect to ``v``."""

    def of(block: Block) -> Any:
        rows = block.of(v)
        if block.kind == "zero":
            return Rows(jnp.ones_like(rows))
        if not block.kind.startswith("dual_"):
            return _point(block, rows, mu)[1]
        _, part = _point(block._replace(kind=block.kind.removeprefix("dual_")), -rows, mu)
        return part._replace(values=1 - part.values)

    return Slopes(cones, tuple(map(of, cones.blocks)))


def _root(v: Array, mu: Array) -> Array:
    """The positive root of ``y**2 - v y = mu``."""
    length = jnp.sqrt(v**2 + 4 * mu) + jnp.abs(v)
    return jnp.where(v > 0, length / 2, 2 * mu / length)


def _point(block: Block, v: Array, mu: Array) -> tuple[Array, Any]:
    """The multipliers, and the derivative by its eigenvalues."""

    def share(y, s):
        return y / (y + s)

    if block.kind == "nonneg":
        y = _root(v, mu)
        return y, Rows(share(y, _root(-v, mu)))
    if block.kind == "soc":
        directions, length = spin(v[:, 1:])
        ends = v[:, :1] + length, v[:, :1] - length
        (y_up, y_down), (s_up, s_down) = ([_root(sign * end, mu) for end in ends] for sign in (1, -1))
        values = share(y_up, s_up), share(y_down, s_down), share(y_up + y_down, s_up + s_down)
        y = jnp.concatenate([y_up + y_down, (y_up - y_down) * directions.direction], axis=1) / 2
        return y, SecondOrder(directions, values)
    if block.kind == "psd":
        eigenvalues, vectors = jnp.linalg.eigh(smat(v))
        y, s = _root(eigenvalues, mu), _root(-eigenvalues, mu)
        sums = [part[:, :, None] + part[:, None, :] for part in (y, s)]
        return svec((vectors * y[:, None, :]) @ jnp.swapaxes(vectors, 1, 2)), Semidefinite(vectors, share(*sums))
    nearest = project_block(block, v, dual=True)
    y, hessians = _over_cones(functools.partial(_newton, mu=mu), block, v, nearest)
    stiffness, vectors = jnp.linalg.eigh(hessians)
    return y, Three(vectors, 1 / (1 + mu * jnp.maximum(stiffness, 0)))


def _over_cones(fun: Any, block: Block, *rows: Array) -> Any:
    """``fun(barriers, *rows)`` for each exponential or power cone of a block."""
    if block.exponents is None:
        return jax.vmap(functools.partial(fun, Exponential()))(*rows)
    return jax.vmap(fun)(Power(jnp.asarray(block.exponents, rows[0].dtype)), *rows)


def _newton(barriers: Any, v: Array, nearest: Array, *, mu: Array) -> tuple[Array, Array]:
    """The multipliers of one cone, and the second derivative of the barrier there.

    Args:
        barriers: of the cone.
        v: shape ``(3,)``.
        nearest: its projection on the dual cone.
        mu: the complementary products.
    """
    gradient = jax.grad(barriers.dual_barrier)
    hessian, eye = jax.jacfwd(gradient), jnp.eye(3, dtype=v.dtype)
    enough = float(jnp.finfo(v.dtype).eps) ** 0.5

    def step(carry):
        y, _, count = carry
        slope, curvature = y - v + mu * gradient(y), eye + mu * hessian(y)
        direction = solve_positive(curvature, slope)
        decrement = jnp.sqrt(jnp.maximum(slope @ direction, 0) / mu)
        return y - direction / jnp.where(decrement > _NEAR, 1 + decrement, 1), decrement, count + 1

    # As deep in the cone as the point of the path will be, in the direction of its center.
    depth = _root(-jnp.sqrt(jnp.sum((nearest - v) ** 2)), mu)
    start = nearest + depth * jnp.asarray(barriers.center(), v.dtype)
    carry = start, jnp.ones_like(mu), jnp.zeros((), jnp.int32)
    y, *_ = loop(lambda carry: carry[1] > enough, step, carry, maxiter=_MAX_NEWTON_STEPS)
    return y, hessian(y)


# ---- Derivatives -----------------------------------------------------------------------------------------------------


def _tangent(block: Block, y: Array, data: tuple, tangents: tuple) -> Array:
    """The change of the multipliers with ``v``: the solution of the linearized equation."""
    v, mu = data

    def push(y):
        return mu * _slack(block, y)

    def matvec(change):
        return change - jax.jvp(push, (y,), (change,))[1]

    _, slope = _point(block, lax.stop_gradient(v), lax.stop_gradient(mu))
    return lax.custom_linear_solve(
        matvec, tangents[0], lambda _, right: slope.apply(lambda d: d, right), symmetric=True
    )


def _slack(block: Block, y: Array) -> Array:
    """The slacks on the central path where products are 1: minus the gradient of the barrier of the dual cones."""
    if block.kind == "nonneg":
        return 1 / y
    if block.kind == "soc":
        head, tail = y[:, :1], y[:, 1:]
        return jnp.concatenate([head, -tail], axis=1) / (head**2 - jnp.sum(tail**2, axis=1, keepdims=True))
    if block.kind == "psd":
        return svec(jnp.linalg.inv(smat(y)))
    return _over_cones(lambda barriers, y: -jax.grad(barriers.dual_barrier)(y), block, y)
