r"""Task-driven dictionary learning
===============================

Task-driven dictionary learning: sparse codes as a layer, the dictionary and the classifier learned together.

The layer maps samples X (m x p) and a dictionary D (k x p, atoms of norm 1) to sparse codes (m x k)::

    codes(X, D) = argmin_x  sum of Huber(X - x D)  +  l1reg ||x||_1  +  l2reg/2 ||x||^2

The outer problem learns D, and the weights w and bias b of a classifier on the codes, by the loss of its predictions::

    min  mean logistic(y, codes(X, D) w + b)  +  ridge ||w||^2      over D, w, b.

``jax.grad`` goes through the layer by implicit differentiation of the proximal gradient fixed point.

The tables compare the area under the ROC curve (AUC) over random splits: logistic regression with an L1 and an L2
penalty on all features, L2 logistic regression on the codes of a dictionary learned without labels, of 20 and of 10
atoms, and the task-driven dictionary of 10 atoms. There are two sets of data:

* **Made data.** The talk on the paper below used gene expressions of 299 patients, which are not public. The data here
  have the same shape (200 samples against 99, 1000 features), and are *designed so that the effect of the talk can
  show*: 12 strong factors have nothing to do with the label, 2 weak factors determine it up to noise, and the features
  have heavy-tailed noise. Ten atoms learned without labels represent the strong factors; atoms learned with labels can
  represent the weak ones. Twenty atoms can represent both, and need no labels for it. The figures show what happens in
  such a case, not how often real data are such a case. (An AUC a little below 50 % means that the codes contain no
  information on the label: a difference between the classes in one part of a fixed set of samples is then the opposite
  in the other part.)
* **Breast cancer data** of scikit-learn (569 samples, 30 features), an easy problem: the methods are within a standard
  deviation of each other, and the dictionaries use a third of the variables.

The settings of both dictionaries were fixed on made data of other seeds. The penalties of the logistic regressions are
chosen for each split by cross-validation within its training part.

Reference: Mairal, Bach and Ponce (2012), "Task-driven dictionary learning"; Blondel et al. (2021), "Efficient and
Modular Implicit Differentiation", section 4.3.

::

    python examples/dictionary_learning.py            10 splits of each
    python examples/dictionary_learning.py --full     40 splits of each
    python examples/dictionary_learning.py --quick    2 splits, fewer features and steps
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
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score
from sklearn.preprocessing import RobustScaler

import jaxsolve
from jaxsolve.linear_solve import solve_bicgstab
from jaxsolve.loss import huber_loss
from jaxsolve.prox import prox_elastic_net

jax.config.update("jax_enable_x64", True)

L1REG, L2REG, RIDGE = 0.1, 0.1, 1e-3
METHODS = (
    "L1 logistic",
    "L2 logistic",
    "larger dictionary, L2 logistic",
    "dictionary, then L2 logistic",
    "task-driven dictionary",
)
PUBLISHED = ("71.6 ± 2.0", "72.4 ± 2.8", "", "68.3 ± 2.3", "73.2 ± 2.1")


# ---- The data -----------------------------------------------------------------------------------------------------


def make_expressions(num_features=1000, num_nuisance=12, num_weak=2, weak=0.4, seed=0):
    """Made data in the shape of gene expressions: features (299 x num_features) and labels, 99 of which are 1.

    Each factor has a Laplace-distributed score for every sample, of variance 1, and normal loadings on a random 30 % of
    the features. The scores of the nuisance factors count fully, those of the ``num_weak`` factors ``weak`` times. The
    features are the sum of all, and noise of Student's t distribution with 2 degrees of freedom, whose variance is
    infinite. The label is 1 for the 99 samples with the largest sum of weak scores and noise.
    """
    rng = np.random.default_rng(seed)
    num_samples, num_factors = 299, num_nuisance + num_weak
    loadings = rng.normal(size=(num_factors, num_features)) * (rng.random((num_factors, num_features)) < 0.3)
    scores = rng.laplace(size=(num_samples, num_factors)) / np.sqrt(2)
    strength = np.where(np.arange(num_factors) < num_nuisance, 1.0, weak)
    X = (scores * strength) @ loadings + rng.standard_t(2, size=(num_samples, num_features))
    signal = scores[:, num_nuisance:].sum(axis=1) / np.sqrt(num_weak) + 0.7 * rng.normal(size=num_samples)
    y = np.zeros(num_samples)
    y[np.argsort(signal)[-99:]] = 1
    return X, y


def scale(X, X_test):
    """Features of median 0 and interquartile range 1/2 on the training part, well below where the Huber loss bends."""
    scaler = RobustScaler().fit(X)
    return 0.5 * scaler.transform(X), 0.5 * scaler.transform(X_test)


# ---- The layer ----------------------------------------------------------------------------------------------------


def reconstruction(codes, X, dictionary):
    """How far the codes are from reproducing the samples."""
    return jnp.sum(huber_loss(X, codes @ dictionary))


def sparse_codes(X, dictionary, init=None, maxiter=300, tol=1e-3):
    """The layer: the codes, differentiable in the samples and the dictionary, and the state of the solver."""
    # The linear system of the derivative need not be solved more accurately than the problem itself.
    solver = jaxsolve.ProximalGradient(
        reconstruction,
        prox_elastic_net,
        maxiter=maxiter,
        tol=tol,
        implicit_diff_solve=functools.partial(solve_bicgstab, tol=tol, maxiter=50),
    )
    init = jnp.zeros((X.shape[0], dictionary.shape[0])) if init is None else init
    return solver.run(init, (L1REG, L2REG / L1REG), X, dictionary)


# ---- Learning -----------------------------------------------------------------------------------------------------


def unit_atoms(dictionary):
    """Atoms of norm 1, or else the penalty would be avoided by long ones."""
    return dictionary / jnp.linalg.norm(dictionary, axis=1, keepdims=True)


@jax.jit
def encode(X, dictionary):
    """Codes of samples with the scaled atoms, and the state of the solver."""
    return sparse_codes(X, unit_atoms(dictionary))


def unsupervised_loss(params, X, y, init, **options):
    """Reconstruction error of the best codes, and these with the state of their solver.

    By the envelope theorem the codes are constants for the gradient.
    """
    dictionary = unit_atoms(params["dictionary"])
    step = jax.lax.stop_gradient(sparse_codes(X, dictionary, init, **options))
    return reconstruction(step.params, X, dictionary) / X.shape[0], step


def task_loss(params, X, y, init, **options):
    """Logistic loss of the classifier, and the codes with the state of their solver."""
    step = sparse_codes(X, unit_atoms(params["dictionary"]), init, **options)
    logits = step.params @ params["w"] + params["b"]
    return jnp.mean(jnp.logaddexp(0.0, logits) - y * logits) + RIDGE * jnp.sum(params["w"] ** 2), step


@functools.partial(jax.jit, static_argnames=("loss", "num_steps"))
def minimize(loss, params, X, y, learning_rate, num_steps):
    """Adam on all parameters; returns them, the losses, and the states of the inner solver.

    Each step starts its codes from those of the step before, which saves most of the inner iterations.
    """
    optimizer = optax.adam(learning_rate)

    def step(carry, _):
        params, state, codes = carry
        (value, (codes, inner)), grad = jax.value_and_grad(loss, has_aux=True)(params, X, y, codes)
        updates, state = optimizer.update(grad, state, params)
        return (optax.apply_updates(params, updates), state, codes), (value, inner)

    codes = jnp.zeros((X.shape[0], params["dictionary"].shape[0]))
    start = (params, optimizer.init(params), codes)
    (params, _, _), (values, inner) = jax.lax.scan(step, start, None, length=num_steps)
    return params, values, inner


def fit_logistic(X, y, l1_ratio=0.0):
    """Logistic regression whose penalty is chosen by cross-validation."""
    options = {"l1_ratio": l1_ratio, "solver": "liblinear", "random_state": 0}
    models = [LogisticRegression(C=C, **options) for C in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)]
    areas = [cross_val_score(model, X, y, cv=3, scoring="roc_auc").mean() for model in models]
    return models[int(np.argmax(areas))].fit(X, y)


def encoded(X, dictionary):
    """Codes of samples as an array, from a run that has converged."""
    codes, inner = encode(X, dictionary)
    jaxsolve.check(inner)  # raises if it has not
    return np.asarray(codes)


def learn_without_labels(X, y, num_atoms, num_steps):
    """Parameters: a dictionary that starts from samples and learns to reproduce all, and a classifier on its codes."""
    params = {"dictionary": jnp.asarray(X[np.random.default_rng(0).permutation(len(X))[:num_atoms]])}
    params, _, inner = minimize(unsupervised_loss, params, X, y, 0.05, num_steps)
    jaxsolve.check(inner)
    model = fit_logistic(encoded(X, params["dictionary"]), y)
    return params | {"w": jnp.asarray(model.coef_[0]), "b": jnp.asarray(model.intercept_[0])}


def evaluate_split(X, y, X_test, y_test, num_atoms, more_atoms, num_steps):
    """Areas under the curve of the methods on one split, and the first and last task loss."""

    def area(params):
        return roc_auc_score(y_test, encoded(X_test, params["dictionary"]) @ params["w"] + params["b"])

    areas = [roc_auc_score(y_test, fit_logistic(X, y, ratio).decision_function(X_test)) for ratio in (1.0, 0.0)]
    areas.append(area(learn_without_labels(X, y, more_atoms, num_steps)) if more_atoms else np.nan)
    params = learn_without_labels(X, y, num_atoms, num_steps)
    areas.append(area(params))
    # Go on from there, with labels.
    params, losses, inner = minimize(task_loss, params, X, y, 0.02, num_steps)
    jaxsolve.check(inner)
    areas.append(area(params))
    return areas, (float(losses[0]), float(losses[-1]))


# ---- Comparison ---------------------------------------------------------------------------------------------------


def compare(X, y, train_size, test_size, num_splits, num_atoms=10, more_atoms=None, num_steps=40):
    """Areas (splits x methods) over random splits of the data, and task losses (splits x 2) before and after."""
    areas, losses = [], []
    splits = StratifiedShuffleSplit(num_splits, train_size=train_size, test_size=test_size, random_state=0)
    for number, (train, test) in enumerate(splits.split(X, y)):
        data = scale(X[train], X[test])
        area, loss = evaluate_split(data[0], y[train] * 1.0, data[1], y[test], num_atoms, more_atoms, num_steps)
        areas.append(area)
        losses.append(loss)
        print(
            f"  split {number:2d}   task loss {loss[0]:.4f} -> {loss[1]:.4f}   AUC "
            + " ".join(f"{a:.4f}" for a in area if np.isfinite(a))
        )
    return np.array(areas), np.array(losses)


def paired_difference(areas, method, other, ratio):
    """Mean difference of two columns, its standard error, and on how many splits it is positive.

    The splits share samples, so their differences are correlated: the variance of the mean is that of a difference
    times 1/splits + ratio, with ``ratio`` the size of the test part over that of the training part (Nadeau and Bengio
    2003, "Inference for the generalization error").
    """
    gains = areas[:, method] - areas[:, other]
    variance = gains.var(ddof=1) if len(gains) > 1 else np.nan
    return gains.mean(), np.sqrt(variance * (1 / len(gains) + ratio)), int(np.sum(gains > 0))


def report(areas, ratio, variables, published):
    """Print the table of one set of data; ``variables`` says how many the classifier of each method has."""
    print(f"{'AUC, %':32}{'here':>14}{'published' if published else '':>14}{'variables':>12}")
    shown = [index for index in range(len(METHODS)) if variables[index]]
    for index in shown:
        here = f"{100 * areas[:, index].mean():.1f} ± {100 * areas[:, index].std():.1f}"
        print(f"{METHODS[index]:32}{here:>14}{PUBLISHED[index] if published else '':>14}{variables[index]:12d}")
    print("task-driven minus the other, split by split (mean ± standard error):")
    for other in shown[:-1]:
        mean, error, wins = paired_difference(100 * areas, -1, other, ratio)
        difference = f"{mean:+.1f} ± {error:.1f}" if np.isfinite(error) else f"{mean:+.1f}"
        print(f"  {METHODS[other]:30}{difference:>14}   better on {wins} of {len(areas)} splits")


def main(num_splits=10, num_atoms=10, more_atoms=None, num_steps=40, num_features=1000, names=("made",)):
    """Print the tables; returns whether learning with labels lowered the loss on every split.

    Args:
        num_splits: random splits of each set of data.
        num_atoms: atoms of the task-driven dictionary, and of one learned without labels.
        more_atoms: atoms of a second dictionary learned without labels; none by default.
        num_steps: steps of Adam without labels, and as many with labels.
        num_features: features of the made data.
        names: the sets of data, of ``"made"`` and ``"breast cancer"``.
    """
    start = time.perf_counter()
    lowered = True
    for name in names:
        made = name == "made"
        X, y = make_expressions(num_features) if made else load_breast_cancer(return_X_y=True)
        train_size, test_size = 200, 99 if made else 300
        smaller = int(min(y.sum(), (1 - y).sum()))
        print(f"{name} data: {X.shape[0]} samples, {smaller} of the smaller class, {X.shape[1]} features")
        if made:
            print("made so that the effect can show; published: gene expressions of 299 patients, 1000 features")
        areas, losses = compare(X, y, train_size, test_size, num_splits, num_atoms, more_atoms, num_steps)
        variables = (X.shape[1], X.shape[1], more_atoms, num_atoms, num_atoms)
        report(areas, test_size / train_size, variables, published=made)
        lowered &= bool(np.all(losses[:, 1] < losses[:, 0]))
        print()
    print(f"{time.perf_counter() - start:.0f} s")
    return lowered


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="2 splits, fewer features and steps")
    parser.add_argument("--full", action="store_true", help="40 splits")
    options = parser.parse_args()
    sizes = {"num_splits": 2, "num_steps": 20, "num_features": 200} if options.quick else {}
    sizes = {"num_splits": 40} if options.full else sizes
    sys.exit(not main(more_atoms=20, names=("made", "breast cancer"), **sizes))
