"""The one place with iteration loops: ``while``, ``scan``, checkpointed ``scan``, and plain Python.

A solver writes its step once, ``body(carry) -> carry``, and its test once, ``proceed(carry) -> bool``; which loop runs
them is decided by what will be asked of the derivative:

==============  ============================================  ==================================
kind            derivative                                     memory of reverse mode, K steps
==============  ============================================  ==================================
``while``       none, or implicit; forward mode                not available
``scan``        forward and reverse, by unrolling              K carries
``checkpoint``  forward and reverse, by unrolling              2 sqrt(K) carries, steps run twice
``python``      whatever the steps allow; host functions       K steps of the tape
==============  ============================================  ==================================
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._closure import hoist
from jaxsolve._compat import is_concrete, place_like, varying_axes

__all__ = ["LoopKind", "LOOP_KINDS", "loop", "run_if_any", "run_where"]

LoopKind = Literal["while", "scan", "checkpoint", "python"]
LOOP_KINDS = ("while", "scan", "checkpoint", "python")

# Operations that compute nothing, by their names in jax.
_VIEWS = frozenset({"transpose", "reshape", "squeeze", "broadcast_in_dim", "convert_element_type"})


def loop(
    proceed: Callable[[Any], jax.Array],
    body: Callable[[Any], Any],
    init: Any,
    *,
    maxiter: int | jax.Array,
    kind: LoopKind = "while",
    packed: bool = False,
    settle: Callable[[Any], Any] | None = None,
) -> Any:
    """Apply ``body`` while ``proceed`` holds, at most ``maxiter`` times.

    Args:
        proceed: maps the carry to a boolean scalar.
        body: maps the carry to a carry of the same structure, shapes and dtypes; traced once.
        init: the initial carry, a pytree of arrays.
        maxiter: bound on the number of steps. A traced value is allowed for ``while`` and ``python`` only.
        kind: one of ``LOOP_KINDS``.
        packed: whether a ``while`` loop carries the scalars and small arrays of each dtype as one vector: fewer
            kernels on CPU where there are many.
        settle: for a ``while`` loop: maps the carry with which the loop ended to a carry of the same structure, shapes
            and dtypes, for which ``proceed`` may hold again; then the loop goes on. Not applied where no step was done.

    Returns:
        The final carry.

    Raises:
        ValueError: ``maxiter`` is traced and ``kind`` unrolls.
    """
    if kind == "python":
        return _python_loop(proceed, body, init, maxiter)
    init = _as_carried(body, init)
    if kind == "while":
        return _while_loop(proceed, body, init, maxiter, packed, settle)
    if not is_concrete(maxiter):
        raise ValueError(
            "maxiter is traced, but unrolling needs a bound known at compile time: pass a Python int, or use "
            "implicit_diff=True."
        )
    # A step after the end must be the identity *for the derivative too*, which `cond` gives and a select over a
    # body that divides by zero would not.
    maxiter = int(maxiter)

    def step(carry, _):
        return lax.cond(proceed(carry), body, lambda c: c, carry), None

    if kind == "scan" or maxiter < 4:
        # What a branch of `cond` reads is kept for its derivative, a copy a step, even data that all steps share.
        # `checkpoint` passes to the backward step what the forward step was given, and keeps what that computed.
        return lax.scan(jax.checkpoint(step, policy=_is_computed, prevent_cse=False), init, None, length=maxiter)[0]
    return _checkpointed_scan(step, init, maxiter)


def _is_computed(primitive, *args, **kwargs):
    """Whether reverse mode keeps a result: it makes a view, such as the transpose of a matrix of data, again."""
    del args, kwargs
    return primitive.name not in _VIEWS


def _as_carried(body, init):
    """The initial carry placed on a device mesh like what the body makes of it, which loops of jax demand."""
    if jax.sharding.get_abstract_mesh().empty:
        return init
    for _ in range(3):  # what is placed may place more
        wanted = [variable.aval for variable in hoist(body, init).jaxpr.outvars]
        leaves, treedef = jax.tree.flatten(init)
        placed = [place_like(leaf, aval) for leaf, aval in zip(leaves, wanted, strict=True)]
        if all(map(operator.is_, placed, leaves)):
            break
        init = jax.tree.unflatten(treedef, placed)
    return init


def _python_loop(proceed, body, init, maxiter):
    carry, steps = init, 0
    while steps < maxiter and proceed(carry):
        carry, steps = body(carry), steps + 1
    return carry


def _while_loop(proceed, body, init, maxiter, packed, settle):
    maxiter = jnp.asarray(maxiter).astype(jnp.int32)

    def keep_going(counted):
        steps, carry = counted
        return (steps < maxiter) & proceed(carry)

    def counted_body(counted):
        steps, carry = counted
        return steps + 1, body(carry)

    counted = jnp.zeros((), jnp.int32), init
    pack, unpack = _packing(counted) if packed else (lambda x: x, lambda x: x)

    def steps_from(packed):
        return lax.while_loop(lambda c: keep_going(unpack(c)), lambda c: pack(counted_body(unpack(c))), packed)

    def settled(packed):
        steps, carry = unpack(steps_from(packed))
        return pack((steps, settle(carry)))

    if settle is None:
        end = steps_from(pack(counted))
    else:
        end = lax.while_loop(lambda c: keep_going(unpack(c)), settled, pack(counted))
    return unpack(end)[1]


def _packing(tree):
    """The way from pytrees like this one to pytrees with one vector for all small arrays of a kind, and the way back.

    A loop inside a loop begins with a copy of every constant in its carry, and ends each turn with a kernel, and often
    a copy, for every array: on CPU a vector of many is one kernel. Truth values travel as integers.
    """
    leaves, treedef = jax.tree.flatten(tree)
    groups: dict[Any, list[int]] = {}
    # On a mesh every array has a placement of its own.
    for i, leaf in enumerate(leaves if jax.sharding.get_abstract_mesh().empty else ()):
        if _is_small(leaf) and not jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.extended):
            groups.setdefault(jnp.result_type(_as_number(leaf)), []).append(i)
    parts = (group[i : i + _MOST_IN_ONE] for group in groups.values() for i in range(0, len(group), _MOST_IN_ONE))
    several = [part for part in parts if len(part) > 1]
    vectors = {i for group in several for i in group}

    def pack(tree):
        leaves = jax.tree.leaves(tree)
        rest = [leaf for i, leaf in enumerate(leaves) if i not in vectors]
        return rest, [jnp.concatenate([jnp.ravel(_as_number(leaves[i])) for i in group]) for group in several]

    def unpack(packed):
        rest, packs = packed
        small = {}
        for group, pack in zip(several, packs, strict=True):
            parts = lax.split(pack, [jnp.size(leaves[i]) for i in group])
            for i, part in zip(group, parts, strict=True):
                part = part.reshape(jnp.shape(leaves[i]))
                small[i] = part != 0 if _is_bool(leaves[i]) else part
        others = iter(rest)
        return jax.tree.unflatten(treedef, [small[i] if i in vectors else next(others) for i in range(len(leaves))])

    return pack, unpack


# An array of at most so many entries is small: the copy costs less than one more kernel does.
_SMALL = 8
# XLA makes one kernel of so many arrays that are joined, and one for each if there are more.
_MOST_IN_ONE = 8


def _is_small(leaf):
    # A dimension of a program that is exported may be a symbol, which cannot be compared.
    return all(isinstance(length, int) for length in jnp.shape(leaf)) and jnp.size(leaf) <= _SMALL


def _as_number(leaf):
    return jnp.asarray(leaf, jnp.int32) if _is_bool(leaf) else leaf


def _is_bool(leaf):
    return jnp.issubdtype(jnp.result_type(leaf), jnp.bool)


def _checkpointed_scan(step, init, maxiter):
    """Chunks of about sqrt(maxiter) steps: only the carries between chunks are kept, a chunk is run again backwards."""
    inner = math.isqrt(maxiter - 1) + 1
    outer, rest = divmod(maxiter, inner)

    @jax.checkpoint
    def chunk(carry, _):
        # The steps of a chunk are checkpointed too, so that running it again keeps one carry a step and no
        # intermediate of the step's body.
        return lax.scan(jax.checkpoint(step), carry, None, length=inner)[0], None

    carry = lax.scan(chunk, init, None, length=outer)[0]
    if rest:
        carry = lax.scan(jax.checkpoint(step), carry, None, length=rest)[0]
    return carry


def run_if_any(condition: jax.Array, fun: Callable[[Any], Any], operand: Any) -> Any:
    """``fun(operand)`` where ``condition`` holds, else ``operand``, for free under ``vmap`` if it holds nowhere.

    ``lax.cond`` under ``vmap`` becomes a select and pays for both branches everywhere. A ``while_loop`` of at most
    one turn does not: it runs its body only if some batch element asks for it. Not for reverse-mode differentiation.

    Args:
        condition: boolean scalar.
        fun: maps ``operand`` to a pytree of the same structure, shapes and dtypes.
        operand: pytree of arrays.
    """
    hoisted = hoist(fun, operand)

    def body(carry):
        # Whatever does not depend on the carry XLA computes before the loop, whether the loop runs or not. Behind the
        # barrier everything depends on it.
        values = (*carry, hoisted.consts)
        # Under shard_map a barrier makes everything vary over the axes over which anything does.
        if len(set(map(varying_axes, jax.tree.leaves(values)))) == 1:
            values = lax.optimization_barrier(values)
        condition, operand, consts = values
        return jnp.zeros_like(condition), hoisted.pure(operand, consts=consts)

    return lax.while_loop(lambda carry: carry[0], body, (condition, operand))[1]


def run_where(condition: Any, fun: Callable[[Any], Any], operand: Any, kind: LoopKind) -> Any:
    """``fun(operand)`` where ``condition`` holds, else ``operand``; ``fun`` is run only if it is needed.

    Args:
        condition: boolean scalar.
        fun: maps ``operand`` to a pytree of the same structure, shapes and dtypes.
        operand: pytree of arrays.
        kind: the kind of loop that this stands in, which says how it is differentiated.
    """
    if kind == "python":
        return fun(operand) if condition else operand
    if kind == "while":
        return run_if_any(condition, fun, operand)
    return lax.cond(condition, fun, lambda operand: operand, operand)
