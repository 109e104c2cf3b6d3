"""One function for all conic programs, which chooses the solver."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._compat import is_concrete, is_sparse
from jaxsolve._operators import as_bcoo, from_entries
from jaxsolve._results import sentence_of_status, show_as_line
from jaxsolve._status import Status
from jaxsolve._types import Array, PyTree
from jaxsolve._vectors import flat, unraveled
from jaxsolve.base import check_choice
from jaxsolve.solvers._data import read_all
from jaxsolve.solvers.conic._elastic import ElasticProgram
from jaxsolve.solvers.conic._form import ConicForm
from jaxsolve.solvers.conic._solution import ConicSolution
from jaxsolve.solvers.conic.admm import ConicADMM
from jaxsolve.solvers.conic.cones import Cones
from jaxsolve.solvers.conic.interior_point import ConicInteriorPoint
from jaxsolve.solvers.quadratic._base import has_derivative
from jaxsolve.solvers.quadratic._problem import INFINITE
from jaxsolve.solvers.quadratic.solve_qp import solve_qp
from jaxsolve.tree_util import tree_size

__all__ = ["ConicResult", "solve_conic"]

# Beyond so many entries of [P; A] no factorization is made in every iteration.
_MAX_ENTRIES = 4_000_000
_METHODS = ("auto", "interior_point", "admm", "quadratic")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ConicResult:
    """Result of :func:`solve_conic`; a pytree.

    Attributes:
        x: the solution, shape ``(n,)`` (like ``c``).
        y: the multipliers of the rows, in the dual cones, shape ``(m,)``.
        s: the slacks ``b - A x`` of the rows, in the cones, shape ``(m,)``.
        value: the objective, a scalar; with ``elastic`` its sum with the weighted violations.
        dual_value: the objective of the dual problem, ``-0.5 x^T P x - b^T y``, a scalar.
        status: a :class:`jaxsolve.Status`, int32.
        error: optimality error.
        iter_num: iterations done, int32.
        certificate: of a problem without solution: ``y`` with ``b^T y = -1`` if no point satisfies the constraints,
            ``x`` and ``s`` with ``c^T x = -1`` if the objective is unbounded; else 0. ``None`` if the method is
            ``"quadratic"``.
        method: the method that was chosen: ``"interior_point"``, ``"admm"`` or ``"quadratic"``.
        reason: why it was chosen, in a few words.
        violation: with ``elastic``, the amounts of violation of each equation, inequality and cone, in their order;
            otherwise ``None``.
    """

    x: PyTree
    y: Array
    s: Array
    value: Array
    dual_value: Array
    status: Array
    error: Array
    iter_num: Array
    certificate: ConicSolution | None
    method: str = dataclasses.field(metadata={"static": True})
    reason: str = dataclasses.field(metadata={"static": True})
    violation: Array | None = None

    message = sentence_of_status

    @property
    def success(self) -> Array:
        """Whether it has converged, a boolean scalar."""
        return Status.CONVERGED.holds(self.status)


show_as_line(ConicResult, "solve_conic")


def solve_conic(
    P: Any,
    c: PyTree,
    A: Any,
    b: Any,
    cones: Cones,
    *,
    method: str = "auto",
    tol: float | None = None,
    maxiter: int | None = None,
    init: Any = None,
    weak: str = "half",
    smoothing: float = 0.0,
    elastic: Any = None,
) -> ConicResult:
    """Solve a conic program by a method that suits it; the solution is differentiable.

    ``min 0.5 x^T P x + c^T x`` subject to ``A x + s = b`` with ``s`` in ``cones``. It works under ``jit``, ``vmap`` and
    in every derivative mode, with respect to all arrays.

    ====================  =============================================================================================
    method                is chosen for
    ====================  =============================================================================================
    ``"quadratic"``       equations and inequalities only: a quadratic program (:func:`.solve_qp`)
    ``"interior_point"``  matrices with up to 4 million entries in all, were they dense (:class:`.ConicInteriorPoint`)
    ``"admm"``            larger ones, and functions: many cheap iterations (:class:`.ConicADMM`)
    ====================  =============================================================================================

    Args:
        P: symmetric positive semidefinite, shape ``(n, n)``: dense, sparse (``BCOO``, ``BCSR``, ``scipy.sparse``),
            nested lists, a function ``x -> P x``, or ``None`` for a linear objective.
        c: shape ``(n,)``, or a pytree. Half precision is computed with in float32; the solution is like ``c``.
        A: shape ``(m, n)``, in any of these forms, with a row for each row of the cones.
        b: shape ``(m,)``, or a number for all rows. Non-negative rows with an infinite entry (1e20 counts as infinite)
            are absent: their multipliers are 0.
        cones: the cones of the rows, a :class:`.Cones`.
        method: one of the table, or ``"auto"``.
        tol: absolute and relative tolerance of residuals and duality gap. By default 1e-8 in float64 and 1e-5 in
            float32; 1e-6 for ``"admm"``.
        maxiter: largest number of iterations; the solver's own by default.
        init: initial point ``x``, a :class:`.ConicSolution`, or an earlier :class:`ConicResult`.
        weak: how non-negative rows with slack 0 and multiplier 0 count in derivatives: ``"half"`` (the mean of the two
            one-sided derivatives), ``"active"`` or ``"inactive"``.
        smoothing: return the point of the central path with these complementary products in place of the solution,
            see :class:`.ConicInteriorPoint`, and its derivatives.
        elastic: price of a violation. ``elastic=w`` lets the slacks of each equation, inequality and cone be moved by
            an amount ``t``, along 1 or a vector inside of the cone, and adds ``w t`` to the objective. For second-order
            and semidefinite cones this vector is the unit: the amounts are by how much a norm is too large, or an
            eigenvalue too small. For exponential and power cones it is a point of their central path. If the
            constraints can be satisfied, and ``w`` is larger than the products of the multipliers with these vectors,
            the solution is the same as without ``elastic``. If the constraints contradict each other, the solution
            minimizes the objective plus the price. ``w`` is a positive number, or one for each equation, inequality and
            cone, in their order; ``inf`` is for constraints that must hold. The solution is differentiable with respect
            to ``w``.

    Returns:
        A :class:`ConicResult`; ``method`` is the chosen method and ``reason`` says why. If there is no solution, ``x``,
        ``y`` and ``s`` are the last iterate, and all derivatives are 0.

    Raises:
        ValueError: shapes do not fit each other or the cones, an impossible method, an infinite entry of ``b`` in a row
            that is not in ``nonneg``, ``smoothing`` with another method than ``"interior_point"``, or ``elastic`` that
            is not positive, or with matrices given as functions.
        TypeError: an argument does not consist of real numbers, or ``cones`` is not a :class:`.Cones`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> cones = jaxsolve.Cones(soc=(3,))  # the point of a disk of radius 2 that is furthest to the right
        >>> c, b = jnp.array([-1.0, 0.0]), jnp.array([2.0, 0.0, 0.0])
        >>> A = jnp.array([[0.0, 0.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> result = jaxsolve.solve_conic(None, c, A, b, cones)
        >>> [round(abs(x), 3) for x in result.x.tolist()], bool(result.success), result.method
        ([2.0, 0.0], True, 'interior_point')
        >>> slope = jax.grad(lambda b: jaxsolve.solve_conic(None, c, A, b, cones).x[0])(b)
        >>> [round(abs(x), 3) for x in slope.tolist()]
        [1.0, 1.0, 0.0]

        A disk of radius 2 has no point with ``x >= 3``; violating the inequality costs less than violating the cone.

        >>> far, at_least = jaxsolve.Cones(nonneg=1, soc=(3,)), jnp.array([[-1.0, 0.0]])
        >>> A, b = jnp.concatenate([at_least, A]), jnp.array([-3.0, 2.0, 0.0, 0.0])
        >>> result = jaxsolve.solve_conic(None, c, A, b, far, elastic=jnp.array([5.0, 10.0]))
        >>> [round(x, 3) for x in result.x[:1].tolist()], [round(t, 3) for t in result.violation.tolist()]
        ([2.0], [1.0, 0.0])
    """
    check_choice("method", method, _METHODS)
    if not isinstance(cones, Cones):
        raise TypeError(f"cones must be a jaxsolve.Cones, got {type(cones).__name__}.")
    if c is None:
        raise TypeError("c must be a vector or a pytree, with an entry for each variable, got None.")
    P, c, A, b, absent = _read(P, c, A, b, cones)
    if isinstance(init, ConicResult):
        init = ConicSolution(init.x, init.y, init.s)
    options: dict[str, Any] = {"method": method, "tol": tol, "maxiter": maxiter, "weak": weak, "smoothing": smoothing}
    if elastic is None:
        result = _solved(P, c, A, b, cones, init, options)
    else:
        larger = ElasticProgram(P, c, A, b, cones, elastic)
        result = _solved(*larger.data, larger.cones, larger.start(init), options)
        (x, y, s), violation = larger.solution(ConicSolution(result.x, result.y, result.s))
        result = dataclasses.replace(result, x=unraveled(c)(x), y=y, s=s, violation=violation)
        if (proof := result.certificate) is not None:
            result = dataclasses.replace(result, certificate=larger.solution(proof)[0])
    return result if absent is None else dataclasses.replace(result, s=jnp.where(absent, jnp.inf, result.s))


def _read(P: Any, c: Any, A: Any, b: Any, cones: Cones) -> tuple:
    """The data as arrays, with numbers in place of infinite right-hand sides, and where those were, or ``None``."""
    P, c, A, b = read_all({"P": P, "c": c, "A": A, "b": b}).values()
    ConicForm(cones=cones).check(((P, c), (None if callable(A) else A, b)))
    return P, c, *_without_absent_rows(A, b, cones)


def _without_absent_rows(A: Any, b: Any, cones: Cones) -> tuple[Any, Any, Array | None]:
    """The rows with a number in place of infinite right-hand sides, and which have one; ``None`` if none has.

    Raises:
        ValueError: a row that is not in ``nonneg`` has one.
    """
    b = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, cones.num_rows) if jnp.ndim(leaf) == 0 else leaf, b)
    rows = np.arange(cones.num_rows)
    may_be = (rows >= cones.offsets["nonneg"]) & (rows < cones.offsets["soc"])
    if all(map(is_concrete, jax.tree.leaves(b))):
        numbers = np.concatenate([np.zeros(0), *(np.ravel(np.asarray(leaf, float)) for leaf in jax.tree.leaves(b))])
        infinite = np.abs(numbers) >= INFINITE
        if np.any(infinite & ~(may_be & (numbers > 0))):
            where = int(np.argmax(infinite & ~(may_be & (numbers > 0))))
            raise ValueError(
                "b must be finite, except for +inf in rows of nonneg, which means that the row is absent; got "
                f"{numbers[where]} in row {where}."
            )
        if not np.any(infinite):
            return A, b, None
    vector, unravel = flat(b), unraveled(b)
    is_matrix = callable(A) or len(getattr(A, "shape", ())) == 2
    if not (np.any(may_be) and is_matrix and jnp.issubdtype(vector.dtype, jnp.floating)):
        return A, b, None
    absent = jnp.asarray(may_be) & (vector >= INFINITE)
    b = unravel(jnp.where(absent, 1, vector))
    if callable(A):
        return (lambda x: jax.tree.map(lambda rows, on: jnp.where(on != 0, 0, rows), A(x), unravel(absent))), b, absent
    if is_sparse(A):
        matrix: Any = from_entries(A)
        kept = (~absent).astype(matrix.data.dtype)
        return as_bcoo(matrix.scaled(kept, jnp.ones(matrix.shape[1], kept.dtype))), b, absent
    return jnp.where(absent[:, None], 0, A), b, absent


def _solved(P: Any, c: Any, A: Any, b: Any, cones: Cones, init: Any, options: dict[str, Any]) -> ConicResult:
    """The result of a program whose rows are all there, and must hold."""
    method, smoothing, tol = (options.pop(name) for name in ("method", "smoothing", "tol"))
    is_smooth = not (isinstance(smoothing, (int, float)) and smoothing == 0)
    chosen, reason = _choose(P, c, A, cones, is_smooth) if method == "auto" else (method, "asked for")
    if is_smooth and chosen != "interior_point":
        raise ValueError(f"smoothing is for method='interior_point', got method={chosen!r}.")
    options = {name: value for name, value in options.items() if value is not None}
    if chosen == "quadratic":
        return _by_quadratic(P, c, A, b, cones, init, options | {"tol": tol}, reason)
    options |= {"smoothing": smoothing} if chosen == "interior_point" else {}
    solver, data = _planned(P, c, A, b, cones, chosen, options | ({} if tol is None else {"tol": tol}))
    (x, y, s), state = solver.run(init, *data)
    certificate = getattr(state, "certificate", None)
    return _result(c, b, (x, y, s), state, certificate, chosen, reason)


def _planned(P: Any, c: Any, A: Any, b: Any, cones: Cones, method: str, options: dict[str, Any]) -> tuple[Any, tuple]:
    """The solver, and the arguments of its run behind the initial point."""
    for name, matrix in {"P": P, "A": A}.items():
        if callable(matrix) and method == "interior_point":
            raise ValueError(f"{name} must be given by its entries for method='{method}'; functions are for 'admm'.")
    products = {f"matvec_{name}": _calling(matrix) for name, matrix in {"P": P, "A": A}.items() if callable(matrix)}
    solver = (ConicADMM if method == "admm" else ConicInteriorPoint)(cones=cones, **products, **options)
    return solver, ((None if callable(P) else P, c), (None if callable(A) else A, b))


def planned_conic(given: dict[str, Any]) -> tuple[Any, tuple]:
    """A solver for a program and its data, for :func:`jaxsolve.diagnostics.explain`.

    Args:
        given: the arguments of :func:`solve_conic`, with the method that was chosen.
    """
    P, c, A, b, _ = _read(given["P"], given["c"], given["A"], given["b"], given["cones"])
    method, options = given["method"], {} if given["tol"] is None else {"tol": given["tol"]}
    return _planned(P, c, A, b, given["cones"], "admm" if callable(P) or callable(A) else method, options)


def _result(c, b, solution, state, certificate, method, reason) -> ConicResult:
    x, y, s = solution
    linear, levels = (flat(c).astype(state.value.dtype) @ flat(x).astype(state.value.dtype), flat(b) @ flat(y))
    # The value is x^T P x / 2 + c^T x.
    dual_value = linear - state.value - levels.astype(state.value.dtype)
    dual_value = jnp.where(has_derivative(state), dual_value, lax.stop_gradient(dual_value))
    numbers = (state.value, dual_value, state.status, state.error, state.iter_num)
    return ConicResult(x, y, s, *numbers, certificate, method, reason)


def _by_quadratic(P, c, A, b, cones, init, options, reason) -> ConicResult:
    """The result of a program whose rows are equations and inequalities."""
    if callable(A):
        raise ValueError("A must be given by its entries for method='quadratic'; functions are for 'admm'.")
    if cones.zero + cones.nonneg != cones.num_rows:
        raise ValueError("method='quadratic' is for cones of equations and inequalities, zero and nonneg, alone.")
    if isinstance(init, ConicSolution):
        init = init.x
    split = cones.zero
    equations = (A[:split], b[:split]) if split else (None, None)
    inequalities = (A[split:], b[split:]) if cones.nonneg else (None, None)
    result = solve_qp(P, c, *equations, *inequalities, init=init, **options)
    parts = [part for part in (result.dual_eq, result.dual_ineq) if part is not None]
    y = jnp.concatenate(parts) if parts else jnp.zeros(0, result.value.dtype)
    x = flat(result.x)
    s = (b - A @ x).at[:split].set(0) if cones.num_rows else y
    s = jnp.where(has_derivative(result), s, lax.stop_gradient(s))
    return _result(c, b, (result.x, y, jnp.maximum(s, 0)), result, None, "quadratic", reason)


def _choose(P: Any, c: Any, A: Any, cones: Cones, is_smooth: bool) -> tuple[str, str]:
    """The method, and the reason in words."""
    if is_smooth:
        return "interior_point", "points of the central path are asked for"
    given = (P, A)
    simple = jax.tree.structure(c) == jax.tree.structure(0) and not callable(A)
    if cones.zero + cones.nonneg == cones.num_rows and simple and len(getattr(A, "shape", ())) == 2:
        return "quadratic", "equations and inequalities only"
    if any(map(callable, given)):
        return "admm", "matrices given as functions"
    n, m = tree_size(c), cones.num_rows
    if n * (n + m) <= _MAX_ENTRIES:
        return "interior_point", "small enough to be factorized in every iteration"
    return "admm", "too large to be factorized in every iteration"


def _calling(function: Any) -> Any:
    """``matvec(params, x)`` of a function of ``x``."""
    return lambda _, x: function(x)
