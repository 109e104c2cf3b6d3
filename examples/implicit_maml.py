r"""Implicit MAML
=============

Implicit MAML: meta-learn the starting point of a network by differentiating the solution of its training.

A task is a sine curve of random amplitude and phase, of which 10 points are given. Training the network on the points
(x, y) of task t, close to common weights ``meta``, is the inner problem::

    w_t(meta) = argmin_w  1/2 mean (net(w, x) - y)^2  +  lambda/2 ||w - meta||^2.

The outer problem looks for weights ``meta`` from which every task is learned well, measured on other points of its
curve::

    min_meta  mean over t of  1/2 mean (net(w_t(meta), x') - y')^2.

The gradient goes through ``solver.run`` under ``vmap`` over the tasks. By the implicit function theorem

::

    d w_t / d meta = lambda (lambda I + H_t)^{-1},    H_t the Hessian of the loss of task t at w_t.

This is one linear system per task. It needs the solution, but not the iterations that led there. MAML (Finn et al.
2017) takes a few gradient steps from ``meta`` instead, without the penalty, and differentiates them one by one: a
solver with ``implicit_diff=False``. The memory of its gradient grows with the number of steps.

The first table shows the loss on new tasks after training on their 10 points. The inner problem is solved from four
starting points: random weights, weights of one network trained on all tasks at once, MAML and implicit MAML. For each
of them lambda is chosen from a grid by validation tasks. The second table shows the memory and the error of the
gradient against the number of inner steps.

The network is a Haiku model. Its parameters are a nested dictionary, which a solver takes as it is.

Reference: Rajeswaran, Finn, Kakade, Levine (2019), "Meta-Learning with Implicit Gradients".

::

    python examples/implicit_maml.py           200 outer steps of 25 tasks
    python examples/implicit_maml.py --full    2000 outer steps
"""

import argparse
import functools
import sys
import time

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxsolve
from jaxsolve.linear_solve import solve_cg
from jaxsolve.tree_util import tree_l2_norm

jax.config.update("jax_enable_x64", True)

LAMBDA = 0.3
WIDTH = 40

# A gradient for Adam may be rough. A linear solve that fails gives NaN by default; here one task of a batch may stop
# early, at a point where its Hessian is indefinite, and then the best iterate of CG is good enough for a step.
META_CG = functools.partial(solve_cg, tol=1e-3, maxiter=50, on_failure="ignore")


# ---- Tasks --------------------------------------------------------------------------------------------------------


def make_tasks(rng, num_tasks, num_points=10, num_query=20):
    """Sine curves with amplitude in [0.1, 5], phase in [0, pi] and points in [-5, 5].

    Returns (x, y, x_query, y_query), the first two of shape (tasks, points), the others of shape (tasks, query points).
    """
    amplitude = rng.uniform(0.1, 5.0, size=(num_tasks, 1))
    phase = rng.uniform(0.0, np.pi, size=(num_tasks, 1))
    x, x_query = (rng.uniform(-5.0, 5.0, size=(num_tasks, count)) for count in (num_points, num_query))
    y, y_query = (amplitude * np.sin(at - phase) for at in (x, x_query))
    return tuple(map(jnp.asarray, (x, y, x_query, y_query)))


def make_network(width=WIDTH):
    """The network, a pair of functions ``init(key, x)`` and ``apply(w, x)`` for points x of shape (points,)."""

    def forward(x):
        return hk.nets.MLP([width, width, 1], activation=jnp.tanh)(x[:, None] / 2.5)[:, 0]

    return hk.without_apply_rng(hk.transform(forward))


NETWORK = make_network()


# ---- The inner problem --------------------------------------------------------------------------------------------


def task_loss(w, x, y):
    """Half the mean squared error on points of one task."""
    return jnp.mean((NETWORK.apply(w, x) - y) ** 2) / 2


def inner_objective(w, meta, lam, x, y):
    """The loss on the points of a task, and the penalty on the distance to the common weights."""
    distance = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), w, meta)
    return task_loss(w, x, y) + lam / 2 * jax.tree.reduce(jnp.add, distance)


def adapt(meta, lam, x, y, maxiter=100, tol=1e-2, implicit_diff_solve=META_CG):
    """Implicit MAML: solve the inner problem by L-BFGS; returns the weights and the state of the solver."""
    solver = jaxsolve.LBFGS(
        inner_objective,
        linesearch="backtracking",
        maxiter=maxiter,
        tol=tol,
        implicit_diff_solve=implicit_diff_solve,
    )
    return solver.run(meta, meta, lam, x, y)


def adapt_by_steps(meta, x, y, num_steps=10, stepsize=0.02):
    """MAML: a few gradient steps on the loss of one task, which are differentiated one by one."""
    solver = jaxsolve.GradientDescent(
        task_loss, maxiter=num_steps, tol=0.0, stepsize=stepsize, acceleration=False, implicit_diff=False
    )
    return solver.run(meta, x, y)


# ---- The outer problem --------------------------------------------------------------------------------------------


def implicit_loss(meta, tasks, lam=LAMBDA, **options):
    """Mean loss on the query points after ``adapt``, and the states of the inner solver."""
    x, y, x_query, y_query = tasks
    w, state = jax.vmap(lambda x, y: adapt(meta, lam, x, y, **options))(x, y)
    return jnp.mean(jax.vmap(task_loss)(w, x_query, y_query)), state


def unrolled_loss(meta, tasks):
    """Mean loss on the query points after ``adapt_by_steps``."""
    x, y, x_query, y_query = tasks
    w = jax.vmap(lambda x, y: adapt_by_steps(meta, x, y).params)(x, y)
    return jnp.mean(jax.vmap(task_loss)(w, x_query, y_query)), None


def joint_loss(w, tasks):
    """Mean loss of one network for all tasks, on all of their points."""
    x, y, x_query, y_query = tasks
    points, values = jnp.concatenate([x, x_query], axis=1), jnp.concatenate([y, y_query], axis=1)
    return jnp.mean(jax.vmap(task_loss, (None, 0, 0))(w, points, values)), None


def train(loss, meta, num_steps, tasks_per_step=25, learning_rate=1e-2, seed=1):
    """Minimize an outer loss by Adam on new tasks in every step.

    Returns the weights, the losses, and the number of inner problems that ended before they had converged.
    """
    optimizer = optax.chain(
        optax.clip_by_global_norm(10.0), optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))
    )

    @jax.jit
    def step(meta, opt_state, tasks):
        (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(meta, tasks)
        updates, opt_state = optimizer.update(gradient, opt_state)
        unsolved = 0 if state is None else jnp.sum(state.status != jaxsolve.Status.CONVERGED)
        return optax.apply_updates(meta, updates), opt_state, value, unsolved

    rng, opt_state = np.random.default_rng(seed), optimizer.init(meta)
    losses, unsolved = [], 0
    for _ in range(num_steps):
        meta, opt_state, value, failures = step(meta, opt_state, make_tasks(rng, tasks_per_step))
        losses.append(float(value))
        unsolved += int(failures)
    return meta, losses, unsolved


# ---- Part 1: loss after training on a new task --------------------------------------------------------------------


def compare_starts(starts, validation, test, weights=(0.01, 0.03, 0.1, 0.3)):
    """Loss on test tasks after ``adapt`` from each starting point; a dictionary of (lambda, loss, standard error)."""

    @jax.jit
    def losses(meta, lam, tasks):
        x, y, x_query, y_query = tasks
        w, state = jax.vmap(lambda x, y: adapt(meta, lam, x, y, maxiter=200))(x, y)
        return jax.vmap(task_loss)(w, x_query, y_query), state

    found = {}
    for name, meta in starts.items():
        lam = min(weights, key=lambda lam: float(jnp.mean(losses(meta, lam, validation)[0])))
        values, state = losses(meta, lam, test)
        found[name] = (lam, float(jnp.mean(values)), float(jnp.std(values)) / len(values) ** 0.5)
        print(
            f"{name:28}{lam:8.2f}{found[name][1]:10.4f} ± {found[name][2]:.4f}"
            f"{float(jnp.median(values)):10.4f}{float(jnp.mean(state.iter_num)):16.1f}",
            flush=True,
        )
    return found


# ---- Part 2: the gradient against the number of inner steps -------------------------------------------------------


def gradient_by_steps(meta, tasks, maxiter, tol=0.0, **options):
    """The gradient of the outer loss if the inner problem is solved by ``maxiter`` steps of gradient descent."""

    def loss(meta):
        solver = jaxsolve.GradientDescent(
            inner_objective, maxiter=maxiter, tol=tol, stepsize=0.02, acceleration=False, **options
        )
        x, y, x_query, y_query = tasks
        w = jax.vmap(lambda x, y: solver.run(meta, meta, LAMBDA, x, y).params)(x, y)
        return jnp.mean(jax.vmap(task_loss)(w, x_query, y_query))

    return jax.grad(loss)(meta)


def compare_memory(meta, tasks, iterations=(10, 40, 160), exact_steps=3000):
    """Rows of (mode, inner steps, relative error of the gradient, bytes of temporary memory)."""
    # With implicit differentiation the number of steps may be a traced value: one program serves all of them.
    gradient = jax.jit(functools.partial(gradient_by_steps, implicit_diff_solve=META_CG))
    implicit = gradient.lower(meta, tasks, exact_steps, 1e-8).compile()
    exact = implicit(meta, tasks, exact_steps, 1e-8)
    memory = implicit.memory_analysis().temp_size_in_bytes

    def error(gradient):
        difference = tree_l2_norm(jax.tree.map(jnp.subtract, gradient, exact))
        return float(difference / tree_l2_norm(exact))

    rows = [("implicit", steps, error(implicit(meta, tasks, steps, 0.0)), memory) for steps in iterations]
    for mode, unroll in (("unrolled", "auto"), ("unrolled, checkpointed", "checkpoint")):
        for steps in iterations:
            gradient = functools.partial(gradient_by_steps, maxiter=steps, implicit_diff=False, unroll=unroll)
            program = jax.jit(gradient).lower(meta, tasks).compile()
            rows.append((mode, steps, error(program(meta, tasks)), program.memory_analysis().temp_size_in_bytes))
    print(f"{'gradient':24}{'inner steps':>12}{'relative error':>16}{'temporary MB':>14}")
    for mode, steps, difference, size in rows:
        print(f"{mode:24}{steps:12d}{difference:16.1e}{size / 1e6:14.2f}")
    return rows


def main(num_steps=200, num_test=200, seed=0):
    """Train, print both tables; returns whether implicit MAML halves the loss and needs less memory."""
    start = time.perf_counter()
    rng = np.random.default_rng(seed)
    validation, test = make_tasks(rng, 50), make_tasks(rng, num_test)
    starts = {"random weights": NETWORK.init(jax.random.key(seed), jnp.zeros(1))}
    for name, loss in (
        ("one network for all tasks", joint_loss),
        ("MAML, 10 unrolled steps", unrolled_loss),
        ("implicit MAML", implicit_loss),
    ):
        starts[name], losses, unsolved = train(loss, starts["random weights"], num_steps)
        tenth = max(num_steps // 10, 1)
        print(f"{name:28}outer loss {np.mean(losses[:tenth]):.4f} -> {np.mean(losses[-tenth:]):.4f}", flush=True)
    print(f"inner problems of implicit MAML that stopped early: {unsolved} of {25 * num_steps}\n")

    print("Loss on new tasks after training on their 10 points")
    print(f"{'starting point':28}{'lambda':>8}{'mean loss':>19}{'median':>10}{'L-BFGS steps':>16}")
    found = compare_starts(starts, validation, test)

    print("\nThe gradient of the outer loss, at the weights of implicit MAML, for 25 tasks")
    rows = compare_memory(starts["implicit MAML"], jax.tree.map(lambda part: part[:25], validation))
    sizes = {row[:2]: row[3] for row in rows}
    others = min(found[name][1] for name in ("random weights", "one network for all tasks"))
    halved, smaller = found["implicit MAML"][1] < others / 2, sizes["implicit", 160] < sizes["unrolled", 160]
    print(f"implicit MAML more than halves the loss of starts without meta-learning: {'yes' if halved else 'NO'}")
    print(f"its gradient needs less memory than unrolling 160 steps: {'yes' if smaller else 'NO'}")
    print(f"{time.perf_counter() - start:.0f} s")
    return halved and smaller


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="ten times as many outer steps")
    full = parser.parse_args().full
    sys.exit(not (main(num_steps=2000) if full else main()))
