r"""Piecewise constant functions, such as the solution of a discrete problem, made differentiable by perturbation.

For noise :math:`Z` with density :math:`p` and a scale :math:`\sigma`, the mean :math:`f_\sigma(x) = E f(x + \sigma Z)`
is smooth whatever :math:`f` is. It is estimated from samples, and so are its derivatives, from the same *values* of
:math:`f` weighted by derivatives of :math:`\log p`: :math:`f` is never differentiated with respect to its input.

The returned functions are called as ``fun(inputs, rng)``, or ``fun(inputs, rng=key)``. They are differentiable with
respect to the inputs, a pytree, in forward and reverse mode. The same key gives the same perturbations, so the result
is a deterministic function of inputs and key. ``sigma`` is a constant for derivatives.

Reference: Q. Berthet, M. Blondel, O. Teboul, M. Cuturi, J.-P. Vert, F. Bach, *Learning with differentiable perturbed
optimizers*, NeurIPS 2020.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._inputs import check_entries
from jaxsolve._types import Array, PyTree
from jaxsolve.tree_util import tree_add_scalar_mul, tree_cast_like, tree_real_dtype, tree_sub, tree_vdot

__all__ = ["Gumbel", "Normal", "make_perturbed_argmax", "make_perturbed_fun", "make_perturbed_max"]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)


class Gumbel:
    r"""Gumbel noise, with density :math:`e^{-z - e^{-z}}`: perturbed, the largest score has softmax probabilities.

    Example:
        >>> import jax
        >>> from jaxsolve.perturbations import Gumbel
        >>> Gumbel().sample(jax.random.key(0), (3,)).shape, float(Gumbel().log_prob(0.0))
        ((3,), -1.0)
    """

    def sample(self, seed: Array, sample_shape: tuple[int, ...]) -> Array:
        """Independent samples of the default floating dtype; ``seed`` is a key."""
        return jax.random.gumbel(seed, sample_shape)

    def log_prob(self, inputs: Any) -> Array:
        """Logarithm of the density, entry by entry."""
        return -inputs - jnp.exp(-inputs)


class Normal:
    r"""Standard normal noise; ``log_prob`` is up to a constant.

    Example:
        >>> import jax
        >>> from jaxsolve.perturbations import Normal
        >>> Normal().sample(jax.random.key(0), (3,)).shape, float(Normal().log_prob(2.0))
        ((3,), -2.0)
    """

    def sample(self, seed: Array, sample_shape: tuple[int, ...]) -> Array:
        """Independent samples of the default floating dtype; ``seed`` is a key."""
        return jax.random.normal(seed, sample_shape)

    def log_prob(self, inputs: Any) -> Any:
        """Logarithm of the density up to a constant, entry by entry."""
        return -0.5 * inputs**2


_GUMBEL = Gumbel()


def make_perturbed_argmax(
    argmax_fun: Callable[..., PyTree],
    num_samples: int = 1000,
    sigma: Any = 0.1,
    noise: Any = _GUMBEL,
    control_variate: bool = False,
) -> Callable[..., PyTree]:
    r"""A differentiable version of the maximizer of a linear objective.

    For :math:`y^*(\theta) = \operatorname{argmax}_{y \in C} \langle y, \theta \rangle` it is
    :math:`E \, y^*(\theta + \sigma Z)`, a point inside the convex hull of :math:`C`, with the Jacobian
    :math:`-E \, y^*(\theta + \sigma Z) \, \nabla \log p(Z)^\top / \sigma`.

    Args:
        argmax_fun: ``argmax_fun(inputs, *args, **kwargs)``, a pytree with the structure and shapes of ``inputs``. It
            must be traceable by jax, and gets one sample at a time, under ``jax.vmap``.
        num_samples: number of perturbations in the mean; the standard error is proportional to ``num_samples ** -0.5``.
        sigma: scale of the perturbations, positive. Larger values make the function smoother and reduce the variance of
            derivatives.
        noise: an object with ``sample(key, shape)``, or ``sample(seed=key, sample_shape=shape)``, and ``log_prob(z)``,
            for independent entries.
        control_variate: subtract the unperturbed solution in the estimate of the derivative, which takes one more
            evaluation. The mean of the estimate stays the same; its variance is lower if the values vary little around
            the unperturbed solution. The value of the function does not change.

    Returns:
        ``fun(inputs, rng, *args, **kwargs)``, with a result of the structure of ``argmax_fun``'s.

    Raises:
        TypeError: ``argmax_fun`` is not callable, or ``noise`` lacks a method.
        ValueError: ``num_samples`` or ``sigma`` is not positive.

    References:
        Berthet et al., 2020, definition 1 and proposition 3.1; control variate: section 3.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve.perturbations import make_perturbed_argmax
        >>> one_hot_argmax = lambda x: jax.nn.one_hot(jnp.argmax(x), x.size, dtype=x.dtype)
        >>> soft = make_perturbed_argmax(one_hot_argmax, num_samples=100, sigma=1.0)
        >>> p = soft(jnp.array([1.0, 2.0, 3.0]), rng=jax.random.key(0))
        >>> print(f"{p.sum():.4f}", int(p.argmax()))
        1.0000 2
    """
    _check_options(argmax_fun, "argmax_fun", num_samples, sigma, noise)
    return make_perturbed_fun(argmax_fun, num_samples, sigma, noise, control_variate)


def make_perturbed_max(
    argmax_fun: Callable[..., PyTree], num_samples: int = 1000, sigma: Any = 0.1, noise: Any = _GUMBEL
) -> Callable[..., Array]:
    r"""A smooth version of the maximum of a linear objective.

    For :math:`F(\theta) = \max_{y \in C} \langle y, \theta \rangle` it is :math:`E F(\theta + \sigma Z)`. Its
    gradient is the perturbed maximizer of :func:`make_perturbed_argmax`, exactly and for the same key; the Hessian is
    the Jacobian of that, symmetrized. Derivatives of the first four orders are unbiased.

    Args:
        argmax_fun: ``argmax_fun(inputs, *args, **kwargs)``, the maximizer, a pytree with the structure and shapes of
            ``inputs``. It is a constant for derivatives.
        num_samples: number of perturbations in the mean.
        sigma: scale of the perturbations, positive.
        noise: an object with ``sample(key, shape)``, or ``sample(seed=key, sample_shape=shape)``, and ``log_prob(z)``,
            for independent entries.

    Returns:
        ``fun(inputs, rng, *args, **kwargs)``, with a scalar result. It is a ``max_fun`` for
        :func:`jaxsolve.loss.make_fenchel_young_loss`.

    Raises:
        TypeError: ``argmax_fun`` is not callable, or ``noise`` lacks a method.
        ValueError: ``num_samples`` or ``sigma`` is not positive.

    References:
        Berthet et al., 2020, proposition 2.2.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve.perturbations import make_perturbed_argmax, make_perturbed_max
        >>> one_hot_argmax = lambda x: jax.nn.one_hot(jnp.argmax(x), x.size, dtype=x.dtype)
        >>> scores, key = jnp.array([1.0, 2.0, 3.0]), jax.random.key(0)
        >>> gradient = jax.grad(make_perturbed_max(one_hot_argmax))(scores, rng=key)
        >>> bool(jnp.allclose(gradient, make_perturbed_argmax(one_hot_argmax)(scores, rng=key), atol=1e-6))
        True
    """
    _check_options(argmax_fun, "argmax_fun", num_samples, sigma, noise)

    def perturbed_max(inputs: PyTree, rng: Any, *args: Any, **kwargs: Any) -> Array:
        inputs = _as_floats(inputs)
        samples, points = _perturb(inputs, rng, num_samples, sigma, noise)
        ys = lax.stop_gradient(jax.vmap(lambda x: argmax_fun(x, *args, **kwargs))(points))
        _check_like(ys, points)
        ys = jax.tree.map(lambda y, x: y.astype(x.dtype), ys, points)
        # The change of the maximum along a line is the integral of its gradient over the line. The line has length 0
        # but not derivative 0, and Gauss's rule with two nodes is exact for the derivatives of order four and lower.
        here = lax.stop_gradient(inputs)
        change = tree_sub(inputs, here)
        weights = [
            _weights(tree_add_scalar_mul(here, node, change), samples, sigma, noise)
            for node in (0.5 - math.sqrt(1 / 12), 0.5 + math.sqrt(1 / 12))
        ]
        slopes = jax.vmap(lambda y: tree_vdot(y, change))(ys)
        return jnp.mean(jax.vmap(tree_vdot)(ys, points) + (weights[0] + weights[1]) / 2 * slopes)

    return perturbed_max


def make_perturbed_fun(
    fun: Callable[..., PyTree],
    num_samples: int = 1000,
    sigma: Any = 0.1,
    noise: Any = _GUMBEL,
    control_variate: bool = False,
) -> Callable[..., PyTree]:
    r"""A differentiable version of any function: its mean over perturbations of the input.

    Args:
        fun: ``fun(inputs, *args, **kwargs)``, a pytree of arrays. It must be traceable by jax, and gets one sample at a
            time, under ``jax.vmap``. With respect to its other arguments and captured arrays it is differentiated
            directly.
        num_samples: number of perturbations in the mean.
        sigma: scale of the perturbations, positive.
        noise: an object with ``sample(key, shape)``, or ``sample(seed=key, sample_shape=shape)``, and ``log_prob(z)``,
            for independent entries.
        control_variate: subtract the unperturbed value in the estimate of the derivative, see
            :func:`make_perturbed_argmax`.

    Returns:
        ``fun(inputs, rng, *args, **kwargs)``. Derivatives of every order in the inputs are unbiased estimates.

    Raises:
        TypeError: ``fun`` is not callable, or ``noise`` lacks a method.
        ValueError: ``num_samples`` or ``sigma`` is not positive.

    References:
        Berthet et al., 2020, section 3; for the higher orders J. Foerster et al., *DiCE: the infinitely differentiable
        Monte Carlo estimator*, ICML 2018.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve.perturbations import Normal, make_perturbed_fun
        >>> smooth = make_perturbed_fun(jnp.sign, num_samples=2000, sigma=1.0, noise=Normal(), control_variate=True)
        >>> slope = jax.grad(smooth)(0.0, rng=jax.random.key(0))  # about 2 p(0) = 0.80
        >>> bool(0.7 < slope < 0.9)
        True
    """
    _check_options(fun, "fun", num_samples, sigma, noise)

    def perturbed_fun(inputs: PyTree, rng: Any, *args: Any, **kwargs: Any) -> PyTree:
        inputs = _as_floats(inputs)
        dtype = tree_real_dtype(inputs)
        samples, points = _perturb(inputs, rng, num_samples, sigma, noise)
        values = _as_floats(jax.vmap(lambda x: fun(x, *args, **kwargs))(points), dtype)
        weights = _weights(inputs, samples, sigma, noise)
        if not control_variate:
            return jax.tree.map(lambda v: jnp.mean(_scale_rows(weights, v), axis=0), values)
        center = _as_floats(fun(lax.stop_gradient(inputs), *args, **kwargs), dtype)

        def mean(values, center):
            # The second term is 0 but for its derivatives in the inputs.
            return jnp.mean(values + _scale_rows(weights - 1, values - center[None]), axis=0)

        return jax.tree.map(mean, values, center)

    return perturbed_fun


def _check_options(fun, name, num_samples, sigma, noise):
    if not callable(fun):
        raise TypeError(f"{name} must be a function {name}(inputs), got {type(fun).__name__}.")
    if isinstance(num_samples, bool) or not isinstance(num_samples, (int, np.integer)) or num_samples < 1:
        raise ValueError(f"num_samples must be a positive integer, got {num_samples!r}.")
    check_entries(lambda s: s.ndim == 0 and s > 0, jnp.asarray(sigma), "sigma", "a positive scalar")
    for method in ("sample", "log_prob"):
        if not callable(getattr(noise, method, None)):
            raise TypeError(f"noise must have the methods sample and log_prob, got {type(noise).__name__}.")


def _as_floats(tree, dtype: Any = float):
    """Leaves as arrays; booleans and integers become floats."""
    arrays = jax.tree.map(jnp.asarray, tree)
    return jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(dtype), arrays)


def _check_like(ys, points):
    def shapes(tree):
        return jax.tree.structure(tree), [leaf.shape[1:] for leaf in jax.tree.leaves(tree)]

    if shapes(ys) != shapes(points):
        raise ValueError(
            f"argmax_fun must return the structure and shapes of its input, {shapes(points)}, got {shapes(ys)}."
        )


def _perturb(inputs, rng, num_samples, sigma, noise):
    """Samples of the noise, and the perturbed inputs, both with a leading axis."""
    structure = jax.tree.structure(inputs)
    # The noise of a single array comes from the key itself, as in JAXopt.
    keys = [rng] if structure.num_leaves == 1 else jax.random.split(rng, max(structure.num_leaves, 1))
    samples = [
        _sample(noise, key, (num_samples, *x.shape)) for x, key in zip(jax.tree.leaves(inputs), keys, strict=False)
    ]
    samples = tree_cast_like(jax.tree.unflatten(structure, samples), inputs)
    points = jax.tree.map(lambda x, z: x[None] + _scalar(sigma, x) * z, inputs, samples)
    return samples, lax.stop_gradient(points)


def _sample(noise, key, shape):
    # Libraries of distributions call the arguments like this, and some take them by name only.
    named = "seed" in inspect.signature(noise.sample).parameters
    return noise.sample(seed=key, sample_shape=shape) if named else noise.sample(key, shape)


def _weights(inputs, samples, sigma, noise):
    """One for each sample, with the derivatives of its likelihood as a function of the inputs."""

    def log_prob(x, z):
        # The sample that leads from x to the same perturbed point.
        shifted = z - ((x - lax.stop_gradient(x)) / _scalar(sigma, x))[None]
        # One entry at a time: whether log_prob sums over its argument makes no difference.
        of_entries = jax.vmap(noise.log_prob)(shifted.reshape(-1))
        return jnp.sum(of_entries.reshape(z.shape[0], -1), axis=1).astype(dtype)

    dtype = tree_real_dtype(inputs)
    likelihood = sum(jax.tree.leaves(jax.tree.map(log_prob, inputs, samples)), start=jnp.zeros((), dtype))
    return jnp.exp(likelihood - lax.stop_gradient(likelihood))


def _scalar(sigma, like):
    return lax.stop_gradient(jnp.asarray(sigma).astype(like.dtype))


def _scale_rows(weights, values):
    return weights.reshape(-1, *[1] * (values.ndim - 1)).astype(values.dtype) * values
