"""Stochastic gradient methods: step sizes, momentum, optimizers of optax, iterators, going on from a saved state."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsolve
from jaxsolve import Status

_rng = np.random.default_rng(0)
TRUE = np.array([1.0, -2.0, 0.5])


def _batches(number=40, size=8, noise=0.0, dtype=np.float64):
    for _ in range(number):
        X = _rng.normal(size=(size, 3))
        yield X.astype(dtype), (X @ TRUE + noise * _rng.normal(size=size)).astype(dtype)


def loss(w, data):
    X, y = data
    return 0.5 * jnp.mean((X @ w - y) ** 2)


SOLVERS = {
    "sgd": lambda **o: jaxsolve.OptaxSolver(loss, optax.sgd(0.3), **o),
    "adam": lambda **o: jaxsolve.OptaxSolver(loss, optax.adam(0.1), **o),
    "optax-polyak": lambda **o: jaxsolve.OptaxSolver(loss, optax.polyak_sgd(max_learning_rate=3.0), **o),
    "armijo": lambda **o: jaxsolve.ArmijoSGD(loss, **o),
    "armijo-momentum": lambda **o: jaxsolve.ArmijoSGD(loss, momentum=0.5, reset_option="conservative", **o),
    "armijo-goldstein": lambda **o: jaxsolve.ArmijoSGD(loss, reset_option="goldstein", **o),
    "polyak": lambda **o: jaxsolve.PolyakSGD(loss, max_stepsize=3.0, **o),
    "polyak-plus": lambda **o: jaxsolve.PolyakSGD(loss, variant="SPS+", momentum=0.3, **o),
}
each = pytest.mark.parametrize("name", list(SOLVERS))


@each
def test_a_model_that_fits_all_batches(name):
    solver = SOLVERS[name](maxiter=300, tol=1e-6)
    params, state = solver.run_iterator(jnp.zeros(3), _batches(300))
    assert int(state.status) == Status.CONVERGED or name == "adam"
    np.testing.assert_allclose(params, TRUE, atol=0.05 if name == "adam" else 1e-4)
    assert int(state.iter_num) <= 300
    # The value and the error are those of the last batch.
    assert np.isfinite(state.value) and np.isfinite(state.error)


@each
def test_going_on_from_a_saved_state_is_the_same_to_the_bit(name):
    batches = list(_batches(12, noise=0.3))
    whole = SOLVERS[name](maxiter=12, tol=0.0).run_iterator(jnp.zeros(3), iter(batches))
    half = SOLVERS[name](maxiter=5, tol=0.0).run_iterator(jnp.zeros(3), iter(batches))
    saved = jax.tree.map(np.asarray, half)
    rest = SOLVERS[name](maxiter=7, tol=0.0).run_iterator(jaxsolve.OptStep(*saved), iter(batches[5:]))
    np.testing.assert_array_equal(rest.params, whole.params)
    assert int(rest.state.iter_num) == int(whole.state.iter_num) == 12


@each
def test_the_step_is_compiled_once(name, monkeypatch):
    traced, hoist = [], jaxsolve._compile.hoist
    monkeypatch.setattr(jaxsolve._compile, "hoist", lambda *args: (traced.append(1), hoist(*args))[1])
    solver = SOLVERS[name](maxiter=9, tol=0.0)
    solver.run_iterator(jnp.zeros(3), itertools.cycle(_batches(3)))
    assert len(traced) <= 2  # where to start from, and the step


@each
def test_a_batch_that_is_not_finite_ends_at_the_last_finite_parameters(name):
    good, bad = next(_batches(1)), (np.full((8, 3), np.nan), np.zeros(8))
    params, state = SOLVERS[name](maxiter=5, tol=0.0).run_iterator(jnp.zeros(3), [good, bad, good])
    assert int(state.status) == Status.NONFINITE
    assert np.all(np.isfinite(params)) and int(state.iter_num) == 2


def test_step_sizes_of_polyak():
    """In closed form: half a squared norm with minimum 0, where a step halves the distance; a batch already fitted."""
    square = lambda x, data: 0.5 * jnp.sum((x - data) ** 2)
    first = jaxsolve.PolyakSGD(square, maxiter=1, tol=0.0).run_iterator(jnp.ones(2), [np.zeros(2)])
    np.testing.assert_allclose(first.params, 0.5)
    np.testing.assert_allclose(first.state.stepsize, 0.5)
    fitted = jaxsolve.PolyakSGD(square, maxiter=1, tol=0.0).run_iterator(jnp.ones(2), [np.ones(2)])
    np.testing.assert_array_equal(fitted.params, 1.0)
    below = jaxsolve.PolyakSGD(square, fun_min=5.0, maxiter=1, tol=0.0).run_iterator(jnp.ones(2), [np.zeros(2)])
    np.testing.assert_array_equal(below.params, 1.0)  # not uphill
    damped = jaxsolve.PolyakSGD(square, delta=2.0, maxiter=1, tol=0.0).run_iterator(jnp.ones(2), [np.zeros(2)])
    np.testing.assert_allclose(damped.state.stepsize, 1.0 / (2.0 + 2.0))
    cut = jaxsolve.PolyakSGD(square, max_stepsize=0.1, maxiter=1, tol=0.0).run_iterator(jnp.ones(2), [np.zeros(2)])
    np.testing.assert_allclose(cut.params, 0.9)


@pytest.mark.parametrize("reset", ["increase", "conservative", "goldstein"])
def test_armijo_holds_on_every_batch(reset):
    solver = jaxsolve.ArmijoSGD(loss, reset_option=reset, tol=0.0, max_stepsize=100.0)
    params = jnp.zeros(3)
    data = next(_batches(1))
    state = solver.init_state(params, data=data)
    for data in _batches(10, noise=0.5):
        value, grad = jax.value_and_grad(loss)(params, data)
        new, state = solver.update(params, state, data=data)
        promised = float(state.stepsize) * float(jnp.sum(grad**2))
        fall = float(value - loss(new, data))
        assert fall >= 0.1 * promised > 0
        if reset == "goldstein":
            assert fall <= 0.9 * promised
        params = new


def test_a_search_without_a_step_takes_none():
    uphill = lambda x: (jnp.sum(x**2), -2 * x)  # a wrong gradient
    params, state = jaxsolve.ArmijoSGD(uphill, value_and_grad=True, maxiter=3).run(jnp.ones(2))
    np.testing.assert_array_equal(params, 1.0)
    assert bool(state.failed_linesearch)


def test_value_error_and_derivatives_of_a_run():
    data = next(_batches(1, noise=0.5))
    solver = jaxsolve.OptaxSolver(loss, optax.sgd(0.3), tol=1e-9, implicit_diff=True, maxiter=2000)
    run = lambda scale: solver.run(jnp.zeros(3), (data[0], scale * data[1]))
    params, state = run(1.0)
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params, np.linalg.lstsq(*data, rcond=None)[0], atol=1e-8)
    np.testing.assert_allclose(state.value, loss(params, data))
    np.testing.assert_allclose(jax.jacobian(lambda s: run(s).params)(1.0), params, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda s: run(s).state.value)(1.0), 2 * state.value, rtol=1e-6)
    short = jaxsolve.OptaxSolver(loss, optax.sgd(0.3), maxiter=20)
    unrolled = jax.jacobian(lambda s: short.run(jnp.zeros(3), (data[0], s * data[1])).params)(1.0)
    np.testing.assert_allclose(unrolled, short.run(jnp.zeros(3), data).params, rtol=1e-6)  # linear in s


def test_an_optimizer_with_a_line_search():
    """It wants the value, the gradient and the function."""
    data = next(_batches(1, noise=0.5))
    solver = jaxsolve.OptaxSolver(loss, optax.lbfgs(memory_size=3), tol=1e-6, maxiter=50)
    params, state = solver.run(jnp.zeros(3), data)
    assert int(state.status) == Status.CONVERGED and int(state.iter_num) < 25
    np.testing.assert_allclose(params, np.linalg.lstsq(*data, rcond=None)[0], atol=1e-5)


def test_before_every_step():
    def clip(params, state, *args, **kwargs):
        del args, kwargs
        return jax.tree.map(lambda p: jnp.clip(p, -1.0, 1.0), params), state

    solver = jaxsolve.OptaxSolver(loss, optax.sgd(0.3), pre_update=clip, maxiter=200, tol=0.0)
    params, _ = solver.run_iterator(jnp.array([50.0, 50.0, 50.0]), _batches(200))
    assert float(jnp.max(jnp.abs(params))) < 3.0
    with pytest.raises(TypeError, match="pre_update must be"):
        jaxsolve.PolyakSGD(loss, pre_update=3)
    with pytest.raises(TypeError, match=r"opt must be an optax\.GradientTransformation"):
        jaxsolve.OptaxSolver(loss, 0.1)


def test_dtypes_of_the_parameters_are_kept():
    """Under x64 optimizers of optax drift to float64."""
    for name in SOLVERS:
        solver = SOLVERS[name](maxiter=3, tol=0.0)
        params, state = solver.run_iterator(jnp.zeros(3, jnp.float32), _batches(3, dtype=np.float32))
        floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(jnp.result_type(x), jnp.floating)]
        assert params.dtype == jnp.float32 and {x.dtype for x in floats} == {jnp.dtype(jnp.float32)}, name
    half = jaxsolve.OptaxSolver(loss, optax.adam(0.1), maxiter=3, tol=0.0)
    X, y = next(_batches(1, dtype=np.float32))
    data = (jnp.asarray(X, jnp.bfloat16), jnp.asarray(y, jnp.bfloat16))
    assert half.run_iterator(jnp.zeros(3, jnp.bfloat16), [data] * 3).params.dtype == jnp.bfloat16


def test_step_sizes_have_no_unit_of_their_own():
    """Polyak's without a bound: the objective times a power of two changes nothing, to the bit."""
    data = next(_batches(1))
    for dtype in (jnp.float32, jnp.float64):
        for power in (-40, 40):
            unit = jnp.asarray(2.0**power, dtype)
            scaled = lambda w, data, unit: unit * loss(w, data)
            cast = jax.tree.map(lambda x, dtype=dtype: jnp.asarray(x, dtype), data)
            solver = jaxsolve.PolyakSGD(scaled, variant="SPS+", maxiter=4, tol=0.0)
            got = solver.run(jnp.zeros(3, dtype), cast, unit).params
            np.testing.assert_array_equal(got, solver.run(jnp.zeros(3, dtype), cast, jnp.ones((), dtype)).params)
