"""Soft spheres: the sensitivity of the packing by every linear solver, and that of the iterates of FIRE."""

import jax
import numpy as np
import pytest

# Computed with other libraries, for 16 and 128 particles.
ENERGY, SIZE = 0.08899216, 20.7461816
ENERGY_OF_MANY, SIZE_OF_MANY = 0.55098563, 278.5407


@pytest.fixture(scope="module")
def packing(example):
    """Initial and relaxed positions, their derivative, and the number of steps."""
    x0 = example.random_positions(16)
    return x0, *example.sensitivity(example.THETA, x0)


def test_the_sensitivity_is_the_known_one(example, packing):
    _, x, tangent, num_steps = packing
    assert 5000 < num_steps < 50_000
    np.testing.assert_allclose(example.energy(x, example.THETA), ENERGY, atol=1e-8)
    np.testing.assert_allclose(example.size(tangent), SIZE, atol=1e-6)
    # Of least norm: no shift of all particles.
    np.testing.assert_allclose(np.mean(tangent, axis=0), 0, atol=1e-10)


def test_conjugate_gradient_finds_the_same(example, packing):
    check_solver(example, packing, "conjugate gradient")


def test_forces_are_those_of_the_pairs(example, packing):
    """One pair at a time, in NumPy."""
    x0, *_ = packing
    side, value = example.box_side(16), 0.0
    diameters = np.where(np.arange(16) < 8, 1.0, example.THETA)
    for i in range(16):
        for j in range(i):
            shift = np.asarray(x0[i] - x0[j])
            distance = np.linalg.norm(shift - side * np.round(shift / side))
            value += max(1 - 2 * distance / (diameters[i] + diameters[j]), 0.0) ** 2 / 2
    np.testing.assert_allclose(example.energy(x0, example.THETA), value, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["BiCGSTAB", "normal equations, CG", "GMRES", "MINRES", "least squares"])
def test_every_linear_solver_finds_the_same(example, packing, name):
    check_solver(example, packing, name)


def check_solver(example, packing, name):
    _, x, _, _ = packing
    found = jax.jit(lambda x: example.tangent_by(x, example.THETA, example.LINEAR_SOLVERS[name]))(x)
    np.testing.assert_allclose(example.size(found), SIZE, rtol=1e-8)


@pytest.mark.slow
def test_the_derivative_of_iterates_is_useless_for_long(example, packing):
    x0, x, tangent, _ = packing
    rows = example.report_unrolled(x, example.THETA, x0, tangent, (1000, 3000))
    for _, force, _, _, error in rows:
        assert force < 0.05 and error > 1


@pytest.mark.slow
def test_more_particles(example):
    """Every linear solver finds the same for 128 particles, and so do differences of relaxed positions."""
    x, tangent, _ = example.sensitivity(example.THETA, example.random_positions(128))
    np.testing.assert_allclose(example.energy(x, example.THETA), ENERGY_OF_MANY, atol=1e-8)
    np.testing.assert_allclose(example.size(tangent), SIZE_OF_MANY, rtol=1e-6)
    difference, zeros = example.report_solvers(x, example.THETA, tangent)
    assert zeros == 2 and difference < 1e-9
    assert example.report_differences(x, example.THETA, tangent) < 1e-4


@pytest.mark.slow
def test_the_script_prints_its_tables_and_draws(example, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(example, "OUTPUT", tmp_path)
    assert example.main(num_particles=16, steps=(1000,))
    assert "differences of FIRE" in capsys.readouterr().out
    assert (tmp_path / "molecular_dynamics.png").stat().st_size > 10_000
