"""Gradients through a solver by every method that applies, side by side."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxsolve._types import PyTree
from jaxsolve._vectors import ravel
from jaxsolve.base import OptStep, Solver
from jaxsolve.diagnostics._comparison import GradientComparison, GradientRow
from jaxsolve.diagnostics._problem import Differences, Problem, changed_options, precise
from jaxsolve.diagnostics._tangent import norm_of, residual_of
from jaxsolve.implicit_diff._check import observe_tangents
from jaxsolve.linear_solve import (
    DIRECT_MAX_SIZE,
    solve_bicgstab,
    solve_cg,
    solve_cholesky,
    solve_gmres,
    solve_lsqr,
    solve_lu,
    solve_minres,
    solve_neumann,
    solve_normal_cg,
)

__all__ = ["compare_gradients"]

_GENERAL = (solve_gmres, solve_bicgstab, solve_normal_cg, solve_lsqr)
# By what is known of the matrix: direct methods, iterative methods.
_SOLVERS = {
    "psd": ((solve_cholesky, solve_lu), (solve_cg, solve_minres, *_GENERAL)),
    "symmetric": ((solve_lu,), (solve_minres, *_GENERAL)),
    "general": ((solve_lu,), _GENERAL),
}
_REPEATS = 3
_DIFFERENCES = "finite differences"


def compare_gradients(
    solver: Solver,
    init_params: PyTree = None,
    *args: Any,
    loss: Callable | None = None,
    arguments: Callable | None = None,
    reference: Any = None,
    iterations: Sequence[int] | None = None,
    linear_solvers: Sequence[Callable] | None = None,
    **kwargs: Any,
) -> GradientComparison:
    """Compute the gradient of a loss of the solution by every method that applies.

    The methods are implicit differentiation, with the linear solver that the solver chooses and with every other one
    that applies; one-step and truncated Neumann derivatives, if there is a fixed point or a gradient; and unrolling,
    plain and checkpointed. Each is compared with central differences of the loss. The differences use runs with a
    tolerance near the precision of the dtype and ten times the iterations. So an error comes from the method, or from a
    run that stopped early.

    Args:
        solver: the solver, with its options.
        init_params: initial point, as for ``solver.run``.
        *args: data of the problem. The gradient is with respect to all their floating-point leaves.
        loss: ``loss(params)``, a scalar function of the solution; by default half the sum of its squares.
        arguments: ``arguments(*args, **kwargs)`` returns the tuple of positional arguments of ``run`` after the initial
            point. Use it if these are functions of the data, for example two equal bounds made from one array. With
            ``None`` they are ``args`` and ``kwargs`` themselves.
        reference: the gradient with which the others are compared: the name of a method, such as ``"implicit"``, or the
            right gradient, a pytree with one array for each floating-point leaf of the data, in their order. ``None``
            means finite differences.
        iterations: numbers of inner iterations at which to compare, with a tolerance of 0; ``None`` compares once,
            with the options of the solver.
        linear_solvers: the linear solvers to try, ``solve(matvec, b)``; ``None`` tries those of
            :mod:`jaxsolve.linear_solve` that suit the structure and size of the system.
        **kwargs: further data.

    Returns:
        A :class:`GradientComparison`. For each method it has the relative error, the largest relative residual of the
        linear solves, the time of a run with its gradient, the time of compilation, and temporary memory.

    Raises:
        ValueError: the data have no floating-point leaf, or ``reference`` does not fit.

    Example:
        >>> import jax.numpy as jnp, jaxsolve
        >>> solver = jaxsolve.FixedPointIteration(lambda x, t: 0.5 * x + t, maxiter=30)
        >>> found = jaxsolve.diagnostics.compare_gradients(solver, jnp.asarray(0.0), 1.0, linear_solvers=())
        >>> [row.method for row in found.rows]
        ['implicit', 'one-step', 'Neumann, 10 terms', 'unrolled', 'unrolled, checkpointed', 'finite differences']
        >>> bool(found["implicit"].error < 1e-2)
        True
    """
    problem = Problem.of(init_params, args, kwargs, loss, arguments)
    rows, skipped = [], {}
    if isinstance(reference, str) and reference != _DIFFERENCES:
        differences = None
    else:
        differences = Differences.of(problem, precise(solver))
    for bound in [None] if iterations is None else iterations:
        limited = solver if bound is None else changed_options(solver, maxiter=bound, tol=0.0)
        step = problem.run(changed_options(limited, implicit_diff=True), problem.leaves)
        for name, variant in _variants(problem, limited, step.params, linear_solvers):
            try:
                rows.append(_measured(problem, name, variant(), step))
            except (TypeError, ValueError) as error:
                skipped[name] = str(error)
    if differences is not None:
        rows.append(GradientRow(_DIFFERENCES, None, 0.0, None, differences.seconds, None, None, []))
    return _judged(rows, reference, differences, skipped, problem)


# ---- The methods --------------------------------------------------------------------------------------------------


def _variants(problem: Problem, solver: Solver, params: PyTree, linear_solvers: Sequence[Callable] | None):
    """Names of methods, and functions that make a solver with that method."""

    def implicit(method):
        return lambda: changed_options(solver, implicit_diff=True, unroll="auto", implicit_diff_solve=method)

    yield "implicit", implicit(solver.implicit_diff_solve)
    if linear_solvers is None:
        direct, iterative = _SOLVERS["general" if solver._finds_system else solver._structure]
        small = sum(np.size(x) for x in jax.tree.leaves(params)) <= DIRECT_MAX_SIZE
        linear_solvers = (*direct, *iterative) if small else iterative
    for method in linear_solvers:
        name = getattr(method, "__name__", repr(method)).removeprefix("solve_")
        yield f"implicit, {name}", implicit(method)
    if solver._structure == "psd" or solver._is_fixed_point:
        point, unravel = ravel(params)
        norm = norm_of(residual_of(solver, unravel, *problem.arguments(problem.leaves)), point)
        for name, num_terms in (("one-step", 1), ("Neumann, 10 terms", 10)):
            yield name, implicit(_series(num_terms, solver._structure == "psd", norm))
    for name, unroll in (("unrolled", "auto"), ("unrolled, checkpointed", "checkpoint")):
        yield name, lambda unroll=unroll: changed_options(solver, implicit_diff=False, unroll=unroll)


def _series(num_terms: int, gradient: bool, norm: float) -> Callable:
    """The truncated series of gradient steps of length ``1 / norm``, or of a fixed-point map that is a contraction."""
    if gradient:
        return functools.partial(solve_neumann, num_terms=num_terms, residual="x - T(x)", damping=1 / norm)
    damping = 1.0 if norm < 2 else 1 / norm
    return functools.partial(solve_neumann, num_terms=num_terms, damping=damping)


def _measured(problem: Problem, name: str, solver: Solver, step: OptStep) -> GradientRow:
    gradient = jax.grad(problem.function(solver))
    compile_seconds, memory = None, None
    run = gradient
    if solver.jit:
        begun = time.perf_counter()
        run = jax.jit(gradient).lower(problem.leaves).compile()
        compile_seconds = time.perf_counter() - begun
        memory = getattr(run.memory_analysis(), "temp_size_in_bytes", None)
    found, seconds = None, np.inf
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        found = jax.block_until_ready(run(problem.leaves))
        seconds = min(seconds, time.perf_counter() - begun)
    residual = _residual(problem, solver, step) if solver.implicit_diff else None
    bound = getattr(solver, "maxiter", None)
    bound = None if bound is None else int(bound)
    return GradientRow(name, bound, np.nan, residual, seconds, compile_seconds, memory, list(found or ()))


def _residual(problem: Problem, solver: Solver, step: OptStep) -> float | None:
    """The largest residual of the linear solves of the gradient."""
    value = problem.function(solver) if solver._finds_system else problem.function_at(solver, step)
    gradient, residuals = jax.grad(value), []
    with observe_tangents(lambda name, residual: residuals.append(residual)):
        jax.block_until_ready((jax.jit(gradient) if solver.jit else gradient)(problem.leaves))
    return float(np.max(residuals)) if residuals else None  # NaN is the largest


def _judged(
    rows: list[GradientRow], reference: Any, differences: Differences | None, skipped: dict, problem: Problem
) -> GradientComparison:
    """The rows with their errors."""
    name = _DIFFERENCES if reference is None else reference if isinstance(reference, str) else "the given one"
    slopes: Any = None if differences is None else differences.slopes

    def along(gradient):
        entries = np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in gradient])
        return entries if differences is None else differences.directions @ entries

    if name == _DIFFERENCES:
        want = slopes
    elif isinstance(reference, str):
        known = [row for row in rows if row.method == reference]
        if not known:
            raise ValueError(f"reference must be one of {', '.join(row.method for row in rows)}; got {reference!r}.")
        want = along(known[-1].gradient)
    else:
        given = jax.tree.leaves(reference)
        if [np.shape(x) for x in given] != [x.shape for x in problem.leaves]:
            raise ValueError(
                f"reference must have the shapes of the floating-point data, {[x.shape for x in problem.leaves]}; got "
                f"{[np.shape(x) for x in given]}."
            )
        want = along(given)

    def judged(row):
        got = slopes if row.method == _DIFFERENCES else along(row.gradient)
        size = np.linalg.norm(want)
        return float(np.linalg.norm(got - want) / (size if size > 0 else 1.0))

    rows = [dataclasses.replace(row, error=judged(row)) for row in rows]
    uncertainty = differences.uncertainty if differences is not None and name == _DIFFERENCES else None
    return GradientComparison(rows, name, uncertainty, skipped)
