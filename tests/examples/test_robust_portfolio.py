"""Robust portfolios: weights by CVXPY, the derivative by differences, and what the script prints."""

import jax.numpy as jnp
import numpy as np
import pytest


@pytest.mark.slow
def test_weights_are_those_of_cvxpy(example):
    cp = pytest.importorskip("cvxpy")
    markets, kappa = example.make_markets(3, 1), 0.3
    mean, factor = np.asarray(markets.estimated_mean[0]), np.asarray(markets.estimated_factor[0])
    w = cp.Variable(mean.size, nonneg=True)
    problem = cp.Problem(cp.Maximize(mean @ w - kappa * cp.norm(factor.T @ w)), [cp.sum(w) == 1])
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    weights, promised = example.robust_portfolio(jnp.asarray(mean), jnp.asarray(factor), kappa)
    np.testing.assert_allclose(weights, w.value, atol=1e-6)
    np.testing.assert_allclose(promised, problem.value, atol=1e-9)


@pytest.mark.slow
def test_the_whole_script(example, tmp_path, capsys):
    assert example.main(count=64, path=tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert "unseen markets" in capsys.readouterr().out
