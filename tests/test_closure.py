"""Hoisting finds every captured array, whatever its dtype and wherever it was captured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve._closure import Staged, check_signature, hoist, merge_static, split_static


def test_captures_become_constants():
    floats, integers = jnp.arange(3.0), jnp.array([2, 0])
    hoisted = hoist(lambda x: x[integers] * floats[integers], jnp.ones(3))
    assert sorted(str(c.dtype)[:3] for c in hoisted.consts) == ["flo", "int"]
    swapped = [c if c.dtype != integers.dtype else jnp.array([1, 1]) for c in hoisted.consts]
    np.testing.assert_array_equal(hoisted.pure(jnp.ones(3), consts=swapped), [1.0, 1.0])


def test_captured_tracers_of_an_outer_transformation():
    def outer(theta, index):
        hoisted = hoist(lambda x: x * theta[index], jnp.ones(()))
        assert len(hoisted.consts) >= 1
        return hoisted(jnp.asarray(3.0))

    thetas = jnp.asarray([1.0, 2.0])
    assert float(jax.jit(outer)(thetas, 1)) == 6.0
    assert jax.grad(outer)(thetas, 1).tolist() == [0.0, 3.0]
    scanned = jax.lax.scan(lambda c, i: (c + outer(thetas, i), None), 0.0, jnp.arange(2))[0]
    assert float(scanned) == 9.0


def test_static_leaves_pass_through():
    hoisted = hoist(lambda x, mode, flag=None: {"y": x, "mode": mode, "flag": flag}, jnp.ones(2), "fast", flag=True)
    out = hoisted(jnp.zeros(2), "fast", flag=True)
    assert out["mode"] == "fast"
    assert out["flag"] is True
    with pytest.raises(TypeError, match="traced with"):
        hoisted(jnp.zeros(2), "slow", flag=True)
    leaves, static = split_static({"a": 1.0, "b": "text", "c": None, "d": False})
    assert leaves == [1.0]
    assert merge_static([2.0], static) == {"a": 2.0, "b": "text", "c": None, "d": False}


def test_staged_functions_run_once_a_signature_and_get_fresh_containers():
    seen = []

    def fun(params, scale=1.0):
        seen.append(params)
        x = params.pop("x")
        return x * scale

    staged = Staged(fun)
    params = {"x": jnp.ones(2)}
    np.testing.assert_array_equal(staged(params), 1.0)
    np.testing.assert_array_equal(staged(params, 3.0), 3.0)
    np.testing.assert_array_equal(staged(params, 4.0), 4.0)
    assert "x" in params
    assert len(seen) == 2
    staged({"x": jnp.ones(3)})
    assert len(seen) == 3


def test_wrong_signatures_are_named():
    with pytest.raises(TypeError, match=r"prox has the signature \(x\).*prox\(params, \.\.\.\)"):
        check_signature("prox", lambda x: x, (1, 2), {})
