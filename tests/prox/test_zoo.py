"""Losses, barriers, divergences, total variation, nuclear norm, combinators: optimality, derivatives, hard input."""

import functools

import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
from hypothesis import strategies as st

from jaxsolve import ProximalGradient, projection, prox
from tests.projection.checks import check_derivatives

LABELS = np.array([1.0, -1.0, 1.0, 1.0, -1.0, -1.0])
TARGET = np.array([0.5, 1.0, 2.0, 0.25, 1.0, 0.0])


def huber(y, delta):
    return np.sum(np.where(np.abs(y) <= delta, 0.5 * y**2, delta * np.abs(y) - 0.5 * delta**2))


# name -> (prox of x, parameter and scaling, penalty, parameter, whether y must be non-negative)
CASES = {
    "huber": (prox.prox_huber, huber, 0.75, False),
    "quantile": (prox.prox_quantile, lambda y, q: np.sum(np.maximum(q * y, (q - 1) * y)), 0.75, False),
    "hinge": (
        lambda x, p, s=1.0: prox.prox_hinge(x, LABELS, s),
        lambda y, p: np.sum(np.maximum(1 - LABELS * y, 0)),
        0.0,
        False,
    ),
    "squared_hinge": (
        lambda x, p, s=1.0: prox.prox_squared_hinge(x, LABELS, s),
        lambda y, p: 0.5 * np.sum(np.maximum(1 - LABELS * y, 0) ** 2),
        0.0,
        False,
    ),
    "log_barrier": (prox.prox_log_barrier, lambda y, w: -np.sum(w * np.log(y)), 0.5, True),
    "kl": (prox.prox_kl, lambda y, q: np.sum(scipy.special.kl_div(y, q)), TARGET, True),
    "reverse_kl": (prox.prox_reverse_kl, lambda y, q: np.sum(scipy.special.kl_div(q, y)), TARGET, True),
    "linf": (prox.prox_linf, lambda y, r: r * np.max(np.abs(y)), 0.75, False),
    "total_variation": (prox.prox_total_variation, lambda y, r: r * np.sum(np.abs(np.diff(y))), 0.75, False),
    "nuclear_norm": (
        lambda x, r, s=1.0: prox.prox_nuclear_norm(x.reshape(2, 3), r, s).reshape(-1),
        lambda y, r: r * np.linalg.norm(y.reshape(2, 3), "nuc"),
        0.75,
        False,
    ),
}
FUNCTIONS = {name: jax.jit(case[0]) for name, case in CASES.items()}
X = np.array([0.9, -1.3, 2.1, 0.3, -0.2, 1.4])
points = hnp.arrays(np.float64, 6, elements=st.integers(-16, 16).map(lambda i: i / 4.0))


@functools.cache
def jacobians(name):
    fun = CASES[name][0]
    scalar = lambda x, p, s: jnp.sum(jnp.cos(fun(x, p, s)))
    return jax.jit(lambda *args: (jax.jacfwd(fun)(*args), jax.jacrev(fun)(*args), jax.hessian(scalar, (0, 2))(*args)))


@pytest.mark.parametrize("name", CASES)
@hypothesis.given(x=points, y=points, scaling=st.integers(0, 8).map(lambda i: i / 4.0))
@hypothesis.settings(max_examples=15)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_minimizes_and_is_firmly_nonexpansive(name, x, y, scaling):
    _, penalty, param, positive = CASES[name]
    # The domain is felt however small the scaling.
    scaling = max(scaling, 0.25) if name == "kl" else scaling
    px, py = (np.asarray(FUNCTIONS[name](v, param, scaling)) for v in (x, y))
    assert np.sum((px - py) ** 2) <= (px - py) @ (x - y) + 1e-12
    value = lambda z: 0.5 * np.sum((z - x) ** 2) + (scaling * penalty(z, param) if scaling else 0)
    for other in (y, py, px + 1e-3 * y):
        other = np.maximum(other, 0) if positive else other
        assert value(px) + 0.5 * np.sum((other - px) ** 2) <= value(other) + 1e-10


@pytest.mark.parametrize("name", CASES)
def test_derivatives_in_all_arguments(name):
    fun, _, param, _ = CASES[name]
    if name in ("hinge", "squared_hinge"):
        check_derivatives(lambda x, s: fun(x, None, s), (jnp.asarray(X), jnp.asarray(0.65)))
    elif name in ("kl", "reverse_kl"):
        # A target of 0 is a boundary.
        check_derivatives(lambda x, q, s: fun(x[:5], q, s), (jnp.asarray(X), jnp.asarray(param[:5]), jnp.asarray(0.65)))
    else:
        check_derivatives(fun, (jnp.asarray(X), jnp.asarray(param), jnp.asarray(0.65)))


@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_finite_and_symmetric_at_kinks(name):
    param = jnp.asarray(CASES[name][2])
    for x in (np.zeros(6), np.full(6, 0.75), np.ones(6), -X):
        for scaling in (1.0, 0.0):
            forward, reverse, second = jacobians(name)(jnp.asarray(x), param, scaling)
            np.testing.assert_allclose(forward, reverse, atol=1e-13)
            np.testing.assert_allclose(forward, forward.T, atol=1e-13)
            eigenvalues = np.linalg.eigvalsh(forward)
            assert eigenvalues.min() >= -1e-13 and eigenvalues.max() <= 1 + 1e-13
            assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(second))
            if scaling == 0 and not CASES[name][3]:
                np.testing.assert_allclose(forward, np.eye(6), atol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_dtype_is_kept_and_batches(name):
    fun, _, param, _ = CASES[name]
    param = jnp.asarray(param)
    for dtype in (jnp.float32, jnp.bfloat16):
        out = fun(jnp.asarray(X, dtype), param, jnp.asarray(0.8))
        assert out.dtype == dtype and not out.weak_type
    xs = jnp.stack([jnp.asarray(X), jnp.zeros(6)])
    batched = jax.vmap(FUNCTIONS[name], in_axes=(0, None, None))(xs, param, 0.8)
    np.testing.assert_allclose(batched[1], FUNCTIONS[name](xs[1], param, 0.8), atol=1e-6)
    assert np.any(np.isnan(FUNCTIONS[name](jnp.asarray(X).at[1].set(jnp.nan), param, 0.8)))


@pytest.mark.float32
@pytest.mark.parametrize("name", [name for name in CASES if name not in ("hinge", "squared_hinge", "log_barrier")])
@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_extreme_sizes_in_float32(name, size):
    fun = CASES[name][0]
    x, param, size = jnp.asarray(X, jnp.float32), jnp.asarray(CASES[name][2], jnp.float32), np.float32(size)
    by_scaling = np.float32(0.5) * size if name in ("quantile", "kl", "reverse_kl") else 0.5
    scaled = fun(x * size, param if name == "quantile" else param * size, by_scaling)
    np.testing.assert_allclose(scaled / size, fun(x, param, 0.5), atol=2e-6)


@pytest.mark.float32
@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_extreme_sizes_of_the_log_barrier(size):
    """It is of degree 2, so nothing scales."""
    fun, _, param, _ = CASES["log_barrier"]
    assert np.all(np.isfinite(fun(jnp.asarray(X * size, jnp.float32), jnp.asarray(param, jnp.float32), 0.5)))


def test_entropic_against_lambert():
    x = np.array([-30.0, -2.0, 0.0, 1.0, 5.0, 100.0])
    t, q = 0.7, 1.3
    np.testing.assert_allclose(
        prox.prox_kl(jnp.asarray(x), q, t), t * np.real(scipy.special.lambertw(q / t * np.exp(x / t))), rtol=1e-13
    )
    # Beyond what an exponential holds.
    np.testing.assert_allclose(prox.prox_kl(jnp.array([-1e300, 1e5, 1e300, jnp.inf]), q, t)[0], 0.0)
    y = float(prox.prox_kl(jnp.array(1e5)))
    np.testing.assert_allclose(np.log(y) + y, 1e5, rtol=1e-14)


def total_variation_violation(x, y, weight):
    """How far the dual solution, the sums of ``y - x``, is from ``weight * sign(jump)``."""
    dual, jumps = np.cumsum(y - x), np.diff(y)
    # Two levels that are equal but for rounding are one.
    moving = np.abs(jumps) > 1e-13 * max(1.0, np.max(np.abs(x), initial=0.0))
    off = np.abs(dual[:-1][moving] - weight * np.sign(jumps[moving]))
    return max(abs(dual[-1]), np.max(np.abs(dual[:-1]), initial=0) - weight, np.max(off, initial=0))


denoise = jax.jit(prox.prox_total_variation)


@hypothesis.given(
    x=hnp.arrays(np.float64, 24, elements=st.one_of(st.integers(-3, 3).map(float), st.floats(-10, 10))),
    weight=st.one_of(st.integers(0, 6).map(lambda i: i / 2.0), st.floats(0, 50)),
)
@hypothesis.settings(max_examples=100)
def test_total_variation_is_exact(x, weight):
    assert total_variation_violation(x, np.asarray(denoise(x, weight)), weight) <= 1e-12 * (24 + weight)


def test_total_variation_of_a_long_signal_and_its_derivative():
    x = np.cumsum(np.random.default_rng(0).normal(size=3000))
    y = np.asarray(denoise(x, 30.0))
    assert total_variation_violation(x, y, 30.0) <= 1e-9
    slope = jax.jacfwd(denoise)(jnp.asarray(x[:40]), 2.0)
    part = np.asarray(denoise(x[:40], 2.0))
    same = part[:, None] == part[None, :]
    np.testing.assert_allclose(slope, same / same.sum(1, keepdims=True), atol=1e-14)
    np.testing.assert_allclose(denoise(x[:10], 1e30), np.full(10, x[:10].mean()))
    for value in (np.inf, np.nan):
        assert not np.any(np.isfinite(denoise(np.array([1.0, value, 2.0, 3.0]), 1.0)))
    np.testing.assert_array_equal(prox.prox_total_variation({"a": jnp.ones(1), "b": jnp.ones(0)})["a"], [1.0])


def test_nuclear_norm_at_equal_and_zero_singular_values():
    second = jax.jit(jax.hessian(lambda x: jnp.sum(jnp.sin(prox.prox_nuclear_norm(x, 1.0)))))
    for x in (np.eye(3, 2) * 3, np.zeros((3, 2)), np.ones((3, 2)), np.eye(3, 2)):
        assert np.all(np.isfinite(second(jnp.asarray(x))))
    # Equal singular values: shrunk along the identity, rotations turn the result by 2 / 3.
    turned = jax.jvp(prox.prox_nuclear_norm, (3 * jnp.eye(2),), (jnp.array([[0.0, 1.0], [-1.0, 0.0]]),))[1]
    np.testing.assert_allclose(turned, np.array([[0, 2 / 3], [-2 / 3, 0]]), atol=1e-14)


def test_nuclear_norm_of_a_tree_is_a_sum():
    tree = {"a": jnp.asarray(X).reshape(2, 3), "b": (jnp.asarray(X[:2]).reshape(1, 2).astype(jnp.float32),)}
    out = prox.prox_nuclear_norm(tree, 0.75)
    jax.tree.map(lambda u, v: np.testing.assert_array_equal(u, prox.prox_nuclear_norm(v, 0.75)), out, tree)
    assert out["b"][0].dtype == jnp.float32


# ---- Combinators --------------------------------------------------------------------------------------------------


@hypothesis.given(x=points, scaling=st.integers(1, 8).map(lambda i: i / 4.0))
@hypothesis.settings(max_examples=10)
def test_combinators(x, scaling):
    v = jnp.asarray(x)
    np.testing.assert_allclose(
        prox.make_prox_conjugate(prox.prox_lasso)(v, 0.5, scaling), np.clip(x, -0.5, 0.5), atol=1e-12
    )
    support = prox.make_prox_conjugate(prox.make_prox_from_projection(projection.projection_linf_ball))
    np.testing.assert_allclose(support(v, 0.5, scaling), prox.prox_lasso(v, 0.5, scaling), atol=1e-12)
    np.testing.assert_allclose(
        prox.make_prox_scaled(prox.prox_lasso, -2.0)(v, 0.5, scaling), prox.prox_lasso(v, 1.0, scaling), atol=1e-12
    )
    translated = prox.make_prox_translated(prox.prox_ridge, jnp.arange(6.0))
    np.testing.assert_allclose(translated(v, 0.5, scaling), (x + scaling * 0.5 * np.arange(6)) / (1 + scaling * 0.5))
    boxed = prox.make_prox_boxed(prox.prox_lasso, 0.0, 1.0)(v, 0.5, scaling)
    np.testing.assert_allclose(boxed, np.clip(prox.prox_non_negative_lasso(v, 0.5, scaling), 0, 1))


def test_combinators_differentiate_in_what_they_capture():
    def fun(x, shift, factor, upper):
        inner = prox.make_prox_scaled(prox.make_prox_translated(prox.prox_huber, shift), factor)
        return prox.make_prox_boxed(prox.make_prox_conjugate(inner), -1.0, upper)(x, 0.75, 0.5)

    check_derivatives(fun, (jnp.asarray(X), jnp.asarray(0.3), jnp.asarray(1.5), jnp.asarray(0.9)))


def test_separable_prox_in_a_solver():
    rng = np.random.default_rng(0)
    features, target = rng.normal(size=(20, 3)), rng.normal(size=20)
    penalty = prox.make_prox_separable({"w": prox.make_prox_boxed(prox.prox_lasso, 0.0, 0.2), "b": prox.prox_none})
    params = {"w": jnp.zeros(3), "b": jnp.zeros(())}
    fun = lambda p, features: 0.5 * jnp.sum((features @ p["w"] + p["b"] - target) ** 2)
    solver = ProximalGradient(fun, penalty, tol=1e-9, maxiter=5000)
    found = solver.run(params, {"w": 0.5, "b": None}, features).params
    value = lambda v: 0.5 * np.sum((features @ v[:3] + v[3] - target) ** 2) + 0.5 * np.sum(np.abs(v[:3]))
    bounds = [(0, 0.2)] * 3 + [(None, None)]
    best = scipy.optimize.minimize(value, np.full(4, 0.1), bounds=bounds, options={"ftol": 1e-15, "gtol": 1e-10})
    np.testing.assert_allclose([*found["w"], found["b"]], best.x, atol=1e-5)
    np.testing.assert_array_equal(penalty(params)["w"], np.zeros(3))


def test_bad_input():
    x = jnp.ones(3)
    for fun in (
        prox.make_prox_boxed,
        prox.make_prox_translated,
        prox.make_prox_scaled,
    ):
        with pytest.raises(TypeError, match="must be a function"):
            fun(3, *([1.0] * (2 if fun is prox.make_prox_boxed else 1)))
    with pytest.raises(TypeError, match="every entry of proxes"):
        prox.make_prox_separable([prox.prox_lasso, 1])
    with pytest.raises(TypeError, match="empty"):
        prox.make_prox_separable(())
    with pytest.raises(ValueError, match="x must have the structure of proxes"):
        prox.make_prox_separable((prox.prox_lasso, prox.prox_ridge))([x])
    with pytest.raises(ValueError, match="factor must be other than 0"):
        prox.make_prox_scaled(prox.prox_lasso, 0.0)
    with pytest.raises(ValueError, match="positive"):
        prox.make_prox_conjugate(prox.prox_lasso)(x, 1.0, 0.0)
    with pytest.raises(ValueError, match=r"label must be -1 or 1"):
        prox.prox_hinge(x, 0.5)
    with pytest.raises(ValueError, match=r"quantile must be in \[0, 1\]"):
        prox.prox_quantile(x, 1.5)
    with pytest.raises(ValueError, match="target must be non-negative"):
        prox.prox_kl(x, -1.0)
    with pytest.raises(ValueError, match=r"vector.*got shape \(2, 2\).*vmap"):
        prox.prox_total_variation(jnp.ones((2, 2)))
    with pytest.raises(ValueError, match=r"matrix.*got shape \(3,\)"):
        prox.prox_nuclear_norm(x)
    for fun in (prox.prox_huber, prox.prox_linf, prox.prox_total_variation, prox.prox_log_barrier):
        with pytest.raises(TypeError, match="x must be real"):
            fun(x.astype(complex))
        with pytest.raises(ValueError, match="scaling must be non-negative"):
            fun(x, 1.0, -1.0)
