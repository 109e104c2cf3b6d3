"""The contract of the solvers for quadratic programs: their data are matrices, not a function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import Status
from tests.registry import QUADRATIC_CASES, float_dtype, get_quadratic_case


def _param(name):
    external = get_quadratic_case(name).external
    return pytest.param(name, marks=pytest.mark.slow) if external else name


@pytest.fixture(params=[_param(name) for name in QUADRATIC_CASES])
def case(request):
    return get_quadratic_case(request.param)


@pytest.fixture(params=[name for name in QUADRATIC_CASES if get_quadratic_case(name).iterates])
def iterative_case(request):
    return get_quadratic_case(request.param)


def close(got, want, tol):
    got, want = np.asarray(got), np.asarray(want)
    scale = max(np.max(np.abs(want), initial=0), 1e-3)
    np.testing.assert_allclose(got / scale, want / scale, rtol=0, atol=tol)


def flat(params):
    return jax.flatten_util.ravel_pytree(params)[0]


@pytest.mark.float32
def test_solution_status_and_optimality(case):
    solver = case.make()
    params, state = case.run(solver, case.theta)
    close(flat(params), flat(case.exact(case.theta)), case.tolerance())
    close(case.primal(params), case.oracle(np.asarray(case.theta, np.float64)), 1e-2 if case.single else 1e-6)
    assert int(state.status) == Status.CONVERGED
    assert float(state.error) <= float(solver.tol)
    assert float(solver.l2_optimality_error(params, *case.data(case.theta))) <= case.tolerance()
    if hasattr(state, "value"):
        close(state.value, case.value(case.theta), case.tolerance())
    for leaf in jax.tree.leaves((params, state)):
        assert leaf.dtype in (float_dtype(), jnp.int32, jnp.bool_)


@pytest.mark.float32
def test_derivatives_in_every_mode(case):
    solver = case.make()

    def solution(theta):
        return flat(case.run(solver, theta).params)

    def exact(theta):
        return flat(case.exact(theta))

    def derivatives(f):
        return jax.jacfwd(f), jax.jacrev(f), jax.hessian(f), jax.jacrev(jax.jacrev(f))

    got = jax.jit(lambda t: [d(t) for d in derivatives(solution)])(case.theta)
    want = jax.jit(lambda t: [d(t) for d in derivatives(exact)])(case.theta)
    for g, w, tol in zip(got, want, (1, 1, 30, 30), strict=True):
        close(g, w, tol * case.tolerance())


def test_higher_derivatives_in_the_linear_term_alone(case):
    """Nothing else moves: of the systems that are solved, not even the matrices."""
    solver = case.make()
    (P, c), *rest = case.data(case.theta)

    def solution(c):
        return flat(solver.run(None, (P, c), *rest).params)

    def scalar(c):
        return jnp.sum(jnp.sin(solution(c)))

    second = (jax.jacfwd(jax.jacfwd(scalar)), jax.jacrev(jax.jacfwd(scalar)), jax.jacrev(jax.jacrev(scalar)))
    third = jax.jacfwd(jax.hessian(scalar))
    x, J, *hessians, cubic = jax.jit(lambda c: [f(c) for f in (solution, jax.jacfwd(solution), *second, third)])(c)
    for hessian in hessians:
        close(hessian, -jnp.einsum("k,ki,kj->ij", jnp.sin(x), J, J), case.tolerance())
    close(cubic, -jnp.einsum("k,ki,kj,kl->ijl", jnp.cos(x), J, J, J), case.tolerance())


def test_derivative_of_the_value(case):
    solver = case.make()
    got = jax.jit(jax.grad(lambda t: case.run(solver, t).state.value))(case.theta)
    close(got, jax.jit(jax.grad(case.value))(case.theta), case.tolerance())


def test_against_finite_differences(case):
    solver = case.make()
    f = jax.jit(lambda t: flat(case.run(solver, t).params))
    step = 1e-5
    for e in jnp.eye(case.theta.size):
        numeric = (f(case.theta + step * e) - f(case.theta - step * e)) / (2 * step)
        close(jax.jvp(f, (case.theta,), (e,))[1], numeric, 1e-5)


def test_transformations(case):
    solver = case.make()
    thetas = case.theta[None] * jnp.asarray([[1.0], [1.01], [0.99]], float_dtype())

    def scalar(theta):
        return jnp.sum(jnp.sin(flat(case.run(solver, theta).params)))

    want = jax.jit(jax.vmap(jax.grad(lambda t: jnp.sum(jnp.sin(flat(case.exact(t)))))))(thetas)
    close(jax.jit(jax.vmap(jax.grad(scalar)))(thetas), want, case.tolerance())
    scanned = jax.jit(jax.grad(lambda ts: jax.lax.scan(lambda s, t: (s + scalar(t), None), jnp.zeros(()), ts)[0]))
    close(scanned(thetas), want, case.tolerance())


def test_unrolled_equals_implicit(case):
    if not case.unrolls:
        with pytest.raises(ValueError, match="implicit_diff"):
            case.make(implicit_diff=False)
        return
    solver = case.make(implicit_diff=False, maxiter=case.unroll_iters)
    want = jax.jit(jax.jacfwd(lambda t: flat(case.exact(t))))(case.theta)

    def solution(theta):
        return flat(case.run(solver, theta).params)

    for mode in (jax.jacfwd, jax.jacrev):
        close(jax.jit(mode(solution))(case.theta), want, 1e-4)


def test_iteration_limits_and_warm_start(iterative_case):
    case = iterative_case
    none = case.run(case.make(maxiter=0, tol=0.0), case.theta)
    assert (int(none.state.iter_num), int(none.state.status)) == (0, Status.MAXITER)
    one = case.run(case.make(maxiter=1, tol=0.0), case.theta)
    assert (int(one.state.iter_num), int(one.state.status)) == (1, Status.MAXITER)
    assert np.all(np.isfinite(flat(one.params)))
    solver = case.make()
    params, cold = case.run(solver, case.theta)
    again, warm = case.run(solver, case.theta, params)
    assert int(warm.status) == Status.CONVERGED
    assert int(warm.iter_num) <= int(cold.iter_num)
    close(flat(again), flat(params), case.tolerance())
    # The result of a run is a starting point too.
    again, warm = case.run(solver, case.theta, jaxsolve.OptStep(params, cold))
    assert int(warm.status) == Status.CONVERGED
    close(flat(again), flat(params), case.tolerance())


def test_nonfinite_data_end_with_a_status(case):
    (P, c), *rest = case.data(case.theta)

    def run(c):
        params, state = case.make().run(None, (P, c), *rest)
        return flat(params), getattr(state, "value", jnp.zeros(())), state.status

    broken = c * jnp.nan
    params, _, status = run(broken)
    assert int(status) == Status.NONFINITE
    assert np.all(np.isfinite(params))
    # A problem that failed has derivatives of zero, in all outputs; its neighbors have theirs.
    for mode in (jax.jacrev, jax.jacfwd):
        jacobians = jax.jit(jax.vmap(mode(lambda c: run(c)[:2])))(jnp.stack([broken, c]))
        for found, own in zip(jacobians, mode(lambda c: run(c)[:2])(c), strict=True):
            np.testing.assert_array_equal(found[0], 0)
            close(found[1], own, 1e-9)


def test_second_run_compiles_nothing(case):
    compiled = []

    def listen(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    data = case.data(case.theta)
    case.make().run(None, *data)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        case.make().run(None, *data)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not compiled


def test_bad_options_are_refused(case):
    _, *rest = case.data(case.theta)
    for option, value in (("tol", -1.0), ("maxiter", -1), ("weak", "perhaps"), ("polish", 3), ("rtol", -1.0)):
        if hasattr(case.make(), option):
            with pytest.raises((ValueError, TypeError), match=option):
                case.make(**{option: value})
    with pytest.raises(TypeError, match="params_obj"):
        case.make().run(None, jnp.eye(2), *rest)
    with pytest.raises(ValueError, match="Q must"):
        case.make().run(None, (jnp.ones((2, 3)), jnp.ones(2)), *rest)
    if case.iterates:
        with pytest.raises(jaxsolve.SolverError):
            jaxsolve.check(case.run(case.make(maxiter=0, tol=0.0), case.theta))


def test_data_that_a_solver_has_no_use_for(case):
    solver, data = case.make(), case.data(case.theta)
    for args, kwargs in (((*data, *data), {}), (data, {"params_other": 1}), (data, {"params_obj": data[0]})):
        with pytest.raises(TypeError, match=f"{type(solver).__name__}.run takes init_params and, once each"):
            solver.run(None, *args, **kwargs)
