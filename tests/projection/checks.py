"""Derivatives of the first and second order, in both modes, against finite differences, in one compiled function."""

import jax
import jax.numpy as jnp
import numpy as np

STEP = 1e-4


def check_derivatives(fun, args, seed=0):
    """Compare every way to differentiate ``fun`` twice along a random line through ``args``."""
    rng = np.random.default_rng(seed)
    line = jax.tree.map(lambda v: jnp.asarray(rng.normal(size=np.shape(v))), tuple(args))
    out = jax.eval_shape(fun, *args)
    weights = jax.tree.map(lambda v: jnp.asarray(rng.normal(size=v.shape)), out)

    def along(t):
        moved = jax.tree.map(lambda v, u: v + t * u, tuple(args), line)
        # The square gives the second derivative something to see where fun is piecewise linear.
        terms = jax.tree.map(lambda v, w: jnp.sum(w * v + 0.5 * v**2), fun(*moved), weights)
        return jax.tree.reduce(jnp.add, terms)

    forward = lambda f: lambda t: jax.jvp(f, (t,), (1.0,))[1]

    @jax.jit
    def derivatives(t):
        first = jnp.stack([forward(along)(t), jax.grad(along)(t)])
        twice = (forward(forward(along)), forward(jax.grad(along)), jax.grad(jax.grad(along)))
        return along(t), first, jnp.stack([f(t) for f in twice])

    before, here, after = (derivatives(t) for t in (-STEP, 0.0, STEP))
    slope = (after[0] - before[0]) / (2 * STEP)
    curvature = (after[1][0] - before[1][0]) / (2 * STEP)
    np.testing.assert_allclose(here[1], np.full(2, slope), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(here[2], np.full(3, curvature), rtol=1e-6, atol=1e-6)
