"""Newton, chord and Broyden methods: systems of the literature, singular Jacobians, bounds, honest ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

import jaxsolve
from jaxsolve import Status

SOLVERS = {
    "Newton": jaxsolve.Newton,
    "Chord": jaxsolve.Chord,
    "Broyden": jaxsolve.Broyden,
    "limited": lambda fun, **options: jaxsolve.Broyden(fun, history_size=10, **options),
}
each = pytest.mark.parametrize("name", list(SOLVERS))
each_dense = pytest.mark.parametrize("name", ["Newton", "Chord", "Broyden"])


def rosenbrock(x):
    return jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def powell_singular(x):
    """The Jacobian is singular at the root."""
    return jnp.stack([x[0] + 10 * x[1], 5**0.5 * (x[2] - x[3]), (x[1] - 2 * x[2]) ** 2, 10**0.5 * (x[0] - x[3]) ** 2])


def powell_badly_scaled(x):
    return jnp.stack([1e4 * x[0] * x[1] - 1, jnp.exp(-x[0]) + jnp.exp(-x[1]) - 1.0001])


def helical_valley(x):
    angle = jnp.arctan2(x[1], x[0]) / (2 * jnp.pi)
    return jnp.stack([10 * (x[2] - 10 * angle), 10 * (jnp.hypot(x[0], x[1]) - 1), x[2]])


def wood(x):
    first = (-200 * x[0] * (x[1] - x[0] ** 2) - (1 - x[0]), 200 * (x[1] - x[0] ** 2))
    second = (-180 * x[2] * (x[3] - x[2] ** 2) - (1 - x[2]), 180 * (x[3] - x[2] ** 2))
    one, three = x[1] - 1, x[3] - 1
    return jnp.stack([first[0], first[1] + 20.2 * one + 19.8 * three, second[0], second[1] + 20.2 * three + 19.8 * one])


def tridiagonal(x):
    before, after = jnp.pad(x, (1, 0))[:-1], jnp.pad(x, (0, 1))[1:]
    return (3 - 2 * x) * x - before - 2 * after + 1


# Moré, Garbow and Hillstrom (1981), "Testing unconstrained optimization software", and their starting points.
SYSTEMS = {
    "rosenbrock": (rosenbrock, [-1.2, 1.0]),
    "powell-singular": (powell_singular, [3.0, -1.0, 0.0, 1.0]),
    "powell-badly-scaled": (powell_badly_scaled, [0.0, 1.0]),
    "helical-valley": (helical_valley, [-1.0, 0.0, 0.0]),
    "wood": (wood, [-3.0, -1.0, -3.0, -1.0]),
    "tridiagonal": (tridiagonal, [-1.0] * 10),
}


@pytest.mark.slow
@each_dense
@pytest.mark.parametrize("system", list(SYSTEMS))
def test_systems_of_the_literature(name, system):
    fun, start = SYSTEMS[system]
    params, state = SOLVERS[name](fun, tol=1e-8).run(jnp.asarray(start))
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(state.error, np.linalg.norm(fun(params)), atol=1e-12)
    assert state.error <= 1e-8
    assert int(state.num_fun_eval) == 1 + int(state.num_linesearch_iter) < 200


@pytest.mark.parametrize("name", ["Newton", pytest.param("Chord", marks=pytest.mark.slow)])
def test_full_steps_find_roots_behind_local_minima_of_the_norm(name):
    """An exponential through three points: steps that lower the norm lead to infinity."""
    t, y = jnp.arange(1.0, 4.0), jnp.array([0.032, 0.056, 0.099])

    def exponential(x):
        return x[0] + x[1] * jnp.exp(x[2] * t) - y

    @jax.jit
    def run(patience):
        return SOLVERS[name](exponential, tol=1e-7, patience=patience).run(jnp.full(3, 0.1))

    params, state = run(10)
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(exponential(params), 0, atol=1e-7)
    assert int(state.num_fun_eval) < 20
    strict = run(0).state
    assert int(strict.status) != Status.CONVERGED or int(strict.num_fun_eval) > 100


def test_the_parameters_are_the_best_point_so_far():
    def freudenstein_roth(x):
        return jnp.stack([-13 + x[0] + ((5 - x[1]) * x[1] - 2) * x[1], -29 + x[0] + ((x[1] + 1) * x[1] - 14) * x[1]])

    solver = jaxsolve.Newton(freudenstein_roth, tol=1e-8)
    update = jax.jit(solver.update)
    params, errors, scouts = jnp.array([0.5, -2.0]), [], []
    state = solver.init_state(params)
    while int(state.status) == Status.RUNNING and len(errors) < 40:
        params, state = update(params, state)
        errors.append(float(state.error))
        scouts.append(float(state.scout.error))
        np.testing.assert_allclose(state.error, np.linalg.norm(freudenstein_roth(params)), rtol=1e-12)
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params, [5.0, 4.0], atol=1e-7)
    assert np.all(np.diff(errors) <= 0) and max(scouts) > 10 * errors[0]
    # The same when multiplied by a power of two.
    scaled = jaxsolve.Newton(lambda x: 2.0**30 * freudenstein_roth(x / 2.0**20), tol=2.0**30 * 1e-8)
    far, ended = scaled.run(2.0**20 * jnp.array([0.5, -2.0]))
    np.testing.assert_array_equal(far / 2.0**20, params)
    assert int(ended.num_fun_eval) == int(state.num_fun_eval)


def test_evaluations():
    """The tridiagonal system, where SciPy's hybrid method takes 23 and a Jacobian by differences."""
    counts = {}
    for name, make in SOLVERS.items():
        state = make(tridiagonal, tol=1e-8).run(-jnp.ones(10)).state
        assert int(state.status) == Status.CONVERGED
        counts[name] = int(state.num_fun_eval), int(state.num_jac_eval)
    assert counts == {"Newton": (5, 4), "Chord": (21, 1), "Broyden": (12, 1), "limited": (20, 2)}


@pytest.mark.parametrize("name", ["Newton", "Broyden", "limited"])
def test_many_unknowns(name):
    """By products with the Jacobian, and with models of limited memory."""
    params, state = SOLVERS[name](tridiagonal, tol=1e-6).run(-jnp.ones(600))
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(tridiagonal(params), 0, atol=1e-6)


@each_dense
def test_a_singular_jacobian_at_the_start(name):
    fun = lambda x: jnp.stack([x[0] ** 2 - 1.0, x[1] + x[0] - 3.0])
    params, state = SOLVERS[name](fun, tol=1e-8).run(jnp.array([0.0, 0.0]))  # the first row of the Jacobian is 0
    assert int(state.status) in (Status.CONVERGED, Status.LINESEARCH_FAILED, Status.STALLED)
    assert np.all(np.isfinite(params))
    if int(state.status) == Status.CONVERGED:
        np.testing.assert_allclose(fun(params), 0, atol=1e-7)


@each
def test_no_root_is_no_success(name):
    """SciPy's hybrid method claims success at 1.01 for such an equation."""
    params, state = SOLVERS[name](lambda x: x**2 + 1.0, tol=1e-8, maxiter=60).run(jnp.array([1.0]))
    assert int(state.status) in (Status.LINESEARCH_FAILED, Status.STALLED, Status.MAXITER)
    np.testing.assert_allclose(state.error, np.linalg.norm(params**2 + 1.0))


@each
def test_points_outside_of_the_domain_are_rejected(name):
    """From 5 a full Newton step leads to log of a negative number."""
    params, state = SOLVERS[name](lambda x: jnp.log(x) + 4.0, tol=1e-8).run(jnp.array([5.0]))
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params, np.exp(-4.0), rtol=1e-7)
    params, state = SOLVERS[name](lambda x: jnp.log(x), tol=1e-8).run(jnp.array([-1.0]))
    assert int(state.status) == Status.NONFINITE
    assert params == -1.0
    params, state = SOLVERS[name](lambda x: jnp.log(x) + 4.0, linesearch=None).run(jnp.array([5.0]))
    assert int(state.status) == Status.NONFINITE
    assert np.isfinite(params)


@each
def test_bounds(name):
    """Of the two roots that in the box; `fun` is not called outside of it."""

    def fun(x):
        return jnp.where(x < 0.5, jnp.nan, x**2 - 4.0)

    params, state = SOLVERS[name](fun, tol=1e-8, bounds=(0.5, jnp.asarray(10.0))).run(jnp.array([0.1, 9.0]))
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params, 2.0, atol=1e-7)
    with pytest.raises(ValueError, match="bounds: lower of shape"):
        SOLVERS[name](fun, bounds=(jnp.zeros(3), 1.0)).run(jnp.ones(2))
    with pytest.raises(ValueError, match="lower must not exceed upper"):
        SOLVERS[name](fun, bounds=(1.0, 0.0))


@each_dense
def test_pytrees_auxiliary_output_and_derivatives(name):
    def fun(p, theta):
        residual = {"a": p["a"] ** 3 + p["b"].sum() - theta, "b": p["b"] * 2.0 - p["a"]}
        return residual, {"norm": p["a"] ** 2}

    init = {"a": jnp.asarray(1.0), "b": jnp.ones(2)}
    solver = SOLVERS[name](fun, has_aux=True, tol=1e-10)
    root = lambda theta: optimize.brentq(lambda a: a**3 + a - theta, 0, 10, xtol=1e-14)
    params, state = solver.run(init, 3.0)
    np.testing.assert_allclose(params["a"], root(3.0), atol=1e-9)
    np.testing.assert_allclose(state.aux["norm"], params["a"] ** 2)
    slope = 1 / (3 * root(3.0) ** 2 + 1)
    for mode in (jax.grad, jax.jacfwd):
        np.testing.assert_allclose(mode(lambda t: solver.run(init, t).params["a"])(3.0), slope, rtol=1e-8)
    aux = jax.grad(lambda t: solver.run(init, t).state.aux["norm"])(3.0)
    np.testing.assert_allclose(aux, 2 * root(3.0) * slope, rtol=1e-8)


def test_fixed_steps_and_impossible_options():
    halves = jaxsolve.Newton(lambda x: x - 1.0, stepsize=0.5, tol=1e-3).run(jnp.zeros(1)).state
    assert int(halves.iter_num) == int(halves.num_fun_eval) - 1 == 10
    with pytest.raises(ValueError, match="fun must return the structure and shapes"):
        jaxsolve.Newton(lambda x: x[:1]).run(jnp.zeros(2))
    with pytest.raises(ValueError, match="linesearch must be one of"):
        jaxsolve.Broyden(rosenbrock, linesearch="zoom")
    with pytest.raises(TypeError, match="solve"):
        jaxsolve.Newton(rosenbrock, solve="lu")


def test_the_sign_of_the_first_model():
    """The identity as a first model leads away from the root of -x + a; the Jacobian along the residual tells."""
    for options in ({}, {"history_size": 5}):
        params, state = jaxsolve.Broyden(lambda x: jnp.array([1.0, 2.0]) - x, tol=1e-8, **options).run(jnp.zeros(2))
        np.testing.assert_allclose(params, [1.0, 2.0], atol=1e-8)
        assert int(state.num_fun_eval) == 2


@each
def test_float32_and_batches(name):
    solver = SOLVERS[name](lambda x, a: x**3 + x - a)
    a = jnp.asarray(np.array([[1.5, 2.5], [np.nan, 1.0], [1e6, -1e6]]), jnp.float32)
    params, state = jax.vmap(lambda a: solver.run(jnp.ones(2, jnp.float32), a))(a)
    assert params.dtype == state.error.dtype == jnp.float32
    status = [int(s) for s in state.status]
    assert status[0] == Status.CONVERGED and status[1] == Status.NONFINITE
    assert status[2] in (Status.CONVERGED, Status.STALLED, Status.LINESEARCH_FAILED)
    np.testing.assert_allclose(params[2] ** 3 + params[2], a[2], rtol=1e-4)
    np.testing.assert_allclose(params[0] ** 3 + params[0], a[0], atol=2e-3)
