"""The hard cases of quadratic programming: degenerate, redundant, infeasible, unbounded, badly scaled, empty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import jaxsolve
from jaxsolve import KKTSolution, Status
from jaxsolve.solvers.quadratic import _active_set
from jaxsolve.solvers.quadratic._general import GeneralInteriorPoint

INF = np.inf


def solve(Q, c, A=None, lower=None, upper=None, **options):
    rows = None if lower is None else (lower, upper)
    return jaxsolve.InteriorPointQP(**options).run(None, (Q, c), A, rows)


def problem(seed, n=6, m=9, rank=4):
    """A feasible problem with a singular Q."""
    rng = np.random.default_rng(seed)
    M = rng.normal(size=(n, rank))
    A, x = rng.normal(size=(m, n)), rng.normal(size=n)
    y = np.maximum(rng.normal(size=m), 0)
    return M @ M.T, -M @ (M.T @ x) - A.T @ y, A, np.full(m, -INF), A @ x + np.where(y > 0, 0, rng.uniform(0.1, 1, m))


def test_kkt_to_machine_precision():
    for seed in range(4):
        Q, c, A, lower, upper = problem(seed)
        params, state = solve(Q, c, A, lower, upper)
        x, y = np.asarray(params.primal[0]), np.asarray(params.dual_eq)
        assert int(state.status) == Status.CONVERGED
        np.testing.assert_allclose(Q @ x + c + A.T @ y, 0, atol=1e-9)
        assert np.all(A @ x <= upper + 1e-9)
        assert np.all(y >= 0)
        np.testing.assert_allclose(y * (upper - A @ x), 0, atol=1e-9)


def test_blocks_may_be_empty_or_infinite():
    Q, c = jnp.diag(jnp.asarray([1.0, 2.0])), jnp.asarray([-1.0, 4.0])
    free = solve(Q, c, tol=1e-5).params
    np.testing.assert_allclose(free.primal[0], [1, -2], atol=1e-5)
    assert free.dual_eq.shape == (0,)
    infinite = solve(Q, c, jnp.eye(2), -INF, INF, tol=1e-5).params
    np.testing.assert_allclose(infinite.primal[0], [1, -2], atol=1e-5)
    # Without a matrix the bounds are those of x.
    box = solve(Q, c, None, 0.0, jnp.asarray([0.5, INF]), tol=1e-5).params
    np.testing.assert_allclose(box.primal[0], [0.5, 0], atol=1e-4)
    np.testing.assert_allclose(box.dual_eq, [0.5, -4], atol=1e-3)


def test_dependent_equalities():
    """The same equality three times: x has its derivative, the multipliers the one of least norm."""
    c = jnp.asarray([1.0, -1.0])

    def run(total):
        A = jnp.ones((3, 2))
        return solve(jnp.eye(2), c, A, jnp.full(3, total), jnp.full(3, total)).params

    params = run(1.0)
    np.testing.assert_allclose(params.primal[0], [-0.5, 1.5], atol=1e-9)
    derivative = jax.jacfwd(lambda t: run(t).primal[0])(1.0)
    np.testing.assert_allclose(derivative, [0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(jax.jacrev(lambda t: run(t).primal[0])(1.0), derivative, atol=1e-6)
    np.testing.assert_allclose(jax.jacfwd(lambda t: run(t).dual_eq)(1.0), -np.ones(3) / 6, atol=1e-5)


def test_dependent_rows_that_move_apart():
    """No point meets both rows any more: what changes is the least-squares solution of the linearized conditions."""
    Q, c, A = jnp.diag(jnp.asarray([1.0, 3.0])), jnp.asarray([1.0, -1.0]), jnp.asarray([[1.0, 1.0], [1.0, 1.0]])

    def solution(bounds):
        params = solve(Q, c, A, bounds, bounds).params
        return jnp.concatenate([params.primal[0], params.dual_eq])

    system = np.block([[Q, A.T], [A, np.zeros((2, 2))]])
    want = np.linalg.pinv(system)[:, 2:]
    for mode in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jax.jit(mode(solution))(jnp.ones(2)), want, atol=1e-6)


def test_directions_in_which_nothing_holds_the_solution():
    """Without curvature along an edge of optimal points there is no movement along it, whatever the push."""

    def x(c):
        return solve(None, c, None, 0.0, jnp.asarray([1.0, INF, INF]), tol=1e-5, weak="inactive").params.primal[0]

    # Both of the first two entries cost nothing: x[0] is anywhere between 0 and 1.
    c = jnp.asarray([0.0, 1.0, 2.0])
    for mode in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jax.jit(mode(x))(c), 0, atol=1e-8)


def test_an_equality_whose_multiplier_is_zero():
    """The constraint is met by the free minimizer; elsewhere the gradient of this is NaN."""

    def first(total):
        return solve(jnp.eye(2), -jnp.ones(2), jnp.ones((1, 2)), total, total).params.primal[0][0]

    np.testing.assert_allclose(first(2.0), 1, atol=1e-9)
    np.testing.assert_allclose(jax.grad(first)(2.0), 0.5, atol=1e-7)


@pytest.mark.parametrize(
    "weak, expected",
    [
        ("half", 0.5),
        pytest.param("active", 1.0, marks=pytest.mark.slow),
        pytest.param("inactive", 0.0, marks=pytest.mark.slow),
    ],
)
def test_weakly_active_rows(weak, expected):
    """x = min(1, u) at u = 1: on the one side the derivative is 1, on the other 0."""

    def x(u):
        return solve(jnp.eye(1), -jnp.ones(1), jnp.ones((1, 1)), -INF, u, weak=weak).params.primal[0][0]

    np.testing.assert_allclose(jax.grad(x)(1.0), expected, atol=1e-6)
    np.testing.assert_allclose(jax.jvp(x, (1.0,), (1.0,))[1], expected, atol=1e-6)


@pytest.mark.slow
def test_gradient_with_respect_to_the_matrix_of_inequalities():
    rng = np.random.default_rng(3)
    Q, c, A = jnp.diag(jnp.asarray([1.0, 2.0, 3.0, 4.0])), jnp.ones(4), jnp.asarray(rng.normal(size=(6, 4)))
    # Two of the six rows cut off the free minimizer.
    free = A @ (-c / jnp.diagonal(Q))
    lower, upper = jnp.full(6, -INF), free + jnp.asarray([-0.3, 2.0, -0.2, 2.0, 2.0, 2.0])

    @jax.jit
    def f(A):
        params = solve(Q, c, A, lower, upper, tol=1e-10).params
        return jnp.sum(jnp.sin(params.primal[0])) + jnp.sum(jnp.cos(params.dual_eq))

    got, step = jax.jit(jax.grad(f))(A), 1e-5
    for _ in range(4):
        direction = jnp.asarray(rng.normal(size=A.shape))
        numeric = (f(A + step * direction) - f(A - step * direction)) / (2 * step)
        np.testing.assert_allclose(jnp.sum(got * direction), numeric, rtol=1e-5, atol=1e-8)


def test_only_the_symmetric_part_of_the_matrix_counts():
    Q, c = jnp.asarray([[2.0, 1.0], [0.0, 2.0]]), jnp.ones(2)
    gradient = jax.grad(lambda Q: solve(Q, c).params.primal[0][0])(Q)
    np.testing.assert_allclose(gradient, gradient.T)
    symmetric = 0.5 * (Q + Q.T)
    np.testing.assert_allclose(solve(Q, c).params.primal[0], -jnp.linalg.solve(symmetric, c), atol=1e-9)


def test_linear_programs_against_scipy():
    """Costs from 0 to 100 and 20 variables, where first-order solvers without scaling stop far away."""
    rng = np.random.default_rng(0)
    c, A, b = rng.uniform(0, 100, 20), rng.uniform(0, 1, (10, 20)), rng.uniform(1, 5, 10)
    reference = linprog(c, A_ub=-A, b_ub=-b, bounds=(0, None), method="highs")
    rows, lower = np.concatenate([A, np.eye(20)]), np.concatenate([b, np.zeros(20)])
    params, state = solve(None, c, rows, lower, INF)
    np.testing.assert_allclose(state.value, reference.fun, rtol=1e-9)
    np.testing.assert_allclose(params.primal[0], reference.x, atol=1e-7)
    # At a vertex the solution does not move with the costs; the value does.
    value = jax.grad(lambda c: solve(None, c, rows, lower, INF).state.value)(c)
    np.testing.assert_allclose(value, reference.x, atol=1e-6)
    moved = jax.grad(lambda c: jnp.sum(solve(None, c, rows, lower, INF).params.primal[0]))(c)
    np.testing.assert_allclose(moved, 0, atol=1e-6)


def test_smoothing_is_that_of_value_and_derivative():
    """A relaxed linear program: x is where s z = kappa, and moves with the costs."""
    kappa = 0.01

    def x(c):
        return solve(None, c, jnp.eye(1), 0.0, 1.0, smoothing=kappa).params.primal[0][0]

    c = jnp.asarray([0.3])
    found = x(c)
    # Stationarity on the path: c + kappa / (1 - x) - kappa / x = 0.
    np.testing.assert_allclose(c[0] + kappa / (1 - found) - kappa / found, 0, atol=1e-7)
    slope = -1 / (kappa / (1 - found) ** 2 + kappa / found**2)
    np.testing.assert_allclose(jax.grad(x)(c)[0], slope, rtol=1e-5)


def infeasible(seed):
    """Four rows of which a positive combination vanishes, and their bounds do not allow that."""
    rng = np.random.default_rng(seed)
    Q, c, A, lower, upper = problem(seed, rank=6 if seed % 2 else 3)
    w = rng.uniform(0.1, 1, 4)
    A[3] = -(w[:3] @ A[:3]) / w[3]
    upper[3] = -(w[:3] @ upper[:3]) / w[3] - 10 ** rng.uniform(-2, 2)
    return Q + 1e-3 * np.eye(6), c, A, lower, upper


def unbounded(seed):
    """A direction of descent along which Q vanishes and no row grows; 0 satisfies the constraints."""
    rng = np.random.default_rng(seed)
    _, c, A, lower, upper = problem(seed)
    d = rng.normal(size=6)
    M = rng.normal(size=(6, 3))
    M -= np.outer(d, d @ M) / (d @ d)
    c = c - d * (c @ d) / (d @ d) - d * 10 ** rng.uniform(-2, 1)
    return M @ M.T, c, A - np.outer(np.maximum(A @ d, 0), d) / (d @ d), lower, np.abs(upper)


@pytest.mark.parametrize(
    "solver",
    [jaxsolve.InteriorPointQP(), pytest.param(jaxsolve.BoxOSQP(tol=1e-6, maxiter=40_000), marks=pytest.mark.slow)],
)
def test_fifty_of_each_kind(solver):
    kinds = {infeasible: Status.PRIMAL_INFEASIBLE, unbounded: Status.DUAL_INFEASIBLE, problem: Status.CONVERGED}
    problems = [make(seed) for make in kinds for seed in range(50)]
    data = [jnp.stack([jnp.asarray(part) for part in parts]) for parts in zip(*problems, strict=True)]

    @jax.jit
    @jax.vmap
    def run(Q, c, A, lower, upper):
        step = solver.run(None, (Q, c), A, (lower, upper))
        return step.state.status, step.params.primal[0]

    statuses, x = run(*data)
    np.testing.assert_array_equal(statuses, np.repeat(list(kinds.values()), 50))
    assert np.all(np.isfinite(x))


def test_certificates_of_a_batch_are_refined_for_those_that_ask(monkeypatch):
    """A batch refines all directions as soon as those of one element are likely, which costs six iterations."""
    from jaxsolve.solvers.quadratic import _certificates as certificates
    from jaxsolve.solvers.quadratic._problem import DenseMatrix, QuadraticProgram
    from jaxsolve.solvers.quadratic._residuals import products

    refined = []
    test = certificates._is_primal_certificate

    def counted(qp, y, Aty):
        jax.debug.callback(lambda _: refined.append(1), y[0])
        return test(qp, y, Aty)

    monkeypatch.setattr(certificates, "_is_primal_certificate", counted)
    A = DenseMatrix(jnp.asarray([[1.0], [-1.0]]))  # x <= -1 and x >= 0
    qp = QuadraticProgram(DenseMatrix(jnp.eye(1)), jnp.zeros(1), A, jnp.full(2, -INF), jnp.asarray([-1.0, 0.0]))
    forgiven = certificates.Forgiven(jnp.zeros(2), jnp.zeros(1))

    @jax.vmap
    def status(y, wanted):
        d = jnp.zeros(1)
        return certificates.find_certificates(qp, d, y, products(qp, d, y), forgiven, wanted=wanted)

    proof = jnp.asarray([1.0, 1.0])
    directions = jnp.stack([proof, jnp.asarray([1.0, 0.0])])
    found = jax.jit(status)
    assert list(found(directions, jnp.asarray([False, True]))) == [Status.RUNNING, Status.RUNNING]
    jax.effects_barrier()
    assert not refined
    assert list(found(directions, jnp.asarray([True, False]))) == [Status.PRIMAL_INFEASIBLE, Status.RUNNING]
    jax.effects_barrier()
    assert refined


def test_gradients_of_failed_problems_are_zero():
    problems = [problem(1), infeasible(1), unbounded(1)]
    data = [jnp.stack([jnp.asarray(part) for part in parts]) for parts in zip(*problems, strict=True)]

    def f(Q, c, A, lower, upper):
        params, state = solve(Q, c, A, lower, upper)
        return sum(jnp.sum(part) for part in jax.tree.leaves(params)) + state.value

    for gradient in jax.jit(jax.vmap(jax.grad(f, argnums=(0, 1, 2, 4))))(*data):
        assert np.all(np.isfinite(gradient))
        assert np.any(gradient[0])
        np.testing.assert_array_equal(gradient[1:], 0)


@pytest.mark.parametrize("make", [jaxsolve.InteriorPointQP, jaxsolve.BoxOSQP])
def test_bounds_that_exclude_each_other_in_one_problem(make):
    def run(lower):
        step = make(tol=1e-5).run(None, (jnp.eye(2), -jnp.ones(2)), jnp.eye(2), (lower, jnp.ones(2)))
        return jnp.sum(step.params.primal[0]), step.state.status

    lower = jnp.stack([jnp.asarray([-1.0, -1.0]), jnp.asarray([2.0, -1.0])])
    gradients, statuses = jax.vmap(jax.grad(run, has_aux=True))(lower)
    np.testing.assert_array_equal(statuses, [Status.CONVERGED, Status.PRIMAL_INFEASIBLE])
    np.testing.assert_array_equal(gradients[1], 0)
    assert np.all(np.isfinite(gradients))


@pytest.mark.slow
def test_objectives_by_function_and_by_product():
    Q, c = jnp.asarray([[2.0, 0.5], [0.5, 1.0]]), {"a": jnp.asarray([1.0]), "b": jnp.asarray([-2.0])}

    def product(Q, x):
        y = Q @ jnp.concatenate([x["a"], x["b"]])
        return {"a": y[:1], "b": y[1:]}

    def objective(x, Q):
        v = jnp.concatenate([x["a"], x["b"]])
        return 0.5 * v @ Q @ v + x["a"][0] - 2 * x["b"][0]

    by_product = jaxsolve.InteriorPointQP(matvec_Q=product).run(None, (Q, c))
    init = jax.tree.map(jnp.zeros_like, c)
    by_function = jaxsolve.InteriorPointQP(fun=objective).run(init, Q)
    want = -jnp.linalg.solve(Q, jnp.asarray([1.0, -2.0]))
    for step in (by_product, by_function):
        x = step.params.primal[0]
        np.testing.assert_allclose(jnp.concatenate([x["a"], x["b"]]), want, atol=1e-9)


@pytest.mark.slow
def test_sparse_data_and_warm_start():
    from jax.experimental import sparse

    Q, c, A, lower, upper = map(jnp.asarray, problem(2, rank=6))
    solver = jaxsolve.InteriorPointQP(tol=1e-8)
    dense = solver.run(None, (Q, c), A, (lower, upper))
    thin = solver.run(None, (sparse.BCOO.fromdense(Q), c), sparse.BCSR.fromdense(A), (lower, upper))
    np.testing.assert_allclose(thin.params.primal[0], dense.params.primal[0], rtol=0, atol=1e-4)
    start = KKTSolution(dense.params.primal, dense.params.dual_eq, None)
    warm = solver.run(start, (Q, c), A, (lower, upper))
    assert int(warm.state.status) == Status.CONVERGED and int(warm.state.iter_num) == 0


def test_bad_data_are_refused():
    Q, c = jnp.eye(2), jnp.ones(2)
    with pytest.raises(ValueError, match="exceed"):
        solve(Q, c, jnp.eye(2), 1.0, 0.0)
    with pytest.raises(ValueError, match="NaN"):
        solve(Q, c, jnp.eye(2), jnp.nan, 0.0)
    with pytest.raises(ValueError, match="2 variables"):
        solve(Q, c, jnp.eye(3), 0.0, 1.0)
    with pytest.raises(ValueError, match="2 entries"):
        solve(Q, c, jnp.eye(2), jnp.zeros(3), 1.0)
    with pytest.raises(ValueError, match="bounds"):
        jaxsolve.InteriorPointQP().run(None, (Q, c), jnp.eye(2))
    with pytest.raises(TypeError, match="pair"):
        jaxsolve.InteriorPointQP().run(None, (Q, c), jnp.eye(2), jnp.ones(2))


def test_the_default_tolerance_in_single_precision():
    """More than the precision of the dtype is not asked for."""
    data = (jnp.asarray(part, jnp.float32) for part in problem(0))
    Q, c, A, lower, upper = data
    solver = jaxsolve.InteriorPointQP()
    _, state = solver.run(None, (Q, c), A, (lower, upper))
    assert int(state.status) == Status.CONVERGED and int(state.iter_num) < 30
    assert float(state.error) <= 10 * np.finfo(np.float32).eps
    forced = jaxsolve.InteriorPointQP(tol=0.0, maxiter=12).run(None, (Q, c), A, (lower, upper)).state
    assert int(forced.iter_num) == 12 and int(forced.status) == Status.MAXITER


def test_a_linear_solver_of_the_user():
    """It takes the place of the factor, with the same derivative."""
    Q, c, A, lower, upper = (jnp.asarray(part) for part in problem(1, rank=6))
    used = []

    def own(matvec, b):
        used.append(jax.tree.map(jnp.shape, b))
        return jaxsolve.linear_solve.solve_lu(matvec, b)

    def jacobian(**options):
        return jax.jacrev(lambda c: solve(Q, c, A, lower, upper, **options).params.primal[0])(c)

    np.testing.assert_allclose(jacobian(implicit_diff_solve=own), jacobian(), atol=1e-7)
    assert used[0] == ((6,), (9,))


def test_upper_bounds_alone():
    """Where no inequality has a lower bound, nothing is computed for one, and the result is the same."""
    rng = np.random.default_rng(0)
    Q, c, b, h = np.eye(3), rng.normal(size=3), np.asarray([0.5]), np.ones(4)
    A, G = rng.normal(size=(1, 3)), rng.normal(size=(4, 3))
    params, state = GeneralInteriorPoint().run(None, (Q, c), (A, b), (G, h))
    bounds = np.concatenate([np.full(4, -INF), b]), np.concatenate([h, b])
    other, state_of_other = solve(Q, c, np.concatenate([G, A]), *bounds)
    assert state.point.s.shape == state.point.z.shape == (1, 5)
    assert state_of_other.point.s.shape == (2, 5)
    assert int(state.status) == int(state_of_other.status) == Status.CONVERGED
    np.testing.assert_allclose(params.primal, other.primal[0], atol=1e-12)
    np.testing.assert_allclose(jnp.concatenate([params.dual_ineq[0], params.dual_eq]), other.dual_eq, atol=1e-12)


def test_weights_of_weakly_active_rows_are_computed_where_there_are_some(monkeypatch):
    """A batch whose elements find their active sets at different times has none."""
    calls = []

    def counted(*args):
        jax.debug.callback(lambda: calls.append(1))
        return balanced_weight(*args)

    balanced_weight = _active_set.balanced_weight
    monkeypatch.setattr(_active_set, "balanced_weight", counted)
    rng = np.random.default_rng(0)
    c, G, h = rng.normal(size=(16, 3)), rng.normal(size=(16, 7, 3)), rng.uniform(0, 1, (16, 7))

    def run(c, G, h):
        return jaxsolve.solve_qp(jnp.eye(3), c, G=G, h=h, method="interior_point", tol=1e-3).status

    assert np.all(jax.jit(jax.vmap(run))(c, G, h) == Status.CONVERGED)
    jax.effects_barrier()
    assert not calls
