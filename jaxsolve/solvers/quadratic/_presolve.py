r"""What can be said of a quadratic program before it is solved, and taken out of it.

For :math:`\min \tfrac12 x^T Q x + c^T x` subject to :math:`A x = b,\ G x \le h,\ l \le x \le u`:

====================================  ===============================================================================
what is found                         what becomes of it
====================================  ===============================================================================
a row without entries                 dropped where it holds
a row with one entry                  a bound of its variable
a variable with :math:`l_j = u_j`     its value enters the right-hand sides and the linear term
rows in proportion to each other      the tightest one is kept
====================================  ===============================================================================

A row that contradicts another one is left to the solver. Multipliers of what was taken out follow from stationarity,
in the reverse order: the row of which a bound was made has the multiplier of that bound, divided by its entry.

Where values are not known, as under ``jit`` and ``vmap``, shapes cannot change. There :func:`masked` takes bounds out
instead: a side of a row that says no more than others becomes infinite. Bounds are rows too, so the same rule holds for
rows with one entry. Multipliers of what was taken out are 0, and so are derivatives with respect to it.

Reference:
    Andersen and Andersen (1995), "Presolving in linear programming".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._compat import is_concrete, is_sparse
from jaxsolve.solvers.quadratic._problem import QuadraticProgram
from jaxsolve.solvers.quadratic._scaling import equilibrate, scale

__all__ = ["Arrays", "Reduced", "as_arrays", "masked", "reduced", "restored"]

# What is smaller than its terms by this factor is 0.
_ROUNDING = 1e-13
_MAX_PASSES = 20


class Arrays(NamedTuple):
    """A program in NumPy's arrays, in float64; matrices without rows where there are no constraints."""

    Q: np.ndarray
    c: np.ndarray
    A: np.ndarray
    b: np.ndarray
    G: np.ndarray
    h: np.ndarray
    l: np.ndarray  # noqa: E741
    u: np.ndarray


def as_arrays(Q: Any, c: Any, A: Any, b: Any, G: Any, h: Any, l: Any, u: Any) -> Arrays | None:  # noqa: E741
    """The program in NumPy, or ``None`` where data have no values here, are no dense arrays, or do not fit."""
    given = (Q, c, A, b, G, h, l, u)
    if any(callable(part) or is_sparse(part) for part in given) or not all(map(is_concrete, jax.tree.leaves(given))):
        return None
    try:
        c = np.asarray(c, np.float64)
        n = c.size
        Q, A, G = (np.zeros((k, n)) if M is None else np.asarray(M, np.float64) for M, k in ((Q, n), (A, 0), (G, 0)))
        b, h = (np.zeros(0) if side is None else np.asarray(side, np.float64) for side in (b, h))
        lower, upper = -np.inf if l is None else l, np.inf if u is None else u
        lower, upper = (np.array(np.broadcast_to(np.asarray(bound, np.float64), (n,))) for bound in (lower, upper))
    except (TypeError, ValueError):
        return None  # found, and named, where data are read
    arrays = Arrays(0.5 * (Q + Q.T) if Q.shape == (n, n) else Q, c, A, b, G, h, lower, upper)
    shapes = [(n, n), (n,), (len(b), n), (A.shape[0],), (len(h), n), (G.shape[0],), (n,), (n,)]
    fit = [part.shape for part in arrays] == shapes
    sound = all(np.all(np.isfinite(part)) for part in arrays[:5]) and np.all(h > -np.inf) and np.all(lower <= upper)
    return arrays if fit and sound and np.all(lower < np.inf) and np.all(upper > -np.inf) else None


class Bound(NamedTuple):
    """A row that was turned into a bound: which row of ``[A; G]``, which variable, and its entry."""

    row: int
    variable: int
    entry: float


class Reduced(NamedTuple):
    """A program from which something was taken out.

    Attributes:
        given: the program as it was.
        program: what is left of it.
        values: of the variables that are fixed, 0 for the others; shape ``(n,)``.
        free: indices of the variables that are left.
        rows: indices of the rows of ``[A; G]`` that are left.
        bounds: rows that became bounds, in the order in which they did.
    """

    given: Arrays
    program: Arrays
    values: np.ndarray
    free: np.ndarray
    rows: np.ndarray
    bounds: list[Bound]

    @property
    def removed(self) -> int:
        """How many rows and variables were taken out."""
        return self.given.c.size - self.free.size + len(self.given.b) + len(self.given.h) - self.rows.size


def reduced(given: Arrays) -> Reduced:
    """The program without what need not be solved for."""
    Q, c, A, b, G, h, lower, upper = given
    M, side, equal = np.vstack([A, G]), np.concatenate([b, h]), np.arange(len(b) + len(h)) < len(b)
    lower, upper, kept, bounds = lower.copy(), upper.copy(), side < np.inf, []
    for _ in range(_MAX_PASSES):
        found = len(bounds), np.sum(kept)
        for i in np.flatnonzero(kept).tolist():
            kept[i] = not _bound_of(i, M[i], side[i], equal[i], lower, upper, bounds)
        if found == (len(bounds), np.sum(kept)):
            break
    fixed = lower == upper
    if np.all(fixed):
        fixed[-1] = False  # a solver needs a variable
    values, free = np.where(fixed, np.where(fixed, lower, 0), 0), np.flatnonzero(~fixed)
    rest = side - M @ values
    _drop_proportional(M[:, free], rest, equal, kept)
    rows = np.flatnonzero(kept)
    eq, ineq = rows[equal[rows]], rows[~equal[rows]]
    program = Arrays(
        Q[np.ix_(free, free)],
        c[free] + (Q @ values)[free],
        M[np.ix_(eq, free)],
        rest[eq],
        M[np.ix_(ineq, free)],
        rest[ineq],
        lower[free],
        upper[free],
    )
    return Reduced(given, program, values, free, rows, bounds)


def _bound_of(i, row, side, is_equality, lower, upper, bounds) -> bool:
    """Whether a row says no more than the bounds, which it may make tighter, do."""
    fixed = lower == upper
    entries = np.flatnonzero((row != 0) & ~fixed)
    if entries.size > 1:
        return False
    terms = row[fixed] * lower[fixed]
    left, size = side - np.sum(terms), max(abs(side), np.max(np.abs(terms), initial=0))
    if not entries.size:
        return abs(left) <= _ROUNDING * size if is_equality else left >= -_ROUNDING * size
    j = int(entries[0])
    bound = left / row[j]
    low = bound if is_equality or row[j] < 0 else -np.inf
    high = bound if is_equality or row[j] > 0 else np.inf
    low, high = max(low, lower[j]), min(high, upper[j])
    if low > high or not np.isfinite(bound):
        return False
    if low > lower[j] or high < upper[j] or is_equality:
        bounds.append(Bound(int(i), j, float(row[j])))
        lower[j], upper[j] = low, high
    return True


def _drop_proportional(M, side, equal, kept):
    """Of rows in proportion to each other, keep the tightest."""
    groups: dict[bytes, int] = {}
    for i in np.flatnonzero(kept).tolist():
        largest = int(np.argmax(np.abs(M[i]))) if M.shape[1] else 0
        size = M[i, largest] if M.shape[1] else 0.0
        if size == 0:
            continue
        # An equality has no direction; an inequality has.
        size = size if equal[i] else abs(size)
        unit, bound = np.round(M[i] / size, 14) + 0.0, side[i] / size
        key = bytes([int(equal[i])]) + unit.tobytes()
        first = groups.setdefault(key, i)
        if first == i:
            continue
        of_first = M[first, largest] if equal[first] else abs(M[first, largest])
        if np.max(np.abs(M[i] / size - M[first] / of_first)) > _ROUNDING:
            continue
        other = side[first] / of_first
        if not equal[i]:
            worse = i if bound >= other else first
            kept[worse], groups[key] = False, first if worse == i else i
        elif abs(bound - other) <= _ROUNDING * max(abs(bound), abs(other)):
            kept[i] = False


def restored(reduced: Reduced, x: Any, dual_eq: Any, dual_ineq: Any, dual_bounds: Any) -> tuple[np.ndarray, ...]:
    """The solution of the program as it was given, from that of what was left of it.

    Returns:
        ``x``, and the multipliers of the equalities, inequalities and bounds.
    """
    (Q, c, A, b, G, _, _, _), _, values, free, rows, bounds = reduced
    M, full, z = np.vstack([A, G]), values.copy(), np.zeros_like(values)
    full[free], z[free] = np.asarray(x), np.asarray(dual_bounds)
    y = np.zeros(len(M))
    y[rows] = np.concatenate([np.asarray(dual_eq), np.asarray(dual_ineq)])
    fixed = np.setdiff1d(np.arange(values.size), free)
    z[fixed] = -(Q @ full + c + y @ M)[fixed]
    for row, j, entry in reversed(bounds):
        push = z[j] / entry
        if row >= len(b) and push <= 0:
            continue  # the bound of the other side pushes, or none does
        y[row] = push
        # The other entries of the row are those of variables that were fixed before.
        z[fixed] -= push * M[row, fixed]
        z[j] = 0
    return full, y[: len(b)], y[len(b) :], z


# ---- Where shapes cannot change -----------------------------------------------------------------------------------

# So many products tell which rows are in proportion; and what rounding may do to them.
_PROBES, _ROUNDINGS = 4, 32


def masked(qp: QuadraticProgram) -> QuadraticProgram:
    """The program with infinite bounds in place of those that say no more than others do.

    These are the bounds of rows without entries, variables that are fixed counted as numbers; and of rows in proportion
    to each other all but the tightest, the first of those that are equally tight. Contradictions are left as they are.

    Args:
        qp: the program, with matrices given by their entries; its rows include the bounds of the variables.
    """
    # In units of their own: beside a variable with large entries in all rows, those of others would be rounding.
    scaled = scale(jax.tree.map(lax.stop_gradient, qp), equilibrate(qp))
    A, lower, upper = scaled.A, scaled.lower, scaled.upper
    rounding = _ROUNDINGS * jnp.finfo(lower.dtype).eps
    present, size = A.each(lambda a: (a != 0).astype(a.dtype)), A.each(jnp.abs)
    fixing = (present.matvec(jnp.ones_like(qp.q)) == 1) & (lower == upper)
    times = present.rmatvec(fixing.astype(lower.dtype))
    values = A.each(lambda a: jnp.where(a == 0, 0, 1 / jnp.where(a == 0, 1, a))).rmatvec(jnp.where(fixing, lower, 0))
    values = values / jnp.maximum(times, 1)
    # A row that fixes a variable stays what it is; in all others the variable is a number.
    free = jnp.where(times > 0, 0, 1).astype(lower.dtype)
    known = jnp.where(fixing, 0, A.matvec(values))
    terms = jnp.where(fixing, 0, size.matvec(jnp.abs(values)))
    low, high = lower - known, upper - known
    empty = ~fixing & (present.matvec(free) == 0)

    index = jnp.arange(1, qp.q.size + 1, dtype=lower.dtype)[:, None]
    probes = jnp.cos(index**2 * jnp.arange(1, _PROBES + 1, dtype=lower.dtype)[None])
    products = jnp.where(fixing[:, None], A.matvec(probes), A.matvec(free[:, None] * probes))
    unit = products[:, 0]
    usable = ~empty & (unit != 0) & jnp.isfinite(unit)
    unit = jnp.where(usable, unit, 1)
    ratios = products[:, 1:] / unit[:, None]

    # Rows in proportion have the same ratios, and are neighbors if rows are sorted by these.
    order = jnp.lexsort((ratios[:, 0], ~usable))
    before, after = ratios[order[:-1]], ratios[order[1:]]
    sums = jnp.where(fixing, size.matvec(jnp.ones_like(free)), size.matvec(free)) / jnp.abs(unit)
    loose = rounding * jnp.maximum(sums[order[:-1]], sums[order[1:]])[:, None]
    close = jnp.abs(after - before) <= loose * (1 + jnp.maximum(jnp.abs(after), jnp.abs(before)))
    same = jnp.all(close, axis=1) & usable[order[1:]]
    group = jnp.cumsum(jnp.concatenate([jnp.ones_like(same, shape=min(1, order.size)), ~same])) - 1
    group = jnp.zeros_like(group).at[order].set(group)

    def of_group(of_each, reduce):
        found = getattr(jax.ops, f"segment_{reduce}")(of_each, group, num_segments=group.size)
        return found[group]

    ends = jnp.where(unit > 0, low, high) / unit, jnp.where(unit > 0, high, low) / unit
    index, none = jnp.arange(group.size), group.size
    equality = lower == upper
    first_equality = of_group(jnp.where(equality, index, none), "min")
    level = ends[0][jnp.minimum(first_equality, none - 1)]
    has_level = first_equality < none
    tightest = [of_group(ends[0], "max"), of_group(ends[1], "min")]
    tightest = [jnp.where(has_level, level, end) for end in tightest]
    slack = rounding * (jnp.maximum(jnp.abs(tightest[0]), jnp.abs(tightest[1])) + terms / jnp.abs(unit))
    slack = jnp.where(jnp.isfinite(slack), slack, 0)
    # With an equality all other rows must agree; without one lower bounds must stay below upper ones.
    agrees = (ends[0] <= tightest[1] + slack) & (ends[1] >= tightest[0] - slack)
    consistent = of_group(agrees.astype(jnp.int32), "min") == 1

    def kept(end, of_tightest):
        first = of_group(jnp.where(end == of_tightest, index, none), "min")
        return jnp.where(has_level, first_equality, first) == index

    keeps = [kept(end, of_tightest) for end, of_tightest in zip(ends, tightest, strict=True)]
    keep_low, keep_high = jnp.where(unit > 0, *keeps), jnp.where(unit > 0, *keeps[::-1])
    says_nothing = empty & (low <= rounding * jnp.maximum(jnp.abs(lower), terms))
    says_nothing &= high >= -rounding * jnp.maximum(jnp.abs(upper), terms)
    drop_low, drop_high = (says_nothing | (usable & consistent & ~keep) for keep in (keep_low, keep_high))
    return qp._replace(
        lower=jnp.where(drop_low, -jnp.inf, qp.lower),
        upper=jnp.where(drop_high, jnp.inf, qp.upper),
    )
