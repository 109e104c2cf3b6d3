"""run: what is not in the contract of every single solver."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import Status
from jaxsolve.linear_solve import solve_cg, solve_lu

D = np.array([1.0, 4.0, 9.0])


def quadratic(x, theta):
    return 0.5 * jnp.sum(D * (x - theta) ** 2)


def host_quadratic(x, theta):
    """NumPy only: fails on tracers."""
    x = np.asarray(x)
    return 0.5 * float(np.sum(D * (x - theta) ** 2)), D * (x - theta)


def test_host_functions_without_jit():
    solver = jaxsolve.GradientDescent(host_quadratic, value_and_grad=True, jit=False, tol=1e-8)
    params, state = solver.run(jnp.zeros(3), 2.0)
    np.testing.assert_allclose(params, 2.0, atol=1e-7)
    assert int(state.status) == Status.CONVERGED
    fixed_point = jaxsolve.FixedPointIteration(lambda x: np.cos(np.asarray(x)), jit=False, tol=1e-8)
    np.testing.assert_allclose(fixed_point.run(1.0).params, 0.7390851332, atol=1e-7)
    root = jaxsolve.Bisection(lambda x: np.asarray(x) ** 3 - 8.0, lower=0.0, upper=4.0, jit=False, tol=1e-8, maxiter=60)
    np.testing.assert_allclose(root.run().params, 2.0, atol=1e-8)


@pytest.mark.slow
def test_without_jit_traceable_functions_differentiate_implicitly():
    solver = jaxsolve.GradientDescent(quadratic, jit=False, tol=1e-10)
    solution = lambda theta: solver.run(jnp.zeros(3), theta).params
    np.testing.assert_allclose(jax.jacfwd(solution)(2.0), 1.0, atol=1e-8)
    np.testing.assert_allclose(jax.jacrev(solution)(2.0), 1.0, atol=1e-8)


def test_implicit_diff_solve_is_used_by_every_kind_of_solver():
    for make in (
        lambda **o: jaxsolve.GradientDescent(quadratic, **o),
        lambda **o: jaxsolve.ProjectedGradient(quadratic, lambda x, h: jnp.maximum(x, h), **o),
        lambda **o: jaxsolve.ProximalGradient(quadratic, lambda x, h, s: x, **o),
        lambda **o: jaxsolve.LBFGS(quadratic, **o),
    ):
        calls = []

        def spy(matvec, b, calls=calls):
            calls.append(1)
            return solve_lu(matvec, b)

        solver = make(implicit_diff_solve=spy, tol=1e-9)
        args = () if isinstance(solver, (jaxsolve.GradientDescent, jaxsolve.LBFGS)) else (-5.0,)
        np.testing.assert_allclose(jax.jacrev(lambda t: solver.run(jnp.zeros(3), *args, t).params)(1.0), 1.0, atol=1e-7)
        assert calls


def test_a_wrong_solve_gives_a_wrong_gradient():
    """The check above can fail: the result is that of the solve."""
    solver = jaxsolve.GradientDescent(quadratic, implicit_diff_solve=lambda matvec, b: jax.tree.map(jnp.zeros_like, b))
    assert not np.any(jax.jacrev(lambda t: solver.run(jnp.zeros(3), t).params)(1.0))


@pytest.mark.float32
def test_accuracy_of_the_implicit_jacobian_at_condition_1e4():
    """n = 20, float32, condition 1e4: relative error at most 1e-4 (0.19 elsewhere)."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    H = basis @ np.diag(np.logspace(-4, 0, 20)) @ basis.T
    target = rng.normal(size=(20, 20))
    H32, target32 = jnp.asarray(H, jnp.float32), jnp.asarray(target, jnp.float32)

    def fun(x, theta):
        return 0.5 * x @ (H32 @ x) - x @ (target32 @ theta)

    solver = jaxsolve.LBFGS(fun, tol=1e-5, maxiter=2000)
    theta = jnp.ones(20, jnp.float32)
    exact = np.linalg.solve(np.asarray(H32, np.float64), np.asarray(target32, np.float64))
    for mode in (jax.jacrev, jax.jacfwd):
        got = jax.jit(mode(lambda t: solver.run(jnp.zeros(20, jnp.float32), t).params))(theta)
        assert np.linalg.norm(np.asarray(got) - exact) <= 1e-4 * np.linalg.norm(exact)


def test_degenerate_points_have_finite_derivatives():
    # An active bound with zero multiplier: the generalized Jacobian of the projection decides.
    solver = jaxsolve.ProjectedGradient(quadratic, lambda x, h: jnp.maximum(x, h), tol=1e-10)
    got = jax.jacrev(lambda t: solver.run(jnp.ones(3), 0.0, t).params)(jnp.zeros(3))
    assert np.all(np.isfinite(got))
    # A singular Hessian: the shortest tangent.
    flat = jaxsolve.LBFGS(lambda x, t: 0.5 * (jnp.sum(x) - t) ** 2, tol=1e-12)
    for mode in (jax.jacrev, jax.jacfwd):
        np.testing.assert_allclose(mode(lambda t: flat.run(jnp.zeros(2), t).params)(1.0), [0.5, 0.5], atol=1e-9)


def test_cotangents_of_any_size():
    solver = jaxsolve.GradientDescent(quadratic, tol=1e-10)
    for scale in (1e-25, 1e25):
        got = jax.grad(lambda t, scale=scale: scale * solver.run(jnp.zeros(3), t).params.sum())(1.0)
        np.testing.assert_allclose(got, 3 * scale, rtol=1e-6)


def test_array_valued_fields_are_differentiated_and_batched():
    """A bound given as a field is data like any other."""
    roots = jaxsolve.Bisection(
        lambda x, t: x - t, lower=jnp.asarray(-1.0), upper=jnp.asarray(5.0), tol=1e-9, maxiter=60
    )
    assert float(jax.grad(lambda t: roots.run(None, t).params)(2.0)) == pytest.approx(1.0)

    def run(tol):
        return jaxsolve.GradientDescent(quadratic, tol=tol).run(jnp.zeros(3), 1.0).state.iter_num

    few, many = jax.vmap(run)(jnp.asarray([1.0, 1e-8]))
    assert int(few) < int(many)


def test_solvers_can_be_copied_and_changed():
    solver = jaxsolve.GradientDescent(quadratic, maxiter=1, tol=0.0)
    other = copy.copy(solver)
    other.maxiter = 2
    assert int(solver.run(jnp.zeros(3), 1.0).state.iter_num) == 1
    assert int(other.run(jnp.zeros(3), 1.0).state.iter_num) == 2
    assert pickle.loads(pickle.dumps(solver)).maxiter == 1


def test_sharded_inputs():
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("i"))
    init = jax.device_put(jnp.zeros(3), sharding)
    params, _ = jaxsolve.LBFGS(quadratic, tol=1e-8).run(init, 1.0)
    np.testing.assert_allclose(params, 1.0, atol=1e-6)


def test_too_long_a_step_ends_with_a_status():
    for solver in (
        jaxsolve.GradientDescent(quadratic, stepsize=1.0, maxiter=100_000),
        jaxsolve.GradientDescent(quadratic, stepsize=1.0, acceleration=False, maxiter=100_000),
        jaxsolve.LBFGS(lambda x, t: jnp.sum(jnp.cosh(x - t)), stepsize=50.0),
    ):
        params, state = solver.run(jnp.zeros(3), 1.0)
        assert int(state.status) not in (Status.CONVERGED, Status.RUNNING)
        assert np.all(np.abs(params) < 1e8), "a diverging iterate is not an answer"


def test_flax_style_module_functions_and_bound_methods():
    class Model:
        def __init__(self, scale):
            self.scale = scale

        def loss(self, x, theta):
            return self.scale * quadratic(x, theta)

    solution = lambda s: jaxsolve.GradientDescent(Model(s).loss, tol=1e-8).run(jnp.zeros(3), 1.0).state.value
    assert float(jax.grad(solution)(2.0)) == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(jaxsolve.GradientDescent(Model(2.0).loss, tol=1e-8).run(jnp.zeros(3), 1.0).params, 1.0)


def test_cg_in_place_of_the_dense_solve():
    solver = jaxsolve.LBFGS(quadratic, implicit_diff_solve=solve_cg, tol=1e-10)
    np.testing.assert_allclose(jax.hessian(lambda t: solver.run(jnp.zeros(3), t).params.sum())(2.0), 0.0, atol=1e-7)


@pytest.mark.parametrize("image", [lambda x: x[:2], lambda x: x[:1], jnp.sum, lambda x: {"x": x}])
def test_maps_that_change_the_shape_of_the_parameters_are_refused(image):
    """A shape that broadcasts would go unnoticed, and end in a point that is no solution."""
    fun, init = (lambda x: jnp.sum((x - 1.0) ** 2)), jnp.zeros(3)
    solvers = {
        "prox": jaxsolve.ProximalGradient(fun, lambda x, hyper, scaling: image(x)),
        "projection": jaxsolve.ProjectedGradient(fun, image),
        "projection_grad": jaxsolve.MirrorDescent(fun, lambda x, grad, stepsize, hyper: image(x), stepsize=1.0),
        "fixed_point_fun": jaxsolve.FixedPointIteration(image),
    }
    for name, solver in solvers.items():
        with pytest.raises(ValueError, match=rf"^{name} must return .*expected .*\(3,\).*, got"):
            solver.run(init)


@pytest.mark.parametrize("jit", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_scheduled_step_sizes(jit):
    def schedule(k):
        return 0.1 / (1 + 0.01 * k.astype(jnp.result_type(float)))

    theta, same = jnp.asarray([1.0, 2.0, 3.0]), lambda x, *rest: x
    solvers = (
        (jaxsolve.GradientDescent(quadratic, stepsize=schedule, jit=jit), ()),
        (jaxsolve.GradientDescent(quadratic, stepsize=schedule, acceleration=False, jit=jit), ()),
        (jaxsolve.ProximalGradient(quadratic, same, stepsize=schedule, acceleration=False, jit=jit), (None,)),
        (jaxsolve.ProjectedGradient(quadratic, same, stepsize=schedule, jit=jit), (None,)),
        (jaxsolve.LBFGS(quadratic, stepsize=schedule, jit=jit), ()),
    )
    for solver, before in solvers if jit else solvers[1::3]:  # two are enough where each operation compiles alone
        params, state = solver.run(jnp.zeros(3), *before, theta)
        assert int(state.status) == Status.CONVERGED, solver
        np.testing.assert_allclose(params, theta, atol=1e-2)
        np.testing.assert_allclose(float(state.stepsize), float(schedule(state.iter_num)), rtol=0.02)
        jacobian = jax.jacobian(lambda t, s=solver, b=before: s.run(jnp.zeros(3), *b, t).params)(theta)
        np.testing.assert_allclose(jacobian, np.eye(3), atol=1e-6)


def test_a_schedule_may_capture_traced_values_and_is_differentiated_by_unrolling():
    def after_two_steps(scale, implicit_diff):
        solver = jaxsolve.GradientDescent(
            quadratic,
            stepsize=lambda k: scale / (1 + k.astype(jnp.result_type(scale))),
            acceleration=False,
            maxiter=2,
            implicit_diff=implicit_diff,
        )
        return solver.run(jnp.zeros(3), 1.0).params[1]

    # The second entry has the curvature 4: x = 1 - (1 - 4 s)(1 - 2 s).
    slope = jax.jit(jax.grad(after_two_steps), static_argnums=1)
    np.testing.assert_allclose(slope(0.1, False), 6 - 1.6, rtol=1e-6)
    assert float(slope(0.1, True)) == 0.0
    with pytest.raises(ValueError, match="stepsize must be a scalar"):
        jaxsolve.LBFGS(quadratic, stepsize=lambda k: jnp.ones(2)).run(jnp.zeros(3), 1.0)


@pytest.mark.parametrize("zero", [np.float32(0.0), np.zeros(()), jnp.zeros(()), -1])
def test_a_step_size_known_to_be_zero_means_a_search(zero):
    for solver in (jaxsolve.GradientDescent(quadratic, stepsize=zero), jaxsolve.LBFGS(quadratic, stepsize=zero)):
        params, state = solver.run(jnp.zeros(3), 1.0)
        assert int(state.status) == Status.CONVERGED
        np.testing.assert_allclose(params, 1.0, atol=1e-2)


@pytest.mark.parametrize("jit", [True, False])
def test_auxiliary_output_without_jit(jit):
    def fun(x, theta):
        return jnp.sum((x - theta) ** 2), {"mean": jnp.mean(x)}

    def to_theta(x, theta):
        return 0.5 * (x + theta), {"mean": jnp.mean(x)}

    step = jaxsolve.MirrorDescent.make_projection_grad(lambda y: y, lambda x: x)
    for solver, before in (
        (jaxsolve.GradientDescent(fun, has_aux=True, jit=jit), ()),
        (jaxsolve.ProjectedGradient(fun, lambda x: x, has_aux=True, jit=jit), (None,)),
        (jaxsolve.MirrorDescent(fun, step, stepsize=0.25, has_aux=True, jit=jit), (None,)),
        (jaxsolve.FixedPointIteration(to_theta, has_aux=True, jit=jit), ()),
        (jaxsolve.LBFGS(fun, has_aux=True, jit=jit), ()),
    ):
        run = lambda t, s=solver, b=before: s.run(jnp.zeros(3), *b, t)
        np.testing.assert_allclose(run(1.0).state.aux["mean"], 1.0, atol=1e-2)
        np.testing.assert_allclose(jax.jacrev(lambda t, run=run: run(t).params)(1.0), 1.0, rtol=1e-6)


@pytest.mark.parametrize("nothing", [None, {}, []])
def test_there_must_be_something_to_start_from(nothing):
    step = jaxsolve.MirrorDescent.make_projection_grad(lambda y: y, lambda x: x)
    for solver in (
        jaxsolve.LBFGS(jnp.sum),
        jaxsolve.GradientDescent(jnp.sum),
        jaxsolve.ProjectedGradient(jnp.sum, lambda x: x),
        jaxsolve.MirrorDescent(jnp.sum, step, stepsize=1.0),
        jaxsolve.FixedPointIteration(jnp.cos),
    ):
        with pytest.raises(ValueError, match="init_params.* must have at least one array"):
            solver.run(nothing)


def test_the_solution_may_be_named_to_the_optimality_function():
    step = jaxsolve.MirrorDescent.make_projection_grad(lambda y: y, lambda x: x)
    for solver in (
        jaxsolve.ProximalGradient(quadratic),
        jaxsolve.ProjectedGradient(quadratic, lambda x: x),
        jaxsolve.MirrorDescent(quadratic, step, stepsize=1.0),
    ):
        residual = solver.optimality_fun(sol=jnp.ones(3), theta=1.0, **_no_hyperparams(solver))
        np.testing.assert_allclose(residual, 0.0, atol=1e-12)


def _no_hyperparams(solver):
    return {"hyperparams_prox" if hasattr(solver, "prox") else "hyperparams_proj": None}


def test_strings_of_numpy_are_static():
    def fun(x, mode):
        return jnp.sum((x - {"one": 1.0, "two": 2.0}[mode]) ** 2)

    solver = jaxsolve.LBFGS(fun)
    for mode, value in zip(np.asarray(["one", "two"]), (1.0, 2.0), strict=True):
        np.testing.assert_allclose(solver.run(jnp.zeros(2), mode).params, value, rtol=1e-3)
        np.testing.assert_allclose(solver.run(jnp.zeros(2), mode=mode).params, value, rtol=1e-3)


@pytest.mark.parametrize("infinity", [jnp.inf, -jnp.inf])
def test_an_infinite_objective_is_no_minimum(infinity):
    fun = lambda x, *_: infinity + 0.0 * jnp.sum(x)
    for solver, args in (
        (jaxsolve.GradientDescent(fun), ()),
        (jaxsolve.GradientDescent(fun, stepsize=0.1), ()),
        (jaxsolve.ProximalGradient(fun, jaxsolve.prox.prox_none), (None,)),
        (jaxsolve.ProjectedGradient(fun, jaxsolve.projection.projection_non_negative), (None,)),
        (jaxsolve.LBFGS(fun), ()),
    ):
        params, state = solver.run(jnp.ones(2), *args)
        assert int(state.status) != Status.CONVERGED
        assert np.all(np.isfinite(params))


@pytest.mark.parametrize("batched", [False, True])
def test_a_loop_that_is_not_unrolled_has_forward_mode_only(batched):
    solver = jaxsolve.GradientDescent(quadratic, implicit_diff=False, unroll=False, stepsize=0.1, tol=1e-10)

    def fun(theta):
        run = lambda theta: solver.run(jnp.zeros(3), theta).params.sum()
        return jax.vmap(run)(theta * jnp.ones(2)).sum() if batched else run(theta)

    np.testing.assert_allclose(jax.jacfwd(fun)(1.0), 6.0 if batched else 3.0, rtol=1e-4)
    for gradient in (jax.grad(fun), jax.jit(jax.grad(fun))):
        with pytest.raises(
            ValueError, match="GradientDescent with implicit_diff=False and unroll=False has no reverse"
        ):
            gradient(1.0)
