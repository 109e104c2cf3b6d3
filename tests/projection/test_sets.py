"""Boxes, Euclidean balls, hyperplanes and halfspaces: closed forms, kinks, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import projection as P

X = jnp.array([3.0, -4.0])


def test_box_at_the_bounds_follows_the_bound():
    x, lower, upper = jnp.array([0.0, 0.5, 1.0, 2.0]), jnp.array([0.0, 0.0, 0.0, 2.0]), jnp.array([1.0, 1.0, 1.0, 2.0])
    fun = lambda x, lower, upper: P.projection_box(x, (lower, upper))
    by_x, by_lower, by_upper = jax.jacobian(fun, (0, 1, 2))(x, lower, upper)
    np.testing.assert_array_equal(np.diag(by_x), [0, 1, 0, 0])
    np.testing.assert_array_equal(np.diag(by_lower), [1, 0, 0, 1])
    np.testing.assert_array_equal(np.diag(by_upper), [0, 0, 1, 0])


def test_box_with_infinite_bounds():
    bounds = (jnp.array([-jnp.inf, 0.0]), jnp.array([1.0, jnp.inf]))
    np.testing.assert_array_equal(P.projection_box(X, bounds), [1.0, 0.0])
    jac = jax.jacobian(lambda lo: P.projection_box(X, (lo, bounds[1])))(bounds[0])
    np.testing.assert_array_equal(jac, [[0, 0], [0, 1]])


def test_box_bounds_are_broadcast_and_checked():
    tree = {"a": jnp.ones((2, 3)), "b": jnp.array(5.0)}
    out = P.projection_box(tree, ({"a": jnp.array([0.0, 2.0, 3.0]), "b": 0}, 4))
    np.testing.assert_array_equal(out["a"], [[1.0, 2, 3], [1, 2, 3]])
    assert out["b"] == 4
    with pytest.raises(ValueError, match="lower must not exceed upper"):
        P.projection_box(X, (1.0, 0.0))
    with pytest.raises(ValueError, match="lower must not exceed upper"):
        P.projection_box(X, (jnp.nan, 0.0))
    with pytest.raises(ValueError, match=r"upper of shape \(3,\) does not broadcast to x of shape \(2,\)"):
        P.projection_box(X, (0.0, jnp.ones(3)))
    with pytest.raises(ValueError, match="lower must be a scalar or have the structure of x"):
        P.projection_box(tree, ({"c": 0.0}, 1.0))
    with pytest.raises(ValueError, match="upper must be a scalar or have the structure of x"):
        P.projection_box(X, (0.0, None))
    # Traced bounds are not looked at.
    assert np.all(np.isin(jax.jit(lambda b: P.projection_box(X, (b, 0.0)))(1.0), [0.0, 1.0]))
    assert np.all(np.isnan(jax.jit(lambda b: P.projection_box(X, (b, 9.0)))(jnp.nan)))


def test_non_negative_at_zero():
    np.testing.assert_array_equal(jax.grad(lambda x: P.projection_non_negative(x))(0.0), 0.0)
    np.testing.assert_array_equal(P.projection_non_negative({"a": X}, "ignored")["a"], [3.0, 0.0])


def test_hypercube_and_linf_ball():
    np.testing.assert_array_equal(P.projection_hypercube(X, jnp.array([2.0, 1.0])), [2.0, 0.0])
    np.testing.assert_array_equal(P.projection_linf_ball({"a": X, "b": 0.5}, 2.0)["a"], [2.0, -2.0])
    np.testing.assert_array_equal(jax.jit(jax.jacobian(P.projection_linf_ball, 1))(X, 2.0), [1.0, -1.0])


def test_l2_ball_by_cases():
    np.testing.assert_allclose(P.projection_l2_ball(X, 1.0), [0.6, -0.8])
    np.testing.assert_array_equal(P.projection_l2_ball(X, 6.0), X)
    # At 0, where the norm has no derivative.
    np.testing.assert_array_equal(jax.jit(jax.jacobian(P.projection_l2_ball))(jnp.zeros(2), 1.0), np.eye(2))
    # On the boundary: the identity.
    unit = np.array([0.6, -0.8])
    tangent = np.eye(2) - np.outer(unit, unit)
    np.testing.assert_array_equal(jax.jit(jax.jacobian(P.projection_l2_ball))(X, 5.0), np.eye(2))
    np.testing.assert_array_equal(jax.jit(jax.jacobian(P.projection_l2_ball, 1))(X, 5.0), np.zeros(2))
    np.testing.assert_array_equal(jax.jit(jax.jacobian(P.projection_l2_ball))(jnp.zeros(2), 0.0), np.zeros((2, 2)))
    np.testing.assert_allclose(jax.jit(jax.jacobian(P.projection_l2_ball))(X, 1.0), tangent / 5, atol=1e-15)
    np.testing.assert_allclose(jax.jit(jax.jacobian(P.projection_l2_ball, 1))(X, 0.0), unit, atol=1e-15)


def test_l2_sphere_at_zero():
    out = P.projection_l2_sphere({"a": jnp.zeros((3, 2)), "b": jnp.zeros(3)}, 6.0)
    np.testing.assert_allclose(out["a"], np.full((3, 2), 2.0))
    np.testing.assert_array_equal(jax.jit(jax.jacobian(P.projection_l2_sphere))(jnp.zeros(4)), np.zeros((4, 4)))
    np.testing.assert_allclose(jax.jit(jax.jacobian(P.projection_l2_sphere, 1))(jnp.zeros(4), 1.0), np.full(4, 0.5))
    hessian = jax.jit(jax.hessian(lambda x: P.projection_l2_sphere(x)[0]))(jnp.zeros(4))
    assert np.all(np.isfinite(hessian))


def test_complex_l2():
    z = jnp.array([3.0 + 0j, 4j])
    np.testing.assert_allclose(P.projection_l2_ball(z), z / 5)
    np.testing.assert_allclose(P.projection_l2_sphere(z, 10.0), 2 * z)


def test_hyperplane_and_halfspace():
    a = jnp.array([1.0, 2.0])
    on_plane = X - (a @ X - 1.0) / 5 * a
    np.testing.assert_allclose(P.projection_hyperplane(X, (a, 1.0)), on_plane)
    np.testing.assert_array_equal(P.projection_halfspace(X, (a, 1.0)), X)
    np.testing.assert_allclose(P.projection_halfspace(X, (-a, -1.0)), on_plane)
    # On the boundary, <a, x> = b, the derivative is the identity, beyond it that of the hyperplane.
    jacobian = jax.jacobian(lambda x, b: P.projection_halfspace(x, (a, b)), (0, 1))
    for b, jac_x, jac_b in ((-5.0, np.eye(2), np.zeros(2)), (-5.5, np.eye(2) - np.outer(a, a) / 5, a / 5)):
        np.testing.assert_allclose(jacobian(X, b)[0], jac_x, atol=1e-15)
        np.testing.assert_allclose(jacobian(X, b)[1], jac_b)


@pytest.mark.float32
@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_length_of_the_normal_does_not_matter(size):
    x, a = jnp.array([3.0, -4.0], jnp.float32), jnp.array([1.0, 2.0], jnp.float32)
    for fun in (P.projection_hyperplane, P.projection_halfspace):
        expected = fun(x, (a, -20.0))
        np.testing.assert_allclose(fun(x, (a * size, -20.0 * size)), expected, atol=2e-6)


def test_zero_normal():
    for fun in (P.projection_hyperplane, P.projection_halfspace):
        with pytest.raises(ValueError, match="a must not be 0"):
            fun(X, (jnp.zeros(2), 1.0))
        with pytest.raises(ValueError, match="b must be a scalar"):
            fun(X, (X, X))
        traced = jax.jit(lambda a, b, fun=fun: fun(X, (a, b)))
        np.testing.assert_array_equal(traced(jnp.zeros(2), 0.0), X)
        assert np.all(np.isnan(traced(jnp.zeros(2), -1.0)))
    np.testing.assert_array_equal(jax.jit(lambda a: P.projection_halfspace(X, (a, 1.0)))(jnp.zeros(2)), X)
