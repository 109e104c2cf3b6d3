"""Pytrees as vectors, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve._vectors import flat, ravel, unraveled

TREES = {
    "array": jnp.arange(6.0).reshape(2, 3),
    "nested": {"a": jnp.arange(6.0).reshape(2, 3), "b": (jnp.asarray(7.0), [jnp.array([8.0, 9.0])])},
    "dtypes": [jnp.ones(2, jnp.bfloat16), jnp.arange(3.0, dtype=jnp.float32), jnp.arange(2.0)],
    "complex": {"re": jnp.ones(2), "z": jnp.array([1 + 2j, 3j])},
    "half": jnp.ones((2, 1), jnp.float16),
    "none": (),
    "no entries": {"a": jnp.zeros((0, 3)), "b": jnp.ones(1)},
}


@pytest.mark.parametrize("name", TREES)
def test_there_and_back(name):
    tree = TREES[name]
    vector, unravel = ravel(tree)
    want = [np.asarray(leaf, complex).ravel() for leaf in jax.tree.leaves(tree)]
    np.testing.assert_array_equal(vector, np.concatenate(want) if want else np.zeros(0))
    assert jnp.finfo(vector.dtype).bits >= 32
    assert jnp.iscomplexobj(vector) == (name == "complex")
    back = jax.jit(unravel)(vector)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for got, leaf in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
        assert got.dtype == leaf.dtype
        np.testing.assert_array_equal(got, leaf)


def test_a_dtype_of_ones_own():
    tree = TREES["dtypes"]
    assert flat(tree, jnp.float32).dtype == jnp.float32
    assert [leaf.dtype for leaf in unraveled(tree)(jnp.zeros(7, jnp.float32))] == [leaf.dtype for leaf in tree]
    shapes = jax.eval_shape(lambda: tree)
    assert unraveled(shapes)(jnp.arange(7.0))[2].tolist() == [5.0, 6.0]


def test_one_leaf_costs_nothing():
    assert not jax.make_jaxpr(lambda x: ravel(ravel(x)[0])[1](x))(jnp.ones(3)).eqns
