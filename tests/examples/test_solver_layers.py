"""One layer in four libraries: all variants have the same losses and right gradients, and compile once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

LAYERS = [(library, "closure") for library in ("Flax linen", "Flax nnx", "Haiku", "Equinox")]
LAYERS += [pytest.param((library, "arguments"), marks=pytest.mark.slow) for library, _ in LAYERS]


@pytest.fixture(scope="module")
def problem(example):
    """Four images of five pixels, and weights of three filters: noisy, clean, W, b."""
    rng = np.random.default_rng(0)
    clean = rng.uniform(size=(4, 5))
    noisy = clean + 0.2 * rng.normal(size=clean.shape)
    return jnp.asarray(noisy), jnp.asarray(clean), *example.initial_weights(5, 3)


@pytest.fixture(scope="module")
def expected(problem):
    """Loss and gradient without a solver and without a library: Newton's method, image by image, unrolled."""
    noisy, clean, W, b = problem

    def denoised(x, W, b):
        def energy(z):
            return 0.5 * jnp.sum((z - x) ** 2) + jnp.sum(jnp.log(jnp.cosh(z @ W + b)))

        z = x
        for _ in range(5):
            z = z - jnp.linalg.solve(jax.hessian(energy)(z), jax.grad(energy)(z))
        return z

    def loss(W, b):
        return jnp.mean((jax.vmap(denoised, (0, None, None))(noisy, W, b) - clean) ** 2)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(W, b)


@pytest.mark.parametrize("name", LAYERS, ids=lambda name: " ".join(name))
def test_training_steps(example, problem, expected, name, monkeypatch):
    monkeypatch.setattr(example, "TOL", 1e-12)
    noisy, clean, W, b = problem
    variant = example.make_variant(name, W, b, optax.sgd(1.0))
    model, opt_state = variant.carry
    start = jax.tree.map(jnp.copy, model)  # nnx changes it in place

    (model, opt_state), value = variant.step(variant.carry, noisy, clean)
    np.testing.assert_allclose(value, expected[0], rtol=1e-9)
    # A step of gradient descent of length one is the gradient; this one is taken by Equinox with the transpose of W.
    gradient = jax.tree.map(lambda old, new: old - new, start, model)
    by_shape = {leaf.shape: leaf for leaf in jax.tree.leaves(gradient)}
    transposed = name[0] == "Equinox"
    np.testing.assert_allclose(by_shape[W.T.shape].T if transposed else by_shape[W.shape], expected[1][0], rtol=1e-6)
    np.testing.assert_allclose(by_shape[b.shape], expected[1][1], rtol=1e-6)

    rng, epsilon = np.random.default_rng(0), 1e-5
    direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), start)
    ahead, behind = (jax.tree.map(lambda x, d: x + t * d, start, direction) for t in (epsilon, -epsilon))
    compiled = len(example.compilations())
    losses = [float(variant.step((moved, opt_state), noisy, clean)[1]) for moved in (ahead, behind)]
    assert len(example.compilations()) == compiled
    slope = (losses[0] - losses[1]) / (2 * epsilon)
    along = jax.tree.map(lambda g, d: np.sum(np.asarray(g) * d), gradient, direction)
    np.testing.assert_allclose(sum(jax.tree.leaves(along)), slope, rtol=1e-6)


@pytest.mark.slow
def test_all_variants_train_alike(example, capsys):
    assert example.main(num_filters=24, num_steps=30, batch_size=20, num_images=100)
    assert capsys.readouterr().out.count("Haiku") == 2
