"""Sparse data: the same answers as dense data, from matrices that stay sparse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental import sparse

import jaxsolve
from jaxsolve import Status
from jaxsolve.solvers.quadratic._problem import as_quadratic, is_factorized

METHODS = ("InteriorPointQP", "BoxOSQP")


def problem(seed=0, n=9, m=80):
    """So few entries that no dense copy is made for a product; a row of zeros, equalities, and rows with one bound."""
    rng = np.random.default_rng(seed)
    A = np.where(rng.uniform(size=(m, n)) < 0.08, rng.normal(size=(m, n)), 0)
    A[0] = 0
    assert m * n > 8 * np.count_nonzero(A)
    Q = np.diag(rng.uniform(0.5, 2, n))
    Q[0, 3] = Q[3, 0] = 0.25
    inside = A @ rng.normal(size=n)
    lower, upper = inside - rng.uniform(0.1, 1, m), inside + rng.uniform(0.1, 1, m)
    upper[[4, 7]] = lower[[4, 7]] = inside[[4, 7]]
    upper[10:20], lower[20:25] = np.inf, -np.inf
    return Q, 4 * rng.normal(size=n), A, lower, upper


def run(method, Q, c, A, lower, upper, **options):
    return getattr(jaxsolve, method)(**{"tol": 1e-9, **options}).run(None, (Q, c), A, (lower, upper))


def thin(matrix, dtype=None):
    return sparse.BCOO.fromdense(jnp.asarray(matrix, dtype))


def with_data(matrix, data):
    return sparse.BCOO((data, matrix.indices), shape=matrix.shape, unique_indices=True)


def all_close(found, want, **tolerances):
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerances), found, want)


def loss(method, of_Q, of_A, c, lower, upper, *, dense, **options):
    """A function of the entries: a number that depends on the whole solution, and the result of the run."""
    mix = jnp.cos(jnp.arange(1.0, c.size + 1))

    def value(*data):
        matrices = [with_data(matrix, entries) for matrix, entries in zip((of_Q, of_A), data, strict=True)]
        Q, A = [matrix.todense() for matrix in matrices] if dense else matrices
        params, state = run(method, Q, c, A, lower, upper, **options)
        return jnp.sum(jnp.sin(mix * params.primal[0])) + jnp.sum(jnp.cos(params.dual_eq)), (params, state.iter_num)

    return value


@pytest.mark.slow
def test_solutions_and_gradients_are_those_of_dense_data():
    Q, c, A, lower, upper = problem()
    of_Q, of_A = thin(Q), thin(A)
    f, g = (loss("InteriorPointQP", of_Q, of_A, c, lower, upper, dense=dense) for dense in (False, True))
    found, want = (jax.jit(jax.value_and_grad(h, (0, 1), has_aux=True))(of_Q.data, of_A.data) for h in (f, g))
    all_close(found, want, rtol=1e-7, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_derivative_of_a_batch_of_entries(method):
    """Forward, reverse and second derivatives; the batch has its places in common."""
    Q, c, A, lower, upper = problem()
    of_Q, of_A = thin(Q), thin(A)
    rng = np.random.default_rng(2)
    points = [jnp.stack([data, data * rng.uniform(0.98, 1.02, data.size)]) for data in (of_Q.data, of_A.data)]
    along = [jnp.asarray(rng.normal(size=data.shape)) for data in points]

    def derivatives(f, point, along):
        def gradient(*at):
            return jax.grad(lambda *at: f(*at)[0], argnums=(0, 1))(*at)

        _, slope, aux = jax.jvp(f, point, along, has_aux=True)
        return aux[0], slope, jax.jvp(gradient, point, along)

    kinds = (loss(method, of_Q, of_A, c, lower, upper, dense=dense) for dense in (False, True))
    found, want = (jax.jit(jax.vmap(functools.partial(derivatives, f)))(points, along) for f in kinds)
    all_close(found, want, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_unrolled_derivatives(method):
    Q, c, A, lower, upper = problem()
    of_Q, of_A = thin(Q), thin(A)
    options = {"implicit_diff": False, "maxiter": 15 if method == "InteriorPointQP" else 40, "tol": 1e-7}
    kinds = (loss(method, of_Q, of_A, c, lower, upper, dense=dense, **options) for dense in (False, True))
    found, want = (jax.jit(jax.grad(f, (0, 1), has_aux=True))(of_Q.data, of_A.data)[0] for f in kinds)
    all_close(found, want, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_batches_of_places_and_of_vectors(method):
    programs = [problem(seed) for seed in range(3)]
    most = max(np.count_nonzero(part[2]) for part in programs)
    matrices = [sparse.BCOO.fromdense(jnp.asarray(part[2]), nse=most) for part in programs]  # padded
    data, indices = (jnp.stack(parts) for parts in zip(*[(a.data, a.indices) for a in matrices], strict=True))
    Q, c, A, lower, upper = (jnp.stack(parts) for parts in zip(*programs, strict=True))

    def each(Q, c, data, indices, lower, upper):
        return run(method, Q, c, sparse.BCOO((data, indices), shape=A.shape[1:]), lower, upper).params

    found = jax.jit(jax.vmap(each))(Q, c, data, indices, lower, upper)
    want = jax.jit(jax.vmap(functools.partial(run, method)))(Q, c, A, lower, upper).params
    all_close(found, want, atol=1e-8)
    # With the matrices in common operator splitting makes one factor for all.
    of_Q, of_A = thin(Q[0]), thin(A[0])
    found = jax.jit(jax.vmap(lambda c: run(method, of_Q, c, of_A, lower[0], upper[0]).params))(c)
    want = jax.jit(jax.vmap(lambda c: run(method, Q[0], c, A[0], lower[0], upper[0]).params))(c)
    all_close(found, want, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("method", ["BoxOSQP"])
def test_laws_of_scale(method, dtype):
    """Other units change solution and multipliers by their factor, and iterations not at all."""
    Q, c, A, lower, upper = problem()
    lower[0], upper[0] = -np.inf, np.inf  # a row of zeros has no unit
    n, m = c.size, lower.size
    solve = jax.jit(lambda Q, c, A, *bounds: run(method, Q, c, A, *bounds, tol=1e-8 if dtype == "float64" else 1e-5))
    of_Q, of_A = thin(Q), thin(A)
    rng = np.random.default_rng(0)

    def solved(cost, columns, rows):
        entries = cost * np.outer(columns, columns) * Q, cost * columns * c, np.diag(rows) @ A @ np.diag(columns)
        Q_data, A_data = entries[0][tuple(of_Q.indices.T)], entries[2][tuple(of_A.indices.T)]
        data = jax.tree.map(lambda x: jnp.asarray(x, dtype), (Q_data, entries[1], A_data, rows * lower, rows * upper))
        Q_thin, A_thin = with_data(of_Q, data[0]), with_data(of_A, data[2])
        params, state = solve(Q_thin, data[1], A_thin, *data[3:])
        assert int(state.status) == Status.CONVERGED
        x, y = np.asarray(params.primal[0]), np.asarray(params.dual_eq)
        return x * columns, y * rows / cost, int(state.iter_num)

    want = solved(1.0, np.ones(n), np.ones(m))
    for seed in range(6):
        powers = [2.0 ** rng.integers(-20, 21, size) for size in (1, n, m)]
        units = [part if seed // 2 == i else np.ones_like(part) for i, part in enumerate(powers)]
        found = solved(units[0][0], *units[1:])
        all_close(found, want, rtol=1e-12 if dtype == "float64" else 1e-5, atol=1e-12 if dtype == "float64" else 1e-5)


# ---- Sizes --------------------------------------------------------------------------------------------------------


def shapes_of(m, n, count):
    def matrix(rows, entries):
        data, places = jax.ShapeDtypeStruct((entries,), float), jax.ShapeDtypeStruct((entries, 2), jnp.int32)
        return data, places, (rows, n)

    return matrix(n, n), matrix(m, count), jax.ShapeDtypeStruct((n,), float), jax.ShapeDtypeStruct((m,), float)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_no_array_of_all_entries_is_made(method):
    m, n, count = 20000, 200, 60000
    (*of_Q, square), (*of_A, shape), vector, bounds = shapes_of(m, n, count)

    def first(of_Q, c, of_A, lower, upper):
        matrices = (sparse.BCOO(tuple(part), shape=s) for part, s in ((of_Q, square), (of_A, shape)))
        return run(method, next(matrices), c, next(matrices), lower, upper).params.primal[0][0]

    compiled = jax.jit(jax.grad(first, argnums=1)).lower(of_Q, vector, of_A, bounds, bounds).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 8 * m * n


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_larger_problem(method):
    rng = np.random.default_rng(1)
    n, m = 300, 3000
    A = scipy.sparse.random_array((m, n), density=0.01, rng=rng, format="csr", data_sampler=rng.standard_normal)
    inside = A @ rng.normal(size=n)
    Q, c = scipy.sparse.diags_array(rng.uniform(0.5, 2, n)).tocsr(), 4 * rng.normal(size=n)
    bounds = inside - rng.uniform(1, 3, m), inside + rng.uniform(1, 3, m)
    (x, _), y, _ = (result := run(method, Q, c, A, *bounds, tol=1e-8)).params
    assert int(result.state.status) == Status.CONVERGED
    np.testing.assert_allclose(Q @ x + c + A.T @ y, 0, atol=1e-6)
    assert np.all(A @ x >= bounds[0] - 1e-6) and np.all(A @ x <= bounds[1] + 1e-6)
    np.testing.assert_allclose(np.where(y > 0, bounds[1] - A @ x, A @ x - bounds[0]) * y, 0, atol=1e-5)


def test_above_the_limit_there_are_products_only():
    n = 3000
    Q, c = scipy.sparse.eye_array(n, format="csr"), np.ones(n)
    assert not is_factorized(n, 2 * n) and is_factorized(n, n * n // 4) and is_factorized(2000, 1)
    with pytest.raises(ValueError, match="InteriorPoint.*3000.*matrix_free"):
        jaxsolve.InteriorPointQP().run(None, (Q, c), None, (0.0, 1.0))
    shapes = jax.eval_shape(lambda: jaxsolve.solve_qp(Q, c, l=0.0, u=1.0))
    assert shapes.method == "matrix_free"
    text = jax.jit(lambda c: jaxsolve.solve_qp(Q, c, l=0.0, u=1.0).x).lower(c).as_text()
    assert f"{n}x{n}x" not in text
    text = jax.jit(lambda c: jaxsolve.solve_qp(None, c, A=Q, b=c, l=0.0, method="matrix_free").x).lower(c).as_text()
    assert f"{n}x{n}x" not in text


# ---- What sparse arrays may look like -----------------------------------------------------------------------------


def test_only_the_symmetric_part_of_the_objective_counts():
    rng = np.random.default_rng(0)
    Q = np.where(rng.uniform(size=(6, 6)) < 0.4, rng.normal(size=(6, 6)), 0)
    of_Q = thin(Q)
    P = as_quadratic((of_Q, jnp.ones(6))).P
    np.testing.assert_array_equal(P.dense(), 0.5 * (Q + Q.T))
    ones = jnp.ones(6)
    np.testing.assert_allclose(P.largest(ones, ones)[0], np.abs(0.5 * (Q + Q.T)).max(axis=1))
    x = jnp.arange(1.0, 7.0)
    slope = jax.grad(lambda data: x @ as_quadratic((with_data(of_Q, data), ones)).P.matvec(jnp.cos(x)))(of_Q.data)
    i, j = of_Q.indices.T
    np.testing.assert_allclose(slope, 0.5 * (x[i] * jnp.cos(x)[j] + x[j] * jnp.cos(x)[i]))


@pytest.mark.slow
def test_repeated_entries_are_one_entry():
    """A matrix in parts has the iterations of the whole one; so has one with padding, and one without rows."""
    Q, c, A, lower, upper = problem()
    of_A = thin(A)
    parts = jnp.concatenate([1.5 * of_A.data, -0.5 * of_A.data]), jnp.concatenate([of_A.indices] * 2)
    in_parts = sparse.BCOO(parts, shape=A.shape)
    padded = sparse.BCOO.fromdense(jnp.asarray(A), nse=2 * of_A.nse)
    solve = jax.jit(lambda A: run("InteriorPointQP", Q, c, A, lower, upper))
    want = solve(padded)
    found = solve(in_parts)
    assert int(found.state.iter_num) == int(want.state.iter_num)
    all_close(found.params, want.params, atol=1e-10)


def test_no_rows_with_padding():
    nothing = sparse.BCOO((jnp.zeros(2), jnp.zeros((2, 2), jnp.int32)), shape=(0, 3))
    found = jaxsolve.solve_qp(thin(np.eye(3)), -np.ones(3), nothing, jnp.zeros(0))
    np.testing.assert_allclose(found.x, 1.0)
