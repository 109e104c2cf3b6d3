"""Gradients through a solver by every method that applies, side by side."""

from __future__ import annotations

import copy
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxsolve._closure import is_dynamic, merge_static
from jaxsolve._types import PyTree
from jaxsolve.base import OptStep, Solver
from jaxsolve.base._solver import differentiated
from jaxsolve.diagnostics._comparison import GradientComparison, GradientRow
from jaxsolve.diagnostics._tangent import floating_data, norm_of, residual_of
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
from jaxsolve.tree_util import tree_l2_norm

__all__ = ["compare_gradients"]

_GENERAL = (solve_gmres, solve_bicgstab, solve_normal_cg, solve_lsqr)
# By what is known of the matrix: direct methods, iterative methods.
_SOLVERS = {
    "psd": ((solve_cholesky, solve_lu), (solve_cg, solve_minres, *_GENERAL)),
    "symmetric": ((solve_lu,), (solve_minres, *_GENERAL)),
    "general": ((solve_lu,), _GENERAL),
}
# More entries of the data than this are differentiated along random directions instead of one by one.
_MOST_ENTRIES, _DIRECTIONS = 20, 8
_REPEATS = 3
_DIFFERENCES = "finite differences"


def compare_gradients(
    solver: Solver,
    init_params: PyTree = None,
    *args: Any,
    loss: Callable | None = None,
    reference: Any = None,
    iterations: Sequence[int] | None = None,
    linear_solvers: Sequence[Callable] | None = None,
    **kwargs: Any,
) -> GradientComparison:
    """Compute the gradient of a loss of the solution by every method that applies.

    The methods are implicit differentiation with the solver's own choice of a linear solver and with each one that
    applies, one-step and truncated Neumann derivatives where there is a fixed point or a gradient, and unrolling,
    plain and checkpointed. Each is compared with central differences of the loss. These take runs with a tolerance
    near the precision of the dtype and ten times the iterations, so an error is that of the method and of a run that
    stopped early.

    Args:
        solver: the solver, with its options.
        init_params: initial point, as for ``solver.run``.
        *args: data of the problem. The gradient is that with respect to all floating-point leaves of the data.
        loss: ``loss(params)``, a scalar function of the solution; by default half the sum of its squares.
        reference: what errors are relative to: the name of a method, as ``"implicit"``, or the right gradient, a pytree
            with one array for each floating-point leaf of the data, in their order. ``None`` means finite differences.
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
        >>> solver = jaxsolve.GradientDescent(lambda x, t: jnp.sum((x - t) ** 2) + jnp.sum(x**2), tol=1e-5, maxiter=30)
        >>> found = jaxsolve.diagnostics.compare_gradients(solver, jnp.zeros(2), jnp.ones(2), linear_solvers=())
        >>> [row.method for row in found.rows]
        ['implicit', 'one-step', 'Neumann, 10 terms', 'unrolled', 'unrolled, checkpointed', 'finite differences']
        >>> bool(found["implicit"].error < 1e-2)
        True
    """
    problem = _Problem.of(init_params, args, kwargs, loss)
    rows, skipped = [], {}
    if isinstance(reference, str) and reference != _DIFFERENCES:
        differences = None
    else:
        differences = _Differences.of(problem, _precise(solver))
    for bound in [None] if iterations is None else iterations:
        limited = solver if bound is None else _changed(solver, maxiter=bound, tol=0.0)
        step = problem.run(_changed(limited, implicit_diff=True), problem.leaves)
        for name, variant in _variants(problem, limited, step.params, linear_solvers):
            try:
                rows.append(_measured(problem, name, variant(), step))
            except (TypeError, ValueError) as error:
                skipped[name] = str(error)
    if differences is not None:
        rows.append(GradientRow(_DIFFERENCES, None, 0.0, None, differences.seconds, None, None, []))
    return _judged(rows, reference, differences, skipped, problem)


class _Problem(NamedTuple):
    """A loss as a function of a solver and the floating-point leaves of the data."""

    init_params: PyTree
    leaves: list
    static: tuple
    loss: Callable

    @classmethod
    def of(cls, init_params, args, kwargs, loss):
        leaves, static = floating_data(args, kwargs)
        return cls(init_params, leaves, static, loss or _half_squares)

    def run(self, solver: Solver, leaves: list) -> OptStep:
        args, kwargs = merge_static(leaves, self.static)
        return solver.run(self.init_params, *args, **kwargs)

    def function(self, solver: Solver) -> Callable:
        """The loss as a function of the leaves."""
        return lambda leaves: self.loss(self.run(solver, leaves).params)

    def function_at(self, solver: Solver, step: OptStep) -> Callable:
        """The same where the solution is known: its derivative is that of the loss, and cheaper to compile."""

        def value(leaves):
            args, kwargs = merge_static(leaves, self.static)
            return self.loss(differentiated(solver, step, *args, **kwargs).params)

        return value


def _half_squares(params):
    numbers = [x for x in jax.tree.leaves(params) if is_dynamic(x) and jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    return 0.5 * tree_l2_norm(numbers, squared=True)


def _changed(solver: Solver, **options: Any) -> Solver:
    """A copy with other options, of which those that the solver does not have are left out."""
    changed = copy.copy(solver)
    for name, value in options.items():
        if hasattr(changed, name):
            setattr(changed, name, value)
    changed._validate()
    return changed


# ---- The methods --------------------------------------------------------------------------------------------------


def _variants(problem: _Problem, solver: Solver, params: PyTree, linear_solvers: Sequence[Callable] | None):
    """Names of methods, and functions that make a solver with that method."""

    def implicit(method):
        return lambda: _changed(solver, implicit_diff=True, unroll="auto", implicit_diff_solve=method)

    yield "implicit", implicit(solver.implicit_diff_solve)
    if linear_solvers is None:
        direct, iterative = _SOLVERS["general" if solver._finds_system else solver._structure]
        small = sum(np.size(x) for x in jax.tree.leaves(params)) <= DIRECT_MAX_SIZE
        linear_solvers = (*direct, *iterative) if small else iterative
    for method in linear_solvers:
        name = getattr(method, "__name__", repr(method)).removeprefix("solve_")
        yield f"implicit, {name}", implicit(method)
    if solver._structure == "psd" or solver._is_fixed_point:
        point, unravel = ravel_pytree(params)
        norm = norm_of(residual_of(solver, unravel, *merge_static(problem.leaves, problem.static)), point)
        for name, num_terms in (("one-step", 1), ("Neumann, 10 terms", 10)):
            yield name, implicit(_series(num_terms, solver._structure == "psd", norm))
    for name, unroll in (("unrolled", "auto"), ("unrolled, checkpointed", "checkpoint")):
        yield name, lambda unroll=unroll: _changed(solver, implicit_diff=False, unroll=unroll)


def _series(num_terms: int, gradient: bool, norm: float) -> Callable:
    """The truncated series of gradient steps of length ``1 / norm``, or of a fixed-point map that is a contraction."""
    if gradient:
        return functools.partial(solve_neumann, num_terms=num_terms, residual="x - T(x)", damping=1 / norm)
    damping = 1.0 if norm < 2 else 1 / norm
    return functools.partial(solve_neumann, num_terms=num_terms, damping=damping)


def _measured(problem: _Problem, name: str, solver: Solver, step: OptStep) -> GradientRow:
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


def _residual(problem: _Problem, solver: Solver, step: OptStep) -> float | None:
    """The largest residual of the linear solves of the gradient."""
    value = problem.function(solver) if solver._finds_system else problem.function_at(solver, step)
    gradient, residuals = jax.grad(value), []
    with observe_tangents(lambda name, residual: residuals.append(residual)):
        jax.block_until_ready((jax.jit(gradient) if solver.jit else gradient)(problem.leaves))
    return float(np.max(residuals)) if residuals else None  # NaN is the largest


# ---- The reference ------------------------------------------------------------------------------------------------


def _precise(solver: Solver) -> Solver:
    """The solver with a tolerance near the precision of the dtype."""
    tol, maxiter = getattr(solver, "tol", None), getattr(solver, "maxiter", None)
    options = {"implicit_diff": True, "unroll": "auto", "callback": None, "verbose": False}
    if tol is not None:
        options["tol"] = min(float(tol), float(jnp.finfo(jnp.result_type(float)).eps) ** 0.75)
    if maxiter is not None:
        options["maxiter"] = 10 * int(maxiter)
    return _changed(solver, **options)


class _Differences(NamedTuple):
    """Derivatives of the loss along directions.

    Attributes:
        directions: shape ``(k, n)``, of unit length.
        slopes: the derivatives, shape ``(k,)``.
        uncertainty: relative change of the slopes when the steps are halved.
        seconds: time of all runs.
    """

    directions: np.ndarray
    slopes: np.ndarray
    uncertainty: float
    seconds: float

    @classmethod
    def of(cls, problem: _Problem, solver: Solver) -> _Differences:
        run = jax.jit(problem.function(solver)) if solver.jit else problem.function(solver)
        directions, steps = _directions(problem.leaves)
        float(run(problem.leaves))
        begun = time.perf_counter()

        def central(direction, step):
            ahead, behind = (float(run(_moved(problem.leaves, sign * step * direction))) for sign in (1, -1))
            return (ahead - behind) / (2 * step)

        rows = []
        for direction, step in zip(directions, steps, strict=True):
            first, second, third = (central(direction, step / 2**i) for i in range(3))
            # Richardson extrapolation, twice: the error is of fourth order in the step.
            rows.append(((4 * second - first) / 3, (4 * third - second) / 3))
        coarse, fine = np.asarray(rows).T
        size = np.linalg.norm(fine)
        uncertainty = float(np.linalg.norm(fine - coarse) / (size if size > 0 else 1.0))
        return cls(directions, fine, uncertainty, time.perf_counter() - begun)


def _directions(leaves: list) -> tuple[np.ndarray, np.ndarray]:
    """Directions in the space of all entries, of length 1, and the steps along them."""
    scales = np.concatenate([_scales(np.ravel(np.asarray(x, np.float64))) for x in leaves])
    if scales.size <= _MOST_ENTRIES:
        directions = np.diag(scales)[scales > 0]
    else:
        directions = scales * np.random.default_rng(0).normal(size=(_DIRECTIONS, scales.size)) / np.sqrt(scales.size)
    lengths = np.linalg.norm(directions, axis=1)
    step = max(float(jnp.finfo(x.dtype).eps) for x in leaves) ** 0.2
    return directions / lengths[:, None], step * lengths


def _scales(entries: np.ndarray) -> np.ndarray:
    """The size of the entries of an array, for each of them; 0 for those that are infinite, which cannot move."""
    finite = np.isfinite(entries)
    return finite * (np.max(np.abs(entries[finite]), initial=0.0) or 1.0)


def _moved(leaves: list, change: np.ndarray) -> list:
    parts = np.split(change, np.cumsum([x.size for x in leaves])[:-1])
    return [x + jnp.asarray(part.reshape(x.shape), x.dtype) for x, part in zip(leaves, parts, strict=True)]


def _judged(
    rows: list[GradientRow], reference: Any, differences: _Differences | None, skipped: dict, problem: _Problem
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
