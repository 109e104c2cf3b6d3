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
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._closure import Hoisted, hoist, is_dynamic, merge_static, split_static
from jaxsolve._compat import contains_custom_vjp
from jaxsolve._precision import at_full_precision
from jaxsolve._primitives import reverse_only, with_tangents
from jaxsolve._types import Structure
from jaxsolve.implicit_diff._check import TangentCheck
from jaxsolve.implicit_diff._system import TangentSystem, as_matrix, like_unknowns, same_on_all_devices
from jaxsolve.linear_solve import solve as linear_solve
from jaxsolve.linear_solve import transpose
from jaxsolve.linear_solve._differentiable import solve_by
from jaxsolve.tree_util import tree_add, tree_negative

__all__ = ["attach_derivative", "stop_gradient"]


def _nothing(*args, **kwargs):
    return {}


@at_full_precision
def attach_derivative(
    system: TangentSystem,
    sol: Any,
    args: tuple,
    kwargs: dict,
    *,
    derived_fun: Callable = _nothing,
    derived: Callable = _nothing,
    name: str = "a root",
    check: str | None = None,
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
        name: of the solver, for messages.
        check: what to do about an inaccurate solve, ``"warn"`` or ``"raise"``; ``None`` leaves it to the context, see
            :func:`jaxsolve.diagnostics.check_tangents`.

    Returns:
        ``(sol, derived)``, unchanged in value; ``derived`` as a dictionary.

    Raises:
        ValueError: the residual does not have the leaf shapes of ``sol``.
        TypeError: a leaf of ``sol`` is not floating point.
    """
    data_leaves, data_static = split_static((args, kwargs))

    def part(fun, *rest):
        def on_leaves(sol, data_leaves, *rest):
            args, kwargs = merge_static(data_leaves, data_static)
            return fun(*rest, sol, *args, **kwargs)

        return hoist(on_leaves, sol, data_leaves, *rest)

    def residual(sol, *args, **kwargs):
        return like_unknowns(system.residual(sol, *args, **kwargs), sol)

    parts = {"residual": part(residual), "derived": part(derived_fun)}
    if system.solve is not None and system.method is None:
        parts |= {"solve": part(system.solve, sol), "transposed": part(system.transposed, sol)}
    tangent_check = TangentCheck.of(name, check)
    if tangent_check is not None:
        if not contains_custom_vjp(parts["residual"].jaxpr):
            parts["accuracy"] = part(system.accuracy, sol, sol)
        parts["accuracy_transposed"] = part(system.accuracy_transposed, sol, sol)

    derived_values = {name: derived(name) for name in parts["derived"].out_shape}
    derived_leaves, derived_static = split_static(derived_values, is_array=_is_inexact)
    sol_leaves, sol_tree = jax.tree.flatten(sol)
    outputs, output_tree = jax.tree.flatten((sol_leaves, derived_leaves))
    consts = {name: part.consts for name, part in parts.items()}
    parameters, parameter_tree = jax.tree.flatten((data_leaves, consts))
    parts = {name: part.without_consts() for name, part in parts.items()}
    rule = _ImplicitRule(parts, sol_tree, output_tree, parameter_tree, system.method, system.structure, tangent_check)
    outputs = with_tangents(list(map(jnp.asarray, outputs)), list(map(jnp.asarray, parameters)), rule)
    sol_leaves, derived_leaves = jax.tree.unflatten(output_tree, outputs)
    return jax.tree.unflatten(sol_tree, sol_leaves), merge_static(derived_leaves, derived_static)


def _is_inexact(leaf: Any) -> bool:
    return is_dynamic(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


@dataclasses.dataclass(frozen=True, eq=False)
class _ImplicitRule:
    """Tangents of ``(sol, derived)`` as a function of their values and those of the parameters.

    It holds jaxprs and no user function, so that programs compiled from it keep no user function alive.

    Attributes:
        parts: functions of the solution and the leaves of the data, hoisted: ``"residual"``; ``"derived"``, the further
            outputs; ``"solve"`` and ``"transposed"``, if the system solves itself; ``"accuracy"`` of a solution and
            ``"accuracy_transposed"``, if there is a check.
        sol_tree: structure of the solution.
        output_tree: structure of ``(sol leaves, derived leaves)``.
        parameter_tree: structure of the parameters: the leaves of the data, and what each part captured.
        method: linear solver of the user, or ``None``.
        structure: what is known of ``A``.
        check: what is done with the residuals of the linear solves, or ``None``.
    """

    parts: dict[str, Hoisted]
    sol_tree: Any
    output_tree: Any
    parameter_tree: Any
    method: Any
    structure: Structure
    check: TangentCheck | None

    def parts_of_program(self) -> tuple:
        """What two rules of one program agree in."""
        parts = [(name, part.jaxpr) for name, part in self.parts.items()]
        return (parts, self.sol_tree, self.output_tree, self.parameter_tree, self.method, self.check)

    def __call__(self, args: list, active: tuple[int, ...], tangents: list) -> list:
        values = [args[i] for i in active]
        if not contains_custom_vjp(*(part.jaxpr for part in self.parts.values())):
            return self._tangents(args, active, values, tangents)
        try:
            return self._tangents(args, active, values, tangents)
        except TypeError:  # a JVP met the custom_vjp function
            return reverse_only(args[: self.output_tree.num_leaves], args, tangents, _Cotangents(self, active))

    # ---- Evaluation -----------------------------------------------------------------------------------------------

    def _split(self, args, active):
        """The solution, and the evaluation of a part as a function of it and of the parameters that move."""
        size = self.output_tree.num_leaves
        sol = jax.tree.unflatten(self.sol_tree, jax.tree.unflatten(self.output_tree, args[:size])[0])

        def evaluate(name, sol, values, *rest):
            current = list(args)
            for i, value in zip(active, values, strict=True):
                current[i] = value
            data_leaves, consts = jax.tree.unflatten(self.parameter_tree, current[size:])
            out = self.parts[name].pure(sol, data_leaves, *rest, consts=consts[name])
            # A derived output that is a whole number has no tangent.
            return jax.tree.map(lambda leaf: leaf if _is_inexact(leaf) else None, out)

        return sol, evaluate

    # ---- Both modes -----------------------------------------------------------------------------------------------

    def _tangents(self, args, active, values, tangents):
        sol, evaluate = self._split(args, active)
        _, rhs = jax.jvp(lambda values: evaluate("residual", sol, values), (values,), (tangents,))
        _, matvec = jax.linearize(lambda sol: evaluate("residual", sol, values), sol)
        # The sign is put on the right-hand side: -solve(A, b) and solve(A, -b) are the same solve.
        rhs = tree_negative(rhs)
        if "solve" in self.parts:
            solve, transposed = (partial(evaluate, name, sol, values) for name in ("solve", "transposed"))
            solve, transposed = self._checked(evaluate, sol, values, solve, transposed)
            sol_dot = solve_by(matvec, rhs, solve, transposed)
        elif self.check is not None:
            matvec = same_on_all_devices(matvec, sol)
            maps = (matvec, transpose(matvec, sol))
            solvers = (partial(linear_solve, A, method=self.method, structure=self.structure) for A in maps)
            sol_dot = solve_by(matvec, rhs, *self._checked(evaluate, sol, values, *solvers))
        else:
            matvec = same_on_all_devices(matvec, sol)
            sol_dot = linear_solve(matvec, rhs, self.method, structure=self.structure)
        _, derived_dot = jax.jvp(partial(evaluate, "derived"), (sol, values), (sol_dot, tangents))
        return jax.tree.leaves((sol_dot, derived_dot))

    def _checked(self, evaluate: Callable, sol: Any, values: list, *solvers: Callable) -> tuple[Callable, ...]:
        """A solver of the system and one of its transpose, which tell of their residuals if there is a check."""
        if self.check is None:
            return solvers
        tell = self.check.tell

        def checked(solver, accuracy):
            def solve(rhs):
                found = solver(rhs)
                tell(evaluate(accuracy, sol, values, found, rhs))
                return found

            return solve if accuracy in self.parts else solver

        return tuple(map(checked, solvers, ("accuracy", "accuracy_transposed")))

    # ---- Reverse mode only ----------------------------------------------------------------------------------------

    def cotangents(self, args, active, cotangents):
        """Cotangents of the active parameters."""
        sol, evaluate = self._split(args, active)
        values = [args[i] for i in active]
        num_sol = self.sol_tree.num_leaves
        sol_bar = jax.tree.unflatten(self.sol_tree, cotangents[:num_sol])
        derived, vjp = jax.vjp(partial(evaluate, "derived"), sol, values)
        more_sol, values_bar = vjp(jax.tree.unflatten(jax.tree.structure(derived), cotangents[num_sol:]))
        rhs = tree_negative(tree_add(sol_bar, more_sol))
        _, vjp = jax.vjp(lambda sol: evaluate("residual", sol, values), sol)
        if "transposed" in self.parts:
            adjoint = evaluate("transposed", sol, values, rhs)
        else:
            vecmat = as_matrix(lambda u: vjp(u)[0], sol)
            adjoint = linear_solve(vecmat, rhs, self.method, structure=self.structure)
        if self.check is not None:
            self.check.tell(evaluate("accuracy_transposed", sol, values, adjoint, rhs))
        _, vjp_values = jax.vjp(lambda values: evaluate("residual", sol, values), values)
        return tree_add(values_bar, vjp_values(adjoint)[0])


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


def stop_gradient(tree: Any) -> Any:
    """``lax.stop_gradient`` on the array leaves; every other leaf, Python numbers included, is kept as it is."""
    return jax.tree.map(lambda x: lax.stop_gradient(x) if is_dynamic(x) and hasattr(x, "dtype") else x, tree)
