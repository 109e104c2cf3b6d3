"""Least squares with bounds, against SciPy, the optimality conditions, exact arithmetic and differences."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
from jax.experimental.sparse import BCOO

import jaxsolve
from jaxsolve import Status, lsq_linear, nnls

KINDS = ("regular", "duplicates", "low rank", "zero column", "ill-conditioned", "non-negative", "whole numbers")
SHAPES = ((8, 5), (5, 8), (6, 6), (12, 3), (1, 4), (4, 1), (20, 15), (15, 20))


def problem(rng, m, n, kind, smallest=1e-7):
    """Data ``A, b, l, u`` of a kind: with absent, one-sided and equal bounds, some with an exact fit or ``b = 0``."""
    A = rng.normal(size=(m, n))
    if kind == "duplicates":
        A = A[:, rng.integers(n, size=n)]
    elif kind == "low rank":
        r = max(1, min(m, n) // 2)
        A = A[:, :r] @ rng.normal(size=(r, n))
    elif kind == "zero column":
        A[:, rng.integers(n)] = 0
    elif kind == "ill-conditioned":
        U, values, V = np.linalg.svd(A, full_matrices=False)
        A = U * np.geomspace(1, smallest, values.size) @ V
    elif kind == "non-negative":
        A = np.abs(A)
    elif kind == "whole numbers":
        A = np.round(A)
    b = rng.choice([1, 1, 1, 1, 1, 0]) * rng.normal(size=m)
    if rng.random() < 0.3:
        b = A @ np.maximum(rng.normal(size=n), 0)
    lower = np.where(rng.random(n) < 0.25, -np.inf, rng.normal(size=n) - 0.5)
    above = np.where(np.isfinite(lower), lower, rng.normal(size=n)) + rng.exponential(size=n)
    upper = np.where(rng.random(n) < 0.25, np.inf, above)
    upper = np.where((rng.random(n) < 0.1) & np.isfinite(lower), lower, upper)
    if rng.random() < 0.4:
        lower, upper = np.zeros(n), np.full(n, np.inf)
    return A, b, lower, upper


def batch_of(rng, m, n, count, dtype=np.float64, **options):
    """Many problems of one shape."""
    problems = [problem(rng, m, n, KINDS[i % len(KINDS)], **options) for i in range(count)]
    return [np.stack(parts).astype(dtype) for parts in zip(*problems, strict=True)]


def in_units(A, b, lower, upper, columns, size):
    """The same problem with variables in other units, and a right-hand side that is ``size`` times as large.

    ``columns`` has the shape (n,), or (count, n) for a batch; the solution is ``size / columns`` times as large.
    """
    return A * columns[..., None, :], b * size[..., None], *(v * size[..., None] / columns for v in (lower, upper))


def result(A, b, lower, upper):
    found = lsq_linear(A, b, (lower, upper))
    return found.x, found.cost, found.fun, found


solved = jax.jit(jax.vmap(lambda *data: result(*data)[3]))


@jax.jit
@jax.vmap
def with_tangents(data, direction):
    """Solution, cost and residual, their tangents, and the whole result."""

    def run(*data):
        *outputs, found = result(*data)
        return outputs, found

    outputs, tangents, found = jax.jvp(run, data, direction, has_aux=True)
    return outputs, tangents, found


def check_optimal(A, b, lower, upper, x, tol):
    """The bounds hold, and by how much the optimality conditions do not; both decide for convex problems."""
    assert np.all((x >= lower) & (x <= upper))
    gradient = A.T @ (A @ x - b)
    lengths = np.linalg.norm(A, axis=0)
    can_move = np.where(gradient > 0, x > lower, x < upper) & (lower < upper)
    size = np.linalg.norm(b) + lengths @ np.abs(x)
    assert np.all(np.where(can_move, np.abs(gradient), 0) <= tol * size * lengths)


def scipy_solution(A, b, lower, upper):
    """SciPy does not take bounds that are equal."""
    room = lower < upper
    x = np.where(room, 0.0, lower)
    if room.any():
        rest, bounds = b - A[:, ~room] @ x[~room], (lower[room], upper[room])
        x[room] = scipy.optimize.lsq_linear(A[:, room], rest, bounds, method="bvls", tol=1e-15, max_iter=1000).x
    return np.clip(x, lower, upper)


def check_batch(data, found, tol):
    """Every element converged, is optimal, and not worse than SciPy's; with the solution where it is unique."""
    np.testing.assert_array_equal(found.status, int(Status.CONVERGED))
    for A, b, lower, upper, x in zip(*(part.astype(np.float64) for part in (*data, np.asarray(found.x))), strict=True):
        check_optimal(A, b, lower, upper, x, tol)
        other = scipy_solution(A, b, lower, upper)
        # Each of them solves a problem that differs by rounding.
        size = np.linalg.norm(b) + np.linalg.norm(A, axis=0) @ (np.abs(x) + np.abs(other))
        mine, theirs = np.linalg.norm(A @ x - b), np.linalg.norm(A @ other - b)
        assert mine <= theirs + tol * size
        scaled = A / np.maximum(np.linalg.norm(A, axis=0), 1e-300)
        if A.shape[0] >= A.shape[1] and np.linalg.cond(scaled) < 1e3:
            np.testing.assert_allclose(x, other, rtol=0, atol=1e4 * tol * np.max(np.abs(other), initial=1e-3))


# ---- Solutions ----------------------------------------------------------------------------------------------------


def test_twenty_problems_against_scipy_and_differences():
    """In one compilation; derivatives in all four arguments where the solution is strictly complementary."""
    rng = np.random.default_rng(0)
    data = batch_of(rng, 8, 5, 20)
    check_differences(rng, data)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_fuzz(shape):
    """300 problems in all, in units from 1e-10 to 1e10 a column. Powers of two, so that they are the same problems."""
    rng = np.random.default_rng(SHAPES.index(shape))
    data = batch_of(rng, *shape, 38)
    check_differences(
        rng, data, 2.0 ** rng.integers(-33, 34, size=(38, shape[1])), 2.0 ** rng.integers(-33, 34, size=38)
    )


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_fuzz_in_single_precision(shape):
    rng = np.random.default_rng(SHAPES.index(shape))
    data = batch_of(rng, *shape, 38, np.float32, smallest=1e-2)
    found = solved(*data)
    assert found.x.dtype == jnp.float32
    check_batch(data, found, 1e-5)


def check_differences(rng, own, units=None, sizes=None):
    """Solutions of problems that are measured in units, and their derivatives."""
    count, _, n = own[0].shape
    units = np.ones((count, n)) if units is None else units
    sizes = np.ones(count) if sizes is None else sizes
    direction = [np.where(np.isfinite(v), rng.normal(size=v.shape), 0) for v in own]
    direction[3] = np.where(own[2] == own[3], direction[2], direction[3])
    h = 1e-6

    def at(shift):
        moved = [np.where(np.isfinite(v), v + shift * d, v) for v, d in zip(own, direction, strict=True)]
        return with_tangents(tuple(in_units(*moved, units, sizes)), tuple(in_units(*direction, units, sizes)))

    _, tangents, found = at(0.0)
    check_batch(own, found._replace(x=found.x * units / sizes[:, None]), 3e-13)
    (above, _, high), (below, _, low) = at(h), at(-h)
    compared = 0
    for i, (A, b, lower, upper) in enumerate(zip(*own, strict=True)):
        x, free = found.x[i] * units[i] / sizes[i], found.active_mask[i] == 0
        same = np.array_equal(high.active_mask[i], low.active_mask[i])
        gradient, slack = np.abs(A.T @ (A @ x - b)), np.minimum(x - lower, upper - x)
        strict = np.all(np.where(free, slack, gradient + (lower == upper)) > 1e-3)
        inside = A[:, free]
        regular = not free.any() or (inside.shape[0] >= inside.shape[1] and np.linalg.cond(inside) < 1e2)
        if not (same and strict and regular):
            continue
        compared += 1
        # In these units the data and the direction have sizes of about 1.
        own_units = units[i] / sizes[i], 1 / sizes[i] ** 2, 1 / sizes[i]
        for unit, *parts in zip(own_units, tangents, above, below, strict=True):
            got, up, down = (np.asarray(part[i]) * unit for part in parts)
            numeric = (up - down) / (2 * h)
            size = max(np.max(np.abs(numeric)), 1e-2)
            np.testing.assert_allclose(got / size, numeric / size, rtol=0, atol=1e-6)
    assert compared >= 1 or n > 5


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(60, 30), (30, 60)])
def test_few_factorizations_and_no_singular_values(shape):
    """Half of the columns are dependent on others; some fits are exact. A bound on iterations, against SciPy's norm."""
    rng = np.random.default_rng(0)
    run = jax.jit(nnls)
    assert "svd" not in str(jax.make_jaxpr(jax.grad(lambda b: nnls(np.ones(shape), b).x.sum()))(np.ones(shape[0])))
    for kind in ("regular", "duplicates", "low rank", "non-negative"):
        for exact in (False, True):
            A, b, *_ = problem(rng, *shape, kind)
            b = A @ np.maximum(rng.normal(size=shape[1]), 0) if exact else rng.normal(size=shape[0])
            result, (_, norm) = run(A, b), scipy.optimize.nnls(A, b)
            assert int(result.status) == Status.CONVERGED and int(result.nit) <= 30
            np.testing.assert_allclose(result.rnorm, norm, rtol=1e-10, atol=1e-12 * np.linalg.norm(b))


@pytest.mark.slow
def test_maxiter_ends_every_phase_with_a_feasible_point():
    rng = np.random.default_rng(0)
    A, b = rng.normal(size=(20, 12)), rng.normal(size=20)
    needed = int(lsq_linear(A, b, (-0.1, 0.1)).nit)
    for limit in range(needed):
        result = lsq_linear(A, b, (-0.1, 0.1), max_iter=limit)
        assert int(result.status) == Status.MAXITER and int(result.nit) == limit
        assert np.all(np.abs(result.x) <= 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("order", range(5))
def test_rank_of_few_columns_among_many(order):
    """Four free columns in five rows, of rank 4: one QR factorization of mixed rows shows it only up to its growth."""
    rng = np.random.default_rng(1000 + order)
    data = batch_of(rng, 5, 8, 38)
    check_batch(data, solved(*data), 3e-13)


def test_laws_of_scale():
    """Columns times powers of two, and the right-hand side: the same digits, iterations and active bounds."""
    rng = np.random.default_rng(1)
    data = [np.broadcast_to(v, (20, *v.shape)) for v in problem(rng, 8, 5, "regular")]
    k, j = rng.integers(-40, 41, size=(20, 5)), rng.integers(-40, 41, size=20)
    k[0], j[0] = 0, 0
    found = solved(*in_units(*data, 2.0**k, 2.0**j))
    np.testing.assert_array_equal(found.x * 2.0**k / 2.0 ** j[:, None], np.broadcast_to(found.x[0], (20, 5)))
    np.testing.assert_array_equal(found.fun / 2.0 ** j[:, None], np.broadcast_to(found.fun[0], (20, 8)))
    np.testing.assert_array_equal(found.cost / 4.0**j, np.broadcast_to(found.cost[0], 20))
    for part in (found.nit, found.active_mask, found.status):
        np.testing.assert_array_equal(part, np.broadcast_to(part[0], part.shape))
    assert int(found.status[0]) == Status.CONVERGED and np.any(found.active_mask[0] != 0)


def exactly(A, b):
    """The least-squares solution in exact arithmetic."""
    A, b = [[Fraction(v) for v in row] for row in A.tolist()], [Fraction(v) for v in b.tolist()]
    columns = list(zip(*A, strict=True))
    system = [[sum(map(lambda p, q: p * q, c, d)) for d in [*columns, b]] for c in columns]
    for i in range(len(system)):
        system[i] = [v / system[i][i] for v in system[i]]
        for j in range(len(system)):
            if j != i:
                system[j] = [v - system[j][i] * w for v, w in zip(system[j], system[i], strict=True)]
    return np.array([float(row[-1]) for row in system])


def test_polynomials():
    """The normal equations of this fit, of condition 4e11, would leave no digit at all."""
    t = np.linspace(0, 1, 25)
    A = np.vander(t, 9, increasing=True)
    x0 = np.array([0.0, 3, 1, 0, 2, 0, 1, 1, 2])
    x, rnorm = nnls(A, A @ x0)
    Q, R = np.linalg.qr(A)
    by_qr = np.linalg.solve(R, Q.T @ (A @ x0))
    assert np.max(np.abs(x - x0)) <= 10 * np.max(np.abs(by_qr - x0)) <= 1e-8
    assert float(rnorm) <= 1e-14 * np.linalg.norm(A @ x0)
    # With a residual: two bounds are active, and the others solve their own least-squares problem.
    b = np.exp(-3 * t) + 0.1 * np.sin(40 * t)
    result = nnls(A, b)
    assert result.status == Status.CONVERGED
    check_optimal(A, b, np.zeros(9), np.full(9, np.inf), np.asarray(result.x), 1e-15)
    free = np.asarray(result.x) > 0
    np.testing.assert_allclose(result.x[free], exactly(A[:, free], b), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("weight", [1e3, 1e6, 1e9, 1e12])
def test_a_heavy_row_is_an_equation(weight):
    """Fractions that add up to 1, by a row of large weight at the end, where reflections lose the digits of others."""
    rng = np.random.default_rng(0)
    spectra = np.abs(rng.normal(size=(12, 5)))
    pixel = spectra @ np.array([0.5, 0.3, 0, 0.2, 0]) + 0.1 * rng.normal(size=12)
    A, b = np.vstack([spectra, np.full(5, weight)]), np.append(pixel, weight)
    x, _ = nnls(A, b)
    free = np.asarray(x) > 0
    np.testing.assert_allclose(x[free], exactly(A[:, free], b), rtol=1e-12)
    np.testing.assert_array_equal(free, scipy.optimize.nnls(A, b)[0] > 1e-6)


@pytest.mark.slow
def test_nist_filip():
    """A polynomial of degree 10 on [-9, -3]: exact in the residual, and as accurate as QR in the coefficients."""
    t = np.linspace(-9, -3, 20)
    A = np.vander(t, 11, increasing=True)
    x0 = np.random.default_rng(0).integers(-3, 4, size=11).astype(float)
    result = lsq_linear(A, A @ x0)
    Q, R = np.linalg.qr(A)
    by_qr = np.linalg.solve(R, Q.T @ (A @ x0))
    assert np.linalg.norm(result.fun) <= 1e-14 * np.linalg.norm(A @ x0)
    assert np.max(np.abs(result.x - x0)) <= 10 * np.max(np.abs(by_qr - x0))


@pytest.mark.parametrize("shape", [(0, 3), pytest.param((4, 1), marks=pytest.mark.slow)])
def test_small_shapes(shape):
    rng = np.random.default_rng(0)
    A, b = rng.normal(size=shape), rng.normal(size=shape[0])
    result = lsq_linear(A, b, (0.25, 2.0))
    assert result.status == Status.CONVERGED and result.fun.shape == b.shape
    want = np.clip(A.T @ b / (A.T @ A).diagonal(), 0.25, 2.0) if b.size else 0.25
    np.testing.assert_allclose(result.x, np.broadcast_to(want, shape[1:]))


def test_a_batch_with_bad_elements():
    """NaN, contradictory bounds and b = 0 beside good problems; no element disturbs another."""
    rng = np.random.default_rng(2)
    A, b, lower, upper = (np.repeat(v[None], 4, axis=0) for v in problem(rng, 8, 5, "regular"))
    A[1, 0, 0] = np.nan
    lower[2, 0], upper[2, 0] = 1.0, 0.0
    b[3], lower[3] = 0, -np.inf
    upper[3] = 1
    found = solved(A, b, lower, upper)
    wanted = [Status.CONVERGED, Status.NONFINITE, Status.PRIMAL_INFEASIBLE, Status.CONVERGED]
    assert found.status.tolist() == wanted and found.success.tolist() == [True, False, False, True]
    assert np.all(np.isfinite(found.x))
    np.testing.assert_array_equal(found.x[3], 0)
    check_optimal(A[0], b[0], lower[0], upper[0], np.asarray(found.x[0]), 1e-14)


# ---- Derivatives --------------------------------------------------------------------------------------------------


def test_weakly_active_variables():
    """The second variable is at its bound with multiplier 0: three conventions."""
    A = np.array([[1.0, 0.5], [0.0, 1.0], [0.3, 0.2]])
    orthogonal = np.linalg.qr(A, mode="complete")[0][:, 2]
    b = jnp.asarray(2 * A[:, 0] + orthogonal)
    conventions = ("half", "active", "inactive")

    @jax.jit
    def derivatives(b):
        return {weak: jax.jacfwd(lambda b: nnls(A, b, weak=weak).x)(b) for weak in conventions}

    got = derivatives(b)
    free, held = np.linalg.pinv(A), np.stack([np.linalg.pinv(A[:, :1])[0], np.zeros(3)])
    for weak, want in zip(conventions, ((free + held) / 2, held, free), strict=True):
        np.testing.assert_allclose(got[weak], want, atol=1e-12)


@pytest.mark.slow
def test_the_convention_for_weakly_active_variables_has_no_part_in_the_solution():
    A = np.random.default_rng(0).normal(size=(8, 5))
    b = A @ np.array([1.0, 0.0, 2.0, 0.0, 1.0]) + np.linalg.qr(A, mode="complete")[0][:, 6]
    x = [nnls(A, b, weak=weak).x for weak in ("half", "active", "inactive")]
    np.testing.assert_array_equal(x[0], x[1])
    np.testing.assert_array_equal(x[0], x[2])


@pytest.mark.slow
def test_half_of_a_diagonal_problem():
    for mode in (jax.jacfwd, jax.jacrev):
        got = mode(lambda b: nnls(np.eye(3), b).x)(jnp.array([1.0, 0.0, -1.0]))
        np.testing.assert_allclose(got, np.diag([1, 0.5, 0]), atol=1e-12)


@pytest.mark.slow
def test_derivatives_at_condition_1e7():
    """Of a matrix whose normal equations have condition 1e14; the wanted derivative is computed from its SVD."""
    rng = np.random.default_rng(3)
    U, _, V = np.linalg.svd(rng.normal(size=(12, 5)), full_matrices=False)
    values = np.geomspace(1, 1e-7, 5)
    A, b = U * values @ V, rng.normal(size=12)
    got = jax.jacrev(lambda b: lsq_linear(A, b).x)(jnp.asarray(b))
    want = V.T / values @ U.T
    np.testing.assert_allclose(got, want, atol=1e-7 * np.max(np.abs(want)))
    got = jax.jacfwd(lambda b: lsq_linear(A, b).fun)(jnp.asarray(b))
    np.testing.assert_allclose(got, U @ U.T - np.eye(12), atol=1e-14)


@pytest.mark.slow
def test_residual_where_the_solution_is_not_unique():
    """Duplicate columns, more columns than rows, a column of 0: there is one residual all the same."""
    rng = np.random.default_rng(4)
    tall = rng.normal(size=(8, 3))
    for A in (np.hstack([tall, tall[:, :2]]), rng.normal(size=(5, 8)), np.hstack([tall, np.zeros((8, 1))])):
        b, direction, h = rng.normal(size=A.shape[0]), rng.normal(size=A.shape[0]), 1e-6

        def outputs(b, A=A):
            found = lsq_linear(A, b, (-0.1, 0.1))
            return jnp.append(found.fun, found.cost)

        numeric = (outputs(b + h * direction) - outputs(b - h * direction)) / (2 * h)
        np.testing.assert_allclose(jax.jvp(outputs, (b,), (direction,))[1], numeric, rtol=0, atol=1e-8)
        np.testing.assert_allclose(jax.jacrev(outputs)(jnp.asarray(b)) @ direction, numeric, rtol=0, atol=1e-8)


@pytest.mark.slow
def test_hessian():
    """Of a function of solution and residual, in all arguments at once."""
    rng = np.random.default_rng(5)
    A, b = rng.normal(size=(8, 5)), rng.normal(size=8)
    data = A, b, np.full(5, -0.1), np.full(5, 0.3)
    flat, unravel = jax.flatten_util.ravel_pytree(data)

    def scalar(flat):
        x, cost, fun, _ = result(*unravel(flat))
        return jnp.sum(jnp.sin(x)) + cost + jnp.sum(jnp.cos(fun))

    assert {-1, 0, 1} <= set(lsq_linear(A, b, (-0.1, 0.3)).active_mask.tolist())
    gradient, direction, h = jax.jit(jax.grad(scalar)), rng.normal(size=flat.size), 1e-5
    numeric = (gradient(flat + h * direction) - gradient(flat - h * direction)) / (2 * h)
    for mode in (jax.jacfwd, jax.jacrev):
        hessian = jax.jit(mode(jax.grad(scalar)))(flat)
        np.testing.assert_allclose(hessian @ direction, numeric, atol=1e-6 * np.max(np.abs(numeric)))
        np.testing.assert_allclose(hessian, hessian.T, atol=1e-9)


# ---- The functions ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_scipys_names():
    """Sparse matrices in single precision, a column as right-hand side; the result unpacks, and is a pytree."""
    rng = np.random.default_rng(6)
    A, b = rng.normal(size=(8, 5)).astype(np.float32), rng.normal(size=(8, 1)).astype(np.float32)
    result = nnls(scipy.sparse.csr_array(A), b)
    x, rnorm = result
    assert x is result.x and result[1] is rnorm and len(result) == 2 and x.dtype == rnorm.dtype == jnp.float32
    want, norm = scipy.optimize.nnls(A, b)
    np.testing.assert_allclose(x, want, atol=1e-5)
    np.testing.assert_allclose(rnorm, norm, rtol=1e-5)
    assert bool(result.success) and "at most tol" in result.message
    assert repr(result).startswith("nnls: CONVERGED in ")
    assert len(jax.tree.leaves(result)) == 6
    np.testing.assert_array_equal(nnls(BCOO.fromdense(A), b).x, x)


def test_fields_of_lsq_linear():
    rng = np.random.default_rng(7)
    A, b, lower, upper = rng.normal(size=(8, 5)), rng.normal(size=8), np.full(5, -0.1), np.full(5, 0.3)
    bounds = scipy.optimize.Bounds(lower, upper)
    got, want = lsq_linear(A, b, bounds), scipy.optimize.lsq_linear(A, b, bounds, method="bvls")
    for field in ("x", "cost", "fun", "active_mask"):
        np.testing.assert_allclose(getattr(got, field), getattr(want, field), atol=1e-12)
    assert float(got.optimality) <= 1e-14 and bool(got.success)
    limited = lsq_linear(A, b, bounds, max_iter=1)
    assert int(limited.status) == Status.MAXITER and not bool(limited.success) and float(limited.optimality) > 1e-3
    assert "maxiter" in limited.message


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision(dtype):
    rng = np.random.default_rng(8)
    A, b = jnp.asarray(rng.normal(size=(8, 5)), dtype), jnp.asarray(rng.normal(size=8), dtype)
    x, rnorm = nnls(A, b)
    assert x.dtype == dtype and rnorm.dtype == jnp.float32
    want, norm = scipy.optimize.nnls(np.asarray(A, np.float64), np.asarray(b, np.float64))
    np.testing.assert_allclose(np.asarray(x, np.float64), want, atol=float(jnp.finfo(dtype).eps))
    np.testing.assert_allclose(rnorm, norm, rtol=1e-5)
    assert jax.grad(lambda b: nnls(A, b).x.astype(jnp.float32).sum())(b).dtype == dtype


@pytest.mark.parametrize(
    "call, kind, message",
    [
        (lambda A, b: nnls(A, b[:3]), ValueError, "b must have the shape"),
        (lambda A, b: nnls(A[0], b), ValueError, "A must be a matrix"),
        (lambda A, b: nnls(A[:, :0], b), ValueError, "A must be a matrix with a column"),
        (lambda A, b: nnls(1j * A, b), TypeError, "A must be real"),
        (lambda A, b: nnls("A", b), TypeError, "A must be an array"),
        (lambda A, b: nnls(A, b, maxiter=-1), ValueError, "maxiter"),
        (lambda A, b: nnls(A, b, weak="no"), ValueError, "weak"),
        (lambda A, b: nnls(scipy.sparse.csr_array((3000, 3000)), b), ValueError, "A would be made dense"),
        (lambda A, b: lsq_linear(A, b, (1, 0)), ValueError, "l must not exceed u"),
        (lambda A, b: lsq_linear(A, b, (np.nan, 0)), ValueError, "l must not be NaN"),
        (lambda A, b: lsq_linear(A, b, (np.zeros(2), 1)), ValueError, "l must be a number or have the shape"),
        (lambda A, b: lsq_linear(A, b, 3.0), TypeError, "bounds must be a pair"),
        (lambda A, b: jaxsolve.BoundedLeastSquares(implicit_diff=False), ValueError, "implicit_diff"),
    ],
)
def test_what_is_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call(np.ones((4, 3)), np.ones(4))
