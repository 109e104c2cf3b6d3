r"""Newton's method with a trust region.

Problem: minimize a smooth function :math:`f(x, \theta)`. Method: with gradient :math:`g` and Hessian :math:`B` at
:math:`x_k` the step is a minimizer of the quadratic model in a ball,

.. math::

    \min_{\|z\| \le \Delta} m(z), \qquad m(z) = g^T z + \tfrac12 z^T B z,

and the radius :math:`\Delta` depends on how well the model predicts the value (Nocedal and Wright 2006, algorithm 4.1).
``NewtonCG`` goes towards the minimizer by conjugate gradients, with products with the Hessian only (Steihaug 1983;
algorithm 7.2). ``TrustNewton`` computes the Hessian and the minimizer itself, from one eigenvalue decomposition for all
radii (Moré and Sorensen 1983). Optimality: :math:`\nabla_1 f(x, \theta) = 0`.
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._inputs import power_of_two
from jaxsolve._loop import loop
from jaxsolve._status import Status
from jaxsolve._types import Array, PyTree
from jaxsolve._vectors import flat_in_order, unflat_in_order
from jaxsolve.base import option
from jaxsolve.solvers._descent_method import SmoothMinimizer
from jaxsolve.solvers._gradient_method import is_still
from jaxsolve.solvers._stepsize import falls_without_end, first_length, rounding
from jaxsolve.tree_util import (
    tree_add_scalar_mul,
    tree_inf_norm,
    tree_l2_norm,
    tree_negative,
    tree_real_dtype,
    tree_scalar_mul,
    tree_sub,
    tree_vdot_real,
    tree_zeros_like,
)

__all__ = ["NewtonCG", "TrustNewton", "TrustRegionState"]


class TrustRegionState(NamedTuple):
    """State of a trust-region method.

    Attributes:
        iter_num: number of iterations done, int32. Each has one or more trial steps; the last one is taken.
        value: ``fun`` at the current parameters.
        grad: its gradient there, a pytree like the parameters.
        radius: how far the next trial step may lead; 0 before the first one.
        error: Euclidean norm of ``grad``.
        aux: auxiliary output of ``fun``.
        num_fun_eval: evaluations of ``fun``, int32: one at the start, and one per trial step.
        num_grad_eval: evaluations of its gradient, int32: as many, plus one per iteration for the Hessian.
        num_hessian_products: products of the Hessian with a vector, int32.
        status: a :class:`jaxsolve.Status`, int32.
        first_error: ``error`` at the initial point.
        num_stalled: number of successive steps that changed the value by rounding errors only and did not lower
            ``error``, int32.
    """

    iter_num: Array
    value: Array
    grad: Any
    radius: Array
    error: Array
    aux: Any = None
    num_fun_eval: Any = 0
    num_grad_eval: Any = 0
    num_hessian_products: Any = 0
    status: Any = 0
    first_error: Any = None
    num_stalled: Any = 0


class _Trial(NamedTuple):
    """The last trial step of an iteration."""

    params: Any
    value: Array
    grad: Any
    aux: Any
    radius: Array
    products: Array
    trials: Array
    accepted: Array
    fallen: Array
    over: Array


class TrustRegionMethod(SmoothMinimizer):
    """Base of the trust-region methods. A subclass defines ``_model`` and ``_subproblem``.

    Attributes:
        max_trials: largest number of trial steps in an iteration. If none of them is good enough, the run ends with
            ``Status.STALLED``.
        max_radius: longest step, in the unit of the parameters; may be traced.
    """

    max_trials: int = option(40, at_least=1)
    max_radius: float = option(float("inf"), above=0)

    _State = TrustRegionState
    _failure: ClassVar[Status] = Status.STALLED
    _resumed_fields = ("iter_num", "radius", "first_error")

    @abc.abstractmethod
    def _model(self, product: Any, grad: PyTree, image: PyTree) -> tuple[Any, int]:
        """What is known of the Hessian for all radii, and the number of products that it took.

        Args:
            product: product of the Hessian with a pytree like the parameters.
            grad: the gradient.
            image: its product with the Hessian.
        """

    @abc.abstractmethod
    def _subproblem(
        self, model: Any, product: Any, grad: PyTree, radius: Array, tol: Array
    ) -> tuple[PyTree, Array, Array, Array | int]:
        """A step in the ball of a radius, for a gradient of a norm of about 1.

        Returns:
            The step, the decrease of the model, whether the step leads to the boundary, and the number of products. The
            gradient of the model there need not be shorter than ``tol``.
        """

    def _step_fields(self, dtype: Any) -> dict[str, Any]:
        return {"radius": jnp.zeros((), dtype), "num_hessian_products": jnp.zeros((), jnp.int32)}

    def _step(self, params, state, args, kwargs):
        dtype = state.radius.dtype
        linear = jax.linearize(lambda x: self._objective.grad(x, *args, **kwargs), params)[1]
        # Gradient and Hessian in units in which they are of size 1: products of them stay in the range of the dtype.
        unit = power_of_two(state.error)
        grad = tree_scalar_mul(1 / unit, state.grad)
        image = _finite(linear(grad))
        curve = power_of_two(tree_inf_norm(image).astype(dtype))
        image, length_unit = tree_scalar_mul(1 / curve, image), unit / curve

        def product(vector):
            return tree_scalar_mul(1 / curve, _finite(linear(vector)))

        model, products = self._model(product, grad, image)
        longest = jnp.asarray(self.max_radius).astype(dtype)
        # At first the way to the minimizer of the model along the gradient, if there is one.
        norm, curvature = tree_l2_norm(grad).astype(dtype), tree_vdot_real(grad, image).astype(dtype)
        cauchy = length_unit * norm**3 / jnp.where(curvature > 0, curvature, 1)
        cauchy = jnp.where(curvature > 0, cauchy, first_length(params, state.value, state.error))
        radius = jnp.minimum(jnp.where(state.radius > 0, state.radius, cauchy), longest)
        # The nearer the solution, the more accurate is the step: convergence is superlinear.
        first_error = jnp.where(state.first_error > 0, state.first_error, 1)
        tol = norm * jnp.minimum(0.5, jnp.sqrt(state.error / first_error))
        zero, no = jnp.zeros((), jnp.int32), jnp.asarray(False)
        first = _Trial(params, state.value, state.grad, state.aux, radius, zero + (products + 1), zero, no, no, no)

        def attempt(trial: _Trial) -> _Trial:
            step, foretold, at_boundary, products = self._subproblem(
                model, product, grad, trial.radius / length_unit, tol
            )
            step, foretold = tree_scalar_mul(length_unit, step), length_unit * foretold * unit
            point = tree_add_scalar_mul(params, 1, step)
            (value, aux), new_grad = self._objective.value_and_grad(point, *args, **kwargs)
            length, error = tree_l2_norm(step).astype(dtype), tree_l2_norm(new_grad).astype(dtype)
            decrease, noise = (state.value - value).astype(dtype), rounding(state.value, dtype)
            usable = jnp.isfinite(value) & jnp.isfinite(error)
            ratio = jnp.where(usable, decrease, -jnp.inf) / jnp.where(foretold > 0, foretold, 1)
            # A single value of minus infinity may be that of a step out of the domain.
            fallen = falls_without_end(value) & (value > -jnp.inf)
            # Where values differ by rounding alone, the gradients decide.
            rounded = (jnp.abs(decrease) <= noise) & (foretold <= noise)
            good = usable & jnp.where(rounded, error <= state.error, (ratio > 1e-4) & (foretold > 0))
            poor = ~(rounded & good) & ~(ratio >= 0.25)
            shorter = 0.25 * jnp.where(length <= trial.radius, length, trial.radius)
            longer = jnp.where(at_boundary & (ratio > 0.75), 2 * trial.radius, trial.radius)
            kept = self._where(good, (point, value, new_grad, aux), (trial.params, trial.value, trial.grad, trial.aux))
            return _Trial(
                *kept,
                radius=jnp.minimum(jnp.where(poor, shorter, longer), longest),
                products=trial.products + products,
                trials=trial.trials + 1,
                accepted=good,
                fallen=fallen,
                # A step that rounding has eaten, or that foretells nothing but rounding, will not get better.
                over=good | fallen | is_still(tree_sub(point, params)) | (rounded & ~good),
            )

        end = loop(
            lambda trial: ~trial.over, attempt, first, maxiter=self.max_trials, kind=self._loop_kind, packed=True
        )
        new_state = state._replace(
            value=end.value,
            grad=end.grad,
            aux=end.aux,
            radius=end.radius,
            status=Status.DIVERGED.where(end.fallen, state.status),
            num_fun_eval=state.num_fun_eval + end.trials,
            num_grad_eval=state.num_grad_eval + end.trials + 1,
            num_hessian_products=state.num_hessian_products + end.products,
        )
        return end.params, new_state, end.accepted & ~is_still(tree_sub(end.params, params)), ~end.accepted


class NewtonCG(TrustRegionMethod):
    """Newton's method with a trust region and conjugate gradients, for any number of variables.

    ``run(init_params, *args, **kwargs)`` minimizes ``fun(params, *args, **kwargs)``, which must be twice
    differentiable by jax. The Hessian is never formed: an iteration linearizes the gradient once, and computes products
    with the Hessian, each about as expensive as a gradient, until the step is close enough to the minimizer of the
    model. Along a direction of negative curvature the step goes to the boundary of the trust region.

    If ``run`` or ``init_state`` gets the result ``OptStep(params, state)`` of an earlier run as initial point, the new
    run continues with its radius and its number of iterations.

    Reference:
        Steihaug (1983), "The conjugate gradient method and trust regions in large scale optimization"; Nocedal and
        Wright (2006), "Numerical optimization", second edition, algorithms 4.1 and 7.2.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> def rosenbrock(x, a):
        ...     return jnp.sum((a - x[:-1]) ** 2 + 100.0 * (x[1:] - x[:-1] ** 2) ** 2)
        >>> solver = jaxsolve.NewtonCG(rosenbrock, tol=1e-6)
        >>> solver.run(jnp.zeros(2), 1.0).params.round(3).tolist()
        [1.0, 1.0]
        >>> jax.jacobian(lambda a: solver.run(jnp.zeros(2), a).params)(1.0).round(3).tolist()
        [1.0, 2.0]
    """

    _treats_leaves_alike = True

    def _model(self, product, grad, image):
        del product, grad
        return image, 0

    def _subproblem(self, model, product, grad, radius, tol):
        dtype = radius.dtype
        size = sum(leaf.size for leaf in jax.tree.leaves(grad))

        def dot(a, b):
            return tree_vdot_real(a, b).astype(dtype)

        def advance(carry, image):
            z, residual, direction, squared, products, _, _ = carry
            curvature = dot(direction, image)
            along = squared / jnp.where(curvature > 0, curvature, 1)
            inner = tree_add_scalar_mul(z, along, direction)
            outside = ~(curvature > 0) | ~(tree_l2_norm(inner).astype(dtype) < radius)
            along = jnp.where(outside, _to_boundary(z, direction, radius, dot), along)
            z = tree_add_scalar_mul(z, along, direction)
            residual = tree_add_scalar_mul(residual, along, image)
            new_squared = dot(residual, residual)
            beta = new_squared / jnp.where(squared > 0, squared, 1)
            direction = tree_add_scalar_mul(tree_negative(residual), beta, direction)
            return z, residual, direction, new_squared, products + 1, outside, outside | ~(new_squared > tol**2)

        zero, no = jnp.zeros((), jnp.int32), jnp.asarray(False)
        start = (tree_zeros_like(grad), grad, tree_negative(grad), dot(grad, grad), zero - 1, no, no)
        # The product with the gradient is known.
        z, residual, _, _, products, at_boundary, _ = loop(
            lambda carry: ~carry[-1],
            lambda carry: advance(carry, product(carry[2])),
            advance(start, tree_negative(model)),
            maxiter=2 * size,
            kind=self._loop_kind,
            packed=True,
        )
        # The image of z is the residual minus the gradient.
        return z, -0.5 * (dot(z, grad) + dot(z, residual)), at_boundary, products


class TrustNewton(TrustRegionMethod):
    """Newton's method with a trust region and the whole Hessian, for up to some hundred variables.

    ``run(init_params, *args, **kwargs)`` minimizes ``fun(params, *args, **kwargs)``, which must be twice
    differentiable by jax. An iteration computes the Hessian, by one product for each variable, and its eigenvalues. The
    steps are exact minimizers of the model in the trust region, even if the Hessian is indefinite. The method needs the
    fewest evaluations of all methods here.

    If ``run`` or ``init_state`` gets the result ``OptStep(params, state)`` of an earlier run as initial point, the new
    run continues with its radius and its number of iterations.

    Reference:
        Moré and Sorensen (1983), "Computing a trust region step"; Nocedal and Wright (2006), "Numerical
        optimization", second edition, algorithm 4.1 and section 4.3.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> def rosenbrock(x, a):
        ...     return jnp.sum((a - x[:-1]) ** 2 + 100.0 * (x[1:] - x[:-1] ** 2) ** 2)
        >>> solver = jaxsolve.TrustNewton(rosenbrock, tol=1e-6)
        >>> solver.run(jnp.zeros(2), 1.0).params.round(3).tolist()
        [1.0, 1.0]
        >>> jax.jacobian(lambda a: solver.run(jnp.zeros(2), a).params)(1.0).round(3).tolist()
        [1.0, 2.0]
    """

    _treats_leaves_alike = True

    def _model(self, product, grad, image):
        del image
        vector = flat_in_order(grad, tree_real_dtype(grad))

        def column(entry):
            return flat_in_order(product(unflat_in_order(entry, grad)), vector.dtype)

        values, vectors = jnp.linalg.eigh(jax.vmap(column)(jnp.eye(vector.size, dtype=vector.dtype)))
        return (values, vectors, _dot(vector, vectors)), vector.size

    def _subproblem(self, model, product, grad, radius, tol):
        del product, tol
        values, vectors, components = model
        step, at_boundary = exact_step(values, components, radius, self._loop_kind)
        foretold = -jnp.sum(step * (components + 0.5 * values * step))
        return unflat_in_order(_dot(vectors, step), grad), foretold, at_boundary, 0


def exact_step(values: Array, components: Array, radius: Array, kind: Any) -> tuple[Array, Array]:
    r"""Minimize a quadratic model in a ball, in the coordinates of the eigenvectors of its Hessian.

    The minimizer is :math:`s_i = -c_i / (\lambda_i + \ell)` with the least shift :math:`\ell \ge \max(0, -\lambda_1)`
    for which it is in the ball. On the boundary the shift is a zero of :math:`1 / \|s\| - 1 / \Delta`, found by
    Newton's method from the left, where it converges monotonically (Nocedal and Wright 2006, section 4.3), with
    bisection as a safeguard. In the hard case, where the step with the least shift is too short, a multiple of the
    first eigenvector leads to the boundary.

    Args:
        values: eigenvalues, ascending, shape (n,).
        components: the gradient in the coordinates of the eigenvectors, shape (n,).
        radius: of the ball, a scalar.
        kind: of the loop, see :mod:`jaxsolve._loop`.

    Returns:
        The step in these coordinates, and whether it leads to the boundary.
    """
    eps, tiny = (float(getattr(jnp.finfo(radius.dtype), name)) for name in ("eps", "tiny"))
    highest = jnp.sqrt(jnp.sum(components**2)) / radius
    # Shifts are measured from the least one, and the gaps between eigenvalues are exact.
    concave = values[0] < 0
    gaps = jnp.where(concave, values - values[0], values)
    least = jnp.maximum(eps * jnp.maximum(jnp.max(jnp.abs(values)), highest), tiny)

    def step_at(shift):
        return -components / jnp.maximum(gaps + shift, least)

    def length_of(step):
        return jnp.sqrt(jnp.sum(step**2))

    def proceed(carry):
        _, lower, upper, length = carry
        return (jnp.abs(length - radius) > 1e-3 * radius) & (upper - lower > 4 * eps * upper)

    def refine(carry):
        shift, lower, upper, length = carry
        slope = jnp.sum(step_at(shift) ** 2 / jnp.maximum(gaps + shift, least))
        lower, upper = jnp.where(length > radius, shift, lower), jnp.where(length > radius, upper, shift)
        shift = shift + (length / radius - 1) * length**2 / jnp.where(slope > 0, slope, 1)
        shift = jnp.where((shift > lower) & (shift < upper), shift, 0.5 * (lower + upper))
        return shift, lower, upper, length_of(step_at(shift))

    zero = jnp.zeros_like(radius)
    shortest = step_at(zero)
    length = length_of(shortest)
    # With a step inside of the ball the loop does not run.
    inside = length <= radius
    start = (zero, zero, highest, jnp.where(inside, radius, length))
    outer = step_at(loop(proceed, refine, start, maxiter=60, kind=kind)[0])
    outer = outer * jnp.minimum(1, radius / jnp.maximum(length_of(outer), tiny))
    # The hard case: the model is not convex, and no shift makes the step long enough.
    missing = jnp.sqrt(jnp.maximum((radius - length) * (radius + length) + shortest[0] ** 2, 0))
    hard = shortest.at[0].set(jnp.where(shortest[0] < 0, -missing, missing))
    return jnp.where(inside, jnp.where(concave, hard, shortest), outer), ~inside | concave


def _dot(a: Array, b: Array) -> Array:
    return jnp.dot(a, b, precision=lax.Precision.HIGHEST)


def _finite(tree: PyTree) -> PyTree:
    """Zero where it is not finite: there the model is linear."""
    return jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, jnp.zeros_like(x)), tree)


def _to_boundary(z: PyTree, direction: PyTree, radius: Array, dot: Any) -> Array:
    """The positive multiple of a direction that leads from inside of a ball to its boundary."""
    length = tree_l2_norm(z).astype(radius.dtype)
    a, b, c = dot(direction, direction), dot(z, direction), (radius - length) * (radius + length)
    root = jnp.sqrt(jnp.maximum(b * b + a * c, 0))
    # Of the two forms of the root the one without cancellation.
    far = jnp.where(b > 0, c / jnp.where(b + root > 0, b + root, 1), (root - b) / jnp.where(a > 0, a, 1))
    return jnp.maximum(far, 0)
