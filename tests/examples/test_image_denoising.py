"""Denoising of an image: the minimum, the derivative in the weight, and what is gained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.mark.slow
def test_result_is_the_minimum_by_cvxpy(example):
    cvxpy = pytest.importorskip("cvxpy")
    _, noisy = example.make_images(8)
    x = cvxpy.Variable(64)
    rows = np.asarray(jax.jacobian(lambda v: example.differences(v.reshape(8, 8)))(jnp.zeros(64)))
    norms = cvxpy.sum(cvxpy.norm(cvxpy.vstack([rows[:, 0] @ x, rows[:, 1] @ x]), axis=0))
    y = np.asarray(noisy).ravel()
    cvxpy.Problem(cvxpy.Minimize(0.5 * cvxpy.sum_squares(x - y) + 0.1 * norms)).solve(
        solver=cvxpy.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12
    )
    found = example.denoise(0.1, noisy, tol=1e-8, maxiter=20_000).params.primal
    np.testing.assert_allclose(found.ravel(), x.value, atol=1e-5)


@pytest.mark.slow
def test_derivative_in_the_weight(example):
    clean, noisy = example.make_images(6)
    value = jax.jit(
        lambda w: jnp.mean((example.denoise(w, noisy, tol=1e-10, maxiter=50_000).params.primal - clean) ** 2)
    )
    difference = (value(0.1 + 1e-5) - value(0.1 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.jit(jax.grad(value))(0.1), difference, rtol=1e-4)


@pytest.mark.slow
def test_noise_is_removed(example):
    before, after = example.main(16)
    assert after < 0.5 * before
