"""Programs exported with a symbolic size: one program for every length of the data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jaxsolve

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
