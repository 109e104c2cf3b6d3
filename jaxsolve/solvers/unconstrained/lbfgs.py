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

from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.base import check_flags, check_number, option
from jaxsolve.solvers._descent_method import DescentMethod
from jaxsolve.solvers._stepsize import stepsize_at
from jaxsolve.tree_util import (
    tree_add_scalar_mul,
    tree_all_finite,
    tree_l2_norm,
    tree_real_dtype,
    tree_where,
)

__all__ = ["LBFGS", "LBFGSState"]


class LBFGSState(NamedTuple):
    r"""State of L-BFGS.

    Attributes:
        iter_num: number of iterations done, int32.
        value: ``fun`` at the current parameters.
        grad: its gradient there, a pytree like the parameters.
        stepsize: last step size.
        error: Euclidean norm of ``grad``.
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


class LBFGS(DescentMethod):
    """L-BFGS with a strong-Wolfe, backtracking or Hager-Zhang line search, or a fixed step size.

    ``run(init_params, *args, **kwargs)`` minimizes ``fun(params, *args, **kwargs)``. A line search that fails drops the
    history and is tried again along the negative gradient; if it fails there too, the run ends with
    ``Status.LINESEARCH_FAILED``.

    A result ``OptStep(params, state)`` of an earlier run, as initial point of ``run`` or ``init_state``, hands on its
    history, its step size and its count of iterations; ``fun`` and its data may have changed in between.

    With ``linesearch_init="increase"`` no search starts below a step of 1.

    Attributes:
        stop_if_linesearch_fails: end the run at the first line search that fails.
        history_size: number of pairs that are kept, at least 1.
        use_gamma: scale the initial inverse Hessian by <s, y> / <y, y> of the last pair.

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

    stop_if_linesearch_fails: bool = option(False)
    history_size: int = option(10)
    use_gamma: bool = option(True)

    _resumed_fields = (
        "iter_num", "stepsize", "s_history", "y_history", "rho_history", "gamma", "r_inverse", "yy"
    )  # fmt: skip

    def _validate(self) -> None:
        """Raise for an impossible option."""
        super()._validate()
        check_flags(self, "stop_if_linesearch_fails", "use_gamma")
        check_number("history_size", self.history_size, at_least=1)
        if not isinstance(self.history_size, int):
            raise TypeError(f"history_size must be a number known at compile time, got {self.history_size!r}.")

    def init_state(self, init_params: PyTree, *args: Any, **kwargs: Any) -> LBFGSState:
        """The state before the first iteration; the arguments are those of ``run``. Evaluates ``fun`` once."""
        (value, aux), grad = self._objective.value_and_grad(init_params, *args, **kwargs)
        dtype, size = tree_real_dtype(init_params), self.history_size
        error = tree_l2_norm(grad).astype(dtype)

        def history():
            return jax.tree.map(lambda x: jnp.zeros((size, *jnp.shape(x)), _history_dtype(x)), init_params)

        one = jnp.ones((), jnp.int32)
        return LBFGSState(
            iter_num=jnp.zeros((), jnp.int32),
            value=value,
            grad=grad,
            stepsize=jnp.asarray(self.max_stepsize).astype(dtype),
            error=error,
            s_history=history(),
            y_history=history(),
            rho_history=jnp.zeros(size, dtype),
            gamma=jnp.ones((), dtype),
            aux=aux,
            failed_linesearch=jnp.asarray(False),
            num_fun_eval=one,
            num_grad_eval=one,
            num_linesearch_iter=jnp.zeros((), jnp.int32),
            status=self._status_of(jnp.where(jnp.isfinite(value), error, jnp.asarray(jnp.nan, dtype))),
            r_inverse=jnp.zeros((size, size), dtype),
            yy=jnp.zeros((size, size), dtype),
        )

    def update(self, params: PyTree, state: LBFGSState, *args: Any, **kwargs: Any) -> OptStep:
        """One step along the L-BFGS direction; returns ``OptStep(params, state)``."""
        direction = self._direction(state)
        if self._fixed_stepsize:
            step = self._fixed_step(params, state, direction, args, kwargs)
        else:
            step = self._searched_step(params, state, direction, args, kwargs)
        new_params, new_state, moved = step

        error = tree_l2_norm(new_state.grad).astype(state.error.dtype)
        used_history = jnp.any(state.rho_history > 0)
        # A search that went nowhere is tried again without the history, unless there was none.
        failed = new_state.failed_linesearch & (self.stop_if_linesearch_fails | (~moved & ~used_history))
        new_state = new_state._replace(
            iter_num=state.iter_num + 1,
            error=error,
            status=jnp.where(
                Status.NONFINITE.holds(new_state.status),
                new_state.status,
                self._status_of(error, failed=failed, failure=Status.LINESEARCH_FAILED),
            ),
        )
        return OptStep(new_params, self._remember(params, new_params, state, new_state, moved))

    # ---- The step -------------------------------------------------------------------------------------------------

    def _fixed_step(self, params, state, direction, args, kwargs):
        stepsize = stepsize_at(self.stepsize, state.iter_num, state.stepsize.dtype)
        new_params = tree_add_scalar_mul(params, stepsize, direction)
        (value, aux), grad = self._objective.value_and_grad(new_params, *args, **kwargs)
        finite = jnp.isfinite(value) & tree_all_finite(grad)
        new_params = tree_where(finite, new_params, params)
        new = state._replace(value=value, grad=grad, aux=aux, stepsize=stepsize)
        new = new._replace(
            **{k: tree_where(finite, getattr(new, k), getattr(state, k)) for k in ("value", "grad", "aux")}
        )
        new = new._replace(
            num_fun_eval=state.num_fun_eval + 1,
            num_grad_eval=state.num_grad_eval + 1,
            status=Status.NONFINITE.where(~finite, state.status),
        )
        return new_params, new, finite

    def _searched_step(self, params, state, direction, args, kwargs):
        bare = ~jnp.any(state.rho_history > 0)
        longest = jnp.asarray(self.max_stepsize).astype(state.stepsize.dtype)
        trial = self._first_trial(params, state.stepsize)
        if self.linesearch_init == "increase":
            # A quasi-Newton direction has a length of its own: nothing is won by starting below it.
            trial = jnp.minimum(jnp.maximum(trial, 1), longest)
        trial = jnp.where(bare, longest, trial)
        stepsize, search = self._line_search().run(
            trial, params, state.value, state.grad, direction, args, kwargs, aux=state.aux
        )
        moved = stepsize > 0
        new = state._replace(
            value=search.value,
            grad=search.grad,
            aux=search.aux,
            # The next search starts from the last step that was one.
            stepsize=jnp.where(moved & ~bare, stepsize, longest),
            failed_linesearch=search.failed,
            num_fun_eval=state.num_fun_eval + search.num_fun_eval,
            num_grad_eval=state.num_grad_eval + search.num_grad_eval,
            num_linesearch_iter=state.num_linesearch_iter + search.iter_num,
        )
        return search.params, new, moved

    # ---- The memory -----------------------------------------------------------------------------------------------

    def _direction(self, state: LBFGSState) -> PyTree:
        r"""The direction :math:`-H \nabla f`.

        With the pairs as the columns of :math:`S` and :math:`Y`, oldest first, :math:`R` the upper triangle of
        :math:`S^T Y` and :math:`D` its diagonal,

        .. math::

            H g = \gamma g + S w - \gamma Y u, \qquad u = R^{-1} S^T g, \qquad
            w = R^{-T} \bigl(D u + \gamma (Y^T Y u - Y^T g)\bigr).

        A permutation of the pairs permutes rows and columns of every matrix alike, so the order of the ring buffer
        serves.
        """
        dtype, rho = state.gamma.dtype, state.rho_history
        used = rho > 0
        gamma = state.gamma
        if self.use_gamma:
            # Without a pair to tell the scale, a step of 1 moves by 1.
            shortest = jnp.finfo(dtype).tiny
            gamma = jnp.where(jnp.any(used), gamma, 1 / jnp.maximum(state.error, shortest))
        u = state.r_inverse @ _rows_dot(state.s_history, state.grad, dtype)
        diagonal = jnp.where(used, 1 / jnp.where(used, rho, 1), 0)
        along = diagonal * u + gamma * (state.yy @ u - _rows_dot(state.y_history, state.grad, dtype))
        w, v = along @ state.r_inverse, gamma * u

        def combine(grad, s_rows, y_rows):
            of_s, of_y = _weighted_sum(w, s_rows), _weighted_sum(v, y_rows)
            return (of_y - of_s - gamma.astype(s_rows.dtype) * grad.astype(s_rows.dtype)).astype(grad.dtype)

        return jax.tree.map(combine, state.grad, state.s_history, state.y_history)

    def _remember(self, params, new_params, state: LBFGSState, new_state: LBFGSState, moved: Array) -> LBFGSState:
        """Write the new pair over the oldest one, or forget everything if the search went nowhere."""
        dtype, row = state.gamma.dtype, state.iter_num % self.history_size
        s, y = _difference(new_params, params), _difference(new_state.grad, state.grad)
        s_history, y_history = _write(state.s_history, s, row), _write(state.y_history, y, row)
        s_dot_y, y_dot_y = _rows_dot(s_history, y, dtype), _rows_dot(y_history, y, dtype)
        curvature, length = s_dot_y[row], y_dot_y[row]
        # Without positive curvature the pair would make H indefinite (Nocedal and Wright, section 7.2).
        curved = moved & (curvature > jnp.finfo(dtype).eps * length)
        rho = jnp.where(curved, 1 / jnp.where(curved, curvature, 1), 0)
        gamma = jnp.where(curved, curvature / jnp.where(curved, length, 1), state.gamma)

        new = jnp.arange(self.history_size, dtype=jnp.int32) == row
        new_row, new_column = new[:, None], new[None, :]
        r_inverse = jnp.where(new_row | new_column | ~moved, 0, state.r_inverse)
        column = rho * (new.astype(dtype) - r_inverse @ jnp.where(new, 0, s_dot_y))
        return new_state._replace(
            s_history=s_history,
            y_history=y_history,
            rho_history=jnp.where(new, rho, jnp.where(moved, state.rho_history, 0)),
            gamma=gamma if self.use_gamma else state.gamma,
            r_inverse=jnp.where(new_column, column[:, None], r_inverse),
            yy=jnp.where(new_row, y_dot_y[None, :], jnp.where(new_column, y_dot_y[:, None], state.yy)),
        )


def _history_dtype(leaf):
    """Pairs of low-precision parameters are kept in float32: their differences cancel."""
    return tree_real_dtype(leaf)


def _difference(new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: a.astype(_history_dtype(a)) - b.astype(_history_dtype(b)), new, old)


def _write(history: PyTree, pair: PyTree, row: Array) -> PyTree:
    return jax.tree.map(lambda rows, new: lax.dynamic_update_index_in_dim(rows, new, row, 0), history, pair)


def _rows_dot(history: PyTree, tree: PyTree, dtype) -> Array:
    """Inner product of every row of a history with a pytree; shape (history_size,)."""

    def leaf_dot(rows, leaf):
        axes = (tuple(range(1, rows.ndim)), tuple(range(leaf.ndim)))
        leaf = leaf.astype(rows.dtype)
        return lax.dot_general(rows, leaf, (axes, ((), ())), precision=lax.Precision.HIGHEST).astype(dtype)

    return sum(jax.tree.leaves(jax.tree.map(leaf_dot, history, tree)))  # type: ignore[return-value]  # never empty


def _weighted_sum(weights: Array, rows: Array) -> Array:
    weights = weights.astype(rows.dtype)
    return lax.dot_general(weights, rows, (((0,), (0,)), ((), ())), precision=lax.Precision.HIGHEST)
