"""Folded penalties against a search over a grid, sums of norms of rows against the operator of one row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import prox
from tests.projection.checks import check_derivatives


def mcp(y, reg, gamma):
    return np.where(np.abs(y) <= gamma * reg, reg * np.abs(y) - y**2 / (2 * gamma), gamma * reg**2 / 2)


def scad(y, reg, a):
    size = np.abs(y)
    bent = (2 * a * reg * size - y**2 - reg**2) / (2 * (a - 1))
    return np.where(size <= reg, reg * size, np.where(size <= a * reg, bent, (a + 1) * reg**2 / 2))


# name -> (prox, penalty of an entry, hyperparameters)
FOLDED = {
    "l0": (prox.prox_l0, lambda y, reg: reg * (y != 0), (0.75,)),
    "mcp": (prox.prox_mcp, mcp, (0.75, 2.0)),
    "scad": (prox.prox_scad, scad, (0.75, 3.0)),
}
X = np.linspace(-6, 6, 97)
GRID = np.union1d(np.linspace(-7, 7, 28001), X)


def of(name):
    fun, _, params = FOLDED[name]
    return jax.jit(lambda x, t: fun(x, params if len(params) > 1 else params[0], t))


@pytest.mark.parametrize("name", FOLDED)
@pytest.mark.parametrize("scaling", [0.0, 0.5, 1.5, 2.0, 3.0, 5.0, 8.0])
def test_the_minimum_is_global(name, scaling):
    """On both sides of the scaling from which on the objective is not convex."""
    _, penalty, params = FOLDED[name]
    y = np.asarray(of(name)(X, scaling))
    value = lambda y, x: 0.5 * (y - x) ** 2 + scaling * penalty(y, *params)
    best = np.min(value(GRID[None, :], X[:, None]), axis=1)
    np.testing.assert_array_less(value(y, X), best + 1e-12)
    np.testing.assert_array_less(best - 1e-6, value(y, X))


@pytest.mark.parametrize("name", FOLDED)
def test_derivatives_of_folded_penalties(name):
    fun, _, params = FOLDED[name]
    # Away from kinks; the weights and the scaling are traced.
    x = jnp.asarray([-6.0, 0.3, 1.1, -1.3, 2.6, 0.0])
    for t in (0.65, 4.0):
        args = (x, *(jnp.asarray(p) for p in params), jnp.asarray(t))
        check_derivatives(lambda x, *rest: fun(x, rest[:-1] if len(rest) > 2 else rest[0], rest[-1]), args)
    jacobian = jax.jacobian(of(name))(jnp.zeros(3), 0.0)
    np.testing.assert_array_equal(jacobian, np.eye(3))


@pytest.mark.parametrize("name", FOLDED)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("k", [-40, 21])
def test_folded_penalties_have_no_unit(name, dtype, k):
    """A unit of 2^k for x: the penalty, in the unit of x squared, follows with its parameters."""
    s = 2.0**k
    fun, x = FOLDED[name][0], jnp.asarray(X, dtype)
    given = {"l0": (0.75, 0.75 * s * s), "mcp": ((0.75, 2.0), (0.75 * s, 2.0)), "scad": ((0.75, 3.0), (0.75 * s, 3.0))}
    plain, scaled = given[name]
    for t in (0.5, 4.0):
        got = fun(x * jnp.asarray(s, dtype), jax.tree.map(lambda p: jnp.asarray(p, dtype), scaled), t)
        np.testing.assert_array_equal(got, fun(x, plain, t) * jnp.asarray(s, dtype))


def test_pytrees_batches_and_bad_input_of_folded_penalties():
    x = {"a": jnp.asarray([3.0, 0.1]), "b": jnp.asarray(2.0, jnp.bfloat16)}
    out = prox.prox_mcp(x, ({"a": jnp.asarray([1.0, 1.0]), "b": 0.0}, 2.0))
    assert out["b"].dtype == jnp.bfloat16 and float(out["b"]) == 2.0
    np.testing.assert_array_equal(out["a"], [3.0, 0.0])
    np.testing.assert_array_equal(prox.prox_l0(jnp.asarray([3 + 4j, 1j]), 2.0), [3 + 4j, 0])
    for call, match in (
        (lambda: prox.prox_mcp(jnp.ones(2), (1.0, 0.0)), "gamma"),
        (lambda: prox.prox_scad(jnp.ones(2), (1.0, 1.0)), "a must be above 1"),
        (lambda: prox.prox_scad(jnp.ones(2), 1.0), "hyperparams"),
        (lambda: prox.prox_l0(jnp.ones(2), -1.0), "reg"),
        (lambda: prox.prox_l12(jnp.ones(()), 1.0), "first axis"),
        (lambda: prox.prox_l12(jnp.ones((2, 3)), jnp.ones(3)), "weights"),
        (lambda: prox.prox_l1inf(jnp.ones((2, 3)), -1.0), "weights"),
        (lambda: prox.prox_spectral_norm(jnp.ones(3)), "matrix"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


ROWS = np.array([[0.9, -1.3, 2.1], [0.3, -0.2, 1.4], [0.1, 0.0, 0.1], [0.0, 0.0, 0.0]])
WEIGHTS = np.array([0.5, 1.0, 0.7, 0.3])


@pytest.mark.parametrize("name", ["prox_l12", "prox_l1inf"])
def test_rows_are_groups(name):
    fun, of_one = getattr(prox, name), {"prox_l12": prox.prox_group_lasso, "prox_l1inf": prox.prox_linf}[name]
    got = fun(ROWS, WEIGHTS, 0.8)
    want = np.stack([of_one(row, w, 0.8) for row, w in zip(ROWS, WEIGHTS, strict=True)])
    np.testing.assert_allclose(got, want, rtol=1e-14)
    both = fun((ROWS, {"v": ROWS[:2].astype(np.float32)}), (WEIGHTS, {"v": 0.0}), 0.8)
    np.testing.assert_array_equal(both[0], got)
    np.testing.assert_array_equal(both[1]["v"], ROWS[:2].astype(np.float32))
    check_derivatives(fun, (jnp.asarray(ROWS[:3]), jnp.asarray(WEIGHTS[:3]), jnp.asarray(0.8)))


def test_spectral_norm_cuts_singular_values():
    x = np.random.default_rng(0).normal(size=(3, 4))
    left, values, right = np.linalg.svd(x, full_matrices=False)
    cut = np.asarray(prox.prox_linf(values, 0.75, 0.8))
    np.testing.assert_allclose(prox.prox_spectral_norm(x, 0.75, 0.8), left * cut @ right, atol=1e-13)
    check_derivatives(prox.prox_spectral_norm, (jnp.asarray(x), jnp.asarray(0.75), jnp.asarray(0.8)))
    pair = prox.prox_spectral_norm((x, {"small": 0.01 * x[:2]}), 0.75, 0.8)
    np.testing.assert_allclose(pair[0], left * cut @ right, atol=1e-13)
