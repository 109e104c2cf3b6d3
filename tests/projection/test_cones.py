"""Cones, spectral sets, affine sets, sparse simplex: optimality at hard points, kinks, closed forms, bad input."""

import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxsolve import projection
from tests.projection.checks import check_derivatives

ALPHAS = (0.05, 0.5, 0.8)
# Ties, zeros, and ratios of thirty orders of magnitude.
numbers = st.one_of(
    st.integers(-3, 3).map(float),
    st.tuples(st.sampled_from([-1.0, 1.0]), st.floats(-15, 15)).map(lambda v: v[0] * 10.0 ** v[1]),
)
triples = hnp.arrays(np.float64, 3, elements=numbers)
exponential = jax.jit(jax.value_and_grad(lambda v, w: jnp.vdot(w, projection.projection_exponential_cone(v)), 1))
power = jax.jit(jax.value_and_grad(lambda v, w, a: jnp.vdot(w, projection.projection_power_cone(v, a)), 1))
exponential_jacobian = jax.jit(jax.jacfwd(projection.projection_exponential_cone))
power_jacobian = jax.jit(jax.jacfwd(projection.projection_power_cone))


def distance_below_exponential(p):
    """How far ``log c`` is below ``log b + a / b``, in units of what rounding of p may change; 0 inside of the cone."""
    a, b, c = p
    if b <= 1e-14:
        return max(a, -b, -c, 0.0)
    if c <= 0:
        return -c + b * np.exp(min(a / b, 0.0))
    return max(np.log(b) + a / b - np.log(c), 0.0) * min(b, c) / (1 + abs(a / b))


def check_projection(v, p, violation):
    """``p`` is in the cone and orthogonal to ``p - v``; that this is in the dual cone, other points will say."""
    size = np.abs(v).max() or 1.0
    assert violation(p / size) <= 1e-14
    assert abs(p / size @ ((p - v) / size)) <= 1e-14


@hypothesis.given(v=triples, s=st.floats(-30, 30))
@hypothesis.settings(max_examples=100)
def test_exponential_cone(v, s):
    p = np.asarray(exponential(v, np.zeros(3))[1])
    check_projection(v, p, distance_below_exponential)
    # No point of the cone on the same side as p - v is from it.
    size = np.abs(v).max() or 1.0
    ray = np.array([s, 1.0, np.exp(s)])
    for point in (ray / np.linalg.norm(ray), np.array([-1.0, 0, 0]), np.array([0, 0, 1.0])):
        assert (p - v) @ point >= -1e-14 * size
    jac = exponential_jacobian(v)
    np.testing.assert_allclose(jac, jac.T, atol=1e-12)
    assert np.linalg.eigvalsh(jac).min() >= -1e-12 and np.linalg.eigvalsh(jac).max() <= 1 + 1e-12


@pytest.mark.parametrize("alpha", ALPHAS)
@hypothesis.given(v=triples, s=st.floats(-30, 30), sign=st.sampled_from([-1.0, 1.0]))
@hypothesis.settings(max_examples=40)
def test_power_cone(alpha, v, s, sign):
    p = np.asarray(power(v, np.zeros(3), alpha)[1])
    mean = lambda p: np.maximum(p[0], 0) ** alpha * np.maximum(p[1], 0) ** (1 - alpha)
    check_projection(v, p, lambda p: max(abs(p[2]) - mean(p) * (1 + 1e-12), -p[0], -p[1], 0.0))
    ray = np.array([np.exp((1 - alpha) * s), np.exp(-alpha * s), sign])
    assert (p - v) @ ray >= -1e-13 * np.linalg.norm(ray) * np.abs(v).max()
    jac = power_jacobian(v, alpha)
    np.testing.assert_allclose(jac, jac.T, atol=1e-12)
    assert np.linalg.eigvalsh(jac).min() >= -1e-12 and np.linalg.eigvalsh(jac).max() <= 1 + 1e-12


def test_dual_cones_by_moreau():
    v = jnp.array([0.3, -0.5, 1.0])
    for cone, dual in (
        (projection.projection_exponential_cone, projection.projection_dual_exponential_cone),
        (projection.projection_power_cone, projection.projection_dual_power_cone),
    ):
        np.testing.assert_allclose(cone(v) - dual(-v), v, atol=1e-15)
        np.testing.assert_allclose(jnp.vdot(cone(v), dual(-v)), 0, atol=1e-15)
        np.testing.assert_allclose(jax.jacobian(cone)(v) + jax.jacrev(dual)(-v), np.eye(3), atol=1e-14)


@pytest.mark.float32
@pytest.mark.parametrize("name", ["exponential_cone", "power_cone", "dual_power_cone", "second_order_cone"])
@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_extreme_sizes_in_float32(name, size):
    fun = getattr(projection, f"projection_{name}")
    v = np.array([0.3, -0.5, 1.0], np.float32)
    scaled = jnp.asarray(v * np.float32(size))
    np.testing.assert_allclose(fun(scaled) / np.float32(size), fun(jnp.asarray(v)), atol=1e-6)
    assert np.all(np.isfinite(jax.jacrev(fun)(scaled)))


def test_second_order_cone_by_cases():
    fun = projection.projection_second_order_cone
    np.testing.assert_array_equal(fun(jnp.array([2.0, 1.0, 0.0])), [2.0, 1.0, 0.0])
    np.testing.assert_array_equal(fun(jnp.array([-2.0, 1.0, 0.0])), np.zeros(3))
    t, z = fun((jnp.array(0.0), {"a": jnp.array([3.0, 0.0]), "b": jnp.array(4.0)}))
    np.testing.assert_allclose([t, *z["a"], z["b"]], [2.5, 1.5, 0.0, 2.0])
    # At the apex, on the axis, on the boundary.
    np.testing.assert_array_equal(jax.jacobian(fun)(jnp.zeros(3)), np.zeros((3, 3)))
    np.testing.assert_array_equal(jax.jacobian(fun)(jnp.array([1.0, 0.0, 0.0])), np.eye(3))
    np.testing.assert_allclose(jax.jacobian(fun)(jnp.array([1.0, 1.0])), np.full((2, 2), 0.5))


def test_power_cone_where_the_last_entry_is_zero():
    jac = lambda v, alpha: np.asarray(power_jacobian(jnp.array(v), alpha))
    for alpha, slope in ((0.8, 1.0), (0.2, 0.0), (0.5, 1.0 / 5.0)):
        np.testing.assert_allclose(jac([1.0, -2.0, 0.0], alpha), np.diag([1.0, 0.0, slope]))
        np.testing.assert_allclose(jac([-2.0, 1.0, 0.0], 1 - alpha), np.diag([0.0, 1.0, slope]))
    np.testing.assert_allclose(jac([1.0, -2.0, 1e-9], 0.5), np.diag([1.0, 0.0, 0.2]), atol=1e-8)


SPECTRAL = {
    "psd_cone": projection.projection_psd_cone,
    "spectrahedron": projection.projection_spectrahedron,
    "nuclear_norm_ball": projection.projection_nuclear_norm_ball,
}


@pytest.mark.parametrize("name", SPECTRAL)
def test_spectral_derivatives_are_finite_at_ties_and_zeros(name):
    fun = SPECTRAL[name]
    twice = jax.jit(jax.hessian(lambda x: jnp.sum(jnp.sin(fun(x)))))
    for x in (np.eye(3), -np.eye(3), np.zeros((3, 3)), np.diag([1.0, 1.0, -1.0]), np.ones((3, 3))):
        assert np.all(np.isfinite(twice(jnp.asarray(x))))
    np.testing.assert_allclose(jax.jacobian(fun)(jnp.zeros((1, 1))), 1.0 if name == "nuclear_norm_ball" else 0.0)


def test_balls_of_groups_and_singular_values_have_the_identity_as_derivative_on_the_boundary():
    for fun in (projection.projection_l12_ball, projection.projection_nuclear_norm_ball):
        for x, radius in (((0.0, 2.0), 2.0), ((3.0, -4.0), 5.0)):
            jac = jax.jacobian(lambda v: fun(v[None], radius)[0])(jnp.array(x))
            np.testing.assert_allclose(jac, np.eye(2), atol=1e-12)
        assert not np.any(jax.jacobian(fun)(jnp.zeros((1, 1)), 0.0))


@pytest.mark.parametrize("name", SPECTRAL)
@hypothesis.given(values=hnp.arrays(np.float64, 3, elements=st.integers(-4, 4).map(lambda i: i / 2.0)))
@hypothesis.settings(max_examples=10)
def test_spectral_projections_are_those_of_the_eigenvalues(name, values):
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    of_vector = {
        "psd_cone": projection.projection_non_negative,
        "spectrahedron": projection.projection_simplex,
        "nuclear_norm_ball": projection.projection_l1_ball,
    }[name]
    expected = (q * np.asarray(of_vector(jnp.asarray(values)))) @ q.T
    np.testing.assert_allclose(SPECTRAL[name](jnp.asarray((q * values) @ q.T)), expected, atol=1e-12)


def test_infinities_show():
    nothing = lambda out: not np.all(np.isfinite(np.asarray(out)))
    assert nothing(projection.projection_second_order_cone(jnp.array([1.0, jnp.inf])))
    for fun in (projection.projection_exponential_cone, projection.projection_dual_power_cone):
        for v in ([1.0, np.inf, 2.0], [-np.inf, 1.0, 2.0], [1.0, 2.0, np.nan]):
            assert nothing(fun(jnp.array(v)))
    for fun in SPECTRAL.values():
        assert nothing(fun(jnp.array([[1.0, jnp.inf], [jnp.inf, 2.0]])))
    assert nothing(projection.projection_affine_set(jnp.array([1.0, jnp.inf]), (jnp.ones((1, 2)), jnp.ones(1))))


@hypothesis.given(
    A=hnp.arrays(np.float64, (3, 4), elements=st.integers(-2, 2).map(float)),
    b=hnp.arrays(np.float64, 3, elements=st.integers(-2, 2).map(float)),
)
def test_affine_set_of_any_rank_against_least_squares(A, b):
    x = np.array([0.5, -1.0, 2.0, 0.25])
    z = np.asarray(projection.projection_affine_set(jnp.asarray(x), (jnp.asarray(A), jnp.asarray(b))))
    step = np.linalg.lstsq(A, b - A @ x, rcond=1e-12)[0]
    np.testing.assert_allclose(z, x + step, atol=1e-10)


def test_affine_set_derivatives_without_full_rank():
    # The rank is kept along these changes.
    A, b = jnp.array([[1.0, 2.0, 0.5], [2.0, 4.0, 1.0]]), jnp.array([1.0, 1.5])
    fun = lambda x, row, b: projection.projection_affine_set(x, (jnp.outer(jnp.array([1.0, 2.0]), row), b))
    check_derivatives(fun, (jnp.array([1.0, 0.0, -1.0]), A[0], b))
    tree = projection.projection_affine_set({"a": jnp.ones(2), "b": jnp.ones(())}, (A, b))
    np.testing.assert_allclose(tree["a"], projection.projection_affine_set(jnp.ones(3), (A, b))[:2])


def test_sparse_simplex():
    x = jnp.array([0.5, 0.25, 0.5, -3.0, 0.5])
    np.testing.assert_allclose(projection.projection_sparse_simplex(x, 2), [0.5, 0, 0.5, 0, 0])
    np.testing.assert_allclose(
        projection.projection_sparse_simplex(x, 5, value=2.0), projection.projection_simplex(x, 2.0)
    )
    np.testing.assert_allclose(
        projection.projection_sparse_simplex(x, 2, True), projection.projection_sparse_simplex(x, 2)
    )
    for count in (0, -1):
        with pytest.raises(ValueError, match="max_nz must be at least 1"):
            projection.projection_sparse_simplex(x, count)
    with pytest.raises(TypeError, match="max_nz must be a Python integer"):
        projection.projection_sparse_simplex(x, 1.5)
    with pytest.raises(ValueError, match="vmap"):
        projection.projection_sparse_simplex(jnp.ones((2, 2)), 1)


def test_bad_shapes_and_exponents():
    for fun in (projection.projection_exponential_cone, projection.projection_power_cone):
        with pytest.raises(ValueError, match=r"shape \(3,\).*got shape \(4,\).*vmap"):
            fun(jnp.ones(4))
    for fun in SPECTRAL.values():
        with pytest.raises(ValueError, match=r"got shape \(3,\).*vmap"):
            fun(jnp.ones(3))
    with pytest.raises(ValueError, match="square matrix"):
        projection.projection_psd_cone(jnp.ones((2, 3)))
    with pytest.raises(TypeError, match="x must be real"):
        projection.projection_psd_cone(jnp.ones((2, 2), complex))
    for alpha in (0.0, 1.0, jnp.nan):
        with pytest.raises(ValueError, match="strictly between 0 and 1"):
            projection.projection_power_cone(jnp.ones(3), alpha)
    assert np.all(np.isnan(jax.jit(projection.projection_power_cone)(jnp.ones(3), 1.5)))
    with pytest.raises(ValueError, match="a vector with at least one entry or a pair"):
        projection.projection_second_order_cone(jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="pair"):
        projection.projection_second_order_cone({"a": 1.0, "b": 2.0})
    with pytest.raises(ValueError, match="first axis"):
        projection.projection_l12_ball(1.0)
    with pytest.raises(ValueError, match=r"a column for each entry of x, \(2, 3\); got shape \(2, 2\)"):
        projection.projection_affine_set(jnp.ones(3), (jnp.ones((2, 2)), jnp.ones(2)))
    with pytest.raises(ValueError, match="A must have 2 axes"):
        projection.projection_affine_set(jnp.ones(3), (jnp.ones(3), jnp.ones(3)))
