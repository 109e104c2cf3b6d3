"""verbose and callback: under jit, once an iteration."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve


def fun(x, theta):
    return jnp.sum((x - theta) ** 2 * jnp.asarray([1.0, 10.0]))


@pytest.mark.parametrize("jit", [True, False])
def test_verbose_prints_each_iteration_once(jit, capsys):
    solver = jaxsolve.GradientDescent(fun, verbose=True, jit=jit, tol=1e-6)
    run = jax.jit(solver.run) if jit else solver.run
    _, state = run(jnp.zeros(2), 1.0)
    jax.effects_barrier()
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == int(state.iter_num) > 1
    assert lines[0].startswith("GradientDescent: iter    1  error ")


def test_history_records_the_loss_curve():
    history = jaxsolve.History("value", "error", "params")
    solver = jaxsolve.LBFGS(fun, callback=history, tol=1e-8)
    params, state = jax.jit(solver.run)(jnp.zeros(2), 1.0)
    assert history["iter_num"].tolist() == list(range(1, int(state.iter_num) + 1))
    assert np.all(np.diff(history["value"]) <= 0)
    np.testing.assert_array_equal(history["params"][-1], params)
    np.testing.assert_array_equal(history["error"][-1], state.error)
    assert len(history) == int(state.iter_num)
    # A second run starts the record again.
    _, state = solver.run(jnp.full(2, 0.99), 1.0)
    assert len(history) == int(state.iter_num) < 7
    with pytest.raises(KeyError, match="not recorded"):
        history["stepsize"]


def test_callbacks_are_called_in_gradients_too():
    seen = []
    callback = lambda params, state: seen.append(int(state.iter_num))
    solver = jaxsolve.GradientDescent(fun, callback=callback, maxiter=3, tol=0.0)
    jax.jit(jax.grad(lambda t: solver.run(jnp.zeros(2), t).params.sum()))(1.0)
    jax.effects_barrier()
    assert sorted(seen) == [1, 2, 3]
    assert isinstance(functools.partial(callback), functools.partial)


def test_wrong_names_are_refused():
    with pytest.raises(TypeError, match="names"):
        jaxsolve.History(3)
