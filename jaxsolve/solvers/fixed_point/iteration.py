r"""Fixed-point iteration.

Problem: find :math:`x = T(x, \theta)`. Method: :math:`x_{k+1} = T(x_k, \theta)`, which converges linearly if :math:`T`
is a contraction (Banach). Optimality: :math:`T(x, \theta) - x = 0`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsolve._closure import output_shape
from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.base import IterativeSolver, as_like, lacks_data, option
from jaxsolve.tree_util import tree_l2_norm, tree_real_dtype, tree_sub

__all__ = ["FixedPointIteration", "FixedPointState"]


class FixedPointState(NamedTuple):
    """State of the fixed-point iteration.

    Attributes:
        iter_num: number of iterations done, int32.
        error: Euclidean norm of ``T(x) - x`` at the previous iterate; at the end of ``run``, at the solution. Infinite
            while an entry of the parameters is not finite.
        aux: auxiliary output of ``T``.
        num_fun_eval: evaluations of ``T``.
        status: a :class:`jaxsolve.Status`, int32.
        first_error: the error of the first iteration, used with ``rtol``; ``None`` if ``rtol`` is 0.
    """

    iter_num: Array
    error: Array
    aux: Any = None
    num_fun_eval: Any = 0
    status: Any = 0
    first_error: Any = None


class FixedPointIteration(IterativeSolver):
    """Applies a mapping repeatedly until its argument does not change any more.

    ``run(init_params, *args, **kwargs)`` finds a fixed point of ``fixed_point_fun(params, *args, **kwargs)``.

    Attributes:
        fixed_point_fun: ``T(params, *args, **kwargs)``, a pytree like ``params``.
        has_aux: whether ``fixed_point_fun`` returns ``(T(params), aux)``.
        rtol: relative tolerance: the run has converged when ``state.error`` is at most
            ``tol + rtol * state.first_error``. May be traced.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> solver = jaxsolve.FixedPointIteration(lambda x, theta: jnp.cos(theta * x), tol=1e-6)
        >>> round(float(solver.run(1.0, 1.0).params), 4)
        0.7391
        >>> round(float(jax.grad(lambda theta: solver.run(1.0, theta).params)(1.0)), 4)
        -0.2975
    """

    fixed_point_fun: Callable
    has_aux: bool = option(False)
    maxiter: int = option(100)
    tol: float = option(1e-5)
    rtol: float = option(0.0, at_least=0)

    _State = FixedPointState
    _error_is_estimate = True
    _is_fixed_point = True
    _handles_nonfinite = True
    _has_many_scalars = True
    _resumed_fields = ("iter_num", "first_error")

    def init_state(self, init_params: PyTree, *args: Any, **kwargs: Any) -> FixedPointState:
        """The state before the first iteration; the arguments are those of ``run``."""
        aux, calls = None, 0
        if not self.has_aux or lacks_data(self.fixed_point_fun, args, kwargs):
            pass  # the first update brings it
        elif self.jit:
            _, aux = output_shape(self.fixed_point_fun, init_params, *args, **kwargs)
            aux = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), aux)
        else:
            # What a host function returns is known only once it is called.
            aux, calls = self.fixed_point_fun(init_params, *args, **kwargs)[1], 1
        zero, dtype = jnp.zeros((), jnp.int32), tree_real_dtype(init_params)
        first_error = self._unknown_first_error(dtype)
        return FixedPointState(zero, jnp.asarray(jnp.inf, dtype), aux, zero + calls, zero, first_error)

    def update(self, params: PyTree, state: FixedPointState, *args: Any, **kwargs: Any) -> OptStep:
        """One application of the mapping; returns ``OptStep(params, state)``."""
        new_params, aux = self._apply(params, *args, **kwargs)
        error = tree_l2_norm(jax.tree.map(_change, params, new_params)).astype(state.error.dtype)
        lost = jnp.isnan(error)
        error = jnp.where(lost, state.error, error)
        first_error = self._first_error(state, error)
        status = self._status_of(error, size=first_error)
        status = jnp.where(jnp.isfinite(error), status, int(Status.RUNNING))
        status = Status.NONFINITE.where(lost, status)
        params, aux = self._where(lost, (params, state.aux), (new_params, aux))
        return OptStep(
            params, FixedPointState(state.iter_num + 1, error, aux, state.num_fun_eval + 1, status, first_error)
        )

    def optimality_fun(self, params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The residual ``T(params) - params``, a pytree like ``params``."""
        return tree_sub(self._apply(params, *args, **kwargs)[0], params)

    def _state_of_solution(self, params: PyTree, *args: Any, **kwargs: Any) -> dict:
        """``aux`` as a function of the solution."""
        return {"aux": self._apply(params, *args, **kwargs)[1]}

    def _apply(self, params, *args, **kwargs):
        out = self.fixed_point_fun(params, *args, **kwargs)
        image, aux = out if self.has_aux else (out, None)
        return as_like("fixed_point_fun", image, params), aux


def _change(old: Array, new: Array) -> Array:
    """How entries change: NaN where one that was finite is not any more, and infinite where it was not before.

    An entry that is not finite from the start, such as a cost that the mapping computes first, may become so.
    """
    known, stays = jnp.isfinite(old), jnp.isfinite(new)
    change = jnp.where(known & stays, new - old, jnp.inf)
    return jnp.where(known & ~stays, jnp.nan, change)
