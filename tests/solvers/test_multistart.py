"""Many starts: the best result, its derivative alone, all results, honest choices among failures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import Status


def double_well(x, tilt):
    return jnp.sum((x**2 - 1.0) ** 2 + tilt * x)


STARTS = jnp.array([[2.0], [0.4], [-2.0], [-0.3]])


def test_the_best_of_several_minima_and_its_derivative():
    solver = jaxsolve.LBFGS(double_well, tol=1e-8)
    result = jaxsolve.multistart(solver, STARTS, 0.3)
    assert float(result.params[0]) < 0 and int(result.index) in (2, 3)
    assert result.all.params.shape == (4, 1) and float(result.all.params[0, 0]) > 0
    np.testing.assert_array_equal(result.params, result.all.params[int(result.index)])
    assert int(result.state.status) == Status.CONVERGED
    best = lambda tilt: jaxsolve.multistart(solver, STARTS, tilt).params[0]
    curvature = 12 * result.params[0] ** 2 - 4
    for mode in (jax.grad, jax.jacfwd, lambda f: jax.jit(jax.grad(f))):
        np.testing.assert_allclose(mode(best)(0.3), -1 / curvature, rtol=1e-6)
    value = jax.grad(lambda tilt: jaxsolve.multistart(solver, STARTS, tilt).state.value)(0.3)
    np.testing.assert_allclose(value, result.params[0], rtol=1e-6)  # the envelope theorem
    second = jax.grad(jax.grad(best))(0.3)
    difference = (jax.grad(best)(0.3 + 1e-4) - jax.grad(best)(0.3 - 1e-4)) / 2e-4
    np.testing.assert_allclose(second, difference, rtol=1e-5)
    everything = jax.jit(jax.vmap(lambda tilt: jaxsolve.multistart(solver, STARTS, tilt).params[0]))
    np.testing.assert_array_equal(np.sign(everything(jnp.array([0.3, -0.3]))), [-1.0, 1.0])


def test_one_linear_solve_for_the_derivative():
    """Not one a start: the Jacobian products in the gradient of eight starts are those of two."""
    solver = jaxsolve.LBFGS(double_well, tol=1e-8, maxiter=20)
    best = lambda tilt, starts: jaxsolve.multistart(solver, starts, tilt).params[0]
    texts = [str(jax.make_jaxpr(jax.grad(best))(0.3, jnp.ones((n, 1)))) for n in (2, 8)]
    counts = [text.count("triangular_solve") + text.count("cholesky") + text.count("lu[") for text in texts]
    assert counts[0] == counts[1] > 0


def test_runs_that_did_not_converge_count_only_where_none_did():
    """From the first start the values fall without end, but that run does not converge."""
    fun = lambda x: jnp.sum(jnp.where(x > 0, -x, x**2 + 2 * x))
    result = jaxsolve.multistart(jaxsolve.GradientDescent(fun, maxiter=30, tol=1e-4), jnp.array([[1.0], [-0.5]]))
    assert int(result.index) == 1
    np.testing.assert_allclose(result.params, -1.0, atol=1e-3)
    nan = jaxsolve.multistart(jaxsolve.LBFGS(lambda x: jnp.log(x).sum()), jnp.array([[-1.0], [-2.0]]))
    assert int(nan.state.status) == Status.NONFINITE
    some = jaxsolve.multistart(
        jaxsolve.LBFGS(lambda x: jnp.sum(x * jnp.log(x)), maxiter=1, tol=0.0), jnp.array([[-1.0], [2.0], [jnp.nan]])
    )
    assert int(some.index) == 1


def test_other_solvers():
    roots = jaxsolve.multistart(
        jaxsolve.Newton(lambda x: x**2 + 0.5 - jnp.exp(x / 4)), jnp.array([[0.0], [1.0], [3.0]])
    )
    assert int(roots.state.status) == Status.CONVERGED
    projected = jaxsolve.ProjectedGradient(double_well, jaxsolve.projection.projection_box, tol=1e-6)
    boxed = jaxsolve.multistart(projected, STARTS, (0.0, 3.0), 0.3)
    assert float(boxed.params[0]) > 0
    on_host = jaxsolve.ScipyMinimize(lambda x, tilt: float(double_well(np.array(x), tilt)), jit=False)
    assert float(jaxsolve.multistart(on_host, STARTS, 0.3).params[0]) < 0
    tree = jaxsolve.LBFGS(lambda p: double_well(p["x"], 0.3) + p["y"] ** 2)
    best = jaxsolve.multistart(tree, {"x": STARTS, "y": jnp.arange(4.0)})
    np.testing.assert_allclose(best.params["y"], 0, atol=1e-3)
    unrolled = jaxsolve.GradientDescent(double_well, implicit_diff=False, maxiter=60)
    slope = jax.grad(lambda tilt: jaxsolve.multistart(unrolled, STARTS, tilt).params[0])(0.3)
    exact = -1 / (12 * jaxsolve.multistart(unrolled, STARTS, 0.3).params[0] ** 2 - 4)
    np.testing.assert_allclose(slope, exact, rtol=1e-2)


def test_bad_input_is_refused():
    with pytest.raises(TypeError, match="solver must be a solver"):
        jaxsolve.multistart(double_well, STARTS)
    with pytest.raises(ValueError, match="one leading axis"):
        jaxsolve.multistart(jaxsolve.LBFGS(double_well), {"x": jnp.ones((2, 1)), "y": jnp.ones(3)})
