r"""The entmax mapping between softmax and the projection on the simplex, and beyond both.

With :math:`c = \alpha - 1` and the deformed exponential :math:`e_\alpha(u) = \max(1 + c u, 0)^{1 / c}`, whose limit at
:math:`\alpha = 1` is :math:`e^u`, the solution is :math:`p_i = e_\alpha(x_i - \tau)` with the threshold :math:`\tau` at
which it sums to 1. The sum falls as the threshold rises, and the largest entry, between :math:`1 / n` and 1, brackets
it.

The derivative follows from :math:`p` alone: with :math:`s_i = p_i^{2 - \alpha}` on the support and
:math:`q = \partial e_\alpha / \partial \alpha` it is
:math:`\dot p = s \odot (\dot x - \dot\tau) + q \dot\alpha` with the :math:`\dot\tau` at which it sums to 0 [1]_ [2]_.

.. [1] B. Peters, V. Niculae, A. Martins, *Sparse sequence-to-sequence models*, ACL 2019, proposition 1.
.. [2] G. Correia, V. Niculae, A. Martins, *Adaptively sparse transformers*, EMNLP 2019, proposition 1.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._inputs import as_inexact, as_scalar, check_entries, widen
from jaxsolve._loop import loop
from jaxsolve._rules import derive_by
from jaxsolve._types import PyTree
from jaxsolve._vectors import ravel
from jaxsolve.tree_util import tree_size

__all__ = ["entmax", "entmax_of_vector", "largest_with_entropy", "positive_order"]


def entmax(x: PyTree, alpha: Any = 1.5) -> PyTree:
    r"""The distribution of largest expected score plus Tsallis entropy.

    .. math::

        \operatorname*{argmax}_{p \in \Delta} \langle p, x \rangle + \frac{1}{\alpha (\alpha - 1)} \sum_i p_i -
        p_i^\alpha .

    For :math:`\alpha = 1`, where the entropy is Shannon's, it is the softmax, and for :math:`\alpha = 2` it is
    :func:`projection_simplex`. For :math:`\alpha > 1` it is sparse; with larger :math:`\alpha` more entries are 0. An
    entry that just becomes 0 has derivative 0.

    Args:
        x: vector of shape ``(n,)``, or a pytree of arrays, whose entries form one vector together. For the rows of a
            matrix use ``jax.vmap(entmax, (0, None))``. Entries of ``-inf`` are allowed and get 0.
        alpha: :math:`\alpha > 0`, a scalar; None means 1.5. If it is traced and not positive the result is NaN.

    Returns:
        The probabilities, with the structure, shapes and dtypes of ``x``, differentiable in ``x`` and ``alpha``. They
        are NaN if an entry of ``x`` is NaN or ``inf``, or all of them are ``-inf``.

    Raises:
        ValueError: ``x`` is empty, or a single array that is not a vector; ``alpha`` is not a positive scalar.
        TypeError: an argument is not real.

    References:
        B. Peters, V. Niculae, A. Martins, *Sparse sequence-to-sequence models*, ACL 2019. M. Blondel, A. Martins, V.
        Niculae, *Learning with Fenchel-Young losses*, JMLR 21, 2020, section 4.3.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import entmax
        >>> [round(p, 3) for p in entmax(jnp.array([1.0, 0.0, -2.0]), 1.5).tolist()]
        [0.831, 0.169, 0.0]
        >>> [round(p, 3) for p in entmax(jnp.array([1.0, 0.5, -2.0]), 2.0).tolist()]
        [0.75, 0.25, 0.0]
    """
    x = as_inexact(x, "x")
    leaves = jax.tree.leaves(x)
    if tree_size(x) == 0 or (jax.tree.structure(x) == jax.tree.structure(0) and leaves[0].ndim != 1):
        raise ValueError(
            f"entmax: x must be a vector with at least one entry, or a pytree of arrays, got "
            f"{jax.tree.map(jnp.shape, x)}; use jax.vmap for the rows of a matrix."
        )
    vector, unravel = ravel(widen(x))
    out = unravel(entmax_of_vector(vector, positive_order(alpha, vector.dtype)))
    return jax.tree.map(lambda p, leaf: p.astype(leaf.dtype), out, x)


def positive_order(alpha: Any, dtype: Any) -> jax.Array:
    """The order as a scalar of the given dtype, checked; 1.5 for None, NaN if it is traced and not positive."""
    alpha = 1.5 if alpha is None else alpha
    check_entries(lambda a: a > 0, alpha, "alpha", "positive")
    alpha = as_scalar(alpha, "alpha", dtype)
    return jnp.where(alpha > 0, alpha, jnp.nan)


@jax.jit
def entmax_of_vector(x: jax.Array, alpha: jax.Array) -> jax.Array:
    """:func:`entmax` of a vector of 32 bits or more; ``alpha`` has its dtype."""
    return derive_by(_tangent, _solve(*lax.stop_gradient((x, alpha))), x, alpha)


@jax.jit
def largest_with_entropy(x: jax.Array, alpha: jax.Array) -> jax.Array:
    """The maximum of which :func:`entmax` is the argument, with it as gradient (Danskin); entries may be ``-inf``."""
    p = _solve(*lax.stop_gradient((x, alpha)))
    log_p = jnp.log(jnp.where(p > 0, p, jnp.ones_like(p)))
    entropy = -jnp.sum(p * log_p * _ratio((alpha - 1) * log_p)) / alpha
    value = jnp.sum(p * jnp.where(p > 0, x, jnp.zeros_like(x))) + entropy
    return derive_by(_tangent_of_largest, lax.stop_gradient(value), x, alpha)


def _tangent_of_largest(_, data, tangents):
    x, alpha = data
    x_dot, alpha_dot = tangents
    p = entmax_of_vector(x, alpha)
    support = ~(p <= 0)
    log_p = jnp.log(jnp.where(support, p, jnp.ones_like(p)))
    v = (alpha - 1) * log_p
    by_alpha = jnp.sum(p * log_p * (_ratio(v) / alpha + log_p * jnp.exp(v) * _phi(v))) / alpha
    return jnp.sum(p * jnp.where(support, x_dot, jnp.zeros_like(x_dot))) + alpha_dot * by_alpha


def _solve(x, alpha):
    c = alpha - 1
    x = x - jnp.max(x)
    # The inverse of the deformed exponential at 1 / n is as far as the threshold may lie above the largest entry.
    span = -_divided(jnp.expm1(-c * jnp.log(jnp.asarray(x.size, x.dtype))), c, -jnp.log(jnp.asarray(x.size, x.dtype)))

    def excess(threshold):
        return jnp.sum(_exponential(x - threshold, c)) - 1

    def halve(ends):
        low, high = ends
        middle = (low + high) / 2
        below = excess(middle) > 0
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = loop(
        # In units of the span, which is what the threshold is compared with.
        lambda ends: ends[1] - ends[0] > 0.25 * jnp.finfo(x.dtype).eps * span,
        halve,
        (jnp.zeros_like(span), span),
        maxiter=jnp.finfo(x.dtype).nmant + 4,
    )
    p = _exponential(x - (low + high) / 2, c)
    return p / jnp.sum(p)


def _exponential(u, c):
    """The deformed exponential, for entries up to 0."""
    base = c * jnp.where(jnp.isfinite(u), u, -jnp.ones_like(u))
    inside = base > -1
    power = _divided(jnp.log1p(jnp.where(inside, base, jnp.zeros_like(base))), c, u)
    values = jnp.where(inside & (u > -jnp.inf), jnp.exp(power), jnp.zeros_like(u))
    return jnp.where(jnp.isnan(u), u, values)


def _divided(x, c, limit):
    return jnp.where(c == 0, limit, x / jnp.where(c == 0, jnp.ones_like(c), c))


def _tangent(p, data, tangents):
    _, alpha = data
    x_dot, alpha_dot = tangents
    support = ~(p <= 0)  # NaN is the derivative of NaN
    log_p = jnp.log(jnp.where(support, p, jnp.ones_like(p)))
    weights = jnp.where(support, jnp.exp((2 - alpha) * log_p), jnp.zeros_like(p))
    by_alpha = jnp.where(support, p * log_p**2 * _phi((alpha - 1) * log_p), jnp.zeros_like(p))
    moved = jnp.where(support, x_dot, jnp.zeros_like(x_dot))
    threshold_dot = (jnp.sum(weights * moved) + alpha_dot * jnp.sum(by_alpha)) / jnp.sum(weights)
    return weights * (moved - threshold_dot) + alpha_dot * by_alpha


def _ratio(v):
    """``expm1(v) / v``, with its derivatives at 0."""
    return 1 - v * _phi(-v)


def _phi(v):
    r""":math:`(1 - v - e^{-v}) / v^2`, by its series where that would cancel."""
    small = jnp.abs(v) < 0.5
    safe = jnp.where(small, jnp.ones_like(v), v)
    series, term = jnp.zeros_like(v), jnp.full_like(v, -0.5)
    near = jnp.where(small, v, jnp.zeros_like(v))
    for k in range(3, 20):
        series = series + term
        term = -term * near / k
    return jnp.where(small, series, (1 - safe - jnp.exp(-safe)) / safe**2)
