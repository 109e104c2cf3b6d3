"""Projected gradient: sets that are empty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import projection


def fun(x):
    return sum(jnp.sum((leaf - 1.0) ** 2) for leaf in jax.tree.leaves(x))


@pytest.mark.parametrize(
    ("bounds", "empty"),
    [
        ((-1.0, 2.0), (1.0, -1.0)),
        ((np.zeros(3), 1.0), (np.asarray([0.0, 2.0, 0.0]), 1.0)),
        (({"a": 0.0, "b": jnp.zeros(2)}, 1.0), (0.0, {"a": 1.0, "b": jnp.asarray([1.0, -1.0])})),
    ],
    ids=["numbers", "arrays", "trees"],
)
def test_an_empty_box_is_refused(bounds, empty):
    start = {"a": 0.0, "b": jnp.zeros(2)} if any(isinstance(b, dict) for b in bounds) else jnp.zeros(3)
    solver = jaxsolve.ProjectedGradient(fun, projection.projection_box)
    assert int(solver.run(start, bounds).state.status) == jaxsolve.Status.CONVERGED
    with pytest.raises(ValueError, match="lower must not exceed upper"):
        solver.run(start, empty)


@pytest.mark.parametrize("name", ["simplex", "l1_ball", "l1_sphere", "l2_ball", "l2_sphere", "linf_ball", "hypercube"])
def test_a_negative_size_is_refused(name):
    solver = jaxsolve.ProjectedGradient(fun, getattr(projection, f"projection_{name}"))
    with pytest.raises(ValueError, match=rf"projection_{name}: \w+ must be non-negative, got -1.0"):
        solver.run(jnp.ones(3), -1.0)
    # The value of a traced size is not looked at.
    jax.eval_shape(lambda size: solver.run(jnp.ones(3), size), -1.0)
    if name != "l1_sphere":
        assert int(solver.run(0.3 * jnp.ones(3), 1.0).state.status) == jaxsolve.Status.CONVERGED


@pytest.mark.parametrize("tol", [1e-3, 1e-10])
def test_derivatives_of_a_solution_inside_of_the_set(tol):
    """There the gradient is rounding, or what the tolerance leaves, and tells nothing of the size of a step."""
    fun = lambda x, t: jnp.sum(jnp.cosh(x - t) + 0.1 * x**4) + 0.1 * jnp.sum(x) ** 2
    solver = jaxsolve.ProjectedGradient(fun, projection.projection_box, tol=tol, maxiter=2000)
    solution = lambda t: solver.run(jnp.full(3, 0.7), (0.2, 1.2), t).params
    t = jnp.array([1.3, 1.0, 0.8])
    free = jaxsolve.LBFGS(fun, tol=1e-12)
    expected = jax.jacobian(lambda t: free.run(jnp.full(3, 0.7), t).params)(t)
    for mode in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(mode(solution)(t), expected, rtol=20 * tol)
