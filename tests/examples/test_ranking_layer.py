"""A ranking layer: the layer, its gradient, the measures, and what training on ranks gains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import ndcg_score

from tests.examples.checks import assert_gradient


@pytest.fixture(scope="module")
def lists(example):
    return example.make_lists(0, num_lists=20, length=8)


def batch(example, lists, count=2):
    items, grades, _ = (part[:count] for part in lists)
    return items, grades, jnp.asarray(rankdata(grades, axis=1)), example.gains(grades)


def test_gains_are_those_of_fifths_of_the_list(example):
    assert example.gains(np.arange(10.0)[None])[0].tolist() == [0, 0, 1, 1, 3, 3, 7, 7, 15, 15]


def test_measures_are_those_of_scipy_and_scikit_learn(example, lists):
    scores = np.random.default_rng(0).normal(size=lists[2].shape)
    spearman, ndcg = example.measure(scores, lists[2])
    expected = np.mean([spearmanr(*pair).statistic for pair in zip(scores, lists[2], strict=True)])
    np.testing.assert_allclose(spearman, expected, rtol=1e-9)
    np.testing.assert_allclose(ndcg, ndcg_score(np.asarray(example.gains(lists[2])), scores, k=5), rtol=1e-9)


def test_losses_of_ranks_are_the_measures_where_ranks_are_hard(example, lists):
    scores, ranks, gain = np.asarray(lists[2][0]), np.arange(1.0, 9), example.gains(np.arange(8.0)[None])[0]
    hard = example.SoftRank(1e-6).apply({}, jnp.asarray(scores))
    np.testing.assert_allclose(hard, rankdata(scores))
    np.testing.assert_allclose(
        1 - example.spearman_loss(None, hard, None, ranks, gain), spearmanr(scores, ranks).statistic, rtol=1e-9
    )
    expected = ndcg_score(np.asarray(gain)[None], scores[None])
    np.testing.assert_allclose(1 - example.ndcg_loss(None, hard, None, ranks, gain), expected, rtol=1e-9)


def test_gradient_through_the_layer_is_the_slope_of_the_loss(example, lists):
    params = example.Ranker().init(jax.random.key(0), lists[0][0])
    data = batch(example, lists)
    both = lambda *outputs: example.spearman_loss(*outputs) + example.ndcg_loss(*outputs)
    assert_gradient(lambda params: example.batch_loss(params, both, *data, epsilon=0.3), params)


def test_training_on_ranks_lowers_the_loss(example, lists):
    _, losses = example.fit(example.spearman_loss, lists, num_epochs=10, batch_size=10)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.slow
def test_ranks_do_best_where_raters_have_their_own_scales(example, capsys):
    assert example.main(num_seeds=1)
    assert "best Spearman: soft ranks" in capsys.readouterr().out
