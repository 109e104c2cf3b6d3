"""The smooth solvers beside those of the same name in JAXopt and Optimistix: compiled runs and cold ones.

Small problems in float64, d = 10 where nothing else is said. Peers have the same function, start and tolerance; what
they reach is printed, as Optimistix looks at steps and values where the others look at gradients. A cold run is an
eager one of a fresh solver, nothing compiled before. Both are medians of rounds in which the
peers take turns, in CPU time of the process and in wall time. The bars: a compiled run takes no longer than that of the
faster peer, a cold one at most half of JAXopt's and 1.1 times Optimistix's.
"""

import argparse
import random
import statistics
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxsolve

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the peers only
    import jaxopt
    import optimistix as optx

jax.config.update("jax_enable_x64", True)
TOL = 1e-6
_rng = np.random.default_rng(0)
X = jnp.asarray(_rng.normal(size=(50, 10)))
Y = jnp.sign(X @ jnp.asarray(_rng.normal(size=10)) + jnp.asarray(_rng.normal(size=50)))
CONTRACTION = jnp.asarray(0.95 * np.linalg.qr(_rng.normal(size=(10, 10)))[0])


def logistic(w):
    return jnp.mean(jnp.logaddexp(0.0, -Y * (X @ w))) + 5e-3 * jnp.sum(w**2)


def valley(w):
    """In two variables, for simplices."""
    return (1 - w[0]) ** 2 + 10 * (w[1] - w[0] ** 2) ** 2


def curve(w):
    return jnp.concatenate([jnp.tanh(X @ w) - 0.3 * Y, 0.1 * w])


def tridiagonal(x):
    padded = jnp.pad(x, 1)
    return (3 - 2 * x) * x - padded[:-2] - 2 * padded[2:] + 1


def mapping(x):
    return jnp.tanh(CONTRACTION @ x) + 0.1


def batch_loss(w, data=None):
    del data
    return 0.5 * jnp.mean((X @ w - X @ jnp.ones(10)) ** 2)


def gradient_norm(fun):
    return lambda x: jnp.linalg.norm(jax.grad(fun)(x))


ZEROS, FEW = jnp.zeros(10), {"tol": TOL, "maxiter": 500}
COST = lambda w: 0.5 * jnp.sum(curve(w) ** 2)  # noqa: E731
# The function, the start, what measures the result, Optimistix's entry point, arguments of `run` behind the start.
MINIMIZE = (logistic, ZEROS, gradient_norm(logistic), optx.minimise, ())
FIT = (curve, ZEROS, gradient_norm(COST), optx.least_squares, ())
SOLVE = (tridiagonal, -jnp.ones(10), lambda x: jnp.linalg.norm(tridiagonal(x)), optx.root_find, ())
ITERATE = (mapping, ZEROS, lambda x: jnp.linalg.norm(mapping(x) - x), optx.fixed_point, ())
LEARN = (batch_loss, ZEROS, gradient_norm(batch_loss), optx.minimise, ())
BOUNDED = (
    logistic,
    ZEROS,
    lambda w: jnp.linalg.norm(w - jnp.clip(w - jax.grad(logistic)(w), 0, 0.5)),
    None,
    ((0.0, 0.5),),
)
# For each solver: the problem, options of ours and of JAXopt's, and Optimistix's solver, if it has one.
ZOO = {
    "LBFGS": (MINIMIZE, {}, optx.LBFGS),
    "BFGS": (MINIMIZE, {}, optx.BFGS),
    "NonlinearCG": (MINIMIZE, {}, optx.NonlinearCG),
    "LBFGSB": (BOUNDED, {}, None),
    "NelderMead": ((valley, jnp.zeros(2), gradient_norm(valley), optx.minimise, ()), {}, optx.NelderMead),
    "LevenbergMarquardt": (FIT, {}, optx.LevenbergMarquardt),
    "Dogleg": (FIT, {}, optx.Dogleg),
    "GaussNewton": (FIT, {}, optx.GaussNewton),
    "Newton": (SOLVE, {}, optx.Newton),
    "Chord": (SOLVE, {}, optx.Chord),
    "Broyden": (SOLVE, {}, None),
    "AndersonAcceleration": (ITERATE, {}, None),
    "FixedPointIteration": (ITERATE, {}, optx.FixedPointIteration),
    "OptaxSolver": (LEARN, {"opt": optax.adam(0.1)}, lambda **tol: optx.OptaxMinimiser(optax.adam(0.1), **tol)),
    "PolyakSGD": (LEARN, {"max_stepsize": 10.0}, None),
    "ArmijoSGD": (LEARN, {"max_stepsize": 10.0}, None),
}


def runs(name):
    """For each library a maker of the run of a fresh solver, a function of the start."""
    (fun, _, _, entry, args), options, theirs = ZOO[name]

    def made(library):
        def make():
            solver = getattr(library, name)(lambda w: fun(w), **FEW, **options)
            return lambda x: solver.run(x, *args).params

        return make

    found = {"jaxsolve": made(jaxsolve)}
    if hasattr(jaxopt, name):
        found["JAXopt"] = made(jaxopt)
    if theirs is not None:

        def make():
            solver, function = theirs(rtol=TOL, atol=TOL), lambda y, _: fun(y)
            return lambda x: entry(function, solver, x, max_steps=5000, throw=False).value

        found["Optimistix"] = make
    return found


def cold(make, start):
    jax.clear_caches()
    return make()(start)


def seconds(call):
    """CPU and wall time of a call."""
    cpu, wall = time.process_time(), time.perf_counter()
    jax.block_until_ready(call())
    return time.process_time() - cpu, time.perf_counter() - wall


def interleaved(calls, rounds, inner=1):
    """Median CPU and wall seconds of each call."""
    times = {who: [] for who in calls}
    order, shuffle = list(calls.items()), random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for who, call in order:
            pairs = [seconds(call) for _ in range(inner)]
            times[who].append([sum(column) / inner for column in zip(*pairs, strict=True)])
    return {who: [statistics.median(column) for column in zip(*pairs, strict=True)] for who, pairs in times.items()}


def compare(name, rounds, cold_rounds):
    """Measure a solver and print a line for each library."""
    (_, start, measure, _, _), makers = ZOO[name][0], runs(name)
    colds = interleaved({who: lambda make=make: cold(make, start) for who, make in makers.items()}, cold_rounds)
    compiled = {who: jax.jit(make()) for who, make in makers.items()}
    errors = {who: float(measure(run(start))) for who, run in compiled.items()}
    warm = interleaved({who: lambda run=run: run(start) for who, run in compiled.items()}, rounds, inner=5)
    for who in makers:
        ratio = [warm["jaxsolve"][0] / warm[who][0], colds["jaxsolve"][0] / colds[who][0]]
        print(
            f"{name:21}{who:11}{errors[who]:9.0e}{1e3 * warm[who][0]:9.3f}{1e3 * warm[who][1]:9.3f}"
            f"{'' if who == 'jaxsolve' else f'{ratio[0]:.2f}':>7}{1e3 * colds[who][0]:9.0f}{1e3 * colds[who][1]:8.0f}"
            f"{'' if who == 'jaxsolve' else f'{ratio[1]:.2f}':>7}",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--cold-rounds", type=int, default=3)
    parser.add_argument("--solvers", nargs="+", choices=list(ZOO), default=list(ZOO))
    chosen = parser.parse_args()
    for make in runs("LBFGS").values():
        make()(ZEROS)  # what libraries load when they are first used
    print(f"{'':32}{'error':>9}{'compiled: CPU and wall ms, ours / this':>25}   cold: the same")
    for solver in chosen.solvers:
        compare(solver, chosen.rounds, chosen.cold_rounds)
