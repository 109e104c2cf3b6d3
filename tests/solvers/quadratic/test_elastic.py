"""Violations at a price, against the same programs with slacks written out, solved by Clarabel and HiGHS."""

import functools
import itertools

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse

import jaxsolve
from jaxsolve import Status

N, P, M = 4, 2, 4


def program(seed, contradiction):
    """``(Q, c, A, b, G, h, l, u, of_A, of_G)``; the last row of G contradicts the one before by so much."""
    rng = np.random.default_rng(seed)
    root, inside = rng.normal(size=(N, N)), rng.uniform(-0.5, 0.5, size=N)
    A, G = rng.normal(size=(P, N)), rng.normal(size=(M, N))
    h = G @ inside + rng.uniform(0, 0.3, size=M)
    G[-1], h[-1] = -G[-2], -h[-2] - contradiction
    weights = rng.uniform(0.5, 1, size=P), rng.uniform(0.5, 1, size=M)
    return root @ root.T, rng.normal(size=N), A, A @ inside, G, h, np.full(N, -1.0), np.full(N, 1.0), *weights


def with_slacks(Q, c, A, b, G, h, lower, upper, of_A, of_G):
    """``(x, y, z)`` of Clarabel, with slacks as variables."""
    p, m, n = len(b), len(h), len(c)
    slacks = 2 * p + m
    finite = np.isfinite(np.concatenate([of_A, of_A, of_G]))
    rows = [
        np.hstack([A, -np.eye(p), np.eye(p), np.zeros((p, m))]),
        np.hstack([G, np.zeros((m, 2 * p)), -np.eye(m)]),
        np.hstack([np.eye(n), np.zeros((n, slacks))]),
        np.hstack([-np.eye(n), np.zeros((n, slacks))]),
        np.hstack([np.zeros((slacks, n)), -np.eye(slacks)]),
        np.hstack([np.zeros((slacks, n)), np.eye(slacks)])[~finite],
    ]
    sides = [b, h, upper, -lower, np.zeros(slacks), np.zeros(np.sum(~finite))]
    costs = np.concatenate([c, np.where(finite, np.concatenate([of_A, of_A, of_G]), 0)])
    hessian = scipy.sparse.csc_matrix(scipy.linalg.block_diag(np.triu(Q), np.zeros((slacks, slacks))))
    cones = [clarabel.ZeroConeT(p), clarabel.NonnegativeConeT(sum(map(len, sides)) - p)]
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-11
    matrix = scipy.sparse.csc_matrix(np.vstack(rows))
    found = clarabel.DefaultSolver(hessian, costs, matrix, np.concatenate(sides), cones, settings).solve()
    assert found.status == clarabel.SolverStatus.Solved
    x, y = np.asarray(found.x), np.asarray(found.z)
    return x[:n], y[:p], y[p : p + m], found.obj_val


def solve(Q, c, A, b, G, h, lower, upper, of_A, of_G, **options):
    return jaxsolve.solve_qp(Q, c, A, b, G, h, lower, upper, elastic=(of_A, of_G), **options)


# As many as the largest batch has, so that one program is compiled for all of them.
BATCH = 48
_solve_batch = jax.jit(jax.vmap(solve))


def stacked(programs):
    return tuple(map(jnp.asarray, map(np.stack, zip(*programs, strict=True))))


def solve_batch(programs):
    batch = _solve_batch(*stacked([*programs, *[programs[0]] * (BATCH - len(programs))]))
    return jax.tree.map(lambda leaf: np.asarray(leaf[: len(programs)]), batch)


def test_against_clarabel_with_slacks():
    programs = [program(seed, gap) for seed, gap in enumerate([-0.1, -0.2, 0.5, 1.0, 3.0])]
    programs.append((*program(9, 0.5)[:-1], np.array([0.7, np.inf, 2.0, 0.3])))
    programs.append((*program(9, 0.5)[:-1], np.array([0.7, 0.2, np.inf, 0.3])))
    batch = solve_batch(programs)
    np.testing.assert_array_equal(batch.status, Status.CONVERGED)
    violated = 0
    for i, data in enumerate(programs):
        _, _, A, b, G, h, *_, of_A, of_G = data
        x, y, z, value = with_slacks(*data)
        found = jax.tree.map(lambda leaf, i=i: leaf[i], batch)
        np.testing.assert_allclose(found.x, x, atol=1e-6)
        np.testing.assert_allclose(found.dual_eq, y, atol=1e-5)
        np.testing.assert_allclose(found.dual_ineq, z, atol=1e-5)
        np.testing.assert_allclose(found.value, value, rtol=1e-7)
        np.testing.assert_allclose(found.violation_eq, np.abs(A @ found.x - b), atol=1e-7)
        np.testing.assert_allclose(found.violation_ineq, np.maximum(G @ found.x - h, 0), atol=1e-7)
        assert np.all(np.abs(found.dual_eq) <= of_A + 1e-7) and np.all(found.dual_ineq <= of_G + 1e-7)
        assert np.all(found.violation_ineq[np.isinf(of_G)] <= 1e-7)
        violated += np.sum(found.violation_eq > 1e-3) + np.sum(found.violation_ineq > 1e-3)
    assert violated > 5


def test_large_weights_give_the_solution_of_the_constraints():
    programs = [(*program(seed, -0.2)[:8], np.full(P, 50.0), np.full(M, 50.0)) for seed in range(3)]
    batch = solve_batch(programs)
    for i, data in enumerate(programs):
        x, y, z, value = with_slacks(*data[:8], np.full(P, np.inf), np.full(M, np.inf))
        assert max(np.abs(y).max(), z.max()) < 50
        np.testing.assert_allclose(batch.x[i], x, atol=1e-6)
        np.testing.assert_allclose(batch.dual_eq[i], y, atol=1e-5)
        np.testing.assert_allclose(batch.value[i], value, rtol=1e-6)
        np.testing.assert_allclose(batch.violation_ineq[i], 0, atol=1e-8)
        np.testing.assert_allclose(batch.violation_eq[i], 0, atol=1e-8)


@pytest.mark.parametrize("weight", [1e6, 1e12])
def test_huge_weights_leave_as_many_digits_as_small_ones(weight):
    # Beyond the weights at which a penalty is exact, x and the violations are the same for all.
    programs = [(*program(seed, gap)[:8], np.full(P, 1e2), np.full(M, 1e2)) for seed in range(4) for gap in (1.0, -0.2)]
    dear = [(*data[:8], np.full(P, weight), np.full(M, weight)) for data in programs]
    want, got = solve_batch(programs), solve_batch(dear)
    np.testing.assert_array_equal(got.status, Status.CONVERGED)
    assert np.max(got.iter_num) <= 12
    for name in ("x", "violation_eq", "violation_ineq"):
        np.testing.assert_allclose(getattr(got, name), getattr(want, name), atol=1e-8)
    for i, (Q, c, A, _, G, *_) in enumerate(dear):
        slope = Q @ got.x[i] + c + A.T @ got.dual_eq[i] + G.T @ got.dual_ineq[i] + got.dual_bounds[i]
        np.testing.assert_allclose(slope, 0, atol=1e-13 * weight + 1e-8)
        violated = got.violation_ineq[i] > 1e-6
        np.testing.assert_allclose(got.dual_ineq[i][violated], weight, rtol=1e-9)
    assert np.sum(got.violation_ineq > 1e-3) > 3


def test_a_batch_with_programs_that_have_no_solution_is_finite():
    good, hard, empty, endless = (list(program(3, 1.0)) for _ in range(4))
    hard[9] = np.full(M, np.inf)
    empty[6], empty[7] = np.full(N, 1.0), np.full(N, -1.0)
    endless[0], endless[1] = np.zeros((N, N)), np.full(N, -9.0)
    endless[2], endless[4], endless[7] = np.zeros((P, N)), np.zeros((M, N)), np.full(N, np.inf)
    batch = solve_batch([good, hard, empty, endless])
    wanted = [Status.CONVERGED, Status.PRIMAL_INFEASIBLE, Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE]
    assert [Status(int(status)) for status in batch.status] == wanted
    slopes = _gradients(*stacked([good, hard, empty, endless]))
    for leaf in jax.tree.leaves((batch.x, batch.dual_ineq, batch.violation_eq, batch.violation_ineq, slopes)):
        assert np.all(np.isfinite(leaf))
    assert all(np.any(leaf[0] != 0) for leaf in jax.tree.leaves(slopes))


_WEIGHTS = np.random.default_rng(0).normal(size=(3, M))


def _loss(b, h, of_A, of_G, *others):
    Q, c, A, G, lower, upper = others
    found = solve(Q, c, A, b, G, h, lower, upper, of_A, of_G)
    return jnp.sum(_WEIGHTS[0] * found.x) + _WEIGHTS[1, :P] @ found.violation_eq + _WEIGHTS[2] @ found.violation_ineq


@jax.jit
def _gradients(Q, c, A, b, G, h, lower, upper, of_A, of_G):
    gradient = jax.grad(_loss, (0, 1, 2, 3))
    return jax.vmap(gradient)(b, h, of_A, of_G, Q, c, A, G, lower, upper)


def test_derivatives_against_differences():
    programs = [program(seed, 1.0) for seed in range(4)]
    data = stacked(programs)
    gradients = _gradients(*data)
    moved = [
        (seed, name, i) for seed in range(4) for name, size in ((3, P), (5, M), (8, P), (9, M)) for i in range(size)
    ]
    step, ends = 1e-5, []
    for sign in (1, -1):
        changed = []
        for seed, name, i in moved:
            data = [np.array(part) for part in programs[seed]]
            data[name][i] += sign * step
            changed.append(data)
        found = solve_batch(changed)
        ends.append(found.x @ _WEIGHTS[0] + found.violation_eq @ _WEIGHTS[1, :P] + found.violation_ineq @ _WEIGHTS[2])
    wanted = (ends[0] - ends[1]) / (2 * step)
    got = [gradients[(3, 5, 8, 9).index(name)][seed, i] for seed, name, i in moved]
    np.testing.assert_allclose(got, wanted, atol=2e-6)


def test_linear_programs_against_highs():
    rng = np.random.default_rng(1)
    c, A_ub, A_eq = rng.normal(size=3), rng.normal(size=(4, 3)), rng.normal(size=(2, 3))
    b_ub, b_eq, of_ub, of_eq = rng.normal(size=4) - 2, rng.normal(size=2), rng.uniform(0.1, 2, size=4), 1.5
    found = jaxsolve.linprog(c, A_ub, b_ub, A_eq, b_eq, (-1, 1), elastic=(of_ub, of_eq))
    zero = np.zeros
    wanted = scipy.optimize.linprog(
        np.concatenate([c, of_ub, np.full(4, of_eq)]),
        np.hstack([A_ub, -np.eye(4), zero((4, 4))]),
        b_ub,
        np.hstack([A_eq, zero((2, 4)), -np.eye(2), np.eye(2)]),
        b_eq,
        [(-1, 1)] * 3 + [(0, None)] * 8,
    )
    assert wanted.status == 0 and bool(found.success)
    np.testing.assert_allclose(found.x, wanted.x[:3], atol=1e-7)
    np.testing.assert_allclose(found.fun, wanted.fun, rtol=1e-8)
    np.testing.assert_allclose(jnp.maximum(-found.slack, 0), wanted.x[3:7], atol=1e-7)
    np.testing.assert_allclose(jnp.abs(found.con), wanted.x[7:9] + wanted.x[9:], atol=1e-7)
    np.testing.assert_allclose(found.marginals.ineqlin, wanted.ineqlin.marginals, atol=1e-7)
    np.testing.assert_allclose(found.marginals.eqlin, wanted.eqlin.marginals, atol=1e-7)
    assert np.sum(found.slack < -1e-3) > 0


@pytest.mark.slow
def test_functions_of_pytrees():
    def rows(x):
        return {"above": x["a"], "sum": (x["a"][0] + x["b"])[None]}

    costs = {"a": jnp.asarray([1.0, -1.0]), "b": jnp.asarray(0.0)}
    h = {"above": jnp.asarray([-1.0, 0.5]), "sum": jnp.asarray([-4.0])}
    weights = {"above": jnp.asarray([9.0, 0.25]), "sum": jnp.asarray([0.5])}
    found = jaxsolve.solve_qp(lambda x: x, costs, G=rows, h=h, l=-2.0, elastic=weights, tol=1e-8)
    # a[0] = b - 1 by symmetry: minus their gradients 1 + a[0] and b is the weight of the sum, but a[0] <= -1 holds.
    np.testing.assert_allclose(found.x["a"], [-1.5, 0.75], atol=1e-6)
    np.testing.assert_allclose(found.x["b"], -0.5, atol=1e-6)
    np.testing.assert_allclose(found.violation_ineq["above"], [0.0, 0.25], atol=1e-6)
    np.testing.assert_allclose(found.violation_ineq["sum"], [2.0], atol=1e-6)
    np.testing.assert_allclose(found.dual_ineq["above"], [0.0, 0.25], atol=1e-6)
    assert found.violation_eq is None


@pytest.mark.slow
@pytest.mark.parametrize("method", ["osqp", "matrix_free"])
def test_other_methods(method):
    data = program(2, 1.0)
    want = solve(*data)
    found = solve(*data, method=method, tol=1e-9)
    assert found.method == method and int(found.status) == Status.CONVERGED
    np.testing.assert_allclose(found.x, want.x, atol=1e-6)
    np.testing.assert_allclose(found.violation_ineq, want.violation_ineq, atol=1e-6)
    again = solve(*data, method=method, tol=1e-9, init=found)
    assert int(again.iter_num) == 0


@pytest.mark.slow
def test_second_derivatives_of_the_value():
    Q, c, A, b, G, h, lower, upper, of_A, of_G = map(jnp.asarray, program(1, 1.0))
    value = jax.jit(lambda h: solve(Q, c, A, b, G, h, lower, upper, of_A, of_G).value)
    slope, hessian, step = jax.jit(jax.grad(value)), jax.jit(jax.hessian(value))(h), 1e-4
    for i, unit in enumerate(np.eye(M)):
        np.testing.assert_allclose(hessian[i], (slope(h + step * unit) - slope(h - step * unit)) / 2 / step, atol=1e-5)
    np.testing.assert_allclose(slope(h), -solve(Q, c, A, b, G, h, lower, upper, of_A, of_G).dual_ineq, atol=1e-6)
    assert np.any(np.abs(hessian) > 1e-3)


@pytest.mark.slow
def test_huge_weights_in_operator_splitting():
    programs = [(*program(seed, gap)[:8], np.full(P, 1e2), np.full(M, 1e2)) for seed in range(4) for gap in (1.0, -0.2)]
    want = solve_batch(programs)
    run = jax.jit(jax.vmap(lambda *data: solve(*data, method="osqp")))
    for weight in (1e4, 1e8):
        got = run(*stacked([(*data[:8], np.full(P, weight), np.full(M, weight)) for data in programs]))
        np.testing.assert_array_equal(got.status, Status.CONVERGED)
        np.testing.assert_allclose(got.x, want.x[: len(programs)], atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["interior_point", "osqp"])
def test_weights_of_any_size_in_float32(method):
    programs, answers = [], []
    for seed, gap, linear in itertools.product((2, 3, 5), (-0.2, 3.0), (False, True)):
        Q, *others, of_A, of_G = program(seed, gap)
        Q = 0 * Q if linear else Q
        for weight in (1e-6, 1e-3, 1.0, 1e3, 1e5, 1e8):
            programs.append((Q, *others, weight * of_A, weight * of_G))
            # Beyond 1e3 nothing changes but multipliers.
            least = min(weight, 1e3)
            answers.append(with_slacks(Q, *others, least * of_A, least * of_G)[0])
    run = jax.jit(jax.vmap(functools.partial(solve, method=method)))
    found = run(*(part.astype(jnp.float32) for part in stacked(programs)))
    assert found.x.dtype == found.violation_ineq.dtype == np.float32
    np.testing.assert_array_equal(found.status, Status.CONVERGED)
    np.testing.assert_allclose(found.x, np.stack(answers), atol=3e-4)
    for data, x, of_A, of_G in zip(programs, answers, found.violation_eq, found.violation_ineq, strict=True):
        _, _, A, b, G, h, *_ = data
        np.testing.assert_allclose(of_A, np.abs(A @ x - b), atol=1e-3)
        np.testing.assert_allclose(of_G, np.maximum(G @ x - h, 0), atol=1e-3)


def test_weights_that_mean_nothing_are_refused():
    Q, c, A, b, G, h, lower, upper, of_A, of_G = map(jnp.asarray, program(0, 0.0))
    for weights, error, message in (
        (0.0, ValueError, "positive"),
        (-of_A, ValueError, "positive"),
        ((of_A, jnp.full(M, jnp.nan)), ValueError, "positive"),
        ("high", TypeError, "elastic"),
        (jnp.ones(P + M), ValueError, "pair"),
        ((of_G, of_A), ValueError, "elastic for A"),
    ):
        with pytest.raises(error, match=message):
            jaxsolve.solve_qp(Q, c, A, b, G, h, elastic=weights)
        with pytest.raises(error, match=message):
            jaxsolve.linprog(c, G, h, A, b, elastic=weights[::-1] if isinstance(weights, tuple) else weights)
    with pytest.raises(ValueError, match="neither"):
        jaxsolve.solve_qp(Q, c, l=lower, u=upper, elastic=1.0)
    with pytest.raises(ValueError, match="neither"):
        jaxsolve.linprog(c, elastic=1.0)
    with pytest.raises(ValueError, match="equality"):
        jaxsolve.solve_qp(Q, c, A, b, elastic=1.0, method="equality")


def test_a_pair_of_numbers_is_a_pair_of_weights():
    Q, c, A, b, G, h = jnp.eye(2), jnp.zeros(2), jnp.ones((1, 2)), jnp.ones(1), -jnp.eye(2), -jnp.ones(2)
    found = jaxsolve.solve_qp(Q, c, A, b, G, h, elastic=(0.5, 2.0))
    np.testing.assert_allclose(found.x, [1.0, 1.0], atol=1e-7)
    np.testing.assert_allclose(found.dual_eq, [0.5], atol=1e-7)
