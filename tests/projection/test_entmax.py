"""Entmax of any order: known special cases, the root by SciPy, derivatives, masks, scales; and its loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxsolve import loss
from jaxsolve.projection import entmax, projection_simplex
from tests.projection.checks import check_derivatives

X = np.array([1.0, 0.7, 0.6, -0.2, -1.5, -8.0])
ALPHAS = (0.3, 0.999, 1.0, 1 + 1e-9, 1.3, 1.5, 2.0, 3.0, 7.0)
run = jax.jit(entmax)


def tsallis(p, alpha):
    p = p[p > 0]
    return -np.sum(p * np.log(p)) if alpha == 1 else np.sum(p - p**alpha) / (alpha * (alpha - 1))


def by_root(x, alpha):
    """The same equation in another unknown, by Brent's method."""
    c = alpha - 1
    power = lambda tau: np.maximum(c * x - tau, 0) ** (1 / c)
    low, high = (np.max(c * x) - 1, np.max(c * x)) if c > 0 else (np.max(c * x) - x.size**-c, np.min(c * x) - 1e-12)
    return power(scipy.optimize.brentq(lambda tau: np.sum(power(tau)) - 1, low, high, xtol=1e-15, rtol=1e-14))


@pytest.mark.parametrize("alpha", [1.3, 1.5, 2.0, 3.0, 7.0])
def test_against_a_root_by_scipy(alpha):
    for scale in (1.0, 0.01, 30.0):
        np.testing.assert_allclose(run(scale * X, alpha), by_root(scale * X, alpha), atol=2e-11)


def test_softmax_and_sparsemax_are_two_of_them():
    np.testing.assert_allclose(run(X, 1.0), jax.nn.softmax(jnp.asarray(X)), rtol=1e-14)
    np.testing.assert_allclose(run(X, 1 + 1e-12), jax.nn.softmax(jnp.asarray(X)), rtol=1e-10)
    np.testing.assert_allclose(run(X, 2.0), projection_simplex(X), atol=1e-15)
    jacobian = jax.jit(jax.jacobian(entmax))
    np.testing.assert_allclose(jacobian(X, 1.0), jax.jacobian(jax.nn.softmax)(X), atol=1e-14)
    np.testing.assert_allclose(jacobian(X, 2.0), jax.jacobian(projection_simplex)(X), atol=1e-14)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_it_maximizes_score_plus_entropy(alpha):
    alpha_ = 1.0 if abs(alpha - 1) < 1e-6 else alpha
    p = np.asarray(run(X, alpha))
    assert abs(np.sum(p) - 1) < 1e-14
    value = p @ X + tsallis(p, alpha_)
    rng = np.random.default_rng(0)
    for other in (*rng.dirichlet(np.ones(6), 50), *(0.999 * p + 0.001 * q for q in rng.dirichlet(np.ones(6), 50))):
        assert other @ X + tsallis(other, alpha_) <= value + 1e-8 * (alpha_ != alpha) + 1e-12


@pytest.mark.parametrize("alpha", [pytest.param(0.3, marks=pytest.mark.slow), 1.0, 1.4, 2.5])
def test_derivatives_in_scores_and_order(alpha):
    # No entry is near the threshold, where higher derivatives are large.
    x = jnp.asarray(0.6 * X)
    check_derivatives(lambda t, a: (entmax(t, a), loss.multiclass_entmax_loss(2, t, a)), (x, jnp.asarray(alpha)))


@pytest.mark.parametrize("alpha", [0.3, 1.0, 1.5, 7.0])
def test_masks_and_extremes(alpha):
    masked = np.array([1.0, -np.inf, 0.5, -np.inf])
    for dtype in (jnp.float32, jnp.float64):
        p = run(jnp.asarray(masked, dtype), alpha)
        assert p.dtype == dtype
        np.testing.assert_allclose(p[::2], run(jnp.asarray(masked[::2], dtype), alpha), rtol=1e-5)
        assert not np.any(p[1::2])
        jacobian = jax.jit(jax.jacobian(entmax, (0, 1)))(jnp.asarray(masked, dtype), jnp.asarray(alpha, dtype))
        assert all(np.all(np.isfinite(part)) for part in jacobian)
        far = run(jnp.asarray([0.0, -1e30], dtype), alpha)
        np.testing.assert_allclose(far, [1.0, 0.0], atol=2e-4 if alpha >= 0.999 else 1e-6)
        np.testing.assert_allclose(run(jnp.full(1000, 1e6, dtype), alpha), 1e-3, rtol=1e-5)
        for bad in ([np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]):
            assert np.all(np.isnan(run(jnp.asarray(bad, dtype), alpha)))
    np.testing.assert_array_equal(run(jnp.asarray([3.0]), alpha), [1.0])


def test_pytrees_batches_and_bad_input():
    out = entmax({"a": jnp.asarray(X[:2], jnp.bfloat16), "b": jnp.asarray(X[2:])})
    assert out["a"].dtype == jnp.bfloat16
    np.testing.assert_allclose(out["b"], run(X, 1.5)[2:], atol=1e-2)
    batch = jax.vmap(entmax, (0, 0))(np.stack([X, -X]), np.array([1.2, 2.0]))
    np.testing.assert_allclose(batch[1], run(-X, 2.0), atol=1e-15)
    for call, match in (
        (lambda: entmax(jnp.ones((2, 2))), "vector"),
        (lambda: entmax(jnp.ones(0)), "vector"),
        (lambda: entmax(jnp.ones(2), 0.0), "alpha"),
        (lambda: entmax(jnp.ones(2), jnp.ones(2)), "alpha must be a scalar"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    assert np.all(np.isnan(run(X, -1.0)))


def test_loss():
    scores, labels = np.stack([X, -X, X[::-1]]), np.array([0, 3, 2])
    logistic = loss.multiclass_logistic_loss(labels, scores)
    np.testing.assert_allclose(loss.multiclass_entmax_loss(labels, scores, 1.0), logistic, rtol=1e-13)
    sparsemax = loss.multiclass_sparsemax_loss(labels, scores)
    np.testing.assert_allclose(loss.multiclass_entmax_loss(labels, scores, 2.0), sparsemax, rtol=1e-13)
    values, grads = jax.vmap(jax.value_and_grad(loss.multiclass_entmax_loss, 1))(labels, jnp.asarray(scores))
    np.testing.assert_allclose(grads, jax.vmap(entmax)(scores) - np.eye(6)[labels], atol=1e-14)
    p = np.asarray(run(X, 1.5))
    np.testing.assert_allclose(values[0], p @ X + tsallis(p, 1.5) - X[0], rtol=1e-13)
    # At its margin, 1 / (alpha - 1), it vanishes.
    assert float(loss.multiclass_entmax_loss(0, jnp.asarray([2.0, 0.0, -np.inf]), 1.5)) == 0.0
    assert loss.multiclass_entmax_loss(labels, jnp.asarray(scores, jnp.bfloat16)).dtype == jnp.bfloat16
