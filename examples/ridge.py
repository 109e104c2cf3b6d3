"""Ridge regression
================

Differentiate ridge regression with respect to its regularization, and check it against the closed form.

::

    x*(theta) = argmin  1/2 ||X x - y||^2 + theta / 2 ||x||^2          on scikit-learn's diabetes data.

Two ways: ``custom_root`` adds a derivative to *any* solver, here a direct one; the solvers of jaxsolve have theirs
built in. The closed form is x* = (X'X + theta I)^-1 X'y with Jacobian -(X'X + theta I)^-1 x*.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_diabetes

import jaxsolve
from jaxsolve.implicit_diff import custom_root

jax.config.update("jax_enable_x64", True)

X, y = map(jnp.asarray, load_diabetes(return_X_y=True))


def objective(x, theta):
    """The ridge objective of the weights x."""
    residual = X @ x - y
    return (jnp.sum(residual**2) + theta * jnp.sum(x**2)) / 2


# 1. Any solver, made differentiable by the condition that its result satisfies: a zero gradient.
@custom_root(jax.grad(objective))
def direct_solver(theta):
    """Solve the normal equations."""
    return jnp.linalg.solve(X.T @ X + theta * jnp.eye(X.shape[1]), X.T @ y)


# 2. A solver of the package.
def lbfgs_solver(theta):
    """Minimize the objective by L-BFGS."""
    solver = jaxsolve.LBFGS(objective, maxiter=200, tol=1e-9)
    return solver.run(jnp.zeros(X.shape[1]), theta).params


def closed_form_jacobian(theta):
    """The Jacobian of the solution, derived by hand."""
    A = np.asarray(X.T @ X) + theta * np.eye(X.shape[1])
    return -np.linalg.solve(A, np.linalg.solve(A, np.asarray(X.T @ y)))


def main(theta=0.1, tolerance=1e-6):
    """Print the relative error of each Jacobian; returns whether all are within the tolerance."""
    expected = closed_form_jacobian(theta)
    passed = True
    print(f"Jacobian of the ridge solution at theta = {theta}, closed form: {np.round(expected, 1)}")
    for name, solver in {"custom_root": direct_solver, "LBFGS.run": lbfgs_solver}.items():
        for mode, jacobian in {"forward": jax.jacfwd, "reverse": jax.jacrev}.items():
            error = np.linalg.norm(jacobian(solver)(theta) - expected) / np.linalg.norm(expected)
            passed &= bool(error <= tolerance)
            print(f"  {name:12} {mode:8} relative error {error:.1e}   {'ok' if error <= tolerance else 'WRONG'}")
    return passed


if __name__ == "__main__":
    sys.exit(not main())
