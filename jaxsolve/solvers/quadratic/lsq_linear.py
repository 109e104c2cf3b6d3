"""Linear least squares with bounds as functions, with the names of SciPy's: ``nnls`` and ``lsq_linear``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsolve._compat import max_abs
from jaxsolve._inputs import scale_to_unit
from jaxsolve._results import sentence_of_status, show_as_line
from jaxsolve._status import Status
from jaxsolve._types import Array
from jaxsolve.solvers._data import pair
from jaxsolve.solvers.quadratic.least_squares import BoundedLeastSquares, real_array
from jaxsolve.tree_util import tree_real_dtype

__all__ = ["LsqLinearResult", "NNLSResult", "lsq_linear", "nnls"]


@jax.jit
def _norm(vector: Array) -> Array:
    scale, _, norm = scale_to_unit(vector)
    return scale * norm


@jax.jit
def _optimality(A: Array, lower: Array, upper: Array, x: Array, fun: Array) -> tuple[Array, Array]:
    """The largest entry of the projected gradient, and the bounds that are active."""
    gradient, at_lower, at_upper = fun @ A, x <= lower, x >= upper
    pushed = (at_lower & (gradient > 0)) | (at_upper & (gradient < 0))
    active = jnp.where(at_lower, -1, jnp.where(at_upper, 1, 0)).astype(jnp.int32)
    return max_abs(jnp.where(pushed, 0, gradient)), active


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NNLSResult:
    """Result of :func:`nnls`; a pytree. As in SciPy it can be unpacked: ``x, rnorm = nnls(A, b)``.

    Attributes:
        x: the solution, shape ``(n,)``.
        rnorm: ``||A x - b||``, a scalar.
        fun: the residual ``A x - b``, shape ``(m,)``.
        status: a :class:`jaxsolve.Status`, int32.
        nit: factorizations done, int32.
        error: optimality error, see :class:`jaxsolve.solvers.quadratic.LeastSquaresState`.
    """

    x: Array
    rnorm: Array
    fun: Array
    status: Array
    nit: Array
    error: Array

    def __iter__(self) -> Iterator[Array]:
        """``x`` and ``rnorm``."""
        return iter((self.x, self.rnorm))

    def __getitem__(self, index: Any) -> Any:
        """``x`` has the index 0 and ``rnorm`` the index 1."""
        return (self.x, self.rnorm)[index]

    def __len__(self) -> int:
        """2, for ``x`` and ``rnorm``."""
        return 2

    @property
    def success(self) -> Array:
        """Whether the minimum was found."""
        return Status.CONVERGED.holds(self.status)

    message = sentence_of_status


class LsqLinearResult(NamedTuple):
    """Result of :func:`lsq_linear`, with the names of SciPy's.

    Attributes:
        x: the solution, shape ``(n,)``.
        cost: ``0.5 * ||A x - b||^2``, a scalar.
        fun: the residual ``A x - b``, shape ``(m,)``.
        optimality: largest absolute entry of the gradient ``A^T (A x - b)``, without the entries of variables that the
            gradient pushes against their bound; in the units of the data, and not differentiated.
        active_mask: -1 for variables at their lower bound, 1 for those at their upper one, 0 for the others; int32,
            shape ``(n,)``.
        success: whether the minimum was found.
        status: a :class:`jaxsolve.Status`, int32: not SciPy's number.
        nit: factorizations done, int32.
        error: optimality error, see :class:`jaxsolve.solvers.quadratic.LeastSquaresState`.
    """

    x: Array
    cost: Array
    fun: Array
    optimality: Array
    active_mask: Array
    success: Array
    status: Array
    nit: Array
    error: Array

    message = sentence_of_status


show_as_line(NNLSResult, "nnls")
show_as_line(LsqLinearResult, "lsq_linear")


def nnls(A: Any, b: Any, *, maxiter: int | None = None, weak: str = "half") -> NNLSResult:
    """Minimize ``||A x - b||`` over ``x >= 0`` like ``scipy.optimize.nnls``; the solution is differentiable.

    It works under ``jit``, ``vmap`` and in every derivative mode, with respect to ``A`` and ``b``. For the method, the
    case of several solutions, and sparse matrices see :class:`jaxsolve.BoundedLeastSquares`. The accuracy is that of a
    QR factorization of ``A``: the condition number is not squared. The derivative of ``rnorm`` is 0 where ``rnorm`` is
    0.

    Args:
        A: shape ``(m, n)``, of any rank, dense or sparse.
        b: shape ``(m,)`` or ``(m, 1)``.
        maxiter: largest number of factorizations; 1000 by default.
        weak: how variables that are 0 with multiplier 0 count in derivatives: ``"half"``, ``"active"`` or
            ``"inactive"``.

    Returns:
        A :class:`jaxsolve.solvers.quadratic.NNLSResult`, which unpacks into ``x`` and ``rnorm``. At ``maxiter`` SciPy
        raises an error; here ``status`` is ``Status.MAXITER``.

    Raises:
        ValueError: shapes do not fit, or an option is out of range.
        TypeError: the data are not real numbers.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> A, b = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), jnp.array([2.0, 1.0, -1.0])
        >>> x, rnorm = jaxsolve.nnls(A, b)
        >>> [round(entry, 4) for entry in x.tolist()], round(float(rnorm), 4)
        ([1.5, 0.0], 1.2247)
        >>> gradient = jax.grad(lambda b: jaxsolve.nnls(A, b).rnorm)(b)
        >>> [round(entry, 4) for entry in gradient.tolist()]
        [0.4082, -0.4082, -0.8165]
    """
    options: dict[str, Any] = {} if maxiter is None else {"maxiter": maxiter}
    b = real_array("b", b)
    b = b.reshape(-1) if b.ndim == 2 and b.shape[1] == 1 else b
    x, state = BoundedLeastSquares(weak=weak, **options).run(None, (A, b), (0.0, np.inf))
    return NNLSResult(x, _norm(state.fun), state.fun, state.status, state.iter_num, state.error)


def lsq_linear(
    A: Any,
    b: Any,
    bounds: Any = (-np.inf, np.inf),
    *,
    tol: float | None = None,
    max_iter: int | None = None,
    weak: str = "half",
) -> LsqLinearResult:
    """Minimize ``0.5 * ||A x - b||^2`` subject to bounds like ``scipy.optimize.lsq_linear``, differentiably.

    It works under ``jit``, ``vmap`` and in every derivative mode, with respect to ``A``, ``b`` and the bounds. For the
    method, the case of several solutions, and sparse matrices see :class:`jaxsolve.BoundedLeastSquares`. The accuracy
    is that of a QR factorization of ``A``: the condition number is not squared.

    Args:
        A: shape ``(m, n)``, of any rank, dense or sparse.
        b: shape ``(m,)``.
        bounds: the pair of lower and upper bounds, each a number or of shape ``(n,)``, or an instance of
            ``scipy.optimize.Bounds``. Bounds may be infinite (``None`` means infinite) and, unlike in SciPy, equal.
        tol: ``success`` means that ``error`` is at most ``tol``; it does not end the iterations. By default 1e-10 in
            float64 and 1e-5 in float32.
        max_iter: largest number of factorizations; 1000 by default.
        weak: how variables at a bound with multiplier 0 count in derivatives: ``"half"``, ``"active"`` or
            ``"inactive"``.

    Returns:
        A :class:`jaxsolve.solvers.quadratic.LsqLinearResult`.

    Raises:
        ValueError: shapes do not fit, a lower bound exceeds an upper one, or an option is out of range.
        TypeError: the data are not real numbers.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> A, b = jnp.array([[1.0, 2.0], [1.0, 1.0], [0.0, 1.0]]), jnp.array([1.0, 3.0, -1.0])
        >>> result = jaxsolve.lsq_linear(A, b, (0.0, 1.5))
        >>> [round(entry, 4) for entry in result.x.tolist()], round(float(result.cost), 4), result.active_mask.tolist()
        ([1.5, 0.0], 1.75, [1, -1])
        >>> slope = jax.grad(lambda u: jaxsolve.lsq_linear(A, b, (0.0, u)).cost)(1.5)
        >>> round(float(slope), 4)  # minus the multiplier of the bound
        -1.0
    """
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        bounds = bounds.lb, bounds.ub
    lower, upper = pair("bounds", bounds, "(lower, upper)")
    bounds = -np.inf if lower is None else lower, np.inf if upper is None else upper
    A, b = real_array("A", A), real_array("b", b)
    if tol is None:
        tol = 1e-10 if jnp.finfo(tree_real_dtype((A, b))).bits == 64 else 1e-5
    options: dict[str, Any] = {"tol": tol} if max_iter is None else {"tol": tol, "maxiter": max_iter}
    solver = BoundedLeastSquares(weak=weak, **options)
    x, state = solver.run(None, (A, b), bounds)
    A, _, lower, upper, _ = solver._data((A, b), bounds)
    optimality, active = _optimality(*lax.stop_gradient((A, lower, upper, x.astype(A.dtype), state.fun)))
    success = Status.CONVERGED.holds(state.status)
    return LsqLinearResult(
        x, state.value, state.fun, optimality, active, success, state.status, state.iter_num, state.error
    )
