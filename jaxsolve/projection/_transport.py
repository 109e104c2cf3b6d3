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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._compat import is_concrete
from jaxsolve._inputs import as_inexact, check_nonnegative, power_of_two, unpack, widen
from jaxsolve._loop import loop
from jaxsolve._rules import derive_by
from jaxsolve._types import PyTree
from jaxsolve.linear_solve import solve as linear_solve
from jaxsolve.linear_solve import solve_cg
from jaxsolve.projection._simplex import projection_simplex
from jaxsolve.solvers.unconstrained import LBFGS

__all__ = ["kl_projection_birkhoff", "kl_projection_transport", "projection_birkhoff", "projection_transport"]


def projection_transport(
    sim_matrix: PyTree, marginals: tuple, make_solver: Callable | None = None, use_semi_dual: bool = True
) -> PyTree:
    r"""Project on the transport polytope.

    .. math::

        \operatorname*{argmin}_{T \ge 0} \tfrac12 \|T - S\|_2^2
        \quad \text{subject to} \quad T 1 = a, \; T^\top 1 = b .

    The solution is sparse. With :math:`S = -C / \epsilon` it is the plan of optimal transport with costs :math:`C` and
    quadratic regularization of strength :math:`\epsilon`. An entry that just becomes 0 counts as 0 for the derivative.

    Args:
        sim_matrix: :math:`S`, of shape ``(m, n)``; or a pytree of matrices, each a problem of its own, and then
            ``marginals`` is a pair of pytrees with its structure. For a stack of matrices use ``jax.vmap``.
        marginals: the pair :math:`(a, b)` of non-negative vectors of shapes ``(m,)`` and ``(n,)`` with equal sums. What
            is left of a difference is scaled away in :math:`b`. If they are traced, sums that differ by more than
            rounding, or negative entries, give NaN.
        make_solver: ``make_solver(fun)`` returns a solver that minimizes ``fun`` in ``run(init)``; by default
            :class:`jaxsolve.LBFGS` to about the precision of the dtype.
        use_semi_dual: solve the semi-dual problem, whose variables have shape ``(m,)``, or else the dual one, whose
            variables are a pair of vectors.

    Returns:
        The plan :math:`T`, with the structure, shapes and dtypes of ``sim_matrix``. It is differentiable in
        ``sim_matrix`` and ``marginals``. It is NaN if an entry of ``sim_matrix`` is not finite, or if the default
        solver does not come within 1 percent of the marginals: if entries of ``sim_matrix`` are too large for the
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
        marginals: the pair :math:`(a, b)`, as in :func:`projection_transport`. Where an entry is 0 so are its row or
            column.
        make_solver: as in :func:`projection_transport`.
        use_semi_dual: as in :func:`projection_transport`.

    Returns:
        The plan :math:`T`, with the structure, shapes and dtypes of ``sim_matrix``. It is differentiable in
        ``sim_matrix`` and ``marginals``. It is NaN if an entry of ``sim_matrix`` is not finite. Entries too large
        for the dtype to tell plans apart, beyond 8e3 in float32, are taken for smaller ones: the plan is that of a
        larger strength. If the default solver does not come close enough to the marginals, the plan is brought to them.

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
    plan = _solve(*lax.stop_gradient((S, a, b)), kind, use_semi_dual, make_solver)
    if make_solver is None:
        error = jnp.sum(jnp.abs(jnp.sum(plan, axis=1) - a)) + jnp.sum(jnp.abs(jnp.sum(plan, axis=0) - b))
        if kind == "kl":
            plan = jnp.where(error <= 10 * _tolerance(S.dtype), plan, to_marginals(plan, a, b))
        else:
            valid = valid & (error <= _WRONG)
    plan = derive_by(_TANGENTS[kind], plan, S, a, b)
    plan = jnp.where(nonzero, unit * (total * plan), jnp.zeros_like(plan))
    return jnp.where(valid, plan, jnp.full_like(plan, jnp.nan))


# Compiled once for each shape, so that eager calls do not stage the solver anew.
_compiled = jax.jit(_project, static_argnums=(3, 4, 5, 6))


def to_marginals(plan, a, b, mass=None):
    """A plan near the given one with the marginals ``a`` and ``b`` (Altschuler et al. 2017, algorithm 2).

    Rows and columns with too much are scaled down, and what is missing is added as a matrix of rank one. With a
    ``mass``, which is at most their sums, the plan has that mass, and the marginals are bounds.
    """
    plan = jnp.where(jnp.isfinite(plan), plan, 0)
    plan = plan * jnp.minimum(1, a * reciprocal(jnp.sum(plan, axis=1)))[:, None]
    plan = plan * jnp.minimum(1, b * reciprocal(jnp.sum(plan, axis=0)))[None, :]
    rows, columns = jnp.maximum(a - jnp.sum(plan, axis=1), 0), jnp.maximum(b - jnp.sum(plan, axis=0), 0)
    parts = rows * reciprocal(jnp.sum(rows))
    if mass is None:
        return plan + parts[:, None] * columns[None, :]
    surplus = jnp.sum(plan) / mass
    plan = plan / jnp.maximum(surplus, 1)
    missing = jnp.maximum(mass - jnp.sum(plan), 0)
    return plan + missing * parts[:, None] * (columns * reciprocal(jnp.sum(columns)))[None, :]


# A plan whose marginals are off by more than this part of the total is none.
_WRONG = 0.01


def _solve(S, a, b, kind, use_semi_dual, make_solver):
    # Rows without mass have no part in the problem: their variable would run away.
    empty = a == 0
    # A constant in each column changes nothing; without it the exponentials stay in range.
    S = S - jnp.max(jnp.where(empty[:, None], -jnp.inf, S), axis=0)[None, :]
    if kind == "kl":
        # Entries so large that the precision of the dtype does not tell plans apart stand for a larger strength.
        limit = jnp.finfo(S.dtype).nmant
        excess = jnp.frexp(jnp.max(jnp.where(empty[:, None], 0, -S)))[1] - (limit - 10)
        S = S * jnp.exp2(-jnp.maximum(excess, 0).astype(S.dtype))
    alpha = jnp.where(empty, jnp.zeros_like(a), -jnp.max(S, axis=1))
    if make_solver is None and kind == "kl" and use_semi_dual:
        return _kl_plan(_solve_entropic(alpha, S, a, b, empty), S, b, empty)
    dual = (_SEMI_DUALS if use_semi_dual else _DUALS)[kind]
    fun = functools.partial(dual, S=S, a=a, b=b, empty=empty)
    solver = _default_solver(fun, S.dtype) if make_solver is None else make_solver(fun)
    init = alpha if use_semi_dual else (alpha, jnp.zeros_like(b))
    # Both problems have the plan as derivative in S.
    return jax.grad(dual, 1)(solver.run(init)[0], S, a, b, empty)


def _tolerance(dtype):
    """The error of the marginals, which is the gradient of the dual problems, in units of their sum."""
    return 4 * float(jnp.finfo(dtype).eps) ** 0.7


def _default_solver(fun, dtype):
    make: Any = LBFGS
    return make(fun, tol=_tolerance(dtype), maxiter=2000, history_size=20)


_SWEEPS = 3
# Entries of S up to 2**_LARGE apart are no trouble; beyond, at most so many sweeps for each power of two, fewer where
# they change the variables by less than is rough, for so many powers.
_LARGE = 5
_SWEEPS_A_LEVEL = 300
_ROUGH = 1e-3
_LEVELS = 100
_ROUNDS = 5


def _solve_entropic(alpha, S, a, b, empty):
    r"""The variables of the rows, by L-BFGS on the semi-dual.

    With :math:`K = e^{S + \alpha_0 + \beta_0}` for a reference near the solution and :math:`\alpha = \alpha_0 + \delta`
    the semi-dual is :math:`\langle b, \log K^\top e^\delta \rangle - \langle a, \delta \rangle`: products with a matrix
    take the place of a matrix of exponentials. A few sweeps of Sinkhorn's algorithm, in logarithms, find the reference.
    Should entries of :math:`K` have vanished that matter at the solution, the solution is the next reference.
    """
    # References: B. Schmitzer, Stabilized sparse scaling algorithms for entropy regularized transport problems, SIAM J.
    # Sci. Comput. 41, 2019, section 3.3, for solving problems of falling strength one after the other.
    log_a, log_b = jnp.log(a), jnp.log(b)
    root = jnp.sqrt(a)
    tol = _tolerance(S.dtype)

    def sweep(alpha, S=S):
        beta = log_b - jax.nn.logsumexp(_columns(alpha, S, empty), axis=0)
        new = log_a - jax.nn.logsumexp(S + beta[None, :], axis=1)
        return jnp.where(empty, jnp.zeros_like(new), new)

    def error(alpha):
        return jnp.linalg.norm(jnp.sum(_kl_plan(alpha, S, b, empty), axis=1) - a)

    def soften(carry):
        level, alpha = carry
        part = jnp.exp2(-level.astype(S.dtype))

        def softer(carry):
            new = sweep(carry[0], S * part)
            return new, jnp.max(jnp.abs(new - carry[0]))

        start = (alpha * part, jnp.asarray(jnp.inf, S.dtype))
        return level - 1, loop(lambda carry: carry[1] > _ROUGH, softer, start, maxiter=_SWEEPS_A_LEVEL)[0] / part

    # For large S, that is costs over a small strength: S / 2**k, less and less divided, each start the next.
    level = jnp.maximum(jnp.frexp(jnp.max(jnp.where(empty[:, None], 0, -S)))[1] - _LARGE, 0)
    _, alpha = loop(lambda carry: carry[0] > 0, soften, (level, alpha), maxiter=_LEVELS)

    def improve(carry):
        alpha, before, _ = carry
        alpha = loop(lambda _: jnp.asarray(True), sweep, alpha, maxiter=_SWEEPS)
        kernel = _kl_plan(alpha, S, b, empty)

        def semi_dual(z):
            # In these units the Hessian has eigenvalues between 0 and 1.
            delta = z * reciprocal(root)
            mass = jnp.exp(delta) @ kernel
            logs = jnp.log(jnp.where(b > 0, mass * reciprocal(b), 1))
            return jnp.vdot(b, logs) - jnp.vdot(a, delta)

        solution = _default_solver(semi_dual, S.dtype).run(jnp.zeros_like(a)).params
        new = alpha + solution * reciprocal(root)
        new = jnp.where(error(new) <= error(alpha), new, alpha)
        return new, error(new), before

    def proceed(carry):
        _, now, before = carry
        return (now > tol) & ((now < 0.5 * before) | ~jnp.isfinite(before))

    infinite = jnp.asarray(jnp.inf, S.dtype)
    return loop(proceed, improve, (alpha, infinite, infinite), maxiter=_ROUNDS)[0]


def _columns(alpha, S, empty):
    """``S + alpha`` over the rows that have mass."""
    return jnp.where(empty[:, None], -jnp.inf, S + alpha[:, None])


def _euclidean_semi_dual(alpha, S, a, b, empty):
    shifted = jnp.where(empty[:, None], -jnp.finfo(S.dtype).max, S + alpha[:, None])
    plan = lax.stop_gradient(jax.vmap(projection_simplex, in_axes=(1, 0), out_axes=1)(shifted, b))
    # The maximum over plans, whose gradient is that of the maximand (Danskin).
    return jnp.sum(plan * (S + alpha[:, None]) - 0.5 * plan**2) - jnp.vdot(alpha, a)


def _euclidean_dual(duals, S, a, b, empty):
    plan = jnp.maximum(S + duals[0][:, None] + duals[1][None, :], 0)
    return 0.5 * jnp.sum(jnp.where(empty[:, None], 0, plan**2)) - jnp.vdot(duals[0], a) - jnp.vdot(duals[1], b)


def _kl_plan(alpha, S, b, empty):
    return b[None, :] * jax.nn.softmax(_columns(alpha, S, empty), axis=0)


def _kl_semi_dual(alpha, S, a, b, empty):
    return jnp.vdot(b, jax.nn.logsumexp(_columns(alpha, S, empty), axis=0)) - jnp.vdot(alpha, a)


def _kl_dual(duals, S, a, b, empty):
    plan = jnp.where((b > 0)[None, :], jnp.exp(_columns(duals[0], S, empty) + duals[1][None, :]), 0)
    return jnp.sum(plan) - jnp.vdot(duals[0], a) - jnp.vdot(duals[1], b)


_SEMI_DUALS = {"euclidean": _euclidean_semi_dual, "kl": _kl_semi_dual}
_DUALS = {"euclidean": _euclidean_dual, "kl": _kl_dual}


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


def reciprocal(x):
    return jnp.where(x > 0, 1 / jnp.where(x > 0, x, jnp.ones_like(x)), jnp.zeros_like(x))


_TANGENTS = {"euclidean": _euclidean_tangent, "kl": _kl_tangent}
