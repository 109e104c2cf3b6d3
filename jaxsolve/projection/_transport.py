r"""Projections on the transport polytope, Euclidean and Kullback-Leibler.

With dual variables :math:`\alpha, \beta` of the row and column sums the solution is [1]_

.. math::

    T_{ij} = \max(S_{ij} + \alpha_i + \beta_j, 0) \quad \text{or} \quad T_{ij} = \exp(S_{ij} + \alpha_i + \beta_j),

and in the semi-dual :math:`\beta` is eliminated: given :math:`\alpha`, each column of :math:`T` is a projection on a
simplex, or a softmax. Either problem is smooth, convex and without constraints.

The derivative of the solution does not depend on how it was found: with the weights :math:`W`, 1 on the support of
:math:`T`, or :math:`T` itself, it is
:math:`\dot T = W \odot (\dot S + \dot\alpha 1^\top + 1 \dot\beta^\top)`, with given sums of rows and
columns. This is one symmetric system with as many unknowns as there are rows.

.. [1] M. Blondel, V. Seguy, A. Rolet, *Smooth and sparse optimal transport*, AISTATS 2018, equations (4), (6), (7) and
   table 1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._compat import is_concrete
from jaxsolve._inputs import as_inexact, check_nonnegative, power_of_two, unpack, widen
from jaxsolve._precision import at_full_precision
from jaxsolve._rules import derive_by
from jaxsolve._types import PyTree
from jaxsolve.linear_solve import solve as linear_solve
from jaxsolve.linear_solve import solve_cg
from jaxsolve.projection._plans import reciprocal, to_marginals
from jaxsolve.projection._transport_duals import solve_transport, tolerance

__all__ = ["kl_projection_birkhoff", "kl_projection_transport", "projection_birkhoff", "projection_transport"]


@at_full_precision
def projection_transport(
    sim_matrix: PyTree, marginals: tuple, make_solver: Callable | None = None, use_semi_dual: bool = True
) -> PyTree:
    r"""Project on the transport polytope.

    .. math::

        \operatorname*{argmin}_{T \ge 0} \tfrac12 \|T - S\|_2^2
        \quad \text{subject to} \quad T 1 = a, \; T^\top 1 = b .

    The solution is sparse. With :math:`S = -C / \epsilon` it is the plan of optimal transport with costs :math:`C` and
    quadratic regularization of strength :math:`\epsilon`. An entry that just becomes 0 has derivative 0.

    Args:
        sim_matrix: :math:`S`, of shape ``(m, n)``; or a pytree of matrices, each a separate problem, and then
            ``marginals`` is a pair of pytrees with its structure. For a stack of matrices use ``jax.vmap``.
        marginals: the pair :math:`(a, b)` of non-negative vectors of shapes ``(m,)`` and ``(n,)`` with equal sums.
            If the sums differ by rounding, :math:`b` is rescaled. If they are traced, a larger difference, or negative
            entries, give NaN.
        make_solver: ``make_solver(fun)`` returns a solver that minimizes ``fun`` in ``run(init)``; by default
            :class:`jaxsolve.LBFGS` to about the precision of the dtype.
        use_semi_dual: solve the semi-dual problem, whose variables have shape ``(m,)``, rather than the dual problem,
            whose variables are a pair of vectors.

    Returns:
        The plan :math:`T`, with the structure, shapes and dtypes of ``sim_matrix``. It is differentiable in
        ``sim_matrix`` and ``marginals``. It is NaN if an entry of ``sim_matrix`` is not finite, or if the default
        solver does not reach the marginals within 1 percent, because entries of ``sim_matrix`` are too large for the
        dtype.

    Raises:
        ValueError: shapes do not fit, marginals are negative or differ in their sums.
        TypeError: an argument is not real, or ``make_solver`` is not callable.

    References:
        M. Blondel, V. Seguy, A. Rolet, *Smooth and sparse optimal transport*, AISTATS 2018, section 4.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_transport
        >>> S = jnp.array([[2.0, 0.0], [0.0, 1.0]])
        >>> marginals = (jnp.array([0.5, 0.5]), jnp.array([0.75, 0.25]))
        >>> (projection_transport(S, marginals).round(3) + 0.0).tolist()
        [[0.5, 0.0], [0.25, 0.25]]
    """
    return _transport("euclidean", "projection_transport", sim_matrix, marginals, make_solver, use_semi_dual)


@at_full_precision
def kl_projection_transport(
    sim_matrix: PyTree, marginals: tuple, make_solver: Callable | None = None, use_semi_dual: bool = True
) -> PyTree:
    r"""Project on the transport polytope in the Kullback-Leibler sense.

    .. math::

        \operatorname*{argmin}_{T \ge 0} \operatorname{KL}(T, e^S) = \operatorname*{argmax}_{T \ge 0}
        \langle T, S \rangle - \sum_{ij} T_{ij} \log T_{ij}
        \quad \text{subject to} \quad T 1 = a, \; T^\top 1 = b .

    With :math:`S = -C / \epsilon` it is the plan of entropic optimal transport, the one to which Sinkhorn's algorithm
    converges. Computations are in the domain of logarithms.

    Args:
        sim_matrix: :math:`S`, as in :func:`projection_transport`.
        marginals: the pair :math:`(a, b)`, as in :func:`projection_transport`. If an entry is 0, its row or column of
            the plan is 0.
        make_solver: as in :func:`projection_transport`.
        use_semi_dual: as in :func:`projection_transport`.

    Returns:
        The plan :math:`T`, with the structure, shapes and dtypes of ``sim_matrix``. It is differentiable in
        ``sim_matrix`` and ``marginals``. It is NaN if an entry of ``sim_matrix`` is not finite. Entries that are too
        large for the dtype (beyond 8e3 in float32) are scaled down, which means a larger strength :math:`\epsilon`. If
        the default solver does not come close enough to the marginals, the plan is corrected to have them.

    Raises:
        ValueError: shapes do not fit, marginals are negative or differ in their sums.
        TypeError: an argument is not real, or ``make_solver`` is not callable.

    References:
        M. Cuturi, *Sinkhorn distances: lightspeed computation of optimal transport*, NeurIPS 2013. M. Cuturi and G.
        Peyre, *A smoothed dual approach for variational Wasserstein problems*, SIAM J. Imaging Sci. 9, 2016, for the
        semi-dual.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import kl_projection_transport
        >>> marginals = (jnp.array([0.5, 0.5]), jnp.array([0.5, 0.5]))
        >>> kl_projection_transport(jnp.zeros((2, 2)), marginals).round(2).tolist()
        [[0.25, 0.25], [0.25, 0.25]]
    """
    return _transport("kl", "kl_projection_transport", sim_matrix, marginals, make_solver, use_semi_dual)


def projection_birkhoff(sim_matrix: PyTree, make_solver: Callable | None = None, use_semi_dual: bool = True) -> PyTree:
    r"""Project on the Birkhoff polytope, the matrices with non-negative entries whose rows and columns sum to 1.

    Args:
        sim_matrix: matrix of shape ``(n, n)``, or a pytree of square matrices.
        make_solver: as in :func:`projection_transport`.
        use_semi_dual: as in :func:`projection_transport`.

    Returns:
        The projection, with the structure, shapes and dtypes of ``sim_matrix``; see :func:`projection_transport`.

    Raises:
        ValueError: ``sim_matrix`` is not a square matrix.
        TypeError: ``sim_matrix`` is not real, or ``make_solver`` is not callable.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_birkhoff
        >>> (projection_birkhoff(jnp.array([[2.0, 0.0], [0.0, 2.0]])).round(3) + 0.0).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    marginals = _ones(sim_matrix, "projection_birkhoff")
    return _transport("euclidean", "projection_birkhoff", sim_matrix, marginals, make_solver, use_semi_dual)


def kl_projection_birkhoff(
    sim_matrix: PyTree, make_solver: Callable | None = None, use_semi_dual: bool = True
) -> PyTree:
    r"""Project on the Birkhoff polytope in the Kullback-Leibler sense: a soft permutation.

    Args:
        sim_matrix: matrix of shape ``(n, n)``, or a pytree of square matrices.
        make_solver: as in :func:`projection_transport`.
        use_semi_dual: as in :func:`projection_transport`.

    Returns:
        The projection, with the structure, shapes and dtypes of ``sim_matrix``; see :func:`kl_projection_transport`.

    Raises:
        ValueError: ``sim_matrix`` is not a square matrix.
        TypeError: ``sim_matrix`` is not real, or ``make_solver`` is not callable.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import kl_projection_birkhoff
        >>> kl_projection_birkhoff(jnp.zeros((2, 2))).round(3).tolist()
        [[0.5, 0.5], [0.5, 0.5]]
    """
    marginals = _ones(sim_matrix, "kl_projection_birkhoff")
    return _transport("kl", "kl_projection_birkhoff", sim_matrix, marginals, make_solver, use_semi_dual)


# ---- Arguments ----------------------------------------------------------------------------------------------------


def _ones(sim_matrix, name):
    def ones(leaf):
        shape = jnp.shape(leaf)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"{name}: sim_matrix must be a square matrix or a pytree of them, got shape {shape}.")
        return jnp.ones(shape[0], jnp.result_type(float))

    both = jax.tree.map(ones, sim_matrix)
    return both, both


def _transport(kind, name, sim_matrix, marginals, make_solver, use_semi_dual):
    if make_solver is not None and not callable(make_solver):
        raise TypeError(f"{name}: make_solver must be a function make_solver(fun), got {type(make_solver).__name__}.")
    a, b = unpack(marginals, ("a", "b"))
    structure = jax.tree.structure(sim_matrix)
    if not jax.tree.structure(a) == jax.tree.structure(b) == structure:
        raise ValueError(
            f"{name}: both marginals must have the structure of sim_matrix, {structure}; got "
            f"{jax.tree.structure(a)} and {jax.tree.structure(b)}."
        )
    plan = functools.partial(_plan_of_matrix, kind, name, make_solver, bool(use_semi_dual))
    return jax.tree.map(plan, sim_matrix, a, b)


def _plan_of_matrix(kind, name, make_solver, use_semi_dual, sim_matrix, a, b):
    sim_matrix = as_inexact(sim_matrix, "sim_matrix")
    if sim_matrix.ndim != 2 or sim_matrix.size == 0:
        raise ValueError(
            f"{name}: sim_matrix must be a matrix with at least one entry, got shape {sim_matrix.shape}; use jax.vmap "
            "for a stack of them."
        )
    wide = widen(sim_matrix)
    marginals = as_inexact(a, "marginals: a"), as_inexact(b, "marginals: b")
    m, n = wide.shape
    if (marginals[0].shape, marginals[1].shape) != ((m,), (n,)):
        raise ValueError(
            f"{name}: the marginals of a matrix of shape {wide.shape} must be vectors of shapes ({m},) and ({n},), got "
            f"{jax.tree.map(jnp.shape, marginals)}."
        )
    check_nonnegative(marginals, f"{name}: marginals")
    eps = max(float(jnp.finfo(value.dtype).eps) for value in (wide, *marginals))
    a, b = (value.astype(wide.dtype) for value in marginals)
    if is_concrete(a) and is_concrete(b):
        # In NumPy, for this may stand in a function under jit.
        given = np.asarray(a), np.asarray(b)
        if not _agree(*given, eps):
            raise ValueError(
                f"{name}: the marginals must have equal finite sums, got {given[0].sum()} and {given[1].sum()}."
            )
    # A solver of the caller's is a new function each time, for which there is nothing to keep.
    project = _compiled if make_solver is None else _project
    return project(wide, a, b, eps, kind, use_semi_dual, make_solver).astype(sim_matrix.dtype)


def _agree(a, b, eps):
    """Whether the sums are equal, but for rounding, and 0 only together."""
    total, other = a.sum(), b.sum()
    return (abs(total - other) <= 10 * (a.size + b.size) * eps * total) & (total < float("inf"))


# ---- The solution -------------------------------------------------------------------------------------------------


def _project(S, a, b, eps, kind, use_semi_dual, make_solver):
    valid = _agree(*lax.stop_gradient((a, b)), eps) & jnp.all(a >= 0) & jnp.all(b >= 0) & jnp.all(jnp.isfinite(S))
    nonzero = valid & (jnp.sum(a) > 0)
    S, a, b = (jnp.where(nonzero, v, fill) for v, fill in ((S, jnp.zeros_like(S)), (a, 1 / a.size), (b, 1 / b.size)))
    # In units of the total; b follows it, so that the problem has a solution for all positive a and b. A power of two
    # goes first, for the derivative of a quotient has the square of the denominator.
    unit = power_of_two(jnp.sum(a))
    a, b = a / unit, b / unit
    if kind == "euclidean":
        S = S / unit
    total = jnp.sum(a)
    a, b = a / total, b / jnp.sum(b)
    if kind == "euclidean":
        S = S / total
    plan = solve_transport(*lax.stop_gradient((S, a, b)), kind, use_semi_dual, make_solver)
    if make_solver is None:
        error = jnp.sum(jnp.abs(jnp.sum(plan, axis=1) - a)) + jnp.sum(jnp.abs(jnp.sum(plan, axis=0) - b))
        if kind == "kl":
            plan = jnp.where(error <= 10 * tolerance(S.dtype), plan, to_marginals(plan, a, b))
        else:
            valid = valid & (error <= _WRONG)
    plan = derive_by(_TANGENTS[kind], plan, S, a, b)
    plan = jnp.where(nonzero, unit * (total * plan), jnp.zeros_like(plan))
    return jnp.where(valid, plan, jnp.full_like(plan, jnp.nan))


# Compiled once for each shape, so that eager calls do not stage the solver anew.
_compiled = jax.jit(_project, static_argnums=(3, 4, 5, 6))


# A plan whose marginals are off by more than this part of the total is none.
_WRONG = 0.01


# ---- The derivative -----------------------------------------------------------------------------------------------


def _kl_tangent(plan, _, tangents):
    return _tangent(plan, tangents, solve_cg)


def _euclidean_tangent(plan, _, tangents):
    # The support may fall apart into components, and the matrix be singular: a direct method sees to that.
    return _tangent((lax.stop_gradient(plan) > 0).astype(plan.dtype), tangents, None)


def _tangent(weights, tangents, method):
    """``W * (S_dot + alpha_dot + beta_dot)``, with row sums ``a_dot`` and column sums ``b_dot``."""
    S_dot, a_dot, b_dot = tangents
    if weights.shape[0] > weights.shape[1]:
        return _tangent(weights.T, (S_dot.T, b_dot, a_dot), method).T
    rows, columns = jnp.sum(weights, axis=1), jnp.sum(weights, axis=0)
    inverse_columns = reciprocal(columns)
    moved = weights * S_dot
    b_rest = (b_dot - jnp.sum(moved, axis=0)) * inverse_columns
    a_rest = a_dot - jnp.sum(moved, axis=1) - weights @ b_rest
    # Without beta a graph Laplacian is left, here with 1 on its diagonal. A constant added to alpha and taken from beta
    # changes nothing; the last term takes that freedom away.
    scale = jnp.sqrt(reciprocal(rows))
    constant = jnp.sqrt(jnp.where(rows > 0, rows, 0) / jnp.sum(rows))

    def laplacian(v):
        moved = weights @ (inverse_columns * ((scale * v) @ weights))
        return v - scale * moved + constant * jnp.vdot(constant, v)

    alpha_dot = scale * linear_solve(laplacian, scale * a_rest, method, structure="psd")
    beta_dot = b_rest - (alpha_dot @ weights) * inverse_columns
    return weights * (S_dot + alpha_dot[:, None] + beta_dot[None, :])


_TANGENTS = {"euclidean": _euclidean_tangent, "kl": _kl_tangent}
