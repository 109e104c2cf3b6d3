r"""Linear least squares with bounds on the variables, from the matrix itself.

Problem: :math:`\min_x \tfrac12 \|A x - b\|^2` subject to :math:`l \le x \le u`. Method: an active-set method. Free
variables go to their least-squares solution by a QR factorization of their columns; :math:`A^T A`, whose condition
number is the square, is never formed. The step is cut off by the bounds as a whole (a projected search), so that many
variables reach their bounds at once. Where the free ones have arrived, all variables that their bounds hold back with
the wrong sign are set free. The objective falls from one such point to the next, of which there are finitely many.

Everything is done in units in which columns and right-hand side have a size of about 1. These units are powers of two,
so that the solution in other units has the same digits.

The derivative is that of the solution :math:`x` and the residual :math:`f = A x - b` together: with the active set
known they are the root of

.. math::

    F(x, f) = \bigl((1 - a) \sigma A^T f + a \sigma^{-1} (x - x_{\text{bound}}),\; f - (A x - b)\bigr),

where :math:`a` is 1 for variables at a bound and 0 for free ones, and :math:`\sigma` the units of the variables. The
same kind of factorization solves this system, and its transpose, without a square of the condition number.

Reference:
    Lawson and Hanson (1995), "Solving least squares problems", chapter 23; Stark and Parker (1995), "Bounded-variable
    least-squares: an algorithm and applications"; More and Toraldo (1991), "On the solution of large quadratic
    programming problems with bound constraints", section 3; Bjorck (1996), "Numerical methods for least squares
    problems", sections 2.4 and 5.2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import cho_solve, solve_triangular

from jaxsolve._compat import is_sparse
from jaxsolve._inputs import power_of_two, scale_to_unit
from jaxsolve._loop import loop, run_if_any
from jaxsolve._results import show_as_line
from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.base import IterativeSolver, option
from jaxsolve.implicit_diff import TangentSystem
from jaxsolve.solvers.quadratic._base import WEAK, has_derivative
from jaxsolve.solvers.quadratic._data import by_name, pair
from jaxsolve.solvers.quadratic._problem import as_matrix, as_vector, check_bounds
from jaxsolve.tree_util import tree_all_finite, tree_real_dtype, tree_where, tree_zeros_like

__all__ = ["BoundedLeastSquares", "LeastSquaresState", "LsqLinearResult", "NNLSResult", "lsq_linear", "nnls"]

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
        free: the variables that no bound holds, boolean, shape ``(n,)``.
        gain: decrease of the objective since the free variables were last at their best, in the units of the method.
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
    shape ``(n,)`` or are numbers; they may be infinite, and equal. Without ``params_ineq`` there are none. A run starts
    at ``init_params``, brought between the bounds; ``None`` starts with all variables free. The solution ``x`` of shape
    ``(n,)``, ``state.value`` and ``state.fun`` are differentiable in ``A, b, l, u``.

    The units of the columns of ``A`` and of ``b`` make no difference. An iteration is a QR factorization of
    ``min(m, n) + n`` rows; five to twenty are usual. Where the columns of the free variables are dependent there are
    several solutions. One is returned, without bounds the shortest in units in which columns have about the length 1,
    and its derivative is the smallest change that leads to a solution again. ``state.fun`` is the same for all, and so
    is its derivative in ``b``. A variable whose column is 0 keeps its value.

    A sparse ``A`` is made dense, if it has no more than 4 million entries then. For larger ones write
    ``jaxsolve.solve_qp`` with the product ``x -> A^T A x``.

    Attributes:
        tol: the run has converged if the variables that could move are orthogonal to the residual up to ``tol``. It
            does not end the iterations: these go on until the active set is known, whatever ``tol``.
        weak: how variables count in derivatives that are at a bound with multiplier 0, where the solution is not
            differentiable: ``"half"`` (the mean of the derivatives on both sides, for one such variable), ``"active"``
            or ``"inactive"``.

    Raises:
        ValueError: shapes do not fit, a lower bound exceeds an upper one, or a sparse matrix is too large.
        TypeError: ``params_obj`` or ``params_ineq`` is no pair, or the data are not real.

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
            raise ValueError(
                "implicit_diff=False means unrolled iterations, and those of BoundedLeastSquares choose between sets."
            )

    # ---- The data -------------------------------------------------------------------------------------------------

    def _check_arguments(self, init_params: PyTree = None, *args: Any, **kwargs: Any) -> None:
        """Raise ``ValueError`` for bounds that no number satisfies."""
        _, params_ineq = by_name(self, self._data_names, args, kwargs)
        check_bounds(*_bounds(params_ineq))

    def _data(self, params_obj: Any = None, params_ineq: Any = None) -> Data:
        """The data as arrays of one dtype."""
        A, b = pair("params_obj", params_obj, "(A, b)")
        A, b = _real("A", A), _real("b", b)
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
        problem = _reduce(self._data(params_obj, params_ineq))
        return self._begin(problem, init_params).state

    def update(self, params: PyTree, state: Any, params_obj: Any = None, params_ineq: Any = None) -> OptStep:
        """One iteration; returns ``OptStep(params, state)``."""
        problem = _reduce(self._data(params_obj, params_ineq))
        x = as_vector("params", params, problem.columns.size, problem.columns.dtype)
        return self._for_user(problem, self._advance(problem, OptStep(_to_scaled(problem, x), state)))

    def _solve(self, init_params: PyTree, *args: Any, **kwargs: Any) -> tuple[OptStep, LeastSquaresSystem]:
        problem = _reduce(self._data(*args, **kwargs))
        first = self._begin(problem, init_params)
        if init_params is None:
            first = self._predicted(problem, first)
        if self._reports_start:
            self._report_start(self._for_user(problem, first))

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
        return self._for_user(problem, step), _system_at(self, problem, step)

    def _begin(self, problem: Reduced, init_params: PyTree) -> OptStep:
        """The first point, in the units of the method, with its state."""
        lower, upper = problem.lower, problem.upper
        given = init_params.params if isinstance(init_params, OptStep) else init_params
        cold = given is None
        n, dtype = lower.size, lower.dtype
        start = jnp.zeros(n, dtype) if cold else as_vector("init_params", given, n, dtype)
        x = _to_scaled(problem, start)
        x = jnp.clip(jnp.where(jnp.isfinite(x), x, 0), lower, upper)
        empty = jnp.any((lower > upper) | (lower == jnp.inf) | (upper == -jnp.inf))
        x = jnp.where(jnp.isfinite(x), x, 0)
        free = _movable(problem)
        free = free if cold else free & (x > lower) & (x < upper)
        nothing, count = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
        # The first time that the free variables are at their best nothing was gained yet, and is not missing.
        gain = jnp.full_like(nothing, jnp.inf)
        state = self._State(count, nothing, nothing, problem.data.b, free, gain, count)
        state, _, _ = _measured(problem, x, state)
        known = tree_all_finite((problem.C, problem.d)) & ~jnp.any(jnp.isnan(lower) | jnp.isnan(upper))
        status = Status.PRIMAL_INFEASIBLE.where(empty, int(Status.RUNNING))
        status = Status.NONFINITE.where(~known | ~jnp.isfinite(state.error), status)
        return OptStep(x, state._replace(status=status))

    def _predicted(self, problem: Reduced, step: OptStep) -> OptStep:
        """The point and the free variables that an interior-point method predicts."""
        running = Status.RUNNING.holds(step.state.status)
        z, free, count = _predict(problem, step.params, self.maxiter, running)
        state, _, _ = _measured(problem, z, step.state._replace(free=free, iter_num=count))
        return OptStep(z, state)

    def _advance(self, problem: Reduced, step: OptStep) -> OptStep:
        """The least-squares step of the free variables, as far as the bounds let them; then who is to be free."""
        x, state = step
        C, residual = problem.C, problem.d - problem.C @ x
        factor = (_factorize if C.shape[0] == C.shape[1] else _factorize_wide)(C, ~state.free)
        direction = jnp.where(state.free, factor.least_squares(residual), 0)
        direction += jnp.where(state.free, factor.least_squares(residual - C @ direction), 0)
        new, free, settled, gain = _search(problem, x, residual, direction, state.free)
        lost = ~tree_all_finite(new * problem.columns * problem.unit)
        new = jnp.where(lost, x, new)
        gain = state.gain + gain
        state = state._replace(iter_num=state.iter_num + 1, free=free)
        state, wrong, noise = _measured(problem, new, state)
        # A step from best to best that gains nothing is a refinement of the last one.
        negligible = jnp.where(jnp.any(wrong), 1e-3, 1.0) * 0.5 * noise**2
        tol = jnp.maximum(jnp.asarray(self.tol).astype(noise.dtype), _rounding(problem))
        over = settled & ((gain <= negligible) | ~jnp.any(wrong) & (state.error <= tol))
        ended = Status.CONVERGED.where(state.error <= tol, int(Status.STALLED))
        status = Status.NONFINITE.where(lost, jnp.where(over, ended, int(Status.RUNNING)))
        state = state._replace(
            free=jnp.where(settled & ~over, free | wrong, free), gain=jnp.where(settled, 0, gain), status=status
        )
        return OptStep(new, state)

    def _for_user(self, problem: Reduced, step: OptStep) -> OptStep:
        """A point in the units and the dtype of the user."""
        return OptStep(_to_user(problem, step.params).astype(problem.data.dtype), step.state)

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


class Data(NamedTuple):
    """A problem of the user: arrays of one dtype, of shapes (m, n), (m,), (n,), (n,), and the dtype of the solution."""

    A: Array
    b: Array
    lower: Array
    upper: Array
    dtype: Any


class Reduced(NamedTuple):
    """A problem in units in which its columns, and its right-hand side, have a size of about 1.

    Attributes:
        data: in the units of the user.
        columns: units of the columns of ``A``, powers of two: ``A * columns`` is the scaled matrix, and
            ``x = unit * columns * z`` for the scaled variables ``z``. Shape ``(n,)``.
        unit: unit of ``b``, a power of two.
        lower: of ``z``.
        upper: of ``z``.
        A: the scaled matrix, rows of large entries first.
        b: the scaled right-hand side, likewise.
        order: of the rows.
        Q: with more rows than columns, the orthonormal factor of the scaled matrix; else ``None``.
        C: the other factor, or the scaled matrix; shape ``(k, n)`` with ``k = min(m, n)``.
        d: the right-hand side that belongs to it, shape ``(k,)``.
        lengths: norms of the scaled columns.
    """

    data: Data
    columns: Array
    unit: Array
    lower: Array
    upper: Array
    A: Array
    b: Array
    order: Array
    Q: Any
    C: Array
    d: Array
    lengths: Array


def _reduce(data: Data) -> Reduced:
    """The problem in its own units, and with no more rows than columns."""
    A, b, lower, upper, _ = data
    first = power_of_two(jnp.max(jnp.abs(A), axis=0, initial=0))
    A = A / first[None, :]
    second = power_of_two(jnp.linalg.norm(A, axis=0))
    columns = 1 / first / second
    unit = power_of_two(jnp.max(jnp.abs(b), initial=0))
    A, b = A / second[None, :], b / unit
    # Householder reflections keep the digits of small rows below large ones (Bjorck 1996, section 4.4).
    order = jnp.argsort(-jnp.max(jnp.abs(A), axis=1, initial=0))
    A, b = A[order], b[order]
    Q, C, d, n = None, A, b, A.shape[1]
    if A.shape[0] > n:
        # The reflections of the columns act on b too; only derivatives need Q.
        Q, R = jnp.linalg.qr(jnp.column_stack([A, b]))
        Q, C, d = Q[:, :n], R[:n, :n], R[:n, n]
    lengths = jnp.linalg.norm(A, axis=0)
    return Reduced(data, columns, unit, lower / columns / unit, upper / columns / unit, A, b, order, Q, C, d, lengths)


def _to_scaled(problem: Reduced, x: Array) -> Array:
    return x / problem.columns / problem.unit


def _to_user(problem: Reduced, z: Array) -> Array:
    lower, upper = problem.data.lower, problem.data.upper
    # A bound is met exactly, whatever scaling did to it.
    x = jnp.clip(z * problem.columns * problem.unit, lower, upper)
    return jnp.where(jnp.isfinite(x), x, 0)


def _movable(problem: Reduced) -> Array:
    """The variables that have room, and an effect."""
    return (problem.lower < problem.upper) & (problem.lengths > 0)


def _rounding(problem: Reduced) -> float:
    """A bound for the rounding of a product with a column, relative to what it is made of."""
    return 10 * max(problem.A.shape) ** 0.5 * float(jnp.finfo(problem.A.dtype).eps)


def _noise(problem: Reduced, z: Array) -> Array:
    """The size of a gradient at ``z`` that is rounding."""
    return _rounding(problem) * (jnp.linalg.norm(problem.b) + jnp.sum(problem.lengths * jnp.abs(z)))


def _measured(problem: Reduced, z: Array, state: Any) -> tuple[Any, Array, Array]:
    """The state with error, value and residual of a point; who is held by the wrong sign; and the noise."""
    residual = problem.A @ z - problem.b
    gradient = problem.C.T @ (problem.C @ z - problem.d)
    noise = _noise(problem, z)
    pull = jnp.abs(gradient) / jnp.where(problem.lengths > 0, problem.lengths, 1)
    can_move = _movable(problem) & jnp.where(gradient > 0, z > problem.lower, z < problem.upper)
    size = jnp.linalg.norm(residual)
    cosines = pull / jnp.where(size > 0, size, 1)
    error = jnp.max(jnp.where(can_move & (pull > noise), cosines, 0))
    error = jnp.where(jnp.isfinite(size), error, jnp.nan)
    # Of an ill-conditioned matrix a residual far above rounding may have a gradient that is hardly more than rounding:
    # a variable is set free for less than is called an error, and what that gains decides.
    wrong = can_move & ~state.free & (pull > 1e-2 * noise / max(problem.A.shape) ** 0.5)
    fun = problem.unit * jnp.zeros_like(residual).at[problem.order].set(residual)
    return state._replace(error=error, value=0.5 * jnp.sum(fun**2), fun=fun), wrong, noise


# ---- Steps ---------------------------------------------------------------------------------------------------------

# The fractions of a step that are tried where it leads out of the box, besides the one to the first bound.
_FRACTIONS = 0.5 ** np.arange(11)


def _search(
    problem: Reduced, z: Array, residual: Array, direction: Array, free: Array
) -> tuple[Array, Array, Array, Array]:
    """The step along a direction, cut off by the bounds.

    Returns:
        The new point, the variables that are free there, whether the whole step was made, and by how much the
        objective fell.
    """
    target = jnp.where(direction < 0, problem.lower, problem.upper)
    moving = free & (direction != 0)
    room = jnp.where(moving, (target - z) / jnp.where(moving, direction, 1), jnp.inf)
    first = jnp.minimum(jnp.min(room), 1)
    whole = ~jnp.any(room < 1)

    def at(fraction):
        return jnp.where(room <= fraction, target, z + jnp.where(moving, fraction * direction, 0))

    fractions = jnp.concatenate([jnp.asarray(_FRACTIONS, z.dtype), first[None]])
    points = jax.vmap(at)(fractions)
    images = (points - z[None, :]) @ problem.C.T
    falls = images @ residual - 0.5 * jnp.sum(images**2, axis=1)
    best = jnp.where(whole, 0, jnp.argmax(falls))
    # Without any fall the step to the first bound is left: the set of free variables is then smaller.
    best = jnp.where(whole | (falls[best] > 0), best, len(_FRACTIONS))
    return points[best], free & (whole | (room > fractions[best])), whole, jnp.maximum(falls[best], 0)


class Interior(NamedTuple):
    """A point strictly between the bounds.

    Attributes:
        z: the variables, shape ``(n,)``.
        room: distances to lower and upper bounds, 1 where there is none; shape ``(2, n)``.
        force: multipliers of lower and upper bounds, 0 where there is none; shape ``(2, n)``.
        gap: by how much the optimality conditions do not hold.
        count: iterations.
    """

    z: Array
    room: Array
    force: Array
    gap: Array
    count: Array


def _predict(problem: Reduced, start: Array, maxiter: Any, wanted: Array) -> tuple[Array, Array, Array]:
    """Which variables the bounds will hold, by an interior-point method with normal equations.

    A wrong prediction costs iterations, and nothing else: the solution comes from the factorizations that follow.

    Args:
        problem: in its own units.
        start: a point within the bounds; variables without room stay there.
        maxiter: largest number of iterations.
        wanted: whether there is anything to predict.

    Returns:
        The point, the free variables, and the number of iterations.

    Reference:
        Portugal, Judice and Vicente (1994), "A comparison of block pivoting and interior-point algorithms for linear
        least squares problems with nonnegative variables", sections 3 and 4; Mehrotra (1992), "On the implementation
        of a primal-dual interior point method".
    """
    movable, bounds = _movable(problem), jnp.stack([problem.lower, problem.upper])
    dtype, eps = start.dtype, float(jnp.finfo(start.dtype).eps)
    has, sign = movable[None, :] & jnp.isfinite(bounds), jnp.array([[1.0], [-1.0]], dtype)
    C, d = jnp.where(movable[None, :], problem.C, 0), problem.d - problem.C @ jnp.where(movable, 0, start)
    solver = _normal_equations(C)
    size = 1 + jnp.linalg.norm(d - C @ start)

    def error(z, room, force):
        """The gradient of the Lagrangian, the mean product of distance and multiplier, and both as one number."""
        gradient = C.T @ (C @ z - d) - jnp.sum(sign * force, axis=0)
        mean = jnp.sum(room * force) / jnp.maximum(jnp.sum(has), 1).astype(dtype)
        return gradient, mean, jnp.maximum(mean, 1e-2 * jnp.max(jnp.abs(gradient)))

    def body(point):
        z, room, force, _, count = point
        gradient, mean, _ = error(z, room, force)
        solve = solver(jnp.where(movable, jnp.sum(force / room, axis=0) + eps**0.75, 1))

        def newton(products):
            """The step to given products of distances and multipliers, and the longest part of it that is allowed."""
            lift = products / room - force
            dz = solve(jnp.sum(jnp.where(has, sign * lift, 0), axis=0) - gradient)
            d_room = jnp.where(has, sign * dz[None, :], 0)
            d_force = jnp.where(has, lift - force / room * d_room, 0)
            longest = jnp.max(jnp.where(has, jnp.maximum(-d_room / room, -d_force / force), 0))
            return dz, d_room, d_force, 1 / jnp.maximum(longest, 1)

        _, d_room, d_force, part = newton(jnp.zeros_like(room))
        affine = error(z, room + part * d_room, force + part * d_force)[1]
        dz, d_room, d_force, part = newton((affine / mean) ** 2 * affine - d_room * d_force)
        step = 0.995 * part
        new = z + step * dz, room + step * d_room, force + step * d_force
        new = Interior(*new, error(*new)[2], count + 1)
        # Where the normal equations give out the last point has to do.
        return tree_where(tree_all_finite(new), new, point._replace(gap=jnp.zeros_like(size), count=count + 1))

    margin = jnp.where(has, jnp.minimum(size, 0.5 * (bounds[1] - bounds[0]))[None, :], -jnp.inf)
    z = jnp.where(movable, jnp.clip(start, bounds[0] + margin[0], bounds[1] - margin[1]), 0)
    room = jnp.where(has, sign * (z[None, :] - bounds), 1)
    force = jnp.where(has, size * jnp.minimum(1, size / room), 0)
    wanted &= jnp.any(has)
    first = Interior(z, room, force, jnp.where(wanted, error(z, room, force)[2], 0), jnp.zeros((), jnp.int32))
    maxiter = jnp.minimum(30, maxiter)
    point = loop(lambda p: (p.gap > size * eps ** (2 / 3)) & (p.count < maxiter), body, first, maxiter=30)
    # Of a weakly active variable distance and multiplier are equally small: it is held.
    held = has & wanted & (point.room <= 100 * point.force)
    held &= (point.room <= point.room[::-1]) | ~held[::-1]
    z = jnp.where(held[0], bounds[0], jnp.where(held[1], bounds[1], jnp.clip(point.z, *bounds)))
    return jnp.where(movable & wanted, z, start), movable & ~jnp.any(held, axis=0), point.count


def _normal_equations(C: Array) -> Callable[[Array], Callable[[Array], Array]]:
    """Solvers of ``C^T C + diag(stiffness)``, by a factorization in the smaller dimension of ``C``."""
    k, n = C.shape

    def factorized(matrix):
        factor = jnp.linalg.cholesky(matrix, symmetrize_input=False)
        return lambda rhs: cho_solve((factor, True), rhs)

    if k == n:
        gram = C.T @ C
        return lambda stiffness: factorized(gram + jnp.diag(stiffness))

    def solver(stiffness):
        solve = factorized(jnp.eye(k, dtype=C.dtype) + (C / stiffness[None, :]) @ C.T)
        return lambda rhs: (rhs - C.T @ solve(C @ (rhs / stiffness))) / stiffness

    return solver


class Factor(NamedTuple):
    """A factorization of ``M``, the columns of the free variables, with a unit row for each of the others.

    ``M = [U; *] T V^T``, with orthonormal columns on the left, but for those that rank-deficiency leaves out, which
    are 0 in U and V.

    Attributes:
        U: the rows that belong to the matrix, shape ``(k, n)``.
        T: upper triangular, shape ``(n, n)``.
        V: the identity, or a basis of the rows; shape ``(n, n)``.
    """

    U: Array
    T: Array
    V: Array

    def pull(self, eta: Array) -> Array:
        """``T^-T V^T eta``."""
        return solve_triangular(self.T, self.V.T @ eta, trans="T")

    def push(self, w: Array) -> Array:
        """``V T^-1 w``."""
        return self.V @ solve_triangular(self.T, w)

    def least_squares(self, residual: Array) -> Array:
        """The step of the free variables that makes a residual as small as possible."""
        return self.push(self.U.T @ residual)


def _factorize(C: Array, held: Array, stiffness: Any = 0.0) -> Factor:
    """Factorize the columns of free variables.

    Args:
        C: shape ``(k, n)``.
        held: the variables that are not free, shape ``(n,)``.
        stiffness: of springs that hold the other variables, shape ``(n,)``.
    """
    k, n = C.shape
    rows = jnp.where(held, 1, jnp.sqrt(jnp.asarray(stiffness, C.dtype)))
    Q, R = jnp.linalg.qr(jnp.concatenate([jnp.where(held[None, :], 0, C), jnp.diag(rows)]))
    U, eye = Q[:k], jnp.eye(n, dtype=C.dtype)
    eps = float(jnp.finfo(C.dtype).eps)
    # The smallest pivot bounds the smallest singular value from above; what is regular for sure needs no more.
    suspect = ~(jnp.min(jnp.abs(jnp.diagonal(R))) > 10 * eps ** (2 / 3))

    def examine(factor):
        W, T, V, null = _complete(factor.T, _mixing(n, C.dtype))
        return tree_where(jnp.any(null), Factor(factor.U @ W, T, V), factor)

    return run_if_any(suspect, examine, Factor(U, R, eye))


def _factorize_wide(C: Array, held: Array) -> Factor:
    """Factorize the columns of free variables of a matrix with more columns than rows."""
    return Factor(*_complete(jnp.where(held[None, :], 0, C), _mixing(C.shape[0], C.dtype))[:3])


def _mixing(size: int, dtype: Any) -> Array:
    """An orthogonal matrix from pseudo-random numbers, with little code to compile."""
    row, column = (lax.broadcasted_iota(dtype, (size, size), axis) for axis in (0, 1))
    numbers = 43758.5453 * jnp.sin(12.9898 * row + 78.233 * column)
    return jnp.linalg.qr(numbers - jnp.floor(numbers) - 0.5)[0]


def _complete(S: Array, mixing: Array) -> tuple[Array, Array, Array, Array]:
    """Complete orthogonal decomposition ``S = W T V^T`` of a matrix of any rank.

    Two QR factorizations, the second one of the transposed triangular factor: its diagonal shows the rank, as in
    Stewart's method, where rows that were mixed at random take the place of pivoting.

    Args:
        S: shape ``(k, n)`` with ``k <= n``.
        mixing: an orthogonal matrix without structure, shape ``(k, k)``.

    Returns:
        W, T and V, of shapes ``(k, k)``, ``(k, k)`` and ``(n, k)``, and which columns of V the rank leaves out, shape
        ``(k,)``; these are 0 in W and V, and have a unit row and column in T.

    Reference:
        Stewart (1999), "The QLP approximation to the singular value decomposition"; Demmel, Dumitriu and Holtz (2007),
        "Fast linear algebra is stable", section 5.
    """
    n, eps = S.shape[1], float(jnp.finfo(S.dtype).eps)
    V, R = jnp.linalg.qr(S.T @ mixing)
    W, T = jnp.linalg.qr(R.T)
    sizes = jnp.abs(jnp.diagonal(T))
    null = sizes <= 10 * n**0.5 * eps * jnp.max(sizes, initial=0)
    kept = 1 - null.astype(S.dtype)
    T = kept[:, None] * T * kept[None, :] + jnp.diag(1 - kept)
    return mixing @ W * kept[None, :], T, V * kept[None, :], null


# ---- Derivatives ---------------------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LeastSquaresSystem(TangentSystem):
    """The system of solution and residual once the active set is known, see the docstring of this module.

    Attributes:
        factor: of the free columns, in scaled units; its ``U`` has the rows of the user.
        weight: 1 for variables at a bound, 0 for free ones, between for weakly active ones; shape ``(n,)``.
        at_lower: whether a variable is, or would be, at its lower bound.
        at_upper: likewise.
        columns: units of the variables.
        x: the solution.
        fun: the residual.
        solver: what says how arguments become data.
        valid: whether there is a solution to differentiate, a boolean scalar.
    """

    factor: Factor
    weight: Array
    at_lower: Array
    at_upper: Array
    columns: Array
    x: Array
    fun: Array
    solver: Any = dataclasses.field(metadata={"static": True})
    valid: Any

    structure = "general"

    @property
    def method(self) -> Any:
        """The linear solver of the user, who may want another one."""
        return self.solver.implicit_diff_solve

    def unknowns(self, params: Array) -> tuple[Array, Array]:
        return self.x, self.fun

    def complete(self, unknowns: tuple[Array, Array], *args: Any, **kwargs: Any) -> Array:
        return unknowns[0].astype(self.solver._data(*args, **kwargs).dtype)

    def residual(self, unknowns: tuple[Array, Array], *args: Any, **kwargs: Any) -> tuple[Array, Array]:
        A, b, lower, upper, _ = self.solver._data(*args, **kwargs)
        x, fun = unknowns
        # A variable without effect is held where it is.
        bound = jnp.where(self.at_lower, lower, jnp.where(self.at_upper, upper, self.x))
        offset = jnp.where(self.weight > 0, x - bound, 0)
        stationarity = (1 - self.weight) * self.columns * (fun @ A)
        return stationarity + self.weight * offset / self.columns, fun - (A @ x - b)

    def _scaled(self, args: tuple, kwargs: dict) -> tuple[Array, Array, Array]:
        """The scaled matrix, and its columns that count as free; the others."""
        A = self.solver._data(*args, **kwargs).A * self.columns[None, :]
        held = self.weight == 1
        return A, jnp.where(held[None, :], 0, A), held

    def _in_steps(self, once: Callable, image: Callable, *rhs: Array) -> tuple[Array, Array]:
        """``once`` solves; a second time for what the first left over."""
        first = once(*rhs)
        more = once(*(r - i for r, i in zip(rhs, image(*first), strict=True)))
        found = tuple(x + dx for x, dx in zip(first, more, strict=True))
        return tree_where(self.valid, found, tree_zeros_like(found))

    def solve(
        self, rhs: tuple[Array, Array], unknowns: tuple[Array, Array], *args: Any, **kwargs: Any
    ) -> tuple[Array, Array]:
        A, loose, held = self._scaled(args, kwargs)
        U, a = self.factor.U, self.weight

        def once(rhs_x, rhs_fun):
            fixed = jnp.where(held, rhs_x, 0)
            rhs_fun = rhs_fun + A @ fixed
            eta = jnp.where(held, 0, rhs_x / jnp.where(held, 1, 1 - a))
            w = self.factor.pull(eta) - U.T @ rhs_fun
            z = jnp.where(held, rhs_x, self.factor.push(w))
            return z, rhs_fun + loose @ jnp.where(held, 0, z)

        def image(z, fun):
            return (1 - a) * (fun @ A) + a * z, fun - A @ z

        z, fun = self._in_steps(once, image, *rhs)
        return z * self.columns, fun

    def transposed(
        self, rhs: tuple[Array, Array], unknowns: tuple[Array, Array], *args: Any, **kwargs: Any
    ) -> tuple[Array, Array]:
        A, loose, held = self._scaled(args, kwargs)
        U, a = self.factor.U, self.weight

        def once(rhs_z, rhs_fun):
            w = self.factor.pull(jnp.where(held, 0, rhs_z)) + U.T @ rhs_fun
            y = jnp.where(held, 0, self.factor.push(w))
            fun = rhs_fun - loose @ y
            return jnp.where(held, rhs_z + fun @ A, y / jnp.where(held, 1, 1 - a)), fun

        def image(v, fun):
            return a * v - fun @ A, fun + A @ ((1 - a) * v)

        return self._in_steps(once, image, rhs[0] * self.columns, rhs[1])


def _system_at(solver: Any, problem: Reduced, step: OptStep) -> LeastSquaresSystem:
    """The tangent system at a solution, with weakly active variables as they are wanted."""
    z, state = step
    movable, noise = _movable(problem), _noise(problem, z)
    gradient = problem.C.T @ (problem.C @ z - problem.d)
    below, above = z - problem.lower, problem.upper - z
    small = float(jnp.finfo(z.dtype).eps) ** 0.5
    stages = {"half": 3, "active": 2, "inactive": 2}[solver.weak]
    eye = jnp.eye(z.size, dtype=z.dtype)

    def stage(carry):
        # First the active set as it was found; its factor says how exact the free variables are, and so which are
        # weakly active. If there are any, these held or free, or on springs: of stiffness 1, then of one that gives
        # the mean. It is the reciprocal of the compliance s without a spring, and with a spring of 1 that is s/(1 + s).
        count, held, stiffness, weak, _ = carry
        factor = _factorize(problem.C, held, stiffness)
        give = jnp.sum(factor.push(eye) ** 2, axis=1)
        exact = 100 * noise * jnp.sqrt(jnp.where(held, 0, give))
        found = movable & (jnp.abs(gradient) <= 100 * noise * problem.lengths) & (jnp.minimum(below, above) <= exact)
        weak = jnp.where(count == 0, found, weak)
        over = ~jnp.any(weak) | (count == stages - 1)
        mean = jnp.clip((1 - give) / jnp.clip(give, small, 1), small, 1 / small)
        spring = jnp.where(weak & (solver.weak == "half"), jnp.where(count == 0, 1, mean), 0)
        stiffness = jnp.where(over, stiffness, spring)
        held = jnp.where(over, held, held & ~weak | weak & (solver.weak == "active"))
        return jnp.where(over, stages, count + 1), held, stiffness, weak, factor

    nothing = Factor(jnp.zeros_like(problem.C), eye, eye)
    carry = (jnp.zeros((), jnp.int32), ~state.free, jnp.zeros_like(z), jnp.zeros_like(state.free), nothing)
    carry = loop(lambda carry: carry[0] < stages, stage, carry, maxiter=stages)
    _, held, stiffness, weak, factor = carry
    U = factor.U if problem.Q is None else problem.Q @ factor.U
    factor = factor._replace(U=jnp.zeros_like(U).at[problem.order].set(U))
    at_upper = jnp.where(problem.lower == problem.upper, gradient < 0, above < below)
    at_bound = weak | (jnp.minimum(below, above) == 0)
    valid = has_derivative(state)
    return LeastSquaresSystem(
        factor,
        jnp.where(held, 1, stiffness / (1 + stiffness)),
        at_bound & ~at_upper,
        at_bound & at_upper,
        problem.columns,
        _to_user(problem, z),
        jnp.where(valid, state.fun, 0),
        solver,
        valid,
    )


# ---- Functions -----------------------------------------------------------------------------------------------------


def _bounds(params_ineq: Any) -> tuple[Any, Any]:
    """Lower and upper bounds."""
    return (-np.inf, np.inf) if params_ineq is None else pair("params_ineq", params_ineq, "(l, u)")


def _real(name: str, value: Any) -> Array:
    """An array of real floating-point numbers; a sparse matrix is made dense."""
    if hasattr(value, "shape") and (is_sparse(value) or hasattr(value, "toarray")):
        if np.prod(value.shape) > _MAX_ENTRIES:
            raise ValueError(
                f"{name} would be made dense, and has more than {_MAX_ENTRIES} entries then: shape {value.shape}. Give "
                "jaxsolve.solve_qp the product x -> A^T A x."
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
    bound = _real(name, bound).astype(dtype)
    if bound.shape not in ((), (size,)):
        raise ValueError(
            f"{name} must be a number or have the shape {(size,)}, an entry for each column, got {bound.shape}."
        )
    return jnp.broadcast_to(bound, (size,))


@jax.jit
def _norm(vector: Array) -> Array:
    scale, _, norm = scale_to_unit(vector)
    return scale * norm


@jax.jit
def _optimality(A: Array, lower: Array, upper: Array, x: Array, fun: Array) -> tuple[Array, Array]:
    """The largest entry of the projected gradient, and the bounds that are active."""
    gradient, at_lower, at_upper = fun @ A, x <= lower, x >= upper
    pushed = (at_lower & (gradient > 0)) | (at_upper & (gradient < 0))
    active = jnp.where(at_lower, -1, jnp.where(at_upper, 1, 0)).astype(jnp.int32)
    return jnp.max(jnp.where(pushed, 0, jnp.abs(gradient))), active


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NNLSResult:
    """Result of :func:`nnls`; a pytree. As in SciPy it can be unpacked: ``x, rnorm = nnls(A, b)``.

    Attributes:
        x: the solution, shape ``(n,)``.
        rnorm: ``||A x - b||``, a scalar.
        fun: the residual ``A x - b``, shape ``(m,)``.
        status: a :class:`jaxsolve.Status`, int32.
        nit: factorizations done, int32.
        error: optimality error, see :class:`jaxsolve.solvers.quadratic.LeastSquaresState`.
    """

    x: Array
    rnorm: Array
    fun: Array
    status: Array
    nit: Array
    error: Array

    def __iter__(self) -> Iterator[Array]:
        """``x`` and ``rnorm``."""
        return iter((self.x, self.rnorm))

    def __getitem__(self, index: Any) -> Any:
        """``x`` has the index 0 and ``rnorm`` the index 1."""
        return (self.x, self.rnorm)[index]

    def __len__(self) -> int:
        """2, for ``x`` and ``rnorm``."""
        return 2

    @property
    def success(self) -> Array:
        """Whether the minimum was found."""
        return Status.CONVERGED.holds(self.status)

    @property
    def message(self) -> str:
        """One sentence on how the run ended; reads a concrete status, so not under ``jit``."""
        return Status(int(self.status)).sentence


class LsqLinearResult(NamedTuple):
    """Result of :func:`lsq_linear`, with the names of SciPy's.

    Attributes:
        x: the solution, shape ``(n,)``.
        cost: ``0.5 * ||A x - b||^2``, a scalar.
        fun: the residual ``A x - b``, shape ``(m,)``.
        optimality: largest absolute entry of the gradient ``A^T (A x - b)``, without those with which variables at a
            bound are pushed against it; in the units of the data, and not differentiated.
        active_mask: -1 for variables at their lower bound, 1 for those at their upper one, 0 for the others; int32,
            shape ``(n,)``.
        success: whether the minimum was found.
        status: a :class:`jaxsolve.Status`, int32: not SciPy's number.
        nit: factorizations done, int32.
        error: optimality error, see :class:`jaxsolve.solvers.quadratic.LeastSquaresState`.
    """

    x: Array
    cost: Array
    fun: Array
    optimality: Array
    active_mask: Array
    success: Array
    status: Array
    nit: Array
    error: Array

    @property
    def message(self) -> str:
        """One sentence on how the run ended; reads a concrete status, so not under ``jit``."""
        return Status(int(self.status)).sentence


show_as_line(NNLSResult, "nnls")
show_as_line(LsqLinearResult, "lsq_linear")


def nnls(A: Any, b: Any, *, maxiter: int | None = None, weak: str = "half") -> NNLSResult:
    """Minimize ``||A x - b||`` over ``x >= 0``, differentiably, as ``scipy.optimize.nnls`` does.

    It works under ``jit``, ``vmap`` and in every derivative mode, with respect to ``A`` and ``b``. The method, what is
    returned where there are several solutions, and sparse matrices: see :class:`jaxsolve.BoundedLeastSquares`. The
    accuracy is that of a QR factorization of ``A``: the condition number is not squared. The derivative of ``rnorm`` is
    0 where ``rnorm`` is 0.

    Args:
        A: shape ``(m, n)``, of any rank, dense or sparse.
        b: shape ``(m,)`` or ``(m, 1)``.
        maxiter: largest number of factorizations; 1000 by default.
        weak: how variables count in derivatives that are 0 with multiplier 0: ``"half"``, ``"active"`` or
            ``"inactive"``.

    Returns:
        A :class:`jaxsolve.solvers.quadratic.NNLSResult`, which unpacks into ``x`` and ``rnorm``. Where SciPy raises
        because of ``maxiter``, ``status`` is ``Status.MAXITER``.

    Raises:
        ValueError: shapes do not fit, or an option is out of range.
        TypeError: the data are not real numbers.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> A, b = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), jnp.array([2.0, 1.0, -1.0])
        >>> x, rnorm = jaxsolve.nnls(A, b)
        >>> [round(entry, 4) for entry in x.tolist()], round(float(rnorm), 4)
        ([1.5, 0.0], 1.2247)
        >>> gradient = jax.grad(lambda b: jaxsolve.nnls(A, b).rnorm)(b)
        >>> [round(entry, 4) for entry in gradient.tolist()]
        [0.4082, -0.4082, -0.8165]
    """
    options: dict[str, Any] = {} if maxiter is None else {"maxiter": maxiter}
    b = _real("b", b)
    b = b.reshape(-1) if b.ndim == 2 and b.shape[1] == 1 else b
    x, state = BoundedLeastSquares(weak=weak, **options).run(None, (A, b), (0.0, np.inf))
    return NNLSResult(x, _norm(state.fun), state.fun, state.status, state.iter_num, state.error)


def lsq_linear(
    A: Any,
    b: Any,
    bounds: Any = (-np.inf, np.inf),
    *,
    tol: float | None = None,
    max_iter: int | None = None,
    weak: str = "half",
) -> LsqLinearResult:
    """Minimize ``0.5 * ||A x - b||^2`` subject to bounds, differentiably, as ``scipy.optimize.lsq_linear`` does.

    It works under ``jit``, ``vmap`` and in every derivative mode, with respect to ``A``, ``b`` and the bounds. The
    method, what is returned where there are several solutions, and sparse matrices: see
    :class:`jaxsolve.BoundedLeastSquares`. The accuracy is that of a QR factorization of ``A``: the condition number is
    not squared.

    Args:
        A: shape ``(m, n)``, of any rank, dense or sparse.
        b: shape ``(m,)``.
        bounds: the pair of lower and upper bounds, each a number or of shape ``(n,)``, or an instance of
            ``scipy.optimize.Bounds``. Bounds may be infinite (``None`` stands for that), and, unlike SciPy's, equal.
        tol: tolerance of ``error``, which decides over ``success`` and does not end the iterations. By default 1e-10 in
            float64 and 1e-5 in float32.
        max_iter: largest number of factorizations; 1000 by default.
        weak: how variables count in derivatives that are at a bound with multiplier 0: ``"half"``, ``"active"`` or
            ``"inactive"``.

    Returns:
        A :class:`jaxsolve.solvers.quadratic.LsqLinearResult`.

    Raises:
        ValueError: shapes do not fit, a lower bound exceeds an upper one, or an option is out of range.
        TypeError: the data are not real numbers.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> A, b = jnp.array([[1.0, 2.0], [1.0, 1.0], [0.0, 1.0]]), jnp.array([1.0, 3.0, -1.0])
        >>> result = jaxsolve.lsq_linear(A, b, (0.0, 1.5))
        >>> [round(entry, 4) for entry in result.x.tolist()], round(float(result.cost), 4), result.active_mask.tolist()
        ([1.5, 0.0], 1.75, [1, -1])
        >>> slope = jax.grad(lambda u: jaxsolve.lsq_linear(A, b, (0.0, u)).cost)(1.5)
        >>> round(float(slope), 4)  # minus the multiplier of the bound
        -1.0
    """
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        bounds = bounds.lb, bounds.ub
    lower, upper = pair("bounds", bounds, "(lower, upper)")
    bounds = -np.inf if lower is None else lower, np.inf if upper is None else upper
    A, b = _real("A", A), _real("b", b)
    if tol is None:
        tol = 1e-10 if jnp.finfo(tree_real_dtype((A, b))).bits == 64 else 1e-5
    options: dict[str, Any] = {"tol": tol} if max_iter is None else {"tol": tol, "maxiter": max_iter}
    solver = BoundedLeastSquares(weak=weak, **options)
    x, state = solver.run(None, (A, b), bounds)
    A, _, lower, upper, _ = solver._data((A, b), bounds)
    optimality, active = _optimality(*lax.stop_gradient((A, lower, upper, x.astype(A.dtype), state.fun)))
    success = Status.CONVERGED.holds(state.status)
    return LsqLinearResult(
        x, state.value, state.fun, optimality, active, success, state.status, state.iter_num, state.error
    )
