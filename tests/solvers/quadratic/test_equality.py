"""Equality-constrained quadratic programs: the system, its singular cases, Krylov methods, derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse

import jaxsolve
from jaxsolve import Status
from jaxsolve.linear_solve import solve_gmres, solve_minres

pytestmark = pytest.mark.slow

n, m = 6, 3


def _data(seed=0):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, n))
    return tuple(
        jnp.asarray(a) for a in (root @ root.T, rng.normal(size=n), rng.normal(size=(m, n)), rng.normal(size=m))
    )


def _exact(Q, c, A, b):
    K = jnp.block([[0.5 * (Q + Q.T), A.T], [A, jnp.zeros((m, m))]])
    solution = jnp.linalg.solve(K, jnp.concatenate([-c, b]))
    return solution[:n], solution[n:]


def _solve(Q, c, A, b, **options):
    params, _ = jaxsolve.EqualityConstrainedQP(**options).run(None, (Q, c), (A, b))
    return params.primal, params.dual_eq


def _preconditioned():
    Q, _, A, _ = _data()
    K = np.block([[Q, A.T], [A, np.zeros((m, m))]])
    values, vectors = np.linalg.eigh(K)
    inverse = jnp.asarray(vectors / np.abs(values) @ vectors.T)

    def apply(pair):
        x = inverse @ jnp.concatenate(pair)
        return x[:n], x[n:]

    return functools.partial(solve_minres, preconditioner=apply)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"solve": functools.partial(solve_gmres, tol=1e-12)},
        {"solve": _preconditioned(), "tol": 1e-9},
        {"solve": functools.partial(solve_gmres, tol=1e-8), "refine_regularization": 1e-3, "tol": 1e-9},
        {"solve": lambda matvec, b: solve_gmres(matvec, b, tol=1e-12)},
    ],
    ids=["direct", "gmres", "preconditioned", "refined", "own"],
)
def test_every_method_against_numpy(options):
    data = _data()
    step = jaxsolve.EqualityConstrainedQP(**options).run(None, data[:2], data[2:])
    assert int(step.state.status) == Status.CONVERGED and step.params.dual_ineq is None
    solve = functools.partial(_solve, **options)
    for got, want in zip(solve(*data), _exact(*data), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-7)


def test_derivatives_with_respect_to_all_data():
    data, everything = _data(), (0, 1, 2, 3)
    scalar = lambda solve: lambda *data: sum(jnp.sum(jnp.sin(part)) for part in solve(*data))
    want = jax.jit(jax.grad(scalar(_exact), everything))(*data)
    for got, w in zip(jax.jit(jax.grad(scalar(_solve), everything))(*data), want, strict=True):
        np.testing.assert_allclose(got, w, atol=1e-6, rtol=1e-6)


def test_forward_mode_second_order_vmap_and_value():
    Q, c, A, b = _data()
    of_c = lambda solve: lambda c: solve(Q, c, A, b)[0]
    np.testing.assert_allclose(jax.jacfwd(of_c(_solve))(c), jax.jacrev(of_c(_exact))(c), atol=1e-8)
    curved = lambda solve: lambda t: jnp.sum(solve(Q + t * jnp.eye(n), c, t * A, b)[0] ** 2)
    got, want = (jax.jit(jax.grad(jax.grad(curved(f))))(1.0) for f in (_solve, _exact))
    np.testing.assert_allclose(got, want, atol=1e-6)
    batch = jnp.stack([b, 2 * b, b + 1])
    run = lambda b: _solve(Q, c, A, b)[1]
    np.testing.assert_allclose(jax.vmap(run)(batch), jnp.stack([run(b) for b in batch]), atol=1e-9)
    value = lambda b: jaxsolve.EqualityConstrainedQP().run(None, (Q, c), (A, b)).state.value
    np.testing.assert_allclose(jax.grad(value)(b), -_exact(Q, c, A, b)[1], atol=1e-8)


def test_functions_sparse_data_and_pytrees():
    Q, c, A, b = _data()
    want = _exact(Q, c, A, b)
    split = lambda x: {"u": x[:2], "v": x[2:].reshape(2, 2)}
    join = lambda x: jnp.concatenate([x["u"], x["v"].ravel()])
    solver = jaxsolve.EqualityConstrainedQP(lambda Q, x: split(Q @ join(x)), lambda A, x: {"rows": A @ join(x)})
    params = solver.run(None, (Q, split(c)), (A, {"rows": b})).params
    np.testing.assert_allclose(join(params.primal), want[0], atol=1e-8)
    np.testing.assert_allclose(params.dual_eq["rows"], want[1], atol=1e-7)
    by_fun = jaxsolve.EqualityConstrainedQP(fun=lambda x, data: 0.5 * x @ data[0] @ x + data[1] @ x)
    gradient = jax.jit(jax.grad(lambda c: by_fun.run(jnp.zeros(n), (Q, c), (A, b)).params.primal[0]))(c)
    np.testing.assert_allclose(gradient, jax.jacfwd(lambda c: _exact(Q, c, A, b)[0])(c)[0], atol=1e-7)
    sparse_data = (sparse.BCOO.fromdense(Q), c), (sparse.BCOO.fromdense(A), b)
    got, state = jaxsolve.EqualityConstrainedQP().run(None, *sparse_data)
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(got.primal, want[0], atol=1e-8)


@pytest.mark.parametrize("representation", ["dense", "sparse"])
def test_singular_objective_and_dependent_rows(representation):
    Q, c = jnp.diag(jnp.asarray([1.0, 0.0, 2.0])), jnp.asarray([1.0, 0.0, -1.0])
    A, b = jnp.asarray([[1.0, 1.0, 0.0], [2.0, 2.0, 0.0]]), jnp.asarray([1.0, 2.0])
    convert = sparse.BCOO.fromdense if representation == "sparse" else jnp.asarray
    run = lambda b: jaxsolve.EqualityConstrainedQP().run(None, (convert(Q), c), (convert(A), b))
    params, state = run(b)
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params.primal, [-1.0, 2.0, 0.5], atol=1e-7)
    # Where dependent rows stay consistent the solution moves as without the second one.
    tangent = jax.jvp(lambda b: run(b).params.primal, (b,), (jnp.asarray([1.0, 2.0]),))[1]
    np.testing.assert_allclose(tangent, [0.0, 1.0, 0.0], atol=1e-6)


def test_statuses_and_unconstrained_problems():
    Q, c = jnp.diag(jnp.asarray([1.0, 0.0])), jnp.asarray([0.0, 1.0])
    run = jaxsolve.EqualityConstrainedQP().run
    params, state = run(None, (jnp.eye(2), c))
    assert int(state.status) == Status.CONVERGED and params.dual_eq is None
    np.testing.assert_allclose(params.primal, -c, atol=1e-9)
    assert int(run(None, (Q, c)).state.status) == Status.DUAL_INFEASIBLE
    A, b = jnp.asarray([[1.0, 1.0], [1.0, 1.0]]), jnp.asarray([0.0, 1.0])
    assert int(run(None, (jnp.eye(2), c), (A, b)).state.status) == Status.PRIMAL_INFEASIBLE
    gradient = jax.grad(lambda A: run(None, (jnp.eye(2), c), (A, b)).params.primal[0])(A)
    np.testing.assert_array_equal(gradient, 0)


def test_large_batch_without_curvature():
    """A broken Cholesky factor is seen as such in arrays so large that maxima on the CPU forget NaN."""
    batch, n = 3000, 4
    data = (jnp.zeros((n, n)), jnp.arange(1.0, n + 1), jnp.ones((1, n)), jnp.ones(1))
    data = [jnp.broadcast_to(part.astype(jnp.float32), (batch, *part.shape)) for part in data]
    run = jaxsolve.EqualityConstrainedQP().run
    status = jax.jit(jax.vmap(lambda Q, c, A, b: run(None, (Q, c), (A, b)).state.status))(*data)
    np.testing.assert_array_equal(status, int(Status.DUAL_INFEASIBLE))


def test_float32_stays_float32():
    data = tuple(a.astype(jnp.float32) for a in _data())
    params, state = jaxsolve.EqualityConstrainedQP().run(None, data[:2], data[2:])
    assert params.primal.dtype == params.dual_eq.dtype == state.error.dtype == jnp.float32
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params.primal, _exact(*_data())[0], atol=1e-3)


def test_errors():
    Q, c, A, b = _data()
    with pytest.raises(ValueError, match="implicit_diff"):
        jaxsolve.EqualityConstrainedQP(implicit_diff=False)
    with pytest.raises(ValueError, match="refine_regularization"):
        jaxsolve.EqualityConstrainedQP(refine_regularization=-1.0)
    with pytest.raises(TypeError, match="solve"):
        jaxsolve.EqualityConstrainedQP(solve="cg")
    with pytest.raises(TypeError, match="params_obj"):
        jaxsolve.EqualityConstrainedQP().run(None, Q)
    with pytest.raises(ValueError, match="A must have one column"):
        jaxsolve.EqualityConstrainedQP().run(None, (Q, c), (A[:, 1:], b))
    with pytest.raises(TypeError, match="params_eq"):
        jaxsolve.EqualityConstrainedQP().run(None, (Q, c), A)
