"""The proximity operator of the nuclear norm."""

from __future__ import annotations

from typing import Any

import jax

from jaxsolve.projection._inputs import widen
from jaxsolve.projection._spectral import as_matrix, shrink
from jaxsolve.prox._groups import weight_of

__all__ = ["prox_nuclear_norm"]


def prox_nuclear_norm(x: jax.Array, reg: Any = 1.0, scaling: Any = 1.0) -> jax.Array:
    r"""Singular value thresholding, the proximity operator of :math:`g(y) = \text{reg} \sum_i \sigma_i(y)`.

    The singular values lose :math:`\text{scaling} \cdot \text{reg}` and are cut at 0. Derivatives of every order are
    finite at equal singular values and at singular values of 0. One on the threshold counts as below it, unless the
    threshold is 0: then this is the identity.

    Args:
        x: matrix of shape ``(m, n)``. For a stack of matrices use ``jax.vmap``.
        reg: non-negative weight, a scalar; None means 1.
        scaling: non-negative factor of the penalty, a scalar; solvers pass the step size.

    Returns:
        Matrix with the shape and dtype of ``x``. Its derivative costs an eigendecomposition of size m + n.

    Raises:
        ValueError: ``x`` is not a matrix; ``reg`` or ``scaling`` is not a scalar, or is negative.
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
    x = as_matrix(x, "prox_nuclear_norm")
    wide = widen(x)
    return shrink(wide, weight_of(reg, "reg", scaling, wide.dtype)).astype(x.dtype)
