"""The section of a box by a hyperplane: optimality, hard cases, vertices, empty sets."""

import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.optimize import brentq

from jaxsolve.projection import projection_box_section, projection_hyperplane, projection_simplex

section = jax.jit(lambda x, lo, up, w, c: projection_box_section(x, (lo, up, w, c)))
quarters = st.integers(-12, 12).map(lambda i: i / 4.0)
vectors = hnp.arrays(np.float64, 7, elements=quarters)


@hypothesis.given(x=vectors, low=vectors, width=vectors, w=vectors, position=st.floats(0, 1))
@hypothesis.settings(max_examples=60)
def test_optimality(x, low, width, w, position):
    up = low + np.abs(width)
    reach = np.sum(np.minimum(w * low, w * up)), np.sum(np.maximum(w * low, w * up))
    c = reach[0] + position * (reach[1] - reach[0])
    z = np.asarray(section(x, low, up, w, c))
    assert np.all((z >= low) & (z <= up))
    np.testing.assert_allclose(w @ z, c, atol=1e-11)
    # z = clip(x - mu w) for one mu: at mu from the interval that each entry allows.
    movable = (w != 0) & (low < up)
    np.testing.assert_allclose(z[~movable], np.clip(x, low, up)[~movable])
    mu = (x - z)[movable] / w[movable]
    slack = 1e-9
    may_rise = np.where(w[movable] > 0, z[movable] <= low[movable] + slack, z[movable] >= up[movable] - slack)
    may_fall = np.where(w[movable] > 0, z[movable] >= up[movable] - slack, z[movable] <= low[movable] + slack)
    # An entry pushed below its lower bound needs mu at least its own, and so on.
    least = mu[~may_fall].max(initial=-np.inf)
    most = mu[~may_rise].min(initial=np.inf)
    assert least <= most + 1e-8


def test_against_root_finding():
    rng = np.random.default_rng(0)
    for _ in range(5):
        x, w = 3 * rng.normal(size=7), rng.normal(size=7)
        low, up = -rng.uniform(size=7), rng.uniform(size=7)
        c = 0.3 * rng.normal()
        excess = lambda mu, x=x, w=w, low=low, up=up, c=c: w @ np.clip(x - mu * w, low, up) - c
        mu = brentq(excess, -1e4, 1e4, xtol=1e-15, rtol=1e-15)
        np.testing.assert_allclose(section(x, low, up, w, c), np.clip(x - mu * w, low, up), atol=1e-12)


def test_simplex_and_hyperplane_are_special_cases():
    x, w = jnp.array([0.9, -1.3, 2.1, 0.3]), jnp.array([1.0, -2.0, 0.5, 0.0])
    fun = lambda x: projection_box_section(x, (0.0, jnp.inf, 1.0, 1.5))
    np.testing.assert_allclose(fun(x), projection_simplex(x, 1.5), atol=1e-15)
    fun = lambda x, w: projection_box_section(x, (-jnp.inf, jnp.inf, w, 1.5))
    plane = lambda x, w: projection_hyperplane(x, (w, 1.5))
    np.testing.assert_allclose(fun(x, w), plane(x, w), atol=1e-15)
    jacobians = jax.jit(lambda: (jax.jacobian(fun, 1)(x, w), jax.jacobian(plane, 1)(x, w)))()
    np.testing.assert_allclose(*jacobians, atol=1e-14)


@pytest.mark.float32
def test_huge_entries_with_ties():
    x = jnp.array([1e30, 1e30, -1e30, 3.0], jnp.float32)
    fun = lambda x: projection_box_section(x, (0.0, 1.0, 1.0, 1.0))
    np.testing.assert_allclose(fun(x), [0.5, 0.5, 0.0, 0.0])
    jac = jax.jit(jax.jacobian(fun))(x)
    np.testing.assert_allclose(jac[:2, :2], [[0.5, -0.5], [-0.5, 0.5]])
    small = jnp.array([1.0, 2.0], jnp.float32) * 1e-30
    np.testing.assert_allclose(projection_box_section(small, (0.0, 1.0, 1e-20, 1e-20)), [0.5, 0.5], rtol=1e-6)


@pytest.mark.float32
def test_accuracy_in_float32():
    x = np.random.default_rng(0).normal(size=2000)
    w = np.where(np.arange(2000) % 2, 1.0, -1.0)
    exact = np.asarray(section(x, np.zeros(2000), np.ones(2000), w, 3.0), np.float64)
    single = projection_box_section(jnp.asarray(x, jnp.float32), (0.0, 1.0, jnp.asarray(w, jnp.float32), 3.0))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, exact, atol=2e-6)


def test_vertex():
    # All weight on the first entry, and the others cut by a margin: moving x a little changes nothing.
    x, fun = jnp.array([5.0, 0.5, -2.0]), lambda x, c: projection_box_section(x, (0.0, 1.0, 1.0, c))
    np.testing.assert_allclose(fun(x, 1.0), [1.0, 0.0, 0.0])
    by_x, by_c = jax.jit(jax.jacobian(fun, (0, 1)))(x, 1.0)
    np.testing.assert_array_equal(by_x, np.zeros((3, 3)))
    # One-sided, and consistent with the equation.
    np.testing.assert_allclose(jnp.sum(by_c), 1.0)
    hessian = jax.jit(jax.hessian(lambda c: fun(x, c)[0]))
    for c in (0.0, 3.0):
        np.testing.assert_allclose(fun(x, c), np.full(3, c / 3))
        assert np.isfinite(hessian(c))


def test_empty_set():
    x = jnp.zeros(3)
    assert np.all(np.isnan(projection_box_section(x, (0.0, 1.0, 1.0, 3.5))))
    assert np.all(np.isnan(jax.jit(lambda c: projection_box_section(x, (0.0, 1.0, 1.0, c), True))(-0.5)))
    with pytest.raises(ValueError, match=r"set is empty; over the box .* from 0.0 to 3.0, but c is 3.5"):
        projection_box_section(x, (0.0, 1.0, 1.0, 3.5), check_feasible=True)
    with pytest.raises(ValueError, match="alpha must not exceed beta"):
        projection_box_section(x, (2.0, 1.0, 1.0, 3.5))
    assert np.all(np.isnan(jax.jit(lambda a: projection_box_section(x, (a, 1.0, 1.0, 3.0)))(2.0)))
    with pytest.raises(ValueError, match="c must be a scalar"):
        projection_box_section(x, (0.0, 1.0, 1.0, x))
    with pytest.raises(ValueError, match=r"w of shape \(2,\) does not broadcast"):
        projection_box_section(x, (0.0, 1.0, jnp.ones(2), 1.0))
    # No entry has a weight: the equation is 0 = c.
    np.testing.assert_array_equal(projection_box_section(x - 1, (0.0, 1.0, 0.0, 0.0), check_feasible=True), x)


def test_fixed_entries():
    low, up = jnp.array([0.5, 0.0, 0.0]), jnp.array([0.5, 1.0, 1.0])
    fun = lambda low, up: projection_box_section(jnp.array([9.0, 0.2, 0.3]), (low, up, 1.0, 1.0))
    np.testing.assert_allclose(fun(low, up), [0.5, 0.2, 0.3])
    np.testing.assert_allclose(sum(jax.jacobian(fun, (0, 1))(low, up))[:, 0], [1.0, -0.5, -0.5])
