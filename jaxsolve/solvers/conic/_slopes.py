"""The projection on the dual cones as a function of ``v = y - s``, and its derivative, by its eigenvalues."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsolve._types import Array
from jaxsolve.solvers.conic._scalings import Spin, smat, spin, svec
from jaxsolve.solvers.conic.cones import Block, Cones, project_block

__all__ = ["Rows", "SecondOrder", "Semidefinite", "Slopes", "Three", "multipliers", "slopes_at", "weights_of"]


class Rows(NamedTuple):
    values: Array

    def apply(self, fun: Callable[[Array], Array], v: Array) -> Array:
        return fun(self.values) * v


class SecondOrder(NamedTuple):
    spin: Spin
    values: tuple[Array, Array, Array]

    def apply(self, fun: Callable[[Array], Array], v: Array) -> Array:
        return self.spin.apply(v, *map(fun, self.values))


class Semidefinite(NamedTuple):
    vectors: Array
    values: Array

    def apply(self, fun: Callable[[Array], Array], v: Array) -> Array:
        Q, Qt = self.vectors, jnp.swapaxes(self.vectors, -1, -2)
        return svec(Q @ (fun(self.values) * (Qt @ smat(v) @ Q)) @ Qt)


class Three(NamedTuple):
    vectors: Array
    values: Array

    def apply(self, fun: Callable[[Array], Array], v: Array) -> Array:
        inner = jnp.sum(self.vectors * v[:, :, None], axis=1)
        return jnp.sum(self.vectors * (fun(self.values) * inner)[:, None, :], axis=2)


class Slopes(NamedTuple):
    """The derivative D of the projection on the dual cones at a point, a part for each block."""

    cones: Cones
    parts: tuple

    def apply(self, fun: Callable[[Array], Array], v: Array) -> Array:
        """``fun(D) v``, for a function of the eigenvalues; of a vector, or of all columns of a matrix."""
        parts = iter(self.parts)

        def of(block: Block, rows: Array) -> Array:
            product = functools.partial(next(parts).apply, fun)
            return product(rows) if v.ndim == 1 else jax.vmap(product, 2, 2)(rows)

        return self.cones.map_blocks(of, v)


def slopes_at(cones: Cones, v: Array, weights: Array) -> Slopes:
    """The derivative of the projection on the dual cones.

    Args:
        cones: the cones.
        v: shape ``(m,)``.
        weights: the slopes of non-negative rows, shape ``(m,)``; those of others are not looked at.
    """

    def of(block: Block) -> Any:
        rows = block.of(v)
        if block.kind == "zero":
            return Rows(jnp.ones_like(rows))
        if block.kind == "nonneg":
            return Rows(block.of(weights))
        if block.kind == "soc":
            directions, length = spin(rows[:, 1:])
            along, against = rows[:, :1] + length, rows[:, :1] - length
            up, down = ((part > 0).astype(v.dtype) for part in (along, against))
            across = jnp.where(length > 0, along / jnp.where(length > 0, 2 * length, 1), up)
            return SecondOrder(directions, (up, down, jnp.clip(across, 0, 1)))
        if block.kind == "psd":
            values, vectors = jnp.linalg.eigh(smat(rows))
            up, down = jnp.maximum(values, 0), jnp.maximum(-values, 0)
            ups, downs = (part[:, :, None] + part[:, None, :] for part in (up, down))
            total = ups + downs
            return Semidefinite(vectors, jnp.where(total > 0, ups / jnp.where(total > 0, total, 1), 0.5))
        project = functools.partial(project_block, block, dual=True)
        unit = jnp.eye(3, dtype=v.dtype)
        columns = jax.vmap(lambda e: jax.jvp(project, (rows,), (jnp.broadcast_to(e, rows.shape),))[1])(unit)
        jacobian = jnp.moveaxis(columns, 0, 2)
        jacobian = jnp.where(jnp.isfinite(jacobian), jacobian, 0)
        values, vectors = jnp.linalg.eigh((jacobian + jnp.swapaxes(jacobian, 1, 2)) / 2)
        return Three(vectors, jnp.clip(values, 0, 1))

    return Slopes(cones, tuple(map(of, cones.blocks)))


def multipliers(cones: Cones, v: Array, weights: Array) -> Array:
    """The projection on the dual cones, in which non-negative rows have the slopes ``weights``."""

    def of(block: Block, v: Array, weights: Array) -> Array:
        return weights * v if block.kind == "nonneg" else project_block(block, v, dual=True)

    return cones.map_blocks(of, v, weights)


def weights_of(v: Array, size: Array, weak: str | None) -> Array:
    """The slope of each row as one of a non-negative variable: 1 with a multiplier and 0 with a slack.

    Args:
        v: multipliers minus slacks, in scaled units.
        size: what is small beside it is neither.
        weak: what a row with neither is: ``"half"``, ``"active"`` or ``"inactive"``; ``None`` for the sign alone.
    """
    weights = (v > 0).astype(v.dtype)
    if weak is None:
        return weights
    undecided = jnp.abs(v) <= float(jnp.finfo(v.dtype).eps) ** 0.5 * size
    return jnp.where(undecided, {"half": 0.5, "active": 1.0, "inactive": 0.0}[weak], weights)
