r"""A trajectory around obstacles
=============================

A trajectory around obstacles, and what it says about the model behind it.

A vehicle in the plane with position p, velocity v and thrust u loses speed by drag. It starts and ends at rest, uses as
little thrust as possible, and stays out of round obstacles:

::

    minimize  dt sum_t |u_t|^2
    subject to  p_{t+1} = p_t + dt v_t,  v_{t+1} = v_t + dt (u_t - drag |v_t| v_t),
                |p_t - c_k| >= r_k,  |u_t| <= most,  and both ends.

All states are variables (multiple shooting), so that the equations of motion are equality constraints, and nothing is
integrated over the whole time. The derivative of the solution says how the best trajectory moves with the drag and with
the obstacles; the derivative of the cost is the price of each. Finally the model is estimated from an observed
trajectory: Levenberg-Marquardt finds the drag and the radius of an obstacle for which this trajectory is the best one.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

import jaxsolve

jax.config.update("jax_enable_x64", True)
OUTPUT = Path(__file__).parent / "output"
START, GOAL = np.array([0.0, 0.0]), np.array([4.0, 1.0])
CENTERS = np.array([[1.4, 0.1], [2.8, 1.3]])
DURATION, MOST = 4.0, 3.0
# The model: the drag, and the radii of the obstacles.
MODEL = np.array([0.3, 0.6, 0.5])


def cost(path, model):
    """What the thrust costs."""
    return jnp.sum(path["u"] ** 2) * DURATION / len(path["u"])


def motion(path, model):
    """How far the states are from the equations of motion, and from rest at both ends."""
    p, v, u = path["p"], path["v"], path["u"]
    dt = DURATION / len(u)
    speed = jnp.sqrt(jnp.sum(v[:-1] ** 2, axis=1, keepdims=True) + 1e-6)  # smooth at rest
    return {
        "p": p[1:] - p[:-1] - dt * v[:-1],
        "v": v[1:] - v[:-1] - dt * (u - model[0] * speed * v[:-1]),
        "ends": jnp.stack([p[0] - START, p[-1] - GOAL, v[0], v[-1]]),
    }


def limits(path, model):
    """Positive inside of an obstacle, or where there is too much thrust."""
    distance = jnp.sum((path["p"][1:-1, None] - CENTERS) ** 2, axis=-1)
    return {"obstacles": model[1:] ** 2 - distance, "thrust": jnp.sum(path["u"] ** 2, axis=1) - MOST**2}


SOLVER = jaxsolve.InteriorPointNLP(cost, motion, limits)


def first_guess(num):
    """A straight line with a bend that says on which side of the obstacles to pass."""
    t = np.linspace(0, 1, num + 1)[:, None]
    bend = np.sin(2 * np.pi * t) * np.array([[-0.25, 0.8]])
    p = START + t * (GOAL - START) + bend
    v = np.gradient(p, DURATION / num, axis=0)
    return {"p": jnp.asarray(p), "v": jnp.asarray(v), "u": jnp.zeros((num, 2))}


def best(model, num):
    """The best trajectory and the state of the run."""
    params, state = SOLVER.run(first_guess(num), model)
    return params.primal, state


def identified(seen, model, num):
    """The model whose best trajectory comes nearest to positions that were seen, and how the search for it ended."""

    def residual(model, seen):
        return (best(model, num)[0]["p"] - seen).ravel()

    return jaxsolve.LevenbergMarquardt(residual, tol=1e-10, materialize_jac=True).run(model, seen)


def plot(paths, model, move, path):
    """Draw obstacles, trajectories for several drags, and where the derivative says that the middle one goes."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for center, radius in zip(CENTERS, model[1:], strict=True):
        axes.add_patch(plt.Circle(center, radius, color="0.8"))
    for drag, p in paths:
        axes.plot(*p.T, ".-", label=f"drag {drag:.2f}", linewidth=1)
    middle = paths[len(paths) // 2][1]
    axes.quiver(*middle.T, *move.T, angles="xy", width=3e-3, color="C3", label="derivative")
    axes.set(aspect="equal", title="least thrust around two obstacles, and its derivative with respect to the drag")
    axes.legend()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"figure: {path.parent.name}/{path.name}")


def main(num=24, path=OUTPUT / "obstacle_trajectory.png"):
    """Solve, differentiate, identify; returns the trajectory, its state, two errors, and the model that was found."""
    model = jnp.asarray(MODEL)

    def solved(model):
        params, state = best(model, num)
        return (params["p"], state.value), (params, state)

    everything = jax.jit(jax.jacfwd(solved, has_aux=True))
    (moves, price), (found, state) = everything(model)
    touched = np.min(np.linalg.norm(found["p"][1:-1, None] - CENTERS, axis=-1) - MODEL[1:], axis=0)
    print(f"{jaxsolve.Status(int(state.status)).name} in {int(state.iter_num)} steps, cost {float(state.value):.4f}")
    print("distances from the obstacles:", " ".join(f"{abs(distance):.2e}" for distance in touched))
    print(f"price of drag {price[0]:.3f}, of the radii {price[1]:.3f} and {price[2]:.3f}")

    step = 1e-5 * jnp.array([1.0, -1.0, 1.0])
    ahead, behind = (everything(model + sign * step)[1] for sign in (1, -1))
    errors = [
        float(jnp.max(jnp.abs((ahead[0]["p"] - behind[0]["p"]) / 2 - moves @ step)) / jnp.max(jnp.abs(moves @ step))),
        float(abs((ahead[1].value - behind[1].value) / 2 - price @ step) / abs(price @ step)),
    ]
    print(f"against differences: trajectory {errors[0]:.0e}, cost {errors[1]:.0e}")

    guess, search = identified(found["p"], jnp.array([0.2, 0.55, 0.45]), num)
    print(search)
    print("identified: drag and radii", " ".join(f"{value:.6f}" for value in guess), "of", *MODEL)
    drags = [(drag, np.asarray(everything(model.at[0].set(drag))[1][0]["p"])) for drag in (0.0, MODEL[0], 0.6)]
    plot(drags, MODEL, 0.3 * np.asarray(moves[..., 0]), path)
    return found, state, errors, np.asarray(guess)


if __name__ == "__main__":
    _, _, errors, guess = main()
    sys.exit(bool(max(errors) > 1e-5 or np.max(np.abs(guess - MODEL)) > 1e-6))
