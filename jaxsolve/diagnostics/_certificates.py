r"""Proofs that a quadratic program has no solution, found anew in double precision.

A set of inequalities :math:`M x \le r` has no solution just if there are :math:`y \ge 0` with :math:`M^T y = 0` and
:math:`r^T y < 0` (Farkas). The least value of :math:`r^T y` with :math:`y \le 1` is a linear program that always has a
solution. A vertex of the set of all such y, whose columns :math:`(M_i, r_i)` are independent, belongs to an irreducible
contradiction: without any one of its inequalities the others have a solution.

The objective is unbounded along a direction d with :math:`P d = 0`, :math:`q^T d < 0` that leaves no constraint; a
vertex is a direction that moves few variables.

Reference:
    Gleeson and Ryan (1990), "Identifying minimally infeasible subsystems of inequalities".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Contradiction", "Program", "downhill_direction", "find_contradiction", "negative_curvature"]

# What is smaller than the largest entry by such a factor is taken for rounding of the linear program: first as much as
# may be, for few rows are wanted.
_CUTS = (1e-2, 1e-4, 1e-6, 1e-8)
# Columns are dependent, and sums are 0, to this relative precision.
_PRECISION = 1e-9
# A contradiction is believed if it excludes all points up to this multiple of the sizes of its bounds.
_FAR = 1e6
# Which bounds take part, relative to the largest one.
_BOUNDS = (1.0, 1e-4, 1e-8)


class Program(NamedTuple):
    """``min 0.5 x^T P x + q^T x`` subject to ``lower <= A x <= upper``, in float64."""

    P: np.ndarray
    q: np.ndarray
    A: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


class Contradiction(NamedTuple):
    """Inequalities that no point satisfies.

    Attributes:
        rows: indices of the rows, in the order of the program.
        multipliers: positive at the upper bound of a row, negative at the lower one; the largest is 1.
        sum: the sum of the bounds, times the multipliers, which is negative where that of the rows is 0.
        irreducible: whether the others have a solution without any one of them.
    """

    rows: np.ndarray
    multipliers: np.ndarray
    sum: float
    irreducible: bool


def find_contradiction(program: Program) -> Contradiction | None:
    """Rows that contradict each other, as few as possible, or ``None`` if none are proved to."""
    _, _, A, lower, upper = program
    alone = np.flatnonzero((lower > upper) | (lower == np.inf) | (upper == -np.inf))
    if alone.size:
        row = alone[:1]
        return Contradiction(row, np.ones(1), float((upper - lower)[row[0]]), True)
    sides, signs, r = _sides(A, lower, upper)
    if not r.size or not np.all(np.isfinite(A)):
        return None
    row_scale = _sizes(A[sides], axis=1)
    M = signs[:, None] * A[sides] / row_scale
    row_scale = row_scale[:, 0]
    M, r = M / _sizes(M, axis=0), r / row_scale
    # Beside one huge bound a contradiction of others is of the size of rounding.
    for share in _BOUNDS:
        kept = np.flatnonzero(np.abs(r) <= share * np.max(np.abs(r)))
        found = _farkas(M[kept], r[kept])
        if found is not None:
            support, y, irreducible = found
            support, y = kept[support], y / row_scale[kept[support]]
            y = y / np.max(y)
            total = float(np.sum(y * signs[support] * np.where(signs > 0, upper[sides], lower[sides])[support]))
            return Contradiction(sides[support], signs[support] * y, total, irreducible)
    return None


def downhill_direction(program: Program) -> np.ndarray | None:
    """A direction along which the objective falls forever; its largest entry is 1 in size. ``None`` without proof."""
    P, q, A, lower, upper = program
    if not all(np.all(np.isfinite(part)) for part in (P, q, A)) or not np.any(q):
        return None
    sides, signs, _ = _sides(A, lower, upper)
    # Columns of the size of their largest entry, in rows of size 1.
    rows = signs[:, None] * A[sides]
    rows, curvature = rows / _sizes(rows, axis=1), P / _sizes(P)
    columns = _sizes(np.vstack([rows, curvature, (q / _sizes(q))[None]]), axis=0)[0]
    rows, curvature, slope = rows / columns, curvature / columns, q / columns
    curvature, slope = curvature / _sizes(curvature, axis=1), slope / _sizes(slope)
    limits = np.zeros(len(rows)), np.zeros(len(curvature))
    d = _linear_program(slope, A_ub=rows, b_ub=limits[0], A_eq=curvature, b_eq=limits[1], bounds=(-1, 1))
    room = -rows @ d
    for cut in _CUTS:
        moved, free = np.flatnonzero(np.abs(d) > cut * np.max(np.abs(d), initial=0)), np.flatnonzero(room > cut)
        # In standard form: positive amounts along signed variables, and positive slacks.
        K = np.vstack(
            [
                np.hstack([curvature[:, moved] * np.sign(d[moved]), np.zeros((len(curvature), free.size))]),
                np.hstack([rows[:, moved] * np.sign(d[moved]), np.eye(len(rows))[:, free]]),
                np.hstack([slope[moved] * np.sign(d[moved]), np.zeros(free.size)]),
            ]
        )
        target = np.append(np.zeros(len(K) - 1), -1.0)
        amounts = _vertex(K, np.concatenate([np.abs(d[moved]), room[free]]), target)
        if amounts is None:
            continue
        ray = np.zeros_like(q)
        ray[moved] = np.sign(d[moved]) * amounts[: moved.size]
        size = np.max(np.abs(ray), initial=0)
        leaves = np.max(np.append(rows @ ray, np.abs(curvature @ ray)), initial=0)
        if size > 0 and leaves <= _PRECISION * -(slope @ ray):
            ray = ray / columns
            return ray / np.max(np.abs(ray))
    return None


def negative_curvature(program: Program) -> tuple[float, np.ndarray] | None:
    """The most negative eigenvalue of P and its eigenvector, or ``None`` if P is positive semidefinite to rounding."""
    if not np.all(np.isfinite(program.P)):
        return None
    values, vectors = np.linalg.eigh(program.P)
    if not values[0] < -_PRECISION * np.max(np.abs(values)):
        return None
    vector = vectors[:, 0]
    return float(values[0]), vector / vector[np.argmax(np.abs(vector))]


def _sides(A, lower, upper):
    """The finite bounds as ``sign * A[row] x <= r``: rows, signs and r."""
    above, below = np.flatnonzero(np.isfinite(upper)), np.flatnonzero(np.isfinite(lower))
    signs = np.repeat([1.0, -1.0], [above.size, below.size])
    return np.concatenate([above, below]), signs, np.concatenate([upper[above], -lower[below]])


def _sizes(array, axis=None):
    """The largest absolute values along an axis, which is kept; 1 in place of 0."""
    largest = np.max(np.abs(array), axis=axis, initial=0.0, keepdims=True)
    return np.where(largest > 0, largest, 1.0)


def _farkas(M, r):
    """``(support, y, irreducible)`` with ``y > 0``, ``M[support].T y = 0`` and ``r[support] @ y < 0``, or ``None``."""
    if not r.size:
        return None
    r = r / _sizes(r)
    y = _linear_program(r, A_eq=M.T, b_eq=np.zeros(M.shape[1]), bounds=(0, 1))
    for cut in _CUTS:
        support = np.flatnonzero(y > cut * np.max(y, initial=0))
        K = np.vstack([M[support].T, r[support]])
        amounts = _vertex(K, y[support], np.append(np.zeros(M.shape[1]), -1.0))
        if amounts is not None and _excludes(M[support], r[support], amounts):
            used = amounts > 0
            return support[used], amounts[used], True
    support = np.flatnonzero(y > _CUTS[-1] * np.max(y, initial=0))
    return (support, y[support], False) if _excludes(M[support], r[support], y[support]) else None


def _excludes(M, r, y) -> bool:
    """Whether ``y`` proves that ``M x <= r`` has no solution of a size that the bounds suggest."""
    value, sizes = r @ y, np.abs(r) @ y
    left = np.max(np.abs(M.T @ y), initial=0)
    # Every solution has |x|_1 >= -value / left.
    return bool(value < -1e3 * np.finfo(float).eps * sizes and left * _FAR * sizes / np.sum(y) <= -value)


def _linear_program(costs, **data):
    """The solution of a linear program that has one, in SciPy's notation; 0 if it was not found."""
    # Not ours: what explains a run should not fail where the run did, and compiling would take seconds.
    from scipy.optimize import linprog

    x = linprog(costs, **data).x
    return np.zeros_like(costs) if x is None else x


def _vertex(K, y, target):
    """A non-negative solution of ``K y = target`` with independent columns, from one with dependent ones.

    Returns:
        The solution, with zeros for the columns that it does not need; ``None`` if it is not positive elsewhere.
    """
    y, null = y.copy(), _null_space(K)
    for _ in range(null.shape[1]):
        d = null[:, 0] if np.max(null[:, 0]) >= np.max(-null[:, 0]) else -null[:, 0]
        # As far along d as no entry becomes negative. There one is 0, and the other directions are to leave it there.
        ratios = np.where(d > _PRECISION * np.max(d), y / np.where(d > 0, d, 1), np.inf)
        first = int(np.argmin(ratios))
        y = y - ratios[first] * d
        y[first] = 0
        y[y <= _PRECISION * np.max(y, initial=0)] = 0
        null = null[:, 1:] - np.outer(d, null[first, 1:] / d[first])
        null[first] = 0
        null = null / _sizes(null, axis=0)
    # The amounts do not add up to the target yet, and with those that do some columns may not be needed.
    used = np.flatnonzero(y > 0)
    exact = np.linalg.lstsq(K[:, used], target, rcond=None)[0]
    used = used[np.abs(exact) > _PRECISION * np.max(np.abs(exact), initial=0)]
    exact = np.linalg.lstsq(K[:, used], target, rcond=None)[0]
    if not np.all(exact > 0):
        return None
    y = np.zeros_like(y)
    y[used] = exact
    return y


def _null_space(K):
    """Vectors, as columns, whose product with K is 0 to rounding."""
    _, values, vectors = np.linalg.svd(K, full_matrices=True)
    rank = int(np.sum(values > _PRECISION * np.max(values, initial=0)))
    return vectors[rank:].T
