"""One function for all quadratic programs: every method gives the same answer, and it says which it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse
from scipy.optimize import minimize, nnls

import jaxsolve
from jaxsolve import Status

rng = np.random.default_rng(0)
M = rng.normal(size=(5, 5))
Q, c = M @ M.T + np.eye(5), rng.normal(size=5)
A, G = rng.normal(size=(1, 5)), rng.normal(size=(3, 5))
b, h, lower, upper = np.array([0.3]), np.array([0.1, -0.2, np.inf]), np.full(5, -0.4), 0.5


def objective(x):
    return 0.5 * x @ Q @ x + c @ x


@pytest.fixture(scope="module")
def oracle():
    constraints = [
        {"type": "eq", "fun": lambda x: A @ x - b},
        {"type": "ineq", "fun": lambda x: (h - G @ x)[:2]},
    ]
    bounds, options = [(-0.4, 0.5)] * 5, {"ftol": 1e-14, "maxiter": 500}
    return minimize(objective, np.zeros(5), bounds=bounds, constraints=constraints, options=options).x


def arrays():
    return tuple(jnp.asarray(part) for part in (Q, c, A, b, G, h, lower, upper))


@pytest.mark.parametrize("method", ["interior_point", "osqp", "matrix_free"])
def test_methods_agree(method, oracle):
    def value(b, method, tol):
        Q, c, A, _, *rest = arrays()
        result = jaxsolve.solve_qp(Q, c, A, b, *rest, method=method, tol=tol)
        return result.value, result

    tol = 1e-9 if method == "matrix_free" else None
    slope, result = jax.jit(jax.grad(value, has_aux=True), static_argnums=(1, 2))(jnp.asarray(b), method, tol)
    assert (result.method, int(result.status)) == (method, Status.CONVERGED)
    np.testing.assert_allclose(result.x, oracle, atol=1e-6)
    np.testing.assert_allclose(slope, -result.dual_eq, atol=1e-6)
    stationarity = Q @ result.x + c + A.T @ result.dual_eq + G.T @ result.dual_ineq + result.dual_bounds
    np.testing.assert_allclose(stationarity, 0, atol=1e-6)
    assert np.all(result.dual_ineq >= -1e-9)


def test_what_is_chosen():
    Q, c, A, b, G, h, _, _ = arrays()

    def method(*args, **options):
        shapes = jax.eval_shape(lambda: jaxsolve.solve_qp(*args, **options))
        assert shapes.reason
        return shapes.method

    assert method(Q, c) == "equality"
    assert method(Q, c, A, b) == "equality"
    assert method(None, c, A, b, l=0.0) == "interior_point"
    assert method(sparse.BCOO.fromdense(Q), c, G=G, h=h) == "interior_point"
    assert method(lambda x: Q @ x, c, G=G, h=h) == "matrix_free"
    many = sparse.BCOO((jnp.ones(3000), jnp.stack([jnp.arange(3000)] * 2, axis=1)), shape=(3000, 3000))
    assert method(many, jnp.ones(3000), l=0.0) == "matrix_free"
    assert method(jnp.ones((3000, 3000)), jnp.ones(3000), l=0.0) == "osqp"


@pytest.mark.slow
def test_functions_of_pytrees():
    def curvature(x):
        return {"a": 2 * x["a"], "b": x["b"]}

    def total(x):
        return jnp.sum(x["a"])[None]

    costs = {"a": jnp.asarray([-2.0, 1.0]), "b": jnp.asarray([3.0])}
    b = jnp.asarray([0.0])
    free = jaxsolve.solve_qp(curvature, costs, total, b, tol=1e-8)
    np.testing.assert_allclose(free.x["a"], [0.75, -0.75], atol=1e-6)
    np.testing.assert_allclose(free.x["b"], [-3.0], atol=1e-6)
    held = jaxsolve.solve_qp(curvature, costs, total, b, l=-0.5, tol=1e-8)
    np.testing.assert_allclose(held.x["a"], [0.5, -0.5], atol=1e-6)
    np.testing.assert_allclose(held.x["b"], [-0.5], atol=1e-6)
    np.testing.assert_allclose(held.dual_bounds["b"], [-2.5], atol=1e-5)


@pytest.mark.slow
def test_warm_start_and_batches():
    Q, c, *rest = arrays()
    first = jaxsolve.solve_qp(Q, c, *rest)
    again = jaxsolve.solve_qp(Q, c, *rest, method="osqp", init=first)
    np.testing.assert_allclose(again.x, first.x, atol=1e-7)
    assert int(again.iter_num) == 0
    assert "tol" in first.message
    batch = jax.vmap(lambda c: jaxsolve.solve_qp(Q, c, *rest))(jnp.stack([c, 2 * c]))
    np.testing.assert_allclose(batch.x[0], first.x, atol=1e-8)
    assert batch.method == "interior_point"


def test_sparse_rows_with_padding_beside_bounds():
    Q, c, A, b, _, _, lower, upper = arrays()
    thin = sparse.BCOO.fromdense(Q), c, sparse.BCOO.fromdense(A, nse=A.size + 2), b
    found = jaxsolve.solve_qp(*thin, l=lower, u=upper, method="matrix_free", tol=1e-8)
    want = jaxsolve.solve_qp(Q, c, A, b, l=lower, u=upper)
    assert int(found.status) == Status.CONVERGED
    np.testing.assert_allclose(found.x, want.x, atol=1e-6)


def test_bad_data_are_refused():
    Q, c, A, b, G, h, _, _ = arrays()
    for args, options, message in (
        ((Q, c, A), {}, "A and b"),
        ((Q, c), {"h": h}, "G and h"),
        ((Q, c, A, b), {"method": "simplex"}, "method"),
        ((Q, c), {"l": 0.0, "method": "equality"}, "equality"),
        ((Q, c), {"l": 1.0, "u": 0.0}, "exceed"),
        ((Q, c), {"l": jnp.zeros(3)}, "l must have 5"),
        ((Q, c, A, jnp.ones(2)), {"l": 0.0}, "b must have 1"),
        ((Q[:, :3], c), {"l": 0.0}, "Q must"),
    ):
        with pytest.raises(ValueError, match=message):
            jaxsolve.solve_qp(*args, **options)


def test_a_second_eager_call_compiles_and_traces_nothing():
    Q, c, *rest = arrays()
    events = []

    def listen(event, duration, **kwargs):
        events.append(event)

    def product(x):
        return Q @ x

    def call(factor):
        jaxsolve.solve_qp(Q, factor * c, *rest)
        jaxsolve.solve_qp(product, factor * c, l=-1.0, tol=1e-3, maxiter=5)
        jaxsolve.linprog(factor * c, rest[2][:2], rest[3][:2], bounds=(-1, 1))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        call(1.0)
        first = len(events)
        call(2.0)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert first > 0 and len(events) == first


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_data_in_half_precision(dtype):
    """They are solved in float32, and answered in the dtype of the linear term."""
    c = -jnp.ones(3, dtype)
    for other in (dtype, jnp.float32):
        Q, G, h = jnp.eye(3, dtype=other), jnp.ones((1, 3), other), jnp.ones(1, other)
        params, state = jaxsolve.OSQP(tol=1e-2).run(None, (Q, c), None, (G, h))
        assert params.primal.dtype == params.dual_ineq.dtype == dtype and state.error.dtype == jnp.float32
        assert int(state.status) == Status.CONVERGED
        np.testing.assert_array_equal(params.primal, jnp.full(3, 1 / 3, dtype))
    params = jaxsolve.EqualityConstrainedQP().run(None, (Q, c), (G, h)).params
    np.testing.assert_array_equal(params.primal, jnp.full(3, 1 / 3, dtype))
    slope = jax.grad(lambda c: jaxsolve.OSQP().run(None, (Q, c), None, (G, h)).params.primal[0])(c)
    np.testing.assert_allclose(slope.astype(float), [-2 / 3, 1 / 3, 1 / 3], atol=1e-2)


# ---- Data of the size of rounding, and of infinity ----------------------------------------------------------------


@pytest.mark.parametrize("method", ["interior_point", pytest.param("osqp", marks=pytest.mark.slow)])
def test_the_convention_for_weakly_active_rows_is_of_derivatives_only(method):
    """Least squares that fit almost exactly: all multipliers are tiny, and none of the rows is weakly active."""
    rng = np.random.default_rng(3)
    A = rng.normal(size=(12, 6))
    A[:, -2:] = A[:, :2] + 0.1 * A[:, -2:]
    for size in (1e-3, 1e-6, 1e-9):
        b = A @ np.maximum(rng.normal(size=6), 0) + size * rng.normal(size=12)
        exact, _ = nnls(A, b)
        solutions = [
            jaxsolve.solve_qp(A.T @ A, -A.T @ b, l=0.0, method=method, weak=weak)
            for weak in ("half", "active", "inactive")
        ]
        for found in solutions:
            assert int(found.status) == Status.CONVERGED
            np.testing.assert_allclose(found.x, exact, atol=1e-9)


@pytest.mark.parametrize("method", ["interior_point", "osqp"])
def test_numbers_that_stand_for_infinity_and_numbers_that_do_not(method):
    Q, c, G = np.diag([1.0, 2.0]), np.array([-1.0, -4.0]), np.array([[1.0, 1.0], [1.0, -1.0]])
    free = jaxsolve.solve_qp(Q, c, G=G, h=[2.5, np.inf], l=-np.inf, u=np.inf, method=method)
    np.testing.assert_allclose(free.x, [2 / 3, 11 / 6], atol=1e-7)
    for big in (1e20, 1e30):
        found = jaxsolve.solve_qp(Q, c, G=G, h=[2.5, big], l=-big, u=big, method=method)
        np.testing.assert_array_equal(found.x, free.x)
        np.testing.assert_array_equal(found.iter_num, free.iter_num)
    for big in (1e8, 1e15):
        far = jaxsolve.solve_qp(Q, c, G=G, h=[2.5, big], l=-big, u=big, method=method)
        np.testing.assert_allclose(far.x, free.x, atol=1e-7)
        if big == 1e8:
            assert int(far.iter_num) <= 2 * int(free.iter_num)
        found = jaxsolve.solve_qp(Q, [-1.0, -4.0 * big], G=G, h=[np.inf, np.inf], l=-big, u=big, method=method)
        assert int(found.status) == Status.CONVERGED
        np.testing.assert_allclose(found.x, [1.0, big], rtol=1e-7)


@pytest.mark.parametrize("method", ["interior_point", "osqp"])
def test_a_contradiction_of_the_size_of_rounding_is_none(method):
    """As model-predictive control makes them; one that the tolerance does not forgive is one."""
    Q, c = np.diag([0.013, 5.393]), np.array([0.0, 0.3])
    G = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [-0.01, 0.07]])
    for gap in (1e-16, 1e-12):
        found = jaxsolve.solve_qp(Q, c, G=G, h=[0.0, -gap, -gap, 0.0], method=method)
        assert int(found.status) == Status.CONVERGED
        np.testing.assert_allclose(found.x, [0.0, -0.3 / 5.393], atol=1e-7)
    for h in ([0.0, -1e-3, 0.0, 0.0], [0.0, 0.0, -1e-3, 0.0]):
        assert int(jaxsolve.solve_qp(Q, c, G=G, h=h, method=method).status) == Status.PRIMAL_INFEASIBLE


def test_a_program_without_any_unit_ends_at_zero():
    # Nothing but 0 measures how small the solution is: q and all bounds are 0.
    rng = np.random.default_rng(0)
    G = jnp.asarray(rng.normal(size=(16, 7, 3)))

    def solve(G):
        return jaxsolve.solve_qp(jnp.eye(3), jnp.zeros(3), G=G, h=jnp.zeros(7), method="interior_point", tol=1e-3)

    result = jax.jit(jax.vmap(solve))(G)
    assert bool(jnp.all(jaxsolve.Status.CONVERGED.holds(result.status)))
    np.testing.assert_allclose(result.x, 0, atol=1e-6)
