"""Derivatives by formula, for results that come out of a loop or a factorization.

The formulas are exact at the solution, contain the solution itself, and are differentiable in it; so they give
derivatives of every order, without a trace of how the solution was computed.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxsolve._primitives import with_tangents
from jaxsolve._types import Array

__all__ = ["derive_by", "scalar_root"]


def derive_by(tangent: Callable[..., Array], value: Array, *data: Array) -> Array:
    """Return ``value``, with ``tangent`` as its derivative in ``data``.

    Args:
        tangent: ``tangent(value, data, tangents)``, linear in ``tangents``, differentiable in the others, closing over
            no tracer. ``tangents`` has one entry for each of ``data``; those of integer arrays are None.
        value: array; its own tangent is ignored.
        *data: arrays on which the derivative depends. What is not to be differentiated goes through
            ``lax.stop_gradient``, or is of integer dtype.
    """

    def rule(args, active, tangents):
        value, *data = args
        full = [jnp.zeros_like(x) if jnp.issubdtype(x.dtype, jnp.inexact) else None for x in data]
        for position, moving in zip(active, tangents, strict=True):
            full[position - 1] = moving
        return [tangent(value, tuple(data), tuple(full))]

    return with_tangents([value], list(data), rule)[0]


def scalar_root(fun: Callable[..., Array], root: Array, *data: Array) -> Array:
    """Return a root of ``fun(., *data)`` with the derivative of the implicit function theorem.

    Args:
        fun: ``fun(root, *data)``, a scalar; it closes over no tracer. Its slope in ``root`` must not be 0.
        root: scalar.
        *data: arrays.
    """

    def tangent(root, data, tangents):
        _, change = jax.jvp(lambda *data: fun(root, *data), data, tangents)
        _, slope = jax.jvp(lambda root: fun(root, *data), (root,), (jnp.ones_like(root),))
        return -change / slope

    return derive_by(tangent, root, *data)
