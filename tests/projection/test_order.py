"""Monotone vectors, the ordered and the capped simplex, the permutahedron: vertices, derivatives, ties, bad input."""

import itertools

import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxsolve import projection as P
from tests.projection.checks import check_derivatives

X = np.array([0.9, -1.3, 2.1, 0.3, -0.2, 1.4])
W = np.array([0.5, 2.0, -1.0, 1.25, 0.5, 3.0])
permutahedron = jax.jit(P.projection_permutahedron)


# Multiples of 1/4, so that ties occur.
points = hnp.arrays(np.float64, 4, elements=st.integers(-16, 16).map(lambda i: i / 4.0))


@hypothesis.given(x=points, w=points)
def test_permutahedron_is_characterized_by_its_vertices(x, w):
    p = np.asarray(permutahedron(x, w))
    vertices = np.array(list(itertools.permutations(w)))
    assert np.max((vertices - p) @ (x - p)) <= 1e-11
    np.testing.assert_allclose(p.sum(), w.sum(), atol=1e-12)
    # The order is that of x, and equal entries stay equal.
    order = np.argsort(x, kind="stable")
    assert np.all(np.diff(p[order]) >= -1e-12)
    np.testing.assert_allclose(p[order][1:][np.diff(x[order]) == 0], p[order][:-1][np.diff(x[order]) == 0], atol=1e-12)


def test_permutahedron_derivatives():
    check_derivatives(P.projection_permutahedron, (jnp.asarray(X), jnp.asarray(W)))
    check_derivatives(P.projection_permutahedron, (jnp.asarray(0.1 * X), jnp.asarray(W)))
    # At ties: finite, symmetric in x.
    jac = jax.jit(jax.jacrev(P.projection_permutahedron))(jnp.zeros(6), jnp.asarray(W))
    np.testing.assert_allclose(jac, np.eye(6) - 1 / 6, atol=1e-15)
    jac = jax.jit(jax.jacfwd(P.projection_permutahedron, 1))(jnp.asarray(1e3 * X), jnp.asarray(W))
    np.testing.assert_array_equal(np.sum(jac, axis=0), np.ones(6))


@pytest.mark.float32
def test_permutahedron_far_away_is_a_vertex():
    x = jnp.array([3.0, -1.0, 2.0, -1.0], jnp.float32)
    w = jnp.array([1.0, 2.0, 3.0, 4.0], jnp.float32)
    # The equal entries share what they would get, even where w is nothing beside x.
    for scale in (1e2, 1e10, 1e30):
        np.testing.assert_array_equal(P.projection_permutahedron(scale * x, w), [4.0, 1.5, 3.0, 1.5])
    assert P.projection_permutahedron(x.astype(jnp.bfloat16), w).dtype == jnp.bfloat16


def test_permutahedron_of_trees_and_batches():
    split = lambda v: {"a": jnp.asarray(v[:4]).reshape(2, 2), "b": (jnp.asarray(v[4]), jnp.asarray(v[5]))}
    expected = permutahedron(X, W)
    for w in (split(W), jnp.asarray(W), jnp.asarray(W).reshape(2, 3)):
        jax.tree.map(np.testing.assert_allclose, P.projection_permutahedron(split(X), w), split(np.asarray(expected)))
    xs = jnp.stack([jnp.asarray(X), -jnp.asarray(X)])
    batched = jax.jit(jax.vmap(P.projection_permutahedron, (0, None)))(xs, jnp.asarray(W))
    np.testing.assert_allclose(batched, [permutahedron(x, W) for x in xs], atol=1e-14)
    assert np.any(np.isnan(permutahedron(np.array([0.0, np.nan]), np.array([1.0, 2.0]))))


def test_ordered_simplex_of_ordered_input_is_the_simplex():
    x = jnp.array([2.0, 1.5, 1.0, -3.0])
    np.testing.assert_allclose(P.projection_ordered_simplex(x), P.projection_simplex(x))
    np.testing.assert_array_equal(P.projection_ordered_simplex(x, None), P.projection_ordered_simplex(x, 1.0))


def test_capped_simplex_by_cases():
    np.testing.assert_array_equal(P.projection_capped_simplex(jnp.array([9.0, 8.0, 1.0]), 2.0), [1.0, 1.0, 0.0])
    np.testing.assert_array_equal(P.projection_capped_simplex(jnp.zeros(2), 1.5, jnp.array([0.5, 2.0])), [0.5, 1.0])
    assert np.all(np.isnan(P.projection_capped_simplex(jnp.zeros(2), 3.0)))


def test_bad_input():
    with pytest.raises(ValueError, match="as many entries as x, 3, got 2"):
        P.projection_permutahedron(jnp.ones(3), jnp.ones(2))
    with pytest.raises(ValueError, match="w must be an array or have the structure of x"):
        P.projection_permutahedron(jnp.ones(3), (jnp.ones(2), 1.0))
    with pytest.raises(TypeError, match="w must be real"):
        P.projection_permutahedron(jnp.ones(3), jnp.ones(3, complex))
    with pytest.raises(ValueError, match="value must be non-negative"):
        P.projection_ordered_simplex(jnp.ones(3), -1.0)
    with pytest.raises(ValueError, match="value must be non-negative"):
        P.projection_capped_simplex(jnp.ones(3), -1.0)
    with pytest.raises(ValueError, match="upper must be non-negative"):
        P.projection_capped_simplex(jnp.ones(3), 1.0, -1.0)
    with pytest.raises(TypeError, match="increasing must be True or False"):
        P.projection_monotone_cone(jnp.ones(3), None, "auto")
