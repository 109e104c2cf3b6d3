"""SciPy's solvers: methods, transformations, derivatives, functions of the host, messages, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

import jaxsolve
from jaxsolve import Status


def rosenbrock(x, a):
    return jnp.sum((a - x[:-1]) ** 2 + 100.0 * (x[1:] - x[:-1] ** 2) ** 2)


def decay(p, y):
    t = jnp.linspace(0.0, 2.0, 8)
    return {"fit": p["scale"] * jnp.exp(-p["rate"] * t) - y}


DECAY = 2.0 * np.exp(-1.5 * np.linspace(0.0, 2.0, 8)) + 0.01 * np.sin(np.arange(8.0))
START = {"scale": jnp.asarray(1.0), "rate": jnp.asarray(1.0)}


@pytest.mark.parametrize(
    "method",
    [
        "BFGS",
        "Newton-CG",
        "trust-exact",
        "Nelder-Mead",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("Powell", "CG", "L-BFGS-B", "TNC", "SLSQP", "trust-constr", "trust-ncg", "trust-krylov")
        ),
    ],
)
def test_methods_of_minimize(method):
    """The run is that of SciPy itself, evaluation by evaluation."""
    params, state = jaxsolve.ScipyMinimize(rosenbrock, method=method).run(jnp.zeros(3), 1.0)
    assert int(state.status) == Status.CONVERGED and bool(state.success)
    np.testing.assert_allclose(params, 1.0, atol=5e-3)
    fun = jax.jit(lambda x: rosenbrock(x, 1.0))
    gradient, hessian = jax.jit(jax.grad(fun)), jax.jit(jax.hessian(fun))
    derivatives = {} if method in ("Nelder-Mead", "Powell") else {"jac": lambda x: np.asarray(gradient(x))}
    if method in ("Newton-CG", "trust-exact", "trust-ncg", "trust-krylov", "trust-constr"):
        derivatives["hess"] = lambda x: np.asarray(hessian(x))
    limit = {"maxfun" if method == "TNC" else "maxiter": 500}
    direct = optimize.minimize(lambda x: float(fun(x)), np.zeros(3), method=method, options=limit, **derivatives)
    if method not in ("Newton-CG", "trust-ncg", "trust-krylov", "trust-constr"):  # products, and not a matrix
        assert int(state.num_fun_eval) == direct.nfev
        assert int(state.iter_num) == getattr(direct, "nit", 0)
    assert state.message == direct.message
    # TNC goes on until values differ by rounding, and both stop at another digit.
    np.testing.assert_allclose(params, direct.x, atol=1e-3 if method == "TNC" else 1e-5)
    np.testing.assert_allclose(state.fun_val, rosenbrock(params, 1.0))
    assert (state.hess_inv is not None) == (method in ("BFGS", "L-BFGS-B"))


def test_transformations_and_derivatives():
    solver = jaxsolve.ScipyMinimize(rosenbrock, method="BFGS", options={"gtol": 1e-8})
    run = lambda a: solver.run(jnp.zeros(2), a)
    solution = lambda a: run(a).params  # (a, a^2)
    a = jnp.asarray(1.2)
    for mode in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jax.jit(mode(solution))(a), [1.0, 2.4], rtol=1e-6)
    np.testing.assert_allclose(jax.jacfwd(jax.jacrev(solution))(a), [0.0, 2.0], atol=1e-5)
    batch = jax.jit(jax.vmap(run))(jnp.array([0.5, 1.2, jnp.nan]))
    np.testing.assert_allclose(batch.params[:2], [[0.5, 0.25], [1.2, 1.44]], atol=1e-5)
    assert [int(s) for s in batch.state.status] == [Status.CONVERGED, Status.CONVERGED, Status.NONFINITE]
    slopes = jax.vmap(jax.jacrev(solution))(jnp.array([0.5, 1.2]))
    np.testing.assert_allclose(slopes, [[1.0, 1.0], [1.0, 2.4]], atol=1e-4)


def test_options_are_not_changed_and_auxiliary_output_comes_back():
    options = {"gtol": 1e-8}
    heard = []
    solver = jaxsolve.ScipyMinimize(
        lambda p, a: (jnp.sum((p["x"] - a) ** 2), {"x": 2 * p["x"]}),
        has_aux=True,
        options=options,
        callback=lambda p: heard.append(p["x"].shape),
    )
    state = solver.run({"x": jnp.zeros(2)}, jnp.array([1.0, 2.0])).state
    assert options == {"gtol": 1e-8}
    assert heard and set(heard) == {(2,)}
    np.testing.assert_allclose(state.aux["x"], [2.0, 4.0], atol=1e-6)
    assert int(solver.run({"x": jnp.ones(2)}, jnp.ones(2)).state.num_fun_eval) == 1


def test_what_a_function_captures_is_seen_at_every_run():
    box = {"target": 1.0}
    solver = jaxsolve.ScipyMinimize(lambda x: jnp.sum((x - box["target"]) ** 2))
    np.testing.assert_allclose(solver.run(jnp.zeros(2)).params, 1.0, atol=1e-6)
    box["target"] = 3.0
    np.testing.assert_allclose(solver.run(jnp.zeros(2)).params, 3.0, atol=1e-6)
    captured = lambda t: jaxsolve.ScipyMinimize(lambda x: jnp.sum((x - t) ** 2)).run(jnp.zeros(2)).params.sum()
    np.testing.assert_allclose(jax.grad(captured)(2.0), 2.0, rtol=1e-6)


def test_functions_of_the_host():
    def on_host(x, y):
        x = np.array(x)  # not of jax
        return float(np.sum((x - np.asarray(y)) ** 4))

    for method in ("BFGS", "Nelder-Mead"):
        params, state = jaxsolve.ScipyMinimize(on_host, method=method, jit=False).run(
            jnp.zeros(2), np.array([1.0, 2.0])
        )
        np.testing.assert_allclose(params, [1.0, 2.0], atol=0.02)
        assert int(state.num_fun_eval) > 5 and float(state.error) == np.inf
    both = lambda x: (float(np.sum(np.array(x) ** 2)), 2 * np.array(x))
    state = jaxsolve.ScipyMinimize(both, value_and_grad=True, jit=False).run(jnp.ones(2)).state
    assert int(state.num_fun_eval) <= 4
    root = jaxsolve.ScipyRootFinding(lambda x: jnp.asarray(np.array(x) ** 3 - 8.0), jit=False)
    np.testing.assert_allclose(root.run(jnp.ones(1)).params, 2.0, atol=1e-6)
    fit = jaxsolve.ScipyLeastSquares(lambda x: jnp.asarray(np.array(x) - 3.0), jit=False)
    np.testing.assert_allclose(fit.run(jnp.ones(1)).params, 3.0, atol=1e-6)


# ---- Bounds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", [None, *(pytest.param(name, marks=pytest.mark.slow) for name in ("TNC", "SLSQP", "trust-constr"))]
)
def test_bounds(method):
    def fun(x, y):
        return jnp.sum(jnp.where((x < -1e-12) | (x > 1.5 + 1e-12), jnp.nan, (x - y) ** 2))

    solver = jaxsolve.ScipyBoundedMinimize(fun, method=method, tol=1e-10)
    run = lambda y, upper: solver.run(0.5 * jnp.ones(3), (0.0, upper), y).params
    y = jnp.array([-1.0, 0.7, 4.0])
    tol = 2e-3 if method == "trust-constr" else 1e-6  # an interior point
    np.testing.assert_allclose(run(y, 1.5), [0.0, 0.7, 1.5], atol=tol)
    if method is not None:
        return
    in_y, in_upper = jax.jacrev(run, argnums=(0, 1))(y, 1.5)
    np.testing.assert_allclose(in_y, np.diag([0.0, 1.0, 0.0]), atol=1e-8)
    np.testing.assert_allclose(in_upper, [0.0, 0.0, 1.0], atol=1e-8)
    with pytest.raises(ValueError, match="lower must not exceed upper"):
        solver.run(jnp.ones(3), (1.0, 0.0), y)
    with pytest.raises(ValueError, match="bounds must be the pair"):
        solver.run(jnp.ones(3), None, y)


def test_least_squares_with_bounds_and_losses():
    y = jnp.asarray(DECAY)
    free = jaxsolve.ScipyLeastSquares(decay, method="lm")
    params, state = free.run(START, y)
    direct = optimize.curve_fit(lambda t, a, b: a * np.exp(-b * t), np.linspace(0.0, 2.0, 8), DECAY, [1.0, 1.0])[0]
    np.testing.assert_allclose([params["scale"], params["rate"]], direct, rtol=1e-5)
    np.testing.assert_allclose(state.cost_val, 0.5 * np.sum(np.square(state.fun_val["fit"])))
    assert int(state.num_jac_eval) > 0 and state.message
    bounded = jaxsolve.ScipyBoundedLeastSquares(decay)
    solution = lambda upper: bounded.run(START, (0.0, {"scale": jnp.inf, "rate": upper}), y).params
    np.testing.assert_allclose(solution(1.2)["rate"], 1.2, rtol=1e-6)
    slope = jax.grad(lambda u: solution(u)["scale"])(1.2)
    difference = (solution(1.2 + 1e-4)["scale"] - solution(1.2 - 1e-4)["scale"]) / 2e-4
    np.testing.assert_allclose(slope, difference, rtol=1e-3)
    outlier = y.at[3].set(5.0)
    for loss in ("soft_l1", "huber", "cauchy", "arctan"):
        robust = jaxsolve.ScipyLeastSquares(decay, loss=loss, options={"f_scale": 0.05, "xtol": 1e-10, "ftol": 1e-12})
        params, state = robust.run(START, outlier)
        assert float(state.error) < 1e-4  # of our cost at SciPy's solution
        assert abs(float(params["scale"]) - 2.0) < 0.05


# ---- Roots --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["hybr", "lm", pytest.param("krylov", marks=pytest.mark.slow)])
def test_methods_of_root(method):
    fun = lambda x, a: jnp.stack([x[0] + x[1] - a, x[0] * x[1] - 2.0])
    solver = jaxsolve.ScipyRootFinding(fun, method=method)
    params, state = solver.run(jnp.array([0.5, 2.5]), 3.0)
    np.testing.assert_allclose(params, [1.0, 2.0], atol=1e-4)
    assert int(state.status) == Status.CONVERGED and state.message
    slopes = jax.jacobian(lambda a: solver.run(jnp.array([0.5, 2.5]), a).params)(3.0)
    np.testing.assert_allclose(slopes, [-1.0, 2.0], atol=1e-3)


def test_success_at_a_point_that_is_no_root():
    """SciPy's `lm` reports success at the least of a norm that is not 0."""
    solver = jaxsolve.ScipyRootFinding(lambda x: jnp.stack([x[0] ** 2 + 1.0, x[1] - 1.0]), method="lm")
    state = solver.run(jnp.array([2.0, 0.0])).state
    assert bool(state.success) and int(state.status) == Status.STALLED
    # Near a root from the start.
    state = jaxsolve.ScipyRootFinding(lambda x: x - 1.0).run(jnp.array([1.0 + 1e-12])).state
    assert int(state.status) == Status.CONVERGED


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="method must be one of"):
        jaxsolve.ScipyMinimize(rosenbrock, method="newton")
    with pytest.raises(ValueError, match="implicit_diff=True only"):
        jaxsolve.ScipyRootFinding(rosenbrock, implicit_diff=False)
    with pytest.raises(TypeError, match="tol is traced"):
        jax.jit(lambda tol: jaxsolve.ScipyMinimize(rosenbrock, tol=tol).run(jnp.zeros(2), 1.0).params)(1e-3)
    given = jaxsolve.ScipyMinimize(rosenbrock, tol=jnp.asarray(1e-3)).run(jnp.zeros(2), 1.0)
    assert int(given.state.status) == Status.CONVERGED
    with pytest.raises(TypeError, match="options must be a dict"):
        jaxsolve.ScipyLeastSquares(decay, options=3)
    with pytest.raises(TypeError, match="real parameters"):
        jaxsolve.ScipyMinimize(lambda x: jnp.sum(jnp.abs(x))).run(jnp.ones(2, complex))
    with pytest.raises(jax.errors.JaxRuntimeError, match="Unknown solver options"):
        # Warnings are errors here.
        jax.block_until_ready(jaxsolve.ScipyMinimize(rosenbrock, options={"nonsense": 1}).run(jnp.zeros(2), 1.0).params)
