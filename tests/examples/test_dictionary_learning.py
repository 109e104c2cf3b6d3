"""Task-driven dictionary learning: its data, its gradient, and that labels help where the data were made for it."""

import jax.numpy as jnp
import numpy as np
import pytest

from .checks import assert_gradient


@pytest.fixture(scope="module")
def small():
    """Samples, labels and parameters of a problem that compiles and runs in no time."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(16, 6))
    y = (X[:, 0] + 0.3 * rng.normal(size=16) > 0) * 1.0
    params = {"dictionary": jnp.asarray(X[:3]), "w": jnp.asarray(rng.normal(size=3)), "b": jnp.asarray(0.1)}
    return params, jnp.asarray(X), jnp.asarray(y)


def test_made_data_have_weak_factors_in_the_labels(example):
    X, y = example.make_expressions(num_features=50)
    assert X.shape == (299, 50)
    assert y.sum() == 99
    assert not np.array_equal(X, example.make_expressions(num_features=50, seed=1)[0])
    # Without nuisance and with strong factors the label is easy to see.
    X, y = example.make_expressions(num_features=300, num_nuisance=0, weak=3.0)
    train, test = example.scale(X[:200], X[200:])
    model = example.fit_logistic(train, y[:200])
    assert example.roc_auc_score(y[200:], model.decision_function(test)) > 0.75


def test_gradient_is_the_slope_of_the_task_loss(example, small):
    params, X, y = small
    assert_gradient(
        lambda params: example.task_loss(params, X, y, None, maxiter=10_000, tol=1e-11)[0], params, directions=2
    )


def test_learning_with_labels_lowers_the_loss(example, small):
    params, X, y = small
    _, losses, inner = example.minimize(example.task_loss, params, X, y, 0.05, 30)
    assert losses[-1] < 0.7 * losses[0]
    assert np.all(inner.status == 1)


def test_standard_error_of_a_paired_difference(example):
    areas = np.array([[0.5, 0.6], [0.5, 0.4], [0.5, 0.8]])
    mean, error, wins = example.paired_difference(areas, 1, 0, ratio=0.5)
    assert (round(mean, 12), wins) == (0.1, 2)
    np.testing.assert_allclose(error, 0.2 * np.sqrt(1 / 3 + 0.5))


@pytest.mark.slow
def test_labels_find_the_weak_factors_on_made_data(example):
    X, y = example.make_expressions(num_features=300, weak=0.5, seed=7)
    areas, losses = example.compare(X, y, 200, 99, num_splits=4)
    mean, error, wins = example.paired_difference(areas, -1, -2, ratio=99 / 200)
    assert np.all(losses[:, 1] < 0.8 * losses[:, 0])
    assert wins == 4
    assert mean > 2 * error
