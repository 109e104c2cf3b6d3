"""Checks that the tests of several examples have in common."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree


def assert_gradient(fun, params, rtol=1e-5, step=1e-5, directions=3, **options):
    """The gradient of ``fun`` at a pytree of float64 arrays against central differences along random directions."""
    flat, unravel = ravel_pytree(params)
    assert flat.dtype == jnp.float64
    value = jax.jit(lambda flat: fun(unravel(flat), **options))
    gradient = ravel_pytree(jax.jit(jax.grad(lambda params: fun(params, **options)))(params))[0]
    assert np.linalg.norm(gradient) > 0
    for direction in np.random.default_rng(0).normal(size=(directions, flat.size)) / np.sqrt(flat.size):
        slope = (value(flat + step * direction) - value(flat - step * direction)) / (2 * step)
        # Relative to the sizes of both: a direction may happen to be flat.
        size = np.linalg.norm(gradient) * np.linalg.norm(direction) / np.sqrt(flat.size)
        np.testing.assert_allclose(gradient @ direction, slope, rtol=rtol, atol=rtol * size)
