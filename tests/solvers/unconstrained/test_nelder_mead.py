"""The simplex method: evaluations of SciPy's, functions without gradients, functions of the host, ends of runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxsolve
from jaxsolve import Status


def rosenbrock(x):
    return jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


@pytest.mark.parametrize("adaptive", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_iterates_are_those_of_scipy(size, adaptive):
    start = np.where(np.arange(size) % 2 == 0, -1.2, 1.0)
    fun = jax.jit(rosenbrock)
    theirs = scipy.optimize.minimize(
        lambda x: float(fun(x)), start, method="Nelder-Mead",
        options={"adaptive": adaptive, "xatol": 1e-6, "fatol": 1e-6, "maxiter": 2000, "maxfev": 9999},
    )  # fmt: skip
    params, state = jaxsolve.NelderMead(rosenbrock, adaptive=adaptive, tol=1e-6, xtol=1e-6).run(jnp.asarray(start))
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params, 1.0, atol=1e-5)
    assert int(state.num_fun_eval) <= 1.05 * theirs.nfev


@pytest.mark.slow
def test_functions_without_a_gradient():
    steps = lambda x: jnp.sum(jnp.floor(10 * jnp.abs(x - 0.55)) + jnp.abs(x - 0.55))
    params, state = jaxsolve.NelderMead(steps).run(jnp.asarray([1.0, 2.0]))
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params, 0.55, atol=1e-3)


def test_infinite_and_undefined_values_are_left():
    barrier = lambda x: jnp.sum(x - jnp.log(x))
    params, state = jaxsolve.NelderMead(barrier, tol=1e-10).run(jnp.asarray([0.01, 3.0]))
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params, 1.0, atol=1e-4)
    # The initial point may lie outside of the domain, if a corner of the simplex does not.
    shifted = lambda x: jnp.sum(jnp.where(x > 1.0, x - jnp.log(x - 1.0), jnp.nan))
    params, state = jaxsolve.NelderMead(shifted, tol=1e-10).run(jnp.asarray([0.99]))
    np.testing.assert_allclose(params, 2.0, atol=1e-4)


@pytest.mark.slow
def test_a_value_that_falls_without_end():
    params, state = jaxsolve.NelderMead(lambda x: -jnp.sum(jnp.exp(x))).run(jnp.ones(2))
    assert int(state.status) == Status.DIVERGED
    assert np.all(np.isfinite(params))


@pytest.mark.slow
def test_functions_of_the_host():
    def on_host(x, t):
        return np.sum((np.asarray(x) - t) ** 2), np.asarray(x).sum()

    params, state = jaxsolve.NelderMead(on_host, has_aux=True, jit=False, tol=1e-8, maxiter=200).run(jnp.ones(2), 1.5)
    np.testing.assert_allclose(params, 1.5, atol=1e-4)
    np.testing.assert_allclose(state.aux, params.sum())

    def called_back(x, t):
        return jax.pure_callback(
            lambda x, t: on_host(x, t)[0], jax.ShapeDtypeStruct((), x.dtype), x, t, vmap_method="sequential"
        )

    solver = jaxsolve.NelderMead(called_back, tol=1e-8, implicit_diff=False, unroll=False)
    batch = jax.jit(jax.vmap(lambda t: solver.run(jnp.ones(2), t).params))(jnp.asarray([1.5, 4.0]))
    np.testing.assert_allclose(batch, [[1.5, 1.5], [4.0, 4.0]], atol=1e-4)


@pytest.mark.slow
def test_auxiliary_output_is_that_of_the_solution():
    fun = lambda x, t: (jnp.sum((x - t) ** 2), {"x": x})
    for jit in (True, False):
        params, state = jaxsolve.NelderMead(fun, has_aux=True, jit=jit, maxiter=25).run(jnp.ones(2), 3.0)
        np.testing.assert_allclose(state.aux["x"], params)
        np.testing.assert_allclose(state.value, fun(params, 3.0)[0], rtol=1e-6)


@pytest.mark.slow
def test_an_earlier_result_hands_on_its_simplex():
    start = jnp.asarray([-1.2, 1.0])
    whole = jaxsolve.NelderMead(rosenbrock).run(start)
    params, state = jaxsolve.NelderMead(rosenbrock).run(jaxsolve.NelderMead(rosenbrock, maxiter=20).run(start))
    assert int(state.iter_num) == int(whole.state.iter_num)
    np.testing.assert_array_equal(params, whole.params)


@pytest.mark.parametrize("dtype", [np.float64, pytest.param(np.float32, marks=pytest.mark.float32)])
def test_units_change_nothing(dtype):
    exponents = np.array([(0, 0), (-40, 0), (13, 0), (0, -40), (0, 7), (20, 40)])
    c, u = jnp.asarray(np.exp2(exponents).astype(dtype)).T
    solver = jaxsolve.NelderMead(lambda x, c, u: c * rosenbrock(x / u), tol=0.0, xtol=0.0, rtol=1e-4)
    start = jnp.asarray([-1.2, 1.0, 0.0], dtype)
    params, state = jax.jit(jax.vmap(lambda c, u: solver.run(start * u, c, u)))(c, u)
    params = np.asarray(params / u[:, None])
    np.testing.assert_array_equal(params, np.broadcast_to(params[0], params.shape))
    np.testing.assert_array_equal(state.num_fun_eval, state.num_fun_eval[0])
    np.testing.assert_array_equal(state.status, Status.CONVERGED)


@pytest.mark.slow
@pytest.mark.float32
def test_the_precision_of_the_dtype_ends_a_run():
    params, state = jaxsolve.NelderMead(rosenbrock, tol=0.0, xtol=0.0).run(jnp.asarray([-1.2, 1.0], jnp.float32))
    assert int(state.status) in (Status.STALLED, Status.CONVERGED)
    assert int(state.iter_num) < 500
    np.testing.assert_allclose(params, 1.0, atol=1e-3)
