"""The result of an explanation: rows, residuals, proofs, and a table."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from jaxsolve._status import Status

__all__ = ["ConeRow", "ConicExplanation", "ConstraintRow", "Explanation", "ResidualRow", "residual_row"]

# A table has so many lines at most.
_LINES = 20

_HEADLINES = {
    "infeasible": "These rows contradict each other; their sum with these multipliers is a contradiction:",
    "unbounded": "Along this direction the objective decreases without bound, and the constraints hold:",
    "nonconvex": "Along this direction the objective has negative curvature:",
}
_HEADERS = {
    "solved": ("constraint", "lower", "value", "upper", "slack", "multiplier", ""),
    "infeasible": ("constraint", "", "bound", "multiplier"),
    "unbounded": ("variable", "goes to", "direction"),
    "nonconvex": ("variable", "direction"),
    "failed": ("residual", "largest", "relative", "where"),
}


@dataclasses.dataclass(frozen=True)
class ConstraintRow:
    """One row of the constraints at the point that was returned.

    Attributes:
        name: the matrix with the index of the row, ``"G[3]"``; if rows are pytrees the path, ``"G['power'][2]"``; for a
            bound the variable, ``"x[2]"``.
        lower: its lower bound.
        value: the row at the point.
        upper: its upper bound.
        slack: distance from the nearer bound, negative beyond it.
        multiplier: positive at the upper bound, negative at the lower one.
        state: ``"equality"``, ``"at lower"``, ``"at upper"``, ``"weakly active"`` (at a bound, with multiplier 0),
            ``"inactive"`` or ``"violated"``.
    """

    name: str
    lower: float
    value: float
    upper: float
    slack: float
    multiplier: float
    state: str


@dataclasses.dataclass(frozen=True)
class ResidualRow:
    """One of the residuals that decide whether a run has converged.

    Attributes:
        name: ``"primal"`` (violation of the constraints), ``"dual"`` (gradient of the Lagrangian) or ``"gap"``
            (difference between the objectives of the problem and of its dual).
        value: the largest entry, in the units of the data.
        relative: the same relative to the largest term of the sums that it comes from.
        where: the row or variable where it is largest; empty for the gap.
    """

    name: str
    value: float
    relative: float
    where: str


@dataclasses.dataclass(frozen=True, repr=False)
class Explanation:
    """The result of :func:`explain`. It is printed as a table, also in a notebook.

    Attributes:
        status: how the run ended.
        kind: ``"solved"``; with a proof ``"infeasible"``, ``"unbounded"`` or ``"nonconvex"``; else ``"failed"``.
        rows: all rows of the constraints at the point that was returned.
        contradiction: multipliers of rows that contradict each other, by their names. A positive one stands for
            ``row <= upper``, a negative one for ``row >= lower``. In the sum of the rows with these multipliers no
            variable is left, and the sum of the bounds is negative.
        irreducible: whether the others can be satisfied if any one of these rows is left out.
        direction: entries of a direction along which the objective is unbounded below, or has negative curvature, by
            the names of the variables; entries that are 0 are left out.
        residuals: three :class:`ResidualRow`.
        notes: sentences.
    """

    status: Status
    kind: str
    rows: list[ConstraintRow]
    contradiction: dict[str, float]
    irreducible: bool
    direction: dict[str, float]
    residuals: list[ResidualRow]
    notes: list[str]

    _headers: ClassVar[dict[str, tuple[str, ...]]] = _HEADERS
    _headlines: ClassVar[dict[str, str]] = _HEADLINES

    @property
    def active(self) -> list[ConstraintRow]:
        """The rows that hold with equality, or are violated."""
        return [row for row in self.rows if row.state != "inactive"]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain Python numbers, strings, lists and dictionaries."""
        return {**dataclasses.asdict(self), "status": self.status.name}

    def _lines(self) -> list[tuple[str, ...]]:
        """The lines of the table, with numbers as texts."""
        if self.kind == "infeasible":
            rows = {row.name: row for row in self.rows}
            return [_inequality(rows[name], y) for name, y in self.contradiction.items()]
        if self.kind == "unbounded":
            return [(name, "+inf" if d > 0 else "-inf", _number(d)) for name, d in self.direction.items()]
        if self.kind == "nonconvex":
            return [(name, _number(d)) for name, d in self.direction.items()]
        if self.kind == "failed":
            return [(row.name, _number(row.value), _number(row.relative), row.where) for row in self.residuals]
        rows = self.active
        if len(rows) > _LINES:
            rows = sorted(rows, key=lambda row: -abs(row.multiplier))
        return [tuple(_texts(dataclasses.astuple(row))) for row in rows]

    def _parts(self) -> tuple[list[str], list[tuple[str, ...]], list[str]]:
        """Sentences above the table, its lines with the header, and sentences below."""
        lines = self._lines()
        above = [f"{self.status.name}: {self.status.sentence}"]
        above += [self._headlines[self.kind]] if self.kind in self._headlines else []
        below = [f"and {len(lines) - _LINES} more"] if len(lines) > _LINES else []
        if self.kind == "solved" and self.rows:
            slack = len(self.rows) - len(self.active)
            below.append(f"{len(self.active)} of {len(self.rows)} rows are active; {slack} have slack.")
        return above, [self._headers[self.kind], *lines[:_LINES]] if lines else [], [*below, *self.notes]

    def __repr__(self) -> str:
        above, lines, below = self._parts()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = [
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
            for row in lines
        ]
        return "\n".join([*above, *(line.rstrip() for line in table), *below])

    def _repr_html_(self) -> str:
        above, lines, below = self._parts()
        head, *body = lines or [()]
        cells = ["".join(f"<td>{html.escape(cell)}</td>" for cell in line) for line in body]
        names = "".join(f"<th>{html.escape(name)}</th>" for name in head)
        table = f"<table><thead><tr>{names}</tr></thead><tbody><tr>{'</tr><tr>'.join(cells)}</tr></tbody></table>"
        before, behind = (f"<p>{'<br>'.join(map(html.escape, texts))}</p>" if texts else "" for texts in (above, below))
        return before + (table if lines else "") + behind


@dataclasses.dataclass(frozen=True)
class ConeRow:
    """One equation, inequality or cone at the point that was returned.

    Attributes:
        name: its kind and its number among those of this kind, ``"soc[0]"``.
        rows: its rows, ``"b[2:5]"``.
        slack: how far the slacks ``b - A x`` may be moved before they leave the cone, negative outside of it, along a
            vector: 1 for an inequality, the unit of a second-order cone (so it is the first entry minus the norm of the
            others) or of a semidefinite cone (so it is the least eigenvalue), the center of an exponential or power
            cone. For an equation it is the violation.
        multiplier: the inner product of the multipliers and that vector. With a larger weight the penalty of an elastic
            program is exact.
        state: ``"equation"``, ``"active"``, ``"at the apex"`` (all slacks are 0), ``"weakly active"`` (on the boundary,
            with multiplier 0), ``"inactive"``, ``"violated"``, or ``"unknown"`` if the point is not finite.
    """

    name: str
    rows: str
    slack: float
    multiplier: float
    state: str


@dataclasses.dataclass(frozen=True, repr=False)
class ConicExplanation(Explanation):
    """The result of :func:`explain` for a conic program: an :class:`Explanation` whose rows are :class:`ConeRow`.

    Attributes:
        shares: the part of each cone of a contradiction in ``b^T y``.
    """

    rows: list[ConeRow]  # type: ignore[assignment]  # rows of another kind
    shares: dict[str, float] = dataclasses.field(default_factory=dict)

    _headers = {
        **_HEADERS,
        "solved": ("constraint", "rows", "slack", "multiplier", ""),
        "infeasible": ("constraint", "rows", "multiplier", "part of b'y"),
    }
    _headlines = {
        **_HEADLINES,
        "infeasible": "These cones contradict each other; their sum with these multipliers is a contradiction:",
    }

    def _lines(self) -> list[tuple[str, ...]]:
        if self.kind != "infeasible":
            return super()._lines()
        rows = {row.name: row.rows for row in self.rows}
        return [(name, rows[name], *map(_number, (y, self.shares[name]))) for name, y in self.contradiction.items()]


def residual_row(name: str, entries: np.ndarray, terms: tuple, places: list[str]) -> ResidualRow:
    """The largest of some residuals, beside the terms that it is the sum of."""
    largest = float(np.max(np.abs(entries), initial=0))
    size = max(float(np.max(np.abs(term), initial=0)) for term in terms)
    where = places[int(np.argmax(np.abs(entries)))] if largest > 0 else ""
    return ResidualRow(name, largest, largest / size if size > 0 else 0.0, where)


def _inequality(row: ConstraintRow, multiplier: float) -> tuple[str, ...]:
    """A row of a contradiction as the side that takes part in it."""
    if row.lower == row.upper:
        return row.name, "=", _number(row.upper), _number(multiplier)
    side, bound = ("<=", row.upper) if multiplier > 0 else (">=", row.lower)
    return row.name, side, _number(bound), _number(multiplier)


def _texts(entries: Iterable[Any]) -> Iterable[str]:
    return (entry if isinstance(entry, str) else _number(entry) for entry in entries)


def _number(x: float) -> str:
    return f"{x:.4g}"
