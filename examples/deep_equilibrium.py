r"""A deep equilibrium model
========================

A deep equilibrium model in Flax nnx: a network of infinite depth whose gradient needs the memory of one layer.

The model repeats one layer until nothing changes (Bai, Kolter and Koltun 2019), and classifies the result::

    z* = f(z*, x) = tanh(z* W + x U + b),        class scores = z* C + c.

The equilibrium is found by fixed-point iteration, or by Anderson acceleration of it. It exists, is unique, and is found
at a linear rate, because f is a contraction by construction: tanh has slopes of at most 1, and the free parameter V
enters as

::

    W = V min(1, 0.9 / ||V||_2),        so        ||f(z, x) - f(z', x)|| <= 0.9 ||z - z'||.

With J the Jacobian of f at z*, the gradient needs the vector u = (I - J)^-T v for one given v. The methods compared are

::

    exact         a Krylov method (BiCGSTAB) for the linear system: implicit differentiation;
    Neumann       k terms of the series u = v + J'v + J'J'v + ...: for k = 1 Jacobian-free backpropagation (Fung et al.
                  2022), for k > 1 an undamped phantom gradient (Geng et al. 2021); the error is at most 0.9^k times
                  the norm of u;
    unrolled      backpropagation through the iterations, with all iterates in memory;
    checkpointed  the same with about the square root of them in memory, and the others computed again.

The first table shows, for the gradient of the training loss at trained weights, its distance from the exact gradient,
the time of a gradient and the temporary memory of its program. The second table shows the accuracy of models trained
with each method. Last, the evaluations of the layer until the equilibrium is found are counted, for plain iteration and
for Anderson acceleration. The data are scikit-learn's digits (1797 images of 64 pixels).

References: Bai, Kolter and Koltun (2019), "Deep equilibrium models"; Fung et al. (2022), "JFB: Jacobian-free
backpropagation for implicit networks"; Geng et al. (2021), "On training implicit models".

::

    python examples/deep_equilibrium.py
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
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxsolve
from jaxsolve.linear_solve import solve_bicgstab, solve_neumann

jax.config.update("jax_enable_x64", True)

OUTPUT = Path(__file__).parent / "output"
CONTRACTION = 0.9
EXACT = {"implicit_diff_solve": functools.partial(solve_bicgstab, tol=1e-8)}
MODES = {"exact": EXACT, "unrolled": {"implicit_diff": False}}
MODES["checkpointed"] = {"implicit_diff": False, "unroll": "checkpoint"}


def neumann(num_terms):
    """The options of a solver whose gradient is a truncated Neumann series."""
    return {"implicit_diff_solve": functools.partial(solve_neumann, num_terms=num_terms)}


# ---- The model ----------------------------------------------------------------------------------------------------


class DeepEquilibrium(nnx.Module):
    """The model in float64, with random parameters."""

    def __init__(self, num_inputs, num_hidden, num_classes, rngs):
        linear = functools.partial(nnx.Linear, rngs=rngs, param_dtype=jnp.float64)
        self.inject, self.classify = linear(num_inputs, num_hidden), linear(num_hidden, num_classes)
        scale = 1 / np.sqrt(num_hidden)
        self.V = nnx.Param(scale * jax.random.normal(rngs.params(), (num_hidden, num_hidden), jnp.float64))

    def recurrent(self):
        """The matrix W, whose spectral norm is at most ``CONTRACTION``."""
        V = self.V[...]
        return V * jnp.minimum(1.0, CONTRACTION / jnp.linalg.norm(V, ord=2))

    def __call__(self, x, **options):
        """Class scores of images of shape (images, pixels), and the state of the solver with these options."""
        W, injected = self.recurrent(), self.inject(x)
        # W and the injection are computed once, outside of the iterations; the gradient goes to them nevertheless.
        solver = jaxsolve.FixedPointIteration(lambda z: jnp.tanh(z @ W + injected), **options)
        equilibrium, state = solver.run(jnp.zeros_like(injected))
        return self.classify(equilibrium), state


def loss(model, x, y, **options):
    """Cross-entropy of the labels y, and the state of the solver."""
    scores, state = model(x, **options)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, y)), state


# ---- The gradient, by each method ---------------------------------------------------------------------------------


def compile_gradient(model, x, y, **options):
    """The compiled gradient in the parameters, as a function of them; and its temporary memory in bytes."""
    definition, params = nnx.split(model)

    def fun(params):
        return loss(nnx.merge(definition, params), x, y, **options)[0]

    program = jax.jit(jax.grad(fun)).lower(params).compile()
    return functools.partial(program, params), program.memory_analysis().temp_size_in_bytes


def distance(gradient, exact):
    """Relative distance of two gradients."""
    norm = optax.tree.norm
    return float(norm(jax.tree.map(jnp.subtract, gradient, exact)) / norm(exact))


def median_seconds(programs, rounds=5):
    """Median times of several programs. They take turns, so that whatever else the machine does hits all alike."""
    times = [[] for _ in programs]
    for _ in range(rounds):
        for program, seconds in zip(programs, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(program())
            seconds.append(time.perf_counter() - start)
    return [float(np.median(seconds)) for seconds in times]


def compare(model, x, y, iterations=(10, 40, 160), terms=(1, 2, 5, 10, 20)):
    """Measure the methods; rows of (method, iterations, terms, relative error, seconds, bytes)."""
    precise = functools.partial(solve_bicgstab, tol=1e-13, maxiter=1000)
    exact = compile_gradient(model, x, y, maxiter=1000, tol=1e-12, implicit_diff_solve=precise)[0]()
    plan = [(mode, mode, options, k, None) for mode, options in MODES.items() for k in iterations]
    plan += [("Neumann", f"Neumann, {k} term{'s' * (k > 1)}", neumann(k), max(iterations), k) for k in terms]
    compiled = [compile_gradient(model, x, y, maxiter=k, tol=0.0, **options) for _, _, options, k, _ in plan]
    seconds = median_seconds([program for program, _ in compiled])
    rows = []
    print(f"{'gradient':20}{'iterations':>11}{'relative error':>16}{'ms':>9}{'temporary MB':>14}")
    for (method, label, _, maxiter, num_terms), (program, memory), time_taken in zip(
        plan, compiled, seconds, strict=True
    ):
        error = distance(program(), exact)
        rows.append((method, maxiter, num_terms, error, time_taken, memory))
        print(f"{label:20}{maxiter:11d}{error:16.1e}{1e3 * time_taken:9.1f}{memory / 1e6:14.2f}")
    return rows


# ---- Training -----------------------------------------------------------------------------------------------------


def load_data(num_test=360):
    """Digits with pixels in [0, 1] and their labels; returns x, x_test, y, y_test."""
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images / 16, labels, test_size=num_test, stratify=labels, random_state=0)
    return tuple(map(jnp.asarray, split))


def make_step(**options):
    """A compiled step of training with these options of the solver, which changes the model and its optimizer."""

    @nnx.jit
    def step(model, optimizer, x, y):
        (value, state), gradient = nnx.value_and_grad(functools.partial(loss, **options), has_aux=True)(model, x, y)
        optimizer.update(model, gradient)
        return value, state

    return step


def train(data, num_hidden, num_steps, batch_size=128, learning_rate=5e-3, seed=0, **options):
    """Train by Adam; returns the model, the losses and the accuracy on test images."""
    x, x_test, y, y_test = data
    model = DeepEquilibrium(x.shape[1], num_hidden, 10, nnx.Rngs(seed))
    optimizer = nnx.Optimizer(model, optax.adam(learning_rate), wrt=nnx.Param)
    step, rng, losses = make_step(**options), np.random.default_rng(seed), []
    for _ in range(num_steps):
        rows = rng.permutation(len(x))[:batch_size]
        value, _ = step(model, optimizer, x[rows], y[rows])
        losses.append(float(value))
    scores, state = model(x_test, maxiter=1000, tol=1e-8)
    jaxsolve.check(state)  # raises if there is no equilibrium
    return model, losses, float(jnp.mean(jnp.argmax(scores, axis=1) == y_test))


def count_evaluations(model, x, tol=1e-8):
    """Most evaluations of the layer until the equilibrium of an image is found; plain, and by Anderson acceleration."""
    W, injected = model.recurrent(), model.inject(x)
    layer, counts = lambda z, injected: jnp.tanh(z @ W + injected), {}
    for name, make in (("plain iteration", jaxsolve.FixedPointIteration), ("Anderson", jaxsolve.AndersonAcceleration)):
        solver = make(layer, maxiter=1000, tol=tol)
        states = jax.jit(jax.vmap(lambda i, solver=solver: solver.run(jnp.zeros_like(i), i).state))(injected)
        jaxsolve.check(states)
        counts[name] = int(jnp.max(states.num_fun_eval))
        print(f"{name:20}{counts[name]:11d} evaluations to {tol:.0e}")
    return counts


# ---- The whole ----------------------------------------------------------------------------------------------------


def plot(rows, path):
    """Draw the error against the terms of the series and the unrolled iterations, and memory against iterations."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (errors, memory) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    series = [(k, error) for method, _, k, error, *_ in rows if method == "Neumann"]
    errors.semilogy(*zip(*series, strict=True), marker="o", label="Neumann, by terms")
    for color, mode in enumerate(MODES, start=1):
        points = [(row[1], row[3], row[5] / 1e6) for row in rows if row[0] == mode]
        iterations, error, megabytes = zip(*points, strict=True)
        if mode != "checkpointed":  # as unrolled
            errors.semilogy(iterations, error, f"C{color}", marker="o", label=f"{mode}, by iterations")
        memory.loglog(iterations, megabytes, f"C{color}", marker="o", label=mode)
    errors.set(xlabel="terms or iterations", title="relative error of the gradient", xscale="log")
    memory.set(xlabel="iterations", title="temporary memory (MB)")
    for axis in (errors, memory):
        axis.legend()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"figure: {path.parent.name}/{path.name}\n")


def main(num_hidden=64, num_steps=150, maxiter=40, tol=1e-4):
    """Print both tables; returns whether the claims on accuracy, memory and the error of the series hold."""
    start = time.perf_counter()
    data = load_data()
    run = {"maxiter": maxiter, "tol": tol}
    trainings = {"exact": EXACT, "Neumann, 1 term": neumann(1), "Neumann, 5 terms": neumann(5)}
    trainings |= {"unrolled": MODES["unrolled"]}
    results = {name: train(data, num_hidden, num_steps, **run, **options) for name, options in trainings.items()}
    model = results["exact"][0]

    rows = compare(model, data[0][:128], data[2][:128])
    plot(rows, OUTPUT / "deep_equilibrium.png")
    print(f"{'trained by':20}{'first loss':>11}{'last loss':>11}{'test accuracy':>15}")
    for name, (_, losses, accuracy) in results.items():
        print(f"{name:20}{losses[0]:11.3f}{losses[-1]:11.4f}{accuracy:15.4f}")
    counts = count_evaluations(model, data[1])
    accelerated = counts["Anderson"] <= counts["plain iteration"] / 2
    accurate = results["exact"][2] >= 0.95
    memory = {row[:2]: row[5] for row in rows}
    fewest, most = min(row[1] for row in rows), max(row[1] for row in rows)
    constant = memory["exact", most] == memory["exact", fewest]
    grows = memory["unrolled", most] > 4 * memory["unrolled", fewest]
    bounded = all(error <= CONTRACTION**k for method, _, k, error, *_ in rows if method == "Neumann")
    print(f"test accuracy of at least 95 % with exact gradients: {'yes' if accurate else 'NO'}")
    print(f"memory constant if exact, growing if unrolled: {'yes' if constant and grows else 'NO'}")
    print(f"error of k terms at most {CONTRACTION}^k: {'yes' if bounded else 'NO'}")
    print(f"Anderson takes at most half of the evaluations: {'yes' if accelerated else 'NO'}")
    print(f"{time.perf_counter() - start:.0f} s")
    return accurate and constant and grows and bounded and accelerated


if __name__ == "__main__":
    sys.exit(not main())
