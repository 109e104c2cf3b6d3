"""Linear maps between pytrees, seen as maps between vectors.

Every solver of the package works on one vector in one dtype. A :class:`Codec` turns a pytree into that vector and back,
casting each leaf explicitly, and an :class:`Operator` is a linear map on such vectors.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._compat import is_concrete, jaxpr_as_fun

__all__ = [
    "Codec",
    "Operator",
    "check_options",
    "is_matrix",
    "make_operator",
    "materialize",
    "residual",
    "transpose",
]

PyTree = Any


class Codec:
    """Turns pytrees with given leaf shapes into vectors of one dtype and back.

    The dtype of the vector is the widest among the leaves, and float32 at least, so that factorizations and inner
    products of bfloat16 data are computed in float32.

    Args:
        tree: pytree of floating point or complex arrays.
        name: the argument's name, for error messages.

    Raises:
        TypeError: a leaf is not floating point or complex, or real and complex leaves are mixed.
    """

    def __init__(self, tree: PyTree, name: str = "b"):
        leaves, self.treedef = jax.tree.flatten(tree)
        self.shapes = [jnp.shape(leaf) for leaf in leaves]
        self.dtypes = [_inexact_dtype(leaf, name) for leaf in leaves]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.size = sum(self.sizes)
        self.dtype = _working_dtype(self.dtypes, name)

    def widen(self, dtype) -> None:
        """Compute in a dtype that holds ``dtype`` too (a matrix given as an array may be wider than ``b``)."""
        self.dtype = _working_dtype([self.dtype, jnp.dtype(dtype)], "matvec and b")

    def ravel(self, tree: PyTree, name: str = "b") -> jax.Array:
        """The vector of a pytree with the leaf shapes of the model; its containers may differ.

        Raises:
            ValueError: the leaf shapes differ.
        """
        leaves = jax.tree.leaves(tree)
        self.check_shapes([jnp.shape(leaf) for leaf in leaves], name)
        parts = [jnp.ravel(jnp.asarray(leaf)).astype(self.dtype) for leaf in leaves]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts) if parts else jnp.zeros((0,), self.dtype)

    def unravel(self, vector: jax.Array) -> PyTree:
        """The pytree of a vector, in the structure, shapes and dtypes of the model."""
        ends = np.cumsum(self.sizes)
        leaves = [
            vector[end - size : end].reshape(shape).astype(dtype)
            for end, size, shape, dtype in zip(ends, self.sizes, self.shapes, self.dtypes, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, leaves)

    def check_shapes(self, shapes: list, name: str) -> None:
        """Raise a ``ValueError`` unless ``shapes`` are the leaf shapes of the model."""
        if shapes != self.shapes:
            raise ValueError(
                f"{name} must have the leaf shapes of b, {self.shapes}, but has {shapes}. A linear map to be solved "
                "for is square: it maps the structure of b to itself."
            )


@dataclasses.dataclass(frozen=True)
class Operator:
    """A square linear map on vectors.

    Attributes:
        matvec: maps a vector of shape ``(n,)`` to a vector of shape ``(n,)``, both of dtype ``codec.dtype``.
        codec: the pytrees for which the vectors stand.
        transposed_matvec: the product with the transpose if it is known, else it is derived from ``matvec``.
        matrix: the dense matrix if it is known, shape ``(n, n)``, else ``None``.
        is_transpose: whether this is the transpose of the map that the caller gave.
    """

    matvec: Callable[[jax.Array], jax.Array]
    codec: Codec
    transposed_matvec: Callable[[jax.Array], jax.Array] | None = None
    matrix: jax.Array | None = None
    is_transpose: bool = False

    @property
    def size(self) -> int:
        """The number n of unknowns."""
        return self.codec.size

    @property
    def dtype(self):
        """The dtype of the vectors."""
        return self.codec.dtype

    @property
    def eps(self) -> float:
        """The spacing of floating point numbers at 1."""
        return float(jnp.finfo(self.dtype).eps)

    def dense(self) -> jax.Array:
        """The matrix, shape ``(n, n)``: one batched product with the identity."""
        if self.matrix is not None:
            return self.matrix
        return jax.vmap(self.matvec, out_axes=1)(jnp.eye(self.size, dtype=self.dtype))

    def transpose(self, vecmat: Callable | None = None) -> Operator:
        """The transposed map (not conjugated)."""
        vecmat = vecmat or self.transposed_matvec or _linear_transpose(self.matvec, self)
        matrix = None if self.matrix is None else self.matrix.T
        return Operator(vecmat, self.codec, self.matvec, matrix, not self.is_transpose)

    def adjoint(self) -> Callable[[jax.Array], jax.Array]:
        """The product with the conjugate transpose."""
        vecmat = self.transpose().matvec
        if not jnp.issubdtype(self.dtype, jnp.complexfloating):
            return vecmat
        return lambda vector: jnp.conj(vecmat(jnp.conj(vector)))

    def tree_matvec(self, tree: PyTree) -> PyTree:
        """The map on pytrees of the structure and dtypes of ``b``."""
        return self.codec.unravel(self.matvec(self.codec.ravel(tree, "the argument of matvec")))


def make_operator(matvec: Callable | jax.Array, codec: Codec, ridge: Any = None) -> Operator:
    """The map ``matvec + ridge * I`` on vectors. A callable is called once, to trace it.

    Args:
        matvec: callable on pytrees with the leaf shapes of the codec, or a dense matrix of shape ``(n, n)``.
        codec: describes the right-hand side.
        ridge: non-negative scalar or ``None``.

    Raises:
        ValueError: the map is not square, or ``ridge`` is negative.
        TypeError: ``matvec`` is neither callable nor an array.
    """
    check_options(ridge=ridge)
    if is_matrix(matvec):
        matrix = jnp.asarray(matvec)
        if matrix.shape != (codec.size, codec.size):
            raise ValueError(
                f"matvec, given as an array, must be square with one row for each of the {codec.size} unknowns of b, "
                f"but has shape {matrix.shape}."
            )
        codec.widen(_inexact_dtype(matrix, "matvec"))
        matrix = matrix.astype(codec.dtype)
        if ridge is not None:
            matrix = matrix + jnp.asarray(ridge).astype(codec.dtype) * jnp.eye(codec.size, dtype=codec.dtype)
        return Operator(lambda v: matrix @ v, codec, lambda v: matrix.T @ v, matrix)
    if not callable(matvec):
        raise TypeError(f"matvec must be a callable or a 2-d array, got {type(matvec).__name__}.")

    def on_vectors(vector):
        image = matvec(codec.unravel(vector))
        codec.check_shapes([jnp.shape(leaf) for leaf in jax.tree.leaves(image)], "the value of matvec")
        return codec.ravel(image)

    # Solvers use the map at several places: as a jaxpr, so that Python runs the caller's function once.
    example = jax.ShapeDtypeStruct((codec.size,), codec.dtype)
    traced = jaxpr_as_fun(jax.make_jaxpr(on_vectors)(example))

    def vector_matvec(vector):
        (image,) = traced(vector)
        return image if ridge is None else image + jnp.asarray(ridge).astype(codec.dtype) * vector

    return Operator(vector_matvec, codec)


def materialize(matvec: Callable | jax.Array, like: PyTree, ridge: Any = None) -> jax.Array:
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
        TypeError: a leaf is not floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.linear_solve import materialize
        >>> like = {"a": jnp.zeros(()), "b": jnp.zeros(2)}
        >>> materialize(lambda t: {"a": t["a"] + t["b"].sum(), "b": 2 * t["b"]}, like).tolist()
        [[1.0, 1.0, 1.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]]
    """
    return make_operator(matvec, Codec(like, "like"), ridge).dense()


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
    return make_operator(matvec, Codec(like, "like")).transpose().tree_matvec


def residual(matvec: Callable | jax.Array, x: PyTree, b: PyTree, ridge: Any = None) -> PyTree:
    """What is left of the right-hand side: ``b - matvec(x) - ridge * x``.

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
    codec = Codec(b)
    operator = make_operator(matvec, codec, ridge)
    return codec.unravel(codec.ravel(b) - operator.matvec(codec.ravel(x, "x")))


def is_matrix(matvec: Any) -> bool:
    """Whether the linear map was given as a dense array."""
    return not callable(matvec) and hasattr(matvec, "shape") and len(matvec.shape) == 2


def is_multicolumn(matvec: Any, b: Any) -> bool:
    """Whether a dense matrix meets a matrix of right-hand sides, one in each column."""
    return is_matrix(matvec) and hasattr(b, "shape") and len(b.shape) == 2 and b.shape[0] == matvec.shape[0]


def check_options(
    *, ridge: Any = None, tol: Any = None, atol: Any = None, maxiter: Any = None, restart: Any = None
) -> None:
    """Raise a ``ValueError`` for options that no solve can have; traced values pass."""
    for name, value in (("ridge", ridge), ("tol", tol), ("atol", atol)):
        if value is None:
            continue
        if jnp.ndim(value) != 0:
            raise ValueError(f"{name} must be a scalar, got an array of shape {jnp.shape(value)}.")
        if is_concrete(value) and not value >= 0:
            raise ValueError(f"{name} must be at least 0, got {value}.")
    for name, value in (("maxiter", maxiter), ("restart", restart)):
        if value is not None and is_concrete(value) and (value < 1 or int(value) != value):
            raise ValueError(f"{name} must be a whole number of at least 1, got {value}.")


def _linear_transpose(matvec, operator):
    transposed = jax.linear_transpose(matvec, jax.ShapeDtypeStruct((operator.size,), operator.dtype))
    return lambda vector: transposed(vector)[0]


def _inexact_dtype(leaf, name):
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(
            f"{name} must consist of floating point arrays, but a leaf has dtype {dtype}: convert it first."
        )
    return jnp.dtype(dtype)


def _working_dtype(dtypes, name):
    complex_leaves = {jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes}
    if len(complex_leaves) > 1:
        raise TypeError(
            f"{name} mixes real and complex arrays, dtypes {[str(d) for d in dtypes]}: convert the real ones."
        )
    widest = max(dtypes, key=lambda dtype: jnp.finfo(dtype).bits, default=jnp.dtype(jnp.float32))
    return jnp.dtype(jnp.float32) if jnp.finfo(widest).bits < 32 else widest
