r"""A sparse-coding layer
=====================

A sparse-coding layer inside a network: the forward pass of the layer is an optimization problem.

The layer describes a patch x of an image by a few of the k atoms of a dictionary D (k x 16, rows of norm 1)::

    code(x) = argmin_c  1/2 ||c D - x||^2  +  l1 ||c||_1  +  l2/2 ||c||^2.

It is used like a convolution: the same dictionary codes the nine overlapping 4 x 4 patches of an 8 x 8 digit. The codes
go through a dense layer and a linear classifier::

    image -> 9 patches -> 9 codes -> dense layer, tanh -> scores of ten classes.

Everything is trained end to end on the classification loss. The gradient with respect to D goes through the solution of
the elastic net by implicit differentiation. The table compares three layers in the same network, trained on few
labeled images: a fixed dictionary learned without labels, the same dictionary trained further with labels, and as many
ReLU units whose weights start from the same dictionary.

(``dictionary_learning.py`` has the experiment of the literature: one code per sample and a linear classifier on it.
Here the code is one of several layers.)

The second table compares the implicit gradient with that of unrolled iterations. The network is a Flax (nnx) module,
and the function that the solver minimizes captures the dictionary of the module: captured arrays have gradients too.

References: Mairal, Bach, Ponce (2012), "Task-Driven Dictionary Learning"; Zou and Hastie (2005), "Regularization and
variable selection via the elastic net".

::

    python examples/sparse_coding_layer.py           3 seeds
    python examples/sparse_coding_layer.py --full    10 seeds, longer training
"""

import argparse
import functools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.flatten_util import ravel_pytree
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxsolve
from jaxsolve.prox import prox_elastic_net

jax.config.update("jax_enable_x64", True)

L1REG, L2REG = 0.1, 0.1
PATCH = 16  # pixels


class Dictionary(nnx.Param):
    """Marks the dictionary among the parameters, so that it can be kept while the others are trained."""


# ---- Data ---------------------------------------------------------------------------------------------------------


def load_patches(num_train=200, seed=0):
    """Digits as nine patches each, without their means; two pairs (patches (n, 9, 16), labels (n,)), train and test."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8) / 16
    corners = [(row, column) for row in (0, 2, 4) for column in (0, 2, 4)]
    patches = np.stack([images[:, i : i + 4, j : j + 4].reshape(-1, PATCH) for i, j in corners], axis=1)
    patches -= patches.mean(axis=2, keepdims=True)
    x, x_test, y, y_test = train_test_split(patches, labels, train_size=num_train, stratify=labels, random_state=seed)
    return (jnp.asarray(x), jnp.asarray(y)), (jnp.asarray(x_test), jnp.asarray(y_test))


# ---- The layer and the network ------------------------------------------------------------------------------------


class SparseCoding(nnx.Module):
    """The layer: patches of shape (count, 16) to codes (count, atoms)."""

    def __init__(self, atoms, **options):
        """Take initial atoms, of shape (atoms, 16), and options of the solver."""
        self.atoms = Dictionary(atoms)
        self.options = options

    def dictionary(self):
        """Atoms of norm 1, or else the penalty would be avoided by long ones."""
        atoms = self.atoms[...]
        return atoms / jnp.linalg.norm(atoms, axis=1, keepdims=True)

    def __call__(self, patches):
        """Codes of patches."""
        return self.solve(patches).params

    def solve(self, patches):
        """Codes and states of the solver."""
        dictionary = self.dictionary()
        # The curvature is at most the largest eigenvalue of D D', and that is at most its largest absolute row sum.
        stepsize = 1 / jnp.max(jnp.sum(jnp.abs(dictionary @ dictionary.T), axis=1))

        def one(patch):
            solver = jaxsolve.ProximalGradient(
                lambda code: 0.5 * jnp.sum((code @ dictionary - patch) ** 2),
                prox_elastic_net,
                stepsize=stepsize,
                **{"maxiter": 500, "tol": 1e-4} | self.options,
            )
            return solver.run(jnp.zeros(dictionary.shape[0]), (L1REG, L2REG / L1REG))

        return jax.vmap(one)(patches)


class Units(SparseCoding):
    """A usual layer of the same size: rectified products of patches and atoms."""

    def __call__(self, patches):
        """Activations of patches."""
        return nnx.relu(patches @ self.dictionary().T - L1REG)


class Network(nnx.Module):
    """Patches of images, (n, 9, 16), to scores of ten classes."""

    def __init__(self, layer, width=32, seed=0):
        """Take the first layer; the others are made here."""
        rngs = nnx.Rngs(seed)
        num_atoms = layer.atoms.shape[0]
        self.layer = layer
        self.hidden = nnx.Linear(9 * num_atoms, width, rngs=rngs, param_dtype=jnp.float64)
        self.output = nnx.Linear(width, 10, rngs=rngs, param_dtype=jnp.float64)

    def __call__(self, patches):
        """Scores of ten classes for each image."""
        codes = self.layer(patches.reshape(-1, PATCH))
        return self.output(jnp.tanh(self.hidden(codes.reshape(patches.shape[0], -1))))


def classification_loss(model, patches, labels):
    """Mean cross entropy of a batch."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(model(patches), labels))


# ---- Learning -----------------------------------------------------------------------------------------------------


def learn_atoms(patches, num_atoms=24, num_steps=200, seed=0):
    """Atoms that reproduce patches with sparse codes, learned without labels; returns them and the losses.

    By the envelope theorem the codes are constants for the gradient, so nothing goes through the solver.
    """
    patches = patches.reshape(-1, PATCH)
    patches = patches[jnp.linalg.norm(patches, axis=1) > 0.5]
    rng = np.random.default_rng(seed)
    optimizer = optax.adam(0.03)

    def loss(atoms, batch):
        layer = SparseCoding(atoms)
        codes = jax.lax.stop_gradient(SparseCoding(jax.lax.stop_gradient(atoms))(batch))
        penalty = L1REG * jnp.abs(codes) + L2REG / 2 * codes**2
        return (0.5 * jnp.sum((codes @ layer.dictionary() - batch) ** 2) + jnp.sum(penalty)) / len(batch)

    @jax.jit
    def learn(atoms, batches):
        def step(carry, batch):
            atoms, state = carry
            value, gradient = jax.value_and_grad(loss)(atoms, batch)
            updates, state = optimizer.update(gradient, state)
            return (atoms + updates, state), value

        (atoms, _), losses = jax.lax.scan(step, (atoms, optimizer.init(atoms)), batches)
        return atoms, losses

    atoms = patches[rng.permutation(len(patches))[:num_atoms]]
    return learn(atoms, patches[rng.integers(len(patches), size=(num_steps, 100))])


def train(model, data, num_epochs, trainable=nnx.Param, batch_size=50, learning_rate=5e-3, seed=0):
    """Minimize the classification loss by Adam over ``trainable`` parameters; returns the loss of every epoch."""
    patches, labels = data
    num_batches = len(labels) // batch_size
    optimizer = nnx.Optimizer(model, optax.adam(learning_rate), wrt=trainable)

    @nnx.jit
    def step(model, optimizer, patches, labels):
        slot = nnx.DiffState(0, trainable)
        value, gradient = nnx.value_and_grad(classification_loss, argnums=slot)(model, patches, labels)
        optimizer.update(model, gradient)
        return value

    rng, losses = np.random.default_rng(seed), []
    for _ in range(num_epochs):
        order = rng.permutation(len(labels))[: num_batches * batch_size].reshape(num_batches, batch_size)
        losses.append(np.mean([float(step(model, optimizer, patches[rows], labels[rows])) for rows in order]))
    return losses


@nnx.jit
def measure(model, patches, labels):
    """Accuracy, and the fraction of entries of the codes that are not 0."""
    codes = model.layer(patches.reshape(-1, PATCH))
    return jnp.mean(jnp.argmax(model(patches), axis=1) == labels), jnp.mean(codes != 0)


# ---- The gradient against the number of iterations ----------------------------------------------------------------


def layer_gradient(model, data, **options):
    """The gradient of the loss in the atoms, as a flat array, with other options of the solver."""

    def loss(atoms):
        definition, rest = nnx.split(model)
        changed = nnx.merge(definition, rest)
        changed.layer = SparseCoding(atoms, **options)
        return classification_loss(changed, *data)

    return ravel_pytree(jax.grad(loss)(model.layer.atoms[...]))[0]


def compare_gradients(model, data, iterations=(10, 40, 160)):
    """Rows of (mode, iterations, relative error of the gradient, bytes of temporary memory)."""
    implicit = jax.jit(lambda maxiter, tol: layer_gradient(model, data, maxiter=maxiter, tol=tol))
    exact = implicit(10_000, 1e-12)

    def error(found):
        return float(jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact))

    memory = implicit.lower(10, 0.0).compile().memory_analysis().temp_size_in_bytes
    rows = [("implicit", maxiter, error(implicit(maxiter, 0.0)), memory) for maxiter in iterations]
    for maxiter in iterations:
        unrolled = functools.partial(layer_gradient, model, data, maxiter=maxiter, tol=0.0, implicit_diff=False)
        program = jax.jit(unrolled).lower().compile()
        rows.append(("unrolled", maxiter, error(program()), program.memory_analysis().temp_size_in_bytes))
    print(f"{'gradient':12}{'iterations':>11}{'relative error':>16}{'temporary MB':>14}")
    for mode, maxiter, difference, size in rows:
        print(f"{mode:12}{maxiter:11d}{difference:16.1e}{size / 1e6:14.2f}")
    return rows


def main(num_seeds=3, num_train=200, num_epochs=30, num_atoms=24):
    """Train the three networks and print both tables; returns whether training with labels lowered the loss."""
    start = time.perf_counter()
    layers = {
        "dictionary kept": (SparseCoding, nnx.All(nnx.Param, nnx.Not(Dictionary))),
        "dictionary trained": (SparseCoding, nnx.Param),
        "ReLU units": (Units, nnx.Param),
    }
    found = {name: [] for name in layers}
    for seed in range(num_seeds):
        data, test = load_patches(num_train, seed)
        atoms, _ = learn_atoms(data[0], num_atoms, seed=seed)
        for name, (layer, trainable) in layers.items():
            model = Network(layer(atoms), seed=seed)
            losses = train(model, data, num_epochs, trainable, seed=seed)
            accuracy, density = measure(model, *test)
            found[name].append((100 * float(accuracy), 100 * float(density), losses[0], losses[-1]))
            if name == "dictionary trained":
                trained = model
    print(f"{num_train} labeled images, {num_atoms} atoms, {num_seeds} seeds")
    print(f"{'first layer':20}{'test accuracy, %':>18}{'codes not 0, %':>16}{'training loss':>22}")
    for name, rows in found.items():
        (accuracy, density, first, last), deviation = np.mean(rows, axis=0), np.std(rows, axis=0)[0]
        print(f"{name:20}{accuracy:11.2f} ± {deviation:.2f}{density:16.1f}{first:13.4f} ->{last:7.4f}")
    kept, best = np.array(found["dictionary kept"]), np.array(found["dictionary trained"])
    gains = best[:, 0] - kept[:, 0]
    print(f"trained minus kept, seed by seed: {gains.mean():+.2f} ± {gains.std():.2f} %\n")

    rows = compare_gradients(trained, (data[0][:50], data[1][:50]))
    errors, sizes = ({row[:2]: row[column] for row in rows} for column in (2, 3))
    lower = bool(np.all(best[:, 3] < kept[:, 3]) and np.all(best[:, 3] < best[:, 2]))
    agree = errors["implicit", 160] < 1e-2 and errors["unrolled", 160] < 1e-2
    smaller = sizes["implicit", 160] < sizes["unrolled", 160]
    print(f"training the dictionary lowers the training loss: {'yes' if lower else 'NO'}")
    print(f"implicit and unrolled gradients agree to 1 % at 160 iterations: {'yes' if agree else 'NO'}")
    print(f"{time.perf_counter() - start:.0f} s")
    return lower and agree and smaller


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="ten seeds, longer training")
    full = parser.parse_args().full
    sys.exit(not (main(num_seeds=10, num_epochs=100) if full else main()))
