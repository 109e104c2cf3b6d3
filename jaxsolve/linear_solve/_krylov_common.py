"""What the Krylov methods share: options, the target of the stop test, and keeping the best iterate.

The methods are written here rather than taken from ``jax.scipy.sparse.linalg``: those divide by zero when a space is
exhausted or a matrix is singular (NaN without notice), do not count iterations, and return the last iterate even if an
earlier one was better.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsolve.linear_solve._differentiable import Outcome, RightHandSide
from jaxsolve.linear_solve._operators import Operator, check_options

__all__ = ["Best", "KrylovOptions", "krylov_options", "length", "map_scale", "real_vdot", "safe_divide"]


class KrylovOptions(NamedTuple):
    """Options of an iterative method, checked."""

    tol: Any = None
    atol: Any = 0.0
    maxiter: Any = None
    preconditioner: Any = None

    def target(self, operator: Operator, rhs: RightHandSide) -> jax.Array:
        """The residual norm (of the scaled problem) at which to stop."""
        real = rhs.norm.dtype
        relative = jnp.asarray(self.relative(operator)).astype(real) * rhs.norm
        return jnp.maximum(relative, jnp.asarray(self.atol).astype(real) / rhs.scale)

    def relative(self, operator: Operator) -> Any:
        """The relative tolerance: by default ten spacings of the working dtype."""
        return 10 * operator.eps if self.tol is None else self.tol

    def bound(self, operator: Operator, per_unknown: int = 10) -> Any:
        """The largest number of iterations."""
        return per_unknown * operator.size if self.maxiter is None else self.maxiter


def krylov_options(tol: Any, atol: Any, maxiter: Any, preconditioner: Any, M: Any) -> KrylovOptions:
    """Check the options that the iterative methods have in common; ``M`` is SciPy's name for the preconditioner.

    Raises:
        ValueError: a negative tolerance, ``maxiter < 1``, or both ``preconditioner`` and ``M``.
    """
    check_options(tol=tol, atol=atol, maxiter=maxiter)
    if preconditioner is not None and M is not None:
        raise ValueError("M is another name for preconditioner: give one of them.")
    return KrylovOptions(tol, atol, maxiter, M if preconditioner is None else preconditioner)


class Best(NamedTuple):
    """The best iterate so far.

    Attributes:
        x: the iterate, shape ``(n,)``.
        error: the norm of its residual.
        num_iter: iterations done.
        stop: whether the method broke down.
    """

    x: jax.Array
    error: jax.Array
    num_iter: jax.Array
    stop: jax.Array

    @classmethod
    def start(cls, rhs: RightHandSide) -> Best:
        """The iterate 0."""
        zero = jnp.zeros_like(rhs.vector)
        return cls(zero, jnp.linalg.norm(rhs.vector), jnp.zeros((), jnp.int32), jnp.asarray(False))

    def update(self, x: jax.Array, error: jax.Array, stop: jax.Array, *, always: bool = False) -> Best:
        """Keep the new iterate if it is better; ``always``, if it is finite.

        The very first product not being finite means that the map is not: then NaN is the answer, not 0.
        """
        broken = ~jnp.isfinite(error)
        better = ~broken if always else error < self.error
        poisoned = broken & (self.num_iter == 0)
        kept = jnp.where(better, x, jnp.where(poisoned, jnp.full_like(x, jnp.nan), self.x))
        return Best(kept, jnp.where(better, error, self.error), self.num_iter + 1, stop | broken)

    def outcome(self) -> Outcome:
        """What the kernel returns."""
        return Outcome(self.x, self.num_iter, error=self.error)


def map_scale(operator: Operator) -> jax.Array:
    """The order of magnitude of a map, by one product.

    A right-hand side in the null space has an image of rounding errors only; without a scale to compare with, a method
    would take it for a map that is merely small, and divide by it.
    """
    count = jnp.arange(operator.size).astype(jnp.finfo(operator.dtype).dtype)
    irregular = jnp.cos(count * count + 1).astype(operator.dtype)
    return length(operator.matvec(irregular)) / jnp.linalg.norm(irregular)


def length(vector: jax.Array) -> jax.Array:
    """The Euclidean norm, for images under a map of any scale: their squares may be no numbers of the dtype."""
    largest = jnp.max(jnp.abs(vector))
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, jnp.ones_like(largest))
    return unit * jnp.linalg.norm(vector / unit.astype(vector.dtype))


def real_vdot(x: jax.Array, y: jax.Array) -> jax.Array:
    """Real part of the inner product."""
    return jnp.real(jnp.vdot(x, y))


def safe_divide(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """The quotient, 0 where the denominator is 0."""
    zero = denominator == 0
    return jnp.where(
        zero, jnp.zeros_like(numerator), numerator / jnp.where(zero, jnp.ones_like(denominator), denominator)
    )
