"""Iterative refinement: approximations of the matrix, forms of the data, accuracy beyond that of the rough solver."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse

import jaxsolve
from jaxsolve import Status
from jaxsolve.linear_solve import solve_cg

_rng = np.random.default_rng(0)
A = jnp.asarray(np.diag([4.0, 3.0, 5.0]) + 0.3 * _rng.normal(size=(3, 3)))
B = jnp.asarray(_rng.normal(size=3))
EXACT = np.linalg.solve(A, B)


def in_single(matvec, r):
    """A direct solve in float32."""
    matrix = jax.vmap(matvec, out_axes=1)(jnp.eye(3, dtype=r.dtype))
    return jnp.linalg.solve(matrix.astype(jnp.float32), r.astype(jnp.float32)).astype(r.dtype)


def test_double_precision_from_solves_in_single():
    once = in_single(lambda x: A @ x, B)
    assert np.max(np.abs(once - EXACT)) > 1e-9
    solver = jaxsolve.IterativeRefinement(solve=in_single, tol=1e-14)
    params, state = solver.run(None, A, B)
    np.testing.assert_allclose(params, EXACT, rtol=0, atol=1e-14)
    assert int(state.status) == Status.CONVERGED
    assert int(state.iter_num) <= 4


def test_the_bias_of_a_ridge_goes_away():
    """By the factor ridge / (ridge + eigenvalue) in each iteration, which the state counts."""
    diagonal = jnp.asarray([1.0, 3.0])
    solver = jaxsolve.IterativeRefinement(solve=functools.partial(solve_cg, ridge=1.0), maxiter=5, tol=0.0)
    state = solver.run(None, jnp.diag(diagonal), diagonal).state
    np.testing.assert_allclose(state.target_residuals, diagonal * (1 / (1 + diagonal)) ** 5, rtol=1e-12)
    assert int(state.num_solve_eval) == int(state.num_matvec_bar_eval) == 5
    assert int(state.num_matvec_eval) == 6
    assert int(state.status) == Status.MAXITER


@pytest.mark.parametrize(
    ("functions", "approximation"),
    [
        ({}, jnp.diag(jnp.diag(A))),
        ({"matvec_A": lambda matrix, x: matrix @ x}, jnp.diag(jnp.diag(A))),
        ({"matvec_A_bar": lambda matrix, x: jnp.diag(matrix) * x}, None),
        ({"matvec_A_bar": lambda diagonal, x: diagonal * x}, jnp.diag(A)),
    ],
)
def test_approximations_of_the_matrix(functions, approximation):
    """However the diagonal is given, this is Jacobi's method."""
    solver = jaxsolve.IterativeRefinement(**functions, solve=None, maxiter=2, tol=0.0)
    x = B / jnp.diag(A)
    x = x + (B - A @ x) / jnp.diag(A)
    np.testing.assert_allclose(solver.run(None, A, B, approximation).params, x, rtol=1e-12)


def test_the_derivative_knows_the_matrix_alone():
    solver = jaxsolve.IterativeRefinement(maxiter=60, tol=1e-12)

    def solution(A, b, A_bar):
        return solver.run(None, A, b, A_bar).params

    got = jax.jacrev(solution, argnums=(0, 1, 2))(A, B, jnp.diag(jnp.diag(A)))
    inverse = np.linalg.inv(A)
    np.testing.assert_allclose(got[0], -np.einsum("ij,k->ijk", inverse, EXACT), atol=1e-10)
    np.testing.assert_allclose(got[1], inverse, atol=1e-10)
    np.testing.assert_array_equal(got[2], 0)


def test_forms_of_the_matrix():
    """Sparse, a function that captures what is differentiated, nothing at all, and a matrix for each leaf."""
    solver = jaxsolve.IterativeRefinement(tol=1e-12)

    def by_sparse(A):
        return solver.run(None, sparse.BCOO.fromdense(A, nse=9), B).params

    def by_function(A):
        return solver.run(None, lambda x: A @ x, B).params

    def by_capture(A):
        return jaxsolve.IterativeRefinement(lambda _, x: A @ x, tol=1e-12).run(None, None, B).params

    def by_leaf(A):
        matrices = {"a": A, "b": 2 * jnp.eye(2)}
        return solver.run(None, matrices, {"a": B, "b": jnp.ones(2)}).params["a"]

    want = -np.einsum("ij,k->ijk", np.linalg.inv(A), EXACT)
    for solution in (by_sparse, by_function, by_capture, by_leaf):
        np.testing.assert_allclose(solution(A), EXACT, atol=1e-12)
        np.testing.assert_allclose(jax.jacrev(solution)(A), want, atol=1e-10)


def test_complex_systems():
    matrix, rhs = jnp.asarray(np.asarray(A) + 1j * np.eye(3)), jnp.asarray(np.asarray(B) + 0.5j)
    params = jaxsolve.IterativeRefinement(tol=1e-12).run(None, matrix, rhs).params
    np.testing.assert_allclose(params, np.linalg.solve(matrix, rhs), atol=1e-12)


def test_where_it_starts():
    solver = jaxsolve.IterativeRefinement(tol=1e-10)
    first = solver.run(None, A, B)
    assert int(solver.run(first.params, A, B).state.iter_num) == 0
    again = solver.run(first, A, B).state
    assert int(again.iter_num) == int(first.state.iter_num)
    # An initial point is an iterate: what is left of the system is solved for.
    np.testing.assert_allclose(solver.init_state(EXACT + 1, A, B).target_residuals, -A @ jnp.ones(3), rtol=1e-12)


def test_approximations_that_are_too_far_away():
    solver = jaxsolve.IterativeRefinement(tol=1e-10, maxiter=30)
    state = solver.run(None, A, B, 0.1 * A).state
    assert int(state.status) == Status.MAXITER
    assert float(state.error) > 1


def test_bad_arguments():
    solver = jaxsolve.IterativeRefinement()
    with pytest.raises(ValueError, match="init_params must have the structure and shapes of b"):
        solver.run(jnp.zeros(2), A, B)
    with pytest.raises(ValueError, match="matvec_A must return the structure and shapes"):
        solver.run(None, A[:2], B)
    for init, b in ((jnp.zeros(3, int), B), (None, jnp.arange(3)), (jnp.zeros(3, complex), B)):
        with pytest.raises(TypeError, match="init_params and b must be floating-point"):
            solver.run(init, A, b)
    with pytest.raises(TypeError, match="matvec_A_bar must be a function"):
        jaxsolve.IterativeRefinement(matvec_A_bar=A)
    with pytest.raises(TypeError, match="did you mean|Did you mean"):
        jaxsolve.IterativeRefinement(solve="gmres")


def test_against_jaxopt():
    """With a rough solver that both can use."""
    jaxopt = pytest.importorskip("jaxopt", exc_type=ImportError)
    rough = lambda matvec, b, init=None: 0.2 * b
    there, here = (
        f(solve=rough, maxiter=7, tol=1e-16) for f in (jaxopt.IterativeRefinement, jaxsolve.IterativeRefinement)
    )
    want, got = there.run(None, A, B), here.run(None, A, B)
    np.testing.assert_allclose(got.params, want.params, rtol=1e-10)
    for name in ("iter_num", "error", "target_residuals", "init", "num_solve_eval", "num_matvec_bar_eval"):
        np.testing.assert_allclose(getattr(got.state, name), getattr(want.state, name), rtol=1e-10, err_msg=name)
