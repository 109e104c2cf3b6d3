r"""Saving and resuming
===================

Save in the middle and resume in another process: the result is the same to the last bit.

Everything that a loop needs to continue is a pytree of arrays, so any library that stores arrays can save it: here
orbax and ``numpy.savez``. The contents of the tree depend on the loop.

Training. A penalty for each feature of a logistic regression is learned (Bengio 2000),

::

    w*(theta) = argmin_w  mean logistic(y, X w) + 1/2 sum_j exp(theta_j) w_j^2,      min_theta  loss of validation data,

by Adam on mini-batches of the validation data; jax.grad goes through the solution. Each solve starts from the last
one. What has to be saved: theta, the state of Adam, the last solution with the state of L-BFGS, and the random key.

Runs of a solver. ``run`` returns an ``OptStep(params, state)``. If it is passed in place of an initial point, the run
continues from there, with the history of L-BFGS, the momentum of accelerated gradient descent, the step size and the
iteration count. A loop over ``update`` needs the same two. Its random mini-batches follow from the seed and
``state.iter_num``, so nothing more has to be saved. The last row shows the difference if only ``params`` are saved.

This process does all of the work once without interruption, and once up to the middle, where it saves. A fresh process
loads and does the rest. Both must run the same compiled programs: with other versions, devices or compiler options
(such as XLA_FLAGS) the last bits differ. The data are scikit-learn's breast cancer data (569 x 30).

::

    python examples/save_and_resume.py
"""

import functools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler

import jaxsolve
from jaxsolve import OptStep

jax.config.update("jax_enable_x64", True)

NUM_TRAIN, BATCH_SIZE, SEED = 200, 64, 0
ADAM = optax.adam(0.1)


# ---- The problem --------------------------------------------------------------------------------------------------


@functools.cache
def load_data():
    """Standardized features and labels 0 or 1; returns X, y, X_val, y_val."""
    X, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(X))
    train, val = order[:NUM_TRAIN], order[NUM_TRAIN:]
    scaler = StandardScaler().fit(X[train])
    return scaler.transform(X[train]), 1.0 * y[train], scaler.transform(X[val]), 1.0 * y[val]


def logistic(w, X, y):
    """Mean logistic loss of the weights w, shape (features,)."""
    return jnp.mean(optax.sigmoid_binary_cross_entropy(X @ w, y))


def penalized(w, theta, X, y):
    """What the inner solver minimizes."""
    return logistic(w, X, y) + 0.5 * jnp.sum(jnp.exp(theta) * w**2)


def batch(key, X, y):
    """Random rows."""
    rows = jax.random.choice(key, len(y), (BATCH_SIZE,), replace=False)
    return X[rows], y[rows]


# ---- A training loop ----------------------------------------------------------------------------------------------


class Training(NamedTuple):
    """All that the next step depends on.

    Attributes:
        theta: logarithms of the penalties, shape (features,).
        opt_state: of Adam.
        solution: the ``OptStep`` of the last inner problem, from which the next one starts.
        key: random key as unsigned integers; a typed key is no array that NumPy could save.
    """

    theta: jax.Array
    opt_state: Any
    solution: OptStep
    key: jax.Array


def inner_solver():
    """Equal solvers share one compiled program, so it may be made anew wherever it is used."""
    return jaxsolve.LBFGS(penalized, tol=1e-6)


def start_training():
    """The training before the first step."""
    X, y, *_ = load_data()
    theta, w = jnp.full(X.shape[1], -2.0), jnp.zeros(X.shape[1])
    solution = OptStep(w, inner_solver().init_state(w, theta, X, y))
    return Training(theta, ADAM.init(theta), solution, jax.random.key_data(jax.random.key(SEED)))


def validation_loss(theta, solution, X, y, X_val, y_val):
    """Loss of the solution, and the solution to start from the next time."""
    solution = inner_solver().run(solution, theta, X, y)
    return logistic(solution.params, X_val, y_val), solution


@jax.jit
def training_step(training, X, y, X_val, y_val):
    """One step of Adam; returns the training and the loss."""
    key, used = jax.random.split(jax.random.wrap_key_data(training.key))
    value_and_grad = jax.value_and_grad(validation_loss, has_aux=True)
    (value, solution), gradient = value_and_grad(training.theta, training.solution, X, y, *batch(used, X_val, y_val))
    updates, opt_state = ADAM.update(gradient, training.opt_state)
    theta = optax.apply_updates(training.theta, updates)
    return Training(theta, opt_state, solution, jax.random.key_data(key)), value


def train(training, num_steps):
    """Steps of training."""
    for _ in range(num_steps):
        training, _ = training_step(training, *load_data())
    return training


# ---- Runs of solvers ----------------------------------------------------------------------------------------------

PENALTY = -8.0  # a weak one, for the runs are to be long


def start_of(solver):
    """Where a run begins: the initial point with its state."""
    X, y, *_ = load_data()
    w = jnp.zeros(X.shape[1])
    return OptStep(w, solver.init_state(w, PENALTY, X, y))


def run_further(solver, step, num_iterations):
    """Go on with ``run``. It counts evaluations anew, which is no part of the result here."""
    X, y, *_ = load_data()
    # An array-valued option is an argument of the compiled program, so that one program serves for all counts.
    params, state = solver(maxiter=jnp.asarray(num_iterations)).run(step, PENALTY, X, y)
    counts = {name: jnp.zeros_like(getattr(state, name)) for name in state._fields if name.startswith("num_")}
    return OptStep(params, state._replace(**counts))


def update_further(solver, step, num_iterations, stochastic):
    """Go on with a loop over ``update``, of which each iteration may see other rows of the data."""
    X, y, *_ = load_data()
    for _ in range(num_iterations):
        key = jax.random.fold_in(jax.random.key(SEED), step.state.iter_num)
        data = batch(key, X, y) if stochastic else (X, y)
        step = solver.update(*step, PENALTY, *data)
    return step


class Task(NamedTuple):
    """Something that can be done in pieces.

    Attributes:
        start: ``start()`` returns a pytree of arrays.
        advance: ``advance(tree, count)`` returns the tree after so many steps.
    """

    start: Callable
    advance: Callable


def make_tasks():
    """The tasks, by name."""

    def runs(solver):
        return Task(lambda: start_of(solver()), functools.partial(run_further, solver))

    def updates(solver, stochastic):
        return Task(lambda: start_of(solver), functools.partial(update_further, solver, stochastic=stochastic))

    lbfgs = functools.partial(jaxsolve.LBFGS, penalized, tol=0.0)
    descent = functools.partial(jaxsolve.GradientDescent, penalized, tol=0.0)
    return {
        "training loop": Task(start_training, train),
        "LBFGS, run": runs(lbfgs),
        "GradientDescent, run": runs(descent),
        "LBFGS, update": updates(lbfgs(), stochastic=False),
        "mini-batches, update": updates(descent(stepsize=0.1, acceleration=False), stochastic=True),
        "LBFGS, params alone": Task(
            lambda: {"params": start_of(lbfgs()).params},
            lambda saved, count: {"params": run_further(lbfgs, saved["params"], count).params},
        ),
    }


# ---- Saving and loading -------------------------------------------------------------------------------------------


def save_numpy(path, tree):
    """The arrays of a pytree, in order; the structure is that of the program which loads them."""
    np.savez(path, *map(np.asarray, jax.tree.leaves(tree)))


def load_numpy(path, like):
    """A pytree with the structure of ``like``; its leaves may be ``jax.ShapeDtypeStruct``."""
    with np.load(path) as file:
        leaves = [jnp.asarray(file[name]) for name in file.files]
    wanted, structure = jax.tree.flatten(like)
    if [(x.shape, x.dtype) for x in leaves] != [(x.shape, x.dtype) for x in wanted]:
        raise ValueError(f"{path} was saved by another program, or by another version of it.")
    return jax.tree.unflatten(structure, leaves)


def save_orbax(path, tree):
    """A folder, which also knows the names of the fields."""
    with ocp.StandardCheckpointer() as checkpointer:  # leaving the block waits until all is written
        checkpointer.save(path, tree)


def load_orbax(path, like):
    """A pytree like ``like``."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path, like)


FORMATS = {"orbax": (save_orbax, load_orbax), "savez": (save_numpy, load_numpy)}


def file_of(folder, task, form, what):
    """The path of a checkpoint, or of a result."""
    name = "".join(c if c.isalnum() else "_" for c in f"{what} {task} {form}")
    return folder / (f"{name}.npz" if "orbax" not in name or what == "result" else name)


# ---- The comparison -----------------------------------------------------------------------------------------------


def resume(folder, num_steps):
    """What the fresh process does: load every checkpoint, do the rest of the steps, and save the results."""
    for name, task in make_tasks().items():
        like = jax.eval_shape(task.start)  # structure, shapes and dtypes; nothing is computed
        for form, (_, load) in FORMATS.items():
            tree = load(file_of(folder, name, form, "checkpoint"), like)
            save_numpy(file_of(folder, name, form, "result"), task.advance(tree, num_steps))


def compare(result, expected):
    """Whether two pytrees have the same bits, and the largest difference of their arrays."""
    pairs = [tuple(map(np.asarray, pair)) for pair in zip(*map(jax.tree.leaves, (result, expected)), strict=True)]
    same = all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)
    return same, max(float(np.max(np.abs(a.astype(float) - b.astype(float)), initial=0)) for a, b in pairs)


def main(num_steps=24, saved_at=10):
    """Print the table; returns whether the resumed results have the same bits, except where the state is lost."""
    start, tasks = time.perf_counter(), make_tasks()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder).resolve()
        expected = {name: task.advance(task.start(), num_steps) for name, task in tasks.items()}
        for name, task in tasks.items():
            middle = task.advance(task.start(), saved_at)
            for form, (save, _) in FORMATS.items():
                save(file_of(folder, name, form, "checkpoint"), middle)
        subprocess.run([sys.executable, __file__, "--resume", str(folder), str(num_steps - saved_at)], check=True)

        print(f"{num_steps} steps, saved after {saved_at}; difference of the resumed from the unbroken result")
        print(f"{'':24}{'orbax':>20}{'numpy.savez':>20}")
        fine = True
        for name, whole in expected.items():
            cells = ""
            for form in FORMATS:
                result = load_numpy(file_of(folder, name, form, "result"), whole)
                same, difference = compare(result, whole)
                cells += f"{'the same bits' if same else f'{difference:.0e}':>20}"
                fine &= same != name.endswith("alone")
            print(f"{name:24}{cells}")
    print(f"resuming with all of the state changes nothing: {'yes' if fine else 'NO'}")
    print(f"{time.perf_counter() - start:.0f} s")
    return fine


if __name__ == "__main__":
    if sys.argv[1:2] == ["--resume"]:
        resume(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        sys.exit(not main())
