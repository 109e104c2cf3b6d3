"""Lasso and elastic net to the same duality gap: jaxsolve, scikit-learn's compiled coordinate descent, JAXopt.

n = 1000 samples, float64, one process. Correlated normal features (0.5 between neighbors), 50 of which matter; the
weight of the penalty is a tenth of the smallest one that makes every coefficient zero. Each solver runs with the
loosest tolerance of its own, in powers of 10, at which its duality gap is at most 1e-6 of the loss at zero. Times are
those of compiled runs, without compilation; scikit-learn gets the column-major array it asks for.

The Lipschitz constants of JAXopt's ``least_squares`` are n times too large, and with them it does not get anywhere in
2000 sweeps. It is given the right ones here.
"""

import argparse
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from _timing import interleaved, report, seconds
from sklearn.linear_model import ElasticNet

import jaxsolve
from jaxsolve.objective import least_squares
from jaxsolve.prox import prox_elastic_net

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the peers only
    import jaxopt

jax.config.update("jax_enable_x64", True)
GAP = 1e-6


def regression_data(n, d, seed=0, correlation=0.5, relevant=50):
    """Features of shape (n, d), an autoregression along the rows, and noisy targets."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    for j in range(1, d):
        X[:, j] = correlation * X[:, j - 1] + np.sqrt(1 - correlation**2) * X[:, j]
    w = np.zeros(d)
    w[rng.permutation(d)[:relevant]] = rng.normal(size=relevant)
    signal = X @ w
    return X, signal + 0.5 * signal.std() * rng.normal(size=n)


class LeastSquares(type(jaxopt.objective.least_squares)):
    """JAXopt's least squares with the Lipschitz constants of a mean."""

    def columnwise_lipschitz_const(self, data):
        return super().columnwise_lipschitz_const(data) / len(data[1])


def relative_gap(w, X, y, l1, l2):
    """Duality gap of 1/2n ||X w - y||^2 + l1 ||w||_1 + l2/2 ||w||^2, relative to the loss at zero.

    With l2 > 0 the problem is the lasso of a taller design, with sqrt(n l2) I below X.
    """
    n = len(y)
    residual, ridge = y - X @ w, n * l2
    correlation = np.max(np.abs(X.T @ residual - ridge * w))
    scale = min(1.0, n * l1 / correlation)
    norm = residual @ residual + ridge * w @ w
    primal = 0.5 * norm + n * l1 * np.abs(w).sum()
    dual = scale * (y @ residual) - 0.5 * scale**2 * norm
    return (primal - dual) / (0.5 * y @ y)


def loosest(run, gap):
    """The run with the loosest tolerance that reaches the gap; runs are ``run(tol) -> w``."""
    for power in range(3, 13):
        found = gap(run(10.0**-power))
        if found <= GAP:
            return 10.0**-power, found
    return None, found


def compare(d, l1_ratio, fraction, rounds, with_jaxopt):
    X, y = regression_data(1000, d)
    alpha = np.max(np.abs(X.T @ y)) / len(y) * fraction / l1_ratio
    l1, l2 = alpha * l1_ratio, alpha * (1 - l1_ratio)
    hyperparams = (jnp.asarray(l1), jnp.asarray(l2 / l1))
    data, init = (jnp.asarray(X), jnp.asarray(y)), jnp.zeros(d)
    fortran = np.asfortranarray(X)

    def ours(tol):
        solver = jaxsolve.BlockCoordinateDescent(least_squares, prox_elastic_net, tol=jnp.asarray(tol), maxiter=200)
        return solver.run(init, hyperparams, data).params

    @jax.jit
    def compiled_jaxopt(tol, hyperparams, data):
        prox = jaxopt.prox.prox_elastic_net
        solver = jaxopt.BlockCoordinateDescent(LeastSquares(), prox, tol=tol, maxiter=2000)
        return solver.run(init, hyperparams, data).params

    def theirs(tol):
        return compiled_jaxopt(tol, hyperparams, data)

    def sklearn(tol):
        model = ElasticNet(alpha=alpha, l1_ratio=l1_ratio, fit_intercept=False, tol=tol, max_iter=100_000, copy_X=False)
        return model.fit(fortran, y).coef_

    name = "lasso" if l1_ratio == 1 else f"elastic net, l1_ratio {l1_ratio}"
    runs = {"jaxsolve": ours, "scikit-learn": sklearn}
    if with_jaxopt:
        runs["JAXopt"] = theirs
    gap = lambda w: relative_gap(np.asarray(w), X, y, l1, l2)  # noqa: E731
    calls, words = {}, []
    for peer, run in runs.items():
        tol, found = loosest(run, gap)
        words.append(f"{peer} {found:.0e}" + ("" if tol else " (NOT SOLVED)"))
        calls[peer] = functools.partial(run, tol or 1e-12)
    w = np.asarray(calls["jaxsolve"]())
    print(f"{name}, d = {d}, l1 = {fraction:g} of the largest, {np.sum(w != 0)} coefficients not zero")
    print("  relative duality gap: " + ", ".join(words))
    # One slow peer is not run as often as the others.
    slow = calls.pop("JAXopt", None)
    times = interleaved(calls, rounds)
    if slow is not None:
        times["JAXopt"] = float(np.median([seconds(slow) for _ in range(3)]))
    report("compiled run (bars: at most 2 against scikit-learn, 0.2 against JAXopt)", times)
    print(flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--fraction", type=float, default=0.1, help="weight of the penalty, of the largest one")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--without-jaxopt", action="store_true")
    options = parser.parse_args()
    for d in options.dimensions:
        for l1_ratio in (1.0, 0.5):
            compare(d, l1_ratio, options.fraction, options.rounds, not options.without_jaxopt)
