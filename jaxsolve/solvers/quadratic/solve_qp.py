"""One function for all quadratic programs, which chooses the solver."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxsolve._status import Status
from jaxsolve._types import Array, KKTSolution, PyTree
from jaxsolve.base import check_choice
from jaxsolve.solvers.quadratic._problem import is_sparse
from jaxsolve.solvers.quadratic.box_osqp import BoxOSQP
from jaxsolve.solvers.quadratic.equality import EqualityConstrainedQP
from jaxsolve.solvers.quadratic.interior_point import InteriorPointQP

__all__ = ["QPResult", "solve_qp"]

# Beyond so many entries of [Q; A; G; I] a matrix is not made dense, and a dense one not factorized in every iteration.
_MAX_ENTRIES = 4_000_000
_METHODS = ("auto", "equality", "interior_point", "osqp", "matrix_free")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["x", "dual_eq", "dual_ineq", "dual_bounds", "value", "status", "error", "iter_num"],
    meta_fields=["method", "reason"],
)
@dataclasses.dataclass(frozen=True)
class QPResult:
    """Result of :func:`solve_qp`; a pytree.

    Attributes:
        x: the solution, shape ``(n,)`` (like ``c``).
        dual_eq: multipliers of ``A x = b``, shape ``(p,)``; ``None`` without equalities.
        dual_ineq: multipliers of ``G x <= h``, non-negative, shape ``(m,)``; ``None`` without inequalities.
        dual_bounds: multipliers of ``l <= x <= u``, positive at ``u`` and negative at ``l``, shape ``(n,)``; ``None``
            without bounds.
        value: the objective, a scalar.
        status: a :class:`jaxsolve.Status`, int32.
        error: optimality error.
        iter_num: iterations done, int32.
        method: the method that was chosen: ``"equality"``, ``"interior_point"``, ``"osqp"`` or ``"matrix_free"``.
        reason: why, in a few words.
    """

    x: PyTree
    dual_eq: PyTree
    dual_ineq: PyTree
    dual_bounds: PyTree
    value: Array
    status: Array
    error: Array
    iter_num: Array
    method: str
    reason: str

    @property
    def message(self) -> str:
        """One sentence on how the run ended; reads a concrete status, so not under ``jit``."""
        return Status(int(self.status)).sentence


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
) -> QPResult:
    """Solve a quadratic program, differentiably, by whatever method suits it.

    ``min 0.5 x^T Q x + c^T x`` subject to ``A x = b``, ``G x <= h`` and ``l <= x <= u``. It works under ``jit``,
    ``vmap`` and in every derivative mode, with respect to all arrays.

    ====================  =============================================================================================
    method                is chosen for
    ====================  =============================================================================================
    ``"equality"``        no ``G``, ``l`` and ``u``: one linear system (:class:`.EqualityConstrainedQP`)
    ``"interior_point"``  matrices with up to 4 million entries in all, dense, or sparse and made so
                          (:class:`.InteriorPointQP`)
    ``"osqp"``            larger dense matrices: one factorization, and many cheap iterations (:class:`.BoxOSQP`)
    ``"matrix_free"``     larger sparse matrices, and functions: conjugate gradients (:class:`.BoxOSQP`)
    ====================  =============================================================================================

    Args:
        Q: symmetric positive semidefinite, shape ``(n, n)``: dense, sparse (``BCOO``, ``BCSR``), a function
            ``x -> Q x``, or ``None`` for a linear program.
        c: shape ``(n,)``; a pytree if all matrices are functions.
        A: matrix of the equalities, shape ``(p, n)``, or a linear function.
        b: their right-hand side, shape ``(p,)``.
        G: matrix of the inequalities, shape ``(m, n)``, or a linear function.
        h: their right-hand side, shape ``(m,)``; may be infinite.
        l: lower bounds of the variables, shape ``(n,)`` or a number; may be infinite.
        u: upper bounds, likewise.
        method: one of the table, or ``"auto"``.
        tol: absolute and relative tolerance of residuals and duality gap. By default 1e-8 in float64 and 1e-5 in
            float32; 1e-4 for ``"matrix_free"``.
        maxiter: largest number of iterations; the solver's own by default.
        init: initial point ``x``, or an earlier :class:`QPResult` of a problem of the same shapes.
        weak: how rows count in derivatives that hold with equality and multiplier 0.

    Returns:
        A :class:`QPResult`; ``method`` says what was chosen and ``reason`` why.

    Raises:
        ValueError: shapes do not fit, a matrix without its right-hand side, an impossible method, or bounds that no
            number satisfies.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> Q, c = jnp.array([[4.0, 1.0], [1.0, 2.0]]), jnp.array([1.0, 1.0])
        >>> result = jaxsolve.solve_qp(Q, c, A=jnp.ones((1, 2)), b=jnp.array([1.0]), l=0.0, u=0.7)
        >>> [round(x, 3) for x in result.x.tolist()], result.method
        ([0.3, 0.7], 'interior_point')
        >>> slope = jax.grad(lambda u: jaxsolve.solve_qp(Q, c, jnp.ones((1, 2)), jnp.ones(1), l=0.0, u=u).value)(0.7)
        >>> round(float(slope), 3)  # minus the multiplier of the bound
        -0.2
    """
    check_choice("method", method, _METHODS)
    for matrix, side, names in ((A, b, ("A", "b")), (G, h, ("G", "h"))):
        if (matrix is None) != (side is None):
            raise ValueError(f"{names[0]} and {names[1]} belong together: give both or none.")
    bounded = l is not None or u is not None
    chosen, reason = _choose(Q, c, A, G, bounded) if method == "auto" else (method, "asked for")
    if chosen == "equality" and (G is not None or bounded):
        raise ValueError("method='equality' is for problems without G, h, l and u.")
    if tol is None:
        leaf = jax.tree.leaves(c)[0]
        single = jnp.finfo(jnp.result_type(leaf, float)).bits < 64
        tol = 1e-5 if single else 1e-8
        tol = 1e-4 if chosen == "matrix_free" else tol
    options: dict[str, Any] = {"tol": tol} if maxiter is None else {"tol": tol, "maxiter": maxiter}
    functions = {"matvec_Q": _calling(Q) if callable(Q) else None}
    params_Q = None if callable(Q) else Q

    if chosen == "equality":
        functions["matvec_A"] = _calling(A) if callable(A) else None
        params_eq = None if A is None else (None if callable(A) else A, b)
        solver: Any = EqualityConstrainedQP(**functions, **options)
        start = init if not isinstance(init, QPResult) else KKTSolution(init.x, init.dual_eq, None)
        params, state = solver.run(start, (params_Q, c), params_eq)
        y = (params.dual_eq, None, None)
        return _result(params.primal, y, state, chosen, reason)

    blocks = {"eq": (A, b, b), "ineq": (G, None, h), "bounds": (_identity, l, u) if bounded else (None, None, None)}
    present = {name: block for name, block in blocks.items() if block[0] is not None}
    rows = _Rows(present, c)
    solver_options = {**functions, **options, "weak": weak, "matvec_A": rows.matvec}
    if chosen == "interior_point":
        solver = InteriorPointQP(**solver_options)
    else:
        solver = BoxOSQP(**solver_options, eq_qp_solve="cg" if chosen == "matrix_free" else "lu")
    start = init
    if isinstance(init, QPResult):
        start_y = rows.join({"eq": init.dual_eq, "ineq": init.dual_ineq, "bounds": init.dual_bounds})
        start = KKTSolution((init.x, None), start_y, None)
    params, state = solver.run(start, (params_Q, c), rows.matrix, rows.limits)
    y = rows.split(params.dual_eq)
    return _result(params.primal[0], tuple(y.get(name) for name in blocks), state, chosen, reason)


def _result(x, duals, state, method, reason) -> QPResult:
    of_eq, of_ineq, of_bounds = duals
    return QPResult(
        x, of_eq, of_ineq, of_bounds, state.value, state.status, state.error, state.iter_num, method, reason
    )


def _choose(Q, c, A, G, bounded) -> tuple[str, str]:
    """The method, and the reason in words."""
    given = [matrix for matrix in (Q, A, G) if matrix is not None]
    size = sum(leaf.size for leaf in map(jnp.asarray, jax.tree.leaves(c)))
    if G is None and not bounded:
        return "equality", "equalities only"
    if any(map(callable, given)):
        return "matrix_free", "matrices given as functions"
    rows = size + (size if bounded else 0) + sum(matrix.shape[0] for matrix in (A, G) if matrix is not None)
    if rows * size <= _MAX_ENTRIES:
        return "interior_point", "small enough to be factorized in every iteration"
    if any(map(is_sparse, given)):
        return "matrix_free", "sparse, and too large to be made dense"
    return "osqp", "too large to be factorized in every iteration"


def _identity(x):
    return x


def _calling(function: Callable) -> Callable:
    """``matvec(params, x)`` of a function of ``x``."""

    def matvec(params, x):
        del params
        return function(x)

    return matvec


class _Rows:
    """All constraints as the rows of one matrix, or of a function that returns them as a dictionary."""

    def __init__(self, blocks: dict, c: PyTree):
        self._blocks = blocks
        self.matrix: Any = None
        self.matvec: Callable | None = None
        self.limits: Any = None
        leaves = jax.tree.leaves(c)
        self._dtype = jnp.result_type(leaves[0], float)
        size = sum(jnp.size(leaf) for leaf in leaves)
        self._sizes: list[int] | None = []
        if not blocks:
            return
        if all(not callable(block[0]) or block[0] is _identity for block in blocks.values()):
            matrices = [self._entries(block[0], size) for block in blocks.values()]
            any_sparse = any(map(is_sparse, matrices))
            self.matrix = _stack_sparse(matrices) if any_sparse else jnp.concatenate(matrices)
            self._sizes = [matrix.shape[0] for matrix in matrices]
            self.limits = tuple(
                jnp.concatenate([self._side(name, i, n) for name, n in zip(blocks, self._sizes, strict=True)])
                for i in (1, 2)
            )
        else:
            self._sizes = None
            functions = {name: _as_function(block[0]) for name, block in blocks.items()}
            self.matvec = _calling(lambda x: {name: function(x) for name, function in functions.items()})
            shapes = jax.eval_shape(lambda x: {name: f(x) for name, f in functions.items()}, c)
            self.limits = tuple(
                {name: self._like(shape, blocks[name][i], i) for name, shape in shapes.items()} for i in (1, 2)
            )

    def _entries(self, matrix, size):
        if matrix is _identity:
            return jnp.eye(size, dtype=self._dtype)
        return matrix if is_sparse(matrix) else jnp.asarray(matrix)

    def _side(self, name, i, size):
        value = self._blocks[name][i]
        absent = -jnp.inf if i == 1 else jnp.inf
        value = jnp.asarray(absent if value is None else value).astype(self._dtype)
        try:
            return jnp.broadcast_to(value.reshape(-1) if value.ndim else value, (size,))
        except ValueError:
            named = {"eq": ("b", "b"), "ineq": ("h", "h"), "bounds": ("l", "u")}[name][i - 1]
            raise ValueError(f"{named} must have {size} entries, got shape {value.shape}.") from None

    def _like(self, shape, value, i):
        absent = -jnp.inf if i == 1 else jnp.inf
        value = absent if value is None else value
        if len(jax.tree.leaves(value)) == 1 and jnp.ndim(value) == 0:
            return jax.tree.map(lambda leaf: jnp.full(leaf.shape, value, leaf.dtype), shape)
        return value

    def split(self, y: Any) -> dict:
        """The multipliers of each block."""
        if self._sizes is None:
            return y
        parts, start = {}, 0
        for name, size in zip(self._blocks, self._sizes, strict=True):
            parts[name] = y[start : start + size]
            start += size
        return parts

    def join(self, parts: dict) -> Any:
        """The multipliers of all rows."""
        present = {name: parts[name] for name in self._blocks}
        if self._sizes is None:
            return present
        return jnp.concatenate(list(present.values())) if present else None


def _as_function(matrix):
    return matrix if callable(matrix) else lambda x: matrix @ x


def _stack_sparse(matrices):
    from jax.experimental import sparse

    blocks = [
        (matrix if isinstance(matrix, sparse.BCOO) else matrix.to_bcoo())
        if is_sparse(matrix)
        else sparse.BCOO.fromdense(matrix, nse=matrix.size)
        for matrix in matrices
    ]
    return sparse.bcoo_concatenate(blocks, dimension=0)
