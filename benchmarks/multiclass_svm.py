r"""Seconds a hypergradient of a multiclass SVM takes, implicit against unrolled, as the number of features grows.

The inner problem is the dual of a multiclass linear SVM over a product of simplices, the outer one the squared error of
its predictions on other data, over lambda = log(theta). Three inner solvers make a fixed number of iterations and are
differentiated either way; both ways thus do the same work forwards. scikit-learn's ``make_classification``, 700
training and 200 validation points, 5 classes, float64. Unrolling is checkpointed where the iterates would not fit.

    XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python benchmarks/multiclass_svm.py --figure \
        docs/_static/multiclass_svm.png

On a machine that does other work, threads that wait for each other are what would be measured; hence one of them.

Reference: Blondel et al. (2021), "Efficient and Modular Implicit Differentiation", section 4.1.
"""

import argparse
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from _timing import interleaved
from sklearn.datasets import make_classification

import jaxsolve
from jaxsolve.linear_solve import solve_bicgstab
from jaxsolve.objective import multiclass_linear_svm_dual
from jaxsolve.projection import kl_projection_simplex, projection_simplex
from jaxsolve.prox import make_prox_from_projection

jax.config.update("jax_enable_x64", True)

NUM_TRAIN, NUM_VAL, NUM_CLASSES = 700, 200, 5
SOLVERS = ("mirror descent", "projected gradient", "coordinate descent")
# The linear system of the derivative need not be solved more accurately than the problem itself. With fewer features
# than samples it is singular.
MODES = {
    "implicit": {"implicit_diff_solve": functools.partial(solve_bicgstab, tol=1e-3, maxiter=100)},
    "unrolled": {"implicit_diff": False},
}
entropic_step = jaxsolve.MirrorDescent.make_projection_grad(
    lambda y, hyperparams=None: jax.vmap(kl_projection_simplex)(y), jnp.log
)
project = lambda x, hyperparams=None: jax.vmap(projection_simplex)(x)  # noqa: E731


def load_data(num_features):
    """Standardized features scaled to rows of about norm 1, one-hot labels; X, Y, X_val, Y_val."""
    X, labels = make_classification(
        NUM_TRAIN + NUM_VAL,
        num_features,
        n_informative=20,
        n_redundant=0,
        n_classes=NUM_CLASSES,
        n_clusters_per_class=1,
        random_state=0,
    )
    X = (X - X.mean(axis=0)) / X.std(axis=0) / np.sqrt(num_features)
    Y = np.eye(NUM_CLASSES)[labels]
    return tuple(map(jnp.asarray, (X[:NUM_TRAIN], Y[:NUM_TRAIN], X[NUM_TRAIN:], Y[NUM_TRAIN:])))


def solve_dual(name, theta, X, Y, iterations, **options):
    """The dual variables after that many iterations of a solver."""
    init = jnp.full(Y.shape, 1 / NUM_CLASSES)
    options = {"maxiter": iterations, "tol": 0.0, **options}
    stepsize = jax.lax.stop_gradient(theta / jnp.linalg.norm(X, ord=2) ** 2)
    if name == "mirror descent":
        # The entropy is strongly convex with constant 1, as half the square is: the same step is short enough.
        solver = jaxsolve.MirrorDescent(multiclass_linear_svm_dual, entropic_step, stepsize=stepsize, **options)
    elif name == "projected gradient":
        solver = jaxsolve.ProjectedGradient(multiclass_linear_svm_dual, project, stepsize=stepsize, **options)
    else:
        unroll = "checkpoint" if options.get("implicit_diff") is False else "auto"
        prox = make_prox_from_projection(projection_simplex)
        solver = jaxsolve.BlockCoordinateDescent(
            multiclass_linear_svm_dual, prox, selection="cyclic", unroll=unroll, **options
        )
    hyperparams = 1.0 if name == "coordinate descent" else None
    return solver.run(init, hyperparams, theta, (X, Y)).params


def outer_loss(log_theta, data, name, iterations, **options):
    """Mean squared error of the predictions on the validation data."""
    X, Y, X_val, Y_val = data
    theta = jnp.exp(log_theta)
    beta = solve_dual(name, theta, X, Y, iterations, **options)
    W = X.T @ (Y - beta) / theta
    return 0.5 * jnp.mean(jnp.sum((X_val @ W - Y_val) ** 2, axis=1))


def measure(num_features, iterations, rounds, theta=5.0):
    """Rows of (solver, mode, features, loss, gradient, seconds, bytes)."""
    data, rows = load_data(num_features), []
    log_theta = jnp.log(theta)
    for name in SOLVERS:
        compiled = {}
        for mode, options in MODES.items():
            fun = functools.partial(outer_loss, name=name, iterations=iterations[name], **options)
            compiled[mode] = jax.jit(jax.value_and_grad(fun)).lower(log_theta, data).compile()
        # The ways take turns, so that a busy moment hits both.
        times = interleaved({mode: functools.partial(run, log_theta, data) for mode, run in compiled.items()}, rounds)
        for mode, run in compiled.items():
            loss, gradient = run(log_theta, data)
            memory = run.memory_analysis().temp_size_in_bytes
            rows.append((name, mode, num_features, float(loss), float(gradient), times[mode], memory))
            print(
                f"{name:20}{mode:10}{num_features:7d}{rows[-1][3]:12.6f}{rows[-1][4]:14.6f}{rows[-1][5]:10.3f} s"
                f"{memory / 1e6:10.1f} MB",
                flush=True,
            )
        print(f"{'':20}unrolled / implicit {times['unrolled'] / times['implicit']:6.2f}", flush=True)
    return rows


def plot(rows, path):
    """Seconds a gradient against the number of features, a panel a solver."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(SOLVERS), figsize=(9, 2.8), layout="constrained", sharey=True)
    for axis, name in zip(axes, SOLVERS, strict=True):
        for mode, marker in zip(MODES, "os", strict=True):
            points = [(row[2], row[5]) for row in rows if row[:2] == (name, mode)]
            axis.loglog(*zip(*points, strict=True), marker=marker, label=mode)
        axis.set(title=name, xlabel="features")
    axes[0].set_ylabel("seconds a gradient")
    axes[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    print(f"figure: {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--iterations", type=int, default=400, help="of the gradient methods; sweeps are a tenth")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--figure", type=Path, default=Path(__file__).parent / "output" / "multiclass_svm.png")
    options = parser.parse_args()
    counts = {name: options.iterations // (10 if name == "coordinate descent" else 1) for name in SOLVERS}
    print(f"iterations: {counts}")
    plot([row for p in options.features for row in measure(p, counts, options.rounds)], options.figure)
