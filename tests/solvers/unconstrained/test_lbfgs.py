"""L-BFGS: evaluations against SciPy, the direction against the two-loop recursion, hard functions, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxsolve
from jaxsolve import Status

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(200, 50)), rng.normal(size=200)


def ridge(w):
    return 0.5 * jnp.mean((jnp.asarray(X) @ w - Y) ** 2) + 0.005 * jnp.sum(w**2)


def logistic(w):
    return jnp.mean(jnp.logaddexp(0.0, -jnp.sign(Y) * (jnp.asarray(X) @ w))) + 0.0025 * jnp.sum(w**2)


def rosenbrock(x):
    return jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def rosenbrock_start(d):
    return np.where(np.arange(d) % 2 == 0, -1.2, 1.0)


@pytest.mark.parametrize(
    ("fun", "init"),
    [
        (ridge, np.zeros(50)),
        (logistic, np.zeros(50)),
        (rosenbrock, rosenbrock_start(2)),
        (rosenbrock, rosenbrock_start(100)),
    ],
    ids=["ridge", "logistic", "rosenbrock-2", "rosenbrock-100"],
)
def test_evaluations_are_at_most_a_tenth_above_scipy(fun, init):
    value_and_grad = jax.jit(jax.value_and_grad(fun))
    norms = []

    def for_scipy(x):
        value, grad = value_and_grad(jnp.asarray(x))
        norms.append(float(jnp.linalg.norm(grad)))
        return float(value), np.asarray(grad)

    options = {"maxcor": 10, "ftol": 0.0, "gtol": 0.0, "maxiter": 5000, "maxfun": 5000}
    scipy.optimize.minimize(for_scipy, init, jac=True, method="L-BFGS-B", options=options)
    # It may end a little earlier, where the value no longer changes in any digit.
    reached = 1 + next(i for i, norm in enumerate(norms) if norm <= max(1e-8, min(norms)))
    params, state = jaxsolve.LBFGS(fun, tol=1e-8, maxiter=2000).run(jnp.asarray(init))
    assert int(state.status) == Status.CONVERGED
    assert float(jnp.linalg.norm(value_and_grad(params)[1])) <= 1e-8
    assert int(state.num_fun_eval) <= 1.1 * reached


def two_loops(pairs, grad):
    """Nocedal and Wright, algorithm 7.4, in NumPy."""
    q, alphas = grad.copy(), []
    for s, y in reversed(pairs):
        alphas.append(s @ q / (s @ y))
        q -= alphas[-1] * y
    s, y = pairs[-1]
    q *= s @ y / (y @ y)
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        q += (alpha - y @ q / (s @ y)) * s
    return q


def test_the_direction_is_that_of_the_two_loop_recursion():
    solver = jaxsolve.LBFGS(rosenbrock, tol=0.0, history_size=4)
    params = jnp.asarray(rosenbrock_start(6))
    state, update, pairs = solver.init_state(params), jax.jit(solver.update), []
    for _ in range(12):
        new_params, new_state = update(params, state)
        pairs.append((np.asarray(new_params - params), np.asarray(new_state.grad - state.grad)))
        params, state = new_params, new_state
        expected = two_loops(pairs[-4:], np.asarray(state.grad))
        np.testing.assert_allclose(
            -solver._direction(None, state), expected, rtol=1e-8, atol=1e-10 * np.abs(expected).max()
        )


def test_functions_that_are_not_finite_everywhere():
    barrier = lambda x: jnp.sum(x) - jnp.sum(jnp.log(x))
    for linesearch in ("zoom", "backtracking", "hager-zhang"):
        params, state = jaxsolve.LBFGS(barrier, linesearch=linesearch, tol=1e-6).run(jnp.asarray([1e-3, 50.0]))
        np.testing.assert_allclose(params, 1.0, atol=1e-5)
        assert int(state.status) == Status.CONVERGED


def test_a_wrong_gradient_ends_with_a_status():
    wrong = lambda x: (jnp.sum(x**2), -2 * x)
    params, state = jaxsolve.LBFGS(wrong, value_and_grad=True).run(jnp.ones(3))
    assert int(state.status) == Status.LINESEARCH_FAILED
    np.testing.assert_array_equal(params, 1.0)
    with pytest.raises(jaxsolve.SolverError, match="gradient may be wrong"):
        jaxsolve.check(state)


@pytest.mark.float32
def test_runs_in_float32_stop_with_a_status_at_the_end_of_its_precision():
    fun = lambda x: 1e6 + jnp.sum(jnp.cosh(x - 1.0))
    params, state = jaxsolve.LBFGS(fun, tol=1e-12, maxiter=500).run(jnp.zeros(3, jnp.float32))
    assert int(state.iter_num) < 100
    assert int(state.status) in (Status.LINESEARCH_FAILED, Status.CONVERGED)
    np.testing.assert_allclose(params, 1.0, atol=2e-3)


@pytest.mark.float32
def test_bfloat16_parameters():
    fun = lambda x: jnp.sum((x.astype(jnp.float32) - 1.0) ** 2)
    params, state = jaxsolve.LBFGS(fun, tol=1e-2).run(jnp.zeros(3, jnp.bfloat16))
    assert params.dtype == jnp.bfloat16
    assert state.error.dtype == jnp.float32
    np.testing.assert_allclose(params.astype(jnp.float32), 1.0, atol=1e-2)


def test_auxiliary_output_and_given_gradients():
    def with_aux(x, t):
        return jnp.sum((x - t) ** 2), {"mean": jnp.mean(x), "n": jnp.asarray(x.size)}

    def both(x, t):
        return jax.value_and_grad(with_aux, has_aux=True)(x, t)

    for fun, options in ((with_aux, {}), (both, {"value_and_grad": True})):
        solver = jaxsolve.LBFGS(fun, has_aux=True, tol=1e-8, **options)
        params, state = solver.run(jnp.zeros(3), 2.0)
        np.testing.assert_allclose(params, 2.0, atol=1e-7)
        np.testing.assert_allclose(state.aux["mean"], 2.0, atol=1e-7)
        mean = lambda t, solver=solver: solver.run(jnp.zeros(3), t).state.aux["mean"]
        np.testing.assert_allclose(jax.grad(mean)(2.0), 1.0, atol=1e-7)


def test_options_that_steer_the_search():
    for options in (
        {"linesearch_init": "max"},
        {"linesearch_init": "current"},
        {"use_gamma": False},
        {"history_size": 1},
        {"linesearch": "backtracking", "condition": "armijo", "decrease_factor": 0.5},
        {"linesearch": "backtracking", "condition": "goldstein"},
        {"stop_if_linesearch_fails": True},
        {"max_stepsize": 10.0},
    ):
        params, state = jaxsolve.LBFGS(rosenbrock, tol=1e-5, maxiter=1000, **options).run(jnp.zeros(3))
        assert int(state.status) == Status.CONVERGED, options
        np.testing.assert_allclose(params, 1.0, atol=1e-3)


@pytest.mark.parametrize("jit", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_an_earlier_result_hands_on_its_history(jit):
    """So a run that is interrupted ends as one that is not."""
    start = rosenbrock_start(10)
    whole = jaxsolve.LBFGS(rosenbrock, tol=1e-8, jit=jit).run(start)
    begun = jaxsolve.LBFGS(rosenbrock, tol=1e-8, maxiter=17, jit=jit).run(start)
    solver = jaxsolve.LBFGS(rosenbrock, tol=1e-8, jit=jit)
    params, state = solver.run(begun)
    assert int(state.iter_num) == int(whole.state.iter_num)
    np.testing.assert_allclose(params, whole.params, rtol=1e-9)
    again = solver.init_state(begun)
    for name in ("iter_num", "stepsize", "history", "gram", "gamma"):
        np.testing.assert_array_equal(getattr(again, name), getattr(begun.state, name))
        assert getattr(again, name).dtype == getattr(begun.state, name).dtype
    by_hand = jaxsolve.base.OptStep(begun.params, again)
    for _ in range(3):
        by_hand = solver.update(*by_hand)
    np.testing.assert_allclose(
        by_hand.params, jaxsolve.LBFGS(rosenbrock, tol=1e-8, maxiter=20, jit=jit).run(start).params, rtol=1e-6
    )


@pytest.mark.slow
def test_the_history_of_an_earlier_result_must_fit():
    begun = jaxsolve.LBFGS(ridge, maxiter=3).run(np.zeros(50))
    with pytest.raises(ValueError, match=r"history has shapes \(20, 50\)"):
        jaxsolve.LBFGS(ridge, history_size=5).run(begun)
    # The state of another solver is no history: its parameters alone count.
    other = jaxsolve.GradientDescent(ridge, maxiter=3).run(np.zeros(50))
    afresh, given = jaxsolve.LBFGS(ridge, maxiter=2).run(other.params), jaxsolve.LBFGS(ridge, maxiter=2).run(other)
    np.testing.assert_array_equal(given.params, afresh.params)
    assert int(given.state.iter_num) == 2
    shifted = lambda w, t: ridge(w - t)
    begun = jaxsolve.LBFGS(shifted, maxiter=9).run(np.zeros(50), 0.0)
    solution = lambda t: jaxsolve.LBFGS(shifted, tol=1e-8).run(begun, t).params[0]
    np.testing.assert_allclose(jax.grad(solution)(1.0), 1.0, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(solution)(jnp.arange(2.0)), solution(0.0) + jnp.arange(2.0), rtol=1e-5)


@pytest.mark.parametrize("jit", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_line_search_of_ones_own(jit):
    for search in (
        jaxsolve.BacktrackingLineSearch(jnp.sum, condition="armijo", decrease_factor=0.3, maxiter=50),
        jaxsolve.ZoomLineSearch(rosenbrock, c2=0.3),
        jaxsolve.HagerZhangLineSearch(rosenbrock),
    ):
        solver = jaxsolve.LBFGS(rosenbrock, linesearch=search, tol=1e-5, jit=jit)
        params, state = solver.run(rosenbrock_start(2))
        assert int(state.status) == Status.CONVERGED
        np.testing.assert_allclose(params, 1.0, atol=1e-3)
    named = jaxsolve.LBFGS(rosenbrock, linesearch="backtracking", condition="armijo", decrease_factor=0.3, jit=jit)
    search = jaxsolve.BacktrackingLineSearch(jnp.sum, condition="armijo", decrease_factor=0.3)
    own = jaxsolve.LBFGS(rosenbrock, linesearch=search, jit=jit)
    np.testing.assert_array_equal(own.run(np.zeros(2)).params, named.run(np.zeros(2)).params)
    with pytest.raises(ValueError, match="linesearch must be one of"):
        jaxsolve.LBFGS(rosenbrock, linesearch=jaxsolve.BacktrackingLineSearch)
