r"""Robust portfolios
=================

Robust portfolios by second-order cone programming, and how much robustness is best.

The mean returns of assets are estimated from few months, as mu, and their covariance, as L L^T. The true means are
somewhere in an ellipsoid around mu, and a robust portfolio is the best one for the worst of them::

    w*(kappa) = argmax  min { m^T w : |L^-1 (m - mu)| <= kappa }  =  argmax  mu^T w - kappa |L^T w|

with sum(w) = 1 and w >= 0. The norm makes it a second-order cone program (Goldfarb and Iyengar 2003).

How large should the ellipsoid be? This is learned. The objective is the growth rate
m^T w*(kappa) - \|L^T w*(kappa)\|^2 / 2 under the true means and covariances, averaged over 64 simulated markets that
are solved in one batch. JAX computes its derivative in kappa, and the best kappa is a root of it. The result is tested
on new markets, together with a portfolio that trusts the estimates (kappa = 0) and one that ignores them (equal
weights).

Reference: Goldfarb and Iyengar (2003), "Robust portfolio selection problems".
"""

import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import scipy.optimize

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
    """Markets whose assets have volatilities of 2 to 12 percent, and means of 0.6 percent give or take as much."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(count):
        volatility = rng.uniform(0.02, 0.12, size=num_assets)
        loading = rng.uniform(0.3, 0.8, size=num_assets)
        covariance = np.outer(volatility, volatility) * (np.outer(loading, loading) + np.diag(1 - loading**2))
        mean = 0.006 + 0.006 * rng.normal(size=num_assets)
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


@jax.jit
def report(log_kappa, markets):
    """What is wanted of all markets at one kappa: a dictionary with a program for each market, solved once.

    ``weights`` (markets, assets) and their derivative in log kappa (forward mode), ``promised``, the mean returns that
    are certain, ``rate``, the mean growth rate in the true markets, and its derivative (reverse mode).
    """

    def solve(log_kappa):
        portfolio = jax.vmap(lambda mean, factor: robust_portfolio(mean, factor, jnp.exp(log_kappa)))
        weights, promised = portfolio(markets.estimated_mean, markets.estimated_factor)
        return weights, jnp.mean(jax.vmap(growth)(weights, markets.mean, markets.factor)), promised

    (weights, rate, promised), forward = jax.linearize(solve, log_kappa)  # solves once
    weights_slope, *_ = forward(jnp.ones_like(log_kappa))
    cotangent = jnp.zeros_like(weights), jnp.ones_like(rate), jnp.zeros_like(promised)
    (rate_slope,) = jax.linear_transpose(forward, log_kappa)(cotangent)
    found = {"weights": weights, "promised": promised, "rate": rate}
    return found | {"weights_slope": weights_slope, "rate_slope": rate_slope}


def derivative_errors(markets, log_kappa, step=1e-5):
    """Relative errors of the derivatives of weights and growth rate against central differences."""
    here, ahead, behind = (report(log_kappa + shift, markets) for shift in (0.0, step, -step))
    errors = []
    for name in ("weights", "rate"):
        differences = (ahead[name] - behind[name]) / (2 * step)
        # A market in which an asset enters within the step has no derivative there: the median of all markets.
        error = jnp.abs(here[name + "_slope"] - differences) / jnp.max(jnp.abs(differences))
        errors.append(float(jnp.median(jnp.max(jnp.atleast_2d(error), axis=-1))))
    return errors


def learn(markets, lowest=0.05, highest=2.0):
    """The best size of the ellipsoid for these markets: a root of the derivative; returns its logarithm."""
    bracket = np.log(lowest), np.log(highest)
    return scipy.optimize.brentq(lambda log_kappa: float(report(log_kappa, markets)["rate_slope"]), *bracket, xtol=1e-3)


def worst_case(weights, markets, kappa):
    """The mean return of a portfolio for the worst means of the ellipsoid, for each market."""
    spread = jnp.linalg.norm(jnp.einsum("nij,ni->nj", markets.estimated_factor, weights), axis=1)
    return jnp.sum(markets.estimated_mean * weights, axis=1) - kappa * spread


def plot(groups, learned, path):
    """Draw the weights of one market, and the growth rate of each group of markets, as functions of kappa."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kappas = np.geomspace(0.02, 2.0, 25)
    found = {name: [report(float(np.log(kappa)), group) for kappa in kappas] for name, group in groups.items()}
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    axes[0].stackplot(kappas, np.stack([at["weights"][0] for at in next(iter(found.values()))]).T)
    axes[0].set(xscale="log", xlabel="kappa", ylabel="weights of the assets", ylim=(0, 1), title="one market")
    for name, reports in found.items():
        axes[1].semilogx(kappas, [100 * float(at["rate"]) for at in reports], label=f"markets {name}")
    axes[1].axvline(learned, color="gray", lw=0.8, ls=":", label="learned")
    axes[1].set(xlabel="kappa", ylabel="percent a month", title="mean growth rate")
    axes[1].legend()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"figure: {path.parent.name}/{path.name}")


def main(count=64, path=OUTPUT / "robust_portfolio.png"):
    """Check the derivative and the promise, learn kappa, judge it; returns whether the docstring is right."""
    markets, unseen = make_markets(0, count), make_markets(1, count)
    errors = derivative_errors(markets, np.log(0.2))
    print(f"derivatives in log kappa, relative error: weights {errors[0]:.0e}, growth rate {errors[1]:.0e}")

    log_kappa = learn(markets)
    kappa = float(np.exp(log_kappa))
    print(f"learned kappa = {kappa:.3f}")
    here = report(log_kappa, unseen)
    believing = jax.nn.one_hot(jnp.argmax(unseen.estimated_mean, axis=1), unseen.mean.shape[1])
    robust, trusting = (worst_case(weights, unseen, kappa) for weights in (here["weights"], believing))
    kept = bool(jnp.all(robust >= trusting - 1e-9) & jnp.allclose(robust, here["promised"], atol=1e-8))
    print("mean return for the worst means, percent a month, averaged over unseen markets:")
    print(f"  robust {100 * robust.mean():.3f}, believing the estimates {100 * trusting.mean():.3f}")

    others = believing, jnp.full_like(believing, 1 / believing.shape[1])
    rates = [float(here["rate"])]
    rates += [float(jnp.mean(jax.vmap(growth)(weights, unseen.mean, unseen.factor))) for weights in others]
    print("growth rate in the true markets, percent a month:")
    for name, rate in zip(("robust, learned kappa", "believing the estimates", "equal weights"), rates, strict=True):
        print(f"  {name:24}{100 * rate:7.3f}")
    plot({"used for learning": markets, "not used": unseen}, kappa, path)
    return max(errors) < 1e-5 and kept and rates[0] > max(rates[1:])


if __name__ == "__main__":
    sys.exit(not main())
