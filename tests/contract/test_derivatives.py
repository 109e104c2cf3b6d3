"""Derivatives are right in every mode, of every order, and whatever is done around the solver."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from tests.registry import CASES, float_dtype, get_case


def close(got, want, tol):
    """Relative to the size of the whole array: derivatives have entries that vanish."""
    got, want = np.asarray(got), np.asarray(want)
    scale = max(np.max(np.abs(want)), 1e-3)
    np.testing.assert_allclose(got / scale, want / scale, rtol=0, atol=tol)


@pytest.fixture(params=CASES)
def case(request):
    return get_case(request.param)


def along(f):
    """The Jacobian by one jvp a column."""
    return lambda t: jnp.stack([jax.jvp(f, (t,), (e,))[1] for e in jnp.eye(2, dtype=t.dtype)], axis=-1)


FIRST = {"jacfwd": jax.jacfwd, "jacrev": jax.jacrev}
SECOND = {"hessian": jax.hessian, "reverse of reverse": lambda f: jax.jacrev(jax.jacrev(f))}
# The same rule serves every solver: the less usual modes are tried on two of them.
MORE = ("LBFGS-zoom", "ProjectedGradient-simplex")


@pytest.mark.float32
def test_first_and_second_order_in_every_mode(case):
    solver = case.make()
    first, second = dict(FIRST), dict(SECOND)
    if case.name in MORE:
        first["jvp"] = along
        second["reverse of forward"] = lambda f: jax.jacrev(jax.jacfwd(f))

    def solution(theta):
        return case.run(solver, theta).params

    exact = jax.jit(lambda t: (jax.jacfwd(case.exact)(t), jax.hessian(case.exact)(t)))(case.theta)
    got = jax.jit(lambda t: [[mode(solution)(t) for mode in modes.values()] for modes in (first, second)])(case.theta)
    for values, want, tol in zip(got, exact, (case.tolerance(), 30 * case.tolerance()), strict=True):
        for value in values:
            close(value, want, tol)


@pytest.mark.parametrize("name", ["LBFGS-zoom", "ProximalGradient-lasso", "Bisection-cubic"])
def test_against_finite_differences_to_order_two(name):
    case = get_case(name)
    solver = case.make()
    check_grads(
        lambda t: case.run(solver, t).params, (case.theta,), order=2, modes=("fwd", "rev"), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", ["GradientDescent-ridge", "FixedPointIteration-affine"])
def test_third_order(name):
    case = get_case(name)
    solver = case.make()
    third = lambda f: jax.jit(jax.jacfwd(jax.jacrev(jax.jacfwd(f))))
    close(
        third(lambda t: case.run(solver, t).params)(case.theta), third(case.exact)(case.theta), 100 * case.tolerance()
    )


def test_unrolled_equals_implicit(case):
    if not case.unrolls:
        with pytest.raises(ValueError, match="implicit_diff"):
            case.make(implicit_diff=False)
        return
    exact = jax.jit(jax.jacfwd(case.exact))(case.theta)
    got = []
    for unroll, modes in (("auto", (jax.jacfwd, jax.jacrev)), ("checkpoint", (jax.jacrev,))):
        solver = case.make(implicit_diff=False, unroll=unroll, maxiter=case.unroll_iters)

        def solution(theta, solver=solver):
            return case.run(solver, theta).params

        got += [jax.jit(mode(solution))(case.theta) for mode in modes]
    for value in got:
        close(value, exact, 30 * case.tolerance())
    # The mode and the checkpoints change nothing but rounding.
    close(got[0], got[2], case.tolerance())


@pytest.mark.parametrize("name", ["LBFGS-zoom", "ProjectedGradient-simplex", "Bisection-cubic"])
def test_transformations_around_a_run(name):
    case = get_case(name)
    solver = case.make()
    thetas = case.theta[None] * jnp.asarray([[1.0], [1.02], [0.97]], float_dtype())

    def solution(theta):
        return jnp.sum(jnp.sin(case.run(solver, theta).params))

    def exact(theta):
        return jnp.sum(jnp.sin(case.exact(theta)))

    want = jax.jit(jax.vmap(jax.grad(exact)))(thetas)
    close(jax.jit(jax.vmap(jax.grad(solution)))(thetas), want, case.tolerance())
    close(jax.jit(jax.grad(lambda ts: jnp.sum(jax.vmap(solution)(ts))))(thetas), want, case.tolerance())

    def scanned(thetas):
        return jax.lax.scan(lambda total, theta: (total + solution(theta), None), jnp.zeros((), thetas.dtype), thetas)[
            0
        ]

    def looped(thetas):
        return sum(exact(theta) for theta in thetas)

    close(jax.jit(jax.grad(scanned))(thetas), want, case.tolerance())
    # Reverse mode through scan forgets the rule of a custom_jvp on its second use; ours must survive that.
    if case.name != "LBFGS-zoom":  # its programs take longest to compile, and the rule is the same
        close(jax.jit(jax.hessian(scanned))(thetas), jax.jit(jax.hessian(looped))(thetas), 30 * case.tolerance())

    def branched(theta):
        return jax.lax.cond(theta[0] > 0, solution, lambda t: jnp.zeros((), t.dtype), theta)

    close(jax.jit(jax.grad(branched))(thetas[0]), want[0], case.tolerance())


def test_derivative_in_the_initial_point_is_zero(case):
    if case.init is None:
        return
    solver = case.make()
    got = jax.jit(jax.grad(lambda init: jnp.sum(case.run(solver, case.theta, init).params)))(case.init)
    assert not np.any(got)


@pytest.mark.float32
def test_gradient_of_the_value(case):
    if not case.scalar:
        return
    solver = case.make()

    def value(theta):
        return case.run(solver, theta).state.value

    def exact(theta):
        return case.fun(case.exact(theta), theta)

    got = jax.jit(lambda t: (value(t), jax.grad(value)(t), jax.jacfwd(value)(t)))(case.theta)
    want = jax.jit(lambda t: (exact(t), jax.grad(exact)(t), jax.grad(exact)(t)))(case.theta)
    for g, w in zip(got, want, strict=True):
        close(g, w, case.tolerance())


def test_captured_arrays_float_and_integer(case):
    """Whatever the function captures differentiates, under scan and cond too, integers included."""
    indices = jnp.asarray([[0, 1], [1, 0]])
    first = jax.jit(jax.grad(lambda t: jnp.sum(case.exact(t))))(case.theta)

    def solution(theta, index):
        # Each run's function captures a tracer of theta and one of an integer array, and takes no argument.
        solver = case.make(lambda params, unused: case.fun(params, theta[index][jnp.argsort(index)]))
        return jnp.sum(case.run(solver, jnp.zeros_like(theta)).params)

    def scanned(theta):
        return jax.lax.scan(lambda c, i: (c + solution(theta, i), None), jnp.zeros((), theta.dtype), indices)[0]

    def branched(theta):
        return jax.lax.cond(theta[0] > 0, lambda: solution(theta, indices[1]), lambda: jnp.zeros((), theta.dtype))

    for transformed, factor in ((scanned, 2), (branched, 1)):
        close(jax.jit(jax.grad(transformed))(case.theta), factor * first, 2 * case.tolerance())
        close(jax.jit(jax.jacfwd(transformed))(case.theta), factor * first, 2 * case.tolerance())


def test_nested_solvers(case):
    """A solver inside the objective of a solver; the outer gradient runs through both."""
    import jaxsolve

    inner = case.make()

    def outer_fun(z, theta):
        return 0.5 * jnp.sum((z - case.run(inner, theta).params) ** 2) + 0.25 * jnp.sum(z**2)

    outer = jaxsolve.LBFGS(outer_fun, tol=case.make().tol, maxiter=50)

    def outer_solution(theta):
        return outer.run(jnp.zeros(4, float_dtype()), theta).params

    got = jax.jit(lambda t: (outer_solution(t), jax.jacrev(outer_solution)(t)))(case.theta)
    exact = jax.jit(lambda t: (case.exact(t) / 1.5, jax.jacfwd(case.exact)(t) / 1.5))(case.theta)
    for g, w in zip(got, exact, strict=True):
        close(g, w, 10 * case.tolerance())
