"""The only module that touches semi-public jax APIs, so that a change of jax is mended in one place."""

from __future__ import annotations

import functools
import itertools
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
from jax.experimental import io_callback
from jax.interpreters import ad, batching, mlir

try:  # importing `jax.extend`, which has the same, brings Pallas along and takes longer than all of this package
    from jax._src import core as jex
    from jax._src.source_info_util import current as current_source
except ImportError:
    import jax.extend.core as jex
    from jax.extend.source_info_util import current as current_source

try:  # without it errors merely show more lines
    from jax._src import traceback_util
except ImportError:
    traceback_util = None

__all__ = [
    "TANGENT_CHECK",
    "TRACE_NOTES",
    "ClosedJaxpr",
    "Jaxpr",
    "Literal",
    "calls",
    "contains_custom_vjp",
    "forward_only",
    "gathered",
    "inside_shard_map",
    "io_callback",
    "is_concrete",
    "is_sparse",
    "is_wrapped_function",
    "jaxpr_as_fun",
    "max_abs",
    "on_every_device",
    "operations",
    "outside_transformations",
    "place_like",
    "quick_compiler_options",
    "reverse_only",
    "trace_context",
    "vary_over",
    "varying_axes",
    "with_tangents",
    "without_consts",
    "without_our_frames",
]

ClosedJaxpr, Jaxpr, Literal = jex.ClosedJaxpr, jex.Jaxpr, jex.Literal
jaxpr_as_fun, subjaxprs = jex.jaxpr_as_fun, jex.subjaxprs
# Classes of what jax notes down about a trace, and of what a trace leaves in the rules of custom derivatives.
TRACE_NOTES = (jax.core.Trace, jex.DebugInfo, type(current_source().traceback))

# The setting of :func:`jaxsolve.diagnostics.check_tangents`. A new setting belongs to what jax compiles programs for:
# all that were compiled before it was made are compiled again. So it is made when the package is imported, and not at
# the first use of a solver, which may stand inside a compiled function.
TANGENT_CHECK = jax.make_user_context(None)


def is_concrete(x: Any) -> bool:
    """Whether ``x`` has a value now, rather than standing for one in a trace."""
    return not isinstance(x, jax.core.Tracer)


def on_every_device() -> Any:
    """The ``out_sharding`` of a product of which every device is to have all, or ``None`` where nobody must say so."""
    explicit = jax.sharding.AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types
    return jax.P() if explicit else None


def varying_axes(x: Any) -> frozenset:
    """The mesh axes of a surrounding ``shard_map`` over which ``x``, an array or what stands for one, varies."""
    return _varying_axes_of(jax.typeof(x))


def _varying_axes_of(aval) -> frozenset:
    return aval.vma if hasattr(aval, "vma") else aval.mat.varying  # the name in some versions, in others


def inside_shard_map() -> bool:
    """Whether a ``shard_map`` is being traced."""
    return bool(jax.sharding.get_abstract_mesh().manual_axes)


def vary_over(x: jax.Array, axes: frozenset) -> jax.Array:
    """``x`` seen as varying over ``axes``, as a loop wants of what it starts with."""
    missing = tuple(axes - varying_axes(x)) if axes else ()
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def is_sparse(matrix: Any, kind: str = "JAXSparse") -> bool:
    """Whether ``matrix`` is one of jax's sparse arrays, of a kind such as ``BCOO``, or of any."""
    # Importing them takes a tenth of a second; whoever made one has imported them.
    sparse = sys.modules.get("jax.experimental.sparse")
    return sparse is not None and isinstance(matrix, getattr(sparse, kind))


def without_consts(closed: Any) -> Any:
    """A closed jaxpr without the arrays that it captured."""
    jaxpr = closed.jaxpr
    # From jax 0.12 on there is one class of jaxprs, open and closed.
    return jaxpr.with_consts([]) if hasattr(jaxpr, "with_consts") else jaxpr


def calls(name: str, *jaxprs: Any) -> bool:
    """Whether a primitive with ``name`` in its name is used in one of them, at any depth."""
    return any(
        any(name in eqn.primitive.name for eqn in jaxpr.eqns) or calls(name, *subjaxprs(jaxpr)) for jaxpr in jaxprs
    )


def contains_custom_vjp(*jaxprs: Any) -> bool:
    """Whether a ``custom_vjp`` function is called in one of them, at any depth."""
    return calls("custom_vjp_call", *jaxprs)


def is_wrapped_function(x: Any) -> bool:
    """Whether ``x`` is a function in the form in which jaxprs hold derivative rules."""
    return hasattr(x, "call_wrapped")


def trace_context() -> int:
    """A number that stands for all settings of jax that a trace depends on: precision, x64, mesh, named axes.

    jax traces a function again when one of them has changed. The number is made when this one is traced, and kept in
    the structure of its output.
    """
    return (_numbered() if outside_transformations() else jax.eval_shape(_number)).value


@jax.tree_util.register_static
class _Numbered:
    def __init__(self, value: int):
        self.value = value


def _number() -> _Numbered:
    return _Numbered(next(_numbers))


_numbers = itertools.count()
_numbered = jax.jit(_number)


def quick_compiler_options(jaxpr: Any) -> dict[str, Any]:
    """Options with which XLA compiles in a half or a third of the time, at little or no cost of the runs.

    Only a program that no other contains can have options.

    Args:
        jaxpr: the program.
    """
    if jax.default_backend() != "cpu":
        return {}
    # Small programs then run about a sixth slower.
    wanted: dict[str, Any] = {"xla_cpu_use_fusion_emitters": False}
    # Without optimization the time of compilation grows much slower with the number of operations, and that of a run
    # faster with the size of arrays. Where these are small it takes thousands of runs to lose what was gained.
    count, largest = operations(jaxpr)
    if largest <= count:
        wanted["xla_backend_optimization_level"] = 0
    return {name: value for name, value in wanted.items() if _accepts_compiler_option(name, value)}


@functools.cache
def _accepts_compiler_option(name: str, value: Any) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: value})()
    except Exception:  # a version of XLA without this option
        return False
    return True


# Operations that hand on what they are given, such as data, and make no array.
_HANDING_ON = frozenset({"stop_gradient", "optimization_barrier"})


def operations(jaxpr: Any) -> tuple[int, int]:
    """How many operations a jaxpr has, at any depth, and how many entries the largest array has that they make.

    What one turn of a ``scan`` makes counts for all its turns. A dimension that is not known yet counts as large.
    """

    def known(number):
        return number if isinstance(number, int) else sys.maxsize

    making = [eqn for eqn in jaxpr.eqns if eqn.primitive.name not in _HANDING_ON]
    sizes = [getattr(variable.aval, "size", 1) for eqn in making for variable in eqn.outvars]
    largest = max(map(known, sizes), default=0)
    inside = [operations(body) for body in subjaxprs(jaxpr)]
    scans = [eqn.params for eqn in jaxpr.eqns if eqn.primitive.name == "scan"]
    turns = [known(params["length"]) * operations(params["jaxpr"].jaxpr)[1] for params in scans]
    return len(jaxpr.eqns) + sum(count for count, _ in inside), max([largest, *(size for _, size in inside), *turns])


def place_like(x: jax.Array, aval: Any) -> jax.Array:
    """An array sharded over the mesh, and varying along the axes of a ``shard_map``, like a type."""
    x = vary_over(x, _varying_axes_of(aval))
    if jax.typeof(x).sharding != aval.sharding:
        x = jax.sharding.reshard(x, aval.sharding)
    return x


def gathered(x: jax.Array) -> jax.Array:
    """``x`` with all of it on every device of an explicit mesh, for algorithms that go through it entry by entry."""
    whole = jax.P(*[None] * jnp.ndim(x))
    # Under vmap the batch may be sharded still.
    return x if on_every_device() is None or jax.typeof(x).sharding.spec == whole else jax.sharding.reshard(x, whole)


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


class _BatchedRule(NamedTuple):
    """The rule of one batch element, applied to all."""

    rule: TangentRule
    axes: tuple[int | None, ...]

    def __call__(self, args, active, tangents):
        def one(args, tangents):
            return self.rule(args, active, tangents)

        return jax.vmap(one, in_axes=(list(self.axes), [self.axes[i] for i in active]))(args, tangents)


# ---- Maxima ---------------------------------------------------------------------------------------------------------
#
# `jnp.max` does not say NaN of large arrays on the CPU: jaxlib 0.12 forgets it in arrays of 4096 entries, jaxlib 0.10.1
# in those of some ten thousand in float32. Where a NaN may come, these are used.


def max_or_nan(x: jax.Array, axis: int | None = None, initial: Any = None) -> jax.Array:
    """``jnp.max``: NaN if one of the entries is, and its derivative too."""
    # Products, so that the derivative is NaN as well; the second one because of an array of NaN nothing is left.
    known = jnp.where(jnp.any(jnp.isnan(x), axis, keepdims=True), jnp.nan, jnp.ones((), x.dtype))
    return jnp.max(x * known, axis, initial=initial) * jnp.squeeze(known, axis)


def min_or_nan(x: jax.Array, axis: int | None = None, initial: Any = None) -> jax.Array:
    """``jnp.min``: NaN if one of the entries is, and its derivative too."""
    return -max_or_nan(-x, axis, None if initial is None else -initial)


@functools.partial(jax.jit, static_argnames="axis")
def max_abs(x: jax.Array, axis: int | None = None) -> jax.Array:
    """The largest absolute value along an axis, or of all entries: NaN if one of them is, and 0 for none.

    As integers the bits of non-negative numbers have the same order, with infinity behind all numbers and NaN behind
    infinity; and integers are compared faster.
    """
    magnitude = jnp.abs(x)
    if not jnp.issubdtype(magnitude.dtype, jnp.floating):
        return jnp.max(magnitude, axis, initial=0)
    bits = jax.lax.bitcast_convert_type(magnitude, f"int{jnp.finfo(magnitude.dtype).bits}")
    largest = jax.lax.bitcast_convert_type(jnp.max(bits, axis, initial=0), magnitude.dtype)
    return with_tangents([largest], [x], functools.partial(_jvp_of_max_abs, axis))[0]


def _jvp_of_max_abs(axis, args, active, tangents):
    del active
    return [jax.jvp(lambda x: max_or_nan(jnp.abs(x), axis, 0), args[1:], tangents)[1]]


def power_of_two(size: jax.Array, factor: float = 2.0) -> jax.Array:
    """The largest power of two that is at most ``factor`` times each positive entry, a constant for derivatives.

    It is 1 for 0, infinity and NaN.
    """
    info = jnp.finfo(size.dtype)
    size = jax.lax.stop_gradient(size)
    known = (size > 0) & (size < jnp.inf)
    # Neither it nor its reciprocal may be subnormal: hardware takes such numbers for 0.
    size = jnp.clip(jnp.where(known, factor * size, 1), info.tiny, 1 / info.tiny)
    mantissa = jnp.asarray((1 << info.nmant) - 1, dtype=f"uint{info.bits}")
    return jax.lax.bitcast_convert_type(jax.lax.bitcast_convert_type(size, mantissa.dtype) & ~mantissa, size.dtype)


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


_reverse_only_p = jex.Primitive("reverse_only")
_reverse_only_p.multiple_results = True


def _refuse(*args, **params):
    del args, params
    raise TypeError(
        "the optimality function contains a jax.custom_vjp function, which has no forward mode: use jax.grad, jax.vjp "
        "or jax.jacrev, once, or define the function by jax.custom_jvp."
    )


def _transpose_reverse_only(cotangents, *operands, avals, num_args, rule):
    full = [jnp.zeros(a.shape, a.dtype) if type(c) is ad.Zero else c for c, a in zip(cotangents, avals, strict=True)]
    return [*[None] * num_args, *rule(list(operands[:num_args]), full)]


def _batch_reverse_only(operands, dims, *, avals, num_args, rule):
    operands, axes = _batched_in_front(operands, dims, always=range(num_args, len(operands)))
    avals = tuple(a.update(shape=(operands[-1].shape[0], *a.shape)) for a in avals)
    rule = _BatchedTranspose(rule, axes[:num_args])
    return _reverse_only_p.bind(*operands, avals=avals, num_args=num_args, rule=rule), [0] * len(avals)


class _BatchedTranspose(NamedTuple):
    """The transpose of a linear map for one batch element, applied to all."""

    rule: Callable
    axes: tuple[int | None, ...]

    def __call__(self, args: list, cotangents: list) -> list:
        return jax.vmap(self.rule, in_axes=(list(self.axes), 0))(args, cotangents)


def forward_only(x: jax.Array, why: str) -> jax.Array:
    """``x``, which can be differentiated in forward mode; reverse mode raises a ``ValueError`` that says why not."""
    return _forward_only_p.bind(x, why=why)


_forward_only_p = jex.Primitive("forward_only")


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


# ---- Tracebacks ---------------------------------------------------------------------------------------------------


def without_our_frames(method: Callable) -> Callable:
    """A public method whose errors show the lines of the user, and not those of this package or of jax."""
    return method if traceback_util is None else traceback_util.api_boundary(method)


if traceback_util is not None:
    traceback_util.register_exclusion(os.path.dirname(__file__))
