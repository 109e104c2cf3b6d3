"""The accelerated iterations never raise the objective."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve.prox import prox_lasso, prox_none

RNG = np.random.default_rng(0)
A = jnp.asarray(RNG.normal(size=(30, 20)) * np.logspace(0, -1.5, 20))
Y = jnp.asarray(RNG.normal(size=30))


@pytest.mark.parametrize("reg", [0.0, 0.05])
@pytest.mark.parametrize("stepsize", [0.0, 0.01])
def test_objective_never_rises(reg, stepsize):
    """With and without a search, with and without a penalty; the last value is that of the minimum."""
    fun = lambda w: 0.5 * jnp.sum((A @ w - Y) ** 2)
    value = jax.jit(lambda w: fun(w) + reg * jnp.sum(jnp.abs(w)))
    prox, given = (prox_lasso, reg) if reg else (prox_none, None)
    solver = jaxsolve.ProximalGradient(fun, prox, stepsize=stepsize, tol=1e-8)

    def step(carry, _):
        params, state = solver.update(*carry, given)
        return jaxsolve.OptStep(params, state), value(params)

    start = jnp.full(20, 3.0)
    first = jaxsolve.OptStep(start, solver.init_state(start, given))
    _, values = jax.jit(lambda first: jax.lax.scan(step, first, None, length=3000))(first)
    values = np.append(value(start), values)
    assert np.max(np.diff(values)) <= 1e-14 * values[0]
    long = jaxsolve.ProximalGradient(fun, prox, tol=1e-10, maxiter=20_000).run(start, given).params
    np.testing.assert_allclose(values[-1], value(long), rtol=1e-5)
