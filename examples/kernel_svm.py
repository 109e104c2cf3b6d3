"""A kernel support vector machine
===============================

A kernel support vector machine with intercept, as a quadratic program over a box cut by a hyperplane.

The dual of the binary SVM, with labels y of -1 and 1 and a kernel matrix K, is

::

    beta* = argmin  1/2 beta' K beta - beta' y      subject to  0 <= beta_i y_i <= C,   sum(beta) = 0.

The set is a *box section*, for which there is a projection, so projected gradient solves the problem. The decision
function is K beta + intercept. Then the width of the kernel is tuned by the gradient of the loss on other data, through
the solution, which is not possible with a solver in C.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import jaxsolve
from jaxsolve.projection import projection_box_section

jax.config.update("jax_enable_x64", True)


def load_data(num_train=150):
    """Standardized features and labels of -1 and 1; returns X, y, X_val, y_val."""
    X, y = load_breast_cancer(return_X_y=True)
    X, X_val, y, y_val = train_test_split(X, 2.0 * y - 1, train_size=num_train, stratify=y, random_state=0)
    scaler = StandardScaler().fit(X)
    return tuple(map(jnp.asarray, (scaler.transform(X), y, scaler.transform(X_val), y_val)))


def rbf_kernel(A, B, gamma):
    """exp(-gamma ||a - b||^2) for the rows a of A and b of B."""
    squares = jnp.sum(A**2, axis=1)[:, None] + jnp.sum(B**2, axis=1)[None] - 2 * A @ B.T
    return jnp.exp(-gamma * squares)


def dual_objective(beta, K, y):
    """What the dual variables minimize."""
    return 0.5 * beta @ K @ beta - beta @ y


def fit(K, y, C=1.0, tol=1e-6):
    """Solve the dual; returns the dual variables, the intercept and the state of the solver."""
    solver = jaxsolve.ProjectedGradient(dual_objective, projection_box_section, tol=tol, maxiter=5000)
    bounds = (jnp.minimum(0.0, C * y), jnp.maximum(0.0, C * y))
    beta, state = solver.run(jnp.zeros_like(y), (*bounds, jnp.ones_like(y), 0.0), K, y)
    # At vectors strictly between the bounds the margin is exactly 1: the mean of what is left for the intercept.
    inside = (jnp.abs(beta) > 1e-4 * C) & (jnp.abs(beta) < (1 - 1e-4) * C)
    intercept = jnp.sum(jnp.where(inside, y - K @ beta, 0.0)) / jnp.maximum(jnp.sum(inside), 1)
    return beta, intercept, state


def validation_loss(log_gamma, data):
    """Logistic loss of the decision function on the validation data."""
    X, y, X_val, y_val = data
    gamma = jnp.exp(log_gamma)
    beta, intercept, _ = fit(rbf_kernel(X, X, gamma), y)
    scores = rbf_kernel(X_val, X, gamma) @ beta + intercept
    return jnp.mean(jnp.logaddexp(0.0, -2 * y_val * scores))


def main(num_steps=15):
    """Compare with scikit-learn, then tune the kernel; returns whether both went well."""
    data = X, y, X_val, y_val = load_data()
    gamma = 1 / X.shape[1]
    beta, intercept, state = jax.jit(fit)(rbf_kernel(X, X, gamma), y)
    jaxsolve.check(state)
    reference = SVC(C=1.0, gamma=gamma, tol=1e-8).fit(X, y)
    scores = rbf_kernel(X_val, X, gamma) @ beta + intercept
    difference = float(np.max(np.abs(scores - reference.decision_function(X_val))))
    print(f"{int(state.iter_num)} iterations, {int(jnp.sum(beta != 0))} support vectors, intercept {intercept:.4f}")
    print(f"largest difference of a decision value from scikit-learn's SVC: {difference:.1e}")

    value_and_grad = jax.jit(jax.value_and_grad(validation_loss))
    log_gamma = jnp.log(10 * gamma)
    losses = []
    for step in range(num_steps):
        loss, slope = value_and_grad(log_gamma, data)
        losses.append(float(loss))
        if step % 3 == 0:
            print(f"  step {step:2d}   gamma {float(jnp.exp(log_gamma)):.4f}   validation loss {losses[-1]:.4f}")
        log_gamma = log_gamma - 2.0 * slope
    return difference < 1e-3 and losses[-1] < 0.8 * losses[0]


if __name__ == "__main__":
    sys.exit(not main())
