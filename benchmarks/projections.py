"""Projections, in float64: the simplex against optax and JAXopt, entropic transport against JAXopt.

The simplex: the rows of a 10,000 x 100 matrix. Transport: the Kullback-Leibler projection of a 200 x 200
similarity matrix, squared distances of points of the plane over the strength of the regularization, all to
one error of the marginals, which is checked; JAXopt with its default tolerance is shown beside it. Bar: ours at most
theirs, in each row.
"""

import argparse
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _timing import interleaved, report

from jaxsolve import projection

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the peer only
    import jaxopt

jax.config.update("jax_enable_x64", True)
TOL = 1e-8


def weighted(fun, weights):
    """The gradient of a generic linear function of the result."""
    return jax.jit(jax.grad(lambda x: jnp.sum(weights * fun(x))))


def compare_simplex(rows, columns, rounds):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(rows, columns)))
    weights = jnp.asarray(rng.normal(size=x.shape))
    peers = {
        "jaxsolve": projection.projection_simplex,
        "optax": optax.projections.projection_simplex,
        "JAXopt": jaxopt.projection.projection_simplex,
    }
    batched = {name: jax.jit(jax.vmap(fun)) for name, fun in peers.items()}
    gradients = {name: weighted(fun, weights) for name, fun in batched.items()}
    print(f"projection on the simplex, {rows} x {columns}, float64")
    for title, calls in (("forward", batched), ("gradient", gradients)):
        results = {name: np.asarray(call(x)) for name, call in calls.items()}
        spread = max(np.abs(result - results["jaxsolve"]).max() for result in results.values())
        report(f"{title} (results differ by {spread:.0e})", interleaved(bound(calls, x), rounds))
    print(flush=True)


def compare_transport(size, rounds, strength):
    rng = np.random.default_rng(0)
    points = rng.uniform(size=(2, size, 2))
    costs = np.sum((points[0][:, None] - points[1][None]) ** 2, axis=-1)
    S = jnp.asarray(-costs / strength)
    marginals = tuple(jnp.asarray(v / v.sum()) for v in rng.uniform(0.5, 1.5, size=(2, size)))
    weights = jnp.asarray(rng.normal(size=S.shape))
    tight = functools.partial(jaxopt.LBFGS, tol=TOL, maxiter=2000, linesearch="zoom")
    peers = {
        "jaxsolve": lambda S: projection.kl_projection_transport(S, marginals),
        "JAXopt": lambda S: jaxopt.projection.kl_projection_transport(S, marginals, make_solver=tight),
        "JAXopt, 1e-3": lambda S: jaxopt.projection.kl_projection_transport(S, marginals),
    }
    forward = {name: jax.jit(fun) for name, fun in peers.items()}
    gradients = {name: weighted(fun, weights) for name, fun in forward.items()}
    print(f"entropic transport, {size} x {size}, float64, strength {strength}")

    def error(plan):
        return max(float(jnp.linalg.norm(plan.sum(axis) - marginals[1 - axis])) for axis in (0, 1))

    print("  error of the marginals: " + ", ".join(f"{n} {error(call(S)):.0e}" for n, call in forward.items()))
    norms = {name: np.asarray(call(S)) for name, call in gradients.items()}
    reference = norms["jaxsolve"]
    relative = {n: np.linalg.norm(g - reference) / np.linalg.norm(reference) for n, g in norms.items()}
    print("  gradient, relative to ours: " + ", ".join(f"{n} {d:.0e}" for n, d in relative.items()))
    report("forward", interleaved(bound(forward, S), rounds))
    report("gradient", interleaved(bound(gradients, S), rounds))
    print(flush=True)


def bound(calls, x):
    return {name: functools.partial(call, x) for name, call in calls.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--size", type=int, default=200)
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.1, 0.01])
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args()
    compare_simplex(options.rows, options.columns, options.rounds)
    for strength in options.strengths:
        compare_transport(options.size, options.rounds, strength)
