"""Model-predictive control: an expert whose programs SciPy solves is imitated, and warm starts save iterations."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import lsq_linear

import jaxsolve
from tests.examples.checks import assert_gradient

HORIZON = 4


def plan_by_scipy(A, B, weights, x):
    """The best forces, by bounded least squares: the residuals of a plan come from simulating it."""

    def residuals(forces):
        state, out = x, [*forces]
        for force in forces:
            state = A @ state + B * force
            out += [*(np.sqrt(weights) * state)]
        return np.array(out)

    offset = residuals(np.zeros(HORIZON))
    slopes = np.stack([residuals(unit) - offset for unit in np.eye(HORIZON)], axis=1)
    return lsq_linear(slopes, -offset, bounds=(-1, 1), method="bvls", tol=1e-14).x


@pytest.fixture(scope="module")
def scenarios(example):
    initial, disturbances = example.make_scenarios(4, 5)
    return 1.5 * initial, disturbances


@pytest.fixture(scope="module")
def expert_forces(example, scenarios):
    """The closed loop of the expert, shape (times, batch)."""
    A, B = example.carts()
    states, forces = np.array(scenarios[0]), []
    for disturbance in np.array(scenarios[1]):
        forces.append(np.array([plan_by_scipy(A, B, example.EXPERT, x)[0] for x in states]))
        states = states @ A.T + forces[-1][:, None] * B + disturbance
    return np.stack(forces)


def test_the_weights_of_an_expert_are_found(example, scenarios, expert_forces, capsys):
    """The expert's programs were solved by SciPy, so that a loss of 0 also says that ours are solved."""
    weights, losses, state = example.learn(jnp.asarray(expert_forces), *scenarios, HORIZON)
    np.testing.assert_allclose(weights, example.EXPERT, rtol=1e-2)
    np.testing.assert_allclose(state.aux.forces, expert_forces, atol=1e-4)
    assert losses[0] > 1e-3 and losses[-1] < 1e-8
    assert np.all(np.diff(losses) < 0)
    assert np.all(state.aux.status == jaxsolve.Status.CONVERGED)
    assert 0.1 < np.mean(np.abs(expert_forces) > 1 - 1e-9) < 0.9
    assert "expert" in capsys.readouterr().out


@pytest.mark.slow
def test_gradient_through_the_closed_loop(example, scenarios, expert_forces):
    at = jnp.log(jnp.asarray([0.8, 3.0, 0.3, 0.9]))
    assert_gradient(lambda w: example.imitation_loss(w, jnp.asarray(expert_forces), *scenarios, HORIZON)[0], at)


@pytest.mark.slow
def test_the_whole_script(example, tmp_path, capsys):
    """Both solvers, cold and warm: all converge, warm starts take fewer iterations, the weights are found."""
    assert example.main(batch=4, num_times=8, horizon=6, path=tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert "all quadratic programs converged: yes" in capsys.readouterr().out


@pytest.mark.slow
def test_both_solvers_plan_the_same(example, scenarios):
    weights = jnp.asarray(example.EXPERT)
    plans = (example.plan_by_coordinates, example.plan_by_splitting)
    loops = [example.closed_loop(weights, *scenarios, HORIZON, plan) for plan in plans]
    np.testing.assert_allclose(loops[0].forces, loops[1].forces, atol=1e-8)
