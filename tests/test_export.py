"""Programs exported with a symbolic size: one program for every length of the data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jaxsolve
from tests.registry import CASES, QUADRATIC_CASES, get_case, get_quadratic_case

SOLVERS = {
    "lbfgs": lambda fun: jaxsolve.LBFGS(fun, tol=1e-10),
    "gradient": lambda fun: jaxsolve.GradientDescent(fun, tol=1e-10, maxiter=2000),
    "fixed point": lambda fun: jaxsolve.FixedPointIteration(
        lambda w, c: w - 0.1 * jax.grad(fun)(w, c), tol=1e-10, maxiter=2000
    ),
}


def coupled(w, c):
    """Smallest at ``c - mean * n / (1 + n)``, where ``n`` is the length and ``mean`` that of ``c``."""
    return 0.5 * jnp.sum((w - c) ** 2) + 0.5 * jnp.sum(w) ** 2


@pytest.mark.parametrize("name", SOLVERS)
def test_solutions_and_gradients_with_a_symbolic_dimension(name):
    solver = SOLVERS[name](coupled)
    solution = lambda c: solver.run(jnp.zeros(c.shape), c).params
    both = lambda c: (solution(c), jax.grad(lambda c: solution(c)[0])(c))
    (n,) = export.symbolic_shape("n")
    exported = export.export(jax.jit(both))(jax.ShapeDtypeStruct((n,), jnp.float64))
    for size in (2, 5):
        c = np.arange(1.0, size + 1)
        params, gradient = exported.call(c)
        np.testing.assert_allclose(params, c - c.sum() / (1 + size), rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(gradient, np.eye(size)[0] - 1 / (1 + size), rtol=1e-8, atol=1e-8)


def registered(name):
    return get_case(name) if name in CASES else get_quadratic_case(name)


# Programs outside of JAX are called back, and jax serializes no callbacks.
EXTERNAL = ("Scipy", "CvxpyQP", "ExternalOSQP")
EXPORTED = [name for name in [*CASES, *QUADRATIC_CASES] if not name.startswith(EXTERNAL)]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_every_solver_with_a_symbolic_batch_size(name):
    """Solutions and gradients of a batch under ``vmap``."""
    case = registered(name)
    solver, primal = case.make(), getattr(case, "primal", lambda params: params)
    first = lambda params: jax.tree.leaves(primal(params))[0][0]
    both = lambda theta: (
        first(case.run(solver, theta).params),
        jax.grad(lambda t: first(case.run(solver, t).params))(theta),
    )
    theta = jnp.asarray(case.theta)
    (b,) = export.symbolic_shape("b")
    exported = export.export(jax.jit(jax.vmap(both)))(jax.ShapeDtypeStruct((b, *theta.shape), theta.dtype))
    value, gradient = jax.value_and_grad(lambda theta: first(case.exact(theta)))(theta)
    for size in (1, 3):
        found = exported.call(jnp.stack(size * [theta]))
        np.testing.assert_allclose(found[0], np.full(size, value), rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(found[1], np.tile(gradient, (size, 1)), rtol=1e-6, atol=1e-7)
