"""A residual network of many small leaves: what a solver pays a leaf, beside a bare ``value_and_grad`` and JAXopt.

100 layers of 8 x 8 (200 leaves), float32, 20 iterations, jitted. Cold is trace, lowering and compilation; a run is set
against its number of evaluations times a bare ``value_and_grad`` of the pytree.
"""

import argparse
import functools
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from _timing import interleaved

import jaxsolve
from jaxsolve.projection import projection_box
from jaxsolve.prox import prox_lasso

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the peer only
    import jaxopt

ITERATIONS = 20


def network(layers, width=8):
    """``(objective, params, data)``; the objective is a mean of squares plus a small ridge."""
    rng = np.random.default_rng(0)
    params = [
        {
            "w": jnp.asarray(rng.normal(size=(width, width)) * 0.1 / layers**0.5, jnp.float32),
            "b": jnp.zeros(width, jnp.float32),
        }
        for _ in range(layers)
    ]
    X = jnp.asarray(rng.normal(size=(32, width)), jnp.float32)
    y = jnp.asarray(np.tanh(rng.normal(size=(32, width))), jnp.float32)

    def objective(params, X, y):
        h = X
        for layer in params:
            h = h + jnp.tanh(h @ layer["w"] + layer["b"])
        return 0.5 * jnp.mean((h - y) ** 2)

    return objective, params, (X, y)


def solvers(objective):
    """Each solver, the hyperparameters of its step, and JAXopt's of the same name."""
    ours, theirs = dict(tol=0.0, maxiter=ITERATIONS), dict(tol=0.0, maxiter=ITERATIONS)
    box = (jnp.float32(-1), jnp.float32(1))
    return {
        "LBFGS": ((), jaxsolve.LBFGS(objective, **ours), jaxopt.LBFGS(objective, **theirs)),
        "GradientDescent": (
            (),
            jaxsolve.GradientDescent(objective, **ours),
            jaxopt.GradientDescent(objective, **theirs),
        ),
        "ProximalGradient": (
            (jnp.float32(1e-4),),
            jaxsolve.ProximalGradient(objective, prox_lasso, **ours),
            jaxopt.ProximalGradient(objective, jaxopt.prox.prox_lasso, **theirs),
        ),
        "ProjectedGradient": (
            (box,),
            jaxsolve.ProjectedGradient(objective, projection_box, **ours),
            None,  # its projection takes no scalar bounds for several leaves
        ),
    }


def results(solver):
    """What is asked of a run: the solution, and what can be counted."""

    def run(*args):
        params, state = solver.run(*args)
        counts = [getattr(state, name, 0) for name in ("num_fun_eval", "num_grad_eval")]
        return params, (counts, getattr(state, "value", 0.0), state.error)

    return run


def cold(call, args):
    """The compiled call, and the seconds of its trace, lowering and compilation."""
    jax.clear_caches()
    start = time.perf_counter(), time.process_time()
    traced = jax.jit(call).trace(*args)
    lowered = traced.lower()
    compiled = lowered.compile()
    return compiled, time.perf_counter() - start[0], time.process_time() - start[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--solvers", nargs="+")
    parser.add_argument("--no-peer", action="store_true")
    options = parser.parse_args()
    objective, params, data = network(options.layers)
    bare, seconds, cpu = cold(jax.value_and_grad(objective), (params, *data))
    print(f"{2 * options.layers} leaves; bare value_and_grad: cold {seconds:.2f} s ({cpu:.2f} s of CPU)")
    for name, (hyperparams, ours, theirs) in solvers(objective).items():
        if options.solvers and name not in options.solvers:
            continue
        args, calls = (params, *hyperparams, *data), {"bare": lambda: bare(params, *data)}
        for peer, solver in (("jaxsolve", ours), ("JAXopt", theirs)):
            if solver is None or (peer == "JAXopt" and options.no_peer):
                continue
            run, seconds, cpu = cold(results(solver), args)
            calls[peer] = functools.partial(run, *args)
            print(f"  {name}, {peer}: cold {seconds:.2f} s ({cpu:.2f} s of CPU)", flush=True)
        (fun_evals, grad_evals), value, error = calls["jaxsolve"]()[1]
        evaluations = int(grad_evals) if name == "LBFGS" else int(grad_evals + fun_evals)
        times = interleaved(calls, options.rounds)
        line = ", ".join(f"{who} {1e3 * t:.2f} ms" for who, t in times.items())
        ratio = times["jaxsolve"] / times["bare"] / evaluations
        print(f"    run: {line}; {evaluations} evaluations, each {ratio:.2f} of a bare one")
        print(f"    value {float(value):.6f}, error {float(error):.2e}", flush=True)
