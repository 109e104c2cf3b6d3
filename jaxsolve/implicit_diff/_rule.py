r"""The derivative rule: implicit differentiation of a root.

A solution ``x`` of ``F(x, theta) = 0`` has, by the implicit function theorem (Blondel et al. 2021, section 2.1), the
tangent

.. math::  \dot x = -A^{-1} B \dot\theta, \qquad A = \partial_1 F(x, \theta), \quad B = \partial_2 F(x, \theta).

``B theta_dot`` is one JVP of ``F``, ``A`` is the linearization of ``F`` in ``x``, and the inverse is a linear solve.
Reverse mode is the transpose of that solve, higher orders are derivatives of the rule: nothing else is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._closure import Hoisted, hoist, is_dynamic, merge_static, split_static
from jaxsolve._compat import with_tangents
from jaxsolve._types import Structure
from jaxsolve.linear_solve import solve as linear_solve
from jaxsolve.linear_solve._differentiable import solve_by

__all__ = ["attach_derivative", "check_residual_shapes", "solve_tangent", "stop_gradient"]


def solve_tangent(
    matvec: Callable, rhs: Any, like: Any, *, solve: Callable | None = None, structure: Structure = "general"
) -> Any:
    """Solve ``matvec(x) = rhs`` for ``x`` with the structure and dtypes of ``like``.

    ``matvec`` may map to another container type than it maps from, as long as the leaves agree in shape.
    """
    treedef = jax.tree.structure(like)
    dtypes = [jnp.result_type(leaf) for leaf in jax.tree.leaves(like)]

    def cast(tree):
        return [leaf.astype(dtype) for leaf, dtype in zip(jax.tree.leaves(tree), dtypes, strict=True)]

    def flat_matvec(leaves):
        return cast(matvec(jax.tree.unflatten(treedef, leaves)))

    return jax.tree.unflatten(treedef, linear_solve(flat_matvec, cast(rhs), solve, structure=structure))


def attach_derivative(
    optimality_fun: Callable,
    sol: Any,
    data: Any,
    *,
    derived_fun: Callable | None = None,
    derived: Any = None,
    solve: Callable | None = None,
    structure: Structure = "general",
    tangent_solver: Callable | None = None,
) -> tuple[Any, Any]:
    """Give a solution the derivative that the implicit function theorem assigns to it.

    Args:
        optimality_fun: ``F(sol, data)``, with the leaf shapes of ``sol``. It may capture arrays and tracers of any
            dtype; the solution is differentiable with respect to them too.
        sol: pytree of inexact arrays, a root of ``F(., data)``. Its own tangents are ignored.
        data: pytree; leaves that are no arrays are passed on as they are.
        derived_fun: ``D(sol, data)``, further outputs that are functions of the solution (its objective value, say).
        derived: the value of ``derived_fun`` at the solution.
        solve: linear solver for the tangent system, or ``None`` for the automatic choice.
        structure: what is known of ``A``: ``"psd"``, ``"symmetric"`` or ``"general"``.
        tangent_solver: ``tangent_solver(sol, data, rhs, transposed)``, which solves with ``A`` or its transpose in its
            own way, for problems that know more of ``A`` than its products. Used if ``solve`` is ``None``.

    Returns:
        ``(sol, derived)``, unchanged in value.

    Raises:
        ValueError: ``F`` does not have the leaf shapes of ``sol``.
        TypeError: a leaf of ``sol`` is not floating point.
    """
    optimality = hoist(optimality_fun, sol, data)
    check_residual_shapes(optimality.out_shape, sol)
    derive = None if derived_fun is None else hoist(derived_fun, sol, data)
    sol_leaves, sol_tree = jax.tree.flatten(sol)
    derived_leaves, derived_static = split_static(derived)
    data_leaves, data_static = split_static(data)
    solvers = None
    if tangent_solver is not None and solve is None:
        solvers = (hoist(tangent_solver, sol, data, sol, False), hoist(tangent_solver, sol, data, sol, True))
    hoisted = [optimality, *([derive] if derive else []), *(solvers or ())]
    consts = [const for function in hoisted for const in function.consts]
    hoisted = [function.without_consts() for function in hoisted]
    rule = _ImplicitRule(
        hoisted, derive is not None, solvers is not None, sol_tree, data_static, len(data_leaves), solve, structure
    )
    outputs = with_tangents(
        [jnp.asarray(x) for x in (*sol_leaves, *derived_leaves)],
        [jnp.asarray(x) for x in (*data_leaves, *consts)],
        rule,
    )
    split = len(sol_leaves)
    return jax.tree.unflatten(sol_tree, outputs[:split]), merge_static(outputs[split:], derived_static)


class _ImplicitRule:
    """Tangents of ``(sol, derived)`` as a function of ``args = sol + derived + data + consts``, all flat.

    It holds jaxprs and no user function, so that programs compiled from it keep no user function alive.
    """

    def __init__(
        self,
        hoisted: list[Hoisted],
        has_derived: bool,
        has_solvers: bool,
        sol_tree,
        data_static,
        num_data,
        solve,
        structure,
    ):
        # In the order in which the arrays that they captured stand behind the data.
        self._hoisted, self._has_derived, self._has_solvers = hoisted, has_derived, has_solvers
        self._sol_tree = sol_tree
        self._data_static, self._num_data = data_static, num_data
        self._solve, self._structure = solve, structure

    def __call__(self, args: list, active: tuple[int, ...], tangents: list) -> list:
        num_sol = self._sol_tree.num_leaves
        sol = jax.tree.unflatten(self._sol_tree, args[:num_sol])
        starts = [self._num_data]
        for hoisted in self._hoisted:
            starts.append(starts[-1] + hoisted.num_consts)
        first = len(args) - starts[-1]
        parameters = args[first:]
        moving = [i - first for i in active]

        def evaluate(which, sol, values, *rest):
            # Only the parameters that have a tangent are differentiated.
            current = list(parameters)
            for i, value in zip(moving, values, strict=True):
                current[i] = value
            data = merge_static(current[: self._num_data], self._data_static)
            consts = current[starts[which] : starts[which + 1]]
            return self._hoisted[which].pure(sol, data, *rest, consts=consts)

        def residual(sol, values):
            return evaluate(0, sol, values)

        values = [parameters[i] for i in moving]
        _, rhs = jax.jvp(lambda values: residual(sol, values), (values,), (tangents,))
        _, matvec = jax.linearize(lambda sol: residual(sol, values), sol)
        # The sign is put on the right-hand side: -solve(A, b) and solve(A, -b) are the same solve.
        rhs = jax.tree.map(jnp.negative, rhs)
        if not self._has_solvers:
            sol_dot = solve_tangent(matvec, rhs, sol, solve=self._solve, structure=self._structure)
        else:
            rhs = jax.tree.unflatten(self._sol_tree, jax.tree.leaves(rhs))
            forward, transposed = len(self._hoisted) - 2, len(self._hoisted) - 1
            sol_dot = solve_by(
                lambda x: jax.tree.unflatten(self._sol_tree, jax.tree.leaves(matvec(x))),
                rhs,
                lambda b: evaluate(forward, sol, values, b, False),
                lambda b: evaluate(transposed, sol, values, b, True),
            )
        if not self._has_derived:
            return [*jax.tree.leaves(sol_dot), *[None] * (first - num_sol)]
        _, derived_dot = jax.jvp(
            lambda sol, values: split_static(evaluate(1, sol, values))[0],
            (sol, values),
            (sol_dot, tangents),
        )
        return [*jax.tree.leaves(sol_dot), *[None if t.dtype == jax.dtypes.float0 else t for t in derived_dot]]


def check_residual_shapes(residual: Any, sol: Any) -> None:
    """Raise unless an optimality residual has the leaf shapes of the solution."""
    got = [jnp.shape(x) for x in jax.tree.leaves(residual)]
    want = [jnp.shape(x) for x in jax.tree.leaves(sol)]
    if got != want:
        raise ValueError(
            f"optimality_fun must return one residual for each unknown: the solution has leaf shapes {want}, "
            f"optimality_fun returned {got}."
        )
    for leaf in jax.tree.leaves(sol):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            raise TypeError(f"a solution is differentiated in floating point, but a leaf has dtype {leaf.dtype}.")


def stop_gradient(tree: Any) -> Any:
    """``lax.stop_gradient`` on the array leaves; every other leaf, Python numbers included, is kept as it is."""
    return jax.tree.map(lambda x: lax.stop_gradient(x) if is_dynamic(x) and hasattr(x, "dtype") else x, tree)
