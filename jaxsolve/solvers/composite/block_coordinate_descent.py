r"""Block coordinate descent.

Problem: minimize :math:`f(x, \theta) + \sum_j g(x_j, \eta)`, with :math:`f` smooth and :math:`g` given by its proximity
operator; :math:`x_j` are the entries, or rows, of an array.
Method: proximal gradient steps on one block at a time, see :mod:`jaxsolve.solvers.composite._blocks`, in a fixed or
random order, or on a working set, see :mod:`jaxsolve.solvers.composite._working_set`. For :math:`f(x) = h(A x) +
\langle x, b\rangle` the predictions :math:`A x` are kept up to date, so that a block costs one column of :math:`A`.
Optimality: the fixed point :math:`x_j = \operatorname{prox}_g(x_j - [\nabla_1 f(x, \theta)]_j, \eta)` of every block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._loop import run_if_any
from jaxsolve._types import Array, OptStep
from jaxsolve.base import IterativeSolver, option
from jaxsolve.base._objective import Objective
from jaxsolve.linear_solve import DIRECT_MAX_SIZE
from jaxsolve.solvers._stepsize import natural_stepsize
from jaxsolve.solvers.composite._blocks import BlockProx, Point, positive, sweep
from jaxsolve.solvers.composite._linear_model import LinearModel, StagedComposite, is_composite
from jaxsolve.solvers.composite._restricted import inverse_curvatures, restricted_residual
from jaxsolve.solvers.composite._working_set import bucket_sizes, descend
from jaxsolve.tree_util import tree_l2_norm

__all__ = ["BlockCDState", "BlockCoordinateDescent"]

_SELECTIONS = ("auto", "cyclic", "random", "working_set", "greedy")
# The predictions follow from the steps. Before that collects more rounding errors than a product with A has, they are
# computed anew: after every sweep, which costs more by far, and after so many working sets.
_REFRESH = 20


class BlockCDState(NamedTuple):
    """State of block coordinate descent.

    Attributes:
        iter_num: number of iterations done, int32.
        error: Euclidean norm of ``optimality_fun`` at the current parameters.
        predictions: ``A x``, of shape ``(n,)`` or ``(n, k)``; the parameters themselves if ``fun`` is not composite.
        subfun_g: gradient of ``subfun`` (or of ``fun``) at the predictions, of the same shape.
        num_fun_eval: evaluations of ``fun`` without its gradient, int32.
        num_prox_eval: evaluations of ``block_prox`` on single blocks, int32.
        num_grad_eval: gradients of ``subfun`` (or of ``fun``), int32.
        status: a :class:`jaxsolve.Status`, int32.
        value: ``fun`` at the current parameters.
        grad: its gradient, like the parameters.
        curvature: the inverse step size of each block, of shape ``(d,)``; 0 for blocks without a step so far.
        free: the blocks that were free to move on the last working set, booleans of shape ``(d,)``.
        first_error: the error of the initial point, used with ``rtol``; ``None`` if ``rtol`` is 0.
    """

    iter_num: Array
    error: Array
    predictions: Any
    subfun_g: Any
    num_fun_eval: Any = 0
    num_prox_eval: Any = 0
    num_grad_eval: Any = 0
    status: Any = 0
    value: Any = None
    grad: Any = None
    curvature: Any = None
    free: Any = None
    first_error: Any = None


class BlockCoordinateDescent(IterativeSolver):
    """Block coordinate descent: cyclic, in random order, or by working sets.

    ``run(init_params, hyperparams_prox, *args, **kwargs)`` minimizes ``fun(params, *args, **kwargs)`` plus the function
    whose proximity operator, block by block, is ``block_prox``. The parameters are one array of shape ``(d, ...)``; its
    ``d`` blocks lie along the first axis.

    ``fun`` may be any differentiable function; then a step on one block takes a gradient. If ``fun`` is a
    :class:`jaxsolve.objective.CompositeLinearFunction`, such as :data:`jaxsolve.objective.least_squares`, it takes one
    column of the design matrix, which may be dense, BCOO or BCSR. Step sizes are the inverses of
    ``fun.columnwise_lipschitz_const`` if it exists, otherwise of the curvature along the step.

    Unrolled iterations (``implicit_diff=False``) are always sweeps over all blocks, because the choice of a working set
    has no derivative.

    Attributes:
        fun: smooth function ``fun(params, *args, **kwargs)`` with a real scalar value, or a composite one.
        block_prox: ``block_prox(x_j, hyperparams_prox, scaling)`` of one block, see :mod:`jaxsolve.prox`; called
            under ``vmap``.
        selection: the order in which blocks are visited. ``"cyclic"``: an iteration is a sweep from the first to the
            last. ``"random"``: a sweep in a new random order. ``"working_set"``: an iteration solves the problem on a
            working set, by a proximal Newton method, and then checks all blocks; for convex problems this is by far the
            fastest if few blocks are not zero. ``"greedy"`` is another name for it. ``"auto"``: working sets for
            composite functions, cyclic for others.
        seed: for ``selection="random"``, an integer or a key of ``jax.random``.
        rtol: relative tolerance: the run has converged when ``state.error`` is at most
            ``tol + rtol * state.first_error``. May be traced.

    Reference:
        Tseng and Yun (2009), "A coordinate gradient descent method for nonsmooth separable minimization"; Friedman,
        Hastie and Tibshirani (2010), "Regularization paths for generalized linear models via coordinate descent";
        Massias, Gramfort and Salmon (2018), "Celer: a fast solver for the lasso with dual extrapolation".

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> from jaxsolve.objective import least_squares
        >>> from jaxsolve.prox import prox_lasso
        >>> solver = jaxsolve.BlockCoordinateDescent(least_squares, prox_lasso)
        >>> data = (jnp.eye(3), jnp.array([4.0, -0.5, 3.0]))
        >>> solution = lambda l1reg: solver.run(jnp.zeros(3), l1reg, data).params
        >>> [round(x, 3) for x in solution(1 / 3).tolist()]
        [3.0, 0.0, 2.0]
        >>> [round(x, 3) for x in jax.jacobian(solution)(1 / 3).tolist()]
        [-3.0, 0.0, -3.0]
    """

    fun: Callable
    block_prox: Callable
    tol: float = option(1e-4)
    selection: str = option("auto", among=_SELECTIONS)
    seed: Any = option(0)
    rtol: float = option(0.0, at_least=0)

    _State = BlockCDState
    _is_fixed_point = True

    @property
    def _resumed_fields(self) -> tuple[str, ...]:  # type: ignore[override]  # a constant of the other solvers
        """Step sizes that were found are a start; Lipschitz constants are those of the data at hand."""
        constants = getattr(self.fun, "columnwise_lipschitz_const", None)
        resumed = ("iter_num", "free", "first_error")
        return resumed if constants is not None else (*resumed, "curvature")

    def _validate(self) -> None:
        """Raise for an impossible option."""
        super()._validate()
        if not isinstance(self.seed, (int, jax.Array)) or isinstance(self.seed, bool):
            raise TypeError(f"seed must be an integer or a key of jax.random, got {self.seed!r}.")

    # ---- The iteration --------------------------------------------------------------------------------------------

    def init_state(self, init_params: Array, hyperparams_prox: Any = None, *args: Any, **kwargs: Any) -> BlockCDState:
        """The state before the first iteration; the arguments are those of ``run``. Evaluates the gradient once."""
        _check_params(init_params)
        model, prox = self._parts(init_params, hyperparams_prox, args, kwargs)
        curvature = None if self._by_working_sets() else model.lipschitz()
        num_blocks = init_params.shape[0]
        if curvature is None:
            curvature = jnp.zeros(num_blocks, init_params.dtype)
        elif curvature.shape != (num_blocks,):
            raise ValueError(f"columnwise_lipschitz_const must have shape ({num_blocks},), got {curvature.shape}.")
        else:
            curvature = positive(curvature)
        seen = _look(model, prox, init_params, model.predictions(init_params))
        zero, error = jnp.zeros((), jnp.int32), seen["error"]
        finite = jnp.isfinite(seen["value"])
        first_error = lax.stop_gradient(error) if self._is_relative else None
        status = self._status_of(jnp.where(finite, error, jnp.full_like(error, jnp.nan)), size=first_error)
        return BlockCDState(
            **seen,
            iter_num=zero,
            num_fun_eval=zero,
            num_prox_eval=zero + num_blocks,
            num_grad_eval=zero + 1,
            status=status,
            first_error=first_error,
            curvature=curvature,
            free=jnp.any(init_params.reshape(num_blocks, -1) != 0, axis=1),
        )

    def update(
        self, params: Array, state: BlockCDState, hyperparams_prox: Any = None, *args: Any, **kwargs: Any
    ) -> OptStep:
        """One sweep, or one working set; returns ``OptStep(params, state)``."""
        model, prox = self._parts(params, hyperparams_prox, args, kwargs)
        num_blocks = params.shape[0]
        value = state.value - model.linear_value(params).astype(state.value.dtype)
        point = Point(params, state.predictions, value, state.subfun_g)
        curvature, free = state.curvature, state.free
        if self._by_working_sets():
            tol = self._tolerance(state.error.dtype, state.first_error)
            point, curvature, free, num_grad, num_prox = descend(model, prox, point, state.grad, curvature, free, tol)
            refresh = (state.iter_num % _REFRESH) == _REFRESH - 1
            predictions = run_if_any(refresh, lambda _: model.predictions(point.params), point.predictions)
        else:
            known, order = model.lipschitz() is not None, self._order(state.iter_num, num_blocks)
            point, curvature = sweep(model, prox, point, curvature, order, known=known)
            num_grad = num_prox = num_blocks
            refresh, predictions = jnp.asarray(False), model.predictions(point.params)
        stuck = jnp.all(point.params == params) & jnp.all(curvature == state.curvature) & ~refresh
        seen = _look(model, prox, point.params, predictions)
        new_state = state._replace(
            **seen,
            iter_num=state.iter_num + 1,
            num_prox_eval=state.num_prox_eval + num_prox + num_blocks,
            num_grad_eval=state.num_grad_eval + num_grad + 1,
            status=self._status_of(seen["error"], size=state.first_error, failed=stuck),
            curvature=curvature,
            free=free,
        )
        return OptStep(point.params, new_state)

    def _by_working_sets(self) -> bool:
        if self._loop_kind in ("scan", "checkpoint") or not self.implicit_diff:
            return False
        return self.selection in ("working_set", "greedy") or (self.selection == "auto" and is_composite(self.fun))

    def _order(self, iter_num, num_blocks):
        order = jnp.arange(num_blocks, dtype=jnp.int32)
        if self.selection != "random":
            return order
        is_integer = isinstance(self.seed, int) or (
            self.seed.ndim == 0 and jnp.issubdtype(self.seed.dtype, jnp.integer)
        )
        key = jax.random.key(self.seed) if is_integer else self.seed
        return jax.random.permutation(jax.random.fold_in(key, iter_num), order)

    # ---- The problem ----------------------------------------------------------------------------------------------

    def _stage(self, name: str, function: Callable) -> Callable:
        if name == "fun" and is_composite(function):
            return StagedComposite(function)
        return super()._stage(name, function)

    @property
    def _objective(self) -> Objective:
        """The function of the predictions, if the objective is composite."""
        fun = self.fun.subfun if is_composite(self.fun) else self.fun  # type: ignore[attr-defined]  # is_composite says
        return fun if isinstance(fun, Objective) else Objective(fun)

    def _parts(self, params, hyperparams, args, kwargs) -> tuple[LinearModel, BlockProx]:
        return LinearModel(self.fun, self._objective, params, args, kwargs), BlockProx(self.block_prox, hyperparams)

    # ---- Optimality -----------------------------------------------------------------------------------------------

    def optimality_fun(self, params: Array, hyperparams_prox: Any = None, *args: Any, **kwargs: Any) -> Array:
        """The residual ``block_prox(x_j - grad_j) - x_j`` of every block, an array like ``params``."""
        model, prox = self._parts(params, hyperparams_prox, args, kwargs)
        return prox.residual(params, model.gradient_at(params))

    def _residual(self, params: Array, hyperparams_prox: Any = None, *args: Any, **kwargs: Any) -> Array:
        """The mapping that is differentiated: ``optimality_fun``, in a form whose linear system is small.

        Its steps have the unit of the problem: after one of size 1 the parameters or the gradient may be rounding.
        """
        model, prox = self._parts(params, hyperparams_prox, args, kwargs)
        fixed, grad = lax.stop_gradient((params, model.gradient_at(params)))
        step = natural_stepsize(model.gradient_at, fixed, grad)
        if params.size <= DIRECT_MAX_SIZE:
            columns = model.operator.columns(jnp.arange(params.shape[0], dtype=jnp.int32))
            steps = inverse_curvatures(model, columns, model.predictions(fixed), fixed, step)
            return prox.residual(params, model.gradient_at(params), lax.stop_gradient(steps))
        if not is_composite(self.fun):
            return prox.residual(params, model.gradient_at(params), step)
        return restricted_residual(model, prox, params, bucket_sizes(params.shape[0], params[0].size)[:-1], step)

    def l2_optimality_error(self, params: Array, *args: Any, **kwargs: Any) -> Array:
        """Euclidean norm of ``optimality_fun``; a scalar.

        If the gradient is so small relative to the variables that it is lost in rounding, it is the norm of
        ``(block_prox(x_j - s * grad_j, s) - x_j) / s`` with a longer step ``s``.
        """
        return tree_l2_norm(self._measured(params, *args, **kwargs))

    def _measured(self, params: Array, hyperparams_prox: Any = None, *args: Any, **kwargs: Any) -> Array:
        """``optimality_fun``, but for a gradient that would vanish in rounding."""
        model, prox = self._parts(params, hyperparams_prox, args, kwargs)
        grad = model.gradient_at(params)
        return prox.measuring(params, grad).residual(params, grad)

    def _state_of_solution(self, params: Array, hyperparams_prox: Any = None, *args: Any, **kwargs: Any) -> dict:
        """``value``, ``predictions`` and ``subfun_g`` as functions of the solution."""
        model, _ = self._parts(params, hyperparams_prox, args, kwargs)
        return _values(model, params, model.predictions(params))


def _values(model, params, predictions) -> dict[str, Array]:
    """The fields of the state that are functions of the solution."""
    value, subfun_grad = model.value_and_grad(predictions)
    value = value + model.linear_value(params).astype(value.dtype)
    return {"value": value, "predictions": predictions, "subfun_g": subfun_grad}


def _look(model, prox, params, predictions) -> dict[str, Array]:
    """These, the gradient in all blocks, and the error."""
    values = _values(model, params, predictions)
    grad = model.gradient(values["subfun_g"])
    residual = prox.measuring(params, grad).residual(params, grad)
    return {**values, "grad": grad, "error": tree_l2_norm(residual).astype(params.dtype)}


def _check_params(params) -> None:
    if not hasattr(params, "ndim"):
        raise TypeError(
            f"init_params must be one array with the blocks along its first axis, got {jax.tree.structure(params)}."
        )
    if jnp.iscomplexobj(params):
        raise TypeError("init_params must be real, but is complex: use its real and imaginary parts as two blocks.")
    if params.ndim == 0 or params.size == 0:
        raise ValueError(f"init_params must have at least one block along its first axis, got shape {params.shape}.")
