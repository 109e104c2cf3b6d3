"""Random quadratic and linear programs in all units, against Clarabel and HiGHS in float64.

    python benchmarks/quadratic_fuzz.py --count 2000                 every kind, both methods, float64 and float32
    python benchmarks/quadratic_fuzz.py --method osqp --list         with the failing cases
    python benchmarks/quadratic_fuzz.py --kinds lp price --units all     parts of it
    python benchmarks/quadratic_fuzz.py --gradients                  derivatives where they exist, to 1e-6, in float64

A case is a problem with numbers of size 1, whose entries have so few digits that they are exact in float32 too, and
units for its variables, rows and objective. The references solve it without the units, and the solver with them. What
the solver returns is measured without units again:

* wrong: CONVERGED, but the objective is off by more than 1e-6 (1e-3 in float32) of the size of its terms, or a row is
  broken by as much of the size of its terms;
* false: PRIMAL_INFEASIBLE, DUAL_INFEASIBLE or NONCONVEX, and the problem is not;
* undecided: any other status.

Cases on which the references do not agree, or are not sure, are left out and counted.
"""

import argparse
import collections
import dataclasses
import functools
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.sparse

import jaxsolve
from jaxsolve import Status

jax.config.update("jax_enable_x64", True)

SHAPES = ((3, 1, 4), (6, 2, 9), (10, 3, 20))  # variables, equalities, inequalities
BOX_SHAPES = ((6, 0, 0),)
KINDS = (
    "strict", "singular", "lp", "infeasible", "unbounded", "neither", "degenerate", "near", "box", "price", "rounding",
)  # fmt: skip
UNITS = ("none", "objective", "rows", "columns", "all", "wide")
BATCH = 128
TOLERANCE = {"float64": 1e-6, "float32": 1e-3}


@dataclasses.dataclass(frozen=True)
class Case:
    """A problem without units, its units, and what is known of it.

    Attributes:
        kind: one of ``KINDS``.
        problem: ``P, q, A, b, G, h, lower, upper`` in float64, exact in float32.
        variables: units of the variables, shape ``(n,)``; those of the solver are ``x / variables``.
        equalities: units of the rows of ``A``.
        inequalities: units of the rows of ``G``.
        cost: unit of the objective.
        units: one of ``UNITS``.
        exact: whether all units are powers of two.
        priced: variables with a cost so large that they are 0 at the solution.
        rounding: size of the contradictions added to rows that touch, see ``data``.
    """

    kind: str
    problem: tuple
    variables: np.ndarray
    equalities: np.ndarray
    inequalities: np.ndarray
    cost: float
    units: str
    exact: bool
    priced: np.ndarray
    rounding: float
    dtype: str


def shape_of(index):
    """Kind and shape of the case with that index."""
    kind = KINDS[index % len(KINDS)]
    shapes = BOX_SHAPES if kind == "box" else SHAPES
    return kind, shapes[(index // len(KINDS)) % len(shapes)]


def _numbers(rng, *shape, spread=1.0):
    """Normal numbers rounded to eighths: sums of products of three of them are exact in float32."""
    return np.round(8 * spread * rng.normal(size=shape)) / 8


def _positive(rng, *shape):
    return rng.integers(1, 17, shape) / 8


def _objective(rng, n, rank, smallest=0.0):
    M = _numbers(rng, rank, n)
    return M.T @ M + smallest * np.eye(n)


def case(seed, index, dtype="float64"):
    """The case of that index; the same in both dtypes but for sizes that are relative to the precision."""
    rng = np.random.default_rng([seed, index])
    kind, (n, p, m) = shape_of(index)
    x = np.round(4 * rng.normal(size=n)) / 4
    A, G = _numbers(rng, p, n), _numbers(rng, m, n)
    slack, lower, upper = _positive(rng, m), np.full(n, -np.inf), np.full(n, np.inf)
    bounded = rng.random((2, n)) < 0.4
    lower[bounded[0]], upper[bounded[1]] = (x - _positive(rng, n))[bounded[0]], (x + _positive(rng, n))[bounded[1]]
    q, priced = _numbers(rng, n), np.zeros(n, bool)
    rank = int(rng.integers(0, n))
    P = _objective(rng, n, n, 0.5)
    P = P if kind in ("strict", "near", "box") or rng.random() < 0.5 else _objective(rng, n, rank)
    rounding = 0.0
    if kind == "near":
        exponent = int(rng.integers(6, 32))
        P = _objective(rng, n, rank) + 2.0 ** -(exponent if dtype == "float64" else exponent // 2) * np.eye(n)
    elif kind == "lp":
        P = np.zeros((n, n))
    elif kind == "singular":
        P = _objective(rng, n, rank)
    elif kind == "box" and rng.random() < 0.5:
        P = _objective(rng, n, rank)
    b, h = A @ x, G @ x + slack
    if kind in ("singular", "lp", "degenerate", "box"):
        share = 0.7 if kind == "degenerate" else 0.4
        if kind == "degenerate":
            if m > 3:
                G[1], G[2] = G[0] * 2, G[3]
            if p > 1:
                A[-1] = A[0] + (A[1] if p > 2 else 0)
            if rng.random() < 0.3:
                P = np.zeros((n, n))
        active, at_l, at_u = rng.random(m) < share, rng.random(n) < share / 2, rng.random(n) < share / 2
        z, y, of_l, of_u = _positive(rng, m) * active, _numbers(rng, p), _positive(rng, n), _positive(rng, n)
        if kind == "degenerate":
            z *= rng.random(m) < 0.5
            of_l *= rng.random(n) < 0.5
        lower, upper = np.where(at_l, x, lower), np.where(at_u, x, upper)
        b, h = A @ x, G @ x + np.where(active, 0, slack)
        q = -(P @ x + A.T @ y + G.T @ z - of_l * at_l + of_u * at_u)
    elif kind in ("unbounded", "neither"):
        d = rng.integers(-1, 2, n).astype(float)
        j = int(rng.integers(n))
        d[j] = 1

        def orthogonal(rows, extra=0):
            rows = rows.copy()
            rows[:, j] = -(rows @ d - rows[:, j]) + extra
            return rows

        M = orthogonal(_numbers(rng, rank, n))
        P = M.T @ M
        A, G = orthogonal(A), orthogonal(G, -_positive(rng, m) * (rng.random(m) < 0.4))
        if kind == "neither":
            G[:2] = orthogonal(G[:2])
            G[1] = -G[0]
            slack[1] = -slack[0] - 0.25
        lower, upper = np.where(d < 0, -np.inf, lower), np.where(d > 0, np.inf, upper)
        q[j] = -(q @ d - q[j]) - 1
        b, h = A @ x, G @ x + slack
    elif kind == "infeasible":
        margin, mode = 2.0 ** -int(rng.integers(0, 10)), int(rng.integers(5))
        if mode == 0:
            G[1], slack[1] = -G[0], -slack[0] - margin
        elif mode == 1:
            weights = rng.integers(0, 3, m - 1)
            weights[0] = 1
            G[-1], slack[-1] = -weights @ G[:-1], -weights @ slack[:-1] - margin
        elif mode == 3 or p < 2:
            G[0], lower = np.abs(G[0]), x - _positive(rng, n)
            slack[0] = G[0] @ (lower - x) - margin
            upper = np.maximum(upper, lower)
        b, h = A @ x, G @ x + slack
        if mode == 2 and p > 1:
            A[1], b[1] = 2 * A[0], 2 * b[0] + margin
        elif mode == 4 and p > 1:
            A[0], upper = np.abs(A[0]), x + _positive(rng, n)
            b[0] = A[0] @ upper + margin
    elif kind == "price":
        x = np.abs(x)
        priced = rng.random(n) < 0.3
        priced[0], priced[1] = True, False
        x = np.where(priced, 0, x)
        A, q, lower, upper = np.abs(A), _positive(rng, n), np.zeros(n), np.full(n, np.inf)
        exponent = int(rng.integers(20, 41))
        q = np.where(priced, 2.0 ** (exponent if dtype == "float64" else exponent // 2 - 3), q)
        b, h = A @ x, G @ x + slack
    elif kind == "rounding":
        # A row of zeros, rows that touch, and a variable that is fixed at 0 by its bounds, each broken by rounding.
        rounding = float(np.finfo(dtype).eps) / 4
        x[0], lower[0], upper[0] = 0, 0, 0
        G[-1], slack[-1] = 0, 0
        G[1], slack[:2] = -G[0], 0
        A[0] = np.abs(A[0])
        b, h = A @ x, G @ x + slack
    units = UNITS[int(rng.integers(len(UNITS)))]
    exponents = [rng.uniform(-10, 10, size) for size in (n, p, m, 1)]
    wanted = {"none": (), "objective": (3,), "rows": (1, 2), "columns": (0,)}.get(units, (0, 1, 2, 3))
    if units == "all":  # no entry is further than 1e10 from 1: objective times square of a column is one
        exponents = [exponent * share for exponent, share in zip(exponents, (0.3, 0.7, 0.7, 0.4), strict=True)]
    exact = bool(rng.random() < 0.6)
    if kind == "near" and dtype == "float32":
        exact = True
    if exact:
        exponents = [np.round(exponent * np.log2(10)) for exponent in exponents]
    base = 2.0 if exact else 10.0
    factors = [base ** (exponent if i in wanted else 0 * exponent) for i, exponent in enumerate(exponents)]
    if kind == "rounding":
        factors[2][-1] = 1.0
    problem = (P, q, A, b, G, h, lower, upper)
    return Case(kind, problem, *factors[:3], float(factors[3][0]), units, exact, priced, rounding, dtype)


def data(case):
    """``P, q, A, b, G, h, lower, upper`` in units, as the solver gets them."""
    P, q, A, b, G, h, lower, upper = case.problem
    d, e, f, cost = case.variables, case.equalities, case.inequalities, case.cost
    if case.rounding:
        h = h.copy()
        h[0] -= case.rounding * max(1, abs(h[0]))
        h[-1] = -case.rounding
        lower = lower.copy()
        lower[0] = case.rounding
    scaled = (
        cost * (d[:, None] * P * d), cost * d * q, e[:, None] * A * d, e * b, f[:, None] * G * d, f * h,
        lower / d, upper / d,
    )  # fmt: skip
    return tuple(part.astype(case.dtype) for part in scaled)


def without_units(case, arrays):
    """The problem of data in units, in float64 and without the units."""
    P, q, A, b, G, h, lower, upper = (np.asarray(part, np.float64) for part in arrays)
    d, e, f, cost = case.variables, case.equalities, case.inequalities, case.cost
    return (
        P / d[:, None] / d / cost, q / d / cost, A / e[:, None] / d, b / e, G / f[:, None] / d, h / f,
        lower * d, upper * d,
    )  # fmt: skip


# ---- References ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the references say: ``"solved"``, ``"infeasible"``, ``"unbounded"`` or ``"unsure"``."""

    verdict: str
    x: np.ndarray | None = None
    value: float = np.nan


def value_of(problem, x):
    """The objective."""
    return 0.5 * x @ problem[0] @ x + problem[1] @ x


def _by_clarabel(problem):
    P, q, A, b, G, h, lower, upper = problem
    n, below, above = q.size, np.isfinite(lower), np.isfinite(upper)
    eye, finite = np.eye(n), np.isfinite(h)
    rows = np.concatenate([A, G[finite], -eye[below], eye[above]])
    sides = np.concatenate([b, h[finite], -lower[below], upper[above]])
    cones = [clarabel.ZeroConeT(b.size)] if b.size else []
    if sides.size > b.size:
        cones.append(clarabel.NonnegativeConeT(sides.size - b.size))
    settings = clarabel.DefaultSettings()
    settings.verbose, settings.presolve_enable = False, False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-10
    solver = clarabel.DefaultSolver(
        scipy.sparse.csc_matrix(np.triu(P)), q, scipy.sparse.csc_matrix(rows), sides, cones, settings
    )
    found = solver.solve()
    status = str(found.status)
    if status in ("PrimalInfeasible", "DualInfeasible"):
        return Answer("infeasible" if status == "PrimalInfeasible" else "unbounded")
    x, z = np.array(found.x), np.array(found.z)
    # Its word is not taken for it: a feasible point and a dual one with the same value are a proof.
    if not (np.isfinite(x).all() and np.isfinite(z).all() and max(np.abs(x).max(), np.abs(z).max(initial=0)) < 1e30):
        return Answer("unsure")
    terms = np.abs(P) @ np.abs(x) + np.abs(q) + np.abs(rows).T @ np.abs(z)
    dual = np.abs(P @ x + q + rows.T @ z) <= 1e-8 * np.maximum(terms, 1)
    left, room = sides - rows @ x, 1e-8 * np.maximum(np.abs(rows) @ np.abs(x) + np.abs(sides), 1)
    primal = np.where(np.arange(sides.size) < b.size, np.abs(left), -left) <= room
    size = np.abs(x) @ np.abs(P) @ np.abs(x) + np.abs(q) @ np.abs(x)
    gap = abs(x @ P @ x + q @ x + sides @ z) <= 1e-8 * max(size, 1)
    if not (dual.all() and primal.all() and gap and (z[b.size :] >= -1e-9 * max(1, np.abs(z).max(initial=0))).all()):
        return Answer("unsure")
    return Answer("solved", x, value_of(problem, x))


def _by_highs(problem):
    _, q, A, b, G, h, lower, upper = problem
    options = {"primal_feasibility_tolerance": 1e-9, "dual_feasibility_tolerance": 1e-9}
    found = scipy.optimize.linprog(q, G, h, A, b, np.stack([lower, upper], 1), options=options)
    verdict = {0: "solved", 2: "infeasible", 3: "unbounded"}.get(found.status, "unsure")
    return Answer(verdict, found.x, found.fun if verdict == "solved" else np.nan)


def _agree(problem, one, other, tolerance):
    same = one.verdict == other.verdict
    if same and one.verdict == "solved":
        return abs(one.value - other.value) <= tolerance * size_of(problem, one.x)
    # A problem that contradicts itself may be unbounded besides.
    return same or {one.verdict, other.verdict} == {"infeasible", "unbounded"}


def size_of(problem, x):
    """The size of the terms of the objective at a solution, at least that of a typical cost."""
    P, q = problem[:2]
    typical = np.median(np.abs(q)[q != 0]) if np.any(q) else 1.0
    return max(0.5 * np.abs(x) @ np.abs(P) @ np.abs(x) + np.abs(q) @ np.abs(x), typical)


def _both(problem):
    """What Clarabel says, and HiGHS too if the problem is linear."""
    answer = _by_clarabel(problem)
    if answer.verdict == "unsure" or problem[0].any():
        return answer
    highs = _by_highs(problem)
    if not _agree(problem, answer, highs, 1e-7):
        return Answer("unsure")
    return Answer("infeasible") if {answer.verdict, highs.verdict} == {"infeasible", "unbounded"} else answer


def reference(case):
    """The answer for a case, without units."""
    answer, without_priced = _both(case.problem), False
    if answer.verdict != "solved" and case.priced.any():
        # A price of 1e12 is hard for Clarabel too, it says unbounded: the problem without what the price forbids.
        problem, without_priced = list(case.problem), True
        problem[1], problem[7] = (np.where(case.priced, 0, problem[i]) for i in (1, 7))
        answer = _both(problem)
    expected = {"infeasible": ("infeasible",), "unbounded": ("unbounded",), "neither": ("infeasible", "unbounded")}
    if answer.verdict not in expected.get(case.kind, ("solved",)):
        return Answer("unsure")
    if answer.verdict == "solved" and without_priced:
        # With a little of them it costs more: the prices are far above what they could save.
        slopes = np.abs(case.problem[0] @ answer.x + case.problem[1])
        if slopes[case.priced].min() < 1e3 * max(1, slopes[~case.priced].max()):
            return Answer("unsure")
    if not case.exact and answer.verdict == "solved" and not case.priced.any() and not case.rounding:
        # Units that are no powers of two change the data by rounding: is the problem what it was?
        other = _by_clarabel(without_units(case, data(case)))
        if other.verdict == "solved" and not _agree(case.problem, answer, other, 0.1 * TOLERANCE[case.dtype]):
            return Answer("unsure")
    return answer


def has_ray(problem):
    """Whether the objective would decrease forever along a direction, were there feasible points."""
    P, q, A, b, G, h, lower, upper = problem
    finite, n = np.isfinite(h), q.size
    bounds = np.stack([np.where(np.isfinite(lower), 0, -1), np.where(np.isfinite(upper), 0, 1)], 1)
    flat = np.concatenate([P, A])
    found = scipy.optimize.linprog(q, G[finite], np.zeros(finite.sum()), flat, np.zeros(n + b.size), bounds)
    return found.status == 0 and found.fun < -1e-6


# ---- Runs ---------------------------------------------------------------------------------------------------------


@functools.cache
def solver(method):
    """A batch of problems by one method with its default options."""

    def solve(P, q, A, b, G, h, lower, upper):
        some = (A, b) if b.size else (None, None)
        others = (G, h) if h.size else (None, None)
        found = jaxsolve.solve_qp(P, q, *some, *others, lower, upper, method=method)
        return found.x, found.status, found.iter_num, found.error

    return jax.jit(jax.vmap(solve))


def run(cases, method):
    """``x, status, iterations, error`` of cases of one shape and dtype, each with a leading axis."""
    arrays, parts = [data(case) for case in cases], []
    for start in range(0, len(arrays), BATCH):
        batch = arrays[start : start + BATCH]
        filled = batch + [batch[0]] * (BATCH - len(batch))  # one compilation
        found = solver(method)(*(jnp.asarray(np.stack(part)) for part in zip(*filled, strict=True)))
        parts.append([np.asarray(part)[: len(batch)] for part in found])
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def judge(case, answer, x, status):
    """``"right"``, ``"wrong"``, ``"false"`` or ``"undecided"``, and by how much the objective and a row are off."""
    problem, name = case.problem, Status(int(status)).name
    if name in ("PRIMAL_INFEASIBLE", "DUAL_INFEASIBLE", "NONCONVEX"):
        right = {"PRIMAL_INFEASIBLE": "infeasible", "DUAL_INFEASIBLE": "unbounded"}.get(name) == answer.verdict
        right |= case.kind == "neither" and name != "NONCONVEX"
        if not right and name == "DUAL_INFEASIBLE" and answer.verdict == "infeasible":
            right = has_ray(problem)
        return ("right" if right else "false"), np.nan, np.nan
    if name != "CONVERGED":
        return "undecided", np.nan, np.nan
    if answer.verdict != "solved":
        return "wrong", np.inf, np.inf
    _, _, A, b, G, h, lower, upper = problem
    x = np.asarray(x, np.float64) * case.variables
    violation = np.concatenate(
        [np.abs(A @ x - b), np.maximum(G @ x - h, 0), np.maximum(np.maximum(lower - x, x - upper), 0)]
    )
    finite = [np.where(np.isfinite(side), np.abs(side), 0) for side in (b, h, lower, upper)]
    size = np.concatenate(
        [
            np.maximum(np.abs(A) @ np.maximum(np.abs(x), 1), finite[0]),
            np.maximum(np.abs(G) @ np.maximum(np.abs(x), 1), finite[1]),
            np.maximum(np.maximum(np.abs(x), 1), np.maximum(finite[2], finite[3])),
        ]
    )
    broken = float(np.max(violation / np.maximum(size, 1e-300), initial=0, where=size > 0))
    off = float(abs(value_of(problem, x) - answer.value) / size_of(problem, answer.x))
    good = max(off, broken) <= TOLERANCE[case.dtype]
    return ("right" if good else "wrong"), off, broken


def fuzz(count, seed, dtypes, methods, kinds=KINDS, units=UNITS):
    """``[(index, case, method, outcome, status, iterations, off, broken)]``, and how many cases were left out."""
    outcomes, left_out = [], collections.Counter()
    for dtype in dtypes:
        groups = collections.defaultdict(list)
        for index in range(count):
            if shape_of(index)[0] not in kinds:
                continue
            one = case(seed, index, dtype)
            if one.units not in units:
                continue
            answer = reference(one)
            if answer.verdict == "unsure":
                left_out[dtype, one.kind] += 1
                continue
            groups[shape_of(index)[1]].append((index, one, answer))
        for method in methods:
            for members in groups.values():
                found = run([one for _, one, _ in members], method)
                for (index, one, answer), x, status, iterations, _ in zip(members, *found, strict=True):
                    outcome, off, broken = judge(one, answer, x, status)
                    outcomes.append(
                        (index, one, method, outcome, Status(int(status)).name, int(iterations), off, broken)
                    )
    return outcomes, left_out


def table(outcomes, key):
    """A line for each value of a key and in all, with the counts of outcomes."""
    groups = collections.defaultdict(list)
    for outcome in outcomes:
        for name in (key(outcome), "in all"):
            groups[outcome[1].dtype, outcome[2], name].append(outcome)
    columns = ("right", "wrong", "false", "undecided")
    print(f"{'dtype':8} {'method':14} {'':11} {'cases':>6}", *(f"{c:>9}" for c in columns), "  decided  median     max")
    for (dtype, method, name), members in sorted(
        groups.items(), key=lambda item: (item[0][:2], item[0][2] == "in all")
    ):
        counts = collections.Counter(outcome[3] for outcome in members)
        iterations = [outcome[5] for outcome in members if outcome[3] == "right"] or [0]
        decided = 1 - counts["undecided"] / len(members)
        print(f"{dtype:8} {method:14} {name:11} {len(members):6}", *(f"{counts[c]:9}" for c in columns), end="")
        print(f" {decided:8.1%} {np.median(iterations):8.0f} {max(iterations):7}")


# ---- Derivatives --------------------------------------------------------------------------------------------------

_DIRECTIONS = 3


def directions(case, index):
    """Relative changes of all data, a few sets of them, and the weights of a loss: the same in all units."""
    rng = np.random.default_rng(index)
    sets = []
    for _ in range(_DIRECTIONS):
        changes = [np.where(np.isfinite(part), rng.normal(size=part.shape), 0) for part in case.problem]
        changes[0] = (changes[0] + changes[0].T) / 2
        sets.append(changes)
    return sets, rng.normal(size=case.problem[1].size)


def slopes(case, x, index):
    """Slopes of the loss along ``directions`` at a solution that its active rows determine, or ``None``.

    The slopes come from the linear system of the active rows, and are confirmed by central differences of its solution.
    """
    P, q, A, b, G, h, lower, upper = case.problem
    n, m = q.size, b.size + h.size
    rows = np.concatenate([A, G, -np.eye(n), np.eye(n)])
    sides = np.concatenate([b, h, -lower, upper])
    active = sides - rows @ x <= 1e-6
    both = np.isfinite(lower) & (lower == upper)
    active[m + n :][both] = False
    size, one_sided = int(active.sum()), np.flatnonzero(active) >= b.size
    one_sided &= ~np.isin(np.flatnonzero(active), m + np.flatnonzero(both))

    def system(problem):
        P, q, A, b, G, h, lower, upper = problem
        rows = np.concatenate([A, G, -np.eye(n), np.eye(n)])[active]
        sides = np.concatenate([b, h, -lower, upper])[active]
        return np.block([[P, rows.T], [rows, np.zeros((size, size))]]), np.concatenate([-q, sides])

    K, right = system(case.problem)
    if np.linalg.cond(K) > 1e8:
        return None
    solution = np.linalg.solve(K, right)
    inactive = sides[~active] - rows[~active] @ solution[:n]
    if (solution[n:][one_sided] < 1e-3).any() or (inactive < 1e-3).any():
        return None
    sets, weights = directions(case, index)
    found = []
    for changes in sets:

        def at(step, changes=changes):
            return system(
                [np.where(np.isfinite(v), v * (1 + step * c), v) for v, c in zip(case.problem, changes, strict=True)]
            )

        plus, minus = at(1.0), at(-1.0)  # the system is linear in the data
        dK, dright = (plus[0] - minus[0]) / 2, (plus[1] - minus[1]) / 2
        slope = weights @ np.linalg.solve(K, dright - dK @ solution)[:n]
        step = 1e-5
        ends = [weights @ np.linalg.solve(*at(sign * step))[:n] for sign in (1, -1)]
        found.append((slope, (ends[0] - ends[1]) / (2 * step)))
    found = np.array(found)
    largest = np.abs(found[:, 0]).max()
    if largest == 0 or np.abs(found[:, 0] - found[:, 1]).max() > 1e-4 * largest:
        return None
    return found[:, 0]


@functools.cache
def gradient(method):
    """Gradients of a weighted sum of the solution, for a batch."""

    def loss(data, weights):
        P, q, A, b, G, h, lower, upper = data
        some = (A, b) if b.size else (None, None)
        others = (G, h) if h.size else (None, None)
        found = jaxsolve.solve_qp(P, q, *some, *others, lower, upper, method=method)
        return weights @ found.x, found.status

    return jax.jit(jax.vmap(jax.grad(loss, has_aux=True)))


def gradients(count, seed, methods, kinds=KINDS, units=UNITS):
    """``[(index, case, method, error)]``, relative to the largest slope; infinite where the solver did not converge."""
    groups, errors = collections.defaultdict(list), []
    for index in range(count):
        if shape_of(index)[0] not in kinds:
            continue
        one = case(seed, index)
        if one.units not in units or not one.exact or one.rounding:
            continue
        answer = reference(one)
        wanted = slopes(one, answer.x, index) if answer.verdict == "solved" else None
        if wanted is not None:
            groups[shape_of(index)[1]].append((index, one, wanted))
    for method in methods:
        for members in groups.values():
            for start in range(0, len(members), BATCH):
                batch = members[start : start + BATCH]
                filled = batch + [batch[0]] * (BATCH - len(batch))
                data_of = [
                    jnp.asarray(np.stack(part)) for part in zip(*(data(one) for _, one, _ in filled), strict=True)
                ]
                weights = np.stack([directions(one, index)[1] * one.variables for index, one, _ in filled])
                grads, status = gradient(method)(tuple(data_of), jnp.asarray(weights))
                grads = [np.asarray(part) for part in grads]
                for i, (index, one, wanted) in enumerate(batch):
                    arrays = data(one)
                    got = [
                        sum(
                            np.sum(np.where(np.isfinite(v), v, 0) * change * g[i])
                            for v, change, g in zip(arrays, changes, grads, strict=True)
                        )
                        for changes in directions(one, index)[0]
                    ]
                    error = np.abs(np.array(got) - wanted).max() / np.abs(wanted).max()
                    good = int(status[i]) == Status.CONVERGED and np.isfinite(error)
                    errors.append((index, one, method, float(error) if good else np.inf, Status(int(status[i])).name))
    return errors


def gradient_table(errors, seed, show):
    """A line for each kind: how many gradients are right, and the largest errors."""
    groups = collections.defaultdict(list)
    for index, one, method, error, status in errors:
        for name in (one.kind, "in all"):
            groups[method, name].append(error)
        if show and error > 1e-6:
            print(f"case({seed}, {index}) {method} {one.kind} units={one.units} {status}: gradient off by {error:.1e}")
    print(f"{'method':14} {'':11} {'cases':>6} {'right':>6} {'median':>8} {'largest':>8} {'not converged':>14}")
    for (method, name), values in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] == "in all")):
        ends = np.array([value for value in values if np.isfinite(value)] or [0.0])
        print(f"{method:14} {name:11} {len(values):6} {np.sum(ends <= 1e-6):6} {np.median(ends):8.1e}", end="")
        print(f" {ends.max():8.1e} {len(values) - len(ends):14}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="both", choices=("float64", "float32", "both"))
    parser.add_argument("--method", default="both", choices=("interior_point", "osqp", "both"))
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument("--units", nargs="*", default=UNITS, choices=UNITS)
    parser.add_argument("--list", action="store_true", help="print the failing cases")
    parser.add_argument("--gradients", action="store_true", help="derivatives in float64 instead of solutions")
    arguments = parser.parse_args()
    dtypes = ("float64", "float32") if arguments.dtype == "both" else (arguments.dtype,)
    methods = ("interior_point", "osqp") if arguments.method == "both" else (arguments.method,)
    if arguments.gradients:
        errors = gradients(arguments.count, arguments.seed, methods, arguments.kinds, arguments.units)
        gradient_table(errors, arguments.seed, arguments.list)
        return
    outcomes, left_out = fuzz(arguments.count, arguments.seed, dtypes, methods, arguments.kinds, arguments.units)
    table(outcomes, lambda outcome: outcome[1].kind)
    print()
    table(outcomes, lambda outcome: outcome[1].units)
    print(f"left out: {sum(left_out.values())}", dict(left_out))
    if arguments.list:
        for index, one, method, outcome, status, iterations, off, broken in outcomes:
            if outcome != "right":
                print(
                    f"case({arguments.seed}, {index}, {one.dtype!r}) {method} {one.kind} units={one.units} "
                    f"exact={one.exact} shape={shape_of(index)[1]}: {outcome}, {status} after {iterations}, "
                    f"objective off {off:.1e}, row broken {broken:.1e}"
                )


if __name__ == "__main__":
    main()
