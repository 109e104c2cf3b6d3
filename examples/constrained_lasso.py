r"""The constrained lasso
=====================

The constrained lasso, and how its solution changes with the data: coefficients that are monotone and sum to 1.

::

    min_w  1/2 |X w - y|^2 + l1 |w|_1   subject to   w_1 >= w_2 >= ... >= w_d,   sum_j w_j = 1.

The two constraints are h(K w), with K w the differences of neighbors and the sum, and h the indicator function of a
box; the penalty is g(w). ``PrimalDual`` needs the proximity operators of g and h, and K as a matrix.

The dual variables are the multipliers of the constraints: the derivatives of the optimal value with respect to the
bounds. The second column of the table checks this; the third compares the derivative of the solution in ``l1`` with
differences.

Reference: Gaines, Kim, Zhou (2018), "Algorithms for fitting the constrained lasso", JCGS 27.
"""

import jax
import jax.numpy as jnp
import numpy as np

import jaxsolve
from jaxsolve.projection import projection_box
from jaxsolve.prox import make_prox_from_projection, prox_lasso

jax.config.update("jax_enable_x64", True)

prox_bounds = make_prox_from_projection(projection_box)


def make_data(num_samples=40, num_features=8, seed=0):
    """Inputs, and targets of decreasing coefficients with noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(num_samples, num_features))
    w = np.maximum(0.5 - 0.15 * np.arange(num_features), 0)
    return jnp.asarray(X), jnp.asarray(X @ w + 0.5 * rng.normal(size=num_samples))


def constraints(num_features):
    """``K`` of shape (d, d), and lower and upper bounds of ``K w``."""
    rows = np.zeros((num_features, num_features))
    rows[:-1] = -np.diff(np.eye(num_features), axis=0)
    rows[-1] = 1
    lower = np.append(np.zeros(num_features - 1), 1.0)
    upper = np.append(np.full(num_features - 1, np.inf), 1.0)
    return jnp.asarray(rows), (jnp.asarray(lower), jnp.asarray(upper))


def squares(w, X, y):
    """The smooth term."""
    return 0.5 * jnp.sum((X @ w - y) ** 2)


def solve(l1, bounds, X, y, init=None):
    """``OptStep`` of the solver; ``params`` is the pair of coefficients and multipliers."""
    solver = jaxsolve.PrimalDual(squares, prox_lasso, prox_bounds, constraints(X.shape[1])[0], tol=1e-9, maxiter=20_000)
    return solver.run(jnp.zeros(X.shape[1]) if init is None else init, l1, bounds, X, y)


def value(l1, bounds, X, y):
    """The optimal value."""
    w = solve(l1, bounds, X, y).params.primal
    return squares(w, X, y) + l1 * jnp.sum(jnp.abs(w))


def main(weights=(0.5, 2.0, 8.0)):
    """Solve for several weights; returns the largest violation and the largest error of a derivative."""
    X, y = make_data()
    _, (lower, upper) = constraints(X.shape[1])
    violation = error = 0.0
    print("  l1   nonzero  multiplier of the sum  its check    d w_1 / d l1   its check  iterations")
    step = None
    for l1 in weights:
        # The solution for one weight is a start for the next one, its multipliers included.
        step = solve(l1, (lower, upper), X, y, None if step is None else step.params)
        w = step.params.primal
        multiplier = float(step.params.dual[-1])
        moved = [value(l1, (lower.at[-1].add(h), upper.at[-1].add(h)), X, y) for h in (-1e-4, 1e-4)]
        by_bound = float(moved[1] - moved[0]) / 2e-4
        first = jax.jacobian(lambda l1: solve(l1, (lower, upper), X, y).params.primal)(l1)
        by_weight = (
            solve(l1 + 1e-4, (lower, upper), X, y).params.primal - solve(l1 - 1e-4, (lower, upper), X, y).params.primal
        ) / 2e-4
        violation = max(violation, float(abs(jnp.sum(w) - 1)), float(jnp.max(jnp.diff(w))))
        error = max(error, abs(multiplier + by_bound), float(jnp.max(jnp.abs(first - by_weight))))
        print(
            f"{l1:5.1f} {int(jnp.sum(jnp.abs(w) > 1e-6)):8d} {multiplier:22.6f} {-by_bound:10.6f} "
            f"{float(first[0]):15.6f} {float(by_weight[0]):11.6f} {int(step.state.iter_num):11d}"
        )
    return violation, error


if __name__ == "__main__":
    main()
