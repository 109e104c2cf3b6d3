r"""Linear least squares with bounds on the variables, from the matrix itself.

Problem: :math:`\min_x \tfrac12 \|A x - b\|^2` subject to :math:`l \le x \le u`. Method: an active-set method. Free
variables go to their least-squares solution by a QR factorization of their columns; :math:`A^T A`, whose condition
number is the square, has no part in the solution. The step is cut off by the bounds as a whole (a projected search), so
that many variables reach their bounds at once. Where the free ones have arrived, all variables that their bounds hold
back with the wrong sign are set free. The objective falls from one such point to the next, of which there are finitely
many.

A cold start is at the active set that an interior-point method predicts. One factorization then is usually enough.

Everything is done in units in which columns and right-hand side have a size of about 1. These units are powers of two,
so that the solution in other units has the same digits.

The parts: the problem in its units and the step (``_least_squares_problem``), factorizations of columns
(``_column_factor``), the prediction (``_least_squares_start``), the derivative (``_least_squares_system``).

Reference:
    Lawson and Hanson (1995), "Solving least squares problems", chapter 23; Stark and Parker (1995), "Bounded-variable
    least-squares: an algorithm and applications"; More and Toraldo (1991), "On the solution of large quadratic
    programming problems with bound constraints", section 3; Bjorck (1996), "Numerical methods for least squares
    problems", sections 2.4 and 5.2.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxsolve._compat import is_sparse
from jaxsolve._inputs import scale_to_unit
from jaxsolve._loop import loop
from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.base import IterativeSolver, option
from jaxsolve.solvers._data import by_name, pair
from jaxsolve.solvers.quadratic._base import WEAK
from jaxsolve.solvers.quadratic._column_factor import factorize_free
from jaxsolve.solvers.quadratic._least_squares_problem import (
    Data,
    Reduced,
    measured,
    movable_variables,
    projected_search,
    reduce,
    rounding,
    to_scaled,
    to_user,
)
from jaxsolve.solvers.quadratic._least_squares_start import predict
from jaxsolve.solvers.quadratic._least_squares_system import LeastSquaresSystem, system_at
from jaxsolve.solvers.quadratic._problem import as_matrix, as_vector, check_bounds
from jaxsolve.tree_util import tree_all_finite, tree_real_dtype

__all__ = ["BoundedLeastSquares", "LeastSquaresState"]

# Beyond so many entries a sparse matrix is not made dense.
_MAX_ENTRIES = 4_000_000


class LeastSquaresState(NamedTuple):
    """State of the active-set method.

    Attributes:
        iter_num: factorizations done, int32.
        error: largest cosine of the angle between a column and the residual, over the variables that could move; 0
            where it is within rounding.
        value: ``0.5 * ||A x - b||^2``.
        fun: the residual ``A x - b``, shape ``(m,)``.
        free: the variables that are not fixed at a bound, boolean, shape ``(n,)``.
        gain: decrease of the objective since the free variables were last optimal, in the units of the method.
        status: a :class:`jaxsolve.Status`, int32.
    """

    iter_num: Array
    error: Array
    value: Array
    fun: Array
    free: Array
    gain: Array
    status: Array


class BoundedLeastSquares(IterativeSolver):
    """Solver for linear least-squares problems with bounds; :func:`jaxsolve.lsq_linear` is the function for it.

    ``run(init_params, params_obj=(A, b), params_ineq=(l, u))`` minimizes ``0.5 * ||A x - b||^2`` subject to
    ``l <= x <= u``. ``A`` has the shape ``(m, n)`` and may have any rank, ``b`` the shape ``(m,)``. Bounds have the
    shape ``(n,)`` or are numbers; they may be infinite, and equal. Without ``params_ineq`` there are no bounds. A run
    starts at ``init_params``, moved into the bounds; with ``None`` all variables are free at the start. The solution
    ``x`` of shape ``(n,)``, ``state.value`` and ``state.fun`` are differentiable with respect to ``A, b, l, u``.

    The units of the columns of ``A`` and of ``b`` make no difference. An iteration is a factorization. A run without
    ``init_params`` begins with about ten Cholesky factorizations, which predict the active set; then one or two QR
    factorizations are usual. From a given point five to twenty are usual. If the columns of the free variables are
    dependent, there are several solutions, and one of them is returned: without bounds the shortest one, in units in
    which columns have about the length 1. Its derivative is the smallest change that leads to a solution again.
    ``state.fun`` is the same for all solutions, and so is its derivative with respect to ``b``. A variable whose column
    is 0 keeps its value.

    A sparse ``A`` is made dense, if it then has at most 4 million entries. For larger ones call ``jaxsolve.solve_qp``
    with the product ``x -> A^T A x``.

    Attributes:
        tol: the run has converged if the columns of the variables that could move are orthogonal to the residual up to
            ``tol``. This does not end the iterations: they go on until the active set is known.
        weak: the derivative where a variable is at a bound with multiplier 0, so that the solution is not
            differentiable: with this bound ``"active"``, ``"inactive"``, or ``"half"`` (for one such variable, the mean
            of the two one-sided derivatives).

    Raises:
        ValueError: shapes do not fit, a lower bound exceeds an upper one, or a sparse matrix is too large.
        TypeError: ``params_obj`` or ``params_ineq`` is not a pair, or the data are not real.

    Example:
        >>> import jax.numpy as jnp, jaxsolve
        >>> A, b = jnp.array([[1.0, 2.0], [1.0, 1.0], [0.0, 1.0]]), jnp.array([1.0, 3.0, -1.0])
        >>> params, state = jaxsolve.BoundedLeastSquares().run(None, (A, b), (0.0, 1.5))
        >>> params.tolist(), float(state.value)
        ([1.5, 0.0], 1.75)
    """

    maxiter: int = option(1000)
    tol: float = option(1e-10)
    weak: str = option("half", among=WEAK)

    _State = LeastSquaresState
    _needs_init_params = False
    _handles_nonfinite = True
    _resumed_fields = ()
    _data_names: ClassVar[tuple[str, ...]] = ("params_obj", "params_ineq")

    def _validate(self) -> None:
        super()._validate()
        if not self.implicit_diff:
            raise ValueError("BoundedLeastSquares has implicit_diff=True only: its iterations cannot be unrolled.")

    # ---- The data -------------------------------------------------------------------------------------------------

    def _check_arguments(self, init_params: PyTree = None, *args: Any, **kwargs: Any) -> None:
        """Raise ``ValueError`` for bounds that no number satisfies."""
        _, params_ineq = by_name(self, self._data_names, args, kwargs)
        check_bounds(*_bounds(params_ineq))

    def _data(self, params_obj: Any = None, params_ineq: Any = None) -> Data:
        """The data as arrays of one dtype."""
        A, b = pair("params_obj", params_obj, "(A, b)")
        A, b = real_array("A", A), real_array("b", b)
        dtype = tree_real_dtype((A, b))
        if A.ndim != 2 or not A.shape[1]:
            raise ValueError(f"A must be a matrix with a column for each variable, got shape {A.shape}.")
        if b.shape != A.shape[:1]:
            raise ValueError(f"b must have the shape {A.shape[:1]}, an entry for each row of A, got {b.shape}.")
        lower, upper = (
            _bound(name, bound, A.shape[1], dtype) for name, bound in zip("lu", _bounds(params_ineq), strict=True)
        )
        return Data(A.astype(dtype), b.astype(dtype), lower, upper, A.dtype if A.dtype == b.dtype else dtype)

    # ---- The iterations -------------------------------------------------------------------------------------------

    def init_state(self, init_params: PyTree = None, params_obj: Any = None, params_ineq: Any = None) -> Any:
        """The state before the first iteration; the arguments are those of ``run``."""
        problem = reduce(self._data(params_obj, params_ineq))
        return self._begin(problem, init_params).state

    def update(self, params: PyTree, state: Any, params_obj: Any = None, params_ineq: Any = None) -> OptStep:
        """One iteration; returns ``OptStep(params, state)``."""
        problem = reduce(self._data(params_obj, params_ineq))
        x = as_vector("params", params, problem.columns.size, problem.columns.dtype)
        return self._for_user(problem, self._advance(problem, OptStep(to_scaled(problem, x), state)))

    def _solve(self, init_params: PyTree, *args: Any, **kwargs: Any) -> tuple[OptStep, LeastSquaresSystem]:
        problem = reduce(self._data(*args, **kwargs))
        first = self._begin(problem, init_params)
        if init_params is None:
            first = self._predicted(problem, first)
        if self._reports_start:
            first = first._replace(state=self._report_start(self._for_user(problem, first), first.state))

        def body(step):
            new = self._advance(problem, step)
            if self.verbose or self.callback is not None:
                running = Status.RUNNING.holds(step.state.status)
                self._report(self._for_user(problem, step), self._for_user(problem, new), running)
            return new

        step = loop(
            lambda step: Status.RUNNING.holds(step.state.status) & (step.state.iter_num < self.maxiter),
            body,
            first,
            maxiter=self.maxiter,
            kind=self._loop_kind,
        )
        state = step.state
        state = state._replace(status=Status.MAXITER.where(Status.RUNNING.holds(state.status), state.status))
        step = OptStep(step.params, state)
        return self._for_user(problem, step), system_at(self, problem, step)

    def _system_of(self, parts: dict[str, Any]) -> LeastSquaresSystem:
        return LeastSquaresSystem(**parts, solver=self)

    def _begin(self, problem: Reduced, init_params: PyTree) -> OptStep:
        """The first point, in the units of the method, with its state."""
        lower, upper = problem.lower, problem.upper
        given = init_params.params if isinstance(init_params, OptStep) else init_params
        cold = given is None
        n, dtype = lower.size, lower.dtype
        start = jnp.zeros(n, dtype) if cold else as_vector("init_params", given, n, dtype)
        x = to_scaled(problem, start)
        x = jnp.clip(jnp.where(jnp.isfinite(x), x, 0), lower, upper)
        empty = jnp.any((lower > upper) | (lower == jnp.inf) | (upper == -jnp.inf))
        x = jnp.where(jnp.isfinite(x), x, 0)
        free = movable_variables(problem)
        free = free if cold else free & (x > lower) & (x < upper)
        nothing, count = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
        # The first time that the free variables are at their best nothing was gained yet, and is not missing.
        gain = jnp.full_like(nothing, jnp.inf)
        state = self._State(count, nothing, nothing, problem.data.b, free, gain, count)
        state, _, _ = measured(problem, x, state)
        known = tree_all_finite((problem.C, problem.d)) & ~jnp.any(jnp.isnan(lower) | jnp.isnan(upper))
        status = Status.PRIMAL_INFEASIBLE.where(empty, int(Status.RUNNING))
        status = Status.NONFINITE.where(~known | ~jnp.isfinite(state.error), status)
        return OptStep(x, state._replace(status=status))

    def _predicted(self, problem: Reduced, step: OptStep) -> OptStep:
        """The point and the free variables that an interior-point method predicts."""
        running = Status.RUNNING.holds(step.state.status)
        z, free, count = predict(problem, step.params, self.maxiter, running)
        state, _, _ = measured(problem, z, step.state._replace(free=free, iter_num=count))
        return OptStep(z, state)

    def _advance(self, problem: Reduced, step: OptStep) -> OptStep:
        """The least-squares step of the free variables, as far as the bounds let them; then who is to be free."""
        x, state = step
        C, residual = problem.C, problem.d - problem.C @ x
        factor = factorize_free(C, ~state.free)
        direction = jnp.where(state.free, factor.least_squares(residual), 0)
        direction += jnp.where(state.free, factor.least_squares(residual - C @ direction), 0)
        new, free, settled, gain = projected_search(problem, x, residual, direction, state.free)
        lost = ~tree_all_finite(new * problem.columns * problem.unit)
        new = jnp.where(lost, x, new)
        gain = state.gain + gain
        state = state._replace(iter_num=state.iter_num + 1, free=free)
        state, wrong, noise = measured(problem, new, state)
        # A step from best to best that gains nothing is a refinement of the last one.
        negligible = jnp.where(jnp.any(wrong), 1e-3, 1.0) * 0.5 * noise**2
        tol = jnp.maximum(jnp.asarray(self.tol).astype(noise.dtype), rounding(problem))
        over = settled & ((gain <= negligible) | ~jnp.any(wrong) & (state.error <= tol))
        ended = Status.CONVERGED.where(state.error <= tol, int(Status.STALLED))
        status = Status.NONFINITE.where(lost, jnp.where(over, ended, int(Status.RUNNING)))
        state = state._replace(
            free=jnp.where(settled & ~over, free | wrong, free), gain=jnp.where(settled, 0, gain), status=status
        )
        return OptStep(new, state)

    def _for_user(self, problem: Reduced, step: OptStep) -> OptStep:
        """A point in the units and the dtype of the user."""
        return OptStep(to_user(problem, step.params).astype(problem.data.dtype), step.state)

    # ---- Optimality -----------------------------------------------------------------------------------------------

    def _state_of_solution(self, unknowns: PyTree, *args: Any, **kwargs: Any) -> dict[str, PyTree]:
        """The residual and the value of the objective."""
        del args, kwargs
        fun = unknowns[1]
        return {"value": 0.5 * jnp.sum(fun**2), "fun": fun}

    def optimality_fun(self, params: PyTree, params_obj: Any = None, params_ineq: Any = None) -> PyTree:
        r"""The residual :math:`x - \Pi_{[l,u]}(x - D^{-2} A^T (A x - b))`, D the lengths of the columns; (n,)."""
        A, b, lower, upper, _ = self._data(params_obj, params_ineq)
        x = as_vector("params", params, A.shape[1], A.dtype)
        scale, unit, _ = scale_to_unit(A)
        squares = scale**2 * jnp.sum(unit**2, axis=0)
        step = (A.T @ (A @ x - b)) / jnp.where(squares > 0, squares, 1)
        return x - jnp.clip(x - step, lower, upper)


# ---- The data of the user --------------------------------------------------------------------------------------------


def _bounds(params_ineq: Any) -> tuple[Any, Any]:
    """Lower and upper bounds."""
    return (-np.inf, np.inf) if params_ineq is None else pair("params_ineq", params_ineq, "(l, u)")


def real_array(name: str, value: Any) -> Array:
    """An array of real floating-point numbers; a sparse matrix is made dense."""
    if hasattr(value, "shape") and (is_sparse(value) or hasattr(value, "toarray")):
        if np.prod(value.shape) > _MAX_ENTRIES:
            raise ValueError(
                f"{name} would be made dense, but its shape {value.shape} has more than {_MAX_ENTRIES} entries. Pass "
                "the product x -> A^T A x to jaxsolve.solve_qp."
            )
        if is_sparse(value):
            return as_matrix(name, value, value.shape[1], _floating(name, value.dtype)).dense()
        value = value.toarray()
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be an array of numbers, got {type(value).__name__}.") from error
    return array.astype(_floating(name, array.dtype))


def _floating(name: str, dtype: Any) -> Any:
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(f"{name} must be real, got dtype {dtype}.")
    return dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)


def _bound(name: str, bound: Any, size: int, dtype: Any) -> Array:
    bound = real_array(name, bound).astype(dtype)
    if bound.shape not in ((), (size,)):
        raise ValueError(
            f"{name} must be a number or have the shape {(size,)}, an entry for each column, got {bound.shape}."
        )
    return jnp.broadcast_to(bound, (size,))
