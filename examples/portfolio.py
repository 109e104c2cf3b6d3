"""Portfolios learned end to end
=============================

Portfolio optimization learned end to end: the prediction of returns is trained for the decision that is based on it.

Every day a linear model predicts the returns r of ten assets from features, and the portfolio is

::

    w*(r) = argmin  gamma/2 w^T Sigma w - r^T w    subject to  sum(w) = 1,  0 <= w <= 0.4,

one quadratic program per day, solved for all days at once under ``jax.vmap``. Two ways to fit the model::

    predict, then optimize: least squares on the returns,
    end to end: Adam on the realized utility r^T w* - gamma/2 w*^T Sigma w* itself, through the solution w*.

The true returns are not a linear function of the features: one feature announces losses, which are large, and has no
information on gains. Least squares fits mainly the losses, because they make up most of the variance. A portfolio only
has to avoid the assets with losses, and then choose among the others; this is what the end-to-end model learns.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxsolve

jax.config.update("jax_enable_x64", True)
RISK_AVERSION, LARGEST_WEIGHT = 2.0, 0.4


def make_market(seed, num_days, num_assets=10, num_features=4):
    """Features, returns and the covariance of the noise: ``(X, R, Sigma)``, X of shape (days, assets, features)."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(num_days, num_assets, num_features))
    losses = -2.0 * np.maximum(-X[:, :, 0], 0) ** 2
    gains = 0.6 * X[:, :, 1] - 0.3 * X[:, :, 2]
    factor = rng.normal(size=(num_assets, 3)) * 0.2
    Sigma = factor @ factor.T + 0.05 * np.eye(num_assets)
    noise = rng.multivariate_normal(np.zeros(num_assets), Sigma, size=num_days)
    return tuple(jnp.asarray(part) for part in (X, losses + gains + noise, Sigma))


def portfolios(returns, Sigma):
    """The best portfolio of each day for predicted returns of shape (days, assets)."""
    num_assets = Sigma.shape[0]
    solver = jaxsolve.InteriorPointQP(tol=1e-6)
    rows = jnp.concatenate([jnp.ones((1, num_assets)), jnp.eye(num_assets)])
    lower = jnp.zeros(num_assets + 1).at[0].set(1.0)
    upper = jnp.full(num_assets + 1, LARGEST_WEIGHT).at[0].set(1.0)

    def one(r):
        return solver.run(None, (RISK_AVERSION * Sigma, -r), rows, (lower, upper)).params.primal[0]

    return jax.vmap(one)(returns)


def utility(theta, X, R, Sigma):
    """Mean realized utility of the portfolios that the model decides on."""
    W = portfolios(X @ theta, Sigma)
    risk = jnp.einsum("di,ij,dj->d", W, Sigma, W)
    return jnp.mean(jnp.sum(W * R, axis=1) - 0.5 * RISK_AVERSION * risk)


def fit_least_squares(X, R):
    """The model with the smallest squared error."""
    return jnp.linalg.lstsq(X.reshape(-1, X.shape[-1]), R.reshape(-1))[0]


def fit_end_to_end(theta, X, R, Sigma, num_steps, batch_size, learning_rate=0.05, seed=0):
    """Improve a model by the gradient of its utility."""
    optimizer = optax.adam(learning_rate)
    opt_state = optimizer.init(theta)
    rng = np.random.default_rng(seed)

    @jax.jit
    def step(theta, opt_state, X, R):
        value, gradient = jax.value_and_grad(lambda theta: -utility(theta, X, R, Sigma))(theta)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return optax.apply_updates(theta, updates), opt_state, value

    for _ in range(num_steps):
        days = rng.choice(X.shape[0], batch_size, replace=False)
        theta, opt_state, _ = step(theta, opt_state, X[days], R[days])
    return theta


def main(seeds=range(3), num_train=500, num_test=1000, num_steps=100, batch_size=64):
    """Compare both fits on days to come; returns the utilities, a list of pairs."""
    evaluate = jax.jit(utility)
    results = []
    print("out-of-sample utility   least squares   end to end")
    for seed in seeds:
        X, R, Sigma = make_market(seed, num_train + num_test)
        train, test = (X[:num_train], R[:num_train]), (X[num_train:], R[num_train:])
        plain = fit_least_squares(*train)
        learned = fit_end_to_end(plain, *train, Sigma, num_steps, batch_size)
        pair = [float(evaluate(theta, *test, Sigma)) for theta in (plain, learned)]
        results.append(pair)
        print(f"  market {seed}             {pair[0]:10.4f}   {pair[1]:10.4f}", flush=True)
    better = sum(learned > plain for plain, learned in results)
    print(f"end to end is better in {better} of {len(results)} markets")
    return results


if __name__ == "__main__":
    results = main()
    sys.exit(not all(learned > plain for plain, learned in results))
