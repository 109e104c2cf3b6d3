"""The linear system of the implicit derivative, as an object."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxsolve._closure import hoist
from jaxsolve._compat import inside_shard_map, varying_axes
from jaxsolve._types import Array, PyTree, Structure
from jaxsolve._vectors import flat, ravel
from jaxsolve.linear_solve import DIRECT_MAX_SIZE
from jaxsolve.tree_util import tree_cast_like, tree_l2_norm, tree_sub

__all__ = ["TangentSystem", "as_matrix", "like_unknowns", "same_on_all_devices"]


class TangentSystem:
    r"""The system :math:`A u = b` of the derivative at a solution, with :math:`A` the Jacobian of a residual.

    This class leaves the choice of the linear solver to :func:`jaxsolve.linear_solve.solve`, or to the user. A solver
    that has a factor of :math:`A` at hand returns a subclass of its own from its ``_solve``, which defines ``solve``
    and ``transposed``; they are used unless the user chose a ``method``. All arrays that such a system holds are
    constants to the derivative.

    Args:
        residual: ``residual(unknowns, *args, **kwargs)``, zero at the solution.
        method: linear solver ``solve(matvec, b)``, or ``None`` for the automatic choice.
        structure: what is known of :math:`A`: ``"psd"``, ``"symmetric"`` or ``"general"``.
    """

    #: ``solve(rhs, unknowns, *args, **kwargs)`` and its counterpart for the transpose of the matrix.
    solve: Any = None
    transposed: Any = None
    #: Whether there is a solution to differentiate, a boolean scalar. Without one every derivative is zero.
    valid: Any = True

    def __init__(self, residual: Callable, method: Any = None, structure: Structure = "general"):
        self.residual, self.method = residual, method
        self.structure: Structure = structure

    @property
    def parts(self) -> dict[str, Any]:
        """The arrays by name, of a system that is a dataclass."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {field.name: getattr(self, field.name) for field in fields if not field.metadata.get("static")}

    def unknowns(self, params: PyTree) -> PyTree:
        """The part of the parameters that the residual determines."""
        return params

    def complete(self, unknowns: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The parameters as a differentiable function of the unknowns and the data: the inverse of ``unknowns``."""
        del args, kwargs
        return unknowns

    def accuracy(self, tangent: PyTree, rhs: PyTree, unknowns: PyTree, *args: Any, **kwargs: Any) -> Array:
        """The relative residual of a solution of the system: the norm of ``A tangent - rhs`` over that of ``rhs``."""
        _, image = jax.jvp(self._mapping(unknowns, args, kwargs), (unknowns,), (tangent,))
        return _relative(image, rhs)

    def accuracy_transposed(self, adjoint: PyTree, rhs: PyTree, unknowns: PyTree, *args: Any, **kwargs: Any) -> Array:
        """The same of the system with the transpose of ``A``, which reverse mode solves."""
        _, vjp = jax.vjp(self._mapping(unknowns, args, kwargs), unknowns)
        return _relative(vjp(adjoint)[0], rhs)

    def _mapping(self, unknowns: PyTree, args: tuple, kwargs: dict) -> Callable:
        return lambda x: like_unknowns(self.residual(x, *args, **kwargs), unknowns)


def _relative(image: PyTree, rhs: PyTree) -> Array:
    size = tree_l2_norm(rhs)
    return tree_l2_norm(tree_sub(image, rhs)) / jnp.where(size > 0, size, jnp.ones_like(size))


def as_matrix(matvec: Callable, like: PyTree) -> Callable:
    """A linear map on pytrees as the product with its matrix, which can be transposed; a large one as it is."""
    vector, unravel = ravel(like)
    if vector.size > DIRECT_MAX_SIZE:
        return matvec
    columns = jax.vmap(lambda v: flat(matvec(unravel(v)), v.dtype))(jnp.eye(vector.size, dtype=vector.dtype))
    return lambda x: unravel(flat(x, vector.dtype) @ columns)


def same_on_all_devices(matvec: Callable, like: PyTree) -> Callable:
    """A product that jax sees as the same on all devices of a ``shard_map``, if it is, even inside a linear solve.

    A solve with a product that sums over devices counts as different on each; one with its matrix does not.
    """
    if not inside_shard_map():
        return matvec
    image = set().union(*map(varying_axes, jax.tree.leaves(jax.eval_shape(matvec, like))))
    sums = any(varying_axes(const) - image for const in hoist(matvec, like).consts)
    return as_matrix(matvec, like) if sums else matvec


def like_unknowns(residual: PyTree, unknowns: PyTree) -> PyTree:
    """A residual, which may come in containers of its own, in the structure and dtypes of the unknowns.

    Raises:
        ValueError: it does not have the leaf shapes of the unknowns.
        TypeError: an unknown is not floating point.
    """
    got = [jnp.shape(x) for x in jax.tree.leaves(residual)]
    want = [jnp.shape(x) for x in jax.tree.leaves(unknowns)]
    if got != want:
        raise ValueError(
            f"optimality_fun must return one residual for each unknown: the solution has leaf shapes {want}, "
            f"optimality_fun returned {got}."
        )
    for leaf in jax.tree.leaves(unknowns):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            raise TypeError(f"a solution is differentiated in floating point, but a leaf has dtype {leaf.dtype}.")
    return tree_cast_like(jax.tree.unflatten(jax.tree.structure(unknowns), jax.tree.leaves(residual)), unknowns)
