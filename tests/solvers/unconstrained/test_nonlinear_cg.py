"""Nonlinear conjugate gradients: the factors against formulas, steps on quadratics, evaluations, hard functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxsolve
from jaxsolve import Status

METHODS = ["polak-ribiere", "fletcher-reeves", "hestenes-stiefel", "dai-yuan", "hager-zhang"]
EACH = [pytest.param(name, marks=[pytest.mark.slow] * (name != "hager-zhang")) for name in METHODS]


def rosenbrock(x):
    return jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def factor(method, new, old, direction):
    """The factors of Hager and Zhang (2006), "A survey of nonlinear conjugate gradient methods", table 1."""
    y = new - old
    if method == "polak-ribiere":
        return max(new @ y / (old @ old), 0)
    if method == "fletcher-reeves":
        return new @ new / (old @ old)
    if method == "hestenes-stiefel":
        return max(new @ y / (direction @ y), 0)
    if method == "dai-yuan":
        return new @ new / (direction @ y)
    beta = (y - 2 * direction * (y @ y) / (direction @ y)) @ new / (direction @ y)
    return max(beta, 0.4 * (direction @ old) / (direction @ direction))


@pytest.mark.parametrize("method", EACH)
def test_the_direction_is_that_of_the_formula(method):
    solver = jaxsolve.NonlinearCG(rosenbrock, method=method, tol=0.0)
    params = jnp.asarray([-1.2, 1.0, -1.2, 1.0])
    state, update, conjugate = solver.init_state(params), jax.jit(solver.update), 0
    for _ in range(15):
        new_params, new_state = update(params, state)
        gamma, new, old = float(state.gamma), np.asarray(new_state.grad), np.asarray(state.grad)
        expected = -gamma * new
        if int(new_state.num_conjugate):
            # Formulas are for directions along the gradient itself.
            direction = np.asarray(state.descent_direction) / gamma
            expected = gamma * (factor(method, new, old, direction) * direction - new)
            conjugate += 1
        np.testing.assert_allclose(new_state.descent_direction, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
        params, state = new_params, new_state
    assert conjugate >= 4


@pytest.mark.parametrize("method", EACH)
def test_on_a_quadratic_it_ends_after_as_many_steps_as_there_are_curvatures(method):
    curvatures = jnp.asarray(np.repeat([1.0, 3.0, 10.0, 40.0], 5))
    fun = lambda x: 0.5 * jnp.sum(curvatures * (x - 1.0) ** 2)
    exact = jaxsolve.ZoomLineSearch(fun, c2=1e-4, c1=1e-5)
    params, state = jaxsolve.NonlinearCG(fun, method=method, linesearch=exact, tol=1e-6).run(jnp.zeros(20))
    assert int(state.status) == Status.CONVERGED
    assert int(state.iter_num) <= 6
    np.testing.assert_allclose(params, 1.0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("linesearch", ["zoom", "hager-zhang", "backtracking"])
def test_methods_and_searches(method, linesearch):
    solver = jaxsolve.NonlinearCG(rosenbrock, method=method, linesearch=linesearch, tol=1e-5, maxiter=2000)
    params, state = solver.run(jnp.asarray([-1.2, 1.0, -1.2]))
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params, 1.0, atol=1e-3)


@pytest.mark.slow
def test_evaluations_are_at_most_a_twentieth_above_scipy():
    value_and_grad, counts = jax.jit(jax.value_and_grad(rosenbrock)), []
    for seed in range(6):
        init, norms = np.random.default_rng(seed).normal(size=6), []

        def for_scipy(x, norms=norms):
            value, grad = value_and_grad(jnp.asarray(x))
            norms.append(float(jnp.linalg.norm(grad)))
            return float(value), np.asarray(grad)

        scipy.optimize.minimize(for_scipy, init, jac=True, method="CG", options={"gtol": 1e-7, "maxiter": 5000})
        state = jaxsolve.NonlinearCG(rosenbrock, tol=1e-6, maxiter=5000).run(jnp.asarray(init)).state
        assert int(state.status) == Status.CONVERGED
        counts.append(int(state.num_fun_eval) / (1 + next(i for i, norm in enumerate(norms) if norm <= 1e-6)))
    assert np.exp(np.mean(np.log(counts))) <= 1.05


@pytest.mark.slow
def test_functions_that_are_not_finite_everywhere():
    barrier = lambda x: jnp.sum(x) - jnp.sum(jnp.log(x))
    params, state = jaxsolve.NonlinearCG(barrier, tol=1e-6).run(jnp.asarray([1e-2, 20.0]))
    np.testing.assert_allclose(params, 1.0, atol=1e-5)
    assert int(state.status) == Status.CONVERGED


@pytest.mark.slow
def test_a_wrong_gradient_ends_with_a_status():
    wrong = lambda x: (jnp.sum(x**2), -2 * x)
    params, state = jaxsolve.NonlinearCG(wrong, value_and_grad=True).run(jnp.ones(3))
    assert int(state.status) == Status.LINESEARCH_FAILED
    np.testing.assert_array_equal(params, 1.0)


@pytest.mark.slow
def test_an_earlier_result_hands_on_its_direction():
    start = jnp.asarray([-1.2, 1.0, 0.3])
    whole = jaxsolve.NonlinearCG(rosenbrock, tol=1e-6, maxiter=1000).run(start)
    begun = jaxsolve.NonlinearCG(rosenbrock, tol=1e-6, maxiter=11).run(start)
    params, state = jaxsolve.NonlinearCG(rosenbrock, tol=1e-6, maxiter=1000).run(begun)
    assert int(state.iter_num) == int(whole.state.iter_num)
    np.testing.assert_allclose(params, whole.params, rtol=1e-9)


@pytest.mark.float32
def test_small_gradients_in_float32():
    fun = lambda x: 1e-8 * jnp.sum(jnp.cosh(x - 1.0))
    params, state = jaxsolve.NonlinearCG(fun, tol=0.0, rtol=1e-4).run(jnp.zeros(3, jnp.float32))
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params, 1.0, atol=1e-3)
