"""What a jaxpr does, as a list that can be compared: two traces with equal lists are one program.

Variables are numbered in the order in which they appear, so their names do not matter; arrays that a jaxpr takes as
arguments do not either. Functions in the parameters of an equation, such as the derivative rule of a ``custom_jvp``
function, are new objects in every trace: they are compared by what they would read (:mod:`jaxsolve._capture`).
"""

from __future__ import annotations

import enum
from typing import Any

import jax
import numpy as np

from jaxsolve._capture import Same, reached, snapshot
from jaxsolve._compat import ClosedJaxpr, Jaxpr, Literal, calls, is_wrapped_function

__all__ = ["calls_back", "fingerprint"]


def fingerprint(jaxpr: Any) -> list:
    """The list that stands for a jaxpr, open or closed."""
    tokens: list = []
    _Writer(tokens).jaxpr(jaxpr)
    return tokens


def calls_back(jaxpr: Any) -> bool:
    """Whether a jaxpr calls a function of the host, at any depth."""
    return calls(_CALLBACK, jaxpr)


_CALLBACK = "callback"  # is in the names of all primitives that do


class _Object:
    """Equal to a token of the very same object, or of one that reads the same."""

    def __init__(self, value: Any):
        self._same, self._reads = Same(value), snapshot([value])._replace(arrays={})

    def __eq__(self, other):
        return type(other) is _Object and (self._same == other._same or self._reads.same_as(other._reads))


class _Writer:
    """Writes the tokens of one jaxpr; variables are numbered within it.

    Objects are looked at once for all jaxprs that are written into one list: most of a thousand are the same few.
    """

    def __init__(self, tokens: list, objects: dict[int, Any] | None = None):
        self._tokens, self._numbers, self._calls_back = tokens, {}, False
        self._objects = {} if objects is None else objects

    def jaxpr(self, jaxpr: Any) -> None:
        if hasattr(jaxpr, "consts"):
            for const in jaxpr.consts:
                self._array(const)
            jaxpr = jaxpr.jaxpr
        write = self._tokens.append
        write((len(jaxpr.constvars), len(jaxpr.invars), len(jaxpr.outvars)))
        for variable in (*jaxpr.constvars, *jaxpr.invars):
            self._define(variable)
        for equation in jaxpr.eqns:
            write(equation.primitive)
            self._calls_back = _CALLBACK in equation.primitive.name
            for atom in equation.invars:
                self._use(atom)
            for name, value in equation.params.items():
                write(name)
                self._parameter(value)
            write(equation.ctx)
            for variable in equation.outvars:
                self._define(variable)
        for atom in jaxpr.outvars:
            self._use(atom)

    def _define(self, variable):
        self._numbers[variable] = len(self._numbers)
        self._tokens.append(variable.aval)

    def _use(self, atom):
        if isinstance(atom, Literal):
            self._tokens.append(atom.aval)
            self._array(atom.val)
        else:
            self._tokens.append(self._numbers[atom])

    def _array(self, value):
        if isinstance(value, jax.Array):
            self._object(value)
        else:
            value = np.asarray(value)
            self._tokens.append((value.shape, value.dtype, value.tobytes()))

    def _object(self, value):
        # With the object itself, which must live as long as its id counts.
        if id(value) not in self._objects:
            self._objects[id(value)] = value, _Object(value)
        self._tokens.append(self._objects[id(value)][1])
        if self._calls_back:
            self._tokens += map(Same, reached([value]))

    def _parameter(self, value):
        if isinstance(value, (ClosedJaxpr, Jaxpr)):
            _Writer(self._tokens, self._objects).jaxpr(value)
        elif hasattr(type(value), "parts_of_program"):
            self._tokens.append(type(value))
            self._parameter(value.parts_of_program())
        elif isinstance(value, (tuple, list)):
            self._tokens.append((type(value), len(value)))
            for part in value:
                self._parameter(part)
        elif isinstance(value, (np.ndarray, np.generic, jax.Array, float, complex)):
            self._tokens.append(type(value))
            self._array(value)
        elif value is None or isinstance(value, (type, enum.Enum)):
            self._tokens.append(value)
        elif callable(value) or is_wrapped_function(value) or type(value).__eq__ is object.__eq__:
            self._object(value)
        else:
            self._tokens.append((type(value), value))
