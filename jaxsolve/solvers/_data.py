"""Data of users as arrays: matrices of SciPy, lists, whole numbers, vectors for single rows, pytrees of matrices.

There are two steps. *Reading* comes before anything is traced: objects that jax cannot trace (``scipy.sparse``, lists,
objects that NumPy understands) become arrays, which are arguments of the compiled program, so that new values do not
compile again. *Joining* is part of the trace, where the variables are known: a matrix gets its two axes, and a pytree
of matrices becomes one matrix.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._compat import is_concrete, is_sparse, without_our_frames
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.base import Solver
from jaxsolve.tree_util import tree_real_dtype

__all__ = ["Joined", "ReadsData", "by_name", "default_tol", "joined", "pair", "read_all"]


def default_tol(dtype: Any) -> float:
    """The tolerance that methods with factorizations reach in a dtype: 1e-8 in float64 and 1e-5 in float32."""
    return 1e-8 if jnp.finfo(dtype).bits == 64 else 1e-5


# ---- Reading ------------------------------------------------------------------------------------------------------


class ReadsData(Solver):
    """Base of the solvers with named data: ``run`` has them in its signature, and reads them."""

    #: The arguments of ``run`` behind the initial point, and what each holds: a name, or the names of a pair. Names of
    #: matrices are capital letters. A matrix with a function ``matvec_`` of the solver is left to that function.
    _arguments: ClassVar[dict[str, str | tuple[str, str]]]

    matvec_Q = matvec_A = matvec_G = fun = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "_arguments" in cls.__dict__:
            cls.run = _run_of(cls)  # type: ignore[method-assign]

    def _read(self, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """The data as arrays, in the order of the arguments."""
        data = by_name(self, tuple(self._arguments), args, kwargs)
        parts, whole = {}, {}
        for (argument, names), value in zip(self._arguments.items(), data, strict=True):
            if argument == "params_obj" and self.fun is not None:
                whole[argument] = value
            elif isinstance(names, str):
                parts[names] = value
            elif value is not None or argument == "params_obj":
                parts.update(zip(names, pair(argument, value, f"({', '.join(names)})"), strict=True))
        products = {name: parts.pop(name) for name in list(parts) if getattr(self, f"matvec_{name}", None) is not None}
        parts = read_all(parts) | products

        def put_back(argument, names):
            if argument in whole or isinstance(names, str):
                return whole[argument] if argument in whole else parts[names]
            return tuple(parts[name] for name in names) if names[0] in parts else None

        return tuple(put_back(*item) for item in self._arguments.items()), {}


def _run_of(cls: type[ReadsData]) -> Callable:
    """``run`` with the arguments of a class."""

    @functools.wraps(Solver.run)
    @without_our_frames
    def run(self, init_params: PyTree = None, *args: Any, **kwargs: Any) -> OptStep:
        return Solver.run(self, init_params, *args, **kwargs)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    empty = inspect.Parameter("self", kind), inspect.Parameter("init_params", kind, default=None, annotation=PyTree)
    others = [inspect.Parameter(name, kind, default=None, annotation=PyTree) for name in cls._arguments]
    run.__signature__ = inspect.Signature([*empty, *others], return_annotation=OptStep)  # type: ignore[attr-defined]
    del run.__wrapped__  # its signature is another one
    run.__qualname__, run.__module__ = f"{cls.__qualname__}.run", cls.__module__
    held = {
        name: names if isinstance(names, str) else f"({', '.join(names)})" for name, names in cls._arguments.items()
    }
    described = "\n".join(f"            {name}: ``{names}``." for name, names in held.items())
    run.__doc__ = f"""Solve the problem; what the arguments are is described with the class.

        Args:
            init_params: primal variables to start from, a whole solution, or an ``OptStep`` of an earlier run.
{described}

        Returns:
            ``OptStep(params, state)``. ``params`` is differentiable with respect to the data. With
            ``implicit_diff=True`` its derivative with respect to ``init_params`` is zero.

        Raises:
            TypeError: an argument is not what it has to be.
            ValueError: a shape is wrong. Both are raised before anything is compiled.
            SolverError: the run did not converge, and ``on_failure`` is ``"raise"``.
        """
    return run


def pair(name: str, value: Any, meaning: str) -> tuple[Any, Any]:
    """The two parts of an argument; ``TypeError`` if it is not a pair."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} must be a pair {meaning}, got {type(value).__name__}.")
    return value[0], value[1]


def by_name(solver: Any, names: tuple[str, ...], args: tuple, kwargs: dict[str, Any]) -> list[Any]:
    """The data given to ``run`` in the order of their names; ``TypeError`` for data that the solver does not take."""
    given = dict(zip(names, args, strict=False))
    wrong = [name for name in kwargs if name not in names or name in given]
    if len(args) > len(names) or wrong:
        too_many = f"{len(args)} arguments behind init_params" if len(args) > len(names) else " and ".join(wrong)
        raise TypeError(
            f"{type(solver).__name__}.run takes init_params and, once each, {', '.join(names)}; got {too_many}."
        )
    return [(given | kwargs).get(name) for name in names]


_ABSENT = {"l": -np.inf, "u": np.inf}


def read_all(data: dict[str, Any]) -> dict[str, Any]:
    """The data of a problem, by their names in messages, with arrays for all that jax cannot trace.

    Names of matrices begin with a capital letter. ``None`` is kept, but an absent bound ``l`` or ``u`` is infinite.
    Integers, and numbers in lists, have no dtype; in ``c`` they get the widest dtype of the other data.
    """
    read = {name: _read(name, _ABSENT.get(name) if value is None else value) for name, value in data.items()}
    if read.get("c") is None:
        return read
    own = _floating(data["c"])
    known = own or [dtype for name, value in data.items() if name != "c" for dtype in _floating(value, least_axes=1)]
    same = known and all(other == known[0] for other in known)
    dtype = known[0] if same else tree_real_dtype([np.zeros(0, dtype) for dtype in known])

    def typed(leaf):
        return leaf if own and _has_dtype(leaf) else jnp.asarray(leaf).astype(dtype)

    return {**read, "c": jax.tree.map(typed, read["c"])}


def _floating(tree: PyTree, least_axes: int = 0) -> list:
    """The floating dtypes in a pytree that are not just those of Python's numbers."""
    leaves = jax.tree.leaves(tree, is_leaf=is_sparse)
    return [jnp.dtype(leaf.dtype) for leaf in leaves if _has_dtype(leaf) and len(leaf.shape) >= least_axes]


def _has_dtype(leaf) -> bool:
    dtype = getattr(leaf, "dtype", None)
    weak = getattr(leaf, "weak_type", False)
    return isinstance(dtype, np.dtype) and jnp.issubdtype(dtype, np.floating) and not weak


def _read(name: str, value: Any) -> Any:
    if value is None or callable(value):
        return _without_products(name, value)
    if isinstance(value, (list, tuple)) and len(value) == 0:
        return np.zeros(0)
    value = jax.tree.map(lambda leaf: _array(name, leaf), value, is_leaf=lambda node: is_sparse(node) or _lists(node))
    if _is_matrix(name) and type(value) in (list, tuple) and all(np.ndim(row) == 1 for row in value):
        if len({np.shape(row) for row in value}) == 1:
            return _stack(name, list(value))
    return value


def _is_matrix(name: str) -> bool:
    return name[0].isupper()


def _without_products(name: str, value: Any) -> Any:
    if hasattr(value, "matvec") and hasattr(value, "shape"):
        raise TypeError(f"{name} must be a matrix, got a {type(value).__name__}; pass its products as a function.")
    return value


def _lists(node) -> bool:
    """Whether a node is a list of numbers, or of such lists. ``None`` stands for an absent number."""
    return type(node) in (list, tuple) and all(_lists(x) if type(x) in (list, tuple) else _is_number(x) for x in node)


def _is_number(x) -> bool:
    return x is None or isinstance(x, (bool, int, float, complex, str)) or (hasattr(x, "dtype") and np.shape(x) == ())


def _array(name: str, leaf: Any) -> Any:
    """An array, a sparse array or a number, for a leaf."""
    if callable(leaf):
        return _without_products(name, leaf)
    scipy_sparse = sys.modules.get("scipy.sparse")
    if scipy_sparse is not None and scipy_sparse.issparse(leaf):
        return _from_scipy(name, leaf) if _is_matrix(name) else _checked(name, leaf.toarray())
    if is_sparse(leaf):
        return _checked(name, leaf if _is_matrix(name) else leaf.todense())
    if isinstance(leaf, (list, tuple)):
        return _stack(name, leaf)
    if isinstance(leaf, (bool, int, float)):
        return float(leaf)
    if isinstance(leaf, jax.Array):
        return _checked(name, leaf)
    if isinstance(leaf, np.ma.MaskedArray):
        if np.any(np.ma.getmaskarray(leaf)):
            raise ValueError(f"{name} is a masked array with masked entries; replace them, for example by filled().")
        leaf = leaf.data
    if isinstance(leaf, str) or not hasattr(leaf, "__array__"):
        raise TypeError(f"{name} must be {_expected(name)}, got {type(leaf).__name__}.")
    array = np.asarray(leaf)
    return _stack(name, array.tolist()) if array.dtype == object else _checked(name, array)


def _expected(name: str) -> str:
    return "a matrix" if _is_matrix(name) else "a vector"


def _stack(name: str, numbers: Any) -> Any:
    """The array of a number or of nested lists of numbers."""
    absent = _ABSENT.get(name)
    leaves = jax.tree.leaves(numbers, is_leaf=lambda x: x is None)
    if any(isinstance(x, (str, bytes)) for x in leaves):
        raise TypeError(f"{name} must be {_expected(name)} of numbers, got {numbers!r}.")
    if any(x is None for x in leaves):
        if absent is None:
            raise TypeError(f"{name} must be {_expected(name)} of numbers, got an entry that is None.")
        numbers = jax.tree.map(lambda x: absent if x is None else x, numbers, is_leaf=lambda x: x is None)
    try:
        if all(map(is_concrete, leaves)) and not any(isinstance(x, jax.Array) for x in leaves):
            array = np.asarray(numbers)
        else:
            dtype = tree_real_dtype([x for x in leaves if _has_dtype(x)])
            array = _stacked(numbers, dtype)
    except ValueError as error:
        raise ValueError(f"{name} must be {_expected(name)}; the lists in it have different lengths.") from error
    return _checked(name, array)


def _stacked(numbers: Any, dtype: Any) -> Array:
    if isinstance(numbers, (list, tuple)):
        return jnp.stack([_stacked(part, dtype) for part in numbers]) if numbers else jnp.zeros(0, dtype)
    return jnp.asarray(numbers).astype(dtype)


def _checked(name: str, array: Any) -> Any:
    """A real array; whole numbers of NumPy as floats, for they may be larger than jax's."""
    if jnp.issubdtype(array.dtype, np.complexfloating):
        raise TypeError(f"{name} must be real, got dtype {array.dtype}.")
    if not (jnp.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise TypeError(f"{name} must be {_expected(name)} of numbers, got dtype {array.dtype}.")
    whole = isinstance(array, np.ndarray) and not jnp.issubdtype(array.dtype, np.floating)
    return array.astype(float) if whole else array


def _from_scipy(name: str, matrix: Any) -> Any:
    """A matrix of SciPy as ``BCOO``."""
    from jax.experimental import sparse

    if matrix.ndim == 1:
        matrix = matrix.reshape((1, -1))
    entries = matrix.tocsr().tocoo()  # without duplicates, row by row
    data = jnp.asarray(_checked(name, entries.data))
    indices = jnp.asarray(np.stack([entries.row, entries.col], axis=1).astype(np.int32))
    return sparse.BCOO((data, indices), shape=matrix.shape, indices_sorted=True, unique_indices=True)


# ---- Joining ------------------------------------------------------------------------------------------------------

# A pytree of dense matrices becomes a sparse matrix if a dense one had more entries.
_MOST_DENSE = 4_000_000


class Joined(NamedTuple):
    """One matrix for all variables.

    Attributes:
        matrix: dense or sparse, with a column for each variable.
        rows: pytree of arrays or structs with the shapes of the rows; ``None`` for a vector with all of them.
    """

    matrix: Any
    rows: PyTree


def joined(name: str, value: Any, variables: PyTree, dtype: Any) -> Joined:
    """One matrix for all variables, from what the user gave.

    ==============================================  ====================================================================
    given                                           is
    ==============================================  ====================================================================
    a matrix with a column for each variable        itself
    a vector with an entry for each variable        one row
    a matrix with a column for each row of a        ``matrix @ variables``, so one matrix for all columns of the
    matrix of variables                             variables
    a pytree like the variables                     block diagonal: each matrix multiplies its own leaf
    a pytree of such pytrees                        rows of blocks, as ``jax.jacobian`` and ``jax.hessian`` return them
    an array without entries                        a matrix without rows
    ==============================================  ====================================================================

    Args:
        name: of the matrix, for messages.
        value: what was given.
        variables: the variables, a pytree of arrays.
        dtype: of the entries of blocks that are put together.

    Raises:
        ValueError: the blocks do not fit. Other data that do not fit are returned unchanged.
    """
    structure = jax.tree.structure(variables)
    leaves = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(variables)]
    if value is None or jax.tree.structure(value, is_leaf=is_sparse) == jax.tree.structure(0):
        size = sum(leaf.size for leaf in leaves)
        like = leaves[0] if structure == jax.tree.structure(0) else jax.ShapeDtypeStruct((size,), dtype)
        matrix, rows = _block(value, like)
        return Joined(matrix, jax.ShapeDtypeStruct(rows, dtype) if rows is not None and len(rows) > 1 else None)

    def is_like_variables(node):
        return is_sparse(node) or jax.tree.structure(node, is_leaf=is_sparse) == structure

    diagonal = structure == jax.tree.structure(value, is_leaf=is_sparse)
    nodes, outer = ([value], None) if diagonal else jax.tree.flatten(value, is_leaf=is_like_variables)
    if not nodes or not all(jax.tree.structure(node, is_leaf=is_sparse) == structure for node in nodes):
        raise ValueError(
            f"{name} must be a matrix, a pytree of matrices like c, for blocks on the diagonal, or a pytree of such "
            f"pytrees, for rows of blocks; c is {structure}, and got {jax.tree.structure(value, is_leaf=is_sparse)}."
        )
    grid = []
    for node in nodes:
        blocks = [
            _block(block, like) for block, like in zip(jax.tree.leaves(node, is_leaf=is_sparse), leaves, strict=True)
        ]
        shapes = [rows for _, rows in blocks]
        wrong = [like for like, rows in zip(leaves, shapes, strict=True) if rows is None or (diagonal and not rows)]
        if wrong or not (diagonal or len(set(shapes)) == 1):
            found = [np.shape(block) for block in jax.tree.leaves(node, is_leaf=is_sparse)]
            raise ValueError(
                f"{name} must have matrices with a column for each entry of their leaf of c, and as many rows as their "
                f"neighbors; got shapes {found} for leaves of shapes {[leaf.shape for leaf in leaves]}."
            )
        grid.append(blocks)
    like_rows = [
        jax.ShapeDtypeStruct(rows, dtype) for blocks in grid for _, rows in (blocks if diagonal else blocks[:1])
    ]
    rows = jax.tree.unflatten(structure if outer is None else outer, like_rows)
    if diagonal:
        blocks = grid[0]
        starts = np.cumsum([0, *(block.shape[0] for block, _ in blocks)])[:-1].tolist()
        placed = [(start, index, block) for start, (index, (block, _)) in zip(starts, enumerate(blocks), strict=True)]
    else:
        starts = np.cumsum([0, *(blocks[0][0].shape[0] for blocks in grid)])[:-1].tolist()
        placed = [(s, i, block) for s, blocks in zip(starts, grid, strict=True) for i, (block, _) in enumerate(blocks)]
    return Joined(_assembled(placed, [leaf.size for leaf in leaves], dtype), rows)


def _block(value: Any, like: jax.ShapeDtypeStruct) -> tuple[Any, tuple | None]:
    """A matrix for the entries of one leaf, and the shape of its rows; ``None`` for what is no such matrix."""
    if is_sparse(value):
        return value, value.shape[:1] if len(value.shape) == 2 and value.shape[1] == like.size else None
    if not hasattr(value, "shape") and not isinstance(value, (int, float)):
        return value, None
    matrix = jnp.asarray(value)
    shape, size, axes = matrix.shape, like.size, len(like.shape)
    if len(shape) == 2 and shape[1] == size:
        return matrix, shape[:1]
    if matrix.size == 0 and (shape in ((0,), (0, 0), (1, 0)) or shape == (0, *like.shape)):
        return jnp.zeros((0, size), matrix.dtype), (0,)
    if len(shape) == 2 and axes == 2 and shape[1] == like.shape[0]:
        columns = like.shape[1]
        return jnp.kron(matrix, jnp.eye(columns, dtype=matrix.dtype)), (shape[0], columns)
    if len(shape) >= axes and shape[len(shape) - axes :] == like.shape:
        return matrix.reshape(-1, size), shape[: len(shape) - axes]
    if shape == (size,):
        return matrix.reshape(1, size), ()
    if size == 1 and len(shape) <= 1:
        return matrix.reshape(-1, 1), shape
    return value, None


def _assembled(placed: list[tuple[int, int, Any]], widths: list[int], dtype: Any) -> Any:
    """One matrix of blocks: the first row and the number of the block column of each, and the block itself."""
    starts = np.cumsum([0, *widths]).tolist()
    shape = max(row + block.shape[0] for row, _, block in placed), starts[-1]
    if not any(is_sparse(block) for *_, block in placed) and shape[0] * shape[1] <= _MOST_DENSE:
        matrix = jnp.zeros(shape, dtype)
        for row, column, block in placed:
            matrix = jax.lax.dynamic_update_slice(matrix, block.astype(dtype), (row, starts[column]))
        return matrix
    from jax.experimental import sparse

    entries, places = [], []
    for row, column, block in placed:
        coordinates = block if is_sparse(block, "BCOO") else block.to_bcoo() if is_sparse(block) else None
        if coordinates is None:
            where = jnp.indices(block.shape, dtype=jnp.int32).reshape(2, -1).T
            values = block.reshape(-1)
        else:
            where, values = coordinates.indices, coordinates.data
            inside = (where[:, 0] < block.shape[0]) & (where[:, 1] < block.shape[1])  # the others are padding
            where, values = jnp.where(inside[:, None], where, 0).astype(jnp.int32), jnp.where(inside, values, 0)
        entries.append(values.astype(dtype))
        places.append(where + jnp.asarray([[row, starts[column]]], jnp.int32))
    return sparse.BCOO((jnp.concatenate(entries), jnp.concatenate(places)), shape=shape)
