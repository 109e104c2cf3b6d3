"""The demonstration: its solutions, its gradient, what it prints and draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.svm import LinearSVC


@pytest.fixture(scope="module")
def svm_data(example):
    return example.load_data(num_train=60, num_val=60, num_features=40)


def test_svm_dual_solution_is_that_of_scikit_learn(example, svm_data):
    X, Y, *_ = svm_data
    theta = 2.0
    W, state = jax.jit(lambda theta: example.solve_svm(theta, X, Y, maxiter=20_000, tol=1e-9))(theta)
    assert int(state.status) == 1
    oracle = LinearSVC(C=1 / theta, multi_class="crammer_singer", fit_intercept=False, tol=1e-10, max_iter=1_000_000)
    oracle.fit(np.asarray(X), np.asarray(jnp.argmax(Y, axis=1)))
    # The weights of all classes may be shifted together without changing a decision; here they sum to zero.
    expected = oracle.coef_.T - oracle.coef_.T.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(W, expected, atol=1e-5)


def test_svm_tuning_lowers_the_outer_loss(example, svm_data, capsys):
    start, _ = example.outer_loss(jnp.log(20.0), svm_data, maxiter=5000, tol=1e-4)
    best, accuracy, _ = example.tune(svm_data, num_steps=12, theta=20.0)
    assert best < 0.9 * start
    assert 0.5 < accuracy <= 1.0
    assert "outer loss" in capsys.readouterr().out


def test_svm_gradient_is_the_slope_of_the_outer_loss(example, svm_data):
    options = {"maxiter": 20_000, "tol": 1e-10}
    loss = jax.jit(lambda log_theta: example.outer_loss(log_theta, svm_data, **options)[0])
    at, step = np.log(5.0), 1e-4
    slope = (loss(at + step) - loss(at - step)) / (2 * step)
    np.testing.assert_allclose(
        example.compile_gradient(svm_data, **options)(jnp.asarray(at), svm_data), slope, rtol=1e-4
    )


@pytest.mark.slow
def test_svm_comparison_and_figure(example, svm_data, tmp_path, capsys):
    rows = example.compare(svm_data, iterations=(20, 200), repeats=1)
    assert [row[:2] for row in rows] == [(mode, k) for mode in example.MODES for k in (20, 200)]
    errors = {row[:2]: row[2] for row in rows}
    memory = {row[:2]: row[4] for row in rows}
    assert all(errors[mode, 200] < 1e-3 for mode in example.MODES)
    assert memory["implicit", 200] == memory["implicit", 20]
    assert memory["unrolled", 200] > 5 * memory["unrolled", 20]
    assert memory["unrolled, checkpointed", 200] < memory["unrolled", 200] / 4
    example.plot(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
