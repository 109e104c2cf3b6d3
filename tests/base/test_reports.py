"""verbose and callback: under jit, once an iteration."""

import sys

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
    assert len(lines) == int(state.iter_num) + 1 > 2
    assert lines[0].startswith("GradientDescent: iter    1  error ")
    assert lines[-1].startswith(f"GradientDescent: CONVERGED in {state.iter_num} iterations, value ")
    assert f"error {float(state.error):.2g} (tol 1e-06), {state.num_fun_eval} evaluations" in lines[-1]


def test_verbose_ends_once_for_a_batch_and_for_a_gradient(capsys):
    solver = jaxsolve.GradientDescent(fun, verbose=True, maxiter=2)
    jax.block_until_ready(jax.vmap(lambda init: solver.run(init, 1.0))(INITS))
    jax.effects_barrier()
    *lines, last = capsys.readouterr().out.strip().splitlines()
    assert last.startswith("GradientDescent: batch of 2, ") and all(": iter " in line for line in lines)
    for differentiate in (jax.grad, lambda f: jax.jit(jax.grad(f))):
        jax.block_until_ready(differentiate(lambda t: solver.run(jnp.zeros(2), t).params.sum())(1.0))
        jax.effects_barrier()
        lines = capsys.readouterr().out.strip().splitlines()
        assert len(lines) == 3 and lines[-1].startswith("GradientDescent: MAXITER after 2 iterations")


@pytest.fixture
def bars(monkeypatch):
    """The bars that were shown, instead of tqdm: what it was made with, each update, and whether it was closed."""
    made = []

    class Bar:
        def __init__(self, **options):
            self.n, self.total, self.texts, self.closed = 0, options["total"], [], False
            made.append(self)

        def set_postfix_str(self, text, refresh):
            self.texts.append(text)

        def update(self, count):
            assert count > 0
            self.n += count

        def close(self):
            self.closed = True

    monkeypatch.setattr(jaxsolve.base._report, "import_tqdm", lambda: Bar)
    return made


@pytest.mark.parametrize("jit", [True, False])
def test_a_progress_bar(jit, bars, capsys):
    pytest.importorskip("tqdm")
    solver = jaxsolve.GradientDescent(fun, verbose="bar", maxiter=50, jit=jit)
    for init in (jnp.zeros(2), jnp.full(2, 0.9)):
        state = (jax.jit(solver.run) if jit else solver.run)(init, 1.0).state
        jax.effects_barrier()
        bar = bars.pop()
        assert (bar.n, bar.total, bar.closed, bars) == (int(state.iter_num), 50, True, [])
        assert bar.texts[-1] == f"error {float(state.error):.1e}"
        assert capsys.readouterr().out.startswith(f"GradientDescent: CONVERGED in {state.iter_num} iterations")


def test_a_progress_bar_of_a_batch(bars, capsys):
    pytest.importorskip("tqdm")
    solver = jaxsolve.GradientDescent(fun, verbose="bar", tol=1e-6)
    state = jax.vmap(lambda init: solver.run(init, 1.0).state)(INITS)
    jax.effects_barrier()
    (bar,) = bars
    assert bar.n == len(bar.texts) == int(jnp.max(state.iter_num)) and bar.closed
    running = [sum(int(n) >= i for n in state.iter_num) for i in range(1, bar.n + 1)]
    assert [int(text[0]) for text in bar.texts] == running
    assert bar.texts[-1] == f"1 of 2 running, error {float(state.error[jnp.argmax(state.iter_num)]):.1e}"
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_bar_of_tqdm_itself(capsys):
    pytest.importorskip("tqdm")
    jaxsolve.GradientDescent(fun, verbose="bar", maxiter=2).run(jnp.zeros(2), 1.0)
    jax.effects_barrier()
    assert "GradientDescent: 100%" in capsys.readouterr().err


def test_a_bar_without_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxsolve\[progress\]"):
        jaxsolve.GradientDescent(fun, verbose="bar")
    with pytest.raises(TypeError, match="bool, an int or 'bar'"):
        jaxsolve.GradientDescent(fun, verbose="lines")


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
    assert len(history) == int(step.state.iter_num) + 1 <= int(state.iter_num) + 1
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


@pytest.mark.slow
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
