r"""Limited-memory BFGS over a box.

Problem: minimize a smooth function :math:`f(x, \theta)` over :math:`l \le x \le u`. Method: the model of :math:`f` has
the Hessian :math:`B = \theta I - W K^{-1} W^T` of the last pairs of steps and gradient differences (Byrd, Lu, Nocedal
and Zhu 1995). Its first minimizer along the projected path of steepest descent, the generalized Cauchy point, says
which variables are at bounds; over the others it is minimized without regard to bounds, and the result is projected
(Morales and Nocedal 2011). A line search follows. Optimality: see :mod:`jaxsolve.solvers._bounds`.

The path is piecewise linear, with a break where a variable arrives at its bound. Instead of going from break to break,
slope and curvature of the model are computed on all pieces at once, by cumulative sums over the sorted breaks.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._docstrings import with_fields_of
from jaxsolve._inputs import power_of_two
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve._vectors import flat, unraveled
from jaxsolve.base import option
from jaxsolve.solvers._bounds import bounded_stationarity, bounds_like, check_bounds, clip_to, held_at
from jaxsolve.solvers._descent_method import DescentMethod, DescentState, status_of_search
from jaxsolve.solvers._stepsize import first_length
from jaxsolve.tree_util import tree_l2_norm, tree_real_dtype

__all__ = ["LBFGSB", "LBFGSBState"]

# The scaling of a Hessian without pairs changes by this factor after a step along which there was no curvature.
_FLATTER = 1 / 8


@with_fields_of(DescentState)
class LBFGSBState(NamedTuple):
    """State of L-BFGS-B: the fields of :class:`~jaxsolve.solvers.DescentState`, and those of the histories.

    Attributes:
        error: Euclidean norm of ``grad`` without the entries of variables at active bounds.
        s_history: differences of parameters, shape (history_size, number of parameters), the newest one last.
        y_history: differences of gradients, in the same form.
        theta: the scaling of the initial Hessian.
        num_updates: number of pairs in the memory, int32.
    """

    iter_num: Array
    value: Array
    grad: Any
    stepsize: Array
    error: Array
    s_history: Array
    y_history: Array
    theta: Array
    num_updates: Array
    aux: Any = None
    failed_linesearch: Any = False
    num_fun_eval: Any = 0
    num_grad_eval: Any = 0
    num_linesearch_iter: Any = 0
    status: Any = 0
    first_error: Any = None
    num_stalled: Any = 0


class LBFGSB(DescentMethod):
    """L-BFGS-B: limited-memory BFGS with lower and upper bounds.

    ``run(init_params, bounds, *args, **kwargs)`` minimizes ``fun(params, *args, **kwargs)`` over
    ``lower <= params <= upper``, where ``bounds`` is the pair ``(lower, upper)`` of numbers, arrays that broadcast to
    every leaf, or pytrees like the parameters. Entries may be infinite, or equal for variables that are fixed. ``fun``
    is never evaluated outside of the bounds; an initial point outside is moved to the nearest point inside. The
    solution is also differentiable with respect to the bounds.

    The options of the line search are those of :class:`~jaxsolve.LBFGS`. The first trial step is 1.

    Attributes:
        history_size: number of pairs that are kept.
        use_gamma: scale the initial Hessian by <y, y> / <s, y> of the last pair. Before the first pair the scaling is
            such that the length of the first step is the norm of the initial point, or value divided by gradient norm,
            whichever is shorter.
        theta: the scaling of the initial Hessian without ``use_gamma``, a positive number in the unit of the second
            derivatives.

    Reference:
        Byrd, Lu, Nocedal and Zhu (1995), "A limited memory algorithm for bound constrained optimization"; Morales and
        Nocedal (2011), "Remark on algorithm 778".

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> def rosenbrock(x):
        ...     return jnp.sum((1.0 - x[:-1]) ** 2 + 100.0 * (x[1:] - x[:-1] ** 2) ** 2)
        >>> solver = jaxsolve.LBFGSB(rosenbrock, tol=1e-6)
        >>> solution = lambda upper: solver.run(jnp.zeros(2), (0.0, upper)).params
        >>> solution(0.5).round(4).tolist()
        [0.5, 0.25]
        >>> jax.jacobian(solution)(0.5).round(3).tolist()
        [1.0, 1.0]
    """

    maxiter: int = option(50)
    theta: float = option(1.0, above=0)
    history_size: int = option(10, at_least=1)
    use_gamma: bool = option(True)

    _State = LBFGSBState
    _splits_complex = False  # bounds are real
    _hyperparams = "bounds"
    _resumed_fields = ("iter_num", "s_history", "y_history", "theta", "num_updates", "first_error")

    def _validate(self) -> None:
        """Raise for an impossible option."""
        super()._validate()
        if not isinstance(self.history_size, int):
            raise TypeError(f"history_size must be a number known at compile time, got {self.history_size!r}.")

    def _check_arguments(self, init_params: PyTree, bounds: Any = None, *args: Any, **kwargs: Any) -> None:
        """Raise ``ValueError`` for bounds that cannot be right."""
        if bounds is not None:
            check_bounds(bounds)

    def _bounds(self, params: PyTree, args: tuple, kwargs: dict) -> tuple[tuple[PyTree, PyTree], tuple, dict]:
        """Bounds like the parameters, and the data of ``fun``."""
        bounds, args, kwargs = self._split(args, kwargs)
        return bounds_like((-jnp.inf, jnp.inf) if bounds is None else bounds, params), args, kwargs

    def _direction(self, params: PyTree, state: LBFGSBState, box: tuple[PyTree, PyTree] | None = None) -> PyTree:
        """The step to the minimizer of the model in the box, which is all of space by default."""
        box = bounds_like((-jnp.inf, jnp.inf), params) if box is None else box
        x, grad, lower, upper = (flat(tree, state.error.dtype) for tree in (params, state.grad, *box))
        # In a unit of the objective in which products of three gradients do not overflow.
        unit = 1 / power_of_two(jnp.max(jnp.abs(grad)))
        model = _Model.of(state.s_history, unit * state.y_history, unit * state.theta, state.num_updates)
        return unraveled(params)(_step(model, x, unit * grad, lower, upper))

    def _has_memory(self, state: LBFGSBState) -> Array:
        return state.num_updates > 0

    # ---- The iteration --------------------------------------------------------------------------------------------

    def _first_point(self, init_params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        bounds, _, _ = self._bounds(init_params, args, kwargs)
        return jax.tree.map(clip_to, init_params, *bounds)

    def init_state(self, init_params: PyTree, bounds: Any = None, *args: Any, **kwargs: Any) -> LBFGSBState:
        """The state before the first iteration; the arguments are those of ``run``. Evaluates ``fun`` once."""
        box, args, kwargs = self._bounds(init_params, (bounds, *args), kwargs)
        params = jax.tree.map(clip_to, init_params, *box)
        (value, aux), grad = self._objective.value_and_grad(params, *args, **kwargs)
        error = _error(params, grad, box)
        dtype, one = error.dtype, jnp.ones((), jnp.int32)
        theta = jnp.asarray(self.theta).astype(dtype)
        if self.use_gamma:
            theta = error / first_length(params, value, error)
            theta = jnp.where(theta > 0, theta, 1)
        history = jnp.zeros((self.history_size, flat(params).size), dtype)
        return self._State(
            iter_num=jnp.zeros((), jnp.int32),
            value=value,
            grad=grad,
            stepsize=jnp.ones((), dtype),
            error=error,
            s_history=history,
            y_history=jnp.copy(history),
            theta=theta,
            num_updates=jnp.zeros((), jnp.int32),
            aux=aux,
            failed_linesearch=jnp.asarray(False),
            num_fun_eval=one,
            num_grad_eval=jnp.copy(one),
            num_linesearch_iter=jnp.zeros((), jnp.int32),
            status=self._status_of(jnp.where(jnp.isfinite(value), error, jnp.nan), size=error),
            first_error=jnp.copy(error),
            num_stalled=jnp.zeros((), jnp.int32),
        )

    def update(self, params: PyTree, state: LBFGSBState, bounds: Any = None, *args: Any, **kwargs: Any) -> OptStep:
        """One step; the arguments are those of ``run``. Returns ``OptStep(params, state)``."""
        box, args, kwargs = self._bounds(params, (bounds, *args), kwargs)
        params = jax.tree.map(clip_to, params, *box)
        direction = self._direction(params, state, box)
        inside = functools.partial(jax.tree.map, _inside, params, direction, *box)

        def objective(point, *args, **kwargs):
            return self._objective.value_and_grad(inside(point), *args, **kwargs)

        solver = dataclasses.replace(self, fun=objective, value_and_grad=True, has_aux=True)
        if self._searches:
            longest = _longest(*(flat(tree, state.error.dtype) for tree in (params, direction, *box)))
            new_params, new_state = solver._search(longest, params, state, direction, args, kwargs)
        else:
            new_params, new_state, _ = solver._fixed_step(params, state, direction, args, kwargs)
        new_params = inside(new_params)
        x, grad, dtype = flat(params, state.error.dtype), flat(state.grad, state.error.dtype), state.error.dtype
        step = flat(new_params, dtype) - x
        moved = jnp.any(step != 0)
        error = _error(new_params, new_state.grad, box)
        new_state = self._judged_step(state, new_state, error, moved)
        new_state = _remember(new_state, step, flat(new_state.grad, dtype) - grad, moved, self.use_gamma)
        if self._searches:
            # Where values differ by rounding the least gradient counts. What the step taught is remembered.
            kept = (new_state.num_stalled > state.num_stalled) & (error >= state.error) & moved
            old = (params, state.value, state.grad, state.aux, state.error)
            new = (new_params, new_state.value, new_state.grad, new_state.aux, new_state.error)
            new_params, value, grad, aux, error = self._where(kept, old, new)
            new_state = new_state._replace(value=value, grad=grad, aux=aux, error=error)
        return OptStep(new_params, new_state)

    def _search(self, longest, params, state, direction, args, kwargs) -> tuple[PyTree, LBFGSBState]:
        """A line search that goes no further than ``longest``."""
        search, first = dataclasses.replace(self._line_search(), max_stepsize=longest), jnp.ones_like(longest)
        stepsize, found = search.run(first, params, state.value, state.grad, direction, args, kwargs, aux=state.aux)
        return found.params, state._replace(
            status=status_of_search(first, found),
            value=found.value,
            grad=found.grad,
            aux=found.aux,
            stepsize=stepsize,
            failed_linesearch=found.failed,
            num_fun_eval=state.num_fun_eval + found.num_fun_eval,
            num_grad_eval=state.num_grad_eval + found.num_grad_eval,
            num_linesearch_iter=state.num_linesearch_iter + found.iter_num,
        )

    # ---- Optimality -----------------------------------------------------------------------------------------------

    def optimality_fun(self, sol: PyTree, bounds: Any = None, *args: Any, **kwargs: Any) -> PyTree:
        """The gradient of ``fun`` for free variables, and the distance from the bound for those at an active bound."""
        box, args, kwargs = self._bounds(sol, (bounds, *args), kwargs)
        return bounded_stationarity(lambda x: self._objective.grad(x, *args, **kwargs), sol, box)


def _error(params: PyTree, grad: PyTree, box: tuple[PyTree, PyTree]) -> Array:
    """Norm of the gradient without the entries that are held at bounds."""

    def free(x, g, lower, upper):
        at_lower, at_upper = held_at(x, g, lower, upper)
        return jnp.where(at_lower | at_upper, jnp.zeros_like(g), g)

    dtype = tree_real_dtype(params)
    dtype = dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)
    return tree_l2_norm(flat(jax.tree.map(free, params, grad, *box), dtype))


def _inside(x: Array, direction: Array, lower: Array, upper: Array, point: Array) -> Array:
    """A point on the way from ``x`` in the box, and on a bound where all but rounding errors of the way are behind."""
    near = 4 * float(jnp.finfo(x.dtype).eps)

    def at(bound):
        close = jnp.abs(point - bound) <= near * (jnp.abs(x) + jnp.abs(bound))
        return jnp.isfinite(bound) & (direction != 0) & close

    point = jnp.where(at(lower), lower, jnp.where(at(upper), upper, point))
    return clip_to(point, lower, upper)


def _longest(x: Array, direction: Array, lower: Array, upper: Array) -> Array:
    """The largest step, at least 1, with which no variable leaves the box."""
    room = jnp.where(direction > 0, upper - x, lower - x)
    return jnp.maximum(jnp.min(_lengths(room, direction), initial=jnp.inf), 1)


def _lengths(room: Array, direction: Array) -> Array:
    """How far entries may go in a direction before the room is used up; infinite where nothing is in the way."""
    ends = jnp.isfinite(room) & (direction != 0)
    # Nothing that is infinite may enter a derivative.
    return jnp.where(ends, jnp.where(ends, room, 0) / jnp.where(ends, direction, 1), jnp.inf)


# ---- The model ----------------------------------------------------------------------------------------------------


class _Model(NamedTuple):
    """The Hessian ``theta I - W K^{-1} W^T`` of the memory (Byrd, Nocedal and Schnabel 1994, theorem 2.3).

    Attributes:
        theta: its first term.
        W: columns ``y`` and ``theta s`` of the pairs, shape ``(n, 2 m)``; 0 where there is no pair.
        K: the middle matrix, with the identity or its negative where there is no pair.
    """

    theta: Array
    W: Array
    K: Array

    @classmethod
    def of(cls, s: Array, y: Array, theta: Array, num_pairs: Array) -> _Model:
        size = s.shape[0]
        used = jnp.arange(size, dtype=jnp.int32) >= size - num_pairs
        s, y = jnp.where(used[:, None], s, 0), jnp.where(used[:, None], y, 0)
        cross = _product(s, y.T)
        below = jnp.tril(cross, -1)
        corner = jnp.diag(jnp.where(used, -jnp.diagonal(cross), -1))
        inner = theta * _product(s, s.T) + jnp.diag(jnp.where(used, 0, 1).astype(s.dtype))
        K = jnp.concatenate([jnp.concatenate([corner, below.T], axis=1), jnp.concatenate([below, inner], axis=1)])
        return cls(theta, jnp.concatenate([y, theta * s]).T, K)


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)


def _cauchy_point(model: _Model, x: Array, grad: Array, lower: Array, upper: Array) -> tuple[Array, Array]:
    """The first minimizer of the model along the projected path, and which variables are not at a bound there."""
    theta, W, K = model
    eps = float(jnp.finfo(x.dtype).eps)
    bound = jnp.where(grad < 0, upper, lower)
    moves = grad != 0
    breaks = jnp.maximum(_lengths(x - bound, grad), 0)
    order = jnp.argsort(breaks)
    ends = breaks[order]
    d = jnp.where(ends > 0, -grad[order], 0)
    # Piece k begins at starts[k]; from there on the variables k, k + 1, ... in this order still move.
    starts = jnp.concatenate([jnp.zeros_like(ends, shape=1), ends])
    known = jnp.isfinite(starts)
    finite_starts = jnp.where(known, starts, 0)
    rest = lambda terms: jnp.concatenate([jnp.cumsum(terms[::-1], axis=0)[::-1], jnp.zeros_like(terms[:1])])  # noqa: E731
    squares, images = rest(d * d), rest(d[:, None] * W[order])
    lengths = jnp.where(known[1:], finite_starts[1:] - finite_starts[:-1], 0)
    travelled = jnp.cumsum(lengths[:, None] * images[:-1], axis=0)
    travelled = jnp.concatenate([jnp.zeros_like(images[:1]), travelled])
    solved = jnp.linalg.solve(K, images.T).T
    slopes = -squares + theta * finite_starts * squares - jnp.sum(solved * travelled, axis=1)
    curvatures = jnp.maximum(theta * squares - jnp.sum(solved * images, axis=1), eps * theta * squares)
    none = squares == 0
    ahead = jnp.where(none, 0, -slopes / jnp.where(none, 1, curvatures))
    next_starts = jnp.concatenate([ends, jnp.full_like(ends, jnp.inf, shape=1)])
    here = known & (none | (slopes >= 0) | (finite_starts + ahead <= next_starts))
    piece = jnp.argmax(here)
    end = finite_starts[piece] + jnp.maximum(ahead[piece], 0)
    free = breaks > end
    return jnp.where(free, x - jnp.where(moves, end * grad, 0), jnp.where(moves, bound, x)), free


def _step(model: _Model, x: Array, grad: Array, lower: Array, upper: Array) -> Array:
    """The step to the minimizer of the model over the variables that are free at the Cauchy point, inside the box."""
    theta, W, K = model
    cauchy, free = _cauchy_point(model, x, grad, lower, upper)
    cauchy = clip_to(cauchy, lower, upper)
    W_free = jnp.where(free[:, None], W, 0)
    moved = cauchy - x
    residual = jnp.where(free, grad + theta * moved - _product(W, jnp.linalg.solve(K, _product(moved, W))), 0)
    inner = K - _product(W_free.T, W_free) / theta
    v = jnp.linalg.solve(inner, _product(residual, W_free))
    d = -residual / theta - _product(W_free, v) / theta**2
    d = jnp.where(jnp.all(jnp.isfinite(d)), d, 0)
    projected = clip_to(cauchy + d, lower, upper) - x
    # The largest part of the step that stays inside, where the projected one is no descent.
    room = jnp.where(d > 0, upper - cauchy, lower - cauchy)
    part = jnp.maximum(jnp.min(_lengths(room, d), initial=1), 0)
    inside = clip_to(cauchy + part * d, lower, upper) - x
    return jnp.where(jnp.vdot(grad, projected) < 0, projected, inside)


def _remember(state: LBFGSBState, s: Array, y: Array, moved: Array, use_gamma: bool) -> LBFGSBState:
    """The state with a new pair in its memory, or without any if the search went nowhere."""
    curvature, s_length, y_length = jnp.vdot(s, y), tree_l2_norm(s), tree_l2_norm(y)
    curved = moved & (curvature > float(jnp.finfo(s.dtype).eps) * s_length * y_length)

    def extended(history, new):
        return jnp.where(curved, jnp.concatenate([history[1:], new[None]]), history)

    most = state.s_history.shape[0]
    num_pairs = jnp.where(curved, jnp.minimum(state.num_updates + 1, most), state.num_updates)
    # Without curvature so far the next path leads further: to a vertex, where the objective is concave.
    flatter = jnp.where(moved & (state.num_updates == 0), _FLATTER * state.theta, state.theta)
    theta = jnp.where(curved, y_length * (y_length / jnp.where(curved, curvature, 1)), flatter)
    return state._replace(
        s_history=extended(state.s_history, s),
        y_history=extended(state.y_history, y),
        theta=theta if use_gamma else state.theta,
        num_updates=jnp.where(moved, num_pairs, 0),
    )
