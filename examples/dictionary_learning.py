r"""Task-driven dictionary learning: sparse codes as a layer, the dictionary and the classifier learned together.

The layer maps samples X (m x p) and a dictionary D (k x p atoms) to sparse codes (m x k):

    codes(X, D) = argmin_x  sum of Huber(X - x D)  +  l1reg ||x||_1  +  l2reg/2 ||x||^2

The outer problem learns D, and the weights w and bias b of a classifier on the codes, by the loss of its predictions:

    min  mean logistic(y, codes(X, D) w + b)  +  ridge ||w||^2      over D, w, b.

``jax.grad`` goes through the layer by implicit differentiation of the proximal gradient fixed point.

The table compares the area under the ROC curve of four methods over random splits of scikit-learn's breast cancer data:
logistic regression with an L1 and an L2 penalty on the 30 features, L2 logistic regression on the codes of a dictionary
learned without labels, and the task-driven dictionary, both with 10 atoms. (The talk that introduced the example used
gene expressions of 299 patients, which are not public. These data are easier: all methods are within a standard
deviation of each other, with a third of the variables for the two dictionaries.)

Reference: Mairal, Bach and Ponce (2012), "Task-driven dictionary learning"; Blondel et al. (2021), "Efficient and
Modular Implicit Differentiation", section 4.3.

    python examples/dictionary_learning.py            10 splits
    python examples/dictionary_learning.py --quick    2 splits, fewer steps
"""

import argparse
import functools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.preprocessing import StandardScaler

import jaxsolve
from jaxsolve.linear_solve import solve_bicgstab
from jaxsolve.loss import huber_loss
from jaxsolve.prox import prox_elastic_net

jax.config.update("jax_enable_x64", True)

L1REG, L2REG, RIDGE = 0.1, 0.1, 1e-3
METHODS = ("L1 logreg", "L2 logreg", "DictL + L2 logreg", "Task-driven DictL")


# ---- The layer ----------------------------------------------------------------------------------------------------


def reconstruction(codes, X, dictionary):
    """How far the codes are from reproducing the samples."""
    return jnp.sum(huber_loss(X, codes @ dictionary))


def sparse_codes(X, dictionary, maxiter=300, tol=1e-4):
    """The layer; differentiable in the samples and the dictionary."""
    # The linear system of the derivative need not be solved more accurately than the problem itself.
    solver = jaxsolve.ProximalGradient(
        reconstruction,
        prox_elastic_net,
        maxiter=maxiter,
        tol=tol,
        implicit_diff_solve=functools.partial(solve_bicgstab, tol=1e-4, maxiter=50),
    )
    init = jnp.zeros((X.shape[0], dictionary.shape[0]))
    return solver.run(init, (L1REG, L2REG / L1REG), X, dictionary).params


# ---- Learning -----------------------------------------------------------------------------------------------------


def unit_atoms(dictionary):
    """Atoms of norm 1, or else the penalty would be avoided by long ones."""
    return dictionary / jnp.linalg.norm(dictionary, axis=1, keepdims=True)


def unsupervised_loss(params, X, y):
    """Reconstruction error of the best codes. By the envelope theorem they are constants for its gradient."""
    dictionary = unit_atoms(params["dictionary"])
    codes = jax.lax.stop_gradient(sparse_codes(X, dictionary))
    return reconstruction(codes, X, dictionary) / X.shape[0]


def scores(params, X):
    """The classifier on the codes."""
    return sparse_codes(X, unit_atoms(params["dictionary"])) @ params["w"] + params["b"]


def task_loss(params, X, y):
    """Logistic loss of the classifier."""
    logits = scores(params, X)
    return jnp.mean(jnp.logaddexp(0.0, logits) - y * logits) + RIDGE * jnp.sum(params["w"] ** 2)


@functools.partial(jax.jit, static_argnames=("loss", "num_steps"))
def minimize(loss, params, X, y, learning_rate, num_steps):
    """Adam on all parameters; returns them and the losses."""
    optimizer = optax.adam(learning_rate)

    def step(carry, _):
        params, state = carry
        value, grad = jax.value_and_grad(loss)(params, X, y)
        updates, state = optimizer.update(grad, state, params)
        return (optax.apply_updates(params, updates), state), value

    (params, _), values = jax.lax.scan(step, (params, optimizer.init(params)), None, length=num_steps)
    return params, values


def evaluate_split(X, y, X_test, y_test, num_atoms, num_steps):
    """Areas under the curve of the four methods on one split."""
    areas = []
    for ratio in (1.0, 0.0):
        model = LogisticRegression(C=1.0, l1_ratio=ratio, solver="saga", max_iter=5000, tol=1e-3, random_state=0)
        areas.append(roc_auc_score(y_test, model.fit(X, y).decision_function(X_test)))

    # Start from samples; learn the dictionary without labels, and a classifier on its codes.
    rng = np.random.default_rng(0)
    params = {"dictionary": jnp.asarray(X[rng.permutation(len(X))[:num_atoms]])}
    params, _ = minimize(unsupervised_loss, params, X, y, 0.05, num_steps)
    encode = jax.jit(lambda X: sparse_codes(X, unit_atoms(params["dictionary"])))
    model = LogisticRegression(C=10.0).fit(encode(X), y)
    areas.append(roc_auc_score(y_test, model.decision_function(encode(X_test))))

    # Go on from there, with labels.
    params |= {"w": jnp.asarray(model.coef_[0]), "b": jnp.asarray(model.intercept_[0])}
    params, losses = minimize(task_loss, params, X, y, 0.02, num_steps)
    areas.append(roc_auc_score(y_test, jax.jit(scores)(params, X_test)))
    return areas, (float(losses[0]), float(losses[-1]))


def main(num_splits=10, num_atoms=10, num_steps=150):
    """Print the table; returns whether learning with labels lowered the loss on every split."""
    start = time.perf_counter()
    X, y = load_breast_cancer(return_X_y=True)
    splits = StratifiedShuffleSplit(num_splits, train_size=200, test_size=300, random_state=0).split(X, y)
    rows, lowered = [], True
    for number, (train, test) in enumerate(splits):
        scaler = StandardScaler().fit(X[train])
        # Each sample is scaled by the number of features, so that the residuals are on the scale of the Huber loss.
        data = [scaler.transform(X[rows]) / np.sqrt(10) for rows in (train, test)]
        areas, (first, last) = evaluate_split(data[0], y[train] * 1.0, data[1], y[test], num_atoms, num_steps)
        rows.append(areas)
        lowered &= last < first
        print(f"  split {number:2d}   task loss {first:.4f} -> {last:.4f}   AUC " + " ".join(f"{a:.4f}" for a in areas))
    rows = 100 * np.array(rows)
    for method, mean, deviation in zip(METHODS, rows.mean(axis=0), rows.std(axis=0), strict=True):
        print(f"{method:20} AUC {mean:6.2f} ± {deviation:.2f} %")
    gains = rows[:, 3] - rows[:, 2]
    print(f"task-driven minus unsupervised, split by split: {gains.mean():+.2f} ± {gains.std():.2f} %")
    print(f"{time.perf_counter() - start:.0f} s")
    return lowered


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two splits and fewer steps")
    quick = parser.parse_args().quick
    sys.exit(not (main(num_splits=2, num_steps=20) if quick else main()))
