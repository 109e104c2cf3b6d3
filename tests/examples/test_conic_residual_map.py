"""SCS and Clarabel differentiated through the residual map of a conic program."""

import numpy as np
import pytest


def test_both_solvers_find_the_solution(example):
    zero = np.zeros(3)
    for solve in (example.by_scs, example.by_clarabel):
        x, v, scale = solve(zero, 1e-9)
        np.testing.assert_allclose(x, example.SOLUTION, atol=1e-6)
        A, b, _ = example.DATA
        s = np.asarray(example.CONES.project(-v))
        np.testing.assert_allclose(A @ x + s, b, atol=1e-6)
        assert scale == 1


@pytest.mark.slow
def test_the_whole_script(example, tmp_path, capsys):
    assert example.main(tolerances=(1e-5, 1e-9), path=tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "SCS" in printed and "Clarabel" in printed
