"""The result of a comparison of gradients: rows, a table, a plot."""

from __future__ import annotations

import dataclasses
import html
import math
from typing import Any

import numpy as np

from jaxsolve.base._report import pyplot

__all__ = ["GradientComparison", "GradientRow"]

_HEADER = ("method", "iterations", "error", "residual", "time", "compile", "memory")


@dataclasses.dataclass(frozen=True)
class GradientRow:
    """One way to compute a gradient.

    Attributes:
        method: its name.
        iterations: bound on the inner iterations, or ``None`` if the solver has none.
        error: relative distance to the reference.
        residual: largest relative residual of the linear solves of the derivative; ``None`` if there is none.
        seconds: time of one run with its gradient, the best of a few; ``None`` if not measured.
        compile_seconds: time of tracing and compiling it.
        memory: temporary memory of the compiled program in bytes, if the backend reports it.
        gradient: the gradient, a list of arrays, one for each floating-point leaf of the data.
    """

    method: str
    iterations: int | None
    error: float
    residual: float | None
    seconds: float | None
    compile_seconds: float | None
    memory: int | None
    gradient: list


@dataclasses.dataclass(frozen=True, repr=False)
class GradientComparison:
    """The result of :func:`compare_gradients`. It is printed as a table, also in a notebook.

    Attributes:
        rows: one :class:`GradientRow` for each method and number of iterations.
        reference: the gradient to which errors are relative.
        uncertainty: relative uncertainty of finite differences, if these are the reference. Errors smaller than this
            have no meaning.
        skipped: the methods that do not apply, and why.
    """

    rows: list[GradientRow]
    reference: str
    uncertainty: float | None
    skipped: dict[str, str]

    def __getitem__(self, method: str) -> GradientRow:
        """The row of a method; the last one, if there are several numbers of iterations."""
        found = [row for row in self.rows if row.method == method]
        if not found:
            raise KeyError(f"no row {method!r}; there are {', '.join(dict.fromkeys(r.method for r in self.rows))}.")
        return found[-1]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain Python numbers, strings and lists."""
        rows = [dataclasses.asdict(row) for row in self.rows]
        for row in rows:
            row["gradient"] = [np.asarray(leaf).tolist() for leaf in row["gradient"]]
        return {**dataclasses.asdict(self), "rows": rows}

    def _notes(self) -> list[str]:
        known = "" if self.uncertainty is None else f", uncertain by {self.uncertainty:.0e}"
        notes = [f"error: relative to {self.reference}{known}"]
        if any(row.method.startswith("implicit") and not (row.residual or 0.0) < 1e-3 for row in self.rows):
            notes.append("a residual above 1e-3: that linear solve is inaccurate; take another one, or more iterations")
        return [*notes, *(f"{name}: not available, {why}" for name, why in self.skipped.items())]

    def __repr__(self) -> str:
        cells = [_HEADER, *map(_cells, self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(_HEADER))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
            for row in cells
        ]
        return "\n".join([*lines, *self._notes()])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in _HEADER)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(row)) + "</tr>" for row in self.rows
        )
        notes = "<br>".join(map(html.escape, self._notes()))
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{notes}</p>"

    def plot(self, ax: Any = None) -> Any:
        """Plot the errors: against the number of iterations if there are several, else as one bar per method.

        Args:
            ax: matplotlib axes to draw on, or ``None`` for a new figure.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed.
        """
        if ax is None:
            _, ax = pyplot().subplots(layout="tight")
        methods = list(dict.fromkeys(row.method for row in self.rows))
        if len({row.iterations for row in self.rows}) > 1:
            for method in methods:
                rows = [row for row in self.rows if row.method == method]
                ax.plot([row.iterations for row in rows], [row.error for row in rows], marker="o", label=method)
            ax.set(xlabel="iterations", ylabel="relative error", yscale="log")
            ax.legend()
        else:
            ax.barh(methods, [row.error for row in self.rows])
            ax.set(xlabel="relative error", xscale="log")
            ax.invert_yaxis()
        return ax


def _cells(row: GradientRow) -> tuple[str, ...]:
    return (
        row.method,
        _or_dash(row.iterations, str),
        f"{row.error:.1e}",
        _or_dash(row.residual, "{:.1e}".format),
        _or_dash(row.seconds, _seconds),
        _or_dash(row.compile_seconds, _seconds),
        _or_dash(row.memory, _bytes),
    )


def _or_dash(value: Any, show: Any) -> str:
    return "-" if value is None else show(value)


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def _bytes(value: int) -> str:
    power = min(int(math.log(max(value, 1), 1000)), 3)
    return f"{value / 1000**power:.3g} {('B', 'kB', 'MB', 'GB')[power]}"
