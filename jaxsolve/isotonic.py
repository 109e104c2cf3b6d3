r"""Isotonic regression, and sorting and ranking made differentiable by it.

Everything here is computed in JAX, on any device, by one algorithm that pools violators in parallel. Derivatives are
those of the block means, or block ``logsumexp``, for fixed blocks. They are exact where the blocks do not change, in
both modes and of any order. Where the blocks change, *a constraint that holds with equality is active*: neighbors with
equal values form one block, and the derivative is averaged over it. A non-finite entry makes the whole result and its
derivative NaN.

Sequences are vectors of shape ``(n,)``. For a batch use ``jax.vmap``.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._compat import gathered, is_concrete
from jaxsolve._inputs import as_array, as_scalar, check_entries, check_nonnegative, nan_unless, power_of_two, widen
from jaxsolve._pav import LOGARITHMIC, block_log_softmax, block_max, block_min, block_softmax, block_sum, pool
from jaxsolve._primitives import with_tangents
from jaxsolve._types import Array
from jaxsolve.tree_util import tree_all_finite

__all__ = ["isotonic_kl_pav", "isotonic_l2_pav", "soft_rank", "soft_sort"]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)


def isotonic_l2_pav(
    y: Any, y_min: Any = -float("inf"), y_max: Any = float("inf"), increasing: bool = True, *, weights: Any = None
) -> Array:
    r"""Isotonic regression: the monotone sequence nearest to ``y``.

    .. math::

        \operatorname*{argmin}_{v} \tfrac12 \sum_i w_i (v_i - y_i)^2
        \quad \text{subject to} \quad v_1 \le \dots \le v_n, \; y_{\min} \le v_i \le y_{\max} .

    The solution is constant on blocks, where it is the weighted mean of ``y``, cut at the bounds.

    Args:
        y: real array of shape ``(n,)``.
        y_min: lower bound of the solution, a scalar.
        y_max: upper bound, a scalar.
        increasing: nondecreasing if true, nonincreasing if false.
        weights: non-negative array of shape ``(n,)``; None gives all entries the same weight. Entries of ``y`` with
            weight 0 are ignored: the solution there is equal to that of the entry before, or, at the start, to that of
            the first entry with a positive weight. If traced and negative, or all 0, the result is NaN.

    Returns:
        The solution, of the shape and dtype of ``y``. It is monotone and within the bounds exactly, in spite of
        rounding.

    Raises:
        ValueError: ``y`` is not a vector, ``weights`` has another shape or a negative entry, a bound is
            not a scalar, or ``y_min > y_max``.
        TypeError: an argument is not real, or ``increasing`` is not a bool.

    References:
        M. Best and N. Chakravarti, *Active set algorithms for isotonic regression: a unifying framework*, Mathematical
        Programming 47, 1990.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.isotonic import isotonic_l2_pav
        >>> isotonic_l2_pav(jnp.array([1.0, 4.0, 2.0, 5.0])).tolist()
        [1.0, 3.0, 3.0, 5.0]
    """
    y = _as_vector(y, "y")
    if weights is not None:
        weights = _like(weights, y, "weights")
        check_nonnegative(weights, "weights")
    return _isotonic(_regress, y, weights, y_min, y_max, increasing)


def isotonic_kl_pav(
    y: Any, w: Any = None, y_min: Any = -float("inf"), y_max: Any = float("inf"), increasing: bool = True
) -> Array:
    r"""Isotonic optimization with exponential terms, that of entropic regularization.

    .. math::

        \operatorname*{argmin}_{v} \sum_i e^{y_i - v_i} + e^{w_i} v_i
        \quad \text{subject to} \quad v_1 \le \dots \le v_n, \; y_{\min} \le v_i \le y_{\max} .

    On a block :math:`B` the solution is :math:`\log \sum_B e^{y_i} - \log \sum_B e^{w_i}`, cut at the bounds. It is
    computed in logarithms and does not overflow. It is the logarithm of the isotonic regression of
    :math:`e^{y_i - w_i}` with weights :math:`e^{w_i}`.

    Args:
        y: real array of shape ``(n,)``; ``-inf`` is the logarithm of 0.
        w: real array of shape ``(n,)``; None means zeros. Where ``y`` is ``-inf``, ``w`` may be ``-inf``, too: such an
            entry has no weight, and the solution there is equal to that of the entry before, or, at the start, to that
            of the first entry with a weight.
        y_min: lower bound of the solution, a scalar.
        y_max: upper bound, a scalar.
        increasing: nondecreasing if true, nonincreasing if false.

    Returns:
        The solution, of the shape and dtype of ``y``.

    Raises:
        ValueError: ``y`` is not a vector, ``w`` has another shape, a bound is not a scalar, or ``y_min > y_max``.
        TypeError: an argument is not real, or ``increasing`` is not a bool.

    References:
        M. Blondel, O. Teboul, Q. Berthet, J. Djolonga, *Fast differentiable sorting and ranking*, ICML 2020, section 5.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.isotonic import isotonic_kl_pav
        >>> v = isotonic_kl_pav(jnp.log(jnp.array([1.0, 4.0, 2.0, 5.0])))
        >>> print(jnp.exp(v).round(4))
        [1. 3. 3. 5.]
    """
    y = _as_vector(y, "y")
    w = jnp.zeros_like(y) if w is None else _like(w, y, "w")
    return _isotonic(_regress_kl, y, w, y_min, y_max, increasing)


def soft_sort(
    values: Any,
    regularization: Literal["l2", "kl"] = "l2",
    regularization_strength: Any = 1.0,
    direction: Literal["ASCENDING", "DESCENDING"] = "ASCENDING",
) -> Array:
    r"""Sorted values, smoothed so that every derivative is informative.

    Sorting in descending order maximizes :math:`\langle \rho, \mu \rangle`, with :math:`\rho = (n, \dots, 1)`, over
    the permutahedron of the values, the convex hull of all their orderings. The result here is the projection of
    :math:`\rho / \varepsilon` on it: in the Euclidean sense for ``"l2"``, and for ``"kl"`` in the entropic sense, where
    the exponentials of the values are permuted and the logarithm of the projection is taken.

    As :math:`\varepsilon \to 0` it tends to the sorted values, and for ``"l2"`` equals them from a positive
    :math:`\varepsilon` on; as :math:`\varepsilon \to \infty` all entries tend to their mean. It is piecewise linear in
    the values for ``"l2"``.

    Args:
        values: real array of shape ``(n,)``.
        regularization: ``"l2"`` or ``"kl"``.
        regularization_strength: :math:`\varepsilon`, a positive scalar.
        direction: ``"ASCENDING"`` or ``"DESCENDING"``.

    Returns:
        The sorted values, of the shape and dtype of ``values``.

    Raises:
        ValueError: ``values`` is not a vector, ``regularization_strength`` is not a positive scalar, or another
            argument has an unknown value.
        TypeError: an argument is not real.

    References:
        M. Blondel et al., ICML 2020, equation (5) and proposition 3 (see :func:`isotonic_kl_pav`).

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.isotonic import soft_sort
        >>> soft_sort(jnp.array([5.0, 1.0, 2.0]), regularization_strength=0.25).tolist()
        [1.0, 2.0, 5.0]
        >>> soft_sort(jnp.array([5.0, 1.0, 2.0]), regularization_strength=0.5).tolist()
        [1.0, 2.5, 4.5]
    """
    return _soft(_soft_sort, "DESCENDING", values, regularization, regularization_strength, direction)


def soft_rank(
    values: Any,
    regularization: Literal["l2", "kl"] = "l2",
    regularization_strength: Any = 1.0,
    direction: Literal["ASCENDING", "DESCENDING"] = "ASCENDING",
) -> Array:
    r"""Ranks from 1 to ``n``, smoothed so that every derivative is informative.

    The ranks of the values in ascending order maximize :math:`\langle \theta, \mu \rangle` over the permutahedron of
    :math:`(1, \dots, n)`. The result here is the projection of :math:`\theta / \varepsilon` on it: in the Euclidean
    sense for ``"l2"``, and for ``"kl"`` the projection of :math:`e^{\theta / \varepsilon}` in the sense of the
    Kullback-Leibler divergence. In both cases the ranks add up to :math:`n (n + 1) / 2`, equal values have equal ranks,
    and larger values do not have smaller ranks.

    As :math:`\varepsilon \to 0` the result tends to the ranks, with mean ranks for ties.

    Args:
        values: real array of shape ``(n,)``.
        regularization: ``"l2"`` or ``"kl"``.
        regularization_strength: :math:`\varepsilon`, a positive scalar.
        direction: ``"ASCENDING"``, where the smallest value has rank 1, or ``"DESCENDING"``.

    Returns:
        The ranks, of the shape and dtype of ``values``.

    Raises:
        ValueError: ``values`` is not a vector, ``regularization_strength`` is not a positive scalar, or another
            argument has an unknown value.
        TypeError: an argument is not real.

    References:
        M. Blondel et al., ICML 2020, equation (6) and proposition 3 (see :func:`isotonic_kl_pav`).

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.isotonic import soft_rank
        >>> soft_rank(jnp.array([5.0, 1.0, 2.0])).tolist()
        [3.0, 1.0, 2.0]
        >>> soft_rank(jnp.array([5.0, 1.0, 2.0]), regularization_strength=2.0).tolist()
        [3.0, 1.25, 1.75]
    """
    return _soft(_soft_rank, "ASCENDING", values, regularization, regularization_strength, direction)


# ---- What is checked before anything is compiled -------------------------------------------------------------------


def _as_vector(y, name):
    y = as_array(y, name)
    if y.ndim != 1:
        raise ValueError(f"{name} must be a vector, got shape {y.shape}; use jax.vmap for a batch.")
    return gathered(y)


def _like(values, y, name):
    values = _as_vector(values, name)
    if values.shape != y.shape:
        raise ValueError(f"{name} must have the shape of y, {y.shape}, got {values.shape}.")
    return values.astype(y.dtype)


def _isotonic(regress, y, w, y_min, y_max, increasing):
    """A regression between bounds, the other arguments checked."""
    y_min = as_scalar(-float("inf") if y_min is None else y_min, "y_min", y.dtype)
    y_max = as_scalar(float("inf") if y_max is None else y_max, "y_max", y.dtype)
    if is_concrete(y_min) and is_concrete(y_max) and not y_min <= y_max:
        raise ValueError(f"y_min must be at most y_max, got {y_min} and {y_max}.")
    if not isinstance(increasing, (bool, np.bool_)):
        raise TypeError(f"increasing must be True or False, got {increasing!r}.")
    return _cut_regression(regress, y, w, y_min, y_max, increasing=bool(increasing))


def _soft(function, native, values, regularization, strength, direction):
    """``function`` of the values, or of their negatives if the direction is not its ``native`` one; all checked."""
    values = _as_vector(values, "values")
    if regularization not in ("l2", "kl"):
        raise ValueError(f"regularization must be 'l2' or 'kl', got {regularization!r}.")
    if direction not in ("ASCENDING", "DESCENDING"):
        raise ValueError(f"direction must be 'ASCENDING' or 'DESCENDING', got {direction!r}.")
    strength = as_scalar(strength, "regularization_strength", values.dtype)
    check_entries(lambda s: s > 0, strength, "regularization_strength", "positive")
    if values.shape[0] == 0:
        return values
    strength = jnp.where(strength > 0, strength, jnp.full_like(strength, jnp.nan))
    return function(values, strength, sign=1 if direction == native else -1, regularization=regularization)


# ---- Regression: the solution, and its tangents on fixed blocks ------------------------------------------------------


# Compiled once for each shape, so that eager calls do not stage the loops anew.
@functools.partial(jax.jit, static_argnames=("regress", "increasing"))
def _cut_regression(regress, y, w, y_min, y_max, *, increasing):
    """The regression of ``y`` with ``w``, cut at the bounds; an entry that reaches one has the derivative of it."""
    if y.shape[0] == 0:
        return y
    order = slice(None) if increasing else slice(None, None, -1)
    x = regress(y[order], None if w is None else w[order])
    return jnp.where(x <= y_min, y_min, jnp.where(x >= y_max, y_max, x))[order]


def _regress(y, weights):
    x, start, valid = _blocks(*lax.stop_gradient((y, weights)))
    data = [y, start] if weights is None else [y, start, weights]
    return nan_unless(valid, with_tangents([x], data, _l2_tangent)[0])


def _l2_tangent(args, active, tangents):
    """The weighted block mean of the tangent of ``y``, and what the weights add."""
    x, y, start, *weights = args
    weights = weights[0] if weights else jnp.ones_like(y)
    # An entry without weight that gets some joins the block if it is below it.
    excess = jnp.where((weights > 0) | (y < x), y - x, 0)
    mean_of = jnp.where(weights > 0, weights, 0)
    moved = zip(active, tangents, strict=True)
    moments = [mean_of * tangent if position == 1 else tangent * excess for position, tangent in moved]
    return [block_sum(sum(moments[1:], start=moments[0]), start) / block_sum(weights, start)]


def _regress_kl(y, w):
    x, start, valid = _blocks_kl(*lax.stop_gradient((y, w)))
    return nan_unless(valid, with_tangents([x], [y, start, w], _kl_tangent)[0])


def _kl_tangent(args, active, tangents):
    """Block means of the tangents, each weighted by the softmax over the block."""
    _, y, start, w = args
    terms = []
    for position, tangent in zip(active, tangents, strict=True):
        term = block_sum(block_softmax(y if position == 1 else w, start) * tangent, start)
        terms.append(term if position == 1 else -term)
    return [sum(terms[1:], start=terms[0])]


def _blocks(y, weights):
    """Solution, first entries of the blocks, and whether there is a solution; blocks of one entry where there is none.

    ``y`` is not looked at where the weight is 0.
    """
    dtype = y.dtype
    y, weights = widen((y, weights))
    valid = jnp.asarray(True)
    if weights is not None:
        weighs = weights > 0
        valid = jnp.all((weights >= 0) & (weights < jnp.inf)) & jnp.any(weighs)
        # Only ratios matter; sums shall not overflow.
        weights = jnp.where(valid, weights, 1) / power_of_two(jnp.max(jnp.where(valid, weights, 1)))
        y = _fill(y, weighs)
    valid = valid & tree_all_finite(y)
    y = jnp.where(valid, y, jnp.zeros_like(y))
    scale = power_of_two(jnp.max(jnp.abs(y)))
    x, start = pool(y / scale, weights, jnp.ones((), y.dtype))
    return (x * scale).astype(dtype), start, valid


def _blocks_kl(y, w):
    """The same for the entropic problem; ``y`` may be ``-inf``, and ``w`` where ``y`` is."""
    dtype = y.dtype
    y, w = widen((y, w))
    weighs = w > -jnp.inf
    valid = jnp.all((y < jnp.inf) & (w < jnp.inf) & (weighs | (y == -jnp.inf))) & jnp.any(weighs)
    ratio = _fill(jnp.where(weighs, y - w, -jnp.inf), weighs)
    ratio = jnp.where(valid, ratio, jnp.zeros_like(ratio))
    # Only ratios of masses matter; near 0 their logarithms are precise.
    w = jnp.where(valid, w - jnp.max(w), jnp.zeros_like(w))
    largest = jnp.max(jnp.where(ratio > -jnp.inf, ratio, 0))
    start = pool(ratio, w, largest, LOGARITHMIC)[1]
    # Differences of logarithms of totals and masses would be less precise than means of ratios near their largest.
    largest = block_max(ratio, start)
    size = jnp.where(largest > -jnp.inf, largest, 0)
    mean = size + jnp.log(block_sum(block_softmax(w, start) * jnp.exp(ratio - size), start))
    return lax.cummax(mean).astype(dtype), start, valid


def _fill(y, weighs):
    """Entries without weight take the value of the entry before; at the start, that of the first one with weight."""
    index = jnp.where(weighs, jnp.arange(y.shape[0], dtype=jnp.int32), -1)
    index = lax.cummax(index)
    return jnp.take(y, jnp.where(index < 0, jnp.argmax(weighs).astype(jnp.int32), index), mode="clip")


# ---- The permutahedron, and what is built on it ----------------------------------------------------------------------
#
# Here `v` and `w` are descending. What is projected is `v / strength`; it is not formed, for its differences matter and
# not its level, beside which they may be rounding: so entries are compared before they are divided.


def project_sorted(v: Array, w: Array, strength: Any = 1.0) -> Array:
    """Euclidean projection of ``v / strength`` on the permutahedron of ``w``; also used by projection."""
    strength = jnp.asarray(strength).astype(v.dtype)
    start = _blocks(_rise(v, w, strength), None)[1]
    count = block_sum(jnp.ones_like(v), start)
    first, offset = _first(w, start), _over(v - _first(v, start), strength)
    mean = first + block_sum(w - first, start) / count
    return _among(mean + (offset - block_sum(offset, start) / count), v, w, strength, start)


def _log_project_sorted(v, w, strength):
    """The logarithm of the KL projection of ``exp(v / strength)`` on the permutahedron of ``exp(w)``."""
    start, share = _shares(v, w, strength)
    first = _first(w, start)
    total = first + jnp.log(block_sum(jnp.exp(w - first), start))
    return _among(total + share, v, w, strength, start)


def _kl_project_sorted(v, w, strength):
    """The KL projection of ``exp(v / strength)`` on the permutahedron of the positive ``w``."""
    start, share = _shares(v, jnp.log(w), strength)
    return _among(block_sum(w, start) * jnp.exp(share), v, w, strength, start)


def _shares(v, log_w, strength):
    """The blocks of the entropic problem, and the logarithm of what part of its block an entry gets."""
    rise = _rise(v, log_w, strength)
    start = _blocks_kl(lax.stop_gradient(log_w), lax.stop_gradient(log_w) - rise)[1]
    return start, block_log_softmax(_over(v - _first(v, start), strength), start)


def _rise(v, w, strength):
    """``w - v / strength``, with blocks of the same entries, from the differences of neighbors.

    Differences beyond all that falls elsewhere cannot be pooled over, however large they are; beside them the others
    would be rounding.
    """
    v, w, strength = lax.stop_gradient((v, w, strength))
    step = (v[:-1] - v[1:]) / strength - (w[:-1] - w[1:])
    fall = jnp.sum(jnp.maximum(-step, 0))
    step = jnp.where(fall > 0, jnp.minimum(step, 2 * fall), jnp.sign(step))
    return jnp.concatenate([jnp.zeros_like(w[:1]), jnp.cumsum(step)])


def _over(v, strength):
    """``v / strength``, whose derivative would have the square of the strength, which need not be representable."""
    unit = power_of_two(strength)
    return (v / unit) / (strength / unit)


def _first(v, start):
    return lax.stop_gradient(jnp.take(v, start, mode="clip"))


def _among(p, v, w, strength, start):
    """``p`` between the smallest and the largest ``w`` of its block, whatever the rounding; NaN for bad arguments."""
    valid = tree_all_finite((v, w)) & (strength > 0)
    low, high = block_min(lax.stop_gradient(w), start), _first(w, start)
    p = with_tangents([jnp.clip(lax.stop_gradient(p), low, high)], [p], lambda args, active, tangents: tangents)[0]
    return nan_unless(valid, p)


def sort_descending(v: Array) -> tuple[Array, Array]:
    """The entries in descending order, and for each entry its place in it; also used by projection."""
    order = jnp.argsort(lax.stop_gradient(v), descending=True)
    place = jnp.zeros_like(order).at[order].set(jnp.arange(v.shape[0], dtype=order.dtype))
    return jnp.take(v, order, mode="clip"), place


@functools.partial(jax.jit, static_argnames=("sign", "regularization"))
def _soft_sort(values, strength, *, sign, regularization):
    w, _ = sort_descending(widen(sign * values))
    project = project_sorted if regularization == "l2" else _log_project_sorted
    return (sign * project(_falling(w), w, strength.astype(w.dtype))).astype(values.dtype)


@functools.partial(jax.jit, static_argnames=("sign", "regularization"))
def _soft_rank(values, strength, *, sign, regularization):
    v, place = sort_descending(widen(sign * values))
    project = project_sorted if regularization == "l2" else _kl_project_sorted
    ranks = project(v, _falling(v), strength.astype(v.dtype))
    return jnp.take(ranks, place, mode="clip").astype(values.dtype)


def _falling(like):
    """The numbers from n to 1."""
    return jnp.arange(like.shape[0], 0, -1, dtype=like.dtype)
