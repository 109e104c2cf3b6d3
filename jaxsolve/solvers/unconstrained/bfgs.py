r"""BFGS with a dense matrix.

Problem: minimize a smooth function :math:`f(x, \theta)`. Method: descent along :math:`-H_k \nabla f(x_k)`, where the
approximation :math:`H_k` of the inverse Hessian learns from every pair :math:`s = x_{k+1} - x_k`,
:math:`y = \nabla f(x_{k+1}) - \nabla f(x_k)` (Nocedal and Wright 2006, section 6.1). With :math:`\rho = 1 / s^T y`,

.. math::

    H_+ = H - \rho (H y s^T + s y^T H) + \rho (1 + \rho y^T H y) s s^T,

or for :math:`B = H^{-1}` in the direct form, :math:`B_+ = B - B s s^T B / s^T B s + y y^T / s^T y`. Optimality:
:math:`\nabla_1 f(x, \theta) = 0`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._docstrings import with_fields_of
from jaxsolve._inputs import power_of_two
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve._vectors import flat_in_order, unflat_in_order
from jaxsolve.base import option
from jaxsolve.solvers._descent_method import DescentState
from jaxsolve.solvers.unconstrained._quasi_newton import QuasiNewtonMethod, difference, first_scaling
from jaxsolve.tree_util import tree_real_dtype

__all__ = ["BFGS", "BFGSState"]


@with_fields_of(DescentState)
class BFGSState(NamedTuple):
    """State of BFGS: the fields of :class:`~jaxsolve.solvers.DescentState`, and those of the matrix.

    Attributes:
        H: approximation of the inverse Hessian, or of the Hessian with ``form="direct"``; shape (n, n), where the n
            variables are the entries of the leaves, one leaf after the other.
        gamma: the initial ``H``, or its inverse, is this multiple of the identity.
        num_pairs: number of steps that have updated ``H``, int32; 0 after a failed line search.
    """

    iter_num: Array
    value: Array
    grad: Any
    stepsize: Array
    error: Array
    H: Array
    gamma: Array
    num_pairs: Array
    aux: Any = None
    failed_linesearch: Any = False
    num_fun_eval: Any = 0
    num_grad_eval: Any = 0
    num_linesearch_iter: Any = 0
    status: Any = 0
    first_error: Any = None
    num_stalled: Any = 0


class BFGS(QuasiNewtonMethod):
    """BFGS with a strong-Wolfe, backtracking or Hager-Zhang line search, or a fixed step size.

    ``run(init_params, *args, **kwargs)`` minimizes ``fun(params, *args, **kwargs)``. The time of an iteration and the
    memory grow with the square of the number of variables, so use it for up to some hundred variables. There it needs
    fewer evaluations than :class:`jaxsolve.LBFGS`, and far fewer if the problem is ill-conditioned.

    After a failed line search the matrix is reset, and a search along the negative gradient is tried; if that fails
    too, the run ends with ``Status.LINESEARCH_FAILED``.

    If ``run`` or ``init_state`` gets the result ``OptStep(params, state)`` of an earlier run as initial point, the new
    run continues with its matrix, its step size and its number of iterations; ``fun`` and its data may have changed in
    between.

    With ``linesearch_init="increase"`` the first trial step of a search is at least 1.

    Attributes:
        form: ``"inverse"`` keeps an approximation of the inverse Hessian. ``"direct"`` keeps an approximation of the
            Hessian, and solves one linear system per iteration by Cholesky factorization.

    Reference:
        Nocedal and Wright (2006), "Numerical optimization", second edition, section 6.1. The scaling of the matrix
        before its first update is equation 6.20.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> def rosenbrock(x, a):
        ...     return jnp.sum((a - x[:-1]) ** 2 + 100.0 * (x[1:] - x[:-1] ** 2) ** 2)
        >>> solver = jaxsolve.BFGS(rosenbrock, tol=1e-4)
        >>> solver.run(jnp.zeros(2), 1.0).params.round(2).tolist()
        [1.0, 1.0]
        >>> jax.jacobian(lambda a: solver.run(jnp.zeros(2), a).params)(1.0).round(2).tolist()
        [1.0, 2.0]
    """

    form: str = option("inverse", among=("inverse", "direct"))

    _State = BFGSState
    _treats_leaves_alike = True
    _resumed_fields = ("iter_num", "stepsize", "H", "gamma", "num_pairs", "first_error")

    def _has_memory(self, state: BFGSState) -> Array:
        return state.num_pairs > 0

    def _empty_memory(
        self, init_params: PyTree, value: Array, grad: PyTree, args: tuple, kwargs: dict
    ) -> dict[str, Any]:
        del args, kwargs
        # Without a search the first steps are along the negative gradient itself.
        gamma = (
            first_scaling(init_params, value, grad) if self._searches else jnp.ones((), tree_real_dtype(init_params))
        )
        size = sum(leaf.size for leaf in jax.tree.leaves(init_params))
        return {"H": self._multiple_of_identity(gamma, size), "gamma": gamma, "num_pairs": jnp.zeros((), jnp.int32)}

    def _multiple_of_identity(self, gamma: Array, size: int) -> Array:
        return (gamma if self.form == "inverse" else 1 / gamma) * jnp.eye(size, dtype=gamma.dtype)

    def _direction(self, params: PyTree, state: BFGSState) -> PyTree:
        del params
        grad = flat_in_order(state.grad, state.gamma.dtype)
        if self.form == "inverse":
            return unflat_in_order(-_dot(state.H, grad), state.grad)
        # Square roots are exact in any unit if the matrix is of size 1. One that has lost its positive definiteness to
        # rounding gives NaN: the search fails, and the matrix is dropped.
        unit = power_of_two(state.gamma)
        factor = jnp.linalg.cholesky(unit * state.H)
        return unflat_in_order(-unit * jax.scipy.linalg.cho_solve((factor, True), grad), state.grad)

    def _remember(self, old: OptStep, new: OptStep, moved: Array) -> BFGSState:
        """Learn from the step, or forget everything if the search went nowhere."""
        (params, state), (new_params, new_state) = old, new
        dtype = state.gamma.dtype
        s = flat_in_order(difference(new_params, params), dtype)
        y = flat_in_order(difference(new_state.grad, state.grad), dtype)
        s_dot_y, y_dot_y = _dot(s, y), _dot(y, y)
        # Without positive curvature the pair would make the matrix indefinite (Nocedal and Wright, section 7.2). It is
        # what is more than the rounding errors of the inner product.
        least = float(jnp.finfo(dtype).eps) * jnp.sqrt(_dot(s, s)) * jnp.sqrt(y_dot_y)
        curved = moved & (s_dot_y > least) & (y_dot_y > 0)
        s_dot_y, y_dot_y = jnp.where(curved, s_dot_y, 1), jnp.where(curved, y_dot_y, 1)
        gamma = jnp.where(curved, s_dot_y / y_dot_y, state.gamma)
        begin = ~moved | (curved & (state.num_pairs == 0))
        H = jnp.where(begin, self._multiple_of_identity(gamma, s.size), state.H)
        H = jnp.where(curved, H + self._correction(H, s, y, 1 / s_dot_y), H)
        return new_state._replace(
            stepsize=self._carried_stepsize(state, new_state.stepsize, curved),
            H=H,
            gamma=gamma,
            num_pairs=jnp.where(moved, state.num_pairs + curved.astype(jnp.int32), 0),
        )

    def _correction(self, H: Array, s: Array, y: Array, rho: Array) -> Array:
        """What a pair adds to the matrix."""
        if self.form == "inverse":
            Hy = _dot(H, y)
            half = jnp.outer(s, rho * (0.5 * (1 + rho * _dot(y, Hy)) * s - Hy))
            return half + half.T
        Bs = _dot(H, s)
        curvature = _dot(s, Bs)
        return rho * jnp.outer(y, y) - jnp.outer(Bs, Bs) / jnp.where(curvature > 0, curvature, 1)


def _dot(a: Array, b: Array) -> Array:
    return jnp.dot(a, b, precision=lax.Precision.HIGHEST)
