"""Status codes: how a run ended, each with one sentence that says what to do next."""

from __future__ import annotations

import enum
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["Status"]


class Status(enum.IntEnum):
    """How a run ended; ``state.status`` has it as an int32 scalar.

    The values 0 to 3 are the status codes of JAXopt's OSQP.

    ``Status(state.status)`` gives the name and the sentence of a state outside of ``jit``.

    Example:
        >>> from jaxsolve import Status
        >>> Status.CONVERGED.sentence
        'The optimality error is at most tol.'
    """

    RUNNING = 0, "The iterations have not ended yet."
    CONVERGED = 1, "The optimality error is at most tol."
    DUAL_INFEASIBLE = 2, "The problem is unbounded below: its dual has no feasible point."
    PRIMAL_INFEASIBLE = 3, "No point satisfies the constraints."
    MAXITER = (
        4,
        "The iterations ended at maxiter before the optimality error reached tol; "
        "raise maxiter, loosen tol, or scale the problem.",
    )
    NONFINITE = (
        5,
        "The objective or an iterate became NaN or infinite; the last finite iterate was returned. "
        "Check the initial point and the step size.",
    )
    LINESEARCH_FAILED = (
        6,
        "The line search found no acceptable step: the direction may not be a descent direction, the "
        "gradient may be wrong, or the precision of the dtype may be exhausted.",
    )
    STALLED = (
        7,
        "The iterates stopped moving before the optimality error reached tol; the precision of the dtype "
        "may be exhausted, or the problem badly scaled.",
    )
    INVALID_BRACKET = (
        8,
        "The function has the same sign at both ends of the interval, so it need not have a root there.",
    )
    DIVERGED = (
        9,
        "The objective and its gradient grew far beyond their initial size: the step size is too long; "
        "shorten it, or leave it to the solver with stepsize=0.",
    )

    NONCONVEX = (
        10,
        "The objective of the quadratic program is not convex: it has negative curvature in a direction that the "
        "equality constraints allow. The returned point need not be a minimum.",
    )

    LOCALLY_INFEASIBLE = (
        11,
        "The iterates came to an infeasible point from which no small movement reduces the violation of the "
        "constraints: the constraints may contradict each other, or another initial point may help.",
    )

    #: One sentence on what the code means and what to do about it.
    sentence: str

    def __new__(cls, value: int, sentence: str):
        """A code with its sentence."""
        status = int.__new__(cls, value)
        status._value_, status.sentence = value, sentence
        return status

    def holds(self, status: Any) -> Any:
        """Whether ``status``, a traced or concrete array of any shape, is this one, entry by entry."""
        return status == int(self)

    def where(self, condition: Any, otherwise: Any) -> jax.Array:
        """This status where ``condition`` holds, and the status ``otherwise`` elsewhere; int32."""
        return jnp.where(condition, int(self), otherwise).astype(jnp.int32)
