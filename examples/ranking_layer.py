r"""A network that ends in ranks
============================

A network that ends in ranks: soft ranking as a layer, trained to order lists.

A query comes with a list of n items with features x_i, and a rater has graded them. Every rater has their own scale, so
only the *order* of the grades within a list can be learned. A network gives each item a score, and the layer
turns the scores s of one list into ranks with a derivative, the projection on the permutahedron P of (1, ..., n)::

    soft_rank(s) = argmin_{r in P}  ||r - s / epsilon||^2.

As epsilon goes to 0 these are the ranks. With the ranks known, measures of order become losses (r_i is the rank of
item i by its grade, g_i its gain, d_i its soft rank from the top)::

    Spearman:  6 / (n (n^2 - 1))  sum (soft_rank(s)_i - r_i)^2           1 minus the rank correlation, up to epsilon,
    NDCG:      1 - sum g_i / log2(1 + d_i) / (the same of the best order).

The table compares them with three losses on the scores: the squared distance to the grades and to the ranks, item by
item (pointwise), and ListNet, the cross entropy between the softmax of the grades and that of the scores (listwise).
Items of one list resemble each other, like the documents found for one query, so a rank says how an item compares with
its list, not how good it is.

The items are from scikit-learn's ``make_friedman1``: 10 features, of which 5 matter, in a nonlinear way. The network
and the layer are Flax (linen) modules, applied to batches of lists by ``vmap``.

References: Blondel, Teboul, Berthet, Djolonga (2020), "Fast Differentiable Sorting and Ranking"; Cao et al. (2007),
"Learning to Rank: From Pairwise Approach to Listwise Approach" (ListNet).

::

    python examples/ranking_layer.py           3 seeds
    python examples/ranking_layer.py --full    10 seeds
"""

import argparse
import sys
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.stats import rankdata
from sklearn.datasets import make_friedman1

from jaxsolve.isotonic import soft_rank

jax.config.update("jax_enable_x64", True)

EPSILON = 0.1


# ---- Data ---------------------------------------------------------------------------------------------------------


def make_lists(seed, num_lists, length=16, spread=0.5, noise=2.0):
    """Lists of similar items.

    Returns features (lists, length, 10), the grades of the raters (lists, length), and the noise-free values by which
    predictions are judged (lists, length).
    """
    rng = np.random.default_rng(seed)
    # The items of a list are the nearest ones to a random point among candidates drawn for this list.
    num_candidates = int(length / spread)
    X, _ = make_friedman1(num_lists * num_candidates, n_features=10, random_state=seed)
    X = X.reshape(num_lists, num_candidates, 10)
    distance = np.abs(X[:, :, :5] - rng.uniform(size=(num_lists, 1, 5))).sum(axis=2)
    nearest = np.argsort(distance, axis=1)[:, :length]
    X = np.take_along_axis(X, nearest[:, :, None], axis=1)
    values = (
        10 * np.sin(np.pi * X[:, :, 0] * X[:, :, 1]) + 20 * (X[:, :, 2] - 0.5) ** 2 + 10 * X[:, :, 3] + 5 * X[:, :, 4]
    )
    opinion = (values - values.mean()) / values.std() + noise / values.std() * rng.normal(size=values.shape)
    # A rater may be strict or generous, and may use a wide or a narrow range.
    grades = rng.normal(size=(num_lists, 1)) + np.exp(rng.normal(size=(num_lists, 1))) * opinion
    return tuple(map(jnp.asarray, (X - 0.5, grades, values)))


def gains(grades):
    """Gains 2^k - 1 for the fifths k = 0, ..., 4 of each list, the best one last; shape (lists, length)."""
    ranks = rankdata(grades, axis=1)
    return jnp.asarray(2.0 ** np.floor(5 * (ranks - 1) / grades.shape[1]) - 1)


# ---- The model ----------------------------------------------------------------------------------------------------


class Scores(nn.Module):
    """A score for each item, from its features alone: (length, features) to (length,)."""

    width: int = 32

    @nn.compact
    def __call__(self, items):
        """Scores of one list."""
        for _ in range(2):
            items = nn.tanh(nn.Dense(self.width, param_dtype=items.dtype)(items))
        return nn.Dense(1, param_dtype=items.dtype)(items)[:, 0]


class SoftRank(nn.Module):
    """The layer: ranks from 1 to n of the scores of one list.

    Scores are standardized within the list, or else the network could make them so large that the soft ranks are the
    hard ones, which have no gradient.
    """

    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, scores):
        """Soft ranks of one list, in ascending order."""
        deviation = jnp.sqrt(jnp.var(scores) + 1e-6)
        return soft_rank((scores - jnp.mean(scores)) / deviation, regularization_strength=self.epsilon)


class Ranker(nn.Module):
    """The network and the layer: features of one list to (scores, soft ranks)."""

    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, items):
        """Scores and soft ranks of one list."""
        scores = Scores()(items)
        return scores, SoftRank(self.epsilon)(scores)


# ---- Losses, of the outputs for one list --------------------------------------------------------------------------


def spearman_loss(scores, soft_ranks, grades, ranks, gain):
    """1 less Spearman's correlation, of the soft ranks."""
    n = ranks.shape[0]
    return 6 * jnp.sum((soft_ranks - ranks) ** 2) / (n * (n**2 - 1))


def ndcg_loss(scores, soft_ranks, grades, ranks, gain):
    """1 less the normalized discounted cumulative gain, of the soft ranks."""
    n = ranks.shape[0]
    position = n + 1 - soft_ranks
    best = jnp.sum(jnp.sort(gain)[::-1] / jnp.log2(1 + jnp.arange(1, n + 1)))
    return 1 - jnp.sum(gain / jnp.log2(1 + position)) / best


def grade_loss(scores, soft_ranks, grades, ranks, gain):
    """Pointwise: squared distance of the scores to the grades."""
    return jnp.mean((scores - grades) ** 2)


def rank_loss(scores, soft_ranks, grades, ranks, gain):
    """Pointwise: squared distance of the scores to the standardized ranks."""
    return jnp.mean((scores - (ranks - jnp.mean(ranks)) / jnp.std(ranks)) ** 2)


def listnet_loss(scores, soft_ranks, grades, ranks, gain):
    """Listwise: cross entropy of the probabilities of being first."""
    return -jnp.sum(jax.nn.softmax(grades) * jax.nn.log_softmax(scores))


LOSSES = {
    "squared loss on grades": grade_loss,
    "squared loss on ranks": rank_loss,
    "ListNet": listnet_loss,
    "soft ranks, Spearman": spearman_loss,
    "soft ranks, NDCG": ndcg_loss,
}


def batch_loss(params, loss, items, grades, ranks, gain, epsilon=EPSILON):
    """Mean of a loss over a batch of lists."""
    scores, soft_ranks = jax.vmap(lambda items: Ranker(epsilon).apply(params, items))(items)
    return jnp.mean(jax.vmap(loss)(scores, soft_ranks, grades, ranks, gain))


# ---- Training and measuring ---------------------------------------------------------------------------------------


def fit(loss, data, num_epochs, batch_size=20, learning_rate=1e-2, seed=0):
    """Train by Adam on batches of lists; returns parameters and the loss of every epoch."""
    items, grades, _ = data
    targets = (items, grades, jnp.asarray(rankdata(grades, axis=1)), gains(grades))
    num_batches = len(items) // batch_size
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_epochs * num_batches))

    def step(carry, batch):
        params, state = carry
        value, gradient = jax.value_and_grad(batch_loss)(params, loss, *batch)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    def epoch(carry, key):
        order = jax.random.permutation(key, len(items))[: num_batches * batch_size].reshape(num_batches, batch_size)
        carry, values = jax.lax.scan(step, carry, jax.tree.map(lambda part: part[order], targets))
        return carry, jnp.mean(values)

    key, init_key = jax.random.split(jax.random.key(seed))
    params = Ranker().init(init_key, items[0])
    run = jax.jit(lambda carry, keys: jax.lax.scan(epoch, carry, keys))
    (params, _), losses = run((params, optimizer.init(params)), jax.random.split(key, num_epochs))
    return params, losses


@jax.jit
def predict(params, items):
    """Scores of lists, (lists, length)."""
    return jax.vmap(lambda items: Ranker().apply(params, items)[0])(items)


def measure(scores, values, k=5):
    """Mean Spearman correlation and mean NDCG@k of predicted scores against the true values."""
    ranks, truth = rankdata(scores, axis=1), rankdata(values, axis=1)
    n = ranks.shape[1]
    spearman = 1 - 6 * np.sum((ranks - truth) ** 2, axis=1) / (n * (n**2 - 1))
    gain, discount = np.asarray(gains(values)), 1 / np.log2(1 + np.arange(1, k + 1))
    found = np.take_along_axis(gain, np.argsort(-np.asarray(scores), axis=1)[:, :k], axis=1) @ discount
    best = -np.sort(-gain, axis=1)[:, :k] @ discount
    return float(np.mean(spearman)), float(np.mean(found / best))


def main(num_seeds=3, num_train=200, num_test=500, num_epochs=60):
    """Train with each loss and print the table; returns whether soft ranks do best and every loss has fallen."""
    start = time.perf_counter()
    rows = {name: [] for name in LOSSES}
    fallen = True
    for seed in range(num_seeds):
        train, test = make_lists(2 * seed, num_train), make_lists(2 * seed + 1, num_test)
        for name, loss in LOSSES.items():
            params, losses = fit(loss, train, num_epochs, seed=seed)
            fallen &= bool(losses[-1] < losses[0])
            rows[name].append((*measure(predict(params, test[0]), test[2]), float(losses[0]), float(losses[-1])))
    print(f"{num_train} lists of {train[0].shape[1]} items to learn from, {num_seeds} seeds, {num_test} new lists each")
    print(f"{'loss':24}{'Spearman':>18}{'NDCG@5':>18}{'training loss':>20}")
    for name, found in rows.items():
        (spearman, ndcg, first, last), deviation = np.mean(found, axis=0), np.std(found, axis=0)
        print(
            f"{name:24}{spearman:9.4f} ± {deviation[0]:.4f}{ndcg:9.4f} ± {deviation[1]:.4f}{first:10.3f} ->{last:7.3f}"
        )
    means = {name: np.mean(found, axis=0) for name, found in rows.items()}
    spearman = max(means, key=lambda name: means[name][0])
    ndcg = max(means, key=lambda name: means[name][1])
    print(f"best Spearman: {spearman}; best NDCG@5: {ndcg}")
    print(f"{time.perf_counter() - start:.0f} s")
    return fallen and spearman.startswith("soft ranks")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="ten seeds")
    full = parser.parse_args().full
    sys.exit(not (main(num_seeds=10) if full else main()))
