r"""The dual and semi-dual problems of transport, and their solution; see :mod:`jaxsolve.projection._transport`."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._loop import loop
from jaxsolve.projection._plans import reciprocal
from jaxsolve.projection._simplex import projection_simplex
from jaxsolve.solvers.unconstrained import LBFGS

__all__ = ["solve_transport", "tolerance"]


def solve_transport(S, a, b, kind, use_semi_dual, make_solver):
    """The plan with row sums ``a`` and column sums ``b``, from the variables that solve a dual problem."""
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


def tolerance(dtype):
    """The error of the marginals, which is the gradient of the dual problems, in units of their sum."""
    return 4 * float(jnp.finfo(dtype).eps) ** 0.7


def _default_solver(fun, dtype):
    make: Any = LBFGS
    return make(fun, tol=tolerance(dtype), maxiter=2000, history_size=20)


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
    tol = tolerance(S.dtype)

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
