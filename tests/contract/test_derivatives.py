"""Derivatives are right in every mode, of every order, and whatever is done around the solver."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jaxsolve
from tests.registry import MAIN, each, float_dtype


def close(got, want, tol):
    """Relative to the size of the whole array: derivatives have entries that vanish."""
    got, want = np.asarray(got), np.asarray(want)
    scale = max(np.max(np.abs(want)), 1e-3)
    np.testing.assert_allclose(got / scale, want / scale, rtol=0, atol=tol)


def along(f):
    """The Jacobian by one jvp a column."""
    return lambda t: jnp.stack([jax.jvp(f, (t,), (e,))[1] for e in jnp.eye(2, dtype=t.dtype)], axis=-1)


# The rule is the same for every solver, so what lies beyond first order is tried once for each way to solve its system:
# positive definite, symmetric (a quadratic program, in its own file), general, and one that is diagonal.
STRUCTURES = ("GradientDescent-ridge", "ProjectedGradient-simplex", "Bisection-cubic")
# Cheap to compile, one with a scalar objective and one without.
TWO = ("ProximalGradient-lasso", "FixedPointIteration-affine")
# In float32 one of each structure: the rule is the same, and each solver meets its oracle there.
ONE_OF_EACH = ("LBFGS-zoom", "MirrorDescent-simplex", *TWO) if float_dtype() == jnp.float32 else MAIN


@pytest.mark.float32
@each(ONE_OF_EACH)
def test_first_order_forward_and_reverse(case):
    """Of the solution and of the value, where there is one."""
    solver = case.make()

    def run(theta):
        params, state = case.run(solver, theta)
        return (params, state.value) if case.scalar else (params,)

    def exact(theta):
        params = case.exact(theta)
        return (params, case.fun(params, theta)) if case.scalar else (params,)

    forward, reverse = jax.jit(lambda t: (jax.jacfwd(run)(t), jax.jacrev(run)(t)))(case.theta)
    for got in (forward, reverse):
        for g, w in zip(got, jax.jit(jax.jacfwd(exact))(case.theta), strict=True):
            close(g, w, case.tolerance())


@each(STRUCTURES)
def test_second_order_in_every_mode(case):
    solver = case.make()

    def second(f):
        return [jax.hessian(f), jax.jacrev(jax.jacrev(f)), jax.jacrev(jax.jacfwd(f))]

    def solution(theta):
        return case.run(solver, theta).params

    exact = jax.jit(jax.hessian(case.exact))(case.theta)
    along_columns, *got = jax.jit(lambda t: [mode(t) for mode in (along(solution), *second(solution))])(case.theta)
    close(along_columns, jax.jit(jax.jacfwd(case.exact))(case.theta), case.tolerance())
    for value in got:
        close(value, exact, 30 * case.tolerance())


@each(("FixedPointIteration-affine",), where=lambda case: case.name in (*STRUCTURES, *TWO, "LBFGS-zoom"))
def test_against_finite_differences_to_order_two(case):
    solver = case.make()
    solution = jax.jit(lambda t: case.run(solver, t).params)
    check_grads(solution, (case.theta,), order=2, modes=("fwd", "rev"), rtol=1e-4, atol=1e-4)


@each(("FixedPointIteration-affine",), where=lambda case: case.name in ("GradientDescent-ridge", *TWO))
def test_third_order(case):
    solver = case.make()
    third = lambda f: jax.jit(jax.jacfwd(jax.jacrev(jax.jacfwd(f))))
    close(
        third(lambda t: case.run(solver, t).params)(case.theta), third(case.exact)(case.theta), 100 * case.tolerance()
    )


def _unrolled(case, **options):
    solver = case.make(implicit_diff=False, maxiter=case.unroll_iters, **options)
    return lambda theta: case.run(solver, theta).params


@each(where=lambda case: case.unrolls)
def test_unrolled_equals_implicit(case):
    got = jax.jit(jax.jacfwd(_unrolled(case)))(case.theta)
    close(got, jax.jit(jax.jacfwd(case.exact))(case.theta), 30 * case.tolerance())


@each(("GradientDescent-ridge",), where=lambda case: case.unrolls)
def test_unrolled_in_reverse_with_and_without_checkpoints(case):
    plain, checkpointed = (_unrolled(case, unroll=unroll) for unroll in ("auto", "checkpoint"))
    got = jax.jit(lambda t: (jax.jacrev(plain)(t), jax.jacrev(checkpointed)(t)))(case.theta)
    close(got[0], jax.jit(jax.jacfwd(case.exact))(case.theta), 30 * case.tolerance())
    # The checkpoints change nothing but rounding.
    close(got[1], got[0], case.tolerance())


@each(where=lambda case: not case.unrolls)
def test_what_cannot_be_unrolled_says_so(case):
    with pytest.raises(ValueError, match="implicit_diff"):
        case.make(implicit_diff=False)


@each(("ProjectedGradient-simplex",), where=lambda case: case.name in (*STRUCTURES, "LBFGS-zoom"))
def test_transformations_around_a_run(case):
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
        start = jnp.zeros((), thetas.dtype)
        return jax.lax.scan(lambda total, theta: (total + solution(theta), None), start, thetas)[0]

    def looped(thetas):
        return sum(exact(theta) for theta in thetas)

    close(jax.jit(jax.grad(scanned))(thetas), want, case.tolerance())
    # Reverse mode through scan forgets the rule of a custom_jvp on its second use; ours must survive that.
    close(jax.jit(jax.hessian(scanned))(thetas), jax.jit(jax.hessian(looped))(thetas), 30 * case.tolerance())

    def branched(theta):
        return jax.lax.cond(theta[0] > 0, solution, lambda t: jnp.zeros((), t.dtype), theta)

    close(jax.jit(jax.grad(branched))(thetas[0]), want[0], case.tolerance())


@each(("LBFGS-zoom", "MirrorDescent-simplex", *TWO), where=lambda case: case.init is not None)
def test_derivative_in_the_initial_point_is_zero(case):
    solver = case.make()
    got = jax.jit(jax.grad(lambda init: jnp.sum(case.run(solver, case.theta, init).params)))(case.init)
    assert not np.any(got)


@each(TWO)
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


@each(TWO)
def test_nested_solvers(case):
    """A solver inside the objective of a solver; the outer gradient runs through both."""
    inner = case.make()

    def outer_fun(z, theta):
        return 0.5 * jnp.sum((z - case.run(inner, theta).params) ** 2) + 0.25 * jnp.sum(z**2)

    outer = jaxsolve.LBFGS(outer_fun, tol=1e-10 if float_dtype() == jnp.float64 else 3e-6, maxiter=50)

    def outer_solution(theta):
        return outer.run(jnp.zeros_like(case.exact(theta)), theta).params

    got = jax.jit(lambda t: (outer_solution(t), jax.jacrev(outer_solution)(t)))(case.theta)
    exact = jax.jit(lambda t: (case.exact(t) / 1.5, jax.jacfwd(case.exact)(t) / 1.5))(case.theta)
    for g, w in zip(got, exact, strict=True):
        close(g, w, 10 * case.tolerance())
