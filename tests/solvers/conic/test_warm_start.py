"""A program whose data changed a little is solved from the old solution with fewer iterations, and never wrongly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import Cones, ConicSolution, Status

SOC = Cones(zero=1, nonneg=4, soc=(4, 3))
MIXED = Cones(zero=1, nonneg=3, psd=(2,), exp=1, power=(0.3,))
COUNT, N = 12, 7


def program(cones, seed):
    rng = np.random.default_rng(seed)
    A, x, v = rng.normal(size=(cones.num_rows, N)), rng.normal(size=N), rng.normal(size=cones.num_rows)
    y, B = np.asarray(cones.project_dual(v)), rng.normal(size=(N, 3))
    P = B @ B.T
    return P, -P @ x - A.T @ y, A, A @ x + y - v


def stacked(programs):
    return [np.stack(part) for part in zip(*programs, strict=True)]


def changed(data, seed):
    """The programs with noise of 1 % in all numbers but those of P."""
    rng, (P, *others) = np.random.default_rng(seed), data
    return [P, *(part * (1 + 1e-2 * rng.normal(size=part.shape)) for part in others)]


@functools.cache
def solvers(cones, method=jaxsolve.ConicInteriorPoint):
    """The cold and the warm run of a batch."""
    solver = method(cones)
    cold = jax.jit(jax.vmap(lambda P, c, A, b: solver.run(None, (P, c), (A, b))))
    return cold, jax.jit(jax.vmap(lambda start, P, c, A, b: solver.run(start, (P, c), (A, b))))


def check(found, expected):
    """The same ends, and the same values; returns the iterations of those that were solved."""
    np.testing.assert_array_equal(found.state.status, expected.state.status)
    solved = np.asarray(expected.state.status == Status.CONVERGED)
    assert np.mean(solved) > 0.8
    np.testing.assert_allclose(found.state.value[solved], expected.state.value[solved], rtol=1e-7)
    return [int(jnp.sum(step.state.iter_num[solved])) for step in (found, expected)]


@pytest.mark.slow
@pytest.mark.parametrize("cones", [SOC, MIXED], ids=["soc", "mixed"])
def test_nearby_programs_take_at_most_half_of_the_iterations(cones):
    cold, warm = solvers(cones)
    old = stacked(program(cones, seed) for seed in range(COUNT))
    new = changed(old, 1)
    start, expected = cold(*old).params, cold(*new)
    found, wanted = check(warm(start, *new), expected)
    assert found <= 0.5 * wanted
    found, wanted = check(warm(start.x, *new), expected)  # multipliers are estimated
    assert found <= 0.6 * wanted


@pytest.mark.slow
def test_a_start_of_no_use_changes_no_result():
    cold, warm = solvers(SOC)
    data, rng = stacked(program(SOC, seed) for seed in range(COUNT)), np.random.default_rng(0)
    expected = cold(*data)
    for size in (1.0, 1e3, np.nan):
        x, y = (jnp.asarray(size * rng.normal(size=part.shape)) for part in expected.params[:2])
        check(warm(ConicSolution(x, y, expected.params.s), *data), expected)
        check(warm(ConicSolution(expected.params.x, y, expected.params.s), *data), expected)
        check(warm(x, *data), expected)


@pytest.mark.slow
def test_operator_splitting_starts_from_variables_alone():
    cold, warm = solvers(SOC, functools.partial(jaxsolve.ConicADMM, polish=False))
    old = stacked(program(SOC, seed) for seed in range(COUNT))
    new = changed(old, 1)
    start, expected = cold(*old).params.x, cold(*new)
    found = warm(start, *new)
    solved = np.asarray((expected.state.status == Status.CONVERGED) & (found.state.status == Status.CONVERGED))
    assert np.mean(solved) > 0.8
    np.testing.assert_allclose(found.state.value[solved], expected.state.value[solved], rtol=1e-4, atol=1e-4)
    assert int(jnp.sum(found.state.iter_num[solved])) <= 0.8 * int(jnp.sum(expected.state.iter_num[solved]))


@pytest.mark.slow
def test_certificates_do_not_depend_on_the_start():
    """From a whole solution of the program that had one."""
    cones, solver = Cones(nonneg=1, soc=(3,)), jaxsolve.ConicInteriorPoint(Cones(nonneg=1, soc=(3,)))
    A = jnp.array([[-1.0, 0.0], [0.0, 0.0], [-1.0, 0.0], [0.0, -1.0]])

    @jax.jit
    def furthest(start, at_least):
        return solver.run(start, (None, jnp.array([-1.0, 0.0])), (A, jnp.array([-at_least, 2.0, 0.0, 0.0])))

    start = furthest(ConicSolution(jnp.zeros(2), jnp.zeros(4), jnp.zeros(4)), 1.0)
    assert int(start.state.status) == Status.CONVERGED
    step = furthest(start.params, 2.5)
    assert int(step.state.status) == Status.PRIMAL_INFEASIBLE
    y = step.state.certificate.y
    np.testing.assert_allclose(y, cones.project_dual(y), atol=1e-12)
    np.testing.assert_allclose(A.T @ y, 0, atol=1e-7)
