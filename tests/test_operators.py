"""Linear maps: every kind is the same matrix, whatever it was given as."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental import sparse
from jax.tree_util import Partial
from numpy.testing import assert_allclose

from jaxsolve import _operators as ops

RNG = np.random.default_rng(0)
M, N = 4, 3
ENTRIES = RNG.normal(size=(M, N)) * (RNG.uniform(size=(M, N)) < 0.6)
SQUARE = RNG.normal(size=(N, N)) * (RNG.uniform(size=(N, N)) < 0.6)
DIAGONAL = np.diag(RNG.normal(size=N))
ROWS, COLUMNS = RNG.uniform(0.5, 2, M), RNG.uniform(0.5, 2, N)


def _product(array, x):
    return array @ x


def coordinates_of(entries, padding=0.0):
    """The entries that are not zero, in BCOO's layout, and two more that stand for none."""
    places = np.argwhere(entries)
    data = np.concatenate([entries[tuple(places.T)], [padding] * 2])
    return jnp.asarray(data), jnp.asarray(np.concatenate([places, [entries.shape] * 2]).astype(np.int32))


def sparse_of(entries, dtype=jnp.float64):
    return ops.from_entries(sparse.BCOO(coordinates_of(entries), shape=entries.shape), dtype)


def product_of(entries, dtype=jnp.float64):
    return ops.FunctionMatrix(Partial(_product, jnp.asarray(entries, dtype)), entries.shape, dtype)


def product_with_transpose(entries, dtype=jnp.float64):
    array = jnp.asarray(entries, dtype)
    return ops.FunctionMatrix(lambda x: array @ x, entries.shape, dtype, lambda y: y @ array, lambda j: array[:, j])


def dense_of(entries, dtype=jnp.float64):
    return ops.from_entries(entries, dtype)


def diagonal_of(entries, dtype=jnp.float64):
    return ops.DiagonalMatrix(jnp.asarray(np.diagonal(entries), dtype))


KINDS = [
    *((make, entries) for make in (dense_of, sparse_of, product_of, product_with_transpose) for entries in (ENTRIES,)),
    *((make, SQUARE) for make in (sparse_of, product_of)),
    (diagonal_of, DIAGONAL),
]


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0].__name__}-{kind[1].shape[0]}")
def kind(request):
    make, entries = request.param
    return make(entries), entries


def test_the_products_are_those_of_the_entries(kind):
    matrix, entries = kind
    m, n = entries.shape
    assert matrix.shape == (m, n)
    x, y = RNG.normal(size=n), RNG.normal(size=m)
    assert_allclose(matrix.matvec(jnp.asarray(x)), entries @ x, atol=1e-14)
    assert_allclose(matrix.rmatvec(jnp.asarray(y)), entries.T @ y, atol=1e-14)
    assert_allclose(matrix.dense(), entries, atol=1e-15)
    transposed = matrix.transpose()
    assert type(transposed) is type(matrix) and transposed.shape == (n, m)
    assert_allclose(transposed.dense(), entries.T, atol=1e-15)
    assert_allclose(transposed.rmatvec(jnp.asarray(x)), entries @ x, atol=1e-14)
    assert_allclose(transposed.transpose().matvec(jnp.asarray(x)), entries @ x, atol=1e-14)


def test_what_is_computed_from_the_entries(kind):
    matrix, entries = kind
    m, n = entries.shape
    rows, columns = jnp.asarray(ROWS[:m]), jnp.asarray(COLUMNS[:n])
    scaled = np.diag(rows) @ entries @ np.diag(columns)
    assert type(matrix.scaled(rows, columns)) is type(matrix)
    assert_allclose(matrix.scaled(rows, columns).dense(), scaled, atol=1e-14)
    assert_allclose(matrix.scaled(rows, columns).rmatvec(rows), scaled.T @ rows, atol=1e-14)
    assert_allclose(matrix.gram(rows), entries.T @ np.diag(rows) @ entries, atol=1e-14)
    assert_allclose(matrix.squared_column_sums(rows), np.diagonal(matrix.gram(rows)), atol=1e-14)
    assert_allclose(matrix.diagonal(), np.diagonal(entries), atol=1e-15)
    assert_allclose(matrix.columns(jnp.array([2, 0])), entries.T[[2, 0]], atol=1e-15)


@pytest.mark.parametrize("make", [dense_of, sparse_of, product_of])
def test_the_largest_entries(make):
    matrix = make(ENTRIES)
    scaled = np.abs(np.diag(ROWS) @ ENTRIES @ np.diag(COLUMNS))
    of_rows, of_columns = matrix.largest(jnp.asarray(ROWS), jnp.asarray(COLUMNS))
    assert_allclose(of_rows, scaled.max(axis=1))
    assert_allclose(of_columns, scaled.max(axis=0))
    assert_allclose(diagonal_of(DIAGONAL).largest(COLUMNS, COLUMNS)[0], COLUMNS**2 * np.abs(np.diagonal(DIAGONAL)))


@pytest.mark.parametrize("make", [dense_of, product_of, product_with_transpose])
def test_a_multiple_of_the_identity_is_added(make):
    shifted = make(SQUARE).shifted(jnp.asarray(2.0))
    x = jnp.asarray(COLUMNS)
    assert_allclose(shifted.dense(), SQUARE + 2 * np.eye(N), atol=1e-15)
    assert_allclose(shifted.rmatvec(x), SQUARE.T @ x + 2 * x, atol=1e-14)
    assert_allclose(shifted.columns(jnp.array([1])), [SQUARE[:, 1] + 2 * np.eye(N)[1]], atol=1e-15)


@pytest.mark.parametrize("make", [dense_of, sparse_of, diagonal_of])
def test_known_entries_multiply_several_columns(make):
    entries = DIAGONAL if make is diagonal_of else ENTRIES
    m, n = entries.shape
    X, Y = RNG.normal(size=(n, 2)), RNG.normal(size=(m, 2))
    assert_allclose(make(entries).matvec(jnp.asarray(X)), entries @ X, atol=1e-14)
    assert_allclose(make(entries).rmatvec(jnp.asarray(Y)), entries.T @ Y, atol=1e-14)


STACKS = {
    "dense": ((dense_of, ENTRIES), (dense_of, SQUARE)),
    "sparse": ((sparse_of, ENTRIES), (diagonal_of, DIAGONAL), (dense_of, SQUARE)),
    "function": ((product_of, ENTRIES), (diagonal_of, DIAGONAL), (sparse_of, SQUARE)),
}


@pytest.mark.parametrize("name", STACKS)
def test_stacks(name):
    stacked = ops.stack([make(entries) for make, entries in STACKS[name]], N, jnp.float64)
    assert type(stacked).__name__ == f"{name.capitalize()}Matrix"
    want = np.concatenate([entries for _, entries in STACKS[name]])
    assert stacked.shape == want.shape
    assert_allclose(stacked.dense(), want, atol=1e-15)
    assert_allclose(stacked.rmatvec(jnp.ones(want.shape[0])), want.sum(axis=0), atol=1e-14)


def test_a_stack_of_nothing_and_of_one():
    assert ops.stack([], N, jnp.float32).dense().shape == (0, N)
    alone = diagonal_of(DIAGONAL)
    assert ops.stack([alone], N, jnp.float64) is alone


@pytest.mark.parametrize("make", [dense_of, sparse_of, product_of, diagonal_of])
def test_matrices_are_pytrees(make):
    entries = DIAGONAL if make is diagonal_of else ENTRIES
    rows, columns = jnp.asarray(ROWS[: len(entries)]), jnp.asarray(COLUMNS)
    matrix = make(entries)

    @jax.jit
    def halved_thrice(matrix):
        def halved(_, matrix):
            return jax.tree.map(lambda v: 0.5 * v if jnp.issubdtype(v.dtype, jnp.floating) else v, matrix)

        return jax.lax.fori_loop(0, 3, halved, matrix)

    assert_allclose(halved_thrice(matrix).dense(), entries / 8, atol=1e-15)
    # Two made of equal parts have one structure: a loop may replace one by the other.
    chosen = jax.lax.cond(rows[0] > 0, lambda: matrix.scaled(rows, columns), lambda: matrix.scaled(2 * rows, columns))
    assert_allclose(chosen.dense(), np.diag(rows) @ entries @ np.diag(columns), atol=1e-14)
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), make(entries), make(entries))
    assert_allclose(jax.vmap(lambda a: a.rmatvec(rows))(batch), np.tile(entries.T @ rows, (2, 1)), atol=1e-14)


@pytest.mark.parametrize("make", [dense_of, sparse_of, product_of])
def test_derivatives_with_respect_to_the_entries(make):
    x, y = jnp.asarray(COLUMNS), jnp.asarray(ROWS)

    def form(matrix):
        return y @ matrix.matvec(x) + x @ matrix.transpose().matvec(y)

    matrix = make(ENTRIES)
    grad = jax.jit(jax.grad(form, allow_int=True))(matrix)
    if make is sparse_of:
        want = 2 * ROWS[matrix.rows] * COLUMNS[matrix.cols]
        assert_allclose(grad.data, want, atol=1e-14)
    else:
        assert_allclose(jax.tree.leaves(grad)[0], 2 * np.outer(ROWS, COLUMNS), atol=1e-14)


@pytest.mark.parametrize("make", [dense_of, sparse_of, product_of])
def test_float32_stays(make):
    matrix = make(ENTRIES, jnp.float32)
    ones = jnp.ones(M, jnp.float32), jnp.ones(N, jnp.float32)
    found = matrix.scaled(*ones), matrix.gram(ones[0]), matrix.diagonal(), *matrix.largest(*ones)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} <= {jnp.dtype("float32"), jnp.dtype("int32")}
    assert matrix.matvec(ones[1]).dtype == matrix.rmatvec(ones[0]).dtype == jnp.float32


def test_padding_repeated_entries_and_other_layouts():
    padded = sparse.BCOO(coordinates_of(ENTRIES, padding=np.nan), shape=(M, N))
    rows = sparse.BCSR.from_scipy_sparse(scipy.sparse.csr_matrix(ENTRIES))
    for given in (padded, rows):
        matrix = ops.from_entries(given)
        assert_allclose(matrix.dense(), ENTRIES)
        assert_allclose(matrix.squared_column_sums(jnp.ones(M)), (ENTRIES**2).sum(axis=0))
    data, indices = coordinates_of(ENTRIES)
    halves = ops.from_entries(sparse.BCOO((jnp.tile(0.5 * data, 2), jnp.tile(indices, (2, 1))), shape=(M, N)))
    assert_allclose(halves.dense(), ENTRIES)
    assert_allclose(halves.matvec(jnp.asarray(COLUMNS)), ENTRIES @ COLUMNS, atol=1e-14)
    assert_allclose(halves.diagonal(), np.diagonal(ENTRIES))
    # Sizes are those of the sums.
    sizes = halves.largest(jnp.ones(M), jnp.ones(N)), halves.squared_column_sums(jnp.ones(M))
    assert_allclose(sizes[0][0], np.abs(ENTRIES).max(axis=1))
    assert_allclose(sizes[0][1], np.abs(ENTRIES).max(axis=0))
    assert_allclose(sizes[1], (ENTRIES**2).sum(axis=0))
    nothing = ops.from_entries(sparse.BCOO(coordinates_of(ENTRIES[:0], padding=1.0), shape=(0, N)))
    assert nothing.shape == (0, N) and nothing.matvec(jnp.ones(N)).shape == (0,)
    assert_allclose(nothing.gram(jnp.ones(0)), np.zeros((N, N)))
    with pytest.raises(ValueError, match="G must be sparse in both axes"):
        ops.from_entries(sparse.BCOO((jnp.ones((M, 1)), jnp.zeros((M, 1, 1), int)), shape=(M, N)), name="G")


# ---- Products of a sparse matrix with itself ----------------------------------------------------------------------


def thin(seed=0, m=60, n=20, count=90, dtype=jnp.float64):
    """A matrix with few entries, some of them at the same place, and its entries as an array."""
    rng = np.random.default_rng(seed)
    places = np.stack([rng.integers(0, m, count), rng.integers(0, n, count)], axis=1).astype(np.int32)
    data = jnp.asarray(rng.normal(size=count), dtype)
    return ops.from_entries(sparse.BCOO((data, jnp.asarray(places)), shape=(m, n)))


def test_sparse_gram_is_that_of_the_dense_matrix_in_a_batch_too():
    matrices = [thin(seed) for seed in range(3)]
    weights = jnp.asarray(RNG.uniform(0, 2, (3, 60)))
    want = [ops.weighted_gram(a.dense(), w) for a, w in zip(matrices, weights, strict=True)]
    assert_allclose(jax.jit(ops.SparseMatrix.gram)(matrices[0], weights[0]), want[0], atol=1e-13)
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *matrices)  # of entries and of places
    assert_allclose(jax.jit(jax.vmap(ops.SparseMatrix.gram))(batch, weights), jnp.stack(want), atol=1e-13)
    shared = jax.vmap(matrices[0].gram)(weights)
    assert_allclose(shared[1], ops.weighted_gram(matrices[0].dense(), weights[1]), atol=1e-13)
    single = thin(dtype=jnp.float32)
    assert single.gram(weights[0].astype(jnp.float32)).dtype == jnp.float32


def test_sparse_gram_has_all_derivatives():
    matrix, weights = thin(), jnp.asarray(RNG.uniform(0, 2, 60))
    mix = jnp.asarray(RNG.normal(size=(20, 20)))

    def number(gram, data, weights):
        return jnp.sum(jnp.sin(mix * gram(dataclasses.replace(matrix, data=data), weights)))

    sparse_one = functools.partial(number, lambda a, w: a.gram(w))
    dense_one = functools.partial(number, lambda a, w: ops.weighted_gram(a.dense(), w))
    point, direction = (matrix.data, weights), (jnp.cos(matrix.data), jnp.cos(weights))

    def derivatives(f):
        def gradient(*at):
            return jax.grad(f, argnums=(0, 1))(*at)

        return jax.jvp(f, point, direction)[1], gradient(*point), jax.jvp(gradient, point, direction)[1]

    found, want = jax.jit(lambda: derivatives(sparse_one))(), jax.jit(lambda: derivatives(dense_one))()
    jax.tree.map(functools.partial(assert_allclose, rtol=1e-11, atol=1e-11), found, want)


def test_sparse_gram_makes_no_array_of_all_entries():
    m, n, count = 20000, 200, 60000
    places = jax.ShapeDtypeStruct((count,), jnp.int32)
    data, weights = jax.ShapeDtypeStruct((count,), jnp.float64), jax.ShapeDtypeStruct((m,), jnp.float64)

    def memory(gram):
        return jax.jit(gram).lower(ops.SparseMatrix(data, places, places, (m, n)), weights).compile().memory_analysis()

    of_all = 8 * m * n
    assert memory(lambda a, w: ops.weighted_gram(a.dense(), w)).temp_size_in_bytes >= of_all
    assert memory(ops.SparseMatrix.gram).temp_size_in_bytes < of_all / 3
    gradient = jax.grad(lambda a, w: jnp.sum(a.gram(w) ** 2), argnums=1)
    assert memory(gradient).temp_size_in_bytes < of_all / 2
