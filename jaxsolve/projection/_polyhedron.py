r"""Projection on a polyhedron, by a dual active-set method.

The nearest point is sought from outside: the iterate is the nearest point of the rows taken so far. A row that it
violates is taken as well, and where a multiplier would become negative on the way, that row is dropped. The distance
grows with each step, the rows taken are linearly independent, and the end is the solution itself, to rounding. A
violated row that the taken ones exclude proves that the set is empty.

With the normals of the taken rows as the rows of :math:`N`, an iteration needs the part of another normal
orthogonal to them, and its coordinates :math:`r = (N^+)^T n` in them. Both come from an orthogonal matrix, some rows
of which span the normals taken, and from the pseudo-inverse; a row taken or dropped changes each of them by one
reflection or update of rank one.

References:
    D. Goldfarb and A. Idnani, *A numerically stable dual method for solving strictly convex quadratic programs*,
    Math. Programming 27, 1983, section 3.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._compat import gathered, is_concrete
from jaxsolve._inputs import as_inexact, nan_unless, power_of_two, unpack, widen
from jaxsolve._loop import loop, run_if_any
from jaxsolve._precision import at_full_precision
from jaxsolve._rules import derive_by
from jaxsolve._types import Array, PyTree
from jaxsolve._vectors import ravel
from jaxsolve.projection._affine import matrix_and_vector, nearest_solution
from jaxsolve.tree_util import tree_where

__all__ = ["projection_polyhedron"]


@at_full_precision
def projection_polyhedron(x: PyTree, hyperparams: tuple, check_feasible: bool = True) -> PyTree:
    r"""Project on the polyhedron :math:`\{z : A z = b, \; G z \le h\}`.

    A dual active-set method finds the solution to rounding. The derivative is computed from the equations of the active
    constraints; a constraint that holds with equality and multiplier 0 counts half.

    Args:
        x: pytree of arrays with n entries in all. For half precision, computations are done in float32.
        hyperparams: the tuple ``(A, b, G, h)``: matrices of shapes ``(p, n)`` and ``(m, n)``, whose columns are in the
            order of the leaves of ``x``, and vectors of shapes ``(p,)`` and ``(m,)``. Rows may be dependent, p or m may
            be 0, entries of ``h`` may be infinite.
        check_feasible: raise an error if the set is empty and everything is concrete. Without the error, and under
            ``jit``, the result for an empty set is NaN.

    Returns:
        The projection, with the structure, shapes and dtypes of ``x``.

    Raises:
        ValueError: ``hyperparams`` does not have four entries, shapes do not fit, or the set is empty and
            ``check_feasible`` is set.
        TypeError: an argument is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.projection import projection_polyhedron
        >>> A, b = jnp.array([[1.0, 1.0]]), jnp.array([1.0])
        >>> G, h = -jnp.eye(2), jnp.zeros(2)
        >>> (projection_polyhedron(jnp.array([2.0, -1.0]), (A, b, G, h)).round(3) + 0.0).tolist()
        [1.0, 0.0]
    """
    A, b, G, h = unpack(hyperparams, ("A", "b", "G", "h"))
    x = as_inexact(x, "x")
    vector, unravel = ravel(x)
    vector = widen(vector)
    A, b = matrix_and_vector(A, b, vector, "projection_polyhedron", ("A", "b"))
    G, h = matrix_and_vector(G, h, vector, "projection_polyhedron", ("G", "h"))
    out, feasible = _on_polyhedron(*map(gathered, (vector, A, b, G, h)))
    if check_feasible and is_concrete(feasible) and not bool(np.asarray(feasible)):
        raise ValueError("projection_polyhedron: no point satisfies A z = b and G z <= h.")
    return unravel(out)


@jax.jit
def _on_polyhedron(x: Array, A: Array, b: Array, G: Array, h: Array) -> tuple[Array, Array]:
    """The projection, NaN where it is not one, and whether the set has a point."""
    rows, bound, num_eq = jnp.concatenate([A, G]), jnp.concatenate([b, h]), b.size
    if not rows.size:
        return x, jnp.asarray(True)
    end = _nearest(*lax.stop_gradient((x, rows, bound)), num_eq)
    rule = functools.partial(_tangent, num_eq=num_eq)
    # Where there is no solution the derivative is NaN too, also in what rows hold that are not active.
    rows, bound = nan_unless(end.solved, rows), nan_unless(end.solved, bound)
    value = derive_by(rule, end.value, x, rows, bound, *end.active)
    return nan_unless(end.solved, value), ~end.empty


class _Set(NamedTuple):
    """The rows in the units of a run: normals of length 1 (or 0), bounds from ``x``.

    Attributes:
        rows: shape ``(m, n)``.
        bound: shape ``(m,)``.
        terms: size of the numbers whose rounding the bounds have, shape ``(m,)``.
        fixed: which are equalities, shape ``(m,)``.
    """

    rows: Array
    bound: Array
    terms: Array
    fixed: np.ndarray

    def excess(self, step: Array) -> tuple[Array, Array]:
        """By how much rows are violated, and the sign with which they are."""
        moved = self.rows @ step - self.bound
        sign = jnp.where(self.fixed & (moved < 0), -1, 1).astype(step.dtype)
        return sign * moved, sign

    def forgiven(self, distance: Array) -> Array:
        """By how much a point at a distance may break rows where none does better; the largest violation is about 1."""
        small = 1e-8 if distance.dtype == jnp.float64 else 1e-5
        return small * (1 + distance) + self.rounding * self.terms

    @property
    def rounding(self) -> float:
        """That of operations on vectors of this length."""
        return 8 * float(jnp.finfo(self.bound.dtype).eps) * (1 + self.rows.shape[1] ** 0.5)


class _State(NamedTuple):
    """An iterate. What has n rows or entries belongs to the rows taken, each of which has one of n places.

    Attributes:
        step: the point, from ``x``, shape ``(n,)``.
        basis: orthogonal, shape ``(n, n)``; its rows at places in use span the normals taken.
        inverse: transposed pseudo-inverse of the normals taken, shape ``(n, n)``; 0 at free places.
        push: multipliers, shape ``(n,)``; 0 at free places.
        row: which row is taken, shape ``(n,)``.
        sign: -1 for an equality that was violated from below, else 1; 0 at free places; shape ``(n,)``.
        taken: which rows are, shape ``(m,)``.
        passed: which rows say the same as those taken, to rounding; shape ``(m,)``.
        entering: the row that is being taken, -1 for none.
        entering_push: its multiplier.
        running: whether to go on.
        empty: whether the set was found to have no point.
    """

    step: Array
    basis: Array
    inverse: Array
    push: Array
    row: Array
    sign: Array
    taken: Array
    passed: Array
    entering: Array
    entering_push: Array
    running: Array
    empty: Array


class _Active(NamedTuple):
    """The rows taken at the end of a run, as derivatives need them.

    Attributes:
        push: multiplier of each row of length 1, in any unit; shape ``(m,)``.
        taken: which rows are, shape ``(m,)``.
        free: an orthogonal basis of what no row taken holds, other rows are 0; shape ``(n, n)``.
        inverse: pseudo-inverse of the rows of length 1 that are taken, 0 for the others; shape ``(n, m)``.
    """

    push: Array
    taken: Array
    free: Array
    inverse: Array


class _End(NamedTuple):
    """What a run found.

    Attributes:
        value: the projection.
        active: the rows that hold it.
        solved: whether the value is the projection.
        empty: whether the set has no point.
    """

    value: Array
    active: _Active
    solved: Array
    empty: Array


def _nearest(x: Array, rows: Array, bound: Array, num_eq: int) -> _End:
    size = power_of_two(jnp.max(jnp.abs(rows), axis=1))
    rows, bound = rows / size[:, None], bound / size
    length = jnp.linalg.norm(rows, axis=1)
    length = jnp.where(length > 0, length, 1)
    rows, bound = rows / length[:, None], bound / length
    terms = jnp.where(jnp.isfinite(bound), jnp.abs(bound), 0) + jnp.abs(rows) @ jnp.abs(x)
    # Around x: so precision is that of the distance; in units of about the largest violation.
    bound, fixed = bound - rows @ x, np.arange(len(rows)) < num_eq
    unit = power_of_two(jnp.max(jnp.where(fixed, jnp.abs(bound), jnp.maximum(-bound, 0))))
    polyhedron = _Set(rows, bound / unit, terms / unit, fixed)
    step = functools.partial(_exchange, polyhedron)
    state = loop(lambda state: state.running, step, _start(x, len(rows)), maxiter=10 * (x.size + len(rows)))
    step = _settled(polyhedron, state)
    good = jnp.all(polyhedron.excess(step)[0] <= polyhedron.forgiven(jnp.linalg.norm(step)))
    active = _Active(
        push=jnp.zeros_like(bound).at[state.row].add(state.push),
        taken=state.taken,
        free=jnp.where(state.sign[:, None] != 0, 0, state.basis),
        inverse=jnp.zeros_like(rows).at[state.row].add(state.sign[:, None] * state.inverse).T,
    )
    return _End(
        value=x + unit * step,
        active=active,
        solved=good & ~state.running & ~state.empty & jnp.all(jnp.isfinite(x)),
        empty=state.empty,
    )


def _start(x: Array, m: int) -> _State:
    (n,), dtype, none = x.shape, x.dtype, jnp.zeros((), bool)
    return _State(
        step=jnp.zeros_like(x),
        basis=jnp.eye(n, dtype=dtype),
        inverse=jnp.zeros((n, n), dtype),
        push=jnp.zeros_like(x),
        row=jnp.zeros(n, jnp.int32),
        sign=jnp.zeros_like(x),
        taken=jnp.zeros(m, bool),
        passed=jnp.zeros(m, bool),
        entering=jnp.asarray(-1, jnp.int32),
        entering_push=jnp.zeros((), dtype),
        running=~none,
        empty=none,
    )


def _settled(polyhedron: _Set, state: _State) -> Array:
    """The step, corrected so that the rows taken hold to rounding."""
    left = state.sign * (polyhedron.rows[state.row] @ state.step - polyhedron.bound[state.row])
    return state.step - jnp.where(state.sign != 0, left, 0) @ state.inverse


def _exchange(polyhedron: _Set, state: _State) -> _State:
    """Take the row that is violated most, or drop one on the way to it."""
    step, used = _settled(polyhedron, state), state.sign != 0
    excess, signs = polyhedron.excess(step)
    distance, eps = jnp.linalg.norm(step), float(jnp.finfo(step.dtype).eps)
    violated = ~(state.taken | state.passed) & (excess > 2 * eps * (polyhedron.terms + distance))
    pending = state.entering >= 0
    entering = jnp.where(pending, state.entering, _index_of_largest(jnp.where(violated, excess, -1)))
    going = pending | jnp.any(violated)
    sign, excess, forgiven = signs[entering], excess[entering], polyhedron.forgiven(distance)[entering]
    normal = sign * polyhedron.rows[entering]

    # The part of the normal that the rows taken leave free, and its coordinates in them.
    outside, r = jnp.where(used, 0, state.basis @ normal), state.inverse @ normal
    direction, square = outside @ state.basis, jnp.sum(outside**2)
    # Coordinates in nearly dependent rows are large; their rounding is no part outside.
    threshold = polyhedron.rounding * (1 + jnp.sum(jnp.abs(r)))
    independent = square > threshold**2
    square = jnp.where(independent, square, 1)
    falls = used & ~jnp.asarray(polyhedron.fixed)[state.row] & (r > threshold)
    limits = jnp.where(falls, state.push / jnp.where(falls, r, 1), jnp.inf)
    leaving = _index_of_largest(-limits)
    full = jnp.where(independent, jnp.maximum(excess, 0) / square, jnp.inf)
    length, adds = jnp.minimum(full, limits[leaving]), full <= limits[leaving]
    # Neither a step nor a row to drop: the rows taken exclude this one, or it says the same to rounding.
    moves = going & (length < jnp.inf)
    stuck = going & ~moves
    empty = stuck & (excess > forgiven)
    length = jnp.where(moves, length, 0)
    step = step - jnp.where(independent, length, 0) * direction
    push, entering_push = state.push - length * r, state.entering_push + length

    # A reflection makes a row of the basis the direction that is taken or let go.
    place = jnp.where(adds, _index_of_largest(jnp.abs(outside)), leaving)
    here = jnp.arange(len(step), dtype=jnp.int32) == place
    old = state.inverse[leaving]
    old = old / jnp.where(adds, 1, jnp.linalg.norm(old))
    along, share = state.basis @ old, state.inverse @ old
    vector = jnp.where(adds, outside, jnp.where(used, along, 0))
    vector = vector / jnp.linalg.norm(vector)
    mirror = vector + jnp.where(here, jnp.where(vector[place] < 0, -1, 1), 0)
    basis = state.basis - jnp.outer(mirror / (1 + jnp.abs(vector[place])), mirror @ state.basis)
    fresh = direction / square
    update = jnp.outer(jnp.where(adds, r, share), jnp.where(adds, fresh, old))
    inverse = jnp.where(here[:, None], jnp.where(adds, fresh, 0), state.inverse - update)

    # Without a row that is dropped those that said the same may say more.
    index, done = jnp.arange(len(state.taken), dtype=jnp.int32), adds | stuck
    is_entering = index == entering
    rest = state._replace(
        step=step,
        passed=jnp.where(stuck, state.passed | is_entering, state.passed & adds),
        entering=jnp.where(done, -1, entering),
        entering_push=jnp.where(done, 0, entering_push),
        running=going & ~empty,
        empty=empty,
    )
    new = rest._replace(
        basis=basis,
        inverse=inverse,
        push=jnp.where(here, jnp.where(adds, entering_push, 0), push),
        row=jnp.where(here & adds, entering, state.row),
        sign=jnp.where(here, jnp.where(adds, sign, 0), state.sign),
        taken=jnp.where(adds, state.taken | is_entering, state.taken & (index != state.row[leaving])),
    )
    return tree_where(moves, new, rest)


def _index_of_largest(x: Array) -> Array:
    return lax.argmax(x, 0, jnp.int32)


def _tangent(value: Array, data: tuple, tangents: tuple, *, num_eq: int) -> Array:
    """The derivative of the projection on the rows that hold: the mean of those with and without undecided ones."""
    x, rows, bound, *_ = data
    held, inverses, length = lax.stop_gradient(_faces(*lax.stop_gradient((value, *data)), num_eq=num_eq))

    def mean(x, rows, bound):
        rows, bound = rows / length[:, None], bound / length

        def on(mask, inverse):
            return nearest_solution(x, jnp.where(mask[:, None], rows, 0), jnp.where(mask, bound, 0), inverse)

        return jnp.mean(jax.vmap(on)(held, inverses), axis=0)

    return jax.jvp(mean, (x, rows, bound), tangents[:3])[1]


def _faces(value, x, rows, bound, push, taken, free, inverse, *, num_eq: int) -> tuple[Array, Array, Array]:
    """The rows that hold without and with undecided ones, shape ``(2, m)``.

    Also the pseudo-inverses of these rows, shape ``(2, n, m)``, and the lengths of rows for which they are.
    """
    size = power_of_two(jnp.max(jnp.abs(rows), axis=1))
    length = jnp.linalg.norm(rows / size[:, None], axis=1)
    length = size * jnp.where(length > 0, length, 1)
    normals, level = rows / length[:, None], bound / length
    eps, fixed = float(jnp.finfo(x.dtype).eps), np.arange(len(rows)) < num_eq
    # Rounding, and what is small beside the distance.
    room = 16 * eps * (jnp.abs(normals) @ (jnp.abs(value) + jnp.abs(x))) + eps**0.5 * jnp.max(jnp.abs(value - x))
    holds = (jnp.abs(normals @ value - level) <= room) & jnp.any(normals != 0, axis=1)
    strong = taken & (fixed | (push > eps**0.5 * jnp.max(jnp.abs(push))))
    # A row that the rows taken determine holds like these.
    determined = jnp.linalg.norm(normals @ free.T, axis=1) <= eps**0.5
    strong |= holds & determined & ~taken & ~jnp.any(taken & ~strong)
    held = jnp.stack([strong, strong | taken | holds])

    def of_masked(known):
        del known
        return jnp.linalg.pinv(jnp.where(held[..., None], normals[None], 0))

    # The rows taken are independent, and a step of Newton's method takes away what rounding did to the inverse.
    inverse = 2 * inverse - inverse @ (jnp.where(taken[:, None], normals, 0) @ inverse)
    inverses = run_if_any(jnp.any(held != taken[None]), of_masked, jnp.stack([inverse, inverse]))
    return held, inverses, length
