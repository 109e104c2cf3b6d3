r"""What the least-squares methods share: residuals, models of them, and the judgment of a trial point.

Problem: minimize :math:`\tfrac12 \|r(x, \theta)\|^2`, or the cost of a robust loss, see
:mod:`jaxsolve.solvers.least_squares._losses`. With :math:`J` the Jacobian of :math:`r` every method goes by the model
:math:`\tfrac12 \|r + J s\|^2` of a step :math:`s`. Optimality: :math:`J^T r = 0`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._closure import Staged
from jaxsolve._inputs import scale_to_unit
from jaxsolve._loop import run_if_any
from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve._vectors import flat, unraveled
from jaxsolve.base import IterativeSolver, check_callable, check_choice, option
from jaxsolve.linear_solve import DIRECT_MAX_SIZE
from jaxsolve.solvers._bounds import bounded_stationarity, bounds_like, clip_to, held_at
from jaxsolve.solvers.least_squares._losses import LOSSES, RobustTerms, cost_decrease, cost_of, robust_terms
from jaxsolve.solvers.least_squares._tangent import ResidualSystem, Unknowns
from jaxsolve.tree_util import tree_l2_norm, tree_real_dtype, tree_where

__all__ = ["LeastSquaresMethod", "Model", "Trial", "column_lengths", "product"]

# A Jacobian of more entries than this is not materialized unless that is asked for.
_LARGE = 2**22


class Model(NamedTuple):
    """The model of the cost at a point, on vectors.

    Attributes:
        x: the parameters.
        residual: residuals of the model, with the factors of a robust loss.
        gradient: gradient of the cost.
        matvec: product with the Jacobian, with the factors of a robust loss.
        rmatvec: product with its transpose.
        jac: that Jacobian, shape ``(m, n)``; ``None`` if there are only products.
        held: entries that are held at a bound.
        root: factors of the rows, or ``None``.
        unravel: makes parameters of a vector.
    """

    x: Array
    residual: Array
    gradient: Array
    matvec: Callable[[Array], Array]
    rmatvec: Callable[[Array], Array]
    jac: Array | None
    held: Array
    root: Array | None
    unravel: Callable[[Array], PyTree]

    def decrease(self, step: Array) -> Array:
        """The decrease of the cost that the model predicts."""
        image = self.matvec(step)
        return -(jnp.vdot(self.gradient, step) + 0.5 * jnp.vdot(image, image))


class Trial(NamedTuple):
    """What came of a trial point.

    Attributes:
        params: the point, or the old one if it was rejected.
        fields: the fields of the state that belong to it.
        accepted: whether it was accepted.
        ratio: decrease of the cost over that of the model; where both are rounding, 1 or 0.
        decrease: decrease of the cost; 0 where it is not finite.
        finite: whether everything was finite there.
        length: norm of the step in the units of the variables.
    """

    params: PyTree
    fields: dict[str, Any]
    accepted: Array
    ratio: Array
    decrease: Array
    finite: Array
    length: Array


class LeastSquaresMethod(IterativeSolver):
    """Base of the solvers that minimize half the sum of squared residuals.

    Attributes:
        residual_fun: residuals ``residual_fun(params, *args, **kwargs)``, a pytree of real arrays.
        has_aux: whether ``residual_fun`` returns ``(residuals, aux)``.
        rtol: relative tolerance: the run has also converged when ``state.error`` is at most ``tol`` plus ``rtol`` times
            ``state.first_error``, the error at the initial point. May be traced.
        jac_fun: Jacobian ``jac_fun(params, *args, **kwargs)`` in the form of ``jax.jacobian(residual_fun)``; for one
            array of residuals and one of parameters, an array of shape ``(*residual.shape, *params.shape)``. Without
            it the Jacobian comes from automatic differentiation.
        materialize_jac: compute the Jacobian as a matrix, or else use products with it. ``None`` decides by its size.
        loss: ``"linear"``, ``"soft_l1"``, ``"huber"``, ``"cauchy"`` or ``"arctan"`` as in
            ``scipy.optimize.least_squares``, or a function ``rho`` that acts entry by entry: the cost is
            ``0.5 * f_scale**2 * sum(rho((r / f_scale)**2))``, which is half the sum of squares if ``rho`` is the
            identity.
        f_scale: residual from which on a loss counts residuals as outliers, a positive number in the unit of the
            residuals. May be traced.
    """

    residual_fun: Callable
    has_aux: bool = option(False)
    maxiter: int = option(30)
    rtol: float = option(0.0, at_least=0)
    jac_fun: Callable | None = option(None)
    materialize_jac: bool | None = option(None, among=(None, True, False))
    loss: str | Callable = option("linear")
    f_scale: float = option(1.0, above=0)

    # An option of the methods that have it.
    bounds = None
    _structure = "psd"
    _handles_nonfinite = True
    _has_many_scalars = True
    _resumed_fields = ("iter_num", "first_error")

    def _validate(self) -> None:
        super()._validate()
        if self.jac_fun is not None:
            check_callable("jac_fun", self.jac_fun, "a function jac_fun(params, *args, **kwargs)")
        if not callable(self.loss):
            check_choice("loss", self.loss, tuple(LOSSES))

    # ---- The functions of the user --------------------------------------------------------------------------------

    def _functions(self) -> list[str]:
        return [*super()._functions(), *(["jac_fun"] if self.jac_fun is not None else [])]

    def _stage(self, name: str, function: Callable) -> Callable:
        return Staged(function, name, self._check_output) if name == "residual_fun" else Staged(function, name)

    def _check_output(self, out: Any) -> None:
        if self.has_aux and (not isinstance(out, (tuple, list)) or len(out) != 2):
            raise TypeError(f"residual_fun must return (residuals, aux), got {jax.tree.structure(out)}.")
        leaves = jax.tree.leaves(out[0] if self.has_aux else out)
        if not leaves:
            raise ValueError("residual_fun must return at least one array of residuals.")
        for leaf in leaves:
            if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise TypeError(
                    f"residual_fun must return real floating-point residuals, got {getattr(leaf, 'dtype', leaf)}. If "
                    "it returns auxiliary output too, set has_aux=True."
                )

    def _residuals(self, params: PyTree, args: tuple, kwargs: dict) -> tuple[PyTree, Any]:
        """``(residuals, aux)``; ``aux`` is ``None`` without one."""
        if any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(params)):
            raise TypeError(
                "init_params has complex leaves: make residual_fun a function of their real and imaginary parts, with "
                "floating-point parameters."
            )
        out = self.residual_fun(params, *args, **kwargs)
        if not isinstance(self.residual_fun, Staged):
            self._check_output(out)
        return out if self.has_aux else (out, None)

    def _scale_of_loss(self, dtype: Any) -> Array:
        return jnp.asarray(self.f_scale).astype(dtype)

    def _cost(self, r: Array) -> Array:
        return cost_of(self.loss, self._scale_of_loss(r.dtype), r)

    def _terms(self, r: Array) -> RobustTerms:
        return robust_terms(self.loss, self._scale_of_loss(r.dtype), r)

    # ---- Vectors --------------------------------------------------------------------------------------------------

    def _box(self, params: PyTree) -> tuple[Array, Array] | None:
        """The bounds as vectors."""
        if self.bounds is None:
            return None
        dtype = _dtype_of(params)
        lower, upper = bounds_like(self.bounds, params)
        return flat(lower, dtype), flat(upper, dtype)

    def _inside(self, params: PyTree) -> PyTree:
        """The parameters in the box."""
        box = self._box(params)
        return params if box is None else unraveled(params)(clip_to(flat(params, box[0].dtype), *box))

    def _held(self, x: Array, grad: Array, box: tuple[Array, Array] | None) -> Array:
        """Entries that are held at a bound."""
        if box is None:
            return jnp.zeros_like(x, bool)
        at_lower, at_upper = held_at(x, grad, *box)
        return at_lower | at_upper

    def _materializes(self, m: int, n: int) -> bool:
        return m * n <= _LARGE if self.materialize_jac is None else self.materialize_jac

    def _jacobian(self, params: PyTree, residual: PyTree, args: tuple, kwargs: dict) -> Array:
        """The Jacobian as a matrix of shape ``(m, n)``."""
        dtype = _dtype_of(params)
        x, unravel = flat(params, dtype), unraveled(params)
        m, n = sum(jnp.size(leaf) for leaf in jax.tree.leaves(residual)), x.size
        if self.jac_fun is not None:
            return _as_matrix(self.jac_fun(params, *args, **kwargs), residual, params, dtype)

        def function(x):
            return flat(self._residuals(unravel(x), args, kwargs)[0], dtype)

        if n <= m:
            return jax.vmap(jax.linearize(function, x)[1], out_axes=1)(jnp.eye(n, dtype=dtype))
        return jax.vmap(jax.vjp(function, x)[1])(jnp.eye(m, dtype=dtype))[0]

    def _products(self, params: PyTree, args: tuple, kwargs: dict) -> tuple[Callable, Callable]:
        """Products with the Jacobian and with its transpose."""
        dtype = _dtype_of(params)
        x, unravel = flat(params, dtype), unraveled(params)
        matvec = jax.linearize(lambda x: flat(self._residuals(unravel(x), args, kwargs)[0], dtype), x)[1]
        transposed = jax.linear_transpose(matvec, x)
        return matvec, lambda u: transposed(u)[0]

    def _derivatives(self, params: PyTree, residual: PyTree, args: tuple, kwargs: dict) -> tuple[Array | None, Array]:
        """The Jacobian, if it is materialized, and the gradient."""
        r = flat(residual, _dtype_of(params))
        slope = self._terms(r).slope
        if self._materializes(r.size, sum(jnp.size(leaf) for leaf in jax.tree.leaves(params))):
            jac = self._jacobian(params, residual, args, kwargs)
            return jac, product(slope, jac)
        return None, self._products(params, args, kwargs)[1](slope)

    def _model(self, params: PyTree, state: Any, args: tuple, kwargs: dict) -> Model:
        dtype = _dtype_of(params)
        x, r, gradient = flat(params, dtype), flat(state.residual, dtype), flat(state.gradient, dtype)
        terms = self._terms(r)
        held = self._held(x, gradient, self._box(params))
        root = terms.root
        if state.jac is not None:
            jac = state.jac if root is None else root[:, None] * state.jac
            matvec, rmatvec = lambda v: product(jac, v), lambda u: product(u, jac)
        else:
            jac, (plain, transposed) = None, self._products(params, args, kwargs)
            matvec = plain if root is None else lambda v: root * plain(v)
            rmatvec = transposed if root is None else lambda u: transposed(root * u)
        return Model(x, terms.residual, gradient, matvec, rmatvec, jac, held, root, unraveled(params))

    # ---- Points ---------------------------------------------------------------------------------------------------

    def _first_fields(self, init_params: PyTree, args: tuple, kwargs: dict) -> dict[str, Any]:
        """The fields of a state that all methods have, at the initial point."""
        params = self._inside(init_params)
        dtype = _dtype_of(params)
        residual, aux = self._residuals(params, args, kwargs)
        jac, gradient = self._derivatives(params, residual, args, kwargs)
        value = self._cost(flat(residual, dtype))
        error = self._error_of(flat(params, dtype), gradient, self._box(params))
        finite = jnp.isfinite(value) & _all_finite((jac, gradient))
        one = jnp.ones((), jnp.int32)
        return {
            "iter_num": jnp.zeros((), jnp.int32),
            "residual": residual,
            "value": value,
            "error": error,
            "gradient": unraveled(params)(gradient),
            "jac": jac,
            "aux": aux,
            "num_fun_eval": one,
            "num_jac_eval": jnp.copy(one),
            "status": self._status_of(jnp.where(finite, error, jnp.nan), size=error),
            "first_error": jnp.copy(error),
        }

    def _first_point(self, init_params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        return self._inside(init_params)

    def _error_of(self, x: Array, gradient: Array, box: tuple[Array, Array] | None) -> Array:
        """The optimality error, a scalar."""
        return _norm(jnp.where(self._held(x, gradient, box), 0, gradient))

    def _try(
        self,
        params: PyTree,
        state: Any,
        model: Model,
        step: Array,
        scale: Array,
        args: tuple,
        kwargs: dict,
        allowed: Array | bool = True,
        predicted: Array | None = None,
    ) -> Trial:
        """Evaluate at the end of a step and decide.

        Args:
            params: the current point.
            state: the state there.
            model: the model there.
            step: a vector; one that is not finite is rejected.
            scale: one over the units of the variables.
            args: data.
            kwargs: data.
            allowed: whether the point may be accepted.
            predicted: decrease of the model, if that is not the one at the end of the step.
        """
        dtype, box = model.x.dtype, self._box(params)
        usable = jnp.all(jnp.isfinite(step))
        point = model.x + jnp.where(usable, step, 0)
        point = point if box is None else clip_to(point, *box)
        new_params = model.unravel(point)
        point = flat(new_params, dtype)
        step = point - model.x
        residual, aux = self._residuals(new_params, args, kwargs)
        old, new = flat(state.residual, dtype), flat(residual, dtype)
        finite = jnp.all(jnp.isfinite(new))
        # What is not used must be finite if it is to be differentiated.
        new = jnp.where(finite, new, old)
        actual = cost_decrease(self.loss, self._scale_of_loss(dtype), old, new)
        expected = model.decrease(step) if predicted is None else predicted
        # Residuals are differences, as precise as what is subtracted: that is of the size of J x.
        size = tree_l2_norm(old) * (tree_l2_norm(old) + tree_l2_norm(scale * model.x))
        noise = 2 * float(jnp.finfo(dtype).eps) * size
        rounded = (jnp.abs(actual) <= noise) & (jnp.abs(expected) <= noise)
        decreases = (expected > 0) & (actual >= _LEAST_RATIO * expected)
        candidate = finite & usable & allowed & (decreases | rounded)
        gradient = flat(state.gradient, dtype)
        jac, new_gradient = self._where_needed(
            candidate,
            lambda old: self._derivatives(new_params, residual, args, kwargs),
            (state.jac, gradient),
        )
        finite = finite & _all_finite((jac, new_gradient))
        # Where costs differ by rounding the least gradient counts, in the units of the variables here: those of the
        # damping may come from a point far away.
        sizes = []
        for at, g, matrix in ((model.x, gradient, state.jac), (point, new_gradient, jac)):
            lengths = scale if matrix is None else column_lengths(matrix)
            sizes.append(_norm(jnp.where(self._held(at, g, box), 0, g) / jnp.where(lengths > 0, lengths, 1)))
        accepted = candidate & finite & (~rounded | (sizes[1] < sizes[0]))
        ratio = actual / jnp.where(expected > 0, expected, 1)
        ratio = jnp.where(rounded | ~accepted, jnp.where(accepted, 1, 0).astype(dtype), ratio)
        found = {
            "residual": residual,
            "value": self._cost(new).astype(state.value.dtype),
            "gradient": model.unravel(new_gradient),
            "jac": jac,
            "aux": aux,
        }
        kept = {name: getattr(state, name) for name in found}
        new_params, fields = self._choose(accepted, (new_params, found), (params, kept))
        error = self._error_of(flat(new_params, dtype), flat(fields["gradient"], dtype), box)
        fields |= {
            "iter_num": state.iter_num + 1,
            "error": error,
            "num_fun_eval": state.num_fun_eval + 1,
            "num_jac_eval": state.num_jac_eval + candidate.astype(jnp.int32),
        }
        return Trial(new_params, fields, accepted, ratio, actual, finite & usable, tree_l2_norm(scale * step))

    def _status_after(self, trial: Trial, model: Model, scale: Array, hopeless: Array, state: Any) -> Array:
        """The status after a trial, where ``hopeless`` says that no later one can do better."""
        eps = float(jnp.finfo(model.x.dtype).eps)
        still = trial.length <= eps * tree_l2_norm(scale * model.x)
        stalled = ~trial.accepted & (still | hopeless)
        status = self._status_of(trial.fields["error"], size=state.first_error, failed=stalled)
        return Status.NONFINITE.where(Status.STALLED.holds(status) & ~trial.finite, status)

    def _where_needed(self, condition: Array, function: Callable, operand: Any) -> Any:
        if self._loop_kind == "python":
            return function(operand) if condition else operand
        if self._loop_kind == "while":
            return run_if_any(condition, function, operand)
        return lax.cond(condition, function, lambda old: old, operand)

    def _choose(self, condition: Array, new: Any, old: Any) -> Any:
        if self.jit:
            return tree_where(condition, new, old)
        return new if condition else old  # auxiliary output of host functions may be anything

    # ---- Optimality -----------------------------------------------------------------------------------------------

    def _solve(self, init_params: PyTree, *args: Any, **kwargs: Any) -> tuple[OptStep, ResidualSystem | None]:
        step, _ = super()._solve(init_params, *args, **kwargs)
        params, state = step
        dtype = _dtype_of(params)
        x, found = flat(params, dtype), flat(state.residual, dtype)
        # Where the Hessian is more than the Jacobian and the residuals say, or there is no factor, it is the system.
        full = state.jac is not None and found.size >= x.size and x.size <= DIRECT_MAX_SIZE
        if not full or self.loss != "linear":
            return step, None
        box, none = self._box(params), jnp.zeros_like(x, bool)
        at_bounds = (none, none) if box is None else held_at(x, flat(state.gradient, dtype), *box)
        return step, ResidualSystem(lax.stop_gradient(found), *at_bounds, solver=self)

    def _system_of(self, parts: dict[str, Any]) -> ResidualSystem:
        return ResidualSystem(**parts, solver=self)

    def optimality_fun(self, params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The gradient of the cost in ``params``, a pytree like them; at active bounds the distance from these."""

        def cost(params):
            return self._cost(flat(self._residuals(params, args, kwargs)[0], _dtype_of(params)))

        if self.bounds is None:
            return jax.grad(cost)(params)
        return bounded_stationarity(jax.grad(cost), params, bounds_like(self.bounds, params))

    def _state_of_solution(self, params: PyTree, *args: Any, **kwargs: Any) -> dict:
        """Cost, residuals and auxiliary output as functions of the solution."""
        params = params.params if isinstance(params, Unknowns) else params
        residual, aux = self._residuals(params, args, kwargs)
        return {"value": self._cost(flat(residual, _dtype_of(params))), "residual": residual, "aux": aux}


# A step is accepted if the cost decreases by this fraction of what the model predicts.
_LEAST_RATIO = 1e-4


def _dtype_of(params: PyTree) -> Any:
    """The dtype of the vectors: that of the widest parameters, and no shorter than float32."""
    dtype = tree_real_dtype(params)
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def column_lengths(matrix: Array) -> Array:
    """Norms of the columns, whose derivative at 0 is 0."""
    squares = jnp.sum(matrix**2, axis=0)
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


def _norm(vector: Array) -> Array:
    """Euclidean norm without overflow: gradients have the square of the unit of residuals."""
    scale, _, length = scale_to_unit(vector)
    return scale * length


def _all_finite(tree: Any) -> Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def product(left: Array, right: Array) -> Array:
    """A matrix product in full precision."""
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)


def _as_matrix(jac: Any, residual: PyTree, params: PyTree, dtype: Any) -> Array:
    """What ``jac_fun`` returned, as a matrix.

    Raises:
        ValueError: it does not have the form of ``jax.jacobian(residual_fun)``.
    """
    rows, columns = (list(map(jnp.shape, jax.tree.leaves(tree))) for tree in (residual, params))
    expected = [row + column for row in rows for column in columns]
    leaves = jax.tree.leaves(jac)
    if [jnp.shape(leaf) for leaf in leaves] != expected:
        raise ValueError(
            f"jac_fun must return the Jacobian in the form of jax.jacobian(residual_fun), with leaf shapes {expected}, "
            f"but it returned {[jnp.shape(leaf) for leaf in leaves]}."
        )
    blocks = iter(leaves)

    def block(row, column):
        return jnp.asarray(next(blocks)).astype(dtype).reshape(math.prod(row), math.prod(column))

    return jnp.concatenate([jnp.concatenate([block(row, column) for column in columns], axis=1) for row in rows])
