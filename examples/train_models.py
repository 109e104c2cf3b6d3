r"""Training models in Flax and Haiku
=================================

A classifier in Flax and one in Haiku, trained by three solvers; and a layer that calls SciPy.

The model is a small network for scikit-learn's digits (1797 images of 64 pixels), in two libraries::

    scores(x; w) = tanh(x W + b) C + c.

Its parameters are a pytree, so they are the parameters of a solver, and the training loss is its function::

    OptaxSolver   Adam, on batches that an iterator draws, as are all stochastic solvers here;
    PolyakSGD     without a step size to choose: the method only needs to know that the loss of a batch can become 0;
    LBFGS         all images at once.

The layer is temperature scaling (Guo et al. 2017): the scores of test images are divided by the temperature T at which
the log-likelihood of held-out images is best, a minimum in one variable that ``scipy.optimize.minimize`` finds on the
host. If the scores are multiplied by s, the temperature is s times as large, so its derivative in s at s = 1 is T. The
table compares the two.

Reference: Guo, Pleiss, Sun and Weinberger (2017), "On calibration of modern neural networks".

::

    python examples/train_models.py
"""

import itertools
import sys
import time

import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxsolve

CLASSES = 10


class Network(nn.Module):
    """The network in Flax."""

    hidden: int

    @nn.compact
    def __call__(self, x):
        """Scores of images of shape (images, pixels)."""
        return nn.Dense(CLASSES)(nn.tanh(nn.Dense(self.hidden)(x)))


def make_models(hidden, example):
    """For each library the initial parameters and the function ``scores(params, x)``."""
    flax_model = Network(hidden)
    haiku_model = hk.without_apply_rng(
        hk.transform(lambda x: hk.Sequential([hk.Linear(hidden), jnp.tanh, hk.Linear(CLASSES)])(x))
    )
    key = jax.random.key(0)
    return {
        "Flax": (flax_model.init(key, example), flax_model.apply),
        "Haiku": (haiku_model.init(key, example), haiku_model.apply),
    }


def make_loss(scores):
    """The mean cross-entropy of a batch ``data = (images, labels)``."""

    def loss(params, data):
        x, y = data
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores(params, x), y))

    return loss


def batches(x, y, size=128, seed=0):
    """Random batches, without end."""
    rng = np.random.default_rng(seed)
    while True:
        rows = rng.permutation(len(x))[:size]
        yield x[rows], y[rows]


def train(loss, init, x, y, num_steps):
    """Parameters by each solver, and how the run ended."""

    def drawn():
        return itertools.islice(batches(x, y), num_steps)

    adam = jaxsolve.OptaxSolver(loss, optax.adam(1e-2), maxiter=num_steps, tol=0.0)
    polyak = jaxsolve.PolyakSGD(loss, max_stepsize=1.0, maxiter=num_steps, tol=0.0)
    lbfgs = jaxsolve.LBFGS(loss, maxiter=num_steps, tol=1e-3)
    return {
        "OptaxSolver": adam.run_iterator(init, drawn()),
        "PolyakSGD": polyak.run_iterator(init, drawn()),
        "LBFGS": lbfgs.run(init, (x, y)),
    }


def temperature(scores, labels):
    """The temperature at which the log-likelihood of labels is best, by SciPy; differentiable in the scores."""

    def negative_likelihood(log_temperature, scores):
        losses = optax.softmax_cross_entropy_with_integer_labels(scores / jnp.exp(log_temperature), labels)
        return jnp.mean(losses)

    solver = jaxsolve.ScipyMinimize(negative_likelihood, method="BFGS", tol=1e-5)
    return jnp.exp(solver.run(jnp.zeros(()), scores).params)


def scaled_temperature(scale, scores, labels):
    """The temperature of scores times a scale."""
    return temperature(scale * scores, labels)


def load_data():
    """Digits with pixels in [0, 1] and their labels, for training, for the temperature, and for tests."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    x, rest, y, rest_y = train_test_split(images, labels, test_size=600, stratify=labels, random_state=0)
    held, x_test, held_y, y_test = train_test_split(rest, rest_y, test_size=300, stratify=rest_y, random_state=0)
    return (x, y), (held, held_y), (x_test, y_test)


def main(hidden=32, num_steps=150):
    """Print the tables; returns whether all models have learned and the derivative of the temperature is right."""
    start = time.perf_counter()
    (x, y), (held, held_y), (x_test, y_test) = load_data()
    print(f"{'':8}{'solver':14}{'last loss':>10}{'test accuracy':>15}{'T':>8}{'dT/ds':>8}")
    learned = right = True
    for library, (init, scores) in make_models(hidden, jnp.asarray(x[:1])).items():
        for name, (params, state) in train(make_loss(scores), init, x, y, num_steps).items():
            accuracy = float(jnp.mean(jnp.argmax(scores(params, x_test), axis=1) == y_test))
            value, slope = jax.value_and_grad(scaled_temperature)(1.0, scores(params, held), held_y)
            print(f"{library:8}{name:14}{float(state.value):10.4f}{accuracy:15.3f}{value:8.3f}{slope:8.3f}")
            learned = learned and accuracy > 0.93
            right = right and abs(float(value - slope)) < 0.02 * float(value)
    print(f"test accuracy of all models above 93 %: {'yes' if learned else 'NO'}")
    print(f"derivative of the temperature within 2 %: {'yes' if right else 'NO'}")
    print(f"{time.perf_counter() - start:.0f} s")
    return learned and right


if __name__ == "__main__":
    sys.exit(not main())
