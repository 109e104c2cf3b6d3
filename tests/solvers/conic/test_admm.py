"""Operator splitting on conic programs: closed forms, certificates, laws of scale, other kinds of matrices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

import jaxsolve
from jaxsolve import Status

ALL = jaxsolve.Cones(zero=1, nonneg=2, soc=(3, 2), psd=(2,), exp=1, dual_exp=1, power=(0.3,), dual_power=(0.6,))
N = 16


def program(seed, cones=ALL, n=N):
    """Data of a program with a known solution, which is made first."""
    rng = np.random.default_rng(seed)
    A, root = rng.standard_normal((cones.num_rows, n)), rng.standard_normal((n, n))
    P, x, v = root @ root.T / n + 0.1 * np.eye(n), rng.standard_normal(n), rng.standard_normal(cones.num_rows)
    y = np.asarray(_project_dual(cones, v))
    return (P, -P @ x - A.T @ y), (A, A @ x + y - v), jaxsolve.ConicSolution(x, y, y - v)


@functools.partial(jax.jit, static_argnums=0)
def _project_dual(cones, v):
    return cones.project_dual(v)


@pytest.mark.slow
def test_a_batch_with_an_infeasible_element():
    """The point of a disk of radius 2 that is furthest to the right, if it may be so far."""
    A = jnp.array([[-1.0, 0.0], [0.0, 0.0], [-1.0, 0.0], [0.0, -1.0]])
    solver = jaxsolve.ConicADMM(jaxsolve.Cones(nonneg=1, soc=(3,)))

    @jax.jit
    @jax.vmap
    def furthest(at_least):
        b = jnp.zeros(4).at[:2].set(jnp.stack([-at_least, jnp.full_like(at_least, 2.0)]))
        return solver.run(None, (None, jnp.array([-1.0, 0.0])), (A, b))

    params, state = furthest(jnp.array([1.0, 3.0]))
    assert state.status.tolist() == [Status.CONVERGED, Status.PRIMAL_INFEASIBLE]
    np.testing.assert_allclose(params.x[0], [2.0, 0.0], atol=1e-5)
    np.testing.assert_allclose(params.y[0], [0.0, 1.0, -1.0, 0.0], atol=1e-5)
    np.testing.assert_allclose(params.s[0], [1.0, 2.0, 2.0, 0.0], atol=1e-5)
    np.testing.assert_allclose(state.value[0], -2.0, atol=1e-5)
    # 3 <= x_0 <= |x| <= 2 is the sum of the rows in the proportion 1, 1, -1, 0.
    np.testing.assert_allclose(state.certificate.y, [[0, 0, 0, 0], [1, 1, -1, 0]], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_all_cones_at_once(seed):
    objective, rows, want = program(seed)
    solver = jaxsolve.ConicADMM(ALL, tol=1e-9)
    params, state = solver.run(None, objective, rows)
    assert int(state.status) == Status.CONVERGED
    for got, exact in zip(params, want, strict=True):
        np.testing.assert_allclose(got, exact, atol=1e-6)
    value = 0.5 * want.x @ objective[0] @ want.x + objective[1] @ want.x
    np.testing.assert_allclose(state.value, value, rtol=1e-8)
    for residual in solver.optimality_fun(params, objective, rows):
        np.testing.assert_allclose(residual, 0, atol=1e-7)


@pytest.mark.slow
def test_unbounded_problems_have_a_certificate():
    cones = jaxsolve.Cones(soc=(3,), exp=1)
    A = -np.eye(6)
    A[5, 2] = -1.0
    solver = jaxsolve.ConicADMM(cones)
    c = np.array([-1.0, 0.0, 0.0, 0.5, 0.0, 0.0])
    _, state = solver.run(None, (None, c), (A, np.zeros(6)))
    assert int(state.status) == Status.DUAL_INFEASIBLE
    np.testing.assert_allclose(c @ state.certificate.x, -1, rtol=1e-12)
    np.testing.assert_allclose(A @ state.certificate.x + state.certificate.s, 0, atol=1e-6)
    np.testing.assert_allclose(cones.project(state.certificate.s), state.certificate.s, atol=1e-12)
    # With a price that pays for it the solution is the apex.
    params, state = solver.run(None, (None, np.array([1.0, 0.5, 0.0, -0.5, 0.5, 0.5])), (A, np.zeros(6)))
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params.x, 0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("k", [-20, 20])
def test_units_change_nothing(k):
    """Those of the objective, of a variable, and of the rows of each cone."""
    (P, c), (A, b), _ = program(5)
    solver = jaxsolve.ConicADMM(ALL)
    params, state = solver.run(None, (P, c), (A, b))
    unit = 2.0**k
    variables = np.ones(N)
    variables[1] = unit
    rows = np.concatenate([[unit], [1, unit], [unit] * 3, [1, 1], [1 / unit] * 3, [unit] * 3, *[[1.0] * 3] * 3])
    cost = 2.0 ** (-k // 2)
    scaled_P, scaled_c = cost * variables[:, None] * P * variables, cost * variables * c
    scaled_A, scaled_b = rows[:, None] * A * variables, rows * b
    other, other_state = solver.run(None, (scaled_P, scaled_c), (scaled_A, scaled_b))
    assert int(other_state.iter_num) == int(state.iter_num)
    np.testing.assert_array_equal(variables * other.x, params.x)
    np.testing.assert_array_equal(rows * other.y, cost * params.y)
    np.testing.assert_array_equal(other.s, rows * params.s)


@pytest.mark.slow
def test_warm_starts_need_fewer_iterations():
    objective, rows, _ = program(6)
    solver = jaxsolve.ConicADMM(ALL, polish=False)
    cold = solver.run(None, objective, rows)
    near = rows[0], rows[1] + 1e-3
    again = int(solver.run(None, objective, near).state.iter_num)
    for init in (cold.params, cold):
        assert int(solver.run(init, objective, near).state.iter_num) < again
    start = solver.init_params(cold.params.x, objective, rows)
    np.testing.assert_allclose(start.x, cold.params.x)


@pytest.mark.slow
def test_sparse_matrices_and_functions():
    (P, c), (A, b), want = program(7)
    solver = jaxsolve.ConicADMM(ALL, tol=1e-7)
    x = solver.run(None, (sparse.csr_matrix(P), c), (sparse.csc_matrix(A), b)).params.x
    np.testing.assert_allclose(x, want.x, atol=1e-5)
    by_products = jaxsolve.ConicADMM(ALL, tol=1e-7, matvec_P=lambda P, x: P @ x, matvec_A=lambda A, x: A @ x)
    x = by_products.run(None, (P, jnp.asarray(c)), (A, b)).params.x
    np.testing.assert_allclose(x, want.x, atol=1e-4)


@pytest.mark.slow
def test_float32():
    objective, rows, want = jax.tree.map(lambda part: part.astype(np.float32), program(8))
    params, state = jaxsolve.ConicADMM(ALL, tol=1e-4).run(None, objective, rows)
    assert params.x.dtype == jnp.float32
    assert int(state.status) == Status.CONVERGED
    np.testing.assert_allclose(params.x, want.x, atol=2e-3)


@pytest.mark.slow
def test_derivatives_are_those_of_differences():
    (P, c), (A, b), _ = program(9)
    rng, h = np.random.default_rng(0), 1e-5
    dP, dc, dA, db = (rng.standard_normal(part.shape) for part in (P, c, A, b))
    solver = jaxsolve.ConicADMM(ALL, tol=1e-9)

    @jax.jit
    def along(t):
        params, state = solver.run(None, (P + t * (dP + dP.T), c + t * dc), (A + t * dA, b + t * db))
        return jnp.concatenate([*params, state.value[None]])

    forward = jax.jit(jax.jacfwd(along))
    zero = jnp.zeros(())
    np.testing.assert_allclose(forward(zero), (along(zero + h) - along(zero - h)) / (2 * h), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.jacrev(along))(zero), forward(zero), atol=1e-8)


def test_what_does_not_fit_is_named():
    solver = jaxsolve.ConicADMM(jaxsolve.Cones(nonneg=2))
    c, A = np.ones(3), np.ones((2, 3))
    with pytest.raises(TypeError, match=r"cones must be a jaxsolve\.Cones"):
        jaxsolve.ConicADMM({"l": 2})
    with pytest.raises(ValueError, match="b must have an entry for each of the 2 rows of cones, got 3"):
        solver.run(None, (None, c), (np.ones((3, 3)), np.ones(3)))
    with pytest.raises(ValueError, match=r"params_cone, the pair \(A, b\), is missing"):
        solver.run(None, (None, c))
    with pytest.raises(TypeError, match=r"params_cone must be a pair \(A, b\)"):
        solver.run(None, (None, c), A)
    with pytest.raises(ValueError, match="P must"):
        solver.run(None, (np.ones((2, 3)), c), (A, np.ones(2)))
