"""Mini-sudoku: the boards it learns from, the program in the layer, its gradient, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.examples.checks import assert_gradient


@pytest.fixture(scope="module")
def layer(example):
    """A layer of few rows with its parameters, and puzzles with their solutions."""
    puzzles = example.make_puzzles(np.random.default_rng(0), example.all_boards(), 2, 6)
    model = example.ProgramLayer(num_rows=6)
    return model, model.init(jax.random.key(0), puzzles[0]), puzzles


def test_there_are_288_boards(example):
    assert example.all_boards().shape == (288, 4, 4)


def test_the_program_is_the_one_that_clarabel_solves(layer):
    """Products of entries and multipliers of 0.01 mean a logarithmic barrier of weight 0.01."""
    cp = pytest.importorskip("cvxpy")
    model, params, (puzzles, _) = layer
    A, z0 = (np.asarray(params["params"][name]) for name in ("A", "z0"))
    for puzzle, found in zip(np.asarray(puzzles), jax.jit(model.apply)(params, puzzles), strict=True):
        z = cp.Variable(z0.size)
        objective = model.eps / 2 * cp.sum_squares(z) - puzzle @ z - 0.01 * cp.sum(cp.log(z))
        cp.Problem(cp.Minimize(objective), [A @ z == A @ z0]).solve(solver=cp.CLARABEL)
        np.testing.assert_allclose(found, z.value, atol=1e-5)


@pytest.mark.slow
def test_gradient_of_the_layer(layer):
    model, params, (puzzles, solutions) = layer
    assert_gradient(lambda params: jnp.sum((model.apply(params, puzzles) - solutions) ** 2), params, 1e-4, 1e-3)


@pytest.mark.slow
def test_it_learns(example, capsys):
    before, after, losses = example.main(num_steps=60, batch_size=16, hidden=2, num_test=20, every=20)
    assert losses[-1] < 0.8 * losses[0]
    assert after >= before
    assert "held-out puzzles solved" in capsys.readouterr().out
