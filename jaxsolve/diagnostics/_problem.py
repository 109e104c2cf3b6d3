"""A loss of a solution as a function of the data, and its derivative by finite differences."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._closure import is_dynamic, merge_static
from jaxsolve._types import PyTree
from jaxsolve.base import OptStep, Solver
from jaxsolve.base._solver import differentiated
from jaxsolve.diagnostics._tangent import floating_data
from jaxsolve.tree_util import tree_l2_norm

__all__ = ["Differences", "Problem", "changed_options", "precise"]

# More entries of the data than this are differentiated along random directions instead of one by one.
_MOST_ENTRIES, _DIRECTIONS = 20, 8


class Problem(NamedTuple):
    """A loss as a function of a solver and the floating-point leaves of the data."""

    init_params: PyTree
    leaves: list
    static: tuple
    loss: Callable
    made_by: Callable | None

    @classmethod
    def of(
        cls, init_params: PyTree, args: tuple, kwargs: dict, loss: Callable | None, made_by: Callable | None = None
    ) -> Problem:
        leaves, static = floating_data(args, kwargs)
        return cls(init_params, leaves, static, loss or _half_squares, made_by)

    def arguments(self, leaves: list) -> tuple[tuple, dict]:
        """The positional and keyword arguments of ``run`` behind the initial point."""
        args, kwargs = merge_static(leaves, self.static)
        return (args, kwargs) if self.made_by is None else (tuple(self.made_by(*args, **kwargs)), {})

    def run(self, solver: Solver, leaves: list) -> OptStep:
        args, kwargs = self.arguments(leaves)
        return solver.run(self.init_params, *args, **kwargs)

    def function(self, solver: Solver) -> Callable:
        """The loss as a function of the leaves."""
        return lambda leaves: self.loss(self.run(solver, leaves).params)

    def function_at(self, solver: Solver, step: OptStep) -> Callable:
        """The same where the solution is known: its derivative is that of the loss, and cheaper to compile."""

        def value(leaves):
            args, kwargs = self.arguments(leaves)
            return self.loss(differentiated(solver, step, None, *args, **kwargs).params)

        return value


def _half_squares(params):
    numbers = [x for x in jax.tree.leaves(params) if is_dynamic(x) and jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    return 0.5 * tree_l2_norm(numbers, squared=True)


def changed_options(solver: Solver, **options: Any) -> Solver:
    """A copy with other options, of which those that the solver does not have are left out."""
    changed = copy.copy(solver)
    for name, value in options.items():
        if hasattr(changed, name):
            setattr(changed, name, value)
    changed._validate()
    return changed


def precise(solver: Solver) -> Solver:
    """The solver with a tolerance near the precision of the dtype, relative where the error has a unit."""
    tol, maxiter = getattr(solver, "tol", None), getattr(solver, "maxiter", None)
    options = {"implicit_diff": True, "unroll": "auto", "callback": None, "verbose": False}
    finest = float(jnp.finfo(jnp.result_type(float)).eps) ** 0.75
    if getattr(solver, "rtol", None) is not None:
        options |= {"tol": 0.0, "rtol": finest}
    elif tol is not None:
        options["tol"] = min(float(tol), finest)
    if maxiter is not None:
        options["maxiter"] = 10 * int(maxiter)
    return changed_options(solver, **options)


class Differences(NamedTuple):
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
    def of(cls, problem: Problem, solver: Solver) -> Differences:
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
