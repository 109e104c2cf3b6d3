"""Hypergradients of a multiclass SVM: solvers, optimality mappings, memory, and what the outer descent reaches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve.linear_solve import solve_bicgstab
from tests.examples.checks import assert_gradient

SIZES = (40, 20, 10)
# Enough for every solver to be at its fixed point.
ITERATIONS = {"mirror descent": 3000, "projected gradient": 1000, "coordinate descent": 100}


@pytest.fixture(scope="module")
def data(example):
    return example.load_data(60, SIZES)


def test_span_of_training_points_keeps_predictions(example, data):
    (X, Y), (X_val, _), _ = data
    (Z, _), (Z_val, _), _ = example.in_span_of_training_points(data)
    assert Z.shape == (40, 40)
    np.testing.assert_allclose(Z_val @ (Z.T @ Y), X_val @ (X.T @ Y), atol=1e-12)


@pytest.fixture(scope="module")
def gradients(example, data):
    """Of coordinate descent, through either mapping, by accurate linear solves."""
    example.LINEAR_SOLVE = functools.partial(solve_bicgstab, tol=1e-8)
    solver = "coordinate descent"
    compiled = {mapping: example.compile_gradient(data, solver, mapping, 100) for mapping in example.MAPPINGS}
    return {mapping: tuple(map(float, run(jnp.log(2.0), data))) for mapping, run in compiled.items()}


def test_either_mapping_gives_the_slope_of_the_outer_loss(example, data, gradients):
    loss = jax.jit(functools.partial(example.outer_loss, solver="coordinate descent", mapping=None, iterations=100))
    step = 1e-4
    slope = (loss(jnp.log(2.0) + step, data) - loss(jnp.log(2.0) - step, data)) / (2 * step)
    for _, gradient in gradients.values():
        np.testing.assert_allclose(gradient, slope, rtol=1e-3)
    # It is not the slope at fixed dual variables, which is that of any mapping at larger theta.
    train, validation, _ = data
    x = example.iterate(2.0, train, "coordinate descent", 100)
    frozen = jax.grad(lambda theta: example.mean_squared_error(example.weights(x, theta, *train), *validation))(2.0)
    assert abs(2.0 * frozen - slope) > 0.1 * abs(slope)


@pytest.mark.slow
def test_solvers_agree(example, data, gradients):
    for solver, mapping in example.COMBINATIONS[:2]:
        run = example.compile_gradient(data, solver, mapping, ITERATIONS[solver])
        np.testing.assert_allclose(run(jnp.log(2.0), data), gradients[mapping], rtol=1e-3)


def test_gradient_descent_lowers_the_loss_to_the_same_value(example, data):
    solver = "projected gradient"
    ends = []
    for mapping in (solver, None):
        value_and_grad = example.compile_gradient(data, solver, mapping, 200)
        losses, _ = example.descend(value_and_grad, data, 12, theta=1.2, learning_rate=2.0)
        assert np.all(np.diff(losses) < 0)
        ends.append(losses[-1])
    assert ends[0] < 0.97 * losses[0]
    np.testing.assert_allclose(*ends, rtol=1e-4)


@pytest.mark.slow
def test_memory_is_constant_grows_like_the_square_root_or_linearly(example, data, capsys):
    memory = example.measure_memory(data, (6400, 25_600))
    for mode, growth in (("implicit", 1), ("unrolled", 4), ("unrolled, checkpointed", 2)):
        first, last = memory[mode]
        np.testing.assert_allclose(last / first, growth, rtol=0.1)
    assert "K = 25600" in capsys.readouterr().out


@pytest.mark.slow
def test_gradient_with_respect_to_everything(example, data):
    """By coordinate descent, differentiated through a mirror step, in lambda and in the training points."""
    train, (X_val, Y_val), _ = data

    def loss(params):
        log_theta, X = params
        pair = (X, train[1])
        x = example.solve_dual(jnp.exp(log_theta), pair, "coordinate descent", "mirror descent", 200)
        return example.mean_squared_error(example.weights(x, jnp.exp(log_theta), *pair), X_val, Y_val)

    assert_gradient(loss, (jnp.log(2.0), train[0]), rtol=1e-2)


@pytest.mark.slow
def test_tables_and_figure(example, tmp_path, capsys):
    example.main((30, 60), 100, 10, num_steps=2, rounds=1, gram=True, sizes=SIZES, path=tmp_path / "figure.png")
    printed = capsys.readouterr().out
    assert printed.count("coordinate descent") == 2 * 2 + 2
    assert (tmp_path / "figure.png").stat().st_size > 10_000
