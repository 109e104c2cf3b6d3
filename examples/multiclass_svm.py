r"""Tune the regularization of a multiclass support vector machine by differentiating its solution.

The inner problem is the dual of a linear SVM (Crammer and Singer) on m training images, one row of ``x`` an image:

    x*(theta) = argmin  theta / 2 ||W(x, theta)||^2 + <x, Y>    over rows of x in the simplex,
    W(x, theta) = X' (Y - x) / theta                            the weights that go with x.

(The talk that introduced this example leaves out the term <x, Y>. Without it x = Y solves the problem for every theta.)

The outer problem fits the scores of unseen images to their labels, over lambda = log(theta):

    min  1/2 ||X_val W(x*(theta), theta) - Y_val||^2            as a mean over the images.

``jax.grad`` of the outer loss goes *through the solver*. Nothing is derived by hand: the solver differentiates its own
optimality conditions. The second part of this file compares that with the alternative, to unroll the iterations of the
solver and differentiate them one by one.

Reference: Blondel et al. (2021), "Efficient and Modular Implicit Differentiation", section 4.1.
"""

import functools
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import jaxsolve
from jaxsolve.linear_solve import solve_bicgstab
from jaxsolve.projection import projection_simplex

jax.config.update("jax_enable_x64", True)

OUTPUT = Path(__file__).parent / "output"
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


def tune(data, num_steps=30, theta=300.0, learning_rate=0.2):
    """Minimize the outer loss by Adam; returns the best (outer loss, accuracy, log theta)."""
    value_and_grad = jax.jit(
        jax.value_and_grad(functools.partial(outer_loss, maxiter=5000, tol=1e-4, **MODES["implicit"]), has_aux=True)
    )
    optimizer = optax.adam(learning_rate)
    log_theta = jnp.log(theta)
    opt_state = optimizer.init(log_theta)
    best = (np.inf, 0.0, 0.0)

    progress = tqdm(range(num_steps), desc="tuning", file=sys.stdout)
    for step in progress:
        (loss, (accuracy, state)), grad = value_and_grad(log_theta, data)
        jaxsolve.check(state)  # raises if the inner problem was not solved
        if loss < best[0]:
            best = (float(loss), float(accuracy), float(log_theta))
            if step % 4 == 0:
                progress.write(
                    f"  step {step:3d}   theta {np.exp(best[2]):8.1f}   outer loss {best[0]:.4f}   "
                    f"validation accuracy {best[1]:.4f}   inner iterations {int(state.iter_num)}"
                )
        progress.set_postfix(loss=f"{best[0]:.4f}", accuracy=f"{best[1]:.4f}")
        updates, opt_state = optimizer.update(grad, opt_state)
        log_theta = optax.apply_updates(log_theta, updates)
    print(f"best: theta {np.exp(best[2]):.1f}, outer loss {best[0]:.4f}, validation accuracy {best[1]:.4f}\n")
    return best


# ---- Part 2: implicit differentiation against unrolling -----------------------------------------------------------


def compile_gradient(data, **options):
    """The compiled gradient of the outer loss, as a function of log theta and the data."""
    grad = jax.grad(lambda log_theta, data: outer_loss(log_theta, data, **options)[0])
    return jax.jit(grad).lower(jnp.asarray(0.0), data).compile()


def compare(data, theta=20.0, iterations=(25, 50, 100, 200), repeats=3):
    """Measure each mode at fixed numbers of inner iterations; rows of (mode, iterations, error, seconds, bytes)."""
    log_theta = jnp.log(theta)
    exact = compile_gradient(data, maxiter=20_000, tol=1e-10)(log_theta, data)
    print(f"gradient at theta {theta:.0f}, solved to 1e-10: {float(exact):.8f}")
    print(f"{'mode':24}{'iterations':>11}{'relative error':>16}{'ms a gradient':>15}{'temporary MB':>14}")
    rows = []
    for mode, options in MODES.items():
        for maxiter in iterations:
            gradient = compile_gradient(data, maxiter=maxiter, tol=0.0, **options)
            memory = gradient.memory_analysis().temp_size_in_bytes
            value = gradient(log_theta, data)
            error = float(abs(value - exact) / abs(exact))
            seconds = []
            for _ in range(repeats):
                start = time.perf_counter()
                gradient(log_theta, data).block_until_ready()
                seconds.append(time.perf_counter() - start)
            rows.append((mode, maxiter, error, float(np.median(seconds)), memory))
            print(f"{mode:24}{maxiter:11d}{error:16.1e}{1e3 * rows[-1][3]:15.1f}{memory / 1e6:14.2f}")
    return rows


def plot(rows, path):
    """Draw error, time and memory against the number of inner iterations."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    labels = ("relative error of the gradient", "seconds a gradient", "temporary memory (bytes)")
    for column, (axis, label) in enumerate(zip(axes, labels, strict=True), start=2):
        for mode in MODES:
            points = [(row[1], row[column]) for row in rows if row[0] == mode]
            axis.loglog(*zip(*points, strict=True), marker="o", label=mode)
        axis.set(xlabel="inner iterations", title=label)
        axis.set_xticks(sorted({row[1] for row in rows}), labels=sorted({row[1] for row in rows}))
        axis.minorticks_off()
    axes[0].legend()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"\nfigure: {path}")


def main():
    """Run both parts; returns whether the modes agree."""
    start = time.perf_counter()
    data = load_data()
    tune(data)
    rows = compare(data)
    plot(rows, OUTPUT / "multiclass_svm.png")
    agree = all(error <= 1e-2 for _, maxiter, error, _, _ in rows if maxiter == 200)
    print(f"implicit and unrolled gradients agree to 1 % at 200 iterations: {'yes' if agree else 'NO'}")
    print(f"{time.perf_counter() - start:.0f} s")
    return agree


if __name__ == "__main__":
    sys.exit(not main())
