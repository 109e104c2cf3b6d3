"""Units: the objective, the variables or the rows times a power of two change a solution by that factor alone."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import Status

POWERS = range(-40, 41, 8)
UNITS = ("objective", "variables", "one variable", "two variables", "rows", "one equality", "one inequality")
DTYPES = ("float64", "float32")


class Program(NamedTuple):
    """A quadratic program, or many with a leading axis."""

    P: np.ndarray
    q: np.ndarray
    A: np.ndarray
    b: np.ndarray
    G: np.ndarray
    h: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


class Solution(NamedTuple):
    """``x``, and the multipliers of ``A x = b``, of ``G x <= h`` and of the bounds; ``None`` for what is not there."""

    x: np.ndarray
    eq: np.ndarray | None
    ineq: np.ndarray | None
    bounds: np.ndarray | None


class Instance(NamedTuple):
    """A problem, how it ends, and its solution if it has one."""

    program: Program
    status: Status
    solution: Solution | None


# ---- Problems -----------------------------------------------------------------------------------------------------

# Multiples of 1/8, which are exact in single precision, times powers of two as well.
ROOT = np.array([[1.0, 0.5, 0.0, -1.0], [0.0, 1.5, 1.0, 0.25], [-0.5, 0.0, 2.0, 1.0], [1.0, 0.0, -0.75, 0.5]])
A = np.array([[1.0, 1.0, -0.5, 2.0]])
G = np.array([[1.0, -2.0, 0.5, 1.0], [0.5, 1.0, 1.5, -1.0], [-1.0, 0.25, 1.0, 0.5]])
X = np.array([0.5, -1.0, 1.5, 0.75])


def _with_solution(P, A, G, ineq, bounds):
    """The instance whose solution is ``X`` with these multipliers, all of which belong to a row that holds."""
    eq = np.array([0.75])[: len(A)]
    q = -(P @ X + A.T @ eq + G.T @ ineq + bounds)
    h = G @ X + np.where(ineq > 0, 0, 1.5)
    lower, upper = np.where(bounds < 0, X, X - 2.0), np.where(bounds > 0, X, np.inf)
    return Instance(Program(P, q, A, A @ X, G, h, lower, upper), Status.CONVERGED, Solution(X, eq, ineq, bounds))


def _general():
    """A strictly convex problem and a linear one, each with one solution, a contradiction, and an endless descent."""
    quadratic = _with_solution(ROOT.T @ ROOT, A, G, np.array([1.5, 0, 0]), np.array([0, -0.5, 0, 0]))
    linear = _with_solution(np.zeros((4, 4)), A, G, np.array([1.5, 0.5, 0]), np.array([0, -0.5, 0, 0]))
    # A variable that nothing connects with the others, and a linear program of two that have nothing in common.
    first, second = np.array([0, 1.0, 1, 1]), np.array([0, 0, 1.0, 1])
    alone = _with_solution(
        (ROOT * first).T @ (ROOT * first), A * first, G * first, np.array([1.5, 0, 0]), np.array([-0.5, 0, 0, 0])
    )
    apart = _with_solution(
        np.zeros((4, 4)),
        A * second,
        np.array([G[0] - G[0] * second, G[1] - G[1] * second, G[2] * second]),
        np.array([1.5, 0.5, 0]),
        np.array([0, 0, -0.5, 0]),
    )
    opposed = np.array([G[0], -G[0], G[2]])
    infeasible = quadratic.program._replace(G=opposed, h=np.array([1.0, -2.0, 3.0]))
    d = np.array([1.0, -1.0, 2.0, 1.0])  # neither curvature nor rows stop who goes this way

    def along(rows, growth):
        return rows - np.outer(rows @ d - growth, [1.0, 0, 0, 0])

    curved, rows = along(ROOT[:2], 0), along(G, np.array([0, -1.0, -0.5]))
    free = np.full(4, -np.inf), np.full(4, np.inf)
    unbounded = Program(curved.T @ curved, along(G[:1], -1.0)[0], along(A, 0), A @ X, rows, np.ones(3), *free)
    return {
        "quadratic": quadratic,
        "linear": linear,
        "alone": alone,
        "apart": apart,
        "infeasible": Instance(infeasible, Status.PRIMAL_INFEASIBLE, None),
        "unbounded": Instance(unbounded, Status.DUAL_INFEASIBLE, None),
    }


def _without_inequalities():
    """Problems for a solver of equalities."""
    none, free, A = G[:0], (np.full(4, -np.inf), np.full(4, np.inf)), np.stack([G[0], G[1]])
    eq = np.array([0.75, -0.5])

    def instance(P, q, A, b, status, *solution):
        found = Solution(*solution, None, None) if solution else None
        return Instance(Program(P, q, A, b, none, np.zeros(0), *free), status, found)

    P, flat = ROOT.T @ ROOT, ROOT[:2].T @ ROOT[:2]
    null = np.stack([A[0], 2 * A[0]])
    return {
        "quadratic": instance(P, -(P @ X + A.T @ eq), A, A @ X, Status.CONVERGED, X, eq),
        "semidefinite": instance(flat, -(flat @ X + A.T @ eq), A, A @ X, Status.CONVERGED, X, eq),
        "infeasible": instance(P, X, null, np.array([1.0, 3.0]), Status.PRIMAL_INFEASIBLE),
        "unbounded": instance(np.zeros((4, 4)), X, A, A @ X, Status.DUAL_INFEASIBLE),
    }


def _over_a_box():
    """Problems for coordinate descent."""
    none, bounds = G[:0], np.array([0, -0.5, 0.75, 0])

    def instance(P, status, bounds, lower, upper, solution=None):
        return Instance(
            Program(P, -(P @ X) - bounds, none, np.zeros(0), none, np.zeros(0), lower, upper), status, solution
        )

    P, lower, upper = ROOT.T @ ROOT, np.where(bounds < 0, X, X - 2), np.where(bounds > 0, X, X + 3)
    flat = np.where(np.eye(4)[3] > 0, 0, np.where(np.eye(4)[:, 3:] > 0, 0, P))
    downhill = np.array([0, -0.5, 0.75, 1.0])
    return {
        "quadratic": instance(P, Status.CONVERGED, bounds, lower, upper, Solution(X, None, None, None)),
        "unbounded": instance(flat, Status.DUAL_INFEASIBLE, downhill, lower, np.where(np.eye(4)[3] > 0, np.inf, upper)),
    }


PROBLEMS = {"general": _general(), "equalities": _without_inequalities(), "box": _over_a_box()}


# ---- Solvers ------------------------------------------------------------------------------------------------------


def _solve_qp(method):
    def solve(P, q, A, b, G, h, lower, upper):
        others = () if method == "equality" else (G, h, lower, upper)
        found = jaxsolve.solve_qp(P, q, A, b, *others, method=method)
        return (found.x, found.dual_eq, found.dual_ineq, found.dual_bounds), found.status, found.iter_num

    return solve


def _linprog(_, q, A, b, G, h, lower, upper):
    found = jaxsolve.linprog(q, G, h, A, b, jnp.stack([lower, upper], axis=1))
    of = found.marginals
    return (found.x, -of.eqlin, -of.ineqlin, -of.lower - of.upper), found.status, found.nit


def _in_rows(solver):
    """A solver whose constraints are rows between two bounds."""

    def solve(P, q, A, b, G, h, lower, upper):
        rows = jnp.concatenate([A, G, jnp.eye(q.size, dtype=q.dtype)])
        sides = jnp.concatenate([b, jnp.full_like(h, -jnp.inf), lower]), jnp.concatenate([b, h, upper])
        (primal, y, _), state = solver().run(None, (P, q), rows, sides)
        eq, ineq, bounds = jnp.split(y, (b.size, b.size + h.size))
        return (primal[0], eq, ineq, bounds), state.status, state.iter_num

    return solve


def _osqp(P, q, A, b, G, h, lower, upper):
    eye = jnp.eye(q.size, dtype=q.dtype)
    rows, sides = jnp.concatenate([G, -eye, eye]), jnp.concatenate([h, -lower, upper])
    (x, eq, z), state = jaxsolve.OSQP().run(None, (P, q), (A, b), (rows, sides))
    ineq, below, above = jnp.split(z, (h.size, h.size + q.size))
    return (x, eq, ineq, above - below), state.status, state.iter_num


def _equality(P, q, A, b, *_):
    (x, eq, _), state = jaxsolve.EqualityConstrainedQP().run(None, (P, q), (A, b))
    return (x, eq, None, None), state.status, state.iter_num


def _coordinate_descent(P, q, A, b, G, h, lower, upper):
    x, state = jaxsolve.BoxCDQP().run(None, (P, q), (lower, upper))
    return (x, None, None, None), state.status, state.iter_num


# By name: the solver, its problems, and the tolerance of its solutions by dtype. A solution that an active set
# determines has the digits of the dtype, whatever the tolerance; the others have those of their tolerance.
EXACT, LOOSE = {"float64": 1e-7, "float32": 1e-4}, {"float64": 1e-3, "float32": 1e-3}
SOLVERS = {
    "solve_qp interior_point": (_solve_qp("interior_point"), "general", EXACT),
    "solve_qp osqp": (_solve_qp("osqp"), "general", EXACT),
    "solve_qp equality": (_solve_qp("equality"), "equalities", EXACT),
    "solve_qp matrix_free": (_solve_qp("matrix_free"), "general", LOOSE),
    "linprog": (_linprog, "general", EXACT),
    "InteriorPointQP": (_in_rows(jaxsolve.InteriorPointQP), "general", EXACT),
    "BoxOSQP": (_in_rows(jaxsolve.BoxOSQP), "general", EXACT),
    "OSQP": (_osqp, "general", EXACT),
    "EqualityConstrainedQP": (_equality, "equalities", EXACT),
    "BoxCDQP": (_coordinate_descent, "box", LOOSE),
}
# In `make test` those with code of their own.
FIRST = {
    "solve_qp interior_point": DTYPES,
    "solve_qp osqp": ("float64",),
    "solve_qp equality": ("float64",),
    "BoxCDQP": ("float64",),
}
# Residuals are looked at once in so many iterations of operator splitting, and certificates once in about as many.
_BETWEEN_CHECKS = 5


# ---- Laws ---------------------------------------------------------------------------------------------------------


def _factors(units, power, program):
    """Units of the objective, of the variables, and of the rows of ``A`` and of ``G``."""
    cost, factor = 1.0, 2.0**power
    variables, eq, ineq = (np.ones(size) for size in (program.q.size, program.b.size, program.h.size))
    if units == "objective":
        cost = factor
    elif units == "variables":
        variables[:] = factor
    elif units == "one variable":
        variables[:1] = factor
    elif units == "two variables":
        variables[:2] = factor
    elif units == "rows":
        eq[:] = ineq[:] = factor
    elif units == "one equality":
        eq[:1] = factor
    elif units == "one inequality":
        ineq[:1] = factor
    return cost, variables, eq, ineq


def _in_units(program, cost, variables, eq, ineq):
    P, q, A, b, G, h, lower, upper = program
    return Program(
        cost * variables[:, None] * P * variables,
        cost * variables * q,
        eq[:, None] * A * variables,
        eq * b,
        ineq[:, None] * G * variables,
        ineq * h,
        lower / variables,
        upper / variables,
    )


def _instances(name):
    """The problems of a solver by name; for one of linear programs without their quadratic terms."""
    instances = dict(PROBLEMS[SOLVERS[name][1]])
    if name == "linprog":
        del instances["quadratic"], instances["alone"]
        flat = {key: one.program._replace(P=np.zeros((4, 4))) for key, one in instances.items()}
        instances = {key: one._replace(program=flat[key]) for key, one in instances.items()}
    return instances


@functools.cache
def _results(name, dtype):
    """All problems in all units: ``{(instance, units, power): (solution, status, iterations)}``, units taken out."""
    solve = SOLVERS[name][0]
    keys, programs, factors = [], [], []
    for instance, (program, *_) in _instances(name).items():
        for units in UNITS:
            for power in POWERS:
                keys.append((instance, units, power))
                factors.append(_factors(units, power, program))
                programs.append(_in_units(program, *factors[-1]))
    data = [jnp.asarray(np.stack(part).astype(dtype)) for part in zip(*programs, strict=True)]
    solutions, status, iterations = jax.jit(jax.vmap(solve))(*data)
    found = {}
    for i, (key, (cost, variables, eq, ineq)) in enumerate(zip(keys, factors, strict=True)):
        x, *multipliers = (None if part is None else np.asarray(part[i], float) for part in solutions)
        back = (eq / cost, ineq / cost, 1 / (cost * variables))
        parts = [None if part is None else part * unit for part, unit in zip(multipliers, back, strict=True)]
        found[key] = Solution(x * variables, *parts), int(status[i]), int(iterations[i])
    return found


def _cases():
    for name in SOLVERS:
        for dtype in DTYPES:
            marks = [] if dtype in FIRST.get(name, ()) else [pytest.mark.slow]
            for units in UNITS:
                program = next(iter(_instances(name).values())).program
                if (units == "one equality" and not program.b.size) or (
                    units == "one inequality" and not program.h.size
                ):
                    continue
                if units == "rows" and not program.b.size + program.h.size:
                    continue
                yield pytest.param(name, dtype, units, marks=marks, id=f"{name}-{dtype}-{units}")


@pytest.mark.parametrize(("name", "dtype", "units"), list(_cases()))
def test_units_change_the_solution_by_their_factor_alone(name, dtype, units):
    tolerance, failures = SOLVERS[name][2][dtype], []
    for instance, (_, status, solution) in _instances(name).items():
        _, _, iterations = _results(name, dtype)[instance, units, 0]
        for power in POWERS:
            found, found_status, count = _results(name, dtype)[instance, units, power]
            what = f"{instance}, 2^{power}: "
            if found_status != status:
                failures.append(f"{what}{Status(found_status).name} after {count} iterations")
                continue
            checked = _BETWEEN_CHECKS if "osqp" in name.lower() or status != Status.CONVERGED else 1
            # In single precision rounding has a say in the last steps.
            share, least = (0.1, checked) if dtype == "float64" else (0.5, 4 * checked)
            if abs(count - iterations) > max(share * iterations, least):
                failures.append(f"{what}{count} iterations, and {iterations} without units")
            for part, value, wanted in zip(Solution._fields, found, solution or (), strict=False):
                if (
                    value is not None
                    and (error := np.max(np.abs(value - wanted)) / max(1, np.max(np.abs(wanted)))) > tolerance
                ):
                    failures.append(f"{what}{part} is off by {error:.1e}")
    assert not failures, "\n" + "\n".join(failures)
