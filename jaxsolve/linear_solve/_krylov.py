"""What the iterative methods share: their options, the system in its natural units, and keeping the best iterate.

The methods are written here rather than taken from ``jax.scipy.sparse.linalg``: those divide by zero when a space is
exhausted or a matrix is singular (NaN without notice), do not count iterations, and return the last iterate even if an
earlier one was better.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxsolve._loop import loop
from jaxsolve.linear_solve._differentiable import Outcome, RightHandSide, differentiable_solve, scale_of
from jaxsolve.linear_solve._operators import LinearMap, Operator, check_counts, check_sizes, make_operator

__all__ = ["Best", "KrylovOptions", "System", "correct", "iterate", "krylov_solve", "order_of", "safe_divide"]

PyTree = Any
_ON_FAILURE = (None, "nan", "warn", "ignore")


class KrylovOptions(NamedTuple):
    """Options that all iterative methods take, as keywords.

    A solve *fails* if its relative residual is larger than ``10 * tol`` and also larger than the square root of the
    spacing of the dtype (1e-8 in float64, 3e-4 in float32). If the system is singular and the method finds a
    least-squares solution, this is not a failure.

    Attributes:
        tol: relative tolerance on the residual; by default 10 spacings of the working dtype, so that gradients are as
            accurate as the dtype allows.
        atol: absolute tolerance on the residual.
        maxiter: largest number of iterations; ``10 n`` by default.
        preconditioner: a map that approximates the inverse: a function of pytrees, or a dense matrix.
        on_failure: the result of a failed solve. ``"nan"``: NaN. ``"warn"``: the best iterate, with a Python warning by
            a callback from the compiled program. ``"ignore"``: the best iterate; ``info=True`` gives its residual. By
            default a failed solve gives the best iterate, but NaN when it belongs to a derivative, because a wrong
            gradient would not be noticed. In ``solve``, which the derivatives of solvers use, the default is ``"nan"``.
    """

    tol: Any = None
    atol: Any = 0.0
    maxiter: Any = None
    preconditioner: Any = None
    on_failure: Literal[None, "nan", "warn", "ignore"] = None

    @classmethod
    def of(cls, method: str, M: Any = None, **options: Any) -> KrylovOptions:
        """Check the options given to ``method``; ``M`` is SciPy's name for the preconditioner.

        Raises:
            ValueError: an option is out of range, or both ``preconditioner`` and ``M`` are given.
            TypeError: an option is not known.
        """
        for name in options:
            if name not in cls._fields:
                near = difflib.get_close_matches(name, cls._fields, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"it takes {[*cls._fields, 'M']}."
                raise TypeError(f"{method} has no option {name!r}: {hint}")
        if options.get("preconditioner") is not None and M is not None:
            raise ValueError("M is another name for preconditioner: give one of them.")
        checked = cls(**options) if M is None else cls(**{**options, "preconditioner": M})
        check_sizes(tol=checked.tol, atol=checked.atol)
        check_counts(maxiter=checked.maxiter)
        if checked.on_failure not in _ON_FAILURE:
            raise ValueError(f"on_failure must be one of {list(_ON_FAILURE)}, got {checked.on_failure!r}.")
        return checked


class System(NamedTuple):
    """A system as a method sees it: started at 0, the map and the right-hand side of the order of 1.

    Attributes:
        operator: the map in the caller's units; ``matvec`` and ``rmatvec`` are those of the map divided by ``size``.
        size: the order of magnitude of the map.
        b: right-hand side, shape ``(n,)``.
        precondition: approximates the inverse of the map; of the order of 1 too.
        target: residual norm at which to stop.
        failure: residual norm above which a solve has failed.
        options: the options.
    """

    operator: Operator
    size: jax.Array
    b: jax.Array
    precondition: Callable[[jax.Array], jax.Array]
    target: jax.Array
    failure: jax.Array
    options: KrylovOptions

    @property
    def eps(self) -> float:
        """The spacing of the working dtype at 1."""
        return float(jnp.finfo(self.b.dtype).eps)

    def matvec(self, vector: jax.Array) -> jax.Array:
        """The product with the map."""
        return self.operator.matvec(vector) / self.size

    def rmatvec(self, vector: jax.Array) -> jax.Array:
        """The product with its transpose."""
        return self.operator.matrix.rmatvec(vector) / self.size


class Best(NamedTuple):
    """The best iterate so far.

    Attributes:
        x: the iterate, shape ``(n,)``.
        error: the norm of its residual.
        num_iter: iterations done.
        stop: whether the method can go no further.
        least_squares: whether ``x`` is a least-squares solution, so that ``error`` is as small as can be.
    """

    x: jax.Array
    error: jax.Array
    num_iter: jax.Array
    stop: jax.Array
    least_squares: jax.Array

    @classmethod
    def start(cls, b: jax.Array) -> Best:
        """The iterate 0."""
        # Made from the data: a loop under shard_map asks for the same varying axes before and after a turn.
        error = jnp.linalg.norm(b)
        no = jnp.zeros_like(error, jnp.bool_)
        return cls(jnp.zeros_like(b), error, jnp.zeros_like(error, jnp.int32), no, no)

    def update(self, x: jax.Array, error: jax.Array, stop: jax.Array, *, always: bool = False) -> Best:
        """Keep the new iterate if it is better; ``always``, if it is finite.

        The very first product not being finite means that the map is not: then NaN is the answer, not 0.
        """
        broken = ~jnp.isfinite(error)
        better = ~broken if always else error < self.error
        poisoned = broken & (self.num_iter == 0)
        kept = jnp.where(better, x, jnp.where(poisoned, jnp.nan, self.x))
        error = jnp.where(better, error, self.error)
        return Best(kept, error, self.num_iter + 1, stop | broken, self.least_squares)


def iterate(system: System, body: Callable, init: Any, maxiter: Any = None) -> Best:
    """Run a method until it is accurate or stops.

    Args:
        system: the system.
        body: one iteration, from carry to carry.
        init: the carry to begin with; it has an entry ``best``.
        maxiter: bound on the iterations if the caller gave none, 10 for each unknown by default.
    """

    def proceed(s):
        return (s.best.error > system.target) & ~s.best.stop

    maxiter = 10 * system.b.shape[0] if maxiter is None else maxiter
    given = system.options.maxiter
    return loop(proceed, body, init, maxiter=maxiter if given is None else given, kind="while").best


class _Corrected(NamedTuple):
    r: jax.Array  # residual of the best iterate
    best: Best


def correct(system: System, approximate: Callable, shrinkage: float = 1.0, maxiter: Any = None) -> Best:
    """Repeat ``x <- x + d`` with approximate solutions ``d`` for the residual, as long as that helps.

    Args:
        system: the system.
        approximate: ``approximate(unit, error) -> (d, num_iter)`` for the residual divided by its norm ``error``.
        shrinkage: the factor, 1 or less, by which the residual is to shrink each time.
        maxiter: bound on the corrections if the caller gave none.
    """

    def body(s: _Corrected) -> _Corrected:
        best = s.best
        d, num_iter = approximate(s.r / best.error, best.error)
        x = best.x + best.error * d
        r = system.b - system.matvec(x)
        error = jnp.linalg.norm(r)
        updated = best.update(x, error, ~(error < shrinkage * best.error))
        return _Corrected(jnp.where(error < best.error, r, s.r), updated._replace(num_iter=best.num_iter + num_iter))

    return iterate(system, body, _Corrected(system.b, Best.start(system.b)), maxiter)


def krylov_solve(
    name: str, method: Callable[[System], Best], options: dict, matvec: LinearMap, b: PyTree, scaled=True, **rest: Any
) -> Any:
    """``differentiable_solve`` by an iterative method.

    Args:
        name: what the caller calls the method, for error messages.
        method: returns the best iterate.
        options: those of :class:`KrylovOptions`, by their names.
        matvec: the map.
        b: right-hand side.
        scaled: whether to divide by the order of magnitude of the map, which costs a product.
        **rest: further arguments of ``differentiable_solve``.
    """
    kernel = partial(_iterative_kernel, method=method, scaled=scaled)
    return differentiable_solve(kernel, KrylovOptions.of(name, **options), matvec, b, **rest)


def _iterative_kernel(
    operator: Operator, rhs: RightHandSide, options: KrylovOptions, *, method: Callable, scaled: bool
) -> Outcome:
    """Scale the system, start at the caller's point if that helps, solve, and judge the result."""
    eps, scale = float(jnp.finfo(rhs.vector.dtype).eps), scale_of(rhs.vector)
    unit = rhs.vector / scale
    norm = jnp.linalg.norm(unit)
    start, b = _starting_point(operator, unit, rhs, scale)
    tol = jnp.asarray(10 * eps if options.tol is None else options.tol).astype(b.dtype)
    least = jnp.asarray(options.atol).astype(b.dtype) / scale
    target = jnp.maximum(tol * norm, least)
    failure = jnp.maximum(jnp.maximum(10 * tol, eps**0.5) * norm, least)
    size = order_of(operator.matvec, b) if scaled else jnp.ones_like(norm)
    precondition = _preconditioner(options.preconditioner, operator)
    best = method(System(operator, size, b, precondition, target, failure, options))
    x = jnp.where(jnp.isfinite(norm), start + best.x / size, jnp.nan)
    failed = (best.error > failure) & ~best.least_squares
    return Outcome(_judge(options.on_failure, x, failed, best.error / norm, rhs) * scale, best.num_iter)


def order_of(matvec: Callable, example: jax.Array) -> jax.Array:
    """The order of magnitude of a map on vectors like ``example``, by one product; 1 if that vanishes.

    A right-hand side in the null space has an image of rounding errors only; without a scale to compare with, a method
    would take it for a map that is merely small, and divide by it.
    """
    count = jnp.zeros_like(example) + jnp.arange(example.shape[0]).astype(example.dtype)
    irregular = jnp.cos(count * count + 1)
    image = matvec(irregular)
    unit = scale_of(image)
    return scale_of(unit * (jnp.linalg.norm(image / unit) / jnp.linalg.norm(irregular)))


def safe_divide(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """The quotient, 0 where the denominator is 0."""
    zero = denominator == 0
    return jnp.where(zero, 0, numerator / jnp.where(zero, 1, denominator))


def _starting_point(operator, unit, rhs, scale):
    if rhs.start is None:
        return jnp.zeros_like(unit), unit
    guess = rhs.start / scale
    remainder = unit - operator.matvec(guess)
    # The solve for a tangent or a cotangent has another right-hand side, in another unit, and starts from 0.
    helps = jnp.linalg.norm(remainder) < jnp.linalg.norm(unit)
    helps = helps & jnp.all(rhs.vector == rhs.original)
    return jnp.where(helps, guess, 0), jnp.where(helps, remainder, unit)


def _preconditioner(preconditioner, operator):
    """A preconditioner, callable on pytrees or dense matrix, on vectors; transposed for a transposed operator."""
    if preconditioner is None:
        return lambda vector: vector
    mapped = make_operator(preconditioner, operator.codec)
    mapped = mapped.transpose() if operator.is_transpose else mapped
    size = order_of(mapped.matvec, operator.codec.example)
    return lambda vector: mapped.matvec(vector) / size


def _judge(on_failure, x, failed, relative, rhs):
    if on_failure == "ignore":
        return x
    if on_failure == "warn":
        jax.debug.callback(_warn, failed, relative)
        return x
    if on_failure is None and rhs.original is not None:
        failed = failed & jnp.any(rhs.vector != rhs.original)
    return jnp.where(failed, jnp.nan, x)


def _warn(failed, relative):
    if failed:
        warnings.warn(
            f"an iterative linear solve ended with a relative residual of {float(relative):.1e}: raise maxiter, give a "
            "preconditioner, or use another method.",
            RuntimeWarning,
            stacklevel=2,
        )
