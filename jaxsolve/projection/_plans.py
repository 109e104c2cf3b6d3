"""What the kinds of transport share: plans that are brought to the marginals that they nearly have."""

from __future__ import annotations

import jax.numpy as jnp

__all__ = ["reciprocal", "to_marginals"]


def to_marginals(plan, a, b, mass=None):
    """A plan near the given one with the marginals ``a`` and ``b`` (Altschuler et al. 2017, algorithm 2).

    Rows and columns with too much are scaled down, and what is missing is added as a matrix of rank one. With a
    ``mass``, which is at most their sums, the plan has that mass, and the marginals are bounds.
    """
    plan = jnp.where(jnp.isfinite(plan), plan, 0)
    plan = plan * jnp.minimum(1, a * reciprocal(jnp.sum(plan, axis=1)))[:, None]
    plan = plan * jnp.minimum(1, b * reciprocal(jnp.sum(plan, axis=0)))[None, :]
    rows, columns = jnp.maximum(a - jnp.sum(plan, axis=1), 0), jnp.maximum(b - jnp.sum(plan, axis=0), 0)
    parts = rows * reciprocal(jnp.sum(rows))
    if mass is None:
        return plan + parts[:, None] * columns[None, :]
    surplus = jnp.sum(plan) / mass
    plan = plan / jnp.maximum(surplus, 1)
    missing = jnp.maximum(mass - jnp.sum(plan), 0)
    return plan + missing * parts[:, None] * (columns * reciprocal(jnp.sum(columns)))[None, :]


def reciprocal(x):
    """``1 / x``, and 0 where ``x`` is not positive."""
    return jnp.where(x > 0, 1 / jnp.where(x > 0, x, jnp.ones_like(x)), jnp.zeros_like(x))
