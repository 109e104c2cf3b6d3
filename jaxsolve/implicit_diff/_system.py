"""The linear system of the implicit derivative, as an object."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxsolve._types import Array, PyTree, Structure
from jaxsolve.linear_solve import solve as linear_solve
from jaxsolve.tree_util import tree_l2_norm, tree_sub

__all__ = ["TangentSystem", "solve_tangent"]


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

    def unknowns(self, params: PyTree) -> PyTree:
        """The part of the parameters that the residual determines."""
        return params

    def complete(self, unknowns: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The parameters as a differentiable function of the unknowns and the data: the inverse of ``unknowns``."""
        del args, kwargs
        return unknowns

    def accuracy(self, tangent: PyTree, rhs: PyTree, unknowns: PyTree, *args: Any, **kwargs: Any) -> Array:
        """The relative residual of a solution of the system: the norm of ``A tangent - rhs`` over that of ``rhs``."""
        _, image = jax.jvp(lambda x: self.residual(x, *args, **kwargs), (unknowns,), (tangent,))
        size = tree_l2_norm(rhs)
        return tree_l2_norm(tree_sub(image, rhs)) / jnp.where(size > 0, size, jnp.ones_like(size))


def solve_tangent(
    matvec: Callable, rhs: PyTree, like: PyTree, *, solve: Callable | None = None, structure: Structure = "general"
) -> PyTree:
    """Solve ``matvec(x) = rhs`` for ``x`` with the structure and dtypes of ``like``.

    ``matvec`` may map to another container type than it maps from, as long as the leaves agree in shape. Complex
    unknowns are solved for as pairs of real ones: the derivative of a function of complex numbers is in general linear
    over the reals only.
    """
    treedef = jax.tree.structure(like)
    dtypes = [jnp.result_type(leaf) for leaf in jax.tree.leaves(like)]

    def cast(tree):
        leaves = [leaf.astype(dtype) for leaf, dtype in zip(jax.tree.leaves(tree), dtypes, strict=True)]
        return jax.tree.unflatten(treedef, leaves)

    if not any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes):
        return linear_solve(lambda x: cast(matvec(x)), cast(rhs), solve, structure=structure)
    solution = linear_solve(
        lambda pair: _as_pair(cast(matvec(_as_complex(pair, like)))), _as_pair(cast(rhs)), solve, structure="general"
    )
    return _as_complex(solution, like)


def _as_pair(tree):
    leaves = jax.tree.leaves(tree)
    return [x.real for x in leaves], [x.imag for x in leaves if jnp.iscomplexobj(x)]


def _as_complex(pair, like):
    leaves, treedef = jax.tree.flatten(like)
    imaginary = iter(pair[1])
    joined = [
        jax.lax.complex(x, next(imaginary)) if jnp.iscomplexobj(leaf) else x
        for x, leaf in zip(pair[0], leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, joined)
