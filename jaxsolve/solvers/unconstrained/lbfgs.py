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
from jaxsolve._docstrings import with_fields_of
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.base import option
from jaxsolve.solvers._descent_method import DescentMethod, DescentState
from jaxsolve.solvers._stepsize import curvature_scale, times
from jaxsolve.solvers.unconstrained._quasi_newton import QuasiNewtonMethod, difference, first_scaling
from jaxsolve.tree_util import tree_real_dtype, tree_scalar_mul

__all__ = ["LBFGS", "LBFGSState"]


@with_fields_of(DescentState)
class LBFGSState(NamedTuple):
    r"""State of L-BFGS: the fields of :class:`~jaxsolve.solvers.DescentState`, and those of the histories.

    Attributes:
        error: Euclidean norm of ``grad``, measured in the units of ``scale``.
        history: differences s of parameters and y of gradients, in pairs, with one array of shape
            (2 history_size, \*leaf.shape) for each leaf: a ring buffer in which iteration ``k`` writes s to row ``2 i``
            and y to row ``2 i + 1`` for ``i = k % history_size``.
        gram: two matrices in the order of the ring buffer, shape (2, history_size, history_size): the inverse of the
            triangular matrix of the inner products <s_i, y_j>, i no newer than j, in which rows and columns of unused
            pairs are 0, and the inner products <y_i, y_j>.
        gamma: the scaling of the initial inverse Hessian.
        scale: units of the variables in which the histories are kept, a pytree like the parameters; or ``None``.
    """

    iter_num: Array
    value: Array
    grad: Any
    stepsize: Array
    error: Array
    history: Any
    gram: Array
    gamma: Array
    aux: Any = None
    failed_linesearch: Any = False
    num_fun_eval: Any = 0
    num_grad_eval: Any = 0
    num_linesearch_iter: Any = 0
    status: Any = 0
    first_error: Any = None
    num_stalled: Any = 0
    scale: Any = None

    @property
    def s_history(self) -> PyTree:
        r"""Differences of parameters, a leaf of shape (history_size, \*leaf.shape) for each leaf."""
        return jax.tree.map(lambda rows: rows[0::2], self.history)

    @property
    def y_history(self) -> PyTree:
        """Differences of gradients, in the same form."""
        return jax.tree.map(lambda rows: rows[1::2], self.history)

    @property
    def rho_history(self) -> Array:
        """1 / <s, y> of each pair, shape (history_size,); 0 marks a row of the histories that is not used."""
        size = self.gram.shape[-1]
        # The diagonal as a slice, which needs no kernel of its own.
        return lax.slice(self.gram[0].reshape(-1), (0,), (size * size,), (size + 1,))


class LBFGS(QuasiNewtonMethod):
    """L-BFGS with a strong-Wolfe, backtracking or Hager-Zhang line search, or a fixed step size.

    ``run(init_params, *args, **kwargs)`` minimizes ``fun(params, *args, **kwargs)``. After a failed line search the
    history is cleared, and a search along the negative gradient is tried; if that fails too, the run ends with
    ``Status.LINESEARCH_FAILED``.

    If ``run`` or ``init_state`` gets the result ``OptStep(params, state)`` of an earlier run as initial point, the new
    run continues with its history, its step size and its number of iterations; ``fun`` and its data may have changed in
    between.

    With ``linesearch_init="increase"`` the first trial step of a search is at least 1.

    Attributes:
        history_size: number of pairs that are kept; with 0 the method is steepest descent.
        use_gamma: scale the initial inverse Hessian by <s, y> / <y, y> of the last pair. Before the first pair the
            scaling is such that the length of the first trial step is the norm of the initial point, or value divided
            by gradient norm, whichever is shorter. With ``False`` the first trial step is the negative gradient, whose
            unit is not that of the parameters.

        scale: ``"jacobi"`` measures every variable in a unit in which the second derivative at the initial point is
            about 1. This costs one product with the Hessian for each variable, once. The method then does not depend
            on the units in which single variables are given; ``state.error`` and the tolerances refer to the gradient
            in these units.

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
        "iter_num", "stepsize", "history", "gram", "gamma", "first_error", "scale",
    )  # fmt: skip

    def _validate(self) -> None:
        """Raise for an impossible option."""
        super()._validate()
        if not isinstance(self.history_size, int):
            raise TypeError(f"history_size must be a number known at compile time, got {self.history_size!r}.")

    def _has_memory(self, state: LBFGSState) -> Array:
        return jnp.any(state.rho_history > 0)

    def _first_trial(self, state: LBFGSState) -> Array:
        if not self.history_size:
            return jnp.maximum(DescentMethod._first_trial(self, state), state.stepsize)
        return super()._first_trial(state)

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
            gamma = first_scaling(times(init_params, scale, -1), value, times(grad, scale))

        # Sharded like the parameters. Pairs of low-precision ones are kept in float32: their differences cancel.
        history = jax.tree.map(
            lambda x: jnp.broadcast_to(jnp.zeros_like(x, tree_real_dtype(x)), (2 * size, *jnp.shape(x))), init_params
        )
        return {"history": history, "gram": jnp.zeros((2, size, size), dtype), "gamma": gamma, "scale": scale}

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
        gamma, rho = state.gamma, state.rho_history
        used = rho > 0
        gradient = times(state.grad, state.scale)
        along_s, along_y = _products(state.history, _stacked(gradient), gamma.dtype)[:, :, 0].T
        # Each product with both matrices at once, of which one is used: slices would be kernels of their own.
        u = (state.gram @ along_s)[0]
        diagonal = jnp.where(used, 1 / jnp.where(used, rho, 1), 0)
        w = ((diagonal * u + gamma * ((state.gram @ u)[1] - along_y)) @ state.gram)[0]
        weights = jnp.stack([-w, gamma * u], axis=1).reshape(-1)

        def combine(grad, rows):
            product = lax.dot_general(
                weights.astype(rows.dtype), rows, (((0,), (0,)), ((), ())), precision=lax.Precision.HIGHEST
            )
            return (product - gamma.astype(rows.dtype) * grad.astype(rows.dtype)).astype(grad.dtype)

        return times(jax.tree.map(combine, gradient, state.history), state.scale)

    def _remember(self, old: OptStep, new: OptStep, moved: Array) -> LBFGSState:
        """Write the new pair over the oldest one, or forget everything if the search went nowhere."""
        if not self.history_size:
            return new.state
        (params, state), (new_params, new_state) = old, new
        # Unsigned: an index that may be negative is examined first.
        row = lax.rem(state.iter_num.astype(jnp.uint32), jnp.uint32(self.history_size))
        s = times(difference(new_params, params), state.scale, -1)
        y = times(difference(new_state.grad, state.grad), state.scale)
        pair = _stacked(s, y)
        history = jax.tree.map(
            lambda rows, new: lax.dynamic_update_slice_in_dim(rows, new, 2 * row, 0), state.history, pair
        )
        products = _products(history, pair, state.gamma.dtype)
        (s_dot_s, s_dot_y), (_, y_dot_y) = products[row]
        # Without positive curvature the pair would make H indefinite (Nocedal and Wright, section 7.2). It is what is
        # more than the rounding errors of the inner product: <s, y> > eps |s| |y|, here in squares, none of which has
        # the square of the unit of the objective, and in powers of 2.
        curved = moved & (s_dot_y > 0) & (y_dot_y > 0)
        numerators, denominators = jnp.stack([s_dot_y, jnp.ones_like(s_dot_y)]), jnp.stack([y_dot_y, s_dot_y])
        gamma, rho = numerators / jnp.where(curved, denominators, 1)
        inverse_eps = 1 / float(jnp.finfo(gamma.dtype).eps)
        curved = curved & ((gamma * inverse_eps) * (s_dot_y * inverse_eps) > s_dot_s)
        rho = jnp.where(curved, rho, 0)
        gamma = jnp.where(curved & self.use_gamma, gamma, state.gamma)

        here = jnp.arange(self.history_size, dtype=row.dtype) == row
        earlier = jnp.where(here, 0, products[:, 0, 1])
        new_column = jnp.stack([rho * jnp.where(here, 1, -(state.gram @ earlier)[0]), products[:, 1, 1]])
        new_row = new_column * jnp.asarray([[0], [1]], rho.dtype)
        kept = jnp.stack([moved, jnp.asarray(True)])[:, None, None]
        gram = jnp.where(here[:, None], new_row[:, None, :], jnp.where(kept, state.gram, 0))
        gram = jnp.where(here[None, :], new_column[:, :, None], gram)
        return new_state._replace(
            stepsize=self._carried_stepsize(state, new_state.stepsize, curved),
            history=history,
            gram=gram,
            gamma=gamma,
        )


def _stacked(*trees: PyTree) -> PyTree:
    """Pytrees of one structure as one, with a further axis in front of each leaf."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _products(history: PyTree, trees: PyTree, dtype) -> Array:
    """Inner products of all rows of a history with k stacked pytrees; shape (history_size, 2, k)."""

    def of_leaf(rows, leaves):
        axes = (tuple(range(1, rows.ndim)), tuple(range(1, leaves.ndim)))
        product = lax.dot_general(
            rows,
            leaves.astype(rows.dtype),
            (axes, ((), ())),
            precision=lax.Precision.HIGHEST,
            out_sharding=on_every_device(),
        )
        return product.astype(dtype)

    products: Any = sum(jax.tree.leaves(jax.tree.map(of_leaf, history, trees)))
    return products.reshape(-1, 2, products.shape[-1])
