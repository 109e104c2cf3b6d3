r"""SVM hypergradients: implicit or unrolled
========================================

Hyperparameters of a multiclass linear SVM: implicit differentiation against unrolling, for three inner solvers.

The inner problem is the dual of a linear SVM (Crammer and Singer) on m training points with one-hot labels Y, over m
copies of the simplex, with one row of x per point::

    x*(theta) = argmin  theta / 2 ||W(x, theta)||^2 + <x, Y>     W(x, theta) = X' (Y - x) / theta.

(The talk leaves out <x, Y>. Without that term x = Y solves the problem for every theta.) The outer problem fits the
predictions X_val W on other points to their labels, as a mean over these points, with theta = exp(lambda)::

    min over lambda  1/2 ||X_val W(x*(theta), theta) - Y_val||^2.

An *optimality mapping* T is a function whose fixed point is the solution. Implicit differentiation uses only the result
of the solver, so any solver can be combined with any mapping::

    mirror descent           T = a mirror step (a softmax)
    projected gradient       T = a projected gradient step
    coordinate descent       T = either of the two

The script prints three tables, and draws the first two of them:

1. seconds and temporary memory of one gradient as the number p of features grows;
2. temporary memory as the number of inner iterations grows: constant for implicit differentiation, linear for
   unrolling, and like the square root with checkpoints;
3. gradient descent on the outer problem with both gradients: the validation loss is the same.

Setting: ``make_classification``, 700 training, 200 validation and 100 test points, 5 classes. The published comparison
(p from 100 to 10,000, 150 outer steps) consists of curves, so there are no figures to compare with.

::

    python examples/svm_hypergradient.py          # p = 100 and 300, 400 iterations or 40 sweeps
    python examples/svm_hypergradient.py --full   # p up to 10,000, 2500 iterations or 500 sweeps, 150 outer steps

``--full`` takes hours on a CPU. ``--gram`` makes p > m cheap: the weights are combinations of the m training points, so
that the features may be replaced by their m coordinates in the span of these. The losses are the same.

Reference: Blondel et al. (2021), "Efficient and Modular Implicit Differentiation", section 4.1.
"""

import argparse
import functools
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from sklearn.datasets import make_classification

import jaxsolve
from jaxsolve.implicit_diff import custom_fixed_point
from jaxsolve.implicit_diff.optimality import mirror_descent_fixed_point, projected_gradient_fixed_point
from jaxsolve.linear_solve import solve_bicgstab
from jaxsolve.objective import multiclass_linear_svm_dual
from jaxsolve.projection import kl_projection_simplex, projection_simplex
from jaxsolve.prox import make_prox_from_projection

jax.config.update("jax_enable_x64", True)

OUTPUT = Path(__file__).parent / "output" / "svm_hypergradient.png"
NUM_CLASSES = 5
SIZES = (700, 200, 100)
# The linear system of the derivative need not be solved more accurately than the problem itself. With fewer features
# than training points it is singular, but the gradient of the outer loss is unique.
LINEAR_SOLVE = functools.partial(solve_bicgstab, tol=1e-3, maxiter=100)
# The four combinations: inner solver, optimality mapping.
COMBINATIONS = (
    ("mirror descent", "mirror descent"),
    ("projected gradient", "projected gradient"),
    ("coordinate descent", "mirror descent"),
    ("coordinate descent", "projected gradient"),
)


# ---- The problem --------------------------------------------------------------------------------------------------


def load_data(num_features, sizes=SIZES, seed=0):
    """Pairs (X, Y) to train, to validate and to test; standardized features in rows of about norm 1, one-hot labels."""
    X, labels = make_classification(
        sum(sizes),
        num_features,
        n_informative=20,
        n_redundant=0,
        n_classes=NUM_CLASSES,
        n_clusters_per_class=1,
        random_state=seed,
    )
    X = (X - X.mean(axis=0)) / X.std(axis=0) / np.sqrt(num_features)
    Y = np.eye(NUM_CLASSES)[labels]
    ends = np.cumsum(sizes)[:-1]
    return tuple((jnp.asarray(a), jnp.asarray(b)) for a, b in zip(np.split(X, ends), np.split(Y, ends), strict=True))


def in_span_of_training_points(data):
    """The same data with m features in place of p > m: coordinates in the span of the training points."""
    basis, _ = jnp.linalg.qr(data[0][0].T)
    return tuple((X @ basis, Y) for X, Y in data)


def weights(x, theta, X, Y):
    """The weights W, of shape (p, 5), that go with the dual variables x."""
    return X.T @ (Y - x) / theta


def dual_objective(x, theta, data):
    """What the dual variables minimize."""
    return theta / 2 * jnp.sum(weights(x, theta, *data) ** 2) + jnp.sum(x * data[1])


def mean_squared_error(W, X, Y):
    """Half the squared error of the scores X W, as a mean over the points."""
    return jnp.mean(jnp.sum((X @ W - Y) ** 2, axis=1)) / 2


# ---- Inner solvers and optimality mappings ------------------------------------------------------------------------


def longest_step(theta, X):
    """1 / (largest eigenvalue of the Hessian); the entropy is as strongly convex as half the square of the norm."""
    return jax.lax.stop_gradient(theta / jnp.linalg.norm(X, ord=2) ** 2)


def iterate(theta, data, solver, iterations, tol=0.0, **options):
    """The dual variables, of shape (m, 5), after so many iterations (or sweeps) of a solver."""
    X, Y = data
    init = jnp.full(Y.shape, 1 / Y.shape[1])
    options = {"maxiter": iterations, "tol": tol, **options}
    if solver == "coordinate descent":
        # Unrolled plainly it would keep the weights after each of 700 visits a sweep, which is why it is checkpointed.
        if options.get("implicit_diff") is False:
            options["unroll"] = "checkpoint"
        # The same objective up to a constant, with the structure that lets a visit cost one row of X.
        prox = make_prox_from_projection(projection_simplex)
        inner = jaxsolve.BlockCoordinateDescent(multiclass_linear_svm_dual, prox, selection="cyclic", **options)
        return inner.run(init, 1.0, theta, data).params
    stepsize = longest_step(theta, X)
    if solver == "mirror descent":
        step = jaxsolve.MirrorDescent.make_projection_grad(jax.vmap(kl_projection_simplex), jnp.log)
        inner = jaxsolve.MirrorDescent(dual_objective, step, stepsize=stepsize, **options)
    else:
        inner = jaxsolve.ProjectedGradient(dual_objective, jax.vmap(projection_simplex), stepsize=stepsize, **options)
    return inner.run(init, None, theta, data).params


# T(x, hyperparams_proj, theta, data). At the solution every step size gives the same derivative; here it is 1.
MAPPINGS = {
    "mirror descent": mirror_descent_fixed_point(dual_objective, jax.vmap(kl_projection_simplex), jnp.log),
    "projected gradient": projected_gradient_fixed_point(dual_objective, jax.vmap(projection_simplex)),
}


def solve_dual(theta, data, solver, mapping, iterations, **options):
    """The dual variables, differentiated through an optimality mapping; by unrolling if that is None."""
    if mapping is None:
        return iterate(theta, data, solver, iterations, implicit_diff=False, **options)

    @custom_fixed_point(MAPPINGS[mapping], solve=LINEAR_SOLVE)
    def solution(hyperparams_proj, theta, data):
        del hyperparams_proj  # the simplex has none
        return iterate(theta, data, solver, iterations, **options)

    return solution(None, theta, data)


def outer_loss(log_theta, data, solver, mapping, iterations, **options):
    """The loss on the validation points."""
    train, validation, _ = data
    theta = jnp.exp(log_theta)
    x = solve_dual(theta, train, solver, mapping, iterations, **options)
    return mean_squared_error(weights(x, theta, *train), *validation)


def compile_gradient(data, solver, mapping, iterations, **options):
    """Value and gradient of the outer loss as a compiled function of log theta and the data."""
    loss = functools.partial(outer_loss, solver=solver, mapping=mapping, iterations=iterations, **options)
    return jax.jit(jax.value_and_grad(loss)).lower(jnp.asarray(0.0), data).compile()


def megabytes(compiled):
    """The temporary memory of a compiled function."""
    return compiled.memory_analysis().temp_size_in_bytes / 1e6


def seconds(call):
    """Wall-clock time of a call."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


# ---- 1. Time and memory of a gradient -----------------------------------------------------------------------------


def compile_all(data, iterations):
    """Compiled gradients of every combination of solver and mapping, and of every solver unrolled (mapping None)."""
    ways = [*COMBINATIONS, *((solver, None) for solver in iterations)]
    return {(solver, way): compile_gradient(data, solver, way, iterations[solver]) for solver, way in ways}


def time_gradients(num_features, data, compiled, rounds, theta=5.0):
    """Print a table of implicit against unrolled; rows of (solver, mapping, p, seconds, unrolled seconds).

    Rounds take turns, so that a busy moment of the machine hits all programs. The first one is not counted.
    """
    log_theta = jnp.log(theta)
    calls = {way: functools.partial(gradient, log_theta, data) for way, gradient in compiled.items()}
    values = {way: call() for way, call in calls.items()}
    times = {way: [] for way in calls}
    for _ in range(rounds):
        for way, call in calls.items():
            times[way].append(seconds(call))
    median = {way: statistics.median(measured) for way, measured in times.items()}
    rows = []
    for solver, mapping in COMBINATIONS:
        ours, other = (solver, mapping), (solver, None)
        difference = abs(float(values[ours][1] / values[other][1]) - 1)
        print(
            f"{solver:19}{mapping:19}{num_features:6d}{median[ours]:9.2f} s{median[other]:9.2f} s"
            f"{median[other] / median[ours]:7.1f}{megabytes(compiled[ours]):9.0f}{megabytes(compiled[other]):9.0f}"
            f"{difference:12.0e}",
            flush=True,
        )
        rows.append((solver, mapping, num_features, median[ours], median[other]))
    return rows


# ---- 2. Memory against inner iterations ---------------------------------------------------------------------------

MEMORY_MODES = {
    "implicit": {"mapping": "projected gradient"},
    "unrolled, checkpointed": {"mapping": None, "unroll": "checkpoint"},
    "unrolled": {"mapping": None},
}


def measure_memory(data, iterations=(1600, 6400, 25_600)):
    """Print the temporary memory of the gradient, in MB, for projected gradient; a list for each mode.

    The programs are compiled, not run. Where iterations grow by the factor 4, memory does if it is linear, and by the
    factor 2 if it grows like the square root.
    """
    print(f"{'':24}" + "".join(f"{f'K = {count}':>11}" for count in iterations) + f"{'last / one before':>20}")
    memory = {}
    for mode, options in MEMORY_MODES.items():
        programs = (compile_gradient(data, "projected gradient", iterations=k, **options) for k in iterations)
        memory[mode] = [megabytes(program) for program in programs]
        numbers = "".join(f"{number:8.1f} MB" for number in memory[mode])
        print(f"{mode:24}{numbers}{memory[mode][-1] / memory[mode][-2]:20.1f}", flush=True)
    return memory


# ---- 3. The outer problem -----------------------------------------------------------------------------------------


def descend(value_and_grad, data, num_steps, theta=15.0, learning_rate=4.0):
    """Gradient descent on the outer loss; returns the losses, of shape (num_steps + 1,), and the last log theta."""
    log_theta, losses = np.log(theta), []
    for _ in range(num_steps):
        loss, gradient = value_and_grad(log_theta, data)
        losses.append(float(loss))
        log_theta = log_theta - learning_rate * gradient
    losses.append(float(value_and_grad(log_theta, data)[0]))
    return np.array(losses), float(log_theta)


@jax.jit
def accuracy(log_theta, data):
    """The fraction of the test points that are classified right."""
    train, _, (X, Y) = data
    x = iterate(jnp.exp(log_theta), train, "projected gradient", 500)
    scores = X @ weights(x, jnp.exp(log_theta), *train)
    return jnp.mean(jnp.argmax(scores, axis=1) == jnp.argmax(Y, axis=1))


def compare_descents(data, compiled, num_steps):
    """Print the end of both descents; returns the final losses, implicit and unrolled, of each combination."""
    print(
        f"{'inner solver':19}{'mapping':19}{'loss before':>12}{'implicit':>12}{'unrolled':>12}{'theta':>9}"
        f"{'accuracy':>10}"
    )
    unrolled = {solver: descend(compiled[solver, None], data, num_steps)[0] for solver, _ in COMBINATIONS}
    final = []
    for solver, mapping in COMBINATIONS:
        losses, log_theta = descend(compiled[solver, mapping], data, num_steps)
        final.append((losses[-1], unrolled[solver][-1]))
        print(
            f"{solver:19}{mapping:19}{losses[0]:12.5f}{losses[-1]:12.5f}{unrolled[solver][-1]:12.5f}"
            f"{np.exp(log_theta):9.3f}{float(accuracy(log_theta, data)):10.2f}",
            flush=True,
        )
    return final


# ---- Both ---------------------------------------------------------------------------------------------------------


def plot(rows, memory, iterations, path):
    """Draw seconds against features and memory against iterations."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for color, (solver, mapping) in enumerate(COMBINATIONS):
        p, implicit, unrolled = zip(*(row[2:] for row in rows if row[:2] == (solver, mapping)), strict=True)
        axes[0].loglog(p, implicit, f"C{color}o-", label=f"{solver}, implicit ({mapping})")
        if mapping == solver or (solver, mapping) == COMBINATIONS[-1]:
            axes[0].loglog(p, unrolled, f"C{color}s--", label=f"{solver}, unrolled")
    axes[0].set(xlabel="features", title="seconds a gradient")
    axes[0].legend(fontsize=8)
    for mode, values in memory.items():
        axes[1].loglog(iterations, values, marker="o", label=mode)
    axes[1].set(xlabel="inner iterations", title="temporary memory of a gradient (MB)")
    axes[1].legend(fontsize=8)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"\nfigure: {path.parent.name}/{path.name}")


def main(
    features=(100, 300), num_iterations=400, num_sweeps=40, num_steps=6, rounds=3, gram=False, sizes=SIZES, path=OUTPUT
):
    """Print the tables; returns whether implicit is faster everywhere, and the validation losses are equal."""
    start = time.perf_counter()
    iterations = {
        "mirror descent": num_iterations,
        "projected gradient": num_iterations,
        "coordinate descent": num_sweeps,
    }
    print(f"1. One gradient; {num_iterations} iterations or {num_sweeps} sweeps; unrolled sweeps are checkpointed")
    print(
        f"{'inner solver':19}{'mapping':19}{'p':>6}{'implicit':>11}{'unrolled':>11}{'ratio':>7}{'MB':>9}{'MB':>9}"
        f"{'difference':>12}"
    )
    rows, first = [], None
    for num_features in features:
        data = load_data(num_features, sizes)
        if gram and num_features > sizes[0]:
            data = in_span_of_training_points(data)
        compiled = compile_all(data, iterations)
        first = first or (data, compiled)
        rows += time_gradients(num_features, data, compiled, rounds)
    print("published: curves, without figures")

    data, compiled = first
    print(f"\n2. Temporary memory of the gradient against inner iterations, p = {features[0]}, projected gradient")
    counts = (1600, 6400, 25_600)
    memory = measure_memory(data, counts)

    print(f"\n3. {num_steps} steps of gradient descent on the validation loss, p = {features[0]}")
    final = compare_descents(data, compiled, num_steps)

    if path is not None:
        plot(rows, memory, counts, path)
    faster = all(implicit < unrolled for *_, implicit, unrolled in rows)
    equal = all(abs(implicit / unrolled - 1) < 1e-3 for implicit, unrolled in final)
    print(f"implicit faster for every solver, mapping and p: {'yes' if faster else 'NO'}")
    print(f"equal validation loss, to 0.1 %: {'yes' if equal else 'NO'}")
    print(f"{time.perf_counter() - start:.0f} s")
    return faster and equal


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="the published sizes; hours on a CPU")
    parser.add_argument("--features", type=int, nargs="+", help="numbers of features")
    parser.add_argument("--steps", type=int, help="outer steps of the third table")
    parser.add_argument("--rounds", type=int, help="timed runs of every gradient")
    parser.add_argument("--gram", action="store_true", help="use m coordinates where p > m")
    arguments = parser.parse_args()
    chosen = {"gram": arguments.gram}
    if arguments.full:
        chosen |= {"features": (100, 300, 1000, 3000, 10_000), "num_iterations": 2500, "num_sweeps": 500}
        chosen |= {"num_steps": 150}
    given = {"features": arguments.features, "num_steps": arguments.steps, "rounds": arguments.rounds}
    chosen |= {name: value for name, value in given.items() if value is not None}
    sys.exit(not main(**chosen))
