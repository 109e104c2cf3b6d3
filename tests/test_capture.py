"""The walk over what functions would read: every kind of change is seen, and ordinary programs are not in doubt."""

import abc
import array
import collections
import contextvars
import ctypes
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import gc
import itertools
import logging
import operator
import os
import pathlib
import random
import re
import sys
import threading
import time
import types
import weakref
from typing import NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsolve
from jaxsolve._capture import snapshot

# ---- Values -------------------------------------------------------------------------------------------------------


class Text(str):
    pass


class Flag(enum.Enum):
    ON, OFF = 1, 2


class Point(NamedTuple):
    x: float
    y: float


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: float


class Slots:
    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x


class MoreSlots(Slots):
    __slots__ = ("y", "z")

    def __init__(self, x, y):
        super().__init__(x)
        self.y = y


class Typed(TypedDict):
    x: float


class Hostile:
    """Raises at whatever is asked of it."""

    def __init__(self, x):
        object.__setattr__(self, "x", x)

    def _refuse(self, *args):
        raise RuntimeError("code of the user was called")

    __eq__ = __hash__ = __repr__ = __bool__ = __len__ = __iter__ = _refuse
    __getattribute__ = __getattr__ = __reduce__ = __getitem__ = _refuse


class HostileList(list):
    __iter__ = __len__ = __getitem__ = __eq__ = copy = Hostile._refuse


class HostileDict(dict):
    keys = values = items = __iter__ = __len__ = __getitem__ = __eq__ = Hostile._refuse


class HostileArray(np.ndarray):
    tobytes = ravel = tolist = __eq__ = Hostile._refuse


class HostileMeta(type):
    __eq__ = __hash__ = __getattribute__ = __instancecheck__ = Hostile._refuse


class HiddenDict:
    def __init__(self, x):
        self.x = x

    __dict__ = property(Hostile._refuse)


def nested(depth, value):
    for _ in range(depth):
        value = [value]
    return value


def recursive(value):
    items = [value]
    items.append(items)
    return items


def with_dtype(value):
    return np.array([(value, 2.0)], dtype=[("a", float), ("b", float)])


# Two values that differ; a function reads one, then the other.
VALUES = {
    "int": (1, 2),
    "bool and int": (True, 1),
    "int and float": (1, 1.0),
    "huge int": (10**400, 10**400 + 1),
    "sign of zero": (0.0, -0.0),
    "NaN": (float("nan"), 1.0),
    "sign of zero, complex": (complex(0.0, 0.0), complex(0.0, -0.0)),
    "str": ("a", "b"),
    "str and its subclass": ("a", Text("a")),
    "str subclass": (Text("a"), Text("b")),
    "bytes": (b"a", b"b"),
    "None and False": (None, False),
    "enum": (Flag.ON, Flag.OFF),
    "namedtuple": (Point(1.0, 2.0), Point(1.0, 3.0)),
    "namedtuple and tuple": (Point(1.0, 2.0), (1.0, 2.0)),
    "list and tuple": ([1], (1,)),
    "frozen dataclass": (Frozen(1.0), Frozen(2.0)),
    "slots": (Slots(1.0), Slots(2.0)),
    "empty slot": (MoreSlots(1.0, 2.0), Slots(1.0)),
    "inherited slots": (MoreSlots(1.0, 2.0), MoreSlots(3.0, 2.0)),
    "typed dict": (Typed(x=1.0), Typed(x=2.0)),
    "simple namespace": (types.SimpleNamespace(x=1), types.SimpleNamespace(x=2)),
    "chain map": (collections.ChainMap({}, {"x": 1}), collections.ChainMap({}, {"x": 2})),
    "default factory": (collections.defaultdict(int), collections.defaultdict(float)),
    "counter": (collections.Counter("ab"), collections.Counter("aab")),
    "user dict": (collections.UserDict(x=1), collections.UserDict(x=2)),
    "mapping proxy": (types.MappingProxyType({"x": 1}), types.MappingProxyType({"x": 2})),
    "deque": (collections.deque([1]), collections.deque([2])),
    "maximal length of a deque": (collections.deque([1], 3), collections.deque([1], 4)),
    "order of a dict": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "keys of a dict": ({1: "x"}, {True: "x"}),
    "set": ({1, 2}, {1, 3}),
    "frozen set": (frozenset("ab"), frozenset("ac")),
    "set of objects": ({Point(1, 2)}, {Point(1, 3)}),
    "slice": (slice(1, 2), slice(1, 3)),
    "empty ranges": (range(0), range(2, 2)),
    "path": (pathlib.Path("a"), pathlib.Path("b")),
    "date": (datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)),
    "datetime": (datetime.datetime(2020, 1, 1), datetime.datetime(2020, 1, 1, fold=1)),
    "timedelta": (datetime.timedelta(1), datetime.timedelta(2)),
    "decimal": (decimal.Decimal("1.0"), decimal.Decimal("1.00")),
    "fraction": (fractions.Fraction(1, 2), fractions.Fraction(1, 3)),
    "pattern": (re.compile("a"), re.compile("a", re.I)),
    "attrgetter": (operator.attrgetter("a"), operator.attrgetter("b")),
    "itemgetter": (operator.itemgetter(1), operator.itemgetter(2)),
    "methodcaller": (operator.methodcaller("f", 1), operator.methodcaller("f", 2)),
    "partial": (functools.partial(max, 1), functools.partial(max, 2)),
    "getter and setter": (property(len, None), property(None, len)),
    "bytearray": (bytearray(b"a"), bytearray(b"b")),
    "array": (array.array("i", [1]), array.array("i", [2])),
    "type code of an array": (array.array("i", [1]), array.array("I", [1])),
    "memoryview": (memoryview(b"a"), memoryview(b"b")),
    "ctypes": (ctypes.c_int(1), ctypes.c_int(2)),
    "type": (int, float),
    "generic alias": (list[int], list[float]),
    "union": (int | str, int | float),
    "builtin function": (min, max),
    "bound builtin method": ([1].count, [2].count),
    "ufunc": (np.add, np.multiply),
    "NumPy array": (np.array([1.0]), np.array([2.0])),
    "NumPy sign of zero": (np.array([0.0]), np.array([-0.0])),
    "NumPy dtype": (np.array([1], np.int32), np.array([1], np.float32)),
    "NumPy shape": (np.zeros((1, 2)), np.zeros((2, 1))),
    "large NumPy array": (np.zeros(1000), np.arange(1000.0)),
    "large NumPy view": (np.zeros((100, 100))[::2], np.eye(100)[::2]),
    "transposed NumPy array": (np.arange(10_000).reshape(100, 100), np.arange(10_000).reshape(100, 100).T),
    "empty NumPy array": (np.zeros((0, 2)), np.zeros((2, 0))),
    "NumPy scalar": (np.float64(1.0), np.float64(2.0)),
    "NumPy scalar dtype": (np.float32(1.0), np.float64(1.0)),
    "bfloat16": (jnp.bfloat16(1.0), jnp.bfloat16(2.0)),
    "array of objects": (np.array([None, {"x": 1}]), np.array([None, {"x": 2}])),
    "structured array": (with_dtype(1.0), with_dtype(2.0)),
    "array of strings": (np.array(["a"]), np.array(["b"])),
    "variable strings": (np.array(["a"], np.dtypes.StringDType()), np.array(["b"], np.dtypes.StringDType())),
    "masked array": (np.ma.array([1, 2], mask=[0, 1]), np.ma.array([1, 2], mask=[1, 1])),
    "dtype": (np.dtype("f4"), np.dtype(jnp.bfloat16)),
    "jax array": (jnp.ones(2), jnp.ones(2)),
    "key": (jax.random.key(0), jax.random.key(1)),
    "tree structure": (jax.tree.structure((1, 2)), jax.tree.structure([1, 2])),
    "many floats": ([0.0] * 1000, [0.0] * 999 + [-0.0]),
    "many strings": (["a"] * 1000, ["a"] * 999 + ["b"]),
    "many flags": ([1] * 1000, [1] * 999 + [True]),
    "tuple of numbers": ((1, 2.0), (1, 2)),
    "deep nesting": (nested(10_000, 1), nested(10_000, 2)),
    "recursive list": (recursive(1), recursive(2)),
    "shared and equal": ([x := [1], x], [[1], [1]]),
    "hostile object": (Hostile(1), Hostile(2)),
    "hostile dictionary of attributes": (HiddenDict(1), HiddenDict(2)),
    "hostile list": (HostileList([1]), HostileList([2])),
    "hostile dict": (HostileDict(x=1), HostileDict(x=2)),
    "hostile class": (HostileMeta("Hostile", (), {}), HostileMeta("Hostile", (), {})),
    "object of a hostile class": (HostileMeta("Hostile", (), {})(), HostileMeta("Hostile", (), {"x": 1})()),
}


def reader(value):
    """A fresh function over ``value``, which may read any of its attributes."""
    return lambda: vars(value)


@pytest.mark.parametrize("name", VALUES)
def test_values_that_differ_are_told_apart(name):
    before, after = VALUES[name]
    first, again, second = (snapshot([reader(value)]) for value in (before, before, after))
    assert not first.same_as(second) and not second.same_as(first)
    assert first.same_as(again) or first.doubt or again.doubt


IN_DOUBT = {"memoryview", "ctypes", "hostile dictionary of attributes"}


@pytest.mark.parametrize("name", VALUES)
def test_values_are_seen_through(name):
    for value in VALUES[name]:
        assert (snapshot([reader(value)]).doubt is not None) == (name in IN_DOUBT)


@pytest.mark.parametrize(
    "make",
    [lambda: [1.5, float("nan"), {"x": (2.5, "a")}], lambda: Frozen(float("nan")), dict],
    ids=["list", "dataclass", "dict"],
)
def test_equal_values_are_the_same(make):
    assert snapshot([reader(make())]).same_as(snapshot([reader(make())]))


# ---- Changes ------------------------------------------------------------------------------------------------------
#
# Each case returns functions and a change, after which a call of the functions reads something else.

CHANGES = {}


def change(case):
    CHANGES[case.__name__] = case
    return case


def setting(target, name, value):
    return lambda: setattr(target, name, value)


ALPHA = 1.0
unread = 1.0


def helper(x):
    return x * ALPHA


def set_global(name, value):
    globals()[name] = value


def of_alpha(function):
    """The case of a function that reads the global ``ALPHA``."""
    set_global("ALPHA", 1.0)
    return [function], lambda: set_global("ALPHA", 2.0)


@change
def variable_of_a_closure():
    x = 1.0

    def f():
        return x

    def change():
        nonlocal x
        x = 2.0

    return [f], change


@change
def variable_without_a_value():
    def f():
        return x

    def change():
        nonlocal x
        x = 2.0

    if sys is None:
        x = 1.0
    return [f], change


@change
def contents_of_a_cell():
    f = reader(1.0)
    return [f], setting(f.__closure__[0], "cell_contents", 2.0)


@change
def global_number():
    return of_alpha(lambda x: x * ALPHA)


@change
def global_of_a_helper():
    return of_alpha(lambda x: helper(x))


@change
def global_of_an_inner_function():
    return of_alpha(lambda x: (lambda: [ALPHA for _ in x])())


@change
def global_that_hides_a_builtin():
    def change():
        module.max = min

    module = module_of("def f(x): return max(x)")
    return [module.f], change


@change
def global_that_is_new():
    module = module_of("def f(x): return missing")
    return [module.f], setting(module, "missing", 1)


def module_of(source, **held):
    module = types.ModuleType("a_module_of_a_user")
    vars(module).update(held)
    exec(source, vars(module))
    return module


@change
def attribute_of_a_module():
    config = module_of("scale = 1.0")
    return [lambda x: x * config.scale], setting(config, "scale", 2.0)


@change
def attribute_of_a_module_by_a_helper():
    config = module_of("scale = 1.0")
    user = module_of("def f(x): return x * config.scale", config=config)
    return [lambda x: user.f(x)], setting(config, "scale", 2.0)


@change
def attribute_of_a_nested_module():
    inner = module_of("scale = 1.0")
    outer = module_of("", inner=inner)
    user = module_of("def f(x): return x * outer.inner.scale", outer=outer)
    return [user.f], setting(inner, "scale", 2.0)


@change
def module_under_another_name():
    config = module_of("scale = 1.0")

    def f(x):
        other = config
        return x * other.scale

    return [f], setting(config, "scale", 2.0)


@change
def module_that_is_imported_inside():
    config = sys.modules["a_user_config"] = module_of("scale = 1.0")

    def f(x):
        from a_user_config import scale

        return x * scale

    return [f], setting(config, "scale", 2.0)


@change
def computed_attribute_of_a_module():
    config = module_of("scale = 1.0")
    return [lambda x: getattr(config, "sca" + "le")], setting(config, "scale", 2.0)


@change
def attributes_that_a_module_computes():
    module = module_of("def __getattr__(name): return table[name]", table={"scale": 1.0})
    user = module_of("def f(x): return module.scale", module=module)
    return [user.f], lambda: module.table.update(scale=2.0)


@change
def attributes_that_a_captured_module_computes():
    module = module_of("def __getattr__(name): return table[name]", table={"scale": 1.0})
    return [lambda: module.scale], lambda: module.table.update(scale=2.0)


@change
def attribute_that_is_new():
    model = Ridge()
    return [model.loss], setting(model, "alpha", 0.0)


@change
def function_of_a_module_replaced():
    module = module_of("def g(x): return x")
    user = module_of("def f(x): return module.g(x)", module=module)
    return [user.f], setting(module, "g", abs)


@change
def state_of_another_module_through_a_function():
    module = module_of("count = 0\ndef step():\n    global count\n    count += 1\n    return count")
    return [lambda: module.step()], module.step


@change
def function_of_numpy_replaced():
    module = module_of("def f(x): return np.a_function_of_mine(x)", np=np)

    def change():
        np.a_function_of_mine = abs

    if hasattr(np, "a_function_of_mine"):
        del np.a_function_of_mine
    return [module.f], change


@change
def default():
    def f(x=1.0):
        return x

    return [f], setting(f, "__defaults__", (2.0,))


@change
def keyword_default():
    def f(*, x=1.0):
        return x

    return [f], lambda: f.__kwdefaults__.update(x=2.0)


@change
def code_of_a_function():
    def f(x):
        return x

    return [f], setting(f, "__code__", (lambda x: -x).__code__)


@change
def attribute_of_a_function():
    def f(x):
        return f.scale * x

    f.scale = 1.0
    return [f], setting(f, "scale", 2.0)


class Ridge:
    alpha = 0.0

    def loss(self, w):
        return self.alpha * w

    def outer(self, w):
        return helper_of(self, w)

    def computed(self, name):
        return getattr(self, name)

    @property
    def doubled(self):
        return 2 * self.alpha

    def of_property(self, w):
        return self.doubled * w

    def save(self, path):
        with open(path, "w") as file:
            file.write(str(time.time()))


class FromFile:
    def __init__(self, path):
        self.text = open(path).read()

    @classmethod
    def make(cls):
        return object.__new__(cls)

    def loss(self, w):
        return w


def helper_of(model, w):
    return model.alpha * w


class SubRidge(Ridge):
    def loss(self, w):
        return super().loss(w)


class Callable:
    def __call__(self, w):
        return w * self.scale()

    def scale(self):
        return 1.0


def subclass(cls):
    """A fresh subclass, which may be changed."""
    return type(cls)("Fresh" + cls.__name__, (cls,), {})


for _case, _function in {
    "attribute": lambda m: m.loss,
    "attribute_through_a_helper": lambda m: m.outer,
    "attribute_with_a_computed_name": lambda m: lambda: m.computed("al" + "pha"),
    "attribute_through_a_property": lambda m: m.of_property,
    "attribute_in_a_partial": lambda m: functools.partial(m.loss, 1.0),
    "attribute_through_attrgetter": lambda m: functools.partial(operator.attrgetter("alpha"), m),
    "attribute_through_methodcaller": lambda m: functools.partial(operator.methodcaller("loss", 1.0), m),
    "attribute_through_vars": lambda m: lambda: vars(m)["alpha"],
    "attribute_through_format": lambda m: lambda: f"{m.alpha}",
    "attribute_through_a_weak_reference": lambda m: (lambda r, _: lambda: r().alpha)(weakref.ref(m), _KEPT.append(m)),
    "attribute_through_a_cache": lambda m: functools.lru_cache(m.loss),
    "attribute_in_a_pytree_partial": lambda m: jax.tree_util.Partial(m.loss),
    "attribute_in_a_jitted_function": lambda m: jax.jit(m.loss),
    "attribute_in_a_transformed_function": lambda m: jax.vmap(jax.grad(m.loss)),
    "attribute_in_a_solver": lambda m: lambda: SOLVER(m.loss).run(1.0),
    "attribute_in_a_method_of_a_solver": lambda m: SOLVER(m.loss).run,
}.items():
    CHANGES[_case] = lambda function=_function: (lambda m: ([function(m)], setting(m, "alpha", 3.0)))(Ridge())
    CHANGES[f"class_{_case}"] = lambda function=_function: (
        lambda cls: ([function(cls())], setting(cls, "alpha", 3.0))
    )(subclass(Ridge))

_KEPT = []
LOG = logging.getLogger(__name__)
SOLVER = functools.partial(jaxsolve.GradientDescent, maxiter=3)


@change
def attribute_through_super():
    model = SubRidge()
    return [model.loss], setting(model, "alpha", 2.0)


@change
def class_attribute_through_super():
    cls = subclass(Ridge)
    inner = type("Inner", (cls,), {"loss": lambda self, w: super(inner, self).loss(w)})
    return [inner().loss], setting(cls, "alpha", 2.0)


@change
def method_replaced_on_the_instance():
    model = Callable()
    return [model], setting(model, "scale", lambda: 2.0)


@change
def method_replaced_on_the_class():
    cls = subclass(Callable)
    return [cls()], setting(cls, "scale", lambda self: 2.0)


@change
def call_replaced_on_the_class():
    cls = subclass(Callable)
    return [cls()], setting(cls, "__call__", lambda self, w: 2.0)


@change
def class_of_an_object():
    model = Callable()
    return [model], setting(model, "__class__", subclass(Callable))


@change
def bases_of_a_class():
    first, second = subclass(Callable), subclass(Callable)
    second.scale = lambda self: 2.0
    cls = type("Changed", (first,), {})
    return [cls()], setting(cls, "__bases__", (second,))


@change
def attribute_of_a_metaclass():
    meta = type("Meta", (type,), {"scale": 1.0})
    cls = meta("Cls", (), {"f": lambda self: type(self).scale})
    return [cls().f], setting(meta, "scale", 2.0)


@change
def side_state_of_getattr():
    state = {"alpha": 1.0}
    cls = type("Proxy", (), {"__getattr__": lambda self, name: state[name]})
    model = cls()
    return [lambda: model.alpha], lambda: state.update(alpha=2.0)


@change
def side_state_of_getattribute():
    state = {"alpha": 1.0}
    model = type("Proxy", (), {"__getattribute__": lambda self, name: state[name]})()
    return [lambda: model.alpha], lambda: state.update(alpha=2.0)


@change
def state_of_a_descriptor():
    class Descriptor:
        def __get__(self, instance, owner):
            return self.value

    descriptor = Descriptor()
    descriptor.value = 1.0
    model = type("Model", (), {"alpha": descriptor})()
    return [lambda: model.alpha], setting(descriptor, "value", 2.0)


@change
def cached_property():
    class Model:
        @functools.cached_property
        def alpha(self):
            return 1.0

    model = Model()
    model.alpha  # noqa: B018
    return [lambda: model.alpha], setting(model, "alpha", 2.0)


@change
def static_method():
    held = [1.0]

    class Model:
        x = staticmethod(reader(held))

    model = Model()
    return [lambda: model.x()], lambda: held.append(2.0)


@change
def class_method():
    class Model:
        alpha = 1.0

        @classmethod
        def loss(cls):
            return cls.alpha

    return [Model.loss], setting(Model, "alpha", 2.0)


@change
def partial_method():
    held = [0.5]

    class Model:
        def loss(self, x):
            return x

        half = functools.partialmethod(loss, held)

    return [Model().half], lambda: held.append(1.0)


@change
def constructor_of_a_class():
    class Model:
        def __init__(self):
            self.alpha = ALPHA

    return of_alpha(lambda: Model().alpha)


@change
def constructor_of_the_class_of_an_object():
    class Model:
        def __init__(self):
            self.alpha = ALPHA

        def loss(self):
            return type(self)().alpha

    return of_alpha(Model().loss)


@change
def constructor_in_a_class_method():
    class Model:
        def __init__(self):
            self.alpha = ALPHA

        @classmethod
        def make(cls):
            return cls()

    model = Model()
    return of_alpha(lambda: model.make().alpha)


@change
def attribute_in_a_pattern():
    class Model:
        alpha = 1.0

    def f(x):
        match x:
            case Model(alpha=1.0):
                return 1.0
        return 2.0

    return [functools.partial(f, Model())], setting(Model, "alpha", 2.0)


@change
def registration_with_a_generic_function():
    @functools.singledispatch
    def f(x):
        return x

    return [f], lambda: f.register(int, abs)


@change
def registration_with_an_abstract_class():
    base = abc.ABCMeta("Base", (), {})
    return [lambda x: isinstance(x, base)], lambda: base.register(subclass(Callable))


@change
def hook_that_a_base_class_calls():
    class Base(jaxsolve.GradientDescent):
        pass

    solver = Base(abs)
    return [solver], setting(Base, "optimality_fun", lambda self, x: x)


@change
def flattening_of_a_node():
    @jax.tree_util.register_pytree_node_class
    class Node:
        def tree_flatten(self):
            return (), ALPHA

        @classmethod
        def tree_unflatten(cls, aux, children):
            return cls()

    node = Node()
    return of_alpha(lambda: jax.tree.map(abs, node))


@change
def members_of_an_enum():
    color = enum.Enum("Color", "RED GREEN")
    return [lambda name: color[name]], lambda: color._member_map_.pop("RED")


@change
def class_that_says_it_is_of_the_standard_library():
    cls = types.new_class("Model", (), {}, lambda held: held.update(alpha=1.0, f=lambda self: self.alpha))
    return [cls().f], setting(cls, "alpha", 2.0)


@change
def function_without_a_module():
    held = {"alpha": 1.0}
    exec("def f(x): return x * alpha", held)
    return [held["f"]], lambda: held.update(alpha=2.0)


@change
def function_that_says_it_is_of_numpy():
    f = functools.wraps(np.sum)(lambda x: x * ALPHA)
    return of_alpha(f)


def read(*values):
    return [lambda: values]


@change
def numpy_array_in_place():
    x = np.zeros(2)
    return read(x), lambda: x.fill(1.0)


@change
def numpy_array_that_is_read_only_for_the_time_being():
    x = np.zeros(2)

    def change():
        x.flags.writeable = True
        x[0] = 1.0
        x.flags.writeable = False

    x.flags.writeable = False
    return read(x), change


@change
def base_of_a_read_only_view():
    x = np.zeros(10_000)
    view = x[::2]
    view.flags.writeable = False
    return read(view), lambda: x.fill(1.0)


@change
def array_of_objects_in_place():
    x = np.array([[1], None], object)
    return read(x), lambda: x[0].append(2)


@change
def hostile_array_in_place():
    x = np.zeros(2)
    view = np.ndarray.view(x, HostileArray)
    return read(view), lambda: x.fill(1.0)


@change
def memory_map():
    import tempfile

    with tempfile.TemporaryFile() as file:
        file.write(bytes(16))
        file.flush()
        x = np.memmap(file, np.uint8, "r+", shape=(16,))
    return read(x), lambda: x.__setitem__(0, 1)


@change
def one_string_in_a_long_list():
    words = ["a"] * 10_000
    return read(words), lambda: words.__setitem__(5_000, "b")


@change
def list_inside_a_long_list():
    words = [*["a"] * 1000, ["b"], *["a"] * 1000]
    return read(words), lambda: words[1000].append("c")


@change
def beyond_the_limit_of_objects():
    items = [[] for _ in range(100_001)]
    return read(items), lambda: items[-1].append(1)


@change
def dictionary_deep_inside():
    inner = {"x": 1}
    return read(nested(5_000, inner)), lambda: inner.update(x=2)


@change
def order_of_an_ordered_dict():
    x = collections.OrderedDict(a=1, b=2)
    return read(x), lambda: x.move_to_end("a")


@change
def context_variable():
    variable = contextvars.ContextVar("variable", default=1.0)
    return [lambda: variable.get()], lambda: variable.set(2.0)


@change
def thread_local():
    local = threading.local()
    local.x = 1.0
    return [lambda: local.x], setting(local, "x", 2.0)


@change
def weak_reference_that_dies():
    model = [Ridge()]
    reference = weakref.ref(model[0])
    return [lambda: reference()], model.pop


@change
def weak_values():
    model = Ridge()
    held = weakref.WeakValueDictionary(x=model)
    return [lambda: held["x"].alpha], setting(model, "alpha", 2.0)


@change
def environment():
    os.environ["JAXSOLVE_A_VARIABLE"] = "1"
    return [lambda: os.environ["JAXSOLVE_A_VARIABLE"]], lambda: os.environ.update(JAXSOLVE_A_VARIABLE="2")


@change
def environment_by_a_function():
    return [lambda: os.getenv("JAXSOLVE_A_VARIABLE")], lambda: os.environ.update(JAXSOLVE_A_VARIABLE="3")


@change
def bound_method_of_a_list():
    x = [1]
    return [x.pop], lambda: x.append(2)


@change
def bound_method_of_a_dict():
    x = {"a": 1}
    return [lambda get=x.get: get("a")], lambda: x.update(a=2)


@change
def special_method_of_a_dict():
    x = {"a": 1}
    return [x.__getitem__], lambda: x.update(a=2)


@change
def attribute_of_an_array_subclass():
    x = np.zeros(2).view(type("Tagged", (np.ndarray,), {}))
    x.tag = 1.0
    return read(x), setting(x, "tag", 2.0)


@change
def clearing_a_cache():
    state = [1.0]
    f = functools.lru_cache(lambda: state[0])
    f()
    return [f], f.cache_clear


@change
def rule_of_a_custom_derivative():
    scale = [1.0]
    f = jax.custom_jvp(lambda x: x)
    f.defjvp(lambda primals, tangents: (primals[0], scale[0] * tangents[0]))
    return [lambda x: f(x)], lambda: scale.append(2.0)


@change
def array_replaced():
    model = {"w": jnp.ones(2)}
    return [lambda: model["w"]], lambda: model.update(w=jnp.ones(2))


@change
def mutable_array_of_jax():
    x = jax.new_ref(jnp.ones(2))
    return [lambda: x[...]], lambda: x.__setitem__(..., jnp.zeros(2))


# What always is in doubt.
@change
def globals_by_name():
    return of_alpha(lambda: globals()["ALPHA"])


@change
def globals_under_another_name():
    g = globals
    return of_alpha(lambda: g()["ALPHA"])


@change
def globals_of_a_function():
    return of_alpha(lambda: helper.__globals__["ALPHA"])


@change
def all_modules():
    return of_alpha(lambda: sys.modules[__name__].ALPHA)


@change
def evaluated_text():
    return of_alpha(lambda: eval("ALPHA"))


@change
def iterator():
    x = itertools.count()
    return [lambda: next(x)], lambda: next(x)


@change
def generator():
    x = (i for i in range(9))
    return [lambda: next(x)], lambda: next(x)


@change
def random_state_of_numpy():
    return [lambda: np.random.normal()], lambda: np.random.normal()  # noqa: NPY002


@change
def random_generator_of_numpy():
    rng = np.random.default_rng(0)
    return [lambda: rng.normal()], lambda: rng.normal()


@change
def random_state_of_a_module_that_was_captured():
    xp = np
    return [lambda: xp.random.normal()], lambda: np.random.normal()  # noqa: NPY002


@change
def random_state_of_a_module_that_is_imported_inside():
    def f():
        import numpy as xp

        return xp.random.normal()  # noqa: NPY002

    return [f], lambda: np.random.normal()  # noqa: NPY002


@change
def property_of_a_module():
    class Lazy(types.ModuleType):
        scale = property(lambda self: ALPHA)

    user = module_of("def f(x): return lazy.scale", lazy=Lazy("lazy"))
    return of_alpha(user.f)


@change
def node_that_is_registered_with_functions():
    class Node:
        pass

    jax.tree_util.register_pytree_node(
        Node, lambda node: ((node.hidden_from_the_walk,), None), lambda aux, children: None
    )
    node = Node()
    node.hidden_from_the_walk = 1.0
    return [lambda: jax.tree.leaves(node)], setting(node, "hidden_from_the_walk", 2.0)


@change
def field_of_a_dataclass():
    model = dataclasses.make_dataclass("Model", ["x"])(1.0)
    return [lambda: dataclasses.asdict(model)], setting(model, "x", 2.0)


@change
def attribute_of_a_copy():
    import copy

    model = Ridge()
    return [lambda: copy.copy(model).alpha], setting(model, "alpha", 2.0)


@change
def fresh_random_state_of_numpy():
    return [lambda: np.random.RandomState().normal()], lambda: None


@change
def file_of_numpy():
    return [lambda: np.load("a_file"), lambda: jnp.load("a_file")], lambda: None


@change
def random_state_of_python():
    return [lambda: random.random()], random.random


@change
def clock():
    return [lambda: time.perf_counter()], lambda: None


@change
def clock_of_datetime():
    return [lambda: datetime.datetime.now()], lambda: None


@change
def clock_that_was_imported_by_name():
    f = time.time
    return [lambda: f()], lambda: None


@change
def file():
    return [lambda: open("a_file")], lambda: None


@change
def path():
    return [lambda: pathlib.Path("a_file").read_text()], lambda: None


@pytest.mark.parametrize("name", CHANGES)
def test_every_kind_of_change_is_seen(name):
    functions, change = CHANGES[name]()
    before, again = snapshot(functions), snapshot(functions)
    assert before.same_as(again) or (before.doubt and again.doubt)
    change()
    after = snapshot(functions)
    assert not before.same_as(after) and not after.same_as(before)


# ---- Ordinary programs --------------------------------------------------------------------------------------------


def _ordinary():
    x, y = jnp.ones(2), np.ones(2)
    parameters = {"w": [x, jnp.zeros(2)], "name": "model", "scale": 2.0}
    config = module_of("scale = 1.0")
    model, optimizer = Ridge(), optax.adam(1e-3)
    relu, add, norm, key = jax.nn.relu, jnp.add, jnp.linalg.norm, jax.random.key(0)
    solver = jaxsolve.GradientDescent(lambda w: jnp.sum((w - x) ** 2))

    yield "lambda", lambda: lambda w: jnp.sum((w - x) ** 2) + np.sum(y) + len(parameters)
    yield "helper and global", lambda: lambda w: helper(w)
    yield "parameters", lambda: lambda w: w @ parameters["w"][0] + parameters["scale"]
    yield "module", lambda: lambda w: w * config.scale
    yield "jax", lambda: lambda w: jax.nn.softmax(jax.nn.relu(w)) + jnp.logaddexp(w, w) + jax.lax.exp(w) + jnp.pi
    yield "jax, by name", lambda: lambda w: relu(add(w, norm(w)))
    yield "numpy", lambda: lambda w: np.linalg.norm(y) + np.add(1, np.float32(2)) + np.where(y > 0, y, 0)
    yield "random key", lambda: lambda w: w + jax.random.normal(key, (2,)) + np.sqrt(2.0)
    yield "control flow", lambda: lambda w: jax.lax.cond(w[0] > 0, lambda: w, lambda: -w)
    yield "transformed", lambda: jax.vmap(jax.grad(lambda w: jnp.sum(w * x)))
    yield "optax", lambda: lambda w: optax.l2_loss(w) + optax.sigmoid_binary_cross_entropy(w, w)
    yield "optimizer", lambda: lambda w: optimizer.update(w, None)
    yield "bound method", lambda: model.loss
    yield "method of a class that saves to files", lambda: model.of_property
    yield "object of a class that is made from files", lambda: FromFile.make().loss
    yield "super", lambda: SubRidge().loss
    yield "callable", lambda: Callable()
    yield "partial", lambda: functools.partial(model.loss, w=1.0)
    yield "computed name", lambda: lambda w: w.T + x.dtype.itemsize
    yield "cache", lambda: functools.lru_cache(helper)
    yield "solver", lambda: solver
    yield "method of a solver", lambda: solver.run
    yield "inner solver", lambda: lambda w: jaxsolve.LBFGS(lambda v: jnp.sum((v - w) ** 2)).run(w).params
    yield "prox", lambda: lambda w: jaxsolve.prox.prox_lasso(w, 1.0)
    yield "logger", lambda: lambda w: LOG.info("%s", w)
    yield "typing", lambda: lambda w: isinstance(w, (Text, tuple[int] | None))
    yield "dataclass", lambda: lambda w: w * Frozen(1.0).x
    yield "enum", lambda: lambda w: w * (Flag.ON.value if Flag.ON is not Flag.OFF else 1)
    yield "ufunc and dtype", lambda: lambda w: w.astype(jnp.float32) + np.multiply(1, 2)
    yield "lock", lambda: (lambda lock: lambda w: w if lock else w)(threading.Lock())


ORDINARY = dict(_ordinary())


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_programs_are_not_in_doubt(name):
    first, second = snapshot([ORDINARY[name]()]), snapshot([ORDINARY[name]()])
    assert first.doubt is None and second.doubt is None
    assert first.same_as(second)


def _public(module):
    return [getattr(module, name) for name in dir(module) if not name.startswith("_") and name not in NOT_CODE]


# Random states, files, and settings of jax.
NOT_CODE = {"random", "memmap", "fromfile", "load", "loadtxt", "genfromtxt", "importlib"}


@pytest.mark.parametrize("module", [jnp, jax.lax, jax.nn, jax.numpy.linalg, jax.random, jax.tree, optax, np], ids=str)
def test_what_packages_offer_is_not_in_doubt(module):
    doubts = {snapshot([value]).doubt for value in _public(module)}
    assert doubts == {None}


@pytest.mark.parametrize("library", ["equinox", "flax.nnx", "flax.linen"])
def test_models_of_other_libraries_are_not_in_doubt(library):
    pytest.importorskip(library)
    f = {"equinox": _equinox, "flax.nnx": _nnx, "flax.linen": _linen}[library]()
    first = snapshot([f])
    assert first.doubt is None and first.same_as(snapshot([f]))
    assert first.arrays


def _equinox():
    import equinox

    model = equinox.nn.MLP(2, 2, 4, 2, key=jax.random.key(0))
    return lambda w: model(w)


def _nnx():
    from flax import nnx

    rngs = nnx.Rngs(0)
    model = nnx.Sequential(
        nnx.Linear(2, 2, rngs=rngs), nnx.relu, nnx.BatchNorm(2, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
    )
    return lambda w: model(w)


def _linen():
    from flax import linen

    model = linen.Dense(2)
    bound = model.bind(model.init(jax.random.key(0), jnp.ones(2, jnp.float32)))
    return lambda w: bound(w)


def test_variables_of_nnx_that_change_in_place_are_seen():
    nnx = pytest.importorskip("flax.nnx")
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    before = snapshot([lambda w: model(w)])
    model.kernel[...] = 3 * model.kernel[...]
    assert not before.same_as(snapshot([lambda w: model(w)]))


def test_haiku_is_in_doubt():
    haiku = pytest.importorskip("haiku")
    assert snapshot([lambda w: haiku.get_parameter("w", (2,), init=jnp.ones)]).doubt


def test_changes_of_what_is_not_read_are_not_seen():
    config, cls = module_of("scale = 1.0\nother = 1.0"), subclass(Ridge)
    model = cls()
    f = lambda w: w * config.scale + model.loss(w)
    before = snapshot([f])
    config.other, cls.other = 2.0, 2.0
    model.step = 1
    set_global("unread", 2.0)
    assert before.same_as(snapshot([f]))


def test_rules_of_two_traces_are_the_same_unless_they_captured_something_else():
    def rules(f, *args):
        return [
            e.params["jvp_jaxpr_fun"]
            for e in jax.make_jaxpr(lambda *a: f(*a))(*args).eqns
            if "jvp_jaxpr_fun" in e.params
        ]

    def own(scale):
        f = jax.custom_jvp(lambda x: x)
        f.defjvp(lambda primals, tangents: (primals[0], scale * tangents[0]))
        return f

    x, scale = jnp.ones(2), jnp.ones(2)
    for f, args in ((jax.nn.relu, (x,)), (own(scale), (x,))):
        first, second = snapshot(rules(f, *args)), snapshot(rules(f, *args))
        assert len(rules(f, *args)) == 1
        assert first.same_as(second)
    assert snapshot(rules(own(scale), x)).same_as(snapshot(rules(own(scale), x)))
    assert not snapshot(rules(own(scale), x)).same_as(snapshot(rules(own(jnp.ones(2)), x)))
    assert id(scale) in snapshot(rules(own(scale), x)).arrays


def test_tracers_are_arrays():
    met = {}

    def g(x):
        met.update(snapshot([lambda w: w * x]).arrays)
        return x

    jax.jit(g)(1.0)
    (tracer,) = met.values()
    assert isinstance(tracer, jax.core.Tracer)


def test_tokens_keep_nothing_alive():
    def make():
        array, model, cls = jnp.ones(2), Ridge(), subclass(Ridge)
        tokens = snapshot([lambda w: (w * array, model.loss(w), cls.alpha)]).tokens
        return tokens, [weakref.ref(value) for value in (array, model, cls)]

    tokens, references = make()
    gc.collect()
    assert [reference() for reference in references] == [None] * 3
    assert tokens


def test_snapshots_of_fresh_functions_leave_nothing_behind():
    def turn():
        array = jnp.ones(2)
        return snapshot([lambda: array])

    last = turn()
    count = len(gc.get_objects())
    for _ in range(100):
        last = turn()
    assert len(gc.get_objects()) < count + 50
    assert len(last.arrays) == 1


def test_a_token_of_an_array_that_is_gone_equals_none():
    def tokens():
        array = jnp.ones(2)
        return snapshot([lambda: array]).tokens

    assert tokens() != tokens()


def test_the_message_says_what_is_in_doubt():
    assert "open" in snapshot([lambda: open("a_file")]).doubt
    assert "Generator" in snapshot([functools.partial(abs, np.random.default_rng(0))]).doubt
    assert "100,000" in snapshot([[[] for _ in range(200_000)]]).doubt
