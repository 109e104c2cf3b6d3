"""The entry point ``solve``: choice of the method, other people's solvers, errors, and what is traced."""

from functools import partial

import jax
import jax.numpy as jnp
import jax.scipy.sparse.linalg
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxsolve import linear_solve as ls
from tests.linear_solve.problems import N, system


def primitives(fun, *args):
    return str(jax.make_jaxpr(fun)(*args))


@pytest.mark.parametrize(
    ("structure", "direct", "iterative"),
    [("psd", "cholesky", "while"), ("symmetric", "lu", "while"), ("general", "lu", "while")],
)
def test_method_by_structure_and_size(structure, direct, iterative, monkeypatch):
    def program(b):
        return primitives(lambda b: ls.solve(lambda v: 2 * v, b, structure=structure), b)

    assert f"{direct}[" in program(jnp.ones(ls.DIRECT_MAX_SIZE)) or f"{direct} " in program(jnp.ones(4))
    large = program(jnp.ones(ls.DIRECT_MAX_SIZE + 1))
    assert "cholesky" not in large and "lu_pivots" not in large and iterative in large


@pytest.mark.parametrize("structure", ["psd", "symmetric", "general"])
def test_iterative_choice_on_large_systems(structure):
    n = ls.DIRECT_MAX_SIZE + 10
    diagonal = np.linspace(1, 5, n) * (1 if structure == "psd" else np.where(np.arange(n) % 7, 1, -1))
    shift = 0.1 if structure == "general" else 0.0
    b = np.random.default_rng(0).standard_normal(n)

    @jax.jit
    def solve(b):
        return ls.solve(lambda v: diagonal * v + shift * jnp.roll(v, 1), b, structure=structure, info=True)

    x, info = solve(b)
    assert info.relative_residual <= 1e-12 and 0 < info.num_iter < 200
    assert_allclose(diagonal * x + shift * np.roll(x, 1), b, atol=1e-10)


METHODS = {
    "own": ls.solve_qr,
    "own partial": partial(ls.solve_gmres, tol=1e-13),
    "own gmres, at its tightest": ls.solve_gmres,
    "own refinement": ls.solve_iterative_refinement,
    "lambda": lambda matvec, b: ls.solve_lu(matvec, b),
    "jax gmres, which returns a pair": partial(jax.scipy.sparse.linalg.gmres, tol=1e-13),
    "dense by hand": lambda matvec, b: {"w": jnp.linalg.solve(ls.materialize(matvec, b), b["w"])},
}


@pytest.mark.parametrize("name", METHODS)
def test_method_of_the_caller(name):
    A, b = system("lu")

    @jax.jit
    def solve(A, b):
        x = ls.solve(lambda t: {"w": A @ t["w"]}, {"w": b}, METHODS[name], ridge=0.5)
        return x["w"]

    shifted = A + 0.5 * np.eye(N)
    rtol = 1e-6 if name == "own refinement" else 1e-10
    x, gradient = jax.jit(lambda A, b: (solve(A, b), jax.grad(lambda b: solve(A, b).sum())(b)))(A, b)
    assert_allclose(x, np.linalg.solve(shifted, b), rtol=rtol)
    assert_allclose(gradient, np.linalg.solve(shifted.T, np.ones(N)), rtol=rtol)


@pytest.mark.parametrize("structure", ["psd", "general"])
def test_lineax_solver(structure):
    lineax = pytest.importorskip("lineax")
    A, b = system("cg" if structure == "psd" else "lu")
    solver = lineax.CG(rtol=1e-12, atol=1e-12) if structure == "psd" else lineax.LU()

    @jax.jit
    def solve(b):
        return ls.solve(lambda t: [A @ t[0]], [b], solver, structure=structure, info=True)

    (x,), info = solve(b)
    assert_allclose(x, np.linalg.solve(A, b), rtol=1e-9)
    assert info.relative_residual < 1e-10
    assert_allclose(jax.grad(lambda b: solve(b)[0][0].sum())(b), np.linalg.solve(A.T, np.ones(N)), rtol=1e-9)


def test_lineax_solver_that_has_not_converged():
    lineax = pytest.importorskip("lineax")
    A, b = system("cg")
    limited = lineax.CG(rtol=1e-12, atol=1e-12, max_steps=2)
    assert np.all(np.isnan(ls.solve(A, b, limited, structure="psd")))
    assert np.all(np.isfinite(ls.solve(A, b, limited, structure="psd", on_failure="ignore")))


def test_matvec_is_called_once():
    calls = []

    def matvec(v):
        calls.append(1)
        return 2.0 * v

    for structure in ("psd", "general"):
        calls.clear()
        jax.jit(lambda b, s=structure: ls.solve(matvec, b, structure=s)).lower(jnp.ones(3))
        assert len(calls) == 1


def _bad(match, kind=ValueError):
    return pytest.raises(kind, match=match)


def test_bad_input():
    b = jnp.ones(3)

    def double(v):
        return 2 * v

    with _bad("structure must be one of"):
        ls.solve(double, b, structure="spd")
    with _bad("ridge must be at least 0, got -1"):
        ls.solve_cg(double, b, ridge=-1.0)
    with _bad("ridge must be a scalar"):
        ls.solve_lu(double, b, ridge=b)
    with _bad("tol must be at least 0"):
        ls.solve_cg(double, b, tol=-1e-3)
    with _bad("maxiter must be a whole number"):
        ls.solve_minres(double, b, maxiter=0)
    with _bad("restart must be a whole number"):
        ls.solve_gmres(double, b, restart=0)
    with _bad("give one of them"):
        ls.solve_cg(double, b, preconditioner=double, M=double)
    with _bad("num_terms must be a whole number of at least 1"):
        ls.solve_neumann(double, b, num_terms=0)
    with _bad("damping must be positive"):
        ls.solve_neumann(double, b, damping=0.0)
    with _bad("residual must be one of"):
        ls.solve_neumann(double, b, residual="T")
    with _bad("rcond must be at least 0"):
        ls.solve_lstsq(double, b, rcond=-1.0)
    with _bad("must have the leaf shapes of b"):
        ls.solve(lambda v: v[:2], b)
    with _bad("init must have the leaf shapes of b"):
        ls.solve_cg(double, b, init=jnp.ones(2))
    with _bad("must be square"):
        ls.solve(jnp.ones((3, 2)), b)
    with _bad("diag"):
        ls.jacobi_preconditioner(None, b)
    with _bad("floating point", TypeError):
        ls.solve(double, jnp.arange(3))
    with _bad("mixes real and complex", TypeError):
        ls.materialize(lambda t: t, (b, b.astype(complex)))
    with _bad("complex where b is real", TypeError):
        ls.solve(lambda v: v.astype(complex), b)
    with _bad("matvec must be a callable", TypeError):
        ls.solve(3.0, b)
    with _bad("method must be one of", TypeError):
        ls.solve(double, b, "cg")
    with _bad("method must be one of", TypeError):
        ls.solve(double, b, 3)
    with _bad("has no option", TypeError):
        ls.solve(double, b, tolerance=1e-3)
    with _bad("solve must be callable", TypeError):
        ls.solve_iterative_refinement(double, b, solve="cg")
    with _bad("value of the linear solver must have"):
        ls.solve(double, b, lambda matvec, b: b[:2])


def test_what_a_method_can_be():
    from jaxsolve.linear_solve._solve import check_method

    for value in (None, ls.solve_cg, partial(ls.solve_cg, tol=1e-3), lambda matvec, b: b, lambda matvec, b, k=1: b):
        check_method("implicit_diff_solve", value)
    with _bad("implicit_diff_solve must be .* got the string 'cg'. Did you mean .*linear_solve.solve_cg", TypeError):
        check_method("implicit_diff_solve", "cg")
    with _bad("Did you mean the function jaxsolve.linear_solve.solve_gmres", TypeError):
        ls.solve(lambda v: v, jnp.ones(2), "GMRES")
    with _bad("got 3 of type int", TypeError):
        check_method("solve", 3)
    with _bad(r"solve is called as solve\(matvec, b\), but .* has the signature \(A\)", TypeError):
        check_method("solve", lambda A: A)


def test_method_of_the_caller_sees_his_pytrees():
    b = {"u": jnp.ones(2), "v": (jnp.full((1, 2), 3.0),)}
    seen = []

    def method(matvec, b):
        seen.append((jax.tree.structure(b), jax.tree.structure(matvec(b))))
        return jax.tree.map(lambda leaf: leaf / 2, b)

    x = ls.solve(lambda t: jax.tree.map(lambda leaf: 2 * leaf, t), b, method)
    assert set(seen) == {(jax.tree.structure(b), jax.tree.structure(b))}
    jax.tree.map(lambda got, want: assert_allclose(got, want / 2), x, b)
    with _bad("must return a pytree like its second argument b"):
        ls.solve(lambda t: t, b, lambda matvec, b: jax.tree.leaves(b))


@pytest.mark.parametrize("structure", ["psd", "symmetric", "general"])
def test_symbolic_sizes_are_exported(structure):
    from jax import export

    (n,) = export.symbolic_shape("n")

    def gradient(b):
        return jax.grad(lambda b: jnp.sum(ls.solve(lambda v: 2 * v, b, structure=structure)))(b)

    exported = export.export(jax.jit(gradient))(jax.ShapeDtypeStruct((n,), jnp.float64))
    assert_allclose(exported.call(jnp.ones(5)), 0.5, rtol=1e-12)


@pytest.mark.parametrize("name", ["cholesky", "cg", "minres", "gmres", "bicgstab", "lsqr", "normal_cg"])
def test_inside_shard_map_with_checked_axes(name):
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("d")

    def solve(c):
        # The map varies over the axis, the right-hand side does not.
        x = getattr(ls, f"solve_{name}")(lambda v: (2 + c[0]) * v, jnp.ones(2))
        return x[None]

    mapped = jax.jit(jax.shard_map(solve, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=True))
    assert_allclose(mapped(jnp.ones(1)), np.full((1, 2), 1 / 3), rtol=1e-10)


@pytest.mark.parametrize("name", ["cholesky", "cg", "minres", "gmres", "normal_cg"])
def test_leaves_sharded_over_an_explicit_mesh(name):
    mesh = jax.make_mesh((1,), ("d",))
    with jax.set_mesh(mesh):
        w = jax.device_put(jnp.ones((4, 2)), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d", None)))
        method = getattr(ls, f"solve_{name}")
        b = {"w": w, "v": jnp.ones(3)}
        x = jax.jit(lambda b: method(lambda t: {"w": 2 * t["w"], "v": 4 * t["v"]}, b))(b)
        assert jax.typeof(x["w"]).sharding.spec == jax.typeof(w).sharding.spec
        assert_allclose(x["w"], np.full((4, 2), 0.5), rtol=1e-10)
        assert_allclose(x["v"], np.full(3, 0.25), rtol=1e-10)


def test_what_a_partial_binds_is_kept():
    A, b = system("cg")
    shifted = np.linalg.solve(A + 0.5 * np.eye(N), b)
    for method in (ls.solve_cg, ls.solve_cholesky, ls.solve_gmres):
        assert_allclose(ls.solve(A, b, partial(method, ridge=0.5)), shifted, rtol=1e-9)
        assert_allclose(ls.solve(A, b, partial(method, ridge=3.0), ridge=0.5), shifted, rtol=1e-9)
