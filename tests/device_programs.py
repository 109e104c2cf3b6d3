"""Programs on eight devices, run in a process of their own by test_devices.py.

The number of devices is set before jax starts. The process prints, as JSON, the traceback of every check that fails.
"""

import functools
import json
import traceback

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxsolve
from jaxsolve.isotonic import isotonic_l2_pav
from jaxsolve.projection import projection_l2_ball
from jaxsolve.prox import prox_lasso, prox_none
from tests import conftest

SOLVERS = {
    "lbfgs": lambda fun: jaxsolve.LBFGS(fun, tol=1e-10),
    "gradient": lambda fun: jaxsolve.GradientDescent(fun, tol=1e-10, maxiter=2000),
    "fixed_point": lambda fun: jaxsolve.FixedPointIteration(
        lambda w, *args: w - 0.1 * jax.grad(fun)(w, *args), tol=1e-10, maxiter=2000
    ),
}
# Every gradient and proximal method, and what comes between the initial point and the data.
OF_ROWS = {
    **{
        name: lambda fun, name=name: (getattr(jaxsolve, name)(fun, tol=1e-8, maxiter=2000), ())
        for name in ("GradientDescent", "LBFGS", "BFGS", "NonlinearCG", "NewtonCG")
    },
    "LBFGSB": lambda fun: (jaxsolve.LBFGSB(fun, tol=1e-8), ((-jnp.ones(3), jnp.ones(3)),)),
    "ProximalGradient": lambda fun: (jaxsolve.ProximalGradient(fun, prox_lasso, tol=1e-8, maxiter=2000), (0.01,)),
    "ProjectedGradient": lambda fun: (
        jaxsolve.ProjectedGradient(fun, projection_l2_ball, tol=1e-8, maxiter=2000),
        (0.1,),
    ),
    "PrimalDual": lambda fun: (
        jaxsolve.PrimalDual(fun, prox_none, prox_lasso, jnp.eye(3), tol=1e-8, maxiter=5000),
        (None, 0.01),
    ),
}
close = functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-8)


def coupled(w, c):
    return 0.5 * jnp.sum((w - c) ** 2) + 0.5 * jnp.sum(w) ** 2


def ridge(w, X, y):
    return 0.5 * jnp.sum((X @ w - y) ** 2) / 16 + 0.5 * jnp.sum(w**2)


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(16, 3)), rng.normal(size=16)


def ridge_solution(X, y):
    """The solution, and the gradient of its sum with respect to ``y``."""
    inverse = np.linalg.inv(X.T @ X / 16 + np.eye(3))
    return inverse @ X.T @ y / 16, X @ inverse @ np.ones(3) / 16


def parameters_on_an_explicit_mesh(make):
    """Parameters that are spread over the devices: so are the solution and the gradient."""
    mesh = jax.make_mesh((8,), ("d",))
    solver, target = make(coupled), np.arange(1.0, 17.0)
    with jax.set_mesh(mesh):
        start, c, weights = (
            jax.device_put(x, NamedSharding(mesh, P("d"))) for x in (np.zeros(16), target, np.linspace(0.0, 1.0, 16))
        )
        params = solver.run(start, c).params
        gradient = jax.jit(jax.grad(lambda c: jnp.sum(weights * solver.run(start, c).params)))(c)
        for found in (params, gradient):
            assert jax.typeof(found).sharding.spec == P("d"), jax.typeof(found)
        close(params, target - target.sum() / 17)
        close(gradient, np.linspace(0.0, 1.0, 16) - 8.0 / 17)


def rows_on_a_mesh(make, kind):
    """Data whose rows are spread over the devices; every device has all parameters."""
    mesh = jax.make_mesh((8,), ("d",), axis_types=(kind,))
    fun = ridge if kind is AxisType.Auto else explicit_ridge
    solver, (X, y) = make(fun), data()
    with jax.set_mesh(mesh):
        rows = jax.device_put(X, NamedSharding(mesh, P("d", None))), jax.device_put(y, NamedSharding(mesh, P("d")))
        params = solver.run(jnp.zeros(3), *rows).params
        gradient = jax.jit(jax.grad(lambda y: jnp.sum(solver.run(jnp.zeros(3), rows[0], y).params)))(rows[1])
    close(params, ridge_solution(X, y)[0])
    close(gradient, ridge_solution(X, y)[1])


def explicit_ridge(w, X, y):
    return ridge(w, X, y)


def one_iteration_one_sum(make):
    """Rows spread over the devices: iterations and results are those of one device, and devices do nothing but sum."""
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    solver, before = make(ridge)
    X, y = data()
    rows = jax.device_put(X, NamedSharding(mesh, P("d", None))), jax.device_put(y, NamedSharding(mesh, P("d")))
    alone, step = solver.run(jnp.zeros(3), *before, X, y), jax.jit(solver.run)(jnp.zeros(3), *before, *rows)
    assert int(step.state.iter_num) == int(alone.state.iter_num)
    jax.tree.map(close, step.params, alone.params)
    close(step.state.error, alone.state.error)
    program = jax.jit(solver.run).lower(jnp.zeros(3), *before, *rows).compile().as_text()
    assert "all-reduce" in program
    for other in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert other not in program, other


def a_problem_on_each_device(make, check_vma):
    """Eight problems inside ``shard_map``; they need not take equally many iterations."""
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    solver = make(coupled)

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=P("d"), out_specs=P("d"), check_vma=check_vma)
    def solve(c):
        # jax.grad sums over the devices at parameters that they share.
        start = 0.0 * c[0] if isinstance(solver, jaxsolve.FixedPointIteration) else jnp.zeros(2)
        return solver.run(start, c[0]).params[None]

    c = np.arange(16.0).reshape(8, 2)
    close(jax.jit(solve)(c), c - c.sum(axis=1, keepdims=True) / 3)
    weights = np.linspace(0.0, 1.0, 16).reshape(8, 2)
    gradient = jax.jit(jax.grad(lambda c: jnp.sum(weights * solve(c))))(c)
    close(gradient, weights - weights.sum(axis=1, keepdims=True) / 3)


def a_sum_over_devices(make):
    """One problem inside ``shard_map``: each device has rows of the data, and the objective sums over the devices.

    Only with ``check_vma=True``: without it jax does not sum the gradient of such a function over the devices.
    """
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))

    def fun(w, X, y):
        return jax.lax.psum(0.5 * jnp.sum((X @ w - y) ** 2) / 16, "d") + 0.5 * jnp.sum(w**2)

    solver, (X, y) = make(fun), data()
    specs = (P("d", None), P("d"))

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=True)
    def solve(X, y):
        return solver.run(jnp.zeros(3), X, y).params

    close(jax.jit(solve)(X, y), ridge_solution(X, y)[0])
    close(jax.jit(jax.grad(lambda y: jnp.sum(solve(X, y))))(y), ridge_solution(X, y)[1])
    close(jax.jvp(lambda y: solve(X, y), (y,), (y,))[1], ridge_solution(X, y)[0])


def a_batch(make, kind):
    """A batch that does not divide evenly: each device stops when its own part has converged."""
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(kind, kind))
    # Contraction maps of different rates take different numbers of iterations.
    solver = jaxsolve.FixedPointIteration(lambda x, rate, c: rate * x + c, tol=1e-10, maxiter=2000)
    rates, weights = np.linspace(0.1, 0.9, 13), np.cos(np.arange(13.0))

    def loss(rates, c):
        step = jaxsolve.solve_batched(solver, mesh, np.zeros(13), rates, c, in_axes=(0, 0, None))
        return jnp.sum(weights * step.params), step.state.iter_num

    (value, iterations), gradient = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(jnp.asarray(rates), 2.0)
    close(value, np.sum(weights * 2 / (1 - rates)))
    close(gradient[0], weights * 2 / (1 - rates) ** 2)
    close(gradient[1], np.sum(weights / (1 - rates)))
    alone = jax.vmap(solver.run, in_axes=(0, 0, None))(jnp.zeros(13), rates, 2.0).state.iter_num
    np.testing.assert_array_equal(iterations, alone)
    program = jax.jit(lambda rates: loss(rates, 2.0)[0]).lower(jnp.zeros(16)[:13]).compile().as_text()
    loops = [body for body in program.split("\n\n") if "while" in body.partition("\n")[0] or "body" in body[:80]]
    assert loops and not any("all-reduce" in body or "all-gather" in body for body in loops)


def regressions_of_rows(how):
    """A batch of isotonic regressions, whose rows lie on the devices.

    On an explicit mesh jax does not batch gathers from what the batch has in common: there the axes are made automatic.
    """
    kind = AxisType.Explicit if how == "auto_axes" else AxisType.Auto
    mesh = jax.make_mesh((8,), ("d",), axis_types=(kind,))
    rng = np.random.default_rng(0)
    y, weights = rng.normal(size=(2, 8, 20))
    alone = jax.vmap(isotonic_l2_pav)
    with jax.set_mesh(mesh):
        place = NamedSharding(mesh, P("d", None))
        if how == "auto_axes":
            together = jax.sharding.auto_axes(alone, out_sharding=P("d", None))
        else:
            together = jax.shard_map(alone, mesh=mesh, in_specs=P("d", None), out_specs=P("d", None))
        rows, w = jax.device_put(y, place), jax.device_put(weights, place)
        found = jax.jit(together)(rows)
        gradient = jax.jit(jax.grad(lambda rows: jnp.sum(w * together(rows))))(rows)
    close(found, alone(jnp.asarray(y)))
    close(gradient, jax.grad(lambda rows: jnp.sum(weights * alone(rows)))(jnp.asarray(y)))


MAKERS = {a_batch: {"": None}, one_iteration_one_sum: OF_ROWS}
CHECKS = {
    "one_iteration_one_sum": (one_iteration_one_sum, {}),
    "parameters_on_an_explicit_mesh": (parameters_on_an_explicit_mesh, {}),
    "rows_on_an_automatic_mesh": (rows_on_a_mesh, {"kind": AxisType.Auto}),
    "rows_on_an_explicit_mesh": (rows_on_a_mesh, {"kind": AxisType.Explicit}),
    "a_problem_on_each_device": (a_problem_on_each_device, {"check_vma": False}),
    "a_problem_on_each_device_checked": (a_problem_on_each_device, {"check_vma": True}),
    "a_sum_over_devices": (a_sum_over_devices, {}),
    "a_batch_on_an_automatic_mesh": (a_batch, {"kind": AxisType.Auto}),
    "a_batch_on_an_explicit_mesh": (a_batch, {"kind": AxisType.Explicit}),
}


def main():
    assert conftest.X64 and jax.device_count() == 8
    failures = {}
    for check, (function, options) in CHECKS.items():
        for name, make in MAKERS.get(function, SOLVERS).items():
            try:
                function(make, **options)
            except Exception:
                failures[f"{name}-{check}"] = traceback.format_exc()
    for how in ("auto_axes", "shard_map"):
        try:
            regressions_of_rows(how)
        except Exception:
            failures[f"isotonic-{how}"] = traceback.format_exc()
    print(json.dumps(failures))


if __name__ == "__main__":
    main()
