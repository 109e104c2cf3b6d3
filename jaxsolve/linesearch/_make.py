"""Line searches by name, with the options that solvers have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxsolve._options import check_choice
from jaxsolve.linesearch._base import LineSearch
from jaxsolve.linesearch.backtracking import BacktrackingLineSearch
from jaxsolve.linesearch.hager_zhang import HagerZhangLineSearch
from jaxsolve.linesearch.zoom import ZoomLineSearch

__all__ = ["LINESEARCHES", "make_linesearch"]

# The class of each search; the condition that is its own, if it has but one; what it calls its decrease factor.
_SEARCHES: dict[str, tuple[type[LineSearch], str | None, str | None]] = {
    "zoom": (ZoomLineSearch, "strong-wolfe", None),
    "backtracking": (BacktrackingLineSearch, None, "decrease_factor"),
    "hager-zhang": (HagerZhangLineSearch, "wolfe", "shrinkage_factor"),
}

#: The names of the line searches.
LINESEARCHES = tuple(_SEARCHES)


def make_linesearch(
    name: str,
    fun: Callable,
    *,
    maxls: int = 30,
    condition: str | None = None,
    decrease_factor: float | None = None,
    max_stepsize: Any = None,
    **options: Any,
) -> LineSearch:
    """The line search called ``name``.

    Args:
        name: one of ``LINESEARCHES``.
        fun: the function to search along.
        maxls: largest number of trial points.
        condition: condition of the backtracking search; ``None`` means ``"strong-wolfe"``. The other searches have
            conditions of their own and take no other than them: ``"strong-wolfe"`` for zoom, ``"wolfe"`` for
            Hager-Zhang.
        decrease_factor: factor of the backtracking search, or by which the interval of the Hager-Zhang search must
            shrink; ``None`` means their defaults. The zoom search has none.
        max_stepsize: largest step, ``None`` for no bound.
        **options: other options of the search.

    Raises:
        ValueError: an unknown name or condition.
    """
    check_choice("linesearch", name, LINESEARCHES)
    search, own_condition, factor_name = _SEARCHES[name]
    if own_condition is not None:
        check_choice("condition", condition, (None, own_condition))
    elif condition is not None:
        options["condition"] = condition
    if decrease_factor is not None and factor_name is not None:
        options[factor_name] = decrease_factor
    return search(fun, maxiter=maxls, max_stepsize=max_stepsize, **options)
