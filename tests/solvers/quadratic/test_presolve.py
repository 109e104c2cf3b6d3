"""What is taken out before solving changes neither the solution nor the multipliers."""

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse

import jaxsolve
from jaxsolve import Status
from jaxsolve.solvers.quadratic._presolve import as_arrays, reduced, restored

N = 5


def program(seed):
    """A program with rows of every kind: empty, of one entry, proportional; and a fixed variable."""
    rng = np.random.default_rng(seed)
    root, inside = rng.normal(size=(N, N)), rng.uniform(-0.5, 0.5, size=N)
    A, G = rng.normal(size=(4, N)), rng.normal(size=(9, N))
    A[1] = np.eye(N)[3] * -2
    A[2] = 0
    A[3] = -3 * A[0]
    G[0], G[1], G[2] = 0, 4 * np.eye(N)[0], -0.5 * np.eye(N)[0]
    G[3], G[4] = 2 * np.eye(N)[1], 0.5 * np.eye(N)[1]
    G[6] = 2 * G[5]
    G[7] = -G[5]
    G[8] = np.eye(N)[3] + 2 * np.eye(N)[1]
    h = G @ inside + np.max(np.abs(G), axis=1) * rng.uniform(0.05, 0.4, size=9)
    lower, upper = np.full(N, -1.0), np.full(N, 1.0)
    lower[4] = upper[4] = inside[4]
    return root @ root.T, 3 * rng.normal(size=N), A, A @ inside, G, h, lower, upper


def check_optimality(data, x, dual_eq, dual_ineq, dual_bounds, atol):
    """The optimality conditions of the program as it was given."""
    Q, c, A, b, G, h, lower, upper = data
    np.testing.assert_allclose(Q @ x + c + A.T @ dual_eq + G.T @ dual_ineq + dual_bounds, 0, atol=atol)
    np.testing.assert_allclose(A @ x, b, atol=atol)
    slack = h - G @ x
    assert np.all(slack >= -atol) and np.all(dual_ineq >= -atol)
    np.testing.assert_allclose(dual_ineq * np.where(np.isfinite(slack), slack, 0), 0, atol=atol)
    assert np.all(x >= lower - atol) and np.all(x <= upper + atol)
    above, below = np.maximum(dual_bounds, 0), np.maximum(-dual_bounds, 0)
    np.testing.assert_allclose(above * (upper - x), 0, atol=atol)
    np.testing.assert_allclose(below * (x - lower), 0, atol=atol)


def clarabel_solves(arrays):
    Q, c, A, b, G, h, lower, upper = arrays
    n = len(c)
    finite = np.isfinite(h)
    rows = np.vstack([A, G[finite], np.eye(n), -np.eye(n)])
    sides = np.concatenate([b, h[finite], upper, -lower])
    cones = [clarabel.ZeroConeT(len(b)), clarabel.NonnegativeConeT(len(sides) - len(b))]
    settings = clarabel.DefaultSettings()
    settings.verbose, settings.tol_gap_abs, settings.tol_gap_rel, settings.tol_feas = False, 1e-11, 1e-11, 1e-11
    matrices = scipy.sparse.csc_matrix(np.triu(Q)), c, scipy.sparse.csc_matrix(rows)
    found = clarabel.DefaultSolver(*matrices, sides, cones, settings).solve()
    z = np.asarray(found.z)
    of_h = np.zeros(len(h))
    of_h[finite] = z[len(b) : len(b) + finite.sum()]
    return np.asarray(found.x), z[: len(b)], of_h, z[len(sides) - 2 * n : len(sides) - n] - z[len(sides) - n :]


def test_multipliers_of_what_was_taken_out_are_recovered():
    active = np.zeros(13)
    for seed in range(30):
        data = as_arrays(*program(seed))
        less = reduced(data)
        # Left are A[0], one of G[5] and G[6], and G[7]: G[8] has one entry once x[3] is known.
        assert less.free.tolist() == [0, 1, 2] and set(less.rows) in ({0, 9, 11}, {0, 10, 11})
        x, *duals = restored(less, *clarabel_solves(less.program))
        check_optimality(data, x, *duals, atol=1e-7)
        np.testing.assert_allclose(x, clarabel_solves(data)[0], atol=1e-6)
        active += np.abs(np.concatenate(duals[:2])) > 1e-3
    # Multipliers of rows that became bounds are no zeros.
    assert np.all(active[[0, 1, 5, 6, 7, 8, 12]] > 0)


def test_contradictions_are_left_to_the_solver():
    Q, c, A, b, G, h, lower, upper = program(0)
    for name, change in (("b", (2, 1.0)), ("b", (3, b[3] + 1)), ("b", (1, 9.0)), ("h", (0, -1.0))):
        data = {"b": b.copy(), "h": h.copy()}
        data[name][change[0]] = change[1]
        less = reduced(as_arrays(Q, c, A, data["b"], G, data["h"], lower, upper))
        assert (change[0] + (4 if name == "h" else 0)) in less.rows
    tiny = b.copy()
    tiny[3] *= 1 + 1e-16
    assert 3 not in reduced(as_arrays(Q, c, A, tiny, G, h, lower, upper)).rows


def test_solve_qp_with_and_without():
    data = program(3)
    plain, less = jaxsolve.solve_qp(*data), jaxsolve.solve_qp(*data, presolve=True)
    assert int(less.status) == Status.CONVERGED and "removed 12" in less.reason
    np.testing.assert_allclose(less.x, plain.x, atol=1e-7)
    np.testing.assert_allclose(less.value, plain.value, rtol=1e-9)
    check_optimality(data, less.x, less.dual_eq, less.dual_ineq, less.dual_bounds, atol=1e-6)
    # Where values are not known nothing is taken out.
    traced = jax.eval_shape(lambda c: jaxsolve.solve_qp(data[0], c, *data[2:], presolve=True), jnp.asarray(data[1]))
    assert "removed" not in traced.reason
    with pytest.raises(ValueError, match="presolve"):
        jaxsolve.solve_qp(*data, presolve=True, elastic=1.0)
    with pytest.raises(ValueError, match="presolve"):
        jaxsolve.linprog(data[1], data[4], data[5], presolve=True, elastic=1.0)


@pytest.mark.slow
def test_linprog_with_and_without():
    _, c, A, b, G, h, lower, upper = program(5)
    bounds = np.stack([lower, upper], axis=1)
    less = jaxsolve.linprog(c, G, h, A, b, bounds, presolve=True)
    want = scipy.optimize.linprog(c, G, h, A, b, bounds)
    assert bool(less.success)
    np.testing.assert_allclose(less.fun, want.fun, rtol=1e-8)
    np.testing.assert_allclose(less.x, want.x, atol=1e-6)
    duals = -less.marginals.eqlin, -less.marginals.ineqlin, -less.marginals.lower - less.marginals.upper
    check_optimality((np.zeros((N, N)), c, A, b, G, h, lower, upper), less.x, *duals, atol=1e-6)
