"""Mini-sudoku: the boards it learns from, the program in the layer, its gradient, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.examples.checks import assert_gradient


@pytest.fixture(scope="module")
def layer(example):
    """A layer of few rows with its parameters, and puzzles with their solutions."""
    rng = np.random.default_rng(0)
    puzzles = example.make_puzzles(rng, example.all_boards(), 2, 6)
    params = {"A": jnp.asarray(rng.uniform(0, 0.25, (6, 64))), "z0": jnp.full(64, 0.25)}
    return example.ProgramLayer(num_rows=6, tol=1e-10), {"params": params}, puzzles


def test_there_are_288_boards(example):
    assert example.all_boards().shape == (288, 4, 4)


def test_the_layer_solves_its_program(layer):
    """Products of entries and multipliers of 0.01 mean a logarithmic barrier of weight 0.01.

    The program with the barrier is strictly convex: whatever meets its optimality conditions is its only solution.
    """
    model, params, (puzzles, _) = layer
    A, z0 = (np.asarray(params["params"][name]) for name in ("A", "z0"))
    for puzzle, z in zip(np.asarray(puzzles), np.asarray(jax.jit(model.apply)(params, puzzles)), strict=True):
        assert np.all(z > 0)
        np.testing.assert_allclose(A @ z, A @ z0, atol=1e-8)
        gradient = model.eps * z - puzzle - 0.01 / z
        multipliers = np.linalg.lstsq(A.T, -gradient)[0]
        np.testing.assert_allclose(gradient + A.T @ multipliers, 0, atol=1e-6)


@pytest.mark.slow
def test_gradient_of_the_layer(layer):
    model, params, (puzzles, solutions) = layer
    assert_gradient(lambda params: jnp.sum((model.apply(params, puzzles) - solutions) ** 2), params)


@pytest.mark.slow
def test_it_learns(example, capsys):
    before, after, losses = example.main(num_steps=60, batch_size=16, hidden=2, num_test=20, every=20)
    assert losses[-1] < 0.8 * losses[0]
    assert after >= before
    assert "held-out puzzles solved" in capsys.readouterr().out
