"""A solver kept for long, over a function that reads something from elsewhere which changes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve

D = np.array([1.0, 2.0, 4.0])
INIT = jnp.zeros(3)
THETA = jnp.asarray([1.0, 2.0, 3.0])


def quadratic(x, theta):
    return 0.5 * jnp.sum(D * x**2) - theta @ x


class Variable:
    def __init__(self, value):
        self.value = value


class Model:
    """Parameters in the object and, deeper, in a variable; a solver made once."""

    def __init__(self):
        self.theta, self.scale, self.key = THETA, Variable(jnp.ones(())), jnp.zeros(())
        self.traces = 0
        self.solver = jaxsolve.LBFGS(self.loss, tol=1e-10)

    @property
    def scaled(self):
        return self.scale.value * self.theta

    def loss(self, x):
        self.traces += 1
        return quadratic(x, self.scaled)


box = {"theta": THETA}


def over_a_global(x):
    return quadratic(x, box["theta"])


def in_a_closure():
    cell = [THETA]

    def change(theta):
        cell[0] = theta

    inner = lambda x: quadratic(x, cell[0])
    return (lambda x: inner(x)), change


def in_an_object():
    model = Model()
    return model.loss, functools.partial(setattr, model, "theta")


def in_a_callable_object():
    @dataclasses.dataclass(eq=False)
    class Loss:
        theta: jax.Array

        def __call__(self, x):
            return quadratic(x, self.theta)

    loss = Loss(THETA)
    return loss, functools.partial(setattr, loss, "theta")


def in_a_global():
    return over_a_global, functools.partial(box.__setitem__, "theta")


@pytest.mark.parametrize("make", [in_a_closure, in_an_object, in_a_callable_object, in_a_global])
def test_what_changes_is_seen(make):
    """No stale solution, no gradient of zero, no tracer of an earlier transformation."""
    fun, change = make()
    solver = jaxsolve.LBFGS(fun, tol=1e-10)

    def solution(theta):
        change(theta)
        return solver.run(INIT).params

    for theta in (THETA, 2 * THETA):
        np.testing.assert_allclose(solution(theta), theta / D, atol=1e-8)
        for derivative in (jax.jacrev, jax.jacfwd):
            np.testing.assert_allclose(derivative(solution)(theta), np.diag(1 / D), atol=1e-8)
    np.testing.assert_allclose(jax.jit(solution)(THETA), THETA / D, atol=1e-8)
    np.testing.assert_allclose(jax.vmap(solution)(jnp.stack([THETA, 2 * THETA]))[1], 2 * THETA / D, atol=1e-8)
    np.testing.assert_allclose(solution(THETA), THETA / D, atol=1e-8)


def test_what_stays_is_compiled_once():
    model = Model()
    first = model.solver.run(INIT).params
    model.key = jnp.ones(())  # not mentioned by the loss
    traces = model.traces
    np.testing.assert_array_equal(model.solver.run(INIT).params, first)
    # A method is another Python object at each access, and the same function.
    np.testing.assert_array_equal(jaxsolve.LBFGS(model.loss, tol=1e-10).run(INIT).params, first)
    assert model.traces == traces
    model.scale.value = jnp.asarray(3.0)
    np.testing.assert_allclose(model.solver.run(INIT).params, 3 * first, atol=1e-8)
    assert model.traces > traces


def test_no_tracer_is_left_behind():
    def solution(theta):
        return jnp.sum(jaxsolve.LBFGS(lambda x: quadratic(x, theta), tol=1e-10).run(INIT).params)

    with jax.checking_leaks():
        np.testing.assert_allclose(jax.jit(jax.grad(solution))(THETA), 1 / D, atol=1e-8)
        np.testing.assert_allclose(jax.jit(jax.hessian(solution))(THETA), 0, atol=1e-8)


def test_the_table_of_programs_is_bounded(monkeypatch):
    """A compiled program holds the linear solver of its derivative, and so keeps itself alive."""
    table = jaxsolve.base._compile._ENTRIES
    monkeypatch.setattr(jaxsolve.base._compile, "_MOST_ENTRIES", 3)
    for _ in range(6):
        solve = lambda matvec, b: jaxsolve.linear_solve.solve_lu(matvec, b)
        jaxsolve.FixedPointIteration(lambda x: 0.5 * x, implicit_diff_solve=solve, maxiter=2).run(INIT)
    assert len(table) <= 3
