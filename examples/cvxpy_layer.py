r"""A CVXPY layer in a Flax model
=============================

A layer written in CVXPY, inside a Flax model: correlation matrices that depend on features.

The correlations of four quantities change with two features u. A network maps u to a symmetric matrix M(u), which need
not be a correlation matrix; the layer finds the nearest one whose eigenvalues are at least 0.02,

::

    C*(M) = argmin |C - M|^2   subject to  C_ii = 1,  C - 0.02 I positive semidefinite,

a semidefinite program, here in three lines of CVXPY. ``jaxsolve.cvxpy_layer`` makes a function of it, which is called
under ``jax.vmap`` for a batch. The model is trained by Adam for the likelihood of observations x ~ N(0, C(u)), through
the solution of the program, and compared with the best matrix that does not depend on u.

::

    python examples/cvxpy_layer.py
"""

import sys
from pathlib import Path

import cvxpy as cp
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import jaxsolve

jax.config.update("jax_enable_x64", True)
OUTPUT = Path(__file__).parent / "output"
SIZE, SMALLEST = 4, 0.02


def make_layer():
    """The nearest correlation matrix as a function of a matrix, shape (4, 4)."""
    C, M = cp.Variable((SIZE, SIZE), symmetric=True), cp.Parameter((SIZE, SIZE))
    constraints = [cp.diag(C) == 1, C - SMALLEST * np.eye(SIZE) >> 0]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(C - M)), constraints)
    return jaxsolve.cvxpy_layer(problem, parameters=[M], variables=[C])


class CorrelationModel(nn.Module):
    """A network whose last layer is the program."""

    layer: object
    hidden: int = 16

    @nn.compact
    def __call__(self, features):
        """Correlation matrices of shape (batch, 4, 4) for features of shape (batch, 2)."""
        hidden = nn.tanh(nn.Dense(self.hidden, param_dtype=features.dtype)(features))
        entries = nn.Dense(SIZE * SIZE, param_dtype=features.dtype)(hidden).reshape(-1, SIZE, SIZE)
        return jax.vmap(lambda M: self.layer((M + M.T) / 2)[0])(entries)


def make_data(seed, count):
    """Features, observations and true correlations; shapes (count, 2), (count, 4) and (count, 4, 4)."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(100).normal(size=(3, SIZE, 2))
    features = rng.uniform(-1, 1, size=(count, 2))
    loadings = directions[0] + 2 * np.einsum("nf,fij->nij", features, directions[1:])
    covariance = loadings @ loadings.transpose(0, 2, 1) + 0.6 * np.eye(SIZE)
    scale = np.sqrt(np.einsum("nii->ni", covariance))
    truth = covariance / scale[:, :, None] / scale[:, None, :]
    observations = np.einsum("nij,nj->ni", np.linalg.cholesky(truth), rng.normal(size=(count, SIZE)))
    return tuple(jnp.asarray(part) for part in (features, observations, truth))


def negative_log_likelihood(matrices, observations):
    """Mean over the observations, without the constant."""
    solved = jnp.linalg.solve(matrices, observations[..., None])[..., 0]
    return jnp.mean(jnp.linalg.slogdet(matrices)[1] + jnp.sum(observations * solved, axis=-1)) / 2


def make_loss(model):
    """``loss(params, features, observations)``: value, gradient and matrices, compiled once for batches of one size."""

    def loss(params, features, observations):
        matrices = model.apply(params, features)
        return negative_log_likelihood(matrices, observations), matrices

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def train(loss, params, features, observations, num_steps, batch_size, learning_rate=0.02, seed=0):
    """Adam; returns the parameters and the losses."""
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))
    opt_state, rng, losses = optimizer.init(params), np.random.default_rng(seed), []

    @jax.jit
    def move(params, opt_state, gradient):
        updates, opt_state = optimizer.update(gradient, opt_state)
        return optax.apply_updates(params, updates), opt_state

    for _ in range(num_steps):
        rows = rng.choice(len(features), batch_size, replace=False)
        (value, _), gradient = loss(params, features[rows], observations[rows])
        params, opt_state = move(params, opt_state, gradient)
        losses.append(float(value))
    return params, losses


def gradient_error(loss, params, *data, seed=0, step=1e-5):
    """Relative error of the gradient, along a random direction, against central differences."""
    flat, unravel = ravel_pytree(params)
    direction = np.random.default_rng(seed).normal(size=flat.size)
    slope = ravel_pytree(loss(params, *data)[1])[0] @ direction
    ahead, behind = (loss(unravel(flat + sign * step * direction), *data)[0][0] for sign in (1, -1))
    return float(abs(slope - (ahead - behind) / (2 * step)) / abs(slope))


def plot(losses, grid, found, truth, path):
    """Draw the loss, and one correlation along a line through the features, learned and true."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    axes[0].plot(losses)
    axes[0].set(xlabel="step", title="negative log-likelihood of a batch")
    for number, (i, j) in enumerate([(1, 0), (2, 0), (3, 2)]):
        axes[1].plot(grid, truth[:, i, j], color=f"C{number}", lw=4, alpha=0.3)
        axes[1].plot(grid, found[:, i, j], color=f"C{number}", label=f"C[{i}, {j}]")
    axes[1].set(xlabel="feature", title="correlations, learned and true (wide)", ylim=(-1.05, 1.05))
    axes[1].legend()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"figure: {path.parent.name}/{path.name}")


def main(num_steps=150, batch_size=64, num_train=2000, num_test=500, path=OUTPUT / "cvxpy_layer.png"):
    """Train and compare; returns whether matrices are valid, the gradient right, and a quarter of the gap closed."""
    features, observations, _ = make_data(0, num_train)
    test_features, test_observations, truth = make_data(1, num_test // batch_size * batch_size)
    model = CorrelationModel(make_layer())
    loss, params = make_loss(model), model.init(jax.random.key(0), features[:1])
    error = gradient_error(loss, params, features[:batch_size], observations[:batch_size])
    print(f"gradient through the layer, relative error: {error:.0e}")
    params, losses = train(loss, params, features, observations, num_steps, batch_size)

    batches = zip(
        *(part.reshape(-1, batch_size, part.shape[-1]) for part in (test_features, test_observations)), strict=True
    )
    matrices = jnp.concatenate([loss(params, *batch)[0][1] for batch in batches])
    static = jnp.broadcast_to(jnp.asarray(np.corrcoef(np.asarray(observations).T)), matrices.shape)
    constant, learned, best = (
        float(negative_log_likelihood(part, test_observations)) for part in (static, matrices, truth)
    )
    print("negative log-likelihood of observations not used:")
    print(f"  one matrix for all {constant:.3f}, learned {learned:.3f}, true matrices {best:.3f}")
    smallest = float(jnp.min(jnp.linalg.eigvalsh(matrices)))
    off = float(jnp.max(jnp.abs(jnp.einsum("nii->ni", matrices) - 1)))
    print(f"smallest eigenvalue {smallest:.6f}, largest error of a diagonal entry {off:.0e}")
    order = np.argsort(np.asarray(test_features[:, 0]))
    order = order[np.abs(np.asarray(test_features[order, 1])) < 0.2]
    plot(losses, *(np.asarray(part)[order] for part in (test_features[:, 0], matrices, truth)), path)
    valid = smallest > SMALLEST - 1e-6 and off < 1e-6
    return valid and error < 1e-5 and constant - learned > (constant - best) / 4


if __name__ == "__main__":
    sys.exit(not main())
