"""InteriorPointNLP and AugmentedLagrangian: known optima, other people's solvers, derivatives, units, endings."""

import importlib.util
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxsolve
from jaxsolve import AugmentedLagrangian, InteriorPointNLP, KKTSolution, Status
from tests.hock_schittkowski import PROBLEMS

SOLVERS = (InteriorPointNLP, AugmentedLagrangian)
# They have no multipliers, or another local minimum is as good an answer.
NO_MULTIPLIERS = ("HS13",)


def check_solution(problem, params, state):
    """Feasible, as good as the best known, and what the status says."""
    scale = max(1, abs(problem.best))
    assert int(state.status) == Status.CONVERGED, (problem.name, Status(int(state.status)).name)
    assert float(state.constr_violation) <= 1e-6
    assert abs(float(state.value) - problem.best) <= 1e-5 * scale
    assert bool(state.is_minimum)


def check_multipliers(problem, params, state):
    """Stationarity with the signs that are documented."""
    f, h, g = problem.functions()
    slope = jax.grad(f)(params.primal) + state.dual_bounds
    for constraint, dual in ((h, params.dual_eq), (g, params.dual_ineq)):
        if constraint is not None:
            slope = slope + jax.vjp(constraint, params.primal)[1](dual)[0]
    size = 1 + float(jnp.max(jnp.abs(jax.grad(f)(params.primal))))
    np.testing.assert_allclose(slope / size, 0, atol=1e-7)
    if params.dual_ineq is not None:
        assert np.all(params.dual_ineq >= -1e-9 * size)
        np.testing.assert_allclose(params.dual_ineq * g(params.primal), 0, atol=1e-6 * size)


@pytest.mark.parametrize("name", ["HS71"])
def test_a_program_with_everything(name):
    problem = PROBLEMS[name]
    params, state = InteriorPointNLP(*problem.functions()).run(problem.start, bounds=problem.bounds)
    check_solution(problem, params, state)
    check_multipliers(problem, params, state)
    assert int(state.iter_num) <= 15
    assert state.dual_bounds[0] < 0  # at a lower bound
    np.testing.assert_array_equal(state.dual_bounds[1:], 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PROBLEMS if name not in NO_MULTIPLIERS])
def test_hock_and_schittkowski(name):
    problem = PROBLEMS[name]
    params, state = InteriorPointNLP(*problem.functions()).run(problem.start, bounds=problem.bounds)
    check_solution(problem, params, state)
    check_multipliers(problem, params, state)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["HS7", "HS11", "HS12", "HS14", "HS22", "HS35", "HS40", "HS43", "HS65", "HS71", "HS76"]
)
def test_augmented_lagrangian_on_hock_and_schittkowski(name):
    problem = PROBLEMS[name]
    params, state = AugmentedLagrangian(*problem.functions()).run(problem.start, bounds=problem.bounds)
    check_solution(problem, params, state)
    check_multipliers(problem, params, state)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["slsqp", "trust-constr"])
def test_scipy_on_a_program_with_everything(method):
    problem = PROBLEMS["HS71"]
    solver = jaxsolve.ScipyConstrainedMinimize(*problem.functions(), method=method)
    params, state = solver.run(problem.start, bounds=problem.bounds)
    check_solution(problem, params, state)
    check_multipliers(problem, params, state)


def test_ipopt_that_is_not_installed(monkeypatch):
    monkeypatch.delitem(sys.modules, "cyipopt", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="cyipopt"):
        jaxsolve.ScipyConstrainedMinimize(jnp.sum, method="ipopt")


@pytest.mark.slow
def test_ipopt_gets_what_it_documents(monkeypatch):
    """By a stand-in of the same signature, which checks all derivatives, and lets trust-constr solve the program."""
    seen = {}

    def minimize_ipopt(fun, x0, jac=None, hess=None, bounds=None, constraints=(), tol=None, options=None):
        seen.update(options=options, bounds=bounds, kinds=[part["type"] for part in constraints])
        x, step = np.array([1.5, 4.0, 4.0, 1.5]), 1e-6 * np.eye(4)

        def slopes(function):
            return np.stack([(function(x + e) - function(x - e)) / 2e-6 for e in step], -1)

        np.testing.assert_allclose(fun(x)[1], slopes(lambda x: fun(x)[0]), rtol=1e-7)
        np.testing.assert_allclose(hess(x), slopes(lambda x: fun(x)[1]), atol=1e-6)
        for part in constraints:
            v = np.array([0.7])
            np.testing.assert_allclose(part["jac"](x), slopes(lambda x, part=part: np.atleast_1d(part["fun"](x))))
            pulled = slopes(lambda x, part=part, v=v: v @ np.atleast_2d(part["jac"](x)))
            np.testing.assert_allclose(part["hess"](x, v), pulled, atol=1e-6)
        rows = [
            scipy.optimize.NonlinearConstraint(
                part["fun"], 0, 0 if part["type"] == "eq" else np.inf, part["jac"], part["hess"]
            )
            for part in constraints
        ]
        box = scipy.optimize.Bounds(*np.transpose(bounds), keep_feasible=True)
        settings = {"maxiter": options["maxiter"]}
        return scipy.optimize.minimize(
            fun, x0, jac=jac, hess=hess, bounds=box, constraints=rows, tol=tol, options=settings, method="trust-constr"
        )

    monkeypatch.setitem(sys.modules, "cyipopt", types.SimpleNamespace(minimize_ipopt=minimize_ipopt))
    problem = PROBLEMS["HS71"]
    own = {"mu_strategy": "adaptive"}
    solver = jaxsolve.ScipyConstrainedMinimize(*problem.functions(), method="ipopt", options=own)
    params, state = solver.run(problem.start, bounds=problem.bounds)
    check_solution(problem, params, state)
    check_multipliers(problem, params, state)
    assert seen["kinds"] == ["eq", "ineq"] and seen["bounds"] == [(1.0, 5.0)] * 4
    assert seen["options"] == {"bound_relax_factor": 0.0, "maxiter": 500, **own}


# ---- Derivatives --------------------------------------------------------------------------------------------------


def _program(x, t):
    return t[0] * x[0] * x[3] * (x[0] + x[1] + x[2]) + x[2]


def _sphere(x, t):
    return x @ x - t[2]


def _product(x, t):
    return t[1] - jnp.prod(x)


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
def test_derivatives_against_differences(solver):
    """Of the solution, the value and all multipliers, in costs, constraints and bounds; forward, reverse and second."""
    run = solver(_program, _sphere, _product).run
    start, theta = jnp.array([1.0, 5, 5, 1]), jnp.array([1.0, 25, 40, 1])

    def everything(t):
        params, state = run(start, t, bounds=(t[3], 5.0))
        return jnp.concatenate(
            [params.primal, params.dual_eq[None], params.dual_ineq[None], state.dual_bounds, state.value[None]]
        )

    solution = jax.jit(everything)
    steps = 1e-5 * np.eye(4)
    differences = np.stack([(solution(theta + e) - solution(theta - e)) / 2e-5 for e in steps], -1)
    forward, reverse = jax.jit(lambda t: (jax.jacfwd(everything)(t), jax.jacrev(everything)(t)))(theta)
    np.testing.assert_allclose(forward, differences, atol=1e-7)
    np.testing.assert_allclose(reverse, forward, atol=1e-12)
    # The value's derivative is that of the Lagrangian.
    np.testing.assert_allclose(forward[-1, 1], solution(theta)[5], rtol=1e-10)

    first = jax.jit(jax.jacrev(everything))
    second = jax.jit(jax.jacfwd(jax.jacrev(everything)))(theta)
    differences = np.stack([(first(theta + e) - first(theta - e)) / 2e-5 for e in steps], -1)
    np.testing.assert_allclose(second, differences, atol=1e-6 * np.max(np.abs(differences)))


@pytest.mark.slow
def test_derivatives_beside_variables_that_vanish():
    """Entries of rounding size in the Jacobian and the Hessian, there or not, decide nothing."""

    def solution(t, noise):
        def cost(x, t):
            return x[4] ** 2 + x[5] ** 2 + noise * x[1] * x[2]

        def chain(x, t):
            v = x[1]
            steps = [x[0], v, x[2] - x[0] - 0.5 * v, x[3] - v - 0.5 * (x[4] - t * v), x[2] + x[3] + x[5] - t]
            return jnp.stack(steps) + noise * x[1] * jnp.roll(x[:5], 2)

        def wall(x, t):
            return t**2 / 8 - (x[3] ** 2 + x[2] ** 2)

        return InteriorPointNLP(cost, chain, wall).run(jnp.array([0.1, 0.2, 0.3, 0.4, 1.0, 0.1]), t)

    def both(t, noise):
        params, slopes = jax.jvp(lambda t: solution(t, noise).params, (t,), (1.0,))
        return params, slopes, solution(t, noise).state.status

    both = jax.jit(both)
    plain, noisy = both(1.0, 0.0), both(1.0, 1e-15)
    assert int(plain[2]) == int(noisy[2]) == Status.CONVERGED
    differences = (both(1.0 + 1e-5, 1e-15)[0].primal - both(1.0 - 1e-5, 1e-15)[0].primal) / 2e-5
    np.testing.assert_allclose(noisy[1].primal, differences, atol=1e-8)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(noisy), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


@pytest.mark.slow
def test_a_weakly_active_bound_has_the_mean_of_both_sides():
    solver = {weak: InteriorPointNLP(lambda x, t: (x - t) ** 2, weak=weak) for weak in ("half", "active", "inactive")}
    slope = {
        weak: float(jax.grad(lambda t, s=s: s.run(jnp.asarray(1.0), t, bounds=(0.0, jnp.inf)).params.primal)(0.0))
        for weak, s in solver.items()
    }
    np.testing.assert_allclose([slope["active"], slope["half"], slope["inactive"]], [0.0, 0.5, 1.0], atol=1e-6)


@pytest.mark.slow
def test_a_saddle_says_so_and_has_no_derivative():
    """A start on the ridge, of which the slope says nothing of the way down."""

    def solution(t):
        solver = InteriorPointNLP(lambda x, t: x[0] ** 2 - x[1] ** 2 + x[2] ** 2 + t * x[0], lambda x, t: x[2] - t)
        return solver.run(jnp.array([0.3, 0.0, 0.1]), t)

    (params, state), slope = jax.jit(lambda t: (solution(t), jax.grad(lambda t: solution(t).params.primal[0])(t)))(0.5)
    np.testing.assert_allclose(params.primal, [-0.25, 0, 0.5], atol=1e-7)
    assert not bool(state.is_minimum)
    assert float(slope) == 0


# ---- Batches and endings ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
def test_an_infeasible_element_of_a_batch_disturbs_nobody(solver):
    run = solver(lambda x, r: jnp.sum((x - 2.0) ** 2), None, lambda x, r: jnp.sum(x**2) - r).run
    radii = jnp.array([1.0, 4.0, -1.0, 0.25])

    def corner(r):
        params, state = run(jnp.array([0.5, 0.2]), r)
        return jnp.sum(params.primal), state.status

    sums, statuses = jax.jit(jax.vmap(corner))(radii)
    slopes = jax.jit(jax.vmap(jax.grad(lambda r: corner(r)[0])))(radii)
    good = np.array([0, 1, 3])
    np.testing.assert_array_equal(statuses[good], Status.CONVERGED)
    assert int(statuses[2]) == Status.LOCALLY_INFEASIBLE
    np.testing.assert_allclose(sums[good], np.sqrt(2 * radii[good]), rtol=1e-8)
    np.testing.assert_allclose(slopes[good], np.sqrt(2) / 2 / np.sqrt(radii[good]), rtol=1e-7)
    assert float(slopes[2]) == 0


@pytest.mark.slow
def test_statuses():
    def end(fun, *constraints, start=1.0, **kwargs):
        return InteriorPointNLP(fun, *constraints).run(jnp.full(2, start), **kwargs)

    nan = end(lambda x: jnp.sum(x) * jnp.nan)
    assert int(nan.state.status) == Status.NONFINITE
    np.testing.assert_array_equal(nan.params.primal, 1.0)
    assert int(end(lambda x: jnp.sum(x)).state.status) == Status.DIVERGED
    along = end(lambda x: -x[0] - x[1], None, lambda x: (x[0] - x[1]) ** 2 - 1)
    assert int(along.state.status) == Status.DIVERGED


@pytest.mark.slow
def test_how_far_a_program_must_be_from_feasible():
    """A contradiction above what the stop test forgives is told from slow convergence and from a double root."""
    solver = InteriorPointNLP(
        lambda x, gap, power: jnp.sum((x - 2) ** 2),
        lambda x, gap, power: jnp.stack([x[0] + x[1] - 1, (x[0] + x[1] - 1 - gap) ** power]),
    )
    run = jax.jit(lambda gap, power: solver.run(jnp.array([0.3, 0.2]), gap, power).state, static_argnums=1)
    for gap in (1.0, 1e-4, 1e-5):
        state = run(gap, 1)
        assert int(state.status) == Status.LOCALLY_INFEASIBLE, gap
        np.testing.assert_allclose(state.constr_violation, gap / 2, rtol=0.1)
    assert int(run(1e-16, 1).status) == Status.CONVERGED
    assert int(run(0.0, 2).status) != Status.LOCALLY_INFEASIBLE


@pytest.mark.slow
def test_constraints_that_curve_strongly():
    """Steps along them are short, but not so short that a run creeps to its last iteration; problem 46."""

    def loss(x):
        return (x[0] - x[1]) ** 2 + (x[2] - 1) ** 2 + (x[3] - 1) ** 4 + (x[4] - 1) ** 6

    def curves(x):
        return jnp.stack([x[0] ** 2 * x[3] + jnp.sin(x[3] - x[4]) - 1, x[1] + x[2] ** 4 * x[3] ** 2 - 2])

    state = InteriorPointNLP(loss, curves).run(jnp.array([0.5**0.5, 1.75, 0.5, 2, 2])).state
    assert int(state.status) == Status.CONVERGED and int(state.iter_num) <= 50
    assert float(state.value) <= 1e-5 and float(state.constr_violation) <= 1e-6


@pytest.mark.slow
def test_a_solution_without_multipliers_is_stalled_at():
    """Constraints that have no qualification at the solution: the end is near it, and is not said to be one."""
    problem = PROBLEMS["HS13"]
    params, state = InteriorPointNLP(*problem.functions()).run(problem.start, bounds=problem.bounds)
    assert int(state.status) == Status.STALLED
    assert int(state.iter_num) < 100
    assert float(state.constr_violation) <= 1e-6
    np.testing.assert_allclose(params.primal, [1, 0], atol=1e-2)


def test_functions_are_never_evaluated_outside_of_the_bounds():
    def root(x):  # NaN outside
        return jnp.sum(jnp.sqrt(x) * jnp.array([1.0, -1.0]) + 0.1 * x**2 - 0.3 * jnp.log1p(-x))

    params, state = InteriorPointNLP(root).run(jnp.array([-3.0, 7.0]), bounds=(0.0, jnp.array([0.5, 0.9])))
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params.primal[0], 0, atol=1e-7)


@pytest.mark.slow
def test_laws_of_scale():
    """Another unit of the objective, of a variable or of a constraint changes the solution by itself, and no count."""
    start, theta = jnp.array([1.0, 5, 5, 1]), jnp.array([1.0, 25, 40])

    def scaled(cost, units, row):
        f = lambda x, t: cost * _program(units * x, t)
        h = lambda x, t: row * _sphere(units * x, t)
        g = lambda x, t: _product(units * x, t) / row
        params, state = InteriorPointNLP(f, h, g).run(start / units, theta, bounds=(1 / units, 5 / units))
        return units * params.primal, row * params.dual_eq / cost, state.value / cost, state.iter_num

    units = jnp.array([1.0, 4.0, 2.0**-9, 64.0])
    plain = scaled(1.0, jnp.ones(4), 1.0)
    for cost, unit, row in ((2.0**20, jnp.ones(4), 1.0), (1.0, units, 1.0), (2.0**-7, units, 2.0**15)):
        other = scaled(cost, unit, row)
        assert int(other[-1]) == int(plain[-1])
        for a, b in zip(plain[:-1], other[:-1], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


def _from_the_origin(x, c, unit, cost):
    z = x / unit
    return cost * (jnp.sum((z - c) ** 4) + 0.3 * z[0] * z[1])


# Units of the first two variables, of the others, and of the objective.
_UNITS = np.array([(0, 0, 0), (-40, -40, 0), (40, 40, 0), (20, 0, 0), (0, -20, 0), (0, 0, -40), (0, 0, 40)])
_BOUNDS = np.array([0.0, 0.0, -np.inf, 0.0]), np.inf
_each = pytest.mark.parametrize("make", [InteriorPointNLP, AugmentedLagrangian])
_in_each_dtype = pytest.mark.parametrize("dtype", [pytest.param(np.float32, marks=pytest.mark.float32), np.float64])


def _at_the_origin(make, dtype):
    """A solver, the call of one of its methods in some units, and these units."""
    balance = lambda x, c, unit, cost: (x / unit) @ jnp.asarray([1.0, -1.0, 2.0, 1.0], x.dtype)
    units, costs = jnp.asarray(np.exp2(_UNITS[:, [0, 0, 1, 1]]), dtype), jnp.asarray(np.exp2(_UNITS[:, 2]), dtype)
    c = jnp.asarray([1.0, 2.0, -0.5, 0.7], dtype)

    def call(method, unit, cost):
        return method(jnp.zeros(4, dtype), c, unit, cost, bounds=_BOUNDS)

    return make(_from_the_origin, balance), call, units, costs


@_in_each_dtype
@_each
def test_units_that_variables_have_at_0(make, dtype):
    """Their bounds at 0 do not tell them, nor does an equation that holds there: the objective does."""
    solver, call, units, costs = _at_the_origin(make, dtype)

    def begin(unit, cost):
        state = call(solver.init_state, unit, cost)
        x = state.iterate.x if make is InteriorPointNLP else jnp.zeros_like(unit)
        return state.scaling.variables / unit, x, state.scaling.cost * cost

    for found in jax.jit(jax.vmap(begin))(units, costs):
        np.testing.assert_array_equal(found, np.broadcast_to(found[0], found.shape))


@pytest.mark.slow
@_in_each_dtype
@_each
def test_runs_from_0_have_no_unit(make, dtype):
    solver, call, units, costs = _at_the_origin(make, dtype)

    def solve(unit, cost):
        params, state = call(solver.run, unit, cost)
        return params.primal / unit, state.status, state.iter_num

    x, status, count = jax.jit(jax.vmap(solve))(units, costs)
    np.testing.assert_array_equal(status, Status.CONVERGED)
    np.testing.assert_array_equal(count, count[0])
    np.testing.assert_allclose(x, np.broadcast_to(x[0], x.shape), atol=1e-6 if dtype == np.float64 else 1e-3)


# ---- Arguments ----------------------------------------------------------------------------------------------------


def test_pytrees_warm_start_and_float32():
    def cost(p, t):
        return jnp.sum((p["a"] - t) ** 2) + jnp.sum((p["b"] + 1) ** 2)

    def balance(p, t):
        return {"total": jnp.sum(p["a"]) + jnp.sum(p["b"])}

    def caps(p, t):
        return [p["a"] - 0.5]

    solver, dtype = InteriorPointNLP(cost, balance, caps), jnp.float32
    start = {"a": jnp.zeros((2, 1), dtype), "b": jnp.ones(2, dtype)}
    bounds = ({"a": -1.0, "b": 0.0}, {"a": 1.0, "b": 2.0})
    bounds = jax.tree.map(lambda v: jnp.asarray(v, dtype), bounds)
    params, state = solver.run(start, jnp.asarray(2.0, dtype), bounds=bounds)
    assert int(state.status) == Status.CONVERGED
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(params))
    assert params.dual_ineq[0].shape == (2, 1) and set(params.dual_eq) == {"total"}
    np.testing.assert_allclose(params.primal["a"], 0, atol=1e-3)
    np.testing.assert_allclose(params.primal["b"], 0, atol=1e-3)
    assert isinstance(params, KKTSolution)


@pytest.mark.slow
def test_a_warm_start_takes_fewer_steps():
    problem = PROBLEMS["HS71"]
    solver = InteriorPointNLP(_program, _sphere, _product)
    cold = solver.run(problem.start, jnp.array([1.0, 25, 40]), bounds=(1.0, 5.0))
    warm = solver.run(cold.params, jnp.array([1.0, 25, 40.1]), bounds=(1.0, 5.0))
    assert int(warm.state.status) == Status.CONVERGED
    assert int(warm.state.iter_num) < int(cold.state.iter_num)


def test_bad_arguments_are_refused():
    solver = InteriorPointNLP(lambda x: jnp.sum(x**2))
    with pytest.raises(TypeError, match="floating"):
        solver.run(jnp.arange(3))
    with pytest.raises(TypeError, match="floating"):
        solver.run({"x": jnp.ones(2), "count": jnp.arange(2)})
    with pytest.raises(ValueError, match="lower must not exceed"):
        solver.run(jnp.ones(2), bounds=(1.0, 0.0))
    with pytest.raises(TypeError, match="eq_fun"):
        InteriorPointNLP(jnp.sum, 3)
    with pytest.raises(ValueError, match="implicit_diff"):
        InteriorPointNLP(jnp.sum, implicit_diff=False)
    with pytest.raises(TypeError, match="ineq_fun must return real"):
        InteriorPointNLP(jnp.sum, None, lambda x: jnp.arange(2)).run(jnp.ones(2))
    with pytest.raises(TypeError, match="solver must be"):
        AugmentedLagrangian(jnp.sum, solver=3)
    with pytest.raises(ValueError, match="bounds need"):
        AugmentedLagrangian(jnp.sum, solver=jaxsolve.LBFGS(jnp.sum)).run(jnp.ones(2), bounds=(0.0, 1.0))
