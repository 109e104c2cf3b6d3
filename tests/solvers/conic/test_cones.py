"""Products of cones: layout, projections, and the formats of SCS and Clarabel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve.solvers.conic import smat, svec

ALL = jaxsolve.Cones(
    zero=2,
    nonneg=3,
    soc=(4, 3, 1, 4),
    psd=(3, 1, 2, 3),
    exp=2,
    dual_exp=2,
    power=(0.3, 0.8),
    dual_power=(0.5, 0.25),
)
project, project_dual = jax.jit(ALL.project), jax.jit(ALL.project_dual)


def points(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, ALL.num_rows))


def test_rows_come_in_the_order_of_the_kinds():
    assert ALL.num_rows == 2 + 3 + 12 + (6 + 1 + 3 + 6) + 6 + 6 + 6 + 6
    assert list(ALL.offsets.values()) == [0, 2, 5, 17, 33, 39, 45, 51]
    assert ALL.degree == 3 + 4 + (3 + 1 + 2 + 3) + 3 * 8
    rows = np.concatenate([block.rows.ravel() for block in ALL.blocks])
    assert np.array_equal(np.sort(rows), np.arange(ALL.num_rows))
    # One block for each kind and size.
    assert [(block.kind, block.order) for block in ALL.blocks if block.kind in ("soc", "psd")] == [
        ("soc", 4),
        ("soc", 3),
        ("soc", 1),
        ("psd", 3),
        ("psd", 1),
        ("psd", 2),
    ]
    v = jnp.asarray(points(1)[0])
    np.testing.assert_array_equal(ALL.map_blocks(lambda block, part: part, v), v)


def test_projections_are_those_of_moreaus_decomposition():
    for v in points(20):
        p, q = project(v), project_dual(-v)
        np.testing.assert_allclose(p - q, v, atol=1e-14)
        assert abs(p @ q) < 1e-12
        np.testing.assert_allclose(project(p), p, atol=1e-13)
        np.testing.assert_allclose(project_dual(q), q, atol=1e-13)


def test_projections_are_the_nearest_points_of_scs():
    scs = pytest.importorskip("scs")
    from scipy import sparse

    m = ALL.num_rows
    for v in points(3, seed=1):
        data = {"P": sparse.eye(m, format="csc"), "A": -sparse.eye(m, format="csc"), "b": np.zeros(m), "c": -v}
        solver = scs.SCS(data, ALL.to_scs(), verbose=False, eps_abs=1e-10, eps_rel=1e-10)
        np.testing.assert_allclose(project(v), solver.solve()["x"], atol=1e-7)


def test_projections_are_the_nearest_points_of_clarabel():
    clarabel = pytest.importorskip("clarabel")
    from scipy import sparse

    cones = jaxsolve.Cones(zero=2, nonneg=3, soc=(4, 3), psd=(3, 2), exp=2, power=(0.3,))
    lists, rows = cones.to_clarabel()
    m = cones.num_rows
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    for v in np.random.default_rng(2).standard_normal((3, m)):
        A = -sparse.eye(m, format="csc")[rows]
        solution = clarabel.DefaultSolver(
            sparse.eye(m, format="csc"), -v, sparse.csc_matrix(A), np.zeros(m), lists, settings
        ).solve()
        # Its tolerance of 1e-8 is one of the value, and errors of the value are squares of those of the point.
        np.testing.assert_allclose(cones.project(v), solution.x, atol=1e-5)


@pytest.mark.slow
def test_derivatives_are_those_of_differences():
    h = 1e-6
    v, d, e = points(3, seed=3)
    first = jax.jit(lambda v, d: jax.jvp(ALL.project, (v,), (d,))[1])
    np.testing.assert_allclose(first(v, d), (project(v + h * d) - project(v - h * d)) / (2 * h), atol=1e-8)
    # Of the duals by Moreau's decomposition; the reverse mode is the transpose.
    np.testing.assert_allclose(jax.jvp(project_dual, (v,), (d,))[1], d - first(-v, d), atol=1e-12)
    (reverse,) = jax.vjp(project, v)[1](jnp.asarray(e))
    np.testing.assert_allclose(reverse @ d, first(v, d) @ e, rtol=1e-12)


@pytest.mark.slow
def test_second_derivatives_are_those_of_differences():
    h = 1e-6
    v, d, e = points(3, seed=3)
    first = jax.jit(lambda v, d: jax.jvp(ALL.project, (v,), (d,))[1])
    second = jax.jit(lambda v, d, e: jax.jvp(lambda v: first(v, d), (v,), (e,))[1])
    np.testing.assert_allclose(second(v, d, e), (first(v + h * e, d) - first(v - h * e, d)) / (2 * h), atol=1e-6)


def test_projections_obey_the_law_of_scale_and_batch():
    stack = points(4, seed=4)
    one_by_one = np.stack([project(v) for v in stack])
    np.testing.assert_allclose(jax.jit(jax.vmap(ALL.project))(stack), one_by_one, atol=1e-14)
    for k in (-300, -20, 20, 300):
        np.testing.assert_array_equal(project(2.0**k * stack[0]), 2.0**k * one_by_one[0])
    single = project(stack[0].astype(np.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, one_by_one[0], atol=1e-5)


def test_symmetric_matrices_as_vectors():
    rng = np.random.default_rng(0)
    M, v = rng.standard_normal((4, 4)), rng.standard_normal(10)
    S = M + M.T
    assert np.isclose(svec(S) @ svec(smat(v)), np.sum(S * np.asarray(smat(v))))
    np.testing.assert_allclose(smat(svec(S)), S, rtol=1e-15)
    np.testing.assert_allclose(svec(smat(v)), v, rtol=1e-15)
    np.testing.assert_allclose(svec(M), svec(S / 2), rtol=1e-15)
    # Lower triangle, column by column.
    np.testing.assert_allclose(svec(S)[:4], S[:, 0] * np.array([1, 2**0.5, 2**0.5, 2**0.5]), rtol=1e-15)


def test_the_format_of_scs_and_back():
    cone = {"z": 2, "l": 1, "q": [3, 2], "s": [2], "ep": 1, "ed": 2, "p": [0.3, -0.4]}
    cones = jaxsolve.Cones.from_scs(cone)
    assert cones == jaxsolve.Cones(
        zero=2, nonneg=1, soc=(3, 2), psd=(2,), exp=1, dual_exp=2, power=(0.3,), dual_power=(0.4,)
    )
    assert cones.to_scs() == cone
    assert jaxsolve.Cones.from_scs({"f": 1, "q": 3, "s": [], "bu": []}) == jaxsolve.Cones(zero=1, soc=(3,))
    with pytest.raises(ValueError, match="keys \\['bu'\\]"):
        jaxsolve.Cones.from_scs({"l": 1, "bu": [1.0]})
    with pytest.raises(ValueError, match="dual power cones"):
        jaxsolve.Cones.from_scs({"p": [-0.3, 0.4]})


def test_the_format_of_clarabel_and_back():
    clarabel = pytest.importorskip("clarabel")
    lists = [
        clarabel.PSDTriangleConeT(3),
        clarabel.NonnegativeConeT(2),
        clarabel.ExponentialConeT(),
        clarabel.ZeroConeT(1),
        clarabel.PowerConeT(0.3),
        clarabel.NonnegativeConeT(1),
        clarabel.SecondOrderConeT(3),
    ]
    cones, rows = jaxsolve.Cones.from_clarabel(lists)
    assert cones == jaxsolve.Cones(zero=1, nonneg=3, soc=(3,), psd=(3,), exp=1, power=(0.3,))
    # The upper triangle by columns is 00 01 11 02 12 22; the lower one by columns 00 10 20 11 21 22.
    assert rows.tolist() == [11, 6, 7, 15, 16, 17, 18, 0, 1, 3, 2, 4, 5, 8, 9, 10, 12, 13, 14]
    again, back = cones.to_clarabel()
    same, order = jaxsolve.Cones.from_clarabel(again)
    assert same == cones
    assert np.array_equal(back[order], np.arange(cones.num_rows))
    with pytest.raises(ValueError, match="GenPowerConeT"):
        jaxsolve.Cones.from_clarabel([clarabel.GenPowerConeT([0.3, 0.7], 1)])
    with pytest.raises(ValueError, match="no duals"):
        jaxsolve.Cones(dual_exp=1).to_clarabel()


def test_cones_are_static_values():
    cones = jaxsolve.Cones(soc=[3, np.int64(2)], power=np.array([0.5]))
    assert cones == jaxsolve.Cones(soc=(3, 2), power=(0.5,))
    assert hash(cones) == hash(jaxsolve.Cones(soc=(3, 2), power=(0.5,)))
    assert not jax.tree.leaves(cones)
    v = jnp.arange(8.0)
    np.testing.assert_array_equal(jax.jit(lambda cones, v: cones.project(v))(cones, v), cones.project(v))
    assert jaxsolve.Cones().project(jnp.zeros(0)).shape == (0,)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"zero": -1}, ValueError, "zero must be at least 0"),
        ({"nonneg": 1.5}, TypeError, "nonneg counts"),
        ({"nonneg": True}, ValueError, "nonneg must be"),
        ({"soc": 3}, TypeError, "soc must be a tuple"),
        ({"soc": (0,)}, ValueError, "soc must be at least 1"),
        ({"psd": (2, 0)}, ValueError, "psd must be at least 1"),
        ({"power": (1.0,)}, ValueError, "strictly between 0 and 1"),
        ({"power": ("a",)}, TypeError, "power has exponents"),
    ],
)
def test_impossible_cones_are_named(options, error, message):
    with pytest.raises(error, match=message):
        jaxsolve.Cones(**options)


def test_vectors_of_another_shape_are_named():
    with pytest.raises(ValueError, match="v must have shape"):
        ALL.project(jnp.zeros(3))
    with pytest.raises(ValueError, match="k \\(k \\+ 1\\) / 2"):
        smat(jnp.zeros(4))
    with pytest.raises(ValueError, match="matrix must have shape"):
        svec(jnp.zeros((2, 3)))
