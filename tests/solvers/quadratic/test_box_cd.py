"""Coordinate descent over a box: oracles, derivatives implicit and unrolled, boxes of every kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.experimental import sparse

import jaxsolve
from jaxsolve import Status

n = 6


def _data(seed=0):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, n))
    Q, c = root @ root.T + np.eye(n), 3 * rng.normal(size=n)
    lower, upper = -rng.uniform(0.1, 1, size=n), rng.uniform(0.1, 1, size=n)
    return tuple(jnp.asarray(a) for a in (Q, c, lower, upper))


def _oracle(Q, c, lower, upper):
    # A bounded least-squares problem with the same objective.
    L = np.linalg.cholesky(np.asarray(Q))
    done = scipy.optimize.lsq_linear(L.T, -np.linalg.solve(L, np.asarray(c)), (lower, upper), tol=1e-14)
    return done.x


def _solve(Q, c, lower, upper, **options):
    solver = jaxsolve.BoxCDQP(**{"tol": 1e-11, "maxiter": 2000, **options})
    return solver.run(None, (Q, c), (lower, upper)).params


def test_against_scipy_and_warm_start():
    data = Q, c, lower, upper = _data()
    solver = jaxsolve.BoxCDQP(tol=1e-10, maxiter=2000)
    params, state = solver.run(jnp.zeros(n), (Q, c), (lower, upper))
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params, _oracle(*data), atol=1e-8)
    assert 0 < int(jnp.sum((params == lower) | (params == upper))) < n
    np.testing.assert_allclose(state.product, Q @ params, atol=1e-9)
    assert float(solver.l2_optimality_error(params, (Q, c), (lower, upper))) <= 1e-10
    assert int(solver.run(params, (Q, c), (lower, upper)).state.iter_num) <= 1


def test_derivatives_implicit_unrolled_and_by_differences():
    Q, c, lower, upper = _data()
    everything = (0, 1, 2, 3)
    scalar = lambda *data, **options: jnp.sum(jnp.sin(_solve(*data, **options)))
    implicit = jax.jit(jax.grad(scalar, everything))(Q, c, lower, upper)
    unrolled = jax.jit(jax.grad(lambda *data: scalar(*data, implicit_diff=False, maxiter=60), everything))
    for got, want in zip(implicit, unrolled(Q, c, lower, upper), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)
    for i, data in enumerate((Q, c, lower, upper)):
        direction = jnp.asarray(np.random.default_rng(i).normal(size=data.shape))
        along = lambda t: scalar(*[a + t * direction if j == i else a for j, a in enumerate((Q, c, lower, upper))])
        difference = (along(1e-5) - along(-1e-5)) / 2e-5
        np.testing.assert_allclose(jnp.sum(implicit[i] * direction), difference, rtol=1e-4, atol=1e-6)


def test_forward_mode_second_order_and_vmap():
    Q, c, lower, upper = _data()
    along = lambda t: jnp.sum(_solve(Q, t * c, t * lower, upper) ** 2)
    derivative = jax.jit(jax.jvp, static_argnums=0)(along, (1.0,), (1.0,))[1]
    np.testing.assert_allclose(derivative, jax.grad(along)(1.0), rtol=1e-8)
    second = jax.jit(jax.hessian(along))(1.0)
    np.testing.assert_allclose(second, (along(1.001) - 2 * along(1.0) + along(0.999)) / 1e-6, rtol=1e-3)
    batch = jnp.stack([c, -c, 2 * c])
    run = lambda c: _solve(Q, c, lower, upper)
    np.testing.assert_allclose(jax.vmap(run)(batch), jnp.stack([run(c) for c in batch]), atol=1e-9)


def test_infinite_bounds_equal_bounds_pytrees_and_sparse_matrices():
    Q, c, _, _ = _data()
    np.testing.assert_allclose(_solve(Q, c, -jnp.inf, jnp.inf), -jnp.linalg.solve(Q, c), atol=1e-8)
    np.testing.assert_array_equal(_solve(Q, c, 0.5, 0.5), 0.5)
    split = lambda x: {"u": x[:2], "v": x[2:].reshape(2, 2)}
    solver = jaxsolve.BoxCDQP(tol=1e-10, maxiter=2000)
    params = solver.run(split(jnp.zeros(n)), (sparse.BCOO.fromdense(Q), split(c)), (0.0, split(jnp.ones(n)))).params
    np.testing.assert_allclose(
        jnp.concatenate([params["u"], params["v"].ravel()]), _oracle(Q, c, np.zeros(n), np.ones(n)), atol=1e-8
    )


def test_directions_without_curvature():
    Q, c = jnp.diag(jnp.asarray([1.0, 0.0, 0.0])), jnp.asarray([1.0, 1.0, 0.0])
    run = jaxsolve.BoxCDQP().run
    params, state = run(jnp.ones(3), (Q, c), (-3.0, 3.0))
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params, [-1.0, -3.0, 1.0])
    params, state = run(jnp.ones(3), (Q, c), (-jnp.inf, 3.0))
    assert int(state.status) == Status.DUAL_INFEASIBLE
    assert np.all(np.isfinite(params))


def test_float32_stays_float32():
    data = tuple(a.astype(jnp.float32) for a in _data())
    params, state = jaxsolve.BoxCDQP().run(None, data[:2], data[2:])
    assert params.dtype == state.error.dtype == jnp.float32
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params, _oracle(*_data()), atol=1e-3)


def test_errors():
    Q, c, lower, upper = _data()
    run = jaxsolve.BoxCDQP().run
    with pytest.raises(ValueError, match="must not exceed"):
        run(None, (Q, c), (upper, lower))
    with pytest.raises(TypeError, match="params_ineq"):
        run(None, (Q, c))
    with pytest.raises(ValueError, match="u must have 6 entries"):
        run(None, (Q, c), (lower, upper[1:]))
    with pytest.raises(ValueError, match="Q must be square"):
        run(None, (Q[1:], c), (lower, upper))


def test_an_empty_box_shows_in_the_status_of_its_problem():
    Q, c, lower, upper = _data()
    boxes = jnp.stack([lower, upper, jnp.full(n, jnp.inf)]), jnp.stack([upper, lower, jnp.full(n, jnp.inf)])
    run = jax.jit(jax.vmap(lambda lower, upper: jaxsolve.BoxCDQP().run(None, (Q, c), (lower, upper)).state.status))
    assert run(*boxes).tolist() == [Status.CONVERGED, Status.PRIMAL_INFEASIBLE, Status.PRIMAL_INFEASIBLE]
