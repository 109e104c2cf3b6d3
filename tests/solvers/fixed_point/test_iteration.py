"""Fixed-point iteration: evaluations, auxiliary output, maps that do not contract."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import Status
from jaxsolve.linear_solve import solve_neumann


def test_evaluations_and_auxiliary_output():
    solver = jaxsolve.FixedPointIteration(lambda x, t: (0.5 * x + t, {"twice": 2 * x}), has_aux=True, tol=1e-9)
    params, state = solver.run(jnp.zeros(2), 1.0)
    np.testing.assert_allclose(params, 2.0, atol=1e-8)
    assert int(state.num_fun_eval) == int(state.iter_num) < 40
    np.testing.assert_allclose(state.aux["twice"], 2 * params)
    np.testing.assert_allclose(jax.grad(lambda t: solver.run(jnp.zeros(2), t).state.aux["twice"].sum())(1.0), 8.0)


def test_maps_that_do_not_contract():
    state = jaxsolve.FixedPointIteration(lambda x: 2.0 * x + 1.0, maxiter=20).run(1.0).state
    assert int(state.status) == Status.MAXITER
    params, state = jaxsolve.FixedPointIteration(lambda x: x**2, maxiter=100).run(3.0)
    assert int(state.status) == Status.NONFINITE
    assert np.isfinite(params)


def test_truncated_neumann_derivatives_approach_the_implicit_one():
    mapping = lambda x, t: 0.5 * jnp.cos(x) + t
    errors = []
    for terms in (1, 4, 30):
        solve = lambda matvec, b, terms=terms: solve_neumann(matvec, b, num_terms=terms)
        solver = jaxsolve.FixedPointIteration(mapping, tol=1e-12, implicit_diff_solve=solve)
        exact = jaxsolve.FixedPointIteration(mapping, tol=1e-12)
        got, want = (jax.grad(lambda t, s=s: s.run(0.0, t).params)(0.3) for s in (solver, exact))
        errors.append(abs(float(got - want)))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-9


def test_other_structures_are_refused():
    with pytest.raises(ValueError, match="fixed_point_fun must return the structure"):
        jaxsolve.FixedPointIteration(lambda x: {"a": x}).run(1.0)
