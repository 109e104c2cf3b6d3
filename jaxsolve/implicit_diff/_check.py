"""Checks of the linear solves of derivatives: their residuals are told to the host, if somebody asked for it.

The setting of the context is one of those that jax compiles programs for (``jax.make_user_context``), so that a program
compiled without the check is not used where it is on, nor the other way round.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsolve._compat import TANGENT_CHECK
from jaxsolve._options import check_choice, check_number

__all__ = ["TangentCheck", "TangentError", "check_tangents", "observe_tangents"]

_ACTIONS = ("warn", "raise")
# What a block with the action "raise" has found: its error is raised where the block ends.
_FOUND: list[str] = []


class TangentError(RuntimeError):
    """Raised at the end of a :func:`check_tangents` block in which a derivative was inaccurate."""


class TangentCheck(NamedTuple):
    """What is done with the relative residual of a linear solve; told by compiled programs.

    Attributes:
        name: of the solver.
        action: ``"warn"``, ``"raise"`` (in the program), ``"collect"`` (for the end of the block), or a function
            ``action(name, residual)``.
        tol: largest residual that passes; ``None`` for the default of the dtype.
    """

    name: str
    action: str | Callable
    tol: float | None = None

    @classmethod
    def of(cls, name: str, option: str | None) -> TangentCheck | None:
        """The check of a solver of that name: by its option, or else by the context; ``None`` if there is none."""
        if option is not None:
            return cls(name, option)
        return None if TANGENT_CHECK.value is None else cls(name, *TANGENT_CHECK.value)

    def tell(self, residual: jax.Array) -> None:
        """Hand a residual, a scalar, to the host."""
        jax.debug.callback(self._heard, residual)

    def _heard(self, residual: Any) -> None:
        if callable(self.action):
            self.action(self.name, float(residual))
            return
        tol = float(jnp.finfo(residual.dtype).eps) ** 0.5 * 10 if self.tol is None else self.tol
        if residual <= tol:
            return
        message = (
            f"the linear solve of a derivative of {self.name} ended with a relative residual of {float(residual):.1e}, "
            f"above {tol:.1e}: the gradient may be wrong. Choose another implicit_diff_solve or give it more "
            "iterations; if the system is singular, regularize the problem."
        )
        if self.action == "raise":
            raise TangentError(message)
        if self.action == "collect":
            _FOUND.append(message)
        else:
            warnings.warn(message, RuntimeWarning, stacklevel=2)


@contextlib.contextmanager
def check_tangents(action: str = "warn", tol: float | None = None) -> Iterator[None]:
    """Check the linear solves of all implicit derivatives that are computed in a block.

    The relative residual of each solve, in both modes and of every order, is computed by one more product, and compared
    with ``tol``. The message names the solver. Programs that were compiled without the check are compiled again;
    outside of the block nothing is checked. To check one solver only, use its option ``check_tangents``.

    Args:
        action: ``"warn"``: a ``RuntimeWarning``. ``"raise"``: an error when the block ends.
        tol: largest allowed relative residual. By default ten times the square root of the spacing of the dtype:
            1.5e-7 in float64, 3.5e-3 in float32.

    Raises:
        TangentError: at the end of the block, if ``action`` is ``"raise"`` and a residual was too large; the message is
            that of the first such solve.
        ValueError: ``action`` or ``tol`` is invalid.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> from jaxsolve.linear_solve import solve_neumann
        >>> solver = jaxsolve.FixedPointIteration(lambda x, t: 0.5 * x + t, implicit_diff_solve=solve_neumann)
        >>> try:
        ...     with jaxsolve.diagnostics.check_tangents("raise", tol=1e-6):
        ...         slope = jax.grad(lambda t: solver.run(jnp.asarray(0.0), t).params)(1.0)
        ... except jaxsolve.diagnostics.TangentError as error:
        ...     print(str(error)[:94])
        the linear solve of a derivative of FixedPointIteration ended with a relative residual of 9.8e
    """
    check_choice("action", action, _ACTIONS)
    if tol is not None:
        check_number("tol", tol, at_least=0)
        tol = float(tol)
    with TANGENT_CHECK(("collect" if action == "raise" else action, tol)):
        try:
            yield
        finally:
            jax.effects_barrier()
            found = list(_FOUND)
            _FOUND.clear()
    if found:
        raise TangentError(found[0])


@contextlib.contextmanager
def observe_tangents(listener: Callable[[str, float], None]) -> Iterator[None]:
    """Call ``listener(name, residual)`` for every linear solve of a derivative in a block."""
    with TANGENT_CHECK((listener, None)):
        yield
        jax.effects_barrier()
