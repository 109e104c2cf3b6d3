r"""Batches over several devices: each device solves its part, and waits for no other.

A batch of problems is a loop that goes on until the last element has converged. Split over devices by the compiler
alone, all devices would do as many iterations as the hardest element of the whole batch, and would ask each other at
every iteration whether anything is left. Here every device has a loop of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, reshard

from jaxsolve._closure import is_dynamic
from jaxsolve._compat import is_concrete, outside_transformations
from jaxsolve._compile import compiled_call
from jaxsolve._types import OptStep, PyTree
from jaxsolve.base import Solver
from jaxsolve.base._report import import_tqdm

__all__ = ["solve_batched"]


def solve_batched(
    solver: Solver,
    mesh: Mesh | None = None,
    init_params: PyTree = None,
    *args: Any,
    in_axes: Any = 0,
    chunk_size: int | None = None,
    verbose: bool = False,
    **kwargs: Any,
) -> OptStep:
    """Solve a batch of problems on several devices, a part of the batch on each.

    The result is that of ``jax.vmap(solver.run)``, element for element, and so are its derivatives. But each device
    stops when its own part has converged, and devices exchange nothing on the way. A batch that does not divide evenly
    is filled up with copies of its first element, which are dropped from the result.

    Args:
        solver: any solver of the package with ``jit=True``.
        mesh: the devices, a ``jax.sharding.Mesh``; the batch is split over all of its axes. ``None`` takes all devices
            of this process.
        init_params: initial points, with a leading axis of size B in front of every leaf; ``None`` for solvers that
            need none.
        *args: the further arguments of ``solver.run``, each array with a leading axis of size B.
        in_axes: which arguments have that axis, as in ``jax.vmap``: 0, or a tuple with one entry for ``init_params``
            and one for each of ``args``, each 0, ``None`` for what all problems share, or a pytree of these.
        chunk_size: number of problems that are solved at the same time, all devices together. ``None`` solves all at
            once. Outside of ``jax.jit`` and derivatives the data of one chunk at a time are on the devices, and the
            result is collected in NumPy arrays on the host: so the batch may be larger than the memory of the devices.
        verbose: show a progress bar of tqdm that moves with the chunks; outside of ``jax.jit`` and derivatives.
        **kwargs: further keyword arguments of ``solver.run``, with a leading axis like ``args``.

    Returns:
        ``OptStep(params, state)``, every array with a leading axis of size B. Without ``chunk_size`` they are spread
        over the mesh, if B is a multiple of the number of devices.

    Raises:
        TypeError: ``solver`` is no solver, or ``mesh`` no mesh.
        ValueError: the leading axes differ, there is none, ``in_axes`` has entries other than 0 and ``None``,
            ``chunk_size`` is not positive, or the solver has ``jit=False``.

    Example:
        >>> import jax.numpy as jnp, jaxsolve
        >>> solver = jaxsolve.LBFGS(lambda x, a: jnp.sum((x - a) ** 2))
        >>> targets = jnp.arange(6.0).reshape(3, 2)
        >>> step = jaxsolve.solve_batched(solver, None, jnp.zeros((3, 2)), targets)
        >>> step.params.round(3).tolist()
        [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
        >>> starts_in_common = jaxsolve.solve_batched(solver, None, jnp.zeros(2), targets, in_axes=(None, 0))
        >>> starts_in_common.params.round(3).tolist()
        [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    """
    if not isinstance(solver, Solver):
        raise TypeError(f"solver must be a solver of jaxsolve, got {solver!r}.")
    if mesh is None:
        mesh = Mesh(np.asarray(jax.local_devices()), ("batch",))
    if not isinstance(mesh, Mesh):
        raise TypeError(f"mesh must be a jax.sharding.Mesh or None, got {mesh!r}.")
    if not solver.jit:
        raise ValueError("solve_batched runs compiled solvers; this one has jit=False.")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be positive, got {chunk_size}.")
    leaves, structure = jax.tree.flatten(((init_params, *args), kwargs))
    split = _split_of(in_axes, (init_params, *args), kwargs, leaves)
    batch = [leaf for leaf, is_split in zip(leaves, split, strict=True) if is_split]
    shared = [leaf for leaf, is_split in zip(leaves, split, strict=True) if not is_split]
    size = _size_of(batch)
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))

    def solve(batch: list, num_turns: int = 1) -> OptStep:
        return compiled_call(_solve, solver, sharding, (structure, split), str(num_turns), batch, shared)

    if not (outside_transformations() and all(map(is_concrete, leaves))):
        turns = 1 if chunk_size is None else -(-size // chunk_size)
        return _cut(solve(_filled(batch, size, mesh.size * turns), turns), size, mesh)
    at_once = _up_to(min(size, chunk_size or size), mesh.size)
    bar = import_tqdm()(total=size, desc=type(solver).__name__, unit="problem") if verbose else None
    batch = batch if chunk_size is None else jax.device_get(batch)
    found = []
    for start in range(0, size, at_once):
        count = min(at_once, size - start)
        part = _filled([leaf[start : start + count] for leaf in batch], count, at_once)
        step = _cut(solve(jax.device_put(part, sharding)), count, mesh)
        found.append(step if chunk_size is None else jax.device_get(step))
        if bar is not None:
            jax.block_until_ready(step)
            bar.update(count)
    if bar is not None:
        bar.close()
    return found[0] if len(found) == 1 else jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def _solve(solver: Solver, sharding: NamedSharding, recipe: tuple, num_turns: str, batch: list, shared: list) -> Any:
    """All problems of a batch whose size is a multiple of the number of devices and of turns."""
    structure, split = recipe

    def one(batch):
        given, rest = iter(batch), iter(shared)
        args, kwargs = jax.tree.unflatten(structure, [next(given if is_split else rest) for is_split in split])
        return solver.run(*args, **kwargs)

    def part(batch):
        if num_turns == "1":
            return jax.vmap(one)(batch)
        turns = jax.tree.map(lambda leaf: leaf.reshape(int(num_turns), -1, *leaf.shape[1:]), batch)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), jax.lax.map(jax.vmap(one), turns))

    if _is_explicit(sharding.mesh):
        batch = reshard(batch, sharding)
    # Nothing is exchanged between the devices.
    spec = sharding.spec
    return jax.shard_map(part, mesh=sharding.mesh, in_specs=(spec,), out_specs=spec, check_vma=False)(batch)


# ---- Arguments ----------------------------------------------------------------------------------------------------


def _split_of(in_axes: Any, args: tuple, kwargs: dict, leaves: list) -> tuple[bool, ...]:
    """Which leaves of the arguments have an axis for the batch."""
    if in_axes is None or isinstance(in_axes, int):
        in_axes = (in_axes,) * len(args)
    if not isinstance(in_axes, (tuple, list)) or len(in_axes) != len(args):
        raise ValueError(
            f"in_axes must be 0 or a tuple with an entry for init_params and for each of the {len(args) - 1} further "
            f"arguments, got {in_axes!r}."
        )

    def below(axis, tree):
        return jax.tree.map(lambda _: axis, tree, is_leaf=lambda leaf: leaf is None)

    try:
        axes = jax.tree.map(below, tuple(in_axes), args, is_leaf=lambda axis: axis is None)
    except ValueError as error:
        raise ValueError(f"in_axes does not fit the arguments: {error}") from None
    found = _leaves_but_none(axes, args) + [0] * len(jax.tree.leaves(kwargs))
    if any(axis not in (0, None) for axis in found):
        raise ValueError(f"the entries of in_axes must be 0 or None, got {in_axes!r}.")
    return tuple([axis == 0 and is_dynamic(leaf) for axis, leaf in zip(found, leaves, strict=True)])


def _leaves_but_none(axes: PyTree, args: PyTree) -> list:
    """The entries of ``axes`` where ``args`` has a leaf, which None is not."""
    of_axes, of_args = (jax.tree.leaves(tree, is_leaf=lambda leaf: leaf is None) for tree in (axes, args))
    return [axis for axis, leaf in zip(of_axes, of_args, strict=True) if leaf is not None]


def _size_of(batch: list) -> int:
    sizes = {np.shape(leaf)[:1] for leaf in batch}
    if len(sizes) != 1 or not all(size and size[0] > 0 for size in sizes):
        shapes = [np.shape(leaf) for leaf in batch]
        raise ValueError(
            "arguments must have one leading axis for the batch in every array, or None in in_axes: the shapes of "
            f"those that are split are {shapes}."
        )
    return sizes.pop()[0]


def _up_to(size: int, multiple: int) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple


def _filled(batch: list, size: int, multiple: int) -> list:
    """Arrays whose leading axis is a multiple, with copies of the first entry behind the last."""
    more = _up_to(size, multiple) - size

    def fill(leaf):
        stack: Callable = jnp.concatenate if isinstance(leaf, jax.Array) else np.concatenate
        return stack([leaf, leaf[:1].repeat(more, axis=0)]) if more else leaf

    return list(map(fill, batch))


def _cut(step: OptStep, size: int, mesh: Mesh) -> OptStep:
    """The first entries; on explicit axes all devices get all of them, for they cannot share them evenly."""

    def cut(leaf):
        if len(leaf) == size:
            return leaf
        return (reshard(leaf, NamedSharding(mesh, PartitionSpec())) if _is_explicit(mesh) else leaf)[:size]

    return jax.tree.map(cut, step)


def _is_explicit(mesh: Any) -> bool:
    return AxisType.Explicit in mesh.axis_types
