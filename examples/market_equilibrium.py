r"""Prices of an exchange economy
=============================

Prices of an exchange economy, and their derivatives with respect to what everybody owns.

Agent i owns e_ij of good j and has the utility u_i(x) = (sum_j a_ij x_j^r)^(1/r), with constant elasticity of
substitution 1 / (1 - r). At an equilibrium (Arrow and Debreu 1954) all agents buy the goods with the largest utility
that they can pay for by selling what they own, and all existing goods are bought.

For given budgets B the equilibrium is a convex program (Eisenberg and Gale 1959),

::

    maximize  sum_i B_i log u_i(x_i)    subject to    sum_i x_ij <= sum_i e_ij,   x >= 0,

whose multipliers are the prices p. Each budget is the value of what the agent owns, B_i = sum_j p_j e_ij. This is a
fixed-point equation, solved by an outer solver around the inner one. Both solutions are differentiable, and so are the
prices: the derivatives say how prices and utilities change if an agent owns more of a good. If goods can hardly replace
each other, owning more is not better for the owner (immiserizing growth, Bhagwati 1958): the price falls by more than
the amount grows.

For these utilities demand has a closed form, by which the prices and their derivatives are checked.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import scipy.optimize

import jaxsolve

jax.config.update("jax_enable_x64", True)
OUTPUT = Path(__file__).parent / "output"
TASTES = np.array([[0.5, 0.3, 0.2], [0.3, 0.4, 0.3], [0.2, 0.2, 0.6]])
ENDOWMENTS = np.array([[3.0, 0.2, 0.1], [0.2, 2.0, 0.3], [0.1, 0.4, 2.0]])
POWER = -1.5  # an elasticity of substitution of 0.4


def utility(x, power):
    """The utilities, shape (agents,), of consumption x of shape (agents, goods)."""
    return jnp.sum(TASTES * x**power, axis=1) ** (1 / power)


def welfare(x, budgets, endowments, power):
    """Minus the objective of Eisenberg and Gale."""
    return -jnp.sum(budgets * jnp.log(utility(x, power)))


def excess(x, budgets, endowments, power):
    """By how much more is bought than exists, shape (goods,)."""
    return jnp.sum(x, axis=0) - jnp.sum(endowments, axis=0)


MARKET = jaxsolve.InteriorPointNLP(welfare, ineq_fun=excess)


def market(budgets, endowments, power):
    """Consumption, shape (agents, goods), and prices, shape (goods,), for given budgets."""
    start = jnp.broadcast_to(jnp.mean(endowments, axis=0), endowments.shape)
    params, _ = MARKET.run(start, budgets, endowments, power, bounds=(1e-9, jnp.inf))
    return params.primal, params.dual_ineq


def worth(budgets, endowments, power):
    """What is owned is worth, in parts of the whole; shape (agents,)."""
    _, prices = market(budgets, endowments, power)
    values = endowments @ prices
    return values / jnp.sum(values)


def equilibrium(endowments, power=POWER):
    """Prices of which the sum is 1, consumption, and the state of the outer run."""
    solver = jaxsolve.AndersonAcceleration(worth, tol=1e-12, maxiter=60)
    agents = len(TASTES)
    budgets, state = solver.run(jnp.full(agents, 1 / agents), endowments, power)
    x, prices = market(budgets, endowments, power)
    return prices / jnp.sum(prices), x, state


def prices_by_demand(endowments, power=POWER):
    """The prices at which the demand that these utilities have in closed form is what exists; with NumPy alone."""
    sigma = 1 / (1 - power)

    def surplus(rest):
        prices = np.append(rest, 1 - np.sum(rest))
        weights = TASTES**sigma * prices**-sigma
        x = (endowments @ prices / (weights @ prices))[:, None] * weights
        return np.sum(x - endowments, axis=0)[:-1]

    goods = endowments.shape[1]
    found = scipy.optimize.root(surplus, np.full(goods - 1, 1 / goods), tol=1e-13)
    return np.append(found.x, 1 - np.sum(found.x))


def plot(amounts, prices, slopes, path):
    """Draw the prices over the amount of the first good that the first agent owns, with tangents."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    width = 0.3 * (amounts[1] - amounts[0]) * np.array([-1, 1])
    for good in range(prices.shape[1]):
        axes.plot(amounts, prices[:, good], "o", color=f"C{good}", label=f"good {good + 1}")
        for amount, price, slope in zip(amounts, prices[:, good], slopes[:, good], strict=True):
            axes.plot(amount + width, price + slope * width, color=f"C{good}")
    axes.set(xlabel="amount of good 1 owned by agent 1", ylabel="price", title="prices, with their derivatives")
    axes.legend()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"figure: {path.parent.name}/{path.name}")


def main(num=7, path=OUTPUT / "market_equilibrium.png"):
    """Print prices and derivatives; returns them, how far they are from the closed form, and what growth is worth."""

    def report(endowments):
        prices, x, state = equilibrium(endowments)
        return jnp.concatenate([prices, utility(x, POWER)]), (prices, x, state)

    everything = jax.jit(jax.jacfwd(report, has_aux=True))
    jacobian, (prices, x, state) = everything(jnp.asarray(ENDOWMENTS))
    goods = len(prices)
    of_prices, of_utilities = np.asarray(jacobian[:goods]), np.asarray(jacobian[goods:])
    print(f"{jaxsolve.Status(int(state.status)).name} in {int(state.iter_num)} iterations; prices", prices.round(4))

    step = 1e-5
    differences = np.zeros_like(of_prices)
    for index in np.ndindex(ENDOWMENTS.shape):
        more = np.zeros_like(ENDOWMENTS)
        more[index] = step
        ahead, behind = prices_by_demand(ENDOWMENTS + more), prices_by_demand(ENDOWMENTS - more)
        differences[:, *index] = (ahead - behind) / (2 * step)
    errors = [
        float(np.max(np.abs(prices - prices_by_demand(ENDOWMENTS)))),
        float(np.max(np.abs(of_prices - differences))),
    ]
    print(f"against demand in closed form: prices {errors[0]:.0e}, derivatives {errors[1]:.0e}")
    own = np.array([of_utilities[i, i] for i in range(len(ENDOWMENTS))])
    print("derivative of everybody's utility in what he owns, by good:")
    print(own.round(3))

    amounts = np.linspace(1.5, 4.5, num)
    along = [everything(jnp.asarray(ENDOWMENTS).at[0, 0].set(amount)) for amount in amounts]
    curve = np.stack([prices for _, (prices, _, _) in along])
    plot(amounts, curve, np.stack([jacobian[:goods, 0, 0] for jacobian, _ in along]), path)
    return prices, of_prices, errors, own


if __name__ == "__main__":
    _, _, errors, own = main()
    sys.exit(bool(errors[0] > 1e-9 or errors[1] > 1e-6 or own[0, 0] > 0))
