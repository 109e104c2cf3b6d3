r"""Many starts: a solver from several initial points, and the best result.

Reference:
    Rinnooy Kan and Timmer (1987), "Stochastic global optimization methods part I: clustering methods".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._compile import compiled_call
from jaxsolve._results import show_as_line
from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.base import Solver
from jaxsolve.base._solver import differentiated
from jaxsolve.implicit_diff import stop_gradient

__all__ = ["MultistartResult", "multistart"]


class MultistartResult(NamedTuple):
    """The results of runs from several initial points.

    Attributes:
        params: the best solution.
        state: its state.
        index: the index of the initial point that led to it, int32.
        all: all results, an ``OptStep`` whose leaves have a leading axis for the initial points. They are constants for
            derivatives.
    """

    params: PyTree
    state: Any
    index: Array
    all: OptStep


show_as_line(MultistartResult, state_of=lambda result: result.state)


def multistart(solver: Solver, inits: PyTree, *args: Any, **kwargs: Any) -> MultistartResult:
    """Run a solver from several initial points, all at once, and return the best result with its derivative.

    The best result is the one with the least value among those that converged; if none converged, among all finite
    results. The value is the field ``value`` of the state, or ``error`` if the state has no such field (roots and fixed
    points). Only the best result is differentiated, so the derivative costs as much as that of one run. It is the
    derivative of this one solution, and does not account for jumps to another one as the data change.

    Args:
        solver: any solver of the package. With ``jit=False`` the runs are made one after the other.
        inits: initial points, a pytree like the parameters with a leading axis in front of every leaf, the same
            number n of points for all.
        *args: the further arguments of ``solver.run``, the same for all starts.
        **kwargs: further keyword arguments of ``solver.run``.

    Returns:
        A :class:`MultistartResult`.

    Raises:
        TypeError: ``solver`` is not a solver.
        ValueError: the leaves of ``inits`` do not have the same number of initial points, or have none.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> def double_well(x, tilt):
        ...     return jnp.sum((x**2 - 1.0) ** 2 + tilt * x)
        >>> solver = jaxsolve.LBFGS(double_well, tol=1e-4)
        >>> result = jaxsolve.multistart(solver, jnp.array([[-2.0], [0.5], [2.0]]), 0.3)
        >>> round(float(result.params[0]), 2), [round(float(x), 2) for x in result.all.params[:, 0]]
        (-1.04, [-1.04, 0.96, 0.96])
        >>> best = lambda tilt: jaxsolve.multistart(solver, jnp.array([[-2.0], [2.0]]), tilt).params[0]
        >>> round(float(jax.grad(best)(0.3)), 2)
        -0.11
    """
    if not isinstance(solver, Solver):
        raise TypeError(f"solver must be a solver of jaxsolve, got {solver!r}.")
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(inits)}
    if len(sizes) != 1 or not all(size and size[0] > 0 for size in sizes):
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves(inits)]
        raise ValueError(f"inits must have one leading axis of initial points in every leaf, got shapes {shapes}.")
    if not solver.jit:
        points = [jax.tree.map(lambda leaf, i=i: leaf[i], inits) for i in range(*sizes.pop())]
        runs = [solver.run(point, *args, **kwargs) for point in points]
        every = jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs)
        index = _best(every.state)
        best = runs[int(index)]
        return MultistartResult(best.params, best.state, index, every)
    return compiled_call(_multistart, solver, inits, *args, **kwargs)


def _multistart(solver: Solver, inits: PyTree, *args: Any, **kwargs: Any) -> MultistartResult:
    every = jax.vmap(lambda init: solver.run(init, *args, **kwargs))(inits)
    index = _best(every.state)

    def take(leaf):
        return lax.dynamic_index_in_dim(leaf, index, keepdims=False)

    if not solver.implicit_diff:
        best = jax.tree.map(take, every)
    else:
        every = stop_gradient(every)
        best = differentiated(solver, OptStep(*jax.tree.map(take, every)), None, *args, **kwargs)
    return MultistartResult(best.params, best.state, index, every)


def _best(states: Any) -> Array:
    """The index of the best state of a batch."""
    values = getattr(states, "value", None)
    values = states.error if values is None or jnp.ndim(values) != 1 else values
    values = lax.stop_gradient(jnp.asarray(values))
    converged = Status.CONVERGED.holds(states.status)
    finite = jnp.isfinite(values) & ~Status.NONFINITE.holds(states.status)
    # A run that did not converge counts only where none did; what is not finite only where nothing is.
    worst = jnp.full_like(values, jnp.inf)
    candidates = jnp.where(finite & (converged | ~jnp.any(converged & finite)), values, worst)
    return jnp.argmin(candidates).astype(jnp.int32)
