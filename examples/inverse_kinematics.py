"""Inverse kinematics
==================

Inverse kinematics of a robot arm with joint limits, for a batch of targets.

An arm in the plane has four joints with angles q. Its hand is at p(q). The problem is to find the angles that bring the
hand to a target and are nearest to a posture of rest,

::

    minimize  ||q - rest||^2    subject to    p(q) = target,   -limit <= q <= limit.

All targets are solved in one batch. A target out of reach ends with a status that says so, and does not affect the
others. The derivative of the angles with respect to the target gives the velocities of the joints that move the hand at
a given velocity; joints at a limit stay there. With it the script predicts the angles a moment later.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import jaxsolve

jax.config.update("jax_enable_x64", True)
LENGTHS = np.array([1.0, 0.8, 0.6, 0.3])
LIMIT = 1.2
REST = np.array([0.6, 0.4, 0.2, 0.0])


def hand(q):
    """Where the hand is, shape (2,)."""
    angles = jnp.cumsum(q)
    return jnp.stack([jnp.sum(LENGTHS * jnp.cos(angles)), jnp.sum(LENGTHS * jnp.sin(angles))])


SOLVER = jaxsolve.InteriorPointNLP(lambda q, target: jnp.sum((q - REST) ** 2), lambda q, target: hand(q) - target)


def reach(target):
    """The angles, shape (4,), and how the run ended."""
    params, state = SOLVER.run(jnp.asarray(REST), target, bounds=(-LIMIT, LIMIT))
    return params.primal, state


def main(num=64, seed=0):
    """Solve a batch; returns angles, states, which targets are in reach, and the error of the predicted angles."""
    rng = np.random.default_rng(seed)
    # Postures within the limits make targets in reach; the last target is not.
    postures = rng.uniform(-0.9 * LIMIT, 0.9 * LIMIT, (num - 1, 4)) * 0.7 + 0.3 * REST
    targets = jnp.concatenate([jax.vmap(hand)(jnp.asarray(postures)), jnp.array([[3.0, 1.0]])])
    angles, states = jax.jit(jax.vmap(reach))(targets)
    reached = states.status == jaxsolve.Status.CONVERGED
    at_limit = jnp.sum(jnp.any(jnp.abs(angles) >= LIMIT - 1e-9, axis=1) & reached)
    print(f"{num} targets: {int(jnp.sum(reached))} reached, {int(at_limit)} of them with a joint at its limit")
    print(f"out of reach: {jaxsolve.Status(int(states.status[-1])).name}")

    # A moment later every target has moved a little.
    step = 1e-4 * jnp.array([0.6, 0.8])
    move = jax.jit(jax.vmap(lambda target: jax.jvp(lambda t: reach(t)[0], (target,), (step,))[1]))(targets)
    later, _ = jax.jit(jax.vmap(reach))(targets + step)
    errors = jnp.max(jnp.abs(later - angles - move), axis=1)
    error = float(jnp.median(errors[reached]) / jnp.median(jnp.max(jnp.abs(move), axis=1)))
    print(f"joints predicted to {error:.1e} of their movement")
    return angles, states, reached, error


if __name__ == "__main__":
    *_, reached, error = main()
    sys.exit(int(jnp.sum(reached)) < 60 or error > 1e-2)
