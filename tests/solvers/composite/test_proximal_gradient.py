"""Proximal gradient: acceleration, restarts, step sizes, evaluations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import Status
from jaxsolve.prox import prox_elastic_net, prox_group_lasso, prox_lasso

rng = np.random.default_rng(0)
X = rng.normal(size=(30, 8)) @ np.diag(np.logspace(0, -1.5, 8))
Y = rng.normal(size=30)


def least_squares(w, y):
    return 0.5 * jnp.sum((jnp.asarray(X) @ w - y) ** 2)


def lasso_objective(w):
    return float(least_squares(w, Y)) + 0.5 * float(np.sum(np.abs(w)))


def test_acceleration_saves_iterations():
    options = {"tol": 1e-6, "maxiter": 20_000}
    fast, slow = (
        jaxsolve.ProximalGradient(least_squares, prox_lasso, acceleration=a, **options).run(jnp.zeros(8), 0.5, Y)
        for a in (True, False)
    )
    np.testing.assert_allclose(fast.params, slow.params, atol=1e-4)
    assert int(fast.state.iter_num) < 0.5 * int(slow.state.iter_num)


def test_restarts_keep_the_objective_from_oscillating():
    """Without restarts accelerated methods lose monotonicity again and again on strongly convex problems."""
    history = jaxsolve.History("params")
    jaxsolve.ProximalGradient(least_squares, prox_lasso, callback=history, tol=1e-8, maxiter=3000).run(
        jnp.full(8, 3.0), 0.5, Y
    )
    values = np.array([lasso_objective(w) for w in history["params"]])
    rises = np.diff(values) > 1e-9 * np.abs(values[:-1])
    assert rises.mean() < 0.1
    assert values[-1] <= values.min() + 1e-9


def test_step_sizes():
    longest = 1 / np.linalg.norm(X, 2) ** 2
    want = (
        jaxsolve.ProximalGradient(least_squares, prox_lasso, tol=1e-9, maxiter=50_000).run(jnp.zeros(8), 0.5, Y).params
    )
    for acceleration in (True, False):
        solver = jaxsolve.ProximalGradient(
            least_squares, prox_lasso, stepsize=longest, acceleration=acceleration, tol=1e-7, maxiter=50_000
        )
        np.testing.assert_allclose(solver.run(jnp.zeros(8), 0.5, Y).params, want, atol=1e-5)
        too_long = jaxsolve.ProximalGradient(
            least_squares, prox_lasso, stepsize=10 * longest, acceleration=acceleration, maxiter=50_000
        )
        params, state = too_long.run(jnp.zeros(8), 0.5, Y)
        assert int(state.status) == Status.DIVERGED
        assert np.all(np.abs(params) < 1e8)
        with pytest.raises(jaxsolve.SolverError, match="step size is too long"):
            jaxsolve.check(state)
    traced = jax.jit(
        lambda s: jaxsolve.ProximalGradient(least_squares, prox_lasso, stepsize=s, maxiter=9).run(jnp.zeros(8), 0.5, Y)
    )
    assert int(traced(longest).state.iter_num) == 9


def test_backtracking_finds_steps_of_any_scale():
    for scale in (1e-6, 1e6):
        solver = jaxsolve.ProximalGradient(
            lambda w, y, scale=scale: scale * least_squares(w, y), prox_lasso, tol=1e-6 * scale, maxiter=5000
        )
        params, state = solver.run(jnp.zeros(8), 0.5 * scale, Y)
        assert int(state.status) == Status.CONVERGED
        # About one evaluation of the value an iteration.
        assert int(state.num_fun_eval) <= 1.3 * int(state.num_grad_eval) + 40


def test_points_where_the_function_is_not_finite_are_avoided():
    solver = jaxsolve.ProximalGradient(
        lambda w: jnp.sum(3.0 * w) - jnp.sum(jnp.log(w)), prox_lasso, tol=1e-7, maxiter=2000
    )
    params, state = solver.run(jnp.asarray([5.0, 1e-2]), 1.0)
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params, 0.25, atol=1e-5)


@pytest.mark.parametrize(("prox", "hyper"), [(prox_elastic_net, (0.5, 0.3)), (prox_group_lasso, 0.5)])
def test_hyperparameters_differentiate(prox, hyper):
    solver = jaxsolve.ProximalGradient(least_squares, prox, tol=1e-10, maxiter=50_000)

    def solution(scale):
        return solver.run(jnp.zeros(8), jax.tree.map(lambda h: h * scale, hyper), Y).params

    slope = (solution(1.0 + 1e-5) - solution(1.0 - 1e-5)) / 2e-5
    for mode in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jax.jit(mode(solution))(1.0), slope, atol=1e-4 * float(jnp.abs(slope).max()))
