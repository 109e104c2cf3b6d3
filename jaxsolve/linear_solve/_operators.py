"""Linear maps between pytrees, seen as maps between real vectors.

Every solver of the package works on one real vector in one dtype. A :class:`Codec` turns a pytree into that vector and
back, casting each leaf explicitly, and an :class:`Operator` is a matrix for such vectors. A complex entry takes two
places, its real and its imaginary part: then a Hermitian map becomes a symmetric one, a conjugate transpose a
transpose, and no algorithm has to know of complex numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec, reshard

from jaxsolve._closure import hoist
from jaxsolve._compat import is_concrete, vary_over, varying_axes
from jaxsolve._operators import DenseMatrix, FunctionMatrix, Matrix
from jaxsolve._vectors import flat
from jaxsolve.tree_util import tree_real_dtype

__all__ = [
    "Codec",
    "LinearMap",
    "Operator",
    "check_counts",
    "check_sizes",
    "diagonal",
    "is_matrix",
    "is_multicolumn",
    "jacobi_preconditioner",
    "make_operator",
    "materialize",
    "on_vectors",
    "residual",
    "transpose",
]

PyTree = Any
LinearMap = Callable | jax.Array


class Codec:
    """Turns pytrees with given leaf shapes into real vectors of one dtype and back.

    The dtype of the vector is the widest among the leaves and the dense matrix, if there is one, and float32 at least,
    so that factorizations and inner products of bfloat16 data are computed in float32. Imaginary parts stand behind all
    real parts. Leaves that are sharded over an explicit mesh are gathered, because there is no vector of which parts
    are sharded differently.

    Args:
        tree: pytree of floating point or complex arrays.
        name: the argument's name, for error messages.
        matvec: the linear map that the vectors are for; it has a dtype if it is a dense matrix.

    Raises:
        TypeError: a leaf or the matrix is not floating point or complex.
    """

    def __init__(self, tree: PyTree, name: str = "b", matvec: Any = None):
        leaves, self.treedef = jax.tree.flatten(tree)
        self.name = name
        self.types = [jax.typeof(jnp.asarray(leaf)) for leaf in leaves]
        self.shapes = [leaf.shape for leaf in self.types]
        numbers = {name: leaves, "matvec": [matvec] if is_matrix(matvec) else []}
        _check_inexact(numbers)
        self.is_complex = [jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in self.types]
        self.dtype = tree_real_dtype(numbers)
        sizes = [math.prod(shape) for shape in self.shapes]
        self.sizes = sizes + [size for size, twice in zip(sizes, self.is_complex, strict=True) if twice]
        self.size = sum(self.sizes)
        self.axes = varying_axes(matvec) if is_matrix(matvec) else frozenset()
        self.example = jnp.zeros_like(self.ravel(tree, name))

    def vary(self, axes: frozenset) -> None:
        """Under ``shard_map``: let vectors vary over these mesh axes too, because the linear map does."""
        self.axes |= axes
        self.example = vary_over(self.example, self.axes)

    def ravel(self, tree: PyTree, name: str = "b") -> jax.Array:
        """The vector of a pytree with the leaf shapes of the model; its containers may differ.

        Raises:
            ValueError: the leaf shapes differ.
            TypeError: a leaf is complex where the model is real.
        """
        leaves = [_gathered(jnp.asarray(leaf)) for leaf in jax.tree.leaves(tree)]
        self._check(leaves, name)
        parts = [jnp.real(leaf) for leaf in leaves]
        parts += [jnp.imag(leaf) for leaf, twice in zip(leaves, self.is_complex, strict=True) if twice]
        return vary_over(flat(parts, self.dtype), self.axes)

    def unravel(self, vector: jax.Array) -> PyTree:
        """The pytree of a vector, in the structure, shapes and dtypes of the model."""
        parts = lax.split(vector, self.sizes)
        imaginary = iter(parts[len(self.shapes) :])
        leaves = [
            _like(lax.complex(part, next(imaginary)) if twice else part, model)
            for part, twice, model in zip(parts, self.is_complex, self.types, strict=False)
        ]
        return jax.tree.unflatten(self.treedef, leaves)

    def _check(self, leaves, name):
        shapes = [leaf.shape for leaf in leaves]
        if shapes != self.shapes:
            raise ValueError(
                f"{name} must have the leaf shapes of {self.name}, {self.shapes}, but has {shapes}. A linear map to be "
                "solved for is square: it maps the structure of b to itself."
            )
        for leaf, model in zip(leaves, self.types, strict=True):
            if jnp.iscomplexobj(leaf) and not jnp.issubdtype(model.dtype, jnp.complexfloating):
                raise TypeError(f"{name} is complex where {self.name} is real: convert {self.name} to a complex dtype.")


@dataclasses.dataclass(frozen=True)
class Operator:
    """A square linear map on pytrees.

    Attributes:
        matrix: the map on vectors of dtype ``codec.dtype``.
        codec: the pytrees for which the vectors stand.
        is_transpose: whether this is the transpose of the map that the caller gave.
    """

    matrix: Matrix
    codec: Codec
    is_transpose: bool = False

    def matvec(self, vector: jax.Array) -> jax.Array:
        """The map on vectors."""
        return self.matrix.matvec(vector)

    def transpose(self) -> Operator:
        """The transposed map."""
        return Operator(self.matrix.transpose(), self.codec, not self.is_transpose)

    def tree_matvec(self, tree: PyTree) -> PyTree:
        """The map on pytrees of the structure and dtypes of ``b``."""
        return self.codec.unravel(self.matvec(self.codec.ravel(tree, "the argument of matvec")))


def make_operator(matvec: LinearMap, codec: Codec, ridge: Any = None, symmetric: bool = False) -> Operator:
    """The map ``matvec + ridge * I`` on vectors. A callable is called once, to trace it.

    Args:
        matvec: callable on pytrees with the leaf shapes of the codec, or a dense matrix of shape ``(n, n)``.
        codec: describes the right-hand side.
        ridge: non-negative scalar or ``None``.
        symmetric: whether it is its own conjugate transpose.

    Raises:
        ValueError: the map is not square, or ``ridge`` is negative.
        TypeError: ``matvec`` is neither callable nor an array.
    """
    check_sizes(ridge=ridge)
    matrix = on_vectors(matvec, codec, codec, symmetric)
    return Operator(matrix if ridge is None else matrix.shifted(jnp.asarray(ridge).astype(codec.dtype)), codec)


def on_vectors(matvec: Any, domain: Codec, image: Codec, symmetric: bool = False) -> DenseMatrix | FunctionMatrix:
    """A linear map between pytrees as one between vectors; Python runs the caller's function once."""
    if is_matrix(matvec):
        return DenseMatrix(_real_matrix(matvec, domain, image))
    if not callable(matvec):
        raise TypeError(f"matvec must be a callable or a 2-d array, got {type(matvec).__name__}.")

    def product(vector):
        return image.ravel(matvec(domain.unravel(vector)), "the value of matvec")

    traced = hoist(product, domain.example)
    axes = varying_axes(traced.out_shape)
    if axes - varying_axes(domain.example):
        domain.vary(axes)
        image.vary(axes)
        traced = hoist(product, domain.example)
    shape, axes = (image.size, domain.size), varying_axes(domain.example)
    return FunctionMatrix(traced, shape, domain.dtype, traced if symmetric else None, axes=axes)


def _real_matrix(matrix: Any, domain: Codec, image: Codec) -> jax.Array:
    """A dense matrix for vectors of real and imaginary parts.

    Raises:
        ValueError: the shape is wrong.
        TypeError: real and complex arrays are mixed.
    """
    matrix = jnp.asarray(matrix)
    shape = tuple(sum(codec.sizes[: len(codec.shapes)]) for codec in (image, domain))
    if matrix.shape != shape:
        kind = "be square, with" if image is domain else "have"
        raise ValueError(
            f"matvec, given as an array, must {kind} one row for each of the {shape[0]} entries of b and one column "
            f"for each of the {shape[1]} unknowns, but has shape {matrix.shape}."
        )
    if any(domain.is_complex) or jnp.iscomplexobj(matrix):
        _check_all_complex(domain)
        re, im = jnp.real(matrix), jnp.imag(matrix)
        matrix = jnp.block([[re, -im], [im, re]])
    return vary_over(matrix.astype(image.dtype), varying_axes(image.example))


def materialize(matvec: LinearMap, like: PyTree, ridge: Any = None) -> jax.Array:
    """The dense matrix of a linear map between pytrees.

    Args:
        matvec: linear map from pytrees like ``like`` to pytrees with the same leaf shapes.
        like: pytree of arrays with n entries in all; only its structure, shapes and dtypes matter.
        ridge: multiple of the identity to add.

    Returns:
        Array of shape ``(n, n)`` in the widest dtype of the leaves (float32 at least); the order of rows and columns is
        that of the leaves, each in row-major order.

    Raises:
        ValueError: the value of ``matvec`` has other leaf shapes.
        TypeError: a leaf is not floating point, or real and complex leaves are mixed.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.linear_solve import materialize
        >>> like = {"a": jnp.zeros(()), "b": jnp.zeros(2)}
        >>> materialize(lambda t: {"a": t["a"] + t["b"].sum(), "b": 2 * t["b"]}, like).tolist()
        [[1.0, 1.0, 1.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]]
    """
    codec = Codec(like, "like", matvec)
    dense = make_operator(matvec, codec, ridge).matrix.dense()
    if not any(codec.is_complex):
        return dense
    _check_all_complex(codec)
    half = codec.size // 2
    return lax.complex(dense[:half, :half], dense[half:, :half])


def transpose(matvec: Callable, like: PyTree) -> Callable[[PyTree], PyTree]:
    """The transpose of a linear map from pytrees like ``like`` to pytrees with the same leaf shapes.

    Args:
        matvec: linear map.
        like: pytree of arrays; only its structure, shapes and dtypes matter.

    Returns:
        Callable on pytrees like ``like``. Complex maps are transposed, not conjugated.

    Raises:
        ValueError: the value of ``matvec`` has other leaf shapes.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.linear_solve import transpose
        >>> A = jnp.array([[1.0, 2.0], [3.0, 4.0]])
        >>> transpose(lambda x: A @ x, jnp.zeros(2))(jnp.array([1.0, 0.0])).tolist()
        [1.0, 2.0]
    """
    transposed = make_operator(matvec, Codec(like, "like")).transpose().tree_matvec
    # On vectors of real and imaginary parts the transpose is the conjugate one.
    return lambda tree: jax.tree.map(jnp.conj, transposed(jax.tree.map(jnp.conj, tree)))


def residual(matvec: LinearMap, x: PyTree, b: PyTree, ridge: Any = None) -> PyTree:
    """The residual of a linear system: ``b - matvec(x) - ridge * x``.

    Args:
        matvec: linear map on pytrees like ``b``, or a dense matrix.
        x: pytree with the leaf shapes of ``b``.
        b: pytree of arrays.
        ridge: multiple of the identity that was added in the solve.

    Returns:
        Pytree with the structure and dtypes of ``b``.

    Raises:
        ValueError: the leaf shapes of ``x``, ``b`` and the value of ``matvec`` differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.linear_solve import residual
        >>> residual(lambda v: 2 * v, jnp.ones(2), jnp.array([2.0, 5.0])).tolist()
        [0.0, 3.0]
    """
    if is_multicolumn(matvec, b):
        return jax.vmap(lambda x, b: residual(matvec, x, b, ridge), in_axes=1, out_axes=1)(x, b)
    codec = Codec(b, matvec=matvec)
    operator = make_operator(matvec, codec, ridge)
    return codec.unravel(codec.ravel(b) - operator.matvec(codec.ravel(x, "x")))


def diagonal(matvec: LinearMap, like: PyTree, ridge: Any = None) -> PyTree:
    """The exact diagonal of a linear map. The map is materialized, so use it for up to some thousand unknowns.

    Args:
        matvec: linear map on pytrees like ``like``, or a dense matrix.
        like: pytree of arrays; only its structure, shapes and dtypes matter.
        ridge: multiple of the identity to add.

    Returns:
        Pytree like ``like``.

    Raises:
        ValueError: the map is not square.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.linear_solve import diagonal
        >>> diagonal(lambda x: jnp.array([1.0, 2.0]) * x + x.sum(), jnp.zeros(2)).tolist()
        [2.0, 3.0]
    """
    entries = jnp.diagonal(materialize(matvec, like, ridge))
    parts = jnp.concatenate([jnp.real(entries), jnp.imag(entries)]) if jnp.iscomplexobj(entries) else entries
    return Codec(like, "like").unravel(parts)


def jacobi_preconditioner(
    matvec: LinearMap | None, like: PyTree, ridge: Any = None, *, diag: PyTree = None
) -> Callable[[PyTree], PyTree]:
    """A preconditioner that divides by the diagonal.

    Args:
        matvec: linear map whose diagonal is taken; may be ``None`` if ``diag`` is given.
        like: pytree of arrays; only its structure, shapes and dtypes matter.
        ridge: multiple of the identity to add.
        diag: the diagonal, a pytree like ``like``, if it is known or estimated.

    Returns:
        Callable on pytrees like ``like``, for the argument ``preconditioner`` of the iterative solvers. Entries of the
        diagonal that are 0 are replaced by 1.

    Raises:
        ValueError: neither ``matvec`` nor ``diag`` is given, or shapes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.linear_solve import jacobi_preconditioner, solve_cg
        >>> A = lambda x: jnp.array([1.0, 100.0]) * x
        >>> M = jacobi_preconditioner(A, jnp.zeros(2))
        >>> M(jnp.array([1.0, 100.0])).tolist()
        [1.0, 1.0]
    """
    if diag is None:
        if matvec is None:
            raise ValueError("jacobi_preconditioner needs matvec or diag, got None for both.")
        diag = diagonal(matvec, like)
    Codec(like, "like").ravel(diag, "diag")  # checks it

    def divide(x, entry):
        entry = entry if ridge is None else entry + jnp.asarray(ridge).astype(entry.dtype)
        return x / jnp.where(entry == 0, 1, entry)

    return lambda tree: jax.tree.map(divide, tree, diag)


def is_matrix(matvec: Any) -> bool:
    """Whether the linear map was given as a dense array."""
    return not callable(matvec) and hasattr(matvec, "shape") and len(matvec.shape) == 2


def is_multicolumn(matvec: Any, b: Any) -> bool:
    """Whether a dense matrix meets a matrix of right-hand sides, one in each column."""
    return is_matrix(matvec) and hasattr(b, "shape") and len(b.shape) == 2 and b.shape[0] == matvec.shape[0]


def check_sizes(**scalars: Any) -> None:
    """Raise a ``ValueError`` unless each is ``None`` or a scalar that is not negative; traced values pass."""
    for name, value in scalars.items():
        if value is not None and jnp.ndim(value) != 0:
            raise ValueError(f"{name} must be a scalar, got an array of shape {jnp.shape(value)}.")
        if value is not None and is_concrete(value) and not value >= 0:
            raise ValueError(f"{name} must be at least 0, got {value}.")


def check_counts(**numbers: Any) -> None:
    """Raise a ``ValueError`` unless each is ``None`` or a whole number of at least 1; traced values pass."""
    for name, value in numbers.items():
        if value is not None and is_concrete(value) and (value < 1 or int(value) != value):
            raise ValueError(f"{name} must be a whole number of at least 1, got {value}.")


def _check_all_complex(codec):
    if not all(codec.is_complex):
        raise TypeError(
            f"a matrix mixes real and complex arrays: the leaves of {codec.name} have dtypes "
            f"{[str(leaf.dtype) for leaf in codec.types]}. Convert the real ones."
        )


def _gathered(leaf):
    sharding = jax.typeof(leaf).sharding
    return reshard(leaf, NamedSharding(sharding.mesh, PartitionSpec())) if any(sharding.spec) else leaf


def _like(part, model):
    leaf = part.reshape(model.shape).astype(model.dtype)
    return reshard(leaf, model.sharding) if any(model.sharding.spec) else leaf


def _check_inexact(numbers):
    for name, leaves in numbers.items():
        for dtype in map(jnp.result_type, leaves):
            if not jnp.issubdtype(dtype, jnp.inexact):
                raise TypeError(
                    f"{name} must consist of floating point arrays, but a leaf has dtype {dtype}: convert it first."
                )
