"""Transport and Birkhoff: the form of the solution, Sinkhorn's algorithm, derivatives, options, hard and bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

import jaxsolve
from jaxsolve import projection

pytestmark = pytest.mark.slow

S = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)))
A, B = jnp.array([0.2, 0.3, 0.5]), jnp.array([0.1, 0.4, 0.2, 0.3])
FUNCTIONS = {"euclidean": projection.projection_transport, "kl": projection.kl_projection_transport}
# Eager calls share one program; these check nothing.
jitted = {name: jax.jit(fun) for name, fun in FUNCTIONS.items()}


def sinkhorn(S, a, b, sweeps=3000):
    alpha, beta = np.zeros(len(a)), np.zeros(len(b))
    for _ in range(sweeps):
        alpha = np.log(a) - scipy.special.logsumexp(S + beta, axis=1)
        beta = np.log(b) - scipy.special.logsumexp(S + alpha[:, None], axis=0)
    return np.exp(S + alpha[:, None] + beta)


@pytest.mark.parametrize("strength", [1.0, 0.02])
def test_kl_is_where_sinkhorn_converges_to(strength):
    scaled = np.asarray(S) / strength
    np.testing.assert_allclose(FUNCTIONS["kl"](jnp.asarray(scaled), (A, B)), sinkhorn(scaled, A, B), atol=1e-10)


def test_euclidean_has_the_form_of_the_solution():
    plan = np.asarray(FUNCTIONS["euclidean"](S, (A, B)))
    np.testing.assert_allclose(plan.sum(1), A, atol=1e-10)
    np.testing.assert_allclose(plan.sum(0), B, atol=1e-10)
    # T - S is alpha_i + beta_j on the support, and more outside of it.
    rows, columns = np.nonzero(plan)
    system = np.zeros((rows.size, 7))
    system[np.arange(rows.size), rows] = system[np.arange(rows.size), 3 + columns] = 1
    duals, *_ = np.linalg.lstsq(system, (plan - S)[rows, columns], rcond=None)
    sums = duals[:3, None] + duals[3:]
    np.testing.assert_allclose((plan - S)[rows, columns], sums[rows, columns], atol=1e-9)
    assert np.all(plan - S >= sums - 1e-9)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_options_lead_to_one_solution(name):
    fun, plan = FUNCTIONS[name], FUNCTIONS[name](S, (A, B))
    make_solver = functools.partial(jaxsolve.LBFGS, tol=1e-10)
    for options in ((None, False), (make_solver, True)):
        np.testing.assert_allclose(fun(S, (A, B), *options), plan, atol=1e-9)
    # The scale of the marginals.
    scaled = FUNCTIONS[name](S if name == "kl" else 1e-20 * S, (1e-20 * A, 1e-20 * B))
    np.testing.assert_allclose(scaled * 1e20, plan, atol=1e-9)


def test_birkhoff():
    square = S[:, :3]
    for fun, of_marginals in (
        (projection.projection_birkhoff, FUNCTIONS["euclidean"]),
        (projection.kl_projection_birkhoff, FUNCTIONS["kl"]),
    ):
        plan = fun(square)
        np.testing.assert_allclose(plan, of_marginals(square, (jnp.ones(3), jnp.ones(3))), atol=1e-12)
        np.testing.assert_allclose([plan.sum(0), plan.sum(1)], np.ones((2, 3)), atol=1e-9)
        with pytest.raises(ValueError, match=r"square matrix.*got shape \(3, 4\)"):
            fun(S)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_matrix_of_a_tree_has_a_plan(name):
    fun, plan = FUNCTIONS[name], FUNCTIONS[name](S, (A, B))
    out = fun({"a": S, "b": [S]}, ({"a": A, "b": [A]}, {"a": B, "b": [B]}))
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, plan), out)
    with pytest.raises(ValueError, match="both marginals must have the structure of sim_matrix"):
        fun({"a": S}, (A, B))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_where_marginals_vanish_and_in_batches(name):
    fun = FUNCTIONS[name]
    jac = jax.jit(jax.vmap(jax.jacfwd(fun, (0, 1)), in_axes=(0, (0, None))))
    empty = jnp.array([0.0, 0.5, 0.5])
    matrices, rows = jnp.stack([S, S]), jnp.stack([A, empty])
    by_matrix, (by_rows, by_columns) = jac(matrices, (rows, B))
    assert all(np.all(np.isfinite(v)) for v in (by_matrix, by_rows, by_columns))
    plan = FUNCTIONS[name](S, (empty, B))
    np.testing.assert_array_equal(plan[0], 0)
    np.testing.assert_allclose(plan.sum(1), empty, atol=1e-10)
    # Sums do not move with S.
    np.testing.assert_allclose(by_matrix.sum(1), 0, atol=1e-10)
    np.testing.assert_allclose(by_matrix.sum(2), 0, atol=1e-10)


@pytest.mark.float32
@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32(name):
    plan = FUNCTIONS[name](S.astype(jnp.float32), (A.astype(jnp.float32), B.astype(jnp.float32)))
    assert plan.dtype == jnp.float32
    np.testing.assert_allclose(plan.sum(1), A, atol=1e-4)
    np.testing.assert_allclose(plan.sum(0), B, atol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_has_no_answer(name):
    fun, run = FUNCTIONS[name], jitted[name]
    for value in (jnp.inf, -jnp.inf, jnp.nan):
        assert np.all(np.isnan(run(S.at[0, 1].set(value), (A, B))))
    assert np.all(np.isnan(run(S, (1.1 * A, B)))) and np.all(np.isnan(run(S, (A - 0.25, B - 0.1875))))
    if name == "kl":  # the limit is the plan of least cost, a vertex
        rows = np.vstack([np.kron(np.eye(3), np.ones(4)), np.kron(np.ones(3), np.eye(4))])
        vertex = scipy.optimize.linprog(-np.ravel(S), A_eq=rows, b_eq=np.concatenate([A, B])).x.reshape(3, 4)
        np.testing.assert_allclose(run(1e30 * S, (A, B)), vertex, atol=1e-4)
    else:
        assert np.all(np.isnan(run(1e30 * S, (A, B))))
    np.testing.assert_array_equal(run(S, (0 * A, 0 * B)), 0)
    with pytest.raises(ValueError, match="equal finite sums"):
        fun(S, (1.1 * A, B))
    with pytest.raises(ValueError, match="non-negative"):
        fun(S, (A - 0.25, B))
    with pytest.raises(ValueError, match=r"vectors of shapes \(3,\) and \(4,\)"):
        fun(S, (B, A))
    with pytest.raises(ValueError, match="hyperparams must be the tuple"):
        fun(S, A)
    with pytest.raises(ValueError, match=r"got shape \(3,\).*vmap"):
        fun(A, (A, B))
    with pytest.raises(TypeError, match="make_solver"):
        fun(S, (A, B), "LBFGS")
    with pytest.raises(TypeError, match="sim_matrix must be real"):
        fun(S.astype(complex), (A, B))


@pytest.mark.float32
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_entropic_transport_at_small_strengths_is_a_plan_near_the_best(dtype):
    rng = np.random.default_rng(0)
    costs = np.sum((rng.normal(size=(8, 1, 2)) - rng.normal(size=(1, 8, 2))) ** 2, axis=-1)
    rows, columns = scipy.optimize.linear_sum_assignment(costs)
    best, marginals = costs[rows, columns].sum() / 8, (np.full(8, 1 / 8, dtype), np.full(8, 1 / 8, dtype))
    for strength in (1e-2, 1e-4, 1e-6, 1e-9):
        plan = np.asarray(jaxsolve.projection.kl_projection_transport((-costs / strength).astype(dtype), marginals))
        off = np.abs(plan.sum(0) - 1 / 8).sum() + np.abs(plan.sum(1) - 1 / 8).sum()
        assert off < 1e-3 and np.all(plan >= 0)
        assert (plan * costs).sum() < best * 1.01 + strength
