"""Perturbed optimizers: against closed forms, derivatives in both modes, pytrees, keys, bad input."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import perturbations as P

KEY = jax.random.key(0)
X = jnp.array([0.3, -0.2, 0.5, 0.1])


def one_hot_argmax(x):
    return jax.nn.one_hot(jnp.argmax(x), x.shape[-1], dtype=x.dtype)


def test_gumbel_argmax_is_softmax():
    sigma = 0.7
    fun = jax.jit(P.make_perturbed_argmax(one_hot_argmax, 20_000, sigma, control_variate=True))
    softmax = lambda x: jax.nn.softmax(x / sigma)
    np.testing.assert_allclose(fun(X, KEY), softmax(X), atol=0.02)
    jac = jax.jit(jax.jacrev(fun))(X, KEY)
    np.testing.assert_allclose(jac, jax.jacobian(softmax)(X), atol=0.04)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(fun))(X, KEY), jac, atol=1e-12)


def test_gumbel_max_is_logsumexp():
    sigma = 0.7
    fun = P.make_perturbed_max(one_hot_argmax, 20_000, sigma)
    smooth = lambda x: sigma * (jax.nn.logsumexp(x / sigma) + np.euler_gamma)
    value, gradient = jax.jit(jax.value_and_grad(fun))(X, rng=KEY)
    np.testing.assert_allclose(value, smooth(X), atol=0.02)
    np.testing.assert_allclose(gradient, P.make_perturbed_argmax(one_hot_argmax, 20_000, sigma)(X, KEY), atol=1e-14)
    slope = jax.jit(lambda x: jax.jvp(lambda x: fun(x, rng=KEY), (x,), (jnp.ones(4),))[1])(X)
    np.testing.assert_allclose(slope, 1.0)
    hessian = jax.jit(jax.hessian(fun))(X, KEY)
    np.testing.assert_allclose(hessian, jax.hessian(smooth)(X), atol=0.05)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-14)
    # And that of the maximizer, symmetrized.
    jac = jax.jit(jax.jacrev(P.make_perturbed_argmax(one_hot_argmax, 20_000, sigma)))(X, KEY)
    np.testing.assert_allclose(hessian, (jac + jac.T) / 2, atol=1e-12)
    third = jax.jit(jax.grad(jax.grad(jax.grad(lambda t: fun(X + t * X, KEY)))))(0.0)
    np.testing.assert_allclose(third, jax.grad(jax.grad(jax.grad(lambda t: smooth(X + t * X))))(0.0), atol=0.1)


@pytest.mark.parametrize("control_variate", [False, True])
def test_normal_mean_of_a_smooth_function(control_variate):
    # E cos(x + s Z) = exp(-s^2 / 2) cos(x), and so for its derivatives.
    fun = P.make_perturbed_fun(lambda x: jnp.sum(jnp.cos(x)), 50_000, 0.8, P.Normal(), control_variate)
    exact = lambda x: jnp.exp(-0.32) * jnp.sum(jnp.cos(x))
    x = jnp.array([0.4, 1.1])
    for derivative, atol in ((lambda f: f, 0.02), (jax.grad, 0.03), (jax.hessian, 0.06)):
        np.testing.assert_allclose(jax.jit(derivative(fun))(x, KEY), derivative(exact)(x), atol=atol)


def test_control_variate_changes_no_value_and_lowers_the_variance():
    # A constant is what it removes.
    fun = lambda x: 5 + jnp.sign(x)
    funs = [P.make_perturbed_fun(fun, 50, 0.5, control_variate=c) for c in (False, True)]
    x = X
    np.testing.assert_allclose(funs[0](x, KEY), funs[1](x, KEY), atol=1e-14)
    keys = jax.random.split(KEY, 50)
    spread = [float(jnp.var(jax.jit(jax.vmap(jax.jacrev(f), (None, 0)))(x, keys), axis=0).sum()) for f in funs]
    assert spread[1] < spread[0] / 5


def test_trees_and_extra_arguments():
    def argmax_fun(tree, scale):
        flat, unravel = jax.flatten_util.ravel_pytree(tree)
        return unravel(one_hot_argmax(scale * flat))

    tree = {"a": X[:2], "b": (X[2], X[3:])}
    fun = jax.jit(P.make_perturbed_argmax(argmax_fun, 2000, 0.7))
    out = fun(tree, KEY, 2.0)
    assert jax.tree.structure(out) == jax.tree.structure(tree)
    np.testing.assert_allclose(sum(jnp.sum(leaf) for leaf in jax.tree.leaves(out)), 1.0)
    gradient = jax.jit(jax.grad(P.make_perturbed_max(argmax_fun, 2000, 0.7)))(tree, KEY, scale=2.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-14), gradient, out)
    # Another argument is differentiated as it is.
    smooth = P.make_perturbed_fun(lambda x, a: a * jnp.sum(jnp.sign(x)), 200, 0.5)
    np.testing.assert_allclose(jax.grad(smooth, 2)(X, KEY, 3.0), smooth(X, KEY, 1.0))
    captured = lambda a: P.make_perturbed_fun(lambda x: a * jnp.sum(jnp.sign(x)), 200, 0.5)(X, KEY)
    np.testing.assert_allclose(jax.jit(jax.grad(captured))(3.0), smooth(X, KEY, 1.0))


def test_boolean_and_integer_results_are_averaged():
    out = P.make_perturbed_fun(lambda x: (x > 0, jnp.argmax(x)), 500, 1.0)(X, KEY)
    assert np.all((out[0] > 0) & (out[0] < 1)) and out[1].dtype == X.dtype


def test_vmap_over_inputs_and_keys():
    fun = P.make_perturbed_argmax(one_hot_argmax, 100, 0.5)
    xs, keys = jnp.stack([X, -X]), jax.random.split(KEY, 2)
    both = jax.jit(jax.vmap(fun))(xs, keys)
    np.testing.assert_allclose(both, [fun(x, k) for x, k in zip(xs, keys, strict=True)], atol=1e-14)


@pytest.mark.float32
def test_dtype_is_kept_and_the_key_decides():
    x = X.astype(jnp.float32)
    for make in (P.make_perturbed_argmax, P.make_perturbed_max):
        fun = make(one_hot_argmax, 100, 0.5)
        assert fun(x, KEY).dtype == jnp.float32 and jax.grad(lambda v: jnp.sum(fun(v, KEY)))(x).dtype == jnp.float32
        np.testing.assert_array_equal(fun(x, KEY), fun(x, rng=KEY))
        # A key of the old kind is a key.
        assert np.all(np.isfinite(fun(x, jax.random.PRNGKey(1))))


def test_same_samples_as_jaxopt():
    # Numbers of JAXopt 0.8.5: programs that move keep their random results.
    key = jax.random.key(3)
    f = lambda x: jnp.sum(jnp.sign(x) * x**2)
    numbers = {P.Gumbel: (1.8093621556929744, 1.2539330681939207), P.Normal: (0.4468502045235037, 0.833652614356063)}
    for noise, (mean, maximum) in numbers.items():
        np.testing.assert_allclose(P.make_perturbed_argmax(one_hot_argmax, 7, 0.5, noise())(X, key) * 7, [5, 0, 1, 1])
        np.testing.assert_allclose(P.make_perturbed_fun(f, 7, 0.5, noise())(X, key), mean)
        np.testing.assert_allclose(P.make_perturbed_max(one_hot_argmax, 7, 0.5, noise())(X, key), maximum)
    gradients = {
        False: [2.504655329927, 0.77508844126, 0.116474965799, -0.371446535737],
        True: [2.170224699194, 0.887614666383, 0.265133086243, -0.265492666401],
    }
    for control_variate, gradient in gradients.items():
        fun = P.make_perturbed_fun(f, 7, 0.5, control_variate=control_variate)
        np.testing.assert_allclose(jax.grad(fun)(X, key), gradient, rtol=1e-10)


def test_noise_of_ones_own():
    class Entrywise:
        def sample(self, key, shape):
            return jax.random.normal(key, shape)

        def log_prob(self, z):
            return -0.5 * z**2

    class Summed(Entrywise):
        def log_prob(self, z):
            return -0.5 * jnp.sum(z**2)

    class Named(Summed):
        def sample(self, *, seed, sample_shape):
            return jax.random.normal(seed, sample_shape)

    values = []
    for noise in (P.Normal(), Entrywise(), Summed(), Named()):
        fun = P.make_perturbed_fun(lambda x: jnp.sum(jnp.sign(x) * x**2), num_samples=50, noise=noise)
        values.append(jax.value_and_grad(fun)(X, KEY))
    for value, gradient in values[1:]:
        np.testing.assert_allclose(value, values[0][0], rtol=1e-12)
        np.testing.assert_allclose(gradient, values[0][1], rtol=1e-10)


def test_signatures():
    for make in (P.make_perturbed_argmax, P.make_perturbed_max, P.make_perturbed_fun):
        assert list(inspect.signature(make(jnp.sign)).parameters)[:2] == ["inputs", "rng"]


def test_bad_input():
    for make in (P.make_perturbed_argmax, P.make_perturbed_max, P.make_perturbed_fun):
        with pytest.raises(TypeError, match="must be a function"):
            make(1.0)
        with pytest.raises(ValueError, match="num_samples must be a positive integer, got 0"):
            make(one_hot_argmax, num_samples=0)
        with pytest.raises(ValueError, match="sigma must be a positive scalar, got -1"):
            make(one_hot_argmax, sigma=-1.0)
        with pytest.raises(TypeError, match="noise must have the methods sample and log_prob, got str"):
            make(one_hot_argmax, noise="gumbel")
    with pytest.raises(ValueError, match="argmax_fun must return the structure and shapes of its input"):
        P.make_perturbed_max(jnp.argmax)(X, KEY)
