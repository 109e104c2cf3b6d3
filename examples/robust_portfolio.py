r"""Robust portfolios by second-order cone programming, and how much robustness pays.

The mean returns of assets are estimated from few months, as mu, and their covariance, as L L^T. The true means are
somewhere in an ellipsoid around mu, and a robust portfolio is the best one for the worst of them:

    w*(kappa) = argmax  min { m^T w : |L^-1 (m - mu)| <= kappa }  =  argmax  mu^T w - kappa |L^T w|

with sum(w) = 1 and w >= 0. The norm makes it a second-order cone program (Goldfarb and Iyengar 2003).

How large should the ellipsoid be? That is learned: L-BFGS finds the kappa for which the growth rate
m^T w*(kappa) - |L^T w*(kappa)|^2 / 2 under the true means and covariances is best on average over 64 simulated
markets, all solved in one batch, by its derivative through the solutions. Markets that were not used judge the result,
beside a portfolio that believes the estimates (kappa = 0) and one that ignores them (equal weights).

Reference: Goldfarb and Iyengar (2003), "Robust portfolio selection problems".
"""

import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

import jaxsolve

jax.config.update("jax_enable_x64", True)
OUTPUT = Path(__file__).parent / "output"


class Markets(NamedTuple):
    """Simulated markets, with returns a month; the leading axis is that of the markets.

    Attributes:
        mean: the true means, shape (markets, assets).
        factor: L with the true covariance L L^T, shape (markets, assets, assets).
        estimated_mean: the means of the months that were seen, shape (markets, assets).
        estimated_factor: L with the covariance of these months, shape (markets, assets, assets).
    """

    mean: jax.Array
    factor: jax.Array
    estimated_mean: jax.Array
    estimated_factor: jax.Array


def make_markets(seed, count, num_assets=8, num_months=36):
    """Markets whose assets have volatilities of 2 to 12 percent, and are paid little for the larger ones."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(count):
        volatility = rng.uniform(0.02, 0.12, size=num_assets)
        loading = rng.uniform(0.3, 0.8, size=num_assets)
        covariance = np.outer(volatility, volatility) * (np.outer(loading, loading) + np.diag(1 - loading**2))
        mean = 0.006 + 0.05 * volatility + 0.004 * rng.normal(size=num_assets)
        months = rng.multivariate_normal(mean, covariance, size=num_months)
        estimates = months.mean(axis=0), np.linalg.cholesky(np.cov(months.T))
        parts.append((mean, np.linalg.cholesky(covariance), *estimates))
    return Markets(*(jnp.asarray(np.stack(part)) for part in zip(*parts, strict=True)))


def robust_portfolio(mean, factor, kappa):
    """The weights, shape (assets,), and the mean return that is certain; variables are (w, t) with t >= |L^T w|."""
    n = mean.size
    cones = jaxsolve.Cones(zero=1, nonneg=n, soc=(n + 1,))
    A = jnp.zeros((cones.num_rows, n + 1))
    A = A.at[0, :n].set(1.0)  # sum(w) = 1
    A = A.at[1 : n + 1, :n].set(-jnp.eye(n))  # w >= 0
    A = A.at[n + 1, n].set(-1.0).at[n + 2 :, :n].set(-factor.T)  # (t, L^T w) in the cone
    b = jnp.zeros(cones.num_rows).at[0].set(1.0)
    result = jaxsolve.solve_conic(None, jnp.append(-mean, kappa), A, b, cones)
    return result.x[:n], -result.value


def growth(weights, mean, factor):
    """The growth rate of a portfolio, to second order."""
    return mean @ weights - jnp.sum((factor.T @ weights) ** 2) / 2


def mean_growth(log_kappa, markets):
    """The mean growth rate of robust portfolios that were chosen by estimates, in the true markets."""

    def one(market):
        weights, _ = robust_portfolio(market.estimated_mean, market.estimated_factor, jnp.exp(log_kappa))
        return growth(weights, market.mean, market.factor)

    return jnp.mean(jax.vmap(one)(markets))


def learn(markets, start=0.1):
    """The best size of the ellipsoid for these markets; returns it and the state of the solver."""
    solver = jaxsolve.LBFGS(lambda log_kappa, markets: -100 * mean_growth(log_kappa, markets), tol=1e-4, maxiter=30)
    log_kappa, state = solver.run(jnp.log(start), markets)
    return float(jnp.exp(log_kappa)), state


def slopes(market, kappa=0.2, step=1e-5):
    """The derivative of the weights in kappa: in forward mode, in reverse mode, by central differences."""
    weights = jax.jit(lambda kappa: robust_portfolio(market.estimated_mean, market.estimated_factor, kappa)[0])
    forward, reverse = (jax.jit(mode(weights))(kappa) for mode in (jax.jacfwd, jax.jacrev))
    return forward, reverse, (weights(kappa + step) - weights(kappa - step)) / (2 * step)


def worst_cases(markets, kappa):
    """The mean returns of robust and of trusting portfolios for the worst means of the ellipsoid, and the promise."""

    def one(mean, factor):
        weights, promised = robust_portfolio(mean, factor, kappa)
        trusting = jnp.zeros_like(mean).at[jnp.argmax(mean)].set(1.0)
        worst = [mean @ w - kappa * jnp.linalg.norm(factor.T @ w) for w in (weights, trusting)]
        return jnp.array([*worst, promised])

    return jax.jit(jax.vmap(one))(markets.estimated_mean, markets.estimated_factor)


def plot(markets, unseen, learned, path):
    """Draw the weights of one market, and the growth rate of all, as functions of kappa."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kappas = np.geomspace(0.02, 2.0, 41)
    market = jax.tree.map(lambda part: part[0], markets)
    solve = jax.vmap(lambda kappa: robust_portfolio(market.estimated_mean, market.estimated_factor, kappa)[0])
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    axes[0].stackplot(kappas, np.asarray(jax.jit(solve)(kappas)).T)
    axes[0].set(xscale="log", xlabel="kappa", ylabel="weights of the assets", ylim=(0, 1), title="one market")
    rates = jax.jit(jax.vmap(mean_growth, in_axes=(0, None)))
    for name, group in {"used for learning": markets, "not used": unseen}.items():
        axes[1].semilogx(kappas, 100 * rates(np.log(kappas), group), label=f"markets {name}")
    axes[1].axvline(learned, color="gray", lw=0.8, ls=":", label="learned")
    axes[1].set(xlabel="kappa", ylabel="percent a month", title="mean growth rate")
    axes[1].legend()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"figure: {path}")


def main(count=64, path=OUTPUT / "robust_portfolio.png"):
    """Check the derivative and the promise, learn kappa, judge it; returns whether the docstring is right."""
    markets, unseen = make_markets(0, count), make_markets(1, count)
    forward, reverse, differences = slopes(jax.tree.map(lambda part: part[0], markets))
    errors = [
        float(jnp.max(jnp.abs(slope - differences)) / jnp.max(jnp.abs(differences))) for slope in (forward, reverse)
    ]
    print(f"derivative of the weights in kappa, relative error: forward {errors[0]:.0e}, reverse {errors[1]:.0e}")

    robust, trusting, promised = worst_cases(markets, 0.2).T
    kept = bool(jnp.all(robust >= trusting - 1e-9) & jnp.allclose(robust, promised, atol=1e-9))
    print(
        f"mean return for the worst means: {100 * robust.mean():.2f} % a month, trusting {100 * trusting.mean():.2f} %"
    )

    kappa, state = learn(markets)
    print(f"learned kappa = {kappa:.3f} in {int(state.iter_num)} iterations, from 0.1")

    def trust(market):
        return jnp.zeros_like(market.mean).at[jnp.argmax(market.estimated_mean)].set(1.0)

    def others(market):
        equal = jnp.full_like(market.mean, 1 / market.mean.size)
        return jnp.array([growth(weights, market.mean, market.factor) for weights in (trust(market), equal)])

    rates = [float(mean_growth(jnp.log(kappa), unseen)), *jax.vmap(others)(unseen).mean(axis=0).tolist()]
    print("growth rate in unseen markets, percent a month:")
    for name, rate in zip(("robust, learned kappa", "believing the estimates", "equal weights"), rates, strict=True):
        print(f"  {name:24}{100 * rate:7.3f}")
    plot(markets, unseen, kappa, path)
    return max(errors) < 1e-6 and kept and rates[0] > max(rates[1:])


if __name__ == "__main__":
    sys.exit(not main())
