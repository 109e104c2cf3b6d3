"""Layers written in CVXPY: a batch of each kind, forward and with its gradient, against CVXPY itself and cvxpylayers.

    python benchmarks/cvxpy_layers.py [--batch 64] [--kinds relu,optnet,portfolio,logistic,semidefinite]

A line has milliseconds a batch: the layer forward, with its gradient, a Python loop over CVXPY's solutions by Clarabel
(forward only), and, where cvxpylayers is installed, its layer with its gradient. The last column is the largest
difference of the values from CVXPY's.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
from _timing import seconds

import jaxsolve

jax.config.update("jax_enable_x64", True)


def relu(n=20):
    x, v = cp.Variable(n), cp.Parameter(n)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - v)), [x >= 0])
    return problem, [v], [x], lambda rng: [rng.standard_normal(n)]


def optnet(n=20):
    x, root, q = cp.Variable(n), cp.Parameter((n, n)), cp.Parameter(n)
    G, h = cp.Parameter((n, n)), cp.Parameter(n)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(root @ x) + q @ x), [G @ x <= h])

    def values(rng):
        return [
            np.eye(n) + 0.1 * rng.standard_normal((n, n)),
            rng.standard_normal(n),
            rng.standard_normal((n, n)),
            np.ones(n),
        ]

    return problem, [root, q, G, h], [x], values


def portfolio(n=20):
    w, mu, root = cp.Variable(n, nonneg=True), cp.Parameter(n), cp.Parameter((n, n))
    problem = cp.Problem(cp.Maximize(mu @ w), [cp.sum(w) == 1, cp.norm(root @ w) <= 0.5])
    return problem, [mu, root], [w], lambda rng: [rng.standard_normal(n), np.diag(0.5 + rng.uniform(size=n))]


def logistic(n=5, samples=20):
    w, X, lam = cp.Variable(n), cp.Parameter((samples, n)), cp.Parameter(nonneg=True)
    signs = np.where(np.arange(samples) % 2, 1.0, -1.0)
    loss = cp.sum(cp.logistic(cp.multiply(-signs, X @ w))) + lam * cp.sum_squares(w)
    return cp.Problem(cp.Minimize(loss)), [X, lam], [w], lambda rng: [rng.standard_normal((samples, n)), 0.1]


def semidefinite(k=6):
    X, S = cp.Variable((k, k), PSD=True), cp.Parameter((k, k))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - S)), [cp.diag(X) == 1])
    return problem, [S], [X], lambda rng: [rng.standard_normal((k, k))]


KINDS = {fun.__name__: fun for fun in (relu, optnet, portfolio, logistic, semidefinite)}


def milliseconds(function, *args, repeats=5):
    """The median, after a first call that compiles."""
    return 1e3 * statistics.median([seconds(lambda: function(*args)) for _ in range(repeats + 1)][1:])


def by_cvxpy(problem, parameters, values):
    """The optimal values, one after the other."""
    found = []
    for each in zip(*values, strict=True):
        for parameter, value in zip(parameters, each, strict=True):
            parameter.value = value
        found.append(problem.solve(solver="CLARABEL"))
    return np.array(found)


def by_cvxpylayers(problem, parameters, variables):
    """The gradient of the sum of squares of a batch by cvxpylayers; ``None`` without it."""
    try:
        from cvxpylayers.jax import CvxpyLayer
    except ImportError:
        return None
    layer = CvxpyLayer(problem, parameters=parameters, variables=variables)
    return jax.grad(lambda values: jnp.sum(layer(*values)[0] ** 2))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--kinds", default=",".join(KINDS))
    options = parser.parse_args()
    print(f"{'':14}{'forward':>10}{'gradient':>10}{'cvxpy':>10}{'cvxpylayers':>13}{'unsolved':>10}{'off by':>10}")
    for name in options.kinds.split(","):
        problem, parameters, variables, draw = KINDS[name]()
        rng = np.random.default_rng(0)
        values = [np.stack(part) for part in zip(*(draw(rng) for _ in range(options.batch)), strict=True)]
        layer = jaxsolve.cvxpy_layer(problem, parameters, variables)
        arrays = [jnp.asarray(part) for part in values]
        solve = jax.jit(jax.vmap(layer.solve))
        gradient = jax.jit(jax.grad(lambda values, layer=layer: jnp.sum(jax.vmap(layer)(*values)[0] ** 2)))
        forward, backward = milliseconds(solve, *arrays), milliseconds(gradient, arrays)
        solutions = solve(*arrays)
        start = time.perf_counter()
        wanted = by_cvxpy(problem, parameters, values)
        loop = 1e3 * (time.perf_counter() - start)
        theirs = by_cvxpylayers(problem, parameters, variables)
        other = "" if theirs is None else f"{milliseconds(theirs, arrays, repeats=1):.1f}"
        unsolved = int(jnp.sum(solutions.result.status != jaxsolve.Status.CONVERGED))
        off = float(np.max(np.abs(solutions.value - wanted)))
        line = f"{name:14}{forward:10.1f}{backward:10.1f}{loop:10.1f}{other:>13}{unsolved:10d}{off:10.1e}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
