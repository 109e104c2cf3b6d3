r"""Proximity operators without closed form, by splitting: sums, linear maps, groups that overlap, graphs.

With :math:`t = \text{scaling}` the problem :math:`\min_y \tfrac12 \|y - x\|_2^2 + t g(y) + t h(K y)` is strongly
convex, and :class:`jaxsolve.PrimalDual` solves it with the operators of :math:`g` and of :math:`h` alone. It is posed
in units of a power of two near the largest entry of ``x``, so that its tolerance has none. Derivatives are those of the
solver's optimality conditions: exact at the solution, of every order, in ``x``, in hyperparameters, and in captured
arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._inputs import as_inexact, check_entries, check_nonnegative, nonnegative_scalar, power_of_two, widen
from jaxsolve._status import Status
from jaxsolve._types import PyTree
from jaxsolve._vectors import ravel
from jaxsolve.prox._combinators import Prox, check_prox
from jaxsolve.prox._groups import prox_l1inf, prox_l12
from jaxsolve.prox._penalties import prox_lasso
from jaxsolve.solvers._proximal import prox_none
from jaxsolve.solvers.composite import PrimalDual
from jaxsolve.tree_util import (
    tree_cast_like,
    tree_inf_norm,
    tree_l2_norm,
    tree_real_dtype,
    tree_scalar_mul,
    tree_size,
    tree_sub,
)

__all__ = [
    "make_prox_composed",
    "make_prox_graph_total_variation",
    "make_prox_groups",
    "make_prox_sum",
]


class SplittingInfo(NamedTuple):
    """Information about the result of a proximity operator computed by splitting; its fields are not differentiable.

    Attributes:
        status: ``CONVERGED``, also if there is a closed form; ``MAXITER`` if ``maxiter`` iterations were not enough;
            ``NONFINITE`` for arguments that are not finite; int32.
        error: the optimality error of the splitting, relative to the largest entry of ``x``; a real scalar.
        num_iter: number of iterations, int32.
    """

    status: jax.Array
    error: jax.Array
    num_iter: jax.Array


def make_prox_composed(prox: Prox, linear_map: Any, *, maxiter: int = 10_000, info: bool = False) -> Prox:
    r"""The proximity operator of :math:`y \mapsto g(K y)`, by a primal-dual splitting.

    Args:
        prox: ``prox(z, hyperparams, scaling)``, the proximity operator of the convex function :math:`g`.
        linear_map: :math:`K`, a matrix of shape ``(m, n)``, dense, BCOO or BCSR, or a linear function of a pytree like
            ``x``.
        maxiter: largest number of iterations. If they are not enough, the result is the last iterate.
        info: let the operator return ``(y, info)``, where ``info`` says whether the iterations were enough:
            ``info.status`` is a :class:`jaxsolve.Status`, ``info.error`` the optimality error relative to the largest
            entry of ``x``, and ``info.num_iter`` the number of iterations. For solvers make the operator without it.

    Returns:
        ``prox(x, hyperparams=None, scaling=1.0)``, with the hyperparameters of the given operator. Its accuracy is
        about the precision of the dtype to the power of 3/4, relative to the largest entry of ``x``.

    Raises:
        TypeError: ``prox`` is not callable, or ``linear_map`` neither a matrix nor callable.
        ValueError: when called, a matrix does not fit ``x``.

    References:
        P. L. Combettes, D. Dung, B. C. Vu, *Dualization of signal recovery problems*, Set-Valued Analysis 18, 2010. The
        method is that of :class:`jaxsolve.PrimalDual`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import make_prox_composed, prox_lasso
        >>> prox = make_prox_composed(prox_lasso, jnp.diff)
        >>> [round(v, 2) for v in prox(jnp.array([0.0, 1.0, 8.0, 9.0]), 1.0).tolist()]
        [1.0, 1.0, 8.0, 8.0]
        >>> from jaxsolve import Status
        >>> hasty = make_prox_composed(prox_lasso, jnp.diff, maxiter=3, info=True)
        >>> y, info = hasty(jnp.array([0.0, 1.0, 8.0, 9.0]), 1.0)
        >>> Status(info.status).name
        'MAXITER'
    """
    check_prox(prox, "prox")
    solver = _Splitting(prox_none, prox, linear_map, maxiter, info)

    def composed(x: PyTree, hyperparams: Any = None, scaling: Any = 1.0) -> PyTree:
        return solver(x, None, hyperparams, scaling)

    return composed


def make_prox_sum(proxes: Sequence[Prox], *, maxiter: int = 10_000, info: bool = False) -> Prox:
    r"""The proximity operator of a sum of functions of the same variables, by a primal-dual splitting.

    If a closed form exists, use it: see :func:`make_prox_boxed`, :func:`prox_sparse_group_lasso`.

    Args:
        proxes: proximity operators ``prox(x, hyperparams, scaling)`` of convex functions, one or more.
        maxiter: as in :func:`make_prox_composed`.
        info: as in :func:`make_prox_composed`.

    Returns:
        ``prox(x, hyperparams=None, scaling=1.0)``. ``hyperparams`` is a tuple with the hyperparameters of each
        operator; None passes none to any of them. The accuracy is that of :func:`make_prox_composed`.

    Raises:
        TypeError: an entry of ``proxes`` is not callable.
        ValueError: ``proxes`` is empty; or, when called, ``hyperparams`` does not have one entry for each operator.

    References:
        P. L. Combettes and J.-C. Pesquet, *Proximal splitting methods in signal processing*, 2011, section 6. The
        method is that of :class:`jaxsolve.PrimalDual`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import make_prox_sum, prox_lasso, prox_total_variation
        >>> fused_lasso = make_prox_sum((prox_total_variation, prox_lasso))
        >>> [round(v, 2) for v in fused_lasso(jnp.array([2.0, 3.0, 8.0, 9.0]), (1.0, 1.5)).tolist()]
        [1.5, 1.5, 6.5, 6.5]
    """
    proxes = tuple(proxes)
    if not proxes:
        raise ValueError("proxes must have at least one proximity operator, got none.")
    for prox in proxes:
        check_prox(prox, "every entry of proxes")
    first, *rest = proxes
    copies = len(rest)

    def each(parts, hyperparams, scaling):
        return tuple(_call(p, z, own, scaling) for p, z, own in zip(rest, parts, hyperparams, strict=True))

    solver = _Splitting(first, each, lambda x: (x,) * copies, maxiter, info)

    def summed(x: PyTree, hyperparams: Any = None, scaling: Any = 1.0) -> PyTree:
        given = (None,) * len(proxes) if hyperparams is None else hyperparams
        if not isinstance(given, (tuple, list)) or len(given) != len(proxes):
            raise ValueError(f"hyperparams must be a tuple with an entry for each of {len(proxes)} operators.")
        if not rest:
            y = _call(first, x, given[0], scaling)
            return (y, _exact(x)) if info else y
        return solver(x, given[0], tuple(given[1:]), scaling)

    return summed


def make_prox_groups(
    groups: Sequence[Sequence[int]], norm: str = "l2", *, maxiter: int = 10_000, info: bool = False
) -> Prox:
    r"""The proximity operator of a sum of norms of groups of entries, :math:`g(y) = \sum_k w_k \|y_{G_k}\|`.

    Entries that are in no group do not change. If groups share entries, these entries are duplicated, so that the
    groups become disjoint, and :func:`make_prox_composed` makes the copies equal. Disjoint groups have a closed form.

    Args:
        groups: for each group the indices of its entries, in the vector of all entries of ``x``, leaf by leaf in
            row-major order.
        norm: ``"l2"`` for Euclidean norms (the group lasso), ``"linf"`` for maximum norms.
        maxiter: as in :func:`make_prox_composed`.
        info: as in :func:`make_prox_composed`.

    Returns:
        ``prox(x, weights=1.0, scaling=1.0)`` on pytrees of real arrays; ``weights`` are non-negative, a scalar or a
        vector with an entry for each group.

    Raises:
        ValueError: a group is empty, or has a negative index or an index twice, or ``norm`` is unknown; when called,
            ``x`` has too few entries, or ``weights`` does not fit.

    References:
        L. Jacob, G. Obozinski, J.-P. Vert, *Group lasso with overlap and graph lasso*, ICML 2009. R. Jenatton, J.-Y.
        Audibert, F. Bach, *Structured variable selection with sparsity-inducing norms*, JMLR 12, 2011.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import make_prox_groups
        >>> [round(v, 3) for v in make_prox_groups([[0, 1], [2]])(jnp.array([3.0, 4.0, 0.5, 7.0]), 1.0).tolist()]
        [2.4, 3.2, 0.0, 7.0]
        >>> overlapping = make_prox_groups([[0, 1], [1, 2]])
        >>> [round(v, 2) for v in overlapping(jnp.array([0.1, 2.0, 0.1]), 0.5).tolist()]
        [0.07, 1.0, 0.07]
    """
    of_rows = {"l2": prox_l12, "linf": prox_l1inf}.get(norm)
    if of_rows is None:
        raise ValueError(f"norm must be 'l2' or 'linf', got {norm!r}.")
    groups = [[int(i) for i in group] for group in groups]
    if not groups or any(not group or min(group) < 0 or len(set(group)) < len(group) for group in groups):
        raise ValueError("groups must be lists of different places, from 0 on, and none may be empty.")
    last = max(max(group) for group in groups)
    width = max(len(group) for group in groups)
    # What pads a short group is no entry of the vector: it is read as 0, and what is written there is dropped.
    places = np.array([group + [np.iinfo(np.int32).max] * (width - len(group)) for group in groups], np.int32)
    members = np.concatenate(groups)
    disjoint = len(set(members.tolist())) == members.size

    def duplicate(vector):
        return vector.at[places].get(mode="fill", fill_value=0)

    overlapping = make_prox_composed(of_rows, duplicate, maxiter=maxiter, info=True)

    def prox(x: PyTree, weights: Any = 1.0, scaling: Any = 1.0) -> PyTree:
        x = as_inexact(x, "x")
        vector, unravel = ravel(widen(x))
        if last >= vector.size:
            raise ValueError(f"groups name place {last}, but x has {vector.size} entries.")
        weights = 1.0 if weights is None else weights
        if disjoint:
            shrunk = of_rows(duplicate(vector), weights, scaling)
            y, said = vector.at[places].set(shrunk, mode="drop"), _exact(vector)
        else:
            y, said = overlapping(vector, weights, scaling)
        y = tree_cast_like(unravel(y), x)
        return (y, said) if info else y

    return prox


def make_prox_graph_total_variation(edges: Any, *, maxiter: int = 10_000, info: bool = False) -> Prox:
    r"""The proximity operator of total variation on a graph, :math:`g(y) = \sum_{(i, j)} w_{ij} |y_i - y_j|`.

    For a path, :func:`prox_total_variation` is exact and faster.

    Args:
        edges: integers of shape ``(m, 2)``, the two ends of each edge, indices in the vector of all entries of ``x``
            (for example the pixels of an image), leaf by leaf in row-major order.
        maxiter: as in :func:`make_prox_composed`.
        info: as in :func:`make_prox_composed`.

    Returns:
        ``prox(x, weights=1.0, scaling=1.0)`` on pytrees of real arrays; ``weights`` are non-negative, a scalar or a
        vector with an entry for each edge. The accuracy is that of :func:`make_prox_composed`.

    Raises:
        ValueError: ``edges`` has another shape; when called, an index is out of range for ``x``.
        TypeError: ``edges`` are not integers.

    References:
        A. Chambolle, *An algorithm for total variation minimization and applications*, J. Math. Imaging Vision 20,
        2004, for the problem. The method is that of :class:`jaxsolve.PrimalDual`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.prox import make_prox_graph_total_variation
        >>> cycle = make_prox_graph_total_variation(jnp.array([[0, 1], [1, 2], [2, 3], [3, 0]]))
        >>> [round(v, 2) for v in cycle(jnp.array([0.0, 1.0, 8.0, 9.0]), 1.0).tolist()]
        [1.5, 1.5, 7.5, 7.5]
    """
    edges = jnp.asarray(edges)
    if not jnp.issubdtype(edges.dtype, jnp.integer):
        raise TypeError(f"edges must be integers, got dtype {edges.dtype}.")
    if edges.ndim != 2 or edges.shape[1] != 2 or edges.shape[0] == 0:
        raise ValueError(f"edges must have shape (m, 2) with at least one edge, got {edges.shape}.")
    starts, ends = edges.T
    composed = make_prox_composed(prox_lasso, lambda vector: vector[starts] - vector[ends], maxiter=maxiter, info=True)

    def prox(x: PyTree, weights: Any = 1.0, scaling: Any = 1.0) -> PyTree:
        x = as_inexact(x, "x")
        vector, unravel = ravel(widen(x))
        check_entries(
            lambda v: (v >= 0) & (v < vector.size), edges, "edges", f"places from 0 to {vector.size - 1} in x"
        )
        y, said = composed(vector, weights, scaling)
        y = tree_cast_like(unravel(y), x)
        return (y, said) if info else y

    return prox


class _Splitting:
    """``t g + t h(K .)`` at a point: its proximity operator, with the operators of the two functions."""

    def __init__(self, prox_g: Prox, prox_h: Prox, linear_map: Any, maxiter: int, info: bool):
        self._info = info
        in_units_of_g = prox_g if prox_g is prox_none else _in_units(prox_g)
        make: Any = PrimalDual
        self._make = lambda tol: make(
            _half_squared_distance, in_units_of_g, _in_units(prox_h), linear_map, tol=tol, maxiter=maxiter
        )
        self._has_g = prox_g is not prox_none
        self._make(0.0)  # looks at the arguments

    def __call__(self, x: PyTree, hyperparams_g: Any, hyperparams_h: Any, scaling: Any) -> PyTree:
        x = as_inexact(x, "x")
        check_nonnegative(scaling, "scaling")
        wide = widen(x)
        dtype = tree_real_dtype(wide)
        t = nonnegative_scalar(scaling, "scaling", dtype)
        unit = power_of_two(tree_inf_norm(wide).astype(dtype))
        target = tree_scalar_mul(1 / unit, wide)
        solver = self._make(float(jnp.finfo(dtype).eps) ** 0.75 * tree_size(wide) ** 0.5)
        of_g = (hyperparams_g, t, unit) if self._has_g else None
        solution, state = solver.run(jax.lax.stop_gradient(target), of_g, (hyperparams_h, t, unit), target)
        y = tree_cast_like(tree_scalar_mul(unit, solution.primal), x)
        return (
            (y, SplittingInfo(*jax.lax.stop_gradient((state.status, state.error, state.iter_num)))) if self._info else y
        )


def _exact(x):
    zero = jnp.zeros((), jnp.int32)
    return SplittingInfo(zero + int(Status.CONVERGED), jnp.zeros((), tree_real_dtype(widen(x))), zero)


def _half_squared_distance(y, target):
    return 0.5 * tree_l2_norm(tree_sub(y, target), squared=True)


def _in_units(prox):
    """The operator of ``y -> t / u^2 g(u y)``, the function in units of ``u``; see `make_prox_scaled`."""

    def in_units(y, hyperparams, scaling):
        own, t, unit = hyperparams
        return tree_scalar_mul(1 / unit, _call(prox, tree_scalar_mul(unit, y), own, scaling * t))

    return in_units


def _call(prox, x, hyperparams, scaling):
    return prox(x, scaling=scaling) if hyperparams is None else prox(x, hyperparams, scaling)
