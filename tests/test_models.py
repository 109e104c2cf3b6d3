"""Solvers in programs of other libraries: modules of Flax, Haiku and Equinox, ``odeint``, custom gradients."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve

X = jnp.asarray([0.3, -0.2, 0.5])
START = jnp.zeros(3)


def fixed_point(fun):
    return jaxsolve.FixedPointIteration(fun, tol=1e-12, maxiter=200)


def slopes(fun, params, step=1e-5):
    """Central differences of a function of a pytree of arrays."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    at = jax.jit(lambda flat: fun(unravel(flat)))
    return unravel(jnp.stack([(at(flat + step * e) - at(flat - step * e)) / (2 * step) for e in jnp.eye(flat.size)]))


def assert_gradient(fun, params):
    gradient = jax.grad(fun)(params)
    assert max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(gradient)) > 1e-3
    jax.tree.map(lambda g, s: np.testing.assert_allclose(g, s, rtol=1e-6, atol=1e-8), gradient, slopes(fun, params))


@pytest.fixture
def programs(monkeypatch):
    """The names of the programs that are compiled."""
    module, names = sys.modules["jaxsolve._compile"], []
    program = module._Program

    def counted(*args):
        names.append(args[1].__name__)
        return program(*args)

    monkeypatch.setattr(module, "_Program", counted)
    return names


# ---- Flax NNX -----------------------------------------------------------------------------------------------------


@pytest.fixture
def nnx():
    return pytest.importorskip("flax.nnx")


def linear(nnx, size=3):
    return nnx.Linear(3, size, rngs=nnx.Rngs(0), param_dtype=jnp.float64)


def equilibrium(nnx):
    """A module that ends in a fixed point; the solver is made where it runs."""

    class Equilibrium(nnx.Module):
        def __init__(self):
            self.linear = linear(nnx)

        def step(self, z, x):
            return jnp.tanh(0.3 * self.linear(z) + x)

        def __call__(self, x):
            return fixed_point(self.step).run(x, x).params

    return Equilibrium()


def test_variables_that_are_updated_in_place_are_seen(nnx):
    model = linear(nnx)
    fun = lambda w: jnp.sum((w - model(X)) ** 2)
    kept = jaxsolve.LBFGS(fun, tol=1e-9)
    for _ in range(2):
        for solver in (kept, jaxsolve.LBFGS(fun, tol=1e-9)):
            np.testing.assert_allclose(solver.run(START).params, model(X), rtol=1e-8)
        model.kernel[...] = 3.0 * model.kernel[...]


def test_nnx_training_through_a_fixed_point(nnx):
    """Every step: the gradient is the slope of the loss at the values of the moment, and the loss falls."""
    optax = pytest.importorskip("optax")
    model, target = equilibrium(nnx), jnp.asarray([0.1, 0.2, 0.3])
    loss = lambda model: jnp.sum((model(X) - target) ** 2)
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    losses = [float(loss(model))]
    for _ in range(3):
        definition, state = nnx.split(model)
        assert_gradient(lambda params: loss(nnx.merge(definition, params)), nnx.to_pure_dict(state))
        gradient = nnx.grad(loss)(model)
        plain = jax.grad(lambda params: loss(nnx.merge(definition, params)))(state)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), gradient, plain)
        optimizer.update(model, gradient)
        losses.append(float(loss(model)))
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
    np.testing.assert_allclose(nnx.jit(loss)(model), losses[-1], rtol=1e-9)


@pytest.mark.parametrize("layer", ["BatchNorm", "Dropout"])
def test_layers_of_nnx_that_count_inside_a_solver(nnx, layer):
    """Flax refuses to change its variables there, and changes nothing. In evaluation mode they do not change."""
    rngs = nnx.Rngs(0)
    module, kind = {
        "BatchNorm": (nnx.BatchNorm(3, rngs=rngs), nnx.BatchStat),
        "Dropout": (nnx.Dropout(0.5, rngs=rngs), nnx.RngCount),
    }[layer]
    numbers = lambda: list(map(np.asarray, jax.tree.leaves(nnx.state(module, kind))))
    x = jnp.asarray(np.arange(6.0).reshape(2, 3), jnp.float32)
    before, solver = numbers(), jaxsolve.FixedPointIteration(lambda z: 0.5 * module(z) + x, tol=1e-5)
    assert before
    with pytest.raises(Exception, match="Cannot mutate (BatchStat|RngCount) from a different trace level") as caught:
        solver.run(x)
    assert any("put it into evaluation mode" in note for note in caught.value.__notes__)
    jax.tree.map(np.testing.assert_array_equal, before, numbers())
    module.eval()
    found = solver.run(x).params
    np.testing.assert_allclose(found, 0.5 * module(found) + x, rtol=1e-5)


def test_statistics_of_nnx_as_auxiliary_output(nnx):
    """What to do in training mode: a copy of the layer inside the function, and its statistics in the state."""
    norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    definition, params, statistics = nnx.split(norm, nnx.Param, nnx.BatchStat)
    x = jnp.asarray(np.arange(6.0).reshape(2, 3), jnp.float32)

    def step(z):
        norm = nnx.merge(definition, params, statistics, copy=True)
        return 0.1 * norm(z) + x, nnx.state(norm, nnx.BatchStat)

    solution, state = jaxsolve.FixedPointIteration(step, has_aux=True, tol=1e-5).run(x)
    nnx.update(norm, state.aux)
    np.testing.assert_allclose(norm.mean[...], 0.01 * solution.mean(axis=0), rtol=1e-4)


# ---- Solvers that a module keeps ----------------------------------------------------------------------------------


def kept_by(base, make):
    """A module whose solver is an attribute of it and has a method of it."""

    class Kept(base):
        w: jax.Array
        solver: object

        def __init__(self):
            self.w = make()
            self.solver = fixed_point(self.step)

        def step(self, z, x):
            return jnp.tanh(self.w[...] * z + x)

        def __call__(self, x):
            return self.solver.run(x, x).params

    return Kept


@pytest.mark.parametrize("library", ["nnx", "equinox"])
def test_a_solver_that_a_module_keeps_warns_inside_transformations(library):
    if library == "nnx":
        nnx = pytest.importorskip("flax.nnx")
        cls, grad = kept_by(nnx.Module, lambda: nnx.Param(jnp.asarray(0.3))), nnx.grad
    else:
        eqx = pytest.importorskip("equinox")
        cls, grad = kept_by(eqx.Module, lambda: jnp.asarray(0.3)), eqx.filter_grad
    module = cls()
    value = float(module(1.0))  # no copy, no warning
    assert value == pytest.approx(float(jnp.tanh(0.3 * value + 1.0)))
    with pytest.warns(UserWarning, match="Make the solver in the method that runs it") as caught:
        assert float(jax.tree.leaves(grad(lambda m: m(1.0))(module))[0]) == 0.0
    assert [warning.filename for warning in caught] == [__file__]

    class Repaired(cls):
        def __call__(self, x):
            return fixed_point(self.step).run(x, x).params

    slope = (1 - value**2) * value / (1 - 0.3 * (1 - value**2))
    found = jax.tree.leaves(grad(lambda m: m(1.0))(Repaired()))[0]
    np.testing.assert_allclose(found, slope, rtol=1e-8)


def test_a_solver_in_the_setup_of_a_linen_module_is_made_anew_each_time():
    linen = pytest.importorskip("flax.linen")

    class Equilibrium(linen.Module):
        def setup(self):
            self.dense = linen.Dense(3, param_dtype=jnp.float64)
            self.solver = fixed_point(self.step)

        def step(self, z, x):
            return jnp.tanh(0.3 * self.dense(z) + x)

        def __call__(self, x):
            self.dense(x)
            return self.solver.run(x, x).params

    variables = Equilibrium().init(jax.random.key(0), X)
    assert_gradient(lambda v: jnp.sum(Equilibrium().apply(v, X) ** 2), variables)


# ---- Flax linen ---------------------------------------------------------------------------------------------------


def linen_equilibrium(linen, first):
    class Equilibrium(linen.Module):
        @linen.compact
        def __call__(self, x):
            dense = linen.Dense(3, param_dtype=jnp.float64)
            if first:
                dense(x)
            return fixed_point(lambda z: jnp.tanh(0.3 * dense(z) + x)).run(x).params

    return Equilibrium()


def test_a_linen_module_that_is_first_called_inside_the_solver_is_refused():
    linen = pytest.importorskip("flax.linen")
    with pytest.raises(ValueError, match="Call the module once before the solver runs"):
        linen_equilibrium(linen, first=False).init(jax.random.key(0), X)


def test_a_linen_module_that_is_called_first_outside():
    linen = pytest.importorskip("flax.linen")
    model = linen_equilibrium(linen, first=True)
    variables = model.init(jax.random.key(0), X)
    assert_gradient(lambda v: jnp.sum(model.apply(v, X) ** 2), variables)


# ---- Haiku --------------------------------------------------------------------------------------------------------


def test_parameters_of_haiku_are_those_of_the_call():
    haiku = pytest.importorskip("haiku")

    def step(z, x):
        return jnp.tanh(0.1 * z @ haiku.get_parameter("W", (3, 3), z.dtype, init=jnp.ones) + x)

    def net(x):
        step(x, x)  # makes the parameter
        return fixed_point(step).run(jnp.zeros_like(x), x).params

    model = haiku.without_apply_rng(haiku.transform(net))
    params = model.init(jax.random.key(0), X)
    for scale in (1.0, -1.0, 1.0):
        scaled = jax.tree.map(lambda leaf: scale * leaf, params)
        found = model.apply(scaled, X)
        np.testing.assert_allclose(found, jnp.tanh(0.1 * found @ (scale * jnp.ones((3, 3))) + X), rtol=1e-9)
    assert_gradient(lambda params: jnp.sum(model.apply(params, X) ** 2), params)


# ---- Equinox ------------------------------------------------------------------------------------------------------


@pytest.fixture
def eqx():
    return pytest.importorskip("equinox")


def test_bound_methods_of_equinox_compile_once(eqx, programs):
    class Shift(eqx.Module):
        v: jax.Array

        def step(self, z):
            return 0.1 * z + self.v

    for scale in (1.0, 1.0, 2.0):
        module = Shift(jnp.full(3, scale))
        for _ in range(2):
            np.testing.assert_allclose(fixed_point(module.step).run(START).params, scale / 0.9, rtol=1e-9)
    assert programs == ["FixedPointIteration_run"]
    assert_gradient(lambda v: jnp.sum(fixed_point(Shift(v).step).run(START).params ** 2), X)


def test_a_network_of_equinox_as_parameters(eqx, programs):
    """Its arrays are fitted, its activation is kept, and the solution is differentiable with respect to the data."""
    model = eqx.nn.MLP(2, "scalar", 2, 1, activation=jnp.tanh, key=jax.random.key(0), dtype=jnp.float64)
    x = jnp.asarray([[0.1, 0.4], [-0.3, 0.2], [0.5, -0.6]])

    def loss(model, y):
        size = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array)))
        return jnp.sum((jax.vmap(model)(x) - y) ** 2) + 0.1 * size

    solver = jaxsolve.LBFGS(loss, tol=1e-12)
    y = jnp.asarray([1.0, -1.0, 0.5])
    fitted, state = solver.run(model, y)
    assert bool(state.error <= 1e-10) and fitted.activation is model.activation
    solver.run(fitted, y)
    assert programs == ["LBFGS_run"]
    # From the solution: another starting point may lead to another one.
    assert_gradient(lambda y: jax.vmap(solver.run(fitted, y).params)(x).sum(), y)


# ---- Functions without a forward mode -----------------------------------------------------------------------------


@jax.custom_vjp
def rounded(x):
    """Rounding to eighths whose gradient is that of the identity."""
    return jnp.round(8 * x) / 8


rounded.defvjp(lambda x: (rounded(x), None), lambda _, g: (g,))


def straight_through_fixed_point(a):
    """At 0 <= z the slope of the map is ``0.5 a (1 - tanh^2)``."""
    return fixed_point(lambda z, a: 0.5 * rounded(jnp.tanh(a * z + 0.1))).run(jnp.asarray(0.0), a).params


def straight_through_projection(c):
    project = lambda w, bound: rounded(jnp.minimum(w, bound))
    solver = jaxsolve.ProjectedGradient(lambda w, c: jnp.sum((w - c) ** 2), project, tol=1e-10)
    return jnp.sum(solver.run(START, 1.0, c).params)


def flow(z, a):
    from jax.experimental.ode import odeint

    t = jnp.linspace(0.0, 1.0, 3)
    return odeint(lambda z, t, a: -a * z + jnp.sin(t), z, t, a, rtol=1e-11, atol=1e-11)


def orbit(a):
    """A point to which the flow returns."""
    return fixed_point(lambda z, a: flow(z, a)[-1]).run(jnp.asarray(0.5), a).params


def fitted_rate(observed):
    """The rate of decay of a trajectory, from two observations of it."""
    fun = lambda a, observed: jnp.sum((flow(jnp.asarray(1.0), a)[1:] - observed) ** 2)
    return jaxsolve.GradientDescent(fun, tol=1e-9, maxiter=2000).run(jnp.asarray(0.5), observed).params


def test_straight_through_gradients():
    a = 0.3
    z = float(straight_through_fixed_point(a))
    slope = 0.5 * (1 - np.tanh(a * z + 0.1) ** 2)
    found = jax.grad(straight_through_fixed_point)(a)
    np.testing.assert_allclose(found, slope * z / (1 - slope * a), rtol=1e-8)
    assert float(found) > 1e-3
    np.testing.assert_allclose(jax.grad(straight_through_projection)(0.375), 3.0, rtol=1e-8)


@pytest.mark.parametrize("solution", [orbit, pytest.param(fitted_rate, marks=pytest.mark.slow)])
def test_differential_equations_in_reverse_mode(solution):
    at = {orbit: jnp.asarray(0.7), fitted_rate: jnp.asarray([0.85, 0.9])}[solution]
    found, expected = jax.grad(solution)(at), slopes(solution, at, 1e-4)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("solution", [straight_through_fixed_point, straight_through_projection, orbit])
def test_forward_mode_says_why_it_is_missing(solution):
    with pytest.raises(TypeError, match="forward.* custom_vjp function|custom_vjp .*forward mode"):
        jax.jacfwd(solution)(0.375)


def test_projections_and_proximity_operators_take_the_arrays_of_a_module():
    """Activations and the like are held: a projection of this package is not asked for theirs."""
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(2, "scalar", 2, 1, activation=jnp.tanh, key=jax.random.key(0), dtype=jnp.float64)

    def fun(model):
        return (model(jnp.ones(2)) - 1.0) ** 2

    ball, lasso = jaxsolve.projection.projection_l2_ball, jaxsolve.prox.prox_lasso
    projected = jaxsolve.ProjectedGradient(fun, ball, maxiter=3).run(model, 0.5).params
    sparse = jaxsolve.ProximalGradient(fun, lasso, maxiter=3).run(model, 0.1).params
    assert projected.activation is sparse.activation is model.activation
    leaves = jax.tree.leaves(eqx.filter(projected, eqx.is_inexact_array))
    assert sum(jnp.sum(leaf**2) for leaf in leaves) <= 0.25 * (1 + 1e-6)
    assert fun(sparse) < fun(model)
