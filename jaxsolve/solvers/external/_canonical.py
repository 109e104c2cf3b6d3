"""Parametrized problems of CVXPY as conic programs whose data are affine in the parameters.

CVXPY turns a problem that follows its rules of disciplined parametrized programming (DPP) into a conic program in which
every entry of the data is an affine function of the parameters. What is static in that, index maps and sparse matrices
of coefficients, is read off once, here; nothing of CVXPY is called after that.

Reference:
    Agrawal, Amos, Barratt, Boyd, Diamond and Kolter (2019), "Differentiable convex optimization layers".
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import sparse

from jaxsolve._operators import SparseMatrix
from jaxsolve._types import Array
from jaxsolve.solvers.conic import Cones

__all__ = ["Affine", "Canonical", "Leaf", "canonicalize", "cones_of"]

# An affine map with so many coefficients, zeros included, is a dense matrix; a matrix of so many entries is dense.
_DENSE_MAP, _DENSE_DATA = 65_536, 4_000_000


class Affine(NamedTuple):
    """A vector or matrix whose entries are affine in the parameters.

    Attributes:
        shape: of the result.
        index: the places of its entries, of shape ``(count, axes)``; all others are 0.
        constant: the constant part of these entries.
        varying: which of the entries depend on parameters, integers.
        slope: the coefficients of those, a sparse matrix with a column for each entry of the parameters.
    """

    shape: tuple[int, ...]
    index: np.ndarray
    constant: np.ndarray
    varying: np.ndarray
    slope: Any

    @classmethod
    def of(cls, coefficients: Any, index: np.ndarray, shape: tuple[int, ...]) -> Affine:
        """From coefficients with a row for each entry and a last column of constants."""
        coefficients = sparse.csr_matrix(coefficients)
        slope = sparse.csr_matrix(coefficients[:, :-1])
        slope.eliminate_zeros()
        varying = np.flatnonzero(np.diff(slope.indptr))
        constant = coefficients[:, [-1]].toarray().ravel()
        return cls(tuple(int(k) for k in shape), index, constant, varying, slope[varying])

    @property
    def is_large(self) -> bool:
        """Whether a dense array would have too many entries."""
        return int(np.prod(self.shape)) > _DENSE_DATA

    def entries(self, theta: Array) -> Array:
        """The entries at the places of ``index``."""
        constant = jnp.asarray(self.constant.astype(theta.dtype))
        if not self.varying.size:
            return constant
        return constant.at[self.varying].add(self._moved(theta))

    def _moved(self, theta):
        """The parts of the varying entries that depend on the parameters."""
        if np.prod(self.slope.shape) <= _DENSE_MAP:
            return jnp.asarray(self.slope.toarray().astype(theta.dtype)) @ theta
        slope = self.slope.tocoo()
        data, rows, cols = slope.data.astype(theta.dtype), slope.row.astype(np.int32), slope.col.astype(np.int32)
        return SparseMatrix(jnp.asarray(data), jnp.asarray(rows), jnp.asarray(cols), slope.shape).matvec(theta)

    def __call__(self, theta: Array) -> Any:
        """The array for parameters ``theta``, sparse if it is large; a constant one is no function of them."""
        if self.is_large:
            from jax.experimental.sparse import BCOO

            index = jnp.asarray(self.index.astype(np.int32))
            return BCOO((self.entries(theta), index), shape=self.shape, unique_indices=True)
        base = np.zeros(self.shape, theta.dtype)
        base[tuple(self.index.T)] = self.constant
        if not self.varying.size:
            return jnp.asarray(base)
        return jnp.asarray(base).at[tuple(self.index[self.varying].T)].add(self._moved(theta))


class Leaf(NamedTuple):
    """A parameter or variable of the user, and where its entries are in a vector of the conic program.

    Attributes:
        shape: as the user has it.
        start: the first of its places.
        index: of a parameter, for each place, the entry of the raveled array that comes there; of a variable, for each
            of its entries, the place counted from 1, or 0 for an entry that is 0.
        symmetric: whether only the symmetric part counts.
        logarithmic: whether the conic program has its logarithm.
    """

    shape: tuple[int, ...]
    start: int
    index: np.ndarray
    symmetric: bool
    logarithmic: bool

    def put(self, value: Array) -> Array:
        """The entries of a parameter in the order of the conic program."""
        value = jnp.log(value) if self.logarithmic else value
        value = (value + jnp.swapaxes(value, -1, -2)) / 2 if self.symmetric else value
        return value.ravel()[self.index]

    def take(self, vector: Array) -> Array:
        """The variable in the vector of all variables."""
        count = int(self.index.max(initial=0))
        part = vector[self.start : self.start + count]
        value = jnp.concatenate([jnp.zeros_like(part, shape=1), part])[self.index]
        return jnp.exp(value) if self.logarithmic else value


class Canonical(NamedTuple):
    """A conic program that depends on parameters.

    Attributes:
        cones: of its rows.
        P: the matrix of the objective, or ``None``.
        c: its linear term.
        offset: its constant term, of shape ``(1,)``.
        A: the matrix of the rows.
        b: their right-hand side.
        parameters: those of the user, in the order of ``theta``.
        order: for each of them, its number among the parameters of the user.
        variables: those that were asked for.
        duals: for each constraint that was asked for, the shapes of its multipliers, and the matrix that makes them of
            the multipliers of the rows.
        maximizes: whether the objective of the user is minus that of the conic program.
        logarithmic: whether that is the logarithm of the one of the user.
    """

    cones: Cones
    P: Affine | None
    c: Affine
    offset: Affine
    A: Affine
    b: Affine
    parameters: tuple[Leaf, ...]
    order: tuple[int, ...]
    variables: tuple[Leaf, ...]
    duals: tuple[tuple[tuple[tuple[int, ...], ...], np.ndarray], ...]
    maximizes: bool
    logarithmic: bool


def canonicalize(
    cvxpy: Any, problem: Any, parameters: Sequence[Any], variables: Sequence[Any], duals: Sequence[Any], gp: bool
) -> Canonical:
    """The conic program of a problem.

    Args:
        cvxpy: the package.
        problem: a ``cvxpy.Problem``.
        parameters: all of its parameters.
        variables: those whose values are wanted.
        duals: constraints whose multipliers are wanted.
        gp: whether it is log-log convex, rather than convex.

    Raises:
        ValueError: the problem does not follow the rules, or uses what has no derivative.
    """
    _check_rules(problem, gp)
    data, chain, inverse = _problem_data(cvxpy, problem, parameters, gp)
    program = data["param_prob"]
    A, b = _rows(program)
    width = program.q.shape[0] - 1
    q = sparse.csr_matrix(program.q)
    each = np.arange(width)[:, None]
    found = [(_parameter(chain, program, parameter), k) for k, parameter in enumerate(parameters)]
    leaves = sorted([(leaf, k) for leaf, k in found if leaf is not None], key=lambda pair: pair[0].start)
    if sum(leaf.index.size for leaf, _ in leaves) != program.total_param_size:
        raise ValueError(
            "problem has parameters inside that are no parameters of the user; cvxpy_layer cannot read it."
        )
    return Canonical(
        cones=cones_of(data["dims"]),
        P=_objective_matrix(program),
        c=Affine.of(q[:-1], each, (width,)),
        offset=Affine.of(q[-1:], np.zeros((1, 1), int), (1,)),
        A=A,
        b=b,
        parameters=tuple(leaf for leaf, _ in leaves),
        order=tuple(k for _, k in leaves),
        variables=tuple(_variable(chain, inverse, program, variable) for variable in variables),
        duals=_multipliers(chain, inverse, program, duals),
        maximizes=any(type(step).__name__ == "FlipObjective" for step in chain.reductions),
        logarithmic=gp,
    )


# ---- The rules -------------------------------------------------------------------------------------------------------


def _check_rules(problem, gp):
    """Raise ``ValueError`` that names the smallest expression which breaks the rules."""
    kind = "log-log convex" if gp else "convex"
    follows = (lambda e, **how: e.is_dgp(**how)) if gp else (lambda e, **how: e.is_dcp(**how))
    if problem.is_mixed_integer():
        raise ValueError("problem has integer variables, which have no derivative with respect to parameters.")
    with _parametrized_quadratic_forms(gp):
        if follows(problem, dpp=True):
            return
        parts = [problem.objective, *problem.constraints]
        part = next((part for part in parts if not follows(part, dpp=True)), problem.objective)
        expression = part
        while (inner := _first_wrong(expression, follows)) is not None:
            expression = inner
    where = "" if expression is part else f", in {part}"
    if not follows(problem):
        raise ValueError(f"problem is not {kind} by the rules of CVXPY (DCP): {expression}{where}.")
    raise ValueError(
        "problem does not follow the rules of parametrized programs (DPP), by which every expression must be affine in "
        f"the parameters: {expression}{where}. Replace what is not affine, such as a product of parameters, by a new "
        "parameter, and compute its value in JAX."
    )


def _first_wrong(expression, follows):
    with contextlib.suppress(AttributeError):
        return next((arg for arg in expression.args if hasattr(arg, "is_dcp") and not follows(arg, dpp=True)), None)
    return None


def _parametrized_quadratic_forms(gp):
    """Within it ``quad_form(x, P)`` may have a parameter ``P``: solvers here take quadratic objectives."""
    from cvxpy.utilities import scopes

    scope = getattr(scopes, "quad_form_dpp_scope", None)
    return contextlib.nullcontext() if gp or scope is None else scope()


# ---- The conic program -----------------------------------------------------------------------------------------------


def _problem_data(cvxpy, problem, parameters, gp):
    """What CVXPY passes to SCS. It needs values of the parameters, which do not matter: they are put back."""
    before = [(parameter, parameter.value) for parameter in parameters]
    try:
        for parameter in parameters:
            if parameter.value is None:
                parameter.value = parameter.project(np.ones(parameter.shape))
        with warnings.catch_warnings(), _parametrized_quadratic_forms(gp):
            warnings.simplefilter("ignore")
            return problem.get_problem_data(cvxpy.SCS, gp=gp, enforce_dpp=True)
    finally:
        for parameter, value in before:
            parameter.value = value


def cones_of(dims: Any) -> Cones:
    """The cones, from the dimensions that CVXPY gives."""
    if getattr(dims, "pnd", None):
        raise ValueError("problem has power cones of more than three entries; write them as several of three.")
    return Cones(
        zero=int(dims.zero),
        nonneg=int(dims.nonneg),
        soc=tuple(int(size) for size in dims.soc),
        psd=tuple(int(order) for order in dims.psd),
        exp=int(dims.exp),
        power=tuple(float(alpha) for alpha in getattr(dims, "p3d", ())),
    )


def _rows(program):
    """The matrix and the right-hand side of the rows."""
    program.reduced_A.cache()
    if program.reduced_A.problem_data_index is None:  # there are no rows
        nothing, width = sparse.csr_matrix((0, program.total_param_size + 1)), program.q.shape[0] - 1
        return Affine.of(nothing, np.zeros((0, 2), int), (0, width)), Affine.of(nothing, np.zeros((0, 1), int), (0,))
    coefficients, (rows, starts, shape) = program.reduced_A.reduced_mat, program.reduced_A.problem_data_index
    m, width = int(shape[0]), int(shape[1]) - 1
    columns = np.repeat(np.arange(width + 1), np.diff(starts))
    coefficients = sparse.csr_matrix(coefficients)
    of_A, of_b = np.flatnonzero(columns < width), np.flatnonzero(columns == width)
    A = Affine.of(-coefficients[of_A], np.stack([rows[of_A], columns[of_A]], axis=1), (m, width))
    return A, Affine.of(coefficients[of_b], rows[of_b][:, None], (m,))


def _objective_matrix(program):
    program.reduced_P.cache()
    if program.reduced_P.problem_data_index is None:
        return None
    coefficients, (rows, starts, shape) = program.reduced_P.reduced_mat, program.reduced_P.problem_data_index
    coefficients = sparse.csr_matrix(coefficients)
    columns = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    if not (np.any(rows < columns) and np.any(rows > columns)):  # one triangle: the other one is the same
        other = np.flatnonzero(rows != columns)
        coefficients = sparse.vstack([coefficients, coefficients[other]])
        rows, columns = np.concatenate([rows, columns[other]]), np.concatenate([columns, rows[other]])
    return Affine.of(coefficients, np.stack([rows, columns], axis=1), shape)


# ---- Parameters, variables, multipliers ------------------------------------------------------------------------------


def _parameter(chain, program, parameter):
    """Where a parameter is; ``None`` if the problem does not depend on it."""
    index = np.arange(parameter.size).reshape(parameter.shape)
    leaf, logarithmic, symmetric = parameter, False, False
    for step in chain.reductions:
        replaced = getattr(step, "_parameters", None)
        if type(step).__name__ == "Dgp2Dcp":
            replaced, logarithmic = step.canon_methods._parameters, True
        elif replaced and leaf in replaced:
            from cvxpy.reductions.cvx_attr2constr import lower_value

            symmetric = leaf.is_symmetric() and leaf.ndim > 1
            index = np.asarray(lower_value(leaf, index))
        leaf = replaced.get(leaf, leaf) if replaced else leaf
    if leaf.id not in program.param_id_to_col:
        return None
    start = program.param_id_to_col[leaf.id]
    return Leaf(parameter.shape, start, index.ravel(order="F"), symmetric, logarithmic)


def _variable(chain, inverse, program, variable):
    """Where a variable is."""
    from cvxpy.reductions.cvx_attr2constr import recover_value_for_leaf

    leaf, logarithmic, recover = variable, False, None
    for step, known in zip(chain.reductions, inverse, strict=True):
        if type(step).__name__ == "Dgp2Dcp":
            leaf, logarithmic = step.canon_methods._variables[leaf], True
        elif type(step).__name__ == "CvxAttr2Constr" and known and leaf.id in known[0]:
            recover, leaf = leaf, known[0][leaf.id]
    if leaf.id not in program.var_id_to_col:
        raise ValueError(f"problem does not depend on the variable {variable.name()}, which then has no value.")
    places = 1.0 + np.arange(leaf.size).reshape(leaf.shape, order="F")
    if recover is not None:
        recovered: Any = recover_value_for_leaf(recover, places, project=False)
        places = recovered.toarray() if sparse.issparse(recovered) else recovered
    index = np.rint(np.asarray(places)).astype(int).reshape(variable.shape)
    return Leaf(variable.shape, program.var_id_to_col[leaf.id], index, False, logarithmic)


def _multipliers(chain, inverse, program, constraints):
    """The linear maps from multipliers of rows to those of constraints: what CVXPY makes of unit vectors."""
    if not constraints:
        return ()
    info = {"status_val": 1, "solve_time": 0.0, "setup_time": 0.0, "iter": 0, "pobj": 0.0}
    x, m = np.zeros(program.q.shape[0] - 1), program.constr_size
    images = [[] for _ in constraints]
    shapes: list[tuple] = [() for _ in constraints]
    for unit in np.eye(m):
        found = chain.invert({"info": info, "x": x, "y": unit, "s": unit}, inverse).dual_vars
        for k, constraint in enumerate(constraints):
            parts = _parts_of(constraint, found[constraint.id])
            shapes[k] = tuple(part.shape for part in parts)
            images[k].append(np.concatenate([part.ravel() for part in parts]))
    return tuple((shape, np.stack(image)) for shape, image in zip(shapes, images, strict=True))


def _parts_of(constraint, value):
    """The values of the dual variables of a constraint, which are put back."""
    before = [dual.value for dual in constraint.dual_variables]
    try:
        constraint.save_dual_value(value)
        return [np.asarray(dual.value, dtype=float) for dual in constraint.dual_variables]
    finally:
        for dual, old in zip(constraint.dual_variables, before, strict=True):
            dual.save_value(old)
