"""The iterates of a run, recorded."""

from __future__ import annotations

import copy
from typing import Any

from jaxsolve.base import History, IterativeSolver

__all__ = ["trace"]


def trace(solver: IterativeSolver, init_params: Any = None, *args: Any, **kwargs: Any) -> History:
    """Run a solver and record value, error, step size and time of every iterate.

    It runs the solver with a :class:`jaxsolve.History` as callback, in place of the solver's own callback. Under
    ``jax.vmap`` the records have a leading axis of batch elements.

    Args:
        solver: an iterative solver.
        init_params: initial point, as for ``solver.run``.
        *args: data of the problem, as for ``solver.run``.
        **kwargs: more data, passed on by name.

    Returns:
        The history. Its fields are ``iter_num``, ``time`` in seconds, and those of ``value``, ``error`` and
        ``stepsize`` that the state of the solver has. ``.plot()`` shows them.

    Raises:
        TypeError: the solver has no iterations.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> solver = jaxsolve.GradientDescent(lambda x, theta: jnp.sum((x - theta) ** 2), maxiter=3, tol=0.0)
        >>> history = jaxsolve.diagnostics.trace(solver, jnp.zeros(2), 1.0)
        >>> history.keys()
        ('iter_num', 'value', 'error', 'stepsize', 'time')
        >>> history = jax.vmap(lambda x: jaxsolve.diagnostics.trace(solver, x, 1.0))(jnp.eye(2))
        >>> history["value"].shape[1]
        2
    """
    if not isinstance(solver, IterativeSolver):
        raise TypeError(f"trace records iterations, and {type(solver).__name__} has none.")
    history = History("value", "error", "stepsize", "time", optional=True)
    watched = copy.copy(solver)
    watched.callback = history
    watched.run(init_params, *args, **kwargs)
    return history
