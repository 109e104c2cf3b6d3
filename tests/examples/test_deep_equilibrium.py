"""The deep equilibrium model: its equilibrium, its gradients, their memory, and its training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from .checks import assert_gradient

RUN = {"maxiter": 500, "tol": 1e-13}


@pytest.fixture(scope="module")
def problem(example):
    """A model with random parameters, large enough that the bound is active; four images and labels."""
    model = example.DeepEquilibrium(5, 6, 3, nnx.Rngs(0))
    model.V[...] = 3.0 * model.V[...]
    rng = np.random.default_rng(0)
    return model, jnp.asarray(rng.normal(size=(4, 5))), jnp.asarray([0, 2, 1, 1])


def test_layer_is_a_contraction(example, problem):
    model = problem[0]
    assert jnp.linalg.norm(model.V[...], ord=2) > 2
    np.testing.assert_allclose(jnp.linalg.norm(model.recurrent(), ord=2), 0.9)
    small = example.DeepEquilibrium(5, 6, 3, nnx.Rngs(0))
    small.V[...] = 0.1 * small.V[...]
    np.testing.assert_array_equal(small.recurrent(), small.V[...])


def test_gradient(example, problem):
    model, x, y = problem
    definition, params = nnx.split(model)
    fun = lambda params: example.loss(nnx.merge(definition, params), x, y, **RUN)[0]
    assert_gradient(fun, params)


def test_memory_of_the_exact_gradient_does_not_grow(example, problem):
    few, many = (example.compile_gradient(*problem, maxiter=k, tol=0.0, **example.EXACT)[1] for k in (10, 400))
    unrolled = example.compile_gradient(*problem, maxiter=400, tol=0.0, **example.MODES["unrolled"])[1]
    assert few == many < unrolled / 4


def test_second_training_step_compiles_nothing(example, problem):
    model, x, y = nnx.clone(problem[0]), *problem[1:]
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    step, compiled = example.make_step(**RUN, **example.neumann(2)), []
    first, _ = step(model, optimizer, x, y)
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.append(name))
    second, _ = step(model, optimizer, x, y)
    assert not [name for name in compiled if "compile" in name]
    assert second < first


@pytest.mark.slow
def test_errors_of_the_gradients(example, problem):
    rows = example.compare(*problem, iterations=(5, 200), terms=(1, 2, 10))
    errors = {(row[0], row[2] or row[1]): row[3] for row in rows}
    assert errors["exact", 200] < 1e-7 > errors["unrolled", 200]
    assert errors["exact", 5] < errors["unrolled", 5]
    assert 0.9 > errors["Neumann", 1] > errors["Neumann", 2] > errors["Neumann", 10] > 1e-8
    assert errors["checkpointed", 5] == pytest.approx(errors["unrolled", 5])


@pytest.mark.slow
def test_it_learns_digits(example):
    _, losses, accuracy = example.train(example.load_data(), 32, 80, maxiter=40, tol=1e-4, **example.EXACT)
    assert losses[-1] < 0.2 * losses[0]
    assert accuracy > 0.93


def test_anderson_takes_half_of_the_evaluations(example, problem):
    model, x, _ = problem
    counts = example.count_evaluations(model, x)
    assert counts["Anderson"] <= counts["plain iteration"] / 2
