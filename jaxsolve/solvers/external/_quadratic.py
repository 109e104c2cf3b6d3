"""What the solvers of quadratic programs outside of jax share: a callback on the host, polishing, and derivatives."""

from __future__ import annotations

import abc
import functools
import importlib
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._status import Status
from jaxsolve._types import OptStep, PyTree
from jaxsolve.base import option
from jaxsolve.solvers.quadratic._base import WEAK, DirectQP, Solution, has_derivative
from jaxsolve.solvers.quadratic._form import StandardForm
from jaxsolve.solvers.quadratic._kkt import KKTSystem
from jaxsolve.solvers.quadratic._problem import QuadraticProgram
from jaxsolve.solvers.quadratic._residuals import feasible_signs

__all__ = ["ExternalQP", "import_optional"]


class ExternalQP(DirectQP):
    """Base of the solvers that call a program outside of jax.

    A subclass defines ``_host``. What it returns is polished with the factorization that the derivative needs too.

    Attributes:
        weak: how rows that hold with equality and multiplier 0 count in derivatives: ``"half"``, ``"active"`` or
            ``"inactive"``; see :class:`jaxsolve.solvers.quadratic.interior_point.InteriorPointQP`.
    """

    weak: str = option("half", among=WEAK)  # type: ignore[misc]  # an option here

    _Form = StandardForm

    @abc.abstractmethod
    def _host(self) -> Callable:
        """The function ``solve(P, q, A, lower, upper, x, y) -> (x, y, status, iter_num)`` of NumPy arrays.

        Called when ``run`` is traced, so that what is missing is reported then; it must capture no arrays.
        """

    def _wanted_form(self, qp: QuadraticProgram) -> QuadraticProgram:
        return qp.dense()

    def _solve(self, init_params: PyTree, *data: Any) -> tuple[OptStep, KKTSystem]:
        problem = self._problem(init_params, *data)
        qp = problem.qp
        start = self._form.start(problem, init_params)
        scalar = jax.ShapeDtypeStruct((), jnp.int32)
        outputs = (*(jax.ShapeDtypeStruct(part.shape, part.dtype) for part in start), scalar, scalar)
        arrays = (qp.P.dense(), qp.q, qp.A.dense(), qp.lower, qp.upper, *start)
        callback = functools.partial(_call, self._host(), outputs)
        x, y, status, iter_num = jax.pure_callback(callback, outputs, *arrays, vmap_method="sequential")
        y = feasible_signs(qp, y)
        error, at = self._error(problem, x, y)
        # A solution that is said to be optimal, and is not, is not reported as such.
        status = Status.STALLED.where(Status.CONVERGED.holds(status), status)
        solution, error, status, factors = self._polished(problem, Solution(x, y, at.Ax), error, status)
        state = self._State(iter_num, error, qp.value(solution.x), status)
        return OptStep(self._form.solution(problem, solution), state), self._system(factors, has_derivative(state))


# The runs of one program may be called from several threads at once, but filters of warnings belong to the process, and
# nothing says that the packages can be called so.
_ONE_AT_A_TIME = threading.Lock()


def _call(function: Callable, outputs: tuple, *arrays: Any) -> list:
    """Call a function of float64 NumPy arrays, and return NumPy arrays of the shapes and dtypes of ``outputs``."""
    arrays = tuple(np.asarray(a).astype(np.float64) for a in arrays)
    if all(np.all(np.isfinite(a)) for a in arrays[:3]) and not any(np.any(np.isnan(a)) for a in arrays[3:5]):
        with _ONE_AT_A_TIME:
            x, y, status, iter_num = function(*arrays)
    else:
        x, y, status, iter_num = None, None, Status.NONFINITE, 0
    found = status in (Status.CONVERGED, Status.MAXITER, Status.STALLED)
    point = [part if found and part is not None else np.zeros(1) for part in (x, y)]
    if not all(np.all(np.isfinite(part)) for part in point):
        status, point = (Status.NONFINITE if found else status), [np.zeros(1), np.zeros(1)]
    values = (*point, int(status), int(iter_num))
    return [np.broadcast_to(np.asarray(v, like.dtype), like.shape) for v, like in zip(values, outputs, strict=True)]


def import_optional(module: str, user: str) -> Any:
    """Import a package that is not among the dependencies.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{user} needs {module}: pip install 'jaxsolve[external]'.") from error
