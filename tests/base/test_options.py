"""Constructors: signatures one can inspect, options that are checked."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve.base import option
from jaxsolve.projection import projection_simplex

# Names and defaults that code in the wild relies on; the functions of the user are positional.
PROXIMAL = (
    "value_and_grad=False, has_aux=False, stepsize=0.0, maxiter=500, maxls=15, tol=0.001, acceleration=True, "
    "decrease_factor=0.5, verbose=False, implicit_diff=True, implicit_diff_solve=None, jit=True, unroll='auto'"
)
SIGNATURES = {
    "GradientDescent": f"fun, prox, *, {PROXIMAL}",
    "ProximalGradient": f"fun, prox, *, {PROXIMAL}",
    "ProjectedGradient": f"fun, projection, *, {PROXIMAL}",
    "LBFGS": "fun, *, value_and_grad=False, has_aux=False, maxiter=500, tol=0.001, stepsize=0.0, linesearch='zoom', "
    "linesearch_init='increase', stop_if_linesearch_fails=False, condition=None, maxls=30, decrease_factor=None, "
    "increase_factor=1.5, max_stepsize=1.0, min_stepsize=1e-06, history_size=10, use_gamma=True, implicit_diff=True, "
    "implicit_diff_solve=None, jit=True, unroll='auto', verbose=False",
    "FixedPointIteration": "fixed_point_fun, *, maxiter=100, tol=1e-05, has_aux=False, verbose=False, "
    "implicit_diff=True, implicit_diff_solve=None, jit=True, unroll='auto'",
    "Bisection": "optimality_fun, lower, upper, *, maxiter=30, tol=1e-05, check_bracket=True, verbose=False, "
    "implicit_diff_solve=None, has_aux=False, jit=True, unroll='auto'",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_constructor_signatures(name):
    parameters = inspect.signature(getattr(jaxsolve, name)).parameters.values()
    shown = [p.name if p.default is p.empty or p.name == "prox" else f"{p.name}={p.default!r}" for p in parameters]
    functions, options = (part.split(", ") for part in SIGNATURES[name].split(", *, "))
    assert shown[: len(functions)] == functions
    assert set(options) <= set(shown[len(functions) :])
    assert {p.kind for p in list(parameters)[len(functions) :]} == {inspect.Parameter.KEYWORD_ONLY}


def test_functions_are_positional_and_options_are_not():
    assert jaxsolve.ProjectedGradient(jnp.sum, projection_simplex).projection is projection_simplex
    for solver, taken in ((jaxsolve.FixedPointIteration, "fixed_point_fun"), (jaxsolve.LBFGS, "fun")):
        with pytest.raises(
            TypeError, match=f"takes {taken} by position, and got 2 values; .* by name: .*maxiter="
        ) as e:
            solver(jnp.cos, 7)
        assert solver.__name__ in str(e.value)


def test_a_misspelt_option_names_the_class_and_the_nearest_option():
    with pytest.raises(TypeError, match="LBFGS has no option 'max_iter'; did you mean 'maxiter'"):
        jaxsolve.LBFGS(jnp.sum, max_iter=3)
    with pytest.raises(TypeError, match="ZoomLineSearch has no option 'max_iters'; did you mean 'maxiter'"):
        jaxsolve.ZoomLineSearch(jnp.sum, max_iters=3)


def test_only_what_a_user_calls_is_public():
    methods = {"run", "init_state", "update", "optimality_fun", "l2_optimality_error"}
    solver = jaxsolve.LBFGS(jnp.sum)
    public = {name for name in dir(solver) if not name.startswith("_")}
    assert public == methods | {field.name for field in dataclasses.fields(solver)}


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
        ({"maxls": 2.5}, "maxls must be a whole number, got 2.5"),
        ({"maxiter": np.float64(2.5)}, "maxiter must be a whole number"),
        ({"maxiter": jnp.asarray(2.5)}, "maxiter must be a whole number"),
        ({"maxiter": np.inf}, "maxiter must be a whole number"),
        ({"maxiter": True}, "maxiter must be a number"),
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
    with pytest.raises(ValueError, match="history_size must be at least 0"):
        jaxsolve.LBFGS(jnp.sum, history_size=-1)
    with pytest.raises(ValueError, match="history_size must be a whole number"):
        jaxsolve.LBFGS(jnp.sum, history_size=2.5)
    with pytest.raises(TypeError, match="history_size must be a number known at compile time"):
        jax.jit(lambda size: jaxsolve.LBFGS(jnp.sum, history_size=size).history_size)(5)
    with pytest.raises(ValueError, match="lower must not exceed upper"):
        jaxsolve.Bisection(jnp.sin, np.array([0.0, 2.0]), 1.0)
    with pytest.raises(ValueError, match="finite"):
        jaxsolve.Bisection(jnp.sin, lower=-np.inf, upper=1.0)
    with pytest.raises(TypeError, match="lower must be a number"):
        jaxsolve.Bisection(jnp.sin, lower=None, upper=1.0)


@pytest.mark.parametrize("five", [5, 5.0, np.int64(5), np.float32(5.0), np.asarray(5), jnp.asarray(5)])
def test_numbers_of_every_kind_count(five):
    """A number whose value is known is one at compile time, too."""
    fun = lambda x: jnp.sum((x - 1.0) ** 2)
    solver = jaxsolve.LBFGS(fun, history_size=five, maxls=five)
    assert (type(solver.history_size), type(solver.maxls)) == (int, int)
    np.testing.assert_allclose(solver.run(jnp.zeros(3)).params, 1.0, rtol=1e-3)
    unrolled = jaxsolve.GradientDescent(fun, maxiter=five, implicit_diff=False, tol=0.0, stepsize=0.1)
    assert int(unrolled.run(jnp.zeros(3)).state.iter_num) == 5


def test_flags_and_tolerances_of_numpy():
    solver = jaxsolve.GradientDescent(
        jnp.sum, verbose=np.bool_(True), jit=np.True_, implicit_diff=np.False_, tol=np.float32(0.5), unroll=np.True_
    )
    assert (solver.verbose, solver.jit, solver.implicit_diff, solver.unroll, solver.tol) == (
        True,
        True,
        False,
        True,
        0.5,
    )
    assert {type(solver.jit), type(solver.verbose), type(solver.unroll)} == {bool}


class DecoratedState(NamedTuple):
    iter_num: Any
    error: Any
    status: Any


def make_plain_solver():
    class Plain(jaxsolve.base.IterativeSolver):
        fun: Callable
        maxiter: int = 400
        tol: float = 1e-6
        stepsize: float = 0.1  # positional, as in a plain dataclass

        _structure = "psd"

        def init_state(self, init_params, *args, **kwargs):
            return DecoratedState(jnp.asarray(0), jnp.asarray(jnp.inf), jnp.asarray(0, jnp.int32))

        def update(self, params, state, *args, **kwargs):
            params = params - self.stepsize * self._objective.grad(params, *args, **kwargs)
            error = self.l2_optimality_error(params, *args, **kwargs)
            return jaxsolve.OptStep(params, DecoratedState(state.iter_num + 1, error, self._status_of(error)))

        def optimality_fun(self, params, *args, **kwargs):
            return self._objective.grad(params, *args, **kwargs)

    return Plain


@pytest.mark.parametrize(
    "decorate", [lambda cls: cls, dataclasses.dataclass(eq=False), dataclasses.dataclass], ids=["no", "eq=False", "yes"]
)
def test_the_decorator_of_dataclasses_changes_nothing(decorate):
    cls = decorate(make_plain_solver())
    fun = lambda x, theta: jnp.sum((x - theta) ** 2)
    solver = cls(fun, 0.2, maxiter=300)
    assert (solver.maxiter, solver.tol, solver.stepsize) == (300, 1e-6, 0.2)
    np.testing.assert_allclose(solver.run(jnp.zeros(2), 3.0).params, 3.0, atol=1e-5)
    np.testing.assert_allclose(jax.jacobian(lambda t: solver.run(jnp.zeros(2), t).params)(3.0), 1.0, rtol=1e-6)
    with pytest.raises(ValueError, match="tol must be at least 0"):
        cls(fun, tol=-1.0)
    with pytest.raises(TypeError, match="fun"):
        cls(maxiter=3)
    assert "maxiter=300" in repr(solver)
    assert solver != cls(fun, 0.2, maxiter=300) or decorate is dataclasses.dataclass

    class Child(cls):
        momentum: float = 0.0

    assert Child(fun, 0.3, 0.5).momentum == 0.5


class Limited(jaxsolve.GradientDescent):
    shift: float = option(0.5, above=0, below=1)
    reduction: str = option("mean", among=("mean", "sum"))
    bound: float | None = option(None, at_least=0)
    quick: bool = option(False)
    decrease_factor: float = option(0.25)


def test_limits_of_options_are_inherited():
    Limited(jnp.sum, shift=jnp.asarray(0.2), reduction="sum", bound=None, quick=True, decrease_factor=0.9)
    for option_and_value, message in (
        ({"shift": 1.0}, "shift must be less than 1"),
        ({"reduction": "max"}, "reduction must be one of 'mean', 'sum'"),
        ({"bound": -1.0}, "bound must be at least 0"),
        ({"quick": 1}, "quick must be one of True, False"),
        ({"decrease_factor": 1.0}, "decrease_factor must be less than 1"),
        ({"acceleration": None}, "acceleration must be one of True, False"),
        ({"tol": -1.0}, "tol must be at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Limited(jnp.sum, **option_and_value)
    with pytest.raises(TypeError, match="shift must be a number"):
        Limited(jnp.sum, shift=None)
