"""What minimizers with a step size share: the function, and the forms that a step size may have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._compat import is_concrete, power_of_two
from jaxsolve._types import Array, PyTree
from jaxsolve._vectors import flat, ravel
from jaxsolve.base import IterativeSolver, check_number, option
from jaxsolve.tree_util import tree_l2_norm

__all__ = [
    "StepsizeMethod",
    "curvature_scale",
    "falls_without_end",
    "first_length",
    "natural_stepsize",
    "rounding",
    "times",
    "wave",
]


class StepsizeMethod(IterativeSolver):
    """Base of the solvers that take steps of a given, scheduled or searched size to minimize a smooth function.

    Attributes:
        fun: smooth function ``fun(params, *args, **kwargs)`` with a real scalar value.
        value_and_grad: whether ``fun`` returns ``(value, grad)``.
        has_aux: whether ``fun`` returns ``(value, aux)`` in place of ``value``.
        rtol: relative tolerance: the run has also converged when ``state.error`` is at most ``tol`` plus ``rtol`` times
            ``state.first_error``, the error at the initial point. A run that continues from an earlier result keeps the
            ``first_error`` of that result. May be traced.
    """

    fun: Callable
    value_and_grad: bool = option(False)
    has_aux: bool = option(False)
    rtol: float = option(0.0, at_least=0)

    _splits_complex = True
    # Every solver declares this option itself, for its place among the arguments differs; here it is no field.
    stepsize = 0.0
    #: What the hyperparameters of a step are called, which come before the data of ``fun``; ``None`` without any.
    _hyperparams: ClassVar[str | None] = None

    def _validate(self) -> None:
        super()._validate()
        if callable(self.stepsize):
            return
        check_number("stepsize", self.stepsize)
        # An array that is known to be zero or negative means a search, like the number does.
        if is_concrete(self.stepsize) and np.ndim(self.stepsize) == 0 and float(self.stepsize) <= 0:
            self.stepsize = 0.0

    @property
    def _searches(self) -> bool:
        """Whether the step size is to be searched for."""
        return isinstance(self.stepsize, (int, float)) and self.stepsize <= 0

    def _stepsize_at(self, iter_num: Array, dtype: Any) -> Array:
        """The fixed or scheduled step size of an iteration, a scalar."""
        given: Any = self.stepsize(iter_num) if callable(self.stepsize) else self.stepsize
        if jnp.shape(given) != ():
            raise ValueError(
                f"stepsize must be a scalar, or a function that returns one, got shape {jnp.shape(given)}."
            )
        return jnp.asarray(given).astype(dtype)

    def _split(self, args: tuple, kwargs: dict) -> tuple[Any, tuple, dict]:
        """The hyperparameters of a step, if it has any, and the data of ``fun``."""
        if self._hyperparams is None:
            return None, args, kwargs
        if args:
            if self._hyperparams in kwargs:
                raise TypeError(f"{self._hyperparams}, which comes before the data of fun, is given twice.")
            return args[0], args[1:], kwargs
        kwargs = dict(kwargs)
        return kwargs.pop(self._hyperparams, None), args, kwargs

    def _state_of_solution(self, params: PyTree, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """``value`` and ``aux`` as functions of the solution."""
        _, args, kwargs = self._split(args, kwargs)
        value, aux = self._objective.value(params, *args, **kwargs)
        return {"value": value, "aux": aux}


def rounding(value: Array, dtype: Any) -> Array:
    """How much two values of an objective may differ by rounding alone, for parameters of a dtype."""
    eps = max(float(jnp.finfo(d).eps) for d in (dtype, value.dtype))
    return 10 * eps * jnp.abs(value.astype(dtype))


def falls_without_end(value: Array) -> Array:
    """Whether the objective has fallen so low that its square overflows, as that of the gradient is about to do."""
    return value < -(float(jnp.finfo(value.dtype).max) ** 0.5)


def first_length(params: PyTree, value: Array, error: Array) -> Array:
    """A length for the first step, in the unit of the parameters.

    Two lengths are at hand: the norm of the parameters, and the way to where the tangent is 0, that is value over
    gradient. The shorter one is taken, unless it is shorter by orders of magnitude and so tells nothing; without either
    the length is 1.

    Args:
        params: initial parameters.
        value: ``fun`` there.
        error: Euclidean norm of the gradient there.
    """
    size = tree_l2_norm(params).astype(error.dtype)
    way = jnp.abs(value.astype(error.dtype)) / jnp.where(error > 0, error, 1)
    short, long = jnp.minimum(size, way), jnp.maximum(size, way)
    length = jnp.where(short > 0, jnp.maximum(short, 1e-3 * long), long)
    return jnp.where((length > 0) & jnp.isfinite(length), length, 1)


def natural_stepsize(grad: Callable, params: PyTree, slope: PyTree) -> Array:
    """A step size in the unit of the problem, parameters over gradients: about one over a curvature; a scalar.

    At a solution neither the gradient nor the way from it tells a step size: both may be rounding errors.

    Args:
        grad: gradient of the objective, a function of the parameters.
        params: where the curvature is measured; a power of two of it counts.
        slope: the gradient there, for an objective without curvature: the step is then as long as the parameters.
    """
    probe = jax.tree.map(wave, params)
    # The product with the transpose, which is there for every function that has a gradient.
    image = jax.vjp(grad, params)[1](probe)[0]
    curvature = tree_l2_norm(image) / tree_l2_norm(probe)
    size, steepness = (power_of_two(tree_l2_norm(tree)) for tree in (params, slope))
    known = (curvature > 0) & jnp.isfinite(curvature)
    return lax.stop_gradient(jnp.where(known, 1 / power_of_two(curvature), size / steepness.astype(size.dtype)))


def wave(leaf: Array) -> Array:
    """An array like a leaf without symmetries, so that it is not orthogonal to what matters; entries are of size 1."""
    return jnp.sin(1 + jnp.arange(leaf.size, dtype=jnp.finfo(leaf.dtype).dtype)).reshape(leaf.shape).astype(leaf.dtype)


def curvature_scale(grad: Callable, params: PyTree) -> PyTree:
    """Units for the variables in which the diagonal of the Hessian is about 1.

    The diagonal is exact: one product with the Hessian for each variable, one after another. An estimate by random
    products would have the errors of the largest entries in all of them.

    Args:
        grad: gradient of the objective, a function of the parameters; must be differentiable.
        params: where the curvature is measured.

    Returns:
        Powers of 2 in a pytree like ``params``. A variable without curvature has the unit of the one with the most.
    """
    vector, unravel = ravel(params)
    product = jax.linearize(lambda x: flat(grad(unravel(x))), vector)[1]

    def curvature(i):
        return jnp.abs(jnp.real(product((jnp.arange(vector.size) == i).astype(vector.dtype))[i]))

    diagonal = lax.stop_gradient(lax.map(curvature, jnp.arange(vector.size)))
    diagonal = jnp.where(jnp.isfinite(diagonal), diagonal, 0)
    largest = jnp.max(diagonal, initial=0)
    diagonal = jnp.where(diagonal > 0, diagonal, jnp.where(largest > 0, largest, 1))
    exponents = -jnp.round(0.5 * jnp.log2(diagonal)).astype(jnp.int32)
    return unravel(jnp.ldexp(jnp.ones_like(diagonal), exponents).astype(vector.dtype))


def times(tree: PyTree, scale: PyTree | None, power: int = 1) -> PyTree:
    """Every entry times its unit to a power; as it is without units."""
    if scale is None:
        return tree
    return jax.tree.map(lambda x, c: x * (c**power if power > 0 else 1 / c).astype(x.dtype), tree, scale)
