"""How descent ends where it cannot go on: rounding, values that fall without end, tolerances out of reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import Status

SEARCHES = ["zoom", "hager-zhang", "backtracking"]


@pytest.mark.float32
@pytest.mark.parametrize("search", SEARCHES)
def test_rounding_ends_a_run_soon_and_at_the_least_gradient(search):
    rng = np.random.default_rng(0)
    X = jnp.asarray(rng.normal(size=(40, 5)) * np.logspace(0, 3, 5), jnp.float32)
    y = jnp.asarray(rng.normal(size=40), jnp.float32)

    def fun(w):
        return jnp.mean((X @ w - y) ** 2) + 10.0

    exact = np.linalg.lstsq(np.asarray(X, float), np.asarray(y, float), rcond=None)[0]
    solver = jaxsolve.LBFGS(fun, linesearch=search, tol=0.0, maxiter=300)
    history = []
    params, state = solver.run(jnp.zeros(5, jnp.float32))
    assert int(state.status) == Status.STALLED
    assert int(state.iter_num) < 100 and int(state.num_fun_eval) < 250
    best = float(np.mean((np.asarray(X, float) @ exact - np.asarray(y, float)) ** 2)) + 10.0
    np.testing.assert_allclose(state.value, best, rtol=1e-6)
    # No iterate had a much smaller gradient.
    update = jax.jit(solver.update)
    params, state = jnp.zeros(5, jnp.float32), solver.init_state(jnp.zeros(5, jnp.float32))
    while int(state.status) == Status.RUNNING:
        params, state = update(params, state)
        history.append(float(state.error))
    assert float(state.error) <= 1.01 * min(history)


FALLING = [lambda x: -jnp.sum(x), lambda x: -jnp.sum(x**2), lambda x: jnp.sum(x**3), lambda x: -jnp.sum(x**4)]


def one_of(x, index):
    return jax.lax.switch(index, FALLING, x)


@pytest.mark.parametrize("dtype", [pytest.param(np.float32, marks=pytest.mark.float32), np.float64])
@pytest.mark.parametrize("name", [*SEARCHES, "gradient-descent"])
def test_values_that_fall_without_end(name, dtype):
    if name == "gradient-descent":
        solver = jaxsolve.GradientDescent(one_of, maxiter=2000)
    else:
        solver = jaxsolve.LBFGS(one_of, linesearch=name)
    init = jnp.asarray([-1.0, -0.5], dtype)
    params, state = jax.jit(jax.vmap(lambda index: solver.run(init, index)))(jnp.arange(len(FALLING)))
    np.testing.assert_array_equal(state.status, Status.DIVERGED)
    assert np.all(np.isfinite(params))


def test_relative_tolerance_is_relative_to_the_first_gradient():
    fun = lambda x, c: c * jnp.sum(jnp.cosh(x - 1.0))
    for make in (jaxsolve.LBFGS, jaxsolve.GradientDescent):
        solver = make(fun, tol=0.0, rtol=1e-3)
        for c in (1e-6, 1e6):
            params, state = solver.run(jnp.zeros(3), c)
            first = c * np.sqrt(3) * np.sinh(1.0)
            assert int(state.status) == Status.CONVERGED
            np.testing.assert_allclose(state.first_error, first, rtol=1e-6)
            assert float(state.error) <= 1e-3 * first
            assert int(make(fun, tol=0.0, maxiter=3).run(jnp.zeros(3), c).state.status) == Status.MAXITER
        with pytest.raises(ValueError, match="rtol must be at least 0"):
            make(fun, rtol=-1.0)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_wrong_gradient_is_no_matter_of_precision(search):
    """A search that fails says so however far the gradient has fallen: its first trial promised more than rounding."""

    def fun(x):
        return 0.5e12 * x[0] ** 2 + x[1], jnp.stack([1e12 * x[0], -jnp.ones_like(x[1])])

    solver = jaxsolve.LBFGS(fun, value_and_grad=True, linesearch=search, tol=0.0)
    _, state = solver.run(jnp.array([1.0, 0.0]))
    assert float(state.error) <= 1e-8 * float(state.first_error)
    assert int(state.status) == Status.LINESEARCH_FAILED
