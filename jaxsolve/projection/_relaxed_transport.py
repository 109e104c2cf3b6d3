r"""Entropic transport whose marginals may be missed: unbalanced, partial, and on a given support.

All plans here are :math:`T_{ij} = \exp(S_{ij} + \alpha_i + \beta_j + \lambda)`. What is asked of the row sums :math:`r`
says what :math:`\alpha` is for given :math:`\beta`, in closed form [1]_: with :math:`L_i = \log \sum_j \exp(S_{ij} +
\beta_j + \lambda)`

- a penalty :math:`\rho \operatorname{KL}(r, a)` gives :math:`\alpha = (\log a - L) / (1 + 1 / \rho)`,
- a bound :math:`r \le a` gives :math:`\alpha = \min(\log a - L, 0)`,

and likewise for the columns; a given total mass determines :math:`\lambda`. These sweeps ascend the dual. They begin
with :math:`S` made small and let it grow, and between them a constant that can be moved from one dual variable to the
other is moved to where it is best [2]_.

The derivative does not depend on how the plan was found. With :math:`u = (\dot\alpha, \dot\beta, \dot\lambda)` it is
:math:`\dot T = T \odot (\dot S + \dot\alpha 1^\top + 1 \dot\beta^\top + \dot\lambda)`, and :math:`u` solves one
positive semidefinite system, which says that the sums change as they are asked to.

.. [1] L. Chizat, G. Peyre, B. Schmitzer, F.-X. Vialard, *Scaling algorithms for unbalanced optimal transport problems*,
   Math. Comp. 87, 2018, section 3 and table 1.
.. [2] T. Sejourne, F.-X. Vialard, G. Peyre, *Faster unbalanced optimal transport: translation invariant Sinkhorn and
   1-D Frank-Wolfe*, AISTATS 2022, proposition 2.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._compat import is_concrete
from jaxsolve._inputs import as_inexact, as_scalar, check_entries, check_nonnegative, power_of_two, unpack, widen
from jaxsolve._loop import loop
from jaxsolve._precision import at_full_precision
from jaxsolve._rules import derive_by
from jaxsolve.linear_solve import solve as linear_solve
from jaxsolve.projection._plans import reciprocal, to_marginals

__all__ = ["kl_partial_transport", "kl_unbalanced_transport"]

# A plan that misses what is asked of its sums by more than this part is brought to it, or is none if that cannot be
# done.
_WRONG = 0.01
# While S grows, a sweep that changes the dual variables by less is good enough.
_ROUGH = 0.05
_GROWTH = 4.0
# So many sweeps at most before S grows on.
_SWEEPS_A_LEVEL = 200


@at_full_precision
def kl_unbalanced_transport(
    sim_matrix: Any,
    marginals: tuple,
    rho: Any = 1.0,
    *,
    init_duals: tuple | None = None,
    return_duals: bool = False,
    maxiter: int = 10_000,
) -> Any:
    r"""Entropic transport with penalties on the marginals in place of constraints.

    .. math::

        \operatorname*{argmin}_{T \ge 0} \operatorname{KL}(T, e^S) + \rho_a \operatorname{KL}(T 1, a) +
        \rho_b \operatorname{KL}(T^\top 1, b), \qquad
        \operatorname{KL}(p, q) = \textstyle\sum_i p_i \log(p_i / q_i) - p_i + q_i .

    With :math:`S = -C / \epsilon` and :math:`\rho` divided by :math:`\epsilon` it is unbalanced optimal transport with
    costs :math:`C`. An infinite :math:`\rho` makes the marginal a constraint. If :math:`S_{ij} = -\infty`, then
    :math:`T_{ij} = 0`: in this way the support of the plan can be prescribed, with infinite :math:`\rho` for given
    marginals.

    Args:
        sim_matrix: :math:`S`, of shape ``(m, n)``; entries may be ``-inf``. For a stack of matrices use ``jax.vmap``.
        marginals: the pair :math:`(a, b)` of non-negative vectors of shapes ``(m,)`` and ``(n,)``. Their sums may
            differ, unless both :math:`\rho` are infinite.
        rho: positive weight of both penalties, or the pair :math:`(\rho_a, \rho_b)`; may be infinite.
        init_duals: the pair :math:`(\alpha, \beta)` of vectors of an earlier call, to start from.
        return_duals: return the dual variables too. They are constants for derivatives.
        maxiter: largest number of sweeps. More of them are needed for large :math:`\rho` and a large spread of
            :math:`S`.

    Returns:
        The plan :math:`T`, of the shape and dtype of ``sim_matrix``, differentiable in ``sim_matrix``, ``marginals``
        and ``rho``; with ``return_duals`` the pair of the plan and :math:`(\alpha, \beta)`. Rows and columns without
        mass, or without finite entries of :math:`S`, are 0, with derivative 0. The plan is NaN if an entry of
        ``sim_matrix`` is NaN or ``inf``, if a traced argument is out of its range, or if no plan on the support has the
        marginals that are constraints. If the sweeps end before convergence, the last plan is returned; if its
        marginals are wrong by more than 1 percent, it is corrected to have these marginals, and if :math:`S` has
        infinite entries it is then NaN. Entries of :math:`S` that are too large for the dtype (beyond 8e3 in float32)
        are scaled down, which means a larger strength :math:`\epsilon`.

    Raises:
        ValueError: shapes do not fit, marginals are negative, or ``rho`` is not positive.
        TypeError: an argument is not real.

    References:
        L. Chizat, G. Peyre, B. Schmitzer, F.-X. Vialard, *Scaling algorithms for unbalanced optimal transport
        problems*, Math. Comp. 87, 2018.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import kl_unbalanced_transport
        >>> S = jnp.array([[0.0, -jnp.inf], [-jnp.inf, 0.0]])
        >>> plan = kl_unbalanced_transport(S, (jnp.array([4.0, 1.0]), jnp.array([1.0, 1.0])), 1.0)
        >>> [[round(p, 3) for p in row] for row in plan.tolist()]
        [[1.587, 0.0], [0.0, 1.0]]
    """
    name = "kl_unbalanced_transport"
    S, a, b, dtype = _checked(name, sim_matrix, marginals)
    pair = rho if isinstance(rho, (tuple, list)) else (rho, rho)
    rho_a, rho_b = unpack(pair, ("rho_a", "rho_b"))
    for value in (rho_a, rho_b):
        check_entries(lambda r: r > 0, value, f"{name}: rho", "positive")
    inverse_a, inverse_b = (1 / as_scalar(value, f"{name}: rho", S.dtype) for value in (rho_a, rho_b))
    duals, given = _initial(name, init_duals, S)
    plan, duals = _unbalanced(S, a, b, inverse_a, inverse_b, duals, given, maxiter)
    return (plan.astype(dtype), duals) if return_duals else plan.astype(dtype)


@at_full_precision
def kl_partial_transport(
    sim_matrix: Any,
    marginals: tuple,
    mass: Any,
    *,
    init_duals: tuple | None = None,
    return_duals: bool = False,
    maxiter: int = 10_000,
) -> Any:
    r"""Entropic transport of a given part of the mass.

    .. math::

        \operatorname*{argmin}_{T \ge 0} \operatorname{KL}(T, e^S) \quad \text{subject to} \quad
        T 1 \le a, \; T^\top 1 \le b, \; \textstyle\sum_{ij} T_{ij} = \text{mass} .

    Args:
        sim_matrix: :math:`S`, as in :func:`kl_unbalanced_transport`.
        marginals: the pair :math:`(a, b)` of non-negative vectors of shapes ``(m,)`` and ``(n,)``, upper bounds.
        mass: positive scalar, at most the smaller sum of the two.
        init_duals: as in :func:`kl_unbalanced_transport`.
        return_duals: as in :func:`kl_unbalanced_transport`.
        maxiter: as in :func:`kl_unbalanced_transport`.

    Returns:
        The plan :math:`T`, as in :func:`kl_unbalanced_transport`, differentiable in ``sim_matrix``, ``marginals`` and
        ``mass``. A bound that is just reached is treated as not reached in the derivative.

    Raises:
        ValueError: shapes do not fit, marginals are negative, or ``mass`` is not positive or too large.
        TypeError: an argument is not real.

    References:
        J.-D. Benamou, G. Carlier, M. Cuturi, L. Nenna, G. Peyre, *Iterative Bregman projections for regularized
        transportation problems*, SIAM J. Sci. Comput. 37, 2015, section 5.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import kl_partial_transport
        >>> S = jnp.array([[0.0, -jnp.inf], [-jnp.inf, 0.0]])
        >>> plan = kl_partial_transport(S, (jnp.array([1.0, 4.0]), jnp.array([2.0, 3.0])), 3.0)
        >>> [[round(p, 3) for p in row] for row in plan.tolist()]
        [[1.0, 0.0], [0.0, 2.0]]
    """
    name = "kl_partial_transport"
    S, a, b, dtype = _checked(name, sim_matrix, marginals)
    check_entries(lambda v: v > 0, mass, f"{name}: mass", "positive")
    if all(map(is_concrete, (mass, a, b))):
        most = min(float(np.asarray(v).sum()) for v in (a, b))
        if float(mass) > most * (1 + 10 * float(jnp.finfo(S.dtype).eps) * (a.size + b.size)):
            raise ValueError(f"{name}: mass must be at most the smaller sum of the marginals, {most}, got {mass}.")
    duals, given = _initial(name, init_duals, S)
    plan, duals = _partial(S, a, b, as_scalar(mass, f"{name}: mass", S.dtype), duals, given, maxiter)
    return (plan.astype(dtype), duals) if return_duals else plan.astype(dtype)


# ---- Arguments ----------------------------------------------------------------------------------------------------


def _checked(name, sim_matrix, marginals):
    sim_matrix = as_inexact(sim_matrix, "sim_matrix")
    if jax.tree.structure(sim_matrix) != jax.tree.structure(0) or sim_matrix.ndim != 2 or sim_matrix.size == 0:
        raise ValueError(
            f"{name}: sim_matrix must be a matrix with at least one entry, got {jax.tree.map(jnp.shape, sim_matrix)}; "
            "use jax.vmap for a stack of them."
        )
    S = widen(sim_matrix)
    a, b = (as_inexact(v, f"marginals: {n}") for v, n in zip(unpack(marginals, ("a", "b")), "ab", strict=True))
    if (jnp.shape(a), jnp.shape(b)) != ((S.shape[0],), (S.shape[1],)):
        raise ValueError(
            f"{name}: the marginals of a matrix of shape {S.shape} must be vectors of shapes ({S.shape[0]},) and "
            f"({S.shape[1]},), got {jnp.shape(a)} and {jnp.shape(b)}."
        )
    check_nonnegative((a, b), f"{name}: marginals")
    return S, a.astype(S.dtype), b.astype(S.dtype), sim_matrix.dtype


def _initial(name, init_duals, S):
    """Dual variables to start from, and whether they were given."""
    if init_duals is None:
        return tuple(jnp.zeros(size, S.dtype) for size in S.shape), False
    duals = tuple(as_inexact(v, f"{name}: init_duals") for v in unpack(init_duals, ("alpha", "beta")))
    if tuple(map(jnp.shape, duals)) != tuple((size,) for size in S.shape):
        raise ValueError(f"{name}: init_duals must be vectors of shapes ({S.shape[0]},) and ({S.shape[1]},).")
    return tuple(lax.stop_gradient(v).astype(S.dtype) for v in duals), True


# ---- The solutions ------------------------------------------------------------------------------------------------


def _unbalanced(S, a, b, inverse_a, inverse_b, duals, given, maxiter):
    fixed, total = lax.stop_gradient((S, a, b, inverse_a, inverse_b)), lax.stop_gradient(inverse_a + inverse_b)
    return _unbalanced_compiled(S, a, b, inverse_a, inverse_b, fixed, total, duals, given, maxiter)


@functools.partial(jax.jit, static_argnums=(8, 9))
def _unbalanced_compiled(S, a, b, inverse_a, inverse_b, fixed, total, duals, given, maxiter):
    joined = _joined(*fixed[:3])
    part = _softened(fixed[0], joined)
    fixed, total = (part * fixed[0], *fixed[1:3], fixed[3] / part, fixed[4] / part), total / part
    log_a, log_b = (jnp.log(jnp.where(v > 0, v, jnp.ones_like(v))) for v in fixed[1:3])

    def sweep(S, size, alpha, beta):
        # In units of the size of S: the penalties shrink with it.
        slack_a, slack_b = fixed[3] / size, fixed[4] / size
        beta = _alive((log_b - _log_sums(S, alpha, 0)) / (1 + slack_b), joined, 0)
        alpha = _alive((log_a - _log_sums(S, beta, 1)) / (1 + slack_a), joined, 1)
        # The constant that moves from one to the other, by the sums of what the marginals should be.
        of_a = jax.nn.logsumexp(jnp.where(jnp.any(joined, 1), log_a - alpha * slack_a, -jnp.inf))
        of_b = jax.nn.logsumexp(jnp.where(jnp.any(joined, 0), log_b - beta * slack_b, -jnp.inf))
        free = total > 0
        shift = jnp.where(free, (of_a - of_b) / jnp.where(free, total / size, jnp.ones_like(total)), 0)
        shift = jnp.where(jnp.isfinite(shift), shift, jnp.zeros_like(shift))
        return _alive(alpha + shift, joined, 1), _alive(beta - shift, joined, 0)

    alpha, beta = _grow(sweep, fixed[0], joined, tuple(part * v for v in duals), given, maxiter)
    plan = _plan(fixed[0], joined, alpha, beta)
    rows, columns = jnp.sum(plan, axis=1), jnp.sum(plan, axis=0)
    wrong_a = rows - jnp.exp(log_a - alpha * fixed[3])
    wrong_b = columns - jnp.exp(log_b - beta * fixed[4])
    # A row that nothing may join misses its mass, which counts where the marginal is a constraint.
    lost = [jnp.sum(jnp.where(jnp.any(joined, axis), 0, v)) for v, axis in ((fixed[1], 1), (fixed[2], 0))]
    lost = [jnp.where(inverse == 0, v, jnp.zeros_like(v)) for v, inverse in zip(lost, fixed[3:5], strict=True)]
    wrong = sum(
        jnp.sum(jnp.where(jnp.any(joined, axis), jnp.abs(v), 0)) for v, axis in ((wrong_a, 1), (wrong_b, 0))
    ) + sum(lost)
    exact_a, exact_b = fixed[3] == 0, fixed[4] == 0
    both = exact_a & exact_b
    unequal = jnp.abs(jnp.sum(fixed[1]) - jnp.sum(fixed[2])) > _WRONG * jnp.sum(fixed[1])
    feasible = (sum(lost) == 0) & ~(both & unequal)
    # On a support with gaps there may be no plan with the marginals.
    off = wrong > _WRONG * jnp.sum(plan)
    rows, columns = reciprocal(rows) * fixed[1], reciprocal(columns) * fixed[2]
    near = jnp.where(exact_a, plan * rows[:, None], jnp.where(exact_b, plan * columns[None, :], plan))
    full = ~jnp.any((S == -jnp.inf) & (a > 0)[:, None] & (b > 0)[None, :])
    near = jnp.where(both, to_marginals(plan, fixed[1], fixed[2]), near)
    plan = jnp.where(off & (full | ~both), near, plan)
    valid = feasible & (full | ~both | ~off) & _in_range(*fixed[:3]) & (fixed[3] >= 0) & (fixed[4] >= 0)
    plan = derive_by(_unbalanced_tangent, plan, _finite(S, joined), a, b, inverse_a, inverse_b)
    return jnp.where(valid, plan, jnp.full_like(plan, jnp.nan)), (alpha / part, beta / part)


def _unbalanced_tangent(plan, data, tangents):
    _, a, b, inverse_a, inverse_b = data
    S_dot, a_dot, b_dot, inverse_a_dot, inverse_b_dot = tangents
    rows, columns = jnp.sum(plan, axis=1), jnp.sum(plan, axis=0)

    def target(sums, mass, mass_dot, inverse, inverse_dot):
        # log(sums) = log(mass) - inverse * dual
        alive = (sums > 0) & (mass > 0)
        safe = jnp.where(alive, mass, jnp.ones_like(mass))
        off = jnp.log(safe) - jnp.log(jnp.where(alive, sums, jnp.ones_like(sums)))
        known = inverse > 0
        dual = jnp.where(known, off / jnp.where(known, inverse, jnp.ones_like(inverse)), jnp.zeros_like(off))
        return jnp.where(alive, sums * (mass_dot / safe - dual * inverse_dot), jnp.zeros_like(sums))

    rhs = (
        target(rows, a, a_dot, inverse_a, inverse_a_dot),
        target(columns, b, b_dot, inverse_b, inverse_b_dot),
        jnp.zeros((), plan.dtype),
    )
    masks = (jnp.ones_like(a), jnp.ones_like(b), jnp.zeros((), plan.dtype))
    return _tangent(plan, S_dot, rhs, (inverse_a, inverse_b), masks)


def _partial(S, a, b, mass, duals, given, maxiter):
    # In units of the mass, for the logarithms of large and small numbers have fewer digits behind the point.
    unit = power_of_two(mass)
    a, b, mass = a / unit, b / unit, mass / unit
    plan, duals = _partial_compiled(S, a, b, mass, lax.stop_gradient((S, a, b, mass)), duals, given, maxiter)
    return unit * plan, duals


@functools.partial(jax.jit, static_argnums=(6, 7))
def _partial_compiled(S, a, b, mass, fixed, duals, given, maxiter):
    joined = _joined(*fixed[:3])
    part = _softened(fixed[0], joined)
    fixed = (part * fixed[0], *fixed[1:])
    log_a, log_b = (jnp.log(jnp.where(v > 0, v, jnp.ones_like(v))) for v in fixed[1:3])
    log_mass = jnp.log(fixed[3])

    def level(S, alpha, beta):
        return log_mass - jax.nn.logsumexp(S + alpha[:, None] + beta[None, :])

    def sweep(S, size, alpha, beta):
        del size
        constant = level(S, alpha, beta)
        beta = _alive(jnp.minimum(log_b - _log_sums(S, alpha, 0) - constant, 0), joined, 0)
        constant = level(S, alpha, beta)
        alpha = _alive(jnp.minimum(log_a - _log_sums(S, beta, 1) - constant, 0), joined, 1)
        return alpha, beta

    alpha, beta = _grow(sweep, fixed[0], joined, tuple(part * v for v in duals), given, maxiter)
    plan = _plan(fixed[0], joined, alpha + level(jnp.where(joined, fixed[0], -jnp.inf), alpha, beta), beta)
    over = jnp.sum(jnp.maximum(jnp.sum(plan, axis=1) - fixed[1], 0))
    over = over + jnp.sum(jnp.maximum(jnp.sum(plan, axis=0) - fixed[2], 0))
    full = ~jnp.any((S == -jnp.inf) & (a > 0)[:, None] & (b > 0)[None, :])
    off = over > _WRONG * fixed[3]
    plan = jnp.where(off & full, to_marginals(plan, fixed[1], fixed[2], fixed[3]), plan)
    valid = (full | ~off) & _in_range(*fixed[:3]) & (fixed[3] > 0)
    masks = (alpha < 0).astype(S.dtype), (beta < 0).astype(S.dtype)
    plan = derive_by(_partial_tangent, plan, _finite(S, joined), a, b, mass, *masks)
    return jnp.where(valid, plan, jnp.full_like(plan, jnp.nan)), (alpha / part, beta / part)


def _partial_tangent(plan, data, tangents):
    *_, reached_a, reached_b = data
    S_dot, a_dot, b_dot, mass_dot, *_ = tangents
    zero = jnp.zeros((), plan.dtype)
    return _tangent(plan, S_dot, (a_dot, b_dot, mass_dot), (zero, zero), (reached_a, reached_b, jnp.ones_like(zero)))


# ---- What they share ----------------------------------------------------------------------------------------------


def _joined(S, a, b):
    """The pairs that a plan may join; no row and no column of it has mass but no partner with mass."""
    return (S > -jnp.inf) & (a > 0)[:, None] & (b > 0)[None, :]


def _in_range(S, a, b):
    return (
        jnp.all(S < jnp.inf) & jnp.all(a >= 0) & jnp.all(b >= 0) & jnp.all(jnp.isfinite(a)) & jnp.all(jnp.isfinite(b))
    )


def _finite(S, joined):
    return jnp.where(joined, S, jnp.zeros_like(S))


def _softened(S, joined):
    """The part of ``S`` whose exponentials the dtype tells apart, a power of two, at most 1."""
    size = jnp.max(jnp.where(joined, jnp.abs(S), 0))
    excess = jnp.frexp(jnp.where(jnp.isfinite(size), size, 0))[1] - (jnp.finfo(S.dtype).nmant - 10)
    return jnp.exp2(-jnp.maximum(excess, 0).astype(S.dtype))


def _alive(dual, joined, axis):
    """A dual variable, 0 where nothing is joined."""
    return jnp.where(jnp.any(joined, axis=axis), dual, jnp.zeros_like(dual))


def _log_sums(S, dual, axis):
    return jax.nn.logsumexp(S + (dual[:, None] if axis == 0 else dual[None, :]), axis=axis)


def _plan(S, joined, alpha, beta):
    return jnp.where(joined, jnp.exp(jnp.where(joined, S, 0) + alpha[:, None] + beta[None, :]), jnp.zeros_like(S))


def _grow(sweep, S, joined, duals, given, maxiter):
    """Sweeps with ``S`` growing from small to its full size, until they change the dual variables no more."""
    entries = jnp.where(joined, S, 0)
    spread = jnp.max(entries) - jnp.min(entries)
    start = jnp.where(given, 1.0, jnp.minimum(1, 8 / jnp.maximum(spread, 8))).astype(S.dtype)
    rounding = 8 * jnp.finfo(S.dtype).eps

    def proceed(carry):
        _, _, size, change, scale, _ = carry
        return (size < 1) | (change > rounding * scale)

    def step(carry):
        alpha, beta, size, _, _, sweeps = carry
        new_alpha, new_beta = sweep(jnp.where(joined, size * entries, -jnp.inf), size, alpha, beta)
        change = jnp.maximum(jnp.max(jnp.abs(new_alpha - alpha)), jnp.max(jnp.abs(new_beta - beta)))
        # The sums of logarithms are rounded relative to their largest term.
        scale = 1 + jnp.max(jnp.abs(new_alpha)) + jnp.max(jnp.abs(new_beta)) + size * jnp.max(jnp.abs(entries))
        enough = (change <= _ROUGH) | (sweeps >= _SWEEPS_A_LEVEL)
        larger = jnp.where(enough, jnp.minimum(1, _GROWTH * size), size)
        ratio = larger / size
        sweeps = jnp.where(enough, 0, sweeps + 1)
        # Grown variables have not been tried yet.
        change = jnp.where(ratio > 1, jnp.full_like(change, jnp.inf), change)
        return ratio * new_alpha, ratio * new_beta, larger, change, scale, sweeps

    infinite = jnp.asarray(jnp.inf, S.dtype)
    alpha, beta = (_alive(v, joined, axis) for v, axis in zip(duals, (1, 0), strict=True))
    init = (alpha, beta, start, infinite, jnp.ones_like(infinite), jnp.zeros((), jnp.int32))
    return loop(proceed, step, init, maxiter=maxiter)[:2]


def _tangent(plan, S_dot, targets, slacks, masks):
    """``plan * (S_dot + alpha_dot + beta_dot + level_dot)``, with the sums changing by the targets where masks say so.

    Where a mask is 0 the variable does not move. A slack, the inverse of a penalty, lets sums give way.
    """
    rows, columns, total = jnp.sum(plan, axis=1), jnp.sum(plan, axis=0), jnp.sum(plan)
    sums = (rows * (1 + slacks[0]), columns * (1 + slacks[1]), total)
    moved = plan * S_dot
    rhs = (jnp.sum(moved, axis=1), jnp.sum(moved, axis=0), jnp.sum(moved))
    # In units in which the matrix has 1 on its diagonal.
    scales = [
        mask * jnp.where(s > 0, lax.rsqrt(jnp.where(s > 0, s, 1)), 0) for s, mask in zip(sums, masks, strict=True)
    ]

    def product(v):
        alpha, beta, level = (scale * part for scale, part in zip(scales, v, strict=True))
        off = (
            plan @ beta + rows * level,
            alpha @ plan + columns * level,
            jnp.vdot(rows, alpha) + jnp.vdot(columns, beta),
        )
        return tuple(part + scale * o for part, scale, o in zip(v, scales, off, strict=True))

    scaled = tuple(scale * (t - r) for scale, t, r in zip(scales, targets, rhs, strict=True))
    solution = linear_solve(product, scaled, None, structure="psd")
    alpha, beta, level = (scale * part for scale, part in zip(scales, solution, strict=True))
    return plan * (S_dot + alpha[:, None] + beta[None, :] + level)
