r"""Limited-memory BFGS.

Problem: minimize a smooth function :math:`f(x, \theta)`. Method: descent along :math:`-H_k \nabla f(x_k)`, where the
inverse Hessian approximation :math:`H_k` is built from the last ``history_size`` pairs
:math:`s_i = x_{i+1} - x_i`, :math:`y_i = \nabla f(x_{i+1}) - \nabla f(x_i)`. Optimality: :math:`\nabla_1 f(x, \theta) =
0`.

The product with :math:`H_k` uses the compact representation (Byrd, Nocedal and Schnabel 1994, equation 3.1) rather than
the two-loop recursion (Nocedal and Wright 2006, algorithm 7.4): a handful of matrix-vector products with the histories,
where the recursion needs twice as many dependent steps as there are pairs. The triangular matrix in it is kept as its
inverse, which a new pair extends by one column and an old one leaves by losing its row and column.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._compat import on_every_device
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.base import option
from jaxsolve.solvers._descent_method import DescentMethod
from jaxsolve.solvers._stepsize import curvature_scale, first_length, times
from jaxsolve.tree_util import tree_l2_norm, tree_real_dtype, tree_scalar_mul

__all__ = ["LBFGS", "LBFGSState"]


class LBFGSState(NamedTuple):
    r"""State of L-BFGS.

    Attributes:
        iter_num: number of iterations done, int32.
        value: ``fun`` at the current parameters.
        grad: its gradient there, a pytree like the parameters.
        stepsize: last step size.
        error: Euclidean norm of ``grad``, measured in the units of ``scale``.
        s_history: differences of parameters, one pytree leaf of shape (history_size, \*leaf.shape) a leaf; a ring
            buffer in which iteration ``k`` writes row ``k % history_size``.
        y_history: differences of gradients, likewise.
        rho_history: 1 / <s, y> for each row, shape (history_size,); 0 marks a row that is not used.
        gamma: the scaling of the initial inverse Hessian.
        aux: auxiliary output of ``fun``.
        failed_linesearch: whether the last line search failed.
        num_fun_eval: evaluations of ``fun``, int32.
        num_grad_eval: evaluations of its gradient, int32.
        num_linesearch_iter: trial steps of all line searches, int32.
        status: a :class:`jaxsolve.Status`, int32.
        r_inverse: inverse of the triangular matrix of the inner products <s_i, y_j>, i no newer than j, in the order of
            the ring buffer, shape (history_size, history_size); rows and columns of unused pairs are 0.
        yy: inner products <y_i, y_j>, in the same order.
        first_error: ``error`` at the initial point.
        num_stalled: steps in a row whose change of the value was rounding and that did not lower the error; one after
            a search that failed counts twice; int32.
        scale: units of the variables in which the histories are kept, a pytree like the parameters; or ``None``.
    """

    iter_num: Array
    value: Array
    grad: Any
    stepsize: Array
    error: Array
    s_history: Any
    y_history: Any
    rho_history: Array
    gamma: Array
    aux: Any = None
    failed_linesearch: Any = False
    num_fun_eval: Any = 0
    num_grad_eval: Any = 0
    num_linesearch_iter: Any = 0
    status: Any = 0
    r_inverse: Any = None
    yy: Any = None
    first_error: Any = None
    num_stalled: Any = 0
    scale: Any = None


class LBFGS(DescentMethod):
    """L-BFGS with a strong-Wolfe, backtracking or Hager-Zhang line search, or a fixed step size.

    ``run(init_params, *args, **kwargs)`` minimizes ``fun(params, *args, **kwargs)``. A line search that fails drops the
    history and is tried again along the negative gradient; if it fails there too, the run ends with
    ``Status.LINESEARCH_FAILED``.

    A result ``OptStep(params, state)`` of an earlier run, as initial point of ``run`` or ``init_state``, hands on its
    history, its step size and its count of iterations; ``fun`` and its data may have changed in between.

    With ``linesearch_init="increase"`` no search starts below a step of 1.

    Attributes:
        history_size: number of pairs that are kept; without any, the method is steepest descent.
        use_gamma: scale the initial inverse Hessian by <s, y> / <y, y> of the last pair; before there is one, so that
            the first trial step is as long as the initial point, or as value over gradient norm, whichever is shorter.
            Without it the first trial step is the negative gradient, which has another unit than the parameters.

        scale: ``"jacobi"`` measures every variable in a unit in which the second derivative at the initial point is
            about 1, which costs as many products with the Hessian as there are variables, once. The method then does
            not depend on the units in which variables, or blocks of them, are given; ``state.error`` and the tolerances
            are those of the gradient in these units.

    Reference:
        Liu and Nocedal (1989), "On the limited memory BFGS method for large scale optimization"; Byrd, Nocedal and
        Schnabel (1994), "Representations of quasi-Newton matrices and their use in limited memory methods".

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> def rosenbrock(x, a):
        ...     return jnp.sum((a - x[:-1]) ** 2 + 100.0 * (x[1:] - x[:-1] ** 2) ** 2)
        >>> solver = jaxsolve.LBFGS(rosenbrock, tol=1e-4)
        >>> solver.run(jnp.zeros(2), 1.0).params.round(2).tolist()
        [1.0, 1.0]
        >>> jax.jacobian(lambda a: solver.run(jnp.zeros(2), a).params)(1.0).round(2).tolist()
        [1.0, 2.0]
    """

    history_size: int = option(10, at_least=0)
    scale: str | None = option(None, among=(None, "jacobi"))
    use_gamma: bool = option(True)

    _State = LBFGSState
    _treats_leaves_alike = True
    _resumed_fields = (
        "iter_num", "stepsize", "s_history", "y_history", "rho_history", "gamma", "r_inverse", "yy", "first_error",
        "scale",
    )  # fmt: skip

    def _validate(self) -> None:
        """Raise for an impossible option."""
        super()._validate()
        if not isinstance(self.history_size, int):
            raise TypeError(f"history_size must be a number known at compile time, got {self.history_size!r}.")

    def _has_memory(self, state: LBFGSState) -> Array:
        return jnp.any(state.rho_history > 0)

    def _first_trial(self, state: LBFGSState) -> Array:
        trial = super()._first_trial(state)
        if not self.history_size:
            return jnp.maximum(trial, state.stepsize)
        longest = self._longest_trial(trial.dtype)
        if self.linesearch_init == "increase":
            # A quasi-Newton direction has a length of its own: nothing is won by starting below it.
            trial = jnp.maximum(trial, 1)
        # Without pairs a long step is one that may be repeated.
        alone = jnp.maximum(state.stepsize, longest)
        return jnp.where(self._has_memory(state), jnp.minimum(trial, longest), alone)

    # ---- The memory -----------------------------------------------------------------------------------------------

    def _empty_memory(
        self, init_params: PyTree, value: Array, grad: PyTree, args: tuple, kwargs: dict
    ) -> dict[str, Any]:
        dtype, size = tree_real_dtype(init_params), self.history_size
        scale = None
        if self.scale is not None:
            scale = curvature_scale(lambda x: self._objective.grad(x, *args, **kwargs), init_params)
        gamma = jnp.ones((), dtype)
        if self.use_gamma and (size or self._searches):
            slope = tree_l2_norm(times(grad, scale)).astype(dtype)
            gamma = first_length(times(init_params, scale, -1), value, slope) / jnp.where(slope > 0, slope, 1)

        def history():
            # Sharded like the parameters. Pairs of low-precision ones are kept in float32: their differences cancel.
            return jax.tree.map(
                lambda x: jnp.broadcast_to(jnp.zeros_like(x, tree_real_dtype(x)), (size, *jnp.shape(x))), init_params
            )

        return {
            "s_history": history(),
            "y_history": history(),
            "rho_history": jnp.zeros(size, dtype),
            "gamma": gamma,
            "scale": scale,
            "r_inverse": jnp.zeros((size, size), dtype),
            "yy": jnp.zeros((size, size), dtype),
        }

    def _direction(self, params: PyTree, state: LBFGSState) -> PyTree:
        r"""The direction :math:`-H \nabla f`.

        With the pairs as the columns of :math:`S` and :math:`Y`, oldest first, :math:`R` the upper triangle of
        :math:`S^T Y` and :math:`D` its diagonal,

        .. math::

            H g = \gamma g + S w - \gamma Y u, \qquad u = R^{-1} S^T g, \qquad
            w = R^{-T} \bigl(D u + \gamma (Y^T Y u - Y^T g)\bigr).

        A permutation of the pairs permutes rows and columns of every matrix alike, so the order of the ring buffer
        serves.
        """
        if not self.history_size:
            return times(tree_scalar_mul(-state.gamma, state.grad), state.scale, 2)
        dtype, rho = state.gamma.dtype, state.rho_history
        used = rho > 0
        gamma = state.gamma
        gradient = times(state.grad, state.scale)
        u = state.r_inverse @ _rows_dot(state.s_history, gradient, dtype)
        diagonal = jnp.where(used, 1 / jnp.where(used, rho, 1), 0)
        along = diagonal * u + gamma * (state.yy @ u - _rows_dot(state.y_history, gradient, dtype))
        w, v = along @ state.r_inverse, gamma * u

        def combine(grad, s_rows, y_rows):
            of_s, of_y = _weighted_sum(w, s_rows), _weighted_sum(v, y_rows)
            return (of_y - of_s - gamma.astype(s_rows.dtype) * grad.astype(s_rows.dtype)).astype(grad.dtype)

        return times(jax.tree.map(combine, gradient, state.s_history, state.y_history), state.scale)

    def _remember(self, old: OptStep, new: OptStep, moved: Array) -> LBFGSState:
        """Write the new pair over the oldest one, or forget everything if the search went nowhere."""
        if not self.history_size:
            return new.state
        (params, state), (new_params, new_state) = old, new
        dtype, row = state.gamma.dtype, state.iter_num % self.history_size
        s = times(_difference(new_params, params), state.scale, -1)
        y = times(_difference(new_state.grad, state.grad), state.scale)
        s_history, y_history = _write(state.s_history, s, row), _write(state.y_history, y, row)
        s_dot_y, y_dot_y = _rows_dot(s_history, y, dtype), _rows_dot(y_history, y, dtype)
        curvature, length = s_dot_y[row], y_dot_y[row]
        # Without positive curvature the pair would make H indefinite (Nocedal and Wright, section 7.2). It is what is
        # more than the rounding errors of the inner product.
        least = float(jnp.finfo(dtype).eps) * jnp.sqrt(length) * tree_l2_norm(s).astype(dtype)
        curved = moved & (curvature > least) & (length > 0)
        rho = jnp.where(curved, 1 / jnp.where(curved, curvature, 1), 0)
        gamma = jnp.where(curved, curvature / jnp.where(curved, length, 1), state.gamma)

        here = jnp.arange(self.history_size, dtype=jnp.int32) == row
        new_row, new_column = here[:, None], here[None, :]
        r_inverse = jnp.where(new_row | new_column | ~moved, 0, state.r_inverse)
        column = rho * (here.astype(dtype) - r_inverse @ jnp.where(here, 0, s_dot_y))
        stepsize = new_state.stepsize
        if self._searches:
            # Without pairs the direction has another length, and the step size does not carry over.
            longest = self._longest_trial(stepsize.dtype)
            stepsize = jnp.where(self._has_memory(state) | ~curved, stepsize, longest)
        return new_state._replace(
            stepsize=stepsize,
            s_history=s_history,
            y_history=y_history,
            rho_history=jnp.where(here, rho, jnp.where(moved, state.rho_history, 0)),
            gamma=gamma if self.use_gamma else state.gamma,
            r_inverse=jnp.where(new_column, column[:, None], r_inverse),
            yy=jnp.where(new_row, y_dot_y[None, :], jnp.where(new_column, y_dot_y[:, None], state.yy)),
        )


def _difference(new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: a.astype(tree_real_dtype(a)) - b.astype(tree_real_dtype(b)), new, old)


def _write(history: PyTree, pair: PyTree, row: Array) -> PyTree:
    return jax.tree.map(lambda rows, new: lax.dynamic_update_index_in_dim(rows, new, row, 0), history, pair)


def _rows_dot(history: PyTree, tree: PyTree, dtype) -> Array:
    """Inner product of every row of a history with a pytree; shape (history_size,)."""

    def leaf_dot(rows, leaf):
        axes = (tuple(range(1, rows.ndim)), tuple(range(leaf.ndim)))
        leaf = leaf.astype(rows.dtype)
        product = lax.dot_general(
            rows, leaf, (axes, ((), ())), precision=lax.Precision.HIGHEST, out_sharding=on_every_device()
        )
        return product.astype(dtype)

    return sum(jax.tree.leaves(jax.tree.map(leaf_dot, history, tree)))  # type: ignore[return-value]  # never empty


def _weighted_sum(weights: Array, rows: Array) -> Array:
    weights = weights.astype(rows.dtype)
    return lax.dot_general(weights, rows, (((0,), (0,)), ((), ())), precision=lax.Precision.HIGHEST)
