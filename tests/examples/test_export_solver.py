"""Exported layers: a process without jaxsolve gets the same solutions and gradients, at batch sizes of its choice."""

import pytest

pytest.importorskip("flatbuffers", reason="files are written with flatbuffers")


def check(rows, printed, count):
    assert "imported jaxsolve: False" in printed
    assert len(rows) == count
    for solutions, gradients, converged in rows:
        assert solutions < 1e-9
        assert gradients < 1e-9
        assert converged


def test_the_smooth_layer_elsewhere(example, capsys):
    check(*example.main(names=("logistic",), batch_sizes=(3,)), 1)
    assert "logistic" in capsys.readouterr().out


@pytest.mark.slow
def test_both_layers_elsewhere(example):
    check(*example.main(batch_sizes=(1, 2, 9)), 6)


@pytest.mark.slow
def test_gradients_of_the_layers_against_differences(example):
    """What the export is compared with is itself right."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from tests.examples.checks import assert_gradient

    for make, num_inputs in example.LAYERS.values():
        layer = make()
        inputs = jnp.asarray(np.random.default_rng(2).normal(size=(2, num_inputs)))
        assert_gradient(jax.jit(lambda inputs, layer=layer: jnp.sum(layer(inputs)["x"] ** 2)), inputs)
