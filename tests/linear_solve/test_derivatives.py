"""Derivatives through solves, transformations, dtypes and magnitudes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from numpy.testing import assert_allclose

from jaxsolve import linear_solve as ls
from tests.linear_solve.problems import METHODS, PSD_METHODS, SYMMETRIC_METHODS, N, jitted, spectrum, system


def symmetrized(name, A):
    return (A + A.T) / 2 if name in PSD_METHODS or name in SYMMETRIC_METHODS else A


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("qr", "inv")])
def test_derivatives_of_both_orders_and_modes(name):
    """Tangent, gradient, forward over reverse and (for one method of each kind) reverse over reverse."""
    A, b = system(name)
    dA, db = np.sin(np.arange(N * N)).reshape(N, N), np.arange(N) / N

    def derivatives(solve):
        def loss(A, b):
            return jnp.sum(jnp.sin(solve(symmetrized(name, A), b)))

        def compute(A, b):
            gradient = jax.grad(loss, (0, 1))
            found = [jax.jvp(loss, (A, b), (dA, db)), gradient(A, b), jax.jvp(gradient, (A, b), (dA, db))[1]]
            if name in ("cholesky", "lu", "minres"):
                found.append(jax.grad(lambda A, b: sum(map(jnp.sum, gradient(A, b))), (0, 1))(A, b))
            return found

        return jax.jit(compute)(A, b)

    got = derivatives(lambda A, b: METHODS[name](lambda v: {"x": A @ v["x"]}, {"x": b})["x"])
    expected = derivatives(jnp.linalg.solve)
    jax.tree.map(lambda x, y: assert_allclose(x, y, rtol=1e-7, atol=1e-9), got, expected)


def test_finite_differences_agree():
    A, b = system("lu")
    solve = jax.jit(lambda scale, b: ls.solve(lambda v: scale * (A @ v), b))
    check_grads(solve, (2.0, b), order=2, modes=["fwd"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["cholesky", "lu", "cg", "minres", "gmres"])
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


@pytest.mark.parametrize("size", [1e-25, 1e25, 0.0])
@pytest.mark.parametrize("name", METHODS)
def test_float32_stays_and_its_range_is_used(name, size):
    A, b = system(name)
    A32, b32 = A.astype(np.float32), (size * b / np.abs(b).max()).astype(np.float32)
    x, info = jitted(name)(A32, b32)
    assert x.dtype == jnp.float32 and info.residual_norm.dtype == jnp.float32
    expected = np.linalg.solve(A32.astype(float), b32.astype(float))
    assert_allclose(np.asarray(x, float), expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    if size == 0:
        assert info.relative_residual == 0 and np.all(np.asarray(x) == 0)


@pytest.mark.float32
@pytest.mark.parametrize("structure", ["psd", "symmetric", "general"])
def test_condition_1e4_in_float32(structure):
    values = np.logspace(-4, 0, 20) * (1 if structure == "psd" else np.sign(np.sin(np.arange(20) + 1)))
    solve = jax.jit(lambda A, b: ls.solve(lambda v: A @ v, b, structure=structure))
    for seed in range(20):
        A = spectrum(values, seed).astype(np.float32)
        A = (A + A.T) / 2
        b = np.random.default_rng(seed).standard_normal(20).astype(np.float32)
        expected = np.linalg.solve(A.astype(float), b.astype(float))
        error = np.linalg.norm(np.asarray(solve(A, b), float) - expected) / np.linalg.norm(expected)
        assert error <= 1e-6  # a plain residual in the refinement step gives up to 1.5e-4


@pytest.mark.parametrize("name", ["cholesky", "cg", "gmres"])
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


@pytest.mark.parametrize("option", ["preconditioner", "tol"])
def test_what_only_the_method_sees_has_derivative_zero(option):
    A, b = jnp.diag(jnp.array([1.0, 2.0, 3.0])) + 0.1, jnp.ones(3)

    def total(scale):
        value = jnp.diag(scale * jnp.ones(3)) if option == "preconditioner" else 1e-10 * scale
        return jnp.sum(ls.solve_gmres(A, b, **{option: value}))

    for mode in (jax.jacfwd, jax.jacrev):
        assert float(jax.jit(mode(total))(0.5)) == 0
        assert float(mode(mode(total))(0.5)) == 0
