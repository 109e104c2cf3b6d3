"""Isotonic regression, soft sorting and ranking: against scikit-learn and SciPy, derivatives, adversarial input."""

import functools
import itertools
from fractions import Fraction

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
from jaxsolve.projection import projection_permutahedron
from tests.projection.checks import check_derivatives

# One chunk, several, and sizes at which segments and the end of the sequence do not meet.
SIZES = [1, 2, 7, 40, 128, 129, 257]


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


def test_few_entries_are_not_merged():
    # Compiling the merge takes longer than everything else.
    loops = lambda n: jax.jit(isotonic_l2_pav).lower(jnp.zeros(n)).as_text().count("stablehlo.while")
    assert loops(128) == 3 < loops(129)


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
_slope = jax.jit(jax.grad(lambda y: jnp.sum(isotonic_l2_pav(y))))
_regress_weighted = jax.jit(lambda y, w: isotonic_l2_pav(y, weights=w))


def exact_regression(y, weights):
    """In rational numbers, with a stack of blocks."""
    stack = []
    for value, weight in zip(y, weights, strict=True):
        value, weight = Fraction(float(value)), Fraction(float(weight))
        stack.append((value * weight, weight, 1))
        while len(stack) > 1 and stack[-2][0] * stack[-1][1] >= stack[-1][0] * stack[-2][1]:
            last = stack.pop()
            stack[-1] = tuple(a + b for a, b in zip(stack[-1], last, strict=True))
    return np.array([float(total / weight) for total, weight, count in stack for _ in range(count)])


@pytest.mark.parametrize("dtype", [pytest.param(np.float32, marks=pytest.mark.float32), np.float64])
def test_weights_over_many_orders_of_magnitude(dtype):
    rng = np.random.default_rng(0)
    # Sums with a heavy entry do not tell what a light one adds: a block is more than its mean.
    for draw, n in enumerate([40, 150] * 20):
        y = (rng.normal(size=n) if draw % 2 else rng.integers(-3, 4, n)).astype(dtype)
        weights = (10.0 ** (rng.uniform(-16, 0, n) if draw % 3 else rng.integers(-16, 1, n))).astype(dtype)
        x = np.asarray(_regress_weighted(y, weights))
        assert x.dtype == dtype and np.all(np.diff(x) >= 0)
        np.testing.assert_allclose(x, exact_regression(y, weights), atol=4 * np.finfo(dtype).eps * np.abs(y).max())


def test_entries_without_weight_are_not_looked_at():
    rng = np.random.default_rng(1)
    for _ in range(10):
        y, weights = rng.normal(size=40), rng.uniform(0.5, 2, 40)
        weighs = rng.random(40) < 0.4
        x = np.asarray(_regress_weighted(np.where(weighs, y, rng.choice([1e30, -1e30, np.nan])), weights * weighs))
        np.testing.assert_allclose(x[weighs], isotonic_regression(y[weighs], sample_weight=weights[weighs]), atol=1e-14)
        assert np.all(np.diff(x) >= 0) and np.all(np.isin(x, x[weighs]))
    np.testing.assert_array_equal(isotonic_l2_pav([9.0, 1.0, 5.0, 3.0], weights=[0.0, 1.0, 0.0, 1.0]), [1, 1, 1, 3])
    slopes = jax.jit(jax.grad(lambda y, w: jnp.sum(isotonic_l2_pav(y, weights=w)), (0, 1)))
    of_y, of_weights = slopes(jnp.array([jnp.nan, 2.0, 9.0, 1.0]), jnp.array([0.0, 1.0, 0.0, 3.0]))
    np.testing.assert_allclose(of_y, [0, 1, 0, 3])
    assert np.all(np.isfinite(of_weights))


@hypothesis.given(
    y=hnp.arrays(np.float32, 40, elements=st.floats(-100, 100, width=32)),
    k=st.integers(-40, 40),
    seed=st.integers(0, 9),
)
def test_laws_of_scale(y, k, seed):
    # Powers of two of the values or of the weights change the result by that factor, and nothing else.
    y = np.where(np.abs(y) < 1e-20, 0, y).astype(np.float32)
    weights = (10.0 ** np.random.default_rng(seed).uniform(-8, 8, 40)).astype(np.float32)
    unit = np.float32(2.0**k)
    for plain in (_regress, lambda y: _regress_weighted(y, weights), _nearest_order):
        np.testing.assert_array_equal(plain(y * unit), plain(y) * unit)
    np.testing.assert_array_equal(_regress_weighted(y, weights * unit), _regress_weighted(y, weights))
    for fun in (_ranks, _kl_ranks):
        np.testing.assert_array_equal(fun(y * unit, unit), fun(y, np.float32(1)))


_nearest_order = jax.jit(lambda y: projection_permutahedron(y, y[::-1] + 0.25 * jnp.max(jnp.abs(y))))
_ranks = jax.jit(lambda v, s: soft_rank(v, "l2", s))
_kl_ranks = jax.jit(lambda v, s: soft_rank(v, "kl", s))


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
        assert np.all(np.isnan(_regress(y))) and np.all(np.isnan(_slope(y)))
        # The logarithm of 0 is a number like others there.
        assert np.all(np.isnan(isotonic_kl_pav(y))) == (bad != -np.inf)
    for weights in (np.array([1.0, -1.0, 1.0]), np.zeros(3), np.array([1.0, np.nan, 1.0])):
        assert np.all(np.isnan(_regress_weighted(np.arange(3.0), weights)))


@pytest.mark.parametrize("n", [7, 150])
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


@pytest.mark.parametrize("dtype", [pytest.param(np.float32, marks=pytest.mark.float32), np.float64])
def test_masses_as_logarithms(dtype):
    rng = np.random.default_rng(3)
    for level, n in ((0.0, 40), (50.0, 150), (-1000.0, 150)):
        w = rng.uniform(-37, 0, n).astype(dtype) + dtype(level)
        y = (w + rng.normal(size=n)).astype(dtype)
        ratio, mass = (v.astype(np.longdouble) for v in (y, w))
        oracle = np.log(exact_regression(np.exp(ratio - mass), np.exp(mass - mass.max())))
        np.testing.assert_allclose(_regress_kl(y, w), oracle, atol=8 * np.finfo(dtype).eps)
    # The logarithm of 0: a value of 0, and, with it, no mass.
    y, w = jnp.log(jnp.array([0.0, 4.0, 0.0, 0.0, 5.0])), jnp.log(jnp.array([1.0, 1.0, 3.0, 0.0, 1.0]))
    np.testing.assert_allclose(np.exp(_regress_kl(y, w)), [0, 1, 1, 1, 5], atol=1e-15)
    assert np.all(np.isfinite(jax.jit(jax.jacrev(isotonic_kl_pav, (0, 1)))(y, w)))
    assert np.all(np.isnan(_regress_kl(np.zeros(3), np.array([0.0, -np.inf, 0.0]))))


_regress_kl = jax.jit(isotonic_kl_pav)

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


@pytest.mark.float32
@pytest.mark.parametrize("regularization", ["l2", "kl"])
@pytest.mark.parametrize("strength", [1e-9, 1e-7, 1e-6, 1e-2])
def test_near_ties_stay_in_the_permutahedron(regularization, strength):
    fun = {"l2": _ranks, "kl": _kl_ranks}[regularization]
    rng = np.random.default_rng(0)
    for low in range(1, 40, 7):
        v = np.float32(0.9) + np.float32(0.01) * np.arange(1, 41, dtype=np.float32)
        v[low] = np.nextafter(v[low - 1], np.float32(2))
        if low > 20:
            v[low + 1 :] = v[low]
        ranks = np.asarray(fun(v, np.float32(strength)))
        # In the hull of all orders of 1 .. 40: the sums of the largest are at most those of the largest ranks.
        assert ranks.min() >= 1 and ranks.max() <= 40 and np.all(np.diff(ranks) >= 0)
        sums = np.cumsum(ranks[::-1], dtype=np.float64)
        assert np.all(sums <= np.cumsum(np.arange(40.0, 0, -1)) * (1 + 1e-6)) and abs(sums[-1] - 820) < 1e-3
        if low < 20 and strength <= 1e-9:
            np.testing.assert_array_equal(ranks, np.arange(1.0, 41.0))
        order = rng.permutation(40)
        np.testing.assert_array_equal(fun(v[order], np.float32(strength)), ranks[order])
        assert np.all(np.diff(soft_sort(v, regularization, strength)) >= 0)


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
    with pytest.raises(ValueError, match="weights must be non-negative"):
        isotonic_l2_pav(jnp.ones(2), weights=jnp.array([1.0, -1.0]))
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


def test_explicit_mesh():
    """The result is on every device of the mesh, the derivative sharded like its argument."""
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    y = jnp.array([3.0, 1.0, 2.0, 4.0])
    with jax.set_mesh(mesh):
        sharded = jax.device_put(y, jax.NamedSharding(mesh, jax.P("d")))
        for fun in (isotonic_l2_pav, functools.partial(isotonic_kl_pav, w=jnp.zeros(4)), soft_rank):
            value, gradient = jax.value_and_grad(lambda y, fun=fun: (fun(y) ** 2).sum())(sharded)
            assert jax.typeof(gradient).sharding == jax.typeof(sharded).sharding
            np.testing.assert_array_equal(value, (fun(y) ** 2).sum())
