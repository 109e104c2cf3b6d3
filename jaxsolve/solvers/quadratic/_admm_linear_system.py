r"""The linear systems of operator splitting, :math:`(P + \sigma I + \rho A^T S A)\, \Delta x = -g`.

Where a factor is made, an inverse is kept in the form :math:`W W^T`, for products are fast in a
batch. How it is made depends on what ``vmap`` is applied to, which :class:`jax.custom_batching.custom_vmap` tells:

==============================  ===================================================================================
the batch has                   the inverse comes from
==============================  ===================================================================================
no ``vmap``                     a Cholesky factor, made again when :math:`\rho` changes
a P or A for each element       the same; all are factorized together as soon as one of them needs it
P and A in common               one eigendecomposition, outside of all loops: with
                                :math:`P + \sigma I + A^T S A = L L^T` and
                                :math:`L^{-1} A^T S A L^{-T} = V \Lambda V^T`, the inverse is
                                :math:`W (I + (\rho - 1) \Lambda)^{-1} W^T`, :math:`W = L^{-T} V`
functions for matrices          conjugate gradients, in every step
==============================  ===================================================================================

The steps solve for a *correction*: their fixed points do not depend on how accurate the inverse is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.scipy.linalg import solve_triangular

from jaxsolve._loop import run_if_any
from jaxsolve._types import Array
from jaxsolve.linear_solve import solve_cg
from jaxsolve.solvers.quadratic._problem import DenseMatrix, QuadraticProgram

__all__ = ["LinearSystem", "linear_system", "renewed", "solved"]

# How much stiffer an equality is than an inequality, and how much less stiff a row without bounds.
_EQUALITY, _FREE = 1e3, 1e-6


class LinearSystem(NamedTuple):
    """A problem with the linear system of its steps.

    Attributes:
        qp: the problem with variables and rows scaled, but not its objective: what a batch has in common stays so.
        weights: the diagonal S, shape ``(m,)``.
        sigma: the proximal weight of the variables, a scalar.
        basis: the eigendecomposition that a batch has in common, W of shape ``(n, n)`` and the diagonal of Lambda,
            shape ``(n,)``; zeros, which are not used, where it has none; ``None`` in a single step, or without an
            inverse.
        direct: whether there is an inverse to keep.
        unrolls: whether derivatives of the iterations are wanted.
    """

    qp: QuadraticProgram
    weights: Array
    sigma: Array
    basis: tuple[Array, Array] | None
    direct: bool
    unrolls: bool


def linear_system(
    qp: QuadraticProgram, sigma: Array, *, direct: bool, unrolls: bool = False, batch_probe: Array | None = None
) -> LinearSystem:
    """Prepare a problem.

    Args:
        qp: the scaled problem.
        sigma: scalar.
        direct: keep an inverse; the matrices must be given by their entries.
        unrolls: whether derivatives of the iterations are wanted.
        batch_probe: a scalar computed from every input, so that ``vmap`` batches it if it batches anything at all:
            this is how the functions below learn of a batch. ``None`` for a single step, which has no use for an
            eigendecomposition.
    """
    equality = qp.lower == qp.upper
    free = (qp.lower == -jnp.inf) & (qp.upper == jnp.inf)
    if batch_probe is None or unrolls or not direct:
        return LinearSystem(qp, _weights(equality, free, qp.q.dtype), sigma, None, direct, unrolls)
    weights, *basis = _common_parts(qp.P.dense(), qp.A, sigma, equality, free, batch_probe)
    return LinearSystem(qp, weights, sigma, tuple(basis), direct, unrolls)


def solved(system: LinearSystem, own: Any, rho: Array, g: Array) -> Array:
    """``(P + sigma I + rho A^T S A)^{-1} g``; ``own`` is what :func:`renewed` returned for ``rho``."""
    if own is None:
        return _by_conjugate_gradients(system, rho, g)
    if system.basis is None:
        return _multiply(own, g)
    return _multiply_in_basis(*system.basis, own, rho, g)


def renewed(system: LinearSystem, own: Any, rho: Array, stale: Array) -> Any:
    """The inverse for ``rho``: ``own``, or a new one if that is stale; ``None`` without a factorization."""
    if not system.direct:
        return None
    P, A = system.qp.P.dense(), system.qp.A
    if system.unrolls:
        return lax.cond(stale, lambda: _factor(P, A, system.weights, system.sigma, rho), lambda: own)
    if system.basis is None:
        return _factor_if(P, A, system.weights, system.sigma, rho, own, stale)
    return _factor_unless_common(system.basis[0], P, A, system.weights, system.sigma, rho, own, stale)


# ---- One problem --------------------------------------------------------------------------------------------------


def _weights(equality, free, dtype):
    return jnp.where(equality, _EQUALITY, jnp.where(free, _FREE, 1)).astype(dtype)


def _cholesky(P, A, weights, sigma, rho):
    return jnp.linalg.cholesky(P + sigma * jnp.eye(P.shape[0], dtype=P.dtype) + A.gram(rho * weights))


def _factor(P, A, weights, sigma, rho):
    """``W`` with ``W W^T`` the inverse."""
    L = _cholesky(P, A, weights, sigma, rho)
    return solve_triangular(L, jnp.eye(P.shape[0], dtype=P.dtype), lower=True).T


def _factor_if(P, A, weights, sigma, rho, own, stale):
    return run_if_any(stale, lambda _: _factor(P, A, weights, sigma, rho), own)


def _multiply(own, g):
    return own @ (g @ own)


def _by_conjugate_gradients(system, rho, g):
    qp, sigma, weights = system.qp, system.sigma, rho * system.weights

    def matvec(x):
        return qp.P.matvec(x) + sigma * x + qp.A.rmatvec(weights * qp.A.matvec(x))

    diagonal = jnp.ones_like(g)
    if qp.has_entries:
        diagonal = qp.P.diagonal() + sigma + qp.A.squared_column_sums(weights)
    # Derivatives are as inaccurate as the solutions of the linear systems; iterates are not.
    limits = {} if system.unrolls else {"tol": _CG_TOLERANCE, "maxiter": _CG_MAXITER}
    return solve_cg(matvec, g, preconditioner=lambda x: x / diagonal, **limits)


_CG_TOLERANCE, _CG_MAXITER = 1e-4, 500


# ---- A batch ------------------------------------------------------------------------------------------------------


def _each(fun, axis_size, in_batched, args):
    """``fun`` for every batch element."""
    axes = [jax.tree.map(lambda batched: 0 if batched else None, part) for part in in_batched]
    return jax.vmap(fun, in_axes=axes, axis_size=axis_size)(*args)


def _own_parts(P, A, sigma, equality, free, batch_probe):
    """The weights, and no eigendecomposition."""
    return _weights(equality, free, P.dtype), jnp.zeros_like(P), jnp.zeros_like(P[0])


_common_parts = custom_vmap(_own_parts)


@_common_parts.def_vmap
def _(axis_size, in_batched, P, A, sigma, equality, free, batch_probe):
    if any(jax.tree.leaves(in_batched[:2])):  # P or A
        args = (P, A, sigma, equality, free, batch_probe)
        return _each(_own_parts, axis_size, in_batched, args), (True, True, True)
    # Any weights will do, and any sigma; the whole batch gets the same.
    sigma = jnp.exp2(jnp.mean(jnp.log2(sigma))) if in_batched[2] else sigma
    equality = jnp.any(equality, axis=0) if in_batched[3] else equality
    free = jnp.all(free, axis=0) if in_batched[4] else free
    weights = _weights(equality, free, P.dtype)
    L = _cholesky(P, A, weights, sigma, jnp.ones((), P.dtype))
    values, vectors = jnp.linalg.eigh(_between_factors(L, A, weights))
    return (weights, solve_triangular(L.T, vectors, lower=False), jnp.clip(values, 0, 1)), (False, False, False)


def _between_factors(L, A, weights):
    """``L^{-1} A^T W A L^{-T}``."""
    if isinstance(A, DenseMatrix):
        half = solve_triangular(L, (jnp.sqrt(weights)[:, None] * A.dense()).T, lower=True)
        return half @ half.T
    return solve_triangular(L, solve_triangular(L, A.gram(weights), lower=True).T, lower=True)


@custom_vmap
def _multiply_in_basis(vectors, values, own, rho, g):
    return _multiply(own, g)


@_multiply_in_basis.def_vmap
def _(axis_size, in_batched, vectors, values, own, rho, g):
    if in_batched[0]:
        return _each(_multiply, axis_size, [in_batched[2], in_batched[4]], (own, g)), True

    def multiply(rho, g):
        return vectors @ ((g @ vectors) / (1 + (rho - 1) * values))

    return _each(multiply, axis_size, in_batched[3:], (rho, g)), True


@custom_vmap
def _factor_unless_common(vectors, P, A, weights, sigma, rho, own, stale):
    return _factor_if(P, A, weights, sigma, rho, own, stale)


@_factor_unless_common.def_vmap
def _(axis_size, in_batched, vectors, P, A, weights, sigma, rho, own, stale):
    if not in_batched[0]:
        return own, in_batched[6]
    return _each(_factor_if, axis_size, in_batched[1:], (P, A, weights, sigma, rho, own, stale)), True
