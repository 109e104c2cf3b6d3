"""run_iterator, on a small stochastic gradient method."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import OptStep, Status, StochasticSolver
from jaxsolve.tree_util import tree_add_scalar_mul, tree_l2_norm


class State(NamedTuple):
    iter_num: Any
    error: Any
    value: Any
    status: Any


class SGD(StochasticSolver):
    """Gradient descent with step 0.5 / sqrt(k)."""

    fun: Any

    _structure = "psd"

    def init_state(self, init_params, *args, **kwargs):
        zero = jnp.zeros((), jnp.int32)
        return State(zero, jnp.asarray(jnp.inf), jnp.asarray(jnp.inf), zero)

    def update(self, params, state, *args, **kwargs):
        (value, _), grad = self._objective.value_and_grad(params, *args, **kwargs)
        step = 0.5 / jnp.sqrt(1.0 + state.iter_num.astype(float))
        error = tree_l2_norm(grad)
        return OptStep(
            tree_add_scalar_mul(params, -step, grad), State(state.iter_num + 1, error, value, self._status_of(error))
        )

    def optimality_fun(self, params, *args, **kwargs):
        return self._objective.grad(params, *args, **kwargs)


def loss(w, scale, data):
    X, y = data
    return 0.5 * jnp.mean((X @ w - scale * y) ** 2)


@pytest.fixture
def batches():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    y = X @ np.array([1.0, -2.0, 0.5])
    return [(X[i : i + 10], y[i : i + 10]) for i in range(0, 40, 10)]


def test_run_iterator_reaches_the_solution_and_compiles_once(batches, monkeypatch):
    traced, hoist = [], jaxsolve._compile.hoist
    monkeypatch.setattr(jaxsolve._compile, "hoist", lambda *args: (traced.append(1), hoist(*args))[1])
    solver = SGD(loss, maxiter=400, tol=0.0)
    params, state = solver.run_iterator(jnp.zeros(3), itertools.cycle(batches), 2.0)
    np.testing.assert_allclose(params, [2.0, -4.0, 1.0], atol=1e-3)
    assert int(state.iter_num) == 400
    assert len(traced) == 2  # the first step, and all others
    assert int(state.status) == Status.MAXITER


def test_run_iterator_stops_where_it_converges_and_where_data_end(batches):
    assert (
        int(SGD(loss, maxiter=1000, tol=1e-3).run_iterator(jnp.zeros(3), itertools.cycle(batches), 1.0).state.iter_num)
        < 1000
    )
    for maxiter, number, status in ((1000, 4, Status.RUNNING), (4, 4, Status.MAXITER), (2, 2, Status.MAXITER)):
        state = SGD(loss, maxiter=maxiter, tol=0.0).run_iterator(jnp.zeros(3), batches, 1.0).state
        assert (int(state.iter_num), int(state.status)) == (number, status)


def test_run_iterator_is_differentiable_by_unrolling(batches):
    solver = SGD(loss, maxiter=3, tol=0.0)
    solution = lambda scale: solver.run_iterator(jnp.zeros(3), batches, scale).params
    # From zero the iterates are linear in the scale.
    np.testing.assert_allclose(jax.jacfwd(solution)(2.0), solution(1.0), rtol=1e-10)
    np.testing.assert_allclose(jax.jacrev(solution)(2.0), solution(1.0), rtol=1e-10)


def test_run_differentiates_implicitly(batches):
    X, y = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    solver = SGD(loss, maxiter=5000, tol=1e-9)
    got = jax.jacrev(lambda scale: solver.run(jnp.zeros(3), scale, (X, y)).params)(2.0)
    np.testing.assert_allclose(got, [1.0, -2.0, 0.5], atol=1e-6)


def test_misuse(batches):
    with pytest.raises(ValueError, match="no batch"):
        SGD(loss).run_iterator(jnp.zeros(3), [], 1.0)
    with pytest.raises(TypeError, match="data"):
        SGD(loss).run_iterator(jnp.zeros(3), batches, 1.0, data=None)
