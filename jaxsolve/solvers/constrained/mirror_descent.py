r"""Mirror descent.

Problem: minimize :math:`f(x, \theta)` over a convex set :math:`C(\eta)`. Method: projected gradient in the geometry of
a convex function :math:`\varphi`,

.. math::

    x^+ = \operatorname*{argmin}_{x \in C} \; s \langle \nabla f(y), x \rangle + D_\varphi(x, y)
        = \operatorname{proj}^\varphi_C\bigl(\nabla \varphi(y) - s \nabla f(y)\bigr)

(Beck and Teboulle 2003, proposition 3.2), with :math:`D_\varphi` the Bregman divergence. Optimality: the fixed point
of that map, for any step size :math:`s`.

A step size is short enough if :math:`f(x^+) \le f(y) + \langle \nabla f(y), x^+ - y\rangle + D_\varphi(x^+, y) / s`,
which holds for all :math:`s \le 1 / L` if :math:`f` is L-smooth relative to :math:`\varphi` (Lu, Freund and Nesterov
2018, definition 1.1). The divergence is not known, only the map. But by the optimality of :math:`x^+` the symmetrized
divergence is at most :math:`-s \langle \nabla f(y), x^+ - y \rangle`, with equality for the negative entropy on the
simplex; half of it takes the place of :math:`D_\varphi`, and the test becomes a decrease by at least half of what the
gradient promises.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.base import as_like, check_callable, check_number, option
from jaxsolve.implicit_diff.optimality import bregman_step
from jaxsolve.solvers._gradient_method import GradientMethod, is_still
from jaxsolve.tree_util import tree_l2_norm, tree_sub, tree_where

__all__ = ["MirrorDescent", "MirrorDescentState"]


class MirrorDescentState(NamedTuple):
    """State of mirror descent.

    Attributes:
        iter_num: number of iterations done, int32.
        error: Euclidean norm of ``optimality_fun``, the length of a step of size 1, in the unit of the parameters; with
            ``rtol``, the length of the last step divided by its size. It belongs to the point from which the last step
            was taken; at the end of ``run``, to the solution.
        aux: auxiliary output of ``fun``.
        num_fun_eval: evaluations of ``fun`` without its gradient, int32.
        num_grad_eval: evaluations of ``fun`` with its gradient, int32.
        num_proj_eval: evaluations of ``projection_grad``, int32.
        status: a :class:`jaxsolve.Status`, int32.
        value: ``fun`` at the same point as ``error``.
        stepsize: step size with which the next search starts, 0 before the first search; without a search, the size of
            the last step.
        first_error: ``error`` of the first iteration.
    """

    iter_num: Array
    error: Array
    aux: Any = None
    num_fun_eval: Any = 0
    num_grad_eval: Any = 0
    num_proj_eval: Any = 0
    status: Any = 0
    value: Any = None
    stepsize: Any = None
    first_error: Any = None


class MirrorDescent(GradientMethod):
    """Mirror descent with constant, scheduled or adaptive step sizes.

    ``run(init_params, hyperparams_proj, *args, **kwargs)`` minimizes ``fun(params, *args, **kwargs)`` over the set to
    which the steps of ``projection_grad`` lead. With the negative entropy entries that are zero stay zero, so start in
    the interior.

    Attributes:
        projection_grad: ``projection_grad(x, x_fun_grad, stepsize, hyperparams_proj)``, one mirror step from ``x``; see
            :meth:`make_projection_grad`.
        stepsize: a positive number, which may be traced; a function of the iteration number, for functions that are not
            smooth that of :meth:`diminishing`; or zero or a negative number, for backtracking.

    Reference:
        Nemirovski and Yudin (1983), "Problem complexity and method efficiency in optimization"; Beck and Teboulle
        (2003), "Mirror descent and nonlinear projected subgradient methods for convex optimization"; Lu, Freund and
        Nesterov (2018), "Relatively smooth convex optimization by first-order methods, and applications".

    Example:
        >>> import jax.numpy as jnp, jaxsolve
        >>> from jaxsolve.projection import kl_projection_simplex
        >>> step = jaxsolve.MirrorDescent.make_projection_grad(kl_projection_simplex, jnp.log)
        >>> fun = lambda x, y: 0.5 * jnp.sum((x - y) ** 2)
        >>> solver = jaxsolve.MirrorDescent(fun, step, stepsize=0.0, tol=1e-4)
        >>> params, state = solver.run(jnp.ones(3) / 3, 1.0, jnp.array([0.9, 0.3, -1.0]))
        >>> [round(abs(x), 2) for x in params.tolist()]
        [0.8, 0.2, 0.0]
    """

    projection_grad: Callable
    stepsize: Any = dataclasses.field()
    tol: float = option(1e-2)
    maxls: int = option(30)

    _State = MirrorDescentState
    _resumed_fields = ("iter_num", "stepsize", "first_error")
    _hyperparams = "hyperparams_proj"
    _is_fixed_point = True
    _treats_leaves_alike = True

    def _functions(self) -> list[str]:
        # A schedule is positional too, but no function of the parameters.
        return ["fun", "projection_grad"]

    # ---- Constructors of options ----------------------------------------------------------------------------------

    @staticmethod
    def make_projection_grad(projection: Callable, mapping_fun: Callable) -> Callable:
        r"""The mirror step of a Bregman projection and a mirror map.

        Args:
            projection: ``projection(y, hyperparams_proj)``, the point of the set nearest to the *dual* point ``y`` in
                the Bregman divergence of :math:`\varphi`; it may take ``y`` only. For the negative entropy on the
                simplex, :func:`jaxsolve.projection.kl_projection_simplex`.
            mapping_fun: the mirror map :math:`\nabla\varphi`, on a pytree like the parameters. For the negative
                entropy, the logarithm. Where it is infinite, at the boundary of its domain, it must act entry by entry;
                such entries stay, and their derivative is 0.

        Returns:
            ``projection_grad(x, x_fun_grad, stepsize, hyperparams_proj)``.

        Example:
            >>> import jax.numpy as jnp, jaxsolve
            >>> from jaxsolve.projection import kl_projection_simplex
            >>> step = jaxsolve.MirrorDescent.make_projection_grad(kl_projection_simplex, jnp.log)
            >>> x = step(jnp.array([0.5, 0.5, 0.0]), jnp.log(jnp.array([1.0, 3.0, 1.0])), 1.0, None)
            >>> [round(entry, 3) for entry in x.tolist()]
            [0.75, 0.25, 0.0]
        """
        check_callable("projection", projection, "a function projection(y, hyperparams_proj)")
        check_callable("mapping_fun", mapping_fun, "a function of the parameters")

        def projection_grad(x, x_fun_grad, stepsize, hyperparams_proj=None):
            return bregman_step(x, x_fun_grad, stepsize, hyperparams_proj, projection, mapping_fun)

        return projection_grad

    @staticmethod
    def diminishing(initial: float = 1.0, power: float = 0.5) -> Callable:
        """Step sizes ``initial / (k + 1) ** power`` in iteration ``k``, from 0.

        Args:
            initial: the first step size, positive.
            power: 0.5 for functions that are not smooth; above 0.

        Returns:
            A function of the iteration number.

        Raises:
            ValueError: a number is not positive.

        Example:
            >>> import jaxsolve
            >>> float(jaxsolve.MirrorDescent.diminishing(2.0)(3))
            1.0
        """
        check_number("initial", initial, above=0)
        check_number("power", power, above=0)
        # A partial of a function of this module: two schedules with equal numbers are known to be equal.
        return functools.partial(_diminishing, initial=initial, power=power)

    # ---- The iteration --------------------------------------------------------------------------------------------

    def init_state(self, init_params: PyTree, *args: Any, **kwargs: Any) -> MirrorDescentState:
        """The state before the first iteration; the arguments are those of ``run``."""
        _, args, kwargs = self._split(args, kwargs)
        fields = self._first_fields(init_params, args, kwargs)
        return MirrorDescentState(**fields, num_proj_eval=jnp.zeros((), jnp.int32))

    def update(self, params: PyTree, state: MirrorDescentState, *args: Any, **kwargs: Any) -> OptStep:
        """One mirror step; the arguments are those of ``run``. Returns ``OptStep(params, state)``."""
        hyperparams, args, kwargs = self._split(args, kwargs)
        dtype = state.error.dtype
        (value, aux), grad = self._objective.value_and_grad(params, *args, **kwargs)
        new_params, used, stepsize, trials, found = self._take_step(
            params, state, value, grad, hyperparams, args, kwargs
        )
        if self._is_relative:
            error = tree_l2_norm(tree_sub(new_params, params)).astype(dtype) / used
        else:
            error = tree_l2_norm(self._residual_of(params, grad, hyperparams)).astype(dtype)
        # A point that is optimal is not left: values near their precision do not tell whether the step would help.
        first_error = self._first_error(state, error)
        settled = error <= self._tolerance(dtype, first_error)
        new_params = tree_where(settled, params, new_params)
        # A search that failed goes on from a shorter step; a schedule may begin with steps too short to be seen.
        stuck = found & is_still(tree_sub(new_params, params)) & (not callable(self.stepsize))
        return OptStep(
            new_params,
            MirrorDescentState(
                iter_num=state.iter_num + 1,
                error=error,
                aux=aux,
                num_fun_eval=state.num_fun_eval + trials,
                num_grad_eval=state.num_grad_eval + 1,
                num_proj_eval=state.num_proj_eval + int(not self._is_relative) + (trials if self._searches else 1),
                status=self._status_of(error, size=first_error, failed=stuck),
                value=value.astype(state.value.dtype),
                stepsize=stepsize,
                first_error=first_error,
            ),
        )

    def _candidate(self, base, grad, stepsize, hyperparams):
        return as_like("projection_grad", self.projection_grad(base, grad, stepsize, hyperparams), base)

    def _bound(self, move, slope, stepsize):
        """Half of the symmetrized Bregman divergence, divided by the step size."""
        return -0.5 * slope

    # ---- Optimality -----------------------------------------------------------------------------------------------

    def _residual_of(self, params, grad, hyperparams):
        return tree_sub(self._candidate(params, grad, 1.0, hyperparams), params)

    def optimality_fun(self, sol: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The residual ``projection_grad(x, grad, 1) - x``, a pytree like ``sol``."""
        hyperparams, args, kwargs = self._split(args, kwargs)
        return self._residual_of(sol, self._objective.grad(sol, *args, **kwargs), hyperparams)


def _diminishing(iteration, *, initial, power):
    return initial / (jnp.asarray(iteration).astype(jnp.result_type(float)) + 1) ** power
