"""The proximity operator of the nuclear norm."""

from __future__ import annotations

from typing import Any

from jaxsolve._types import PyTree
from jaxsolve.projection._inputs import widen
from jaxsolve.projection._spectral import as_matrices, shrink
from jaxsolve.prox._groups import weight_of
from jaxsolve.tree_util import tree_cast_like, tree_map

__all__ = ["prox_nuclear_norm"]


def prox_nuclear_norm(x: PyTree, reg: Any = 1.0, scaling: Any = 1.0) -> PyTree:
    r"""Singular value thresholding, the proximity operator of :math:`g(y) = \text{reg} \sum_i \sigma_i(y)`.

    The singular values lose :math:`\text{scaling} \cdot \text{reg}` and are cut at 0. Derivatives of every order are
    finite at equal singular values and at singular values of 0. One on the threshold counts as below it, unless the
    threshold is 0: then this is the identity.

    Args:
        x: matrix of shape ``(m, n)``, or a pytree of matrices, whose penalties are added up. For a stack of matrices
            use ``jax.vmap``.
        reg: non-negative weight, a scalar; None means 1.
        scaling: non-negative factor of the penalty, a scalar; solvers pass the step size.

    Returns:
        Pytree with the structure, shapes and dtypes of ``x``. The derivative of a matrix costs an eigendecomposition of
        size m + n.

    Raises:
        ValueError: ``x`` is not a matrix, or a pytree of them; ``reg`` or ``scaling`` is not a scalar, or is negative.
        TypeError: an argument is not real.

    References:
        J.-F. Cai, E. Candes, Z. Shen, *A singular value thresholding algorithm for matrix completion*, SIAM J. Optim.
        20, 2010, theorem 2.1.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import prox_nuclear_norm
        >>> (prox_nuclear_norm(jnp.array([[3.0, 0.0], [0.0, -0.5]]), 1.0).round(4) + 0.0).tolist()
        [[2.0, 0.0], [0.0, 0.0]]
    """
    x = as_matrices(x, "prox_nuclear_norm")
    shrunk = tree_map(lambda leaf: shrink(leaf, weight_of(reg, "reg", scaling, leaf.dtype)), widen(x))
    return tree_cast_like(shrunk, x)
