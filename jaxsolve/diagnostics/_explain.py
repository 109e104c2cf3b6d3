"""Why a run for a quadratic, linear or conic program ended as it did."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._compat import is_concrete
from jaxsolve._status import Status
from jaxsolve._types import Array, PyTree
from jaxsolve.base import OptStep
from jaxsolve.diagnostics._certificates import Program, downhill_direction, find_contradiction, negative_curvature
from jaxsolve.diagnostics._explain_conic import ConicCase, explain_conic
from jaxsolve.diagnostics._explanation import ConstraintRow, Explanation, ResidualRow, residual_row
from jaxsolve.solvers._data import by_name
from jaxsolve.solvers.conic import ConicResult, ConicSolution, solve_conic
from jaxsolve.solvers.conic._base import ConicSolver
from jaxsolve.solvers.conic.solve_conic import planned_conic
from jaxsolve.solvers.quadratic import BoxCDQP, BoxOSQP, LinprogResult, QPResult, linprog, solve_qp
from jaxsolve.solvers.quadratic._base import QuadraticSolver
from jaxsolve.solvers.quadratic._elastic import ElasticForm, as_weights, counts
from jaxsolve.solvers.quadratic._problem import flat
from jaxsolve.solvers.quadratic.linear_program import planned_lp
from jaxsolve.solvers.quadratic.solve_qp import planned_qp

__all__ = ["explain"]


def explain(result: Any, *args: Any, solver: Any = None, **kwargs: Any) -> Explanation:
    """Explain how a run for a quadratic, linear or conic program ended.

    For a solved program the table shows the active rows with values, slacks and multipliers. For an infeasible program
    it shows rows that contradict each other, as few as possible: if any one of them is left out, the others can be
    satisfied. For an unbounded program it shows which variables go to infinity. For a run that failed in another way it
    shows which residual is the largest, and where. Contradictions and directions are computed again from the data, and
    checked in double precision, so they are proofs. For conic programs they are the certificates, cone by cone.

    Args:
        result: the result of :func:`.solve_qp`, :func:`.linprog` or :func:`.solve_conic`, or the ``OptStep`` of a
            solver for quadratic or conic programs. It must have concrete values, so call ``explain`` outside of
            ``jit``, and it must be one run, so pass one element of a batch.
        *args: the arguments of the call that returned it; for an ``OptStep`` those of ``solver.run``.
        solver: the solver, for an ``OptStep``.
        **kwargs: the keyword arguments of that call.

    Returns:
        An :class:`Explanation`; for conic programs a :class:`ConicExplanation`.

    Raises:
        TypeError: ``result`` has another type, has no concrete values, or its solver is not given.
        ValueError: ``result`` is a batch.

    Example:
        >>> import jax.numpy as jnp, jaxsolve
        >>> from jaxsolve.diagnostics import explain
        >>> c, G = jnp.ones(2), jnp.array([[1.0, 1.0], [-1.0, 0.0], [1.0, -3.0]])
        >>> constraints = {"G": G, "h": jnp.array([1.0, -2.0, 9.0]), "l": 0.0}
        >>> explain(jaxsolve.solve_qp(None, c, **constraints), None, c, **constraints)
        PRIMAL_INFEASIBLE: No point satisfies the constraints.
        These rows contradict each other; their sum with these multipliers is a contradiction:
        constraint      bound  multiplier
        G[0]        <=      1           1
        G[1]        <=     -2           1
        x[1]        >=      0          -1
        Their sum reads 0 <= -1. If any one of them is left out, the others can be satisfied.
    """
    is_conic = isinstance(result, ConicResult) or isinstance(solver, ConicSolver)
    case = (_conic_case_of if is_conic else _case_of)(result, args, kwargs, solver)
    if isinstance(case, ConicCase):
        return explain_conic(case)
    program, status = case.program, Status(int(case.state.status))
    rows, residuals = _constraint_rows(case), _residual_rows(case)
    contradiction, irreducible, direction = {}, False, {}
    kind, notes = "solved" if status is Status.CONVERGED else "failed", []
    if status is Status.PRIMAL_INFEASIBLE or kind == "failed" and status is not Status.DUAL_INFEASIBLE:
        if (found := find_contradiction(case.hard, float(jnp.finfo(case.x.dtype).eps))) is not None:
            kind, irreducible = "infeasible", found.irreducible
            contradiction = {case.rows[i]: float(y) for i, y in zip(found.rows, found.multipliers, strict=True)}
            notes.append(f"Their sum reads 0 <= {found.sum:.4g}.")
            if irreducible:
                notes[-1] += " If any one of them is left out, the others can be satisfied."
    if kind == "failed" and status is not Status.PRIMAL_INFEASIBLE:
        ray, curvature = downhill_direction(case.hard), negative_curvature(program)
        if curvature is not None:
            kind, direction = "nonconvex", _entries(case.variables, curvature[1])
            notes.append(f"The smallest eigenvalue of Q is {curvature[0]:.4g}.")
        elif ray is not None:
            kind, direction = "unbounded", _entries(case.variables, ray)
            notes.append(f"The objective falls by {-program.q @ ray:.4g} for each step along it.")
    if kind == "failed":
        notes += _notes_on_failure(case, status, residuals)
    return Explanation(status, kind, rows, contradiction, irreducible, direction, residuals, notes)


# ---- The program, and the point that was returned -----------------------------------------------------------------


class Case(NamedTuple):
    """A program with names, and what a run for it returned.

    Attributes:
        program: in NumPy.
        x: the point.
        y: multipliers of the rows.
        weights: prices of violations, infinite for rows that must hold.
        rows: names of the rows.
        variables: names of the variables.
        state: of the run, with ``status`` and ``error``.
        tol: absolute and relative tolerance.
    """

    program: Program
    x: Array
    y: Array
    weights: np.ndarray
    rows: list[str]
    variables: list[str]
    state: Any
    tol: tuple[float, float]

    @property
    def hard(self) -> Program:
        """The program without the rows that may be violated."""
        soft, (_, _, _, lower, upper) = np.isfinite(self.weights), self.program
        return self.program._replace(lower=np.where(soft, -np.inf, lower), upper=np.where(soft, np.inf, upper))

    @property
    def excess(self) -> np.ndarray:
        """How far each row is beyond its bounds, negative within."""
        Ax = self.program.A @ np.asarray(self.x, np.float64)
        return np.maximum(self.program.lower - Ax, Ax - self.program.upper)


class _Given(NamedTuple):
    """What a run was given, and what it returned, whatever function or solver ran.

    Attributes:
        solver: says how data become a program.
        data: behind the initial point.
        unknowns: the primal variables, and the multipliers of the rows.
        state: has ``status`` and ``error``.
        names: what the user calls the matrices.
    """

    solver: Any
    data: Any
    unknowns: tuple[PyTree, PyTree]
    state: Any
    names: dict[str, str] = {"A": "A", "G": "G"}


def _case_of(result: Any, args: tuple, kwargs: dict[str, Any], solver: Any) -> Case:
    solver, data, unknowns, state, names = _given(result, args, kwargs, solver)
    _check_one_run(state.status, unknowns, data)
    form, data = solver._form, solver._read(tuple(data), {})[0]
    elastic = isinstance(form, ElasticForm)
    problem = form.without_slacks().program(unknowns[0], *data[:-1]) if elastic else form.program(unknowns[0], *data)
    qp, dtype = problem.qp, problem.qp.q.dtype
    x, y = (flat(part, dtype) for part in unknowns)
    if (x.size, y.size) != (qp.q.size, qp.lower.size):
        raise ValueError(
            f"result has {x.size} variables and {y.size} multipliers, but the arguments are those of a program with "
            f"{qp.q.size} and {qp.lower.size}; explain needs the arguments of the call that returned it."
        )
    weights = np.full(qp.lower.shape, np.inf)
    if elastic:
        num_eq, num_soft = counts(problem)
        parts = as_weights(data[-1], {"A": num_eq, "G": num_soft - num_eq}, dtype)
        weights[:num_soft] = np.concatenate(parts)
    variables = _paths("x", problem.unravel_x(qp.q))
    rows = []
    for key, tree in problem.unravel_rows(qp.lower).items():
        rows += variables if key == "x" else _paths(names[key], tree)
    program = Program(
        *(np.asarray(part, np.float64) for part in (qp.P.dense(), qp.q, qp.A.dense(), qp.lower, qp.upper))
    )
    tol, rtol = (float(t) for t in solver._tolerances(dtype))
    return Case(program, x, y, weights, rows, variables, state, (tol, rtol))


def _check_one_run(status: Any, *values: Any) -> None:
    if not all(map(is_concrete, jax.tree.leaves((status, values)))):
        raise TypeError("explain reads concrete values: call it outside jit, vmap and grad.")
    if jnp.ndim(status):
        raise ValueError(
            f"explain expects one run, got a batch of shape {jnp.shape(status)}: pass "
            "jax.tree.map(lambda leaf: leaf[i], result), and the data of that element."
        )


def _conic_case_of(result: Any, args: tuple, kwargs: dict[str, Any], solver: Any) -> ConicCase | Case:
    """A conic program; one that was solved as a quadratic one is explained as such."""
    if isinstance(result, ConicResult):
        given = _arguments(solve_conic, args, kwargs) | {"method": result.method}
        _check_one_run(result.status, result, *(given[name] for name in "PcAb"))
        solver, data = planned_conic(given)
        params, proof, state = ConicSolution(result.x, result.y, result.s), result.certificate, result
    elif isinstance(result, OptStep):
        behind = args if "init_params" in kwargs else args[1:]
        kwargs = {name: value for name, value in kwargs.items() if name != "init_params"}
        data = by_name(solver, tuple(solver._arguments), behind, kwargs)
        _check_one_run(result.state.status, result.params, data)
        params, proof, state = result.params, result.state.certificate, result.state
    else:
        raise TypeError(f"explain expects what solve_conic returned, or an OptStep, got {type(result).__name__}.")
    data = solver._read(tuple(data), {})[0]
    solver._check_arguments(None, *data)
    problem = solver._form.program(None, *data)
    qp, cones = problem.qp, solver.cones
    arrays = [np.asarray(part, np.float64) for part in (qp.P.dense(), qp.q, qp.A.dense(), qp.upper)]
    point = ConicSolution(*(np.asarray(flat(part, qp.q.dtype), np.float64) for part in params))
    if (point.x.size, point.y.size) != (qp.q.size, qp.upper.size):
        raise ValueError(
            f"result has {point.x.size} variables and {point.y.size} multipliers, but the arguments are those of a "
            f"program with {qp.q.size} and {qp.upper.size}; explain needs the arguments of the call that returned it."
        )
    variables, (tol, rtol) = _paths("x", problem.unravel_x(qp.q)), solver._tolerances(qp.q.dtype)
    tols = float(tol), float(rtol)
    if proof is None:
        lower = np.asarray(qp.lower, np.float64)
        names = [f"{kind}[{i}]" for kind, sizes in cones.sizes.items() for i in range(len(sizes))]
        program = Program(arrays[0], arrays[1], arrays[2], lower, arrays[3])
        weights = np.full(lower.shape, np.inf)
        x, y = (jnp.asarray(part, qp.q.dtype) for part in point[:2])
        return Case(program, x, y, weights, names, variables, state, tols)
    P, c, *_ = arrays
    value = 0.5 * point.x @ P @ point.x + c @ point.x
    paid = 0.0 if getattr(result, "violation", None) is None else float(state.value) - value
    proof = ConicSolution(*(np.asarray(flat(part, qp.q.dtype), np.float64) for part in proof))
    status, eps = Status(int(state.status)), float(jnp.finfo(qp.q.dtype).eps)
    return ConicCase(cones, tuple(arrays), point, proof, paid, variables, status, float(state.error), tols, eps)


def _given(result: Any, args: tuple, kwargs: dict[str, Any], solver: Any) -> _Given:
    if isinstance(result, QPResult):
        options = _arguments(solve_qp, args, kwargs) | {"method": result.method}
        del options["init"], options["presolve"]  # of the run alone
        solver, data, *_ = planned_qp(**options)
        return _Given(solver, data, (result.x, (result.dual_eq, (result.dual_ineq, result.dual_bounds))), result)
    if isinstance(result, LinprogResult):
        options = _arguments(linprog, args, kwargs)
        del options["presolve"]
        solver, data = planned_lp(**options)
        of_ub, of_eq, of_lower, of_upper = result.marginals
        names = {"A": "A_eq", "G": "A_ub"}
        return _Given(solver, data, (result.x, (-of_eq, (-of_ub, -(of_lower + of_upper)))), result, names)
    if not isinstance(result, OptStep):
        raise TypeError(
            "explain expects what solve_qp or linprog returned, or an OptStep of a solver for quadratic programs, got "
            f"{type(result).__name__}."
        )
    if not isinstance(solver, (QuadraticSolver, BoxCDQP)):
        raise TypeError(f"an OptStep is explained with solver=, a solver for quadratic programs, got {solver!r}.")
    args = args if "init_params" in kwargs else args[1:]
    kwargs = {name: value for name, value in kwargs.items() if name != "init_params"}
    if isinstance(solver, QuadraticSolver):
        data = by_name(solver, tuple(solver._arguments), args, kwargs)
        return _Given(solver, data, solver._form.unknowns(result.params), result.state)
    params_obj, params_ineq = by_name(solver, tuple(solver._arguments), args, kwargs)
    options: dict[str, Any] = {"tol": solver.tol}
    box = BoxOSQP(**options)
    qp = box._form.program(None, *box._read((params_obj, None, params_ineq), {})[0]).qp
    x = flat(result.params, qp.q.dtype)
    # The bounds push back against the gradient.
    held = (x <= qp.lower) | (x >= qp.upper)
    return _Given(box, [params_obj, None, params_ineq], (x, jnp.where(held, -(qp.P.matvec(x) + qp.q), 0)), result.state)


def _arguments(function: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call by their names; ``TypeError`` for arguments that do not fit."""
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def _paths(name: str, tree: PyTree) -> list[str]:
    """A name for each entry of a pytree of arrays, in their order."""
    return [
        f"{name}{jax.tree_util.keystr(path)}{list(index) if index else ''}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        for index in np.ndindex(leaf.shape)
    ]


# ---- Tables -------------------------------------------------------------------------------------------------------


def _constraint_rows(case: Case) -> list[ConstraintRow]:
    _, _, A, lower, upper = case.program
    y = np.asarray(case.y, np.float64)
    x = np.asarray(case.x, np.float64)
    slack, push = -case.excess, np.abs(y)
    # Both in relative terms, which are the same in every unit: of the row, of the variables and of the objective.
    bounds = np.where(np.isfinite([lower, upper]), np.abs([lower, upper]), 0)
    sizes = np.maximum(np.max(np.abs(A * x), axis=1, initial=0), np.max(bounds, axis=0))
    gradient = np.maximum(np.max(np.abs(case.program.P * x), axis=1, initial=0), np.abs(case.program.q))
    gradient = np.maximum(gradient, np.max(push[:, None] * np.abs(A), axis=0, initial=0))
    relative_slack = slack / np.where(sizes > 0, sizes, 1)
    relative_push = np.max(push[:, None] * np.abs(A) / np.where(gradient > 0, gradient, 1), axis=1, initial=0)
    tol, rtol = case.tol
    tiny = np.sqrt(np.finfo(case.x.dtype).eps)

    def state(i):
        if -slack[i] > tol + rtol * sizes[i]:
            return "violated"
        if lower[i] == upper[i]:
            return "equality"
        if max(relative_slack[i], relative_push[i]) <= tiny:
            return "weakly active"
        if relative_slack[i] >= relative_push[i]:
            return "inactive"
        return "at upper" if y[i] > 0 else "at lower"

    columns = (lower.tolist(), (A @ x).tolist(), upper.tolist(), (slack + 0.0).tolist(), y.tolist())
    parts = enumerate(zip(case.rows, *columns, strict=True))
    return [ConstraintRow(*part, state=state(i)) for i, part in parts]


def _residual_rows(case: Case) -> list[ResidualRow]:
    P, q, A, lower, upper = case.program
    x, y = (np.asarray(part, np.float64) for part in (case.x, case.y))
    priced, excess = np.isfinite(case.weights), np.maximum(case.excess, 0)
    penalty = np.sum(case.weights[priced] * excess[priced])
    broken = np.where(priced, 0, excess)
    stationarity = P @ x + q + A.T @ y
    quadratic, linear = x @ P @ x, q @ x
    bounds = np.where(y > 0, upper, lower)
    support = y @ np.where(np.isfinite(bounds), bounds, 0)
    return [
        residual_row("primal", broken, (A * x, np.where(np.isfinite(bounds), bounds, 0)), case.rows),
        residual_row("dual", stationarity, (P * x, q, A.T * y), case.variables),
        residual_row(
            "gap", np.array([quadratic + linear + penalty + support]), (quadratic, linear, penalty, support), [""]
        ),
    ]


def _entries(names: list[str], vector: np.ndarray) -> dict[str, float]:
    return {name: float(entry) for name, entry in zip(names, vector, strict=True) if entry != 0}


def _notes_on_failure(case: Case, status: Status, residuals: list[ResidualRow]) -> list[str]:
    notes = []
    parts = {"the objective": (case.program.P, case.program.q), "the rows": (case.program.A,), "the result": (case.x,)}
    wrong = [name for name, arrays in parts.items() if not all(np.all(np.isfinite(array)) for array in arrays)]
    if wrong:
        notes.append(f"NaN or infinite entries in {' and in '.join(wrong)}.")
    elif status in (Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE):
        notes.append("This was not confirmed in double precision: the data may be close to such a program.")
    if not wrong:
        worst = max(residuals, key=lambda row: row.relative)
        where = f", at {worst.where}" if worst.where else ""
        notes.append(f"Relative to its terms the {worst.name} residual is the largest{where}.")
    notes.append(f"The error is {float(case.state.error):.2g}, tol is {case.tol[0]:.2g}.")
    return notes
