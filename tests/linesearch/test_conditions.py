"""The conditions hold at the accepted step, recomputed in NumPy from their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxsolve.linesearch import BacktrackingLineSearch, HagerZhangLineSearch, ZoomLineSearch

SEARCHES = {
    "armijo": (BacktrackingLineSearch, {"condition": "armijo"}),
    "wolfe": (BacktrackingLineSearch, {"condition": "wolfe"}),
    "strong-wolfe": (BacktrackingLineSearch, {"condition": "strong-wolfe"}),
    "strong-wolfe-tight": (BacktrackingLineSearch, {"condition": "strong-wolfe", "c2": 0.3}),
    "goldstein": (BacktrackingLineSearch, {"condition": "goldstein", "c1": 0.2}),
    "zoom": (ZoomLineSearch, {}),
    "zoom-tight": (ZoomLineSearch, {"c2": 0.05}),
    "zoom-loose": (ZoomLineSearch, {"c1": 0.3, "c2": 0.5, "increase_factor": 1.3}),
    "hager-zhang": (HagerZhangLineSearch, {}),
    "hager-zhang-tight": (HagerZhangLineSearch, {"c1": 0.05, "c2": 0.1}),
}

QUADRATIC = np.diag(np.logspace(-2, 2, 6)) + 0.1


def quadratic(x, shift):
    return 0.5 * jnp.vdot(x - shift, jnp.asarray(QUADRATIC) @ (x - shift))


def rosenbrock(x, shift):
    x = x - shift
    return jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def wavy(x, shift):
    return jnp.sum(0.1 * (x - shift) ** 2 + jnp.sin(3.0 * x))


def quartic(x, shift):
    return jnp.sum((x - shift) ** 4) + 0.01 * jnp.sum(x)


def logistic(x, shift):
    return jnp.sum(jnp.logaddexp(0.0, -3.0 * x)) + 0.05 * jnp.sum((x - shift) ** 2)


FUNCTIONS = [quadratic, rosenbrock, wavy, quartic, logistic]
WAVY = FUNCTIONS.index(wavy)


def any_of_them(x, index, shift):
    """One function for one compilation."""
    return jax.lax.switch(index, FUNCTIONS, x, shift)


STEPS = np.array([1e-6, 1e-2, 1.0, 30.0])


def conditions_hold(kind, options, t, phi0, slope0, phi, slope, slack=1e-9):
    """The definitions."""
    default_c1 = 0.1 if kind.startswith("hager") else 1e-4
    c1, c2 = options.get("c1", default_c1), options.get("c2", 0.9)
    scale = slack * np.abs(slope0)
    armijo = phi <= phi0 + c1 * t * slope0 + scale
    if kind == "armijo":
        return armijo
    if kind == "goldstein":
        return armijo & (phi >= phi0 + (1 - c1) * t * slope0 - scale)
    wolfe = slope >= c2 * slope0 - scale
    if kind == "wolfe":
        return armijo & wolfe
    if kind.startswith("hager"):
        approximate = ((2 * c1 - 1) * slope0 >= slope - scale) & wolfe & (phi <= phi0 + 1e-14 * np.abs(phi0))
        return (armijo & wolfe) | approximate
    return armijo & (np.abs(slope) <= c2 * np.abs(slope0) + scale)


@pytest.mark.parametrize("kind", SEARCHES)
def test_conditions_hold_where_the_search_succeeds(kind):
    cls, options = SEARCHES[kind]
    search = cls(any_of_them, maxiter=100, max_stepsize=None, **options)
    rng = np.random.default_rng(0)
    preconditioner = np.exp(rng.normal(size=6))

    def problem(index, point, shift, step):
        value, grad = jax.value_and_grad(any_of_them)(point, index, shift)
        direction = -preconditioner * grad
        t, state = search.run(step, point, value, grad, direction, fun_args=(index, shift))
        new_value, new_grad = jax.value_and_grad(any_of_them)(point + t * direction, index, shift)
        slopes = jnp.vdot(grad, direction), jnp.vdot(new_grad, direction)
        return t, state, value, new_value, *slopes, new_grad, point + t * direction

    count = 6 * STEPS.size
    points, shifts = np.repeat(1.5 * rng.normal(size=(2, 6, 6)), STEPS.size, 1)
    index = np.repeat(np.arange(len(FUNCTIONS)), count)
    data = (index, *(np.tile(x, (len(FUNCTIONS), 1)) for x in (points, shifts)), np.tile(STEPS, 6 * len(FUNCTIONS)))
    t, state, phi0, phi, slope0, slope, grad, new = jax.tree.map(np.asarray, jax.jit(jax.vmap(problem))(*data))

    assert np.all(state.done != state.failed)
    # All functions are smooth and bounded below, so acceptable steps exist. Those of Goldstein's conditions need not
    # lie between the two ends that the search knows, if the function has many minima.
    assert np.all(state.done[index != WAVY]) and np.mean(state.done[index == WAVY]) >= 0.9
    ok = conditions_hold(kind, options, t, phi0, slope0, phi, slope)
    np.testing.assert_array_equal(ok | ~state.done, True)
    np.testing.assert_array_equal(state.error[state.done], 0)
    # What the state says is what is there.
    np.testing.assert_allclose(state.value, phi, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(state.grad, grad, rtol=1e-7, atol=1e-9 * np.max(np.abs(grad)))
    np.testing.assert_allclose(state.params, new, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(state.best_stepsize, t)


@pytest.mark.parametrize("kind", ["zoom", "hager-zhang", "strong-wolfe"])
def test_one_dimension_against_scipy(kind):
    """SciPy finds a strong Wolfe step too, and ours needs no more than twice its evaluations over many problems."""
    cls, options = SEARCHES[kind]

    def fun(x, a):
        return jnp.cosh(x - a) + 0.3 * jnp.sin(2.0 * x)

    search = cls(fun, max_stepsize=None, **options)
    run = jax.jit(lambda a: search.run(1.0, jnp.asarray(0.0), fun_args=(a,)))
    value, slope = jax.jit(fun), jax.jit(jax.grad(fun))
    ours, scipys = 0, 0
    for a in np.linspace(-3, 3, 9):
        t, state = run(a)
        direction = -float(slope(0.0, a))
        found, fc, gc, *_ = scipy.optimize.line_search(
            lambda x, a=a: float(value(float(x[0]), a)),
            lambda x, a=a: np.array([float(slope(float(x[0]), a))]),
            np.zeros(1),
            np.array([direction]),
        )
        assert found is not None and bool(state.done)
        assert float(state.value) < float(value(0.0, a))
        ours, scipys = ours + int(state.iter_num), scipys + max(fc, gc)
    assert ours <= 2 * scipys


def test_a_long_step_is_reached_by_growing():
    for cls in (ZoomLineSearch, HagerZhangLineSearch):
        t, state = cls(lambda x: 0.5e-8 * x**2, max_stepsize=None).run(1.0, jnp.asarray(1.0))
        assert bool(state.done) and 1e7 < float(t) < 2e8
        assert int(state.iter_num) <= 16


@pytest.mark.parametrize("kind", ["zoom", "hager-zhang", "wolfe", "strong-wolfe", "goldstein"])
def test_max_stepsize_is_kept_and_accepted_when_longer_steps_are_wanted(kind):
    cls, options = SEARCHES[kind]
    search = cls(lambda x, a: 0.5 * a * jnp.sum(x**2), max_stepsize=0.05, **options)
    t, state = search.run(3.0, jnp.ones(3), fun_args=(1.0,))
    np.testing.assert_allclose(t, 0.05)
    assert bool(state.done) and not bool(state.failed)
    assert int(state.iter_num) == 1
    assert float(state.error) > 0
    # A minimum inside of the bound is found as ever.
    t, state = search.run(3.0, jnp.ones(3), fun_args=(100.0,))
    assert bool(state.done) and float(t) < 0.05 and float(state.error) == 0


def test_tolerance_accepts_small_violations():
    fun = lambda x: 0.5 * jnp.sum(x**2)
    # phi'(t) / |phi'(0)| = t - 1: at t = 0.05 the curvature condition is violated by 0.05.
    strict = ZoomLineSearch(fun).run(0.05, jnp.ones(2))
    loose = ZoomLineSearch(fun, tol=0.06).run(0.05, jnp.ones(2))
    assert int(strict.state.iter_num) > 1 and int(loose.state.iter_num) == 1
    np.testing.assert_allclose(loose.state.error, 0.05, rtol=1e-6)
