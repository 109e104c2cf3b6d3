"""Isotonic regression, soft sorting and ranking: against scikit-learn and SciPy, derivatives, adversarial input."""

import functools
import itertools

import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import strategies as st
from scipy.special import logsumexp
from sklearn.isotonic import isotonic_regression

from jaxsolve.isotonic import isotonic_kl_pav, isotonic_l2_pav, soft_rank, soft_sort
from tests.projection.checks import check_derivatives

# One chunk, several, and sizes at which segments and the end of the sequence do not meet.
SIZES = [1, 2, 7, 16, 17, 40, 257]


def sequences(n):
    """Sequences that are hard for one method or another."""
    rng = np.random.default_rng(n)
    k = np.arange(n)
    return {
        "noise": rng.normal(size=n),
        "ties": rng.integers(-2, 3, n).astype(float),
        "sorted": np.sort(rng.normal(size=n)),
        "reversed": np.sort(rng.normal(size=n))[::-1].copy(),
        "constant": np.full(n, 0.1),
        "walk": np.cumsum(rng.normal(size=n)),
        "long descents": (k % 50) * -1.0 + k * 0.02,
        "late drop": np.where(k == n - 1, -1e3, k * 1.0),
        "early peak": np.where(k == 0, 1e3, k * 1.0),
        "growing": (-1.5) ** (k % 60),
        "zigzag": (-1.0) ** k * k,
    }


@pytest.mark.parametrize("n", SIZES)
def test_l2_against_scikit_learn(n):
    weights = np.random.default_rng(0).uniform(0.1, 3, n)
    both = jax.jit(lambda y, w: (isotonic_l2_pav(y), isotonic_l2_pav(y, -0.5, 1.0, False, weights=w)))
    for name, y in sequences(n).items():
        plain, weighted = both(y, weights)
        scale = 1e-13 * np.abs(y).max()
        np.testing.assert_allclose(plain, isotonic_regression(y), atol=scale, err_msg=name)
        oracle = isotonic_regression(y, sample_weight=weights, y_min=-0.5, y_max=1.0, increasing=False)
        np.testing.assert_allclose(weighted, oracle, atol=scale, err_msg=name)
        assert np.all(np.diff(plain) >= 0) and np.all(np.diff(weighted) <= 0)
        if name in ("sorted", "constant"):
            np.testing.assert_array_equal(plain, y)


@hypothesis.given(y=hnp.arrays(np.float64, 40, elements=st.floats(-1e6, 1e6)), shift=st.integers(0, 8))
def test_l2_is_the_projection(y, shift):
    y = np.round(y * 2.0**shift) / 2.0**shift
    x = np.asarray(_regress(y))
    size = np.abs(y).max() ** 2 + 1e-300
    np.testing.assert_allclose(x, isotonic_regression(y), atol=1e-13 * (np.abs(y).max() + 1e-300))
    # The condition of a projection on a cone: orthogonal to the residual, which has no ascent direction in the cone.
    assert abs((y - x) @ x) <= 1e-11 * size
    assert np.all(np.cumsum((y - x)[::-1])[::-1] <= 1e-11 * np.sqrt(size))


_regress = jax.jit(isotonic_l2_pav)


@pytest.mark.float32
@pytest.mark.parametrize("magnitude", [1e-30, 1.0, 1e30])
def test_magnitudes_in_float32(magnitude):
    for name, y in sequences(257).items():
        y = (y / np.abs(y).max()).astype(np.float32)
        x = _regress(jnp.asarray(y) * np.float32(magnitude))
        assert x.dtype == jnp.float32
        expected = isotonic_regression(y.astype(np.float64))
        np.testing.assert_allclose(np.asarray(x, np.float64) / np.float32(magnitude), expected, atol=1e-6, err_msg=name)


@pytest.mark.float32
def test_accuracy_of_a_long_sequence_in_float32():
    # Differences of cumulative sums would lose all digits of the short blocks.
    y = np.random.default_rng(0).normal(size=20_000).astype(np.float32) + np.linspace(0, 1e4, 20_000, dtype=np.float32)
    x = _regress(jnp.asarray(y))
    np.testing.assert_allclose(x, isotonic_regression(y.astype(np.float64)), rtol=1e-6, atol=1e-6)


def test_not_finite_is_nan_everywhere():
    for bad in (np.nan, np.inf, -np.inf):
        y = np.arange(40.0)
        y[17] = bad
        assert np.all(np.isnan(_regress(y)))
        assert np.all(np.isnan(isotonic_kl_pav(y)))
    traced = jax.jit(lambda y, w: isotonic_l2_pav(y, weights=w))
    assert np.all(np.isnan(traced(np.arange(3.0), np.array([1.0, 0.0, 1.0]))))


@pytest.mark.parametrize("n", [7, 40])
def test_kl_against_its_definition(n):
    w = np.random.default_rng(1).normal(size=n)
    fun = jax.jit(isotonic_kl_pav)
    for name, y in sequences(n).items():
        y = y / np.abs(y).max() * 3
        # Generalized means: the weighted regression of the ratios.
        oracle = np.log(isotonic_regression(np.exp(y - w), sample_weight=np.exp(w)))
        np.testing.assert_allclose(fun(y, w), oracle, atol=1e-12, err_msg=name)


def test_kl_minimizes_its_objective():
    y, w = np.random.default_rng(2).normal(size=(2, 5))

    def objective(z):
        v = np.cumsum(z)
        return np.sum(np.exp(y - v)) + np.exp(w) @ v

    bounds = [(None, None)] + [(0, None)] * 4
    found = scipy.optimize.minimize(objective, np.zeros(5), bounds=bounds, tol=1e-14)
    np.testing.assert_allclose(isotonic_kl_pav(y, w), np.cumsum(found.x), atol=1e-5)
    decreasing = isotonic_kl_pav(y, w, increasing=False)
    np.testing.assert_allclose(decreasing, isotonic_kl_pav(y[::-1], w[::-1])[::-1], atol=1e-15)


@pytest.mark.float32
def test_kl_does_not_overflow():
    y = jnp.array([1e4, -1e4, 3e30, 2e30], jnp.float32)
    np.testing.assert_allclose(isotonic_kl_pav(y), [1e4 - np.log(2), 1e4 - np.log(2), 3e30, 3e30], rtol=1e-6)
    assert isotonic_kl_pav(jnp.ones(3, jnp.bfloat16)).dtype == jnp.bfloat16


Y = np.array([0.3, 1.4, 0.9, 1.1, -0.2, 2.5, 2.4, 3.0, 2.95, 4.0])
POSITIVE = np.array([1.0, 0.5, 2.0, 1.5, 0.3, 1.0, 1.2, 0.7, 2.0, 1.0])


@pytest.mark.parametrize(
    "fun",
    [
        lambda y, w: isotonic_l2_pav(y),
        lambda y, w: isotonic_l2_pav(y, 0.5, 2.7, weights=w),
        lambda y, w: isotonic_l2_pav(-y, increasing=False, weights=w),
        isotonic_kl_pav,
        lambda y, w: isotonic_kl_pav(-y, w, increasing=False),
    ],
    ids=["l2", "l2 weighted and bounded", "l2 decreasing", "kl", "kl decreasing"],
)
def test_derivatives(fun):
    check_derivatives(fun, (jnp.asarray(Y), jnp.asarray(POSITIVE)))


def test_derivative_at_ties_is_the_mean():
    np.testing.assert_allclose(jax.jit(jax.jacrev(isotonic_l2_pav))(jnp.array([1.0, 1.0, 2.0])), _block_means([2, 1]))
    np.testing.assert_allclose(jax.jit(jax.jacfwd(isotonic_l2_pav))(jnp.zeros(20)), np.full((20, 20), 0.05), atol=1e-15)
    at_bound = jax.jacrev(lambda y: isotonic_l2_pav(y, 1.0))(jnp.array([1.0, 2.0]))
    np.testing.assert_array_equal(at_bound, [[0.0, 0.0], [0.0, 1.0]])


def _block_means(sizes):
    return scipy.linalg.block_diag(*(np.full((k, k), 1 / k) for k in sizes))


def test_derivatives_under_every_transformation():
    y = jnp.asarray(sequences(9)["noise"])
    jacobian = jax.jit(jax.jacfwd(isotonic_l2_pav))(y)
    np.testing.assert_allclose(jacobian @ y, isotonic_regression(np.asarray(y)), atol=1e-14)
    np.testing.assert_allclose(jax.jit(jax.jacrev(isotonic_l2_pav))(y), jacobian, atol=1e-15)
    ys = jnp.stack([y, -y, jnp.sort(y)])
    batched = jax.jit(jax.vmap(jax.jacrev(isotonic_l2_pav)))(ys)
    np.testing.assert_allclose(batched[0], jacobian, atol=1e-15)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(isotonic_l2_pav))(ys)[1], isotonic_regression(-np.asarray(y)), atol=1e-14
    )

    def scanned(y):
        return jnp.sum(jnp.sin(jax.lax.scan(lambda c, _: (isotonic_l2_pav(c) - 0.1 * y, None), y, None, length=2)[0]))

    def unrolled(y):
        c = y
        for _ in range(2):
            c = isotonic_l2_pav(c) - 0.1 * y
        return jnp.sum(jnp.sin(c))

    # The second derivative of a scan must not forget the rule.
    twice = lambda fun: jax.jit(jax.grad(lambda y: jnp.sum(jnp.cos(jax.grad(fun)(y)))))
    np.testing.assert_allclose(twice(scanned)(y), twice(unrolled)(y), atol=1e-13)


# ---- Soft sorting and ranking ---------------------------------------------------------------------------------------

V = np.array([0.5, -1.0, 2.0, 0.7, 0.6, -0.9])
SOFT = [functools.partial(f, regularization=r) for f, r in itertools.product((soft_sort, soft_rank), ("l2", "kl"))]
NAMES = ["sort-l2", "sort-kl", "rank-l2", "rank-kl"]


@pytest.mark.float32
@pytest.mark.parametrize("fun", SOFT, ids=NAMES)
def test_soft_operators_tend_to_the_hard_ones(fun):
    v = jnp.asarray(V, jnp.float32)
    ranks = np.argsort(np.argsort(V)) + 1.0
    hard = np.sort(V) if fun.func is soft_sort else ranks
    out = fun(v, regularization_strength=1e-3)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, hard, rtol=1e-5, atol=1e-5)
    hard = -np.sort(-V) if fun.func is soft_sort else 7 - ranks
    np.testing.assert_allclose(fun(v, regularization_strength=1e-3, direction="DESCENDING"), hard, rtol=1e-5, atol=1e-5)
    # Far on the other side everything is equal.
    assert np.ptp(fun(v, regularization_strength=1e6)) < 1e-4


@pytest.mark.parametrize("fun", SOFT, ids=NAMES)
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_soft_operators_differentiate(fun, strength):
    # In the strength, too.
    check_derivatives(lambda v, s: fun(v, regularization_strength=s), (jnp.asarray(V), jnp.asarray(strength)))


def test_soft_rank_invariants():
    for regularization in ("l2", "kl"):
        fun = jax.jit(functools.partial(soft_rank, regularization=regularization))
        for name, v in sequences(40).items():
            ranks = np.asarray(fun(v, regularization_strength=0.5))
            np.testing.assert_allclose(ranks.sum(), 820.0, err_msg=name)
            assert np.all(np.diff(ranks[np.argsort(v)]) >= -1e-9), name
    np.testing.assert_allclose(soft_rank(jnp.array([3.0, 1.0, 3.0]), "l2", 1e-6), [2.5, 1.0, 2.5])


def test_soft_sort_l2_is_the_projection_of_its_definition():
    # By enumeration: the vertex inequality of the projection on the hull of all orderings.
    v, strength = V[:5], 1.5
    out = np.asarray(soft_sort(v, regularization_strength=strength, direction="DESCENDING"))
    target = np.arange(5, 0, -1) / strength
    vertices = np.array(list(itertools.permutations(v)))
    assert np.max((vertices - out) @ (target - out)) <= 1e-12
    np.testing.assert_allclose(out.sum(), v.sum())


def test_soft_rank_kl_is_the_projection_of_its_definition():
    out = np.asarray(soft_rank(V[:4], "kl", 2.0))
    rho = np.arange(1.0, 5.0)
    # Optimality of KL(mu, exp(v / 2)) over the hull: no vertex is a direction of descent.
    gradient = np.log(out) - V[:4] / 2
    vertices = np.array(list(itertools.permutations(rho)))
    assert np.min((vertices - out) @ gradient) >= -1e-12
    out = soft_sort(V, "kl", 2.0, "DESCENDING")
    np.testing.assert_allclose(logsumexp(out), logsumexp(V))


# ---- Bad input ------------------------------------------------------------------------------------------------------


def test_dtypes_and_empty():
    assert isotonic_l2_pav([3, 1, 2]).dtype == jnp.result_type(float)
    assert isotonic_l2_pav(jnp.ones(3, jnp.bfloat16), weights=jnp.ones(3)).dtype == jnp.bfloat16
    for fun in (isotonic_l2_pav, isotonic_kl_pav, soft_sort, soft_rank):
        assert fun(jnp.zeros(0, jnp.float32)).shape == (0,)
        np.testing.assert_array_equal(fun(jnp.array([3.0])), 1.0 if fun is soft_rank else 3.0)
        out = jax.jit(fun)(jnp.asarray(V, jnp.float32))
        assert out.dtype == jnp.float32 and not out.weak_type


def test_bad_input():
    for fun in (isotonic_l2_pav, isotonic_kl_pav, soft_sort, soft_rank):
        with pytest.raises(ValueError, match=r"must be a vector, got shape \(2, 3\); use jax.vmap"):
            fun(jnp.ones((2, 3)))
        with pytest.raises(TypeError, match="must be real"):
            fun(jnp.ones(3, complex))
        with pytest.raises(TypeError, match="must be a pytree of arrays, got a leaf of type str"):
            fun("text")
    with pytest.raises(ValueError, match="weights must be positive"):
        isotonic_l2_pav(jnp.ones(2), weights=jnp.array([1.0, 0.0]))
    with pytest.raises(ValueError, match=r"weights must have the shape of y, \(2,\), got \(3,\)"):
        isotonic_l2_pav(jnp.ones(2), weights=jnp.ones(3))
    with pytest.raises(ValueError, match="y_min must be at most y_max"):
        isotonic_l2_pav(jnp.ones(2), 1.0, 0.0)
    with pytest.raises(ValueError, match="y_min must be a scalar"):
        isotonic_l2_pav(jnp.ones(2), jnp.ones(2))
    with pytest.raises(TypeError, match="increasing must be True or False"):
        isotonic_l2_pav(jnp.ones(2), increasing="auto")
    with pytest.raises(ValueError, match="regularization must be 'l2' or 'kl', got 'l1'"):
        soft_rank(jnp.ones(2), "l1")
    with pytest.raises(ValueError, match="regularization_strength must be positive"):
        soft_sort(jnp.ones(2), "l2", 0.0)
    with pytest.raises(ValueError, match="direction must be 'ASCENDING' or 'DESCENDING'"):
        soft_sort(jnp.ones(2), direction="up")
