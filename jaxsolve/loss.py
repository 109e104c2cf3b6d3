r"""Losses for classification and regression, with the ground truth as first argument.

Labels are integers: 0 or 1 in the binary losses, 0 to ``k - 1`` in the multiclass ones. The binary losses and
:func:`huber_loss` work entry by entry. The multiclass losses take scores of shape ``(k,)`` and one label, or a batch:
scores of shape ``(..., k)`` with labels of shape ``(...)``. A traced label out of range gives NaN in the multiclass
losses.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxsolve._compat import max_or_nan
from jaxsolve._inputs import as_array, as_inexact, check_entries, check_nonnegative, nan_unless, widen
from jaxsolve._types import PyTree
from jaxsolve.projection import projection_simplex
from jaxsolve.projection._entmax import largest_with_entropy, positive_order
from jaxsolve.tree_util import tree_vdot

__all__ = [
    "binary_hinge_loss",
    "binary_logistic_loss",
    "binary_perceptron_loss",
    "binary_sparsemax_loss",
    "huber_loss",
    "make_fenchel_young_loss",
    "multiclass_entmax_loss",
    "multiclass_hinge_loss",
    "multiclass_logistic_loss",
    "multiclass_perceptron_loss",
    "multiclass_sparsemax_loss",
    "sparse_plus",
    "sparse_sigmoid",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)


sparse_plus = jax.nn.sparse_plus
sparse_sigmoid = jax.nn.sparse_sigmoid


def binary_logistic_loss(label: Any, logit: Any) -> jax.Array:
    r"""Logistic loss :math:`\log(1 + e^{-s t})`, with :math:`s = 2 \cdot \text{label} - 1` and :math:`t` the logit.

    Args:
        label: 0 or 1, of the shape of ``logit``.
        logit: real array.

    Returns:
        The loss of each entry.

    Raises:
        ValueError: the shapes differ, or a concrete label is neither 0 nor 1.

    Example:
        >>> from jaxsolve.loss import binary_logistic_loss
        >>> print(f"{binary_logistic_loss(1, 0.0):.4f}")
        0.6931
    """
    label, logit = _binary(label, logit, "logit")
    return _known(jax.nn.softplus(jnp.where(label, -logit, logit)))


def binary_sparsemax_loss(label: Any, logit: Any) -> jax.Array:
    r"""Binary sparsemax loss: :func:`sparse_plus` of :math:`-s t`, with :math:`s = 2 \cdot \text{label} - 1`.

    It is exactly 0 where :func:`sparse_sigmoid` of the logit is equal to the label.

    Args:
        label: 0 or 1, of the shape of ``logit``.
        logit: real array.

    Returns:
        The loss of each entry.

    Raises:
        ValueError: the shapes differ, or a concrete label is neither 0 nor 1.

    References:
        M. Blondel, A. Martins, V. Niculae, *Learning with Fenchel-Young losses*, JMLR 21, 2020, section 4.4.

    Example:
        >>> from jaxsolve.loss import binary_sparsemax_loss
        >>> float(binary_sparsemax_loss(0, 0.0)), float(binary_sparsemax_loss(1, 1.5))
        (0.25, 0.0)
    """
    label, logit = _binary(label, logit, "logit")
    return _known(optax.losses.sparsemax_loss(logit, label))


def binary_hinge_loss(label: Any, score: Any) -> jax.Array:
    r"""Hinge loss :math:`\max(0, 1 - s t)`, with :math:`s = 2 \cdot \text{label} - 1` and :math:`t` the score.

    Args:
        label: 0 or 1, of the shape of ``score``.
        score: real array.

    Returns:
        The loss of each entry.

    Raises:
        ValueError: the shapes differ, or a concrete label is neither 0 nor 1.

    Example:
        >>> from jaxsolve.loss import binary_hinge_loss
        >>> float(binary_hinge_loss(1, 0.25)), float(binary_hinge_loss(0, 0.25))
        (0.75, 1.25)
    """
    label, score = _binary(label, score, "score")
    return _known(optax.losses.hinge_loss(score, jnp.where(label, 1, -1).astype(score.dtype)))


def binary_perceptron_loss(label: Any, score: Any) -> jax.Array:
    r"""Perceptron loss :math:`\max(0, -s t)`, with :math:`s = 2 \cdot \text{label} - 1` and :math:`t` the score.

    Args:
        label: 0 or 1, of the shape of ``score``.
        score: real array.

    Returns:
        The loss of each entry.

    Raises:
        ValueError: the shapes differ, or a concrete label is neither 0 nor 1.

    Example:
        >>> from jaxsolve.loss import binary_perceptron_loss
        >>> float(binary_perceptron_loss(1, 0.25)), float(binary_perceptron_loss(0, 0.25))
        (0.0, 0.25)
    """
    label, score = _binary(label, score, "score")
    return _known(optax.losses.perceptron_loss(score, jnp.where(label, 1, -1).astype(score.dtype)))


def huber_loss(target: Any, pred: Any, delta: Any = 1.0) -> jax.Array:
    r"""Huber loss: :math:`\tfrac12 r^2` for :math:`|r| \le \delta`, else :math:`\delta (|r| - \tfrac12 \delta)`.

    Here :math:`r = \text{pred} - \text{target}`. At :math:`|r| = \delta` the second derivative is that of the square.

    Args:
        target: real array of the shape of ``pred``, or a scalar.
        pred: real array.
        delta: non-negative scalar, where the square turns into a line.

    Returns:
        The loss of each entry.

    Raises:
        ValueError: ``delta`` is negative.

    References:
        P. Huber, *Robust estimation of a location parameter*, Annals of Mathematical Statistics 35, 1964.

    Example:
        >>> from jaxsolve.loss import huber_loss
        >>> float(huber_loss(0.0, 0.5)), float(huber_loss(0.0, 3.0))
        (0.125, 2.5)
    """
    check_nonnegative(delta, "delta")
    pred = as_array(pred, "pred")
    target, delta = (as_array(v, name).astype(pred.dtype) for v, name in ((target, "target"), (delta, "delta")))
    # Not optax's, whose |r| under the square makes the second derivative 0 at r = 0.
    error = pred - target
    square = jnp.abs(error) <= delta
    small = jnp.where(square, error, jnp.zeros_like(error))
    loss = jnp.where(square, 0.5 * small * small, delta * (jnp.abs(error) - 0.5 * delta))
    return _known(loss)


def multiclass_logistic_loss(label: Any, logits: Any) -> jax.Array:
    r"""Multinomial logistic loss :math:`\log \sum_j e^{t_j - t_{\text{label}}}`.

    Logits of ``-inf`` (impossible classes) other than the label's contribute nothing.

    Args:
        label: integers of shape ``(...)``, from 0 to ``k - 1``.
        logits: real array of shape ``(..., k)``.

    Returns:
        The loss of each label, of shape ``(...)``.

    Raises:
        ValueError: the shapes do not fit, or a concrete label is out of range.
        TypeError: the labels are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.loss import multiclass_logistic_loss
        >>> print(f"{multiclass_logistic_loss(2, jnp.zeros(3)):.4f}")
        1.0986
    """
    lift, excess = _lifted_excess(label, logits, "logits")
    return lift + jax.nn.logsumexp(excess, axis=-1)


def multiclass_hinge_loss(label: Any, scores: Any) -> jax.Array:
    r"""Multiclass hinge loss :math:`\max_j \, (t_j + [j \ne \text{label}]) - t_{\text{label}}`.

    If several classes attain the maximum, the subgradient is the mean of their gradients.

    Args:
        label: integers of shape ``(...)``, from 0 to ``k - 1``.
        scores: real array of shape ``(..., k)``.

    Returns:
        The loss of each label, of shape ``(...)``.

    Raises:
        ValueError: the shapes do not fit, or a concrete label is out of range.
        TypeError: the labels are not integers.

    References:
        K. Crammer and Y. Singer, *On the algorithmic implementation of multiclass kernel-based vector machines*,
        JMLR 2, 2001.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.loss import multiclass_hinge_loss
        >>> float(multiclass_hinge_loss(0, jnp.array([1.0, 0.5, -3.0])))
        0.5
    """
    is_label, excess = _excess(label, scores, "scores")
    return max_or_nan(jnp.where(is_label, excess, 1 + excess), axis=-1)


def multiclass_perceptron_loss(label: Any, scores: Any) -> jax.Array:
    r"""Multiclass perceptron loss :math:`\max_j t_j - t_{\text{label}}`.

    If several classes attain the maximum, the subgradient is the mean of their gradients.

    Args:
        label: integers of shape ``(...)``, from 0 to ``k - 1``.
        scores: real array of shape ``(..., k)``.

    Returns:
        The loss of each label, of shape ``(...)``.

    Raises:
        ValueError: the shapes do not fit, or a concrete label is out of range.
        TypeError: the labels are not integers.

    References:
        M. Collins, *Discriminative training methods for hidden Markov models*, EMNLP 2002.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.loss import multiclass_perceptron_loss
        >>> float(multiclass_perceptron_loss(1, jnp.array([1.0, 0.5, -3.0])))
        0.5
    """
    return max_or_nan(_excess(label, scores, "scores")[1], axis=-1)


def multiclass_sparsemax_loss(label: Any, scores: Any) -> jax.Array:
    r"""Sparsemax loss: the Fenchel-Young loss whose prediction is the projection on the simplex.

    .. math::

        \max_{p \in \Delta} \left( \langle p, t \rangle - \tfrac12 \|p\|_2^2 \right) + \tfrac12 - t_{\text{label}}

    Its gradient is :math:`P_\Delta(t) - e_{\text{label}}`.

    Args:
        label: integers of shape ``(...)``, from 0 to ``k - 1``.
        scores: real array of shape ``(..., k)``.

    Returns:
        The loss of each label, of shape ``(...)``.

    Raises:
        ValueError: the shapes do not fit, or a concrete label is out of range.
        TypeError: the labels are not integers.

    References:
        A. Martins and R. Astudillo, *From softmax to sparsemax*, ICML 2016, section 3.2.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.loss import multiclass_sparsemax_loss
        >>> float(multiclass_sparsemax_loss(0, jnp.array([1.0, 0.5, -3.0])))
        0.0625
    """
    lift, excess = _lifted_excess(label, scores, "scores")
    p = jnp.vectorize(projection_simplex, signature="(k)->(k)")(excess)
    # Where p is 0 the score may be -inf.
    gain = jnp.sum(p * jnp.where(p == 0, jnp.zeros_like(excess), excess), axis=-1)
    return lift + gain + 0.5 * (1 - jnp.sum(p * p, axis=-1))


def multiclass_entmax_loss(label: Any, scores: Any, alpha: Any = 1.5) -> jax.Array:
    r"""Entmax loss: the Fenchel-Young loss whose prediction is :func:`~jaxsolve.projection.entmax`.

    .. math::

        \max_{p \in \Delta} \Bigl( \langle p, t \rangle + \frac{1}{\alpha (\alpha - 1)} \sum_j p_j - p_j^\alpha \Bigr)
        - t_{\text{label}}

    Its gradient is the prediction minus :math:`e_{\text{label}}`. For :math:`\alpha = 1` it is
    :func:`multiclass_logistic_loss`, for :math:`\alpha = 2` :func:`multiclass_sparsemax_loss`. For
    :math:`\alpha > 1` it is 0 once the score of the label exceeds the others by :math:`1 / (\alpha - 1)`.

    Args:
        label: integers of shape ``(...)``, from 0 to ``k - 1``.
        scores: real array of shape ``(..., k)``. Scores of ``-inf`` (impossible classes) other than the label's
            contribute nothing.
        alpha: :math:`\alpha > 0`, a scalar; None means 1.5.

    Returns:
        The loss of each label, of shape ``(...)``.

    Raises:
        ValueError: the shapes do not fit, a concrete label is out of range, or ``alpha`` is not a positive scalar.
        TypeError: the labels are not integers.

    References:
        B. Peters, V. Niculae, A. Martins, *Sparse sequence-to-sequence models*, ACL 2019, section 3.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.loss import multiclass_entmax_loss
        >>> print(f"{multiclass_entmax_loss(0, jnp.array([1.0, 0.5, -3.0]), 2.0):.4f}")
        0.0625
        >>> print(f"{multiclass_entmax_loss(0, jnp.array([2.0, 0.0, 0.0]), 1.5):.4f}")
        0.0000
    """
    lift, excess = _lifted_excess(label, scores, "scores")
    wide = widen(excess)
    largest = functools.partial(largest_with_entropy, alpha=positive_order(alpha, wide.dtype))
    return lift + jnp.vectorize(largest, signature="(k)->()")(wide).astype(excess.dtype)


def make_fenchel_young_loss(max_fun: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    r"""The Fenchel-Young loss of a maximum function.

    For :math:`F(t) = \max_p \langle p, t \rangle - \Omega(p)` the loss is :math:`F(t) - \langle y, t \rangle`: up to
    the constant :math:`\Omega(y)` the Fenchel-Young loss of :math:`\Omega`, with gradient :math:`\nabla F(t) - y`.

    Args:
        max_fun: ``max_fun(scores, *args, **kwargs)``, convex, with a scalar result.

    Returns:
        ``loss(y_true, scores, *args, **kwargs)``, where ``y_true`` and ``scores`` are pytrees of one structure. Use
        ``jax.vmap`` for batches. Scores of ``-inf`` (impossible classes) contribute nothing where ``y_true`` is 0.

    Raises:
        TypeError: ``max_fun`` is not callable.

    References:
        M. Blondel, A. Martins, V. Niculae, *Learning with Fenchel-Young losses*, JMLR 21, 2020.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve.loss import make_fenchel_young_loss
        >>> loss = make_fenchel_young_loss(jax.nn.logsumexp)
        >>> print(f"{loss(jnp.array([1.0, 0.0]), jnp.array([0.0, 0.0])):.4f}")
        0.6931
    """
    if not callable(max_fun):
        raise TypeError(f"max_fun must be a function max_fun(scores), got {type(max_fun).__name__}.")

    def fenchel_young_loss(y_true: PyTree, scores: PyTree, *args: Any, **kwargs: Any) -> jax.Array:
        scores = as_inexact(scores, "scores")
        y_true = jax.tree.map(lambda y, s: jnp.asarray(y).astype(s.dtype), y_true, scores)
        value = max_fun(scores, *args, **kwargs)
        # A class of probability 0 may be impossible: its score -inf.
        possible = jax.tree.map(lambda y, s: jnp.where((y == 0) & (s == -jnp.inf), 0, s), y_true, scores)
        loss = value - tree_vdot(y_true, possible).astype(value.dtype)
        return _known(loss)

    return fenchel_young_loss


def _known(loss):
    """A loss whose derivative is NaN where it is itself."""
    return nan_unless(~jnp.isnan(loss), loss)


def _binary(label, score, name):
    score = as_array(score, name)
    label = jnp.asarray(label)
    if label.shape != score.shape:
        raise ValueError(f"label and {name} must have one shape, got {label.shape} and {score.shape}.")
    check_entries(lambda v: (v == 0) | (v == 1), label, "label", "0 or 1 everywhere")
    return label.astype(bool), score


def _excess(label, scores, name):
    """Which entry is the label's, and the scores less that of the label, which is exactly 0 at the label."""
    scores = as_array(scores, name)
    label = jnp.asarray(label)
    if not jnp.issubdtype(label.dtype, jnp.integer):
        raise TypeError(f"label must be an integer class, got dtype {label.dtype}.")
    if scores.ndim == 0 or label.shape != scores.shape[:-1]:
        raise ValueError(
            f"label must have the shape of {name} without its last axis, got {label.shape} and {scores.shape}."
        )
    num_classes = scores.shape[-1]
    check_entries(lambda v: (v >= 0) & (v < num_classes), label, "label", f"from 0 to {num_classes - 1}")
    is_label = jax.nn.one_hot(label, num_classes, dtype=bool)
    some = jnp.any(is_label, axis=-1, keepdims=True) & ~jnp.all(scores == -jnp.inf, axis=-1, keepdims=True)
    # A product, so that where the value is NaN the derivative is too.
    scores = scores * jnp.where(some, 1, jnp.nan).astype(scores.dtype)
    of_label = jnp.sum(scores, axis=-1, keepdims=True, where=is_label)
    excess = jnp.where(scores == -jnp.inf, -jnp.inf, scores - of_label)
    return is_label, jnp.where(is_label, jnp.where(jnp.isnan(of_label), jnp.nan, jnp.zeros_like(scores)), excess)


def _lifted_excess(label, scores, name):
    """The scores less a reference, and the reference less the score of the label.

    The reference is the score of the label. Where that is ``-inf``, and another is not, it is the largest score: then
    the loss is infinite, but its gradient is that of the prediction.
    """
    is_label, excess = _excess(label, scores, name)
    scores = as_array(scores, name)
    of_label = jnp.sum(scores, axis=-1, where=is_label)
    largest = jax.lax.stop_gradient(jnp.max(scores, axis=-1))
    impossible = (of_label == -jnp.inf) & (largest > -jnp.inf)
    relative = jnp.where(scores == -jnp.inf, -jnp.inf, scores - largest[..., None])
    lift = jnp.where(impossible, largest - of_label, jnp.zeros_like(of_label))
    return lift, jnp.where(impossible[..., None], relative, excess)
