"""Anderson acceleration: evaluations, safeguards, types, and acceleration of other solvers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import Status
from jaxsolve.prox import prox_lasso


def _contraction(n=30, radius=0.99):
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.normal(size=(n, n)))[0]
    return jnp.asarray((Q * np.linspace(0, radius, n)) @ Q.T), jnp.asarray(rng.normal(size=n))


def _affine(x, M, b):
    return M @ x + b


@pytest.mark.parametrize("method", ["II", "I"])
@pytest.mark.parametrize(("dtype", "tol"), [(jnp.float64, 1e-6), (jnp.float32, 1e-3)])
def test_a_fifth_of_the_evaluations(method, dtype, tol):
    M, b = (part.astype(dtype) for part in _contraction())
    zeros = jnp.zeros(30, dtype)
    params, state = jaxsolve.AndersonAcceleration(_affine, tol=tol, maxiter=3000, method=method).run(zeros, M, b)
    plain = jaxsolve.FixedPointIteration(_affine, tol=tol, maxiter=3000).run(zeros, M, b).state
    assert int(state.status) == int(plain.status) == Status.CONVERGED
    assert int(state.num_fun_eval) == int(state.iter_num) + 1 < int(plain.num_fun_eval) / 5
    assert params.dtype == state.error.dtype == dtype
    np.testing.assert_allclose(params, np.linalg.solve(np.eye(30) - np.asarray(M), np.asarray(b)), atol=200 * tol)


def test_an_affine_mapping_takes_as_many_steps_as_it_has_dimensions():
    """With a history for all of them, Anderson mixing is GMRES (Walker and Ni 2011, theorem 2.2)."""
    # Both are no contractions; type I wants I - M to be definite.
    rotation = 3 * jnp.asarray([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    for method, M in (
        ("II", rotation),
        ("I", -2 * jnp.eye(3) - jnp.ones((3, 3))),
        ("II", jnp.diag(-jnp.arange(2.0, 5))),
    ):
        params, state = jaxsolve.AndersonAcceleration(_affine, tol=1e-8, method=method).run(
            jnp.arange(3.0), M, jnp.ones(3)
        )
        np.testing.assert_allclose(params, np.linalg.solve(np.eye(3) - np.asarray(M), np.ones(3)), atol=1e-8)
        assert int(state.iter_num) <= 6


def test_extrapolations_out_of_the_domain_are_taken_back():
    mapping = lambda x: jnp.where(x > 3.0, jnp.nan, 0.9 * jnp.sqrt(jnp.abs(x)) + 0.1 * jnp.sin(9 * x))
    for start in (2.9, 0.1, 1.5):
        params, state = jaxsolve.AndersonAcceleration(mapping, maxiter=300, tol=1e-9).run(start)
        assert int(state.status) in (Status.CONVERGED, Status.MAXITER)
        np.testing.assert_allclose(state.error, abs(mapping(params) - params), atol=1e-12)


def test_values_that_are_not_finite_end_the_run_at_the_last_finite_iterate():
    params, state = jaxsolve.AndersonAcceleration(lambda x: jnp.sqrt(x - 1.0)).run(3.0)
    assert int(state.status) == Status.NONFINITE
    assert np.isfinite(params) and np.isfinite(state.error)
    params, state = jaxsolve.AndersonAcceleration(lambda x: jnp.log(x)).run(-1.0)
    assert int(state.status) == Status.NONFINITE
    assert params == -1.0


def test_steps_below_the_precision_of_the_parameters_end_the_run():
    state = jaxsolve.AndersonAcceleration(lambda x: x + 1e-3, tol=1e-6).run(1e20).state
    assert int(state.status) == Status.CONVERGED  # T(x) is x
    mapping = lambda x: jnp.stack([x[0], x[1] + 1.0])
    assert int(jaxsolve.AndersonAcceleration(mapping).run(jnp.array([0.0, 1e20])).state.status) == Status.CONVERGED


def test_damping_and_frequency():
    M, b = _contraction()
    run = lambda **options: jaxsolve.AndersonAcceleration(_affine, tol=1e-6, maxiter=3000, **options)
    plain = run(mixing_frequency=10_000, beta=0.5).run(jnp.zeros(30), M, b)
    halved = jaxsolve.FixedPointIteration(lambda x, M, b: 0.5 * (x + _affine(x, M, b)), tol=5e-7, maxiter=3000)
    assert int(plain.state.iter_num) == int(halved.run(jnp.zeros(30), M, b).state.iter_num) - 1
    assert int(run(mixing_frequency=2).run(jnp.zeros(30), M, b).state.iter_num) < 400
    with pytest.raises(ValueError, match="history_size must be at least 1"):
        run(history_size=0)
    with pytest.raises(TypeError, match="known at compile time"):
        jax.jit(lambda m: run(history_size=m).run(jnp.zeros(30), M, b).params)(3)


def test_a_run_from_an_earlier_result_counts_on():
    M, b = _contraction()
    solver = jaxsolve.AndersonAcceleration(_affine, tol=1e-6, maxiter=10)
    first = solver.run(jnp.zeros(30), M, b)
    assert int(first.state.status) == Status.MAXITER
    second = solver.run(first, M, b)
    assert int(second.state.iter_num) == 20
    assert second.state.error < first.state.error


def test_complex_and_mixed_parameters():
    mapping = lambda p, a: {"z": a * jnp.conj(p["z"]) + 1.0, "r": 0.5 * p["r"] + p["z"].real}
    for method in ("I", "II"):
        solver = jaxsolve.AndersonAcceleration(mapping, tol=1e-12, method=method)
        found = lambda t, solver=solver: solver.run(
            {"z": jnp.asarray(0j), "r": jnp.asarray(0.0)}, jax.lax.complex(t, 0.4)
        )
        z = lambda t: (1 + jax.lax.complex(t, 0.4)) / (1 - t**2 - 0.16)
        step = found(0.3)
        assert int(step.state.iter_num) < 12
        np.testing.assert_allclose(step.params["z"], z(0.3), rtol=1e-10)
        grad = jax.grad(lambda t, found=found: found(t).params["r"])(0.3)
        np.testing.assert_allclose(grad, jax.grad(lambda t, z=z: 2 * z(t).real)(0.3), rtol=1e-8)


# ---- Around another solver ----------------------------------------------------------------------------------------


def _regression(w, data):
    return 0.5 * jnp.mean((data[0] @ w - data[1]) ** 2)


def _slow_data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 15)) @ np.diag(np.logspace(0, 1.2, 15))
    return jnp.asarray(X), jnp.asarray(rng.normal(size=40))


def test_proximal_gradient_in_half_of_the_evaluations():
    data, start = _slow_data(), jnp.full(15, 1 / 15)
    inner = jaxsolve.ProximalGradient(_regression, prox_lasso, acceleration=False, maxiter=20_000, tol=1e-8)
    solver = jaxsolve.AndersonWrapper(inner)
    assert (solver.maxiter, solver.tol, solver.jit) == (20_000, 1e-8, True)
    params, state = solver.run(start, 0.01, data)
    plain = inner.run(start, 0.01, data)
    assert int(state.status) == int(state.solver_state.status) == Status.CONVERGED
    # Every fifth iteration takes the step from the extrapolation too, and one of the two steps counts.
    count, extrapolations = int(state.iter_num), int(state.iter_num) // 5
    assert 0 < int(state.num_mixed) <= extrapolations
    assert int(state.solver_state.iter_num) == count + extrapolations
    assert int(state.solver_state.num_grad_eval) == count + 2 * extrapolations < int(plain.state.num_grad_eval) / 2
    np.testing.assert_allclose(params, plain.params, atol=1e-6)
    np.testing.assert_allclose(solver.l2_optimality_error(params, 0.01, data), 0, atol=1e-8)
    loss = lambda solver: lambda weight: solver.run(start, weight, data)
    for mode in (jax.jacfwd, jax.jacrev):
        got, expected = (mode(lambda w, s=s: loss(s)(w).params)(0.01) for s in (solver, inner))
        np.testing.assert_allclose(got, expected, rtol=1e-6)
        got, expected = (mode(lambda w, s=s: loss(s)(w).state.value)(0.01) for s in (solver, inner))
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_other_solvers_are_not_led_astray():
    X, y = _slow_data()
    start = jnp.zeros(15)
    for inner, args in (
        (jaxsolve.LBFGS(_regression, tol=1e-7), ((X, y),)),
        (jaxsolve.ProximalGradient(_regression, prox_lasso, tol=1e-7, maxiter=2000), (0.01, (X, y))),
    ):
        params, state = jaxsolve.AndersonWrapper(inner, mixing_frequency=2).run(start, *args)
        assert int(state.status) == Status.CONVERGED
        np.testing.assert_allclose(params, inner.run(start, *args).params, atol=1e-5)


def test_statuses_are_those_of_the_solver():
    nowhere = jaxsolve.FixedPointIteration(lambda x: jnp.sqrt(x - 1.0))
    params, state = jaxsolve.AndersonWrapper(nowhere).run(3.0)
    assert int(state.status) == int(state.solver_state.status) == Status.NONFINITE
    assert np.isfinite(params)
    short = jaxsolve.AndersonWrapper(jaxsolve.FixedPointIteration(lambda x: x + 1.0), maxiter=7)
    state = short.run(3.0).state
    assert (int(state.status), int(state.iter_num)) == (Status.MAXITER, 7)
    with pytest.raises(TypeError, match="solver must be an iterative solver"):
        jaxsolve.AndersonWrapper(lambda x: x)


def test_what_the_functions_of_the_solver_capture_is_seen_at_every_run():
    box = {"target": jnp.array([1.0, 2.0])}
    solver = jaxsolve.AndersonWrapper(jaxsolve.FixedPointIteration(lambda x: 0.5 * (x + box["target"]), tol=1e-8))
    np.testing.assert_allclose(solver.run(jnp.zeros(2)).params, [1.0, 2.0], atol=1e-7)
    box["target"] = jnp.array([3.0, 5.0])
    np.testing.assert_allclose(solver.run(jnp.zeros(2)).params, [3.0, 5.0], atol=1e-7)
    solver.solver.fixed_point_fun = lambda x: 0.5 * x
    np.testing.assert_allclose(solver.run(jnp.ones(2)).params, 0, atol=1e-7)


def test_batches():
    M, b = _contraction()
    solver = jaxsolve.AndersonWrapper(jaxsolve.FixedPointIteration(_affine, tol=1e-6, maxiter=3000))
    rhs = jnp.stack([b, 100 * b, 0 * b])
    params, state = jax.vmap(lambda b: solver.run(jnp.zeros(30), M, b))(rhs)
    np.testing.assert_allclose(params, np.linalg.solve(np.eye(30) - M, rhs.T).T, atol=1e-3)
    alone = solver.run(jnp.zeros(30), M, rhs[1]).state
    assert int(state.iter_num[1]) == int(alone.iter_num)
