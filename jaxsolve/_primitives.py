"""Our own primitives, for derivatives that jax's custom derivatives cannot express.

They are: outputs with given tangents, linear maps of which only the transpose is known, and values that can be
differentiated in forward mode only. Apart from ``_compat`` this is the only module that uses semi-public jax APIs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.core
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir

from jaxsolve._precision import full_precision

try:  # importing `jax.extend`, which has the same, brings Pallas along and takes longer than all of this package
    from jax._src import core as jax_core
except ImportError:
    import jax.extend.core as jax_core

__all__ = ["forward_only", "jax_core", "reverse_only", "with_tangents"]

# ---- Outputs with tangents of their own ---------------------------------------------------------------------------
#
# `with_tangents` could be a `jax.custom_jvp` of an identity function, but for one thing: partial evaluation (reverse
# mode through `scan`, `while_loop` and, before jax 0.7, `jit`) forgets a custom_jvp rule as soon as it has been used
# once, and evaluates the function instead. A second derivative is then silently taken of an identity: the Hessian of a
# scan over solver runs was wrong by its whole size on jax 0.10.1. A primitive keeps its rule.

TangentRule = Callable[[list, tuple[int, ...], list], list]


def with_tangents(outputs: list, data: list, rule: TangentRule) -> list:
    """Return ``outputs`` unchanged, with tangents given by a rule instead of by how they were computed.

    Args:
        outputs: list of arrays. Their own tangents are ignored.
        data: list of arrays on which the tangents of the outputs depend.
        rule: ``rule(args, active, tangents)`` with ``args = outputs + data``; ``active`` are the positions in ``args``
            of the ``data`` that have a tangent, and ``tangents`` those tangents. It returns one tangent an output, or
            ``None`` for zero. It must be linear in ``tangents``, differentiable in ``args``, and close over no tracer.
            It runs once a derivative order, never when nothing is differentiated.

    Returns:
        The outputs, as a list; differentiable to any order in both modes and under every other transformation.
    """
    return _with_tangents_p.bind(*outputs, *data, num_out=len(outputs), rule=rule)


_with_tangents_p = jax_core.Primitive("with_tangents")
_with_tangents_p.multiple_results = True


def _impl(*args, num_out, rule):
    del rule
    return list(args[:num_out])


def _jvp(primals, tangents, *, num_out, rule):
    # The outputs that the rule sees carry the rule themselves: so the next derivative finds it.
    outputs = _with_tangents_p.bind(*primals, num_out=num_out, rule=rule)
    active = tuple(i for i, t in enumerate(tangents) if i >= num_out and not _is_zero(t))
    if active:
        with full_precision():
            out_tangents = rule([*outputs, *primals[num_out:]], active, [tangents[i] for i in active])
    else:
        out_tangents = [None] * num_out
    return outputs, [_zero(x) if t is None else t for x, t in zip(outputs, out_tangents, strict=True)]


def _zero(primal):
    return ad.Zero(jax.typeof(primal).to_tangent_aval())


def _is_zero(tangent) -> bool:
    return type(tangent) is ad.Zero or jnp.result_type(tangent) == jax.dtypes.float0


def _batch(args, dims, *, num_out, rule):
    # An unbatched output may still have a batched tangent.
    args, axes = _batched_in_front(args, dims, always=range(num_out))
    return _with_tangents_p.bind(*args, num_out=num_out, rule=_BatchedRule(rule, axes)), [0] * num_out


def _batched_in_front(args, dims, always):
    """Arguments with their batch axis in front, if they have one or are in ``always``, and their batch axes."""
    size = next(x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None)
    axes = tuple(0 if i in always or d is not None else None for i, d in enumerate(dims))

    def in_front(x, dim, axis):
        if dim is not None:
            return jnp.moveaxis(x, dim, 0)
        return x if axis is None else jnp.broadcast_to(x, (size, *x.shape))

    return list(map(in_front, args, dims, axes)), axes


@dataclasses.dataclass(frozen=True)  # jax 0.8 and 0.9 hold parameters of primitives weakly, as tuples cannot be
class _BatchedRule:
    """The rule of one batch element, applied to all."""

    rule: TangentRule
    axes: tuple[int | None, ...]

    def parts_of_program(self) -> tuple:
        """What two of them agree in if they are of one program."""
        return (self.rule, self.axes)

    def __call__(self, args, active, tangents):
        def one(args, tangents):
            return self.rule(args, active, tangents)

        return jax.vmap(one, in_axes=(list(self.axes), [self.axes[i] for i in active]))(args, tangents)


# ---- Linear maps that are known by their transpose ----------------------------------------------------------------


def reverse_only(like: list, args: list, tangents: list, rule: Callable[[list, list], list]) -> list:
    """A linear map of ``tangents`` of which only the transpose can be computed.

    Args:
        like: list of arrays, with the shapes and dtypes of the result.
        args: list of arrays on which the map depends.
        tangents: list of arrays.
        rule: ``rule(args, cotangents)`` gives the cotangents of ``tangents``. It closes over no tracer.

    Returns:
        A list of arrays that can be transposed, as reverse mode does, and not be computed.
    """
    avals = tuple(jax.core.ShapedArray(jnp.shape(x), jnp.result_type(x)) for x in like)
    return _reverse_only_p.bind(*args, *tangents, avals=avals, num_args=len(args), rule=rule)


_reverse_only_p = jax_core.Primitive("reverse_only")
_reverse_only_p.multiple_results = True


def _refuse(*args, **params):
    del args, params
    raise TypeError(
        "the optimality function contains a jax.custom_vjp function, which has no forward mode: take first derivatives "
        "only, by jax.grad, jax.vjp or jax.jacrev, or define the function by jax.custom_jvp."
    )


def _transpose_reverse_only(cotangents, *operands, avals, num_args, rule):
    full = [jnp.zeros(a.shape, a.dtype) if type(c) is ad.Zero else c for c, a in zip(cotangents, avals, strict=True)]
    with full_precision():
        return [*[None] * num_args, *rule(list(operands[:num_args]), full)]


def _batch_reverse_only(operands, dims, *, avals, num_args, rule):
    operands, axes = _batched_in_front(operands, dims, always=range(num_args, len(operands)))
    avals = tuple(a.update(shape=(operands[-1].shape[0], *a.shape)) for a in avals)
    rule = _BatchedTranspose(rule, axes[:num_args])
    return _reverse_only_p.bind(*operands, avals=avals, num_args=num_args, rule=rule), [0] * len(avals)


@dataclasses.dataclass(frozen=True)
class _BatchedTranspose:
    """The transpose of a linear map for one batch element, applied to all."""

    rule: Callable
    axes: tuple[int | None, ...]

    def parts_of_program(self) -> tuple:
        """What two of them agree in if they are of one program."""
        return (self.rule, self.axes)

    def __call__(self, args: list, cotangents: list) -> list:
        return jax.vmap(self.rule, in_axes=(list(self.axes), 0))(args, cotangents)


def forward_only(x: jax.Array, why: str) -> jax.Array:
    """``x``, which can be differentiated in forward mode; reverse mode raises a ``ValueError`` that says why not."""
    return _forward_only_p.bind(x, why=why)


_forward_only_p = jax_core.Primitive("forward_only")


def _jvp_forward_only(primals, tangents, *, why):
    (x,), (tangent,) = primals, tangents
    return forward_only(x, why), tangent if _is_zero(tangent) else forward_only(tangent, why)


def _refuse_transpose(cotangent, x, *, why):
    del cotangent, x
    raise ValueError(why)


_forward_only_p.def_impl(lambda x, why: x)
_forward_only_p.def_abstract_eval(lambda x, why: x)
ad.primitive_jvps[_forward_only_p] = _jvp_forward_only
ad.primitive_transposes[_forward_only_p] = _refuse_transpose
batching.primitive_batchers[_forward_only_p] = lambda args, dims, why: (forward_only(args[0], why), dims[0])
mlir.register_lowering(_forward_only_p, mlir.lower_fun(lambda x, why: x, multiple_results=False))

_reverse_only_p.def_impl(_refuse)
_reverse_only_p.def_abstract_eval(lambda *args, avals, **params: list(avals))
ad.primitive_jvps[_reverse_only_p] = _refuse
ad.primitive_transposes[_reverse_only_p] = _transpose_reverse_only
batching.primitive_batchers[_reverse_only_p] = _batch_reverse_only
mlir.register_lowering(_reverse_only_p, _refuse)

_with_tangents_p.def_impl(_impl)
_with_tangents_p.def_abstract_eval(_impl)
ad.primitive_jvps[_with_tangents_p] = _jvp
batching.primitive_batchers[_with_tangents_p] = _batch
mlir.register_lowering(_with_tangents_p, mlir.lower_fun(_impl, multiple_results=True))
