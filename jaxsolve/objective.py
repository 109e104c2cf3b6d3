r"""Objective functions of common linear models, in a form that coordinate methods can use.

Every function here takes ``data = (X, y)`` with ``X`` of shape ``(n, d)`` last. ``X`` may be dense or a
``jax.experimental.sparse.BCOO`` matrix. Averages are over samples, so the value does not grow with ``n``.
"""

from __future__ import annotations

import abc
from typing import Any

import jax
import jax.numpy as jnp

from jaxsolve import loss
from jaxsolve._inputs import as_scalar
from jaxsolve.base import LinearOperator
from jaxsolve.tree_util import tree_l2_norm, tree_vdot

__all__ = [
    "CompositeLinearFunction",
    "binary_logreg",
    "l2_multiclass_logreg",
    "l2_multiclass_logreg_with_intercept",
    "least_squares",
    "multiclass_linear_svm_dual",
    "multiclass_logreg",
    "multiclass_logreg_with_intercept",
    "ridge_regression",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)


class CompositeLinearFunction(abc.ABC):
    r"""A function of the form :math:`f(w) = h(A w) + \langle w, b \rangle`.

    A subclass defines :math:`h`, :math:`A` and, if there is one, :math:`b`; calling the object gives :math:`f`.
    Coordinate methods use the parts: they keep :math:`A w` up to date and take one column of :math:`A` at a time.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.objective import CompositeLinearFunction
        >>> from jaxsolve.base import LinearOperator
        >>> class Poisson(CompositeLinearFunction):
        ...     def subfun(self, predictions, data):
        ...         return jnp.sum(jnp.exp(predictions))
        ...     def make_linop(self, data):
        ...         return LinearOperator(data[0])
        ...     def b(self, data):
        ...         return -data[0].T @ data[1]
        >>> float(Poisson()(jnp.zeros(2), (jnp.ones((3, 2)), jnp.ones(3))))
        3.0
    """

    #: A method of subclasses that know Lipschitz constants of the gradient of :math:`f` in each entry (or row) of the
    #: parameters: ``columnwise_lipschitz_const(*args, **kwargs)``, of shape ``(d,)``.
    columnwise_lipschitz_const: Any = None

    @abc.abstractmethod
    def subfun(self, predictions: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
        """The function :math:`h` of the predictions :math:`A w`; a scalar."""

    @abc.abstractmethod
    def make_linop(self, *args: Any, **kwargs: Any) -> LinearOperator:
        """The operator :math:`A`."""

    def b(self, *args: Any, **kwargs: Any) -> Any:
        """The linear term :math:`b`, with the structure of the parameters, or None."""
        return None

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> jax.Array:
        """The value of :math:`f`, a scalar."""
        value = self.subfun(self.make_linop(*args, **kwargs).matvec(params), *args, **kwargs)
        linear = self.b(*args, **kwargs)
        return value if linear is None else value + tree_vdot(params, linear).astype(value.dtype)


class _MeanLoss(CompositeLinearFunction):
    """The mean of a loss of the predictions ``X W``, with second derivatives of at most ``curvature``."""

    curvature: float

    def __call__(self, W: Any, data: tuple) -> jax.Array:
        return super().__call__(W, data)

    def make_linop(self, data):
        return LinearOperator(data[0])

    def columnwise_lipschitz_const(self, data):
        return self.curvature * self.make_linop(data).column_l2_norms(squared=True) / max(jnp.size(data[1]), 1)


class _LeastSquares(_MeanLoss):
    r"""Half the mean of the squared residuals.

    .. math::

        f(W) = \frac{1}{2 n k} \|X W - y\|_2^2

    Args:
        W: parameters of shape ``(d,)``, or ``(d, k)`` for ``k`` targets.
        data: the pair ``(X, y)``, of shapes ``(n, d)`` and ``(n,)`` or ``(n, k)``.

    Returns:
        The value, a scalar.

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.objective import least_squares
        >>> float(least_squares(jnp.array([1.0, 0.0]), (jnp.eye(2), jnp.array([0.0, 2.0]))))
        1.25
    """

    curvature = 1.0

    def subfun(self, predictions, data):
        y = jnp.asarray(data[1])
        if predictions.shape != y.shape:
            raise ValueError(f"least_squares: X W has shape {predictions.shape}, but y has shape {y.shape}.")
        return 0.5 * jnp.mean((predictions - y.astype(predictions.dtype)) ** 2)


class _BinaryLogreg(_MeanLoss):
    r"""Binary logistic regression: the mean of :func:`jaxsolve.loss.binary_logistic_loss`.

    Args:
        w: parameters of shape ``(d,)``.
        data: the pair ``(X, y)``, of shapes ``(n, d)`` and ``(n,)``, the labels 0 or 1.

    Returns:
        The value, a scalar.

    Raises:
        ValueError: the shapes do not fit, or a concrete label is neither 0 nor 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.objective import binary_logreg
        >>> print(f"{binary_logreg(jnp.zeros(2), (jnp.eye(2), jnp.array([0, 1]))):.4f}")
        0.6931
    """

    curvature = 0.25

    def __call__(self, w: Any, data: tuple) -> jax.Array:
        return super().__call__(w, data)

    def subfun(self, predictions, data):
        return jnp.mean(loss.binary_logistic_loss(data[1], predictions))


class _MulticlassLogreg(_MeanLoss):
    r"""Multinomial logistic regression: the mean of :func:`jaxsolve.loss.multiclass_logistic_loss`.

    Args:
        W: parameters of shape ``(d, k)``.
        data: the pair ``(X, y)``, of shapes ``(n, d)`` and ``(n,)``, the labels from 0 to ``k - 1``.

    Returns:
        The value, a scalar.

    Raises:
        ValueError: the shapes do not fit, or a concrete label is out of range.
        TypeError: the labels are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.objective import multiclass_logreg
        >>> print(f"{multiclass_logreg(jnp.zeros((2, 3)), (jnp.eye(2), jnp.array([0, 2]))):.4f}")
        1.0986
    """

    # The Hessian of log-sum-exp is diag(p) - p p^T, whose norm is at most 1/2.
    curvature = 0.5

    def subfun(self, predictions, data):
        return jnp.mean(loss.multiclass_logistic_loss(data[1], predictions))


class _MulticlassLinearSvmDual(CompositeLinearFunction):
    r"""Dual of the multiclass linear support vector machine.

    .. math::

        f(\beta) = \frac{1}{2 \, \text{l2reg}} \|X^\top (Y - \beta)\|_2^2 - \langle \beta, 1 - Y \rangle,

    to be minimized with each row of :math:`\beta` on the simplex. The primal solution is
    :math:`W = X^\top (Y - \beta) / \text{l2reg}`.

    Args:
        beta: dual variables of shape ``(n, k)``.
        l2reg: positive weight of the ridge penalty of the primal problem, a scalar.
        data: the pair ``(X, Y)``, of shapes ``(n, d)`` and ``(n, k)``, the labels one-hot.

    Returns:
        The value, a scalar.

    Raises:
        ValueError: the shapes do not fit, or ``l2reg`` is not a scalar.

    References:
        M. Blondel, A. Fujino, N. Ueda, *Large-scale multiclass support vector machine training via Euclidean
        projection onto the simplex*, ICPR 2014.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.objective import multiclass_linear_svm_dual
        >>> float(multiclass_linear_svm_dual(jnp.full((2, 2), 0.5), 1.0, (jnp.eye(2), jnp.eye(2))))
        -0.5
    """

    def subfun(self, predictions, l2reg, data):
        X, Y = data
        l2reg = as_scalar(l2reg, "l2reg", predictions.dtype)
        residual = X.T @ jnp.asarray(Y).astype(predictions.dtype) - predictions
        return 0.5 / l2reg * tree_l2_norm(residual, squared=True)

    def make_linop(self, l2reg, data):
        return LinearOperator(data[0].T)

    def columnwise_lipschitz_const(self, l2reg, data):
        squares = self.make_linop(l2reg, data).column_l2_norms(squared=True)
        return squares / as_scalar(l2reg, "l2reg", squares.dtype)

    def b(self, l2reg, data):
        return jnp.asarray(data[1]).astype(data[0].dtype) - 1


least_squares = _LeastSquares()
binary_logreg = _BinaryLogreg()
multiclass_logreg = _MulticlassLogreg()
multiclass_linear_svm_dual = _MulticlassLinearSvmDual()
for _function in (least_squares, binary_logreg, multiclass_logreg, multiclass_linear_svm_dual):
    _function.__doc__ = type(_function).__doc__


def ridge_regression(params: jax.Array, l2reg: Any, data: tuple) -> jax.Array:
    r"""Ridge regression: :data:`least_squares` plus :math:`\tfrac12 \text{l2reg} \|W\|_2^2`.

    Args:
        params: :math:`W`, of shape ``(d,)`` or ``(d, k)``.
        l2reg: weight of the penalty, a scalar.
        data: the pair ``(X, y)``, of shapes ``(n, d)`` and ``(n,)`` or ``(n, k)``.

    Returns:
        The value, a scalar.

    Raises:
        ValueError: the shapes do not fit, or ``l2reg`` is not a scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.objective import ridge_regression
        >>> float(ridge_regression(jnp.array([1.0, 0.0]), 2.0, (jnp.eye(2), jnp.array([0.0, 2.0]))))
        2.25
    """
    return _add_ridge(least_squares(params, data), params, l2reg)


def multiclass_logreg_with_intercept(params: tuple[jax.Array, jax.Array], data: tuple) -> jax.Array:
    r"""Multinomial logistic regression with logits :math:`X W + b`.

    Args:
        params: the pair ``(W, b)``, of shapes ``(d, k)`` and ``(k,)``.
        data: the pair ``(X, y)``, of shapes ``(n, d)`` and ``(n,)``, the labels from 0 to ``k - 1``.

    Returns:
        The value, a scalar.

    Raises:
        ValueError: the shapes do not fit, or a concrete label is out of range.
        TypeError: the labels are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.objective import multiclass_logreg_with_intercept
        >>> params = (jnp.zeros((2, 3)), jnp.zeros(3))
        >>> print(f"{multiclass_logreg_with_intercept(params, (jnp.eye(2), jnp.array([0, 2]))):.4f}")
        1.0986
    """
    W, intercept = params
    X, y = data
    logits = X @ W
    return jnp.mean(loss.multiclass_logistic_loss(y, logits + jnp.broadcast_to(intercept, logits.shape)))


def l2_multiclass_logreg(W: jax.Array, l2reg: Any, data: tuple) -> jax.Array:
    r""":data:`multiclass_logreg` plus :math:`\tfrac12 \text{l2reg} \|W\|_2^2`.

    Args:
        W: parameters of shape ``(d, k)``.
        l2reg: weight of the penalty, a scalar.
        data: the pair ``(X, y)``, of shapes ``(n, d)`` and ``(n,)``, the labels from 0 to ``k - 1``.

    Returns:
        The value, a scalar.

    Raises:
        ValueError: the shapes do not fit, a concrete label is out of range, or ``l2reg`` is not a scalar.
        TypeError: the labels are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.objective import l2_multiclass_logreg
        >>> print(f"{l2_multiclass_logreg(jnp.ones((2, 3)), 1.0, (jnp.eye(2), jnp.array([0, 2]))):.4f}")
        4.0986
    """
    return _add_ridge(multiclass_logreg(W, data), W, l2reg)


def l2_multiclass_logreg_with_intercept(params: tuple[jax.Array, jax.Array], l2reg: Any, data: tuple) -> jax.Array:
    r""":func:`multiclass_logreg_with_intercept` plus :math:`\tfrac12 \text{l2reg} \|W\|_2^2`; ``b`` is not penalized.

    Args:
        params: the pair ``(W, b)``, of shapes ``(d, k)`` and ``(k,)``.
        l2reg: weight of the penalty, a scalar.
        data: the pair ``(X, y)``, of shapes ``(n, d)`` and ``(n,)``, the labels from 0 to ``k - 1``.

    Returns:
        The value, a scalar.

    Raises:
        ValueError: the shapes do not fit, a concrete label is out of range, or ``l2reg`` is not a scalar.
        TypeError: the labels are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.objective import l2_multiclass_logreg_with_intercept
        >>> params = (jnp.ones((2, 3)), jnp.ones(3))
        >>> print(f"{l2_multiclass_logreg_with_intercept(params, 1.0, (jnp.eye(2), jnp.array([0, 2]))):.4f}")
        4.0986
    """
    return _add_ridge(multiclass_logreg_with_intercept(params, data), params[0], l2reg)


def _add_ridge(value, W, l2reg):
    penalty = tree_l2_norm(W, squared=True).astype(value.dtype)
    return value + 0.5 * as_scalar(l2reg, "l2reg", value.dtype) * penalty
