"""Adversarial training: the attack stays in its box, three ways to the gradient agree, robustness is gained."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.examples.checks import assert_gradient

OPTIONS = {"maxiter": 2000, "tol": 1e-10}


@pytest.fixture(scope="module")
def data(example):
    return example.load_data()


@pytest.fixture(scope="module")
def model(example):
    """A small one: what is checked does not need a good one."""
    return example.make_model(width=6)


@pytest.fixture(scope="module")
def gradients(example, model, data):
    """The gradient by each of the three ways, for two images."""
    x, y, *_ = data
    ways = ("fixed", "value", "implicit")
    grad = eqx.filter_grad(example.adversarial_loss)
    return eqx.filter_jit(lambda model: {way: grad(model, x[:2], y[:2], way, **OPTIONS) for way in ways})(model)


def test_the_attack_stays_in_the_box_and_raises_the_loss(example, model, data):
    image, label = data[0][0], data[1][0]
    z, state = example.attack(model, image, label, image)
    assert float(jnp.max(jnp.abs(z - image))) <= example.EPSILON + 1e-12
    assert 0 <= float(jnp.min(z)) and float(jnp.max(z)) <= 1
    assert float(-state.value) > float(example.loss(model, image, label)) + 0.01


def test_the_three_gradients_agree_at_the_maximizer(gradients):
    for way in ("value", "implicit"):
        pairs = zip(*(jax.tree.leaves(gradients[name]) for name in ("fixed", way)), strict=True)
        for fixed, other in pairs:
            np.testing.assert_allclose(other, fixed, rtol=1e-6, atol=1e-9)


def test_gradient_is_the_slope_of_the_largest_loss(example, model, data):
    x, y, *_ = data
    arrays, rest = eqx.partition(model, eqx.is_array)
    assert_gradient(
        lambda arrays: example.adversarial_loss(eqx.combine(arrays, rest), x[:2], y[:2], "fixed", **OPTIONS), arrays
    )


@pytest.mark.slow
def test_adversarial_training_gains_robustness(example, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(example, "OUTPUT", tmp_path)
    assert example.main(num_epochs=10)
    assert (tmp_path / "adversarial_training.png").stat().st_size > 5_000
    assert "all attacks" in capsys.readouterr().out
