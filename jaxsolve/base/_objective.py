"""The objective as solvers use it: values, gradients and auxiliary output, for every form of the user's function."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxsolve._closure import Staged, output_shape
from jaxsolve._vectors import unpacked
from jaxsolve.base._params import as_like
from jaxsolve.tree_util import tree_real_dtype

__all__ = ["Objective", "blank_output", "lacks_data"]


class Objective:
    """A function to minimize, seen through three callables that share one trace of it.

    Args:
        fun: ``fun(params, *args, **kwargs)``, which returns a real scalar ``value``; the next two options change this.
        value_and_grad: whether ``fun`` returns ``(value, grad)`` rather than ``value``.
        has_aux: whether ``fun`` returns ``(value, aux)`` in place of ``value``.
        staged: trace ``fun`` once and evaluate its jaxpr from then on; ``False`` calls it, for host functions.
    """

    def __init__(self, fun: Callable, *, value_and_grad: bool = False, has_aux: bool = False, staged: bool = False):
        stage = Staged if staged else (lambda fun, name, check, as_call=False: fun)
        form = "fun" if not value_and_grad else "fun (with value_and_grad=True)"
        self._has_aux, self._gives_grad = has_aux, value_and_grad
        self._fun = stage(fun, form, self._check_output)
        self.__wrapped__ = fun  # for `inspect.signature`
        self._value_and_grad = stage(self._differentiate, "fun", lambda out: None, as_call=True)

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> Any:
        """What ``fun`` returns."""
        return self._fun(params, *args, **kwargs)

    def value(self, params: Any, *args: Any, **kwargs: Any) -> tuple[jax.Array, Any]:
        """``(value, aux)``; ``aux`` is ``None`` without one."""
        value, aux = self._value_and_aux(self._fun(params, *args, **kwargs))
        return jnp.asarray(value), aux

    def value_shape(self, params: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """``(value, aux)`` as a pytree of ``jax.ShapeDtypeStruct``, without evaluating anything."""
        return self._value_and_aux(output_shape(self._fun, params, *args, **kwargs))

    def _value_and_aux(self, out):
        out = out[0] if self._gives_grad else out
        return out if self._has_aux else (out, None)

    def value_and_grad(self, params: Any, *args: Any, **kwargs: Any) -> tuple[tuple[jax.Array, Any], Any]:
        """``((value, aux), grad)``, the gradient with the structure and dtypes of ``params``."""
        return self._value_and_grad(params, *args, **kwargs)

    def grad(self, params: Any, *args: Any, **kwargs: Any) -> Any:
        """The gradient in ``params``."""
        return self.value_and_grad(params, *args, **kwargs)[1]

    def on_packed(self) -> Objective:
        """The objective as a function of packed parameters, with packed gradients; see :mod:`jaxsolve._vectors`."""

        def value_and_grad(params, *args, **kwargs):
            out, grad = self._value_and_grad(unpacked(params), *args, **kwargs)
            return out, params.layout.pack(grad)

        packed = copy.copy(self)
        packed._fun = lambda params, *args, **kwargs: self._fun(unpacked(params), *args, **kwargs)
        packed._value_and_grad = value_and_grad
        return packed

    def _differentiate(self, params, *args, **kwargs):
        if any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(params)):
            raise TypeError(
                "init_params has complex leaves, which this solver does not take: make fun a function of their real "
                "and imaginary parts, fun((x.real, x.imag), ...)."
            )
        if self._gives_grad:
            out = self._fun(params, *args, **kwargs)
            (value, aux), grad = self._value_and_aux(out), out[1]
        else:
            (value, aux), grad = jax.value_and_grad(self.value, has_aux=True)(params, *args, **kwargs)
        return (jnp.asarray(value), aux), as_like("the gradient of fun", grad, params)

    def _check_output(self, out) -> None:
        wanted = "(value, aux)" if self._has_aux else "a scalar value"
        if self._gives_grad:
            wanted = f"({wanted}, grad)"
        out = _first(out, wanted) if self._gives_grad else out
        out = _first(out, wanted) if self._has_aux else out
        leaves = jax.tree.leaves(out)
        if len(leaves) != 1 or not hasattr(out, "shape") and not isinstance(out, (int, float)):
            raise TypeError(
                f"fun must return {wanted}, but its value is {jax.tree.structure(out)}. If it returns auxiliary output "
                "too, set has_aux=True; if it returns its gradient too, set value_and_grad=True."
            )
        if jnp.shape(leaves[0]) != ():
            raise ValueError(f"fun must return a scalar, but its value has shape {jnp.shape(leaves[0])}.")
        if not jnp.issubdtype(jnp.result_type(leaves[0]), jnp.floating):
            raise TypeError(f"fun must return a real number, but its value has dtype {jnp.result_type(leaves[0])}.")


def lacks_data(fun: Callable, args: tuple, kwargs: dict) -> bool:
    """Whether ``fun`` takes data, but none is given: a program may call ``init_state(params)`` before it has any."""
    try:
        parameters = list(inspect.signature(fun).parameters.values())[1:]
    except (TypeError, ValueError):  # functions written in C
        return False
    required = (
        p.kind is p.VAR_POSITIONAL or (p.default is p.empty and p.kind is not p.VAR_KEYWORD) for p in parameters
    )
    return not args and not kwargs and any(required)


def blank_output(solver: Any, params: Any, args: tuple, kwargs: dict) -> tuple[Any, Any, int]:
    """What a state holds of the output of ``fun`` before the first step.

    Returns:
        The dtype of values; auxiliary output in its structure, shapes and dtypes, if there is any; and the number of
        evaluations that it took. Without ``jit`` a function may be one of the host, and its auxiliary output is known
        only once it is called. Without the data that ``fun`` takes, the dtype is that of the parameters, and there is
        no auxiliary output until the first ``update``.
    """
    if lacks_data(solver.fun, args, kwargs):
        return tree_real_dtype(params), None, 0
    if solver.jit:
        value, aux = solver._objective.value_shape(params, *args, **kwargs)
        return value.dtype, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), aux), 0
    if not solver.has_aux:
        return tree_real_dtype(params), None, 0
    value, aux = solver._objective.value(params, *args, **kwargs)
    return value.dtype, aux, 1


def _first(out, wanted):
    if not isinstance(out, (tuple, list)) or len(out) != 2:
        raise TypeError(f"fun must return {wanted}, but it returned {jax.tree.structure(out)}.")
    return out[0]
