"""Denoising by a learned quadratic program: the layer solves its program, and learning improves on total variation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve.prox import prox_total_variation
from tests.examples.checks import assert_gradient

SIZE = 16


@pytest.fixture(scope="module")
def signals(example):
    """Signals to learn from and others, each noisy and clean."""
    rng = np.random.default_rng(0)
    return [example.make_signals(rng, 200, SIZE, places=3, num_jumps=2) for _ in range(2)]


@pytest.fixture(scope="module")
def total_variation(example):
    return example.Denoiser(0.6 * example.differences(SIZE))


@pytest.fixture(scope="module")
def error(example):
    return jax.jit(example.mean_squared_error)


def test_signals_jump_where_they_may(example, signals):
    for _, clean in signals:
        jumps = np.flatnonzero(np.any(np.diff(clean, axis=1) != 0, axis=0)) + 1
        assert set(jumps) == {3, 4, 5, 7, 8, 9, 11, 12, 13}


def test_learning_improves_on_total_variation(example, signals, total_variation, error, capsys):
    train, unseen = signals
    learned, losses = example.learn(total_variation, *train, num_steps=150, learning_rate=0.01, every=50)
    assert losses[-1] < 0.95 * losses[0]
    assert error(learned, *train) < 0.93 * error(total_variation, *train)
    assert error(learned, *unseen) < 0.97 * error(total_variation, *unseen)
    assert "training loss" in capsys.readouterr().out


def test_the_layer_solves_its_program(example, signals, total_variation):
    """Of a dense D the values of the primal and of the dual program agree; of total variation there is an operator."""
    y = signals[0][0][0]
    denoised = jax.jit(lambda model: (model(y), model.solve(y).params))
    np.testing.assert_allclose(denoised(total_variation)[0], prox_total_variation(y, 0.6), atol=1e-5)
    D = np.random.default_rng(1).normal(size=(SIZE - 1, SIZE)) / 4
    z, u = map(np.asarray, denoised(example.Denoiser(jnp.asarray(D))))
    assert np.max(np.abs(u)) <= 1
    primal = np.sum((y - z) ** 2) / 2 + np.sum(np.abs(D @ z))
    dual = np.sum(y**2) / 2 - np.sum((y - D.T @ u) ** 2) / 2
    np.testing.assert_allclose(primal, dual, rtol=1e-5)


@pytest.mark.slow
def test_gradient_of_the_layer(example, signals):
    noisy, clean = (part[:3] for part in signals[0])
    D = 0.6 * example.differences(SIZE) + 0.05 * np.random.default_rng(2).normal(size=(SIZE - 1, SIZE))
    assert_gradient(lambda D: example.mean_squared_error(example.Denoiser(D), noisy, clean), D, rtol=1e-4, step=1e-4)


@pytest.mark.slow
def test_the_whole_script(example, tmp_path, capsys):
    errors, _ = example.main(num_steps=300, path=tmp_path / "figure.png")
    noisy, linear, total_variation, learned = errors
    assert learned < 0.97 * total_variation
    assert total_variation < linear < noisy
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert "all quadratic programs converged: yes" in capsys.readouterr().out
