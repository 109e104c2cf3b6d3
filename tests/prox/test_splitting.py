"""Operators by splitting against closed forms where there are some, and against a box-constrained dual by SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxsolve import Status, prox
from tests.projection.checks import check_derivatives

X = np.array([0.9, -1.3, 2.1, 0.3, -0.2, 1.4])
EDGES = np.array([[0, 1], [1, 2], [2, 0], [3, 4], [4, 5], [0, 3], [1, 4]])
WEIGHTS = np.array([0.3, 0.5, 0.2, 0.4, 0.3, 0.6, 0.1])
GROUPS = [[0, 1, 2], [2, 3], [3, 4, 0]]


def by_dual(x, weights):
    """Total variation on the graph: x - K^T u for the u in a box that makes it least."""
    K = np.zeros((len(EDGES), x.size))
    K[np.arange(len(EDGES)), EDGES[:, 0]], K[np.arange(len(EDGES)), EDGES[:, 1]] = 1, -1
    return x - K.T @ scipy.optimize.lsq_linear(K.T, x, (-weights, weights), tol=1e-14, method="bvls").x


graph = prox.make_prox_graph_total_variation(EDGES)


def test_total_variation_on_a_graph():
    run = jax.jit(graph)
    np.testing.assert_allclose(run(X, WEIGHTS, 0.8), by_dual(X, 0.8 * WEIGHTS), atol=1e-10)
    for k in (-40, 40):
        np.testing.assert_array_equal(run(X * 2.0**k, WEIGHTS * 2.0**k, 0.8), run(X, WEIGHTS, 0.8) * 2.0**k)
    np.testing.assert_array_equal(run(X, 0 * WEIGHTS, 0.8), X)
    got = run(jnp.asarray(X, jnp.float32), jnp.asarray(WEIGHTS, jnp.float32), 0.8)
    assert got.dtype == jnp.float32
    promised = 3 * float(jnp.finfo(jnp.float32).eps) ** 0.75 * np.max(np.abs(X))
    np.testing.assert_allclose(got, by_dual(X, 0.8 * WEIGHTS), rtol=0, atol=promised)
    batch = jax.jit(jax.vmap(graph, (0, None, None)))(np.stack([X, -X, np.full(6, np.nan)]), WEIGHTS, 0.8)
    np.testing.assert_allclose(batch[1], -run(X, WEIGHTS, 0.8), atol=1e-10)
    assert np.all(np.isfinite(batch[:2]))


def test_a_path_is_the_taut_string():
    path = prox.make_prox_composed(prox.prox_lasso, np.diff(np.eye(6), axis=0))
    for scaling in (0.0, 0.3, 2.0):
        np.testing.assert_allclose(path(X, 0.5, scaling), prox.prox_total_variation(X, 0.5, scaling), atol=1e-10)


def test_sums_of_two_and_three():
    sparse_group = prox.make_prox_sum((prox.prox_lasso, prox.prox_group_lasso))
    np.testing.assert_allclose(
        sparse_group(X, (0.3, 0.5), 0.8), prox.prox_sparse_group_lasso(X, (0.3, 0.5), 0.8), atol=1e-10
    )
    boxed = prox.make_prox_sum(
        (prox.prox_lasso, prox.make_prox_from_projection(lambda y: jnp.clip(y, -0.5, 1.0)), prox.prox_ridge)
    )
    want = np.clip(np.asarray(prox.prox_elastic_net(X, (0.3, 0.5), 0.8)), -0.5, 1.0)
    np.testing.assert_allclose(boxed(X, (0.3, None, 0.15), 0.8), want, atol=1e-10)
    tree = {"a": X[:2], "b": X[2:]}
    out = sparse_group(tree, (0.3, 0.5), 0.8)
    np.testing.assert_allclose(np.concatenate([out["a"], out["b"]]), sparse_group(X, (0.3, 0.5), 0.8), atol=1e-12)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_groups(norm):
    of_one = {"l2": prox.prox_group_lasso, "linf": prox.prox_linf}[norm]
    disjoint = prox.make_prox_groups([[5, 1], [0, 2, 3]], norm)
    want = X.copy()
    want[[5, 1]], want[[0, 2, 3]] = of_one(X[[5, 1]], 0.5, 0.8), of_one(X[[0, 2, 3]], 0.9, 0.8)
    np.testing.assert_allclose(disjoint(X, np.array([0.5, 0.9]), 0.8), want, rtol=1e-14)
    # The operator of each group, one after the other until nothing changes, with corrections (Dykstra, Bauschke).
    overlapping, weights = prox.make_prox_groups(GROUPS, norm), np.array([0.5, 0.9, 0.3])
    y, corrections = X.copy(), np.zeros((3, 6))
    for _ in range(300):
        for k, group in enumerate(GROUPS):
            before = y + corrections[k]
            y = before.copy()
            y[group] = _numpy_prox(norm, before[group], 0.8 * weights[k])
            corrections[k] = before - y
    np.testing.assert_allclose(overlapping(X, weights, 0.8), y, atol=1e-9)


def _numpy_prox(norm, v, t):
    if norm == "l2":
        return v * max(1 - t / np.linalg.norm(v), 0)
    size = np.sort(np.abs(v))[::-1]
    if size.sum() <= t:
        return 0 * v
    level = max((np.cumsum(size) - t) / np.arange(1, v.size + 1))
    return np.clip(v, -level, level)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["graph", "sum", "groups"])
def test_derivatives(name):
    scaling = jnp.asarray(0.8)
    fun, params = {
        "graph": (graph, jnp.asarray(WEIGHTS)),
        "sum": (
            lambda x, p, s: prox.make_prox_sum((prox.prox_lasso, prox.prox_linf))(x, (p[0], p[1]), s),
            jnp.asarray([0.2, 0.5]),
        ),
        "groups": (prox.make_prox_groups(GROUPS), jnp.asarray([0.5, 0.9, 0.3])),
    }[name]
    check_derivatives(fun, (jnp.asarray(X), params, scaling))


def test_bad_input():
    for call, error, match in (
        (lambda: prox.make_prox_sum(()), ValueError, "at least one"),
        (lambda: prox.make_prox_sum((3,)), TypeError, "proxes"),
        (lambda: prox.make_prox_sum((prox.prox_lasso, prox.prox_linf))(X, (1.0,)), ValueError, "entry for each"),
        (lambda: prox.make_prox_composed(3, np.eye(2)), TypeError, "prox"),
        (lambda: prox.make_prox_composed(prox.prox_lasso, 3), TypeError, "linear_map"),
        (lambda: prox.make_prox_composed(prox.prox_lasso, np.eye(2))(X), ValueError, "linear_map is a matrix"),
        (lambda: prox.make_prox_groups([[0], []]), ValueError, "empty"),
        (lambda: prox.make_prox_groups([[0, 0]]), ValueError, "different"),
        (lambda: prox.make_prox_groups([[0]], "l3"), ValueError, "norm"),
        (lambda: prox.make_prox_groups([[9]])(X), ValueError, "place 9"),
        (lambda: prox.make_prox_graph_total_variation(np.ones((2, 3), int)), ValueError, "shape"),
        (lambda: prox.make_prox_graph_total_variation(np.ones((2, 2))), TypeError, "integers"),
        (lambda: prox.make_prox_graph_total_variation(np.array([[0, 9]]))(X), ValueError, "places"),
    ):
        with pytest.raises(error, match=match):
            call()


def test_a_status_says_whether_iterations_sufficed():
    run = jax.jit(prox.make_prox_graph_total_variation(EDGES, info=True))
    y, info = run(X, WEIGHTS)
    np.testing.assert_allclose(y, by_dual(X, WEIGHTS), atol=1e-10)
    assert int(info.status) == Status.CONVERGED and 0 < int(info.num_iter) < 10_000 and float(info.error) <= 1e-10
    assert int(run(np.full(6, np.nan), WEIGHTS)[1].status) == Status.NONFINITE
    y, info = jax.jit(prox.make_prox_groups(GROUPS, maxiter=2, info=True))(X, 0.4)
    assert int(info.status) == Status.MAXITER and int(info.num_iter) == 2
    for exact, plain, reg in (
        (prox.make_prox_groups([[0, 1], [2]], info=True), prox.make_prox_groups([[0, 1], [2]]), 0.4),
        (prox.make_prox_sum((prox.prox_lasso,), info=True), prox.make_prox_sum((prox.prox_lasso,)), (0.4,)),
    ):
        y, info = exact(X, reg)
        np.testing.assert_array_equal(y, plain(X, reg))
        assert int(info.status) == Status.CONVERGED and int(info.num_iter) == 0
