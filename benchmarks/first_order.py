"""First-order methods beside JAXopt's of the same name: a compiled run, and a cold one.

Least squares with n = 200 samples and d = 50 unknowns, float64, to an optimality error of 1e-6; each pair solves the
same problem. A cold run is an eager one over a fresh solver, nothing compiled before, in seconds of CPU time.
"""

import argparse
import functools
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from _timing import interleaved, report

import jaxsolve
from jaxsolve import objective
from jaxsolve.projection import projection_simplex
from jaxsolve.prox import prox_lasso

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the peer only
    import jaxopt

jax.config.update("jax_enable_x64", True)
OPTIONS = {"tol": 1e-6, "maxiter": 5000}


def ridge(w, X, y):
    return 0.5 * jnp.mean((X @ w - y) ** 2) + 0.05 * jnp.sum(w**2)


def problems():
    """For each solver: the two of them, and the arguments of ``run``."""
    rng = np.random.default_rng(0)
    X = jnp.asarray(rng.normal(size=(200, 50)))
    y = X @ jnp.asarray(rng.normal(size=50) * (rng.random(50) < 0.2)) + 0.1 * jnp.asarray(rng.normal(size=200))
    start, uniform = jnp.zeros(50), jnp.full(50, 0.02)
    coordinates = (objective.least_squares, prox_lasso), (jaxopt.objective.least_squares, jaxopt.prox.prox_lasso)
    return {
        "GradientDescent": ((ridge,), (ridge,), (start, X, y)),
        "ProximalGradient": ((ridge, prox_lasso), (ridge, jaxopt.prox.prox_lasso), (start, 0.1, X, y)),
        "ProjectedGradient": (
            (ridge, projection_simplex),
            (ridge, jaxopt.projection.projection_simplex),
            (uniform, 1.0, X, y),
        ),
        "BlockCoordinateDescent": (*coordinates, (start, 0.1, (X, y))),
    }


def cold(run, args):
    """CPU seconds of the first run."""
    jax.clear_caches()
    start = time.process_time()
    jax.block_until_ready(run(*args))
    return time.process_time() - start


def compare(name, ours, theirs, args, rounds):
    """Measure and print everything for one solver."""
    makers = {
        "jaxsolve": lambda: getattr(jaxsolve, name)(*ours, **OPTIONS).run,
        "JAXopt": lambda: getattr(jaxopt, name)(*theirs, **OPTIONS).run,
    }
    colds = {who: [] for who in makers}
    for _ in range(3):
        for who, make in makers.items():
            colds[who].append(cold(make(), args))
    runs = {who: jax.jit(make()) for who, make in makers.items()}
    results = {who: run(*args) for who, run in runs.items()}
    print(name)
    for who, (params, state) in results.items():
        print(
            f"  {who}: {int(state.iter_num)} iterations, error {float(state.error):.1e}, sum {float(params.sum()):.6f}"
        )
    times = interleaved({who: functools.partial(run, *args) for who, run in runs.items()}, rounds)
    report("compiled run (bar: 0.8 of JAXopt)", times)
    report("cold run (bar: 0.5 of JAXopt)", {who: float(np.median(times)) for who, times in colds.items()})
    print(flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--solvers", nargs="+")
    options = parser.parse_args()
    for name, problem in problems().items():
        if not options.solvers or name in options.solvers:
            compare(name, *problem, options.rounds)
