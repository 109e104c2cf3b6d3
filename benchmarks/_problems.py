"""Problems of the benchmarks, in float64."""

import jax.numpy as jnp
import numpy as np


def logistic_data(n: int, d: int, seed: int = 0):
    """Features of shape (n, d) and labels in {0, 1}, from a logistic model."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    w = rng.normal(size=d) / np.sqrt(d)
    y = (rng.uniform(size=n) < 1 / (1 + np.exp(-3 * X @ w))).astype(float)
    return jnp.asarray(X), jnp.asarray(y)


def logistic(w, l2reg, X, y):
    """Mean logistic loss plus ``l2reg / 2 ||w||^2``."""
    logits = X @ w
    return jnp.mean(jnp.logaddexp(0.0, logits) - y * logits) + 0.5 * l2reg * jnp.sum(w**2)


def ridge(w, l2reg, X, y):
    """Half the mean squared error plus ``l2reg / 2 ||w||^2``."""
    return 0.5 * jnp.mean((X @ w - y) ** 2) + 0.5 * l2reg * jnp.sum(w**2)


def rosenbrock(x):
    """The chained Rosenbrock function, of any dimension from 2."""
    return jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)
