"""How many evaluations a search needs, on functions where its rules matter."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve._compat import is_concrete
from jaxsolve.linesearch import BacktrackingLineSearch, HagerZhangLineSearch, ZoomLineSearch
from tests.programs import bodies_of_loops


def test_armijo_computes_no_gradient_at_rejected_points():
    calls = []

    def fun(x):
        calls.append("value" if is_concrete(x) else "gradient")
        return 30.0 * jnp.sum(x**4)

    x, grad = jnp.array([1.0]), jnp.array([120.0])
    for unroll in (False, True):
        search = BacktrackingLineSearch(fun, condition="armijo", maxiter=20, unroll=unroll)
        t, state = jax.jit(lambda t, search=search: search.run(t, x, 30.0, grad))(1.0)
        assert bool(state.done) and int(state.iter_num) == 3
        assert int(state.num_fun_eval) == 3 and int(state.num_grad_eval) == 1
        np.testing.assert_allclose(state.grad, 120.0 * state.params**3, rtol=1e-12)
    calls.clear()
    again = dataclasses.replace(search, unroll="auto", jit=False).run(1.0, x, 30.0, grad)
    assert float(again.stepsize) == float(t)
    assert calls == ["value"] * 3 + ["gradient"]


def test_the_program_of_a_rejected_point_has_no_gradient():
    """The backward pass has a product with the transposed matrix; a trial has only the forward one."""
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(64, 32)))
    search = BacktrackingLineSearch(lambda x: jnp.sum(jnp.tanh(matrix @ x - 1.0) ** 2), condition="armijo")
    program = jax.jit(lambda x: search.run(1.0, x)).lower(jnp.ones(32)).compile().as_text()
    trial, *_ = (body for body in bodies_of_loops(program) if any(" while(" in line for line in body))
    assert sum("f64[64]" in line and " dot(" in line for line in trial) == 1
    assert not any("f64[32]" in line and " dot(" in line for line in trial)


@pytest.mark.parametrize("cls", [ZoomLineSearch, BacktrackingLineSearch, HagerZhangLineSearch])
def test_a_step_that_is_far_too_long_is_found_at_once(cls):
    """Thirty halvings do not reach it, and the first secant of a steep function is no step at all."""
    steep = lambda x, c: jnp.sum(jnp.exp(c * x) - 1000.0 * x)
    for c in (20.0, 100.0, 700.0):
        t, state = cls(steep, maxiter=30).run(1.0, jnp.zeros(1), fun_args=(c,))
        assert bool(state.done), c
        assert int(state.iter_num) <= 10
    for scale in (2.0**20, 2.0**60):
        t, state = cls(lambda x, s: s * jnp.sum(x**2), maxiter=30).run(1.0, jnp.ones(2), fun_args=(scale,))
        assert bool(state.done)
        assert int(state.iter_num) <= np.log10(scale) + 3
