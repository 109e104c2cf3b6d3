"""The lasso path
==============

The lasso path on scikit-learn's diabetes data, and its weight chosen by the gradient of a cross-validated loss.

::

    w*(l1reg) = argmin  1/2n ||X w - y||^2 + l1reg ||w||_1

Part 1 follows w* from the weight at which it is zero to one at which it is dense; each run starts from the solution of
the one before. Part 2 minimizes the mean validation loss of five folds over lambda = log(l1reg). The folds are solved
together by ``jax.vmap``, and ``jax.grad`` goes through the solver: through the fixed point of its proximal step on the
support (Bertrand et al. 2020). scikit-learn's LassoCV searches a grid instead; both must find the same minimum.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LassoCV
from sklearn.model_selection import KFold

import jaxsolve
from jaxsolve.objective import least_squares
from jaxsolve.prox import prox_lasso

jax.config.update("jax_enable_x64", True)


def load_data():
    """Standardized features, pairwise products among them, and centered targets."""
    X, y = load_diabetes(return_X_y=True)
    pairs = [X[:, i] * X[:, j] for i in range(X.shape[1]) for j in range(i, X.shape[1])]
    X = np.column_stack([X, *pairs])
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    return jnp.asarray(X), jnp.asarray((y - y.mean()) / y.std())


def largest_weight(X, y):
    """The smallest weight of the penalty at which all coefficients are zero."""
    return jnp.max(jnp.abs(X.T @ y)) / X.shape[0]


# ---- Part 1: the path ---------------------------------------------------------------------------------------------

solver = jaxsolve.BlockCoordinateDescent(least_squares, prox_lasso, tol=1e-8)


@jax.jit
def lasso_path(weights, X, y):
    """Coefficients at decreasing weights of the penalty, each run started from the last; shape (weights, d)."""

    def step(w, l1reg):
        params, state = solver.run(w, l1reg, (X, y))
        return params, (params, state.status)

    return jax.lax.scan(step, jnp.zeros(X.shape[1]), weights)[1]


# ---- Part 2: the weight -------------------------------------------------------------------------------------------


def make_folds(X, y, num_folds=5):
    """Training and validation sets of equal sizes, stacked; returns X, y, X_val, y_val."""
    size = X.shape[0] // num_folds * num_folds
    splits = KFold(num_folds, shuffle=True, random_state=0).split(np.arange(size))
    train, valid = (np.stack(rows) for rows in zip(*splits, strict=True))
    return X[train], y[train], X[valid], y[valid], list(zip(train, valid, strict=True))


@jax.jit
@jax.value_and_grad
def validation_loss(log_weight, X, y, X_val, y_val):
    """Mean squared error over the folds; differentiated through the five lasso solutions."""

    def fold(X, y, X_val, y_val):
        w = solver.run(jnp.zeros(X.shape[1]), jnp.exp(log_weight), (X, y)).params
        return jnp.mean((X_val @ w - y_val) ** 2)

    return jnp.mean(jax.vmap(fold)(X, y, X_val, y_val))


def choose_weight(folds, start, num_steps=25, rate=3.0):
    """Gradient descent on log(l1reg); the step is shortened when the loss rises. Returns the weight and its loss."""
    log_weight = jnp.log(start)
    loss, slope = validation_loss(log_weight, *folds)
    for step in range(num_steps):
        trial = log_weight - rate * slope
        trial_loss, trial_slope = validation_loss(trial, *folds)
        if trial_loss < loss:
            log_weight, loss, slope = trial, trial_loss, trial_slope
        else:
            rate /= 2
        if step % 5 == 0:
            print(f"  step {step:2d}   l1reg {float(jnp.exp(log_weight)):.4f}   validation loss {float(loss):.5f}")
    return float(jnp.exp(log_weight)), float(loss)


def main(num_weights=40):
    """Both parts; returns whether gradient descent found a loss as low as the grid of scikit-learn."""
    X, y = load_data()
    largest = largest_weight(X, y)
    weights = largest * jnp.logspace(0, -2, num_weights)
    path, status = lasso_path(weights, X, y)
    assert np.all(status == jaxsolve.Status.CONVERGED)
    sizes = np.sum(np.asarray(path) != 0, axis=1)
    print(f"path of {num_weights} weights, {X.shape[1]} coefficients; not zero: {sizes[:: num_weights // 8].tolist()}")

    *folds, splits = make_folds(X, y)
    weight, loss = choose_weight(folds, 0.5 * largest)
    grid = LassoCV(cv=splits, fit_intercept=False, tol=1e-8, max_iter=100_000).fit(X, y)
    best = grid.mse_path_.mean(axis=1).min()
    print(f"gradient: l1reg {weight:.4f}, loss {loss:.5f}     scikit-learn's grid: {grid.alpha_:.4f}, {best:.5f}")
    return loss <= best + 1e-4


if __name__ == "__main__":
    sys.exit(not main())
