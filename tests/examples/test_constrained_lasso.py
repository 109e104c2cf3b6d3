"""The constrained lasso: constraints, multipliers and derivatives."""

import numpy as np
import pytest


@pytest.mark.slow
def test_solutions_and_derivatives(example):
    violation, error = example.main((0.5, 2.0))
    assert violation < 1e-7
    assert error < 1e-5


@pytest.mark.slow
def test_solution_is_that_of_cvxpy(example):
    cvxpy = pytest.importorskip("cvxpy")
    X, y = map(np.asarray, example.make_data())
    w = cvxpy.Variable(X.shape[1])
    objective = 0.5 * cvxpy.sum_squares(X @ w - y) + 2.0 * cvxpy.norm(w, 1)
    cvxpy.Problem(cvxpy.Minimize(objective), [cvxpy.sum(w) == 1, cvxpy.diff(w) <= 0]).solve(solver=cvxpy.CLARABEL)
    found = example.solve(2.0, example.constraints(X.shape[1])[1], X, y).params.primal
    np.testing.assert_allclose(found, w.value, atol=1e-5)
