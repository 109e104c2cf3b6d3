"""Every method on every kind of input: arrays, pytrees, scalars, two-dimensional unknowns, options."""

from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxsolve import linear_solve as ls
from tests.linear_solve.problems import METHODS, PSD_METHODS, N, jitted, spectrum, system, tight_gmres

Pair = namedtuple("Pair", ["u", "v"])
every_method = pytest.mark.parametrize("name", METHODS)


@every_method
def test_solution_and_residual(name):
    A, b = system(name)
    x, info = jitted(name)(A, b)
    assert_allclose(x, np.linalg.solve(A, b), rtol=1e-10)
    assert info.residual_norm <= 1e-12 * np.linalg.norm(b)
    assert_allclose(info.relative_residual, info.residual_norm / np.linalg.norm(b))
    assert not info.rank_deficient
    assert_allclose(ls.residual(A, x, b), b - A @ np.asarray(x), atol=1e-14)


@pytest.mark.parametrize("name", ["cholesky", "lu", "cg", "gmres", "normal_cg", "refinement"])
def test_pytree_with_another_container_for_the_image(name):
    A, b = system(name)
    tree = Pair(jnp.asarray(b[:2]).reshape(1, 2), {"w": jnp.asarray(b[2:])})

    @jax.jit
    def solve(tree):
        def matvec(t):
            image = A @ jnp.concatenate([t.u.ravel(), t.v["w"]])
            return image[:2].reshape(1, 2), image[2:]

        return METHODS[name](matvec, tree)

    x = solve(tree)
    assert isinstance(x, Pair) and x.u.shape == (1, 2) and x.v["w"].shape == (4,)
    assert_allclose(np.concatenate([x.u.ravel(), x.v["w"]]), np.linalg.solve(A, b), rtol=1e-10)


@pytest.mark.parametrize("name", ["cholesky", "lu", "cg", "minres", "gmres", "bicgstab"])
def test_scalar_under_jit(name):
    x = jax.jit(lambda a, b: METHODS[name](lambda v: a * v, b))(4.0, 2.0)
    assert x.shape == () and float(x) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["cholesky", "cg", "gmres"])
def test_two_dimensional_unknown(name):
    A, _ = system(name)
    B = np.random.default_rng(1).standard_normal((N, 2))
    expected = np.linalg.solve(A, B)
    assert_allclose(jax.jit(lambda B: METHODS[name](lambda X: A @ X, B))(B), expected, rtol=1e-9)
    # A dense matrix with several columns: one solve a column, each with its own residual.
    x, info = jax.jit(lambda B: METHODS[name](A, B, info=True))(B)
    assert_allclose(x, expected, rtol=1e-9)
    assert info.residual_norm.shape == (2,)


@pytest.mark.parametrize("name", ["cholesky", "lstsq", "cg", "minres", "gmres"])
def test_ridge_is_added_to_the_map(name):
    A, b = system(name)
    x = jax.jit(lambda b, ridge: METHODS[name](lambda v: A @ v, b, ridge=ridge))(b, 0.5)
    assert_allclose(x, np.linalg.solve(A + 0.5 * np.eye(N), b), rtol=1e-10)


def test_ridge_of_normal_cg_is_that_of_tikhonov():
    A, b = system("lu")
    init = np.ones(N)
    x = jax.jit(lambda A, b: ls.solve_normal_cg(A, b, 0.5, init))(A, b)
    assert_allclose(x, np.linalg.solve(A.T @ A + 0.5 * np.eye(N), A.T @ b), rtol=1e-10)


def test_ridge_in_refinement_leaves_no_bias():
    A = spectrum([1e-3, 0.1, 1, 1, 2, 3])
    b = A @ np.ones(N)
    x = jax.jit(
        lambda b: ls.solve_iterative_refinement(A, b, solve=ls.solve_cholesky, ridge=1e-3, maxiter=60, tol=1e-12)
    )(b)
    assert_allclose(x, np.ones(N), rtol=1e-8)


@pytest.mark.parametrize("name", ["cg", "gmres", "lsqr", "refinement"])
def test_starting_point(name):
    A, b = system(name)
    exact = np.linalg.solve(A, b)
    solve = jax.jit(lambda b, init: METHODS[name](A, b, init=init, info=True))
    x, info = solve(b, exact)
    assert_allclose(x, exact, rtol=1e-10)
    assert info.num_iter <= 1
    # A poor starting point must not spoil a solve with a tiny right-hand side.
    assert_allclose(solve(1e-20 * b, np.ones(N))[0], 1e-20 * exact, rtol=1e-10)


@pytest.mark.parametrize("name", ["cg", "minres", "gmres", "lsqr"])
def test_tol_atol_and_maxiter_bound_the_work(name):
    A, b = spectrum(np.linspace(1, 30, 30)), np.random.default_rng(0).standard_normal(30)
    method = getattr(ls, f"solve_{name}")
    solve = jax.jit(lambda tol, atol: method(A, b, tol=tol, atol=atol, info=True)[1])
    loose, tight = solve(1e-2, 0.0), solve(1e-10, 0.0)
    assert loose.num_iter < tight.num_iter
    assert loose.relative_residual <= 1e-2 and tight.relative_residual <= 1e-9
    assert solve(0.0, 1e-2 * np.linalg.norm(b)).num_iter == loose.num_iter
    options = {"restart": 3, "maxiter": 1} if name == "gmres" else {"maxiter": 3}
    if name in ("cg", "gmres"):
        _, info = jax.jit(lambda b: method(A, b, info=True, tol=None, **options))(b)
        assert info.num_iter == 3
        assert 0 < info.relative_residual < 1


@pytest.mark.parametrize("name", ["cg", "minres", "gmres", "bicgstab"])
def test_preconditioner_saves_iterations(name):
    rng = np.random.default_rng(0)
    n = 30
    A = np.diag(np.logspace(0.0, 4.0, n)) + 0.1 * spectrum(rng.uniform(0, 1, n))
    if name in ("gmres", "bicgstab"):
        A = A + np.triu(0.05 * rng.standard_normal((n, n)), 1)
    b = {"w": rng.standard_normal((n // 2, 2))}

    def matvec(t):
        return {"w": (A @ t["w"].ravel()).reshape(n // 2, 2)}

    @jax.jit
    def solve(b):
        M = ls.jacobi_preconditioner(matvec, b)
        method = METHODS[name]
        return method(matvec, b, info=True), method(matvec, b, preconditioner=M, info=True)

    (_, plain), (x, helped) = solve(b)
    assert_allclose(x["w"].ravel(), np.linalg.solve(A, b["w"].ravel()), rtol=1e-7)
    assert int(helped.num_iter) < 0.6 * int(plain.num_iter)


def test_preconditioner_by_matrix_and_transposed_in_reverse_mode():
    A, b = system("gmres")
    M = np.linalg.inv(A) + 0.01 * np.triu(np.ones((N, N)))
    x, pull = jax.vjp(lambda b: tight_gmres(lambda v: A @ v, b, M=M), b)
    assert_allclose(x, np.linalg.solve(A, b), rtol=1e-10)
    assert_allclose(pull(np.ones(N))[0], np.linalg.solve(A.T, np.ones(N)), rtol=1e-10)


@pytest.mark.float32
def test_preconditioner_of_another_dtype():
    b = jnp.array([2.0, 4.0], jnp.float32)
    x = ls.solve_cg(lambda v: 2 * v, b, preconditioner=np.eye(2))
    assert x.dtype == jnp.float32 and x.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("ridge", [None, 0.1])
def test_normal_cg_with_a_preconditioner(ridge):
    rng = np.random.default_rng(0)
    A = np.diag(np.logspace(0.0, 2.0, 20)) + 0.05 * rng.standard_normal((20, 20))
    b, normal = rng.standard_normal(20), A.T @ A + (ridge or 0.0) * np.eye(20)
    M = np.diag(1 / np.diag(normal))
    _, plain = ls.solve_normal_cg(A, b, ridge, info=True)
    x, helped = ls.solve_normal_cg(A, b, ridge, M=M, info=True)
    assert_allclose(x, np.linalg.solve(normal, A.T @ b), rtol=1e-9)
    assert int(helped.num_iter) < 0.6 * int(plain.num_iter)
    jacobian = jax.jacrev(lambda b: ls.solve_normal_cg(A, b, ridge, M=M))(b)
    assert_allclose(jacobian, np.linalg.solve(normal, A.T), rtol=1e-7, atol=1e-9)


def test_both_ways_of_gmres_are_one():
    A, b = system("gmres")
    for solve_method in ("batched", "incremental"):
        np.testing.assert_array_equal(tight_gmres(A, b, solve_method=solve_method), tight_gmres(A, b))
    with pytest.raises(ValueError, match="solve_method must be"):
        ls.solve_gmres(A, b, solve_method="fast")


def test_gmres_goes_on_after_a_restart():
    A, b = system("gmres")
    x = jax.jit(lambda b: tight_gmres(A, b, restart=3))(b)
    assert_allclose(x, np.linalg.solve(A, b), rtol=1e-9)


def test_neumann_partial_sums():
    rng = np.random.default_rng(0)
    J = 0.3 * rng.standard_normal((4, 4)) / 2
    b = rng.standard_normal(4)
    terms = [np.linalg.matrix_power(J, k) @ b for k in range(5)]

    def solve(A, **options):
        return jax.jit(lambda A, b: ls.solve_neumann(A, b, **options))(A, b)

    assert_allclose(solve(J - np.eye(4), num_terms=1), -b)
    assert_allclose(solve(J - np.eye(4), num_terms=3), -sum(terms[:3]))
    assert_allclose(solve(np.eye(4) - J, num_terms=5, residual="x - T(x)"), sum(terms))
    assert_allclose(solve(J - np.eye(4), num_terms=60), np.linalg.solve(J - np.eye(4), b), rtol=1e-10)
    damped = 0.5 * np.eye(4) + 0.5 * J
    assert_allclose(solve(J - np.eye(4), num_terms=2, damping=0.5), -0.5 * (b + damped @ b))
    pulled = jax.grad(lambda b: ls.solve_neumann(lambda v: (J - np.eye(4)) @ v, b, 2) @ np.ones(4))(b)
    assert_allclose(pulled, -(np.ones(4) + J.T @ np.ones(4)))


def test_neumann_number_of_terms_may_be_traced():
    solve = jax.jit(lambda k: ls.solve_neumann(lambda v: -0.5 * v, jnp.asarray(1.0), k))
    assert float(solve(1)) == -1.0 and float(solve(3)) == -1.75


@pytest.mark.parametrize("name", ["cholesky", "lu", "minres", "gmres", "lsqr"])
def test_complex(name):
    rng = np.random.default_rng(0)
    b = rng.standard_normal(N) + 1j * rng.standard_normal(N)
    G = rng.standard_normal((N, N)) + 1j * rng.standard_normal((N, N))
    A = G @ G.conj().T + np.eye(N) if name in PSD_METHODS or name == "minres" else G + 4 * np.eye(N)
    ones = np.ones(N, complex)

    @jax.jit
    def solve_and_pull(b):
        x, pull = jax.vjp(lambda b: METHODS[name](lambda v: A @ v, b), b)
        return x, pull(ones)[0]

    x, pulled = solve_and_pull(b)
    assert_allclose(x, np.linalg.solve(A, b), rtol=1e-8)
    assert_allclose(pulled, np.linalg.solve(A.T, ones), rtol=1e-8)


def test_empty_right_hand_side():
    x, info = ls.solve(lambda v: v, jnp.zeros(0), info=True)
    assert x.shape == (0,) and info.residual_norm == 0


def test_operators():
    like = {"a": jnp.zeros((2, 1)), "b": jnp.zeros((), jnp.float32)}
    M = np.arange(9.0).reshape(3, 3)

    def matvec(t):
        image = M @ jnp.concatenate([t["a"].ravel(), t["b"].astype(jnp.float64)[None]])
        return {"a": image[:2].reshape(2, 1), "b": image[2].astype(jnp.float32)}

    dense = ls.materialize(matvec, like, ridge=0.5)
    assert dense.dtype == jnp.float64
    assert_allclose(dense, M + 0.5 * np.eye(3))
    transposed = ls.transpose(matvec, like)
    assert_allclose(ls.materialize(transposed, like), M.T)
    assert jax.tree.map(float, ls.diagonal(matvec, {"a": jnp.zeros((2, 1)), "b": jnp.float32(0)})["b"]) == 8.0
    M0 = ls.jacobi_preconditioner(None, jnp.zeros(2), diag=jnp.array([0.0, 4.0]))
    assert M0(jnp.ones(2)).tolist() == [1.0, 0.25]


@pytest.mark.parametrize("ridge", [None, 0.3])
def test_least_squares_of_a_map_that_is_not_square(ridge):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((5, 3)), rng.standard_normal(5)

    def closed_form(X, y):
        return jnp.linalg.solve(X.T @ X + (ridge or 0.0) * jnp.eye(3), X.T @ y)

    def solve(X, y, info=False):
        def matvec(t):
            image = X @ jnp.concatenate([t["u"], t["v"][None]])
            return image[:2], image[2:]

        like = {"u": jnp.zeros(2), "v": jnp.zeros(())}
        return ls.solve_normal_cg(matvec, (y[:2], y[2:]), ridge, like, info=info)

    x, info = solve(X, y, info=True)
    expected = closed_form(X, y)
    assert_allclose(np.concatenate([x["u"], x["v"][None]]), expected, rtol=1e-10)
    left = np.linalg.norm(y - X @ expected) if ridge is None else 0.0
    assert_allclose(info.residual_norm, left, atol=1e-12)
    assert_allclose(ls.solve_normal_cg(X, y, ridge), expected, rtol=1e-10)
    got = jax.jacrev(lambda X, y: jnp.concatenate(jax.tree.leaves(jax.tree.map(jnp.ravel, solve(X, y)))), (0, 1))(X, y)
    want = jax.jacrev(closed_form, (0, 1))(X, y)
    jax.tree.map(lambda g, w: assert_allclose(g, w, rtol=1e-8, atol=1e-10), got, want)


def test_wide_map_gives_the_solution_of_minimal_norm():
    X, y = np.random.default_rng(0).standard_normal((2, 4)), np.array([1.0, -2.0])
    assert_allclose(ls.solve_normal_cg(X, y), np.linalg.pinv(X) @ y, rtol=1e-10)
    columns = ls.solve_normal_cg(X, np.stack([y, 2 * y], axis=1))
    assert_allclose(columns[:, 1], 2 * np.linalg.pinv(X) @ y, rtol=1e-10)
    with pytest.raises(ValueError, match="must have the leaf shapes of b"):
        ls.solve_normal_cg(lambda x: x[:1], y)
