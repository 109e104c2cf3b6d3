"""How far an implicit derivative is from the true one when the run stopped before the solution."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._closure import merge_static
from jaxsolve._status import Status
from jaxsolve._types import PyTree
from jaxsolve._vectors import ravel
from jaxsolve.base import OptStep, Solver
from jaxsolve.diagnostics._tangent import floating_data, residual_of
from jaxsolve.linear_solve import DIRECT_MAX_SIZE

__all__ = ["ImplicitErrorBound", "implicit_error_bound"]


class ImplicitErrorBound(NamedTuple):
    """A bound on the error of an implicit Jacobian, and the constants that it is made of; all spectral norms.

    Attributes:
        bound: on the distance between the computed Jacobian of the solution and the true one. NaN if the problem is
            not smooth and strongly convex.
        distance: bound on the distance of the point to the solution where the problem is strongly convex; else the
            length of a Newton step on the optimality conditions.
        alpha: the smallest singular value of A, the Jacobian of the optimality conditions in the solution.
        condition: the condition number of A.
        data_norm: the norm of B, the Jacobian of the optimality conditions in the data.
        beta: Lipschitz constant of B.
        gamma: Lipschitz constant of A.
        jacobian_norm: the norm of the implicit Jacobian, to compare the bound with.
    """

    bound: float
    distance: float
    alpha: float
    condition: float
    data_norm: float
    beta: float
    gamma: float
    jacobian_norm: float


def implicit_error_bound(
    solver: Solver,
    params: PyTree,
    *args: Any,
    strong_convexity: float | None = None,
    lipschitz_of_A: float | None = None,
    lipschitz_of_B: float | None = None,
    **kwargs: Any,
) -> ImplicitErrorBound:
    r"""Bound the error of the implicit Jacobian at a point near the solution.

    Let :math:`J` solve :math:`A J = -B` with :math:`A = \partial_1 F`, :math:`B = \partial_2 F` at a point
    :math:`\hat x` near the solution :math:`x^\star`. Then

    .. math::  \|J(\hat x) - \partial x^\star\| \le (\beta / \alpha + \gamma R / \alpha^2) \, \|\hat x - x^\star\|

    with :math:`\alpha \le \sigma_\min(A)`, :math:`R = \|B\|`, and Lipschitz constants :math:`\beta` of B and
    :math:`\gamma` of A. For the gradient of a strongly convex function,
    :math:`\|\hat x - x^\star\| \le \|F(\hat x)\| / \alpha`, so that everything can be computed. Constants that are not
    given are estimated: :math:`\alpha` and R at the point, :math:`\beta` and :math:`\gamma` along the Newton step from
    there to the solution. With estimated constants the bound holds for quadratic functions, and is an estimate
    otherwise.

    Args:
        solver: the solver whose optimality conditions are used.
        params: the point, or the ``OptStep`` that ``run`` returned.
        *args: data of the problem, as for ``solver.run``. The Jacobian is with respect to all floating-point leaves of
            the data; arrays that the functions capture are constants.
        strong_convexity: the constant :math:`\alpha`, if it is known.
        lipschitz_of_A: the constant :math:`\gamma`, if it is known.
        lipschitz_of_B: the constant :math:`\beta`, if it is known.
        **kwargs: further data.

    Returns:
        An :class:`ImplicitErrorBound`. If the problem is not smooth and strongly convex (constraints, penalties, fixed
        points, indefinite Hessians), its ``bound`` is NaN; ``condition`` still says how sensitive the derivative is.

    Raises:
        ValueError: the parameters are too many for dense matrices, or the data have no floating-point leaf.

    Warns:
        RuntimeWarning: the run did not converge, or the Hessian is singular.

    Reference:
        Blondel et al. (2021), "Efficient and Modular Implicit Differentiation", theorem 1.

    Example:
        >>> import jax.numpy as jnp, jaxsolve
        >>> solver = jaxsolve.GradientDescent(lambda x, t: jnp.sum((x - 1.0) ** 2) + t * jnp.sum(x**2))
        >>> found = jaxsolve.diagnostics.implicit_error_bound(solver, jnp.asarray([0.6, 0.5]), 1.0)
        >>> [round(value, 3) for value in (found.distance, found.alpha, found.bound)]
        [0.1, 4.0, 0.05]
    """
    if isinstance(params, OptStep):
        _warn_of_status(solver, params.state)
        params = params.params
    point, unravel = ravel(params)
    if point.size > DIRECT_MAX_SIZE:
        raise ValueError(
            f"implicit_error_bound makes dense matrices, for at most {DIRECT_MAX_SIZE} parameters; got {point.size}. "
            "compare_gradients has no such limit."
        )
    leaves, static = floating_data(args, kwargs)
    data, unravel_data = ravel(leaves)

    def residual(x, data):
        return residual_of(solver, unravel, *merge_static(unravel_data(data), static))(x)

    @jax.jit
    def matrices(x):
        return residual(x, data), jax.jacfwd(residual)(x, data), jax.jacrev(residual, 1)(x, data)

    F, A, B = map(np.asarray, matrices(point))
    values = np.linalg.svd(A, compute_uv=False)
    psd = solver._structure == "psd"
    strong = psd and np.min(np.linalg.eigvalsh((A + A.T) / 2)) > values[0] * np.finfo(A.dtype).eps
    if psd and not strong:
        warnings.warn(
            f"the Hessian of {type(solver).__name__} has no positive lower bound at this point, so the error has no "
            "bound: regularize the problem, or look at a point nearer to the solution.",
            RuntimeWarning,
            stacklevel=2,
        )
    least = float(values[-1]) if strong_convexity is None else float(strong_convexity)
    newton = -np.linalg.lstsq(A, F, rcond=None)[0]
    length, data_norm = float(np.linalg.norm(newton)), float(np.linalg.norm(B, 2))
    distance = float(np.linalg.norm(F)) / least if strong else length
    beta, gamma = lipschitz_of_B, lipschitz_of_A
    if beta is None or gamma is None:
        _, A_there, B_there = map(np.asarray, matrices(point + jnp.asarray(newton, point.dtype)))
        way = length if length > 0 else 1.0
        beta = float(np.linalg.norm(B_there - B, 2)) / way if beta is None else beta
        gamma = float(np.linalg.norm(A_there - A, 2)) / way if gamma is None else gamma
    bound = (beta / least + gamma * data_norm / least**2) * distance if strong else np.nan
    jacobian = np.linalg.lstsq(A, B, rcond=None)[0]
    condition = float(values[0] / values[-1]) if values[-1] > 0 else np.inf
    return ImplicitErrorBound(
        float(bound), distance, least, condition, data_norm, beta, gamma, float(np.linalg.norm(jacobian, 2))
    )


def _warn_of_status(solver: Solver, state: Any) -> None:
    status = getattr(state, "status", None)
    if status is not None and int(status) != Status.CONVERGED:
        found = Status(int(status))
        warnings.warn(
            f"the run of {type(solver).__name__} ended with {found.name}: {found.sentence} Its implicit derivative is "
            "that of a point which is not the solution; the bound says how wrong it may be. Unrolling "
            "(implicit_diff=False) differentiates the iterations as they are.",
            RuntimeWarning,
            stacklevel=3,
        )
