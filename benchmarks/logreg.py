"""L-BFGS on logistic regression: jaxsolve, JAXopt, Optimistix, optax and SciPy side by side in one process.

n = 1000 samples, float64, gradient norm 1e-8; every result is checked to have it. Four rows: a warm eager run against
its own compiled time, a cold first run, a compiled run, a compiled gradient in the regularization.
"""

import argparse
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize
from _problems import logistic, logistic_data
from _timing import interleaved, report, seconds

import jaxsolve
from jaxsolve.implicit_diff import custom_root

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the peers only
    import jaxopt
    import optimistix as optx

# The name differs between the versions of Optimistix.
_minimize = getattr(optx, "minimise", None) or optx.minimize

jax.config.update("jax_enable_x64", True)
TOL = 1e-8
MAXITER = 500


def fresh_objective():
    """The objective as a function object that nobody has compiled yet."""
    return lambda w, l2reg, X, y: logistic(w, l2reg, X, y)


# Each peer: make(fun) -> run(init, l2reg, X, y) -> params, traceable by jax unless it says otherwise.


def make_jaxsolve(fun):
    solver = jaxsolve.LBFGS(fun, tol=TOL, maxiter=MAXITER)
    return lambda init, *data: solver.run(init, *data).params


def make_jaxopt(fun):
    solver = jaxopt.LBFGS(fun, tol=TOL, maxiter=MAXITER)
    return lambda init, *data: solver.run(init, *data).params


def _l2_norm(tree):
    # With the norm of the others; optimistix stops on max |gradient| by default.
    return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))


def make_optimistix(fun, kind="BFGS"):
    # Its Cauchy criterion asks for small steps and small decreases; the gradient norm is checked afterwards.
    solver = getattr(optx, kind)(rtol=TOL, atol=TOL, norm=_l2_norm)

    def run(init, *data):
        wrapped = lambda w, data: fun(w, *data)  # noqa: E731
        return _minimize(wrapped, solver, init, data, max_steps=MAXITER, throw=False).value

    return run


def make_optax(fun):
    solver = optax.lbfgs()

    def solve(init, *data):
        value_fn = lambda w: fun(w, *data)  # noqa: E731
        value_and_grad = optax.value_and_grad_from_state(value_fn)

        def step(carry):
            params, state = carry
            value, grad = value_and_grad(params, state=state)
            updates, state = solver.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
            return optax.apply_updates(params, updates), state

        def proceed(carry):
            grad = optax.tree.get(carry[1], "grad")
            count = optax.tree.get(carry[1], "count")
            return (count == 0) | ((count < MAXITER) & (optax.tree.norm(grad) > TOL))

        return jax.lax.while_loop(proceed, step, (init, solver.init(init)))[0]

    # optax has no derivative of a solution; the rule of jaxsolve around its loop.
    wrapped = custom_root(jax.grad(fun), structure="psd")(solve)
    return lambda init, *data: wrapped(init, *data)


def run_scipy(value_and_grad, init, *data):
    def fun(w):
        value, grad = value_and_grad(w, *data)
        return float(value), np.asarray(grad)

    options = {"maxcor": 10, "ftol": 0.0, "gtol": TOL / np.sqrt(init.size), "maxiter": MAXITER, "maxfun": 10_000}
    return scipy.optimize.minimize(fun, np.asarray(init), jac=True, method="L-BFGS-B", options=options).x


PEERS = {
    "jaxsolve": make_jaxsolve,
    "JAXopt": make_jaxopt,
    "Optimistix": make_optimistix,
    "optax": make_optax,
}
if hasattr(optx, "LBFGS"):
    PEERS["Optimistix L"] = functools.partial(make_optimistix, kind="LBFGS")


def cold(make, args):
    """Seconds of the first run over a fresh function, nothing compiled before."""
    jax.clear_caches()
    return seconds(lambda: make(fresh_objective())(*args))


def compare(d, rounds):
    """Measure and print everything for one dimension."""
    X, y = logistic_data(1000, d)
    args = (jnp.zeros(d), jnp.asarray(1e-3), X, y)
    fun = fresh_objective()
    grad_norm = jax.jit(lambda w: jnp.linalg.norm(jax.grad(logistic)(w, *args[1:])))
    runs = {name: make(fun) for name, make in PEERS.items()}
    jitted = {name: jax.jit(run) for name, run in runs.items()}
    gradients = {
        name: jax.jit(jax.grad(lambda l2reg, run=run: jnp.sum(run(args[0], l2reg, X, y)))) for name, run in runs.items()
    }
    value_and_grad = jax.jit(jax.value_and_grad(fun))
    print(f"logistic regression, n = 1000, d = {d}")

    norms = {name: float(grad_norm(run(*args))) for name, run in jitted.items()}
    norms["SciPy"] = float(grad_norm(run_scipy(value_and_grad, *args)))
    unsolved = {name: norm for name, norm in norms.items() if not norm <= TOL}
    print("  gradient norm: " + ", ".join(f"{name} {norm:.0e}" for name, norm in norms.items()))
    if unsolved:
        print(f"  NOT SOLVED to {TOL}, and not comparable: {', '.join(unsolved)}")
    values = {name: float(gradient(args[1])) for name, gradient in gradients.items()}
    print("  gradient: " + ", ".join(f"{name} {value:.8f}" for name, value in values.items()))

    calls = {name: functools.partial(run, *args) for name, run in jitted.items()}
    calls["SciPy"] = lambda: run_scipy(value_and_grad, *args)
    report("compiled run", interleaved(calls, rounds))
    report("compiled gradient", interleaved({n: functools.partial(g, args[1]) for n, g in gradients.items()}, rounds))

    ours = {
        "jitted": functools.partial(jitted["jaxsolve"], *args),
        "jaxsolve": functools.partial(runs["jaxsolve"], *args),
    }
    jax.block_until_ready(ours["jaxsolve"]())
    report("eager warm run against its own compiled time (bar: 1.5)", interleaved(ours, rounds))

    colds = {name: [] for name in PEERS}
    for _ in range(3):
        for name, make in PEERS.items():
            colds[name].append(cold(make, args))
    report("cold first run", {name: float(np.median(times)) for name, times in colds.items()})
    print(flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args()
    for d in options.dimensions:
        compare(d, options.rounds)
