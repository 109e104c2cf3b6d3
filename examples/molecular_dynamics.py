r"""A packing of soft spheres
=========================

How does a packing of soft spheres move when the small ones grow?

N particles in a periodic square box, half of diameter 1 and half of diameter theta, repel each other where they
overlap::

    x*(theta) = argmin  f(x, theta) = sum_{i<j} U(r_ij / sigma_ij),      U(s) = (1 - s)^2 / 2 for s < 1, else 0,

with sigma_ij the mean of the two diameters and r_ij the distance of the particles. The minimum is found by FIRE, which
integrates Newton's equations with an adaptive friction. FIRE itself is not differentiated: ``custom_root`` adds the
derivative of the root of the forces, and the sensitivity dx*/dtheta of all particles is one ``jax.jvp``.

Two things make this system instructive.

* All particles may be shifted together, so the Hessian has two zero eigenvalues. The tangent system is singular, but
  consistent: its right-hand side has no component along the shifts. The right answer is the solution of least norm.
  Iterative methods find it; a plain LU factorization divides by rounding errors. The direct method that jaxsolve uses
  for a small system detects the zeros and uses eigenvalues.
* Differentiating through the tens of thousands of steps of FIRE is of little use. On its way to the minimum the
  system is chaotic, and the derivative of the iterates grows to many times that of the solution. It becomes right in
  the end, but long after the energy: with 128 particles its error is still 460 times its size when the energy is right
  to six digits.

Reference: Blondel et al. (2021), "Efficient and Modular Implicit Differentiation", section 4.4; Bitzek et al. (2006),
"Structural relaxation made simple" (FIRE).

Run it with ``python examples/molecular_dynamics.py``; ``--particles 16`` takes seconds.
"""

import argparse
import contextlib
import functools
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

from jaxsolve.implicit_diff import custom_root, root_jvp
from jaxsolve.linear_solve import (
    solve_bicgstab,
    solve_cg,
    solve_gmres,
    solve_lstsq,
    solve_minres,
    solve_normal_cg,
)

jax.config.update("jax_enable_x64", True)

OUTPUT = Path(__file__).parent / "output"
THETA = 0.6
# Linear solvers of the tangent system. None leaves the choice to jaxsolve; solve_lstsq computes singular values.
LINEAR_SOLVERS = {
    "chosen by jaxsolve": None,
    "BiCGSTAB": solve_bicgstab,
    "conjugate gradient": solve_cg,
    "normal equations, CG": solve_normal_cg,
    "GMRES": functools.partial(solve_gmres, restart=100),
    "MINRES": solve_minres,
    "least squares": solve_lstsq,
}


# ---- The system ---------------------------------------------------------------------------------------------------


def box_side(num_particles):
    """The side of the box, for a density of 1.835 particles a unit of area."""
    return (num_particles / 1.835) ** 0.5


def random_positions(num_particles, seed=0):
    """Uniformly distributed positions, shape (N, 2)."""
    key = jax.random.PRNGKey(seed)
    return jax.random.uniform(key, (num_particles, 2), jnp.float64) * box_side(num_particles)


def energy(x, theta):
    """The potential energy of positions x, shape (N, 2); the first half of the particles has diameter 1."""
    num_particles, side = len(x), box_side(len(x))
    diameter = jnp.where(jnp.arange(num_particles) < num_particles // 2, 1.0, theta)
    sigma = (diameter[:, None] + diameter) / 2
    shift = x[:, None] - x
    shift = shift - side * jnp.round(shift / side)  # to the nearest periodic image
    squared = jnp.sum(shift**2, axis=-1)
    overlap = (squared < sigma**2) & ~jnp.eye(num_particles, dtype=bool)
    distance = jnp.sqrt(jnp.where(overlap, squared, 1.0))  # no square root of 0, whose derivative is infinite
    return jnp.sum(jnp.where(overlap, (1 - distance / sigma) ** 2, 0.0)) / 4  # each pair occurs twice


def forces(x, theta):
    """The negative gradient of the energy, shape (N, 2)."""
    return -jax.grad(energy)(x, theta)


class Fire(NamedTuple):
    """State of FIRE: positions, velocities, forces, time step, mixing factor, steps downhill in a row, all steps.

    Time step and mixing factor are kept in half precision, as jax-md does. No more of them is needed, but it matters
    for comparisons: the energy has many minima, and with many particles other roundings lead into another one.
    """

    x: jax.Array
    v: jax.Array
    f: jax.Array
    dt: jax.Array
    alpha: jax.Array
    downhill: jax.Array
    num_steps: jax.Array


def fire_start(x, theta, dt=1e-3, alpha=0.1):
    """The state at rest."""
    start, half = jnp.zeros((), jnp.int32), jnp.float16
    return Fire(x, jnp.zeros_like(x), forces(x, theta), half(dt), half(alpha), start, start)


def fire_step(s, theta, dt_max=5e-3, alpha=0.1):
    """One step of velocity Verlet, after which the velocity is turned towards the force, or set to 0 if uphill."""
    dt, half = s.dt.astype(jnp.float32), jnp.float16
    v = s.v + dt / 2 * s.f
    x = s.x + dt * v
    f = forces(x, theta)
    v = v + dt / 2 * f
    power = jnp.sum(f * v)
    v = v + s.alpha * (f * jnp.linalg.norm(v) / jnp.linalg.norm(f) - v)
    downhill = jnp.where(power >= 0, s.downhill + 1, 0)
    faster = (power > 0) & (downhill > 5)
    longer = jnp.minimum(half(1.1) * s.dt, half(dt_max))
    dt = jnp.where(faster, longer, jnp.where(power < 0, s.dt / 2, s.dt))
    alpha = jnp.where(faster, half(0.99) * s.alpha, jnp.where(power < 0, half(alpha), s.alpha))
    return Fire(x, jnp.where(power < 0, 0.0, v), f, dt, alpha, downhill, s.num_steps + 1)


def fire(s, theta, tol, max_steps):
    """Take steps from a state until the largest force is at most ``tol`` or ``max_steps`` are done in all."""

    def proceed(s):
        return (jnp.max(jnp.abs(s.f)) > tol) & (s.num_steps < max_steps)

    return jax.lax.while_loop(proceed, lambda s: fire_step(s, theta), s)


# ---- The sensitivity ----------------------------------------------------------------------------------------------


def relaxed(theta, x0, tol=1e-12, max_steps=1_000_000, solve=None):
    """Positions of least energy, differentiable in theta, and the number of steps to them."""

    # The Jacobian of a gradient is symmetric, and at a minimum positive semidefinite.
    @custom_root(jax.grad(energy), has_aux=True, solve=solve, structure="psd")
    def minimize(x0, theta):
        found = fire(fire_start(x0, theta), theta, tol, max_steps)
        return found.x, found.num_steps

    return minimize(x0, theta)


@jax.jit
def sensitivity(theta, x0):
    """Relaxed positions, their derivative in theta, both of shape (N, 2), and the number of steps: one ``jax.jvp``."""
    positions, tangent, num_steps = jax.jvp(lambda theta: relaxed(theta, x0), (theta,), (1.0,), has_aux=True)
    return positions, tangent, num_steps


def tangent_by(x, theta, solve):
    """The derivative of relaxed positions x, by a linear solver; FIRE is not run again."""
    return root_jvp(jax.grad(energy), x, (theta,), (1.0,), solve=solve, structure="psd")


def unrolled(theta, x0, steps, tol=1e-12):
    """Derivatives of the iterates of FIRE: yields a state and the derivative of its positions after each of ``steps``.

    In forward mode nothing has to be kept for the way back, so that the memory does not grow with the steps.
    """
    advance = jax.jit(fire)
    state, tangent = jax.jvp(lambda theta: fire_start(x0, theta), (theta,), (1.0,))
    for count in steps:
        on = functools.partial(advance, tol=tol, max_steps=count)
        state, tangent = jax.jvp(lambda s, theta, on=on: on(s, theta), (state, theta), (tangent, 1.0))
        yield state, tangent.x
        if state.num_steps < count:
            return


def size(tangent):
    """The sum of absolute values of a derivative, which the reports are about."""
    return float(jnp.sum(jnp.abs(tangent)))


# ---- The report ---------------------------------------------------------------------------------------------------

# Measured with other libraries: number of particles -> energy of the minimum, sum of absolute values of dx*/dtheta.
KNOWN = {16: (0.08899216, 20.7461816), 128: (0.55098563, 278.5407)}


def report_known(lowest, tangent):
    """Compare with what other libraries measured; returns whether it agrees, ``True`` where nothing was measured."""
    if len(tangent) not in KNOWN:
        return True
    energy_known, known = KNOWN[len(tangent)]
    error = abs(size(tangent) - known) / known
    print(f"  sum |dx*/dtheta| = {size(tangent):.7f}, measured with other libraries {known}: difference {error:.0e}")
    return abs(lowest - energy_known) < 1e-7 and error <= 1e-6


def report_solvers(x, theta, tangent):
    """Print what each linear solver finds; returns the largest relative difference from the tangent given."""
    hessian = np.asarray(jax.hessian(energy)(x, theta)).reshape(x.size, x.size)
    slope = np.asarray(jax.jacfwd(jax.grad(energy), 1)(x, theta)).ravel()
    eigenvalues = np.linalg.eigvalsh(hessian)
    zeros = int(np.sum(np.abs(eigenvalues) < 1e-10 * eigenvalues[-1]))
    print(f"Hessian: {zeros} zero eigenvalues, the next {eigenvalues[zeros]:.4f}, the largest {eigenvalues[-1]:.2f}")
    print(f"{'linear solver':24}{'sum |dx*/dtheta|':>20}{'difference':>13}{'residual':>11}")
    found = {name: tangent_by(x, theta, solve) for name, solve in LINEAR_SOLVERS.items()}
    with contextlib.suppress(np.linalg.LinAlgError):  # exactly singular if a particle touches no other
        found["(plain LU, by NumPy)"] = np.linalg.solve(hessian, -slope).reshape(x.shape)
    differences = {}
    for name, other in found.items():
        residual = np.linalg.norm(hessian @ np.ravel(other) + slope) / np.linalg.norm(slope)
        differences[name] = size(other - tangent) / size(tangent)
        print(f"{name:24}{size(other):20.7f}{differences[name]:13.1e}{residual:11.1e}")
    return max(differences[name] for name in LINEAR_SOLVERS), zeros


def report_differences(x, theta, tangent, step=1e-6):
    """Relax anew from the solution with other diameters; returns the relative difference from the tangent."""
    relax = jax.jit(lambda theta: relaxed(theta, x)[0])
    slope = (relax(theta + step) - relax(theta - step)) / (2 * step)
    difference = size(slope - tangent) / size(tangent)
    print(f"{'(differences of FIRE)':24}{size(slope):20.7f}{difference:13.1e}")
    return difference


def report_unrolled(x, theta, x0, tangent, steps):
    """Print how the derivative of the iterates comes near to that of the solution; returns rows of numbers."""
    print("\nthe derivative of the iterates of FIRE (unrolled, forward mode)")
    print(f"{'steps':>8}{'largest force':>16}{'energy - minimum':>19}{'sum |dx_k/dtheta|':>20}{'relative error':>17}")
    rows = []
    for state, derivative in unrolled(theta, x0, steps):
        force, excess = jnp.max(jnp.abs(state.f)), energy(state.x, theta) - energy(x, theta)
        rows.append((int(state.num_steps), float(force), float(excess), size(derivative)))
        rows[-1] += (size(derivative - tangent) / size(tangent),)
        print("{:8d}{:16.1e}{:19.1e}{:20.4f}{:17.1e}".format(*rows[-1]), flush=True)
    return rows


def plot(x, tangent, theta, path):
    """Draw the particles and, as arrows, how they move with theta."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    side, small = box_side(len(x)), np.arange(len(x)) >= len(x) // 2
    centers = np.asarray(x) % side
    figure, axis = plt.subplots(figsize=(6, 6), layout="constrained")
    for center, is_small in zip(centers, small, strict=True):
        color, radius = ("tab:orange", theta / 2) if is_small else ("tab:blue", 0.5)
        axis.add_patch(plt.Circle(center, radius, color=color, alpha=0.35, linewidth=0))
    longest = float(jnp.max(jnp.linalg.norm(tangent, axis=1)))
    axis.quiver(*centers.T, *np.asarray(tangent).T, angles="xy", scale_units="xy", scale=longest, width=0.004)
    axis.set(xlim=(0, side), ylim=(0, side), aspect="equal", xticks=[], yticks=[])
    axis.set_title(f"motion of the particles as the small ones grow (longest arrow: {longest:.1f})")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"\nfigure: {path.parent.name}/{path.name}")


def main(num_particles=128, seed=0, steps=(100, 1000, 3000, 10_000, 30_000, 1_000_000)):
    """Relax the system, print its sensitivity by each linear solver, then unroll; returns whether the claims hold."""
    begun = time.perf_counter()
    x0 = random_positions(num_particles, seed)
    x, tangent, num_steps = sensitivity(THETA, x0)
    lowest = float(energy(x, THETA))
    print(f"{num_particles} particles: {num_steps} steps of FIRE, energy {lowest:.8f}")
    known = report_known(lowest, tangent)
    difference, zeros = report_solvers(x, THETA, tangent)
    slope = report_differences(x, THETA, tangent)
    rows = report_unrolled(x, THETA, x0, tangent, steps)
    plot(x, tangent, THETA, OUTPUT / "molecular_dynamics.png")
    worst = max(row[-1] for row in rows)
    agree = difference <= 1e-8 and slope <= 1e-3 and known
    # Particles that touch no other have two zero modes each of their own.
    print(f"singular: {'yes' if zeros >= 2 else 'NO'}; all linear solvers agree: {'yes' if agree else 'NO'}")
    print(f"unrolled, the derivative was wrong by up to {worst:.0f} times its size: {'yes' if worst > 1 else 'NO'}")
    print(f"{time.perf_counter() - begun:.0f} s")
    return zeros >= 2 and agree and worst > 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--particles", type=int, default=128)
    sys.exit(not main(parser.parse_args().particles))
