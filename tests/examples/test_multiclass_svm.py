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


@pytest.fixture(scope="module")
def path(example, svm_data):
    return example.tune(svm_data, theta=20.0, tol=1e-4)


def test_svm_tuning_ends_where_the_gradient_vanishes(path):
    assert 3 < len(path) < 20
    assert abs(path[-1].gradient) <= 1e-4
    assert path[-1].loss < 0.9 * path[0].loss
    assert 0.5 < path[-1].accuracy <= 1.0


def test_svm_tuning_finds_the_minimum_of_the_grid(example, svm_data, path):
    grid = example.search_grid(svm_data, np.geomspace(path[-1].theta / 2, 2 * path[-1].theta, 9))
    best = min(range(9), key=lambda i: grid[i].loss)
    assert best == 4  # the middle of the grid is the end of the path
    np.testing.assert_allclose(grid[4].loss, path[-1].loss, rtol=1e-6)
    assert max(point.loss for point in grid) > 1.001 * grid[4].loss


def test_svm_gradient_is_the_slope_of_the_outer_loss(example, svm_data):
    options = {"maxiter": 20_000, "tol": 1e-10}
    loss = jax.jit(lambda log_theta: example.outer_loss(log_theta, svm_data, **options)[0])
    at, step = np.log(5.0), 1e-4
    slope = (loss(at + step) - loss(at - step)) / (2 * step)
    np.testing.assert_allclose(
        example.compile_gradient(svm_data, **options)(jnp.asarray(at), svm_data), slope, rtol=1e-4
    )


def test_svm_unrolled_gradient_agrees(example, svm_data):
    """And the memory of the comparison is that of the iterations."""
    options = {"maxiter": 300, "tol": 0.0}
    implicit, unrolled = (
        example.compile_gradient(svm_data, **options, **example.MODES[mode]) for mode in ("implicit", "unrolled")
    )
    at = jnp.log(5.0)
    np.testing.assert_allclose(implicit(at, svm_data), unrolled(at, svm_data), rtol=1e-3)
    temporary = [program.memory_analysis().temp_size_in_bytes for program in (implicit, unrolled)]
    assert temporary[1] > 3 * temporary[0]


@pytest.mark.slow
def test_svm_table_and_figure(example, tmp_path, capsys):
    assert example.main(grid_size=7, file=tmp_path / "figure.png", num_train=100, num_val=100, num_features=60)
    assert "inner solves" in capsys.readouterr().out
    assert (tmp_path / "figure.png").stat().st_size > 10_000
