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
_CUTS = (1e-2, 1e-4, 1e-6, 1e-8, 0.0)
# Columns are dependent, and sums are 0, to this relative precision; amounts are 0 to that one.
_PRECISION, _TINY = 1e-9, 1e-12
# How many units of rounding a sum may be off.
_ROUNDING = 1e3
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


def find_contradiction(program: Program, eps: float = 2e-16) -> Contradiction | None:
    """Rows that contradict each other, as few as possible, or ``None`` if none are proved to.

    Args:
        program: the program.
        eps: relative precision of the data: what is left of a sum of rows is compared with it.
    """
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
        found = _farkas(M[kept], r[kept], eps)
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
    for cut in _CUTS:
        moved = np.flatnonzero(np.abs(d) > cut * np.max(np.abs(d), initial=0))
        signs, room = np.sign(d[moved]), -rows @ d
        free = room > cut
        # Amounts along signed variables, and the room that they leave, which they determine.
        still = np.vstack([curvature, rows[~free], slope[None]])[:, moved] * signs
        null = _null_space(still)
        null = np.vstack([null, -(rows[free][:, moved] * signs) @ null])
        amounts = _shortened(np.concatenate([np.abs(d[moved]), room[free]]), null)
        tight = np.flatnonzero(~free)
        tight = np.concatenate([tight, np.flatnonzero(free)[amounts[moved.size :] == 0]])
        used = np.flatnonzero(amounts[: moved.size] > 0)
        K = np.vstack([curvature, rows[tight], slope[None]])[:, moved[used]] * signs[used]
        exact = _amounts(K, np.append(np.zeros(len(K) - 1), -1.0))
        ray = np.zeros_like(q)
        ray[moved[used]] = signs[used] * exact
        leaves = np.max(np.append(rows @ ray, np.abs(curvature @ ray)), initial=0)
        if np.any(exact) and leaves <= _PRECISION * -(slope @ ray):
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


def _farkas(M, r, eps):
    """``(support, y, irreducible)`` with ``y > 0``, ``M[support].T y = 0`` and ``r[support] @ y < 0``, or ``None``."""
    if not r.size:
        return None
    r = r / _sizes(r)
    y = _linear_program(r, A_eq=M.T, b_eq=np.zeros(M.shape[1]), bounds=(0, 1))
    for cut in _CUTS:
        support = np.flatnonzero(y > cut * np.max(y, initial=0))
        K = np.vstack([M[support].T, r[support]])
        support = support[_shortened(y[support], _null_space(K)) > 0]
        amounts = _amounts(np.vstack([M[support].T, r[support]]), np.append(np.zeros(M.shape[1]), -1.0))
        if np.all(amounts >= 0) and _proves(M[support], r[support], amounts, eps):
            return support[amounts > 0], amounts[amounts > 0], True
    support = np.flatnonzero(y > 0)
    return (support, y[support], False) if _proves(M[support], r[support], y[support], eps) else None


def _proves(M, r, y, eps) -> bool:
    """Whether ``y`` proves that ``M x <= r`` has no solution, for entries that are known to a relative precision."""
    none_left = np.abs(M.T @ y) <= _ROUNDING * eps * (np.abs(M).T @ y)
    return bool(np.all(none_left) and r @ y < -_ROUNDING * np.finfo(float).eps * (np.abs(r) @ y))


def _linear_program(costs, **data):
    """The solution of a linear program that has one, in SciPy's notation; 0 if it was not found."""
    # Not ours: what explains a run should not fail where the run did, and compiling would take seconds.
    from scipy.optimize import linprog

    tolerances = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    x = linprog(costs, **data, options=tolerances).x
    return np.zeros_like(costs) if x is None else x


def _shortened(y, null):
    """The non-negative ``y`` moved in the null space of a matrix until the columns that it needs are independent.

    Args:
        y: amounts of the columns.
        null: vectors, as columns, that span the null space.
    """
    y = y.copy()
    for _ in range(null.shape[1]):
        d = null[:, 0] if np.max(null[:, 0]) >= np.max(-null[:, 0]) else -null[:, 0]
        # As far along d as no entry becomes negative. There one is 0, and the other directions are to leave it there.
        ratios = np.where(d > _PRECISION * np.max(d), y / np.where(d > 0, d, 1), np.inf)
        first = int(np.argmin(ratios))
        y = y - ratios[first] * d
        y[first] = 0
        y[y <= _TINY * np.max(y, initial=0)] = 0
        null = null[:, 1:] - np.outer(d, null[first, 1:] / d[first])
        null[first] = 0
        null = null / _sizes(null, axis=0)
    return y


def _amounts(K, target):
    """The least-squares solution of ``K y = target``, with zeros for what is 0 to rounding."""
    sizes = _sizes(K, axis=1)
    K, target = K / sizes, target / sizes[:, 0]
    y, used = np.zeros(K.shape[1]), np.arange(K.shape[1])
    for _ in range(2):
        y[:] = 0
        y[used] = np.linalg.lstsq(K[:, used], target, rcond=None)[0]
        used = np.flatnonzero(np.abs(y) > _TINY * np.max(np.abs(y), initial=0))
    return y


def _null_space(K):
    """Vectors, as columns, whose product with K is 0 to rounding."""
    _, values, vectors = np.linalg.svd(K / _sizes(K, axis=1), full_matrices=True)
    rank = int(np.sum(values > _PRECISION * np.max(values, initial=0)))
    return vectors[rank:].T
