"""What stands in the compiled program: evaluations, loops, derivatives, batches, dtypes, forms of the objective."""

import gc
import inspect
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve.linesearch import (
    LINESEARCHES,
    BacktrackingLineSearch,
    HagerZhangLineSearch,
    LineSearchState,
    ZoomLineSearch,
    make_linesearch,
)

SEARCHES = [ZoomLineSearch, BacktrackingLineSearch, HagerZhangLineSearch]
# What they have from their base.
QUICK_SEARCHES = [ZoomLineSearch, *(pytest.param(cls, marks=pytest.mark.slow) for cls in SEARCHES[1:])]


def rosenbrock(x):
    return jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def counted(fun):
    def wrapped(*args, **kwargs):
        wrapped.calls += 1
        return fun(*args, **kwargs)

    wrapped.calls = 0
    return wrapped


# ---- Evaluations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", SEARCHES)
@pytest.mark.parametrize("unroll", [False, True, "checkpoint"])
def test_fun_is_called_once_by_python(cls, unroll):
    x = jnp.array([-1.2, 1.0, 0.5])
    value, grad = jax.value_and_grad(rosenbrock)(x)
    fun = counted(rosenbrock)
    jax.jit(lambda x, v, g: cls(fun, unroll=unroll).run(1.0, x, v, g)).lower(x, value, grad)
    assert fun.calls == 1
    # So it is if the search has to evaluate the initial point itself.
    fun = counted(rosenbrock)
    jax.jit(lambda x: cls(fun, unroll=unroll).run(1.0, x)).lower(x)
    assert fun.calls == 1


@pytest.mark.parametrize("cls", SEARCHES)
def test_the_objective_stands_in_the_program_once(cls):
    # A function that can be found in the program.
    fun = lambda x: jnp.sum(jnp.arctan2(x, 2.0) ** 2)
    x = jnp.ones(3)
    value, grad = jax.value_and_grad(fun)(x)
    program = jax.jit(lambda x, v, g: cls(fun).run(1.0, x, v, g)).lower(x, value, grad).as_text()
    assert program.count("stablehlo.atan2") == 1
    assert program.count("stablehlo.while") == 1
    assert "callback" not in program


@pytest.mark.parametrize("cls", SEARCHES)
def test_evaluations_are_counted(cls):
    calls = []

    def fun(x):
        calls.append(1)
        return np.sum((x - 1.0) ** 4), 4 * (np.asarray(x) - 1.0) ** 3

    search = cls(fun, value_and_grad=True, jit=False, max_stepsize=None)
    t, state = search.run(1e-3, jnp.zeros(2))
    assert len(calls) == int(state.num_fun_eval) == int(state.num_grad_eval) == int(state.iter_num) + 1
    del calls[:]
    t, state = search.run(1e-3, jnp.zeros(2), *fun(np.zeros(2)))
    assert len(calls) - 1 == int(state.num_fun_eval) == int(state.iter_num)


@pytest.mark.parametrize("cls", QUICK_SEARCHES)
def test_second_eager_run_compiles_nothing(cls, compilations):
    search = cls(rosenbrock)
    starts = [jnp.array([-1.2, 1.0]) + k for k in range(3)]
    search.run(1.0, starts[0], fun_kwargs={})
    compiled = compilations()
    for start in starts[1:]:
        search.run(1.0, start, fun_kwargs={})
    assert compilations() == compiled
    search.run(1.0, jnp.zeros(3))
    assert compilations() > compiled
    reference = weakref.ref(search)
    del search
    gc.collect()
    assert reference() is None


def lbfgs_evaluations(search, fun, x, memory=10):
    """Evaluations of a plain L-BFGS around the search until the gradient is 1e-8."""
    step = jax.jit(lambda t, x, v, g, d: search.run(t, x, v, g, d))
    value, grad = jax.jit(jax.value_and_grad(fun))(x)
    pairs, evaluations = [], 1
    while np.linalg.norm(grad) > 1e-8 and evaluations < 2000:
        q, weights = np.array(grad), []
        for s, y in reversed(pairs):
            weights.append(s @ q / (s @ y))
            q = q - weights[-1] * y
        q = q * (pairs[-1][0] @ pairs[-1][1] / (pairs[-1][1] @ pairs[-1][1]) if pairs else 1.0)
        for (s, y), weight in zip(pairs, reversed(weights), strict=True):
            q = q + s * (weight - y @ q / (s @ y))
        t = 1.0 if pairs else min(1.0, 1.0 / np.linalg.norm(grad))
        t, state = step(t, x, value, grad, -q)
        assert t > 0
        evaluations += int(state.num_fun_eval)
        s, y = np.asarray(state.params - x), np.asarray(state.grad - grad)
        pairs = [*pairs, (s, y)][-memory:] if s @ y > 0 else pairs
        x, value, grad = state.params, state.value, state.grad
    return evaluations


RNG = np.random.default_rng(0)
DATA, TARGET = RNG.normal(size=(100, 20)), RNG.normal(size=100)


@pytest.mark.parametrize(
    ("fun", "x", "scipy_evaluations"),
    [
        (rosenbrock, np.array([-1.2, 1.0]), 46),
        (lambda w: 0.5 * jnp.mean((DATA @ w - TARGET) ** 2) + 0.05 * jnp.sum(w**2), np.zeros(20), None),
        (
            lambda w: jnp.mean(jnp.logaddexp(0.0, -np.sign(TARGET) * (DATA @ w))) + 1e-3 * jnp.sum(w**2),
            np.zeros(20),
            None,
        ),
    ],
    ids=["rosenbrock", "ridge", "logistic"],
)
def test_as_few_evaluations_as_scipy(fun, x, scipy_evaluations):
    if scipy_evaluations is None:
        scipy_evaluations = evaluations_of_scipy(fun, x)
    assert lbfgs_evaluations(ZoomLineSearch(fun), fun, jnp.asarray(x)) <= 1.1 * scipy_evaluations


def evaluations_of_scipy(fun, x):
    import scipy.optimize

    value_and_grad = jax.jit(jax.value_and_grad(fun))
    norms = []

    def evaluate(x):
        value, grad = value_and_grad(x)
        norms.append(np.linalg.norm(grad))
        return float(value), np.asarray(grad)

    scipy.optimize.minimize(evaluate, x, jac=True, method="L-BFGS-B", options={"ftol": 0, "gtol": 0})
    return 1 + int(np.argmax(np.asarray(norms) <= 1e-8))


@pytest.mark.parametrize("cls", SEARCHES)
def test_auxiliary_output_of_nothing(cls):
    """What solvers do that give every objective the same form."""
    fun = counted(lambda x: ((rosenbrock(x), None), jax.grad(rosenbrock)(x)))
    search = cls(fun, value_and_grad=True, has_aux=True)
    x = jnp.array([-1.2, 1.0])
    (value, _), grad = fun(x)
    for given in ({}, {"aux": None}):
        fun.calls = 0
        t, state = jax.jit(lambda x, v, g, given=given: search.run(1.0, x, v, g, **given))(x, value, grad)
        assert fun.calls == 1 and state.aux is None and bool(state.done)


# ---- Derivatives ----------------------------------------------------------------------------------------------------


def smooth(x, theta):
    return jnp.sum(jnp.cosh(theta * x - 1.0)) + 0.1 * theta * jnp.sum(x**4)


@pytest.mark.parametrize("cls", SEARCHES)
@pytest.mark.parametrize("unroll", [True, "checkpoint"])
def test_unrolled_derivative(cls, unroll):
    search = cls(smooth, maxiter=9, max_stepsize=None, unroll=unroll, c2=0.3)

    def outcome(theta, x, step):
        t, state = search.run(step, x, fun_args=(theta,))
        return t + state.value + jnp.sum(state.params) + jnp.sum(state.grad**2), state.iter_num

    run = jax.jit(jax.value_and_grad(outcome, argnums=(0, 1), has_aux=True))
    x, theta, h = jnp.array([1.5, -0.7]), jnp.asarray(1.1), 1e-6
    e = jnp.array([h, 0.0])
    trials = []
    # Growing, accepting at once, shrinking.
    for step in (0.02, 0.3, 4.0):
        (_, iter_num), (by_theta, by_x) = run(theta, x, step)
        trials.append(int(iter_num))
        along_theta = (run(theta + h, x, step)[0][0] - run(theta - h, x, step)[0][0]) / (2 * h)
        along_x = (run(theta, x + e, step)[0][0] - run(theta, x - e, step)[0][0]) / (2 * h)
        np.testing.assert_allclose([by_theta, by_x[0]], [along_theta, along_x], rtol=1e-5)
    assert max(trials) > 2


@pytest.mark.parametrize("cls", SEARCHES)
def test_unrolled_derivative_is_finite_in_corner_cases(cls):
    """Non-finite trials, a zero direction, a linear function: the formulas that are not used divide by zero."""

    def fun(x, theta):
        return theta * jnp.sum(x) - 0.1 * jnp.sum(jnp.log(x))

    def derivative(theta, x, direction):
        search = cls(fun, maxiter=6, max_stepsize=None, unroll=True)
        outcome = lambda *args: search.run(8.0, args[1], None, None, args[2], fun_args=args[:1]).state.value
        return jax.grad(outcome, (0, 1, 2))(theta, x, direction)

    run = jax.jit(derivative)
    for direction in (-jnp.ones(2), jnp.zeros(2), jnp.ones(2)):
        assert all(np.all(np.isfinite(g)) for g in run(1.0, jnp.array([1.1, 2.5]), direction))

    linear = cls(lambda x, theta: theta * jnp.sum(x), maxiter=5, max_stepsize=None, unroll=True)
    grads = jax.jit(jax.grad(lambda theta, x: linear.run(1.0, x, fun_args=(theta,)).state.value, (0, 1)))
    assert all(np.all(np.isfinite(g)) for g in grads(1.0, jnp.ones(2)))


@pytest.mark.parametrize("cls", QUICK_SEARCHES)
def test_batches(cls):
    search = cls(smooth, unroll=True, maxiter=8, max_stepsize=None)

    def outcome(x, theta):
        t, state = search.run(1.0, x, fun_args=(theta,))
        return jnp.sum(state.params**2), state

    xs = jnp.array(np.random.default_rng(3).normal(size=(5, 2)) * 2)
    thetas = jnp.array([0.1, 0.5, 1.0, 2.0, 3.0])
    one = jax.value_and_grad(outcome, has_aux=True)
    (values, states), grads = jax.jit(jax.vmap(one))(xs, thetas)
    assert len(set(np.asarray(states.iter_num).tolist())) > 1
    # One problem at a time, in one program.
    (value, state), grad = jax.jit(lambda xs, thetas: jax.lax.map(lambda case: one(*case), (xs, thetas)))(xs, thetas)
    np.testing.assert_array_equal(state.iter_num, states.iter_num)
    np.testing.assert_allclose(value, values, rtol=1e-9)
    np.testing.assert_allclose(grad, grads, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("cls", SEARCHES)
def test_loops_agree(cls):
    x = jnp.array([-1.2, 1.0])
    value, grad = jax.value_and_grad(rosenbrock)(x)
    results = [
        cls(rosenbrock, **options).run(1.0, x, value, grad)
        for options in ({}, {"unroll": True}, {"unroll": "checkpoint"}, {"jit": False})
    ]
    # The public methods, turn by turn.
    search = cls(rosenbrock)
    t, state = jnp.asarray(1.0), search.init_state(1.0, x, value, grad)
    update = jax.jit(lambda t, state: search.update(t, state, x, value, grad))
    while not (state.done | state.failed):
        t, state = update(t, state)
    for stepsize, other in (*results, (t, state)):
        np.testing.assert_allclose(stepsize, results[0].stepsize, rtol=1e-12)
        assert int(other.iter_num) == int(results[0].state.iter_num)
        np.testing.assert_allclose(other.params, results[0].state.params, rtol=1e-12)


# ---- Arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", SEARCHES)
def test_forms_of_the_objective(cls):
    def fun(x, scale, *, shift):
        return scale * jnp.sum((x["a"] - shift) ** 2) + jnp.sum(x["b"] ** 2)

    def with_aux(x, scale, *, shift):
        return fun(x, scale, shift=shift), {"norm": jnp.sum(x["b"]), "count": jnp.asarray(3)}

    params = {"a": jnp.zeros((2, 2)), "b": jnp.asarray(1.0)}
    arguments = {"fun_args": [2.0], "fun_kwargs": {"shift": 0.5}}
    (value, aux), grad = jax.value_and_grad(with_aux, has_aux=True)(params, 2.0, shift=0.5)
    expected = cls(fun).run(0.9, params, value, grad, **arguments)
    assert expected.state.aux is None and bool(expected.state.done)
    for form, options in (
        (with_aux, {"has_aux": True}),
        (jax.value_and_grad(with_aux, has_aux=True), {"value_and_grad": True, "has_aux": True}),
    ):
        search = cls(form, **options)
        for given in ((), (value, grad, jax.tree.map(jnp.negative, grad))):
            t, state = search.run(0.9, params, *given, **arguments)
            np.testing.assert_allclose(t, expected.stepsize, rtol=1e-12)
            jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10), state.grad, expected.state.grad)
            if "has_aux" in options:
                np.testing.assert_allclose(state.aux["norm"], state.params["b"], rtol=1e-12)
                assert int(state.aux["count"]) == 3
    # A search that goes nowhere returns the auxiliary output it was given.
    search = cls(with_aux, has_aux=True)
    t, state = search.run(0.9, params, value, grad, grad, **arguments, aux=aux)
    assert float(t) == 0 and float(state.aux["norm"]) == 1.0


@pytest.mark.parametrize("cls", SEARCHES)
@pytest.mark.parametrize(
    ("params_dtype", "value_dtype", "scalar_dtype"),
    [
        (jnp.float32, jnp.float32, jnp.float32),
        (jnp.float64, jnp.float64, jnp.float64),
        (jnp.bfloat16, jnp.bfloat16, jnp.float32),
        (jnp.bfloat16, jnp.float32, jnp.float32),
        (jnp.float32, jnp.float64, jnp.float32),
        (jnp.float64, jnp.float32, jnp.float64),
    ],
)
def test_dtypes(cls, params_dtype, value_dtype, scalar_dtype):
    def fun(x):
        return jnp.sum((x.astype(value_dtype) - 1) ** 2)

    t, state = cls(fun).run(0.4, jnp.zeros(3, params_dtype))
    assert bool(state.done)
    assert t.dtype == state.error.dtype == state.best_stepsize.dtype == scalar_dtype
    assert state.params.dtype == state.grad.dtype == params_dtype
    assert state.value.dtype == value_dtype
    again = cls(fun).run(jnp.float32(0.4), jnp.zeros(3, params_dtype), state.init_value, jnp.full(3, -2, params_dtype))
    assert jax.tree.map(jnp.result_type, again) == jax.tree.map(jnp.result_type, (t, state)) or again.state.done


def test_mixed_leaves_and_python_numbers():
    params = {"a": jnp.zeros(2, jnp.float32), "b": 0.0, "c": jnp.zeros((), jnp.float64)}
    fun = lambda p: sum(jnp.sum((x.astype(jnp.float64) - 1) ** 2) for x in jax.tree.leaves(p))
    for cls in SEARCHES:
        t, state = cls(fun).run(1, params)
        assert bool(state.done) and t.dtype == jnp.float64
        assert state.params["a"].dtype == jnp.float32 and state.grad["a"].dtype == jnp.float32


@pytest.mark.parametrize("cls", SEARCHES)
def test_host_functions_without_jit(cls):
    def fun(x, shift):
        x = np.asarray(x)
        return (float(np.sum((x - shift) ** 2)), "told"), 2 * (x - shift)

    t, state = cls(fun, value_and_grad=True, has_aux=True, jit=False).run(0.8, jnp.zeros(3), fun_args=(1.0,))
    assert bool(state.done) and state.aux == "told"
    np.testing.assert_allclose(state.value, 3 * (2 * t - 1) ** 2, rtol=1e-12)


@pytest.mark.parametrize("cls", SEARCHES)
def test_traced_options(cls):
    x = jnp.array([-1.2, 1.0])
    expected = cls(rosenbrock, max_stepsize=0.5, tol=1e-3).run(1.0, x)
    run = jax.jit(lambda tol, longest: cls(rosenbrock, max_stepsize=longest, tol=tol).run(1.0, x))
    np.testing.assert_allclose(run(1e-3, 0.5).stepsize, expected.stepsize)
    assert float(run(1e-3, 1e-5).stepsize) <= 1e-5


@pytest.mark.parametrize("cls", SEARCHES)
def test_verbose_prints_a_line_a_trial(cls, capfd):
    t, state = cls(rosenbrock, verbose=True).run(1.0, jnp.array([-1.2, 1.0]))
    jax.effects_barrier()
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == int(state.iter_num)
    assert cls.__name__ in lines[0] and "stepsize 1.0" in lines[0]


# ---- Options --------------------------------------------------------------------------------------------------------


def test_signatures():
    def fields(cls):
        return {k: v.default for k, v in inspect.signature(cls).parameters.items() if k != "fun"}

    common = {"value_and_grad": False, "has_aux": False}
    end = {"verbose": False, "jit": "auto", "unroll": "auto"}
    expected = {
        BacktrackingLineSearch: {
            **common, "maxiter": 30, "tol": 0.0, "condition": "strong-wolfe", "c1": 0.0001, "c2": 0.9,
            "decrease_factor": 0.8, "max_stepsize": 1.0, **end,
        },
        HagerZhangLineSearch: {
            **common, "maxiter": 30, "tol": 0.0, "c1": 0.1, "c2": 0.9, "expansion_factor": 5.0,
            "shrinkage_factor": 0.66, "max_stepsize": 1.0, **end,
        },
        ZoomLineSearch: {
            **common, "c1": 0.0001, "c2": 0.9, "c3": 1e-06, "rel_tol_cubic": 0.2, "rel_tol_quad": 0.1,
            "interval_threshold": 1e-06, "increase_factor": 2.0, "tol": 0.0, "maxiter": 30, "max_stepsize": None, **end,
        },
    }  # fmt: skip
    for cls, options in expected.items():
        assert fields(cls) == options
        run = list(inspect.signature(cls.run).parameters)[1:]
        assert run[:7] == "init_stepsize params value grad descent_direction fun_args fun_kwargs".split()
        assert list(inspect.signature(cls.init_state).parameters)[1:8] == run[:7]
        update = list(inspect.signature(cls.update).parameters)[1:]
        assert update == "stepsize state params value grad descent_direction fun_args fun_kwargs".split()
    wanted = "iter_num params value grad error done failed num_fun_eval num_grad_eval aux".split()
    assert set(wanted) <= set(LineSearchState._fields)


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (ZoomLineSearch, {"c1": 0.0}, "c1 must be greater than 0"),
        (ZoomLineSearch, {"c1": 0.95}, "c1 must be less than c2"),
        (ZoomLineSearch, {"c2": 1.0}, "c2 must be less than 1"),
        (ZoomLineSearch, {"maxiter": 0}, "maxiter must be at least 1"),
        (ZoomLineSearch, {"tol": -1.0}, "tol must be at least 0"),
        (ZoomLineSearch, {"increase_factor": 1.0}, "increase_factor must be greater than 1"),
        (ZoomLineSearch, {"max_stepsize": 0.0}, "max_stepsize must be greater than 0"),
        (ZoomLineSearch, {"rel_tol_cubic": 0.6}, "rel_tol_cubic must be less than 0.5"),
        (ZoomLineSearch, {"unroll": "no"}, "unroll must be one of 'auto', True, False"),
        (ZoomLineSearch, {"jit": 1}, "jit must be one of 'auto', True, False; got 1"),
        (
            BacktrackingLineSearch,
            {"condition": "strong"},
            "condition must be one of 'armijo', 'goldstein', 'strong-wolfe'",
        ),
        (BacktrackingLineSearch, {"decrease_factor": 1.0}, "decrease_factor must be less than 1"),
        (BacktrackingLineSearch, {"condition": "goldstein", "c1": 0.5}, "c1 .* must be less than 0.5"),
        (HagerZhangLineSearch, {"c1": 0.5}, "c1 must be less than 0.5"),
        (HagerZhangLineSearch, {"expansion_factor": 1.0}, "expansion_factor must be greater than 1"),
        (HagerZhangLineSearch, {"shrinkage_factor": 1.5}, "shrinkage_factor must be less than 1"),
    ],
)
def test_impossible_options(cls, options, message):
    with pytest.raises(ValueError, match=message):
        cls(rosenbrock, **options)


def test_wrong_types():
    for cls in SEARCHES:
        with pytest.raises(TypeError, match="fun must be a function"):
            cls(3.0)
        with pytest.raises(TypeError, match="c1 must be a number"):
            cls(rosenbrock, c1="small")


def test_make_linesearch():
    assert set(LINESEARCHES) == {"zoom", "backtracking", "hager-zhang"}
    zoom = make_linesearch("zoom", rosenbrock, maxls=7, max_stepsize=2.0, jit=True, unroll=True, has_aux=True)
    assert isinstance(zoom, ZoomLineSearch) and zoom.maxiter == 7 and zoom.max_stepsize == 2.0
    assert zoom.unroll is True and zoom.has_aux and zoom.jit is True
    backtracking = make_linesearch("backtracking", rosenbrock)
    assert isinstance(backtracking, BacktrackingLineSearch)
    assert (backtracking.condition, backtracking.decrease_factor) == ("strong-wolfe", 0.8)
    assert make_linesearch("backtracking", rosenbrock, condition="armijo", decrease_factor=0.5).decrease_factor == 0.5
    assert isinstance(make_linesearch("hager-zhang", rosenbrock), HagerZhangLineSearch)
    with pytest.raises(
        ValueError, match="linesearch must be one of 'zoom', 'backtracking', 'hager-zhang'; got 'wolfe'"
    ):
        make_linesearch("wolfe", rosenbrock)
    with pytest.raises(ValueError, match="condition must be one of"):
        make_linesearch("zoom", rosenbrock, condition="armijo")
