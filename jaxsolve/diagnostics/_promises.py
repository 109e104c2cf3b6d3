"""What this package promises of its solvers, tried on one solver and one problem."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._status import Status
from jaxsolve._types import OptStep, PyTree
from jaxsolve.base import Solver
from jaxsolve.diagnostics._problem import Differences, Problem, changed_options, precise
from jaxsolve.implicit_diff._check import observe_tangents
from jaxsolve.tree_util import tree_l2_norm, tree_sub

__all__ = ["Promise", "SolverReport", "check_solver"]


@dataclasses.dataclass(frozen=True)
class Promise:
    """One promise.

    Attributes:
        name: what is promised.
        holds: whether it holds; ``None`` if it does not apply.
        detail: what was found.
    """

    name: str
    holds: bool | None
    detail: str


@dataclasses.dataclass(frozen=True, repr=False)
class SolverReport:
    """The result of :func:`check_solver`; it is printed as one line per promise.

    Attributes:
        solver: name of the solver's class.
        promises: list of :class:`Promise`.
    """

    solver: str
    promises: list[Promise]

    @property
    def holds(self) -> bool:
        """Whether every applicable promise holds."""
        return all(promise.holds is not False for promise in self.promises)

    def __getitem__(self, name: str) -> Promise:
        """The promise of that name."""
        return {promise.name: promise for promise in self.promises}[name]

    def __repr__(self) -> str:
        words = {True: "holds", False: "FAILS", None: "-"}
        lines = [f"  {words[p.holds]:5}  {p.name}: {p.detail}" for p in self.promises]
        return "\n".join([f"{self.solver}", *lines])


def check_solver(
    solver: Solver, init_params: PyTree = None, *args: Any, loss: Callable | None = None, **kwargs: Any
) -> SolverReport:
    """Check on your own solver what this package promises of its solvers.

    The solver runs on one problem, with its own tolerance, and for derivatives with a tolerance near the precision of
    the dtype. Choose a small problem with a smooth solution that takes at least a few iterations.

    Args:
        solver: the solver.
        init_params: initial point, as for ``solver.run``.
        *args: data of the problem; derivatives are with respect to their floating-point leaves.
        loss: ``loss(params)``, a scalar function of the solution; by default half the sum of its squares.
        **kwargs: further data.

    Returns:
        A :class:`SolverReport`; print it. If the check of a promise raises an exception, the promise fails, and the
        line has the message.

    Raises:
        ValueError: the data have no floating-point leaf.

    Example:
        >>> import jax.numpy as jnp, jaxsolve
        >>> solver = jaxsolve.FixedPointIteration(lambda x, t: 0.5 * x + t, maxiter=30)
        >>> report = jaxsolve.diagnostics.check_solver(solver, jnp.asarray(0.0), 1.0)
        >>> report.holds
        True
    """
    problem = Problem.of(init_params, args, kwargs, loss)
    return SolverReport(type(solver).__name__, [_tried(*promise, solver, problem) for promise in _PROMISES])


def _tried(name: str, test: Callable, solver: Solver, problem: Problem) -> Promise:
    try:
        holds, detail = test(solver, problem)
    except Exception as error:
        first = str(error).partition("\n")[0]
        return Promise(name, False, f"{type(error).__name__}: {first}")
    return Promise(name, holds, detail)


def _tolerance(leaves: list) -> float:
    return max(float(jnp.finfo(x.dtype).eps) for x in leaves) ** 0.25


def _agree(got: PyTree, want: PyTree, terms: PyTree = None) -> tuple[bool, str]:
    """Whether two pytrees agree, and by how much, relative to the second or to the terms of which it is a sum."""
    got, want = ([x for x in jax.tree.leaves(tree) if hasattr(x, "dtype")] for tree in (got, want))
    size = float(tree_l2_norm(want if terms is None else terms))
    distance = float(tree_l2_norm(tree_sub(got, want))) / (size if size > 0 else 1.0)
    return distance <= _tolerance(want), f"relative difference {distance:.1e}"


# ---- The promises -------------------------------------------------------------------------------------------------


def _converges(solver, problem):
    state = problem.run(solver, problem.leaves).state
    if not hasattr(state, "status"):
        return None, "the state has no status"
    status = Status(int(state.status))
    return status is Status.CONVERGED, status.name


def _is_optimal(solver, problem):
    args, kwargs = problem.arguments(problem.leaves)
    params = problem.run(precise(solver), problem.leaves).params
    norm = lambda point: float(solver.l2_optimality_error(point, *args, **kwargs))  # noqa: E731
    error = norm(params)
    # Compared with that at the start, which has its unit, or with what the user asks for.
    start = problem.init_params
    start = start.params if isinstance(start, OptStep) else start
    first = 1.0 if start is None else norm(start)
    asked = max(_tolerance(problem.leaves) * first, float(getattr(solver, "tol", None) or 0.0))
    return error <= asked, f"the norm of optimality_fun at the solution is {error:.1e}"


def _compiles(solver, problem):
    if not solver.jit:
        return None, "jit=False"
    run = lambda leaves: problem.run(solver, leaves).params  # noqa: E731
    return _agree(jax.jit(run)(problem.leaves), run(problem.leaves))


def _batches(solver, problem):
    if not solver.jit:
        return None, "jit=False"
    run = lambda leaves: problem.run(solver, leaves).params  # noqa: E731
    twice = jax.vmap(run)([jnp.stack([x, x]) for x in problem.leaves])
    alone = run(problem.leaves)
    return _agree(twice, jax.tree.map(lambda x: jnp.stack([x, x]) if hasattr(x, "dtype") else x, alone))


def _keeps_dtype(solver, problem):
    if problem.init_params is None:
        return None, "there is no initial point"
    given, got = (
        [str(x.dtype) for x in jax.tree.leaves(tree) if hasattr(x, "dtype")]
        for tree in (problem.init_params, problem.run(solver, problem.leaves).params)
    )
    return given == got, f"{', '.join(dict.fromkeys(given))} in, {', '.join(dict.fromkeys(got))} out"


def _reports_nonfinite(solver, problem):
    try:
        state = problem.run(solver, [jnp.full_like(x, jnp.nan) for x in problem.leaves]).state
    except ValueError:
        return True, "NaN as data raise an error"
    if not hasattr(state, "status"):
        return None, "the state has no status"
    status = Status(int(state.status))
    return status is not Status.CONVERGED, f"NaN as data end with {status.name}"


def _differentiates(solver, problem):
    differences = Differences.of(problem, precise(solver))
    gradient = jax.grad(problem.function(precise(solver)))(problem.leaves)
    slopes = differences.directions @ np.concatenate([np.ravel(np.asarray(x)) for x in gradient])
    distance = np.linalg.norm(slopes - differences.slopes) / (np.linalg.norm(differences.slopes) or 1.0)
    allowed = max(_tolerance(problem.leaves), 3 * differences.uncertainty)
    return bool(distance <= allowed), f"relative difference {distance:.1e} from finite differences"


def _has_both_modes(solver, problem):
    value = problem.function(precise(solver))
    tangents = [jnp.ones_like(x) for x in problem.leaves]
    forward = jax.jvp(value, (problem.leaves,), (tangents,))[1]
    gradient = jax.grad(value)(problem.leaves)  # along the tangents it may vanish: its entries cancel
    return _agree(forward, sum(jnp.sum(x) for x in gradient), gradient)


def _unrolls(solver, problem):
    try:
        unrolled = changed_options(precise(solver), maxiter=getattr(solver, "maxiter", None), implicit_diff=False)
    except ValueError as error:
        return None, str(error)
    gradient = jax.grad(problem.function(precise(solver)))(problem.leaves)
    return _agree(jax.grad(problem.function(unrolled))(problem.leaves), gradient)


def _has_second_order(solver, problem):
    value = problem.function(precise(solver))
    tangents = [jnp.ones_like(x) for x in problem.leaves]
    forward = jax.jvp(jax.grad(value), (problem.leaves,), (tangents,))[1]
    along = lambda leaves: sum(jnp.sum(x) for x in jax.grad(value)(leaves))  # noqa: E731
    return _agree(forward, jax.grad(along)(problem.leaves))


def _solves_accurately(solver, problem):
    residuals = []
    with observe_tangents(lambda name, residual: residuals.append(residual)):
        jax.block_until_ready(jax.grad(problem.function(changed_options(solver, implicit_diff=True)))(problem.leaves))
    if not residuals:
        return None, "the derivative solves no linear system"
    worst = float(np.max(residuals))
    return worst <= _tolerance(problem.leaves), f"relative residual {worst:.1e}"


_PROMISES = (
    ("a run converges", _converges),
    ("the solution meets the optimality conditions", _is_optimal),
    ("jax.jit changes nothing", _compiles),
    ("jax.vmap changes nothing", _batches),
    ("the dtype is kept", _keeps_dtype),
    ("NaN in the data is reported", _reports_nonfinite),
    ("the gradient is right", _differentiates),
    ("forward and reverse mode agree", _has_both_modes),
    ("unrolled and implicit gradients agree", _unrolls),
    ("second derivatives agree in both orders of modes", _has_second_order),
    ("the linear solve of the gradient is accurate", _solves_accurately),
)
