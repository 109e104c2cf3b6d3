"""An economic equilibrium: prices against other people's demand, derivatives against differences, what must hold."""

import jax.numpy as jnp
import numpy as np
import pytest


def test_demand_in_closed_form(example):
    """With unit elasticity everybody spends fixed shares, and the prices are those of a linear system."""
    prices = example.prices_by_demand(example.ENDOWMENTS, power=-1e-7)
    spending = example.TASTES.T @ example.ENDOWMENTS - np.diag(np.sum(example.ENDOWMENTS, axis=0))
    np.testing.assert_allclose(spending @ prices, 0, atol=1e-6)
    np.testing.assert_allclose(np.sum(prices), 1)


@pytest.mark.slow
def test_the_whole_script(example, tmp_path, capsys):
    prices, slopes, errors, own = example.main(num=2, path=tmp_path / "figure.png")
    assert errors[0] < 1e-9 and errors[1] < 1e-6
    np.testing.assert_allclose(np.sum(slopes, axis=0), 0, atol=1e-10)  # of prices of which the sum is 1
    # More of everything leaves relative prices as they are: these functions are homogeneous.
    np.testing.assert_allclose(np.sum(slopes * example.ENDOWMENTS, axis=(1, 2)), 0, atol=1e-9)
    assert own[0, 0] < 0 and np.all(prices > 0)
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert "CONVERGED" in capsys.readouterr().out
    assert jnp.isfinite(own).all()
