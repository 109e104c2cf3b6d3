r"""A barycenter of distributions
=============================

A barycenter of distributions under entropic transport, computed by its smooth dual.

For distributions b_1, ..., b_k on a grid and weights w_k the barycenter minimizes, over distributions a,

::

    sum_k w_k OT(a, b_k),    OT(a, b) = min_T  <T, C> + strength * sum_ij T_ij (log T_ij - 1),

over plans T with the marginals a and b. The dual problem has variables alpha_k of the rows, whose weighted sum is 0::

    min  sum_k w_k sum_j b_kj log sum_i exp(alpha_ki - C_ij / strength),

smooth and without constraints once the last of them is eliminated: L-BFGS solves it. At its minimum all plans have the
same row sums, the barycenter. ``kl_unbalanced_transport`` with an infinite penalty, started from these dual variables,
finds the plans to the targets in one sweep.

Reference: Cuturi and Peyre (2016), "A smoothed dual approach for variational Wasserstein problems"; Benamou et al.
(2015), "Iterative Bregman projections for regularized transportation problems", with whose result it is compared.
"""

import jax
import jax.numpy as jnp
import numpy as np

import jaxsolve
from jaxsolve.projection import kl_unbalanced_transport

jax.config.update("jax_enable_x64", True)


def make_data(size=40):
    """A grid on [0, 1], its squared distances, and two bumps."""
    grid = np.linspace(0, 1, size)
    bumps = np.stack([np.exp(-(((grid - m) / s) ** 2)) for m, s in ((0.25, 0.08), (0.75, 0.12))]) + 1e-6
    return jnp.asarray(grid), jnp.asarray((grid[:, None] - grid) ** 2), jnp.asarray(bumps / bumps.sum(1, keepdims=True))


def semi_dual(alphas, targets, weights, cost, strength):
    """The function to minimize; the last variable follows from the others, for their weighted sum is 0."""
    last = -jnp.tensordot(weights[:-1], alphas, 1) / weights[-1]
    alphas = jnp.concatenate([alphas, last[None]])
    maxima = jax.nn.logsumexp(-cost[None] / strength + alphas[:, :, None], axis=1)
    return jnp.sum(weights[:, None] * targets * maxima), alphas


def barycenter(targets, weights, cost, strength=1e-2, tol=1e-9):
    """The barycenter, of shape (size,), the dual variables of its rows, one for each target, and the final state."""
    solver = jaxsolve.LBFGS(semi_dual, has_aux=True, tol=tol, maxiter=3000, history_size=20)
    _, state = solver.run(jnp.zeros_like(targets[1:]), targets, weights, cost, strength)
    plan = targets[0] * jax.nn.softmax(-cost / strength + state.aux[0][:, None], axis=0)
    return jnp.sum(plan, axis=1), state.aux, state


def by_projections(targets, weights, cost, strength=1e-2, num_steps=5000):
    """The same by iterative Bregman projections, in logarithms (Benamou et al. 2015, proposition 2)."""
    S, log_targets = -cost / strength, jnp.log(targets)

    def step(alpha, _):
        beta = log_targets - jax.nn.logsumexp(S[None] + alpha[:, :, None], axis=1)
        log_sums = jax.nn.logsumexp(S[None] + beta[:, None, :], axis=2)
        log_a = jnp.tensordot(weights, log_sums, 1)
        return log_a[None] - log_sums, log_a

    _, path = jax.lax.scan(step, jnp.zeros_like(targets), None, length=num_steps)
    return jnp.exp(path[-1])


def main(size=40, strength=1e-2):
    """Compare both; returns the distance in total variation, and how far plans to the targets miss the barycenter."""
    grid, cost, targets = make_data(size)
    weights = jnp.asarray([0.5, 0.5])
    a, alphas, state = barycenter(targets, weights, cost, strength)
    other = by_projections(targets, weights, cost, strength)
    distance = float(0.5 * jnp.sum(jnp.abs(a - other)))
    print(state)
    print(f"mean {float(a @ grid):.4f}, {distance:.1e} from iterative Bregman projections")
    missed = 0.0
    for alpha, target in zip(alphas, targets, strict=True):
        # The dual variables of the barycenter are a start from which the plans take one sweep.
        beta = jnp.log(target) - jax.nn.logsumexp(-cost / strength + alpha[:, None], axis=0)
        plan = kl_unbalanced_transport(-cost / strength, (a, target), jnp.inf, init_duals=(alpha, beta), maxiter=1)
        missed = max(missed, float(jnp.sum(jnp.abs(plan.sum(1) - a)) + jnp.sum(jnp.abs(plan.sum(0) - target))))
    print(f"plans from the barycenter after one sweep: marginals missed by {missed:.1e}")
    return distance, missed


if __name__ == "__main__":
    main()
