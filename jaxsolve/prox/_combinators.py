r"""Proximity operators made from others.

With :math:`P_t(x) = \operatorname{argmin}_y \tfrac12 \|y - x\|_2^2 + t g(y)` those of functions built from :math:`g`
follow in closed form; see N. Parikh and S. Boyd, *Proximal algorithms*, 2014, sections 2.1, 2.2 and 2.5. Shifts,
factors and bounds are captured: the result is differentiable in them as in any captured array, in solvers too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxsolve._inputs import as_inexact, as_scalar, broadcast_like, check_entries, nonnegative_scalar, widen
from jaxsolve._types import PyTree
from jaxsolve.implicit_diff.optimality import call_with_hyperparams
from jaxsolve.projection._box import projection_box
from jaxsolve.tree_util import tree_add, tree_cast_like, tree_map, tree_scalar_mul, tree_sub

__all__ = [
    "make_prox_boxed",
    "make_prox_conjugate",
    "make_prox_from_projection",
    "make_prox_scaled",
    "make_prox_separable",
    "make_prox_translated",
]

Prox = Callable[..., PyTree]


def make_prox_translated(prox: Prox, shift: PyTree) -> Prox:
    r"""The proximity operator of :math:`y \mapsto g(y - \text{shift})`, which is :math:`b + P_t(x - b)`.

    Args:
        prox: ``prox(x, hyperparams, scaling)``, the proximity operator of :math:`g`.
        shift: :math:`b`, a scalar, an array that broadcasts to every leaf of ``x``, or a pytree with its structure.

    Returns:
        ``prox(x, hyperparams=None, scaling=1.0)``, with the arguments of the given operator.

    Raises:
        TypeError: ``prox`` is not callable.
        ValueError: when called, ``shift`` does not fit ``x``.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import make_prox_translated, prox_lasso
        >>> make_prox_translated(prox_lasso, 10.0)(jnp.array([10.5, 14.0]), 1.0).tolist()
        [10.0, 13.0]
    """
    check_prox(prox, "prox")

    def translated(x: PyTree, hyperparams: Any = None, scaling: Any = 1.0) -> PyTree:
        x = as_inexact(x, "x")
        wide = widen(x)
        shifts = tree_map(lambda b, leaf: jnp.broadcast_to(b, leaf.shape), broadcast_like(shift, wide, "shift"), wide)
        return tree_cast_like(tree_add(shifts, prox(tree_sub(wide, shifts), hyperparams, scaling)), x)

    return translated


def make_prox_scaled(prox: Prox, factor: Any) -> Prox:
    r"""The proximity operator of :math:`y \mapsto g(\text{factor} \cdot y)`, which is :math:`P_{s^2 t}(s x) / s`.

    For a factor in front of :math:`g` use the argument ``scaling``.

    Args:
        prox: ``prox(x, hyperparams, scaling)``, the proximity operator of :math:`g`.
        factor: :math:`s`, a scalar, not 0.

    Returns:
        ``prox(x, hyperparams=None, scaling=1.0)``, with the arguments of the given operator.

    Raises:
        TypeError: ``prox`` is not callable, or ``factor`` is not a number.
        ValueError: ``factor`` is 0 or not a scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import make_prox_scaled, prox_lasso
        >>> make_prox_scaled(prox_lasso, 2.0)(jnp.array([3.0, 0.5]), 1.0).tolist()
        [1.0, 0.0]
    """
    check_prox(prox, "prox")
    factor = as_scalar(factor, "factor", jnp.result_type(float))
    check_entries(lambda s: s != 0, factor, "factor", "other than 0")

    def scaled(x: PyTree, hyperparams: Any = None, scaling: Any = 1.0) -> PyTree:
        x = as_inexact(x, "x")
        t = nonnegative_scalar(scaling, "scaling", factor.dtype)
        inner = prox(tree_scalar_mul(factor, widen(x)), hyperparams, factor * t * factor)
        return tree_cast_like(tree_scalar_mul(1 / factor, inner), x)

    return scaled


def make_prox_conjugate(prox: Prox) -> Prox:
    r"""The proximity operator of the convex conjugate :math:`g^*`, by Moreau's identity :math:`x - t P_{1/t}(x / t)`.

    Args:
        prox: ``prox(x, hyperparams, scaling)``, the proximity operator of :math:`g`. If it is the projection on a
            convex set (see :func:`make_prox_from_projection`), the result belongs to the support function of the set.

    Returns:
        ``prox(x, hyperparams=None, scaling=1.0)``. Its ``scaling`` is the factor of the conjugate, and is positive.

    Raises:
        TypeError: ``prox`` is not callable.
        ValueError: when called, ``scaling`` is not a positive scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import make_prox_conjugate, prox_lasso
        >>> make_prox_conjugate(prox_lasso)(jnp.array([3.0, -0.5]), 1.0).tolist()
        [1.0, -0.5]
    """
    check_prox(prox, "prox")

    def conjugate(x: PyTree, hyperparams: Any = None, scaling: Any = 1.0) -> PyTree:
        x = as_inexact(x, "x")
        t = as_scalar(scaling, "scaling", jnp.result_type(float))
        check_entries(lambda t: t > 0, t, "scaling", "positive for a conjugate")
        wide = widen(x)
        inner = prox(tree_scalar_mul(1 / t, wide), hyperparams, 1 / t)
        return tree_cast_like(tree_sub(wide, tree_scalar_mul(t, inner)), x)

    return conjugate


def make_prox_separable(proxes: PyTree) -> Prox:
    r"""The proximity operator of a sum over the parts of a pytree, each part with its own.

    Args:
        proxes: pytree of proximity operators. ``x`` has this structure, with an array or a pytree in the place of each
            operator.

    Returns:
        ``prox(x, hyperparams=None, scaling=1.0)``. ``hyperparams`` has the structure of ``proxes`` too, with the
        hyperparameters of each operator in its place; None passes none to any of them, so that each has its defaults.

    Raises:
        TypeError: an entry of ``proxes`` is not callable.
        ValueError: when called, ``x`` or ``hyperparams`` does not have the structure of ``proxes``.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import make_prox_separable, prox_lasso, prox_none
        >>> prox = make_prox_separable({"weights": prox_lasso, "intercept": prox_none})
        >>> x = {"weights": jnp.array([3.0, -0.5]), "intercept": jnp.array(0.5)}
        >>> prox(x, {"weights": 1.0, "intercept": None})["weights"].tolist()
        [2.0, 0.0]
    """
    functions, structure = jax.tree.flatten(proxes)
    for function in functions:
        check_prox(function, "every entry of proxes")
    if not functions:
        raise TypeError("proxes must hold at least one function, got an empty pytree.")

    def check_structure(tree, name):
        try:
            structure.flatten_up_to(tree)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name} must have the structure of proxes, {structure}: {error}") from error

    def separable(x: PyTree, hyperparams: Any = None, scaling: Any = 1.0) -> PyTree:
        check_structure(x, "x")
        if hyperparams is None:
            return jax.tree.map(lambda prox, part: prox(part, scaling=scaling), proxes, x)
        check_structure(hyperparams, "hyperparams")
        return jax.tree.map(lambda prox, part, own: prox(part, own, scaling), proxes, x, hyperparams)

    return separable


def make_prox_boxed(prox: Prox, lower: PyTree, upper: PyTree) -> Prox:
    r"""The proximity operator of :math:`g` over a box, for :math:`g` a sum of convex functions of single entries.

    For such functions, and only for them, clipping the result of the given operator at the bounds is exact.

    Args:
        prox: ``prox(x, hyperparams, scaling)``, the proximity operator of :math:`g`.
        lower: lower bound: a scalar, an array that broadcasts to every leaf of ``x``, or a pytree with its structure.
        upper: upper bound, likewise. Bounds may be infinite.

    Returns:
        ``prox(x, hyperparams=None, scaling=1.0)``, with the arguments of the given operator.

    Raises:
        TypeError: ``prox`` is not callable.
        ValueError: when called, a bound does not fit ``x``, or ``lower > upper`` somewhere.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import make_prox_boxed, prox_lasso
        >>> make_prox_boxed(prox_lasso, -1.0, 1.5)(jnp.array([3.0, 1.25, -5.0]), 1.0).tolist()
        [1.5, 0.25, -1.0]
    """
    check_prox(prox, "prox")

    def boxed(x: PyTree, hyperparams: Any = None, scaling: Any = 1.0) -> PyTree:
        return projection_box(prox(x, hyperparams, scaling), (lower, upper))

    return boxed


def make_prox_from_projection(projection: Callable[..., PyTree]) -> Prox:
    r"""The proximity operator of the indicator function of a set, which is the projection on the set.

    Args:
        projection: ``projection(x, hyperparams)``, or ``projection(x)`` if there are none.

    Returns:
        ``prox(x, hyperparams=None, scaling=1.0)``; the scaling has no effect, as the penalty is 0 or infinite.

    Raises:
        TypeError: ``projection`` is not callable; or, when called, there are hyperparameters and it takes none.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_non_negative
        >>> from jaxsolve.prox import make_prox_from_projection
        >>> make_prox_from_projection(projection_non_negative)(jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """
    if not callable(projection):
        raise TypeError(f"projection must be a function projection(x, hyperparams), got {type(projection).__name__}.")

    def prox(x: PyTree, hyperparams: Any = None, scaling: Any = 1.0) -> PyTree:
        del scaling
        return call_with_hyperparams("projection", projection, x, hyperparams)

    return prox


def check_prox(prox, name):
    if not callable(prox):
        raise TypeError(f"{name} must be a function prox(x, hyperparams, scaling), got {type(prox).__name__}.")
