"""What ``solve_conic`` says of arguments that do not fit, before anything is compiled."""

import jax.numpy as jnp
import numpy as np
import pytest

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
