"""Barriers of exponential and power cones against automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve.solvers.conic._barriers import Exponential, Power, _gradient, _hessian, _third


@pytest.mark.parametrize("alpha", [None, 0.05, 0.3, 0.8])
def test_derivatives_and_shadows(alpha):
    rng = np.random.default_rng(0)
    barrier = Exponential() if alpha is None else Power(jnp.asarray(alpha))

    @jax.jit
    def both(z, a, b):
        gradient = jax.grad(barrier.dual_barrier)
        hessian = jax.jacfwd(gradient)
        curve = barrier.curve(z)
        closed = _gradient(curve, z), _hessian(curve, z), _third(curve, z, a, b), barrier.shadow(-gradient(z))
        _, third = jax.jvp(lambda z: hessian(z) @ a, (z,), (b,))
        return closed, (gradient(z), hessian(z), third, z), barrier.is_dual_inside(z)

    checked = 0
    for number in range(20):
        step, a, b = rng.normal(size=(3, 3))
        step *= number > 0  # first the center, where an entry of a power cone is 0
        z = np.asarray(barrier.center()) + 0.3 * step
        found, wanted, inside = both(*map(jnp.asarray, (z, a, b)))
        if inside:
            checked += 1
            for one, other in zip(found, wanted, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-12 * float(jnp.max(jnp.abs(other))))
    assert checked >= 5
