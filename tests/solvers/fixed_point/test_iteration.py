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


def test_a_carry_that_begins_infinite():
    """A cost that the mapping computes first; JAXopt's users begin with infinity."""
    mapping = lambda carry: (0.5 * carry[0] + 1.0, jnp.sum(carry[0] ** 2))
    for unknown in (jnp.inf, jnp.nan):
        (x, cost), state = jaxsolve.FixedPointIteration(mapping, tol=1e-9).run((jnp.zeros(2), unknown))
        assert int(state.status) == Status.CONVERGED
        np.testing.assert_allclose(x, 2.0, atol=1e-8)
        np.testing.assert_allclose(cost, 8.0, atol=1e-7)
    kept = lambda carry: (0.5 * carry[0], carry[1])
    state = jaxsolve.FixedPointIteration(kept, maxiter=30).run((jnp.ones(2), jnp.inf)).state
    assert int(state.status) == Status.MAXITER


def test_a_nan_that_appears_ends_the_run():
    params, state = jaxsolve.FixedPointIteration(lambda x: jnp.sqrt(x - 1.0)).run(3.0)
    assert int(state.status) == Status.NONFINITE
    np.testing.assert_allclose(params, np.sqrt(np.sqrt(2.0) - 1.0))


def test_complex_parameters():
    """Of z = a z + b in closed form; with a conjugate, and real leaves beside it, by real and imaginary parts."""
    solver = jaxsolve.FixedPointIteration(lambda z, a, b: a * z + b, tol=1e-12, maxiter=200)
    a, b = 0.3 + 0.4j, 1.0 - 1.0j
    solution = lambda a: solver.run(jnp.asarray(0j), a, b).params
    closed = lambda a: b / (1 - a)
    np.testing.assert_allclose(solution(a), closed(a), rtol=1e-10)
    np.testing.assert_allclose(jax.jvp(solution, (a,), (1j,))[1], 1j * b / (1 - a) ** 2, rtol=1e-9)
    np.testing.assert_allclose(
        jax.grad(lambda a: solution(a).imag)(a), jax.grad(lambda a: closed(a).imag)(a), rtol=1e-9
    )
    mapping = lambda p, a: {"z": a * jnp.conj(p["z"]) + 1.0, "r": 0.5 * p["r"] + p["z"].real}
    mixed = jaxsolve.FixedPointIteration(mapping, tol=1e-12, maxiter=200)
    found = lambda t: mixed.run({"z": jnp.asarray(0j), "r": jnp.asarray(0.0)}, jax.lax.complex(t, 0.4)).params
    z = lambda t: (1 + jax.lax.complex(t, 0.4)) / (1 - t**2 - 0.16)
    np.testing.assert_allclose(found(0.3)["z"], z(0.3), rtol=1e-10)
    for mode in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(
            mode(lambda t: found(t)["r"])(0.3), jax.grad(lambda t: 2 * z(t).real)(0.3), rtol=1e-8
        )
    with pytest.raises(TypeError, match="must return real numbers"):
        jaxsolve.FixedPointIteration(lambda x: jax.lax.complex(x, x)).run(jnp.asarray(1.0))


@pytest.mark.parametrize("options", [{}, {"implicit_diff": False}, {"jit": False}, {"callback": lambda *_: None}])
def test_a_wrong_claim_is_found_out(options):
    def mapping(x, there):
        """Nearly keeps 1, but not what it makes of 1; 2 is the fixed point."""
        near = 1 + 1e-5
        return jnp.where(x == 1, near, jnp.where(x == near, there, 0.5 * x + 1))

    solver = jaxsolve.FixedPointIteration(mapping, tol=1e-4, **options)
    run = jax.vmap(solver.run) if solver.jit and "callback" not in options else None
    starts, targets = jnp.asarray([1.0, 1.0, 5.0]), jnp.asarray([3.0, jnp.nan, 3.0])
    if run is None:
        steps = [solver.run(start, there) for start, there in zip(starts, targets, strict=True)]
        params, state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(tuple, steps))
    else:
        params, state = run(starts, targets)
    assert state.status.tolist() == [Status.CONVERGED, Status.NONFINITE, Status.CONVERGED]
    np.testing.assert_allclose(params, [2.0, 1.0, 2.0], atol=2e-4)
    # 1 -> 1 -> 3, and then half the distance to 2 with every step; the error is that of the result.
    assert state.iter_num.tolist() == [16, 1, 15]
    assert np.all(state.error[jnp.asarray([0, 2])] <= 1e-4)
    short = jaxsolve.FixedPointIteration(mapping, tol=1e-4, maxiter=1, **options).run(1.0, 3.0).state
    assert short.status == Status.MAXITER
