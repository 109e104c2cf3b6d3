"""The unit of the objective and that of the parameters change iterates by their factor and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import Status

# Exponents of 2: the objective, then the parameters, are measured in units of 2**k.
EXPONENTS = np.array([(0, 0), (-40, 0), (-13, 0), (40, 0), (0, -40), (0, 7), (0, 40)])


def rosenbrock(z):
    return jnp.sum(100.0 * (z[1:] - z[:-1] ** 2) ** 2 + (1.0 - z[:-1]) ** 2)


def in_units(z, c, u):
    return c * rosenbrock(z / u)


def run_all(make, dtype, start):
    """Runs in all units: parameters in the plain one, and states."""
    factors = jnp.asarray(np.exp2(EXPONENTS).astype(dtype))
    start = jnp.asarray(start, dtype)
    run = jax.jit(jax.vmap(lambda c, u: make().run(start * u, c, u)))
    params, state = run(factors[:, 0], factors[:, 1])
    return np.asarray(params / factors[:, 1:]), state


DTYPES = [pytest.param(np.float32, marks=pytest.mark.float32), np.float64]
SOLVERS = {
    "zoom": lambda **o: jaxsolve.LBFGS(in_units, maxiter=200, **o),
    "hager-zhang": lambda **o: jaxsolve.LBFGS(in_units, maxiter=200, linesearch="hager-zhang", **o),
    "backtracking": lambda **o: jaxsolve.LBFGS(in_units, maxiter=200, linesearch="backtracking", **o),
    "armijo": lambda **o: jaxsolve.LBFGS(in_units, maxiter=200, linesearch="backtracking", condition="armijo", **o),
    "steepest-descent": lambda **o: jaxsolve.LBFGS(in_units, maxiter=200, history_size=0, **o),
    "bfgs": lambda **o: jaxsolve.BFGS(in_units, maxiter=200, **o),
    "bfgs-direct": lambda **o: jaxsolve.BFGS(in_units, maxiter=200, form="direct", linesearch="hager-zhang", **o),
    "newton-cg": lambda **o: jaxsolve.NewtonCG(in_units, maxiter=200, **o),
    "trust-newton": lambda **o: jaxsolve.TrustNewton(in_units, maxiter=200, **o),
    **{
        f"cg-{method}": lambda method=method, **o: jaxsolve.NonlinearCG(in_units, method=method, maxiter=500, **o)
        for method in ("polak-ribiere", "fletcher-reeves", "hestenes-stiefel", "dai-yuan", "hager-zhang")
    },
    "gradient-descent": lambda **o: jaxsolve.GradientDescent(in_units, maxiter=2000, **o),
    "plain-gradient-descent": lambda **o: jaxsolve.GradientDescent(in_units, maxiter=3000, acceleration=False, **o),
}
QUICK = {"zoom", "hager-zhang", "backtracking", "trust-newton", "gradient-descent"}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in SOLVERS])
def test_units_change_nothing(name, dtype):
    params, state = run_all(
        lambda: SOLVERS[name](tol=0.0, rtol=1e-3 if "gradient" in name else 1e-4), dtype, [-1.2, 1.0, 0.5]
    )
    for field in ("iter_num", "num_fun_eval", "num_grad_eval", "status"):
        np.testing.assert_array_equal(getattr(state, field), getattr(state, field)[0])
    np.testing.assert_array_equal(params, np.broadcast_to(params[0], params.shape))
    if name != "steepest-descent":
        np.testing.assert_array_equal(state.status, Status.CONVERGED)
        np.testing.assert_allclose(params, 1.0, atol=1.0 if "gradient" in name else 0.1)


def in_blocks(z, c, u):
    return c * rosenbrock(z / jnp.array([1, u, u], z.dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [jaxsolve.LBFGS, jaxsolve.GradientDescent])
def test_the_unit_of_a_block_changes_nothing_with_jacobi(make, dtype):
    units = jnp.asarray(np.exp2(np.array([0, -20, 5, 20])).astype(dtype))
    weights = lambda u: jnp.stack([jnp.ones_like(u), u, u])
    solver = make(in_blocks, scale="jacobi", tol=0.0, maxiter=30)
    start = jnp.asarray([-1.2, 1.0, 0.5], dtype)
    params, state = jax.jit(jax.vmap(lambda u: solver.run(start * weights(u), jnp.ones_like(u), u)))(units)
    params = np.asarray(params / jax.vmap(weights)(units))
    np.testing.assert_array_equal(params, np.broadcast_to(params[0], params.shape))
    np.testing.assert_array_equal(state.num_fun_eval, state.num_fun_eval[0])
    assert rosenbrock(params[0]) < 0.3 * rosenbrock(start)
    # The error is in these units too, and so runs end together.
    solver = make(in_blocks, scale="jacobi", tol=0.0, rtol=1e-3, maxiter=2000)
    _, state = jax.jit(jax.vmap(lambda u: solver.run(start * weights(u), jnp.ones_like(u), u)))(units)
    np.testing.assert_array_equal(state.iter_num, state.iter_num[0])
    np.testing.assert_array_equal(state.status, Status.CONVERGED)


def test_jacobi_makes_badly_scaled_variables_easy():
    curvatures = jnp.asarray(np.logspace(-3, 3, 7))
    fun = lambda x: jnp.sum(curvatures * (2.0 * jnp.sinh(x / 2) ** 2 + 0.1 * x))
    for make in (jaxsolve.LBFGS, jaxsolve.GradientDescent):
        params, state = make(fun, scale="jacobi", tol=1e-7, maxiter=100).run(jnp.ones(7))
        assert int(state.status) == Status.CONVERGED
        np.testing.assert_allclose(params, -np.arcsinh(0.1), atol=2e-4)
