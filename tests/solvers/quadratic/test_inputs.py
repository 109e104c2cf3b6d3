"""What users pass in: it is taken as what it means, or refused with a sentence that names the argument."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
from jax.experimental import sparse
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import block_diag

import jaxsolve
from jaxsolve import Status

rng = np.random.default_rng(0)
M = rng.normal(size=(4, 4))
Q, c = M @ M.T + np.eye(4), rng.normal(size=4)
A, b, G, h = rng.normal(size=(1, 4)), np.array([0.3]), rng.normal(size=(2, 4)), np.array([0.1, -0.2])
lower, upper = np.full(4, -1.0), np.ones(4)


@functools.cache
def solution():
    """By SciPy."""
    rows = scipy.optimize.LinearConstraint(A, b, b), scipy.optimize.LinearConstraint(G, -np.inf, h)
    options = {"ftol": 1e-15, "maxiter": 500}
    bounds = scipy.optimize.Bounds(lower, upper)
    return scipy.optimize.minimize(
        lambda x: 0.5 * x @ Q @ x + c @ x, np.zeros(4), constraints=rows, bounds=bounds, options=options, method="SLSQP"
    ).x


def each(names, quick):
    """All of them, most only in the slow tests."""
    return [pytest.param(name, marks=[] if name in quick else pytest.mark.slow) for name in names]


# ---- Kinds of arrays ----------------------------------------------------------------------------------------------

SPARSE = (
    scipy.sparse.csc_matrix,
    scipy.sparse.csr_array,
    scipy.sparse.coo_matrix,
    scipy.sparse.dia_array,
    scipy.sparse.lil_matrix,
)
VECTORS = {"c": c, "b": b, "h": h, "l": lower, "u": upper}
KINDS = {
    "lists": (np.ndarray.tolist, np.ndarray.tolist),
    "lists of arrays": (list, list),
    "columns": (np.asarray, lambda v: v[:, None] if v is not c else v),
    "masked arrays without a mask": (np.ma.array, np.ma.array),
    "jax arrays in lists": (lambda m: [jnp.asarray(row) for row in m], lambda v: [jnp.asarray(x) for x in v]),
    **{kind.__name__: (kind, np.asarray) for kind in SPARSE},
}


@pytest.mark.parametrize("kind", each(KINDS, set(KINDS) - {"columns", "lil_matrix", "coo_matrix"}))
def test_solve_qp_takes_what_holds_numbers(kind):
    matrix, vector = KINDS[kind]
    data = {"Q": matrix(Q), "A": matrix(A), "G": matrix(G), **{name: vector(v) for name, v in VECTORS.items()}}
    result = jaxsolve.solve_qp(**data)
    assert int(result.status) == Status.CONVERGED and result.x.shape == (4,)
    np.testing.assert_allclose(result.x, solution(), atol=1e-6)


def box(solver, Q, A, G):
    return solver.run(None, (Q, c), G, (-10.0, h)).params.primal[0]


def standard(solver, Q, A, G):
    return solver.run(None, (Q, c), (A, b), (G, h)).params.primal


SOLVERS = {
    "OSQP": (jaxsolve.OSQP(tol=1e-8), standard),
    "BoxOSQP": (jaxsolve.BoxOSQP(tol=1e-8), box),
    "InteriorPointQP": (jaxsolve.InteriorPointQP(), box),
    "EqualityConstrainedQP": (
        jaxsolve.EqualityConstrainedQP(),
        lambda s, Q, A, G: s.run(None, (Q, c), (A, b)).params.primal,
    ),
    "BoxCDQP": (jaxsolve.BoxCDQP(tol=1e-9), lambda s, Q, A, G: s.run(None, (Q, c), (-0.2, 0.2)).params),
}


@pytest.mark.parametrize("name", each(SOLVERS, ("EqualityConstrainedQP", "BoxCDQP")))
def test_matrices_of_scipy_in_every_solver(name, compilations):
    """They stay arguments: other values compile nothing. Under ``jit`` they can be captured."""
    solver, run = SOLVERS[name]
    expected = run(solver, Q, A, G)
    as_sparse = scipy.sparse.csc_matrix
    np.testing.assert_allclose(run(solver, as_sparse(Q), as_sparse(A), as_sparse(G)), expected, atol=1e-6)
    count = compilations()
    run(solver, as_sparse(2 * Q), as_sparse(A), as_sparse(G))
    assert compilations() == count
    captured = jax.jit(lambda c: run(solver, as_sparse(Q), as_sparse(A), as_sparse(G)))(c)
    np.testing.assert_allclose(captured, expected, atol=1e-6)


def test_sparse_data_stay_sparse():
    shapes = jax.eval_shape(lambda: jaxsolve.solve_qp(scipy.sparse.eye(3000, format="csr"), jnp.ones(3000), l=0.0))
    assert shapes.method == "matrix_free"
    duplicates = scipy.sparse.coo_matrix(([1.0, 1.0, 2.0], ([0, 0, 1], [0, 0, 1])), shape=(2, 2))
    np.testing.assert_allclose(jaxsolve.solve_qp(duplicates, [-2.0, -4.0]).x, [1.0, 2.0], atol=1e-9)


@pytest.mark.slow
def test_the_state_before_the_first_iteration_and_the_optimality_condition():
    solver, data = jaxsolve.OSQP(tol=1e-8), ((Q.tolist(), c.tolist()), (A[0], 0.3), (scipy.sparse.csc_matrix(G), h))
    params = solver.run(None, *data).params
    assert float(solver.l2_optimality_error(params, *data)) < 1e-6
    _, state = solver.update(params, solver.init_state(params, *data), *data)
    assert int(state.status) == Status.CONVERGED


# ---- Shapes -------------------------------------------------------------------------------------------------------


ROWS = {
    "vector": A[0],
    "list": A[0].tolist(),
    "matrix": A,
    "list of vectors": [A[0]],
    "SciPy": scipy.sparse.csr_array(A),
}


@pytest.mark.parametrize("kind", each(ROWS, ("vector", "list", "matrix", "list of vectors")))
def test_one_row(kind):
    row = ROWS[kind]
    expected = jaxsolve.solve_qp(Q, c, A, b).x
    for side in (0.3, [0.3], b[:, None]) if kind == "vector" else (b,):
        result = jaxsolve.solve_qp(Q, c, row, side)
        np.testing.assert_allclose(result.x, expected, atol=1e-12)
        assert result.dual_eq.shape == (1,)


EMPTY = {"list": [], "array": np.array([]), "no rows": np.zeros((0, 4)), "nested": [[]], "no columns": np.zeros((0, 0))}


@pytest.mark.parametrize("kind", each(EMPTY, ("list",)))
def test_a_matrix_without_rows(kind):
    none, expected = EMPTY[kind], np.linalg.solve(Q, -c)
    for side in ([], 0.0):
        result = jaxsolve.solve_qp(Q, c, none, side)
        np.testing.assert_allclose(result.x, expected, atol=1e-9)
        assert result.dual_eq.shape == (0,)
    assert jaxsolve.solve_qp(Q, c, none, None).dual_eq is None


@pytest.mark.slow
def test_single_variables():
    for curvature, slope in ((2.0, -4.0), ([[2.0]], [-4.0]), ([2.0], [-4.0])):
        np.testing.assert_allclose(jaxsolve.solve_qp(curvature, slope).x, np.full(np.shape(slope), 2.0))
    column = jaxsolve.solve_qp([[2.0]], [-4.0], A=[1.0, 2.0], b=[1.0, 2.0])
    np.testing.assert_allclose(column.x, [1.0], atol=1e-8)


@pytest.mark.slow
def test_absent_bounds():
    x = jaxsolve.solve_qp(np.eye(3), [-3.0, 3.0, -3.0], l=[None, -1.0, None], u=[1, None, 2]).x
    np.testing.assert_allclose(x, [1.0, -1.0, 2.0], atol=1e-8)
    x = jaxsolve.InteriorPointQP().run(None, (np.eye(2), [-3, 3]), np.eye(2), (None, 1)).params.primal[0]
    np.testing.assert_allclose(x, [1.0, -3.0], atol=1e-8)


# ---- Dtypes -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_whole_numbers_have_the_precision_of_the_other_data():
    for costs in ([-2, -4], np.array([-2, -4]), jnp.array([-2, -4]), [-2.0, -4.0]):
        for dtype in (jnp.float32, jnp.float64):
            x = jaxsolve.solve_qp(jnp.eye(2, dtype=dtype), costs, A=np.array([[True, False]]), b=[10**10]).x
            assert x.dtype == dtype
            np.testing.assert_allclose(x, [1e10, 4.0], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_by_coordinate_descent_and_by_functions(dtype):
    """Iterates in half precision would meet no tolerance, and functions of them neither."""
    Q, c = jnp.asarray([[2.0, 0.5], [0.5, 1.0]], dtype), jnp.asarray([-1.0, 0.4], dtype)
    wide = [part.astype(jnp.float32) for part in (Q, c)]
    params, state = jaxsolve.BoxCDQP().run(None, (Q, c), (-1.0, 0.5))
    exact = jaxsolve.BoxCDQP().run(None, wide, (-1.0, 0.5)).params
    assert int(state.status) == Status.CONVERGED and params.dtype == dtype
    np.testing.assert_array_equal(params, exact.astype(dtype))
    slope = jax.grad(lambda c: jaxsolve.BoxCDQP().run(None, (Q, c), (-1.0, 0.5)).params[1])(c)
    assert slope.dtype == dtype
    np.testing.assert_allclose(slope.astype(float), [0, -1], atol=1e-2)
    solver = jaxsolve.BoxOSQP(matvec_Q=jnp.matmul, matvec_A=lambda p, x: p * x)
    params, state = solver.run(None, (Q, c), jnp.ones(2, dtype), (-1.0, 0.25))
    assert int(state.status) == Status.CONVERGED
    assert params.primal[0].dtype == params.dual_eq.dtype == dtype
    np.testing.assert_allclose(params.primal[0].astype(float), [0.25, -0.525], atol=4e-3)
    result = jaxsolve.linprog(c, A_ub=-jnp.ones((1, 2)), b_ub=[1], bounds=(-1, 1))
    assert bool(result.success) and result.x.dtype == result.slack.dtype == dtype
    np.testing.assert_allclose(result.x.astype(float), [1, -1], atol=1e-2)


@pytest.mark.parametrize("seed", range(3))
def test_default_tolerance_in_float32(seed):
    """The interior point reaches it; by the numbers of float64 it would go on to its last iteration."""
    rng = np.random.default_rng(seed)
    M, G = rng.normal(size=(4, 8)), rng.normal(size=(12, 8))
    data = (M.T @ M, rng.normal(size=8)), np.concatenate([G, np.eye(8)]), (-np.full(20, 2.0), np.ones(20))
    data = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), data)
    params, state = jaxsolve.InteriorPointQP().run(None, *data)
    assert params.primal[0].dtype == jnp.float32
    assert int(state.status) == Status.CONVERGED and int(state.iter_num) < 30 and float(state.error) <= 1e-5


def test_default_tolerance_in_float64():
    state = jaxsolve.InteriorPointQP().run(None, (Q, c), G, (-1.0, h)).state
    assert float(state.error) <= 1e-8
    assert jaxsolve.InteriorPointQP().tol is None and repr(jaxsolve.InteriorPointQP()) == "InteriorPointQP()"


# ---- Pytrees of matrices ------------------------------------------------------------------------------------------


def tree_problem():
    def block(n, m, seed):
        rng = np.random.default_rng(seed)
        M, x = rng.normal(size=(n, n)), rng.normal(size=n)
        A, G = rng.normal(size=(1, n)), rng.normal(size=(m, n))
        return M @ M.T + np.eye(n), rng.normal(size=n), A, A @ x, G, G @ x + 0.1

    blocks = {"u": block(2, 1, 0), "v": block(3, 2, 1)}
    return [{name: jnp.asarray(block[i]) for name, block in blocks.items()} for i in range(6)]


def as_one(tree, vector):
    return jnp.concatenate(jax.tree.leaves(tree)) if vector else block_diag(*jax.tree.leaves(tree))


FORMS = {
    "OSQP": lambda Q, c, A, b, G, h: jaxsolve.OSQP(tol=1e-9).run(None, (Q, c), (A, b), (G, h)),
    "BoxOSQP": lambda Q, c, A, b, G, h: jaxsolve.BoxOSQP(tol=1e-9).run(None, (Q, c), G, (-jnp.inf, h)),
    "EqualityConstrainedQP": lambda Q, c, A, b, G, h: jaxsolve.EqualityConstrainedQP().run(None, (Q, c), (A, b)),
}


@pytest.mark.parametrize("form", each(FORMS, ("EqualityConstrainedQP",)))
def test_block_diagonal_problems(form):
    """Solution, multipliers and the derivative in every leaf are those of the problem in one block."""
    tree = tree_problem()
    flat = [as_one(part, vector=i % 2 == 1) for i, part in enumerate(tree)]

    @jax.jit
    def both(data):
        params = FORMS[form](*data).params
        return params, jax.grad(lambda data: jnp.sin(ravel_pytree(FORMS[form](*data).params)[0]).sum())(data)

    params, slopes = both(tree)
    expected, expected_slopes = both(flat)
    np.testing.assert_allclose(ravel_pytree(params)[0], ravel_pytree(expected)[0], atol=1e-8)
    primal = params.primal[0] if form == "BoxOSQP" else params.primal
    assert jax.tree.map(jnp.shape, primal) == {"u": (2,), "v": (3,)}
    rows = params.dual_eq if form == "BoxOSQP" else params.dual_ineq
    assert form == "EqualityConstrainedQP" or jax.tree.map(jnp.shape, rows) == {"u": (1,), "v": (2,)}
    for i, (slope, other) in enumerate(zip(slopes, expected_slopes, strict=True)):
        if i % 2:
            np.testing.assert_allclose(as_one(slope, vector=True), other, atol=1e-6)
        else:
            mask = block_diag(*[jnp.ones_like(leaf) for leaf in jax.tree.leaves(slope)])
            np.testing.assert_allclose(as_one(slope, vector=False), mask * other, atol=1e-6)


@pytest.mark.slow
def test_sparse_blocks_and_blocks_of_scipy():
    Q, c, *_ = tree_problem()
    expected = ravel_pytree(jaxsolve.solve_qp(Q, c, l=-1.0).x)[0]
    padded = sparse.BCOO.fromdense(Q["u"], nse=7)  # its last three entries lie outside
    for other in (padded, scipy.sparse.csr_matrix(Q["u"])):
        x = jaxsolve.solve_qp({**Q, "u": other}, c, l={"u": -1.0, "v": -np.ones(3)}).x
        np.testing.assert_allclose(ravel_pytree(x)[0], expected, atol=1e-8)


def test_hessians_and_jacobians_of_pytrees():
    def objective(x):
        return jnp.sum(x["u"] ** 2) + 0.5 * x["v"] ** 2 - x["u"][0] * x["v"] + 3 * x["v"]

    def rows(x):
        return {"p": x["u"] - x["v"], "q": x["u"].sum() + x["v"]}

    zero = {"u": jnp.zeros(2), "v": jnp.zeros(())}
    Q, c, A = jax.hessian(objective)(zero), jax.grad(objective)(zero), jax.jacobian(rows)(zero)
    result = jaxsolve.solve_qp(Q, c, A, {"p": jnp.asarray([0.5, 1.0]), "q": 0.2})
    assert jax.tree.map(jnp.shape, result.x) == {"u": (2,), "v": ()}
    np.testing.assert_allclose(ravel_pytree(rows(result.x))[0], [0.5, 1.0, 0.2], atol=1e-9)
    force = jax.vjp(rows, result.x)[1](result.dual_eq)[0]
    gradient = jax.tree.map(jnp.add, jax.grad(objective)(result.x), force)
    np.testing.assert_allclose(ravel_pytree(gradient)[0], 0, atol=1e-9)


def test_matrices_of_variables():
    """One matrix multiplies all columns: ``Q @ X`` and ``A @ X``."""
    X = rng.normal(size=(4, 2))
    params = jaxsolve.EqualityConstrainedQP().run(None, (Q, X), (A, np.array([[0.1, 0.2]]))).params
    assert params.primal.shape == (4, 2) and params.dual_eq.shape == (1, 2)
    for i in range(2):
        one = jaxsolve.EqualityConstrainedQP().run(None, (Q, X[:, i]), (A, [0.1 * (i + 1)])).params
        np.testing.assert_allclose(params.primal[:, i], one.primal, atol=1e-9)
        np.testing.assert_allclose(params.dual_eq[:, i], one.dual_eq, atol=1e-9)


def test_many_blocks_are_sparse():
    many, costs = [jnp.eye(300)] * 10, [jnp.ones(300)] * 10
    assert jax.eval_shape(lambda: jaxsolve.solve_qp(many, costs, l=0.0)).method == "matrix_free"


# ---- Linear programs ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_linprog_takes_what_scipy_takes():
    costs, rows, limits = [-1, 2.0, 0.5], [[1, 1, 1], [-1, 0.5, 0]], [4, 1]
    limits_of_x = [(0, 3), (-1, None), (None, 5)]
    expected = scipy.optimize.linprog(costs, rows, limits, [[1, 0, 1]], 2, bounds=limits_of_x)
    sides = [0, -1, -np.inf], [3, np.inf, 5]
    for bounds in (limits_of_x, np.array(limits_of_x, dtype=object), scipy.optimize.Bounds(*sides)):
        column = np.array(costs)[:, None]
        result = jaxsolve.linprog(column, scipy.sparse.csr_matrix(rows), limits, [1, 0, 1], 2, bounds=bounds)
        np.testing.assert_allclose(result.fun, expected.fun, atol=1e-7)
        np.testing.assert_allclose(result.x, expected.x, atol=1e-6)
        assert result.slack.shape == (2,) and result.con.shape == (1,)
    free = jaxsolve.linprog(1.0, [-1.0], -2.0, bounds=[])
    np.testing.assert_allclose(free.x, [2.0], atol=1e-7)


# ---- What is refused ----------------------------------------------------------------------------------------------

REFUSED = {
    "A must be a matrix, got shape": {"A": np.ones(3), "b": 1.0},
    "A must have one column for each of the 4": {"A": np.ones((2, 3)), "b": 1.0},
    "A must be real": {"A": 1j * np.ones((1, 4)), "b": 1.0},
    "A must be a matrix; the lists": {"A": [[1, 2, 3, 4], [5]], "b": 1.0},
    "A must be a matrix of numbers": {"A": np.array([["a"] * 4]), "b": 1.0},
    "A must be a matrix, got str": {"A": "A", "b": 1.0},
    "A must be a matrix, got a .*LinearOperator": {"A": scipy.sparse.linalg.aslinearoperator(A), "b": 1.0},
    "A must be a matrix of numbers, got an entry": {"A": [[1, None, 1, 1]], "b": 1.0},
    "A must be a matrix, a pytree": {"A": {}, "b": 1.0},
    "A and b belong together": {"A": A},
    "G and h belong together": {"h": h},
    "G is a masked array": {"G": np.ma.array(G, mask=G < 0), "h": h},
    "b must have 1 entries": {"A": A, "b": [1.0, 2.0]},
    "h must have 2 entries": {"G": G, "h": np.ones((1, 1))},
    "h must be a vector of numbers": {"G": G, "h": ["1", "2"]},
    "l must have 4 entries.*shape .2, 2": {"l": np.zeros((2, 2))},
    "u must have 4 entries": {"u": [None, 1.0]},
    "Q must be square": {"Q": np.ones(4)},
    "Q must be a matrix, got shape ()": {"Q": 2.0},
    "c must be real": {"c": 1j * c},
    "c must have at least one entry": {"c": []},
    "c must be a vector": {"c": "c"},
    "c must be a vector or a pytree": {"c": None},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused(message):
    with pytest.raises((TypeError, ValueError), match=message):
        jaxsolve.solve_qp(**{"Q": Q, "c": c, **REFUSED[message]})


def test_what_is_refused_of_pytrees():
    Q, c, A, b, *_ = tree_problem()
    for message, data in {
        "b must have 2 entries.*leaves": {"A": A, "b": {"u": jnp.ones(2), "v": jnp.ones(1)}},
        "A must be a matrix, a pytree": {"A": {"u": A["u"]}, "b": 1.0},
        "A must have matrices with a column": {"A": {"u": A["v"], "v": A["u"]}, "b": 1.0},
        "A must have matrices": {"A": c, "b": 1.0},
        "l must have 5 entries": {"l": {"u": jnp.ones(3), "v": 0.0}},
        "Q must be square": {"Q": {**Q, "v": Q["v"][:2]}},
    }.items():
        with pytest.raises(ValueError, match=message):
            jaxsolve.solve_qp(**{"Q": Q, "c": c, **data})


def test_what_linprog_refuses():
    for message, data in {
        "A_ub must be a matrix": {"A_ub": np.ones(3), "b_ub": 1.0},
        "b_eq must have 1 entries": {"A_eq": A, "b_eq": [1, 2]},
        "A_eq and b_eq belong together": {"A_eq": A},
        "c must be a vector with": {"c": np.ones((2, 2))},
        "the lower bounds must have 4": {"bounds": scipy.optimize.Bounds(0, [1, 2])},
    }.items():
        with pytest.raises(ValueError, match=message):
            jaxsolve.linprog(**{"c": c, **data})


# ---- Signatures ---------------------------------------------------------------------------------------------------


def test_run_shows_its_arguments():
    three = ["init_params", "params_obj", "params_eq", "params_ineq"]
    solvers = ("OSQP", "BoxOSQP", "InteriorPointQP", "CvxpyQP", "ExternalOSQP")
    wanted = dict.fromkeys(solvers, three) | {
        "EqualityConstrainedQP": three[:3],
        "BoxCDQP": ["init_params", "params_obj", "params_ineq"],
    }
    for name, arguments in wanted.items():
        solver = getattr(jaxsolve, name)
        parameters = inspect.signature(solver.run).parameters
        assert list(parameters) == ["self", *arguments]
        assert all(parameters[argument].default is None for argument in arguments)
        assert list(inspect.signature(solver().run).parameters) == arguments
        assert all(argument in inspect.getdoc(solver.run) for argument in arguments)


def test_arguments_by_name_run_the_same_program(compilations):
    solver = jaxsolve.EqualityConstrainedQP()
    expected = solver.run(None, (Q, c), (A, b)).params.primal
    count = compilations()
    found = solver.run(params_eq=(A, b), params_obj=(Q, c), init_params=None).params.primal
    np.testing.assert_array_equal(found, expected)
    assert compilations() == count
    with pytest.raises(TypeError, match="params_ineq"):
        solver.run(None, (Q, c), params_ineq=(G, h))


# ---- Functions ----------------------------------------------------------------------------------------------------


class Product:
    def __init__(self, matrix):
        self.matrix = matrix

    def __call__(self, x):
        return self.matrix @ x

    def times(self, x):
        return self.matrix @ x


def product(x):
    return Q @ x


def jitted(Q):
    return jax.jit(lambda x: Q @ x)


def curvature(Q):
    return lambda v: jax.jvp(jax.grad(lambda x: 0.5 * x @ Q @ x), (jnp.zeros(4),), (v,))[1]


def in_a_loop(Q):
    return lambda x: jax.lax.map(lambda row: row @ x, jnp.asarray(Q))


FUNCTIONS = {
    "the same function": lambda Q: product,
    "equal functions": lambda Q: lambda x: Q @ x,
    "objects": Product,
    "methods": lambda Q: Product(Q).times,
    "partials": lambda Q: functools.partial(jnp.matmul, Q),
    "compiled functions": jitted,
    "Hessian products": curvature,
    "loops": in_a_loop,
    "linear maps of jax": lambda Q: jax.linearize(lambda x: Q @ x, c)[1],
}


@pytest.mark.parametrize("kind", each(FUNCTIONS, ("the same function", "equal functions")))
def test_functions_compile_once(kind, compilations):
    """New but equal functions compile nothing, and neither do such with other arrays."""
    one, two = (jnp.asarray(factor * Q) for factor in (1.0, 2.0))
    functions = [FUNCTIONS[kind](matrix) for matrix in (one, one, two)]

    def solve(function):
        return jaxsolve.solve_qp(function, c, l=-0.2, tol=1e-2, maxiter=5)

    solve(functions[0])
    count = compilations()
    solve(functions[1])
    assert compilations() == count
    if kind != "compiled functions":  # jax keeps what these captured as constants of the program
        solve(functions[2])
        assert compilations() == count
    jax.jit(lambda x: x + len(kind))(0)  # what counts does count
    assert compilations() == count + 1


@pytest.mark.slow
def test_new_but_equal_solvers_compile_once(compilations):
    def solve():
        solver = jaxsolve.BoxOSQP(matvec_Q=lambda params, x: params @ x, tol=1e-2)
        return solver.run(None, (Q, c), G, (-jnp.inf, h)).params

    solve()
    count = compilations()
    solve()
    assert compilations() == count
