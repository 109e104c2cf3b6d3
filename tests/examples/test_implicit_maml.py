"""Implicit MAML: its gradient, that training lowers its loss, and what it gains over other starting points."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxsolve.linear_solve import solve_cg
from tests.examples.checks import assert_gradient

# Accurate enough for differences.
OPTIONS = {"maxiter": 500, "tol": 1e-11, "implicit_diff_solve": functools.partial(solve_cg, tol=1e-10)}


@pytest.fixture
def small(example):
    """A network with 4 hidden units a layer in place of 40, its weights, and two tasks."""
    network = example.NETWORK
    example.NETWORK = example.make_network(width=4)
    weights = example.NETWORK.init(jax.random.key(0), jnp.zeros(1))
    yield weights, example.make_tasks(np.random.default_rng(0), 2, num_query=5)
    example.NETWORK = network


def test_gradient_is_the_slope_of_the_loss_after_adaptation(example, small):
    weights, tasks = small
    assert_gradient(lambda meta: example.implicit_loss(meta, tasks, lam=1.0, **OPTIONS)[0], weights)


@pytest.mark.slow
def test_gradient_is_the_one_of_the_paper(example, small):
    """lambda (lambda I + H)^-1 times the gradient of the loss on the query points, by a dense solve."""
    weights, tasks = small
    x, y, x_query, y_query = (part[0] for part in tasks)
    flat, unravel = ravel_pytree(weights)
    w = ravel_pytree(example.adapt(weights, 1.0, x, y, **OPTIONS).params)[0]
    hessian = jax.hessian(lambda w: example.task_loss(unravel(w), x, y))(w)
    outer = jax.grad(lambda w: example.task_loss(unravel(w), x_query, y_query))(w)
    expected = jnp.linalg.solve(jnp.eye(w.size) + hessian, outer)
    one = tuple(part[:1] for part in tasks)
    found = jax.grad(lambda meta: example.implicit_loss(meta, one, lam=1.0, **OPTIONS)[0])(weights)
    np.testing.assert_allclose(ravel_pytree(found)[0], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_training_lowers_the_outer_loss_of_tasks_not_seen(example, small):
    weights, _ = small
    tasks = example.make_tasks(np.random.default_rng(7), 50)
    for loss in (example.implicit_loss, example.unrolled_loss):
        trained, *_ = example.train(loss, weights, num_steps=60, tasks_per_step=10)
        before, after = (float(jax.jit(loss)(meta, tasks)[0]) for meta in (weights, trained))
        assert after < before


@pytest.mark.slow
def test_memory_of_the_implicit_gradient_is_below_that_of_unrolling(example, small, capsys):
    weights, tasks = small
    rows = example.compare_memory(weights, tasks, iterations=(5, 40), exact_steps=100)
    sizes = {row[:2]: row[3] for row in rows}
    assert sizes["unrolled", 40] > 4 * sizes["unrolled", 5]
    assert sizes["implicit", 40] < sizes["unrolled", 40]
    assert sizes["unrolled, checkpointed", 40] < sizes["unrolled", 40]
    assert "relative error" in capsys.readouterr().out


@pytest.mark.slow
def test_implicit_maml_halves_the_loss_on_new_tasks(example, capsys):
    rng = np.random.default_rng(0)
    validation, test = example.make_tasks(rng, 20), example.make_tasks(rng, 50)
    start = example.NETWORK.init(jax.random.key(0), jnp.zeros(1))
    trained, *_ = example.train(example.implicit_loss, start, num_steps=100)
    found = example.compare_starts({"random": start, "trained": trained}, validation, test, weights=(0.03, 0.1))
    assert found["trained"][1] < found["random"][1] / 2
    assert "trained" in capsys.readouterr().out
