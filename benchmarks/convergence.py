"""Draw the pictures of convergence in the documentation: ``python benchmarks/convergence.py [family ...]``.

A run is recorded by the function itself: each evaluation tells the host how far its point is from optimal, whoever
asks, so that all libraries are counted alike. A curve is the least number so far over the number of evaluations, those
of line searches and Jacobians included. The pictures are written to ``docs/_static``.
"""

import argparse
import functools
import itertools
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxopt
import matplotlib
import numpy as np
import optax
import optimistix as optx
import scipy.optimize

import jaxsolve

matplotlib.use("Agg")
import matplotlib.pyplot as plt

jax.config.update("jax_enable_x64", True)
STATIC = Path(__file__).parent.parent / "docs" / "_static"
MOST = 400  # evaluations of a run that are drawn
RECORD = []


# ---- Recording ----------------------------------------------------------------------------------------------------


@jax.custom_jvp
def told(merit, point):
    """Zero, which cannot be known before the host has been told the merit of a point."""
    del point

    def tell(merit):
        RECORD.append(float(merit))
        return np.zeros_like(merit)

    return jax.pure_callback(tell, jax.ShapeDtypeStruct((), jnp.float64), merit, vmap_method="sequential")


@told.defjvp
def _told_jvp(primals, tangents):
    del tangents
    return told(*primals), jnp.zeros(())


def recorded(function, merit):
    """The function, which tells ``merit(point, value)`` at every evaluation."""

    def call(x, *args):
        value = function(x, *args)
        return value + told(merit(x, value), x)

    return call


def curve(run):
    """The least merit so far after each evaluation of a run."""
    RECORD.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the peers
        jax.block_until_ready(run())
        jax.effects_barrier()
    return np.fmin.accumulate(np.asarray(RECORD[:MOST]))


def ours(make, function, start, *args, **options):
    """A run of this package."""
    options = {"tol": 1e-9, "maxiter": 2000, **options}
    return lambda: make(function, **options).run(start, *args).params


def theirs(call, solver, function, start):
    """A run of Optimistix."""
    return lambda: call(lambda y, _: function(y), solver(rtol=1e-10, atol=1e-10), start, max_steps=2000, throw=False)


# ---- The families -------------------------------------------------------------------------------------------------


def rosenbrock(x):
    """The chained function in ten variables."""
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def unconstrained():
    """Smooth minimization without constraints."""
    fun = recorded(rosenbrock, lambda x, value: value)
    start = jnp.zeros(10)
    plain = jax.jit(jax.value_and_grad(rosenbrock))

    def scipy_run(method):
        def objective(x):
            value, grad = plain(x)
            RECORD.append(float(value))
            return float(value), np.asarray(grad)

        return lambda: scipy.optimize.minimize(objective, np.asarray(start), jac=True, method=method, tol=1e-9).x

    runs = {
        name: ours(getattr(jaxsolve, name), fun, start)
        for name in ("LBFGS", "BFGS", "NonlinearCG", "NewtonCG", "TrustNewton")
    }
    runs |= {
        "SciPy L-BFGS-B": scipy_run("L-BFGS-B"),
        "SciPy BFGS": scipy_run("BFGS"),
        "JAXopt LBFGS": ours(jaxopt.LBFGS, fun, start),
        "JAXopt BFGS": ours(jaxopt.BFGS, fun, start),
        "Optimistix BFGS": theirs(optx.minimise, optx.BFGS, fun, start),
    }
    return runs, "f(x)", 1e-16


def bounds():
    """Minimization over a box: every second variable is at most a half."""
    start = jnp.full(10, -1.0)
    upper = jnp.tile(jnp.asarray([0.5, jnp.inf]), 5)
    box = (jnp.full(10, -jnp.inf), upper)
    best = float(jaxsolve.LBFGSB(rosenbrock, tol=1e-12, maxiter=1000).run(start, box).state.value)
    # A point outside of the box, where the function is smaller, does not count.
    fun = recorded(rosenbrock, lambda x, value: jnp.where(jnp.all(x <= upper + 1e-12), value - best, jnp.inf))
    plain = jax.jit(jax.value_and_grad(rosenbrock))

    def scipy_run(method):
        def objective(x):
            value, grad = plain(x)
            RECORD.append(float(value) - best)
            return float(value), np.asarray(grad)

        pairs = list(zip([None] * 10, np.asarray(upper), strict=True))
        return lambda: (
            scipy.optimize.minimize(objective, np.asarray(start), jac=True, bounds=pairs, method=method, tol=1e-12).x
        )

    project = jaxsolve.projection.projection_box
    return (
        {
            "LBFGSB": ours(jaxsolve.LBFGSB, fun, start, box),
            "ProjectedGradient": ours(
                functools.partial(jaxsolve.ProjectedGradient, projection=project), fun, start, box
            ),
            "SciPy L-BFGS-B": scipy_run("L-BFGS-B"),
            "SciPy TNC": scipy_run("TNC"),
            "JAXopt LBFGSB": ours(jaxopt.LBFGSB, fun, start, box),
        },
        "f(x) − min f",
        1e-14,
    )


MEYER_X = np.arange(50.0, 126.0, 5.0)
MEYER_Y = np.array(
    [34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744, 8261, 7030, 6005, 5147, 4427, 3820, 3307, 2872.0]
)


def meyer(p):
    """Residuals of a thermistor over temperature (NIST StRD MGH10): parameters of very unlike sizes."""
    return p[0] * jnp.exp(p[1] / (MEYER_X + p[2])) - MEYER_Y


def least_squares():
    """Residuals, from NIST's second starting point; the least cost is half of what NIST certifies."""
    start = jnp.asarray([0.02, 4000.0, 250.0])
    best = 0.5 * 8.7945855171e01
    merit = lambda r: jnp.maximum(0.5 * jnp.sum(r**2) / best - 1, 0)  # noqa: E731
    fun = recorded(meyer, lambda x, r: merit(r))
    plain, jac = jax.jit(meyer), jax.jit(jax.jacobian(meyer))

    def scipy_run(method):
        def residuals(x):
            r = np.asarray(plain(x))
            RECORD.append(float(merit(r)))
            return r

        return lambda: (
            scipy.optimize.least_squares(
                residuals,
                np.asarray(start),
                jac=lambda x: np.asarray(jac(x)),
                method=method,
                x_scale="jac",
                xtol=1e-13,
                ftol=1e-13,
            ).x
        )

    quiet = {"tol": 1e-6, "maxiter": 300}
    runs = {
        name: ours(getattr(jaxsolve, name), fun, start, **quiet)
        for name in ("LevenbergMarquardt", "Dogleg", "GaussNewton")
    }
    runs |= {
        "SciPy trf": scipy_run("trf"),
        "SciPy lm": scipy_run("lm"),
        "JAXopt LevenbergMarquardt": ours(jaxopt.LevenbergMarquardt, fun, start, **quiet),
        "Optimistix LevenbergMarquardt": theirs(optx.least_squares, optx.LevenbergMarquardt, fun, start),
        "Optimistix Dogleg": theirs(optx.least_squares, optx.Dogleg, fun, start),
    }
    return runs, "cost / minimum − 1", 1e-9


def tridiagonal(x):
    """Broyden's tridiagonal equations."""
    padded = jnp.pad(x, 1)
    return (3 - 2 * x) * x - padded[:-2] - 2 * padded[2:] + 1


def equations():
    """As many equations as unknowns."""
    start = -jnp.ones(20)
    norm = lambda x, r: jnp.sqrt(jnp.sum(r**2))  # noqa: E731
    fun, plain, jac = recorded(tridiagonal, norm), jax.jit(tridiagonal), jax.jit(jax.jacobian(tridiagonal))

    def scipy_run(method):
        def residual(x):
            r = np.asarray(plain(x))
            RECORD.append(float(np.linalg.norm(r)))
            return r

        with_jac = {"jac": lambda x: np.asarray(jac(x))} if method == "hybr" else {}
        return lambda: scipy.optimize.root(residual, np.asarray(start), method=method, tol=1e-10, **with_jac).x

    runs = {name: ours(getattr(jaxsolve, name), fun, start) for name in ("Newton", "Chord", "Broyden")}
    runs |= {
        "SciPy hybr": scipy_run("hybr"),
        "SciPy broyden1": scipy_run("broyden1"),
        "JAXopt Broyden": ours(jaxopt.Broyden, fun, start),
        "Optimistix Newton": theirs(optx.root_find, optx.Newton, fun, start),
    }
    return runs, "norm of the residual", 1e-12


def fixed_point():
    """A contraction by 0.95."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(20, 20))
    matrix = matrix + matrix.T
    matrix = jnp.asarray(0.95 * matrix / np.linalg.norm(matrix, 2))
    shift = jnp.asarray(rng.normal(size=20))
    mapping = lambda x: 10 * jnp.tanh(matrix @ x / 10) + 0.1 * shift  # noqa: E731
    fun = recorded(mapping, lambda x, image: jnp.sqrt(jnp.sum((image - x) ** 2)))
    start, plain = jnp.zeros(20), jax.jit(mapping)

    def scipy_run():
        def residual(x):
            r = np.asarray(plain(x)) - x
            RECORD.append(float(np.linalg.norm(r)))
            return r

        return scipy.optimize.root(residual, np.asarray(start), method="anderson", tol=1e-10).x

    runs = {name: ours(getattr(jaxsolve, name), fun, start) for name in ("AndersonAcceleration", "FixedPointIteration")}
    runs |= {
        "SciPy anderson": scipy_run,
        "JAXopt AndersonAcceleration": ours(jaxopt.AndersonAcceleration, fun, start),
        "Optimistix FixedPointIteration": theirs(optx.fixed_point, optx.FixedPointIteration, fun, start),
    }
    return runs, "norm of T(x) − x", 1e-12


def stochastic():
    """Batches of 16: a model with 20 weights that can fit all data. The merit is the loss of all data."""
    rng = np.random.default_rng(0)
    X = jnp.asarray(rng.normal(size=(512, 20)) * np.logspace(0, -0.7, 20))
    y = X @ jnp.asarray(rng.normal(size=20))
    whole = jax.jit(lambda w: 0.5 * jnp.mean((X @ w - y) ** 2))
    loss = lambda w, data: 0.5 * jnp.mean((data[0] @ w - data[1]) ** 2)  # noqa: E731

    def by_updates(solver):
        def run():
            draws, w = np.random.default_rng(1), jnp.zeros(20)
            rows = [draws.integers(512, size=16) for _ in range(MOST)]
            state, update = solver.init_state(w, data=(X[rows[0]], y[rows[0]])), jax.jit(solver.update)
            for chosen in rows:
                RECORD.append(float(whole(w)))
                w, state = update(w, state, data=(X[chosen], y[chosen]))
            return w

        return run

    options = {"tol": 0.0, "maxiter": MOST}
    peers = {"": jaxsolve, "JAXopt ": jaxopt}
    runs = {}
    for prefix, library in peers.items():
        runs[f"{prefix}PolyakSGD"] = by_updates(library.PolyakSGD(loss, max_stepsize=10.0, **options))
        runs[f"{prefix}ArmijoSGD"] = by_updates(library.ArmijoSGD(loss, max_stepsize=10.0, **options))
    runs["OptaxSolver, adam(0.1)"] = by_updates(jaxsolve.OptaxSolver(loss, optax.adam(0.1), **options))
    runs["OptaxSolver, sgd(0.1)"] = by_updates(jaxsolve.OptaxSolver(loss, optax.sgd(0.1), **options))
    return runs, "loss of all data", 1e-14


def scipy_methods():
    """SciPy's methods with exact derivatives, through this package, and with SciPy's own finite differences."""
    fun = recorded(rosenbrock, lambda x, value: value)
    start = jnp.zeros(10)
    plain = jax.jit(rosenbrock)

    def alone(method):
        def objective(x):
            value = float(plain(x))
            RECORD.append(value)
            return value

        return lambda: scipy.optimize.minimize(objective, np.asarray(start), method=method, tol=1e-9).x

    methods = ("L-BFGS-B", "SLSQP", "BFGS")
    runs = {
        f"ScipyMinimize, {m}": lambda m=m: jaxsolve.ScipyMinimize(fun, method=m, tol=1e-9).run(start).params
        for m in methods
    }
    return runs | {f"SciPy alone, {m}": alone(m) for m in methods}, "f(x)", 1e-16


FAMILIES = {
    f.__name__: f for f in (unconstrained, bounds, least_squares, equations, fixed_point, stochastic, scipy_methods)
}


# ---- Drawing ------------------------------------------------------------------------------------------------------


def draw(name):
    """One picture: ours with full lines, SciPy dashed, the others dotted."""
    runs, label, floor = FAMILIES[name]()
    plt.rcParams.update({"svg.hashsalt": "jaxsolve", "svg.fonttype": "none", "font.size": 9})
    figure, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
    styles = {"SciPy": "--", "JAXopt": ":", "Optimistix": "-."}
    colors = itertools.cycle(plt.get_cmap("tab10").colors)
    for (who, run), color in zip(runs.items(), colors, strict=False):
        merits = np.maximum(curve(run), floor)
        # What follows the end says nothing: the line stops where it does.
        last = int(np.flatnonzero(merits <= merits[-1])[0]) + 1
        style = next((s for prefix, s in styles.items() if who.startswith(prefix + " ")), "-")
        shown = np.unique(np.linspace(0, last - 1, 150).astype(int))
        axes.semilogy(shown + 1, merits[shown], style, color=color, label=who, linewidth=1.3)
        print(f"{name:16}{who:32}{last:5d} evaluations to {merits[-1]:.1e}", flush=True)
    axes.set_xlabel("batches" if name == "stochastic" else "evaluations")
    axes.set_ylabel(label)
    axes.legend(fontsize=7, loc="upper right")
    STATIC.mkdir(exist_ok=True)
    figure.savefig(STATIC / f"convergence_{name}.svg", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", choices=[[], *FAMILIES], default=[])
    for family in parser.parse_args().families or FAMILIES:
        draw(family)
