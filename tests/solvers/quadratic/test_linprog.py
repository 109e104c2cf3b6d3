"""Linear programs against HiGHS."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.experimental import sparse

import jaxsolve
from jaxsolve import Status


def _data(seed, n=8, ub=6, eq=2):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.2, 1, size=n)
    A_ub, A_eq = rng.normal(size=(ub, n)), rng.normal(size=(eq, n))
    data = rng.normal(size=n), A_ub, A_ub @ x + rng.uniform(0, 1, size=ub), A_eq, A_eq @ x
    return tuple(jnp.asarray(a) for a in data)


def _compare(got, want, atol=1e-6):
    assert want.status == 0 and bool(got.success), (want.message, got.message)
    np.testing.assert_allclose(got.fun, want.fun, atol=atol, rtol=1e-7)
    np.testing.assert_allclose(got.x, want.x, atol=atol)
    np.testing.assert_allclose(got.slack, want.slack, atol=atol)
    np.testing.assert_allclose(got.con, want.con, atol=atol)
    np.testing.assert_allclose(got.marginals.ineqlin, want.ineqlin.marginals, atol=atol)
    np.testing.assert_allclose(got.marginals.eqlin, want.eqlin.marginals, atol=atol)
    np.testing.assert_allclose(got.marginals.lower, want.lower.marginals, atol=atol)
    np.testing.assert_allclose(got.marginals.upper, want.upper.marginals, atol=atol)


@pytest.mark.parametrize("bounds", [(0, 2), [(0, 1.5), (None, 3)] * 4, np.tile([[-0.5, 1.0]], (8, 1))])
def test_against_highs(bounds):
    data = _data(0)
    _compare(jaxsolve.linprog(*data, bounds=bounds), scipy.optimize.linprog(*data, bounds=bounds))


@pytest.mark.slow
def test_every_field_of_twenty_programs():
    """With absent, one-sided and double bounds. No box and a cost that no constraint stops: also the unbounded ones."""
    run, solved = jax.jit(lambda *args: jaxsolve.linprog(*args)), 0
    for seed in range(20):
        rng = np.random.default_rng(100 + seed)
        lower = np.where(rng.random(8) < 0.3, -np.inf, -rng.exponential(size=8))
        upper = np.where(rng.random(8) < 0.3, np.inf, 1 + rng.exponential(size=8))
        data, bounds = _data(100 + seed), np.stack([lower, upper], axis=1)
        got, want = run(*data, bounds), scipy.optimize.linprog(*data, bounds=bounds)
        if want.status == 0:
            _compare(got, want)
            solved += 1
        else:
            assert want.status == 3 and got.status == Status.DUAL_INFEASIBLE and got.fun == -np.inf
    assert 5 <= solved < 20


def test_sparse_matrices():
    c, A_ub, b_ub, A_eq, b_eq = _data(1)
    got = jaxsolve.linprog(c, sparse.BCOO.fromdense(A_ub), b_ub, sparse.BCOO.fromdense(A_eq), b_eq, bounds=(0, 1))
    _compare(got, scipy.optimize.linprog(c, A_ub, b_ub, A_eq, b_eq, bounds=(0, 1)))


def test_assignment_with_costs_from_0_to_100():
    # Twenty variables of which costs and bounds differ in size: the shape of a reported failure of first-order methods.
    rng = np.random.default_rng(0)
    costs = rng.uniform(0, 100, size=(4, 5))
    A_eq = np.kron(np.eye(4), np.ones(5))
    A_ub = np.kron(np.ones(4), np.eye(5))
    supply, capacity = rng.uniform(5, 15, size=4), np.full(5, 12.0)
    args = costs.ravel(), A_ub, capacity, A_eq, supply
    got, want = jaxsolve.linprog(*args), scipy.optimize.linprog(*args)
    assert want.status == 0 and bool(got.success)
    np.testing.assert_allclose(got.fun, want.fun, rtol=1e-8)
    np.testing.assert_allclose(got.x, want.x, atol=1e-5)


def _value_and_coordinate(*data):
    result = jaxsolve.linprog(*data, bounds=(0, 2))
    return jnp.stack([result.fun, result.x[0]])


_jacobian = jax.jit(jax.jacrev(_value_and_coordinate, tuple(range(5))))


def test_derivatives_are_the_multipliers():
    data = _data(2)
    gradients = [jacobian[0] for jacobian in _jacobian(*data)]
    result = jaxsolve.linprog(*data, bounds=(0, 2))
    np.testing.assert_allclose(gradients[0], result.x, atol=1e-7)
    np.testing.assert_allclose(gradients[1], -jnp.outer(result.marginals.ineqlin, result.x), atol=1e-7)
    np.testing.assert_allclose(gradients[2], result.marginals.ineqlin, atol=1e-7)
    np.testing.assert_allclose(gradients[4], result.marginals.eqlin, atol=1e-7)


def test_forward_mode_under_vmap_against_differences():
    data = _data(2)
    x = lambda b_eq: jaxsolve.linprog(*data[:4], b_eq, bounds=(0, 2)).x
    direction = jnp.asarray([0.3, -0.7])
    batch = jnp.stack([data[4], data[4] + 0.05])
    points, tangents = jax.jit(jax.vmap(lambda b: jax.jvp(x, (b,), (direction,))))(batch)
    for b, point, tangent in zip(batch, points, tangents, strict=True):
        np.testing.assert_allclose(point, x(b), atol=1e-7)
        difference = (x(b + 1e-4 * direction) - x(b - 1e-4 * direction)) / 2e-4
        np.testing.assert_allclose(tangent, difference, atol=1e-6)


def test_smoothing_lets_the_solution_move_with_the_costs():
    """Over the simplex the relaxed solution has ``c_i + y = kappa / x_i``; checked against that and its derivative."""
    kappa, costs = 0.05, jnp.asarray([0.3, 0.1, 0.4])

    def x(c):
        return jaxsolve.linprog(c, A_eq=jnp.ones((1, 3)), b_eq=jnp.ones(1), smoothing=kappa).x

    def exact(c):
        level = scipy.optimize.brentq(lambda y: np.sum(kappa / (c + y)) - 1, -np.min(c) + 1e-9, 10)
        return kappa / (c + level)

    np.testing.assert_allclose(x(costs), exact(np.asarray(costs)), atol=1e-7)
    step = 1e-5 * np.eye(3)
    want = np.stack([(exact(costs + d) - exact(costs - d)) / 2e-5 for d in step], axis=1)
    np.testing.assert_allclose(jax.jacrev(x)(costs), want, atol=1e-5)


def test_infeasible_and_unbounded_problems():
    c, A_ub, b_ub, A_eq, b_eq = _data(0)
    data = c, A_ub, b_ub.at[0].set(-100.0), A_eq, b_eq
    infeasible = jaxsolve.linprog(*data, bounds=(0, 2))
    assert int(infeasible.status) == Status.PRIMAL_INFEASIBLE and not bool(infeasible.success)
    assert "No point" in infeasible.message and infeasible.fun == jnp.inf
    for derivative in _jacobian(*data):
        np.testing.assert_array_equal(derivative, 0)
    unbounded = jaxsolve.linprog(-jnp.abs(c), -jnp.abs(A_ub), b_ub, 0 * A_eq, 0 * b_eq)
    assert int(unbounded.status) == Status.DUAL_INFEASIBLE and unbounded.fun == -jnp.inf


def test_float32_stays_float32_and_equalities_alone():
    c, _, _, A_eq, b_eq = _data(0)
    want = scipy.optimize.linprog(np.abs(c), A_eq=A_eq, b_eq=b_eq)
    c, A_eq, b_eq = (a.astype(jnp.float32) for a in (jnp.abs(c), A_eq, b_eq))
    got = jaxsolve.linprog(c, A_eq=A_eq, b_eq=b_eq)
    assert got.x.dtype == got.fun.dtype == jnp.float32 and got.slack.shape == (0,)
    assert bool(got.success)
    np.testing.assert_allclose(got.fun, want.fun, atol=1e-3)


def test_errors():
    c, A_ub, b_ub, _, _ = _data(0)
    with pytest.raises(ValueError, match="A_ub and b_ub belong together"):
        jaxsolve.linprog(c, A_ub)
    with pytest.raises(ValueError, match="b_ub must have 6 entries"):
        jaxsolve.linprog(c, A_ub, b_ub[1:])
    with pytest.raises(ValueError, match="A_eq must have one column"):
        jaxsolve.linprog(c, A_eq=A_ub[:, 1:], b_eq=b_ub)
    with pytest.raises(ValueError, match="bounds must be a pair"):
        jaxsolve.linprog(c, bounds=[(0, 1)] * 3)
    with pytest.raises(ValueError, match="must not exceed"):
        jaxsolve.linprog(c, bounds=(1, 0))
    with pytest.raises(ValueError, match="c must be a vector"):
        jaxsolve.linprog(A_ub)
