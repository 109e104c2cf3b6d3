"""Projection on a polyhedron, by the interior-point solver for quadratic programs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._compat import is_concrete
from jaxsolve._inputs import as_inexact, ravel, unpack
from jaxsolve._status import Status
from jaxsolve._types import PyTree
from jaxsolve.projection._affine_set import matrix_and_vector
from jaxsolve.solvers.quadratic import InteriorPointQP

__all__ = ["projection_polyhedron"]


def projection_polyhedron(x: PyTree, hyperparams: tuple, check_feasible: bool = True) -> PyTree:
    r"""Project on the polyhedron :math:`\{z : A z = b, \; G z \le h\}`.

    A quadratic program is solved. The derivative is that of the solution with the constraints that are active; one that
    holds with equality and multiplier 0 counts half.

    Args:
        x: pytree of arrays with n entries in all.
        hyperparams: the tuple ``(A, b, G, h)``: matrices of shapes ``(p, n)`` and ``(m, n)``, whose columns are in the
            order of the leaves of ``x``, and vectors of shapes ``(p,)`` and ``(m,)``. Rows may be dependent, p or m may
            be 0, entries of ``h`` may be infinite.
        check_feasible: raise if the set is empty and everything is concrete. In any case, and under ``jit``, the result
            for an empty set is NaN.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``hyperparams`` has not four entries, shapes do not fit, or the set is empty and ``check_feasible``
            is set.
        TypeError: an argument is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_polyhedron
        >>> A, b = jnp.array([[1.0, 1.0]]), jnp.array([1.0])
        >>> G, h = -jnp.eye(2), jnp.zeros(2)
        >>> (projection_polyhedron(jnp.array([2.0, -1.0]), (A, b, G, h)).round(3) + 0.0).tolist()
        [1.0, 0.0]
    """
    A, b, G, h = unpack(hyperparams, ("A", "b", "G", "h"))
    x = as_inexact(x, "x")
    vector, unravel = ravel(x)
    A, b = matrix_and_vector(A, b, vector, "projection_polyhedron", ("A", "b"))
    G, h = matrix_and_vector(G, h, vector, "projection_polyhedron", ("G", "h"))
    out, feasible = _project(vector, A, b, G, h)
    if check_feasible and is_concrete(feasible) and not bool(np.asarray(feasible)):
        raise ValueError("projection_polyhedron: no point satisfies A z = b and G z <= h.")
    return unravel(out)


@jax.jit
def _project(x, A, b, G, h):
    """The projection, NaN where it is not one, and whether the set has a point."""
    make: Any = InteriorPointQP
    tol = 1e-8 if x.dtype == jnp.float64 else 1e-4
    lower = jnp.concatenate([b, jnp.full_like(h, -jnp.inf)])
    eye = jnp.eye(x.size, dtype=x.dtype)
    # Around x: so the precision is that of the distance.
    rows = jnp.concatenate([A, G])
    moved = rows @ x
    bounds = (lower - moved, jnp.concatenate([b, h]) - moved)
    params, state = make(tol=tol).run(None, (eye, jnp.zeros_like(x)), rows, bounds)
    status = lax.stop_gradient(state.status)
    solved = (status == int(Status.CONVERGED)) & jnp.all(jnp.isfinite(x))
    out = jnp.where(solved, x + params.primal[0], jnp.full_like(x, jnp.nan))
    return out, status != int(Status.PRIMAL_INFEASIBLE)
