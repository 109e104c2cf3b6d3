"""What ``solve_conic`` says of arguments that do not fit, before anything is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

import jaxsolve

CONES = jaxsolve.Cones(soc=(3,))
C, A, B = np.array([-3.0, -4.0]), np.array([[0.0, 0.0], [-1.0, 0.0], [0.0, -1.0]]), np.array([2.0, 0.0, 0.0])


@pytest.mark.parametrize("method", ["interior_point", "admm"])
@pytest.mark.parametrize(
    "init, message",
    [
        (np.ones(3), "x of init_params must have 2 entries"),
        (jaxsolve.ConicSolution(np.ones(2), np.ones(2), np.ones(3)), "y must have 3 entries"),
    ],
)
def test_initial_points_of_another_shape_are_named(method, init, message):
    with pytest.raises(ValueError, match=message):
        jaxsolve.solve_conic(None, C, A, B, CONES, method=method, init=init)


@pytest.mark.parametrize(
    "changed, error, name",
    [
        ({"c": None}, TypeError, "c"),
        ({"c": 1j * C}, TypeError, "c"),
        ({"A": "A"}, TypeError, "A"),
        ({"A": A.T}, ValueError, "A"),
        ({"P": np.eye(3)}, ValueError, "P"),
        ({"b": B[1:]}, ValueError, "b"),
        ({"b": np.array([2.0, np.inf, 0.0])}, ValueError, "b"),
        ({"b": np.array([2.0, -1e20, 0.0])}, ValueError, "b"),
        ({"A": A[1:]}, ValueError, "A"),
        ({"A": A[1:], "b": 0.0}, ValueError, "A"),
        ({"cones": {"q": [3]}}, TypeError, "cones"),
        ({"P": lambda x: x, "method": "interior_point"}, ValueError, "P"),
        ({"A": lambda x: A @ x, "method": "interior_point"}, ValueError, "A"),
        ({"method": "scs"}, ValueError, "method"),
        ({"weak": "no"}, ValueError, "weak"),
        ({"tol": -1.0}, ValueError, "tol"),
    ],
)
def test_arguments_are_named(changed, error, name):
    data = {"P": None, "c": C, "A": A, "b": B, "cones": CONES} | changed
    with pytest.raises(error, match=f"^{name} must"):
        jaxsolve.solve_conic(**data)


@pytest.mark.slow
def test_lists_and_column_vectors():
    wanted = jaxsolve.solve_conic(None, C, A, B, CONES).x
    np.testing.assert_allclose(wanted, [1.2, 1.6], atol=1e-8)
    found = jaxsolve.solve_conic(None, C.tolist(), A.tolist(), B.tolist(), CONES)
    assert jnp.array_equal(found.x, wanted)


ROWS = jaxsolve.Cones(nonneg=2, soc=(3,))
MORE_A, MORE_B = np.concatenate([np.eye(2), A]), np.concatenate([[np.inf, 1.0], B])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["interior_point", "admm"])
def test_infinite_rows_are_absent(method):
    """Also where the values are not known, of sparse matrices, and with what else means infinity."""
    wanted = jaxsolve.solve_conic(None, C, MORE_A[1:], MORE_B[1:], jaxsolve.Cones(nonneg=1, soc=(3,)), method=method)
    run = jax.jit(lambda b: jaxsolve.solve_conic(None, C, MORE_A, b, ROWS, method=method))
    found = [run(MORE_B), jaxsolve.solve_conic(None, C, sparse.csr_matrix(MORE_A), MORE_B, ROWS, method=method)]
    found.append(run(np.where(MORE_B == np.inf, 1e20, MORE_B)))
    for result in found:
        assert bool(result.success)
        np.testing.assert_allclose(result.x, wanted.x, atol=1e-5)
        np.testing.assert_allclose(result.y, np.concatenate([[0], wanted.y]), atol=1e-5)
        assert result.s[0] == np.inf and bool(jnp.all(jnp.isfinite(result.s[1:])))
    slopes = jax.jacobian(lambda b: run(b).x)(MORE_B)
    assert bool(jnp.all(jnp.isfinite(slopes))) and not np.any(slopes[:, 0]) and np.any(slopes[:, 2])
    with pytest.raises(ValueError, match="b must be finite, except for .inf in rows of nonneg.*-inf in row 0"):
        jaxsolve.solve_conic(None, C, MORE_A, -MORE_B, ROWS, method=method)


@pytest.mark.slow
def test_a_number_for_all_right_hand_sides():
    cones = jaxsolve.Cones(nonneg=2)
    for method in ("quadratic", "interior_point"):
        result = jaxsolve.solve_conic(None, C, np.eye(2), 1, cones, method=method)
        np.testing.assert_allclose(result.x, [1, 1], atol=1e-7)
        np.testing.assert_allclose(result.s, [0, 0], atol=1e-7)


@pytest.mark.slow
@pytest.mark.float32
def test_whole_numbers():
    """They are taken as numbers of the default dtype, without a word, whether that has 32 or 64 bits."""
    result = jaxsolve.solve_conic(None, [-3, -4], A.astype(int).tolist(), [2, 0, 0], CONES)
    assert result.x.dtype == jnp.result_type(float)
    np.testing.assert_allclose(result.x, [1.2, 1.6], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["interior_point", "admm"])
def test_the_unit_of_a_constant_row(method):
    """The radius of a disk is a constant in a second-order cone, and all that has the unit of x."""
    solve = jax.jit(lambda r: jaxsolve.solve_conic(None, C, A, r * jnp.eye(3)[0], CONES, method=method))
    iterations = set()
    for radius in 2.0 ** np.arange(-40, 41, 8):
        result = solve(radius)
        assert bool(result.success)
        iterations.add(int(result.iter_num))
        np.testing.assert_allclose(result.x / radius, [0.6, 0.8], rtol=1e-6)
    assert len(iterations) == 1
