"""The interior-point method for conic programs: solutions, certificates, derivatives, batches and units."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import Cones, Status, solve_conic

EVERY = Cones(zero=1, nonneg=2, soc=(3,), psd=(2,), exp=1, dual_exp=1, power=(0.3,), dual_power=(0.6,))
KINDS = {
    "soc": Cones(zero=1, nonneg=2, soc=(3, 3)),
    "psd": Cones(zero=1, psd=(3, 2)),
    "exp": Cones(zero=1, nonneg=1, exp=2),
    "dual_exp": Cones(zero=1, dual_exp=2),
    "power": Cones(zero=1, power=(0.3, 0.7)),
    "dual_power": Cones(zero=1, dual_power=(0.2, 0.6)),
}


def random_program(cones, n, seed, rank=2):
    """A program with a known solution ``(x, y, s)``; P has this rank."""
    rng = np.random.default_rng(seed)
    A, x = rng.normal(size=(cones.num_rows, n)), rng.normal(size=n)
    v = rng.normal(size=cones.num_rows)
    y = np.asarray(cones.project_dual(v))
    B = rng.normal(size=(n, rank))
    P = B @ B.T
    return (P, -P @ x - A.T @ y, A, A @ x + y - v), (x, y, y - v)


@functools.cache
def _condition_of(cones):
    def residual(x, v, P, c, A, b):
        y = cones.project_dual(v)
        return jnp.concatenate([P @ x + c + A.T @ y, A @ x + y - v - b])

    jacobian = jax.jacfwd(residual, (0, 1))
    return jax.jit(lambda *args: jnp.linalg.cond(jnp.concatenate(jacobian(*args), axis=1)))


def well_posed_programs(cones, n, count, rank=2):
    """Programs whose solutions are unique and far from a kink of the projection."""
    for seed in range(100):
        data, (x, y, s) = random_program(cones, n, seed, rank)
        if _condition_of(cones)(x, y - s, *data) < 1e3:
            yield data, (x, y, s)
            count -= 1
        if not count:
            return
    raise ValueError("no such programs")


def without_duals(A, b, cones):
    """The same rows in cones that Clarabel has: the dual ones are images of the primal ones."""
    units = np.eye(cones.num_rows)
    for start in cones.offsets["dual_exp"] + 3 * np.arange(cones.dual_exp):
        units[start : start + 3, start : start + 3] = [[1, -1, 0], [-1, 0, 0], [0, 0, 1]]
    for i, alpha in enumerate(cones.dual_power):
        start = cones.offsets["dual_power"] + 3 * i
        units[start, start], units[start + 1, start + 1] = 1 / alpha, 1 / (1 - alpha)
    primal = {"exp": cones.exp + cones.dual_exp, "power": cones.power + cones.dual_power}
    cones = dataclasses.replace(cones, dual_exp=0, dual_power=(), **primal)
    return units @ A, units @ b, cones


def clarabel_value(data, cones):
    """The optimal value by Clarabel."""
    clarabel, sparse = pytest.importorskip("clarabel"), pytest.importorskip("scipy.sparse")
    P, c, A, b = map(np.asarray, data)
    A, b, cones = without_duals(A, b, cones)
    theirs, rows = cones.to_clarabel()
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-10
    solver = clarabel.DefaultSolver(sparse.triu(P).tocsc(), c, sparse.csc_matrix(A[rows]), b[rows], theirs, settings)
    return solver.solve().obj_val


@functools.cache
def solver_of(cones):
    return jax.jit(lambda *data: solve_conic(*data, cones, method="interior_point"))


def outputs(cones, *data):
    """All outputs in one vector."""
    result = solve_conic(*data, cones, method="interior_point")
    return jnp.concatenate([result.x, result.y, result.s, jnp.stack([result.value, result.dual_value])])


@functools.cache
def derivatives_of(cones):
    """The outputs, their derivative along a direction, and a pullback: one program."""

    @jax.jit
    def derivatives(data, along, weights):
        found, forward = jax.linearize(functools.partial(outputs, cones), *data)
        return found, forward(*along), jax.linear_transpose(forward, *data)(weights)

    return derivatives


def direction(data, seed):
    """A direction in which P stays positive semidefinite, of the same rank."""
    rng, (P, *others) = np.random.default_rng(seed), data
    change = rng.normal(size=P.shape)
    return (P @ (change + change.T) @ P / np.sum(P * P), *(rng.normal(size=part.shape) for part in others))


def moved(data, along, t):
    return tuple(part + t * change for part, change in zip(data, along, strict=True))


def differences(fun, data, along, slope):
    """Central differences of fourth order, with a step in which outputs change by about 5e-4."""
    h = 5e-4 / max(1, slope)
    inner, outer = (fun(*moved(data, along, t)) - fun(*moved(data, along, -t)) for t in (h, 2 * h))
    return (8 * inner - outer) / (12 * h)


def check_solution(data, cones, result, exact, atol):
    P, c, A, b = data
    x, y, s = result.x, result.y, result.s
    assert Status(int(result.status)) is Status.CONVERGED and bool(result.success)
    np.testing.assert_allclose(P @ x + A.T @ y + c, 0, atol=atol)
    np.testing.assert_allclose(A @ x + s, b, atol=atol)
    np.testing.assert_allclose(s, cones.project(s), atol=atol)
    np.testing.assert_allclose(y, cones.project_dual(y), atol=atol)
    np.testing.assert_allclose(s @ y, 0, atol=atol)
    np.testing.assert_allclose(result.value, 0.5 * exact[0] @ P @ exact[0] + c @ exact[0], atol=10 * atol)
    np.testing.assert_allclose(result.dual_value, result.value, atol=10 * atol)


def check_derivatives(cones, n, count, rtol):
    derivatives = derivatives_of(cones)
    for seed, (data, (x, y, _)) in enumerate(well_posed_programs(cones, n, count)):
        along = direction(data, seed + 100)
        weights = np.random.default_rng(seed).normal(size=x.size + 2 * y.size + 2)
        _, found, pulled = derivatives(data, along, weights)
        size = np.max(np.abs(found))
        expected = differences(lambda *data: derivatives(data, along, weights)[0], data, along, size)
        np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * size)
        inner = sum(np.sum(part * change) for part, change in zip(pulled, along, strict=True))
        np.testing.assert_allclose(inner, found @ weights, rtol=0, atol=1e-10 * size)


@pytest.mark.slow
def test_all_cones_at_once():
    for data, exact in well_posed_programs(EVERY, 8, 3):
        check_solution(data, EVERY, solver_of(EVERY)(*data), exact, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_cone(kind):
    cones = KINDS[kind]
    iterations = []
    for seed in range(20):
        data, exact = random_program(cones, 4, seed)
        result = solver_of(cones)(*data)
        check_solution(data, cones, result, exact, 1e-9)
        iterations.append(int(result.iter_num))
        np.testing.assert_allclose(result.value, clarabel_value(data, cones), rtol=1e-7, atol=1e-7)
    assert np.median(iterations) <= 16


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_of_each_cone(kind):
    check_derivatives(KINDS[kind], 6, 3, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["soc", "psd", "exp", "power"])
def test_second_derivatives(kind):
    cones = KINDS[kind]
    gradient = jax.grad(lambda data: jnp.sum(outputs(cones, *data) ** 2))
    second = jax.jit(lambda data, along: jax.jvp(gradient, (data,), (along,))[1])
    gradient = jax.jit(gradient)
    for seed, (data, _) in enumerate(well_posed_programs(cones, 6, 2)):
        along = direction(data, seed + 100)
        found = np.concatenate([np.ravel(part) for part in second(data, along)])
        flat = lambda *data: np.concatenate([np.ravel(part) for part in gradient(data)])
        size = np.max(np.abs(found))
        expected = differences(flat, data, along, size / np.max(np.abs(flat(*data))))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7 * size)


@pytest.mark.slow
@pytest.mark.parametrize(("weak", "expected"), [("half", -0.125), ("active", 0.0), ("inactive", -0.25)])
def test_weakly_active_rows(weak, expected):
    """``2 x^2 + t x`` over ``x >= 0`` has the solution ``max(-t / 4, 0)``."""
    cones = Cones(nonneg=1, soc=(3,))
    P, b = jnp.diag(jnp.array([4.0, 1.0])), jnp.array([0.0, 50.0, 0.0, 0.0])
    A = jnp.array([[-1.0, 0.0], [0.0, 0.0], [-1.0, 0.0], [0.0, -1.0]])

    def solution(t):
        return solve_conic(P, jnp.stack([t, jnp.ones_like(t)]), A, b, cones, weak=weak).x[0]

    value, slope = jax.jit(jax.value_and_grad(solution))(0.0)
    np.testing.assert_allclose(value, 0, atol=1e-8)
    np.testing.assert_allclose(slope, expected, atol=1e-7)


# ---- A batch: one compiled program for several laws ------------------------------------------------------------------

BATCH = Cones(zero=1, nonneg=2, soc=(3,))


@functools.cache
def batch_solver():
    def gradient(P, c, A, b):
        def value(c, b):
            result = solve_conic(P, c, A, b, BATCH)
            return jnp.sum(result.x), result

        (grad_c, grad_b), result = jax.grad(value, (0, 1), has_aux=True)(c, b)
        return result, grad_c, grad_b

    return jax.jit(jax.vmap(gradient))


def batch(*programs):
    return tuple(np.stack(parts) for parts in zip(*programs, strict=True))


def impossible(seed):
    """A program whose two non-negative rows contradict each other: ``x_0 <= -1`` and ``x_0 >= 1``."""
    P, c, A, b = (part.copy() for part in random_program(BATCH, 4, seed)[0])
    A[1:3] = [[1, 0, 0, 0], [-1, 0, 0, 0]]
    b[1:3] = [-1, -1]
    return P, c, A, b


def unbounded(seed):
    """A program in which nothing holds the last variable."""
    P, c, A, b = (part.copy() for part in random_program(BATCH, 4, seed)[0])
    P[-1] = P[:, -1] = A[:, -1] = 0
    return P, c, A, b


def test_failed_elements_leave_the_others_alone():
    good, bad = random_program(BATCH, 4, 0)[0], random_program(BATCH, 4, 1)[0]
    nan = tuple(np.full_like(part, np.nan) for part in bad)
    result, grad_c, grad_b = batch_solver()(*batch(good, impossible(2), unbounded(3), nan))
    names = [Status(int(code)).name for code in result.status]
    assert names == ["CONVERGED", "PRIMAL_INFEASIBLE", "DUAL_INFEASIBLE", "NONFINITE"]
    _, (x, y, s) = random_program(BATCH, 4, 0)
    np.testing.assert_allclose(result.x[0], x, atol=1e-11)
    for part in (grad_c, grad_b):
        assert np.all(np.isfinite(part)) and np.any(part[0] != 0) and not np.any(part[1:])
    for part in (result.x, result.y, result.s):
        assert np.all(np.isfinite(part))

    # Farkas: y in the dual cones with A^T y = 0 and b^T y = -1.
    P, c, A, b = impossible(2)
    y = result.certificate.y[1]
    np.testing.assert_allclose(b @ y, -1, rtol=1e-12)
    np.testing.assert_allclose(A.T @ y, 0, atol=1e-7)
    np.testing.assert_allclose(BATCH.project_dual(y), y, atol=1e-12)
    # A ray: P x = 0, -A x in the cones and c^T x = -1.
    P, c, A, b = unbounded(3)
    x = result.certificate.x[2]
    np.testing.assert_allclose(c @ x, -1, rtol=1e-12)
    np.testing.assert_allclose(P @ x, 0, atol=1e-7)
    np.testing.assert_allclose(A @ x + result.certificate.s[2], 0, atol=1e-7)
    assert not np.any(result.certificate.y[0]) and not np.any(result.certificate.x[0])


def unbounded_along_the_boundary(seed):
    """A program whose objective falls along a ray on the boundary of the second-order cone, in other units."""
    (P, c, A, _), rng = random_program(BATCH, 4, seed, 4)[0], np.random.default_rng(seed + 1000)
    x = rng.normal(size=4)
    away = np.eye(4) - np.outer(x, x) / (x @ x)
    s = np.array([0, *rng.uniform(size=2), 1, *rng.normal(size=2)])
    s[3] = np.hypot(*s[4:])
    A = A @ away - np.outer(s, x) / (x @ x)
    c = c - (1 + c @ x) * x / (x @ x)
    d = 2.0 ** rng.integers(-8, 9, 4)
    return away @ P @ away * d * d[:, None], c * d, A * d, A @ rng.normal(size=4) + s


def test_rays_on_the_boundary():
    """Curvature along the iterates vanishes slowly: the slacks have lost digits by then."""
    for seed in range(0, 16, 4):
        result, *_ = batch_solver()(*batch(*map(unbounded_along_the_boundary, range(seed, seed + 4))))
        assert result.status.tolist() == [Status.DUAL_INFEASIBLE] * 4


def test_units():
    """Units of the objective, of a variable, of a row and of a cone change the numbers and nothing else."""
    P, c, A, b = random_program(BATCH, 4, 5)[0]
    d, e = np.array([1.0, 2.0**9, 1, 2.0**-7]), np.array([1, 2.0**-11, 1, 2.0**6, 2.0**6, 2.0**6])
    units = P * d[:, None] * d, c * d, e[:, None] * A * d, b * e
    programs = [(P, c, A, b), (2.0**20 * P, 2.0**20 * c, A, b), units, (P, 2.0**15 * c, A, 2.0**15 * b)]
    result, *_ = batch_solver()(*batch(*programs))
    assert len(set(result.iter_num.tolist())) == 1
    x, y, s = result.x, result.y, result.s
    np.testing.assert_allclose(x[1], x[0], rtol=1e-13)
    np.testing.assert_allclose(y[1], 2.0**20 * y[0], rtol=1e-13, atol=1e-13 * 2.0**20)
    np.testing.assert_allclose(d * x[2], x[0], rtol=1e-10)
    np.testing.assert_allclose(e * y[2], y[0], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(s[2] / e, s[0], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(x[3], 2.0**15 * x[0], rtol=1e-10)


def test_wrong_arguments():
    P, c, A, b = random_program(BATCH, 4, 0)[0]
    with pytest.raises(TypeError, match="cones must be a jaxsolve.Cones"):
        solve_conic(P, c, A, b, {"q": [3]})
    with pytest.raises(ValueError, match="method must be"):
        solve_conic(P, c, A, b, BATCH, method="simplex")
    with pytest.raises(ValueError, match="6 rows of cones"):
        solve_conic(P, c, A[:-1], b[:-1], BATCH)
    with pytest.raises(ValueError, match="zero and nonneg"):
        solve_conic(P, c, A, b, BATCH, method="quadratic")
    with pytest.raises(TypeError, match="cones must be a jaxsolve.Cones"):
        jaxsolve.ConicInteriorPoint({"q": [3]})
