r"""The simplex method of Nelder and Mead, which needs no gradient.

Problem: minimize a function :math:`f(x, \theta)` of a few variables. Method: the worst of :math:`n + 1` points is
replaced by one on the other side of the others, farther out, or nearer, and if that does not help all points move
towards the best one (Nelder and Mead 1965), with the coefficients of Gao and Han (2012). Optimality, for the implicit
derivative: :math:`\nabla_1 f(x, \theta) = 0`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._loop import run_where
from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve._vectors import flat, unraveled
from jaxsolve.base import IterativeSolver, option
from jaxsolve.implicit_diff.optimality import stationary
from jaxsolve.solvers._stepsize import falls_without_end
from jaxsolve.tree_util import tree_real_dtype

__all__ = ["NelderMead", "NelderMeadState"]


class NelderMeadState(NamedTuple):
    """State of the simplex method.

    Attributes:
        iter_num: number of iterations done, int32.
        value: ``fun`` at the current parameters, the best point so far.
        error: difference of the largest and the least value at the points of the simplex.
        simplex: its points as vectors, best first, shape (n + 1, n).
        values: ``fun`` there, shape (n + 1,); infinite where it is not finite.
        size: largest difference of a coordinate to that of the best point.
        aux: auxiliary output of ``fun`` at the current parameters.
        num_fun_eval: evaluations of ``fun``, int32.
        status: a :class:`jaxsolve.Status`, int32.
        first_error: ``error`` of the initial simplex.
        first_size: ``size`` of the initial simplex.
    """

    iter_num: Array
    value: Array
    error: Array
    simplex: Array
    values: Array
    size: Array
    aux: Any = None
    num_fun_eval: Any = 0
    status: Any = 0
    first_error: Any = None
    first_size: Any = None


class NelderMead(IterativeSolver):
    """The simplex method of Nelder and Mead, for functions of a few variables without a gradient.

    ``run(init_params, *args, **kwargs)`` minimizes ``fun(params, *args, **kwargs)``. An iteration evaluates ``fun``
    once or twice; if the simplex shrinks, once more for each variable. ``fun`` may be discontinuous. With ``jit=False``
    it may be a function that runs on the host, for example with NumPy arrays. With
    ``implicit_diff=False, unroll=False`` it may call the host by ``jax.pure_callback``, also under ``jit`` and
    ``vmap``. Values that are not finite count as infinite.

    The run has converged when ``state.error`` is at most ``tol`` and ``state.size`` at most ``xtol``. For the implicit
    derivative, ``fun`` must have first and second derivatives at the solution.

    Attributes:
        fun: function ``fun(params, *args, **kwargs)`` with a real scalar value.
        has_aux: whether ``fun`` returns ``(value, aux)`` in place of ``value``.
        tol: largest difference of the values at the points of the simplex, in the unit of ``fun``.
        xtol: largest difference of the coordinates of these points, in the unit of the parameters; may be traced.
        rtol: relative tolerance: adds ``rtol`` times ``state.first_error`` to ``tol``, and ``rtol`` times
            ``state.first_size`` to ``xtol``. May be traced.
        adaptive: use the coefficients of Gao and Han, which depend on the number of variables; for two variables they
            are those of Nelder and Mead. With ``False``, use the coefficients of Nelder and Mead.

    Reference:
        Nelder and Mead (1965), "A simplex method for function minimization"; Lagarias et al. (1998), "Convergence
        properties of the Nelder-Mead simplex method in low dimensions"; Gao and Han (2012), "Implementing the
        Nelder-Mead simplex algorithm with adaptive parameters".

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> solver = jaxsolve.NelderMead(lambda x, t: jnp.sum(jnp.abs(x - t)), tol=1e-5, xtol=1e-5)
        >>> [round(x, 3) for x in solver.run(jnp.ones(2), jnp.array([3.0, -1.0])).params.tolist()]
        [3.0, -1.0]
    """

    fun: Callable
    has_aux: bool = option(False)
    maxiter: int = option(2000, at_least=0)
    tol: float = option(1e-4, at_least=0)
    xtol: float = option(1e-4, at_least=0)
    rtol: float = option(0.0, at_least=0)
    adaptive: bool = option(True)

    _structure = "psd"
    _handles_nonfinite = True
    _splits_complex = True
    _optimality_is_gradient = True
    _State = NelderMeadState
    _resumed_fields = ("iter_num", "simplex", "values", "error", "size", "first_error", "first_size")

    def _validate(self) -> None:
        """Raise for an impossible option."""
        super()._validate()
        if not self.implicit_diff and self.unroll is not False:
            raise ValueError(
                "NelderMead has no derivative by unrolling: the data decide which points are taken, and not where they "
                "are. Use implicit_diff=True, or unroll=False for a run without a derivative."
            )

    # ---- The iteration --------------------------------------------------------------------------------------------

    def init_state(self, init_params: PyTree, *args: Any, **kwargs: Any) -> NelderMeadState:
        """The state before the first iteration. Evaluates ``fun`` at the initial point and once for each variable."""
        dtype = tree_real_dtype(init_params)
        start = flat(init_params, dtype)
        # A twentieth of every variable, as in SciPy; where it is 0, of the largest one, and of 1 if nothing has a unit.
        largest = jnp.max(jnp.abs(start), initial=0)
        edge = jnp.where(start != 0, 0.05 * start, jnp.where(largest > 0, 0.05 * largest, 0.05))
        simplex = jnp.concatenate([start[None], start[None] + jnp.diag(edge)])
        value, aux = self._objective.value(init_params, *args, **kwargs)
        others, _ = self._values_at(simplex[1:], init_params, args, kwargs)
        zero = jnp.zeros((), jnp.int32)
        simplex, values = _sorted(simplex, jnp.concatenate([_or_infinite(value)[None], others]))
        error, size = _spread(values).astype(dtype), _diameter(simplex)
        state = self._State(
            iter_num=zero,
            value=value,
            error=error,
            simplex=simplex,
            values=values,
            size=size,
            aux=aux,
            num_fun_eval=zero + len(simplex),
            first_error=error,
            first_size=size,
        )
        return state._replace(status=self._judge(state))

    def update(self, params: PyTree, state: NelderMeadState, *args: Any, **kwargs: Any) -> OptStep:
        """Replace the worst point of the simplex, or shrink it; returns ``OptStep(params, state)``."""
        simplex, values = state.simplex, state.values
        dtype, n = simplex.dtype, simplex.shape[1]
        expansion, contraction, shrinkage = self._coefficients(n)
        center = jnp.mean(simplex[:-1], axis=0)

        def at(factor):
            point = center + jnp.asarray(factor).astype(dtype) * (center - simplex[-1])
            value, aux = self._objective.value(unraveled(params)(point), *args, **kwargs)
            return point, _or_infinite(value), aux

        reflected = at(1.0)
        value = reflected[1]
        best, second_worst, worst = values[0], values[-2], values[-1]
        lowest = value < best
        # Lagarias et al. (1998), section 2: expand, accept, contract outside, or contract inside.
        factor = jnp.where(lowest, expansion, jnp.where(value < worst, contraction, -contraction))
        another = lowest | ~(value < second_worst)
        second = run_where(another, lambda _: at(factor), reflected, self._loop_kind)
        needed = jnp.where(lowest, value, jnp.where(value < worst, value, worst))
        # A contraction outside may be as high as the reflected point.
        improved = another & ((second[1] < needed) | (~lowest & (value < worst) & (second[1] <= value)))
        shrink = another & ~lowest & ~improved
        point, value, aux = self._where(improved, second, reflected)

        better = ~shrink & (value < best)
        replaced = simplex.at[-1].set(point), values.at[-1].set(value)
        aux = self._where(better, aux, state.aux)

        def shrunk(_):
            points = simplex[:1] + jnp.asarray(shrinkage).astype(dtype) * (simplex[1:] - simplex[:1])
            others, auxes = self._values_at(points, params, args, kwargs)
            least = jnp.argmin(others)
            found = self._where(others[least] < best, self._entry(auxes, least), state.aux)
            return jnp.concatenate([simplex[:1], points]), jnp.concatenate([values[:1], others]), found

        simplex, values, aux = run_where(shrink, shrunk, (*replaced, aux), self._loop_kind)
        simplex, values = _sorted(simplex, values)
        new_state = state._replace(
            iter_num=state.iter_num + 1,
            value=jnp.where(jnp.isfinite(values[0]), values[0], state.value),
            error=_spread(values).astype(dtype),
            simplex=simplex,
            values=values,
            size=_diameter(simplex),
            aux=aux,
            num_fun_eval=state.num_fun_eval + 1 + jnp.where(another, 1, 0) + jnp.where(shrink, n, 0),
        )
        new_params = self._where(jnp.isfinite(values[0]), unraveled(params)(simplex[0]), params)
        return OptStep(new_params, new_state._replace(status=self._judge(new_state)))

    def _coefficients(self, n: int) -> tuple[float, float, float]:
        """Those of expansion, contraction and shrinkage (Gao and Han 2012, equation 4.1)."""
        m = max(n, 2) if self.adaptive else 2
        return 1 + 2 / m, 0.75 - 1 / (2 * m), 1 - 1 / m

    def _judge(self, state: NelderMeadState) -> Array:
        small = state.error <= self._tolerance(state.error.dtype, state.first_error)
        xtol = jnp.asarray(self.xtol).astype(state.size.dtype)
        if self._is_relative:
            xtol = xtol + jnp.asarray(self.rtol).astype(xtol.dtype) * state.first_size
        # What is smaller than the rounding errors of the points does not get smaller.
        eps = float(jnp.finfo(state.size.dtype).eps)
        collapsed = state.size <= eps * jnp.max(jnp.abs(state.simplex[0]), initial=0)
        status = Status.STALLED.where(collapsed, int(Status.RUNNING))
        status = Status.CONVERGED.where(small & (state.size <= xtol), status)
        status = Status.NONFINITE.where(~jnp.isfinite(state.values[0]), status)
        return Status.DIVERGED.where(falls_without_end(state.values[0]), status)

    # ---- Evaluations ----------------------------------------------------------------------------------------------

    def _values_at(self, points: Array, like: PyTree, args: tuple, kwargs: dict) -> tuple[Array, Any]:
        """Values and auxiliary outputs at the rows of an array."""

        def at(point):
            value, aux = self._objective.value(unraveled(like)(point), *args, **kwargs)
            return _or_infinite(value), aux

        if self.jit:
            return lax.map(at, points)
        pairs = [at(point) for point in points]
        return jnp.stack([value for value, _ in pairs]), [aux for _, aux in pairs]

    def _entry(self, auxes: Any, index: Array) -> Any:
        return jax.tree.map(lambda x: x[index], auxes) if self.jit else auxes[int(index)]

    # ---- Optimality -----------------------------------------------------------------------------------------------

    def _state_of_solution(self, params: PyTree, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """``value`` and ``aux`` as functions of the solution."""
        value, aux = self._objective.value(params, *args, **kwargs)
        return {"value": value, "aux": aux}

    def optimality_fun(self, params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The gradient of ``fun`` in ``params``, a pytree like them."""
        return stationary(self._objective.value_and_grad, value_and_grad=True)(params, *args, **kwargs)


def _or_infinite(value: Array) -> Array:
    """Infinite where a value is NaN, which has no place in an order."""
    return jnp.where(jnp.isnan(value), jnp.inf, value)


def _sorted(simplex: Array, values: Array) -> tuple[Array, Array]:
    order = jnp.argsort(values)
    return simplex[order], values[order]


def _spread(values: Array) -> Array:
    return jnp.where(jnp.isfinite(values[-1]), values[-1] - values[0], jnp.inf)


def _diameter(simplex: Array) -> Array:
    return jnp.max(jnp.abs(simplex[1:] - simplex[:1]))
