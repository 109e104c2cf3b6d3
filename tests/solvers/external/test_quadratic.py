"""Programs outside of jax: their solutions, under transformations, and the derivatives given to them."""

import functools
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import Status
from jaxsolve.solvers.external._quadratic import _call

pytestmark = pytest.mark.slow

n, equalities, inequalities = 5, 2, 4


@pytest.fixture(params=["CvxpyQP", "ExternalOSQP"])
def solver(request):
    pytest.importorskip({"CvxpyQP": "cvxpy", "ExternalOSQP": "osqp"}[request.param])
    return getattr(jaxsolve, request.param)()


def _data(seed=0):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, n))
    A, G, x = rng.normal(size=(equalities, n)), rng.normal(size=(inequalities, n)), rng.normal(size=n)
    h = G @ x + rng.uniform(0, 0.3, size=inequalities)
    data = (root @ root.T + np.eye(n), 4 * rng.normal(size=n)), (A, A @ x), (G, h)
    return jax.tree.map(jnp.asarray, data)


def _with_active_rows(active, Q, c, A, b, G, h):
    """The solution as a function of the data near a solution where these inequalities hold with equality."""
    rows = jnp.concatenate([A, G[active]])
    zero = jnp.zeros((len(rows), len(rows)))
    solution = jnp.linalg.solve(
        jnp.block([[0.5 * (Q + Q.T), rows.T], [rows, zero]]), jnp.concatenate([-c, b, h[active]])
    )
    multipliers = solution[n + equalities :]
    return solution[:n], jnp.concatenate([solution[n : n + equalities], jnp.zeros(len(h)).at[active].set(multipliers)])


def test_solution_derivatives_and_jit(solver):
    data = _data()

    def solve(*data):
        (Q, c), (A, b), (G, h) = data
        params = solver.run(None, (Q, c), (A, b), (G, h)).params
        return params.primal, jnp.concatenate([params.dual_eq, params.dual_ineq])

    step = solver.run(None, *data)
    assert int(step.state.status) == Status.CONVERGED and float(step.state.error) <= 1e-9
    assert float(solver.l2_optimality_error(step.params, *data)) <= 1e-8
    active = np.flatnonzero(step.params.dual_ineq > 1e-6)
    assert 0 < active.size < inequalities
    reference = lambda obj, eq, ineq: _with_active_rows(active, *obj, *eq, *ineq)
    for got, want in zip(solve(*data), reference(*data), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-7)

    scalar = lambda solve: lambda *data: sum(jnp.sum(jnp.sin(part)) for part in solve(*data))
    got = jax.jit(jax.grad(scalar(solve), (0, 1, 2)))(*data)
    want = jax.jit(jax.grad(scalar(reference), (0, 1, 2)))(*data)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, atol=1e-6)


def test_forward_mode_second_order_and_vmap(solver):
    (Q, c), eq, ineq = _data()
    x = lambda c: solver.run(None, (Q, c), eq, ineq).params.primal
    jacobian = jax.jit(jax.jacfwd(x))(c)
    np.testing.assert_allclose(jacobian, jax.jit(jax.jacrev(x))(c), atol=1e-9)
    np.testing.assert_allclose(jacobian, jacobian.T, atol=1e-9)
    along = lambda t: jnp.sum(solver.run(None, (t * Q, c), eq, ineq).params.primal ** 2)
    second = jax.jit(jax.grad(jax.grad(along)))(1.0)
    np.testing.assert_allclose(second, (along(1.001) - 2 * along(1.0) + along(0.999)) / 1e-6, rtol=1e-3)
    batch = jnp.stack([c, c + 0.1])
    np.testing.assert_allclose(jax.vmap(x)(batch), jnp.stack([x(c) for c in batch]), atol=1e-9)


def test_infeasible_and_unbounded_problems_do_not_raise(solver):
    c, G = jnp.asarray([1.0, 0.0]), jnp.asarray([[1.0, 0.0], [-1.0, 0.0]])
    run = lambda c, h, Q=None: solver.run(None, (Q, c), None, (G, h))
    step = run(c, jnp.asarray([-1.0, -1.0]), jnp.eye(2))
    assert int(step.state.status) == Status.PRIMAL_INFEASIBLE and np.all(np.isfinite(step.params.primal))
    gradients = jax.grad(lambda *data: jnp.sum(run(*data).params.primal), (0, 1, 2))(
        c, jnp.asarray([-1.0, -1.0]), jnp.eye(2)
    )
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)
    assert int(run(c, jnp.asarray([1.0, jnp.inf])).state.status) == Status.DUAL_INFEASIBLE


def test_no_constraints_and_float32(solver):
    (Q, c), eq, _ = jax.tree.map(lambda a: a.astype(jnp.float32), _data())
    params, state = solver.run(None, (Q, c))
    assert params.primal.dtype == state.error.dtype == jnp.float32
    assert (params.dual_eq, params.dual_ineq) == (None, None)
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params.primal, -jnp.linalg.solve(Q, c), atol=1e-4)
    assert int(solver.run(None, (Q, c), eq).state.status) == Status.CONVERGED


def test_warm_start_of_osqp():
    pytest.importorskip("osqp")
    data = _data()
    solver = jaxsolve.ExternalOSQP(settings={"check_termination": 1})
    cold = solver.run(None, *data)
    warm = solver.run(cold.params, *data)
    assert int(warm.state.iter_num) < int(cold.state.iter_num)


def test_other_solvers_of_cvxpy():
    pytest.importorskip("cvxpy")
    data = _data()
    solver = jaxsolve.CvxpyQP("CLARABEL")
    params, state = solver.run(None, *data)
    assert int(state.status) == Status.CONVERGED
    assert float(solver.l2_optimality_error(params, *data)) <= 1e-8
    with pytest.raises(ValueError, match="installed"):
        jaxsolve.CvxpyQP("SIMPLEX").run(None, *data)


@pytest.mark.parametrize("name, module", [("CvxpyQP", "cvxpy"), ("ExternalOSQP", "osqp")])
def test_errors(monkeypatch, name, module):
    (Q, c), eq, _ = _data()
    cls = getattr(jaxsolve, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{name} needs {module}: pip install 'jaxsolve\[external\]'"):
        cls().run(None, (Q, c), eq)
    with pytest.raises(ValueError, match="implicit_diff"):
        cls(implicit_diff=False)
    with pytest.raises(TypeError, match="params_eq"):
        cls().run(None, (Q, c), eq[0])


def test_calls_from_several_threads_come_one_after_another():
    """Filters of warnings are switched around the calls, and they belong to the whole process."""
    inside, seen = [], []

    def host(P, q, A, lower, upper, x, y):
        inside.append(None)
        seen.append(len(inside))
        time.sleep(0.02)
        inside.pop()
        return x, y, Status.CONVERGED, 0

    shapes = [jax.ShapeDtypeStruct(*kind) for kind in (((1,), float), ((1,), float), ((), int), ((), int))]
    callback = functools.partial(_call, host, shapes)
    arrays = (np.eye(1), np.ones(1), np.eye(1), *[np.zeros(1)] * 4)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: callback(*arrays), range(8)))
    assert seen == [1] * 8
