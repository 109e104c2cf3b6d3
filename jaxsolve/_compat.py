"""Semi-public jax APIs, so that a change of jax is handled in one place; ``_primitives`` has the others."""

from __future__ import annotations

import functools
import itertools
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jax.experimental import io_callback

from jaxsolve._primitives import jax_core, with_tangents

try:  # for the same reason as there
    from jax._src.source_info_util import current as current_source
except ImportError:
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
    "trace_context",
    "vary_over",
    "varying_axes",
    "without_consts",
    "without_our_frames",
]

ClosedJaxpr, Jaxpr, Literal = jax_core.ClosedJaxpr, jax_core.Jaxpr, jax_core.Literal
jaxpr_as_fun, subjaxprs = jax_core.jaxpr_as_fun, jax_core.subjaxprs
# Classes of what jax notes down about a trace, and of what a trace leaves in the rules of custom derivatives.
TRACE_NOTES = (jax.core.Trace, jax_core.DebugInfo, type(current_source().traceback))

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
    if not missing:
        return x
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(x, missing, to="varying")
    return getattr(jax.lax, "pvary")(x, missing)  # noqa: B009  # before jax 0.9; newer ones have it no more


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
        # The answer is kept, and inside a trace no program may have options.
        with jax.ensure_compile_time_eval():
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
    return jax_core.get_opaque_trace_state() == _OUTSIDE


# Importing happens outside of every transformation, except for a first import inside one; then the answer is merely
# "inside" too often, which costs a trace and changes no result.
_OUTSIDE = jax_core.get_opaque_trace_state()


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


# ---- Tracebacks ---------------------------------------------------------------------------------------------------


def without_our_frames(method: Callable) -> Callable:
    """A public method whose errors show the lines of the user, and not those of this package or of jax."""
    return method if traceback_util is None else traceback_util.api_boundary(method)


if traceback_util is not None:
    traceback_util.register_exclusion(os.path.dirname(__file__))
