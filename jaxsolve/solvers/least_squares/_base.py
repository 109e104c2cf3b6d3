r"""What the least-squares methods share: residuals, models of them, and optimality.

Problem: minimize :math:`\tfrac12 \|r(x, \theta)\|^2`, or the cost of a robust loss, see
:mod:`jaxsolve.solvers.least_squares._losses`. With :math:`J` the Jacobian of :math:`r` every method goes by the model
:math:`\tfrac12 \|r + J s\|^2` of a step :math:`s`. Optimality: :math:`J^T r = 0`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._closure import Staged
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve._vectors import flat, unraveled
from jaxsolve.base import IterativeSolver, check_callable, check_choice, option
from jaxsolve.linear_solve import DIRECT_MAX_SIZE
from jaxsolve.solvers._bounds import bounded_stationarity, bounds_like, clip_to, held_at
from jaxsolve.solvers.least_squares._losses import LOSSES, RobustTerms, cost_of, robust_terms
from jaxsolve.solvers.least_squares._model import Model, all_finite, product, safe_norm
from jaxsolve.solvers.least_squares._tangent import ResidualSystem, Unknowns
from jaxsolve.tree_util import tree_real_dtype

__all__ = ["LeastSquaresMethod"]

# A Jacobian of more entries than this is not materialized unless that is asked for.
_LARGE = 2**22


class LeastSquaresMethod(IterativeSolver):
    """Base of the solvers that minimize half the sum of squared residuals.

    Attributes:
        residual_fun: residuals ``residual_fun(params, *args, **kwargs)``, a pytree of real arrays.
        has_aux: whether ``residual_fun`` returns ``(residuals, aux)``.
        rtol: relative tolerance: the run has also converged when ``state.error`` is at most ``tol`` plus ``rtol`` times
            ``state.first_error``, the error at the initial point. May be traced.
        jac_fun: Jacobian ``jac_fun(params, *args, **kwargs)`` in the form of ``jax.jacobian(residual_fun)``; for one
            array of residuals and one of parameters, an array of shape ``(*residual.shape, *params.shape)``. By
            default the Jacobian is computed by automatic differentiation.
        materialize_jac: compute the Jacobian as a matrix (``True``), or use products with it (``False``). ``None``
            decides by its size.
        loss: ``"linear"``, ``"soft_l1"``, ``"huber"``, ``"cauchy"`` or ``"arctan"`` as in
            ``scipy.optimize.least_squares``, or a function ``rho`` that acts entry by entry: the cost is
            ``0.5 * f_scale**2 * sum(rho((r / f_scale)**2))``, which is half the sum of squares if ``rho`` is the
            identity.
        f_scale: size from which a robust loss treats residuals as outliers, a positive number in the unit of the
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
        # An entry of the Jacobian that is not finite makes one of the gradient so.
        finite = jnp.isfinite(value) & all_finite(gradient)
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
        return safe_norm(jnp.where(self._held(x, gradient, box), 0, gradient))

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


def _dtype_of(params: PyTree) -> Any:
    """The dtype of the vectors: that of the widest parameters, and no shorter than float32."""
    dtype = tree_real_dtype(params)
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


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
