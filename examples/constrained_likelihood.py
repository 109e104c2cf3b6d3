"""Maximum likelihood under constraints
====================================

Maximum likelihood under constraints, with standard errors by derivatives.

Waiting times come from a mixture of two exponential distributions. Their mean is known from another source, so the
weight w and the rates a > b maximize

::

    sum_i v_i log(w a exp(-a t_i) + (1 - w) b exp(-b t_i))    subject to    w / a + (1 - w) / b = mean,  b <= a,

with a weight v_i = 1 for each observation. The derivative of the estimate with respect to v_i is the contribution of
observation i: without this observation the estimate would be smaller by this amount, to first order. The sum of the
squares of these contributions is the variance by the infinitesimal jackknife (Jaeckel 1972). The information matrix
under the constraints need not be derived. For comparison every observation is left out in turn, in a batch.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import jaxsolve

jax.config.update("jax_enable_x64", True)
TRUE = (0.3, 4.0, 0.5)  # weight, rates


def make_data(num, seed=0):
    """Waiting times, shape (num,), and their mean in theory."""
    rng = np.random.default_rng(seed)
    w, a, b = TRUE
    rates = np.where(rng.random(num) < w, a, b)
    return jnp.asarray(rng.exponential(1 / rates)), w / a + (1 - w) / b


def loss(params, times, weights, mean):
    """Minus the weighted log-likelihood."""
    w, (a, b) = params["weight"], params["rates"]
    density = jnp.logaddexp(jnp.log(w) + jnp.log(a) - a * times, jnp.log1p(-w) + jnp.log(b) - b * times)
    return -jnp.sum(weights * density)


def excess(params, times, weights, mean):
    """By how much the mean is too large."""
    w, (a, b) = params["weight"], params["rates"]
    return w / a + (1 - w) / b - mean


def order(params, times, weights, mean):
    """Positive where the rates are in the wrong order."""
    return params["rates"][1] - params["rates"][0]


BOUNDS = ({"weight": 0.01, "rates": 1e-3}, {"weight": 0.99, "rates": 1e3})
START = {"weight": jnp.asarray(0.5), "rates": jnp.array([2.0, 1.0])}


def fit(weights, times, mean, start=START):
    """The estimate, and how its run ended."""
    solver = jaxsolve.InteriorPointNLP(loss, excess, order)
    params, state = solver.run(start, times, weights, mean, bounds=BOUNDS)
    return params.primal, state


def main(num=200):
    """Estimate with standard errors; returns both, and the largest error of the contributions in standard errors."""
    times, mean = make_data(num)
    ones = jnp.ones(num)

    def estimate(weights, start=START):
        params, _ = fit(weights, times, mean, start)
        return jnp.concatenate([params["weight"][None], params["rates"]])

    best, state = fit(ones, times, mean)
    params, contributions = jax.jit(lambda v: (estimate(v), jax.jacfwd(estimate)(v)))(ones)
    errors = jnp.sqrt(jnp.sum(contributions**2, axis=1))
    print(f"{state}")
    for name, value, error, true in zip(("weight", "rate a", "rate b"), params, errors, TRUE, strict=True):
        print(f"{name}: {value:6.3f} +- {error:.3f}   (true {true})")

    left_out = jax.jit(jax.vmap(lambda v: estimate(v, best)))(ones - jnp.eye(num))
    jackknife = jnp.sqrt((num - 1) / num * jnp.sum((left_out - jnp.mean(left_out, axis=0)) ** 2, axis=0))
    difference = jnp.max(jnp.abs(jackknife / errors - 1))
    print(f"leaving out one of {num} at a time gives {np.round(np.asarray(jackknife), 3)}")
    return params, errors, float(difference)


if __name__ == "__main__":
    params, errors, difference = main()
    sys.exit(difference > 0.1)
