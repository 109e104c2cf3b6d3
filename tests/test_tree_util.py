"""Pytree arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import tree_util as tu

TREE = {"a": np.array([1.0, -2.0]), "b": (np.array([[3.0]]), np.array(0.5))}


def tree():
    return jax.tree.map(jnp.asarray, TREE)


def flat(t):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)])


def test_arithmetic_is_leafwise():
    x, y = tree(), jax.tree.map(lambda v: 2 * v + 1, tree())
    np.testing.assert_array_equal(flat(tu.tree_add(x, y)), flat(x) + flat(y))
    np.testing.assert_array_equal(flat(tu.tree_add(x, y, y)), flat(x) + 2 * flat(y))
    np.testing.assert_array_equal(flat(tu.tree_sub(x, y)), flat(x) - flat(y))
    np.testing.assert_array_equal(flat(tu.tree_sub(x, y, y)), flat(x) - 2 * flat(y))
    np.testing.assert_array_equal(flat(tu.tree_mul(x, y)), flat(x) * flat(y))
    np.testing.assert_allclose(flat(tu.tree_div(x, y)), flat(x) / flat(y))
    np.testing.assert_array_equal(flat(tu.tree_mul(x, y, y)), flat(x) * flat(y) * flat(y))
    np.testing.assert_allclose(flat(tu.tree_div(x, y, y)), flat(x) / flat(y) / flat(y))
    np.testing.assert_array_equal(flat(tu.tree_negative(x)), -flat(x))
    np.testing.assert_array_equal(flat(tu.tree_scalar_mul(3.0, x)), 3 * flat(x))
    np.testing.assert_array_equal(flat(tu.tree_add_scalar_mul(x, 3.0, y)), flat(x) + 3 * flat(y))
    np.testing.assert_array_equal(flat(tu.tree_zeros_like(x)), 0 * flat(x))
    np.testing.assert_array_equal(flat(tu.tree_ones_like(x)), 0 * flat(x) + 1)
    assert tu.tree_reduce(lambda total, leaf: total + leaf.size, x, 0) == 4
    assert tu.tree_reduce(lambda a, b: a, x).shape == (2,)


def test_reductions():
    x = tree()
    y = tu.tree_scalar_mul(2.0, x)
    np.testing.assert_allclose(tu.tree_vdot(x, y), flat(x) @ flat(y))
    np.testing.assert_allclose(tu.tree_vdot_real(x, y), flat(x) @ flat(y))
    np.testing.assert_allclose(tu.tree_sum(tree_x=x), flat(x).sum())
    np.testing.assert_allclose(tu.tree_l2_norm(x), np.linalg.norm(flat(x)))
    np.testing.assert_allclose(tu.tree_l2_norm(x, squared=True), flat(x) @ flat(x))
    np.testing.assert_allclose(tu.tree_inf_norm(x), 3.0)
    assert float(tu.tree_inf_norm({})) == float(tu.tree_l2_norm({})) == 0.0
    np.testing.assert_allclose(tu.tree_dot({"a": jnp.ones(3)}, {"a": jnp.ones(3)})["a"], 3.0)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16, jnp.complex64])
@pytest.mark.parametrize("shape", [(3,), (40_000,), (300, 300)])
def test_largest_entry_of_what_is_not_finite(dtype, shape):
    norm = jax.jit(tu.tree_inf_norm)
    x = jnp.ones(shape, dtype).at[1].set(-3.0)
    infinite = x.at[0].set(-jnp.inf)
    assert float(norm(x)) == 3.0 and float(norm(infinite)) == jnp.inf and jnp.isnan(norm(infinite.at[2].set(jnp.nan)))


def test_derivatives_of_the_largest_entry():
    x = jnp.asarray([1.0, -3.0, 2.0])
    np.testing.assert_array_equal(jax.grad(tu.tree_inf_norm)(x), [0.0, -1.0, 0.0])

    def scanned(x):
        return jax.lax.scan(lambda y, _: (y * tu.tree_inf_norm(y), None), x, None, length=2)[0]

    # y = |x_1|^3 x, of which the second derivatives are those of polynomials.
    hessian = jax.jacfwd(jax.jacrev(scanned))(x)
    np.testing.assert_allclose(hessian[0], [[0, -27, 0], [-27, 18, 0], [0, 0, 0]])


def test_inner_products_of_integers():
    integers, floats = {"n": jnp.arange(4), "m": 2}, {"n": jnp.ones(4, jnp.float32), "m": jnp.float32(0.5)}
    assert float(tu.tree_vdot(integers, integers)) == 18.0
    product = tu.tree_vdot(integers, floats)
    assert float(product) == 7.0 and product.dtype == jnp.float32


def test_complex_trees():
    z = {"a": jnp.asarray([1.0 + 2.0j]), "b": jnp.asarray([3.0])}
    np.testing.assert_allclose(tu.tree_vdot({"a": z["a"]}, {"a": z["a"]}), 5.0)
    np.testing.assert_allclose(tu.tree_l2_norm(z), np.sqrt(14.0))
    np.testing.assert_allclose(tu.tree_conj(z)["a"], [1.0 - 2.0j])
    np.testing.assert_allclose(tu.tree_real(z)["a"], [1.0])
    np.testing.assert_allclose(tu.tree_imag(z)["a"], [2.0])


def test_mixed_real_and_complex_leaves():
    z = {"a": jnp.asarray([1.0 + 2.0j], jnp.complex64), "b": jnp.asarray([3.0], jnp.float32)}
    assert tu.tree_vdot(z, z).dtype == jnp.complex64 and float(tu.tree_vdot(z, z).real) == 14.0
    assert float(tu.tree_vdot_real(z, z)) == 14.0 and tu.tree_vdot_real(z, z).dtype == jnp.float32
    assert tu.tree_real_dtype(z) == tu.tree_l2_norm(z).dtype == tu.tree_inf_norm(z).dtype == jnp.float32
    assert float(tu.tree_inf_norm(z)) == 3.0
    moved = tu.tree_add_scalar_mul(z, jnp.asarray(2.0), z)
    assert moved["a"].dtype == jnp.complex64 and moved["b"].dtype == jnp.float32
    np.testing.assert_allclose(moved["a"], [3.0 + 6.0j])
    assert tu.tree_cast_like({"a": jnp.ones(1), "b": 1.0}, z)["a"].dtype == jnp.complex64
    assert not bool(tu.tree_all_finite({"a": jnp.asarray([1.0 + jnp.inf * 1j])}))


def test_leaves_that_are_no_numbers_are_kept_and_do_not_count():
    odd = {"key": jax.random.key(0), "name": "relu", "act": jnp.sin}
    state = {**odd, "count": jnp.arange(3), "flag": True, "w": jnp.ones(2, jnp.bfloat16)}
    for out in (
        tu.tree_cast_like(state, state),
        tu.tree_where(jnp.asarray(True), state, state),
        tu.tree_where(jnp.asarray(False), tu.tree_zeros_like(state), state),
    ):
        assert out["name"] == "relu" and out["act"] is jnp.sin and out["key"] == state["key"]
        assert out["count"].dtype == state["count"].dtype and out["flag"].dtype == jnp.bool_
        np.testing.assert_array_equal(out["count"], [0, 1, 2])
    assert tu.tree_scalar_mul(2.0, odd)["name"] == tu.tree_negative(odd)["name"] == "relu"
    for number in (tu.tree_l2_norm(odd), tu.tree_inf_norm(odd), tu.tree_sum(odd), tu.tree_vdot(odd, odd)):
        assert float(number) == 0.0
    assert bool(tu.tree_all_finite(odd)) and float(tu.tree_l2_norm(state, squared=True)) == 8.0


def test_explicit_mesh_axes():
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    mesh = jax.make_mesh((1,), ("d",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        x = {"w": jax.device_put(jnp.arange(3.0), NamedSharding(mesh, PartitionSpec("d"))), "b": jnp.ones(2)}
        compute = lambda x: (tu.tree_vdot(x, x), tu.tree_l2_norm(x, squared=True), tu.tree_inf_norm(x))
        assert [float(v) for v in jax.jit(compute)(x)] == [7.0, 7.0, 2.0]

        def part(x):
            return jax.tree.map(lambda v: v[None], (tu.tree_vdot(x, x), tu.tree_inf_norm(x)))

        inner = jax.shard_map(
            part, in_specs=({"w": PartitionSpec("d"), "b": PartitionSpec()},), out_specs=PartitionSpec("d")
        )
        assert [float(v[0]) for v in jax.jit(inner)(x)] == [7.0, 2.0]


def test_zeros_share_no_buffer():
    zeros = tu.tree_zeros_like({"a": jnp.ones(2), "b": jnp.ones(2)})
    assert zeros["a"].unsafe_buffer_pointer() != zeros["b"].unsafe_buffer_pointer()


def test_norm_has_finite_derivatives_at_zero():
    zero = tu.tree_zeros_like(tree())
    assert not np.any(flat(jax.grad(tu.tree_l2_norm)(zero)))
    assert not np.any(flat(jax.jacfwd(tu.tree_l2_norm)(zero)))
    assert np.all(np.isfinite(jax.hessian(tu.tree_l2_norm)(jnp.zeros(2))))


def test_scalars_promote_no_leaf():
    x = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2, jnp.float32)}
    out = tu.tree_add_scalar_mul(x, jnp.asarray(0.5, jnp.float64), x)
    assert out["a"].dtype == jnp.bfloat16
    assert out["b"].dtype == jnp.float32
    assert tu.tree_scalar_mul(jnp.asarray(0.5, jnp.float64), x)["a"].dtype == jnp.bfloat16
    assert tu.tree_real_dtype(x) == jnp.float32
    assert tu.tree_real_dtype({"a": x["a"]}) == jnp.float32
    assert tu.tree_vdot(x, x).dtype == jnp.float32
    cast = tu.tree_cast_like({"a": 1.0, "b": jnp.ones(2, jnp.float64)}, x)
    assert cast["a"].dtype == jnp.bfloat16


def test_where_takes_whole_states():
    x, y = tree(), tu.tree_zeros_like(tree())
    np.testing.assert_array_equal(flat(tu.tree_where(jnp.asarray(True), x, y)), flat(x))
    np.testing.assert_array_equal(flat(tu.tree_where(jnp.asarray(False), x, y)), 0 * flat(x))
    mask = jax.tree.map(lambda v: v > 0, x)
    np.testing.assert_array_equal(flat(tu.tree_where(mask, x, y)), np.maximum(flat(x), 0))
    np.testing.assert_array_equal(flat(tu.tree_where(mask, x, 0.0)), np.maximum(flat(x), 0))
    np.testing.assert_array_equal(tu.tree_where(mask, 1.0, 0.0)["a"], [1.0, 0.0])
    np.testing.assert_array_equal(tu.tree_where(jnp.asarray([True, False]), {"a": x["a"]}, 5.0)["a"], [1.0, 5.0])
    with pytest.raises(ValueError, match="structure"):
        tu.tree_where(True, x, {"a": 0.0, "c": 1.0})


def test_finite():
    assert bool(tu.tree_all_finite({**tree(), "n": jnp.arange(3)}))
    assert not bool(tu.tree_all_finite({**tree(), "n": jnp.asarray([jnp.inf])}))


def test_broadcast():
    x = tree()
    low, high, same = tu.broadcast_pytrees(0.0, jnp.asarray(1.0), x)
    assert jax.tree.structure(low) == jax.tree.structure(high) == jax.tree.structure(same)
    assert tu.broadcast_pytrees(1.0, 2.0) == (1.0, 2.0)
    with pytest.raises(ValueError, match="structure"):
        tu.broadcast_pytrees({"a": 1.0, "b": 1.0}, {"c": 1.0, "b": 1.0})
