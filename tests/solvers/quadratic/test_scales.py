"""Data of any size, and curvature of many sizes: in single precision there is less room than one thinks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import Status

SOLVERS = {
    "EqualityConstrainedQP": lambda: jaxsolve.EqualityConstrainedQP(tol=1e-4),
    "BoxOSQP": lambda: jaxsolve.BoxOSQP(tol=1e-5),
    "InteriorPointQP": lambda: jaxsolve.InteriorPointQP(tol=1e-5),
}


def _single(*arrays):
    return [jnp.asarray(array, jnp.float32) for array in arrays]


@functools.partial(jax.jit, static_argnames="name")
def _solve(name, Q, c, A, b):
    """The Jacobian of the solution in ``c``, the solution and the status, for equalities."""
    rows = ((A, b),) if name == "EqualityConstrainedQP" else (A, (b, b))

    def solution(c):
        params, state = SOLVERS[name]().run(None, (Q, c), *rows)
        x = params.primal[0] if isinstance(params.primal, tuple) else params.primal
        return x, (x, state.status)

    jacobian, (x, status) = jax.jacrev(solution, has_aux=True)(c)
    return jacobian, x, status


def _exact(Q, c, A, b):
    """The solution and its Jacobian in ``c``."""
    Q, c, A, b = (np.asarray(array, float) for array in (Q, c, A, b))
    inverse = np.linalg.inv(np.block([[Q, A.T], [A, np.zeros((len(b), len(b)))]]))
    n = len(c)
    return (inverse @ np.concatenate([-c, b]))[:n], -inverse[:n, :n]


def _check(name, *data, tol):
    jacobian, x, status = _solve(name, *data)
    assert int(status) == Status.CONVERGED
    for got, want in zip((x, jacobian), _exact(*data), strict=True):
        assert np.max(np.abs(np.asarray(got) - want)) <= tol * np.max(np.abs(want))


@pytest.mark.float32
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("size", [pytest.param(1e3, marks=pytest.mark.slow), 1e6])
def test_large_solutions_in_single_precision(name, size):
    """They are no sign of infeasibility, and a large linear term does not hide the curvature."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6))
    data = (root @ root.T + np.eye(6), size * rng.normal(size=6), rng.normal(size=(1, 6)), [size])
    _check(name, *_single(*data), tol=1e-5)


@pytest.mark.float32
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("rows", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_small_curvature_in_single_precision(name, rows):
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    Q = basis @ np.diag(np.logspace(0, -3, 6)) @ basis.T
    _check(name, *_single(Q, rng.normal(size=6), rng.normal(size=(rows, 6)), rng.normal(size=rows)), tol=1e-4)


@pytest.mark.float32
@pytest.mark.parametrize("name", [pytest.param("BoxOSQP", marks=pytest.mark.slow), "InteriorPointQP"])
def test_impossible_problems_with_large_data_in_single_precision(name):
    def status(Q, c, A, lower, upper):
        Q, c, A, lower, upper = _single(Q, c, A, lower, upper)
        return int(SOLVERS[name]().run(None, (Q, c), A, (lower, upper)).state.status)

    inf, A = np.inf, [[1.0, 1.0], [1.0, -1.0], [1.0, 0.0]]
    assert status(np.eye(2), [1e4, -1e4], A, [1e4, 1e4, -inf], [inf, inf, 5e3]) == Status.PRIMAL_INFEASIBLE
    assert status(np.diag([1.0, 0.0]), [1e4, -1e4], A, [-inf, -1e4, -1e4], [inf, inf, 1e4]) == Status.CONVERGED
    assert status(np.diag([1.0, 0.0]), [1e4, 1e4], A, [-inf, -1e4, -1e4], [inf, inf, 1e4]) == Status.DUAL_INFEASIBLE


@pytest.mark.parametrize("name", ["BoxOSQP", "InteriorPointQP"])
@pytest.mark.parametrize(("rows", "variables"), [(1e8, 1e-8), (1e8, 1.0), (1.0, 1e-4)])
def test_matrices_that_are_large_as_a_whole(name, rows, variables):
    """Their norms are equal, but so large that their squares leave nothing else to see."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4, 4))
    Q, c, A = root @ root.T + np.eye(4), rng.normal(size=4), rng.normal(size=(3, 4))
    lower, upper = -np.abs(rng.normal(size=3)), 0.02 * np.abs(rng.normal(size=3))

    def solve(rows, variables):
        data = (Q / variables**2, c / variables), rows * A / variables, (rows * lower, rows * upper)
        params, state = SOLVERS[name]().run(None, *data)
        return params.primal[0] / variables, int(state.status)

    x, status = solve(rows, variables)
    assert status == Status.CONVERGED
    np.testing.assert_allclose(x, solve(1.0, 1.0)[0], atol=1e-4)


@pytest.mark.parametrize("name", ["BoxOSQP", "InteriorPointQP"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_small_curvature_does_not_hide_that_a_problem_is_unbounded(name, dtype):
    rng = np.random.default_rng(0)
    v, A = rng.normal(size=5), rng.normal(size=(2, 5))
    # Down along a direction in which neither the objective curves nor the row with two bounds moves.
    d = np.linalg.svd(np.stack([v, A[0], A[1]]))[2][-1]
    A[1] += d
    data = (0.1 * np.outer(v, v), -1e3 * (d + 0.1 * v)), A, (np.array([-1.0, -1.0]), np.array([1.0, np.inf]))
    _, state = SOLVERS[name]().run(None, *jax.tree.map(lambda array: jnp.asarray(array, dtype), data))
    assert int(state.status) == Status.DUAL_INFEASIBLE


@pytest.mark.float32
@pytest.mark.parametrize("method", ["osqp", "interior_point"])
def test_what_only_rounding_keeps_from_the_tolerance_has_converged(method):
    """At a large solution of a nearly singular system no point of single precision has a smaller residual."""
    correlation = np.asarray([0.9, 0.99, 0.999, 0.9999])
    Q, c, G, h = _single(np.eye(2) + np.multiply.outer(correlation, 1 - np.eye(2)), [0.1, -0.1], [[1.0, 0.0]], [1e4])

    @jax.jit
    @jax.vmap
    def solve(Q):
        return jaxsolve.solve_qp(Q, c, G=G, h=h, method=method)

    result = solve(Q)
    assert np.all(result.status == Status.CONVERGED)
    assert np.all(result.iter_num <= 100)
    # The condition times the rounding of the data is the accuracy that there can be.
    wanted = np.stack([-1 / (1 - correlation), 1 / (1 - correlation)], axis=-1) / 10
    scale = np.abs(wanted) / (1 - correlation)[:, None]
    assert np.all(np.abs(np.asarray(result.x) - wanted) <= 5 * np.finfo(np.float32).eps * scale)


@pytest.mark.parametrize("method", ["interior_point", pytest.param("osqp", marks=pytest.mark.slow)])
def test_prices_that_forbid_most_variables(method):
    """Three of four variables cost 1e4 to 1e12 where the other one costs 1: what they are kept at tells no unit."""

    @functools.partial(jax.jit, static_argnames="dtype")
    def solve(price, curvature, dtype):
        G, h = jnp.asarray([[-1, -1, -1, -1], [-1, 2, 1, -1]], dtype), jnp.asarray([-0.5, 1], dtype)
        c = jnp.stack([jnp.ones_like(price), price, 2 * price, price]).astype(dtype)
        Q = curvature.astype(dtype) * jnp.eye(4, dtype=dtype)
        result = jaxsolve.solve_qp(Q, c, G=G, h=h, l=0.0, u=1.0, method=method)
        return result.x, result.status

    # In float32 a curvature of 1 beside a price of 1e8 is less than its rounding.
    cases = [(1e4, 0.0, np.float32), (1e4, 1.0, np.float32), (1e8, 0.0, np.float32)]
    cases += [(price, curvature, np.float64) for price in (1e4, 1e8, 1e12) for curvature in (0.0, 1.0)]
    for price, curvature, dtype in cases:
        x, status = solve(jnp.asarray(price), jnp.asarray(curvature), dtype)
        assert status == jaxsolve.Status.CONVERGED
        np.testing.assert_allclose(x, [0.5, 0, 0, 0], atol=1e-6, err_msg=f"{price}, {curvature}, {dtype}")
