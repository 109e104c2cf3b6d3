"""What can be counted: calls of the user's function, compilations, live memory, temporary memory."""

import collections
import gc
import itertools
import sys
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from tests.programs import bodies_of_loops, kernels
from tests.registry import each, get_case


class Counted:
    """A function that counts its calls by Python.

    A counter in the function itself would be something that it reads, and that changes. This one hears an audit event.
    """

    events = collections.Counter()
    numbers = itertools.count()

    def __init__(self, fun):
        self.fun, self.number = fun, next(self.numbers)

    def __call__(self, *args, **kwargs):
        sys.audit("jaxsolve.tests.call", self.number)
        return self.fun(*args, **kwargs)

    @property
    def calls(self):
        return self.events[self.number]


def hear(event, args, events=Counted.events):
    if event == "jaxsolve.tests.call":
        events.update(args)


sys.addaudithook(hear)


@each()
def test_calls_of_the_function(case):
    """By tracing alone: a compiled program does not call it."""
    counted = Counted(case.fun)
    solver = case.make(counted)
    jax.jit(lambda t: case.run(solver, t).params).trace(case.theta)
    assert 1 <= counted.calls <= 2
    counted = Counted(case.fun)
    solver = case.make(counted)
    jax.jit(jax.grad(lambda t: jnp.sum(case.run(solver, t).params))).trace(case.theta)
    assert 1 <= counted.calls <= 3


# Options that stand in no case, each with the name of a case whose problem it solves.
OPTIONS = [
    *[("LBFGS-zoom", jaxsolve.NonlinearCG, {"method": m}) for m in ("fletcher-reeves", "hestenes-stiefel", "dai-yuan")],
    *[("LBFGS-zoom", jaxsolve.BFGS, {"linesearch": search}) for search in ("backtracking", "hager-zhang")],
    *[("LBFGSB-nonnegative", jaxsolve.LBFGSB, {"linesearch": search}) for search in ("backtracking", "hager-zhang")],
    *[("GaussNewton-qr", jaxsolve.LevenbergMarquardt, {"loss": loss}) for loss in ("huber", "cauchy", "arctan")],
    ("GaussNewton-qr", jaxsolve.LevenbergMarquardt, {"bounds": (-1.0, 1.0), "geodesic": True}),
    ("GaussNewton-qr", jaxsolve.LevenbergMarquardt, {"solver": "cholesky", "stop_criterion": "madsen-nielsen"}),
    ("GaussNewton-qr", jaxsolve.GaussNewton, {"materialize_jac": False, "loss": "soft_l1"}),
    ("GaussNewton-qr", jaxsolve.Dogleg, {"materialize_jac": False}),
    ("Newton-cubic", jaxsolve.Newton, {"bounds": (-4.0, 4.0)}),
    ("Newton-cubic", jaxsolve.Newton, {"linesearch": None}),
    ("Newton-cubic", jaxsolve.Broyden, {"linesearch": None, "history_size": 3}),
    ("AndersonAcceleration-II", jaxsolve.AndersonAcceleration, {"mixing_frequency": 2, "beta": 0.9}),
    *[
        ("ArmijoSGD-ridge", jaxsolve.ArmijoSGD, {"reset_option": r, "momentum": 0.5})
        for r in ("conservative", "goldstein")
    ],
    ("PolyakSGD-consistent", jaxsolve.PolyakSGD, {"variant": "SPS+", "momentum": 0.5}),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "solver", "options"), OPTIONS, ids=lambda x: x.__name__ if isinstance(x, type) else str(x)
)
def test_calls_of_the_function_with_other_options(name, solver, options):
    case = get_case(name)
    counted = Counted(case.fun)
    made = solver(counted, **{"maxiter": 100, **options})
    jax.jit(lambda t: case.run(made, t).params).trace(case.theta)
    assert 1 <= counted.calls <= 2


# One table of compiled functions serves every solver.
THREE = ("GradientDescent-ridge", "LBFGS-zoom", "Bisection-cubic")


@each(THREE, where=lambda case: case.passes_on and case.iterates)
def test_second_run_and_equal_solvers_compile_nothing(case, compilations):
    counted = Counted(case.fun)
    solver = case.make(counted)
    first = case.run(solver, case.theta)
    calls, compiled = counted.calls, compilations()
    assert compiled > 0
    again = case.run(solver, case.theta)
    equal = case.run(case.make(counted), case.theta)
    np.testing.assert_array_equal(first.params, again.params)
    np.testing.assert_array_equal(first.params, equal.params)
    assert compilations() == compiled
    assert counted.calls == calls
    # Other values of traced options compile nothing either, once they are traced.
    tols = [jnp.asarray(tol, case.theta.dtype) for tol in (1e-2, 1e-3)]
    case.run(case.make(counted, tol=tols[0]), case.theta)
    compiled = compilations()
    case.run(case.make(counted, tol=tols[1]), case.theta)
    assert compilations() == compiled


def test_an_eager_gradient_runs_the_program_of_a_plain_run(compilations):
    def distance(x, t):
        return jnp.sum((x - t) ** 2)

    solver, point = jaxsolve.LBFGS(distance), jnp.ones(2)
    jaxsolve.GradientDescent(distance, maxiter=1).run(point, 0.0)  # what every run compiles once

    def total(t):
        return solver.run(point, t).params.sum()

    def captured(t):
        return jaxsolve.LBFGS(lambda x: distance(x, t)).run(point).params.sum()

    for fun in (total, captured):
        np.testing.assert_allclose(jax.grad(fun)(2.0), 2.0, rtol=1e-6)
        count = compilations()
        np.testing.assert_allclose(jax.grad(fun)(3.0), 2.0, rtol=1e-6)
        if fun is total:
            solver.run(point, 3.0)
        assert compilations() == count
        np.testing.assert_allclose(jax.jvp(jax.grad(fun), (3.0,), (1.0,))[1], 0.0, atol=1e-6)


def test_an_eager_gradient_of_a_quadratic_program_compiles_its_derivative_alone(compilations):
    solver, Q, bounds = jaxsolve.InteriorPointQP(), jnp.eye(2), (jnp.zeros(2), jnp.ones(2))
    q = jnp.asarray([-0.5, 3.0])

    def total(q, scale=1.0):
        return solver.run(None, (scale * Q, q), Q, bounds).params.primal[0].sum()

    total(q)
    count = compilations()
    np.testing.assert_allclose(jax.grad(total)(q), [-1.0, 0.0], atol=1e-6)
    # That of the derivative, forward and back, and single operations of this test.
    assert compilations() - count <= 6
    count = compilations()
    jax.grad(total)(q + 0.1)
    assert compilations() - count <= 1  # the sum in this line
    # What the data of the gradient capture may be traced: then the whole run is part of the outer program.
    np.testing.assert_allclose(jax.jit(jax.grad(lambda s: total(q, s)))(2.0), -0.125, atol=1e-6)
    np.testing.assert_allclose(jax.hessian(total)(q), jnp.zeros((2, 2)), atol=1e-6)


def test_programs_of_small_arrays_are_compiled_without_optimization():
    from jaxsolve._compat import operations, quick_compiler_options

    def jaxpr(function, *args):
        return jax.make_jaxpr(function)(*args).jaxpr

    def turns(x):
        return jax.lax.scan(lambda x, _: (jnp.sin(x), x.sum()), x, length=100)

    def branches(x):
        return jax.lax.cond(x.sum() > 0, lambda x: jnp.outer(x, x).sum(), lambda x: x.sum(), x)

    assert operations(jaxpr(turns, jnp.ones(7)))[1] == 700
    assert operations(jaxpr(branches, jnp.ones(7)))[1] == 49
    assert operations(jaxpr(lambda x: x, jnp.ones(7))) == (0, 0)
    assert operations(jaxpr(lambda x: jax.lax.optimization_barrier(x)[0], jnp.ones(7)))[1] == 1
    assert operations(jaxpr(lambda x: jnp.sin(jnp.sin(x)), jnp.ones(7))) == (2, 7)
    solver = jaxsolve.GradientDescent(lambda x: jnp.sum(jnp.cos(x)))
    option = "xla_backend_optimization_level"
    assert option not in quick_compiler_options(jaxpr(solver.run, jnp.ones(10_000)))
    assert quick_compiler_options(jaxpr(solver.run, jnp.ones(10))).get(option, 0) == 0


def test_equal_options_in_partials_are_recognised(compilations):
    import functools

    from jaxsolve.linear_solve import solve_cg

    def fun(x, theta):
        return jnp.sum((x - theta) ** 2)

    def gradient():
        solver = jaxsolve.GradientDescent(fun, implicit_diff_solve=functools.partial(solve_cg, tol=1e-6))
        return solver.run(jnp.zeros(2), 1.0)

    gradient()
    compiled = compilations()
    gradient()
    assert compilations() == compiled


def test_one_and_true_and_one_point_zero_are_different_options():
    def fun(x, theta):
        return jnp.sum((x - theta) ** 2)

    plain = jaxsolve.LBFGS(fun, maxiter=1, tol=0.0, verbose=False)
    assert int(plain.run(jnp.ones(2), 3.0).state.iter_num) == 1
    assert int(jaxsolve.LBFGS(fun, maxiter=True + 1, tol=0.0).run(jnp.ones(2), 3.0).state.iter_num) <= 2


def test_solvers_over_fresh_lambdas_are_freed():
    """10,000 solvers over fresh lambdas, 20 of them run: nothing stays."""
    x0 = jnp.zeros(2)
    alive = weakref.WeakSet()

    def one(i, run):
        fun = lambda x, theta: 0.5 * x + theta + 0.0 * i
        solver = jaxsolve.FixedPointIteration(fun, maxiter=2)
        if run:
            if i % 2500 == 0:
                jax.grad(lambda theta: jnp.sum(solver.run(x0, theta).params))(1.0)
            else:
                solver.run(x0, 1.0)
        alive.add(fun)

    # The tables of traces and programs are full after a few.
    for i in range(20):
        one(i, True)
    gc.collect()
    arrays = len(jax.live_arrays())
    objects = len(gc.get_objects())
    for i in range(10_000):
        one(i, i % 500 == 0)
    gc.collect()
    assert len(alive) == 0
    assert len(jax.live_arrays()) <= arrays + 2
    assert len(gc.get_objects()) <= objects + 5_000  # less than one for each solver


def _temporary_memory(function, *args):
    return jax.jit(function).lower(*args).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("name", ["GradientDescent-ridge", "ProjectedGradient-simplex"])
def test_memory_of_the_implicit_gradient_does_not_depend_on_maxiter(name):
    case = get_case(name)

    def memory(maxiter):
        solver = case.make(maxiter=maxiter)
        return _temporary_memory(jax.grad(lambda t: jnp.sum(case.run(solver, t).params)), case.theta)

    assert memory(100) == memory(10_000)


def test_memory_of_checkpointed_unrolling_grows_like_the_square_root():
    case = get_case("GradientDescent-ridge")

    def wide(w, theta):  # large parameters, so that the iterates are what counts
        return 0.5 * jnp.sum((w - theta[1]) ** 2 * (1 + theta[0])) + jnp.sum(jnp.cos(w))

    def memory(maxiter, unroll):
        solver = jaxsolve.GradientDescent(wide, maxiter=maxiter, implicit_diff=False, unroll=unroll)
        init = jnp.zeros(2000)
        return _temporary_memory(jax.grad(lambda t: jnp.sum(solver.run(init, t).params)), case.theta)

    plain = [memory(k, True) for k in (100, 1600)]
    checkpointed = [memory(k, "checkpoint") for k in (100, 400, 1600)]
    # Sixteen times the iterations: sixteen times the memory for a plain scan, four times for a checkpointed one.
    assert plain[1] / plain[0] > 12
    assert checkpointed[2] / checkpointed[0] < 5
    assert checkpointed[1] / checkpointed[0] < 2.5


@each(THREE, where=lambda case: case.iterates)
def test_no_callback_in_the_program_unless_asked_for(case):
    text = jax.jit(lambda t: case.run(case.make(), t).params).lower(case.theta).as_text()
    assert "callback" not in text
    verbose = case.make(verbose=True)
    assert "callback" in jax.jit(lambda t: case.run(verbose, t).params).lower(case.theta).as_text()


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "most"), [(jaxsolve.OSQP(), 310), (jaxsolve.InteriorPointQP(), 350)])
def test_kernels_of_a_quadratic_program(solver, most):
    """Compile time follows the number of kernels: a change that adds many has to say why."""
    Q, c, A, b = jnp.eye(10), jnp.ones(10), jnp.ones((20, 10)), jnp.ones(20)
    constraints = (None, (A, b)) if isinstance(solver, jaxsolve.OSQP) else (A, (-b, b))
    program = jax.jit(lambda *data: solver.run(None, data[:2], *data[2:]).params).lower(Q, c, *constraints).compile()
    assert sum(program.as_text().count(f" {kind}(") for kind in ("fusion", "custom-call")) <= most


def test_kernels_of_an_iteration_of_lbfgs():
    """On CPU every kernel is compiled by itself, 8 ms each, and started by itself."""
    X, y = jnp.ones((50, 10)), jnp.ones(50)
    fun = lambda w: jnp.mean(jnp.logaddexp(0.0, -y * (X @ w))) + 0.5e-3 * jnp.sum(w**2)
    solver = jaxsolve.LBFGS(fun, tol=1e-8)
    program = jax.jit(lambda w: solver.run(w).params).lower(jnp.zeros(10)).compile().as_text()
    trial, iteration = sorted(kernels(body) for body in bodies_of_loops(program))
    assert trial <= 24
    assert iteration <= 36


def _tridiagonal(x):
    padded = jnp.pad(x, 1)
    return (3 - 2 * x) * x - padded[:-2] - 2 * padded[2:] + 1


def _curve(x):
    return jnp.concatenate([jnp.tanh(jnp.ones((50, 10)) @ x) - 0.3, 0.1 * x])


@pytest.mark.parametrize(
    ("solver", "fun", "most"),
    [
        (jaxsolve.Newton, _tridiagonal, 35),
        pytest.param(jaxsolve.Chord, _tridiagonal, 24, marks=pytest.mark.slow),
        pytest.param(jaxsolve.Broyden, _tridiagonal, 36, marks=pytest.mark.slow),
        pytest.param(jaxsolve.LevenbergMarquardt, _curve, 44, marks=pytest.mark.slow),
        pytest.param(jaxsolve.GaussNewton, _curve, 37, marks=pytest.mark.slow),
        pytest.param(jaxsolve.Dogleg, _curve, 62, marks=pytest.mark.slow),
    ],
)
def test_kernels_of_an_iteration_of_a_newton_like_method(solver, fun, most):
    program = jax.jit(lambda x: solver(fun).run(x).params).lower(jnp.zeros(10)).compile().as_text()
    assert max(kernels(body) for body in bodies_of_loops(program)) <= most


def test_kernels_of_an_iteration_of_a_fixed_point():
    """XLA runs at most 8 kernels one after the other; more it hands to its threads, which takes longer than they do."""
    matrix = 0.5 * jnp.eye(10)[::-1]
    solver = jaxsolve.FixedPointIteration(lambda x: jnp.tanh(matrix @ x) + 0.1)
    program = jax.jit(lambda x: solver.run(x).params).lower(jnp.zeros(10)).compile().as_text()
    iteration, check = (kernels(body) for body in bodies_of_loops(program))
    assert iteration <= 8
    assert check <= 7  # the loop around it, which goes on if the mapping moves the result after all
