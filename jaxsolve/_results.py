"""Results as a person reads them: one line, a table in a notebook, and an error for a run that did not converge."""

from __future__ import annotations

import collections
import dataclasses
import html
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._compat import is_concrete
from jaxsolve._status import Status

__all__ = ["SolverError", "check", "is_named", "report_failure", "sentence_of_status", "show_as_line", "summary"]

_LONGEST = 120
_GOOD = (Status.CONVERGED.name, "ACCEPTED")
_COUNTS = {"num_fun_eval": "evaluations", "num_grad_eval": "gradients"}

#: From a result that may be good enough to one that is worth nothing.
_BY_HARM = (
    "CONVERGED STALLED LINESEARCH_FAILED MAXITER RUNNING INVALID_BRACKET LOCALLY_INFEASIBLE DUAL_INFEASIBLE "
    "PRIMAL_INFEASIBLE NONCONVEX DIVERGED NONFINITE"
).split()


# ---- One line, one table ------------------------------------------------------------------------------------------


def show_as_line(cls: type, solver: str | None = None, state_of: Callable[[Any], Any] = lambda state: state) -> None:
    """Give a class of records a repr of one line, and a table for notebooks, unless it has a repr of its own.

    An instance without arrays (with shapes, axes or shardings in place of the fields of a state) is shown as before.

    Args:
        cls: a named tuple or dataclass: states, results that have a state's fields, or what holds a state.
        solver: name of the solver, or of the function, whose states or results they are.
        state_of: ``state_of(instance)`` is the state to show.
    """
    if solver is not None:
        cls._shown_as = solver  # type: ignore[attr-defined]
    default: Any = cls.__repr__
    # Named tuples have their repr from `collections`; the one that `dataclass` makes wraps another.
    if default.__module__ != collections.__name__ and not (
        dataclasses.is_dataclass(cls) and hasattr(default, "__wrapped__")
    ):
        return

    def as_line(self):
        return summary(state_of(self)) or default(self)

    def as_table(self):
        rows = _rows(state_of(self))
        if rows is None:
            return None
        if hasattr(self, "params"):
            rows["params"] = ", ".join(map(_kind, jax.tree.leaves(self.params)[:4]))
        cells = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in rows.items())
        return f"<table><caption>{html.escape(_name(state_of(self)))}</caption>{cells}</table>"

    cls.__repr__, cls._repr_html_ = as_line, as_table  # type: ignore[attr-defined]


@property
def sentence_of_status(self: Any) -> str:
    """One sentence on how the run ended; reads a concrete status, so not under ``jit``."""
    return Status(int(self.status)).sentence


def is_named(cls: type) -> bool:
    """Whether a class of states prints the name of a solver."""
    return "_shown_as" in vars(cls)


def summary(state: Any, tol: Any = None, name: str | None = None) -> str | None:
    """A state in one line of at most 120 characters; ``None`` for an object that is not a state with arrays.

    Args:
        state: with ``iter_num`` and ``error``; ``status``, ``value`` and counts of evaluations are shown if it has
            them. Of a batch (a status with axes) the line says how many runs ended how, and the largest error.
        tol: what the error was compared with, if it is to be shown.
        name: of the solver; that of the class of the state without.
    """
    rows = _rows(state, tol)
    if rows is None:
        return None
    batch, status, iterations = (rows.pop(label, None) for label in ("batch", "status", "iterations"))
    iterations = iterations and _count(iterations, "iterations")
    if status and iterations and not batch:
        status, iterations = f"{status} {'in' if status in _GOOD else 'after'} {iterations}", None
    head = f"{name or _name(state)}: {f'batch of {batch}, ' if batch else ''}{status or ''}"
    parts = [iterations] if iterations else []
    parts += [_count(text, label) if label in _COUNTS.values() else f"{label} {text}" for label, text in rows.items()]
    line = head[:_LONGEST]
    for part in parts:
        longer = f"{line}{'' if line.endswith(' ') else ', '}{part}"
        line = longer if len(longer) <= _LONGEST else line
    return line


def _count(number, nouns: str) -> str:
    return f"{number} {nouns.removesuffix('s') if str(number) == '1' else nouns}"


def _name(state) -> str:
    return getattr(state, "_shown_as", None) or type(state).__name__.removesuffix("State")


def _holds(x, kind) -> bool:
    """Whether ``x`` is an array of a kind of numbers, with values or without."""
    return isinstance(x, (jax.Array, np.ndarray, np.generic)) and jnp.issubdtype(x.dtype, kind)


def _known(x, kind=jnp.number) -> np.ndarray | None:
    """The values of an array of numbers, or ``None`` without: a tracer, donated, or spread over processes."""
    if not _holds(x, kind) or not is_concrete(x):
        return None
    try:
        return np.asarray(x)
    except Exception:  # whatever the reason, a repr does not raise
        return None


def _rows(state, tol=None) -> dict[str, str] | None:
    """Labels and texts of what is shown of a state, or of a result under SciPy's names."""
    iter_num, error, status = (_first(state, *names) for names in (("iter_num", "nit"), ("error",), ("status",)))
    if not (_holds(iter_num, jnp.integer) and _holds(error, jnp.floating)):
        return None
    if status is not None and not _holds(status, jnp.integer):
        return None
    endings, iter_num, error = _endings(state), _known(iter_num), _known(error)
    if iter_num is None or error is None or (status is not None and endings is None):
        return {"status": "values not known here"}
    batch = np.shape(iter_num if endings is None else endings)
    most = "up to " if batch else ""
    rows = {} if endings is None else {"status": _counted(endings)}
    if batch:
        rows["batch"] = str(batch[0]) if len(batch) == 1 else str(batch)
    rows["iterations"] = f"{most}{np.max(iter_num, initial=0)}"
    value = _known(_first(state, "value", "fun"))
    if not batch and value is not None and value.ndim == 0:
        rows["value"] = f"{value.item():.4g}"
    rows["error"] = f"{most}{_largest(error):.2g}" + ("" if tol is None else f" (tol {_largest(tol):.2g})")
    if isinstance(method := getattr(state, "method", None), str):
        rows["method"] = method
    stepsize = _known(getattr(state, "best_stepsize", None))
    if not batch and stepsize is not None:
        rows["step size"] = f"{stepsize.item():.4g}"
    for field, label in _COUNTS.items():
        count = _known(getattr(state, field, None), jnp.integer)
        total = "0" if count is None else str(np.sum(count))
        if total not in ("0", rows.get("evaluations")):
            rows[label] = total
    return rows


def _largest(x) -> float:
    return float(np.max(np.asarray(x), initial=0).item())


def _first(state, *names):
    """The first attribute that there is."""
    return next((getattr(state, name) for name in names if hasattr(state, name)), None)


def _endings(state) -> np.ndarray | None:
    """How each run ended, in a word: the name of its status, or what a line search says; ``None`` if not known."""
    codes = _known(getattr(state, "status", None))
    if codes is not None:
        return np.vectorize(_name_of, otypes=["U32"])(codes)
    done, failed = (_known(getattr(state, name, None), jnp.bool_) for name in ("done", "failed"))
    if done is None or failed is None:
        return None
    return np.where(failed, "FAILED", np.where(done, "ACCEPTED", "RUNNING"))


def _counted(words: np.ndarray) -> str:
    """A word; of many how often each occurs."""
    if words.ndim == 0:
        return words.item()
    counts = zip(*np.unique(words, return_counts=True), strict=True)
    return ", ".join(f"{count} {word}" for word, count in sorted(counts, key=lambda pair: -pair[1]))


def _name_of(code) -> str:
    return Status(int(code)).name if int(code) in set(Status) else f"status {int(code)}"


def _kind(leaf) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "dtype") else type(leaf).__name__


# ---- Failures -----------------------------------------------------------------------------------------------------


class SolverError(RuntimeError):
    """Raised for a run that did not converge, by :func:`check`, or by ``run`` with ``on_failure="raise"``.

    Attributes:
        status: the :class:`Status` of the run; for a batch, that of the run with the worst status.
    """

    def __init__(self, status: Status, message: str):
        super().__init__(message)
        self.status = status


def check(state: Any, solver: Any = None) -> None:
    """Raise an error if a run did not converge; call it outside of compiled code.

    Args:
        state: the state that ``run`` returned, or an ``OptStep``. Its ``status`` is a scalar, or an array of any shape
            after ``vmap``.
        solver: the solver of the run. With it, the message also has the tolerance and the likely cause.

    Raises:
        SolverError: a run has a status other than ``CONVERGED``. The message has the sentence of the status, the error,
            the number of iterations and the dtype; for a batch, those of the run with the worst status.
        TypeError: ``state`` has no status, or a traced one.

    Example:
        >>> import jax.numpy as jnp, jaxsolve
        >>> step = jaxsolve.GradientDescent(lambda x: jnp.sum((x - 1.0) ** 2)).run(jnp.zeros(2))
        >>> jaxsolve.check(step.state)
    """
    state = getattr(state, "state", state)
    status = getattr(state, "status", None)
    if status is None:
        raise TypeError(f"check expects a solver state with a field `status`, got {type(state).__name__}.")
    if not is_concrete(status):
        raise TypeError("check reads concrete values: call it outside jit, vmap and grad.")
    codes = np.asarray(status)
    failed = codes != Status.CONVERGED
    if not failed.any():
        return
    worst = max(map(Status, np.unique(codes).tolist()), key=lambda status: _BY_HARM.index(status.name))
    index = tuple(np.argwhere(codes == worst)[0].tolist())
    where = ""
    if codes.ndim:
        which = ", ".join(map(str, index))
        where = f" ({int(failed.sum())} of {codes.size} runs failed; the worst of them, at index {which}:)"
    raise SolverError(
        worst, f"{worst.name}{where}: {worst.sentence}{_details(state, codes.shape, index, worst, solver)}"
    )


def _details(state, shape, index, status, solver) -> str:
    """The numbers of one run, and what they suggest; nothing for a state without error or iterations."""
    error, iter_num = _known(getattr(state, "error", None), jnp.floating), _known(getattr(state, "iter_num", None))
    if error is None or iter_num is None:
        return ""
    dtype, tol = error.dtype, _tol_of(solver)
    first = _known(getattr(state, "first_error", None), jnp.floating)
    # Errors of quadratic and conic programs have no unit, and are numbers around 1 at first.
    first = np.ones((), dtype) if first is None else first
    error, iter_num, first = (x[index] if x.shape == shape else np.max(x, initial=0) for x in (error, iter_num, first))
    against = "" if tol is None else f", tol {tol:.2g}"
    name = _name(state) if solver is None else type(solver).__name__
    ran = f" {name} ran {_count(iter_num, 'iterations')} in {dtype}: error {float(error):.2g}{against}."
    return ran + ("" if tol is None else _cause(status, float(error), tol, dtype, float(first)))


def _tol_of(solver) -> float | None:
    tol = getattr(solver, "tol", None)
    tol = np.asarray(tol) if isinstance(tol, (int, float)) else _known(tol)
    return None if tol is None or tol.ndim else float(tol.item())


def _cause(status, error, tol, dtype, first) -> str:
    eps = float(jnp.finfo(dtype).eps)
    if status not in (Status.MAXITER, Status.STALLED, Status.LINESEARCH_FAILED):
        return ""
    # The terms of an error are about as large as it is at first.
    first = first if math.isfinite(first) and first > 0 else 1.0
    if tol < 10 * eps * first:
        wider = "" if dtype == np.float64 else ", or compute in float64 (jax_enable_x64)"
        part = "" if first == 1 else f" of the first error, {first:.2g}"
        return f" The precision of {dtype} is {eps:.1e}{part}, and tol is near or below it: loosen tol{wider}."
    if status is not Status.MAXITER or not math.isfinite(error):
        return ""
    if error <= 100 * tol:
        return " It was close: raise maxiter."
    return " It was far from converged: maxiter may be too small, the problem badly scaled, or the step size too short."


def report_failure(solver: Any, state: Any) -> None:
    """Warn of a run that did not converge, or raise, as the option ``on_failure`` says; not of a traced one."""
    if solver.on_failure == "ignore" or not hasattr(state, "status") or not is_concrete(state.status):
        return
    try:
        check(state, solver)
    except SolverError as error:
        if solver.on_failure == "raise":
            raise
        warnings.warn(str(error), RuntimeWarning, stacklevel=4)
