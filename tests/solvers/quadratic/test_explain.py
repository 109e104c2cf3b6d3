"""Why a run ended as it did: proofs checked in NumPy and by HiGHS, and tables of what is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxsolve
from jaxsolve import KKTSolution, OptStep, Status
from jaxsolve.diagnostics import explain
from jaxsolve.diagnostics._certificates import Program, downhill_direction, find_contradiction
from jaxsolve.solvers.quadratic import DirectState, QPResult

N, M = 4, 9


def ended(status, x, dual_eq=None, dual_ineq=None, dual_bounds=None):
    """A result of ``solve_qp`` without a run."""
    numbers = jnp.asarray(0.0), jnp.asarray(int(status), jnp.int32), jnp.asarray(1e-9), jnp.asarray(3, jnp.int32)
    duals = (None if dual is None else jnp.asarray(dual) for dual in (dual_eq, dual_ineq, dual_bounds))
    return QPResult(jnp.asarray(x), *duals, *numbers, "osqp", "asked for")


def satisfiable(A, lower, upper):
    """Whether HiGHS finds a point."""
    rows, sides = [], []
    for row, low, high in zip(A, lower, upper, strict=True):
        size = np.max(np.abs(row))
        rows += [row / size] * int(high < np.inf) + [-row / size] * int(low > -np.inf)
        sides += [high / size] * int(high < np.inf) + [-low / size] * int(low > -np.inf)
    columns = np.max(np.abs(rows), axis=0, initial=1e-300)
    found = scipy.optimize.linprog(np.zeros(A.shape[1]), np.asarray(rows) / columns, sides, bounds=(None, None))
    assert found.status in (0, 2)
    return found.status == 0


def contradictory(seed, units=0):
    """Three to five rows that contradict each other among nine; units of rows and variables are powers of ten."""
    rng = np.random.default_rng(seed)
    A, inside = rng.normal(size=(M, N)), rng.normal(size=N)
    upper, count = A @ inside + rng.uniform(0.1, 2, size=M), 3 + seed % 3
    chosen, y = rng.permutation(M)[:count], rng.uniform(0.5, 2, size=count)
    A[chosen[-1]] = -(y[:-1] @ A[chosen[:-1]]) / y[-1]
    upper[chosen[-1]] = -(y[:-1] @ upper[chosen[:-1]]) / y[-1] - rng.uniform(0.1, 1)
    rows, columns = (10.0 ** rng.uniform(-units, units, size=size) for size in (M, N))
    return A * rows[:, None] / columns, upper * rows, chosen


@pytest.mark.parametrize("units", [0, 6])
def test_contradictions_are_proofs_that_cannot_be_shortened(units):
    for seed in range(12):
        A, upper, chosen = contradictory(seed, units)
        lower = np.full(M, -np.inf)
        found = find_contradiction(Program(np.zeros((N, N)), np.zeros(N), A, lower, upper))
        assert found is not None and found.irreducible
        rows, y = found.rows, found.multipliers
        assert np.all(y > 0) and np.max(y) == 1
        assert np.all(np.abs(y @ A[rows]) <= 1e-9 * (y @ np.abs(A[rows])))
        np.testing.assert_allclose(found.sum, y @ upper[rows], rtol=1e-9)
        assert found.sum < 0
        # Other rows may happen to make up a shorter one with some of those that were chosen.
        assert chosen[-1] in rows and not satisfiable(A[rows], lower[rows], upper[rows])
        for i in range(len(rows)):
            others = np.delete(rows, i)
            assert satisfiable(A[others], lower[others], upper[others])


def test_equalities_bounds_and_two_contradictions_at_once():
    # x0 + x1 = 1 and x0 + x1 = 3; and x2 >= 4 against x2 <= 2: one of both is enough.
    A = np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    lower, upper = np.array([1.0, 3, 4, 0]), np.array([1.0, 3, np.inf, 1])
    P, q = np.zeros((N, N)), np.zeros(N)
    found = find_contradiction(Program(P, q, A, lower, upper))
    assert (
        found.rows.tolist() == [0, 1] and found.multipliers == pytest.approx([1, -1]) and found.sum == pytest.approx(-2)
    )
    more = np.vstack([A, A[2]]), np.append(lower, -np.inf), np.append(upper, 2)
    found = find_contradiction(Program(P, q, *more))
    assert sorted(found.rows.tolist()) in ([0, 1], [2, 4]) and found.irreducible
    crossed = find_contradiction(Program(P, q, A, np.array([1.0, 2, 4, 5]), upper))
    assert crossed.rows.tolist() == [3] and crossed.sum == -4
    assert find_contradiction(Program(P, q, A, np.array([1.0, 1, 4, 0]), np.array([1.0, 1, np.inf, 1]))) is None


def test_what_can_be_satisfied_is_no_contradiction():
    for seed in range(6):
        A, upper, chosen = contradictory(seed)
        relaxed = upper.copy()
        relaxed[chosen[-1]] += 3
        for bounds, empty in ((upper, True), (relaxed, False)):
            program = Program(np.zeros((N, N)), np.zeros(N), A, np.full(M, -np.inf), bounds)
            assert satisfiable(*program[2:]) != empty
            assert (find_contradiction(program) is not None) == empty


def unbounded(seed, units=0):
    """A program with a direction of descent along two of its variables, and curvature along others."""
    rng = np.random.default_rng(seed)
    ray = np.array([1.0, -rng.uniform(0.5, 2), 0, 0])
    root = np.zeros((2, N))
    root[:, 2:] = rng.normal(size=(2, 2))
    A = rng.normal(size=(M, N))
    A[:, 0] = np.where(A @ ray > 0, -A[:, 1] * ray[1] - rng.uniform(0, 1, size=M), A[:, 0])
    q = rng.normal(size=N)
    q[0] = -q[1] * ray[1] - 0.7
    columns = 10.0 ** rng.uniform(-units, units, size=N)
    scaled = (root.T @ root) / columns[:, None] / columns, q / columns, A / columns
    return Program(*scaled, np.full(M, -np.inf), rng.uniform(1, 2, size=M))


@pytest.mark.parametrize("units", [0, 4])
def test_directions_are_proofs(units):
    for seed in range(8):
        program = unbounded(seed, units)
        d = downhill_direction(program)
        assert np.max(np.abs(d)) == 1 and program.q @ d < 0
        assert np.all(program.A @ d <= 1e-9 * (np.abs(program.A) @ np.abs(d)))
        assert np.all(np.abs(program.P @ d) <= 1e-9 * np.max(np.abs(program.P) @ np.abs(d), initial=1e-300) + 1e-300)
        assert np.all(d[2:] == 0)
    bounded = program._replace(A=np.vstack([np.eye(N), -np.eye(N), np.ones((1, N))]))
    assert downhill_direction(bounded) is None
    assert downhill_direction(program._replace(P=np.eye(N))) is None


def test_tables_of_infeasible_and_unbounded_programs():
    def rows(x):
        return {"power": jnp.stack([x["a"][0] + x["b"], -x["a"][1]]), "speed": (-x["a"][0] - x["b"])[None]}

    c = {"a": jnp.ones(2), "b": jnp.asarray(0.0)}
    h = {"power": jnp.asarray([1.0, 5.0]), "speed": jnp.asarray([-3.0])}
    zeros = jax.tree.map(jnp.zeros_like, h)
    failed = ended(Status.PRIMAL_INFEASIBLE, jnp.zeros(0))
    failed = jax.tree.map(lambda leaf: leaf, failed)
    failed = QPResult(c, None, zeros, None, *(failed.value, failed.status, failed.error, failed.iter_num), "osqp", "")
    why = explain(failed, None, c, G=rows, h=h)
    assert why.kind == "infeasible" and why.irreducible and why.status is Status.PRIMAL_INFEASIBLE
    assert why.contradiction == pytest.approx({"G['power'][0]": 1.0, "G['speed'][0]": 1.0})
    lines = repr(why).splitlines()
    assert lines[3].split() == ["G['power'][0]", "<=", "1", "1"] and lines[4].split() == [
        "G['speed'][0]",
        "<=",
        "-3",
        "1",
    ]
    assert lines[5].startswith("Their sum reads 0 <= -2.")
    assert "<td>G[&#x27;power&#x27;][0]</td>" in why._repr_html_()

    endless = QPResult(c, None, zeros, None, *failed_numbers(Status.DUAL_INFEASIBLE), "osqp", "")
    why = explain(endless, None, {"a": jnp.asarray([0.0, 1.0]), "b": jnp.asarray(0.0)}, G=rows, h=h)
    assert why.kind == "failed" and "not confirmed" in repr(why)  # a[1] >= -5
    why = explain(endless, None, {"a": jnp.asarray([0.0, -1.0]), "b": jnp.asarray(0.0)}, G=rows, h=h)
    assert why.kind == "unbounded" and why.direction == {"x['a'][1]": 1.0}
    assert "+inf" in repr(why)


def failed_numbers(status):
    result = ended(status, jnp.zeros(1))
    return result.value, result.status, result.error, result.iter_num


def test_table_of_a_solved_program():
    Q, c = jnp.eye(3), jnp.asarray([-2.0, -1.0, 0.0])
    A, b, G, h = (
        jnp.ones((1, 3)),
        jnp.asarray([1.0]),
        jnp.asarray([[1.0, 0, 0], [0, 0, 1.0]]),
        jnp.asarray([0.5, jnp.inf]),
    )
    # x = (0.5, 0.5, 0): Q x + c = (-1.5, -0.5, 0) = -0.5 (1, 1, 1) - 1 (1, 0, 0) + 0.5 (0, 0, 1).
    result = ended(Status.CONVERGED, [0.5, 0.5, 0.0], [0.5], [1.0, 0.0], [0.0, 0.0, -0.5])
    why = explain(result, Q, c, A, b, G, h, 0.0, jnp.asarray([9.0, 0.5, 9.0]), tol=1e-8, init=None)
    assert why.kind == "solved"
    assert [row.name for row in why.rows] == ["A[0]", "G[0]", "G[1]", "x[0]", "x[1]", "x[2]"]
    states = [row.state for row in why.rows]
    assert states == ["equality", "at upper", "inactive", "inactive", "weakly active", "at lower"]
    assert [row.slack for row in why.rows] == [0, 0, np.inf, 0.5, 0, 0]
    assert [row.multiplier for row in why.rows] == [0.5, 1, 0, 0, 0, -0.5]
    assert [row.value for row in why.residuals] == [0, 0, 0]
    lines = repr(why).splitlines()
    assert lines[2].split() == ["A[0]", "1", "1", "1", "0", "0.5", "equality"] and len(lines) == 7
    assert lines[-1] == "4 of 6 rows are active; 2 have slack."
    assert why.to_dict()["rows"][1]["name"] == "G[0]" and why.to_dict()["status"] == "CONVERGED"
    # The same point at a price: with b = 0 the equality is violated.
    why = explain(result, Q, c, A, jnp.asarray([0.0]), G, h, 0.0, jnp.asarray([9.0, 0.5, 9.0]), elastic=(0.5, 2.0))
    assert why.rows[0].state == "violated" and why.rows[0].slack == -1
    assert why.residuals[0].value == 0 and why.residuals[2].value == pytest.approx(0, abs=1e-15)


def test_solvers_and_their_arguments():
    Q, c, G, h = jnp.eye(2), jnp.asarray([-1.0, -3.0]), jnp.ones((1, 2)), jnp.asarray([3.0])
    state = DirectState(jnp.asarray(1, jnp.int32), jnp.asarray(0.0), jnp.asarray(0.0), jnp.asarray(1, jnp.int32))
    x, y = jnp.asarray([0.5, 2.5]), jnp.asarray([0.5])
    osqp = explain(OptStep(KKTSolution(x, None, y), state), None, (Q, c), None, (G, h), solver=jaxsolve.OSQP())
    assert [(row.name, row.state) for row in osqp.rows] == [("G[0]", "at upper")]
    step, solver = OptStep(KKTSolution((x, h), y, (y, 0 * y)), state), jaxsolve.BoxOSQP()
    box = explain(step, params_obj=(Q, c), params_eq=G, params_ineq=(-jnp.inf, h), init_params=None, solver=solver)
    assert [(row.name, row.multiplier) for row in box.rows] == [("A[0]", 0.5)]
    coordinates = jaxsolve.BoxCDQP()
    step = OptStep(jnp.asarray([1.0, 2.0]), state)
    boxed = explain(step, None, (Q, c), (0.0, 2.0), solver=coordinates)
    assert [(row.name, row.state) for row in boxed.rows] == [("x[0]", "inactive"), ("x[1]", "at upper")]
    assert max(row.value for row in boxed.residuals) == 0
    result = jaxsolve.LinprogResult if hasattr(jaxsolve, "LinprogResult") else None
    assert result is None
    plane = explain(
        OptStep(KKTSolution(jnp.asarray([0.5, 2.5]), y, None), state),
        None,
        (Q, c),
        (G, h),
        solver=jaxsolve.EqualityConstrainedQP(),
    )
    assert [(row.name, row.state) for row in plane.rows] == [("A[0]", "equality")]


def test_runs_that_failed_otherwise():
    Q, c, G, h = jnp.eye(2), jnp.asarray([-1.0, -3.0]), jnp.ones((1, 2)), jnp.asarray([3.0])
    late = ended(Status.MAXITER, [1.0, 2.5], None, [0.25])
    why = explain(late, Q, c, G=G, h=h, method="osqp")
    primal, dual, gap = why.residuals
    assert (primal.value, primal.where) == (0.5, "G[0]") and (dual.value, dual.where) == (0.25, "x[0]")
    assert gap.value == pytest.approx(abs(1 + 6.25 - 8.5 + 0.75))
    assert why.kind == "failed" and why.rows[0].state == "violated" and "G[0]" in repr(why)
    saddle = explain(late, jnp.asarray([[1.0, 2.0], [2.0, 1.0]]), c, G=G, h=h)
    assert saddle.kind == "nonconvex" and saddle.direction == pytest.approx({"x[0]": 1.0, "x[1]": -1.0})
    assert "-1" in saddle.notes[-1]
    broken = explain(ended(Status.NONFINITE, [0.0, 0.0], None, [0.0]), Q, c.at[0].set(jnp.nan), G=G, h=h)
    assert broken.kind == "failed" and "objective" in broken.notes[0]
    # The run was out of iterations, but the reason is another one.
    both = jnp.concatenate([G, -G])
    hopeless = explain(ended(Status.MAXITER, [1.0, 1.0], None, [0.0, 0.0]), Q, c, G=both, h=jnp.asarray([1.0, -3.0]))
    assert hopeless.kind == "infeasible" and set(hopeless.contradiction) == {"G[0]", "G[1]"}


def test_what_cannot_be_explained_is_refused():
    Q, c, G, h = jnp.eye(2), jnp.zeros(2), jnp.ones((1, 2)), jnp.ones(1)
    result = ended(Status.CONVERGED, [0.0, 0.0], None, [0.0])
    with pytest.raises(ValueError, match="batch of shape \\(2,\\)"):
        explain(jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), result), Q, c, G=G, h=h)
    with pytest.raises(ValueError, match="arguments"):
        explain(result, Q, c)
    with pytest.raises(TypeError, match="solver"):
        explain(OptStep(KKTSolution(c, None, None), result), None, (Q, c))
    with pytest.raises(TypeError, match="solve_qp or linprog"):
        explain(c, Q, c)
    with pytest.raises(TypeError, match="concrete"):
        jax.jit(lambda result: explain(result, Q, c, G=G, h=h))(result)


def test_linear_programs_by_their_own_names():
    c, A_ub, b_ub = jnp.asarray([1.0, 1.0]), jnp.asarray([[1.0, 1.0], [-1.0, 0.0]]), jnp.asarray([1.0, -2.0])
    A_eq, b_eq = jnp.asarray([[0.0, 1.0]]), jnp.asarray([0.25])
    why = explain(jaxsolve.linprog(c, A_ub, b_ub, A_eq, b_eq), c, A_ub, b_ub, A_eq, b_eq)
    assert why.status is Status.PRIMAL_INFEASIBLE and why.kind == "infeasible"
    assert set(why.contradiction) in ({"A_ub[0]", "A_ub[1]", "A_eq[0]"}, {"A_ub[0]", "A_ub[1]", "x[1]"})
    b_ub = jnp.asarray([1.0, -0.5])
    why = explain(jaxsolve.linprog(c, A_ub, b_ub, A_eq, b_eq), c, A_ub, b_ub, A_eq, b_eq)
    assert {row.name: row.state for row in why.active} == {"A_ub[1]": "at upper", "A_eq[0]": "equality"}
    assert why.rows[2].multiplier == pytest.approx(1.0)  # A_eq, A_ub, then x


@pytest.mark.slow
def test_in_float32():
    for seed in range(4):
        A, upper, _ = (np.asarray(part, np.float32) for part in contradictory(seed))
        result = jaxsolve.solve_qp(None, np.zeros(N, np.float32), G=A, h=upper)
        why = explain(result, None, np.zeros(N, np.float32), G=A, h=upper)
        assert result.x.dtype == np.float32 and why.status is Status.PRIMAL_INFEASIBLE and why.kind == "infeasible"
        y = np.zeros(M)
        for name, multiplier in why.contradiction.items():
            y[int(name[2:-1])] = multiplier
        assert y @ upper < 0
        assert np.max(np.abs(y @ A.astype(float))) <= 1e-6 * np.max(np.abs(y) @ np.abs(A))
