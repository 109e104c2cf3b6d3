"""Trust regions: the exact subproblem against its conditions, saddle points, the ends of runs, counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxsolve
from jaxsolve import Status
from jaxsolve.solvers.unconstrained.trust_region import exact_step

SOLVERS = [jaxsolve.NewtonCG, jaxsolve.TrustNewton]
rng = np.random.default_rng(0)


def rosenbrock(x):
    return jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def models(n, count, hard):
    """Eigenvalues, gradients and radii; in the hard ones the gradient has nothing of the lowest eigenspace."""
    values = np.sort(rng.normal(size=(count, n)) * 10 ** rng.uniform(-3, 3, size=(count, 1)), axis=1)
    components = rng.normal(size=(count, n)) * 10 ** rng.uniform(-3, 3, size=(count, 1))
    radius = 10 ** rng.uniform(-3, 3, size=count)
    if hard:
        values[:, 1] = values[:, 0] = -np.abs(values[:, 0])
        values = np.sort(values, axis=1)
        components[values == values[:, :1]] = 0
    return values, components, radius


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, pytest.param(np.float32, marks=pytest.mark.float32)])
def test_the_exact_step_meets_the_conditions_of_a_minimum(hard, dtype):
    values, components, radius = (x.astype(dtype) for x in models(5, 500, hard))
    step, at_boundary = jax.jit(jax.vmap(lambda *model: exact_step(*model, "while")))(values, components, radius)
    step, values, components, radius = (np.asarray(x, float) for x in (step, values, components, radius))
    length = np.linalg.norm(step, axis=1)
    assert np.all(length <= radius * (1 + 50 * np.finfo(dtype).eps))
    # (B + shift) s = -g with a shift of at least 0 that makes the matrix positive semidefinite, on the boundary only.
    shift = -np.sum((components + values * step) * step, axis=1) / length**2
    size = np.abs(values).max(axis=1) + np.linalg.norm(components, axis=1) / radius
    rounding = 2e-3 if dtype == np.float32 else 1e-6
    assert np.all(shift >= -rounding * size)
    assert np.all(values[:, 0] + shift >= -rounding * size)
    residual = components + (values + shift[:, None]) * step
    bound = np.linalg.norm(components, axis=1) + size * length * rounding
    assert np.all(np.linalg.norm(residual, axis=1) <= 5e-3 * bound)
    assert np.all((shift <= rounding * size) | (length >= 0.998 * radius))
    # No point of the ball is better.
    model = lambda s: np.sum(components * s + 0.5 * values * s**2, axis=-1)
    others = rng.normal(size=(300, *step.shape))
    others *= (radius * rng.uniform(size=(300, len(radius))) ** 0.2 / np.linalg.norm(others, axis=-1))[..., None]
    scale = np.linalg.norm(components, axis=1) * radius + size * radius**2
    assert np.all(model(others).min(axis=0) >= model(step) - 2e-3 * np.abs(model(step)) - rounding * 1e-3 * scale)


@pytest.mark.slow
@pytest.mark.parametrize("make", SOLVERS)
def test_evaluations_are_at_most_those_of_scipy(make):
    value_and_grad = jax.jit(jax.value_and_grad(rosenbrock))
    product = jax.jit(lambda x, p: jax.jvp(jax.grad(rosenbrock), (x,), (p,))[1])
    for init in (np.asarray([-1.2, 1.0]), np.where(np.arange(8) % 2 == 0, -1.2, 1.0)):
        norms = []

        def for_scipy(x, norms=norms):
            value, grad = value_and_grad(jnp.asarray(x))
            norms.append(float(jnp.linalg.norm(grad)))
            return float(value), np.asarray(grad)

        scipy.optimize.minimize(
            for_scipy, init, jac=True, hessp=lambda x, p: np.asarray(product(x, p)), method="trust-krylov"
        )
        params, state = make(rosenbrock, tol=1e-6).run(jnp.asarray(init))
        assert int(state.status) == Status.CONVERGED
        assert float(jnp.linalg.norm(value_and_grad(params)[1])) <= 1e-6
        assert int(state.num_fun_eval) <= len(norms)


@pytest.mark.parametrize("make", SOLVERS)
def test_a_quadratic_takes_its_newton_step(make):
    matrix = jnp.asarray(np.diag([1.0, 10.0, 100.0]) + 0.5)
    fun = lambda x: 0.5 * x @ matrix @ x - jnp.sum(x)
    params, state = make(fun, tol=1e-8).run(jnp.asarray([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(params, np.linalg.solve(matrix, np.ones(3)), rtol=1e-7)
    assert int(state.iter_num) <= 12
    assert int(state.num_grad_eval) == int(state.num_fun_eval) + int(state.iter_num)


@pytest.mark.slow
@pytest.mark.parametrize("make", SOLVERS)
def test_it_leaves_the_neighborhood_of_a_saddle_point(make):
    fun = lambda x: 0.25 * x[0] ** 4 - 0.5 * x[0] ** 2 + x[1] ** 2
    params, state = make(fun, tol=1e-8).run(jnp.asarray([1e-6, 1.0]))
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(np.abs(params), [1.0, 0.0], atol=1e-6)


def test_the_hard_case_leaves_the_ridge():
    """The gradient says nothing of the direction that leads down."""
    fun = lambda x: 0.25 * x[0] ** 4 - 0.5 * x[0] ** 2 + jnp.cosh(x[1])
    params, state = jaxsolve.TrustNewton(fun, tol=1e-8).run(jnp.asarray([0.0, 1.0]))
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(np.abs(params), [1.0, 0.0], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("make", SOLVERS)
def test_functions_that_are_not_finite_everywhere(make):
    barrier = lambda x: jnp.sum(x) - jnp.sum(jnp.log(x))
    params, state = make(barrier, tol=1e-6).run(jnp.asarray([1e-2, 20.0]))
    np.testing.assert_allclose(params, 1.0, atol=1e-5)
    assert int(state.status) == Status.CONVERGED


@pytest.mark.slow
@pytest.mark.parametrize("make", SOLVERS)
def test_a_function_that_falls_without_end(make):
    falling = [lambda x: -jnp.sum(x), lambda x: -jnp.sum(x**2), lambda x: jnp.sum(x**3), lambda x: -jnp.sum(jnp.exp(x))]
    solver = make(lambda x, index: jax.lax.switch(index, falling, x), maxiter=2000)
    params, state = jax.jit(jax.vmap(lambda index: solver.run(jnp.asarray([-1.0, -0.5]), index)))(jnp.arange(4))
    np.testing.assert_array_equal(state.status, Status.DIVERGED)
    assert np.all(np.isfinite(params))


@pytest.mark.slow
@pytest.mark.parametrize("make", SOLVERS)
@pytest.mark.float32
def test_the_precision_of_the_dtype_ends_a_run(make):
    fun = lambda x: 1e6 + jnp.sum(jnp.cosh(x - 1.0))
    params, state = make(fun, tol=1e-12).run(jnp.zeros(3, jnp.float32))
    assert int(state.status) in (Status.STALLED, Status.CONVERGED)
    assert int(state.num_fun_eval) < 50
    np.testing.assert_allclose(params, 1.0, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("make", SOLVERS)
def test_a_wrong_gradient_ends_with_a_status(make):
    wrong = lambda x: (jnp.sum(x**2), -2 * x)
    params, state = make(wrong, value_and_grad=True).run(jnp.ones(3))
    assert int(state.status) == Status.STALLED
    np.testing.assert_array_equal(params, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("make", SOLVERS)
def test_an_earlier_result_hands_on_its_radius(make):
    start = jnp.asarray([-1.2, 1.0, 0.3])
    whole = make(rosenbrock, tol=1e-8).run(start)
    params, state = make(rosenbrock, tol=1e-8).run(make(rosenbrock, tol=1e-8, maxiter=6).run(start))
    assert int(state.iter_num) == int(whole.state.iter_num)
    np.testing.assert_allclose(params, whole.params, rtol=1e-9)


@pytest.mark.slow
def test_the_longest_step():
    fun = lambda x: jnp.sum((x - 100.0) ** 2)
    params, state = jaxsolve.NewtonCG(fun, max_radius=0.5, maxiter=3, tol=0.0).run(jnp.zeros(1))
    np.testing.assert_allclose(params, 1.5)
