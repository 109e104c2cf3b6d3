"""A layer written in CVXPY: its output by Clarabel, and what the script prints."""

import numpy as np
import pytest

cp = pytest.importorskip("cvxpy")


@pytest.mark.slow
def test_the_nearest_correlation_matrix_is_that_of_clarabel(example):
    M = np.random.default_rng(0).normal(size=(4, 4))
    C = cp.Variable((4, 4), symmetric=True)
    constraints = [cp.diag(C) == 1, C - example.SMALLEST * np.eye(4) >> 0]
    # A gap of 1e-8, its default, leaves 1e-5 of the matrix open.
    tight = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-11)
    cp.Problem(cp.Minimize(cp.sum_squares(C - M)), constraints).solve(solver="CLARABEL", **tight)
    np.testing.assert_allclose(example.make_layer()(M)[0], C.value, atol=1e-6)


@pytest.mark.slow
def test_the_whole_script(example, tmp_path, capsys):
    assert example.main(path=tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert "true matrices" in capsys.readouterr().out
