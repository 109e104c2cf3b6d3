r"""Linear programs, with SciPy's arguments.

Problem: :math:`\min_x c^T x` subject to :math:`A_{ub} x \le b_{ub},\ A_{eq} x = b_{eq},\ l \le x \le u`. Method: the
interior-point method of :class:`jaxsolve.InteriorPointQP`, in which the bounds are rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._operators import SparseMatrix, as_bcoo
from jaxsolve._results import sentence_of_status, show_as_line
from jaxsolve._status import Status
from jaxsolve._types import Array
from jaxsolve.solvers._data import joined, read_all
from jaxsolve.solvers.quadratic._elastic import as_weights, check_weights
from jaxsolve.solvers.quadratic._general import ElasticInteriorPoint, GeneralInteriorPoint, PresolvedInteriorPoint
from jaxsolve.solvers.quadratic._presolve import as_arrays, reduced, restored
from jaxsolve.solvers.quadratic._problem import as_matrix, as_vector, check_bounds
from jaxsolve.solvers.quadratic.interior_point import InteriorPoint
from jaxsolve.solvers.quadratic.solve_qp import together
from jaxsolve.tree_util import tree_real_dtype

__all__ = ["LinprogMarginals", "LinprogResult", "linprog"]


class LinprogMarginals(NamedTuple):
    """Derivatives of the optimal value, with the signs of SciPy's HiGHS methods.

    Attributes:
        ineqlin: with respect to ``b_ub``, shape ``(m_ub,)``, not positive.
        eqlin: with respect to ``b_eq``, shape ``(m_eq,)``.
        lower: with respect to the lower bounds, shape ``(n,)``, not negative.
        upper: with respect to the upper bounds, shape ``(n,)``, not positive.
    """

    ineqlin: Array
    eqlin: Array
    lower: Array
    upper: Array


class LinprogResult(NamedTuple):
    """Solution of a linear program.

    Attributes:
        x: the minimizer, shape ``(n,)``.
        fun: the optimal value; infinite if the constraints contradict each other, minus infinity if it is unbounded.
            With ``elastic`` it includes the weighted violations.
        success: whether the optimum was found.
        slack: ``b_ub - A_ub x``, shape ``(m_ub,)``; negative where ``elastic`` lets a row be violated.
        con: ``b_eq - A_eq x``, shape ``(m_eq,)``.
        marginals: the multipliers.
        status: a :class:`jaxsolve.Status`, int32: not SciPy's number.
        nit: iterations, int32.
        error: optimality error.
    """

    x: Array
    fun: Array
    success: Array
    slack: Array
    con: Array
    marginals: LinprogMarginals
    status: Array
    nit: Array
    error: Array

    message = sentence_of_status


show_as_line(LinprogResult, "linprog")


def linprog(
    c: Any,
    A_ub: Any = None,
    b_ub: Any = None,
    A_eq: Any = None,
    b_eq: Any = None,
    bounds: Any = (0, None),
    *,
    weak: str = "half",
    smoothing: float = 0.0,
    maxiter: int = 100,
    tol: float | None = None,
    elastic: Any = None,
    presolve: bool = False,
) -> LinprogResult:
    """Solve a linear program; the solution is differentiable.

    ``min c^T x`` subject to ``A_ub x <= b_ub``, ``A_eq x = b_eq`` and ``lower <= x <= upper``, as in
    ``scipy.optimize.linprog``. It works under ``jit``, ``vmap`` and in every derivative mode, with respect to all
    arrays. ``x`` is differentiable where it is the only solution; its derivative with respect to ``c`` is 0 there,
    because ``x`` stays at its vertex. ``fun`` is differentiable also if there are several solutions.

    Args:
        c: costs, shape ``(n,)``.
        A_ub: matrix of the inequalities, shape ``(m_ub, n)``: dense, sparse (``BCOO``, ``BCSR``, ``scipy.sparse``), or
            nested lists.
        b_ub: their right-hand side, shape ``(m_ub,)``.
        A_eq: matrix of the equalities, shape ``(m_eq, n)``.
        b_eq: their right-hand side, shape ``(m_eq,)``.
        bounds: a pair of numbers for all variables; a sequence of ``n`` pairs, an array of shape ``(n, 2)``, or a
            ``scipy.optimize.Bounds``.
            ``None`` and infinities are absent bounds. As in SciPy, variables are non-negative by default.
        weak: how rows that hold with equality and multiplier 0 count in derivatives: ``"half"``, ``"active"`` or
            ``"inactive"``.
        smoothing: products of slack and multiplier at the returned point, in place of 0. This point moves smoothly with
            the costs; ``x``, ``fun`` and their derivatives are those of this point.
        maxiter: largest number of iterations.
        tol: absolute and relative tolerance for residuals and duality gap; by default 1e-8 in float64 and 1e-5 in
            float32.
        elastic: price of a violation. ``elastic=w`` adds ``w`` times the sum of ``max(A_ub x - b_ub, 0)`` and
            ``|A_eq x - b_eq|`` to the costs in place of the constraints; the bounds still hold. A positive number; or
            one for each row, an array like the right-hand side, and a pair ``(of_A_ub, of_A_eq)`` where there are both.
            ``inf`` is for rows that must hold. See :func:`.solve_qp`.
        presolve: remove redundant rows and fixed variables before solving, and recover their multipliers; see
            :func:`.solve_qp`.

    Returns:
        A :class:`LinprogResult`. ``status`` and ``success`` say whether the problem was infeasible or unbounded; the
        derivatives of ``x`` and ``fun`` are then 0.

    Raises:
        ValueError: shapes do not fit, a matrix without its right-hand side, bounds that no number satisfies, or
            ``elastic`` without rows, not positive, or with ``presolve``.
        TypeError: an argument does not consist of real numbers.

    Reference:
        Mehrotra (1992), "On the implementation of a primal-dual interior point method".

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> c, A = jnp.array([-1.0, -2.0]), jnp.array([[1.0, 1.0]])
        >>> result = jaxsolve.linprog(c, A, jnp.array([4.0]), bounds=[(0, 3), (0, 3)])
        >>> [round(x, 3) for x in result.x.tolist()], round(float(result.fun), 3), bool(result.success)
        ([1.0, 3.0], -7.0, True)
        >>> gradient = jax.grad(lambda b: jaxsolve.linprog(c, A, b, bounds=(0, 3)).fun)(jnp.array([4.0]))
        >>> round(float(gradient[0]), 3)
        -1.0
    """
    options = {"weak": weak, "smoothing": smoothing, "maxiter": maxiter, "tol": tol, "elastic": elastic}
    presolve = presolve and smoothing == 0
    solver, data = planned_lp(c, A_ub, b_ub, A_eq, b_eq, bounds, **options, presolve=presolve)
    (_, c), (A_eq, b_eq), (A_ub, b_ub), sides, *_ = data
    if presolve and elastic is not None:
        raise ValueError("presolve=True is for rows that must hold, and elastic lets them be violated: leave one out.")
    arrays = as_arrays(None, c, A_eq, b_eq, A_ub, b_ub, *sides) if presolve else None
    if arrays is not None and (less := reduced(arrays)).removed:
        left = jax.tree.map(lambda part: jnp.asarray(part, c.dtype), less.program)
        sides = (left.l, left.u)
        (x, *duals), state = solver.run(None, (None, left.c), (left.A, left.b), (left.G, left.h), sides)
        full = restored(less, x, duals[0], *duals[1])
        x, of_eq, of_ub, of_bounds = (jnp.asarray(part, c.dtype) for part in full)
        state = state._replace(value=c @ x)
    else:
        (x, of_eq, (of_ub, of_bounds, *_)), state = solver.run(None, *data)
        x = x if elastic is None else x[0]
    # A constant, as its derivatives are then 0.
    value = jnp.where(Status.PRIMAL_INFEASIBLE.holds(state.status), jnp.inf, state.value)
    value = jnp.where(Status.DUAL_INFEASIBLE.holds(state.status), -jnp.inf, value)
    # Multipliers are the forces with which bounds push back; the optimal value falls as an upper bound is raised.
    marginals = LinprogMarginals(-of_ub, -of_eq, jnp.maximum(-of_bounds, 0), jnp.minimum(-of_bounds, 0))
    success, at = Status.CONVERGED.holds(state.status), x.astype(b_ub.dtype)
    slack, con = (b_ub - A_ub @ at).astype(c.dtype), (b_eq - A_eq @ at).astype(c.dtype)
    return LinprogResult(x, value, success, slack, con, marginals, state.status, state.iter_num, state.error)


def planned_lp(
    c, A_ub, b_ub, A_eq, b_eq, bounds, *, weak, smoothing, maxiter, tol, elastic, presolve=False
) -> tuple[InteriorPoint, list[Any]]:
    """What :func:`linprog` runs: the solver, and its data."""
    data: Any = read_all({"c": c, "A_ub": A_ub, "b_ub": b_ub, "A_eq": A_eq, "b_eq": b_eq})
    if jax.tree.structure(data["c"]) != jax.tree.structure(0):
        raise TypeError(f"c must be a vector, got {type(c).__name__}.")
    c = jnp.asarray(data["c"])
    if not c.size or c.size not in (1, *c.shape):
        raise ValueError(f"c must be a vector with an entry for each variable, got shape {c.shape}.")
    # Half precision is computed with in float32.
    c, size, dtype = c.reshape(-1), c.size, tree_real_dtype(c)
    A_ub, b_ub = _rows("ub", data, c, dtype)
    A_eq, b_eq = _rows("eq", data, c, dtype)
    lower, upper = _bounds(bounds, size, dtype)
    options: dict[str, Any] = {"maxiter": maxiter, "tol": tol, "weak": weak, "smoothing": smoothing}
    data = [(None, c), (A_eq, b_eq), (A_ub, b_ub), (lower, upper)]
    if elastic is None:
        return (PresolvedInteriorPoint if presolve else GeneralInteriorPoint)(**options), data
    check_weights(elastic)
    if not b_ub.size + b_eq.size:
        raise ValueError("elastic is the price of violating rows of A_ub and A_eq, but neither was given.")
    of_ub, of_eq = as_weights(elastic, {"A_ub": b_ub.size, "A_eq": b_eq.size}, dtype)
    return ElasticInteriorPoint(**options), [*data, (of_eq, of_ub)]


def _rows(name, data, c, dtype) -> tuple[Any, Array]:
    """A matrix, dense or sparse, and its right-hand side as a vector."""
    matrix, bound = together(f"A_{name}", f"b_{name}", data).values()
    if matrix is None:
        return jnp.zeros((0, c.size), dtype), jnp.zeros(0, dtype)
    entries = as_matrix(f"A_{name}", joined(f"A_{name}", matrix, c, dtype).matrix, c.size, dtype)
    matrix = as_bcoo(entries) if isinstance(entries, SparseMatrix) else entries.dense()
    like = jax.ShapeDtypeStruct(matrix.shape[:1], dtype)
    check_bounds(bound if name == "eq" else -np.inf, bound, ("-inf", f"b_{name}"))
    return matrix, as_vector(f"b_{name}", bound, matrix.shape[0], dtype, like)


def _bounds(bounds, size, dtype) -> tuple[Array, Array]:
    """Lower and upper bounds as vectors."""
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):  # scipy.optimize.Bounds
        sides = [("the lower bounds", bounds.lb), ("the upper bounds", bounds.ub)]
        bounds = jnp.stack([as_vector(name, side, size, dtype) for name, side in sides], axis=1)
    if not hasattr(bounds, "shape") or bounds.dtype.hasobject:
        given: Any = (0, None) if bounds is None or len(bounds) == 0 else list(bounds)
        rows = given if any(map(_is_pair, given)) else [given]
        if not all(map(_is_pair, rows)):
            raise ValueError(f"bounds must be a pair (lower, upper), or {size} pairs, got {bounds!r}.")
        filled = [[jnp.asarray(jnp.nan if side is None else side).astype(dtype) for side in row] for row in rows]
        bounds = jnp.stack([jnp.stack(row) for row in filled])
    pairs = jnp.asarray(bounds).astype(dtype)
    if pairs.shape not in ((2,), (1, 2), (size, 2)):
        raise ValueError(f"bounds must be a pair (lower, upper), or {size} pairs, got an array of shape {pairs.shape}.")
    lower, upper = jnp.broadcast_to(jnp.atleast_2d(pairs), (size, 2)).T
    # As in SciPy an absent bound is infinite, or NaN.
    lower, upper = jnp.where(jnp.isnan(lower), -jnp.inf, lower), jnp.where(jnp.isnan(upper), jnp.inf, upper)
    check_bounds(lower, upper, ("the lower bounds", "the upper bounds"))
    return lower, upper


def _is_pair(value) -> bool:
    return value is not None and not np.isscalar(value) and np.shape(value) != () and len(value) == 2
