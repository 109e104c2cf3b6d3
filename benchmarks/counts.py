"""Evaluations of ``fun`` that L-BFGS needs to a gradient norm of 1e-8, against SciPy's L-BFGS-B."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from _problems import logistic, logistic_data, ridge, rosenbrock

import jaxsolve

jax.config.update("jax_enable_x64", True)
TOL = 1e-8


def scipy_count(fun, init) -> int:
    """Evaluations up to the first point whose gradient norm is at most TOL."""
    value_and_grad = jax.jit(jax.value_and_grad(fun))
    count, first = 0, None

    def counted(x):
        nonlocal count, first
        value, grad = value_and_grad(x)
        count += 1
        if first is None and np.linalg.norm(grad) <= TOL:
            first = count
        return float(value), np.asarray(grad)

    options = {"maxcor": 10, "ftol": 0.0, "gtol": 0.0, "maxiter": 5000, "maxfun": 10_000}
    scipy.optimize.minimize(counted, np.asarray(init), jac=True, method="L-BFGS-B", options=options)
    return first if first is not None else -1


def main() -> None:
    X, y = logistic_data(1000, 100)
    problems = {
        "ridge, d = 100": (lambda w: ridge(w, 1e-3, X, y), jnp.zeros(100)),
        "logistic regression, d = 100": (lambda w: logistic(w, 1e-3, X, y), jnp.zeros(100)),
        "Rosenbrock, d = 2": (rosenbrock, jnp.array([-1.2, 1.0])),
        "Rosenbrock, d = 100": (rosenbrock, jnp.tile(jnp.array([-1.2, 1.0]), 50)),
    }
    print("evaluations of fun to a gradient norm of 1e-8 (bar: 1.1 times SciPy)")
    for name, (fun, init) in problems.items():
        theirs = scipy_count(fun, init)
        for linesearch in ("zoom", "hager-zhang", "backtracking"):
            params, state = jaxsolve.LBFGS(fun, tol=TOL, maxiter=5000, linesearch=linesearch).run(init)
            norm = float(jnp.linalg.norm(jax.grad(fun)(params)))
            ours = int(state.num_fun_eval)
            verdict = "" if norm <= TOL else f"   NOT SOLVED: gradient norm {norm:.1e}"
            print(f"  {name:30}{linesearch:14}{ours:6d}   SciPy {theirs:6d}   ratio {ours / theirs:5.2f}{verdict}")


if __name__ == "__main__":
    main()
