"""The primitive with tangents of its own."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._compat import _accepts_compiler_option, outside_transformations
from jaxsolve._primitives import with_tangents


def cube_root(theta):
    """x with x ** 3 = theta, computed without autodiff and given its derivative by a rule."""
    value = jax.lax.stop_gradient(jnp.cbrt(theta))
    rule = lambda args, active, tangents: [tangents[0] / (3 * args[0] ** 2)]
    return with_tangents([value], [theta], rule)[0]


def test_all_modes_and_orders():
    for f in (
        jax.grad,
        jax.jacfwd,
        jax.hessian,
        lambda f: jax.grad(jax.grad(f)),
        lambda f: jax.grad(jax.jacfwd(f)),
        lambda f: jax.jacfwd(jax.hessian(f)),
    ):
        np.testing.assert_allclose(f(cube_root)(2.0), f(jnp.cbrt)(2.0), rtol=1e-12)
        np.testing.assert_allclose(jax.jit(f(cube_root))(2.0), f(jnp.cbrt)(2.0), rtol=1e-12)


def test_the_rule_survives_partial_evaluation():
    """A custom_jvp is forgotten by reverse mode through scan after one use (jax 0.10.1)."""
    thetas = jnp.asarray([1.0, 2.0])

    def through(f, thetas):
        scanned = jax.lax.scan(lambda c, t: (c * f(t), f(t)), 1.0, thetas)
        branched = jax.lax.cond(thetas[0] > 0, f, lambda t: t, thetas[1])
        looped = jax.lax.fori_loop(0, 2, lambda i, c: c * f(thetas[0] + 1), 1.0)
        return scanned[0] + scanned[1].sum() + branched + looped

    for mode in (jax.hessian, lambda f: jax.jacrev(jax.jacrev(f)), lambda f: jax.jacfwd(jax.jacfwd(f))):
        got, want = (mode(lambda ts: through(f, ts))(thetas) for f in (cube_root, jnp.cbrt))
        np.testing.assert_allclose(got, want, rtol=1e-10)


def test_batching():
    thetas = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])
    got = jax.vmap(jax.vmap(jax.grad(cube_root)), in_axes=1)(thetas)
    np.testing.assert_allclose(got, jax.vmap(jax.vmap(jax.grad(jnp.cbrt)), in_axes=1)(thetas))
    product = lambda f: lambda t, s: jnp.sum(jax.vmap(lambda s: f(t) * s)(s))
    np.testing.assert_allclose(
        jax.grad(product(cube_root))(2.0, thetas[0]), jax.grad(product(jnp.cbrt))(2.0, thetas[0]), rtol=1e-12
    )


def test_outside_transformations():
    seen = []
    assert outside_transformations()
    jax.jit(lambda x: (seen.append(outside_transformations()), x)[1])(1.0)
    jax.grad(lambda x: (seen.append(outside_transformations()), x)[1])(1.0)
    assert seen == [False, False]


def test_options_of_the_compiler_are_tried_outside_of_the_trace_that_asks():
    """In it every option is refused, and the answer is kept for all programs to come."""
    _accepts_compiler_option.cache_clear()
    inside = []
    jax.make_jaxpr(lambda x: inside.append(_accepts_compiler_option("xla_embed_ir_in_executable", False)) or x)(1.0)
    assert inside == [True]
    assert not _accepts_compiler_option("no_such_option", False)
