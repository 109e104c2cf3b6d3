"""Small leaves are one vector inside a solver: what users see is the pytree, and what a leaf costs is counted."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve._vectors import Layout, layout_of, unpacked
from jaxsolve.base._iterative import IterativeSolver
from jaxsolve.prox import prox_lasso

WEIGHTS = {"a": jnp.array([[1.0, 3.0], [0.5, 2.0]]), "b": jnp.asarray(4.0), "c": jnp.array([2.0, 1.0], jnp.float32)}
START = jax.tree.map(jnp.zeros_like, WEIGHTS)
TARGET = {"a": jnp.array([[0.3, -1.0], [2.0, 0.5]]), "b": jnp.asarray(-0.7), "c": jnp.array([1.5, -0.2], jnp.float32)}


def distance(params, target):
    """A separable quadratic of leaves of two dtypes, whose minimum is the target."""
    assert set(params) == set(WEIGHTS)  # the functions of the user see the pytree
    squares = jax.tree.map(lambda w, x, t: jnp.sum(w * (x - t) ** 2).astype(float), WEIGHTS, params, target)
    return 0.5 * sum(jax.tree.leaves(squares))


def soft(target, by):
    """What the proximity operator of ``by * |x|`` leads to."""
    return jax.tree.map(lambda w, t: jnp.sign(t) * jnp.maximum(jnp.abs(t) - by / w, 0), WEIGHTS, target)


STEP = jaxsolve.MirrorDescent.make_projection_grad(lambda x, hyperparams: x, lambda x: x)
CASES = {
    "lbfgs": (jaxsolve.LBFGS(distance, tol=1e-5), (), TARGET),
    "gradient descent": (jaxsolve.GradientDescent(distance, tol=1e-5), (), TARGET),
    "proximal gradient": (jaxsolve.ProximalGradient(distance, prox_lasso, tol=1e-5), (0.4,), soft(TARGET, 0.4)),
    "projected gradient": (
        jaxsolve.ProjectedGradient(distance, lambda x: jax.tree.map(lambda leaf: jnp.clip(leaf, -0.5, 1), x), tol=1e-5),
        (None,),
        jax.tree.map(lambda t: jnp.clip(t, -0.5, 1), TARGET),
    ),
    "mirror descent": (jaxsolve.MirrorDescent(distance, STEP, stepsize=0.2, tol=1e-5), (None,), TARGET),
}


def assert_like(tree, like, atol):
    assert jax.tree.structure(tree) == jax.tree.structure(like)
    for leaf, want in zip(jax.tree.leaves(tree), jax.tree.leaves(like), strict=True):
        assert leaf.dtype == want.dtype
        np.testing.assert_allclose(leaf, want, atol=atol)


@pytest.mark.parametrize("name", CASES)
def test_the_solution_is_that_of_the_pytree(name, monkeypatch):
    solver, hyperparams, want = CASES[name]
    layouts = []
    monkeypatch.setattr(Layout, "pack", lambda self, tree, pack=Layout.pack: layouts.append(self) or pack(self, tree))
    params, state = jax.jit(lambda target: solver.run(START, *hyperparams, target))(TARGET)
    assert layouts  # or else nothing was packed, and the test is of nothing
    assert jaxsolve.Status.CONVERGED.holds(state.status)
    assert_like(params, want, 1e-4)
    for field in ("grad", "velocity"):
        if getattr(state, field, None) is not None:
            assert jax.tree.map(jnp.shape, getattr(state, field)) == jax.tree.map(jnp.shape, START)


def test_iterations_are_those_of_one_vector(monkeypatch):
    """Only the order of sums differs; a step of a quadratic forgets it."""
    weights, start, target = ({k: v.astype(float) for k, v in tree.items()} for tree in (WEIGHTS, START, TARGET))

    def fun(params):
        squares = jax.tree.map(lambda w, x, t: jnp.sum(w * (x - t) ** 2), weights, params, target)
        return 0.5 * sum(jax.tree.leaves(squares))

    solver = jaxsolve.LBFGS(fun, maxiter=4, tol=0)
    packed = jax.jit(solver.run)(start)
    monkeypatch.setattr(IterativeSolver, "_packs", False)
    plain = jax.jit(lambda start: solver.run(start))(start)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-11), tuple(packed), tuple(plain))


def size(solver, scale):
    params = solver.run(START, jax.tree.map(lambda t: scale.astype(t.dtype) * t, TARGET)).params
    return sum(jnp.sum(leaf.astype(float) ** 2) for leaf in jax.tree.leaves(params))


SQUARE = sum(np.sum(np.asarray(leaf, float) ** 2) for leaf in jax.tree.leaves(TARGET))


def test_derivatives():
    """Both modes, the second order, and a batch."""
    solver = CASES["lbfgs"][0]
    scales = jnp.array([1.0, -2.0])
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(lambda s: size(solver, s))))(scales)
    np.testing.assert_allclose(values, SQUARE * scales**2, rtol=1e-4)
    np.testing.assert_allclose(slopes, 2 * SQUARE * scales, rtol=1e-4)
    np.testing.assert_allclose(jax.jit(jax.hessian(lambda s: size(solver, s)))(jnp.asarray(1.0)), 2 * SQUARE, rtol=1e-4)


@pytest.mark.slow
def test_unrolled_iterations_are_differentiated():
    unrolled = jaxsolve.LBFGS(distance, tol=0, maxiter=16, implicit_diff=False)
    slope = jax.jit(jax.grad(lambda s: size(unrolled, s)))(jnp.asarray(1.5))
    np.testing.assert_allclose(slope, 3 * SQUARE, rtol=1e-4)


def test_a_result_is_resumed_and_shown_as_a_pytree():
    shown = []
    solver = jaxsolve.LBFGS(distance, tol=1e-5, maxiter=3, callback=lambda *step: shown.append(step))
    first = solver.run(START, TARGET)
    jax.effects_barrier()
    assert_like(shown[-1][0], first.params, 0)
    assert_like(shown[-1][1].s_history, first.state.s_history, 0)
    assert first.state.s_history["a"].shape == (10, 2, 2)
    second = solver.run(first, TARGET)
    straight = jaxsolve.LBFGS(distance, tol=1e-5, maxiter=6).run(START, TARGET)
    assert_like(second.params, straight.params, 1e-6)
    stepped = solver.update(first.params, first.state, TARGET)
    assert_like(stepped.params, START | stepped.params, 0)
    with pytest.raises(ValueError, match="its history has shapes"):
        jaxsolve.LBFGS(distance, history_size=5).run(first, TARGET)


def test_a_method_of_ones_own_sees_its_leaves():
    class FirstLeaf(jaxsolve.LBFGS):
        def _direction(self, params, state):
            return {**jax.tree.map(jnp.zeros_like, params), "b": -state.grad["b"] / 4}

    params = FirstLeaf(distance, maxiter=3).run(START, TARGET).params
    assert_like(params, START | {"b": TARGET["b"]}, 1e-6)


def test_messages_are_of_the_pytree():
    with pytest.raises(ValueError, match=r"prox must return the structure.*'a': \*, 'b': \*, 'c': \*"):
        jaxsolve.ProximalGradient(distance, lambda x: x["a"]).run(START, None, TARGET)


# ---- What a leaf costs ----------------------------------------------------------------------------------------------


def network(layers):
    params = [{"w": jnp.ones((4, 4)) / 8, "b": jnp.zeros(4)} for _ in range(layers)]

    def fun(params):
        h = jnp.ones((3, 4))
        for layer in params:
            h = h + jnp.tanh(h @ layer["w"] + layer["b"][None])
        return jnp.mean(h**2)

    return fun, params


def count(jaxpr):
    return sum(1 + sum(map(count, inner_jaxprs(equation))) for equation in jaxpr.eqns)


def inner_jaxprs(equation):
    found = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns"))
    return [x.jaxpr if hasattr(x, "consts") else x for x in found if hasattr(x, "eqns")]


def operations(make, layers):
    """Operations of a run, of one gradient, and of the proximity operator."""
    fun, params = network(layers)
    run = make(fun)
    functions = (lambda p: run(p).params, jax.value_and_grad(fun), lambda p: prox_lasso(p, 0.1))
    return np.array([count(jax.make_jaxpr(f)(params).jaxpr) for f in functions])


METHODS = {
    "lbfgs": (lambda fun: jaxsolve.LBFGS(fun).run, 2, 0),
    "gradient descent": (lambda fun: jaxsolve.GradientDescent(fun).run, 2, 0),
    "proximal gradient": (lambda fun: lambda p: jaxsolve.ProximalGradient(fun, prox_lasso).run(p, 0.1), 4, 2),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_leaf_costs_what_the_objective_pays_for_it(name):
    """A leaf more: the operations of the functions where they are evaluated, and its way into vectors and out."""
    make, gradients, proxes = METHODS[name]
    run, gradient, prox = (operations(make, 8) - operations(make, 4)) / 8  # a layer has two leaves
    assert run <= gradients * gradient + proxes * prox + 30


def distinct_kernels(layers):
    fun, params = network(layers)
    text = jax.jit(lambda p: jaxsolve.GradientDescent(fun).run(p).params).lower(params).compile().as_text()
    bodies = re.findall(r"^%?(?:fused|wrapped)[^\n]*\{\n(.*?)^\}", text, re.DOTALL | re.MULTILINE)
    return len({re.sub(r"%[\w.\-]+|, metadata=\{[^}]*\}", "", body) for body in bodies})


def test_equal_layers_are_compiled_once():
    """XLA compiles equal kernels once; the first and the last layer are special."""
    assert distinct_kernels(12) - distinct_kernels(6) <= 2


def test_what_stays_a_leaf():
    large, integers = jnp.zeros(5000), jnp.zeros(3, jnp.int32)
    assert layout_of({"one": jnp.zeros(3), "large": large, "integers": integers}) is None
    tree = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.asarray(7.0), "large": large, "none": jnp.zeros((0, 2))}
    for reversible in (True, False):
        layout = layout_of(tree, reversible=reversible)
        packed = layout.pack(tree)
        assert [v.shape for v in packed.vectors] == [(7,)] and packed.kept[0].shape == (5000,)
        assert_like(unpacked(packed), tree, 0)
        history = jax.tree.map(lambda x: jnp.stack([x, x + 1]), tree)
        assert_like(jax.vmap(layout.unpack)(layout.pack(history)), history, 0)
        assert_like(unpacked(layout.pack(history)), history, 0)
