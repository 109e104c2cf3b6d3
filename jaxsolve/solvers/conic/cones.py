r"""Products of cones: which rows of a conic program belong to which cone.

The kinds of cones come in the order of SCS, and so do the rows of each kind. All cones of one kind and size are one
:class:`Block`: they are stacked and handled together, so that a program compiles to as many pieces as it has kinds and
sizes of cones, however many cones there are.

A symmetric matrix of order :math:`k` is a vector of :math:`k (k + 1) / 2` rows: its lower triangle, column by column,
what is off the diagonal times :math:`\sqrt 2`. Inner products are then those of the matrices.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve import _cones
from jaxsolve._inputs import as_array, widen
from jaxsolve._types import Array

__all__ = ["Cones", "smat", "svec"]


class Block(NamedTuple):
    """All cones of one kind and size.

    Attributes:
        kind: the name of the field of :class:`Cones`, for example ``"soc"``.
        rows: the rows of each cone, integers of shape ``(count, size)``.
        order: the order of a semidefinite matrix; for the other kinds as many as a cone has rows.
        exponents: those of power cones, of shape ``(count,)``; else None.
    """

    kind: str
    rows: np.ndarray
    order: int
    exponents: np.ndarray | None = None

    def of(self, v: Array) -> Array:
        """The rows of this block in a vector or matrix, of shape ``(count, size, ...)``."""
        first, (count, size) = int(self.rows[0, 0]), self.rows.shape
        if np.array_equal(self.rows.ravel(), first + np.arange(self.rows.size)):
            return v[first : first + self.rows.size].reshape(count, size, *v.shape[1:])
        return v[self.rows]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class Cones:
    r"""A product of cones, :math:`K = K_1 \times K_2 \times \dots`: the rows of a conic program, kind by kind.

    An object is immutable and hashable. It contains no arrays, and is a static part of a compiled program. The rows
    come in the order of the attributes.

    Attributes:
        zero: the number of rows that are 0 (equations). Their dual is free.
        nonneg: the number of rows that are non-negative.
        soc: the numbers of rows of second-order cones :math:`\{(t, z) : \|z\|_2 \le t\}`.
        psd: the orders :math:`k` of positive semidefinite matrices, each of :math:`k (k + 1) / 2` rows: the lower
            triangle, column by column, what is off the diagonal times :math:`\sqrt 2`; see
            :func:`~jaxsolve.solvers.conic.svec`.
        exp: the number of exponential cones :math:`\operatorname{cl} \{(a, b, c) : b e^{a / b} \le c, \; b > 0\}`, each
            of three rows.
        dual_exp: the number of duals of the exponential cone,
            :math:`\operatorname{cl} \{(a, b, c) : -a e^{b / a} \le e c, \; a < 0\}`, each of three rows.
        power: the exponents :math:`\alpha` of power cones
            :math:`\{(a, b, c) : a^\alpha b^{1 - \alpha} \ge |c|, \; a, b \ge 0\}`, each of three rows.
        dual_power: the exponents of duals of the power cone,
            :math:`\{(a, b, c) : (a / \alpha)^\alpha (b / (1 - \alpha))^{1 - \alpha} \ge |c|, \; a, b \ge 0\}`, each of
            three rows.

    Raises:
        TypeError: a count or size is not an integer, or an exponent is not a number.
        ValueError: a count is negative, a size is less than 1, or an exponent is not strictly between 0 and 1.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> cones = jaxsolve.Cones(zero=1, nonneg=2, soc=(3,))
        >>> cones.num_rows, cones.offsets["soc"]
        (6, 3)
        >>> cones.project(jnp.array([5.0, -1.0, 2.0, 0.0, 2.0, 0.0])).tolist()
        [0.0, 0.0, 2.0, 1.0, 1.0, 0.0]
    """

    zero: int = 0
    nonneg: int = 0
    soc: tuple[int, ...] = ()
    psd: tuple[int, ...] = ()
    exp: int = 0
    dual_exp: int = 0
    power: tuple[float, ...] = ()
    dual_power: tuple[float, ...] = ()

    def __post_init__(self):
        for name in _COUNTS:
            object.__setattr__(self, name, _count(name, getattr(self, name), least=0))
        for name in ("soc", "psd"):
            sizes = tuple(_count(name, size, least=1) for size in _entries(name, getattr(self, name)))
            object.__setattr__(self, name, sizes)
        for name in ("power", "dual_power"):
            exponents = tuple(_exponent(name, alpha) for alpha in _entries(name, getattr(self, name)))
            object.__setattr__(self, name, exponents)

    # ---- Rows -----------------------------------------------------------------------------------------------------

    @functools.cached_property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """The number of rows of each cone, by kind."""
        return {
            "zero": (1,) * self.zero,
            "nonneg": (1,) * self.nonneg,
            "soc": self.soc,
            "psd": tuple(k * (k + 1) // 2 for k in self.psd),
            "exp": (3,) * self.exp,
            "dual_exp": (3,) * self.dual_exp,
            "power": (3,) * len(self.power),
            "dual_power": (3,) * len(self.dual_power),
        }

    @functools.cached_property
    def offsets(self) -> dict[str, int]:
        """The first row of each kind, also for kinds without cones."""
        totals = np.cumsum([0, *(sum(sizes) for sizes in self.sizes.values())]).tolist()
        return dict(zip(self.sizes, totals, strict=False))

    @functools.cached_property
    def num_rows(self) -> int:
        """The number of rows of all cones together."""
        return sum(sum(sizes) for sizes in self.sizes.values())

    @functools.cached_property
    def degree(self) -> int:
        """The degree of the barrier.

        That is 1 for a non-negative row or a second-order cone, the order of a semidefinite matrix, 3 for exponential
        and power cones, and 0 for rows that are 0.
        """
        threes = self.exp + self.dual_exp + len(self.power) + len(self.dual_power)
        return self.nonneg + len(self.soc) + sum(self.psd) + 3 * threes

    @functools.cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The cones by kind and size."""
        blocks = []
        for kind, sizes in self.sizes.items():
            starts = self.offsets[kind] + np.cumsum([0, *sizes])[:-1]
            orders = np.asarray(self.psd if kind == "psd" else sizes, dtype=int)
            exponents = getattr(self, kind) if kind in ("power", "dual_power") else None
            for order in dict.fromkeys(orders.tolist()):
                chosen = np.flatnonzero(orders == order)
                rows = starts[chosen][:, None] + np.arange(sizes[int(chosen[0])])
                blocks.append(Block(kind, rows, order, None if exponents is None else np.asarray(exponents)))
        return tuple(blocks)

    def map_blocks(self, fun: Callable[..., Array], *vectors: Array) -> Array:
        """The vector whose blocks are ``fun(block, *parts)``.

        Args:
            fun: takes a :class:`Block` and its rows of each vector, of shape ``(count, size, ...)``; returns an array
                of shape ``(count, size, ...)``.
            *vectors: vectors, or matrices, with a row for each of :attr:`num_rows`.
        """
        if not self.blocks:
            return vectors[0]
        parts = [fun(block, *(block.of(v) for v in vectors)) for block in self.blocks]
        joined = jnp.concatenate([part.reshape(-1, *part.shape[2:]) for part in parts])
        rows = np.concatenate([block.rows.ravel() for block in self.blocks])
        return joined if np.all(np.diff(rows) == 1) else joined[np.argsort(rows)]

    # ---- Projections ----------------------------------------------------------------------------------------------

    def project(self, v: Any) -> Array:
        r"""The nearest point of the cones, :math:`\Pi_K(v)`, with derivatives of every order.

        Args:
            v: vector of shape ``(num_rows,)``; use ``jax.vmap`` for a batch.

        Returns:
            A vector like ``v``.

        Raises:
            ValueError: ``v`` has another shape.
            TypeError: ``v`` is not real.
        """
        return self._projected(v, dual=False)

    def project_dual(self, v: Any) -> Array:
        r"""The nearest point of the dual cones, :math:`\Pi_{K^*}(v) = v + \Pi_K(-v)`; see :meth:`project`."""
        return self._projected(v, dual=True)

    def _projected(self, v: Any, *, dual: bool) -> Array:
        v = as_array(v, "v")
        if v.shape != (self.num_rows,):
            raise ValueError(f"v must have shape ({self.num_rows},), a row for each of {self}, got shape {v.shape}.")
        project = functools.partial(project_block, dual=dual)
        return self.map_blocks(project, widen(v)).astype(v.dtype)

    # ---- The formats of other solvers -----------------------------------------------------------------------------

    @classmethod
    def from_scs(cls, cone: dict[str, Any]) -> Cones:
        """The cones of a dictionary as SCS takes it. The rows have the same order.

        Args:
            cone: a dictionary with some of the keys ``z`` (``f`` in old versions), ``l``, ``q``, ``s``, ``ep``, ``ed``
                and ``p``, in which negative exponents mean dual power cones.

        Raises:
            ValueError: a key is unknown or means a cone that is not there (a box, complex or spectral cones), or a dual
                power cone comes before a primal one.
        """
        known = {"f", "z", "l", "q", "s", "ep", "ed", "p"}
        cone = {key: value for key, value in cone.items() if value is not None and np.size(value)}
        if unknown := sorted(key for key in set(cone) - known if np.any(cone[key])):
            raise ValueError(f"cone has the unknown keys {unknown}; supported are {sorted(known)}.")
        exponents = np.atleast_1d(np.asarray(cone.get("p", ()), dtype=float))
        if np.any(np.diff(np.sign(exponents)) > 0):
            raise ValueError(
                f"cone['p'] must have its dual power cones (negative exponents) last, got {exponents.tolist()}: change "
                "their order and that of their rows."
            )
        return cls(
            zero=cone.get("z", 0) + cone.get("f", 0),
            nonneg=cone.get("l", 0),
            soc=tuple(size for size in _listed(cone.get("q", ())) if size),
            psd=tuple(order for order in _listed(cone.get("s", ())) if order),
            exp=cone.get("ep", 0),
            dual_exp=cone.get("ed", 0),
            power=tuple(exponents[exponents > 0].tolist()),
            dual_power=tuple((-exponents[exponents <= 0]).tolist()),
        )

    def to_scs(self) -> dict[str, Any]:
        """The dictionary that SCS takes. The rows have the same order."""
        exponents = [*self.power, *(-alpha for alpha in self.dual_power)]
        every = {
            "z": self.zero,
            "l": self.nonneg,
            "q": list(self.soc),
            "s": list(self.psd),
            "ep": self.exp,
            "ed": self.dual_exp,
            "p": exponents,
        }
        return {key: value for key, value in every.items() if value}

    @classmethod
    def from_clarabel(cls, cones: Iterable[Any]) -> tuple[Cones, np.ndarray]:
        """The cones of a list as Clarabel takes it.

        Args:
            cones: cones of Clarabel, in any order. Its triangles of semidefinite matrices are the upper ones, column by
                column.

        Returns:
            The cones, and the rows in their order: with ``A`` and ``b`` as Clarabel takes them, ``A[rows]`` and
            ``b[rows]`` belong to these cones.

        Raises:
            ValueError: a cone is of another kind, or of size 0.
        """
        found: dict[str, list] = {kind: [] for kind in _KINDS}
        rows: dict[str, list[np.ndarray]] = {kind: [np.zeros(0, int)] for kind in _KINDS}
        start = 0
        for cone in cones:
            name = type(cone).__name__
            if name not in _FROM_CLARABEL:
                raise ValueError(f"cones has the unsupported cone {name}; supported are {sorted(_FROM_CLARABEL)}.")
            kind, value = _FROM_CLARABEL[name](cone)
            size, order = value, np.arange(value if kind in ("zero", "nonneg", "soc") else 3)
            if kind == "psd":
                order = _from_upper(value)
            found[kind].append(size)
            rows[kind].append(start + order)
            start += len(order)
        counts: dict[str, Any] = {kind: tuple(values) for kind, values in found.items()}
        counts |= {"zero": sum(found["zero"]), "nonneg": sum(found["nonneg"]), "exp": len(found["exp"]), "dual_exp": 0}
        return cls(**counts), np.concatenate([part for kind in _KINDS for part in rows[kind]])

    def to_clarabel(self) -> tuple[list[Any], np.ndarray]:
        """The list of cones that Clarabel takes, and the rows in its order: ``A[rows]`` and ``b[rows]`` belong to it.

        Raises:
            ValueError: there are dual cones, which Clarabel does not have.
            ImportError: ``clarabel`` is not installed.
        """
        if self.dual_exp or self.dual_power:
            raise ValueError("Clarabel has no duals of exponential and power cones.")
        clarabel: Any = importlib.import_module("clarabel")
        # Rows of one kind are one cone there.
        lists = [clarabel.ZeroConeT(self.zero)] * (self.zero > 0)
        lists += [clarabel.NonnegativeConeT(self.nonneg)] * (self.nonneg > 0)
        lists += [clarabel.SecondOrderConeT(size) for size in self.soc]
        lists += [clarabel.PSDTriangleConeT(order) for order in self.psd]
        lists += [clarabel.ExponentialConeT()] * self.exp
        lists += [clarabel.PowerConeT(alpha) for alpha in self.power]
        rows = np.arange(self.num_rows)
        start = self.offsets["psd"]
        for order, size in zip(self.psd, self.sizes["psd"], strict=True):
            rows[start : start + size] = start + np.argsort(_from_upper(order))
            start += size
        return lists, rows


_KINDS = tuple(field.name for field in dataclasses.fields(Cones))
_COUNTS = ("zero", "nonneg", "exp", "dual_exp")

_FROM_CLARABEL: dict[str, Callable[[Any], tuple[str, Any]]] = {
    "ZeroConeT": lambda cone: ("zero", cone.dim),
    "NonnegativeConeT": lambda cone: ("nonneg", cone.dim),
    "SecondOrderConeT": lambda cone: ("soc", cone.dim),
    "PSDTriangleConeT": lambda cone: ("psd", cone.dim),
    "ExponentialConeT": lambda cone: ("exp", 3),
    "PowerConeT": lambda cone: ("power", cone.α),
}


# ---- Symmetric matrices as vectors -----------------------------------------------------------------------------------


def svec(matrix: Any) -> Array:
    r"""The lower triangle of a symmetric matrix, column by column, what is off the diagonal times :math:`\sqrt 2`.

    Args:
        matrix: shape ``(k, k)``; if it is not symmetric, its symmetric part is used.

    Returns:
        A vector of shape ``(k (k + 1) / 2,)``. Inner products of such vectors are those of the matrices.

    Raises:
        ValueError: the matrix is not square.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.solvers.conic import smat, svec
        >>> v = svec(jnp.array([[1.0, 2.0], [2.0, 3.0]]))
        >>> [round(x, 4) for x in v.tolist()], smat(v).round(4).tolist()
        ([1.0, 2.8284, 3.0], [[1.0, 2.0], [2.0, 3.0]])
    """
    matrix = as_array(matrix, "matrix")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"matrix must have shape (k, k), got shape {matrix.shape}; use jax.vmap for a stack of them.")
    i, j = _lower(matrix.shape[0])
    return (matrix[i, j] + matrix[j, i]) * np.where(i == j, 0.5, 0.5**0.5).astype(matrix.dtype)


def smat(vector: Any) -> Array:
    r"""The symmetric matrix of a vector, of shape ``(k, k)``: the inverse of :func:`svec`.

    Args:
        vector: shape ``(k (k + 1) / 2,)``.

    Raises:
        ValueError: the vector has another number of entries.
    """
    vector = as_array(vector, "vector")
    order = int((2 * vector.size) ** 0.5)
    if vector.ndim != 1 or order * (order + 1) // 2 != vector.size:
        raise ValueError(
            f"vector must have k (k + 1) / 2 entries, got shape {vector.shape}; use jax.vmap for a stack of them."
        )
    i, j = _lower(order)
    place = np.zeros((order, order), int)
    place[i, j] = place[j, i] = np.arange(vector.size)
    return vector[place] * np.where(np.eye(order, dtype=bool), 1, 0.5**0.5).astype(vector.dtype)


def _lower(order: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the lower triangle, column by column."""
    j, i = np.triu_indices(order)
    return i, j


def _from_upper(order: int) -> np.ndarray:
    """Where the entries of the lower triangle, column by column, are in the upper triangle, column by column."""
    i, j = _lower(order)
    return i * (i + 1) // 2 + j


# ---- Parts -----------------------------------------------------------------------------------------------------------


def project_block(block: Block, v: Array, dual: bool) -> Array:
    """The projection of vectors of shape ``(count, size)`` on the cones of a block, or on their duals."""
    kind = block.kind
    if kind == "zero":
        return v if dual else jnp.zeros_like(v)
    if kind == "nonneg":
        return jnp.maximum(v, 0)
    if kind == "soc":
        return jax.vmap(_second_order)(v)
    if kind == "psd":
        return jax.vmap(lambda u: svec(_cones.positive_semidefinite(smat(u))))(v)
    dual = dual != kind.startswith("dual_")
    if block.exponents is None:
        return jax.vmap(_cones.dual_exponential if dual else _cones.exponential)(v)
    exponents = jnp.asarray(block.exponents, v.dtype)
    return jax.vmap(_cones.dual_power if dual else _cones.power)(v, exponents)


def _second_order(v: Array) -> Array:
    t, z = _cones.second_order((v[0], v[1:]))
    return jnp.append(t, z)


def _count(name: str, value: Any, *, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError as error:
        raise TypeError(f"Cones: {name} counts rows or cones, with integers, got {value!r}.") from error
    if number < least or isinstance(value, bool):
        raise ValueError(f"Cones: {name} must be at least {least}, got {value!r}.")
    return number


def _exponent(name: str, value: Any) -> float:
    try:
        alpha = float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"Cones: {name} has exponents, with numbers, got {value!r}.") from error
    if not 0 < alpha < 1:
        raise ValueError(f"Cones: an exponent of {name} must be strictly between 0 and 1, got {value!r}.")
    return alpha


def _entries(name: str, value: Any) -> tuple:
    try:
        return tuple(value)
    except TypeError as error:
        raise TypeError(f"Cones: {name} must be a tuple, with an entry for each cone, got {value!r}.") from error


def _listed(value: Any) -> tuple:
    return tuple(np.atleast_1d(np.asarray(value, dtype=int)).tolist())
