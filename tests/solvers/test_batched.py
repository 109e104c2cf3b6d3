"""``solve_batched``: what ``jax.vmap`` gives, element for element. On several devices: tests/device_programs.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

import jaxsolve

OFFSET = np.array([0.3, -1.0, 2.0])


def objective(x, data, weight):
    return weight * jnp.sum(jnp.logaddexp(x["a"] - data["c"] * OFFSET, -x["a"]) ** 2) + 0.5 * jnp.sum(x["a"] ** 2)


SOLVER = jaxsolve.LBFGS(objective, tol=1e-10)
AXES = (None, {"c": 0}, None)


def problem(size=5):
    data = {"c": np.random.default_rng(0).normal(size=(size, 3))}
    return {"a": jnp.zeros(3)}, data, 2.0


def by_vmap(init, data, weight):
    return jax.vmap(SOLVER.run, in_axes=AXES)(init, data, weight)


@pytest.mark.parametrize("chunk_size", [None, 2, 5, 100])
def test_results_are_those_of_vmap(chunk_size):
    arguments = problem()
    step = jaxsolve.solve_batched(SOLVER, None, *arguments, in_axes=AXES, chunk_size=chunk_size)
    # Outside of `jit` the result of chunks is on the host.
    assert isinstance(step.params["a"], jax.Array if chunk_size is None else np.ndarray)
    wanted = jax.jit(by_vmap)(*arguments)
    np.testing.assert_array_equal(step.state.iter_num, wanted.state.iter_num)
    np.testing.assert_allclose(step.params["a"], wanted.params["a"], rtol=1e-12)


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_derivatives_are_those_of_vmap(chunk_size):
    init, data, weight = problem()

    def loss(solve):
        return lambda data, weight: jnp.sum(jnp.sin(solve(data, weight).params["a"]))

    def batched(data, weight):
        return jaxsolve.solve_batched(SOLVER, None, init, data, weight, in_axes=AXES, chunk_size=chunk_size)

    found = jax.grad(loss(batched), (0, 1))(data, weight)
    wanted = jax.grad(loss(lambda data, weight: by_vmap(init, data, weight)), (0, 1))(data, weight)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8), found, wanted)


def test_a_second_batch_compiles_nothing(compilations):
    init, data, weight = problem(4)
    jaxsolve.solve_batched(SOLVER, None, init, data, weight, in_axes=AXES)
    before = compilations()
    jaxsolve.solve_batched(SOLVER, None, init, {"c": 2.0 * data["c"]}, weight, in_axes=AXES)
    assert compilations() == before


def test_keyword_arguments_are_batched_and_a_bar_counts_problems(capsys):
    solver = jaxsolve.LBFGS(lambda x, target: jnp.sum((x - target) ** 2), tol=1e-8)
    targets = np.arange(6.0).reshape(3, 2)
    step = jaxsolve.solve_batched(solver, None, np.zeros((3, 2)), target=targets, chunk_size=1, verbose=True)
    np.testing.assert_allclose(step.params, targets, atol=1e-6)
    assert "3/3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"solver": None}, TypeError, "solver must be"),
        ({"mesh": "cpu"}, TypeError, "mesh must be"),
        ({"solver": jaxsolve.LBFGS(objective, jit=False)}, ValueError, "jit=False"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be positive"),
        ({"in_axes": (0, 0)}, ValueError, "in_axes must be 0 or a tuple"),
        ({"in_axes": (None, {"d": 0}, None)}, ValueError, "in_axes does not fit"),
        ({"in_axes": (None, 1, None)}, ValueError, "0 or None"),
        ({"in_axes": (None, None, None)}, ValueError, "one leading axis"),
        ({"in_axes": (0, 0, None)}, ValueError, "one leading axis"),
    ],
)
def test_what_makes_no_sense_is_refused(change, error, match):
    solver, mesh = change.pop("solver", SOLVER), change.pop("mesh", Mesh(np.asarray(jax.devices()), ("d",)))
    with pytest.raises(error, match=match):
        jaxsolve.solve_batched(solver, mesh, *problem(), **{"in_axes": AXES, **change})
