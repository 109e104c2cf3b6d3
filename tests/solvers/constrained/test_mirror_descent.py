"""Mirror descent: geometries, step-size rules, the boundary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import MirrorDescent, Status
from jaxsolve.projection import kl_projection_simplex, projection_simplex

entropic = MirrorDescent.make_projection_grad(kl_projection_simplex, jnp.log)
rng = np.random.default_rng(0)
A = rng.normal(size=(30, 12))
B = A @ np.eye(12)[2] + 0.05 * rng.normal(size=30)
START = jnp.full(12, 1 / 12)


def fun(x, scale):
    return 0.5 * jnp.mean((jnp.asarray(A) @ x - scale * jnp.asarray(B)) ** 2)


def projected(scale=1.0):
    solver = jaxsolve.ProjectedGradient(fun, projection_simplex, tol=1e-10, maxiter=5000)
    return solver.run(START, 1.0, scale).params


@pytest.mark.parametrize(
    "stepsize", [0.0, 1.0, lambda k: 2.0 / (1 + 0.01 * k.astype(float))], ids=["adaptive", "constant", "callable"]
)
def test_step_size_rules(stepsize):
    params, state = MirrorDescent(fun, entropic, stepsize, tol=1e-5, maxiter=20_000).run(START, 1.0, 1.0)
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params, projected(), atol=3e-3)
    np.testing.assert_allclose(jnp.sum(params), 1.0, rtol=1e-12)
    np.testing.assert_allclose(state.value, fun(params, 1.0), rtol=1e-12)


def test_backtracking_finds_steps_of_any_scale():
    for scale in (1e-5, 1e5):
        solver = MirrorDescent(lambda x: scale * fun(x, 1.0), entropic, 0.0, tol=1e-5 * scale, maxiter=5000)
        params, state = solver.run(START)
        assert int(state.status) == Status.CONVERGED
        assert int(state.num_fun_eval) <= 2 * int(state.num_grad_eval) + 40


def test_diminishing_steps_solve_a_problem_that_is_not_smooth():
    target = projected()

    def kinked(x):
        return jnp.sum(jnp.abs(x - target))

    solver = MirrorDescent(kinked, entropic, MirrorDescent.diminishing(0.5), tol=0.0, maxiter=4000)
    np.testing.assert_allclose(solver.run(START).params, target, atol=2e-2)
    with pytest.raises(ValueError, match="power"):
        MirrorDescent.diminishing(1.0, 0.0)


def test_the_euclidean_geometry_is_projected_gradient():
    euclidean = MirrorDescent.make_projection_grad(projection_simplex, lambda x: x)
    params, _ = MirrorDescent(fun, euclidean, 0.0, tol=1e-9, maxiter=5000).run(START, 1.0, 1.0)
    np.testing.assert_allclose(params, projected(), atol=1e-7)


def test_entropy_on_the_nonnegative_orthant_of_a_pytree():
    step = MirrorDescent.make_projection_grad(lambda y: jax.tree.map(jnp.exp, y), lambda x: jax.tree.map(jnp.log, x))
    target = {"a": jnp.asarray([2.0, -1.0]), "b": jnp.asarray(0.5)}
    distance = lambda x: sum(0.5 * jnp.sum((x[k] - target[k]) ** 2) for k in target)
    params, state = MirrorDescent(distance, step, 0.0, tol=1e-7).run(jax.tree.map(jnp.ones_like, target))
    np.testing.assert_allclose(params["a"], [2.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(params["b"], 0.5, atol=1e-6)


def test_the_boundary_is_safe():
    """Entries of exactly 0 stay there, with finite derivatives, in value and in every mode."""
    start = jnp.where(jnp.arange(12) == 5, 0.0, 1.0) / 11
    solver = MirrorDescent(fun, entropic, 0.0, tol=1e-9, maxiter=20_000)
    solution = lambda scale: solver.run(start, 1.0, scale).params
    params = solution(1.0)
    assert float(params[5]) == 0.0 and np.all(np.isfinite(params))
    # The data pull towards one vertex; a shorter target frees more entries.
    slope = (solution(0.5 + 1e-5) - solution(0.5 - 1e-5)) / 2e-5
    for mode in (jax.jacfwd, jax.jacrev):
        jacobian = jax.jit(mode(solution))(0.5)
        assert float(jacobian[5]) == 0.0
        np.testing.assert_allclose(jacobian, slope, atol=1e-3)
    unrolled = MirrorDescent(fun, entropic, 0.5, tol=0.0, maxiter=50, implicit_diff=False)
    assert np.all(np.isfinite(jax.jacrev(lambda s: unrolled.run(start, 1.0, s).params)(0.5)))
    at_vertex = MirrorDescent(lambda x, t: jnp.vdot(x, t * jnp.arange(12.0)), entropic, 1.0, tol=1e-12, maxiter=3000)
    got = jax.jacrev(lambda t: at_vertex.run(START, 1.0, t).params)(1.0)
    np.testing.assert_allclose(got, 0.0, atol=1e-9)


def test_auxiliary_output_and_bad_input():
    with_aux = MirrorDescent(lambda x: (fun(x, 1.0), {"sum": jnp.sum(x)}), entropic, 0.0, has_aux=True)
    np.testing.assert_allclose(with_aux.run(START).state.aux["sum"], 1.0, rtol=1e-9)
    with pytest.raises(TypeError, match="projection_grad"):
        MirrorDescent(fun, None, 1.0)
    with pytest.raises(TypeError, match="stepsize"):
        MirrorDescent(fun, entropic, "long")
    with pytest.raises(ValueError, match="maxls"):
        MirrorDescent(fun, entropic, 1.0, maxls=0)
    with pytest.raises(TypeError, match="mapping_fun"):
        MirrorDescent.make_projection_grad(kl_projection_simplex, None)
