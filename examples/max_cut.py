r"""Maximum cut
===========

The semidefinite relaxation of maximum cut: a bound, a cut that comes near it, and the derivatives of both.

A cut splits the vertices of a graph into two parts; its value is the sum of the weights W_ij of the edges between them.
The best cut is hard to find. Goemans and Williamson (1995) replace the products x_i x_j of signs by a matrix X, and get
a bound

::

    max 1/4 <L, X>   subject to  X_ii = 1, X positive semidefinite     (L the Laplacian of the graph)
      =  min sum(y)  subject to  diag(y) - L / 4 positive semidefinite.

The second program is the smaller one, and is solved here. Its multiplier is X. The signs of X^(1/2) g, with g random,
are a cut whose value is on average at least 0.878 times the bound.

The derivative of the bound with respect to the weight of an edge is (1 - X_ij) / 2, a number from 0 to 1 that says how
far apart the two ends are in the relaxation; automatic differentiation gives the same. The derivative of X says how
this changes with the weights, and is compared with differences. All graphs are solved in one batch. They are small
enough to try every cut.

Reference: Goemans and Williamson (1995), "Improved approximation algorithms for maximum cut and satisfiability problems
using semidefinite programming".
"""

import itertools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

import jaxsolve
from jaxsolve.solvers.conic import smat, svec

jax.config.update("jax_enable_x64", True)
OUTPUT = Path(__file__).parent / "output"


def make_graphs(count, num_vertices=10, seed=0):
    """Points to draw, shape (count, k, 2), and the weights of the edges between all of them, shape (count, k, k)."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(size=(count, num_vertices, 2))
    weights = np.tril(rng.uniform(size=(count, num_vertices, num_vertices)), -1)
    return points, jnp.asarray(weights + weights.transpose(0, 2, 1))


def relaxation(weights):
    """The result of the program for a symmetric matrix of weights, shape (k, k); its ``value`` is the bound."""
    k = len(weights)
    laplacian = jnp.diag(weights.sum(axis=1)) - weights
    # svec(diag(y) - L / 4) are the slacks.
    A = -jax.vmap(lambda row: svec(jnp.diag(row)), out_axes=1)(jnp.eye(k))
    return jaxsolve.solve_conic(None, jnp.ones(k), A, -svec(laplacian) / 4, jaxsolve.Cones(psd=(k,)))


def worth(cuts, weights):
    """The worth of cuts, signs of shape (cuts, k)."""
    return (np.sum(weights) - np.einsum("ci,ij,cj->c", cuts, weights, cuts)) / 4


def best_of_all(weights):
    """The worth of the best cut, by trying all."""
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(weights) - 1)))
    return worth(np.hstack([np.ones((len(signs), 1)), signs]), weights).max()


def round_to_cuts(X, number=500, seed=0):
    """Cuts by random hyperplanes, signs of shape (number, k)."""
    values, vectors = np.linalg.eigh(X)
    factor = vectors * np.sqrt(np.maximum(values, 0))
    return np.where(np.random.default_rng(seed).normal(size=(number, len(X))) @ factor.T >= 0, 1.0, -1.0)


def is_bound(y, weights):
    """Whether the variables prove the bound: no eigenvalue of diag(y) - L / 4 is negative, beyond rounding."""
    laplacian = np.diag(weights.sum(axis=1)) - weights
    return np.linalg.eigvalsh(np.diag(y) - laplacian / 4)[0] > -1e-9 * np.abs(laplacian).max()


def make_directions(weights, seed=0):
    """Random symmetric changes of the weights of the edges that there are, and numbers like X for reverse mode."""
    rng = np.random.default_rng(seed)
    changes = np.tril(rng.normal(size=weights.shape)) * (np.asarray(weights) > 0)
    return jnp.asarray(changes + changes.swapaxes(-1, -2)), jnp.asarray(rng.normal(size=weights.shape))


@jax.jit
@jax.vmap
def relaxation_and_slopes(weights, direction, cotangent):
    """The result, X, the derivatives of bound and X along a direction, and the gradient of <cotangent, X>."""

    def solve(weights):
        result = relaxation(weights)
        return (result.value, smat(result.y)), result

    (_, X), forward, result = jax.linearize(solve, weights, has_aux=True)  # solves once
    (gradient,) = jax.linear_transpose(forward, weights)((jnp.zeros_like(result.value), cotangent))
    return result, X, forward(direction), gradient


def derivative_errors(weights, step=1e-5):
    """Largest errors: of the bound's derivative against its closed form, and of that of X against differences."""
    direction, cotangent = make_directions(weights)
    _, X, (slope, of_X), gradient = relaxation_and_slopes(weights, direction, cotangent)
    ahead, behind = (relaxation_and_slopes(weights + sign * step * direction, direction, cotangent) for sign in (1, -1))
    differences = (ahead[1] - behind[1]) / (2 * step)
    size = jnp.maximum(jnp.max(jnp.abs(differences), axis=(1, 2)), 1)  # 0 where X is a cut itself

    def inner(left, right):
        return jnp.sum(left * right, axis=(1, 2))

    return {
        "bound": float(jnp.max(jnp.abs(slope - inner(direction, 1 - X) / 4))),
        "X, forward": float(jnp.max(jnp.max(jnp.abs(of_X - differences), axis=(1, 2)) / size)),
        "X, reverse": float(jnp.max(jnp.abs(inner(gradient, direction) - inner(cotangent, differences)) / size)),
    }


def plot(points, weights, X, cut, path):
    """Draw a graph, its cut, and how far apart the relaxation puts the ends of each edge."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.5, 4.5), layout="constrained")
    colors, slopes = plt.get_cmap("viridis"), (1 - np.asarray(X)) / 2
    for i, j in zip(*np.nonzero(np.tril(weights)), strict=True):
        axis.plot(*points[[i, j]].T, color=colors(slopes[i, j]), lw=3 * weights[i, j], zorder=1)
    axis.scatter(*points.T, c=np.where(cut > 0, "tab:red", "white"), edgecolors="black", s=120, zorder=2)
    axis.set(xticks=[], yticks=[], title="a cut (red, white) and the derivative of the bound")
    figure.colorbar(plt.cm.ScalarMappable(cmap=colors), ax=axis, label="d bound / d weight")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"figure: {path.parent.name}/{path.name}")


def main(count=16, num_vertices=10, path=OUTPUT / "max_cut.png"):
    """Print bounds, cuts and errors; returns whether bounds hold, cuts are good and derivatives right."""
    points, weights = make_graphs(count, num_vertices)
    results, matrices, _, _ = jax.tree.map(np.asarray, relaxation_and_slopes(weights, *make_directions(weights)))
    good = bool(np.all(results.success))
    print("graph     bound  best cut   rounded   mean of rounding / bound")
    for g in range(count):
        W, cuts = np.asarray(weights[g]), round_to_cuts(matrices[g])
        values, best, bound = worth(cuts, W), best_of_all(W), float(results.value[g])
        good &= bool(is_bound(np.asarray(results.x[g]), W)) and best <= bound + 1e-7
        good &= values.max() >= 0.95 * best and values.mean() >= 0.86 * bound
        if g < 4:
            print(f"{g:5d}{bound:10.4f}{best:10.4f}{values.max():10.4f}{values.mean() / bound:12.3f}")
    errors = derivative_errors(weights)
    print("errors of derivatives: " + ", ".join(f"{name} {error:.0e}" for name, error in errors.items()))
    cuts = round_to_cuts(matrices[0])
    plot(points[0], np.asarray(weights[0]), matrices[0], cuts[worth(cuts, np.asarray(weights[0])).argmax()], path)
    return good and errors["bound"] < 1e-8 and max(errors["X, forward"], errors["X, reverse"]) < 1e-6


if __name__ == "__main__":
    sys.exit(not main())
