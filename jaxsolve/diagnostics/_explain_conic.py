"""Why a run for a conic program ended as it did."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._status import Status
from jaxsolve.diagnostics._explanation import ConeRow, ConicExplanation, ResidualRow, residual_row
from jaxsolve.solvers.conic import Cones, ConicSolution
from jaxsolve.solvers.conic._newton_step import cone_center

__all__ = ["ConicCase", "explain_conic"]

# To what part of the largest multiplier or entry of a certificate others count as 0.
_TINY = 1e-7
_LEAST = float(np.finfo(np.float64).tiny)


@dataclasses.dataclass(frozen=True)
class ConicCase:
    """A conic program, and what a run for it returned, in NumPy and float64.

    Attributes:
        cones: those of the rows.
        program: ``(P, c, A, b)``.
        params: the point.
        certificate: what proves that there is none.
        penalty: what the violations of an elastic program cost.
        variables: names of the variables.
        status: how the run ended.
        error: of the point.
        tol: absolute and relative tolerance.
        eps: relative precision of the data.
    """

    cones: Cones
    program: tuple[np.ndarray, ...]
    params: ConicSolution
    certificate: ConicSolution
    penalty: float
    variables: list[str]
    status: Status
    error: float
    tol: tuple[float, float]
    eps: float


def explain_conic(case: ConicCase) -> ConicExplanation:
    """The table of a conic program."""
    rows, residuals = _cone_rows(case), _residual_rows(case)
    kind = "solved" if case.status is Status.CONVERGED else "failed"
    contradiction, shares, direction, notes = {}, {}, {}, []
    _, c, A, b = case.program
    if case.status is Status.PRIMAL_INFEASIBLE:
        kind, y = "infeasible", case.certificate.y
        prices, least = _along_center(case.cones, y), _TINY * np.max(np.abs(y), initial=0)
        for (name, part), price in zip(_parts(case.cones).items(), prices, strict=True):
            if np.max(np.abs(y[part]), initial=0) > least:
                contradiction[name], shares[name] = price, float(b[part] @ y[part])
        left = np.max(np.abs(A.T @ y), initial=0) / max(np.max(np.abs(A) * np.abs(y)[:, None], initial=0), _LEAST)
        notes.append(f"Their sum reads 0 <= {b @ y:.4g}; A^T y is 0 up to {left:.1g} of its largest term.")
    elif case.status is Status.DUAL_INFEASIBLE:
        kind, ray = "unbounded", case.certificate.x / np.max(np.abs(case.certificate.x))
        direction = {name: float(d) for name, d in zip(case.variables, ray, strict=True) if abs(d) > _TINY}
        notes.append(f"The objective falls by {-c @ ray:.4g} for each step along it.")
    if kind == "failed":
        if not all(np.all(np.isfinite(part)) for part in case.program):
            notes.append("NaN or infinite entries in the data.")
        else:
            worst = max(residuals, key=lambda row: row.relative)
            where = f", at {worst.where}" if worst.where else ""
            notes.append(f"Relative to its terms the {worst.name} residual is the largest{where}.")
        notes.append(f"The error is {case.error:.2g}, tol is {case.tol[0]:.2g}.")
    return ConicExplanation(case.status, kind, rows, contradiction, False, direction, residuals, notes, shares)


# ---- Cone by cone --------------------------------------------------------------------------------------------------


def _parts(cones: Cones) -> dict[str, slice]:
    """The rows of each cone, by its name."""
    parts, start = {}, 0
    for kind, sizes in cones.sizes.items():
        for i, size in enumerate(sizes):
            parts[f"{kind}[{i}]"] = slice(start, start + size)
            start += size
    return parts


def _center(cones: Cones) -> np.ndarray:
    return np.where(np.arange(cones.num_rows) < cones.zero, 1.0, np.asarray(cone_center(cones, jnp.result_type(float))))


def _along_center(cones: Cones, y: np.ndarray) -> list[float]:
    """The product of the multipliers of each cone with its center: what a weight of its violation has to exceed."""
    center = _center(cones)
    return [float(center[part] @ y[part]) for part in _parts(cones).values()]


def _depth(cones: Cones, s: np.ndarray, *, dual: bool) -> list[float]:
    """How far each part of a vector may be moved against the center of its cone without leaving the cone."""
    project = jax.jit(cones.project_dual if dual else cones.project)
    center, parts = _center(cones), list(_parts(cones).values())
    of_rows = np.repeat(np.arange(len(parts)), [part.stop - part.start for part in parts])
    size = np.array([np.max(np.abs(s[part]), initial=0) for part in parts])
    slack = 4 * np.finfo(jnp.result_type(float)).eps

    def inside(t):
        v = s - t[of_rows] * center
        off = np.abs(np.asarray(project(v), np.float64) - v)
        room = slack * (size + np.abs(t))
        return np.array([np.max(off[part], initial=0) <= room[i] for i, part in enumerate(parts)])

    low, high = -20 * size, 20 * size
    for _ in range(60):
        middle = (low + high) / 2
        good = inside(middle)
        low, high = np.where(good, middle, low), np.where(good, high, middle)
    free = np.arange(len(parts)) < cones.zero
    first = np.array([s[part][0] for part in parts]) if parts else np.zeros(0)
    single = free | (np.array([part.stop - part.start for part in parts], int) == 1)
    return np.where(single, np.where(free, -np.abs(first), first), low).tolist()


def _cone_rows(case: ConicCase) -> list[ConeRow]:
    (P, c, A, b), (x, y, _) = case.program, case.params
    parts, slacks = _parts(case.cones), b - A @ x
    if not all(np.all(np.isfinite(part)) for part in (slacks, y)):
        nan = float("nan")
        return [ConeRow(name, _range(part), nan, nan, "unknown") for name, part in parts.items()]
    depths, prices = _depth(case.cones, slacks, dual=False), _along_center(case.cones, y)
    sizes = np.maximum(np.max(np.abs(A * x), axis=1, initial=0), np.abs(b))
    gradient = np.maximum(np.max(np.abs(P * x), axis=1, initial=0), np.abs(c))
    gradient = np.maximum(gradient, np.max(np.abs(y)[:, None] * np.abs(A), axis=0, initial=0))
    pushes = np.max(np.abs(y)[:, None] * np.abs(A) / np.where(gradient > 0, gradient, 1), axis=1, initial=0)
    tiny, (tol, rtol) = np.sqrt(case.eps), case.tol
    rows = []
    for (name, part), depth, price in zip(parts.items(), depths, prices, strict=True):
        size, push = np.max(sizes[part], initial=0), np.max(pushes[part], initial=0)
        room, length = depth / size if size > 0 else 0.0, np.max(np.abs(slacks[part]), initial=0)
        if -depth > tol + rtol * size:
            state = "violated"
        elif name.startswith("zero"):
            state = "equation"
        elif max(room, push) <= tiny:
            state = "weakly active"
        elif room >= push:
            state = "inactive"
        else:
            state = "at the apex" if length <= tiny * size and part.stop - part.start > 1 else "active"
        depth = abs(depth) if state == "equation" else depth
        rows.append(ConeRow(name, _range(part), float(depth) + 0.0, price + 0.0, state))
    return rows


def _range(part: slice) -> str:
    single = part.stop - part.start == 1
    return f"b[{part.start}]" if single else f"b[{part.start}:{part.stop}]"


def _residual_rows(case: ConicCase) -> list[ResidualRow]:
    (P, c, A, b), (x, y, s), parts = case.program, case.params, _parts(case.cones)
    names = [name for name, part in parts.items() for _ in range(part.start, part.stop)]
    quadratic, linear, dual = x @ P @ x, c @ x, b @ y
    gap = np.array([quadratic + linear + case.penalty + dual])
    return [
        # With a price the slacks are those of the rows that were moved.
        residual_row("primal", np.zeros(1) if case.penalty else A @ x + s - b, (A * x, b, s), names or [""]),
        residual_row("dual", P @ x + c + A.T @ y, (P * x, c, A.T * y), case.variables),
        residual_row("gap", gap, (quadratic, linear, case.penalty, dual), [""]),
    ]
