"""The precision of the Jacobian: its errors, the bound, one-step differentiation."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.examples.checks import assert_gradient

STEPS = (10, 200)


@pytest.fixture(scope="module")
def rows(example):
    return [example.measure(k) for k in STEPS]


def test_the_errors_are_those_measured_with_other_libraries(example, rows):
    for k, (distance, error, bound, _, unrolled) in zip(STEPS, rows, strict=True):
        # The distance is given with two digits, the others with three.
        np.testing.assert_allclose(distance, example.EXPECTED[k][0], rtol=0.01)
        np.testing.assert_allclose((error, bound, unrolled), example.EXPECTED[k][1:], rtol=5e-3)


def test_the_implicit_error_is_below_both_bounds(rows):
    for _, error, bound, computable, _ in rows:
        assert error <= bound <= computable


def test_the_implicit_error_is_below_the_unrolled_one_by_a_growing_factor(rows):
    early, late = (unrolled / error for _, error, _, _, unrolled in rows)
    assert 3 < early < 4 and 6 < late < 7


def test_one_step_differentiation_is_wrong_for_gradient_descent_and_right_for_newton(example, capsys):
    errors = example.one_step(terms=(1, 100))
    assert 0.95 < errors["gradient descent", 1] < 0.97
    assert errors["gradient descent", 100] < 0.1
    assert errors["Newton", 1] < 1e-13
    assert "relative error" in capsys.readouterr().out


def test_the_closed_form_and_the_implicit_gradient_agree_with_differences(example):
    def loss(theta):
        return jnp.sum(example.implicit(theta, 2000)[0] ** 2) / 2e6

    solution, jacobian = example.closed_form(example.THETA)
    step = 1e-5 * np.eye(10)[3]
    slope = (example.closed_form(example.THETA + step)[0] - example.closed_form(example.THETA - step)[0]) / 2e-5
    np.testing.assert_allclose(jacobian[:, 3], slope, rtol=1e-6, atol=1e-4)
    assert_gradient(loss, example.THETA, directions=1)


@pytest.mark.slow
def test_the_script_prints_its_tables_and_draws(example, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(example, "OUTPUT", tmp_path)
    assert example.main(with_costs=True)
    printed = capsys.readouterr().out
    assert "implicit, cg" in printed and "NO" not in printed
    assert (tmp_path / "jacobian_precision.png").stat().st_size > 10_000
