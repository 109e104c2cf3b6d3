"""One function for all conic programs, which chooses the solver."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._results import sentence_of_status, show_as_line
from jaxsolve._status import Status
from jaxsolve._types import Array, PyTree
from jaxsolve._vectors import flat
from jaxsolve.base import check_choice
from jaxsolve.solvers._data import read_all
from jaxsolve.solvers.conic._solution import ConicSolution
from jaxsolve.solvers.conic.admm import ConicADMM
from jaxsolve.solvers.conic.cones import Cones
from jaxsolve.solvers.conic.interior_point import ConicInteriorPoint
from jaxsolve.solvers.quadratic._base import has_derivative
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
        value: the objective, a scalar.
        dual_value: that of the dual problem, ``-0.5 x^T P x - b^T y``, a scalar.
        status: a :class:`jaxsolve.Status`, int32.
        error: optimality error.
        iter_num: iterations done, int32.
        certificate: of a problem without solution: ``y`` with ``b^T y = -1`` if no point satisfies the constraints,
            ``x`` and ``s`` with ``c^T x = -1`` if the objective is unbounded; else 0. ``None`` if the method is
            ``"quadratic"``.
        method: the method that was chosen: ``"interior_point"``, ``"admm"`` or ``"quadratic"``.
        reason: why, in a few words.
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
) -> ConicResult:
    """Solve a conic program, differentiably, by whatever method suits it.

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
        b: shape ``(m,)``.
        cones: the cones of the rows, a :class:`.Cones`.
        method: one of the table, or ``"auto"``.
        tol: absolute and relative tolerance of residuals and duality gap. By default 1e-8 in float64 and 1e-5 in
            float32; 1e-6 for ``"admm"``.
        maxiter: largest number of iterations; the solver's own by default.
        init: initial point ``x``, a :class:`.ConicSolution`, or an earlier :class:`ConicResult`.
        weak: how non-negative rows count in derivatives that have neither a slack nor a multiplier: ``"half"`` (the
            mean of the derivatives on both sides), ``"active"`` or ``"inactive"``.

    Returns:
        A :class:`ConicResult`; ``method`` says what was chosen and ``reason`` why. Where there is no solution, ``x``,
        ``y`` and ``s`` are the last iterate, and all derivatives are 0.

    Raises:
        ValueError: shapes do not fit each other or the cones, or an impossible method.
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
    """
    check_choice("method", method, _METHODS)
    if not isinstance(cones, Cones):
        raise TypeError(f"cones must be a jaxsolve.Cones, got {type(cones).__name__}.")
    if c is None:
        raise TypeError("c must be a vector or a pytree, with an entry for each variable, got None.")
    P, c, A, b = read_all({"P": P, "c": c, "A": A, "b": b}).values()
    chosen, reason = _choose(P, c, A, cones) if method == "auto" else (method, "asked for")
    needs_entries = {"interior_point": {"P": P, "A": A}, "quadratic": {"A": A}}.get(chosen, {})
    for name, matrix in needs_entries.items():
        if callable(matrix):
            raise ValueError(f"{name} must be given by its entries for method='{chosen}'; functions are for 'admm'.")
    if isinstance(init, ConicResult):
        init = ConicSolution(init.x, init.y, init.s)
    options: dict[str, Any] = {"weak": weak} | ({} if maxiter is None else {"maxiter": maxiter})
    if chosen == "quadratic":
        return _by_quadratic(P, c, A, b, cones, init, options | {"tol": tol}, reason)
    if chosen == "interior_point":
        solver: Any = ConicInteriorPoint(cones=cones, tol=tol, **options)
    else:
        options |= {} if tol is None else {"tol": tol}
        products = {f"matvec_{name}": _calling(matrix) for name, matrix in {"P": P, "A": A}.items() if callable(matrix)}
        solver = ConicADMM(cones=cones, **products, **options)
    data = (None if callable(P) else P, c), (None if callable(A) else A, b)
    (x, y, s), state = solver.run(init, *data)
    certificate = getattr(state, "certificate", None)
    return _result(c, b, (x, y, s), state, certificate, chosen, reason)


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


def _choose(P: Any, c: Any, A: Any, cones: Cones) -> tuple[str, str]:
    """The method, and the reason in words."""
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
