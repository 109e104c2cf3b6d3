"""The law: ``run``, ``update`` and a line search's ``run`` give what a fresh process would give.

Each kind below is a function that reads 1.0 from somewhere, and a change after which it reads 2.0.
"""

import collections
import contextvars
import dataclasses
import enum
import functools
import gc
import operator
import sys
import threading
import types
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve

KINDS = {}


def kind(make):
    KINDS[make.__name__] = make
    return make


class Holder:
    """An object with attributes."""

    value = 1.0

    def __init__(self, value=1.0):
        self.value = value

    def __call__(self):
        return self.value

    def read(self):
        return self.value

    def set(self):
        self.value = 2.0


def read_of(obj):
    return obj.value


def setting(obj, name, value=2.0):
    return functools.partial(setattr, obj, name, value)


# ---- Names and cells ------------------------------------------------------------------------------------------------

a_global = 1.0


@kind
def global_number():
    global a_global
    a_global = 1.0
    return lambda: a_global, functools.partial(globals().__setitem__, "a_global", 2.0)


@kind
def closure_number():
    value = 1.0

    def change():
        nonlocal value
        value = 2.0

    return lambda: value, change


@kind
def closure_flag():
    flag = False

    def change():
        nonlocal flag
        flag = True

    return lambda: 2.0 if flag else 1.0, change


@kind
def closure_string():
    name = "one"

    def change():
        nonlocal name
        name = "two"

    return lambda: {"one": 1.0, "two": 2.0}[name], change


@kind
def closure_none():
    extra = None

    def change():
        nonlocal extra
        extra = 1.0

    return lambda: 1.0 if extra is None else 1.0 + extra, change


@kind
def closure_integer_that_equals_a_float():
    value = 1

    def change():
        nonlocal value
        value = 1.0

    return lambda: 1.0 if isinstance(value, int) else 2.0, change


@kind
def replaced_default():
    def read(value=1.0):
        return value

    return read, setting(read, "__defaults__", (2.0,))


@kind
def keyword_default():
    def read(*, value=1.0):
        return value

    return read, lambda: read.__kwdefaults__.update(value=2.0)


@kind
def attribute_of_a_function():
    def read():
        return read.value

    read.value = 1.0
    return read, setting(read, "value")


@kind
def replaced_code():
    def read():
        return 1.0

    def other():
        return 2.0

    return lambda: read(), setting(read, "__code__", other.__code__)


@kind
def function_in_a_cell():
    inner = lambda: 1.0

    def change():
        nonlocal inner
        inner = lambda: 2.0

    return lambda: inner(), change


# ---- Containers -----------------------------------------------------------------------------------------------------


@kind
def list_entry():
    held = [1.0]
    return lambda: held[0], functools.partial(held.__setitem__, 0, 2.0)


@kind
def dict_entry():
    held = {"value": 1.0}
    return lambda: held["value"], functools.partial(held.update, value=2.0)


@kind
def order_of_a_dict():
    held = {"a": 1.0, "b": 2.0}
    return lambda: next(iter(held.values())), lambda: held.update(a=held.pop("a"))


@kind
def set_member():
    held = {1.0}
    return lambda: sum(held), lambda: (held.clear(), held.add(2.0))


@kind
def deque_entry():
    held = collections.deque([1.0])
    return lambda: held[0], functools.partial(held.appendleft, 2.0)


@kind
def mapping_proxy():
    held = {"value": 1.0}
    view = types.MappingProxyType(held)
    return lambda: view["value"], functools.partial(held.update, value=2.0)


@kind
def user_dict():
    held = collections.UserDict(value=1.0)
    return lambda: held["value"], functools.partial(held.__setitem__, "value", 2.0)


@kind
def chain_map():
    held = collections.ChainMap({}, {"value": 1.0})
    return lambda: held["value"], functools.partial(held.__setitem__, "value", 2.0)


@kind
def deep_in_containers():
    held = ({"a": [Holder()]},)
    return lambda: held[0]["a"][0].value, held[0]["a"][0].set


@kind
def beyond_any_limit_of_objects():
    held = [[i] for i in range(60_000)]
    return lambda: 1.0 + held[-1][0] - 59_999, lambda: held[-1].__setitem__(0, 60_000)


@kind
def bytes_of_a_bytearray():
    held = bytearray(b"\x01")
    return lambda: float(held[0]), functools.partial(held.__setitem__, 0, 2)


# ---- NumPy ----------------------------------------------------------------------------------------------------------


@kind
def numpy_buffer():
    held = np.ones(())
    return lambda: held, lambda: held.fill(2.0)


@kind
def view_of_a_numpy_buffer():
    held = np.ones(3)
    view = held[1:2]
    view.flags.writeable = False
    return lambda: view[0], lambda: held.fill(2.0)


@kind
def numpy_scalar():
    held = [np.float64(1.0)]
    return lambda: held[0], functools.partial(held.__setitem__, 0, np.float64(2.0))


@kind
def numpy_object_array():
    held = np.array([Holder()], dtype=object)
    return lambda: held[0].value, held[0].set


@kind
def jax_array():
    held = [jnp.ones(())]
    return lambda: held[0], lambda: held.__setitem__(0, jnp.full((), 2.0))


@kind
def array_that_python_reads():
    held = [jnp.ones(())]
    return lambda: 1.0 if float(held[0]) < 1.5 else 2.0, lambda: held.__setitem__(0, jnp.full((), 2.0))


# ---- Objects and classes --------------------------------------------------------------------------------------------


@kind
def attribute():
    obj = Holder()
    return obj.read, obj.set


@kind
def callable_object():
    obj = Holder()
    return obj, obj.set


@kind
def helper_that_is_given_the_object():
    obj = Holder()
    return lambda: read_of(obj), obj.set


@kind
def computed_name():
    obj = Holder()
    return lambda: getattr(obj, "va" + "lue"), obj.set


@kind
def attribute_getter():
    obj, get = Holder(), operator.attrgetter("value")
    return lambda: get(obj), obj.set


@kind
def partial_of_a_method():
    obj = Holder()
    return functools.partial(read_of, obj), obj.set


@kind
def slots():
    class Slotted:
        __slots__ = ("value",)

    obj = Slotted()
    obj.value = 1.0
    return lambda: obj.value, setting(obj, "value")


@kind
def frozen_dataclass():
    @dataclasses.dataclass(frozen=True)
    class Frozen:
        value: float = 1.0

    obj = Frozen()
    return lambda: obj.value, functools.partial(object.__setattr__, obj, "value", 2.0)


@kind
def enum_member():
    class Mode(enum.Enum):
        ONE = 1.0
        TWO = 2.0

    obj = Holder(Mode.ONE)
    return lambda: obj.value.value, setting(obj, "value", Mode.TWO)


@kind
def class_attribute():
    class Local:
        value = 1.0

    obj = Local()
    return lambda: obj.value, setting(Local, "value")


@kind
def attribute_of_a_base_class():
    class Base:
        value = 1.0

    class Local(Base):
        pass

    obj = Local()
    return lambda: obj.value, setting(Base, "value")


@kind
def through_super():
    class Local(Holder):
        def read(self):
            return super().read()

    obj = Local()
    return obj.read, obj.set


@kind
def replaced_method():
    obj = Holder()
    return lambda: obj.read(), setting(obj, "read", lambda: 2.0)


@kind
def replaced_call_of_a_class():
    class Local:
        def __call__(self):
            return 1.0

    obj = Local()
    return obj, setting(Local, "__call__", lambda self: 2.0)


@kind
def property_of_a_class():
    class Local:
        @property
        def read(self):
            return self.hidden

    obj = Local()
    obj.hidden = 1.0
    return lambda: obj.read, setting(obj, "hidden")


@kind
def attribute_of_a_metaclass():
    class Meta(type):
        value = 1.0

    class Local(metaclass=Meta):
        pass

    return lambda: Local.value, setting(Meta, "value")


@kind
def attribute_through_getattr():
    class Local:
        def __init__(self):
            self.held = {"value": 1.0}

        def __getattr__(self, name):
            return self.held[name]

    obj = Local()
    return lambda: obj.value, functools.partial(obj.held.update, value=2.0)


@kind
def another_class():
    class Other(Holder):
        def read(self):
            return 2.0

    obj = Holder()
    return lambda: obj.read(), setting(obj, "__class__", Other)


# ---- Elsewhere ------------------------------------------------------------------------------------------------------


@kind
def attribute_of_a_module():
    module = types.ModuleType("settings_of_somebody")
    module.value = 1.0
    return lambda: module.value, setting(module, "value")


@kind
def module_that_is_imported_inside():
    module = sys.modules["settings_of_a_test"] = types.ModuleType("settings_of_a_test")
    module.value = 1.0

    def read():
        import settings_of_a_test

        return settings_of_a_test.value

    return read, setting(module, "value")


@kind
def context_variable():
    variable = contextvars.ContextVar("variable", default=1.0)
    return lambda: variable.get(), functools.partial(variable.set, 2.0)


@kind
def thread_local():
    held = threading.local()
    held.value = 1.0
    return lambda: held.value, setting(held, "value")


@kind
def weak_reference():
    keep = [Holder()]
    reference = weakref.ref(keep[0])

    def change():
        keep.clear()
        gc.collect()

    return lambda: 2.0 if reference() is None else 1.0, change


@kind
def cache_of_a_function():
    obj = Holder()

    @functools.lru_cache
    def read():
        return obj.value

    def change():
        obj.set()
        read.cache_clear()

    return lambda: read(), change


@kind
def iterator():
    held = iter([1.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    value = [1.0]
    return lambda: value[0] if operator.length_hint(held) > 4 else 2.0, lambda: (next(held), next(held))


@kind
def options_of_a_captured_solver():
    inner = jaxsolve.FixedPointIteration(lambda x: x + 1.0, maxiter=1, tol=0.0)
    return lambda: inner.run(jnp.zeros(())).params, setting(inner, "maxiter", 2)


@kind
def function_of_a_captured_solver():
    inner = jaxsolve.FixedPointIteration(lambda x: 0.0 * x + 1.0, maxiter=1)
    return lambda: inner.run(jnp.zeros(())).params, setting(inner, "fixed_point_fun", lambda x: 0.0 * x + 2.0)


def fixed_point(read):
    return lambda x: 0.0 * x + read()


def objective(read):
    return lambda x: jnp.sum((x - read()) ** 2)


X = jnp.zeros(2)


@pytest.fixture(autouse=True)
def arrays_of_both_kinds_mix():
    """What is read may be a Python number, or an array of one dtype or the other."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("name", KINDS)
def test_run_sees_every_change(name):
    """With a solver that was kept, and with a new equal one; eager, and in transformations of the caller."""
    read, change = KINDS[name]()
    fun = fixed_point(read)
    kept = jaxsolve.FixedPointIteration(fun, maxiter=2)

    def answers():
        new = jaxsolve.FixedPointIteration(fixed_point(read), maxiter=2)
        yield kept.run(X).params[0]
        yield jaxsolve.FixedPointIteration(fun, maxiter=2).run(X).params[0]
        yield new.run(X).params[0]
        yield jax.jit(lambda x: kept.run(x).params[0])(X)
        yield jax.grad(lambda c: c * kept.run(X).params[0])(1.0)

    assert list(map(float, answers())) == [1.0] * 5
    assert list(map(float, answers())) == [1.0] * 5
    change()
    assert list(map(float, answers())) == [2.0] * 5


QUICK = ("closure_number", "numpy_buffer", "attribute", "jax_array", "class_attribute")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in KINDS]
)
def test_updates_and_line_searches_see_every_change(name):
    read, change = KINDS[name]()
    fun = objective(read)
    solver = jaxsolve.GradientDescent(fun, stepsize=0.5, acceleration=False)
    search = jaxsolve.BacktrackingLineSearch(fun, condition="armijo")
    state = solver.init_state(X)

    def answers():
        yield solver.update(X, state).params[0]
        yield search.run(0.5, X).state.params[0]
        yield jaxsolve.BacktrackingLineSearch(fun, condition="armijo").run(0.5, X).state.params[0]
        yield jax.jit(lambda x: solver.update(x, state).params[0])(X)
        yield jax.jit(lambda x: search.run(0.5, x).state.params[0])(X)
        yield jax.lax.scan(lambda c, _: (c, solver.update(X, state).params[0]), 0, length=1)[1][0]

    assert list(map(float, answers())) == [1.0] * 6
    change()
    assert list(map(float, answers())) == [2.0] * 6


def test_tracers_that_functions_capture_are_those_of_the_moment():
    """In a scan, in gradients and batches of the caller: what an object holds is another tracer each time."""
    model = Holder(jnp.ones(()))
    solver = jaxsolve.FixedPointIteration(lambda x: 0.5 * x + 0.5 * model.value, tol=1e-12, maxiter=200)

    def solution(value):
        model.value = value
        return solver.run(jnp.zeros(())).params

    values = jnp.asarray([1.0, 2.0, 3.0])
    np.testing.assert_allclose(jax.lax.scan(lambda c, v: (c, solution(v)), 0, values)[1], values, rtol=1e-9)
    np.testing.assert_allclose(jax.vmap(solution)(values), values, rtol=1e-9)
    for derivative in (jax.grad, jax.jacfwd):
        for value in values:
            np.testing.assert_allclose(derivative(solution)(value), 1.0, rtol=1e-9)
            np.testing.assert_allclose(jax.jit(derivative(solution))(value), 1.0, rtol=1e-9)
    np.testing.assert_allclose(jax.jit(jax.hessian(solution))(1.0), 0.0, atol=1e-9)
    model.value = jnp.full((), 7.0)
    np.testing.assert_allclose(solver.run(jnp.zeros(())).params, 7.0, rtol=1e-9)


def test_no_tracer_is_left_behind():
    def solution(value):
        solver = jaxsolve.FixedPointIteration(lambda x: 0.5 * x + 0.5 * value, tol=1e-12, maxiter=200)
        return solver.run(jnp.zeros(())).params

    with jax.checking_leaks():
        np.testing.assert_allclose(jax.jit(jax.grad(solution))(1.0), 1.0, rtol=1e-9)
        np.testing.assert_allclose(jax.jit(jax.hessian(solution))(1.0), 0.0, atol=1e-9)


class Count:
    """Traces and programs that the mechanism makes."""

    def __init__(self, monkeypatch):
        self.traces = self.programs = 0
        module = sys.modules["jaxsolve._compile"]
        hoist, program = module.hoist, module._Program

        def counted_hoist(*args):
            self.traces += 1
            return hoist(*args)

        def counted_program(*args):
            self.programs += 1
            return program(*args)

        monkeypatch.setattr(module, "hoist", counted_hoist)
        monkeypatch.setattr(module, "_Program", counted_program)

    def __iter__(self):
        return iter((self.traces, self.programs))


@pytest.fixture
def count(monkeypatch):
    return Count(monkeypatch)


def test_fresh_functions_and_solvers_over_the_same_data_are_compiled_once(count):
    data = [jnp.arange(3.0) for _ in range(10)]
    for _ in range(5):
        fun = lambda x: sum(jnp.sum((x - c) ** 2) for c in data)
        jaxsolve.LBFGS(fun, maxiter=3).run(jnp.zeros(3))
    assert tuple(count) == (1, 1)


def test_arrays_that_are_replaced_are_traced_and_not_compiled(count):
    """A module in training: relu and logaddexp have derivative rules that every trace makes anew."""
    model = Holder(jnp.ones(3))
    solver = jaxsolve.LBFGS(
        lambda x: jnp.sum(jnp.logaddexp(0.0, jax.nn.relu(x) - model.value) + (x - model.value) ** 2), maxiter=3
    )
    answers = []
    for i in range(4):
        model.value = jnp.full(3, float(i))
        answers.append(solver.run(jnp.zeros(3)).params[0])
    assert tuple(count) == (4, 1)
    assert len({float(answer) for answer in answers}) == 4


def test_a_rule_of_the_user_that_captures_another_array_is_another_program():
    def run(scale):
        @jax.custom_jvp
        def f(x):
            return x**2

        f.defjvp(lambda primals, tangents: (f(*primals), scale * primals[0] * tangents[0]))
        solver = jaxsolve.GradientDescent(lambda x: f(x).sum(), stepsize=0.25, maxiter=1, acceleration=False)
        return float(solver.run(jnp.ones(1)).params[0])

    assert run(jnp.asarray(2.0)) == 0.5
    assert run(jnp.asarray(4.0)) == 0.0
    assert run(2.0) == 0.5


def test_functions_that_the_host_calls_back_are_those_of_the_moment():
    """A program with a callback belongs to the object that it calls, however equal another one is."""
    for _ in range(2):
        history = jaxsolve.History("error")
        solver = jaxsolve.FixedPointIteration(lambda x: 0.5 * x, maxiter=3, tol=0.0, callback=history)
        solver.run(jnp.ones(2))
        assert len(history) == 4

    def collect():
        heard = []

        def fun(x):
            jax.debug.callback(heard.append, x[0])
            return 0.5 * x

        jaxsolve.FixedPointIteration(fun, maxiter=1).run(jnp.ones(2))
        jax.effects_barrier()
        return heard

    assert len(collect()) == len(collect()) > 0


def test_settings_of_jax_are_seen():
    solver = jaxsolve.FixedPointIteration(lambda x: jnp.ones(2, x.dtype) * (1 + (jnp.ones(()).dtype == jnp.float64)))
    x = jnp.zeros(2, jnp.float32)
    with jax.enable_x64(False):
        assert float(solver.run(x).params[0]) == 1.0
    with jax.enable_x64(True):
        assert float(solver.run(x).params[0]) == 2.0
    with jax.enable_x64(False):
        assert float(solver.run(x).params[0]) == 1.0


def test_nothing_is_kept_alive():
    """Solvers over fresh functions that capture fresh arrays leave neither the arrays nor the solvers behind."""

    def solve(i):
        c = jnp.full(3, float(i))
        solver = jaxsolve.GradientDescent(lambda x: jnp.sum((x - c) ** 2), tol=1e-6)
        np.testing.assert_allclose(solver.run(jnp.zeros(3)).params[0], i, atol=1e-6)
        return weakref.ref(c), weakref.ref(solver)

    references = [solve(i) for i in range(10)]
    gc.collect()
    assert [[reference() for reference in pair] for pair in references] == [[None, None]] * 10


def test_the_tables_are_bounded(monkeypatch):
    """A program may hold functions of the user: a linear solver of its derivative, say."""
    module = sys.modules["jaxsolve._compile"]
    monkeypatch.setattr(module, "_MOST_FAMILIES", 3)
    monkeypatch.setattr(module, "_MOST_TRACES", 2)
    for size in range(1, 6):
        for i in range(4):
            solve = lambda matvec, b, i=i: jaxsolve.linear_solve.solve_lu(matvec, b)
            fun = lambda x, i=i: 0.5 * x + i
            jaxsolve.FixedPointIteration(fun, implicit_diff_solve=solve, maxiter=2).run(jnp.zeros(size))
    assert len(module._FAMILIES) <= 3
    for family in module._FAMILIES.values():
        assert len(family.traces) <= 2
        assert len(family._programs) <= 2


def test_a_value_that_is_kept_from_a_trace_is_refused():
    """A module that makes its parameters at its first call, inside the solver."""
    held = {}

    def fun(x):
        if "scale" not in held:
            held["scale"] = 0.5 * jnp.ones_like(x)
        return held["scale"] * x

    with pytest.raises(ValueError, match="Call the module once before the solver runs"):
        jaxsolve.FixedPointIteration(fun).run(jnp.ones(2))


def test_mutable_arrays_are_refused_and_their_values_are_not():
    ref = jax.new_ref(jnp.ones(2))
    capturing = jaxsolve.GradientDescent(lambda x: jnp.sum((x - ref[...]) ** 2))
    given = jaxsolve.GradientDescent(lambda x, value: jnp.sum((x - value[...]) ** 2), tol=1e-9)
    for run in (capturing.run, jax.jit(capturing.run), lambda x: given.run(x, ref)):
        with pytest.raises(ValueError, match=r"fun uses a mutable array .*shape \(2,\).* Pass its value, ref\[...\]"):
            run(X)
    np.testing.assert_allclose(given.run(X, ref[...]).params, 1.0)
