"""Constructors: signatures one can inspect, options that are checked."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve.projection import projection_simplex

# Field orders and defaults that code in the wild relies on.
PROXIMAL = (
    "value_and_grad=False, has_aux=False, stepsize=0.0, maxiter=500, maxls=15, tol=0.001, acceleration=True, "
    "decrease_factor=0.5, verbose=False, implicit_diff=True, implicit_diff_solve=None, jit=True, unroll='auto'"
)
SIGNATURES = {
    "GradientDescent": f"fun, prox, {PROXIMAL}",
    "ProximalGradient": f"fun, prox, {PROXIMAL}",
    "ProjectedGradient": f"fun, projection, {PROXIMAL}",
    "LBFGS": "fun, value_and_grad=False, has_aux=False, maxiter=500, tol=0.001, stepsize=0.0, linesearch='zoom', "
    "linesearch_init='increase', stop_if_linesearch_fails=False, condition=None, maxls=30, decrease_factor=None, "
    "increase_factor=1.5, max_stepsize=1.0, min_stepsize=1e-06, history_size=10, use_gamma=True, implicit_diff=True, "
    "implicit_diff_solve=None, jit=True, unroll='auto', verbose=False",
    "FixedPointIteration": "fixed_point_fun, maxiter=100, tol=1e-05, has_aux=False, verbose=False, "
    "implicit_diff=True, implicit_diff_solve=None, jit=True, unroll='auto'",
    "Bisection": "optimality_fun, lower, upper, maxiter=30, tol=1e-05, check_bracket=True, verbose=False, "
    "implicit_diff_solve=None, has_aux=False, jit=True, unroll='auto'",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_constructor_signatures(name):
    parameters = [
        p for p in inspect.signature(getattr(jaxsolve, name)).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    shown = [p.name if p.default is p.empty or p.name == "prox" else f"{p.name}={p.default!r}" for p in parameters]
    assert ", ".join(shown) == SIGNATURES[name]


def test_positional_construction():
    solver = jaxsolve.ProjectedGradient(jnp.sum, projection_simplex, False, False, 0.1)
    assert solver.projection is projection_simplex
    assert solver.stepsize == 0.1
    assert jaxsolve.Bisection(jnp.sin, 3.0, 4.0).upper == 4.0
    assert jaxsolve.FixedPointIteration(jnp.cos, 7).maxiter == 7


def test_repr_shows_what_differs_from_the_defaults():
    assert "tol=0.5" in repr(jaxsolve.GradientDescent(jnp.sum, tol=0.5))
    assert "maxiter" not in repr(jaxsolve.GradientDescent(jnp.sum, tol=0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tol": "small"}, "tol must be a number"),
        ({"tol": 1j}, "tol must be a number"),
        ({"maxiter": -1}, "maxiter must be at least 0"),
        ({"implicit_diff": "yes"}, "implicit_diff must be one of True, False"),
        ({"jit": 1}, "jit must be one of"),
        ({"callback": 3}, "callback must be a function"),
        ({"verbose": "very"}, "verbose must be"),
        ({"maxls": 0}, "maxls must be at least 1"),
        ({"decrease_factor": 1.0}, "decrease_factor must be less than 1"),
        ({"acceleration": None}, "acceleration must be one of"),
        ({"unknown": None}, "unknown"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        jaxsolve.GradientDescent(jnp.sum, **options)


def test_other_options_are_refused():
    with pytest.raises(ValueError, match="ProximalGradient"):
        jaxsolve.GradientDescent(jnp.sum, prox=lambda x, h, s: x)
    with pytest.raises(ValueError, match="linesearch must be one of"):
        jaxsolve.LBFGS(jnp.sum, linesearch="newton")
    with pytest.raises(ValueError, match="history_size must be at least 1"):
        jaxsolve.LBFGS(jnp.sum, history_size=0)
    with pytest.raises(ValueError, match="lower must not exceed upper"):
        jaxsolve.Bisection(jnp.sin, np.array([0.0, 2.0]), 1.0)
    with pytest.raises(ValueError, match="finite"):
        jaxsolve.Bisection(jnp.sin, -np.inf, 1.0)
    with pytest.raises(TypeError, match="lower must be a number"):
        jaxsolve.Bisection(jnp.sin, None, 1.0)
