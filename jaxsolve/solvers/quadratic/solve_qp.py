"""One function for all quadratic programs, which chooses the solver."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._compat import is_sparse
from jaxsolve._results import sentence_of_status, show_as_line
from jaxsolve._types import Array, KKTSolution, PyTree
from jaxsolve.base import check_choice
from jaxsolve.solvers._data import default_tol, read_all
from jaxsolve.solvers.quadratic._elastic import check_weights, violations
from jaxsolve.solvers.quadratic._general import (
    ElasticInteriorPoint,
    ElasticOSQP,
    GeneralInteriorPoint,
    GeneralOSQP,
    PresolvedInteriorPoint,
    PresolvedOSQP,
)
from jaxsolve.solvers.quadratic._presolve import Reduced, as_arrays, reduced, restored
from jaxsolve.solvers.quadratic._problem import is_factorized
from jaxsolve.solvers.quadratic.equality import EqualityConstrainedQP
from jaxsolve.tree_util import tree_real_dtype, tree_size

__all__ = ["QPResult", "solve_qp"]

# Beyond so many entries of [Q; A; G; I] no factorization is made in every iteration; the entries of sparse matrices,
# and those of a dense matrix with a row and a column for each variable, if they are sparse.
_MAX_ENTRIES = 4_000_000
_METHODS = ("auto", "equality", "interior_point", "osqp", "matrix_free")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class QPResult:
    """Result of :func:`solve_qp`; a pytree.

    Attributes:
        x: the solution, shape ``(n,)`` (like ``c``).
        dual_eq: multipliers of ``A x = b``, shape ``(p,)``; ``None`` without equalities.
        dual_ineq: multipliers of ``G x <= h``, non-negative, shape ``(m,)``; ``None`` without inequalities.
        dual_bounds: multipliers of ``l <= x <= u``, positive at ``u`` and negative at ``l``, shape ``(n,)``; ``None``
            without bounds.
        value: the objective, a scalar; with ``elastic`` its sum with the weighted violations.
        status: a :class:`jaxsolve.Status`, int32.
        error: optimality error.
        iter_num: iterations done, int32.
        method: the method that was chosen: ``"equality"``, ``"interior_point"``, ``"osqp"`` or ``"matrix_free"``.
        reason: why it was chosen, in a few words.
        violation_eq: with ``elastic`` the amounts ``|A x - b|``, shape ``(p,)``; else, or without equalities, ``None``.
        violation_ineq: with ``elastic`` the amounts ``max(G x - h, 0)``, shape ``(m,)``; else, or without
            inequalities, ``None``.
    """

    x: PyTree
    dual_eq: PyTree
    dual_ineq: PyTree
    dual_bounds: PyTree
    value: Array
    status: Array
    error: Array
    iter_num: Array
    method: str = dataclasses.field(metadata={"static": True})
    reason: str = dataclasses.field(metadata={"static": True})
    violation_eq: PyTree = None
    violation_ineq: PyTree = None

    message = sentence_of_status


show_as_line(QPResult, "solve_qp")


def solve_qp(
    Q: Any,
    c: PyTree,
    A: Any = None,
    b: Any = None,
    G: Any = None,
    h: Any = None,
    l: Any = None,  # noqa: E741  # the field's name for it
    u: Any = None,
    *,
    method: str = "auto",
    tol: float | None = None,
    maxiter: int | None = None,
    init: Any = None,
    weak: str = "half",
    elastic: Any = None,
    presolve: bool = False,
) -> QPResult:
    """Solve a quadratic program by a method that suits it; the solution is differentiable.

    ``min 0.5 x^T Q x + c^T x`` subject to ``A x = b``, ``G x <= h`` and ``l <= x <= u``. It works under ``jit``,
    ``vmap`` and in every derivative mode, with respect to all arrays.

    ====================  =============================================================================================
    method                is chosen for
    ====================  =============================================================================================
    ``"equality"``        no ``G``, ``l`` and ``u``: one linear system (:class:`.EqualityConstrainedQP`)
    ``"interior_point"``  dense matrices with up to 4 million entries in all; sparse ones up to 2,000 variables
                          (:class:`.InteriorPointQP`)
    ``"osqp"``            larger dense matrices, sparse ones up to 2,828 variables: one factorization, and many cheap
                          iterations (:class:`.BoxOSQP`)
    ``"matrix_free"``     sparse matrices with more variables, and functions: conjugate gradients (:class:`.BoxOSQP`)
    ====================  =============================================================================================

    Sparse matrices stay sparse. Only the matrix that is factorized is dense; it has one row and one column for each
    variable. It may be larger than these bounds if it has at most four times as many entries as the data.

    Args:
        Q: symmetric positive semidefinite, shape ``(n, n)``: dense, sparse (``BCOO``, ``BCSR``, ``scipy.sparse``),
            nested lists, a function ``x -> Q x``, or ``None`` for a linear program. Where ``c`` is a pytree: a pytree
            of matrices like it, which are blocks on the diagonal; or what ``jax.hessian`` returns.
        c: shape ``(n,)``, or a pytree. Half precision is computed with in float32; the solution is like ``c``.
        A: matrix of the equalities, shape ``(p, n)``, in any of these forms; or a vector, which is one row.
        b: their right-hand side, shape ``(p,)``, or a number for all of them.
        G: matrix of the inequalities, shape ``(m, n)``, likewise.
        h: their right-hand side, shape ``(m,)``, or a number; may be infinite.
        l: lower bounds of the variables, shape ``(n,)`` or a number; may be infinite.
        u: upper bounds, likewise.
        method: one of the table, or ``"auto"``.
        tol: absolute and relative tolerance of residuals and duality gap. By default 1e-8 in float64 and 1e-5 in
            float32; 1e-4 for ``"matrix_free"``.
        maxiter: largest number of iterations; the solver's own by default.
        init: initial point ``x``, or an earlier :class:`QPResult` of a problem of the same shapes.
        weak: how rows that hold with equality and multiplier 0 count in derivatives: ``"half"``, ``"active"`` or
            ``"inactive"``.
        elastic: price of a violation. ``elastic=w`` adds ``w`` times the sum of ``|A x - b|`` and ``max(G x - h, 0)``
            to the objective in place of the constraints; the bounds ``l`` and ``u`` still hold. If the constraints can
            be satisfied and ``w`` is larger than their multipliers, the solution is the same as without ``elastic``. If
            the constraints contradict each other, the solution minimizes the objective plus the price. ``w`` is a
            positive number; or one for each row, an array like ``b`` or ``h``, and a pair ``(of_A, of_G)`` if there are
            both. ``inf`` is for rows that must hold. The unit of ``w`` is that of the objective divided by that of the
            row. It may be large or small: in float64 the digits of ``x`` do not depend on it; in float32 a few linear
            programs with large ``w`` end with ``MAXITER``. The solution is differentiable with respect to ``w``.
        presolve: remove rows without entries, rows with one entry (they become bounds), proportional rows and fixed
            variables before solving; the multipliers of all rows are recovered. The shapes change, and a program is
            compiled for each. Inside ``jit``, ``vmap`` and ``grad``, where values are not known, and for sparse data,
            no row is removed; redundant bounds are ignored instead, and have multipliers and derivatives 0. Of equal
            bounds the first one is kept.

    Returns:
        A :class:`QPResult`; ``method`` is the chosen method and ``reason`` says why.

    Raises:
        ValueError: shapes do not fit, a matrix without its right-hand side, an impossible method, bounds that no
            number satisfies, or ``elastic`` without rows, not positive, or with ``presolve``.
        TypeError: an argument does not consist of real numbers.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> Q, c = jnp.array([[4.0, 1.0], [1.0, 2.0]]), jnp.array([1.0, 1.0])
        >>> result = jaxsolve.solve_qp(Q, c, A=jnp.ones((1, 2)), b=jnp.array([1.0]), l=0.0, u=0.7)
        >>> [round(x, 3) for x in result.x.tolist()], result.method
        ([0.3, 0.7], 'interior_point')
        >>> slope = jax.grad(lambda u: jaxsolve.solve_qp(Q, c, jnp.ones((1, 2)), jnp.ones(1), l=0.0, u=u).value)(0.7)
        >>> round(float(slope), 3)  # minus the multiplier of the bound
        -0.2

        The inequalities ``x <= 1`` and ``x >= 2`` contradict each other; violating the second one is cheaper.

        >>> G, h, weights = jnp.array([[1.0], [-1.0]]), jnp.array([1.0, -2.0]), jnp.array([10.0, 5.0])
        >>> result = jaxsolve.solve_qp(jnp.eye(1), jnp.zeros(1), G=G, h=h, elastic=weights)
        >>> [round(x, 3) for x in result.x.tolist()], [round(v, 3) for v in result.violation_ineq.tolist()]
        ([1.0], [0.0, 1.0])
    """
    options = {"method": method, "tol": tol, "maxiter": maxiter, "weak": weak, "elastic": elastic}
    if presolve and elastic is not None:
        raise ValueError("presolve=True is for rows that must hold, and elastic lets them be violated: leave one out.")
    arrays = as_arrays(Q, c, A, b, G, h, l, u) if presolve else None
    if arrays is not None and (less := reduced(arrays)).removed:
        return _solve_less(less, c, (Q is None, A is None, G is None, l is None and u is None), init, options)
    masks = presolve and arrays is None
    solver, data, chosen, reason = planned_qp(Q, c, A, b, G, h, l, u, **options, presolve=masks)
    if isinstance(init, QPResult):
        init = KKTSolution(init.x, init.dual_eq, (init.dual_ineq, init.dual_bounds))
    (x, of_eq, others), state = solver.run(init, *data)
    of_ineq, of_bounds, *_ = others or (None, None)
    violated = (None, None)
    if elastic is not None:
        x, slacks = x
        violated = violations(slacks, of_eq, of_ineq)
    found = (state.value, state.status, state.error, state.iter_num)
    return QPResult(x, of_eq, of_ineq, of_bounds, *found, chosen, reason, *violated)


def _solve_less(less: Reduced, c: Any, absent: tuple[bool, ...], init: Any, options: dict[str, Any]) -> QPResult:
    """The result of a program from which something was taken out, as that of the whole program."""
    dtype = tree_real_dtype(c)
    left, costs = (jax.tree.map(lambda part: jnp.asarray(part, dtype), arrays) for arrays in (less.program, less.given))
    bounded = bool(np.any(np.isfinite(less.program.l)) or np.any(np.isfinite(less.program.u)))
    start = getattr(init, "x", init)
    result = solve_qp(
        None if absent[0] else left.Q,
        left.c,
        *(left.A, left.b) if left.b.size else (None, None),
        *(left.G, left.h) if left.h.size else (None, None),
        *(left.l, left.u) if bounded else (None, None),
        init=None if start is None else jnp.asarray(start)[less.free],
        **options,
    )
    sizes = {"dual_eq": left.b.size, "dual_ineq": left.h.size, "dual_bounds": left.c.size}
    duals = (np.zeros(size) if (y := getattr(result, name)) is None else y for name, size in sizes.items())
    x, *full = (jnp.asarray(part, result.x.dtype) for part in restored(less, result.x, *duals))
    of_eq, of_ineq, of_bounds = (None if none else y for none, y in zip(absent[1:], full, strict=True))
    value = 0.5 * (x @ (costs.Q @ x)) + costs.c @ x
    reason = f"{result.reason}; presolve removed {less.removed} rows and variables"
    return dataclasses.replace(
        result, x=x, dual_eq=of_eq, dual_ineq=of_ineq, dual_bounds=of_bounds, value=value, reason=reason
    )


def planned_qp(
    Q: Any,
    c: Any,
    A: Any,
    b: Any,
    G: Any,
    h: Any,
    l: Any,  # noqa: E741
    u: Any,
    *,
    method: str,
    tol: Any,
    maxiter: Any,
    weak: str,
    elastic: Any,
    presolve: bool = False,
) -> tuple[Any, list[Any], str, str]:
    """What :func:`solve_qp` runs: the solver, its data, the method, and the reason for it."""
    check_choice("method", method, _METHODS)
    if c is None:
        raise TypeError("c must be a vector or a pytree, with an entry for each variable, got None.")
    bounded = l is not None or u is not None
    read = read_all({"Q": Q, "c": c, "A": A, "b": b, "G": G, "h": h, "l": l, "u": u})
    Q, c, A, b, G, h, l, u = (read | together("A", "b", read) | together("G", "h", read)).values()  # noqa: E741
    if elastic is not None:
        check_weights(elastic)
        if A is None and G is None:
            raise ValueError("elastic is the price of violating rows of A and G, but neither was given.")
    chosen, reason = _choose(Q, c, A, G, bounded, elastic) if method == "auto" else (method, "asked for")
    if chosen == "equality" and (G is not None or bounded or elastic is not None):
        raise ValueError("method='equality' is for problems without G, h, l, u and elastic.")
    if tol is None and chosen != "interior_point":
        tol = 1e-4 if chosen == "matrix_free" else default_tol(tree_real_dtype(c))
    matrices = {"matvec_Q": Q, "matvec_A": A, "matvec_G": G}
    options: dict[str, Any] = {name: _calling(matrix) for name, matrix in matrices.items() if callable(matrix)}
    options |= {"tol": tol} if maxiter is None else {"tol": tol, "maxiter": maxiter}
    params_Q, params_A, params_G = (None if callable(matrix) else matrix for matrix in (Q, A, G))
    data: list[Any] = [(params_Q, c), None if b is None else (params_A, b)]
    if chosen == "equality":
        solver: Any = EqualityConstrainedQP(**options)
    else:
        data.append(None if h is None else (params_G, h))
        data.append((l, u) if bounded else None)
        data += [] if elastic is None else [elastic]
        if chosen == "interior_point":
            plain: Any = PresolvedInteriorPoint if presolve else GeneralInteriorPoint
            solver = (plain if elastic is None else ElasticInteriorPoint)(weak=weak, **options)
        else:
            options["eq_qp_solve"] = "cg" if chosen == "matrix_free" else "lu"
            plain = PresolvedOSQP if presolve else GeneralOSQP
            solver = (plain if elastic is None else ElasticOSQP)(weak=weak, **options)
    return solver, data, chosen, reason


def _choose(Q, c, A, G, bounded, elastic) -> tuple[str, str]:
    """The method, and the reason in words."""
    given = [matrix for matrix in (Q, A, G) if matrix is not None]
    size = tree_size(c)
    if G is None and not bounded and elastic is None:
        return "equality", "equalities only"
    if any(map(callable, given)):
        return "matrix_free", "matrices given as functions"
    num_eq, num_ineq = map(_num_rows, (A, G))
    slacks = 0 if elastic is None else 2 * num_eq + num_ineq
    rows, columns = size + (size if bounded else 0) + num_eq + num_ineq + 2 * slacks, size + slacks
    entries = sum(map(_num_entries, given))
    is_thin = any(is_sparse(matrix) or jax.tree.structure(matrix) != jax.tree.structure(0) for matrix in given)
    if (columns**2 + entries if is_thin else rows * columns) <= _MAX_ENTRIES:
        return "interior_point", "small enough to be factorized in every iteration"
    if is_thin and not is_factorized(columns, entries):
        return "matrix_free", "sparse, and too large for a dense factor"
    return "osqp", "too large to be factorized in every iteration"


def _num_rows(matrix) -> int:
    """How many rows a matrix has, or a pytree of blocks."""
    blocks = jax.tree.leaves(matrix, is_leaf=is_sparse)
    return sum(block.shape[0] if len(block.shape) > 1 else 1 for block in blocks)


def _num_entries(matrix) -> int:
    """How many numbers a matrix is given by, or a pytree of blocks."""
    blocks = jax.tree.leaves(matrix, is_leaf=is_sparse)
    return sum(block.nse if is_sparse(block) else np.size(block) for block in blocks)


def together(matrix: str, side: str, data: dict[str, Any]) -> dict[str, Any]:
    """A matrix and its right-hand side; one without entries may stand for both."""
    pair = {name: data[name] for name in (matrix, side)}
    present = [value for value in pair.values() if value is not None]
    if len(present) == 1:
        if callable(present[0]) or tree_size(present[0]):
            raise ValueError(f"{matrix} and {side} belong together: give both or none.")
        return {matrix: None, side: None}
    return pair


def _calling(function: Callable) -> Callable:
    """``matvec(params, x)`` of a function of ``x``."""
    return lambda _, x: function(x)
