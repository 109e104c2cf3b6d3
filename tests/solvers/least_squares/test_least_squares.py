"""Levenberg-Marquardt, Gauss-Newton and dogleg: against SciPy, in other units, at bounds, with bad values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxsolve
from jaxsolve import Status
from jaxsolve.linear_solve import solve_cg

METHODS = {
    "lm": jaxsolve.LevenbergMarquardt,
    "geodesic": functools.partial(jaxsolve.LevenbergMarquardt, geodesic=True),
    "gauss-newton": jaxsolve.GaussNewton,
    "dogleg": jaxsolve.Dogleg,
}
# The other methods share all but the step with the first.
ALL = [pytest.param(make, id=name, marks=[pytest.mark.slow] * (name != "lm")) for name, make in METHODS.items()]
each_method = pytest.mark.parametrize("make", ALL)

T = np.linspace(0.0, 2.0, 15)
Y = 2.5 * np.exp(-1.3 * T) + 0.4 + 0.05 * np.cos(7 * T)
OUTLIERS = Y + np.where(np.arange(15) % 6 == 2, 1.5, 0.0)
START = np.array([1.0, 1.0, 0.0])


def decay(x, y=None, xp=jnp):
    """Residuals of an exponential decay; they are not zero at the solution."""
    t = xp.asarray(T, x.dtype)
    y = xp.asarray(Y, x.dtype) if y is None else y
    return x[0] * xp.exp(-x[1] * t) + x[2] - y


def by_scipy(y=Y, start=START, **options):
    tols = dict.fromkeys(("ftol", "xtol", "gtol"), 1e-15)
    return scipy.optimize.least_squares(lambda x: decay(x, y, np), start, **tols, **options)


@each_method
def test_a_fit_is_that_of_scipy(make):
    params, state = make(decay, tol=1e-9, maxiter=100).run(START)
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params, by_scipy().x, rtol=1e-7)
    np.testing.assert_allclose(state.value, by_scipy().cost, rtol=1e-12)


# ---- Units --------------------------------------------------------------------------------------------------------

EXPONENTS = np.array([(0, 0, 0), (-30, 0, 0), (30, 0, 0), (0, 20, 0), (0, -20, 0), (0, 0, 20), (5, -7, 12)])


def in_units(x, c, u):
    return c * decay(x / u)


@pytest.mark.parametrize("dtype", [np.float64, pytest.param(np.float32, marks=[pytest.mark.float32, pytest.mark.slow])])
@pytest.mark.parametrize(
    "make",
    [
        *ALL,
        pytest.param(
            functools.partial(jaxsolve.LevenbergMarquardt, solver="cholesky"), id="cholesky", marks=pytest.mark.slow
        ),
    ],
)
def test_units_of_residuals_and_of_each_variable_change_nothing(make, dtype):
    # The gradient has the square of the unit of the residuals.
    powers = np.exp2(EXPONENTS if dtype == np.float64 else EXPONENTS // 2).astype(dtype)
    units = jnp.asarray(np.stack([powers[:, 1], powers[:, 2], powers[:, 1]], axis=1))
    solver = make(in_units, tol=0.0, maxiter=6)
    run = jax.jit(jax.vmap(lambda c, u: solver.run(jnp.asarray(START, dtype) * u, c, u)))
    params, state = run(jnp.asarray(powers[:, 0]), units)
    np.testing.assert_array_equal(params / units, np.broadcast_to(params[0], params.shape))
    for field in ("iter_num", "num_fun_eval", "num_jac_eval", "status"):
        np.testing.assert_array_equal(getattr(state, field), getattr(state, field)[0])


@pytest.mark.slow
def test_units_change_nothing_with_a_loss_and_bounds():
    powers = np.exp2(EXPONENTS)

    def run(c, u):
        bounds = (jnp.asarray([0.0, 0.0, 0.5]) * u, jnp.inf)
        solver = jaxsolve.LevenbergMarquardt(
            in_units, loss="soft_l1", f_scale=0.1 * c, bounds=bounds, tol=0.0, maxiter=8
        )
        return solver.run(jnp.asarray(START) * u, c, u).params / u

    params = jax.jit(jax.vmap(run))(jnp.asarray(powers[:, 0]), jnp.asarray(powers[:, [1, 2, 1]]))
    np.testing.assert_array_equal(params, np.broadcast_to(params[0], params.shape))


# ---- Losses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss", [*[pytest.param(x, marks=pytest.mark.slow) for x in ("huber", "cauchy", "arctan")], "soft_l1"]
)
def test_robust_losses_are_those_of_scipy(loss):
    solver = jaxsolve.LevenbergMarquardt(decay, loss=loss, f_scale=0.2, tol=1e-10, maxiter=200)
    params, state = solver.run(START, OUTLIERS)
    assert int(state.status) == Status.CONVERGED
    reference = by_scipy(OUTLIERS, start=1.01 * np.asarray(params), loss=loss, f_scale=0.2)
    np.testing.assert_allclose(params, reference.x, rtol=1e-5)
    np.testing.assert_allclose(state.value, reference.cost, rtol=1e-10)


def test_a_robust_loss_is_minimized_to_rounding_errors():
    """Where Huber's loss has no curvature, residuals of the model are 1e8 times those of the other rows."""
    state = jaxsolve.LevenbergMarquardt(decay, loss="huber", f_scale=0.2, tol=1e-13, maxiter=40).run(START, OUTLIERS)[1]
    assert int(state.status) == Status.CONVERGED


@pytest.mark.slow
def test_a_loss_of_your_own_is_a_function_of_the_squares():
    given = jaxsolve.LevenbergMarquardt(decay, loss=jnp.log1p, tol=1e-10, maxiter=200).run(START, OUTLIERS)
    named = jaxsolve.LevenbergMarquardt(decay, loss="cauchy", tol=1e-10, maxiter=200).run(START, OUTLIERS)
    np.testing.assert_array_equal(given.params, named.params)


# ---- Bounds -------------------------------------------------------------------------------------------------------


def test_bounds_one_sided_infinite_and_equal_are_kept_at_every_evaluation():
    lower, upper = np.array([-np.inf, 1.1, 0.5]), np.array([2.0, 1.1, np.inf])

    def inside_only(x):
        outside = jnp.any((x < lower) | (x > upper))
        return jnp.where(outside, jnp.nan, decay(x))

    params, state = jaxsolve.LevenbergMarquardt(inside_only, bounds=(lower, upper), tol=1e-9).run(START)
    assert int(state.status) == Status.CONVERGED
    # SciPy takes no equal bounds: the second variable is left out.
    free = scipy.optimize.least_squares(
        lambda z: decay(np.array([z[0], 1.1, z[1]]), Y, np),
        [1.0, 0.6],
        bounds=([-np.inf, 0.5], [2.0, np.inf]),
        gtol=1e-15,
    )
    np.testing.assert_allclose(params, [free.x[0], 1.1, 0.5], rtol=1e-6)


def test_bounds_that_cannot_be_are_refused():
    for bounds in ((1.0, 0.0), (np.zeros(3), np.array([1.0, -1.0, 1.0])), 1.0, (0.0, 1.0, 2.0)):
        with pytest.raises(ValueError, match="bounds"):
            jaxsolve.LevenbergMarquardt(decay, bounds=bounds)
    with pytest.raises(ValueError, match="bounds: lower"):
        jaxsolve.LevenbergMarquardt(decay, bounds=(np.zeros(2), np.inf)).run(START)


# ---- Derivatives --------------------------------------------------------------------------------------------------


def differences(function, at, step=1e-5):
    """Central differences, a column for each entry."""
    columns = [(function(at + step * e) - function(at - step * e)) / (2 * step) for e in np.eye(len(at))]
    return np.stack(columns, axis=-1)


@pytest.mark.parametrize("loss", ["linear", pytest.param("soft_l1", marks=pytest.mark.slow)])
def test_derivatives_at_nonzero_residuals_and_bounds(loss):
    """In the data, a bound and the scale of the loss; first order in both modes, second by one of the other."""

    def solution(z):
        y = jnp.asarray(OUTLIERS) * z[0] + z[1]
        bounds = (jnp.stack([-jnp.inf, -jnp.inf, z[2]]), jnp.inf)
        solver = jaxsolve.LevenbergMarquardt(decay, bounds=bounds, loss=loss, f_scale=z[3], tol=1e-12, maxiter=300)
        return solver.run(jnp.asarray(START), y).params

    at = np.array([1.0, 0.1, 1.2, 0.3])
    value, forward, reverse, second = jax.jit(
        lambda z: (solution(z), jax.jacfwd(solution)(z), jax.jacrev(solution)(z), jax.jacfwd(jax.jacrev(solution))(z))
    )(at)
    assert value[2] == at[2]
    run, gradient = jax.jit(solution), jax.jit(jax.jacfwd(solution))
    np.testing.assert_allclose(forward, differences(run, at), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(reverse, forward, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(second, differences(gradient, at), rtol=1e-4, atol=1e-4)


# ---- Other forms of the same problem ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"solver": "qr"},
        {"solver": "lu"},
        {"solver": "cholesky"},
        {"solver": "inv"},
        {"solver": solve_cg},
        {"materialize_jac": False},
        {"solver": solve_cg, "materialize_jac": True, "loss": "huber", "f_scale": 100.0},
        {"jac_fun": jax.jacrev(decay)},
    ],
    ids=["qr", "lu", "cholesky", "inv", "cg", "matrix-free", "cg-huber", "jac_fun"],
)
def test_every_way_to_compute_a_step_ends_at_the_same_point(options):
    params, state = jaxsolve.LevenbergMarquardt(decay, tol=1e-9, maxiter=100, **options).run(START)
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params, by_scipy().x, rtol=1e-6)


@pytest.mark.slow
def test_pytrees_of_params_and_residuals_and_their_jacobian():
    def residuals(p, y):
        flat = decay(jnp.stack([p["a"][0, 0], p["b"], p["a"][1, 0]]), y)
        return {"first": flat[:4].reshape(2, 2), "rest": (flat[4:],)}

    init = {"a": jnp.array([[1.0], [0.0]]), "b": 1.0}
    for jac_fun in (None, jax.jacfwd(residuals)):
        params, state = jaxsolve.LevenbergMarquardt(residuals, jac_fun=jac_fun, tol=1e-9).run(init, Y)
        np.testing.assert_allclose([params["a"][0, 0], params["b"], params["a"][1, 0]], by_scipy().x, rtol=1e-7)
        assert state.residual["first"].shape == (2, 2)
        assert state.jac.shape == (15, 3)
    wrong = jaxsolve.LevenbergMarquardt(residuals, jac_fun=lambda p, y: jnp.zeros((15, 3)))
    with pytest.raises(ValueError, match="jac_fun"):
        wrong.run(init, Y)


@pytest.mark.slow
@each_method
def test_fewer_residuals_than_parameters_and_dependent_columns(make):
    def one_equation(x):
        return jnp.stack([x[0] * x[1] - 2.0 + x[2] ** 2])

    def dependent(x):
        return jnp.stack([x[0] + x[1] - 3.0, jnp.sin(x[0] + x[1]), 0.0 * x[2]])

    params, state = make(one_equation, tol=1e-9, maxiter=100).run(jnp.array([1.0, 0.5, 0.2]))
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(one_equation(params), 0.0, atol=1e-8)
    params, state = make(dependent, tol=1e-9, maxiter=100).run(jnp.array([1.0, 2.5, 7.0]))
    assert int(state.status) == Status.CONVERGED
    assert params[2] == 7.0


# ---- Ends ---------------------------------------------------------------------------------------------------------


@each_method
def test_values_that_are_not_finite_are_not_accepted(make):
    """JAXopt's method ends with NaN here."""
    params, state = make(lambda x: jnp.log(x) + 4.0, tol=1e-9, maxiter=100).run(1.5)
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params, np.exp(-4.0), rtol=1e-9)


@pytest.mark.slow
@each_method
def test_where_nothing_else_is_finite_the_initial_point_is_returned(make):
    def only_here(x):
        return jnp.where(x == 2.0, x, jnp.nan)

    params, state = make(only_here, maxiter=200).run(2.0)
    assert params == 2.0 and np.isfinite(state.value)
    assert int(state.status) in (Status.NONFINITE, Status.STALLED)
    params, state = make(lambda x: jnp.sqrt(x) + 1.0, maxiter=200).run(0.0)  # its derivative is infinite
    assert params == 0.0
    assert int(state.status) == Status.NONFINITE


@pytest.mark.slow
@each_method
def test_a_tolerance_below_rounding_ends_the_run(make):
    state = make(decay, tol=0.0, maxiter=1000).run(START).state
    assert int(state.status) in (Status.STALLED, Status.CONVERGED)
    assert int(state.iter_num) < 60
    assert float(state.error) < 1e-12


@each_method
def test_residuals_that_are_small_differences_of_large_numbers(make):
    """Misra1d of NIST's collection: costs tell nothing long before the gradient is as small as it can be."""
    x = np.array([77.6, 114.9, 141.1, 190.8, 239.9, 289.0, 332.8, 378.4, 434.8, 477.3, 536.8, 593.1, 689.1, 760.0])
    y = np.array([10.07, 14.73, 17.94, 23.93, 29.61, 35.18, 40.02, 44.82, 50.76, 55.05, 61.01, 66.4, 75.47, 81.78])
    solver = make(lambda b: b[0] * b[1] * x / (1.0 + b[1] * x) - y, tol=1e-7, maxiter=100)
    params, state = solver.run(jnp.array([500.0, 1e-4]))
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params, [4.3736970754e02, 3.0227324449e-04], rtol=1e-10)


@pytest.mark.slow
def test_derivative_in_float32_at_condition_1e4():
    rng = np.random.default_rng(0)
    left, right = np.linalg.qr(rng.normal(size=(30, 6)))[0], np.linalg.qr(rng.normal(size=(6, 6)))[0]
    matrix = jnp.asarray(left @ np.diag(np.geomspace(1.0, 1e-4, 6)) @ right.T, jnp.float32)
    y = matrix @ jnp.ones(6, jnp.float32) + jnp.asarray(0.01 * rng.normal(size=30), jnp.float32)
    solver = jaxsolve.LevenbergMarquardt(lambda x, y: matrix @ x - y, tol=0.0, rtol=1e-6, maxiter=60)
    want = np.linalg.pinv(np.asarray(matrix, np.float64))
    for mode in (jax.jacfwd, jax.jacrev):
        got = jax.jit(mode(lambda y: solver.run(jnp.zeros(6, jnp.float32), y).params))(y)
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-3 * np.max(np.abs(want)))


def test_counts_and_stop_criteria():
    linear = jaxsolve.LevenbergMarquardt(lambda x: jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]]) @ x - 1.0, tol=1e-6)
    state = linear.run(jnp.zeros(2)).state
    assert (int(state.iter_num), int(state.num_fun_eval), int(state.num_jac_eval)) == (2, 3, 3)
    by_gradient = jaxsolve.LevenbergMarquardt(decay, stop_criterion="madsen-nielsen", gtol=1e-8, xtol=0.0).run(START)
    assert int(by_gradient.state.status) == Status.CONVERGED
    np.testing.assert_allclose(by_gradient.state.error, np.max(np.abs(by_gradient.state.gradient)))
    assert float(by_gradient.state.error) <= 1e-8
    by_step = jaxsolve.LevenbergMarquardt(decay, stop_criterion="madsen-nielsen", gtol=0.0, xtol=1e-2).run(START)
    assert int(by_step.state.status) == Status.CONVERGED
    assert int(by_step.state.iter_num) < int(by_gradient.state.iter_num)


def test_options_that_cannot_be_are_refused():
    for options, word in (
        ({"loss": "absolute"}, "loss"),
        ({"f_scale": 0.0}, "f_scale"),
        ({"solver": "svd"}, "solver"),
        ({"solver": "qr", "materialize_jac": False}, "materialize_jac"),
        ({"stop_criterion": "never"}, "stop_criterion"),
        ({"damping_parameter": 0.0}, "damping_parameter"),
    ):
        with pytest.raises(ValueError, match=word):
            jaxsolve.LevenbergMarquardt(decay, **options)
    with pytest.raises(TypeError, match="jac_fun"):
        jaxsolve.LevenbergMarquardt(decay, jac_fun=3)
    with pytest.raises(TypeError, match="floating-point residuals"):
        jaxsolve.LevenbergMarquardt(lambda x: (x, 3)).run(START)


def test_a_least_squares_step_and_its_derivatives():
    """Against the normal equations; at a right-hand side of 0 too, where that of the factored matrix is singular."""
    from jaxsolve.solvers.least_squares._damped import _least_squares

    A, b = np.random.default_rng(0).normal(size=(7, 3)), np.random.default_rng(1).normal(size=7)
    by_normal_equations = lambda A, b: jnp.linalg.solve(A.T @ A, A.T @ b)
    for rhs in (b, 0 * b):
        data = (jnp.asarray(A), jnp.asarray(rhs))
        for derivative in (jax.jacfwd, jax.jacrev, jax.hessian):
            found, expected = (derivative(f, argnums=(0, 1))(*data) for f in (_least_squares, by_normal_equations))
            jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-13), found, expected)
