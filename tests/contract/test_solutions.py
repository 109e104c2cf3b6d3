"""Solutions, statuses, structures and dtypes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import Status
from tests.registry import CASES, MAIN, check_line, each, float_dtype, get_case


@pytest.mark.float32
@each(CASES)
def test_solution_agrees_with_the_oracle(case):
    solver = case.make()
    params, state = case.run(solver, case.theta)
    exact = jax.jit(case.exact)(case.theta)
    np.testing.assert_allclose(params, exact, rtol=0, atol=case.tolerance() * max(1, float(jnp.max(jnp.abs(exact)))))
    if case.oracle is not None:
        np.testing.assert_allclose(
            params,
            case.oracle(np.asarray(case.theta, np.float64)),
            rtol=0,
            atol=2e-3 if float_dtype() == jnp.float32 else 2e-6,
        )
    assert int(state.status) == Status.CONVERGED
    jaxsolve.check(state)
    check_line(case, params, state)


@pytest.mark.float32
@each(where=lambda case: not case.by_values)
def test_error_is_that_of_the_optimality_function(case):
    solver = case.make()
    params, state = case.run(solver, case.theta)
    residual = solver.l2_optimality_error(params, *case.before, case.theta)
    # In float32 the residual itself is rounded: its terms are of size 10.
    rounding = 20 * float(jnp.finfo(float_dtype()).eps)
    if not case.iterates:
        np.testing.assert_allclose(state.error, residual, rtol=0.05, atol=1e-9 + rounding)
        return
    assert float(residual) <= 2 * float(solver.tol)
    if not isinstance(solver, jaxsolve.Bisection):  # its error is the largest entry
        np.testing.assert_allclose(state.error, residual, rtol=0.05, atol=float(solver.tol) * 0.05 + rounding)
    if case.scalar:
        np.testing.assert_allclose(state.value, case.fun(params, case.theta), rtol=1e-5)


@functools.cache
def _limited(name):
    """A run of so many iterations: one program for all numbers."""
    case = get_case(name)
    return jax.jit(lambda maxiter: case.run(case.make(maxiter=maxiter, tol=0.0), case.theta))


@each(where=lambda case: case.iterates)
def test_iterations_by_hand_equal_run(case):
    """init_state and update make up run."""
    solver = case.make(maxiter=3, tol=0.0)
    args = (*case.before, case.theta)
    params, state = _limited(case.name)(3)
    by_hand = _limited(case.name)(0).params
    hand_state = solver.init_state(case.init, *args)
    update = jax.jit(solver.update)
    for _ in range(3):
        by_hand, hand_state = update(by_hand, hand_state, *args)
    np.testing.assert_allclose(params, by_hand, rtol=1e-5)
    assert int(state.iter_num) == int(hand_state.iter_num) == 3


@each()
def test_a_batch_has_the_solutions_of_its_elements(case):
    solver = case.make()
    thetas = case.theta[None] * jnp.asarray([[1.0], [1.05]], float_dtype())
    batch = jax.jit(jax.vmap(lambda t: case.run(solver, t).params))(thetas)
    for theta, element in zip(thetas, batch, strict=True):
        single = case.run(solver, theta).params
        np.testing.assert_allclose(element, single, rtol=0, atol=case.tolerance())


# What follows is the work of the base: three solvers stand for all.
THREE = ("GradientDescent-ridge", "ProximalGradient-lasso", "FixedPointIteration-affine")


@each((*THREE, "Bisection-cubic"))
def test_without_jit(case):
    python = case.make(jit=False, maxiter=2, tol=0.0)
    compiled = case.make(maxiter=2, tol=0.0)
    np.testing.assert_allclose(
        case.run(python, case.theta).params, case.run(compiled, case.theta).params, rtol=1e-4, atol=1e-6
    )


def _of_trees(case):
    """The simplex is a set of vectors."""
    return case.init is not None and case.pytrees and "simplex" not in case.name


def _tree(x):
    return {"a": x[:1], "b": (x[1:3], x[3])}


def _vector(tree):
    return jnp.concatenate([tree["a"], tree["b"][0], tree["b"][1][None]])


def _on_trees(case):
    """The solver of the function of such trees, and its solution as a vector."""
    returns_tree = not case.scalar and case.like_params
    fun = lambda p, t: _tree(case.fun(_vector(p), t)) if returns_tree else case.fun(_vector(p), t)
    solver = case.make(fun)
    return lambda theta: _vector(case.run(solver, theta, _tree(case.init)).params)


@each(where=_of_trees)
def test_pytrees(case):
    got, want = jax.jit(_on_trees(case))(case.theta), jax.jit(case.exact)(case.theta)
    np.testing.assert_allclose(got, want, rtol=0, atol=case.tolerance() * max(1, float(jnp.max(jnp.abs(want)))))


# The derivative is the work of the base.
@each(THREE, where=_of_trees)
def test_derivatives_of_pytrees(case):
    jacobian, exact = jax.jit(jax.jacrev(_on_trees(case)))(case.theta), jax.jit(jax.jacfwd(case.exact))(case.theta)
    np.testing.assert_allclose(jacobian, exact, rtol=0, atol=30 * case.tolerance())


@each()
def test_dtype_is_kept(case):
    """Float32 inputs stay float32 under x64, in the parameters and in the state."""
    theta = case.theta.astype(jnp.float32)
    init = None if case.init is None else case.init.astype(jnp.float32)
    options = {"tol": 1e-4}
    if isinstance(case.make(), jaxsolve.Bisection):
        options |= {"lower": -4.0, "upper": 4.0}
        solver = jaxsolve.Bisection(lambda x, t: x**3 + t[0] * x - t[1], lower=-4.0, upper=4.0)
    else:
        solver = case.make(**options)
    params, state = solver.run(init, *case.before, theta)
    assert params.dtype == jnp.float32
    for leaf in jax.tree.leaves(state):
        assert leaf.dtype in (jnp.float32, jnp.int32, jnp.bool_), state
    assert int(state.status) == Status.CONVERGED


@each(where=lambda case: case.iterates)
def test_maxiter_zero_and_one(case):
    none, one = map(_limited(case.name), (0, 1))
    if case.init is not None:
        np.testing.assert_array_equal(none.params, case.init)
    assert int(none.state.iter_num) == 0
    assert int(none.state.status) == Status.MAXITER
    assert int(one.state.iter_num) == 1
    assert int(one.state.status) == Status.MAXITER
    with pytest.raises(jaxsolve.SolverError, match="maxiter"):
        jaxsolve.check(one)


@each(THREE, where=lambda case: case.iterates)
def test_maxiter_as_a_python_number(case):
    for maxiter in (0, 1):
        state = case.run(case.make(maxiter=maxiter, tol=0.0), case.theta).state
        assert (int(state.iter_num), int(state.status)) == (maxiter, Status.MAXITER)


@pytest.mark.float32
@each(where=lambda case: case.init is not None and not case.by_values and not case.from_inside)
def test_start_at_the_optimum(case):
    solver = case.make()
    solution = case.run(solver, case.theta).params
    params, state = case.run(solver, case.theta, solution)
    assert int(state.iter_num) <= 2
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params, solution, rtol=0, atol=case.tolerance())


@each(
    ("LBFGS-zoom", "ProximalGradient-lasso", "MirrorDescent-simplex"),
    where=lambda case: case.init is not None and case.unrolls,
)
def test_unrolled_derivatives_at_the_optimum_are_finite(case):
    unrolled, optimum = case.make(implicit_diff=False, maxiter=5), jax.jit(case.exact)(case.theta)
    got = jax.jit(jax.jacrev(lambda t: case.run(unrolled, t, optimum).params))(case.theta)
    assert np.all(np.isfinite(got))


# Without a search for the step nobody looks at values; the other variants of a solver look as it does.
@each((*MAIN, "LBFGS-fixed-step", "ProximalGradient-fixed-step"))
def test_nonfinite_functions_end_with_a_status(case):
    def broken(params, theta):
        return case.fun(params, theta) * jnp.asarray(jnp.nan, float_dtype())

    params, state = case.run(case.make(broken), case.theta)
    assert int(state.status) == Status.NONFINITE
    assert np.all(np.isfinite(params))
    if case.init is not None:
        np.testing.assert_array_equal(params, case.init)
    with pytest.raises(jaxsolve.SolverError, match="NaN"):
        jaxsolve.check(state)


@each(THREE, where=lambda case: case.iterates)
def test_traced_options(case):
    """tol and maxiter may be arrays, traced and batched."""

    def iterations(tol, maxiter):
        return case.run(case.make(tol=tol, maxiter=maxiter), case.theta).state.iter_num

    tols = jnp.asarray([1e-1, 1e-4, 0.0], float_dtype())
    few, many, limit = jax.jit(jax.vmap(iterations))(tols, jnp.asarray([500, 500, 2], jnp.int32))
    assert int(few) <= int(many)
    assert int(limit) == 2


@each(where=lambda case: case.iterates)
def test_bad_input_is_refused(case):
    with pytest.raises(TypeError, match="theta|argument|signature"):
        case.make(lambda params, theta, missing: case.fun(params, theta)).run(case.init, *case.before, case.theta)
    with pytest.raises(ValueError, match="maxiter"):
        case.make(maxiter=-1)
    with pytest.raises(ValueError, match="tol"):
        case.make(tol=-1e-3)
    with pytest.raises(ValueError, match="unroll"):
        case.make(unroll="sometimes")
    with pytest.raises(TypeError, match="nonsense"):
        case.make(nonsense=1)
    with pytest.raises(TypeError, match="callable|function"):
        case.make(3)
    if case.init is not None:
        with pytest.raises(TypeError, match="floating"):
            case.run(case.make(), case.theta, jnp.arange(4))
        if case.scalar:  # fixed points and linear systems may be complex
            with pytest.raises(TypeError, match="complex|floating"):
                case.run(case.make(), case.theta, case.init.astype(complex))
    if case.scalar:
        with pytest.raises(ValueError, match="scalar"):
            case.run(case.make(lambda params, theta: params), case.theta)
    elif case.init is not None and case.like_params:
        with pytest.raises(ValueError, match="shape"):
            case.run(case.make(lambda params, theta: params[:2]), case.theta)
