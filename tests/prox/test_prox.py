"""Proximity operators: optimality, the Moreau identity, closed forms, derivatives, pytrees, dtypes, bad input."""

import functools

import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxsolve import projection, prox
from tests.projection.checks import check_derivatives

X = np.array([0.9, -1.3, 2.1, 0.3, -0.2, 1.4])
N = X.size

# name -> (prox of x and flat parameters, penalty of y and the same, parameters, is y restricted to y >= 0)
CASES = {
    "lasso": (prox.prox_lasso, lambda y, l1: np.sum(l1 * np.abs(y)), (0.5,), False),
    "non_negative_lasso": (prox.prox_non_negative_lasso, lambda y, l1: np.sum(l1 * y), (0.5,), True),
    "elastic_net": (
        lambda x, l1, gamma, scaling=1.0: prox.prox_elastic_net(x, (l1, gamma), scaling),
        lambda y, l1, gamma: np.sum(l1 * np.abs(y) + 0.5 * l1 * gamma * y**2),
        (0.5, 0.75),
        False,
    ),
    "group_lasso": (prox.prox_group_lasso, lambda y, l2: l2 * np.linalg.norm(y), (0.5,), False),
    "non_negative_group_lasso": (
        prox.prox_non_negative_group_lasso,
        lambda y, l2: l2 * np.linalg.norm(y),
        (0.5,),
        True,
    ),
    "sparse_group_lasso": (
        lambda x, l1, l2, scaling=1.0: prox.prox_sparse_group_lasso(x, (l1, l2), scaling),
        lambda y, l1, l2: np.sum(l1 * np.abs(y)) + l2 * np.linalg.norm(y),
        (0.3, 0.5),
        False,
    ),
    "ridge": (prox.prox_ridge, lambda y, l2: 0.5 * np.sum(l2 * y**2), (0.5,), False),
    "non_negative_ridge": (prox.prox_non_negative_ridge, lambda y, l2: 0.5 * np.sum(l2 * y**2), (0.5,), True),
}
FUNCTIONS = {name: jax.jit(case[0]) for name, case in CASES.items()}
points = hnp.arrays(np.float64, N, elements=st.integers(-16, 16).map(lambda i: i / 4.0))


@functools.cache
def jacobian(name, kind):
    fun, params = CASES[name][0], CASES[name][2]
    if kind == "hessian":
        everything = tuple(range(2 + len(params)))
        return jax.jit(jax.hessian(lambda *args: jnp.sum(jnp.cos(fun(*args))), everything))
    return jax.jit({"fwd": jax.jacfwd, "rev": jax.jacrev}[kind](fun))


@pytest.mark.parametrize("name", CASES)
@hypothesis.given(x=points, y=points, scaling=st.floats(0, 4))
def test_minimizes_and_is_firmly_nonexpansive(name, x, y, scaling):
    _, penalty, params, positive = CASES[name]
    px, py = (np.asarray(FUNCTIONS[name](v, *params, scaling)) for v in (x, y))
    assert np.sum((px - py) ** 2) <= (px - py) @ (x - y) + 1e-12
    value = lambda z: 0.5 * np.sum((z - x) ** 2) + scaling * penalty(z, *params)
    other = np.maximum(y, 0) if positive else y
    # Strongly convex: any other point is worse by half the squared distance.
    assert value(px) + 0.5 * np.sum((other - px) ** 2) <= value(other) + 1e-10


@pytest.mark.parametrize(
    ("prox_fun", "dual_projection"),
    [
        (prox.prox_lasso, projection.projection_linf_ball),
        (prox.prox_group_lasso, projection.projection_l2_ball),
        (prox.make_prox_from_projection(projection.projection_non_negative), lambda x, _: -jnp.maximum(-x, 0) + 0 * x),
    ],
    ids=["l1", "l2", "cone"],
)
@hypothesis.given(x=points, radius=st.integers(0, 8).map(lambda i: i / 4.0))
@hypothesis.settings(max_examples=15)
def test_moreau_identity(prox_fun, dual_projection, x, radius):
    # prox of a support function plus the projection on its set is the identity.
    np.testing.assert_allclose(
        prox_fun(jnp.asarray(x), radius) + dual_projection(jnp.asarray(x), radius), x, atol=1e-12
    )


def test_closed_forms():
    x = jnp.array([3.0, -0.5, -4.0])
    np.testing.assert_allclose(prox.prox_lasso(x, 0.5, 2.0), [2.0, 0.0, -3.0])
    np.testing.assert_allclose(prox.prox_lasso(x, jnp.array([1.0, 0.0, 5.0])), [2.0, -0.5, 0.0])
    np.testing.assert_allclose(prox.prox_non_negative_lasso(x, 0.5, 2.0), [2.0, 0.0, 0.0])
    np.testing.assert_allclose(prox.prox_elastic_net(x, (0.5, 3.0), 2.0), [0.5, 0.0, -0.75])
    np.testing.assert_allclose(prox.prox_ridge(x, 0.5, 2.0), x / 2)
    np.testing.assert_allclose(prox.prox_non_negative_ridge(x, 0.5, 2.0), [1.5, 0.0, 0.0])
    np.testing.assert_allclose(prox.prox_group_lasso(jnp.array([3.0, -4.0]), 0.5, 2.0), [2.4, -3.2])
    assert prox.prox_none(x, "anything", 2.0) is x


def test_defaults():
    x = jnp.array([3.0, -0.5])
    np.testing.assert_allclose(prox.prox_elastic_net(x), [1.0, 0.0])
    for fun in (prox.prox_lasso, prox.prox_non_negative_lasso, prox.prox_group_lasso, prox.prox_ridge):
        np.testing.assert_array_equal(fun(x), fun(x, 1.0))
        np.testing.assert_array_equal(fun(x), fun(x, None))
    np.testing.assert_array_equal(prox.prox_elastic_net(x, (None, None)), prox.prox_elastic_net(x))


@pytest.mark.parametrize("name", CASES)
def test_derivatives_in_all_arguments(name):
    fun, _, params, _ = CASES[name]
    check_derivatives(fun, (jnp.asarray(X), *map(jnp.asarray, params), jnp.asarray(0.8)))


@pytest.mark.parametrize("name", ["lasso", "elastic_net", "ridge", "non_negative_lasso", "non_negative_ridge"])
def test_derivatives_in_weights_of_each_entry(name):
    fun, _, params, _ = CASES[name]
    check_derivatives(fun, (jnp.asarray(X), *(p + 0.1 * jnp.arange(float(N)) for p in params), jnp.asarray(0.8)))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("weight", [0.5, 0.0])
@pytest.mark.parametrize("x", [np.zeros(N), np.full(N, 0.5), np.full(N, -0.5)], ids=["zero", "kink", "negative kink"])
def test_derivatives_are_finite_and_symmetric_at_kinks(name, weight, x):
    args = (jnp.asarray(x), *([weight] * len(CASES[name][2])), 1.0)
    jac = jacobian(name, "fwd")(*args)
    np.testing.assert_array_equal(jac, jacobian(name, "rev")(*args))
    np.testing.assert_allclose(jac, jac.T)
    eigenvalues = np.linalg.eigvalsh(jac)
    assert eigenvalues.min() >= 0 and eigenvalues.max() <= 1 + 1e-14
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(jacobian(name, "hessian")(*args)))
    if weight == 0 and "non_negative" not in name:
        np.testing.assert_array_equal(jac, np.eye(N))


def test_entry_on_the_threshold_is_zero():
    np.testing.assert_array_equal(jax.grad(prox.prox_lasso)(1.0), 0.0)
    np.testing.assert_array_equal(jax.grad(prox.prox_lasso, 1)(-1.0, 1.0), 0.0)
    np.testing.assert_array_equal(jax.grad(prox.prox_non_negative_lasso)(1.0), 0.0)
    np.testing.assert_array_equal(jax.jit(jax.jacobian(prox.prox_group_lasso))(jnp.array([3.0, 4.0]), 5.0), 0.0)


def test_elastic_net_with_traced_scalars_and_a_pytree():
    x = {"w": jnp.asarray(X), "b": jnp.array(2.0)}
    fun = jax.jit(lambda l1, gamma: prox.prox_elastic_net(x, (l1, gamma), 0.5))
    out = fun(0.5, 2.0)
    np.testing.assert_allclose(out["b"], (2.0 - 0.25) / 1.5)
    np.testing.assert_allclose(out["w"], prox.prox_elastic_net(x["w"], (0.5, 2.0), 0.5))
    tree = prox.prox_elastic_net(x, ({"w": 0.5, "b": 0.0}, 2.0), 0.5)
    np.testing.assert_allclose(tree["w"], out["w"])
    np.testing.assert_array_equal(tree["b"], 2.0)


@pytest.mark.parametrize("name", CASES)
def test_pytrees(name):
    fun, _, params, _ = CASES[name]
    split = lambda v: {"a": jnp.asarray(v[:4]).reshape(2, 2), "b": (jnp.asarray(v[4]), jnp.asarray(v[5]))}
    out, expected = fun(split(X), *params, 0.8), split(FUNCTIONS[name](X, *params, 0.8))
    assert jax.tree.structure(out) == jax.tree.structure(expected)
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, atol=1e-15), out, expected)


@pytest.mark.parametrize("name", CASES)
def test_vmap(name):
    fun, _, params, _ = CASES[name]
    xs, scalings = jnp.stack([jnp.asarray(X), jnp.zeros(N)]), jnp.array([0.5, 2.0])
    out = jax.jit(jax.vmap(lambda x, s: fun(x, *params, s)))(xs, scalings)
    for i in range(2):
        np.testing.assert_allclose(out[i], FUNCTIONS[name](xs[i], *params, scalings[i]), atol=1e-15)


@pytest.mark.float32
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtype_is_kept(name, dtype):
    fun, _, params, _ = CASES[name]
    x = jnp.asarray(X, dtype)
    # Weights and step sizes in the working precision do not promote x.
    out = fun(x, *(jnp.asarray(p) for p in params), jnp.asarray(0.8))
    assert out.dtype == x.dtype and not out.weak_type
    np.testing.assert_allclose(
        out.astype(jnp.float32), fun(x.astype(jnp.float32), *params, 0.8), atol=2 * float(jnp.finfo(dtype).eps)
    )


@pytest.mark.parametrize("name", CASES)
def test_mixed_dtypes_numbers_and_nan(name):
    fun, _, params, _ = CASES[name]
    out = fun({"a": jnp.ones(2, jnp.float32), "b": jnp.ones(3, jnp.float64), "c": jnp.ones(1, jnp.bfloat16)}, *params)
    assert [leaf.dtype for leaf in jax.tree.leaves(out)] == [jnp.float32, jnp.float64, jnp.bfloat16]
    assert jnp.issubdtype(fun(jnp.arange(3), *params).dtype, jnp.floating)
    assert np.isnan(fun(jnp.array([1.0, jnp.nan]), *params)[1])


@pytest.mark.float32
def test_extreme_magnitudes_in_float32():
    x = np.array([3.0, -4.0], np.float32)
    for size in (1e30, 1e-30):
        scaled = jnp.asarray(x * np.float32(size))
        out = prox.prox_group_lasso(scaled, jnp.float32(2.5 * size))
        np.testing.assert_allclose(out, x * np.float32(size) / 2, rtol=1e-6)
        assert np.all(np.isfinite(jacobian("group_lasso", "rev")(scaled, jnp.float32(1.0), 1.0)))
    np.testing.assert_array_equal(prox.prox_group_lasso(jnp.asarray(x * np.float32(1e-30)), 1e30), [0, 0])


def test_complex():
    z = jnp.array([3.0 + 4.0j, 0.3j, 0.0j])
    np.testing.assert_allclose(prox.prox_lasso(z), [(3 + 4j) * 0.8, 0, 0])
    np.testing.assert_allclose(prox.prox_lasso(z, 0.0), z)
    np.testing.assert_allclose(prox.prox_elastic_net(z, (1.0, 1.0)), [(3 + 4j) * 0.4, 0, 0])
    np.testing.assert_allclose(prox.prox_ridge(z), z / 2)
    np.testing.assert_allclose(prox.prox_group_lasso(z[:1]), [(3 + 4j) * 0.8])
    # Like a group of two real numbers.
    as_pair = lambda v: jnp.stack([jnp.real(v), jnp.imag(v)])
    jac = jax.jacobian(lambda v: as_pair(prox.prox_lasso(jax.lax.complex(v[0], v[1]))))(jnp.array([3.0, 4.0]))
    np.testing.assert_allclose(jac, jax.jacobian(prox.prox_group_lasso)(jnp.array([3.0, 4.0])), atol=1e-15)
    with pytest.raises(TypeError, match="x must be real"):
        prox.prox_non_negative_lasso(z)


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name):
    fun, _, params, _ = CASES[name]
    with pytest.raises(ValueError, match=r"(l1reg|l2reg) must be non-negative, got -1"):
        fun(jnp.asarray(X), -1.0, *params[1:])
    with pytest.raises(ValueError, match=r"scaling must be non-negative, got -1"):
        fun(jnp.asarray(X), *params, -1.0)
    with pytest.raises(ValueError, match=r"scaling must be a scalar, got shape \(2,\)"):
        fun(jnp.asarray(X), *params, jnp.ones(2))
    with pytest.raises(ValueError, match=r"(l1reg|l2reg) "):
        fun(jnp.asarray(X), jnp.ones(2), *params[1:])
    with pytest.raises(ValueError, match=r"(l1reg|l2reg) must be a scalar"):
        fun({"a": jnp.asarray(X)}, {"b": 1.0}, *params[1:])
    with pytest.raises(TypeError, match="x must be a pytree of arrays"):
        fun("text", *params)


def test_bad_pair_and_bad_projection():
    with pytest.raises(ValueError, match=r"hyperparams must be the tuple \(l1reg, gamma\), got 3 entries"):
        prox.prox_elastic_net(jnp.ones(2), (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="gamma must be non-negative"):
        prox.prox_elastic_net(jnp.ones(2), (1.0, -1.0))
    with pytest.raises(TypeError, match="projection must be a function"):
        prox.make_prox_from_projection(3)


def test_prox_from_projection_ignores_scaling():
    fun = prox.make_prox_from_projection(projection.projection_simplex)
    np.testing.assert_allclose(fun(jnp.array([2.0, 0.0]), 3.0, 100.0), [2.5, 0.5])
    np.testing.assert_allclose(fun(jnp.array([2.0, 0.0])), [1.0, 0.0])


def test_prox_from_projection_of_one_argument():
    fun = prox.make_prox_from_projection(lambda x: jnp.maximum(x, 1.0))
    np.testing.assert_allclose(fun(jnp.array([2.0, 0.0])), [2.0, 1.0])
    np.testing.assert_allclose(fun(jnp.array([2.0, 0.0]), None, 100.0), [2.0, 1.0])
    with pytest.raises(TypeError, match="projection takes one argument, but it was given hyperparameters"):
        fun(jnp.array([2.0, 0.0]), 3.0)
    # None stands for the default of the projection.
    fun = prox.make_prox_from_projection(lambda x, radius=2.0: jnp.clip(x, -radius, radius))
    np.testing.assert_allclose(fun(jnp.array([3.0, 1.0])), [2.0, 1.0])
    np.testing.assert_allclose(fun(jnp.array([3.0, 1.0]), 0.5), [0.5, 0.5])
