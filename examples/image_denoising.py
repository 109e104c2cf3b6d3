r"""Total-variation denoising
=========================

Total-variation denoising of an image, and the best weight, found by the gradient through the solver.

The image y is a picture u, made of flat regions, plus noise. The model is

::

    min_x  1/2 |x - y|^2  +  weight * sum_ij |(D x)_ij|,

with D x the differences of neighbors, two at each pixel, and \|.\| the Euclidean norm of the two. The differences are a
function; no matrix of size n^2 times 2 n^2 is made. ``PrimalDual`` needs the proximity operator of the norms, which is
``prox_l12``, and chooses its step sizes automatically.

How far the result is from u depends on the weight. The derivative of the distance in the weight goes through the fixed
point of the method, and a few steps of a secant method on it find the best weight.

References: Rudin, Osher, Fatemi (1992), "Nonlinear total variation based noise removal algorithms"; Chambolle and Pock
(2011), "A first-order primal-dual algorithm for convex problems with applications to imaging".
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import jaxsolve
from jaxsolve.prox import prox_l12, prox_none

jax.config.update("jax_enable_x64", True)


def make_images(size=32, noise=0.15, seed=0):
    """A square and a disk of other brightness, with and without noise; two arrays of shape (size, size)."""
    rows, columns = np.indices((size, size)) / size
    clean = 0.2 + 0.6 * ((rows - 0.35) ** 2 + (columns - 0.4) ** 2 < 0.06)
    clean[(rows > 0.6) & (columns > 0.55) & (rows < 0.9) & (columns < 0.9)] = 1.0
    return jnp.asarray(clean), jnp.asarray(clean + noise * np.random.default_rng(seed).normal(size=clean.shape))


def differences(x):
    """Differences to the next pixel of the row and of the column, of shape (pixels, 2); 0 at the border."""
    down = jnp.diff(x, axis=0, append=x[-1:])
    right = jnp.diff(x, axis=1, append=x[:, -1:])
    return jnp.stack([down.ravel(), right.ravel()], axis=1)


def objective(x, weight, y):
    """The function that is minimized."""
    return 0.5 * jnp.sum((x - y) ** 2) + weight * jnp.sum(jnp.linalg.norm(differences(x), axis=1))


def fit(x, y):
    """The smooth term."""
    return 0.5 * jnp.sum((x - y) ** 2)


def denoise(weight, y, init=None, **options):
    """``OptStep`` of the solver; ``params.primal`` is the image. A result is a start for another weight."""
    solver = jaxsolve.PrimalDual(fit, prox_none, prox_l12, differences, **{"tol": 1e-5, "maxiter": 5000} | options)
    return solver.run(y if init is None else init, None, weight, y)


def distance(weight, clean, y):
    """Mean squared distance to the picture, and the solution."""
    step = denoise(weight, y)
    return jnp.mean((step.params.primal - clean) ** 2), step.params


def choose_weight(clean, y, start=0.05, num_steps=6):
    """The weight of least distance: the root of the derivative, by the secant method on its logarithm."""
    slope = jax.jit(jax.grad(lambda log_weight: distance(jnp.exp(log_weight), clean, y)[0]))
    before, now = np.log(start), np.log(1.5 * start)
    slope_before, slope_now = float(slope(before)), float(slope(now))
    for _ in range(num_steps):
        if abs(slope_now) < 1e-8 or slope_now == slope_before:
            break
        change = -slope_now * (now - before) / (slope_now - slope_before)
        before, slope_before, now = now, slope_now, now + float(np.clip(change, -0.7, 0.7))
        slope_now = float(slope(now))
    return float(np.exp(now))


def main(size=24):
    """Denoise with the weight that was found; returns the distances before and after."""
    clean, noisy = make_images(size)
    weight = choose_weight(clean, noisy)
    step = denoise(weight, noisy)
    before, after = float(jnp.mean((noisy - clean) ** 2)), float(jnp.mean((step.params.primal - clean) ** 2))
    print(f"weight {weight:.4f}: {step}")
    print(f"mean squared distance to the picture: {before:.5f} before, {after:.5f} after")
    return before, after


if __name__ == "__main__":
    main(size=64 if "--full" in sys.argv[1:] else 24)
