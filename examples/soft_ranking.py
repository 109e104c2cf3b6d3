r"""Soft ranking
============

Learn to rank by differentiating ranks: a linear model trained on its Spearman correlation.

The data are scikit-learn's diabetes data. Only the *order* of the patients by the progression of their disease is to be
predicted, and one training target in ten is an outlier. The ranks of the predictions are piecewise constant, so their
correlation with the ranks of the targets has no useful gradient. ``soft_rank`` replaces them by a projection on the
permutahedron, which has a useful gradient, and which tends to the ranks as the regularization goes to 0::

    min_w  6 mean (soft_rank(X w) - rank(y))^2 / n^2  +  l2reg / 2 |w|^2

Up to the regularization, the first term is 1 minus Spearman's correlation. It is compared with the squared loss of
ridge regression. The size of an outlier affects its square, but not its rank.

Reference: Blondel, Teboul, Berthet, Djolonga (2020), "Fast Differentiable Sorting and Ranking".
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import rankdata, spearmanr
from sklearn.datasets import load_diabetes
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import train_test_split

import jaxsolve
from jaxsolve.isotonic import soft_rank

jax.config.update("jax_enable_x64", True)


def load_data(seed=0):
    """Standardized features; one training target in ten is multiplied by 20. Returns X, y, X_test, y_test."""
    X, y = load_diabetes(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.5, random_state=seed)
    outliers = np.random.default_rng(seed).choice(y.size, y.size // 10, replace=False)
    y[outliers] *= 20
    return X, y, X_test, y_test


def rank_loss(w, strength, l2reg, X, ranks):
    """Squared distance of the soft ranks of the predictions to the ranks of the targets."""
    predicted = soft_rank(X @ w, regularization_strength=strength)
    return 6 * jnp.mean((predicted - ranks) ** 2) / ranks.size**2 + 0.5 * l2reg * jnp.sum(w**2)


def fit(X, y, strength=0.02, l2reg=1e-3):
    """Weights that minimize the rank loss, by L-BFGS."""
    ranks = jnp.asarray(rankdata(y))
    # The loss has kinks where blocks of the projection change, so the gradient need not become tiny.
    solver = jaxsolve.LBFGS(rank_loss, maxiter=100, tol=1e-4)
    init = X.T @ (ranks - jnp.mean(ranks)) / y.size**2
    w, _ = solver.run(init, strength, l2reg, jnp.asarray(X), ranks)
    return w


def main(num_splits=5):
    """Train both models and compare their rank correlations; returns whether ranks did better."""
    start = time.perf_counter()
    wins, totals = 0, np.zeros(2)
    seeds = range(num_splits)
    print("Spearman correlation on test data\n  split   soft ranks   squared loss")
    for seed in seeds:
        X, y, X_test, y_test = load_data(seed)
        w = fit(X, y)
        ridge = RidgeCV(alphas=np.logspace(-2, 4, 13)).fit(X, y)
        scores = [spearmanr(p, y_test).statistic for p in (X_test @ w, ridge.predict(X_test))]
        wins += scores[0] > scores[1]
        totals += scores
        print(f"  {seed:5d}   {scores[0]:10.4f}   {scores[1]:12.4f}")
    print(f"   mean   {totals[0] / len(seeds):10.4f}   {totals[1] / len(seeds):12.4f}")

    X, y, *_ = load_data()
    gradient = jax.jit(jax.grad(rank_loss, (0, 1)))
    slopes = gradient(fit(X, y), 0.02, 1e-3, jnp.asarray(X), jnp.asarray(rankdata(y)))
    print(f"the loss is differentiable in the regularization strength too: slope {float(slopes[1]):+.4f}")
    print(f"soft ranks did better on {wins} of {len(seeds)} splits, {time.perf_counter() - start:.0f} s")
    return bool(totals[0] > totals[1])


if __name__ == "__main__":
    sys.exit(not main())
