"""Singular, nearly singular and badly scaled systems: least squares, never NaN."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxsolve import linear_solve as ls
from tests.linear_solve.problems import LEAST_SQUARES, METHODS, PSD_METHODS, SYMMETRIC_METHODS, N, jitted, spectrum

SINGULAR_PSD = spectrum([0, 0, 1, 2, 3, 4])
SINGULAR_GENERAL = spectrum([1, 2, 3, 4, 5, 6]) + np.triu(np.ones((N, N)))
SINGULAR_GENERAL[:, 2] = SINGULAR_GENERAL[:, 0] - SINGULAR_GENERAL[:, 1]
B = np.random.default_rng(3).standard_normal(N)


@pytest.mark.parametrize("name", METHODS)
def test_singular_psd(name):
    solve = jitted(name)
    consistent = SINGULAR_PSD @ B
    x, info = solve(SINGULAR_PSD, consistent)
    assert_allclose(x, np.linalg.pinv(SINGULAR_PSD, rcond=1e-12) @ consistent, rtol=1e-9, atol=1e-11)
    assert info.relative_residual <= 1e-12
    x, _ = solve(SINGULAR_PSD, B)
    assert np.all(np.isfinite(x))
    if name in LEAST_SQUARES:
        assert_allclose(x, np.linalg.pinv(SINGULAR_PSD, rcond=1e-12) @ B, rtol=1e-8, atol=1e-9)
    x, _ = solve(np.zeros((N, N)), B)
    assert np.all(np.asarray(x) == 0)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in {**PSD_METHODS, **SYMMETRIC_METHODS}])
def test_singular_general(name):
    solve = partial(jitted(name), SINGULAR_GENERAL)
    consistent = SINGULAR_GENERAL @ B
    x, info = solve(consistent)
    assert info.relative_residual <= 1e-10 and np.all(np.isfinite(x))
    inconsistent, _ = solve(B)
    assert np.all(np.isfinite(inconsistent))
    if name in LEAST_SQUARES:
        pinv = np.linalg.pinv(SINGULAR_GENERAL)
        assert_allclose(x, pinv @ consistent, rtol=1e-8)
        assert_allclose(inconsistent, pinv @ B, rtol=1e-8)


@pytest.mark.parametrize("structure", ["psd", "symmetric", "general"])
@pytest.mark.parametrize("size", ["direct", "iterative"])
def test_automatic_choice_is_least_squares(structure, size, monkeypatch):
    if size == "iterative":
        monkeypatch.setattr("jaxsolve.linear_solve._solve.DIRECT_MAX_SIZE", 1)
    A = SINGULAR_GENERAL if structure == "general" else SINGULAR_PSD
    solve = jax.jit(lambda b: ls.solve(lambda v: A @ v, b, structure=structure, info=True))
    x, info = solve(B)
    assert_allclose(x, np.linalg.pinv(A, rcond=1e-12) @ B, rtol=1e-8, atol=1e-9)
    assert bool(info.rank_deficient) == (size == "direct")
    # A right-hand side in the null space of the (transposed) map.
    null = np.linalg.svd(A)[0][:, -1]
    assert_allclose(solve(null)[0], np.zeros(N), atol=1e-12)


def test_indefinite_matrix_declared_psd():
    A = spectrum([-3, -1, 1, 2, 3, 4])
    x, info = jax.jit(lambda A: ls.solve(A, B, structure="psd", info=True))(A)
    assert_allclose(x, np.linalg.solve(A, B), rtol=1e-10)
    assert not info.rank_deficient


def test_bad_scaling_is_not_singularity():
    scales = np.logspace(0, -9, N)
    A = (scales[:, None] * spectrum([1, 2, 3, 4, 5, 6]) * scales).astype(np.float32)
    b = (scales * np.arange(1, 7)).astype(np.float32)
    expected = np.linalg.solve(A.astype(float), b.astype(float))
    for structure in ("psd", "symmetric", "general"):
        got, info = jax.jit(lambda A, b, s=structure: ls.solve(A, b, structure=s, info=True))(A, b)
        assert not info.rank_deficient
        assert_allclose(got, expected, rtol=1e-5)


def test_one_singular_lane_under_vmap():
    stack = np.stack([spectrum([1, 2, 3, 4, 5, 6]), SINGULAR_PSD, spectrum([-1, 2, 3, 4, 5, 6])])
    x, info = jax.jit(jax.vmap(lambda A: ls.solve(lambda v: A @ v, B, structure="psd", info=True)))(stack)
    for A, lane in zip(stack, x, strict=True):
        assert_allclose(lane, np.linalg.pinv(A, rcond=1e-12) @ B, rtol=1e-9, atol=1e-10)
    assert info.rank_deficient.tolist() == [False, True, False]


@pytest.mark.parametrize("structure", ["psd", "general"])
def test_eigenvalues_stand_outside_the_path_of_regular_systems(structure):
    """The fallback is in the body of a loop that regular systems, batched or not, never enter."""

    def solve(A, b):
        return ls.solve(lambda v: A @ v, b, structure=structure)

    jaxpr = jax.make_jaxpr(jax.vmap(solve))(jnp.ones((3, N, N)), jnp.ones((3, N)))
    outside, inside = set(), set()
    _collect(jaxpr.jaxpr, outside, inside, in_loop=False)
    assert {"eigh", "svd"} & inside
    assert not {"eigh", "svd"} & outside


def _collect(jaxpr, outside, inside, in_loop):
    for equation in jaxpr.eqns:
        (inside if in_loop else outside).add(equation.primitive.name)
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                _collect(inner, outside, inside, in_loop or equation.primitive.name == "while")


def test_breakdowns_end_with_a_finite_iterate():
    skew = np.array([[0.0, 1.0], [-1.0, 0.0]])  # BiCGSTAB has no step to take
    x, info = jax.jit(lambda b: ls.solve_bicgstab(skew, b, info=True))(np.array([1.0, 2.0]))
    assert np.all(np.isfinite(x)) and np.isfinite(info.residual_norm)
    swap = np.array([[0.0, 1.0], [1.0, 0.0]])  # no curvature along the first direction of CG
    x, info = jax.jit(lambda b: ls.solve_cg(swap, b, info=True))(np.array([1.0, 0.0]))
    assert np.all(np.isfinite(x)) and info.relative_residual == 1.0


@pytest.mark.parametrize("name", METHODS)
def test_nan_in_the_map_or_the_right_hand_side_is_passed_on(name):
    solve = jitted(name)
    A = np.eye(N)
    bad = A.copy()
    bad[1, 1] = np.nan
    assert np.any(np.isnan(solve(bad, B)[0]))
    assert np.any(np.isnan(solve(A, np.where(np.arange(N) == 2, np.nan, B))[0]))


@pytest.mark.parametrize("n", [3, 8])
@pytest.mark.parametrize("general", [False, True])
def test_bicgstab_keeps_to_what_it_knows_of_a_singular_map(n, general):
    """Without a solution its iterates grow without bound, and what it takes for their residuals is fiction."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((n, n))
    A[:, 0] = A[:, 1:].sum(axis=1)
    A, b = (A if general else A @ A.T), rng.standard_normal(n)
    A = A if general else A - 0.5 * np.linalg.eigh(A)[0][-1] * np.outer(*[np.linalg.eigh(A)[1][:, -1]] * 2)
    x, info = ls.solve_bicgstab(A, b, info=True)
    assert float(info.relative_residual) < 1 + 1e-6 and np.linalg.norm(x) < 1e15
    assert float(info.residual_norm) == pytest.approx(np.linalg.norm(b - A @ np.asarray(x)), rel=0.1)


@pytest.mark.float32
@pytest.mark.parametrize("name", ["cg", "minres", "gmres", "bicgstab", "lsqr", "normal_cg"])
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_maps_whose_squares_are_no_numbers(name, scale):
    A = spectrum([1, 2, 3, 4, 5, 6])
    data = [jnp.asarray(array, jnp.float32) for array in (scale * A, B)]
    x, info = getattr(ls, f"solve_{name}")(*data, info=True)
    want = np.linalg.solve(A, B)
    assert_allclose(scale * np.asarray(x, float), want, rtol=0, atol=1e-4 * np.max(np.abs(want)))
    assert float(info.relative_residual) < 1e-4
