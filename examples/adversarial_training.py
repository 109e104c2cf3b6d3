r"""Adversarial training
====================

Adversarial training: minimize the largest loss that a small change of the input can cause.

A classifier with weights w is trained on images x with pixels in [0, 1] and labels y so that it resists an attacker who
may change every pixel by at most epsilon::

    min_w  mean_i  max { loss(w, z, y_i) : |z - x_i| <= epsilon, 0 <= z <= 1, entry by entry }.

The constraints of the inner problem are a box, so ``ProjectedGradient`` with ``projection_box`` solves it, for a batch
of images by ``vmap``. What is the gradient of the outer problem? By Danskin's (the envelope) theorem the derivative of
a maximum is the derivative of the loss *at the fixed maximizer*. There are three ways to write that::

    fixed       the loss at ``stop_gradient(z*)``;
    value       ``state.value`` of the solver, which is differentiable;
    implicit    the loss at z*, differentiated through the solver too: the extra term is 0 at an exact maximizer.

All three are compared for attacks of growing accuracy. They agree at an exact maximizer. At an inexact one they differ
widely, because the term that the theorem drops is not 0 there. Training uses the first, which solves no linear system.

The loss is not concave in z: the solver finds a local maximum, and a stronger attack may find a worse one. So the table
counts an image as robust only if it withstands the solver started at the image, the solver started at random in the
box, and the sign-gradient attack of the paper with 40 steps, which shares no code with the solver.

The classifier is an Equinox model, passed to ``run`` as an argument of the function that is minimized.

Reference: Madry, Makelov, Schmidt, Tsipras, Vladu (2018), "Towards Deep Learning Models Resistant to Adversarial
Attacks".

::

    python examples/adversarial_training.py           scikit-learn's digits, 40 epochs
    python examples/adversarial_training.py --full    160 epochs
"""

import argparse
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxsolve
from jaxsolve.projection import projection_box
from jaxsolve.tree_util import tree_l2_norm

jax.config.update("jax_enable_x64", True)

OUTPUT = Path(__file__).parent / "output"
EPSILON = 0.15


# ---- Data and model -----------------------------------------------------------------------------------------------


def load_data(num_train=1000, seed=0):
    """Digits with pixels in [0, 1]; returns images (n, 64) and labels (n,) for training, and the same for testing."""
    images, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(
        images / 16, labels, train_size=num_train, stratify=labels, random_state=seed
    )
    return tuple(map(jnp.asarray, (x, y, x_test, y_test)))


def make_model(width=64, seed=0):
    """A network with two hidden layers, from one image (64,) to the scores of ten classes. It is smooth."""
    return eqx.nn.MLP(64, 10, width, 2, activation=jax.nn.softplus, key=jax.random.key(seed), dtype=jnp.float64)


def loss(model, image, label):
    """Cross entropy of one image."""
    return -jax.nn.log_softmax(model(image))[label]


# ---- The attack: the inner problem --------------------------------------------------------------------------------


def attack(model, image, label, init, epsilon=EPSILON, maxiter=10, tol=1e-3):
    """The worst image of the box around ``image``, searched from ``init``; returns it and the state of the solver."""
    solver = jaxsolve.ProjectedGradient(
        lambda z, model, label: -loss(model, z, label), projection_box, maxiter=maxiter, tol=tol
    )
    box = jnp.maximum(image - epsilon, 0.0), jnp.minimum(image + epsilon, 1.0)
    return solver.run(init, box, model, label)


def sign_attack(model, image, label, init, epsilon=EPSILON, num_steps=40):
    """The attack of the paper: steps along the sign of the gradient, cut to the box."""
    lower, upper = jnp.maximum(image - epsilon, 0.0), jnp.minimum(image + epsilon, 1.0)

    def step(_, z):
        z = z + 2.5 * epsilon / num_steps * jnp.sign(jax.grad(loss, 1)(model, z, label))
        return jnp.clip(z, lower, upper)

    return jax.lax.fori_loop(0, num_steps, step, init)


# ---- Training: the outer problem ----------------------------------------------------------------------------------


def adversarial_loss(model, images, labels, gradient="fixed", **options):
    """Mean of the largest losses; ``gradient`` is "fixed", "value" or "implicit"."""

    def one(image, label):
        if gradient == "fixed":
            frozen = jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf, model)
            z, _ = attack(frozen, image, label, image, **options)
            return loss(model, jax.lax.stop_gradient(z), label)
        z, state = attack(model, image, label, image, **options)
        return -state.value if gradient == "value" else loss(model, z, label)

    return jnp.mean(jax.vmap(one)(images, labels))


def ordinary_loss(model, images, labels):
    """Mean loss of the images as they are."""
    return jnp.mean(jax.vmap(loss, (None, 0, 0))(model, images, labels))


def train(objective, model, images, labels, num_epochs, batch_size=100, learning_rate=5e-3, seed=0):
    """Minimize an objective by Adam; returns the model and the mean loss of every epoch."""
    num_batches = len(images) // batch_size
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_epochs * num_batches))
    opt_state = optimizer.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def step(model, opt_state, images, labels):
        value, gradient = eqx.filter_value_and_grad(objective)(model, images, labels)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return eqx.apply_updates(model, updates), opt_state, value

    rng, losses = np.random.default_rng(seed), []
    for _ in range(num_epochs):
        order = rng.permutation(len(images))[: num_batches * batch_size].reshape(num_batches, batch_size)
        values = []
        for rows in order:
            model, opt_state, value = step(model, opt_state, images[rows], labels[rows])
            values.append(float(value))
        losses.append(np.mean(values))
    return model, losses


# ---- Measuring ----------------------------------------------------------------------------------------------------


@eqx.filter_jit
def survival(model, images, labels, noise):
    """Which images are classified correctly: clean, after the solver's attacks, after the sign attack, after all.

    Four arrays of shape (images,), and the fraction of the solver's attacks that converged.
    """

    def one(image, label, noise):
        def right(z):
            return jnp.argmax(model(z)) == label

        start = jnp.clip(image + EPSILON * noise, 0.0, 1.0)
        found = [attack(model, image, label, init, maxiter=100) for init in (image, start)]
        clean, solver = right(image), right(found[0].params) & right(found[1].params)
        sign = right(sign_attack(model, image, label, start))
        converged = jnp.mean(jnp.stack([step.state.status == jaxsolve.Status.CONVERGED for step in found]))
        return clean, clean & solver, clean & sign, clean & solver & sign, converged

    *survived, converged = jax.vmap(one)(images, labels, noise)
    return jnp.stack(survived), jnp.mean(converged)


def compare_gradients(model, images, labels, tolerances=(1e-2, 1e-4, 1e-9), maxiter=2000):
    """Rows of (tol of the attack, differences of "value" and "implicit" to "fixed", relative to its norm)."""

    @eqx.filter_jit
    def gradients(model, tol):
        ways = ("fixed", "value", "implicit")
        return [eqx.filter_grad(adversarial_loss)(model, images, labels, way, maxiter=maxiter, tol=tol) for way in ways]

    rows = []
    print(f"{'tol of the attack':20}{'value to fixed':>16}{'implicit to fixed':>20}")
    for tol in tolerances:
        # The tolerance is traced: one program serves all.
        fixed, *others = gradients(model, jnp.asarray(tol))
        differences = [tree_l2_norm(jax.tree.map(jnp.subtract, fixed, other)) for other in others]
        rows.append((tol, *(float(difference / tree_l2_norm(fixed)) for difference in differences)))
        print(f"{tol:<20.0e}{rows[-1][1]:16.1e}{rows[-1][2]:20.1e}", flush=True)
    return rows


def plot(models, image, label, path):
    """Draw an image, and what the attack on each model makes of it."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 1 + len(models), figsize=(2.4 * (1 + len(models)), 2.8), layout="constrained")
    pictures = {"image": image}
    for name, model in models.items():
        z = eqx.filter_jit(attack)(model, image, label, image, maxiter=100).params
        pictures[f"{name}:\nattacked, read as {int(jnp.argmax(model(z)))}"] = z
    for axis, (title, picture) in zip(axes, pictures.items(), strict=True):
        axis.imshow(picture.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        axis.set(title=title, xticks=[], yticks=[])
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"figure: {path.parent.name}/{path.name}")


def main(num_epochs=40, num_train=1000, num_test=400, seed=0):
    """Train both ways and print the tables; returns whether the gradients agree and robustness is gained."""
    start = time.perf_counter()
    x, y, x_test, y_test = load_data(num_train)
    x_test, y_test = x_test[:num_test], y_test[:num_test]
    noise = jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, size=x_test.shape))
    models, accuracies, fallen = {}, {}, True
    for name, objective in (("ordinary training", ordinary_loss), ("adversarial training", adversarial_loss)):
        models[name], losses = train(objective, make_model(seed=seed), x, y, num_epochs, seed=seed)
        fallen &= losses[-1] < losses[0]
        print(f"{name:22}its loss {losses[0]:.3f} -> {losses[-1]:.3f}", flush=True)
    print(f"\nAccuracy on {len(y_test)} test images, every pixel changed by at most {EPSILON}")
    print(f"{'':22}{'clean':>8}{'solver':>9}{'signs':>9}{'all attacks':>13}{'converged':>11}")
    for name, model in models.items():
        survived, converged = survival(model, x_test, y_test, noise)
        accuracies[name] = jnp.mean(survived, axis=1)
        clean, solver, sign, both = map(float, accuracies[name])
        print(f"{name:22}{clean:8.1%}{solver:9.1%}{sign:9.1%}{both:13.1%}{float(converged):11.1%}", flush=True)

    print("\nGradient of the adversarial loss of 20 images, three ways (relative differences)")
    rows = compare_gradients(models["adversarial training"], x[:20], y[:20])
    broken = int(jnp.argmin(survival(models["ordinary training"], x_test, y_test, noise)[0][3]))
    plot(models, x_test[broken], y_test[broken], OUTPUT / "adversarial_training.png")
    robust = accuracies["adversarial training"][3] > accuracies["ordinary training"][3] + 0.2
    agree = max(rows[-1][1:]) < 1e-4
    print(f"the three gradients agree at the maximizer: {'yes' if agree else 'NO'}")
    print(f"adversarial training gains robust accuracy: {'yes' if robust else 'NO'}")
    print(f"{time.perf_counter() - start:.0f} s")
    return bool(fallen and robust and agree)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="four times as many epochs")
    full = parser.parse_args().full
    sys.exit(not (main(num_epochs=160) if full else main()))
