"""What is taken out before solving changes neither the solution nor the multipliers."""

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
from jax.experimental import sparse

import jaxsolve
from jaxsolve import Status
from jaxsolve._operators import from_entries
from jaxsolve.solvers.quadratic._presolve import as_arrays, masked, reduced, restored
from jaxsolve.solvers.quadratic._problem import QuadraticProgram

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


@pytest.mark.slow
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


# ---- Where values are not known -----------------------------------------------------------------------------------


def in_one_form(data, matrix=jnp.asarray):
    """The rows of a program with the bounds of its variables."""
    Q, c, A, b, G, h, lower, upper = data
    rows = from_entries(matrix(np.vstack([A, G, np.eye(N)])))
    sides = np.concatenate([b, np.full(len(h), -np.inf), lower]), np.concatenate([b, h, upper])
    return QuadraticProgram(from_entries(Q), jnp.asarray(c), rows, *map(jnp.asarray, sides))


@pytest.mark.parametrize("matrix", [jnp.asarray, sparse.BCOO.fromdense], ids=["dense", "sparse"])
def test_bounds_that_say_nothing_become_infinite(matrix):
    mask = jax.jit(masked)
    for seed in range(20):
        qp = in_one_form(program(seed), matrix)
        left = mask(qp)
        said = np.isfinite(np.stack([left.lower, left.upper]))
        # Zero rows, the multiple of a row, and what is said of a variable with a value.
        assert not said[:, [2, 3, 4, 16]].any() and said[:, [0, 1, 17]].all()
        # One side of each bound of x[0] and x[1] is left, and the tighter one of two multiples.
        for low, high in (((13, 6), (13, 5)), ((14,), (14, 7, 8, 12))):
            sides = [(0, low[0])] + [(1, r) for r in low[1:]], [(1, r) for r in high]
            assert sum(said[s] for s in sides[0]) == 1 and sum(said[s] for s in sides[1]) == 1
        assert said[1, 9] + said[1, 10] == 1
        for ours, given in ((left.lower, qp.lower), (left.upper, qp.upper)):
            np.testing.assert_array_equal(ours[np.isfinite(ours)], given[np.isfinite(ours)])


@pytest.mark.parametrize("dtype", [pytest.param(np.float32, marks=pytest.mark.float32), np.float64])
def test_a_variable_in_another_unit_does_not_hide_what_rows_say(dtype):
    """Of rows that differ in the entry of one variable alone each says something of its own."""
    rows, upper = np.array([[1.0, 1.0], [1.0, 2.0], [2.0, 4.0], [3.0, 1.0]]), np.array([2.0, 2.5, 6.0, 3.5])
    units = np.exp2(np.array([(0, 0), (20, 0), (-20, 0), (40, 0), (0, -40), (-40, 40)]))

    def said(unit):
        qp = QuadraticProgram(
            from_entries(jnp.diag(unit**2)),
            -3 * unit,
            from_entries(jnp.asarray(rows, dtype) * unit[None]),
            jnp.full(4, -jnp.inf, dtype),
            jnp.asarray(upper, dtype),
        )
        return jnp.isfinite(masked(qp).upper)

    found = jax.jit(jax.vmap(said))(jnp.asarray(units, dtype))
    np.testing.assert_array_equal(found, np.broadcast_to([True, True, False, True], found.shape))


def test_contradictions_keep_their_bounds():
    data = program(0)
    for name, at, value in (("b", 2, 1.0), ("b", 3, data[3][3] + 1), ("h", 0, -1.0), ("h", 1, -40.0)):
        changed = {"b": data[3].copy(), "h": data[5].copy()}
        changed[name][at] = value
        qp = in_one_form((*data[:3], changed["b"], data[4], changed["h"], *data[6:]))
        assert np.isfinite(jax.jit(masked)(qp).upper[at + (4 if name == "h" else 0)])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["interior_point", "osqp"])
def test_in_a_trace_solutions_and_multipliers_are_right_and_both_modes_agree(method):
    """In a batch, against the optimality conditions of the program as it was given."""
    options = {"method": method, "tol": 1e-10, "presolve": True}
    batch = [jnp.stack(parts) for parts in zip(*[program(seed) for seed in range(6)], strict=True)]
    found = jax.jit(jax.vmap(lambda *data: jaxsolve.solve_qp(*data, **options)))(*batch)
    for i in range(6):
        one = jax.tree.map(lambda x: x[i], found)
        assert int(one.status) == Status.CONVERGED
        check_optimality(program(i), one.x, one.dual_eq, one.dual_ineq, one.dual_bounds, atol=1e-7)

    rng = np.random.default_rng(0)

    def direction(data):
        """Rows stay in proportion where they are equalities; inequalities that are slack may move as they like."""
        Q, c, A, b, G, h, lower, upper = (rng.normal(size=part.shape) for part in data)
        G *= np.asarray(data[4]) != 0
        A[1], A[2], A[3], b[2], b[3] = A[1] * np.eye(N)[3], 0, -3 * A[0], 0, -3 * b[0]
        upper[4] = lower[4]
        return [jnp.asarray(part) for part in (Q + Q.T, c, A, b, G, h, lower, upper)]

    @jax.jit
    def slopes(data, along):
        solve = lambda *data: jaxsolve.solve_qp(*data, **options).x
        x, slope = jax.jvp(solve, data, along)
        gradient = jax.grad(lambda data: jnp.sum(jnp.sin(solve(*data))))(data)
        return slope, jnp.cos(x) @ slope, sum(map(jnp.vdot, gradient, along))

    for seed in range(4):
        data = [jnp.asarray(part) for part in program(seed)]
        along = direction(data)
        _, forward, reverse = slopes(data, along)
        np.testing.assert_allclose(forward, reverse, rtol=1e-8, atol=1e-8)
