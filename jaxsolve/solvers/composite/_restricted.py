r"""The fixed point of block proximal gradient in a form whose derivative is a small linear system.

A block is *free* if its proximity operator moves with its argument. A block that is not free sits at a kink, bound or
vertex; it depends on the hyperparameters alone, whatever the others do. So the fixed point may be written with the
columns of the free blocks, :math:`S`, as unknowns,

.. math::
    x_S = \operatorname{prox}_{\eta g}\bigl(x_S - \eta A_S^\top \nabla h(A_S x_S + A_O x_O(\theta)) - \eta b_S\bigr),
    \qquad x_O = x_O(\theta),

and a product with its Jacobian costs two products with :math:`A_S`, not with :math:`A` (Bertrand et al. 2020,
proposition 1). The step sizes :math:`\eta_j` are inverse curvatures, which makes the system well conditioned.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._types import Array
from jaxsolve.solvers.composite._blocks import BlockProx, over_blocks
from jaxsolve.solvers.composite._linear_model import LinearModel

__all__ = ["inverse_curvatures", "restricted_residual"]


def restricted_residual(model: LinearModel, prox: BlockProx, params: Array, sizes: list[int], step: Array) -> Array:
    """The residual at a solution; its value and its derivatives are right there, and only there.

    Args:
        model: the smooth part.
        prox: of the blocks.
        params: the solution, of shape ``(d, *block)``.
        sizes: numbers of free blocks for which the small form is compiled; beyond the last one, the whole form is used.
        step: a step size in the unit of the problem, at most about one over the largest curvature; a scalar.
    """
    fixed = lax.stop_gradient(params)
    grad = model.gradient_at(params)
    stepped = lax.stop_gradient(fixed - step * grad)
    free = lax.stop_gradient(prox.is_free(stepped, step))
    num_free = jnp.sum(free, dtype=jnp.int32)

    def whole(_):
        return prox.residual(params, grad, step)

    def small(size):
        def residual(_):
            index = lax.top_k(free.astype(jnp.int32), size)[1]
            inside = free[index]
            # What is not free is a function of the hyperparameters.
            others = jnp.where(over_blocks(free, params), jnp.zeros_like(params), prox.all(stepped, step))
            unknown = jnp.where(over_blocks(inside, params), params[index], 0)
            columns = model.operator.columns(index)
            predictions = model.predictions(others) + jnp.tensordot(columns, unknown, (0, 0))
            subfun_grad = model.value_and_grad(predictions)[1]
            grad = model.linear_of(index) + jnp.tensordot(columns, subfun_grad, (1, 0))
            steps = lax.stop_gradient(inverse_curvatures(model, columns, predictions, unknown, step))
            moved = prox.residual(unknown, grad, steps)
            rows = others - params
            return rows.at[index].set(jnp.where(over_blocks(inside, params), moved, rows[index]))

        return residual

    branches = [*map(small, sizes), whole]
    return lax.switch(jnp.sum(num_free > jnp.asarray(sizes, jnp.int32)), branches, None)


def inverse_curvatures(
    model: LinearModel, columns: Array, predictions: Array, blocks: Array, otherwise: Array
) -> Array:
    """Step sizes of the blocks: one over the curvature along one direction each, ``otherwise`` where there is none."""
    block = jnp.ones(blocks.shape[1:], blocks.dtype)
    curvature = jax.vmap(lambda column: model.curvature(predictions, column, block))(columns) / block.size
    return jnp.where(curvature > 0, 1 / jnp.where(curvature > 0, curvature, 1), otherwise)
