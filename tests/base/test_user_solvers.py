"""Solvers that users write: in the style of dataclasses, and from what the documentation says."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Optional

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import base
from jaxsolve.base import IterativeSolver, OptStep, Status, option
from jaxsolve.implicit_diff import TangentSystem
from jaxsolve.implicit_diff.optimality import stationary
from jaxsolve.solvers import DescentMethod
from jaxsolve.tree_util import tree_add_scalar_mul, tree_l2_norm, tree_real_dtype, tree_sub, tree_vdot

SCALES = np.array([1.0, 3.0])


def quadratic(x, theta):
    return 0.5 * jnp.sum(jnp.asarray(SCALES, x.dtype) * (x - theta) ** 2)


# ---- A new solver, as the documentation describes -----------------------------------------------------------------


class BarzilaiBorweinState(NamedTuple):
    iter_num: Any
    error: Any
    status: Any
    stepsize: Any
    grad: Any
    value: Any


class BarzilaiBorwein(IterativeSolver):
    """Gradient descent with the step sizes of Barzilai and Borwein (1988, equation 5)."""

    fun: Callable
    first_stepsize: float = option(1e-2, above=0)

    _structure = "psd"
    _resumed_fields = ("iter_num", "stepsize")

    def init_state(self, init_params, *args, **kwargs):
        (value, _), grad = self._objective.value_and_grad(init_params, *args, **kwargs)
        dtype = tree_real_dtype(init_params)
        error = tree_l2_norm(grad).astype(dtype)
        first = jnp.asarray(self.first_stepsize).astype(dtype)
        return BarzilaiBorweinState(jnp.asarray(0), error, self._status_of(error), first, grad, value)

    def update(self, params, state, *args, **kwargs):
        new_params = tree_add_scalar_mul(params, -state.stepsize, state.grad)
        (value, _), grad = self._objective.value_and_grad(new_params, *args, **kwargs)
        moved, change = tree_sub(new_params, params), tree_sub(grad, state.grad)
        curvature, length = tree_vdot(moved, change), tree_vdot(moved, moved)
        usable = curvature > 0
        stepsize = jnp.where(usable, length / jnp.where(usable, curvature, 1), state.stepsize)
        error = tree_l2_norm(grad).astype(state.error.dtype)
        return OptStep(
            new_params,
            BarzilaiBorweinState(state.iter_num + 1, error, self._status_of(error), stepsize, grad, value),
        )

    def optimality_fun(self, params, *args, **kwargs):
        return stationary(self._objective.value_and_grad, value_and_grad=True)(params, *args, **kwargs)

    def _state_of_solution(self, params, *args, **kwargs):
        return {"value": self._objective.value(params, *args, **kwargs)[0]}


def test_a_new_solver_in_every_mode():
    solver = BarzilaiBorwein(quadratic, tol=1e-10)
    solution = jax.jit(lambda t: solver.run(jnp.zeros(2), t).params)
    theta = jnp.asarray([2.0, -1.0])
    np.testing.assert_allclose(solution(theta), theta, atol=1e-9)
    for mode in (jax.jacrev, jax.jacfwd):
        np.testing.assert_allclose(mode(solution)(theta), np.eye(2), atol=1e-9)
    cubed = lambda t: jnp.sum(solution(t) ** 3)
    np.testing.assert_allclose(jax.hessian(cubed)(theta), np.diag(6 * theta), atol=1e-7)
    unrolled = BarzilaiBorwein(quadratic, tol=1e-10, implicit_diff=False, maxiter=30)
    np.testing.assert_allclose(jax.jacrev(lambda t: unrolled.run(jnp.zeros(2), t).params)(theta), np.eye(2), atol=1e-6)
    batch = jax.vmap(solution)(jnp.stack([theta, 2 * theta]))
    np.testing.assert_allclose(batch, [theta, 2 * theta], atol=1e-9)
    value = lambda s: BarzilaiBorwein(lambda x, s: quadratic(x, 1.0) + s, tol=1e-10).run(jnp.zeros(2), s).state.value
    np.testing.assert_allclose(jax.grad(value)(0.5), 1.0)
    with pytest.raises(ValueError, match="first_stepsize must be greater than 0"):
        BarzilaiBorwein(quadratic, first_stepsize=0.0)


def test_a_new_solver_goes_on_and_keeps_its_dtype():
    part = BarzilaiBorwein(quadratic, maxiter=3, tol=0.0)
    step = part.run(part.run(jnp.zeros(2), 1.0), 1.0)
    assert int(step.state.iter_num) == 6
    step = part.run(jnp.zeros(2, jnp.float32), jnp.float32(1.0))
    assert step.params.dtype == step.state.error.dtype == jnp.float32
    leaving = BarzilaiBorwein(lambda x: jnp.sum(x * jnp.sqrt(x) + x), tol=0.0).run(jnp.ones(2))
    assert np.all(np.isfinite(leaving.params))
    assert int(leaving.state.status) == Status.NONFINITE


# ---- Dataclasses --------------------------------------------------------------------------------------------------


class BareState(NamedTuple):
    iter_num: Any
    error: Any


@dataclasses.dataclass(eq=False)
class Descent(base.IterativeSolver):
    """Fields of its own, those of the base declared again, and no status."""

    fun: Callable
    stepsize: float = 0.1
    maxiter: int = 200
    tol: float = 1e-6
    verbose: int = 0
    implicit_diff: bool = True
    implicit_diff_solve: Optional[Callable] = None  # noqa: UP045  # as programs of the time wrote it
    jit: bool = True
    unroll: Any = "auto"

    def init_state(self, init_params, *args, **kwargs):
        return BareState(iter_num=0, error=jnp.inf)

    def update(self, params, state, *args, **kwargs):
        grad = self.grad_fun(params, *args, **kwargs)
        params = jax.tree.map(lambda x, g: x - self.stepsize * g, params, grad)
        return base.OptStep(params=params, state=BareState(state.iter_num + 1, tree_l2_norm(grad)))

    def optimality_fun(self, params, *args, **kwargs):
        return self.grad_fun(params, *args, **kwargs)

    def __post_init__(self):
        super().__post_init__()
        self.grad_fun = jax.grad(self.fun)


@dataclasses.dataclass
class Scaled(Descent):
    """A subclass of it, which does not call the other `__post_init__`, compared field by field."""

    factor: Any = 2.0

    def __post_init__(self):
        self.grad_fun = jax.grad(lambda x, theta: self.factor * self.fun(x, theta))


class Fixed(base.IterativeSolver):
    """The function is no field, and a required field is no function."""

    dim: int

    def __post_init__(self):
        self.fun = lambda x, theta: quadratic(x, theta) / self.dim

    def init_state(self, init_params, *args):
        return BareState(jnp.asarray(0), jnp.asarray(jnp.inf))

    def update(self, params, state, *args):
        grad = self.optimality_fun(params, *args)
        return OptStep(params - 0.5 * grad, BareState(state.iter_num + 1, jnp.linalg.norm(grad)))

    def optimality_fun(self, params, *args):
        return jax.grad(self.fun)(params, *args)


@pytest.mark.parametrize(
    "solver", [Descent(quadratic, 0.2), Scaled(quadratic), Fixed(2)], ids=["positional", "after", "before"]
)
def test_solvers_in_the_style_of_dataclasses(solver):
    solution = lambda theta: solver.run(jnp.zeros(2), theta).params
    np.testing.assert_allclose(solution(2.0), 2.0, rtol=1e-2)
    np.testing.assert_allclose(jax.jacrev(solution)(2.0), 1.0, rtol=1e-9)
    np.testing.assert_allclose(jax.jacfwd(solution)(2.0), 1.0, rtol=1e-9)
    assert solver.run(jnp.zeros(2, jnp.float32), jnp.float32(2.0)).params.dtype == jnp.float32
    first = solver.run(jnp.zeros(2), 2.0)
    assert int(solver.run(first, 2.0).state.iter_num) == int(first.state.iter_num) + 1
    state = solver.init_state(jnp.zeros(2), 2.0)
    step = solver.update(jnp.zeros(2), state, 2.0)
    by_name = (
        solver.update(params=jnp.zeros(2), state=solver.init_state(init_params=jnp.zeros(2)), theta=2.0)
        if (isinstance(solver, Descent))
        else step
    )
    np.testing.assert_array_equal(step.params, by_name.params)


def test_options_declared_again_are_given_by_name():
    assert Descent(quadratic, 0.2, maxiter=7).maxiter == 7
    assert Descent(quadratic).tol == 1e-6
    with pytest.raises(TypeError, match="Descent takes fun, stepsize by position, and got 3 values"):
        Descent(quadratic, 0.2, 7)
    with pytest.raises(ValueError, match="maxiter"):
        Descent(quadratic, maxiter=-1)


def test_a_field_set_after_construction_is_read():
    solver = Scaled(quadratic, maxiter=1, tol=0.0)
    before = solver.run(jnp.zeros(2), 1.0).params
    solver.factor = 4.0
    np.testing.assert_allclose(solver.run(jnp.zeros(2), 1.0).params, 2 * before)


# ---- A direction --------------------------------------------------------------------------------------------------


class SignDescent(DescentMethod):
    def _direction(self, params, state):
        return jax.tree.map(lambda g: -jnp.sign(g), state.grad)


def test_a_direction_of_ones_own():
    for options in ({}, {"linesearch": "backtracking"}, {"stepsize": lambda k: 0.5 / (k.astype(float) + 1)}):
        solver = SignDescent(lambda x, t: jnp.sum(jnp.cosh(x - t)), tol=1e-2, **options)
        step = solver.run(jnp.zeros(1), 1.0)
        assert int(step.state.status) == Status.CONVERGED, options
        np.testing.assert_allclose(step.params, 1.0, atol=1e-2)
        np.testing.assert_allclose(jax.jacobian(lambda t: solver.run(jnp.zeros(1), t).params)(1.0), 1.0)
    part = SignDescent(quadratic, maxiter=3, tol=0.0, stepsize=0.1)
    assert int(part.run(part.run(jnp.zeros(2), 1.0), 1.0).state.iter_num) == 6


# ---- Messages -----------------------------------------------------------------------------------------------------


def test_what_is_wrong_is_named():
    solver = jaxsolve.LBFGS(quadratic)
    with pytest.raises(TypeError, match=r"LBFGS\.update takes the state that its init_state returns, got NoneType"):
        solver.update(jnp.zeros(2), None, 1.0)
    other = jaxsolve.GradientDescent(quadratic).init_state(jnp.zeros(2), 1.0)
    with pytest.raises(TypeError, match="got GradientDescentState, which has no"):
        solver.update(jnp.zeros(2), other, 1.0)
    with pytest.raises(TypeError, match="run needs init_params.*x, theta, are data"):
        solver.run(x=jnp.zeros(2), theta=1.0)


def test_a_tangent_system_that_is_no_dataclass():
    """A solver that finds one has eager gradients, though these are not compiled apart."""

    class State(NamedTuple):
        iter_num: Any
        error: Any
        status: Any

    class Mean(base.Solver):
        fun: Callable

        def optimality_fun(self, params, t):
            return jax.grad(self.fun)(params, t)

        def _solve(self, init_params, t):
            step = OptStep(t * jnp.ones_like(init_params), State(1, 0.0, 1))
            return step, TangentSystem(self._residual)

    def total(t):
        return Mean(lambda x, t: jnp.sum((x - t) ** 2)).run(jnp.zeros(2), t).params.sum()

    assert float(jax.grad(total)(1.5)) == float(jax.jit(jax.grad(total))(1.5)) == 2.0
