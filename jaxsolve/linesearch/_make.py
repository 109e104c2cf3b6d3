"""Line searches by name, with the options that solvers have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxsolve.linesearch._base import LineSearch, check_choice
from jaxsolve.linesearch.backtracking import BacktrackingLineSearch
from jaxsolve.linesearch.hager_zhang import HagerZhangLineSearch
from jaxsolve.linesearch.zoom import ZoomLineSearch

__all__ = ["LINESEARCHES", "make_linesearch"]

#: The names of the line searches.
LINESEARCHES = ("zoom", "backtracking", "hager-zhang")


def make_linesearch(
    name: str,
    fun: Callable,
    *,
    value_and_grad: bool = False,
    has_aux: bool = False,
    maxls: int = 30,
    condition: str | None = None,
    decrease_factor: float | None = None,
    max_stepsize: Any = None,
    tol: Any = 0.0,
    jit: bool | str = "auto",
    unroll: bool | str = "auto",
    verbose: bool = False,
) -> LineSearch:
    """The line search called ``name``.

    Args:
        name: one of ``LINESEARCHES``.
        fun: the function to search along.
        value_and_grad: whether ``fun`` returns ``(value, grad)``.
        has_aux: whether ``fun`` returns ``(value, aux)`` in place of ``value``.
        maxls: largest number of trial points.
        condition: condition of the backtracking search; ``None`` means ``"strong-wolfe"``. The other searches have
            conditions of their own and take no other than them: ``"strong-wolfe"`` for zoom, ``"wolfe"`` for
            Hager-Zhang.
        decrease_factor: factor of the backtracking search, or by which the interval of the Hager-Zhang search must
            shrink; ``None`` means their defaults. The zoom search has none.
        max_stepsize: largest step, ``None`` for no bound.
        tol: violation of the conditions that is tolerated.
        jit: see the line searches.
        unroll: likewise.
        verbose: likewise.

    Raises:
        ValueError: an unknown name or condition.
    """
    check_choice("linesearch", name, LINESEARCHES)
    common: dict[str, Any] = {
        "value_and_grad": value_and_grad,
        "has_aux": has_aux,
        "maxiter": maxls,
        "max_stepsize": max_stepsize,
        "tol": tol,
        "jit": jit,
        "unroll": unroll,
        "verbose": verbose,
    }
    if name == "backtracking":
        if decrease_factor is not None:
            common["decrease_factor"] = decrease_factor
        return BacktrackingLineSearch(fun, condition="strong-wolfe" if condition is None else condition, **common)
    if name == "zoom":
        check_choice("condition", condition, (None, "strong-wolfe"))
        return ZoomLineSearch(fun, **common)
    check_choice("condition", condition, (None, "wolfe"))
    if decrease_factor is not None:
        common["shrinkage_factor"] = decrease_factor
    return HagerZhangLineSearch(fun, **common)
