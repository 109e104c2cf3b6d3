"""All loops compute the same; those that unroll differentiate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve._loop import LOOP_KINDS, loop, run_if_any
from jaxsolve.cond import cond
from jaxsolve.loop import while_loop


def power(x, kind, maxiter, stop=10):
    """x ** (2 ** min(maxiter, stop)) by repeated squaring."""
    body = lambda c: (c[0] + 1, c[1] * c[1])
    return loop(lambda c: c[0] < stop, body, (jnp.asarray(0), x), maxiter=maxiter, kind=kind)


@pytest.mark.parametrize("kind", LOOP_KINDS)
@pytest.mark.parametrize("maxiter", [0, 1, 3, 5, 6])
def test_values(kind, maxiter):
    steps, value = power(jnp.asarray(1.1), kind, maxiter, stop=5)
    assert int(steps) == min(maxiter, 5)
    np.testing.assert_allclose(value, 1.1 ** (2 ** min(maxiter, 5)), rtol=1e-12)


@pytest.mark.parametrize("kind", ["scan", "checkpoint", "python"])
@pytest.mark.parametrize("maxiter", [1, 3, 4, 7])
def test_both_modes_through_unrolled_loops(kind, maxiter):
    f = lambda x: power(x, kind, maxiter, stop=6)[1]
    n = 2 ** min(maxiter, 6)
    for derivative in (jax.grad(f), jax.jacfwd(f)):
        np.testing.assert_allclose(derivative(1.01), n * 1.01 ** (n - 1), rtol=1e-9)
    np.testing.assert_allclose(jax.grad(jax.grad(f))(1.01), n * (n - 1) * 1.01 ** (n - 2), rtol=1e-9)


def test_a_finished_loop_keeps_bad_steps_out_of_the_derivative():
    """The body divides by zero at the end; the steps after it must not poison the gradient."""

    def f(x, kind):
        step = lambda c: (c[0] - 1, c[1] / jnp.sqrt(c[0]))
        return loop(lambda c: c[0] > 0, step, (3.0, x), maxiter=8, kind=kind)[1]

    for kind in ("scan", "checkpoint"):
        np.testing.assert_allclose(jax.grad(f)(1.0, kind), 1 / np.sqrt(6.0), rtol=1e-12)


def test_an_unrolled_loop_keeps_no_copies_of_its_data():
    """Reverse mode keeps what the steps compute, not the matrix that each of them reads."""

    def f(x, A):
        step = lambda c: (c[0] + 1, jnp.tanh(A @ (A.T @ c[1])))
        return jnp.sum(loop(lambda c: c[0] < 40, step, (0, x), maxiter=50, kind="scan")[1])

    A = jnp.ones((300, 20)) / 80
    program = jax.jit(jax.grad(f)).lower(jnp.ones(300), A).compile()
    assert program.memory_analysis().temp_size_in_bytes < 10 * A.nbytes


def test_traced_bounds():
    assert int(jax.jit(lambda n: power(1.0, "while", n)[0])(3)) == 3
    with pytest.raises(ValueError, match="traced"):
        jax.jit(lambda n: power(1.0, "scan", n)[0])(3)


def test_run_if_any_selects_lane_by_lane():
    f = jax.vmap(lambda c, x: run_if_any(c, lambda x: -x, x))
    np.testing.assert_array_equal(f(jnp.asarray([True, False]), jnp.asarray([1.0, 2.0])), [-1.0, 2.0])


def test_run_if_any_costs_nothing_where_no_lane_asks():
    calls = []
    f = jax.jit(jax.vmap(lambda c, x: run_if_any(c, lambda x: (jax.debug.callback(lambda: calls.append(1)), -x)[1], x)))
    f(jnp.asarray([False, False]), jnp.ones(2))
    jax.effects_barrier()
    assert not calls
    f(jnp.asarray([False, True]), jnp.ones(2))
    jax.effects_barrier()
    assert calls


def test_public_while_loop():
    def sixteenth_power(x, maxiter, unroll, jit):
        return while_loop(lambda c: c[0] < 4, lambda c: (c[0] + 1, c[1] * c[1]), (0, x), maxiter, unroll, jit)[1]

    for unroll, jit in ((False, False), (False, True), (True, False), (True, True)):
        assert float(sixteenth_power(2.0, 9, unroll, jit)) == 2.0**16
        assert float(sixteenth_power(2.0, 2, unroll=unroll, jit=jit)) == 16.0
    for jit in (False, True):
        assert float(jax.grad(lambda x: sixteenth_power(x, 9, True, jit))(1.0)) == 16.0
    assert float(jax.jit(lambda n: sixteenth_power(2.0, n, False, True))(2)) == 16.0


def test_public_cond():
    chosen = []
    note = lambda name: lambda x: (chosen.append(name), x)[1]
    assert float(cond(jnp.asarray(True), jnp.negative, jnp.abs, -2.0)) == 2.0
    assert float(jax.jit(lambda c: cond(c, jnp.negative, jnp.abs, 2.0))(False)) == 2.0
    assert cond(False, note("if"), note("else"), 3.0, jit=False) == 3.0 and chosen == ["else"]
