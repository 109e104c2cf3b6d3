"""Any kind of argument: positional, keyword, keyword-only, None, integer arrays, flags, strings, callables, pytrees."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.registry import each

# Arguments pass through the base on their way to the function: three solvers stand for all.
THREE = ("GradientDescent-ridge", "ProximalGradient-lasso", "Bisection-cubic")
TREES = ("GradientDescent-ridge", "LBFGS-zoom", "ProximalGradient-lasso")


@each(THREE, where=lambda case: case.passes_on)
def test_every_kind_of_argument(case):
    def fun(params, theta, nothing, *rest, index, mode, flag, tree, activation, scale=1.0, **others):
        assert nothing is None
        assert mode == "double"
        assert flag is True
        assert others["extra"].dtype == jnp.int32
        return case.fun(params, activation(theta[index]) * tree["a"][0] * rest[0] * scale)

    solver = case.make(fun)
    kwargs = {
        "index": jnp.asarray([1, 0]),
        "mode": "double",
        "flag": True,
        "activation": jnp.negative,
        "extra": jnp.zeros(1, jnp.int32),
        "scale": -1.0,
    }

    def solution(theta, tree):
        return solver.run(case.init, *case.before, theta, None, 1.0, tree=tree, **kwargs).params

    tree = {"a": [jnp.ones((), case.theta.dtype)], "b": None}
    theta = case.theta[::-1]
    np.testing.assert_allclose(solution(theta, tree), jax.jit(case.exact)(case.theta), rtol=0, atol=1e-6)
    # In the argument alone, and in an argument and a keyword.
    got = jax.jit(lambda t, a: (jax.jacfwd(solution)(t, a), jax.jacrev(solution, argnums=(0, 1))(t, a)))(theta, tree)
    forward, (reverse, by_keyword) = got
    exact = jax.jit(jax.jacfwd(case.exact))(case.theta)
    for jacobian in (forward, reverse):
        np.testing.assert_allclose(jacobian, exact[:, ::-1], rtol=0, atol=1e-5)
    assert by_keyword["b"] is None
    np.testing.assert_allclose(by_keyword["a"][0], exact @ case.theta, rtol=0, atol=1e-5)


def _of_vectors(case):
    return case.scalar and case.pytrees and "simplex" not in case.name


@each(TREES, where=_of_vectors)
def test_a_function_that_mutates_its_parameters_harms_nobody(case):
    def fun(params, theta):
        w = params.pop("w")
        params["else"] = 0
        return case.fun(w, theta)

    init = {"w": case.init}
    params, _ = case.run(case.make(fun), case.theta, init)
    assert set(params) == set(init) == {"w"}
    np.testing.assert_allclose(params["w"], jax.jit(case.exact)(case.theta), rtol=0, atol=1e-6)


@each(TREES, where=_of_vectors)
def test_mixed_leaf_dtypes_are_kept_leaf_by_leaf(case):
    def fun(params, theta):
        w = jnp.concatenate([params["a"].astype(jnp.float32), params["b"].astype(jnp.float32)])
        return case.fun(w, theta.astype(jnp.float32))

    init = {"a": case.init[:2].astype(jnp.float32), "b": case.init[2:].astype(jnp.float64)}
    solver = case.make(fun, tol=1e-3, maxiter=300)
    params, _ = case.run(solver, case.theta, init)
    assert params["a"].dtype == jnp.float32
    assert params["b"].dtype == jnp.float64
    np.testing.assert_allclose(
        np.concatenate([params["a"], params["b"]]), jax.jit(case.exact)(case.theta), rtol=0, atol=2e-3
    )
    gradient = jax.grad(lambda t: jnp.sum(case.run(solver, t, init).params["b"]))(case.theta)
    assert np.all(np.isfinite(gradient))
