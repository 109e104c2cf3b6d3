"""Complex systems: Hermitian and general maps, mixed pytrees, and derivatives in the conventions of jax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from numpy.testing import assert_allclose

from jaxsolve import linear_solve as ls
from tests.linear_solve.problems import METHODS, PSD_METHODS, SYMMETRIC_METHODS

N = 4


def complex_system(name):
    rng = np.random.default_rng(0)
    Q, _ = np.linalg.qr(rng.standard_normal((N, N)) + 1j * rng.standard_normal((N, N)))
    values = np.array([1.0, 2.0, 3.0, -4.0 if name in SYMMETRIC_METHODS else 4.0])
    A = (Q * values) @ Q.conj().T
    if name not in {**PSD_METHODS, **SYMMETRIC_METHODS}:
        A = A + 0.3 * (rng.standard_normal((N, N)) + 1j * rng.standard_normal((N, N)))
    return A, rng.standard_normal(N) + 1j * rng.standard_normal(N)


@pytest.mark.parametrize("name", METHODS)
def test_solution_and_gradient_of_a_complex_system(name):
    A, b = complex_system(name)
    hermitian = name in PSD_METHODS or name in SYMMETRIC_METHODS

    def loss(solve, A, b):
        A = (A + A.conj().T) / 2 if hermitian else A
        x = solve(A, b)
        return jnp.sum(jnp.abs(x) ** 2 * jnp.arange(1.0, N + 1)), x

    def compute(solve):
        return jax.jit(jax.value_and_grad(lambda A, b: loss(solve, A, b), (0, 1), has_aux=True))(A, b)

    (_, x), gradient = compute(lambda A, b: METHODS[name](lambda t: {"x": A @ t["x"]}, {"x": b})["x"])
    (_, expected), expected_gradient = compute(jnp.linalg.solve)
    assert_allclose(x, expected, rtol=1e-9, atol=1e-12)
    jax.tree.map(lambda g, e: assert_allclose(g, e, rtol=1e-7, atol=1e-9), gradient, expected_gradient)


@pytest.mark.parametrize("structure", ["psd", "general"])
@pytest.mark.parametrize("limit", [1, 100])
def test_finite_differences(structure, limit, monkeypatch):
    monkeypatch.setattr("jaxsolve.linear_solve._solve.DIRECT_MAX_SIZE", limit)
    A, b = complex_system("cg" if structure == "psd" else "lu")
    solve = jax.jit(lambda scale, b: ls.solve(lambda v: scale * (A @ v), b, structure=structure))
    check_grads(solve, (2.0, b), order=1, modes=["fwd", "rev"], rtol=1e-5, atol=1e-5)


def test_dense_complex_matrix_and_its_operators():
    A, b = complex_system("lu")
    assert_allclose(ls.solve(A, b), np.linalg.solve(A, b), rtol=1e-10)
    assert_allclose(ls.solve(A.real, b), np.linalg.solve(A.real, b), rtol=1e-10)
    assert_allclose(ls.materialize(lambda v: A @ v, b), A)
    assert_allclose(ls.materialize(ls.transpose(lambda v: A @ v, b), b), A.T)
    assert_allclose(ls.diagonal(A, b), np.diagonal(A))
    assert_allclose(ls.jacobi_preconditioner(A, b)(b), b / np.diagonal(A))
    x, info = ls.solve_gmres(A, b, tol=None, preconditioner=ls.jacobi_preconditioner(A, b), info=True)
    assert_allclose(x, np.linalg.solve(A, b), rtol=1e-9)
    assert_allclose(info.residual_norm, 0, atol=1e-12)


def test_real_and_complex_leaves_together():
    """A map that takes real parts is linear over the reals only, and that is how it is solved."""
    b = {"real": jnp.array([1.0, 2.0]), "complex": jnp.array([1.0 + 2j])}

    def matvec(t):
        z = t["complex"]
        return {"real": 3 * t["real"] + z.real, "complex": 2 * z + jnp.conj(z) + t["real"].sum().astype(z.dtype)}

    x = ls.solve(matvec, b)
    jax.tree.map(lambda got, want: assert_allclose(got, want, rtol=1e-12), matvec(x), b)
    assert x["real"].dtype == jnp.float64 and x["complex"].dtype == jnp.complex128
