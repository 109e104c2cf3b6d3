r"""Structured prediction
=====================

Structured prediction with Fenchel-Young losses: put the digits of a page into order.

An input is a page with k images of handwritten digits; the output is the ranking of the images by the digits they show.
A small model gives each image a score, and the prediction sorts the scores: it maximizes <mu, scores> over the rankings
mu. Training never sees a label, only rankings. For a smoothed maximum F the loss

::

    F(scores) - <ranking, scores>         has the gradient        prediction(scores) - ranking

with a prediction inside the convex hull of the rankings, and it is convex in the scores. Two ways to smooth:

- regularization: the prediction is the Euclidean projection on the permutahedron;
- perturbation: it is the mean of the rankings of perturbed scores, which needs only a sort.

References: Blondel, Martins, Niculae (2020), "Learning with Fenchel-Young losses"; Berthet et al. (2020), "Learning
with differentiable perturbed optimizers".
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from jaxsolve.loss import make_fenchel_young_loss
from jaxsolve.perturbations import Normal, make_perturbed_max
from jaxsolve.projection import projection_permutahedron


def load_pages(num_train=400, num_test=200, k=5, seed=0):
    """Pages of k images with different digits, and their rankings from 1 to k; returns X, Y, X_test, Y_test."""
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images / 16, labels, test_size=0.3, random_state=seed)
    rng = np.random.default_rng(seed)

    def pages(images, labels, count):
        digits = np.array([rng.choice(10, k, replace=False) for _ in range(count)])
        chosen = [[rng.choice(np.flatnonzero(labels == digit)) for digit in page] for page in digits]
        return jnp.asarray(images[chosen], jnp.float32), jnp.asarray(ranking(jnp.asarray(digits, jnp.float32)))

    return *pages(split[0], split[2], num_train), *pages(split[1], split[3], num_test)


def ranking(scores):
    """The ranks of the scores along the last axis, from 1: the maximizer of <mu, scores> over rankings mu."""
    return 1.0 + jnp.argsort(jnp.argsort(scores, axis=-1), axis=-1).astype(scores.dtype)


def regularized_max(scores):
    """Maximum of <mu, scores> - |mu|^2 / 2 over the convex hull of the rankings."""
    mu = projection_permutahedron(scores, jnp.arange(1.0, scores.size + 1, dtype=scores.dtype))
    return jnp.vdot(mu, scores) - 0.5 * jnp.vdot(mu, mu)


perturbed_max = make_perturbed_max(ranking, num_samples=20, sigma=1.0, noise=Normal())

LOSSES = {
    "regularized": lambda y, scores, key: make_fenchel_young_loss(regularized_max)(y, scores),
    "perturbed": lambda y, scores, key: make_fenchel_young_loss(perturbed_max)(y, scores, rng=key),
}


def init_params(key, hidden=64):
    """A network with one hidden layer, the same for every image."""
    keys = jax.random.split(key)
    return {
        "in": 0.2 * jax.random.normal(keys[0], (64, hidden)),
        "bias": jnp.zeros(hidden),
        "out": 0.1 * jax.random.normal(keys[1], (hidden,)),
    }


def score(params, pages):
    """One score an image."""
    return jax.nn.relu(pages @ params["in"] + params["bias"]) @ params["out"]


def train(loss, X, Y, num_steps=300, batch=50, seed=0):
    """Minimize the mean loss by Adam."""
    keys = jax.random.split(jax.random.key(seed))
    params = init_params(keys[0])
    optimizer = optax.adam(1e-2)

    def objective(params, X, Y, key):
        return jnp.mean(jax.vmap(loss)(Y, score(params, X), jax.random.split(key, Y.shape[0])))

    def step(carry, key):
        params, state = carry
        rows = jax.random.choice(key, Y.shape[0], (batch,), replace=False)
        value, grads = jax.value_and_grad(objective)(params, X[rows], Y[rows], key)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), value

    run = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys))
    (params, _), values = run((params, optimizer.init(params)), jax.random.split(keys[1], num_steps))
    return params, values


def evaluate(params, X, Y):
    """Fraction of pages ranked without a mistake, and of pairs of images in the right order."""
    predicted = ranking(score(params, X))
    pairs = (predicted[:, :, None] < predicted[:, None]) == (Y[:, :, None] < Y[:, None])
    k = Y.shape[1]
    return float(jnp.mean(jnp.all(predicted == Y, axis=1))), float((jnp.mean(pairs) * k - 1) / (k - 1))


def main(num_train=400, num_steps=300):
    """Train with both losses; returns whether both order most pairs of unseen images right."""
    X, Y, X_test, Y_test = load_pages(num_train)
    before = evaluate(init_params(jax.random.key(0)), X_test, Y_test)
    print(f"pages of {Y.shape[1]} digits, {num_train} to learn from    whole page right    pairs right")
    print(f"  {'untrained':36}{before[0]:17.3f}{before[1]:15.3f}")
    good = True
    for name, loss in LOSSES.items():
        start = time.perf_counter()
        params, _ = train(loss, X, Y, num_steps)
        page, pairs = evaluate(params, X_test, Y_test)
        good &= pairs > 0.8
        print(f"  {name:36}{page:17.3f}{pairs:15.3f}    {time.perf_counter() - start:.1f} s")
    return good


if __name__ == "__main__":
    sys.exit(not main())
