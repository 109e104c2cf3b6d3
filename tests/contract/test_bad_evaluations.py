"""One evaluation of the function is NaN or infinite, whichever it is: the result is finite and the status true."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve import Status
from tests.registry import each


class Counter:
    """What to multiply values by: 1, but ``bad`` at the evaluation of that number, counted by the host."""

    def __init__(self):
        self.calls, self.number, self.bad = 0, 0, np.nan

    def start(self, number, bad):
        self.calls, self.number, self.bad = 0, number, bad

    def factor(self, point):
        self.calls += 1
        return np.asarray(self.bad if self.calls == self.number else 1, point.dtype)


COUNTER = Counter()


@jax.custom_jvp
def factor(point):
    """A constant to derivatives, which are bad where the value is."""
    like = jax.ShapeDtypeStruct((), point.dtype)
    return jax.pure_callback(lambda x: COUNTER.factor(x), like, point, vmap_method="sequential")


@factor.defjvp
def _constant(primals, tangents):
    return factor(*primals), jnp.zeros_like(tangents[0])


THREE = ("GradientDescent-ridge", "LBFGS-zoom", "LevenbergMarquardt-qr")


@each(THREE)
def test_one_bad_evaluation(case):
    def sometimes(params, theta):
        return case.fun(params, theta) * factor(jnp.sum(params))

    run = jax.jit(lambda theta: case.run(case.make(sometimes, maxiter=200), theta))
    exact = jax.jit(case.exact)(case.theta)
    for number in (0, 1, 2, 3, 5, 8):
        for bad in (np.nan, np.inf, -np.inf) if number else (1.0,):
            COUNTER.start(number, bad)
            params, state = jax.device_get(run(case.theta))
            how = f"evaluation {number} is {bad}: {Status(int(state.status)).name}"
            assert np.all(np.isfinite(params)), how
            assert int(state.status) != Status.RUNNING, how
            if int(state.status) == Status.CONVERGED or COUNTER.calls < number:
                scale = max(1, np.max(np.abs(exact)))
                np.testing.assert_allclose(params, exact, rtol=0, atol=case.tolerance() * scale, err_msg=how)
