"""Options: dataclass fields with defaults one can see, checked when a solver or a line search is made.

A class declares its own fields; those common to a family are declared once, in a base class. The functions of the user
are positional, every other option is given by its name.
"""

from __future__ import annotations

import abc
import dataclasses
import difflib
import inspect
from collections.abc import Sequence
from typing import Any, ClassVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._compat import is_concrete, without_our_frames
from jaxsolve._docstrings import with_options

__all__ = ["Configured", "check_callable", "check_choice", "check_number", "option"]


def option(
    default: Any = dataclasses.MISSING,
    *,
    at_least: Any = None,
    above: Any = None,
    below: Any = None,
    among: Sequence | None = None,
) -> Any:
    """A field that is given by its name, with its limits; without a default it is required.

    Limits are checked when an instance is made. They also hold in subclasses that declare the option again, with
    another default or narrower limits. ``None`` is allowed if the type of the option includes it. An option of type
    ``bool`` must be ``True`` or ``False``.

    Args:
        default: value of the option if it is not given.
        at_least: smallest value of a number; for this and the next two see :func:`check_number`.
        above: bound that a number must exceed.
        below: bound that a number must stay under.
        among: all allowed values, for an option that is not a number.
    """
    limits = {"at_least": at_least, "above": above, "below": below, "among": among}
    limits = {name: limit for name, limit in limits.items() if limit is not None}
    return dataclasses.field(default=default, kw_only=True, metadata={"limits": limits})


class _Checked(abc.ABCMeta):
    """Checks an instance once it is complete, whatever ``__init__`` or ``__post_init__`` its class has."""

    def __new__(mcs, name, bases, namespace, **kwargs):
        cls = super().__new__(mcs, name, bases, namespace, **kwargs)
        # A field may stand in the place of an abstract method.
        cls.__abstractmethods__ -= set(getattr(cls, "__dataclass_fields__", ()))
        return cls

    @property
    def __doc__(cls) -> str | None:  # type: ignore[override]  # of the classes, not of this one
        """What ``help`` and editors show: the docstring with every option, own and inherited."""
        doc = vars(cls).get("__doc__")
        # While a class is made it has none of its options yet.
        return with_options(cls, doc) if doc and "__dataclass_fields__" in vars(cls) else doc

    @__doc__.setter
    def __doc__(cls, doc: str | None) -> None:
        type.__dict__["__doc__"].__set__(cls, doc)

    @property
    def __signature__(cls) -> inspect.Signature:
        parameters = list(inspect.signature(cls.__init__).parameters.values())
        return inspect.Signature(parameters[1:])

    @without_our_frames
    def __call__(cls, *args, **kwargs):
        try:
            instance = super().__call__(*args, **kwargs)
        except TypeError as error:
            raise _explained(cls, args, kwargs, error) from None
        for field in dataclasses.fields(instance):
            value = getattr(instance, field.name)
            plain = _as_python(field, value)
            if plain is not value:
                setattr(instance, field.name, plain)
            if plain is not None or "None" not in str(field.type):
                _check_limits(field.name, plain, **instance._limits.get(field.name, {}))
        instance._validate()
        return instance


def _explained(cls, args, kwargs, error) -> TypeError:
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    by_position = [p.name for p in cls.__signature__.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(args) > len(by_position) and "positional argument" in str(error):
        others = ", ".join(f"{name}=..." for name in known if name not in by_position)
        taken = f"{', '.join(by_position) or 'nothing'} by position"
        return TypeError(
            f"{cls.__name__} takes {taken}, and got {len(args)} values; options are given by name: {others}."
        )
    unknown = [name for name in kwargs if name not in known]
    if not unknown or f"'{unknown[0]}'" not in str(error):
        return error
    close = difflib.get_close_matches(unknown[0].replace("_", ""), [name.replace("_", "") for name in known], n=1)
    nearest = [name for name in known if name.replace("_", "") in close]
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"its options are {', '.join(known)}."
    return TypeError(f"{cls.__name__} has no option {unknown[0]!r}; {hint}")


@dataclass_transform(eq_default=False, field_specifiers=(dataclasses.field, option))
class Configured(metaclass=_Checked):
    """Base of everything that is configured by fields.

    Subclasses become dataclasses by themselves; the decorator ``dataclasses.dataclass`` on top of one is allowed.
    Equality is identity: what two instances have in common is found by the compilation cache. NumPy scalars are taken
    as the Python numbers that they stand for, and so are arrays with a known value where the default is a whole number.
    """

    #: Limits of the options, by name.
    _limits: ClassVar[dict[str, dict]] = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # An option that a subclass declares again, even as a plain field, is still given by its name.
        inherited = {name for name, field in getattr(cls, "__dataclass_fields__", {}).items() if field.kw_only}
        fields = {name: value for name, value in vars(cls).items() if isinstance(value, dataclasses.Field)}
        declared = {name for name, field in fields.items() if field.kw_only is True}
        cls._limits = {}
        for base in reversed(cls.__bases__):
            cls._limits.update(getattr(base, "_limits", {}))
        for name in declared:
            of_type = {"among": (True, False)} if inspect.get_annotations(cls).get(name) in ("bool", bool) else {}
            own = fields[name].metadata.get("limits", {})
            cls._limits[name] = {**of_type, **cls._limits.get(name, {}), **own}
        # Among the annotations, where the decorator finds them too: it sees defaults, and no longer fields.
        positional = inspect.get_annotations(cls)
        by_name = {name: positional.pop(name) for name in list(positional) if name in inherited | declared}
        if by_name:
            cls.__annotations__ = {**positional, "_": dataclasses.KW_ONLY, **by_name}
        dataclasses.dataclass(eq=False, repr=False, init="__init__" not in vars(cls))(cls)

    def __post_init__(self) -> None:
        """Called when the fields are set; a subclass may define one of its own."""

    def _validate(self) -> None:
        """Raise ``ValueError`` or ``TypeError`` for an impossible option. Subclasses extend it."""

    def __repr__(self) -> str:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # subclasses are dataclasses
        shown = [f"{f.name}={getattr(self, f.name)!r}" for f in fields if not _is_default(getattr(self, f.name), f)]
        return f"{type(self).__name__}({', '.join(shown)})"


def _is_default(value, field) -> bool:
    return value is field.default or (isinstance(value, (bool, int, float, str)) and value == field.default)


def _as_python(field, value):
    if isinstance(value, np.generic) and not isinstance(value, (str, bytes)) and isinstance(value.item(), (int, float)):
        value = value.item()
    if type(field.default) is not int or isinstance(value, bool) or not is_concrete(value):
        return value
    if isinstance(value, (np.ndarray, jax.Array)) and value.ndim == 0 and jnp.issubdtype(value.dtype, jnp.number):
        value = value.item()
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError(f"{field.name} must be a whole number, got {value!r}.")
        return int(value)
    return value


# ---- Checks -------------------------------------------------------------------------------------------------------


def _check_limits(name, value, among=None, **bounds):
    if among is not None:
        check_choice(name, value, among)
    elif bounds:
        check_number(name, value, **bounds)


def check_number(name: str, value: Any, *, at_least: Any = None, above: Any = None, below: Any = None) -> None:
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
    bounds = (
        (f"at least {at_least}", at_least is None or np.all(values >= at_least)),
        (f"greater than {above}", above is None or np.all(values > above)),
        (f"less than {below}", below is None or np.all(values < below)),
    )
    broken = [wanted for wanted, holds in bounds if not holds]
    if broken:
        raise ValueError(f"{name} must be {' and '.join(broken)}, got {value!r}.")


def check_choice(name: str, value: Any, allowed: Sequence) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``allowed``."""
    if not any(value is a or (type(value) is type(a) and value == a) for a in allowed):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}.")


def check_callable(name: str, value: Any, expected: str) -> None:
    """Raise ``TypeError`` unless ``value`` is callable; ``expected`` says what it should be, with its signature."""
    if not callable(value):
        raise TypeError(f"{name} must be {expected}, got {value!r} of type {type(value).__name__}.")
