"""Results print as one line, statuses have sentences, and check raises them."""

import copy
import pickle
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import OptStep, SolverError, Status, check
from jaxsolve.prox import prox_none


class State(NamedTuple):
    status: object


class FullState(NamedTuple):
    iter_num: Any
    error: Any
    status: Any
    value: Any = None
    num_fun_eval: Any = None
    num_grad_eval: Any = None


def full(iter_num, error, status, *counts, value=None):
    counts = [jnp.asarray(count) for count in counts]
    value = None if value is None else jnp.asarray(value)
    return FullState(jnp.asarray(iter_num), jnp.asarray(error), jnp.asarray(status), value, *counts)


def fun(x, theta):
    return jnp.sum((x - theta) ** 2 * jnp.asarray([1.0, 10.0]))


@pytest.fixture(scope="module")
def solver():
    return jaxsolve.GradientDescent(fun, maxiter=3)


@pytest.fixture(scope="module")
def step(solver):
    return solver.run(jnp.zeros(2), 1.0)


# ---- The line -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state, line",
    [
        (full(4, 5.1234e-07, 1, 6, 6, value=0.25432), "CONVERGED in 4 iterations, value 0.2543, error 5.1e-07, 6 eval"),
        (full(1, np.nan, 5, 6, 7), "NONFINITE after 1 iteration, error nan, 6 evaluations, 7 gradients"),
        (full(0, np.inf, 0, value=[1.0, 2.0]), "RUNNING after 0 iterations, error inf"),
        (full(3, 0.1, 42), "status 42 after 3 iterations, error 0.1"),
        (full([2, 9], [1e-9, 0.2], [1, 4], [3, 4]), "batch of 2, 1 CONVERGED, 1 MAXITER, up to 9 iterations, error up"),
        (
            full(np.ones((2, 3), int), np.ones((2, 3)), np.ones((2, 3), int)),
            "batch of (2, 3), 6 CONVERGED, up to 1 iterat",
        ),
    ],
)
def test_the_line(state, line):
    assert repr(OptStep(jnp.ones(2), state)).startswith(f"Full: {line}")


def test_a_line_is_never_too_long():
    codes = np.repeat(np.arange(10), 10**4)
    batch = full(np.full(codes.shape, 10**9), np.full(codes.shape, 1e-100), codes, np.full(codes.shape, 10**6))
    assert 60 < len(repr(OptStep(None, batch))) <= 120


def test_a_state_without_status_has_a_line_too():
    class Plain(NamedTuple):
        iter_num: Any
        error: Any

    assert repr(OptStep(None, Plain(jnp.asarray(2), jnp.asarray(0.5)))) == "Plain: 2 iterations, error 0.5"


def test_results_of_a_solver_are_named_for_it_and_stay_named_tuples(step):
    state = step.state
    assert repr(step) == repr(state) == str(step)
    assert repr(step).startswith("GradientDescent: MAXITER after 3 iterations, value 0.73")
    assert Status(state.status) is Status.MAXITER
    for same in (pickle.loads(pickle.dumps(step)), copy.deepcopy(step), jax.tree.map(lambda x: x, step)):
        assert jax.tree.structure(same) == jax.tree.structure(step) and type(same.state) is type(state)
        jax.tree.map(np.testing.assert_array_equal, same, step)
    assert list(state._asdict()) == list(state._fields) and tuple(state) == tuple(state._asdict().values())
    assert type(state._replace(error=0.0)) is type(state)
    # Related solvers have the fields of their states in common, and go on from each other's.
    other = jaxsolve.ProximalGradient(fun, prox_none).init_state(step, None, 1.0)
    assert type(other) is not type(state) and int(other.iter_num) == 3


def test_tables_for_notebooks(step):
    html = step._repr_html_()
    assert "<caption>GradientDescent</caption>" in html and "<td>MAXITER</td>" in html
    assert f"params</th><td>{step.params.dtype}[2]</td>" in html
    assert "params" not in step.state._repr_html_()
    assert jax.tree.map(jnp.shape, step)._repr_html_() is None


def test_what_has_no_values_prints(solver, step):
    printed = []
    shapes = jax.eval_shape(lambda t: printed.append(repr(solver.run(jnp.zeros(2), t))), 1.0)
    jax.vmap(lambda t: printed.append(repr(solver.run(jnp.zeros(2), t).state)))(jnp.ones(2))
    donated = jax.tree.map(jnp.copy, step.state)
    donated.error.delete()
    assert set(printed) | {repr(donated)} == {"GradientDescent: values not known here"}
    # Trees of something else than arrays show their leaves.
    assert shapes is None and "error=()" in repr(jax.tree.map(jnp.shape, step))
    assert "error=ShapeDtypeStruct" in repr(jax.eval_shape(lambda t: solver.run(jnp.zeros(2), t), 1.0).state)
    tangents = jax.jvp(lambda t: solver.run(jnp.zeros(2), t).state, (1.0,), (1.0,))[1]
    assert repr(tangents).startswith("GradientDescentState(iter_num=")
    assert repr(OptStep(1, None)) == "OptStep(params=1, state=None)"


RESULTS = {
    "solve_qp: CONVERGED in 1 iteration, value -1, error 0, method equality": lambda c: jaxsolve.solve_qp(
        jnp.eye(2), c
    ),
    "linprog: CONVERGED in ": lambda c: jaxsolve.linprog(c),
    "line search: ACCEPTED in 1 iteration, value 0, error 0, step size 1, ": lambda c: jaxsolve.BacktrackingLineSearch(
        lambda x: 0.5 * jnp.sum(x**2)
    ).run(1.0, c),
}


@pytest.mark.parametrize("line", RESULTS)
def test_results_that_are_no_states_print_as_one_line_too(line):
    result = RESULTS[line](jnp.ones(2))
    assert repr(result).startswith(line) and len(repr(result)) <= 120
    assert "<th>iterations</th>" in result._repr_html_()
    name, ending = line.replace(":", "").split(" in ")[0].rsplit(" ", 1)
    batch = repr(jax.tree.map(lambda x: jnp.stack([x, x]), result))
    assert batch.startswith(f"{name}: batch of 2, 2 {ending}, up to ")
    printed = []
    jax.eval_shape(lambda c: printed.append(repr(RESULTS[line](c))), jnp.ones(2))
    assert printed == [f"{name}: values not known here"]
    assert "error=()" in repr(jax.tree.map(jnp.shape, result))


def test_a_line_search_that_fails_says_so():
    search = jaxsolve.BacktrackingLineSearch(lambda x: jnp.sum(x**2), maxiter=3)
    step = search.run(1.0, jnp.ones(2), descent_direction=jnp.ones(2))
    assert repr(step).startswith("line search: FAILED after ")


class OwnRepr(NamedTuple):
    iter_num: Any
    error: Any

    def __repr__(self):
        return "mine"


class Halving(jaxsolve.IterativeSolver):
    _State = OwnRepr

    def init_state(self, init_params):
        return OwnRepr(jnp.asarray(0), jnp.asarray(jnp.inf, init_params.dtype))

    def update(self, params, state):
        return OptStep(params / 2, OwnRepr(state.iter_num + 1, jnp.abs(params / 2)))

    def optimality_fun(self, params):
        return params


def test_a_repr_of_ones_own_is_kept():
    step = Halving().run(1.0)
    assert repr(step.state) == "mine" and repr(step).startswith("Halving: 10 iterations, error 0.00098")


# ---- Failures -----------------------------------------------------------------------------------------------------


def test_every_status_has_a_sentence():
    for status in Status:
        assert status.sentence.endswith(".")


def test_check():
    check(State(jnp.asarray(1)))
    check(OptStep(None, State(np.ones(3))))
    with pytest.raises(SolverError, match="MAXITER: .*maxiter") as info:
        check(State(jnp.asarray(4)))
    assert info.value.status is Status.MAXITER
    with pytest.raises(TypeError, match="status"):
        check(object())
    with pytest.raises(TypeError, match="outside"):
        jax.jit(lambda s: check(State(s)))(jnp.asarray(1))


def test_the_error_of_a_batch_is_that_of_its_worst_run():
    batch = full([[1, 500], [7, 8]], [[0.0, 0.1], [0.3, 0.4]], [[1, 4], [5, 7]])
    with pytest.raises(
        SolverError, match=r"NONFINITE \(3 of 4 runs.*index 1, 0.*ran 7 iterations in .*: error 0.3\."
    ) as info:
        check(batch)
    assert info.value.status is Status.NONFINITE


def test_every_status_is_ranked():
    ranks = jaxsolve._results._BY_HARM
    assert sorted(ranks) == sorted(status.name for status in Status) and ranks[0] == "CONVERGED"


@pytest.mark.parametrize(
    "dtype, tol, status, error, cause",
    [
        ("float32", 1e-8, 4, 1e-7, "precision of float32 is 1.2e-07, .*float64"),
        ("float32", 1e-8, 7, 1e-7, "precision of float32"),
        ("float64", 1e-8, 4, 3e-8, "close: raise maxiter"),
        ("float64", 1e-8, 4, 1e3, "badly scaled"),
    ],
)
def test_the_message_names_a_cause(dtype, tol, status, error, cause):
    failed = full(9, np.asarray(error, dtype), status)._replace(error=np.asarray(error, dtype))
    with pytest.raises(SolverError, match=f"GradientDescent ran 9 iterations in {dtype}: .*, tol 1e-08.*{cause}"):
        check(failed, jaxsolve.GradientDescent(fun, tol=tol))


def test_eager_runs_warn_or_raise_if_asked_to(solver, step):
    x, theta = jnp.zeros(2), 1.0
    warning = jaxsolve.GradientDescent(fun, maxiter=3, on_failure="warn")
    raising = jaxsolve.GradientDescent(fun, maxiter=3, on_failure="raise")
    with pytest.warns(RuntimeWarning, match="MAXITER: .*GradientDescent ran 3 iterations") as caught:
        got = warning.run(x, theta)
    assert caught[0].filename == __file__
    jax.tree.map(np.testing.assert_array_equal, got, step)
    with pytest.raises(SolverError, match="far from converged") as info:
        raising.run(x, theta)
    assert info.value.status is Status.MAXITER
    # Inside a transformation nothing is known; nor is there anything to say of a run that converges.
    assert int(jax.jit(raising.run)(x, theta).state.status) == Status.MAXITER
    jax.vmap(raising.run, in_axes=(None, 0))(x, jnp.ones(2))
    jaxsolve.GradientDescent(fun, on_failure="raise").run(x, theta)
    with pytest.raises(ValueError, match="on_failure must be one of 'ignore', 'warn', 'raise'"):
        jaxsolve.GradientDescent(fun, on_failure="nan")


def test_on_failure_is_no_part_of_the_program(monkeypatch):
    traces = []

    def counted(x):
        traces.append(1)
        return jnp.sum((x - 1) ** 2)

    for on_failure in ("ignore", "raise"):
        jaxsolve.GradientDescent(counted, on_failure=on_failure).run(jnp.zeros(2))
        count, traces[:] = len(traces), []
    assert count == 0


def test_a_solver_with_the_state_of_another_does_not_rename_it():
    class Local(jaxsolve.GradientDescent):
        pass

    class Borrowing(jaxsolve.LBFGS):
        _State = jaxsolve.GradientDescent._State

    for solver in (Local, Borrowing):
        assert solver._State is jaxsolve.GradientDescent._State
    _, state = jaxsolve.GradientDescent(lambda x: jnp.sum(x**2), maxiter=1).run(jnp.ones(2))
    assert repr(state).startswith("GradientDescent: ")
