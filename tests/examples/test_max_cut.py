"""Maximum cut: the worth of cuts, what counts as a bound, and what the script prints."""

import numpy as np
import pytest

CYCLE = np.roll(np.eye(5), 1, axis=0) + np.roll(np.eye(5), -1, axis=0)


def test_the_best_cut_of_a_cycle(example):
    """Four of the five edges of a cycle; the bound of the relaxation is known in closed form."""
    assert example.best_of_all(CYCLE) == 4
    each = (1 + np.cos(np.pi / 5)) / 2
    assert example.is_bound(np.full(5, each), CYCLE)
    assert not example.is_bound(np.full(5, each - 1e-6), CYCLE)


@pytest.mark.slow
def test_the_bound_of_a_cycle(example):
    np.testing.assert_allclose(example.relaxation(CYCLE).value, 5 * (1 + np.cos(np.pi / 5)) / 2, atol=1e-8)


@pytest.mark.slow
def test_the_whole_script(example, tmp_path, capsys):
    assert example.main(count=4, num_vertices=7, path=tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert "best cut" in capsys.readouterr().out
