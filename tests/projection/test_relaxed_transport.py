"""Unbalanced and partial transport: optimality by SciPy and by hand, derivatives, supports, scales, warm starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxsolve.projection import kl_partial_transport, kl_projection_transport, kl_unbalanced_transport
from tests.projection.checks import check_derivatives

_rng = np.random.default_rng(0)
S = _rng.normal(size=(3, 4))
A, B = np.array([0.5, 1.5, 0.7]), np.array([0.4, 0.9, 0.3, 1.8])
unbalanced = jax.jit(kl_unbalanced_transport)
partial = jax.jit(kl_partial_transport)


def kl(p, q):
    return np.sum(p * np.log(np.maximum(p, 1e-300) / q) - p + q)


def test_unbalanced_minimizes():
    """Over the logarithms of the entries, by SciPy."""
    rho = (0.8, 2.5)

    def value(z):
        T = np.exp(z.reshape(S.shape))
        return kl(T, np.exp(S)) + rho[0] * kl(T.sum(1), A) + rho[1] * kl(T.sum(0), B)

    found = scipy.optimize.minimize(value, S.ravel(), method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(unbalanced(S, (A, B), rho), np.exp(found.x).reshape(S.shape), rtol=1e-5)


@pytest.mark.parametrize("spread", [1.0, 30.0, 300.0])
@pytest.mark.parametrize("rho", [0.01, 1.0, 100.0, (0.5, np.inf)])
def test_unbalanced_satisfies_its_equations(rho, spread):
    rho_a, rho_b = rho if isinstance(rho, tuple) else (rho, rho)
    T, (alpha, beta) = kl_unbalanced_transport(spread * S, (A, B), rho, return_duals=True)
    np.testing.assert_allclose(np.log(T), spread * S + alpha[:, None] + beta[None, :], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(T.sum(1), A * np.exp(-alpha / rho_a), rtol=1e-6)
    np.testing.assert_allclose(T.sum(0), B * np.exp(-beta / rho_b), rtol=1e-6)


def test_infinite_penalties_are_constraints():
    b = B * (A.sum() / B.sum())
    np.testing.assert_allclose(unbalanced(S, (A, b), np.inf), kl_projection_transport(S, (A, b)), rtol=1e-8)
    np.testing.assert_allclose(unbalanced(S, (A, b), 1e7), kl_projection_transport(S, (A, b)), rtol=1e-4)
    assert np.all(np.isnan(unbalanced(S, (A, 2 * b), np.inf)))


def by_slsqp(mass):
    result = scipy.optimize.minimize(
        lambda T: kl(np.maximum(T, 1e-12), np.exp(S).ravel()),
        np.outer(A, B).ravel() * mass / (A.sum() * B.sum()),
        bounds=[(1e-12, None)] * S.size,
        constraints=[
            {"type": "ineq", "fun": lambda T: A - T.reshape(S.shape).sum(1)},
            {"type": "ineq", "fun": lambda T: B - T.reshape(S.shape).sum(0)},
            {"type": "eq", "fun": lambda T: T.sum() - mass},
        ],
        method="SLSQP",
        options={"ftol": 1e-13, "maxiter": 500},
    )
    return result.x.reshape(S.shape)


@pytest.mark.parametrize("mass", [0.3, 1.5, 2.6])
def test_partial_minimizes(mass):
    np.testing.assert_allclose(partial(S, (A, B), mass), by_slsqp(mass), atol=2e-6)


def test_partial_with_all_of_the_mass_has_the_marginals():
    b = B * (A.sum() / B.sum())
    np.testing.assert_allclose(partial(S, (A, b), A.sum()), kl_projection_transport(S, (A, b)), atol=1e-6)


SUPPORT = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]], bool)


def test_a_given_support():
    masked = np.where(SUPPORT, S, -np.inf)
    b = np.array([0.3, 0.7, 1.2, 0.5])
    T = unbalanced(masked, (A, b), np.inf)
    assert not np.any(np.asarray(T)[~SUPPORT])
    np.testing.assert_allclose(T.sum(1), A, rtol=1e-9)
    np.testing.assert_allclose(T.sum(0), b, rtol=1e-9)
    # This support determines the plan.
    np.testing.assert_allclose(T[0], [0.3, 0.2, 0, 0], atol=1e-9)
    # The second and third column get more than their rows have.
    assert np.all(np.isnan(unbalanced(masked, (A, np.array([0.1, 0.1, 0.1, 2.4])), np.inf)))
    empty = np.where(np.arange(3)[:, None] == 1, -np.inf, S)
    for T in (unbalanced(empty, (A, B), 1.0), partial(empty, (A, B), 0.9)):
        assert not np.any(T[1]) and np.all(T[::2] > 0)
    np.testing.assert_allclose(T[::2], partial(S[::2], (A[::2], B), 0.9), rtol=1e-7)


@pytest.mark.slow
def test_derivatives():
    args = (jnp.asarray(S), jnp.asarray(A), jnp.asarray(B), jnp.asarray(0.8))
    check_derivatives(lambda S, a, b, rho: kl_unbalanced_transport(S, (a, b), (rho, 2.5)), args)
    check_derivatives(lambda S, a, b, m: kl_partial_transport(S, (a, b), 1.5 * m), args)


def test_derivative_in_the_scores():
    """Forward and reverse, against differences; the rest is slow."""
    for fun, last in ((kl_unbalanced_transport, 0.7), (kl_partial_transport, 1.5)):
        value = jax.jit(lambda s, fun=fun, last=last: fun(s, (jnp.asarray(A), jnp.asarray(B)), last))
        forward, reverse = jax.jit(lambda s, value=value: (jax.jvp(value, (s,), (s,))[1], jax.vjp(value, s)[1](s)[0]))(
            S
        )
        slope = (value(S * (1 + 1e-6)) - value(S * (1 - 1e-6))) / 2e-6
        np.testing.assert_allclose(forward, slope, atol=1e-8)
        np.testing.assert_allclose(np.sum(reverse * S), np.sum(forward * S), rtol=1e-9)


@pytest.mark.slow
def test_derivatives_on_a_support_and_with_constraints():
    masked = jnp.where(SUPPORT, S, -jnp.inf)
    args = (jnp.zeros_like(masked), jnp.asarray(A), jnp.asarray(B))
    check_derivatives(lambda s, a, b: kl_unbalanced_transport(masked + s, (a, b), (jnp.inf, 1.0)), args)
    b = jnp.asarray([0.3, 0.7, 1.2, 0.5])
    jacobian = jax.jacobian(lambda s: kl_unbalanced_transport(jnp.asarray(S) + s, (A, b), jnp.inf))(0 * S)
    want = jax.jacobian(lambda s: kl_projection_transport(jnp.asarray(S) + s, (A, b)))(0 * S)
    np.testing.assert_allclose(jacobian, want, atol=1e-7)


def test_warm_starts_save_sweeps():
    """One sweep from the dual variables of the solution is enough, and from zero it is not."""
    for fun, last in ((kl_unbalanced_transport, 0.7), (kl_partial_transport, 1.5)):
        T, duals = fun(S, (A, B), last, return_duals=True)
        np.testing.assert_allclose(fun(S, (A, B), last, init_duals=duals, maxiter=1), T, rtol=1e-10)
        cold = fun(S, (A, B), last, maxiter=1)
        assert np.any(np.isnan(cold)) or np.max(np.abs(cold - T)) > 1e-4


def test_batches_dtypes_and_bad_input():
    stack = np.stack([S, np.full_like(S, np.nan), -S])
    for fun, last in ((kl_unbalanced_transport, 0.7), (kl_partial_transport, 1.5)):
        batch = jax.jit(jax.vmap(lambda s: fun(s, (A, B), last)))(stack)
        np.testing.assert_allclose(batch[0], fun(S, (A, B), last), rtol=1e-8)
        assert np.all(np.isnan(batch[1])) and np.all(np.isfinite(batch[2]))
        for dtype, tol in ((jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)):
            out = fun(jnp.asarray(S, dtype), (jnp.asarray(A), jnp.asarray(B)), last)
            assert out.dtype == dtype
            np.testing.assert_allclose(out.astype(float), batch[0], rtol=tol)
    for call, match in (
        (lambda: kl_unbalanced_transport(S, (A, B), 0.0), "rho"),
        (lambda: kl_unbalanced_transport(S, (B, A)), "marginals of a matrix"),
        (lambda: kl_unbalanced_transport(S, (-A, B)), "marginals"),
        (lambda: kl_unbalanced_transport(S[0], (A, B)), "matrix"),
        (lambda: kl_unbalanced_transport(S, (A, B), init_duals=(B, A)), "init_duals"),
        (lambda: kl_partial_transport(S, (A, B), 3.0), "mass"),
        (lambda: kl_partial_transport(S, (A, B), -1.0), "mass"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_small_strengths_have_plans(dtype):
    rng = np.random.default_rng(3)
    costs = rng.random((6, 6))
    a, b = (v / v.sum() for v in rng.random((2, 6)))
    marginals = jnp.asarray(a, dtype), jnp.asarray(b, dtype)
    sums = np.concatenate([np.kron(np.eye(6), np.ones(6)), np.kron(np.ones(6), np.eye(6))])
    bounds = {"A_ub": sums, "b_ub": np.concatenate([a, b]), "A_eq": np.ones((1, 36))}
    full = scipy.optimize.linprog(costs.ravel(), A_eq=sums, b_eq=bounds["b_ub"]).fun
    part = scipy.optimize.linprog(costs.ravel(), **bounds, b_eq=[0.5]).fun

    def relaxed(plan, rho):
        return np.vdot(plan, costs) + rho * (kl(plan.sum(1), a) + kl(plan.sum(0), b))

    reference = relaxed(np.asarray(unbalanced(-costs / 1e-3, (a, b), 1e3)), 1.0)
    for strength in (1e-5, 1e-8, 1e-12):
        S = jnp.asarray(-costs / strength, dtype)
        for plan in (unbalanced(S, marginals, np.inf), kl_projection_transport(S, marginals)):
            plan = np.asarray(plan, float)
            assert full - 1e-3 <= np.vdot(plan, costs) <= (1.02 if dtype == "float32" else 1.1) * full
            np.testing.assert_allclose([plan.sum(1), plan.sum(0)], [a, b], atol=5e-3)
        plan = np.asarray(unbalanced(S, marginals, 1 / strength), float)
        assert relaxed(plan, 1.0) <= 1.05 * reference
        plan = np.asarray(partial(S, marginals, 0.5), float)
        assert part - 2e-3 <= np.vdot(plan, costs) <= part + 0.05 * full
        np.testing.assert_allclose(plan.sum(), 0.5, rtol=1e-2)
