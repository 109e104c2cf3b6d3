r"""Coordinate descent on working sets: solve the problem on the blocks that matter, look at all others now and then.

One iteration takes a working set: the blocks that are free to move and those that violate their optimality condition
most, at most twice as many as are free. On it a proximal Newton method is run (Lee, Sun and Saunders 2014, algorithm
1). Its model

.. math::  q(\delta) = \langle \nabla f, \delta\rangle + \tfrac12 \langle \delta, H \delta\rangle + g(x + \delta)

needs the Hessian :math:`H` in the working set only, a small matrix that stays in the cache: a visit to a block of the
model costs one row of it, however many samples there are. So the model is minimized by cyclic coordinate descent, and,
once the free blocks have settled, by semismooth Newton steps on the fixed point of its proximal gradient map, each
taken only if it halves the residual. For a quadratic :math:`f` the model is exact. Then the gradient in all blocks
is computed, and the working set chosen anew (Massias, Gramfort and Salmon 2018, section 4; Bertrand et al. 2022).

The value of :math:`g` is not known, only its proximity operator. But where the model is minimal, :math:`v = -\nabla f -
H \delta` is a subgradient of the convex :math:`g` at :math:`x + \delta`, so :math:`g` falls by at least :math:`-\langle
v, \delta\rangle` and a step :math:`\alpha` decreases the sum by at least :math:`\sigma \alpha \langle \delta, H \delta
\rangle` if

.. math::
    f(x + \alpha \delta) \le f(x) + \alpha \langle \nabla f, \delta \rangle + (1 - \sigma) \alpha \langle \delta,
    H \delta \rangle .
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._loop import loop, run_if_any
from jaxsolve._types import Array
from jaxsolve.solvers.composite._blocks import BlockProx, Point, block_norms, over_blocks, positive, sweep
from jaxsolve.solvers.composite._linear_model import LinearModel
from jaxsolve.tree_util import tree_where

__all__ = ["descend", "bucket_sizes"]

# Sizes of working sets for which a program is compiled, in unknowns.
_SIZES = (128, 256, 512, 2048)
# Blocks that join at least, as long as so many violate their condition.
_FIRST = 128
# How far the residual on the working set is brought down before all blocks are looked at again.
_REDUCTION = 1e-3
_EPOCHS = 5
_MODEL_ROUNDS = 40
_NEWTON_ROUNDS = 10
_SEARCH_STEPS = 30
_SIGMA = 0.1


class _Local(NamedTuple):
    """An iterate on the working set: a point whose parameters are the blocks in it, and their gradient."""

    point: Point
    grad: Array
    error: Array
    failed: Array
    grad_evals: Array
    prox_evals: Array


def bucket_sizes(num_blocks: int, block_size: int) -> list[int]:
    """Sizes of working sets, in blocks; a problem that fits into the smallest one has one."""
    sizes = [max(1, size // block_size) for size in _SIZES]
    sizes = [size for size in sizes if size < num_blocks] + [min(num_blocks, sizes[-1])]
    return sorted(set(sizes))


def descend(
    model: LinearModel, prox: BlockProx, point: Point, grad: Array, curvature: Array, free: Array, tol: Array
) -> tuple[Point, Array, Array, Array, Array]:
    """Choose a working set and solve the problem on it.

    Args:
        model: the smooth part.
        prox: of the blocks.
        point: the iterate.
        grad: its gradient in all blocks.
        curvature: of each block, as found by the last sweep, of shape ``(d,)``.
        free: the blocks that were free to move on the last working set, booleans of shape ``(d,)``.
        tol: error at which the whole problem is solved.

    Returns:
        The new point and curvatures, the blocks that are free now, and the numbers of gradients of ``h`` and of
        proximity operators.
    """
    num_blocks = free.shape[0]
    sizes = bucket_sizes(num_blocks, max(1, point.params.size // num_blocks))
    prox = prox.measuring(point.params, grad)
    residual = prox.residual(point.params, grad)
    violation = block_norms(residual)
    # No more than what is wrong outside is gained by solving the working set to more.
    target = jnp.maximum(_REDUCTION * jnp.sqrt(jnp.sum(residual**2)), 0.5 * tol)

    num_free = jnp.sum(free, dtype=jnp.int32)
    # A size that has room for a third more is filled and not exceeded: the next one costs several times as much.
    room = jnp.asarray(sizes, jnp.int32) - num_free
    room = jnp.min(jnp.where(3 * room >= jnp.maximum(num_free, 1), room, sizes[-1]))
    joining = jnp.minimum(jnp.sum((violation > 0) & ~free, dtype=jnp.int32), jnp.maximum(num_free, _FIRST))
    joining = jnp.minimum(joining, room)
    count = jnp.clip(num_free + joining, 1, sizes[-1])
    # All free blocks stand in front, unless there are too many of them: then whichever is worst.
    first = jnp.where(free & (num_free <= sizes[-1]), jnp.inf, violation).astype(violation.dtype)

    def solve(size, carry):
        index = lax.top_k(first, size)[1]
        return _solve_on(model, prox, carry[0], grad, index, count, target)

    zero = jnp.zeros((), jnp.int32)
    carry = (point, jnp.zeros_like(free), jnp.asarray(False), zero, zero)
    if len(sizes) == 1:
        carry = solve(sizes[0], carry)
    else:
        # Not `lax.switch`, which under `vmap` would solve working sets of every size for every batch element.
        for smaller, size in itertools.pairwise([0, *sizes]):
            carry = run_if_any((count > smaller) & (count <= size), functools.partial(solve, size), carry)
    point, free, failed, num_grad, num_prox = carry

    def visit_all(carry):
        return sweep(model, prox, carry[0], carry[1], jnp.arange(num_blocks, dtype=jnp.int32), known=False)

    # Without a step that decreases the objective (f is not convex, or rounding): one block at a time, on f itself.
    point, curvature = run_if_any(failed, visit_all, (point, curvature))
    num_grad, num_prox = num_grad + jnp.where(failed, 2 * num_blocks, 0), num_prox + jnp.where(failed, num_blocks, 0)
    return point, curvature, free, num_grad, num_prox


def _solve_on(model, prox, point, grad, index, count, target):
    columns = model.operator.columns(index)
    linear = model.linear_of(index)
    inside = jnp.arange(index.shape[0], dtype=jnp.int32) < count

    def newton(local):
        hessian = model.hessian(columns, local.point.predictions, count)
        minimizer, prox_evals = _minimize_model(hessian, local.grad, local.point.params, prox, inside, count, target)
        moved, evals, found = _search(model, columns, linear, local, hessian, minimizer - local.point.params)
        grad = linear + jnp.tensordot(columns, moved.subfun_grad, (1, 0))
        moved = local._replace(point=moved, grad=grad, error=_error(prox, inside, moved.params, grad))
        return tree_where(found, moved, local)._replace(
            failed=~found,
            grad_evals=local.grad_evals + evals + 1,
            prox_evals=local.prox_evals + prox_evals,
        )

    blocks, grad = point.params[index], jnp.take(grad, index, axis=0)
    zero = jnp.zeros((), jnp.int32)
    error = _error(prox, inside, blocks, grad)
    local = _Local(point._replace(params=blocks), grad, error, jnp.asarray(False), zero, zero)
    local = loop(lambda local: (local.error > target) & ~local.failed, newton, local, maxiter=_NEWTON_ROUNDS)
    blocks = local.point.params
    is_free = prox.is_free_after(blocks, local.grad) & inside
    free = jnp.zeros(point.params.shape[0], bool).at[index].set(is_free)
    final = local.point._replace(params=point.params.at[index].set(blocks))
    return final, free, local.failed, local.grad_evals, local.prox_evals


def _error(prox, inside, blocks, grad):
    """Euclidean norm of the residual in the blocks of the working set."""
    residual = jnp.where(over_blocks(inside, blocks), prox.residual(blocks, grad), 0)
    return jnp.sqrt(jnp.sum(residual**2)).astype(blocks.dtype)


def _search(model, columns, linear, local, hessian, step):
    """Shorten the step until the objective decreases; the point that it leads to, evaluations, and whether it did."""
    dtype, start = step.dtype, local.point
    flat = step.reshape(-1)
    along = jnp.tensordot(columns, step, (0, 0))
    slope = jnp.vdot(local.grad, step)
    curvature = jnp.vdot(flat, hessian.reshape(flat.size, flat.size) @ flat)
    linear_slope = jnp.vdot(linear, step)
    slack = 10 * float(jnp.finfo(start.value.dtype).eps) * jnp.abs(start.value).astype(dtype)

    def attempt(carry):
        alpha, _, evals, _ = carry
        predictions = start.predictions + alpha * along
        value, subfun_grad = model.value_and_grad(predictions)
        rise = (value - start.value).astype(dtype) + alpha * linear_slope
        found = rise <= alpha * (slope + (1 - _SIGMA) * curvature) + slack
        # At a full step exactly the minimizer where that is 0, for x + (0 - x) = 0.
        point = Point(start.params + alpha * step, predictions, value, subfun_grad)
        return jnp.where(jnp.isfinite(value), 0.5, 2.0**-5).astype(dtype) * alpha, point, evals + 1, found

    init = (jnp.ones((), dtype), start, jnp.zeros((), jnp.int32), jnp.asarray(False))
    _, point, evals, found = loop(lambda carry: ~carry[-1], attempt, init, maxiter=_SEARCH_STEPS)
    return point, evals, found


class _ModelState(NamedTuple):
    blocks: Array
    grad: Array
    error: Array
    free: Array
    rounds: Array
    refused: Array
    resume: Array


def _minimize_model(hessian, grad, blocks, prox, inside, count, target):
    """Minimize the model from ``blocks``, where its gradient is ``grad``; the minimizer and proximity operators."""
    k, m = hessian.shape[:2]
    flat = hessian.reshape(k * m, k * m)
    within = jnp.moveaxis(jnp.diagonal(hessian, axis1=0, axis2=2), -1, 0)
    curvature = jnp.max(jnp.sum(jnp.abs(within), axis=2), axis=1)
    steps = 1 / positive(curvature)
    kept = over_blocks(inside, blocks)

    def visit(i, carry):
        blocks, grad = carry
        j = i % count
        x = blocks[j]
        moved = prox.one(x - grad[j] * steps[j], steps[j])
        # A sum of products, for a contraction of one or a few entries would be slow.
        change = jnp.sum((moved - x).reshape(m, 1, 1) * hessian[j], axis=0)
        return blocks.at[j].set(moved), grad + change.reshape(grad.shape)

    def round_(state):
        blocks, grad = lax.fori_loop(0, _EPOCHS * count, visit, (state.blocks, state.grad))
        error = _error(prox, inside, blocks, grad)
        free = prox.is_free(blocks - over_blocks(steps, blocks) * grad, steps) & inside
        settled = ~jnp.any(free ^ state.free)
        new = state._replace(blocks=blocks, grad=grad, error=error, free=free, rounds=state.rounds + 1)
        return run_if_any(settled & (error > target) & (new.rounds >= state.resume), newton, new)

    def newton(state):
        stepped = state.blocks - over_blocks(steps, blocks) * state.grad
        residual = jnp.where(kept, prox.all(stepped, steps) - state.blocks, 0)
        jacobians = jnp.where(inside[:, None, None], prox.jacobians(stepped, steps), 0)
        tangent = _newton_step(hessian, jacobians, steps, residual.reshape(k, m)).reshape(blocks.shape)

        def gradient_at(x):
            return grad + (flat @ (x - blocks).reshape(k * m)).reshape(grad.shape)

        trial = state.blocks + tangent
        # A proximal step puts it into the domain of g and gives exact zeros.
        trial = jnp.where(kept, prox.all(trial - over_blocks(steps, trial) * gradient_at(trial), steps), blocks)
        trial_grad = gradient_at(trial)
        trial_error = _error(prox, inside, trial, trial_grad)
        better = trial_error <= 0.5 * state.error
        # After a refusal the sweeps go on for twice as long as after the one before.
        refused = state._replace(refused=state.refused + 1, resume=state.rounds + 2**state.refused)
        return tree_where(better, state._replace(blocks=trial, grad=trial_grad, error=trial_error), refused)

    zero = jnp.zeros((), jnp.int32)
    init = _ModelState(blocks, grad, jnp.full((), jnp.inf, grad.dtype), jnp.zeros(k, bool), zero, zero + 1, zero)
    final = loop(lambda state: state.error > target, round_, init, maxiter=_MODEL_ROUNDS)
    return final.blocks, final.rounds * _EPOCHS * count


def _newton_step(hessian, jacobians, steps, residual):
    """Solve ``(D (I - S H) - I) t = -r``, D the derivative of the prox, S the step sizes; of shape (k, m)."""
    k, m = residual.shape
    if m == 1:
        # Where D > 0 the rows divided by -D S are those of the symmetric H + (1 - D) / (D S); elsewhere t = r.
        slope, moves, flat = jacobians[:, 0, 0], jacobians[:, 0, 0] > 0, hessian.reshape(k, k)
        scale = jnp.where(moves, slope * steps, 1)
        fixed = jnp.where(moves, 0, residual[:, 0])
        right = jnp.where(moves, residual[:, 0] / scale - flat @ fixed, fixed)
        both = moves[:, None] & moves[None]
        # More free blocks than samples make a singular Hessian; a little more curvature leaves a direction of descent.
        more = 1e-2 * float(jnp.finfo(steps.dtype).eps) ** 0.5 / steps
        diagonal = jnp.where(moves, (1 - slope) / scale + more, 1)
        system = jnp.where(both, flat, 0) + jnp.diag(diagonal)
        return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(system), right)[:, None]
    # Sums of products of small blocks are written out, for a batched product of them would be slow.
    scaled = sum((steps[:, None] * jacobians[:, :, i])[:, :, None, None] * hessian[:, None, i] for i in range(m))
    pairs = jnp.eye(k, dtype=hessian.dtype)[:, None, :, None]
    units = jnp.eye(m, dtype=hessian.dtype)
    system = pairs * (jacobians - units[None])[:, :, None, :] - scaled
    return -jnp.linalg.solve(system.reshape(k * m, k * m), residual.reshape(k * m)).reshape(k, m)
