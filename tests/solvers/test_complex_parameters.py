"""Real functions of complex parameters: solutions, gradients in the convention of jax, derivatives, mixed pytrees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import Status
from jaxsolve.prox import prox_none

rng = np.random.default_rng(0)


def normal(*shape):
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


A, B = normal(8, 3), normal(8)
START = normal(3)


def least_squares(z, b):
    return jnp.sum(jnp.abs(jnp.asarray(A) @ z - b) ** 2)


def proximal(fun, **options):
    return jaxsolve.ProximalGradient(fun, prox_none, **options)


SOLVERS = {
    "LBFGS": (jaxsolve.LBFGS, ()),
    "LBFGS-jacobi": (lambda fun, **o: jaxsolve.LBFGS(fun, scale="jacobi", **o), ()),
    "BFGS": (jaxsolve.BFGS, ()),
    "NonlinearCG": (jaxsolve.NonlinearCG, ()),
    "NewtonCG": (jaxsolve.NewtonCG, ()),
    "TrustNewton": (jaxsolve.TrustNewton, ()),
    "GradientDescent": (jaxsolve.GradientDescent, ()),
    "ProximalGradient": (proximal, (None,)),
    "NelderMead": (lambda fun, **o: jaxsolve.NelderMead(fun, xtol=1e-8, **o), ()),
}
QUICK = ("ProximalGradient",)
each = pytest.mark.parametrize(
    ("make", "before"),
    [pytest.param(*SOLVERS[name], id=name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in SOLVERS],
)


@each
def test_least_squares_and_its_derivatives(make, before):
    solver = make(least_squares, tol=1e-9, maxiter=2000)
    direction, weights = normal(8), normal(3)

    def solution(b):
        return solver.run(jnp.asarray(START), *before, b).params

    def weighted(b):
        return jnp.sum(jnp.real(weights * solution(b)))

    def all_of_it(b):
        tangent = jax.jvp(solution, (b,), (direction,))[1]
        return solution(b), tangent, jax.grad(weighted)(b)

    params, tangent, gradient = jax.jit(all_of_it)(jnp.asarray(B))
    np.testing.assert_allclose(params, np.linalg.lstsq(A, B, rcond=None)[0], atol=1e-6)
    exact = np.linalg.lstsq(A, direction, rcond=None)[0]
    np.testing.assert_allclose(tangent, exact, atol=1e-6)
    # By the convention of jax the derivative along a direction is the real part of the product without a conjugate.
    np.testing.assert_allclose(np.sum(gradient * direction).real, np.sum(weights * exact).real, atol=1e-6)


@pytest.mark.slow
@each
def test_states_and_steps_by_hand(make, before):
    """States are complex where the parameters are, and come back as they were."""
    solver = make(least_squares, tol=0.0, maxiter=3)
    params, state = solver.run(jnp.asarray(START), *before, B)
    by_hand = jaxsolve.OptStep(jnp.asarray(START), solver.init_state(jnp.asarray(START), *before, B))
    for _ in range(3):
        by_hand = solver.update(*by_hand, *before, B)
    np.testing.assert_allclose(by_hand.params, params, rtol=1e-6)
    for ours, theirs in zip(*map(jax.tree.leaves, (by_hand.state, state)), strict=True):
        assert ours.dtype == theirs.dtype
        if jnp.iscomplexobj(ours):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    begun = make(least_squares, tol=0.0, maxiter=1).run(jnp.asarray(START), *before, B)
    again = make(least_squares, tol=0.0, maxiter=2).run(begun, *before, B)
    np.testing.assert_allclose(again.params, params, rtol=1e-6)
    gradient = jax.grad(least_squares)(params, B)
    if hasattr(state, "grad"):
        np.testing.assert_allclose(state.grad, gradient, rtol=1e-9, atol=1e-12)
    if before == ():
        np.testing.assert_allclose(solver.optimality_fun(params, B), gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_phase_retrieval():
    """A vector from the absolute values of its products with others, up to one phase."""
    frame, hidden = jnp.asarray(normal(24, 3)), jnp.asarray(normal(3))
    measured = jnp.abs(frame @ hidden) ** 2
    fun = lambda z: jnp.mean((jnp.abs(frame @ z) ** 2 - measured) ** 2)
    # The leading eigenvector of the weighted frame is a start that suffices (Candes et al. 2015).
    start = jnp.linalg.eigh((frame.conj().T * measured[None].astype(complex)) @ frame)[1][:, -1]
    for make in (jaxsolve.LBFGS, jaxsolve.BFGS):
        params, state = make(fun, tol=1e-9).run(start)
        assert int(state.status) == Status.CONVERGED
        phase = jnp.vdot(params, hidden)
        np.testing.assert_allclose(params * np.exp(1j * np.angle(phase)), hidden, atol=1e-6)


@pytest.mark.slow
def test_mixed_pytrees_given_gradients_and_auxiliary_output():
    """A fit with a real scale and complex weights; the gradient that the user gives is that of jax."""

    def fun(p, b):
        residual = jnp.exp(p["log"]).astype(complex) * (jnp.asarray(A) @ p["z"]) + p["shift"][0] - b
        return jnp.sum(jnp.abs(residual) ** 2) + p["log"] ** 2, {"residual": residual}

    start = {"z": jnp.asarray(START), "log": jnp.asarray(0.1), "shift": (jnp.asarray(0.3 - 0.2j),)}
    plain = jaxsolve.BFGS(fun, has_aux=True, tol=1e-9)
    given = jaxsolve.BFGS(jax.value_and_grad(fun, has_aux=True), has_aux=True, value_and_grad=True, tol=1e-9)
    params, state = plain.run(start, B)
    np.testing.assert_allclose(given.run(start, B).params["z"], params["z"], atol=1e-8)
    assert params["log"].dtype == jnp.float64 and params["z"].dtype == jnp.complex128
    stacked = np.column_stack([A, np.ones(8)])
    exact = np.linalg.lstsq(stacked, B, rcond=None)[0]
    np.testing.assert_allclose(params["z"], exact[:3], atol=1e-7)
    np.testing.assert_allclose(params["shift"][0], exact[3], atol=1e-7)
    np.testing.assert_allclose(params["log"], 0, atol=1e-7)
    np.testing.assert_allclose(state.aux["residual"], stacked @ exact - B, atol=1e-7)
    batch = jax.jit(jax.vmap(lambda b: plain.run(start, b).params["z"]))(jnp.stack([B, 2j * B]))
    np.testing.assert_allclose(batch[1], 2j * exact[:3], atol=1e-6)


def soft_threshold(z, weight, scaling=1.0):
    """The proximity operator of the sum of absolute values shortens every entry."""
    size = jnp.abs(z)
    return z * jnp.maximum(1 - scaling * weight / jnp.where(size > 0, size, 1), 0).astype(complex)


def test_the_proximity_operator_sees_complex_numbers():
    solver = jaxsolve.ProximalGradient(least_squares, soft_threshold, tol=1e-10, maxiter=2000)
    weight = 6.0
    params, state = solver.run(jnp.asarray(START), weight, B)
    assert int(state.status) == Status.CONVERGED
    # Optimality: the conjugate gradient is minus the weight times the phase where an entry is not 0, and shorter else.
    ascent = np.conj(jax.grad(least_squares)(params, B))
    active = np.abs(params) > 0
    assert 0 < active.sum() < 3
    np.testing.assert_allclose(ascent[active], -weight * np.exp(1j * np.angle(params[active])), atol=1e-7)
    assert np.all(np.abs(ascent[~active]) <= weight)
    step = 1e-5 * normal(8)
    moved = [solver.run(jnp.asarray(START), weight, B + sign * step).params for sign in (1, -1)]
    tangent = jax.jvp(lambda b: solver.run(jnp.asarray(START), weight, b).params, (jnp.asarray(B),), (step,))[1]
    np.testing.assert_allclose(tangent, (moved[0] - moved[1]) / 2, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ZoomLineSearch", "BacktrackingLineSearch", "HagerZhangLineSearch"])
def test_line_searches(name):
    """The default direction is minus the conjugate of the gradient of jax."""
    search = getattr(jaxsolve, name)(least_squares)
    value, grad = jax.value_and_grad(least_squares)(jnp.asarray(START), B)
    for given in ((), (value, grad), (value, grad, -jnp.conj(grad))):
        stepsize, state = search.run(0.01, jnp.asarray(START), *given, fun_args=(B,))
        assert bool(state.done) and float(stepsize) > 0
        np.testing.assert_allclose(state.init_slope, -np.sum(np.abs(grad) ** 2), rtol=1e-12)
        np.testing.assert_allclose(state.params, START - float(stepsize) * np.conj(grad), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.float32
def test_complex64_is_kept():
    fun = lambda z: jnp.sum(jnp.abs(z - jnp.asarray(1 + 2j, jnp.complex64)) ** 2)
    params, state = jaxsolve.LBFGS(fun, tol=1e-4).run(jnp.zeros(2, jnp.complex64))
    assert params.dtype == jnp.complex64 and state.error.dtype == jnp.float32
    np.testing.assert_allclose(params, 1 + 2j, atol=1e-4)


@pytest.mark.slow
def test_callbacks_see_complex_numbers():
    seen = []
    solver = jaxsolve.LBFGS(least_squares, callback=lambda params, state: seen.append((params, state.grad)), maxiter=2)
    params = jax.block_until_ready(solver.run(jnp.asarray(START), B)).params
    jax.effects_barrier()
    np.testing.assert_array_equal(seen[-1][0], params)
    np.testing.assert_allclose(seen[-1][1], jax.grad(least_squares)(params, B), rtol=1e-9)


def test_what_is_not_a_real_function_of_complex_parameters():
    with pytest.raises(TypeError, match="real number"):
        jaxsolve.LBFGS(lambda z: jnp.sum(z**2)).run(jnp.asarray(START))
    with pytest.raises(TypeError, match="complex"):
        jaxsolve.BlockCoordinateDescent(lambda z: jnp.sum(jnp.abs(z) ** 2), prox_none).run(jnp.asarray(START), None)
