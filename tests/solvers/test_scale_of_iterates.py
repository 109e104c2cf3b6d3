"""Units: the objective and the variables times powers of two change every iterate by that factor, bit for bit.

The runs have no tolerance and a few iterations, so what is compared are iterates on their way. That ``rtol`` has no
unit either is tested by the number of iterations until it is reached.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve.objective import least_squares
from jaxsolve.projection import kl_projection_simplex, projection_simplex
from jaxsolve.prox import prox_lasso, prox_none
from tests import registry
from tests.registry import float_dtype

POWERS = np.array([-40, -13, 0, 7, 40])
START = np.array([0.3, -0.2, 0.5, 0.1])
TARGET = np.array([0.5, 0.25, -0.75, 1.0])


def _data(dtype):
    return jnp.asarray(registry.X, dtype), jnp.asarray(registry.Y, dtype)


def _ridge(w, theta, objective, unit):
    return objective * registry.ridge(w / unit, theta)


def _block_descent(theta, objective, unit, **options):
    solver = jaxsolve.BlockCoordinateDescent(_ridge, prox_lasso, **options)
    return solver.run(unit * jnp.asarray(START, theta.dtype), 1.5 * objective / unit, theta, objective, unit)


def _block_descent_composite(theta, objective, unit, selection, **options):
    solver = jaxsolve.BlockCoordinateDescent(least_squares, prox_lasso, selection=selection, **options)
    X, y = _data(theta.dtype)
    # Objectives are sums of squares: the unit of the targets squared.
    return solver.run(
        unit * jnp.asarray(START, theta.dtype), 0.1 * objective**2 / unit, (objective / unit * X, objective * y)
    )


def _primal_dual(theta, objective, unit, **options):
    solver = jaxsolve.PrimalDual(_ridge, prox_none, prox_lasso, lambda x: registry._mapped(x), **options)
    step = solver.run(unit * jnp.asarray(START, theta.dtype), None, 1.5 * objective / unit, theta, objective, unit)
    return jaxsolve.OptStep(step.params.primal, step.state)


def _mirror_descent(theta, objective, unit, **options):
    step = jaxsolve.MirrorDescent.make_projection_grad(kl_projection_simplex, jnp.log)
    start = unit * jnp.full(4, 0.25, theta.dtype)
    scaled = lambda x, grad, stepsize, size: step(x, unit * grad, stepsize, size)
    solver = jaxsolve.MirrorDescent(_ridge, scaled, stepsize=0.01 / objective, **options)
    return solver.run(start, unit, theta, objective, unit)


def _primal_dual_of_a_line(theta, objective, unit, **options):
    """Without curvature: the costs of a linear program, over a box."""
    costs = jnp.asarray(TARGET, theta.dtype) * theta[0]
    solver = jaxsolve.PrimalDual(
        lambda x, objective, unit: objective * jnp.sum(costs * x) / unit,
        lambda x, unit, scaling: jnp.clip(x, -unit, unit),
        prox_lasso,
        jnp.asarray(registry.MAP, theta.dtype),
        **options,
    )
    step = solver.run(unit * jnp.asarray(START, theta.dtype), unit, 0.25 * objective / unit, objective, unit)
    return jaxsolve.OptStep(step.params.primal, step.state)


def _mirror_descent_search(theta, objective, unit, **options):
    step = jaxsolve.MirrorDescent.make_projection_grad(kl_projection_simplex, jnp.log)
    scaled = lambda x, grad, stepsize, size: step(x, unit * grad, stepsize / unit**2, size)
    solver = jaxsolve.MirrorDescent(_ridge, scaled, stepsize=0.0, **options)
    return solver.run(unit * jnp.full(4, 0.25, theta.dtype), unit, theta, objective, unit)


def _projected_gradient(theta, objective, unit, **options):
    solver = jaxsolve.ProjectedGradient(_ridge, projection_simplex, **options)
    return solver.run(unit * jnp.full(4, 0.25, theta.dtype), unit, theta, objective, unit)


def _proximal_gradient_search(theta, objective, unit, **options):
    solver = jaxsolve.ProximalGradient(_ridge, prox_lasso, **options)
    return solver.run(unit * jnp.asarray(START, theta.dtype), 1.5 * objective / unit, theta, objective, unit)


def _proximal_gradient(theta, objective, unit, **options):
    solver = jaxsolve.ProximalGradient(_ridge, prox_lasso, stepsize=0.02 * unit**2 / objective, **options)
    return solver.run(unit * jnp.asarray(START, theta.dtype), 1.5 * objective / unit, theta, objective, unit)


def _fixed_point(theta, objective, unit, **options):
    del objective
    solver = jaxsolve.FixedPointIteration(lambda x, theta, unit: unit * registry.affine(x / unit, theta), **options)
    return solver.run(unit * jnp.asarray(START, theta.dtype), theta, unit)


def _anderson(theta, objective, unit, method, **options):
    del objective
    mapping = lambda x, theta, unit: unit * registry.affine(x / unit, theta)
    solver = jaxsolve.AndersonAcceleration(mapping, method=method, history_size=2, **options)
    return solver.run(unit * jnp.asarray(START, theta.dtype), theta, unit)


def _wrapped(theta, objective, unit, **options):
    solver = jaxsolve.ProximalGradient(_ridge, prox_lasso, stepsize=0.02 * unit**2 / objective, acceleration=False)
    solver = jaxsolve.AndersonWrapper(solver, history_size=2, **options)
    return solver.run(unit * jnp.asarray(START, theta.dtype), 1.5 * objective / unit, theta, objective, unit)


def _bisection(theta, objective, unit, **options):
    solver = jaxsolve.Bisection(
        lambda x, theta, objective, unit: objective * registry.cubic(x / unit, theta),
        lower=jnp.full(4, -4.0, theta.dtype) * unit,
        upper=jnp.full(4, 4.0, theta.dtype) * unit,
        check_bracket=False,
        **options,
    )
    return solver.run(None, theta, objective, unit)


def _root(theta, objective, unit, solver, **options):
    solver = solver(lambda x, theta, objective, unit: objective * registry.cubic(x / unit, theta), **options)
    return solver.run(unit * jnp.asarray(START, theta.dtype), theta, objective, unit)


def _refinement(theta, objective, unit, **options):
    A = jnp.asarray(np.eye(4) - 0.7 * registry.CONTRACTION, theta.dtype)
    rough = lambda matvec, r: r / (2 * objective / unit)
    solver = jaxsolve.IterativeRefinement(solve=rough, **options)
    return solver.run(
        unit * jnp.asarray(START, theta.dtype), objective / unit * A, objective * jnp.asarray(TARGET, theta.dtype)
    )


RUNS = {
    "BlockCoordinateDescent": _block_descent,
    "BlockCoordinateDescent-cyclic": functools.partial(_block_descent_composite, selection="cyclic"),
    "BlockCoordinateDescent-working-set": functools.partial(_block_descent_composite, selection="working_set"),
    "PrimalDual": _primal_dual,
    "PrimalDual-line": _primal_dual_of_a_line,
    "MirrorDescent": _mirror_descent,
    "MirrorDescent-search": _mirror_descent_search,
    "ProjectedGradient": _projected_gradient,
    "ProximalGradient-search": _proximal_gradient_search,
    "ProximalGradient": _proximal_gradient,
    "FixedPointIteration": _fixed_point,
    "AndersonAcceleration-I": functools.partial(_anderson, method="I"),
    "AndersonAcceleration-II": functools.partial(_anderson, method="II"),
    "AndersonWrapper": _wrapped,
    "Bisection": _bisection,
    "Newton": functools.partial(_root, solver=jaxsolve.Newton),
    "Chord": functools.partial(_root, solver=jaxsolve.Chord),
    "Broyden": functools.partial(_root, solver=jaxsolve.Broyden),
    "Broyden-limited": functools.partial(_root, solver=functools.partial(jaxsolve.Broyden, history_size=3)),
    "IterativeRefinement": _refinement,
}
# Logarithms of a unit are rounded; a working set is solved to rounding in its second iteration.
ROUNDED = ("MirrorDescent", "MirrorDescent-search", "BlockCoordinateDescent-working-set")
QUICK = ("BlockCoordinateDescent", "ProximalGradient", "FixedPointIteration", "Bisection")
each = pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RUNS]
)


@functools.cache
def _in_units(name):
    """Runs in many units: parameters and number of iterations."""
    dtype = float_dtype()
    theta = jnp.asarray(registry.THETA, dtype)
    # The objective, then the variables, then both.
    objective = np.concatenate([POWERS, 0 * POWERS, POWERS]).astype(int)
    unit = np.concatenate([0 * POWERS, POWERS, POWERS[::-1] // 2]).astype(int)

    def run(objective, unit, maxiter, rtol):
        params, state = RUNS[name](theta, objective, unit, tol=0.0, rtol=rtol, maxiter=maxiter)
        return params, state.iter_num, state.status

    program = jax.jit(jax.vmap(run, (0, 0, None, None)))

    def at(maxiter, rtol):
        exact = (jnp.asarray(np.ldexp(np.ones(15), v), dtype) for v in (objective, unit))
        params, iterations, status = program(*exact, maxiter, jnp.asarray(rtol, dtype))
        return np.ldexp(np.asarray(params), -unit[:, None]), np.asarray(iterations), np.asarray(status)

    return at


@each
def test_iterates_have_no_unit(name):
    """The fourth iterate."""
    params, iterations, status = _in_units(name)(4, 0.0)
    assert not np.array_equal(params[2], START)
    if name in ROUNDED:
        expected, rtol = np.broadcast_to(params[2], params.shape), 100 * np.finfo(params.dtype).eps
        np.testing.assert_allclose(params, expected, rtol=rtol)
        return
    np.testing.assert_array_equal(params, np.broadcast_to(params[2], params.shape))
    np.testing.assert_array_equal(iterations, iterations[2])
    np.testing.assert_array_equal(status, status[2])


@each
def test_a_relative_tolerance_has_no_unit(name):
    """The run ends after as many iterations in every unit, but for a tenth where sums are rounded otherwise."""
    # The last digits of a logarithm decide how long the later steps of that search are.
    _, iterations, status = _in_units(name)(500, 1e-2 if name == "MirrorDescent-search" else 1e-4)
    assert np.ptp(iterations) <= 0.1 * iterations[2]
    np.testing.assert_array_equal(status, status[2])


@pytest.mark.float32
@pytest.mark.parametrize(
    "name",
    ["ProximalGradient-search", *(pytest.param(n, marks=pytest.mark.slow) for n in ("ProximalGradient", "PrimalDual"))],
)
def test_squares_of_gradients_need_not_be_representable(name):
    """In float32 the square of 1e-23 is 0, and that of 1e20 is infinite."""
    theta = jnp.asarray(registry.THETA, jnp.float32)

    @jax.jit
    def run(objective):
        params, state = RUNS[name](theta, objective, 1.0, tol=0.0, rtol=1e-3, maxiter=300)
        return params, state.iter_num, state.status

    params, iterations, status = jax.lax.map(run, jnp.asarray(np.ldexp(np.ones(4), [0, -80, -100, 75]), jnp.float32))
    assert iterations[0] > 5
    np.testing.assert_array_equal(status, jaxsolve.Status.CONVERGED)
    np.testing.assert_array_equal(iterations, iterations[0])
    np.testing.assert_array_equal(params, np.broadcast_to(params[0], params.shape))


@pytest.mark.parametrize(
    "name",
    [
        "FixedPointIteration",
        "Bisection",
        "ProximalGradient-search",
        pytest.param("ProjectedGradient", marks=pytest.mark.slow),
        pytest.param("PrimalDual", marks=pytest.mark.slow),
    ],
)
def test_derivatives_have_no_unit(name):
    """Of the solution in the data: the unit of the variables is its factor, that of the objective has no part in it."""
    dtype = float_dtype()
    theta = jnp.asarray(registry.THETA, dtype)

    def slope(objective, unit):
        def solution(theta):
            params, _ = RUNS[name](theta, objective, unit, tol=0.0, rtol=1e-4, maxiter=500)
            return jnp.sum(params * jnp.cos(jnp.arange(4).astype(dtype)))

        return jax.grad(solution)(theta) / unit

    powers = np.array([(0, 0), (-40, 0), (40, 0), (0, -40), (0, 40), (-13, 7)])
    units = jnp.asarray(np.ldexp(np.ones(powers.shape), powers), dtype)
    slopes = np.asarray(jax.jit(lambda units: jax.lax.map(lambda pair: slope(*pair), units))(units))
    assert np.all(slopes[0] != 0)
    if name == "PrimalDual":
        # The system has primal and dual unknowns. Where these are 2^80 times those, the solver takes it for singular.
        slopes = np.delete(slopes, 3, axis=0)
        np.testing.assert_allclose(slopes, np.broadcast_to(slopes[0], slopes.shape), rtol=1e4 * np.finfo(dtype).eps)
        return
    np.testing.assert_array_equal(slopes, np.broadcast_to(slopes[0], slopes.shape))
