r"""Derivatives for SCS and Clarabel
================================

Derivatives of SCS and Clarabel through the residual map of a conic program, and what their accuracy costs.

A conic program with four kinds of cones, min c'x subject to A x + s = b with s in K, is given to two solvers that do
not compute derivatives: SCS in C and Clarabel in Rust. A solution is a root of the residual map of the homogeneous
self-dual embedding, which needs only the projection onto the dual cones, ``Cones.project_dual``. So
``custom_root`` with ``jaxsolve.implicit_diff.optimality.conic_residual`` differentiates both. They are called under
``jax.jit`` by ``jax.pure_callback``.

Near a solution the error of such a derivative is proportional to the error of the solution (theorem 1 of Blondel et
al.), and the table shows both. At a tolerance of 1e-3 the derivative is completely wrong: roots form rays, along which
the Jacobian is singular, but far from a root it is not singular enough for this to be noticed. ``ConicInteriorPoint``
ends with Newton steps on the same residual map, so its solutions, and its derivatives, are right to rounding.

Reference: Busseti, Moursi and Boyd (2019), "Solution refinement at regular points of conic problems"; Agrawal et al.
(2019), "Differentiating through a cone program"; Blondel et al. (2021), "Efficient and modular implicit
differentiation", table 1.
"""

import sys
from pathlib import Path

import clarabel
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import scipy.sparse
import scs

import jaxsolve
from jaxsolve.implicit_diff import custom_root, optimality

jax.config.update("jax_enable_x64", True)
OUTPUT = Path(__file__).parent / "output"
CONES = jaxsolve.Cones(zero=1, nonneg=3, soc=(3,), exp=1)
NUM_VARIABLES = 5


def make_program(seed=0):
    """A, b, c with a known solution x, and directions in which A, b and c move: ``((A, b, c), x, directions)``."""
    rng = np.random.default_rng(seed)
    m = CONES.num_rows
    v, A, x = rng.normal(size=m), rng.normal(size=(m, NUM_VARIABLES)), rng.normal(size=NUM_VARIABLES)
    y = np.asarray(CONES.project_dual(v))
    # v = y - s splits into the two parts that a solution has; b and c are what makes (x, y, s) one.
    directions = tuple(rng.normal(size=part) for part in ((m, NUM_VARIABLES), (m,), (NUM_VARIABLES,)))
    return (A, A @ x + y - v, -A.T @ y), x, directions


DATA, SOLUTION, DIRECTIONS = make_program()


def data_at(theta):
    """The program at theta, shape (3,): A, b and c each moved along its direction."""
    return tuple(part + theta[k] * DIRECTIONS[k] for k, part in enumerate(DATA))


def by_scs(theta, eps):
    """A root of the residual map by SCS: (x, y - s, 1)."""
    A, b, c = data_at(np.asarray(theta))
    options = {"eps_abs": eps, "eps_rel": eps, "eps_infeas": 1e-14, "max_iters": 200_000, "verbose": False}
    found = scs.SCS({"A": scipy.sparse.csc_matrix(A), "b": b, "c": c}, CONES.to_scs(), **options).solve()
    return found["x"], found["y"] - found["s"], np.ones(())


def by_clarabel(theta, eps):
    """The same by Clarabel, which may have the rows in another order."""
    A, b, c = data_at(np.asarray(theta))
    cones, rows = CONES.to_clarabel()
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = eps
    nothing = scipy.sparse.csc_matrix((NUM_VARIABLES, NUM_VARIABLES))
    found = clarabel.DefaultSolver(nothing, c, scipy.sparse.csc_matrix(A[rows]), b[rows], cones, settings).solve()
    v = np.empty(CONES.num_rows)
    v[rows] = np.array(found.z) - np.array(found.s)
    return np.array(found.x), v, np.ones(())


def differentiable(solve, eps):
    """``solution(theta)``, shape (n,), of an outside solver, with the derivative of the residual map."""
    residual = optimality.conic_residual(CONES.project_dual)
    like = jax.eval_shape(lambda: (jnp.zeros(NUM_VARIABLES), jnp.zeros(CONES.num_rows), jnp.zeros(())))

    @custom_root(lambda root, theta: residual(root, *data_at(theta)))
    def root(theta):
        return jax.pure_callback(lambda theta: solve(theta, eps), like, theta, vmap_method="sequential")

    def solution(theta):
        x, _, scale = root(theta)
        return x / scale  # roots form rays

    return solution


def by_jaxsolve(theta):
    """The solution by our own solver."""
    A, b, c = data_at(theta)
    return jaxsolve.ConicInteriorPoint(CONES).run(None, (None, c), (A, b)).params.x


def with_jacobians(solution):
    """A compiled function of theta: the solution, and its Jacobian in forward and in reverse mode."""

    def both(theta):
        x, forward = jax.linearize(solution, theta)  # solves once
        reverse = jax.linear_transpose(forward, theta)
        return x, jax.vmap(forward, out_axes=1)(jnp.eye(theta.size)), jax.vmap(lambda w: reverse(w)[0])(jnp.eye(x.size))

    return jax.jit(both)


def differences(solution, step):
    """The Jacobian at 0 by central differences, extrapolated to order four."""

    def central(h):
        return np.stack([(solution(h * e) - solution(-h * e)) / (2 * h) for e in np.eye(3)], axis=-1)

    return (4 * central(step / 2) - central(step)) / 3


def plot(rows, path):
    """Draw the errors of derivatives against those of solutions."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.5, 4), layout="constrained")
    for name in dict.fromkeys(name for name, *_ in rows):
        axis.loglog(*np.array([row[2:4] for row in rows if row[0] == name]).T, "o-", label=name)
    axis.set(xlabel="error of the solution", ylabel="error of its derivative", title="a conic program")
    axis.legend()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"figure: {path.parent.name}/{path.name}")


def main(tolerances=(1e-3, 1e-5, 1e-9), path=OUTPUT / "conic_residual_map.png"):
    """Print the table; returns whether derivatives are as right as good solutions, and ours to 1e-9."""
    ours = with_jacobians(by_jaxsolve)
    wanted = differences(lambda theta: ours(theta)[0], step=1e-3)
    independent = differences(lambda theta: by_clarabel(theta, 1e-13)[0], step=1e-2)
    agree = float(jnp.max(jnp.abs(independent - wanted)))
    print(f"differences of Clarabel and of ConicInteriorPoint differ by {agree:.0e}")

    tried = [("SCS", eps, with_jacobians(differentiable(by_scs, eps))) for eps in tolerances]
    tried += [("Clarabel", eps, with_jacobians(differentiable(by_clarabel, eps))) for eps in tolerances[-1:]]
    tried += [("ConicInteriorPoint", 1e-8, ours)]
    rows = []
    print(f"{'solver':20}{'tolerance':>10}{'solution':>12}{'forward':>10}{'reverse':>10}")
    for name, eps, solution in tried:
        x, forward, reverse = solution(jnp.zeros(3))
        of_x = float(np.max(np.abs(x - SOLUTION)))
        errors = [float(jnp.max(jnp.abs(J - wanted))) for J in (forward, reverse)]
        rows.append((name, eps, max(of_x, 1e-16), max(errors)))
        print(f"{name:20}{eps:10.0e}{of_x:12.1e}" + "".join(f"{error:10.1e}" for error in errors), flush=True)
    plot(rows, path)
    size = float(jnp.max(jnp.abs(wanted)))
    proportional = all(error <= 1e3 * size * of_x + 1e-8 for _, _, of_x, error in rows if of_x < 1e-5)
    return bool(agree < 1e-4 * size and proportional and rows[-1][3] < 1e-9 * max(size, 1))


if __name__ == "__main__":
    sys.exit(not main())
