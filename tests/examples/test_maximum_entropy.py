"""Maximum entropy: the probabilities of Jaynes, and what the script prints."""

import numpy as np
import pytest

PUBLISHED = [0.05435, 0.07877, 0.11416, 0.16545, 0.23977, 0.34749]


def test_theory_gives_the_published_probabilities(example):
    p, entropy, slope, curvature = example.by_theory(4.5)
    np.testing.assert_allclose(p, PUBLISHED, atol=6e-6)
    ahead, behind = (example.by_theory(4.5 + step) for step in (1e-5, -1e-5))
    np.testing.assert_allclose(slope, (ahead[1] - behind[1]) / 2e-5, rtol=1e-6)
    np.testing.assert_allclose(curvature, (ahead[2] - behind[2]) / 2e-5, rtol=1e-6)
    assert entropy < np.log(6)


@pytest.mark.slow
def test_logistic_regression_by_scikit_learn(example):
    linear_model = pytest.importorskip("sklearn.linear_model")
    X, labels, _ = example.make_data(num_samples=20)
    model = linear_model.LogisticRegression(C=0.5, fit_intercept=False, tol=1e-12, max_iter=1000).fit(X, labels)
    np.testing.assert_allclose(example.logistic_by_cones(2.0, X, labels, np.ones(3), 1e3), model.coef_[0], atol=1e-6)


@pytest.mark.slow
def test_the_whole_script(example, tmp_path, capsys):
    assert example.main(num_samples=20, path=tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert " ".join(f"{p:.5f}" for p in PUBLISHED) in capsys.readouterr().out
