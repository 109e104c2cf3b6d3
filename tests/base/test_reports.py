"""verbose and callback: under jit, once an iteration."""

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
    assert history["iter_num"].tolist() == list(range(int(state.iter_num) + 1))
    assert np.all(np.diff(history["value"]) <= 0)
    np.testing.assert_array_equal(history["params"][-1], params)
    np.testing.assert_array_equal(history["error"][-1], state.error)
    assert len(history) == int(state.iter_num) + 1
    # A second run starts the record again, and one from its result goes on.
    step = solver.run(jnp.full(2, 0.99), 1.0)
    assert len(history) == int(step.state.iter_num) + 1 < 7
    np.testing.assert_array_equal(history["params"][0], [0.99, 0.99])
    solver.run(step, 1.5)
    assert history["iter_num"].tolist() == list(range(len(history)))
    assert len(history) > int(step.state.iter_num) + 1
    np.testing.assert_array_equal(history["params"][0], [0.99, 0.99])
    with pytest.raises(KeyError, match="not recorded"):
        history["stepsize"]


def test_callbacks_are_called_in_gradients_too():
    seen = []
    callback = lambda params, state: seen.append(int(state.iter_num))
    solver = jaxsolve.GradientDescent(fun, callback=callback, maxiter=3, tol=0.0)
    jax.jit(jax.grad(lambda t: solver.run(jnp.zeros(2), t).params.sum()))(1.0)
    jax.effects_barrier()
    assert sorted(seen) == [1, 2, 3]


def test_a_callback_made_inside_a_compiled_function_is_called():
    seen = []

    @jax.jit
    def solution(theta):
        solver = jaxsolve.LBFGS(fun, callback=lambda params, state: seen.append(int(state.iter_num)))
        return solver.run(jnp.zeros(2), theta)

    for theta in (1.0, 2.0):
        seen.clear()
        iter_num = int(solution(theta).state.iter_num)
        jax.effects_barrier()
        assert sorted(seen) == list(range(1, iter_num + 1))


INITS = jnp.asarray([[0.0, 0.0], [0.99, 1.0]])


def test_callbacks_under_vmap_hear_of_running_lanes_only():
    seen = []
    callback = lambda params, state: seen.append((int(state.iter_num), params.shape))
    solver = jaxsolve.GradientDescent(fun, callback=callback, tol=1e-6)
    state = jax.vmap(lambda init: solver.run(init, 1.0).state)(INITS)
    jax.effects_barrier()
    assert state.iter_num[0] > state.iter_num[1]
    assert sorted(seen) == sorted((i + 1, (2,)) for lane in state.iter_num for i in range(int(lane)))


@pytest.mark.parametrize("nested", [False, True])
def test_history_under_vmap_records_every_lane(nested):
    history = jaxsolve.History("value", "params")
    solver = jaxsolve.GradientDescent(fun, callback=history, tol=1e-6)
    run, inits = jax.vmap(lambda init: solver.run(init, 1.0)), INITS
    if nested:
        run, inits = jax.vmap(run), INITS[None]
    params, state = run(inits)
    assert len(history) == int(jnp.max(state.iter_num)) + 1
    np.testing.assert_array_equal(history["params"][-1], params)
    np.testing.assert_array_equal(history["iter_num"][-1], state.iter_num)
    # Each lane as if it were alone, up to its end.
    for lane, init in enumerate(INITS):
        alone = jaxsolve.History("value")
        count = int(jaxsolve.GradientDescent(fun, callback=alone, tol=1e-6).run(init, 1.0).state.iter_num) + 1
        got = history["value"].reshape(len(history), len(INITS))[:count, lane]
        np.testing.assert_allclose(got, alone["value"], rtol=1e-12)


def test_steps_run_again_for_the_derivative_are_not_reported():
    history = jaxsolve.History("value")
    solver = jaxsolve.GradientDescent(fun, callback=history, maxiter=20, tol=0.0, implicit_diff=False)
    solver.unroll = "checkpoint"
    assert jax.grad(lambda t: solver.run(jnp.zeros(2), t).params.sum())(1.0) > 1.0
    assert history["iter_num"].tolist() == list(range(21))


def test_history_of_stages_under_vmap():
    """A quadratic program is solved in stages; a lane waits for the others at the end of each."""
    history = jaxsolve.History("error")
    solver = jaxsolve.OSQP(tol=1e-8, callback=history)

    def run(target):
        return solver.run(None, (jnp.diag(jnp.asarray([1.0, 5.0, 25.0])), -target), None, (-jnp.eye(3), jnp.zeros(3)))

    state = jax.vmap(run)(jnp.asarray([[0.3, 0.5, 0.4], [10.0, -5.0, -3.0]])).state
    assert np.all(np.diff(history["iter_num"], axis=0) >= 0)
    np.testing.assert_array_equal(history["iter_num"][-1], state.iter_num)


def test_wrong_names_are_refused():
    with pytest.raises(TypeError, match="names"):
        jaxsolve.History(3)


def test_a_history_says_what_it_has():
    history = jaxsolve.History("value", "error", "params")
    assert history.keys() == ("iter_num", "value", "error", "params")
    assert repr(history) == "History(iter_num, value, error, params: 0 records)"
    jaxsolve.GradientDescent(fun, callback=history, maxiter=3, tol=0.0).run(jnp.zeros(2), 1.0)
    assert repr(history) == "History(iter_num, value, error, params: 4 records; the last is iteration 3)"


def test_a_batch_from_one_point_and_its_plot():
    history = jaxsolve.History("value", "time", "params")
    solver = jaxsolve.GradientDescent(fun, callback=history, maxiter=3, tol=0.0)
    jax.vmap(lambda theta: solver.run(jnp.zeros(2), theta))(jnp.asarray([1.0, 2.0, 3.0]))
    assert history["value"].shape == (4, 3) and history["params"].shape == (4, 3, 2)
    np.testing.assert_allclose(history["value"][0], [11.0, 44.0, 99.0])
    assert history["time"][0] == 0 and np.all(np.diff(history["time"]) > 0)
    pytest.importorskip("matplotlib")
    (panel,) = history.plot()
    assert panel.get_ylabel() == "value"
    np.testing.assert_array_equal([line.get_ydata() for line in panel.lines], history["value"].T)
    with pytest.raises(ValueError, match="nothing is recorded"):
        jaxsolve.History("value").plot()
