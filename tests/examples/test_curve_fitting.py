"""The fit of a reference data set: NIST's numbers, SciPy's, and derivatives by finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def test_standard_errors_of_nist(example):
    """The variance of a reading is published too."""
    found = example.standard_errors(jnp.asarray(example.Y), jnp.ones(14))
    params, variance, of_jacobian, of_derivative = found
    np.testing.assert_allclose(example.as_vector(params), example.CERTIFIED, rtol=1e-8)
    np.testing.assert_allclose(np.sqrt(variance), 1.0187876330e-01, rtol=1e-8)
    np.testing.assert_allclose(of_jacobian, example.CERTIFIED_ERRORS, rtol=1e-8)
    np.testing.assert_allclose(of_derivative, example.CERTIFIED_ERRORS, rtol=5e-3)


@pytest.mark.slow
def test_the_whole(example, capsys, tmp_path):
    assert example.main(num_samples=200, path=tmp_path / "picture.png")
    assert "NO" not in capsys.readouterr().out
    assert (tmp_path / "picture.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["linear", "cauchy"])
def test_derivatives_in_readings_and_weights(example, loss):
    y, weights = jnp.asarray(example.Y), jnp.ones(14)
    start = dict(zip(example.NAMES, map(float, example.CERTIFIED), strict=True))
    fitted = jax.jit(lambda y, w: example.as_vector(example.fit(y, w, start, loss=loss, f_scale=0.1)[0]))
    rng, step = np.random.default_rng(0), 1e-4
    direction = (rng.normal(size=14), rng.normal(size=14))
    _, tangent = jax.jit(lambda *d: jax.jvp(fitted, (y, weights), d))(*direction)
    ahead, behind = (fitted(y + t * direction[0], weights + t * direction[1]) for t in (step, -step))
    np.testing.assert_allclose(tangent, (ahead - behind) / (2 * step), rtol=1e-5)
