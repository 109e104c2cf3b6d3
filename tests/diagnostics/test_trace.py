"""Histories of runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve.diagnostics import trace


def fun(x, theta):
    return jnp.sum((x - theta) ** 2 * jnp.asarray([1.0, 10.0]))


def test_a_trace_has_the_values_of_every_iterate_from_the_first():
    solver = jaxsolve.GradientDescent(fun, stepsize=0.04, acceleration=False, maxiter=5, tol=0.0)
    history = trace(solver, jnp.zeros(2), 1.0)
    assert history.keys() == ("iter_num", "value", "error", "stepsize", "time")
    # Gradient descent on a separable quadratic is a geometric sequence.
    gaps = np.stack([(1 - 0.08) ** np.arange(6), (1 - 0.8) ** np.arange(6)], axis=1)
    np.testing.assert_allclose(history["value"], gaps**2 @ [1.0, 10.0], rtol=1e-12)
    np.testing.assert_allclose(history["error"], np.linalg.norm(gaps * [2.0, 20.0], axis=1), rtol=1e-12)
    assert np.all(np.diff(history["time"]) > 0)
    assert solver.callback is None


def test_a_trace_under_vmap_and_jit_is_that_of_every_element():
    solver = jaxsolve.GradientDescent(fun, maxiter=4, tol=0.0)
    inits = jnp.asarray([[0.0, 0.0], [2.0, 3.0]])
    history = jax.jit(jax.vmap(lambda init: trace(solver, init, 1.0)))(inits)
    for element, init in enumerate(inits):
        np.testing.assert_allclose(history["value"][:, element], trace(solver, init, 1.0)["value"], rtol=1e-12)


def test_a_state_with_fewer_fields_and_a_quadratic_program():
    solver = jaxsolve.FixedPointIteration(lambda x: 0.5 * x + 1.0, maxiter=4, tol=0.0)
    history = trace(solver, jnp.zeros(2))
    assert history.keys() == ("iter_num", "error", "time")
    np.testing.assert_allclose(history["error"], np.sqrt(2) * 0.5 ** np.arange(5), rtol=1e-12)
    history = trace(jaxsolve.BoxCDQP(), None, (jnp.eye(2), -jnp.ones(2)), (jnp.zeros(2), jnp.full(2, 0.5)))
    assert np.all(np.isfinite(history["error"])) and history["iter_num"][0] == 0


def test_a_solver_without_iterations_is_refused():
    with pytest.raises(TypeError, match="EqualityConstrainedQP has none"):
        trace(jaxsolve.EqualityConstrainedQP())
