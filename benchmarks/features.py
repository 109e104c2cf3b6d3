"""What a gradient through a solver can do, here and in other libraries: each cell of the table is a program that ran.

    python benchmarks/features.py            # prints Markdown; two minutes on two cores

A cell says ``yes`` if the program gives the right number to 1e-4, ``wrong`` if it gives another, and else the class of
the exception. The problem is a ridge regression with a quartic term, by each library's L-BFGS or BFGS; the last rows
are a quadratic program that has no solution.
"""

import contextlib
import functools
import io
import logging
import warnings

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
import optimistix as optx
import qpax

import jaxsolve

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)

START, THETA = jnp.zeros(3), jnp.asarray(0.7)
X, Y = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32), np.arange(8, dtype=np.float32)


def fun(w, theta):
    """The objective."""
    return jnp.mean((X @ w - Y) ** 2) + theta * jnp.sum(w**2 + w**4)


# ---- Each library as minimize(fun, theta) -> params -----------------------------------------------------------------


def ours(fun, theta):
    """L-BFGS of this package."""
    return jaxsolve.LBFGS(fun, tol=1e-5).run(START, theta).params


def of_jaxopt(fun, theta):
    """L-BFGS of JAXopt."""
    return jaxopt.LBFGS(fun, tol=1e-5, maxiter=200).run(START, theta).params


def of_optimistix(fun, theta):
    """BFGS of Optimistix."""
    solver = optx.BFGS(rtol=1e-6, atol=1e-6)
    return optx.minimise(fun, solver, START, theta, max_steps=200).value


LIBRARIES = {"jaxsolve": ours, "JAXopt": of_jaxopt, "Optimistix": of_optimistix}


# ---- What is tried ---------------------------------------------------------------------------------------------------


def outer(minimize, theta):
    """A function of the solution."""
    return jnp.sum(jnp.sin(minimize(fun, theta)))


def slope_by_differences(step=1e-2):
    """The derivative of ``outer`` by central differences of fourth order."""
    at = [float(outer(ours, THETA + k * step)) for k in (-2, -1, 1, 2)]
    return (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * step)


def curvature_by_differences(step=1e-2):
    """The second derivative, from exact first ones."""
    slope = jax.grad(functools.partial(outer, ours))
    return (float(slope(THETA + step)) - float(slope(THETA - step))) / (2 * step)


def captured(minimize):
    """The parameter is not an argument, but captured by the function."""
    return jax.grad(lambda theta: jnp.sum(jnp.sin(minimize(lambda w, _: fun(w, theta), None))))(THETA)


def of_a_number(minimize):
    """The parameter is a Python number that the function reads; it changes between two calls."""
    setting = {"theta": 0.1}

    def reads(w, _):
        return fun(w, setting["theta"])

    minimize(reads, None)
    setting["theta"] = float(THETA)
    return jnp.sum(jnp.sin(minimize(reads, None)))


def compiles_nothing(minimize):
    """Whether a second eager run compiles nothing."""
    count, other = [], THETA + 1
    minimize(fun, THETA)

    def listen(event, duration, **_):
        if "backend_compile" in event:
            count.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    minimize(fun, other)
    jax.monitoring.unregister_event_duration_listener(listen)
    return 0 if count else 1


def rows():
    """``(text, program of a library, expected number)``."""
    slope, value = slope_by_differences(), float(outer(ours, THETA))
    yield "`jax.grad` through a run", lambda m: jax.grad(functools.partial(outer, m))(THETA), slope
    yield "`jax.jacfwd`", lambda m: jax.jacfwd(functools.partial(outer, m))(THETA), slope
    yield "`jax.hessian`", lambda m: jax.hessian(functools.partial(outer, m))(THETA), curvature_by_differences()
    yield "`vmap` of `jacrev`", lambda m: jax.vmap(jax.jacrev(functools.partial(outer, m)))(THETA[None])[0], slope
    yield "`grad` with respect to what the function captures", captured, slope
    yield "a number that the function reads has changed", of_a_number, value
    yield "the second eager run compiles nothing", compiles_nothing, 1


def cell(program, minimize, expected):
    """What became of it."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            found = float(program(minimize))
    except Exception as error:  # whatever it is, it is the finding
        return f"`{type(error).__name__}`"
    if abs(found - expected) <= 1e-3 * max(1, abs(expected)):
        return "yes"
    return "no" if program is compiles_nothing else f"wrong: {found:.3g}, not {expected:.3g}"


# ---- A program without solution: x at most 0 and at least 1 ---------------------------------------------------------

Q, C = jnp.eye(1), jnp.zeros(1)
G, H = jnp.asarray([[1.0], [-1.0]]), jnp.asarray([0.0, -1.0])


def without_solution():
    """What each library says, under ``jit``, of a quadratic program without feasible points."""
    state = jax.jit(lambda: jaxsolve.OSQP().run(None, params_obj=(Q, C), params_ineq=(G, H)).state)()
    peer = jax.jit(lambda: jaxopt.OSQP().run(None, params_obj=(Q, C), params_ineq=(G, H)).state)()
    converged = jax.jit(lambda: qpax.solve_qp(Q, C, jnp.zeros((0, 1)), jnp.zeros(0), G, H))()[4]
    return {
        "jaxsolve.OSQP": jaxsolve.Status(int(state.status)).name,
        "jaxopt.OSQP": f"status {int(peer.status)}, error {float(peer.error):.2g}",
        "qpax": f"converged {bool(converged)}",
    }


def main():
    """Print the table."""
    print(f"| | {' | '.join(LIBRARIES)} |\n{'|---' * (1 + len(LIBRARIES))}|")
    for text, program, expected in rows():
        print(f"| {text} | {' | '.join(cell(program, m, expected) for m in LIBRARIES.values())} |", flush=True)
    print()
    for name, said in without_solution().items():
        print(f"a program without solution, {name}: {said}")


if __name__ == "__main__":
    main()
