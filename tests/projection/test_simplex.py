"""The simplex and the l1 sphere and ball, against a sort-based oracle and at their kinks."""

import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxsolve.projection import projection_l1_ball, projection_l1_sphere, projection_simplex

simplex = jax.jit(projection_simplex)


def oracle(x, value):
    u = np.sort(x.astype(np.float64))[::-1]
    taus = (np.cumsum(u) - value) / np.arange(1, x.size + 1)
    return np.maximum(x - taus[np.flatnonzero(u > taus)[-1]], 0)


@hypothesis.given(x=hnp.arrays(np.float64, 9, elements=st.floats(-1e3, 1e3, width=32)), value=st.floats(2**-10, 1e4))
def test_against_sort(x, value):
    np.testing.assert_allclose(simplex(x, value), oracle(x, value), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("n", [1, 2, 1000])
def test_sizes(n):
    x = np.random.default_rng(n).normal(size=n)
    for value in (1e-3, 1.0, 1e4):
        np.testing.assert_allclose(projection_simplex(jnp.asarray(x), value), oracle(x, value), atol=1e-12)


def test_slow_case_of_newton():
    # Gaps that grow like factorials make the active set shrink by one a step.
    gaps = np.cumprod(np.arange(1.0, 18.0))
    x = np.concatenate([[1.0], -gaps / gaps[-1]])
    np.testing.assert_allclose(projection_simplex(jnp.asarray(x), 1.0), oracle(x, 1.0), atol=1e-14)


@pytest.mark.float32
def test_accuracy_in_float32():
    x = np.random.default_rng(0).normal(size=10_000).astype(np.float32) + np.float32(1000)
    p = np.asarray(projection_simplex(jnp.asarray(x)))
    np.testing.assert_allclose(p, oracle(x, 1.0), atol=1e-6)
    np.testing.assert_allclose(p.sum(dtype=np.float64), 1.0, atol=2e-6)


@pytest.mark.float32
def test_huge_and_tiny_sizes():
    x = jnp.array([1.0, 1.0, 0.0, -jnp.inf], jnp.float32)
    np.testing.assert_allclose(projection_simplex(x, 1e-30), [5e-31, 5e-31, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(projection_simplex(x, 3e30), [1e30, 1e30, 1e30, 0], rtol=1e-6)
    np.testing.assert_allclose(projection_simplex(jnp.array([1e30, 1e30, -3e38], jnp.float32)), [0.5, 0.5, 0])
    assert np.all(np.isfinite(jax.jacrev(projection_simplex)(x)))


def test_ties_share_evenly():
    np.testing.assert_allclose(projection_simplex(jnp.full(5, 7.0)), np.full(5, 0.2))
    jac = jax.jacobian(projection_simplex)(jnp.full(5, 7.0))
    np.testing.assert_allclose(jac, np.eye(5) - 0.2, atol=1e-15)


def test_entry_on_the_threshold_is_out():
    x = jnp.array([1.0, 0.0])
    np.testing.assert_array_equal(projection_simplex(x), [1.0, 0.0])
    np.testing.assert_array_equal(jax.jacobian(projection_simplex)(x), np.zeros((2, 2)))


def test_size_zero_has_the_one_sided_derivative():
    slope = jax.jacobian(projection_simplex, 1)(jnp.array([1.0, 3.0, 3.0]), 0.0)
    np.testing.assert_allclose(slope, [0.0, 0.5, 0.5])


def test_second_derivative_is_zero_in_float32_too():
    hessian = jax.jit(jax.hessian(lambda x: projection_simplex(x)[0]))(jnp.array([0.5, 0.4, -3.0], jnp.float32))
    assert hessian.dtype == jnp.float32 and not np.any(hessian)


def test_shapes():
    with pytest.raises(ValueError, match=r"shape \(2, 3\).*vmap"):
        projection_simplex(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"shape \(\)"):
        projection_simplex(1.0)
    with pytest.raises(ValueError, match="at least one entry"):
        projection_simplex(jnp.ones(0))
    with pytest.raises(ValueError, match="at least one entry"):
        projection_l1_ball({})
    assert projection_l1_ball(jnp.ones((2, 3))).shape == (2, 3)


def test_l1_ball_by_cases():
    inside = jnp.array([0.25, -0.5])
    np.testing.assert_array_equal(projection_l1_ball(inside), inside)
    np.testing.assert_array_equal(jax.jacobian(projection_l1_ball)(inside), np.eye(2))
    # On the boundary the derivative is the identity, beyond it that of the sphere.
    boundary = jnp.array([0.25, -0.75])
    np.testing.assert_allclose(projection_l1_ball(boundary), boundary)
    np.testing.assert_array_equal(jax.jacobian(projection_l1_ball)(boundary), np.eye(2))
    np.testing.assert_array_equal(jax.jacobian(projection_l1_ball, 1)(boundary, 1.0), np.zeros(2))
    sign = np.array([1.0, -1.0])
    np.testing.assert_allclose(jax.jacobian(projection_l1_ball)(boundary, 0.9), np.eye(2) - np.outer(sign, sign) / 2)
    np.testing.assert_allclose(jax.jacobian(projection_l1_ball, 1)(boundary, 0.9), sign / 2)
    np.testing.assert_array_equal(jax.jacobian(projection_l1_ball)(jnp.zeros(2), 0.0), np.zeros((2, 2)))
    # Soft thresholding with the threshold of the simplex.
    x = np.array([3.0, -2.0, 0.5])
    np.testing.assert_allclose(projection_l1_ball(jnp.asarray(x), 2.0), np.sign(x) * oracle(np.abs(x), 2.0))


def test_l1_sphere_from_inside_and_from_zero():
    np.testing.assert_allclose(projection_l1_sphere(jnp.array([0.1, -0.2, 0.0])), [0.3, -0.4, 0.3], atol=0.1)
    np.testing.assert_allclose(projection_l1_sphere(jnp.zeros(4), 2.0), np.full(4, 0.5))
