r"""Differentiable model-predictive control
=======================================

Differentiable model-predictive control: learn the cost of a controller from the motions of an expert.

Two carts are connected by a spring and a damper; a bounded force u acts on the first. The state x holds the positions
and velocities of both, and with a time step of 0.25 the motion is x_{t+1} = A x_t + B u_t + w_t, where w_t is a
disturbance that is not known in advance. At every time a model-predictive controller plans H forces,

::

    min   sum_{k=1..H} x_k' diag(q) x_k + sum_{k=0..H-1} u_k^2   subject to   |u_k| <= 1,   x_0 = the current state,

and applies the first of them. Written in the forces alone this is a quadratic program over a box, with the matrix
P(q) in common for all states, and the gradient c(q, x_0).

An expert controls the carts with weights q* that are not known. The learner sees how the expert moves, and fits its own
weights by the gradient of the squared difference of the forces, through the whole closed loop: ``jax.grad`` of a
``jax.lax.scan`` over time of a ``jax.vmap`` over initial states of a quadratic program. Nothing but the weights is
learned, so the learned q can be compared with q*. The outer solver is ``jaxsolve.LBFGS``.

Each program starts from the plan of the previous time, shifted by one step (``warm``). The gradient does not depend on
where a solver starts, so warm starts do not affect the backward pass. A table counts the iterations that they save.
Operator splitting (``BoxOSQP``) first tries the active set of a given point, and at this size it needs no iteration.
The learner uses coordinate descent (``BoxCDQP``), which compiles faster; it converges linearly to a tight tolerance,
and a better initial point saves only few sweeps.

Reference: Amos, Rodriguez, Sacks, Boots and Kolter (2018), "Differentiable MPC for End-to-end Planning and Control".

::

    python examples/model_predictive_control.py           16 initial states, 20 times, 10 forces a plan
    python examples/model_predictive_control.py --full    64 initial states, 50 times, 25 forces a plan
"""

import argparse
import functools
import itertools
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import scipy.linalg

import jaxsolve

jax.config.update("jax_enable_x64", True)

OUTPUT = Path(__file__).parent / "output"
STATES = ("position 1", "position 2", "velocity 1", "velocity 2")
EXPERT = np.array([0.5, 4.0, 0.2, 1.0])  # the weights q* that the learner has to find
LARGEST_FORCE, TIME_STEP = 1.0, 0.25
TOL = 1e-10  # tight, for the gradients are as accurate as the plans


class Start(NamedTuple):
    """Where a solver starts.

    Attributes:
        forces: a plan, shape (H,).
        multipliers: of its bounds, shape (H,); for operator splitting.
        penalty: of operator splitting, a scalar.
    """

    forces: jax.Array
    multipliers: jax.Array
    penalty: jax.Array


class ClosedLoop(NamedTuple):
    """What happened in a closed loop, time first.

    Attributes:
        states: before each force, shape (times, batch, 4).
        forces: as applied, shape (times, batch).
        iterations: of each quadratic program, shape (times, batch).
        status: of each quadratic program, a :class:`jaxsolve.Status`, shape (times, batch).
    """

    states: jax.Array
    forces: jax.Array
    iterations: jax.Array
    status: jax.Array


# ---- The system ---------------------------------------------------------------------------------------------------


def carts(stiffness=1.0, damping=0.1):
    """The matrices A (4 x 4) and B (4) of two carts of mass 1, for a force that is constant over each time step."""
    spring = np.array([[-1.0, 1.0], [1.0, -1.0]])
    continuous = np.zeros((5, 5))
    continuous[:2, 2:4] = np.eye(2)
    continuous[2:4, :2], continuous[2:4, 2:4] = stiffness * spring, damping * spring
    continuous[2, 4] = 1.0
    discrete = scipy.linalg.expm(TIME_STEP * continuous)
    return discrete[:4, :4], discrete[:4, 4]


def make_scenarios(num_states, num_times, seed=0):
    """Initial states of shape (num_states, 4) and disturbances of shape (num_times, num_states, 4)."""
    rng = np.random.default_rng(seed)
    initial = rng.uniform(-2.0, 2.0, size=(num_states, 4)) * np.array([1.0, 1.0, 0.5, 0.5])
    return jnp.asarray(initial), jnp.asarray(0.02 * rng.normal(size=(num_times, num_states, 4)))


# ---- The controller -----------------------------------------------------------------------------------------------


def predictions(horizon):
    """Matrices F (H x 4 x 4) and G (H x 4 x H): the planned states are x_k = F_k x_0 + G_k u for k = 1..H."""
    A, B = carts()
    F, G = [np.eye(4)], [np.zeros((4, horizon))]
    for k in range(horizon):
        F.append(A @ F[k])
        G.append(A @ G[k])
        G[-1][:, k] = B
    return np.stack(F[1:]), np.stack(G[1:])


def planning_program(weights, horizon):
    """The Hessian P (H x H) of the quadratic program, and the matrix C (H x 4) of its linear term c = C x_0."""
    F, G = predictions(horizon)
    P = 2 * jnp.einsum("kij,i,kil->jl", G, weights, G) + 2 * jnp.eye(horizon)
    return P, 2 * jnp.einsum("kij,i,kil->jl", G, weights, F)


def later(plan):
    """What was planned as it stands one time later: every entry moves up, the last one is repeated."""
    return jnp.append(plan[1:], plan[-1])


def plan_by_coordinates(P, c, start):
    """Plan by coordinate descent; returns the forces, where to start one time later, and the state of the solver."""
    solver = jaxsolve.BoxCDQP(tol=TOL, maxiter=5000)
    forces, state = solver.run(start.forces, (P, c), (-LARGEST_FORCE, LARGEST_FORCE))
    return forces, start._replace(forces=later(forces)), state


def plan_by_splitting(P, c, start):
    """The same by operator splitting, which also starts from multipliers, and from the penalty that served before."""
    solver = jaxsolve.BoxOSQP(tol=TOL, rho_start=start.penalty, termination_check_frequency=1)
    init = jaxsolve.KKTSolution((start.forces, start.forces), start.multipliers, None)
    params, state = solver.run(init, (P, c), jnp.eye(c.size), (-LARGEST_FORCE, LARGEST_FORCE))
    return params.primal[0], Start(later(params.primal[0]), later(params.dual_eq), state.rho_bar), state


def closed_loop(weights, initial, disturbances, horizon=10, plan=plan_by_coordinates, warm=True):
    """Control a batch of carts; differentiable in ``weights``, ``initial`` and ``disturbances``."""
    A, B = carts()
    P, C = planning_program(weights, horizon)

    def advance(carry, disturbance):
        x, start = carry
        forces, next_start, state = jax.vmap(lambda x, start: plan(P, C @ x, start))(x, start)
        record = ClosedLoop(x, forces[:, 0], state.iter_num, state.status)
        x = x @ A.T + forces[:, :1] * B + disturbance
        return (x, next_start if warm else start), record

    nothing = jnp.zeros((len(initial), horizon))
    cold = Start(nothing, nothing, jnp.full(len(initial), 0.1))
    return jax.lax.scan(advance, (initial, cold), disturbances)[1]


# ---- Learning from the expert -------------------------------------------------------------------------------------


def imitation_loss(log_weights, expert_forces, initial, disturbances, horizon=10):
    """Mean squared difference between the forces of the controller and of the expert, each in its own closed loop."""
    run = closed_loop(jnp.exp(log_weights), initial, disturbances, horizon)
    return jnp.mean((run.forces - expert_forces) ** 2), run


def learn(expert_forces, initial, disturbances, horizon, maxiter=60):
    """Fit the logarithms of the weights, from weights 1; returns the weights, the losses, and the state at the end."""
    losses = []

    def report(log_weights, state):
        losses.append(float(state.value))
        print(f"{int(state.iter_num):9d}{losses[-1]:12.2e}" + columns(np.exp(log_weights)), flush=True)

    report.from_start = True
    loss = functools.partial(imitation_loss, horizon=horizon)
    solver = jaxsolve.LBFGS(loss, has_aux=True, tol=1e-6, maxiter=maxiter, callback=report)
    print(f"{'iteration':>9}{'loss':>12}" + "".join(f"{name:>12}" for name in STATES))
    log_weights, state = solver.run(jnp.zeros(len(STATES)), expert_forces, initial, disturbances)
    print(f"{'expert':>21}" + columns(EXPERT))
    return np.exp(log_weights), losses, state


def columns(weights):
    """The weights as columns of a table."""
    return "".join(f"{weight:12.4f}" for weight in weights)


# ---- Warm starts --------------------------------------------------------------------------------------------------


def count_iterations(weights, initial, disturbances, horizon):
    """Print the iterations of each solver; returns its closed loops (without warm starts, with warm starts)."""
    print(f"\n{'iterations a quadratic program':32}{'cold, mean':>12}{'largest':>9}{'warm, mean':>12}{'largest':>9}")
    counts = {}
    for name, plan in {"BoxOSQP": plan_by_splitting, "BoxCDQP": plan_by_coordinates}.items():
        control = jax.jit(functools.partial(closed_loop, horizon=horizon, plan=plan), static_argnames="warm")
        counts[name] = [control(weights, initial, disturbances, warm=warm) for warm in (False, True)]
        columns = (f"{run.iterations.mean():12.1f}{run.iterations.max():9d}" for run in counts[name])
        print(f"{name:32}" + "".join(columns))
    return counts


def plot(runs, losses, path):
    """Draw the motion on which the expert is most often at a bound, as each of ``runs`` has it, and the loss.

    Args:
        runs: a dictionary from "expert", "before learning" and "learned" to closed loops.
        losses: of the iterations.
        path: of the picture.
    """
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    styles = {"expert": ("black", 4, 0.35), "learned": ("tab:blue", 1.5, 1.0), "before learning": ("tab:red", 1.5, 0.8)}
    shown = int(np.argmax(np.mean(np.abs(runs["expert"].forces), axis=0)))
    for name, run in runs.items():
        color, width, alpha = styles[name]
        times = TIME_STEP * np.arange(len(run.forces))
        axes[0].plot(times, run.states[:, shown, 1], color=color, lw=width, alpha=alpha, label=name)
        axes[1].step(times, run.forces[:, shown], where="post", color=color, lw=width, alpha=alpha)
    for bound in (-LARGEST_FORCE, LARGEST_FORCE):
        axes[1].axhline(bound, color="gray", lw=0.8, ls=":")
    axes[0].set(xlabel="time", title="position of the second cart")
    axes[0].legend()
    axes[1].set(xlabel="time", title="force, and its bounds")
    axes[2].semilogy(losses)
    axes[2].set(xlabel="iteration of L-BFGS", title="imitation loss")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"figure: {path.parent.name}/{path.name}")


def main(batch=16, num_times=20, horizon=10, path=OUTPUT / "model_predictive_control.png"):
    """Learn, compare with the expert, count iterations; returns whether what the docstring says holds."""
    start = time.perf_counter()
    train = make_scenarios(batch, num_times, seed=0)
    unseen = make_scenarios(batch, num_times, seed=1)
    control = jax.jit(lambda weights, scenarios: closed_loop(weights, *scenarios, horizon))
    expert = jnp.asarray(EXPERT)
    shown = control(expert, train)
    active = float(jnp.mean(jnp.abs(shown.forces) > LARGEST_FORCE - 1e-6))
    print(f"{batch} motions of an expert, {num_times} times, {horizon} forces a plan")
    print(f"{active:.0%} of its forces are at a bound\n")

    weights, losses, state = learn(shown.forces, *train, horizon)
    jaxsolve.check(state)  # raises if the weights were not found
    runs = {"expert": expert, "before learning": jnp.ones(len(STATES)), "learned": jnp.asarray(weights)}
    runs = {name: control(weights, unseen) for name, weights in runs.items()}
    before, after = (
        float(jnp.sqrt(jnp.mean((runs[name].forces - runs["expert"].forces) ** 2)))
        for name in ("before learning", "learned")
    )
    print("\nroot mean square difference from the forces of the expert, from initial states not seen before:")
    print(f"before learning {before:.1e}, after {after:.1e}")

    counts = count_iterations(expert, *train, horizon)
    loops = [state.aux, *runs.values(), *itertools.chain(*counts.values())]
    converged = all(bool(jnp.all(run.status == jaxsolve.Status.CONVERGED)) for run in loops)
    print(f"\nall quadratic programs converged: {'yes' if converged else 'NO'}")
    plot(runs, losses, path)
    print(f"{time.perf_counter() - start:.0f} s")
    found = np.allclose(weights, EXPERT, rtol=0.05)
    saved = all(warm.iterations.mean() <= cold.iterations.mean() for cold, warm in counts.values())
    return converged and found and saved and after < 0.01 * before


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="more initial states, longer motions and plans")
    sizes = {"batch": 64, "num_times": 50, "horizon": 25} if parser.parse_args().full else {}
    sys.exit(not main(**sizes))
