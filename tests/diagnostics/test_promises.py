"""The contract, tried on solvers of one's own."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

import jaxsolve
from jaxsolve.base import IterativeSolver, OptStep
from jaxsolve.diagnostics import check_solver

THETA = jnp.asarray([1.0, 2.0])


class State(NamedTuple):
    iter_num: jax.Array
    error: jax.Array
    status: jax.Array


class Halley(IterativeSolver):
    """Roots of sinh(x) - theta, with an optimality function that may be wrong."""

    factor: float = 1.0

    def init_state(self, init_params, theta):
        zero = jnp.zeros((), jnp.int32)
        return State(zero, jnp.full_like(theta[0], jnp.inf), zero)

    def update(self, params, state, theta):
        f, df = jnp.sinh(params) - theta, jnp.cosh(params)
        params = params - 2 * f * df / (2 * df**2 - f * jnp.sinh(params))
        error = jnp.linalg.norm(jnp.sinh(params) - theta)
        return OptStep(params, State(state.iter_num + 1, error, self._status_of(error)))

    def optimality_fun(self, params, theta):
        return jnp.sinh(params) - theta**self.factor


@pytest.mark.slow
def test_a_solver_of_ones_own_that_keeps_every_promise():
    report = check_solver(Halley(tol=1e-6, maxiter=20), jnp.zeros(2), THETA)
    assert report.holds, report
    assert [promise.holds for promise in report.promises] == [True] * 11
    assert repr(report).startswith("Halley\n  holds  a run converges: CONVERGED\n")


def test_wrong_optimality_conditions_are_found_out():
    report = check_solver(Halley(factor=2.0, tol=1e-6, maxiter=20), jnp.zeros(2), THETA)
    assert not report.holds and report["jax.vmap changes nothing"].holds
    failed = [promise.name for promise in report.promises if promise.holds is False]
    assert failed == [
        "the solution meets the optimality conditions",
        "the gradient is right",
        "unrolled and implicit gradients agree",
    ]
    assert "FAILS  the gradient is right: relative difference" in repr(report)


@pytest.mark.slow
def test_solvers_of_the_package():
    cosh = lambda x, t: jnp.sum(jnp.cosh(x) - t * x)
    for solver in (jaxsolve.LBFGS(cosh, tol=1e-6, maxiter=30), jaxsolve.GradientDescent(cosh, tol=1e-6, maxiter=60)):
        report = check_solver(solver, jnp.zeros(2), THETA)
        assert report.holds, report
    report = check_solver(jaxsolve.EqualityConstrainedQP(), None, (jnp.eye(2), THETA), (jnp.ones((1, 2)), jnp.ones(1)))
    assert report.holds and report["unrolled and implicit gradients agree"].holds is None, report
