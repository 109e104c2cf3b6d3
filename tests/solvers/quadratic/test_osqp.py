"""Operator splitting: what a batch shares, what is never factorized, and the steps of the algorithm."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse
from scipy.optimize import linprog

import jaxsolve
from jaxsolve import KKTSolution, Status
from tests.solvers.quadratic.test_interior_point import problem

INF = np.inf
EXACT = jaxsolve.InteriorPointQP(tol=1e-9)


def data(seed=0, **options):
    return tuple(jnp.asarray(part) for part in problem(seed, **options))


def close(got, want, tol=1e-7):
    np.testing.assert_allclose(got, want, rtol=0, atol=tol * (1 + float(jnp.max(jnp.abs(want)))))


def test_the_signature_is_the_one_people_know():
    parameters = inspect.signature(jaxsolve.BoxOSQP).parameters
    positional = [name for name, p in parameters.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert positional == ["matvec_Q", "matvec_A", "fun"]
    of_standard_form = list(inspect.signature(jaxsolve.OSQP).parameters)
    assert of_standard_form[:4] == ["matvec_Q", "matvec_A", "matvec_G", "fun"]
    assert {"check_primal_dual_infeasability", "sigma", "momentum", "eq_qp_solve", "rho_start"} <= set(parameters)
    assert jaxsolve.BoxOSQP().maxiter == 4000
    assert jaxsolve.OSQP().tol == 1e-3


# ---- Batches ------------------------------------------------------------------------------------------------------


def factorizations(function, *args):
    """How often a program factorizes one matrix, and how often a batch of them."""
    sizes = {"eigh": [], "cholesky": []}

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in sizes:
                sizes[equation.primitive.name].append(equation.invars[0].aval.ndim - 2)
            for value in equation.params.values():
                for inner in jax.tree.leaves(value, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
                    inner = getattr(inner, "jaxpr", inner)
                    if hasattr(inner, "eqns"):
                        visit(inner)

    visit(jax.make_jaxpr(function)(*args).jaxpr)
    return sizes


def test_problems_with_the_same_matrices_share_one_eigendecomposition():
    Q, c, A, lower, upper = data()
    solver = jaxsolve.BoxOSQP(polish=False, check_primal_dual_infeasability=False, tol=1e-8)
    costs = c[None] * jnp.asarray([[1.0], [3.0], [-0.5], [10.0]])

    def run(Q, c):
        return solver.run(None, (Q, c), A, (lower, upper))

    shared = jax.vmap(run, in_axes=(None, 0))
    found = factorizations(lambda Q, c: jax.lax.stop_gradient(shared(Q, c).params), Q, costs)
    # One eigendecomposition of the matrices of the whole batch; the other ones belong to the derivative. Of the two
    # factorizations one tells whether the objective is convex.
    assert 0 in found["eigh"]
    assert found["cholesky"].count(0) == 2
    own = jax.vmap(run)
    copies = jnp.broadcast_to(Q, (4, *Q.shape))
    assert 0 not in factorizations(lambda Q, c: own(Q, c).params, copies, costs)["eigh"]

    params, state = jax.jit(shared)(Q, costs)
    want = jax.jit(jax.vmap(lambda c: EXACT.run(None, (Q, c), A, (lower, upper)).params))(costs)
    assert np.all(np.asarray(state.status) == Status.CONVERGED)
    close(params.primal[0], want.primal[0], 1e-5)
    apart = jax.jit(own)(copies, costs).params
    close(apart.primal[0], want.primal[0], 1e-5)


@pytest.mark.slow
def test_rows_may_be_equalities_in_some_problems_only():
    Q, c, A, _, upper = data(1, rank=6)
    lower = jnp.stack([jnp.full_like(upper, -INF), jnp.full_like(upper, -INF).at[0].set(upper[0])])
    solver = jaxsolve.BoxOSQP()

    def run(solver, lower):
        return solver.run(None, (Q, c), A, (lower, upper)).params

    got = jax.jit(jax.vmap(lambda lower: run(solver, lower)))(lower)
    want = jax.jit(jax.vmap(lambda lower: run(EXACT, lower)))(lower)
    close(got.primal[0], want.primal[0])
    close(got.dual_eq, want.dual_eq)


@pytest.mark.slow
def test_whatever_differs_within_a_batch():
    """Initial points, tolerances and bounds on iterations are data too."""
    Q, c, A, lower, upper = data(2, rank=6)
    want = EXACT.run(None, (Q, c), A, (lower, upper)).params

    def run(x, tol, maxiter):
        return jaxsolve.BoxOSQP(tol=tol, maxiter=maxiter).run(x, (Q, c), A, (lower, upper))

    starts = jnp.stack([jnp.zeros(6), 10 * jnp.ones(6)])
    for axes, args in (
        ((0, None, None), (starts, 1e-3, 4000)),
        ((None, 0, None), (starts[0], jnp.asarray([1e-3, 1e-6]), 4000)),
        ((None, None, 0), (starts[0], 1e-3, jnp.asarray([3000, 4000], jnp.int32))),
    ):
        params, state = jax.vmap(run, in_axes=axes)(*args)
        assert np.all(np.asarray(state.status) == Status.CONVERGED)
        for x in params.primal[0]:
            close(x, want.primal[0])


# ---- Matrices that are not there ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_functions_and_sparse_matrices():
    Q, c, A, lower, upper = data(3, rank=6)
    want = EXACT.run(None, (Q, c), A, (lower, upper)).params
    options = {"tol": 1e-8, "maxiter": 20_000}
    by_functions = jaxsolve.BoxOSQP(lambda Q, x: Q @ x, lambda A, x: A @ x, **options)
    by_sparse = jaxsolve.BoxOSQP(eq_qp_solve="cg", **options)
    thin = (sparse.BCOO.fromdense(Q), c), sparse.BCSR.fromdense(A)

    def slope(solver, objective, rows):
        def f(upper):
            params, state = solver.run(None, (objective[0], objective[1]), rows, (lower, upper))
            return jnp.sum(jnp.sin(params.primal[0])), (params, state.status)

        return jax.jit(jax.grad(f, has_aux=True))(upper)

    expected, _ = slope(EXACT, (Q, c), A)
    for solver, objective, rows in ((by_functions, (Q, c), A), (by_sparse, *thin)):
        gradient, (params, status) = slope(solver, objective, rows)
        assert int(status) == Status.CONVERGED
        close(params.primal[0], want.primal[0], 1e-6)
        close(params.dual_eq, want.dual_eq, 1e-5)
        close(gradient, expected, 1e-5)


def test_pytrees_of_variables_and_rows():
    Q, c, A, lower, upper = data(3, rank=6)
    want = EXACT.run(None, (Q, c), A, (lower, upper)).params

    def joined(x):
        return jnp.concatenate([x["a"], x["b"]])

    def product(Q, x):
        y = Q @ joined(x)
        return {"a": y[:2], "b": y[2:]}

    def rows(A, x):
        return (A[:4] @ joined(x), A[4:] @ joined(x))

    solver = jaxsolve.OSQP(matvec_Q=product, matvec_G=rows, tol=1e-8, maxiter=20_000)
    params, state = solver.run(None, (Q, {"a": c[:2], "b": c[2:]}), None, (A, (upper[:4], upper[4:])))
    assert int(state.status) == Status.CONVERGED
    close(joined(params.primal), want.primal[0], 1e-6)
    close(jnp.concatenate(params.dual_ineq), want.dual_eq, 1e-5)


@pytest.mark.parametrize("solver", [jaxsolve.BoxOSQP(tol=1e-6), jaxsolve.BoxOSQP(eq_qp_solve="cg", tol=1e-6), EXACT])
def test_a_problem_with_large_solutions_is_not_infeasible(solver):
    """As in HUES-MOD, one row with tiny entries says that every feasible point is huge, and nothing more."""
    small = jnp.linspace(1.0, 2.0, 5)[None] * 1e-4
    rows = jnp.concatenate([small, jnp.eye(5)])
    limits = jnp.asarray([3e3, 0, 0, 0, 0, 0]), jnp.asarray([3e3, INF, INF, INF, INF, INF])
    params, state = solver.run(None, (1e-3 * jnp.eye(5), jnp.zeros(5)), rows, limits)
    assert int(state.status) == Status.CONVERGED
    want = 3e3 * small[0] / jnp.sum(small**2)
    assert jnp.sum(want) > 1e7
    close(params.primal[0] / 1e7, want / 1e7, 1e-5)


# ---- The algorithm ------------------------------------------------------------------------------------------------


def test_updates_by_hand_are_those_of_run():
    args = (jnp.diag(jnp.asarray([1.0, 2.0])), jnp.asarray([-1.0, 4.0])), jnp.eye(2), (0.0, 0.5)
    solver = jaxsolve.BoxOSQP(tol=1e-6, polish=False)
    params, state = solver.run(None, *args)
    start = solver.init_params(jnp.zeros(2), *args)
    mine, own = start, solver.init_state(start, *args)
    while int(own.status) == Status.RUNNING:
        mine, own = solver.update(mine, own, *args)
    assert int(own.iter_num) == int(state.iter_num)
    close(mine.primal[0], params.primal[0], 1e-12)
    close(own.dual_residuals, state.dual_residuals, 1e-12)


def test_without_jit():
    args = (jnp.diag(jnp.asarray([1.0, 2.0])), jnp.asarray([-1.0, 4.0])), jnp.eye(2), (0.0, 0.5)
    params, _ = jaxsolve.BoxOSQP(jit=False, maxiter=50).run(None, *args)
    close(params.primal[0], jnp.asarray([0.5, 0.0]))


def test_the_number_of_iterations_is_kept_to():
    Q, c, A, lower, upper = data(5)
    for maxiter in (3, 7, 10):
        state = jaxsolve.BoxOSQP(maxiter=maxiter, tol=0.0).run(None, (Q, c), A, (lower, upper)).state
        assert (int(state.iter_num), int(state.status)) == (maxiter, Status.MAXITER)


def test_a_warm_start_saves_iterations():
    Q, c, A, lower, upper = data(6)
    solver = jaxsolve.BoxOSQP(tol=1e-6, polish=False)
    params, cold = solver.run(None, (Q, c), A, (lower, upper))
    _, warm = solver.run(params, (Q, 1.001 * c), A, (lower, upper))
    assert int(warm.iter_num) < int(cold.iter_num)
    start = KKTSolution(params.primal, params.dual_eq, None)
    assert int(solver.run(start, (Q, c), A, (lower, upper)).state.iter_num) == 0


def test_the_result_of_a_run_is_a_starting_point():
    """With the penalty that the run had found."""
    Q, c, A, lower, upper = data(6)
    solver = jaxsolve.BoxOSQP(tol=1e-6, polish=False, maxiter=2000)
    args = (Q, c), A, (lower, upper)
    step = solver.run(None, *args)
    assert int(step.state.status) == Status.CONVERGED
    again = solver.run(step, (Q, 1.001 * c), *args[1:])
    assert int(again.state.status) == Status.CONVERGED and int(again.state.iter_num) < int(step.state.iter_num)
    state = jaxsolve.BoxOSQP(rho_start=7.0, polish=False).init_state(step, *args)
    np.testing.assert_array_equal(state.rho_bar, step.state.rho_bar)
    assert int(EXACT.run(step, *args).state.status) == Status.CONVERGED


@pytest.mark.slow
def test_buffers_may_be_donated():
    Q, c, A, lower, upper = data(6)
    solver, args = jaxsolve.BoxOSQP(), ((Q, c), A, (lower, upper))
    params = solver.init_params(None, *args)
    state = solver.init_state(params, *args)
    update = jax.jit(solver.update, donate_argnums=(0, 1))
    for _ in range(2):
        params, state = update(params, state, *args)
    assert int(state.iter_num) == 10 and np.all(np.isfinite(params.primal[0]))


def test_linear_programs():
    rng = np.random.default_rng(0)
    A, x = rng.normal(size=(4, 7)), rng.uniform(size=7)
    c = rng.normal(size=7)
    solver = jaxsolve.BoxOSQP(tol=1e-6, maxiter=20_000)
    rows, b = jnp.concatenate([jnp.asarray(A), jnp.eye(7)]), A @ x
    limits = jnp.concatenate([b, jnp.zeros(7)]), jnp.concatenate([b, jnp.ones(7)])
    params, state = solver.run(None, (None, jnp.asarray(c)), rows, limits)
    want = linprog(c, A_eq=A, b_eq=b, bounds=(0, 1))
    assert int(state.status) == Status.CONVERGED
    close(state.value, jnp.asarray(want.fun))
    close(params.primal[0], jnp.asarray(want.x))


def test_bad_options_are_refused():
    for options, error in (
        ({"momentum": 2.0}, ValueError),
        ({"eq_qp_solve": "qr"}, ValueError),
        ({"rho_start": 0.0}, ValueError),
        ({"sigma": -1.0}, ValueError),
        ({"termination_check_frequency": 0}, ValueError),
        ({"stepsize_updates_frequency": 1.5}, ValueError),
        ({"check_primal_dual_infeasability": "often"}, ValueError),
    ):
        with pytest.raises(error, match=next(iter(options))):
            jaxsolve.BoxOSQP(**options)


def test_a_number_is_compared_with_every_leaf_of_the_other_bound():
    objective = (None, {"a": jnp.ones(1), "b": jnp.ones(1)})
    with pytest.raises(ValueError, match="must not exceed"):
        jaxsolve.BoxOSQP().run(None, objective, None, (0.0, {"a": jnp.ones(1), "b": -jnp.ones(1)}))


@pytest.mark.slow
def test_the_start_without_a_point_is_zero():
    objective, A, side = (jnp.eye(2), jnp.ones(2)), jnp.ones((1, 2)), jnp.ones(1)
    box, standard = jaxsolve.BoxOSQP(), jaxsolve.OSQP()
    start = box.init_params(None, objective, A, (side, 2 * side))
    np.testing.assert_array_equal(start.primal[0], 0.0)
    np.testing.assert_array_equal(start.primal[1], 1.0)
    np.testing.assert_allclose(box.run(start, objective, A, (side, 2 * side)).params.primal[0], 0.5, atol=1e-3)
    start = standard.init_params(None, objective, (A, side))
    np.testing.assert_array_equal(start.primal, 0.0)
    np.testing.assert_allclose(standard.run(start, objective, (A, side)).params.primal, 0.5, atol=1e-3)


@pytest.mark.slow
def test_statuses_have_their_older_names():
    objective, A = (jnp.eye(2), jnp.ones(2)), jnp.asarray([[1.0, 0.0], [1.0, 0.0]])
    solver = jaxsolve.BoxOSQP()
    assert solver.run(None, objective, A, (0.0, 1.0)).state.status == jaxsolve.BoxOSQP.SOLVED
    bounds = (jnp.asarray([1.0, -2.0]), jnp.asarray([2.0, -1.0]))
    assert solver.run(None, objective, A, bounds).state.status == solver.PRIMAL_INFEASIBLE
    linear = (None, jnp.asarray([0.0, 1.0]))
    assert solver.run(None, linear, A, (0.0, 1.0)).state.status == jaxsolve.BoxOSQP.DUAL_INFEASIBLE
    assert solver.init_state(None, objective, A, (0.0, 1.0)).status == jaxsolve.BoxOSQP.UNSOLVED
