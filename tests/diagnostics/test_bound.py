"""The bound on the error of an implicit Jacobian."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve.diagnostics import implicit_error_bound
from jaxsolve.projection import projection_non_negative


# Distance to the solution, error of the implicit Jacobian and bound after k steps of gradient descent: measured with
# other libraries, and printed with two to three digits.
@pytest.mark.parametrize("k, distance, error, bound", [(10, 82.0, 358.0, 759.0), (200, 0.41, 2.30, 3.76)])
def test_ridge_regression_on_the_diabetes_data(k, distance, error, bound):
    from sklearn.datasets import load_diabetes

    X, y = load_diabetes(return_X_y=True)
    theta = np.full(10, 0.1)

    def fun(x, theta):
        return 0.5 * jnp.sum((jnp.asarray(X) @ x - jnp.asarray(y)) ** 2) + 0.5 * jnp.sum(theta * x**2)

    hessian = X.T @ X + np.diag(theta)
    step = 1 / np.linalg.norm(hessian, 2)
    solver = jaxsolve.GradientDescent(fun, stepsize=float(step), acceleration=False, maxiter=k, tol=0.0)
    result = solver.run(jnp.zeros(10), theta)
    with pytest.warns(RuntimeWarning, match="GradientDescent ended with MAXITER.*raise maxiter"):
        found = implicit_error_bound(solver, result, theta)
    exact = np.linalg.solve(hessian, X.T @ y)
    true_error = np.linalg.norm(np.linalg.solve(hessian, np.diag(result.params - exact)), 2)
    np.testing.assert_allclose(true_error, error, rtol=2e-2)
    np.testing.assert_allclose(np.linalg.norm(result.params - exact), distance, rtol=2e-2)
    # The Lipschitz constant of diag(x) is 1; along the way to the solution it is smaller.
    given = implicit_error_bound(solver, result.params, theta, lipschitz_of_B=1.0, lipschitz_of_A=0.0)
    assert true_error <= found.bound <= given.bound
    assert bound <= 1.01 * given.bound
    np.testing.assert_allclose(found.alpha, np.linalg.eigvalsh(hessian)[0])
    np.testing.assert_allclose(found.condition, 38.0, rtol=2e-2)
    assert found.gamma < 1e-12


def test_a_function_with_curvature_that_changes():
    """cosh(x) - t x has the solution arcsinh(t), with derivative 1 / cosh(x)."""
    solver = jaxsolve.LBFGS(lambda x, t: jnp.cosh(x) - t * x)
    x, t = jnp.asarray(0.95), float(np.sinh(1.0))
    found = implicit_error_bound(solver, x, t)
    assert abs(1 / np.cosh(0.95) - 1 / np.cosh(1.0)) <= found.bound < 0.1
    np.testing.assert_allclose([found.beta, found.data_norm, found.jacobian_norm], [0.0, 1.0, 1 / np.cosh(0.95)])
    np.testing.assert_allclose(found.gamma, np.sinh(0.975), rtol=1e-2)


def test_where_there_is_no_bound():
    def fun(x, t):
        return jnp.sum(jnp.asarray([1.0, 4.0]) * (x - t) ** 2)

    solver = jaxsolve.ProjectedGradient(fun, projection_non_negative)
    found = implicit_error_bound(solver, jnp.ones(2), None, 1.0)
    assert np.isnan(found.bound)
    np.testing.assert_allclose(found.condition, 4.0)
    flat = jaxsolve.GradientDescent(lambda x, t: jnp.sum(x[:1] * t))
    with pytest.warns(RuntimeWarning, match="regularize the problem"):
        assert np.isnan(implicit_error_bound(flat, jnp.ones(2), 1.0).bound)
    with pytest.raises(ValueError, match="dense matrices"):
        implicit_error_bound(jaxsolve.GradientDescent(fun), jnp.ones(5000), 1.0)
    with pytest.raises(ValueError, match="nothing to differentiate"):
        implicit_error_bound(jaxsolve.GradientDescent(lambda x: jnp.sum(x**2)), jnp.ones(2))
