"""The sorted l1 norm: optimality, special cases, derivatives, bad input."""

import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxsolve.prox import prox_lasso, prox_slope
from tests.projection.checks import check_derivatives

X = jnp.array([0.9, -1.3, 2.1, 0.3, -0.2, 1.4])
WEIGHTS = jnp.array([1.2, 0.7, 0.5, 0.5, 0.1, 0.0])
slope = jax.jit(prox_slope)
points = hnp.arrays(np.float64, 6, elements=st.integers(-16, 16).map(lambda i: i / 4.0))


@hypothesis.given(x=points, y=points, scaling=st.integers(0, 8).map(lambda i: i / 4.0))
def test_minimizes_and_is_firmly_nonexpansive(x, y, scaling):
    px, py = (np.asarray(slope(v, WEIGHTS, scaling)) for v in (x, y))
    assert np.sum((px - py) ** 2) <= (px - py) @ (x - y) + 1e-12
    value = lambda z: 0.5 * np.sum((z - x) ** 2) + scaling * np.sort(np.abs(z))[::-1] @ np.asarray(WEIGHTS)
    for other in (y, py, px + 1e-3 * y):
        assert value(px) + 0.5 * np.sum((other - px) ** 2) <= value(other) + 1e-10


def test_special_cases():
    np.testing.assert_allclose(slope(X, 0.5), prox_lasso(X, 0.5), atol=1e-14)
    np.testing.assert_array_equal(slope(X, WEIGHTS, 0.0), X)
    np.testing.assert_array_equal(jax.jacobian(slope)(jnp.zeros(6), WEIGHTS, 0.0), np.eye(6))
    tree = prox_slope({"a": X[:2].astype(jnp.float32), "b": X[2:]}, WEIGHTS)
    assert tree["a"].dtype == jnp.float32
    np.testing.assert_allclose(tree["b"], slope(X, WEIGHTS)[2:], atol=1e-6)
    assert np.any(np.isnan(slope(X.at[0].set(jnp.nan), WEIGHTS)))


def test_derivatives():
    check_derivatives(prox_slope, (X, WEIGHTS, jnp.asarray(0.75)))
    jac = jax.jit(jax.jacfwd(prox_slope))
    for x in (jnp.zeros(6), jnp.ones(6), -X):
        found = jac(x, WEIGHTS)
        np.testing.assert_allclose(found, found.T, atol=1e-14)
        np.testing.assert_allclose(found, jax.jacrev(prox_slope)(x, WEIGHTS), atol=1e-14)


@pytest.mark.float32
def test_dtype_and_batches():
    xs = jnp.stack([X, -X, jnp.zeros(6)]).astype(jnp.float32)
    out = jax.vmap(slope, in_axes=(0, None))(xs, WEIGHTS)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out[1], -out[0])
    assert slope(X.astype(jnp.bfloat16), WEIGHTS).dtype == jnp.bfloat16


def test_bad_input():
    with pytest.raises(ValueError, match="weights must not increase"):
        prox_slope(X, WEIGHTS[::-1])
    with pytest.raises(ValueError, match="weights must be non-negative"):
        prox_slope(X, -1.0)
    with pytest.raises(ValueError, match=r"vector of shape \(6,\)"):
        prox_slope(X, jnp.ones(5))
    with pytest.raises(TypeError, match="x must be real"):
        prox_slope(X.astype(complex))
