"""Derivatives through solves, transformations, dtypes and magnitudes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from numpy.testing import assert_allclose

from jaxsolve import linear_solve as ls
from tests.linear_solve.problems import METHODS, PSD_METHODS, SYMMETRIC_METHODS, N, spectrum, system


def symmetrized(name, A):
    return (A + A.T) / 2 if name in PSD_METHODS or name in SYMMETRIC_METHODS else A


@pytest.mark.parametrize("name", METHODS)
def test_second_order_in_both_modes(name):
    A, b = system(name)

    @jax.jit
    def solve(A, b):
        A = symmetrized(name, A)
        return METHODS[name](lambda v: {"x": A @ v["x"]}, {"x": b})["x"]

    modes = ["fwd", "rev"] if name in ("cholesky", "lu", "minres") else ["rev"]
    check_grads(solve, (A, b), order=2, modes=modes, rtol=2e-4, atol=2e-4)
    # One direction in forward mode against the formula.
    dA, db = np.ones((N, N)) * 0.1, np.arange(N) / N
    x, x_dot = jax.jvp(solve, (A, b), (symmetrized(name, dA), db))
    assert_allclose(x_dot, np.linalg.solve(A, db - dA @ np.asarray(x)), rtol=1e-8)


@pytest.mark.parametrize("name", ["cholesky", "cg", "minres", "lu", "gmres", "bicgstab", "lsqr", "normal_cg"])
def test_jit_vmap_grad(name):
    A, b = system(name)
    stack = np.stack([b, 2 * b, 0 * b])

    def loss(scale, b):
        return jnp.sum(METHODS[name](lambda v: scale * (A @ v), b) ** 2)

    scales = np.array([1.0, 2.0, 3.0])
    got = jax.jit(jax.vmap(jax.grad(loss)))(scales, stack)
    x = np.linalg.solve(A, stack.T).T / scales[:, None]
    assert_allclose(got, -2 * np.sum(x**2, axis=1) / scales, rtol=1e-8, atol=1e-14)


def test_ridge_is_differentiable_and_the_residual_is_not():
    A, b = system("cholesky")

    def loss(ridge):
        x, info = ls.solve(lambda v: A @ v, b, structure="psd", ridge=ridge, info=True)
        return jnp.sum(x) + info.residual_norm

    shifted = A + 0.3 * np.eye(N)
    expected = -np.sum(np.linalg.solve(shifted, np.linalg.solve(shifted, b)))
    assert_allclose(jax.grad(loss)(0.3), expected, rtol=1e-9)


def test_integer_captures_under_scan():
    A, b = system("lu")
    A, b = jnp.asarray(A), jnp.asarray(b)

    def total(A):
        def step(carry, shift):
            rows = (jnp.arange(N) + shift) % N
            return carry + ls.solve(lambda v: A[rows] @ v, b[rows]).sum(), None

        return jax.lax.scan(step, jnp.zeros(()), jnp.arange(2))[0]

    expected = -2 * np.outer(np.linalg.solve(A.T, np.ones(N)), np.linalg.solve(A, b))
    assert_allclose(jax.jit(jax.grad(total))(A), expected, rtol=1e-9)


@pytest.mark.float32
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("size", [1e-25, 1e25, 0.0])
def test_float32_stays_and_its_range_is_used(name, size):
    A, b = system(name)
    A32, b32 = A.astype(np.float32), (size * b / np.abs(b).max()).astype(np.float32)
    solve = jax.jit(lambda A, b: METHODS[name](lambda v: A @ v, b, info=True))
    x, info = solve(A32, b32)
    assert x.dtype == jnp.float32 and info.residual_norm.dtype == jnp.float32
    expected = np.linalg.solve(A32.astype(float), b32.astype(float))
    assert_allclose(np.asarray(x, float), expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    if size == 0:
        assert info.relative_residual == 0 and np.all(np.asarray(x) == 0)


@pytest.mark.float32
@pytest.mark.parametrize("structure", ["psd", "symmetric", "general"])
def test_float32_at_condition_1e4(structure):
    values = np.logspace(-4, 0, 20) * (1 if structure == "psd" else np.sign(np.sin(np.arange(20) + 1)))
    solve = jax.jit(lambda A, b: ls.solve(lambda v: A @ v, b, structure=structure))
    for seed in range(20):
        A = spectrum(values, seed).astype(np.float32)
        A = (A + A.T) / 2
        b = np.random.default_rng(seed).standard_normal(20).astype(np.float32)
        expected = np.linalg.solve(A.astype(float), b.astype(float))
        error = np.linalg.norm(np.asarray(solve(A, b), float) - expected) / np.linalg.norm(expected)
        assert error <= 1e-6  # a plain residual in the refinement step gives up to 1.5e-4


@pytest.mark.float32
@pytest.mark.parametrize("name", ["cholesky", "cg", "minres", "lu", "gmres", "bicgstab", "lsqr"])
def test_bfloat16_is_computed_in_float32(name):
    b = {"a": jnp.array([1.0, 2.0], jnp.bfloat16), "c": jnp.asarray(3.0, jnp.float32)}
    x = jax.jit(lambda b: METHODS[name](lambda t: {"a": 2 * t["a"], "c": 4 * t["c"]}, b))(b)
    assert x["a"].dtype == jnp.bfloat16 and x["c"].dtype == jnp.float32
    assert x["a"].tolist() == [0.5, 1.0]
    assert float(x["c"]) == pytest.approx(0.75, rel=1e-2)


def test_cotangent_of_1e_minus_25_does_not_underflow():
    A = spectrum([1, 2, 3, 4, 5, 6]).astype(np.float32)
    b = np.ones(N, np.float32)
    _, pull = jax.vjp(jax.jit(lambda b: ls.solve(lambda v: A @ v, b, structure="psd")), b)
    (got,) = pull(np.full(N, 1e-25, np.float32))
    assert_allclose(np.asarray(got, float) * 1e25, np.linalg.solve(A.astype(float), np.ones(N)), rtol=1e-5)
