"""Programs written for other packages: every first-order solver takes what they hand to it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import Status
from jaxsolve.base import OptStep
from jaxsolve.projection import kl_projection_simplex, projection_simplex
from jaxsolve.prox import prox_lasso

TARGET = np.array([1.0, -1.0])


def distance(x):
    return jnp.sum((x - jnp.asarray(TARGET, x.dtype)) ** 2)


def regression(w, X, y):
    return jnp.mean((X @ w - y) ** 2)


entropic = jaxsolve.MirrorDescent.make_projection_grad(kl_projection_simplex, jnp.log)

#: Solvers of a function of two entries, and the hyperparameters that go before the data.
SOLVERS = {
    "gradient": (lambda fun, **k: jaxsolve.GradientDescent(fun, **k), ()),
    "fixed step": (lambda fun, **k: jaxsolve.GradientDescent(fun, stepsize=0.1, **k), ()),
    "plain": (lambda fun, **k: jaxsolve.GradientDescent(fun, acceleration=False, **k), ()),
    "proximal": (lambda fun, **k: jaxsolve.ProximalGradient(fun, prox_lasso, **k), (0.1,)),
    "projected": (lambda fun, **k: jaxsolve.ProjectedGradient(fun, projection_simplex, **k), (1.0,)),
    "mirror": (lambda fun, **k: jaxsolve.MirrorDescent(fun, entropic, 0.0, **k), (1.0,)),
    "lbfgs": (lambda fun, **k: jaxsolve.LBFGS(fun, **k), ()),
    "steepest": (lambda fun, **k: jaxsolve.LBFGS(fun, history_size=0, **k), ()),
    "blocks": (lambda fun, **k: jaxsolve.BlockCoordinateDescent(fun, prox_lasso, **k), (0.1,)),
    "fixed point": (
        lambda fun, **k: jaxsolve.FixedPointIteration(lambda x: x - 0.2 * jax.grad(fun)(x), **k),
        (),
    ),
}


def skewed(x):
    return jnp.sum(jnp.cosh(x - jnp.asarray([0.1, 0.6]))) + 0.3 * (x[0] + 2.0 * x[1] - 1.0) ** 2


@pytest.mark.parametrize("name", SOLVERS)
def test_a_run_goes_on_from_an_earlier_result_and_its_buffers_may_be_donated(name):
    make, before = SOLVERS[name]
    start = jnp.asarray([0.99, 0.01])
    half, whole = make(skewed, maxiter=3, tol=0.0), make(skewed, maxiter=6, tol=0.0)
    expected = whole.run(start, *before)
    begun = half.run(start, *before)
    resumed = half.run(begun, *before)
    assert int(resumed.state.iter_num) == 6
    np.testing.assert_allclose(resumed.params, expected.params, rtol=1e-10)
    update = jax.jit(half.update, donate_argnums=(0, 1))
    step = OptStep(begun.params, half.init_state(begun, *before))
    for _ in range(3):
        step = update(*step, *before)
    np.testing.assert_allclose(step.params, expected.params, rtol=1e-10)


# ---- Projections and proximity operators by what they take --------------------------------------------------------

POSITIVE = [
    lambda x: jnp.maximum(x, 0.0),
    lambda x, hyperparams: jnp.maximum(x, 0.0 if hyperparams is None else jnp.nan),
    lambda x, lower=0.0: jnp.maximum(x, lower),
    lambda x, *rest: jnp.maximum(x, 0.0),
    functools.partial(lambda bound, x, hyperparams: jnp.maximum(x, bound), 0.0),
    jax.nn.relu,
]


@pytest.mark.parametrize("number", range(len(POSITIVE)))
def test_a_projection_takes_one_argument_or_two(number):
    projection = POSITIVE[number]
    for run in (
        lambda: jaxsolve.ProjectedGradient(distance, projection).run(jnp.ones(2)),
        lambda: jaxsolve.ProximalGradient(distance, projection).run(jnp.ones(2)),
    ):
        np.testing.assert_allclose(run().params, [1.0, 0.0], atol=1e-3)
    step = jaxsolve.MirrorDescent.make_projection_grad(projection, lambda x: x)
    found = jaxsolve.MirrorDescent(distance, step, 0.1, tol=1e-6).run(jnp.ones(2)).params
    np.testing.assert_allclose(found, [1.0, 0.0], atol=1e-5)


def test_a_proximity_operator_of_three_arguments_gets_the_step():
    shrink = lambda x, weight, scaling: x / (1 + (1.0 if weight is None else weight) * scaling)
    solver = jaxsolve.ProximalGradient(distance, shrink, tol=1e-8)
    np.testing.assert_allclose(solver.run(jnp.ones(2)).params, TARGET * 2 / 3, atol=1e-7)
    np.testing.assert_allclose(solver.run(jnp.ones(2), 2.0).params, TARGET / 2, atol=1e-7)


def test_hyperparameters_that_nothing_reads_are_refused():
    weighted = lambda x, weight: weight * distance(x)
    with pytest.raises(ValueError, match="ProximalGradient has no prox, but hyperparams_prox"):
        jaxsolve.ProximalGradient(weighted).run(jnp.ones(2), 0.5, 0.1)
    np.testing.assert_allclose(
        jaxsolve.ProximalGradient(weighted).run(jnp.ones(2), None, 0.1).params, TARGET, atol=1e-2
    )
    with pytest.raises(TypeError, match="projection takes one argument"):
        jaxsolve.ProjectedGradient(distance, lambda x: x).run(jnp.ones(2), 0.5)


# ---- A state before there are data --------------------------------------------------------------------------------

X, Y = np.eye(2), TARGET


@pytest.mark.parametrize("name", ["gradient", "fixed step", "proximal", "projected", "mirror"])
def test_a_state_without_data(name):
    make, before = SOLVERS[name]
    solver, start = make(regression), jnp.full(2, 0.5)
    state, early = solver.init_state(start, *before, X, Y), solver.init_state(start)
    assert jax.tree.structure(state) == jax.tree.structure(early)
    assert [x.dtype for x in jax.tree.leaves(state)] == [x.dtype for x in jax.tree.leaves(early)]
    step = jax.lax.scan(lambda s, _: (solver.update(*s, *before, X, Y), None), OptStep(start, early), None, length=3)[0]
    expected = make(regression, maxiter=3, tol=0.0).run(start, *before, X, Y)
    np.testing.assert_allclose(step.params, expected.params, rtol=1e-12)


def test_auxiliary_output_without_data_comes_with_the_first_update():
    with_aux = lambda w, X, y: (regression(w, X, y), {"norm": jnp.sum(w**2)})
    solver = jaxsolve.GradientDescent(with_aux, has_aux=True)
    params, state = jnp.zeros(2), solver.init_state(jnp.zeros(2))
    assert state.aux is None
    for _ in range(2):
        params, state = solver.update(params, state, X, Y)
    assert float(state.aux["norm"]) > 0
    with pytest.raises(TypeError, match="signature"):
        solver.run(jnp.zeros(2))


# ---- Leaves that do not move --------------------------------------------------------------------------------------


def test_leaves_that_do_not_move_come_back_as_they_were():
    given = {
        "w": jnp.zeros(2),
        "steps": 4,
        "count": jnp.asarray([3], jnp.int32),
        "flag": True,
        "key": jax.random.key(0),
        "name": "layer",
        "activation": jnp.tanh,
    }

    def fun(p, t):
        assert p["flag"] is True and p["name"] == "layer"
        return jnp.sum((p["activation"](p["w"]) - t) ** 2) * p["count"][0].astype(float)

    clipped = lambda p, *_: {**p, "w": jnp.minimum(p["w"], 0.1)}
    shrunk = lambda p, t: {**p, "w": 0.5 * p["w"] + t, "steps": p["steps"] + 1}
    for solver, before, expected in (
        (jaxsolve.GradientDescent(fun, tol=1e-8), (), np.arctanh(0.5)),
        (jaxsolve.LBFGS(fun, tol=1e-8), (), np.arctanh(0.5)),
        (jaxsolve.ProximalGradient(fun, clipped), (None,), 0.1),
        (jaxsolve.ProjectedGradient(fun, clipped), (None,), 0.1),
        (jaxsolve.FixedPointIteration(shrunk, tol=1e-9), (), 1.0),
    ):
        params, state = solver.run(given, *before, 0.5)
        np.testing.assert_allclose(params["w"], expected, rtol=1e-6)
        step = solver.update(given, solver.init_state(given, *before, 0.5), *before, 0.5)
        for out in (params, step.params):
            assert all(out[name] is given[name] for name in given if name != "w")
    slope = jax.grad(lambda t: jaxsolve.LBFGS(fun, tol=1e-8).run(given, t).params["w"].sum())(0.5)
    np.testing.assert_allclose(slope, 2 / 0.75, rtol=1e-6)


def test_modules_of_equinox_as_parameters():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(2, 1, 2, 1, key=jax.random.key(0))
    fun = lambda model, x: jnp.sum((model(x) - 1.0) ** 2)
    x = jnp.ones(2, model.layers[0].weight.dtype)
    for solver in (jaxsolve.GradientDescent(fun, maxiter=5), jaxsolve.LBFGS(fun, maxiter=5)):
        trained, state = solver.run(model, x)
        assert float(fun(trained, x)) < float(fun(model, x))
        assert trained.activation is model.activation


def test_states_of_nnx_as_parameters():
    nnx = pytest.importorskip("flax.nnx")
    model = nnx.Sequential(nnx.Linear(2, 1, rngs=nnx.Rngs(0)), nnx.Dropout(0.1, rngs=nnx.Rngs(1)))
    definition, params = nnx.split(model)

    def fun(params, x):
        model = nnx.merge(definition, params)
        model.eval()
        return jnp.sum((model(x) - 1.0) ** 2)

    x = jnp.ones(2, jnp.float32)
    step = jaxsolve.GradientDescent(fun, maxiter=5).run(params, x)
    assert float(fun(step.params, x)) < float(fun(params, x))
    assert jax.tree.structure(step.params) == jax.tree.structure(params)


# ---- Complex numbers ----------------------------------------------------------------------------------------------


def test_steepest_descent_without_a_history():
    fun = lambda w: jnp.sum((w - 1.0) ** 2 * jnp.asarray([1.0, 4.0]))
    for options in ({}, {"stepsize": 0.1}, {"linesearch": "backtracking"}):
        params, state = jaxsolve.LBFGS(fun, history_size=0, tol=1e-6, **options).run(jnp.zeros(2))
        assert int(state.status) == Status.CONVERGED
        np.testing.assert_allclose(params, 1.0, atol=1e-5)
    fixed = jaxsolve.LBFGS(fun, history_size=0, stepsize=0.1, maxiter=1).run(jnp.zeros(2)).params
    np.testing.assert_allclose(fixed, -0.1 * jax.grad(fun)(jnp.zeros(2)))
