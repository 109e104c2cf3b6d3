"""Models of two libraries trained by three solvers, and the derivative of a layer that SciPy solves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar


def test_temperature_is_the_best_one_and_differentiable(example):
    rng = np.random.default_rng(0)
    scores, labels = jnp.asarray(rng.normal(size=(30, 10)) + 2 * np.eye(10)[np.arange(30) % 10]), np.arange(30) % 10
    likelihood = lambda t: float(-jnp.mean(jax.nn.log_softmax(scores / t)[jnp.arange(30), labels]))
    best = minimize_scalar(likelihood, bounds=(0.1, 10.0), method="bounded", options={"xatol": 1e-8}).x
    value, slope = jax.value_and_grad(lambda s: example.temperature(s * scores, labels))(1.0)
    np.testing.assert_allclose([value, slope], best, rtol=1e-3)


@pytest.mark.slow
def test_every_solver_lowers_the_loss_of_every_model(example):
    (x, y), *_ = example.load_data()
    for init, scores in example.make_models(8, jnp.asarray(x[:1])).values():
        loss = example.make_loss(scores)
        first = float(loss(init, (x, y)))
        for params, _ in example.train(loss, init, x, y, 60).values():
            assert float(loss(params, (x, y))) < 0.5 * first


@pytest.mark.slow
def test_it_says_yes(example, capsys):
    assert example.main(hidden=24, num_steps=120)
    assert "NO" not in capsys.readouterr().out
