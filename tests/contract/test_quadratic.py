"""The contract of the solvers for quadratic programs: their data are matrices, not a function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import Status
from tests.registry import check_line, each_quadratic, float_dtype

# One with multipliers and one without.
TWO = ("InteriorPointQP", "BoxCDQP")
# In single precision: the other solvers meet data of many sizes there, in tests/solvers/quadratic.
QUICK = None if jax.config.jax_enable_x64 else TWO


def close(got, want, tol):
    got, want = np.asarray(got), np.asarray(want)
    scale = max(np.max(np.abs(want), initial=0), 1e-3)
    np.testing.assert_allclose(got / scale, want / scale, rtol=0, atol=tol)


def flat(params):
    return jax.flatten_util.ravel_pytree(params)[0]


@pytest.mark.float32
@each_quadratic(QUICK)
def test_solution_status_and_optimality(case):
    solver = case.make()
    params, state = case.run(solver, case.theta)
    close(flat(params), flat(case.exact(case.theta)), case.tolerance())
    close(case.primal(params), case.oracle(np.asarray(case.theta, np.float64)), 1e-2 if case.single else 1e-6)
    assert int(state.status) == Status.CONVERGED
    check_line(case, params, state)
    assert float(state.error) <= float(solver.tol)
    assert float(solver.l2_optimality_error(params, *case.data(case.theta))) <= case.tolerance()
    if hasattr(state, "value"):
        close(state.value, case.value(case.theta), case.tolerance())
    for leaf in jax.tree.leaves((params, state)):
        assert leaf.dtype in (float_dtype(), jnp.int32, jnp.bool_)


@pytest.mark.float32
@each_quadratic(QUICK)
def test_first_order_forward_and_reverse(case):
    """Of the solution and of the value, where the state has one."""
    solver = case.make()

    def run(theta):
        params, state = case.run(solver, theta)
        return (flat(params), state.value) if hasattr(state, "value") else (flat(params),)

    def exact(theta):
        return flat(case.exact(theta)), case.value(theta)

    forward, reverse = jax.jit(lambda t: (jax.jacfwd(run)(t), jax.jacrev(run)(t)))(case.theta)
    want = jax.jit(jax.jacfwd(exact))(case.theta)
    for got in (forward, reverse):
        for g, w in zip(got, want, strict=False):
            close(g, w, case.tolerance())


@each_quadratic(TWO)
def test_second_order(case):
    solver = case.make()

    def solution(theta):
        return flat(case.run(solver, theta).params)

    got = jax.jit(lambda t: (jax.hessian(solution)(t), jax.jacrev(jax.jacrev(solution))(t)))(case.theta)
    want = jax.jit(jax.hessian(lambda t: flat(case.exact(t))))(case.theta)
    for hessian in got:
        close(hessian, want, 30 * case.tolerance())


@each_quadratic(("EqualityConstrainedQP",))
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


@each_quadratic(TWO)
def test_against_finite_differences(case):
    solver = case.make()
    f = jax.jit(lambda t: flat(case.run(solver, t).params))
    step = 1e-5
    for e in jnp.eye(case.theta.size):
        numeric = (f(case.theta + step * e) - f(case.theta - step * e)) / (2 * step)
        close(jax.jvp(f, (case.theta,), (e,))[1], numeric, 1e-5)


@each_quadratic(TWO)
def test_transformations(case):
    solver = case.make()
    thetas = case.theta[None] * jnp.asarray([[1.0], [1.01], [0.99]], float_dtype())

    def scalar(theta):
        return jnp.sum(jnp.sin(flat(case.run(solver, theta).params)))

    want = jax.jit(jax.vmap(jax.grad(lambda t: jnp.sum(jnp.sin(flat(case.exact(t)))))))(thetas)
    close(jax.jit(jax.vmap(jax.grad(scalar)))(thetas), want, case.tolerance())
    scanned = jax.jit(jax.grad(lambda ts: jax.lax.scan(lambda s, t: (s + scalar(t), None), jnp.zeros(()), ts)[0]))
    close(scanned(thetas), want, case.tolerance())


def check_unrolled(case, mode):
    solver = case.make(implicit_diff=False, maxiter=case.unroll_iters)
    got = jax.jit(mode(lambda t: flat(case.run(solver, t).params)))(case.theta)
    close(got, jax.jit(jax.jacfwd(lambda t: flat(case.exact(t))))(case.theta), 1e-4)


@each_quadratic(("InteriorPointQP", "BoxOSQP", "BoxCDQP"), where=lambda case: case.unrolls)
def test_unrolled_equals_implicit(case):
    check_unrolled(case, jax.jacfwd)


@each_quadratic(("BoxCDQP",), where=lambda case: case.unrolls)
def test_unrolled_in_reverse_equals_implicit(case):
    check_unrolled(case, jax.jacrev)


@each_quadratic(where=lambda case: not case.unrolls)
def test_what_cannot_be_unrolled_says_so(case):
    with pytest.raises(ValueError, match="implicit_diff"):
        case.make(implicit_diff=False)


@each_quadratic(TWO, where=lambda case: case.iterates)
def test_iteration_limits_and_warm_start(case):
    run = jax.jit(lambda maxiter: case.run(case.make(maxiter=maxiter, tol=0.0), case.theta))
    none, one = run(0), run(1)
    assert (int(none.state.iter_num), int(none.state.status)) == (0, Status.MAXITER)
    assert (int(one.state.iter_num), int(one.state.status)) == (1, Status.MAXITER)
    assert np.all(np.isfinite(flat(one.params)))
    with pytest.raises(jaxsolve.SolverError):
        jaxsolve.check(none)
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


@each_quadratic()
def test_nonfinite_data_end_with_a_status(case):
    (P, c), *rest = case.data(case.theta)
    params, state = case.make().run(None, (P, c * jnp.nan), *rest)
    assert int(state.status) == Status.NONFINITE
    assert np.all(np.isfinite(flat(params)))


@each_quadratic(TWO)
def test_a_batch_element_that_failed_has_derivatives_of_zero(case):
    """In all outputs; its neighbors have theirs."""
    (P, c), *rest = case.data(case.theta)

    def run(c):
        params, state = case.make().run(None, (P, c), *rest)
        return flat(params), getattr(state, "value", jnp.zeros(()))

    modes = jax.jacrev(run), jax.jacfwd(run)
    batch = jnp.stack([c * jnp.nan, c])
    found, own = jax.jit(lambda cs: ([jax.vmap(mode)(cs) for mode in modes], [mode(cs[1]) for mode in modes]))(batch)
    for (failed, neighbor), alone in zip(jax.tree.leaves(found), jax.tree.leaves(own), strict=True):
        np.testing.assert_array_equal(failed, 0)
        close(neighbor, alone, 1e-9)


@each_quadratic(TWO)
def test_second_run_compiles_nothing(case, compilations):
    data = case.data(case.theta)
    case.make().run(None, *data)
    compiled = compilations()
    case.make().run(None, *data)
    assert compilations() == compiled


@each_quadratic()
def test_bad_options_are_refused(case):
    _, *rest = case.data(case.theta)
    for option, value in (("tol", -1.0), ("maxiter", -1), ("weak", "perhaps"), ("polish", 3), ("rtol", -1.0)):
        if hasattr(case.make(), option):
            with pytest.raises((ValueError, TypeError), match=option):
                case.make(**{option: value})
    with pytest.raises(TypeError, match="params_obj"):
        case.make().run(None, jnp.eye(2), *rest)
    matrix, message = case.wrong
    with pytest.raises(ValueError, match=message):
        case.make().run(None, (jnp.asarray(matrix, float_dtype()), jnp.ones(2)), *rest)


@each_quadratic()
def test_data_that_a_solver_has_no_use_for(case):
    solver, data = case.make(), case.data(case.theta)
    for args, kwargs in (((*data, *data), {}), (data, {"params_other": 1}), (data, {"params_obj": data[0]})):
        with pytest.raises(TypeError, match=f"{type(solver).__name__}.run takes init_params and, once each"):
            solver.run(None, *args, **kwargs)
