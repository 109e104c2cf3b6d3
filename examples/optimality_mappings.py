r"""The catalog of optimality mappings
===================================

The catalog of optimality mappings, each with a solver of another project.

The solution of a problem satisfies conditions that do not depend on the solver: a root F(x, theta) = 0, or a fixed
point T(x, theta) = x. Implicit differentiation needs nothing else. Below, the solvers are programs in C, C++, Fortran,
Rust and Cython, none of which computes derivatives in theta. ``custom_root`` and ``custom_fixed_point`` add them, with
a mapping from ``jaxsolve.implicit_diff.optimality``::

    mapping                 of    which is                                              needed
    stationary                F   grad f                                                grad f
    gradient descent          T   x - eta grad f                                        grad f
    KKT                       F   (grad f + dH' nu + dG' lambda, H, lambda G)           grad f, G, H, their VJPs
    proximal gradient         T   prox_{eta g}(x - eta grad f)                          grad f, prox
    projected gradient        T   proj_C(x - eta grad f)                                grad f, proj
    mirror descent            T   proj_C^phi(grad phi(x) - eta grad f)                  grad f, Bregman proj, grad phi
    Newton                    T   x - eta (dG)^-1 G                                     G, a linear solve with dG
    block proximal gradient   T   prox_{eta_j g_j}(x_j - eta_j [grad f]_j)              the same, a block at a time
    conic                     F   residual map of the homogeneous self-dual embedding   proj on R^n x K* x R_+

Every step size eta gives the same derivative, so each mapping with one is tried with several.

The solvers work on NumPy arrays. ``jax.jacfwd`` and ``jax.jacrev`` can call them directly, because the arguments are
concrete. Inside ``jax.jit`` they are not, and the call goes through ``jax.pure_callback``, as the last part shows.

The script compares each Jacobian, in forward and in reverse mode, with a closed form where there is one, or else with
central differences of the outside solver.

Reference: Blondel et al. (2021), "Efficient and Modular Implicit Differentiation", table 1 and appendix A.
"""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import osqp
import scipy.optimize
import scipy.sparse
import scs
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import Lasso, LogisticRegression, MultiTaskLasso
from sklearn.svm import SVC

from jaxsolve import KKTSolution
from jaxsolve.implicit_diff import custom_fixed_point, custom_root, optimality
from jaxsolve.projection import (
    kl_projection_simplex,
    projection_box_section,
    projection_non_negative,
    projection_second_order_cone,
)
from jaxsolve.prox import prox_group_lasso, prox_lasso

jax.config.update("jax_enable_x64", True)

TOLERANCE = 1e-6  # on relative errors; the outside solvers are accurate to 1e-8 or so


class Row(NamedTuple):
    """One row of the table.

    Attributes:
        mapping: its name in the catalog.
        solver: name of the outside solver.
        solve: ``solve(theta)``, the outside solver on the host: NumPy arrays in, NumPy arrays out.
        decorate: ``decorate(eta)``, the decorator with the mapping of step size eta.
        theta: the point at which to differentiate, a scalar or a vector.
        primal: the part of the solution to compare, a function of what ``solve`` returns.
        exact: ``exact(theta)``, the Jacobian of that part in closed form; ``None`` for central differences.
        step: of the differences.
        etas: step sizes to try; ``(None,)`` for a mapping without.
    """

    mapping: str
    solver: str
    solve: Callable
    decorate: Callable
    theta: Any
    primal: Callable = lambda solution: solution
    exact: Callable | None = None
    step: float = 1e-4
    etas: tuple = (None,)


# ---- Unconstrained problems ---------------------------------------------------------------------------------------


def stationary(num_features=5):
    """Logistic regression by scikit-learn (Newton's method): gradient zero. theta weighs the squared norm."""
    features, labels = load_breast_cancer(return_X_y=True)
    X = features[:, :num_features]
    X = (X - X.mean(axis=0)) / X.std(axis=0)

    def objective(w, theta):
        margins = jnp.where(labels == 1, 1, -1) * (X @ w)
        return jnp.sum(jnp.logaddexp(0, -margins)) + theta / 2 * jnp.sum(w**2)

    def solve(theta):
        model = LogisticRegression(C=1 / float(theta), fit_intercept=False, solver="newton-cholesky", tol=1e-13)
        return model.fit(X, labels).coef_[0]

    def decorate(eta):
        return custom_root(optimality.stationary(objective), structure="psd")

    return Row("stationary", "scikit-learn LogisticRegression", solve, decorate, 2.0)


def gradient_descent():
    """Ridge regression by a trust-region method of SciPy: fixed point of a gradient step. Closed form."""
    X, y = load_diabetes(return_X_y=True)
    dim = X.shape[1]

    def objective(w, theta):
        return (jnp.sum((X @ w - y) ** 2) + jnp.sum(theta * w**2)) / 2

    def hessian(theta):
        return X.T @ X + np.diag(theta)

    def solve(theta):
        theta = np.asarray(theta)

        def gradient(w):
            return X.T @ (X @ w - y) + theta * w

        def value(w):
            return (np.sum((X @ w - y) ** 2) + np.sum(theta * w**2)) / 2

        options = {"gtol": 1e-10}
        found = scipy.optimize.minimize(
            value, np.zeros(dim), method="trust-exact", jac=gradient, hess=lambda w: hessian(theta), options=options
        )
        return found.x

    def exact(theta):
        return -np.linalg.solve(hessian(theta), np.diag(np.linalg.solve(hessian(theta), X.T @ y)))

    def decorate(eta):
        return custom_fixed_point(optimality.gradient_descent_fixed_point(objective, stepsize=eta))

    theta = np.full(dim, 0.1)
    return Row("gradient descent", "SciPy trust-exact", solve, decorate, theta, exact=exact, etas=(0.01, 1.0, 100.0))


def newton(size=8):
    """A discretized boundary value problem, u'' + theta exp(u) = 0, by MINPACK: fixed point of a Newton step."""
    spacing = 1 / (size + 1)

    laplacian = (np.eye(size, k=1) - 2 * np.eye(size) + np.eye(size, k=-1)) / spacing**2

    def residual(u, theta):
        return laplacian @ u + theta * jnp.exp(u)

    def solve(theta):
        theta = np.asarray(theta)

        def on_host(u):
            return laplacian @ u + theta * np.exp(u)

        return scipy.optimize.root(on_host, np.zeros(size), method="hybr", tol=1e-14).x

    def decorate(eta):
        return custom_fixed_point(optimality.newton_fixed_point(residual, stepsize=eta))

    return Row("Newton", "MINPACK hybr (SciPy)", solve, decorate, 1.0, etas=(0.5, 1.0, 2.0))


# ---- Constrained problems -----------------------------------------------------------------------------------------


def quadratic_program(num_assets=6):
    """A portfolio, min z'Sz/2 - theta mu'z over the simplex, by OSQP in C: KKT conditions of primal and dual."""
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(num_assets, num_assets))
    covariance, returns = factors @ factors.T / num_assets + 0.1 * np.eye(num_assets), rng.normal(size=num_assets)

    def objective(z, theta):
        return z @ covariance @ z / 2 - theta * (returns @ z)

    def solve(theta):
        rows = scipy.sparse.csc_matrix(np.vstack([np.ones(num_assets), -np.eye(num_assets)]))
        lower, upper = np.append(1.0, np.full(num_assets, -np.inf)), np.append(1.0, np.zeros(num_assets))
        program = osqp.OSQP()
        cost = -float(theta) * returns
        options = {"eps_abs": 1e-10, "eps_rel": 1e-10, "polishing": True, "max_iter": 100_000, "verbose": False}
        program.setup(scipy.sparse.csc_matrix(covariance), cost, rows, lower, upper, **options)
        found = program.solve(raise_error=True)
        return KKTSolution(found.x, found.y[0], found.y[1:])

    def decorate(eta):
        conditions = optimality.kkt(objective, lambda z, params_eq: jnp.sum(z) - 1, lambda z, params_ineq: -z)
        return custom_root(lambda solution, theta: conditions(solution, theta))

    return Row("KKT", "OSQP", solve, decorate, 0.5, primal=lambda solution: solution.primal)


def linear_program():
    """Minimize c'z with A z = b, z >= 0, by HiGHS in C++: KKT conditions at a vertex; theta = b. Closed form."""
    A, c = np.array([[1.0, 2.0, 1.0, 0.0], [3.0, 1.0, 0.0, 1.0]]), np.array([-1.0, -1.0, 0.0, 0.0])

    def solve(theta):
        found = scipy.optimize.linprog(c, A_eq=A, b_eq=np.asarray(theta), method="highs")
        return KKTSolution(found.x, -found.eqlin.marginals, found.lower.marginals)

    def decorate(eta):
        conditions = optimality.kkt(lambda z, _: c @ z, lambda z, theta: A @ z - theta, lambda z, params_ineq: -z)
        return custom_root(lambda solution, theta: conditions(solution, None, theta))

    def exact(theta):
        return np.vstack([np.linalg.inv(A[:, :2]), np.zeros((2, 2))])

    theta = np.array([4.0, 6.0])
    return Row("KKT", "HiGHS (SciPy)", solve, decorate, theta, primal=lambda solution: solution.primal, exact=exact)


def projected_gradient(size=24):
    """The dual of a kernel SVM by LIBSVM in C++: projection on a box cut by a hyperplane; theta bounds the box."""
    features, targets = load_breast_cancer(return_X_y=True)
    X, signs = features[:size, :4], np.where(targets[:size] == 1, 1.0, -1.0)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    kernel = np.exp(-np.sum((X[:, None] - X) ** 2, axis=-1) / 4)

    def objective(alpha, theta):
        del theta  # it is in the constraint only
        return alpha @ (kernel * np.outer(signs, signs)) @ alpha / 2 - jnp.sum(alpha)

    def solve(theta):
        model = SVC(C=float(theta), kernel="precomputed", tol=1e-12).fit(kernel, signs)
        alpha = np.zeros(size)
        alpha[model.support_] = np.abs(model.dual_coef_[0])
        return alpha

    def projection(alpha, theta):
        return projection_box_section(alpha, (0.0, theta, signs, 0.0))

    def decorate(eta):
        step = optimality.projected_gradient_fixed_point(objective, projection, stepsize=eta)
        return custom_fixed_point(lambda alpha, theta: step(alpha, theta, theta))

    return Row("projected gradient", "LIBSVM (scikit-learn SVC)", solve, decorate, 1.0, etas=(0.1, 1.0, 10.0))


def mirror_descent(size=5):
    """Minimize theta'x + x'Qx/2 + sum x log x over the simplex by SLSQP: a step with softmax. Closed form."""
    factor = np.random.default_rng(0).normal(size=(size, size))
    Q = factor @ factor.T / size

    def objective(x, theta):
        return theta @ x + x @ Q @ x / 2 + jnp.sum(x * jnp.log(x))

    def solve(theta):
        theta = np.asarray(theta)
        found = scipy.optimize.minimize(
            lambda x: theta @ x + x @ Q @ x / 2 + np.sum(x * np.log(x)),
            np.full(size, 1 / size),
            jac=lambda x: theta + Q @ x + np.log(x) + 1,
            bounds=[(1e-9, 1.0)] * size,
            constraints={"type": "eq", "fun": lambda x: np.sum(x) - 1, "jac": lambda x: np.ones(size)},
            method="SLSQP",
            options={"ftol": 1e-16, "maxiter": 1000},
        )
        return found.x

    def exact(theta):
        inverse = np.linalg.inv(Q + np.diag(1 / solve(theta)))
        ones = inverse @ np.ones(size)
        return np.outer(ones, ones) / np.sum(ones) - inverse

    def decorate(eta):
        mapping = optimality.mirror_descent_fixed_point(objective, kl_projection_simplex, jnp.log, stepsize=eta)
        return custom_fixed_point(lambda x, theta: mapping(x, None, theta))

    theta = np.linspace(-1, 1, size)
    options = {"exact": exact, "etas": (0.1, 1.0, 10.0)}
    return Row("mirror descent", "SciPy SLSQP", solve, decorate, theta, **options)


# ---- Composite problems -------------------------------------------------------------------------------------------


def proximal_gradient():
    """The lasso by scikit-learn (coordinate descent): a step with soft thresholding. Closed form on the support."""
    X, y = load_diabetes(return_X_y=True)
    y = (y - y.mean()) / y.std()
    X = X * np.sqrt(len(y))
    model = Lasso(alpha=0.1, fit_intercept=False, tol=1e-14, max_iter=100_000)

    def smooth(w):
        return jnp.sum((X @ w - y) ** 2) / (2 * len(y))

    def solve(theta):
        return model.set_params(alpha=float(theta)).fit(X, y).coef_

    def exact(theta):
        w = solve(theta)
        support = w != 0
        slope = np.zeros_like(w)
        slope[support] = -len(y) * np.linalg.solve(X[:, support].T @ X[:, support], np.sign(w[support]))
        return slope

    def decorate(eta):
        return custom_fixed_point(optimality.proximal_gradient_fixed_point(smooth, prox_lasso, stepsize=eta))

    return Row("proximal gradient", "scikit-learn Lasso", solve, decorate, 0.1, exact=exact, etas=(0.1, 1.0, 10.0))


def block_proximal_gradient(num_samples=30, num_features=6, num_tasks=3):
    """The multi-task lasso by scikit-learn: a step on each row with its own step size, and the prox of its norm."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(num_samples, num_features))
    Y = X[:, :3] @ rng.normal(size=(3, num_tasks)) + 0.5 * rng.normal(size=(num_samples, num_tasks))
    model = MultiTaskLasso(alpha=0.3, fit_intercept=False, tol=1e-14, max_iter=100_000)

    def smooth(W):
        return jnp.sum((X @ W - Y) ** 2) / (2 * num_samples)

    def solve(theta):
        return model.set_params(alpha=float(theta)).fit(X, Y).coef_.T

    def decorate(eta):
        stepsizes = eta * jnp.linspace(0.5, 2.0, num_features)
        return custom_fixed_point(optimality.block_proximal_gradient_fixed_point(smooth, prox_group_lasso, stepsizes))

    return Row("block proximal gradient", "scikit-learn MultiTaskLasso", solve, decorate, 0.3, etas=(0.1, 1.0, 10.0))


# ---- Cone programs ------------------------------------------------------------------------------------------------
#
# min c'x over the ellipsoid ||M x - d|| <= r with x_1 + ... + x_n >= -10, which is inactive: as a cone program,
# A x + s = b with s in K = R_+ x (second-order cone), which is its own dual. theta = (c, r).

M = np.array([[2.0, 0.3, 0.0], [0.0, 1.0, -0.4], [0.2, 0.0, 1.5]])
CENTER = np.array([1.0, -1.0, 0.5])


def cone_data(theta, xp):
    """A, b and c of the program, as arrays of ``xp``: NumPy for the outside solvers, jax.numpy for the mapping."""
    A = np.concatenate([-np.ones((1, 3)), np.zeros((1, 3)), -M])
    return A, xp.concatenate([np.full(1, 10.0), theta[3:], -CENTER]), theta[:3]


def cone_projection(v):
    """Projection on the dual cone of v, shape (5,)."""
    return jnp.concatenate([projection_non_negative(v[:1]), projection_second_order_cone(v[1:])])


def by_clarabel(theta):
    """Clarabel, an interior-point method in Rust; returns the root (x, y - s, 1) of the residual map."""
    A, b, c = cone_data(np.asarray(theta), np)
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-12
    settings.tol_ktratio = 1e-10
    cones = [clarabel.NonnegativeConeT(1), clarabel.SecondOrderConeT(4)]
    nothing = scipy.sparse.csc_matrix((3, 3))
    found = clarabel.DefaultSolver(nothing, c, scipy.sparse.csc_matrix(A), b, cones, settings).solve()
    return np.array(found.x), np.array(found.z) - np.array(found.s), 1.0


def by_scs(theta):
    """SCS, a splitting method in C."""
    A, b, c = cone_data(np.asarray(theta), np)
    data, cones = {"A": scipy.sparse.csc_matrix(A), "b": b, "c": c}, {"l": 1, "q": [4]}
    options = {"eps_abs": 1e-12, "eps_rel": 1e-12, "eps_infeas": 1e-14, "max_iters": 100_000, "verbose": False}
    found = scs.SCS(data, cones, **options).solve()
    return found["x"], found["y"] - found["s"], 1.0


def conic(name, solve):
    """Root of the residual map. The solution is CENTER shifted against c, in closed form."""
    residual = optimality.conic_residual(cone_projection)

    def closed_form(theta):
        inverse = jnp.linalg.inv(M)
        direction = inverse.T @ theta[:3]
        return inverse @ (CENTER - theta[3] * direction / jnp.linalg.norm(direction))

    def decorate(eta):
        return custom_root(lambda root, theta: residual(root, *cone_data(theta, jnp)))

    def primal(root):
        return root[0] / root[2]  # roots form rays

    theta = np.array([1.0, 2.0, -1.0, 1.5])
    return Row("conic", name, solve, decorate, theta, primal, jax.jacobian(closed_form))


# ---- The table ----------------------------------------------------------------------------------------------------

ROWS = {
    "stationary": stationary,
    "gradient descent": gradient_descent,
    "KKT, quadratic program": quadratic_program,
    "KKT, linear program": linear_program,
    "proximal gradient": proximal_gradient,
    "projected gradient": projected_gradient,
    "mirror descent": mirror_descent,
    "Newton": newton,
    "block proximal gradient": block_proximal_gradient,
    "conic, Clarabel": lambda: conic("Clarabel", by_clarabel),
    "conic, SCS": lambda: conic("SCS", by_scs),
}
# What a mapping is made from; derivatives take Jacobian-vector products of these.
NEEDED = {
    "stationary": "grad f",
    "gradient descent": "grad f",
    "KKT": "grad f, G, H; primal and dual",
    "proximal gradient": "grad f, prox",
    "projected gradient": "grad f, projection",
    "mirror descent": "grad f, Bregman projection, grad phi",
    "Newton": "G, linear solve",
    "block proximal gradient": "grad f, prox of a block",
    "conic": "projection on the dual cone",
}


def reference(row):
    """The Jacobian to compare with: the closed form, or central differences of the outside solver."""
    theta = np.asarray(row.theta)
    if row.exact is not None:
        return np.asarray(row.exact(theta))
    slopes = []
    for direction in np.eye(theta.size):
        shift = row.step * direction.reshape(theta.shape)
        ahead, behind = (np.asarray(row.primal(row.solve(theta + sign * shift))) for sign in (1, -1))
        slopes.append((ahead - behind) / (2 * row.step))
    return np.stack(slopes, axis=-1).reshape(*slopes[0].shape, *theta.shape)


def errors(row, eta):
    """Relative errors of the Jacobian in forward and in reverse mode, with a step size."""
    solver = row.decorate(eta)(row.solve)
    want = reference(row)
    found = [jacobian(lambda theta: row.primal(solver(theta)))(row.theta) for jacobian in (jax.jacfwd, jax.jacrev)]
    return [float(np.linalg.norm(J - want) / np.linalg.norm(want)) for J in found]


def table(names=tuple(ROWS)):
    """Print a line a row; returns whether all errors are within the tolerance."""
    widths = (24, 32, 9, 12, 9, 9, 0)
    header = ("mapping", "solver", "unknowns", "step sizes", "forward", "reverse", "needed")
    print("relative error of the Jacobian of the solution in theta, the largest over the step sizes")
    print(" ".join(text.ljust(width) for text, width in zip(header, widths, strict=True)))
    good = True
    for name in names:
        row = ROWS[name]()
        forward, reverse = np.max([errors(row, eta) for eta in row.etas], axis=0)
        unknowns = sum(np.size(part) for part in jax.tree.leaves(row.solve(row.theta)))
        etas = "" if row.etas == (None,) else ", ".join(f"{eta:g}" for eta in row.etas)
        cells = (row.mapping, row.solver, unknowns, etas, f"{forward:.1e}", f"{reverse:.1e}", NEEDED[row.mapping])
        print(" ".join(str(cell).ljust(width) for cell, width in zip(cells, widths, strict=True)), flush=True)
        good &= max(forward, reverse) <= TOLERANCE
    return bool(good)


# ---- Under jit ----------------------------------------------------------------------------------------------------


def compiled(name="proximal gradient", count=4):
    """The same solver inside ``jax.jit`` and ``jax.vmap``, by a callback; returns the largest error of its slopes."""
    row = ROWS[name]()
    like = jax.ShapeDtypeStruct(np.shape(row.solve(row.theta)), jnp.float64)

    def call(theta):
        return jax.pure_callback(row.solve, like, theta, vmap_method="sequential")

    solver = row.decorate(1.0)(call)
    thetas = row.theta * jnp.linspace(0.5, 1.5, count)
    slopes = jax.jit(jax.vmap(jax.jacrev(solver)))(thetas)
    want = np.stack([reference(row._replace(theta=float(theta))) for theta in thetas])
    return float(np.linalg.norm(slopes - want) / np.linalg.norm(want))


def main(names=tuple(ROWS)):
    """Print the table and the error under ``jit``; returns whether all are within the tolerance."""
    good = table(names)
    error = compiled()
    print(f"{ROWS['proximal gradient']().solver} under jit and vmap, by jax.pure_callback: error {error:.1e}")
    good &= error <= TOLERANCE
    print(f"every Jacobian is within {TOLERANCE:.0e}: {'yes' if good else 'NO'}")
    return good


if __name__ == "__main__":
    sys.exit(not main())
