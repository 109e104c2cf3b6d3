"""``custom_root`` and its relatives: implicit differentiation for solvers of one's own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxsolve._closure import hoist
from jaxsolve._compat import outside_transformations
from jaxsolve._types import Structure
from jaxsolve.implicit_diff._rule import attach_derivative, stop_gradient
from jaxsolve.implicit_diff._system import TangentSystem
from jaxsolve.tree_util import tree_cast_like, tree_sub

__all__ = ["custom_fixed_point", "custom_root", "root_jvp", "root_vjp", "run_without_derivative", "signature_of"]

# What tracing a function that needs concrete values raises.
_HOST_FUNCTION_ERRORS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


def custom_root(
    optimality_fun: Callable,
    has_aux: bool = False,
    solve: Callable | None = None,
    reference_signature: Callable | inspect.Signature | None = None,
    structure: Structure = "general",
) -> Callable[[Callable], Callable]:
    r"""Decorate a solver of :math:`F(x, \theta) = 0` with implicit differentiation.

    The solver may be anything: a closed form, a loop, another package, a call of host code. It is only run and never
    differentiated; the derivative is computed from ``optimality_fun``, see :mod:`jaxsolve.implicit_diff`. Host code
    gets concrete arrays if the caller has them, as in ``jax.grad`` outside of ``jax.jit``; under ``jit`` and
    ``vmap`` it must be called through ``jax.pure_callback``.

    **Matching of arguments.** The first argument of ``optimality_fun(x, *args, **kwargs)`` is the solution. The other
    arguments are taken from the call of the decorated solver by these rules:

    1. By name, if the solver has a parameter of the same name for every argument of ``optimality_fun`` without a
       default, and for at least one argument. Other parameters of the solver (an initial point, a tolerance) are left
       out.
    2. Otherwise by position, aligned at the end: ``solver(init_x, *args)`` and ``solver(*args)`` both work. If
       ``optimality_fun`` takes ``*args``, the first argument of the solver is taken as the initial point.
    3. Keyword arguments that neither rule uses are passed on if ``optimality_fun`` accepts them, and dropped if not.

    Args:
        optimality_fun: ``F(x, *args, **kwargs)``; a pytree with the leaf shapes of ``x``. It must be traceable by jax,
            and may capture arrays and traced values: the solution is differentiable with respect to those too.
        has_aux: whether the solver returns ``(x, aux)``. ``aux`` gets no derivative.
        solve: linear solver ``solve(matvec, b) -> x`` of the tangent system: one of :mod:`jaxsolve.linear_solve`, a
            ``functools.partial`` of one, a callable of your own, or a lineax solver. ``None`` chooses by size and
            ``structure``.
        reference_signature: a function or signature to use in place of that of the solver, if the latter is only
            ``*args``.
        structure: the structure of the Jacobian of ``F`` with respect to ``x``: ``"psd"`` if ``F`` is a gradient at a
            minimum, ``"symmetric"`` if it is a gradient, ``"general"`` otherwise.

    Returns:
        A decorator. The decorated solver returns what the solver returns.

    Raises:
        TypeError: the arguments of the call cannot be matched to those of ``optimality_fun``.
        ValueError: ``F`` does not have the leaf shapes of the solution.

    Reference:
        Blondel et al. (2021), "Efficient and Modular Implicit Differentiation", section 2.1 and figure 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve.implicit_diff import custom_root
        >>> @custom_root(lambda x, theta: x ** 2 - theta)
        ... def square_root(theta):
        ...     return jnp.sqrt(theta)
        >>> float(jax.grad(square_root)(4.0)), float(jax.jacfwd(square_root)(4.0))
        (0.25, 0.25)
    """

    def decorate(solver: Callable) -> Callable:
        signature = signature_of(reference_signature if reference_signature is not None else solver)
        name = getattr(solver, "__name__", "solver")
        match = _Matcher(optimality_fun, signature, name)

        @functools.wraps(solver)
        def differentiable_solver(*args, **kwargs):
            data = match(args, kwargs)
            system = TangentSystem(optimality_fun, solve, structure)
            try:
                out = run_without_derivative(solver, *args, **kwargs)
            except _HOST_FUNCTION_ERRORS as error:
                error.add_note(
                    f"{name} needs concrete arrays, which jax.jit, jax.vmap and loops do not give it: call it through "
                    "jax.pure_callback there."
                )
                raise
            sol, aux = (out[0], out[1]) if has_aux else (out, None)
            sol = jax.tree.map(jnp.asarray, sol)
            sol, _ = attach_derivative(system, sol, *data, name=getattr(solver, "__name__", "a root"))
            if not has_aux:
                return sol
            return type(out)(sol, aux) if hasattr(out, "_fields") else (sol, aux)

        return differentiable_solver

    return decorate


def custom_fixed_point(
    fixed_point_fun: Callable,
    has_aux: bool = False,
    solve: Callable | None = None,
    reference_signature: Callable | inspect.Signature | None = None,
) -> Callable[[Callable], Callable]:
    r"""Decorate a solver of :math:`T(x, \theta) = x` with implicit differentiation.

    It is :func:`custom_root` of the residual :math:`T(x, \theta) - x`; see there for the arguments.

    Args:
        fixed_point_fun: ``T(x, *args, **kwargs)``, a pytree with the structure of ``x``.
        has_aux: whether the solver returns ``(x, aux)``.
        solve: linear solver of the tangent system.
        reference_signature: signature to use in place of the solver's own.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve.implicit_diff import custom_fixed_point
        >>> @custom_fixed_point(lambda x, theta: 0.5 * (x + theta / x))
        ... def square_root(theta):
        ...     return jnp.sqrt(theta)
        >>> float(jax.grad(square_root)(4.0))
        0.25
    """

    @functools.wraps(fixed_point_fun)
    def residual(x, *args, **kwargs):
        return tree_sub(fixed_point_fun(x, *args, **kwargs), x)

    return custom_root(residual, has_aux, solve, reference_signature)


def run_without_derivative(fun: Callable, *args: Any, **kwargs: Any) -> Any:
    """Call ``fun`` so that no derivative flows through it, not even through the arrays it captured.

    Under a transformation the function is traced and its captures cut off from differentiation; a host function, which
    cannot be traced, gets its arguments cut off and is called as it is, with concrete values wherever they are
    concrete.
    """
    args, kwargs = stop_gradient((args, kwargs))
    if outside_transformations():
        return fun(*args, **kwargs)
    try:
        hoisted = hoist(fun, *args, **kwargs)
    except _HOST_FUNCTION_ERRORS:
        return stop_gradient(fun(*args, **kwargs))
    return hoisted.pure(*args, consts=stop_gradient(hoisted.consts), **kwargs)


def root_jvp(
    optimality_fun: Callable,
    sol: Any,
    args: tuple,
    tangents: tuple,
    solve: Callable | None = None,
    structure: Structure = "general",
) -> Any:
    r"""Tangent of a root: :math:`\dot x = -(\partial_1 F)^{-1} \partial_2 F\, \dot\theta`.

    Args:
        optimality_fun: ``F(x, *args)``.
        sol: the root, a pytree.
        args: tuple of the further arguments of ``F``.
        tangents: tuple of their tangents, of the same structure.
        solve: linear solver of the tangent system, see :func:`custom_root`.
        structure: the structure of the Jacobian, see :func:`custom_root`.

    Returns:
        The tangent of the root, a pytree like ``sol``.

    Raises:
        ValueError: ``F`` does not have the leaf shapes of ``sol``, or ``args`` and ``tangents`` differ in length.

    Example:
        >>> from jaxsolve.implicit_diff import root_jvp
        >>> import jax.numpy as jnp
        >>> float(root_jvp(lambda x, theta: x ** 2 - theta, jnp.asarray(2.0), (4.0,), (1.0,)))
        0.25
    """
    if len(args) != len(tangents):
        raise ValueError(f"root_jvp expects one tangent for each of args: {len(args)} args, {len(tangents)} tangents.")
    return jax.jvp(_root(optimality_fun, sol, solve, structure), args, tangents)[1]


def root_vjp(
    optimality_fun: Callable,
    sol: Any,
    args: tuple,
    cotangent: Any,
    solve: Callable | None = None,
    structure: Structure = "general",
) -> tuple:
    r"""Cotangents of the arguments of a root: :math:`\bar\theta = -(\partial_2 F)^T (\partial_1 F)^{-T}\, \bar x`.

    Args:
        optimality_fun: ``F(x, *args)``.
        sol: the root, a pytree.
        args: tuple of the further arguments of ``F``.
        cotangent: cotangent of the root, a pytree like ``sol``.
        solve: linear solver of the (transposed) tangent system, see :func:`custom_root`.
        structure: the structure of the Jacobian, see :func:`custom_root`.

    Returns:
        A tuple of one cotangent for each of ``args``; float0 zeros for integer ones.

    Raises:
        ValueError: ``F`` does not have the leaf shapes of ``sol``.

    Example:
        >>> from jaxsolve.implicit_diff import root_vjp
        >>> import jax.numpy as jnp
        >>> float(root_vjp(lambda x, theta: x ** 2 - theta, jnp.asarray(2.0), (4.0,), jnp.asarray(1.0))[0])
        0.25
    """
    return jax.vjp(_root(optimality_fun, sol, solve, structure), *args)[1](tree_cast_like(cotangent, sol))


def _root(optimality_fun, sol, solve, structure):
    """The root ``sol`` as a function of the further arguments of ``optimality_fun``."""
    system = TangentSystem(optimality_fun, solve, structure)
    return lambda *args: attach_derivative(system, sol, args, {})[0]


def signature_of(fun: Callable | inspect.Signature) -> inspect.Signature:
    """The signature of a function; of one that does not tell, a signature that takes everything."""
    if isinstance(fun, inspect.Signature):
        return fun
    try:
        return inspect.signature(fun)
    except (TypeError, ValueError):
        return inspect.signature(lambda *args, **kwargs: None)


class _Matcher:
    """Finds the arguments of ``optimality_fun`` among those of a call of the solver; see :func:`custom_root`."""

    def __init__(self, optimality_fun: Callable, solver: inspect.Signature, solver_name: str):
        self._solver, self._solver_name = solver, solver_name
        kinds = inspect.Parameter
        solution_and_data = list(signature_of(optimality_fun).parameters.values())
        self._accepts_any_args = any(p.kind is kinds.VAR_POSITIONAL for p in solution_and_data)
        self._accepts_any_kwargs = any(p.kind is kinds.VAR_KEYWORD for p in solution_and_data)
        parameters = solution_and_data[1:]
        self._positional = [p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
        self._keyword_only = [p for p in parameters if p.kind is kinds.KEYWORD_ONLY]

    def __call__(self, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        named, rest = self._bind(args, kwargs)
        wanted = [*self._positional, *self._keyword_only]
        found = [p.name for p in wanted if p.name in named]
        if not self._accepts_any_args and found and all(p.name in named or _optional(p) for p in wanted):
            positional = tuple(named.get(p.name, p.default) for p in self._positional)
            keywords = {p.name: named[p.name] for p in self._keyword_only if p.name in named}
            extra = {k: v for k, v in rest.items() if k not in found} if self._accepts_any_kwargs else {}
            return positional, {**keywords, **extra}
        return self._by_position(args, kwargs)

    def _bind(self, args, kwargs):
        """The call's arguments by the solver's names, and those that ended in its ``**kwargs``."""
        try:
            bound = self._solver.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._solver_name} was called with arguments it does not take: {error}.") from None
        bound.apply_defaults()
        parameters, kinds = self._solver.parameters, inspect.Parameter
        collected = [name for name, p in parameters.items() if p.kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)]
        rest = {name: value for name, value in kwargs.items() if name not in parameters or name in collected}
        return {**{name: value for name, value in bound.arguments.items() if name not in collected}, **rest}, rest

    def _by_position(self, args, kwargs):
        names = {p.name for p in (*self._positional, *self._keyword_only)}
        keywords = {k: v for k, v in kwargs.items() if self._accepts_any_kwargs or k in names}
        if self._accepts_any_args:
            return tuple(args[1:]), keywords
        required = [p for p in self._positional if p.name not in keywords]
        least = sum(not _optional(p) for p in required)
        # A call that fills every parameter wins over one that leaves defaults; then an initial point in front is
        # dropped rather than passed on.
        candidates = [taken for taken in (args[1:], args) if least <= len(taken) <= len(required)]
        if candidates:
            return tuple(max(candidates, key=len)), keywords
        raise TypeError(
            f"the arguments of {self._solver_name} cannot be matched to those of optimality_fun: optimality_fun takes "
            f"{[p.name for p in self._positional]} after the solution, {self._solver_name} was called with "
            f"{len(args)} positional arguments and keywords {sorted(kwargs)}. Give them the same names, or pass "
            "reference_signature."
        )


def _optional(parameter: inspect.Parameter) -> bool:
    return parameter.default is not inspect.Parameter.empty
