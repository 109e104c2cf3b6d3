"""A sparse-coding layer: its codes, its gradient, what training it changes."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sklearn.linear_model import ElasticNet

from tests.examples.checks import assert_gradient

OPTIONS = {"maxiter": 5000, "tol": 1e-11}


@pytest.fixture(scope="module")
def data(example):
    return example.load_patches(40)[0]


@pytest.fixture(scope="module")
def atoms():
    return jnp.asarray(np.random.default_rng(0).normal(size=(6, 16)))


def test_codes_are_those_of_scikit_learn(example, data, atoms):
    layer = example.SparseCoding(atoms, **OPTIONS)
    patches = data[0][0, 3:5]
    codes = layer(patches)
    assert 0 < np.mean(codes == 0) < 1
    total = (example.L1REG + example.L2REG) / example.PATCH
    oracle = ElasticNet(
        alpha=total,
        l1_ratio=example.L1REG / (example.L1REG + example.L2REG),
        fit_intercept=False,
        tol=1e-12,
        max_iter=100_000,
    )
    oracle.fit(np.asarray(layer.dictionary()).T, np.asarray(patches).T)
    np.testing.assert_allclose(codes, oracle.coef_, atol=1e-7)


def test_gradient_through_the_layer_is_the_slope_of_the_loss(example, data, atoms):
    model = example.Network(example.SparseCoding(atoms, **OPTIONS), width=3)
    definition, state = nnx.split(model)
    batch = data[0][:2], data[1][:2]
    assert_gradient(
        lambda params: example.classification_loss(nnx.merge(definition, params), *batch), nnx.to_pure_dict(state)
    )


def test_training_lowers_the_loss_and_moves_the_dictionary(example, data, atoms):
    model = example.Network(example.SparseCoding(atoms), width=8)
    losses = example.train(model, data, num_epochs=20, batch_size=20)
    assert losses[-1] < 0.8 * losses[0]
    assert float(jnp.max(jnp.abs(model.layer.atoms[...] - atoms))) > 1e-3


@pytest.mark.slow
def test_a_dictionary_can_be_kept(example, data, atoms):
    model = example.Network(example.SparseCoding(atoms), width=8)
    losses = example.train(
        model, data, num_epochs=3, trainable=nnx.All(nnx.Param, nnx.Not(example.Dictionary)), batch_size=20
    )
    assert losses[-1] < losses[0]
    np.testing.assert_array_equal(model.layer.atoms[...], atoms)


@pytest.mark.slow
def test_atoms_learned_without_labels_reproduce_patches_better(example, data):
    _, losses = example.learn_atoms(data[0], num_atoms=8, num_steps=50)
    assert jnp.mean(losses[-10:]) < 0.95 * jnp.mean(losses[:10])


@pytest.mark.slow
def test_implicit_and_unrolled_gradients_agree(example, data, atoms):
    model = example.Network(example.SparseCoding(atoms), width=8)
    rows = example.compare_gradients(model, (data[0][:5], data[1][:5]))
    errors, sizes = ({row[:2]: row[column] for row in rows} for column in (2, 3))
    assert errors["implicit", 160] < 1e-4 and errors["unrolled", 160] < 1e-4
    assert sizes["unrolled", 160] > 4 * sizes["unrolled", 10]
    assert sizes["implicit", 160] < sizes["unrolled", 160]


@pytest.mark.slow
def test_training_with_labels_fits_better_than_without(example, capsys):
    assert example.main(num_seeds=1, num_epochs=20)
    assert "dictionary trained" in capsys.readouterr().out
