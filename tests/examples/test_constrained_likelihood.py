"""Constrained maximum likelihood: the estimate against SciPy, and the contributions of observations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize


@pytest.mark.slow
def test_the_estimate_is_that_of_scipy(example):
    times, mean = example.make_data(60)
    data = (times, jnp.ones(60), mean)
    params, state = example.fit(data[1], times, mean)

    def unpack(x):
        return {"weight": x[0], "rates": x[1:]}

    loss = jax.jit(jax.value_and_grad(lambda x: example.loss(unpack(x), *data)))
    excess = jax.jit(lambda x: example.excess(unpack(x), *data))
    oracle = minimize(
        lambda x: tuple(map(np.asarray, loss(jnp.asarray(x)))),
        [0.5, 2.0, 1.0],
        jac=True,
        method="SLSQP",
        bounds=[(0.01, 0.99), (1e-3, 1e3), (1e-3, 1e3)],
        constraints={"type": "eq", "fun": lambda x: np.asarray(excess(jnp.asarray(x)))},
        options={"ftol": 1e-14},
    )
    np.testing.assert_allclose(state.value, oracle.fun, rtol=1e-8)
    np.testing.assert_allclose([params["weight"], *params["rates"]], oracle.x, rtol=1e-4)
    assert abs(float(example.excess(params, *data))) < 1e-10


@pytest.mark.slow
def test_standard_errors(example, capsys):
    params, errors, difference = example.main(num=60)
    assert np.all(errors > 0) and difference < 0.3
    assert "leaving out" in capsys.readouterr().out
