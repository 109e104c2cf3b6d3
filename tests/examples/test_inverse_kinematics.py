"""Inverse kinematics: targets are reached within the limits, the one out of reach says so, and joints are predicted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import Status


@pytest.mark.slow
def test_a_batch_of_targets(example, capsys):
    angles, states, reached, error = example.main(num=12)
    assert int(jnp.sum(reached)) >= 10
    assert int(states.status[-1]) == Status.LOCALLY_INFEASIBLE
    assert np.all(np.abs(angles) <= example.LIMIT + 1e-12)
    assert error < 1e-2
    assert "out of reach" in capsys.readouterr().out
    # The slope of the distance is a combination of the slopes of the hand, where no joint is at its limit.
    inside = np.asarray(reached & jnp.all(jnp.abs(angles) < example.LIMIT - 1e-6, axis=1))
    assert inside.any()
    for q in angles[inside]:
        jacobian, slope = jax.jacobian(example.hand)(q), 2 * (q - example.REST)
        multipliers = np.linalg.lstsq(jacobian.T, slope)[0]
        np.testing.assert_allclose(jacobian.T @ multipliers, slope, atol=1e-7)
