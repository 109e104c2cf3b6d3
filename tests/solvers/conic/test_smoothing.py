"""Points of the central path: closed forms, the conditions of the path, and derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import Cones, ConicInteriorPoint, Status, solve_conic
from jaxsolve.solvers.conic._relaxed import relaxed_multipliers, relaxed_slopes

EVERY = Cones(zero=1, nonneg=2, soc=(3, 1), psd=(2,), exp=2, dual_exp=1, power=(0.3,), dual_power=(0.6,))
DISK = Cones(soc=(3,))
A = jnp.array([[0.0, 0.0], [-1.0, 0.0], [0.0, -1.0]])


@functools.cache
def path():
    """The multipliers, the derivative by eigenvalues, the derivative of the function, and its second one."""

    def of(v, mu):
        weights = jnp.cos(jnp.arange(v.size))
        slopes = relaxed_slopes(EVERY, v, mu).apply(lambda d: d, jnp.eye(v.size))
        gradient = jax.grad(lambda v: weights @ jnp.sin(relaxed_multipliers(EVERY, v, mu)))
        jacobian = jax.jacfwd(lambda v: relaxed_multipliers(EVERY, v, mu))(v)
        return relaxed_multipliers(EVERY, v, mu), slopes, jacobian, gradient(v), jax.jacfwd(gradient)(v)

    return jax.jit(of)


@pytest.mark.slow
@pytest.mark.parametrize("mu", [1.0, 1e-2, 1e-6])
def test_the_relaxed_projection(mu):
    rng = np.random.default_rng(0)
    v = rng.normal(size=EVERY.num_rows)
    v[4:6] = 0  # the axis of a second-order cone, where its direction is not known
    y, slopes, jacobian, gradient, hessian = path()(v, mu)
    s = (y - v).at[0].set(0)
    # Both are inside of the cones, complementary products are mu for each unit of the degree.
    np.testing.assert_allclose(EVERY.project_dual(y), y, atol=1e-14)
    np.testing.assert_allclose(EVERY.project(s), s, atol=1e-14)
    np.testing.assert_allclose(s @ y, mu * EVERY.degree, rtol=1e-9)
    assert float(jnp.max(jnp.abs(y - EVERY.project_dual(v)))) <= 3 * mu**0.5
    np.testing.assert_allclose(jacobian, slopes, atol=1e-13)
    if mu >= 1e-2:
        d, h = rng.normal(size=v.size), 1e-5
        ahead, behind = (path()(v + t * d, mu) for t in (h, -h))
        np.testing.assert_allclose(jacobian @ d, (ahead[0] - behind[0]) / (2 * h), atol=1e-7)
        np.testing.assert_allclose(hessian @ d, (ahead[3] - behind[3]) / (2 * h), rtol=1e-6, atol=1e-7)


def furthest(d, r, mu):
    return solve_conic(None, -d, A, jnp.array([r, 0.0, 0.0]), DISK, smoothing=mu)


def in_closed_form(d, r, mu):
    """The maximizer of ``d @ x + mu log(r**2 - x @ x) / 2``."""
    size = jnp.sqrt(d @ d)
    return (jnp.sqrt(mu**2 + 4 * size**2 * r**2) - mu) / (2 * size) * d / size


@pytest.mark.slow
@pytest.mark.parametrize("mu", [1e-1, 1e-4])
def test_the_point_of_a_disk(mu):
    d = jnp.array([3.0, 4.0])
    result = furthest(d, 2.0, mu)
    assert int(result.status) == Status.CONVERGED and result.method == "interior_point"
    np.testing.assert_allclose(result.x, in_closed_form(d, 2.0, mu), rtol=1e-10)
    np.testing.assert_allclose(result.s @ result.y, mu, rtol=1e-8)
    found = jax.jacobian(lambda d, r: furthest(d, r, mu).x, (0, 1))(d, 2.0)
    expected = jax.jacobian(lambda d, r: in_closed_form(d, r, mu), (0, 1))(d, 2.0)
    for ours, exact in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-8, atol=1e-9)
    found, expected = (
        jax.hessian(lambda d, fun=fun: fun(d)[0])(d)
        for fun in (lambda d: furthest(d, 2.0, mu).x, lambda d: in_closed_form(d, 2.0, mu))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-8)


SOME = Cones(zero=1, nonneg=1, soc=(3,), psd=(2,))


@pytest.mark.slow
def test_several_cones_units_and_differences():
    """The unit of the smoothing is that of the objective, which changes the numbers and nothing else."""
    rng, n, mu = np.random.default_rng(1), 4, 1e-2
    A, x, v = rng.normal(size=(SOME.num_rows, n)), rng.normal(size=n), rng.normal(size=SOME.num_rows)
    y = np.asarray(relaxed_multipliers(SOME, v, mu))
    P = np.diag(rng.uniform(0.5, 1, n))
    data = -P @ x - A.T @ y, A, A @ x + y - v
    along = tuple(rng.normal(size=part.shape) for part in data)

    @jax.jit
    def solved(cost, t):
        def at(t):
            c, A, b = (part + t * change for part, change in zip(data, along, strict=True))
            result = solve_conic(cost * P, cost * c, A, b, SOME, smoothing=mu * cost)
            return jnp.concatenate([result.x, result.y / cost, result.s]), result.status

        return jax.jvp(at, (t,), (jnp.ones_like(t),))

    one, zero, h = jnp.ones(()), jnp.zeros(()), 1e-4
    (found, status), (slope, _) = solved(one, zero)
    assert int(status) == Status.CONVERGED
    np.testing.assert_allclose(found, np.concatenate([x, y, y - v]), atol=1e-9)
    np.testing.assert_allclose(solved(jnp.asarray(2.0**20), zero)[0][0], found, rtol=1e-9, atol=1e-9)
    ends = [solved(one, k * h)[0][0] for k in (-2.0, -1.0, 1.0, 2.0)]
    expected = (8 * (ends[2] - ends[1]) - (ends[3] - ends[0])) / (12 * h)
    np.testing.assert_allclose(slope, expected, atol=1e-6 * float(jnp.max(jnp.abs(slope))))


def test_what_smoothing_is_not_for():
    d, b = jnp.array([3.0, 4.0]), jnp.array([2.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="smoothing is for method='interior_point', got method='admm'"):
        solve_conic(None, d, A, b, DISK, method="admm", smoothing=1e-2)
    with pytest.raises(ValueError, match="smoothing needs polish=True"):
        ConicInteriorPoint(DISK, smoothing=1e-2, polish=False)
    with pytest.raises(ValueError, match="smoothing"):
        ConicInteriorPoint(DISK, smoothing=-1.0)
