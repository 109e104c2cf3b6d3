"""Options of a solver: dataclass fields with defaults one can see, checked when the solver is made.

A solver declares its own fields; those common to all solvers are declared once, in the base classes. A class lists in
``order`` the order in which its constructor takes them, because positional calls of the field's older libraries must
keep their meaning.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any, ClassVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._compat import is_concrete
from jaxsolve.linesearch._base import check_choice
from jaxsolve.tree_util import tree_cast_like

__all__ = [
    "Options",
    "as_like",
    "check_callable",
    "check_choice",
    "check_init_params",
    "check_number",
    "option",
    "required",
]


def option(default: Any) -> Any:
    """A field with a default that is declared for all solvers, and so stands behind their own ones."""
    return dataclasses.field(default=default, kw_only=True)


def required() -> Any:
    """A field without a default that is declared for several solvers."""
    return dataclasses.field(kw_only=True)


@dataclass_transform(eq_default=False, field_specifiers=(dataclasses.field, option, required))
class Options:
    """Base of everything that is configured by fields.

    Subclasses become dataclasses by themselves; the decorator ``dataclasses.dataclass`` changes nothing about them.
    ``inspect.signature`` shows every field with its default. Equality is identity; what two solvers have in common is
    recognized by the compilation cache, not by ``==``.

    NumPy scalars are taken as the Python numbers that they stand for, and so are arrays with a known value where a
    whole number is wanted.
    """

    order: ClassVar[str] = ""
    __signature__: ClassVar[inspect.Signature]

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "__post_init__" in cls.__dict__:
            raise TypeError(
                f"{cls.__name__} must not define __post_init__, which is not called where a solver is rebuilt from its "
                "fields: check options in validate(), and compute what follows from them in properties."
            )
        dataclasses.dataclass(eq=False, init=False, repr=False)(cls)
        _prepare_for_decorator(cls)
        if not inspect.isabstract(cls):
            cls.__signature__ = _make_signature(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        bound = type(self).__signature__.bind(*args, **kwargs)
        bound.apply_defaults()
        types = {f.name: f.type for f in dataclasses.fields(self)}  # type: ignore[arg-type]  # as below
        self.__dict__.update({name: _as_python(name, types[name], x) for name, x in bound.arguments.items()})
        self.validate()

    def validate(self) -> None:
        """Raise ``ValueError`` or ``TypeError`` for an impossible option. Subclasses extend it."""

    def __repr__(self) -> str:
        shown = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in dataclasses.fields(self)  # type: ignore[arg-type]  # subclasses are dataclasses
            if not _is_default(getattr(self, f.name), f)
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


def _is_default(value, field) -> bool:
    return value is field.default or (isinstance(value, (bool, int, float, str)) and value == field.default)


def _prepare_for_decorator(cls) -> None:
    """Make ``@dataclasses.dataclass`` on top of a class harmless: it is what people are used to write."""
    fields, own = {f.name: f for f in dataclasses.fields(cls)}, inspect.get_annotations(cls)
    if "order" not in cls.__dict__:
        # Fields that a class declares plainly are taken by position, those without a default first.
        plain = [name for name in own if name in fields and not fields[name].kw_only and name not in cls.order.split()]
        plain.sort(key=lambda name: not _is_required(fields[name]))
        ordered = all(_is_required(fields[name]) for name in cls.order.split() if name in fields)
        cls.order = " ".join([*cls.order.split(), *(n for n in plain if ordered or not _is_required(fields[n]))])
    # The decorator leaves alone what the class has of its own,
    for name in ("__init__", "__repr__", "__eq__", "__hash__"):
        if name not in cls.__dict__:
            setattr(cls, name, getattr(cls, name))
    # and refuses required fields behind those of a base class, unless they are marked.
    for name in own:
        if name in fields and _is_required(fields[name]) and name not in cls.__dict__:
            setattr(cls, name, required())


def _is_required(field) -> bool:
    return field.default is dataclasses.MISSING


def _make_signature(cls) -> inspect.Signature:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    first = [name for name in cls.order.split() if name in fields]
    kinds = inspect.Parameter
    parameters = [_parameter(fields[name], kinds.POSITIONAL_OR_KEYWORD) for name in first]
    parameters += [_parameter(f, kinds.KEYWORD_ONLY) for name, f in fields.items() if name not in first]
    return inspect.Signature(parameters)


def _parameter(field, kind) -> inspect.Parameter:
    default = inspect.Parameter.empty if _is_required(field) else field.default
    return inspect.Parameter(field.name, kind, default=default, annotation=field.type)


def _as_python(name: str, kind: Any, value: Any) -> Any:
    """A number as Python has it, if its value is known and the field is declared to be a number."""
    if not {"int", "float", "bool"}.intersection(re.findall(r"\w+", str(kind))):
        return value
    if isinstance(value, np.generic) and isinstance(value.item(), (bool, int, float)):
        value = value.item()
    if kind not in ("int", int) or isinstance(value, bool) or not is_concrete(value):
        return value
    if isinstance(value, (np.ndarray, jax.Array)) and value.ndim == 0 and value.dtype != bool:
        value = value.item()
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError(f"{name} must be a whole number, got {value!r}.")
        return int(value)
    return value


# ---- Checks -------------------------------------------------------------------------------------------------------


def check_number(
    name: str, value: Any, *, at_least: float | None = None, above: float | None = None, below: float | None = None
) -> None:
    """Raise unless ``value`` is a number within bounds.

    Args:
        name: name of the option, for the message.
        value: a Python number or a 0-d array; the value of a traced one is not checked.
        at_least: smallest allowed value.
        above: bound that the value must exceed.
        below: bound that the value must stay under.

    Raises:
        TypeError: ``value`` is not a real number.
        ValueError: it is out of bounds.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, jax.Array, np.ndarray, np.generic)):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}.")
    if jnp.iscomplexobj(value):
        raise TypeError(f"{name} must be a real number, got {value!r}.")
    if not is_concrete(value):
        return
    values = np.asarray(value)
    wrong = (
        (at_least is not None and not np.all(values >= at_least) and f"at least {at_least}")
        or (above is not None and not np.all(values > above) and f"greater than {above}")
        or (below is not None and not np.all(values < below) and f"less than {below}")
    )
    if wrong:
        raise ValueError(f"{name} must be {wrong}, got {value!r}.")


def check_callable(name: str, value: Any, expected: str) -> None:
    """Raise ``TypeError`` unless ``value`` is callable; ``expected`` says what it should be, with its signature."""
    if not callable(value):
        raise TypeError(f"{name} must be {expected}, got {value!r} of type {type(value).__name__}.")


def check_init_params(init_params: Any) -> None:
    """Raise ``ValueError`` if there is nothing to start from."""
    if not jax.tree.leaves(init_params):
        raise ValueError(f"init_params must have at least one array, got {init_params!r}.")


def as_like(name: str, image: Any, like: Any) -> Any:
    """The output of a function that maps a pytree to one of the same structure and shapes, in the dtypes of ``like``.

    Args:
        name: what the solver calls the function, for the message.
        image: what it returned.
        like: pytree that it was to be like.

    Raises:
        ValueError: structure or shapes are different.
    """

    def described(tree):
        return jax.tree.structure(tree), [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]

    got, expected = described(image), described(like)
    if got != expected:
        raise ValueError(
            f"{name} must return the structure and shapes of the parameters: expected {expected[0]} with shapes "
            f"{expected[1]}, got {got[0]} with shapes {got[1]}."
        )
    return tree_cast_like(image, like)
