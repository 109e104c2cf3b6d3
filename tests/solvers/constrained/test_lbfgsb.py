"""L-BFGS-B: against SciPy and a grid, at every kind of bound, in other units, and never outside of the box."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxsolve
from jaxsolve import Status
from jaxsolve.solvers.constrained.lbfgsb import _cauchy_point, _Model

START = np.array([-1.2, 1.0, 0.5, -0.3, 0.8])
BOUNDS = {
    "two-sided": (np.full(5, -2.0), np.full(5, 0.5)),
    "mixed": (np.array([-np.inf, 0.3, -1.0, -1.0, -1.0]), np.array([0.5, 0.3, np.inf, 0.0, np.inf])),
    "none": (np.full(5, -np.inf), np.full(5, np.inf)),
}


def rosenbrock(x, scale=1.0):
    return scale * jnp.sum((1.0 - x[:-1]) ** 2 + 100.0 * (x[1:] - x[:-1] ** 2) ** 2)


def by_scipy(fun, start, bounds):
    value_and_grad = jax.jit(jax.value_and_grad(fun))
    return scipy.optimize.minimize(
        lambda x: tuple(map(np.asarray, value_and_grad(jnp.asarray(x)))),
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=scipy.optimize.Bounds(*bounds),
        options={"ftol": 0, "gtol": 1e-9, "maxcor": 10},
    )


@pytest.mark.parametrize("name", ["mixed", *[pytest.param(n, marks=pytest.mark.slow) for n in ("two-sided", "none")]])
def test_solutions_are_those_of_scipy_and_no_evaluation_is_outside(name):
    lower, upper = BOUNDS[name]

    def inside_only(x):
        return jnp.where(jnp.any((x < lower) | (x > upper)), jnp.nan, rosenbrock(x))

    start = np.clip(START, lower, upper) + (0.1 if name == "none" else 0.0)
    params, state = jaxsolve.LBFGSB(inside_only, tol=1e-8, maxiter=500).run(START + 0.1, (lower, upper))
    reference = by_scipy(rosenbrock, start, (lower, upper))
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params, reference.x, atol=1e-6)
    assert np.all((params >= lower) & (params <= upper))
    assert int(state.num_fun_eval) <= 1.5 * reference.nfev


def test_the_cauchy_point_is_the_first_minimizer_along_the_projected_path():
    rng = np.random.default_rng(0)
    n, m = 6, 4
    found = jax.jit(lambda *data: _cauchy_point(_Model.of(*data[:4]), *data[4:])[0])
    for trial in range(20):
        root = rng.normal(size=(n, n))
        s = rng.normal(size=(m, n))
        y = s @ (root @ root.T + 0.1 * np.eye(n))
        pairs, theta = trial % (m + 1), np.exp(rng.normal())
        x, grad = rng.uniform(-1, 1, n), rng.normal(size=n)
        lower = np.where(rng.random(n) < 0.2, -np.inf, x - rng.exponential(size=n))
        upper = np.where(rng.random(n) < 0.2, np.inf, x + rng.exponential(size=n))
        lower[0] = upper[0] = x[0]  # fixed
        # The matrix of the quasi-Newton formula itself, one pair after the other.
        B = theta * np.eye(n)
        for s_i, y_i in list(zip(s, y, strict=True))[m - pairs :]:
            Bs = B @ s_i
            B = B - np.outer(Bs, Bs) / (s_i @ Bs) + np.outer(y_i, y_i) / (y_i @ s_i)
        got = np.asarray(found(s, y, theta, jnp.asarray(pairs, jnp.int32), x, grad, lower, upper))

        def model(point, grad=grad, x=x, B=B):
            move = point - x
            return grad @ move + 0.5 * move @ B @ move

        times = np.linspace(0, 20, 200_001)
        values = np.array([model(np.clip(x - t * grad, lower, upper)) for t in times[::200]])
        # The first minimizer: where the values on the grid first rise.
        coarse = int(np.argmax(np.append(np.diff(values) > 0, True))) * 200
        near = times[max(coarse - 200, 0) : coarse + 201]
        best = min(near, key=lambda t: model(np.clip(x - t * grad, lower, upper)))
        np.testing.assert_allclose(got, np.clip(x - best * grad, lower, upper), atol=3e-4)


EXPONENTS = np.array([(0, 0), (-40, 0), (40, 0), (0, -40), (0, 7), (0, 40)])


@pytest.mark.parametrize("dtype", [np.float64, pytest.param(np.float32, marks=[pytest.mark.float32, pytest.mark.slow])])
def test_units_change_nothing(dtype):
    powers = jnp.asarray(np.exp2(EXPONENTS).astype(dtype))
    lower, upper = (jnp.asarray(b, dtype) for b in BOUNDS["mixed"])
    solver = jaxsolve.LBFGSB(lambda x, c, u: rosenbrock(x / u, c), tol=0.0, maxiter=10)
    run = jax.jit(jax.vmap(lambda c, u: solver.run(jnp.asarray(START, dtype) * u, (lower * u, upper * u), c, u)))
    params, state = run(powers[:, 0], powers[:, 1])
    assert params.dtype == dtype
    np.testing.assert_array_equal(params / powers[:, 1:], np.broadcast_to(params[0], params.shape))
    for field in ("iter_num", "num_fun_eval", "status"):
        np.testing.assert_array_equal(getattr(state, field), getattr(state, field)[0])


def test_linear_objectives_end_in_a_corner():
    cost = np.array([1.0, -2.0, 0.5, -1e-2])
    params, state = jaxsolve.LBFGSB(lambda x: jnp.vdot(cost, x)).run(
        jnp.zeros(4), (-1.0, np.array([1.0, 2.0, 3.0, 4.0]))
    )
    np.testing.assert_array_equal(params, [-1.0, 2.0, -1.0, 4.0])
    assert int(state.status) == Status.CONVERGED
    assert int(state.num_fun_eval) <= 20


@pytest.mark.slow
def test_concave_objectives_end_in_a_corner_at_once():
    """With bounds far away, and no pair with positive curvature to tell how far a path should lead."""
    curvatures = np.arange(1.0, 41.0) ** 2 / 40 - 40.025
    solver = jaxsolve.LBFGSB(lambda x: jnp.sum(0.5 * curvatures * x**2 + x), tol=1e-8, maxiter=100)
    params, state = solver.run(jnp.ones(40), (-1e5, 1e6))
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_array_equal(params, np.where(curvatures + 1 < 0, 1e6, -1e5))
    assert int(state.num_fun_eval) < 25


def test_pytrees_bounds_like_them_and_fixed_variables():
    def fun(p):
        return jnp.sum((p["a"] - 2.0) ** 2) + (p["b"] + 1.0) ** 2 + p["a"][0] * p["b"]

    bounds = ({"a": np.array([0.0, 1.0]), "b": -np.inf}, {"a": 1.0 * np.ones(2), "b": np.inf})
    params, state = jaxsolve.LBFGSB(fun, tol=1e-9).run({"a": jnp.zeros(2), "b": 0.5}, bounds)
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params["a"], [1.0, 1.0])
    np.testing.assert_allclose(params["b"], -1.5, rtol=1e-7)
    for wrong in ((1.0, 0.0), 3.0, ({"a": 1.0}, 2.0)):
        with pytest.raises(ValueError, match="bounds|structure"):
            jaxsolve.LBFGSB(fun).run({"a": jnp.zeros(2), "b": 0.5}, wrong)


def test_derivatives_in_data_and_bounds():
    def solution(z):
        bounds = (jnp.stack([-jnp.inf, -1.0, z[0]]), jnp.stack([z[1], jnp.inf, jnp.inf]))
        solver = jaxsolve.LBFGSB(rosenbrock, tol=1e-11, maxiter=300)
        return solver.run(jnp.array([0.2, 0.3, 0.9]), bounds, z[2]).params

    at = np.array([0.7, 0.4, 2.0])
    value, forward, reverse = jax.jit(lambda z: (solution(z), jax.jacfwd(solution)(z), jax.jacrev(solution)(z)))(at)
    assert value[0] == 0.4 and value[2] == 0.7
    run, step = jax.jit(solution), 1e-5
    want = np.stack([(run(at + step * e) - run(at - step * e)) / (2 * step) for e in np.eye(3)], axis=-1)
    np.testing.assert_allclose(forward, want, atol=1e-6)
    np.testing.assert_allclose(reverse, want, atol=1e-6)


@pytest.mark.slow
def test_a_wall_of_nan_inside_the_box_is_not_crossed():
    def fun(x):
        return jnp.sum(jnp.where(x > 0.1, x - 0.2 * jnp.log(x), jnp.nan))

    params, state = jaxsolve.LBFGSB(fun, tol=1e-9).run(jnp.array([3.0, 0.15]), (-1.0, 10.0))
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params, 0.2, rtol=1e-6)
    params, state = jaxsolve.LBFGSB(lambda x: jnp.sum(jnp.where(x == 1.0, x, jnp.inf))).run(jnp.ones(2), (0.0, 2.0))
    np.testing.assert_array_equal(params, 1.0)
    assert int(state.status) in (Status.LINESEARCH_FAILED, Status.STALLED)


@pytest.mark.slow
def test_a_fixed_step_and_other_searches():
    bounds = BOUNDS["mixed"]
    reference = by_scipy(rosenbrock, np.clip(START, *bounds), bounds).x
    for options in ({"linesearch": "backtracking"}, {"linesearch": "hager-zhang"}, {"use_gamma": False}):
        params, state = jaxsolve.LBFGSB(rosenbrock, tol=1e-8, maxiter=500, **options).run(START, bounds)
        assert int(state.status) == Status.CONVERGED
        np.testing.assert_allclose(params, reference, atol=1e-6)
    fixed = jaxsolve.LBFGSB(lambda x: jnp.sum((x - 1.0) ** 2 * jnp.arange(1.0, 6.0)), stepsize=0.5, maxiter=200)
    params, state = fixed.run(START, bounds)
    np.testing.assert_allclose(params, np.clip(1.0, *bounds), atol=1e-3)
