"""Derivatives of solutions and multipliers against central differences, for families of programs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import Status

_N, _M = 6, 8
# Rows 0 and 1 are equalities, 2 and 3 active at their lower and 4 at its upper bound, the others inactive.
_FORCE = np.array([0.0, 0.0, -1.0, -1.0, 1.0, 0.0, 0.0, 0.0])


def _program(seed, family):
    """``(Q, c, A, lower, upper)`` with a known active set, and a direction in which all five move."""
    rng = np.random.default_rng(seed)
    M = rng.normal(size=(_N, _N if family != "semidefinite" else 2))
    Q = np.zeros((_N, _N)) if family == "linear" else M @ M.T / _N
    A, x = rng.normal(size=(_M, _N)), rng.normal(size=_N)
    force = _FORCE.copy()
    if family == "linear":  # a vertex: as many active rows as variables
        force[5] = 1.0
    size = rng.uniform(0.3, 1.5, _M)
    y = np.where(_FORCE == force, force, 1.0) * size + np.where(np.arange(_M) < 2, rng.normal(size=_M), 0)
    if family == "weakly active":
        y[4] = 0.0
    slack = rng.uniform(0.3, 1.0, (2, _M))
    at_lower, at_upper, equality = force < 0, force > 0, np.arange(_M) < 2
    lower = A @ x - np.where(at_lower | equality, 0, slack[0])
    upper = A @ x + np.where(at_upper | equality, 0, slack[1])
    lower[4], upper[2] = -np.inf, np.inf
    data = (Q, -Q @ x - A.T @ y, A, lower, upper)
    moves = [rng.normal(size=part.shape) for part in data]
    moves[0] = 0 * Q if family == "linear" else moves[0] + moves[0].T
    if family == "semidefinite":  # keep it so
        moves[0] = M @ M.T
    moves[4][:2] = moves[3][:2]
    moves[3][4] = moves[4][2] = 0.0
    return data, moves


def _stacked(family, seeds):
    programs = [_program(seed, family) for seed in range(seeds)]
    return jax.tree.map(lambda *parts: jnp.asarray(np.stack(parts)), *programs)


@functools.cache
def _derivatives(make, redundant):
    """A function of ``(data, move)``, compiled once for all families."""
    solver = make(tol=1e-10, maxiter=100 if make is jaxsolve.InteriorPointQP else 20_000)

    def solution(t, data, move):
        Q, c, A, lower, upper = (part + t * change for part, change in zip(data, move, strict=True))
        if redundant:  # an equality and an active inequality are given twice
            A, lower, upper = (jnp.concatenate([part, part[jnp.array([0, 2])]]) for part in (A, lower, upper))
        params, state = solver.run(None, (Q, c), A, (lower, upper))
        y = params.dual_eq
        if redundant:  # how a force is shared between equal rows is no matter
            y = y[:_M].at[jnp.array([0, 2])].add(y[_M:])
        return jnp.concatenate([params.primal[0], y]), state.status

    @jax.jit
    @jax.vmap
    def derivatives(data, move):
        along = lambda t: solution(t, data, move)
        zero, weights = jnp.zeros(()), jnp.sin(jnp.arange(1.0, _N + _M + 1))
        (below, above), _ = jax.lax.map(along, jnp.array([-1e-6, 1e-6]))
        _, forward, status = jax.jvp(along, (zero,), (jnp.ones(()),), has_aux=True)
        reverse = jax.grad(lambda t: along(t)[0] @ weights)(zero)
        return forward, (above - below) / 2e-6, reverse - forward @ weights, status

    return derivatives


@pytest.mark.parametrize(
    "family", ["definite", "semidefinite", "weakly active", pytest.param("redundant", marks=pytest.mark.slow), "linear"]
)
@pytest.mark.parametrize("make", [jaxsolve.InteriorPointQP, jaxsolve.BoxOSQP])
def test_of_solutions_and_multipliers(make, family):
    data, moves = _stacked(family, seeds=6)
    forward, numeric, disagreement, status = _derivatives(make, family == "redundant")(data, moves)
    np.testing.assert_array_equal(status, Status.CONVERGED)
    size = np.max(np.abs(numeric), axis=1, keepdims=True)
    np.testing.assert_allclose(forward / size, numeric / size, rtol=0, atol=1e-5)
    np.testing.assert_allclose(disagreement / size[:, 0], 0, atol=1e-9)
