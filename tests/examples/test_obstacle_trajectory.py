"""A trajectory around obstacles: equations of motion, distances, derivatives, and the model found again."""

import numpy as np
import pytest

from jaxsolve import Status


@pytest.mark.slow
def test_the_whole_script(example, tmp_path):
    found, state, errors, guess = example.main(path=tmp_path / "figure.png")
    assert int(state.status) == Status.CONVERGED and bool(state.is_minimum)
    assert max(errors) < 1e-5
    np.testing.assert_allclose(guess, example.MODEL, atol=1e-7)
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    # Integrated by itself, the thrust leads from rest at the start to rest at the goal, around the obstacles.
    p, v, dt = np.array(example.START), np.zeros(2), example.DURATION / len(found["u"])
    for u in np.asarray(found["u"]):
        outside = np.linalg.norm(p - example.CENTERS, axis=1) - example.MODEL[1:]
        assert np.all(outside > -1e-6)
        p, v = p + dt * v, v + dt * (u - example.MODEL[0] * np.sqrt(v @ v + 1e-6) * v)
    np.testing.assert_allclose([p, v], [example.GOAL, np.zeros(2)], atol=1e-6)
