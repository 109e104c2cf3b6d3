"""The only module that touches semi-public jax APIs, so that a change of jax is mended in one place."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.extend.core as jex
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir

__all__ = [
    "ClosedJaxpr",
    "is_concrete",
    "is_sparse",
    "jaxpr_as_fun",
    "outside_transformations",
    "vary_over",
    "varying_axes",
    "with_tangents",
]

ClosedJaxpr = jex.ClosedJaxpr  # pyright: ignore[reportPrivateImportUsage]  # documented, not marked
jaxpr_as_fun = jex.jaxpr_as_fun


def is_concrete(x: Any) -> bool:
    """Whether ``x`` has a value now, rather than standing for one in a trace."""
    return not isinstance(x, jax.core.Tracer)


def varying_axes(x: Any) -> frozenset:
    """The mesh axes of a surrounding ``shard_map`` over which ``x``, an array or what stands for one, varies."""
    return jax.typeof(x).mat.varying


def vary_over(x: jax.Array, axes: frozenset) -> jax.Array:
    """``x`` seen as varying over ``axes``, as a loop wants of what it starts with."""
    missing = tuple(axes - varying_axes(x)) if axes else ()
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def is_sparse(matrix: Any, kind: str = "JAXSparse") -> bool:
    """Whether ``matrix`` is one of jax's sparse arrays, of a kind such as ``BCOO``, or of any."""
    # Importing them takes a tenth of a second; whoever made one has imported them.
    sparse = sys.modules.get("jax.experimental.sparse")
    return sparse is not None and isinstance(matrix, getattr(sparse, kind))


def outside_transformations() -> bool:
    """Whether no jax transformation is being traced at this moment."""
    return jex.get_opaque_trace_state() == _OUTSIDE


# Importing happens outside of every transformation, except for a first import inside one; then the answer is merely
# "inside" too often, which costs a trace and changes no result.
_OUTSIDE = jex.get_opaque_trace_state()


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


_with_tangents_p = jex.Primitive("with_tangents")
_with_tangents_p.multiple_results = True


def _impl(*args, num_out, rule):
    del rule
    return list(args[:num_out])


def _jvp(primals, tangents, *, num_out, rule):
    # The outputs that the rule sees carry the rule themselves: so the next derivative finds it.
    outputs = _with_tangents_p.bind(*primals, num_out=num_out, rule=rule)
    active = tuple(i for i, t in enumerate(tangents) if i >= num_out and not _is_zero(t))
    if active:
        out_tangents = rule([*outputs, *primals[num_out:]], active, [tangents[i] for i in active])
    else:
        out_tangents = [None] * num_out
    return outputs, [_zero(x) if t is None else t for x, t in zip(outputs, out_tangents, strict=True)]


def _zero(primal):
    return ad.Zero(jax.typeof(primal).to_tangent_aval())


def _is_zero(tangent) -> bool:
    return type(tangent) is ad.Zero or jnp.result_type(tangent) == jax.dtypes.float0


def _batch(args, dims, *, num_out, rule):
    size = next(x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None)
    args = [x if d is None else jnp.moveaxis(x, d, 0) for x, d in zip(args, dims, strict=True)]
    axes = [None if d is None else 0 for d in dims]
    for i in range(num_out):
        # An unbatched output may still have a batched tangent.
        if axes[i] is None:
            args[i], axes[i] = jnp.broadcast_to(args[i], (size, *args[i].shape)), 0
    outputs = _with_tangents_p.bind(*args, num_out=num_out, rule=_BatchedRule(rule, axes))
    return outputs, [0] * num_out


class _BatchedRule:
    """The rule of one lane, applied to all lanes."""

    def __init__(self, rule: TangentRule, axes: list):
        self._rule, self._axes = rule, axes

    def __call__(self, args, active, tangents):
        def lane(args, tangents):
            return self._rule(args, active, tangents)

        return jax.vmap(lane, in_axes=(self._axes, [self._axes[i] for i in active]))(args, tangents)


_with_tangents_p.def_impl(_impl)
_with_tangents_p.def_abstract_eval(_impl)
ad.primitive_jvps[_with_tangents_p] = _jvp
batching.primitive_batchers[_with_tangents_p] = _batch
mlir.register_lowering(_with_tangents_p, mlir.lower_fun(_impl, multiple_results=True))
