"""What to use instead of the names of JAXopt that are not here yet. Messages and ``docs/migrating.md`` say the same."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["MISSING", "explain"]

_RESIDUALS = "of half the sum of the squared residuals"
_OWN_LOOP = "optax in a loop of your own, and jaxsolve.implicit_diff.custom_root for the derivative"
_OWN_ROOT = "jaxsolve.Bisection in one dimension, or jaxsolve.implicit_diff.custom_root around scipy.optimize.root"

MISSING = {
    "AndersonAcceleration": "jaxsolve.FixedPointIteration",
    "AndersonWrapper": "the solver that it wraps",
    "ArmijoSGD": _OWN_LOOP,
    "BFGS": "jaxsolve.LBFGS",
    "Broyden": _OWN_ROOT,
    "NonlinearCG": "jaxsolve.LBFGS",
    "OptaxSolver": _OWN_LOOP,
    "PolyakSGD": _OWN_LOOP,
    "ScipyBoundedLeastSquares": f"jaxsolve.ProjectedGradient with jaxsolve.projection.projection_box {_RESIDUALS}",
    "ScipyBoundedMinimize": "jaxsolve.ProjectedGradient with jaxsolve.projection.projection_box",
    "ScipyLeastSquares": f"jaxsolve.LBFGS {_RESIDUALS}",
    "ScipyMinimize": "jaxsolve.LBFGS",
    "ScipyRootFinding": _OWN_ROOT,
}


def explain(name: str, known: Iterable[str]) -> str:
    """The message for a name that the package does not have.

    Args:
        name: what was asked for.
        known: the names that there are.
    """
    message = f"module 'jaxsolve' has no attribute {name!r}"
    if name in MISSING:
        return f"{message}: it is not here yet; use {MISSING[name]}."
    near = difflib.get_close_matches(name, [*known, *MISSING], n=1)
    return f"{message}; did you mean {near[0]!r}?" if near else message
