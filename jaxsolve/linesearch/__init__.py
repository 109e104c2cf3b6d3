"""Line searches along a descent direction: backtracking, zoom (strong Wolfe) and Hager-Zhang (approximate Wolfe)."""

from jaxsolve.linesearch._make import LINESEARCHES, make_linesearch
from jaxsolve.linesearch._state import LineSearchState, LineSearchStep
from jaxsolve.linesearch.backtracking import BacktrackingLineSearch
from jaxsolve.linesearch.hager_zhang import HagerZhangLineSearch
from jaxsolve.linesearch.zoom import ZoomLineSearch

__all__ = [
    "LINESEARCHES",
    "BacktrackingLineSearch",
    "HagerZhangLineSearch",
    "LineSearchState",
    "LineSearchStep",
    "ZoomLineSearch",
    "make_linesearch",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
