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
