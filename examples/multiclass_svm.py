r"""Tuning a multiclass SVM
=======================

Tune the regularization of a multiclass support vector machine by differentiating its solution.

The inner problem is the dual of a linear SVM (Crammer and Singer) on m training images, with one row of ``x`` per
image::

    x*(theta) = argmin  theta / 2 ||W(x, theta)||^2 + <x, Y>    over rows of x in the simplex,
    W(x, theta) = X' (Y - x) / theta                            the weights that go with x.

(The talk that introduced this example leaves out the term <x, Y>. Without it x = Y solves the problem for every theta.)

The outer problem fits the scores of unseen images to their labels, over lambda = log(theta)::

    min  1/2 ||X_val W(x*(theta), theta) - Y_val||^2            as a mean over the images.

``jax.grad`` of the outer loss goes *through the solver*. Nothing is derived by hand: the solver differentiates its own
optimality conditions. The first part follows this gradient until it vanishes, and compares the result with a grid
search. The second part compares this gradient with the alternative: to unroll the iterations of the solver and
differentiate them one by one.

::

    python examples/multiclass_svm.py             or ``make demo``

Reference: Blondel et al. (2021), "Efficient and Modular Implicit Differentiation", section 4.1.
"""

import functools
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxsolve
from jaxsolve.linear_solve import solve_bicgstab
from jaxsolve.projection import projection_simplex

jax.config.update("jax_enable_x64", True)

OUTPUT = Path(__file__).parent / "output" / "multiclass_svm.png"
INNER = {"maxiter": 10_000, "tol": 1e-6}
# The gradient of the outer loss, with respect to log theta, has vanished when it is no larger.
TOL = 1e-3
MODES = {
    # The linear system of the derivative need not be solved more accurately than the problem itself.
    "implicit": {"implicit_diff_solve": functools.partial(solve_bicgstab, tol=1e-6)},
    "unrolled": {"implicit_diff": False},
    "unrolled, checkpointed": {"implicit_diff": False, "unroll": "checkpoint"},
}


# ---- The problem --------------------------------------------------------------------------------------------------


def load_data(num_train=500, num_val=500, num_features=300):
    """Handwritten digits with one-hot labels; returns X, Y, X_val, Y_val.

    The pixels, scaled to [0, 1], are mapped to random cosines (Rahimi and Recht 2007) so that a linear model can
    tell the digits apart.
    """
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(
        images / 16, labels, train_size=num_train, test_size=num_val, stratify=labels, random_state=0
    )
    rng = np.random.default_rng(0)
    frequencies = rng.normal(scale=0.6, size=(images.shape[1], num_features))
    phases = rng.uniform(0, 2 * np.pi, num_features)
    X, X_val = (np.cos(pixels @ frequencies + phases) * np.sqrt(2 / num_features) for pixels in split[:2])
    Y, Y_val = (np.eye(10)[label] for label in split[2:])
    mean = X.mean(axis=0)
    return tuple(map(jnp.asarray, (X - mean, Y, X_val - mean, Y_val)))


def weights(x, theta, X, Y):
    """The weights W, one column a class, that go with the dual variables x."""
    return X.T @ (Y - x) / theta


def dual_objective(x, theta, X, Y):
    """What the dual variables minimize."""
    return theta / 2 * jnp.sum(weights(x, theta, X, Y) ** 2) + jnp.sum(x * Y)


def solve_svm(theta, X, Y, **options):
    """Solve the inner problem; differentiable in every argument."""
    stepsize = theta / jnp.linalg.norm(X, ord=2) ** 2  # 1 / (largest eigenvalue of the Hessian)
    solver = jaxsolve.ProjectedGradient(
        dual_objective, projection=jax.vmap(projection_simplex), stepsize=stepsize, **options
    )
    init = jnp.full(Y.shape, 1 / Y.shape[1])
    x, state = solver.run(init, None, theta, X, Y)
    return weights(x, theta, X, Y), state


def outer_loss(log_theta, data, **options):
    """Loss on the validation images, and what is worth reporting about it."""
    X, Y, X_val, Y_val = data
    W, state = solve_svm(jnp.exp(log_theta), X, Y, **options)
    scores = X_val @ W
    accuracy = jnp.mean(jnp.argmax(scores, axis=1) == jnp.argmax(Y_val, axis=1))
    return jnp.mean(jnp.sum((scores - Y_val) ** 2, axis=1)) / 2, (accuracy, state)


# ---- Part 1: tune theta -------------------------------------------------------------------------------------------


class Point(NamedTuple):
    """What is known of one theta."""

    theta: float
    loss: float
    accuracy: float
    gradient: float = np.nan


def search_grid(data, thetas):
    """The baseline: solve the inner problem at every theta of a grid; a list of points."""
    value = jax.jit(functools.partial(outer_loss, **INNER))
    points = []
    for theta in thetas:
        loss, (accuracy, state) = value(jnp.log(theta), data)
        jaxsolve.check(state)  # raises if the inner problem was not solved
        points.append(Point(float(theta), float(loss), float(accuracy)))
    return points


def tune(data, theta=300.0, max_steps=30, tol=TOL):
    """Follow the gradient of the outer loss from theta until it vanishes; returns the path, a list of points.

    The loss is smooth but for kinks, where a dual variable reaches a bound or leaves it, and between kinks there may be
    small local minima: a gradient below about a hundredth of the largest one is as good as none.

    There is one unknown, lambda = log(theta), and the minimum is where the gradient is zero: the steps are those of the
    secant method, but never longer than 1, and downhill with length 1 where the loss is not convex.
    """
    loss = functools.partial(outer_loss, **INNER, **MODES["implicit"])
    value_and_grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    log_theta, path = jnp.log(theta), []
    print(f"{'step':>6}{'theta':>10}{'outer loss':>12}{'accuracy':>10}{'gradient':>12}{'inner iterations':>18}")
    for step in range(max_steps):
        (loss, (accuracy, state)), gradient = value_and_grad(log_theta, data)
        jaxsolve.check(state)
        path.append(Point(float(jnp.exp(log_theta)), float(loss), float(accuracy), float(gradient)))
        new = path[-1]
        print(
            f"{step:6d}{new.theta:10.2f}{new.loss:12.5f}{new.accuracy:10.3f}{new.gradient:12.5f}"
            f"{int(state.iter_num):18d}",
            flush=True,
        )
        if abs(new.gradient) <= tol:
            break
        log_theta = log_theta + next_move(path)
    return path


def next_move(path):
    """The step in log(theta) from the last point of a path."""
    new, old = path[-1], path[-2] if len(path) > 1 else None
    curvature = 0.0 if old is None else (new.gradient - old.gradient) / np.log(new.theta / old.theta)
    secant = -new.gradient / curvature if curvature > 0 else np.inf
    return min(abs(secant), 1.0) * -np.sign(new.gradient)


# ---- Part 2: implicit differentiation against unrolling -----------------------------------------------------------


def compile_gradient(data, **options):
    """The compiled gradient of the outer loss, as a function of log theta and the data."""
    grad = jax.grad(lambda log_theta, data: outer_loss(log_theta, data, **options)[0])
    return jax.jit(grad).lower(jnp.asarray(0.0), data).compile()


def compare(data, theta, iterations=500, repeats=5):
    """Measure each mode at a fixed number of inner iterations; a dictionary of (gradient, seconds, bytes)."""
    log_theta = jnp.log(theta)
    modes = {mode: compile_gradient(data, maxiter=iterations, tol=0.0, **options) for mode, options in MODES.items()}
    gradients = {mode: float(gradient(log_theta, data)) for mode, gradient in modes.items()}
    seconds = {mode: [] for mode in modes}
    for _ in range(repeats):  # they take turns, so that a busy moment of the machine hits all
        for mode, gradient in modes.items():
            start = time.perf_counter()
            gradient(log_theta, data).block_until_ready()
            seconds[mode].append(time.perf_counter() - start)
    print(f"\none gradient at theta = {theta:.2f}, {iterations} inner iterations")
    rows = {}
    for mode, gradient in modes.items():
        memory = gradient.memory_analysis().temp_size_in_bytes
        rows[mode] = (gradients[mode], float(np.median(seconds[mode])), memory)
        print(f"  {mode:24}{gradients[mode]:14.8f}{1e3 * rows[mode][1]:9.0f} ms{memory / 1e6:9.1f} MB")
    return rows


# ---- Both ---------------------------------------------------------------------------------------------------------


def plot(grid, path, file):
    """Draw outer loss and accuracy along theta, the grid as a line, the path of the tuning as numbered points."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for axis, name in zip(axes, ("loss", "accuracy"), strict=True):
        for points, style, label in ((grid, "C0.-", "grid search"), (path, "C1o--", "path of the gradient")):
            axis.plot([p.theta for p in points], [getattr(p, name) for p in points], style, label=label)
        axis.plot(path[-1].theta, getattr(path[-1], name), "k*", markersize=14, label="its end")
        for step, point in enumerate(path[:4]):
            axis.annotate(str(step), (point.theta, getattr(point, name)), (4, 6), textcoords="offset points")
        axis.set(xscale="log", xlabel="theta", title=f"validation {name}")
    axes[0].legend()
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def main(grid_size=20, file=OUTPUT, **sizes):
    """Run both parts; returns whether the gradient vanishes where the loss is least, and the two gradients agree."""
    begin = time.perf_counter()
    data = load_data(**sizes)
    print(f"data: {data[0].shape[0]} images to train, {data[2].shape[0]} to validate, {data[0].shape[1]} features\n")

    start = time.perf_counter()
    path = tune(data)
    by_gradient, end = time.perf_counter() - start, path[-1]
    start = time.perf_counter()
    grid = search_grid(data, np.geomspace(2, 500, grid_size))
    by_grid, best = time.perf_counter() - start, min(grid, key=lambda point: point.loss)
    print(f"\n{'':14}{'inner solves':>14}{'best theta':>12}{'outer loss':>12}{'accuracy':>10}{'time':>10}")
    for name, tried, point, seconds in (("gradient", path, end, by_gradient), ("grid search", grid, best, by_grid)):
        print(
            f"{name:14}{len(tried):14d}{point.theta:12.2f}{point.loss:12.5f}{point.accuracy:10.3f}{seconds:8.1f} s",
        )
    print("(the time includes compilation)")

    rows = compare(data, path[0].theta)
    (implicit, *_), (unrolled, *_) = rows["implicit"], rows["unrolled"]
    plot(grid, path, file)
    print(f"\nfigure: {file.parent.name}/{file.name}")

    vanished, least = abs(end.gradient) <= TOL, end.loss <= 1.001 * best.loss
    agree = abs(implicit - unrolled) <= 1e-3 * abs(implicit)
    print(f"the gradient has vanished: {yes(vanished)}, at the least loss of the grid, to 0.1 %: {yes(least)}")
    print(f"implicit and unrolled gradients agree to 0.1 %: {yes(agree)}")
    print(f"{time.perf_counter() - begin:.0f} s")
    return vanished and least and agree


def yes(holds):
    """The word for a claim that holds, or does not."""
    return "yes" if holds else "NO"


if __name__ == "__main__":
    sys.exit(not main())
