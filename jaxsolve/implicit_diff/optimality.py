r"""The catalog of optimality mappings.

Each function builds, from those of a problem, a mapping that characterizes its solutions: either a residual ``F`` with
``F(x, ...) = 0``, to be used with ``custom_root``, or a map ``T`` with ``T(x, ...) = x``, to be used with
``custom_fixed_point``. With them the derivative of a solution does not depend on the algorithm that found it: any
solver may be combined with any mapping that its solutions satisfy.

============================================  =======  ============================================
builder                                       gives    made from
============================================  =======  ============================================
:func:`stationary`                            ``F``    gradient
:func:`kkt`                                   ``F``    objective, constraints, and their VJPs
:func:`conic_residual`                        ``F``    projection onto the dual cone
:func:`gradient_descent_fixed_point`          ``T``    gradient
:func:`proximal_gradient_fixed_point`         ``T``    gradient, proximity operator
:func:`projected_gradient_fixed_point`        ``T``    gradient, Euclidean projection
:func:`mirror_descent_fixed_point`            ``T``    gradient, Bregman projection, mirror map
:func:`newton_fixed_point`                    ``T``    residual and a linear solve
:func:`block_proximal_gradient_fixed_point`   ``T``    gradient, proximity operator of a block
============================================  =======  ============================================

At a solution every step size gives the same derivative; therefore the default is 1.

Reference:
    Blondel et al. (2021), "Efficient and Modular Implicit Differentiation", table 1 and appendix A.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxsolve._types import KKTSolution
from jaxsolve.implicit_diff._custom import signature_of
from jaxsolve.implicit_diff._system import like_unknowns
from jaxsolve.linear_solve import solve as linear_solve
from jaxsolve.tree_util import tree_add_scalar_mul, tree_mul, tree_vdot

__all__ = [
    "block_proximal_gradient_fixed_point",
    "block_step",
    "bregman_step",
    "call_with_hyperparams",
    "conic_residual",
    "gradient_descent_fixed_point",
    "kkt",
    "mirror_descent_fixed_point",
    "newton_fixed_point",
    "projected_gradient_fixed_point",
    "proximal_gradient_fixed_point",
    "stationary",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)


def _like(fun: Callable, mapping: Callable, hyperparams: str | None = None) -> Callable:
    """Give a mapping the signature of ``fun``, with the hyperparameters in second place, for `custom_root` to match."""
    parameters, kinds = list(signature_of(fun).parameters.values()), inspect.Parameter
    if any(p.kind is kinds.VAR_POSITIONAL for p in parameters[:1]):
        return mapping
    if hyperparams is not None:
        # A parameter in front of ones without default cannot have one itself.
        follower = next((p for p in parameters[1:] if p.kind is kinds.POSITIONAL_OR_KEYWORD), None)
        default = kinds.empty if follower is not None and follower.default is kinds.empty else None
        parameters.insert(1, kinds(hyperparams, parameters[0].kind, default=default))
    mapping.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # functions take attributes
    return mapping


def call_with_hyperparams(name: str, function: Callable, x: Any, hyperparams: Any, *scaling: Any) -> Any:
    """Call a projection or a proximity operator with as many arguments as it takes.

    Args:
        name: what the caller calls it, for the message.
        function: ``function(x, hyperparams, *scaling)``, or one that takes fewer positional arguments.
        x: the point.
        hyperparams: ``None`` if there are none. Then a default of the function takes precedence over ``None``.
        *scaling: the step size, for a proximity operator.

    Raises:
        TypeError: there are hyperparameters, but the function takes none.
    """
    parameters, kinds = signature_of(function).parameters.values(), inspect.Parameter
    if any(p.kind is kinds.VAR_POSITIONAL for p in parameters):
        return function(x, hyperparams, *scaling)
    taken = [p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    if hyperparams is None and len(taken) > 1 and taken[1].default is not kinds.empty:
        hyperparams = taken[1].default
    if hyperparams is not None and len(taken) < 2:
        raise TypeError(
            f"{name} takes one argument, but it was given hyperparameters: let it take them as its second argument, or "
            "pass None."
        )
    return function(*(x, hyperparams, *scaling)[: len(taken)])


def stationary(fun: Callable, has_aux: bool = False, *, value_and_grad: bool = False) -> Callable:
    r"""Stationarity of an unconstrained problem: :math:`F(x, \theta) = \nabla_1 f(x, \theta)`.

    Args:
        fun: ``fun(x, *args, **kwargs)``, a real scalar.
        has_aux: whether ``fun`` returns ``(value, aux)``.
        value_and_grad: whether ``fun`` returns ``(value, grad)``, or ``((value, aux), grad)``; then ``has_aux`` is not
            used.

    Returns:
        ``F(x, *args, **kwargs)``, a pytree like ``x``. Its Jacobian is symmetric, at a minimum positive semidefinite.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve.implicit_diff import custom_root
        >>> from jaxsolve.implicit_diff.optimality import stationary
        >>> @custom_root(stationary(lambda x, theta: jnp.sum((x - theta) ** 2)), structure="psd")
        ... def solver(theta):
        ...     return theta
        >>> jax.jacobian(solver)(jnp.ones(2)).round(6).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    with_grad = fun if value_and_grad else jax.value_and_grad(fun, has_aux=has_aux)

    def residual(x, *args, **kwargs):
        return with_grad(x, *args, **kwargs)[1]

    return _like(fun, residual)


def gradient_descent_fixed_point(
    fun: Callable, stepsize: Any = 1.0, has_aux: bool = False, *, value_and_grad: bool = False
) -> Callable:
    r"""Fixed point of gradient descent: :math:`T(x, \theta) = x - \eta \nabla_1 f(x, \theta)`.

    Args:
        fun: ``fun(x, *args, **kwargs)``, a real scalar.
        stepsize: :math:`\eta`, any positive number.
        has_aux: whether ``fun`` returns ``(value, aux)``.
        value_and_grad: whether ``fun`` returns its gradient too, see :func:`stationary`.

    Returns:
        ``T(x, *args, **kwargs)``, a pytree like ``x``.
    """
    grad = stationary(fun, has_aux, value_and_grad=value_and_grad)

    def fixed_point(x, *args, **kwargs):
        return tree_add_scalar_mul(x, -stepsize, grad(x, *args, **kwargs))

    return _like(fun, fixed_point)


def kkt(obj_fun: Callable, eq_fun: Callable | None = None, ineq_fun: Callable | None = None) -> Callable:
    r"""Karush-Kuhn-Tucker conditions of a constrained problem.

    The problem is to minimize :math:`f(z, \theta_f)` subject to :math:`H(z, \theta_H) = 0` and
    :math:`G(z, \theta_G) \le 0`. With :math:`x = (z, \nu, \lambda)`,

    .. math::

        F(x, \theta) = \bigl(\nabla_1 f + [\partial_1 H]^T \nu + [\partial_1 G]^T \lambda,\; H,\; \lambda \circ G\bigr).

    The derivative exists where strict complementarity holds and the active constraints are independent; elsewhere the
    tangent system is singular and its least-squares solution is used.

    Args:
        obj_fun: ``f(z, params_obj)``, a real scalar.
        eq_fun: ``H(z, params_eq)``, a pytree; ``None`` without equality constraints.
        ineq_fun: ``G(z, params_ineq)``, a pytree; ``None`` without inequality constraints.

    Returns:
        ``F(sol, params_obj, params_eq=None, params_ineq=None)`` of a :class:`KKTSolution`, which returns a
        ``KKTSolution`` of residuals. A block whose constraint is missing is ``None`` in both.

    Raises:
        ValueError: (from ``F``) a constraint has no multiplier, or a multiplier no constraint.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve import KKTSolution
        >>> from jaxsolve.implicit_diff import custom_root
        >>> from jaxsolve.implicit_diff.optimality import kkt
        >>> F = kkt(lambda z, c: 0.5 * jnp.sum((z - c) ** 2), eq_fun=lambda z, total: jnp.sum(z) - total)
        >>> @custom_root(F)
        ... def nearest_with_sum(params_obj, params_eq):
        ...     nu = (jnp.sum(params_obj) - params_eq) / params_obj.size
        ...     return KKTSolution(params_obj - nu, nu)
        >>> jax.jacobian(lambda t: nearest_with_sum(jnp.zeros(2), t).primal)(1.0).tolist()
        [0.5, 0.5]
    """

    def residual(sol, params_obj, params_eq=None, params_ineq=None):
        primal, dual_eq, dual_ineq = sol
        _check_multiplier("dual_eq", dual_eq, "eq_fun", eq_fun)
        _check_multiplier("dual_ineq", dual_ineq, "ineq_fun", ineq_fun)

        def lagrangian(primal):
            value = obj_fun(primal, params_obj)
            eq = None if eq_fun is None else eq_fun(primal, params_eq)
            ineq = None if ineq_fun is None else ineq_fun(primal, params_ineq)
            penalty = tree_vdot((dual_eq, dual_ineq), (eq, ineq))
            return value + penalty.astype(value.dtype), (eq, ineq)

        stationarity, (eq, ineq) = jax.grad(lagrangian, has_aux=True)(primal)
        return KKTSolution(stationarity, eq, tree_mul(dual_ineq, ineq))

    return residual


def _check_multiplier(name, multiplier, constraint_name, constraint):
    if (multiplier is None) != (constraint is None):
        raise ValueError(
            f"the solution's {name} is {'missing' if multiplier is None else 'given'}, but {constraint_name} is "
            f"{'missing' if constraint is None else 'given'}: they come together."
        )


def proximal_gradient_fixed_point(
    fun: Callable, prox: Callable, stepsize: Any = 1.0, has_aux: bool = False, *, value_and_grad: bool = False
) -> Callable:
    r"""Fixed point of proximal gradient: :math:`T = \operatorname{prox}_{\eta g}(x - \eta \nabla_1 f(x, \theta))`.

    Args:
        fun: smooth part ``fun(x, *args, **kwargs)``, a real scalar.
        prox: ``prox(x, hyperparams_prox, scaling)``, see :mod:`jaxsolve.prox`.
        stepsize: :math:`\eta`, any positive number.
        has_aux: whether ``fun`` returns ``(value, aux)``.
        value_and_grad: whether ``fun`` returns its gradient too, see :func:`stationary`.

    Returns:
        ``T(x, hyperparams_prox, *args, **kwargs)``, a pytree like ``x``.
    """
    descend = gradient_descent_fixed_point(fun, stepsize, has_aux, value_and_grad=value_and_grad)

    def fixed_point(x, hyperparams_prox=None, *args, **kwargs):
        return call_with_hyperparams("prox", prox, descend(x, *args, **kwargs), hyperparams_prox, stepsize)

    return _like(fun, fixed_point, "hyperparams_prox")


def projected_gradient_fixed_point(
    fun: Callable, projection: Callable, stepsize: Any = 1.0, has_aux: bool = False, *, value_and_grad: bool = False
) -> Callable:
    r"""Fixed point of projected gradient: :math:`T = \operatorname{proj}_C(x - \eta \nabla_1 f(x, \theta))`.

    Args:
        fun: ``fun(x, *args, **kwargs)``, a real scalar.
        projection: ``projection(x, hyperparams_proj)``, see :mod:`jaxsolve.projection`.
        stepsize: :math:`\eta`, any positive number.
        has_aux: whether ``fun`` returns ``(value, aux)``.
        value_and_grad: whether ``fun`` returns its gradient too, see :func:`stationary`.

    Returns:
        ``T(x, hyperparams_proj, *args, **kwargs)``, a pytree like ``x``.
    """
    descend = gradient_descent_fixed_point(fun, stepsize, has_aux, value_and_grad=value_and_grad)

    def fixed_point(x, hyperparams_proj=None, *args, **kwargs):
        return call_with_hyperparams("projection", projection, descend(x, *args, **kwargs), hyperparams_proj)

    return _like(fun, fixed_point, "hyperparams_proj")


def mirror_descent_fixed_point(
    fun: Callable, bregman_projection: Callable, mirror_map: Callable, stepsize: Any = 1.0, has_aux: bool = False
) -> Callable:
    r"""Fixed point of mirror descent.

    :math:`T(x, \theta) = \operatorname{proj}^\varphi_C(\nabla\varphi(x) - \eta \nabla_1 f(x, \theta))`.

    Args:
        fun: ``fun(x, *args, **kwargs)``, a real scalar.
        bregman_projection: ``bregman_projection(y, hyperparams_proj)``, the point of the set nearest to the *dual*
            point ``y`` in the Bregman divergence of :math:`\varphi`; for the negative entropy on the simplex it is the
            softmax.
        mirror_map: :math:`\nabla\varphi`; for the negative entropy it is the logarithm (plus a constant). Where it is
            infinite, at the boundary of its domain, it must act entry by entry; such entries stay, and their derivative
            is 0.
        stepsize: :math:`\eta`, any positive number.
        has_aux: whether ``fun`` returns ``(value, aux)``.

    Returns:
        ``T(x, hyperparams_proj, *args, **kwargs)``, a pytree like ``x``.
    """
    grad = stationary(fun, has_aux)

    def fixed_point(x, hyperparams_proj=None, *args, **kwargs):
        return bregman_step(x, grad(x, *args, **kwargs), stepsize, hyperparams_proj, bregman_projection, mirror_map)

    return _like(fun, fixed_point, "hyperparams_proj")


def bregman_step(
    x: Any, grad: Any, stepsize: Any, hyperparams_proj: Any, bregman_projection: Callable, mirror_map: Callable
) -> Any:
    """One step of mirror descent; see :func:`mirror_descent_fixed_point` for the two functions."""
    dual = tree_add_scalar_mul(_mirror(mirror_map, x), -stepsize, grad)
    return call_with_hyperparams("projection", bregman_projection, dual, hyperparams_proj)


def _mirror(mirror_map, x):
    """The mirror map, with derivative 0 in the entries where it is infinite."""
    image = mirror_map(x)
    if jax.tree.structure(image) != jax.tree.structure(x):
        return image
    finite = jax.tree.map(jnp.isfinite, image)
    # The map is evaluated once more at harmless points: the derivative of a masked infinity is not masked.
    harmless = mirror_map(jax.tree.map(lambda f, leaf: jnp.where(f, leaf, jnp.ones_like(leaf)), finite, x))
    stopped = jax.lax.stop_gradient(image)
    return jax.tree.map(lambda f, a, b: jnp.where(f, a, b), finite, harmless, stopped)


def newton_fixed_point(residual_fun: Callable, stepsize: Any = 1.0, solve: Callable | None = None) -> Callable:
    r"""Fixed point of Newton's method for :math:`G(x, \theta) = 0`: :math:`T = x - \eta\, [\partial_1 G]^{-1} G`.

    With :math:`\eta = 1` the Jacobian of :math:`T` in :math:`x` vanishes at a root, so the tangent system is the
    identity.

    Args:
        residual_fun: ``G(x, *args, **kwargs)``, with the leaf shapes of ``x``; a gradient, for minimization.
        stepsize: :math:`\eta`, any positive number.
        solve: linear solver of the Newton system; ``None`` chooses.

    Returns:
        ``T(x, *args, **kwargs)``, a pytree like ``x``.
    """

    def fixed_point(x, *args, **kwargs):
        value, matvec = jax.linearize(lambda x: like_unknowns(residual_fun(x, *args, **kwargs), x), x)
        return tree_add_scalar_mul(x, -stepsize, linear_solve(matvec, value, solve))

    return _like(residual_fun, fixed_point)


def block_proximal_gradient_fixed_point(
    fun: Callable, block_prox: Callable, stepsizes: Any = 1.0, has_aux: bool = False
) -> Callable:
    r"""Fixed point of block coordinate proximal gradient.

    Block :math:`j` of :math:`T` is :math:`\operatorname{prox}_{\eta_j g_j}(x_j - \eta_j [\nabla_1 f(x, \theta)]_j)`.

    Args:
        fun: smooth part ``fun(x, *args, **kwargs)``, a real scalar.
        block_prox: ``block_prox(x_j, hyperparams_prox, scaling)`` of one block.
        stepsizes: :math:`\eta_j`, a positive number or an array with one an entry of the first axis.
        has_aux: whether ``fun`` returns ``(value, aux)``.

    Returns:
        ``T(x, hyperparams_prox, *args, **kwargs)`` for an array ``x`` whose blocks lie along its first axis.
    """
    grad = stationary(fun, has_aux)

    def fixed_point(x, hyperparams_prox=None, *args, **kwargs):
        return block_step(x, grad(x, *args, **kwargs), stepsizes, hyperparams_prox, block_prox)

    return _like(fun, fixed_point, "hyperparams_prox")


def block_step(x: Any, grad: Any, stepsizes: Any, hyperparams_prox: Any, block_prox: Callable) -> Any:
    """A proximal gradient step on every block at once; see :func:`block_proximal_gradient_fixed_point`."""
    steps = jnp.broadcast_to(jnp.asarray(stepsizes, x.dtype), x.shape[:1])
    scaled = steps.reshape(-1, *[1] * (x.ndim - 1))

    def of_block(block, step):
        return call_with_hyperparams("block_prox", block_prox, block, hyperparams_prox, step)

    return jax.vmap(of_block)(x - scaled * grad, steps)


def conic_residual(dual_cone_projection: Callable) -> Callable:
    r"""Residual map of the homogeneous self-dual embedding of a cone program.

    The program is to minimize :math:`c^T x` subject to :math:`A x + s = b`, :math:`s \in K`, with dual variable
    :math:`y \in K^*`. A solution :math:`(x, y, s)` is the root :math:`z = (x, y - s, 1)` of

    .. math::

        F(z) = (Q - I)\, \Pi z + z, \qquad
        Q = \begin{pmatrix} 0 & A^T & c \\ -A & 0 & b \\ -c^T & -b^T & 0 \end{pmatrix},

    where :math:`\Pi` projects onto :math:`\mathbb{R}^n \times K^* \times \mathbb{R}_+`; from a root,
    :math:`(x, y, s) = (u, \Pi v, \Pi v - v) / w`. Roots form rays, so the Jacobian is singular along ``z``: the tangent
    of least norm is taken, and scaling leaves :math:`(x, y, s)` as they are.

    Args:
        dual_cone_projection: ``dual_cone_projection(v)``, the Euclidean projection of an array of shape (m,) onto
            :math:`K^*`.

    Returns:
        ``F(z, A, b, c)`` for ``z = (u, v, w)`` of shapes (n,), (m,) and (), returning a triple of the same shapes.

    Reference:
        Busseti, Moursi and Boyd (2019), "Solution refinement at regular points of conic problems", section 3; Agrawal
        et al. (2019), "Differentiating through a cone program".
    """

    def residual(z, A, b, c):
        u, v, w = z
        dual, scale = dual_cone_projection(v), jnp.maximum(w, 0)
        return (
            A.T @ dual + scale * c,
            -(A @ u) + scale * b - dual + v,
            -(c @ u) - b @ dual - scale + w,
        )

    return residual
