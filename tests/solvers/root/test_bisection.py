"""Bisection: brackets, arrays, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxsolve
from jaxsolve import Status


def test_against_scipy():
    fun = lambda x: jnp.exp(x) - 3.0 * x**2
    root = jaxsolve.Bisection(fun, -1.0, 0.0, tol=1e-12, maxiter=100).run().params
    np.testing.assert_allclose(
        root, scipy.optimize.brentq(lambda x: np.exp(x) - 3 * x**2, -1, 0, xtol=1e-14), atol=1e-12
    )


def test_brackets_without_a_sign_change():
    positive = lambda x: x**2 + 1.0
    with pytest.raises(ValueError, match="same sign"):
        jaxsolve.Bisection(positive, 0.0, 1.0).run()
    state = jaxsolve.Bisection(positive, 0.0, 1.0, check_bracket=False).run().state
    assert int(state.status) == Status.INVALID_BRACKET
    # Under jit, with the default options, nothing is raised.
    state = jax.jit(lambda: jaxsolve.Bisection(positive, 0.0, 1.0).run().state)()
    assert int(state.status) == Status.INVALID_BRACKET
    nan = jaxsolve.Bisection(lambda x: x * jnp.nan, 0.0, 1.0).run().state
    assert int(nan.status) == Status.NONFINITE


def test_roots_at_the_ends_and_decreasing_functions():
    for lower, upper in ((0.0, 1.0), (-1.0, 0.0), (-2.0, 1.0)):
        for sign in (1.0, -1.0):
            solver = jaxsolve.Bisection(lambda x, s: s * x, lower, upper, tol=1e-9, maxiter=60)
            assert abs(float(solver.run(None, sign).params)) <= 1e-9


def test_end_of_precision():
    solver = jaxsolve.Bisection(lambda x: 1e9 * (x - 1 / 3), 0.0, 1.0, tol=0.0, maxiter=500)
    root, state = solver.run(jnp.zeros((), jnp.float32))
    assert root.dtype == jnp.float32
    assert int(state.status) in (Status.STALLED, Status.CONVERGED)
    assert int(state.iter_num) < 60
    np.testing.assert_allclose(root, 1 / 3, rtol=1e-6)


def test_auxiliary_output_and_derivatives_of_arrays():
    fun = lambda x, t: (x**3 - t, {"square": x**2})
    solver = jaxsolve.Bisection(fun, jnp.zeros(2), 5.0, has_aux=True, tol=1e-10, maxiter=60)
    t = jnp.asarray([1.0, 8.0])
    np.testing.assert_allclose(solver.run(None, t).params, [1.0, 2.0], atol=1e-8)
    square = lambda t: solver.run(None, t).state.aux["square"]
    np.testing.assert_allclose(jnp.diag(jax.jacrev(square)(t)), 2 / 3 * t ** (-1 / 3), rtol=1e-6)


def test_an_initial_point_of_whole_numbers_is_not_the_result():
    solver = jaxsolve.Bisection(lambda x, theta: x**3 - theta, lower=0.0, upper=3.0)
    for init in (0, jnp.asarray(0)):
        params, _ = solver.run(init, 8.0)
        np.testing.assert_allclose(params, 2.0, atol=1e-4)
        np.testing.assert_array_equal(solver.update(init, solver.init_state(init, 8.0), 8.0).params, 1.5)
