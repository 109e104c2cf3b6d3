"""Violations at a price: closed forms, exactness, all kinds of cones, derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import Cones, Status, solve_conic
from jaxsolve.solvers.conic._newton_step import cone_center

FAR = Cones(nonneg=1, soc=(3,))  # x_0 >= far in a disk of radius 2
A = jnp.array([[-1.0, 0.0], [0.0, 0.0], [-1.0, 0.0], [0.0, -1.0]])
C = jnp.array([-1.0, 0.0])


@functools.cache
def solver():
    def solve(far, weights):
        return solve_conic(None, C, A, jnp.zeros(4).at[0].set(-far).at[1].set(2.0), FAR, elastic=weights)

    def value(far, weights):
        result = solve(far, weights)
        return result.value, result

    return jax.jit(jax.vmap(jax.grad(value, (0, 1), has_aux=True)))


@pytest.mark.slow
def test_what_is_cheaper_is_violated():
    """Beyond the disk a step costs the price of the cone less the objective and the price of the inequality."""
    far = jnp.array([3.0, 3.0, 3.0, 1.0, 3.0])
    weights = jnp.array([[5.0, 10.0], [10.0, 5.0], [jnp.inf, 5.0], [5.0, 10.0], [1e4, 2e4]])
    (of_far, of_weights), result = solver()(far, weights)
    assert result.status.tolist() == [Status.CONVERGED] * 5
    np.testing.assert_allclose(result.x, [[2, 0], [3, 0], [3, 0], [2, 0], [2, 0]], atol=1e-6)
    expected = [[1, 0], [0, 1], [0, 1], [0, 0], [1, 0]]
    np.testing.assert_allclose(result.violation, expected, atol=1e-6)
    np.testing.assert_allclose(result.value, [3, 2, 2, -2, 1e4 - 2], rtol=1e-8)
    # Multipliers, and with them the slopes: of the weights the violations, of the bound its price.
    np.testing.assert_allclose(result.y[0], [5, 6, -6, 0], atol=1e-5)
    np.testing.assert_allclose(of_weights, jnp.where(jnp.isfinite(weights), result.violation, 0), atol=1e-6)
    np.testing.assert_allclose(of_far, [5, 4, 4, 0, 1e4], rtol=1e-6, atol=1e-6)


KINDS = Cones(zero=1, nonneg=2, soc=(3,), psd=(2,), exp=1, power=(0.3,))


@pytest.mark.slow
def test_all_kinds_of_cones():
    """Of a feasible program the solution is the same; of an infeasible one the rows hold as violations say."""
    rng, n = np.random.default_rng(0), 5
    A, x, v = rng.normal(size=(KINDS.num_rows, n)), rng.normal(size=n), rng.normal(size=KINDS.num_rows)
    y = np.asarray(KINDS.project_dual(v))
    P = np.diag(rng.uniform(0.5, 1, n))
    c, b = -P @ x - A.T @ y, A @ x + y - v
    center = np.asarray(cone_center(KINDS, jnp.float64)) + (np.arange(KINDS.num_rows) < KINDS.zero)
    sizes = [size for of_kind in KINDS.sizes.values() for size in of_kind]
    prices = np.abs([np.sum(part) for part in np.split(center * y, np.cumsum(sizes)[:-1])])
    along = rng.normal(size=b.shape)

    @jax.jit
    def solved(weights, b):
        result = solve_conic(P, c, A, b, KINDS, elastic=weights)
        return result, jnp.concatenate([result.x, result.violation])

    result, _ = solved(1.5 * prices + 0.1, b)
    assert int(result.status) == Status.CONVERGED and result.violation.shape == (len(sizes),)
    np.testing.assert_allclose(result.x, x, atol=1e-7)
    np.testing.assert_allclose(result.y, y, atol=1e-6)
    np.testing.assert_allclose(result.violation, 0, atol=1e-8)
    # Weights below the multipliers, and slacks that no point has: the rows are violated by what is said.
    shifted, weights = b - 3 * center * (np.arange(b.size) >= KINDS.zero), np.full(len(sizes), 0.7)
    result, found = solved(weights, shifted)
    assert int(result.status) == Status.CONVERGED and float(jnp.max(result.violation)) > 0.1
    moved = shifted - A @ result.x + np.repeat(result.violation, sizes) * center
    curved = np.arange(b.size) >= KINDS.zero
    np.testing.assert_allclose(moved[curved], KINDS.project(moved)[curved], atol=1e-7)
    np.testing.assert_allclose(np.abs(shifted - A @ result.x)[0], result.violation[0], atol=1e-7)
    value = 0.5 * result.x @ P @ result.x + c @ result.x + weights @ result.violation
    np.testing.assert_allclose(result.value, value, rtol=1e-8)
    np.testing.assert_allclose(result.dual_value, value, rtol=1e-6)
    # Its derivative by differences.
    slope = jax.jvp(lambda b: solved(weights, b)[1], (jnp.asarray(shifted),), (jnp.asarray(along),))[1]
    ahead, behind = (solved(weights, shifted + t * along)[1] for t in (1e-5, -1e-5))
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-5, atol=1e-5)


@pytest.mark.parametrize(
    "elastic, error, message",
    [
        (0.0, ValueError, "elastic must be positive"),
        (-1.0, ValueError, "elastic must be positive"),
        ("1", TypeError, "elastic must be a number"),
        (jnp.ones(4), ValueError, "an entry for each of the 2 equations, inequalities and cones"),
    ],
)
def test_weights_are_checked(elastic, error, message):
    with pytest.raises(error, match=message):
        solve_conic(None, C, A, jnp.zeros(4), FAR, elastic=elastic)
    with pytest.raises(ValueError, match="elastic must come with matrices"):
        solve_conic(None, C, lambda x: A @ x, jnp.zeros(4), FAR, elastic=1.0)
