r"""Coordinate descent for quadratic programs over a box.

Problem: :math:`\min_x \tfrac12 x^T Q x + c^T x` subject to :math:`l \le x \le u`. Method: one coordinate after
the other is set to its minimizer,

.. math::  x_i \leftarrow \operatorname{clip}\bigl(x_i - g_i / Q_{ii},\; l_i, u_i\bigr), \qquad g = Q x + c,

and :math:`Q x` is brought up to date by one row of :math:`Q`. It converges for every positive semidefinite Q, at a
linear rate. Optimality: the fixed point :math:`x = \operatorname{clip}(x - g, l, u)` of projected gradient.

Reference:
    Hsieh, Chang, Lin, Keerthi and Sundararajan (2008), "A dual coordinate descent method for large-scale linear SVM",
    section 2; Luo and Tseng (1992), "On the convergence of the coordinate descent method for convex differentiable
    minimization".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.base import IterativeSolver, option
from jaxsolve.solvers._data import ReadsData, pair
from jaxsolve.solvers.quadratic._problem import as_quadratic, as_vector, check_bounds, flat, unraveled
from jaxsolve.tree_util import tree_cast_like, tree_l2_norm

__all__ = ["BoxCDQP", "BoxCDState"]


class BoxCDState(NamedTuple):
    """State of coordinate descent.

    Attributes:
        iter_num: sweeps done, int32.
        error: Euclidean norm of the projected gradient, each entry relative to the size of its terms.
        product: ``Q x``, shape ``(n,)``.
        status: a :class:`jaxsolve.Status`, int32.
    """

    iter_num: Array
    error: Array
    product: Array
    status: Array


class BoxCDQP(ReadsData, IterativeSolver):
    """Coordinate descent for quadratic programs over a box; an iteration is a sweep over all coordinates.

    ``run(init_params, params_obj=(Q, c), params_ineq=(l, u))`` minimizes ``0.5 x^T Q x + c^T x`` subject to
    ``l <= x <= u``. ``Q`` is positive semidefinite, dense or sparse, of shape ``(n, n)``; ``c`` is a vector, or a
    pytree with ``n`` entries. Bounds are like ``c``, or numbers, and may be infinite. ``init_params``, like ``c``, is
    projected on the box; ``None`` starts at 0. The solution has the structure of ``c`` and is differentiable with
    respect to ``Q, c, l, u``.

    For a coordinate at a bound with gradient 0 the derivative is between the two one-sided derivatives.

    Attributes:
        tol: the run has converged when ``state.error`` is at most ``tol``. It has no unit: the error is relative to the
            terms of the gradient, so there is no ``rtol``. May be traced.

    Raises:
        ValueError: shapes do not fit, or a lower bound exceeds an upper one.
        TypeError: ``params_obj`` or ``params_ineq`` is not a pair.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> Q, c = jnp.array([[2.0, 1.0], [1.0, 2.0]]), jnp.array([-4.0, -3.0])
        >>> solver = jaxsolve.BoxCDQP(tol=1e-5)
        >>> params, state = solver.run(None, (Q, c), (0.0, 1.0))
        >>> [round(x, 3) for x in params.tolist()]
        [1.0, 1.0]
        >>> slope = jax.grad(lambda u: solver.run(None, (Q, c), (0.0, jnp.array([u, 9.0]))).params[1])(1.0)
        >>> round(float(slope), 3)
        -0.5
    """

    maxiter: int = option(500)
    tol: float = option(1e-4)

    _State = BoxCDState
    _needs_init_params = False

    _arguments = {"params_obj": ("Q", "c"), "params_ineq": ("l", "u")}

    def _check_arguments(self, init_params: PyTree = None, params_obj: Any = None, params_ineq: Any = None) -> None:
        """Raise ``ValueError`` for bounds that no number satisfies."""
        check_bounds(*pair("params_ineq", params_ineq, "(l, u)"))

    def _run(self, init_params: PyTree, args: tuple, kwargs: dict) -> OptStep:
        """The solution in the dtype of ``c``; what computes it has float32 at least."""
        params, state = super()._run(init_params, args, kwargs)
        (_, c), _ = args
        return OptStep(tree_cast_like(params, c), state)

    def _problem(self, params_obj, params_ineq):
        (params_obj, (lower, upper)), _ = self._read((params_obj, params_ineq), {})
        objective = as_quadratic(params_obj)
        like = jax.eval_shape(objective.unravel, objective.q)
        bounds = (
            as_vector(name, bound, objective.q.size, objective.q.dtype, like)
            for name, bound in (("l", lower), ("u", upper))
        )
        return objective, *bounds

    def _first_point(self, init_params: PyTree, params_obj: Any = None, params_ineq: Any = None) -> PyTree:
        """The point of the box that is closest to ``init_params``, or to 0."""
        objective, lower, upper = self._problem(params_obj, params_ineq)
        start = 0.0 if init_params is None else init_params
        x = as_vector("init_params", start, objective.q.size, objective.q.dtype)
        return objective.variables(jnp.clip(x, lower, upper))

    def init_state(self, init_params: PyTree, params_obj: Any = None, params_ineq: Any = None) -> BoxCDState:
        """The state before the first sweep; the arguments are those of ``run``."""
        objective, lower, upper = self._problem(params_obj, params_ineq)
        x = flat(self._first_point(init_params, params_obj, params_ineq), objective.q.dtype)
        product = objective.P.matvec(x)
        return self._judge(objective, lower, upper, x, product, jnp.zeros((), jnp.int32))

    def update(self, params: PyTree, state: BoxCDState, params_obj: Any = None, params_ineq: Any = None) -> OptStep:
        """One sweep; returns ``OptStep(params, state)``."""
        objective, lower, upper = self._problem(params_obj, params_ineq)
        c, matrix = objective.q, objective.P.dense()

        def coordinate(i, carry):
            x, product = carry
            row = lax.dynamic_index_in_dim(matrix, i, keepdims=False)
            gradient, curvature = product[i] + c[i], row[i]
            curved = curvature > 0
            # Without curvature the best point is the bound that lies downhill, where it is finite.
            downhill = jnp.where(gradient > 0, lower[i], jnp.where(gradient < 0, upper[i], x[i]))
            downhill = jnp.where(jnp.isfinite(downhill), downhill, x[i])
            newton = jnp.clip(x[i] - gradient / jnp.where(curved, curvature, 1), lower[i], upper[i])
            step = jnp.where(curved, newton, downhill) - x[i]
            return x.at[i].add(step), product + step * row

        old = flat(params, c.dtype)
        x, _ = lax.fori_loop(0, c.size, coordinate, (old, state.product))
        product = objective.P.matvec(x)  # what is only brought up to date gathers rounding
        # The curvature along the sweep comes with it.
        d, image = x - old, product - state.product
        curved_down = d @ image < -jnp.sqrt(jnp.finfo(c.dtype).eps) * (jnp.abs(d) @ jnp.abs(image))
        state = self._judge(objective, lower, upper, x, product, state.iter_num + 1, curved_down)
        return OptStep(objective.variables(x), state)

    def _judge(self, objective, lower, upper, x, product, iter_num, curved_down=False) -> BoxCDState:
        c, curvature = objective.q, objective.P.diagonal()
        gradient, curved = product + c, curvature > 0
        # By how much the gradient of a coordinate is not that of a minimizer: all of it, but for what a bound takes up.
        at_bound = jnp.where(gradient > 0, x <= lower, x >= upper)
        step = x - jnp.clip(x - gradient / jnp.where(curved, curvature, 1), lower, upper)
        left = jnp.where(curved, curvature * step, jnp.where(at_bound, 0, gradient))
        # The terms of the gradient are c and Q x, and Q x is at most this by the inequality of Cauchy and Schwarz.
        size = jnp.abs(c) + jnp.sqrt(jnp.abs(curvature)) * jnp.sqrt(jnp.abs(x @ product))
        error = tree_l2_norm(left / jnp.where(size > 0, size, 1))
        # A coordinate with neither curvature nor a bound downhill.
        endless = ~curved & (((c > 0) & (lower == -jnp.inf)) | ((c < 0) & (upper == jnp.inf)))
        status = self._status_of(error, failed=jnp.any(endless), failure=Status.DUAL_INFEASIBLE)
        empty = jnp.any((lower > upper) | (lower == jnp.inf) | (upper == -jnp.inf))
        status = Status.PRIMAL_INFEASIBLE.where(empty, status)
        status = Status.NONCONVEX.where(jnp.any(objective.P.diagonal() < 0) | curved_down, status)
        return BoxCDState(iter_num, error, product, status)

    def optimality_fun(self, params: PyTree, params_obj: Any = None, params_ineq: Any = None) -> PyTree:
        """The residual ``x - clip(x - (Q x + c), l, u)`` of projected gradient, a pytree like ``params``."""
        objective, lower, upper = self._problem(params_obj, params_ineq)
        x = flat(params, objective.q.dtype)
        return unraveled(params)(x - jnp.clip(x - (objective.P.matvec(x) + objective.q), lower, upper))
