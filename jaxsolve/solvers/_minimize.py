"""One function for all minimization problems, under the names of ``scipy.optimize.minimize``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._closure import output_shape
from jaxsolve._compat import is_concrete
from jaxsolve._inputs import as_inexact
from jaxsolve._results import sentence_of_status, show_as_line
from jaxsolve._status import Status
from jaxsolve._types import Array, PyTree
from jaxsolve._vectors import flat
from jaxsolve.base import check_callable
from jaxsolve.solvers.constrained import LBFGSB, AugmentedLagrangian, InteriorPointNLP
from jaxsolve.solvers.unconstrained import BFGS, LBFGS, NelderMead, NewtonCG, NonlinearCG, TrustNewton
from jaxsolve.tree_util import tree_real_dtype, tree_size

__all__ = ["MinimizeResult", "minimize"]

# Beyond so many variables no dense matrix is made; without constraints the matrix is only updated.
_MOST_FACTORIZED, _MOST_UPDATED = 2000, 500

_UNCONSTRAINED = {
    "bfgs": BFGS,
    "lbfgs": LBFGS,
    "cg": NonlinearCG,
    "newton-cg": NewtonCG,
    "trust-ncg": TrustNewton,
    "trust-krylov": TrustNewton,
    "trust-exact": TrustNewton,
    "dogleg": TrustNewton,
    "nelder-mead": NelderMead,
}
_BOUNDED = {"l-bfgs-b": LBFGSB, "tnc": LBFGSB}
_CONSTRAINED = {
    "interior-point": InteriorPointNLP,
    "slsqp": InteriorPointNLP,
    "trust-constr": InteriorPointNLP,
    "cobyla": InteriorPointNLP,
    "cobyqa": InteriorPointNLP,
    "augmented-lagrangian": AugmentedLagrangian,
}
_SOLVERS: dict[str, Any] = {**_UNCONSTRAINED, **_BOUNDED, **_CONSTRAINED}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MinimizeResult:
    """Result of :func:`minimize`; a pytree.

    Attributes:
        x: the solution, like ``x0``.
        fun: the objective there, a scalar.
        success: whether the run converged.
        status: a :class:`jaxsolve.Status`, int32.
        nit: iterations done, int32.
        error: the optimality error of the solver.
        jac: the gradient of the objective, like ``x0``; ``None`` if the solver does not compute it.
        nfev: evaluations of the objective, int32; ``None`` if they are not counted.
        multipliers: a list with an array for each constraint, in the shape of its value. Their signs are such that
            ``grad f + sum_i J_i^T multipliers[i] + dual_bounds`` vanishes: positive at upper and negative at lower
            limits. Empty without constraints.
        dual_bounds: multipliers of the bounds, like ``x0``; ``None`` if the solver has none.
        constr_violation: the largest violation of a constraint.
        method: the name of the solver that was used.
        reason: why this solver was chosen, in a few words.
    """

    x: PyTree
    fun: Array
    success: Array
    status: Array
    nit: Array
    error: Array
    jac: PyTree
    nfev: Any
    multipliers: list[Array]
    dual_bounds: PyTree
    constr_violation: Array
    method: str = dataclasses.field(metadata={"static": True})
    reason: str = dataclasses.field(metadata={"static": True})

    message = sentence_of_status


show_as_line(MinimizeResult, "minimize")


def minimize(
    fun: Callable,
    x0: PyTree,
    args: Any = (),
    method: str | None = None,
    jac: Any = None,
    hess: Any = None,
    bounds: Any = None,
    constraints: Any = (),
    tol: float | None = None,
    options: dict | None = None,
) -> MinimizeResult:
    """Minimize a function by a solver that suits the problem; the solution is differentiable.

    The arguments are those of ``scipy.optimize.minimize``. It works under ``jit``, ``vmap`` and in every derivative
    mode, with respect to ``args`` and everything that the functions capture. All functions are functions of jax.

    ==================================================  ===============================================================
    method                                              solver
    ==================================================  ===============================================================
    ``None``                                            with constraints ``InteriorPointNLP`` up to 2,000 variables,
                                                        ``AugmentedLagrangian`` beyond; with bounds ``LBFGSB``; else
                                                        ``BFGS`` up to 500 variables, ``LBFGS`` beyond
    ``"BFGS"``, ``"LBFGS"``                             the solvers of these names
    ``"CG"``, ``"Newton-CG"``, ``"Nelder-Mead"``        ``NonlinearCG``, ``NewtonCG``, ``NelderMead``
    ``"trust-ncg"``, ``"trust-krylov"``,                ``TrustNewton``
    ``"trust-exact"``, ``"dogleg"``
    ``"L-BFGS-B"``, ``"TNC"``                           ``LBFGSB``
    ``"interior-point"``, ``"SLSQP"``,                  ``InteriorPointNLP``
    ``"trust-constr"``, ``"COBYLA"``, ``"COBYQA"``
    ``"augmented-lagrangian"``                          ``AugmentedLagrangian``
    ==================================================  ===============================================================

    The solvers of SciPy themselves are :class:`ScipyMinimize`, :class:`ScipyBoundedMinimize` and
    :class:`ScipyConstrainedMinimize`.

    Args:
        fun: ``fun(x, *args)``, a real scalar; with ``jac=True`` the pair of it and its gradient.
        x0: initial point, a pytree; whole numbers become floating point.
        args: further arguments of ``fun``, a tuple.
        method: one of the table, in any case; ``None`` chooses.
        jac: ``True``, or a function ``jac(x, *args)`` that returns the gradient, for the methods without constraints.
            With constraints, and by default, derivatives are those of jax.
        hess: accepted but not used: second derivatives are those of jax.
        bounds: an object with the fields ``lb`` and ``ub``, such as ``scipy.optimize.Bounds``, numbers, arrays or
            pytrees; or a sequence of pairs ``(min, max)``, one for each entry of an array ``x0``, where ``None`` means
            no bound.
        constraints: one constraint or a sequence of them: ``scipy.optimize.NonlinearConstraint`` or
            ``LinearConstraint``, or dictionaries with ``type`` (``"eq"`` for ``fun(x, *args) == 0``, ``"ineq"`` for
            ``fun(x, *args) >= 0``), ``fun`` and perhaps ``args``. As in SciPy only dictionaries have arguments of their
            own; what functions capture is differentiated too. Entries with equal limits are equalities.
        tol: tolerance of the solver; by default 1e-5 for a gradient (1e-3 in float32), and with constraints the default
            of the solver.
        options: options of the solver, by its own names; ``gtol`` is ``tol`` and ``disp`` is ``verbose``.

    Returns:
        A :class:`MinimizeResult`.

    Raises:
        ValueError: an unknown method, or bounds or constraints of a wrong shape or that the method does not support.
        TypeError: an argument of the wrong type, or an unknown option.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsolve
        >>> def rosenbrock(x, a):
        ...     return (a - x[0]) ** 2 + 100.0 * (x[1] - x[0] ** 2) ** 2
        >>> disk = {"type": "ineq", "fun": lambda x: 1.0 - x @ x}
        >>> result = jaxsolve.minimize(rosenbrock, jnp.zeros(2), (1.0,), constraints=disk)
        >>> [round(float(v), 2) for v in result.x], bool(result.success), result.method
        ([0.79, 0.62], True, 'InteriorPointNLP')
        >>> def solution(a):
        ...     return jaxsolve.minimize(rosenbrock, jnp.zeros(2), (a,), constraints=disk).x
        >>> [round(float(v), 2) for v in jax.jacobian(solution)(0.5)]
        [1.0, 1.0]
    """
    check_callable("fun", fun, "a function of the parameters")
    if options is not None and not isinstance(options, dict):
        raise TypeError(f"options must be a dict, got {options!r}.")
    args = args if isinstance(args, tuple) else (args,)
    x0 = as_inexact(jnp.asarray(x0) if isinstance(x0, (list, tuple)) and not _has_arrays(x0) else x0, "x0")
    limits = _limits_like(bounds, x0)
    rows = _rows_of(constraints, x0)
    solver_class, reason = _choice(method, x0, limits is not None, bool(rows))

    settings: dict[str, Any] = dict(options or {})
    for name, ours in (("gtol", "tol"), ("disp", "verbose")):
        if name in settings:
            settings[ours] = settings.pop(name)
    if tol is not None:
        settings["tol"] = tol
    of_gradients = solver_class not in (InteriorPointNLP, AugmentedLagrangian)
    if of_gradients:
        double = tree_real_dtype(x0) == jnp.float64
        settings = {"tol": 1e-5 if double else 1e-3, "maxiter": 1000, **settings}
    if callable(jac) and of_gradients and solver_class is not NelderMead:
        value, gradient = fun, jac
        fun = lambda x, *args: (value(x, *args), gradient(x, *args))  # noqa: E731
        settings["value_and_grad"] = True
    elif jac is True:
        if of_gradients and solver_class is not NelderMead:
            settings["value_and_grad"] = True
        else:
            both = fun
            fun = lambda x, *args: both(x, *args)[0]  # noqa: E731
    solver: Any = solver_class
    if not of_gradients:
        params, state = solver(fun, *_functions_of(rows), **settings).run(x0, *args, bounds=limits)
        multipliers = _multipliers(rows, params.dual_eq, params.dual_ineq)
        x, of_bounds, violation = params.primal, state.dual_bounds, state.constr_violation
    else:
        given = () if solver_class is not LBFGSB else ((-jnp.inf, jnp.inf) if limits is None else limits,)
        x, state = solver(fun, **settings).run(x0, *given, *args)
        multipliers, of_bounds, violation = [], None, jnp.zeros_like(state.error)
    return MinimizeResult(
        x=x,
        fun=state.value,
        success=Status.CONVERGED.holds(state.status),
        status=state.status,
        nit=state.iter_num,
        error=state.error,
        jac=getattr(state, "grad", None),
        nfev=getattr(state, "num_fun_eval", None),
        multipliers=multipliers,
        dual_bounds=of_bounds,
        constr_violation=violation,
        method=solver_class.__name__,
        reason=reason,
    )


def _has_arrays(x0: Any) -> bool:
    """Whether a list is a pytree of arrays, rather than one of numbers."""
    return any(jnp.ndim(leaf) > 0 for leaf in jax.tree.leaves(x0)) or jax.tree.structure(x0).num_leaves != len(x0)


def _choice(method: str | None, x0: PyTree, bounded: bool, constrained: bool) -> tuple[Any, str]:
    """The solver, and why."""
    if method is None:
        size = tree_size(x0)
        if constrained:
            small = size <= _MOST_FACTORIZED
            return (InteriorPointNLP, "constraints") if small else (AugmentedLagrangian, "constraints, many variables")
        if bounded:
            return LBFGSB, "bounds"
        return (BFGS, "no constraints") if size <= _MOST_UPDATED else (LBFGS, "no constraints, many variables")
    name = method.lower() if isinstance(method, str) else method
    if name not in _SOLVERS:
        raise ValueError(f"method must be one of {', '.join(_SOLVERS)} in any case, or None; got {method!r}.")
    if constrained and name not in _CONSTRAINED:
        raise ValueError(f"method={method!r} takes no constraints; those that do: {', '.join(_CONSTRAINED)}.")
    if bounded and name in _UNCONSTRAINED:
        able = ", ".join((*_BOUNDED, *_CONSTRAINED))
        raise ValueError(f"method={method!r} takes no bounds; those that do: {able}.")
    return _SOLVERS[name], "as asked for"


def _limits_like(bounds: Any, x0: PyTree) -> tuple[PyTree, PyTree] | None:
    """Bounds as a pair of pytrees."""
    if bounds is None:
        return None
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        return bounds.lb, bounds.ub
    size, pairs = tree_size(x0), list(bounds)
    if len(jax.tree.leaves(x0)) != 1:
        raise ValueError("bounds of an x0 that is not an array must be an object with the fields lb and ub.")
    if len(pairs) != size or any(len(pair) != 2 for pair in pairs):
        raise ValueError(
            "bounds must be an object with the fields lb and ub, or one pair (min, max) for each entry of x0, of which "
            f"there are {size}; got {len(pairs)} entries."
        )
    shape = jnp.shape(jax.tree.leaves(x0)[0])

    def side(index, without):
        entries = [without if pair[index] is None else pair[index] for pair in pairs]
        array = jnp.stack([as_inexact(jnp.asarray(entry), "bounds") for entry in entries]).reshape(shape)
        return jax.tree.unflatten(jax.tree.structure(x0), [array])

    return side(0, -jnp.inf), side(1, jnp.inf)


# ---- Constraints --------------------------------------------------------------------------------------------------


class _Rows(NamedTuple):
    """One constraint, ``lower <= fun(x) <= upper``.

    Attributes:
        fun: function of x with a vector.
        lower: shape of that vector.
        upper: likewise.
        equal: which entries are equalities, a NumPy array.
        below: which have a lower limit besides, likewise.
        above: which have an upper one.
        shape: of what the user's function returns.
    """

    fun: Callable[[PyTree], Array]
    lower: Any
    upper: Any
    equal: np.ndarray
    below: np.ndarray
    above: np.ndarray
    shape: tuple[int, ...]


def _rows_of(constraints: Any, x0: PyTree) -> list[_Rows]:
    single = isinstance(constraints, dict) or hasattr(constraints, "lb")
    return [_rows(constraint, x0) for constraint in ([constraints] if single else list(constraints))]


def _rows(constraint: Any, x0: PyTree) -> _Rows:
    if isinstance(constraint, dict):
        kind, own = constraint.get("type"), constraint.get("args", ())
        if kind not in ("eq", "ineq") or not callable(constraint.get("fun")):
            raise ValueError(f"a constraint must have type 'eq' or 'ineq' and a function 'fun', got {constraint!r}.")
        function: Callable = constraint["fun"]
        given = (lambda x: function(x, *own)), 0.0, 0.0 if kind == "eq" else jnp.inf
    elif hasattr(constraint, "A") and hasattr(constraint, "lb"):
        A = constraint.A.toarray() if hasattr(constraint.A, "toarray") else constraint.A
        given = (lambda x: jnp.atleast_2d(jnp.asarray(A)).astype(flat(x).dtype) @ flat(x)), constraint.lb, constraint.ub
    elif hasattr(constraint, "fun") and hasattr(constraint, "lb"):
        given = constraint.fun, constraint.lb, constraint.ub
    else:
        raise TypeError(
            "constraints must be dictionaries, or objects like scipy.optimize.NonlinearConstraint and "
            f"LinearConstraint, got {type(constraint).__name__}."
        )
    value, lower, upper = given
    leaves = jax.tree.leaves(output_shape(value, x0))
    size = sum(leaf.size for leaf in leaves)
    shape = leaves[0].shape if len(leaves) == 1 else (size,)
    same = lower is upper
    lower, upper = (_spread(limit, shape, size, name) for limit, name in ((lower, "lb"), (upper, "ub")))
    known = is_concrete(lower) and is_concrete(upper)
    if known and np.any(np.asarray(lower) > np.asarray(upper)):
        raise ValueError(f"a constraint must have lb <= ub everywhere, got {given[1]} and {given[2]}.")
    equal = np.asarray(lower) == np.asarray(upper) if known else np.full(size, same)
    below = ~equal & (~np.isneginf(np.asarray(lower)) if is_concrete(lower) else True)
    above = ~equal & (~np.isposinf(np.asarray(upper)) if is_concrete(upper) else True)
    return _Rows(lambda x: flat(value(x), flat(x).dtype), lower, upper, equal, below, above, shape)


def _spread(limit: Any, shape: tuple, size: int, name: str) -> Array:
    limit = as_inexact(jnp.asarray(limit), name)
    try:
        return jnp.broadcast_to(limit, shape).reshape(size)
    except ValueError:
        raise ValueError(f"{name} of shape {limit.shape} does not fit a constraint of shape {shape}.") from None


def _functions_of(rows: list[_Rows]) -> tuple[Callable | None, Callable | None]:
    """The constraints as ``h(x) = 0`` and ``g(x) <= 0``; ``None`` for one that has no entry."""

    def eq_fun(x, *args):
        del args
        return [(r.fun(x) - r.lower.astype(flat(x).dtype))[r.equal] for r in rows]

    def ineq_fun(x, *args):
        del args
        found = []
        for r in rows:
            value, lower, upper = r.fun(x), *(limit.astype(flat(x).dtype) for limit in (r.lower, r.upper))
            found += [value[r.above] - upper[r.above], lower[r.below] - value[r.below]]
        return found

    has_eq = any(r.equal.any() for r in rows)
    has_ineq = any(r.above.any() or r.below.any() for r in rows)
    return eq_fun if has_eq else None, ineq_fun if has_ineq else None


def _multipliers(rows: list[_Rows], dual_eq: Any, dual_ineq: Any) -> list[Array]:
    """The multipliers of each constraint."""
    found = []
    for i, r in enumerate(rows):
        parts = [(r.equal, 1, dual_eq and dual_eq[i])]
        parts += [(r.above, 1, dual_ineq and dual_ineq[2 * i]), (r.below, -1, dual_ineq and dual_ineq[2 * i + 1])]
        dtype = jnp.result_type(next(part for _, _, part in parts if part is not None))
        total = jnp.zeros(r.equal.size, dtype)
        for where, sign, part in parts:
            if part is not None:
                total = total.at[np.flatnonzero(where)].add(sign * part)
        found.append(total.reshape(r.shape))
    return found
