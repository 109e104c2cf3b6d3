"""A problem whose data changed by 1 % is solved from the old solution with at most half of the iterations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import KKTSolution, Status

INF, COUNT = np.inf, 20


def linear(rng, n=6, m=8):
    """A linear program with rows that demand something, and nonnegative variables."""
    A, b = rng.uniform(0, 1, (m, n)), rng.uniform(1, 5, m)
    return (
        np.zeros((n, n)),
        rng.uniform(1, 10, n),
        np.vstack([A, np.eye(n)]),
        np.r_[b, np.zeros(n)],
        np.full(m + n, INF),
    )


def portfolio(rng, n=12, factors=3):
    """Risk of a factor model less expected returns; weights sum to one, and none is above 0.3."""
    F = rng.normal(size=(n, factors))
    Q = 1e-4 * (F @ F.T + np.diag(rng.uniform(1, 4, n)))
    A = np.vstack([np.ones((1, n)), np.eye(n)])
    return Q, -1e-4 * rng.normal(size=n), A, np.r_[1, np.zeros(n)], np.r_[1, np.full(n, 0.3)]


def control(rng, states=3, steps=5):
    """Model-predictive control with one bounded input."""
    size = steps * (states + 1)
    step, push = np.eye(states) + 0.2 * rng.normal(size=(states, states)), rng.normal(size=states)
    dynamics, right = np.zeros((steps * states, size)), np.zeros(steps * states)
    right[:states] = step @ (3 * rng.normal(size=states))
    for t in range(steps):
        here, column = slice(t * states, (t + 1) * states), steps + t * states
        dynamics[here, t] = -push
        dynamics[here, column : column + states] = np.eye(states)
        if t > 0:
            dynamics[here, column - states : column] = -step
    Q = np.diag(np.r_[np.full(steps, 0.1), np.ones(steps * states)])
    lower, upper = np.r_[right, -np.ones(steps)], np.r_[right, np.ones(steps)]
    return Q, 0.01 * rng.normal(size=size), np.vstack([dynamics, np.eye(size)[:steps]]), lower, upper


def sparse(rng, n=10, m=16):
    """Few entries in Q and A, and two bounds for each row."""
    M, A = rng.normal(size=(n, n)) * (rng.uniform(size=(n, n)) < 0.2), rng.normal(size=(m, n))
    A = A * (rng.uniform(size=A.shape) < 0.25)
    middle = A @ rng.normal(size=n)
    bounds = middle - rng.uniform(0, 1, m), middle + rng.uniform(0, 1, m)
    return M @ M.T + 1e-2 * np.eye(n), rng.normal(size=n), A, *bounds


def changed(rng, Q, c, A, lower, upper):
    """The problem with noise of 1 % in all numbers but 1."""

    def noise(array):
        return 1 + np.where(array == 1, 0, 1e-2) * rng.normal(size=array.shape)

    of_lower, of_upper = 1 + 1e-2 * rng.normal(size=(2, *lower.shape))
    return Q, c * noise(c), A * noise(A), lower * of_lower, upper * np.where(lower == upper, of_lower, of_upper)


def batches(family):
    """Problems, and their neighbors, each with a leading axis."""
    pairs = []
    for seed in range(COUNT):
        rng = np.random.default_rng(seed)
        data = family(rng)
        pairs.append((data, changed(rng, *data)))
    return [[jnp.asarray(np.stack(part)) for part in zip(*side, strict=True)] for side in zip(*pairs, strict=True)]


def solvers(**options):
    """The cold and the warm run of a batch."""
    solver = jaxsolve.InteriorPointQP(**options)
    cold = jax.jit(jax.vmap(lambda Q, c, A, *bounds: solver.run(None, (Q, c), A, bounds)))
    return cold, jax.jit(jax.vmap(lambda start, Q, c, A, *bounds: solver.run(start, (Q, c), A, bounds)))


def iterations(step, which):
    return int(jnp.sum(step.state.iter_num[which]))


def start_of(params):
    return KKTSolution(params.primal, params.dual_eq, None)


@pytest.mark.parametrize(
    "family", [portfolio, *(pytest.param(other, marks=pytest.mark.slow) for other in (linear, control, sparse))]
)
def test_from_a_whole_solution(family):
    old, new = batches(family)
    cold, warm = solvers()
    expected, found = cold(*new), warm(start_of(cold(*old).params), *new)
    solved = expected.state.status == Status.CONVERGED
    assert np.mean(np.asarray(solved)) > 0.8
    np.testing.assert_array_equal(found.state.status, expected.state.status)
    np.testing.assert_allclose(found.state.value[solved], expected.state.value[solved], rtol=1e-7)
    assert iterations(found, solved) <= 0.5 * iterations(expected, solved)


@pytest.mark.slow
def test_from_the_primal_point_alone():
    """The multipliers are those of least squares."""
    totals = []
    for family in (portfolio, linear, control, sparse):
        old, new = batches(family)
        cold, warm = solvers()
        expected, found = cold(*new), warm(cold(*old).params.primal[0], *new)
        solved = expected.state.status == Status.CONVERGED
        np.testing.assert_array_equal(found.state.status, expected.state.status)
        np.testing.assert_allclose(found.state.value[solved], expected.state.value[solved], rtol=1e-7)
        totals.append([iterations(step, solved) for step in (found, expected)])
        assert totals[-1][0] <= 0.6 * totals[-1][1]
    warm, cold = np.sum(totals, axis=0)
    assert warm <= 0.5 * cold


@pytest.mark.slow
@pytest.mark.parametrize("family", [portfolio, linear, control, sparse])
def test_from_far_away(family):
    """A start that is of no use costs little, and changes no result."""
    _, data = batches(family)
    cold, warm = solvers()
    expected = cold(*data)
    solved, rng = expected.state.status == Status.CONVERGED, np.random.default_rng(0)
    (x, z), y, _ = expected.params
    for size in (1.0, 1e3):
        far = jnp.asarray(size * rng.normal(size=x.shape)), jnp.asarray(size * rng.normal(size=y.shape))
        for start in (KKTSolution((far[0], z), far[1], None), KKTSolution((x, z), far[1], None)):
            found = warm(start, *data)
            np.testing.assert_array_equal(found.state.status, expected.state.status)
            np.testing.assert_allclose(found.state.value[solved], expected.state.value[solved], rtol=1e-7)
            assert iterations(found, solved) <= 1.2 * iterations(expected, solved)


@pytest.mark.slow
def test_the_solution_itself_takes_no_iteration():
    Q, c, A = jnp.diag(jnp.asarray([1.0, 2.0])), jnp.asarray([-3.0, 1.0]), jnp.eye(2)
    solver = jaxsolve.InteriorPointQP()
    first = solver.run(None, (Q, c), A, (-1.0, 1.0))
    for start in (first, first.params, first.params.primal[0]):
        again = solver.run(start, (Q, c), A, (-1.0, 1.0))
        assert int(again.state.iter_num) == 0 and int(again.state.status) == Status.CONVERGED
        np.testing.assert_allclose(again.params.primal[0], [1, -0.5], atol=1e-12)
