r"""The derivative rule: implicit differentiation of a root.

A solution ``x`` of ``F(x, theta) = 0`` has, by the implicit function theorem (Blondel et al. 2021, section 2.1), the
tangent

.. math::  \dot x = -A^{-1} B \dot\theta, \qquad A = \partial_1 F(x, \theta), \quad B = \partial_2 F(x, \theta).

``B theta_dot`` is one JVP of ``F``, ``A`` is the linearization of ``F`` in ``x``, and the inverse is a linear solve.
Reverse mode is the transpose of that solve, higher orders are derivatives of the rule: nothing else is needed.
Where ``F`` contains a ``custom_vjp`` function, which has no JVP, reverse mode is built from VJPs of ``F`` instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._closure import Hoisted, hoist, is_dynamic, merge_static, split_static
from jaxsolve._compat import contains_custom_vjp, reverse_only, with_tangents
from jaxsolve._types import Structure
from jaxsolve.implicit_diff._system import TangentSystem, as_matrix, solve_tangent
from jaxsolve.linear_solve._differentiable import solve_by
from jaxsolve.tree_util import tree_negative

__all__ = ["attach_derivative", "check_residual_shapes", "stop_gradient"]


def attach_derivative(
    system: TangentSystem,
    sol: Any,
    args: tuple,
    kwargs: dict,
    *,
    derived_fun: Callable | None = None,
    derived: Callable | None = None,
) -> tuple[Any, Any]:
    """Give a solution the derivative that the implicit function theorem assigns to it.

    Args:
        system: the tangent system. Its functions may capture arrays and tracers of any dtype; the solution is
            differentiable with respect to them too.
        sol: pytree of inexact arrays, a root of ``system.residual(., *args, **kwargs)``. Its own tangents are ignored.
        args: data; leaves that are no arrays are passed on as they are.
        kwargs: likewise.
        derived_fun: ``derived_fun(sol, *args, **kwargs)``, a dictionary of further outputs that are functions of the
            solution (its objective value, say).
        derived: maps the names in that dictionary to their values at the solution.

    Returns:
        ``(sol, derived)``, unchanged in value; ``derived`` as a dictionary.

    Raises:
        ValueError: the residual does not have the leaf shapes of ``sol``.
        TypeError: a leaf of ``sol`` is not floating point.
    """
    data = (args, kwargs)
    parts = {"residual": hoist(lambda sol, data: system.residual(sol, *data[0], **data[1]), sol, data)}
    check_residual_shapes(parts["residual"].out_shape, sol)
    if derived_fun is not None:
        parts["derived"] = hoist(lambda sol, data: derived_fun(sol, *data[0], **data[1]), sol, data)
    if system.solve is not None and system.method is None:
        parts["solve"] = hoist(lambda sol, data, rhs: system.solve(rhs, sol, *data[0], **data[1]), sol, data, sol)
        parts["transposed"] = hoist(
            lambda sol, data, rhs: system.transposed(rhs, sol, *data[0], **data[1]), sol, data, sol
        )
    names = [] if derived_fun is None else list(parts["derived"].out_shape)
    derived_values = {name: derived(name) for name in names} if derived is not None else {}

    derived_leaves, derived_static = split_static(derived_values)
    data_leaves, data_static = split_static(data)
    sol_leaves, sol_tree = jax.tree.flatten(sol)
    consts = {name: part.consts for name, part in parts.items()}
    outputs, output_tree = jax.tree.flatten((sol_leaves, derived_leaves))
    parameters, parameter_tree = jax.tree.flatten(_Parameters(data_leaves, consts))
    rule = _ImplicitRule(
        {name: part.without_consts() for name, part in parts.items()},
        sol_tree,
        output_tree,
        parameter_tree,
        data_static,
        system.method,
        system.structure,
    )
    outputs = with_tangents(list(map(jnp.asarray, outputs)), list(map(jnp.asarray, parameters)), rule)
    sol_leaves, derived_leaves = jax.tree.unflatten(output_tree, outputs)
    return jax.tree.unflatten(sol_tree, sol_leaves), merge_static(derived_leaves, derived_static)


class _Parameters(NamedTuple):
    """What a solution depends on: the array leaves of the data, and what each part of the rule captured."""

    data: list
    consts: dict[str, list]


@dataclasses.dataclass(frozen=True, eq=False)
class _ImplicitRule:
    """Tangents of ``(sol, derived)`` as a function of their values and those of the parameters.

    It holds jaxprs and no user function, so that programs compiled from it keep no user function alive.

    Attributes:
        parts: the functions of the system, hoisted: ``"residual"``; ``"derived"``, if there are derived outputs;
            ``"solve"`` and ``"transposed"``, if the system solves itself.
        sol_tree: structure of the solution.
        output_tree: structure of ``(sol leaves, derived leaves)``.
        parameter_tree: structure of the parameters.
        data_static: the static leaves of the data.
        method: linear solver of the user, or ``None``.
        structure: what is known of ``A``.
    """

    parts: dict[str, Hoisted]
    sol_tree: Any
    output_tree: Any
    parameter_tree: Any
    data_static: Any
    method: Any
    structure: Structure

    def parts_of_program(self) -> tuple:
        """What two rules of one program agree in."""
        parts = [(name, part.jaxpr) for name, part in self.parts.items()]
        return (parts, self.sol_tree, self.output_tree, self.parameter_tree, self.data_static, self.method)

    def __call__(self, args: list, active: tuple[int, ...], tangents: list) -> list:
        values = [args[i] for i in active]
        if not contains_custom_vjp(*(part.jaxpr for part in self.parts.values())):
            return self._tangents(args, active, values, tangents)
        try:
            return self._tangents(args, active, values, tangents)
        except TypeError:  # a JVP met the custom_vjp function
            return self._reverse_only(args, active, tangents)

    # ---- Evaluation -----------------------------------------------------------------------------------------------

    def _split(self, args, active):
        """The solution, and the evaluation of a part as a function of it and of the parameters that move."""
        size = self.output_tree.num_leaves
        sol = jax.tree.unflatten(self.sol_tree, jax.tree.unflatten(self.output_tree, args[:size])[0])

        def evaluate(name, sol, values, *rest):
            current = list(args)
            for i, value in zip(active, values, strict=True):
                current[i] = value
            parameters = jax.tree.unflatten(self.parameter_tree, current[size:])
            data = merge_static(parameters.data, self.data_static)
            return self.parts[name].pure(sol, data, *rest, consts=parameters.consts[name])

        return sol, evaluate

    def _derived_leaves(self, evaluate, sol, values):
        """Derived outputs that have a tangent; ``None`` for the others."""
        leaves = split_static(evaluate("derived", sol, values))[0]
        return [leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else None for leaf in leaves]

    # ---- Both modes -----------------------------------------------------------------------------------------------

    def _tangents(self, args, active, values, tangents):
        sol, evaluate = self._split(args, active)
        _, rhs = jax.jvp(lambda values: evaluate("residual", sol, values), (values,), (tangents,))
        _, matvec = jax.linearize(lambda sol: evaluate("residual", sol, values), sol)
        # The sign is put on the right-hand side: -solve(A, b) and solve(A, -b) are the same solve.
        sol_dot = self._solve(evaluate, sol, values, matvec, tree_negative(rhs))
        derived_dot = []
        if "derived" in self.parts:
            fun = lambda sol, values: self._derived_leaves(evaluate, sol, values)  # noqa: E731
            _, derived_dot = jax.jvp(fun, (sol, values), (sol_dot, tangents))
        return [*jax.tree.leaves(sol_dot), *derived_dot]

    def _solve(self, evaluate, sol, values, matvec, rhs):
        if "solve" not in self.parts:
            return solve_tangent(matvec, rhs, sol, solve=self.method, structure=self.structure)

        def like_sol(tree):
            return jax.tree.unflatten(self.sol_tree, jax.tree.leaves(tree))

        return solve_by(
            lambda x: like_sol(matvec(x)),
            like_sol(rhs),
            lambda b: evaluate("solve", sol, values, b),
            lambda b: evaluate("transposed", sol, values, b),
        )

    # ---- Reverse mode only ----------------------------------------------------------------------------------------

    def _reverse_only(self, args, active, tangents):
        size = self.output_tree.num_leaves
        inexact = [jnp.issubdtype(x.dtype, jnp.inexact) for x in args[:size]]
        like = [x for x, keep in zip(args[:size], inexact, strict=True) if keep]
        found = iter(reverse_only(like, args, tangents, _Cotangents(self, active)))
        return [next(found) if keep else None for keep in inexact]

    def cotangents(self, args, active, cotangents):
        """Cotangents of the active parameters."""
        sol, evaluate = self._split(args, active)
        values = [args[i] for i in active]
        num_sol = self.sol_tree.num_leaves
        sol_bar = jax.tree.unflatten(self.sol_tree, cotangents[:num_sol])
        values_bar = jax.tree.map(jnp.zeros_like, values)
        if "derived" in self.parts:
            fun = lambda sol, values: self._derived_leaves(evaluate, sol, values)  # noqa: E731
            like, vjp = jax.vjp(fun, sol, values)
            more_sol, values_bar = vjp(jax.tree.unflatten(jax.tree.structure(like), cotangents[num_sol:]))
            sol_bar = jax.tree.map(jnp.add, sol_bar, more_sol)
        residual, vecmat = jax.vjp(lambda sol: evaluate("residual", sol, values), sol)
        as_residual = jax.tree.structure(residual)

        def transposed(u):
            return vecmat(jax.tree.unflatten(as_residual, jax.tree.leaves(u)))[0]

        if "transposed" in self.parts:
            adjoint = evaluate("transposed", sol, values, tree_negative(sol_bar))
        else:
            adjoint = solve_tangent(
                as_matrix(transposed, sol), tree_negative(sol_bar), sol, solve=self.method, structure=self.structure
            )
        _, vjp = jax.vjp(lambda values: evaluate("residual", sol, values), values)
        (more_values,) = vjp(jax.tree.unflatten(as_residual, jax.tree.leaves(adjoint)))
        return jax.tree.map(jnp.add, values_bar, more_values)


@dataclasses.dataclass(frozen=True, eq=False)
class _Cotangents:
    """The reverse mode of a rule, for the parameters that move."""

    rule: _ImplicitRule
    active: tuple[int, ...]

    def parts_of_program(self) -> tuple:
        """What two of them agree in if they are of one program."""
        return (self.rule, self.active)

    def __call__(self, args: list, cotangents: list) -> list:
        return self.rule.cotangents(args, self.active, cotangents)


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
