"""Draws the figures of the landing page and of the introduction, when they are missing or older than this file."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxsolve

BLUE, ORANGE, GRAY = "#2a6f97", "#d1495b", "#8d99ae"


def objective(x, t):
    """A double well, tilted by t."""
    return (x**2 - 2.0) ** 2 + t * x


def solution(t):
    """Its right minimum."""
    return jaxsolve.LBFGS(objective, tol=1e-5).run(1.3, t).params


def tangent(axis, ts):
    """The solution as a function of t, and the tangent at t = 1."""
    axis.plot(ts, jax.vmap(solution)(ts), color=BLUE, lw=2)
    x, slope = jax.value_and_grad(solution)(1.0)
    near = np.array([-5.0, 2.9])
    axis.plot(near, x + slope * (near - 1), "--", color=ORANGE, lw=2, label=f"slope {slope:.3f}, by jax.grad")
    axis.plot(1.0, x, "o", color=ORANGE)
    axis.set_xlabel("t")
    axis.legend(frameon=False)


def landing(plt):
    """The function with its minima; the minimum as a function of t."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.2), layout="constrained")
    xs = np.linspace(0.6, 1.9, 200)
    for t, color in zip((-4.0, 1.0, 2.5), (GRAY, ORANGE, BLUE), strict=True):
        left.plot(xs, objective(xs, t), color=color, label=f"t = {t:g}")
        left.plot(solution(t), objective(solution(t), t), "o", color=color)
    left.set(xlabel="x", title="fun(x, t)", ylim=(-7, 13))
    left.legend(frameon=False, ncols=3, loc="upper left")
    tangent(right, jnp.linspace(-6.0, 2.95, 60))
    right.set_title("solution(t)")
    return figure


def implicit(plt):
    """The curve on which the derivative of the objective is zero."""
    figure, axis = plt.subplots(figsize=(6, 2.8), layout="constrained")
    xs = np.linspace(1.0, 1.75, 200)
    axis.plot(8 * xs - 4 * xs**3, xs, color=GRAY, lw=1, label="F(x, t) = 0")
    tangent(axis, jnp.linspace(-6.0, 2.95, 60))
    axis.set(ylabel="x", xlim=(-6.5, 3.5))
    return figure


def draw(app):
    """Write the figures as SVG files beside the other static ones."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder = Path(app.srcdir) / "_static" / "made"
    folder.mkdir(exist_ok=True)
    for make in (landing, implicit):
        path = folder / f"{make.__name__}.svg"
        if path.exists() and path.stat().st_mtime > Path(__file__).stat().st_mtime:
            continue
        with plt.rc_context({"axes.spines.top": False, "axes.spines.right": False, "font.size": 10}):
            figure = make(plt)
            figure.savefig(path)
            plt.close(figure)


def setup(app):
    app.connect("builder-inited", draw)
    return {"parallel_read_safe": True}
